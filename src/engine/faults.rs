//! The keeper of faults: one task that injects, verifies, ends and reverts them.
//!
//! What a node or a link suffers is a pure function of the set of faults that are on ([`want`], [`shapes`]): a node is down while any
//! fault holds it down, a link is cut while any fault cuts it, latencies add. So overlap, heal and the end of a timed fault are operations on
//! that set, never an "undo".

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::future::{join_all, try_join_all};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::probe::{Force, Miss, Pair, Prober, Samples};
use super::upgrade::{Move, Unmoved, replace};
use super::{Desk, at, internal};
use crate::backend::{LinkId, LinkShape, MachineStrike, NodeOps, NodeState, PacketShape, Trouble};
use crate::model::{
    DRAIN, Fault, FaultKind, Lasts, Ms, NodeName, OnRestart, Plan, REMOVAL, Removal, STOP_GRACE, Start, Stress,
};
use crate::record::{FaultState, NodeEvent, Record};

/// How long the effect of a fault may take to be seen; and how long, after a revert, what trialnet alone puts back: links, halted processes.
pub(super) const VERIFY: Ms = Ms::secs(5);
/// The same where a busy machine hides it for a while: of a delay.
const PATIENT: Ms = Ms::secs(10);
/// How long before its end a timed fault is looked at for the last time; a look takes two probes of a link.
const LAST_LOOK: Ms = Ms(700);
/// How often a revert is tried.
const REVERT_TRIES: u32 = 3;

/// What the keeper is asked to do.
#[derive(Debug)]
pub(super) enum Request {
    /// Inject a fault on resolved targets; reply when its effect is verified.
    Inject(Fault, Vec<NodeName>, oneshot::Sender<Result<(), String>>),
    /// Replace the nodes of a batch of an upgrade; reply when they answer, or do not.
    Replace(Fault, Vec<Move>, oneshot::Sender<Result<(), Unmoved>>),
    /// End faults; reply when the revert is verified.
    Heal(Vec<String>, oneshot::Sender<Result<(), String>>),
    /// Start nodes; reply when they answer.
    Start(Vec<NodeName>, oneshot::Sender<Result<(), String>>),
    /// End all faults, the last one first.
    EndAll(oneshot::Sender<Result<(), String>>),
    /// Open links and resume nodes, and do not wait: the network is about to be removed.
    Release(oneshot::Sender<()>),
    /// Reply with what is on.
    Tell(oneshot::Sender<Held>),
    /// From the keeper's own jobs: the effect of a fault was seen at this moment, so its time runs.
    Runs(String, Instant),
    /// From the keeper's own jobs: the platform has brought the targets of a fault back, or has not.
    Returned(String, Result<String, String>),
    /// From the keeper's own jobs: another pod or container has taken the place of a target of a fault that does not outlast that.
    Dropped(String, NodeName, String),
    /// From the keeper's own jobs: nobody suffers a fault any more, and all its targets are back.
    Over(String),
    /// From the keeper's own jobs: components of a node are down that should not be.
    Raise(NodeName),
    /// From the keeper's own jobs: these faults have been looked at for the last time and end now.
    Revert(Vec<String>, oneshot::Sender<Result<(), String>>),
}

/// Asks the keeper.
#[derive(Clone, Debug)]
pub(super) struct Faults {
    requests: mpsc::UnboundedSender<Request>,
}

impl Faults {
    /// Asks, and waits for the reply.
    pub(super) async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<T, String> {
        let (reply, answer) = oneshot::channel();
        self.requests
            .send(request(reply))
            .map_err(|_| "the keeper of faults is gone".to_owned())?;
        answer.await.map_err(|_| "the keeper of faults is gone".to_owned())
    }
}

/// What a keeper knows, for another that takes over from it: with that, what every node and link suffers is known.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Held {
    /// The faults that are on, in the order in which they were injected.
    pub on: Vec<HeldFault>,
    /// Nodes that were started, by themselves or by a step.
    pub present: BTreeSet<NodeName>,
}

/// A fault that is on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeldFault {
    /// What it does. That it ends by itself after a while does not outlive the keeper that injected it.
    pub fault: Fault,
    /// Whom it struck.
    pub targets: Vec<NodeName>,
    /// Targets that a `start` has brought back since.
    pub started: BTreeSet<NodeName>,
}

impl Held {
    /// Before the first fault.
    #[must_use]
    pub fn begin(plan: &Plan) -> Self {
        let present = (plan.network.nodes.iter())
            .filter(|node| node.start == Start::Auto)
            .map(|node| node.name.clone())
            .collect();
        Self {
            on: Vec::new(),
            present,
        }
    }
}

/// A fault that is on, as the keeper has it.
#[derive(Clone, Debug)]
struct Active {
    fault: Fault,
    targets: Vec<NodeName>,
    /// Whether the platform brings them back by itself.
    comes_back: bool,
    /// Targets that a `start` step has brought back since.
    started: BTreeSet<NodeName>,
    ends: Option<Instant>,
    /// When it is looked at for the last time before that.
    last_look: Option<Instant>,
    /// Targets for whom it is over, since others have taken their places.
    dropped: BTreeSet<NodeName>,
    /// Who looks whether others have.
    _watching: Option<Arc<AbortOnDropHandle<()>>>,
}

impl Active {
    fn of(
        plan: &Plan,
        HeldFault {
            fault,
            targets,
            started,
        }: HeldFault,
    ) -> Self {
        Self {
            comes_back: plan.comes_back(&fault),
            fault,
            targets,
            started,
            ends: None,
            last_look: None,
            dropped: BTreeSet::new(),
            _watching: None,
        }
    }

    /// Whether it is on a node, unless a `start` has ended that.
    fn is_on(&self, node: &str) -> bool {
        self.targets.iter().any(|target| target == node) && !self.dropped.contains(node)
    }

    /// The targets that still suffer it.
    fn kept(&self) -> Vec<NodeName> {
        let kept = self.targets.iter().filter(|node| !self.dropped.contains(*node));
        kept.cloned().collect()
    }

    /// As if it were still on all of its targets.
    fn whole(&self) -> Self {
        Self {
            dropped: BTreeSet::new(),
            ..self.clone()
        }
    }

    /// Whether its effect is that the platform ends the pods or containers that were there.
    fn is_replaced(&self) -> bool {
        self.comes_back || self.fault.kind == FaultKind::Drain
    }

    fn held(&self) -> HeldFault {
        HeldFault {
            fault: self.fault.clone(),
            targets: self.targets.clone(),
            started: self.started.clone(),
        }
    }
}

/// What a node has to be under the faults that are on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Want {
    /// Not started yet.
    Absent,
    Down,
    Paused,
    /// It may be down, and the platform brings it back.
    Returning,
    Running,
}

/// Owns the faults that are on.
pub(super) struct Keeper {
    plan: Arc<Plan>,
    ops: Arc<dyn NodeOps>,
    prober: Prober,
    desk: Desk,
    on: Vec<Active>,
    /// What becomes of packets because of that.
    force: Force,
    /// Nodes that were started, by themselves or by a step.
    present: BTreeSet<NodeName>,
    /// Everything that takes time: effects and reverts that are being verified, nodes that stop or start.
    jobs: JoinSet<()>,
    /// Where jobs report to.
    requests: mpsc::WeakUnboundedSender<Request>,
}

