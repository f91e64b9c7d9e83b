//! A green verdict needs evidence; and which verdict wins.

use super::*;

#[test]
fn a_run_in_which_nothing_grew_does_not_pass() {
    let mut plan = plan(4);
    plan.invariants.off.insert(Invariant::MaxStall);
    let mut sim = Sim::up(&plan);
    sim.live = false;
    sim.run(1000);
    let report = sim.tear_down();
    only(&report, "evidence/nothing-grew", Class::Inconclusive, None);
}

#[test]
fn heights_that_one_node_gave_are_not_covered() {
    let mut plan = plan(4);
    let mut sim = Sim::up(&plan);
    sim.run(2000);
    let report = sim.tear_down();
    passes(&report);

    // The hash of height 5 is only known from node 0.
    let mut sim = Sim::up(&plan);
    sim.run(4000);
    let strip = |record: &mut Record| match record {
        Record::Sample(sample) if sample.node != "validator-0" && sample.height == 5 => sample.hash.clear(),
        Record::Headers { node, headers, .. } if node != "validator-0" => headers.retain(|header| header.height != 5),
        _ => {}
    };
    let mut again = Sim::up(&plan);
    again.judge = Judge::new(&plan);
    let records = std::mem::take(&mut again.records);
    drop(records);
    for stamped in &sim.records {
        let mut record = stamped.record.clone();
        strip(&mut record);
        again.at = stamped.at.0;
        again.push(record);
    }
    let report = again.tear_down();
    let finding = only(&report, "evidence/coverage", Class::Inconclusive, None);
    assert_eq!(finding.height, Some(5));
    assert_eq!(report.coverage.compared + 1, report.coverage.of);
    plan.invariants.off.insert(Invariant::Coverage);
    let mut off = Judge::new(&plan);
    for record in &again.records {
        off.feed(record);
    }
    assert_eq!(off.report().verdict, Verdict::Passed);
}

#[test]
fn a_network_of_one_node_needs_no_comparison() {
    let mut sim = Sim::up(&plan(1));
    sim.run(2000);
    let report = sim.finish();
    assert_eq!(report.verdict, Verdict::Passed, "{:#?}", report.findings);
}

#[test]
fn a_node_without_a_sample_is_not_left_unsaid() {
    let mut sim = Sim::begin(&plan(4));
    sim.mode[3] = Mode::Mute(Silence::Timeout);
    sim.run(400);
    assert!(!sim.judge.is_ready());
    sim.push(Record::Ready);
    sim.run(1000);
    let report = sim.tear_down();
    only(&report, "evidence/unreachable", Class::Inconclusive, Some(3));
}

#[test]
fn no_sample_no_verdict() {
    let mut sim = Sim::begin(&plan(2));
    sim.push(Record::Ready);
    sim.at += 1000;
    let report = sim.tear_down();
    only(&report, "evidence/no-samples", Class::Inconclusive, None);
}

#[test]
fn without_ready_and_steps_nothing_passes() {
    let mut sim = Sim::begin(&plan(2));
    sim.run(1000);
    only(&sim.tear_down(), "evidence/not-ready", Class::Inconclusive, None);

    let mut plan = plan(2);
    plan.step(None, Action::Wait(Ms(100)));
    plan.with_expect(What::Progress { blocks: 1 }, None, Window::Within(Ms(1000)));
    let mut sim = Sim::up(&plan);
    sim.run(1000);
    let report = sim.finish();
    assert_eq!(report.verdict, Verdict::Inconclusive);
    let steps: Vec<_> = report
        .findings
        .iter()
        .map(|finding| (finding.code.as_str(), finding.step))
        .collect();
    assert_eq!(
        steps,
        [("evidence/not-evaluated", Some(0)), ("evidence/not-evaluated", Some(1))]
    );
    assert!(
        report
            .steps
            .iter()
            .all(|step| step.state == verdict::StepEnd::NotReached)
    );
}

#[test]
fn a_cut_off_file_is_interrupted() {
    let mut sim = Sim::up(&plan(4));
    sim.run(1000);
    only(&sim.report(), "run/cut-off", Class::Interrupted, None);
}

