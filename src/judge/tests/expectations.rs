//! `expect` steps: each kind both ways.

use super::*;
use crate::record::TxEvent;

fn one(what: What, nodes: Option<&[usize]>, window: Window) -> Plan {
    let mut plan = plan(4);
    plan.with_expect(what, nodes, window);
    plan
}

/// A run of this plan with one expectation that is looked at after `time`.
fn after(plan: &Plan, time: u64, prepare: impl FnOnce(&mut Sim)) -> (Answer, Report) {
    let mut sim = Sim::up(plan);
    prepare(&mut sim);
    let answer = sim.expect(0, time);
    let report = if matches!(answer, Answer::Met(_)) {
        sim.finish()
    } else {
        sim.tear_down()
    };
    (answer, report)
}

#[test]
fn height_within() {
    let plan = one(What::Height(at_least(10)), None, Window::Within(Ms(2000)));
    let (answer, report) = after(&plan, 1800, |_| {});
    assert!(matches!(answer, Answer::Met(_)), "{answer:?}");
    passes(&report);
    let (answer, report) = after(&plan, 2200, |sim| sim.live = false);
    assert!(matches!(answer, Answer::Failed(_)), "{answer:?}");
    let finding = only(&report, "expect/height", Class::ExpectationFailed, None);
    assert_eq!((finding.step, finding.height, finding.since_ms), (Some(0), Some(2), 0));
}

#[test]
fn height_of_nodes_names_the_node() {
    let plan = one(What::Height(at_least(10)), Some(&[0, 2]), Window::Within(Ms(2000)));
    let (_, report) = after(&plan, 2200, |sim| sim.mode[2] = Mode::Stays);
    let all: Vec<_> = report
        .findings
        .iter()
        .filter(|finding| finding.code == "expect/height")
        .collect();
    assert_eq!(all.len(), 1);
    assert_eq!(all[0].node.as_deref(), Some("validator-2"));
    // Node 1 is not asked about.
    let (answer, _) = after(&plan, 2000, |sim| sim.mode[1] = Mode::Stays);
    assert!(matches!(answer, Answer::Met(_)));
}

#[test]
fn now_is_the_first_complete_observation() {
    let plan = one(What::Height(at_most(3)), Some(&[0, 1]), Window::Now);
    let mut sim = Sim::up(&plan);
    sim.began(0);
    assert!(matches!(sim.judge.answer(0), Answer::Pending(_)));
    sim.run(200);
    assert!(
        matches!(sim.judge.answer(0), Answer::Met(_)),
        "{:?}",
        sim.judge.answer(0)
    );
    sim.ended(0);
    sim.run(1000);
    passes(&sim.finish());

    let mut sim = Sim::up(&plan);
    sim.run(1000);
    sim.began(0);
    sim.run(200);
    sim.ended(0);
    caught(&sim.tear_down(), "expect/height", Class::ExpectationFailed, Some(0));
}

#[test]
fn all_the_time_fails_at_the_first_breach() {
    let plan = one(What::Height(at_most(20)), None, Window::For(Ms(3000)));
    let (answer, report) = after(&plan, 3400, |_| {});
    assert!(matches!(answer, Answer::Met(_)), "{answer:?}");
    passes(&report);
    let (answer, _) = after(&plan, 1000, |sim| sim.run(3400));
    assert!(matches!(answer, Answer::Failed(_)), "{answer:?}");
}

#[test]
fn all_the_time_needs_all_of_the_time() {
    let plan = one(What::Height(at_least(1)), Some(&[2]), Window::For(Ms(8000)));
    let mut sim = Sim::up(&plan);
    sim.began(0);
    sim.mode[2] = Mode::Unseen;
    sim.run(3400);
    sim.mode[2] = Mode::Follows;
    sim.run(5000);
    assert!(
        matches!(sim.judge.answer(0), Answer::Inconclusive(_)),
        "{:?}",
        sim.judge.answer(0)
    );
    sim.ended(0);
    let report = sim.finish();
    assert_eq!(report.verdict, Verdict::Inconclusive);
    assert!(
        report
            .findings
            .iter()
            .any(|finding| finding.code == "evidence/not-evaluated")
    );
}

