//! Upgrades: who is on the way to which version, which versions run side by side, and whether a batch may be followed by the next.

use super::faults::Life;
use super::liveness::LAST_LINES;
use super::notes::Draft;
use super::{Judge, list};
use crate::model::upgrade::Upgrade;
use crate::model::verdict::{Class, MixedReport, MoveReport, UpgradeReport};
use crate::model::{Action, FaultKind, Ms, NodeName, Step};
use crate::record::UpgradeState;

/// What is known of the gate of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GateSeen {
    /// Its nodes are with the others and the network has grown; the quorum's height.
    Passed(u64),
    /// The process of this node has ended, so that it cannot be passed any more.
    Ended(NodeName),
    /// It is not passed: the node that is not with the others, if it is one, and what was seen.
    Waits(Option<NodeName>, String),
}

/// A node on its way from one version to another.
#[derive(Clone, Debug)]
pub(super) struct Moving {
    step: usize,
    node: usize,
    from: String,
    to: String,
    back: bool,
    begun: Ms,
    replaced: Option<Ms>,
    verified: Option<Ms>,
    reports: Option<String>,
    gated: Option<Ms>,
    failed: Option<(Ms, String)>,
}

/// A time in which nodes of the network ran different versions.
#[derive(Clone, Debug)]
pub(super) struct Mixed {
    from: Ms,
    to: Option<Ms>,
    versions: Vec<String>,
}

impl Life {
    /// Whether it is a batch of an upgrade that has not passed its gate: until then whatever its nodes do is its doing.
    pub(super) const fn is_moving(&self) -> bool {
        matches!(self.fault.kind, FaultKind::Upgrade) && self.planned.is_some() && self.gated.is_none()
    }
}

impl Judge {
    /// Takes in how far a node has come.
    pub(super) fn moved(&mut self, id: &str, node: &str, (from, to): (&str, &str), back: bool, state: &UpgradeState) {
        let now = self.now;
        let of_it = |step: &&Step| matches!(&step.action, Action::Upgrade(upgrade) if upgrade.id == id);
        let Some(step) = self.plan.steps.iter().find(of_it).map(|step| step.index) else {
            return;
        };
        let Some(i) = self.index(node) else { return };
        if *state == UpgradeState::Begun {
            self.moves.push(Moving {
                step,
                node: i,
                from: from.to_owned(),
                to: to.to_owned(),
                back,
                begun: now,
                replaced: None,
                verified: None,
                reports: None,
                gated: None,
                failed: None,
            });
            return;
        }
        let known = |one: &&mut Moving| (one.step, one.node, one.back) == (step, i, back);
        let Some(one) = self.moves.iter_mut().rev().find(known) else {
            return;
        };
        match state {
            UpgradeState::Begun => {}
            UpgradeState::Replaced => {
                one.replaced = Some(now);
                to.clone_into(&mut self.runs[i]);
                self.mix();
            }
            UpgradeState::Verified { reports } => {
                one.verified = Some(now);
                one.reports = Some(reports.clone());
            }
            UpgradeState::Gated { .. } => {
                one.gated = Some(now);
                self.gated(step, i, back);
            }
            UpgradeState::Failed { code, expected, seen } => {
                one.failed = Some((now, seen.clone()));
                let (begun, words) = (one.begun, self.last_words(i, seen));
                for at in self.lives_of(step, i, back) {
                    self.faults[at].failed = Some(now);
                }
                self.view_stale = true;
                let height = self.nodes[i].last.as_ref().map(|seen| seen.height);
                self.find(Draft {
                    node: Some(i),
                    height,
                    expected: expected.clone(),
                    seen: words,
                    step: Some(step),
                    ..Draft::new(code.clone(), Class::ExpectationFailed, begun)
                });
            }
        }
    }

    /// What was seen of a node, with how its process ended, if it did.
    fn last_words(&self, i: usize, seen: &str) -> String {
        let node = &self.nodes[i];
        match node.exit.as_ref().filter(|_| node.alive == Some(false)) {
            Some(exit) => format!("{seen}: {exit}"),
            None => seen.to_owned(),
        }
    }

