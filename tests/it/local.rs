//! The local backend with real processes, a guard and real signals; the nodes are `trialnet testnode`.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic, and measures")]

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::sync::mpsc;
use trialnet::agent::registry::{self, RunEntry};
use trialnet::agent::table;
use trialnet::agent::tamper::Tamper;
use trialnet::backend::local::{Life, Local, LocalOptions};
use trialnet::backend::{
    Addresses, Component, Damage, Deployer, File, Job, LinkId, LinkShape, NodeOps, NodeSpec, Place, Port, Program,
    RunState, Teardown, Trouble, Wanted, Write,
};
use trialnet::model::Ms;
use trialnet::record::{NodeEvent, Record};

/// Far more than anything here takes; a test that waits this long has failed.
const LIMIT: Duration = Duration::from_secs(40);
const PROBE: Ms = Ms(400);
const AT_ONCE: Teardown = Teardown {
    grace: Ms(0),
    keep_homes: false,
};

/// A network of test nodes.
struct Net {
    local: Local,
    records: mpsc::UnboundedReceiver<Record>,
    addresses: Addresses,
    links: Vec<LinkId>,
    run: String,
    dir: PathBuf,
}

/// What a test wants.
#[derive(Default)]
struct Wish {
    nodes: usize,
    /// Pairs of indices: who dials whom.
    links: Vec<(usize, usize)>,
    /// Further arguments of each node.
    args: BTreeMap<usize, Vec<&'static str>>,
    tamper: Option<Tamper>,
    lease: Option<Ms>,
}

fn name(index: usize) -> String {
    format!("n-{index}")
}

fn run_id(dir: &Path) -> String {
    // The folder is unique, and so is the id made of it.
    let id: String = dir
        .to_str()
        .unwrap()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    id.trim_matches('-').to_owned()
}

fn wanted(index: usize) -> Wanted {
    Wanted {
        node: name(index),
        ports: vec![Port {
            name: "p2p",
            number: 26_656,
        }],
        volumes: vec!["data".to_owned()],
    }
}

fn link(from: usize, to: usize) -> LinkId {
    LinkId {
        from: name(from),
        to: name(to),
        port: "p2p".to_owned(),
    }
}

fn component(args: Vec<String>) -> Component {
    Component {
        name: "node".to_owned(),
        program: Program::Trialnet,
        version: "test".to_owned(),
        args,
        env: BTreeMap::new(),
        ports: vec!["p2p".to_owned()],
        files: Vec::new(),
        user: None,
        resources: trialnet::model::Resources::default(),
    }
}

impl Net {
    /// Brings a network up in `dir`, which also holds the registry of this test alone.
    async fn up(dir: &Path, wish: Wish) -> Self {
        Self::try_up(dir, wish).await.unwrap()
    }

    async fn try_up(dir: &Path, wish: Wish) -> Result<Self, Trouble> {
        let Wish {
            nodes,
            links,
            args,
            tamper,
            lease,
        } = wish;
        let exe = PathBuf::from(env!("CARGO_BIN_EXE_trialnet"));
        let mut options = LocalOptions::new(exe, dir.join("run"), run_id(dir));
        options.state_dir = Some(dir.join("state"));
        options.tamper = tamper;
        options.lease = lease.unwrap_or(options.lease);
        let run = options.run_id.clone();
        let (tx, records) = mpsc::unbounded_channel();
        let local = Local::new(options, tx);
        let wanted: Vec<_> = (0..nodes).map(wanted).collect();
        let links: Vec<_> = links.into_iter().map(|(from, to)| link(from, to)).collect();
        let addresses = local.reserve(&wanted, &links).await?;
        let specs: Vec<_> = (0..nodes)
            .map(|index| {
                let own = addresses.nodes[&name(index)].clone();
                let mut all = vec![
                    "testnode".to_owned(),
                    "--listen".to_owned(),
                    format!("{}:{}", own.ip, own.ports["p2p"]),
                ];
                let dials = addresses.links.iter().filter(|(link, _)| link.from == name(index));
                all.extend(dials.map(|(_, address)| format!("--dial={address}")));
                all.extend(args.get(&index).into_iter().flatten().map(|arg| (*arg).to_owned()));
                NodeSpec {
                    name: name(index),
                    place: Place::default(),
                    components: vec![component(all)],
                    volumes: vec!["data".to_owned()],
                    started: true,
                }
            })
            .collect();
        local.apply(&specs).await?;
        Ok(Self {
            local,
            records,
            addresses,
            links,
            run,
            dir: dir.to_path_buf(),
        })
    }

    async fn run_state(&self, index: usize) -> RunState {
        self.local.state(&name(index)).await.unwrap().components[0].run
    }

    async fn generation(&self, index: usize) -> u32 {
        self.local.state(&name(index)).await.unwrap().components[0].generation
    }

