//! Objects, namespaces and guards against a real cluster: they are made, they go, and nobody else's are touched.

use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{
    ConfigMap, Namespace, PersistentVolume, PersistentVolumeClaim, Pod, ResourceQuota, Secret,
};
use kube::api::{ApiResource, DeleteParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use trialnet::agent::registry::{self, InCluster};
use trialnet::backend::Trouble;
use trialnet::backend::kubernetes::api::{Api, Manifest};
use trialnet::backend::kubernetes::guard::{Guard, Setup, expires_in};
use trialnet::backend::kubernetes::objects::{EXPIRES, MANAGED_BY, MANAGER, OWNER, RUN, SCENARIO};
use trialnet::backend::kubernetes::provider::{self, Cluster, Flags};
use trialnet::backend::kubernetes::{gc, teardown};
use trialnet::env;
use trialnet::model::{Kubernetes, Ms};
use trialnet::record::Record;

/// For a machine that is busy with other tests; what is waited for takes a few seconds.
const LIMIT: Duration = Duration::from_secs(120);
pub(super) const EXE: &str = env!("CARGO_BIN_EXE_trialnet");

/// The cluster to test on.
pub(super) async fn cluster() -> Option<Api> {
    let (cluster, client) = found().await?;
    Some(Api::new(client).in_context(cluster.context))
}

/// The same, and how it was found.
#[expect(clippy::print_stderr, reason = "a test that is passed over says so")]
pub(super) async fn found() -> Option<(Cluster, Client)> {
    let found = async {
        let cluster = provider::choose(&Kubernetes::default(), &Flags::default())?;
        let client = cluster.client().await?;
        provider::answers(&client, provider::ANSWER_LIMIT).await?;
        Ok::<_, Trouble>((cluster, client))
    };
    match found.await {
        Ok(found) => Some(found),
        Err(trouble) => {
            assert!(
                !env::requires("cluster"),
                "{trouble}, and TRIALNET_REQUIRE asks for a cluster"
            );
            eprintln!("passed over: {trouble}");
            None
        }
    }
}

fn manifest<K: kube::Resource<DynamicType = ()>>(value: Value) -> Manifest {
    Manifest {
        resource: ApiResource::erase::<K>(&()),
        value,
    }
}

/// A namespace of a run of trialnet; removed when the test ends, also when it fails.
struct Space {
    api: Api,
    run: String,
    name: String,
}

impl Space {
    /// A name that nobody else has, for a namespace that does not exist yet.
    fn plan(api: &Api, purpose: &str) -> Self {
        let run = format!("{:08x}", rand::random::<u32>());
        Self {
            api: api.clone(),
            name: format!("wt-cluster-{purpose}-{run}"),
            run,
        }
    }

    fn namespace(&self, expires: &str) -> Manifest {
        manifest::<Namespace>(json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": {
            "name": self.name,
            "labels": {
                MANAGED_BY: MANAGER, RUN: self.run, SCENARIO: "cluster-test",
                "pod-security.kubernetes.io/enforce": "restricted",
            },
            "annotations": { OWNER: "test@here 1", EXPIRES: expires },
        } }))
    }

    async fn make(&self, expires: &str) {
        self.api.apply_manifests(&[self.namespace(expires)]).await.unwrap();
    }

    async fn exists(&self) -> bool {
        self.api.get::<Namespace>(None, &self.name).await.unwrap().is_some()
    }

    async fn expires(&self) -> String {
        let namespace = self.api.get::<Namespace>(None, &self.name).await.unwrap().unwrap();
        namespace.annotations()[EXPIRES].clone()
    }

    /// Waits until it is gone; how long that took.
    async fn gone(&self) -> Duration {
        let begun = Instant::now();
        until("the namespace is gone", async || !self.exists().await).await;
        begun.elapsed()
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        let (api, name) = (self.api.context().unwrap().to_owned(), self.name.clone());
        // A runtime of its own: this one may be on its way out.
        let removal = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async move {
                let client = provider::connect(None, &api).await.unwrap();
                let api = Api::new(client);
                if api.get::<Namespace>(None, &name).await.unwrap().is_some() {
                    drop(api.delete::<Namespace>(None, &name, &DeleteParams::background()).await);
                }
            });
        });
        drop(removal.join());
    }
}

