//! The judge: records in, findings out. A pure fold: no clock, no I/O; the same live and offline.
//!
//! Time is what the records say: when something was taken in ([`Stamped::at`]) and, for what a node answered, when it was asked
//! (`sent`). Late arrivals are put in their place by the latter. Heights: *Q* is the height that nodes holding a quorum have
//! reached, *M* the highest on any node; both only grow.
//!
//! Two views of the faults exist, and each errs on the side on which nothing is claimed without proof. Liveness goes by the
//! faults that *may* be in force: from the step's begin until their targets are with the others again, or the recovery limit has
//! passed. Safety of sides without a quorum goes by those that are *certainly* on: from *verified* until anybody begins to end them.

mod agreement;
pub mod codes;
mod effects;
mod expect;
mod faults;
mod liveness;
mod nodes;
mod notes;
mod rehearsal;
mod tips;
mod upgrade;
mod verdict;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use self::agreement::Agreement;
use self::effects::net_of;
use self::expect::{LoadCounts, StepTrack, TxTrack};
use self::faults::{Certain, Life, View};
use self::nodes::{Heights, Track};
use self::notes::{Draft, Notes};
use self::tips::Tips;
use self::upgrade::{Mixed, Moving};
use crate::model::verdict::{Class, Finding, Report};
use crate::model::{Action, Expect, Invariant, Ms, Plan, Start};
use crate::quorum::Net;
use crate::record::{Phase, Record, Stamped, StepState};

pub use self::upgrade::GateSeen;

/// Three intervals of the heartbeat (one second). A longer time without any observation of a node is a gap, not a stall.
const GAP: Ms = Ms(3000);

/// So many lines by which nodes' programs say that they are broken are kept.
const COMPLAINTS: usize = 10_000;

/// So long a conflict between nodes is held back until every node that answers has said what it has: the first two to speak do not
/// show which of them is alone.
const WITNESSES: Ms = Ms(2000);

/// Folds records into findings.
#[derive(Clone, Debug)]
pub struct Judge {
    plan: Arc<Plan>,
    /// The plan's network with the powers that count now.
    net: Net,
    by_name: HashMap<String, usize>,
    now: Ms,
    // The run.
    begun: Option<Ms>,
    phases: BTreeMap<&'static str, Ms>,
    ready: Option<Ms>,
    /// Q when the network was ready.
    q_ready: u64,
    /// From here on nothing that is observed is judged.
    closed: Option<Ms>,
    ended: Option<Ms>,
    interrupted: bool,
    /// What held the nodes is gone; liveness is not the chain's matter any more.
    ground_gone: bool,
    // What was observed.
    nodes: Vec<Track>,
    heights: Heights,
    chain: Option<String>,
    blocks: Agreement,
    states: Agreement,
    /// What may still be replaced.
    tips: Tips,
    logs: BTreeMap<(String, usize), (Ms, String)>,
    txs: BTreeMap<String, TxTrack>,
    /// (when, by how much) polls came late.
    late: VecDeque<(Ms, Ms)>,
    // What was done.
    faults: Vec<Life>,
    view: View,
    certain: Certain,
    view_stale: bool,
    steps: Vec<StepTrack>,
    /// Expectations that have begun and are not decided.
    open: Vec<usize>,
    /// What upgrades did.
    moves: Vec<Moving>,
    /// The version that each node runs.
    runs: Vec<String>,
    mixed: Vec<Mixed>,
    /// Lines of nodes' logs by which their programs say that they are broken: when, and which node's.
    complaints: Vec<(Ms, usize, String)>,
    /// M and the time from which recovery after the last step counts.
    settle_mark: Option<(u64, Ms)>,
    settle_judged: bool,
    /// Q up to which heights have to be compared.
    goal: Option<u64>,
    // What was found.
    stalled: nodes::Found,
    notes: Notes,
    /// So many notes were given out.
    announced: usize,
    conflicts_changed: bool,
    conflicts_announced: BTreeSet<(String, Option<usize>)>,
}

/// What the judge says of an `expect` step so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Not decided; what was seen last. A `never` expectation stays so until the teardown begins: it blocks nothing.
    Pending(String),
    /// It held; what was seen.
    Met(String),
    /// It did not hold; there is a finding with this step's index.
    Failed(String),
    /// It cannot be told, and why.
    Inconclusive(String),
}