    /// Waits for a record that `wanted` takes.
    async fn record<T>(&mut self, what: &str, mut wanted: impl FnMut(Record) -> Option<T>) -> T {
        let mut seen = Vec::new();
        let found = tokio::time::timeout(LIMIT, async {
            while let Some(record) = self.records.recv().await {
                seen.push(format!("{record:?}"));
                if let Some(found) = wanted(record) {
                    return found;
                }
            }
            panic!("{what}: no more records; seen: {seen:#?}")
        });
        found
            .await
            .unwrap_or_else(|_| panic!("{what}: no such record within {LIMIT:?}"))
    }

    async fn trouble(&mut self, code: &str) -> String {
        self.record(code, |record| match record {
            Record::Trouble { code: its, seen, .. } if its == code => Some(seen),
            _ => None,
        })
        .await
    }

    async fn passes(&self, index: usize) -> bool {
        let seen = self
            .local
            .probe_links(&self.links[index..=index], PROBE.into())
            .await
            .unwrap();
        seen[0].first_byte.is_some()
    }

    async fn wait_passes(&self, index: usize) {
        until("the link passes", async || self.passes(index).await).await;
    }

    async fn cut(&self, indices: &[usize]) {
        let shapes: Vec<_> = indices
            .iter()
            .map(|&index| LinkShape {
                link: self.links[index].clone(),
                cut: true,
                latency: Ms(0),
                jitter: Ms(0),
                drops: false,
            })
            .collect();
        self.local.shape(&shapes).await.unwrap();
    }

    fn entry(&self) -> RunEntry {
        registry::list_runs_in(&self.dir.join("state"))
            .into_iter()
            .find(|entry| entry.run == self.run)
            .unwrap()
    }

    fn log(&self, index: usize) -> String {
        String::from_utf8_lossy(&std::fs::read(self.local.log(&name(index), "node")).unwrap()).into_owned()
    }

    async fn down(self) {
        let left = self.local.destroy(AT_ONCE).await;
        assert_eq!(left, [""; 0]);
        assert_gone(&self.run, &self.dir).await;
    }
}

async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !condition().await {
        assert!(Instant::now() < deadline, "{what}: not within {LIMIT:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until nothing of a run is left: no process, no home, no entry.
async fn assert_gone(run: &str, dir: &Path) {
    until(&format!("no process of {run}"), async || table::of_run(run).is_empty()).await;
    until("no node homes", async || !dir.join("run/homes").exists()).await;
    until("no entry", async || {
        registry::list_runs_in(&dir.join("state")).is_empty()
    })
    .await;
}

fn end(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid.try_into().unwrap()), signal).unwrap();
}

#[tokio::test]
async fn nodes_are_killed_stopped_paused_and_started() {
    let dir = tempfile::tempdir().unwrap();
    let mut net = Net::up(
        dir.path(),
        Wish {
            nodes: 2,
            ..Wish::default()
        },
    )
    .await;
    let ops = net.local.ops();
    assert_eq!(net.run_state(0).await, RunState::Running);
    assert_eq!(ops.start("n-0").await.unwrap_err().code, "infra/node-runs");

    ops.kill("n-0", None).await.unwrap();
    assert_eq!(net.run_state(0).await, RunState::Gone);
    assert_eq!(net.run_state(1).await, RunState::Running);
    let exited = net.record("the exit", |record| match record {
        Record::Node {
            node,
            event:
                NodeEvent::Exited {
                    signal,
                    asked,
                    generation,
                    ..
                },
        } => Some((node, signal, asked, generation)),
        _ => None,
    });
    assert_eq!(exited.await, ("n-0".to_owned(), Some(9), true, 1));
    ops.kill("n-0", None).await.unwrap();
    assert_eq!(ops.pause("n-0").await.unwrap_err().code, "infra/node-down");

    // The same address at once, and one generation more.
    ops.start("n-0").await.unwrap();
    assert_eq!(
        (net.run_state(0).await, net.generation(0).await),
        (RunState::Running, 2)
    );
    let address = ops.endpoint("n-0", "node", "p2p").unwrap().address;
    until("it answers again", async || {
        tokio::net::TcpStream::connect(address).await.is_ok()
    })
    .await;

    ops.pause("n-0").await.unwrap();
    until("it is halted", async || net.run_state(0).await == RunState::Paused).await;
    ops.resume("n-0").await.unwrap();
    until("it goes on", async || net.run_state(0).await == RunState::Running).await;

    // A paused node is resumed to be stopped, so that it can end politely.
    ops.pause("n-0").await.unwrap();
    ops.stop("n-0", Ms(LIMIT.as_millis().try_into().unwrap()))
        .await
        .unwrap();
    assert_eq!(net.run_state(0).await, RunState::Gone);
    let log = net.log(0);
    assert!(
        log.contains("generation 1 ===") && log.contains("generation 2 ===\nended politely\n"),
        "{log}"
    );
    assert_eq!(ops.kill("nobody", None).await.unwrap_err().code, "infra/io");
    net.down().await;
}

