//! Real devnodes on real sockets, started, killed, cut off and lied to by.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests fail and speak as tests do"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;
use trialnet::devnode::{Config, Genesis, GenesisValidator, KeyFile, PeerConfig};

/// Long enough for a busy machine; a test that works is done far sooner.
const LIMIT: Duration = Duration::from_secs(30);

/// Waits until the condition holds; fails with what it saw last.
fn until<T>(what: &str, mut condition: impl FnMut() -> Result<T, String>) -> T {
    let end = Instant::now() + LIMIT;
    loop {
        match condition() {
            Ok(value) => return value,
            Err(seen) if Instant::now() > end => panic!("{what}: not within {LIMIT:?}: {seen}"),
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// One node: its folder, and its process while it runs.
struct Node {
    name: String,
    home: PathBuf,
    rpc: SocketAddr,
    p2p: SocketAddr,
    child: Option<Child>,
}

impl Node {
    fn start(&mut self) {
        self.start_with(&[]);
    }

    fn start_with(&mut self, misbehave: &[&str]) {
        assert!(self.child.is_none(), "{} runs already", self.name);
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.home.join("log"))
            .unwrap();
        let program = std::env::var_os("DEVNODE_PROGRAM").unwrap_or(env!("CARGO_BIN_EXE_trialnet").into());
        let mut command = Command::new(program);
        command.arg("devnode").arg("--home").arg(&self.home);
        for spec in misbehave {
            command.args(["--misbehave", spec]);
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        self.child = Some(child.unwrap());
    }

    /// SIGKILL.
    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// GET, as `(HTTP status, body)`.
    fn get(&self, path: &str) -> Result<(u16, Value), String> {
        http(
            self.rpc,
            &format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"),
        )
    }

    fn result(&self, path: &str) -> Result<Value, String> {
        let (status, body) = self.get(path).map_err(|e| format!("{} {path}: {e}", self.name))?;
        match body.get("result") {
            Some(result) if status == 200 => Ok(result.clone()),
            _ => Err(format!("{} {path}: {status} {body}", self.name)),
        }
    }

    fn height(&self) -> Result<u64, String> {
        let status = self.result("/status")?;
        number(&status["sync_info"]["latest_block_height"])
    }

    fn reach(&self, height: u64) {
        until(&format!("{} at height {height}", self.name), || {
            let now = self.height()?;
            if now >= height { Ok(()) } else { Err(format!("{now}")) }
        });
    }

    fn hash(&self, height: u64) -> Result<String, String> {
        let chain = self.result(&format!("/blockchain?minHeight={height}&maxHeight={height}"))?;
        Ok(chain["block_metas"][0]["block_id"]["hash"]
            .as_str()
            .ok_or("no hash")?
            .to_owned())
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.home.join("log")).unwrap_or_default()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            let log = self.log();
            let tail = log.lines().rev().take(25).collect::<Vec<_>>();
            println!("--- {}", self.name);
            for line in tail.iter().rev() {
                println!("{line}");
            }
        }
    }
}

fn number(value: &Value) -> Result<u64, String> {
    let text = value.as_str().ok_or(format!("{value} is no string"))?;
    text.parse().map_err(|_| format!("{text} is no number"))
}

fn http(to: SocketAddr, request: &str) -> Result<(u16, Value), String> {
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(1)).map_err(|e| e.to_string())?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    stream.write_all(request.as_bytes()).map_err(|e| e.to_string())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map_err(|e| e.to_string())?;
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok());
    let (_, body) = answer.split_once("\r\n\r\n").ok_or("no body")?;
    Ok((
        status.ok_or("no status")?,
        serde_json::from_str(body).unwrap_or(Value::Null),
    ))
}

