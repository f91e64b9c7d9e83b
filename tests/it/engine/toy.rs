//! A chain that nobody has heard of, in one file: what an adapter has to say is all that the rest needs of it.

use serde_json::Value;
use trialnet::backend::{Addresses, Component, File, Job, JobOutput, LinkId, NodeSpec, Place, Port, Program, Write};
use trialnet::chain::{ChainAdapter, ChainError, ConfigProblem, Dialect, RPC, Rendered};
use trialnet::quorum::Engine;

use super::*;

/// Nodes in a ring, each of which dials the next.
struct Toy;

impl ChainAdapter for Toy {
    fn name(&self) -> &'static str {
        "toy"
    }

    fn engine(&self) -> Engine {
        Engine::Bft
    }

    fn dialect(&self) -> Dialect {
        Dialect::Comet
    }

    fn default_version(&self) -> &'static str {
        "wooden"
    }

    fn version(&self, name: &str) -> Option<Version> {
        (name == "wooden").then(Version::default)
    }

    fn default_block_time(&self) -> Ms {
        Ms(100)
    }

    fn check_config(&self, _version: &str, key: &str, _value: &Value) -> Result<(), ConfigProblem> {
        Err(ConfigProblem {
            message: format!("there is nothing to configure, and no `{key}`"),
            help: None,
            key: true,
        })
    }

    fn topology(&self, nodes: &[Node]) -> Vec<(usize, usize)> {
        (0..nodes.len())
            .map(|index| (index, (index + 1) % nodes.len()))
            .collect()
    }

    fn ports(&self) -> Vec<Port> {
        [("p2p", 7001), (RPC, 7002)]
            .map(|(name, number)| Port { name, number })
            .into()
    }

    fn volumes(&self, _network: &Network) -> Vec<String> {
        vec!["box".to_owned()]
    }

    fn components(&self, _network: &Network) -> Vec<&'static str> {
        vec!["toy"]
    }

    fn default_invariants(&self, _network: &Network) -> (Ms, u64) {
        (Ms::secs(5), 5)
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
        let nodes = &plan.network.nodes;
        let spec = |(from, to): &(usize, usize)| {
            let link = LinkId {
                from: nodes[*from].name.clone(),
                to: nodes[*to].name.clone(),
                port: "p2p".to_owned(),
            };
            NodeSpec {
                name: nodes[*from].name.clone(),
                place: Place::default(),
                components: vec![Component {
                    name: "toy".to_owned(),
                    program: Program::Trialnet,
                    version: nodes[*from].version.clone(),
                    args: vec!["play".to_owned()],
                    env: BTreeMap::new(),
                    ports: vec!["p2p".to_owned(), RPC.to_owned()],
                    files: vec![File {
                        volume: "box".to_owned(),
                        path: "next".into(),
                        content: addresses.links[&link].to_string().into_bytes(),
                        secret: false,
                        write: Write::Always,
                    }],
                    user: None,
                    resources: Resources::default(),
                }],
                volumes: self.volumes(&plan.network),
                started: true,
            }
        };
        Ok(Rendered {
            nodes: plan.network.links.iter().map(spec).collect(),
            ..Rendered::default()
        })
    }
}

/// A network of it, with one node that is killed and whether the quorum has to be there meanwhile.
async fn played(killed: &[&str], expected: Action) -> Ended {
    let mut plan = plan(vec![
        ("k", fault("k", FaultKind::Kill, killed, Lasts::UntilHealed)),
        ("", expected),
        (
            "",
            Action::Heal {
                faults: vec!["k".to_owned()],
            },
        ),
    ]);
    plan.network.links = Toy.topology(&plan.network.nodes);
    plan.network.block_time = Toy.default_block_time();
    run_of(&Toy, plan, Tamper::None, |_, _, _| {}).await
}

#[tokio::test]
async fn a_chain_is_one_file() {
    let goes_on = || expect(What::Progress { blocks: 3 }, Window::Within(Ms::secs(5)));
    let ended = played(&["validator-1"], goes_on()).await;
    ended.verdict(Verdict::Passed);
    assert_eq!(ended.states("k"), WHOLE_LIFE);

    // Two of four in a ring are too few, and so it is judged, whatever the chain is called.
    let ended = played(&["validator-1", "validator-2"], goes_on()).await;
    ended.verdict(Verdict::LivenessFailed);
}
