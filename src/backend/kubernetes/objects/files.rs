//! What the containers of a node find mounted: its files, its keys, and what each supervisor is told.

use std::collections::BTreeMap;
use std::path::{Component as Part, Path, PathBuf};

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{Options, control_port, image_of, in_pod, pod};
use crate::agent::node_trouble;
use crate::agent::supervise::protocol::{PROTOCOL, Spec, SpecFile, SpecLink};
use crate::backend::{Addresses, Component, LinkId, LinkShape, NodeSpec, Trouble};

/// The most that one ConfigMap or Secret holds, in bytes (`MaxSecretSize` of the API).
const MOST: usize = 1024 * 1024;

/// What is mounted into the containers of a node.
pub(super) struct Mounted {
    /// Files that are no secrets, by their key.
    pub(super) files: BTreeMap<String, Vec<u8>>,
    /// Keys, by their key.
    pub(super) secrets: BTreeMap<String, Vec<u8>>,
    /// What the supervisors are told, by the name of the file.
    pub(super) specs: BTreeMap<String, String>,
}

impl Mounted {
    pub(super) fn of(
        spec: &NodeSpec,
        addresses: &Addresses,
        links: &[LinkId],
        options: &Options,
    ) -> Result<Self, Trouble> {
        let mut mounted = Self {
            files: BTreeMap::new(),
            secrets: BTreeMap::new(),
            specs: BTreeMap::new(),
        };
        for (index, component) in spec.components.iter().enumerate() {
            let supervised = Spec {
                protocol: PROTOCOL,
                run: options.run.clone(),
                node: spec.name.clone(),
                component: component.name.clone(),
                version: component.version.clone(),
                own: options.own.clone(),
                program: image_of(spec, component, options)?.program.clone().map(PathBuf::from),
                args: component.args.clone(),
                env: environment(spec, component),
                home: home(spec),
                volumes: spec.volumes.iter().map(|volume| pod::volume_path(volume)).collect(),
                files: mounted.take_files(spec, component)?,
                links: dialled(spec, index, addresses, links)?,
                control: control_port(index),
                state: in_pod(&[pod::STATE, &component.name]),
                started: spec.started,
                lease: options.lease,
                shapes: suffered(spec, component, options),
            };
            let text = serde_json::to_string_pretty(&supervised).expect("a spec has only text keys");
            mounted.specs.insert(spec_file(&component.name), text);
        }
        let plain: usize = mounted.files.values().map(Vec::len).sum();
        let told: usize = mounted.specs.values().map(String::len).sum();
        let secret: usize = mounted.secrets.values().map(Vec::len).sum();
        for (kind, size) in [("ConfigMap", plain + told), ("Secret", secret)] {
            if size > MOST {
                return Err(node_trouble(
                    "infra/object-too-large",
                    &spec.name,
                    format!("files that fit into one {kind}: at most {MOST} bytes"),
                    format!(
                        "{size} bytes; make its files smaller, for example by fewer accounts in the genesis, or bring them in the image"
                    ),
                ));
            }
        }
        Ok(mounted)
    }

    /// Takes over the files of a component; gives what its supervisor is told of them.
    fn take_files(&mut self, spec: &NodeSpec, component: &Component) -> Result<Vec<SpecFile>, Trouble> {
        let take = |file: &crate::backend::File| {
            let inside = |part: Part<'_>| matches!(part, Part::Normal(_) | Part::CurDir);
            if !spec.volumes.contains(&file.volume) || !file.path.components().all(inside) {
                return Err(node_trouble(
                    "infra/home",
                    &spec.name,
                    format!("a file in one of the volumes {}", spec.volumes.join(", ")),
                    format!("{} of {}: the path leads out of it", file.path.display(), file.volume),
                ));
            }
            let key = format!("f{}", self.files.len() + self.secrets.len());
            let (kept, folder) = if file.secret {
                (&mut self.secrets, pod::SECRETS)
            } else {
                (&mut self.files, pod::FILES)
            };
            let from = in_pod(&[folder, &key]);
            kept.insert(key, file.content.clone());
            Ok(SpecFile {
                from,
                to: pod::volume_path(&file.volume).join(&file.path),
                secret: file.secret,
                write: file.write,
            })
        };
        component.files.iter().map(take).collect()
    }

    pub(super) fn config_map(&self, metadata: ObjectMeta) -> ConfigMap {
        let mut data = self.specs.clone();
        let mut binary = BTreeMap::new();
        for (key, content) in &self.files {
            match str::from_utf8(content) {
                Ok(text) => drop(data.insert(key.clone(), text.to_owned())),
                Err(_) => drop(binary.insert(key.clone(), ByteString(content.clone()))),
            }
        }
        ConfigMap {
            metadata,
            data: Some(data),
            binary_data: Some(binary).filter(|binary| !binary.is_empty()),
            immutable: None,
        }
    }

    pub(super) fn secret(&self, metadata: ObjectMeta) -> Option<Secret> {
        let data = self
            .secrets
            .iter()
            .map(|(key, content)| (key.clone(), ByteString(content.clone())));
        (!self.secrets.is_empty()).then(|| Secret {
            metadata,
            data: Some(data.collect()),
            type_: Some("Opaque".into()),
            ..Secret::default()
        })
    }
}

/// The name of the file that a component's supervisor is given.
pub(super) fn spec_file(component: &str) -> String {
    format!("{component}.json")
}

/// Where the processes of a node start: in its first volume, since the folder above belongs to root.
fn home(spec: &NodeSpec) -> PathBuf {
    match spec.volumes.first() {
        Some(volume) => pod::volume_path(volume),
        None => Path::new("/").join(pod::STATE),
    }
}

fn environment(spec: &NodeSpec, component: &Component) -> BTreeMap<String, String> {
    let mut env = BTreeMap::from([("HOME".to_owned(), home(spec).display().to_string())]);
    env.extend(component.env.clone());
    env
}

/// What the links that a component dials suffer from the beginning.
fn suffered(spec: &NodeSpec, component: &Component, options: &Options) -> Vec<LinkShape> {
    let own = |shape: &&LinkShape| shape.link.from == spec.name && component.ports.contains(&shape.link.port);
    options.shapes.iter().filter(own).cloned().collect()
}

/// The links that a component dials: those to a port of which it has one itself. What no component has falls to the first.
fn dialled(spec: &NodeSpec, index: usize, addresses: &Addresses, links: &[LinkId]) -> Result<Vec<SpecLink>, Trouble> {
    let dials = |link: &&LinkId| {
        let has = |component: &Component| component.ports.contains(&link.port);
        link.from == spec.name && spec.components.iter().position(has).unwrap_or(0) == index
    };
    let told = links.iter().filter(dials).map(|link| {
        let listen = addresses.links.get(link);
        let port = addresses.nodes.get(&link.to).and_then(|to| to.ports.get(&link.port));
        match (listen, port) {
            (Some(listen), Some(port)) => Ok(SpecLink {
                link: link.clone(),
                listen: *listen,
                host: link.to.clone(),
                port: *port,
            }),
            _ => Err(node_trouble(
                "infra/render",
                &spec.name,
                format!("an address for its link to {} ({})", link.to, link.port),
                "none was reserved",
            )),
        }
    });
    told.collect()
}
