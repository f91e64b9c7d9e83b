//! The lives of the faults, what they amount to together, and what must not happen while they are on.

use std::collections::BTreeMap;

use super::Judge;
use super::effects::{effect_of, forecast, sides, slack};
use super::notes::Draft;
use crate::model::verdict::Class;
use crate::model::{
    Action, Expect, Fault, FaultKind, Invariant, Lasts, Ms, Plan, Plane, Repeat, Step, Targets, Timed, What, Window,
};
use crate::quorum::{Effect, Forecast};
use crate::record::FaultState;

/// So many samples in a row have to be with the others.
pub(super) const STEADY: u32 = 3;

/// A fault as the records tell its life.
#[derive(Clone, Debug)]
pub(super) struct Life {
    pub(super) fault: Fault,
    /// Whether the platform brings its targets back by itself.
    comes_back: bool,
    /// The step that injects it; `None`: a fault of the rehearsal.
    pub(super) step: Option<usize>,
    /// The fault of which it is one more time, by its id.
    pub(super) again: Option<String>,
    /// As resolved.
    pub(super) targets: Vec<usize>,
    pub(super) planned: Option<Ms>,
    pub(super) injected: Option<Ms>,
    pub(super) verified: Option<Ms>,
    pub(super) reverted: Option<Ms>,
    pub(super) revert_verified: Option<Ms>,
    /// No probe saw its effect, or it vanished.
    pub(super) no_effect: Option<Ms>,
    /// It could not be taken back.
    pub(super) stuck: Option<Ms>,
    /// How high its targets had said they were before it began, if what they say from then on may never be kept.
    pub(super) kept: BTreeMap<usize, u64>,
    /// Others have taken the places of some of its targets, for whom it is over.
    pub(super) dropped: Option<Ms>,
    /// These targets, and when.
    pub(super) left: BTreeMap<usize, Ms>,
    /// Somebody began to end it.
    pub(super) ending: Option<Ms>,
    /// Of a batch of an upgrade: it has passed its gate, or was taken back.
    pub(super) gated: Option<Ms>,
    /// Of such a batch: it did not come so far, which is found.
    pub(super) failed: Option<Ms>,
    /// For so long after the revert its targets are not judged: the limit of its `expect.recovery`, or `limits.settle`.
    pub(super) patience: Ms,
    /// M when the revert was verified, and how many samples in a row each node has been with the others since.
    pub(super) recovery: Option<(u64, BTreeMap<usize, u32>)>,
    pub(super) recovered: Option<Ms>,
    /// Why the rehearsal left it out.
    pub(super) skipped: Option<String>,
    /// Of a fault of the rehearsal: its recovery was asked for.
    pub(super) overdue_judged: bool,
    /// M when the effect was verified, and what grew beyond it.
    pub(super) cut: Option<Cut>,
}

/// Growth after a cut.
#[derive(Clone, Debug)]
pub(super) struct Cut {
    /// One block time after *verified*; samples sent later are judged.
    pub(super) from: Ms,
    /// The highest height of any sample sent before.
    pub(super) base: u64,
    /// The first node that grew beyond `base` and the slack: its height, and when.
    pub(super) grew: Option<(usize, u64, Ms)>,
}

/// What the faults that may be in force amount to; the pessimistic view, by which liveness is judged.
#[derive(Clone, Debug, Default)]
pub(super) struct View {
    pub(super) set: Vec<usize>,
    /// Nodes that are not part of the network yet.
    absent: Vec<usize>,
    pub(super) since: Ms,
    pub(super) forecast: Option<Forecast>,
    /// Since when the network has to go on without a break.
    pub(super) goes_on: Option<Ms>,
    /// By node: whether it is on a side with a quorum.
    pub(super) quorum_side: Vec<bool>,
    /// What slow links add to `max_stall`.
    pub(super) slow: Ms,
}

/// What the faults that are certainly on amount to; by it a side without quorum must not grow.
#[derive(Clone, Debug, Default)]
pub(super) struct Certain {
    pub(super) set: Vec<usize>,
    absent: Vec<usize>,
    cut: Option<Cut>,
    /// By node: whether it is up on a side without a quorum.
    without: Vec<bool>,
    /// Whether no side has a quorum.
    pub(super) halted: bool,
}

