use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::Uri;
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::*;
use crate::record::Header;

/// How a fake node behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Well,
    Hang,
    Garbage,
    Redirect,
    Endless,
    Error,
}

/// What a fake node is.
#[derive(Clone, Debug)]
struct Fake {
    mode: Mode,
    height: u64,
    earliest: u64,
    /// From this height on its hashes are others.
    odd_from: u64,
    /// Whether its `/block_results` has the state (0.38) or not (0.37).
    states: bool,
    peers: Vec<&'static str>,
    power: u64,
    /// How often each path was asked for.
    asked: BTreeMap<String, usize>,
}

impl Fake {
    fn at(height: u64) -> Self {
        Self {
            mode: Mode::Well,
            height,
            earliest: 1,
            odd_from: u64::MAX,
            states: true,
            peers: vec!["b", "a"],
            power: 10,
            asked: BTreeMap::new(),
        }
    }

    fn hash(&self, height: u64) -> String {
        let odd = if height >= self.odd_from { "0D" } else { "00" };
        if height == 0 {
            String::new()
        } else {
            format!("{odd}{height:062X}")
        }
    }

    fn answer(&self, path: &str, query: &BTreeMap<String, String>) -> Value {
        let number = |key: &str| query.get(key).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        match path {
            "/status" => json!({
                "node_info": { "network": "test", "version": "1", "moniker": "me" },
                "sync_info": {
                    "latest_block_height": self.height.to_string(),
                    "latest_block_hash": self.hash(self.height),
                    "earliest_block_height": self.earliest.to_string(),
                    "catching_up": false,
                },
            }),
            "/blockchain" => {
                let from = number("minHeight").max(self.earliest);
                let to = number("maxHeight").min(self.height);
                let meta = |height: u64| {
                    json!({
                        "block_id": { "hash": self.hash(height) },
                        "header": {
                            "height": height.to_string(),
                            "time": "2025-01-01T00:00:00Z",
                            "last_block_id": { "hash": self.hash(height - 1) },
                        },
                    })
                };
                json!({ "block_metas": (from..=to).rev().take(20).map(meta).collect::<Vec<_>>() })
            }
            "/block_results" if self.states => {
                json!({ "height": number("height").to_string(), "app_hash": "AgAAAAAAAAA=" })
            }
            "/block_results" => json!({ "height": number("height").to_string() }),
            "/abci_info" => json!({
                "response": { "last_block_height": self.height.to_string(), "last_block_app_hash": "AgAAAAAAAAA=" },
            }),
            "/net_info" => {
                let peers = self
                    .peers
                    .iter()
                    .map(|name| json!({ "node_info": { "moniker": name } }));
                json!({ "n_peers": self.peers.len().to_string(), "peers": peers.collect::<Vec<_>>() })
            }
            "/validators" => json!({
                "block_height": self.height.to_string(),
                "total": "2",
                "validators": [
                    { "address": "AA", "pub_key": { "value": "a-key" }, "voting_power": self.power.to_string() },
                    { "address": "BB", "pub_key": { "value": "b-key" }, "voting_power": "5" },
                ],
            }),
            other => panic!("asked for {other}"),
        }
    }
}

/// A fake node that is served on a port of its own.
#[derive(Clone)]
struct Node(Arc<Mutex<Fake>>);

impl Node {
    /// Serves until the handle is aborted.
    fn serve(&self, listener: TcpListener) -> JoinHandle<()> {
        let router = Router::new().fallback(handle).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() })
    }

    fn change<T>(&self, change: impl FnOnce(&mut Fake) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn asked(&self, path: &str) -> usize {
        self.change(|fake| fake.asked.get(path).copied().unwrap_or(0))
    }
}

async fn handle(State(node): State<Node>, uri: Uri, Query(query): Query<BTreeMap<String, String>>) -> Response {
    let (mode, answer) = node.change(|fake| {
        *fake.asked.entry(uri.path().to_owned()).or_default() += 1;
        (fake.mode, fake.answer(uri.path(), &query))
    });
    match mode {
        Mode::Well => axum::Json(json!({ "jsonrpc": "2.0", "id": -1, "result": answer })).into_response(),
        Mode::Hang => std::future::pending().await,
        Mode::Garbage => "<html>".into_response(),
        Mode::Redirect => axum::response::Redirect::temporary("/status").into_response(),
        Mode::Endless => {
            let chunk = Bytes::from(vec![b' '; 256 * 1024]);
            let endless = futures::stream::repeat_with(move || Ok::<_, std::io::Error>(chunk.clone()));
            Response::new(Body::from_stream(endless))
        }
        Mode::Error => axum::Json(json!({ "error": { "code": -1, "message": "no" } })).into_response(),
    }
}

