//! The supervisor: the first process of a component's container. It starts the component's program, holds it down, stops, pauses and
//! restarts it as it is told, keeps exit codes, and carries the links that the component dials.
//!
//! One loop owns all state, on the main thread, which also starts and reaps every child; the kernel watches that thread. The proxies of the
//! links have a thread of their own, and so has the output of each generation. What has to outlive the container stands in a
//! file: a container that starts again goes on counting, leaves down what was held down, and cuts what was cut, under a lease that begins
//! anew: nobody could renew it while there was no container.
//!
//! A program that ends by itself stays down until somebody says otherwise: its end is an event, and never a loop of restarts.

pub mod protocol;

mod datagrams;
mod files;
mod memory;
mod output;
pub mod probe;
mod state;
mod stresses;
mod usage;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Handle};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::output::{Log, Output};
use self::probe::{Answer, Prober, Question};
use self::protocol::{Ask, Call, PROTOCOL, Reply, Said, Spec};
use self::state::State;
use self::stresses::Stresses;
use super::guard::tell;
use super::proxy::{Links, Shape};
use super::reach::Way;
use super::table::{self, Proc};
use super::{COMPONENT_VARIABLE, NODE_VARIABLE, RUN_VARIABLE, damage, guard, node_trouble, nodes};
use crate::backend::{Damage, LinkId, LinkLook, LinkShape, PROBER, RunState, Trouble};
use crate::model::{Ms, Stress};
use crate::record::NodeEvent;

/// Arguments of the hidden subcommand `supervise`.
#[derive(Clone, Debug, clap::Args)]
pub struct SuperviseArgs {
    /// The file that says what to run
    #[arg(long)]
    pub spec: PathBuf,
}

/// Arguments of the hidden subcommand `supervise-install`.
#[derive(Clone, Debug, clap::Args)]
pub struct InstallArgs {
    /// The folder to which the files beside this program are copied
    pub to: PathBuf,
}

/// How long processes have to go after SIGKILL.
const KILL_LIMIT: Duration = Duration::from_secs(2);
/// Between two looks whether they have.
const KILL_EVERY: Duration = Duration::from_millis(5);
/// How many troubles are kept for whoever comes.
const TROUBLES: usize = 100;
/// How long the last words may take to get out.
const FLUSH_LIMIT: Duration = Duration::from_millis(200);
/// The supervisor cannot do its work.
const CANNOT_RUN: u8 = 125;
/// As a shell says that SIGKILL ended a program.
const KILLED: u8 = 137;

/// Runs as the supervisor, until SIGTERM or an order to crash.
#[must_use]
pub fn run(SuperviseArgs { spec }: &SuperviseArgs) -> ExitCode {
    finish(try_run(spec).map(ExitCode::from))
}

/// Copies trialnet's own program, with whatever libraries lie beside it, to a folder that other containers mount.
#[must_use]
pub fn install(InstallArgs { to }: &InstallArgs) -> ExitCode {
    // A program that was started through its loader is seen as that, which lies in the same folder.
    let exe = std::env::current_exe();
    let copied = exe.and_then(|exe| files::install(exe.parent().unwrap_or(Path::new("/")), to));
    finish(copied.map(|()| ExitCode::SUCCESS))
}

fn finish(result: io::Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| {
        log(&error);
        ExitCode::from(CANNOT_RUN)
    })
}

/// Writes a line to standard error, which is part of the container's log.
fn log(what: impl std::fmt::Display) {
    // Nothing can be done about a log that cannot be written.
    drop(writeln!(io::stderr(), "trialnet supervise: {what}"));
}

fn try_run(spec: &Path) -> io::Result<u8> {
    let spec: Spec = serde_json::from_slice(&fs_err::read(spec)?)?;
    if spec.protocol != PROTOCOL {
        return Err(io::Error::other(format!(
            "the spec is of version {}, this program of version {PROTOCOL}",
            spec.protocol
        )));
    }
    guard::raise_file_limit();
    // The first process of a container inherits orphans anyway; so does any other one then, and nothing that it starts escapes.
    #[cfg(target_os = "linux")]
    nix::sys::prctl::set_child_subreaper(true)?;
    let main = Builder::new_current_thread().enable_all().build()?;
    let proxies = Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("links")
        .enable_all()
        .build()?;
    let result = main.block_on(Box::pin(supervise(spec, proxies.handle().clone())));
    proxies.shutdown_background();
    main.shutdown_background();
    result
}

