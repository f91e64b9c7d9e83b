//! Supervisors as plain processes, with real programs, signals and links. In a pod each is the first process of a container; the last test
//! makes one the first process of a namespace of its own, where the system lets it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod stress;

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use trialnet::agent::supervise::protocol::{Ask, Call, PROTOCOL, Reply, Said, Spec, SpecFile, SpecLink};
use trialnet::agent::{INSTALL, SUPERVISE, table};
use trialnet::backend::{Damage, Digest, LinkEvidence, LinkId, LinkShape, RunState, Trouble, Write};
use trialnet::model::Ms;
use trialnet::record::NodeEvent;

/// Far more than anything here takes; a test that waits this long has failed.
const LIMIT: Duration = Duration::from_secs(40);
const EXE: &str = env!("CARGO_BIN_EXE_trialnet");

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A spec that runs a test node with these arguments; everything is below `dir`.
fn spec(dir: &Path, args: &[&str]) -> Spec {
    let run: String = dir.to_str().unwrap().replace(|c: char| !c.is_ascii_alphanumeric(), "-");
    Spec {
        protocol: PROTOCOL,
        run,
        node: "n-0".to_owned(),
        component: "node".to_owned(),
        version: "test".to_owned(),
        own: vec![EXE.to_owned()],
        program: None,
        args: ["testnode"].iter().chain(args).map(|arg| (*arg).to_owned()).collect(),
        env: BTreeMap::new(),
        home: dir.join("home"),
        volumes: vec![dir.join("volume")],
        files: Vec::new(),
        links: Vec::new(),
        control: free_port(),
        state: dir.join("state"),
        started: true,
        lease: Ms::secs(30),
        shapes: Vec::new(),
    }
}

/// A shell instead of the test node.
fn shell(dir: &Path, script: &str) -> Spec {
    Spec {
        program: Some("sh".into()),
        args: vec!["-c".to_owned(), script.to_owned()],
        ..spec(dir, &[])
    }
}

/// A supervisor that runs.
struct Supervisor {
    child: Child,
    spec: Spec,
    log: PathBuf,
}

impl Supervisor {
    /// Starts a container, so to speak: the log is appended to.
    fn start(dir: &Path, spec: Spec) -> Self {
        Self::start_by(Command::new(EXE), dir, spec)
    }

    fn start_by(mut command: Command, dir: &Path, spec: Spec) -> Self {
        let file = dir.join("spec.json");
        fs::write(&file, serde_json::to_vec(&spec).unwrap()).unwrap();
        fs::create_dir_all(&spec.volumes[0]).unwrap();
        let log = dir.join("log");
        let out = File::options().create(true).append(true).open(&log).unwrap();
        let child = command
            .args(SUPERVISE)
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(
                File::options()
                    .create(true)
                    .append(true)
                    .open(dir.join("errors"))
                    .unwrap(),
            )
            .spawn()
            .unwrap();
        Self { child, spec, log }
    }

    /// A new connection that has said hello.
    async fn connect(&self, after: u64) -> Client {
        let stream = until("the control port answers", async || {
            TcpStream::connect(("127.0.0.1", self.spec.control)).await.ok()
        })
        .await;
        let (reader, writer) = stream.into_split();
        let mut client = Client {
            lines: BufReader::new(reader).lines(),
            writer,
            next: 0,
            events: VecDeque::new(),
            troubles: VecDeque::new(),
            last: 0,
        };
        match client.ask(Ask::Hello { after }).await.unwrap() {
            Reply::Hello {
                protocol,
                node,
                component,
                last,
                container: _,
            } => {
                assert_eq!((protocol, node.as_str(), component.as_str()), (PROTOCOL, "n-0", "node"));
                client.last = last;
            }
            other => panic!("{other:?}"),
        }
        client
    }

    fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap()).into_owned()
    }

    async fn end(&mut self) -> ExitStatus {
        until("the supervisor's end", async || self.child.try_wait().unwrap()).await
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    fn running(&self) -> usize {
        table::of_run(&self.spec.run).len()
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        assert!(
            table::end_run(&self.spec.run, LIMIT).is_empty() || std::thread::panicking(),
            "processes are left"
        );
    }
}

/// A connection to a supervisor.
struct Client {
    lines: Lines<BufReader<OwnedReadHalf>>,
    writer: OwnedWriteHalf,
    next: u64,
    events: VecDeque<(u64, NodeEvent)>,
    troubles: VecDeque<(u64, Trouble)>,
    /// What the hello said.
    last: u64,
}

