//! Heights, blocks, and the messages of consensus on their way to the core.

use std::time::SystemTime;

use tokio::time::Instant;

use arc_malachitebft_core_consensus::{ConsensusMsg, Input, ProposedValue};
use arc_malachitebft_core_types::{SignedProposal, Validity, ValueOrigin, VoteExtensionPolicy};

use super::{Host, RECENT, millis};
use crate::devnode::app::{MAX_BLOCK_BYTES, MAX_BLOCK_TXS};
use crate::devnode::codec::{Flood, Gossip, Message, ProposalRecord};
use crate::devnode::misbehave::{DEADLOCK, Misbehaviour};
use crate::devnode::types::{Address, Block, Ctx, Header, Height};

impl Host {
    pub(super) fn misbehaves(&self, kind: Misbehaviour) -> bool {
        self.misbehaviours.is(kind, self.ledger.height().0)
    }

    /// Consensus is held up by a misbehaviour.
    pub(super) fn held(&self) -> bool {
        self.deadlocked || self.misbehaves(Misbehaviour::Freeze) || self.misbehaves(Misbehaviour::Lag)
    }

    /// A link was lost: where this node is told to deadlock, and both of its pair were lost within a second, it does.
    pub(super) fn lost(&mut self, from: Address) {
        let Some((one, other)) = self.misbehaviours.deadlock_pair(self.ledger.height().0) else {
            return;
        };
        let now = Instant::now();
        self.lost.insert(from, now);
        let lost = |place: usize| {
            let when = self.genesis_order.get(place).and_then(|address| self.lost.get(address));
            when.is_some_and(|when| now.duration_since(*when) <= DEADLOCK)
        };
        if !self.deadlocked && lost(one) && lost(other) {
            tracing::warn!(one, other, "deadlocked, as told");
            self.deadlocked = true;
        }
    }

    /// The first height after the start.
    pub(super) fn begin_first(&mut self) {
        if self.begin.take().is_some() {
            self.begin_height(Height(self.ledger.height().0 + 1));
        }
    }

    pub(super) fn begin_height(&mut self, height: Height) {
        let set = self.ledger.app().validators(height).clone();
        let active = set.get(&self.identity.address).is_some();
        if active != self.active {
            tracing::info!(%height, validator = active, "role");
        }
        self.active = active;
        self.working = height;
        self.blocks.clear();
        self.checked.good.clear();
        self.syncing = None;
        self.wants_block = None;
        let pace = Some(self.config.block_time);
        let policy = VoteExtensionPolicy::Disabled;
        self.queue.clear();
        self.queue
            .push_back(Input::StartHeight(height, set, false, pace, policy));
        self.feed_recent(height);
        self.feed_sync();
        self.sync_if_behind();
        if self.sync.caught_up && self.sync.blocks.is_empty() && self.best_tip() < height {
            // What the others said of this height passed while this node was behind.
            self.sync.caught_up = false;
            if self.active {
                self.send_all(&Message::WantRecent(height), None);
            }
        }
    }

    pub(super) fn make_block(&self, height: Height) -> Block {
        let txs = self.mempool.for_block();
        let now = millis(SystemTime::now());
        let app = self.ledger.app();
        let header = Header {
            chain_id: self.identity.chain_id.clone(),
            height,
            time_ms: now.max(self.last_time() + 1),
            parent: self.ledger.last_hash(),
            app_hash: app.hash(),
            data_hash: Block::data_hash(&txs),
            validators_hash: app.validators(height).hash(),
            proposer: self.identity.address,
        };
        Block::new(header, txs)
    }

    /// The next block must be later.
    pub(super) fn last_time(&self) -> u64 {
        self.ledger
            .last()
            .map_or(self.genesis_time, |block| block.header().time_ms)
    }