impl Life {
    /// The lives of all faults of a plan, before they begin.
    pub(super) fn all(plan: &Plan) -> Vec<Self> {
        let of_steps = plan
            .faults()
            .map(|(step, fault)| Self::new(plan, Some(step.index), fault));
        let repeats = plan.repeats.iter().filter_map(|Repeat { step, fault, .. }| {
            let (_, first) = plan.faults().find(|(of, _)| of.index == *step)?;
            let patience = Self::new(plan, Some(*step), first).patience;
            Some(Self {
                again: Some(first.id.clone()),
                patience,
                ..Self::new(plan, Some(*step), fault)
            })
        });
        let batches = plan.upgrades().flat_map(|(step, upgrade)| {
            let both = upgrade.batches.iter().flat_map(|batch| [&batch.forth, &batch.back]);
            both.map(|fault| Self::new(plan, Some(step.index), fault))
        });
        let rehearsed = plan.chaos.iter().flat_map(|chaos| {
            let life = |timed: &Timed| Self {
                patience: chaos.recovery,
                ..Self::new(plan, None, &timed.fault)
            };
            chaos.schedule.iter().map(life)
        });
        let mut all: Vec<Self> = of_steps.chain(repeats).chain(batches).chain(rehearsed).collect();
        // Each fault before its repetitions, for reports; nothing is reckoned by it.
        all.sort_by_key(|life| life.step.unwrap_or(usize::MAX));
        all
    }

    fn new(plan: &Plan, step: Option<usize>, fault: &Fault) -> Self {
        let targets = match &fault.targets {
            Targets::Nodes(names) => names.iter().filter_map(|name| plan.node_index(name)).collect(),
            Targets::Leader { .. } => Vec::new(),
        };
        let patience = plan.steps.iter().find_map(|step| match &step.action {
            Action::Expect(Expect {
                what: What::Recovery { of },
                window: Window::Within(within),
                ..
            }) if *of == fault.id => Some(*within),
            _ => None,
        });
        Self {
            fault: fault.clone(),
            comes_back: plan.comes_back(fault),
            step,
            again: None,
            targets,
            planned: None,
            injected: None,
            verified: None,
            reverted: None,
            revert_verified: None,
            no_effect: None,
            stuck: None,
            kept: BTreeMap::new(),
            dropped: None,
            left: BTreeMap::new(),
            ending: None,
            gated: None,
            failed: None,
            patience: patience.unwrap_or(plan.limits.settle),
            recovery: None,
            recovered: None,
            skipped: None,
            overdue_judged: false,
            cut: None,
        }
    }

    /// Whether an id of the file means it: its own, or that of the first of its series.
    pub(super) fn is_of(&self, id: &str) -> bool {
        self.fault.id == id || self.again.as_deref() == Some(id)
    }

    /// Whether it is one more time of a fault and its effect is still to be seen.
    pub(super) const fn comes_again(&self) -> bool {
        self.again.is_some() && self.verified.is_none() && self.skipped.is_none() && !self.broken()
    }

    /// Whether it is on this node, once it is on.
    pub(super) fn holds(&self, node: usize) -> bool {
        self.targets.contains(&node) && !self.left.contains_key(&node)
    }

    /// Whether it explains what the node does: also for a while after it was dropped there, for whoever took the node's place has to come up.
    fn explains(&self, node: usize, now: Ms) -> bool {
        let left = self.left.get(&node);
        self.targets.contains(&node) && left.is_none_or(|at| now <= *at + self.patience)
    }

    /// From the step's begin until a probe saw that it is gone.
    pub(super) const fn declared(&self) -> bool {
        self.is_moving() || self.planned.is_some() && self.revert_verified.is_none() && self.skipped.is_none()
    }

    /// Whether what its targets do may still be its doing: declared, or reverted and its targets not yet with the others.
    pub(super) fn in_force(&self, now: Ms) -> bool {
        match self.revert_verified {
            _ if self.is_moving() => true,
            _ if self.planned.is_none() || self.skipped.is_some() => false,
            None => true,
            Some(at) => self.recovered.is_none() && now <= at + self.patience,
        }
    }

