//! What is shown of a run while it goes: a fold over its events.

use std::collections::{BTreeMap, BTreeSet};

use indexmap::IndexMap;

use crate::model::verdict::Class;
use crate::model::{Ms, NodeName, Plan, Start};
use crate::record::{Event, FaultState, NodeEvent, Phase, Record, Stamped, StepState, TxEvent, UpgradeState};

use super::words::{count, cut, names, tenths, title};

/// Networks up to this size are shown node by node.
const FEW_NODES: usize = 6;
/// So many different heights are shown; the nodes below are drawn together.
const HEIGHTS: usize = 3;

/// The state of a run, as far as a user watches it.
#[derive(Clone, Debug)]
pub struct View {
    scenario: String,
    titles: Vec<String>,
    /// The phase; `None` before the first.
    pub phase: Option<Phase>,
    /// The last record's time.
    pub now: Ms,
    /// When the network was ready.
    pub ready: Option<Ms>,
    nodes: IndexMap<NodeName, NodeView>,
    faults: IndexMap<String, FaultView>,
    /// Steps that have begun and not ended, with their beginning.
    steps: BTreeMap<usize, Ms>,
    /// Steps with a finding, and the worst class of theirs.
    pub failed: BTreeMap<usize, Class>,
    /// Ids of transactions that some node reports as committed.
    pub committed: BTreeSet<String>,
}

#[derive(Clone, Debug)]
struct NodeView {
    state: NodeState,
    height: u64,
    /// The version to which it was moved, if it was.
    version: Option<String>,
    /// When its process last started or ended: answers to older requests are those of the former process.
    changed: Ms,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum NodeState {
    /// It answers.
    Up,
    /// Its process runs and has not answered yet.
    Starting,
    /// Its process runs and does not answer.
    Silent,
    /// Its process is gone.
    Down,
    /// It was never started.
    NotStarted,
}

#[derive(Clone, Debug)]
struct FaultView {
    kind: &'static str,
    targets: Vec<NodeName>,
    since: Ms,
    state: FaultState,
}

impl View {
    /// Before the first record.
    #[must_use]
    pub fn new(plan: &Plan) -> Self {
        let node = |start| NodeView {
            state: match start {
                Start::Auto => NodeState::Starting,
                Start::Manual => NodeState::NotStarted,
            },
            height: 0,
            version: None,
            changed: Ms(0),
        };
        Self {
            scenario: plan.scenario.clone(),
            titles: plan.steps.iter().map(title).collect(),
            phase: None,
            now: Ms(0),
            ready: None,
            nodes: plan
                .network
                .nodes
                .iter()
                .map(|n| (n.name.clone(), node(n.start)))
                .collect(),
            faults: plan
                .every_fault()
                .map(|fault| {
                    let view = FaultView {
                        kind: fault.kind.word(),
                        targets: Vec::new(),
                        since: Ms(0),
                        state: FaultState::Planned,
                    };
                    (fault.id.clone(), view)
                })
                .collect(),
            steps: BTreeMap::new(),
            failed: BTreeMap::new(),
            committed: BTreeSet::new(),
        }
    }

    /// Takes an event in.
    pub fn event(&mut self, event: &Event) {
        match event {
            Event::Record(stamped) => self.record(stamped),
            Event::Finding(finding) => {
                if let Some(step) = finding.step {
                    let worst = self.failed.entry(step).or_insert(finding.class);
                    *worst = finding.class.min(*worst);
                }
            }
            Event::Done(_) => {}
        }
    }

    fn record(&mut self, Stamped { at, record }: &Stamped) {
        self.now = *at;
        match record {
            Record::Phase(phase) => self.phase = Some(*phase),
            Record::Ready => self.ready = Some(*at),
            Record::Node { node, event } => self.node(node, event, *at),
            Record::Sample(sample) => {
                if let Some(view) = self.nodes.get_mut(&sample.node)
                    && sample.sent >= view.changed
                {
                    view.state = NodeState::Up;
                    view.height = sample.height;
                }
            }
            Record::Silent { node, sent, .. } => {
                if let Some(view) = self.nodes.get_mut(node)
                    && view.state == NodeState::Up
                    && *sent >= view.changed
                {
                    view.state = NodeState::Silent;
                }
            }
            Record::Step { step, state } => match state {
                StepState::Waiting => {}
                StepState::Began => {
                    self.steps.insert(*step, *at);
                }
                StepState::Ended => {
                    self.steps.remove(step);
                }
                StepState::Failed { class, .. } => {
                    self.steps.remove(step);
                    self.failed.insert(*step, *class);
                }
            },
            Record::Fault { id, state, targets, .. } => self.fault(id, *state, targets, *at),
            Record::Upgrade { node, to, state, .. } => {
                if let Some(view) = self.nodes.get_mut(node)
                    && *state == UpgradeState::Replaced
                {
                    view.version = Some(to.clone());
                }
            }
            Record::Tx {
                id,
                event: TxEvent::Committed { .. },
            } => {
                self.committed.insert(id.clone());
            }
            Record::Begin { .. }
            | Record::Headers { .. }
            | Record::AppState { .. }
            | Record::Peers { .. }
            | Record::Validators { .. }
            | Record::Late { .. }
            | Record::Observer { .. }
            | Record::Log { .. }
            | Record::Tx { .. }
            | Record::Load { .. }
            | Record::Tick
            | Record::Trouble { .. }
            | Record::Interrupted { .. }
            | Record::End => {}
        }
    }

