//! What a run does, in order: prepare, start, the steps, settle, tear down.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use futures::future::try_join_all;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::faults::{Faults, Keeper, Request, all_links};
use super::probe::{Prober, until};
use super::repeat::Series;
use super::upgrade::{Later, alarms, later};
use super::{Cancel, Desk, Keep, Made, Message, internal};
use crate::backend::{
    Component, Deployer, Dial, Endpoint, Job, JobOutput, MachineStrike, NodeOps, NodeSpec, Observer, Place, Port,
    Program, Teardown, Trouble, Wanted,
};
use crate::chain::ChainAdapter;
use crate::chain::rpc::{Client, Rpc};
use crate::chain::{ForeignKeys, RPC, Rendered, validator_key};
use crate::judge::Answer;
use crate::model::verdict::{Class, Verdict};
use crate::model::{
    Action, Attach, Expect, FIND_LEADER, Fault, Ms, NodeName, ObserveFrom, Plan, REFUSED, Removal, Step, Targets, What,
    When, Window, effects,
};
use crate::observe;
use crate::observe::line::{self, Told};
use crate::observe::pod::Settings;
use crate::record::{Clock, Phase, Record, StepState};

/// How long processes have between SIGTERM and SIGKILL at the end.
const TEARDOWN_GRACE: Ms = Ms::secs(2);
/// How long an observer may be behind when somebody asked the run to end.
const HURRY: Ms = Ms::secs(1);
/// How often leases are renewed; they run out after ten seconds.
const RENEW: Ms = Ms::secs(2);
/// How long a request of the engine's own may take.
pub(super) const RPC_LIMIT: Ms = Ms::secs(5);

/// Leads a run. Shared by the task of the steps, background steps and teardown.
pub(super) struct Lead {
    pub(super) plan: Arc<Plan>,
    pub(super) deployer: Arc<dyn Deployer>,
    pub(super) adapter: &'static dyn ChainAdapter,
    pub(super) desk: Desk,
    pub(super) clock: Clock,
    pub(super) cancel: Cancel,
    /// Cancelled by the dispatcher when going on makes no sense.
    pub(super) abort: CancellationToken,
    /// Where the observer writes.
    pub(super) samples: mpsc::Sender<Record>,
    /// Where the line to an observer beside the nodes tells what it hears.
    pub(super) line: mpsc::Sender<Told>,
    pub(super) keep: Keep,
    /// Leave the network when it is ready.
    pub(super) stay: bool,
    /// What its files were made from, once they are.
    pub(super) made: OnceLock<Made>,
    /// What nodes become by upgrades, once it is made.
    pub(super) later: OnceLock<Later>,
}

/// A network that has been started.
pub(super) struct Network {
    pub(super) plan: Arc<Plan>,
    pub(super) desk: Desk,
    pub(super) rpc: BTreeMap<NodeName, Rpc>,
    /// The consensus keys that do not come from the seed.
    pub(super) keys: ForeignKeys,
    pub(super) ops: Arc<dyn NodeOps>,
    pub(super) faults: Faults,
    /// Cancelled when the network is about to be removed.
    pub(super) over: CancellationToken,
    /// The step that the steps have come to.
    pub(super) current: AtomicUsize,
    /// What steps repeat, by the id of the first fault.
    pub(super) series: Mutex<BTreeMap<String, Series>>,
    /// What nodes become by upgrades.
    pub(super) later: Later,
    /// The version that each node runs.
    pub(super) versions: Mutex<BTreeMap<NodeName, String>>,
    /// The version that each node of an upgrade, by its id, had before.
    pub(super) before: Mutex<BTreeMap<(String, NodeName), String>>,
}

/// Why the steps end before their end. What it is about has been recorded.
#[derive(Debug)]
enum Stop {
    Recorded,
    Trouble(Trouble),
}

