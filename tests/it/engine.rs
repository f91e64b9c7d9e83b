//! Engine, judge and teardown on the in-memory double: each ending of a run, and each way in which an injector can lie.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::Mutex;

use trialnet::backend::memory::{Memory, Tamper};
use trialnet::engine::{self, Cancel, Finished, Keep, Setup};
use trialnet::model::verdict::{StepEnd, Verdict};
use trialnet::model::*;
use trialnet::record::{Event, FaultState, Record, Stamped};

fn node(index: usize, start: Start) -> Node {
    Node {
        name: format!("validator-{index}"),
        group: "validator".to_owned(),
        role: Role::Validator,
        power: 10,
        version: "0.1.0".to_owned(),
        config: BTreeMap::new(),
        start,
    }
}

fn plan(actions: Vec<(&str, Action)>) -> Plan {
    let step = |(index, (id, action)): (usize, (&str, Action))| Step {
        index,
        id: (!id.is_empty()).then(|| id.to_owned()),
        name: None,
        when: None,
        go_on: false,
        background: false,
        line: index + 1,
        action,
    };
    Plan {
        format: FORMAT,
        scenario: "double".to_owned(),
        about: None,
        seed: 7,
        backend: BackendKind::Memory,
        network: Network {
            chain: ChainKind::Devnode,
            version: "0.1.0".to_owned(),
            block_time: Ms(50),
            persistence: Persistence::Volume,
            config: BTreeMap::new(),
            nodes: (0..4).map(|index| node(index, Start::Auto)).collect(),
            links: (0..4)
                .flat_map(|a| (0..4).filter(move |b| *b != a).map(move |b| (a, b)))
                .collect(),
        },
        versions: [("0.1.0".to_owned(), Version::default())].into_iter().collect(),
        limits: Limits {
            start: Ms::secs(5),
            run: Ms::secs(30),
            settle: Ms::secs(5),
        },
        invariants: Invariants {
            max_stall: Ms::secs(3),
            max_lag: 20,
            off: BTreeSet::new(),
        },
        steps: actions.into_iter().enumerate().map(step).collect(),
        outcome: None,
        sums: Vec::new(),
    }
}

fn expect(what: What, window: Window) -> Action {
    Action::Expect(Expect {
        what,
        nodes: None,
        window,
    })
}

fn progress(blocks: u64) -> Action {
    expect(What::Progress { blocks }, Window::Within(Ms::secs(10)))
}

fn fault(id: &str, kind: FaultKind, nodes: &[&str], lasts: Lasts) -> Action {
    let targets = Targets::Nodes(nodes.iter().map(|&node| node.to_owned()).collect());
    Action::Fault(Fault {
        id: id.to_owned(),
        kind,
        targets,
        lasts,
    })
}

fn two_against_two(id: &str) -> Action {
    let side = |nodes: [usize; 2]| nodes.map(|index| format!("validator-{index}")).to_vec();
    let kind = FaultKind::Partition {
        sides: vec![side([0, 1]), side([2, 3])],
        plane: Plane::P2p,
    };
    fault(
        id,
        kind,
        &["validator-0", "validator-1", "validator-2", "validator-3"],
        Lasts::UntilHealed,
    )
}

struct Ended {
    finished: Finished,
    memory: Memory,
    records: Vec<Stamped>,
}

impl Ended {
    fn states(&self, fault: &str) -> Vec<FaultState> {
        let state = |stamped: &Stamped| match &stamped.record {
            Record::Fault { id, state, .. } if id == fault => Some(*state),
            _ => None,
        };
        self.records.iter().filter_map(state).collect()
    }

    fn codes(&self) -> Vec<(&str, Option<&str>)> {
        let findings = &self.finished.report.findings;
        findings
            .iter()
            .map(|finding| (finding.code.as_str(), finding.node.as_deref()))
            .collect()
    }

    #[track_caller]
    fn verdict(&self, verdict: Verdict) {
        assert_eq!(self.finished.report.verdict, verdict, "{:#?}", self.finished.report);
        assert!(self.memory.is_empty(), "something is left");
        assert_eq!(self.records.last().map(|stamped| &stamped.record), Some(&Record::End));
        self.judged_again();
    }

    /// The same records, written and read again, give the same report.
    #[track_caller]
    fn judged_again(&self) {
        let plan = self.plan();
        let mut judge = trialnet::judge::Judge::new(&plan);
        for stamped in &self.records {
            let line = serde_json::to_string(stamped).unwrap();
            judge.feed(&serde_json::from_str(&line).unwrap());
        }
        assert_eq!(judge.report(), self.finished.report);
    }