/// A network of fake nodes `n0`, `n1`… under observation.
struct Net {
    nodes: Vec<Node>,
    addresses: Vec<SocketAddr>,
    records: mpsc::Receiver<Record>,
    seen: Vec<Record>,
    cancel: CancellationToken,
    observer: JoinHandle<()>,
}

impl Net {
    async fn of(fakes: Vec<Fake>) -> Self {
        Self::with(fakes, Ms(20), Vec::new(), Vec::new()).await
    }

    async fn with(fakes: Vec<Fake>, interval: Ms, logs: Vec<(String, PathBuf)>, patterns: Vec<Pattern>) -> Self {
        let mut nodes = Vec::new();
        let mut addresses = Vec::new();
        let mut targets = Vec::new();
        for (index, fake) in fakes.into_iter().enumerate() {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let node = Node(Arc::new(Mutex::new(fake)));
            node.serve(listener);
            nodes.push(node);
            addresses.push(address);
            targets.push(Target {
                node: format!("n{index}"),
                endpoint: address.into(),
                dialect: Dialect::Comet,
                logs: logs.clone(),
            });
        }
        Self::observing(nodes, addresses, targets, interval, patterns)
    }

    fn observing(
        nodes: Vec<Node>,
        addresses: Vec<SocketAddr>,
        targets: Vec<Target>,
        interval: Ms,
        patterns: Vec<Pattern>,
    ) -> Self {
        Self::below(0, nodes, addresses, targets, (interval, patterns))
    }

    /// Observing what has so many blocks above it.
    fn below(
        depth: u64,
        nodes: Vec<Node>,
        addresses: Vec<SocketAddr>,
        targets: Vec<Target>,
        (interval, patterns): (Ms, Vec<Pattern>),
    ) -> Self {
        let (out, records) = mpsc::channel(64);
        let cancel = CancellationToken::new();
        let config = Config {
            targets,
            interval,
            timeout: Ms(500),
            patterns,
            validators: BTreeMap::from([("AA".to_owned(), "n0".to_owned())]),
            depth,
        };
        let observer = observe(config, Clock::start(), out, cancel.clone());
        Self {
            nodes,
            addresses,
            records,
            seen: Vec::new(),
            cancel,
            observer,
        }
    }

    /// Waits until what was recorded fits; the limit is for a test that fails.
    async fn until(&mut self, what: &str, fits: impl Fn(&[Record]) -> bool) {
        let limit = Instant::now() + Duration::from_secs(30);
        while !fits(&self.seen) {
            match tokio::time::timeout_at(limit, self.records.recv()).await {
                Ok(Some(record)) => self.seen.push(record),
                Ok(None) => panic!("the observer ended while waiting for {what}"),
                Err(_) => panic!(
                    "never saw {what}; the last records: {:#?}",
                    &self.seen[self.seen.len().saturating_sub(5)..]
                ),
            }
        }
    }

