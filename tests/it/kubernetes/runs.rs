//! Runs on the cluster as a user starts them, what is left of them, and other people's objects.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Namespace, Node, PersistentVolume};
use kube::ResourceExt;
use kube::api::{ApiResource, DeleteParams, DynamicObject, ListParams};
use kube::discovery::{Discovery, Scope, verbs};
use serde_json::{Value, json};
use trialnet::backend::kubernetes::api::{Api, Manifest};
use trialnet::backend::kubernetes::objects::{MANAGED_BY, MANAGER, RUN};

use crate::killed::processes;

pub(super) const EXE: &str = env!("CARGO_BIN_EXE_trialnet");
/// How long a run may need for what it does by itself on a machine that is busy with others.
pub(super) const LIMIT: Duration = Duration::from_secs(180);
/// How long the cluster may take to be as before.
pub(super) const GONE: Duration = Duration::from_secs(60);

/// Four devnodes and these steps; `more` are tables of the file.
pub(super) fn four(steps: &str, more: &str) -> String {
    format!(
        "format = 1\nname = \"NAME\"\n[network]\nchain = \"devnode\"\n\
         [network.groups.validator]\nrole = \"validator\"\ncount = 4\n{more}\n\
         [[steps]]\nexpect.height = {{ at_least = 2, within = \"60s\" }}\n{steps}"
    )
}

/// A run with faults of every kind on, once it has come so far.
pub(super) const STRUCK: &str = r#"
[[steps]]
kill = { nodes = ["validator-3"] }
[[steps]]
delay = { nodes = ["all", "!validator-3"], latency = "20ms" }
[[steps]]
wait = "5m"
"#;

/// `trialnet run --backend kubernetes` in a place and under a name of its own.
pub(super) struct Run {
    pub(super) place: tempfile::TempDir,
    pub(super) name: String,
    pub(super) child: Child,
    api: Api,
}

impl Run {
    /// Starts a run of this file, in which `NAME` stands for the scenario's name.
    pub(super) fn start(api: &Api, scenario: &str) -> Self {
        Self::start_with(api, scenario, |_, _| {})
    }

    /// The same; `more` gets the command and the place.
    pub(super) fn start_with(api: &Api, scenario: &str, more: impl FnOnce(&mut Command, &Path)) -> Self {
        let place = tempfile::tempdir().unwrap();
        let name = format!("shown-{:08x}", rand::random::<u32>());
        let file = place.path().join("scenario.toml");
        fs::write(&file, scenario.replace("NAME", &name)).unwrap();
        let output = |name: &str| fs::File::create(place.path().join(name)).unwrap();
        let mut command = Command::new(EXE);
        command
            .args(["run", "--backend", "kubernetes"])
            .arg(&file)
            .arg("--run-dir")
            .arg(place.path().join("run"))
            .env("TRIALNET_STATE_DIR", place.path().join("state"))
            .env_remove("TRIALNET_SEED")
            .stdout(output("out"))
            .stderr(output("err"));
        more(&mut command, place.path());
        let child = command.spawn().unwrap();
        let api = api.clone();
        Self {
            place,
            name,
            child,
            api,
        }
    }

    pub(super) fn folder(&self) -> PathBuf {
        self.place.path().join("run")
    }

    pub(super) fn records(&self) -> String {
        fs::read_to_string(self.folder().join("records.jsonl")).unwrap_or_default()
    }

    /// What it has printed.
    pub(super) fn words(&self) -> String {
        let read = |name: &str| fs::read_to_string(self.place.path().join(name)).unwrap_or_default();
        read("err") + &read("out")
    }

    pub(super) fn verdict(&self) -> Value {
        let read = fs::read(self.folder().join("verdict.json"));
        serde_json::from_slice(&read.unwrap_or_else(|_| panic!("no verdict:\n{}", self.words()))).unwrap()
    }

    /// The run's entry in the registry, once there is one.
    pub(super) fn entry(&self) -> Option<Value> {
        let runs = fs::read_dir(self.place.path().join("state/runs")).ok()?;
        let path = runs
            .flatten()
            .map(|file| file.path())
            .find(|path| path.extension().is_some_and(|extension| extension == "json"))?;
        serde_json::from_slice(&fs::read(path).ok()?).ok()
    }

    /// What every name begins with that the run has in the cluster.
    pub(super) fn prefix(&self) -> String {
        format!("trialnet-{}-", self.name)
    }

    /// Its namespaces: none or one.
    pub(super) async fn namespaces(&self) -> Vec<Namespace> {
        let all = self.api.list::<Namespace>(None, "").await.unwrap();
        all.into_iter()
            .filter(|namespace| namespace.name_any().starts_with(&self.prefix()))
            .collect()
    }