impl Keeper {
    /// Starts the keeper's task; it ends when all who can ask are gone.
    pub(super) fn spawn(plan: Arc<Plan>, prober: Prober, desk: Desk) -> Faults {
        let held = Held::begin(&plan);
        Self::resume(plan, prober, desk, held)
    }

    /// The same for a network that another keeper has left.
    pub(super) fn resume(plan: Arc<Plan>, prober: Prober, desk: Desk, held: Held) -> Faults {
        let (requests, mut inbox) = mpsc::unbounded_channel();
        let Held { on, present } = held;
        let on = on.into_iter().map(|held| Active::of(&plan, held)).collect();
        let ops = Arc::clone(&prober.ops);
        let jobs = JoinSet::new();
        let mut keeper = Self {
            plan,
            ops,
            prober,
            desk,
            on,
            force: Force::default(),
            present,
            jobs,
            requests: requests.downgrade(),
        };
        tokio::spawn(async move {
            loop {
                let next = keeper
                    .on
                    .iter()
                    .filter_map(|active| active.last_look.or(active.ends))
                    .min();
                tokio::select! {
                    biased;
                    // What is due comes first: nothing that anybody asks for may keep a fault on.
                    () = at(next) => Box::pin(keeper.end_timed()).await,
                    request = inbox.recv() => match request {
                        Some(request) => Box::pin(keeper.handle(request)).await,
                        None => return,
                    },
                    Some(done) = keeper.jobs.join_next() => {
                        // Whoever asked is told that the keeper is gone; nobody else would hear of it.
                        if let Err(panic) = done {
                            keeper.desk.record(internal("trialnet keeps its faults", &panic));
                        }
                    }
                }
            }
        });
        Faults { requests }
    }

    async fn handle(&mut self, request: Request) {
        match request {
            Request::Inject(fault, targets, reply) => self.inject(fault, targets, reply).await,
            Request::Replace(fault, moves, reply) => self.replace(fault, moves, reply),
            Request::Heal(ids, reply) => self.heal(ids, reply),
            Request::Start(nodes, reply) => self.start(nodes, reply).await,
            Request::Tell(reply) => {
                let on = self.on.iter().map(Active::held).collect();
                let present = self.present.clone();
                // Who asked may have given up.
                drop(reply.send(Held { on, present }));
            }
            Request::EndAll(reply) => {
                let ids = self.on.iter().rev().map(|active| active.fault.id.clone()).collect();
                self.heal(ids, reply);
            }
            Request::Runs(id, since) => {
                if let Some(active) = self.on.iter_mut().find(|active| active.fault.id == id)
                    && let Lasts::For(duration) = active.fault.lasts
                {
                    let ends = since + duration.duration();
                    active.ends = Some(ends);
                    active.last_look = ends.checked_sub(LAST_LOOK.duration()).filter(|look| *look > since);
                }
            }
            Request::Returned(id, seen) => self.returned(&id, seen),
            Request::Dropped(id, node, seen) => self.drop_target(&id, node, seen).await,
            Request::Over(id) => {
                if self.on.iter().any(|active| active.fault.id == id) {
                    let (reply, _ignored) = oneshot::channel();
                    self.revert_all(&[id], reply).await;
                }
            }
            Request::Raise(node) => self.raise_rest(node),
            Request::Revert(ids, reply) => self.revert_all(&ids, reply).await,
            Request::Release(reply) => {
                self.release().await;
                let _ = reply.send(());
            }
        }
    }

    /// Injects a fault; its effect is verified beside whatever else happens.
    async fn inject(&mut self, fault: Fault, targets: Vec<NodeName>, reply: Reply) {
        self.desk.record(fault_record(
            &fault.id,
            FaultState::Planned,
            &targets,
            fault.kind.word().to_owned(),
        ));
        let held = HeldFault {
            fault,
            targets,
            started: BTreeSet::new(),
        };
        let mut active = Active::of(&self.plan, held);
        if active.fault.kind == FaultKind::Restart {
            return self.restart(active, reply);
        }
        if active.fault.on_restart == OnRestart::Drop {
            active._watching = Some(Arc::new(self.watch(&active)));
        }
        self.on.push(active.clone());
        let mut struck = Ok(());
        // Shapes are set here, one after the other, since each call says the state of every link.
        if active.fault.kind.is_of_links() {
            struck = self.shape().await;
        }
        if active.fault.kind.beside().is_some() {
            struck = self.stress(&active.targets).await;
        }
        let look = self.look_for(&active);
        let (desk, prober, requests) = (self.desk.clone(), self.prober.clone(), self.requests.clone());
        let limit = self.plan.limits.start;
        self.jobs.spawn(async move {
            let record =
                |state, detail: String| desk.record(fault_record(&active.fault.id, state, &active.targets, detail));
            // What the platform replaces can be told from what was there only by what was there.
            let before = match before(&prober, &active).await {
                Ok(before) => before,
                Err(seen) => {
                    record(FaultState::NoEffect, seen.clone());
                    drop(reply.send(Err(seen)));
                    return;
                }
            };
            let seen = match struck {
                Ok(()) => strike(&prober, &active).await,
                Err(trouble) => Err(trouble),
            };
            if let Err(trouble) = seen {
                // Half of it may be done, so it stays on and is reverted like any other.
                desk.record(trouble.clone().into());
                drop(reply.send(Err(trouble.to_string())));
                return;
            }
            record(FaultState::Injected, String::new());
            let effect = match (active.is_replaced(), look.verify(&prober)) {
                (true, look) => match replaced(&prober, &active, &before).await {
                    Ok(replaced) => look.await.map(|seen| joined(replaced, seen)),
                    Err(seen) => Err(seen.into()),
                },
                (false, look) => look.await,
            };
            let since = Instant::now();
            let seen = match effect {
                Ok(seen) => seen,
                Err(Miss { state, seen }) => {
                    record(state, seen.clone());
                    drop(reply.send(Err(seen)));
                    return;
                }
            };
            if let Err(trouble) = wipe(&desk, &prober, &active).await {
                desk.record(trouble.clone().into());
                drop(reply.send(Err(trouble.to_string())));
                return;
            }
            record(FaultState::Verified, seen);
            let id = active.fault.id.clone();
            let say = |request| say(&requests, request);
            say(Request::Runs(id.clone(), since));
            drop(reply.send(Ok(())));
            if active.comes_back {
                let back = if active.fault.component.is_some() {
                    let raise = |node: &str| say(Request::Raise(node.to_owned()));
                    all(active.targets.iter().map(|node| prober.returned(node, limit, raise))).await
                } else {
                    all(active.targets.iter().map(|node| prober.answering(node, None, limit))).await
                };
                say(Request::Returned(id, back));
            }
        });
    }

    /// Makes all links and packets what the set of faults says.
    async fn shape(&self) -> Result<(), Trouble> {
        self.ops.shape(&shapes(&self.plan, &self.on)).await?;
        let filters = filters(&self.plan, &self.on);
        self.force.coming(filters.clone());
        self.ops.filter(&filters).await?;
        self.force.arrived();
        Ok(())
    }

    /// Makes what is used beside the programs of nodes what the set of faults says.
    async fn stress(&self, nodes: &[NodeName]) -> Result<(), Trouble> {
        let set = nodes.iter().map(|node| async move {
            let all = stresses(&self.on, node);
            self.ops.stress(node, &all).await
        });
        try_join_all(set).await.map(drop)
    }

