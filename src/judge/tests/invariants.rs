//! What is judged all the time.

use super::*;

fn stay(sim: &mut Sim, i: usize) {
    sim.mode[i] = Mode::Stays;
}

#[test]
fn a_healthy_run_passes() {
    let mut sim = Sim::up(&plan(4));
    sim.run(5000);
    let report = sim.finish();
    passes(&report);
    assert!(report.coverage.of > 20);
    assert_eq!(report.timings["run"], 5000);
}

#[test]
fn a_fork_names_the_node_in_the_smaller_group() {
    for liar in 0..4 {
        let mut sim = Sim::up(&plan(4));
        sim.lies.insert((liar, 9), "OTHER".to_owned());
        sim.run(5000);
        let report = sim.finish();
        let finding = only(&report, "safety/fork", Class::SafetyViolated, Some(liar));
        assert_eq!(finding.height, Some(9));
        assert!(
            finding.seen.starts_with("OTHER from") && finding.seen.contains("parent B8"),
            "{}",
            finding.seen
        );
        assert!(finding.expected.contains("B9 from"), "{}", finding.expected);
        // Nor was anybody else accused on the way, when only two had spoken.
        let accused: Vec<_> = sim.found.iter().map(|finding| finding.node.as_deref()).collect();
        assert_eq!(accused, [finding.node.as_deref()]);
    }
}

#[test]
fn a_fork_is_told_although_a_node_says_nothing_of_it() {
    let mut sim = Sim::up(&plan(4));
    sim.mode[0] = Mode::Unseen;
    sim.lies.insert((3, 9), "OTHER".to_owned());
    let told = |sim: &Sim| sim.found.iter().any(|finding| finding.code == "safety/fork");
    while sim.height[3] < 9 {
        sim.run(200);
    }
    assert!(!told(&sim), "{:#?}", sim.found);
    sim.run(2400);
    assert!(told(&sim), "{:#?}", sim.found);
}

#[test]
fn a_fork_is_seen_although_the_node_died_since() {
    let mut plan = plan(4);
    let kill = plan.with_fault("k", FaultKind::Kill, &[3], Lasts::UntilHealed);
    let mut sim = Sim::up(&plan);
    // The others show height 20 only after node 3 has shown it and died.
    sim.lies.insert((3, 20), "OTHER".to_owned());
    sim.sample(3, 20);
    sim.kill(kill, 3);
    sim.run(6000);
    let report = sim.finish();
    assert_eq!(
        caught(&report, "safety/fork", Class::SafetyViolated, Some(3)).height,
        Some(20)
    );
}

#[test]
fn a_lasting_fork_is_one_finding_and_counted() {
    let mut sim = Sim::up(&plan(4));
    for height in 5..100 {
        sim.lies.insert((2, height), format!("X{height}"));
    }
    sim.run(30_000);
    let report = sim.finish();
    let finding = caught(&report, "safety/fork", Class::SafetyViolated, Some(2));
    assert_eq!(finding.height, Some(5));
    assert!(finding.seen.contains("times more, last at height"), "{}", finding.seen);
    assert!(report.findings.len() < 4, "{:#?}", report.findings);
}

#[test]
fn a_switched_off_invariant_is_silent_and_listed() {
    let mut plan = plan(4);
    plan.invariants.off.insert(Invariant::Fork);
    let mut sim = Sim::up(&plan);
    sim.lies.insert((1, 9), "OTHER".to_owned());
    sim.run(3000);
    let report = sim.finish();
    passes(&report);
    assert_eq!(report.off, [Invariant::Fork]);
}

#[test]
fn application_states_are_compared_at_equal_heights() {
    let mut sim = Sim::up(&plan(4));
    for i in 0..4 {
        sim.state(i, 5, "S5");
        sim.state(i, 6, if i == 1 { "WRONG" } else { "S6" });
    }
    sim.run(1000);
    let report = sim.finish();
    let finding = only(&report, "safety/app-state", Class::SafetyViolated, Some(1));
    assert_eq!(finding.height, Some(6));
}

#[test]
fn a_hash_never_changes_on_a_node() {
    let mut sim = Sim::up(&plan(1));
    sim.run(1000);
    sim.lies.insert((0, 3), "OTHER".to_owned());
    sim.headers(0, 3, 3);
    let report = sim.finish();
    let finding = only(&report, "safety/hash-change", Class::SafetyViolated, Some(0));
    assert_eq!(finding.height, Some(3));
    assert!(finding.expected.contains("B3") && finding.seen.contains("OTHER"));
}

