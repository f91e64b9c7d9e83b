//! Probes: whether a fault has its effect, seen from outside the injector.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::lock;
use crate::backend::{
    ComponentState, DATAGRAM_HEADERS, FULL_PACKET, Incarnation, LinkEvidence, LinkId, LinkLook, NodeOps, NodeState,
    PROBER, PacketEvidence, PacketShape, RunState, StressEvidence, Stressed, Volley, VolumeEvidence, Writable,
    rate_burst, rate_queue,
};
use crate::chain::Knocks;
use crate::chain::rpc::Rpc;
use crate::model::{Ms, NodeName, Stress, bits, mebibytes};
use crate::record::{FaultState, Silence};

/// How often a condition is looked at.
const EVERY: Ms = Ms(20);
/// How long a new connection over a link has to bring its first byte.
const FIRST_BYTE: Ms = Ms(250);
/// How long a node's RPC is silent before a probe takes it for silent.
const RPC: Ms = Ms(400);
/// How long it has to answer, or to refuse, where that is waited for: a connection through a cluster's API server may be slow to open.
const PATIENT: Ms = Ms(2000);
/// In how many looks in a row at links that are delayed all have to be slow. The connections of one look tell no more than one of them: a
/// proxy that waits for a processor holds them all. So long, all in all, no machine holds it look after look, and lets nodes and prober go on.
const SLOW: Ms = Ms(500);
/// And in how many at least, and at most.
const LOOKS: (usize, usize) = (3, 5);
/// How many times as long a connection over a link may take as one past it, on a busy machine and without a delay: each waits for a
/// processor whenever a process has its turn, and over a link these are the proxy (the connection, what comes back), the node and the
/// prober, past it the node and the prober.
const TURNS: u64 = 4;
/// A shorter delay cannot be told from none.
const SHORT: Ms = Ms(10);
/// At most this many links are probed; which ones is a fixed stride through all of them.
const MOST_LINKS: usize = 48;

/// How many datagrams are sent over a pair of nodes at least, and at most.
const DATAGRAMS: (u32, u32) = (1000, 4000);
/// How many at a glance.
const GLANCE: u32 = 200;
/// At most so many pairs of nodes are sent over.
const MOST_PAIRS: usize = 24;
/// Over which time datagrams are sent that could not be counted when they came faster.
const SLOWER: Ms = Ms(2000);
/// At most so many where a rate is looked for, which takes many and larger datagrams.
const MOST_BOUND: usize = 4;
/// Over which time these are sent, and how many times as much as may pass.
const FLOOD: Ms = Ms(1000);
const OVER: u64 = 3;

/// How many datagrams a look takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Samples {
    /// As many as the claim needs.
    Claim,
    /// Few: what cannot be told with them is not looked at.
    Glance,
}

/// A fault is not what was asked.
pub(super) struct Miss {
    /// [`FaultState::NoEffect`] or [`FaultState::Stronger`].
    pub state: FaultState,
    /// What a probe saw, in words.
    pub seen: String,
}

impl From<String> for Miss {
    fn from(seen: String) -> Self {
        Self {
            state: FaultState::NoEffect,
            seen,
        }
    }
}

/// What has to become of the packets from one node to another.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Pair {
    pub(super) from: NodeName,
    pub(super) to: NodeName,
    /// What share is lost, from 0 to 1.
    pub(super) loss: f64,
    /// Bits a second that pass at most.
    pub(super) rate: Option<u64>,
}

/// What becomes of packets at this moment, for looks during which that may change. Copies are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Force(Arc<Mutex<Vec<Vec<PacketShape>>>>);

impl Force {
    /// This is about to be so; until it has arrived, either may be.
    pub(super) fn coming(&self, shapes: Vec<PacketShape>) {
        lock(&self.0).push(shapes);
    }

    /// What came last is so.
    pub(super) fn arrived(&self) {
        let mut all = lock(&self.0);
        let before = all.len().saturating_sub(1);
        all.drain(..before);
    }

    /// All that may be so.
    fn now(&self) -> Vec<Vec<PacketShape>> {
        lock(&self.0).clone()
    }
}

/// What may have become of the packets from one node to the other: the least and the greatest share that is lost, the least and the greatest rate
/// (`None`: there was none).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Range {
    loss: (f64, f64),
    rate: (Option<u64>, Option<u64>),
}

fn range<'a>(states: impl IntoIterator<Item = &'a Vec<PacketShape>>, Pair { from, to, .. }: &Pair) -> Range {
    let of = |shapes: &Vec<PacketShape>| {
        let shape = shapes.iter().find(|shape| (&shape.from, &shape.to) == (from, to));
        let (loss, rate) = shape.map_or((0.0, None), |shape| (shape.loss, shape.rate));
        Range {
            loss: (loss, loss),
            rate: (rate, rate),
        }
    };
    // No bound is more than any.
    let most = |rate: &Option<u64>| rate.unwrap_or(u64::MAX);
    let all = states.into_iter().map(of);
    all.reduce(|one, other| Range {
        loss: (one.loss.0.min(other.loss.0), one.loss.1.max(other.loss.1)),
        rate: (
            std::cmp::min_by_key(one.rate.0, other.rate.0, most),
            std::cmp::max_by_key(one.rate.1, other.rate.1, most),
        ),
    })
    .unwrap_or_default()
}

