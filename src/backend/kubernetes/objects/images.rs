//! Which image each component of a network runs in.

use std::collections::BTreeMap;
use std::path::Path;

use super::Image;
use crate::agent::{node_trouble, trouble};
use crate::backend::kubernetes::image::{self, Made, Own};
use crate::backend::local::find_program;
use crate::backend::{NodeSpec, Program, Trouble};
use crate::model::{Kubernetes, NodeName, PullPolicy};

/// The images of a network, and those of them that are made of programs of this machine.
#[derive(Clone, Debug)]
pub struct Images {
    /// Trialnet's own, as it is made here.
    pub own: Own,
    /// The same as pods name it.
    pub own_image: Image,
    /// What else is made here, by the program as the specs name it.
    pub made: BTreeMap<String, Made>,
    /// The image of each component that is not trialnet itself, by node and component.
    pub images: BTreeMap<(NodeName, String), Image>,
}

impl Images {
    /// Of trialnet's executable and of the programs that are found on this machine; clusters into which nothing can be loaded (`loads` is
    /// false) pull what the settings and the versions name. Nothing is written or loaded yet.
    ///
    /// # Errors
    /// As [`images_of`] and [`own_pulled`]; a program that cannot be made an image of.
    pub fn of(specs: &[NodeSpec], settings: &Kubernetes, loads: bool, exe: &Path) -> Result<Self, Trouble> {
        let own = image::of_self(exe)?;
        let own_image = if loads {
            Image {
                name: own.made.tag.clone(),
                program: None,
                pull: PullPolicy::Never,
            }
        } else {
            own_pulled(settings)?
        };
        let mut all = Self {
            own,
            own_image,
            made: BTreeMap::new(),
            images: BTreeMap::new(),
        };
        all.images = all.also(specs, settings, loads)?;
        Ok(all)
    }

    /// Of further nodes; what is made for them is made besides, each program once.
    ///
    /// # Errors
    /// As [`Images::of`].
    pub fn also(
        &mut self,
        specs: &[NodeSpec],
        settings: &Kubernetes,
        loads: bool,
    ) -> Result<BTreeMap<(NodeName, String), Image>, Trouble> {
        images_of(specs, settings.pull_policy, loads, |binary| {
            let Some(path) = find_program(binary).filter(|_| loads) else {
                return Ok(None);
            };
            let one = match self.made.get(binary) {
                Some(known) => known.clone(),
                None => image::of_program(&path)?,
            };
            let image = Image {
                name: one.tag.clone(),
                program: Some(one.program.clone()),
                pull: PullPolicy::Never,
            };
            self.made.insert(binary.to_owned(), one);
            Ok(Some(image))
        })
    }
}

/// Trialnet's own image where the cluster has to pull it.
///
/// # Errors
/// `infra/image-name` when the settings do not say what it is called.
pub fn own_pulled(settings: &Kubernetes) -> Result<Image, Trouble> {
    let Some(name) = &settings.own_image else {
        return Err(trouble(
            NAMELESS,
            "a name by which the cluster can pull trialnet's own image, since nothing can be loaded into it from here",
            "[backend.kubernetes] has no `own_image`; `trialnet image --name REGISTRY/trialnet:TAG --output trialnet.tar` writes the image, \
             push it, and say `own_image = \"REGISTRY/trialnet:TAG\"`",
        ));
    };
    Ok(Image {
        name: name.clone(),
        program: None,
        pull: settings.pull_policy.unwrap_or(PullPolicy::IfNotPresent),
    })
}

/// An image has no name that the cluster could pull.
const NAMELESS: &str = "infra/image-name";

/// The image of each component that is not trialnet itself, by node and component. `made` gives the image that was made of a program
/// of this machine, `None` where there is no such program or the cluster takes no images from here; each program is asked for once, and
/// not for a version that is an image and no program. What is not made comes from a registry, pulled as `pull` says, else if it is not
/// present. `loads` says whether the cluster takes images from here at all, for the words of what is missing.
///
/// # Errors
/// A program of which there is neither, and how to get it; what goes wrong in `made`.
pub fn images_of(
    specs: &[NodeSpec],
    pull: Option<PullPolicy>,
    loads: bool,
    mut made: impl FnMut(&str) -> Result<Option<Image>, Trouble>,
) -> Result<BTreeMap<(NodeName, String), Image>, Trouble> {
    let mut known: BTreeMap<&str, Option<Image>> = BTreeMap::new();
    let mut images = BTreeMap::new();
    for (spec, component) in specs
        .iter()
        .flat_map(|spec| spec.components.iter().map(move |one| (spec, one)))
    {
        let Program::Chain {
            binary,
            image,
            program,
            hint,
        } = &component.program
        else {
            continue;
        };
        let made = match binary.as_deref() {
            None => None,
            Some(binary) => match known.get(binary) {
                Some(made) => made.clone(),
                None => {
                    let made = made(binary)?;
                    known.insert(binary, made.clone());
                    made
                }
            },
        };
        let pulled = || {
            image.as_ref().map(|name| Image {
                name: name.clone(),
                program: Some(program.clone()),
                pull: pull.unwrap_or(PullPolicy::IfNotPresent),
            })
        };
        let Some(image) = made.or_else(pulled) else {
            let wanted = binary.as_deref().unwrap_or(program);
            if !loads {
                return Err(nameless(&spec.name, &component.version, wanted, program));
            }
            return Err(node_trouble(
                "infra/program-missing",
                &spec.name,
                format!("the program {wanted} on this machine, or an image that has it"),
                format!(
                    "neither: {hint}; or say `[versions.\"{}\"] image = \"…\"`",
                    component.version
                ),
            ));
        };
        images.insert((spec.name.clone(), component.name.clone()), image);
    }
    Ok(images)
}