/// Supervises to the end, and returns the exit code.
async fn supervise(spec: Spec, proxies: Handle) -> io::Result<u8> {
    // Before anything starts, so that no exit is missed.
    let mut children = signal(SignalKind::child())?;
    // Whatever an image declares as its stop signal means that the container has to end.
    let mut term = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut quit = signal(SignalKind::quit())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let listener = TcpListener::bind(("127.0.0.1", spec.control))
        .await
        .map_err(|error| io::Error::new(error.kind(), format!("listen at 127.0.0.1:{}: {error}", spec.control)))?;
    let (hear, mut heard) = mpsc::unbounded_channel();
    let (tell_grace, mut graces) = mpsc::unbounded_channel();
    let mut conversations = JoinSet::new();
    let mut supervisor = Supervisor::new(spec, proxies, tell_grace)?;
    supervisor.begin();

    let mut next = 0;
    let code = loop {
        if let Some(code) = supervisor.over {
            break code;
        }
        let lease_ends = supervisor.lease_ends;
        tokio::select! {
            _ = children.recv() => supervisor.reap().await,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    next += 1;
                    let (say, sayings) = mpsc::unbounded_channel();
                    supervisor.connections.insert(next, Connection { say, greeted: false });
                    conversations.spawn(converse(stream, next, hear.clone(), sayings));
                }
                // Out of file descriptors, or gone already: neither is helped by asking again at once.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            },
            Some(words) = heard.recv() => supervisor.hear(words),
            Some(generation) = graces.recv() => supervisor.grace_over(generation),
            () = guard::sleep_until(lease_ends) => supervisor.lease_over(),
            _ = term.recv() => supervisor.terminate(),
            _ = interrupt.recv() => supervisor.terminate(),
            _ = quit.recv() => supervisor.terminate(),
            _ = hangup.recv() => {}
            Some(_) = conversations.join_next() => {}
        }
    };
    // The last answers go out, and the other ends have a moment to close: with bytes of theirs unread, ours might be lost.
    drop(supervisor);
    drop(tokio::time::timeout(FLUSH_LIMIT, conversations.join_all()).await);
    Ok(code)
}

/// Something came over a connection.
#[derive(Debug)]
enum Heard {
    Line { from: u64, line: String },
    Closed { from: u64 },
}

/// A connection to whoever tells the supervisor what to do.
#[derive(Debug)]
struct Connection {
    say: mpsc::UnboundedSender<String>,
    /// Whether it has said hello: from then on it is told of everything.
    greeted: bool,
}

/// A question: the connection and its id there.
type Asker = (u64, u64);

/// Carries a connection, so that one that does not keep up never holds the loop up.
async fn converse(
    stream: TcpStream,
    from: u64,
    hear: mpsc::UnboundedSender<Heard>,
    mut sayings: mpsc::UnboundedReceiver<String>,
) {
    drop(stream.set_nodelay(true));
    let (reader, mut writer) = stream.into_split();
    let listen = async move {
        let mut lines = BufReader::new(reader).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            drop(hear.send(Heard::Line { from, line }));
        }
        drop(hear.send(Heard::Closed { from }));
    };
    let speak = async move {
        while let Some(line) = sayings.recv().await {
            if writer.write_all(line.as_bytes()).await.is_err() {
                return;
            }
        }
        drop(writer.shutdown().await);
    };
    tokio::join!(listen, speak);
}

/// What follows when the process is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The supervisor ends with this code.
    With(u8),
    /// The supervisor ends with the process's code.
    AsProcess,
}

