//! Small scripted networks: every finding both ways, and properties that hold for all of them.

mod evidence;
mod expectations;
mod invariants;
mod laws;
mod rehearsal;
mod tips;

use std::collections::BTreeMap;

use super::{Answer, Judge};
use crate::model::verdict::{Class, Finding, Report, Verdict};
use crate::model::*;
use crate::record::{FaultState, Header, NodeEvent, Phase, Record, Sample, Silence, Stamped, StepState};

const BLOCK: u64 = 200;

/// How a node shows itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// With the tip, or catching up with it.
    Follows,
    /// Answers and stays where it is.
    Stays,
    /// Does not answer.
    Mute(Silence),
    /// Is not asked at all.
    Unseen,
}

/// A network that is played, its records, and a judge that sees each at once.
struct Sim {
    plan: Plan,
    at: u64,
    tip: u64,
    /// Whether the tip grows.
    live: bool,
    height: Vec<u64>,
    mode: Vec<Mode>,
    told: Vec<(u64, u64)>,
    /// Hashes other than the right ones, by node and height.
    lies: BTreeMap<(usize, u64), String>,
    /// What is taken off the height in a node's samples.
    under: Vec<u64>,
    /// Whether the nodes give their application's state.
    states: bool,
    records: Vec<Stamped>,
    judge: Judge,
    found: Vec<Finding>,
}

fn plan(nodes: usize) -> Plan {
    let names: Vec<String> = (0..nodes).map(|i| format!("validator-{i}")).collect();
    let node = |name: &String| Node {
        name: name.clone(),
        group: "validator".to_owned(),
        role: Role::Validator,
        power: 10,
        version: "1".to_owned(),
        config: BTreeMap::new(),
        start: Start::Auto,
        resources: crate::model::Resources::default(),
    };
    Plan {
        format: FORMAT,
        scenario: "test".to_owned(),
        about: None,
        seed: 7,
        backend: BackendKind::Memory,
        kubernetes: crate::model::Kubernetes::default(),
        network: Network {
            chain: ChainKind::Devnode,
            version: "1".to_owned(),
            block_time: Ms(BLOCK),
            persistence: Persistence::Volume,
            app: None,
            keys: crate::model::Keys::Seed,
            attach: None,
            config: BTreeMap::new(),
            nodes: names.iter().map(node).collect(),
            links: (0..nodes).flat_map(|a| (a + 1..nodes).map(move |b| (a, b))).collect(),
        },
        versions: indexmap::IndexMap::new(),
        limits: Limits {
            start: Ms::secs(30),
            run: Ms::secs(600),
            settle: Ms::secs(5),
        },
        invariants: Invariants {
            max_stall: Ms::secs(3),
            max_lag: 5,
            off: std::collections::BTreeSet::new(),
        },
        steps: Vec::new(),
        outcome: None,
        repeats: Vec::new(),
        sums: Vec::new(),
        chaos: None,
    }
}

fn names(nodes: &[usize]) -> Vec<String> {
    nodes.iter().map(|i| format!("validator-{i}")).collect()
}

impl Plan {
    fn step(&mut self, id: Option<&str>, action: Action) -> usize {
        let index = self.steps.len();
        self.steps.push(Step {
            index,
            id: id.map(str::to_owned),
            name: None,
            when: None,
            go_on: false,
            background: false,
            line: 1 + index,
            action,
        });
        index
    }

    fn with_fault(&mut self, id: &str, kind: FaultKind, targets: &[usize], lasts: Lasts) -> usize {
        let fault = Fault {
            id: id.to_owned(),
            kind,
            targets: Targets::Nodes(names(targets)),
            lasts,
            component: None,
            wipe: false,
            on_restart: crate::model::OnRestart::Reapply,
        };
        self.step(Some(id), Action::Fault(fault))
    }

