//! Upgrades: batch by batch to another version, each through its gate; and back, where that fails and the file says so.

use std::collections::BTreeMap;

use futures::future::{join_all, try_join_all};

use super::Message;
use super::faults::Request;
use super::probe::{Away, Prober};
use super::steps::{Failure, Network};
use super::{Desk, lock};
use crate::backend::{NodeSpec, Trouble};
use crate::chain::{ChainAdapter, ChainError, Rendered};
use crate::judge::GateSeen;
use crate::model::upgrade::{Batch, Gate, OnFailure, Upgrade};
use crate::model::verdict::Class;
use crate::model::{Fault, Ms, NodeName, Plan, STOP_GRACE};
use crate::record::{FaultState, Record, UpgradeState};

/// How long the judge has to hear of what was seen already.
const HEARD: Ms = Ms(2000);

/// What nodes are as each version that they may be moved to, or back to.
pub(super) type Later = BTreeMap<(NodeName, String), NodeSpec>;

/// Renders the nodes that a plan upgrades, as each version that they have then. `render` makes the nodes of a plan.
///
/// # Errors
/// What cannot be rendered.
pub(super) fn later(
    plan: &Plan,
    rendered: &Rendered,
    render: impl Fn(&Plan) -> Result<Rendered, ChainError>,
) -> Result<Later, ChainError> {
    let mut all = Later::new();
    let mut keep = |nodes: &[&NodeName], specs: &[NodeSpec], version: &dyn Fn(&str) -> Option<String>| {
        for spec in specs.iter().filter(|spec| nodes.contains(&&spec.name)) {
            // Wherever one is moved it has been started before.
            let spec = NodeSpec {
                started: true,
                ..spec.clone()
            };
            if let Some(version) = version(&spec.name) {
                all.insert((spec.name.clone(), version), spec);
            }
        }
    };
    for (_, upgrade) in plan.upgrades() {
        let nodes: Vec<&NodeName> = upgrade.nodes().collect();
        let first = |name: &str| {
            let node = plan.network.nodes.iter().find(|node| node.name == name)?;
            Some(node.version.clone())
        };
        keep(&nodes, &rendered.nodes, &first);
        let mut moved = plan.clone();
        for node in &mut moved.network.nodes {
            if nodes.contains(&&node.name) {
                node.version.clone_from(&upgrade.to);
            }
        }
        keep(&nodes, &render(&moved)?.nodes, &|_| Some(upgrade.to.clone()));
    }
    Ok(all)
}

/// The texts in nodes' logs by which their programs say that they are broken, where the plan needs them as evidence.
pub(super) fn alarms(plan: &Plan, adapter: &dyn ChainAdapter) -> &'static [&'static str] {
    if plan.upgrades().next().is_some() {
        adapter.alarms()
    } else {
        &[]
    }
}

/// A node on its way from one version to another.
#[derive(Clone, Debug)]
pub(super) struct Move {
    /// The step's id.
    id: String,
    node: NodeName,
    from: String,
    to: String,
    back: bool,
    /// What it calls itself afterwards; `None`: that is not known.
    called: Option<String>,
    spec: NodeSpec,
}

/// Why a batch did not get where it should.
#[derive(Debug)]
pub(super) enum Unmoved {
    /// Something outside the chain failed; unless it is said here only, it is in the records.
    Undone(String),
    /// The nodes, or the network with them, did not do what they have to: what each of them did not, or what they all together.
    Failed(Vec<Shortfall>),
}

/// What a batch did not do.
#[derive(Clone, Debug)]
pub(super) struct Shortfall {
    code: &'static str,
    /// `None`: all nodes of the batch together.
    node: Option<NodeName>,
    expected: String,
    seen: String,
}

