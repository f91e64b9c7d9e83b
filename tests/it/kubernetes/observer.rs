//! The observer as a pod: what it finds is what one here would find, also of the time in which the API server was out of reach.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kube::config::Kubeconfig;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::cluster::cluster;
use super::runs::{EXE, LIMIT, Run, four};

/// What makes the observer a pod.
const CLUSTER: &str = "[observe]\nfrom = \"cluster\"\n";
/// How long the API server is out of reach.
const OUTAGE: Duration = Duration::from_secs(15);

/// A way to the API server that can be cut: no byte comes through, open connections break, new ones end at once.
struct Way {
    address: SocketAddr,
    down: Arc<AtomicBool>,
    open: Arc<Mutex<Vec<CancellationToken>>>,
}

impl Way {
    async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let way = Self {
            address: listener.local_addr().unwrap(),
            down: Arc::default(),
            open: Arc::default(),
        };
        let (down, open) = (Arc::clone(&way.down), Arc::clone(&way.open));
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                if down.load(Ordering::Relaxed) {
                    continue;
                }
                let broken = CancellationToken::new();
                open.lock().unwrap().push(broken.clone());
                tokio::spawn(broken.run_until_cancelled_owned(async move {
                    let mut far = TcpStream::connect(server).await.unwrap();
                    drop(tokio::io::copy_bidirectional(&mut near, &mut far).await);
                }));
            }
        });
        way
    }

    async fn is_cut_for(&self, time: Duration) {
        self.down.store(true, Ordering::Relaxed);
        let open: Vec<_> = self.open.lock().unwrap().drain(..).collect();
        assert!(!open.is_empty(), "nothing goes this way");
        open.iter().for_each(CancellationToken::cancel);
        tokio::time::sleep(time).await;
        self.down.store(false, Ordering::Relaxed);
    }
}

/// The current kubeconfig, and the address of the server of its current context.
fn kubeconfig() -> (Kubeconfig, SocketAddr) {
    let config = Kubeconfig::read().unwrap();
    let name = config.current_context.clone().unwrap();
    let context = config.contexts.iter().find(|known| known.name == name).unwrap();
    let cluster = &context.context.as_ref().unwrap().cluster;
    let cluster = config.clusters.iter().find(|known| known.name == *cluster).unwrap();
    let url: http::Uri = cluster
        .cluster
        .as_ref()
        .unwrap()
        .server
        .as_ref()
        .unwrap()
        .parse()
        .unwrap();
    let address = format!("{}:{}", url.host().unwrap(), url.port_u16().unwrap_or(443));
    (config, address.parse().unwrap())
}

/// The same kubeconfig in a file that only its owner reads, with this server.
fn led_over(mut config: Kubeconfig, way: SocketAddr, file: &Path) {
    for cluster in &mut config.clusters {
        let cluster = cluster.cluster.as_mut().unwrap();
        cluster.server = Some(format!("https://{way}"));
    }
    let mut opened = {
        use std::os::unix::fs::OpenOptionsExt as _;
        std::fs::OpenOptions::new()
            .create_new(true)
            .write(true)
            .mode(0o600)
            .open(file)
            .unwrap()
    };
    opened
        .write_all(serde_saphyr::to_string(&config).unwrap().as_bytes())
        .unwrap();
}

fn records(run: &Run) -> Vec<Value> {
    run.records()
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}

/// Heights of the samples that were sent in a part of the run's time.
fn heights(records: &[Value], from: u64, to: u64) -> std::collections::BTreeSet<u64> {
    let samples = records.iter().filter_map(|line| line["record"].get("sample"));
    let within = samples.filter(|sample| (from..to).contains(&sample["sent"].as_u64().unwrap()));
    within.map(|sample| sample["height"].as_u64().unwrap()).collect()
}

/// The median time of an answer to the status request, in milliseconds.
fn answers(records: &[Value]) -> u64 {
    let samples = records.iter().filter_map(|line| line["record"].get("sample"));
    let mut took: Vec<u64> = samples.map(|sample| sample["took"].as_u64().unwrap()).collect();
    took.sort_unstable();
    took[took.len() / 2]
}

/// The folder alone gives the same verdict.
fn judged_again(run: &Run) {
    let judged = Command::new(EXE)
        .args(["judge", "--json"])
        .arg(run.folder())
        .output()
        .unwrap();
    let again: Value = serde_json::from_slice(&judged.stdout).unwrap();
    assert_eq!(again, run.verdict());
}

fn shipped(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios").join(file);
    let text = std::fs::read_to_string(path).unwrap();
    let name = text
        .lines()
        .find(|line| line.starts_with("name = "))
        .unwrap()
        .to_owned();
    text.replacen(&name, "name = \"NAME\"", 1)
}

