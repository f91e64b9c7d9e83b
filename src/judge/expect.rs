//! Expectations: when each is decided, and how.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::faults::Life;
use super::nodes::Track;
use super::notes::Draft;
use super::{Answer, GAP, Judge, list, short};
use crate::model::verdict::Class;
use crate::model::{Action, Bounds, Expect, Ms, Step, What, Window};
use crate::record::TxEvent;

/// What is recorded only when it changes, and asked for once a second, is up to date after this time.
const SLOW_READ: Ms = Ms(1500);

/// So long a complete observation is waited for where the file says *now*.
const NOW_LIMIT: Ms = Ms(5000);

/// A step as the records tell it.
#[derive(Clone, Debug, Default)]
pub(super) struct StepTrack {
    pub(super) began: Option<Ms>,
    pub(super) ended: Option<Ms>,
    /// It could not be done: what was seen.
    pub(super) failed: Option<String>,
    /// When its expectation was decided, and how.
    pub(super) decided: Option<(Ms, Answer)>,
    /// Q when it began.
    q: u64,
    /// Lines of logs count from here: the begin of the last step before it that did something.
    origin: Ms,
    /// Whether it held in any observation.
    held: bool,
    /// Of a load: what became of its transactions so far.
    pub(super) load: Option<LoadCounts>,
}

/// What became of the transactions of a load.
#[derive(Clone, Copy, Debug)]
pub(super) struct LoadCounts {
    pub(super) sent: u64,
    pub(super) accepted: u64,
    pub(super) refused: u64,
}

impl LoadCounts {
    pub(super) fn words(&self) -> String {
        let Self {
            sent,
            accepted,
            refused,
        } = self;
        format!("sent {sent}, accepted {accepted}, refused {refused}")
    }
}

/// What is known of a transaction.
#[derive(Clone, Debug, Default)]
pub(super) struct TxTrack {
    refused: Option<String>,
    /// Height and result code by node.
    committed: BTreeMap<usize, (u64, u64)>,
    /// A contradiction in what nodes said.
    wrong: Option<String>,
}

/// Whether a condition holds in what was observed since the step began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    Holds,
    Fails,
    /// Not all of it was observed.
    Unseen,
    /// It can no longer come true.
    Hopeless,
}

/// The time of a few looks at a node: who was seen that shortly before a deadline was seen at it.
const LOOKS: Ms = Ms(600);

impl Judge {
    /// A step begins: its expectation counts from here.
    pub(super) fn expect_began(&mut self, step: usize) {
        let did = |at: &usize| !self.is_expect(*at) && self.steps[*at].began.is_some();
        let origin = (0..step).rev().find(did).and_then(|at| self.steps[at].began);
        let (now, q) = (self.now, self.heights.q);
        let track = &mut self.steps[step];
        track.began = Some(now);
        track.q = q;
        track.origin = origin.unwrap_or_default();
        if self.is_expect(step) {
            self.open.push(step);
        }
    }

    /// Looks at every open expectation; `moment` is the time of sending of what has just come in.
    pub(super) fn expectations(&mut self, moment: Ms) {
        if self.ground_gone {
            return;
        }
        for step in self.open.clone() {
            self.evaluate(step, moment);
        }
        let steps = &self.steps;
        self.open.retain(|step| steps[*step].decided.is_none());
    }

    fn evaluate(&mut self, step: usize, moment: Ms) {
        let plan = Arc::clone(&self.plan);
        let Some(Action::Expect(expect)) = plan.steps.get(step).map(|step| &step.action) else {
            return;
        };
        let Some(began) = self.steps[step].began else { return };
        match &expect.what {
            What::Halt { of } => return self.evaluate_halt(step, expect, of, began),
            What::Recovery { of } => return self.evaluate_recovery(step, expect, of, began),
            _ => {}
        }
        match expect.window {
            Window::Now => self.evaluate_now(step, expect, began),
            Window::Within(within) => self.evaluate_within(step, expect, began, within, moment),
            Window::For(time) => self.evaluate_for(step, expect, began, time),
            Window::Never => {
                let nodes = self.concerned(expect);
                let at = self.violator(expect, step, &nodes);
                if let Some(node) = at {
                    self.fail(step, expect, node, "at no moment");
                }
            }
        }
    }

