//! Packets that are lost between pods: the agents come when a plan needs them, hold what they were told no longer than somebody renews it, are
//! reached by nobody else, and go with the last run.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::ResourceExt;
use kube::api::{DeleteParams, LogParams};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use trialnet::agent::packets::protocol::PROTOCOL;
use trialnet::backend::kubernetes::api::{Api, Manifest};
use trialnet::backend::kubernetes::objects::{EXPIRES, pod_name};
use trialnet::backend::kubernetes::packets::{AGENTS, NAME, REGISTERED, SYSTEM};
use trialnet::backend::kubernetes::tunnel;

use super::cluster::{cluster, until};
use super::runs::{EXE, GONE, LIMIT, Run, four};
use crate::killed::{end_both, signal};

/// What an agent holds without a renewal, and what the cluster may take besides.
pub(super) const LEASE: Duration = Duration::from_secs(10);
pub(super) const MORE: Duration = Duration::from_secs(5);
/// Where agents listen.
const PORT: u16 = 20_900;

/// Two of four hear the two others no more, who go on hearing them.
pub(super) const DEAF: &str = r#"
[[steps]]
id = "deaf"
partition = { sides = [["validator-0", "validator-1"], ["validator-2", "validator-3"]], direction = "one-way" }
"#;

/// The same for as long as a test needs.
fn deaf_for_long() -> String {
    let steps = format!("{DEAF}[[steps]]\nexpect.halt = {{ of = \"deaf\", for = \"5m\" }}\n");
    four(&steps, "[limits]\nstart = \"3m\"\nrun = \"15m\"\n")
}

/// What the runs say that use the agents: their namespaces.
async fn users(api: &Api) -> Option<BTreeMap<String, String>> {
    let system = api.get::<Namespace>(None, SYSTEM).await.unwrap()?;
    let runs = system.annotations().iter();
    let runs = runs.filter_map(|(key, value)| Some((key.strip_prefix(REGISTERED)?.to_owned(), value.clone())));
    Some(runs.collect())
}

async fn uses(api: &Api, run: &Run) -> bool {
    let prefix = run.prefix();
    let users = users(api).await.unwrap_or_default();
    users.values().any(|namespace| namespace.starts_with(&prefix))
}