impl Client {
    async fn say(&mut self, ask: Ask) -> u64 {
        self.next += 1;
        let call = Call { id: self.next, ask };
        let line = serde_json::to_string(&call).unwrap() + "\n";
        self.writer.write_all(line.as_bytes()).await.unwrap();
        self.next
    }

    async fn hear(&mut self) -> Option<Said> {
        let line = tokio::time::timeout(LIMIT, self.lines.next_line()).await;
        let line = line.unwrap_or_else(|_| panic!("nothing was said for {LIMIT:?}"));
        line.ok().flatten().map(|line| serde_json::from_str(&line).unwrap())
    }

    async fn answer(&mut self, id: u64) -> Result<Reply, Trouble> {
        loop {
            match self.hear().await.expect("an answer before the end") {
                Said::Answer { id: its, result } if its == id => return result,
                Said::Answer { id, .. } => panic!("an answer to {id}"),
                Said::Event { number, event } => self.events.push_back((number, event)),
                Said::Trouble { id, trouble } => self.troubles.push_back((id, trouble)),
            }
        }
    }

    async fn ask(&mut self, ask: Ask) -> Result<Reply, Trouble> {
        let id = self.say(ask).await;
        self.answer(id).await
    }

    async fn done(&mut self, ask: Ask) {
        assert_eq!(self.ask(ask).await.unwrap(), Reply::Done);
    }

    async fn digests(&mut self, pattern: &str) -> Vec<Digest> {
        match self.ask(Ask::Digests(pattern.to_owned())).await.unwrap() {
            Reply::Digests(digests) => digests,
            other => panic!("{other:?}"),
        }
    }

    async fn code(&mut self, ask: Ask) -> String {
        self.ask(ask).await.unwrap_err().code
    }

    async fn event(&mut self) -> (u64, NodeEvent) {
        loop {
            if let Some(event) = self.events.pop_front() {
                return event;
            }
            match self.hear().await.expect("an event before the end") {
                Said::Event { number, event } => self.events.push_back((number, event)),
                other => panic!("{other:?}"),
            }
        }
    }

    async fn trouble(&mut self) -> Trouble {
        loop {
            if let Some((id, trouble)) = self.troubles.pop_front() {
                self.done(Ask::Heed(id)).await;
                return trouble;
            }
            match self.hear().await.expect("a trouble before the end") {
                Said::Trouble { id, trouble } => self.troubles.push_back((id, trouble)),
                Said::Event { number, event } => self.events.push_back((number, event)),
                other => panic!("{other:?}"),
            }
        }
    }

    /// The number and generation of a start, which is the next event.
    async fn started(&mut self) -> (u64, u32, u32) {
        match self.event().await {
            (number, NodeEvent::Started { generation, pid, .. }) => (number, generation, pid),
            other => panic!("{other:?}"),
        }
    }

    /// The next event, which is an exit.
    async fn exited(&mut self) -> Exit {
        match self.event().await {
            (
                number,
                NodeEvent::Exited {
                    generation,
                    code,
                    signal,
                    asked,
                    tail,
                    ..
                },
            ) => Exit {
                number,
                generation,
                how: (code, signal),
                asked,
                tail,
            },
            other => panic!("{other:?}"),
        }
    }

    async fn state(&mut self) -> (Option<u32>, u32, RunState) {
        match self.ask(Ask::State).await.unwrap() {
            Reply::State { pid, generation, run } => (pid, generation, run),
            other => panic!("{other:?}"),
        }
    }

    async fn until_state(&mut self, wanted: RunState) {
        until_true(&format!("it is {wanted:?}"), async || self.state().await.2 == wanted).await;
    }

    async fn look(&mut self, link: &LinkId, limit: Ms) -> LinkEvidence {
        let (links, look) = (vec![link.clone()], limit.into());
        match self.ask(Ask::Probe { links, look }).await.unwrap() {
            Reply::Links(mut all) => all.remove(0),
            other => panic!("{other:?}"),
        }
    }
}

struct Exit {
    number: u64,
    generation: u32,
    how: (Option<i32>, Option<i32>),
    asked: bool,
    tail: Vec<String>,
}

async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(seen) = look().await {
            return seen;
        }
        assert!(Instant::now() < deadline, "{what}: not within {LIMIT:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn until_true(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    until(what, async || condition().await.then_some(())).await;
}