#[test]
fn heights_go_back_only_after_a_wipe() {
    for (wiped, violated) in [(false, true), (true, false)] {
        let mut plan = plan(4);
        let stop = plan.with_fault("s", FaultKind::Stop, &[2], Lasts::For(Ms(1000)));
        let mut sim = Sim::up(&plan);
        sim.run(2000);
        sim.kill(stop, 2);
        sim.run(1000);
        if wiped {
            sim.node(2, NodeEvent::Wiped);
        }
        sim.height[2] = 1;
        sim.restart("s", 2);
        sim.run(2000);
        let report = sim.finish();
        if violated {
            let finding = only(&report, "safety/height-back", Class::SafetyViolated, Some(2));
            assert!(finding.height < Some(12), "{finding:?}");
        } else {
            passes(&report);
        }
    }
}

/// What a node wrote before it could not any more it still has; what it said since it may have lost.
#[test]
fn a_node_that_cannot_write_loses_no_more_than_it_said_since() {
    let full = FaultKind::Fill(crate::model::Fill { percent: 100, size: 1 });
    for kind in [full, FaultKind::ReadOnly] {
        for (back, violated) in [(0, false), (1, true)] {
            let mut plan = plan(4);
            let step = plan.with_fault("s", kind.clone(), &[2], Lasts::For(Ms(1000)));
            let mut sim = Sim::up(&plan);
            sim.run(2000);
            let before = sim.height[2];
            sim.inject(step);
            sim.run(600);
            assert!(sim.height[2] > before);
            sim.exited(2, false);
            sim.mode[2] = Mode::Mute(Silence::Refused);
            sim.run(600);
            sim.height[2] = before - back;
            sim.restart("s", 2);
            sim.sample(2, before - back);
            sim.run(3000);
            let report = sim.finish();
            if violated {
                let finding = only(&report, "safety/height-back", Class::SafetyViolated, Some(2));
                assert_eq!(
                    finding.expected,
                    format!("a height of {before} or more, as this node reported before")
                );
            } else {
                passes(&report);
            }
        }
    }
}

#[test]
fn a_late_answer_is_not_a_height_that_went_back() {
    let mut sim = Sim::up(&plan(4));
    sim.run(2000);
    sim.sample_at(2, 3, sim.at - 1000);
    sim.run(1000);
    passes(&sim.finish());

    let mut sim = Sim::up(&plan(4));
    sim.run(2000);
    sim.at += 1;
    sim.sample(2, 3);
    sim.run(1000);
    assert_eq!(
        only(&sim.finish(), "safety/height-back", Class::SafetyViolated, Some(2)).height,
        Some(3)
    );
}

#[test]
fn a_parent_is_the_block_below() {
    let mut sim = Sim::up(&plan(4));
    sim.run(1000);
    let header = Header {
        height: sim.tip + 1,
        hash: format!("B{}", sim.tip + 1),
        parent: "ELSE".to_owned(),
        time: "t".to_owned(),
    };
    sim.push(Record::Headers {
        node: "validator-1".to_owned(),
        sent: Ms(sim.at),
        headers: vec![header],
    });
    sim.run(1000);
    let report = sim.finish();
    only(&report, "safety/parent-link", Class::SafetyViolated, Some(1));
}

/// One of four is cut off; `grows`: it goes on by itself.
fn minority(grows: bool, state: Option<FaultState>) -> Report {
    let mut plan = plan(4);
    let split = plan.with_split("split", &[&[0, 1, 2], &[3]]);
    let heal = plan.with_heal("split");
    let mut sim = Sim::up(&plan);
    sim.run(1000);
    sim.inject(split);
    // One block may have been under way.
    sim.run(200);
    stay(&mut sim, 3);
    if grows {
        sim.run(1000);
        sim.mode[3] = Mode::Follows;
    }
    sim.run(2000);
    if let Some(state) = state {
        sim.fault("split", state);
    }
    sim.began(heal);
    sim.mode[3] = Mode::Follows;
    sim.revert("split");
    sim.ended(heal);
    sim.run(1000);
    sim.finish()
}

