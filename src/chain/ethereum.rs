//! Ethereum as geth 1.12 and 1.13 run it by themselves: proof of authority by Clique (EIP-225).
//!
//! Validators are the sealers, who count one each; full nodes follow. Every file of a node is made here, keys included, and the genesis
//! stands in the node's own configuration: geth writes it into an empty database when it starts, so that nothing has to run beforehand.
//!
//! Peers are fixed, without discovery. Each pair dials from both sides, so that a node which starts again is connected at once: geth dials a lost peer
//! again only every 35 seconds (`p2p/dial.go`). Whoever is dialled first wins, and every connection is over a link that was
//! reserved. All peers are trusted, since each side may take any number of them then, and `MaxPeers` is as many as a node has: geth fetches what it missed at once
//! only while it has five peers or `MaxPeers`, and else every ten seconds (`eth/sync.go`).
//!
//! Blocks near the tip may be replaced: a block counts as final when so many stand on it as are needed for a majority
//! ([`crate::quorum::Engine::depth`]).

mod config;
mod keys;
mod knock;
mod rlp;
mod tx;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::keys::Purpose;
use super::rpc::{Rpc, RpcError};
use super::{
    ChainAdapter, ChainError, ConfigProblem, Dialect, ForeignKeys, HOME, P2P, RPC, Rendered, ValidatorKey,
    addresses_of, chain_id, dialled, genesis_validators, home, insert, json_file, listen, program_of, single, topology,
    tx::SENDERS,
};
use crate::backend::{Addresses, File, Job, JobOutput, NodeSpec, Port, Program, Write};
use crate::model::{Action, Load, Ms, Network, Node, Plan, Role, Version};
use crate::quorum::Engine;
use keys::Key;
use tx::Transfer;

/// The adapter.
#[derive(Clone, Copy, Debug)]
pub struct Ethereum;

/// A node's only component.
const COMPONENT: &str = "geth";
/// The version taken when the file names none: the last one with Clique.
const DEFAULT_VERSION: &str = "1.13.15";
/// Up to this many nodes all are peers of one another.
const SMALL: usize = 12;

/// 2025-01-01 in Unix time, as in all geneses. Clique asks for no time between the genesis and the first block but the period.
const GENESIS_TIME: i64 = 1_735_689_600;
/// What a block may hold.
const GAS_LIMIT: i64 = 30_000_000;
/// A million ether.
const BALANCE: &str = "0xd3c21bcecceda1000000";
/// Blocks between two that name all sealers, as EIP-225 suggests.
const EPOCH: i64 = 30_000;
/// The forks that are in force from the first block on.
const FORKS: [&str; 10] = [
    "Homestead",
    "EIP150",
    "EIP155",
    "EIP158",
    "Byzantium",
    "Constantinople",
    "Petersburg",
    "Istanbul",
    "Berlin",
    "London",
];

/// A sealer whose turn it is not waits up to so long for each of the majority (`consensus/clique/clique.go`, `wiggleTime`).
const WIGGLE: u64 = 500;
/// A node that has lost its place looks so often for others that are ahead (`eth/sync.go`, `forceSyncCycle`).
const LOOK_AROUND: u64 = 10_000;