/// The run is off the agents, and they are gone unless others use them.
pub(super) async fn leaves_the_agents(api: &Api, run: &Run) {
    let begun = Instant::now();
    loop {
        let others = users(api).await;
        let prefix = run.prefix();
        let good = others
            .as_ref()
            .is_none_or(|users| !users.is_empty() && !users.values().any(|namespace| namespace.starts_with(&prefix)));
        if good {
            return;
        }
        assert!(begun.elapsed() < GONE, "after {GONE:?} of {}: {others:?}", run.name);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

pub(super) async fn agents(api: &Api) -> Vec<Pod> {
    api.list::<Pod>(Some(SYSTEM), &format!("{AGENTS}=true")).await.unwrap()
}

/// The first detail that a fault's state came with.
pub(super) fn detail(run: &Run, fault: &str, state: &str) -> String {
    let records = run.records();
    let found = records.lines().find_map(|line| {
        let record: Value = serde_json::from_str(line).ok()?;
        let record = record["record"]["fault"].clone();
        (record["id"] == fault && record["state"] == state).then(|| record["detail"].as_str().unwrap().to_owned())
    });
    found.unwrap_or_else(|| panic!("{fault} was never {state}:\n{}", run.words()))
}

/// The answer of a node's RPC, by a way of our own.
pub(super) async fn ask(api: &Api, namespace: &str, node: &str, path: &str) -> Option<Value> {
    let forward = tunnel::open(api.client().clone(), namespace, &pod_name(node), 26657).unwrap();
    let address = forward.endpoint().address;
    let answer = async {
        let answer = reqwest::get(format!("http://{address}/{path}")).await?;
        answer.json::<Value>().await
    };
    tokio::time::timeout(Duration::from_secs(3), answer).await.ok()?.ok()
}

/// The height of a devnode.
pub(super) async fn height(api: &Api, namespace: &str, node: &str) -> Option<u64> {
    let status = ask(api, namespace, node, "status").await?;
    status["result"]["sync_info"]["latest_block_height"]
        .as_str()?
        .parse()
        .ok()
}

/// Runs a shipped file of `scenarios/packets`, which passes.
async fn passes(api: &Api, file: &str) -> Run {
    let path =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("scenarios/packets/kubernetes-{file}.toml"));
    let text = std::fs::read_to_string(path).unwrap();
    let text = text.replace(&format!("name = \"packets-{file}\""), "name = \"NAME\"");
    let mut run = Run::start(api, &format!("{text}\n[limits]\nstart = \"3m\"\n"));
    let code = run.ended(LIMIT * 2).await;
    assert_eq!(code, Some(0), "{}", run.words());
    run.leaves_nothing().await;
    leaves_the_agents(api, &run).await;
    run
}

#[tokio::test]
async fn cometbft_halts_when_it_is_deaf_one_way() {
    let Some(api) = cluster().await else { return };
    let run = passes(&api, "one-way").await;
    let deaf = detail(&run, "deaf", "verified");
    assert!(deaf.contains("100.0 % lost in 4 directions (100.0 % asked)"), "{deaf}");
    assert!(deaf.contains("0.0 % lost in 8 directions (0.0 % asked)"), "{deaf}");
    // Connections that were open carry nothing either.
    assert!(deaf.contains("new and") && !deaf.contains("and 0 open"), "{deaf}");
    println!("{deaf}\n{}", detail(&run, "deaf", "revert-verified"));
}

#[tokio::test]
async fn cometbft_goes_on_in_the_rain() {
    let Some(api) = cluster().await else { return };
    let run = passes(&api, "rain").await;
    let rain = detail(&run, "rain", "verified");
    assert!(rain.contains("lost in 12 directions (30.0 % asked)"), "{rain}");
    println!("{rain}\n{}", detail(&run, "rain", "revert-verified"));
}

#[tokio::test]
async fn cometbft_goes_on_through_narrow_links() {
    let Some(api) = cluster().await else { return };
    let run = passes(&api, "narrow").await;
    let narrow = detail(&run, "narrow", "verified");
    assert!(narrow.contains("1mbit asked"), "{narrow}");
    let back = detail(&run, "narrow", "revert-verified");
    assert!(back.contains("0.0 % lost in 12 directions"), "{back}");
    println!("{narrow}\n{back}");
}

#[tokio::test]
async fn what_is_dropped_ends_with_the_pod() {
    let Some(api) = cluster().await else { return };
    let run = passes(&api, "dropped").await;
    for id in ["rain", "cut"] {
        let dropped = detail(&run, id, "dropped");
        assert!(dropped.contains("validator-3"), "{dropped}");
        println!("{id}: {dropped}; {}", detail(&run, id, "revert-verified"));
    }
}

#[tokio::test]
async fn only_the_links_that_are_named_are_narrow() {
    let Some(api) = cluster().await else { return };
    let steps = "[[steps]]\nid = \"slow\"\nbandwidth = { rate = \"10mbit\", between = [[\"validator-0\"], [\"validator-1\"]] }\n\
         [[steps]]\nid = \"slower\"\nbandwidth = { rate = \"400kbit\", nodes = [\"validator-1\"] }\n\
         [[steps]]\nheal = [\"slower\"]\n[[steps]]\nexpect.progress = { blocks = 3, within = \"40s\" }\n";
    let mut run = Run::start(&api, &four(steps, "[limits]\nstart = \"3m\"\n"));
    let code = run.ended(LIMIT * 2).await;
    assert_eq!(code, Some(0), "{}", run.words());
    let (slow, slower) = (detail(&run, "slow", "verified"), detail(&run, "slower", "verified"));
    assert!(slow.contains("of 2 directions; 10mbit asked"), "{slow}");
    assert!(slow.contains("0.0 % lost in 10 directions"), "{slow}");
    assert!(slower.contains("400kbit asked"), "{slower}");
    println!("{slow}\n{slower}\n{}", detail(&run, "slower", "revert-verified"));
    run.leaves_nothing().await;
    leaves_the_agents(&api, &run).await;
}

#[tokio::test]
async fn a_pod_that_takes_anothers_place_suffers_the_same() {
    let Some(api) = cluster().await else { return };
    // The last look, at the heal, sees whether the share is still lost in every direction, the new pod's included.
    let steps = "[[steps]]\nid = \"rain\"\nloss = { percent = 40 }\n\
         [[steps]]\nid = \"gone\"\nkill = { nodes = [\"validator-0\"], how = \"force-delete\" }\n\
         [[steps]]\nheal = [\"gone\"]\n[[steps]]\nheal = [\"rain\"]\n\
         [[steps]]\nexpect.progress = { blocks = 3, within = \"60s\" }\n";
    let mut run = Run::start(&api, &four(steps, "[limits]\nstart = \"3m\"\n"));
    let code = run.ended(LIMIT).await;
    assert_eq!(code, Some(0), "{}", run.words());
    assert!(detail(&run, "rain", "revert-verified").contains("0.0 % lost in 12 directions"));
    run.leaves_nothing().await;
    leaves_the_agents(&api, &run).await;
}

#[tokio::test]
async fn an_agent_that_does_nothing_is_caught() {
    let Some(api) = cluster().await else { return };
    let rain = "[[steps]]\nid = \"rain\"\nloss = { percent = 30 }\n[[steps]]\nwait = \"1s\"\n";
    let deaf = format!("{DEAF}[[steps]]\nexpect.halt = {{ of = \"deaf\", for = \"5s\" }}\n");
    let narrow = "[[steps]]\nid = \"narrow\"\nbandwidth = { rate = \"1mbit\" }\n[[steps]]\nwait = \"1s\"\n";
    for steps in [deaf.as_str(), rain, narrow] {
        let mut run = Run::start_with(&api, &four(steps, "[limits]\nstart = \"3m\"\n"), |command, _| {
            command.env("TRIALNET_GUARD_TAMPER", "cut-nothing");
        });
        let code = run.ended(LIMIT).await;
        assert_eq!(code, Some(96), "{}", run.words());
        let finding = &run.verdict()["findings"][0];
        assert_eq!(finding["code"], "infra/fault-no-effect", "{finding}");
        run.leaves_nothing().await;
        leaves_the_agents(&api, &run).await;
    }
}

#[tokio::test]
async fn after_sigkill_of_trialnet_and_its_guard_the_kernel_ends_the_fault() {
    let Some(api) = cluster().await else { return };
    let text = deaf_for_long();
    let mut run = Run::start_with(&api, &text, |command, _| {
        command.env("TRIALNET_EXPIRY", "4");
    });
    run.says("\"verified\"").await;
    let namespace = run.namespaces().await[0].name_any();
    // What was under way when the cut came has arrived.
    let mut held = 0;
    until("the chain stands", async || {
        let before = height(&api, &namespace, "validator-2").await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        held = height(&api, &namespace, "validator-2").await.unwrap_or_default();
        before == Some(held)
    })
    .await;
    let guard = run.entry().unwrap()["guard"]["pid"].as_u64().unwrap();
    end_both(u64::from(run.child.id()), guard);
    let begun = Instant::now();
    run.child.wait().unwrap();
    let agent = agents(&api).await;
    assert!(!agent.is_empty(), "the agents are there, and know nothing of it");
    // The packets pass again; connections that have waited for it send after another few seconds.
    let mut moved = begun.elapsed();
    until("the chain moves again", async || {
        moved = begun.elapsed();
        height(&api, &namespace, "validator-2").await > Some(held)
    })
    .await;
    println!("the chain moved {moved:?} after SIGKILL");
    assert!(moved < (LEASE + MORE) * 2, "{moved:?}");
    // Nobody is left who would take the run off.
    assert!(uses(&api, &run).await);
    let expired = async || {
        let namespaces = run.namespaces().await;
        let expires = humantime::parse_rfc3339(&namespaces[0].annotations()[EXPIRES]).unwrap();
        expires < std::time::SystemTime::now()
    };
    until("the namespace expires", expired).await;
    let elsewhere = tempfile::tempdir().unwrap();
    let done = gc(elsewhere.path());
    assert!(done.contains(&format!("removed the namespace {namespace}")), "{done}");
    assert!(done.contains("took it off the agents"), "{done}");
    gc(&run.place.path().join("state"));
    run.leaves_nothing().await;
    leaves_the_agents(&api, &run).await;
    run.can_be_judged();
}

pub(super) fn gc(state: &std::path::Path) -> String {
    let mut command = Command::new(EXE);
    let output = command.arg("gc").env("TRIALNET_STATE_DIR", state).output().unwrap();
    let words = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words}");
    words
}