#[test]
fn a_side_without_quorum_must_not_grow() {
    passes(&minority(false, None));
    let report = minority(true, None);
    let finding = only(&report, "safety/minority-growth", Class::SafetyViolated, Some(3));
    assert_eq!(finding.faults, ["split"]);
    assert!(finding.height.is_some());
}

#[test]
fn growth_under_a_cut_that_was_dropped_is_none_of_it() {
    let mut plan = plan(4);
    let split = plan.with_split("split", &[&[0, 1, 2], &[3]]);
    let heal = plan.with_heal("split");
    let mut sim = Sim::up(&plan);
    sim.run(1000);
    sim.inject(split);
    sim.run(200);
    stay(&mut sim, 3);
    sim.fault("split", FaultState::Dropped);
    sim.mode[3] = Mode::Follows;
    sim.run(2000);
    sim.began(heal);
    sim.revert("split");
    sim.ended(heal);
    sim.run(1000);
    passes(&sim.finish());
}

#[test]
fn growth_under_a_cut_that_had_no_effect_proves_nothing() {
    let report = minority(true, Some(FaultState::NoEffect));
    assert_eq!(report.verdict, Verdict::Infrastructure, "{:#?}", report.findings);
    assert!(
        report
            .findings
            .iter()
            .any(|finding| finding.code == "infra/fault-no-effect")
    );
    let growth = report
        .findings
        .iter()
        .find(|finding| finding.code == "safety/minority-growth")
        .unwrap();
    assert!(growth.seen.contains("had no effect"));
}

#[test]
fn a_lost_transaction_is_a_violation() {
    use crate::record::TxEvent;
    let mut sim = Sim::up(&plan(4));
    let tx = |event| Record::Tx {
        id: "t".to_owned(),
        event,
    };
    let node = || "validator-1".to_owned();
    sim.push(tx(TxEvent::Committed {
        node: node(),
        height: 4,
        code: 0,
    }));
    sim.run(1000);
    sim.push(tx(TxEvent::Lost { node: node() }));
    let report = sim.finish();
    assert_eq!(
        only(&report, "safety/tx-lost", Class::SafetyViolated, Some(1)).height,
        Some(4)
    );
}

#[test]
fn a_stall_counts_the_open_interval() {
    let mut sim = Sim::up(&plan(4));
    sim.run(1000);
    sim.live = false;
    sim.run(2800);
    assert!(sim.found.is_empty(), "{:?}", sim.found);
    sim.run(2000);
    let found = sim.found.clone();
    assert_eq!(found.len(), 1, "{found:?}");
    let report = sim.tear_down();
    let finding = only(&report, "liveness/stall", Class::LivenessFailed, None);
    assert_eq!((finding.height, finding.since_ms), (Some(7), 1000));
}

#[test]
fn a_network_that_must_halt_does_not_stall() {
    let mut plan = plan(4);
    let kill = plan.with_fault("k", FaultKind::Kill, &[2, 3], Lasts::For(Ms::secs(8)));
    let mut sim = Sim::up(&plan);
    sim.run(1000);
    sim.began(kill);
    sim.fault("k", FaultState::Planned);
    for i in [2, 3] {
        sim.exited(i, true);
        sim.mode[i] = Mode::Mute(Silence::Refused);
    }
    sim.live = false;
    sim.fault("k", FaultState::Verified);
    sim.ended(kill);
    sim.run(8000);
    for i in [2, 3] {
        sim.started(i, 2);
        sim.mode[i] = Mode::Follows;
    }
    sim.revert("k");
    sim.run(1000);
    sim.live = true;
    sim.run(2000);
    passes(&sim.finish());
}

#[test]
fn a_network_that_must_go_on_stalls_also_under_a_fault() {
    let mut plan = plan(4);
    let kill = plan.with_fault("k", FaultKind::Kill, &[3], Lasts::UntilHealed);
    let mut sim = Sim::up(&plan);
    sim.run(1000);
    sim.kill(kill, 3);
    sim.live = false;
    sim.run(6000);
    let report = sim.tear_down();
    let finding = caught(&report, "liveness/stall", Class::LivenessFailed, None);
    assert_eq!(finding.faults, ["k"]);
}

