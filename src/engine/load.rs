//! Transactions: one that is followed to its commit, and many at a rate.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use super::Desk;
use super::steps::Network;
use crate::chain::SENDERS;
use crate::chain::rpc::{Committed, Rpc};
use crate::chain::{send_load, tx_bytes};
use crate::model::{Load, Ms, NodeName, Tx, effects};
use crate::record::{Record, TxEvent};

/// How often a transaction that is not committed everywhere is asked for.
const ASK: Ms = Ms(100);
/// How often one that is committed everywhere is asked for again.
const ASK_AGAIN: Ms = Ms::secs(2);
/// Requests of a load that may be under way at once; more would measure trialnet.
const IN_FLIGHT: usize = 64;
const _: () = assert!(IN_FLIGHT as u64 == SENDERS, "each under way has a place of its own");

impl Network {
    /// Sends a transaction; follows it on every node from then on.
    pub(super) async fn tx(&self, tx: &Tx) -> Result<(), String> {
        let rpc = self
            .rpc
            .get(&tx.node)
            .ok_or_else(|| format!("{} has no RPC address", tx.node))?;
        let bytes = tx_bytes(&self.plan, &self.keys, tx).map_err(|error| error.to_string())?;
        let record = |event| {
            self.desk.record(Record::Tx {
                id: tx.id.clone(),
                event,
            })
        };
        match rpc.send_tx(&bytes).await {
            Ok(hash) => {
                record(TxEvent::Accepted {
                    node: tx.node.clone(),
                    hash: hash.clone(),
                });
                let nodes = self.rpc.iter().map(|(node, rpc)| (node.clone(), rpc.clone())).collect();
                let following = follow(
                    tx.id.clone(),
                    hash,
                    nodes,
                    effects::depth(&self.plan),
                    self.desk.clone(),
                );
                let over = self.over.clone();
                tokio::spawn(async move { over.run_until_cancelled(following).await });
                Ok(())
            }
            Err(error) => {
                record(TxEvent::Refused {
                    node: tx.node.clone(),
                    why: error.to_string(),
                });
                Err(error.to_string())
            }
        }
    }

    /// Sends transactions at the rate, for the time.
    pub(super) async fn load(&self, load: &Load) {
        let mut tick = tokio::time::interval(interval(load.rate));
        tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let end = Instant::now() + load.lasts.duration();
        let mut counts = Counts::default();
        let mut sending = JoinSet::new();
        let mut told = Instant::now();
        let targets: Vec<Rpc> = load
            .nodes
            .iter()
            .filter_map(|node| self.rpc.get(node))
            .cloned()
            .collect();
        while Instant::now() < end && !targets.is_empty() {
            tick.tick().await;
            while sending.len() >= IN_FLIGHT {
                counts.add(sending.join_next().await);
            }
            while let Some(done) = sending.try_join_next() {
                counts.add(Some(done));
            }
            let n = counts.sent;
            // Whoever sends keeps to one node, which then knows what it has sent.
            let place = usize::try_from(n % SENDERS).unwrap_or(0);
            let rpc = targets[place % targets.len()].clone();
            let (plan, of) = (Arc::clone(&self.plan), load.clone());
            counts.sent += 1;
            sending.spawn(async move { send_load(&plan, &of, &rpc, n).await.is_ok() });
            if told.elapsed() >= Ms::secs(1).duration() {
                told = Instant::now();
                self.desk.record(counts.record(&load.id));
            }
        }
        while let Some(done) = sending.join_next().await {
            counts.add(Some(done));
        }
        self.desk.record(counts.record(&load.id));
    }
}

/// The time between two transactions.
fn interval(rate: f64) -> std::time::Duration {
    std::time::Duration::try_from_secs_f64(1.0 / rate).unwrap_or(Ms::secs(1).duration())
}

/// What became of the transactions of a load.
#[derive(Default)]
struct Counts {
    sent: u64,
    accepted: u64,
    refused: u64,
}

impl Counts {
    fn add(&mut self, done: Option<Result<bool, tokio::task::JoinError>>) {
        match done {
            Some(Ok(true)) => self.accepted += 1,
            Some(_) => self.refused += 1,
            None => {}
        }
    }

    fn record(&self, id: &str) -> Record {
        let Self {
            sent,
            accepted,
            refused,
        } = *self;
        Record::Load {
            id: id.to_owned(),
            sent,
            accepted,
            refused,
        }
    }
}

/// Asks every node for a transaction until it is committed there for good, and then again and again whether it still is.
async fn follow(id: String, hash: String, nodes: Vec<(NodeName, Rpc)>, depth: u64, desk: Desk) {
    let mut committed: BTreeSet<NodeName> = BTreeSet::new();
    let hash: Arc<str> = hash.into();
    loop {
        let mut asking = JoinSet::new();
        for (node, rpc) in &nodes {
            let (node, rpc, hash) = (node.clone(), rpc.clone(), Arc::clone(&hash));
            asking.spawn(async move { (node, rpc.tx(&hash).await) });
        }
        while let Some(answer) = asking.join_next().await {
            let Ok((node, Ok(found))) = answer else { continue };
            let record = |event| desk.record(Record::Tx { id: id.clone(), event });
            match found {
                // Its block may still be replaced.
                Some(Committed { above, .. }) if above < depth => {}
                Some(Committed { height, code, above: _ }) if committed.insert(node.clone()) => {
                    record(TxEvent::Committed { node, height, code });
                }
                // A node that was wiped or has not caught up does not know it either, so only one that had it counts.
                None if committed.remove(&node) => record(TxEvent::Lost { node }),
                _ => {}
            }
        }
        let wait = if committed.len() == nodes.len() { ASK_AGAIN } else { ASK };
        tokio::time::sleep(wait.duration()).await;
    }
}