    /// Looks whether others take the places of a fault's targets.
    fn watch(&self, Active { fault, targets, .. }: &Active) -> AbortOnDropHandle<()> {
        let (ops, requests) = (Arc::clone(&self.ops), self.requests.clone());
        let (id, targets) = (fault.id.clone(), targets.clone());
        AbortOnDropHandle::new(tokio::spawn(async move {
            let look = async |node: &NodeName| match ops.another(node).await {
                Ok(seen) => say(&requests, Request::Dropped(id.clone(), node.clone(), seen)),
                Err(trouble) => tracing::debug!("nobody looks whether {node} is replaced: {trouble}"),
            };
            join_all(targets.iter().map(look)).await;
        }))
    }

    /// Another pod or container has taken the place of a target, which ends the fault there.
    async fn drop_target(&mut self, id: &str, node: NodeName, seen: String) {
        let Some(active) = self.on.iter_mut().find(|active| active.fault.id == id) else {
            return;
        };
        active.dropped.insert(node.clone());
        let active = active.clone();
        self.desk
            .record(fault_record(id, FaultState::Dropped, std::slice::from_ref(&node), seen));
        let mut done = Ok(());
        if active.fault.kind.is_of_links() {
            done = self.shape().await;
        }
        if active.fault.kind.beside().is_some() {
            done = self.stress(std::slice::from_ref(&node)).await;
        }
        if let Err(trouble) = done {
            // What the links and processes have to be is known; its end tries again, and says if it cannot.
            tracing::debug!("{id} was dropped on {node}: {trouble}");
        }
        let (kind, ops) = (&active.fault.kind, Arc::clone(&self.ops));
        if *kind == FaultKind::ReadOnly && !is_locked(&self.on, &node) {
            let (ops, node) = (Arc::clone(&ops), node.clone());
            self.jobs.spawn(async move {
                // In containers that are still the same.
                if let Err(trouble) = ops.lock_volume(&node, false).await {
                    tracing::debug!("{trouble}");
                }
            });
        }
        if *kind == FaultKind::Pause && want(&self.on, &self.present, &node) != Want::Paused {
            self.jobs.spawn(async move {
                // Components of which the containers are still the same; the others are not there or run anyway.
                if let Err(trouble) = ops.resume(&node).await {
                    tracing::debug!("{trouble}");
                }
            });
        }
        let nobody = active.kept().is_empty() || kind.is_of_links() && links_of(&self.plan, &active).is_empty();
        if nobody {
            let (prober, requests, limit) = (self.prober.clone(), self.requests.clone(), self.plan.limits.start);
            self.jobs.spawn(async move {
                let back = all(active.dropped.iter().map(|node| prober.answering(node, None, limit))).await;
                if let Err(seen) = back {
                    tracing::debug!("{} is over, but not all is back: {seen}", active.fault.id);
                }
                say(&requests, Request::Over(active.fault.id));
            });
        }
    }

    /// A fault is over because the platform has brought its targets back; or they did not come in time.
    fn returned(&mut self, id: &str, seen: Result<String, String>) {
        // Somebody may have ended it before, and has waited for the same.
        let Some(position) = self.on.iter().position(|active| active.fault.id == id) else {
            return;
        };
        let active = self.on.remove(position);
        let record = |state, detail: String| {
            self.desk
                .record(fault_record(&active.fault.id, state, &active.targets, detail))
        };
        match seen {
            Ok(seen) => {
                record(FaultState::Reverted, String::new());
                record(FaultState::RevertVerified, seen);
            }
            Err(seen) => record(
                FaultState::RevertFailed,
                format!("the platform did not bring it back: {seen}"),
            ),
        }
    }

    /// What has to be seen while a fault is on, given the other faults of this moment.
    fn look_for(&self, active: &Active) -> Look {
        let Active { fault, targets, .. } = active;
        match &fault.kind {
            // What the platform has replaced is looked at beside this, and is not gone for long.
            _ if active.comes_back => Look::NOTHING,
            FaultKind::Drain => Look::Machines(fault.id.clone(), Vec::new()),
            FaultKind::Machine(_) => Look::Machines(fault.id.clone(), targets.clone()),
            FaultKind::Kill | FaultKind::Stop | FaultKind::Remove(_) => {
                Look::Gone(targets.clone(), fault.component.clone())
            }
            FaultKind::Pause => Look::Paused(active.kept()),
            FaultKind::Partition { one_way: true, .. } => {
                let cut = self.live(links_of(&self.plan, active));
                Look::Packets {
                    open: self.live(self.untouched(all_links(&self.plan))),
                    packets: (self.expected(active, true), self.force.clone()),
                    cut,
                }
            }
            FaultKind::Loss { .. } => Look::Packets {
                cut: Vec::new(),
                open: Vec::new(),
                packets: (self.expected(active, true), self.force.clone()),
            },
            FaultKind::Bandwidth { .. } => Look::Bound {
                bound: self.expected(active, false),
                all: self.expected(active, true),
                force: self.force.clone(),
            },
            FaultKind::Partition { .. } | FaultKind::Isolate { .. } => {
                let cut = self.live(links_of(&self.plan, active));
                Look::Cut {
                    cut,
                    open: self.live(self.untouched(all_links(&self.plan))),
                }
            }
            FaultKind::Delay { .. } => {
                let shapes = shapes(&self.plan, &self.on);
                // The delays of a link add up, so that one that does nothing is not hidden by another; those that may end meanwhile apart.
                let stays = |other: &&Active| other.fault.id == fault.id || !matches!(other.fault.lasts, Lasts::For(_));
                let staying = self::shapes(&self.plan, self.on.iter().filter(stays));
                let least = |link: LinkId| {
                    let of_it = |shape: &&LinkShape| shape.link == link;
                    let cut = shapes.iter().find(of_it)?.cut;
                    let staying = staying.iter().find(of_it)?;
                    let least = staying.latency.0.saturating_sub(staying.jitter.0);
                    (!cut).then_some((link, Ms(least)))
                };
                let links = self
                    .live(links_of(&self.plan, active))
                    .into_iter()
                    .filter_map(least)
                    .collect();
                let most = shapes
                    .iter()
                    .map(|shape| shape.latency + shape.jitter)
                    .max()
                    .unwrap_or_default();
                Look::Slow {
                    links,
                    most: Ms(most.0 * 2),
                }
            }
            FaultKind::ReadOnly => Look::Locked(self.contained(&active.kept())),
            FaultKind::Stress(_) | FaultKind::Fill(_) => Look::Stressed {
                nodes: self.contained(&active.kept()),
                fault: fault.id.clone(),
                stress: fault.kind.beside().unwrap_or_default(),
            },
            FaultKind::Misbehave { how, .. } => Look::Misbehaving {
                targets: targets.clone(),
                how: how.clone(),
                limit: self.plan.limits.run,
            },
            FaultKind::Restart | FaultKind::Upgrade => Look::NOTHING,
        }
    }

    /// Stops and starts nodes; all five states of a fault's life in one go.
    fn restart(&mut self, active: Active, reply: Reply) {
        if let Some(node) = active
            .targets
            .iter()
            .find(|node| want(&self.on, &self.present, node) != Want::Running)
        {
            let seen = format!("{node} is held by another fault and cannot be restarted");
            // Of a fault of a step, the step says it.
            if self.plan.faults().all(|(_, fault)| fault.id != active.fault.id) {
                self.desk.record(fault_record(
                    &active.fault.id,
                    FaultState::Skipped,
                    &active.targets,
                    seen.clone(),
                ));
            }
            drop(reply.send(Err(seen)));
            return;
        }
        let (desk, prober, limit) = (self.desk.clone(), self.prober.clone(), self.plan.limits.start);
        self.jobs.spawn(async move {
            drop(reply.send(restart(&desk, &prober, &active, limit).await));
        });
    }