/// Text for a URI.
fn encode(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// A network whose nodes are not started yet.
struct Net {
    nodes: Vec<Node>,
    keys: Vec<KeyFile>,
    dir: tempfile::TempDir,
}

/// How nodes are linked: `(who dials, whom)`.
type Links = Vec<(usize, usize)>;

fn mesh(count: usize) -> Links {
    (0..count).flat_map(|a| (a + 1..count).map(move |b| (a, b))).collect()
}

fn line(count: usize) -> Links {
    (1..count).map(|b| (b - 1, b)).collect()
}

impl Net {
    /// `powers` says who is a validator; a full node has power 0.
    fn new(powers: &[u64], links: &Links) -> Self {
        Self::with(powers, links, |_, _, address| address, |_, _| {})
    }

    fn with(
        powers: &[u64],
        links: &Links,
        mut through: impl FnMut(usize, usize, SocketAddr) -> SocketAddr,
        change: impl Fn(usize, &mut Config),
    ) -> Self {
        static COUNTER: AtomicU16 = AtomicU16::new(0);
        // An address block and ports of this process's own, so that tests never meet.
        let pid = std::process::id();
        let block = pid % 250 + 1;
        let group = u16::try_from(pid / 250 % 150).unwrap();
        let port = 20_000 + group * 200 + COUNTER.fetch_add(2, Ordering::Relaxed) % 200;
        let dir = tempfile::tempdir().unwrap();
        let mut seed = [0; 32];
        seed[..4].copy_from_slice(&pid.to_be_bytes());
        seed[4..6].copy_from_slice(&port.to_be_bytes());
        let keys: Vec<KeyFile> = (0..powers.len())
            .map(|index| {
                seed[31] = u8::try_from(index).unwrap();
                KeyFile::from_seed(seed)
            })
            .collect();
        let nodes: Vec<Node> = (0..powers.len())
            .map(|index| Node {
                name: format!("node-{index}"),
                home: dir.path().join(index.to_string()),
                p2p: format!("127.77.{block}.{}:{port}", index + 1).parse().unwrap(),
                rpc: format!("127.77.{block}.{}:{}", index + 1, port + 1).parse().unwrap(),
                child: None,
            })
            .collect();
        let validators = powers.iter().enumerate().filter(|(_, power)| **power > 0);
        let genesis = Genesis {
            chain_id: "test".into(),
            genesis_time: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
            validators: validators
                .map(|(index, power)| GenesisValidator {
                    name: nodes[index].name.clone(),
                    public_key: keys[index].public_key().unwrap(),
                    power: *power,
                })
                .collect(),
        };
        for (index, node) in nodes.iter().enumerate() {
            let mut config = Config::new(&node.name, "test", &node.p2p.to_string(), &node.rpc.to_string());
            config.block_time = Duration::from_millis(100);
            for (_, to) in links.iter().filter(|(from, _)| *from == index) {
                config.peers.push(PeerConfig {
                    name: nodes[*to].name.clone(),
                    public_key: keys[*to].public_key().unwrap(),
                    address: through(index, *to, nodes[*to].p2p).to_string(),
                });
            }
            change(index, &mut config);
            std::fs::create_dir(&node.home).unwrap();
            write_json(&node.home.join("config.json"), &config);
            write_json(&node.home.join("key.json"), &keys[index]);
            write_json(&node.home.join("genesis.json"), &genesis);
        }
        Self { nodes, keys, dir }
    }

    fn start(&mut self) {
        for node in &mut self.nodes {
            node.start();
        }
    }

    /// Every node that runs reaches the height.
    fn reach(&self, height: u64) {
        for node in self.nodes.iter().filter(|n| n.child.is_some()) {
            node.reach(height);
        }
    }

    /// The highest height of the nodes that run.
    fn top(&self) -> u64 {
        let running = self.nodes.iter().filter(|n| n.child.is_some());
        running.filter_map(|n| n.height().ok()).max().unwrap_or(0)
    }

    /// So many blocks more on every node that runs.
    fn grow(&self, blocks: u64) {
        self.reach(self.top() + blocks);
    }

    /// No block more than one beyond now, watched for so long.
    fn halts(&self, duration: Duration) {
        let top = self.top();
        let end = Instant::now() + duration;
        while Instant::now() < end {
            let now = self.top();
            assert!(now <= top + 1, "grew from {top} to {now} without a quorum");
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// All nodes that run have one hash at each of the last heights.
    fn agree(&self) {
        let running: Vec<&Node> = self.nodes.iter().filter(|n| n.child.is_some()).collect();
        let common = running.iter().map(|n| n.height().unwrap()).min().unwrap();
        for height in common.saturating_sub(10).max(1)..=common {
            let hashes: BTreeSet<String> = running.iter().map(|n| n.hash(height).unwrap()).collect();
            assert_eq!(hashes.len(), 1, "height {height}: {hashes:?}");
        }
        let results: BTreeSet<String> = running
            .iter()
            .map(|n| n.result(&format!("/block_results?height={common}")).unwrap())
            .map(|r| r["app_hash"].to_string())
            .collect();
        assert_eq!(results.len(), 1, "state at {common}: {results:?}");
    }
}

fn write_json(path: &Path, value: &impl serde::Serialize) {
    std::fs::write(path, serde_json::to_vec_pretty(value).unwrap()).unwrap();
}

#[test]
fn four_validators_grow_and_agree() {
    let mut net = Net::new(&[10; 4], &mesh(4));
    net.start();
    net.reach(6);
    net.agree();
    let node = &net.nodes[2];
    until("all peers", || {
        let info = node.result("/net_info")?;
        let count = number(&info["n_peers"])?;
        if count == 3 {
            Ok(())
        } else {
            Err(format!("{count} peers"))
        }
    });
    let status = node.result("/status").unwrap();
    assert_eq!(status["node_info"]["moniker"], "node-2");
    assert_eq!(status["node_info"]["network"], "test");
    assert_eq!(status["validator_info"]["voting_power"], "10");
    assert_eq!(status["sync_info"]["catching_up"], false);
    let chain = node.result("/blockchain?minHeight=2&maxHeight=4").unwrap();
    let metas = chain["block_metas"].as_array().unwrap();
    assert_eq!(metas.len(), 3);
    assert_eq!(metas[0]["header"]["height"], "4", "newest first");
    assert_eq!(
        metas[0]["header"]["last_block_id"]["hash"],
        metas[1]["block_id"]["hash"]
    );
    let commit = node.result("/commit?height=3").unwrap();
    assert_eq!(
        commit["signed_header"]["commit"]["block_id"]["hash"],
        metas[1]["block_id"]["hash"]
    );
    assert_eq!(
        commit["signed_header"]["commit"]["signatures"]
            .as_array()
            .unwrap()
            .len(),
        3
    );
    let state = node.result("/consensus_state").unwrap();
    assert!(
        state["round_state"]["proposer"]["name"]
            .as_str()
            .unwrap()
            .starts_with("node-")
    );
    let (status, error) = node.get("/block?height=100000").unwrap();
    assert_eq!(status, 500);
    assert!(
        error["error"]["data"]
            .as_str()
            .unwrap()
            .contains("current blockchain height")
    );
    assert_eq!(node.get("/nonsense").unwrap().0, 404);
    assert_eq!(node.get("/commit?height=x").unwrap().0, 500);
}

#[test]
fn one_dead_goes_on_two_dead_stall_and_return() {
    let mut net = Net::new(&[10; 4], &mesh(4));
    net.start();
    net.reach(3);
    net.nodes[3].kill();
    net.grow(5);
    net.nodes[2].kill();
    net.halts(Duration::from_secs(2));
    net.nodes[2].start();
    net.grow(5);
    net.nodes[3].start();
    net.grow(5);
    net.agree();
}

#[test]
fn killed_again_and_again_a_validator_never_votes_twice() {
    let mut net = Net::new(&[10; 4], &mesh(4));
    net.start();
    net.reach(2);
    for turn in 0..12_u64 {
        // Kills fall on all phases of a height.
        thread::sleep(Duration::from_millis(37 * turn % 230));
        for victim in 0..2 {
            net.nodes[victim].kill();
        }
        for victim in 0..2 {
            net.nodes[victim].start();
        }
        until("its RPC", || net.nodes[0].height());
    }
    net.grow(3);
    net.agree();
    let mut votes: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut own = 0;
    for node in &net.nodes {
        let wal = std::fs::read_to_string(node.home.join("data/wal.jsonl")).unwrap();
        let id = node.result("/status").unwrap()["validator_info"]["address"].clone();
        for line in wal.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
            let record: Value = serde_json::from_str(line).unwrap();
            let vote = &record["entry"]["Vote"];
            if vote.is_object() {
                own += usize::from(vote["voter"] == id);
                let key = ["voter", "height", "round", "kind"].map(|k| vote[k].to_string());
                votes
                    .entry(key.join(" "))
                    .or_default()
                    .insert(vote["value"].to_string());
            }
        }
    }
    assert!(own > 20 && votes.len() > 60, "{own} own votes, {} votes", votes.len());
    for (vote, values) in votes {
        assert_eq!(values.len(), 1, "voted twice: {vote}: {values:?}");
    }
    assert!(!net.nodes.iter().any(|n| n.log().contains("voted twice")));
}

#[test]
fn a_late_full_node_catches_up_also_after_a_torn_write() {
    let mut links = mesh(4);
    links.push((4, 1));
    let mut net = Net::new(&[10, 10, 10, 10, 0], &links);
    for index in 0..4 {
        net.nodes[index].start();
    }
    net.reach(12);
    net.nodes[4].start();
    net.grow(2);
    net.agree();
    net.nodes[4].kill();
    let blocks = net.nodes[4].home.join("data/blocks.jsonl");
    let text = std::fs::read(&blocks).unwrap();
    std::fs::write(&blocks, &text[..text.len() - 20]).unwrap();
    net.nodes[4].start();
    net.grow(2);
    net.agree();
    let status = net.nodes[4].result("/status").unwrap();
    assert_eq!(status["validator_info"]["voting_power"], "0");
    // A whole disk lost is only a longer way.
    net.nodes[4].kill();
    std::fs::remove_dir_all(net.nodes[4].home.join("data")).unwrap();
    net.nodes[4].start();
    net.grow(2);
    net.agree();
}

#[test]
fn transactions_are_committed_and_change_validators() {
    let mut links = mesh(4);
    links.push((4, 0));
    let mut net = Net::new(&[10, 10, 10, 10, 0], &links);
    net.start();
    net.reach(2);
    let send = |node: &Node, tx: &str| -> Value {
        node.result(&format!("/broadcast_tx_sync?tx={}", encode(&format!("\"{tx}\""))))
            .unwrap()
    };
    let find = |node: &Node, answer: &Value| -> Value {
        let hash = answer["hash"].as_str().unwrap().to_owned();
        until("the transaction", || node.result(&format!("/tx?hash=0x{hash}")))
    };
    // Given to a full node, seen on another.
    let answer = send(&net.nodes[4], "colour=blue");
    assert_eq!(answer["code"], 0);
    let found = find(&net.nodes[2], &answer);
    assert_eq!(found["tx_result"]["code"], 0);
    let again = encode("\"colour=blue\"");
    let (_, error) = net.nodes[2].get(&format!("/broadcast_tx_sync?tx={again}")).unwrap();
    assert_eq!(error["error"]["data"], "tx already exists in cache");
    // "b=c" by POST.
    let body = r#"{"jsonrpc":"2.0","id":7,"method":"broadcast_tx_sync","params":{"tx":"Yj1j"}}"#;
    let post = format!(
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let (status, answer) = http(net.nodes[1].rpc, &post).unwrap();
    assert_eq!((status, &answer["id"]), (200, &Value::from(7)));
    find(&net.nodes[3], &answer["result"]);

    let key = net.keys[4].public_key().unwrap().base64();
    let unknown = send(&net.nodes[0], &format!("val=ed25519!{key}!0"));
    assert_eq!(unknown["code"], 5, "{unknown}");
    let answer = send(&net.nodes[0], &format!("val=ed25519!{key}!7"));
    let height = number(&find(&net.nodes[0], &answer)["height"]).unwrap();
    net.reach(height + 3);
    for (at, count) in [(height, "4"), (height + 1, "4"), (height + 2, "5")] {
        let set = net.nodes[1].result(&format!("/validators?height={at}")).unwrap();
        assert_eq!(set["total"], count, "at {at}, change in block {height}");
    }
    let status = net.nodes[4].result("/status").unwrap();
    assert_eq!(status["validator_info"]["voting_power"], "7");
    // It signs, as any other.
    until("a vote of the new validator", || {
        let wal = std::fs::read_to_string(net.nodes[4].home.join("data/wal.jsonl"));
        let me = status["validator_info"]["address"].as_str().unwrap();
        let voter = format!("\"voter\":\"{me}\"");
        if wal.unwrap_or_default().contains(&voter) {
            Ok(())
        } else {
            Err("none".into())
        }
    });
    net.grow(6);
    net.agree();
}

#[test]
fn full_nodes_in_a_line_pass_everything_on() {
    // v - f - v - f - v - f - v: no two validators are linked.
    let mut net = Net::new(&[10, 0, 10, 0, 10, 0, 10], &line(7));
    net.start();
    net.reach(5);
    let answer = net.nodes[0].result("/broadcast_tx_sync?tx=0x613d62").unwrap();
    let hash = answer["hash"].as_str().unwrap().to_owned();
    until("the transaction", || net.nodes[6].result(&format!("/tx?hash=0x{hash}")));
    net.agree();
    // A relay that dies cuts the line in two without a quorum; back again, all goes on.
    net.nodes[3].kill();
    net.halts(Duration::from_secs(2));
    net.nodes[3].start();
    net.grow(4);
    net.agree();
}

/// Passes bytes on, or holds them.
fn proxy(target: SocketAddr, held: &Arc<AtomicBool>) -> SocketAddr {
    fn pump(mut from: TcpStream, mut to: TcpStream, held: &AtomicBool) {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            while held.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(10));
            }
            if to.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
        let _gone = to.shutdown(std::net::Shutdown::Both);
        let _gone = from.shutdown(std::net::Shutdown::Both);
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let held = Arc::clone(held);
    thread::spawn(move || {
        while let Ok((near, _)) = listener.accept() {
            let held = Arc::clone(&held);
            thread::spawn(move || {
                let Ok(far) = TcpStream::connect(target) else { return };
                let (near2, far2) = (near.try_clone().unwrap(), far.try_clone().unwrap());
                let held2 = Arc::clone(&held);
                thread::spawn(move || pump(near2, far2, &held2));
                pump(far, near, &held);
            });
        }
    });
    address
}

#[test]
fn held_links_halt_both_halves_and_recover_soon_after() {
    for pause in [2, 8] {
        let held = Arc::new(AtomicBool::new(false));
        let mut net = Net::with(
            &[10; 4],
            &mesh(4),
            |from, to, address| {
                if from < 2 && to >= 2 {
                    proxy(address, &held)
                } else {
                    address
                }
            },
            |_, _| {},
        );
        net.start();
        net.reach(3);
        held.store(true, Ordering::Relaxed);
        net.halts(Duration::from_secs(pause));
        held.store(false, Ordering::Relaxed);
        let released = Instant::now();
        net.grow(3);
        println!(
            "held for {pause} s: three blocks more {:?} after the release",
            released.elapsed()
        );
        net.agree();
    }
}

#[test]
fn both_dialing_keeps_one_link() {
    let mut links = mesh(3);
    links.extend(mesh(3).into_iter().map(|(a, b)| (b, a)));
    let mut net = Net::new(&[10; 3], &links);
    net.start();
    net.reach(3);
    for _ in 0..3 {
        net.nodes[1].kill();
        net.nodes[1].start();
        net.grow(2);
    }
    for node in &net.nodes {
        until("two peers", || {
            let info = node.result("/net_info")?;
            if info["n_peers"] == "2" {
                Ok(())
            } else {
                Err(info.to_string())
            }
        });
    }
}

#[test]
fn another_genesis_is_no_peer() {
    let mut links = mesh(4);
    links.push((4, 0));
    let mut net = Net::new(&[10, 10, 10, 10, 0], &links);
    let path = net.nodes[4].home.join("genesis.json");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("\"power\": 10", "\"power\": 11")).unwrap();
    net.start();
    for node in &net.nodes[..4] {
        node.reach(3);
    }
    until("the refusal", || {
        let log = net.nodes[0].log();
        if log.contains("refused a caller") {
            Ok(())
        } else {
            Err(log)
        }
    });
    assert_eq!(net.nodes[4].height(), Ok(0));
}

#[test]
fn garbage_does_no_harm() {
    let mut net = Net::new(&[10; 4], &mesh(4));
    net.start();
    net.reach(2);
    let garbage: [&[u8]; 4] = [
        b"GET / HTTP/1.1\r\n\r\n",
        &[0xff; 64],
        &[0, 0, 0, 2, b'{', b'}'],
        &[0, 0, 0, 10, 1],
    ];
    for bytes in garbage {
        for address in [net.nodes[0].p2p, net.nodes[0].rpc] {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(bytes).unwrap();
        }
    }
    let huge = "x".repeat(3_000_000);
    let post = format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3000000\r\n\r\n{huge}");
    let _refused = http(net.nodes[0].rpc, &post);
    for body in ["", "[]", "{\"method\":3}"] {
        let length = body.len();
        let request =
            format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
        assert_eq!(http(net.nodes[0].rpc, &request).unwrap().0, 500);
    }
    net.grow(3);
    assert!(!net.nodes[0].log().contains("panicked"));
}

#[test]
fn sigterm_ends_a_node_at_once_and_well() {
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;
    let mut net = Net::new(&[10], &Vec::new());
    net.start();
    net.reach(2);
    let mut child = net.nodes[0].child.take().unwrap();
    let before = Instant::now();
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(before.elapsed() < Duration::from_secs(2), "{:?}", before.elapsed());
    assert!(net.dir.path().exists());
}

fn misbehave(node: &Node, spec: &str) {
    node.result(&format!("/misbehave?spec={}", encode(&format!("\"{spec}\""))))
        .unwrap();
}

#[test]
fn lies_of_the_rpc_are_seen() {
    let mut net = Net::new(&[10; 4], &mesh(4));
    for (index, spec) in ["wrong-hash@4", "go-back=3@8", "app-hash@5"].iter().enumerate() {
        net.nodes[index].start_with(&[spec]);
    }
    net.nodes[3].start();
    net.nodes[3].reach(10);
    let [liar, back, state, honest] = &net.nodes[..] else {
        panic!()
    };
    liar.reach(6);
    for height in 3..=5 {
        let same = liar.hash(height).unwrap() == honest.hash(height).unwrap();
        assert_eq!(same, height != 4, "height {height}");
    }
    let commit = liar.result("/commit?height=4").unwrap();
    let hash = &commit["signed_header"]["commit"]["block_id"]["hash"];
    assert_eq!(
        hash,
        &Value::from(liar.hash(4).unwrap()),
        "the lie is the same everywhere"
    );

    // Three behind for good: the true height grows on.
    let committed = |node: &Node| {
        let log = node.log();
        let (_, last) = log.rsplit_once("committed height=").unwrap();
        last.split_whitespace().next().unwrap().parse::<u64>().unwrap()
    };
    let before = committed(back);
    let shown = back.height().unwrap();
    // It may itself be one block ahead of the other.
    let after = honest.height().unwrap() + 1;
    assert!((before..=after).contains(&(shown + 3)), "{before} {shown} {after}");
    assert!(back.hash(shown + 3).is_err() || back.height().unwrap() >= shown + 3);

    state.reach(7);
    let app_hash = |node: &Node, height: u64| {
        node.result(&format!("/block_results?height={height}")).unwrap()["app_hash"].to_string()
    };
    assert_eq!(app_hash(state, 4), app_hash(honest, 4));
    assert_ne!(app_hash(state, 5), app_hash(honest, 5));
    let info = |node: &Node| node.result("/abci_info").unwrap()["response"]["last_block_app_hash"].to_string();
    assert_ne!(
        info(state),
        info(honest),
        "no transaction: the true state does not change"
    );

    // Back to the truth.
    for node in &net.nodes[..3] {
        node.result("/behave").unwrap();
    }
    net.grow(1);
    net.agree();
    let (status, error) = honest.get("/misbehave?spec=%22nonsense%22").unwrap();
    assert_eq!(status, 500);
    assert!(
        error["error"]["data"]
            .as_str()
            .unwrap()
            .contains("there are stall-as-proposer")
    );
}

#[test]
fn a_node_can_be_seen_to_hang_lag_freeze_and_behave_again() {
    let mut net = Net::new(&[10; 4], &mesh(4));
    net.start();
    net.reach(3);
    let node = &net.nodes[1];
    misbehave(node, "hang");
    assert!(node.height().is_err(), "it must not answer");
    node.result("/behave").unwrap();
    net.grow(2);
    for kind in ["lag", "freeze"] {
        misbehave(node, kind);
        let stuck = node.height().unwrap();
        net.nodes[0].reach(stuck + 8);
        let status = node.result("/status").unwrap();
        let height = number(&status["sync_info"]["latest_block_height"]).unwrap();
        assert!(height <= stuck + 1, "{kind}: grew from {stuck} to {height}");
        if kind == "lag" {
            assert_eq!(status["sync_info"]["catching_up"], false);
        }
        node.result("/behave").unwrap();
        net.grow(3);
    }
    net.agree();
}

#[test]
fn silence_and_stalling_cost_rounds_and_no_safety() {
    let mut net = Net::new(&[10; 4], &mesh(4));
    net.start();
    net.reach(2);
    misbehave(&net.nodes[0], "stall-as-proposer");
    net.grow(6);
    assert!(net.nodes[1].log().contains("new round"), "a round must have failed");
    let stalls = net.nodes[0].result("/validators").unwrap();
    assert_eq!(stalls["total"], "4");
    net.nodes[0].result("/behave").unwrap();
    // With one silent and one dead there is no quorum, not even in the silent one's own view.
    misbehave(&net.nodes[0], "silent");
    net.grow(4);
    net.nodes[3].kill();
    net.halts(Duration::from_secs(2));
    net.nodes[0].result("/behave").unwrap();
    net.grow(4);
    net.agree();
}

#[test]
fn crash_and_slow_start_do_what_they_say() {
    let mut net = Net::new(&[10; 4], &mesh(4));
    net.nodes[0].start_with(&["crash@4"]);
    net.nodes[1].start_with(&["slow-start=2s"]);
    let started = Instant::now();
    net.nodes[2].start();
    net.nodes[3].start();
    let mut child = net.nodes[0].child.take().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(13));
    assert!(net.nodes[0].log().contains("committed height=4"));
    net.nodes[1].reach(1);
    assert!(started.elapsed() >= Duration::from_secs(2), "{:?}", started.elapsed());
    // What it committed is there again, and it goes on from there.
    net.nodes[0].start();
    net.grow(3);
    net.agree();
}

