//! Engine, judge and teardown on the in-memory double: each ending of a run, and each way in which an injector can lie.

mod beside;
mod corrupt;
mod dropped;
mod locked;
mod repeat;
mod stress;
mod toy;
mod upgrade;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use trialnet::backend::memory::{Memory, Tamper};
use trialnet::engine::{self, Cancel, Finished, Keep, Setup};
use trialnet::model::verdict::{StepEnd, Verdict};
use trialnet::model::*;
use trialnet::record::{Event, FaultState, NodeEvent, Phase, Record, Stamped};

fn node(index: usize, start: Start) -> Node {
    Node {
        name: format!("validator-{index}"),
        group: "validator".to_owned(),
        role: Role::Validator,
        power: 10,
        version: "0.1.0".to_owned(),
        config: BTreeMap::new(),
        start,
        resources: trialnet::model::Resources::default(),
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
        kubernetes: trialnet::model::Kubernetes::default(),
        network: Network {
            chain: ChainKind::Devnode,
            version: "0.1.0".to_owned(),
            block_time: Ms(50),
            persistence: Persistence::Volume,
            app: None,
            keys: trialnet::model::Keys::Seed,
            attach: None,
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
        repeats: Vec::new(),
        sums: Vec::new(),
        chaos: None,
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
        component: None,
        wipe: false,
        on_restart: trialnet::model::OnRestart::Reapply,
    })
}