impl Network {
    /// Moves nodes to another version, and back if that fails and the file says so.
    pub(super) async fn upgrade(&self, upgrade: &Upgrade) -> Result<(), Failure> {
        let mut done: Vec<&Batch> = Vec::new();
        for batch in &upgrade.batches {
            if !done.is_empty() {
                tokio::time::sleep(upgrade.pause.duration()).await;
            }
            let moves = self.forth(upgrade, batch)?;
            done.push(batch);
            let failure = match Box::pin(self.move_batch(&batch.forth, &moves, upgrade.gate)).await {
                Ok(()) => continue,
                Err(Unmoved::Undone(seen)) => return Err(undone(upgrade, seen)),
                Err(Unmoved::Failed(shortfalls)) => failed(shortfalls, None),
            };
            if upgrade.on_failure == OnFailure::Rollback {
                Box::pin(self.roll_back(upgrade, &done)).await?;
            }
            return Err(failure);
        }
        Ok(())
    }

    /// Moves batches back to what their nodes were at first, the last one first. Ends at the first that does not get there: to take more nodes away
    /// could cost the network its quorum.
    async fn roll_back(&self, upgrade: &Upgrade, done: &[&Batch]) -> Result<(), Failure> {
        for batch in done.iter().rev() {
            let moves = self.back(upgrade, batch)?;
            match Box::pin(self.move_batch(&batch.back, &moves, upgrade.gate)).await {
                Ok(()) => {}
                Err(Unmoved::Undone(seen)) => return Err(undone(upgrade, seen)),
                Err(Unmoved::Failed(shortfalls)) => return Err(failed(shortfalls, Some(ROLLBACK_FAILED))),
            }
        }
        Ok(())
    }

    /// The way of a batch to the new version. What each node runs before is remembered as what it may have to go back to.
    fn forth(&self, upgrade: &Upgrade, batch: &Batch) -> Result<Vec<Move>, Failure> {
        let mut versions = lock(&self.versions);
        let moves = batch.nodes().iter().map(|node| {
            let from = versions.insert(node.clone(), upgrade.to.clone()).unwrap_or_default();
            lock(&self.before).insert((upgrade.id.clone(), node.clone()), from.clone());
            let called = Some(upgrade.expect_version.clone());
            self.one(upgrade, node, (from, upgrade.to.clone()), called, false)
        });
        moves.collect()
    }

    fn back(&self, upgrade: &Upgrade, batch: &Batch) -> Result<Vec<Move>, Failure> {
        let mut versions = lock(&self.versions);
        let moves = batch.nodes().iter().map(|node| {
            let to = lock(&self.before).get(&(upgrade.id.clone(), node.clone())).cloned();
            let to = to.unwrap_or_default();
            let from = versions.insert(node.clone(), to.clone()).unwrap_or_default();
            let called = self.plan.versions.get(&to).and_then(|version| version.reports.clone());
            self.one(upgrade, node, (from, to), called, true)
        });
        moves.collect()
    }

    fn one(
        &self,
        upgrade: &Upgrade,
        node: &NodeName,
        (from, to): (String, String),
        called: Option<String>,
        back: bool,
    ) -> Result<Move, Failure> {
        let spec = self.later.get(&(node.clone(), to.clone())).cloned();
        let spec = spec.ok_or_else(|| undone(upgrade, format!("nobody has made {node} as version {to}")))?;
        Ok(Move {
            id: upgrade.id.clone(),
            node: node.clone(),
            from,
            to,
            back,
            called,
            spec,
        })
    }