    /// Replaces nodes by others on the same data.
    fn replace(&mut self, fault: Fault, moves: Vec<Move>, reply: oneshot::Sender<Result<(), Unmoved>>) {
        // A node whose replacement has failed is in nobody's hands.
        let held = |node: &&NodeName| want(&self.on, &self.present, node) != Want::Running;
        if let Some(node) = fault.targets.nodes().iter().find(held) {
            let seen = format!("{node} is held by another fault and cannot be replaced");
            drop(reply.send(Err(Unmoved::Undone(seen))));
            return;
        }
        let (desk, prober, limit) = (self.desk.clone(), self.prober.clone(), self.plan.limits.start);
        self.jobs.spawn(async move {
            drop(reply.send(replace(&desk, &prober, &fault, &moves, limit).await));
        });
    }

    /// Looks for the last time at the timed faults that end soon, and ends those that are due.
    async fn end_timed(&mut self) {
        let now = Instant::now();
        let mut looks = Vec::new();
        for active in &mut self.on {
            if active.last_look.is_some_and(|look| look <= now) {
                active.last_look = None;
                looks.push(active.clone());
            }
        }
        for active in looks {
            let (look, desk, prober) = (self.last_look(&active), self.desk.clone(), self.prober.clone());
            self.jobs.spawn(async move {
                let seen = look.verify(&prober).await;
                // What is seen after the end says nothing about the time before it.
                if active.ends.is_some_and(|ends| Instant::now() < ends) {
                    vanished(&desk, &active, seen);
                }
            });
        }
        let due = |active: &&Active| active.ends.is_some_and(|ends| ends <= now);
        let ids: Vec<_> = self
            .on
            .iter()
            .filter(due)
            .map(|active| active.fault.id.clone())
            .collect();
        if !ids.is_empty() {
            let (reply, _ignored) = oneshot::channel();
            self.revert_all(&ids, reply).await;
        }
    }

    /// Looks at faults for the last time; then they end, in the order given.
    fn heal(&mut self, ids: Vec<String>, reply: Reply) {
        let on: Vec<_> = self
            .on
            .iter()
            .filter(|active| ids.contains(&active.fault.id))
            .cloned()
            .collect();
        let looks: Vec<_> = on.into_iter().map(|active| (self.last_look(&active), active)).collect();
        let (desk, prober, requests) = (self.desk.clone(), self.prober.clone(), self.requests.clone());
        self.jobs.spawn(async move {
            join_all(looks.iter().map(|(look, active)| async {
                let seen = look.verify(&prober).await;
                let ended = active.ends.is_some_and(|ends| Instant::now() >= ends);
                if !ended {
                    vanished(&desk, active, seen);
                }
            }))
            .await;
            say(&requests, Request::Revert(ids, reply));
        });
    }

    /// What a fault's last look looks for; what cannot be told for certain at a glance is not looked at.
    fn last_look(&self, active: &Active) -> Look {
        let held = |nodes: &[NodeName]| {
            nodes
                .iter()
                .filter(|node| !active.started.contains(*node))
                .cloned()
                .collect()
        };
        match self.look_for(active) {
            Look::Gone(nodes, component) if active.fault.lasts != Lasts::Platform => {
                Look::Gone(held(&nodes), component)
            }
            Look::Paused(nodes) => Look::Paused(nodes),
            Look::Machines(fault, silent) => Look::Machines(fault, silent),
            look @ (Look::Stressed { .. } | Look::Locked(_)) => look,
            Look::Cut { cut, .. } => Look::Cut { cut, open: Vec::new() },
            Look::Packets { .. } => Look::Lost(self.expected(active, false), self.force.clone()),
            Look::Bound { bound, force, .. } => Look::Bound {
                bound,
                all: Vec::new(),
                force,
            },
            _ => Look::NOTHING,
        }
    }

    /// Ends faults, in the order given; the reply comes when all reverts are verified.
    async fn revert_all(&mut self, ids: &[String], reply: Reply) {
        let mut verifications = Vec::new();
        for id in ids {
            let Some(position) = self.on.iter().position(|active| active.fault.id == *id) else {
                let targets = self
                    .plan
                    .fault(id)
                    .map(|fault| fault.targets.nodes().to_vec())
                    .unwrap_or_default();
                self.desk
                    .record(fault_record(id, FaultState::AlreadyEnded, &targets, String::new()));
                continue;
            };
            let active = self.on.remove(position);
            verifications.push((active.clone(), self.revert(&active).await));
        }
        let (desk, prober) = (self.desk.clone(), self.prober.clone());
        let limit = self.plan.limits.start;
        let requests = self.requests.clone();
        let raise = move |node: &str| say(&requests, Request::Raise(node.to_owned()));
        let jobs: Vec<_> = verifications
            .into_iter()
            .map(|(active, done)| (self.back(&active), active, done))
            .collect();
        self.jobs.spawn(async move {
            let verified = join_all(jobs.into_iter().map(|(back, active, done)| {
                let (desk, prober, raise) = (&desk, &prober, &raise);
                async move {
                    let record =
                        |state, seen| desk.record(fault_record(&active.fault.id, state, &active.targets, seen));
                    let seen = match done {
                        Ok(()) => back.verify(prober, limit, raise).await,
                        Err(trouble) => Err(trouble),
                    };
                    match seen {
                        Ok(seen) => record(FaultState::RevertVerified, seen),
                        Err(seen) => {
                            record(FaultState::RevertFailed, seen.clone());
                            return Err(format!("{} could not be healed: {seen}", active.fault.id));
                        }
                    }
                    Ok(())
                }
            }))
            .await;
            drop(reply.send(verified.into_iter().collect()));
        });
    }

    /// Takes a fault's effect back (it is no longer in the set): nodes and links become what the set says.
    async fn revert(&self, active: &Active) -> Result<(), String> {
        let mut tries = 0;
        let done = loop {
            tries += 1;
            match self.settle(active).await {
                Ok(()) => break Ok(()),
                Err(trouble) if tries >= REVERT_TRIES => break Err(trouble.to_string()),
                Err(trouble) => tracing::warn!("revert of {} failed: {trouble}", active.fault.id),
            }
        };
        if done.is_ok() {
            let record = fault_record(&active.fault.id, FaultState::Reverted, &active.targets, String::new());
            self.desk.record(record);
        }
        done
    }