#[test]
fn never_is_judged_to_the_end() {
    let plan = one(What::Height(at_least(30)), None, Window::Never);
    for (time, met) in [(1000, true), (8000, false)] {
        let mut sim = Sim::up(&plan);
        sim.began(0);
        sim.ended(0);
        assert!(matches!(sim.judge.answer(0), Answer::Pending(_)));
        sim.run(time);
        let report = sim.finish();
        if met {
            passes(&report);
        } else {
            assert_eq!(
                caught(&report, "expect/height", Class::ExpectationFailed, None).height,
                Some(30)
            );
        }
    }
}

#[test]
fn progress_counts_from_the_begin() {
    let plan = one(What::Progress { blocks: 5 }, None, Window::Within(Ms(2000)));
    let (answer, report) = after(&plan, 1000, |sim| sim.run(1000));
    assert!(matches!(answer, Answer::Met(_)), "{answer:?}");
    passes(&report);
    let (answer, report) = after(&plan, 2200, |sim| sim.live = false);
    assert!(matches!(answer, Answer::Failed(_)));
    only(&report, "expect/progress", Class::LivenessFailed, None);
}

#[test]
fn progress_without_observation_is_not_evaluated() {
    let plan = one(What::Progress { blocks: 5 }, None, Window::Within(Ms(2000)));
    let (answer, report) = after(&plan, 2200, |sim| sim.mode = vec![Mode::Unseen; 4]);
    assert!(matches!(answer, Answer::Inconclusive(_)), "{answer:?}");
    caught(&report, "evidence/not-evaluated", Class::Inconclusive, None);
}

#[test]
fn progress_while_starved_is_inconclusive() {
    let plan = one(What::Progress { blocks: 5 }, None, Window::Within(Ms(2000)));
    let mut sim = Sim::up(&plan);
    sim.live = false;
    sim.began(0);
    sim.push(Record::Late {
        by: Ms(900),
        interval: Ms(200),
    });
    sim.run(2200);
    assert!(matches!(sim.judge.answer(0), Answer::Inconclusive(_)));
    caught(&sim.tear_down(), "evidence/starved", Class::Inconclusive, None);
}

/// A partition 2 | 2; after one more block that was under way the chain stands still, or does not.
fn halt(grows: bool, state: Option<FaultState>) -> (Answer, Report) {
    let mut plan = plan(4);
    let split = plan.with_split("split", &[&[0, 1], &[2, 3]]);
    let halt = plan.with_expect(What::Halt { of: "split".to_owned() }, None, Window::For(Ms(3000)));
    let heal = plan.with_heal("split");
    let back = plan.with_expect(
        What::Recovery { of: "split".to_owned() },
        None,
        Window::Within(Ms(5000)),
    );
    let mut sim = Sim::up(&plan);
    sim.run(1000);
    sim.inject(split);
    sim.run(200);
    sim.live = grows;
    let mut answer = sim.expect(halt, if grows { 1000 } else { 4600 });
    if let Some(state) = state {
        sim.fault("split", state);
        answer = sim.judge.answer(halt);
    }
    if !matches!(answer, Answer::Met(_)) {
        return (answer, sim.tear_down());
    }
    sim.began(heal);
    sim.live = true;
    sim.revert("split");
    sim.ended(heal);
    let recovered = sim.expect(back, 2000);
    assert!(matches!(recovered, Answer::Met(_)), "{recovered:?}");
    (answer, sim.finish())
}

#[test]
fn a_halt_is_no_growth_anywhere() {
    let (answer, report) = halt(false, None);
    assert!(matches!(answer, Answer::Met(_)), "{answer:?}");
    passes(&report);
    assert!(report.faults[0].recovery_ms.is_some());
}

/// Who was dropped by a fault is held by it no longer, and can be seen to recover from another.
#[test]
fn a_node_that_was_dropped_recovers() {
    for dropped in [false, true] {
        let mut plan = plan(4);
        let stress = crate::model::Stress {
            cpu: 1,
            ..crate::model::Stress::default()
        };
        let busy = plan.with_fault("busy", FaultKind::Stress(stress), &[2, 3], Lasts::UntilHealed);
        let dead = plan.with_fault("dead", FaultKind::Kill, &[3], Lasts::For(Ms(1000)));
        let of = "dead".to_owned();
        let back = plan.with_expect(What::Recovery { of }, None, Window::Within(Ms(4000)));
        let mut sim = Sim::up(&plan);
        sim.run(1000);
        sim.inject(busy);
        sim.kill(dead, 3);
        if dropped {
            sim.push(Record::Fault {
                id: "busy".to_owned(),
                state: FaultState::Dropped,
                targets: vec!["validator-3".to_owned()],
                detail: "another pod".to_owned(),
            });
        }
        sim.run(1000);
        sim.restart("dead", 3);
        let answer = sim.expect(back, 3000);
        assert_eq!(matches!(answer, Answer::Met(_)), dropped, "{answer:?}");
    }
}

