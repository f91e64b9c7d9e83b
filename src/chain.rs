//! Chain adapters: what a node is made of, which dialect it speaks, which arithmetic its consensus follows.
//!
//! An adapter never knows where a node runs.

pub mod cometbft;
pub mod devnode;
pub mod ethereum;
mod keys;
pub mod rpc;
mod topology;
mod tx;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::backend::{
    Addresses, Component, File, Job, JobOutput, LinkId, NodeAddresses, NodeSpec, Place, Port, Program,
};
use crate::model::{ChainKind, Ms, Network, Node, NodeName, Plan, Role, Start, Version};
use crate::quorum::Engine;

pub use cometbft::stand_ins;
pub use keys::{ValidatorKey, validator_key};
pub use tx::{SENDERS, load_tx, send_load, tx_bytes, tx_hash};

/// The port that the observer talks to.
pub const RPC: &str = "rpc";
/// The port where links lead.
pub const P2P: &str = "p2p";

/// The adapter of a chain.
#[must_use]
pub fn adapter(kind: ChainKind) -> &'static dyn ChainAdapter {
    match kind {
        ChainKind::Devnode => &devnode::Devnode,
        ChainKind::Cometbft => &cometbft::Cometbft,
        ChainKind::Ethereum => &ethereum::Ethereum,
    }
}

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

    /// The interval between blocks is a multiple of this.
    fn block_step(&self) -> Ms {
        Ms(1)
    }

    /// Checks configuration keys and values as far as they are known.
    ///
    /// # Errors
    /// A message for each key that is wrong, by key, with what would be right.
    fn check_config(&self, version: &str, key: &str, value: &serde_json::Value) -> Result<(), ConfigProblem>;

    /// Who dials whom, as pairs of indices into the nodes.
    fn topology(&self, nodes: &[Node]) -> Vec<(usize, usize)>;

    /// The ports of a node. The one named `rpc` is what the observer talks to; the one named `p2p` is where links lead.
    fn ports(&self) -> Vec<Port>;

    /// Texts in a node's log by which its program says that it is broken.
    fn alarms(&self) -> &'static [&'static str] {
        &[]
    }

    /// The volumes of a node by name.
    fn volumes(&self, network: &Network) -> Vec<String>;

    /// The names of a node's components, in the order in which they start.
    fn components(&self, network: &Network) -> Vec<&'static str>;

    /// Safe defaults of the invariants for this network, with as many nodes down as it stands: (max_stall, max_lag).
    fn default_invariants(&self, network: &Network) -> (Ms, u64);

    /// What has to run before the nodes can be rendered: those of one node in their order, those of different nodes side by side.
    ///
    /// # Errors
    /// What cannot be prepared, in words.
    fn prepare(&self, plan: &Plan, addresses: &Addresses) -> Result<Vec<Job>, ChainError>;

    /// The nodes of a plan; `outputs` is what the jobs of [`ChainAdapter::prepare`] printed, by their names. Deterministic: the same plan,
    /// addresses and outputs give the same bytes (keys come from the seed).
    ///
    /// # Errors
    /// What cannot be rendered, in words.
    fn render(
        &self,
        plan: &Plan,
        addresses: &Addresses,
        outputs: &BTreeMap<String, JobOutput>,
    ) -> Result<Rendered, ChainError>;
}

/// How nodes are talked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Dialect {
    /// CometBFT's RPC, which the devnode speaks too.
    Comet,
    /// Ethereum's JSON-RPC.
    Eth,
}

/// What an adapter made of a plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rendered {
    /// One for each node of the plan, in its order.
    pub nodes: Vec<NodeSpec>,
    /// The consensus keys that do not come from the seed.
    pub keys: ForeignKeys,
    /// What has to be said to a node at the port `p2p` before it answers; whoever is not here speaks first.
    pub knocks: Knocks,
}

/// What has to be said to nodes before they answer.
pub type Knocks = BTreeMap<NodeName, Vec<u8>>;

/// Consensus keys that do not come from the seed, by node.
pub type ForeignKeys = BTreeMap<NodeName, ValidatorKey>;

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

/// The chain id of a run: the scenario's name and the seed, at most 50 characters (CometBFT's limit), so that nodes of two runs never
/// take one another for peers.
#[must_use]
pub fn chain_id(plan: &Plan) -> String {
    let name: String = plan
        .scenario
        .chars()
        .map(|char| if char.is_ascii_alphanumeric() { char } else { '-' })
        .take(33)
        .collect();
    format!("{name}-{:x}", plan.seed)
}

/// The time in every genesis: fixed, so that rendering is deterministic, and long past, since nodes sleep until a genesis that is still
/// to come. Only the first block carries it; from the second on blocks have the time of their votes.
pub(crate) const GENESIS_TIME: &str = "2025-01-01T00:00:00Z";

/// The volume that holds a node's home; every node has this one.
pub(crate) const HOME: &str = "home";

/// The ports of a node that speaks CometBFT's RPC, with CometBFT's numbers.
pub(crate) fn comet_ports() -> Vec<Port> {
    [(P2P, 26656), (RPC, 26657)]
        .map(|(name, number)| Port { name, number })
        .into()
}

/// A node of one component that is named like its chain and has all ports, with its home as the only volume.
pub(crate) fn single(node: &Node, chain: &str, program: Program, args: Vec<String>, files: Vec<File>) -> NodeSpec {
    NodeSpec {
        name: node.name.clone(),
        place: Place::default(),
        components: vec![Component {
            name: chain.into(),
            program,
            version: node.version.clone(),
            args,
            env: BTreeMap::new(),
            ports: vec![P2P.into(), RPC.into()],
            files,
            user: None,
            resources: node.resources.clone(),
        }],
        volumes: vec![HOME.into()],
        started: node.start == Start::Auto,
    }
}

