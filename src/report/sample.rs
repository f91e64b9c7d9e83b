//! A small run made by hand, for the tests of the reporters.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::model::verdict::{Coverage, FaultReport, Finding, Report, StepEnd, StepReport, Verdict};
use crate::model::*;
use crate::quorum::Forecast;
use crate::record::{Event, FaultState, NodeEvent, Phase, Record, Sample, Stamped, StepState};

use super::folder::LogTail;
use super::words::title;

pub(crate) fn plan() -> Plan {
    let validators = names("validator", 4);
    let mut nodes: Vec<Node> = validators
        .iter()
        .map(|name| node(name, "validator", Role::Validator))
        .collect();
    nodes.push(Node {
        start: Start::Manual,
        ..node("full-0", "full", Role::Full)
    });
    let steps = steps(&validators);
    let sum = |step| {
        let (forecast, why) = match step {
            1 | 2 => (Forecast::MustGoOn, "30 of 40 is more than two thirds (26.7)"),
            3 => (Forecast::MustHalt, "20 of 40 is not more than two thirds (26.7)"),
            _ => (Forecast::MustGoOn, "40 of 40 is more than two thirds (26.7)"),
        };
        Sum {
            step,
            forecast,
            why: why.into(),
        }
    };
    Plan {
        format: FORMAT,
        scenario: "kill-one".into(),
        about: Some("One of four validators dies for five seconds; the others go on, and it catches up.".into()),
        seed: 42,
        backend: BackendKind::Local,
        kubernetes: crate::model::Kubernetes::default(),
        network: Network {
            chain: ChainKind::Devnode,
            version: "1".into(),
            block_time: Ms(200),
            persistence: Persistence::Volume,
            app: None,
            keys: crate::model::Keys::Seed,
            attach: None,
            config: BTreeMap::from([("timeout".to_owned(), serde_json::json!("1s"))]),
            nodes,
            links: vec![(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3), (4, 0)],
        },
        versions: indexmap::IndexMap::from([(
            "1".to_owned(),
            Version {
                binary: Some("devnode".into()),
                ..Version::default()
            },
        )]),
        limits: Limits {
            start: Ms::secs(60),
            run: Ms::secs(600),
            settle: Ms::secs(30),
        },
        invariants: Invariants {
            max_stall: Ms::secs(8),
            max_lag: 5,
            off: [Invariant::AppState].into(),
        },
        repeats: Vec::new(),
        sums: (0..steps.len()).map(sum).collect(),
        chaos: None,
        steps,
        outcome: Some(Outcome {
            verdict: Verdict::SafetyViolated,
            code: Some("safety/fork".into()),
            node: Some("validator-1".into()),
        }),
    }
}

fn steps(validators: &[NodeName]) -> Vec<Step> {
    let steps = vec![
        (None, Some("the chain runs"), expect(What::Height(at_least(5)), 30)),
        (
            Some("victim"),
            Some("one validator dies"),
            Action::Fault(Fault {
                id: "victim".into(),
                kind: FaultKind::Kill,
                targets: Targets::Nodes(vec!["validator-2".into()]),
                lasts: Lasts::For(Ms::secs(5)),
                component: None,
                wipe: false,
                on_restart: crate::model::OnRestart::Reapply,
            }),
        ),
        (None, None, expect(What::Recovery { of: "victim".into() }, 20)),
        (
            Some("split"),
            None,
            Action::Fault(Fault {
                id: "split".into(),
                kind: FaultKind::Partition {
                    sides: vec![
                        validators[..2].to_vec(),
                        validators[2..].to_vec(),
                        vec!["full-0".into()],
                    ],
                    plane: Plane::P2p,
                    one_way: false,
                },
                targets: Targets::Nodes(validators.to_vec()),
                lasts: Lasts::UntilHealed,
                component: None,
                wipe: false,
                on_restart: crate::model::OnRestart::Reapply,
            }),
        ),
        (
            None,
            None,
            Action::Heal {
                faults: vec!["split".into()],
            },
        ),
        (None, None, expect(What::Progress { blocks: 1 }, 20)),
    ];
    steps
        .into_iter()
        .enumerate()
        .map(|(index, (id, name, action))| Step {
            index,
            id: id.map(str::to_owned),
            name: name.map(str::to_owned),
            when: (index == 5).then_some(When::After(Ms::secs(2))),
            go_on: false,
            background: false,
            line: 10 + index,
            action,
        })
        .collect()
}