#[test]
fn a_bad_home_ends_with_a_reason() {
    let mut net = Net::with(
        &[10],
        &Vec::new(),
        |_, _, a| a,
        |_, config| {
            config.chain_id = "other".into();
        },
    );
    net.start();
    let mut child = net.nodes[0].child.take().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    let log = net.nodes[0].log();
    assert!(
        log.contains(" ERROR stopped error=config.json is for chain 'other'"),
        "{log}"
    );
}

/// Processor ticks (hundredths of a second) and resident memory in kB of a process.
#[cfg(target_os = "linux")]
fn usage(pid: u32) -> (u64, u64) {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks = |index: usize| fields[index].parse::<u64>().unwrap();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let memory = memory.trim().trim_end_matches(" kB").parse().unwrap();
    (ticks(11) + ticks(12), memory)
}

/// Prints what networks of different sizes cost. `DEVNODE_PROGRAM` may name an optimised build.
#[test]
#[ignore = "a measurement"]
#[cfg(target_os = "linux")]
fn resources() {
    println!("nodes validators  h1 all   h3 all   blocks/s   CPU/node   memory/node");
    for (count, validators) in [(4, 4), (20, 20), (20, 4), (100, 10)] {
        let mut links = mesh(validators);
        for full in validators..count {
            // Two validators and two full nodes before it.
            links.push((full, full % validators));
            links.push((full, (full * 7 + 3) % validators));
            links.push((full, full - 1));
            links.push((full, full / 2));
        }
        links.sort_unstable();
        links.dedup();
        let powers: Vec<u64> = (0..count).map(|index| u64::from(index < validators) * 10).collect();
        let block_time = Duration::from_millis(200);
        let change = |_: usize, config: &mut Config| config.block_time = block_time;
        let mut net = Net::with(&powers, &links, |_, _, address| address, change);
        let started = Instant::now();
        net.start();
        net.reach(1);
        let first = started.elapsed();
        net.reach(3);
        let third = started.elapsed();
        net.grow(2);
        let pids: Vec<u32> = net.nodes.iter().map(|n| n.child.as_ref().unwrap().id()).collect();
        let ticks = || pids.iter().map(|pid| usage(*pid).0).sum::<u64>();
        let (before, height, since) = (ticks(), net.nodes[0].height().unwrap(), Instant::now());
        thread::sleep(Duration::from_secs(10));
        let (after, seconds) = (ticks(), since.elapsed().as_secs_f64());
        let blocks = net.nodes[0].height().unwrap() - height;
        let memory = pids.iter().map(|pid| usage(*pid).1).max().unwrap_or(0);
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        let (rate, cpu) = (
            blocks as f64 / seconds,
            (after - before) as f64 / seconds / count as f64,
        );
        let (first, third) = (first.as_secs_f64(), third.as_secs_f64());
        println!("{count:5} {validators:10} {first:6.2} s {third:6.2} s {rate:10.2} {cpu:8.2} % {memory:9} kB");
        net.agree();
    }
}
