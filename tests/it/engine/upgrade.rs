//! Upgrades on the double: batches and gates, and each way in which one fails.

use trialnet::backend::memory::Flaw;
use trialnet::model::upgrade::{Batch, Gate, OnFailure, Strategy, Upgrade};
use trialnet::record::UpgradeState;

use super::*;

const NEW: &str = "0.2.0";

fn upgrade(batches: &[&[usize]], on_failure: OnFailure) -> Action {
    let fault = |id: String, nodes: &[usize]| Fault {
        id,
        kind: FaultKind::Upgrade,
        targets: Targets::Nodes(nodes.iter().map(|node| format!("validator-{node}")).collect()),
        lasts: Lasts::Itself,
        component: None,
        wipe: false,
        on_restart: trialnet::model::OnRestart::default(),
    };
    let batch = |(at, nodes): (usize, &&[usize])| Batch {
        forth: fault(format!("roll.{}", at + 1), nodes),
        back: fault(format!("roll.back.{}", at + 1), nodes),
    };
    Action::Upgrade(Upgrade {
        id: "roll".to_owned(),
        to: NEW.to_owned(),
        strategy: Strategy::Rolling,
        batches: batches.iter().enumerate().map(batch).collect(),
        pause: Ms(20),
        gate: Gate {
            grow: 2,
            within: Ms::secs(2),
        },
        on_failure,
        expect_version: NEW.to_owned(),
        max_unavailable: None,
    })
}

/// A plan that upgrades, goes on whatever becomes of that, and grows.
fn plan_of(batches: &[&[usize]], on_failure: OnFailure) -> Plan {
    let mut plan = plan(vec![("roll", upgrade(batches, on_failure)), ("", progress(5))]);
    plan.steps[0].go_on = true;
    for name in ["0.1.0", NEW] {
        let version = Version {
            reports: Some(name.to_owned()),
            ..Version::default()
        };
        plan.versions.insert(name.to_owned(), version);
    }
    plan
}

/// Runs a plan with something that is wrong once the network is ready.
async fn run_wrong(plan: Plan, wrong: impl Fn(&Memory) + Send + Sync) -> Ended {
    run_with(plan, Tamper::None, |memory, _, event| {
        if matches!(event, Event::Record(stamped) if stamped.record == Record::Ready) {
            wrong(memory);
        }
    })
    .await
}