/// The arguments of a test node that listens at a free port.
fn listening() -> Vec<String> {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    vec![
        "testnode".to_owned(),
        "--listen".to_owned(),
        format!("127.0.0.1:{port}"),
    ]
}

/// One node of two components, with a volume and a file of each kind.
async fn two_components(net: &Net) {
    let file = |path: &str, write| File {
        volume: "data".to_owned(),
        path: path.into(),
        content: b"fresh".to_vec(),
        secret: false,
        write,
    };
    let mut app = component(listening());
    "app".clone_into(&mut app.name);
    app.files = vec![
        file("once", Write::Once),
        file("always", Write::Always),
        file("absent", Write::Absent),
    ];
    let mut core = component(listening());
    "core".clone_into(&mut core.name);
    let spec = NodeSpec {
        name: "two".to_owned(),
        place: Place::default(),
        components: vec![app, core],
        volumes: vec!["data".to_owned()],
        started: true,
    };
    net.local.apply(&[spec]).await.unwrap();
}

#[tokio::test]
async fn one_component_is_killed_and_started_and_the_other_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let net = Net::up(dir.path(), Wish::default()).await;
    two_components(&net).await;
    let ops = net.local.ops();
    let states = async || {
        let components = net.local.state("two").await.unwrap().components;
        let state = |component: trialnet::backend::ComponentState| (component.run, component.generation);
        components.into_iter().map(state).collect::<Vec<_>>()
    };
    let socket = dir.path().join("run/homes/two/data/absent");
    std::fs::write(&socket, "of the app that runs").unwrap();
    ops.kill("two", Some("core")).await.unwrap();
    assert_eq!(states().await, [(RunState::Running, 1), (RunState::Gone, 1)]);
    ops.start("two").await.unwrap();
    assert_eq!(states().await, [(RunState::Running, 1), (RunState::Running, 2)]);
    assert!(socket.exists(), "the files of a component that runs are left alone");
    ops.kill("two", Some("app")).await.unwrap();
    ops.kill("two", Some("app")).await.unwrap();
    assert_eq!(ops.wipe("two").await.unwrap_err().code, "infra/node-runs");
    ops.start("two").await.unwrap();
    assert_eq!(states().await, [(RunState::Running, 2), (RunState::Running, 2)]);
    assert!(
        !socket.exists(),
        "what a killed component left is removed before its next start"
    );
    assert_eq!(ops.start("two").await.unwrap_err().code, "infra/node-runs");
    assert_eq!(ops.kill("two", Some("none")).await.unwrap_err().code, "infra/io");
    ops.kill("two", None).await.unwrap();
    assert_eq!(states().await, [(RunState::Gone, 2), (RunState::Gone, 2)]);
    net.down().await;
}

#[tokio::test]
async fn a_wipe_empties_the_volumes_of_a_node_that_is_down() {
    let dir = tempfile::tempdir().unwrap();
    let net = Net::up(dir.path(), Wish::default()).await;
    two_components(&net).await;
    let ops = net.local.ops();
    let data = dir.path().join("run/homes/two/data");
    std::fs::write(data.join("once"), "changed").unwrap();
    std::fs::write(data.join("blocks"), "many").unwrap();
    assert_eq!(ops.wipe("two").await.unwrap_err().code, "infra/node-runs");
    ops.kill("two", None).await.unwrap();
    ops.start("two").await.unwrap();
    assert_eq!(std::fs::read_to_string(data.join("once")).unwrap(), "changed");
    ops.kill("two", None).await.unwrap();
    ops.wipe("two").await.unwrap();
    assert_eq!(std::fs::read_dir(&data).unwrap().count(), 0);
    ops.start("two").await.unwrap();
    assert_eq!(std::fs::read_to_string(data.join("once")).unwrap(), "fresh");
    assert!(!data.join("blocks").exists());
    net.down().await;
}

#[tokio::test]
async fn bytes_of_a_node_that_is_down_are_damaged_by_the_guard_and_seen_here() {
    let dir = tempfile::tempdir().unwrap();
    let net = Net::up(dir.path(), Wish::default()).await;
    two_components(&net).await;
    let ops = net.local.ops();
    let path = dir.path().join("run/homes/two/data/blocks");
    std::fs::write(&path, "one two three").unwrap();
    let seen = async || ops.digests("two", "bl*").await.unwrap();
    let before = seen().await;
    assert_eq!(
        (before.len(), before[0].file.as_str(), before[0].size),
        (1, "blocks", 13)
    );
    let damages = [Damage {
        file: "blocks".to_owned(),
        sha256: before[0].sha256.clone(),
        offsets: vec![4],
    }];
    assert_eq!(ops.corrupt("two", &damages).await.unwrap_err().code, "infra/node-runs");
    ops.kill("two", None).await.unwrap();
    ops.corrupt("two", &damages).await.unwrap();
    ops.corrupt("two", &damages).await.unwrap();
    let mut damaged = b"one two three".to_vec();
    damaged[4] = !damaged[4];
    assert_eq!(std::fs::read(&path).unwrap(), damaged, "once, although asked twice");
    assert_ne!(seen().await[0].sha256, before[0].sha256);
    net.down().await;
}

