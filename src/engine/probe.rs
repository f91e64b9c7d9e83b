//! Probes: whether a fault has its effect, seen from outside the injector.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;

use crate::backend::{LinkEvidence, LinkId, NodeOps, NodeState, RunState};
use crate::chain::rpc::Rpc;
use crate::model::{Ms, NodeName};
use crate::record::Silence;

/// How often a condition is looked at.
const EVERY: Ms = Ms(20);
/// How long a new connection over a link has to bring its first byte.
const FIRST_BYTE: Ms = Ms(250);
/// How long a node's RPC has to answer a probe.
const RPC: Ms = Ms(400);
/// At most this many links are probed; which ones is a fixed stride through all of them.
const MOST_LINKS: usize = 48;

/// Looks again and again until `look` gives `Ok`, at most for `limit`.
///
/// # Errors
/// What `look` saw last when the limit ran out.
pub async fn until<T, Look, Looking>(limit: Ms, mut look: Look) -> Result<T, String>
where
    Look: FnMut() -> Looking,
    Looking: Future<Output = Result<T, String>>,
{
    let deadline = tokio::time::Instant::now() + limit.duration();
    loop {
        let seen = match look().await {
            Ok(value) => return Ok(value),
            Err(seen) => seen,
        };
        if tokio::time::Instant::now() + EVERY.duration() > deadline {
            return Err(format!("{seen} (after {limit})"));
        }
        tokio::time::sleep(EVERY.duration()).await;
    }
}

/// Probes the nodes and links of a run.
#[derive(Clone)]
pub(super) struct Prober {
    pub(super) ops: std::sync::Arc<dyn NodeOps>,
    pub(super) rpc: BTreeMap<NodeName, Rpc>,
}

impl Prober {
    /// The processes of a node are gone and nobody listens at its RPC port.
    pub(super) async fn gone(&self, node: &str, limit: Ms) -> Result<String, String> {
        until(limit, || async {
            let state = self.state(node).await?;
            if let Some(alive) = state
                .components
                .iter()
                .find(|component| component.run != RunState::Gone)
            {
                return Err(format!("{} of {node} is still there, pid {:?}", alive.name, alive.pid));
            }
            match self.answers(node).await {
                Err((Silence::Refused, _)) => Ok(format!("{} gone, RPC port closed", pids(&state))),
                Err((_, seen)) => Err(format!("its RPC port is not closed: {seen}")),
                Ok(()) => Err("its RPC still answers".to_owned()),
            }
        })
        .await
    }

    /// The processes of a node are halted and its RPC is silent.
    pub(super) async fn paused(&self, node: &str, limit: Ms) -> Result<String, String> {
        until(limit, || async {
            let state = self.state(node).await?;
            if let Some(other) = state
                .components
                .iter()
                .find(|component| component.run != RunState::Paused)
            {
                return Err(format!("{} of {node} is {:?}", other.name, other.run));
            }
            match self.answers(node).await {
                Err(_) => Ok(format!("{} halted, RPC silent", pids(&state))),
                Ok(()) => Err("its RPC still answers".to_owned()),
            }
        })
        .await
    }

    /// No process of a node is halted.
    pub(super) async fn awake(&self, node: &str, limit: Ms) -> Result<String, String> {
        until(limit, || async {
            let state = self.state(node).await?;
            match (state.components.iter()).find(|component| component.run == RunState::Paused) {
                Some(halted) => Err(format!(
                    "{} of {node} is still halted, pid {:?}",
                    halted.name, halted.pid
                )),
                None => Ok(format!("{} not halted", pids(&state))),
            }
        })
        .await
    }