/// Looks again and again until it is so.
pub(super) async fn until(what: &str, mut so: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !so().await {
        assert!(begun.elapsed() < LIMIT, "not within {LIMIT:?}: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Four pods that ignore SIGTERM as any first process does, with a claim each.
fn network(space: &Space, claims: bool) -> Vec<Manifest> {
    let labels = json!({ MANAGED_BY: MANAGER, RUN: space.run });
    let mut set = json!({ "apiVersion": "apps/v1", "kind": "StatefulSet",
        "metadata": { "name": "v", "namespace": space.name, "labels": labels },
        "spec": {
            "replicas": 4, "serviceName": "v", "podManagementPolicy": "Parallel",
            "selector": { "matchLabels": { "app": "v" } },
            "template": {
                "metadata": { "labels": { "app": "v", MANAGED_BY: MANAGER, RUN: space.run } },
                "spec": {
                    "terminationGracePeriodSeconds": 2, "automountServiceAccountToken": false,
                    "securityContext": { "runAsNonRoot": true, "runAsUser": 1000, "fsGroup": 1000, "seccompProfile": { "type": "RuntimeDefault" } },
                    "containers": [{
                        "name": "pause", "image": "registry.k8s.io/pause:3.10.1", "imagePullPolicy": "Never",
                        "resources": { "requests": { "cpu": "10m", "memory": "8Mi" } },
                        "securityContext": { "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } },
                    }],
                },
            },
        } });
    if claims {
        set["spec"]["volumeClaimTemplates"] = json!([{ "metadata": { "name": "home" }, "spec": {
            "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Mi" } } } }]);
        set["spec"]["template"]["spec"]["containers"][0]["volumeMounts"] =
            json!([{ "name": "home", "mountPath": "/data/home" }]);
    }
    vec![
        manifest::<k8s_openapi::api::apps::v1::StatefulSet>(set),
        manifest::<ConfigMap>(json!({ "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": { "name": "v", "namespace": space.name, "labels": labels }, "data": { "f0": "x" } })),
        space.namespace(&expires_in(Ms::secs(600))),
    ]
}

async fn running(space: &Space) -> usize {
    let pods = space.api.list::<Pod>(Some(&space.name), "").await.unwrap();
    let phase = |pod: &&Pod| pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running");
    pods.iter().filter(phase).count()
}

async fn volumes(space: &Space) -> usize {
    let volumes = space.api.list::<PersistentVolume>(None, "").await.unwrap();
    let ours = |volume: &&PersistentVolume| {
        let claim = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
        claim.and_then(|claim| claim.namespace.as_ref()) == Some(&space.name)
    };
    volumes.iter().filter(ours).count()
}

#[tokio::test]
async fn a_network_is_made_and_removed_with_its_volumes() {
    let Some(api) = cluster().await else { return };
    for claims in [false, true] {
        let space = Space::plan(&api, "network");
        let begun = Instant::now();
        api.apply_manifests(&network(&space, claims)).await.unwrap();
        // Again, as after an answer that was lost.
        api.apply_manifests(&network(&space, claims)).await.unwrap();
        let applied = begun.elapsed();
        until("four pods run", async || running(&space).await == 4).await;
        let up = begun.elapsed();
        assert_eq!(volumes(&space).await, if claims { 4 } else { 0 });
        let begun = Instant::now();
        let left = teardown::remove(&api, &space.name, teardown::LIMIT).await;
        let took = begun.elapsed();
        println!("claims: {claims}: applied twice in {applied:?}, four pods run after {up:?}, removed in {took:?}");
        assert_eq!(left, [""; 0]);
        assert!(!space.exists().await);
        assert_eq!(volumes(&space).await, 0);
        let claimed = api.list::<PersistentVolumeClaim>(Some(&space.name), "").await.unwrap();
        assert!(claimed.is_empty());
        // There is nothing any more, which is no error.
        assert_eq!(teardown::remove(&api, &space.name, teardown::LIMIT).await, [""; 0]);
    }
}

#[tokio::test]
async fn refusals_of_the_server_are_told_apart() {
    let Some(api) = cluster().await else { return };
    let space = Space::plan(&api, "refused");
    let config = |name: &str, extra: (&str, Value)| {
        let mut value =
            json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name, "namespace": space.name } });
        value[extra.0] = extra.1;
        manifest::<ConfigMap>(value)
    };
    let code = async |object: Manifest| {
        let trouble = api.apply_manifests(&[object]).await.unwrap_err();
        println!("{} {trouble}", trouble.code);
        trouble.code
    };
    assert_eq!(
        code(config("early", ("data", json!({ "a": "b" })))).await,
        "infra/object-missing"
    );
    space.make(&expires_in(Ms::secs(600))).await;
    assert_eq!(
        code(config("wrong", ("dada", json!({ "a": "b" })))).await,
        "infra/object-invalid"
    );
    assert_eq!(
        code(config("Wrong_Name", ("data", json!({})))).await,
        "infra/object-invalid"
    );
    let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "root", "namespace": space.name },
        "spec": { "containers": [{ "name": "a", "image": "a" }] } });
    assert_eq!(code(manifest::<Pod>(pod)).await, "infra/object-refused");
    let quota = manifest::<ResourceQuota>(json!({ "apiVersion": "v1", "kind": "ResourceQuota",
        "metadata": { "name": "small", "namespace": space.name }, "spec": { "hard": { "count/secrets": "0" } } }));
    api.apply_manifests(&[quota]).await.unwrap();
    let secret = manifest::<Secret>(json!({ "apiVersion": "v1", "kind": "Secret",
        "metadata": { "name": "key", "namespace": space.name } }));
    // It holds once its controller has counted.
    until("the quota counts", async || {
        let quota = api
            .get::<ResourceQuota>(Some(&space.name), "small")
            .await
            .unwrap()
            .unwrap();
        quota.status.is_some_and(|status| status.hard.is_some())
    })
    .await;
    assert_eq!(code(secret).await, "infra/quota");
    drop(
        api.delete::<Namespace>(None, &space.name, &DeleteParams::background())
            .await,
    );
    let late = code(config("late", ("data", json!({})))).await;
    assert!(
        ["infra/namespace-gone", "infra/object-missing"].contains(&late.as_str()),
        "{late}"
    );
}

