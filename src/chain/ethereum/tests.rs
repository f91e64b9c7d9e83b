use std::collections::BTreeMap;

use serde_json::json;

use super::*;
use crate::backend::Component;
use crate::chain::tests::{addresses, plan};
use crate::chain::{tx_bytes, validator_key};
use crate::model::{ChainKind, Step, Tx, TxBody};

fn network() -> Plan {
    let mut plan = plan(ChainKind::Ethereum, 3, 1);
    for node in &mut plan.network.nodes {
        node.power = node.power.min(1);
    }
    plan
}

fn rendered(plan: &Plan) -> Vec<Component> {
    let rendered = Ethereum.render(plan, &addresses(plan), &BTreeMap::new()).unwrap();
    rendered
        .nodes
        .into_iter()
        .map(|mut node| node.components.remove(0))
        .collect()
}

fn text(component: &Component, path: &str) -> Option<String> {
    let file = component.files.iter().find(|file| file.path.to_str() == Some(path))?;
    Some(String::from_utf8(file.content.clone()).unwrap())
}

fn config(component: &Component) -> toml::Table {
    text(component, "config.toml").unwrap().parse().unwrap()
}

#[test]
fn versions_with_clique_are_known() {
    let known = Ethereum.version("1.13.15").unwrap();
    assert_eq!(known.binary.as_deref(), Some("geth-1.13.15"));
    assert_eq!(known.image.as_deref(), Some("ethereum/client-go:v1.13.15"));
    assert_eq!(known.reports.as_deref(), Some("1.13.15"));
    assert!(Ethereum.version("1.12.2").is_some());
    for other in ["1.14.0", "1.13.", "1.13", "1.13.x", "latest"] {
        assert_eq!(Ethereum.version(other), None, "{other}");
    }
}

#[test]
fn files_of_a_sealer() {
    let mut plan = network();
    plan.network.config.insert("Eth.TxPool.GlobalSlots".into(), json!(77));
    plan.network.nodes[1].config.insert("verbosity".into(), json!(4));
    let nodes = rendered(&plan);
    let config = config(&nodes[1]);
    let genesis = &config["Eth"]["Genesis"];
    let extra = genesis["ExtraData"].as_array().unwrap();
    assert_eq!(extra.len(), 32 + 3 * 20 + 65);
    let sealers: Vec<u8> = extra[32..92]
        .iter()
        .map(|byte| u8::try_from(byte.as_integer().unwrap()).unwrap())
        .collect();
    let mut wanted: Vec<String> = (0..3)
        .map(|index| {
            validator_key(&plan, &ForeignKeys::new(), &format!("validator-{index}"))
                .unwrap()
                .address
        })
        .collect();
    wanted.sort();
    assert_eq!(hex::encode_upper(sealers), wanted.concat());
    assert_eq!(genesis["Config"]["Clique"]["Period"].as_integer(), Some(2));
    assert_eq!(genesis["Config"]["ChainID"], config["Eth"]["NetworkId"]);
    assert_eq!(genesis["Config"]["LondonBlock"].as_integer(), Some(0));
    assert_eq!(config["Eth"]["TxPool"]["GlobalSlots"].as_integer(), Some(77));
    let p2p = &config["Node"]["P2P"];
    assert_eq!(p2p["ListenAddr"].as_str(), Some("127.99.0.2:26656"));
    assert_eq!(p2p["MaxPeers"].as_integer(), Some(3));
    let peers = p2p["StaticNodes"].as_array().unwrap();
    assert_eq!(peers.len(), 3, "it dials all others");
    assert_eq!(p2p["TrustedNodes"], p2p["StaticNodes"]);
    let first = peers[0].as_str().unwrap();
    assert!(
        first.starts_with("enode://") && first.ends_with("@127.99.0.1:26656"),
        "{first}"
    );
    assert_eq!(first.len(), "enode://".len() + 128 + "@127.99.0.1:26656".len());
    let args = nodes[1].args.join(" ");
    let own = validator_key(&plan, &ForeignKeys::new(), "validator-1")
        .unwrap()
        .address
        .to_lowercase();
    assert!(args.contains("--config homes/validator-1/home/config.toml"), "{args}");
    assert!(args.contains("--verbosity 4 --mine --unlock"), "{args}");
    assert!(args.contains(&own), "{args}");
    assert!(text(&nodes[1], "keystore/sealer.json").unwrap().contains(&own));
}

#[test]
fn a_member_seals_nothing_and_has_no_account() {
    let plan = network();
    let nodes = rendered(&plan);
    let member = &nodes[3];
    assert!(!member.args.iter().any(|arg| arg == "--mine" || arg == "--unlock"));
    assert_eq!(text(member, "keystore/sealer.json"), None);
    assert_eq!(config(member)["Eth"]["Genesis"], config(&nodes[0])["Eth"]["Genesis"]);
    assert_ne!(text(member, "nodekey"), text(&nodes[0], "nodekey"));
    assert!(member.args.join(" ").contains("--verbosity 3"));
}

#[test]
fn keys_are_secret() {
    for file in &rendered(&network())[0].files {
        assert_eq!(
            file.secret,
            file.path.to_str() != Some("config.toml"),
            "{}",
            file.path.display()
        );
    }
}

#[test]
fn what_sends_is_funded() {
    let mut plan = network();
    let action = [
        Action::Tx(Tx {
            id: "one".into(),
            body: TxBody::Raw("a=b".into()),
            node: "validator-0".into(),
        }),
        Action::Load(Load {
            id: "many".into(),
            rate: 10.0,
            lasts: Ms::secs(5),
            size: 64,
            nodes: vec!["validator-0".into()],
        }),
    ];
    plan.steps = action
        .into_iter()
        .enumerate()
        .map(|(index, action)| Step {
            index,
            id: None,
            name: None,
            when: None,
            go_on: false,
            background: false,
            line: 1,
            action,
        })
        .collect();
    let funded = config(&rendered(&plan)[0])["Eth"]["Genesis"]["Alloc"]
        .as_table()
        .unwrap()
        .clone();
    assert_eq!(funded.len(), 1 + 64 + 3);
    let account = Key::derive(plan.seed, Purpose::Account, "one").address();
    assert_eq!(funded[&format!("0x{account}")]["Balance"].as_str(), Some(BALANCE));
    let Action::Tx(tx) = &plan.steps[0].action else {
        unreachable!()
    };
    let bytes = tx_bytes(&plan, &ForeignKeys::new(), tx).unwrap();
    assert!(bytes.windows(3).any(|part| part == b"a=b"), "{bytes:?}");
    assert_eq!(bytes, tx_bytes(&plan, &ForeignKeys::new(), tx).unwrap());
    plan.seed += 1;
    assert_ne!(bytes, tx_bytes(&plan, &ForeignKeys::new(), tx).unwrap());
}

#[test]
fn networks_are_told_apart() {
    let mut plan = network();
    let one = network_id(&plan);
    assert!((1_000_000_000..2_000_000_000).contains(&one));
    plan.seed += 1;
    assert_ne!(one, network_id(&plan));
}

#[test]
fn invariants_follow_the_block_time() {
    let mut plan = network();
    assert_eq!(
        Ethereum.default_invariants(&plan.network),
        (Ms(10_000 + 6_000 + 2_000 + 5_000), 9)
    );
    plan.network.block_time = Ms::secs(1);
    assert_eq!(Ethereum.default_invariants(&plan.network), (Ms(20_000), 15));
}
