//! The keeper of faults: one task that injects, verifies, ends and reverts them.
//!
//! What a node or a link suffers is a pure function of the set of faults that are on ([`want`], [`shapes`]): a node is down while any
//! fault holds it down, a link is cut while any fault cuts it, latencies add. So overlap, heal and the end of a timed fault are operations on
//! that set, never an "undo".

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::future::{join_all, try_join_all};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::probe::Prober;
use super::{Desk, at};
use crate::backend::{LinkId, LinkShape, NodeOps, Trouble};
use crate::model::{Fault, FaultKind, Lasts, Ms, NodeName, Plan, Start};
use crate::record::{FaultState, Record};

/// How long a node has between SIGTERM and SIGKILL in a `stop` or `restart`.
const STOP_GRACE: Ms = Ms::secs(10);
/// How long the effect of a fault may take to be seen; and how long, after a revert, what trialnet alone puts back: links, halted processes.
const VERIFY: Ms = Ms::secs(5);
/// How long before its end a timed fault is looked at for the last time; a look takes two probes of a link.
const LAST_LOOK: Ms = Ms(700);
/// How often a revert is tried.
const REVERT_TRIES: u32 = 3;

/// What the keeper is asked to do.
#[derive(Debug)]
pub(super) enum Request {
    /// Inject a fault on resolved targets; reply when its effect is verified.
    Inject(Fault, Vec<NodeName>, oneshot::Sender<Result<(), String>>),
    /// End faults; reply when the revert is verified.
    Heal(Vec<String>, oneshot::Sender<Result<(), String>>),
    /// Start nodes; reply when they answer.
    Start(Vec<NodeName>, oneshot::Sender<Result<(), String>>),
    /// End all faults, the last one first.
    EndAll(oneshot::Sender<Result<(), String>>),
    /// Open links and resume nodes, and do not wait: the network is about to be removed.
    Release(oneshot::Sender<()>),
    /// From the keeper's own jobs: the effect of a fault was seen at this moment, so its time runs.
    Runs(String, Instant),
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

/// A fault that is on.
#[derive(Clone, Debug)]
struct Active {
    fault: Fault,
    targets: Vec<NodeName>,
    /// Targets that a `start` step has brought back since.
    started: BTreeSet<NodeName>,
    ends: Option<Instant>,
    /// When it is looked at for the last time before that.
    last_look: Option<Instant>,
}

/// What a node has to be under the faults that are on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Want {
    /// Not started yet.
    Absent,
    Down,
    Paused,
    Running,
}