#[tokio::test]
async fn a_process_is_started_killed_paused_and_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let mut supervisor = Supervisor::start(dir.path(), spec(dir.path(), &["--listen", &address.to_string()]));
    let mut client = supervisor.connect(0).await;
    let (number, generation, pid) = client.started().await;
    assert_eq!((number, generation), (1, 1));
    assert_eq!(client.state().await, (Some(pid), 1, RunState::Running));
    assert_eq!(client.code(Ask::Start).await, "infra/node-runs");
    assert_eq!(client.code(Ask::Wipe).await, "infra/node-runs");
    let reaches = async || TcpStream::connect(address).await.is_ok();
    until_true("the program listens", reaches).await;

    client.done(Ask::Pause).await;
    client.until_state(RunState::Paused).await;
    client.done(Ask::Resume).await;
    client.until_state(RunState::Running).await;

    client.done(Ask::Kill).await;
    let exit = client.exited().await;
    assert_eq!((exit.number, exit.how, exit.asked), (2, (None, Some(9)), true));
    assert_eq!(
        (client.state().await, supervisor.running()),
        ((Some(pid), 1, RunState::Gone), 0)
    );
    assert!(!reaches().await);
    client.done(Ask::Kill).await;
    for ask in [Ask::Pause, Ask::Resume] {
        assert_eq!(client.code(ask).await, "infra/node-down");
    }

    // A paused process is resumed to be stopped, so that it can end politely.
    client.done(Ask::Start).await;
    assert_eq!(client.started().await.1, 2);
    until_true("the program listens again", reaches).await;
    client.done(Ask::Pause).await;
    client.until_state(RunState::Paused).await;
    client.done(Ask::Stop(Ms::secs(60))).await;
    let exit = client.exited().await;
    assert_eq!((exit.generation, exit.how, exit.asked), (2, (Some(0), None), true));
    until_true("its last words are in the log", async || {
        supervisor.log()
            == "=== trialnet: node test, generation 1 ===\n=== trialnet: node test, generation 2 ===\nended politely\n"
    })
    .await;

    // Held down, the supervisor ends at once.
    supervisor.signal(Signal::SIGTERM);
    assert_eq!(supervisor.end().await.code(), Some(0));
}

#[tokio::test]
async fn nothing_of_a_program_escapes() {
    let dir = tempfile::tempdir().unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let args = ["--listen", &address.to_string(), "--stubborn", "--escape"];
    let supervisor = Supervisor::start(dir.path(), spec(dir.path(), &args));
    let mut client = supervisor.connect(0).await;
    until_true("the escaped child", async || supervisor.running() == 2).await;
    until_true("it listens", async || TcpStream::connect(address).await.is_ok()).await;
    let began = Instant::now();
    client.done(Ask::Stop(Ms(150))).await;
    assert!(began.elapsed() >= Duration::from_millis(150));
    // The child that left the group and the session, too. The prober is no part of it.
    assert_eq!(supervisor.running(), 0);
    assert_eq!(client.state().await.2, RunState::Gone);

    client.done(Ask::Start).await;
    // Halted between its fork and its exec, a child would hold its parent in a wait that does not look like a halt.
    until_true("it listens again", async || TcpStream::connect(address).await.is_ok()).await;
    assert_eq!(supervisor.running(), 2);
    client.done(Ask::Pause).await;
    until_true("all are halted", async || {
        let all = table::of_run(&supervisor.spec.run);
        all.iter().all(|&pid| table::look(pid).unwrap().run == RunState::Paused)
    })
    .await;
    client.done(Ask::Kill).await;
    assert_eq!(supervisor.running(), 0);
}

#[tokio::test]
async fn orphans_are_reaped() {
    let dir = tempfile::tempdir().unwrap();
    let script = "for n in 1 2 3 4 5; do sh -c 'sleep 0.05 & exit' & done; wait; sleep 1000";
    let supervisor = Supervisor::start(dir.path(), shell(dir.path(), script));
    let mut client = supervisor.connect(0).await;
    client.started().await;
    // No zombie stays, and what runs is seen.
    let children = || {
        let stat = |pid: u32| fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let all = fs::read_dir("/proc").unwrap().flatten();
        all.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|&pid| {
                let stat = stat(pid);
                let parent = stat
                    .rsplit(") ")
                    .next()
                    .and_then(|rest| rest.split(' ').nth(1).map(str::to_owned));
                parent == Some(supervisor.child.id().to_string())
            })
            .count()
    };
    until_true("the shell alone is left", async || {
        children() == 1 && supervisor.running() == 2
    })
    .await;
    assert_eq!(client.state().await.2, RunState::Running);
    client.done(Ask::Kill).await;
}

