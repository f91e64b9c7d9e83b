//! What keeps a run from working and is not the chain's fault: each ends it soon after the fact, as infrastructure, and the words name
//! the cause.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Event, Namespace, Pod, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::ResourceExt;
use kube::api::{DeleteParams, PostParams};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use trialnet::backend::kubernetes::access::{self, Who};
use trialnet::backend::kubernetes::api::{Api, Manifest};
use trialnet::backend::kubernetes::image;
use trialnet::backend::kubernetes::provider::{self, Flags};
use trialnet::model::Kubernetes;

use super::cluster::cluster;
use super::runs::{LIMIT, Run, four};

/// Between the fact and the finding.
const SOON: Duration = Duration::from_secs(15);

/// Two CometBFT validators of a version that is this.
fn of_version(version: &str, more: &str) -> String {
    format!(
        "format = 1\nname = \"NAME\"\n[versions.\"0.38.17\"]\n{version}\n{more}\n\
         [network]\nchain = \"cometbft\"\nversion = \"0.38.17\"\n\
         [network.groups.validator]\nrole = \"validator\"\ncount = 2\n\
         [[steps]]\nexpect.height = {{ at_least = 2, within = \"60s\" }}\n"
    )
}

/// The run ends by itself as infrastructure with this code on a validator, [`SOON`] after an event with such words was there.
async fn fails(api: &Api, mut run: Run, fact: &str, code: &str, words: &[&str]) {
    let begun = Instant::now();
    let mut known = None;
    let trouble = format!("\"{code}\"");
    while !run.records().contains(&trouble) {
        if known.is_none() && seen(api, &run, fact).await {
            known = Some(Instant::now());
        }
        assert!(begun.elapsed() < LIMIT, "no {code}:\n{}", run.words());
        let over = run.child.try_wait().unwrap().is_some() && !run.records().contains(&trouble);
        assert!(!over, "it ended without {code}:\n{}", run.words());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let took = known.map(|known| known.elapsed()).unwrap_or_default();
    println!("{code}: {took:?} after {fact:?}");
    assert!(took < SOON, "{took:?}");
    ends_as_infrastructure(&mut run, code, words).await;
}

/// Whether the namespace has an event, or a container a state, with these words.
async fn seen(api: &Api, run: &Run, fact: &str) -> bool {
    for namespace in run.namespaces().await {
        let name = namespace.name_any();
        let events = api.list::<Event>(Some(&name), "").await.unwrap_or_default();
        let said = |event: &Event| {
            let words = event.message.clone().unwrap_or_default() + &event.reason.clone().unwrap_or_default();
            words.contains(fact)
        };
        if events.iter().any(said) {
            return true;
        }
    }
    false
}

/// Exit code 96, a verdict of infrastructure whose first finding has this code and these words, and nothing is left.
async fn ends_as_infrastructure(run: &mut Run, code: &str, words: &[&str]) {
    let exit = run.ended(LIMIT).await;
    let verdict = run.verdict();
    let finding = &verdict["findings"][0];
    assert_eq!(
        (exit, &verdict["verdict"]),
        (Some(96), &json!("infrastructure")),
        "{}",
        run.words()
    );
    assert_eq!(finding["code"], code, "{finding}");
    assert_eq!(finding["class"], "infrastructure", "{finding}");
    let seen = finding["seen"].as_str().unwrap().to_owned() + finding["expected"].as_str().unwrap();
    for word in words {
        assert!(seen.contains(word), "{seen:?} does not say {word:?}");
    }
    run.leaves_nothing().await;
}

#[tokio::test]
async fn an_image_that_nobody_has() {
    let Some(api) = cluster().await else { return };
    let image = "image = \"localhost:1/nobody/nothing:1\"";
    let run = Run::start(&api, &of_version(image, ""));
    let words = [
        "localhost:1/nobody/nothing:1",
        "kubectl -n trialnet-shown-",
        "describe pod",
    ];
    fails(&api, run, "ErrImageNeverPull", "infra/image", &words).await;
    let pulled = of_version(image, "[backend.kubernetes]\npull_policy = \"if-not-present\"");
    let run = Run::start(&api, &pulled);
    fails(&api, run, "Failed to pull image", "infra/image", &words).await;
}

#[tokio::test]
async fn a_quota_that_is_too_small() {
    let Some(api) = cluster().await else { return };
    let run = Run::start(&api, &four("", "[backend.kubernetes.quota]\npods = \"2\"\n"));
    fails(
        &api,
        run,
        "exceeded quota",
        "infra/quota",
        &["exceeded quota", "pods=2"],
    )
    .await;
}

#[tokio::test]
async fn a_node_of_the_cluster_without_room() {
    let Some(api) = cluster().await else { return };
    let run = Run::start(&api, &four("", "resources = { cpu = \"500\" }\n"));
    fails(
        &api,
        run,
        "Insufficient cpu",
        "infra/unschedulable",
        &["Insufficient cpu"],
    )
    .await;
}

/// The run ends by itself as infrastructure, and its teardown begins [`SOON`] after the fact; the first finding is returned.
async fn ends_soon_after(run: &mut Run, fact: impl Fn(&Run) -> bool) -> Value {
    let begun = Instant::now();
    let (mut known, mut over) = (None, None);
    while run.child.try_wait().unwrap().is_none() {
        if known.is_none() && fact(run) {
            known = Some(Instant::now());
        }
        if over.is_none() && run.records().contains("\"tearing-down\"") {
            over = Some(Instant::now());
        }
        assert!(begun.elapsed() < LIMIT, "it goes on:\n{}", run.words());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(fact(run), "it was for something else:\n{}", run.words());
    let known = known.unwrap_or_else(Instant::now);
    let took = over.unwrap_or_else(Instant::now).saturating_duration_since(known);
    println!("its teardown began {took:?} later");
    assert!(took < SOON, "{took:?}");
    assert_eq!(run.ended(LIMIT).await, Some(96), "{}", run.words());
    let verdict = run.verdict();
    assert_eq!(verdict["verdict"], "infrastructure", "{verdict:#}");
    verdict["findings"][0].clone()
}

/// What the containers of a component have said.
fn said(run: &Run, component: &str) -> String {
    let logs = std::fs::read_dir(run.folder().join("logs"));
    let logs = logs.into_iter().flatten().flatten().map(|file| file.path());
    let of = format!(".{component}.log");
    let logs = logs.filter(|path| path.to_string_lossy().ends_with(&of));
    logs.filter_map(|path| std::fs::read_to_string(path).ok()).collect()
}

#[tokio::test]
async fn a_program_that_ends_at_once() {
    let Some(api) = cluster().await else { return };
    // It does not know the chain's arguments, and says so. The supervisor holds it down, so that it is no loop.
    let mut run = Run::start(&api, &of_version("binary = \"/bin/ls\"", ""));
    let finding = ends_soon_after(&mut run, |run| run.records().contains("\"exited\"")).await;
    assert_eq!(finding["code"], "infra/exit-at-start", "{finding}");
    assert!(
        finding.to_string().contains("unrecognized option"),
        "its last lines: {finding}"
    );
    run.leaves_nothing().await;
}

#[tokio::test]
async fn a_container_with_too_little_memory() {
    let Some(api) = cluster().await else { return };
    if trialnet::backend::local::find_program("cometbft-0.38.17").is_none() {
        assert!(!trialnet::env::requires("chains"), "no cometbft-0.38.17 on PATH");
        return;
    }
    // An application that reads a line without an end, and keeps all of it.
    let app = "app = { binary = \"tail\", args = [\"/dev/zero\", \"unix://{socket}\"] }\n[network.groups";
    let resources = "count = 2\nresources = { memory = \"64Mi\", memory_limit = \"64Mi\" }";
    let scenario = of_version("binary = \"cometbft-0.38.17\"", "").replace("count = 2", resources);
    let scenario = scenario.replace("[network.groups", app);
    let mut run = Run::start(&api, &scenario);
    let finding = ends_soon_after(&mut run, |run| said(run, "app").contains("infra/out-of-memory")).await;
    // The latter where the line to the supervisor broke at that moment.
    let codes = ["infra/out-of-memory", "infra/exit-at-start"];
    assert!(codes.iter().any(|code| finding["code"] == *code), "{finding}");
    assert!(finding.to_string().contains("OOMKilled"), "{finding}");
    run.leaves_nothing().await;
}

/// A pod of somebody else whose program ends at once, and is started again by the kubelet for ever.
struct Loop {
    api: Api,
    namespace: String,
}

impl Loop {
    async fn make(api: &Api) -> Self {
        let chosen = provider::choose(&Kubernetes::default(), &Flags::default()).unwrap();
        let made = image::of_program(Path::new("/bin/ls")).unwrap();
        image::load(&chosen, std::slice::from_ref(&made)).await.unwrap();
        let namespace = format!("loop-it-{:08x}", rand::random::<u32>());
        let apply = |resource, value| {
            let manifest = Manifest { resource, value };
            async move { api.apply_manifests(&[manifest]).await.unwrap() }
        };
        let space = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace } });
        apply(kube::api::ApiResource::erase::<Namespace>(&()), space).await;
        let deployment = json!({ "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": { "name": "looping", "namespace": namespace },
            "spec": { "replicas": 1, "selector": { "matchLabels": { "app": "looping" } }, "template": {
                "metadata": { "labels": { "app": "looping" } },
                "spec": { "containers": [{ "name": "main", "image": made.tag, "imagePullPolicy": "Never",
                    "command": [made.program, "--no-such-flag"] }] } } } });
        apply(kube::api::ApiResource::erase::<Deployment>(&()), deployment).await;
        Self {
            api: api.clone(),
            namespace,
        }
    }

    /// Whether it has been started again at least so often.
    async fn restarted(&self, times: i32) -> bool {
        let pods = self.api.list::<Pod>(Some(&self.namespace), "").await.unwrap();
        let mut statuses = pods
            .into_iter()
            .filter_map(|pod| pod.status?.container_statuses)
            .flatten();
        statuses.any(|status| status.restart_count >= times)
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let context = self.api.context().unwrap();
        let delete = ["--context", context, "delete", "namespace", "--wait=false"];
        let deleted = Command::new("kubectl").args(delete).arg(&self.namespace).output();
        let deleted = deleted.unwrap();
        assert!(deleted.status.success() || std::thread::panicking(), "{deleted:?}");
    }
}