/// Ten validators and ninety full nodes.
pub(crate) fn wide_plan() -> Plan {
    let mut plan = plan();
    let validators = names("validator", 10);
    plan.network.nodes = validators
        .iter()
        .map(|name| node(name, "validator", Role::Validator))
        .collect();
    plan.network
        .nodes
        .extend(names("full", 90).iter().map(|name| node(name, "full", Role::Full)));
    plan
}

pub(crate) fn names(prefix: &str, number: usize) -> Vec<NodeName> {
    (0..number).map(|index| format!("{prefix}-{index}")).collect()
}

fn node(name: &str, group: &str, role: Role) -> Node {
    Node {
        name: name.into(),
        group: group.into(),
        role,
        power: if role == Role::Validator { 10 } else { 0 },
        version: "1".into(),
        config: BTreeMap::new(),
        start: Start::Auto,
        resources: crate::model::Resources::default(),
    }
}

fn at_least(number: u64) -> Bounds {
    Bounds {
        at_least: Some(number),
        at_most: None,
    }
}

fn expect(what: What, within: u64) -> Action {
    Action::Expect(Expect {
        what,
        nodes: None,
        window: Window::Within(Ms::secs(within)),
    })
}

pub(crate) fn at(at: u64, record: Record) -> Stamped {
    Stamped { at: Ms(at), record }
}

pub(crate) fn status(node: &str, sent: u64, height: u64) -> Record {
    Record::Sample(Sample {
        node: node.into(),
        sent: Ms(sent),
        took: Ms(1),
        height,
        hash: format!("{height:064X}"),
        catching_up: false,
        version: "1".into(),
        chain: "trial".into(),
    })
}

pub(crate) fn started(node: &str, generation: u32) -> Record {
    Record::Node {
        node: node.into(),
        event: NodeEvent::Started {
            component: "devnode".into(),
            pid: 100 + generation,
            generation,
            version: "1".into(),
        },
    }
}

pub(crate) fn exited(node: &str, asked: bool) -> Record {
    let tail = ["starting", "block 6", "block 7", "panicked at 'no state'"]
        .map(str::to_owned)
        .to_vec();
    Record::Node {
        node: node.into(),
        event: NodeEvent::Exited {
            component: "devnode".into(),
            pid: 101,
            generation: 1,
            code: if asked { None } else { Some(101) },
            signal: asked.then_some(9),
            asked,
            tail: if asked { Vec::new() } else { tail },
        },
    }
}

pub(crate) fn fault(id: &str, state: FaultState, targets: &[&str]) -> Record {
    let detail = match state {
        FaultState::Verified => "process 101 is gone, nobody listens at its RPC port",
        _ => "",
    };
    Record::Fault {
        id: id.into(),
        state,
        targets: targets.iter().map(|&target| target.to_owned()).collect(),
        detail: detail.into(),
    }
}

pub(crate) fn step(step: usize, state: StepState) -> Record {
    Record::Step { step, state }
}

/// The records of a run that ends with a fork, and is then interrupted.
pub(crate) fn records() -> Vec<Stamped> {
    let begin = Record::Begin {
        format: FORMAT,
        trialnet: "0.1.0".into(),
        run: "a1b2c3d4".into(),
        scenario: "kill-one".into(),
        seed: 42,
        backend: BackendKind::Local,
        wall: 1_795_000_000_000,
    };
    let v2 = &["validator-2"];
    vec![
        at(0, begin),
        at(1, Record::Phase(Phase::Preparing)),
        at(120, Record::Phase(Phase::Starting)),
        at(150, started("validator-0", 1)),
        at(700, status("validator-0", 690, 1)),
        at(710, status("validator-1", 700, 1)),
        at(720, status("validator-2", 710, 1)),
        at(800, Record::Ready),
        at(801, Record::Phase(Phase::Running)),
        at(802, step(0, StepState::Began)),
        at(1_900, step(0, StepState::Ended)),
        at(1_901, step(1, StepState::Began)),
        at(1_902, fault("victim", FaultState::Planned, v2)),
        at(1_905, fault("victim", FaultState::Injected, v2)),
        at(1_906, exited("validator-2", true)),
        at(2_110, fault("victim", FaultState::Verified, v2)),
        at(2_111, step(1, StepState::Ended)),
        at(2_112, step(2, StepState::Began)),
        at(7_110, fault("victim", FaultState::Reverted, v2)),
        at(7_112, started("validator-2", 2)),
        at(7_300, fault("victim", FaultState::RevertVerified, v2)),
        at(9_000, status("validator-0", 8_990, 41)),
        at(10_050, status("validator-2", 10_040, 41)),
        at(11_000, step(2, StepState::Ended)),
        at(11_001, step(5, StepState::Waiting)),
        at(11_010, exited("validator-3", false)),
        at(
            12_000,
            Record::Interrupted {
                signal: "SIGINT".into(),
            },
        ),
        at(12_001, Record::Phase(Phase::TearingDown)),
        at(12_400, Record::End),
    ]
}

