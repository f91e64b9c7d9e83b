//! Faults that are over where another pod or container takes a target's place.

use trialnet::model::OnRestart;

use super::*;

fn dropping(action: Action) -> Action {
    let Action::Fault(fault) = action else { panic!() };
    Action::Fault(Fault {
        on_restart: OnRestart::Drop,
        ..fault
    })
}

fn isolate(node: &str) -> Action {
    let kind = FaultKind::Isolate { plane: Plane::P2p };
    fault("cut", kind, &[node], Lasts::UntilHealed)
}

fn delete(node: &str) -> Action {
    fault("gone", DELETED, &[node], Lasts::Platform)
}

/// The targets for which a fault was dropped, and what was seen then.
fn dropped(ended: &Ended, fault: &str) -> Vec<(Vec<String>, String)> {
    let dropped = |stamped: &Stamped| match &stamped.record {
        Record::Fault {
            id,
            state: FaultState::Dropped,
            targets,
            detail,
        } if id == fault => Some((targets.clone(), detail.clone())),
        _ => None,
    };
    ended.records.iter().filter_map(dropped).collect()
}

const DROPPED_LIFE: [FaultState; 6] = [
    FaultState::Planned,
    FaultState::Injected,
    FaultState::Verified,
    FaultState::Dropped,
    FaultState::Reverted,
    FaultState::RevertVerified,
];

#[tokio::test]
async fn a_cut_that_is_dropped_ends_with_the_pod_and_one_that_is_not_goes_on() {
    let steps = |cut: Action, rest: Action| {
        let steps = vec![
            ("cut", cut),
            ("gone", delete("validator-1")),
            (
                "",
                Action::Heal {
                    faults: vec!["gone".to_owned()],
                },
            ),
            ("", rest),
        ];
        pods(steps)
    };
    let ended = run(steps(dropping(isolate("validator-1")), recovery("cut")), Tamper::None).await;
    ended.verdict(Verdict::Passed);
    assert_eq!(ended.states("cut"), DROPPED_LIFE);
    let (targets, seen) = &dropped(&ended, "cut")[0];
    assert_eq!(targets, &["validator-1"]);
    assert!(seen.contains("pod"), "{seen}");
    let behind = Action::Expect(Expect {
        what: What::Lag(Bounds {
            at_least: Some(5),
            at_most: None,
        }),
        nodes: Some(vec!["validator-1".to_owned()]),
        window: Window::Within(Ms::secs(10)),
    });
    let ended = run(steps(isolate("validator-1"), behind), Tamper::None).await;
    ended.verdict(Verdict::Passed);
    assert_eq!(ended.states("cut"), WHOLE_LIFE);
}

#[tokio::test]
async fn who_is_paused_is_not_looked_at_once_the_platform_has_replaced_it() {
    let kind = || fault("frozen", FaultKind::Pause, &["validator-1"], Lasts::UntilHealed);
    let steps = |pause: Action| {
        let dead = fault("dead", FaultKind::Kill, &["validator-1"], Lasts::Platform);
        let steps = vec![
            ("frozen", pause),
            ("dead", dead),
            (
                "",
                Action::Heal {
                    faults: vec!["dead".to_owned()],
                },
            ),
            (
                "",
                Action::Heal {
                    faults: vec!["frozen".to_owned()],
                },
            ),
            ("", progress(2)),
        ];
        pods(steps)
    };
    let ended = run(steps(dropping(kind())), Tamper::None).await;
    ended.verdict(Verdict::Passed);
    assert_eq!(ended.states("frozen")[..4], DROPPED_LIFE[..4]);
    // Nobody pauses the next one, so that a pause that should have gone on has vanished.
    let ended = run(steps(kind()), Tamper::None).await;
    assert!(ended.codes().contains(&("infra/fault-no-effect", Some("validator-1"))));
    assert!(dropped(&ended, "frozen").is_empty());
}

#[tokio::test]
async fn it_goes_on_for_the_other_targets() {
    let kind = FaultKind::Stress(Stress {
        cpu: 1,
        ..Stress::default()
    });
    let busy = fault("busy", kind, &["validator-0", "validator-1"], Lasts::UntilHealed);
    let steps = vec![
        ("busy", dropping(busy)),
        ("gone", delete("validator-1")),
        (
            "",
            Action::Heal {
                faults: vec!["gone".to_owned()],
            },
        ),
        ("", progress(2)),
        (
            "",
            Action::Heal {
                faults: vec!["busy".to_owned()],
            },
        ),
        ("", recovery("busy")),
    ];
    let ended = run(pods(steps), Tamper::None).await;
    ended.verdict(Verdict::Passed);
    assert_eq!(ended.states("busy"), DROPPED_LIFE);
    let dropped = dropped(&ended, "busy");
    assert_eq!(dropped.len(), 1);
    assert_eq!(dropped[0].0, ["validator-1"]);
    let last = ended.records.iter().rev().find_map(|stamped| match &stamped.record {
        Record::Fault { id, state, targets, .. } if id == "busy" => Some((*state, targets.len())),
        _ => None,
    });
    assert_eq!(last, Some((FaultState::RevertVerified, 2)));
}