    /// The moment from which its effect is no longer certain.
    pub(super) fn certain_until(&self) -> Option<Ms> {
        let timed = match (self.fault.lasts, self.verified) {
            (Lasts::For(time), Some(verified)) => Some(verified + time),
            _ => None,
        };
        let ended = [
            self.ending,
            self.dropped,
            self.reverted,
            self.revert_verified,
            self.no_effect,
        ];
        (ended.into_iter().chain([timed])).flatten().min()
    }

    /// Whether its effect is certainly there: verified, and nobody has begun to end it.
    fn certain(&self, now: Ms) -> bool {
        // What the platform brings back may be there again before its absence was even recorded, what was drained on another machine. Nobody knows
        // when a node has to write.
        self.verified.is_some()
            && !matches!(self.fault.lasts, Lasts::Itself)
            && !self.comes_back
            && !matches!(
                self.fault.kind,
                FaultKind::Drain | FaultKind::Fill(_) | FaultKind::ReadOnly
            )
            && self.certain_until().is_none_or(|until| now < until)
    }

    /// Whether it may well last to the very end: nobody has to start a process again that was to stay dead.
    pub(super) fn may_stay(&self) -> bool {
        let dead = matches!(self.fault.kind, FaultKind::Kill | FaultKind::Stop);
        let held = matches!(self.fault.lasts, Lasts::UntilHealed | Lasts::Platform) && !self.comes_back;
        dead && held && self.reverted.is_none()
    }

    /// Whether it explains that a process of its targets ends without being asked.
    fn ends_processes(&self) -> bool {
        match &self.fault.kind {
            // `crash@12`: the height stands after the word. No other misbehaviour excuses a node that dies.
            FaultKind::Misbehave { how, .. } => how.split(['@', '=']).next() == Some("crash"),
            kind => kind.ends_processes() || kind.stops_writing(),
        }
    }

    /// Whether it explains that trialnet ends or starts a process of its targets. One that misbehaves and cannot be told to stop
    /// is started anew.
    pub(super) const fn restarts_processes(&self) -> bool {
        self.fault.kind.ends_processes()
            || matches!(self.fault.kind, FaultKind::Misbehave { .. })
            || self.stops_writing()
    }

    /// Whether it explains that its targets do not answer.
    const fn silences(&self) -> bool {
        match &self.fault.kind {
            FaultKind::Kill
            | FaultKind::Remove(_)
            | FaultKind::Drain
            | FaultKind::Machine(_)
            | FaultKind::Stop
            | FaultKind::Restart
            | FaultKind::Upgrade
            | FaultKind::Pause
            | FaultKind::ReadOnly
            | FaultKind::Misbehave { .. } => true,
            FaultKind::Fill(fill) => fill.is_whole(),
            FaultKind::Partition { plane, .. } | FaultKind::Isolate { plane } => matches!(plane, Plane::All),
            FaultKind::Stress(stress) => stress.cpu > 0,
            FaultKind::Delay { .. } | FaultKind::Loss { .. } | FaultKind::Bandwidth { .. } => false,
        }
    }

    /// Whether a `start` step ends it for the nodes that it names.
    pub(super) const fn ends_by_start(&self) -> bool {
        self.restarts_processes() && !self.stops_writing() && !self.comes_back && !self.fault.kind.strikes_machines()
    }

    /// Whether the data of its targets go with a pod, at a moment that only the platform knows.
    const fn removes_data(&self) -> bool {
        self.fault.wipe && matches!(self.fault.kind, FaultKind::Remove(_) | FaultKind::Drain)
    }

    /// Whether its targets cannot write: they may end for it, and what they said last may never have been written.
    const fn stops_writing(&self) -> bool {
        self.fault.kind.stops_writing()
    }

