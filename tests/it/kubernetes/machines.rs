//! A cluster of several machines: they are drained, fail and are given back, and what passes between them is cut and lost as on one.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use trialnet::backend::kubernetes::api::Api;
use trialnet::backend::kubernetes::machines::{CORDONED, OFF, room};
use trialnet::backend::kubernetes::objects::{NODE, pod_name};
use trialnet::env;

use super::agent::leaves_the_agents;
use super::cluster::{cluster, until};
use super::runs::{EXE, GONE, LIMIT, Run, four};
use crate::killed::{end_both, signal};

/// One for each of two nodes that are drained, and one for the others.
const NEEDED: usize = 3;

/// The cluster, if it has machines enough.
#[expect(clippy::print_stderr, reason = "a test that is passed over says so")]
async fn machines() -> Option<Api> {
    let api = cluster().await?;
    match room(&api, NEEDED - 1, true).await {
        Ok(_) => Some(api),
        Err(trouble) => {
            assert!(
                !env::requires("machines"),
                "{trouble}, and TRIALNET_REQUIRE asks for machines"
            );
            eprintln!("passed over: {trouble}");
            None
        }
    }
}

/// The machine on which a node of a run is.
async fn host(api: &Api, run: &Run, node: &str) -> Option<String> {
    let [namespace] = &run.namespaces().await[..] else {
        return None;
    };
    let pod = api
        .get::<Pod>(Some(&namespace.name_any()), &pod_name(node))
        .await
        .unwrap()?;
    pod.spec?.node_name
}

/// The machines on which the nodes of a run are.
async fn hosts(api: &Api, run: &Run) -> BTreeSet<String> {
    let [namespace] = &run.namespaces().await[..] else {
        panic!("no namespace:\n{}", run.words())
    };
    let pods = api.list::<Pod>(Some(&namespace.name_any()), NODE).await.unwrap();
    pods.into_iter().filter_map(|pod| pod.spec?.node_name).collect()
}

async fn takes_pods(api: &Api, machine: &str) -> bool {
    let node = api.get::<Node>(None, machine).await.unwrap().unwrap();
    node.spec.is_none_or(|spec| spec.unschedulable != Some(true))
}

