//! The schedule of a rehearsal, drawn from the seed: pure, so that the same seed gives the same faults at the same times.
//!
//! Beginnings are a memoryless process in steps of ten milliseconds, all in whole numbers: no library and no machine gives another
//! schedule for a seed. A fault holds its nodes from its beginning until a margin after its end, in which they catch up. Faults are
//! drawn in the order of their beginnings and what is on only grows less until the next one begins, so it is enough that the
//! budget is kept at each beginning.

use std::collections::BTreeSet;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use sha2::{Digest, Sha256};

use super::forecast::effects_of;
use crate::model::effects::net_of;
use crate::model::{Fault, FaultKind, Lasts, Ms, Plan, Plane, Targets, Timed};
use crate::quorum::{Effect, Engine, Forecast, Net, reckon};

/// The resolution of beginnings.
const TICK: Ms = Ms(10);
/// How long a restart takes, as far as the drawing goes.
const RESTART: Ms = Ms(1_500);
/// Every so many faults strike more than one node, where the budget allows it.
const SEVERAL: u64 = 4;

/// What a schedule is drawn from.
#[derive(Clone, Debug)]
pub(super) struct Draw {
    /// No fault begins later, from *ready*.
    pub(super) duration: Ms,
    /// The mean time from one beginning to the next; at least [`TICK`].
    pub(super) every: Ms,
    /// The shortest and the longest fault.
    pub(super) lasts: (Ms, Ms),
    /// The kinds, each with its weight; not all zero.
    pub(super) kinds: Vec<(Kind, u64)>,
    /// Whom it may strike.
    pub(super) nodes: Vec<usize>,
    /// The least and the greatest latency of a delay.
    pub(super) latency: (Ms, Ms),
    /// How long a node counts as struck after its fault.
    pub(super) margin: Ms,
    pub(super) budget: Budget,
}

/// What may be struck at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    /// At most so many nodes.
    pub(super) most: Option<usize>,
    /// The chain may halt.
    pub(super) halts: bool,
}

/// The kinds of faults that a rehearsal draws.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Kill,
    Pause,
    Stop,
    Restart,
    Isolate,
    Partition,
    Delay,
}

/// A fault that is on at some moment of the schedule.
struct On {
    /// The nodes that it holds.
    nodes: BTreeSet<usize>,
    effect: Option<Effect>,
    until: Ms,
}

/// Draws a schedule. Where there is no room for a fault at its time, there is none.
pub(super) fn draw(plan: &Plan, engine: Engine, draw: &Draw) -> Vec<Timed> {
    let net = net_of(plan, engine);
    let mut dice = Dice::new(plan.seed);
    let mut on: Vec<On> = Vec::new();
    let mut schedule: Vec<Timed> = Vec::new();
    let mut at = Ms(0);
    while at < draw.duration {
        at = at + TICK;
        if dice.below(draw.every.0) >= TICK.0 {
            continue;
        }
        on.retain(|on| on.until > at);
        // As many dice for a fault that has no room as for one that has: what comes later hangs less on what came before.
        let kind = dice.weighted(&draw.kinds);
        let lasts = Ms(dice.between(draw.lasts.0.0, draw.lasts.1.0) / TICK.0 * TICK.0).max(TICK);
        let latency = Ms(dice.between(draw.latency.0.0, draw.latency.1.0));
        let several = dice.below(SEVERAL) == 0;
        let wanted = if several { 2 + dice.below(len(&draw.nodes)) } else { 1 };
        let order = dice.shuffled(&draw.nodes);
        let id = format!("chaos-{}", schedule.len() + 1);
        let make = |nodes: &BTreeSet<usize>| fault(plan, &id, kind, nodes, (lasts, latency));
        let mut chosen = BTreeSet::new();
        for node in order {
            if len(&chosen) >= wanted {
                break;
            }
            let mut more = chosen.clone();
            more.insert(node);
            if has_room(plan, &net, draw.budget, &on, &more, &make(&more)) {
                chosen = more;
            }
        }
        if chosen.is_empty() {
            continue;
        }
        let fault = make(&chosen);
        on.push(On {
            effect: effect(plan, &fault),
            nodes: chosen,
            until: at + held(&fault) + draw.margin,
        });
        schedule.push(Timed { at, fault });
    }
    schedule
}

