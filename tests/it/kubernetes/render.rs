//! `trialnet render`: what every shipped scenario would be in a cluster, against a policy and against a real API server.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use trialnet::env;

/// Keys that no object of a run may have anywhere.
const NEVER: [&str; 9] = [
    "hostPath",
    "hostNetwork",
    "hostPID",
    "hostIPC",
    "hostPort",
    "nodePort",
    "externalIPs",
    "privileged",
    "livenessProbe",
];
/// The kinds that a run consists of.
const KINDS: [&str; 8] = [
    "Namespace",
    "LimitRange",
    "PodDisruptionBudget",
    "ResourceQuota",
    "ConfigMap",
    "Secret",
    "Service",
    "StatefulSet",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The shipped scenarios.
fn scenarios() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join("scenarios")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.extension() {
                None if path.is_dir() => folders.push(path),
                Some(extension) if extension == "toml" => found.push(path),
                _ => {}
            }
        }
    }
    found.sort();
    assert!(found.len() >= 20, "{found:?}");
    found
}

fn render(file: &Path, arguments: &[&str]) -> String {
    rendered(file, arguments).expect("its programs are here, or images are named")
}

/// `None` where a program is not on this machine and no image has it; where it is required the test fails.
fn rendered(file: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new(env!("CARGO_BIN_EXE_trialnet"))
        .arg("render")
        .arg(file)
        .args(arguments)
        .env_remove("TRIALNET_SEED")
        .output()
        .unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    if words.contains("on this machine, or an image that has it") && !env::requires("chains") {
        println!("passed over: {}: {words}", file.display());
        return None;
    }
    assert!(output.status.success(), "{}: {output:?}", file.display());
    Some(String::from_utf8(output.stdout).unwrap())
}

fn documents(stream: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(stream).unwrap()
}

/// What is wrong with a network's objects.
fn complaints(objects: &[Value]) -> Vec<String> {
    let mut wrong = Vec::new();
    for object in objects {
        let name = format!("{} {}", object["kind"].as_str().unwrap(), object["metadata"]["name"]);
        let mut ensure = |holds: bool, what: &str| {
            if !holds {
                wrong.push(format!("{name}: {what}"));
            }
        };
        let labels = &object["metadata"]["labels"];
        ensure(KINDS.iter().any(|kind| object["kind"] == **kind), "a kind of its own");
        ensure(
            labels["app.kubernetes.io/managed-by"] == "trialnet",
            "not marked as ours",
        );
        ensure(labels["trialnet.dev/run"].is_string(), "without the run's id");
        for key in NEVER {
            ensure(!has_key(object, key), key);
        }
        match object["kind"].as_str().unwrap() {
            "Namespace" => ensure(
                labels["pod-security.kubernetes.io/enforce"] == "restricted",
                "a namespace that is not restricted",
            ),
            "Service" => ensure(object["spec"]["type"] == "ClusterIP", "a Service that leads out"),
            "StatefulSet" => pod(&object["spec"]["template"]["spec"], &mut ensure),
            _ => {}
        }
    }
    wrong.extend(leaks(objects));
    wrong
}

/// Pod Security `restricted`, and what else pods of a run keep to.
fn pod(pod: &Value, ensure: &mut impl FnMut(bool, &str)) {
    let user = |context: &Value| context["runAsUser"].as_i64();
    let context = &pod["securityContext"];
    ensure(context["runAsNonRoot"] == true && user(context) > Some(0), "root");
    ensure(context["seccompProfile"]["type"] == "RuntimeDefault", "without seccomp");
    ensure(pod["automountServiceAccountToken"] == false, "a token for the API");
    for volume in pod["volumes"].as_array().unwrap() {
        let kinds = ["configMap", "secret", "emptyDir"];
        ensure(
            kinds.iter().any(|kind| !volume[kind].is_null()),
            "a volume of another kind",
        );
    }
    let containers = [&pod["containers"], &pod["initContainers"]];
    let containers = containers.into_iter().filter_map(Value::as_array).flatten();
    let mut count = 0;
    for container in containers {
        count += 1;
        let context = &container["securityContext"];
        ensure(context["allowPrivilegeEscalation"] == false, "privilege escalation");
        ensure(context["capabilities"] == json!({ "drop": ["ALL"] }), "capabilities");
        ensure(user(context).is_none_or(|user| user > 0), "a root container");
        ensure(context["runAsNonRoot"] != false, "a container that may be root");
        ensure(container["resources"]["requests"]["cpu"].is_string(), "no request");
    }
    ensure(count > 0, "no container");
}

