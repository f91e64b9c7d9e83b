//! A chain whose blocks are final by their depth.

use super::*;

/// So many sealers have a depth of two blocks.
const SEALERS: usize = 3;

fn clique() -> Plan {
    let mut plan = plan(SEALERS);
    plan.network.chain = ChainKind::Ethereum;
    for node in &mut plan.network.nodes {
        node.power = 1;
    }
    plan
}

/// A network at some height, and the tip of the moment.
fn running() -> (Sim, u64) {
    let mut sim = Sim::up(&clique());
    sim.run(3000);
    let tip = sim.tip;
    (sim, tip)
}

#[test]
fn what_is_final_is_compared() {
    let (mut sim, _) = running();
    let report = sim.finish();
    passes(&report);
    assert!(
        report.coverage.of > 5 && report.coverage.app_states > 5,
        "{:?}",
        report.coverage
    );
    // The goal is what Q had at the end of the last step.
    let goal = sim.tip - 2000 / BLOCK;
    assert_eq!(report.coverage.of, goal - 2);
}

#[test]
fn a_reorganisation_near_the_tip_is_nothing() {
    let (mut sim, tip) = running();
    sim.lies.insert((2, tip + 1), "OTHER".to_owned());
    sim.lies.insert((2, tip + 2), "OTHER'S CHILD".to_owned());
    sim.run(2 * BLOCK);
    sim.state(2, tip + 1, "OTHER STATE");
    assert_eq!(sim.tip, tip + 2);
    // Only what is two blocks deep counts, and there the node has become of one mind with the others.
    sim.lies.clear();
    sim.state(2, tip + 1, &format!("S{}", tip + 1));
    sim.headers(2, tip + 1, tip + 2);
    sim.run(2000);
    passes(&sim.finish());
}

#[test]
fn a_reorganisation_of_final_blocks_is_found() {
    let (mut sim, tip) = running();
    sim.run(2 * BLOCK);
    sim.lies.insert((2, tip), "OTHER".to_owned());
    sim.headers(2, tip, tip);
    sim.run(2000);
    let report = sim.finish();
    let finding = caught(&report, "safety/hash-change", Class::SafetyViolated, Some(2));
    assert_eq!(finding.height, Some(tip));
}

#[test]
fn a_fork_that_lasts_is_found_and_only_then() {
    let (mut sim, tip) = running();
    sim.lies.insert((2, tip + 1), "OTHER".to_owned());
    sim.run(2 * BLOCK);
    assert!(sim.found.is_empty(), "{:?}", sim.found);
    sim.run(2000);
    let report = sim.finish();
    let finding = only(&report, "safety/fork", Class::SafetyViolated, Some(2));
    assert_eq!(finding.height, Some(tip + 1));
    assert!(finding.seen.contains("OTHER"), "{finding:?}");
}

#[test]
fn a_state_that_differs_is_found_once_it_is_final() {
    let (mut sim, tip) = running();
    sim.states = false;
    sim.run(BLOCK);
    for i in 0..SEALERS {
        sim.state(i, tip + 1, if i == 1 { "WRONG" } else { "RIGHT" });
    }
    assert!(sim.found.is_empty(), "{:?}", sim.found);
    sim.run(3000);
    caught(&sim.finish(), "safety/app-state", Class::SafetyViolated, Some(1));
}

#[test]
fn a_height_goes_back_by_less_than_the_depth() {
    for (by, violated) in [(1, false), (2, true)] {
        let (mut sim, tip) = running();
        sim.at += 1;
        sim.sample(2, tip - by);
        sim.run(2000);
        let report = sim.finish();
        if violated {
            let finding = only(&report, "safety/height-back", Class::SafetyViolated, Some(2));
            assert!(
                finding.expected.contains(&format!("height of {} or more", tip - 1)),
                "{finding:?}"
            );
        } else {
            passes(&report);
        }
    }
}

/// Two of three are cut off from one another and the third: nobody has a majority. So many blocks appear all the same.
fn all_alone(blocks: u64) -> Report {
    let mut plan = clique();
    let split = plan.with_split("split", &[&[0], &[1], &[2]]);
    let heal = plan.with_heal("split");
    let mut sim = Sim::up(&plan);
    sim.run(3000);
    sim.live = false;
    sim.inject(split);
    sim.run(2000);
    sim.tip += blocks;
    sim.run(1000);
    sim.run(3000);
    sim.began(heal);
    sim.revert("split");
    sim.live = true;
    sim.ended(heal);
    sim.run(3000);
    sim.finish()
}

#[test]
fn sealers_without_the_others_make_few_blocks() {
    passes(&all_alone(2));
    caught(
        &all_alone(3),
        "safety/grew-without-quorum",
        Class::SafetyViolated,
        Some(0),
    );
}
