//! The guard: a process in a session of its own that owns the nodes of one run on this machine, and puts everything back
//! when trialnet asks for it, or is gone, by whatever signal.
//!
//! One loop owns all state. It runs on the main thread and starts nodes from there, since the kernel watches that thread.
//! The proxies of the links have a thread of their own, so that no amount of traffic delays the loop.

mod guests;

use std::collections::BTreeMap;
use std::future::pending;
use std::io;
use std::os::fd::AsFd;
use std::process::{ExitCode, ExitStatus};
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::unix::pipe;
use tokio::runtime::{Builder, Handle};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use self::guests::{Guests, Voice};
use super::nodes::{self, Node};
use super::protocol::{Ask, Call, JobDef, LinkDef, NodeDef, PROTOCOL, ProcessNow, Reply, Said, Setup};
use super::proxy::{Links, Shape};
use super::registry::{self, RunEntry, Slot};
use super::table::{self, Proc};
use super::tamper::{self, Tamper};
use super::{damage, node_trouble, trouble};
use crate::backend::{Damage, LinkShape, Trouble};
use crate::model::Ms;
use crate::record::NodeEvent;

/// Arguments of the hidden subcommand `guard`.
#[derive(Clone, Debug, clap::Args)]
pub struct GuardArgs {
    /// The version of what is said over standard input and output
    #[arg(long)]
    pub protocol: u32,
}

/// Between SIGTERM and SIGKILL when nobody says.
const ORPHAN_GRACE: Ms = Ms(1000);
/// How long processes have to go after SIGKILL.
const KILL_LIMIT: Duration = Duration::from_secs(2);
/// The same for processes that a killed node left outside its groups; the guard does nothing else meanwhile.
const STRAY_LIMIT: Duration = Duration::from_millis(200);
/// How long the last words may take to get out.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);
/// How many files the guard may have open, where the system lets it: two for each connection over a link.
const FILES: u64 = 65_536;

/// Runs the guard to its end, which is that of trialnet at the latest.
#[must_use]
pub fn run(GuardArgs { protocol }: GuardArgs) -> ExitCode {
    if protocol != PROTOCOL {
        return ExitCode::from(2);
    }
    // A Ctrl-C in the terminal is for trialnet. The only error is that this already is a session of its own.
    let _: nix::Result<nix::unistd::Pid> = nix::unistd::setsid();
    raise_file_limit();
    let main = Builder::new_current_thread().enable_all().build();
    let proxies = Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("links")
        .enable_all()
        .build();
    let (Ok(main), Ok(proxies)) = (main, proxies) else {
        return ExitCode::FAILURE;
    };
    let result = main.block_on(Box::pin(guard(proxies.handle().clone())));
    proxies.shutdown_background();
    main.shutdown_background();
    if result.is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Raises this process's limit of open files as far as it may. Every connection over a link takes two in the guard, and
/// every observed node some in trialnet; the usual limit of 1024 is too few for a hundred nodes.
pub fn raise_file_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < FILES
    {
        // With fewer, large networks fail with a reason; small ones do not care.
        let _: nix::Result<()> = setrlimit(Resource::RLIMIT_NOFILE, hard.min(FILES), hard);
    }
}

/// What is asked, a line each.
pub(crate) type Questions = Lines<BufReader<pipe::Receiver>>;