    fn evaluate_now(&mut self, step: usize, expect: &Expect, began: Ms) {
        let nodes = self.concerned(expect);
        match self.complete(expect, step, &nodes) {
            Check::Holds => self.meet(step, expect),
            Check::Fails | Check::Hopeless => {
                let node = self.culprit(expect, step, &nodes);
                self.fail(step, expect, node, "now");
            }
            Check::Unseen if self.now > began + NOW_LIMIT => {
                self.unseen(step, expect, format!("no complete observation within {NOW_LIMIT}"));
            }
            Check::Unseen => {}
        }
    }

    fn evaluate_within(&mut self, step: usize, expect: &Expect, began: Ms, within: Ms, moment: Ms) {
        let deadline = began + within;
        let nodes = self.concerned(expect);
        let check = self.check_all(expect, step, &nodes);
        if check == Check::Holds && moment <= deadline {
            return self.meet(step, expect);
        }
        if check != Check::Hopeless && self.now <= deadline {
            return;
        }
        if check != Check::Hopeless
            && let Some(node) = self.out_of_reach(expect, step, &nodes, deadline)
        {
            return self.cut_off(step, expect, node);
        }
        let looked = |i: &usize| self.nodes[*i].heard.is_some_and(|heard| heard > began);
        let observed = if nodes.is_empty() {
            self.network_wide(expect) && self.nodes.iter().any(|node| node.fresh(began).is_some())
        } else {
            nodes.iter().any(looked)
        };
        if check != Check::Hopeless && !observed {
            return self.unseen(step, expect, "no sample in all that time".to_owned());
        }
        let liveness = matches!(expect.what, What::Progress { .. });
        if let Some(late) = self
            .starved(began, within)
            .filter(|_| liveness && check != Check::Hopeless)
        {
            return self.starve(step, expect, late, began);
        }
        let node = self.culprit(expect, step, &nodes);
        self.fail(step, expect, node, &format!("within {within}"));
    }

    fn evaluate_for(&mut self, step: usize, expect: &Expect, began: Ms, time: Ms) {
        let end = began + time;
        let nodes = self.concerned(expect);
        let check = self.check_all(expect, step, &nodes);
        // Growth needs time; what is asked of it is asked of the end.
        let at_end = matches!(expect.what, What::Progress { .. });
        match check {
            Check::Holds => self.steps[step].held = true,
            Check::Hopeless => {}
            Check::Fails if !at_end || self.now >= end => {}
            Check::Fails | Check::Unseen => {
                if self.now > end + GAP {
                    self.unseen(step, expect, "not observed at the end".to_owned());
                }
                return;
            }
        }
        if check != Check::Holds {
            let node = self.culprit(expect, step, &nodes);
            return self.fail(step, expect, node, &format!("for {time}"));
        }
        // What is said of the network is seen on the nodes that have to answer.
        let answering = || (0..self.nodes.len()).filter(|i| !self.silence_excused(*i)).collect();
        let nodes: Vec<usize> = if self.network_wide(expect) { answering() } else { nodes };
        let seen_to_end = |i: &usize| self.nodes[*i].fresh(end).is_some();
        if self.now < end || !(nodes.iter().all(seen_to_end) || self.now > end + GAP) {
            return;
        }
        let gap = |i: &&usize| self.nodes[**i].gap.is_some_and(|gap| gap >= began) || !seen_to_end(i);
        if let Some(&i) = nodes.iter().find(gap) {
            let why = format!("{} was not observed all the time", self.nodes[i].name);
            return self.unseen(step, expect, why);
        }
        self.meet(step, expect);
    }

    /// No growth anywhere, from one block time after *verified*, for the whole time.
    fn evaluate_halt(&mut self, step: usize, expect: &Expect, of: &str, began: Ms) {
        let Some(life) = self.faults.iter().find(|life| life.fault.id == of) else {
            return;
        };
        let Some(cut) = &life.cut else { return };
        if let Some((node, height, sent)) = cut.grew {
            let (from, base) = (cut.from, cut.base);
            return self.grew(step, expect, node, height, base, sent.max(from));
        }
        let time = self.halt_time(expect);
        let still = began.max(cut.from).max(self.heights.m_grew);
        let end = still + time;
        if let Some(until) = life.certain_until()
            && until < end
            && self.now >= until
        {
            let why = format!("\"{of}\" ended before the chain was seen to stand still for {time}");
            return self.unseen(step, expect, why);
        }
        if self.now < end {
            return;
        }
        let answering: Vec<usize> = (0..self.nodes.len()).filter(|i| !self.silence_excused(*i)).collect();
        let seen = |i: &usize| self.nodes[*i].fresh(end).is_some();
        let complete = !answering.is_empty() && answering.iter().all(seen);
        if !complete && self.now <= end + GAP {
            return;
        }
        let gap = |i: &usize| !seen(i) || self.nodes[*i].gap.is_some_and(|gap| gap >= still);
        if answering.is_empty() || answering.iter().any(gap) {
            return self.unseen(step, expect, "not every node was observed all the time".to_owned());
        }
        self.meet(step, expect);
    }