fn has_key(value: &Value, key: &str) -> bool {
    match value {
        Value::Object(map) => map.iter().any(|(name, inner)| name == key || has_key(inner, key)),
        Value::Array(list) => list.iter().any(|inner| has_key(inner, key)),
        _ => false,
    }
}

/// Private keys, as the adapters write them into JSON.
fn private_keys(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (name, inner) in map {
                match (name.as_str(), inner) {
                    ("private_key" | "ciphertext", Value::String(key)) => found.push(key.clone()),
                    ("priv_key", inner) => found.extend(inner["value"].as_str().map(str::to_owned)),
                    _ => private_keys(inner, found),
                }
            }
        }
        Value::Array(list) => list.iter().for_each(|inner| private_keys(inner, found)),
        _ => {}
    }
}

/// Private keys in a file: in JSON, or 32 bytes in hex.
fn keys_of(content: &[u8], found: &mut Vec<String>) {
    match (serde_json::from_slice(content), str::from_utf8(content)) {
        (Ok(value), _) => private_keys(&value, found),
        (_, Ok(text)) if text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            found.push(text.to_owned());
        }
        _ => {}
    }
}

/// Private keys that stand outside Secrets.
fn leaks(objects: &[Value]) -> Vec<String> {
    let (secrets, others): (Vec<_>, Vec<_>) = objects.iter().partition(|object| object["kind"] == "Secret");
    let mut keys = Vec::new();
    for value in secrets
        .iter()
        .flat_map(|secret| secret["data"].as_object().unwrap().values())
    {
        let content = BASE64.decode(value.as_str().unwrap()).unwrap();
        keys_of(&content, &mut keys);
    }
    let text = serde_json::to_string(&others).unwrap();
    let mut wrong = Vec::new();
    for key in keys {
        // A key of 64 bytes ends with the public one, which may be seen.
        let private = &key[..40];
        let again = BASE64.encode(private);
        if text.contains(private) || text.contains(&again[..40]) || text.contains("priv_key") {
            wrong.push(format!("a key outside a Secret: {private}…"));
        }
    }
    wrong
}

/// mintnet's budget kept 2 of 4, with which a drain may stop the chain.
#[test]
fn the_budget_of_four_validators_keeps_three() {
    let stream = render(&root().join("scenarios/mintnet/kubernetes-evictions.toml"), &[]);
    let objects = documents(&stream);
    let budget = objects
        .iter()
        .find(|object| object["kind"] == "PodDisruptionBudget")
        .unwrap();
    assert_eq!(budget["spec"]["minAvailable"], 3);
}

#[test]
fn every_shipped_scenario_keeps_to_the_policy() {
    for file in scenarios() {
        let Some(stream) = rendered(&file, &["--seed", "1", "--show-secrets"]) else {
            continue;
        };
        assert_eq!(
            stream,
            render(&file, &["--seed", "1", "--show-secrets"]),
            "the same text again"
        );
        let objects = documents(&stream);
        assert_eq!(complaints(&objects), [""; 0], "{}", file.display());
        assert_eq!(objects[0]["kind"], "Namespace", "what others are in comes first");
        let mut keys = Vec::new();
        for secret in objects.iter().filter(|object| object["kind"] == "Secret") {
            for value in secret["data"].as_object().unwrap().values() {
                let content = BASE64.decode(value.as_str().unwrap()).unwrap();
                keys_of(&content, &mut keys);
            }
        }
        let node = |object: &&Value| {
            object["kind"] == "StatefulSet" && object["metadata"]["labels"]["trialnet.dev/node"].is_string()
        };
        let nodes = objects.iter().filter(node).count();
        assert!(keys.len() >= nodes, "a key for each node, in a Secret: {keys:?}");
        let shown = render(&file, &["--seed", "1"]);
        for secret in documents(&shown).iter().filter(|object| object["kind"] == "Secret") {
            for value in secret["data"].as_object().unwrap().values() {
                assert_eq!(BASE64.decode(value.as_str().unwrap()).unwrap(), b"REDACTED");
            }
        }
    }
}