/// Listens until trialnet asks for the end or is gone.
async fn guard(proxies: Handle) -> io::Result<()> {
    let (mut questions, say, writer) = converse()?;
    let mut ignored = ignored_signals();
    let mut term = signal(SignalKind::terminate())?;

    let Some((id, setup)) = first_question(&mut questions).await? else {
        return Ok(());
    };
    let voice = Voice::new(say.clone());
    let mut guests = Guests::new(voice.clone());
    let mut guard = match Guard::new(setup, proxies, voice) {
        Ok(guard) => guard,
        Err(trouble) => {
            tell(
                &say,
                &Said::Answer {
                    id,
                    result: Err(trouble),
                },
            );
            drop((say, guests));
            return flush(writer).await;
        }
    };
    guard.answer(id, Ok(Reply::Done));

    let mut attended = true;
    let how = loop {
        let (lease_ends, stay_ends, events) = (guard.lease_ends, guard.stay_ends, &mut guard.events);
        let asked = tokio::select! {
            line = questions.next_line(), if attended => match line.ok().flatten().map(|line| serde_json::from_str::<Call>(&line)) {
                Some(Ok(call)) => Some(call),
                // Whoever began a guard that stays may go.
                None | Some(Err(_)) if stay_ends.is_some() => {
                    attended = false;
                    None
                }
                // Trialnet is gone, or not to be understood: both end the run.
                None | Some(Err(_)) => break End::default(),
            },
            Some(call) = guests.next() => Some(call),
            Some(event) = events.recv() => {
                guard.take(event);
                None
            }
            () = sleep_until(lease_ends) => {
                guard.lease_over();
                None
            }
            () = sleep_until(stay_ends) => break End::default(),
            _ = term.recv() => break End::default(),
            () = swallow(&mut ignored) => None,
        };
        match asked {
            Some(Call {
                id,
                ask: Ask::Teardown { grace, keep_homes },
            }) => {
                break End {
                    asked_by: Some(id),
                    grace,
                    keep_homes,
                };
            }
            Some(Call {
                id,
                ask: Ask::Stay(time),
            }) => {
                let result = guard.stay(time, &mut guests);
                guard.answer(id, result);
            }
            Some(Call { id, ask }) => guard.handle(id, ask),
            None => {}
        }
    };
    guard.teardown(how).await;
    drop(guard);
    drop(say);
    guests.leave(FLUSH_LIMIT).await;
    if !attended {
        return Ok(());
    }
    flush(writer).await
}

/// Standard input and output as a conversation: the questions, where answers are put, and the task that writes them.
pub(crate) fn converse() -> io::Result<(Questions, mpsc::UnboundedSender<String>, JoinHandle<()>)> {
    let stdin = pipe::Receiver::from_owned_fd(io::stdin().as_fd().try_clone_to_owned()?)?;
    let answers = pipe::Sender::from_owned_fd(io::stdout().as_fd().try_clone_to_owned()?)?;
    let (say, sayings) = mpsc::unbounded_channel();
    Ok((
        BufReader::new(stdin).lines(),
        say,
        tokio::spawn(write(answers, sayings)),
    ))
}

/// The signals that mean nothing to a guard. Handlers rather than "ignore", which its children would inherit.
pub(crate) fn ignored_signals() -> [Option<tokio::signal::unix::Signal>; 3] {
    [SignalKind::interrupt(), SignalKind::hangup(), SignalKind::quit()].map(|kind| signal(kind).ok())
}

/// How the run ends.
#[derive(Debug)]
struct End {
    asked_by: Option<u64>,
    grace: Ms,
    keep_homes: bool,
}

impl Default for End {
    fn default() -> Self {
        Self {
            asked_by: None,
            grace: ORPHAN_GRACE,
            keep_homes: false,
        }
    }
}

async fn first_question(questions: &mut Questions) -> io::Result<Option<(u64, Setup)>> {
    let Some(line) = questions.next_line().await? else {
        return Ok(None);
    };
    match serde_json::from_str(&line)? {
        Call {
            id,
            ask: Ask::Setup(setup),
        } => Ok(Some((id, setup))),
        Call { .. } => Err(io::Error::other("the first question must be the setup")),
    }
}

/// Waits for a moment; for ever where there is none.
pub(super) async fn sleep_until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => pending().await,
    }
}

/// Returns when a signal came that means nothing here.
pub(crate) async fn swallow(ignored: &mut [Option<tokio::signal::unix::Signal>; 3]) {
    let [interrupt, hangup, quit] = ignored;
    let one = async |signal: &mut Option<tokio::signal::unix::Signal>| match signal {
        Some(signal) => drop(signal.recv().await),
        None => pending().await,
    };
    tokio::select! {
        () = one(interrupt) => {}
        () = one(hangup) => {}
        () = one(quit) => {}
    }
}

/// Writes what is said, so that a reader that does not keep up never holds the guard up.
async fn write(mut answers: pipe::Sender, mut sayings: mpsc::UnboundedReceiver<String>) {
    while let Some(line) = sayings.recv().await {
        if answers.write_all(line.as_bytes()).await.is_err() {
            // Nobody reads any more; the end of the questions says so too.
            return;
        }
    }
}