#[tokio::test]
async fn a_crash_loop() {
    let Some(api) = cluster().await else { return };
    let looping = Loop::make(&api).await;
    let begun = Instant::now();
    while !looping.restarted(1).await {
        assert!(begun.elapsed() < LIMIT, "the kubelet does not start it again");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let attach = format!(
        "chain = \"cometbft\"\nversion = \"0.38.17\"\nattach = {{ namespace = \"{}\", selector = \"app=looping\" }}",
        looping.namespace
    );
    let scenario = of_version("binary = \"cometbft-0.38.17\"", "").replace("count = 2", "count = 1");
    let scenario = scenario.replace("chain = \"cometbft\"\nversion = \"0.38.17\"", &attach);
    let begun = Instant::now();
    let mut run = Run::start(&api, &scenario);
    let code = run.ended(LIMIT).await;
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    assert_eq!(code, Some(96), "{}", run.words());
    let verdict = run.verdict();
    let finding = &verdict["findings"][0];
    assert_eq!(finding["code"], "infra/crash-loop", "{verdict:#}");
    assert!(
        finding.to_string().contains("unrecognized option"),
        "its last lines: {finding}"
    );
}

/// A way to the API server that can be shut, and a kubeconfig that takes it.
struct Door {
    open: watch::Sender<bool>,
    port: u16,
}

impl Door {
    async fn make() -> Self {
        let server = server_of(&kubeconfig());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (open, seen) = watch::channel(true);
        tokio::spawn(async move {
            loop {
                let (mut near, _) = listener.accept().await.unwrap();
                let (mut seen, server) = (seen.clone(), server.clone());
                if !*seen.borrow() {
                    continue;
                }
                tokio::spawn(async move {
                    let mut far = TcpStream::connect(server).await.unwrap();
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        _ = seen.wait_for(|open| !open) => {}
                    }
                });
            }
        });
        Self { open, port }
    }

    fn set(&self, open: bool) {
        self.open.send_replace(open);
    }
}