/// That a version is a program of this machine only.
fn nameless(node: &str, version: &str, binary: &str, program: &str) -> Trouble {
    let name = format!("REGISTRY/{program}:TAG");
    node_trouble(
        NAMELESS,
        node,
        format!(
            "a name by which the cluster can pull the version {version}, since nothing can be loaded into it from here"
        ),
        format!(
            "it is the program {binary} of this machine; `trialnet image {binary} --as {program} --name {name} --output {program}.tar` writes \
             its image, push it, and say `[versions.\"{version}\"] image = \"{name}\"`"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::kubernetes::objects::tests::{component, node};

    fn chain(binary: &str, image: Option<&str>) -> Program {
        Program::Chain {
            binary: Some(binary.into()),
            image: image.map(str::to_owned),
            program: "chaind".into(),
            hint: "make it".into(),
        }
    }

    fn specs(program: Program) -> Vec<NodeSpec> {
        let one = |name: &str| {
            let mut component = component("core");
            component.program = program.clone();
            node(name, vec![component])
        };
        vec![one("a-0"), one("a-1")]
    }

    #[test]
    fn what_is_made_goes_before_what_is_pulled_and_is_made_once() {
        let specs = specs(chain("chaind-1", Some("chain/chaind:1")));
        let own = Image {
            name: "trialnet.local/chaind:0".into(),
            program: Some("/bin/chaind".into()),
            pull: PullPolicy::Never,
        };
        let mut asked = 0;
        let images = images_of(&specs, None, true, |_| {
            asked += 1;
            Ok(Some(own.clone()))
        })
        .unwrap();
        assert_eq!((asked, images.len()), (1, 2));
        assert_eq!(images[&("a-1".to_owned(), "core".to_owned())], own);
        let images = images_of(&specs, Some(PullPolicy::Always), false, |_| Ok(None)).unwrap();
        let pulled = &images[&("a-0".to_owned(), "core".to_owned())];
        assert_eq!(pulled.name, "chain/chaind:1");
        assert_eq!(
            pulled.program.as_deref(),
            Some("chaind"),
            "the image's program has no version in its name"
        );
        assert_eq!(pulled.pull, PullPolicy::Always);
    }

    #[test]
    fn a_program_without_an_image_is_named_with_the_way_to_get_it() {
        let specs_of = |binary| specs(chain(binary, None));
        let trouble = images_of(&specs_of("chaind"), None, true, |_| Ok(None)).unwrap_err();
        assert_eq!(trouble.code, "infra/program-missing");
        assert!(trouble.seen.contains("make it"), "{trouble}");
        let trouble = images_of(&specs_of("chaind-1"), None, false, |_| Ok(None)).unwrap_err();
        assert_eq!(trouble.code, "infra/image-name");
        assert!(
            trouble
                .seen
                .contains("trialnet image chaind-1 --as chaind --name REGISTRY/chaind:TAG"),
            "{trouble}"
        );
        assert_eq!(
            images_of(&specs(Program::Trialnet), None, true, |_| Ok(None)),
            Ok(BTreeMap::new())
        );
    }

    #[test]
    fn trialnets_own_image_is_pulled_by_its_name() {
        let mut settings = Kubernetes::default();
        let trouble = own_pulled(&settings).unwrap_err();
        assert_eq!(trouble.code, "infra/image-name");
        assert!(trouble.seen.contains("trialnet image --name"), "{trouble}");
        settings.own_image = Some("here/trialnet:1".into());
        let image = own_pulled(&settings).unwrap();
        assert_eq!(
            (image.name.as_str(), image.pull),
            ("here/trialnet:1", PullPolicy::IfNotPresent)
        );
        settings.pull_policy = Some(PullPolicy::Always);
        assert_eq!(own_pulled(&settings).unwrap().pull, PullPolicy::Always);
    }

    #[test]
    fn a_version_that_is_an_image_takes_no_program_of_this_machine() {
        let specs = specs(Program::Chain {
            binary: None,
            image: Some("chain/chaind:1".into()),
            program: "chaind".into(),
            hint: String::new(),
        });
        let images = images_of(&specs, None, true, |_| panic!("nobody asks")).unwrap();
        assert_eq!(images[&("a-0".to_owned(), "core".to_owned())].name, "chain/chaind:1");
    }
}
