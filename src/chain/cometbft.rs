//! CometBFT 0.37, 0.38 and 1.0 with the kvstore application that is built in, or with one of your own in a component beside it.
//!
//! Every file of a node is made here; the chain's own program only runs. Peers are fixed: each pair dials from both sides, so that a
//! node which starts again dials the others at once, whichever side lost the connection (a dialler tries again only every 5 to 8
//! seconds). The address book and peer exchange are off, so links are exactly the plan's. A node that is dialled never dials back to
//! the address that its peer reports, because that is none of its persistent peers (`p2p/transport.go`, `wrapPeer`): all
//! traffic stays on the links that were reserved.
//!
//! After a cut a link is there again at once when its connection lived (CometBFT gives one up after 60 s + 45 s without a pong), and
//! otherwise within about 8 s. Only cuts of more than some 8 minutes meet the dialler's growing pauses.

mod config;

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::keys::{Key, Purpose};
use super::{
    ChainAdapter, ChainError, ConfigProblem, Dialect, ForeignKeys, GENESIS_TIME, HOME, P2P, RPC, Rendered,
    ValidatorKey, addresses_of, chain_id, comet_ports, dialled, genesis_validators, home, json_file, listen, tolerated,
    topology, validator_key,
};
use crate::backend::{
    Addresses, Component, File, Job, JobOutput, NodeAddresses, NodeSpec, Place, Port, Program, SOCKETS, Write,
};
use crate::model::{App, Keys, Ms, Network, Node, Plan, Role, Start, Version};
use crate::quorum::Engine;

/// The adapter.
#[derive(Clone, Copy, Debug)]
pub struct Cometbft;

/// A node's only component, where the application is built in.
const ALONE: &str = "cometbft";
/// The components of a node with an application of its own.
const APP: &str = "app";
const CORE: &str = "core";
/// The application's socket in the volume [`SOCKETS`].
const SOCKET: &str = "app.sock";
/// How long a job that makes or shows a key may take; a pod has to start for it.
const KEY_LIMIT: Ms = Ms::secs(60);

/// Up to this many nodes all are peers of one another.
const SMALL: usize = 12;

/// The version taken when the file names none.
const DEFAULT_VERSION: &str = "0.38.17";

/// Lines of versions that differ in files or answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    /// 0.37.x
    V0_37,
    /// 0.38.x
    V0_38,
    /// 1.x
    V1,
}

impl Family {
    /// The family of a version number such as `0.38.17`; `None` for other names.
    fn of(number: &str) -> Option<Self> {
        let mut parts = number.split('.').map(|part| part.parse::<u32>().ok());
        match (parts.next()??, parts.next()??, parts.next()??, parts.next()) {
            (0, 37, _, None) => Some(Self::V0_37),
            (0, 38, _, None) => Some(Self::V0_38),
            (1, _, _, None) => Some(Self::V1),
            _ => None,
        }
    }
}

/// The family of a version of the plan: by its number, or by what it reports; a version of which neither says anything is taken for a
/// 0.38.
pub(crate) fn family_of(plan: &Plan, version: &str) -> Family {
    let reports = || plan.versions.get(version)?.reports.as_deref().and_then(Family::of);
    Family::of(version).or_else(reports).unwrap_or(Family::V0_38)
}