struct Supervisor {
    spec: Spec,
    state: State,
    log: Log,
    /// Of the last generation.
    output: Option<Output>,
    links: Links,
    prober: Prober,
    stresses: Stresses,
    paused: bool,
    /// When faults revert; `None`: they have, or none was ever held.
    lease_ends: Option<Instant>,
    /// The lease was over and the process could not be started.
    owes_start: bool,
    /// The first volume is read-only for a fault.
    locked: bool,
    /// Another component of the node is held down.
    attends: bool,
    connections: BTreeMap<u64, Connection>,
    /// Who is answered when all processes are gone.
    awaited_by: Vec<Asker>,
    /// Troubles that nobody has heeded yet, by their ids: a connection may break with what was said over it.
    unheeded: VecDeque<(u64, Trouble)>,
    /// The id of the last one.
    last_trouble: u64,
    /// How many processes the kernel had ended for want of memory when the process was started.
    memory_kills: u64,
    tell_grace: mpsc::UnboundedSender<u32>,
    end: Option<End>,
    /// The exit code, when it is over.
    over: Option<u8>,
}

impl Supervisor {
    /// Reads the state and opens the links.
    fn new(spec: Spec, proxies: Handle, tell_grace: mpsc::UnboundedSender<u32>) -> io::Result<Self> {
        let mut state = State::open(&spec.state, &spec.component, spec.started)?;
        if state.is_new() {
            state.shape(&spec.shapes)?;
        }
        let mut links = Links::new(proxies);
        for link in &spec.links {
            links.open_named(link.clone()).map_err(|error| {
                let (at, to) = (link.listen, &link.link.to);
                io::Error::new(error.kind(), format!("listen at {at} for the link to {to}: {error}"))
            })?;
        }
        Ok(Self {
            prober: Prober::new(spec.own.clone()),
            log: Log::stdout()?,
            stresses: Stresses::new(spec.own.clone(), spec.volumes.first().cloned()),
            spec,
            state,
            output: None,
            links,
            paused: false,
            lease_ends: None,
            owes_start: false,
            locked: false,
            attends: false,
            connections: BTreeMap::new(),
            awaited_by: Vec::new(),
            unheeded: VecDeque::new(),
            last_trouble: 0,
            memory_kills: 0,
            tell_grace,
            end: None,
            over: None,
        })
    }

    /// Goes on where the container before this one was, or begins.
    fn begin(&mut self) {
        // A file of another spec may know links that are none any more; some faults do not outlast a container.
        let known = self.state.links().iter();
        let stays = |shape: &&LinkShape| self.links.has(&shape.link) && !shape.drops;
        let shapes: Vec<LinkShape> = known.filter(stays).cloned().collect();
        self.set_links(&shapes);
        // A process that was there died with its container; how, only the platform knows.
        let exited = self.state.exited(&self.spec.component, (None, None), Vec::new());
        self.happened(exited);
        if self.is_held_down() {
            self.hold_lease();
        }
        if !self.state.held()
            && let Err(trouble) = self.start()
        {
            self.complain(trouble);
        }
    }

    fn hear(&mut self, heard: Heard) {
        match heard {
            Heard::Closed { from } => drop(self.connections.remove(&from)),
            Heard::Line { from, line } => match serde_json::from_str(&line) {
                Ok(Call { id, ask }) => self.handle((from, id), ask),
                Err(error) => {
                    if let Some(Connection { say, .. }) = self.connections.remove(&from) {
                        let trouble = self.misunderstood(format!("{error}: {line}"));
                        tell(&say, &Said::Trouble { id: 0, trouble });
                    }
                }
            },
        }
    }

    fn misunderstood(&self, seen: String) -> Trouble {
        self.trouble(
            "infra/supervisor-protocol",
            "a question that a supervisor knows, after a hello",
            seen,
        )
    }

    fn trouble(&self, code: &str, expected: impl Into<String>, seen: impl Into<String>) -> Trouble {
        let expected = format!("{}: {}", self.spec.component, expected.into());
        node_trouble(code, &self.spec.node, expected, seen)
    }