    /// A node runs and answers over RPC, in a later generation than `after` where that is given.
    pub(super) async fn answering(&self, node: &str, after: Option<u32>, limit: Ms) -> Result<String, String> {
        until(limit, || async {
            let state = self.state(node).await?;
            if let Some(other) = state
                .components
                .iter()
                .find(|component| component.run != RunState::Running)
            {
                return Err(format!("{} of {node} is {:?}", other.name, other.run));
            }
            if let Some(old) = state
                .components
                .iter()
                .find(|component| after.is_some_and(|g| component.generation <= g))
            {
                return Err(format!("{} of {node} is still generation {}", old.name, old.generation));
            }
            self.answers(node)
                .await
                .map_err(|(_, seen)| format!("its RPC does not answer: {seen}"))?;
            Ok(format!("{} runs, RPC answers", pids(&state)))
        })
        .await
    }

    /// The highest generation of a node's components.
    pub(super) async fn generation(&self, node: &str) -> Result<u32, String> {
        let state = self.state(node).await?;
        Ok(state
            .components
            .iter()
            .map(|component| component.generation)
            .max()
            .unwrap_or(0))
    }

    /// No byte passes over `cut`, on new and on open connections, while every link of `open` brings bytes.
    pub(super) async fn cut(&self, cut: &[LinkId], open: &[LinkId], limit: Ms) -> Result<String, String> {
        let (cut, open) = (strided(cut), strided(open));
        let deadline = tokio::time::Instant::now() + limit.duration();
        let mut before = self.links(&cut).await?;
        let now = loop {
            let now = self.links(&cut).await?;
            // Bytes that were under way when the cut came may still arrive, so more looks are given until the limit.
            match still(&before, &now) {
                Ok(()) => break now,
                Err(seen) if tokio::time::Instant::now() > deadline => return Err(format!("{seen} (after {limit})")),
                Err(_) => before = now,
            }
        };
        let connections: usize = now.iter().map(|link| link.open.as_ref().map_or(0, BTreeMap::len)).sum();
        self.open(&open, None, limit)
            .await
            .map_err(|seen| format!("more was cut than asked: {seen}"))?;
        Ok(format!(
            "no byte on {} new and {connections} open connections in {FIRST_BYTE}; {} other links carry bytes",
            now.len(),
            open.len()
        ))
    }

    /// A new connection over each link brings bytes, the first one sooner than `below` where that is given.
    pub(super) async fn open(&self, links: &[LinkId], below: Option<Ms>, limit: Ms) -> Result<String, String> {
        let links = strided(links);
        let missing = std::sync::Mutex::new(links.clone());
        until(limit, || async {
            let asked = missing.lock().map(|links| links.clone()).unwrap_or_default();
            let slow = |evidence: &LinkEvidence| match (evidence.first_byte, below) {
                (None, _) => true,
                // So short a delay cannot be told from none.
                (Some(time), Some(below)) => time >= below && below >= Ms(10),
                (Some(_), None) => false,
            };
            let left: Vec<_> = self.links(&asked).await?.into_iter().filter(slow).collect();
            let seen = left.first().map(|evidence| match evidence.first_byte {
                None => format!("no byte from {} to {}", evidence.link.to, evidence.link.from),
                Some(time) => format!("still {time} from {} to {}", evidence.link.to, evidence.link.from),
            });
            if let Ok(mut missing) = missing.lock() {
                *missing = left.into_iter().map(|evidence| evidence.link).collect();
            }
            seen.map_or_else(|| Ok(format!("bytes on {} new connections", links.len())), Err)
        })
        .await
    }

