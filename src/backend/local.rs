//! Nodes as plain processes on this machine, without root.
//!
//! A guard process ([`crate::agent::guard`]) owns them. What can be seen from outside the guard (process states, probes of
//! the links) is seen by trialnet's own process, so that an injector is never believed.

mod address;
mod client;
mod home;
mod probe;
mod stay;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, OnceLock};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::{OnceCell, mpsc};

use self::client::Client;
use super::{
    Addresses, Capabilities, ComponentState, Damage, Deployer, Digest, Endpoint, Job, JobOutput, LinkEvidence, LinkId,
    LinkLook, LinkShape, NodeOps, NodeSpec, NodeState, PROXIES_LACK, RunState, Teardown, Trouble, Wanted,
};
use crate::agent::protocol::{Ask, ComponentDef, JobDef, LinkDef, NodeDef, Reply, Setup};
use crate::agent::table::{self, Proc};
use crate::agent::tamper::Tamper;
use crate::agent::{damage, lock, node_trouble, registry, trouble};
use crate::model::{Ms, Removal};
use crate::record::{NodeEvent, Record};

pub use self::home::find_program;
pub use crate::agent::registry::{Life, RunEntry, gc, list_runs};

/// The file in the folder of the logs to which the guard's own standard error goes.
const GUARD_LOG: &str = "trialnet.guard.log";
/// How long the guard may take for what takes no time.
const PROMPT: Duration = Duration::from_secs(10);
/// How long the guard may take to start all nodes: milliseconds each, but the machine may be busy.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How long processes have to go after SIGKILL.
const KILL_LIMIT: Duration = Duration::from_secs(2);
/// How long a teardown may take beyond the grace before the guard itself is ended.
const TEARDOWN_SLACK: Duration = Duration::from_millis(1500);

/// What this backend offers.
#[must_use]
pub fn capabilities() -> &'static Capabilities {
    static CAPABILITIES: LazyLock<Capabilities> = LazyLock::new(|| {
        Capabilities {
        backend: "local",
        lacks: PROXIES_LACK.into_iter().chain([
            (
                "pods",
                "a node is processes of this machine here, not a pod that can be deleted or evicted; use how = \"process\", or the kubernetes backend",
            ),
            (
                "machines",
                "this is one machine, and trialnet runs on it; use stop or kill, or the kubernetes backend",
            ),
            (
                "stress",
                "a process of this machine has no limits of its own, so what is used beside it is taken from all nodes and from trialnet; use pause or delay, or the kubernetes backend",
            ),
            (
                "fill",
                "the nodes' homes are folders of this machine's own disk, which would be full for everybody; use the kubernetes backend",
            ),
            (
                "read-only",
                "the nodes' homes are folders of this machine, which only root could make read-only, and for everybody; use the kubernetes backend",
            ),
            (
                "on-restart",
                "nodes have no pod or container here whose place another could take: links and what is halted outlive a restart of the program; leave on_restart out, or use the kubernetes backend",
            ),
            (
                "attach",
                "there are no pods here that could be found; leave attach out, or use the kubernetes backend",
            ),
            (
                "observe-cluster",
                "there is no cluster here in which the observer could run; use from = \"here\", or the kubernetes backend",
            ),
        ]).collect(),
    }
    });
    &CAPABILITIES
}

/// What the backend needs to know of the run.
#[derive(Clone, Debug)]
pub struct LocalOptions {
    /// The executable that answers the hidden subcommands `guard` and `shim`, and is [`super::Program::Trialnet`].
    pub exe: PathBuf,
    /// The run folder. Node homes and logs are below it.
    pub run_dir: PathBuf,
    /// The id of the run, unique on this machine: letters, digits, `-`, `_` and `.`.
    pub run_id: String,
    /// The scenario's name, for `ps`.
    pub scenario: String,
    /// How long faults stay without a renewal.
    pub lease: Ms,
    /// The registry folder; `None`: where [`registry::state_dir`] says.
    pub state_dir: Option<PathBuf>,
    /// How the guard is wrong on purpose, for tests; `None`: as its environment says.
    pub tamper: Option<Tamper>,
}

impl LocalOptions {
    /// Options with the usual lease of ten seconds and the usual registry.
    #[must_use]
    pub fn new(exe: PathBuf, run_dir: PathBuf, run_id: String) -> Self {
        Self {
            exe,
            run_dir,
            run_id,
            scenario: String::new(),
            lease: Ms::secs(10),
            state_dir: None,
            tamper: None,
        }
    }