    /// Replaces the nodes of a batch, and waits for its gate.
    async fn move_batch(&self, fault: &Fault, moves: &[Move], gate: Gate) -> Result<(), Unmoved> {
        // Other faults may strike meanwhile, also these nodes: whoever is down for one comes back first.
        let nodes = fault.targets.nodes().to_vec();
        let free = |reply| Message::Free(nodes.clone(), reply);
        if self.desk.ask_within(self.plan.limits.start, free).await.is_none() {
            let seen = format!("{} did not become free of other faults", nodes.join(", "));
            return Err(Unmoved::Undone(seen));
        }
        let (asked, all) = (fault.clone(), moves.to_vec());
        let replaced = self.faults.ask(|reply| Request::Replace(asked, all, reply)).await;
        let outcome = match replaced.map_err(Unmoved::Undone).and_then(|replaced| replaced) {
            Ok(()) => self.gate(fault, gate).await,
            Err(unmoved) => Err(unmoved),
        };
        match outcome {
            Ok(height) => {
                for one in moves {
                    one.record(&self.desk, UpgradeState::Gated { height });
                }
                Ok(())
            }
            Err(Unmoved::Failed(shortfalls)) => {
                for shortfall in &shortfalls {
                    let missed = |one: &&Move| shortfall.node.as_ref().is_none_or(|node| *node == one.node);
                    for one in moves.iter().filter(missed) {
                        self.missed(one, shortfall.clone()).await;
                    }
                }
                Err(Unmoved::Failed(shortfalls))
            }
            Err(undone) => Err(undone),
        }
    }

    /// Records what a node did not do.
    async fn missed(&self, one: &Move, shortfall: Shortfall) {
        let Shortfall {
            code, expected, seen, ..
        } = shortfall;
        if code == EXITED {
            // That it ended, and its last words, come from whoever owns the process.
            let ended = |reply| Message::Ended(one.node.clone(), reply);
            let _heard = self.desk.ask_within(HEARD, ended).await;
        }
        let code = if one.back { ROLLBACK_FAILED } else { code }.to_owned();
        one.record(&self.desk, UpgradeState::Failed { code, expected, seen });
    }

    /// Waits until the nodes of a batch are with the others again and the network has grown; the quorum's height then.
    async fn gate(&self, fault: &Fault, Gate { grow, within }: Gate) -> Result<u64, Unmoved> {
        let from = self.desk.ask(Message::Missing).await.quorum_height;
        let asked = |reply| Message::Gate(fault.id.clone(), from + grow, reply);
        let seen = match self.desk.ask_within(within, asked).await {
            Some(seen) => seen,
            None => {
                let now = |reply| Message::GateNow(fault.id.clone(), from + grow, reply);
                self.desk.ask(now).await
            }
        };
        let shortfall = |code, node, seen| Shortfall {
            code,
            node,
            expected: format!(
                "{} with the others again and the network grown by {grow} blocks, from {from}, within {within}",
                fault.targets.nodes().join(", ")
            ),
            seen,
        };
        match seen {
            GateSeen::Passed(height) => Ok(height),
            GateSeen::Ended(node) => Err(Unmoved::Failed(vec![shortfall(
                EXITED,
                Some(node),
                "its process ended by itself".to_owned(),
            )])),
            GateSeen::Waits(node, seen) => Err(Unmoved::Failed(vec![shortfall("upgrade/gate", node, seen)])),
        }
    }
}

/// The code of a process that ended by itself.
const EXITED: &str = "upgrade/exited";
/// The code of anything that fails on the way back.
const ROLLBACK_FAILED: &str = "upgrade/rollback-failed";

impl Move {
    fn record(&self, desk: &Desk, state: UpgradeState) {
        desk.record(Record::Upgrade {
            id: self.id.clone(),
            node: self.node.clone(),
            from: self.from.clone(),
            to: self.to.clone(),
            back: self.back,
            state,
        });
    }
}