impl ChainAdapter for Cometbft {
    fn name(&self) -> &'static str {
        "cometbft"
    }

    fn engine(&self) -> Engine {
        Engine::Bft
    }

    fn dialect(&self) -> Dialect {
        Dialect::Comet
    }

    fn default_version(&self) -> &'static str {
        DEFAULT_VERSION
    }

    fn version(&self, name: &str) -> Option<Version> {
        Family::of(name)?;
        Some(Version {
            binary: Some(format!("cometbft-{name}")),
            image: Some(format!("cometbft/cometbft:v{name}")),
            // The release 0.37.18 carries the number of an earlier one (measured).
            reports: Some(if name == "0.37.18" { "0.37.16" } else { name }.to_owned()),
            ..Version::default()
        })
    }

    fn default_block_time(&self) -> Ms {
        Ms::secs(1)
    }

    fn check_config(&self, version: &str, key: &str, value: &Value) -> Result<(), ConfigProblem> {
        config::check(Family::of(version), key, value).map(|_| ())
    }

    fn topology(&self, nodes: &[Node]) -> Vec<(usize, usize)> {
        let pairs = topology::pairs(nodes, SMALL);
        pairs
            .into_iter()
            .flat_map(|(one, other)| [(one, other), (other, one)])
            .collect()
    }

    fn ports(&self) -> Vec<Port> {
        comet_ports()
    }

    fn alarms(&self) -> &'static [&'static str] {
        &[
            "panic: ",
            "CONSENSUS FAILURE!!!",
            "wrong Block.Header",
            "failed to create node",
        ]
    }

    fn volumes(&self, network: &Network) -> Vec<String> {
        let mut volumes = vec![HOME.to_owned()];
        volumes.extend(network.app.as_ref().map(|_| SOCKETS.to_owned()));
        volumes
    }

    fn components(&self, network: &Network) -> Vec<&'static str> {
        match network.app {
            Some(_) => vec![APP, CORE],
            None => vec![ALONE],
        }
    }

    /// With f validators down, up to f proposers in a row may be dead (with many validators hardly more than five), each of which
    /// costs the time-outs of a round. To twice that come three block intervals and five seconds for a busy machine.
    fn default_invariants(&self, network: &Network) -> (Ms, u64) {
        let pace = Pace::of(network);
        let rounds = tolerated(network).min(5);
        let dead: u64 = (0..rounds).map(|round| pace.round(round)).sum();
        let stall = Ms(2 * dead + 3 * network.block_time.0 + 5_000);
        (stall, super::default_lag(network.block_time))
    }

    /// Keys in place: the chain's own program makes each validator's key in its home, where there is none yet, and then shows its
    /// public half.
    fn prepare(&self, plan: &Plan, addresses: &Addresses) -> Result<Vec<Job>, ChainError> {
        let mut jobs = Vec::new();
        for node in validators_in_place(plan) {
            let home = home(node, addresses_of(addresses, node)?)?;
            for (name, command) in [
                (format!("init-{}", node.name), "init"),
                (key_job(node), "show-validator"),
            ] {
                jobs.push(Job {
                    name,
                    program: program(plan, node)?,
                    args: vec![command.into(), "--home".into(), home.clone()],
                    env: BTreeMap::new(),
                    user: user(plan, node),
                    limit: KEY_LIMIT,
                    node: Some(node.name.clone()),
                    volumes: self.volumes(&plan.network),
                });
            }
        }
        Ok(jobs)
    }

    fn render(
        &self,
        plan: &Plan,
        addresses: &Addresses,
        outputs: &BTreeMap<String, JobOutput>,
    ) -> Result<Rendered, ChainError> {
        let mut keys = ForeignKeys::new();
        for node in validators_in_place(plan) {
            keys.insert(node.name.clone(), key_made(node, outputs)?);
        }
        let genesis = json_file(&genesis(plan, &keys));
        let nodes = plan.network.nodes.iter().enumerate();
        let nodes = nodes.map(|(index, node)| node_spec(plan, addresses, index, node, &genesis));
        Ok(Rendered {
            nodes: nodes.collect::<Result<_, _>>()?,
            keys,
        })
    }
}

/// The validators whose keys are made where they run, also those that join later.
fn validators_in_place(plan: &Plan) -> impl Iterator<Item = &Node> {
    let in_place = plan.network.keys == Keys::InPlace;
    let nodes = plan.network.nodes.iter();
    nodes.filter(move |node| in_place && node.role == Role::Validator)
}

/// The job that shows the public key of a node.
fn key_job(node: &Node) -> String {
    format!("key-{}", node.name)
}