impl ChainAdapter for Ethereum {
    fn name(&self) -> &'static str {
        "ethereum"
    }

    fn engine(&self) -> Engine {
        Engine::Clique
    }

    fn dialect(&self) -> Dialect {
        Dialect::Eth
    }

    fn default_version(&self) -> &'static str {
        DEFAULT_VERSION
    }

    /// Later versions have no Clique, earlier ones were not tried.
    fn version(&self, name: &str) -> Option<Version> {
        let rest = name.strip_prefix("1.12.").or_else(|| name.strip_prefix("1.13."))?;
        let fits = !rest.is_empty() && rest.len() <= 4 && rest.bytes().all(|byte| byte.is_ascii_digit());
        fits.then(|| Version {
            binary: Some(format!("geth-{name}")),
            image: Some(format!("ethereum/client-go:v{name}")),
            reports: Some(name.to_owned()),
            ..Version::default()
        })
    }

    fn default_block_time(&self) -> Ms {
        Ms::secs(2)
    }

    /// Clique counts in whole seconds.
    fn block_step(&self) -> Ms {
        Ms::secs(1)
    }

    fn check_config(&self, _version: &str, key: &str, value: &Value) -> Result<(), ConfigProblem> {
        config::check(key, value).map(|_| ())
    }

    fn topology(&self, nodes: &[Node]) -> Vec<(usize, usize)> {
        let pairs = topology::pairs(nodes, SMALL);
        pairs
            .into_iter()
            .flat_map(|(one, other)| [(one, other), (other, one)])
            .collect()
    }

    fn ports(&self) -> Vec<Port> {
        [(P2P, 30303), (RPC, 8545)]
            .map(|(name, number)| Port { name, number })
            .into()
    }

    fn volumes(&self, _network: &Network) -> Vec<String> {
        vec![HOME.to_owned()]
    }

    fn components(&self, _network: &Network) -> Vec<&'static str> {
        vec![COMPONENT]
    }

    /// A block costs its interval and, where it is a dead sealer's turn, what the others wait for one another. Sealers that stand on
    /// different blocks may need the time in which they look around. Five seconds are for a busy machine. A node that missed a block follows
    /// again after the same look around, which explains its lag.
    fn default_invariants(&self, network: &Network) -> (Ms, u64) {
        let sealers = network.nodes.iter().filter(|node| node.role == Role::Validator).count();
        let majority = sealers as u64 / 2 + 1;
        let block = network.block_time.0;
        let stall = LOOK_AROUND + 3 * block + 2 * majority * WIGGLE + 5_000;
        (Ms(stall), 3 + (LOOK_AROUND + 2_000).div_ceil(block.max(1)))
    }

    fn prepare(&self, _plan: &Plan, _addresses: &Addresses) -> Result<Vec<Job>, ChainError> {
        Ok(Vec::new())
    }

    fn render(
        &self,
        plan: &Plan,
        addresses: &Addresses,
        _outputs: &BTreeMap<String, JobOutput>,
    ) -> Result<Rendered, ChainError> {
        let genesis = genesis(plan);
        let names = plan.network.nodes.iter().map(|node| &node.name);
        let nodes = plan.network.nodes.iter().enumerate();
        let nodes = nodes.map(|(index, node)| node_spec(plan, addresses, index, node, &genesis));
        Ok(Rendered {
            nodes: nodes.collect::<Result<_, _>>()?,
            keys: ForeignKeys::new(),
            knocks: names.map(|name| (name.clone(), knock::auth(plan.seed, name))).collect(),
        })
    }
}

/// The account of a node that seals, or would if the others let it.
pub(super) fn sealer(seed: u64, node: &str) -> ValidatorKey {
    let address = Key::derive(seed, Purpose::Validator, node).address().to_uppercase();
    ValidatorKey {
        public: address.clone(),
        address,
    }
}

/// The bytes of a `tx` step: a transfer from an account of its own to another of its own, which nobody else knows, with the text on board.
pub(super) fn transfer_of(plan: &Plan, id: &str, text: &str) -> Vec<u8> {
    transfer(plan, id, 0, text.as_bytes())
}

/// Sends the `n`th transaction of a load, of `size` bytes beside what every transfer has. Its account's number is asked of the node, since a transaction that was
/// refused or lost takes none: the next would wait for it for ever.
pub(super) async fn send_load(plan: &Plan, load: &Load, rpc: &Rpc, n: u64) -> Result<String, RpcError> {
    let sender = sender(load, n % SENDERS);
    let account = Key::derive(plan.seed, Purpose::Account, &sender).address();
    let nonce = rpc.nonce(&account).await?;
    rpc.send_tx(&transfer(plan, &sender, nonce, &vec![b'x'; load.size]))
        .await
}

fn sender(load: &Load, place: u64) -> String {
    format!("{}/{place}", load.id)
}

fn transfer(plan: &Plan, from: &str, nonce: u64, data: &[u8]) -> Vec<u8> {
    let to = Key::derive(plan.seed, Purpose::Account, &format!("to {from}")).account();
    let transfer = Transfer {
        nonce,
        to,
        data,
        chain_id: network_id(plan),
    };
    transfer.signed(&Key::derive(plan.seed, Purpose::Account, from))
}

