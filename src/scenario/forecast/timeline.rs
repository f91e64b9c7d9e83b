//! When what is on, as intervals.
//!
//! The main line has a point before and a point after each step; between two points passes a known least and greatest time. Everything
//! else (a fault's beginning and end, a change of powers) hangs on these points.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{SHORT_STEP, indices, planned_effect};
use crate::model::effects::net_of;
use crate::model::upgrade::Upgrade;
use crate::model::{
    Action, DRAIN, Expect, FIND_LEADER, Fault, FaultKind, Lasts, Ms, OUTAGE, OnRestart, Plan, REFUSED, REMOVAL,
    Removal, STOP_GRACE, Start, Step, Targets, TxBody, What, When, Window,
};
use crate::quorum::{Effect, Engine, Forecast, Net, Reckoned, reckon};
use crate::scenario::chaos::moments;

/// Later than anything, in milliseconds; sums of a few of them do not overflow.
pub(super) const FOREVER: i64 = i64::MAX / 16;

/// A duration as an offset.
pub(super) fn millis(duration: Ms) -> i64 {
    i64::try_from(duration.0).unwrap_or(FOREVER).min(FOREVER)
}

/// A point of the main line to look from, and how far the plan is known there: what later steps do has not happened yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct View {
    point: usize,
    /// Steps below this index have an effect.
    horizon: usize,
    /// A background expectation must not take its own success for granted.
    asks: Option<usize>,
}

impl View {
    /// When the network is ready.
    pub(super) const fn start() -> Self {
        Self {
            point: 0,
            horizon: 0,
            asks: None,
        }
    }

    /// When a step begins, after its `when`.
    pub(super) const fn before(step: usize) -> Self {
        Self {
            point: 2 * step + 1,
            horizon: step,
            asks: None,
        }
    }

    /// When a step has ended.
    pub(super) const fn after(step: usize) -> Self {
        Self {
            point: 2 * step + 2,
            horizon: step + 1,
            asks: None,
        }
    }

    /// What a step sees while it runs: a background step also what later steps do.
    pub(super) const fn of(step: &Step) -> Self {
        let mut view = Self::before(step.index);
        if step.background {
            view.horizon = usize::MAX;
            view.asks = Some(step.index);
        }
        view
    }
}

/// Whether something is on at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum On {
    Off,
    Possibly,
    Certainly,
}

/// What the arithmetic says of a moment.
#[derive(Clone, Debug)]
pub(super) struct Outlook {
    pub(super) forecast: Forecast,
    /// With only what is certainly on.
    pub(super) at_best: Reckoned,
    /// With what is possibly on besides.
    pub(super) at_worst: Reckoned,
    /// The parts of faults that are certainly on.
    pub(super) certain: Vec<usize>,
    /// The parts of faults that are possibly on.
    pub(super) possible: Vec<usize>,
}

impl Outlook {
    /// Undetermined although it is known what is on.
    pub(super) fn by_itself(&self) -> bool {
        self.forecast == Forecast::Undetermined && self.at_best.forecast == Forecast::Undetermined
    }

    pub(super) fn why(&self) -> &str {
        match self.forecast {
            Forecast::MustGoOn => &self.at_worst.why,
            Forecast::MustHalt | Forecast::Undetermined => &self.at_best.why,
        }
    }
}

/// What is on for a while: a fault, the part of it on some of its targets, or nodes that are not started.
struct Part {
    /// The fault's step; `None`: nodes that wait for a `start`.
    step: Option<usize>,
    effect: Option<Effect>,
    /// Whether the effect is certain while the part is on.
    sure: bool,
    /// The points between which it begins; `None`: on from the start.
    begins: Option<(usize, usize)>,
    /// It ends with the first of these.
    ends: Vec<End>,
}

