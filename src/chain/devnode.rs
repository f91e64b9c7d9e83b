//! Trialnet's own small BFT chain: `trialnet devnode`, the same executable.
//!
//! Of each pair one node dials, the later in the plan: devnodes dial again within a second, so that a second link would gain nothing.

use std::time::Duration;

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::keys::{Key, Purpose};
use super::{
    ChainAdapter, ChainError, ConfigProblem, Dialect, ForeignKeys, GENESIS_TIME, HOME, P2P, RPC, Rendered,
    addresses_of, chain_id, comet_ports, dialled, genesis_validators, home, json_file, listen, single, tolerated,
    topology,
};
use crate::backend::{Addresses, File, Job, JobOutput, NodeSpec, Port, Program, Write};
use crate::devnode::misbehave::Spec;
use crate::model::{BackendKind, Ms, Network, Node, Plan, Version};
use crate::quorum::Engine;

/// The adapter.
#[derive(Clone, Copy, Debug)]
pub struct Devnode;

/// The name of a node's only component.
const COMPONENT: &str = "devnode";
/// Up to this many nodes all are peers of one another.
const SMALL: usize = 12;

/// The keys that a scenario may set.
const TIMES: [&str; 4] = ["timeout_propose", "timeout_prevote", "timeout_precommit", "start_delay"];
const MISBEHAVE: &str = "misbehave";

/// The keys of the node's `config.json` that are trialnet's to set.
const OURS: [&str; 7] = [
    "name",
    "chain_id",
    "p2p_listen",
    "rpc_listen",
    "peers",
    "block_time",
    "version",
];

impl ChainAdapter for Devnode {
    fn name(&self) -> &'static str {
        "devnode"
    }

    fn engine(&self) -> Engine {
        Engine::Bft
    }

    fn dialect(&self) -> Dialect {
        Dialect::Comet
    }

    fn default_version(&self) -> &'static str {
        env!("CARGO_PKG_VERSION")
    }

    /// Any word is a version of the devnode: the program is the same, and reports what it is told to.
    fn version(&self, name: &str) -> Option<Version> {
        let word = |char: char| char.is_ascii_alphanumeric() || "._-+".contains(char);
        let fits = !name.is_empty() && name.len() <= 64 && name.chars().all(word);
        fits.then(|| Version {
            reports: Some(name.to_owned()),
            ..Version::default()
        })
    }

    fn default_block_time(&self) -> Ms {
        Ms(200)
    }

    fn check_config(&self, _version: &str, key: &str, value: &Value) -> Result<(), ConfigProblem> {
        check(key, value)
    }

    fn topology(&self, nodes: &[Node]) -> Vec<(usize, usize)> {
        let pairs = topology::pairs(nodes, SMALL);
        pairs.into_iter().map(|(earlier, later)| (later, earlier)).collect()
    }

    fn ports(&self) -> Vec<Port> {
        comet_ports()
    }

    fn volumes(&self, _network: &Network) -> Vec<String> {
        vec![HOME.to_owned()]
    }

    /// As CometBFT's: twice what the rounds of up to f (at most five) dead proposers in a row take, three block intervals, and five
    /// seconds for a busy machine.
    fn default_invariants(&self, network: &Network) -> (Ms, u64) {
        let time = |key: &str, default: u64| {
            let given = network.config.get(key).and_then(Value::as_str);
            given.and_then(duration).map_or(default, |time| Ms::from(time).0)
        };
        let block = network.block_time.0;
        // The node's own defaults; each further round takes half as much more.
        let propose = time("timeout_propose", (2 * block + 200).max(400));
        let vote = time("timeout_precommit", block.max(200));
        let rounds = tolerated(network).min(5);
        let dead: u64 = (0..rounds).map(|round| (propose + vote) * (2 + round) / 2).sum();
        (Ms(2 * dead + 3 * block + 5_000), super::default_lag(network.block_time))
    }

    fn components(&self, _network: &Network) -> Vec<&'static str> {
        vec![COMPONENT]
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
        let genesis = json_file(&genesis(plan));
        let nodes = plan.network.nodes.iter().enumerate();
        let nodes = nodes.map(|(index, node)| node_spec(plan, addresses, index, node, &genesis));
        Ok(Rendered {
            nodes: nodes.collect::<Result<_, _>>()?,
            keys: ForeignKeys::new(),
            ..Rendered::default()
        })
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
    let file = |path: &str, content: Vec<u8>, secret| File {
        volume: HOME.into(),
        path: path.into(),
        content,
        secret,
        write: Write::Always,
    };
    let files = vec![
        file("config.json", json_file(&config(plan, addresses, index, node)?), false),
        file("genesis.json", genesis.to_vec(), false),
        file(
            "key.json",
            json_file(&json!({ "private_key": key.seed_base64() })),
            true,
        ),
    ];
    let version = plan.versions.get(&node.version);
    let program = match version {
        Some(Version {
            binary, image, program, ..
        }) if binary.is_some() || (image.is_some() && plan.backend == BackendKind::Kubernetes) => Program::Chain {
            binary: binary.clone(),
            image: image.clone(),
            program: program.clone().unwrap_or_else(|| "trialnet".into()),
            hint: "it has to be a build of trialnet; without `binary` the running one is taken".into(),
        },
        _ => Program::Trialnet,
    };
    let args = vec!["devnode".into(), "--home".into(), home(node, reserved)?];
    let mut spec = single(node, COMPONENT, program, args, files);
    spec.components[0].user = version.and_then(|version| version.user);
    Ok(spec)
}