    /// Makes the targets of a fault what the set of faults says.
    async fn settle(&self, active: &Active) -> Result<(), Trouble> {
        match &active.fault.kind {
            FaultKind::Partition { .. }
            | FaultKind::Isolate { .. }
            | FaultKind::Delay { .. }
            | FaultKind::Loss { .. }
            | FaultKind::Bandwidth { .. } => self.shape().await,
            FaultKind::Stress(_) | FaultKind::Fill(_) => self.stress(&active.targets).await,
            FaultKind::ReadOnly => {
                let free = active.targets.iter().filter(|node| !is_locked(&self.on, node));
                let open = free.map(|node| self.ops.lock_volume(node, false));
                try_join_all(open).await.map(drop)
            }
            _ if active.comes_back => Ok(()),
            FaultKind::Drain | FaultKind::Machine(_) => self.ops.restore_machines(&active.fault.id).await,
            FaultKind::Kill | FaultKind::Stop | FaultKind::Remove(_) => {
                let up = |node: &&NodeName| {
                    let want = want(&self.on, &self.present, node);
                    !active.started.contains(*node) && matches!(want, Want::Running | Want::Returning | Want::Paused)
                };
                try_join_all(active.targets.iter().filter(up).map(|node| self.raise(node)))
                    .await
                    .map(drop)
            }
            FaultKind::Pause => {
                let awake = |node: &&NodeName| want(&self.on, &self.present, node) == Want::Running;
                try_join_all(active.targets.iter().filter(awake).map(|node| self.ops.resume(node)))
                    .await
                    .map(drop)
            }
            FaultKind::Misbehave { .. } => {
                let up = |node: &&NodeName| want(&self.on, &self.present, node) == Want::Running;
                // A node that hangs cannot be told, so a process of it that misbehaves no more is as good.
                try_join_all(active.targets.iter().filter(up).map(|node| self.tame(node)))
                    .await
                    .map(drop)
            }
            FaultKind::Restart | FaultKind::Upgrade => Ok(()),
        }
    }

    /// Starts what is down of a node, unless a fault holds it down.
    fn raise_rest(&mut self, node: NodeName) {
        if matches!(want(&self.on, &self.present, &node), Want::Running | Want::Returning) {
            let ops = Arc::clone(&self.ops);
            self.jobs.spawn(async move {
                // Whoever looks sees whether it runs.
                if let Err(trouble) = ops.start(&node).await {
                    tracing::debug!("{trouble}");
                }
            });
        }
    }

    /// Starts a node that is down, unless an earlier try has started it already.
    async fn raise(&self, node: &str) -> Result<(), Trouble> {
        let running = self.ops.state(node).await.is_ok_and(|state| {
            state
                .components
                .iter()
                .all(|component| component.run == crate::backend::RunState::Running)
        });
        if running {
            return Ok(());
        }
        self.ops.start(node).await
    }

    /// Makes a node behave: by telling it, or by a restart when it does not listen.
    async fn tame(&self, node: &str) -> Result<(), Trouble> {
        if tell(&self.prober, node, None).await.is_ok() {
            return Ok(());
        }
        self.ops.stop(node, Ms(500)).await?;
        self.ops.start(node).await
    }

    /// What has to be seen when a fault is gone, given the faults that are still on.
    fn back(&self, active: &Active) -> Back {
        let active = &active.whole();
        match &active.fault.kind {
            kind if kind.loses_packets() => Back::Packets(
                self.live(self.untouched(links_of(&self.plan, active))),
                (self.expected(active, false), self.force.clone()),
            ),
            FaultKind::Partition { .. } | FaultKind::Isolate { .. } | FaultKind::Delay { .. } => {
                let links = self.live(self.untouched(links_of(&self.plan, active)));
                // A link that is still as slow as the fault made it at least is not healed.
                let below = match &active.fault.kind {
                    kind @ FaultKind::Delay { jitter, .. } => {
                        kind.least_latency().map(|least| Ms(least.0.saturating_sub(jitter.0)))
                    }
                    _ => None,
                };
                Back::Links(links, below)
            }
            FaultKind::Stress(_) => {
                let up = self.up(&active.targets);
                Back::Relieved(self.contained(&active.targets), active.fault.id.clone(), up)
            }
            FaultKind::Fill(_) => {
                let up = self.up(&active.targets);
                Back::Emptied(self.contained(&active.targets), active.fault.id.clone(), up)
            }
            FaultKind::ReadOnly => {
                let free = |nodes: Vec<NodeName>| nodes.into_iter().filter(|node| !is_locked(&self.on, node)).collect();
                Back::Unlocked(free(self.contained(&active.targets)), self.up(&active.targets))
            }
            FaultKind::Pause => Back::Resumed(self.up(&active.targets)),
            _ if active.comes_back && active.fault.component.is_some() => Back::Returned(self.up(&active.targets)),
            _ => Back::Nodes(self.up(&active.targets)),
        }
    }

    /// Starts nodes: those not yet started, and those that a kill or stop holds down (whose fault ends with its last target).
    async fn start(&mut self, nodes: Vec<NodeName>, reply: Reply) {
        for node in &nodes {
            self.present.insert(node.clone());
            for active in &mut self.on {
                let held = matches!(active.fault.kind, FaultKind::Kill | FaultKind::Stop) && !active.comes_back;
                if held && active.targets.contains(node) {
                    active.started.insert(node.clone());
                }
            }
        }
        let down = |node: &&NodeName| want(&self.on, &self.present, node) == Want::Running;
        if let Err(trouble) = try_join_all(nodes.iter().filter(down).map(|node| self.raise(node))).await {
            self.desk.record(trouble.clone().into());
            drop(reply.send(Err(trouble.to_string())));
            return;
        }
        let whole = |active: &Active| {
            !active.started.is_empty() && active.targets.iter().all(|target| active.started.contains(target))
        };
        let over: Vec<_> = self.on.extract_if(.., |active| whole(active)).collect();
        for active in &over {
            self.desk.record(fault_record(
                &active.fault.id,
                FaultState::Reverted,
                &active.targets,
                String::new(),
            ));
        }
        let (desk, prober, limit) = (self.desk.clone(), self.prober.clone(), self.plan.limits.start);
        self.jobs.spawn(async move {
            let seen = all(nodes.iter().map(|node| prober.answering(node, None, limit))).await;
            let (state, detail) = match &seen {
                Ok(seen) => (FaultState::RevertVerified, seen.clone()),
                Err(seen) => (FaultState::RevertFailed, seen.clone()),
            };
            for active in &over {
                desk.record(fault_record(&active.fault.id, state, &active.targets, detail.clone()));
            }
            drop(reply.send(seen.map(drop)));
        });
    }

    /// Opens every link and resumes every node, without looking back.
    async fn release(&mut self) {
        // What is still being looked at would be looked at in a network that is going.
        self.jobs.shutdown().await;
        let on = std::mem::take(&mut self.on);
        if on.is_empty() {
            return;
        }
        for done in [self.ops.shape(&[]).await, self.ops.filter(&[]).await] {
            if let Err(trouble) = done {
                tracing::debug!("links could not be opened before teardown: {trouble}");
            }
        }
        for active in on.iter().rev() {
            if active.fault.kind == FaultKind::Pause {
                for trouble in join_all(active.targets.iter().map(|node| self.ops.resume(node))).await {
                    tracing::debug!("resume before teardown: {trouble:?}");
                }
            }
            if active.fault.kind.beside().is_some() {
                let none = BTreeMap::new();
                for trouble in join_all(active.targets.iter().map(|node| self.ops.stress(node, &none))).await {
                    tracing::debug!("relief before teardown: {trouble:?}");
                }
            }
            // What trialnet does not get done here its guard does.
            if active.fault.kind.strikes_machines()
                && let Err(trouble) = self.ops.restore_machines(&active.fault.id).await
            {
                tracing::debug!("{trouble}, before teardown");
            }
            let (targets, detail) = (&active.targets, "the network is being removed".to_owned());
            self.desk
                .record(fault_record(&active.fault.id, FaultState::Reverted, targets, detail));
        }
    }