#[test]
fn what_a_probe_misses_in_a_network_that_is_being_removed_is_no_finding() {
    let verdict = |removing: bool| {
        let mut plan = plan(4);
        let kill = plan.with_fault("k", FaultKind::Kill, &[3], Lasts::UntilHealed);
        let mut sim = Sim::up(&plan);
        sim.run(1000);
        sim.began(kill);
        sim.fault("k", FaultState::Planned);
        sim.fault("k", FaultState::Injected);
        sim.push(Record::Interrupted {
            signal: "SIGTERM".to_owned(),
        });
        if removing {
            sim.push(Record::Phase(Phase::TearingDown));
        }
        sim.fault("k", FaultState::NoEffect);
        sim.tear_down().verdict
    };
    assert_eq!(verdict(true), Verdict::Interrupted);
    assert_eq!(verdict(false), Verdict::Infrastructure);
}

#[test]
fn an_interruption_does_not_hide_a_violation() {
    let mut sim = Sim::up(&plan(4));
    sim.run(1000);
    let signal = || Record::Interrupted {
        signal: "SIGINT".to_owned(),
    };
    sim.push(signal());
    only(&sim.tear_down(), "run/interrupted", Class::Interrupted, None);

    let mut sim = Sim::up(&plan(4));
    sim.lies.insert((1, 4), "X".to_owned());
    sim.run(1000);
    sim.push(signal());
    let report = sim.tear_down();
    assert_eq!(report.verdict, Verdict::SafetyViolated);
    assert_eq!(report.findings.len(), 2);
    assert_eq!(report.findings[0].code, "safety/fork");

    // During the teardown nothing is left to be judged.
    let mut sim = Sim::up(&plan(4));
    sim.run(1000);
    sim.push(Record::Phase(Phase::Settling));
    sim.run(2000);
    sim.push(Record::Phase(Phase::TearingDown));
    sim.push(signal());
    sim.push(Record::End);
    passes(&sim.report());
}

#[test]
fn what_is_seen_during_the_teardown_is_not_judged() {
    let mut sim = Sim::up(&plan(4));
    sim.run(1000);
    sim.push(Record::Phase(Phase::Settling));
    sim.run(2000);
    sim.push(Record::Phase(Phase::TearingDown));
    sim.exited(0, false);
    sim.mode[1] = Mode::Mute(Silence::Refused);
    sim.run(8000);
    sim.push(Record::End);
    passes(&sim.report());
}

#[test]
fn trouble_is_infrastructure() {
    let mut sim = Sim::up(&plan(4));
    sim.run(1000);
    sim.push(Record::Trouble {
        code: "infra/io".to_owned(),
        node: Some("validator-2".to_owned()),
        expected: "a file".to_owned(),
        seen: "no space left".to_owned(),
    });
    only(&sim.tear_down(), "infra/io", Class::Infrastructure, Some(2));
}

#[test]
fn nodes_that_die_with_the_guard_are_not_the_chains_fault() {
    let mut plan = plan(4);
    let step = plan.with_expect(What::Progress { blocks: 500 }, None, Window::Within(Ms(3000)));
    let mut sim = Sim::up(&plan);
    sim.began(step);
    sim.run(1000);
    sim.push(Record::Trouble {
        code: "infra/guard-died".to_owned(),
        node: None,
        expected: "a guard".to_owned(),
        seen: "it was killed".to_owned(),
    });
    sim.exited(0, false);
    sim.live = false;
    sim.mode = vec![Mode::Mute(Silence::Refused); 4];
    sim.run(6000);
    let report = sim.tear_down();
    only(&report, "infra/guard-died", Class::Infrastructure, None);
    assert!(matches!(sim.judge.answer(step), Answer::Inconclusive(_)));
}

#[test]
fn a_step_that_could_not_be_done_carries_its_class() {
    let mut plan = plan(4);
    plan.step(Some("w"), Action::Wait(Ms(1)));
    let mut sim = Sim::up(&plan);
    sim.began(0);
    sim.run(400);
    sim.push(Record::Step {
        step: 0,
        state: StepState::Failed {
            code: "run/limit".to_owned(),
            class: Class::ExpectationFailed,
            expected: "an end".to_owned(),
            seen: "none".to_owned(),
        },
    });
    let report = sim.tear_down();
    assert_eq!(only(&report, "run/limit", Class::ExpectationFailed, None).step, Some(0));
    assert_eq!(report.steps[0].state, verdict::StepEnd::Failed);
    assert_eq!(report.steps[0].title, "w");
}