/// What ends a part.
struct End {
    /// The step that ends it; the fault's own for its time.
    by: usize,
    why: EndsBy,
    /// A point and the time after it. `None`: no earliest time is known.
    earliest: Option<(usize, i64)>,
    latest: (usize, i64),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum EndsBy {
    /// The fault's own time.
    Time,
    /// A `heal` or `start`.
    Step,
    /// It has ended at the latest when this recovery was seen.
    Recovery(usize),
}

pub(super) struct Timeline<'a> {
    plan: &'a Plan,
    /// The network after so many changes of power.
    nets: Vec<Net>,
    /// The steps that change powers.
    changes: Vec<usize>,
    parts: Vec<Part>,
    /// Least and greatest time from the start to each point.
    at: Vec<(i64, i64)>,
    /// What the rehearsal may take away at any moment, besides nothing.
    rehearsed: Vec<Vec<Effect>>,
    cache: HashMap<(usize, Option<usize>, Vec<usize>), Reckoned>,
}

impl<'a> Timeline<'a> {
    pub(super) fn new(plan: &'a Plan, engine: Engine) -> Self {
        let mut timeline = Self {
            plan,
            nets: vec![net_of(plan, engine)],
            changes: Vec::new(),
            parts: Vec::new(),
            at: points(plan),
            rehearsed: rehearsed(plan),
            cache: HashMap::new(),
        };
        timeline.add_changes();
        timeline.add_not_started();
        for (step, fault) in plan.faults() {
            timeline.add_fault(step, fault);
            timeline.add_repeats(step, fault);
        }
        for (step, upgrade) in plan.upgrades() {
            timeline.add_upgrade(step, upgrade);
        }
        timeline
    }

    /// What must happen at a moment: so long after the point of the view.
    pub(super) fn outlook(&mut self, view: View, offset: i64) -> Outlook {
        let on: Vec<On> = self.parts.iter().map(|part| self.part_on(part, view, offset)).collect();
        self.reckon(view, offset, &on)
    }

    /// The same with the fault of a step on for certain.
    pub(super) fn outlook_with(&mut self, view: View, fault: usize) -> Outlook {
        let forced = |part: &Part| {
            if part.step == Some(fault) {
                On::Certainly
            } else {
                self.part_on(part, view, 0)
            }
        };
        let on: Vec<On> = self.parts.iter().map(forced).collect();
        self.reckon(view, 0, &on)
    }

    /// What the arithmetic says of a moment at which one more thing is on.
    pub(super) fn reckon_with(&mut self, view: View, effect: Effect) -> Reckoned {
        let outlook = self.outlook(view, 0);
        let parts = outlook.certain.iter().chain(&outlook.possible);
        let effects = parts.filter_map(|part| self.parts[*part].effect.clone());
        let effects: Vec<Effect> = effects.chain([effect]).collect();
        let version = self.changes.iter().filter(|step| **step < view.horizon).count();
        reckon(&self.nets[version], &effects)
    }

    /// Whether the network goes on under the faults of the steps, but need not together with the rehearsal: why not.
    pub(super) fn beyond_with_rehearsal(&mut self, outlook: &Outlook) -> Option<String> {
        if self.rehearsed.is_empty() || outlook.at_worst.forecast == Forecast::MustGoOn {
            return None;
        }
        let all: Vec<usize> = outlook.certain.iter().chain(&outlook.possible).copied().collect();
        let alone = self.cached(0, None, &all);
        (alone.forecast == Forecast::MustGoOn).then(|| outlook.at_worst.why.clone())
    }

    /// A span of time in pieces in each of which nothing changes.
    pub(super) fn stretches(&mut self, view: View, from: i64, to: i64) -> Vec<(i64, i64, Outlook)> {
        let turns = self.turns(view, from, to);
        turns
            .windows(2)
            .map(|turn| (turn[0], turn[1], self.outlook(view, turn[0])))
            .collect()
    }

    /// The same as if the fault of a step were over.
    pub(super) fn stretches_without(
        &mut self,
        view: View,
        (from, to): (i64, i64),
        fault: usize,
    ) -> Vec<(i64, i64, Outlook)> {
        let turns = self.turns(view, from, to);
        let outlook = |turn: &[i64]| {
            let on = |part: &Part| match part.step {
                Some(step) if step == fault => On::Off,
                _ => self.part_on(part, view, turn[0]),
            };
            let on: Vec<On> = self.parts.iter().map(on).collect();
            (turn[0], turn[1], self.reckon(view, turn[0], &on))
        };
        turns.windows(2).map(outlook).collect()
    }