#[test]
fn a_stall_that_nobody_observed_is_a_gap() {
    let mut sim = Sim::up(&plan(4));
    sim.run(1000);
    sim.mode = vec![Mode::Unseen; 4];
    sim.run(6000);
    sim.mode = vec![Mode::Follows; 4];
    sim.run(1000);
    let report = sim.finish();
    assert_eq!(report.verdict, Verdict::Inconclusive);
    assert!(
        report.findings.iter().all(|finding| finding.code == "evidence/gap"),
        "{:#?}",
        report.findings
    );
}

#[test]
fn a_stall_while_trialnet_is_starved_is_inconclusive() {
    for (late, code, class) in [
        (500, "liveness/stall", Class::LivenessFailed),
        (700, "evidence/starved", Class::Inconclusive),
    ] {
        let mut sim = Sim::up(&plan(4));
        sim.run(1000);
        sim.live = false;
        sim.run(2000);
        sim.push(Record::Late {
            by: Ms(late),
            interval: Ms(200),
        });
        sim.run(3000);
        let report = sim.tear_down();
        only(&report, code, class, None);
    }
}

#[test]
fn what_goes_on_after_late_polls_is_found_all_the_same() {
    let both = |report: &Report, code: &str| {
        let codes: Vec<&str> = report.findings.iter().map(|finding| finding.code.as_str()).collect();
        assert_eq!(codes, [code, "evidence/starved"], "{:#?}", report.findings);
        assert_eq!(report.verdict, Verdict::LivenessFailed);
    };
    let late = |sim: &mut Sim| {
        sim.push(Record::Late {
            by: Ms(700),
            interval: Ms(200),
        });
    };
    let mut sim = Sim::up(&plan(4));
    sim.run(1000);
    sim.live = false;
    sim.run(2000);
    late(&mut sim);
    sim.run(6000);
    both(&sim.tear_down(), "liveness/stall");

    let mut sim = Sim::up(&plan(4));
    sim.run(1000);
    sim.mode[2] = Mode::Mute(Silence::Timeout);
    sim.run(1000);
    late(&mut sim);
    sim.run(7000);
    both(&sim.tear_down(), "liveness/hang");
}

#[test]
fn a_node_that_lags_is_found_unless_a_fault_explains_it() {
    let mut sim = Sim::up(&plan(4));
    sim.run(1000);
    stay(&mut sim, 1);
    sim.run(5000);
    sim.mode[1] = Mode::Follows;
    sim.run(1000);
    let report = sim.finish();
    assert_eq!(
        only(&report, "liveness/lag", Class::LivenessFailed, Some(1)).height,
        Some(7)
    );

    let mut plan = plan(4);
    let kind = FaultKind::Isolate { plane: Plane::P2p };
    let cut = plan.with_fault("cut", kind, &[1], Lasts::For(Ms::secs(5)));
    let mut sim = Sim::up(&plan);
    sim.run(1000);
    sim.inject(cut);
    stay(&mut sim, 1);
    sim.run(5000);
    sim.mode[1] = Mode::Follows;
    sim.revert("cut");
    sim.run(1000);
    let report = sim.finish();
    passes(&report);
    assert!(
        report.faults[0].recovery_ms.is_some_and(|ms| (400..1500).contains(&ms)),
        "{:?}",
        report.faults
    );
}

#[test]
fn a_partition_does_not_excuse_the_side_with_the_quorum() {
    let mut plan = plan(7);
    let split = plan.with_split("split", &[&[0, 1, 2, 3, 4, 5], &[6]]);
    let mut sim = Sim::up(&plan);
    sim.run(1000);
    sim.inject(split);
    stay(&mut sim, 6);
    stay(&mut sim, 5);
    sim.run(6000);
    let report = sim.tear_down();
    caught(&report, "liveness/lag", Class::LivenessFailed, Some(5));
}

#[test]
fn silence_has_a_cause() {
    for (cause, code, class) in [
        (Silence::Refused, "liveness/silent", Class::LivenessFailed),
        (Silence::Garbage, "liveness/silent", Class::LivenessFailed),
        (Silence::Timeout, "liveness/hang", Class::LivenessFailed),
        (Silence::Tunnel, "infra/tunnel", Class::Infrastructure),
    ] {
        let mut sim = Sim::up(&plan(4));
        sim.run(1000);
        sim.mode[2] = Mode::Mute(cause);
        sim.run(6000);
        sim.mode[2] = Mode::Follows;
        sim.run(1000);
        let report = sim.finish();
        let finding = only(&report, code, class, Some(2));
        assert!(
            cause == Silence::Tunnel || finding.seen.contains("while its process is there"),
            "{}",
            finding.seen
        );
    }
    let mut sim = Sim::up(&plan(4));
    sim.run(1000);
    sim.mode[2] = Mode::Mute(Silence::Timeout);
    sim.run(2000);
    sim.mode[2] = Mode::Follows;
    sim.run(1000);
    passes(&sim.finish());
}