    /// Waits until so many more status requests were answered, so that whatever else was due has happened too.
    async fn polls(&mut self, node: usize, more: usize) {
        let goal = self.nodes[node].asked("/status") + more;
        let limit = Instant::now() + Duration::from_secs(30);
        while self.nodes[node].asked("/status") < goal {
            assert!(Instant::now() < limit, "the observer stopped asking");
            // The channel is bounded: what is not taken would hold the observer up.
            if let Ok(Some(record)) = tokio::time::timeout(Duration::from_millis(5), self.records.recv()).await {
                self.seen.push(record);
            }
        }
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

fn samples(records: &[Record], of: &str) -> Vec<Sample> {
    let sample = |record: &Record| match record {
        Record::Sample(sample) if sample.node == of => Some(sample.clone()),
        _ => None,
    };
    records.iter().filter_map(sample).collect()
}

fn silences(records: &[Record], of: &str) -> Vec<(Ms, Silence)> {
    let silence = |record: &Record| match record {
        Record::Silent { node, sent, cause, .. } if node == of => Some((*sent, *cause)),
        _ => None,
    };
    records.iter().filter_map(silence).collect()
}

fn headers(records: &[Record], of: &str) -> Vec<Header> {
    let headers = |record: &Record| match record {
        Record::Headers { node, headers, .. } if node == of => Some(headers.clone()),
        _ => None,
    };
    records.iter().filter_map(headers).flatten().collect()
}

fn heights(records: &[Record], of: &str) -> Vec<u64> {
    headers(records, of).iter().map(|header| header.height).collect()
}

fn states(records: &[Record], of: &str) -> Vec<u64> {
    let state = |record: &Record| match record {
        Record::AppState { node, height, .. } if node == of => Some(*height),
        _ => None,
    };
    records.iter().filter_map(state).collect()
}

#[tokio::test]
async fn every_height_is_read_once() {
    let mut net = Net::of(vec![Fake::at(45)]).await;
    net.until("45 headers", |records| heights(records, "n0").len() >= 45)
        .await;
    net.nodes[0].change(|fake| fake.height = 130);
    net.until("130 headers", |records| heights(records, "n0").len() >= 130)
        .await;
    net.polls(0, 20).await;
    assert_eq!(heights(&net.seen, "n0"), (1..=130).collect::<Vec<_>>());
    let headers = headers(&net.seen, "n0");
    assert_eq!(headers[0].parent, "");
    assert_eq!(headers[80].parent, headers[79].hash);
}

#[tokio::test]
async fn a_node_that_has_not_the_first_heights_gives_those_that_it_has() {
    let mut fake = Fake::at(50);
    fake.earliest = 31;
    let mut net = Net::of(vec![fake]).await;
    net.until("20 headers", |records| heights(records, "n0").len() >= 20)
        .await;
    assert_eq!(heights(&net.seen, "n0"), (31..=50).collect::<Vec<_>>());
}

#[tokio::test]
async fn equal_samples_are_heartbeats() {
    let mut net = Net::of(vec![Fake::at(3)]).await;
    net.until("three samples", |records| samples(records, "n0").len() >= 3)
        .await;
    let sent: Vec<u64> = samples(&net.seen, "n0").iter().map(|sample| sample.sent.0).collect();
    assert!(sent.windows(2).all(|pair| pair[1] - pair[0] >= 900), "{sent:?}");
    assert!(net.nodes[0].asked("/status") > 20);
    net.nodes[0].change(|fake| fake.height = 4);
    net.until("the change", |records| {
        samples(records, "n0").last().unwrap().height == 4
    })
    .await;
    let of_four = samples(&net.seen, "n0")
        .into_iter()
        .find(|sample| sample.height == 4)
        .unwrap();
    assert_eq!(of_four.hash, Fake::at(4).hash(4));
    assert_eq!((of_four.version.as_str(), of_four.chain.as_str()), ("1", "test"));
}

#[tokio::test]
async fn a_node_that_hangs_costs_its_own_samples_only() {
    let mut hanging = Fake::at(9);
    hanging.mode = Mode::Hang;
    let mut net = Net::of(vec![hanging, Fake::at(1)]).await;
    net.until("a time-out", |records| {
        silences(records, "n0")
            .iter()
            .any(|(_, cause)| *cause == Silence::Timeout)
    })
    .await;
    for height in 2..8 {
        net.nodes[1].change(|fake| fake.height = height);
        net.until("growth", |records| {
            samples(records, "n1")
                .last()
                .is_some_and(|sample| sample.height == height)
        })
        .await;
    }
    assert_eq!(samples(&net.seen, "n0"), []);
    // Its requests wait for one another, so that there is never more than one.
    assert!(net.nodes[0].asked("/status") < net.nodes[1].asked("/status"));
    net.nodes[0].change(|fake| fake.mode = Mode::Well);
    net.until("an answer", |records| !samples(records, "n0").is_empty())
        .await;
}

#[tokio::test]
async fn silence_is_recorded_with_its_cause() {
    let modes = [Mode::Garbage, Mode::Redirect, Mode::Endless, Mode::Error];
    let fakes = modes.iter().map(|mode| {
        let mut fake = Fake::at(5);
        fake.mode = *mode;
        fake
    });
    let mut net = Net::of(fakes.collect()).await;
    for (index, mode) in modes.into_iter().enumerate() {
        let node = format!("n{index}");
        net.until("silence", |records| !silences(records, &node).is_empty())
            .await;
        let (_, cause) = silences(&net.seen, &node)[0];
        // A slow machine may run into the time-out before the limit of the body.
        let slow = mode == Mode::Endless && cause == Silence::Timeout;
        assert!(cause == Silence::Garbage || slow, "{mode:?}: {cause:?}");
    }
}

#[tokio::test]
async fn what_may_still_be_replaced_is_not_read() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let node = Node(Arc::new(Mutex::new(Fake::at(7))));
    node.serve(listener);
    let target = Target {
        node: "n0".into(),
        endpoint: address.into(),
        dialect: Dialect::Comet,
        logs: Vec::new(),
    };
    let mut net = Net::below(2, vec![node.clone()], vec![address], vec![target], (Ms(20), Vec::new()));
    let highest = |records: &[Record]| {
        let headers = records.iter().filter_map(|record| match record {
            Record::Headers { headers, .. } => headers.last().map(|header| header.height),
            _ => None,
        });
        headers.max()
    };
    net.until("headers", |records| highest(records).is_some()).await;
    net.polls(0, 10).await;
    assert_eq!(highest(&net.seen), Some(5), "the tip is at 7");
    node.change(|fake| fake.height = 9);
    net.until("more of them", |records| highest(records) == Some(7)).await;
}

#[tokio::test]
async fn a_node_may_start_later_and_again() {
    // Reserved, and closed again: nobody listens there.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let node = Node(Arc::new(Mutex::new(Fake::at(2))));
    let target = Target {
        node: "n0".into(),
        endpoint: address.into(),
        dialect: Dialect::Comet,
        logs: Vec::new(),
    };
    let mut net = Net::observing(vec![node.clone()], vec![address], vec![target], Ms(20), Vec::new());
    net.until("refusals", |records| silences(records, "n0").len() >= 2)
        .await;
    assert!(
        silences(&net.seen, "n0")
            .iter()
            .all(|(_, cause)| *cause == Silence::Refused)
    );
    assert!(silences(&net.seen, "n0")[1].0.0 >= 900, "a heartbeat");
    // In a runtime of its own, which takes its connections with it when it goes.
    let start = move |node: Node| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = runtime.block_on(TcpListener::bind(address)).unwrap();
        let entered = runtime.enter();
        node.serve(listener);
        drop(entered);
        runtime
    };
    let running = std::thread::spawn({
        let node = node.clone();
        move || start(node)
    });
    let running = running.join().unwrap();
    net.until("an answer", |records| !samples(records, "n0").is_empty())
        .await;
    net.until("headers", |records| heights(records, "n0") == [1, 2]).await;
    running.shutdown_background();
    net.until("silence again", |records| {
        matches!(records.last(), Some(Record::Silent { .. }))
    })
    .await;
    assert_eq!(net.addresses, [address]);
}