#[tokio::test]
async fn a_stuck_finalizer_is_reported() {
    let Some(api) = cluster().await else { return };
    let space = Space::plan(&api, "stuck");
    space.make(&expires_in(Ms::secs(600))).await;
    let held = |finalizers: Value| {
        manifest::<ConfigMap>(json!({ "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": { "name": "held", "namespace": space.name, "finalizers": finalizers } }))
    };
    api.apply_manifests(&[held(json!(["example.com/stuck"]))])
        .await
        .unwrap();
    let mut left = Vec::new();
    // The namespace's controller gives its reason after 5 s, or later when it has much to do.
    until("the finalizer is named", async || {
        left = teardown::remove(&api, &space.name, Duration::from_secs(8)).await;
        left[0].contains("example.com/stuck")
    })
    .await;
    println!("{left:?}");
    assert!(space.exists().await);
    let free = json!({ "metadata": { "finalizers": null } });
    assert_eq!(api.merge::<ConfigMap>(Some(&space.name), "held", &free).await, Ok(true));
    assert_eq!(teardown::remove(&api, &space.name, teardown::LIMIT).await, [""; 0]);
}

#[tokio::test]
async fn what_is_not_ours_is_never_touched() {
    let Some(api) = cluster().await else { return };
    let space = Space::plan(&api, "other");
    // A name like ours and even an expiry, but no label that says who made it.
    let mut namespace = space.namespace("2020-01-01T00:00:00Z");
    namespace.value["metadata"]["labels"] = json!({ RUN: space.run });
    api.apply_manifests(&[namespace]).await.unwrap();
    let left = teardown::remove(&api, &space.name, teardown::LIMIT).await;
    assert!(left[0].contains("was left alone"), "{left:?}");
    let state = tempfile::tempdir().unwrap();
    let output = trialnet(&state, &["gc"]);
    assert!(!text(&output).contains(&space.name), "{}", text(&output));
    assert!(space.exists().await);
    let namespace = api.get::<Namespace>(None, &space.name).await.unwrap().unwrap();
    assert!(namespace.metadata.deletion_timestamp.is_none());
}