#[test]
fn a_way_that_is_lost_for_a_moment_is_nothing_and_nobody_elses_silence() {
    let mut sim = Sim::up(&plan(4));
    sim.run(1000);
    sim.mode = vec![Mode::Mute(Silence::Tunnel); 4];
    sim.run(2000);
    sim.mode = vec![Mode::Follows; 4];
    sim.run(1000);
    passes(&sim.finish());
    // Two seconds without a way and two of a node that does not listen: neither lasts long enough.
    let mut sim = Sim::up(&plan(4));
    sim.run(1000);
    for cause in [Silence::Tunnel, Silence::Refused] {
        sim.mode[2] = Mode::Mute(cause);
        sim.run(2000);
    }
    sim.mode[2] = Mode::Follows;
    sim.run(1000);
    passes(&sim.finish());
    // The whole way is lost: the chain may be well, so that is all that is found.
    let mut sim = Sim::up(&plan(4));
    sim.run(1000);
    sim.mode = vec![Mode::Mute(Silence::Tunnel); 4];
    sim.run(8000);
    let report = sim.tear_down();
    assert!(
        report.findings.iter().all(|finding| finding.code == "infra/tunnel"),
        "{report:?}"
    );
    assert_eq!(report.findings.len(), 4);
}

#[test]
fn a_declared_kill_explains_silence_exit_and_restart() {
    let mut plan = plan(4);
    let kill = plan.with_fault("k", FaultKind::Kill, &[0], Lasts::For(Ms::secs(6)));
    let mut sim = Sim::up(&plan);
    sim.run(1000);
    sim.kill(kill, 0);
    sim.run(6000);
    sim.restart("k", 0);
    sim.run(3000);
    let report = sim.finish();
    passes(&report);
    assert_eq!(report.faults[0].verified_ms, Some(1000));
    assert!(report.faults[0].recovery_ms.is_some());
}

#[test]
fn a_node_that_dies_by_itself_is_one_finding() {
    let mut sim = Sim::up(&plan(4));
    sim.run(1000);
    sim.exited(1, false);
    sim.mode[1] = Mode::Mute(Silence::Refused);
    sim.run(6000);
    let report = sim.tear_down();
    let finding = only(&report, "liveness/exit", Class::LivenessFailed, Some(1));
    assert!(
        finding.seen.contains("code 13") && finding.seen.contains("last words"),
        "{}",
        finding.seen
    );
    assert_eq!(finding.height, Some(7));
}

#[test]
fn a_fault_that_strikes_another_node_is_found() {
    let mut plan = plan(4);
    let kill = plan.with_fault("k", FaultKind::Kill, &[0], Lasts::UntilHealed);
    let mut sim = Sim::up(&plan);
    sim.kill(kill, 0);
    sim.exited(1, true);
    sim.run(400);
    let report = sim.tear_down();
    caught(&report, "infra/fault-stronger", Class::Infrastructure, Some(1));
}

#[test]
fn a_restart_that_no_step_caused_is_found() {
    let mut sim = Sim::up(&plan(4));
    sim.run(1000);
    sim.started(3, 2);
    sim.run(1000);
    only(&sim.finish(), "liveness/restart", Class::LivenessFailed, Some(3));

    let mut plan = plan(4);
    plan.invariants.off.insert(Invariant::Restarts);
    let mut sim = Sim::up(&plan);
    sim.run(1000);
    sim.started(3, 2);
    sim.run(1000);
    passes(&sim.finish());
}

#[test]
fn an_exit_before_ready_is_infrastructure() {
    let mut sim = Sim::begin(&plan(4));
    sim.run(200);
    sim.exited(1, false);
    let report = sim.tear_down();
    only(&report, "infra/exit-at-start", Class::Infrastructure, Some(1));
}