    /// The moments of a span at which something may change, its ends included.
    fn turns(&self, view: View, from: i64, to: i64) -> Vec<i64> {
        let mut turns = BTreeSet::from([from]);
        for part in self
            .parts
            .iter()
            .filter(|part| part.step.is_none_or(|step| step < view.horizon))
        {
            let (begin, end) = (self.begin(part, view), self.end(part, view));
            turns.extend([begin.0, begin.1, end.0, end.1]);
        }
        for &step in self.changes.iter().filter(|step| **step < view.horizon) {
            turns.extend([
                self.between(view, View::before(step)).0,
                self.between(view, View::after(step)).1,
            ]);
        }
        turns
            .into_iter()
            .filter(|turn| (from..to).contains(turn))
            .chain([to])
            .collect()
    }

    /// The time in which a step's expectation is judged, at the most, from the point before the step.
    pub(super) fn window(&self, step: &Step, lasts: Ms) -> (i64, i64) {
        let (from, to) = if step.background { delay(step) } else { (0, 0) };
        (from, to + millis(lasts))
    }

    /// The step of a fault.
    pub(super) fn fault_step(&self, id: &str) -> Option<usize> {
        self.plan
            .faults()
            .find(|(_, fault)| fault.id == id)
            .map(|(step, _)| step.index)
    }

    /// Whether any part of a step's fault is on.
    pub(super) fn fault_on(&self, step: usize, view: View, offset: i64) -> On {
        let parts = self.parts.iter().filter(|part| part.step == Some(step));
        parts
            .map(|part| self.part_on(part, view, offset))
            .max()
            .unwrap_or(On::Off)
    }

    /// When the last part of a step's fault ends.
    pub(super) fn fault_end(&self, step: usize, view: View) -> (i64, i64) {
        let ends = self
            .parts
            .iter()
            .filter(|part| part.step == Some(step))
            .map(|part| self.end(part, view));
        ends.reduce(|one, other| (one.0.max(other.0), one.1.max(other.1)))
            .unwrap_or((-FOREVER, -FOREVER))
    }

    /// The time from one point to another.
    pub(super) fn between(&self, from: View, to: View) -> (i64, i64) {
        self.to_point(from, to.point)
    }

    /// The step of a fault out of `parts` whose own time may be over at a moment, and nothing else has ended it.
    pub(super) fn expiring(&self, parts: &[usize], view: View, offset: i64) -> Option<usize> {
        let over = |end: &End| self.earliest(end, view).is_some_and(|at| at <= offset);
        let mut expiring = parts.iter().map(|part| &self.parts[*part]).filter(|part| {
            let mut ends = part.ends.iter().filter(|end| visible(end, view));
            let by_time = ends.clone().any(|end| end.why == EndsBy::Time && over(end));
            by_time && !ends.any(|end| end.why == EndsBy::Step && over(end))
        });
        expiring.next().and_then(|part| part.step)
    }

    /// The last step that may have ended one of `parts` at a moment.
    pub(super) fn ended_by_step(&self, parts: &[usize], view: View, offset: i64) -> Option<usize> {
        let ends = parts
            .iter()
            .flat_map(|part| &self.parts[*part].ends)
            .filter(|end| visible(end, view));
        let over = ends.filter(|end| self.earliest(end, view).is_some_and(|at| at <= offset));
        over.filter(|end| end.why == EndsBy::Step).map(|end| end.by).max()
    }