/// The kubeconfig of the tests, as it is.
fn kubeconfig() -> Value {
    let home = std::env::var("HOME").unwrap_or_default();
    let path = std::env::var("KUBECONFIG").unwrap_or_else(|_| format!("{home}/.kube/config"));
    serde_saphyr::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// The entry of a list of the kubeconfig that the current context names.
fn named<'a>(config: &'a mut Value, list: &str, what: &str) -> &'a mut Value {
    let current = config["current-context"].clone();
    let contexts = config["contexts"].as_array().unwrap();
    let context = contexts.iter().find(|context| context["name"] == current).unwrap();
    let name = context["context"][what].clone();
    let entries = config[list].as_array_mut().unwrap();
    &mut entries.iter_mut().find(|entry| entry["name"] == name).unwrap()[what]
}

/// Host and port of the API server.
fn server_of(config: &Value) -> String {
    let url = named(&mut config.clone(), "clusters", "cluster")["server"]
        .as_str()
        .unwrap()
        .to_owned();
    url.trim_start_matches("https://").trim_end_matches('/').to_owned()
}

/// A copy of the kubeconfig whose server is at this port of the loopback.
fn by_way_of(place: &Path, port: u16) -> PathBuf {
    let mut config = kubeconfig();
    named(&mut config, "clusters", "cluster")["server"] = json!(format!("https://127.0.0.1:{port}"));
    write(place, &config)
}