#[test]
fn a_late_node_is_judged_once_it_is_with_the_others() {
    let mut plan = plan(5);
    plan.network.nodes[4].start = Start::Manual;
    plan.network.nodes[4].power = 0;
    let start = plan.step(None, Action::Start { nodes: names(&[4]) });
    let mut sim = Sim::up(&plan);
    sim.run(10_000);
    sim.began(start);
    sim.started(4, 1);
    sim.mode[4] = Mode::Follows;
    sim.ended(start);
    sim.run(2000);
    sim.mode[4] = Mode::Stays;
    let report = {
        let mut joined = Sim::up(&plan);
        joined.run(10_000);
        joined.began(start);
        joined.started(4, 1);
        joined.mode[4] = Mode::Follows;
        joined.ended(start);
        joined.run(3000);
        joined.finish()
    };
    passes(&report);
    sim.run(6000);
    let report = sim.tear_down();
    caught(&report, "liveness/lag", Class::LivenessFailed, Some(4));
}

#[test]
fn the_end_needs_recovery() {
    let mut plan = plan(4);
    let kill = plan.with_fault("k", FaultKind::Kill, &[1], Lasts::For(Ms::secs(1)));
    let mut sim = Sim::up(&plan);
    sim.kill(kill, 1);
    sim.run(1000);
    sim.restart("k", 1);
    stay(&mut sim, 1);
    sim.push(Record::Phase(Phase::Settling));
    assert!(sim.judge.settled().unwrap_err().contains("validator-1"));
    sim.run(5200);
    let report = sim.tear_down();
    caught(&report, "liveness/not-recovered", Class::LivenessFailed, Some(1));
}

#[test]
fn a_validator_change_changes_the_quorum() {
    let mut sim = Sim::up(&plan(4));
    sim.run(400);
    let set = |powers: [u64; 4]| names(&[0, 1, 2, 3]).into_iter().zip(powers).collect::<BTreeMap<_, _>>();
    for i in [2, 3] {
        stay(&mut sim, i);
    }
    sim.run(600);
    assert_eq!(sim.judge.quorum_height(), 4);
    for node in names(&[0, 1]) {
        sim.push(Record::Validators {
            node,
            sent: Ms(sim.at),
            height: 5,
            powers: set([100, 100, 10, 10]),
        });
    }
    assert_eq!(sim.judge.quorum_height(), 7);
}

#[test]
fn a_declared_restart_is_no_finding() {
    let mut plan = plan(4);
    let step = plan.with_fault("r", FaultKind::Restart, &[2], Lasts::Itself);
    let mut sim = Sim::up(&plan);
    sim.began(step);
    sim.fault("r", FaultState::Planned);
    sim.exited(2, true);
    sim.mode[2] = Mode::Mute(Silence::Refused);
    sim.run(1000);
    sim.fault("r", FaultState::Injected);
    sim.fault("r", FaultState::Verified);
    sim.restart("r", 2);
    sim.ended(step);
    sim.run(1000);
    passes(&sim.finish());
}

#[test]
fn slow_links_lengthen_the_stall_that_is_allowed() {
    for (latency, stalls) in [(100, true), (500, false)] {
        let mut plan = plan(4);
        let kind = FaultKind::Delay {
            links: vec![("validator-0".to_owned(), "validator-1".to_owned())],
            latency: Ms(latency),
            jitter: Ms(0),
            each: Vec::new(),
        };
        let slow = plan.with_fault("slow", kind, &[0, 1], Lasts::UntilHealed);
        let mut sim = Sim::up(&plan);
        sim.inject(slow);
        sim.live = false;
        sim.run(6000);
        assert_eq!(sim.found.iter().any(|finding| finding.code == "liveness/stall"), stalls);
    }
}

#[test]
fn a_split_without_a_declared_halt_is_judged_too() {
    let mut plan = plan(4);
    let split = plan.with_split("split", &[&[0, 1], &[2, 3]]);
    let mut sim = Sim::up(&plan);
    sim.run(1000);
    sim.inject(split);
    sim.run(2000);
    let report = sim.tear_down();
    assert_eq!(
        caught(&report, "safety/grew-without-quorum", Class::SafetyViolated, Some(0)).step,
        None
    );
}