/// Of each node that was moved: where to, whether that was back, and whether it passed its gate.
fn moves(ended: &Ended) -> Vec<(&str, &str, bool, bool)> {
    let nodes = ended.finished.report.upgrades.iter().flat_map(|upgrade| &upgrade.nodes);
    nodes
        .map(|one| (one.node.as_str(), one.to.as_str(), one.back, one.gated_ms.is_some()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_after_the_other() {
    let ended = run_wrong(plan_of(&[&[0], &[1], &[2], &[3]], OnFailure::Stop), |_| {}).await;
    let report = &ended.finished.report;
    assert_eq!(report.verdict, Verdict::Passed, "{:?}", report.findings);
    let all: Vec<_> = (0..4).map(|node| format!("validator-{node}")).collect();
    let wanted: Vec<_> = all.iter().map(|node| (node.as_str(), NEW, false, true)).collect();
    assert_eq!(moves(&ended), wanted);
    for node in &all {
        assert_eq!(ended.memory.version(node).as_deref(), Some(NEW));
        assert_eq!(report.versions[node], NEW);
    }
    // Each batch begins when the one before has passed its gate.
    let nodes = &report.upgrades[0].nodes;
    assert!(
        nodes.windows(2).all(|two| two[0].gated_ms <= Some(two[1].begun_ms)),
        "{nodes:?}"
    );
    assert_eq!(report.mixed.len(), 1, "{:?}", report.mixed);
    assert_eq!(report.mixed[0].versions, ["0.1.0", NEW]);
    assert!(report.mixed[0].to_ms > Some(report.mixed[0].from_ms));
    assert_eq!(report.steps[0].seen, "4 of 4 nodes moved to 0.2.0");
    // What a node runs is what the backend started, not what was asked.
    let started = |stamped: &Stamped| match &stamped.record {
        Record::Node {
            event: NodeEvent::Started {
                version, generation, ..
            },
            ..
        } if *generation > 1 => Some(version.clone()),
        _ => None,
    };
    assert_eq!(ended.records.iter().filter_map(started).collect::<Vec<_>>(), [NEW; 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_halts_the_chain_is_one_moment() {
    let ended = run_wrong(plan_of(&[&[0, 1, 2, 3]], OnFailure::Stop), |_| {}).await;
    let report = &ended.finished.report;
    assert_eq!(report.verdict, Verdict::Passed, "{:?}", report.findings);
    assert!(
        report.mixed.iter().all(|mixed| mixed.to_ms.is_some()),
        "{:?}",
        report.mixed
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_ends_at_its_start_goes_back() {
    let plan = plan_of(&[&[0], &[1], &[2], &[3]], OnFailure::Rollback);
    let ended = run_wrong(plan, |memory| memory.flaw(None, NEW, Flaw::Dies)).await;
    let report = &ended.finished.report;
    assert_eq!(report.verdict, Verdict::ExpectationFailed, "{:?}", report.findings);
    assert_eq!(report.findings.len(), 1, "{:?}", report.findings);
    let finding = &report.findings[0];
    assert_eq!((finding.code.as_str(), finding.step), ("upgrade/exited", Some(0)));
    assert_eq!(finding.node.as_deref(), Some("validator-0"));
    assert!(finding.seen.contains("exited with code 1"), "{finding:?}");
    assert_eq!(
        moves(&ended),
        [("validator-0", NEW, false, false), ("validator-0", "0.1.0", true, true)]
    );
    assert_eq!(ended.memory.version("validator-0").as_deref(), Some("0.1.0"));
    assert_eq!(
        report.steps[1].state,
        StepEnd::Ok,
        "the network goes on: {:?}",
        report.steps
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_moved_goes_back_in_reverse() {
    let mut plan = plan_of(&[&[2], &[1], &[0]], OnFailure::Rollback);
    // The third node of the step is of a version of its own, and cannot be anything else.
    plan.network.nodes[0].version = "0.1.1".to_owned();
    plan.versions.insert("0.1.1".to_owned(), Version::default());
    let ended = run_wrong(plan, |memory| memory.flaw(Some("validator-0"), NEW, Flaw::Silent)).await;
    let report = &ended.finished.report;
    assert_eq!(report.verdict, Verdict::ExpectationFailed, "{:?}", report.findings);
    assert_eq!(report.findings[0].code, "upgrade/silent", "{:?}", report.findings);
    let back: Vec<_> = moves(&ended).into_iter().filter(|(_, _, back, _)| *back).collect();
    assert_eq!(
        back,
        [
            ("validator-0", "0.1.1", true, true),
            ("validator-1", "0.1.0", true, true),
            ("validator-2", "0.1.0", true, true),
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stands_still_does_not_pass_its_gate() {
    let mut plan = plan_of(&[&[0], &[1]], OnFailure::Stop);
    plan.steps[0].go_on = false;
    let ended = run_wrong(plan, |memory| memory.flaw(None, NEW, Flaw::Stands)).await;
    let report = &ended.finished.report;
    assert_eq!(report.verdict, Verdict::ExpectationFailed, "{:?}", report.findings);
    let finding = &report.findings[0];
    assert_eq!(finding.code, "upgrade/gate", "{finding:?}");
    assert_eq!(finding.node.as_deref(), Some("validator-0"));
    assert_eq!(moves(&ended).len(), 1, "nobody else is touched");
    assert_eq!(ended.memory.version("validator-1").as_deref(), Some("0.1.0"));
    assert_eq!(report.steps[1].state, StepEnd::NotReached);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_what_it_was_is_found_by_what_it_says() {
    let plan = plan_of(&[&[0], &[1]], OnFailure::Stop);
    let ended = run_wrong(plan, |memory| memory.tamper(Tamper::ReplaceNothing)).await;
    let report = &ended.finished.report;
    let finding = &report.findings[0];
    assert_eq!(finding.code, "upgrade/version", "{finding:?}");
    assert!(finding.seen.contains("it calls itself 0.1.0"), "{finding:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_way_back_may_fail_too() {
    let mut plan = plan_of(&[&[0], &[1]], OnFailure::Rollback);
    plan.steps.pop();
    let ended = run_wrong(plan, |memory| {
        memory.flaw(None, NEW, Flaw::Stands);
        memory.flaw(None, "0.1.0", Flaw::Dies);
    })
    .await;
    let report = &ended.finished.report;
    assert_eq!(report.verdict, Verdict::ExpectationFailed, "{:?}", report.findings);
    let codes: Vec<&str> = report.findings.iter().map(|finding| finding.code.as_str()).collect();
    assert_eq!(
        codes,
        ["upgrade/gate", "upgrade/rollback-failed"],
        "{:?}",
        report.findings
    );
    let failed = |stamped: &&Stamped| matches!(&stamped.record, Record::Upgrade { back: true, state: UpgradeState::Failed { code, .. }, .. } if code == "upgrade/rollback-failed");
    assert_eq!(ended.records.iter().filter(failed).count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_records_give_the_same_verdict_again() {
    let plan = plan_of(&[&[0], &[1]], OnFailure::Rollback);
    let ended = run_wrong(plan, |memory| memory.flaw(None, NEW, Flaw::Dies)).await;
    ended.verdict(Verdict::ExpectationFailed);
    ended.judged_again();
}

/// What happens to a node after its gate is no matter of the upgrade any more.
async fn run_and_after(plan: Plan, wrong: impl Fn(&Memory) + Send + Sync) -> Ended {
    run_with(plan, Tamper::None, |memory, _, event| {
        let gated = |record: &Record| {
            matches!(record, Record::Upgrade { state: UpgradeState::Gated { .. }, node, .. } if node == "validator-0")
        };
        if matches!(event, Event::Record(stamped) if gated(&stamped.record)) {
            wrong(memory);
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_ends_after_its_gate_is_found_for_itself() {
    let mut plan = plan_of(&[&[0]], OnFailure::Rollback);
    plan.limits.settle = Ms::secs(1);
    let ended = run_and_after(plan, |memory| memory.die("validator-0", 3)).await;
    ended.verdict(Verdict::LivenessFailed);
    let finding = &ended.finished.report.findings[0];
    assert_eq!(
        (finding.code.as_str(), finding.step),
        ("liveness/exit", None),
        "{finding:?}"
    );
    assert_eq!(ended.finished.report.steps[0].state, StepEnd::Ok);
    assert_eq!(
        ended.memory.version("validator-0").as_deref(),
        Some(NEW),
        "nothing goes back"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stands_still_after_its_gate_is_found_for_itself() {
    let mut plan = plan_of(&[&[0]], OnFailure::Rollback);
    plan.limits.settle = Ms::secs(1);
    // What does not change is recorded once a second, and three times have to be behind.
    plan.steps[1].action = progress(120);
    let ended = run_and_after(plan, |memory| memory.flaw(None, NEW, Flaw::Stands)).await;
    ended.verdict(Verdict::LivenessFailed);
    let finding = &ended.finished.report.findings[0];
    assert_eq!(finding.code, "liveness/lag", "{finding:?}");
    assert_eq!(finding.node.as_deref(), Some("validator-0"));
}