/// Owns the faults that are on.
pub(super) struct Keeper {
    plan: Arc<Plan>,
    ops: Arc<dyn NodeOps>,
    prober: Prober,
    desk: Desk,
    on: Vec<Active>,
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
        let (requests, mut inbox) = mpsc::unbounded_channel();
        let present = (plan.network.nodes.iter())
            .filter(|node| node.start == Start::Auto)
            .map(|node| node.name.clone())
            .collect();
        let ops = Arc::clone(&prober.ops);
        let (on, jobs) = (Vec::new(), JoinSet::new());
        let mut keeper = Self {
            plan,
            ops,
            prober,
            desk,
            on,
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
                    Some(_) = keeper.jobs.join_next() => {}
                }
            }
        });
        Faults { requests }
    }

    async fn handle(&mut self, request: Request) {
        match request {
            Request::Inject(fault, targets, reply) => self.inject(fault, targets, reply).await,
            Request::Heal(ids, reply) => self.heal(ids, reply),
            Request::Start(nodes, reply) => self.start(nodes, reply).await,
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
        let active = Active {
            fault,
            targets,
            started: BTreeSet::new(),
            ends: None,
            last_look: None,
        };
        if active.fault.kind == FaultKind::Restart {
            return self.restart(active, reply);
        }
        self.on.push(active.clone());
        let mut struck = Ok(());
        // Shapes are set here, one after the other, since each call says the state of every link.
        if is_link_fault(&active.fault.kind) {
            struck = self.ops.shape(&shapes(&self.plan, &self.on)).await;
        }
        let look = self.look_for(&active);
        let (desk, prober, requests) = (self.desk.clone(), self.prober.clone(), self.requests.clone());
        self.jobs.spawn(async move {
            let seen = match struck {
                Ok(()) => strike(&prober, &active).await,
                Err(trouble) => Err(trouble),
            };
            let record =
                |state, detail: String| desk.record(fault_record(&active.fault.id, state, &active.targets, detail));
            if let Err(trouble) = seen {
                // Half of it may be done, so it stays on and is reverted like any other.
                desk.record(trouble.clone().into());
                drop(reply.send(Err(trouble.to_string())));
                return;
            }
            record(FaultState::Injected, String::new());
            let effect = look.verify(&prober).await;
            let since = Instant::now();
            match effect {
                Ok(seen) => {
                    record(FaultState::Verified, seen);
                    if let Some(requests) = requests.upgrade() {
                        drop(requests.send(Request::Runs(active.fault.id.clone(), since)));
                    }
                    drop(reply.send(Ok(())));
                }
                Err(seen) => {
                    record(FaultState::NoEffect, seen.clone());
                    drop(reply.send(Err(seen)));
                }
            }
        });
    }

    /// What has to be seen while a fault is on, given the other faults of this moment.
    fn look_for(&self, active: &Active) -> Look {
        let Active { fault, targets, .. } = active;
        match &fault.kind {
            FaultKind::Kill | FaultKind::Stop => Look::Gone(targets.clone()),
            FaultKind::Pause => Look::Paused(targets.clone()),
            FaultKind::Partition { .. } | FaultKind::Isolate { .. } => {
                let shapes = shapes(&self.plan, &self.on);
                let clear = |link: &LinkId| !shapes.iter().any(|shape| shape.link == *link);
                let cut = self.live(links_of(&self.plan, active));
                Look::Cut {
                    cut,
                    open: self.live(all_links(&self.plan).into_iter().filter(clear).collect()),
                }
            }
            FaultKind::Delay { latency, jitter, .. } => {
                let shapes = shapes(&self.plan, &self.on);
                let cut = |link: &LinkId| shapes.iter().any(|shape| shape.link == *link && shape.cut);
                let links = self
                    .live(links_of(&self.plan, active))
                    .into_iter()
                    .filter(|link| !cut(link))
                    .collect();
                // Faults that were on before may add to it, so only the least is exact.
                let most = shapes
                    .iter()
                    .map(|shape| shape.latency + shape.jitter)
                    .max()
                    .unwrap_or_default();
                Look::Slow {
                    links,
                    least: Ms(latency.0.saturating_sub(jitter.0)),
                    most: Ms(most.0 * 2),
                }
            }
            FaultKind::Misbehave { how, .. } => Look::Misbehaving {
                targets: targets.clone(),
                how: how.clone(),
                limit: self.plan.limits.run,
            },
            FaultKind::Restart => Look::Gone(Vec::new()),
        }
    }

    /// Stops and starts nodes; all five states of a fault's life in one go.
    fn restart(&mut self, active: Active, reply: Reply) {
        if let Some(node) = active
            .targets
            .iter()
            .find(|node| want(&self.on, &self.present, node) != Want::Running)
        {
            drop(reply.send(Err(format!("{node} is held by another fault and cannot be restarted"))));
            return;
        }
        let (desk, prober, limit) = (self.desk.clone(), self.prober.clone(), self.plan.limits.start);
        self.jobs.spawn(async move {
            drop(reply.send(restart(&desk, &prober, &active, limit).await));
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
            if let Some(requests) = requests.upgrade() {
                drop(requests.send(Request::Revert(ids, reply)));
            }
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
            Look::Gone(nodes) if active.fault.lasts != Lasts::Platform => Look::Gone(held(&nodes)),
            Look::Paused(nodes) => Look::Paused(nodes),
            Look::Cut { cut, .. } => Look::Cut { cut, open: Vec::new() },
            _ => Look::Gone(Vec::new()),
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
        let jobs: Vec<_> = verifications
            .into_iter()
            .map(|(active, done)| (self.back(&active), active, done))
            .collect();
        self.jobs.spawn(async move {
            let verified = join_all(jobs.into_iter().map(|(back, active, done)| {
                let (desk, prober) = (&desk, &prober);
                async move {
                    let record =
                        |state, seen| desk.record(fault_record(&active.fault.id, state, &active.targets, seen));
                    let seen = match done {
                        Ok(()) => back.verify(prober, limit).await,
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
            FaultKind::Partition { .. } | FaultKind::Isolate { .. } | FaultKind::Delay { .. } => {
                self.ops.shape(&shapes(&self.plan, &self.on)).await
            }
            FaultKind::Kill | FaultKind::Stop => {
                let up = |node: &&NodeName| {
                    !active.started.contains(*node)
                        && matches!(want(&self.on, &self.present, node), Want::Running | Want::Paused)
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
            FaultKind::Restart => Ok(()),
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
        match &active.fault.kind {
            FaultKind::Partition { .. } | FaultKind::Isolate { .. } | FaultKind::Delay { .. } => {
                let shapes = shapes(&self.plan, &self.on);
                let clear = |link: &LinkId| !shapes.iter().any(|shape| shape.link == *link);
                let links = self
                    .live(links_of(&self.plan, active))
                    .into_iter()
                    .filter(clear)
                    .collect();
                // A link that is still as slow as the fault made it at least is not healed.
                let below = match &active.fault.kind {
                    FaultKind::Delay { latency, jitter, .. } => Some(Ms(latency.0.saturating_sub(jitter.0))),
                    _ => None,
                };
                Back::Links(links, below)
            }
            kind => {
                let up = |node: &&NodeName| want(&self.on, &self.present, node) == Want::Running;
                let nodes = active.targets.iter().filter(up).cloned().collect();
                if *kind == FaultKind::Pause {
                    Back::Resumed(nodes)
                } else {
                    Back::Nodes(nodes)
                }
            }
        }
    }

    /// Starts nodes: those not yet started, and those that a kill or stop holds down (whose fault ends with its last target).
    async fn start(&mut self, nodes: Vec<NodeName>, reply: Reply) {
        for node in &nodes {
            self.present.insert(node.clone());
            for active in &mut self.on {
                if matches!(active.fault.kind, FaultKind::Kill | FaultKind::Stop) && active.targets.contains(node) {
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
        let on = std::mem::take(&mut self.on);
        if on.is_empty() {
            return;
        }
        if let Err(trouble) = self.ops.shape(&[]).await {
            tracing::debug!("links could not be opened before teardown: {trouble}");
        }
        for active in on.iter().rev() {
            if active.fault.kind == FaultKind::Pause {
                for trouble in join_all(active.targets.iter().map(|node| self.ops.resume(node))).await {
                    tracing::debug!("resume before teardown: {trouble:?}");
                }
            }
            let (targets, detail) = (&active.targets, "the network is being removed".to_owned());
            self.desk
                .record(fault_record(&active.fault.id, FaultState::Reverted, targets, detail));
        }
    }

    /// Links whose ends are both up, so that bytes could pass.
    fn live(&self, links: Vec<LinkId>) -> Vec<LinkId> {
        let up = |node: &str| want(&self.on, &self.present, node) == Want::Running;
        links
            .into_iter()
            .filter(|link| up(&link.from) && up(&link.to))
            .collect()
    }
}

/// The answer to whoever asked the keeper.
type Reply = oneshot::Sender<Result<(), String>>;

/// What has to be seen while a fault is on.
enum Look {
    Gone(Vec<NodeName>),
    Paused(Vec<NodeName>),
    Cut {
        cut: Vec<LinkId>,
        open: Vec<LinkId>,
    },
    Slow {
        links: Vec<LinkId>,
        least: Ms,
        most: Ms,
    },
    Misbehaving {
        targets: Vec<NodeName>,
        how: String,
        limit: Ms,
    },
}

impl Look {
    /// Looks from outside the injector; the evidence in words.
    async fn verify(&self, prober: &Prober) -> Result<String, String> {
        match self {
            Self::Gone(nodes) => all(nodes.iter().map(|node| prober.gone(node, VERIFY))).await,
            Self::Paused(nodes) => all(nodes.iter().map(|node| prober.paused(node, VERIFY))).await,
            Self::Cut { cut, open } => prober.cut(cut, open, VERIFY).await,
            Self::Slow { links, least, most } => prober.slow(links, *least, *most, VERIFY + *least).await,
            Self::Misbehaving { targets, how, limit } => {
                all(targets.iter().map(|node| prober.misbehaving(node, how, *limit))).await
            }
        }
    }
}

/// What has to be seen when a fault is gone.
enum Back {
    Nodes(Vec<NodeName>),
    Resumed(Vec<NodeName>),
    /// Links that carry bytes, the first within this time where one is given.
    Links(Vec<LinkId>, Option<Ms>),
}

impl Back {
    /// Nodes have until `limit` to answer.
    async fn verify(&self, prober: &Prober, limit: Ms) -> Result<String, String> {
        let nodes = match self {
            Self::Links(links, below) => return prober.open(links, *below, VERIFY).await,
            Self::Resumed(nodes) => {
                all(nodes.iter().map(|node| prober.awake(node, VERIFY))).await?;
                nodes
            }
            Self::Nodes(nodes) => nodes,
        };
        all(nodes.iter().map(|node| prober.answering(node, None, limit))).await
    }
}

/// Does to nodes what a fault says; links have been shaped before.
async fn strike(prober: &Prober, Active { fault, targets, .. }: &Active) -> Result<(), Trouble> {
    let ops = &prober.ops;
    match &fault.kind {
        FaultKind::Kill => try_join_all(targets.iter().map(|node| ops.kill(node))).await.map(drop),
        FaultKind::Pause => try_join_all(targets.iter().map(|node| ops.pause(node))).await.map(drop),
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
    let gone = all(targets.iter().map(|node| prober.gone(node, VERIFY))).await;
    let gone = gone.inspect_err(|seen| record(FaultState::NoEffect, seen.clone()))?;
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

/// Records that a fault's effect has gone by itself: it was not there all the time that it was taken to be.
fn vanished(desk: &Desk, active: &Active, seen: Result<String, String>) {
    if let Err(seen) = seen {
        let detail = format!("its effect vanished before its end: {seen}");
        desk.record(fault_record(
            &active.fault.id,
            FaultState::NoEffect,
            &active.targets,
            detail,
        ));
    }
}

/// Whether a fault is one of links.
const fn is_link_fault(kind: &FaultKind) -> bool {
    matches!(
        kind,
        FaultKind::Partition { .. } | FaultKind::Isolate { .. } | FaultKind::Delay { .. }
    )
}

/// What a node has to be under these faults.
fn want(on: &[Active], present: &BTreeSet<NodeName>, node: &str) -> Want {
    if !present.contains(node) {
        return Want::Absent;
    }
    let struck =
        |active: &&Active| active.targets.iter().any(|target| target == node) && !active.started.contains(node);
    let mut want = Want::Running;
    for active in on.iter().filter(struck) {
        match active.fault.kind {
            FaultKind::Kill | FaultKind::Stop => return Want::Down,
            FaultKind::Pause => want = Want::Paused,
            _ => {}
        }
    }
    want
}

/// The shapes of all links that are not clear under these faults.
fn shapes(plan: &Plan, on: &[Active]) -> Vec<LinkShape> {
    let mut shapes: BTreeMap<LinkId, LinkShape> = BTreeMap::new();
    for active in on {
        for link in links_of(plan, active) {
            let clear = LinkShape {
                link: link.clone(),
                cut: false,
                latency: Ms(0),
                jitter: Ms(0),
            };
            let shape = shapes.entry(link).or_insert(clear);
            match &active.fault.kind {
                FaultKind::Delay { latency, jitter, .. } => {
                    shape.latency = shape.latency + *latency;
                    shape.jitter = shape.jitter + *jitter;
                }
                _ => shape.cut = true,
            }
        }
    }
    shapes.into_values().collect()
}

/// The links that a fault concerns; none for a fault of nodes.
fn links_of(plan: &Plan, active: &Active) -> Vec<LinkId> {
    let concerned = |from: &str, to: &str| match &active.fault.kind {
        FaultKind::Partition { sides, .. } => {
            let side = |node: &str| sides.iter().position(|side| side.iter().any(|name| name == node));
            side(from) != side(to)
        }
        FaultKind::Isolate { .. } => active.targets.iter().any(|target| target == from || target == to),
        FaultKind::Delay { links, .. } => links
            .iter()
            .any(|(a, b)| (a == from && b == to) || (a == to && b == from)),
        _ => false,
    };
    all_links(plan)
        .into_iter()
        .filter(|link| concerned(&link.from, &link.to))
        .collect()
}

/// Every link of the plan.
pub(super) fn all_links(plan: &Plan) -> Vec<LinkId> {
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

/// Waits for all; the evidence of each, or the first that failed.
async fn all(checks: impl Iterator<Item = impl Future<Output = Result<String, String>>>) -> Result<String, String> {
    Ok(try_join_all(checks).await?.join("; "))
}