#[tokio::test]
async fn after_silence_the_last_headers_are_read_again() {
    let mut net = Net::of(vec![Fake::at(40)]).await;
    net.until("40 headers", |records| heights(records, "n0").len() == 40)
        .await;
    net.nodes[0].change(|fake| fake.mode = Mode::Garbage);
    net.until("silence", |records| !silences(records, "n0").is_empty())
        .await;
    net.nodes[0].change(|fake| {
        fake.mode = Mode::Well;
        fake.odd_from = 36;
    });
    net.until("the changed hashes", |records| heights(records, "n0").len() >= 45)
        .await;
    assert_eq!(heights(&net.seen, "n0")[40..], [36, 37, 38, 39, 40]);
    assert!(headers(&net.seen, "n0")[40].hash.starts_with("0D"));
}

#[tokio::test]
async fn a_changed_hash_is_found_without_any_silence() {
    let mut net = Net::of(vec![Fake::at(40)]).await;
    net.until("40 headers", |records| heights(records, "n0").len() == 40)
        .await;
    // A lie about one height only would be missed by a look at the latest.
    net.nodes[0].change(|fake| {
        fake.height = 41;
        fake.odd_from = 39;
    });
    net.until("the changed hashes", |records| {
        heights(records, "n0")[40..].contains(&39)
    })
    .await;
}