    /// Links that no fault concerns.
    fn untouched(&self, links: Vec<LinkId>) -> Vec<LinkId> {
        let shapes = shapes(&self.plan, &self.on);
        let filters = filters(&self.plan, &self.on);
        let shaped = |link: &LinkId| shapes.iter().any(|shape| shape.link == *link);
        let filtered = |LinkId { from, to, .. }: &LinkId| {
            let same =
                |shape: &PacketShape| (&shape.from, &shape.to) == (from, to) || (&shape.from, &shape.to) == (to, from);
            filters.iter().any(same)
        };
        (links.into_iter())
            .filter(|link| !shaped(link) && !filtered(link))
            .collect()
    }

    /// What share of the packets has to be lost between the nodes that a fault concerns, in each direction, under all faults that are on;
    /// with `others` also between all others.
    fn expected(&self, active: &Active, others: bool) -> Vec<Pair> {
        let filters = filters(&self.plan, &self.on);
        let mut links = links_of(&self.plan, active);
        if others {
            links.extend(all_links(&self.plan));
        }
        let mut pairs: Vec<Pair> = Vec::new();
        for LinkId { from, to, .. } in self.live(links) {
            for (from, to) in [(&from, &to), (&to, &from)] {
                let shape = (filters.iter()).find(|shape| (&shape.from, &shape.to) == (from, to));
                if !pairs.iter().any(|pair| (&pair.from, &pair.to) == (from, to)) {
                    pairs.push(Pair {
                        from: from.clone(),
                        to: to.clone(),
                        loss: shape.map_or(0.0, |shape| shape.loss),
                        rate: shape.and_then(|shape| shape.rate),
                    });
                }
            }
        }
        pairs
    }

    /// The nodes that run and answer.
    fn up(&self, nodes: &[NodeName]) -> Vec<NodeName> {
        let up = |node: &&NodeName| {
            want(&self.on, &self.present, node) == Want::Running
                && !told(&self.on, node, &["crash", "hang"])
                && !has_no_room(&self.on, node)
        };
        nodes.iter().filter(up).cloned().collect()
    }

    /// The nodes whose containers are there, whatever becomes of the processes in them.
    fn contained(&self, nodes: &[NodeName]) -> Vec<NodeName> {
        let away = |node: &NodeName| {
            let takes = |active: &&Active| active.comes_back || active.fault.kind.strikes_machines();
            let mut taken = self.on.iter().filter(takes);
            taken.any(|active| active.targets.contains(node))
        };
        let there = |node: &&NodeName| self.present.contains(*node) && !away(node);
        nodes.iter().filter(there).cloned().collect()
    }

    /// Links whose ends are both up, so that bytes could pass.
    fn live(&self, links: Vec<LinkId>) -> Vec<LinkId> {
        let up = |node: &str| {
            want(&self.on, &self.present, node) == Want::Running
                && !told(&self.on, node, &["crash"])
                && !has_no_room(&self.on, node)
        };
        links
            .into_iter()
            .filter(|link| up(&link.from) && up(&link.to))
            .collect()
    }
}

/// Tells the keeper something from one of its own jobs; one that is gone has no use for it.
fn say(requests: &mpsc::WeakUnboundedSender<Request>, request: Request) {
    if let Some(requests) = requests.upgrade() {
        drop(requests.send(request));
    }
}

/// The answer to whoever asked the keeper.
type Reply = oneshot::Sender<Result<(), String>>;

/// What has to be seen while a fault is on.
enum Look {
    /// All processes of these nodes, or of this component of each.
    Gone(Vec<NodeName>, Option<String>),
    Paused(Vec<NodeName>),
    /// The machines that this fault has struck are drained or off, and these nodes do not answer.
    Machines(String, Vec<NodeName>),
    Cut {
        cut: Vec<LinkId>,
        open: Vec<LinkId>,
    },
    Slow {
        /// Each with the time that it takes at least.
        links: Vec<(LinkId, Ms)>,
        most: Ms,
    },
    /// Nothing over some connections, and these shares of packets lost.
    Packets {
        cut: Vec<LinkId>,
        open: Vec<LinkId>,
        packets: (Vec<Pair>, Force),
    },
    /// What passes from node to node where that is bound, and of all others everything but what is lost.
    Bound {
        bound: Vec<Pair>,
        all: Vec<Pair>,
        force: Force,
    },
    /// About these shares of packets lost, at a glance.
    Lost(Vec<Pair>, Force),
    /// So much is used beside each program of these nodes for this fault.
    Stressed {
        nodes: Vec<NodeName>,
        fault: String,
        stress: Stress,
    },
    /// Nobody can write to the volumes of these nodes.
    Locked(Vec<NodeName>),
    Misbehaving {
        targets: Vec<NodeName>,
        how: String,
        limit: Ms,
    },
}

impl Look {
    /// Nothing has to be seen.
    const NOTHING: Self = Self::Gone(Vec::new(), None);

    /// Looks from outside the injector; the evidence in words.
    async fn verify(&self, prober: &Prober) -> Result<String, Miss> {
        let seen = match self {
            Self::Gone(nodes, component) => {
                all(nodes.iter().map(|node| prober.gone(node, component.as_deref(), VERIFY))).await
            }
            Self::Paused(nodes) => all(nodes.iter().map(|node| prober.paused(node, VERIFY))).await,
            Self::Machines(fault, silent) => {
                let machines = prober.machines(fault, VERIFY).await?;
                let silent = all(silent.iter().map(|node| prober.silent(node, VERIFY))).await?;
                Ok(joined(machines, silent))
            }
            Self::Cut { cut, open } => return prober.cut(cut, open, VERIFY).await,
            Self::Packets { cut, open, packets } => {
                let (pairs, force) = packets;
                let lost = prober.lost(pairs, force, Samples::Claim, VERIFY);
                if cut.is_empty() && open.is_empty() {
                    return Ok(lost.await?);
                }
                let bytes = prober.cut(cut, open, VERIFY).await?;
                Ok(format!("{bytes}; {}", lost.await?))
            }
            Self::Bound { bound, all, force } => {
                let passed = prober.bound(bound, force, VERIFY).await?;
                if all.iter().all(|pair| pair.rate.is_some()) {
                    return Ok(passed);
                }
                Ok(joined(passed, prober.lost(all, force, Samples::Claim, VERIFY).await?))
            }
            Self::Lost(pairs, force) => prober.lost(pairs, force, Samples::Glance, VERIFY).await,
            Self::Slow { links, most } => prober.slow(links, *most, PATIENT).await,
            Self::Locked(nodes) => all(nodes.iter().map(|node| prober.locked(node, true, VERIFY))).await,
            Self::Stressed { nodes, fault, stress } => {
                all(nodes.iter().map(|node| prober.stressed(node, fault, *stress, VERIFY))).await
            }
            Self::Misbehaving { targets, how, limit } => {
                all(targets.iter().map(|node| prober.misbehaving(node, how, *limit))).await
            }
        };
        Ok(seen?)
    }
}