/// Waits a moment for the last words to get out.
pub(crate) async fn flush(writer: JoinHandle<()>) -> io::Result<()> {
    tokio::time::timeout(FLUSH_LIMIT, writer)
        .await?
        .map_err(io::Error::other)
}

/// Says something, on a line of its own.
pub(crate) fn tell(say: &mpsc::UnboundedSender<String>, said: &impl serde::Serialize) {
    if let Ok(mut line) = serde_json::to_string(said) {
        line.push('\n');
        // The other end may be gone.
        drop(say.send(line));
    }
}

/// What happens by itself.
#[derive(Debug)]
enum Event {
    /// A component's process ended.
    Exited {
        node: String,
        index: usize,
        pid: u32,
        status: Option<ExitStatus>,
    },
    /// A node that was asked to end has had its time.
    GraceOver { node: String, generations: Vec<u32> },
}

struct Guard {
    setup: Setup,
    entry: RunEntry,
    slot: Option<Slot>,
    nodes: BTreeMap<String, Node>,
    links: Links,
    /// When faults revert; `None`: they have, or none was ever held.
    lease_ends: Option<Instant>,
    /// When it ends by itself, if it stays when whoever began it has gone.
    stay_ends: Option<Instant>,
    voice: Voice,
    happen: mpsc::UnboundedSender<Event>,
    events: mpsc::UnboundedReceiver<Event>,
}

impl Guard {
    /// Enters the run into the registry.
    fn new(mut setup: Setup, proxies: Handle, voice: Voice) -> Result<Self, Trouble> {
        let failed = |what: &str, error: io::Error| trouble("infra/guard-setup", what, error.to_string());
        if setup.tamper.is_none() {
            let word = std::env::var(tamper::VARIABLE).unwrap_or_default();
            setup.tamper = Tamper::parse(&word)
                .map_err(|error| trouble("infra/guard-setup", "a known way to tamper", error.to_string()))?;
        }
        let me = |pid| {
            Proc::now(pid).ok_or_else(|| failed("a process table", io::Error::other(format!("no process {pid}"))))
        };
        let entry = RunEntry {
            run: setup.run.clone(),
            scenario: setup.scenario.clone(),
            owner: me(setup.owner)?,
            guard: me(std::process::id())?,
            run_dir: setup.run_dir.clone(),
            homes: setup.homes.clone(),
            slot: None,
            began: std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .map_or(0, |since| Ms::from(since).0),
            space: registry::process_space(),
            cluster: None,
            stays: false,
        };
        registry::remember(&setup.state_dir, &entry).map_err(|error| failed("an entry in the registry", error))?;
        registry::make_homes(&setup.homes, &setup.run).map_err(|error| failed("a folder for the node homes", error))?;
        let (happen, events) = mpsc::unbounded_channel();
        Ok(Self {
            setup,
            entry,
            slot: None,
            nodes: BTreeMap::new(),
            links: Links::new(proxies),
            lease_ends: None,
            stay_ends: None,
            voice,
            happen,
            events,
        })
    }

    fn answer(&self, id: u64, result: Result<Reply, Trouble>) {
        self.voice.say(&Said::Answer { id, result });
    }

    fn handle(&mut self, id: u64, ask: Ask) {
        let result = match ask {
            Ask::Setup(_) | Ask::Teardown { .. } | Ask::Stay(_) => {
                Err(trouble("infra/guard-protocol", "one setup", "a second one"))
            }
            Ask::Describe => Ok(Reply::Nodes(self.describe())),
            Ask::Claim { except } => self.claim(&except),
            Ask::Define(defs) => self.define(defs),
            Ask::Link(defs) => self.link(defs),
            Ask::Start(names) => self.start(&names),
            Ask::Kill(name, component) => return self.kill(id, &name, component.as_deref()),
            Ask::Stop(name, grace) => return self.stop(id, &name, grace),
            Ask::Corrupt(name, damages) => self.corrupt(&name, &damages),
            Ask::Pause(name) => self.pause(&name),
            Ask::Resume(name) => self.resume(&name),
            Ask::Shape(shapes) => self.shape(&shapes),
            Ask::Renew => {
                if self.lease_ends.is_some() {
                    self.hold_lease();
                }
                Ok(Reply::Done)
            }
            Ask::Job(job) => return self.job(id, job),
        };
        self.answer(id, result);
    }