#[tokio::test]
async fn a_node_that_does_not_stop_is_killed_after_the_grace() {
    let dir = tempfile::tempdir().unwrap();
    let args = BTreeMap::from([(0, vec!["--stubborn", "--escape"])]);
    let net = Net::up(
        dir.path(),
        Wish {
            nodes: 1,
            args,
            ..Wish::default()
        },
    )
    .await;
    until("the escaped child", async || table::of_run(&net.run).len() == 2).await;
    let address = net.local.endpoint("n-0", "node", "p2p").unwrap().address;
    until("it answers", async || {
        tokio::net::TcpStream::connect(address).await.is_ok()
    })
    .await;
    let began = Instant::now();
    net.local.stop("n-0", Ms(150)).await.unwrap();
    assert!(began.elapsed() >= Duration::from_millis(150));
    assert_eq!(net.run_state(0).await, RunState::Gone);
    // Also the child that left the process group and the session.
    until("no process", async || table::of_run(&net.run).is_empty()).await;
    net.down().await;
}

#[tokio::test]
async fn an_exit_that_nobody_asked_for_carries_the_last_words() {
    let dir = tempfile::tempdir().unwrap();
    let args = BTreeMap::from([(0, vec!["--exit=7", "--spam=8388608"])]);
    let mut net = Net::up(
        dir.path(),
        Wish {
            nodes: 1,
            args,
            ..Wish::default()
        },
    )
    .await;
    let (code, asked, tail) = net
        .record("the exit", |record| match record {
            Record::Node {
                event: NodeEvent::Exited { code, asked, tail, .. },
                ..
            } => Some((code, asked, tail)),
            _ => None,
        })
        .await;
    assert_eq!((code, asked), (Some(7), false));
    assert_eq!((tail.len(), tail.last().map(String::as_str)), (20, Some("last words")));
    // All of eight megabytes is there, although nobody read them meanwhile.
    assert!(net.log(0).len() > 8 << 20);
    net.down().await;
}

#[tokio::test]
async fn a_missing_program_is_named_before_anything_starts() {
    let dir = tempfile::tempdir().unwrap();
    let net = Net::up(
        dir.path(),
        Wish {
            nodes: 1,
            ..Wish::default()
        },
    )
    .await;
    let mut missing = component(Vec::new());
    missing.program = Program::Chain {
        binary: Some("no-such-chain".to_owned()),
        image: None,
        program: String::new(),
        hint: "fetch it".to_owned(),
    };
    let spec = |name: &str, component| NodeSpec {
        name: name.to_owned(),
        place: Place::default(),
        components: vec![component],
        volumes: Vec::new(),
        started: true,
    };
    let specs = [
        spec("good", component(vec!["testnode".to_owned()])),
        spec("bad", missing),
    ];
    let trouble = net.local.apply(&specs).await.unwrap_err();
    assert_eq!(trouble.code, "infra/program-missing");
    assert!(
        trouble.seen.contains("no-such-chain") && trouble.seen.contains("fetch it"),
        "{trouble}"
    );
    assert!(net.local.state("good").await.is_err());
    net.down().await;
}

#[tokio::test]
async fn jobs_run_to_their_end_or_their_limit() {
    let dir = tempfile::tempdir().unwrap();
    let net = Net::up(
        dir.path(),
        Wish {
            nodes: 1,
            ..Wish::default()
        },
    )
    .await;
    let job = |script: &str, limit| Job {
        name: "make keys".to_owned(),
        program: Program::Chain {
            binary: Some("sh".to_owned()),
            image: None,
            program: String::new(),
            hint: String::new(),
        },
        args: vec!["-c".to_owned(), script.to_owned()],
        env: BTreeMap::from([("WORD".to_owned(), "key".to_owned())]),
        user: None,
        limit,
        node: None,
        volumes: Vec::new(),
    };
    let output = net
        .local
        .run_job(&job("echo $WORD; echo noise >&2", Ms::secs(30)))
        .await
        .unwrap();
    assert_eq!(output.stdout, b"key\n");
    // A job of a node finds the node's volumes, before the node is made.
    let mut own = job("pwd; ls", Ms::secs(30));
    own.node = Some("later".to_owned());
    own.volumes = vec!["home".to_owned()];
    let output = String::from_utf8(net.local.run_job(&own).await.unwrap().stdout).unwrap();
    assert!(output.ends_with("/homes/later\nhome\n"), "{output}");
    let failed = net
        .local
        .run_job(&job("echo reason >&2; exit 3", Ms::secs(30)))
        .await
        .unwrap_err();
    assert_eq!(failed.code, "infra/job-failed");
    assert!(failed.seen.contains("exit code 3: reason"), "{failed}");
    let late = net.local.run_job(&job("sleep 600", Ms(50))).await.unwrap_err();
    assert_eq!(late.code, "infra/job-timeout");
    net.down().await;
}