#[tokio::test]
async fn an_exit_is_kept_with_its_last_words_and_is_no_loop() {
    let dir = tempfile::tempdir().unwrap();
    let supervisor = Supervisor::start(dir.path(), spec(dir.path(), &["--exit=7", "--spam=8388608"]));
    let mut client = supervisor.connect(0).await;
    client.started().await;
    let exit = client.exited().await;
    assert_eq!((exit.how, exit.asked), ((Some(7), None), false));
    assert_eq!((exit.tail.len(), exit.tail[19].as_str()), (20, "last words"));
    assert!(supervisor.log().len() > 8 << 20);
    assert_eq!(client.state().await, (client.state().await.0, 1, RunState::Gone));

    // Somebody who comes later is told, too; who has heard it is not.
    let mut late = supervisor.connect(0).await;
    assert_eq!((late.last, late.started().await.0), (2, 1));
    assert_eq!(late.exited().await.tail, exit.tail);
    let mut informed = supervisor.connect(2).await;
    informed.done(Ask::Start).await;
    assert_eq!(informed.started().await.1, 2);
    assert_eq!(client.started().await.0, 3);
}

#[tokio::test]
async fn a_program_that_is_not_there_is_an_exit_that_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let mut spec = spec(dir.path(), &[]);
    spec.program = Some("no-such-chain".into());
    let supervisor = Supervisor::start(dir.path(), spec);
    let mut client = supervisor.connect(0).await;
    client.started().await;
    let exit = client.exited().await;
    assert_eq!((exit.how, exit.asked), ((Some(126), None), false));
    assert!(exit.tail[0].contains("no-such-chain"), "{:?}", exit.tail);
}

#[tokio::test]
async fn a_crash_takes_the_supervisor_along_and_the_next_one_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut supervisor = Supervisor::start(dir.path(), shell(dir.path(), "printf unfinished; exec sleep 1000"));
    let mut client = supervisor.connect(0).await;
    client.started().await;
    until_true("its output", async || supervisor.log().ends_with("unfinished")).await;
    client.done(Ask::Crash).await;
    let exit = client.exited().await;
    assert_eq!((exit.number, exit.how, exit.asked), (2, (None, Some(9)), true));
    assert!(client.hear().await.is_none(), "the connection goes on");
    assert_eq!(supervisor.end().await.code(), Some(137));

    // The platform starts the container again: the process starts too, one generation later.
    let spec = supervisor.spec.clone();
    let mut supervisor = Supervisor::start(dir.path(), spec.clone());
    let mut client = supervisor.connect(2).await;
    let (number, generation, pid) = client.started().await;
    assert_eq!((number, generation), (3, 2));

    // The platform ends it all: nobody asked for that, and nobody saw how.
    supervisor.signal(Signal::SIGKILL);
    assert_eq!(supervisor.end().await.signal(), Some(9));
    until_true("the program is gone", async || supervisor.running() == 0).await;
    let mut supervisor = Supervisor::start(dir.path(), spec.clone());
    let mut client = supervisor.connect(3).await;
    let exit = client.exited().await;
    assert_eq!(
        (exit.number, exit.generation, exit.how, exit.asked),
        (4, 2, (None, None), false)
    );
    let (number, generation, next) = client.started().await;
    assert_eq!((number, generation), (5, 3));
    assert_ne!(pid, next);

    // What is held down stays down in the next container, also when this one crashes on top.
    client.done(Ask::Kill).await;
    client.done(Ask::Crash).await;
    assert_eq!(supervisor.end().await.code(), Some(137));
    let supervisor = Supervisor::start(dir.path(), spec);
    let mut client = supervisor.connect(6).await;
    assert_eq!((client.last, client.state().await.1), (6, 3));
    assert_eq!((client.state().await.2, supervisor.running()), (RunState::Gone, 0));
    client.done(Ask::Start).await;
    assert_eq!(client.started().await.1, 4);
    until_true("all generations are in the log", async || {
        supervisor
            .log()
            .contains("generation 1 ===\nunfinished=== trialnet: node test, generation 2 ===\n")
            && supervisor.log().ends_with("unfinished")
    })
    .await;
}