    fn handle(&mut self, from: Asker, ask: Ask) {
        if let Ask::Hello { after } = ask {
            return self.greet(from, after);
        }
        if !self
            .connections
            .get(&from.0)
            .is_some_and(|connection| connection.greeted)
        {
            return self.answer(from, Err(self.misunderstood(format!("{ask:?} came first"))));
        }
        let result = match ask {
            Ask::Hello { .. } => Ok(()),
            Ask::Start => {
                self.attends = false;
                self.start()
            }
            Ask::Attend => {
                self.attends = true;
                self.hold_lease();
                Ok(())
            }
            Ask::Kill => return self.end_process(from, Signal::SIGKILL),
            Ask::Crash => return self.crash(from),
            Ask::Stop(grace) => return self.stop(from, grace),
            Ask::Pause => self.pause(),
            Ask::Resume => self.resume(),
            Ask::Shape(shapes) => self.shape(&shapes),
            Ask::Stress(wanted) => self.stress(&wanted),
            Ask::Stressed(fault) => return self.look_at_stress(from, &fault),
            Ask::Heed(heard) => {
                self.unheeded.retain(|(id, _)| *id != heard);
                Ok(())
            }
            Ask::Renew => {
                if self.lease_ends.is_some() {
                    self.hold_lease();
                }
                Ok(())
            }
            Ask::Wipe => self.wipe(),
            Ask::Corrupt(damages) => self.corrupt(&damages),
            Ask::Lock(on) => {
                self.locked = on;
                if on {
                    self.hold_lease();
                }
                Ok(())
            }
            Ask::Volume => return self.look_at_volume(from),
            Ask::Digests(pattern) => return self.look_at_files(from, pattern),
            Ask::State => return self.look_at_process(from),
            Ask::Probe { links, look } => return self.look_at_links(from, &links, &look),
            Ask::Listen => return self.pass_on(from, Question::Listen),
            Ask::Send { to, sender, volley } => return self.pass_on(from, Question::Send { to, sender, volley }),
            Ask::Heard { port } => return self.pass_on(from, Question::Heard { port }),
        };
        self.answer(from, result.map(|()| Reply::Done));
    }

    fn greet(&mut self, (from, id): Asker, after: u64) {
        let Some(connection) = self.connections.get_mut(&from) else {
            return;
        };
        connection.greeted = true;
        let hello = Reply::Hello {
            protocol: PROTOCOL,
            node: self.spec.node.clone(),
            component: self.spec.component.clone(),
            last: self.state.last(),
            container: self.state.container(),
        };
        let say = connection.say.clone();
        tell(&say, &Said::Answer { id, result: Ok(hello) });
        // As they were said: why goes before what.
        for (id, trouble) in &self.unheeded {
            let (id, trouble) = (*id, trouble.clone());
            tell(&say, &Said::Trouble { id, trouble });
        }
        for (number, event) in self.state.after(after) {
            let (number, event) = (*number, event.clone());
            tell(&say, &Said::Event { number, event });
        }
    }

    fn answer(&self, (from, id): Asker, result: Result<Reply, Trouble>) {
        if let Some(connection) = self.connections.get(&from) {
            tell(&connection.say, &Said::Answer { id, result });
        }
    }

    /// Says something to all who have said hello.
    fn announce(&self, said: &Said) {
        for connection in self.connections.values().filter(|connection| connection.greeted) {
            tell(&connection.say, said);
        }
    }

    /// Says that something failed: in the container's log, to all, and to whoever comes until somebody heeds it.
    fn complain(&mut self, trouble: Trouble) {
        log(format_args!("{}: {trouble}", trouble.code));
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.map_or(0, |now| u64::try_from(now.as_nanos()).unwrap_or(0));
        // Another one than any before, of this container and, as long as clocks go on, of those before it.
        let id = self.last_trouble.max(now) + 1;
        self.last_trouble = id;
        self.unheeded.push_back((id, trouble.clone()));
        if self.unheeded.len() > TROUBLES {
            self.unheeded.pop_front();
        }
        self.announce(&Said::Trouble { id, trouble });
    }

    /// Says what happened to the process.
    fn happened(&mut self, event: Option<(u64, NodeEvent, io::Result<()>)>) {
        if let Some((number, event, saved)) = event {
            self.announce(&Said::Event { number, event });
            self.kept(saved);
        }
    }

    fn kept(&mut self, saved: io::Result<()>) {
        if let Err(error) = saved {
            self.complain(self.trouble("infra/io", "the supervisor's state written", error.to_string()));
        }
    }