    /// From now on it outlives whoever began it: guests are let in at the run's socket, and it ends by itself after this time, until
    /// which also faults stay.
    fn stay(&mut self, time: Ms, guests: &mut Guests) -> Result<Reply, Trouble> {
        let failed = |what: &str, error: io::Error| trouble("infra/guard-setup", what, error.to_string());
        let path = registry::socket(&self.setup.state_dir, &self.setup.run);
        guests
            .open(&path)
            .map_err(|error| failed(&format!("a socket at {}", path.display()), error))?;
        self.entry.stays = true;
        registry::remember(&self.setup.state_dir, &self.entry)
            .map_err(|error| failed("an entry in the registry", error))?;
        self.stay_ends = Some(Instant::now() + time.duration());
        self.setup.lease = time;
        Ok(Reply::Done)
    }

    /// The processes of all nodes as they are now.
    fn describe(&self) -> Vec<ProcessNow> {
        let of_node = |node: &Node| {
            let of_component = |(component, process): (&super::protocol::ComponentDef, &nodes::Process)| ProcessNow {
                node: node.def.name.clone(),
                component: component.name.clone(),
                pid: process.last_pid,
                generation: process.generation,
            };
            let components = node.def.components.iter().zip(&node.processes);
            components.map(of_component).collect::<Vec<_>>()
        };
        self.nodes.values().flat_map(of_node).collect()
    }

    fn claim(&mut self, except: &[u8]) -> Result<Reply, Trouble> {
        self.slot = None;
        self.slot = Slot::take(except);
        self.entry.slot = self.slot.as_ref().map(|slot| slot.number);
        registry::remember(&self.setup.state_dir, &self.entry)
            .map_err(|error| trouble("infra/guard-setup", "an entry in the registry", error.to_string()))?;
        Ok(Reply::Slot(self.entry.slot))
    }

    fn define(&mut self, defs: Vec<NodeDef>) -> Result<Reply, Trouble> {
        for def in defs {
            let name = def.name.clone();
            match self.nodes.get_mut(&name) {
                Some(node) if node.runs() => {
                    return Err(node_trouble(
                        "infra/node-runs",
                        &name,
                        "a node that is down",
                        "it runs: stop it before it is defined anew",
                    ));
                }
                Some(node) => node.redefine(def),
                None => drop(self.nodes.insert(name, Node::new(def))),
            }
        }
        Ok(Reply::Done)
    }

    fn link(&mut self, defs: Vec<LinkDef>) -> Result<Reply, Trouble> {
        for def in defs {
            let (listen, name) = (def.listen, format!("{} -> {}", def.link.from, def.link.to));
            self.links.open(def).map_err(|error| {
                trouble(
                    "infra/address",
                    format!("{listen} free for the link {name}"),
                    error.to_string(),
                )
            })?;
        }
        Ok(Reply::Done)
    }

    fn start(&mut self, names: &[String]) -> Result<Reply, Trouble> {
        for name in names {
            let node = known(&mut self.nodes, name)?;
            let down = |index: &usize| node.processes[*index].pid.is_none();
            let down: Vec<usize> = (0..node.processes.len()).filter(down).collect();
            if down.is_empty() {
                return Err(node_trouble(
                    "infra/node-runs",
                    name,
                    "a node that is down, or a component of it",
                    "it runs already",
                ));
            }
            for index in down {
                let spawned = node.spawn(index, &self.setup.exe);
                let component = &node.def.components[index];
                let mut child = spawned.map_err(|error| {
                    node_trouble(
                        "infra/start-failed",
                        name,
                        format!("{} started", component.program.display()),
                        error.to_string(),
                    )
                })?;
                let process = &node.processes[index];
                let Some(pid) = process.pid else { continue };
                let event = NodeEvent::Started {
                    component: component.name.clone(),
                    pid,
                    generation: process.generation,
                    version: component.version.clone(),
                };
                self.voice.say(&Said::Node {
                    node: name.clone(),
                    event,
                });
                let (node, happen) = (name.clone(), self.happen.clone());
                tokio::spawn(async move {
                    let status = child.wait().await.ok();
                    drop(happen.send(Event::Exited {
                        node,
                        index,
                        pid,
                        status,
                    }));
                });
            }
        }
        Ok(Reply::Done)
    }

