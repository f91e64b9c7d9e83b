//! Headers, application states, peers and validators of one node.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::given::Given;
use super::{Closed, Output, Seen};
use crate::chain::rpc::{MAX_HEADERS, Peers, Rpc, RpcError};
use crate::model::{Ms, NodeName};
use crate::record::Record;

/// How often peers, validators and application states are asked for.
const SLOW: Duration = Duration::from_secs(1);
/// How often the last headers, and as many older ones in turn, are read again although nothing happened: a restart may fall between
/// two polls, and what was said of an old height may change.
const AGAIN: Duration = Duration::from_secs(5);
/// How many headers are read again then.
const LAST: u64 = MAX_HEADERS;
/// Batches in a row when a node is far ahead of what was read.
const BATCHES: usize = 25;
/// How often a node may refuse the state of a height before the height is passed over.
const TRIES: u32 = 3;
/// How often `/abci_info` is asked where it is all there is.
const INFO: Duration = Duration::from_millis(500);

pub(super) struct Details {
    node: NodeName,
    rpc: Rpc,
    validators: Arc<BTreeMap<String, NodeName>>,
    /// So many blocks below the tip are not read yet.
    depth: u64,
    output: Output,
    epoch: u32,
    /// The lowest height whose header has not been read.
    next: u64,
    given: Given,
    /// The heights of older headers that are read again next.
    older: Option<(u64, u64)>,
    read_again: Instant,
    /// Up to this height the application's states were read.
    state: u64,
    refusals: u32,
    /// Set when the node's answers do not have the state of a height: the last height whose state `/abci_info` gave.
    info: Option<u64>,
    info_due: Instant,
    last_peers: Option<Peers>,
    last_powers: Option<BTreeMap<String, u64>>,
}

impl Details {
    pub(super) fn new(
        node: NodeName,
        rpc: Rpc,
        validators: Arc<BTreeMap<String, NodeName>>,
        depth: u64,
        output: Output,
    ) -> Self {
        Self {
            node,
            rpc,
            validators,
            depth,
            output,
            epoch: 0,
            next: 1,
            given: Given::default(),
            older: None,
            read_again: Instant::now(),
            state: 0,
            refusals: 0,
            info: None,
            info_due: Instant::now(),
            last_peers: None,
            last_powers: None,
        }
    }

    /// Works when the status task has seen something, and once a second.
    pub(super) async fn run(
        mut self,
        mut seen: watch::Receiver<Seen>,
        pause: Duration,
        offset: Duration,
    ) -> Result<(), Closed> {
        let mut slow = Instant::now() + offset;
        loop {
            tokio::select! {
                changed = seen.changed() => changed.map_err(|_| Closed)?,
                () = sleep_until(slow) => {}
            }
            let now = *seen.borrow_and_update();
            let slowly = Instant::now() >= slow;
            if slowly {
                slow = Instant::now() + SLOW;
            }
            if now.answers {
                self.look(now, slowly).await?;
            }
            sleep(pause).await;
        }
    }

    async fn look(&mut self, seen: Seen, slowly: bool) -> Result<(), Closed> {
        let seen = Seen {
            height: seen.height.saturating_sub(self.depth),
            ..seen
        };
        if seen.epoch != self.epoch {
            self.epoch = seen.epoch;
            self.begin_again(seen.height);
        } else if self.read_again.elapsed() >= AGAIN {
            self.rewind(seen.height);
            self.older = self.given.older(self.next, LAST);
        }
        // Whatever fails here the status task notices too; the next round tries again.
        self.headers(seen).await?;
        self.info_state(seen).await?;
        if slowly {
            self.states(seen).await?;
            self.peers().await?;
            self.validators().await?;
        }
        Ok(())
    }

    /// The node may have another disk or program than before.
    fn begin_again(&mut self, height: u64) {
        self.rewind(height);
        self.given.forget_above(height);
        self.state = self.state.min(height.saturating_sub(1));
        self.refusals = 0;
        self.info = None;
    }

    fn rewind(&mut self, height: u64) {
        self.next = self.next.min((height + 1).saturating_sub(LAST)).max(1);
        self.read_again = Instant::now();
    }

    async fn headers(&mut self, seen: Seen) -> Result<(), Closed> {
        for _ in 0..BATCHES {
            let from = self.next.max(seen.earliest);
            if from > seen.height {
                break;
            }
            let Some(last) = self.batch(from, seen.height.min(from + MAX_HEADERS - 1)).await? else {
                return Ok(());
            };
            self.next = last + 1;
        }
        if let Some((from, to)) = self.older.take() {
            let from = from.max(seen.earliest);
            if from <= to && self.batch(from, to).await?.is_none() {
                self.older = Some((from, to));
            }
        }
        Ok(())
    }