fn trialnet(state: &tempfile::TempDir, args: &[&str]) -> Output {
    let mut command = Command::new(EXE);
    command.args(args).env("TRIALNET_STATE_DIR", state.path());
    command.output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[tokio::test]
async fn gc_removes_what_expired_and_ps_shows_it() {
    let Some(api) = cluster().await else { return };
    let state = tempfile::tempdir().unwrap();
    let (over, alive) = (Space::plan(&api, "over"), Space::plan(&api, "alive"));
    over.make("2020-01-01T00:00:00Z").await;
    alive.make(&expires_in(Ms::secs(600))).await;

    let shown = trialnet(&state, &["ps", "--check"]);
    assert_eq!(shown.status.code(), Some(96));
    let shown = text(&shown);
    let line = |name: &str| {
        shown
            .lines()
            .find(|line| line.starts_with(name))
            .unwrap_or_else(|| panic!("no {name} in\n{shown}"))
    };
    println!("{shown}");
    assert!(line(&over.name).contains("LEFT OVER") && line(&over.name).contains("test@here 1"));
    assert!(line(&alive.name).contains(" up ") && line(&alive.name).ends_with("0/0"));

    let dry = text(&trialnet(&state, &["gc", "--dry-run"]));
    assert!(
        dry.contains(&format!("would remove the namespace {}", over.name)),
        "{dry}"
    );
    assert!(over.exists().await);
    // It expired years ago, but not a hundred.
    let old = text(&trialnet(&state, &["gc", "--older-than", "100years"]));
    assert!(!old.contains(&over.name), "{old}");
    let done = text(&trialnet(&state, &["gc"]));
    assert!(done.contains(&format!("removed the namespace {}", over.name)), "{done}");
    assert!(!over.exists().await);
    assert!(alive.exists().await);
    assert!(!done.contains(&alive.name), "{done}");
    // What is in use does not count; other tests may leave something for a moment.
    let shown = trialnet(&state, &["ps", "--check"]);
    let (code, shown) = (shown.status.code(), text(&shown));
    assert!(shown.contains(&alive.name), "{shown}");
    assert_eq!(code == Some(96), shown.contains("LEFT OVER"), "{code:?}: {shown}");
}

#[tokio::test]
async fn a_cluster_that_does_not_answer_is_passed_over_unless_it_is_named() {
    let state = tempfile::tempdir().unwrap();
    let kubeconfig = state.path().join("kubeconfig");
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    // Nobody listens there, and nobody ever answers there.
    for address in ["127.0.0.1:1".to_owned(), silent.local_addr().unwrap().to_string()] {
        let server = format!("https://{address}");
        let config = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: kind-x\nclusters: [{{name: x, cluster: {{server: '{server}'}}}}]\n\
             contexts: [{{name: kind-x, context: {{cluster: x, user: x}}}}]\nusers: [{{name: x, user: {{}}}}]\n"
        );
        std::fs::write(&kubeconfig, config).unwrap();
        let run = |args: &[&str]| {
            let begun = Instant::now();
            let mut command = Command::new(EXE);
            command
                .args(args)
                .env("TRIALNET_STATE_DIR", state.path())
                .env("KUBECONFIG", &kubeconfig);
            (command.output().unwrap(), begun.elapsed())
        };
        let (output, took) = run(&["ps", "--check"]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
        assert_eq!(text(&output).trim(), "no run is up, and nothing is left over");
        assert!(took < Duration::from_secs(6), "{took:?}");
        let (output, _) = run(&["gc", "--context", "kind-x"]);
        assert_eq!(output.status.code(), Some(96), "{}", text(&output));
        assert!(text(&output).contains("API server"), "{}", text(&output));
    }
}

/// What a guard is told of a run in this namespace.
fn setup(space: &Space, state: &tempfile::TempDir, owner: u32) -> Setup {
    registry::prepare(state.path()).unwrap();
    Setup {
        run: space.run.clone(),
        scenario: "cluster-test".to_owned(),
        owner,
        run_dir: state.path().join("run"),
        state_dir: state.path().to_path_buf(),
        cluster: InCluster {
            kubeconfig: None,
            context: space.api.context().unwrap().to_owned(),
            namespace: space.name.clone(),
            created: None,
        },
        expiry: Ms::secs(600),
        renewal: Ms::secs(1),
    }
}

async fn spawn(space: &Space, state: &tempfile::TempDir) -> (Guard, mpsc::UnboundedReceiver<Record>) {
    let (records, reported) = mpsc::unbounded_channel();
    let setup = setup(space, state, std::process::id());
    let log = state.path().join("guard.log");
    (
        Guard::spawn(PathBuf::from(EXE).as_path(), &log, setup, records)
            .await
            .unwrap(),
        reported,
    )
}

#[tokio::test]
async fn a_guard_keeps_its_namespace_and_removes_it_when_asked() {
    let Some(api) = cluster().await else { return };
    let (space, state) = (Space::plan(&api, "asked"), tempfile::tempdir().unwrap());
    let (guard, mut reported) = spawn(&space, &state).await;
    assert_eq!(registry::list_runs_in(state.path()).len(), 1);
    let soon = expires_in(Ms::secs(60));
    space.make(&soon).await;
    until("the expiry moves", async || space.expires().await > soon).await;
    assert_eq!(guard.teardown(teardown::LIMIT).await, [""; 0]);
    assert!(!space.exists().await);
    assert!(registry::list_runs_in(state.path()).is_empty());
    assert!(reported.try_recv().is_err());
}

#[tokio::test]
async fn the_end_of_a_guard_is_reported_and_trialnet_removes_the_namespace_itself() {
    let Some(api) = cluster().await else { return };
    let (space, state) = (Space::plan(&api, "died"), tempfile::tempdir().unwrap());
    let (guard, mut reported) = spawn(&space, &state).await;
    space.make(&expires_in(Ms::secs(600))).await;
    kill(guard.pid());
    let Some(Record::Trouble { code, .. }) = reported.recv().await else {
        panic!("nothing reported")
    };
    assert_eq!(code, "infra/guard-died");
    assert_eq!(guard.teardown(teardown::LIMIT).await, [""; 0]);
    assert!(!space.exists().await);
    assert!(registry::list_runs_in(state.path()).is_empty());
}

#[tokio::test]
async fn a_guard_says_when_somebody_else_removes_its_namespace() {
    let Some(api) = cluster().await else { return };
    let (space, state) = (Space::plan(&api, "robbed"), tempfile::tempdir().unwrap());
    let (guard, mut reported) = spawn(&space, &state).await;
    let soon = expires_in(Ms::secs(60));
    space.make(&soon).await;
    until("the expiry moves", async || space.expires().await > soon).await;
    assert_eq!(teardown::remove(&api, &space.name, teardown::LIMIT).await, [""; 0]);
    let Some(Record::Trouble { code, .. }) = reported.recv().await else {
        panic!("nothing reported")
    };
    assert_eq!(code, "infra/namespace-gone");
    drop(guard);
    until("the guard forgets the run", async || {
        registry::list_runs_in(state.path()).is_empty()
    })
    .await;
}

fn kill(pid: u32) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
}