    fn plan(&self) -> Arc<Plan> {
        self.memory.plan()
    }
}

/// Runs a plan; `during` sees every event and may act.
async fn run_with(plan: Plan, tamper: Tamper, during: impl Fn(&Memory, &Cancel, &Event) + Send + Sync) -> Ended {
    let plan = Arc::new(plan);
    let (memory, events) = Memory::new(Arc::clone(&plan), tamper);
    let cancel = Cancel::default();
    let records = Mutex::new(Vec::new());
    let mut sink = |event: Event| {
        during(&memory, &cancel, &event);
        if let Event::Record(stamped) = event {
            records.lock().unwrap().push(stamped);
        }
    };
    let finished = engine::run(Setup {
        plan,
        run: "test".to_owned(),
        deployer: Arc::new(memory.clone()),
        events,
        adapter: trialnet::chain::adapter(ChainKind::Devnode),
        cancel: cancel.clone(),
        sink: &mut sink,
        keep: Keep::Never,
    })
    .await;
    Ended {
        finished,
        memory: memory.clone(),
        records: records.into_inner().unwrap(),
    }
}

async fn run(plan: Plan, tamper: Tamper) -> Ended {
    run_with(plan, tamper, |_, _, _| {}).await
}

const WHOLE_LIFE: [FaultState; 5] = [
    FaultState::Planned,
    FaultState::Injected,
    FaultState::Verified,
    FaultState::Reverted,
    FaultState::RevertVerified,
];

#[tokio::test]
async fn a_healthy_chain_passes() {
    run(plan(vec![("", progress(3))]), Tamper::None)
        .await
        .verdict(Verdict::Passed);
}

#[tokio::test]
async fn a_kill_has_five_states_and_heals_by_itself() {
    let steps = vec![
        (
            "victim",
            fault("victim", FaultKind::Kill, &["validator-1"], Lasts::For(Ms(300))),
        ),
        ("", progress(3)),
        (
            "",
            expect(
                What::Recovery {
                    of: "victim".to_owned(),
                },
                Window::Within(Ms::secs(10)),
            ),
        ),
    ];
    let ended = run(plan(steps), Tamper::None).await;
    ended.verdict(Verdict::Passed);
    assert_eq!(ended.states("victim"), WHOLE_LIFE);
    assert!(ended.finished.report.faults[0].recovery_ms.is_some());
}

#[tokio::test]
async fn a_fault_without_an_end_is_reverted_after_the_last_step_and_recovery_is_judged() {
    let steps = vec![
        (
            "victim",
            fault("victim", FaultKind::Stop, &["validator-1"], Lasts::UntilHealed),
        ),
        ("", progress(2)),
    ];
    let ended = run(plan(steps), Tamper::None).await;
    ended.verdict(Verdict::Passed);
    assert_eq!(ended.states("victim"), WHOLE_LIFE);
}

#[tokio::test]
async fn two_against_two_halts_and_recovers() {
    let steps = vec![
        ("split", two_against_two("split")),
        ("", expect(What::Halt { of: "split".to_owned() }, Window::For(Ms(500)))),
        (
            "",
            Action::Heal {
                faults: vec!["split".to_owned()],
            },
        ),
        (
            "",
            expect(What::Recovery { of: "split".to_owned() }, Window::Within(Ms::secs(10))),
        ),
    ];
    let ended = run(plan(steps), Tamper::None).await;
    ended.verdict(Verdict::Passed);
    assert_eq!(ended.states("split"), WHOLE_LIFE);
}

#[tokio::test]
async fn healing_what_has_ended_is_a_recorded_no_op() {
    let steps = vec![
        (
            "frozen",
            fault("frozen", FaultKind::Pause, &["validator-1"], Lasts::For(Ms(200))),
        ),
        (
            "",
            expect(
                What::Recovery {
                    of: "frozen".to_owned(),
                },
                Window::Within(Ms::secs(10)),
            ),
        ),
        (
            "",
            Action::Heal {
                faults: vec!["frozen".to_owned()],
            },
        ),
    ];
    let ended = run(plan(steps), Tamper::None).await;
    ended.verdict(Verdict::Passed);
    assert_eq!(ended.states("frozen").last(), Some(&FaultState::AlreadyEnded));
}