/// What a schedule takes away at its worst moments, one set of effects for each of them. Without the effects that the arithmetic does not
/// know, and each set once.
pub(super) fn moments(plan: &Plan, schedule: &[Timed], margin: Ms) -> Vec<Vec<Effect>> {
    let mut moments: Vec<Vec<Effect>> = Vec::new();
    for now in schedule {
        let on = |timed: &&Timed| timed.at <= now.at && timed.at + held(&timed.fault) + margin > now.at;
        let on = schedule.iter().filter(on);
        let effects: Vec<Effect> = on.filter_map(|timed| effect(plan, &timed.fault)).collect();
        if !effects.is_empty() && !moments.contains(&effects) {
            moments.push(effects);
        }
    }
    moments
}

/// The first fault of a schedule with which the chain need not go on, and why.
pub(super) fn beyond(plan: &Plan, engine: Engine, schedule: &[Timed]) -> Option<(usize, String)> {
    let net = net_of(plan, engine);
    (0..schedule.len()).find_map(|last| {
        let now = schedule[last].at;
        let on = |timed: &&Timed| timed.at + held(&timed.fault) > now;
        let effects: Vec<Effect> = (schedule[..=last].iter().filter(on))
            .filter_map(|timed| effect(plan, &timed.fault))
            .collect();
        let reckoned = reckon(&net, &effects);
        (!effects.is_empty() && reckoned.forecast != Forecast::MustGoOn).then_some((last, reckoned.why))
    })
}

/// How long a fault is on.
pub(super) fn held(fault: &Fault) -> Ms {
    match fault.lasts {
        Lasts::For(time) => time,
        _ => RESTART,
    }
}

fn effect(plan: &Plan, fault: &Fault) -> Option<Effect> {
    effects_of(plan, fault, fault.targets.nodes())
}

/// Whether these nodes may be struck besides what is on.
fn has_room(plan: &Plan, net: &Net, budget: Budget, on: &[On], nodes: &BTreeSet<usize>, fault: &Fault) -> bool {
    if on.iter().any(|on| !on.nodes.is_disjoint(nodes)) {
        return false;
    }
    let struck: usize = on.iter().map(|on| on.nodes.len()).sum();
    if budget.most.is_some_and(|most| struck + nodes.len() > most) {
        return false;
    }
    // What cuts or slows no link would have no effect.
    let idle = match &fault.kind {
        // And the nodes that were chosen have to be those that are cut off, not those that go on.
        FaultKind::Partition { .. } => fault.targets.nodes().is_empty() || plan.struck(fault) != *nodes,
        FaultKind::Isolate { .. } => !linked(plan, nodes),
        FaultKind::Delay { links, .. } => links.is_empty(),
        _ => false,
    };
    if idle {
        return false;
    }
    let effects: Vec<Effect> = on.iter().filter_map(|on| on.effect.clone()).collect();
    let effects: Vec<Effect> = effects.into_iter().chain(effect(plan, fault)).collect();
    budget.halts || effects.is_empty() || reckon(net, &effects).forecast == Forecast::MustGoOn
}

fn linked(plan: &Plan, nodes: &BTreeSet<usize>) -> bool {
    let links = || plan.network.links.iter();
    nodes.iter().all(|node| links().any(|(a, b)| a == node || b == node))
}