    /// The ids of the faults that these parts belong to.
    pub(super) fn fault_ids(&self, parts: &[usize]) -> Vec<&'a str> {
        let steps: BTreeSet<usize> = parts.iter().filter_map(|part| self.parts[*part].step).collect();
        let faults = self.plan.faults().filter(|(step, _)| steps.contains(&step.index));
        faults.map(|(_, fault)| fault.id.as_str()).collect()
    }

    /// The voting nodes among these parts that were never started.
    pub(super) fn not_started(&self, parts: &[usize]) -> Vec<&'a str> {
        let parts = parts
            .iter()
            .map(|part| &self.parts[*part])
            .filter(|part| part.step.is_none());
        let nodes = parts.filter_map(|part| match &part.effect {
            Some(Effect::Down(nodes)) => Some(nodes),
            _ => None,
        });
        let nodes = nodes.flatten().map(|node| &self.plan.network.nodes[*node]);
        nodes
            .filter(|node| node.power > 0)
            .map(|node| node.name.as_str())
            .collect()
    }

    fn reckon(&mut self, view: View, offset: i64, on: &[On]) -> Outlook {
        let counts = |part: usize, wanted: On| self.parts[part].effect.is_some() && on[part] == wanted;
        let sure = |part: usize| counts(part, On::Certainly) && self.parts[part].sure;
        let unsure = |part: usize| counts(part, On::Possibly) || counts(part, On::Certainly) && !self.parts[part].sure;
        let certain: Vec<usize> = (0..on.len()).filter(|part| sure(*part)).collect();
        let possible: Vec<usize> = (0..on.len()).filter(|part| unsure(*part)).collect();
        let all: Vec<usize> = (0..on.len()).filter(|part| sure(*part) || unsure(*part)).collect();
        let done = |step: &&usize| self.between(view, View::after(**step)).1 <= offset && **step < view.horizon;
        let begun = |step: &&usize| self.between(view, View::before(**step)).0 <= offset && **step < view.horizon;
        let versions = self.changes.iter().filter(done).count()..=self.changes.iter().filter(begun).count();
        let best = versions
            .clone()
            .map(|version| self.cached(version, None, &certain))
            .max_by_key(|sum| rank(sum.forecast));
        // When the rehearsal strikes is known, but not when the steps do: any of its moments may be this one.
        let moments = (0..self.rehearsed.len()).map(Some).chain([None]);
        let worst = versions
            .flat_map(|version| moments.clone().map(move |moment| (version, moment)))
            .map(|(version, moment)| self.cached(version, moment, &all))
            .min_by_key(|sum| rank(sum.forecast));
        let at_best = best.expect("what is done has begun");
        let at_worst = worst.expect("what is done has begun");
        let forecast = match (at_best.forecast, at_worst.forecast) {
            (Forecast::MustHalt, _) => Forecast::MustHalt,
            (_, Forecast::MustGoOn) => Forecast::MustGoOn,
            _ => Forecast::Undetermined,
        };
        Outlook {
            forecast,
            at_best,
            at_worst,
            certain,
            possible,
        }
    }

    fn cached(&mut self, version: usize, moment: Option<usize>, parts: &[usize]) -> Reckoned {
        let Self {
            nets,
            parts: all,
            rehearsed,
            cache,
            ..
        } = self;
        let reckoned = cache.entry((version, moment, parts.to_vec())).or_insert_with(|| {
            let of_steps = parts.iter().filter_map(|part| all[*part].effect.clone());
            let beside = moment.into_iter().flat_map(|moment| rehearsed[moment].clone());
            let effects: Vec<Effect> = of_steps.chain(beside).collect();
            reckon(&nets[version], &effects)
        });
        reckoned.clone()
    }

    fn part_on(&self, part: &Part, view: View, offset: i64) -> On {
        if part.step.is_some_and(|step| step >= view.horizon) {
            return On::Off;
        }
        let (begin, end) = (self.begin(part, view), self.end(part, view));
        if offset < begin.0 || offset >= end.1 {
            On::Off
        } else if begin.1 <= offset && offset < end.0 {
            On::Certainly
        } else {
            On::Possibly
        }
    }

    fn begin(&self, part: &Part, view: View) -> (i64, i64) {
        part.begins.map_or((-FOREVER, -FOREVER), |(from, to)| {
            (self.to_point(view, from).0, self.to_point(view, to).1)
        })
    }

    fn end(&self, part: &Part, view: View) -> (i64, i64) {
        let mut first = (FOREVER, FOREVER);
        for end in part.ends.iter().filter(|end| visible(end, view)) {
            let (point, plus) = end.latest;
            if plus < FOREVER {
                first.1 = first.1.min(self.to_point(view, point).1 + plus);
            }
            first.0 = first.0.min(self.earliest(end, view).unwrap_or(FOREVER));
        }
        (first.0.min(first.1), first.1)
    }

    fn earliest(&self, end: &End, view: View) -> Option<i64> {
        end.earliest.map(|(point, plus)| self.to_point(view, point).0 + plus)
    }

    fn to_point(&self, view: View, point: usize) -> (i64, i64) {
        let (from, to) = (self.at[view.point], self.at[point]);
        if point >= view.point {
            (to.0 - from.0, to.1 - from.1)
        } else {
            (to.1 - from.1, to.0 - from.0)
        }
    }

    fn add_changes(&mut self) {
        let index = indices(self.plan);
        for step in &self.plan.steps {
            let Action::Tx(tx) = &step.action else { continue };
            let TxBody::Power { validator, power } = &tx.body else {
                continue;
            };
            let Some(&node) = index.get(validator.as_str()) else {
                continue;
            };
            let mut net = self.nets[self.nets.len() - 1].clone();
            net.powers[node] = *power;
            self.nets.push(net);
            self.changes.push(step.index);
        }
    }

    fn add_not_started(&mut self) {
        for (index, node) in self.plan.network.nodes.iter().enumerate() {
            if node.start == Start::Manual {
                let started = self.starts_of(&node.name, 0);
                self.parts.push(Part {
                    step: None,
                    effect: Some(Effect::Down(BTreeSet::from([index]))),
                    sure: true,
                    begins: None,
                    ends: started.map(ended_by).into_iter().collect(),
                });
            }
        }
    }

    fn add_fault(&mut self, step: &Step, fault: &Fault) {
        let held_down = matches!(fault.kind, FaultKind::Kill | FaultKind::Stop) && !self.plan.comes_back(fault);
        let Targets::Nodes(targets) = &fault.targets else {
            let planned = planned_effect(self.plan, &self.nets[0], fault);
            return self.add_part(step, fault, planned, None);
        };
        if !held_down {
            let planned = planned_effect(self.plan, &self.nets[0], fault);
            return self.add_part(step, fault, planned, None);
        }
        // A `start` ends the fault for the nodes that it names.
        let index = indices(self.plan);
        let mut by_start: BTreeMap<Option<usize>, BTreeSet<usize>> = BTreeMap::new();
        for name in targets {
            if let Some(&node) = index.get(name.as_str()) {
                by_start
                    .entry(self.starts_of(name, step.index + 1))
                    .or_default()
                    .insert(node);
            }
        }
        for (started, nodes) in by_start {
            self.add_part(step, fault, Some((Effect::Down(nodes), true)), started);
        }
    }

    /// One batch of an upgrade may be away at any moment of its step, and never two.
    fn add_upgrade(&mut self, step: &Step, upgrade: &Upgrade) {
        let index = indices(self.plan);
        let named = |names: &mut dyn Iterator<Item = &String>| -> BTreeSet<usize> {
            names.filter_map(|name| index.get(name.as_str()).copied()).collect()
        };
        let effect = match upgrade.batches.as_slice() {
            [only] => Effect::Down(named(&mut only.nodes().iter())),
            _ => Effect::SomeDown {
                among: named(&mut upgrade.nodes()),
                count: upgrade.widest(),
            },
        };
        let (before, after) = (View::before(step.index).point, View::after(step.index).point);
        let latest = if step.background {
            (before, delay(step).1 + millis(moving(self.plan, upgrade)))
        } else {
            (after, 0)
        };
        let ends = std::iter::once(End {
            by: step.index,
            why: EndsBy::Time,
            earliest: Some((before, 0)),
            latest,
        });
        // Whoever waits for it goes on when it is over.
        let joins = |other: &&Step| matches!(&other.action, Action::Join { id, .. } if *id == upgrade.id);
        let joined = self.plan.steps.iter().find(joins).map(|join| End {
            by: join.index,
            why: EndsBy::Step,
            earliest: None,
            latest: (View::after(join.index).point, 0),
        });
        self.parts.push(Part {
            step: Some(step.index),
            effect: Some(effect),
            sure: true,
            begins: Some((before, after)),
            ends: ends.chain(joined).collect(),
        });
    }

    /// The further times of a fault that is repeated. When exactly each is on is not known beforehand, so that from the first on any may be.
    fn add_repeats(&mut self, step: &Step, fault: &Fault) {
        let Some((_, last)) = self.plan.repeated(step.index) else {
            return;
        };
        let (least, most) = match fault.lasts {
            Lasts::For(lasts) => (lasts, lasts),
            _ => (Ms(0), self.plan.limits.start),
        };
        let after = View::after(step.index).point;
        let latest = last + self.plan.repeat_slip(fault) + injection(self.plan, fault) + most;
        let mut ends = vec![End {
            by: step.index,
            why: EndsBy::Time,
            earliest: Some((after, millis(last + least))),
            latest: (after, millis(latest)),
        }];
        ends.extend(self.ended_later(step, fault));
        self.parts.push(Part {
            step: Some(step.index),
            effect: planned_effect(self.plan, &self.nets[0], fault).map(|(effect, _)| effect),
            sure: false,
            begins: Some((after, after)),
            ends,
        });
    }

    /// The later steps that end a fault.
    fn ended_later(&self, step: &Step, fault: &Fault) -> Vec<End> {
        let later = self.plan.steps[step.index + 1..].iter();
        later
            .filter_map(|later| match &later.action {
                Action::Heal { faults } if faults.contains(&fault.id) => Some(ended_by(later.index)),
                Action::Expect(Expect {
                    what: What::Recovery { of },
                    ..
                }) if *of == fault.id && !later.go_on => self.recovered(later),
                _ => None,
            })
            .collect()
    }

    /// The steps that may have others take the places of a fault's targets, with whom it is dropped: from then on it may be over. It is for certain where all
    /// its targets were seen to be replaced, which nobody sees of a machine that is off.
    fn dropped(&self, step: &Step, fault: &Fault) -> Vec<End> {
        if fault.on_restart == OnRestart::Reapply {
            return Vec::new();
        }
        let never = (View::after(step.index).point, FOREVER);
        let strikes = |other: &Fault| {
            let same = |name: &String| fault.targets.nodes().contains(name);
            self.plan.replaces(other) && other.targets.nodes().iter().any(same)
        };
        let ends = self
            .plan
            .faults()
            .filter(|(at, other)| at.index != step.index && strikes(other));
        let ends = ends.filter_map(|(at, other)| {
            // What was replaced before is no concern, unless it is still to come.
            let before = at.index < step.index;
            if before && self.fault_on(at.index, View::before(step.index), 0) == On::Off {
                return None;
            }
            let begin = if before { step.index } else { at.index };
            let known = |targets: &Targets| matches!(targets, Targets::Nodes(_));
            let struck = |name: &String| other.targets.nodes().contains(name);
            let all = known(&other.targets) && fault.targets.nodes().iter().all(struck);
            let seen = !before && all && !matches!(other.kind, FaultKind::Machine(_));
            let over = (View::after(at.index).point, millis(SHORT_STEP));
            Some(End {
                by: at.index.max(step.index),
                why: EndsBy::Step,
                earliest: Some((View::before(begin).point, 0)),
                latest: if seen { over } else { never },
            })
        });
        // An upgrade replaces pods too, each at a moment that nobody knows beforehand.
        let moved = self.plan.upgrades().filter(|(_, upgrade)| {
            let mut nodes = upgrade.nodes();
            nodes.any(|name| fault.targets.nodes().contains(name))
        });
        let moved = moved
            .filter(|(at, _)| at.index > step.index || self.fault_on(at.index, View::before(step.index), 0) != On::Off);
        let moved = moved.map(|(at, _)| End {
            by: at.index.max(step.index),
            why: EndsBy::Step,
            earliest: Some((View::before(at.index.max(step.index)).point, 0)),
            latest: never,
        });
        ends.chain(moved).collect()
    }

    fn add_part(&mut self, step: &Step, fault: &Fault, planned: Option<(Effect, bool)>, started: Option<usize>) {
        let (before, after) = (View::before(step.index).point, View::after(step.index).point);
        let own_time = |earliest: (usize, i64), latest: (usize, i64)| End {
            by: step.index,
            why: EndsBy::Time,
            earliest: Some(earliest),
            latest,
        };
        let mut ends: Vec<End> = match fault.lasts {
            Lasts::For(lasts) => vec![own_time((after, millis(lasts)), (after, millis(lasts)))],
            Lasts::Itself if step.background => {
                let latest = delay(step).1 + millis(injection(self.plan, fault));
                vec![own_time((before, 0), (before, latest))]
            }
            Lasts::Itself => vec![own_time((before, 0), (after, 0))],
            // At once, or as late as the run bears it: later it fails for that.
            Lasts::Platform if self.plan.comes_back(fault) => {
                vec![own_time((before, 0), (after, millis(self.plan.limits.start)))]
            }
            Lasts::UntilHealed | Lasts::Platform => Vec::new(),
        };
        ends.extend(started.map(ended_by));
        ends.extend(self.ended_later(step, fault));
        ends.extend(self.dropped(step, fault));
        let (effect, sure) = planned.map_or((None, true), |(effect, sure)| (Some(effect), sure));
        self.parts.push(Part {
            step: Some(step.index),
            effect,
            sure,
            begins: Some((before, after)),
            ends,
        });
    }

    /// The run goes on past a recovery only once the fault has ended.
    fn recovered(&self, recovery: &Step) -> Option<End> {
        let joins = |step: &&Step| {
            let Action::Join { id, .. } = &step.action else {
                return false;
            };
            recovery.id.as_ref() == Some(id) && !step.go_on
        };
        let seen = if recovery.background {
            self.plan.steps.iter().find(joins)?
        } else {
            recovery
        };
        Some(End {
            by: seen.index,
            why: EndsBy::Recovery(recovery.index),
            earliest: None,
            latest: (View::after(seen.index).point, 0),
        })
    }

    /// The first `start` of a node from a step on.
    fn starts_of(&self, node: &str, from: usize) -> Option<usize> {
        let starts =
            |step: &&Step| matches!(&step.action, Action::Start { nodes } if nodes.iter().any(|name| name == node));
        self.plan.steps.iter().skip(from).find(starts).map(|step| step.index)
    }
}