#[test]
fn a_fault_that_nobody_verified_leaves_a_doubt() {
    let mut plan = plan(4);
    let kill = plan.with_fault("k", FaultKind::Pause, &[0], Lasts::For(Ms(500)));
    let mut sim = Sim::up(&plan);
    sim.began(kill);
    sim.fault("k", FaultState::Planned);
    sim.fault("k", FaultState::Injected);
    sim.ended(kill);
    sim.run(1000);
    sim.revert("k");
    let report = sim.finish();
    only(&report, "evidence/fault-unverified", Class::Inconclusive, None);
}

#[test]
fn a_revert_that_nobody_verified_leaves_a_doubt() {
    let mut plan = plan(4);
    let kill = plan.with_fault("k", FaultKind::Pause, &[0], Lasts::For(Ms(500)));
    let mut sim = Sim::up(&plan);
    sim.inject(kill);
    sim.run(600);
    sim.fault("k", FaultState::Reverted);
    sim.run(400);
    sim.push(Record::Phase(Phase::Settling));
    sim.run(400);
    assert!(sim.judge.settled().unwrap_err().contains("the revert of \"k\""));
    let report = sim.tear_down();
    caught(&report, "evidence/revert-unverified", Class::Inconclusive, None);
}

#[test]
fn a_node_of_another_chain_is_noticed() {
    let mut sim = Sim::up(&plan(4));
    sim.run(1000);
    sim.push(Record::Sample(Sample {
        node: "validator-3".to_owned(),
        sent: Ms(sim.at + 1),
        took: Ms(1),
        height: 6,
        hash: String::new(),
        catching_up: false,
        version: "1".to_owned(),
        chain: "another".to_owned(),
    }));
    let report = sim.finish();
    assert!(
        report
            .findings
            .iter()
            .any(|finding| finding.code == "infra/other-chain")
    );
}

#[test]
fn the_end_can_be_awaited() {
    let mut sim = Sim::up(&plan(4));
    sim.run(1000);
    assert!(sim.judge.settled().is_err());
    sim.push(Record::Phase(Phase::Settling));
    assert!(sim.judge.settled().is_err());
    sim.run(800);
    assert_eq!(sim.judge.settled(), Ok(()));
    assert!(sim.judge.next_due().is_some());
    passes(&sim.tear_down());
}

#[test]
fn a_fault_that_nobody_ended_leaves_a_doubt() {
    let mut plan = plan(4);
    let pause = plan.with_fault(
        "k",
        FaultKind::Misbehave {
            how: "h".to_owned(),
            byzantine: false,
        },
        &[0],
        Lasts::For(Ms(500)),
    );
    let mut sim = Sim::up(&plan);
    sim.inject(pause);
    sim.run(2000);
    sim.push(Record::Phase(Phase::Settling));
    sim.run(5400);
    only(
        &sim.tear_down(),
        "evidence/revert-unverified",
        Class::Inconclusive,
        None,
    );
}

#[test]
fn application_states_that_nobody_gave_are_missed() {
    let played = |plan: &Plan, time: u64, states: bool| {
        let mut sim = Sim::begin(plan);
        sim.states = states;
        sim.ready();
        sim.run(time);
        sim
    };
    let mut four = plan(4);
    let report = played(&four, 5000, false).tear_down();
    let finding = only(&report, "evidence/app-state", Class::Inconclusive, None);
    assert_eq!(finding.height, Some(27));
    assert_eq!(report.coverage.app_states, 0);

    let report = played(&four, 5000, true).finish();
    passes(&report);
    assert!(report.coverage.app_states > 20, "{:?}", report.coverage);

    // Each node at heights of its own: by chance nothing could be compared.
    let mut sim = played(&four, 5000, false);
    (0..4).for_each(|i| sim.state(i, 20 + i as u64, "S"));
    let report = sim.finish();
    passes(&report);
    assert_eq!(report.coverage.app_states, 0);

    // Too short, nothing to compare with, not asked for.
    passes(&played(&four, 1000, false).tear_down());
    assert_eq!(played(&plan(1), 5000, false).finish().verdict, Verdict::Passed);
    four.invariants.off.insert(Invariant::AppState);
    passes(&played(&four, 5000, false).finish());
}