    /// Whether it is bound to be taken back, and that has not been seen yet or found impossible, so that recovery could not begin: a timed
    /// fault that is still on; a link or a halted process, which comes back by trialnet's doing and not the chain's; what the platform
    /// brings back.
    pub(super) fn awaits_revert(&self) -> bool {
        if self.revert_verified.is_some() || self.broken() {
            return false;
        }
        let timed = matches!(self.fault.lasts, Lasts::For(_)) && self.verified.is_some() && self.reverted.is_none();
        let by_trialnet = matches!(
            self.fault.kind,
            FaultKind::Pause | FaultKind::Stress(_) | FaultKind::Fill(_) | FaultKind::ReadOnly
        ) || self.fault.kind.is_of_links();
        let by_platform = self.comes_back && self.verified.is_some();
        timed || by_platform || (by_trialnet && self.reverted.is_some())
    }

    /// The moment from which its targets are on their way back, as far as is known.
    pub(super) fn back_since(&self) -> Ms {
        self.revert_verified.or(self.reverted).unwrap_or_default()
    }

    const fn is_partition(&self) -> bool {
        matches!(self.fault.kind, FaultKind::Partition { .. })
    }

    /// Whether it had its effect and was really taken back, as far as is known.
    pub(super) const fn broken(&self) -> bool {
        self.no_effect.is_some() || self.stuck.is_some() || self.failed.is_some()
    }
}

impl Judge {
    /// Takes in a state of a fault's life.
    pub(super) fn fault_state(&mut self, id: &str, state: FaultState, targets: &[String], detail: &str) {
        let Some(at) = self.faults.iter().position(|life| life.fault.id == id) else {
            return;
        };
        let now = self.now;
        let resolved: Vec<usize> = targets.iter().filter_map(|name| self.index(name)).collect();
        let m = self.heights.m;
        let grace = self.grace();
        let life = &mut self.faults[at];
        if !resolved.is_empty() && state != FaultState::Dropped {
            life.targets.clone_from(&resolved);
        }
        match state {
            FaultState::Planned => {
                life.planned = life.planned.or(Some(now));
                if life.stops_writing() {
                    let nodes = &self.nodes;
                    life.kept = life.targets.iter().map(|node| (*node, nodes[*node].floor)).collect();
                }
            }
            FaultState::Injected => life.injected = life.injected.or(Some(now)),
            FaultState::Verified => {
                life.verified = life.verified.or(Some(now));
                life.cut = Some(Cut {
                    from: now + grace,
                    base: m,
                    grew: None,
                });
            }
            FaultState::Reverted => life.reverted = life.reverted.or(Some(now)),
            FaultState::RevertVerified => {
                life.reverted = life.reverted.or(Some(now));
                life.revert_verified = life.revert_verified.or(Some(now));
                life.recovery = Some((m, BTreeMap::new()));
                self.settle_anew();
            }
            // Of a network that is being removed nothing can be said.
            FaultState::NoEffect | FaultState::Stronger | FaultState::RevertFailed if self.closed.is_some() => {}
            FaultState::NoEffect => self.fault_broken(at, "infra/fault-no-effect", detail),
            FaultState::Stronger => self.fault_broken(at, "infra/fault-stronger", detail),
            FaultState::RevertFailed => self.fault_broken(at, "infra/revert-failed", detail),
            FaultState::AlreadyEnded => {}
            FaultState::Dropped => {
                life.dropped = life.dropped.or(Some(now));
                life.left.extend(resolved.into_iter().map(|node| (node, now)));
            }
            FaultState::Skipped => life.skipped = Some(detail.to_owned()),
        }
        // Whatever else happens, a fault that has a state was planned.
        if !matches!(state, FaultState::AlreadyEnded | FaultState::Skipped) {
            let life = &mut self.faults[at];
            life.planned = life.planned.or(Some(now));
        }
        self.view_stale = true;
    }