    fn with_split(&mut self, id: &str, sides: &[&[usize]]) -> usize {
        let kind = FaultKind::Partition {
            sides: sides.iter().map(|side| names(side)).collect(),
            plane: Plane::P2p,
            one_way: false,
        };
        let all: Vec<usize> = sides.concat();
        self.with_fault(id, kind, &all, Lasts::UntilHealed)
    }

    fn with_expect(&mut self, what: What, nodes: Option<&[usize]>, window: Window) -> usize {
        let nodes = nodes.map(names);
        self.step(None, Action::Expect(Expect { what, nodes, window }))
    }

    fn with_heal(&mut self, id: &str) -> usize {
        self.step(
            None,
            Action::Heal {
                faults: vec![id.to_owned()],
            },
        )
    }
}

impl Sim {
    /// A network that is up and ready at height 1.
    fn up(plan: &Plan) -> Self {
        let mut sim = Self::begin(plan);
        sim.ready();
        sim
    }

    fn begin(plan: &Plan) -> Self {
        let nodes = plan.network.nodes.len();
        let auto = |node: &Node| match node.start {
            Start::Auto => Mode::Follows,
            Start::Manual => Mode::Mute(Silence::Refused),
        };
        let mut sim = Self {
            plan: plan.clone(),
            at: 0,
            tip: 0,
            live: true,
            height: vec![0; nodes],
            mode: plan.network.nodes.iter().map(auto).collect(),
            told: vec![(u64::MAX, 0); nodes],
            lies: BTreeMap::new(),
            under: vec![0; nodes],
            states: true,
            records: Vec::new(),
            judge: Judge::new(plan),
            found: Vec::new(),
        };
        sim.push(Record::Begin {
            format: FORMAT,
            trialnet: "0".to_owned(),
            run: "r".to_owned(),
            scenario: plan.scenario.clone(),
            seed: plan.seed,
            backend: plan.backend,
            wall: 0,
        });
        sim.push(Record::Phase(Phase::Preparing));
        sim.push(Record::Phase(Phase::Starting));
        for i in 0..nodes {
            if sim.mode[i] == Mode::Follows {
                sim.started(i, 1);
            }
        }
        sim
    }

    fn ready(&mut self) {
        self.run(400);
        assert!(self.judge.is_ready(), "{:?}", self.judge.waiting_for_ready());
        self.push(Record::Ready);
        self.push(Record::Phase(Phase::Running));
    }

    fn push(&mut self, record: Record) {
        let record = Stamped {
            at: Ms(self.at),
            record,
        };
        self.found.extend(self.judge.feed(&record));
        if let Some(due) = self.judge.next_due() {
            assert!(due > Ms(self.at), "due {due} is not later than {}", self.at);
        }
        self.records.push(record);
    }

    /// Plays for so many milliseconds: a poll of every node each 200 ms, unchanged answers once a second.
    fn run(&mut self, time: u64) {
        for _ in 0..time / BLOCK {
            self.at += BLOCK;
            if self.live {
                self.tip += 1;
            }
            for i in 0..self.height.len() {
                self.poll(i);
            }
            self.push(Record::Tick);
        }
    }

    fn poll(&mut self, i: usize) {
        let before = self.height[i];
        if self.mode[i] == Mode::Follows {
            self.height[i] = self.tip.min(before + 10).max(before);
        }
        let heartbeat = self.at >= self.told[i].1 + 1000;
        match self.mode[i] {
            Mode::Unseen => {}
            Mode::Mute(cause) => {
                if heartbeat || self.told[i].0 != u64::MAX {
                    self.told[i] = (u64::MAX, self.at);
                    self.silent(i, cause);
                }
            }
            Mode::Follows | Mode::Stays => {
                if heartbeat || self.told[i].0 != self.height[i] {
                    self.told[i] = (self.height[i], self.at);
                    let shown = self.height[i].saturating_sub(self.under[i]);
                    self.sample(i, shown);
                }
                if self.height[i] > before {
                    self.headers(i, before + 1, self.height[i]);
                    if self.states {
                        self.state(i, self.height[i], &format!("S{}", self.height[i]));
                    }
                }
            }
        }
    }