/// All events of that run.
pub(crate) fn events() -> Vec<Event> {
    let mut events = Vec::new();
    for record in records() {
        let found = record.at == Ms(10_050);
        events.push(Event::Record(record));
        if found {
            events.push(Event::Finding(fork()));
        }
    }
    events.push(Event::Done(violated()));
    events
}

pub(crate) fn fork() -> Finding {
    Finding {
        code: "safety/fork".into(),
        class: Verdict::SafetyViolated,
        node: Some("validator-2".into()),
        height: Some(13),
        expected: "one block at height 13: validator-0 gave 9F2C41D0 (parent 77AA01BC) first".into(),
        seen: "validator-2 gave 00D1E5F3 (parent 77AA01BC)".into(),
        since_ms: 9_250,
        faults: vec!["victim".into()],
        step: None,
    }
}

fn finding(class: Verdict, code: &str, node: Option<&str>, step: Option<usize>, expected: &str, seen: &str) -> Finding {
    Finding {
        code: code.into(),
        class,
        node: node.map(str::to_owned),
        height: None,
        expected: expected.into(),
        seen: seen.into(),
        since_ms: 3_400,
        faults: Vec::new(),
        step,
    }
}

pub(crate) fn passed() -> Report {
    let ends = [1_100, 1_310, 10_200, 10_600, 11_000, 12_000];
    let plan = plan();
    let steps = plan.steps.iter().zip(ends).map(|(step, end)| StepReport {
        index: step.index,
        title: title(step),
        state: StepEnd::Ok,
        began_ms: Some(end - 300),
        ended_ms: Some(end),
        seen: String::new(),
    });
    let life = |id: &str, kind: &str, targets: Vec<NodeName>, from: i64| FaultReport {
        id: id.into(),
        kind: kind.into(),
        targets,
        planned_ms: Some(from),
        injected_ms: Some(from + 5),
        verified_ms: Some(from + 210),
        reverted_ms: Some(from + 5_210),
        revert_verified_ms: Some(from + 5_400),
        recovery_ms: Some(1_930),
        dropped: BTreeMap::new(),
        skipped: None,
    };
    Report {
        format: FORMAT,
        verdict: Verdict::Passed,
        scenario: "kill-one".into(),
        seed: 42,
        backend: BackendKind::Local,
        coverage: Coverage {
            compared: 57,
            of: 57,
            app_states: 57,
        },
        findings: Vec::new(),
        steps: steps.collect(),
        faults: vec![
            life("victim", "kill", vec!["validator-2".into()], 1_100),
            life("split", "partition", names("validator", 4), 10_300),
        ],
        upgrades: Vec::new(),
        mixed: Vec::new(),
        versions: std::collections::BTreeMap::new(),
        timings: [("start", 800), ("run", 12_000), ("settle", 900), ("teardown", 140)]
            .map(|(name, ms)| (name.to_owned(), ms))
            .into(),
        off: Vec::new(),
    }
}

/// The report of `passed`, cut off at a step, with these findings.
fn ended(at: usize, state: StepEnd, findings: Vec<Finding>) -> Report {
    let mut report = passed();
    report.verdict = findings
        .iter()
        .map(|finding| finding.class)
        .min()
        .unwrap_or(Verdict::Passed);
    report.findings = findings;
    for step in &mut report.steps {
        if step.index == at {
            step.state = state;
            step.seen = "the quorum stays at height 3".into();
        }
        if step.index > at {
            step.state = StepEnd::NotReached;
            (step.began_ms, step.ended_ms) = (None, None);
        }
    }
    report
}