    fn node(&mut self, node: &str, event: &NodeEvent, at: Ms) {
        let Some(view) = self.nodes.get_mut(node) else { return };
        match event {
            NodeEvent::Started { .. } => view.state = NodeState::Starting,
            NodeEvent::Exited { .. } => view.state = NodeState::Down,
            NodeEvent::Wiped => view.height = 0,
            NodeEvent::Damaged { .. } => return,
        }
        view.changed = at;
    }

    fn fault(&mut self, id: &str, state: FaultState, targets: &[NodeName], at: Ms) {
        let Some(view) = self.faults.get_mut(id) else { return };
        match state {
            FaultState::AlreadyEnded | FaultState::Skipped | FaultState::Dropped => return,
            FaultState::Planned | FaultState::Injected => view.since = at,
            FaultState::Verified
            | FaultState::Reverted
            | FaultState::RevertVerified
            | FaultState::NoEffect
            | FaultState::Stronger
            | FaultState::RevertFailed => {}
        }
        view.state = state;
        view.targets = targets.to_vec();
    }

    /// The time to show: from *ready* with a sign, before it from the start without one.
    #[must_use]
    pub fn clock(&self, at: Ms) -> String {
        match self.ready {
            Some(ready) => format!("+{}", tenths(at.since(ready).0)),
            None => tenths(at.0),
        }
    }

    /// `step 3/8: the chain runs`.
    #[must_use]
    pub fn step_name(&self, step: usize) -> String {
        let title = self.titles.get(step).map_or("", String::as_str);
        format!("{}: {}", self.step_number(step), cut(title, 70))
    }

    /// `step 3/8`.
    #[must_use]
    pub fn step_number(&self, step: usize) -> String {
        format!("step {}/{}", step + 1, self.titles.len())
    }

    /// How long a step that has not ended has been running.
    #[must_use]
    pub fn step_time(&self, step: usize) -> Option<Ms> {
        self.steps.get(&step).map(|began| self.now.since(*began))
    }

    /// How many nodes answer.
    #[must_use]
    pub fn answering(&self) -> usize {
        self.nodes.values().filter(|node| node.state == NodeState::Up).count()
    }

    /// Three lines for the moving display: the phase, the nodes, the faults that are on.
    #[must_use]
    pub fn frame(&self) -> Vec<String> {
        let phase = self.phase.map_or("preparing", phase_word);
        let steps = self.steps.keys().map(|&step| {
            let time = self.step_time(step).unwrap_or_default();
            format!("{} ({})", self.step_name(step), tenths(time.0))
        });
        let head = [self.scenario.clone(), phase.to_owned(), self.clock(self.now)];
        let head: Vec<String> = head.into_iter().chain(steps).collect();
        let faults = self.faults_on();
        let faults = if faults.is_empty() {
            "none".to_owned()
        } else {
            faults.join("; ")
        };
        vec![
            head.join("  "),
            format!("  nodes   {}", self.heights()),
            format!("  faults  {faults}"),
        ]
    }

    /// Each node's height, or nodes by height where there are many.
    #[must_use]
    pub fn heights(&self) -> String {
        if self.nodes.len() <= FEW_NODES {
            let nodes = self.nodes.iter().map(|(name, node)| {
                let version = node.version.as_ref().map(|version| format!(" ({version})"));
                let version = version.unwrap_or_default();
                match node.state {
                    NodeState::Up => format!("{name} {}{version}", node.height),
                    state => format!("{name} {}{version}", state_word(state)),
                }
            });
            return nodes.collect::<Vec<_>>().join(", ");
        }
        let mut up: BTreeMap<u64, Vec<&str>> = BTreeMap::new();
        let mut others: BTreeMap<NodeState, Vec<&str>> = BTreeMap::new();
        for (name, node) in &self.nodes {
            match node.state {
                NodeState::Up => up.entry(node.height).or_default().push(name),
                state => others.entry(state).or_default().push(name),
            }
        }
        let lower: usize = up.iter().rev().skip(HEIGHTS).map(|(_, nodes)| nodes.len()).sum();
        let mut parts: Vec<String> = up
            .iter()
            .rev()
            .take(HEIGHTS)
            .map(|(height, nodes)| format!("height {height}: {}", names(nodes)))
            .collect();
        if lower > 0 {
            let lowest = up.keys().next().copied().unwrap_or_default();
            parts.push(format!("down to {lowest}: {}", count(lower, "node")));
        }
        parts.extend(
            others
                .iter()
                .map(|(state, nodes)| format!("{}: {}", state_word(*state), names(nodes))),
        );
        parts.join("; ")
    }