    fn homes(&self) -> PathBuf {
        self.run_dir.join("homes")
    }

    fn logs(&self) -> PathBuf {
        self.run_dir.join("logs")
    }
}

/// The local backend. A copy is the same backend.
///
/// Nothing is made before [`Deployer::reserve`]. When the last copy is dropped, or trialnet dies, the guard tears down.
#[derive(Clone)]
pub struct Local {
    shared: Arc<Shared>,
}

struct Shared {
    options: LocalOptions,
    records: mpsc::UnboundedSender<Record>,
    guard: OnceCell<Client>,
    addresses: OnceLock<Addresses>,
    nodes: Mutex<BTreeMap<String, View>>,
    /// Whether node homes may be written; locked while they are, so that nothing is written after their removal.
    homes_open: Mutex<bool>,
}

/// What trialnet itself knows of a node.
struct View {
    spec: NodeSpec,
    components: BTreeMap<String, Generation>,
}

/// The last generation of a component.
#[derive(Clone, Copy)]
struct Generation {
    number: u32,
    pid: u32,
    /// `None`: it was gone before it could be looked at.
    process: Option<Proc>,
}

impl Local {
    /// A backend for one run; what happens to its nodes by itself goes to `records`.
    #[must_use]
    pub fn new(mut options: LocalOptions, records: mpsc::UnboundedSender<Record>) -> Self {
        // Processes start in their homes, where a relative path would mean something else.
        for path in [&mut options.exe, &mut options.run_dir] {
            if let Ok(absolute) = std::path::absolute(&*path) {
                *path = absolute;
            }
        }
        Self {
            shared: Arc::new(Shared {
                options,
                records,
                guard: OnceCell::new(),
                addresses: OnceLock::new(),
                nodes: Mutex::default(),
                homes_open: Mutex::new(true),
            }),
        }
    }

    /// Runs the guard if it does not run yet.
    async fn guard(&self) -> Result<&Client, Trouble> {
        self.shared.guard.get_or_try_init(|| Box::pin(self.start_guard())).await
    }

    async fn start_guard(&self) -> Result<Client, Trouble> {
        let LocalOptions {
            exe,
            run_dir,
            run_id,
            scenario,
            lease,
            state_dir,
            tamper,
        } = &self.shared.options;
        let failed = |error: std::io::Error| trouble("infra/guard-setup", "a guard for the nodes", error.to_string());
        check_run_id(run_id)?;
        if !*lock(&self.shared.homes_open) {
            return Err(trouble(
                "infra/guard-setup",
                "a run that is not over",
                "it was torn down already",
            ));
        }
        let state_dir = match state_dir {
            Some(dir) => registry::prepare(dir).map(|()| dir.clone()),
            None => registry::state_dir(),
        }
        .map_err(failed)?;
        let logs = self.shared.options.logs();
        std::fs::create_dir_all(&logs).map_err(failed)?;
        // What earlier runs have left may hold addresses.
        let dir = state_dir.clone();
        drop(tokio::task::spawn_blocking(move || registry::gc_in(&dir, false)).await);
        let client = Client::spawn(exe, &logs.join(GUARD_LOG), Arc::downgrade(&self.shared)).map_err(failed)?;
        let setup = Setup {
            run: run_id.clone(),
            scenario: scenario.clone(),
            owner: std::process::id(),
            exe: exe.clone(),
            run_dir: run_dir.clone(),
            homes: self.shared.options.homes(),
            state_dir,
            lease: *lease,
            tamper: *tamper,
        };
        client.ask(Ask::Setup(setup), PROMPT).await?;
        Ok(client)
    }

    async fn do_reserve(&self, wanted: &[Wanted], links: &[LinkId]) -> Result<Addresses, Trouble> {
        let guard = self.guard().await?;
        let homes = self.shared.options.homes();
        let addresses = address::choose(guard, &homes, wanted, links).await?;
        let mut defs = Vec::with_capacity(links.len());
        for link in links {
            let listen = addresses.links[link];
            let target = address::of_port(&addresses, &link.to, &link.port)?;
            defs.push(LinkDef {
                link: link.clone(),
                listen,
                target,
                source: (addresses.nodes.get(&link.from)).and_then(|from| address::link_source(from.ip)),
            });
        }
        guard.ask(Ask::Link(defs), PROMPT).await?;
        // Called once; a second call would find the first one's links still open and fail before this.
        drop(self.shared.addresses.set(addresses.clone()));
        Ok(addresses)
    }