    fn hash(&self, i: usize, height: u64) -> String {
        let lie = self.lies.get(&(i, height)).cloned();
        lie.unwrap_or_else(|| {
            if height == 0 {
                String::new()
            } else {
                format!("B{height}")
            }
        })
    }

    fn sample(&mut self, i: usize, height: u64) {
        self.sample_at(i, height, self.at);
    }

    fn sample_at(&mut self, i: usize, height: u64, sent: u64) {
        let hash = self.hash(i, height);
        self.push(Record::Sample(Sample {
            node: format!("validator-{i}"),
            sent: Ms(sent),
            took: Ms(2),
            height,
            hash,
            catching_up: false,
            version: "1".to_owned(),
            chain: "c".to_owned(),
        }));
    }

    fn silent(&mut self, i: usize, cause: Silence) {
        self.push(Record::Silent {
            node: format!("validator-{i}"),
            sent: Ms(self.at),
            cause,
            detail: "words".to_owned(),
        });
    }

    fn headers(&mut self, i: usize, from: u64, to: u64) {
        let header = |height: u64| Header {
            height,
            hash: self.hash(i, height),
            parent: if height < 2 {
                String::new()
            } else {
                format!("B{}", height - 1)
            },
            time: "t".to_owned(),
        };
        let headers = (from..=to).map(header).collect();
        self.push(Record::Headers {
            node: format!("validator-{i}"),
            sent: Ms(self.at),
            headers,
        });
    }

    fn state(&mut self, i: usize, height: u64, hash: &str) {
        self.push(Record::AppState {
            node: format!("validator-{i}"),
            sent: Ms(self.at),
            height,
            hash: hash.to_owned(),
        });
    }

    fn started(&mut self, i: usize, generation: u32) {
        self.node(
            i,
            NodeEvent::Started {
                component: "node".to_owned(),
                pid: 100 + generation,
                generation,
                version: "1".to_owned(),
            },
        );
    }

    fn exited(&mut self, i: usize, asked: bool) {
        self.node(
            i,
            NodeEvent::Exited {
                component: "node".to_owned(),
                pid: 101,
                generation: 1,
                code: (!asked).then_some(13),
                signal: asked.then_some(9),
                asked,
                tail: vec!["first words".to_owned(), "last words".to_owned()],
            },
        );
    }

    fn node(&mut self, i: usize, event: NodeEvent) {
        self.push(Record::Node {
            node: format!("validator-{i}"),
            event,
        });
    }

    fn began(&mut self, step: usize) {
        self.push(Record::Step {
            step,
            state: StepState::Began,
        });
    }

    fn ended(&mut self, step: usize) {
        self.push(Record::Step {
            step,
            state: StepState::Ended,
        });
    }

    fn fault(&mut self, id: &str, state: FaultState) {
        let targets = match self.plan.fault(id).map(|fault| fault.targets.clone()) {
            Some(Targets::Nodes(targets)) => targets,
            _ => Vec::new(),
        };
        self.push(Record::Fault {
            id: id.to_owned(),
            state,
            targets,
            detail: "seen by a probe".to_owned(),
        });
    }

    /// The step that injects a fault, to *verified*.
    fn inject(&mut self, step: usize) {
        let id = self.plan.steps[step].id.clone().expect("faults have ids here");
        self.began(step);
        for state in [FaultState::Planned, FaultState::Injected, FaultState::Verified] {
            self.fault(&id, state);
        }
        self.ended(step);
    }

    /// The end of a fault, to *revert verified*.
    fn revert(&mut self, id: &str) {
        self.fault(id, FaultState::Reverted);
        self.fault(id, FaultState::RevertVerified);
    }