/// The worst moments of the rehearsal, unless the chain may halt by it: then the file's expectations have to bear that.
fn rehearsed(plan: &Plan) -> Vec<Vec<Effect>> {
    match &plan.chaos {
        Some(chaos) if !chaos.halts => moments(plan, &chaos.schedule, chaos.margin),
        _ => Vec::new(),
    }
}

/// A step that ends faults while it runs.
fn ended_by(step: usize) -> End {
    End {
        by: step,
        why: EndsBy::Step,
        earliest: Some((View::before(step).point, 0)),
        latest: (View::after(step).point, 0),
    }
}

fn visible(end: &End, view: View) -> bool {
    let circular = matches!((end.why, view.asks), (EndsBy::Recovery(recovery), Some(asking)) if recovery >= asking);
    end.by < view.horizon && !circular
}

/// Least and greatest time from the start to each point.
fn points(plan: &Plan) -> Vec<(i64, i64)> {
    let mut now = (0, 0);
    let mut points = vec![now];
    for step in &plan.steps {
        // A background step delays only itself.
        let spans = if step.background {
            [(0, 0); 2]
        } else {
            [delay(step), duration(plan, step)]
        };
        for (least, greatest) in spans {
            now = (FOREVER.min(now.0 + least), FOREVER.min(now.1 + greatest));
            points.push(now);
        }
    }
    points
}