    async fn do_apply(&self, specs: &[NodeSpec]) -> Result<(), Trouble> {
        let guard = self.guard().await?;
        let programs = home::programs(specs, &self.shared.options.exe)?;
        let (shared, own) = (self.shared.clone(), specs.to_vec());
        blocking(move || own.iter().try_for_each(|spec| shared.write_home(spec))).await?;
        let defs = specs.iter().map(|spec| self.shared.define(spec, &programs)).collect();
        guard.ask(Ask::Define(defs), PROMPT).await?;
        {
            let mut nodes = lock(&self.shared.nodes);
            for spec in specs {
                let components = nodes.remove(&spec.name).map(|view| view.components).unwrap_or_default();
                nodes.insert(
                    spec.name.clone(),
                    View {
                        spec: spec.clone(),
                        components,
                    },
                );
            }
        }
        let started = specs
            .iter()
            .filter(|spec| spec.started)
            .map(|spec| spec.name.clone())
            .collect();
        guard.ask(Ask::Start(started), START_LIMIT).await?;
        Ok(())
    }

    async fn do_start(&self, node: &str) -> Result<(), Trouble> {
        let spec = self.shared.view(node, |view| {
            let mut spec = view.spec.clone();
            // What runs keeps its files: its socket would go with them.
            let alive = |name: &str| {
                view.components
                    .get(name)
                    .and_then(|last| last.process)
                    .is_some_and(Proc::alive)
            };
            spec.components.retain(|component| !alive(&component.name));
            spec
        })?;
        let shared = self.shared.clone();
        blocking(move || shared.write_home(&spec)).await?;
        self.order(Ask::Start(vec![node.to_owned()]), PROMPT).await
    }

    async fn do_replace(&self, spec: &NodeSpec) -> Result<(), Trouble> {
        let guard = self.guard().await?;
        let programs = home::programs(std::slice::from_ref(spec), &self.shared.options.exe)?;
        let (shared, own) = (self.shared.clone(), spec.clone());
        blocking(move || shared.write_home(&own)).await?;
        // The guard refuses this of a node that runs.
        guard
            .ask(Ask::Define(vec![self.shared.define(spec, &programs)]), PROMPT)
            .await?;
        if let Some(view) = lock(&self.shared.nodes).get_mut(&spec.name) {
            view.spec = spec.clone();
        }
        self.order(Ask::Start(vec![spec.name.clone()]), PROMPT).await
    }

    async fn do_wipe(&self, node: &str) -> Result<(), Trouble> {
        let (spec, up) = self.shared.view(node, |view| {
            let alive = |generation: &Generation| generation.process.is_some_and(Proc::alive);
            (view.spec.clone(), view.components.values().any(alive))
        })?;
        if up {
            let expected = "a node that is down before its data is removed";
            return Err(node_trouble("infra/node-runs", node, expected, "it runs"));
        }
        let shared = self.shared.clone();
        blocking(move || shared.empty_home(&spec)).await
    }

    /// Read here, while the guard is who damages them.
    async fn do_digests(&self, node: &str, pattern: &str) -> Result<Vec<Digest>, Trouble> {
        let first = self.shared.view(node, |view| view.spec.volumes.first().cloned())?;
        let Some(first) = first else { return Ok(Vec::new()) };
        let root = self.shared.options.homes().join(node).join(first);
        let (node, pattern) = (node.to_owned(), pattern.to_owned());
        blocking(move || damage::digests(&node, &root, &pattern)).await
    }