    fn fault_broken(&mut self, at: usize, code: &'static str, detail: &str) {
        let now = self.now;
        let life = &mut self.faults[at];
        let step = life.step;
        let word = life.fault.kind.word();
        let id = life.fault.id.clone();
        let expected = match code {
            "infra/revert-failed" => {
                life.stuck = life.stuck.or(Some(now));
                format!("a probe sees that {word} \"{id}\" is gone")
            }
            // What was struck besides may be what the chain suffers from: it is as little evidence as no effect.
            _ => {
                life.no_effect = life.no_effect.or(Some(now));
                match code {
                    "infra/fault-stronger" => format!("{word} \"{id}\" strikes what it names and nothing else"),
                    _ => format!("a probe sees the effect of {word} \"{id}\" to its end"),
                }
            }
        };
        let node = match life.targets.as_slice() {
            [only] => Some(*only),
            _ => None,
        };
        if step.is_some_and(|step| self.notes.about_step(code, step)) {
            return;
        }
        self.find(Draft {
            node,
            expected,
            seen: detail.to_owned(),
            step,
            ..Draft::new(code, Class::Infrastructure, now)
        });
    }

    /// Whether a step failed with this code for what a finding about one of its faults says already.
    pub(super) fn told_of_fault(&self, code: &str, step: usize) -> bool {
        let healed = |life: &Life| match self.plan.steps.get(step).map(|step| &step.action) {
            Some(Action::Heal { faults }) => faults.iter().any(|id| life.is_of(id)),
            _ => false,
        };
        self.faults.iter().any(|life| match code {
            "infra/fault-failed" => life.step == Some(step) && life.no_effect.is_some(),
            "infra/revert-failed" => healed(life) && life.stuck.is_some(),
            _ => false,
        })
    }

    /// Remembers that these faults are being ended.
    pub(super) fn ending(&mut self, ids: impl Fn(&Life) -> bool) {
        let now = self.now;
        for life in &mut self.faults {
            if life.declared() && ids(life) {
                life.ending = life.ending.or(Some(now));
                self.view_stale = true;
            }
        }
    }

    /// Whether nothing of a fault is left, as far as is known: its revert was seen, or it is known to be broken.
    #[must_use]
    pub fn is_over(&self, id: &str) -> bool {
        let over = |life: &Life| life.revert_verified.is_some() || life.broken() || life.skipped.is_some();
        self.faults.iter().filter(|life| life.fault.id == id).all(over)
    }

    /// A fault and its repetitions, without those that were left out.
    pub(super) fn series(&self, id: &str) -> Vec<usize> {
        let of = |at: &usize| self.faults[*at].is_of(id) && self.faults[*at].skipped.is_none();
        (0..self.faults.len()).filter(of).collect()
    }

    /// The ids of the faults that are on.
    pub(super) fn faults_on(&self) -> Vec<String> {
        self.faults
            .iter()
            .filter(|life| life.declared())
            .map(|life| life.fault.id.clone())
            .collect()
    }

    /// What messages that are under way may take after a cut: one block time, and the greatest delay that is on, both ways.
    fn grace(&self) -> Ms {
        let slow = self.slowest();
        self.plan.network.block_time + slow + slow
    }

    fn slowest(&self) -> Ms {
        let slow = |life: &Life| match &life.fault.kind {
            FaultKind::Delay { latency, jitter, .. } if life.in_force(self.now) => *latency + *jitter,
            _ => Ms(0),
        };
        self.faults.iter().map(slow).max().unwrap_or_default()
    }

    /// Nodes that are not part of the network yet: not started, or started late and not with the others so far.
    pub(super) fn absent(&self) -> Vec<usize> {
        let absent = |i: &usize| !self.nodes[*i].started || self.nodes[*i].join_by.is_some();
        (0..self.nodes.len()).filter(absent).collect()
    }

    pub(super) fn effects(&self, set: &[usize], absent: &[usize]) -> Vec<Effect> {
        let of = |&at: &usize| effect_of(&self.plan, &self.faults[at].fault, &self.faults[at].targets);
        let mut effects: Vec<Effect> = set.iter().filter_map(of).collect();
        if !absent.is_empty() {
            effects.push(Effect::Down(absent.iter().copied().collect()));
        }
        effects
    }