#[tokio::test]
async fn a_killed_guard_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let args = BTreeMap::from([(1, vec!["--stubborn", "--escape"])]);
    let mut net = Net::up(
        dir.path(),
        Wish {
            nodes: 3,
            args,
            ..Wish::default()
        },
    )
    .await;
    until("the escaped child", async || table::of_run(&net.run).len() == 4).await;
    net.local.pause("n-2").await.unwrap();
    end(net.entry().guard.pid, Signal::SIGKILL);
    let seen = net.trouble("infra/guard-died").await;
    assert!(seen.contains("nothing is left"), "{seen}");
    assert_gone(&net.run, dir.path()).await;
    assert_eq!(net.local.kill("n-0", None).await.unwrap_err().code, "infra/guard-died");
    assert_eq!(net.local.renew().await.unwrap_err().code, "infra/guard-died");
    assert_eq!(net.run_state(0).await, RunState::Gone);
    net.down().await;
}

#[tokio::test]
async fn a_guard_that_is_asked_to_end_by_a_signal_tears_down() {
    let dir = tempfile::tempdir().unwrap();
    let mut net = Net::up(
        dir.path(),
        Wish {
            nodes: 2,
            ..Wish::default()
        },
    )
    .await;
    let guard = net.entry().guard.pid;
    // What a terminal sends to everybody is not for the guard.
    end(guard, Signal::SIGINT);
    end(guard, Signal::SIGHUP);
    net.local.renew().await.unwrap();
    assert_eq!(net.run_state(0).await, RunState::Running);
    end(guard, Signal::SIGTERM);
    net.trouble("infra/guard-died").await;
    assert_gone(&net.run, dir.path()).await;
}

/// Not a test: the trialnet that other tests kill. Brings a network up, says so, and waits for its end.
#[tokio::test]
#[ignore = "the process that other tests of this file kill"]
async fn owner_process() {
    let dir = PathBuf::from(std::env::var_os("TRIALNET_TEST_DIR").expect("started by another test"));
    let args = BTreeMap::from([(0, vec!["--stubborn", "--escape"])]);
    let net = Net::up(
        &dir,
        Wish {
            nodes: 3,
            links: vec![(0, 1), (1, 2)],
            args,
            ..Wish::default()
        },
    )
    .await;
    net.local.pause("n-1").await.unwrap();
    net.cut(&[0]).await;
    std::fs::write(dir.join("up"), "").unwrap();
    std::future::pending::<()>().await;
}

/// An owner process; ended with the test, also when that fails.
struct Owner(std::process::Child, String);

impl Owner {
    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
        // Nobody else does it where the guard was killed too.
        if std::thread::panicking() {
            drop(table::end_run(&self.1, LIMIT));
        }
    }
}

fn start_owner(dir: &Path) -> Owner {
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["local::owner_process", "--exact", "--ignored", "--nocapture"])
        .env("TRIALNET_TEST_DIR", dir)
        .stdout(std::process::Stdio::null())
        .stderr(std::fs::File::create(dir.join("owner.log")).unwrap())
        .spawn()
        .unwrap();
    Owner(child, run_id(dir))
}

/// Runs [`owner_process`] until its network is up.
async fn owner(dir: &Path) -> (Owner, RunEntry) {
    let child = start_owner(dir);
    until("the network of the other process", async || dir.join("up").exists()).await;
    until("the escaped child", async || table::of_run(&run_id(dir)).len() == 4).await;
    let entry = registry::list_runs_in(&dir.join("state")).remove(0);
    (child, entry)
}

/// The guard of an owner, also one that has not entered itself into the registry yet.
fn guard_of(dir: &Path) -> Option<u32> {
    let mark = format!("TRIALNET_TEST_DIR={}", dir.display());
    let has = |pid: u32, file: &str, word: &str| {
        std::fs::read(format!("/proc/{pid}/{file}"))
            .is_ok_and(|bytes| bytes.split(|&byte| byte == 0).any(|part| part == word.as_bytes()))
    };
    std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .find(|&pid| has(pid, "cmdline", "guard") && has(pid, "environ", &mark))
}