    async fn do_run_job(&self, job: &Job) -> Result<JobOutput, Trouble> {
        let Job {
            name,
            program,
            args,
            env,
            user: _,
            limit,
            node,
            volumes,
        } = job;
        let guard = self.guard().await?;
        let LocalOptions { exe, run_id, .. } = &self.shared.options;
        let mut home = self.shared.options.homes();
        if let Some(node) = node {
            home.push(node);
            let (shared, home, node, volumes) = (self.shared.clone(), home.clone(), node.clone(), volumes.clone());
            blocking(move || shared.make_home(&home, &node, &volumes)).await?;
        }
        let stdout = self.shared.options.logs().join(format!("job.{}.out", file_name(name)));
        let stderr = stdout.with_extension("err");
        let def = JobDef {
            name: name.clone(),
            program: home::program(program, exe)?,
            args: args.clone(),
            env: home::environment(run_id, node.as_deref(), &home, env),
            home,
            limit: *limit,
            stdout: stdout.clone(),
            stderr: stderr.clone(),
        };
        let reply = guard.ask(Ask::Job(def), limit.duration() + PROMPT).await?;
        let words = || home::last_lines(&stderr);
        match reply {
            Reply::Job { late: true, .. } => Err(trouble(
                "infra/job-timeout",
                format!("the job {name} done within {limit}"),
                words(),
            )),
            Reply::Job { code: Some(0), .. } => {
                let bytes = blocking(move || {
                    std::fs::read(&stdout)
                        .map_err(|error| trouble("infra/run-folder", "the output of a job", error.to_string()))
                });
                Ok(JobOutput { stdout: bytes.await? })
            }
            Reply::Job { code, .. } => {
                let how = code.map_or_else(|| "a signal ended it".to_owned(), |code| format!("exit code {code}"));
                Err(trouble(
                    "infra/job-failed",
                    format!("the job {name} done"),
                    format!("{how}: {}", words()),
                ))
            }
            other => Err(client::nonsense(&other)),
        }
    }

    /// Asks the guard for something that has no answer but "done".
    async fn order(&self, ask: Ask, limit: Duration) -> Result<(), Trouble> {
        self.guard().await?.ask(ask, limit).await.map(drop)
    }

    async fn do_destroy(&self, Teardown { grace, keep_homes }: Teardown) -> Vec<String> {
        *lock(&self.shared.homes_open) = false;
        let Some(guard) = self.shared.guard.get() else {
            return Vec::new();
        };
        let mut left = guard
            .teardown(grace, keep_homes, grace.duration() + TEARDOWN_SLACK)
            .await
            .unwrap_or_default();
        // Whatever the guard said, or could not say.
        let shared = self.shared.clone();
        match tokio::task::spawn_blocking(move || shared.sweep(keep_homes)).await {
            Ok(found) => left.extend(
                found
                    .into_iter()
                    .filter(|found| !left.contains(found))
                    .collect::<Vec<_>>(),
            ),
            Err(error) => left.push(format!("looking for leftovers failed: {error}")),
        }
        left
    }
}

impl Shared {
    /// Writes the files of a node.
    fn write_home(&self, spec: &NodeSpec) -> Result<(), Trouble> {
        let open = lock(&self.homes_open);
        if !*open {
            return Err(node_trouble(
                "infra/torn-down",
                &spec.name,
                "a run that is not over",
                "it was torn down already",
            ));
        }
        home::write(&self.options.homes().join(&spec.name), spec)
    }

    /// Makes the home of a node that is not applied yet, for a job.
    fn make_home(&self, home: &Path, node: &str, volumes: &[String]) -> Result<(), Trouble> {
        let open = lock(&self.homes_open);
        if !*open {
            let expected = "a run that is not over";
            return Err(node_trouble(
                "infra/torn-down",
                node,
                expected,
                "it was torn down already",
            ));
        }
        home::volumes(home, node, volumes)
    }

    /// Removes what is in the volumes of a node.
    fn empty_home(&self, spec: &NodeSpec) -> Result<(), Trouble> {
        let _open = lock(&self.homes_open);
        home::empty(&self.options.homes().join(&spec.name), spec)
    }

    /// A node as the guard needs it. `programs` holds every program of the specs.
    fn define(&self, spec: &NodeSpec, programs: &home::Programs) -> NodeDef {
        let home = self.options.homes().join(&spec.name);
        let components = spec
            .components
            .iter()
            .map(|component| ComponentDef {
                name: component.name.clone(),
                version: component.version.clone(),
                program: programs.path(&component.program, &self.options.exe),
                args: component.args.clone(),
                env: home::environment(&self.options.run_id, Some(&spec.name), &home, &component.env),
                log: self.log(&spec.name, &component.name),
            })
            .collect();
        NodeDef {
            name: spec.name.clone(),
            data: spec.volumes.first().map(|volume| home.join(volume)),
            home,
            components,
        }
    }

    fn log(&self, node: &str, component: &str) -> PathBuf {
        self.options.logs().join(format!("{node}.{component}.log"))
    }