/// A namespace with a pod that dials an address again and again.
struct Stranger<'a> {
    api: &'a Api,
    name: String,
}

impl<'a> Stranger<'a> {
    async fn dials(api: &'a Api, address: &str) -> Self {
        let name = format!("wt-stranger-{:08x}", rand::random::<u32>());
        let stranger = Self { api, name };
        // Trialnet's image is on the machines, and the way to run it is the agents' own.
        let set = api.get::<DaemonSet>(Some(SYSTEM), NAME).await.unwrap().unwrap();
        let container = set.spec.unwrap().template.spec.unwrap().containers.remove(0);
        let mut command = container.command.unwrap();
        command.truncate(command.iter().position(|word| word == "agent").unwrap());
        command.extend(["testnode", "--dial", address].map(str::to_owned));
        let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": stranger.name } });
        let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "stranger", "namespace": stranger.name },
            "spec": { "terminationGracePeriodSeconds": 0, "containers": [{ "name": "stranger", "image": container.image,
                "imagePullPolicy": "Never", "command": command }] } });
        let manifest = |value: Value, resource| Manifest { resource, value };
        let objects = [
            manifest(namespace, kube::api::ApiResource::erase::<Namespace>(&())),
            manifest(pod, kube::api::ApiResource::erase::<Pod>(&())),
        ];
        api.apply_manifests(&objects).await.unwrap();
        stranger
    }

    async fn address(&self) -> String {
        let mut address = None;
        until("the stranger runs", async || {
            let pod = self
                .api
                .get::<Pod>(Some(&self.name), "stranger")
                .await
                .unwrap()
                .unwrap();
            address = pod.status.and_then(|status| status.pod_ip);
            address.is_some()
        })
        .await;
        address.unwrap()
    }

    async fn leave(self) {
        let background = DeleteParams::background();
        self.api
            .delete::<Namespace>(None, &self.name, &background)
            .await
            .unwrap();
    }
}

