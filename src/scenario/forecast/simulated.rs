//! Random plans, played through with random durations of their steps: what the forecast says holds in each of them.

use std::collections::BTreeSet;

use proptest::collection::{btree_set, vec};
use proptest::prelude::*;

use super::tests::{Draft, HELD, mesh};
use super::*;
use crate::model::effects::net_of;
use crate::model::{Bounds, FaultKind};
use crate::quorum::reckon;

/// A step of a random plan; faults are meant by their number, modulo how many there are.
#[derive(Clone, Debug)]
enum Op {
    Kill(BTreeSet<usize>, Lasts),
    /// A kill that the platform ends.
    Crash(BTreeSet<usize>),
    Split(BTreeSet<usize>, Lasts),
    Heal(usize),
    Start(BTreeSet<usize>),
    Wait(u64),
    Peers(u64),
    Halt(usize, u64),
    Progress(u64, u64),
    Recovery(usize, u64),
}

fn any_op() -> impl Strategy<Value = Op> {
    let lasts = || prop_oneof![Just(HELD), (1_u64..25).prop_map(|secs| Lasts::For(Ms::secs(secs)))];
    let nodes = || btree_set(0_usize..4, 1..=2);
    prop_oneof![
        3 => (nodes(), lasts()).prop_map(|(nodes, lasts)| Op::Kill(nodes, lasts)),
        2 => nodes().prop_map(Op::Crash),
        1 => (nodes(), lasts()).prop_map(|(nodes, lasts)| Op::Split(nodes, lasts)),
        1 => (0_usize..4).prop_map(Op::Heal),
        1 => nodes().prop_map(Op::Start),
        1 => (1_u64..8).prop_map(Op::Wait),
        1 => (1_u64..8).prop_map(Op::Peers),
        3 => (0_usize..4, 1_u64..8).prop_map(|(fault, hold)| Op::Halt(fault, hold)),
        2 => (1_u64..10, 1_u64..30).prop_map(|(blocks, within)| Op::Progress(blocks, within)),
        2 => (0_usize..4, 1_u64..30).prop_map(|(fault, within)| Op::Recovery(fault, within)),
    ]
}

fn plan_of(powers: [u64; 4], ops: &[Op]) -> Plan {
    let mut faults = Vec::new();
    let mut draft = mesh(&powers);
    draft.0.backend = crate::model::BackendKind::Kubernetes;
    draft.0.limits.start = Ms::secs(20);
    ops.iter().fold(draft, |draft, op| add(draft, &mut faults, op)).0
}

fn add(draft: Draft, faults: &mut Vec<String>, op: &Op) -> Draft {
    let id = format!("fault-{}", faults.len());
    let earlier = |number: usize| faults.get(number % faults.len().max(1)).cloned();
    let list = |nodes: &BTreeSet<usize>| nodes.iter().copied().collect::<Vec<usize>>();
    match op {
        Op::Kill(nodes, lasts) => {
            faults.push(id.clone());
            draft.kill(&id, &list(nodes), *lasts)
        }
        Op::Crash(nodes) => {
            faults.push(id.clone());
            draft.kill(&id, &list(nodes), Lasts::Platform)
        }
        Op::Split(nodes, lasts) => {
            faults.push(id.clone());
            let others: Vec<usize> = (0..4).filter(|node| !nodes.contains(node)).collect();
            draft.split(&id, &[&list(nodes), &others], *lasts)
        }
        Op::Start(nodes) => draft.start(&list(nodes)),
        Op::Wait(secs) => draft.wait(*secs),
        Op::Peers(secs) => draft.expect(What::Peers(Bounds::default()), Window::Within(Ms::secs(*secs))),
        Op::Progress(blocks, secs) => draft.progress(*blocks, *secs),
        Op::Heal(number) => match earlier(*number) {
            Some(id) => draft.heal(&[&id]),
            None => draft,
        },
        Op::Halt(number, secs) => match earlier(*number) {
            Some(id) => draft.halt(&id, *secs),
            None => draft,
        },
        Op::Recovery(number, secs) => match earlier(*number) {
            Some(id) => draft.recovery(&id, *secs),
            None => draft,
        },
    }
}

/// A fault in a run, with the moment at which each of its targets is free of it.
struct Played {
    fault: Fault,
    begin: i64,
    ends: Vec<(NodeName, i64)>,
}

/// One run of a plan.
struct Run<'a> {
    plan: &'a Plan,
    net: Net,
    now: i64,
    faults: Vec<Played>,
}