fn write(place: &Path, config: &Value) -> PathBuf {
    let path = place.join("kubeconfig");
    std::fs::write(&path, config.to_string()).unwrap();
    path
}

fn start_by(api: &Api, scenario: &str, config: impl FnOnce(&Path) -> PathBuf) -> Run {
    Run::start_with(api, scenario, |command, place| {
        command.env("KUBECONFIG", config(place));
    })
}

#[tokio::test]
async fn an_api_server_that_does_not_answer() {
    let Some(api) = cluster().await else { return };
    // One where nobody listens, and one that takes connections and says nothing.
    let closed = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    for port in [closed, mute.local_addr().unwrap().port()] {
        let begun = Instant::now();
        let mut run = start_by(&api, &four("", ""), |place| by_way_of(place, port));
        run.ended(LIMIT).await;
        let took = begun.elapsed();
        println!("unreachable: {took:?}");
        let reached = run.records();
        assert!(reached.contains("infra/cluster-unreachable"), "{}", run.words());
        assert!(took < SOON, "{took:?}\n{}", run.words());
        // The guard cannot ask whether something is left, and says so; nothing is.
        assert_eq!(run.child.wait().unwrap().code(), Some(96), "{}", run.words());
        assert!(run.namespaces().await.is_empty());
    }
}

/// A run that has just lost its way to the API server.
async fn cut_off(api: &Api) -> (Door, Run) {
    let door = Door::make().await;
    let scenario = four("[[steps]]\nwait = \"5m\"\n", "");
    let mut run = start_by(api, &scenario, |place| by_way_of(place, door.port));
    run.says("\"ready\"").await;
    door.set(false);
    (door, run)
}