/// What has to be seen when a fault is gone.
enum Back {
    Nodes(Vec<NodeName>),
    Resumed(Vec<NodeName>),
    /// Nodes of which the platform brings one component back.
    Returned(Vec<NodeName>),
    /// Nodes beside whose programs nothing is used for this fault, and those that answer.
    Relieved(Vec<NodeName>, String, Vec<NodeName>),
    /// The same of nodes some of which may have ended for want of room, and have to be started.
    Emptied(Vec<NodeName>, String, Vec<NodeName>),
    /// Nodes to whose volumes everybody can write, and those of which whatever ended has to be started.
    Unlocked(Vec<NodeName>, Vec<NodeName>),
    /// Links that carry bytes, the first within this time where one is given.
    Links(Vec<LinkId>, Option<Ms>),
    /// Links that carry bytes, and what share of the packets is still lost.
    Packets(Vec<LinkId>, (Vec<Pair>, Force)),
}

impl Back {
    /// Nodes have until `limit` to answer; `raise` has started what is down of one.
    async fn verify(&self, prober: &Prober, limit: Ms, raise: impl Fn(&str)) -> Result<String, String> {
        let nodes = match self {
            Self::Links(links, below) => return prober.open(links, *below, VERIFY).await,
            Self::Packets(links, (pairs, force)) => {
                let packets = prober.lost(pairs, force, Samples::Claim, VERIFY).await?;
                let bytes = prober.open(links, None, VERIFY).await?;
                return Ok(format!("{packets}; {bytes}"));
            }
            Self::Resumed(nodes) => {
                all(nodes.iter().map(|node| prober.awake(node, VERIFY))).await?;
                nodes
            }
            Self::Returned(nodes) => {
                return all(nodes.iter().map(|node| prober.returned(node, limit, &raise))).await;
            }
            Self::Relieved(nodes, fault, up) => {
                all(nodes.iter().map(|node| prober.relieved(node, fault, VERIFY))).await?;
                up
            }
            Self::Unlocked(nodes, up) => {
                let open = all(nodes.iter().map(|node| prober.locked(node, false, VERIFY))).await?;
                let back = all(up.iter().map(|node| prober.returned(node, limit, &raise))).await?;
                return Ok(joined(open, back));
            }
            Self::Emptied(nodes, fault, up) => {
                all(nodes.iter().map(|node| prober.relieved(node, fault, VERIFY))).await?;
                return all(up.iter().map(|node| prober.returned(node, limit, &raise))).await;
            }
            Self::Nodes(nodes) => nodes,
        };
        all(nodes.iter().map(|node| prober.answering(node, None, limit))).await
    }
}

/// The targets of a fault as they are before it strikes, where its effect can be told only by that.
async fn before(prober: &Prober, active: &Active) -> Result<Vec<NodeState>, String> {
    if !active.is_replaced() {
        return Ok(Vec::new());
    }
    try_join_all(active.targets.iter().map(|node| prober.state(node))).await
}

/// That the platform has replaced or ended what a fault struck.
async fn replaced(prober: &Prober, active: &Active, before: &[NodeState]) -> Result<String, String> {
    let Active { fault, targets, .. } = active;
    let (removed, limit) = match fault.kind {
        FaultKind::Remove(Removal::Delete { grace }) => (true, REMOVAL + grace.unwrap_or_default()),
        FaultKind::Remove(_) | FaultKind::Drain => (true, REMOVAL),
        _ => (false, VERIFY),
    };
    let how = (removed, fault.component.as_deref());
    let nodes = targets.iter().zip(before);
    all(nodes.map(|(node, before)| prober.replaced(node, before, how, limit))).await
}

/// Empties the volumes of the targets, if the fault says so; the data of a removed pod go with it.
async fn wipe(desk: &Desk, prober: &Prober, Active { fault, targets, .. }: &Active) -> Result<(), Trouble> {
    if !fault.wipe {
        return Ok(());
    }
    if !matches!(fault.kind, FaultKind::Remove(_) | FaultKind::Drain) {
        try_join_all(targets.iter().map(|node| prober.ops.wipe(node))).await?;
    }
    for node in targets {
        desk.record(Record::Node {
            node: node.clone(),
            event: NodeEvent::Wiped,
        });
    }
    Ok(())
}

/// Does to nodes what a fault says; links have been shaped before.
async fn strike(prober: &Prober, active: &Active) -> Result<(), Trouble> {
    let Active { fault, targets, .. } = active;
    let (ops, component) = (&prober.ops, fault.component.as_deref());
    match &fault.kind {
        FaultKind::Kill if active.comes_back => try_join_all(targets.iter().map(|node| ops.crash(node, component)))
            .await
            .map(drop),
        FaultKind::Kill => try_join_all(targets.iter().map(|node| ops.kill(node, component)))
            .await
            .map(drop),
        FaultKind::Remove(how) => try_join_all(targets.iter().map(|node| ops.remove(node, *how)))
            .await
            .map(drop),
        FaultKind::Drain => {
            ops.strike_machines(&fault.id, targets, MachineStrike::Drain(DRAIN))
                .await
        }
        FaultKind::Machine(how) => ops.strike_machines(&fault.id, targets, MachineStrike::Fail(*how)).await,
        FaultKind::Pause => try_join_all(targets.iter().map(|node| ops.pause(node))).await.map(drop),
        FaultKind::ReadOnly => try_join_all(targets.iter().map(|node| ops.lock_volume(node, true)))
            .await
            .map(drop),
        FaultKind::Stop => try_join_all(targets.iter().map(|node| ops.stop(node, STOP_GRACE)))
            .await
            .map(drop),
        FaultKind::Misbehave { how, .. } => try_join_all(targets.iter().map(|node| tell(prober, node, Some(how))))
            .await
            .map(drop),
        _ => Ok(()),
    }
}

/// Tells a devnode to misbehave, or to behave.
async fn tell(prober: &Prober, node: &str, how: Option<&str>) -> Result<(), Trouble> {
    let Some(rpc) = prober.rpc.get(node) else {
        return Ok(());
    };
    let told = match how {
        Some(how) => rpc.misbehave(how).await,
        None => rpc.behave().await,
    };
    told.map_err(|error| Trouble {
        code: "infra/rpc".to_owned(),
        node: Some(node.to_owned()),
        expected: format!("{node} takes the order {}", how.unwrap_or("to behave")),
        seen: error.to_string(),
    })
}

/// Stops and starts the targets of a restart.
async fn restart(desk: &Desk, prober: &Prober, active: &Active, limit: Ms) -> Result<(), String> {
    let Active { fault, targets, .. } = active;
    let record = |state, detail: String| desk.record(fault_record(&fault.id, state, targets, detail));
    let broken = |trouble: Trouble| {
        desk.record(trouble.clone().into());
        trouble.to_string()
    };
    let old = try_join_all(targets.iter().map(|node| prober.generation(node))).await?;
    try_join_all(targets.iter().map(|node| prober.ops.stop(node, STOP_GRACE)))
        .await
        .map_err(broken)?;
    record(FaultState::Injected, String::new());
    let gone = all(targets.iter().map(|node| prober.gone(node, None, VERIFY))).await;
    let gone = gone.inspect_err(|seen| record(FaultState::NoEffect, seen.clone()))?;
    wipe(desk, prober, active).await.map_err(broken)?;
    record(FaultState::Verified, gone);
    try_join_all(targets.iter().map(|node| prober.ops.start(node)))
        .await
        .map_err(broken)?;
    record(FaultState::Reverted, String::new());
    let back = all(targets
        .iter()
        .zip(old)
        .map(|(node, old)| prober.answering(node, Some(old), limit)))
    .await;
    let back = back.inspect_err(|seen| record(FaultState::RevertFailed, seen.clone()))?;
    record(FaultState::RevertVerified, back);
    Ok(())
}