/// The node's `config.json`.
fn config(plan: &Plan, addresses: &Addresses, index: usize, node: &Node) -> Result<Value, ChainError> {
    let reserved = addresses_of(addresses, node)?;
    let peers: Vec<Value> = dialled(plan, addresses, index)?
        .into_iter()
        .map(|(peer, address)| {
            let key = Key::derive(plan.seed, Purpose::Validator, &peer.name).validator();
            json!({ "name": peer.name, "public_key": key.public, "address": address.to_string() })
        })
        .collect();
    let reports = plan
        .versions
        .get(&node.version)
        .and_then(|version| version.reports.clone());
    let mut config = json!({
        "name": node.name,
        "chain_id": chain_id(plan),
        "p2p_listen": listen(node, reserved, P2P)?.to_string(),
        "rpc_listen": listen(node, reserved, RPC)?.to_string(),
        "peers": peers,
        "block_time": format!("{}ms", plan.network.block_time.0),
        "version": reports.unwrap_or_else(|| node.version.clone()),
    });
    for (key, value) in plan.network.config.iter().chain(&node.config) {
        check(key, value).map_err(|problem| ChainError {
            what: format!("the configuration of {}", node.name),
            why: format!("`{key}`: {}", problem.message),
        })?;
        // One misbehaviour may stand without the brackets of a list.
        let value = match value {
            Value::String(one) if key == MISBEHAVE => json!([one]),
            other => other.clone(),
        };
        config[key] = value;
    }
    Ok(config)
}

fn genesis(plan: &Plan) -> Value {
    let validators: Vec<Value> = genesis_validators(plan)
        .map(|node| {
            let key = Key::derive(plan.seed, Purpose::Validator, &node.name).validator();
            json!({ "name": node.name, "public_key": key.public, "power": node.power })
        })
        .collect();
    json!({ "chain_id": chain_id(plan), "genesis_time": GENESIS_TIME, "validators": validators })
}

fn check(key: &str, value: &Value) -> Result<(), ConfigProblem> {
    if OURS.contains(&key) {
        return Err(ConfigProblem {
            message: format!("`{key}` is set by trialnet"),
            help: Some(match key {
                "block_time" => "say `block_time` in [network]".into(),
                "version" => "say `version` in [network] or in the group".into(),
                _ => "leave it out".into(),
            }),
            key: true,
        });
    }
    let wrong = |what: &str| ConfigProblem {
        message: format!("`{key}` takes {what}, not {value}"),
        help: None,
        key: false,
    };
    if TIMES.contains(&key) {
        let time = value.as_str().and_then(duration);
        // A node that waits for no proposal at all never agrees on one.
        let fits = time.is_some_and(|time| !time.is_zero() || key == "start_delay");
        return if fits {
            Ok(())
        } else {
            Err(wrong("a duration such as \"500ms\""))
        };
    }
    if key == MISBEHAVE {
        return specs(value).map_err(|what| wrong(&what));
    }
    let known = TIMES.iter().copied().chain([MISBEHAVE]);
    let near = known
        .clone()
        .map(|known| (strsim::damerau_levenshtein(known, key), known))
        .min()
        .filter(|(distance, _)| *distance <= 1 + key.len() / 4);
    Err(ConfigProblem {
        message: format!("the devnode has no configuration key `{key}`"),
        help: Some(match near {
            Some((_, near)) => format!("did you mean `{near}`?"),
            None => format!("it has {}", known.collect::<Vec<_>>().join(", ")),
        }),
        key: true,
    })
}

/// Misbehaviours as the devnode reads them: one, or a list.
fn specs(value: &Value) -> Result<(), String> {
    let list = match value {
        Value::Array(list) => list.as_slice(),
        one => std::slice::from_ref(one),
    };
    for one in list {
        let text = one
            .as_str()
            .ok_or("a misbehaviour such as \"crash@15\", or a list of them")?;
        text.parse::<Spec>()
            .map_err(|error| format!("misbehaviours, and this is none ({error})"))?;
    }
    Ok(())
}