#[tokio::test]
async fn overlapping_faults_on_a_node_keep_it_down_until_the_last_ends() {
    let steps = vec![
        (
            "first",
            fault("first", FaultKind::Kill, &["validator-1"], Lasts::UntilHealed),
        ),
        (
            "second",
            fault("second", FaultKind::Kill, &["validator-1"], Lasts::UntilHealed),
        ),
        (
            "",
            Action::Heal {
                faults: vec!["first".to_owned()],
            },
        ),
        ("", progress(2)),
        (
            "",
            Action::Heal {
                faults: vec!["second".to_owned()],
            },
        ),
        (
            "",
            expect(
                What::Recovery {
                    of: "second".to_owned(),
                },
                Window::Within(Ms::secs(10)),
            ),
        ),
    ];
    let ended = run(plan(steps), Tamper::None).await;
    ended.verdict(Verdict::Passed);
    let started = |stamped: &&Stamped| matches!(&stamped.record, Record::Node { node, event: trialnet::record::NodeEvent::Started { .. } } if node == "validator-1");
    assert_eq!(
        ended.records.iter().filter(started).count(),
        2,
        "started once at first, and once after the second heal"
    );
}

#[tokio::test]
async fn a_start_step_ends_a_kill() {
    let steps = vec![
        (
            "victim",
            fault("victim", FaultKind::Kill, &["validator-1"], Lasts::UntilHealed),
        ),
        (
            "",
            Action::Start {
                nodes: vec!["validator-1".to_owned()],
            },
        ),
        (
            "",
            expect(
                What::Recovery {
                    of: "victim".to_owned(),
                },
                Window::Within(Ms::secs(10)),
            ),
        ),
    ];
    let ended = run(plan(steps), Tamper::None).await;
    ended.verdict(Verdict::Passed);
    assert_eq!(ended.states("victim"), WHOLE_LIFE);
}

#[tokio::test]
async fn a_restart_is_a_fault_that_ends_by_itself() {
    let steps = vec![
        (
            "again",
            fault("again", FaultKind::Restart, &["validator-2"], Lasts::Itself),
        ),
        ("", progress(2)),
    ];
    let ended = run(plan(steps), Tamper::None).await;
    ended.verdict(Verdict::Passed);
    assert_eq!(ended.states("again"), WHOLE_LIFE);
}

#[tokio::test]
async fn a_background_step_is_joined() {
    let mut plan = plan(vec![
        ("long", Action::Wait(Ms(300))),
        ("", progress(1)),
        (
            "",
            Action::Join {
                id: "long".to_owned(),
                within: Ms::secs(5),
            },
        ),
    ]);
    plan.steps[0].background = true;
    let ended = run(plan, Tamper::None).await;
    ended.verdict(Verdict::Passed);
    assert!(ended.finished.report.steps.iter().all(|step| step.state == StepEnd::Ok));
}

#[tokio::test]
async fn a_join_that_takes_too_long_fails() {
    let mut plan = plan(vec![
        ("long", Action::Wait(Ms::secs(20))),
        (
            "",
            Action::Join {
                id: "long".to_owned(),
                within: Ms(200),
            },
        ),
    ]);
    plan.steps[0].background = true;
    let ended = run(plan, Tamper::None).await;
    ended.verdict(Verdict::ExpectationFailed);
    assert_eq!(ended.codes()[0].0, "run/join");
}

#[tokio::test]
async fn a_cut_that_does_nothing_is_infrastructure() {
    let steps = vec![("split", two_against_two("split"))];
    let ended = run(plan(steps), Tamper::CutNothing).await;
    ended.verdict(Verdict::Infrastructure);
    assert!(
        ended.codes().iter().any(|(code, _)| *code == "infra/fault-no-effect"),
        "{:?}",
        ended.codes()
    );
}

#[tokio::test]
async fn a_kill_that_does_nothing_is_infrastructure() {
    let steps = vec![(
        "victim",
        fault("victim", FaultKind::Kill, &["validator-1"], Lasts::UntilHealed),
    )];
    let ended = run(plan(steps), Tamper::KillNothing).await;
    ended.verdict(Verdict::Infrastructure);
    assert!(
        ended.codes().iter().any(|(code, _)| *code == "infra/fault-no-effect"),
        "{:?}",
        ended.codes()
    );
}

#[tokio::test]
async fn a_kill_that_strikes_another_node_too_is_found_on_that_node() {
    let steps = vec![
        (
            "victim",
            fault("victim", FaultKind::Kill, &["validator-1"], Lasts::For(Ms(500))),
        ),
        ("", progress(2)),
    ];
    let ended = run(plan(steps), Tamper::KillMore).await;
    ended.verdict(Verdict::LivenessFailed);
    assert!(
        ended.codes().contains(&("liveness/exit", Some("validator-2"))),
        "{:?}",
        ended.codes()
    );
}

