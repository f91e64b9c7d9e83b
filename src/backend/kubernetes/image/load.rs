//! Getting images into the nodes of a cluster, where they are missing.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;
use std::time::Duration;

use futures::future::try_join_all;

use super::Made;
use crate::agent::{registry, trouble};
use crate::backend::Trouble;
use crate::backend::kubernetes::command::Call;
use crate::backend::kubernetes::provider::Cluster;
use crate::env;
use crate::model::Provider;

/// The code of all trouble here.
const CODE: &str = "infra/image-load";
/// minikube's program.
const MINIKUBE: &str = "minikube";
/// For a question to docker or minikube.
const ASK_LIMIT: Duration = Duration::from_secs(20);
/// For one image on one node. A node on a busy machine unpacks a hundred megabytes in several seconds.
const LOAD_LIMIT: Duration = Duration::from_secs(120);

/// Loads those of the images that the cluster's nodes do not have yet; the nodes in parallel. Any number of trialnets may do so at once. Dropping it leaves
/// no process; a node then has an image or not.
///
/// # Errors
/// `infra/image-load`, with the words of the program that failed; also for a cluster that takes images from a registry only.
pub async fn load(cluster: &Cluster, images: &[Made]) -> Result<(), Trouble> {
    if images.is_empty() {
        return Ok(());
    }
    match cluster.provider {
        Provider::Kind => kind(&env::kind_provider(), &cluster.name, images).await,
        Provider::Minikube => minikube(MINIKUBE, &cluster.name, images).await,
        Provider::Existing => {
            let tags: Vec<_> = images.iter().map(|image| image.tag.as_str()).collect();
            Err(trouble(
                CODE,
                format!(
                    "the cluster of the context {} has the images {}",
                    cluster.context,
                    tags.join(", ")
                ),
                "they are made from programs of this machine, and only the nodes of kind and minikube take such images; name an `image` that the cluster can pull",
            ))
        }
    }
}

/// Whether images could be loaded, and how; nothing is loaded.
///
/// # Errors
/// As [`load`].
pub async fn reaches(cluster: &Cluster) -> Result<String, Trouble> {
    match cluster.provider {
        Provider::Kind => {
            let docker = env::kind_provider();
            let nodes = kind_nodes(&docker, &cluster.name).await?;
            Ok(format!(
                "made from programs here and loaded through {docker} into {}",
                nodes.join(", ")
            ))
        }
        Provider::Minikube => {
            Call::new(CODE, MINIKUBE, &["image", "ls", "-p", &cluster.name], ASK_LIMIT)
                .output()
                .await?;
            Ok("made from programs here and loaded through minikube".to_owned())
        }
        Provider::Existing => Ok(
            "pulled by the cluster: versions have to name an `image`, and [backend.kubernetes] an `own_image`"
                .to_owned(),
        ),
    }
}

async fn kind(docker: &str, cluster: &str, images: &[Made]) -> Result<(), Trouble> {
    let nodes = kind_nodes(docker, cluster).await?;
    let missing = |node: String| async move {
        let args = ["exec", &node, "ctr", "-n", "k8s.io", "images", "ls", "-q"];
        let there = Call::new(CODE, docker, &args, ASK_LIMIT).output().await?;
        let there: BTreeSet<&str> = there.lines().map(str::trim).collect();
        let missing: Vec<Made> = images
            .iter()
            .filter(|image| !there.contains(image.tag.as_str()))
            .cloned()
            .collect();
        Ok::<_, Trouble>((node, missing))
    };
    let look = |nodes: Vec<String>| async { try_join_all(nodes.into_iter().map(&missing)).await };
    let absent = |found: &[(String, Vec<Made>)]| -> Vec<String> {
        let absent = found.iter().filter(|(_, images)| !images.is_empty());
        absent.map(|(node, _)| node.clone()).collect()
    };
    let nodes = absent(&look(nodes).await?);
    if nodes.is_empty() {
        return Ok(());
    }
    // One trialnet of this machine loads, the others find the images there.
    let _lock = lock(cluster).await?;
    let found = look(nodes).await?;
    try_join_all(found.into_iter().map(|(node, images)| async move {
        for image in images {
            import(docker, &node, &image).await?;
        }
        Ok(())
    }))
    .await?;
    Ok(())
}

