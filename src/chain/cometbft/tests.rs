use super::*;
use crate::chain::tests::{addresses, plan};
use crate::model::ChainKind;

fn file<'a>(spec: &'a NodeSpec, path: &str) -> &'a File {
    let files = &spec.components[0].files;
    files.iter().find(|file| file.path.to_str() == Some(path)).unwrap()
}

fn parsed(spec: &NodeSpec, path: &str) -> Value {
    serde_json::from_slice(&file(spec, path).content).unwrap()
}

fn config(spec: &NodeSpec) -> toml::Table {
    let text = String::from_utf8(file(spec, "config/config.toml").content.clone()).unwrap();
    text.parse().unwrap()
}

#[test]
fn versions() {
    let known = Cometbft.version("0.38.17").unwrap();
    assert_eq!(known.binary.as_deref(), Some("cometbft-0.38.17"));
    assert_eq!(known.image.as_deref(), Some("cometbft/cometbft:v0.38.17"));
    assert_eq!(known.reports.as_deref(), Some("0.38.17"));
    assert_eq!(Cometbft.version("0.37.18").unwrap().reports.as_deref(), Some("0.37.16"));
    assert!(Cometbft.version("1.0.1").is_some());
    for unknown in ["0.34.29", "0.38", "v0.38.17", "0.38.x", "2.0.0", "", "0.38.17.1"] {
        assert_eq!(Cometbft.version(unknown), None, "{unknown}");
    }
    assert!(Cometbft.version(DEFAULT_VERSION).is_some());
}

#[test]
fn files_of_a_node() {
    let plan = plan(ChainKind::Cometbft, 4, 1);
    let rendered = Cometbft.render(&plan, &addresses(&plan), &BTreeMap::new()).unwrap();
    let spec = &rendered.nodes[1];
    assert_eq!(spec.name, "validator-1");
    let component = &spec.components[0];
    assert_eq!(component.args, ["start", "--home", "homes/validator-1/home"]);
    let Program::Chain { binary, hint, .. } = &component.program else {
        panic!("{:?}", component.program)
    };
    assert_eq!(binary.as_deref(), Some("cometbft-0.38.17"));
    assert!(
        hint.contains("go install github.com/cometbft/cometbft/cmd/cometbft@v0.38.17"),
        "{hint}"
    );
    let config = config(spec);
    assert_eq!(config["moniker"].as_str(), Some("validator-1"));
    assert_eq!(config["rpc"]["laddr"].as_str(), Some("tcp://127.99.0.2:26657"));
    let peers: Vec<&str> = config["p2p"]["persistent_peers"].as_str().unwrap().split(',').collect();
    assert_eq!(peers.len(), 4);
    let id = Key::derive(plan.seed, Purpose::Node, "validator-0").id();
    assert!(peers.contains(&format!("{id}@127.99.0.1:26656").as_str()), "{peers:?}");
    let genesis = parsed(spec, "config/genesis.json");
    assert_eq!(genesis["validators"].as_array().unwrap().len(), 4);
    let key = parsed(spec, "config/priv_validator_key.json");
    assert_eq!(genesis["validators"][1]["pub_key"], key["pub_key"]);
    assert_eq!(genesis["validators"][1]["address"], key["address"]);
    assert_eq!(file(spec, "data/priv_validator_state.json").write, Write::Once);
    assert_eq!(parsed(spec, "data/priv_validator_state.json")["height"], "0");
}

#[test]
fn the_scenario_overrules_and_the_node_overrules_the_scenario() {
    let mut plan = plan(ChainKind::Cometbft, 2, 0);
    plan.network.block_time = Ms(500);
    plan.network.config = BTreeMap::from([
        ("consensus.timeout_propose".to_owned(), json!("700ms")),
        ("mempool.size".to_owned(), json!(7)),
    ]);
    plan.network.nodes[1].config = BTreeMap::from([("mempool.size".to_owned(), json!(8))]);
    let rendered = Cometbft.render(&plan, &addresses(&plan), &BTreeMap::new()).unwrap();
    let (one, other) = (config(&rendered.nodes[0]), config(&rendered.nodes[1]));
    assert_eq!(one["consensus"]["timeout_propose"].as_str(), Some("700ms"));
    assert_eq!(one["consensus"]["timeout_precommit"].as_str(), Some("500ms"));
    assert_eq!(one["mempool"]["size"].as_integer(), Some(7));
    assert_eq!(other["mempool"]["size"].as_integer(), Some(8));
    plan.network.config.insert("p2p.pex".into(), json!(true));
    let error = Cometbft.render(&plan, &addresses(&plan), &BTreeMap::new()).unwrap_err();
    assert!(error.why.contains("p2p.pex"), "{error}");
}

#[test]
fn keys_of_deeper_sections() {
    let mut plan = plan(ChainKind::Cometbft, 1, 0);
    for version in ["1.0.1", "mine"] {
        plan.network.nodes[0].version = version.into();
        plan.network.version = version.into();
        plan.versions.insert(
            "mine".into(),
            Version {
                binary: Some("/opt/mine".into()),
                reports: Some("1.0.9".into()),
                ..Version::default()
            },
        );
        plan.network.config = BTreeMap::from([("storage.pruning.interval".to_owned(), json!("20s"))]);
        let rendered = Cometbft.render(&plan, &addresses(&plan), &BTreeMap::new()).unwrap();
        assert_eq!(
            config(&rendered.nodes[0])["storage"]["pruning"]["interval"].as_str(),
            Some("20s")
        );
        let genesis = parsed(&rendered.nodes[0], "config/genesis.json");
        assert!(genesis["consensus_params"]["feature"].is_object());
    }
    plan.versions.clear();
    let error = Cometbft.render(&plan, &addresses(&plan), &BTreeMap::new()).unwrap_err();
    assert!(
        error.to_string().contains("storage.pruning.interval") || error.why.contains("[versions"),
        "{error}"
    );
}

#[test]
fn pairs_dial_from_both_sides() {
    let plan = plan(ChainKind::Cometbft, 4, 1);
    assert_eq!(plan.network.links.len(), 20);
    for (from, to) in &plan.network.links {
        assert!(plan.network.links.contains(&(*to, *from)));
    }
}

#[test]
fn invariants_follow_the_time_outs() {
    let mut plan = plan(ChainKind::Cometbft, 4, 1);
    assert_eq!(
        Cometbft.default_invariants(&plan.network),
        (Ms(2 * 4_000 + 3_000 + 5_000), 5)
    );
    plan.network.block_time = Ms(200);
    assert_eq!(
        Cometbft.default_invariants(&plan.network),
        (Ms(2 * 1_500 + 600 + 5_000), 13)
    );
    plan.network
        .config
        .insert("consensus.timeout_propose".into(), json!("10s"));
    assert_eq!(
        Cometbft.default_invariants(&plan.network).0,
        Ms(2 * 10_500 + 600 + 5_000)
    );
}