#[tokio::test]
async fn a_node_that_cannot_be_brought_back_is_infrastructure() {
    let steps = vec![
        (
            "victim",
            fault("victim", FaultKind::Kill, &["validator-1"], Lasts::UntilHealed),
        ),
        (
            "",
            Action::Heal {
                faults: vec!["victim".to_owned()],
            },
        ),
    ];
    let ended = run(plan(steps), Tamper::StartNothing).await;
    ended.verdict(Verdict::Infrastructure);
    assert!(ended.states("victim").contains(&FaultState::RevertFailed));
}

#[tokio::test]
async fn a_node_that_dies_by_itself_is_found() {
    let died = std::sync::atomic::AtomicBool::new(false);
    let ended = run_with(plan(vec![("", progress(10))]), Tamper::None, |memory, _, event| {
        let step = matches!(
            event,
            Event::Record(Stamped {
                record: Record::Step { .. },
                ..
            })
        );
        if step && !died.swap(true, std::sync::atomic::Ordering::SeqCst) {
            memory.die("validator-3", 7);
        }
    })
    .await;
    ended.verdict(Verdict::LivenessFailed);
    assert!(
        ended.codes().contains(&("liveness/exit", Some("validator-3"))),
        "{:?}",
        ended.codes()
    );
}

#[tokio::test]
async fn a_node_that_dies_before_ready_ends_the_run_at_once_with_the_reason() {
    let mut plan = plan(vec![("", progress(1))]);
    plan.limits.start = Ms::secs(60);
    // Without a quorum the network never gets ready, so that the death comes before.
    plan.network.nodes[0].start = Start::Manual;
    plan.network.nodes[1].start = Start::Manual;
    let died = std::sync::atomic::AtomicBool::new(false);
    let ended = run_with(plan, Tamper::None, |memory, _, event| {
        let answered = matches!(
            event,
            Event::Record(Stamped {
                record: Record::Sample(_),
                ..
            })
        );
        if answered && !died.swap(true, std::sync::atomic::Ordering::SeqCst) {
            memory.die("validator-3", 7);
        }
    })
    .await;
    ended.verdict(Verdict::Infrastructure);
    assert!(
        ended.codes().contains(&("infra/exit-at-start", Some("validator-3"))),
        "{:?}",
        ended.codes()
    );
}

#[tokio::test]
async fn a_network_that_does_not_get_ready_is_infrastructure() {
    let mut plan = plan(vec![("", progress(1))]);
    plan.limits.start = Ms(600);
    plan.network.nodes[0].start = Start::Manual;
    plan.network.nodes[1].start = Start::Manual;
    let ended = run(plan, Tamper::None).await;
    ended.verdict(Verdict::Infrastructure);
    assert_eq!(ended.codes()[0].0, "infra/start-timeout");
}

#[tokio::test]
async fn a_cancelled_run_is_interrupted_and_leaves_nothing() {
    let ended = run_with(
        plan(vec![
            ("split", two_against_two("split")),
            ("", Action::Wait(Ms::secs(20))),
        ]),
        Tamper::None,
        |_, cancel, event| {
            let verified = matches!(
                event,
                Event::Record(Stamped {
                    record: Record::Fault {
                        state: FaultState::Verified,
                        ..
                    },
                    ..
                })
            );
            if verified {
                cancel.stop("SIGTERM");
            }
        },
    )
    .await;
    ended.verdict(Verdict::Interrupted);
    assert!(ended.states("split").contains(&FaultState::Reverted));
}

#[tokio::test]
async fn steps_after_a_failed_one_are_not_reached_unless_it_says_continue() {
    let hopeless = || {
        expect(
            What::Height(Bounds {
                at_least: Some(1_000_000),
                at_most: None,
            }),
            Window::Within(Ms(200)),
        )
    };
    let ended = run(plan(vec![("", hopeless()), ("", progress(1))]), Tamper::None).await;
    ended.verdict(Verdict::ExpectationFailed);
    assert_eq!(ended.finished.report.steps[1].state, StepEnd::NotReached);

    let mut plan = plan(vec![("", hopeless()), ("", progress(1))]);
    plan.steps[0].go_on = true;
    let ended = run(plan, Tamper::None).await;
    ended.verdict(Verdict::ExpectationFailed);
    assert_eq!(ended.finished.report.steps[1].state, StepEnd::Ok);
}

#[tokio::test]
async fn the_run_limit_ends_the_steps() {
    let mut plan = plan(vec![("", Action::Wait(Ms::secs(20)))]);
    plan.limits.run = Ms(300);
    let ended = run(plan, Tamper::None).await;
    ended.verdict(Verdict::ExpectationFailed);
    assert_eq!(ended.codes()[0].0, "run/limit");
}