    fn start(&mut self) -> Result<(), Trouble> {
        if self.state.running().is_some() {
            return Err(self.trouble("infra/node-runs", "a process that is down", "it runs already"));
        }
        files::write(&self.spec, self.locked)?;
        let proc = self.spawn().map_err(|error| {
            let program = self.spec.program.as_deref().unwrap_or(Path::new("trialnet"));
            self.trouble(
                "infra/start-failed",
                format!("{} started", program.display()),
                error.to_string(),
            )
        })?;
        let Spec { component, version, .. } = &self.spec;
        let started = self.state.started(proc, component, version);
        self.happened(Some(started));
        let released = self.state.hold(false);
        self.kept(released);
        self.owes_start = false;
        Ok(())
    }

    /// Starts the next generation. Does not wait for anything. A program that is not there is seen as its exit, with a line of the shim that says so.
    fn spawn(&mut self) -> io::Result<Proc> {
        let Spec {
            run,
            node,
            component,
            version,
            own,
            program,
            args,
            env,
            home,
            ..
        } = &self.spec;
        let (exe, first) = own.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let (program, args) = match program {
            Some(program) => (program.clone(), args.clone()),
            None => (PathBuf::from(exe), [first, args].concat()),
        };
        self.memory_kills = memory::kills();
        let marker = nodes::marker(component, version, self.state.generation() + 1);
        let (writer, output) = Output::open(&self.log, marker)?;
        // Dropped without a wait: whatever ends is reaped by the loop.
        let child = nodes::through_shim(Path::new(exe), first, &program, &args)
            .env("HOME", home)
            .envs(env)
            .env(RUN_VARIABLE, run)
            .env(NODE_VARIABLE, node)
            .env(COMPONENT_VARIABLE, component)
            .current_dir(home)
            .stdout(writer.try_clone()?)
            .stderr(writer)
            .spawn()?;
        self.output = Some(output);
        let pid = child.id();
        Ok(Proc::now(pid).unwrap_or(Proc { pid, start: 0 }))
    }

    fn crash(&mut self, from: Asker) {
        self.end = Some(End::With(KILLED));
        let Some(process) = self.state.running() else {
            self.answer(from, Ok(Reply::Done));
            self.over = Some(KILLED);
            return;
        };
        let saved = self.state.expect_exit();
        self.kept(saved);
        self.awaited_by.push(from);
        table::signal_group(process.proc.pid, Signal::SIGKILL);
    }

    fn stop(&mut self, from: Asker, grace: Ms) {
        if self.state.running().is_some() {
            let (generation, tell) = (self.state.generation(), self.tell_grace.clone());
            tokio::spawn(async move {
                tokio::time::sleep(grace.duration()).await;
                let _: Result<(), _> = tell.send(generation);
            });
        }
        self.end_process(from, Signal::SIGTERM);
    }

    fn grace_over(&mut self, generation: u32) {
        if let Some(process) = self.state.running()
            && generation == self.state.generation()
        {
            table::signal_group(process.proc.pid, Signal::SIGKILL);
        }
    }

    /// Signals the process, which is to end and to stay down, and answers when it has.
    fn end_process(&mut self, from: Asker, with: Signal) {
        // Written before the signal: should the container end with it, the next one knows.
        let saved = self.state.hold(true).and_then(|()| self.state.expect_exit());
        self.kept(saved);
        self.hold_lease();
        let Some(process) = self.state.running() else {
            return self.answer(from, Ok(Reply::Done));
        };
        self.awaited_by.push(from);
        table::signal_group(process.proc.pid, with);
        self.let_go_on();
    }

    /// The platform ends the container.
    fn terminate(&mut self) {
        let Some(process) = self.state.running() else {
            self.over = Some(0);
            return;
        };
        self.end = Some(End::AsProcess);
        let saved = self.state.expect_exit();
        self.kept(saved);
        table::signal_group(process.proc.pid, Signal::SIGTERM);
        self.let_go_on();
    }

    /// Ends a pause, whoever began it: a halted process takes no notice of anything but SIGKILL.
    fn let_go_on(&mut self) {
        self.signal_all(Signal::SIGCONT);
        self.paused = false;
    }

    fn pause(&mut self) -> Result<(), Trouble> {
        self.must_run()?;
        self.signal_all(Signal::SIGSTOP);
        self.paused = true;
        self.hold_lease();
        Ok(())
    }

    fn resume(&mut self) -> Result<(), Trouble> {
        self.must_run()?;
        self.let_go_on();
        Ok(())
    }