/// How long a step waits for its `when`.
fn delay(step: &Step) -> (i64, i64) {
    match &step.when {
        None => (0, 0),
        Some(When::Height { within, .. } | When::Moved { within, .. }) => (0, millis(*within)),
        Some(When::After(delay)) => (millis(*delay), millis(*delay)),
    }
}

/// How long a step takes.
fn duration(plan: &Plan, step: &Step) -> (i64, i64) {
    let exactly = |duration: Ms| (millis(duration), millis(duration));
    let at_most = |limit: Ms| (0, millis(limit));
    match &step.action {
        Action::Fault(fault) => at_most(injection(plan, fault)),
        // Of what the platform ends, a `heal` only waits for the end; where a machine was struck it starts what was waiting.
        Action::Heal { faults } if faults.iter().any(|id| comes_back(plan, id) || of_machines(plan, id)) => {
            at_most(SHORT_STEP + plan.limits.start)
        }
        Action::Evict { nodes, drain: true } => at_most(SHORT_STEP + Ms(REFUSED.0.saturating_mul(nodes.len() as u64))),
        Action::Start { .. } | Action::Heal { .. } | Action::Tx(_) | Action::Evict { .. } | Action::Corrupt(_) => {
            at_most(SHORT_STEP)
        }
        Action::Wait(duration) => exactly(*duration),
        Action::Upgrade(upgrade) => (
            millis(Ms(upgrade
                .pause
                .0
                .saturating_mul(upgrade.batches.len().saturating_sub(1) as u64))),
            millis(moving(plan, upgrade)),
        ),
        Action::Load(load) => exactly(load.lasts),
        Action::Join { within, .. } => at_most(*within),
        Action::Expect(expect) => match (expect.window, &expect.what) {
            (Window::Now, _) => at_most(SHORT_STEP),
            (Window::Within(limit), What::Recovery { of }) if comes_back(plan, of) => {
                at_most(limit + plan.limits.start)
            }
            (Window::Within(limit), _) => at_most(limit),
            // A block may be under way when the fault strikes.
            (Window::For(duration), What::Halt { .. }) => {
                (millis(duration), millis(duration + plan.network.block_time))
            }
            (Window::For(duration), _) => exactly(duration),
            // It is judged beside the steps that follow.
            (Window::Never, _) => (0, 0),
        },
    }
}