    fn halt_time(&self, expect: &Expect) -> Ms {
        match expect.window {
            Window::For(time) | Window::Within(time) => time,
            Window::Now | Window::Never => self.plan.invariants.max_stall,
        }
    }

    /// The chain grew although a fault had to halt it. Where no side has a quorum that breaks safety.
    fn grew(&mut self, step: usize, expect: &Expect, node: usize, height: u64, base: u64, since: Ms) {
        if !self.certain.halted {
            return self.fail(step, expect, Some(node), &format!("for {}", self.halt_time(expect)));
        }
        let seen = self.describe(expect, step);
        let draft = self.growth_draft(node, height, base, since);
        if !self.notes.claim(&draft.code, Some(node), step) {
            self.find(Draft {
                step: Some(step),
                ..draft
            });
        }
        self.decide(step, Answer::Failed(seen));
    }

    /// All targets with the others again after *revert verified*; of a fault that is repeated, after that of the last time.
    fn evaluate_recovery(&mut self, step: usize, expect: &Expect, of: &str, began: Ms) {
        let series = self.series(of);
        let Some(&last) = series.last() else {
            return;
        };
        let life = &self.faults[last];
        if life.comes_again() {
            return;
        }
        let within = match expect.window {
            Window::Within(time) | Window::For(time) => time,
            Window::Now | Window::Never => Ms(0),
        };
        if life.revert_verified.is_none() {
            if life.stuck.is_some() {
                // There is a finding about the fault; nothing can be said of the chain.
                return self.decide(step, Answer::Inconclusive(format!("\"{of}\" could not be taken back")));
            }
            if life.awaits_revert() || self.end_comes(life) {
                return;
            }
        }
        // The time runs from the moment at which recovery can begin; of a fault that nobody ends, from the step's begin.
        let from = began.max(life.back_since());
        let recovered: Option<Vec<Ms>> = series.iter().map(|at| self.faults[*at].recovered).collect();
        let recovered = recovered.and_then(|times| times.into_iter().max());
        if let Some(recovered) = recovered {
            if recovered <= from + within {
                return self.meet(step, expect);
            }
        } else if self.now <= from + within {
            return;
        }
        let late = |at: &&usize| self.faults[**at].recovered.is_none();
        let returning = self.returning(series.iter().find(late).copied().unwrap_or(last));
        if recovered.is_none()
            && let Some(node) = returning.iter().copied().find(|i| self.nodes[*i].is_cut_off())
        {
            return self.cut_off(step, expect, node);
        }
        let observed = |i: &usize| self.nodes[*i].heard.is_some_and(|heard| heard > from);
        if !returning.iter().any(observed) && recovered.is_none() {
            return self.unseen(step, expect, "no sample in all that time".to_owned());
        }
        if let Some(late) = self.starved(from, within) {
            return self.starve(step, expect, late, from);
        }
        self.fail(step, expect, returning.first().copied(), &format!("within {within}"));
    }

    fn meet(&mut self, step: usize, expect: &Expect) {
        let seen = self.describe(expect, step);
        self.decide(step, Answer::Met(seen));
    }

    fn fail(&mut self, step: usize, expect: &Expect, node: Option<usize>, when: &str) {
        let seen = self.describe(expect, step);
        let (code, class) = code_of(&expect.what);
        let height = match node {
            Some(i) => self.nodes[i].last.as_ref().map(|seen| seen.height),
            None => Some(self.heights.q),
        };
        self.find(Draft {
            node,
            height,
            expected: format!("{} {when}", what_words(&expect.what)),
            seen: seen.clone(),
            since: self.steps[step].began.unwrap_or(self.now),
            step: Some(step),
            ..Draft::new(code, class, self.now)
        });
        self.decide(step, Answer::Failed(seen));
    }