/// The containers of a kind cluster that run pods. kind itself finds them by the same label.
async fn kind_nodes(docker: &str, cluster: &str) -> Result<Vec<String>, Trouble> {
    let filter = format!("label=io.x-k8s.kind.cluster={cluster}");
    let format = "{{.Names}} {{.Label \"io.x-k8s.kind.role\"}}";
    let args = ["ps", "--filter", &filter, "--format", format];
    let listed = Call::new(CODE, docker, &args, ASK_LIMIT).output().await?;
    let nodes: Vec<String> = listed
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter(|(_, role)| *role != "external-load-balancer")
        .map(|(name, _)| name.to_owned())
        .collect();
    if nodes.is_empty() {
        return Err(trouble(
            CODE,
            format!("nodes of the kind cluster {cluster} run in {docker} on this machine"),
            format!(
                "`{docker} ps --filter {filter}` shows none; is the cluster's name right, and is it not of another {docker} host?"
            ),
        ));
    }
    Ok(nodes)
}

async fn import(docker: &str, node: &str, image: &Made) -> Result<(), Trouble> {
    let args = [
        "exec",
        "-i",
        node,
        "ctr",
        "-n",
        "k8s.io",
        "images",
        "import",
        "--all-platforms",
        "--digests",
        "-",
    ];
    let mut last = None;
    // Somebody of another machine or user may load the same image at the same time; containerd refuses one of both then ("already exists").
    for _ in 0..3 {
        let image = image.clone();
        let call = Call::new(CODE, docker, &args, LOAD_LIMIT);
        match call.feed(move |out| image.write(out)).await {
            Ok(_) => return Ok(()),
            Err(trouble) => last = Some(trouble),
        }
    }
    Err(last.expect("it was tried"))
}

async fn minikube(program: &str, profile: &str, images: &[Made]) -> Result<(), Trouble> {
    let listed = || Call::new(CODE, program, &["image", "ls", "-p", profile], ASK_LIMIT).output();
    let missing = |listed: &str| -> Vec<Made> {
        let there: BTreeSet<&str> = listed.lines().map(str::trim).collect();
        images
            .iter()
            .filter(|image| !there.contains(image.tag.as_str()))
            .cloned()
            .collect()
    };
    if missing(&listed().await?).is_empty() {
        return Ok(());
    }
    let _lock = lock(profile).await?;
    for image in missing(&listed().await?) {
        let io = |error: std::io::Error| {
            trouble(
                CODE,
                format!("the archive of {} can be written", image.tag),
                error.to_string(),
            )
        };
        let folder = tempfile::Builder::new()
            .prefix("trialnet-image-")
            .tempdir()
            .map_err(io)?;
        let path = folder.path().join("image.tar");
        let write = {
            let (image, path) = (image.clone(), path.clone());
            move || image.write(File::create(path)?)
        };
        let written = tokio::task::spawn_blocking(write).await;
        written.map_err(|panic| io(std::io::Error::other(panic)))?.map_err(io)?;
        let path = path.to_string_lossy();
        let args = ["image", "load", &path, "-p", profile];
        Call::new(CODE, program, &args, LOAD_LIMIT).output().await?;
    }
    // minikube ends well also when a node has refused the archive.
    let missing = missing(&listed().await?);
    if missing.is_empty() {
        return Ok(());
    }
    let tags: Vec<_> = missing.iter().map(|image| image.tag.as_str()).collect();
    Err(trouble(
        CODE,
        format!("minikube's profile {profile} has the images that were loaded"),
        format!("`minikube image ls -p {profile}` does not show {}", tags.join(", ")),
    ))
}