    /// What must happen if only these faults are on, and which nodes are then on a side with a quorum.
    pub(super) fn under(&self, set: &[usize]) -> (Forecast, Vec<bool>) {
        let absent = self.absent();
        let effects = self.effects(set, &absent);
        if effects.is_empty() {
            return (Forecast::MustGoOn, vec![true; self.nodes.len()]);
        }
        let mut quorum_side = vec![false; self.nodes.len()];
        for side in sides(&self.net, &effects).into_iter().filter(|side| side.quorum) {
            for node in side.nodes.into_iter().filter(|node| *node < self.nodes.len()) {
                quorum_side[node] = true;
            }
        }
        (forecast(&self.net, &effects), quorum_side)
    }

    /// Brings both views of the faults up to date; cheap where nothing has changed.
    pub(super) fn refresh(&mut self) {
        let now = self.now;
        // Nodes on their way in are among the absent ones.
        for at in 0..self.view.absent.len() {
            let node = &mut self.nodes[self.view.absent[at]];
            if node.join_by.is_some_and(|by| now > by) {
                node.join_by = None;
                self.view_stale = true;
            }
        }
        let force = |at: &usize| self.faults[*at].in_force(now);
        let sure = |at: &usize| self.faults[*at].certain(now);
        let all = 0..self.faults.len();
        let same = all.clone().filter(force).eq(self.view.set.iter().copied())
            && all.clone().filter(sure).eq(self.certain.set.iter().copied());
        if !self.view_stale && same {
            return;
        }
        let set: Vec<usize> = all.clone().filter(force).collect();
        let certain: Vec<usize> = all.filter(sure).collect();
        self.view_stale = false;
        let absent = self.absent();
        if certain != self.certain.set || absent != self.certain.absent {
            self.renew_certain(certain, &absent);
        }
        let (forecast, quorum_side) = self.under(&set);
        let slow = self.slowest();
        let same = set == self.view.set && absent == self.view.absent && self.view.forecast == Some(forecast);
        let goes_on = (forecast == Forecast::MustGoOn).then(|| self.view.goes_on.unwrap_or(now));
        self.view = View {
            since: if same { self.view.since } else { now },
            goes_on,
            set,
            absent,
            forecast: Some(forecast),
            quorum_side,
            // A height takes three messages one after the other, and a few rounds where time-outs are shorter than the links.
            slow: Ms(slow.0.saturating_mul(10)),
        };
    }

    fn renew_certain(&mut self, set: Vec<usize>, absent: &[usize]) {
        let effects = self.effects(&set, absent);
        let sides = sides(&self.net, &effects);
        let mut without = vec![false; self.nodes.len()];
        for side in sides.iter().filter(|side| !side.quorum) {
            for &node in side.nodes.iter().filter(|node| **node < self.nodes.len()) {
                without[node] = true;
            }
        }
        self.certain = Certain {
            cut: (!set.is_empty()).then(|| Cut {
                from: self.now + self.grace(),
                base: self.heights.m,
                grew: None,
            }),
            halted: !sides.iter().any(|side| side.quorum),
            set,
            absent: absent.to_vec(),
            without,
        };
    }

    /// Growth where there must be none.
    pub(super) fn cut_growth(&mut self, i: usize, height: u64, sent: Ms) {
        let slack = slack(&self.net);
        let now = self.now;
        for life in &mut self.faults {
            // An answer may be younger than its request: what counts is that it was here before the end.
            let until = life.certain_until();
            if let Some(cut) = &mut life.cut
                && until.is_none_or(|until| now < until)
            {
                cut.see(i, height, sent, slack);
            }
        }
        let off = self.off(Invariant::Minority);
        let Some(cut) = &mut self.certain.cut else { return };
        if sent <= cut.from {
            cut.base = cut.base.max(height);
            return;
        }
        let base = cut.base;
        if height <= base + slack || !self.certain.without[i] || off {
            return;
        }
        // One cause: what more grows under the same cut is counted.
        let first = cut.grew.is_none();
        cut.grew.get_or_insert((i, height, sent));
        let draft = self.growth_draft(i, height, base, sent);
        if first {
            self.find(draft);
        } else {
            self.notes.once_more(&draft.code, height);
        }
    }