    fn must_run(&self) -> Result<(), Trouble> {
        match self.state.running() {
            Some(_) => Ok(()),
            None => Err(self.trouble("infra/node-down", "a process that runs", "it does not")),
        }
    }

    /// Signals all processes of the program, also those that come while it does.
    fn signal_all(&self, signal: Signal) {
        if let Some(process) = self.state.running() {
            table::signal_group(process.proc.pid, signal);
        }
        let mut signalled = BTreeSet::new();
        loop {
            let mut more = self.processes();
            more.retain(|&pid| signalled.insert(pid));
            if more.is_empty() {
                return;
            }
            for pid in more {
                table::signal(pid, signal);
            }
        }
    }

    /// All processes of the program: whatever was started here, is no prober and does not stress.
    fn processes(&self) -> Vec<u32> {
        let probers = self.prober.pids();
        let mut all = table::descendants(std::process::id());
        all.retain(|pid| !probers.contains(pid) && !self.stresses.has(*pid));
        all
    }

    fn wipe(&self) -> Result<(), Trouble> {
        self.must_be_down("it runs: stop it before a wipe")?;
        files::wipe(&self.spec.node, &self.spec.volumes)
    }

    fn corrupt(&self, damages: &[Damage]) -> Result<(), Trouble> {
        self.must_be_down("it runs: hold it down before its files are damaged")?;
        damage::damage(&self.spec.node, self.data()?, damages)
    }

    fn must_be_down(&self, seen: &str) -> Result<(), Trouble> {
        match self.state.running() {
            Some(_) => Err(self.trouble("infra/node-runs", "a process that is down", seen)),
            None => Ok(()),
        }
    }

    /// Where the first volume is.
    fn data(&self) -> Result<&Path, Trouble> {
        let first = self.spec.volumes.first().map(PathBuf::as_path);
        first.ok_or_else(|| self.trouble("infra/home", "a volume with files", "it has none"))
    }

    fn look_at_files(&self, from: Asker, pattern: String) {
        let root = match self.data() {
            Ok(root) => root.to_owned(),
            Err(trouble) => return self.answer(from, Err(trouble)),
        };
        let node = self.spec.node.clone();
        self.look(from, Question::Files { node, root, pattern }, |answer| match answer {
            Answer::Files(digests) => Some(Reply::Digests(digests)),
            _ => None,
        });
    }

    fn look_at_volume(&self, from: Asker) {
        let root = match self.data() {
            Ok(root) => root.to_owned(),
            Err(trouble) => return self.answer(from, Err(trouble)),
        };
        self.look(from, Question::Volume(root), |answer| match answer {
            Answer::Volume(seen) => Some(Reply::Volume(seen)),
            _ => None,
        });
    }

    fn shape(&mut self, shapes: &[LinkShape]) -> Result<(), Trouble> {
        if let Some(unknown) = shapes.iter().find(|shape| !self.links.has(&shape.link)) {
            return Err(self.unknown(&unknown.link));
        }
        let saved = self.state.shape(shapes);
        self.kept(saved);
        self.set_links(shapes);
        Ok(())
    }

    /// Makes the links what they are told to be, under the lease.
    fn set_links(&mut self, shapes: &[LinkShape]) {
        let wanted: BTreeMap<_, Shape> = shapes.iter().map(|shape| (&shape.link, shape.into())).collect();
        self.links.set(|link, _| wanted.get(link).copied().unwrap_or_default());
        if self.links.shaped() > 0 {
            self.hold_lease();
        }
    }

    /// Makes what is used beside the program what is wanted, under the lease.
    fn stress(&mut self, wanted: &BTreeMap<String, Stress>) -> Result<(), Trouble> {
        if !wanted.is_empty() {
            self.hold_lease();
        }
        let set = self.stresses.set(wanted);
        set.map_err(|error| {
            self.trouble(
                "infra/start-failed",
                "what is to be used beside it started",
                error.to_string(),
            )
        })
    }

    fn look_at_stress(&self, from: Asker, fault: &str) {
        let Some(proc) = self.stresses.last(fault) else {
            return self.answer(from, Ok(Reply::Stressed(None)));
        };
        self.look(from, Question::Stressed(proc), |answer| match answer {
            Answer::Stressed(seen) => Some(Reply::Stressed(seen)),
            _ => None,
        });
    }