impl From<Trouble> for Stop {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

/// Why a step did not succeed.
pub(super) enum Failure {
    /// The judge has a finding.
    Judged,
    /// It could not be done.
    Step {
        code: &'static str,
        class: Class,
        expected: String,
        seen: String,
    },
}

impl Lead {
    /// Runs everything, and tears down whatever happens; but for a network that is ready and was asked to stay.
    pub(super) async fn run(self) -> Option<Made> {
        let lead = Arc::new(self);
        let network = Arc::new(OnceLock::new());
        // A task of its own, so that a panic in it is an error here and the network is torn down like after any other.
        let mut body = tokio::spawn(Box::pin(Arc::clone(&lead).body(Arc::clone(&network))));
        let ended = tokio::select! {
            biased;
            () = lead.cancel.stop.cancelled() => None,
            () = lead.abort.cancelled() => Some(Ok(Err(Stop::Recorded))),
            ended = &mut body => Some(ended),
        };
        body.abort();
        match ended {
            None => lead.desk.record(Record::Interrupted {
                signal: lead.cancel.reason(),
            }),
            Some(Ok(Err(Stop::Trouble(trouble)))) => lead.desk.record(trouble.into()),
            Some(Err(panic)) => lead.desk.record(internal("trialnet carries the steps out", &panic)),
            Some(Ok(Ok(()))) if lead.stay => {
                if let Some(network) = network.get() {
                    network.over.cancel();
                }
                lead.desk.record(Record::End);
                return lead.made.get().cloned();
            }
            Some(Ok(_)) => {}
        }
        Box::pin(lead.tear_down(network.get())).await;
        None
    }

    async fn body(self: Arc<Self>, place: Arc<OnceLock<Arc<Network>>>) -> Result<(), Stop> {
        let limits = self.plan.limits.clone();
        self.phase(Phase::Preparing);
        // Before the clock of the start: a cluster that is made for the run may take minutes, and whoever makes it has limits of its own.
        self.deployer.place().await?;
        let rendered = match tokio::time::timeout(limits.start.duration(), self.prepare()).await {
            Ok(rendered) => rendered?,
            Err(_) => return Err(start_timeout(limits.start, "it was not even prepared".to_owned()).into()),
        };
        self.phase(Phase::Starting);
        let started = self.clock.now();
        let starting = async {
            // A network that stays is observed until it is ready; nobody would fetch anything later.
            let beside = observer(&self.plan, self.adapter, &rendered).filter(|_| !self.stay);
            let dial = beside.map(|beside| self.deployer.with_observer(&beside)).transpose()?;
            self.deployer.apply(&rendered.nodes).await?;
            let network = self.join(&rendered, dial)?;
            drop(place.set(Arc::clone(&network)));
            Ok::<_, Trouble>(network)
        };
        let network = match tokio::time::timeout(limits.start.duration(), starting).await {
            Ok(network) => network?,
            Err(_) => return Err(start_timeout(limits.start, "not every process could be started".to_owned()).into()),
        };
        let left = Ms(limits.start.0.saturating_sub(self.clock.now().since(started).0));
        if self.desk.ask_within(left, Message::Ready).await.is_none() {
            let missing = self.desk.ask(Message::Missing).await;
            return Err(start_timeout(limits.start, missing.ready).into());
        }
        self.desk.record(Record::Ready);
        if self.stay {
            return Ok(());
        }
        self.phase(Phase::Running);
        // What ends the steps early ends the rehearsal with them; otherwise each is carried out to its end.
        let beside = futures::future::try_join(Box::pin(network.steps()), async {
            Box::pin(network.rehearse()).await;
            Ok(())
        });
        match tokio::time::timeout(limits.run.duration(), beside).await {
            Ok(done) => drop(done?),
            Err(_) => {
                let failed = StepState::Failed {
                    code: "run/limit".to_owned(),
                    class: Class::ExpectationFailed,
                    expected: format!("the last step ends within limits.run = {}", limits.run),
                    seen: "it did not; raise limits.run or shorten the steps".to_owned(),
                };
                let step = network.current.load(Ordering::Relaxed);
                self.desk.record(Record::Step { step, state: failed });
                return Err(Stop::Recorded);
            }
        }
        self.phase(Phase::Settling);
        if let Err(seen) = network.faults.ask(Request::EndAll).await.and_then(|ended| ended) {
            tracing::warn!("{seen}");
        }
        // What is missing after the limit is the judge's to say.
        let _settled = self.desk.ask_within(limits.settle, Message::Settled).await;
        Ok(())
    }