    /// The finding that a node grew although its side has no quorum.
    pub(super) fn growth_draft(&self, i: usize, height: u64, base: u64, sent: Ms) -> Draft {
        let slack = slack(&self.net);
        let (code, whom) = if self.certain.halted {
            ("safety/grew-without-quorum", "no side has a quorum")
        } else {
            ("safety/minority-growth", "its side has no quorum")
        };
        Draft {
            node: Some(i),
            height: Some(height),
            expected: format!(
                "no height above {} while {whom}: the highest at the cut was {base}",
                base + slack
            ),
            seen: format!("height {height}; {}", self.heights_words()),
            rests_on: self.certain.set.clone(),
            ..Draft::new(code, Class::SafetyViolated, sent)
        }
    }

    /// Counts a sample for the faults whose targets are on their way back.
    pub(super) fn recovering(&mut self, i: usize, height: u64, sent: Ms) {
        let (q, lag) = (self.heights.q, self.plan.invariants.max_lag);
        if self.nodes[i].join_by.is_some() && height > 0 && q.saturating_sub(height) <= lag {
            self.nodes[i].join_by = None;
            self.view_stale = true;
        }
        if let Some((mark, from)) = self.settle_mark {
            let with = sent >= from && height > mark && q.saturating_sub(height) <= lag;
            let node = &mut self.nodes[i];
            node.settled = if with { node.settled + 1 } else { 0 };
        }
        for at in 0..self.faults.len() {
            let life = &mut self.faults[at];
            let (Some(since), None) = (life.revert_verified, life.recovered) else {
                continue;
            };
            let Some((mark, counts)) = &mut life.recovery else {
                continue;
            };
            if sent < since {
                continue;
            }
            let count = counts.entry(i).or_insert(0);
            if height > *mark && q.saturating_sub(height) <= lag {
                *count += 1;
            } else if *count < STEADY {
                *count = 0;
            }
            if self.returning(at).is_empty() && self.returned(at) {
                self.faults[at].recovered = Some(sent.max(since));
                self.view_stale = true;
            }
        }
    }

    /// The nodes that a fault has to give back: its targets; of a partition all nodes. Not those that another fault holds.
    fn concerned_by(&self, at: usize) -> Vec<usize> {
        let life = &self.faults[at];
        // What only slows the nodes of a batch down is no reason not to wait for them.
        let batch = matches!(life.fault.kind, FaultKind::Upgrade);
        let takes_away = |life: &Life| {
            let cuts = matches!(life.fault.kind, FaultKind::Partition { .. } | FaultKind::Isolate { .. });
            cuts || life.ends_processes() || life.fault.kind == FaultKind::Pause
        };
        let held = |node: &usize| {
            // A batch that has failed holds nobody: its nodes are on their way back, or are left as they are.
            let counts = |life: &Life| life.failed.is_none() && (!batch || takes_away(life));
            let holds = |life: &Life| life.declared() && counts(life) && life.holds(*node);
            let by = |(other, life): (usize, &Life)| other != at && holds(life);
            self.faults.iter().enumerate().any(by)
        };
        let all = (0..self.nodes.len()).filter(|node| self.nodes[*node].started);
        let nodes: Vec<usize> = if life.is_partition() {
            all.collect()
        } else {
            life.targets.clone()
        };
        nodes.into_iter().filter(|node| !held(node)).collect()
    }

    /// The nodes of a reverted fault that are not with the others yet.
    pub(super) fn returning(&self, at: usize) -> Vec<usize> {
        let Some((_, counts)) = &self.faults[at].recovery else {
            return self.concerned_by(at);
        };
        let back = |node: &usize| counts.get(node).is_some_and(|count| *count >= STEADY);
        self.concerned_by(at).into_iter().filter(|node| !back(node)).collect()
    }

    fn returned(&self, at: usize) -> bool {
        !self.concerned_by(at).is_empty()
    }

    /// Whether a declared fault on the node explains that a process of it ends without being asked.
    pub(super) fn exit_excused(&self, i: usize) -> bool {
        let by = |life: &Life| life.declared() && life.ends_processes() && life.explains(i, self.now);
        self.faults.iter().any(by) || self.evicted(i)
    }