    /// A devnode misbehaves: from the height on that its order names, and visibly where that can be seen from outside at once.
    pub(super) async fn misbehaving(&self, node: &str, how: &str, limit: Ms) -> Result<String, String> {
        let (word, height) = match how.split_once('@') {
            Some((word, height)) => (word, height.parse::<u64>().unwrap_or(0)),
            None => (how, 0),
        };
        // The others say how high the chain is: the node itself may lie.
        let begun = until(limit, || async {
            let mut highest = 0;
            for (name, rpc) in &self.rpc {
                if name != node
                    && let Ok(Ok(status)) = tokio::time::timeout(RPC.duration(), rpc.status()).await
                {
                    highest = highest.max(status.height);
                }
            }
            if highest >= height {
                Ok(highest)
            } else {
                Err(format!("the chain is at {highest}, it begins at {height}"))
            }
        })
        .await?;
        match word {
            "crash" => self.gone(node, Ms::secs(10)).await,
            "hang" => {
                until(Ms::secs(10), || async {
                    match self.answers(node).await {
                        Err((Silence::Timeout, seen)) => Ok(format!("at height {begun}: {seen}")),
                        Err((_, seen)) => Err(seen),
                        Ok(()) => Err("its RPC still answers".to_owned()),
                    }
                })
                .await
            }
            // What it says and leaves unsaid is for the judge to find; that it took the order is all that a probe can add.
            _ => Ok(format!("{node} took the order {how}, the chain is at {begun}")),
        }
    }

    /// The first byte of a new connection takes at least `least` over each link, and no more than a second above `most`.
    pub(super) async fn slow(&self, links: &[LinkId], least: Ms, most: Ms, limit: Ms) -> Result<String, String> {
        let links = strided(links);
        let patience = most + Ms::secs(1);
        until(limit, || async {
            let now = self
                .ops
                .probe_links(&links, patience)
                .await
                .map_err(|trouble| trouble.to_string())?;
            let mut times = Vec::new();
            for evidence in now {
                let (from, to) = (&evidence.link.to, &evidence.link.from);
                match evidence.first_byte {
                    None => return Err(format!("no byte from {from} to {to} within {patience}")),
                    Some(time) if time < least => return Err(format!("{time} from {from} to {to}, less than {least}")),
                    Some(time) => times.push(time),
                }
            }
            times.sort_unstable();
            let median = times.get(times.len() / 2).copied().unwrap_or_default();
            Ok(format!(
                "first byte after {median} (median of {} links; {least} to {most} asked)",
                times.len()
            ))
        })
        .await
    }

    async fn links(&self, links: &[LinkId]) -> Result<Vec<LinkEvidence>, String> {
        self.ops
            .probe_links(links, FIRST_BYTE)
            .await
            .map_err(|trouble| trouble.to_string())
    }

    async fn state(&self, node: &str) -> Result<NodeState, String> {
        self.ops.state(node).await.map_err(|trouble| trouble.to_string())
    }

    async fn answers(&self, node: &str) -> Result<(), (Silence, String)> {
        let Some(rpc) = self.rpc.get(node) else {
            return Err((Silence::Garbage, format!("{node} has no RPC address")));
        };
        match tokio::time::timeout(RPC.duration(), rpc.status()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(error.silence()),
            Err(_) => Err((Silence::Timeout, "no answer in 400 ms".to_owned())),
        }
    }
}

/// Whether nothing moved between two looks at the same links.
fn still(before: &[LinkEvidence], now: &[LinkEvidence]) -> Result<(), String> {
    for (before, now) in before.iter().zip(now) {
        let (from, to) = (&now.link.to, &now.link.from);
        if let Some(time) = now.first_byte {
            return Err(format!(
                "a new connection brought a byte from {from} to {to} after {time}"
            ));
        }
        let (Some(earlier), Some(later)) = (&before.open, &now.open) else {
            continue;
        };
        for (port, bytes) in later {
            let moved = bytes - earlier.get(port).copied().unwrap_or(0).min(*bytes);
            if moved > 0 {
                return Err(format!("{moved} bytes moved from {from} to {to} on an open connection"));
            }
        }
    }
    Ok(())
}

/// A bounded choice of links that always holds the first and reaches every part of the list.
fn strided(links: &[LinkId]) -> Vec<LinkId> {
    let stride = links.len().div_ceil(MOST_LINKS).max(1);
    links.iter().step_by(stride).cloned().collect()
}

fn pids(state: &NodeState) -> String {
    let pids: BTreeSet<_> = state.components.iter().filter_map(|component| component.pid).collect();
    let words: Vec<_> = pids.iter().map(u32::to_string).collect();
    format!("pid {}", words.join(", "))
}