    /// Addresses, files and jobs; nothing runs yet.
    async fn prepare(&self) -> Result<Rendered, Trouble> {
        if let Some(attach) = &self.plan.network.attach {
            return self.found(attach).await;
        }
        let wanted = wanted(&self.plan, self.adapter);
        let addresses = self.deployer.reserve(&wanted, &all_links(&self.plan)).await?;
        let refused = |error: crate::chain::ChainError| Trouble {
            code: "infra/render".to_owned(),
            node: None,
            expected: "the network can be rendered".to_owned(),
            seen: error.to_string(),
        };
        let jobs = self.adapter.prepare(&self.plan, &addresses).map_err(refused)?;
        let outputs = self.jobs(&jobs).await?;
        // Prepared once.
        drop(self.made.set(Made::new(&addresses, &outputs)));
        let render = |plan: &Plan| self.adapter.render(plan, &addresses, &outputs);
        let rendered = render(&self.plan).map_err(refused)?;
        let later = later(&self.plan, &rendered, render).map_err(refused)?;
        // What cannot be had is missed before anything runs.
        self.deployer
            .provide(&later.values().cloned().collect::<Vec<_>>())
            .await?;
        drop(self.later.set(later));
        Ok(rendered)
    }

    /// Runs jobs: those of one place in their order, the places side by side. What they printed, by name.
    async fn jobs(&self, jobs: &[Job]) -> Result<BTreeMap<String, JobOutput>, Trouble> {
        let mut places: BTreeMap<Option<&str>, Vec<&Job>> = BTreeMap::new();
        for job in jobs {
            places.entry(job.node.as_deref()).or_default().push(job);
        }
        let one_after_the_other = |jobs: Vec<&'_ Job>| {
            let names: Vec<Job> = jobs.into_iter().cloned().collect();
            async move {
                let mut outputs = Vec::new();
                for job in names {
                    outputs.push((job.name.clone(), self.deployer.run_job(&job).await?));
                }
                Ok::<_, Trouble>(outputs)
            }
        };
        let places = try_join_all(places.into_values().map(one_after_the_other)).await?;
        Ok(places.into_iter().flatten().collect())
    }

    /// Nodes that somebody else made: of them only the RPC is known.
    async fn found(&self, attach: &Attach) -> Result<Rendered, Trouble> {
        let ports: Vec<_> = self
            .adapter
            .ports()
            .into_iter()
            .filter(|port| port.name == RPC)
            .collect();
        let ports: Vec<_> = ports
            .into_iter()
            .map(|port| Port {
                number: attach.rpc_port.unwrap_or(port.number),
                ..port
            })
            .collect();
        let nodes = &self.plan.network.nodes;
        let wanted: Vec<_> = (nodes.iter())
            .map(|node| Wanted {
                node: node.name.clone(),
                ports: ports.clone(),
                volumes: Vec::new(),
            })
            .collect();
        self.deployer.reserve(&wanted, &[]).await?;
        let spec = |node: &crate::model::Node| NodeSpec {
            name: node.name.clone(),
            place: Place {
                context: self.plan.kubernetes.context.clone(),
                namespace: Some(attach.namespace.clone()),
            },
            components: vec![Component {
                name: "found".to_owned(),
                program: Program::Found,
                version: node.version.clone(),
                args: Vec::new(),
                env: BTreeMap::new(),
                ports: vec![RPC.to_owned()],
                files: Vec::new(),
                user: None,
                resources: crate::model::Resources::default(),
            }],
            volumes: Vec::new(),
            started: true,
        };
        Ok(Rendered {
            nodes: nodes.iter().map(spec).collect(),
            ..Rendered::default()
        })
    }