#[tokio::test]
async fn the_end_of_the_pod_is_polite() {
    let dir = tempfile::tempdir().unwrap();
    let script = "trap 'echo bye; exit 3' TERM; echo up; while true; do sleep 0.02; done";
    let mut supervisor = Supervisor::start(dir.path(), shell(dir.path(), script));
    let mut client = supervisor.connect(0).await;
    client.started().await;
    until_true("it is up", async || supervisor.log().ends_with("up\n")).await;
    supervisor.signal(Signal::SIGTERM);
    let exit = client.exited().await;
    assert_eq!((exit.how, exit.asked), ((Some(3), None), true));
    assert_eq!(supervisor.end().await.code(), Some(3));
    assert!(supervisor.log().ends_with("bye\n"));
}

#[tokio::test]
async fn a_process_that_is_not_to_start_waits_for_the_order() {
    let dir = tempfile::tempdir().unwrap();
    let mut spec = spec(dir.path(), &[]);
    spec.started = false;
    let supervisor = Supervisor::start(dir.path(), spec);
    let mut client = supervisor.connect(0).await;
    assert_eq!(client.state().await, (None, 0, RunState::Gone));
    client.done(Ask::Start).await;
    assert_eq!(client.started().await.1, 1);
    // Whoever does not say hello is not listened to, and nonsense ends the connection.
    let mut rude = TcpStream::connect(("127.0.0.1", supervisor.spec.control))
        .await
        .unwrap();
    rude.write_all(b"{\"id\":1,\"ask\":\"Kill\"}\nwhat\n").await.unwrap();
    let mut lines = BufReader::new(rude).lines();
    for _ in 0..2 {
        let line = lines.next_line().await.unwrap().unwrap();
        assert!(line.contains("infra/supervisor-protocol"), "{line}");
    }
    assert_eq!(lines.next_line().await.unwrap(), None);
    assert_eq!(client.state().await.2, RunState::Running);
}