/// Records that a fault's effect has gone by itself, or grown: it was not what was asked all the time that it was taken to be.
fn vanished(desk: &Desk, active: &Active, seen: Result<String, Miss>) {
    if let Err(Miss { state, seen }) = seen {
        let detail = match state {
            FaultState::Stronger => seen,
            _ => format!("its effect vanished before its end: {seen}"),
        };
        desk.record(fault_record(&active.fault.id, state, &active.targets, detail));
    }
}

/// What a node has to be under these faults.
fn want(on: &[Active], present: &BTreeSet<NodeName>, node: &str) -> Want {
    if !present.contains(node) {
        return Want::Absent;
    }
    let struck = |active: &&Active| active.is_on(node) && !active.started.contains(node);
    let mut want = Want::Running;
    for active in on.iter().filter(struck) {
        match active.fault.kind {
            _ if active.comes_back && want == Want::Running => want = Want::Returning,
            _ if active.comes_back => {}
            FaultKind::Kill | FaultKind::Stop | FaultKind::Machine(_) => return Want::Down,
            FaultKind::Pause => want = Want::Paused,
            // There may be another machine for it.
            FaultKind::Drain if want == Want::Running => want = Want::Returning,
            _ => {}
        }
    }
    want
}

/// Whether a node was told to misbehave in one of these ways, whether that has begun or not.
fn told(on: &[Active], node: &str, ways: &[&str]) -> bool {
    on.iter().any(|active| match &active.fault.kind {
        FaultKind::Misbehave { how, .. } => {
            let word = how.split(['@', '=']).next().unwrap_or_default();
            ways.contains(&word) && active.targets.iter().any(|target| target == node)
        }
        _ => false,
    })
}

/// Whether a node cannot write, and may have ended for it.
fn has_no_room(on: &[Active], node: &str) -> bool {
    on.iter()
        .any(|active| active.fault.kind.stops_writing() && active.is_on(node))
}

/// Whether nobody is to write to the volume of a node.
fn is_locked(on: &[Active], node: &str) -> bool {
    on.iter()
        .any(|active| active.fault.kind == FaultKind::ReadOnly && active.is_on(node))
}

/// What is used beside the programs of a node under these faults: each by itself, so they add up.
fn stresses(on: &[Active], node: &str) -> BTreeMap<String, Stress> {
    let stress = |active: &Active| {
        let drops = active.fault.on_restart == OnRestart::Drop;
        let stress = active.fault.kind.beside()?;
        Some((active.fault.id.clone(), Stress { drops, ..stress }))
    };
    let of_it = on.iter().filter(|active| active.is_on(node));
    of_it.filter_map(stress).collect()
}

/// The shapes of all links that are not clear under these faults.
fn shapes<'a>(plan: &Plan, on: impl IntoIterator<Item = &'a Active>) -> Vec<LinkShape> {
    let mut shapes: BTreeMap<LinkId, LinkShape> = BTreeMap::new();
    for active in on.into_iter().filter(|active| !active.fault.kind.loses_packets()) {
        for link in links_of(plan, active) {
            let clear = LinkShape {
                link: link.clone(),
                cut: false,
                latency: Ms(0),
                jitter: Ms(0),
                drops: true,
            };
            let shape = shapes.entry(link).or_insert(clear);
            // Where another fault stays, the link is made clear of this one as soon as it is seen.
            shape.drops &= active.fault.on_restart == OnRestart::Drop;
            match &active.fault.kind {
                kind @ FaultKind::Delay { jitter, .. } => {
                    shape.latency = shape.latency + kind.latency(&shape.link.from, &shape.link.to);
                    shape.jitter = shape.jitter + *jitter;
                }
                _ => shape.cut = true,
            }
        }
    }
    shapes.into_values().collect()
}

/// What becomes of packets under these faults: each fault loses them by itself, so the shares that pass are multiplied; of rates the least counts.
fn filters(plan: &Plan, on: &[Active]) -> Vec<PacketShape> {
    let mut all: BTreeMap<(NodeName, NodeName), (f64, Option<u64>)> = BTreeMap::new();
    for active in on.iter().filter(|active| active.fault.kind.loses_packets()) {
        let links = links_of(plan, active);
        let pairs: BTreeSet<_> = (links.iter())
            .flat_map(|link| [(&link.from, &link.to), (&link.to, &link.from)])
            .collect();
        for (from, to) in pairs {
            let (lost, bound) = match &active.fault.kind {
                FaultKind::Loss { percent, .. } => (percent / 100.0, None),
                FaultKind::Bandwidth { rate, .. } => (0.0, Some(*rate)),
                FaultKind::Partition { sides, .. } if sides.first().is_some_and(|first| first.contains(from)) => {
                    (1.0, None)
                }
                _ => (0.0, None),
            };
            let (passes, rate) = all.entry((from.clone(), to.clone())).or_insert((1.0, None));
            *passes *= 1.0 - lost;
            *rate = rate.iter().copied().chain(bound).min();
        }
    }
    let shapes = all.into_iter().map(|((from, to), (passes, rate))| PacketShape {
        from,
        to,
        loss: 1.0 - passes,
        rate,
    });
    shapes
        .filter(|shape| shape.loss > 0.0 || shape.rate.is_some())
        .collect()
}

/// The links that a fault concerns; none for a fault of nodes.
fn links_of(plan: &Plan, active: &Active) -> Vec<LinkId> {
    let concerned = |from: &str, to: &str| match &active.fault.kind {
        FaultKind::Partition { sides, .. } => {
            let side = |node: &str| sides.iter().position(|side| side.iter().any(|name| name == node));
            side(from) != side(to)
        }
        FaultKind::Isolate { .. } => active.targets.iter().any(|target| target == from || target == to),
        FaultKind::Delay { links, .. } | FaultKind::Loss { links, .. } | FaultKind::Bandwidth { links, .. } => links
            .iter()
            .any(|(a, b)| (a == from && b == to) || (a == to && b == from)),
        _ => false,
    };
    let kept = |link: &LinkId| !active.dropped.contains(&link.from) && !active.dropped.contains(&link.to);
    all_links(plan)
        .into_iter()
        .filter(|link| concerned(&link.from, &link.to) && kept(link))
        .collect()
}

/// Every link of the plan.
pub(crate) fn all_links(plan: &Plan) -> Vec<LinkId> {
    let name = |index: usize| plan.network.nodes[index].name.clone();
    let link = |&(from, to): &(usize, usize)| LinkId {
        from: name(from),
        to: name(to),
        port: "p2p".to_owned(),
    };
    plan.network.links.iter().map(link).collect()
}

fn fault_record(id: &str, state: FaultState, targets: &[NodeName], detail: String) -> Record {
    Record::Fault {
        id: id.to_owned(),
        state,
        targets: targets.to_vec(),
        detail,
    }
}

/// Evidence that belongs together; either may be empty.
fn joined(one: String, other: String) -> String {
    let parts: Vec<String> = [one, other].into_iter().filter(|part| !part.is_empty()).collect();
    parts.join("; ")
}

/// Waits for all; the evidence of each, or the first that failed.
async fn all(checks: impl Iterator<Item = impl Future<Output = Result<String, String>>>) -> Result<String, String> {
    Ok(try_join_all(checks).await?.join("; "))
}