/// How many trials; the long run sets more.
fn rounds() -> u32 {
    std::env::var("TRIALNET_TRIALS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(9)
}

#[tokio::test]
async fn kills_at_random_moments_leave_nothing() {
    let mut longest = Duration::ZERO;
    for round in 0..rounds() {
        let dir = tempfile::tempdir().unwrap();
        let moment = Duration::from_millis(rand::random_range(0..700));
        let mut child = start_owner(dir.path());
        tokio::time::sleep(moment).await;
        let guard = guard_of(dir.path());
        let began = Instant::now();
        let who = ["trialnet", "the guard", "both"][round as usize % 3];
        println!("round {round}: {who} killed after {moment:?}, guard {guard:?}");
        if let Some(guard) = guard.filter(|_| who != "trialnet") {
            if who == "both" {
                end(child.0.id(), Signal::SIGSTOP);
            }
            kill(Pid::from_raw(guard.try_into().unwrap()), Signal::SIGKILL).ok();
        }
        if who == "the guard" && guard.is_some() {
            assert_gone(&run_id(dir.path()), dir.path()).await;
        }
        child.kill();
        until("no guard", async || guard_of(dir.path()).is_none()).await;
        if who == "both" {
            // A process that ends has lost its arguments before it counts as gone, and until then nothing of it is collected.
            let state = dir.path().join("state");
            let runs = || registry::list_runs_in(&state);
            until("the guard has ended", async || {
                runs().iter().all(|entry| !entry.guard.alive())
            })
            .await;
            println!("{:?}", registry::gc_in(&state, false));
        }
        assert_gone(&run_id(dir.path()), dir.path()).await;
        longest = longest.max(began.elapsed());
    }
    println!("the longest took {longest:?}");
}

#[tokio::test]
async fn a_killed_trialnet_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (mut child, entry) = owner(dir.path()).await;
    assert_eq!(entry.life(), Life::Up);
    child.kill();
    assert_gone(&run_id(dir.path()), dir.path()).await;
    until("no guard", async || !entry.guard.alive()).await;
    if let Some(slot) = entry.slot {
        for address in [format!("127.{slot}.0.1:26656"), format!("127.{slot}.1.2:26656")] {
            // Another test may take the slot in the meantime; then the address is not ours any more.
            until("a free address", async || {
                TcpListener::bind(&address).is_ok() || registry::Slot::take(&[]).is_some_and(|free| free.number != slot)
            })
            .await;
        }
    }
}

#[tokio::test]
async fn what_is_left_when_both_die_is_collected() {
    let dir = tempfile::tempdir().unwrap();
    let (mut child, entry) = owner(dir.path()).await;
    // Halted, trialnet cannot clean up after its guard.
    end(child.0.id(), Signal::SIGSTOP);
    until("trialnet is halted", async || {
        table::look(child.0.id()).is_some_and(|seen| seen.run == RunState::Paused)
    })
    .await;
    end(entry.guard.pid, Signal::SIGKILL);
    until("only the escaped child", async || table::of_run(&entry.run).len() == 1).await;
    child.kill();
    assert_eq!(entry.life(), Life::LeftOver);
    assert!(entry.homes.join("n-0/data").exists());
    let state = dir.path().join("state");
    let would = registry::gc_in(&state, true);
    assert_eq!(would.done.len(), 2, "{would:?}");
    assert_eq!(entry.processes().len(), 1);
    let did = registry::gc_in(&state, false);
    assert_eq!((did.done.len(), did.left.len()), (2, 0), "{did:?}");
    assert_gone(&entry.run, dir.path()).await;
    assert_eq!(registry::gc_in(&state, false), registry::Swept::default());
}

#[tokio::test]
async fn a_cut_holds_open_and_new_connections_and_is_taken_back() {
    let dir = tempfile::tempdir().unwrap();
    let net = Net::up(
        dir.path(),
        Wish {
            nodes: 3,
            links: vec![(0, 1), (1, 2)],
            ..Wish::default()
        },
    )
    .await;
    until("the nodes have heard each other", async || {
        let seen = net.local.probe_links(&net.links, PROBE.into()).await.unwrap();
        let heard = |open: &BTreeMap<u16, u64>| open.values().any(|&bytes| bytes > 0);
        seen.iter()
            .all(|link| link.first_byte.is_some() && link.open.as_ref().is_none_or(heard))
    })
    .await;
    net.cut(&[0]).await;
    let before = net.local.probe_links(&net.links, PROBE.into()).await.unwrap();
    let after = net.local.probe_links(&net.links, PROBE.into()).await.unwrap();
    assert_eq!((before[0].first_byte, after[0].first_byte), (None, None));
    net.wait_passes(1).await;
    if let (Some(cut_then), Some(cut_now)) = (&before[0].open, &after[0].open) {
        // The node's own connection, and not those of the probes.
        assert_eq!(cut_now.len(), 1);
        assert_eq!(cut_then, cut_now);
        let then = before[1].open.as_ref().unwrap();
        until("bytes move on the other link", async || {
            let now = net.local.probe_links(&net.links[1..], PROBE.into()).await.unwrap();
            let now = now[0].open.as_ref().unwrap();
            then.keys().eq(now.keys()) && then.values().lt(now.values())
        })
        .await;
    }
    net.local.shape(&[]).await.unwrap();
    net.wait_passes(0).await;
    let healed = net.local.probe_links(&net.links, PROBE.into()).await.unwrap();
    if let (Some(cut), Some(healed)) = (&after[0].open, &healed[0].open) {
        assert!(cut.keys().eq(healed.keys()), "the connection lived through the cut");
        until("its bytes move again", async || {
            net.local.probe_links(&net.links, PROBE.into()).await.unwrap()[0]
                .open
                .as_ref()
                .unwrap()
                > cut
        })
        .await;
    }
    let unknown = LinkShape {
        link: link(2, 0),
        cut: true,
        latency: Ms(0),
        jitter: Ms(0),
        drops: false,
    };
    assert_eq!(net.local.shape(&[unknown]).await.unwrap_err().code, "infra/io");
    net.down().await;
}

