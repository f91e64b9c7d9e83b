//! Rehearsals: room for the next fault, and the way back from each.

use super::*;
use crate::model::{Chaos, Timed};

/// Four validators, one after the other to be killed for a second; each has three seconds to come back.
fn rehearsed(nodes: &[usize]) -> Plan {
    let mut plan = plan(4);
    let timed = |(index, node): (usize, &usize)| Timed {
        at: Ms(500 * u64::try_from(index).unwrap()),
        fault: Fault {
            id: format!("chaos-{}", index + 1),
            kind: FaultKind::Kill,
            targets: Targets::Nodes(names(&[*node])),
            lasts: Lasts::For(Ms::secs(1)),
            component: None,
            wipe: false,
            on_restart: crate::model::OnRestart::Reapply,
        },
    };
    plan.chaos = Some(Chaos {
        schedule: nodes.iter().enumerate().map(timed).collect(),
        recovery: Ms::secs(3),
        halts: false,
        most: None,
        margin: Ms(0),
    });
    plan
}

impl Sim {
    /// A fault of the rehearsal strikes a node.
    fn strike(&mut self, id: &str, i: usize) {
        self.fault(id, FaultState::Planned);
        self.exited(i, true);
        self.mode[i] = Mode::Mute(Silence::Refused);
        self.fault(id, FaultState::Injected);
        self.fault(id, FaultState::Verified);
    }
}

#[test]
fn a_node_that_comes_back_is_no_finding() {
    let plan = rehearsed(&[1]);
    let mut sim = Sim::up(&plan);
    sim.run(1000);
    assert!(sim.judge.at_rest());
    sim.strike("chaos-1", 1);
    assert!(!sim.judge.at_rest());
    sim.run(1000);
    sim.restart("chaos-1", 1);
    assert!(sim.judge.at_rest());
    sim.run(5000);
    let report = sim.finish();
    passes(&report);
    assert!(report.faults[0].recovery_ms.is_some() && report.faults[0].skipped.is_none());
}

#[test]
fn a_node_that_stays_away_after_a_fault_is_found_before_the_end() {
    let plan = rehearsed(&[1]);
    let mut sim = Sim::up(&plan);
    sim.run(1000);
    sim.strike("chaos-1", 1);
    sim.run(1000);
    sim.restart("chaos-1", 1);
    // It answers, and never grows again.
    sim.mode[1] = Mode::Stays;
    sim.run(2800);
    let away = |finding: &Finding| finding.code == "liveness/not-recovered";
    assert!(!sim.found.iter().any(away), "not before its time");
    sim.run(400);
    let found = sim
        .found
        .iter()
        .find(|finding| away(finding))
        .expect("its time is over");
    assert_eq!(found.node.as_deref(), Some("validator-1"));
    assert!(found.expected.contains("3s after the kill of chaos-1"), "{found:?}");
}

#[test]
fn room_is_left_by_what_has_come_back_only() {
    let plan = rehearsed(&[1, 1, 2]);
    let mut sim = Sim::up(&plan);
    sim.run(1000);
    assert_eq!(sim.judge.room_for("chaos-1"), Ok(()));
    sim.strike("chaos-1", 1);
    let why = |sim: &Sim, id: &str| sim.judge.room_for(id).unwrap_err();
    assert_eq!(why(&sim, "chaos-2"), "the kill of chaos-1 is still on validator-1");
    assert!(why(&sim, "chaos-3").contains("20 of 40 is not more than two thirds"));
    sim.run(1000);
    sim.restart("chaos-1", 1);
    assert!(why(&sim, "chaos-2").contains("validator-1 is not with the others again"));
    assert!(why(&sim, "chaos-3").contains("need not go on"));
    sim.run(2000);
    assert_eq!(sim.judge.room_for("chaos-2"), Ok(()));
    assert_eq!(sim.judge.room_for("chaos-3"), Ok(()));
}

#[test]
fn a_step_takes_room_too() {
    let mut plan = rehearsed(&[1]);
    let step = plan.with_fault("victim", FaultKind::Kill, &[2], Lasts::UntilHealed);
    let mut sim = Sim::up(&plan);
    sim.run(1000);
    sim.kill(step, 2);
    assert!(sim.judge.room_for("chaos-1").is_err());
}

#[test]
fn a_number_of_nodes_is_a_budget_also_where_the_chain_may_halt() {
    let mut plan = rehearsed(&[1, 2, 3]);
    let chaos = plan.chaos.as_mut().unwrap();
    chaos.halts = true;
    chaos.most = Some(2);
    let mut sim = Sim::up(&plan);
    sim.run(1000);
    sim.strike("chaos-1", 1);
    assert_eq!(sim.judge.room_for("chaos-2"), Ok(()));
    sim.strike("chaos-2", 2);
    let why = sim.judge.room_for("chaos-3").unwrap_err();
    assert!(why.contains("3 nodes would be struck at once, more than 2"), "{why}");
}

#[test]
fn a_rehearsal_in_which_nothing_struck_does_not_pass() {
    let plan = rehearsed(&[1]);
    let mut sim = Sim::up(&plan);
    sim.run(1000);
    sim.fault("chaos-1", FaultState::Skipped);
    sim.run(2000);
    let report = sim.finish();
    only(&report, "evidence/nothing-rehearsed", Class::Inconclusive, None);
    assert_eq!(report.faults[0].skipped.as_deref(), Some("seen by a probe"));
}