    /// A node has passed its gate. With the last of its batch the batch is over; on the way back, so is the batch that had failed.
    fn gated(&mut self, step: usize, i: usize, back: bool) {
        let now = self.now;
        let done = |one: &Moving| one.gated.is_some();
        for at in self.lives_of(step, i, back) {
            let life = &self.faults[at];
            let passed = life.targets.iter().all(|node| {
                let last = |one: &&Moving| (one.step, one.node, one.back) == (step, *node, back);
                self.moves.iter().rev().find(last).is_some_and(done)
            });
            if !passed {
                continue;
            }
            let forth = if back {
                self.lives_of(step, i, false)
            } else {
                Vec::new()
            };
            for at in forth.into_iter().chain([at]) {
                let life = &mut self.faults[at];
                if life.planned.is_some() {
                    life.gated = life.gated.or(Some(now));
                    life.failed = None;
                    life.reverted = life.reverted.or(Some(now));
                    life.revert_verified = life.revert_verified.or(Some(now));
                    life.recovered = life.recovered.or(Some(now));
                }
            }
        }
        self.view_stale = true;
    }

    /// The batch of a step that a node is in, on the way there or on the way back.
    fn lives_of(&self, step: usize, i: usize, back: bool) -> Vec<usize> {
        let Some(Action::Upgrade(upgrade)) = self.plan.steps.get(step).map(|step| &step.action) else {
            return Vec::new();
        };
        let batches = upgrade.batches.iter();
        let ids = batches.map(|batch| if back { &batch.back } else { &batch.forth });
        let ids: Vec<&str> = ids.map(|fault| fault.id.as_str()).collect();
        let of_it = |at: &usize| {
            let life = &self.faults[*at];
            ids.contains(&life.fault.id.as_str()) && life.targets.contains(&i)
        };
        (0..self.faults.len()).filter(of_it).collect()
    }

    /// Which versions run side by side from now on, once an upgrade has begun.
    pub(super) fn mix(&mut self) {
        if self.moves.is_empty() {
            return;
        }
        let now = self.now;
        let started = self.nodes.iter().zip(&self.runs).filter(|(node, _)| node.started);
        let mut versions: Vec<String> = started.map(|(_, version)| version.clone()).collect();
        versions.sort();
        versions.dedup();
        let open = self.mixed.last_mut().filter(|mixed| mixed.to.is_none());
        match (open, versions.len() > 1) {
            (Some(open), true) if open.versions == versions => {}
            (open, mixed) => {
                if let Some(open) = open {
                    open.to = Some(now);
                }
                if mixed {
                    self.mixed.push(Mixed {
                        from: now,
                        to: None,
                        versions,
                    });
                }
            }
        }
    }

    /// What is known of the gate of a batch, by the id of its fault; `goal` is the height that the quorum has to have reached.
    #[must_use]
    pub fn gate(&self, id: &str, goal: u64) -> GateSeen {
        let Some(at) = self.faults.iter().position(|life| life.fault.id == id) else {
            return GateSeen::Waits(None, format!("there is no \"{id}\""));
        };
        let life = &self.faults[at];
        // Other faults may strike the nodes of a batch meanwhile.
        let struck = |i: usize| {
            let ends = |life: &Life| life.fault.kind.ends_processes() || life.fault.kind == FaultKind::Pause;
            let by = |(other, life): (usize, &Life)| other != at && life.declared() && ends(life) && life.holds(i);
            self.faults.iter().enumerate().any(by)
        };
        let gone = |i: &&usize| self.nodes[**i].alive == Some(false) && !struck(**i);
        if let Some(i) = life.targets.iter().find(gone) {
            return GateSeen::Ended(self.nodes[*i].name.clone());
        }
        let (q, lag) = (self.heights.q, self.plan.invariants.max_lag);
        // One that was with the others once may stand still since.
        let with_others = |i: &usize| {
            let node = &self.nodes[*i];
            let near = |height: u64| q.saturating_sub(height) <= lag;
            node.silence.is_none() && node.last.as_ref().is_some_and(|seen| near(seen.height))
        };
        let away = if life.recovered.is_some() {
            life.targets.iter().copied().find(|i| !with_others(i))
        } else {
            let returning = self.returning(at);
            returning.first().or(life.targets.first()).copied()
        };
        match away {
            None if q >= goal => GateSeen::Passed(q),
            away => {
                let name = away.map(|i| self.nodes[i].name.clone());
                GateSeen::Waits(name, format!("the quorum's height is {q}; {}", self.heights_words()))
            }
        }
    }