#[tokio::test]
async fn files_and_environment_are_as_the_spec_says() {
    let dir = tempfile::tempdir().unwrap();
    let (mounted, volume) = (dir.path().join("mounted"), dir.path().join("volume"));
    fs::write(&mounted, "one").unwrap();
    let script = "cat config/a config/b; echo; echo $TRIALNET_RUN $TRIALNET_NODE $A; pwd; echo $HOME; exec sleep 1000";
    let mut spec = shell(dir.path(), script);
    spec.home = volume.join("home");
    spec.env = BTreeMap::from([("A".to_owned(), "b".to_owned())]);
    let file = |name: &str, secret, write| SpecFile {
        from: mounted.clone(),
        to: volume.join("home/config").join(name),
        secret,
        write,
    };
    spec.files = vec![file("a", true, Write::Once), file("b", false, Write::Always)];
    let supervisor = Supervisor::start(dir.path(), spec);
    let mut client = supervisor.connect(0).await;
    client.started().await;
    let home = volume.join("home");
    let words = |files: &str| {
        let (run, home) = (&supervisor.spec.run, home.display());
        format!("{files}\n{run} n-0 b\n{home}\n{home}\n")
    };
    until_true("its words", async || supervisor.log().ends_with(&words("oneone"))).await;
    let mode = |name: &str| {
        fs::metadata(home.join("config").join(name))
            .unwrap()
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!((mode("a"), mode("b")), (0o600, 0o644));

    fs::write(&mounted, "two").unwrap();
    client.done(Ask::Kill).await;
    client.done(Ask::Start).await;
    until_true("what is written always", async || {
        supervisor.log().ends_with(&words("onetwo"))
    })
    .await;
    // Bytes are damaged only while nothing runs, and another process than the supervisor reads them.
    let pattern = "home/config/*";
    let before = client.digests(pattern).await;
    let damage = |at: usize| Damage {
        file: before[at].file.clone(),
        sha256: before[at].sha256.clone(),
        offsets: vec![1],
    };
    assert_eq!([&before[0].file, &before[1].file], ["home/config/a", "home/config/b"]);
    assert_eq!(client.code(Ask::Corrupt(vec![damage(0)])).await, "infra/node-runs");
    client.done(Ask::Kill).await;
    client.done(Ask::Corrupt(vec![damage(0)])).await;
    assert_eq!(fs::read(home.join("config/a")).unwrap(), [b'o', !b'n', b'e']);
    let after = client.digests(pattern).await;
    assert!(
        after[0].sha256 != before[0].sha256 && after[1] == before[1],
        "{after:?}"
    );

    client.done(Ask::Wipe).await;
    assert_eq!(fs::read_dir(&volume).unwrap().count(), 0);
    client.done(Ask::Start).await;
    until_true("all anew", async || supervisor.log().ends_with(&words("twotwo"))).await;

    // A file that cannot be written is named, and nothing starts.
    client.done(Ask::Kill).await;
    fs::remove_file(&mounted).unwrap();
    let trouble = client.ask(Ask::Start).await.unwrap_err();
    assert!(
        trouble.code == "infra/home" && trouble.seen.contains("mounted"),
        "{trouble}"
    );
    assert_eq!(client.state().await.2, RunState::Gone);
}

#[tokio::test]
async fn a_start_that_fails_at_first_is_told_to_whoever_comes() {
    let dir = tempfile::tempdir().unwrap();
    let mut spec = spec(dir.path(), &[]);
    spec.files = vec![SpecFile {
        from: dir.path().join("none"),
        to: dir.path().join("home/file"),
        secret: false,
        write: Write::Always,
    }];
    let supervisor = Supervisor::start(dir.path(), spec);
    let mut client = supervisor.connect(0).await;
    let trouble = client.trouble().await;
    assert_eq!(
        (trouble.code.as_str(), trouble.node.as_deref()),
        ("infra/home", Some("n-0"))
    );
    assert_eq!(client.state().await.2, RunState::Gone);
}

#[tokio::test]
async fn a_lost_lease_ends_every_fault() {
    let dir = tempfile::tempdir().unwrap();
    let (link, mut spec) = linked(dir.path(), free_port());
    spec.lease = Ms(500);
    let supervisor = Supervisor::start(dir.path(), spec);
    let mut client = supervisor.connect(0).await;
    let cut = vec![shape(&link, true, Ms(0))];
    client.done(Ask::Shape(cut.clone())).await;
    let mut renewed = Instant::now();
    client.done(Ask::Pause).await;
    // Kept alive for longer than it lasts.
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(1000) {
        let renewing = Instant::now();
        client.done(Ask::Renew).await;
        let state = client.state().await.2;
        if renewed.elapsed() >= Duration::from_millis(500) {
            // A machine that gave this test no turn for as long as the lease: nothing was promised.
            break;
        }
        assert_eq!(state, RunState::Paused);
        assert!(client.troubles.is_empty());
        renewed = renewing;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let trouble = client.trouble().await;
    assert_eq!(trouble.code, "infra/lease-lost");
    assert!(
        trouble.seen.contains("1 links") && trouble.seen.contains("resumed"),
        "{trouble}"
    );
    client.until_state(RunState::Running).await;
    client.done(Ask::Kill).await;

    // Where nobody is there to hear it, it is said to whoever comes next.
    client.done(Ask::Shape(cut)).await;
    drop(client);
    tokio::time::sleep(Duration::from_millis(700)).await;
    let mut client = supervisor.connect(0).await;
    let trouble = client.trouble().await;
    assert_eq!(trouble.code, "infra/lease-lost");
    assert!(
        trouble.seen.contains("1 links") && trouble.seen.contains("started again"),
        "{trouble}"
    );
    client.until_state(RunState::Running).await;
}

/// What ended while another component of its node was held down is its fault's effect, and starts again with that.
#[tokio::test]
async fn what_ended_beside_another_component_starts_when_the_lease_is_over() {
    for attends in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let (_, mut spec) = linked(dir.path(), free_port());
        spec.lease = Ms(500);
        let supervisor = Supervisor::start(dir.path(), spec);
        let mut client = supervisor.connect(0).await;
        client.until_state(RunState::Running).await;
        client.done(if attends { Ask::Attend } else { Ask::Pause }).await;
        if !attends {
            client.done(Ask::Resume).await;
        }
        let pid = client.state().await.0.unwrap();
        crate::killed::signal(u64::from(pid), nix::sys::signal::Signal::SIGKILL);
        client.until_state(RunState::Gone).await;
        if attends {
            let trouble = client.trouble().await;
            assert!(trouble.seen.contains("started again"), "{trouble}");
            client.until_state(RunState::Running).await;
            assert_eq!(client.state().await.1, 2);
        } else {
            tokio::time::sleep(Duration::from_millis(1000)).await;
            assert_eq!(client.state().await.2, RunState::Gone);
        }
    }
}

#[tokio::test]
async fn a_cut_outlives_its_container_and_not_its_lease() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let port = free_port();
    let mut target = self::spec(there.path(), &["--listen", &format!("127.0.0.1:{port}")]);
    target.node = "n-1".to_owned();
    let _target = Supervisor::start(there.path(), target);
    let (link, spec) = linked(here.path(), port);
    let mut supervisor = Supervisor::start(here.path(), spec.clone());
    let mut client = supervisor.connect(0).await;
    until_true("bytes over a new connection", async || {
        client.look(&link, Ms(200)).await.first_byte.is_some()
    })
    .await;
    let cut = vec![shape(&link, true, Ms(0))];
    client.done(Ask::Shape(cut.clone())).await;

    // The container dies, and nobody tells the next one anything.
    supervisor.signal(Signal::SIGKILL);
    supervisor.end().await;
    let mut supervisor = Supervisor::start(here.path(), spec.clone());
    let mut client = supervisor.connect(0).await;
    assert_eq!(client.look(&link, Ms(500)).await.first_byte, None);

    // What was healed is not cut again.
    client.done(Ask::Shape(Vec::new())).await;
    supervisor.signal(Signal::SIGKILL);
    supervisor.end().await;
    let mut supervisor = Supervisor::start(here.path(), spec.clone());
    let mut client = supervisor.connect(0).await;
    until_true("bytes after the heal", async || {
        client.look(&link, Ms(200)).await.first_byte.is_some()
    })
    .await;

    // Nor is what nobody holds: the lease of the next container ends it.
    client.done(Ask::Shape(cut)).await;
    supervisor.signal(Signal::SIGKILL);
    supervisor.end().await;
    let brief = Spec { lease: Ms(300), ..spec };
    let supervisor = Supervisor::start(here.path(), brief);
    let mut client = supervisor.connect(0).await;
    assert_eq!(client.trouble().await.code, "infra/lease-lost");
    until_true("bytes after the lease", async || {
        client.look(&link, Ms(200)).await.first_byte.is_some()
    })
    .await;
}