    fn kill(&mut self, id: u64, name: &str, component: Option<&str>) {
        if self.tampers(Tamper::KillNothing) {
            return self.answer(id, Ok(Reply::Done));
        }
        if self.tampers(Tamper::KillExtra)
            && let Some((_, extra)) = self.nodes.iter().find(|(other, node)| *other != name && node.runs())
        {
            extra.signal(Signal::SIGKILL);
        }
        let Some(component) = component else {
            return self.end(id, name, None, Signal::SIGKILL);
        };
        let which = known(&mut self.nodes, name).and_then(|node| {
            let mut components = node.def.components.iter();
            components.position(|known| known.name == component).ok_or_else(|| {
                let seen = format!("there is none called {component}");
                node_trouble("infra/io", name, "a component of the node", seen)
            })
        });
        match which {
            Ok(which) => self.end(id, name, Some(which), Signal::SIGKILL),
            Err(trouble) => self.answer(id, Err(trouble)),
        }
    }

    fn stop(&mut self, id: u64, name: &str, grace: Ms) {
        let Some(node) = self.nodes.get(name).filter(|node| node.runs()) else {
            return self.end(id, name, None, Signal::SIGTERM);
        };
        let event = Event::GraceOver {
            node: name.to_owned(),
            generations: node.processes.iter().map(|process| process.generation).collect(),
        };
        let happen = self.happen.clone();
        tokio::spawn(async move {
            tokio::time::sleep(grace.duration()).await;
            drop(happen.send(event));
        });
        self.end(id, name, None, Signal::SIGTERM);
    }

    /// Signals a node that is to end, or one component of it, and answers when it has.
    fn end(&mut self, id: u64, name: &str, which: Option<usize>, with: Signal) {
        match known(&mut self.nodes, name) {
            Err(trouble) => self.answer(id, Err(trouble)),
            Ok(node) if !node.any_runs(which) => self.answer(id, Ok(Reply::Done)),
            Ok(node) => {
                node.expect_exit(which);
                node.signal_some(which, with);
                if which.is_none() {
                    // A halted process takes no notice of anything but SIGKILL.
                    node.signal(Signal::SIGCONT);
                    node.paused = false;
                }
                node.awaited_by.push((id, which));
                self.hold_lease();
            }
        }
    }

    fn corrupt(&mut self, name: &str, damages: &[Damage]) -> Result<Reply, Trouble> {
        let node = known(&mut self.nodes, name)?;
        if node.runs() {
            let expected = "a node that is down before its files are damaged";
            return Err(node_trouble("infra/node-runs", name, expected, "it runs"));
        }
        let Some(data) = &node.def.data else {
            return Err(node_trouble("infra/home", name, "a volume with files", "it has none"));
        };
        damage::damage(name, data, damages)?;
        Ok(Reply::Done)
    }

    fn pause(&mut self, name: &str) -> Result<Reply, Trouble> {
        let nothing = self.tampers(Tamper::PauseNothing);
        let node = running(&mut self.nodes, name)?;
        if !nothing {
            node.signal(Signal::SIGSTOP);
        }
        node.paused = true;
        self.hold_lease();
        Ok(Reply::Done)
    }

    fn resume(&mut self, name: &str) -> Result<Reply, Trouble> {
        let nothing = self.tampers(Tamper::ResumeNothing);
        let node = running(&mut self.nodes, name)?;
        if !nothing {
            node.signal(Signal::SIGCONT);
        }
        node.paused = false;
        Ok(Reply::Done)
    }