    /// It cannot be told; if a cause is known, that is what is said.
    fn unseen(&mut self, step: usize, expect: &Expect, why: String) {
        let seen = format!("{why}; {}", self.describe(expect, step));
        self.find(Draft {
            expected: format!("an observation that shows: {}", what_words(&expect.what)),
            seen: seen.clone(),
            step: Some(step),
            ..Draft::new(
                "evidence/not-evaluated",
                Class::Inconclusive,
                self.steps[step].began.unwrap_or(self.now),
            )
        });
        self.decide(step, Answer::Inconclusive(seen));
    }

    /// A node that trialnet itself cannot reach, where that leaves open whether the expectation came true.
    fn out_of_reach(&self, expect: &Expect, step: usize, nodes: &[usize], deadline: Ms) -> Option<usize> {
        let cut_off = |i: &usize| self.nodes[*i].is_cut_off();
        match expect.what {
            What::Height(_) | What::Progress { .. } if nodes.is_empty() => {
                // What the others show may be enough: without them there is no quorum.
                let certain = self.seen_still().is_some_and(|until| until + LOOKS >= deadline);
                (0..self.nodes.len()).find(cut_off).filter(|_| !certain)
            }
            What::Height(_) | What::Lag(_) | What::Peers(_) | What::Version { .. } | What::Validators { .. } => {
                let (lost, reached): (Vec<_>, Vec<_>) = nodes.iter().copied().partition(cut_off);
                let lost = lost.first().copied();
                lost.filter(|_| self.culprit(expect, step, &reached).is_none())
            }
            _ => None,
        }
    }

    /// It cannot be told since trialnet's own way to a node is broken.
    fn cut_off(&mut self, step: usize, expect: &Expect, node: usize) {
        let seen = self.describe(expect, step);
        self.find(Draft {
            node: Some(node),
            expected: format!(
                "trialnet's connection to the node, to judge: {}",
                what_words(&expect.what)
            ),
            seen: seen.clone(),
            step: Some(step),
            ..Draft::new(
                "infra/tunnel",
                Class::Infrastructure,
                self.steps[step].began.unwrap_or(self.now),
            )
        });
        self.decide(step, Answer::Inconclusive(seen));
    }

    fn starve(&mut self, step: usize, expect: &Expect, late: Ms, since: Ms) {
        let seen = format!("polls up to {} late, and {}", short(late), self.describe(expect, step));
        self.find(Draft {
            expected: format!("polls in time, to judge: {}", what_words(&expect.what)),
            seen: seen.clone(),
            step: Some(step),
            ..Draft::new("evidence/starved", Class::Inconclusive, since)
        });
        self.decide(step, Answer::Inconclusive(seen));
    }

    fn decide(&mut self, step: usize, answer: Answer) {
        let now = self.now;
        self.steps[step].decided.get_or_insert((now, answer));
    }

    /// The run is being taken down: what was to happen *never* has not happened.
    pub(super) fn expectations_end(&mut self) {
        for step in std::mem::take(&mut self.open) {
            let Some(expect) = self.expect(step).cloned() else {
                continue;
            };
            if expect.window != Window::Never || matches!(expect.what, What::Halt { .. } | What::Recovery { .. }) {
                continue;
            }
            let began = self.steps[step].began.unwrap_or_default();
            if self.nodes.iter().any(|node| node.fresh(began).is_some()) {
                self.meet(step, &expect);
            } else {
                self.unseen(step, &expect, "no sample since".to_owned());
            }
        }
    }