#[tokio::test]
async fn an_api_server_that_goes_away() {
    let Some(api) = cluster().await else { return };
    let (door, mut run) = cut_off(&api).await;
    let begun = Instant::now();
    while !run.words().contains("infra/tunnel") {
        assert!(begun.elapsed() < SOON, "{}", run.words());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let took = begun.elapsed();
    println!("cut off: {took:?}");
    // It comes back, so that what is there can be removed.
    door.set(true);
    ends_as_infrastructure(&mut run, "infra/tunnel", &["API server"]).await;
}

#[tokio::test]
async fn an_api_server_that_stays_away() {
    let Some(api) = cluster().await else { return };
    let (door, mut run) = cut_off(&api).await;
    let begun = Instant::now();
    let code = run.ended(LIMIT).await;
    let took = begun.elapsed();
    println!("gone for good: {took:?}\n{}", run.words());
    assert!(took < SOON, "{took:?}\n{}", run.words());
    assert_eq!(code, Some(96), "{}", run.words());
    let words = run.words();
    assert!(
        words.contains("the API server has not answered") && words.contains("trialnet gc"),
        "{words}"
    );
    assert_eq!(run.namespaces().await.len(), 1, "nobody could remove it");
    // The guard is still at it.
    door.set(true);
    run.leaves_nothing().await;
}

/// A service account with a role; removed at the end.
struct Account {
    api: Api,
    name: String,
}

impl Account {
    /// The role that `trialnet rbac` prints, without one verb of one resource.
    async fn make(api: &Api, without: Option<(&str, &str)>) -> Self {
        let name = format!("trialnet-shown-{:08x}", rand::random::<u32>());
        let account = Self { api: api.clone(), name };
        let who = Who::ServiceAccount("default".into(), account.name.clone());
        let mut objects = access::role(&account.name, &who, access::Runs::default());
        if let Some((resource, verb)) = without {
            for rule in objects[0]["rules"].as_array_mut().unwrap() {
                let resources = rule["resources"].as_array().unwrap().clone();
                if resources.contains(&json!(resource)) {
                    rule["verbs"].as_array_mut().unwrap().retain(|known| known != verb);
                }
            }
        }
        objects.push(json!({ "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": { "name": account.name, "namespace": "default" } }));
        for value in objects {
            let resource = match value["kind"].as_str().unwrap() {
                "ClusterRole" => kube::api::ApiResource::erase::<ClusterRole>(&()),
                "ClusterRoleBinding" => kube::api::ApiResource::erase::<ClusterRoleBinding>(&()),
                "ServiceAccount" => kube::api::ApiResource::erase::<ServiceAccount>(&()),
                other => panic!("{other}"),
            };
            api.apply_manifests(&[Manifest { resource, value }]).await.unwrap();
        }
        account
    }

    /// A kubeconfig with its credentials.
    async fn kubeconfig(&self) -> Value {
        let accounts = kube::Api::<ServiceAccount>::namespaced(self.api.client().clone(), "default");
        let request = TokenRequest {
            spec: TokenRequestSpec {
                expiration_seconds: Some(3600),
                ..TokenRequestSpec::default()
            },
            ..TokenRequest::default()
        };
        let granted = accounts
            .create_token_request(&self.name, &PostParams::default(), &request)
            .await
            .unwrap();
        let mut config = kubeconfig();
        *named(&mut config, "users", "user") = json!({ "token": granted.status.unwrap().token });
        config
    }

    async fn remove(self) {
        let params = DeleteParams::background();
        self.api
            .delete::<ClusterRoleBinding>(None, &self.name, &params)
            .await
            .unwrap();
        self.api.delete::<ClusterRole>(None, &self.name, &params).await.unwrap();
        self.api
            .delete::<ServiceAccount>(Some("default"), &self.name, &params)
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn the_role_that_rbac_prints_suffices_and_without_one_verb_does_not() {
    let Some(api) = cluster().await else { return };
    let whole = Account::make(&api, None).await;
    let config = whole.kubeconfig().await;
    let steps = "[[steps]]\nkill = { nodes = [\"validator-0\"], down = \"1s\" }\n\
                 [[steps]]\nexpect.progress = { blocks = 2, within = \"60s\" }\n";
    let mut run = start_by(&api, &four(steps, ""), |place| write(place, &config));
    assert_eq!(run.ended(LIMIT).await, Some(0), "{}", run.words());
    run.leaves_nothing().await;
    whole.remove().await;

    let lacks = Account::make(&api, Some(("pods/portforward", "create"))).await;
    let config = lacks.kubeconfig().await;
    let begun = Instant::now();
    let mut run = start_by(&api, &four("", ""), |place| write(place, &config));
    run.ended(LIMIT).await;
    let took = begun.elapsed();
    assert!(took < SOON, "{took:?}");
    ends_as_infrastructure(
        &mut run,
        "infra/cluster-forbidden",
        &["create pods/portforward", "trialnet rbac"],
    )
    .await;
    lacks.remove().await;
}