impl Run<'_> {
    fn halted(&self, at: i64) -> bool {
        let on = self.faults.iter().filter(|played| played.begin <= at);
        let effects = on.filter_map(|played| {
            let targets: Vec<NodeName> = played
                .ends
                .iter()
                .filter(|(_, end)| at < *end)
                .map(|(name, _)| name.clone())
                .collect();
            if targets.is_empty() {
                None
            } else {
                effects_of(self.plan, &played.fault, &targets)
            }
        });
        reckon(&self.net, &effects.collect::<Vec<_>>()).forecast == Forecast::MustHalt
    }

    /// How long the chain is halted within a span.
    fn halted_for(&self, from: i64, to: i64) -> i64 {
        let ends = self
            .faults
            .iter()
            .flat_map(|played| played.ends.iter().map(|(_, end)| *end).chain([played.begin]));
        let turns: BTreeSet<i64> = ends
            .filter(|turn| (from..to).contains(turn))
            .chain([from, to])
            .collect();
        let turns: Vec<i64> = turns.into_iter().collect();
        turns
            .windows(2)
            .filter(|turn| self.halted(turn[0]))
            .map(|turn| turn[1] - turn[0])
            .sum()
    }

    fn grows(&self, from: i64, within: i64, needs: i64) -> bool {
        self.grows_until(from, self.now + within, within, needs)
    }

    fn grows_until(&self, from: i64, to: i64, within: i64, needs: i64) -> bool {
        let grows = to - from - self.halted_for(from, to);
        grows > 0 && (grows >= within || grows >= needs)
    }

    fn played(&self, id: &str) -> &Played {
        self.faults.iter().find(|played| played.fault.id == id).unwrap()
    }

    /// Plays a step that takes `share` of what it may take. Whether it came true.
    fn step(&mut self, step: &Step, share: f64) -> bool {
        let part = |most: i64| (share * most as f64) as i64;
        // No two faults begin at the same moment.
        let short = part(timeline::millis(SHORT_STEP)).max(1);
        let block = timeline::millis(self.plan.network.block_time);
        match &step.action {
            Action::Fault(fault) => {
                self.now += short;
                let Targets::Nodes(targets) = &fault.targets else {
                    unreachable!()
                };
                let end = match fault.lasts {
                    Lasts::For(lasts) => self.now + timeline::millis(lasts),
                    Lasts::Platform => self.now + part(timeline::millis(self.plan.limits.start)),
                    _ => timeline::FOREVER,
                };
                self.faults.push(Played {
                    fault: fault.clone(),
                    begin: self.now,
                    ends: targets.iter().map(|name| (name.clone(), end)).collect(),
                });
            }
            Action::Heal { faults } => {
                self.now += short;
                // For what the platform ends it only waits.
                let waits = self.faults.iter().filter(|played| faults.contains(&played.fault.id));
                let waits = waits.filter(|played| played.fault.lasts == Lasts::Platform);
                let back = waits.flat_map(|played| played.ends.iter().map(|(_, end)| *end)).max();
                self.now = self.now.max(back.unwrap_or(0));
                self.end(|played, _| faults.contains(&played.id));
            }
            Action::Start { nodes } => {
                self.now += short;
                let held = |played: &Fault| played.kind == FaultKind::Kill && played.lasts != Lasts::Platform;
                self.end(|played, name| held(played) && nodes.contains(name));
            }
            Action::Wait(duration) => self.now += timeline::millis(*duration),
            Action::Expect(Expect { what, window, .. }) => {
                let (Window::Within(limit) | Window::For(limit)) = window else {
                    unreachable!()
                };
                let limit = timeline::millis(*limit);
                match what {
                    What::Halt { of } => {
                        let begin = self.played(of).begin;
                        let until = self.now.max(begin + block) + limit;
                        let halted = self.halted_for(begin, until) == until - begin;
                        self.now = until;
                        return halted;
                    }
                    What::Progress { blocks } => {
                        let grows = self.grows(self.now, limit, *blocks as i64 * block);
                        self.now += part(limit);
                        return grows;
                    }
                    What::Recovery { of } => {
                        let end = self.played(of).ends.iter().map(|(_, end)| *end).max().unwrap();
                        let from = end.max(self.now);
                        let platform = self.played(of).fault.lasts == Lasts::Platform;
                        let to = if platform { from } else { self.now } + limit;
                        let recovers = from < to && self.grows_until(from, to, limit, block);
                        self.now = from + part((to - from).max(0));
                        return recovers;
                    }
                    _ => self.now += part(limit),
                }
            }
            _ => unreachable!(),
        }
        true
    }

    fn end(&mut self, ends: impl Fn(&Fault, &NodeName) -> bool) {
        for played in &mut self.faults {
            for (name, end) in &mut played.ends {
                if ends(&played.fault, name) {
                    *end = self.now.min(*end);
                }
            }
        }
    }
}

/// The first step that does not come true.
fn play(plan: &Plan, shares: &[f64]) -> Option<usize> {
    let mut run = Run {
        plan,
        net: net_of(plan, Engine::Bft),
        now: 0,
        faults: Vec::new(),
    };
    plan.steps
        .iter()
        .zip(shares)
        .find(|(step, share)| !run.step(step, **share))
        .map(|(step, _)| step.index)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn what_is_forecast_holds_in_every_run(
        powers in prop_oneof![Just([10; 4]), Just([40, 30, 20, 10])],
        ops in vec(any_op(), 2..8),
        runs in vec(vec(prop_oneof![Just(0.0), Just(1.0), 0.0..1.0], 8), 6),
    ) {
        let plan = plan_of(powers, &ops);
        let problems = forecast(&plan, Engine::Bft).problems;
        for shares in runs {
            let failed = play(&plan, &shares);
            if problems.is_empty() {
                prop_assert_eq!(failed, None, "accepted, but fails with {:?}", shares);
            }
            for problem in problems.iter().filter(|problem| matches!(problem.code, CONTRADICTION | RECOVERY_IMPOSSIBLE)) {
                prop_assert!(failed.is_some_and(|step| step <= problem.step), "{problem:?}, but {failed:?} with {shares:?}");
            }
        }
    }
}