    /// Starts to observe, to keep leases and faults.
    fn join(&self, rendered: &Rendered, dial: Option<Dial>) -> Result<Arc<Network>, Trouble> {
        let specs = &rendered.nodes;
        let keys = rendered.keys.clone();
        let ops = self.deployer.ops();
        let over = CancellationToken::new();
        let client = http()?;
        let mut rpc = BTreeMap::new();
        let mut targets = Vec::new();
        for spec in specs {
            let endpoint = rpc_endpoint(ops.as_ref(), spec)?;
            let dialect = self.adapter.dialect();
            rpc.insert(spec.name.clone(), client.node(endpoint.clone(), dialect, RPC_LIMIT));
            let log = |component: &Component| (component.name.clone(), ops.log(&spec.name, &component.name));
            let logs = spec.components.iter().map(log).collect();
            targets.push(observe::Target {
                node: spec.name.clone(),
                endpoint,
                dialect,
                logs,
            });
        }
        let alarms = alarms(&self.plan, self.adapter);
        let config = observing(&self.plan, &keys, targets, alarms);
        let samples = self.samples.clone();
        if let Some(dial) = dial {
            drop(line::follow(dial, self.clock, self.line.clone(), over.clone()));
            drop(observe::follow_logs(&config, self.clock, samples, over.clone()));
        } else {
            drop(observe::observe(config, self.clock, samples, over.clone()));
        }
        tokio::spawn(renew(Arc::clone(&ops), self.desk.clone(), over.clone()));
        let prober = Prober {
            ops: Arc::clone(&ops),
            rpc: rpc.clone(),
            knocks: rendered.knocks.clone(),
        };
        let faults = Keeper::spawn(Arc::clone(&self.plan), prober, self.desk.clone());
        let (plan, desk) = (Arc::clone(&self.plan), self.desk.clone());
        Ok(Arc::new(Network {
            plan,
            desk,
            rpc,
            keys,
            ops,
            faults,
            over,
            current: AtomicUsize::new(0),
            series: Mutex::default(),
            later: self.later.get().cloned().unwrap_or_default(),
            versions: Mutex::new(versions(&self.plan)),
            before: Mutex::default(),
        }))
    }

    /// Puts the world back. Never changes the verdict.
    async fn tear_down(&self, network: Option<&Arc<Network>>) {
        self.phase(Phase::TearingDown);
        // An observer beside the nodes goes with them: what it saw until now has to be here before.
        tokio::select! {
            () = self.desk.ask(Message::Judged) => {}
            () = self.hurry() => self.desk.tell(Message::LetGo),
        }
        let keep_homes = match self.keep {
            Keep::Never => false,
            Keep::Always => true,
            Keep::OnFailure => !matches!(
                self.desk.ask(Message::Verdict).await,
                Verdict::Passed | Verdict::Interrupted
            ),
        };
        if let Some(network) = network {
            network.over.cancel();
            let release = network.faults.ask(Request::Release);
            drop(tokio::time::timeout(TEARDOWN_GRACE.duration(), release).await);
        }
        let at_once = Teardown {
            grace: Ms(0),
            keep_homes,
        };
        let leftovers = if self.cancel.kill.is_cancelled() {
            self.deployer.destroy(at_once).await
        } else {
            tokio::select! {
                leftovers = self.deployer.destroy(Teardown { grace: TEARDOWN_GRACE, keep_homes }) => leftovers,
                () = self.cancel.kill.cancelled() => self.deployer.destroy(at_once).await,
            }
        };
        // Heard before the end, which comes by another way.
        self.desk.ask(|heard| Message::Leftovers(leftovers, heard)).await;
        self.desk.record(Record::End);
    }

    /// Ends shortly after somebody asked the run to end.
    async fn hurry(&self) {
        self.cancel.stop.cancelled().await;
        drop(tokio::time::timeout(HURRY.duration(), self.cancel.kill.cancelled()).await);
    }

    fn phase(&self, phase: Phase) {
        self.desk.record(Record::Phase(phase));
    }
}

