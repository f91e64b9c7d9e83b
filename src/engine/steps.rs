//! What a run does, in order: prepare, start, the steps, settle, tear down.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::faults::{Faults, Keeper, Request, all_links};
use super::probe::{Prober, until};
use super::{Cancel, Desk, Keep, Message};
use crate::backend::{Deployer, NodeSpec, Teardown, Trouble, Wanted};
use crate::chain::ChainAdapter;
use crate::chain::rpc::{Client, Rpc};
use crate::chain::validator_key;
use crate::judge::Answer;
use crate::model::verdict::{Class, Verdict};
use crate::model::{Action, Expect, Fault, Ms, NodeName, Plan, Step, Targets, What, When, Window};
use crate::observe;
use crate::record::{Clock, Phase, Record, StepState};

/// How long processes have between SIGTERM and SIGKILL at the end.
const TEARDOWN_GRACE: Ms = Ms::secs(2);
/// How often leases are renewed; they run out after ten seconds.
const RENEW: Ms = Ms::secs(2);
/// How long a request of the engine's own may take.
const RPC_LIMIT: Ms = Ms::secs(5);
/// How long a `pick = "leader"` may wait for a proposer that qualifies.
const LEADER: Ms = Ms::secs(30);

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
    pub(super) keep: Keep,
}

/// A network that has been started.
pub(super) struct Network {
    pub(super) plan: Arc<Plan>,
    pub(super) desk: Desk,
    pub(super) rpc: BTreeMap<NodeName, Rpc>,
    pub(super) faults: Faults,
    /// Cancelled when the network is about to be removed.
    pub(super) over: CancellationToken,
    /// The step that the steps have come to.
    current: AtomicUsize,
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
enum Failure {
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
    /// Runs everything, and tears down whatever happens.
    pub(super) async fn run(self) {
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
            Some(Err(panic)) => lead.desk.record(Record::Trouble {
                code: "infra/internal".to_owned(),
                node: None,
                expected: "trialnet carries the steps out".to_owned(),
                seen: format!("{panic}; this is a bug of trialnet"),
            }),
            Some(Ok(_)) => {}
        }
        Box::pin(lead.tear_down(network.get())).await;
    }