    /// Whether an eviction that should have been refused may have struck the node; if it did, the step has failed.
    fn evicted(&self, i: usize) -> bool {
        self.plan.steps.iter().any(|step| {
            let track = &self.steps[step.index];
            let went = track.began.is_some() && (track.ended.is_none() || track.failed.is_some());
            went && matches!(&step.action, Action::Evict { nodes, .. } if nodes.contains(&self.nodes[i].name))
        })
    }

    /// To which height a node may go back at most, where declared faults explain that: with its data all of it is lost; a node that cannot write loses what it
    /// said since. `None`: not at all.
    pub(super) fn kept_height(&self, i: usize) -> Option<u64> {
        let of = |life: &Life| {
            if !life.explains(i, self.now) {
                None
            } else if life.declared() && life.removes_data() {
                Some(0)
            } else if life.in_force(self.now) && life.stops_writing() {
                // Whether it was written shows only when the process starts anew, which may be after the heal.
                Some(life.kept.get(&i).copied().unwrap_or(0))
            } else {
                None
            }
        };
        self.faults.iter().filter_map(of).min()
    }

    /// Whether a declared fault on the node explains that trialnet ends or starts a process of it.
    pub(super) fn restart_excused(&self, i: usize) -> bool {
        let by = |life: &Life| life.declared() && life.restarts_processes() && life.explains(i, self.now);
        self.faults.iter().any(by) || self.evicted(i)
    }

    /// Whether a fault is on its way to its end: something ends it now, its time is up, or its revert is being verified. Whoever
    /// ends it then says in bounded time that the revert is verified or has failed.
    pub(super) fn end_comes(&self, life: &Life) -> bool {
        let runs = |step: usize| self.steps[step].began.is_some() && self.steps[step].ended.is_none();
        let time_is_up = match (life.fault.lasts, life.verified) {
            (Lasts::For(time), Some(verified)) => self.now >= verified + time,
            // A restart of the rehearsal is in its keeper's hands from the beginning to its end.
            (Lasts::Itself, _) => life.step.is_none_or(runs),
            _ => false,
        };
        let ends = |step: &Step| match &step.action {
            Action::Heal { faults } => faults.iter().any(|id| life.is_of(id)),
            Action::Start { nodes } => {
                let started = |i: &usize| nodes.contains(&self.nodes[*i].name);
                life.ends_by_start() && life.targets.iter().any(started)
            }
            _ => false,
        };
        let being_ended = || self.plan.steps.iter().any(|step| runs(step.index) && ends(step));
        life.reverted.is_some() || self.settle_mark.is_some() || time_is_up || being_ended()
    }

    /// Whether a fault explains that the node does not answer, or nobody expects it to.
    pub(super) fn silence_excused(&self, i: usize) -> bool {
        let node = &self.nodes[i];
        let by = |at: &usize| self.faults[*at].silences() && self.faults[*at].explains(i, self.now);
        let excused = !node.started || node.gone || node.troubled || node.join_by.is_some();
        excused || self.view.set.iter().any(by) || self.evicted(i)
    }

    /// Whether a fault explains that the node is behind, or nobody expects it to follow.
    pub(super) fn lag_excused(&self, i: usize) -> bool {
        let node = &self.nodes[i];
        let by = |at: &usize| !self.faults[*at].is_partition() && self.faults[*at].explains(i, self.now);
        let on_quorum_side = self.view.quorum_side.get(i).copied().unwrap_or(true);
        !node.started || node.troubled || node.join_by.is_some() || !on_quorum_side || self.view.set.iter().any(by)
    }

    /// Whether a declared fault is on the node now. A partition is one on those that it cuts off from the quorum.
    pub(super) fn under_fault(&self, i: usize) -> bool {
        let on_quorum_side = self.view.quorum_side.get(i).copied().unwrap_or(true);
        let by = |life: &Life| life.declared() && life.holds(i) && !(life.is_partition() && on_quorum_side);
        self.faults.iter().any(by)
    }
}

impl Cut {
    fn see(&mut self, node: usize, height: u64, sent: Ms, slack: u64) {
        if sent <= self.from {
            self.base = self.base.max(height);
        } else if height > self.base + slack && self.grew.is_none() {
            self.grew = Some((node, height, sent));
        }
    }
}