#[test]
fn an_observer_in_the_cluster_keeps_to_the_policy_too() {
    let file = root().join("scenarios/observer/kubernetes-observer.toml");
    let objects = documents(&render(&file, &["--seed", "1"]));
    let named = |kind: &str| {
        let is = |object: &&Value| object["kind"] == kind && object["metadata"]["name"] == "trialnet-observer";
        objects.iter().find(is).unwrap_or_else(|| panic!("no {kind}"))
    };
    let told: Value = serde_json::from_str(named("ConfigMap")["data"]["observer.json"].as_str().unwrap()).unwrap();
    assert_eq!(told["targets"]["validator-0"], "validator-0:26657", "{told}");
    let mut broken = objects.clone();
    let at = objects
        .iter()
        .position(|object| object == named("StatefulSet"))
        .unwrap();
    broken[at]["spec"]["template"]["spec"]["automountServiceAccountToken"] = json!(true);
    assert_eq!(complaints(&objects), [""; 0]);
    assert!(
        complaints(&broken).join("; ").contains("a token for the API"),
        "it is looked at"
    );
    let quota = objects.iter().find(|object| object["kind"] == "ResourceQuota").unwrap();
    let sets = objects.iter().filter(|object| object["kind"] == "StatefulSet").count();
    assert_eq!(quota["spec"]["hard"]["pods"], sets.to_string(), "it has room, exactly");
}

#[test]
fn the_policy_finds_what_it_is_for() {
    let file = root().join("scenarios/cometbft/quickstart.toml");
    let good = documents(&render(&file, &["--seed", "1", "--show-secrets"]));
    let at = |kind: &str| good.iter().position(|object| object["kind"] == kind).unwrap();
    let found = |kind: &str, change: &dyn Fn(&mut Value)| {
        let mut objects = good.clone();
        change(&mut objects[at(kind)]);
        complaints(&objects).join("; ")
    };
    let pod = |change: fn(&mut Value)| found("StatefulSet", &|set| change(&mut set["spec"]["template"]["spec"]));
    assert!(found("Service", &|it| it["spec"]["type"] = json!("NodePort")).contains("leads out"));
    assert!(found("Service", &|it| it["spec"]["ports"][0]["nodePort"] = json!(30_000)).contains("nodePort"));
    assert!(pod(|pod| pod["volumes"][0] = json!({ "name": "a", "hostPath": { "path": "/" } })).contains("hostPath"));
    assert!(pod(|pod| pod["securityContext"]["runAsUser"] = json!(0)).contains("root"));
    assert!(pod(|pod| pod["containers"][0]["securityContext"]["runAsUser"] = json!(0)).contains("root container"));
    assert!(
        pod(|pod| pod["initContainers"][0]["securityContext"]["allowPrivilegeEscalation"] = json!(true))
            .contains("escalation")
    );
    let secret = &good[at("Secret")]["data"];
    let key = secret.as_object().unwrap().values().next().unwrap();
    let key = String::from_utf8(BASE64.decode(key.as_str().unwrap()).unwrap()).unwrap();
    assert!(found("ConfigMap", &|it| it["data"]["f0"] = json!(key)).contains("outside a Secret"));
}

/// Renders a CometBFT network of one node, of which the file says this.
fn version(says: &str) -> Output {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("one.toml");
    let text = format!(
        "format = 1\nname = \"one\"\n[network]\nchain = \"cometbft\"\nversion = \"0.38.26\"\n\
         [network.groups.validator]\nrole = \"validator\"\n[versions.\"0.38.26\"]\n{says}\n\
         [[steps]]\nexpect.height = {{ at_least = 2, within = \"30s\" }}\n"
    );
    std::fs::write(&file, text).unwrap();
    Command::new(env!("CARGO_BIN_EXE_trialnet"))
        .arg("render")
        .arg(&file)
        .output()
        .unwrap()
}