/// Stops nodes, starts them as another version, and waits until they answer and say so. The records of the fault's life are written on the way.
pub(super) async fn replace(
    desk: &Desk,
    prober: &Prober,
    fault: &Fault,
    moves: &[Move],
    limit: Ms,
) -> Result<(), Unmoved> {
    let nodes: Vec<NodeName> = moves.iter().map(|one| one.node.clone()).collect();
    let record = |state, detail: String| {
        desk.record(Record::Fault {
            id: fault.id.clone(),
            state,
            targets: nodes.clone(),
            detail,
        });
    };
    let broken = |trouble: Trouble| {
        desk.record(trouble.clone().into());
        Unmoved::Undone(trouble.to_string())
    };
    let to: Vec<&str> = moves.iter().map(|one| one.to.as_str()).collect();
    record(
        FaultState::Planned,
        format!("to {}", to.first().copied().unwrap_or_default()),
    );
    for one in moves {
        one.record(desk, UpgradeState::Begun);
    }
    let before = try_join_all(nodes.iter().map(|node| prober.state(node)));
    let before = before.await.map_err(Unmoved::Undone)?;
    try_join_all(nodes.iter().map(|node| prober.ops.stop(node, STOP_GRACE)))
        .await
        .map_err(broken)?;
    record(FaultState::Injected, String::new());
    let gone = try_join_all(nodes.iter().map(|node| prober.gone(node, None, super::faults::VERIFY)));
    let gone = gone.await.map_err(|seen| {
        record(FaultState::NoEffect, seen.clone());
        Unmoved::Undone(seen)
    })?;
    record(FaultState::Verified, gone.join("; "));
    try_join_all(moves.iter().map(|one| prober.ops.replace(&one.spec)))
        .await
        .map_err(broken)?;
    record(FaultState::Reverted, String::new());
    for one in moves {
        one.record(desk, UpgradeState::Replaced);
    }
    // Each is heard to its end, also when another has failed: what the batch is then has to be known.
    let risen = join_all((moves.iter().zip(&before)).map(|(one, before)| prober.risen(&one.node, before, limit)));
    let mut shortfalls = Vec::new();
    let mut evidence = Vec::new();
    for (one, risen) in moves.iter().zip(risen.await) {
        match one.verified(risen, limit) {
            Ok((seen, reports)) => {
                one.record(desk, UpgradeState::Verified { reports });
                evidence.push(seen);
            }
            Err(shortfall) => shortfalls.push(shortfall),
        }
    }
    if !shortfalls.is_empty() {
        return Err(Unmoved::Failed(shortfalls));
    }
    record(FaultState::RevertVerified, evidence.join("; "));
    Ok(())
}

impl Move {
    /// Whether what was seen of the node is what was wanted: the evidence, and what it calls itself.
    fn verified(&self, risen: Result<(String, String), Away>, limit: Ms) -> Result<(String, String), Shortfall> {
        let shortfall = |code, expected, seen| Shortfall {
            code,
            node: Some(self.node.clone()),
            expected,
            seen,
        };
        let up = || format!("{} runs as version {} and answers within {limit}", self.node, self.to);
        match (risen, &self.called) {
            (Ok((_, reports)), Some(called)) if reports != *called => Err(shortfall(
                "upgrade/version",
                format!("{} calls itself {called}, as version {}", self.node, self.to),
                format!("it calls itself {reports}"),
            )),
            (Ok(seen), _) => Ok(seen),
            (Err(Away::Ended(seen)), _) => Err(shortfall(EXITED, up(), seen)),
            (Err(Away::Silent(seen)), _) => Err(shortfall("upgrade/silent", up(), seen)),
        }
    }
}

/// That a batch did not get where it should; the first of its nodes stands for all, of which the records tell.
fn failed(shortfalls: Vec<Shortfall>, code: Option<&'static str>) -> Failure {
    let seen: Vec<String> = shortfalls.iter().map(|one| one.seen.clone()).collect();
    let first = shortfalls.into_iter().next();
    let (of_first, expected) = first.map(|one| (one.code, one.expected)).unwrap_or_default();
    Failure::Step {
        code: code.unwrap_or(of_first),
        class: Class::ExpectationFailed,
        expected,
        seen: seen.join("; "),
    }
}

/// What could not be carried out.
fn undone(upgrade: &Upgrade, seen: String) -> Failure {
    Failure::Step {
        code: "infra/fault-failed",
        class: Class::Infrastructure,
        expected: format!("the nodes of {} are replaced by version {}", upgrade.id, upgrade.to),
        seen,
    }
}