    /// The next moment at which an open expectation is decided without any other record.
    pub(super) fn expectations_due(&self) -> impl Iterator<Item = Ms> + '_ {
        self.open.iter().flat_map(|step| {
            let began = self.steps[*step].began.unwrap_or_default();
            let dues = match self.expect(*step) {
                None => Vec::new(),
                Some(Expect {
                    what: What::Recovery { of },
                    window,
                    ..
                }) => {
                    let last = self.series(of).last().copied();
                    let life = last.map(|at| &self.faults[at]);
                    let from = began.max(life.map(Life::back_since).unwrap_or_default());
                    match window {
                        Window::Within(time) | Window::For(time) => vec![from + *time],
                        Window::Now | Window::Never => vec![from],
                    }
                }
                Some(
                    expect @ Expect {
                        what: What::Halt { of },
                        ..
                    },
                ) => {
                    let life = self.faults.iter().find(|life| life.fault.id == *of);
                    let cut = life.and_then(|life| life.cut.as_ref()).map_or(began, |cut| cut.from);
                    let end = began.max(cut).max(self.heights.m_grew) + self.halt_time(expect);
                    let until = life.and_then(Life::certain_until);
                    [Some(end), Some(end + GAP), until].into_iter().flatten().collect()
                }
                Some(expect) => match expect.window {
                    Window::Now => vec![began + SLOW_READ, began + NOW_LIMIT],
                    Window::Within(time) => vec![began + time],
                    Window::For(time) => vec![began + time, began + time + GAP],
                    Window::Never => Vec::new(),
                },
            };
            dues.into_iter().map(|due| due + Ms(1))
        })
    }

    /// The nodes that an expectation is about; none where it is about the network as a whole.
    fn concerned(&self, expect: &Expect) -> Vec<usize> {
        match &expect.nodes {
            _ if self.network_wide(expect) => Vec::new(),
            Some(names) => names.iter().filter_map(|name| self.index(name)).collect(),
            None => {
                let free = |i: &usize| self.nodes[*i].started && !self.under_fault(*i);
                (0..self.nodes.len()).filter(free).collect()
            }
        }
    }

    fn network_wide(&self, expect: &Expect) -> bool {
        match expect.what {
            What::Progress { .. } | What::Halt { .. } | What::Recovery { .. } => true,
            What::Height(_) => expect.nodes.is_none(),
            _ => false,
        }
    }

    fn check_all(&self, expect: &Expect, step: usize, nodes: &[usize]) -> Check {
        if self.network_wide(expect) {
            return self.check_network(expect, step);
        }
        // Of a log line without `nodes` one is enough.
        if let (What::Log { .. }, None) = (&expect.what, &expect.nodes) {
            let holds = nodes.iter().any(|i| self.check_node(expect, step, *i) == Check::Holds);
            return if holds { Check::Holds } else { Check::Fails };
        }
        let mut all = if nodes.is_empty() { Check::Unseen } else { Check::Holds };
        for &i in nodes {
            match self.check_node(expect, step, i) {
                Check::Hopeless => return Check::Hopeless,
                Check::Fails => all = Check::Fails,
                Check::Unseen if all == Check::Holds => all = Check::Unseen,
                Check::Unseen | Check::Holds => {}
            }
        }
        all
    }

    /// As `check_all`, but only once every node has been observed.
    fn complete(&self, expect: &Expect, step: usize, nodes: &[usize]) -> Check {
        let unseen = |i: &usize| self.check_node(expect, step, *i) == Check::Unseen;
        if nodes.iter().any(unseen) {
            Check::Unseen
        } else {
            self.check_all(expect, step, nodes)
        }
    }

    /// The node that is to blame for a condition that does not hold.
    fn culprit(&self, expect: &Expect, step: usize, nodes: &[usize]) -> Option<usize> {
        let bad = |i: &usize| {
            matches!(
                self.check_node(expect, step, *i),
                Check::Fails | Check::Hopeless | Check::Unseen
            )
        };
        nodes.iter().copied().find(bad)
    }

    /// Whether what is to happen never has happened: on the network, or on some node.
    fn violator(&self, expect: &Expect, step: usize, nodes: &[usize]) -> Option<Option<usize>> {
        if self.network_wide(expect) {
            return (self.check_network(expect, step) == Check::Holds).then_some(None);
        }
        let holds = |i: &&usize| self.check_node(expect, step, **i) == Check::Holds;
        nodes.iter().find(holds).map(|i| Some(*i))
    }

    fn check_network(&self, expect: &Expect, step: usize) -> Check {
        let track = &self.steps[step];
        let began = track.began.unwrap_or_default();
        let holds = match &expect.what {
            What::Height(bounds) => within(*bounds, self.heights.q),
            What::Progress { blocks } => self.heights.q >= track.q.saturating_add(*blocks),
            _ => return Check::Unseen,
        };
        if !self.nodes.iter().any(|node| node.fresh(began).is_some()) {
            return Check::Unseen;
        }
        if holds { Check::Holds } else { Check::Fails }
    }

    fn check_node(&self, expect: &Expect, step: usize, i: usize) -> Check {
        let node = &self.nodes[i];
        let began = self.steps[step].began.unwrap_or_default();
        let slow = self.now >= began + SLOW_READ;
        let fresh = node.fresh(began);
        let told = |holds: Option<bool>| match holds {
            Some(true) => Check::Holds,
            Some(false) => Check::Fails,
            None => Check::Unseen,
        };
        match &expect.what {
            What::Height(bounds) => told(fresh.map(|seen| within(*bounds, seen.height))),
            What::Lag(bounds) => {
                told(fresh.map(|seen| within(*bounds, self.heights.q_at(seen.sent).saturating_sub(seen.height))))
            }
            What::Version { is } => told(fresh.map(|seen| self.is_version(is, &seen.version))),
            What::Peers(bounds) => {
                let holds = node
                    .peers
                    .filter(|_| fresh.is_some())
                    .map(|count| within(*bounds, count));
                told(holds.filter(|holds| slow || (*holds && matches!(expect.window, Window::Within(_)))))
            }
            What::Validators { count, powers } => {
                let speaks = fresh.is_some() && node.powerless.is_none();
                let set = node.validators.as_ref().filter(|_| speaks);
                let holds = set.map(|(_, set)| set_holds(set, *count, powers));
                told(holds.filter(|holds| slow || (*holds && matches!(expect.window, Window::Within(_)))))
            }
            What::Restarts(bounds) => told(
                node.heard
                    .filter(|heard| *heard > began)
                    .map(|_| within(*bounds, node.restarts)),
            ),
            What::Log { contains } => {
                let line = self.logs.get(&(contains.clone(), i));
                let found = line.is_some_and(|(at, _)| *at >= self.steps[step].origin);
                if found || slow {
                    told(Some(found))
                } else {
                    Check::Unseen
                }
            }
            What::Tx { of } => self.check_tx(of, i),
            What::Progress { .. } | What::Halt { .. } | What::Recovery { .. } => Check::Unseen,
        }
    }

    fn check_tx(&self, of: &str, i: usize) -> Check {
        let Some(tx) = self.txs.get(of) else {
            return Check::Fails;
        };
        if tx.refused.is_some() || tx.wrong.is_some() {
            return Check::Hopeless;
        }
        match tx.committed.get(&i) {
            Some((_, 0)) => Check::Holds,
            Some(_) => Check::Hopeless,
            None => Check::Fails,
        }
    }

    fn is_version(&self, is: &str, reported: &str) -> bool {
        let reports = self
            .plan
            .versions
            .get(is)
            .and_then(|version| version.reports.as_deref());
        is == reported || reports == Some(reported)
    }

    /// Takes in what became of a load so far.
    pub(super) fn load(&mut self, id: &str, counts: LoadCounts) {
        let is_it = |step: &&Step| matches!(&step.action, Action::Load(load) if load.id == id);
        if let Some(step) = self.plan.steps.iter().find(is_it) {
            self.steps[step.index].load = Some(counts);
        }
    }

    /// A load of which nothing was accepted did not load anything.
    pub(super) fn load_ended(&mut self, step: usize) {
        let none = |counts: &LoadCounts| counts.sent > 0 && counts.accepted == 0;
        let track = &mut self.steps[step];
        let Some(counts) = track.load.filter(none) else { return };
        if self.closed.is_some() || self.ground_gone {
            return;
        }
        let seen = counts.words();
        track.failed = Some(seen.clone());
        let since = track.began.unwrap_or(self.now);
        self.find(Draft {
            expected: "some of the load's transactions are accepted".to_owned(),
            seen,
            step: Some(step),
            ..Draft::new("expect/load", Class::ExpectationFailed, since)
        });
    }

    /// Takes in what happened to a transaction.
    pub(super) fn tx(&mut self, id: &str, event: &TxEvent) {
        let tx = self.txs.entry(id.to_owned()).or_default();
        match event {
            TxEvent::Accepted { .. } => {}
            TxEvent::Refused { node, why } => tx.refused = Some(format!("{node} refused it: {why}")),
            TxEvent::Committed { node, height, code } => {
                let Some(&i) = self.by_name.get(node) else { return };
                let other = tx.committed.values().find(|known| **known != (*height, *code));
                if let Some((at, with)) = other {
                    tx.wrong = Some(format!(
                        "{node} has it at height {height} with code {code}, another at {at} with code {with}"
                    ));
                }
                tx.committed.insert(i, (*height, *code));
            }
            TxEvent::Lost { node } => {
                let Some(&i) = self.by_name.get(node) else { return };
                let Some((height, _)) = tx.committed.remove(&i) else {
                    return;
                };
                if self.nodes[i].floor < height && self.nodes[i].wiped > Ms(0) {
                    // Its data was removed and it is not back at that height: it cannot know.
                    return;
                }
                self.find(Draft {
                    node: Some(i),
                    height: Some(height),
                    expected: format!("transaction \"{id}\" stays committed at height {height}"),
                    seen: "the node does not know it any more".to_owned(),
                    ..Draft::new("safety/tx-lost", Class::SafetyViolated, self.now)
                });
            }
        }
    }

    /// The last observation that an expectation is about, in words.
    pub(super) fn describe(&self, expect: &Expect, step: usize) -> String {
        let nodes = self.concerned(expect);
        let each = |words: &dyn Fn(&Track, usize) -> String| {
            if nodes.is_empty() {
                return "no node to look at: each is under a fault or not started; `nodes` names those that are meant"
                    .to_owned();
            }
            list(nodes.iter().map(|i| words(&self.nodes[*i], *i)))
        };
        match &expect.what {
            What::Height(_) if expect.nodes.is_none() => format!("Q is {}; {}", self.heights.q, self.heights_words()),
            What::Height(_) => each(&|node, _| node.words()),
            What::Progress { .. } => {
                let from = self.steps[step].q;
                format!("Q went from {from} to {}; {}", self.heights.q, self.heights_words())
            }
            What::Halt { of } => self.describe_halt(of),
            What::Recovery { of } => self.describe_recovery(of),
            What::Lag(_) => each(&|node, _| {
                let lag = node
                    .last
                    .as_ref()
                    .map(|seen| self.heights.q_at(seen.sent).saturating_sub(seen.height));
                format!("{}: {} behind", node.name, or_unknown(lag))
            }),
            What::Version { .. } => each(&|node, _| {
                let version = node.last.as_ref().map(|seen| seen.version.as_str());
                format!("{}: {}", node.name, or_unknown(version))
            }),
            What::Peers(_) => each(&|node, _| format!("{}: {} peers", node.name, or_unknown(node.peers))),
            What::Validators { .. } => each(&|node, _| match &node.validators {
                Some((height, set)) => {
                    let powers = list(set.iter().map(|(name, power)| format!("{name}={power}")));
                    format!("{} at {height}: {powers}", node.name)
                }
                None => format!("{}: unknown", node.name),
            }),
            What::Restarts(_) => each(&|node, _| format!("{}: {}", node.name, node.restarts)),
            What::Log { contains } => self.describe_log(contains, step, &nodes),
            What::Tx { of } => self.describe_tx(of, &nodes),
        }
    }

    fn describe_halt(&self, of: &str) -> String {
        let life = self.faults.iter().find(|life| life.fault.id == of);
        match life.and_then(|life| life.cut.as_ref()) {
            None => format!("\"{of}\" is not verified"),
            Some(cut) => {
                let still = short(self.now.since(self.heights.m_grew.max(cut.from)));
                format!(
                    "highest {}, {} at the cut, still for {still}; {}",
                    self.heights.m,
                    cut.base,
                    self.heights_words()
                )
            }
        }
    }

    fn describe_recovery(&self, of: &str) -> String {
        let series = self.series(of);
        let late = |at: &&usize| self.faults[**at].recovered.is_none();
        let Some(&at) = series.iter().find(late).or(series.last()) else {
            return format!("\"{of}\" is unknown");
        };
        let life = &self.faults[at];
        let of = &life.fault.id;
        match (life.revert_verified, life.recovered, &life.recovery) {
            (Some(since), Some(recovered), _) => {
                format!("recovered {} after the revert", short(recovered.since(since)))
            }
            (Some(_), None, Some((mark, _))) => {
                let returning = list(self.returning(at).into_iter().map(|i| self.nodes[i].words()));
                format!(
                    "to pass height {mark} and stay with the others: {returning}; Q is {}",
                    self.heights.q
                )
            }
            _ => format!("the revert of \"{of}\" is not verified"),
        }
    }

    fn describe_log(&self, contains: &str, step: usize, nodes: &[usize]) -> String {
        let origin = self.steps[step].origin;
        let line = |i: &usize| {
            self.logs
                .get(&(contains.to_owned(), *i))
                .filter(|(at, _)| *at >= origin)
        };
        let found = nodes
            .iter()
            .filter_map(|i| line(i).map(|(_, line)| format!("{}: {line}", self.nodes[*i].name)));
        let found: Vec<String> = found.take(3).collect();
        if found.is_empty() {
            format!("no line with \"{contains}\"")
        } else {
            found.join("; ")
        }
    }

    fn describe_tx(&self, of: &str, nodes: &[usize]) -> String {
        let Some(tx) = self.txs.get(of) else {
            return format!("\"{of}\" was not sent");
        };
        if let Some(wrong) = tx.refused.as_ref().or(tx.wrong.as_ref()) {
            return wrong.clone();
        }
        list(nodes.iter().map(|i| match tx.committed.get(i) {
            Some((height, 0)) => format!("{}: height {height}", self.nodes[*i].name),
            Some((height, code)) => format!("{}: height {height}, code {code}", self.nodes[*i].name),
            None => format!("{}: not committed", self.nodes[*i].name),
        }))
    }
}

