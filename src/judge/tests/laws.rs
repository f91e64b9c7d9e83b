//! What holds for every timeline.

use proptest::prelude::*;

use super::*;

/// Something that may happen to a network, in a good or a bad way.
#[derive(Clone, Debug)]
enum Move {
    Run(u64),
    Kill(usize, bool),
    Split(usize),
    Late(u64),
    Lie(usize, u64),
    Back(usize),
    Exit(usize),
    Mute(usize),
    Halt,
    Phase(u8),
    Step(usize, bool),
}

fn bad_move() -> impl Strategy<Value = Move> {
    prop_oneof![
        4 => (1u64..12).prop_map(|blocks| Move::Run(blocks * BLOCK)),
        1 => (0usize..6, any::<bool>()).prop_map(|(i, back)| Move::Kill(i, back)),
        1 => (0usize..6).prop_map(Move::Split),
        1 => (0u64..5000).prop_map(Move::Late),
        1 => (0usize..6, 1u64..40).prop_map(|(i, height)| Move::Lie(i, height)),
        1 => (0usize..6).prop_map(Move::Back),
        1 => (0usize..6).prop_map(Move::Exit),
        1 => (0usize..6).prop_map(Move::Mute),
        1 => Just(Move::Halt),
        1 => (0u8..6).prop_map(Move::Phase),
        1 => (0usize..9, any::<bool>()).prop_map(|(step, begins)| Move::Step(step, begins)),
    ]
}

/// One step of each kind over four nodes.
fn any_plan() -> Plan {
    let mut plan = plan(4);
    plan.with_fault("k", FaultKind::Kill, &[1], Lasts::For(Ms(1000)));
    plan.with_split("p", &[&[0, 1], &[2, 3]]);
    plan.with_expect(What::Halt { of: "p".to_owned() }, None, Window::For(Ms(500)));
    plan.with_heal("p");
    plan.with_expect(What::Recovery { of: "k".to_owned() }, None, Window::Within(Ms(500)));
    plan.with_expect(What::Lag(at_most(3)), None, Window::Never);
    plan.with_expect(What::Peers(at_least(3)), None, Window::Now);
    plan
}

fn play(moves: &[Move]) -> Sim {
    let plan = any_plan();
    let mut sim = Sim::up(&plan);
    let states = [
        FaultState::Planned,
        FaultState::Verified,
        FaultState::NoEffect,
        FaultState::Reverted,
    ];
    for (at, happens) in moves.iter().enumerate() {
        match *happens {
            Move::Run(time) => sim.run(time),
            Move::Kill(i, true) => {
                sim.fault("k", FaultState::RevertVerified);
                sim.started(i, 3);
            }
            Move::Kill(i, false) => {
                sim.fault("k", states[at % states.len()]);
                sim.exited(i, true);
            }
            Move::Split(i) => sim.fault("p", states[i % states.len()]),
            Move::Late(by) => sim.push(Record::Late {
                by: Ms(by),
                interval: Ms(200),
            }),
            Move::Lie(i, height) => {
                sim.lies.insert((i, height), format!("L{at}"));
                sim.headers(i, height, height + 2);
            }
            Move::Back(i) => sim.sample(i, 1),
            Move::Exit(i) => sim.exited(i, false),
            Move::Mute(i) => sim.silent(i, Silence::Refused),
            Move::Halt => sim.live = !sim.live,
            Move::Phase(0) => sim.push(Record::Phase(Phase::Settling)),
            Move::Phase(1) => sim.push(Record::End),
            Move::Phase(2) => sim.push(Record::Phase(Phase::TearingDown)),
            Move::Phase(_) => sim.push(Record::Ready),
            Move::Step(step, true) => sim.began(step),
            Move::Step(step, false) => sim.ended(step),
        }
    }
    sim
}

/// A good thing that may happen to a network.
#[derive(Clone, Debug)]
enum Good {
    Run(u64),
    Kill(usize, u64),
    Split(usize, u64),
    TwoDown(u64),
    LateAnswer(usize),
}