    fn view<T>(&self, node: &str, read: impl FnOnce(&View) -> T) -> Result<T, Trouble> {
        lock(&self.nodes).get(node).map(read).ok_or_else(|| {
            node_trouble(
                "infra/io",
                node,
                "a node that was applied",
                "there is none of this name",
            )
        })
    }

    /// The guard saw something happen to a node.
    fn happened(&self, node: String, event: NodeEvent) {
        // Told before anybody can see it and tell what follows from it.
        self.record(Record::Node {
            node: node.clone(),
            event: event.clone(),
        });
        if let NodeEvent::Started {
            component,
            pid,
            generation,
            version: _,
        } = &event
            && let Some(view) = lock(&self.nodes).get_mut(&node)
        {
            let generation = Generation {
                number: *generation,
                pid: *pid,
                process: Proc::now(*pid),
            };
            view.components.insert(component.clone(), generation);
        }
    }

    fn record(&self, record: Record) {
        // Nobody listens any more: the run is over.
        drop(self.records.send(record));
    }

    /// The guard is gone without having been asked. The kernel has ended the nodes with it; what is left is removed here.
    fn guard_died(&self, seen: String) {
        *lock(&self.homes_open) = false;
        let left = self.sweep(false);
        let left = if left.is_empty() {
            "nothing is left of the nodes".to_owned()
        } else {
            left.join("; ")
        };
        self.record(Record::from(trouble(
            "infra/guard-died",
            "a guard that lives as long as the run",
            format!("{seen}; {left}"),
        )));
    }

    /// Removes what is left of the run. Returns what could not be removed, in words.
    fn sweep(&self, keep_homes: bool) -> Vec<String> {
        let LocalOptions { run_id, state_dir, .. } = &self.options;
        // Where the process table does not show whose a process is, the ones known from the start are.
        for view in lock(&self.nodes).values() {
            for process in view
                .components
                .values()
                .filter_map(|generation| generation.process)
                .filter(|process| process.alive())
            {
                table::signal_group(process.pid, nix::sys::signal::Signal::SIGKILL);
            }
        }
        let mut left: Vec<String> = table::end_run(run_id, KILL_LIMIT)
            .into_iter()
            .map(|pid| format!("process {pid} did not end"))
            .collect();
        let homes = self.options.homes();
        if !keep_homes && let Err(error) = registry::remove_homes(&homes, run_id) {
            left.push(format!("{} was not removed: {error}", homes.display()));
        }
        // What a guard writes there is a panic; mostly there is none.
        let guard_log = self.options.logs().join(GUARD_LOG);
        if guard_log.metadata().is_ok_and(|file| file.len() == 0) {
            drop(std::fs::remove_file(guard_log));
        }
        if left.is_empty()
            && let Some(dir) = state_dir.clone().or_else(|| registry::state_dir().ok())
        {
            registry::forget(&dir, run_id);
        }
        left
    }
}

impl Deployer for Local {
    fn capabilities(&self) -> &Capabilities {
        capabilities()
    }

    fn reserve<'a>(&'a self, wanted: &'a [Wanted], links: &'a [LinkId]) -> BoxFuture<'a, Result<Addresses, Trouble>> {
        self.do_reserve(wanted, links).boxed()
    }

    fn run_job<'a>(&'a self, job: &'a Job) -> BoxFuture<'a, Result<JobOutput, Trouble>> {
        self.do_run_job(job).boxed()
    }

    fn provide<'a>(&'a self, later: &'a [NodeSpec]) -> BoxFuture<'a, Result<(), Trouble>> {
        async { home::programs(later, &self.shared.options.exe).map(drop) }.boxed()
    }

    fn apply<'a>(&'a self, specs: &'a [NodeSpec]) -> BoxFuture<'a, Result<(), Trouble>> {
        self.do_apply(specs).boxed()
    }

    fn ops(&self) -> Arc<dyn NodeOps> {
        Arc::new(self.clone())
    }

    fn destroy(&self, how: Teardown) -> BoxFuture<'_, Vec<String>> {
        self.do_destroy(how).boxed()
    }
}