/// The HTTP client of all nodes.
pub(super) fn http() -> Result<Client, Trouble> {
    Client::new().map_err(|error| Trouble {
        code: "infra/rpc".to_owned(),
        node: None,
        expected: "an HTTP client".to_owned(),
        seen: error.to_string(),
    })
}

/// Where the RPC of a node is reached.
pub(super) fn rpc_endpoint(ops: &dyn NodeOps, spec: &NodeSpec) -> Result<Endpoint, Trouble> {
    let serves = |component: &&Component| component.ports.iter().any(|port| port == RPC);
    let component = spec.components.iter().find(serves).ok_or_else(|| Trouble {
        code: "infra/render".to_owned(),
        node: Some(spec.name.clone()),
        expected: "a component of the node serves RPC".to_owned(),
        seen: "none does".to_owned(),
    })?;
    ops.endpoint(&spec.name, &component.name, RPC)
}

/// What each node needs reserved.
pub(crate) fn wanted(plan: &Plan, adapter: &dyn ChainAdapter) -> Vec<Wanted> {
    let nodes = plan.network.nodes.iter();
    let wanted = nodes.map(|node| Wanted {
        node: node.name.clone(),
        ports: adapter.ports(),
        volumes: adapter.volumes(&plan.network),
    });
    wanted.collect()
}

fn start_timeout(limit: Ms, seen: String) -> Trouble {
    Trouble {
        code: "infra/start-timeout".to_owned(),
        node: None,
        expected: format!("the network is ready within limits.start = {limit}"),
        seen,
    }
}

/// Renews the leases until the network is over.
async fn renew(ops: Arc<dyn NodeOps>, desk: Desk, over: CancellationToken) {
    let renewing = async {
        loop {
            if let Err(trouble) = ops.renew().await {
                desk.record(trouble.into());
                return;
            }
            tokio::time::sleep(RENEW.duration()).await;
        }
    };
    let _ = over.run_until_cancelled(renewing).await;
}

impl Network {
    /// Carries the steps out, strictly in their order.
    async fn steps(self: &Arc<Self>) -> Result<(), Stop> {
        let mut background: BTreeMap<String, JoinHandle<Result<(), Stop>>> = BTreeMap::new();
        // Whatever ends the steps early ends these too.
        let mut series = JoinSet::new();
        for step in &self.plan.steps {
            self.current.store(step.index, Ordering::Relaxed);
            if let Action::Join { id, within } = &step.action {
                self.state(step, StepState::Began);
                let joined = background.remove(id);
                self.join_step(step, id, *within, joined).await?;
                continue;
            }
            if step.background {
                let (network, step) = (Arc::clone(self), step.clone());
                let key = step.id.clone().unwrap_or_else(|| format!("step-{}", step.index + 1));
                let work = async move { network.step(&step).await };
                background.insert(key, tokio::spawn(Box::pin(work)));
            } else {
                Box::pin(self.step(step)).await?;
                self.repeat(step, &mut series);
            }
        }
        for (id, handle) in background {
            finished(&id, handle.await)?;
        }
        // What the file says is done, also where no step waits for it.
        while series.join_next().await.is_some() {}
        Ok(())
    }

    async fn join_step(
        &self,
        step: &Step,
        id: &str,
        within: Ms,
        joined: Option<JoinHandle<Result<(), Stop>>>,
    ) -> Result<(), Stop> {
        let Some(handle) = joined else {
            self.state(step, StepState::Ended);
            return Ok(());
        };
        let abort = handle.abort_handle();
        if let Ok(ended) = tokio::time::timeout(within.duration(), handle).await {
            self.state(step, StepState::Ended);
            return finished(id, ended);
        }
        abort.abort();
        let expected = format!("{id} ends within {within}");
        let failure = Failure::Step {
            code: "run/join",
            class: Class::ExpectationFailed,
            expected,
            seen: "it runs on".to_owned(),
        };
        self.close(step, Err(failure))
    }