/// How far the share that is seen lost may be from the one that is asked. Of n packets, each lost with the probability p, the share that is lost
/// has the standard deviation √(p(1−p)/n); it is further off than 4.5 of these once in 150,000 looks. One packet more is granted for what the
/// machines themselves lose.
fn tolerance(loss: f64, count: u32) -> f64 {
    let count = f64::from(count);
    4.5 * (loss * (1.0 - loss) / count).sqrt() + 1.0 / count
}

/// How many packets tell a loss from none: with n = 40/p the tolerance is 0.74 p and less.
fn datagrams(loss: f64) -> u32 {
    let wanted = (DATAGRAMS.0..=DATAGRAMS.1).find(|count| f64::from(*count) * loss >= 40.0);
    if loss > 0.0 {
        wanted.unwrap_or(DATAGRAMS.1)
    } else {
        DATAGRAMS.0
    }
}

/// Datagrams that are several times as much as may pass at this rate, waits in the queue or passes at once. None is so large that it is sent in parts.
fn flood(rate: u64) -> Volley {
    let size = if rate < 1_000_000 { 300 } else { 1200 };
    let passes = rate_burst(rate) + rate_queue(rate) * FULL_PACKET + rate / 8 * FLOOD.0 / 1000;
    let count = OVER * passes / u64::from(size + DATAGRAM_HEADERS);
    Volley {
        count: u32::try_from(count).unwrap_or(u32::MAX),
        size,
        spread: Some(FLOOD),
    }
}

/// The bits a second that arrived.
///
/// # Errors
/// It was more than may be, or less than half; or too little was sent in the time that it took.
fn rate_seen(evidence: &PacketEvidence, volley: Volley, may: &Range) -> Result<u64, String> {
    let PacketEvidence { from, to, .. } = evidence;
    let bytes = |count: u32| u64::from(count) * u64::from(volley.size + DATAGRAM_HEADERS);
    let (sent, received) = (bytes(evidence.sent), bytes(evidence.received));
    let passed = received * 8 * 1000 / evidence.took.0.max(1);
    if let Some(most) = may.rate.1 {
        // Until they were counted more came.
        let passes = rate_burst(most) + most / 8 * evidence.counted.0 / 1000;
        if sent * 2 < passes * 3 {
            return Err(format!(
                "no more than {sent} bytes left from {from} to {to} in {}, of which {passes} may pass: this machine is too busy",
                evidence.counted
            ));
        }
        if received * 10 > passes * 11 {
            return Err(format!(
                "{received} of {sent} bytes from {from} to {to} arrived within {}, of which {passes} may pass at {}",
                evidence.counted,
                bits(most)
            ));
        }
    }
    let least = may
        .rate
        .0
        .map_or(sent, |rate| sent.min(rate / 8 * evidence.took.0 / 1000));
    // As long as other packets are lost as well, nothing is said of how few may pass.
    if may.loss.1 == 0.0 && received * 2 < least {
        return Err(format!(
            "{received} of {sent} bytes from {from} to {to} arrived within {}, at least {} should have",
            evidence.counted,
            least / 2
        ));
    }
    Ok(passed)
}

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

/// Why a node that was replaced is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Away {
    /// Its process has ended by itself.
    Ended(String),
    /// It did not answer in time.
    Silent(String),
}

/// Probes the nodes and links of a run.
#[derive(Clone)]
pub(super) struct Prober {
    pub(super) ops: std::sync::Arc<dyn NodeOps>,
    pub(super) rpc: BTreeMap<NodeName, Rpc>,
    /// What has to be said to nodes before they answer.
    pub(super) knocks: Knocks,
}

impl Prober {
    /// The processes of a node are gone and nobody listens at its RPC port; or the process of one component is gone.
    pub(super) async fn gone(&self, node: &str, component: Option<&str>, limit: Ms) -> Result<String, String> {
        until(limit, || async {
            let mut state = self.state(node).await?;
            only(&mut state, node, component)?;
            if let Some(alive) = state
                .components
                .iter()
                .find(|component| component.run != RunState::Gone)
            {
                return Err(format!("{} of {node} is still there, pid {:?}", alive.name, alive.pid));
            }
            if let Some(component) = component {
                return Ok(format!("{component} of {node} ({}) gone", pids(&state)));
            }
            match self.answers(node, PATIENT).await {
                Err((Silence::Refused, _)) => Ok(format!("{} gone, RPC port closed", pids(&state))),
                Err((_, seen)) => Err(format!("its RPC port is not closed: {seen}")),
                Ok(()) => Err("its RPC still answers".to_owned()),
            }
        })
        .await
    }