fn shape(link: &LinkId, cut: bool, latency: Ms) -> LinkShape {
    LinkShape {
        link: link.clone(),
        cut,
        latency,
        jitter: Ms(0),
        drops: false,
    }
}

/// A spec of a test node that dials a link to this port.
fn linked(dir: &Path, port: u16) -> (LinkId, Spec) {
    let listen = SocketAddr::from(([127, 77, 0, 1], free_port()));
    let link = LinkId {
        from: "n-0".to_owned(),
        to: "n-1".to_owned(),
        port: "p2p".to_owned(),
    };
    let mut spec = spec(dir, &["--dial", &listen.to_string()]);
    spec.links = vec![SpecLink {
        link: link.clone(),
        listen,
        host: "localhost".to_owned(),
        port,
    }];
    (link, spec)
}

#[tokio::test]
async fn links_are_cut_and_delayed_as_seen_by_the_prober() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let port = free_port();
    let (link, spec) = linked(here.path(), port);
    let supervisor = Supervisor::start(here.path(), spec);
    let mut client = supervisor.connect(0).await;
    // The dialled node is not there yet: its link is silent, and the dialler waits.
    assert_eq!(client.look(&link, Ms(200)).await.first_byte, None);
    let mut target = self::spec(there.path(), &["--listen", &format!("127.0.0.1:{port}")]);
    target.node = "n-1".to_owned();
    let _target = Supervisor::start(there.path(), target);
    until_true("bytes over a new connection", async || {
        client.look(&link, Ms(200)).await.first_byte.is_some()
    })
    .await;
    let open = until("an open connection of the node", async || {
        let open = client.look(&link, Ms(200)).await.open.expect("the kernel tells");
        // Not those of the prober, which end with the look.
        (open.len() == 1).then_some(open)
    })
    .await;
    let port = *open.keys().next().unwrap();
    until_true("its bytes move", async || {
        client.look(&link, Ms(200)).await.open.unwrap()[&port] > open[&port]
    })
    .await;

    client.done(Ask::Shape(vec![shape(&link, true, Ms(0))])).await;
    let one = client.look(&link, Ms(300)).await;
    let two = client.look(&link, Ms(300)).await;
    assert_eq!((one.first_byte, two.first_byte), (None, None));
    assert_eq!(one.open.unwrap()[&port], two.open.unwrap()[&port]);

    client.done(Ask::Shape(vec![shape(&link, false, Ms(100))])).await;
    let late = client.look(&link, Ms::secs(20)).await.first_byte.unwrap();
    assert!(late >= Ms(200), "{late}");
    client.done(Ask::Shape(Vec::new())).await;
    until_true("no delay", async || {
        client
            .look(&link, Ms::secs(20))
            .await
            .first_byte
            .is_some_and(|byte| byte < Ms(150))
    })
    .await;
    let other = LinkId {
        to: "n-7".to_owned(),
        ..link.clone()
    };
    assert_eq!(
        client.code(Ask::Shape(vec![shape(&other, true, Ms(0))])).await,
        "infra/io"
    );
    let ask = Ask::Probe {
        links: vec![other],
        look: Ms(10).into(),
    };
    assert_eq!(client.code(ask).await, "infra/io");
}

