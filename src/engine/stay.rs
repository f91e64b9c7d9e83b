//! A hand on a network that is up and stays: one action at a time, with the engine's own keeper and probes, and no judge.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Desk;
use super::faults::{Held, Keeper, Request};
use super::probe::Prober;
use super::steps::{Failure, Network, RPC_LIMIT, http, rpc_endpoint};
use crate::backend::{Addresses, JobOutput, LinkId, NodeAddresses, NodeOps, Trouble};
use crate::chain::rpc::Rpc;
use crate::chain::{ChainAdapter, Rendered};
use crate::model::{NodeName, Plan, Step};
use crate::record::Record;

/// What, besides the plan, the files of a network were made from: with both they can be made again, byte for byte.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    nodes: BTreeMap<NodeName, NodeAddresses>,
    links: Vec<(LinkId, SocketAddr)>,
    /// What jobs printed, by their names.
    outputs: BTreeMap<String, Vec<u8>>,
}

impl Made {
    pub(super) fn new(addresses: &Addresses, outputs: &BTreeMap<String, JobOutput>) -> Self {
        let links = addresses.links.iter();
        let outputs = outputs.iter();
        Self {
            nodes: addresses.nodes.clone(),
            links: links.map(|(link, address)| (link.clone(), *address)).collect(),
            outputs: outputs.map(|(name, job)| (name.clone(), job.stdout.clone())).collect(),
        }
    }

    /// What was reserved.
    #[must_use]
    pub fn addresses(&self) -> Addresses {
        Addresses {
            nodes: self.nodes.clone(),
            links: self.links.iter().cloned().collect(),
        }
    }

    /// The nodes as they were applied.
    ///
    /// # Errors
    /// When this trialnet renders the plan no more, which one of another version may have made.
    pub fn render(&self, plan: &Plan, adapter: &dyn ChainAdapter) -> Result<Rendered, Trouble> {
        let output = |stdout: &Vec<u8>| JobOutput { stdout: stdout.clone() };
        let outputs = self.outputs.iter().map(|(name, stdout)| (name.clone(), output(stdout)));
        let rendered = adapter.render(plan, &self.addresses(), &outputs.collect());
        rendered.map_err(|error| Trouble {
            code: "infra/render".to_owned(),
            node: None,
            expected: "the network can be rendered as before".to_owned(),
            seen: error.to_string(),
        })
    }
}

/// Acts on a network that is up. Dropping it changes nothing there.
pub struct Hand {
    network: Network,
    addresses: BTreeMap<NodeName, SocketAddr>,
}

impl Drop for Hand {
    fn drop(&mut self) {
        self.network.over.cancel();
    }
}

impl Hand {
    /// Takes a network over from the keeper that was there before. What happens is told to `tell` as it happens.
    ///
    /// # Errors
    /// When a node's RPC has no address.
    pub fn new(
        plan: Arc<Plan>,
        rendered: &Rendered,
        adapter: &'static dyn ChainAdapter,
        ops: Arc<dyn NodeOps>,
        held: Held,
        tell: mpsc::UnboundedSender<Record>,
    ) -> Result<Self, Trouble> {
        // There is no judge that could answer, and nothing asks for one here.
        let (messages, _) = mpsc::unbounded_channel();
        let desk = Desk {
            records: tell,
            messages,
        };
        let client = http()?;
        let mut rpc = BTreeMap::new();
        let mut addresses = BTreeMap::new();
        for spec in &rendered.nodes {
            let endpoint = rpc_endpoint(ops.as_ref(), spec)?;
            addresses.insert(spec.name.clone(), endpoint.address);
            rpc.insert(spec.name.clone(), client.node(endpoint, adapter.dialect(), RPC_LIMIT));
        }
        let prober = Prober {
            ops: Arc::clone(&ops),
            rpc: rpc.clone(),
            knocks: rendered.knocks.clone(),
        };
        let faults = Keeper::resume(Arc::clone(&plan), prober, desk.clone(), held);
        let network = Network {
            plan,
            desk,
            rpc,
            keys: rendered.keys.clone(),
            ops,
            faults,
            over: CancellationToken::new(),
            current: AtomicUsize::new(0),
            series: std::sync::Mutex::default(),
            later: BTreeMap::new(),
            versions: std::sync::Mutex::default(),
            before: std::sync::Mutex::default(),
        };
        Ok(Self { network, addresses })
    }

    /// Carries out the action of a step: a fault, `start`, `tx` or `evict`. Returns when its effect is verified.
    ///
    /// # Errors
    /// What was expected, and what was seen instead.
    pub async fn act(&self, step: &Step) -> Result<(), Trouble> {
        let none = |code: &str, expected: &str, seen: &str| Trouble {
            code: code.to_owned(),
            node: None,
            expected: expected.to_owned(),
            seen: seen.to_owned(),
        };
        match Box::pin(self.network.act(step)).await {
            Ok(()) => Ok(()),
            Err(Failure::Judged) => Err(none("infra/internal", "an action", "a question to the judge")),
            Err(Failure::Step {
                code, expected, seen, ..
            }) => Err(none(code, &expected, &seen)),
        }
    }

    /// Ends faults, the last one first; returns when the revert is verified.
    ///
    /// # Errors
    /// What could not be healed, and what was seen.
    pub async fn heal(&self, mut ids: Vec<String>) -> Result<(), Trouble> {
        ids.reverse();
        let expected = format!("{} healed", ids.join(", "));
        let healed = self.network.faults.ask(|reply| Request::Heal(ids, reply)).await;
        healed.and_then(|healed| healed).map_err(|seen| Trouble {
            code: "infra/revert-failed".to_owned(),
            node: None,
            expected,
            seen,
        })
    }

    /// What is on now.
    ///
    /// # Errors
    /// When the keeper is gone, which is a bug of trialnet.
    pub async fn held(&self) -> Result<Held, Trouble> {
        let held = self.network.faults.ask(Request::Tell).await;
        held.map_err(|seen| Trouble {
            code: "infra/internal".to_owned(),
            node: None,
            expected: "the faults that are on".to_owned(),
            seen,
        })
    }

    /// The RPC of a node.
    #[must_use]
    pub fn rpc(&self, node: &str) -> Option<&Rpc> {
        self.network.rpc.get(node)
    }

    /// Where it is reached from this process.
    #[must_use]
    pub fn address(&self, node: &str) -> Option<SocketAddr> {
        self.addresses.get(node).copied()
    }

    /// Acts on the nodes.
    #[must_use]
    pub fn ops(&self) -> &dyn NodeOps {
        self.network.ops.as_ref()
    }
}
