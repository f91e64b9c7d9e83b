//! A network that somebody else made: found, struck, judged, and left as it was.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::ResourceExt;
use serde_json::Value;
use trialnet::backend::kubernetes::api::Api;
use trialnet::backend::kubernetes::image;
use trialnet::backend::kubernetes::provider::{self, Flags};
use trialnet::env;
use trialnet::model::Kubernetes;

use super::cluster::{EXE, cluster, until};

const PROGRAM: &str = "cometbft-0.38.17";
/// What the manifest is made of.
const KINDS: &str = "statefulsets,deployments,services,configmaps,secrets,persistentvolumeclaims,resourcequotas,limitranges,poddisruptionbudgets";

/// A network that was applied with kubectl in a namespace of its own, removed when the test ends.
struct Applied {
    api: Api,
    namespace: String,
}

impl Applied {
    async fn up(api: &Api, program: &Path) -> Self {
        let chosen = provider::choose(&Kubernetes::default(), &Flags::default()).unwrap();
        let made = image::of_program(program).unwrap();
        image::load(&chosen, std::slice::from_ref(&made)).await.unwrap();
        let applied = Self {
            api: api.clone(),
            namespace: format!("found-{:08x}", rand::random::<u32>()),
        };
        applied.kubectl(&["create", "namespace", &applied.namespace], "");
        let manifest = fs::read_to_string(fixture("cometbft.yaml")).unwrap();
        applied.kubectl(
            &["-n", &applied.namespace, "apply", "-f", "-"],
            &manifest.replace("COMETBFT", &made.tag),
        );
        until("five pods run", async || {
            applied.pods().await.len() == 5 && applied.run().await
        })
        .await;
        applied
    }

    fn kubectl(&self, args: &[&str], input: &str) -> String {
        use std::io::Write as _;
        let mut kubectl = Command::new("kubectl")
            .args(["--context", self.api.context().unwrap()])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        kubectl.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = kubectl.wait_with_output().unwrap();
        assert!(output.status.success(), "kubectl {args:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// A kubeconfig of a service account that may do what `trialnet rbac --attach` prints, and nothing else.
    fn credentials(&self, place: &Path) -> PathBuf {
        let space = self.namespace.as_str();
        let account = format!("{space}/rehearsal");
        let role = ["rbac", "--attach", space, "--service-account", &account];
        let role = Command::new(EXE).args(role).output().unwrap().stdout;
        self.kubectl(&["-n", space, "create", "serviceaccount", "rehearsal"], "");
        self.kubectl(&["apply", "-f", "-"], &String::from_utf8(role).unwrap());
        let token = self.kubectl(&["-n", space, "create", "token", "rehearsal"], "");
        let config = self.kubectl(&["config", "view", "--raw", "--flatten", "--minify", "-o", "json"], "");
        let mut config: Value = serde_json::from_str(&config).unwrap();
        config["users"][0]["user"] = serde_json::json!({ "token": token.trim() });
        let path = place.join("kubeconfig");
        fs::write(&path, config.to_string()).unwrap();
        path
    }

    async fn run(&self) -> bool {
        let pods = self.api.list::<Pod>(Some(&self.namespace), "").await.unwrap();
        pods.iter().all(|pod| {
            let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
            phase == Some("Running") && pod.metadata.deletion_timestamp.is_none()
        })
    }

    /// The uids of its pods by name.
    async fn pods(&self) -> BTreeMap<String, String> {
        let pods = self.api.list::<Pod>(Some(&self.namespace), "").await.unwrap();
        pods.into_iter()
            .map(|pod| (pod.name_any(), pod.uid().unwrap()))
            .collect()
    }

    /// All that somebody said of it, and who did; what the cluster notes of its state is left out.
    fn objects(&self) -> Vec<Value> {
        let list = self.kubectl(
            &[
                "-n",
                &self.namespace,
                "get",
                KINDS,
                "-o",
                "json",
                "--show-managed-fields",
            ],
            "",
        );
        let space = self.kubectl(
            &[
                "get",
                "namespace",
                &self.namespace,
                "-o",
                "json",
                "--show-managed-fields",
            ],
            "",
        );
        let list: Value = serde_json::from_str(&list).unwrap();
        let mut objects = list["items"].as_array().unwrap().clone();
        objects.push(serde_json::from_str(&space).unwrap());
        for object in &mut objects {
            object.as_object_mut().unwrap().remove("status");
            let metadata = object["metadata"].as_object_mut().unwrap();
            let fields = metadata.remove("managedFields").unwrap_or_default();
            let stated = fields.as_array().into_iter().flatten();
            let stated = stated.filter(|one| one["subresource"] != "status").cloned();
            // Of a StatefulSet or Deployment the version counts changes of the status too.
            if metadata.contains_key("generation") {
                metadata.remove("resourceVersion");
            }
            metadata.insert(
                "managers".to_owned(),
                stated.map(|one| one["manager"].clone()).collect(),
            );
        }
        objects
    }
}

impl Drop for Applied {
    fn drop(&mut self) {
        self.kubectl(&["delete", "namespace", &self.namespace, "--wait=false"], "");
    }
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/found").join(name)
}

/// The chain's program, if it is on this machine.
#[expect(clippy::print_stderr, reason = "a test that is passed over says so")]
fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|folder| folder.join(PROGRAM))
        .find(|path| path.is_file());
    if found.is_none() {
        assert!(
            !env::requires("chains"),
            "{PROGRAM} is not on PATH, and TRIALNET_REQUIRE asks for chains"
        );
        eprintln!("passed over: {PROGRAM} is not on PATH");
    }
    found
}

