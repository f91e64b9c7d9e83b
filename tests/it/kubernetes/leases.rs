//! Faults end by themselves when trialnet and its guard are killed: at random moments, with faults of all kinds on, seen by looks of our own.

use std::process::Command;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::ResourceExt;
use kube::api::DeleteParams;
use rand::RngExt;
use trialnet::backend::kubernetes::api::Api;

use super::agent::{LEASE, MORE, ask, gc, height, leaves_the_agents};
use super::cluster::cluster;
use super::runs::{Run, four};
use super::stress::{holding, limited, some_bytes};
use crate::killed::end_both;

/// Twenty-five in full; each takes half a minute.
fn trials() -> usize {
    let asked = std::env::var("TRIALNET_TRIALS").ok().and_then(|text| text.parse().ok());
    asked.unwrap_or(3).min(25)
}

/// The steps of a run with faults on; `BYTES` stands for a number that no other process holds.
const STRUCK: [&str; 6] = [
    "[[steps]]\nid = \"cut\"\n\
     partition = { sides = [[\"validator-0\", \"validator-1\"], [\"validator-2\", \"validator-3\"]] }\n\
     [[steps]]\nexpect.halt = { of = \"cut\", for = \"5m\" }\n",
    "[[steps]]\npause = { nodes = [\"validator-3\"] }\n\
     [[steps]]\ndelay = { nodes = [\"all\", \"!validator-3\"], latency = \"600ms\" }\n[[steps]]\nwait = \"5m\"\n",
    "[[steps]]\nstop = { nodes = [\"validator-2\"] }\n\
     [[steps]]\nstress = { nodes = [\"validator-0\", \"validator-1\"], memory = \"BYTES\" }\n[[steps]]\nwait = \"5m\"\n",
    "[[steps]]\nkill = { nodes = [\"validator-0\"] }\n\
     [[steps]]\nloss = { nodes = [\"all\", \"!validator-0\"], percent = 20 }\n[[steps]]\nwait = \"5m\"\n",
    "[[steps]]\nisolate = { nodes = [\"validator-1\"] }\n\
     [[steps]]\nbandwidth = { nodes = [\"all\", \"!validator-1\"], rate = \"200kbit\" }\n[[steps]]\nwait = \"5m\"\n",
    "[[steps]]\nid = \"mute\"\n\
     partition = { sides = [[\"validator-0\", \"validator-1\"], [\"validator-2\", \"validator-3\"]], direction = \"one-way\" }\n\
     [[steps]]\nexpect.halt = { of = \"mute\", for = \"5m\" }\n",
];

const NODES: [&str; 4] = ["validator-0", "validator-1", "validator-2", "validator-3"];

/// The heights of those that answer.
async fn heights(api: &Api, namespace: &str) -> Vec<u64> {
    let all = futures::future::join_all(NODES.map(|node| height(api, namespace, node))).await;
    all.into_iter().flatten().collect()
}

/// The longest time between two of the last blocks.
async fn interval(api: &Api, namespace: &str) -> Option<Duration> {
    let chain = ask(api, namespace, NODES[0], "blockchain").await?;
    let times = chain["result"]["block_metas"].as_array()?.iter().take(4);
    let times = times.map(|meta| humantime::parse_rfc3339(meta["header"]["time"].as_str()?).ok());
    let times: Vec<_> = times.collect::<Option<_>>()?;
    times
        .windows(2)
        .map(|two| two[0].duration_since(two[1]).unwrap_or_default())
        .max()
}

/// Which packets of these addresses the kernel of the machine loses or slows, in any network namespace.
fn struck_packets(addresses: &[String]) -> Vec<String> {
    let script =
        "for space in /var/run/netns/*; do nsenter --net=$space nft list table ip trialnet 2>/dev/null; done; true";
    let output = Command::new("docker")
        .args(["exec", &machine(), "sh", "-c", script])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let rules = String::from_utf8(output.stdout).unwrap();
    rules
        .lines()
        .filter(|line| line.contains("elements") && addresses.iter().any(|one| line.contains(&format!("{one} "))))
        .map(str::to_owned)
        .collect()
}

/// The one node of the kind cluster.
fn machine() -> String {
    let args = ["get", "nodes", "--output", "jsonpath={.items[0].metadata.name}"];
    let output = Command::new("kubectl").args(args).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn faults_end_with_their_lease() {
    let Some(api) = cluster().await else { return };
    let first = rand::rng().random_range(0..STRUCK.len());
    for trial in 0..trials() {
        let bytes = some_bytes();
        let steps = STRUCK[(first + trial) % STRUCK.len()].replace("BYTES", &bytes.to_string());
        let mut run = Run::start(&api, &four(&steps, &limited()));
        run.says("\"state\":\"injected\"").await;
        let more = Duration::from_millis(rand::rng().random_range(0..4000));
        tokio::time::sleep(more).await;
        let namespace = run.namespaces().await[0].name_any();
        let pods = api.list::<Pod>(Some(&namespace), "").await.unwrap();
        let addresses = pods
            .into_iter()
            .filter_map(|pod| pod.status?.pod_ip)
            .collect::<Vec<_>>();
        let guard = run.entry().unwrap()["guard"]["pid"].as_u64().unwrap();
        end_both(u64::from(run.child.id()), guard);
        let begun = Instant::now();
        run.child.wait().unwrap();
        println!(
            "{}: killed {more:?} after the first fault was injected:\n{steps}",
            run.name
        );
        let tip = heights(&api, &namespace).await.into_iter().max().unwrap();
        // Connections whose packets were lost for long send again only after another few seconds.
        let limit = if steps.contains("one-way") {
            (LEASE + MORE) * 2
        } else {
            LEASE + MORE
        };
        let mut seen = String::new();
        loop {
            let now = heights(&api, &namespace).await;
            let interval = interval(&api, &namespace).await;
            let (packets, held) = (struck_packets(&addresses), holding(bytes));
            let moves = now.len() == 4 && now.iter().all(|height| *height > tip + 3);
            let quick = interval.is_some_and(|interval| interval < Duration::from_millis(600));
            if moves && quick && packets.is_empty() && held.is_empty() {
                break;
            }
            seen =
                format!("heights {now:?} after {tip}, {interval:?} between blocks, {packets:?}, {held:?} hold {bytes}");
            assert!(begun.elapsed() < limit, "{seen}");
        }
        println!("all was over {:?} after SIGKILL; before: {seen}", begun.elapsed());
        // Nobody is left who would remove it before it expires.
        let background = DeleteParams::background();
        api.delete::<Namespace>(None, &namespace, &background).await.unwrap();
        gc(&run.place.path().join("state"));
        run.leaves_nothing().await;
        leaves_the_agents(&api, &run).await;
        run.can_be_judged();
    }
}