#[tokio::test]
async fn the_quickstart_is_seen_from_within_as_from_here() {
    let Some(api) = cluster().await else { return };
    let mut took = Vec::new();
    for from in ["", CLUSTER] {
        let mut run = Run::start(&api, &(shipped("quickstart.toml") + from));
        let code = run.ended(LIMIT).await;
        assert_eq!(code, Some(0), "{}", run.words());
        judged_again(&run);
        let records = records(&run);
        assert_eq!(run.records().contains("\"observer\""), !from.is_empty());
        took.push(answers(&records));
        if !from.is_empty() {
            assert!(run.folder().join("logs/trialnet-observer-0.observer.log").exists());
        }
        run.leaves_nothing().await;
    }
    println!(
        "an answer took {} ms (median) through the API server, {} ms in the cluster",
        took[0], took[1]
    );
}

#[tokio::test]
async fn a_lie_is_caught_from_within() {
    let Some(api) = cluster().await else { return };
    let mut run = Run::start(&api, &(shipped("caught/another-hash.toml") + CLUSTER));
    let code = run.ended(LIMIT).await;
    assert_eq!(code, Some(100), "{}", run.words());
    let finding = run.verdict()["findings"][0].clone();
    assert_eq!(finding["code"], "safety/fork", "{finding}");
    assert_eq!(
        (&finding["node"], &finding["height"]),
        (&"liar-0".into(), &8.into()),
        "{finding}"
    );
    judged_again(&run);
    run.leaves_nothing().await;
}

/// A run over a way that is cut for a while once the chain is at a height; when that was, in the run's time.
async fn over_an_outage(scenario: &str, height: u64) -> Option<(Run, Option<i32>, std::ops::Range<u64>)> {
    let api = cluster().await?;
    let (config, server) = kubeconfig();
    let way = Way::to(server).await;
    let mut run = Run::start_with(&api, scenario, |command, place| {
        let file = place.join("kubeconfig");
        led_over(config, way.address, &file);
        command.env("KUBECONFIG", file);
    });
    run.says(&format!("\"height\":{height},")).await;
    run.says("\"phase\":\"running\"").await;
    let wall = records(&run)[0]["record"]["begin"]["wall"].as_u64().unwrap();
    let now = || u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap() - wall;
    let begin = now();
    way.is_cut_for(OUTAGE).await;
    let end = now();
    let code = run.ended(LIMIT).await;
    Some((run, code, begin..end))
}

#[tokio::test]
async fn an_outage_of_the_api_server_is_no_stall() {
    let steps = "[[steps]]\nwait = \"25s\"\n[[steps]]\nexpect.progress = { blocks = 3, within = \"10s\" }\n";
    let more = format!("[invariants]\nmax_stall = \"6s\"\n{CLUSTER}");
    let Some((run, code, outage)) = over_an_outage(&four(steps, &more), 3).await else {
        return;
    };
    assert_eq!(code, Some(0), "{}", run.words());
    assert_eq!(run.verdict()["findings"], Value::Array(Vec::new()));
    let records = records(&run);
    let seen = heights(&records, outage.start + 1000, outage.end - 1000);
    println!(
        "{} heights were seen in the {OUTAGE:?} without the API server",
        seen.len()
    );
    assert!(seen.len() >= 8, "{seen:?}");
    let (low, high) = (*seen.first().unwrap(), *seen.last().unwrap());
    assert!(high > low + 8, "{seen:?}");
    assert!(run.records().contains("\"connected\":false"), "the line did break");
    judged_again(&run);
    run.leaves_nothing().await;
}

#[tokio::test]
async fn a_chain_that_stops_in_an_outage_is_found() {
    // Two of four stop voting at a height that comes in the middle of the outage.
    let scenario = "format = 1\nname = \"NAME\"\n[network]\nchain = \"devnode\"\nblock_time = \"500ms\"\n\
         [network.groups.honest]\nrole = \"validator\"\ncount = 2\n\
         [network.groups.liar]\nrole = \"validator\"\ncount = 2\nconfig = { misbehave = \"silent@26\" }\n\
         [invariants]\nmax_stall = \"6s\"\n[observe]\nfrom = \"cluster\"\n\
         [[steps]]\nexpect.height = { at_least = 2, within = \"60s\" }\n[[steps]]\nwait = \"60s\"\n";
    let Some((run, code, outage)) = over_an_outage(scenario, 12).await else {
        return;
    };
    assert_eq!(code, Some(100), "{}", run.words());
    let finding = run.verdict()["findings"][0].clone();
    assert_eq!(finding["code"], "liveness/stall", "{finding}");
    let records = records(&run);
    let ready = records.iter().find(|line| line["record"] == "ready").unwrap()["at"]
        .as_u64()
        .unwrap();
    let since = ready + finding["since_ms"].as_u64().unwrap();
    println!(
        "the chain stood still from {since} ms on, in the outage from {} to {} ms",
        outage.start, outage.end
    );
    assert!(outage.contains(&since), "{since} lies in {outage:?}: {finding}");
    judged_again(&run);
    run.leaves_nothing().await;
}