/// A fault of a kind on some nodes.
pub(super) fn fault(plan: &Plan, id: &str, kind: Kind, nodes: &BTreeSet<usize>, how: (Ms, Ms)) -> Fault {
    let (lasts, latency) = how;
    let name = |node: &usize| plan.network.nodes[*node].name.clone();
    let names = |nodes: &mut dyn Iterator<Item = usize>| nodes.map(|node| name(&node)).collect::<Vec<_>>();
    let mut targets: Vec<String> = nodes.iter().map(name).collect();
    let all = 0..plan.network.nodes.len();
    let kind = match kind {
        Kind::Kill => FaultKind::Kill,
        Kind::Pause => FaultKind::Pause,
        Kind::Stop => FaultKind::Stop,
        Kind::Restart => FaultKind::Restart,
        Kind::Isolate => FaultKind::Isolate { plane: Plane::P2p },
        Kind::Partition => {
            let links = plan.network.links.iter();
            let cut = links.filter(|(a, b)| nodes.contains(a) != nodes.contains(b));
            let ends: BTreeSet<usize> = cut.flat_map(|&(a, b)| [a, b]).collect();
            let sides = vec![
                names(&mut all.filter(|node| !nodes.contains(node))),
                std::mem::take(&mut targets),
            ];
            targets = names(&mut ends.into_iter());
            FaultKind::Partition {
                sides,
                plane: Plane::P2p,
                one_way: false,
            }
        }
        Kind::Delay => {
            let links = plan.network.links.iter().map(|&(a, b)| (a.min(b), a.max(b)));
            let slow: BTreeSet<(usize, usize)> =
                links.filter(|(a, b)| nodes.contains(a) || nodes.contains(b)).collect();
            FaultKind::Delay {
                links: slow.iter().map(|(a, b)| (name(a), name(b))).collect(),
                latency,
                jitter: Ms(0),
                each: Vec::new(),
            }
        }
    };
    Fault {
        id: id.to_owned(),
        lasts: if kind == FaultKind::Restart {
            Lasts::Itself
        } else {
            Lasts::For(lasts)
        },
        kind,
        targets: Targets::Nodes(targets),
        component: None,
        wipe: false,
        on_restart: crate::model::OnRestart::Reapply,
    }
}

/// A stream of choices of its own, so that the picks of the steps do not change it.
struct Dice(ChaCha8Rng);

impl Dice {
    fn new(seed: u64) -> Self {
        let key: [u8; 32] = Sha256::new()
            .chain_update(seed.to_le_bytes())
            .chain_update(b"[chaos]")
            .finalize()
            .into();
        Self(ChaCha8Rng::from_seed(key))
    }

    /// Below a bound of at least 1.
    fn below(&mut self, bound: u64) -> u64 {
        self.0.next_u64() % bound.max(1)
    }

    /// Both ends included.
    fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.below(most.saturating_sub(least).saturating_add(1))
    }

    fn weighted(&mut self, kinds: &[(Kind, u64)]) -> Kind {
        let total: u64 = kinds.iter().map(|(_, weight)| weight).sum();
        let mut left = self.below(total);
        for (kind, weight) in kinds {
            if left < *weight {
                return *kind;
            }
            left -= weight;
        }
        Kind::Kill
    }

    fn shuffled(&mut self, nodes: &[usize]) -> Vec<usize> {
        let mut order = nodes.to_vec();
        for last in (1..order.len()).rev() {
            let other = self.below(u64::try_from(last + 1).unwrap_or(u64::MAX));
            order.swap(last, usize::try_from(other).unwrap_or(last));
        }
        order
    }
}

