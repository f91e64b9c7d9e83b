//! Catching up: asking those that are ahead for blocks.

use std::time::Duration;

use arc_malachitebft_core_consensus::{Input, PeerId, ProposedValue};
use arc_malachitebft_core_types::{Round, Validity, ValueOrigin, ValueResponse};
use tokio::time::Instant;

use super::Host;
use crate::devnode::codec::{Message, StoredBlock};
use crate::devnode::net::Frame;
use crate::devnode::types::{Address, Block, Ctx, Height, enough_signers};

/// A validator that is one block behind waits so long for its own consensus before it syncs.
const PATIENCE: Duration = Duration::from_millis(150);
/// How long a peer may take to send blocks before another is asked.
const SYNC_LIMIT: Duration = Duration::from_secs(1);
/// Blocks asked for at a time, and the most bytes sent at a time.
const SYNC_BATCH: (u64, u64) = (100, 1024 * 1024);

impl Host {
    pub(super) fn best_tip(&self) -> Height {
        self.peers.values().map(|p| p.tip).max().unwrap_or_default()
    }

    /// Asks a peer for blocks when one is ahead and nobody is being asked.
    pub(super) fn sync_if_behind(&mut self) {
        let now = Instant::now();
        let committed = self.ledger.height();
        let best = self.best_tip();
        if best <= committed {
            self.sync.behind_since = None;
            self.sync.check = None;
            return;
        }
        if self.held() || !self.sync.blocks.is_empty() {
            return;
        }
        let since = *self.sync.behind_since.get_or_insert(now);
        if self.active && best.0 == committed.0 + 1 && now < since + PATIENCE {
            self.sync.check = Some(since + PATIENCE);
            return;
        }
        if let Some((peer, at)) = self.sync.asked {
            if now < at + SYNC_LIMIT && self.peers.contains_key(&peer) {
                self.sync.check = Some(at + SYNC_LIMIT);
                return;
            }
            self.sync.shunned.insert(peer, now + SYNC_LIMIT);
        }
        self.sync.shunned.retain(|_, until| *until > now);
        let shunned = &self.sync.shunned;
        let ahead = self.peers.iter().filter(|(_, peer)| peer.tip > committed);
        let chosen = ahead
            .max_by_key(|(address, peer)| (!shunned.contains_key(*address), peer.tip))
            .map(|(address, _)| *address);
        self.sync.asked = None;
        if let Some(peer) = chosen {
            let first = Height(committed.0 + 1);
            let last = Height(committed.0 + SYNC_BATCH.0);
            self.sync.asked = Some((peer, now));
            self.sync.check = Some(now + SYNC_LIMIT);
            self.send(&peer, &Message::WantBlocks(first, last));
        }
    }

    pub(super) fn send_blocks(&mut self, to: &Address, first: Height, last: Height) {
        let last = last.min(Height(first.0.saturating_add(SYNC_BATCH.0)));
        let lines = match self.ledger.lines(first, last, SYNC_BATCH.1) {
            Ok(lines) => lines,
            Err(error) => {
                self.fatal = Some(error.into());
                return;
            }
        };
        // The lines are what a `Message::Blocks` holds: no need to take them apart.
        let payload = [br#"{"Blocks":["#.as_slice(), &lines.join(&b','), b"]}".as_slice()];
        self.send_frame(to, &Frame::new(&payload.concat()));
    }

    pub(super) fn on_blocks(&mut self, from: Address, blocks: Vec<StoredBlock>) {
        if self.sync.asked.is_none_or(|(peer, _)| peer != from) {
            return;
        }
        self.sync.asked = None;
        self.sync.check = None;
        let mut next = self.ledger.height().0 + 1;
        for block in blocks {
            if block.block.header.height.0 == next {
                next += 1;
                self.sync.blocks.push_back((from, block));
            }
        }
        if self.sync.blocks.is_empty() {
            self.sync.shunned.insert(from, Instant::now() + SYNC_LIMIT);
        }
        self.begin_first();
        self.feed_sync();
    }

    /// Queues the next block that came by sync, if the core is ready for it.
    pub(super) fn feed_sync(&mut self) {
        let next = Height(self.ledger.height().0 + 1);
        while let Some((_, stored)) = self.sync.blocks.front() {
            if stored.block.header.height >= next {
                break;
            }
            self.sync.blocks.pop_front();
        }
        if self.working != next || self.syncing.is_some() || self.held() {
            return;
        }
        let Some((_, stored)) = self.sync.blocks.front() else {
            return;
        };
        let mut stored = stored.clone();
        let set = self.ledger.app().validators(next);
        stored.signers = enough_signers(set, stored.signers, |signer| signer.address);
        let block = Block::from(stored.block.clone());
        let certificate = stored.certificate(block.hash());
        self.blocks.insert(block.hash(), block.clone());
        self.syncing = Some(block);
        self.sync.caught_up = true;
        let response = ValueResponse::new(core_peer(), axum::body::Bytes::new(), certificate);
        self.queue.push_back(Input::SyncValueResponse(response));
    }

    /// The certificate of the block in `syncing` is good; is the block?
    pub(super) fn on_synced(&mut self, response: &ValueResponse<Ctx>, proposer: Address) {
        let Some(block) = self.syncing.clone() else {
            return;
        };
        let good = self.may_follow(&block);
        if !good {
            tracing::error!(
                height = %response.certificate.height,
                hash = %block.hash(),
                "a certified block does not follow from this node's state"
            );
            self.drop_synced();
        }
        let value = ProposedValue {
            height: response.certificate.height,
            round: response.certificate.round,
            valid_round: Round::Nil,
            proposer,
            value: block,
            validity: Validity::from_bool(good),
        };
        self.queue.push_back(Input::ProposedValue(value, ValueOrigin::Sync));
    }

    /// Forgets the blocks of a peer that sent a bad one, and asks others for a while.
    pub(super) fn drop_synced(&mut self) {
        self.syncing = None;
        if let Some((peer, _)) = self.sync.blocks.front() {
            let until = Instant::now() + 10 * SYNC_LIMIT;
            self.sync.shunned.insert(*peer, until);
        }
        self.sync.blocks.clear();
        self.sync.check = Some(Instant::now());
    }
}

/// The core wants to know which peer sent a block; this node remembers that itself.
fn core_peer() -> PeerId {
    // An identity multihash of nothing.
    PeerId::from_bytes(&[0, 0]).expect("a valid multihash")
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    pub(super) fn the_peer_that_the_core_gets_is_valid() {
        let _peer = core_peer();
    }
}