    /// One step from its `when` to its end.
    async fn step(&self, step: &Step) -> Result<(), Stop> {
        if let Some(when) = &step.when {
            self.state(step, StepState::Waiting);
            if let Err(failure) = self.when(when).await {
                return self.close(step, Err(failure));
            }
        }
        self.state(step, StepState::Began);
        let done = Box::pin(self.act(step)).await;
        self.close(step, done)?;
        // What became of a load is the judge's to say, once it is over.
        if matches!(step.action, Action::Load(_)) && !step.go_on {
            let answer = self.desk.ask(|reply| Message::Answer(step.index, reply)).await;
            if matches!(answer, Answer::Failed(_)) {
                return Err(Stop::Recorded);
            }
        }
        Ok(())
    }

    /// Records the end of a step; says whether the run ends with it.
    fn close(&self, step: &Step, done: Result<(), Failure>) -> Result<(), Stop> {
        match done {
            Ok(()) => {
                self.state(step, StepState::Ended);
                return Ok(());
            }
            Err(Failure::Judged) => self.state(step, StepState::Ended),
            Err(Failure::Step {
                code,
                class,
                expected,
                seen,
            }) => {
                self.state(
                    step,
                    StepState::Failed {
                        code: code.to_owned(),
                        class,
                        expected,
                        seen,
                    },
                );
            }
        }
        if step.go_on { Ok(()) } else { Err(Stop::Recorded) }
    }

    fn state(&self, step: &Step, state: StepState) {
        self.desk.record(Record::Step {
            step: step.index,
            state,
        });
    }

    async fn when(&self, when: &When) -> Result<(), Failure> {
        match when {
            When::After(duration) => tokio::time::sleep(duration.duration()).await,
            When::Moved { of, nodes, within } => {
                let asked = |reply| Message::Moved(of.clone(), *nodes, reply);
                if self.desk.ask_within(*within, asked).await.is_none() {
                    return Err(Failure::Step {
                        code: "run/when",
                        class: Class::ExpectationFailed,
                        expected: format!("{nodes} nodes of {of} have passed their gates within {within}"),
                        seen: "fewer have".to_owned(),
                    });
                }
            }
            When::Height { height, within } => {
                let reached = self.desk.ask_within(*within, |reply| Message::Height(*height, reply));
                if reached.await.is_none() {
                    let missing = self.desk.ask(Message::Missing).await;
                    return Err(Failure::Step {
                        code: "run/when",
                        class: Class::LivenessFailed,
                        expected: format!("a quorum reaches height {height} within {within}"),
                        seen: format!("a quorum is at height {}", missing.quorum_height),
                    });
                }
            }
        }
        Ok(())
    }

    pub(super) async fn act(&self, step: &Step) -> Result<(), Failure> {
        match &step.action {
            Action::Fault(fault) => self.inject(fault).await,
            Action::Start { nodes } => {
                let started = self.faults.ask(|reply| Request::Start(nodes.clone(), reply)).await;
                started.and_then(|started| started).map_err(|seen| Failure::Step {
                    code: "infra/start-failed",
                    class: Class::Infrastructure,
                    expected: format!("{} started and answering", nodes.join(", ")),
                    seen,
                })
            }
            Action::Heal { faults } => self.heal(faults).await.map_err(|seen| Failure::Step {
                code: "infra/revert-failed",
                class: Class::Infrastructure,
                expected: format!("{} healed", faults.join(", ")),
                seen,
            }),
            Action::Wait(duration) => {
                tokio::time::sleep(duration.duration()).await;
                Ok(())
            }
            Action::Load(load) => {
                self.load(load).await;
                Ok(())
            }
            Action::Tx(tx) => self.tx(tx).await.map_err(|seen| Failure::Step {
                code: "expect/tx-refused",
                class: Class::ExpectationFailed,
                expected: format!("{} takes the transaction", tx.node),
                seen,
            }),
            Action::Join { .. } => Ok(()),
            Action::Evict { nodes, drain: false } => self.evict(nodes).await,
            Action::Evict { nodes, drain: true } => self.drain_refused(step, nodes).await,
            Action::Corrupt(corrupt) => self.corrupt(corrupt).await,
            Action::Upgrade(upgrade) => self.upgrade(upgrade).await,
            Action::Expect(expect) => {
                // `never` is judged at the end, and a log may be looked for from the first line on.
                if expect.window == Window::Never && !matches!(expect.what, What::Halt { .. }) {
                    return Ok(());
                }
                match self.desk.ask(|reply| Message::Answer(step.index, reply)).await {
                    Answer::Met(_) | Answer::Inconclusive(_) | Answer::Pending(_) => Ok(()),
                    Answer::Failed(_) => Err(Failure::Judged),
                }
            }
        }
    }