async fn log(api: &Api, pod: &str) -> String {
    let pods: kube::Api<Pod> = kube::Api::namespaced(api.client().clone(), SYSTEM);
    let params = LogParams {
        limit_bytes: Some(1 << 20),
        ..LogParams::default()
    };
    pods.logs(pod, &params).await.unwrap_or_default()
}

/// What an agent says to these words of somebody who comes through a port-forward.
async fn told(api: &Api, pod: &str, words: &str) -> Value {
    let mut stream = tunnel::connect(api.client().clone(), SYSTEM, pod, PORT).await.unwrap();
    stream.write_all(words.as_bytes()).await.unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).await.unwrap();
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"))
}

#[tokio::test]
async fn nobody_else_is_heard() {
    let Some(api) = cluster().await else { return };
    let text = deaf_for_long();
    let mut run = Run::start(&api, &text);
    run.says("\"verified\"").await;
    let agent = agents(&api).await.remove(0);
    let name = agent.name_any();
    let status = agent.status.unwrap();

    // From a pod in another namespace, at the agent's address.
    let stranger = Stranger::dials(&api, &format!("{}:{PORT}", status.pod_ip.unwrap())).await;
    let address = stranger.address().await;
    let refused = format!("refused {address}:");
    until("the refusal is logged", async || {
        log(&api, &name).await.contains(&refused)
    })
    .await;
    stranger.leave().await;

    // Through a port-forward, by somebody who may do that but does not know the key.
    let hello = |protocol: u32| json!({ "Hello": { "protocol": protocol, "run": "cafe", "token": "0".repeat(64) } });
    let order = json!({ "Hold": { "lease": 60_000, "pods": [] } });
    for words in [order.to_string(), hello(PROTOCOL).to_string(), "hello".to_owned()] {
        let answer = told(&api, &name, &format!("{words}\n{order}\n")).await;
        assert_eq!(answer["Err"]["code"], "infra/agent-refused", "{answer}");
    }
    let log = log(&api, &name).await;
    assert!(log.contains("its token is not that of run \"cafe\""), "{log}");

    // The run itself was not disturbed.
    assert!(run.child.try_wait().unwrap().is_none(), "{}", run.words());
    signal(u64::from(run.child.id()), Signal::SIGINT);
    assert_eq!(run.ended(GONE).await, Some(3), "{}", run.words());
    run.leaves_nothing().await;
    leaves_the_agents(&api, &run).await;
}

#[tokio::test]
async fn runs_side_by_side_share_the_agents_and_the_last_one_removes_them() {
    let Some(api) = cluster().await else { return };
    let text = deaf_for_long();
    let mut runs = [Run::start(&api, &text), Run::start(&api, &text)];
    for run in &mut runs {
        run.says("\"verified\"").await;
    }
    let uid = async || api.get::<Namespace>(None, SYSTEM).await.unwrap().unwrap().uid();
    let before = uid().await;
    let [first, second] = &mut runs;
    assert!(uses(&api, first).await && uses(&api, second).await);
    signal(u64::from(first.child.id()), Signal::SIGINT);
    assert_eq!(first.ended(GONE).await, Some(3), "{}", first.words());
    assert!(!uses(&api, first).await && uses(&api, second).await);
    // A run that died with its guard, and whose namespace somebody has removed.
    let lost = format!("{:08x}", rand::random::<u32>());
    let patch = json!({ "metadata": { "annotations": { format!("{REGISTERED}{lost}"): "trialnet-lost" } } });
    assert_eq!(api.merge::<Namespace>(None, SYSTEM, &patch).await, Ok(true));
    let elsewhere = tempfile::tempdir().unwrap();
    let done = gc(elsewhere.path());
    assert!(done.contains(&format!("run {lost}: took it off the agents")), "{done}");
    assert_eq!(uid().await, before, "the second still needs them");
    signal(u64::from(second.child.id()), Signal::SIGTERM);
    assert_eq!(second.ended(GONE).await, Some(3), "{}", second.words());
    for run in &runs {
        run.leaves_nothing().await;
        leaves_the_agents(&api, run).await;
    }
}