fn two_against_two(id: &str) -> Action {
    let side = |nodes: [usize; 2]| nodes.map(|index| format!("validator-{index}")).to_vec();
    let kind = FaultKind::Partition {
        sides: vec![side([0, 1]), side([2, 3])],
        plane: Plane::P2p,
        one_way: false,
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

    /// What was seen of each fault when its effect was verified.
    fn verified(&self) -> Vec<&str> {
        (self.records.iter())
            .filter_map(|stamped| match &stamped.record {
                Record::Fault { state, detail, .. } if *state == FaultState::Verified => Some(detail.as_str()),
                _ => None,
            })
            .collect()
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
    run_of(trialnet::chain::adapter(ChainKind::Devnode), plan, tamper, during).await
}

async fn run_of(
    adapter: &'static dyn trialnet::chain::ChainAdapter,
    plan: Plan,
    tamper: Tamper,
    during: impl Fn(&Memory, &Cancel, &Event) + Send + Sync,
) -> Ended {
    let plan = Arc::new(plan);
    let (memory, reports, events) = Memory::new(Arc::clone(&plan), tamper);
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
        records: reports,
        events,
        adapter,
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

/// The backend says that a process was started, the engine that it answers: a run that takes neither in for a while still hears the one before the
/// other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_is_heard_before_what_follows_from_it() {
    let steps = vec![
        (
            "victim",
            fault("victim", FaultKind::Kill, &["validator-1"], Lasts::For(Ms(100))),
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
    let ended = run_with(plan(steps), Tamper::None, |_, _, event| {
        let verified = |stamped: &Stamped| matches!(&stamped.record, Record::Fault { state, .. } if *state == FaultState::Verified);
        if matches!(event, Event::Record(stamped) if verified(stamped)) {
            // Longer than the fault and its revert take.
            std::thread::sleep(Duration::from_secs(1));
        }
    })
    .await;
    ended.verdict(Verdict::Passed);
    let position = |wanted: &dyn Fn(&Record) -> bool| ended.records.iter().position(|stamped| wanted(&stamped.record));
    let started = position(
        &|record| matches!(record, Record::Node { node, event: NodeEvent::Started { generation: 2, .. } } if node == "validator-1"),
    );
    let answered =
        position(&|record| matches!(record, Record::Fault { state, .. } if *state == FaultState::RevertVerified));
    assert!(started.is_some() && started < answered, "{started:?} {answered:?}");
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

fn one_way(id: &str) -> Action {
    let Action::Fault(mut fault) = two_against_two(id) else {
        unreachable!("a partition is a fault")
    };
    if let FaultKind::Partition { one_way, .. } = &mut fault.kind {
        *one_way = true;
    }
    Action::Fault(fault)
}

fn loss(id: &str, percent: f64) -> Action {
    let names = ["validator-0", "validator-1", "validator-2", "validator-3"];
    let pair = |(a, b): (usize, usize)| (names[a].to_owned(), names[b].to_owned());
    let links = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)].map(pair).to_vec();
    fault(id, FaultKind::Loss { links, percent }, &names, Lasts::UntilHealed)
}

#[tokio::test]
async fn packets_are_lost_one_way_and_each_way() {
    let heal = |id: &str| Action::Heal {
        faults: vec![id.to_owned()],
    };
    let steps = vec![
        ("rain", loss("rain", 30.0)),
        ("", progress(3)),
        ("more", loss("more", 50.0)),
        ("", heal("rain")),
        ("deaf", one_way("deaf")),
        ("", expect(What::Halt { of: "deaf".to_owned() }, Window::For(Ms(500)))),
        ("", heal("deaf")),
        ("", heal("more")),
        (
            "",
            expect(What::Recovery { of: "deaf".to_owned() }, Window::Within(Ms::secs(10))),
        ),
    ];
    let ended = run(plan(steps), Tamper::None).await;
    ended.verdict(Verdict::Passed);
    for id in ["rain", "more", "deaf"] {
        assert_eq!(ended.states(id), WHOLE_LIFE, "{id}");
    }
    let said = ended.verified();
    assert!(said[0].contains("30.0 % lost in 12 directions"), "{said:?}");
    assert!(said[1].contains("65.0 % lost in 12 directions"), "{said:?}");
    // One way: all; back, and inside the sides, what the other fault loses.
    assert!(said[2].contains("100.0 % lost in 4 directions"), "{said:?}");
    assert!(said[2].contains("50.0 % lost in 8 directions"), "{said:?}");
}

fn narrow(id: &str, rate: u64, links: &[(usize, usize)]) -> Action {
    let names = ["validator-0", "validator-1", "validator-2", "validator-3"];
    let links = links
        .iter()
        .map(|&(a, b)| (names[a].to_owned(), names[b].to_owned()))
        .collect();
    fault(id, FaultKind::Bandwidth { links, rate }, &names, Lasts::UntilHealed)
}

#[tokio::test]
async fn of_two_rates_the_lower_counts_and_other_links_keep_theirs() {
    let heal = |id: &str| Action::Heal {
        faults: vec![id.to_owned()],
    };
    let steps = vec![
        ("wide", narrow("wide", 10_000_000, &[(0, 1), (0, 2)])),
        ("slim", narrow("slim", 400_000, &[(0, 1)])),
        ("", progress(3)),
        ("", heal("slim")),
        ("rain", loss("rain", 30.0)),
        ("", heal("rain")),
        ("", heal("wide")),
        (
            "",
            expect(What::Recovery { of: "wide".to_owned() }, Window::Within(Ms::secs(10))),
        ),
    ];
    let ended = run(plan(steps.clone()), Tamper::None).await;
    ended.verdict(Verdict::Passed);
    for id in ["wide", "slim", "rain"] {
        assert_eq!(ended.states(id), WHOLE_LIFE, "{id}");
    }
    let said = ended.verified();
    assert!(said[0].contains("of 4 directions; 10mbit asked"), "{said:?}");
    assert!(said[0].contains("0.0 % lost in 8 directions"), "{said:?}");
    assert!(said[1].contains("of 2 directions; 400kbit asked"), "{said:?}");
    // Where a rate is bound a loss is not looked for.
    assert!(said[2].contains("30.0 % lost in 8 directions"), "{said:?}");
    let ended = run(plan(steps), Tamper::CutNothing).await;
    ended.verdict(Verdict::Infrastructure);
    assert_eq!(ended.codes()[0].0, "infra/fault-no-effect");
}

#[tokio::test]
async fn a_cut_ends_while_the_same_links_are_cut_one_way() {
    let heal = |id: &str| Action::Heal {
        faults: vec![id.to_owned()],
    };
    let steps = vec![
        ("split", two_against_two("split")),
        ("deaf", one_way("deaf")),
        ("", heal("split")),
        ("", expect(What::Halt { of: "deaf".to_owned() }, Window::For(Ms(500)))),
        ("", heal("deaf")),
        (
            "",
            expect(What::Recovery { of: "deaf".to_owned() }, Window::Within(Ms::secs(10))),
        ),
    ];
    let ended = run(plan(steps), Tamper::None).await;
    ended.verdict(Verdict::Passed);
    for id in ["split", "deaf"] {
        assert_eq!(ended.states(id), WHOLE_LIFE, "{id}");
    }
}

#[tokio::test]
async fn packets_that_are_not_lost_are_infrastructure() {
    for step in [loss("fault", 30.0), one_way("fault")] {
        let ended = run(plan(vec![("fault", step)]), Tamper::CutNothing).await;
        ended.verdict(Verdict::Infrastructure);
        let codes = ended.codes();
        assert!(
            codes.iter().any(|(code, _)| *code == "infra/fault-no-effect"),
            "{codes:?}"
        );
    }
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

/// Three regions: 20 ms between the first two, 60 ms to the third, and 0 and 1 are in the first.
fn regions(id: &str, lasts: Lasts) -> Action {
    let pair = |a: usize, b: usize| (format!("validator-{a}"), format!("validator-{b}"));
    let kind = FaultKind::Delay {
        links: vec![pair(0, 2), pair(0, 3), pair(1, 2), pair(1, 3), pair(2, 3)],
        latency: Ms(60),
        jitter: Ms(0),
        each: vec![Ms(20), Ms(60), Ms(20), Ms(60), Ms(60)],
    };
    let all = ["validator-0", "validator-1", "validator-2", "validator-3"];
    fault(id, kind, &all, lasts)
}

#[tokio::test]
async fn regions_are_slow_by_pairs_and_are_taken_back() {
    let steps = vec![
        ("world", regions("world", Lasts::UntilHealed)),
        ("", progress(2)),
        (
            "",
            Action::Heal {
                faults: vec!["world".to_owned()],
            },
        ),
        ("", progress(2)),
    ];
    let ended = run(plan(steps), Tamper::None).await;
    ended.verdict(Verdict::Passed);
    assert_eq!(ended.states("world"), WHOLE_LIFE);
    let said = ended.records.iter().find_map(|stamped| match &stamped.record {
        Record::Fault { state, detail, .. } if *state == FaultState::Verified => Some(detail.as_str()),
        _ => None,
    });
    assert!(
        said.is_some_and(|said| said.contains("20ms to 120ms asked")),
        "{said:?}"
    );
}

#[tokio::test]
async fn regions_that_are_not_slow_are_infrastructure() {
    let ended = run(
        plan(vec![("world", regions("world", Lasts::UntilHealed))]),
        Tamper::CutNothing,
    )
    .await;
    ended.verdict(Verdict::Infrastructure);
    assert_eq!(ended.codes()[0].0, "infra/fault-no-effect");
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
async fn being_asked_to_end_again_kills_what_does_not() {
    let plan = plan(vec![("", Action::Wait(Ms::secs(20)))]);
    let ended = run_with(plan, Tamper::EndUnwillingly, |_, cancel, event| {
        let Event::Record(Stamped { record, .. }) = event else {
            return;
        };
        match record {
            Record::Phase(Phase::Running) => cancel.stop("SIGTERM"),
            Record::Phase(Phase::TearingDown) => cancel.kill.cancel(),
            _ => {}
        }
    });
    // Those who are only asked never end.
    let ended = tokio::time::timeout(Duration::from_secs(60), ended).await.unwrap();
    ended.verdict(Verdict::Interrupted);
}

#[tokio::test]
async fn what_could_not_be_removed_is_said_and_changes_no_verdict() {
    for _ in 0..5 {
        let ended = run(plan(vec![("", progress(1))]), Tamper::LeaveSomething).await;
        ended.verdict(Verdict::Passed);
        assert_eq!(ended.finished.leftovers, ["something"]);
    }
}

#[tokio::test]
async fn steps_after_a_failed_one_are_not_reached_unless_it_says_continue() {
    let hopeless = || {
        expect(
            What::Height(Bounds {
                at_least: Some(1_000_000),
                at_most: None,
            }),
            Window::Within(Ms(1_000)),
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
async fn a_load_of_which_nothing_is_accepted_ends_the_steps_unless_it_says_continue() {
    let steps = |to: &str| {
        let load = Action::Load(Load {
            id: "load".to_owned(),
            rate: 50.0,
            lasts: Ms(300),
            size: 16,
            nodes: vec![to.to_owned()],
        });
        let kill = fault("victim", FaultKind::Kill, &["validator-1"], Lasts::UntilHealed);
        vec![("victim", kill), ("load", load), ("", progress(1))]
    };
    let ended = run(plan(steps("validator-0")), Tamper::None).await;
    ended.verdict(Verdict::Passed);

    let ended = run(plan(steps("validator-1")), Tamper::None).await;
    ended.verdict(Verdict::ExpectationFailed);
    assert_eq!(ended.codes(), [("expect/load", None)]);
    assert_eq!(ended.finished.report.steps[2].state, StepEnd::NotReached);

    let mut go_on = plan(steps("validator-1"));
    go_on.steps[1].go_on = true;
    let ended = run(go_on, Tamper::None).await;
    ended.verdict(Verdict::ExpectationFailed);
    assert_eq!(ended.finished.report.steps[2].state, StepEnd::Ok);

    // In the background it ends the steps where it is joined.
    let join = Action::Join {
        id: "load".to_owned(),
        within: Ms::secs(5),
    };
    let mut steps = steps("validator-1");
    steps.insert(2, ("", join));
    let mut joined = plan(steps);
    joined.steps[1].background = true;
    let ended = run(joined, Tamper::None).await;
    ended.verdict(Verdict::ExpectationFailed);
    assert_eq!(ended.finished.report.steps[3].state, StepEnd::NotReached);
}

#[tokio::test]
async fn the_run_limit_ends_the_steps() {
    let mut plan = plan(vec![("", Action::Wait(Ms::secs(20)))]);
    plan.limits.run = Ms(300);
    let ended = run(plan, Tamper::None).await;
    ended.verdict(Verdict::ExpectationFailed);
    assert_eq!(ended.codes()[0].0, "run/limit");
}

/// A plan for pods: what dies is brought back by the platform.
fn pods(actions: Vec<(&str, Action)>) -> Plan {
    Plan {
        backend: BackendKind::Kubernetes,
        ..plan(actions)
    }
}

fn recovery(of: &str) -> Action {
    expect(What::Recovery { of: of.to_owned() }, Window::Within(Ms::secs(10)))
}

const DELETED: FaultKind = FaultKind::Remove(Removal::Delete { grace: Some(Ms(1000)) });

#[tokio::test]
async fn what_the_platform_brings_back_ends_by_itself() {
    for (kind, evidence) in [
        (FaultKind::Kill, "container 1 started again (restart 1)"),
        (DELETED, "pod validator-1-2 instead of validator-1-1"),
        (
            FaultKind::Remove(Removal::Force),
            "pod validator-1-2 instead of validator-1-1",
        ),
    ] {
        let steps = vec![
            ("victim", fault("victim", kind, &["validator-1"], Lasts::Platform)),
            ("", recovery("victim")),
            ("", progress(2)),
        ];
        let ended = run(pods(steps), Tamper::None).await;
        ended.verdict(Verdict::Passed);
        assert_eq!(ended.states("victim"), WHOLE_LIFE);
        let seen = ended.records.iter().find_map(|stamped| match &stamped.record {
            Record::Fault {
                state: FaultState::Verified,
                detail,
                ..
            } => Some(detail.as_str()),
            _ => None,
        });
        assert!(seen.is_some_and(|seen| seen.contains(evidence)), "{seen:?}");
    }
}

#[tokio::test]
async fn healing_what_the_platform_ends_waits_for_it() {
    let heal = Action::Heal {
        faults: vec!["victim".to_owned()],
    };
    let steps = vec![
        ("victim", fault("victim", DELETED, &["validator-1"], Lasts::Platform)),
        ("", heal),
        ("", recovery("victim")),
    ];
    let ended = run(pods(steps), Tamper::None).await;
    ended.verdict(Verdict::Passed);
    assert_eq!(ended.states("victim"), WHOLE_LIFE);
}

#[tokio::test]
async fn what_the_platform_does_not_bring_back_is_infrastructure() {
    let steps = vec![
        ("victim", fault("victim", DELETED, &["validator-1"], Lasts::Platform)),
        ("", recovery("victim")),
    ];
    let mut plan = pods(steps);
    plan.limits.start = Ms::secs(2);
    let ended = run(plan, Tamper::StartNothing).await;
    ended.verdict(Verdict::Infrastructure);
    assert!(ended.codes().contains(&("infra/revert-failed", Some("validator-1"))));
}

#[tokio::test]
async fn a_deletion_that_does_nothing_is_infrastructure() {
    let steps = vec![(
        "victim",
        fault("victim", FaultKind::Kill, &["validator-1"], Lasts::Platform),
    )];
    let ended = run(pods(steps), Tamper::RemoveNothing).await;
    ended.verdict(Verdict::Infrastructure);
    assert_eq!(ended.codes(), [("infra/fault-no-effect", Some("validator-1"))]);
}

#[tokio::test]
async fn an_eviction_is_refused_as_expected_or_not() {
    let evict = || {
        let nodes = vec!["validator-1".to_owned()];
        vec![("", Action::Evict { nodes, drain: false }), ("", progress(2))]
    };
    let ended = run(pods(evict()), Tamper::RefuseEvictions).await;
    ended.verdict(Verdict::Passed);
    let ended = run(pods(evict()), Tamper::None).await;
    ended.verdict(Verdict::ExpectationFailed);
    assert_eq!(ended.codes(), [("expect/not-refused", None)]);
    let steps = vec![(
        "victim",
        fault(
            "victim",
            FaultKind::Remove(Removal::Evict),
            &["validator-1"],
            Lasts::Platform,
        ),
    )];
    let ended = run(pods(steps), Tamper::RefuseEvictions).await;
    ended.verdict(Verdict::Infrastructure);
    assert!(ended.codes().contains(&("infra/eviction-refused", Some("validator-1"))));
}

#[tokio::test]
async fn a_machine_is_drained_and_given_back() {
    let heal = || Action::Heal {
        faults: vec!["away".to_owned()],
    };
    let drain = |lasts| fault("away", FaultKind::Drain, &["validator-1"], lasts);
    let healed = vec![
        ("away", drain(Lasts::UntilHealed)),
        ("", progress(2)),
        ("", heal()),
        ("", recovery("away")),
    ];
    let timed = vec![("away", drain(Lasts::For(Ms::secs(1)))), ("", recovery("away"))];
    // Nothing heals it but the end of the run.
    let open = vec![("away", drain(Lasts::UntilHealed)), ("", progress(2))];
    for steps in [healed, timed, open] {
        let ended = run(pods(steps), Tamper::None).await;
        ended.verdict(Verdict::Passed);
        assert_eq!(ended.states("away"), WHOLE_LIFE);
    }
}

#[tokio::test]
async fn a_drain_that_does_nothing_or_is_refused_is_infrastructure() {
    let steps = || {
        let drain = fault("away", FaultKind::Drain, &["validator-1"], Lasts::UntilHealed);
        vec![("away", drain), ("", progress(2))]
    };
    let ended = run(pods(steps()), Tamper::RemoveNothing).await;
    ended.verdict(Verdict::Infrastructure);
    assert_eq!(ended.codes(), [("infra/fault-no-effect", Some("validator-1"))]);
    let ended = run(pods(steps()), Tamper::RefuseEvictions).await;
    ended.verdict(Verdict::Infrastructure);
    assert!(ended.codes().contains(&("infra/eviction-refused", Some("validator-1"))));
}

#[tokio::test]
async fn a_machine_fails_and_comes_back() {
    let steps = |how| {
        let lasts = Lasts::For(Ms::secs(1));
        let off = fault("off", FaultKind::Machine(how), &["validator-1"], lasts);
        vec![("off", off), ("", progress(2)), ("", recovery("off"))]
    };
    for how in [Outage::Stop, Outage::Pause] {
        let ended = run(pods(steps(how)), Tamper::None).await;
        ended.verdict(Verdict::Passed);
        assert_eq!(ended.states("off"), WHOLE_LIFE);
    }
    let ended = run(pods(steps(Outage::Stop)), Tamper::RemoveNothing).await;
    ended.verdict(Verdict::Infrastructure);
    assert_eq!(ended.codes(), [("infra/fault-no-effect", Some("validator-1"))]);
}

#[tokio::test]
async fn a_drain_is_refused_as_expected_or_not() {
    let steps = || {
        let nodes = vec!["validator-1".to_owned()];
        vec![("", Action::Evict { nodes, drain: true }), ("", progress(2))]
    };
    run(pods(steps()), Tamper::RefuseEvictions)
        .await
        .verdict(Verdict::Passed);
    let ended = run(pods(steps()), Tamper::None).await;
    ended.verdict(Verdict::ExpectationFailed);
    assert_eq!(ended.codes(), [("expect/not-refused", None)]);
}

#[tokio::test]
async fn a_declared_loss_lets_heights_begin_anew() {
    let lost = |kind, lasts| {
        let Action::Fault(fault) = fault("victim", kind, &["validator-1"], lasts) else {
            unreachable!()
        };
        Action::Fault(Fault { wipe: true, ..fault })
    };
    let wiped = |ended: &Ended| {
        let wiped = |stamped: &&Stamped| {
            let Record::Node { node, event } = &stamped.record else {
                return false;
            };
            node == "validator-1" && *event == trialnet::record::NodeEvent::Wiped
        };
        ended.records.iter().filter(wiped).count()
    };
    for (kind, lasts) in [
        (FaultKind::Kill, Lasts::For(Ms(700))),
        (FaultKind::Stop, Lasts::For(Ms(700))),
        (FaultKind::Restart, Lasts::Itself),
    ] {
        let steps = vec![("victim", lost(kind, lasts)), ("", recovery("victim"))];
        let ended = run(plan(steps), Tamper::None).await;
        ended.verdict(Verdict::Passed);
        assert_eq!(wiped(&ended), 1);
    }
    let steps = vec![("victim", lost(DELETED, Lasts::Platform)), ("", recovery("victim"))];
    let mut plan = pods(steps);
    plan.network.persistence = Persistence::Ephemeral;
    let ended = run(plan, Tamper::None).await;
    ended.verdict(Verdict::Passed);
    assert_eq!(wiped(&ended), 1);
}

#[tokio::test]
async fn a_rehearsal_goes_on_beside_the_steps_and_leaves_out_what_has_no_room() {
    let timed = |at: u64, id: &str, kind: FaultKind, node: &str, lasts: Lasts| {
        let Action::Fault(fault) = fault(id, kind, &[node], lasts) else {
            unreachable!("it is a fault")
        };
        Timed { at: Ms(at), fault }
    };
    let mut plan = plan(vec![("", progress(2))]);
    // Far enough apart that each is over in time on a busy machine too.
    let on = Lasts::For(Ms(1_500));
    plan.chaos = Some(Chaos {
        schedule: vec![
            timed(100, "chaos-1", FaultKind::Kill, "validator-1", on),
            timed(300, "chaos-2", FaultKind::Pause, "validator-2", on),
            timed(6_000, "chaos-3", FaultKind::Pause, "validator-2", on),
            timed(11_000, "chaos-4", FaultKind::Restart, "validator-3", Lasts::Itself),
        ],
        recovery: Ms::secs(5),
        halts: false,
        most: None,
        margin: Ms(0),
    });
    let ended = run(plan, Tamper::None).await;
    ended.verdict(Verdict::Passed);
    for id in ["chaos-1", "chaos-3", "chaos-4"] {
        assert_eq!(ended.states(id), WHOLE_LIFE, "{id}");
    }
    assert_eq!(ended.states("chaos-2"), [FaultState::Skipped]);
    let left_out = &ended.finished.report.faults[1];
    let why = left_out.skipped.as_deref().unwrap();
    assert!(why.contains("20 of 40 is not more than two thirds"), "{why}");
    // The step was over long before; the last fault was waited for.
    assert!(
        ended.finished.report.timings["run"] >= 11_000,
        "{:?}",
        ended.finished.report.timings
    );
}