impl NodeOps for Local {
    fn kill<'a>(&'a self, node: &'a str, component: Option<&'a str>) -> BoxFuture<'a, Result<(), Trouble>> {
        self.order(Ask::Kill(node.to_owned(), component.map(str::to_owned)), PROMPT)
            .boxed()
    }

    fn crash<'a>(&'a self, node: &'a str, component: Option<&'a str>) -> BoxFuture<'a, Result<(), Trouble>> {
        // Nobody but trialnet starts a process of this machine again.
        self.kill(node, component)
    }

    fn remove<'a>(&'a self, node: &'a str, _how: Removal) -> BoxFuture<'a, Result<(), Trouble>> {
        async move {
            Err(node_trouble(
                "infra/not-offered",
                node,
                "a pod",
                "this backend does not offer it",
            ))
        }
        .boxed()
    }

    fn wipe<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<(), Trouble>> {
        self.do_wipe(node).boxed()
    }

    fn corrupt<'a>(&'a self, node: &'a str, damages: &'a [Damage]) -> BoxFuture<'a, Result<(), Trouble>> {
        self.order(Ask::Corrupt(node.to_owned(), damages.to_vec()), PROMPT)
            .boxed()
    }

    fn digests<'a>(&'a self, node: &'a str, pattern: &'a str) -> BoxFuture<'a, Result<Vec<Digest>, Trouble>> {
        self.do_digests(node, pattern).boxed()
    }

    fn stop<'a>(&'a self, node: &'a str, grace: Ms) -> BoxFuture<'a, Result<(), Trouble>> {
        self.order(Ask::Stop(node.to_owned(), grace), grace.duration() + PROMPT)
            .boxed()
    }

    fn start<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<(), Trouble>> {
        self.do_start(node).boxed()
    }

    fn replace<'a>(&'a self, spec: &'a NodeSpec) -> BoxFuture<'a, Result<(), Trouble>> {
        self.do_replace(spec).boxed()
    }

    fn pause<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<(), Trouble>> {
        self.order(Ask::Pause(node.to_owned()), PROMPT).boxed()
    }

    fn resume<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<(), Trouble>> {
        self.order(Ask::Resume(node.to_owned()), PROMPT).boxed()
    }

    fn shape<'a>(&'a self, shapes: &'a [LinkShape]) -> BoxFuture<'a, Result<(), Trouble>> {
        self.order(Ask::Shape(shapes.to_vec()), PROMPT).boxed()
    }

    fn state<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<NodeState, Trouble>> {
        let state = self.shared.view(node, |view| NodeState {
            components: view
                .spec
                .components
                .iter()
                .map(|component| {
                    let last = view.components.get(&component.name);
                    ComponentState {
                        name: component.name.clone(),
                        pid: last.map(|last| last.pid),
                        generation: last.map_or(0, |last| last.number),
                        run: last.and_then(|last| last.process).map_or(RunState::Gone, Proc::state),
                        place: None,
                    }
                })
                .collect(),
        });
        std::future::ready(state).boxed()
    }

    fn probe_links<'a>(
        &'a self,
        links: &'a [LinkId],
        look: LinkLook,
    ) -> BoxFuture<'a, Result<Vec<LinkEvidence>, Trouble>> {
        async move {
            let none = Addresses::default();
            probe::links(self.shared.addresses.get().unwrap_or(&none), links, look).await
        }
        .boxed()
    }

    fn endpoint(&self, node: &str, _component: &str, port: &str) -> Result<Endpoint, Trouble> {
        let none = Addresses::default();
        address::of_port(self.shared.addresses.get().unwrap_or(&none), node, port).map(Endpoint::from)
    }

    fn log(&self, node: &str, component: &str) -> PathBuf {
        self.shared.log(node, component)
    }

    fn renew(&self) -> BoxFuture<'_, Result<(), Trouble>> {
        self.order(Ask::Renew, PROMPT).boxed()
    }
}

/// The id becomes a file name and part of an environment variable.
fn check_run_id(id: &str) -> Result<(), Trouble> {
    let fine = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if id.is_empty() || id.starts_with('.') || !id.chars().all(fine) {
        return Err(trouble(
            "infra/guard-setup",
            "a run id of letters, digits, -, _ and .",
            format!("{id:?}"),
        ));
    }
    Ok(())
}

/// A name as part of a file name.
fn file_name(name: &str) -> String {
    name.chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || "-_".contains(c) {
                c
            } else {
                '_'
            }
        })
        .collect()
}

/// Runs what reads and writes files where it holds nothing up.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Trouble> + Send + 'static) -> Result<T, Trouble> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(trouble("internal/task", "work on files done", error.to_string())))
}

/// Whether a path can be run by this user.
fn executable(path: &Path) -> bool {
    path.is_file() && nix::unistd::access(path, nix::unistd::AccessFlags::X_OK).is_ok()
}
