//! Upgrades: which nodes move to which version, in which batches, and what each batch has to show before the next.

use serde::{Deserialize, Serialize};

use super::{Fault, Ms, NodeName};

/// Nodes that move to another version on the data that they have. The version may be an older one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Upgrade {
    /// The step's id or `step-N`.
    pub id: String,
    /// The version; a key of [`super::Plan::versions`].
    pub to: String,
    /// How the batches were made.
    pub strategy: Strategy,
    /// Which nodes at once, in this order.
    pub batches: Vec<Batch>,
    /// Between a batch that has passed its gate and the next.
    pub pause: Ms,
    /// What each batch has to show.
    pub gate: Gate,
    /// What follows when a batch does not come back, says another version or does not pass its gate.
    pub on_failure: OnFailure,
    /// What each node of the new version has to call itself.
    pub expect_version: String,
    /// At most so many nodes are away at once, which the arithmetic has to bear; `None`: as many as a batch has, whatever that means.
    pub max_unavailable: Option<usize>,
}

/// How the batches of an upgrade are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// One node after the other.
    Rolling,
    /// So many at once.
    Batch,
    /// One node first, then the others.
    Canary,
    /// All at once.
    AllAtOnce,
}

impl Strategy {
    /// The word of the scenario language.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Rolling => "rolling",
            Self::Batch => "batch",
            Self::Canary => "canary",
            Self::AllAtOnce => "all-at-once",
        }
    }
}

/// Nodes that are away together for a moment. Each way is a fault of the plan, so that everything that is said of faults is said of it:
/// it excuses its targets while they are away, and counts in the arithmetic.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Batch {
    /// To the new version: `ID.1`, `ID.2`, …
    pub forth: Fault,
    /// Back to what each node was before, should that be needed: `ID.back.1`, …
    pub back: Fault,
}

impl Batch {
    /// Its nodes.
    #[must_use]
    pub fn nodes(&self) -> &[NodeName] {
        self.forth.targets.nodes()
    }
}

/// What a batch has to show: its nodes are with the others again, beyond the highest height of the moment at which they answered, and the
/// network has grown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gate {
    /// The quorum's height has to grow by this much from that moment.
    pub grow: u64,
    /// From that moment.
    pub within: Ms,
}

/// What follows when an upgrade fails on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnFailure {
    /// Everything stays as it is.
    Stop,
    /// What was moved goes back, the last batch first.
    Rollback,
}

impl Upgrade {
    /// All nodes that move, in the order of the batches.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeName> {
        self.batches.iter().flat_map(Batch::nodes)
    }

    /// The most nodes of a batch.
    #[must_use]
    pub fn widest(&self) -> usize {
        self.batches.iter().map(|batch| batch.nodes().len()).max().unwrap_or(0)
    }
}