    /// Whether a block may follow the last committed one.
    pub(super) fn may_follow(&self, block: &Block) -> bool {
        let Header {
            chain_id,
            height,
            time_ms,
            parent,
            app_hash,
            data_hash,
            validators_hash,
            proposer,
        } = block.header();
        let next = Height(self.ledger.height().0 + 1);
        let set = self.ledger.app().validators(next);
        let bytes: usize = block.txs().iter().map(Vec::len).sum();
        *chain_id == self.identity.chain_id
            && *height == next
            && *time_ms > self.last_time()
            && *parent == self.ledger.last_hash()
            && *app_hash == self.ledger.app().hash()
            && *data_hash == Block::data_hash(block.txs())
            && *validators_hash == set.hash()
            && set.get(proposer).is_some()
            && block.txs().len() <= MAX_BLOCK_TXS
            && bytes <= MAX_BLOCK_BYTES
    }

    /// Sends a message of our own to all, and keeps it for links to come.
    pub(super) fn publish(&mut self, gossip: Gossip, again: bool) {
        let suppressed = match &gossip {
            Gossip::Proposal(proposal) => {
                proposal.proposer == self.identity.address && self.misbehaves(Misbehaviour::StallAsProposer)
            }
            Gossip::Vote(_) | Gossip::Polka(_) | Gossip::Round(_) => self.misbehaves(Misbehaviour::Silent),
        };
        if suppressed || self.fatal.is_some() {
            return;
        }
        let number = if again {
            self.repeats += 1;
            self.repeats
        } else {
            0
        };
        self.keep_recent(&gossip);
        self.flood(&Flood::Consensus(number, gossip));
    }

    pub(super) fn keep_recent(&mut self, gossip: &Gossip) {
        let list = self.recent.entry(gossip.height()).or_default();
        if list.len() < RECENT.1 && !list.contains(gossip) {
            list.push(gossip.clone());
        }
    }

    pub(super) fn feed_recent(&mut self, height: Height) {
        for gossip in self.recent.get(&height).cloned().unwrap_or_default() {
            self.feed(gossip);
        }
    }

    /// Queues a message of the height in work for the core, if this node takes part.
    pub(super) fn feed(&mut self, gossip: Gossip) {
        let height = gossip.height();
        let ready = height == self.working && height > self.ledger.height();
        if !self.active || !ready {
            return;
        }
        match gossip {
            Gossip::Vote(vote) => self.queue.push_back(Input::Vote(vote.into())),
            Gossip::Polka(polka) => self.queue.push_back(Input::PolkaCertificate(polka.into())),
            Gossip::Round(round) => self.queue.push_back(Input::RoundCertificate(round.into())),
            Gossip::Proposal(proposal) => self.feed_proposal(*proposal),
        }
    }

    /// A proposal and the verdict on its block; of the right proposer only.
    pub(super) fn feed_proposal(&mut self, record: ProposalRecord) {
        let signed: SignedProposal<Ctx> = record.into();
        let proposal = &signed.message;
        let set = self.ledger.app().validators(proposal.height);
        let proposer = set.proposer(proposal.height, proposal.round);
        let key = proposer.key;
        let message = signed.clone().map(ConsensusMsg::Proposal);
        if proposer.address != proposal.proposer || !self.checked.message(&message, &key) {
            tracing::warn!(height = %proposal.height, from = %proposal.proposer, "bad proposal");
            return;
        }
        let good = self.may_follow(&proposal.block);
        if !good {
            tracing::warn!(
                height = %proposal.height,
                hash = %proposal.block.hash(),
                "proposed block is invalid"
            );
        }
        self.blocks.insert(proposal.block.hash(), proposal.block.clone());
        let value = ProposedValue {
            height: proposal.height,
            round: proposal.round,
            valid_round: proposal.pol_round,
            proposer: proposal.proposer,
            value: proposal.block.clone(),
            validity: Validity::from_bool(good),
        };
        self.queue
            .push_back(Input::ProposedValue(value, ValueOrigin::Consensus));
        self.queue.push_back(Input::Proposal(signed));
    }
}
