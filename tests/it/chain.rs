//! What the chain adapters render, given to the real programs.
//!
//! The programs are looked for on PATH under the names that the adapter gives them. Without them a test says so and passes; with
//! `TRIALNET_REQUIRE=chains` in the environment their absence is a failure.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod ethereum;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use indexmap::IndexMap;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use trialnet::backend::{Addresses, LinkId, NodeAddresses, NodeSpec, Program};
use trialnet::chain::rpc::{Client, Rpc, Status};
use trialnet::chain::{self, adapter, validator_key};
use trialnet::model::{
    BackendKind, ChainKind, FORMAT, Invariants, Limits, Ms, Network, Node, NodeName, Persistence, Plan, Role, Start,
    Tx, TxBody,
};
use trialnet::observe::{Config, Target, observe};
use trialnet::record::{Clock, Record};

const VERSIONS: [&str; 3] = ["0.37.18", "0.38.17", "1.0.1"];
/// For a machine that is busy with other tests; what is waited for takes a few seconds.
const LIMIT: Duration = Duration::from_secs(90);

/// A network in a temporary folder, each node at an address of its own.
struct Net {
    plan: Plan,
    folder: tempfile::TempDir,
    specs: Vec<NodeSpec>,
    addresses: Vec<SocketAddr>,
    running: Vec<Option<Child>>,
    client: Client,
}

impl Net {
    /// CometBFT validators.
    fn render(version: &str, validators: usize, block_time: Ms, slot: u8) -> Self {
        Self::of(plan(ChainKind::Cometbft, version, validators, 0, block_time), slot)
    }

    /// `slot` tells the tests of this process apart, its id the processes.
    fn of(plan: Plan, slot: u8) -> Self {
        Self::through(plan, slot, |address| address)
    }