/// Whether the platform ends the fault with this id.
fn comes_back(plan: &Plan, id: &str) -> bool {
    plan.fault(id).is_some_and(|fault| plan.comes_back(fault))
}

/// Whether the fault with this id is one of machines.
fn of_machines(plan: &Plan, id: &str) -> bool {
    plan.fault(id).is_some_and(|fault| fault.kind.strikes_machines())
}

/// The longest time that an upgrade takes which does not fail.
fn moving(plan: &Plan, upgrade: &Upgrade) -> Ms {
    let batch = SHORT_STEP + STOP_GRACE + REMOVAL + plan.limits.start + upgrade.gate.within + upgrade.pause;
    Ms(batch.0.saturating_mul(upgrade.batches.len() as u64))
}

/// The longest time until a fault is verified.
pub(in crate::scenario) fn injection(plan: &Plan, fault: &Fault) -> Ms {
    let graceful = matches!(fault.kind, FaultKind::Stop | FaultKind::Restart | FaultKind::Upgrade);
    let leader = matches!(fault.targets, Targets::Leader { .. });
    let grace = if graceful { STOP_GRACE } else { Ms(0) };
    let search = if leader { FIND_LEADER } else { Ms(0) };
    let removal = match &fault.kind {
        FaultKind::Remove(Removal::Delete { grace }) => REMOVAL + grace.unwrap_or_default(),
        FaultKind::Remove(_) => REMOVAL,
        FaultKind::Drain => DRAIN + REMOVAL,
        FaultKind::Machine(_) => OUTAGE,
        // Seen once the chain is there.
        FaultKind::Misbehave { how, .. } if how.contains('@') => plan.limits.run,
        _ => Ms(0),
    };
    SHORT_STEP + grace + search + removal
}

/// From worst to best.
const fn rank(forecast: Forecast) -> u8 {
    match forecast {
        Forecast::MustHalt => 0,
        Forecast::Undetermined => 1,
        Forecast::MustGoOn => 2,
    }
}
