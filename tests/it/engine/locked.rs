//! Volumes that nobody can write to.

use super::*;

fn locked(lasts: Lasts) -> Action {
    fault("locked", FaultKind::ReadOnly, &["validator-1"], lasts)
}

fn heal() -> Action {
    Action::Heal {
        faults: vec!["locked".to_owned()],
    }
}

#[tokio::test]
async fn who_cannot_write_and_has_ended_is_started_when_it_can() {
    for (lasts, healed) in [(Lasts::UntilHealed, true), (Lasts::For(Ms::secs(2)), false)] {
        let mut steps = vec![("locked", locked(lasts)), ("", progress(3))];
        if healed {
            steps.push(("", heal()));
        }
        steps.push(("", recovery("locked")));
        let ended = run(plan(steps), Tamper::None).await;
        ended.verdict(Verdict::Passed);
        assert_eq!(ended.states("locked"), WHOLE_LIFE);
        assert_eq!(
            ended.verified(),
            ["read-only mount, no file can be made (Read-only file system) beside node of validator-1"]
        );
    }
}

#[tokio::test]
async fn a_volume_that_can_still_be_written_to_is_infrastructure() {
    let steps = vec![("locked", locked(Lasts::UntilHealed)), ("", progress(3))];
    let ended = run(plan(steps), Tamper::StressNothing).await;
    ended.verdict(Verdict::Infrastructure);
    let (code, node) = ended.codes()[0];
    assert_eq!((code, node), ("infra/fault-no-effect", Some("validator-1")));
    let seen = &ended.finished.report.findings[0].seen;
    assert!(seen.contains("mounted writable, and a file can be made"), "{seen}");
}
