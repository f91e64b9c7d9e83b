//! What the arithmetic says of a plan before anything starts: a file that contradicts it is refused, with the sum that shows why.
//!
//! Steps run in order, but how long they take is not known: an expectation `within = "30s"` takes 0 to 30 seconds. So a fault that lasts five
//! seconds is at a later moment certainly on, possibly on or certainly off. Each moment is reckoned twice, with the effects that are
//! certainly on and with those that are possibly on besides: more effects never help, so the network must halt if it must halt with
//! the first, and must go on if it must go on with both.

mod timeline;

#[cfg(test)]
mod simulated;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};

pub(super) use self::timeline::injection;
use self::timeline::{On, Outlook, Timeline, View};
use crate::model::effects::effect_of;
use crate::model::upgrade::Upgrade;
use crate::model::{
    Action, Expect, Fault, FaultKind, Lasts, Ms, NodeName, Plan, Step, Sum, Targets, What, When, Window,
};
use crate::quorum::{Effect, Engine, Forecast, Net, reckon};

/// The file expects what the arithmetic excludes.
pub const CONTRADICTION: &str = "quorum/contradiction";
/// A fault halts the chain, and no `expect.halt` says so before it can end.
pub const UNDECLARED_HALT: &str = "quorum/undeclared-halt";
/// An `expect.halt` may go on for longer than the fault.
pub const HALT_OUTLASTS_FAULT: &str = "quorum/halt-outlasts-fault";
/// Nobody can say whether the network goes on.
pub const UNDETERMINED: &str = "quorum/undetermined";
/// An expectation looks at the nodes that are under no fault, and there may be none.
pub const ASKS_NOBODY: &str = "quorum/asks-nobody";
/// An upgrade may take away more nodes at once than the quorum bears.
pub const MAX_UNAVAILABLE: &str = "quorum/max-unavailable";
/// A recovery is expected of a fault that cannot have ended by then.
pub const RECOVERY_IMPOSSIBLE: &str = "quorum/recovery-impossible";

/// The longest that a step takes that injects or reverts a fault, starts nodes, sends a transaction or asks for one observation.
pub const SHORT_STEP: Ms = Ms::secs(5);

/// What the arithmetic says of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forecasted {
    /// One for each step: of the moment when it begins; of a fault, when it is on.
    pub sums: Vec<Sum>,
    /// Why the plan is refused; empty if it is not. In the order of the steps.
    pub problems: Vec<Problem>,
}

/// A reason to refuse a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The step's index; 0 also for what is wrong before the first step.
    pub step: usize,
    /// One of the codes of this module.
    pub code: &'static str,
    /// What is wrong, with the sum.
    pub message: String,
    /// A way out.
    pub help: String,
}

/// Reckons every window of a plan's timeline. References to unknown steps are passed over: validation reports them.
#[must_use]
pub fn forecast(plan: &Plan, engine: Engine) -> Forecasted {
    let mut check = Check {
        plan,
        timeline: Timeline::new(plan, engine),
        problems: Vec::new(),
        undetermined_said: false,
        known_height: 1,
    };
    let start = check.timeline.outlook(View::start(), 0);
    let sums = (0..plan.steps.len()).map(|step| check.sum(step)).collect();
    if start.forecast == Forecast::MustGoOn {
        (0..plan.steps.len()).for_each(|step| check.step(step));
    } else {
        check.refuse(
            0,
            CONTRADICTION,
            format!("the network never gets ready: {}{}", start.why(), check.with(&start)),
            "let nodes with more of the voting power start by themselves (`start = \"auto\"`)".into(),
        );
    }
    Forecasted {
        sums,
        problems: check.problems,
    }
}

/// What a fault does to the quorum once it is on these targets (those of the plan, or of a leader fault the one that was found). `None` if nothing.
#[must_use]
pub fn effects_of(plan: &Plan, fault: &Fault, targets: &[NodeName]) -> Option<Effect> {
    let index = indices(plan);
    let targets: Vec<usize> = targets
        .iter()
        .filter_map(|name| index.get(name.as_str()).copied())
        .collect();
    effect_of(plan, fault, &targets)
}