    /// Asks for evictions that the disruption budget has to refuse.
    async fn evict(&self, nodes: &[NodeName]) -> Result<(), Failure> {
        for node in nodes {
            let expected = format!("the disruption budget refuses to let {node} go");
            match self.ops.remove(node, Removal::Evict).await {
                Err(trouble) if trouble.code == "infra/eviction-refused" => {}
                Err(trouble) => {
                    return Err(Failure::Step {
                        code: "infra/fault-failed",
                        class: Class::Infrastructure,
                        expected,
                        seen: trouble.to_string(),
                    });
                }
                Ok(()) => {
                    return Err(Failure::Step {
                        code: "expect/not-refused",
                        class: Class::ExpectationFailed,
                        expected,
                        seen: "it was evicted".to_owned(),
                    });
                }
            }
        }
        Ok(())
    }

    /// Drains machines, one after the other, for nodes that the disruption budget has to keep there; then each takes pods again.
    async fn drain_refused(&self, step: &Step, nodes: &[NodeName]) -> Result<(), Failure> {
        let id = format!("refused-{}", step.index + 1);
        for node in nodes {
            let expected = format!("the disruption budget refuses for {REFUSED} to let {node} go from its machine");
            let drained = self
                .ops
                .strike_machines(&id, std::slice::from_ref(node), MachineStrike::Drain(REFUSED))
                .await;
            let restored = self.ops.restore_machines(&id).await;
            let (code, class, seen) = match (drained, restored) {
                (Ok(()), _) => (
                    "expect/not-refused",
                    Class::ExpectationFailed,
                    "it was evicted".to_owned(),
                ),
                (Err(trouble), _) if trouble.code != "infra/eviction-refused" => {
                    ("infra/fault-failed", Class::Infrastructure, trouble.to_string())
                }
                (Err(_), Err(trouble)) => ("infra/revert-failed", Class::Infrastructure, trouble.to_string()),
                (Err(_), Ok(())) => continue,
            };
            return Err(Failure::Step {
                code,
                class,
                expected,
                seen,
            });
        }
        Ok(())
    }

    async fn inject(&self, fault: &Fault) -> Result<(), Failure> {
        let broken = |seen| Failure::Step {
            code: "infra/fault-failed",
            class: Class::Infrastructure,
            expected: format!("the effect of {} ({}) is seen", fault.id, fault.kind.word()),
            seen,
        };
        let targets = self.targets_now(fault).await.map_err(broken)?;
        let injected = self
            .faults
            .ask(|reply| Request::Inject(fault.clone(), targets, reply))
            .await;
        injected.and_then(|injected| injected).map_err(broken)
    }

    /// Whom a fault strikes now.
    pub(super) async fn targets_now(&self, fault: &Fault) -> Result<Vec<NodeName>, String> {
        match &fault.targets {
            Targets::Nodes(nodes) => Ok(nodes.clone()),
            Targets::Leader { among } => Ok(vec![self.leader(among).await?]),
        }
    }

