//! What the tests of the adapters share, and what holds for all.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use indexmap::IndexMap;

use super::*;
use crate::model::{BackendKind, Invariants, Limits, Persistence, Start};

/// A plan of one group of validators and one of full nodes, without steps, with the adapter's own links.
pub(crate) fn plan(chain: ChainKind, validators: usize, full: usize) -> Plan {
    let adapter = adapter(chain);
    let version = adapter.default_version().to_owned();
    let groups = [
        ("validator", Role::Validator, validators, 10),
        ("full", Role::Full, full, 0),
    ];
    let node = |group: &str, role, index: usize, power| Node {
        name: format!("{group}-{index}"),
        group: group.into(),
        role,
        power,
        version: version.clone(),
        config: BTreeMap::new(),
        start: Start::Auto,
        resources: crate::model::Resources::default(),
    };
    let nodes: Vec<Node> = groups
        .iter()
        .flat_map(|(group, role, count, power)| (0..*count).map(move |index| node(group, *role, index, *power)))
        .collect();
    let links = adapter.topology(&nodes);
    Plan {
        format: crate::model::FORMAT,
        scenario: "a-test".into(),
        about: None,
        seed: 0x00c0_ffee,
        backend: BackendKind::Local,
        kubernetes: crate::model::Kubernetes::default(),
        network: Network {
            chain,
            block_time: adapter.default_block_time(),
            persistence: Persistence::Volume,
            config: BTreeMap::new(),
            nodes,
            links,
            version: version.clone(),
            app: None,
            keys: crate::model::Keys::Seed,
            attach: None,
        },
        versions: IndexMap::from([(version.clone(), adapter.version(&version).unwrap())]),
        limits: Limits {
            start: Ms::secs(60),
            run: Ms::secs(600),
            settle: Ms::secs(30),
        },
        invariants: Invariants {
            max_stall: Ms::secs(10),
            max_lag: 5,
            off: BTreeSet::new(),
        },
        steps: Vec::new(),
        outcome: None,
        repeats: Vec::new(),
        sums: Vec::new(),
        chaos: None,
    }
}

/// Addresses as the local backend reserves them, without proxies.
pub(crate) fn addresses(plan: &Plan) -> Addresses {
    let ip = |index: usize| IpAddr::V4(Ipv4Addr::new(127, 99, 0, u8::try_from(index + 1).unwrap()));
    let nodes = &plan.network.nodes;
    let reserved = nodes.iter().enumerate().map(|(index, node)| {
        let of = NodeAddresses {
            ip: ip(index),
            ports: BTreeMap::from([(P2P.to_owned(), 26656), (RPC.to_owned(), 26657)]),
            volumes: BTreeMap::from([(HOME.to_owned(), format!("homes/{}/home", node.name).into())]),
        };
        (node.name.clone(), of)
    });
    let links = plan.network.links.iter().map(|(from, to)| {
        let link = LinkId {
            from: nodes[*from].name.clone(),
            to: nodes[*to].name.clone(),
            port: P2P.into(),
        };
        (link, SocketAddr::new(ip(*to), 26656))
    });
    Addresses {
        nodes: reserved.collect(),
        links: links.collect(),
    }
}

#[test]
fn rendering_is_deterministic_and_depends_on_the_seed() {
    for chain in [ChainKind::Devnode, ChainKind::Cometbft, ChainKind::Ethereum] {
        let mut plan = plan(chain, 4, 1);
        let addresses = addresses(&plan);
        let one = adapter(chain).render(&plan, &addresses, &BTreeMap::new()).unwrap();
        assert_eq!(one, adapter(chain).render(&plan, &addresses, &BTreeMap::new()).unwrap());
        assert_eq!(one.nodes.len(), 5);
        plan.seed += 1;
        assert_ne!(one, adapter(chain).render(&plan, &addresses, &BTreeMap::new()).unwrap());
    }
}

#[test]
fn the_genesis_is_one_and_the_same() {
    for chain in [ChainKind::Devnode, ChainKind::Cometbft] {
        let plan = plan(chain, 4, 1);
        let rendered = adapter(chain)
            .render(&plan, &addresses(&plan), &BTreeMap::new())
            .unwrap();
        let geneses: BTreeSet<&[u8]> = rendered
            .nodes
            .iter()
            .flat_map(|node| &node.components[0].files)
            .filter(|file| file.path.ends_with("genesis.json"))
            .map(|file| file.content.as_slice())
            .collect();
        assert_eq!(geneses.len(), 1);
    }
}

#[test]
fn keys_are_secret_files() {
    for chain in [ChainKind::Devnode, ChainKind::Cometbft] {
        let plan = plan(chain, 1, 0);
        let rendered = adapter(chain)
            .render(&plan, &addresses(&plan), &BTreeMap::new())
            .unwrap();
        for file in &rendered.nodes[0].components[0].files {
            let key = file.path.to_str().unwrap().ends_with("key.json");
            assert_eq!(file.secret, key, "{}", file.path.display());
        }
    }
}

#[test]
fn what_was_not_reserved_is_named() {
    for chain in [ChainKind::Devnode, ChainKind::Cometbft, ChainKind::Ethereum] {
        let plan = plan(chain, 2, 0);
        let mut short = addresses(&plan);
        short.nodes.remove("validator-1");
        let error = adapter(chain).render(&plan, &short, &BTreeMap::new()).unwrap_err();
        assert_eq!(error.what, "validator-1");
        let mut short = addresses(&plan);
        short.links.clear();
        let error = adapter(chain).render(&plan, &short, &BTreeMap::new()).unwrap_err();
        assert!(error.why.contains("link"), "{error}");
    }
}

#[test]
fn chain_ids_fit_and_differ() {
    let mut plan = plan(ChainKind::Cometbft, 1, 0);
    assert_eq!(chain_id(&plan), "a-test-c0ffee");
    plan.scenario = "ä long name/with everything: and more than enough of it".into();
    plan.seed = u64::MAX;
    assert!(chain_id(&plan).len() <= 50);
}

#[test]
fn tolerated_counts_less_than_a_third() {
    let of = |powers: &[u64]| {
        let mut plan = plan(ChainKind::Devnode, powers.len(), 1);
        for (node, power) in plan.network.nodes.iter_mut().zip(powers) {
            node.power = *power;
        }
        tolerated(&plan.network)
    };
    assert_eq!(of(&[10, 10, 10]), 0);
    assert_eq!(of(&[10, 10, 10, 10]), 1);
    assert_eq!(of(&[1; 7]), 2);
    assert_eq!(of(&[1, 1, 1, 50]), 3);
    assert_eq!(of(&[]), 0);
}