impl Judge {
    /// A judge for a plan, before the first record.
    #[must_use]
    pub fn new(plan: &Plan) -> Self {
        let nodes = &plan.network.nodes;
        Self {
            by_name: nodes
                .iter()
                .enumerate()
                .map(|(i, node)| (node.name.clone(), i))
                .collect(),
            now: Ms(0),
            begun: None,
            phases: BTreeMap::new(),
            ready: None,
            q_ready: 0,
            closed: None,
            ended: None,
            interrupted: false,
            ground_gone: false,
            nodes: (0..nodes.len()).map(|i| Track::new(plan, i)).collect(),
            heights: Heights::default(),
            chain: None,
            blocks: Agreement::new(nodes.len()),
            states: Agreement::new(nodes.len()),
            tips: Tips::of(plan),
            logs: BTreeMap::new(),
            txs: BTreeMap::new(),
            late: VecDeque::new(),
            faults: Life::all(plan),
            view: View::default(),
            certain: Certain::default(),
            view_stale: true,
            steps: vec![StepTrack::default(); plan.steps.len()],
            open: Vec::new(),
            moves: Vec::new(),
            runs: nodes.iter().map(|node| node.version.clone()).collect(),
            mixed: Vec::new(),
            complaints: Vec::new(),
            settle_mark: None,
            settle_judged: false,
            goal: None,
            stalled: nodes::Found::No,
            notes: Notes::default(),
            announced: 0,
            conflicts_changed: false,
            conflicts_announced: BTreeSet::new(),
            net: net_of(plan),
            plan: Arc::new(plan.clone()),
        }
    }

    /// Takes one record in; returns what it newly found. Each cause is returned once; [`Judge::report`] says how often it came
    /// again, and may name another node where later evidence shows who was wrong.
    pub fn feed(&mut self, record: &Stamped) -> Vec<Finding> {
        self.now = self.now.max(record.at);
        self.refresh();
        if self.closed.is_none() {
            self.observe(&record.record);
        }
        self.happen(&record.record);
        self.refresh();
        if self.closed.is_none() && !matches!(record.record, Record::Headers { .. } | Record::AppState { .. }) {
            self.expectations(sent(&record.record).unwrap_or(self.now));
            self.stall();
            self.settle();
            self.overdue();
        }
        self.announce()
    }

    /// What is known of an `expect` step that has begun. Of other steps: whether they have ended; of a `load` also its counts.
    #[must_use]
    pub fn answer(&self, step: usize) -> Answer {
        let Some(track) = self.steps.get(step) else {
            return Answer::Inconclusive("there is no such step".to_owned());
        };
        if let Some(why) = self.tainted(step) {
            return Answer::Inconclusive(why);
        }
        match (&track.decided, self.expect(step)) {
            (Some((_, answer)), _) => answer.clone(),
            (None, Some(_)) if self.ground_gone => Answer::Inconclusive("what held the nodes is gone".to_owned()),
            (None, Some(expect)) => Answer::Pending(self.describe(expect, step)),
            (None, None) => {
                let seen = || track.load.as_ref().map(LoadCounts::words).unwrap_or_default();
                match (&track.failed, track.ended) {
                    (Some(seen), _) => Answer::Failed(seen.clone()),
                    (None, Some(_)) => Answer::Met(seen()),
                    (None, None) => Answer::Pending(seen()),
                }
            }
        }
    }

    /// The next moment at which an answer or a finding falls due without any other record; the engine feeds a tick then.
    /// Always later than the last record; `None` where nothing is due.
    #[must_use]
    pub fn next_due(&self) -> Option<Ms> {
        if self.closed.is_some() {
            return None;
        }
        let settle = self.settle_due().filter(|_| !self.settle_judged);
        let faults = self.faults.iter().flat_map(|life| {
            let patience = life.revert_verified.filter(|_| life.recovered.is_none());
            [patience.map(|at| at + life.patience), life.certain_until()]
        });
        let joins = self.nodes.iter().map(|node| node.join_by);
        let overdue = (0..self.faults.len()).map(|at| self.overdue_at(at));
        let others = [self.stall_due(), settle, self.witnesses_due()]
            .into_iter()
            .chain(faults)
            .chain(joins)
            .chain(overdue)
            .flatten();
        let due = others.map(|due| due + Ms(1)).chain(self.expectations_due());
        due.filter(|due| *due > self.now).min()
    }

    /// Q: the height that nodes holding a quorum have reached.
    #[must_use]
    pub const fn quorum_height(&self) -> u64 {
        self.heights.q
    }

    /// The last height that a node reported.
    #[must_use]
    pub fn height(&self, node: &str) -> Option<u64> {
        let last = self.nodes[self.index(node)?].last.as_ref()?;
        Some(last.height)
    }