    /// Records the headers of these heights that were not given before. Returns the height of the last; `None`: the node gave none.
    async fn batch(&mut self, from: u64, to: u64) -> Result<Option<u64>, Closed> {
        let sent = self.output.now();
        let Ok(mut headers) = self.rpc.headers(from, to).await else {
            return Ok(None);
        };
        let last = headers.last().map(|header| header.height);
        headers.retain(|header| self.given.is_new(header.height, &header.hash));
        if !headers.is_empty() {
            let node = self.node.clone();
            self.output.write(Record::Headers { node, sent, headers }).await?;
        }
        Ok(last)
    }

    /// The application's states of heights that all nodes are asked for: all heights of a slow chain, of a fast one those that a power
    /// of two divides. The grids of different paces lie in one another, so that also a node that catches up is asked for
    /// heights that others were asked for; at most two a second.
    async fn states(&mut self, seen: Seen) -> Result<(), Closed> {
        if self.info.is_some() {
            return Ok(());
        }
        let stride = stride(seen.height.saturating_sub(self.state));
        let mut height = self.state.max(seen.earliest.saturating_sub(1)) / stride * stride + stride;
        while height <= seen.height {
            let sent = self.output.now();
            match self.rpc.app_state(height).await {
                Ok(Some(hash)) => {
                    self.refusals = 0;
                    self.write_state(sent, height, hash).await?;
                }
                Ok(None) => {
                    self.info = Some(0);
                    return Ok(());
                }
                // The block is stored before it is executed: for a moment it has no results.
                Err(RpcError::Refused { .. }) if self.refusals + 1 < TRIES => {
                    self.refusals += 1;
                    self.state = height - 1;
                    return Ok(());
                }
                Err(RpcError::Refused { .. }) => self.refusals = 0,
                Err(RpcError::Silent { .. }) => {
                    self.state = height - 1;
                    return Ok(());
                }
            }
            height += stride;
        }
        self.state = self.state.max(seen.height);
        Ok(())
    }

    /// Where `/block_results` has no state, the height at which the application is just now: nodes are often at the same.
    async fn info_state(&mut self, seen: Seen) -> Result<(), Closed> {
        let Some(last) = self.info else {
            return Ok(());
        };
        if Instant::now() < self.info_due || last == seen.height {
            return Ok(());
        }
        self.info_due = Instant::now() + INFO;
        let sent = self.output.now();
        if let Ok(info) = self.rpc.abci_info().await {
            self.info = Some(info.height);
            if info.height != last && info.height > 0 {
                self.write_state(sent, info.height, info.app_hash).await?;
            }
        }
        Ok(())
    }

    async fn write_state(&self, sent: Ms, height: u64, hash: String) -> Result<(), Closed> {
        let node = self.node.clone();
        let record = Record::AppState {
            node,
            sent,
            height,
            hash,
        };
        self.output.write(record).await
    }

    async fn peers(&mut self) -> Result<(), Closed> {
        let sent = self.output.now();
        let Ok(peers) = self.rpc.peers().await else {
            return Ok(());
        };
        if self.last_peers.as_ref() == Some(&peers) {
            return Ok(());
        }
        self.last_peers = Some(peers.clone());
        let Peers { count, names } = peers;
        let node = self.node.clone();
        self.output
            .write(Record::Peers {
                node,
                sent,
                count,
                names,
            })
            .await
    }

    async fn validators(&mut self) -> Result<(), Closed> {
        let sent = self.output.now();
        let Ok(set) = self.rpc.validators(None).await else {
            return Ok(());
        };
        let named = set.validators.into_iter().map(|validator| {
            let name = self.validators.get(&validator.address).cloned();
            (name.unwrap_or(validator.key), validator.power)
        });
        let powers: BTreeMap<String, u64> = named.collect();
        if self.last_powers.as_ref() == Some(&powers) {
            return Ok(());
        }
        self.last_powers = Some(powers.clone());
        let node = self.node.clone();
        let height = set.height;
        self.output
            .write(Record::Validators {
                node,
                sent,
                height,
                powers,
            })
            .await
    }
}

/// The smallest power of two of which this many heights in a row hold about two multiples.
fn stride(heights: u64) -> u64 {
    heights.clamp(1, 1 << 32).div_ceil(2).next_power_of_two()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strides_leave_at_most_two_requests() {
        for heights in 1..2_000_u64 {
            let stride = stride(heights);
            assert!(stride.is_power_of_two());
            for from in 0..50 {
                let asked = (from + heights) / stride - from / stride;
                assert!(asked <= 2, "{asked} of {heights} from {from}");
            }
        }
        assert_eq!(stride(1), 1);
        assert_eq!(stride(2), 1);
        assert_eq!(stride(5), 4);
        assert_eq!(stride(u64::MAX), 1 << 31);
    }
}
