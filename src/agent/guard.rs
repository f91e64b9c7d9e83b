//! The guard: a process in a session of its own that owns the nodes of one run on this machine, and puts everything back
//! when trialnet asks for it, or is gone, by whatever signal.
//!
//! One loop owns all state. It runs on the main thread and starts nodes from there, since the kernel watches that thread.
//! The proxies of the links have a thread of their own, so that no amount of traffic delays the loop.

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

use super::nodes::{self, Node};
use super::protocol::{Ask, Call, JobDef, LinkDef, NodeDef, PROTOCOL, Reply, Said, Setup};
use super::proxy::{Links, Shape};
use super::registry::{self, RunEntry, Slot};
use super::table::{self, Proc};
use super::tamper::{self, Tamper};
use super::{node_trouble, trouble};
use crate::backend::{LinkShape, Trouble};
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

type Questions = Lines<BufReader<pipe::Receiver>>;

/// Listens until trialnet asks for the end or is gone.
async fn guard(proxies: Handle) -> io::Result<()> {
    let mut questions = BufReader::new(pipe::Receiver::from_owned_fd(
        io::stdin().as_fd().try_clone_to_owned()?,
    )?)
    .lines();
    let answers = pipe::Sender::from_owned_fd(io::stdout().as_fd().try_clone_to_owned()?)?;
    let (say, sayings) = mpsc::unbounded_channel();
    let writer = tokio::spawn(write(answers, sayings));
    // Handlers rather than "ignore", which the nodes would inherit.
    let mut ignored = [SignalKind::interrupt(), SignalKind::hangup(), SignalKind::quit()].map(|kind| signal(kind).ok());
    let mut term = signal(SignalKind::terminate())?;

    let Some((id, setup)) = first_question(&mut questions).await? else {
        return Ok(());
    };
    let mut guard = match Guard::new(setup, proxies, say.clone()) {
        Ok(guard) => guard,
        Err(trouble) => {
            tell(
                &say,
                &Said::Answer {
                    id,
                    result: Err(trouble),
                },
            );
            drop(say);
            return flush(writer).await;
        }
    };
    guard.answer(id, Ok(Reply::Done));

    let how = loop {
        let (lease_ends, events) = (guard.lease_ends, &mut guard.events);
        tokio::select! {
            line = questions.next_line() => match line.ok().flatten().map(|line| serde_json::from_str::<Call>(&line)) {
                // Trialnet is gone, or not to be understood: both end the run.
                None | Some(Err(_)) => break End::default(),
                Some(Ok(Call { id, ask: Ask::Teardown { grace, keep_homes } })) => {
                    break End { asked_by: Some(id), grace, keep_homes };
                }
                Some(Ok(Call { id, ask })) => guard.handle(id, ask),
            },
            Some(event) = events.recv() => guard.take(event),
            () = sleep_until(lease_ends) => guard.lease_over(),
            _ = term.recv() => break End::default(),
            () = swallow(&mut ignored) => {}
        }
    };
    guard.teardown(how).await;
    drop(guard);
    drop(say);
    flush(writer).await
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

async fn sleep_until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => pending().await,
    }
}