/// No machine is cordoned, or says that a run has done it.
async fn all_are_given_back(api: &Api) {
    let begun = Instant::now();
    loop {
        let held = |node: &Node| {
            let cordoned = node.spec.as_ref().is_some_and(|spec| spec.unschedulable == Some(true));
            cordoned || [CORDONED, OFF].iter().any(|label| node.labels().contains_key(*label))
        };
        let machines = api.list::<Node>(None, "").await.unwrap();
        let held: Vec<String> = machines.iter().filter(|node| held(node)).map(Node::name_any).collect();
        if held.is_empty() {
            return;
        }
        assert!(begun.elapsed() < GONE, "still cordoned: {held:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// A shipped scenario under a name of its own.
fn shipped(path: &str) -> String {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios").join(path)).unwrap();
    // The first is the scenario's own; steps have names too.
    let own = text.lines().find(|line| line.starts_with("name = ")).unwrap();
    let text = text.replacen(own, "name = \"NAME\"", 1);
    if text.contains("[limits]") {
        return text;
    }
    format!("{text}\n[limits]\nstart = \"3m\"\n")
}

/// Every detail that a fault's state came with.
fn details(run: &Run, fault: &str, state: &str) -> Vec<String> {
    let records = run.records();
    let details = records.lines().filter_map(|line| {
        let record: Value = serde_json::from_str(line).ok()?;
        let record = record["record"]["fault"].clone();
        (record["id"] == fault && record["state"] == state).then(|| record["detail"].as_str().unwrap().to_owned())
    });
    details.collect()
}

/// A validator's machine, for as long as a test needs.
const DRAINED: &str = "[[steps]]\nid = \"away\"\ndrain = { nodes = [\"validator-1\"] }\n";

fn drained_for_long() -> String {
    let steps = format!("{DRAINED}[[steps]]\nwait = \"5m\"\n");
    four(&steps, "[limits]\nstart = \"3m\"\nrun = \"15m\"\n")
}

#[tokio::test]
async fn cometbft_goes_on_while_a_machine_is_drained_and_a_second_drain_is_refused() {
    let Some(api) = machines().await else { return };
    let mut run = Run::start(&api, &shipped("machines/kubernetes-drain.toml"));
    let code = run.ended(LIMIT * 2).await;
    assert_eq!(code, Some(0), "{}", run.words());
    for fault in ["first", "second"] {
        let [verified] = &details(&run, fault, "verified")[..] else {
            panic!("{fault} was not verified:\n{}", run.words())
        };
        assert!(
            verified.contains("takes no pods and has none of the network"),
            "{verified}"
        );
        println!("{fault}: {verified}; {:?}", details(&run, fault, "revert-verified"));
    }
    run.leaves_nothing().await;
    all_are_given_back(&api).await;
}

#[tokio::test]
async fn a_drain_beyond_the_quorum_is_refused() {
    let Some(api) = machines().await else { return };
    // The forecast leaves it be: nothing is expected while both may be away.
    let steps = "[[steps]]\ndrain = { nodes = [\"validator-1\", \"validator-2\"] }\n";
    let mut run = Run::start(&api, &four(steps, "[limits]\nstart = \"3m\"\n"));
    let code = run.ended(LIMIT * 2).await;
    assert_eq!(code, Some(96), "{}", run.words());
    assert!(run.words().contains("infra/eviction-refused"), "{}", run.words());
    run.leaves_nothing().await;
    all_are_given_back(&api).await;
    // That it is refused cannot be expected of one that is let go.
    let steps = "[[steps]]\ndrain = { nodes = [\"validator-1\"], refused = true }\n";
    let mut run = Run::start(&api, &four(steps, "[limits]\nstart = \"3m\"\n"));
    let code = run.ended(LIMIT * 2).await;
    assert_eq!(code, Some(100), "{}", run.words());
    assert!(run.words().contains("expect/not-refused"), "{}", run.words());
    run.leaves_nothing().await;
    all_are_given_back(&api).await;
}

#[tokio::test]
async fn a_drained_node_without_a_volume_moves_to_a_free_machine() {
    let Some(api) = machines().await else { return };
    let scenario = "format = 1\nname = \"NAME\"\n[network]\nchain = \"devnode\"\npersistence = \"ephemeral\"\n\
        [network.groups.validator]\nrole = \"validator\"\ncount = 1\n\
        [network.groups.full]\nrole = \"full\"\ncount = 1\n[limits]\nstart = \"3m\"\n\
        [[steps]]\nexpect.height = { at_least = 2, within = \"60s\" }\n\
        [[steps]]\nid = \"away\"\ndrain = { nodes = [\"full-0\"], wipe = true }\n\
        [[steps]]\nwait = \"15s\"\n[[steps]]\nheal = [\"away\"]\n\
        [[steps]]\nexpect.recovery = { of = \"away\", within = \"60s\" }\n";
    let mut run = Run::start(&api, scenario);
    run.says("\"ready\"").await;
    let before = host(&api, &run, "full-0").await.unwrap();
    run.says("takes no pods and has none of the network").await;
    until("it is on another machine", async || {
        host(&api, &run, "full-0").await.is_some_and(|host| host != before)
    })
    .await;
    assert!(!takes_pods(&api, &before).await);
    let code = run.ended(LIMIT * 2).await;
    assert_eq!(code, Some(0), "{}", run.words());
    run.leaves_nothing().await;
    all_are_given_back(&api).await;
}

#[tokio::test]
async fn a_drain_that_somebody_undoes_is_infrastructure() {
    let Some(api) = machines().await else { return };
    let steps = format!("{DRAINED}[[steps]]\nwait = \"5s\"\n[[steps]]\nheal = [\"away\"]\n");
    let mut run = Run::start(&api, &four(&steps, "[limits]\nstart = \"3m\"\n"));
    run.says("\"ready\"").await;
    let machine = host(&api, &run, "validator-1").await.unwrap();
    run.says("takes no pods and has none of the network").await;
    let patch = json!({ "spec": { "unschedulable": null } });
    api.merge::<Node>(None, &machine, &patch).await.unwrap();
    let code = run.ended(LIMIT * 2).await;
    assert_eq!(code, Some(96), "{}", run.words());
    assert!(run.words().contains("vanished before its end"), "{}", run.words());
    run.leaves_nothing().await;
    all_are_given_back(&api).await;
}

#[tokio::test]
async fn sigkill_of_trialnet_gives_a_drained_machine_back() {
    let Some(api) = machines().await else { return };
    let mut run = Run::start(&api, &drained_for_long());
    run.says("takes no pods and has none of the network").await;
    signal(u64::from(run.child.id()), Signal::SIGKILL);
    run.child.wait().unwrap();
    all_are_given_back(&api).await;
    run.leaves_nothing().await;
}

#[tokio::test]
async fn after_sigkill_of_trialnet_and_its_guard_gc_gives_a_drained_machine_back() {
    let Some(api) = machines().await else { return };
    let mut run = Run::start_with(&api, &drained_for_long(), |command, _| {
        command.env("TRIALNET_EXPIRY", "4");
    });
    run.says("\"ready\"").await;
    let machine = host(&api, &run, "validator-1").await.unwrap();
    run.says("takes no pods and has none of the network").await;
    let guard = run.entry().unwrap()["guard"]["pid"].as_u64().unwrap();
    end_both(u64::from(run.child.id()), guard);
    run.child.wait().unwrap();
    assert!(!takes_pods(&api, &machine).await);
    tokio::time::sleep(Duration::from_secs(6)).await;
    // On a machine that knows nothing of the run, and on its own.
    let elsewhere = tempfile::tempdir().unwrap();
    for state in [elsewhere.path().to_owned(), run.place.path().join("state")] {
        let output = Command::new(EXE)
            .arg("gc")
            .env("TRIALNET_STATE_DIR", state)
            .output()
            .unwrap();
        let words = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{output:?}");
        println!("{words}");
    }
    assert!(takes_pods(&api, &machine).await);
    all_are_given_back(&api).await;
    run.leaves_nothing().await;
}

/// A shipped scenario passes on nodes that are on several machines.
async fn passes_on_several_machines(api: &Api, path: &str) -> Run {
    let mut run = Run::start(api, &shipped(path));
    run.says("\"ready\"").await;
    let hosts = hosts(api, &run).await;
    assert!(hosts.len() > 1, "all on {hosts:?}");
    let code = run.ended(LIMIT * 2).await;
    assert_eq!(code, Some(0), "{}", run.words());
    run.leaves_nothing().await;
    run
}

#[tokio::test]
async fn cometbft_is_partitioned_over_several_machines() {
    let Some(api) = machines().await else { return };
    for path in ["cometbft/partition-2-2.toml", "cometbft/partition-minority.toml"] {
        passes_on_several_machines(&api, path).await;
    }
}

#[tokio::test]
async fn packets_are_lost_between_machines() {
    let Some(api) = machines().await else { return };
    for path in ["packets/kubernetes-one-way.toml", "packets/kubernetes-rain.toml"] {
        let run = passes_on_several_machines(&api, path).await;
        leaves_the_agents(&api, &run).await;
    }
}

#[tokio::test]
async fn cometbft_goes_on_while_machines_are_off() {
    let Some(api) = machines().await else { return };
    let mut run = Run::start(&api, &shipped("machines/kubernetes-outage.toml"));
    let code = run.ended(LIMIT * 4).await;
    assert_eq!(code, Some(0), "{}", run.words());
    for (fault, state) in [("off", "exited"), ("stuck", "paused")] {
        let verified = details(&run, fault, "verified").concat();
        assert!(
            verified.contains(&format!("is {state}")) && verified.contains("is silent"),
            "{verified}"
        );
        println!("{fault}: {verified}; {:?}", details(&run, fault, "revert-verified"));
    }
    run.leaves_nothing().await;
    all_are_given_back(&api).await;
}

/// The state of a machine's container.
fn state(machine: &str) -> String {
    let output = Command::new("docker")
        .args(["inspect", "--format", "{{.State.Status}}", machine])
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[tokio::test]
async fn sigkill_of_trialnet_switches_a_machine_on_again() {
    let Some(api) = machines().await else { return };
    let steps =
        "[[steps]]\nid = \"off\"\nmachine = { how = \"stop\", nodes = [\"validator-1\"] }\n[[steps]]\nwait = \"5m\"\n";
    for guard_too in [false, true] {
        let limits = "[limits]\nstart = \"3m\"\nrun = \"15m\"\n";
        let mut run = Run::start_with(&api, &four(steps, limits), |command, _| {
            command.env("TRIALNET_EXPIRY", "4");
        });
        run.says("\"ready\"").await;
        let machine = host(&api, &run, "validator-1").await.unwrap();
        run.says("is exited").await;
        assert_eq!(state(&machine), "exited");
        let child = u64::from(run.child.id());
        if guard_too {
            end_both(child, run.entry().unwrap()["guard"]["pid"].as_u64().unwrap());
        } else {
            signal(child, Signal::SIGKILL);
        }
        run.child.wait().unwrap();
        if guard_too {
            tokio::time::sleep(Duration::from_secs(6)).await;
            assert_eq!(state(&machine), "exited");
            let output = Command::new(EXE)
                .arg("gc")
                .env("TRIALNET_STATE_DIR", run.place.path().join("state"))
                .output();
            println!("{}", String::from_utf8_lossy(&output.unwrap().stdout));
        }
        until("the machine is on again", async || state(&machine) == "running").await;
        all_are_given_back(&api).await;
        let ready = |node: &Node| {
            let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
            conditions
                .into_iter()
                .any(|one| one.type_ == "Ready" && one.status == "True")
        };
        until("all machines are ready", async || {
            let machines = api.list::<Node>(None, "").await.unwrap();
            machines.iter().all(ready)
        })
        .await;
        run.leaves_nothing().await;
    }
}