    fn unknown(&self, LinkId { from, to, port }: &LinkId) -> Trouble {
        self.trouble(
            "infra/io",
            "a link that it dials",
            format!("{from} -> {to} ({port}) is none"),
        )
    }

    fn hold_lease(&mut self) {
        self.lease_ends = Some(Instant::now() + self.spec.lease.duration());
    }

    /// Nobody has renewed the lease of the faults: they end.
    fn lease_over(&mut self) {
        self.lease_ends = None;
        let ended = self.state.generation() > 0 && self.state.running().is_none();
        let excused = self.stresses.fills() || std::mem::take(&mut self.attends);
        // Down by order, for want of room, or since another component was.
        let down = self.is_held_down() || excused && ended || self.owes_start;
        let (links, stresses) = (self.links.shaped(), self.stresses.count());
        if links == 0 && stresses == 0 && !self.paused && !down && !self.locked {
            return;
        }
        let process = match (down, self.paused) {
            _ if self.locked => "ends with its container, so that the next one can write to its volume",
            (true, _) => "is started again",
            (false, true) => "was resumed",
            (false, false) => "was left as it is",
        };
        let seen = format!(
            "none came; {links} links were cleared, {stresses} processes beside it ended, and the process {process}"
        );
        self.stresses.end_all();
        let expected = format!("a renewal of the lease within {}", self.spec.lease);
        let saved = self.state.shape(&[]);
        self.kept(saved);
        self.set_links(&[]);
        if self.paused {
            self.let_go_on();
        }
        self.complain(self.trouble("infra/lease-lost", expected, seen));
        if self.locked {
            return self.end_container();
        }
        if !down {
            return;
        }
        // One that is still about to end, or cannot start yet, is looked at again.
        self.owes_start = self.state.running().is_some() || self.start().is_err();
        if self.owes_start {
            self.hold_lease();
        }
    }

    /// Ends the container, so that the platform makes another, in which the process starts.
    fn end_container(&mut self) {
        let saved = self.state.hold(false).and_then(|()| self.state.expect_exit());
        self.kept(saved);
        match self.state.running() {
            Some(process) => {
                self.end = Some(End::With(KILLED));
                table::signal_group(process.proc.pid, Signal::SIGKILL);
            }
            None => self.over = Some(KILLED),
        }
    }

    /// Whether a process that once ran was told to end and to stay down.
    fn is_held_down(&self) -> bool {
        self.state.held() && self.state.generation() > 0
    }

    fn look_at_process(&self, from: Asker) {
        let generation = self.state.generation();
        let Some(process) = self.state.process() else {
            let run = RunState::Gone;
            let never = Reply::State {
                pid: None,
                generation,
                run,
            };
            return self.answer(from, Ok(never));
        };
        self.look(from, Question::State(process.proc), move |answer| match answer {
            Answer::State(run) => Some(Reply::State {
                pid: Some(process.proc.pid),
                generation,
                run,
            }),
            _ => None,
        });
    }

    /// Has the prober count or send datagrams.
    fn pass_on(&self, from: Asker, question: Question) {
        self.look(from, question, |answer| match answer {
            Answer::Listens { port } => Some(Reply::Listens { port }),
            Answer::Sent { took } => Some(Reply::Sent { took }),
            Answer::Heard { counts, overrun } => Some(Reply::Heard { counts, overrun }),
            Answer::State(_) | Answer::Links(_) | Answer::Files(_) | Answer::Volume(_) | Answer::Stressed(_) => None,
        });
    }

    fn look_at_links(&self, from: Asker, wanted: &[LinkId], look: &LinkLook) {
        let mut links = Vec::with_capacity(wanted.len());
        for id in wanted {
            match self.spec.links.iter().find(|link| link.link == *id) {
                Some(link) => links.push(Way {
                    link: id.clone(),
                    address: link.listen,
                    past: look.past.then(|| format!("{}:{}", link.host, link.port)),
                    knock: look.knocks.get(&id.to).cloned().unwrap_or_default(),
                    accepts: None,
                }),
                None => return self.answer(from, Err(self.unknown(id))),
            }
        }
        self.look(
            from,
            Question::Links {
                links,
                limit: look.limit,
            },
            |answer| match answer {
                Answer::Links(evidence) => Some(Reply::Links(evidence)),
                _ => None,
            },
        );
    }