    /// The platform has ended what it was asked to end, since `before`: of a removal the pod is another one or gone, else each component
    /// (or the one that is named) is in another container, or gone.
    pub(super) async fn replaced(
        &self,
        node: &str,
        before: &NodeState,
        how: (bool, Option<&str>),
        limit: Ms,
    ) -> Result<String, String> {
        let (removed, component) = how;
        until(limit, || async {
            let mut state = self.state(node).await?;
            only(&mut state, node, component)?;
            let mut seen = Vec::new();
            for now in &state.components {
                let Some(old) = before.components.iter().find(|old| old.name == now.name) else {
                    continue;
                };
                match another(old, now, removed) {
                    Some(evidence) if !seen.contains(&evidence) => seen.push(evidence),
                    Some(_) => {}
                    None => return Err(format!("{} of {node} is still {}", now.name, incarnation(now))),
                }
            }
            match seen.as_slice() {
                [] => Err(format!("nothing is known of the containers of {node}")),
                _ => Ok(format!("{node}: {}", seen.join(", "))),
            }
        })
        .await
    }

    /// The machines that a fault has struck are as it says.
    pub(super) async fn machines(&self, fault: &str, limit: Ms) -> Result<String, String> {
        until(limit, || async {
            let seen = self.ops.struck_machines(fault).await;
            seen.map_err(|trouble| trouble.to_string())
        })
        .await
    }