/// What the genesis funds: the accounts that steps send from, and the sealers.
fn funded(plan: &Plan) -> BTreeSet<String> {
    let mut names = Vec::new();
    for step in &plan.steps {
        match &step.action {
            Action::Tx(tx) => names.push(tx.id.clone()),
            Action::Load(load) => names.extend((0..SENDERS).map(|place| sender(load, place))),
            _ => {}
        }
    }
    let steps = names
        .iter()
        .map(|name| Key::derive(plan.seed, Purpose::Account, name).address());
    let sealers = genesis_validators(plan).map(|node| Key::derive(plan.seed, Purpose::Validator, &node.name).address());
    steps.chain(sealers).collect()
}

/// The number that transactions are signed for and peers ask one another for: from the name and the seed, and none that a public network has.
fn network_id(plan: &Plan) -> u64 {
    let digest = Sha256::digest(chain_id(plan));
    let number = u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]);
    1_000_000_000 + u64::from(number) % 1_000_000_000
}

/// The keys of the configuration that make up the genesis, the same on all nodes.
fn genesis(plan: &Plan) -> Vec<(String, toml::Value)> {
    // 32 bytes for anybody, the sealers in the order of their addresses, and 65 for a signature that the first block does not need.
    let mut sealers: Vec<[u8; 20]> = genesis_validators(plan)
        .map(|node| Key::derive(plan.seed, Purpose::Validator, &node.name).account())
        .collect();
    sealers.sort_unstable();
    let extra = [vec![0; 32], sealers.concat(), vec![0; 65]].concat();
    let extra: Vec<toml::Value> = extra.into_iter().map(|byte| i64::from(byte).into()).collect();
    let period = i64::try_from(plan.network.block_time.0 / 1_000).unwrap_or(1);
    let id = i64::try_from(network_id(plan)).unwrap_or(1);
    let mut keys: Vec<(String, toml::Value)> = [
        ("Timestamp", GENESIS_TIME.into()),
        ("Difficulty", "0x1".into()),
        ("GasLimit", GAS_LIMIT.into()),
        ("ExtraData", extra.into()),
        ("Config.ChainID", id.into()),
        ("Config.Clique.Period", period.into()),
        ("Config.Clique.Epoch", EPOCH.into()),
    ]
    .map(|(key, value): (&str, toml::Value)| (format!("Eth.Genesis.{key}"), value))
    .into();
    keys.extend(FORKS.map(|fork| (format!("Eth.Genesis.Config.{fork}Block"), 0.into())));
    let funded = funded(plan).into_iter();
    keys.extend(funded.map(|account| (format!("Eth.Genesis.Alloc.0x{account}.Balance"), BALANCE.into())));
    keys
}

fn node_spec(
    plan: &Plan,
    addresses: &Addresses,
    index: usize,
    node: &Node,
    genesis: &[(String, toml::Value)],
) -> Result<NodeSpec, ChainError> {
    let reserved = addresses_of(addresses, node)?;
    let home = home(node, reserved)?;
    let file = |path: &str, content: Vec<u8>, secret| File {
        volume: HOME.into(),
        path: path.into(),
        content,
        secret,
        write: Write::Always,
    };
    let node_key = Key::derive(plan.seed, Purpose::Node, &node.name);
    let config = config_toml(plan, addresses, index, node, genesis)?;
    let mut files = vec![
        file("config.toml", config.into_bytes(), false),
        file("nodekey", node_key.private().into_bytes(), true),
    ];
    let mut args: Vec<String> = [
        "--config",
        &format!("{home}/config.toml"),
        "--nodekey",
        &format!("{home}/nodekey"),
        "--networkid",
        &network_id(plan).to_string(),
        "--cache",
        "64",
        "--nat",
        "none",
        "--nodiscover",
        "--ipcdisable",
        "--verbosity",
        &verbosity(plan, node),
    ]
    .map(str::to_owned)
    .into();
    if node.role == Role::Validator {
        let key = Key::derive(plan.seed, Purpose::Validator, &node.name);
        files.push(file("keystore/sealer.json", json_file(&key.file()), true));
        files.push(file("password", keys::PASSWORD.into(), true));
        let unlock = [
            "--mine",
            "--unlock",
            &key.address(),
            "--password",
            &format!("{home}/password"),
        ];
        args.extend(unlock.map(str::to_owned));
    }
    let mut spec = single(node, COMPONENT, program(plan, node)?, args, files);
    spec.components[0].user = plan.versions.get(&node.version).and_then(|version| version.user);
    Ok(spec)
}