fn duration(text: &str) -> Option<Duration> {
    humantime::parse_duration(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::tests::{addresses, plan};
    use crate::chain::validator_key;
    use crate::model::ChainKind;

    fn parsed(spec: &NodeSpec, path: &str) -> Value {
        let files = &spec.components[0].files;
        let file = files.iter().find(|file| file.path.to_str() == Some(path)).unwrap();
        serde_json::from_slice(&file.content).unwrap()
    }

    #[test]
    fn files_of_a_node() {
        let mut plan = plan(ChainKind::Devnode, 4, 1);
        plan.network.config.insert("timeout_propose".into(), json!("700ms"));
        plan.network.nodes[2]
            .config
            .insert("misbehave".into(), json!("crash@15"));
        let rendered = Devnode.render(&plan, &addresses(&plan), &BTreeMap::new()).unwrap();
        let spec = &rendered.nodes[2];
        assert_eq!(spec.components[0].program, Program::Trialnet);
        assert_eq!(spec.components[0].args, ["devnode", "--home", "homes/validator-2/home"]);
        let config = parsed(spec, "config.json");
        assert_eq!(config["block_time"], "200ms");
        assert_eq!(config["timeout_propose"], "700ms");
        assert_eq!(config["misbehave"], json!(["crash@15"]));
        assert_eq!(config["rpc_listen"], "127.99.0.3:26657");
        assert_eq!(config["version"], env!("CARGO_PKG_VERSION"));
        let peers = config["peers"].as_array().unwrap();
        assert_eq!(peers.len(), 2, "it dials those before it");
        let first = validator_key(&plan, &ForeignKeys::new(), "validator-0").unwrap().public;
        assert_eq!(peers[0]["public_key"], first.as_str());
        let genesis = parsed(spec, "genesis.json");
        assert_eq!(genesis["validators"].as_array().unwrap().len(), 4);
        assert_eq!(genesis["chain_id"], config["chain_id"]);
        assert_eq!(genesis["validators"][0]["public_key"], first.as_str());
    }

    #[test]
    fn versions_are_what_the_node_is_told_to_report() {
        let mut plan = plan(ChainKind::Devnode, 1, 0);
        plan.network.nodes[0].version = "0.2.0".into();
        let report = |plan: &Plan| {
            let rendered = Devnode.render(plan, &addresses(plan), &BTreeMap::new()).unwrap();
            parsed(&rendered.nodes[0], "config.json")["version"].clone()
        };
        assert_eq!(report(&plan), "0.2.0");
        let version = Version {
            reports: Some("next".into()),
            ..Version::default()
        };
        plan.versions.insert("0.2.0".into(), version);
        assert_eq!(report(&plan), "next");
        assert_eq!(Devnode.version("0.2.0").unwrap().reports.as_deref(), Some("0.2.0"));
        assert_eq!(Devnode.version("no such/version"), None);
    }

    #[test]
    fn configuration_keys() {
        assert_eq!(check("timeout_prevote", &json!("1s")), Ok(()));
        assert_eq!(check("start_delay", &json!("0s")), Ok(()));
        assert_eq!(check("misbehave", &json!(["hang", "crash@15"])), Ok(()));
        for (key, value, key_is_wrong) in [
            ("timeout_prevote", json!("0s"), false),
            ("timeout_prevote", json!(1000), false),
            ("misbehave", json!([1]), false),
            ("misbehave", json!(""), false),
            ("misbehave", json!("crsh@15"), false),
            ("peers", json!([]), true),
            ("block_time", json!("1s"), true),
            ("timeout_propse", json!("1s"), true),
            ("nothing_like_it", json!(1), true),
        ] {
            let problem = check(key, &value).unwrap_err();
            assert_eq!(problem.key, key_is_wrong, "{problem:?}");
        }
        let help = check("timeout_propse", &json!("1s")).unwrap_err().help;
        assert_eq!(help.as_deref(), Some("did you mean `timeout_propose`?"));
    }

    #[test]
    fn invariants_follow_the_block_time() {
        let mut plan = plan(ChainKind::Devnode, 4, 0);
        assert_eq!(Devnode.default_invariants(&plan.network), (Ms(1_600 + 600 + 5_000), 13));
        plan.network.block_time = Ms(1_000);
        assert_eq!(
            Devnode.default_invariants(&plan.network),
            (Ms(6_400 + 3_000 + 5_000), 5)
        );
    }
}