    /// Has the prober look, beside everything else.
    fn look(
        &self,
        (from, id): Asker,
        question: Question,
        reply: impl FnOnce(Answer) -> Option<Reply> + Send + 'static,
    ) {
        let Some(connection) = self.connections.get(&from) else {
            return;
        };
        let (say, prober) = (connection.say.clone(), self.prober.clone());
        let other = self.trouble(PROBER, "an answer to the question", "another one");
        tokio::spawn(async move {
            let result = prober.ask(question).await.and_then(|answer| reply(answer).ok_or(other));
            tell(&say, &Said::Answer { id, result });
        });
    }

    /// Takes notice of all children that have ended.
    async fn reap(&mut self) {
        let running = self.state.running().map(|process| process.proc.pid);
        let mut ended = None;
        loop {
            let (pid, how) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, (Some(code), None)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, (None, Some(signal as i32))),
                // Interrupted, or ended by a signal that has no name here; the latter is looked for below.
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => break,
                Ok(_) | Err(Errno::EINTR | Errno::EINVAL) => continue,
                Err(_) => break,
            };
            let pid = pid.as_raw().cast_unsigned();
            self.prober.reaped(pid);
            if let Some(fault) = self.stresses.reaped(pid) {
                let seen = format!("it ended: exit code and signal {how:?}");
                self.complain(self.trouble("infra/stress-ended", format!("what {fault} uses beside it"), seen));
            }
            if running == Some(pid) {
                ended = Some(how);
            }
        }
        if let Some(pid) = running
            && ended.is_none()
            && table::look(pid).is_none()
        {
            ended = Some((None, None));
        }
        if let Some(how) = ended {
            self.ended(how).await;
        }
    }

    /// The process has ended. What it left is ended with it: a component is one thing, and a child that lives on would hold its
    /// ports and files.
    async fn ended(&mut self, how: (Option<i32>, Option<i32>)) {
        if let Some(process) = self.state.running() {
            table::signal_group(process.proc.pid, Signal::SIGKILL);
        }
        let left = self.end_rest().await;
        self.paused = false;
        let output = self.output.take();
        let mut tail = match output {
            Some(output) if self.state.running().is_some_and(|process| !process.asked) => output.tail().await,
            _ => Vec::new(),
        };
        // Said first: why goes before what.
        let asked = self.state.running().is_none_or(|process| process.asked);
        if !asked && how.1 == Some(Signal::SIGKILL as i32) && memory::kills() > self.memory_kills {
            let seen = "OOMKilled: the kernel ended its program; give it a larger `memory_limit`";
            self.complain(self.trouble(
                "infra/out-of-memory",
                "no more memory used than the container's limit",
                seen,
            ));
            // Beside the last words of the program itself.
            tail.push(seen.to_owned());
        }
        let exited = self.state.exited(&self.spec.component, how, tail);
        self.happened(exited);
        for from in std::mem::take(&mut self.awaited_by) {
            let result = if left.is_empty() {
                Ok(Reply::Done)
            } else {
                let seen = format!("{left:?} are still there {} after SIGKILL", Ms::from(KILL_LIMIT));
                Err(self.trouble("infra/node-state", "no process left", seen))
            };
            self.answer(from, result);
        }
        self.over = self.end.map(|end| match (end, how) {
            (End::With(code), _) => code,
            (End::AsProcess, (Some(code), _)) => u8::try_from(code).unwrap_or(u8::MAX),
            (End::AsProcess, (None, signal)) => {
                u8::try_from(128 + signal.unwrap_or(Signal::SIGKILL as i32)).unwrap_or(u8::MAX)
            }
        });
    }

    /// Ends every process of the program that is left. Returns those that did not go in time.
    async fn end_rest(&self) -> BTreeSet<u32> {
        let deadline = Instant::now() + KILL_LIMIT;
        loop {
            let left = self.processes();
            if left.is_empty() || Instant::now() >= deadline {
                return left.into_iter().collect();
            }
            for pid in left {
                table::signal(pid, Signal::SIGKILL);
            }
            tokio::time::sleep(KILL_EVERY).await;
        }
    }
}
