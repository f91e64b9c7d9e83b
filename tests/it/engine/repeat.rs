//! Faults that a step repeats.

use super::*;

/// A plan whose first step strikes validator-1 again and again, so many milliseconds after the first time.
fn repeated(lasts: Lasts, after: &[u64], rest: Vec<(&'static str, Action)>) -> Plan {
    let first = fault("crash", FaultKind::Kill, &["validator-1"], lasts);
    let Action::Fault(again) = first.clone() else {
        unreachable!("it is a fault")
    };
    let mut steps = vec![("crash", first)];
    steps.extend(rest);
    let mut plan = plan(steps);
    let repeat = |(index, after): (usize, &u64)| Repeat {
        step: 0,
        after: Ms(*after),
        fault: Fault {
            id: format!("crash.{}", index + 2),
            ..again.clone()
        },
    };
    plan.repeats = after.iter().enumerate().map(repeat).collect();
    plan
}

fn recovery() -> Action {
    let of = "crash".to_owned();
    expect(What::Recovery { of }, Window::Within(Ms::secs(10)))
}

/// When a fault came to a state.
fn at(ended: &Ended, fault: &str, wanted: FaultState) -> Ms {
    let found = ended
        .records
        .iter()
        .find(|stamped| matches!(&stamped.record, Record::Fault { id, state, .. } if id == fault && *state == wanted));
    found.unwrap_or_else(|| panic!("{fault} was never {wanted:?}")).at
}

const ON: Lasts = Lasts::For(Ms(300));

#[tokio::test]
async fn each_time_has_its_whole_life_and_recovery_comes_after_the_last() {
    let plan = repeated(ON, &[1_500, 3_000], vec![("", recovery()), ("", progress(2))]);
    let ended = run(plan, Tamper::None).await;
    ended.verdict(Verdict::Passed);
    // The times run from the first effect, which comes after this.
    let first = at(&ended, "crash", FaultState::Planned);
    for (id, after) in [("crash", 0), ("crash.2", 1_500), ("crash.3", 3_000)] {
        assert_eq!(ended.states(id), WHOLE_LIFE, "{id}");
        let begun = at(&ended, id, FaultState::Planned);
        assert!(begun.since(first) >= Ms(after), "{id} at {begun}, the first at {first}");
    }
    let report = &ended.finished.report;
    let over = report.faults[2].revert_verified_ms.unwrap();
    assert!(report.steps[1].ended_ms.unwrap() >= over, "{report:#?}");
    assert!(
        report.faults.iter().all(|fault| fault.recovery_ms.is_some()),
        "{report:#?}"
    );
}

#[tokio::test]
async fn what_the_file_says_is_done_although_no_step_waits_for_it() {
    let ended = run(repeated(ON, &[2_000], vec![("", progress(1))]), Tamper::None).await;
    ended.verdict(Verdict::Passed);
    assert_eq!(ended.states("crash.2"), WHOLE_LIFE);
}

#[tokio::test]
async fn a_heal_ends_the_series() {
    let heal = Action::Heal {
        faults: vec!["crash".to_owned()],
    };
    // Healed while the second is on, which would last longer than the run may.
    let wait = Action::Wait(Ms(2_500));
    let mut plan = repeated(ON, &[1_500, 9_000], vec![("", wait), ("", heal), ("", recovery())]);
    plan.repeats[0].fault.lasts = Lasts::For(Ms::secs(60));
    let ended = run(plan, Tamper::None).await;
    ended.verdict(Verdict::Passed);
    assert_eq!(ended.states("crash"), WHOLE_LIFE);
    assert_eq!(ended.states("crash.2"), WHOLE_LIFE);
    assert_eq!(ended.states("crash.3"), [FaultState::Skipped]);
    let why = ended.finished.report.faults[2].skipped.clone();
    assert_eq!(why.as_deref(), Some("it was healed before its time"));
}

#[tokio::test]
async fn two_of_a_series_are_never_on_at_once() {
    let plan = repeated(Lasts::For(Ms(1_500)), &[300], vec![("", recovery())]);
    let ended = run(plan, Tamper::None).await;
    ended.verdict(Verdict::Passed);
    let over = at(&ended, "crash", FaultState::RevertVerified);
    assert!(at(&ended, "crash.2", FaultState::Planned) >= over);
}

#[tokio::test]
async fn a_time_that_comes_far_too_late_is_infrastructure() {
    let plan = repeated(Lasts::For(Ms::secs(20)), &[300], vec![("", Action::Wait(Ms::secs(8)))]);
    let ended = run(plan, Tamper::None).await;
    ended.verdict(Verdict::Infrastructure);
    assert_eq!(ended.codes(), [("infra/repeat-late", None)]);
    assert_eq!(ended.states("crash.2"), []);
}

#[tokio::test]
async fn what_ends_the_steps_ends_the_series() {
    let height = Bounds {
        at_least: Some(100_000),
        at_most: None,
    };
    let never = expect(What::Height(height), Window::Within(Ms(1_000)));
    let ended = run(repeated(ON, &[3_000], vec![("", never)]), Tamper::None).await;
    ended.verdict(Verdict::ExpectationFailed);
    assert_eq!(ended.states("crash.2"), []);
}

#[tokio::test]
async fn a_time_without_effect_is_infrastructure() {
    let ended = run_with(
        repeated(ON, &[1_500, 3_000], vec![("", recovery())]),
        Tamper::None,
        |memory, _, event| {
            // From the first recovery of the process on the injector does nothing.
            if let Event::Record(Stamped {
                record: Record::Fault { id, state, .. },
                ..
            }) = event
                && id == "crash"
                && *state == FaultState::RevertVerified
            {
                memory.tamper(Tamper::KillNothing);
            }
        },
    )
    .await;
    ended.verdict(Verdict::Infrastructure);
    assert_eq!(ended.codes(), [("infra/fault-no-effect", Some("validator-1"))]);
    assert_eq!(ended.states("crash.3"), []);
}