fn good_move() -> impl Strategy<Value = Good> {
    prop_oneof![
        2 => (1u64..20).prop_map(|blocks| Good::Run(blocks * BLOCK)),
        1 => (0usize..4, 1u64..30).prop_map(|(i, blocks)| Good::Kill(i, blocks * BLOCK)),
        1 => (0usize..4, 1u64..30).prop_map(|(i, blocks)| Good::Split(i, blocks * BLOCK)),
        1 => (1u64..40).prop_map(|blocks| Good::TwoDown(blocks * BLOCK)),
        1 => (0usize..4).prop_map(Good::LateAnswer),
    ]
}

/// A network that keeps every promise under declared faults.
fn healthy(moves: &[Good]) -> Report {
    let mut plan = plan(4);
    for (at, happens) in moves.iter().enumerate() {
        let id = format!("f{at}");
        match *happens {
            Good::Kill(i, time) => {
                plan.with_fault(&id, FaultKind::Kill, &[i], Lasts::For(Ms(time)));
            }
            Good::Split(i, _) => {
                let rest: Vec<usize> = (0..4).filter(|other| *other != i).collect();
                plan.with_split(&id, &[&rest, &[i]]);
            }
            Good::TwoDown(time) => {
                plan.with_fault(&id, FaultKind::Pause, &[0, 1], Lasts::For(Ms(time)));
            }
            Good::Run(_) | Good::LateAnswer(_) => {}
        }
    }
    let mut sim = Sim::up(&plan);
    sim.run(1000);
    let mut step = 0;
    for (at, happens) in moves.iter().enumerate() {
        let id = format!("f{at}");
        match *happens {
            Good::Run(time) => {
                sim.run(time);
                continue;
            }
            Good::LateAnswer(i) => {
                sim.sample_at(i, 1, 300);
                continue;
            }
            Good::Kill(i, time) => {
                sim.kill(step, i);
                sim.run(time);
                sim.restart(&id, i);
            }
            Good::Split(i, time) => {
                sim.inject(step);
                sim.mode[i] = Mode::Stays;
                sim.run(time);
                sim.mode[i] = Mode::Follows;
                sim.revert(&id);
            }
            Good::TwoDown(time) => {
                sim.inject(step);
                sim.live = false;
                sim.mode[0] = Mode::Mute(Silence::Timeout);
                sim.mode[1] = Mode::Mute(Silence::Timeout);
                sim.run(time);
                sim.mode[0] = Mode::Follows;
                sim.mode[1] = Mode::Follows;
                sim.revert(&id);
                sim.live = true;
            }
        }
        step += 1;
        sim.run(1600);
    }
    sim.finish()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever comes in, in whatever order: no panic, the same offline as live, nothing due in the past.
    #[test]
    fn any_records_are_judged(moves in proptest::collection::vec(bad_move(), 0..40)) {
        let sim = play(&moves);
        let report = sim.judge.report();
        let mut again = Judge::new(&sim.plan);
        for record in &sim.records {
            again.feed(record);
            drop(again.report());
            (0..10).for_each(|step| { drop(again.answer(step)); });
        }
        prop_assert_eq!(again.report(), report);
    }

    /// A violation of safety that was found stays found, whatever follows.
    #[test]
    fn what_is_proved_stays_proved(moves in proptest::collection::vec(bad_move(), 1..30)) {
        let sim = play(&moves);
        let mut judge = Judge::new(&sim.plan);
        let mut proved = false;
        for record in &sim.records {
            let found = judge.feed(record);
            // Growth rests on a cut, which may turn out to have had no effect.
            let firm = |code: &str| ["safety/fork", "safety/hash-change", "safety/height-back"].contains(&code);
            proved |= found.iter().any(|finding| firm(&finding.code));
        }
        if proved {
            prop_assert_eq!(judge.report().verdict, Verdict::SafetyViolated);
        }
    }

    /// A network that keeps its promises passes, whatever declared faults strike it.
    #[test]
    fn a_healthy_network_passes(moves in proptest::collection::vec(good_move(), 0..8)) {
        let report = healthy(&moves);
        prop_assert_eq!(report.verdict, Verdict::Passed, "{:#?}", report.findings);
    }
}