/// A process that stands for trialnet: it tells a guard its setup, and then lives until it is killed.
struct Stand {
    parent: Child,
    guard: Child,
}

impl Stand {
    fn start(space: &Space, state: &tempfile::TempDir) -> Self {
        let question = state.path().join("question.json");
        let script = format!("read -r _; cat {}; exec sleep 600", question.display());
        let mut parent = Command::new("sh")
            .args(["-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let ask = json!({ "id": 1, "ask": { "Setup": setup(space, state, parent.id()) } });
        std::fs::write(&question, format!("{ask}\n")).unwrap();
        let guard = Command::new(EXE)
            .args(["guard-kubernetes", "--protocol", "1"])
            .stdin(parent.stdout.take().unwrap())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut parent.stdin.take().unwrap(), b"\n").unwrap();
        Self { parent, guard }
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        for child in [&mut self.parent, &mut self.guard] {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

#[tokio::test]
async fn the_namespace_goes_when_trialnet_is_killed() {
    let Some(api) = cluster().await else { return };
    let (space, state) = (Space::plan(&api, "killed"), tempfile::tempdir().unwrap());
    let mut stand = Stand::start(&space, &state);
    api.apply_manifests(&network(&space, false)).await.unwrap();
    until("a pod runs", async || running(&space).await > 0).await;
    stand.parent.kill().unwrap();
    let took = space.gone().await;
    println!("gone {took:?} after SIGKILL");
    assert!(took < Duration::from_secs(60), "{took:?}");
    assert!(stand.guard.wait().unwrap().success());
    assert!(registry::list_runs_in(state.path()).is_empty());
}

#[tokio::test]
async fn a_guard_answers_sigterm_and_ignores_the_terminal() {
    let Some(api) = cluster().await else { return };
    let (space, state) = (Space::plan(&api, "term"), tempfile::tempdir().unwrap());
    let mut stand = Stand::start(&space, &state);
    let soon = expires_in(Ms::secs(60));
    space.make(&soon).await;
    until("the expiry moves", async || space.expires().await > soon).await;
    let pid = nix::unistd::Pid::from_raw(i32::try_from(stand.guard.id()).unwrap());
    use nix::sys::signal::{Signal, kill};
    for ignored in [Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT] {
        kill(pid, ignored).unwrap();
    }
    let now = space.expires().await;
    until("the expiry moves again", async || space.expires().await > now).await;
    kill(pid, Signal::SIGTERM).unwrap();
    space.gone().await;
    assert!(stand.guard.wait().unwrap().success());
}

#[tokio::test]
async fn gc_removes_what_a_dead_run_of_this_machine_left_before_it_expires() {
    let Some(api) = cluster().await else { return };
    let (space, state) = (Space::plan(&api, "both"), tempfile::tempdir().unwrap());
    let mut stand = Stand::start(&space, &state);
    until("the run is registered", async || {
        registry::list_runs_in(state.path()).len() == 1
    })
    .await;
    api.apply_manifests(&network(&space, false)).await.unwrap();
    stand.guard.kill().unwrap();
    stand.parent.kill().unwrap();
    stand.guard.wait().unwrap();
    stand.parent.wait().unwrap();
    let dry = text(&trialnet(&state, &["gc", "--dry-run"]));
    assert!(
        dry.contains(&format!("would remove the namespace {}", space.name)),
        "{dry}"
    );
    let done = gc::sweep_registered(state.path(), false, teardown::LIMIT).await;
    assert_eq!((done.done.len(), done.left.len()), (1, 0), "{done:?}");
    assert!(!space.exists().await, "{done:?}");
    assert!(registry::list_runs_in(state.path()).is_empty());
}