/// What a planned fault does to the quorum, and whether it is sure to: a leader among its targets is not known yet.
fn planned_effect(plan: &Plan, net: &Net, fault: &Fault) -> Option<(Effect, bool)> {
    let among = match &fault.targets {
        // A drained node is down, unless there is another machine on which it can be; one that cannot write, as soon as it has to.
        Targets::Nodes(nodes) => {
            let sure = !matches!(fault.kind, FaultKind::Drain | FaultKind::Fill(_) | FaultKind::ReadOnly);
            return effects_of(plan, fault, nodes).map(|effect| (effect, sure));
        }
        Targets::Leader { among } if among.len() == 1 => {
            return effects_of(plan, fault, among).map(|effect| (effect, true));
        }
        Targets::Leader { among } => among,
    };
    let index = indices(plan);
    let sure = match effects_of(plan, fault, among)? {
        // An isolated node is as good as down, unless it is a quorum by itself.
        Effect::Cut(_) => {
            let others = |node: usize| (0..net.powers.len()).filter(|other| *other != node).collect();
            let halts = |node: &usize| reckon(net, &[Effect::Down(others(*node))]).forecast == Forecast::MustHalt;
            among.iter().filter_map(|name| index.get(name.as_str())).all(halts)
        }
        // At worst a misbehaving node is silent, at best it does no harm.
        Effect::Byzantine(_) => false,
        Effect::Down(_) | Effect::SomeDown { .. } => true,
    };
    let among = among
        .iter()
        .filter_map(|name| index.get(name.as_str()).copied())
        .collect();
    Some((Effect::SomeDown { among, count: 1 }, sure))
}

fn indices(plan: &Plan) -> HashMap<&str, usize> {
    plan.network
        .nodes
        .iter()
        .enumerate()
        .map(|(index, node)| (node.name.as_str(), index))
        .collect()
}

struct Check<'a> {
    plan: &'a Plan,
    timeline: Timeline<'a>,
    problems: Vec<Problem>,
    /// Whether the file was told already that the present state is undetermined.
    undetermined_said: bool,
    /// A height that has certainly been reached.
    known_height: u64,
}

/// What an expectation needs of the chain: to grow, for so long at least, before a limit.
struct Growth {
    /// What is expected, in the words of the language.
    what: &'static str,
    /// From the step's beginning.
    within: Ms,
    /// The least time that it takes.
    needs: Ms,
}

/// For how long the chain can and must grow in the time of an expectation, at least, and whether that is enough.
struct Grown {
    enough: (bool, bool),
    at_best: i64,
    at_worst: i64,
}