#[test]
fn growth_without_a_quorum_is_a_violation() {
    let (answer, report) = halt(true, None);
    assert!(matches!(answer, Answer::Failed(_)), "{answer:?}");
    let finding = only(&report, "safety/grew-without-quorum", Class::SafetyViolated, Some(0));
    assert_eq!(
        (finding.step, finding.faults.as_slice()),
        (Some(1), &["split".to_owned()][..])
    );
    assert!(finding.height.is_some());
}

#[test]
fn a_halt_under_a_fault_without_effect_is_inconclusive() {
    let (answer, report) = halt(true, Some(FaultState::NoEffect));
    assert!(matches!(answer, Answer::Inconclusive(_)), "{answer:?}");
    assert_eq!(report.verdict, Verdict::Infrastructure, "{:#?}", report.findings);
    assert_eq!(report.steps[1].state, verdict::StepEnd::Inconclusive);
    let (answer, report) = halt(false, Some(FaultState::NoEffect));
    assert!(matches!(answer, Answer::Inconclusive(_)), "{answer:?}");
    caught(&report, "infra/fault-no-effect", Class::Infrastructure, None);
}

#[test]
fn a_halt_where_a_quorum_is_left_is_a_wrong_expectation() {
    let mut plan = plan(4);
    let split = plan.with_split("split", &[&[0, 1, 2], &[3]]);
    let halt = plan.with_expect(What::Halt { of: "split".to_owned() }, None, Window::For(Ms(2000)));
    let mut sim = Sim::up(&plan);
    sim.run(1000);
    sim.inject(split);
    sim.mode[3] = Mode::Stays;
    let answer = sim.expect(halt, 2000);
    assert!(matches!(answer, Answer::Failed(_)), "{answer:?}");
    caught(&sim.tear_down(), "expect/halt", Class::ExpectationFailed, Some(0));
}

#[test]
fn a_fault_that_ends_too_early_leaves_a_halt_undecided() {
    let mut plan = plan(4);
    let kill = plan.with_fault("k", FaultKind::Pause, &[2, 3], Lasts::For(Ms(2000)));
    let halt = plan.with_expect(What::Halt { of: "k".to_owned() }, None, Window::For(Ms(4000)));
    let mut sim = Sim::up(&plan);
    sim.inject(kill);
    sim.live = false;
    sim.mode[2] = Mode::Mute(Silence::Timeout);
    sim.mode[3] = Mode::Mute(Silence::Timeout);
    let answer = sim.expect(halt, 2200);
    assert!(matches!(answer, Answer::Inconclusive(_)), "{answer:?}");
}

#[test]
fn recovery_is_all_targets_with_the_others() {
    for (returns, within) in [(true, 4000), (false, 4000)] {
        let mut plan = plan(4);
        let kill = plan.with_fault("k", FaultKind::Kill, &[0], Lasts::For(Ms(2000)));
        let back = plan.with_expect(What::Recovery { of: "k".to_owned() }, None, Window::Within(Ms(within)));
        let mut sim = Sim::up(&plan);
        sim.kill(kill, 0);
        sim.run(2000);
        sim.restart("k", 0);
        if !returns {
            sim.mode[0] = Mode::Stays;
        }
        let answer = sim.expect(back, 4200);
        if returns {
            assert!(matches!(answer, Answer::Met(_)), "{answer:?}");
            passes(&sim.finish());
        } else {
            assert!(matches!(answer, Answer::Failed(_)), "{answer:?}");
            let report = sim.tear_down();
            let finding = caught(&report, "expect/recovery", Class::LivenessFailed, Some(0));
            assert_eq!(finding.height, Some(2));
        }
    }
}

#[test]
fn recovery_waits_for_a_revert_only_so_long() {
    let mut plan = plan(4);
    let kill = plan.with_fault("k", FaultKind::Kill, &[0], Lasts::UntilHealed);
    let back = plan.with_expect(What::Recovery { of: "k".to_owned() }, None, Window::Within(Ms(2000)));
    let mut sim = Sim::up(&plan);
    sim.kill(kill, 0);
    let answer = sim.expect(back, 2200);
    assert!(matches!(answer, Answer::Failed(_)), "{answer:?}");
    caught(&sim.tear_down(), "expect/recovery", Class::LivenessFailed, Some(0));
}

