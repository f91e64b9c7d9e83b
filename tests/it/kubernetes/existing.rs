//! A cluster into which nothing can be loaded: the images have names, and credentials for them are copied. It is the kind cluster of the other tests, of
//! which trialnet is told that it is another; what a registry would give is loaded beforehand by kind itself.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// What is wrong from the beginning is known within this time.
const SOON: Duration = Duration::from_secs(15);

fn trialnet(place: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_trialnet"))
        .args(arguments)
        .current_dir(place)
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[track_caller]
fn good(place: &Path, arguments: &[&str]) -> String {
    let output = trialnet(place, arguments);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", said(&output));
    said(&output)
}

/// What is made beside a run; it goes with this.
struct Beside {
    namespace: String,
    image: String,
    machines: Vec<String>,
}

impl Drop for Beside {
    fn drop(&mut self) {
        call(
            "kubectl",
            &[
                "delete",
                "namespace",
                &self.namespace,
                "--ignore-not-found",
                "--wait=false",
            ],
        );
        for machine in &self.machines {
            call(
                "docker",
                &["exec", machine, "ctr", "-n", "k8s.io", "images", "rm", &self.image],
            );
        }
    }
}

fn call(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(
        output.status.success() || std::thread::panicking(),
        "{program} {arguments:?}: {output:?}"
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Quick start with settings of the cluster and a name of its own.
fn scenario(place: &Path, name: &str, settings: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios/quickstart.toml");
    let text = std::fs::read_to_string(path).unwrap();
    let text = text.replace("name = \"quickstart\"", &format!("name = \"{name}\""));
    let file = place.join(format!("{name}.toml"));
    std::fs::write(
        &file,
        format!("{text}\n[backend.kubernetes]\nprovider = \"existing\"\n{settings}\n"),
    )
    .unwrap();
    file.to_str().unwrap().to_owned()
}

#[test]
fn a_cluster_into_which_nothing_can_be_loaded_runs_images_by_name() {
    if !super::render::cluster() {
        return;
    }
    let cluster = call("kubectl", &["config", "current-context"]);
    let Some(cluster) = cluster.trim().strip_prefix("kind-") else {
        return;
    };
    let place = tempfile::tempdir().unwrap();
    let place = place.path();
    let random = format!("{:08x}", rand::random::<u32>());
    let image = format!("registry.test/trialnet:{random}");
    good(place, &["image", "--name", &image, "--output", "trialnet.tar"]);
    call(
        "kind",
        &[
            "load",
            "image-archive",
            place.join("trialnet.tar").to_str().unwrap(),
            "--name",
            cluster,
        ],
    );
    let machines = call("kind", &["get", "nodes", "--name", cluster]);
    let beside = Beside {
        namespace: format!("it-existing-{random}"),
        image,
        machines: machines.lines().map(str::to_owned).collect(),
    };
    let Beside { namespace, image, .. } = &beside;
    call("kubectl", &["create", "namespace", namespace]);
    let login = [
        "--docker-server=registry.test",
        "--docker-username=me",
        "--docker-password=hush",
    ];
    let make = ["create", "secret", "docker-registry", "registry", "-n", namespace];
    call("kubectl", &[&make[..], &login[..]].concat());

    // As a run: the same file that elsewhere needs nothing.
    let settings = format!("own_image = \"{image}\"\npull_secrets = [\"{namespace}/registry\"]");
    let file = scenario(place, &format!("it-named-{random}"), &settings);
    good(place, &["run", &file, "--backend", "kubernetes"]);

    // As a network that stays, to look at what is there.
    let up = format!("it-stays-{random}");
    let file = scenario(place, &up, &settings);
    good(place, &["up", &file, "--backend", "kubernetes", "--for", "5m"]);
    let names = call("kubectl", &["get", "namespaces", "-o", "name"]);
    let space = names.lines().find(|name| name.contains(&up)).unwrap();
    let space = space.strip_prefix("namespace/").unwrap();
    let secret = |namespace: &str, name: &str| -> Value {
        let text = call("kubectl", &["get", "secret", name, "-n", namespace, "-o", "json"]);
        serde_json::from_str::<Value>(&text).unwrap()["data"].take()
    };
    let pod = call("kubectl", &["get", "pod", "validator-0-0", "-n", space, "-o", "json"]);
    let pod: Value = serde_json::from_str(&pod).unwrap();
    let copied = (secret(space, "pull.registry"), secret(namespace, "registry"));
    good(place, &["down", &up]);
    assert!(copied.0 == copied.1 && copied.0[".dockerconfigjson"].is_string());
    assert_eq!(
        pod["spec"]["imagePullSecrets"],
        serde_json::json!([{ "name": "pull.registry" }])
    );
    assert_eq!(pod["spec"]["containers"][0]["image"], image.as_str());
    assert_eq!(pod["spec"]["containers"][0]["imagePullPolicy"], "IfNotPresent");
}

#[test]
fn what_has_no_name_or_is_not_there_is_said_before_anything_starts() {
    if !super::render::cluster() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let place = place.path();
    let random = format!("{:08x}", rand::random::<u32>());
    let refused = |name: &str, settings: &str, change: (&str, &str), words: &[&str]| {
        let name = format!("it-{name}-{random}");
        let file = scenario(place, &name, settings);
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, text.replace(change.0, change.1)).unwrap();
        let begun = Instant::now();
        let output = trialnet(place, &["run", &file, "--backend", "kubernetes"]);
        let took = begun.elapsed();
        let said = said(&output);
        assert_eq!(output.status.code(), Some(96), "{said}");
        assert!(words.iter().all(|word| said.contains(word)), "{words:?} in\n{said}");
        assert!(took < SOON, "{took:?}");
        let spaces = call("kubectl", &["get", "namespaces", "-o", "name"]);
        assert!(!spaces.contains(&name), "{spaces}");
    };
    let same = ("", "");
    refused(
        "nameless",
        "",
        same,
        &["infra/image-name", "own_image", "trialnet image --name"],
    );
    refused(
        "no-secret",
        "own_image = \"registry.test/x:1\"\npull_secrets = [\"registry-that-nobody-made\"]",
        same,
        &[
            "infra/pull-secret",
            "default/registry-that-nobody-made",
            "create secret docker-registry",
        ],
    );
    refused(
        "version",
        "own_image = \"registry.test/x:1\"\n[versions.old]\nbinary = \"trialnet-no-such\"\n",
        ("chain = \"devnode\"", "chain = \"cometbft\"\nversion = \"old\""),
        &["infra/image-name", "trialnet image trialnet-no-such --as cometbft"],
    );
}