#[test]
fn a_version_is_the_program_or_the_image_that_the_file_names() {
    let output = version("image = \"mine/comet:1\"");
    assert!(output.status.success(), "{output:?}");
    let objects = documents(&String::from_utf8(output.stdout).unwrap());
    let set = objects.iter().find(|object| object["kind"] == "StatefulSet").unwrap();
    let container = &set["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(
        (&container["image"], &container["imagePullPolicy"]),
        (&json!("mine/comet:1"), &json!("IfNotPresent"))
    );
    // The usual image of that version holds another program.
    let output = version("binary = \"no-such-program\"");
    assert_eq!(output.status.code(), Some(96), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("no-such-program") && said.contains("neither"), "{said}");
}

/// A namespace that goes when the test ends, also when it fails.
struct Space(String);

impl Space {
    fn new() -> Self {
        let space = Self(format!("render-{:08x}", rand::random::<u32>()));
        let made = json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": { "name": space.0, "labels": {
                "pod-security.kubernetes.io/enforce": "restricted",
                // Of a StatefulSet, the server only warns.
                "pod-security.kubernetes.io/warn": "restricted",
            } },
        });
        let output = kubectl(&["apply", "-f", "-"], &made.to_string());
        assert!(output.status.success(), "{output:?}");
        space
    }

    /// What the server says of a network, without making it: success and its warnings.
    fn dry_run(&self, stream: &str) -> (bool, String) {
        let output = kubectl(&["apply", "--dry-run=server", "-n", &self.0, "-f", "-"], stream);
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        kubectl(&["delete", "namespace", &self.0, "--wait=false"], "");
    }
}

fn kubectl(arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new("kubectl")
        .arg("--request-timeout=20s")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    // Beside reading, so that neither waits for the other.
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().unwrap();
    drop(writer.join().unwrap());
    output
}

/// Whether kubectl is there and leads to a local cluster that answers.
#[expect(clippy::print_stderr, reason = "a test that is passed over says so")]
pub(super) fn cluster() -> bool {
    let asked = |arguments: &[&str]| {
        let output = Command::new("kubectl").args(arguments).output().ok()?;
        output
            .status
            .success()
            .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let context = asked(&["config", "current-context"]).unwrap_or_default();
    let local = context.starts_with("kind-") || context == "minikube";
    if local && asked(&["version", "--request-timeout=5s"]).is_some() {
        return true;
    }
    assert!(
        !env::requires("cluster"),
        "no local cluster answers to kubectl (context \"{context}\"), and TRIALNET_REQUIRE asks for one"
    );
    eprintln!("passed over: no local cluster answers to kubectl");
    false
}

#[test]
fn a_real_server_takes_every_shipped_scenario() {
    if !cluster() {
        return;
    }
    let (files, space) = (scenarios(), &Space::new());
    // Most of the time is spent waiting for the server.
    std::thread::scope(|scope| {
        for files in files.chunks(files.len().div_ceil(4)) {
            scope.spawn(move || {
                for file in files {
                    let Some(stream) = rendered(file, &["--namespace", &space.0]) else {
                        continue;
                    };
                    let (taken, said) = space.dry_run(&stream);
                    assert!(taken, "{}: {said}", file.display());
                    assert!(!said.contains("Warning"), "{}: {said}", file.display());
                }
            });
        }
    });
    // It would have said so.
    let stream = render(&files[0], &["--namespace", &space.0]);
    let (_, said) = space.dry_run(&stream.replace("runAsNonRoot: true", "runAsNonRoot: false"));
    assert!(said.contains("would violate PodSecurity"), "{said}");
    let (taken, said) = space.dry_run(&stream.replace("podManagementPolicy: Parallel", "podManagementPolicy: None"));
    assert!(!taken, "{said}");
}