/// Waits until no other trialnet of this user loads into this cluster. The system lifts the lock when its holder ends, however it does.
async fn lock(cluster: &str) -> Result<File, Trouble> {
    let path = registry::state_dir().map(|dir| dir.join(format!("load-{cluster}.lock")));
    let expected = format!("images can be loaded into {cluster} one trialnet at a time");
    let failed = |seen: String| trouble(CODE, expected.clone(), seen);
    let path = path.map_err(|error| failed(error.to_string()))?;
    let take = {
        let path = path.clone();
        move || {
            let file = File::options().create(true).truncate(false).write(true).open(path)?;
            file.lock().map(|()| file)
        }
    };
    let taken = tokio::time::timeout(LOAD_LIMIT, tokio::task::spawn_blocking(take)).await;
    match taken {
        Err(_) => Err(failed(format!(
            "another trialnet has held {} for {}s",
            shown(&path),
            LOAD_LIMIT.as_secs()
        ))),
        Ok(taken) => taken
            .unwrap_or_else(|panic| Err(std::io::Error::other(panic)))
            .map_err(|error| failed(format!("{}: {error}", shown(&path)))),
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// A program that writes down how it was called, and does what the script says with `$folder`.
    fn recorded(folder: &Path, script: &str) -> String {
        let path = folder.join("program");
        let text = format!(
            "#!/bin/sh\nfolder={}\necho \"$*\" >> $folder/calls\n{script}\n",
            folder.display()
        );
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path.display().to_string()
    }

    fn calls(folder: &Path) -> Vec<String> {
        let calls = fs::read_to_string(folder.join("calls")).unwrap();
        calls.lines().map(str::to_owned).collect()
    }

    fn made() -> Made {
        crate::backend::kubernetes::image::of_program(Path::new("true")).unwrap()
    }

    /// Takes the image that is in the archive, as minikube does.
    const MINIKUBE_SCRIPT: &str = r#"
case "$1 $2" in
"image ls") cat "$folder/there" 2>/dev/null; exit 0;;
"image load") tar -xOf "$3" manifest.json | sed 's/.*"RepoTags":\["\([^"]*\)".*/\1/' >> "$folder/there";;
*) echo "unknown command" >&2; exit 2;;
esac"#;

    #[tokio::test]
    async fn minikube_is_given_an_archive_of_what_it_lacks() {
        let folder = tempfile::tempdir().unwrap();
        let program = recorded(folder.path(), MINIKUBE_SCRIPT);
        let image = made();
        minikube(&program, "trialnet-tests", std::slice::from_ref(&image))
            .await
            .unwrap();
        let first = calls(folder.path());
        let (archive, profile) = first[2].strip_prefix("image load ").unwrap().split_once(' ').unwrap();
        assert!(
            archive.ends_with("/image.tar") && !Path::new(archive).exists(),
            "{archive}"
        );
        assert_eq!(profile, "-p trialnet-tests");
        assert_eq!(
            [&first[0], &first[1], &first[3]],
            ["image ls -p trialnet-tests"; 3],
            "{first:?}"
        );
        assert_eq!(
            fs::read_to_string(folder.path().join("there")).unwrap().trim(),
            image.tag
        );
        minikube(&program, "trialnet-tests", &[image]).await.unwrap();
        assert_eq!(calls(folder.path()).len(), 5, "it has it now, so it is asked once");
    }

    #[tokio::test]
    async fn an_image_that_minikube_has_not_taken_is_trouble() {
        let folder = tempfile::tempdir().unwrap();
        let program = recorded(folder.path(), "exit 0");
        let trouble = minikube(&program, "trialnet-tests", &[made()]).await.unwrap_err();
        assert!(trouble.seen.contains("does not show trialnet.local/true:"), "{trouble}");
        let program = recorded(folder.path(), "echo 'profile \"bad\" not found' >&2; exit 85");
        let trouble = minikube(&program, "trialnet-tests", &[made()]).await.unwrap_err();
        assert_eq!(trouble.code, "infra/image-load");
        assert!(
            trouble.seen.contains("85") && trouble.seen.contains("not found"),
            "{trouble}"
        );
    }

    /// As docker in front of nodes: the balancer of a cluster with several control planes runs no pods.
    const DOCKER_SCRIPT: &str = r#"