#[test]
fn recovery_of_a_timed_fault_counts_from_its_end() {
    let mut plan = plan(4);
    let isolate = FaultKind::Isolate { plane: Plane::P2p };
    let cut = plan.with_fault("c", isolate, &[0], Lasts::For(Ms(4000)));
    let back = plan.with_expect(What::Recovery { of: "c".to_owned() }, None, Window::Within(Ms(2000)));
    let mut sim = Sim::up(&plan);
    sim.inject(cut);
    sim.mode[0] = Mode::Stays;
    // The step's own limit is over, and the fault is still on as it has to be.
    let answer = sim.expect(back, 3000);
    assert!(matches!(answer, Answer::Pending(_)), "{answer:?}");
    sim.run(1000);
    sim.fault("c", FaultState::Reverted);
    // Whether the links carry bytes again is not the chain's to show.
    sim.run(3000);
    assert!(matches!(sim.judge.answer(back), Answer::Pending(_)));
    sim.fault("c", FaultState::RevertVerified);
    sim.run(2200);
    let answer = sim.judge.answer(back);
    assert!(matches!(answer, Answer::Failed(_)), "{answer:?}");
    caught(&sim.tear_down(), "expect/recovery", Class::LivenessFailed, Some(0));
}

#[test]
fn a_step_that_fails_for_its_fault_is_one_finding() {
    let mut plan = plan(4);
    let kill = plan.with_fault("k", FaultKind::Kill, &[0], Lasts::UntilHealed);
    let mut sim = Sim::up(&plan);
    sim.run(500);
    sim.began(kill);
    sim.fault("k", FaultState::Planned);
    sim.fault("k", FaultState::Injected);
    sim.fault("k", FaultState::NoEffect);
    sim.push(Record::Step {
        step: kill,
        state: StepState::Failed {
            code: "infra/fault-failed".to_owned(),
            class: Class::Infrastructure,
            expected: "its effect is seen".to_owned(),
            seen: "it is not".to_owned(),
        },
    });
    only(
        &sim.tear_down(),
        "infra/fault-no-effect",
        Class::Infrastructure,
        Some(0),
    );
}

#[test]
fn what_follows_a_revert_that_failed_is_inconclusive() {
    let mut plan = plan(4);
    let cut = plan.with_fault("c", FaultKind::Isolate { plane: Plane::P2p }, &[0], Lasts::UntilHealed);
    let heal = plan.with_heal("c");
    let back = plan.with_expect(What::Recovery { of: "c".to_owned() }, None, Window::Within(Ms(2000)));
    let mut sim = Sim::up(&plan);
    sim.inject(cut);
    sim.mode[0] = Mode::Stays;
    sim.run(2000);
    sim.began(heal);
    sim.fault("c", FaultState::Reverted);
    sim.fault("c", FaultState::RevertFailed);
    sim.ended(heal);
    let answer = sim.expect(back, 2200);
    assert!(matches!(answer, Answer::Inconclusive(_)), "{answer:?}");
    caught(&sim.tear_down(), "infra/revert-failed", Class::Infrastructure, Some(0));
}

#[test]
fn lag_peers_version_and_restarts() {
    let cases: [(What, What, &str); 4] = [
        (What::Lag(at_most(2)), What::Lag(at_least(2)), "expect/lag"),
        (What::Peers(at_least(3)), What::Peers(at_least(4)), "expect/peers"),
        (
            What::Version { is: "named".to_owned() },
            What::Version { is: "2".to_owned() },
            "expect/version",
        ),
        (
            What::Restarts(at_most(0)),
            What::Restarts(at_least(1)),
            "expect/restarts",
        ),
    ];
    for (right, wrong, code) in cases {
        for (what, holds) in [(right, true), (wrong, false)] {
            for window in [Window::Now, Window::Within(Ms(2000)), Window::For(Ms(2000))] {
                let mut plan = one(what.clone(), None, window);
                let named = Version {
                    reports: Some("1".to_owned()),
                    ..Version::default()
                };
                plan.versions.insert("named".to_owned(), named);
                let (answer, report) = after(&plan, 3000, |sim| {
                    for node in names(&[0, 1, 2, 3]) {
                        sim.push(Record::Peers {
                            node,
                            sent: Ms(sim.at),
                            count: 3,
                            names: Vec::new(),
                        });
                    }
                });
                if holds {
                    assert!(matches!(answer, Answer::Met(_)), "{what:?} {window:?}: {answer:?}");
                    passes(&report);
                } else {
                    assert!(matches!(answer, Answer::Failed(_)), "{what:?} {window:?}: {answer:?}");
                    only(&report, code, Class::ExpectationFailed, Some(0));
                }
            }
        }
    }
}

