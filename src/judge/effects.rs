//! Faults as the arithmetic of quorums sees them, and who can still talk with whom.

use std::collections::BTreeSet;

use crate::model::{Fault, Plan, Targets, effects};
use crate::quorum::{self, Effect, Engine, Forecast, Net};

/// So many blocks may still appear after a cut.
pub(super) fn slack(net: &Net) -> u64 {
    net.engine.slack(net.powers.iter().filter(|power| **power > 0).count())
}

/// The plan's network with the powers of its genesis. The last power belongs to no node of the plan: there stands what keys have
/// that no node has, without links, so that it counts in the total.
pub(super) fn net_of(plan: &Plan) -> Net {
    let mut net = effects::net_of(plan, effects::engine_of(plan.network.chain));
    net.powers.push(0);
    net
}

/// What a fault does to the network; `None`: nothing that the arithmetic counts. A fault that has not found its leader yet is on any of
/// those that qualify.
pub(super) fn effect_of(plan: &Plan, fault: &Fault, targets: &[usize]) -> Option<Effect> {
    match (effects::effect_of(plan, fault, targets)?, &fault.targets, targets) {
        (Effect::Down(_), Targets::Leader { among }, []) => Some(Effect::SomeDown {
            among: among.iter().filter_map(|name| plan.node_index(name)).collect(),
            count: 1,
        }),
        (effect, ..) => Some(effect),
    }
}

/// What must happen under these effects. Without any effect a network has to go on: that is what it is for.
pub(super) fn forecast(net: &Net, effects: &[Effect]) -> Forecast {
    if effects.is_empty() {
        return Forecast::MustGoOn;
    }
    quorum::reckon(net, effects).forecast
}

/// Nodes that are up and can reach one another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Side {
    pub(super) nodes: Vec<usize>,
    /// Whether it can decide by itself. Faulty power is counted as if it helped.
    pub(super) quorum: bool,
}

/// The sides into which these effects divide the network. Nodes that are certainly down are on none.
pub(super) fn sides(net: &Net, effects: &[Effect]) -> Vec<Side> {
    let mut down = BTreeSet::new();
    let mut cut = BTreeSet::new();
    for effect in effects {
        match effect {
            Effect::Down(nodes) => down.extend(nodes.iter().copied()),
            Effect::Cut(links) => cut.extend(links.iter().copied()),
            Effect::SomeDown { .. } | Effect::Byzantine(_) => {}
        }
    }
    let mut neighbours = vec![Vec::new(); net.powers.len()];
    for &(a, b) in net.links.difference(&cut) {
        if a < net.powers.len() && b < net.powers.len() && !down.contains(&a) && !down.contains(&b) {
            neighbours[a].push(b);
            neighbours[b].push(a);
        }
    }
    let mut seen = vec![false; net.powers.len()];
    let mut sides = Vec::new();
    for start in 0..net.powers.len() {
        if seen[start] || down.contains(&start) {
            continue;
        }
        let (mut nodes, mut next) = (Vec::new(), vec![start]);
        seen[start] = true;
        while let Some(node) = next.pop() {
            nodes.push(node);
            for &other in &neighbours[node] {
                if !seen[other] {
                    seen[other] = true;
                    next.push(other);
                }
            }
        }
        nodes.sort_unstable();
        let quorum = enough(net, &nodes);
        sides.push(Side { nodes, quorum });
    }
    sides
}

/// Whether these nodes can decide by themselves.
pub(super) fn enough(net: &Net, nodes: &[usize]) -> bool {
    let sum = |powers: &mut dyn Iterator<Item = u64>| powers.map(|power| weight(net.engine, power)).sum();
    let part = sum(&mut nodes.iter().filter_map(|&node| net.powers.get(node)).copied());
    let total = sum(&mut net.powers.iter().copied());
    is_quorum(net.engine, part, total)
}

/// What a node with this power weighs in the count.
pub(super) fn weight(engine: Engine, power: u64) -> u128 {
    match engine {
        Engine::Bft => u128::from(power),
        Engine::Clique | Engine::Raft | Engine::LongestChain { .. } => u128::from(power > 0),
    }
}

/// Whether `part` of the `total` weight can decide.
pub(super) const fn is_quorum(engine: Engine, part: u128, total: u128) -> bool {
    match engine {
        Engine::Bft => part * 3 > total * 2,
        Engine::Clique | Engine::Raft => part * 2 > total,
        Engine::LongestChain { .. } => part > 0,
    }
}