/// Returns when a signal came that means nothing here.
async fn swallow(ignored: &mut [Option<tokio::signal::unix::Signal>; 3]) {
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

async fn flush(writer: JoinHandle<()>) -> io::Result<()> {
    tokio::time::timeout(FLUSH_LIMIT, writer)
        .await?
        .map_err(io::Error::other)
}

fn tell(say: &mpsc::UnboundedSender<String>, said: &Said) {
    if let Ok(mut line) = serde_json::to_string(said) {
        line.push('\n');
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
    say: mpsc::UnboundedSender<String>,
    happen: mpsc::UnboundedSender<Event>,
    events: mpsc::UnboundedReceiver<Event>,
}

impl Guard {
    /// Enters the run into the registry.
    fn new(mut setup: Setup, proxies: Handle, say: mpsc::UnboundedSender<String>) -> Result<Self, Trouble> {
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
            say,
            happen,
            events,
        })
    }

    fn answer(&self, id: u64, result: Result<Reply, Trouble>) {
        tell(&self.say, &Said::Answer { id, result });
    }

    fn handle(&mut self, id: u64, ask: Ask) {
        let result = match ask {
            Ask::Setup(_) | Ask::Teardown { .. } => Err(trouble("infra/guard-protocol", "one setup", "a second one")),
            Ask::Claim { except } => self.claim(&except),
            Ask::Define(defs) => self.define(defs),
            Ask::Link(defs) => self.link(defs),
            Ask::Start(names) => self.start(&names),
            Ask::Kill(name) => return self.kill(id, &name),
            Ask::Stop(name, grace) => return self.stop(id, &name, grace),
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
            if node.runs() {
                return Err(node_trouble(
                    "infra/node-runs",
                    name,
                    "a node that is down",
                    "it runs already",
                ));
            }
            for index in 0..node.processes.len() {
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
                tell(
                    &self.say,
                    &Said::Node {
                        node: name.clone(),
                        event,
                    },
                );
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

    fn kill(&mut self, id: u64, name: &str) {
        if self.tampers(Tamper::KillNothing) {
            return self.answer(id, Ok(Reply::Done));
        }
        if self.tampers(Tamper::KillExtra)
            && let Some((_, extra)) = self.nodes.iter().find(|(other, node)| *other != name && node.runs())
        {
            extra.signal(Signal::SIGKILL);
        }
        self.end(id, name, Signal::SIGKILL);
    }

    fn stop(&mut self, id: u64, name: &str, grace: Ms) {
        let Some(node) = self.nodes.get(name).filter(|node| node.runs()) else {
            return self.end(id, name, Signal::SIGTERM);
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
        self.end(id, name, Signal::SIGTERM);
    }

    /// Signals a node that is to end, and answers when it has.
    fn end(&mut self, id: u64, name: &str, with: Signal) {
        match known(&mut self.nodes, name) {
            Err(trouble) => self.answer(id, Err(trouble)),
            Ok(node) if !node.runs() => self.answer(id, Ok(Reply::Done)),
            Ok(node) => {
                node.expect_exit();
                node.signal(with);
                // A halted process takes no notice of anything but SIGKILL.
                node.signal(Signal::SIGCONT);
                node.paused = false;
                node.awaited_by.push(id);
            }
        }
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

    /// Nobody renewed the leases: links are cleared and halted nodes go on. Nodes that are down stay down, since starting
    /// one is not taking a fault back but doing something new.
    fn lease_over(&mut self) {
        self.lease_ends = None;
        let links = self.links.shaped();
        let paused: Vec<&str> = self
            .nodes
            .values()
            .filter(|node| node.paused)
            .map(|node| node.def.name.as_str())
            .collect();
        if links == 0 && paused.is_empty() {
            return;
        }
        let seen = format!(
            "none came; {links} links were cleared, and these nodes resumed: {}",
            if paused.is_empty() {
                "none".to_owned()
            } else {
                paused.join(", ")
            }
        );
        let expected = format!("a renewal of the leases within {}", self.setup.lease);
        tell(&self.say, &Said::Trouble(trouble("infra/lease-lost", expected, seen)));
        self.revert();
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
        tell(
            &self.say,
            &Said::Node {
                node: name.to_owned(),
                event,
            },
        );
        if !node.runs() && !node.awaited_by.is_empty() {
            // Children that left their group; mostly there are none. Not waited for any longer: the probes will tell.
            drop(table::end_node(&self.setup.run, name, STRAY_LIMIT));
            for id in std::mem::take(&mut node.awaited_by) {
                tell(
                    &self.say,
                    &Said::Answer {
                        id,
                        result: Ok(Reply::Done),
                    },
                );
            }
        }
    }

    /// Runs a job beside everything else. What is left of it at the teardown is found by the run's id.
    fn job(&mut self, id: u64, job: JobDef) {
        let exe = self.setup.exe.clone();
        let say = self.say.clone();
        // Started here, from the main thread, like nodes.
        let spawned = (|| {
            nodes::through_shim(&exe, &job.program, &job.args)
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
            tell(&say, &Said::Answer { id, result: Ok(reply) });
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
            node.expect_exit();
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
