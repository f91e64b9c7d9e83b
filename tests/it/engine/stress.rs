//! What is used beside the programs of nodes.

use futures::FutureExt;
use trialnet::backend::Deployer;

use super::*;

fn stress(id: &str, cpu: u32, memory: u64, targets: &[&str]) -> Action {
    fault(
        id,
        FaultKind::Stress(Stress {
            cpu,
            memory,
            fill: None,
            drops: false,
        }),
        targets,
        Lasts::UntilHealed,
    )
}

fn heal(id: &str) -> Action {
    Action::Heal {
        faults: vec![id.to_owned()],
    }
}

#[tokio::test]
async fn stress_adds_up_and_each_ends_by_itself() {
    let steps = vec![
        ("busy", stress("busy", 2, 0, &["validator-0"])),
        ("full", stress("full", 1, 64 << 20, &["validator-0", "validator-1"])),
        ("", heal("busy")),
        ("", progress(3)),
        ("", heal("full")),
        (
            "",
            expect(What::Recovery { of: "full".to_owned() }, Window::Within(Ms::secs(10))),
        ),
    ];
    let left = Mutex::new(Vec::new());
    let ended = run_with(plan(steps), Tamper::None, |memory, _, event| {
        if let Event::Record(Stamped {
            record: Record::Fault { id, state, .. },
            ..
        }) = event
            && *state == FaultState::Reverted
        {
            let ops = memory.ops();
            let on = |fault: &str| {
                let seen = ops.stressed("validator-0", fault).now_or_never().unwrap();
                seen.unwrap()[0].seen.is_some()
            };
            left.lock().unwrap().push((id.clone(), on("busy"), on("full")));
        }
    })
    .await;
    ended.verdict(Verdict::Passed);
    for id in ["busy", "full"] {
        assert_eq!(ended.states(id), WHOLE_LIFE, "{id}");
    }
    let left = left.into_inner().unwrap();
    let (busy, full) = ("busy".to_owned(), "full".to_owned());
    assert_eq!(left, [(busy, false, true), (full, false, false)]);
    let said = ended.verified();
    assert_eq!(said[0], "2 threads had 2.0 processors beside node of validator-0");
    assert!(
        said[1].starts_with("1 threads had 1.0 processors and 64 MiB are held"),
        "{said:?}"
    );
    assert!(said[1].contains("beside node of validator-1"), "{said:?}");
}

#[tokio::test]
async fn stress_that_uses_nothing_is_infrastructure() {
    let ended = run(
        plan(vec![
            ("busy", stress("busy", 2, 0, &["validator-0"])),
            ("", progress(3)),
        ]),
        Tamper::StressNothing,
    )
    .await;
    ended.verdict(Verdict::Infrastructure);
    assert_eq!(ended.codes()[0].0, "infra/fault-no-effect");
}

#[tokio::test]
async fn stress_that_ends_before_its_time_is_infrastructure() {
    let steps = vec![
        ("busy", stress("busy", 2, 0, &["validator-0"])),
        ("", progress(3)),
        ("", heal("busy")),
    ];
    let ended = run_with(plan(steps), Tamper::None, |memory, _, event| {
        if let Event::Record(Stamped {
            record: Record::Fault { state, .. },
            ..
        }) = event
            && *state == FaultState::Verified
        {
            let none = BTreeMap::new();
            let ops = memory.ops();
            ops.stress("validator-0", &none).now_or_never().unwrap().unwrap();
        }
    })
    .await;
    ended.verdict(Verdict::Infrastructure);
    assert_eq!(ended.codes()[0].0, "infra/fault-no-effect");
}

#[tokio::test]
async fn stress_that_cannot_be_ended_is_infrastructure() {
    let steps = vec![("busy", stress("busy", 2, 0, &["validator-0"])), ("", heal("busy"))];
    let ended = run(plan(steps), Tamper::StressForEver).await;
    ended.verdict(Verdict::Infrastructure);
    assert_eq!(ended.codes()[0].0, "infra/revert-failed");
}

#[tokio::test]
async fn who_ends_for_a_full_volume_is_started_when_there_is_room_again() {
    let full = |nodes: &[&str]| {
        let fill = Fill {
            percent: 100,
            size: 64 << 20,
        };
        fault("full", FaultKind::Fill(fill), nodes, Lasts::UntilHealed)
    };
    let recovery = expect(What::Recovery { of: "full".to_owned() }, Window::Within(Ms::secs(10)));
    let steps = vec![
        ("full", full(&["validator-0"])),
        ("", progress(3)),
        ("", heal("full")),
        ("", recovery),
    ];
    let ended = run(plan(steps), Tamper::None).await;
    ended.verdict(Verdict::Passed);
    assert_eq!(ended.states("full"), WHOLE_LIFE);
    assert_eq!(
        ended.verified()[0],
        "the volume is 100 % full beside node of validator-0"
    );
    let exited = |stamped: &Stamped| match &stamped.record {
        Record::Node { node, event } => matches!(event, NodeEvent::Exited { asked: false, .. }).then(|| node.clone()),
        _ => None,
    };
    let gone: BTreeSet<_> = ended.records.iter().filter_map(exited).collect();
    assert_eq!(gone, BTreeSet::from(["validator-0".to_owned()]), "nobody asked it to");
}