fn program(plan: &Plan, node: &Node) -> Result<Program, ChainError> {
    let get = "`go install github.com/ethereum/go-ethereum/cmd/geth@v{version}` makes a program `geth`; put it on PATH as `{binary}`";
    program_of(&Ethereum, plan, node, "geth", get)
}

/// How much the program writes to its log.
fn verbosity(plan: &Plan, node: &Node) -> String {
    let given = |config: &BTreeMap<String, Value>| config.get(config::VERBOSITY).and_then(Value::as_u64);
    given(&node.config)
        .or_else(|| given(&plan.network.config))
        .unwrap_or(3)
        .to_string()
}

fn config_toml(
    plan: &Plan,
    addresses: &Addresses,
    index: usize,
    node: &Node,
    genesis: &[(String, toml::Value)],
) -> Result<String, ChainError> {
    let reserved = addresses_of(addresses, node)?;
    let peers: Vec<toml::Value> = dialled(plan, addresses, index)?
        .into_iter()
        .map(|(peer, address)| {
            let id = Key::derive(plan.seed, Purpose::Node, &peer.name).public();
            format!("enode://{id}@{address}").into()
        })
        .collect();
    let rpc = listen(node, reserved, RPC)?;
    let account = Key::derive(plan.seed, Purpose::Validator, &node.name).address();
    let id = i64::try_from(network_id(plan)).unwrap_or(1);
    let modules = ["admin", "clique", "eth", "net", "txpool", "web3"];
    let mut document = toml::Table::new();
    let settings: [(&str, toml::Value); 20] = [
        ("Eth.NetworkId", id.into()),
        ("Eth.SyncMode", "full".into()),
        // Every state is on the disk at once: else a killed node would come back many blocks behind itself.
        ("Eth.NoPruning", true.into()),
        ("Eth.Miner.Etherbase", format!("0x{account}").into()),
        ("Node.DataDir", home(node, reserved)?.into()),
        ("Node.UserIdent", node.name.as_str().into()),
        ("Node.IPCPath", "".into()),
        ("Node.InsecureUnlockAllowed", true.into()),
        ("Node.HTTPHost", rpc.ip().to_string().into()),
        ("Node.HTTPPort", i64::from(rpc.port()).into()),
        ("Node.HTTPVirtualHosts", vec!["*"].into()),
        ("Node.HTTPModules", modules.to_vec().into()),
        // Nobody asks there; it cannot be left out.
        ("Node.AuthAddr", "127.0.0.1".into()),
        ("Node.AuthPort", 0.into()),
        ("Node.P2P.ListenAddr", listen(node, reserved, P2P)?.to_string().into()),
        ("Node.P2P.NoDiscovery", true.into()),
        (
            "Node.P2P.MaxPeers",
            i64::try_from(peers.len().max(1)).unwrap_or(1).into(),
        ),
        // The share of peers that may be dialled: all of them.
        ("Node.P2P.DialRatio", 1.into()),
        ("Node.P2P.StaticNodes", peers.clone().into()),
        ("Node.P2P.TrustedNodes", peers.into()),
    ];
    for (key, value) in settings {
        insert(&mut document, key, value);
    }
    for (key, value) in genesis {
        insert(&mut document, key, value.clone());
    }
    for (key, value) in plan.network.config.iter().chain(&node.config) {
        let value = config::check(key, value).map_err(|problem| ChainError {
            what: format!("the configuration of {}", node.name),
            why: format!("`{key}`: {}", problem.message),
        })?;
        if key != config::VERBOSITY {
            insert(&mut document, key, value);
        }
    }
    toml::to_string(&document).map_err(|error| ChainError {
        what: format!("the configuration of {}", node.name),
        why: error.to_string(),
    })
}

#[cfg(test)]
mod tests;