/// The public key that a job showed: CometBFT's `show-validator` prints `{"type":"tendermint/PubKeyEd25519","value":"…"}`.
fn key_made(node: &Node, outputs: &BTreeMap<String, JobOutput>) -> Result<ValidatorKey, ChainError> {
    let failed = |why: String| ChainError {
        what: format!("the key of {}", node.name),
        why,
    };
    let output = outputs
        .get(&key_job(node))
        .ok_or_else(|| failed("it is made where the node runs, and that has not been done".into()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let shown: Value = serde_json::from_str(text.trim()).unwrap_or_default();
    let public = match (shown["type"].as_str(), shown["value"].as_str()) {
        (Some("tendermint/PubKeyEd25519"), Some(public)) => ValidatorKey::of_public(public),
        _ => None,
    };
    public.ok_or_else(|| failed(format!("`show-validator` printed no ed25519 key but {:?}", text.trim())))
}

/// What the jobs of a plan would print if every key came from the seed: for showing a plan without running it.
#[must_use]
pub fn stand_ins(plan: &Plan) -> BTreeMap<String, JobOutput> {
    let output = |node: &Node| {
        let key = validator_key(plan, &ForeignKeys::new(), &node.name)?;
        let shown = json!({ "type": "tendermint/PubKeyEd25519", "value": key.public });
        let stdout = shown.to_string().into_bytes();
        Some((key_job(node), JobOutput { stdout }))
    };
    validators_in_place(plan).filter_map(output).collect()
}

/// The time-outs of consensus in milliseconds, by their names in the configuration.
///
/// `block_time` becomes `timeout_commit`, the pause after a block, less what deciding a block takes by itself. From a block time of one
/// second on the other time-outs are CometBFT's own; for faster chains they shrink with it, not below the time that a busy
/// machine needs, so that a dead proposer costs about four block times instead of always four seconds. `[network.config]` overrules all.
struct Pace {
    commit: u64,
    propose: u64,
    propose_delta: u64,
    vote: u64,
    vote_delta: u64,
}

/// What a block of four local validators takes beside `timeout_commit`, in milliseconds (measured: see `tests/it/chain.rs`).
const DECIDING: u64 = 60;

impl Pace {
    fn of(network: &Network) -> Self {
        let block = network.block_time.0;
        let time = |key: &str, default: u64| {
            let given = network.config.get(key).and_then(Value::as_str);
            given.and_then(config::duration).map_or(default, |time| time.0)
        };
        Self {
            commit: time(
                "consensus.timeout_commit",
                block.saturating_sub(DECIDING).max(block / 4).max(1),
            ),
            propose: time("consensus.timeout_propose", (3 * block).clamp(1_000, 3_000)),
            propose_delta: time("consensus.timeout_propose_delta", 500),
            vote: time("consensus.timeout_precommit", block.clamp(500, 1_000)),
            vote_delta: time("consensus.timeout_precommit_delta", 500),
        }
    }

    /// What a round with a dead proposer takes: nobody hears a proposal, then everybody waits for stray precommits.
    fn round(&self, round: u64) -> u64 {
        self.propose + self.vote + round * (self.propose_delta + self.vote_delta)
    }

    fn settings(&self) -> [(&'static str, toml::Value); 7] {
        let time = |ms: u64| toml::Value::from(format!("{ms}ms"));
        [
            ("consensus.timeout_commit", time(self.commit)),
            ("consensus.timeout_propose", time(self.propose)),
            ("consensus.timeout_propose_delta", time(self.propose_delta)),
            ("consensus.timeout_prevote", time(self.vote)),
            ("consensus.timeout_prevote_delta", time(self.vote_delta)),
            ("consensus.timeout_precommit", time(self.vote)),
            ("consensus.timeout_precommit_delta", time(self.vote_delta)),
        ]
    }
}

fn node_spec(
    plan: &Plan,
    addresses: &Addresses,
    index: usize,
    node: &Node,
    genesis: &[u8],
) -> Result<NodeSpec, ChainError> {
    let reserved = addresses_of(addresses, node)?;
    let key = Key::derive(plan.seed, Purpose::Validator, &node.name);
    let public = key.validator();
    let validator_key = json!({
        "address": public.address,
        "pub_key": { "type": "tendermint/PubKeyEd25519", "value": public.public },
        "priv_key": private(&key),
    });
    let node_key = json!({ "priv_key": private(&Key::derive(plan.seed, Purpose::Node, &node.name)) });
    let state = json!({ "height": "0", "round": 0, "step": 0 });
    let file = |path: &str, content: Vec<u8>, secret, write| File {
        volume: HOME.into(),
        path: path.into(),
        content,
        secret,
        write,
    };
    let config = config_toml(plan, addresses, index, node)?;
    let mut files = vec![
        file("config/config.toml", config.into_bytes(), false, Write::Always),
        file("config/genesis.json", genesis.to_vec(), false, Write::Always),
        file("config/node_key.json", json_file(&node_key), true, Write::Always),
        // What the node has signed: to go back in it would be to sign twice.
        file("data/priv_validator_state.json", json_file(&state), false, Write::Once),
    ];
    if plan.network.keys == Keys::Seed || node.role != Role::Validator {
        let key = json_file(&validator_key);
        files.push(file("config/priv_validator_key.json", key, true, Write::Always));
    }
    let mut components = Vec::new();
    if let Some(app) = &plan.network.app {
        components.push(app_component(app, node, reserved)?);
    }
    components.push(Component {
        name: if components.is_empty() { ALONE } else { CORE }.into(),
        program: program(plan, node)?,
        version: node.version.clone(),
        args: vec!["start".into(), "--home".into(), home(node, reserved)?],
        env: BTreeMap::new(),
        ports: vec![P2P.into(), RPC.into()],
        files,
        user: user(plan, node),
        resources: node.resources.clone(),
    });
    Ok(NodeSpec {
        name: node.name.clone(),
        place: Place::default(),
        components,
        volumes: Cometbft.volumes(&plan.network),
        started: node.start == Start::Auto,
    })
}

/// The application of a node. The socket that a killed one left would keep the next from listening.
fn app_component(app: &App, node: &Node, reserved: &NodeAddresses) -> Result<Component, ChainError> {
    let socket = socket(node, reserved)?;
    let from = |text: &String| text.rsplit('/').next().unwrap_or(text).to_owned();
    let version = app.binary.as_ref().or(app.image.as_ref()).map(from).unwrap_or_default();
    Ok(Component {
        name: APP.into(),
        program: Program::Chain {
            binary: app.binary.clone(),
            image: app.image.clone(),
            program: app
                .program
                .clone()
                .or_else(|| app.binary.as_ref().map(from))
                .unwrap_or_default(),
            hint: "`[network.app]` names it: a program on PATH, or a path".into(),
        },
        version,
        args: app.args.iter().map(|arg| arg.replace("{socket}", &socket)).collect(),
        env: app.env.clone(),
        ports: Vec::new(),
        files: vec![File {
            volume: SOCKETS.into(),
            path: SOCKET.into(),
            content: Vec::new(),
            secret: false,
            write: Write::Absent,
        }],
        user: None,
        resources: node.resources.clone(),
    })
}

/// Where the application listens, as both components see it.
fn socket(node: &Node, reserved: &NodeAddresses) -> Result<String, ChainError> {
    let folder = reserved.volumes.get(SOCKETS).ok_or_else(|| ChainError {
        what: node.name.clone(),
        why: format!("no volume `{SOCKETS}` was reserved for it"),
    })?;
    Ok(folder.join(SOCKET).display().to_string())
}

/// Who runs a node's version, where the file says so.
fn user(plan: &Plan, node: &Node) -> Option<u32> {
    plan.versions.get(&node.version).and_then(|version| version.user)
}

fn program(plan: &Plan, node: &Node) -> Result<Program, ChainError> {
    let name = &node.version;
    let known = Cometbft.version(name).unwrap_or_default();
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
    let hint = if Family::of(name).is_some() {
        format!(
            "`go install github.com/cometbft/cometbft/cmd/cometbft@v{name}` makes a program `cometbft`; put it on PATH as `{}`. \
             Or: {own}",
            binary.as_deref().unwrap_or("cometbft"),
        )
    } else {
        own
    };
    Ok(Program::Chain {
        binary,
        image,
        program: given.program.unwrap_or_else(|| "cometbft".into()),
        hint,
    })
}

fn private(key: &Key) -> Value {
    json!({ "type": "tendermint/PrivKeyEd25519", "value": key.private_base64() })
}

/// CometBFT's `types.GenesisDoc`: 64-bit integers are strings. What differs by version are consensus parameters, each at its default.
fn genesis(plan: &Plan, keys: &ForeignKeys) -> Value {
    let validators: Vec<Value> = genesis_validators(plan)
        .map(|node| {
            let own = || Key::derive(plan.seed, Purpose::Validator, &node.name).validator();
            let key = keys.get(&node.name).cloned().unwrap_or_else(own);
            json!({
                "address": key.address,
                "pub_key": { "type": "tendermint/PubKeyEd25519", "value": key.public },
                "power": node.power.to_string(),
                "name": node.name,
            })
        })
        .collect();
    let mut params = json!({
        "block": { "max_bytes": "4194304", "max_gas": "-1" },
        "evidence": { "max_age_num_blocks": "100000", "max_age_duration": "172800000000000", "max_bytes": "1048576" },
        "validator": { "pub_key_types": ["ed25519"] },
        "version": { "app": "0" },
    });
    match family_of(plan, &plan.network.version) {
        Family::V0_37 => {}
        Family::V0_38 => params["abci"] = json!({ "vote_extensions_enable_height": "0" }),
        Family::V1 => {
            params["synchrony"] = json!({ "precision": "505000000", "message_delay": "15000000000" });
            params["feature"] = json!({ "vote_extensions_enable_height": "0", "pbts_enable_height": "0" });
        }
    }
    json!({
        "genesis_time": GENESIS_TIME,
        "chain_id": chain_id(plan),
        "initial_height": "1",
        "consensus_params": params,
        "validators": validators,
        "app_hash": "",
    })
}

/// The keys that a network under test needs; for all others the program has its defaults.
fn config_toml(plan: &Plan, addresses: &Addresses, index: usize, node: &Node) -> Result<String, ChainError> {
    let reserved = addresses_of(addresses, node)?;
    let peers: Vec<String> = dialled(plan, addresses, index)?
        .into_iter()
        .map(|(peer, address)| {
            let id = Key::derive(plan.seed, Purpose::Node, &peer.name).id();
            format!("{id}@{address}")
        })
        .collect();
    let many = toml::Value::from(1_000);
    let mut settings: BTreeMap<&str, toml::Value> = BTreeMap::from([
        ("moniker", node.name.as_str().into()),
        ("proxy_app", "persistent_kvstore".into()),
        ("db_backend", "goleveldb".into()),
        ("rpc.laddr", format!("tcp://{}", listen(node, reserved, RPC)?).into()),
        ("p2p.laddr", format!("tcp://{}", listen(node, reserved, P2P)?).into()),
        ("p2p.persistent_peers", peers.join(",").into()),
        ("p2p.pex", false.into()),
        ("p2p.addr_book_strict", false.into()),
        ("p2p.allow_duplicate_ip", true.into()),
        ("p2p.max_num_inbound_peers", many.clone()),
        ("p2p.max_num_outbound_peers", many),
        // As in 1.0. With the 100 ms of before each message of consensus may wait that long.
        ("p2p.flush_throttle_timeout", "10ms".into()),
        ("consensus.peer_gossip_sleep_duration", "20ms".into()),
    ]);
    settings.extend(Pace::of(&plan.network).settings());
    for (key, value) in plan.network.config.iter().chain(&node.config) {
        let family = Some(family_of(plan, &node.version));
        let value = config::check(family, key, value).map_err(|problem| ChainError {
            what: format!("the configuration of {}", node.name),
            why: format!("`{key}`: {}", problem.message),
        })?;
        settings.insert(key, value);
    }
    if plan.network.app.is_some() {
        settings.insert("proxy_app", format!("unix://{}", socket(node, reserved)?).into());
    }
    let mut document = toml::Table::new();
    for (key, value) in settings {
        insert(&mut document, key, value);
    }
    toml::to_string(&document).map_err(|error| ChainError {
        what: format!("the configuration of {}", node.name),
        why: error.to_string(),
    })
}

/// Puts a value at `section.key` (or deeper).
fn insert(table: &mut toml::Table, key: &str, value: toml::Value) {
    let Some((section, rest)) = key.split_once('.') else {
        table.insert(key.to_owned(), value);
        return;
    };
    let entry = table.entry(section).or_insert_with(|| toml::Table::new().into());
    if let toml::Value::Table(inner) = entry {
        insert(inner, rest, value);
    }
}

#[cfg(test)]
mod tests;