#[test]
fn validators_as_the_nodes_report_them() {
    let powers: BTreeMap<String, u64> = names(&[0, 1, 2, 3]).into_iter().map(|name| (name, 10)).collect();
    let right = What::Validators {
        count: Some(4),
        powers: [("validator-1".to_owned(), 10)].into(),
    };
    let wrong = What::Validators {
        count: None,
        powers: [("validator-1".to_owned(), 11)].into(),
    };
    for (what, holds) in [(right, true), (wrong, false)] {
        let plan = one(what, Some(&[0, 1]), Window::Within(Ms(2000)));
        let (answer, report) = after(&plan, 2200, |sim| {
            for node in names(&[0, 1, 2, 3]) {
                sim.push(Record::Validators {
                    node,
                    sent: Ms(sim.at),
                    height: 1,
                    powers: powers.clone(),
                });
            }
        });
        if holds {
            assert!(matches!(answer, Answer::Met(_)), "{answer:?}");
        } else {
            only(&report, "expect/validators", Class::ExpectationFailed, Some(0));
        }
    }
}

#[test]
fn a_log_line_counts_from_the_last_thing_that_was_done() {
    let line = |sim: &mut Sim| {
        sim.push(Record::Log {
            node: "validator-1".to_owned(),
            component: "node".to_owned(),
            pattern: "upgrade".to_owned(),
            line: "an upgrade is needed".to_owned(),
        });
    };
    let what = || What::Log {
        contains: "upgrade".to_owned(),
    };
    let mut plan = plan(4);
    let wait = plan.step(None, Action::Wait(Ms(200)));
    let log = plan.with_expect(what(), None, Window::Within(Ms(2000)));
    for (before, after, met) in [(false, true, true), (true, false, false)] {
        let mut sim = Sim::up(&plan);
        if before {
            line(&mut sim);
        }
        sim.run(200);
        sim.began(wait);
        if after {
            line(&mut sim);
        }
        sim.run(200);
        sim.ended(wait);
        let answer = sim.expect(log, 2200);
        assert_eq!(matches!(answer, Answer::Met(_)), met, "{answer:?}");
        if !met {
            only(&sim.tear_down(), "expect/log", Class::ExpectationFailed, Some(0));
        }
    }
    let never = one(what(), None, Window::Never);
    let mut sim = Sim::up(&never);
    sim.began(0);
    sim.ended(0);
    sim.run(1000);
    line(&mut sim);
    sim.run(1000);
    only(&sim.finish(), "expect/log", Class::ExpectationFailed, Some(1));
}

#[test]
fn a_transaction_is_committed_once_and_everywhere() {
    let commit = |sim: &mut Sim, i: usize, height, code| {
        sim.push(Record::Tx {
            id: "t".to_owned(),
            event: TxEvent::Committed {
                node: format!("validator-{i}"),
                height,
                code,
            },
        });
    };
    let plan = one(What::Tx { of: "t".to_owned() }, None, Window::Within(Ms(1000)));
    let (answer, report) = after(&plan, 1000, |sim| (0..4).for_each(|i| commit(sim, i, 3, 0)));
    assert!(matches!(answer, Answer::Met(_)), "{answer:?}");
    passes(&report);
    let (_, report) = after(&plan, 1200, |sim| (0..3).for_each(|i| commit(sim, i, 3, 0)));
    only(&report, "expect/tx", Class::ExpectationFailed, Some(3));
    // A refusal, another height, a code: no use waiting.
    let (answer, _) = after(&plan, 200, |sim| commit(sim, 1, 3, 2));
    assert!(matches!(answer, Answer::Failed(_)), "{answer:?}");
    let (answer, _) = after(&plan, 200, |sim| (0..4).for_each(|i| commit(sim, i, 3 + i as u64, 0)));
    assert!(matches!(answer, Answer::Failed(_)), "{answer:?}");
    let (answer, report) = after(&plan, 200, |sim| {
        sim.push(Record::Tx {
            id: "t".to_owned(),
            event: TxEvent::Refused {
                node: "validator-0".to_owned(),
                why: "code 2".to_owned(),
            },
        });
    });
    assert!(matches!(answer, Answer::Failed(_)), "{answer:?}");
    assert!(report.findings[0].seen.contains("code 2"));
}

