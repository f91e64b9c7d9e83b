//! What may fail: the arithmetic of quorums, used by validation, `pick`, disruption budgets, upgrades and the judge.
//!
//! A pure module over plain numbers: nodes are indices, powers are integers, effects are sets.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

/// How a chain's consensus counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// More than two thirds of the power.
    Bft,
    /// Clique: ⌊n/2⌋+1 of the sealers, one each.
    Clique,
    /// Raft: a majority of the members, one each.
    Raft,
    /// Longest chain: any block producer goes on; final below this depth.
    LongestChain {
        /// Blocks until a block counts as final.
        depth: u64,
    },
}

/// What the arithmetic says of a network under a set of effects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Forecast {
    /// It has to grow.
    MustGoOn,
    /// It cannot grow.
    MustHalt,
    /// Either may happen.
    Undetermined,
}

/// A network as the arithmetic sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Net {
    /// How it counts.
    pub engine: Engine,
    /// Voting power by node; 0 for nodes that do not vote. Everybody's power counts in the total, also of nodes that are down.
    pub powers: Vec<u64>,
    /// Undirected peer links; messages are relayed along them by every node that is up.
    pub links: BTreeSet<(usize, usize)>,
}

/// What a fault does, as sets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// These nodes are down or silent.
    Down(BTreeSet<usize>),
    /// Some `count` of these nodes are down, nobody knows which (the leader of the moment).
    SomeDown {
        /// The nodes that qualify.
        among: BTreeSet<usize>,
        /// How many of them.
        count: usize,
    },
    /// These links (lower index first) carry nothing.
    Cut(BTreeSet<(usize, usize)>),
    /// These nodes may say anything or nothing: their power cannot be counted on, and counts against f.
    Byzantine(BTreeSet<usize>),
}

/// A forecast and the sum that shows why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reckoned {
    /// What must happen.
    pub forecast: Forecast,
    /// For example `30 of 40 is more than two thirds (26.7)`.
    pub why: String,
}

/// How many nodes a `pick` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pick {
    /// So many.
    Count(usize),
    /// Half of the candidates, rounded down.
    Half,
    /// As many as may fail, by power, over and above what has failed already.
    F,
    /// The fewest that make the network halt.
    FPlusOne,
    /// Candidates that together hold less than half of the power, as many as possible.
    Minority,
}

/// What must happen in a network while all of these effects are on.
#[must_use]
pub fn reckon(net: &Net, effects: &[Effect]) -> Reckoned {
    let _ = (net, effects);
    Reckoned {
        forecast: Forecast::Undetermined,
        why: String::new(),
    }
}

/// Chooses nodes. `order` is a random permutation of the candidates (from the seed); the choice prefers its beginning.
///
/// # Errors
/// Why there is no such choice, with the sum.
pub fn pick(net: &Net, effects: &[Effect], order: &[usize], pick: Pick) -> Result<Vec<usize>, String> {
    let _ = (net, effects, order, pick);
    Err(String::new())
}

impl fmt::Display for Forecast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::MustGoOn => "must go on",
            Self::MustHalt => "must halt",
            Self::Undetermined => "undetermined",
        })
    }
}
