//! What the quorum arithmetic says of a plan, step by step.

use std::collections::BTreeSet;

use crate::model::{Fault, FaultKind, NodeName, Plan, Sum};
use crate::quorum::{Effect, Engine, Net};

/// What the arithmetic says of a plan.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Forecasted {
    /// One for each step.
    pub sums: Vec<Sum>,
    /// Where the plan contradicts it.
    pub problems: Vec<Problem>,
}

/// A contradiction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The index of the step.
    pub step: usize,
    /// For example `quorum/contradiction`.
    pub code: &'static str,
    /// What is wrong, with the sum.
    pub message: String,
    /// The way out.
    pub help: String,
}

/// Reckons the whole timeline.
#[must_use]
pub fn forecast(plan: &Plan, engine: Engine) -> Forecasted {
    let _ = (plan, engine);
    Forecasted::default()
}

/// The network of a plan as the arithmetic sees it.
#[must_use]
pub fn net_of(plan: &Plan, engine: Engine) -> Net {
    Net {
        engine,
        powers: plan.network.nodes.iter().map(|node| node.power).collect(),
        links: plan.network.links.iter().map(|&(a, b)| (a.min(b), a.max(b))).collect(),
    }
}

/// What a fault with these targets does to the network; `None`: nothing that counts.
#[must_use]
pub fn effects_of(plan: &Plan, fault: &Fault, targets: &[NodeName]) -> Option<Effect> {
    let indices: BTreeSet<usize> = targets.iter().filter_map(|name| plan.node_index(name)).collect();
    match &fault.kind {
        FaultKind::Kill | FaultKind::Pause | FaultKind::Stop | FaultKind::Isolate { .. } => Some(Effect::Down(indices)),
        FaultKind::Misbehave { byzantine: true, .. } => Some(Effect::Byzantine(indices)),
        FaultKind::Partition { .. } | FaultKind::Restart | FaultKind::Delay { .. } | FaultKind::Misbehave { .. } => {
            None
        }
    }
}