#[test]
fn nodes_under_a_declared_fault_are_left_out_by_default() {
    let mut plan = plan(4);
    let kill = plan.with_fault("k", FaultKind::Kill, &[0], Lasts::UntilHealed);
    let lag = plan.with_expect(What::Lag(at_most(2)), None, Window::For(Ms(3000)));
    let mut sim = Sim::up(&plan);
    sim.kill(kill, 0);
    let answer = sim.expect(lag, 4200);
    assert!(matches!(answer, Answer::Met(_)), "{answer:?}");
    let report = sim.finish();
    passes(&report);
    assert_eq!(report.faults[0].revert_verified_ms, None);
}

/// A kill of node 0 for a second, and a recovery within two that is expected at once.
fn killed() -> (Plan, usize, usize) {
    let mut plan = plan(4);
    let kill = plan.with_fault("k", FaultKind::Kill, &[0], Lasts::For(Ms(1000)));
    let back = plan.with_expect(What::Recovery { of: "k".to_owned() }, None, Window::Within(Ms(2000)));
    (plan, kill, back)
}

#[test]
fn recovery_is_counted_from_the_verified_revert() {
    // The node takes four seconds to answer again; the chain is asked for its two seconds from then on.
    for (returns, met) in [(true, true), (false, false)] {
        let (plan, kill, back) = killed();
        let mut sim = Sim::up(&plan);
        sim.kill(kill, 0);
        sim.began(back);
        sim.run(4000);
        let answer = sim.judge.answer(back);
        assert!(matches!(answer, Answer::Pending(_)), "{answer:?}");
        sim.restart("k", 0);
        if !returns {
            sim.mode[0] = Mode::Stays;
        }
        sim.run(2400);
        let answer = sim.judge.answer(back);
        assert_eq!(matches!(answer, Answer::Met(_)), met, "{answer:?}");
        sim.ended(back);
        if met {
            passes(&sim.finish());
        } else {
            caught(&sim.tear_down(), "expect/recovery", Class::LivenessFailed, Some(0));
        }
    }
}

#[test]
fn a_revert_that_fails_late_is_not_the_chains_fault() {
    let (plan, kill, back) = killed();
    let mut sim = Sim::up(&plan);
    sim.kill(kill, 0);
    sim.began(back);
    sim.run(1000);
    sim.fault("k", FaultState::Reverted);
    sim.run(3000);
    sim.fault("k", FaultState::RevertFailed);
    let answer = sim.judge.answer(back);
    assert!(matches!(answer, Answer::Inconclusive(_)), "{answer:?}");
    sim.ended(back);
    sim.run(3000);
    let report = sim.tear_down();
    only(&report, "infra/revert-failed", Class::Infrastructure, Some(0));
    assert_eq!(report.steps[back].state, verdict::StepEnd::Inconclusive);
}

#[test]
fn recovery_waits_while_a_step_ends_the_fault() {
    let mut plan = plan(4);
    let kill = plan.with_fault("k", FaultKind::Kill, &[0], Lasts::UntilHealed);
    let heal = plan.with_heal("k");
    let back = plan.with_expect(What::Recovery { of: "k".to_owned() }, None, Window::Within(Ms(2000)));
    let mut sim = Sim::up(&plan);
    sim.kill(kill, 0);
    sim.began(back);
    sim.began(heal);
    sim.run(3000);
    let answer = sim.judge.answer(back);
    assert!(matches!(answer, Answer::Pending(_)), "{answer:?}");
    // It is over and has ended nothing.
    sim.ended(heal);
    let answer = sim.judge.answer(back);
    assert!(matches!(answer, Answer::Failed(_)), "{answer:?}");
}