fn within(bounds: Bounds, value: u64) -> bool {
    bounds.at_least.is_none_or(|least| value >= least) && bounds.at_most.is_none_or(|most| value <= most)
}

fn set_holds(set: &BTreeMap<String, u64>, count: Option<u64>, powers: &BTreeMap<String, u64>) -> bool {
    let members = set.values().filter(|power| **power > 0).count();
    let equal = |(name, power): (&String, &u64)| set.get(name).copied().unwrap_or(0) == *power;
    count.is_none_or(|count| u64::try_from(members) == Ok(count)) && powers.iter().all(equal)
}

fn or_unknown<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "unknown".to_owned(), |value| value.to_string())
}

/// The code and class of an expectation that did not hold.
const fn code_of(what: &What) -> (&'static str, Class) {
    match what {
        What::Height(_) => ("expect/height", Class::ExpectationFailed),
        What::Progress { .. } => ("expect/progress", Class::LivenessFailed),
        What::Halt { .. } => ("expect/halt", Class::ExpectationFailed),
        What::Recovery { .. } => ("expect/recovery", Class::LivenessFailed),
        What::Lag(_) => ("expect/lag", Class::ExpectationFailed),
        What::Peers(_) => ("expect/peers", Class::ExpectationFailed),
        What::Version { .. } => ("expect/version", Class::ExpectationFailed),
        What::Validators { .. } => ("expect/validators", Class::ExpectationFailed),
        What::Log { .. } => ("expect/log", Class::ExpectationFailed),
        What::Restarts(_) => ("expect/restarts", Class::ExpectationFailed),
        What::Tx { .. } => ("expect/tx", Class::ExpectationFailed),
    }
}