#[tokio::test]
async fn a_delay_is_seen_by_the_probe() {
    let dir = tempfile::tempdir().unwrap();
    let net = Net::up(
        dir.path(),
        Wish {
            nodes: 2,
            links: vec![(0, 1)],
            ..Wish::default()
        },
    )
    .await;
    net.wait_passes(0).await;
    let slow = LinkShape {
        link: net.links[0].clone(),
        cut: false,
        latency: Ms(80),
        jitter: Ms(10),
        drops: false,
    };
    net.local.shape(&[slow]).await.unwrap();
    let seen = net.local.probe_links(&net.links, Ms::secs(30).into()).await.unwrap();
    assert!(
        seen[0].first_byte.unwrap() >= Ms(140),
        "a round trip of 2 × (80 ± 10) took {:?}",
        seen[0].first_byte
    );
    net.down().await;
}

#[tokio::test]
async fn runs_side_by_side_share_no_address() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let wish = || Wish {
        nodes: 2,
        links: vec![(0, 1)],
        ..Wish::default()
    };
    let (one, two) = tokio::join!(Net::up(one.path(), wish()), Net::up(two.path(), wish()));
    let all = |net: &Net| {
        let own = (0..2).map(|index| net.local.endpoint(&name(index), "node", "p2p").unwrap().address);
        own.chain(net.addresses.links.values().copied()).collect::<Vec<_>>()
    };
    assert!(all(&one).iter().all(|address| !all(&two).contains(address)));
    one.wait_passes(0).await;
    two.wait_passes(0).await;
    one.down().await;
    assert_eq!(two.run_state(0).await, RunState::Running);
    two.down().await;
}