#[tokio::test]
async fn questions_are_answered_while_a_look_takes_its_time() {
    let dir = tempfile::tempdir().unwrap();
    let (link, spec) = linked(dir.path(), free_port());
    let supervisor = Supervisor::start(dir.path(), spec);
    let mut client = supervisor.connect(0).await;
    let ask = Ask::Probe {
        links: vec![link],
        look: Ms::secs(3600).into(),
    };
    client.say(ask).await;
    let mut other = supervisor.connect(0).await;
    assert_eq!(other.state().await.2, RunState::Running);
    other.done(Ask::Kill).await;
    // The prober is no part of the program, and lives.
    assert_eq!(other.state().await.2, RunState::Gone);
}

#[test]
fn the_program_is_installed_for_other_containers() {
    let dir = tempfile::tempdir().unwrap();
    let (bin, to) = (dir.path().join("bin"), dir.path().join("install"));
    fs::create_dir_all(bin.join("lib")).unwrap();
    fs::copy(EXE, bin.join("trialnet")).unwrap();
    fs::write(bin.join("lib/libc.so.6"), "").unwrap();
    let status = Command::new(bin.join("trialnet"))
        .arg(INSTALL)
        .arg(&to)
        .status()
        .unwrap();
    assert!(status.success());
    assert!(to.join("lib/libc.so.6").exists());
    let runs = Command::new(to.join("trialnet")).arg("--version").output().unwrap();
    assert!(runs.status.success());
}

#[test]
fn a_spec_that_cannot_be_used_is_an_error_in_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let run = |text: &str| {
        let file = dir.path().join("spec.json");
        fs::write(&file, text).unwrap();
        let output = Command::new(EXE).args(SUPERVISE).arg(&file).output().unwrap();
        assert_eq!(output.status.code(), Some(125));
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(run("{}").contains("missing field"));
    let mut other = spec(dir.path(), &[]);
    other.protocol = PROTOCOL + 1;
    assert!(run(&serde_json::to_string(&other).unwrap()).contains(&format!("version {PROTOCOL}")));
    // A port that is taken is named.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut spec = spec(dir.path(), &[]);
    spec.control = taken.local_addr().unwrap().port();
    let said = run(&serde_json::to_string(&spec).unwrap());
    assert!(said.contains(&format!("127.0.0.1:{}", spec.control)), "{said}");
}

#[tokio::test]
async fn it_is_the_first_process_of_a_namespace() {
    let dir = tempfile::tempdir().unwrap();
    let unshare = || {
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--mount-proc", "--kill-child", "--"]);
        command
    };
    if !unshare()
        .arg("true")
        .output()
        .is_ok_and(|output| output.status.success())
    {
        println!("skipped: this user may not make a process namespace");
        return;
    }
    let mut command = unshare();
    command.arg(EXE);
    let script = "sleep 1000 & setsid sleep 1000 & echo $$ $PPID; trap 'exit 4' TERM; while true; do sleep 0.02; done";
    let mut supervisor = Supervisor::start_by(command, dir.path(), shell(dir.path(), script));
    let mut client = supervisor.connect(0).await;
    let (_, _, pid) = client.started().await;
    until_true("its words", async || {
        supervisor.log().ends_with(&format!("\n{pid} 1\n"))
    })
    .await;
    assert_eq!(client.state().await, (Some(pid), 1, RunState::Running));
    client.done(Ask::Kill).await;
    assert_eq!((client.state().await.2, supervisor.running()), (RunState::Gone, 0));
    client.done(Ask::Start).await;
    until_true("it is up", async || {
        supervisor.log().ends_with(" 1\n") && supervisor.running() >= 3
    })
    .await;

    // SIGTERM to the first process itself, which lies below unshare.
    let first = table::descendants(supervisor.child.id())
        .into_iter()
        .find(|pid| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            status
                .lines()
                .any(|line| line.starts_with("NSpid:") && line.ends_with("\t1"))
        })
        .unwrap();
    table::signal(first, Signal::SIGTERM);
    assert_eq!(supervisor.end().await.code(), Some(4));
    assert_eq!(supervisor.running(), 0);
}