#[tokio::test]
async fn a_node_that_begins_anew_is_read_anew() {
    let mut net = Net::of(vec![Fake::at(300)]).await;
    net.until("300 headers", |records| heights(records, "n0").len() == 300)
        .await;
    net.nodes[0].change(|fake| {
        fake.height = 3;
        fake.odd_from = 2;
    });
    net.until("the new ones", |records| heights(records, "n0").len() >= 302)
        .await;
    assert_eq!(heights(&net.seen, "n0")[300..], [2, 3], "that of 1 is the same");
}

#[tokio::test]
async fn a_changed_hash_of_an_old_height_is_found() {
    let mut net = Net::of(vec![Fake::at(60)]).await;
    net.until("60 headers", |records| heights(records, "n0").len() == 60)
        .await;
    net.nodes[0].change(|fake| fake.odd_from = 60 - 45);
    // The last 20 are read again, and 20 older ones in turn.
    net.until("the changed hashes", |records| heights(records, "n0").len() == 60 + 46)
        .await;
    let again = &heights(&net.seen, "n0")[60..];
    assert_eq!(again[..20], (41..=60).collect::<Vec<_>>());
    assert_eq!(again[20..40], (21..=40).collect::<Vec<_>>());
    assert_eq!(again[40..], (15..=20).collect::<Vec<_>>());
}

#[tokio::test]
async fn states_are_of_heights_that_all_nodes_are_asked_for() {
    let mut net = Net::of(vec![Fake::at(1), Fake::at(1_000)]).await;
    for height in 2..=6 {
        net.until("the state", |records| states(records, "n0").contains(&(height - 1)))
            .await;
        net.nodes[0].change(|fake| fake.height = height);
    }
    assert_eq!(states(&net.seen, "n0"), [1, 2, 3, 4, 5]);
    net.until("a state", |records| !states(records, "n1").is_empty()).await;
    assert_eq!(states(&net.seen, "n1"), [512]);
}

#[tokio::test]
async fn before_0_38_the_application_is_asked_itself() {
    let mut fake = Fake::at(4);
    fake.states = false;
    let mut net = Net::of(vec![fake]).await;
    net.until("a state", |records| states(records, "n0") == [4]).await;
    net.nodes[0].change(|fake| fake.height = 7);
    net.until("a state", |records| states(records, "n0") == [4, 7]).await;
    assert_eq!(net.nodes[0].asked("/block_results"), 1);
}

#[tokio::test]
async fn peers_and_validators_when_they_change() {
    let mut net = Net::of(vec![Fake::at(4)]).await;
    let peers = |records: &[Record]| -> Vec<Vec<String>> {
        let of = |record: &Record| match record {
            Record::Peers { names, count, .. } => {
                assert_eq!(*count, names.len() as u64);
                Some(names.clone())
            }
            _ => None,
        };
        records.iter().filter_map(of).collect()
    };
    let powers = |records: &[Record]| -> Vec<BTreeMap<String, u64>> {
        let of = |record: &Record| match record {
            Record::Validators { powers, .. } => Some(powers.clone()),
            _ => None,
        };
        records.iter().filter_map(of).collect()
    };
    net.until("both", |records| {
        !peers(records).is_empty() && !powers(records).is_empty()
    })
    .await;
    net.nodes[0].change(|fake| {
        fake.peers = vec!["c"];
        fake.power = 7;
    });
    net.until("both again", |records| {
        peers(records).len() > 1 && powers(records).len() > 1
    })
    .await;
    assert_eq!(peers(&net.seen), [vec!["a", "b"], vec!["c"]]);
    let power = |n0: u64| BTreeMap::from([("n0".to_owned(), n0), ("b-key".to_owned(), 5)]);
    assert_eq!(powers(&net.seen), [power(10), power(7)]);
}