    fn shape(&mut self, shapes: &[LinkShape]) -> Result<Reply, Trouble> {
        if let Some(unknown) = shapes.iter().find(|shape| !self.links.has(&shape.link)) {
            let link = &unknown.link;
            return Err(trouble(
                "infra/io",
                "a link of the plan",
                format!("{} -> {} ({}) was not reserved", link.from, link.to, link.port),
            ));
        }
        let wanted: BTreeMap<_, Shape> = shapes.iter().map(|shape| (&shape.link, shape.into())).collect();
        let any_cut = wanted.values().any(|shape| shape.cut);
        let tamper = self.setup.tamper;
        self.links.set(|link, before| {
            let shape = wanted.get(link).copied().unwrap_or_default();
            match tamper {
                Some(Tamper::CutNothing) => Shape::default(),
                Some(Tamper::CutMore) => Shape {
                    cut: shape.cut || any_cut,
                    ..shape
                },
                Some(Tamper::HealNothing) => Shape {
                    cut: shape.cut || before.cut,
                    latency: shape.latency.max(before.latency),
                    jitter: shape.jitter.max(before.jitter),
                },
                _ => shape,
            }
        });
        if self.links.shaped() > 0 {
            self.hold_lease();
        }
        Ok(Reply::Done)
    }

    fn tampers(&self, how: Tamper) -> bool {
        self.setup.tamper == Some(how)
    }

    fn hold_lease(&mut self) {
        self.lease_ends = Some(Instant::now() + self.setup.lease.duration());
    }

    /// Nobody renewed the leases: links are cleared, halted nodes go on, and those that were told to end start again.
    fn lease_over(&mut self) {
        self.lease_ends = None;
        let links = self.links.shaped();
        let paused: Vec<&str> = self
            .nodes
            .values()
            .filter(|node| node.paused)
            .map(|node| node.def.name.as_str())
            .collect();
        let down = self.nodes.values().filter(|node| node.was_ended());
        let down: Vec<String> = down.map(|node| node.def.name.clone()).collect();
        if links == 0 && paused.is_empty() && down.is_empty() {
            return;
        }
        let names = |names: &[&str]| {
            if names.is_empty() {
                "none".to_owned()
            } else {
                names.join(", ")
            }
        };
        let seen = format!(
            "none came; {links} links were cleared; resumed: {}; started again: {}",
            names(&paused),
            names(&down.iter().map(String::as_str).collect::<Vec<_>>()),
        );
        let expected = format!("a renewal of the leases within {}", self.setup.lease);
        self.voice
            .say(&Said::Trouble(trouble("infra/lease-lost", expected, seen)));
        self.revert();
        if self.nodes.values().any(nodes::Node::is_ending) {
            // They start when they have ended.
            self.hold_lease();
        }
        // One that cannot be started keeps no other from it.
        for name in down {
            if let Err(trouble) = self.start(&[name]) {
                self.voice.say(&Said::Trouble(trouble));
            }
        }
    }

    /// Ends every fault that can be taken back.
    fn revert(&mut self) {
        self.links.set(|_, _| Shape::default());
        for node in self.nodes.values_mut().filter(|node| node.paused) {
            node.signal(Signal::SIGCONT);
            node.paused = false;
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Exited {
                node,
                index,
                pid,
                status,
            } => self.exited(&node, index, pid, status),
            Event::GraceOver { node, generations } => {
                if let Some(node) = self.nodes.get(&node)
                    && node.processes.iter().map(|process| process.generation).eq(generations)
                {
                    node.signal(Signal::SIGKILL);
                }
            }
        }
    }

    fn exited(&mut self, name: &str, index: usize, pid: u32, status: Option<ExitStatus>) {
        let Some(node) = self.nodes.get_mut(name) else { return };
        node.ended(index, pid);
        let process = &node.processes[index];
        let (code, signal) = status.map_or((None, None), nodes::exit);
        let event = NodeEvent::Exited {
            component: node.def.components[index].name.clone(),
            pid,
            generation: process.generation,
            code,
            signal,
            asked: process.asked,
            tail: if process.asked { Vec::new() } else { node.tail(index) },
        };
        self.voice.say(&Said::Node {
            node: name.to_owned(),
            event,
        });
        if !node.runs() && !node.awaited_by.is_empty() {
            // Children that left their group; mostly there are none. Not waited for any longer: the probes will tell.
            drop(table::end_node(&self.setup.run, name, STRAY_LIMIT));
        }
        for id in node.answered() {
            let result = Ok(Reply::Done);
            self.voice.say(&Said::Answer { id, result });
        }
    }