    /// The proposer of the moment, once it is one of these.
    async fn leader(&self, among: &[NodeName]) -> Result<NodeName, String> {
        let keys = validators(&self.plan, &self.keys);
        until(FIND_LEADER, || async {
            let mut seen = "no node says who proposes".to_owned();
            for rpc in self.rpc.values() {
                let address = match rpc.leader().await {
                    Ok(leader) => leader.address,
                    Err(error) => {
                        seen = error.to_string();
                        continue;
                    }
                };
                let leader = keys.get(&address.to_uppercase()).cloned().unwrap_or(address);
                if among.contains(&leader) {
                    return Ok(leader);
                }
                return Err(format!("{leader} proposes, which is none of {}", among.join(", ")));
            }
            Err(seen)
        })
        .await
    }
}

fn finished(id: &str, ended: Result<Result<(), Stop>, tokio::task::JoinError>) -> Result<(), Stop> {
    ended.unwrap_or_else(|error| {
        Err(Stop::Trouble(Trouble {
            code: "infra/internal".to_owned(),
            node: None,
            expected: format!("the background step {id} runs to its end"),
            seen: format!("{error}; this is a bug of trialnet"),
        }))
    })
}

/// The observer that runs beside the nodes, where the file asks for one.
pub(crate) fn observer(plan: &Plan, adapter: &dyn ChainAdapter, rendered: &Rendered) -> Option<Observer> {
    if plan.kubernetes.observe != ObserveFrom::Cluster {
        return None;
    }
    let observe::Config {
        interval,
        timeout,
        validators,
        depth,
        targets: _,
        patterns: _,
    } = observing(plan, &rendered.keys, Vec::new(), &[]);
    let settings = Settings {
        protocol: observe::pod::PROTOCOL,
        dialect: adapter.dialect(),
        interval,
        timeout,
        validators,
        depth,
    };
    let target = |spec: &NodeSpec| (spec.name.clone(), RPC.to_owned());
    Some(Observer {
        targets: rendered.nodes.iter().map(target).collect(),
        settings: serde_json::to_value(settings).expect("settings have only text keys"),
    })
}

/// How often each node is asked: a few times in a block, but never more than the machine bears.
pub(crate) fn polling(plan: &Plan) -> Ms {
    let least = if plan.network.nodes.len() > 20 { Ms(200) } else { Ms(50) };
    Ms((plan.network.block_time.0 / 3).clamp(least.0, 500))
}

/// What the observer looks at, and how often.
fn observing(plan: &Plan, keys: &ForeignKeys, targets: Vec<observe::Target>, alarms: &[&str]) -> observe::Config {
    let interval = polling(plan);
    let patterns = plan.steps.iter().filter_map(|step| match &step.action {
        Action::Expect(Expect {
            what: What::Log { contains },
            nodes,
            ..
        }) => {
            let all = || plan.network.nodes.iter().map(|node| node.name.clone()).collect();
            Some(observe::Pattern {
                text: contains.clone(),
                nodes: nodes.clone().unwrap_or_else(all),
            })
        }
        _ => None,
    });
    let alarms = alarms.iter().map(|text| observe::Pattern {
        text: (*text).to_owned(),
        nodes: plan.network.nodes.iter().map(|node| node.name.clone()).collect(),
    });
    let patterns = patterns.chain(alarms).collect();
    observe::Config {
        targets,
        interval,
        timeout: Ms::secs(2),
        patterns,
        validators: validators(plan, keys),
        depth: effects::depth(plan),
    }
}

/// The version that each node runs at first.
pub(super) fn versions(plan: &Plan) -> BTreeMap<NodeName, String> {
    let nodes = plan.network.nodes.iter();
    nodes.map(|node| (node.name.clone(), node.version.clone())).collect()
}

/// Node names by validator address, upper-case hex.
fn validators(plan: &Plan, keys: &ForeignKeys) -> BTreeMap<String, NodeName> {
    // Of found nodes nobody knows whose key is whose.
    if plan.network.attach.is_some() {
        return BTreeMap::new();
    }
    let named = |node: &crate::model::Node| {
        let key = validator_key(plan, keys, &node.name)?;
        Some((key.address.to_uppercase(), node.name.clone()))
    };
    plan.network.nodes.iter().filter_map(named).collect()
}