#[tokio::test]
async fn logs_are_searched_to_the_last_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("n0.node.log");
    let pattern = |text: &str, node: &str| Pattern {
        text: text.into(),
        nodes: vec![node.into()],
    };
    let patterns = vec![pattern("panic", "n0"), pattern("ordinary", "n1")];
    let logs = vec![("node".to_owned(), path.clone())];
    let mut net = Net::with(vec![Fake::at(1)], Ms(20), logs, patterns).await;
    let found = |records: &[Record]| -> Vec<String> {
        let of = |record: &Record| match record {
            Record::Log {
                node,
                component,
                pattern,
                line,
            } => {
                assert_eq!(
                    (node.as_str(), component.as_str(), pattern.as_str()),
                    ("n0", "node", "panic")
                );
                Some(line.clone())
            }
            _ => None,
        };
        records.iter().filter_map(of).collect()
    };
    std::fs::write(&path, "ordinary\npanic: one\n").unwrap();
    net.until("the line", |records| found(records).len() == 1).await;
    std::fs::write(&path, "ordinary\npanic: one\npanic: two\n").unwrap();
    net.cancel.cancel();
    while let Some(record) = net.records.recv().await {
        net.seen.push(record);
    }
    assert_eq!(found(&net.seen), ["panic: one", "panic: two"]);
}

#[tokio::test]
async fn lateness_is_recorded() {
    let mut net = Net::with(vec![Fake::at(1)], Ms(100), Vec::new(), Vec::new()).await;
    net.until("a sample", |records| !samples(records, "n0").is_empty())
        .await;
    // The test's runtime has one thread; to hold it is to starve the observer.
    std::thread::sleep(Duration::from_millis(300));
    net.until("lateness", |records| {
        let late =
            |record: &Record| matches!(record, Record::Late { by, interval } if by.0 >= 100 && *interval == Ms(100));
        records.iter().any(late)
    })
    .await;
}

#[tokio::test]
async fn it_ends_when_told_and_when_nobody_listens() {
    let mut net = Net::of(vec![Fake::at(1), Fake::at(1)]).await;
    net.nodes[0].change(|fake| fake.mode = Mode::Hang);
    net.until("a sample", |records| !samples(records, "n1").is_empty())
        .await;
    net.cancel.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(30), &mut net.observer).await;
    ended.expect("it ends").unwrap();

    let mut net = Net::of(vec![Fake::at(1)]).await;
    net.until("a sample", |records| !samples(records, "n0").is_empty())
        .await;
    net.records.close();
    let ended = tokio::time::timeout(Duration::from_secs(30), &mut net.observer).await;
    ended.expect("it ends").unwrap();
}

/// The CPU time of the calling thread so far.
fn cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split_whitespace().next().unwrap().parse().unwrap())
}

/// By hand: `cargo test --release --lib -- --ignored a_hundred_nodes`. With 5 blocks a second, so that headers and states are read too.
#[test]
#[ignore = "takes the time of the machine"]
fn a_hundred_nodes_at_five_hertz() {
    const NODES: u64 = 100;
    let servers = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let targets: Vec<Target> = (0..NODES)
        .map(|index| {
            let listener = servers.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
            let address = listener.local_addr().unwrap();
            let node = Node(Arc::new(Mutex::new(Fake::at(1))));
            let entered = servers.enter();
            node.serve(listener);
            // Blocks every 200 ms.
            tokio::spawn(async move {
                let mut tick = tokio::time::interval(Duration::from_millis(200));
                loop {
                    tick.tick().await;
                    node.change(|fake| fake.height += 1);
                }
            });
            drop(entered);
            Target {
                node: format!("n{index}"),
                endpoint: address.into(),
                dialect: Dialect::Comet,
                logs: Vec::new(),
            }
        })
        .collect();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut net = Net::observing(Vec::new(), Vec::new(), targets, Ms(200), Vec::new());
        let mut count = 0;
        let mut begin = None;
        let end = Instant::now() + Duration::from_secs(23);
        while let Ok(Some(_)) = tokio::time::timeout_at(end, net.records.recv()).await {
            count += 1;
            if begin.is_none() && end.saturating_duration_since(Instant::now()) < Duration::from_secs(20) {
                begin = Some((Instant::now(), cpu()));
            }
        }
        let (begin, before) = begin.unwrap();
        let share = (cpu() - before).as_secs_f64() / begin.elapsed().as_secs_f64();
        // Without optimisation it takes about three times as much.
        let most = if cfg!(debug_assertions) { 0.5 } else { 0.15 };
        assert!(share < most, "{count} records, {:.1} % of a core", 100.0 * share);
        assert!(count > 10 * NODES, "{count} records");
    });
    servers.shutdown_background();
}