    /// Runs a job beside everything else. What is left of it at the teardown is found by the run's id.
    fn job(&mut self, id: u64, job: JobDef) {
        let exe = self.setup.exe.clone();
        let voice = self.voice.clone();
        // Started here, from the main thread, like nodes.
        let spawned = (|| {
            tokio::process::Command::from(nodes::through_shim(&exe, &[], &job.program, &job.args))
                .env_clear()
                .envs(&job.env)
                .current_dir(&job.home)
                .stdout(std::fs::File::create(&job.stdout)?)
                .stderr(std::fs::File::create(&job.stderr)?)
                .spawn()
        })();
        let mut child = match spawned {
            Ok(child) => child,
            Err(error) => {
                let expected = format!("{} started for the job {}", job.program.display(), job.name);
                return self.answer(id, Err(trouble("infra/start-failed", expected, error.to_string())));
            }
        };
        tokio::spawn(async move {
            let pid = child.id();
            let ended = tokio::time::timeout(job.limit.duration(), child.wait()).await;
            if let Some(pid) = pid {
                table::signal_group(pid, Signal::SIGKILL);
            }
            let reply = match ended {
                Ok(status) => Reply::Job {
                    code: status.ok().and_then(|status| status.code()),
                    late: false,
                },
                Err(_) => Reply::Job { code: None, late: true },
            };
            voice.say(&Said::Answer { id, result: Ok(reply) });
        });
    }

    /// Puts everything back: faults, processes, homes, the entry.
    async fn teardown(
        &mut self,
        End {
            asked_by,
            grace,
            keep_homes,
        }: End,
    ) {
        self.revert();
        for node in self.nodes.values_mut() {
            node.expect_exit(None);
            if grace > Ms(0) {
                node.signal(Signal::SIGTERM);
                // Also where the pause was somebody else's: a halted process would not see SIGTERM.
                node.signal(Signal::SIGCONT);
            }
        }
        if grace > Ms(0) {
            self.wait_for_exits(grace.duration()).await;
        }
        for node in self.nodes.values() {
            node.signal(Signal::SIGKILL);
        }
        self.wait_for_exits(KILL_LIMIT).await;
        let mut left: Vec<String> = Vec::new();
        // Children that left their process group still carry the run's id.
        for pid in table::end_run(&self.setup.run, KILL_LIMIT) {
            left.push(format!("process {pid} did not end"));
        }
        self.links.close();
        let Setup {
            run, homes, state_dir, ..
        } = &self.setup;
        if !keep_homes && let Err(error) = registry::remove_homes(homes, run) {
            left.push(format!("{} was not removed: {error}", homes.display()));
        }
        if left.is_empty() {
            registry::forget(state_dir, run);
        }
        self.slot = None;
        if let Some(id) = asked_by {
            self.answer(id, Ok(Reply::Left(left)));
        }
    }

    async fn wait_for_exits(&mut self, limit: Duration) {
        let deadline = Instant::now() + limit;
        while self.nodes.values().any(Node::runs) {
            match tokio::time::timeout_at(deadline, self.events.recv()).await {
                Ok(Some(event)) => self.take(event),
                Ok(None) | Err(_) => return,
            }
        }
    }
}

fn known<'a>(nodes: &'a mut BTreeMap<String, Node>, name: &str) -> Result<&'a mut Node, Trouble> {
    nodes.get_mut(name).ok_or_else(|| {
        node_trouble(
            "infra/io",
            name,
            "a node that was applied",
            "there is none of this name",
        )
    })
}

fn running<'a>(nodes: &'a mut BTreeMap<String, Node>, name: &str) -> Result<&'a mut Node, Trouble> {
    let node = known(nodes, name)?;
    if node.runs() {
        Ok(node)
    } else {
        Err(node_trouble(
            "infra/node-down",
            name,
            "a node that runs",
            "none of its processes does",
        ))
    }
}