    /// A node does not answer, whatever the reason.
    pub(super) async fn silent(&self, node: &str, limit: Ms) -> Result<String, String> {
        until(limit, || async {
            match self.answers(node, RPC).await {
                Err((_, seen)) => Ok(format!("{node} is silent: {seen}")),
                Ok(()) => Err(format!("{node} still answers")),
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
            match self.answers(node, RPC).await {
                Err((Silence::Timeout, _)) => Ok(format!("{} halted, RPC silent for {RPC}", pids(&state))),
                Err((_, seen)) => Err(format!("its RPC is not just silent: {seen}")),
                Ok(()) => Err("its RPC still answers".to_owned()),
            }
        })
        .await
    }

    /// So much is used beside each program of a node for a fault.
    pub(super) async fn stressed(&self, node: &str, fault: &str, asked: Stress, limit: Ms) -> Result<String, String> {
        until(limit, || async {
            let seen = self.ops.stressed(node, fault).await;
            let seen = seen.map_err(|trouble| trouble.to_string())?;
            let words = seen.iter().map(|evidence| stress_seen(node, evidence, asked));
            Ok(words.collect::<Result<Vec<_>, _>>()?.join(", "))
        })
        .await
    }

    /// Nobody can write to the volume of a node (or, not `locked`, everybody can): its mount says so, and a file cannot be made.
    pub(super) async fn locked(&self, node: &str, locked: bool, limit: Ms) -> Result<String, String> {
        until(limit, || async {
            let seen = self.ops.volume(node).await.map_err(|trouble| trouble.to_string())?;
            let words = seen.iter().map(|VolumeEvidence { component, seen }| match seen {
                Writable {
                    read_only: true,
                    refused: Some(why),
                } if locked => Ok(format!(
                    "read-only mount, no file can be made ({why}) beside {component} of {node}"
                )),
                Writable {
                    read_only: false,
                    refused: None,
                } if !locked => Ok(format!("a file can be made beside {component} of {node}")),
                Writable { read_only, refused } => Err(format!(
                    "the volume beside {component} of {node} is mounted {}, and {}",
                    if *read_only { "read-only" } else { "writable" },
                    refused.as_deref().unwrap_or("a file can be made"),
                )),
            });
            Ok(words.collect::<Result<Vec<_>, _>>()?.join(", "))
        })
        .await
    }

    /// Nothing is used beside the programs of a node for a fault.
    pub(super) async fn relieved(&self, node: &str, fault: &str, limit: Ms) -> Result<String, String> {
        until(limit, || async {
            let seen = self.ops.stressed(node, fault).await;
            let seen = seen.map_err(|trouble| trouble.to_string())?;
            match seen.iter().find(|evidence| evidence.seen.is_some()) {
                Some(StressEvidence { component, .. }) => {
                    Err(format!("what uses its resources is still beside {component} of {node}"))
                }
                None => Ok(String::new()),
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
            self.answers(node, PATIENT)
                .await
                .map_err(|(_, seen)| format!("its RPC does not answer: {seen}"))?;
            Ok(format!("{} runs, RPC answers", pids(&state)))
        })
        .await
    }

    /// A node runs in a later generation than `before` and answers over RPC: the evidence, and what it calls itself.
    pub(super) async fn risen(&self, node: &str, before: &NodeState, limit: Ms) -> Result<(String, String), Away> {
        let Some(rpc) = self.rpc.get(node) else {
            return Err(Away::Silent(format!("{node} has no RPC address")));
        };
        let older = |component: &ComponentState| {
            let old = before.components.iter().find(|old| old.name == component.name);
            old.is_some_and(|old| component.generation <= old.generation)
        };
        let seen = until(limit, || async {
            let state = self.state(node).await?;
            if let Some(old) = state.components.iter().find(|component| older(component)) {
                return Err(format!("{} of {node} is still generation {}", old.name, old.generation));
            }
            // It was started, so nothing but itself can have ended it.
            if let Some(ended) = (state.components.iter()).find(|component| component.run == RunState::Gone) {
                return Ok(Err(format!("{} of {node} ended by itself", ended.name)));
            }
            match rpc.anew(PATIENT).status().await {
                Ok(status) => Ok(Ok((format!("{} runs, RPC answers", pids(&state)), status.version))),
                Err(error) => Err(format!("its RPC does not answer: {}", error.silence().1)),
            }
        });
        match seen.await {
            Ok(seen) => seen.map_err(Away::Ended),
            Err(seen) => Err(Away::Silent(seen)),
        }
    }

    /// The platform has brought back the component of a node that was struck. What ended with it left its container, which is all that the platform sees, to the
    /// supervisor: `raise` is to have it started.
    pub(super) async fn returned(&self, node: &str, limit: Ms, raise: impl Fn(&str)) -> Result<String, String> {
        until(limit, || async {
            let state = self.state(node).await?;
            if let Some(down) = (state.components.iter()).find(|component| component.run == RunState::Gone) {
                raise(node);
                return Err(format!("{} of {node} is down", down.name));
            }
            self.answers(node, PATIENT)
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
    pub(super) async fn cut(&self, cut: &[LinkId], open: &[LinkId], limit: Ms) -> Result<String, Miss> {
        let (cut, open) = (strided(cut), strided(open));
        let deadline = tokio::time::Instant::now() + limit.duration();
        let mut before = self.links(&cut).await?;
        let now = loop {
            let now = self.links(&cut).await?;
            // Bytes that were under way when the cut came may still arrive, so more looks are given until the limit.
            match still(&before, &now) {
                Ok(()) => break now,
                Err(seen) if tokio::time::Instant::now() > deadline => {
                    return Err(format!("{seen} (after {limit})").into());
                }
                Err(_) => before = now,
            }
        };
        let connections: usize = now.iter().map(|link| link.open.as_ref().map_or(0, BTreeMap::len)).sum();
        self.open(&open, None, limit).await.map_err(|seen| Miss {
            state: FaultState::Stronger,
            seen: format!("more was cut than asked: {seen}"),
        })?;
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
                (Some(time), Some(below)) => time >= below && below >= SHORT,
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
            "crash" => self.gone(node, None, Ms::secs(10)).await,
            "hang" => {
                until(Ms::secs(10), || async {
                    match self.answers(node, RPC).await {
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

    /// The first byte of a new connection takes at least the given time over each link, and no more than a second above `most`.
    ///
    /// A busy machine makes connections slow as well, so only those count beside which the same connection past the links was quick; a
    /// single one that is too quick begins the count anew.
    pub(super) async fn slow(&self, links: &[(LinkId, Ms)], most: Ms, limit: Ms) -> Result<String, String> {
        let (links, least): (Vec<_>, Vec<_>) = strided(links).into_iter().unzip();
        let (Some(&shortest), Some(&longest)) = (least.iter().min(), least.iter().max()) else {
            return Ok("there is no link to look at".to_owned());
        };
        let enough = looks_at(longest);
        // There and back, where the node has to be told something first.
        let patience = Ms(2 * most.0) + Ms::secs(1);
        let look = LinkLook {
            past: true,
            ..self.look(&links, patience)
        };
        let limit = limit + Ms(most.0 * enough as u64);
        let deadline = tokio::time::Instant::now() + limit.duration();
        let (mut looks, mut times) = (0, Vec::new());
        loop {
            let now = self
                .ops
                .probe_links(&links, look.clone())
                .await
                .map_err(|trouble| trouble.to_string())?;
            let seen = match delayed(now.iter().zip(least.iter().copied()), patience) {
                Ok(more) => {
                    looks += usize::from(!more.is_empty());
                    times.extend(more);
                    format!(
                        "a busy machine: only in {looks} of {enough} looks a connection past a link took less than a quarter of its delay"
                    )
                }
                Err(seen) => {
                    (looks, times) = (0, Vec::new());
                    seen
                }
            };
            if looks >= enough {
                break;
            }
            if tokio::time::Instant::now() + EVERY.duration() > deadline {
                return Err(format!("{seen} (after {limit})"));
            }
            tokio::time::sleep(EVERY.duration()).await;
        }
        times.sort_unstable();
        let median = times.get(times.len() / 2).copied().unwrap_or_default();
        Ok(format!(
            "first byte after {median} (median of {} connections in {looks} looks; {shortest} to {most} asked)",
            times.len()
        ))
    }

    /// The share of datagrams that is lost from node to node is what it has to be, in each direction by itself.
    /// Meanwhile other faults may begin and end: what was in force before and after counts.
    pub(super) async fn lost(
        &self,
        pairs: &[Pair],
        force: &Force,
        samples: Samples,
        limit: Ms,
    ) -> Result<String, String> {
        let count = match samples {
            Samples::Claim => (pairs.iter())
                .map(|pair| datagrams(pair.loss))
                .max()
                .unwrap_or_default(),
            Samples::Glance => GLANCE,
        };
        let told =
            |pair: &&Pair| samples == Samples::Claim || pair.loss == 0.0 || pair.loss > tolerance(pair.loss, count);
        // What a fault does comes first, what it leaves alone after it.
        let told = |pair: &&Pair| pair.rate.is_none() && told(pair);
        let (hit, spared): (Vec<&Pair>, Vec<&Pair>) = pairs.iter().filter(told).partition(|pair| pair.loss > 0.0);
        let chosen = [strided_to(&hit, MOST_PAIRS / 2), strided_to(&spared, MOST_PAIRS / 2)].concat();
        if chosen.is_empty() {
            return Ok("no packets to look for".to_owned());
        }
        let names: Vec<_> = chosen.iter().map(|pair| (pair.from.clone(), pair.to.clone())).collect();
        let slower = AtomicBool::new(false);
        until(limit, || async {
            let mut states = force.now();
            let volley = Volley {
                count,
                size: 0,
                spread: slower.load(Ordering::Relaxed).then_some(SLOWER),
            };
            let seen = self.ops.probe_packets(&names, volley).await;
            states.extend(force.now());
            let seen = seen.map_err(|trouble| {
                if trouble.code == PROBER {
                    slower.store(true, Ordering::Relaxed);
                }
                trouble.to_string()
            })?;
            let mut lost = BTreeMap::<String, Vec<f64>>::new();
            for (pair, evidence) in chosen.iter().zip(&seen) {
                let share = 1.0 - f64::from(evidence.received) / f64::from(evidence.sent.max(1));
                let Range {
                    loss: (least, most),
                    rate: (bound, _),
                } = range(&states, pair);
                // What passes at a rate is not told from what is lost by the way.
                if bound.is_some() {
                    continue;
                }
                let asked = if least < most {
                    format!("{:.1} to {:.1}", least * 100.0, most * 100.0)
                } else {
                    format!("{:.1}", most * 100.0)
                };
                let (below, above) = (tolerance(least, evidence.sent), tolerance(most, evidence.sent));
                if share < least - below || share > most + above {
                    return Err(format!(
                        "{:.1} % of {} packets from {} to {} were lost, {asked} % (± {:.1}) were asked",
                        share * 100.0,
                        evidence.sent,
                        pair.from,
                        pair.to,
                        below.max(above) * 100.0,
                    ));
                }
                lost.entry(asked).or_default().push(share);
            }
            let words = lost.iter().map(|(asked, shares)| {
                let mean = shares.iter().sum::<f64>() / f64::from(u32::try_from(shares.len()).unwrap_or(u32::MAX));
                let directions = if shares.len() == 1 { "direction" } else { "directions" };
                format!(
                    "{:.1} % lost in {} {directions} ({asked} % asked)",
                    mean * 100.0,
                    shares.len()
                )
            });
            let words: Vec<_> = words.collect();
            Ok(format!("of {count} packets each: {}", words.join(", ")))
        })
        .await
    }

    /// Of what is sent from node to node where the rate is bound, no more arrives than may, and no less than half of that: the chain has its share too.
    /// Meanwhile other faults may begin and end: what was in force before and after counts.
    pub(super) async fn bound(&self, pairs: &[Pair], force: &Force, limit: Ms) -> Result<String, String> {
        let hit: Vec<&Pair> = pairs.iter().filter(|pair| pair.rate.is_some()).collect();
        let chosen = strided_to(&hit, MOST_BOUND);
        let Some(rate) = chosen.iter().filter_map(|pair| pair.rate).max() else {
            return Ok(String::new());
        };
        let names: Vec<_> = chosen.iter().map(|pair| (pair.from.clone(), pair.to.clone())).collect();
        let volley = flood(rate);
        until(limit, || async {
            let mut states = force.now();
            let seen = self.ops.probe_packets(&names, volley).await;
            states.extend(force.now());
            let seen = seen.map_err(|trouble| trouble.to_string())?;
            let mut passed = Vec::new();
            for (pair, evidence) in chosen.iter().zip(&seen) {
                passed.push(rate_seen(evidence, volley, &range(&states, pair))?);
            }
            passed.sort_unstable();
            let median = passed.get(passed.len() / 2).copied().unwrap_or_default();
            let directions = if chosen.len() == 1 { "direction" } else { "directions" };
            Ok(format!(
                "{} passed (median of {} {directions}; {} asked, up to {OVER} times as much sent)",
                bits(median),
                chosen.len(),
                bits(rate)
            ))
        })
        .await
    }

    async fn links(&self, links: &[LinkId]) -> Result<Vec<LinkEvidence>, String> {
        self.ops
            .probe_links(links, self.look(links, FIRST_BYTE))
            .await
            .map_err(|trouble| trouble.to_string())
    }

    fn look(&self, links: &[LinkId], limit: Ms) -> LinkLook {
        let known = links.iter().filter_map(|link| self.knocks.get_key_value(&link.to));
        LinkLook {
            limit,
            past: false,
            knocks: known.map(|(node, knock)| (node.clone(), knock.clone())).collect(),
        }
    }

    /// What the platform says of a node's processes.
    pub(super) async fn state(&self, node: &str) -> Result<NodeState, String> {
        self.ops.state(node).await.map_err(|trouble| trouble.to_string())
    }

    /// Whether a node answers over a new connection.
    async fn answers(&self, node: &str, patience: Ms) -> Result<(), (Silence, String)> {
        let Some(rpc) = self.rpc.get(node) else {
            return Err((Silence::Garbage, format!("{node} has no RPC address")));
        };
        // Where a way leads to the node, the client knows whether that was open.
        let answer = rpc.anew(patience).status().await;
        answer.map(drop).map_err(|error| error.silence())
    }
}

/// Leaves only the component that is meant.
fn only(state: &mut NodeState, node: &str, component: Option<&str>) -> Result<(), String> {
    let Some(name) = component else { return Ok(()) };
    state.components.retain(|component| component.name == name);
    if state.components.is_empty() {
        return Err(format!("{node} has no component {name}"));
    }
    Ok(())
}

/// What is used beside a program, in words.
///
/// # Errors
/// It is less than what was asked.
fn stress_seen(
    node: &str,
    StressEvidence { component, seen }: &StressEvidence,
    asked: Stress,
) -> Result<String, String> {
    let beside = format!("beside {component} of {node}");
    let Some(seen) = seen else {
        return Err(format!("nothing runs {beside}"));
    };
    let Stressed {
        busy,
        used,
        took,
        memory,
        full,
    } = *seen;
    if busy < asked.cpu {
        return Err(format!("{busy} of {} threads want a processor {beside}", asked.cpu));
    }
    if asked.cpu > 0 && used == Ms(0) {
        return Err(format!("{busy} threads had no processor for {took} {beside}"));
    }
    if memory < asked.memory {
        return Err(format!(
            "{} of {} are held {beside}",
            mebibytes(memory),
            mebibytes(asked.memory)
        ));
    }
    if let Some(fill) = asked.fill
        && full < fill.percent
    {
        return Err(format!(
            "the volume is {full} % full {beside}, {} % asked",
            fill.percent
        ));
    }
    let tenths = used.0 * 10 / took.0.max(1);
    let threads = (asked.cpu > 0).then(|| format!("{busy} threads had {}.{} processors", tenths / 10, tenths % 10));
    let held = (asked.memory > 0).then(|| format!("{} are held", mebibytes(memory)));
    let filled = asked.fill.map(|_| format!("the volume is {full} % full"));
    let words: Vec<_> = threads.into_iter().chain(held).chain(filled).collect();
    Ok(format!("{} {beside}", words.join(" and ")))
}

/// Evidence that a component is not where it was.
fn another(old: &ComponentState, now: &ComponentState, removed: bool) -> Option<String> {
    match (&old.place, &now.place) {
        (Some(old), Some(now)) if old.pod_uid != now.pod_uid => {
            Some(format!("pod {} instead of {}", now.pod_uid, old.pod_uid))
        }
        (Some(old), None) => Some(format!("pod {} is gone", old.pod_uid)),
        _ if removed => None,
        (Some(old), Some(now)) if old.container_id != now.container_id || old.restarts < now.restarts => {
            Some(format!("{} started again (restart {})", container(now), now.restarts))
        }
        _ if now.run == RunState::Gone => Some(format!("{} gone", now.name)),
        _ => None,
    }
}

fn container(place: &Incarnation) -> String {
    let id = place.container_id.rsplit('/').next().unwrap_or_default();
    format!("container {}", id.get(..12).unwrap_or(id))
}

/// Where a component is, in words.
fn incarnation(component: &ComponentState) -> String {
    match &component.place {
        None => "in no pod".to_owned(),
        Some(place) => format!(
            "in pod {}, {}, {} restarts",
            place.pod_uid,
            container(place),
            place.restarts
        ),
    }
}

/// How many looks a delay needs of which the longest is this one.
fn looks_at(longest: Ms) -> usize {
    let looks = usize::try_from(SLOW.0 / longest.0.max(1)).unwrap_or(LOOKS.1);
    looks.clamp(LOOKS.0, LOOKS.1)
}

/// The times of the connections that tell whether their link is delayed, each given with the time that it takes at least.
///
/// # Errors
/// A connection was quicker than that, or brought nothing within `patience`.
fn delayed<'a>(now: impl Iterator<Item = (&'a LinkEvidence, Ms)>, patience: Ms) -> Result<Vec<Ms>, String> {
    let mut times = Vec::new();
    for (evidence, least) in now {
        let (from, to) = (&evidence.link.to, &evidence.link.from);
        let tells = least < SHORT || evidence.past.is_some_and(|past| past.0 * TURNS < least.0);
        match evidence.first_byte {
            None => return Err(format!("no byte from {from} to {to} within {patience}")),
            Some(time) if time < least => return Err(format!("{time} from {from} to {to}, less than {least}")),
            Some(time) if tells => times.push(time),
            Some(_) => {}
        }
    }
    Ok(times)
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
        moved(&before.open, &now.open).map_err(|bytes| format!("{bytes} from {from} to {to} on an open connection"))?;
        moved(&before.accepted, &now.accepted)
            .map_err(|bytes| format!("{bytes} from {to} to {from} on an open connection"))?;
    }
    Ok(())
}

/// Whether any open connection has received more than before, by what tells them apart; where either is not known, none has.
fn moved(before: &Option<BTreeMap<u16, u64>>, now: &Option<BTreeMap<u16, u64>>) -> Result<(), String> {
    let (Some(before), Some(now)) = (before, now) else {
        return Ok(());
    };
    for (port, bytes) in now {
        let more = bytes - before.get(port).copied().unwrap_or(0).min(*bytes);
        if more > 0 {
            return Err(format!("{more} bytes moved"));
        }
    }
    Ok(())
}

/// A bounded choice of links that always holds the first and reaches every part of the list.
fn strided<T: Clone>(links: &[T]) -> Vec<T> {
    strided_to(links, MOST_LINKS)
}

/// The same of anything, at most so many.
fn strided_to<T: Clone>(all: &[T], most: usize) -> Vec<T> {
    let stride = all.len().div_ceil(most).max(1);
    all.iter().step_by(stride).cloned().collect()
}

fn pids(state: &NodeState) -> String {
    let pids: BTreeSet<_> = state.components.iter().filter_map(|component| component.pid).collect();
    let words: Vec<_> = pids.iter().map(u32::to_string).collect();
    format!("pid {}", words.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_is_at_least_what_is_asked() {
        let told = |seen| {
            let evidence = StressEvidence {
                component: "core".to_owned(),
                seen,
            };
            let asked = Stress {
                fill: None,
                drops: false,
                cpu: 2,
                memory: 3 << 20,
            };
            stress_seen("a", &evidence, asked)
        };
        let good = Stressed {
            full: 0,
            busy: 2,
            used: Ms(390),
            took: Ms(300),
            memory: 5 << 20,
        };
        assert_eq!(
            told(Some(good)).unwrap(),
            "2 threads had 1.3 processors and 5 MiB are held beside core of a"
        );
        assert_eq!(told(None).unwrap_err(), "nothing runs beside core of a");
        let idle = told(Some(Stressed { busy: 1, ..good })).unwrap_err();
        assert_eq!(idle, "1 of 2 threads want a processor beside core of a");
        let starved = told(Some(Stressed { used: Ms(0), ..good })).unwrap_err();
        assert!(starved.contains("no processor for 300ms"), "{starved}");
        let small = told(Some(Stressed {
            memory: 2 << 20,
            ..good
        }));
        assert_eq!(small.unwrap_err(), "2 MiB of 3 MiB are held beside core of a");
    }

    #[test]
    fn a_short_delay_needs_more_looks() {
        let looks = [0, 40, 100, 300, 1000, 60_000].map(|longest| looks_at(Ms(longest)));
        assert_eq!(looks, [5, 5, 5, 3, 3, 3]);
    }

    fn seen(first_byte: u64, past: u64) -> LinkEvidence {
        LinkEvidence {
            link: LinkId {
                from: "a".to_owned(),
                to: "b".to_owned(),
                port: "p2p".to_owned(),
            },
            first_byte: Some(Ms(first_byte)),
            past: Some(Ms(past)),
            open: None,
            accepted: None,
        }
    }

    #[test]
    fn bytes_at_either_end_are_no_cut() {
        let look = |open: u64, accepted: u64| LinkEvidence {
            first_byte: None,
            open: Some(BTreeMap::from([(1, open)])),
            accepted: Some(BTreeMap::from([(2, accepted)])),
            ..seen(0, 0)
        };
        let before = [look(5, 7)];
        assert_eq!(still(&before, &[look(5, 7)]), Ok(()));
        assert_eq!(still(&before, &[look(4, 7)]), Ok(()), "another one at the same port");
        let told = |open, accepted| still(&before, &[look(open, accepted)]).unwrap_err();
        assert_eq!(told(6, 7), "1 bytes moved from b to a on an open connection");
        assert_eq!(told(5, 10), "3 bytes moved from a to b on an open connection");
    }

    #[test]
    fn a_busy_machine_is_not_a_delay() {
        let told = |all: &[LinkEvidence]| delayed(all.iter().map(|one| (one, Ms(40))), Ms(2000));
        assert_eq!(told(&[seen(41, 1), seen(90, 9)]), Ok(vec![Ms(41), Ms(90)]));
        // Slow past the link as well: it says nothing, neither way.
        assert_eq!(told(&[seen(41, 10), seen(300, 250)]), Ok(Vec::new()));
        let unknown = LinkEvidence {
            past: None,
            ..seen(41, 0)
        };
        assert_eq!(told(&[unknown]), Ok(Vec::new()));
        // One that is too quick refutes the delay, however busy the machine is.
        assert_eq!(
            told(&[seen(90, 1), seen(39, 200)]).unwrap_err(),
            "39ms from b to a, less than 40ms"
        );
        let silent = LinkEvidence {
            first_byte: None,
            ..seen(0, 0)
        };
        assert_eq!(told(&[silent]).unwrap_err(), "no byte from b to a within 2s");
    }

    #[test]
    fn while_something_changes_both_may_be_so() {
        let shape = |loss| PacketShape {
            from: "a".to_owned(),
            to: "b".to_owned(),
            loss,
            rate: None,
        };
        let pair = |from: &str, to: &str| Pair {
            from: from.to_owned(),
            to: to.to_owned(),
            loss: 0.3,
            rate: None,
        };
        let range = |states: &[Vec<PacketShape>], pair: &Pair| range(states, pair).loss;
        let force = Force::default();
        assert_eq!(range(&force.now(), &pair("a", "b")), (0.0, 0.0));
        force.coming(vec![shape(0.3)]);
        force.arrived();
        assert_eq!(range(&force.now(), &pair("a", "b")), (0.3, 0.3));
        let before = force.now();
        force.coming(vec![shape(0.5)]);
        assert_eq!(range(&force.now(), &pair("a", "b")), (0.3, 0.5));
        force.arrived();
        assert_eq!(range(&force.now(), &pair("a", "b")), (0.5, 0.5));
        force.coming(Vec::new());
        force.arrived();
        assert_eq!(
            range(&[before.clone(), force.now()].concat(), &pair("a", "b")),
            (0.0, 0.3)
        );
        assert_eq!(range(&before, &pair("b", "a")), (0.0, 0.0));
    }

    #[test]
    fn a_rate_is_told_from_none_and_from_a_busy_machine() {
        let rate = 1_000_000;
        let volley = flood(rate);
        let whole = u64::from(volley.size + DATAGRAM_HEADERS);
        let seen = |received: u64, counted: u64| PacketEvidence {
            from: "a".to_owned(),
            to: "b".to_owned(),
            sent: volley.count,
            received: u32::try_from(received / whole).unwrap(),
            took: FLOOD,
            counted: Ms(counted),
        };
        let may = Range {
            rate: (Some(rate), Some(rate)),
            ..Range::default()
        };
        let told = |received, counted| rate_seen(&seen(received, counted), volley, &may);
        let good = told(125_000, 1100).unwrap();
        assert!((980_000..=1_000_000).contains(&good), "{good}");
        assert!(
            told(u64::from(volley.count) * whole, 1100)
                .unwrap_err()
                .contains("may pass at 1mbit")
        );
        assert!(told(50_000, 1100).unwrap_err().contains("should have"));
        assert!(told(125_000, 4000).unwrap_err().contains("too busy"));
        // While it may have ended meanwhile, nothing is too much.
        let ending = Range {
            rate: (Some(rate), None),
            ..may
        };
        rate_seen(&seen(300_000, 1100), volley, &ending).unwrap();
        let lossy = Range {
            loss: (0.0, 0.9),
            ..may
        };
        rate_seen(&seen(10_000, 1100), volley, &lossy).unwrap();
    }

    #[test]
    fn a_flood_is_more_than_passes_and_waits() {
        for rate in [100_000, 999_000, 1_000_000, 100_000_000] {
            let Volley { count, size, .. } = flood(rate);
            let sent = u64::from(count) * u64::from(size + DATAGRAM_HEADERS);
            assert!(sent > 2 * (rate / 8 + rate_queue(rate) * FULL_PACKET), "{rate}: {sent}");
            assert!(count > 200, "{rate}: {count}");
        }
    }

    #[test]
    fn enough_packets_tell_every_loss_from_none() {
        for percent in 1..=90 {
            let loss = f64::from(percent) / 100.0;
            let count = datagrams(loss);
            assert!((1000..=4000).contains(&count), "{percent}: {count}");
            assert!(loss > tolerance(loss, count), "{percent} % of {count} might be nothing");
            assert!(
                tolerance(0.0, count) < loss - tolerance(loss, count),
                "{percent}: nothing might be it"
            );
        }
        assert_eq!((datagrams(0.0), datagrams(1.0)), (1000, 1000));
        assert!(tolerance(1.0, 1000) < 0.002);
    }
}
