//! Chain adapters: what a node is made of, which dialect it speaks, which arithmetic its consensus follows.
//!
//! An adapter never knows where a node runs.

use crate::backend::{Addresses, Job, NodeSpec, Port};
use crate::model::{Ms, Network, Node, Plan, Version};
use crate::quorum::Engine;

/// What trialnet knows of a chain.
pub trait ChainAdapter: Send + Sync {
    /// The word of the scenario language.
    fn name(&self) -> &'static str;

    /// Which arithmetic its consensus follows.
    fn engine(&self) -> Engine;

    /// How its nodes are talked to.
    fn dialect(&self) -> Dialect;

    /// The version taken when the file names none.
    fn default_version(&self) -> &'static str;

    /// What a version is when the file does not say; `None`: this chain has no such version, or the file has to say it.
    fn version(&self, name: &str) -> Option<Version>;

    /// The block interval asked for when the file says none.
    fn default_block_time(&self) -> Ms;

    /// Checks configuration keys and values as far as they are known.
    ///
    /// # Errors
    /// A message for each key that is wrong, by key, with what would be right.
    fn check_config(&self, version: &str, key: &str, value: &serde_json::Value) -> Result<(), ConfigProblem>;

    /// Who dials whom, as pairs of indices into the nodes.
    fn topology(&self, nodes: &[Node]) -> Vec<(usize, usize)>;

    /// The ports of a node. The one named `rpc` is what the observer talks to; the one named `p2p` is where links lead.
    fn ports(&self) -> Vec<Port>;

    /// Safe defaults of the invariants for this network, with as many nodes down as it stands: (max_stall, max_lag).
    fn default_invariants(&self, network: &Network) -> (Ms, u64);

    /// Jobs and nodes for a plan. Deterministic: the same plan and addresses give the same bytes (keys come from the seed).
    ///
    /// # Errors
    /// What cannot be rendered, in words.
    fn render(&self, plan: &Plan, addresses: &Addresses) -> Result<Rendered, ChainError>;
}

/// How nodes are talked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// CometBFT's RPC, which the devnode speaks too.
    Comet,
}

/// What an adapter made of a plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rendered {
    /// Run in order, before the nodes are applied.
    pub jobs: Vec<Job>,
    /// One for each node of the plan, in its order.
    pub nodes: Vec<NodeSpec>,
}

/// A configuration key or value that the chain would not take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigProblem {
    /// What is wrong.
    pub message: String,
    /// What would be right.
    pub help: Option<String>,
    /// Whether the key (rather than its value) is what is wrong.
    pub key: bool,
}

/// A plan that cannot be rendered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("render {what}: {why}")]
pub struct ChainError {
    /// What.
    pub what: String,
    /// Why not.
    pub why: String,
}