#[test]
fn a_load_of_which_nothing_was_accepted_is_a_failure() {
    let mut plan = plan(4);
    let load = plan.step(
        Some("l"),
        Action::Load(Load {
            id: "l".to_owned(),
            rate: 20.0,
            size: 100,
            nodes: names(&[0]),
            lasts: Ms(3000),
        }),
    );
    for (accepted, fails) in [(0, true), (1, false), (61, false)] {
        let mut sim = Sim::up(&plan);
        sim.began(load);
        for (sent, accepted) in [(20, 0), (61, accepted)] {
            sim.run(1000);
            sim.push(Record::Load {
                id: "l".to_owned(),
                sent,
                accepted,
                refused: sent - accepted,
            });
        }
        sim.ended(load);
        let report = sim.finish();
        let seen = format!("sent 61, accepted {accepted}, refused {}", 61 - accepted);
        assert_eq!(report.steps[load].seen, seen);
        if fails {
            let finding = only(&report, "expect/load", Class::ExpectationFailed, None);
            assert_eq!((finding.step, &finding.seen), (Some(load), &seen));
            assert_eq!(report.steps[load].state, verdict::StepEnd::Failed);
        } else {
            passes(&report);
        }
    }
}

/// A run with one expectation; `cause` silences these nodes a second before it has to have come true. `live`: whether the chain grows.
fn silenced(plan: &Plan, nodes: &[usize], cause: Silence, live: bool) -> (Answer, Report) {
    let mut sim = Sim::up(plan);
    sim.began(0);
    sim.live = live;
    sim.run(2000);
    for i in nodes {
        sim.mode[*i] = Mode::Mute(cause);
    }
    sim.run(2000);
    let answer = sim.judge.answer(0);
    (answer, sim.tear_down())
}

#[test]
fn what_trialnet_could_not_see_for_want_of_a_way_is_not_the_chains_failure() {
    let progress = one(What::Progress { blocks: 500 }, None, Window::Within(Ms(3000)));
    let height = |nodes: Option<&[usize]>| one(What::Height(at_least(500)), nodes, Window::Within(Ms(3000)));
    for (plan, silent, node) in [
        (&progress, vec![0, 1, 2, 3], 0),
        (&progress, vec![2, 3], 2),
        (&height(None), vec![0, 1, 2, 3], 0),
        (&height(Some(&[2])), vec![2], 2),
    ] {
        let (answer, report) = silenced(plan, &silent, Silence::Tunnel, true);
        assert!(matches!(answer, Answer::Inconclusive(_)), "{answer:?}");
        only(&report, "infra/tunnel", Class::Infrastructure, Some(node));
        let (answer, report) = silenced(plan, &silent, Silence::Refused, true);
        assert!(!matches!(answer, Answer::Met(_)), "{answer:?}");
        assert!(
            report.findings.iter().all(|finding| finding.code != "infra/tunnel"),
            "{report:?}"
        );
    }
}

#[test]
fn a_lost_way_hides_nothing_that_the_other_nodes_show() {
    let progress = one(What::Progress { blocks: 3 }, None, Window::Within(Ms(3000)));
    let (answer, report) = silenced(&progress, &[3], Silence::Tunnel, false);
    assert!(matches!(answer, Answer::Failed(_)), "{answer:?}");
    caught(&report, "expect/progress", Class::LivenessFailed, None);
    let height = one(What::Height(at_least(500)), Some(&[1, 2]), Window::Within(Ms(3000)));
    let (answer, report) = silenced(&height, &[2], Silence::Tunnel, true);
    assert!(matches!(answer, Answer::Failed(_)), "{answer:?}");
    caught(&report, "expect/height", Class::ExpectationFailed, Some(1));
}

#[test]
fn a_recovery_that_trialnet_cannot_see_is_not_a_failed_one() {
    for (cause, code, class) in [
        (Silence::Tunnel, "infra/tunnel", Class::Infrastructure),
        (Silence::Refused, "expect/recovery", Class::LivenessFailed),
    ] {
        let mut plan = plan(4);
        let kill = plan.with_fault("k", FaultKind::Kill, &[0], Lasts::For(Ms(2000)));
        let back = plan.with_expect(What::Recovery { of: "k".to_owned() }, None, Window::Within(Ms(2000)));
        let mut sim = Sim::up(&plan);
        sim.kill(kill, 0);
        sim.run(2000);
        sim.restart("k", 0);
        sim.mode[0] = Mode::Mute(cause);
        let answer = sim.expect(back, 2600);
        assert_eq!(
            matches!(answer, Answer::Inconclusive(_)),
            cause == Silence::Tunnel,
            "{answer:?}"
        );
        caught(&sim.tear_down(), code, class, Some(0));
    }
}