    /// The same, with each link leading to the address that is given for its end.
    fn through(plan: Plan, slot: u8, mut via: impl FnMut(SocketAddr) -> SocketAddr) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let process = u8::try_from(std::process::id() % 250).unwrap() + 1;
        let ip = |index: usize| Ipv4Addr::new(127, 98, process, slot + u8::try_from(index).unwrap());
        let mut addresses = Addresses::default();
        for (index, node) in plan.network.nodes.iter().enumerate() {
            let of = NodeAddresses {
                ip: IpAddr::V4(ip(index)),
                ports: BTreeMap::from([(chain::P2P.to_owned(), 26656), (chain::RPC.to_owned(), 26657)]),
                volumes: BTreeMap::from([("home".to_owned(), folder.path().join(&node.name))]),
            };
            addresses.nodes.insert(node.name.clone(), of);
        }
        for (from, to) in &plan.network.links {
            let link = LinkId {
                from: plan.network.nodes[*from].name.clone(),
                to: plan.network.nodes[*to].name.clone(),
                port: chain::P2P.into(),
            };
            addresses
                .links
                .insert(link, via(SocketAddr::new(IpAddr::V4(ip(*to)), 26656)));
        }
        let specs = adapter(plan.network.chain)
            .render(&plan, &addresses, &BTreeMap::new())
            .unwrap()
            .nodes;
        for spec in &specs {
            for file in &spec.components[0].files {
                let path = folder.path().join(&spec.name).join(&file.path);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, &file.content).unwrap();
            }
        }
        Self {
            addresses: (0..specs.len())
                .map(|index| SocketAddr::new(IpAddr::V4(ip(index)), 26657))
                .collect(),
            running: specs.iter().map(|_| None).collect(),
            client: Client::new().unwrap(),
            plan,
            folder,
            specs,
        }
    }

    fn home(&self, index: usize) -> PathBuf {
        self.folder.path().join(&self.specs[index].name)
    }

    fn start(&mut self, index: usize) {
        let component = &self.specs[index].components[0];
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.home(index).join("log"))
            .unwrap();
        let child = Command::new(binary(&component.program))
            .args(&component.args)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.running[index] = Some(child);
    }

    fn kill(&mut self, index: usize) {
        if let Some(mut child) = self.running[index].take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    fn rpc(&self, index: usize) -> Rpc {
        let dialect = adapter(self.plan.network.chain).dialect();
        self.client.node(self.addresses[index], dialect, Ms::secs(5))
    }

    /// Waits until a node's status fits.
    async fn until(&self, index: usize, what: &str, fits: impl Fn(&Status) -> bool) -> Status {
        let rpc = self.rpc(index);
        let limit = Instant::now() + LIMIT;
        loop {
            let answer = rpc.status().await;
            if let Ok(status) = &answer
                && fits(status)
            {
                return status.clone();
            }
            if Instant::now() > limit {
                let log = std::fs::read_to_string(self.home(index).join("log")).unwrap_or_default();
                let tail: Vec<&str> = log.lines().rev().take(30).collect();
                panic!("never saw {what}: {answer:?}, log (latest first): {tail:#?}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for index in 0..self.running.len() {
            self.kill(index);
        }
    }
}

fn plan(chain: ChainKind, version: &str, validators: usize, full: usize, block_time: Ms) -> Plan {
    let adapter = adapter(chain);
    let node = |(group, role, index, power): (&str, Role, usize, u64)| Node {
        name: format!("{group}-{index}"),
        group: group.into(),
        role,
        power,
        version: version.into(),
        config: BTreeMap::new(),
        start: Start::Auto,
        resources: trialnet::model::Resources::default(),
    };
    let validators = (0..validators).map(|index| ("validator", Role::Validator, index, 10));
    let full = (0..full).map(|index| ("full", Role::Full, index, 0));
    let nodes: Vec<Node> = validators.chain(full).map(node).collect();
    Plan {
        format: FORMAT,
        scenario: "real-programs".into(),
        about: None,
        seed: 7,
        backend: BackendKind::Local,
        kubernetes: trialnet::model::Kubernetes::default(),
        network: Network {
            chain,
            version: version.into(),
            block_time,
            persistence: Persistence::Volume,
            app: None,
            keys: trialnet::model::Keys::Seed,
            attach: None,
            config: BTreeMap::new(),
            links: adapter.topology(&nodes),
            nodes,
        },
        versions: IndexMap::from([(version.to_owned(), adapter.version(version).unwrap())]),
        limits: Limits {
            start: Ms::secs(60),
            run: Ms::secs(600),
            settle: Ms::secs(30),
        },
        invariants: Invariants {
            max_stall: Ms::secs(10),
            max_lag: 5,
            off: BTreeSet::new(),
        },
        steps: Vec::new(),
        outcome: None,
        repeats: Vec::new(),
        sums: Vec::new(),
        chaos: None,
    }
}

fn binary(program: &Program) -> &str {
    match program {
        Program::Chain { binary, .. } => binary.as_deref().unwrap(),
        Program::Found => unreachable!(),
        Program::Trialnet => env!("CARGO_BIN_EXE_trialnet"),
    }
}

/// Whether the program of a version of CometBFT is there.
pub(crate) fn available(version: &str) -> bool {
    is_there(&format!("cometbft-{version}"))
}

#[expect(clippy::print_stderr, reason = "a test that is passed over says so")]
fn is_there(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if std::env::split_paths(&path).any(|folder| folder.join(name).is_file()) {
        return true;
    }
    let required = std::env::var("TRIALNET_REQUIRE").is_ok_and(|what| what.split(',').any(|one| one == "chains"));
    assert!(!required, "{name} is not on PATH, and TRIALNET_REQUIRE asks for it");
    eprintln!("passed over: {name} is not on PATH");
    false
}

fn printed(program: &str, command: &str, home: &Path) -> String {
    let output = Command::new(program)
        .args([command, "--home"])
        .arg(home)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn the_program_reads_the_keys_that_were_made() {
    for version in VERSIONS.into_iter().filter(|version| available(version)) {
        let net = Net::render(version, 2, Ms::secs(1), 1);
        let program = binary(&net.specs[0].components[0].program);
        let id = printed(program, "show-node-id", &net.home(0));
        let config = std::fs::read_to_string(net.home(1).join("config/config.toml")).unwrap();
        assert!(
            config.contains(&format!("persistent_peers = \"{id}@127.98.")),
            "{id}: {config}"
        );
        let key = printed(program, "show-validator", &net.home(0));
        let key: serde_json::Value = serde_json::from_str(&key).unwrap();
        assert_eq!(
            key["value"],
            validator_key(&net.plan, &chain::ForeignKeys::new(), "validator-0")
                .unwrap()
                .public
                .as_str()
        );
    }
}

#[tokio::test]
async fn one_validator_makes_blocks() {
    for (slot, version) in (10..).zip(VERSIONS).filter(|(_, version)| available(version)) {
        let mut net = Net::render(version, 1, Ms(200), slot);
        net.start(0);
        let status = net.until(0, "three blocks", |status| status.height >= 3).await;
        let known = adapter(ChainKind::Cometbft).version(version).unwrap();
        assert_eq!(Some(status.version), known.reports);
        assert_eq!(status.chain, chain::chain_id(&net.plan));
        assert_eq!(status.moniker, "validator-0");
        let rpc = net.rpc(0);
        let key = validator_key(&net.plan, &chain::ForeignKeys::new(), "validator-0").unwrap();
        assert_eq!(rpc.leader().await.unwrap().address, key.address);
        let set = rpc.validators(None).await.unwrap();
        assert_eq!(
            (set.validators[0].key.as_str(), set.validators[0].power),
            (key.public.as_str(), 10)
        );
        let headers = rpc.headers(1, 3).await.unwrap();
        assert_eq!(headers[2].parent, headers[1].hash);

        let change = Tx {
            id: "power".into(),
            body: TxBody::Power {
                validator: "validator-0".into(),
                power: 25,
            },
            node: "validator-0".into(),
        };
        let bytes = chain::tx_bytes(&net.plan, &chain::ForeignKeys::new(), &change).unwrap();
        let hash = rpc.send_tx(&bytes).await.unwrap();
        assert_eq!(hash, chain::tx_hash(&bytes));
        rpc.send_tx(&chain::load_tx(7, "load", 0, 200)).await.unwrap();
        let at = net.rpc(0).status().await.unwrap().height;
        net.until(0, "four more blocks", |status| status.height >= at + 4).await;
        let committed = rpc.tx(&hash).await.unwrap().expect("the change is in a block");
        assert_eq!(committed.code, 0);
        assert_eq!(rpc.validators(None).await.unwrap().validators[0].power, 25);
        let state = rpc.app_state(at).await.unwrap();
        assert_eq!(state.is_some(), version != "0.37.18");
        assert!(rpc.abci_info().await.unwrap().height >= at);
    }
}

#[tokio::test]
async fn a_killed_validator_comes_back() {
    if !available("0.38.17") {
        return;
    }
    let mut net = Net::render("0.38.17", 4, Ms(500), 20);
    for index in 0..4 {
        net.start(index);
    }
    net.until(3, "two blocks", |status| status.height >= 2).await;
    net.kill(0);
    let at = net.until(3, "an answer", |_| true).await.height;
    let alone = net
        .until(3, "growth without one", |status| status.height >= at + 4)
        .await
        .height;
    net.start(0);
    net.until(0, "the validator that was killed among the others", |status| {
        status.height > alone + 2
    })
    .await;
    let peers = net.rpc(0).peers().await.unwrap();
    assert!(
        peers.names.iter().all(|name| name.starts_with("validator-")),
        "{peers:?}"
    );
}

/// Relays connections while `open` says so; closes them, and new ones at once, while it does not.
async fn relay(listener: TcpListener, target: SocketAddr, open: watch::Receiver<bool>) {
    while let Ok((mut near, _)) = listener.accept().await {
        let mut open = open.clone();
        tokio::spawn(async move {
            if *open.borrow_and_update()
                && let Ok(mut far) = TcpStream::connect(target).await
            {
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                    _ = open.changed() => {}
                }
            }
        });
    }
}

#[tokio::test]
async fn validators_stay_on_their_links() {
    if !available("0.38.17") {
        return;
    }
    let (open, opened) = watch::channel(true);
    let mut ends = Vec::new();
    let plan = plan(ChainKind::Cometbft, "0.38.17", 2, 0, Ms(500));
    let mut net = Net::through(plan, 80, |end| {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        ends.push((listener, end));
        address
    });
    for (listener, end) in ends {
        tokio::spawn(relay(TcpListener::from_std(listener).unwrap(), end, opened.clone()));
    }
    net.start(0);
    net.start(1);
    net.until(0, "two blocks", |status| status.height >= 2).await;
    open.send(false).unwrap();
    let nodes = [net.rpc(0), net.rpc(1)];
    let limit = Instant::now() + LIMIT;
    while nodes[0].peers().await.unwrap().count + nodes[1].peers().await.unwrap().count > 0 {
        assert!(Instant::now() < limit, "the connection outlives its link");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // A lost peer is dialled again every 5 to 8 seconds: whoever knew another way would have found it by then.
    let end = Instant::now() + Duration::from_secs(10);
    while Instant::now() < end {
        assert_eq!(nodes[0].peers().await.unwrap().count, 0);
        assert_eq!(nodes[1].peers().await.unwrap().count, 0);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let at = net.until(0, "an answer", |_| true).await.height;
    open.send(true).unwrap();
    net.until(0, "growth", |status| status.height >= at + 2).await;
}

#[tokio::test]
async fn devnodes_under_observation() {
    let mut plan = plan(ChainKind::Devnode, env!("CARGO_PKG_VERSION"), 4, 1, Ms(200));
    plan.network.nodes[1]
        .config
        .insert("misbehave".into(), "wrong-hash@4".into());
    let mut net = Net::of(plan, 60);
    let names: Vec<String> = net.specs.iter().map(|spec| spec.name.clone()).collect();
    let target = |(node, address): (&String, &SocketAddr)| Target {
        node: node.clone(),
        endpoint: (*address).into(),
        dialect: chain::Dialect::Comet,
        logs: Vec::new(),
    };
    let key = |name: &String| {
        (
            validator_key(&net.plan, &chain::ForeignKeys::new(), name)
                .unwrap()
                .address,
            name.clone(),
        )
    };
    let config = Config {
        targets: names.iter().zip(&net.addresses).map(target).collect(),
        interval: Ms(50),
        timeout: Ms::secs(2),
        patterns: Vec::new(),
        validators: names.iter().map(key).collect(),
        depth: 0,
    };
    let (out, mut records) = tokio::sync::mpsc::channel(64);
    let cancel = CancellationToken::new();
    let observer = observe(config, Clock::start(), out, cancel.clone());
    for index in 0..names.len() {
        net.start(index);
    }
    net.until(0, "two blocks", |status| status.height >= 2).await;
    assert_eq!(net.rpc(0).status().await.unwrap().version, env!("CARGO_PKG_VERSION"));
    let change = Tx {
        id: "power".into(),
        body: TxBody::Power {
            validator: "full-0".into(),
            power: 3,
        },
        node: "validator-0".into(),
    };
    let bytes = chain::tx_bytes(&net.plan, &chain::ForeignKeys::new(), &change).unwrap();
    net.rpc(0).send_tx(&bytes).await.unwrap();
    let mut hashes: BTreeMap<(NodeName, u64), String> = BTreeMap::new();
    let mut states: BTreeMap<u64, BTreeSet<NodeName>> = BTreeMap::new();
    let (mut peers, mut power) = (BTreeSet::new(), 0);
    let whole = |hashes: &BTreeMap<(NodeName, u64), String>| {
        names
            .iter()
            .all(|name| (1..=8).all(|height| hashes.contains_key(&(name.clone(), height))))
    };
    let limit = tokio::time::Instant::now() + LIMIT;
    while !whole(&hashes) || power != 3 || peers.len() < 5 || !states.values().any(|nodes| nodes.len() == 5) {
        let record = tokio::time::timeout_at(limit, records.recv()).await;
        match record
            .expect("headers, a state, peers and the new power in time")
            .unwrap()
        {
            Record::Headers { node, headers, .. } => {
                hashes.extend(
                    headers
                        .into_iter()
                        .map(|header| ((node.clone(), header.height), header.hash)),
                );
            }
            Record::AppState { node, height, .. } => drop(states.entry(height).or_default().insert(node)),
            Record::Peers { node, count: 4, .. } => drop(peers.insert(node)),
            Record::Validators { powers, .. } => power = powers.get("full-0").copied().unwrap_or(0),
            _ => {}
        }
    }
    for height in 1..=8 {
        let differ = names
            .iter()
            .filter(|name| hashes[&((*name).clone(), height)] != hashes[&(names[0].clone(), height)]);
        let differ: Vec<&String> = differ.collect();
        let liar = if height == 4 { vec!["validator-1"] } else { vec![] };
        assert_eq!(differ, liar, "at height {height}");
    }
    // It may be gone before it has answered.
    net.rpc(2).misbehave("crash@1").await.ok();
    net.rpc(3).misbehave("no such thing").await.unwrap_err();
    net.rpc(1).behave().await.unwrap();
    let leader = net.rpc(0).leader().await.unwrap().address;
    assert!(names.iter().any(|name| {
        validator_key(&net.plan, &chain::ForeignKeys::new(), name)
            .unwrap()
            .address
            == leader
    }));
    cancel.cancel();
    observer.await.unwrap();
}

/// By hand, for the constants of the adapter: `cargo test --test it -- --ignored --nocapture intervals`.
#[tokio::test]
#[ignore = "prints figures, checks nothing"]
#[expect(clippy::print_stderr, reason = "that is what it is for")]
async fn intervals() {
    for version in VERSIONS.into_iter().filter(|version| available(version)) {
        for block_time in [200, 500, 1_000] {
            let mut net = Net::render(version, 4, Ms(block_time), 40);
            let begin = Instant::now();
            for index in 0..4 {
                net.start(index);
            }
            net.until(0, "a block", |status| status.height >= 1).await;
            let first = begin.elapsed();
            let from = net.until(0, "blocks", |status| status.height >= 6).await.height;
            let begin = Instant::now();
            net.until(0, "ten blocks", |status| status.height >= from + 10).await;
            let interval = begin.elapsed() / 10;
            net.kill(1);
            let from = net.until(0, "an answer", |_| true).await.height;
            let begin = Instant::now();
            net.until(0, "eight blocks", |status| status.height >= from + 8).await;
            let with_one_dead = begin.elapsed() / 8;
            net.start(1);
            let begin = Instant::now();
            net.until(1, "peers", |_| true).await;
            while net.rpc(1).peers().await.unwrap().count < 3 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let linked = begin.elapsed();
            eprintln!(
                "{version} {block_time} ms: first {first:?}, {interval:?} a block, one dead {with_one_dead:?}, restarted with 3 peers after {linked:?}"
            );
        }
    }
}