#[test]
fn silence_has_a_limit_of_its_own() {
    let mut plan = plan(4);
    plan.invariants.max_stall = Ms::secs(8);
    for cause in [Silence::Refused, Silence::Broken, Silence::Timeout] {
        for (time, found) in [(2400, false), (4400, true)] {
            let mut sim = Sim::up(&plan);
            sim.run(1000);
            sim.mode[2] = Mode::Mute(cause);
            sim.run(time);
            sim.mode[2] = Mode::Follows;
            sim.run(1000);
            let report = sim.finish();
            let code = if cause == Silence::Timeout {
                "liveness/hang"
            } else {
                "liveness/silent"
            };
            if found {
                only(&report, code, Class::LivenessFailed, Some(2));
            } else {
                passes(&report);
            }
        }
    }
    let mut sim = Sim::up(&plan);
    sim.run(1000);
    sim.mode[2] = Mode::Mute(Silence::Timeout);
    sim.run(1000);
    sim.push(Record::Late {
        by: Ms(700),
        interval: Ms(200),
    });
    sim.run(3400);
    only(&sim.tear_down(), "evidence/starved", Class::Inconclusive, Some(2));
}

/// Node 1 is told to misbehave, a process of it ends, and it comes back.
fn misbehaves(how: &str, asked: bool) -> Report {
    let mut plan = plan(4);
    let kind = FaultKind::Misbehave {
        how: how.to_owned(),
        byzantine: false,
    };
    let step = plan.with_fault("m", kind, &[1], Lasts::UntilHealed);
    let mut sim = Sim::up(&plan);
    sim.inject(step);
    sim.run(1000);
    sim.exited(1, asked);
    sim.mode[1] = Mode::Mute(Silence::Refused);
    sim.run(1000);
    sim.restart("m", 1);
    sim.run(2000);
    sim.finish()
}

#[test]
fn only_a_crash_excuses_a_node_that_dies() {
    for how in ["crash", "crash@12"] {
        passes(&misbehaves(how, false));
    }
    for how in ["wrong-hash", "hang@12", "go-back=3"] {
        let report = misbehaves(how, false);
        only(&report, "liveness/exit", Class::LivenessFailed, Some(1));
        // Trialnet may start a node anew that cannot be told to stop misbehaving.
        passes(&misbehaves(how, true));
    }
}

/// A node that reports such a set for so many milliseconds, and the right one again.
fn validator_set(powers: &[(&str, u64)], time: u64, killed: bool) -> (u64, Report) {
    let mut plan = plan(4);
    let step = plan.with_fault("k", FaultKind::Pause, &[2], Lasts::UntilHealed);
    let mut sim = Sim::up(&plan);
    sim.run(1000);
    if killed {
        sim.inject(step);
    }
    let set = |powers: BTreeMap<String, u64>, sim: &Sim| Record::Validators {
        node: "validator-2".to_owned(),
        sent: Ms(sim.at),
        height: sim.tip,
        powers,
    };
    let powers = powers
        .iter()
        .map(|(name, power)| ((*name).to_owned(), *power))
        .collect();
    sim.push(set(powers, &sim));
    sim.run(time);
    let right = names(&[0, 1, 2, 3]).into_iter().map(|name| (name, 10)).collect();
    sim.push(set(right, &sim));
    sim.run(1000);
    if killed {
        sim.revert("k");
    } else {
        sim.inject(step);
        sim.revert("k");
    }
    sim.run(1000);
    let behind = sim.tip - sim.judge.quorum_height();
    (behind, sim.finish())
}

#[test]
fn a_validator_set_without_power_is_never_believed_and_found_if_it_stays() {
    for powers in [&[][..], &[("validator-0", 0), ("validator-1", 0)]] {
        let (behind, report) = validator_set(powers, 5000, false);
        assert_eq!(behind, 0, "Q goes on growing");
        let finding = only(&report, "liveness/garbage", Class::LivenessFailed, Some(2));
        assert!(finding.seen.contains("without any voting power"), "{finding:?}");
        // For a moment, or under a fault, it says nothing.
        for (time, killed) in [(1000, false), (5000, true)] {
            let (behind, report) = validator_set(powers, time, killed);
            assert_eq!(behind, 0);
            passes(&report);
        }
    }
    // A set with power is believed and no finding, were it small.
    let (_, report) = validator_set(&[("validator-2", 1)], 5000, false);
    assert!(
        report.findings.iter().all(|finding| finding.code != "liveness/garbage"),
        "{report:#?}"
    );
}