fn len<'a, T: 'a>(items: impl IntoIterator<Item = &'a T>) -> u64 {
    u64::try_from(items.into_iter().count()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::chain::tests::plan;
    use crate::model::ChainKind;

    fn all() -> Vec<(Kind, u64)> {
        [
            Kind::Kill,
            Kind::Pause,
            Kind::Stop,
            Kind::Restart,
            Kind::Isolate,
            Kind::Partition,
            Kind::Delay,
        ]
        .map(|kind| (kind, 1))
        .to_vec()
    }

    fn draft(nodes: usize) -> Draw {
        Draw {
            duration: Ms::secs(60),
            every: Ms(500),
            lasts: (Ms(200), Ms(4_000)),
            kinds: all(),
            nodes: (0..nodes).collect(),
            latency: (Ms(20), Ms(200)),
            margin: Ms(2_000),
            budget: Budget {
                most: None,
                halts: false,
            },
        }
    }

    fn seeded(seed: u64, powers: &[u64]) -> Plan {
        let mut plan = plan(ChainKind::Devnode, powers.len(), 2);
        plan.seed = seed;
        for (node, power) in plan.network.nodes.iter_mut().zip(powers) {
            node.power = *power;
        }
        plan
    }

    /// What is on at a moment, reckoned anew from the schedule alone.
    fn on_at(schedule: &[Timed], at: Ms, margin: Ms) -> Vec<&Fault> {
        let on = |timed: &&Timed| timed.at <= at && at < timed.at + held(&timed.fault) + margin;
        schedule.iter().filter(on).map(|timed| &timed.fault).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        /// At no moment is more down or cut off than the engine tolerates, margins included.
        #[test]
        fn the_budget_is_never_exceeded(
            seed in any::<u64>(),
            powers in prop::collection::vec(1_u64..30, 1..9),
            every in 100_u64..3_000,
            longest in 200_u64..8_000,
            margin in 0_u64..4_000,
            most in prop::option::of(1_usize..5),
        ) {
            let plan = seeded(seed, &powers);
            let net = net_of(&plan, Engine::Bft);
            let settings = Draw {
                every: Ms(every),
                lasts: (Ms(200), Ms(longest)),
                margin: Ms(margin),
                budget: Budget { most, halts: false },
                ..draft(powers.len())
            };
            let schedule = draw(&plan, Engine::Bft, &settings);
            prop_assert!(schedule.is_sorted_by_key(|timed| timed.at));
            prop_assert!(schedule.iter().all(|timed| timed.at <= settings.duration));
            // Every moment at which something begins or ends, and those around it.
            let turns = schedule.iter().flat_map(|timed| {
                let end = timed.at + held(&timed.fault) + settings.margin;
                [timed.at, timed.at + Ms(1), Ms(end.0 - 1), end]
            });
            for at in turns {
                let on = on_at(&schedule, at, settings.margin);
                let effects: Vec<Effect> = on.iter().filter_map(|fault| effect(&plan, fault)).collect();
                let reckoned = reckon(&net, &effects);
                prop_assert!(
                    effects.is_empty() || reckoned.forecast == Forecast::MustGoOn,
                    "at {at}: {}", reckoned.why
                );
                let mut struck = BTreeSet::new();
                for fault in &on {
                    for node in plan.struck(fault) {
                        prop_assert!(struck.insert(node), "node {node} is struck twice at {at}");
                    }
                }
                prop_assert!(most.is_none_or(|most| struck.len() <= most), "at {at}: {struck:?}");
            }
            prop_assert_eq!(beyond(&plan, Engine::Bft, &schedule), None);
        }

        /// The same seed gives the same schedule.
        #[test]
        fn the_seed_decides(seed in any::<u64>()) {
            let plan = seeded(seed, &[10; 7]);
            prop_assert_eq!(draw(&plan, Engine::Bft, &draft(7)), draw(&plan, Engine::Bft, &draft(7)));
        }
    }

    #[test]
    fn the_schedule_of_a_seed_never_changes() {
        // If this fails, every printed seed of the past gives another rehearsal.
        let plan = seeded(1, &[10; 7]);
        let schedule = draw(
            &plan,
            Engine::Bft,
            &Draw {
                duration: Ms::secs(4),
                ..draft(7)
            },
        );
        let words: Vec<String> = schedule
            .iter()
            .map(|Timed { at, fault }| {
                let nodes: Vec<String> = plan.struck(fault).iter().map(usize::to_string).collect();
                format!("{at} {} {} {}", fault.kind.word(), nodes.join("+"), held(fault))
            })
            .collect();
        insta::assert_debug_snapshot!(words);
    }

    #[test]
    fn with_a_budget_it_reaches_it_and_every_kind_comes() {
        let plan = seeded(3, &[10; 7]);
        let schedule = draw(&plan, Engine::Bft, &draft(7));
        let kinds: BTreeSet<&str> = schedule.iter().map(|timed| timed.fault.kind.word()).collect();
        assert_eq!(kinds.len(), 7, "{kinds:?}");
        let at_once = schedule.iter().map(|timed| on_at(&schedule, timed.at, Ms(0)).len());
        assert!(at_once.max() >= Some(2), "f is two of seven");
    }

    #[test]
    fn a_halt_can_be_allowed() {
        let plan = seeded(3, &[10; 4]);
        let settings = Draw {
            kinds: vec![(Kind::Kill, 1)],
            budget: Budget {
                most: Some(3),
                halts: true,
            },
            ..draft(4)
        };
        let schedule = draw(&plan, Engine::Bft, &settings);
        assert!(beyond(&plan, Engine::Bft, &schedule).is_some());
        assert!(!moments(&plan, &schedule, Ms(0)).is_empty());
    }

    #[test]
    fn where_nothing_may_fail_nothing_is_struck() {
        let plan = seeded(3, &[10; 3]);
        let settings = Draw {
            kinds: vec![(Kind::Kill, 1), (Kind::Isolate, 1)],
            ..draft(3)
        };
        assert_eq!(draw(&plan, Engine::Bft, &settings), []);
    }
}