    /// How many nodes of an upgrade have passed their gates.
    #[must_use]
    pub fn moved_of(&self, id: &str) -> usize {
        let of_it = |(_, upgrade): &(&Step, &Upgrade)| upgrade.id == id;
        let step = self.plan.upgrades().find(of_it).map(|(step, _)| step.index);
        let passed = |one: &&Moving| Some(one.step) == step && !one.back && one.gated.is_some();
        self.moves.iter().filter(passed).count()
    }

    /// Whether no fault holds any of these nodes down, as far as is known; an upgrade that has failed holds nobody.
    #[must_use]
    pub fn are_free(&self, nodes: &[NodeName]) -> bool {
        let nodes: Vec<usize> = nodes.iter().filter_map(|node| self.index(node)).collect();
        let holds = |life: &Life| {
            let down = life.fault.kind.ends_processes() || life.fault.kind == FaultKind::Pause;
            life.declared() && !life.broken() && down && nodes.iter().any(|i| life.holds(*i))
        };
        !self.faults.iter().any(holds)
    }

    /// Whether the process of a node is known to be gone.
    #[must_use]
    pub fn is_gone(&self, node: &str) -> bool {
        self.index(node).is_some_and(|i| self.nodes[i].alive == Some(false))
    }

    /// What became of an upgrade in a few words.
    pub(super) fn upgrade_words(&self, step: usize, upgrade: &Upgrade) -> String {
        let moved = self.moved_of(&upgrade.id);
        let back = self.moves.iter().filter(|one| one.step == step && one.back);
        let back: Vec<String> = back
            .filter(|one| one.gated.is_some())
            .map(|one| self.nodes[one.node].name.clone())
            .collect();
        let words = format!("{moved} of {} nodes moved to {}", upgrade.nodes().count(), upgrade.to);
        if back.is_empty() {
            return words;
        }
        format!("{words}; back again: {}", list(back))
    }

    /// What was seen of a node, with what its log complained of: since something was done to it the first line, and of one that has just fallen
    /// behind the last. That says more than where its program ended.
    pub(super) fn with_complaint(&self, draft: &Draft) -> String {
        let seen = draft.seen.as_str();
        let Some(i) = draft.node else { return seen.to_owned() };
        let mut of_it = self.complaints.iter().filter(|(_, of, _)| *of == i);
        let line = if draft.code.starts_with("upgrade/") {
            of_it.find(|(at, _, _)| *at >= draft.since)
        } else if draft.code.starts_with("liveness/") {
            of_it.next_back()
        } else {
            None
        };
        let Some((_, _, line)) = line else {
            return seen.to_owned();
        };
        let head = seen.split_once(LAST_LINES).map_or(seen, |(head, _)| head);
        format!("{head}; its log says: {line}")
    }

    pub(super) fn upgrade_reports(&self) -> Vec<UpgradeReport> {
        let ms = |at: Ms| self.since_ready(at);
        let report = |(step, upgrade): (&Step, &Upgrade)| UpgradeReport {
            id: upgrade.id.clone(),
            step: step.index,
            to: upgrade.to.clone(),
            nodes: (self.moves.iter())
                .filter(|one| one.step == step.index)
                .map(|one| MoveReport {
                    node: self.nodes[one.node].name.clone(),
                    from: one.from.clone(),
                    to: one.to.clone(),
                    back: one.back,
                    begun_ms: ms(one.begun),
                    replaced_ms: one.replaced.map(ms),
                    verified_ms: one.verified.map(ms),
                    reports: one.reports.clone(),
                    gated_ms: one.gated.map(ms),
                    failed_ms: one.failed.as_ref().map(|(at, _)| ms(*at)),
                })
                .collect(),
        };
        self.plan.upgrades().map(report).collect()
    }

    pub(super) fn mixed_reports(&self) -> Vec<MixedReport> {
        let ms = |at: Ms| self.since_ready(at);
        let report = |mixed: &Mixed| MixedReport {
            versions: mixed.versions.clone(),
            from_ms: ms(mixed.from),
            to_ms: mixed.to.map(ms),
        };
        self.mixed.iter().map(report).collect()
    }

    /// The version that each node runs in the end, where any was moved.
    pub(super) fn versions_now(&self) -> std::collections::BTreeMap<NodeName, String> {
        if self.moves.is_empty() {
            return std::collections::BTreeMap::new();
        }
        let nodes = self.nodes.iter().zip(&self.runs);
        nodes
            .map(|(node, version)| (node.name.clone(), version.clone()))
            .collect()
    }
}