fn run(place: &Path, scenario: &str, kubeconfig: &Path) -> (Option<i32>, String) {
    let file = place.join("attach.toml");
    fs::write(&file, scenario).unwrap();
    let output = Command::new(EXE)
        .args(["run", "--backend", "kubernetes"])
        .arg(&file)
        .arg("--run-dir")
        .arg(place.join("run"))
        .env("TRIALNET_STATE_DIR", place.join("state"))
        .env("KUBECONFIG", kubeconfig)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code(), text)
}

#[tokio::test]
async fn a_rollout_that_nobody_declared_is_a_finding_and_its_pod_the_node_from_then_on() {
    let Some(api) = cluster().await else { return };
    let Some(program) = program() else { return };
    let network = Applied::up(&api, &program).await;
    let before = network.pods().await;
    let place = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(fixture("attach.toml")).unwrap();
    let head = text.split("[[steps]]").next().unwrap();
    let steps = "[[steps]]\nexpect.progress = { blocks = 60, within = \"120s\" }\n";
    let scenario = (head.to_owned() + steps).replace("NAMESPACE", &network.namespace);
    let file = place.path().join("attach.toml");
    fs::write(&file, scenario).unwrap();
    let mut child = Command::new(EXE)
        .args(["run", "--backend", "kubernetes"])
        .arg(&file)
        .arg("--run-dir")
        .arg(place.path().join("run"))
        .env("TRIALNET_STATE_DIR", place.path().join("state"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let records = || fs::read_to_string(place.path().join("run/records.jsonl")).unwrap_or_default();
    until("the run is ready", async || records().contains("\"ready\"")).await;
    network.kubectl(
        &["-n", &network.namespace, "rollout", "restart", "deployment/watcher"],
        "",
    );
    until("the run ends", async || child.try_wait().unwrap().is_some()).await;
    let verdict = fs::read_to_string(place.path().join("run/verdict.json")).unwrap();
    let verdict: Value = serde_json::from_str(&verdict).unwrap();
    let findings = verdict["findings"].as_array().unwrap();
    let found = |finding: &Value| finding["code"] == "liveness/exit" && finding["node"] == "full-0";
    assert!(findings.iter().any(found), "{verdict:#}");
    // The second generation of the node is the new revision's pod, and it is the one that is observed.
    let records = records();
    let (_, after) = records
        .split_once("\"generation\":2")
        .expect("a second generation of one node");
    let started = records[..records.len() - after.len()].lines().last().unwrap();
    assert!(
        started.contains("full-0") && started.contains("\"started\""),
        "{started}"
    );
    let observed = |line: &&str| line.contains("{\"sample\":{\"node\":\"full-0\"");
    assert!(after.lines().any(|line| observed(&line)), "nobody asks the new pod");
    let now = network.pods().await;
    let gone: Vec<_> = before.keys().filter(|name| !now.contains_key(*name)).collect();
    assert!(gone.len() == 1 && gone[0].starts_with("watcher-"), "{before:?} {now:?}");
}

#[tokio::test]
async fn a_network_of_somebody_else_is_judged_and_left_as_it_was() {
    let Some(api) = cluster().await else { return };
    let Some(program) = program() else { return };
    let network = Applied::up(&api, &program).await;
    let keys = tempfile::tempdir().unwrap();
    let credentials = network.credentials(keys.path());
    let run = |place: &Path, scenario: &str| run(place, scenario, &credentials);
    let (objects, pods) = (network.objects(), network.pods().await);
    let place = tempfile::tempdir().unwrap();
    let scenario = fs::read_to_string(fixture("attach.toml")).unwrap();
    let scenario = scenario.replace("NAMESPACE", &network.namespace);

    let (code, text) = run(place.path(), &scenario);
    println!("{text}");
    assert_eq!(code, Some(0), "{text}");
    for log in ["validator-2.tm.log", "full-0.tm.log"] {
        let log = fs::read_to_string(place.path().join("run/logs").join(log)).unwrap();
        assert!(log.contains("height"), "the log of the chain itself: {log}");
    }

    until("all pods run again", async || network.run().await).await;
    assert_eq!(network.objects(), objects, "nothing was made, changed or removed");
    let mut struck: Vec<&str> = vec!["tm-2"];
    let now = network.pods().await;
    let gone: Vec<&String> = pods.keys().filter(|name| !now.contains_key(*name)).collect();
    assert_eq!((now.len(), gone.len()), (5, 1), "{now:?}");
    assert!(gone[0].starts_with("watcher-"), "{gone:?}");
    struck.push(gone[0]);
    for (name, uid) in &pods {
        assert_eq!(
            now.get(name) != Some(uid),
            struck.contains(&name.as_str()),
            "{name}: {now:?}"
        );
    }
    let labelled = network.api.list::<Pod>(Some(&network.namespace), "").await.unwrap();
    for pod in labelled {
        assert!(
            !format!("{:?}", pod.metadata).contains("trialnet"),
            "{:?}",
            pod.metadata
        );
    }

    // One node too many in the file, and a namespace that is not there.
    let place = tempfile::tempdir().unwrap();
    let (code, text) = run(place.path(), &scenario.replace("count = 1", "count = 2"));
    assert_eq!(code, Some(96), "{text}");
    assert!(text.contains("infra/found-pods") && text.contains("tm-3"), "{text}");
    let place = tempfile::tempdir().unwrap();
    let (code, text) = run(place.path(), &scenario.replace(&network.namespace, "no-such-namespace"));
    assert_eq!(code, Some(96), "{text}");
    assert!(text.contains("no-such-namespace"), "{text}");
    assert_eq!(network.objects(), objects);
    assert_eq!(network.pods().await, now);
    let namespace = api.get::<Namespace>(None, &network.namespace).await.unwrap().unwrap();
    assert!(namespace.metadata.deletion_timestamp.is_none());
}