    /// Waits for the end; the exit code.
    pub(super) async fn ended(&mut self, limit: Duration) -> Option<i32> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(begun.elapsed() < limit, "it runs after {limit:?}:\n{}", self.words());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until its records say this, while it runs.
    pub(super) async fn says(&mut self, what: &str) {
        let begun = Instant::now();
        while !self.records().contains(what) {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "it ended before it said {what}:\n{}", self.words());
            assert!(begun.elapsed() < LIMIT, "it never said {what}:\n{}", self.words());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// What is left of it, in words; quickly, without what needs many questions.
    async fn left(&self) -> Vec<String> {
        let mut left = processes(self.place.path());
        for namespace in self.namespaces().await {
            let status = namespace.status.clone().unwrap_or_default();
            left.push(format!("namespace {}: {status:?}", namespace.name_any()));
        }
        let volumes = self.api.list::<PersistentVolume>(None, "").await.unwrap();
        left.extend(volumes.iter().filter_map(|volume| {
            let claim = volume.spec.as_ref()?.claim_ref.as_ref()?.namespace.as_ref()?;
            claim
                .starts_with(&self.prefix())
                .then(|| format!("volume {} of {claim}", volume.name_any()))
        }));
        if let Some(entry) = self.entry() {
            left.push(format!("the registry still has {entry}"));
        }
        left
    }

    /// Nothing is left of it after [`GONE`]: namespace, claims, volumes, objects of the cluster, containers, processes, registry.
    pub(super) async fn leaves_nothing(&self) {
        let begun = Instant::now();
        loop {
            let mut left = self.left().await;
            if left.is_empty() {
                left = self.containers().await;
            }
            if left.is_empty() {
                break;
            }
            assert!(
                begun.elapsed() < GONE,
                "after {GONE:?} of {}:\n{}",
                self.name,
                left.join("\n")
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        println!("nothing of {} is left after {:?}", self.name, begun.elapsed());
        let of_cluster = cluster_scoped(&self.api, |object| object.name_any().contains(&self.name)).await;
        assert_eq!(of_cluster, [""; 0]);
    }

    /// Containers of its namespace that run, as the machines' own runtimes say, where those are to be asked (kind). The kubelet clears away what
    /// is left of one that ended once a minute.
    async fn containers(&self) -> Vec<String> {
        let filter = format!("labels.\"io.kubernetes.pod.namespace\"~=^{}", self.prefix());
        let mut found = Vec::new();
        for node in self.api.list::<Node>(None, "").await.unwrap() {
            let node = node.name_any();
            let ask = |arguments: &[&str]| {
                let mut command = Command::new("docker");
                command.args(["exec", &node, "ctr", "-n", "k8s.io"]).args(arguments);
                let output = command.stdin(Stdio::null()).output().ok()?;
                let list = String::from_utf8_lossy(&output.stdout).into_owned();
                output.status.success().then_some(list)
            };
            let (Some(ours), Some(running)) = (ask(&["containers", "ls", "-q", &filter]), ask(&["tasks", "ls", "-q"]))
            else {
                continue;
            };
            let runs = |id: &&str| running.lines().any(|running| running == *id);
            found.extend(ours.lines().filter(runs).map(|id| format!("container {id} on {node}")));
        }
        found
    }

    /// The folder can be judged, and the verdict is not green.
    pub(super) fn can_be_judged(&self) {
        if self.records().is_empty() {
            return;
        }
        let judged = Command::new(EXE).arg("judge").arg(self.folder()).output().unwrap();
        let code = judged.status.code();
        let text = String::from_utf8_lossy(&judged.stdout).into_owned() + &String::from_utf8_lossy(&judged.stderr);
        assert!(matches!(code, Some(3 | 96)), "exit code {code:?}:\n{text}");
    }
}

impl Drop for Run {
    /// A test that failed leaves nothing running: the guard removes the rest.
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// All objects that belong to no namespace and that are meant, as words.
async fn cluster_scoped(api: &Api, meant: impl Fn(&DynamicObject) -> bool) -> Vec<String> {
    let client = api.client().clone();
    let discovery = Discovery::new(client.clone()).run().await.unwrap();
    let mut found = Vec::new();
    for (resource, capabilities) in discovery.groups().flat_map(|group| group.recommended_resources()) {
        if capabilities.scope != Scope::Cluster || !capabilities.supports_operation(verbs::LIST) {
            continue;
        }
        let kind = resource.kind.clone();
        let all = kube::Api::<DynamicObject>::all_with(client.clone(), &resource);
        // Some of what is listed is another server's, which may be away.
        let listed = all.list(&ListParams::default()).await.map(|list| list.items);
        let objects = listed.unwrap_or_default();
        found.extend(
            (objects.iter().filter(|object| meant(object))).map(|object| format!("{kind} {}", object.name_any())),
        );
    }
    found
}

/// Objects of somebody else, made to be mistaken for a run's; removed at the end.
pub(super) struct Others {
    api: Api,
    tag: String,
    before: String,
}

const OTHER_KINDS: [(&str, &str, &str); 6] = [
    ("", "Namespace", "namespaces"),
    ("", "ConfigMap", "configmaps"),
    ("", "Secret", "secrets"),
    ("", "PersistentVolumeClaim", "persistentvolumeclaims"),
    ("apps", "StatefulSet", "statefulsets"),
    ("scheduling.k8s.io", "PriorityClass", "priorityclasses"),
];

fn resource(group: &str, kind: &str, plural: &str) -> ApiResource {
    let api_version = if group.is_empty() {
        "v1".to_owned()
    } else {
        format!("{group}/v1")
    };
    ApiResource {
        group: group.to_owned(),
        version: "v1".to_owned(),
        api_version,
        kind: kind.to_owned(),
        plural: plural.to_owned(),
    }
}

impl Others {
    /// A namespace named like a run's without its labels, one with the labels and no expiry, one labelled by another tool; in each what a node
    /// has; and an object of the cluster.
    pub(super) async fn make(api: &Api) -> Self {
        let tag = format!("{:08x}", rand::random::<u32>());
        let labels = [
            json!({}),
            json!({ MANAGED_BY: MANAGER, RUN: tag }),
            json!({ MANAGED_BY: "helm", RUN: tag }),
        ];
        let mut objects = vec![
            json!({ "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "value": 1,
            "metadata": { "name": format!("trialnet-{tag}"), "labels": { MANAGED_BY: "helm" } } }),
        ];
        for (number, labels) in labels.into_iter().enumerate() {
            let space = format!("trialnet-others-{tag}-{number}");
            objects.push(json!({ "apiVersion": "v1", "kind": "Namespace",
                "metadata": { "name": space, "labels": labels } }));
            let meta = json!({ "name": "validator-0", "namespace": space, "labels": { MANAGED_BY: MANAGER } });
            objects.push(json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": { "f0": "x" } }));
            objects.push(json!({ "apiVersion": "v1", "kind": "Secret", "metadata": meta }));
            objects.push(
                json!({ "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": meta, "spec": {
                "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Mi" } } } }),
            );
            objects.push(
                json!({ "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": meta, "spec": {
                "replicas": 0, "serviceName": "v", "selector": { "matchLabels": { "app": "v" } },
                "template": { "metadata": { "labels": { "app": "v" } },
                    "spec": { "containers": [{ "name": "v", "image": "registry.k8s.io/pause:3.10.1" }] } } } }),
            );
        }
        let manifests: Vec<Manifest> = objects
            .into_iter()
            .map(|value| {
                let kind = value["kind"].as_str().unwrap();
                let (group, kind, plural) = OTHER_KINDS.iter().find(|known| known.1 == kind).unwrap();
                let resource = resource(group, kind, plural);
                Manifest { resource, value }
            })
            .collect();
        let mut others = Self {
            api: api.clone(),
            tag,
            before: String::new(),
        };
        api.apply_manifests(&manifests).await.unwrap();
        others.before = others.now().await;
        assert_eq!(others.before.lines().count(), 16, "{}", others.before);
        others
    }

    /// What identifies each object, and what changes with it.
    async fn now(&self) -> String {
        let mut text = String::new();
        for (group, kind, plural) in OTHER_KINDS {
            let all = kube::Api::<DynamicObject>::all_with(self.api.client().clone(), &resource(group, kind, plural));
            let mut objects = all.list(&ListParams::default()).await.unwrap().items;
            objects.retain(|object| {
                let at = object.namespace().unwrap_or_else(|| object.name_any());
                // The cluster puts this one into every namespace, a moment later.
                at.contains(&self.tag) && object.name_any() != "kube-root-ca.crt"
            });
            objects.sort_by_key(|object| (object.namespace(), object.name_any()));
            for object in objects {
                let meta = &object.metadata;
                let spec = &object.data["spec"];
                writeln!(
                    text,
                    "{kind} {:?} {} {:?} {:?} {:?} {:?} {spec} {}",
                    meta.namespace,
                    object.name_any(),
                    meta.uid,
                    meta.deletion_timestamp,
                    meta.labels,
                    meta.annotations,
                    object.data["data"]
                )
                .unwrap();
            }
        }
        text
    }

    pub(super) async fn are_as_before(&self) {
        assert_eq!(self.now().await, self.before);
    }
}

impl Drop for Others {
    fn drop(&mut self) {
        let context = self.api.context().unwrap().to_owned();
        let tag = self.tag.clone();
        // A runtime of its own: this one may be on its way out.
        let removal = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async move {
                let client = trialnet::backend::kubernetes::provider::connect(None, &context)
                    .await
                    .unwrap();
                let api = Api::new(client.clone());
                for number in 0..3 {
                    let space = format!("trialnet-others-{tag}-{number}");
                    drop(api.delete::<Namespace>(None, &space, &DeleteParams::background()).await);
                }
                let (group, kind, plural) = OTHER_KINDS[5];
                let classes = kube::Api::<DynamicObject>::all_with(client, &resource(group, kind, plural));
                drop(
                    classes
                        .delete(&format!("trialnet-{tag}"), &DeleteParams::background())
                        .await,
                );
            });
        });
        drop(removal.join());
    }
}