    /// Kills a node in a declared way.
    fn kill(&mut self, step: usize, i: usize) {
        let id = self.plan.steps[step].id.clone().expect("faults have ids here");
        self.began(step);
        self.fault(&id, FaultState::Planned);
        self.exited(i, true);
        self.mode[i] = Mode::Mute(Silence::Refused);
        self.fault(&id, FaultState::Injected);
        self.fault(&id, FaultState::Verified);
        self.ended(step);
    }

    fn restart(&mut self, id: &str, i: usize) {
        self.started(i, 2);
        self.mode[i] = Mode::Follows;
        self.revert(id);
    }

    /// An `expect` step that is over after so many milliseconds.
    fn expect(&mut self, step: usize, time: u64) -> Answer {
        self.began(step);
        self.run(time);
        let answer = self.judge.answer(step);
        self.ended(step);
        answer
    }

    /// The end of a run after which nothing is missing.
    fn finish(&mut self) -> Report {
        self.push(Record::Phase(Phase::Settling));
        self.run(2000);
        self.tear_down()
    }

    fn tear_down(&mut self) -> Report {
        self.push(Record::Phase(Phase::TearingDown));
        self.at += 100;
        self.push(Record::End);
        self.report()
    }

    /// The report, which has to be the same from the file.
    fn report(&self) -> Report {
        let report = self.judge.report();
        let lines: Vec<String> = self
            .records
            .iter()
            .map(|record| serde_json::to_string(record).unwrap())
            .collect();
        let plan: Plan = serde_json::from_str(&serde_json::to_string(&self.plan).unwrap()).unwrap();
        let mut again = Judge::new(&plan);
        for line in lines {
            again.feed(&serde_json::from_str(&line).unwrap());
        }
        assert_eq!(again.report(), report, "offline is as live");
        // What is in the report was said when it was found.
        for finding in &report.findings {
            let said = |found: &&Finding| found.code == finding.code && found.step == finding.step;
            let cut_off = finding.code == "run/cut-off";
            assert!(
                cut_off || self.found.iter().any(|found| said(&found)),
                "not announced: {finding:?}"
            );
        }
        report
    }
}

#[track_caller]
fn passes(report: &Report) {
    assert_eq!(report.verdict, Verdict::Passed, "{:#?}", report.findings);
    assert!(report.findings.is_empty());
    assert_eq!(report.coverage.compared, report.coverage.of);
    assert!(
        report.steps.iter().all(|step| step.state == verdict::StepEnd::Ok),
        "{:#?}",
        report.steps
    );
}

/// The one finding with this code; the verdict is its class.
#[track_caller]
fn caught<'a>(report: &'a Report, code: &str, class: Class, node: Option<usize>) -> &'a Finding {
    let all: Vec<&Finding> = report.findings.iter().filter(|finding| finding.code == code).collect();
    let [finding] = all.as_slice() else {
        panic!("one {code} in {:#?}", report.findings)
    };
    assert_eq!(finding.class, class, "{finding:#?}");
    assert_eq!(finding.node, node.map(|i| format!("validator-{i}")), "{finding:#?}");
    assert_eq!(report.verdict, class, "{:#?}", report.findings);
    assert!(super::codes::CODES.iter().any(|(known, ..)| *known == code));
    assert!(!finding.expected.is_empty() && !finding.seen.is_empty());
    finding
}

/// The only finding.
#[track_caller]
fn only<'a>(report: &'a Report, code: &str, class: Class, node: Option<usize>) -> &'a Finding {
    assert_eq!(report.findings.len(), 1, "{:#?}", report.findings);
    caught(report, code, class, node)
}

fn at_least(least: u64) -> Bounds {
    Bounds {
        at_least: Some(least),
        at_most: None,
    }
}

fn at_most(most: u64) -> Bounds {
    Bounds {
        at_least: None,
        at_most: Some(most),
    }
}