    async fn body(self: Arc<Self>, place: Arc<OnceLock<Arc<Network>>>) -> Result<(), Stop> {
        let limits = self.plan.limits.clone();
        self.phase(Phase::Preparing);
        let specs = match tokio::time::timeout(limits.start.duration(), self.prepare()).await {
            Ok(specs) => specs?,
            Err(_) => return Err(start_timeout(limits.start, "it was not even prepared".to_owned()).into()),
        };
        self.phase(Phase::Starting);
        let started = self.clock.now();
        let starting = async {
            self.deployer.apply(&specs).await?;
            let network = self.join(&specs)?;
            drop(place.set(Arc::clone(&network)));
            Ok::<_, Trouble>(network)
        };
        let network = match tokio::time::timeout(limits.start.duration(), starting).await {
            Ok(network) => network?,
            Err(_) => return Err(start_timeout(limits.start, "not every process could be started".to_owned()).into()),
        };
        let left = Ms(limits.start.0.saturating_sub(self.clock.now().since(started).0));
        if tokio::time::timeout(left.duration(), self.desk.ask(Message::Ready))
            .await
            .is_err()
        {
            let missing = self.desk.ask(Message::Missing).await;
            return Err(start_timeout(limits.start, missing.ready).into());
        }
        self.desk.record(Record::Ready);
        self.phase(Phase::Running);
        match tokio::time::timeout(limits.run.duration(), Box::pin(network.steps())).await {
            Ok(done) => done?,
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
        drop(tokio::time::timeout(limits.settle.duration(), self.desk.ask(Message::Settled)).await);
        Ok(())
    }

    /// Addresses, files and jobs; nothing runs yet.
    async fn prepare(&self) -> Result<Vec<NodeSpec>, Trouble> {
        let wanted: Vec<_> = (self.plan.network.nodes.iter())
            .map(|node| Wanted {
                node: node.name.clone(),
                ports: self.adapter.ports(),
                volumes: self.adapter.volumes(),
            })
            .collect();
        let addresses = self.deployer.reserve(&wanted, &all_links(&self.plan)).await?;
        let rendered = self.adapter.render(&self.plan, &addresses).map_err(|error| Trouble {
            code: "infra/render".to_owned(),
            node: None,
            expected: "the network can be rendered".to_owned(),
            seen: error.to_string(),
        })?;
        for job in &rendered.jobs {
            self.deployer.run_job(job).await?;
        }
        Ok(rendered.nodes)
    }

    /// Starts to observe, to keep leases and faults.
    fn join(&self, specs: &[NodeSpec]) -> Result<Arc<Network>, Trouble> {
        let ops = self.deployer.ops();
        let over = CancellationToken::new();
        let client = Client::new().map_err(|error| Trouble {
            code: "infra/rpc".to_owned(),
            node: None,
            expected: "an HTTP client".to_owned(),
            seen: error.to_string(),
        })?;
        let mut rpc = BTreeMap::new();
        let mut targets = Vec::new();
        for spec in specs {
            let first = spec.components.first().ok_or_else(|| Trouble {
                code: "infra/render".to_owned(),
                node: Some(spec.name.clone()),
                expected: "a node has a component".to_owned(),
                seen: "none".to_owned(),
            })?;
            let address = ops.endpoint(&spec.name, &first.name, "rpc")?;
            let dialect = self.adapter.dialect();
            rpc.insert(spec.name.clone(), client.node(address, dialect, RPC_LIMIT));
            let log =
                |component: &crate::backend::Component| (component.name.clone(), ops.log(&spec.name, &component.name));
            let logs = spec.components.iter().map(log).collect();
            targets.push(observe::Target {
                node: spec.name.clone(),
                address,
                dialect,
                logs,
            });
        }
        let config = observing(&self.plan, targets);
        drop(observe::observe(config, self.clock, self.samples.clone(), over.clone()));
        tokio::spawn(renew(Arc::clone(&ops), self.desk.clone(), over.clone()));
        let prober = Prober { ops, rpc: rpc.clone() };
        let faults = Keeper::spawn(Arc::clone(&self.plan), prober, self.desk.clone());
        let (plan, desk) = (Arc::clone(&self.plan), self.desk.clone());
        Ok(Arc::new(Network {
            plan,
            desk,
            rpc,
            faults,
            over,
            current: AtomicUsize::new(0),
        }))
    }

    /// Puts the world back. Never changes the verdict.
    async fn tear_down(&self, network: Option<&Arc<Network>>) {
        let keep_homes = match self.keep {
            Keep::Never => false,
            Keep::Always => true,
            Keep::OnFailure => !matches!(
                self.desk.ask(Message::Verdict).await,
                Verdict::Passed | Verdict::Interrupted
            ),
        };
        self.phase(Phase::TearingDown);
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
        self.desk.tell(Message::Leftovers(leftovers));
        self.desk.record(Record::End);
    }

    fn phase(&self, phase: Phase) {
        self.desk.record(Record::Phase(phase));
    }
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
async fn renew(ops: Arc<dyn crate::backend::NodeOps>, desk: Desk, over: CancellationToken) {
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
            }
        }
        for (id, handle) in background {
            finished(&id, handle.await)?;
        }
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
        self.close(step, done)
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
            When::Height { height, within } => {
                let reached = self.desk.ask(|reply| Message::Height(*height, reply));
                if tokio::time::timeout(within.duration(), reached).await.is_err() {
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

    async fn act(&self, step: &Step) -> Result<(), Failure> {
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
            Action::Heal { faults } => {
                let healed = self.faults.ask(|reply| Request::Heal(faults.clone(), reply)).await;
                healed.and_then(|healed| healed).map_err(|seen| Failure::Step {
                    code: "infra/revert-failed",
                    class: Class::Infrastructure,
                    expected: format!("{} healed", faults.join(", ")),
                    seen,
                })
            }
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

    async fn inject(&self, fault: &Fault) -> Result<(), Failure> {
        let broken = |seen| Failure::Step {
            code: "infra/fault-failed",
            class: Class::Infrastructure,
            expected: format!("the effect of {} ({}) is seen", fault.id, fault.kind.word()),
            seen,
        };
        let targets = match &fault.targets {
            Targets::Nodes(nodes) => nodes.clone(),
            Targets::Leader { among } => vec![self.leader(among).await.map_err(broken)?],
        };
        let injected = self
            .faults
            .ask(|reply| Request::Inject(fault.clone(), targets, reply))
            .await;
        injected.and_then(|injected| injected).map_err(broken)
    }

    /// The proposer of the moment, once it is one of these.
    async fn leader(&self, among: &[NodeName]) -> Result<NodeName, String> {
        let keys = validators(&self.plan);
        until(LEADER, || async {
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

/// What the observer looks at, and how often: a few times in a block, but never more than the machine bears.
fn observing(plan: &Plan, targets: Vec<observe::Target>) -> observe::Config {
    let least = if targets.len() > 20 { Ms(200) } else { Ms(50) };
    let interval = Ms((plan.network.block_time.0 / 3).clamp(least.0, 500));
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
    let patterns = patterns.collect();
    observe::Config {
        targets,
        interval,
        timeout: Ms::secs(2),
        patterns,
        validators: validators(plan),
    }
}

/// Node names by validator address, upper-case hex.
fn validators(plan: &Plan) -> BTreeMap<String, NodeName> {
    let named = |node: &crate::model::Node| {
        let key = validator_key(plan, &node.name)?;
        Some((key.address.to_uppercase(), node.name.clone()))
    };
    plan.network.nodes.iter().filter_map(named).collect()
}
