//! A plan as the arithmetic of quorums sees it: who has power, who talks with whom, and what each fault takes away.

use super::{ChainKind, Fault, FaultKind, Plan};
use crate::quorum::{Effect, Engine, Net};

/// What a fault does to the quorum while it is on these nodes (indices of the plan). `None`: nothing that the arithmetic counts, for
/// example a delay or a loss.
#[must_use]
pub fn effect_of(plan: &Plan, fault: &Fault, targets: &[usize]) -> Option<Effect> {
    let nodes = || targets.iter().copied().collect();
    match &fault.kind {
        FaultKind::Kill
        | FaultKind::Remove(_)
        | FaultKind::Drain
        | FaultKind::Machine(_)
        | FaultKind::Pause
        | FaultKind::Stop
        | FaultKind::Restart
        | FaultKind::Upgrade
        | FaultKind::ReadOnly => Some(Effect::Down(nodes())),
        FaultKind::Fill(fill) => fill.is_whole().then(|| Effect::Down(nodes())),
        FaultKind::Partition { sides, .. } => {
            let name = |node: usize| plan.network.nodes.get(node).map(|node| &node.name);
            let side_of = |node: usize| {
                sides
                    .iter()
                    .position(|side| name(node).is_some_and(|name| side.contains(name)))
            };
            Some(Effect::Cut(
                links(plan).filter(|&(a, b)| side_of(a) != side_of(b)).collect(),
            ))
        }
        FaultKind::Isolate { plane: _ } => {
            let touched = |&(a, b): &(usize, usize)| targets.contains(&a) || targets.contains(&b);
            Some(Effect::Cut(links(plan).filter(touched).collect()))
        }
        FaultKind::Misbehave { byzantine: true, .. } => Some(Effect::Byzantine(nodes())),
        FaultKind::Misbehave { byzantine: false, .. }
        | FaultKind::Delay { .. }
        | FaultKind::Loss { .. }
        | FaultKind::Bandwidth { .. }
        | FaultKind::Stress(_) => None,
    }
}

/// The network of a plan with the powers of its genesis, every node up.
#[must_use]
pub fn net_of(plan: &Plan, engine: Engine) -> Net {
    Net {
        engine,
        powers: plan.network.nodes.iter().map(|node| node.power).collect(),
        links: links(plan).collect(),
    }
}

/// So many blocks have to stand on a block before it counts as final: with all that may vote at any time, so that it is the same all through a run.
#[must_use]
pub fn depth(plan: &Plan) -> u64 {
    let voting = plan.network.nodes.iter().filter(|node| node.power > 0).count();
    engine_of(plan.network.chain).depth(voting)
}

/// How a chain's consensus counts.
#[must_use]
pub const fn engine_of(chain: ChainKind) -> Engine {
    match chain {
        ChainKind::Devnode | ChainKind::Cometbft => Engine::Bft,
        ChainKind::Ethereum => Engine::Clique,
    }
}

/// Who is a peer of whom, lower index first.
fn links(plan: &Plan) -> impl Iterator<Item = (usize, usize)> {
    let others = plan.network.links.iter().filter(|(a, b)| a != b);
    others.map(|&(a, b)| (a.min(b), a.max(b)))
}