/// The program of a node's version: what the plan says of it, else what the chain knows. `usual` is its name in an image, `get` how to get it, where `{version}`
/// and `{binary}` stand for those.
pub(crate) fn program_of(
    adapter: &dyn ChainAdapter,
    plan: &Plan,
    node: &Node,
    usual: &str,
    get: &str,
) -> Result<Program, ChainError> {
    let name = &node.version;
    let own = adapter.version(name);
    let hint = own.is_some().then(|| get.replace("{version}", name));
    let known = own.unwrap_or_default();
    let given = plan.versions.get(name).cloned().unwrap_or_default();
    // What the plan leaves out of a version that it has was left out on purpose.
    let stated = plan.versions.contains_key(name);
    let binary = given.binary.or(known.binary.filter(|_| !stated));
    let image = given.image.or(known.image.filter(|_| !stated));
    if binary.is_none() && image.is_none() {
        return Err(ChainError {
            what: node.name.clone(),
            why: format!(
                "nothing says which program version {name} is; say `[versions.\"{name}\"] binary = \"/path/to/it\"`"
            ),
        });
    }
    let own = format!("`[versions.\"{name}\"] binary = \"/path/to/it\"` in the scenario names another program");
    let hint = match hint {
        Some(get) => format!(
            "{}. Or: {own}",
            get.replace("{binary}", binary.as_deref().unwrap_or(usual))
        ),
        None => own,
    };
    Ok(Program::Chain {
        binary,
        image,
        program: given.program.unwrap_or_else(|| usual.into()),
        hint,
    })
}

/// Puts a value at `section.key` (or deeper) of a TOML document.
pub(crate) fn insert(table: &mut toml::Table, key: &str, value: toml::Value) {
    let Some((section, rest)) = key.split_once('.') else {
        table.insert(key.to_owned(), value);
        return;
    };
    let entry = table.entry(section).or_insert_with(|| toml::Table::new().into());
    if let toml::Value::Table(inner) = entry {
        insert(inner, rest, value);
    }
}

/// A JSON file as people read it.
pub(crate) fn json_file(value: &serde_json::Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}

/// The validators of the genesis.
pub(crate) fn genesis_validators(plan: &Plan) -> impl Iterator<Item = &Node> {
    let validator = |node: &&Node| node.role == Role::Validator && node.power > 0;
    plan.network.nodes.iter().filter(validator)
}

/// What was reserved for a node.
pub(crate) fn addresses_of<'a>(addresses: &'a Addresses, node: &Node) -> Result<&'a NodeAddresses, ChainError> {
    addresses.nodes.get(&node.name).ok_or_else(|| ChainError {
        what: node.name.clone(),
        why: "no addresses were reserved for it".into(),
    })
}

/// Where a node listens at one of its ports.
pub(crate) fn listen(node: &Node, reserved: &NodeAddresses, port: &str) -> Result<SocketAddr, ChainError> {
    let number = reserved.ports.get(port).ok_or_else(|| ChainError {
        what: node.name.clone(),
        why: format!("no port `{port}` was reserved for it"),
    })?;
    Ok(SocketAddr::new(reserved.ip, *number))
}

/// Where a node's home is, as its process sees it.
pub(crate) fn home(node: &Node, reserved: &NodeAddresses) -> Result<String, ChainError> {
    let path = reserved.volumes.get(HOME).ok_or_else(|| ChainError {
        what: node.name.clone(),
        why: format!("no volume `{HOME}` was reserved for it"),
    })?;
    path.to_str().map(str::to_owned).ok_or_else(|| ChainError {
        what: node.name.clone(),
        why: format!("its home {} is no text", path.display()),
    })
}

/// The nodes that `index` dials, each with the address of the link to it.
pub(crate) fn dialled<'a>(
    plan: &'a Plan,
    addresses: &Addresses,
    index: usize,
) -> Result<Vec<(&'a Node, SocketAddr)>, ChainError> {
    let nodes = &plan.network.nodes;
    let from = &nodes[index];
    let mut peers = Vec::new();
    for (_, to) in plan.network.links.iter().filter(|(dialling, _)| *dialling == index) {
        let link = LinkId {
            from: from.name.clone(),
            to: nodes[*to].name.clone(),
            port: P2P.into(),
        };
        let address = addresses.links.get(&link).ok_or_else(|| ChainError {
            what: from.name.clone(),
            why: format!("no address was reserved for its link to {}", link.to),
        })?;
        peers.push((&nodes[*to], *address));
    }
    Ok(peers)
}

/// How many validators may be down while the network has to go on: the most nodes, the weakest first, with less than a third of the
/// power.
pub(crate) fn tolerated(network: &Network) -> u64 {
    let mut powers: Vec<u64> = network
        .nodes
        .iter()
        .filter(|node| node.role == Role::Validator && node.power > 0)
        .map(|node| node.power)
        .collect();
    powers.sort_unstable();
    let total: u128 = powers.iter().map(|power| u128::from(*power)).sum();
    let mut down = 0_u128;
    let mut count = 0;
    for power in powers {
        down += u128::from(power);
        if 3 * down >= total {
            break;
        }
        count += 1;
    }
    count
}

/// The lag that needs no explanation: three blocks, and what the chain makes in two seconds (samples of two nodes are up to a second
/// apart, and a busy machine adds to that).
pub(crate) fn default_lag(block_time: Ms) -> u64 {
    3 + 2_000_u64.div_ceil(block_time.0.max(1))
}

#[cfg(test)]
pub(crate) mod tests;