    /// Whether the network is ready: Q ≥ 1 and every node that starts by itself answers. The engine records `Ready` then.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.waiting_for_ready().is_none()
    }

    /// What *ready* still waits for, in words; `None` once the network is ready.
    #[must_use]
    pub fn waiting_for_ready(&self) -> Option<String> {
        let auto = |i: &usize| self.plan.network.nodes[*i].start == Start::Auto;
        let missing = |i: &usize| auto(i) && (self.nodes[*i].last.is_none() || self.nodes[*i].silence.is_some());
        let missing: Vec<usize> = (0..self.nodes.len()).filter(missing).collect();
        if !missing.is_empty() {
            return Some(format!(
                "answers of {}",
                list(missing.into_iter().map(|i| self.nodes[i].words()))
            ));
        }
        (self.heights.q == 0).then(|| format!("the first block; {}", self.heights_words()))
    }

    /// Whether the recovery that is judged after the last step is complete, and what is missing. It counts from
    /// [`Phase::Settling`], or from the last *revert verified* after it.
    ///
    /// # Errors
    /// What is still awaited, in words.
    pub fn settled(&self) -> Result<(), String> {
        let missing = self.unsettled();
        if missing.is_empty() {
            return Ok(());
        }
        Err(list(missing.into_iter().map(|(_, words)| words)))
    }

    /// The report so far; after the last record, the verdict. Before [`Record::End`] it is what the report of a run would be
    /// that was cut off here.
    #[must_use]
    pub fn report(&self) -> Report {
        self.make_report()
    }

    /// Takes in what was observed.
    fn observe(&mut self, record: &Record) {
        match record {
            Record::Sample(sample) => self.sample(sample),
            Record::Silent {
                node,
                sent,
                cause,
                detail,
            } => self.silent(node, *sent, *cause, detail),
            Record::Headers { node, headers, .. } => {
                let Some(i) = self.index(node) else { return };
                for header in headers.iter().filter(|header| header.height > 0) {
                    self.header_given(i, header);
                }
            }
            Record::AppState { node, height, hash, .. } => {
                if let Some(i) = self.index(node) {
                    self.app_state_given(i, *height, hash);
                }
            }
            Record::Peers { node, count, .. } => {
                if let Some(i) = self.index(node) {
                    self.nodes[i].peers = Some(*count);
                }
            }
            Record::Validators {
                node,
                sent,
                height,
                powers,
            } => self.validator_set(node, *sent, *height, powers),
            Record::Late { by, .. } => {
                self.late.push_back((self.now, *by));
                if self.late.len() > 1000 {
                    self.late.pop_front();
                }
            }
            Record::Log {
                node, pattern, line, ..
            } => {
                if let Some(i) = self.index(node) {
                    if self.complaints.len() < COMPLAINTS && self.is_complaint(pattern) {
                        self.complaints.push((self.now, i, line.clone()));
                    }
                    self.logs.insert((pattern.clone(), i), (self.now, line.clone()));
                }
            }
            Record::Node { node, event } => self.process(node, event),
            Record::Tx { id, event } => self.tx(id, event),
            Record::Load {
                id,
                sent,
                accepted,
                refused,
            } => self.load(
                id,
                LoadCounts {
                    sent: *sent,
                    accepted: *accepted,
                    refused: *refused,
                },
            ),
            _ => {}
        }
    }

    /// Takes in what was done, also while the run is being taken down.
    fn happen(&mut self, record: &Record) {
        match record {
            Record::Begin { .. } => self.begun = self.begun.or(Some(self.now)),
            Record::Phase(phase) => self.enter(*phase),
            Record::Ready if self.ready.is_none() => {
                self.ready = Some(self.now);
                self.q_ready = self.heights.q;
                self.view_stale = true;
            }
            Record::Step { step, state } => self.step_state(*step, state),
            Record::Fault {
                id,
                state,
                targets,
                detail,
            } => self.fault_state(id, *state, targets, detail),
            Record::Upgrade {
                id,
                node,
                from,
                to,
                back,
                state,
            } if self.closed.is_none() => self.moved(id, node, (from, to), *back, state),
            Record::Trouble {
                code,
                node,
                expected,
                seen,
            } => self.trouble(code, node.as_deref(), expected, seen),
            Record::Interrupted { signal } if self.closed.is_none() => {
                self.interrupted = true;
                self.find(Draft {
                    expected: "the run goes to its end".to_owned(),
                    seen: format!("interrupted by {signal}"),
                    ..Draft::new("run/interrupted", Class::Interrupted, self.now)
                });
            }
            Record::End if self.ended.is_none() => {
                self.ended = Some(self.now);
                for draft in self.missing_at_end() {
                    self.find(draft);
                }
            }
            _ => {}
        }
    }

    fn enter(&mut self, phase: Phase) {
        let word = match phase {
            Phase::Preparing => "preparing",
            Phase::Starting => "starting",
            Phase::Running => "running",
            Phase::Settling => "settling",
            Phase::TearingDown => "tearing-down",
        };
        self.phases.entry(word).or_insert(self.now);
        match phase {
            Phase::Preparing | Phase::Starting | Phase::Running => {}
            Phase::Settling => {
                self.ending(|_| true);
                self.goal = self.goal.or(Some(self.heights.q));
                self.settle_mark = Some((self.heights.m, self.now));
                self.settle_anew();
            }
            Phase::TearingDown if self.closed.is_none() => {
                self.refresh();
                self.expectations(self.now);
                self.stall();
                self.settle();
                self.expectations_end();
                self.close();
                self.closed = Some(self.now);
            }
            Phase::TearingDown => {}
        }
    }

    fn step_state(&mut self, step: usize, state: &StepState) {
        if step >= self.steps.len() {
            return;
        }
        match state {
            StepState::Waiting => {}
            StepState::Began => {
                self.expect_began(step);
                match self.plan.steps.get(step).map(|step| step.action.clone()) {
                    Some(Action::Heal { faults }) => self.ending(|life| faults.iter().any(|id| life.is_of(id))),
                    Some(Action::Start { nodes }) => {
                        let nodes: Vec<usize> = nodes.iter().filter_map(|name| self.index(name)).collect();
                        self.ending(|life| life.ends_by_start() && life.targets.iter().any(|i| nodes.contains(i)));
                    }
                    _ => {}
                }
            }
            StepState::Ended => {
                self.steps[step].ended = Some(self.now);
                self.load_ended(step);
            }
            StepState::Failed {
                code,
                class,
                expected,
                seen,
            } => {
                let now = self.now;
                let track = &mut self.steps[step];
                track.ended = Some(now);
                track.failed = Some(seen.clone());
                let since = track.began.unwrap_or(now);
                if self.is_expect(step) {
                    self.steps[step]
                        .decided
                        .get_or_insert((now, Answer::Failed(seen.clone())));
                }
                if !self.notes.about_step(code, step) && !self.told_of_fault(code, step) {
                    self.find(Draft {
                        expected: expected.clone(),
                        seen: seen.clone(),
                        step: Some(step),
                        ..Draft::new(code.clone(), *class, since)
                    });
                }
            }
        }
    }

    fn index(&self, node: &str) -> Option<usize> {
        self.by_name.get(node).copied()
    }

    fn off(&self, invariant: Invariant) -> bool {
        self.plan.invariants.off.contains(&invariant)
    }

    fn expect(&self, step: usize) -> Option<&Expect> {
        match self.plan.steps.get(step).map(|step| &step.action) {
            Some(Action::Expect(expect)) => Some(expect),
            _ => None,
        }
    }

    /// Whether a text that was found in a log is none that an expectation looks for.
    fn is_complaint(&self, pattern: &str) -> bool {
        let looked_for = |step: &crate::model::Step| match &step.action {
            Action::Expect(Expect {
                what: crate::model::What::Log { contains },
                ..
            }) => contains == pattern,
            _ => false,
        };
        !self.plan.steps.iter().any(looked_for)
    }

    fn is_expect(&self, step: usize) -> bool {
        self.expect(step).is_some()
    }

    fn find(&mut self, draft: Draft) {
        let faults = self.faults_on();
        self.notes.add(draft, faults);
    }

    /// Each node's last height, for messages.
    fn heights_words(&self) -> String {
        list(self.nodes.iter().filter(|node| node.started).map(Track::words))
    }
}

/// When what a record tells was asked for.
const fn sent(record: &Record) -> Option<Ms> {
    match record {
        Record::Sample(sample) => Some(sample.sent),
        Record::Silent { sent, .. } | Record::Peers { sent, .. } | Record::Validators { sent, .. } => Some(*sent),
        _ => None,
    }
}

/// A duration for messages: tenths of a second are enough above one.
fn short(time: Ms) -> String {
    if time.0 < 1000 {
        time.to_string()
    } else {
        Ms(time.0 / 100 * 100).to_string()
    }
}

/// Items with commas; of many only the first, and how many more.
fn list(items: impl IntoIterator<Item = String>) -> String {
    const SHOWN: usize = 8;
    let items: Vec<String> = items.into_iter().collect();
    let more = items.len().saturating_sub(SHOWN);
    let shown = items
        .iter()
        .take(SHOWN)
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(", ");
    if more == 0 {
        shown
    } else {
        format!("{shown} and {more} more")
    }
}