case "$*" in
"ps "*) printf 'a-control-plane control-plane\na-worker worker\na-external-load-balancer external-load-balancer\n';;
"exec a-worker "*"images ls -q") cat "$folder/there" 2>/dev/null; exit 0;;
"exec a-control-plane "*"images ls -q") echo "$TAG"; cat "$folder/all";;
"exec -i a-worker "*import*) cat > "$folder/archive.tar"; tar -xOf "$folder/archive.tar" manifest.json > "$folder/manifest"; cp "$folder/all" "$folder/there";;
*) echo "unknown call" >&2; exit 2;;
esac"#;

    #[tokio::test]
    async fn nodes_of_kind_are_given_what_they_lack() {
        let folder = tempfile::tempdir().unwrap();
        let docker = recorded(folder.path(), DOCKER_SCRIPT);
        let image = made();
        fs::write(
            folder.path().join("all"),
            format!("registry.k8s.io/pause:3.10\n{}\n", image.tag),
        )
        .unwrap();
        kind(&docker, "trialnet-tests", std::slice::from_ref(&image))
            .await
            .unwrap();
        let imports = |calls: Vec<String>| {
            calls
                .into_iter()
                .filter(|call| call.contains("import"))
                .collect::<Vec<_>>()
        };
        let expected = "exec -i a-worker ctr -n k8s.io images import --all-platforms --digests -";
        assert_eq!(imports(calls(folder.path())), [expected], "the other node has it");
        assert!(
            fs::read_to_string(folder.path().join("manifest"))
                .unwrap()
                .contains(&image.tag)
        );
        let mut bytes = Vec::new();
        image.write(&mut bytes).unwrap();
        assert!(
            fs::read(folder.path().join("archive.tar")).unwrap() == bytes,
            "the whole archive came through"
        );
        kind(&docker, "trialnet-tests", &[image]).await.unwrap();
        assert_eq!(imports(calls(folder.path())).len(), 1, "nothing is loaded twice");
    }

    #[tokio::test]
    async fn whoever_loads_at_the_same_time_is_no_trouble() {
        let folder = tempfile::tempdir().unwrap();
        let refuse = "if mkdir \"$folder/first\"; then cat > /dev/null; echo 'ctr: image: already exists' >&2; exit 1; fi; cat >";
        let script = DOCKER_SCRIPT.replace("import*) cat >", &format!("import*) {refuse}"));
        let docker = recorded(folder.path(), &script);
        fs::write(folder.path().join("all"), made().tag).unwrap();
        kind(&docker, "trialnet-tests", &[made()]).await.unwrap();
        let imports = calls(folder.path())
            .into_iter()
            .filter(|call| call.contains("import"))
            .count();
        assert_eq!(imports, 2);
    }

    #[tokio::test]
    async fn a_node_that_takes_no_image_is_tried_again_and_told() {
        let folder = tempfile::tempdir().unwrap();
        let script = DOCKER_SCRIPT.replace(
            "cat > \"$folder/archive.tar\";",
            "echo 'no space left on device' >&2; exit 1;",
        );
        let docker = recorded(folder.path(), &script);
        fs::write(folder.path().join("all"), made().tag).unwrap();
        let trouble = kind(&docker, "trialnet-tests", &[made()]).await.unwrap_err();
        assert_eq!(trouble.code, "infra/image-load");
        assert!(trouble.seen.contains("no space left on device"), "{trouble}");
        let imports = calls(folder.path())
            .into_iter()
            .filter(|call| call.contains("import"))
            .count();
        assert_eq!(imports, 3);
    }
}