    /// The faults that are on, or whose revert is not verified, each with its targets and its age.
    #[must_use]
    pub fn faults_on(&self) -> Vec<String> {
        self.faults
            .iter()
            .filter_map(|(id, fault)| {
                let note = match fault.state {
                    FaultState::Planned
                    | FaultState::RevertVerified
                    | FaultState::AlreadyEnded
                    | FaultState::Skipped
                    | FaultState::Dropped => return None,
                    FaultState::Injected => ", not verified yet",
                    FaultState::Verified => "",
                    FaultState::Reverted => ", ending",
                    FaultState::NoEffect => ", without effect",
                    FaultState::Stronger => ", STRONGER THAN ASKED",
                    FaultState::RevertFailed => ", NOT PUT BACK",
                };
                let age = tenths(self.now.since(fault.since).0);
                Some(format!(
                    "{id} ({} on {}, {age}{note})",
                    fault.kind,
                    names(&fault.targets)
                ))
            })
            .collect()
    }
}

/// A phase as the user reads it.
#[must_use]
pub const fn phase_word(phase: Phase) -> &'static str {
    match phase {
        Phase::Preparing => "preparing",
        Phase::Starting => "starting",
        Phase::Running => "running",
        Phase::Settling => "settling",
        Phase::TearingDown => "tearing down",
    }
}

const fn state_word(state: NodeState) -> &'static str {
    match state {
        NodeState::Up => "up",
        NodeState::Starting => "starting",
        NodeState::Silent => "silent",
        NodeState::Down => "down",
        NodeState::NotStarted => "not started",
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;
    use crate::record::Silence;

    fn view(plan: &Plan, records: impl IntoIterator<Item = Stamped>) -> View {
        let mut view = View::new(plan);
        for record in records {
            view.event(&Event::Record(record));
        }
        view
    }

    #[test]
    fn a_small_network_is_shown_node_by_node() {
        let plan = sample::plan();
        let shown = view(
            &plan,
            [
                sample::at(0, Record::Phase(Phase::Running)),
                sample::at(1_000, Record::Ready),
                sample::at(1_100, sample::status("validator-0", 1_100, 7)),
                sample::at(1_200, sample::status("validator-1", 1_200, 6)),
                sample::at(1_300, sample::exited("validator-2", true)),
                sample::at(1_400, sample::status("validator-2", 1_250, 6)),
                sample::at(2_000, sample::fault("victim", FaultState::Injected, &["validator-2"])),
                sample::at(4_500, sample::step(1, StepState::Began)),
                sample::at(5_000, Record::Tick),
            ],
        );
        assert_eq!(
            shown.frame(),
            [
                "kill-one  running  +4.0s  step 2/6: one validator dies (0.5s)",
                "  nodes   validator-0 7, validator-1 6, validator-2 down, validator-3 starting, full-0 not started",
                "  faults  victim (kill on validator-2, 3.0s, not verified yet)",
            ]
        );
    }

    #[test]
    fn a_hundred_nodes_fit_on_a_line() {
        let plan = sample::wide_plan();
        let mut records: Vec<Stamped> = plan
            .network
            .nodes
            .iter()
            .enumerate()
            .map(|(index, node)| {
                let height = if index % 10 == 3 { 41 } else { 42 };
                sample::at(10, sample::status(&node.name, 10, height))
            })
            .collect();
        records.push(sample::at(20, sample::exited("validator-0", false)));
        records.push(sample::at(
            30,
            Record::Silent {
                node: "full-1".into(),
                sent: Ms(30),
                cause: Silence::Timeout,
                detail: String::new(),
            },
        ));
        let line = view(&plan, records).heights();
        insta::assert_snapshot!(line);
    }

    #[test]
    fn a_fault_is_shown_until_its_revert_is_verified() {
        let plan = sample::plan();
        let states = [
            (FaultState::Planned, None),
            (FaultState::Injected, Some("not verified yet")),
            (FaultState::Verified, Some("victim (kill on validator-2, 0.0s)")),
            (FaultState::Reverted, Some("ending")),
            (FaultState::RevertFailed, Some("NOT PUT BACK")),
            (FaultState::RevertVerified, None),
        ];
        let mut shown = View::new(&plan);
        for (state, expected) in states {
            shown.event(&Event::Record(sample::at(
                5,
                sample::fault("victim", state, &["validator-2"]),
            )));
            let on = shown.faults_on();
            match expected {
                Some(text) => assert!(on.len() == 1 && on[0].contains(text), "{state:?}: {on:?}"),
                None => assert!(on.is_empty(), "{state:?}: {on:?}"),
            }
        }
    }
}