/// What is expected, in words.
pub(super) fn what_words(what: &What) -> String {
    let bounds = |bounds: &Bounds| match (bounds.at_least, bounds.at_most) {
        (Some(least), Some(most)) if least == most => format!("exactly {least}"),
        (Some(least), Some(most)) => format!("{least} to {most}"),
        (Some(least), None) => format!("at least {least}"),
        (None, Some(most)) => format!("at most {most}"),
        (None, None) => "any".to_owned(),
    };
    match what {
        What::Height(range) => format!("height {}", bounds(range)),
        What::Progress { blocks } => format!("{blocks} more blocks"),
        What::Halt { of } => format!("no growth anywhere under \"{of}\""),
        What::Recovery { of } => format!("recovery from \"{of}\""),
        What::Lag(range) => format!("{} blocks behind", bounds(range)),
        What::Peers(range) => format!("{} peers", bounds(range)),
        What::Version { is } => format!("version {is}"),
        What::Validators { count, powers } => {
            let count = count.map(|count| format!("{count} validators"));
            let powers = powers.iter().map(|(name, power)| format!("{name}={power}"));
            count.into_iter().chain(powers).collect::<Vec<_>>().join(", ")
        }
        What::Log { contains } => format!("a log line with \"{contains}\""),
        What::Restarts(range) => format!("{} restarts", bounds(range)),
        What::Tx { of } => format!("transaction \"{of}\" committed on every node"),
    }
}