pub(crate) fn violated() -> Report {
    let interrupted = finding(
        Verdict::Interrupted,
        "run/interrupted",
        None,
        None,
        "a run to its end",
        "SIGINT after 11.2s",
    );
    let stall = finding(
        Verdict::LivenessFailed,
        "liveness/stall",
        None,
        None,
        "growth within 8s",
        "height 41 for 8.4s",
    );
    ended(3, StepEnd::NotReached, vec![fork(), stall.clone(), stall, interrupted])
}

/// One report for each verdict, worst first.
pub(crate) fn every_verdict() -> Vec<Report> {
    let one = |at, state, class, code, node, step, expected, seen| {
        ended(at, state, vec![finding(class, code, node, step, expected, seen)])
    };
    let mut interrupted = one(
        2,
        StepEnd::NotReached,
        Verdict::Interrupted,
        "run/interrupted",
        None,
        None,
        "a run to its end",
        "SIGINT 3.4s after ready",
    );
    interrupted.steps[2].ended_ms = None;
    vec![
        violated(),
        one(
            2,
            StepEnd::Ok,
            Verdict::LivenessFailed,
            "liveness/exit",
            Some("validator-3"),
            None,
            "the process runs until a step ends it",
            "exit code 101; last line: panicked at 'no state'",
        ),
        one(
            0,
            StepEnd::Failed,
            Verdict::ExpectationFailed,
            "expect/height",
            None,
            Some(0),
            "quorum's height at least 5 within 30s",
            "height 3 after 30.0s: validator-0 3, validator-1 3, validator-2 2, validator-3 does not answer (refused)",
        ),
        one(
            0,
            StepEnd::NotReached,
            Verdict::Infrastructure,
            "infra/program-missing",
            Some("validator-0"),
            None,
            "the program cometbft-0.38.17 on PATH",
            "no such file; get it from the project's releases, or give its path as versions.\"0.38.17\".binary",
        ),
        interrupted,
        one(
            5,
            StepEnd::Inconclusive,
            Verdict::Inconclusive,
            "evidence/coverage",
            None,
            None,
            "every height up to 57 compared on two nodes or more",
            "heights 12 to 19 were given by validator-0 only",
        ),
        passed(),
    ]
}

pub(crate) fn not_put_back() -> Report {
    let mut broken = finding(
        Verdict::Infrastructure,
        super::summary::REVERT_FAILED,
        Some("validator-2"),
        Some(4),
        "the links of validator-2 carry bytes again within 10s of healing",
        "no byte over 3 of 3 links; the guard says that it cleared them",
    );
    broken.faults = vec!["split".into()];
    ended(4, StepEnd::Failed, vec![fork(), broken])
}

/// Everything too long at once: many steps, faults, findings, long texts, wide node lists.
pub(crate) fn monstrous() -> Report {
    let mut report = not_put_back();
    let long = "a rather long text about what a node did, with its hash 0123456789ABCDEF; ".repeat(12);
    for finding in &mut report.findings {
        finding.expected = long.clone();
        finding.seen = format!("\u{1b}[31m{long}\u{1b}[0m\nsecond line");
        finding.faults = (0..30).map(|index| format!("fault-{index}")).collect();
        finding.step = Some(60);
    }
    for index in 0..200 {
        let code = format!("liveness/kind-{}", index % 20);
        report
            .findings
            .push(finding(Verdict::LivenessFailed, &code, Some("full-3"), None, "x", "y"));
    }
    report.steps = (0..100)
        .map(|index| StepReport {
            index,
            title: format!("step {index}: {long}"),
            state: match index {
                0..60 => StepEnd::Ok,
                60 => StepEnd::Failed,
                _ => StepEnd::NotReached,
            },
            began_ms: (index <= 60).then_some(1_000),
            ended_ms: (index <= 60).then_some(2_000),
            seen: long.clone(),
        })
        .collect();
    report.scenario = "a-name-of-forty-characters-which-is-most".into();
    report.faults = (0..30)
        .map(|index| FaultReport {
            id: format!("fault-{index}"),
            targets: names("full", 90).into_iter().step_by(2).collect(),
            ..report.faults[0].clone()
        })
        .collect();
    report
}

pub(crate) fn logs() -> Vec<LogTail> {
    let lines = [
        "height 12",
        "height 13",
        "signing another block for height 13",
        "height 14",
        "peer validator-0 hung up",
    ];
    vec![LogTail {
        path: PathBuf::from(".trialnet/runs/kill-one-20261121T060000Z-a1b2c3/logs/validator-2.devnode.log"),
        lines: lines.map(str::to_owned).to_vec(),
    }]
}