impl Check<'_> {
    fn sum(&mut self, index: usize) -> Sum {
        let step = &self.plan.steps[index];
        let outlook = match &step.action {
            Action::Fault(fault) if fault.lasts == Lasts::Itself => {
                self.timeline.outlook_with(View::before(index), index)
            }
            Action::Upgrade(_) => self.timeline.outlook_with(View::before(index), index),
            Action::Fault(_) => self.timeline.outlook(View::after(index), 0),
            _ => self.timeline.outlook(View::before(index), 0),
        };
        Sum {
            step: index,
            forecast: outlook.forecast,
            why: self.explain(&outlook),
        }
    }

    fn step(&mut self, index: usize) {
        let step = &self.plan.steps[index];
        if let (Some(When::Height { height, .. }), false) = (&step.when, step.background) {
            self.known_height = self.known_height.max(*height);
        }
        match &step.action {
            Action::Fault(_) | Action::Heal { .. } | Action::Start { .. } | Action::Tx(_) => {
                self.change(index);
                self.beside_rehearsal(index);
            }
            Action::Expect(expect) => self.expect(step, expect),
            Action::Upgrade(upgrade) => {
                self.gated(step, upgrade);
                self.unavailable(step, upgrade);
                self.beside_rehearsal(index);
            }
            Action::Wait(_)
            | Action::Load(_)
            | Action::Join { .. }
            | Action::Evict { .. }
            // Its nodes are down already.
            | Action::Corrupt(_) => {}
        }
    }

    /// A fault for which the rehearsal leaves no room.
    fn beside_rehearsal(&mut self, index: usize) {
        let outlook = match &self.plan.steps[index].action {
            Action::Fault(fault) if fault.lasts == Lasts::Itself => {
                self.timeline.outlook_with(View::before(index), index)
            }
            Action::Fault(_) => self.timeline.outlook(View::after(index), 0),
            Action::Upgrade(_) => self.timeline.outlook_with(View::before(index), index),
            _ => return,
        };
        if let Some(why) = self.timeline.beyond_with_rehearsal(&outlook) {
            self.undetermined_said = true;
            self.refuse(
                index,
                crate::scenario::explain::QUORUM_CHAOS,
                format!(
                    "together with the rehearsal, which may strike at any moment, the chain need not go on: {why}{}",
                    self.with(&outlook)
                ),
                "strike fewer nodes here, lower the rehearsal's `budget`, keep its `nodes` to others, or say `halts = true`".into(),
            );
        }
    }

    /// The network has to be able to grow when a batch is back, or no gate is ever passed.
    fn gated(&mut self, step: &Step, upgrade: &Upgrade) {
        let outlook = self.timeline.outlook(View::before(step.index), 0);
        let (code, may) = match outlook.forecast {
            Forecast::MustGoOn => return,
            Forecast::MustHalt => (CONTRADICTION, "cannot"),
            Forecast::Undetermined => (UNDETERMINED, "may or may not"),
        };
        let message = format!(
            "`{}` {may} pass its gates, for which the network has to grow by {}: {}{}",
            upgrade.id,
            upgrade.gate.grow,
            self.explain(&outlook),
            self.with(&outlook)
        );
        let help = self.heal_help(&outlook, "before this step");
        self.refuse(step.index, code, message, help);
    }

    /// What `max_unavailable` promises.
    fn unavailable(&mut self, step: &Step, upgrade: &Upgrade) {
        let Some(most) = upgrade.max_unavailable else { return };
        let among: BTreeSet<usize> = upgrade.nodes().filter_map(|name| self.plan.node_index(name)).collect();
        let count = most.min(among.len());
        let view = View::before(step.index);
        let reckoned = self.timeline.reckon_with(view, Effect::SomeDown { among, count });
        if reckoned.forecast == Forecast::MustGoOn {
            return;
        }
        let outlook = self.timeline.outlook(view, 0);
        let message = format!(
            "with `max_unavailable = {most}` the network need not go on while `{}` moves its nodes: {}{}",
            upgrade.id,
            reckoned.why,
            self.with(&outlook)
        );
        let help = "allow fewer, heal a fault first, or leave it out where the chain may stand still for a moment";
        self.refuse(step.index, MAX_UNAVAILABLE, message, help.into());
    }

    /// A step that changes what is on.
    fn change(&mut self, index: usize) {
        let before = self.timeline.outlook(View::before(index), 0);
        let after = self.timeline.outlook(View::after(index), 0);
        if !after.by_itself() {
            self.undetermined_said = false;
        } else if !self.undetermined_said {
            self.undetermined_said = true;
            self.refuse(
                index,
                UNDETERMINED,
                format!(
                    "nobody can say whether the chain goes on from here: {}{}",
                    after.why(),
                    self.with(&after)
                ),
                "strike few enough nodes that it must go on whatever happens, or so many that it must halt".into(),
            );
        }
        if after.forecast == Forecast::MustHalt && before.forecast != Forecast::MustHalt && !self.is_declared(index) {
            self.undeclared(index, &after);
        }
    }

    /// Whether a later step says that the chain halts, before that can end.
    fn is_declared(&mut self, index: usize) -> bool {
        for later in index + 1..self.plan.steps.len() {
            if self.timeline.outlook(View::before(later), 0).forecast == Forecast::MustGoOn {
                return false;
            }
            if let Action::Expect(Expect {
                what: What::Halt { of },
                ..
            }) = &self.plan.steps[later].action
            {
                let fault = self.timeline.fault_step(of);
                if fault.is_some_and(|fault| self.timeline.fault_on(fault, View::before(later), 0) != On::Off) {
                    return true;
                }
            }
            if self.timeline.outlook(View::after(later), 0).forecast == Forecast::MustGoOn {
                return false;
            }
        }
        false
    }

    fn undeclared(&mut self, index: usize, after: &Outlook) {
        let step = &self.plan.steps[index];
        let block = self.plan.network.block_time;
        let (what, help) = match &step.action {
            Action::Fault(fault) => {
                let declare = |hold: &str| {
                    format!(
                        "put `expect.halt = {{ of = \"{}\", for = \"{hold}\" }}` right after it",
                        fault.id
                    )
                };
                let declare = match fault.lasts {
                    Lasts::For(lasts) if lasts > block => {
                        let most = lasts.since(block);
                        format!(
                            "{} (it lasts {lasts}: watch for at most {most})",
                            declare(&most.min(Ms::secs(5)).to_string())
                        )
                    }
                    Lasts::For(_) => format!("let it last longer, and {}", declare("5s")),
                    _ => declare("5s"),
                };
                (
                    format!("`{}` halts the chain", fault.id),
                    format!("{declare}, or strike less"),
                )
            }
            _ => (
                "this step halts the chain".into(),
                "have more of the voting power up before it, or change the powers less".into(),
            ),
        };
        let message = format!(
            "{what}, and nothing says so before it can end: {}{}",
            after.why(),
            self.with(after)
        );
        self.refuse(index, UNDECLARED_HALT, message, help);
    }

    fn expect(&mut self, step: &Step, expect: &Expect) {
        let block = self.plan.network.block_time;
        let blocks = |count: u64| Ms(block.0.saturating_mul(count));
        let within = match expect.window {
            Window::Within(limit) | Window::For(limit) => Some(limit),
            Window::Now | Window::Never => None,
        };
        let eventually = matches!(expect.window, Window::Within(_));
        let growth = |what: &'static str, needs: Ms| within.map(|within| Growth { what, within, needs });
        match &expect.what {
            What::Halt { of } => self.halt(step, of, expect.window),
            What::Progress { blocks: count } => self.growth(step, growth("progress", blocks(*count)), None),
            What::Height(bounds) if eventually && bounds.at_least.is_some_and(|height| height > self.known_height) => {
                self.growth(step, growth("height", block), None);
            }
            What::Lag(bounds) if eventually && bounds.at_least.is_some_and(|behind| behind > 0) => {
                self.growth(step, growth("lag", blocks(bounds.at_least.unwrap_or(0))), None);
            }
            What::Tx { .. } => self.growth(step, growth("tx", block), None),
            What::Recovery { of } => self.recovery(step, of, growth("recovery", block)),
            What::Height(_)
            | What::Lag(_)
            | What::Peers(_)
            | What::Version { .. }
            | What::Validators { .. }
            | What::Log { .. }
            | What::Restarts(_) => {}
        }
        self.asked(step, expect);
        if step.go_on || step.background || expect.window == Window::Never {
            return;
        }
        match &expect.what {
            What::Height(bounds) => self.known_height = self.known_height.max(bounds.at_least.unwrap_or(0)),
            What::Progress { blocks } => self.known_height = self.known_height.saturating_add(*blocks),
            _ => {}
        }
    }

    /// Somebody has to be left to look at: who is under a fault is passed over, except where an expectation names its nodes.
    fn asked(&mut self, step: &Step, expect: &Expect) {
        let network_wide = match &expect.what {
            What::Progress { .. } | What::Halt { .. } | What::Height(_) | What::Tx { .. } | What::Recovery { .. } => {
                true
            }
            What::Lag(_)
            | What::Peers(_)
            | What::Version { .. }
            | What::Validators { .. }
            | What::Log { .. }
            | What::Restarts(_) => false,
        };
        if network_wide || expect.nodes.is_some() || expect.window == Window::Never {
            return;
        }
        let (plan, view) = (self.plan, View::of(step));
        // What ends in time leaves an expectation that waits its nodes.
        let stays = |fault: usize| match expect.window {
            Window::Within(within) => self.timeline.fault_end(fault, view).0 >= self.timeline.window(step, within).1,
            Window::Now | Window::For(_) | Window::Never => true,
        };
        let over = |(fault, what): &(&Step, &Fault)| {
            let cuts = matches!(what.kind, FaultKind::Partition { .. });
            let on = fault.index < step.index && self.timeline.fault_on(fault.index, view, 0) != On::Off;
            on && !cuts && stays(fault.index)
        };
        let held: Vec<&Fault> = plan.faults().filter(over).map(|(_, what)| what).collect();
        let Some(ids) = each_held(plan.network.nodes.iter().map(|node| &node.name), &held) else {
            return;
        };
        self.refuse(
            step.index,
            ASKS_NOBODY,
            format!(
                "this looks at the nodes that are under no fault, and every node may still be under {}",
                and(&ticked(&ids))
            ),
            format!(
                "say which are meant, as with `nodes = [\"all\"]`, or put {} before this step",
                heal_of(&ids)
            ),
        );
    }

    /// A recovery is looked for on the nodes of the fault that no other one holds: some have to be free in its time.
    fn recovers_somewhere(&mut self, step: &Step, of: &str, limit: i64) {
        let plan = self.plan;
        let Some(fault) = plan.fault(of) else { return };
        let nodes: Vec<&NodeName> = match &fault.targets {
            _ if matches!(fault.kind, FaultKind::Partition { .. }) => {
                plan.network.nodes.iter().map(|node| &node.name).collect()
            }
            Targets::Nodes(names) => names.iter().collect(),
            Targets::Leader { .. } => return,
        };
        let view = View::of(step);
        let holds = |(at, other): &(&Step, &Fault)| {
            let on = at.index < step.index && self.timeline.fault_on(at.index, view, 0) == On::Certainly;
            on && other.id != of && self.timeline.fault_end(at.index, view).0 >= limit
        };
        let held: Vec<&Fault> = plan.faults().filter(holds).map(|(_, other)| other).collect();
        let Some(ids) = each_held(nodes.into_iter(), &held) else {
            return;
        };
        self.refuse(
            step.index,
            ASKS_NOBODY,
            format!(
                "nobody is left on whom `{of}` could be seen to be over: until then every node of it is under {}",
                and(&ticked(&ids))
            ),
            format!("put {} before this step, or ask after that fault", heal_of(&ids)),
        );
    }

    /// The chain has to grow at some time before the limit; with `after`, only what comes after that fault's end counts.
    fn growth(&mut self, step: &Step, growth: Option<Growth>, after: Option<usize>) {
        let Some(Growth { what, within, needs }) = growth else {
            return;
        };
        let view = View::of(step);
        let (begin, to) = self.timeline.window(step, within);
        let (mut from, mut sure_from) = (begin, begin);
        if let Some(fault) = after {
            let (earliest, latest) = self.timeline.fault_end(fault, view);
            from = from.max(earliest);
            sure_from = sure_from.max(latest);
        }
        let stretches = self.timeline.stretches(view, from, to);
        let time = |from: i64, wanted: &dyn Fn(Forecast) -> bool| -> i64 {
            let some = stretches
                .iter()
                .filter(|(_, end, outlook)| wanted(outlook.forecast) && *end > from);
            some.map(|(start, end, _)| end - start.max(&from)).sum()
        };
        let enough = |time: i64| time > 0 && (time >= to - begin || time >= timeline::millis(needs));
        let at_best = time(from, &|forecast| forecast != Forecast::MustHalt);
        let at_worst = time(sure_from, &|forecast| forecast == Forecast::MustGoOn);
        let grown = Grown {
            enough: (enough(at_best), enough(at_worst)),
            at_best,
            at_worst,
        };
        self.judge_growth(step, &Growth { what, within, needs }, &stretches, &grown);
    }

    /// The same after a fault that the platform ends at a moment that nobody knows: the expectation has its whole time after that, wherever it falls.
    fn growth_after_platform(&mut self, step: &Step, growth: &Growth, fault: usize) {
        let view = View::of(step);
        let (begin, to) = self.timeline.window(step, growth.within);
        let (earliest, latest) = self.timeline.fault_end(fault, view);
        let whole = timeline::millis(growth.within);
        let stretches = self
            .timeline
            .stretches_without(view, (earliest.max(begin), to + latest.max(0)), fault);
        let time = |wanted: &dyn Fn(Forecast) -> bool| -> i64 {
            let some = stretches.iter().filter(|(_, _, outlook)| wanted(outlook.forecast));
            some.map(|(start, end, _)| end - start).sum()
        };
        let at_best = time(&|forecast| forecast != Forecast::MustHalt).min(whole);
        // At worst all that is in its way falls into its time.
        let at_worst = whole - time(&|forecast| forecast != Forecast::MustGoOn);
        let enough = |time: i64| time > 0 && (time >= whole || time >= timeline::millis(growth.needs));
        let grown = Grown {
            enough: (enough(at_best), enough(at_worst)),
            at_best,
            at_worst: at_worst.max(0),
        };
        self.judge_growth(step, growth, &stretches, &grown);
    }

    fn judge_growth(&mut self, step: &Step, growth: &Growth, stretches: &[(i64, i64, Outlook)], grown: &Grown) {
        let &Growth { what, within, needs } = growth;
        let &Grown {
            enough: (best_enough, worst_enough),
            at_best,
            at_worst,
        } = grown;
        let outlooks = || stretches.iter().rev().map(|(_, _, outlook)| outlook);
        let last = |forecast: Forecast| outlooks().find(|outlook| outlook.forecast == forecast);
        if !best_enough {
            let Some(outlook) = last(Forecast::MustHalt).or_else(|| outlooks().next()) else {
                return;
            };
            let reason = if at_best == 0 {
                "the network must halt for all of its time".to_owned()
            } else {
                format!(
                    "it needs at least {needs}, and of its {within} the network can go on for at most {}",
                    ms(at_best)
                )
            };
            let message = format!(
                "`expect.{what}` cannot come true: {reason}: {}{}",
                outlook.why(),
                self.with(outlook)
            );
            let help = self.heal_help(outlook, "before this step, or expect the halt instead");
            self.refuse(step.index, CONTRADICTION, message, help);
        } else if !worst_enough && !self.undetermined_said {
            let worst = last(Forecast::Undetermined).or_else(|| last(Forecast::MustHalt));
            let Some(outlook) = worst.or_else(|| outlooks().next()) else {
                return;
            };
            let reason = if at_worst == 0 {
                "the network may not go on in its time".to_owned()
            } else {
                format!(
                    "it needs at least {needs}, and of its {within} the network goes on for {} at worst",
                    ms(at_worst)
                )
            };
            let message = format!(
                "`expect.{what}` may or may not come true: {reason}: {}{}",
                self.explain(outlook),
                self.with(outlook)
            );
            let help = self.heal_help(
                outlook,
                "before this step, wait for its end by `expect.recovery`, or allow more time",
            );
            self.refuse(step.index, UNDETERMINED, message, help);
        }
    }

    fn recovery(&mut self, step: &Step, of: &str, growth: Option<Growth>) {
        let Some((fault, growth)) = self.timeline.fault_step(of).zip(growth) else {
            return;
        };
        if fault >= step.index {
            return;
        }
        let view = View::of(step);
        let comes_back = |fault: &Fault| self.plan.comes_back(fault);
        if self.plan.fault(of).is_some_and(comes_back) {
            return self.growth_after_platform(step, &growth, fault);
        }
        let (_, limit) = self.timeline.window(step, growth.within);
        let (earliest, latest) = self.timeline.fault_end(fault, view);
        if latest < limit {
            self.recovers_somewhere(step, of, limit);
            return self.growth(step, Some(growth), Some(fault));
        }
        let within = growth.within;
        let help = format!("heal `{of}` before this step, let it end earlier, or allow more time");
        if latest >= timeline::FOREVER {
            let message = format!("`{of}` cannot have recovered: nothing ends it before this step");
            return self.refuse(
                step.index,
                RECOVERY_IMPOSSIBLE,
                message,
                format!("put `heal = [\"{of}\"]` before this step"),
            );
        }
        let lasts = self.plan.fault(of).map(|fault| fault.lasts);
        let lasts = match (lasts, self.plan.repeated(fault)) {
            (_, Some((more, last))) => format!("strikes {} times, the last {last} after the first", more + 1),
            (Some(Lasts::For(lasts)), None) => format!("lasts {lasts}"),
            _ => "ends late".into(),
        };
        let (code, message) = if earliest >= limit {
            let message = format!(
                "`{of}` cannot have recovered within {within}: it {lasts}, at least {} of it from here on",
                ms(earliest)
            );
            (RECOVERY_IMPOSSIBLE, message)
        } else {
            let message = format!(
                "`{of}` may not have recovered within {within}: it {lasts}, up to {} of it from here on if the steps before are quick",
                ms(latest)
            );
            (UNDETERMINED, message)
        };
        self.refuse(step.index, code, message, help);
    }

    /// The network has to halt from the moment when the fault was verified until it was watched for long enough.
    fn halt(&mut self, step: &Step, of: &str, window: Window) {
        let hold = match window {
            Window::For(hold) | Window::Within(hold) => hold,
            Window::Now => Ms(0),
            Window::Never => return,
        };
        let Some(fault) = self.timeline.fault_step(of).filter(|fault| *fault < step.index) else {
            return;
        };
        let at_cut = self.timeline.outlook(View::after(fault), 0);
        match at_cut.forecast {
            Forecast::MustGoOn => return self.no_halt(step, of, &at_cut),
            Forecast::MustHalt => {}
            // Said at the fault itself.
            Forecast::Undetermined if at_cut.by_itself() => return,
            Forecast::Undetermined => return self.halt_ends(step, of, hold, (View::after(fault), 0), &at_cut, &at_cut),
        }
        // In between nothing may interrupt it; while a step runs, what it does itself is not on yet.
        let mut spans = Vec::new();
        for between in fault + 1..=step.index {
            for (view, next) in [
                (View::after(between - 1), View::before(between)),
                (View::before(between), View::after(between)),
            ] {
                spans.push((view, self.timeline.between(view, next).1));
            }
        }
        spans.pop();
        spans.push((View::of(step), self.watched_until(step, fault, hold)));
        for (view, to) in spans {
            let stretches = self.timeline.stretches(view, 0, to.max(1));
            let broken = stretches
                .into_iter()
                .find(|(_, _, outlook)| outlook.forecast != Forecast::MustHalt);
            if let Some((from, _, outlook)) = broken {
                return self.halt_ends(step, of, hold, (view, from), &at_cut, &outlook);
            }
        }
    }

    /// When a halt has been watched for long enough, at the latest, from the step's beginning.
    fn watched_until(&self, step: &Step, fault: usize, hold: Ms) -> i64 {
        let (earliest, _) = self.timeline.between(View::after(fault), View::of(step));
        let block = (timeline::millis(self.plan.network.block_time) - earliest).max(0);
        self.timeline.window(step, hold).1.saturating_add(block)
    }

    fn no_halt(&mut self, step: &Step, of: &str, at_cut: &Outlook) {
        let later = (0..step.index).rev().find(|index| {
            matches!(self.plan.steps[*index].action, Action::Fault(_))
                && self.timeline.outlook(View::after(*index), 0).forecast == Forecast::MustHalt
                && self.timeline.outlook(View::before(*index), 0).forecast != Forecast::MustHalt
        });
        let later = later.and_then(|index| match &self.plan.steps[index].action {
            Action::Fault(fault) if fault.id != of => Some(&fault.id),
            _ => None,
        });
        let help = match later {
            Some(id) => format!("it is `{id}` that completes the halt: `of = \"{id}\"`"),
            None => "expect progress instead, or strike more".into(),
        };
        let message = format!(
            "`expect.halt` cannot come true: once `{of}` is on, the chain goes on: {}{}",
            at_cut.why(),
            self.with(at_cut)
        );
        self.refuse(step.index, CONTRADICTION, message, help);
    }

    /// The halt ends before it was watched for long enough: because a fault's time may be over, or because a step ends it.
    fn halt_ends(&mut self, step: &Step, of: &str, hold: Ms, when: (View, i64), at_cut: &Outlook, outlook: &Outlook) {
        let (view, offset) = when;
        let parts = [&at_cut.certain, &at_cut.possible, &outlook.possible];
        let on: Vec<usize> = parts.into_iter().flatten().copied().collect();
        if let Some(expiring) = self.timeline.expiring(&on, view, offset) {
            if let Action::Fault(fault) = &self.plan.steps[expiring].action
                && self.plan.comes_back(fault)
            {
                let message = format!(
                    "`expect.halt` may or may not come true: the platform brings the targets of `{}` back when it likes: {}{}",
                    fault.id,
                    self.explain(outlook),
                    self.with(outlook)
                );
                let help = "hold the nodes down (`kill` with a `down` or until `heal`), or expect the recovery instead";
                return self.refuse(step.index, UNDETERMINED, message, help.into());
            }
            return self.outlasts(step, of, hold, expiring, outlook);
        }
        let (after, help) = match self.timeline.ended_by_step(&on, view, offset) {
            Some(by) => (
                format!("after step {}", by + 1),
                format!("put the expectation before step {}", by + 1),
            ),
            None if self.plan.fault(of).is_some_and(|fault| fault.kind == FaultKind::Drain) => (
                "with drained nodes on other machines".into(),
                "expect it of a fault that holds nodes down: `kill`, `stop` or `machine`".into(),
            ),
            None => (
                "before it was watched".into(),
                format!("put the expectation right after `{of}`"),
            ),
        };
        let message = format!(
            "`expect.halt` cannot come true: {after} the chain need not halt any more: {}{}",
            self.explain(outlook),
            self.with(outlook)
        );
        self.refuse(step.index, CONTRADICTION, message, help);
    }

    /// A fault may be over by its own time before the halt was watched for long enough.
    fn outlasts(&mut self, step: &Step, of: &str, hold: Ms, expiring: usize, outlook: &Outlook) {
        let Action::Fault(Fault {
            id,
            lasts: Lasts::For(lasts),
            ..
        }) = &self.plan.steps[expiring].action
        else {
            return;
        };
        let (_, before) = self.timeline.between(View::after(expiring), View::of(step));
        let halting = self.timeline.fault_step(of).unwrap_or(expiring);
        let until = before.saturating_add(self.watched_until(step, halting, hold));
        let block = until - before - timeline::millis(hold);
        let mut parts = Vec::new();
        if before > 0 {
            parts.push(format!("up to {} for the steps in between", ms(before)));
        }
        if block > 0 {
            parts.push(format!("{} for a block under way", ms(block)));
        }
        parts.push(format!("{hold} of watching"));
        let sum = if parts.len() > 1 {
            format!(" ({})", parts.join(", "))
        } else {
            String::new()
        };
        let message = format!(
            "`expect.halt` may outlast `{id}`, which lasts {lasts}: the halt is watched until {} after that began{sum}; {}",
            ms(until),
            self.explain(outlook)
        );
        let most = timeline::millis(*lasts) - (until - timeline::millis(hold));
        let help = if most > 0 {
            format!(
                "let `{id}` last at least {}, or watch for at most {}",
                ms(until),
                ms(most)
            )
        } else {
            format!(
                "let `{id}` last at least {}, or put the expectation right after the fault",
                ms(until)
            )
        };
        self.refuse(step.index, HALT_OUTLASTS_FAULT, message, help);
    }

    /// Why a moment is forecast so; when that depends on what is on, both ways.
    fn explain(&self, outlook: &Outlook) -> String {
        if outlook.forecast != Forecast::Undetermined || outlook.by_itself() {
            return outlook.why().to_owned();
        }
        let possible = and(&ticked(&self.timeline.fault_ids(&outlook.possible)));
        let (with, without) = (&outlook.at_worst.why, &outlook.at_best.why);
        if possible.is_empty() {
            return format!("at worst {with}; at best {without}");
        }
        format!("{possible} may or may not be on: with it {with}; without it {without}")
    }

    /// `, with `a` and `b` on`.
    fn with(&self, outlook: &Outlook) -> String {
        let faults = and(&ticked(&self.timeline.fault_ids(&outlook.certain)));
        let missing = and(&ticked(&self.timeline.not_started(&outlook.certain)));
        match (faults.is_empty(), missing.is_empty()) {
            (true, true) => String::new(),
            (false, true) => format!(", with {faults} on"),
            (true, false) => format!(", with {missing} not started"),
            (false, false) => format!(", with {faults} on and {missing} not started"),
        }
    }

    fn heal_help(&self, outlook: &Outlook, then: &str) -> String {
        let all: Vec<usize> = outlook.certain.iter().chain(&outlook.possible).copied().collect();
        let faults = self.timeline.fault_ids(&all);
        if faults.is_empty() {
            return "start the nodes that are not up, or allow more time".into();
        }
        format!("put {} {then}", heal_of(&faults))
    }

    fn refuse(&mut self, step: usize, code: &'static str, message: String, help: String) {
        self.problems.push(Problem {
            step,
            code,
            message,
            help,
        });
    }
}

/// The faults that hold nodes, each once, if every node is held by one of these.
fn each_held<'a>(nodes: impl Iterator<Item = &'a NodeName>, faults: &[&'a Fault]) -> Option<Vec<&'a str>> {
    let mut ids: Vec<&str> = Vec::new();
    for node in nodes {
        let holds = |fault: &&&Fault| matches!(&fault.targets, Targets::Nodes(names) if names.contains(node));
        let id = faults.iter().find(holds)?.id.as_str();
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    Some(ids)
}

/// The step that ends these, in the words of the language.
fn heal_of(ids: &[&str]) -> String {
    let ids: Vec<String> = ids.iter().map(|id| format!("\"{id}\"")).collect();
    format!("`heal = [{}]`", ids.join(", "))
}

fn ticked(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| format!("`{name}`")).collect()
}

fn and(names: &[String]) -> String {
    match names {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

fn ms(offset: i64) -> Ms {
    Ms(u64::try_from(offset).unwrap_or(0))
}