#[tokio::test]
async fn faults_revert_when_nobody_renews_the_lease() {
    let dir = tempfile::tempdir().unwrap();
    let wish = Wish {
        nodes: 3,
        links: vec![(0, 1)],
        lease: Some(Ms(1500)),
        ..Wish::default()
    };
    let mut net = Net::up(dir.path(), wish).await;
    net.wait_passes(0).await;
    net.local.kill("n-1", None).await.unwrap();
    net.local.start("n-1").await.unwrap();
    net.local.kill("n-2", None).await.unwrap();
    net.cut(&[0]).await;
    let mut renewed = Instant::now();
    net.local.pause("n-0").await.unwrap();
    until("it is halted", async || net.run_state(0).await == RunState::Paused).await;
    // Renewed for longer than the lease, they stay.
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(2000) {
        let renewing = Instant::now();
        net.local.renew().await.unwrap();
        let state = net.run_state(0).await;
        if renewed.elapsed() >= Duration::from_millis(1500) {
            // A machine that gave this test no turn for as long as the lease: nothing was promised.
            break;
        }
        assert_eq!(state, RunState::Paused);
        renewed = renewing;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let seen = net.trouble("infra/lease-lost").await;
    assert!(
        seen.contains("1 links") && seen.contains("resumed: n-0; started again: n-2"),
        "{seen}"
    );
    until("it goes on", async || net.run_state(0).await == RunState::Running).await;
    net.wait_passes(0).await;
    until("it is up again", async || net.run_state(2).await == RunState::Running).await;
    net.down().await;
}

#[tokio::test]
async fn a_component_that_ended_beside_one_that_was_killed_starts_with_it_when_the_lease_is_over() {
    let dir = tempfile::tempdir().unwrap();
    let wish = Wish {
        lease: Some(Ms(1500)),
        ..Wish::default()
    };
    let mut net = Net::up(dir.path(), wish).await;
    two_components(&net).await;
    net.local.kill("two", Some("core")).await.unwrap();
    let app = net.local.state("two").await.unwrap().components[0].pid.unwrap();
    crate::killed::signal(u64::from(app), nix::sys::signal::Signal::SIGKILL);
    let seen = net.trouble("infra/lease-lost").await;
    assert!(seen.contains("started again: two"), "{seen}");
    until("both are up again", async || {
        let components = net.local.state("two").await.unwrap().components;
        let up = |component: &trialnet::backend::ComponentState| {
            (component.run, component.generation) == (RunState::Running, 2)
        };
        components.iter().all(up)
    })
    .await;
    net.down().await;
}

#[tokio::test]
async fn an_injector_that_lies_is_found_out() {
    let dir = tempfile::tempdir().unwrap();
    let wish = |tamper| Wish {
        nodes: 2,
        links: vec![(0, 1), (1, 0)],
        tamper: Some(tamper),
        ..Wish::default()
    };
    let up = async |tamper: Tamper| Net::up(&dir.path().join(format!("{tamper:?}")), wish(tamper)).await;

    let net = up(Tamper::CutNothing).await;
    net.wait_passes(0).await;
    net.cut(&[0]).await;
    net.wait_passes(0).await;
    net.down().await;

    let net = up(Tamper::CutMore).await;
    net.wait_passes(1).await;
    net.cut(&[0]).await;
    assert!(!net.passes(1).await);
    net.down().await;

    let net = up(Tamper::HealNothing).await;
    net.wait_passes(0).await;
    net.cut(&[0]).await;
    net.local.shape(&[]).await.unwrap();
    assert!(!net.passes(0).await);
    net.down().await;

    let mut net = up(Tamper::KillExtra).await;
    net.local.kill("n-0", None).await.unwrap();
    until("the other one is gone too", async || {
        net.run_state(1).await == RunState::Gone
    })
    .await;
    let asked = net.record("the exit that nobody asked for", |record| match record {
        Record::Node {
            node,
            event: NodeEvent::Exited { asked, .. },
        } if node == "n-1" => Some(asked),
        _ => None,
    });
    assert!(!asked.await);
    net.down().await;

    let net = up(Tamper::KillNothing).await;
    net.local.kill("n-0", None).await.unwrap();
    assert_eq!(net.run_state(0).await, RunState::Running);
    net.down().await;

    let net = up(Tamper::PauseNothing).await;
    net.local.pause("n-0").await.unwrap();
    assert_eq!(net.run_state(0).await, RunState::Running);
    net.down().await;

    let net = up(Tamper::ResumeNothing).await;
    net.local.pause("n-0").await.unwrap();
    until("it is halted", async || net.run_state(0).await == RunState::Paused).await;
    net.local.resume("n-0").await.unwrap();
    assert_eq!(net.run_state(0).await, RunState::Paused);
    net.down().await;
}

#[tokio::test]
async fn teardown_is_safe_at_any_moment_and_keeps_homes_if_asked() {
    let dir = tempfile::tempdir().unwrap();
    let (tx, _records) = mpsc::unbounded_channel();
    let exe = PathBuf::from(env!("CARGO_BIN_EXE_trialnet"));
    let before = Local::new(LocalOptions::new(exe, dir.path().join("none"), "none".to_owned()), tx);
    assert!(before.destroy(AT_ONCE).await.is_empty());
    assert_eq!(
        before.reserve(&[wanted(0)], &[]).await.unwrap_err().code,
        "infra/guard-setup"
    );

    let wish = Wish {
        nodes: 2,
        ..Wish::default()
    };
    let net = Net::up(dir.path(), wish).await;
    let address = net.local.endpoint("n-1", "node", "p2p").unwrap().address;
    until("it answers", async || {
        tokio::net::TcpStream::connect(address).await.is_ok()
    })
    .await;
    net.local.pause("n-1").await.unwrap();
    let left = net
        .local
        .destroy(Teardown {
            grace: Ms::secs(40),
            keep_homes: true,
        })
        .await;
    assert!(left.is_empty(), "{left:?}");
    assert!(dir.path().join("run/homes/n-0/data").exists());
    assert!(table::of_run(&net.run).is_empty());
    assert!(
        net.log(1).ends_with("ended politely\n"),
        "it was resumed to end: {}",
        net.log(1)
    );
    net.down().await;
}

#[tokio::test]
async fn a_dropped_backend_is_torn_down_by_its_guard() {
    let dir = tempfile::tempdir().unwrap();
    let net = Net::up(
        dir.path(),
        Wish {
            nodes: 2,
            ..Wish::default()
        },
    )
    .await;
    let run = net.run.clone();
    drop(net);
    assert_gone(&run, dir.path()).await;
}

#[tokio::test]
async fn a_hundred_nodes_with_a_thousand_links_come_and_go() {
    let dir = tempfile::tempdir().unwrap();
    let links = (0..100)
        .flat_map(|from| (1..=10).map(move |step| (from, (from + step * 7) % 100)))
        .collect();
    let began = Instant::now();
    let args = (0..100).map(|index| (index, vec!["--beat=500"])).collect();
    let wish = Wish {
        nodes: 100,
        links,
        args,
        ..Wish::default()
    };
    let net = Net::up(dir.path(), wish).await;
    println!("100 nodes and 1000 links up: {:?}", began.elapsed());
    until("every link passes", async || {
        let seen = net.local.probe_links(&net.links, Ms::secs(5).into()).await.unwrap();
        seen.iter().all(|link| link.first_byte.is_some())
    })
    .await;
    println!("every link passes: {:?}", began.elapsed());
    let all: Vec<usize> = (0..1000).collect();
    let began = Instant::now();
    net.cut(&all).await;
    println!("1000 links cut: {:?}", began.elapsed());
    let seen = net.local.probe_links(&net.links[..50], PROBE.into()).await.unwrap();
    assert!(seen.iter().all(|link| link.first_byte.is_none()));
    let began = Instant::now();
    net.down().await;
    println!("gone: {:?}", began.elapsed());
}
