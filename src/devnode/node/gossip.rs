//! Links to the others, and what goes over them.

use std::collections::HashSet;
use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use super::{Host, Peer, RECENT};
use crate::devnode::codec::{Base64, Flood, Gossip, Message, VoteRecord};
use crate::devnode::misbehave::Misbehaviour;
use crate::devnode::net::{Connected, Frame, Link};
use crate::devnode::types::{Address, Height, sha256};

/// The most links.
const MAX_LINKS: usize = 256;
/// Two links to one peer that begin within this time come from both having dialled.
const SIMULTANEOUS: Duration = Duration::from_secs(2);

impl Host {
    pub(super) fn on_connected(&mut self, connected: Connected) {
        let address = connected.peer.address;
        if let Some(peer) = self.peers.get(&address) {
            // Both ends must keep the same link. A second one that the same side dialled means
            // that it lost the first. Of two dialled at the same time from both sides, that of the
            // smaller id is kept; later on, the new one, for the other side had none.
            let old = &peer.link;
            let ours_is_smaller = self.identity.address < address;
            let both_dialed = old.dialed != connected.dialed && old.since.elapsed() < SIMULTANEOUS;
            if both_dialed && connected.dialed != ours_is_smaller {
                return;
            }
        } else if self.peers.len() >= MAX_LINKS {
            tracing::warn!(peer = %connected.peer.name, "too many links");
            return;
        }
        self.links_made += 1;
        let name = connected.peer.name.clone();
        let link = Link::start(connected, self.links_made, &self.events);
        let tip = Height(0);
        let before = self.peers.insert(address, Peer { link, tip });
        if before.is_none() {
            tracing::info!(peer = %name, links = self.peers.len(), "linked");
        }
        if let Some(gate) = self.gates.get(&address) {
            gate.send_replace(true);
        }
        self.greet(&address);
        if self.begin.is_some() && self.peers.len() * 3 >= self.config.peers.len() * 2 {
            self.begin_first();
        }
    }

    /// Tells a new peer what it may have missed.
    pub(super) fn greet(&mut self, to: &Address) {
        self.send(to, &Message::Tip(self.ledger.height()));
        self.send_recent(to, Height(0));
        for tx in self.mempool.iter().take(1_000).cloned().collect::<Vec<_>>() {
            self.send(to, &Message::Flood(Flood::Tx(Base64(tx))));
        }
    }

    pub(super) fn send_recent(&mut self, to: &Address, from: Height) {
        let recent: Vec<Gossip> = self.recent.range(from..).flat_map(|(_, l)| l.clone()).collect();
        for gossip in recent {
            self.send(to, &Message::Recent(gossip));
        }
    }

    pub(super) fn drop_link(&mut self, address: &Address, why: &str) {
        if let Some(peer) = self.peers.remove(address) {
            let (name, links) = (&peer.link.peer.name, self.peers.len());
            tracing::info!(peer = %name, links, why, "link ended");
            if let Some(gate) = self.gates.get(address) {
                gate.send_replace(false);
            }
        }
    }

    pub(super) fn send(&mut self, to: &Address, message: &Message) {
        let Ok(payload) = serde_json::to_vec(message) else {
            return;
        };
        self.send_frame(to, &Frame::new(&payload));
    }

    pub(super) fn send_frame(&mut self, to: &Address, frame: &Frame) {
        if self.peers.get(to).is_some_and(|peer| !peer.link.send(frame)) {
            self.drop_link(to, "it does not keep up");
        }
    }

    pub(super) fn send_all(&mut self, message: &Message, except: Option<&Address>) {
        if let Ok(payload) = serde_json::to_vec(message) {
            self.send_all_frame(&Frame::new(&payload), except);
        }
    }

    pub(super) fn send_all_frame(&mut self, frame: &Frame, except: Option<&Address>) {
        let mut slow = Vec::new();
        for (address, peer) in &self.peers {
            if Some(address) != except && !peer.link.send(frame) {
                slow.push(*address);
            }
        }
        for address in slow {
            self.drop_link(&address, "it does not keep up");
        }
    }

    /// Sends something of our own to all nodes.
    pub(super) fn flood(&mut self, flood: &Flood) {
        let message = Message::Flood(flood.clone());
        if let Ok(payload) = serde_json::to_vec(&message) {
            self.seen.note(&payload);
            self.send_all_frame(&Frame::new(&payload), None);
        }
    }

    pub(super) fn tell_tip(&mut self) {
        self.send_all(&Message::Tip(self.ledger.height()), None);
    }

    pub(super) fn on_frame(&mut self, from: Address, payload: &[u8]) {
        if self.misbehaves(Misbehaviour::Freeze) {
            return;
        }
        // Most of what comes came before from another: not worth parsing.
        if payload.starts_with(b"{\"Flood\":") && !self.seen.note(payload) {
            return;
        }
        let message: Message = match serde_json::from_slice(payload) {
            Ok(message) => message,
            Err(error) => {
                tracing::warn!(peer = %from, %error, "unreadable message");
                self.drop_link(&from, "it sent an unreadable message");
                return;
            }
        };
        match message {
            Message::Tip(tip) => {
                if let Some(peer) = self.peers.get_mut(&from) {
                    peer.tip = tip;
                }
                self.sync_if_behind();
            }
            Message::Flood(Flood::Tx(tx)) => self.on_tx(from, tx.0, payload),
            Message::Flood(Flood::Consensus(_, gossip)) => {
                self.on_gossip(from, gossip, Some(payload));
            }
            Message::Recent(gossip) => self.on_gossip(from, gossip, None),
            Message::WantRecent(height) => self.send_recent(&from, height),
            Message::WantBlocks(first, last) => self.send_blocks(&from, first, last),
            Message::Blocks(blocks) => self.on_blocks(from, blocks),
        }
    }

    pub(super) fn on_tx(&mut self, from: Address, tx: Vec<u8>, payload: &[u8]) {
        let known = self.ledger.find_tx(&sha256(&tx)).is_some();
        if !known && self.ledger.app().check(&tx).is_ok() && self.mempool.add(tx) {
            self.send_all_frame(&Frame::new(payload), Some(&from));
        }
    }

    /// Passes on and takes in a message of consensus; without a payload it was for this node.
    pub(super) fn on_gossip(&mut self, from: Address, gossip: Gossip, payload: Option<&[u8]>) {
        let height = gossip.height();
        let committed = self.ledger.height();
        if height <= committed {
            return;
        }
        // The validators are settled up to the next height but one.
        if height.0 <= committed.0 + 2 && !self.is_of_validator(&gossip) {
            return;
        }
        let frame = match payload {
            Some(payload) => Some(Frame::new(payload)),
            None => {
                let message = Message::Flood(Flood::Consensus(0, gossip.clone()));
                let payload = serde_json::to_vec(&message).unwrap_or_default();
                let new = self.seen.note(&payload);
                new.then(|| Frame::new(&payload))
            }
        };
        if let Some(frame) = frame {
            self.send_all_frame(&frame, Some(&from));
        }
        if height.0 <= committed.0 + RECENT.0 {
            self.keep_recent(&gossip);
            if !self.held() {
                self.feed(gossip);
            }
        }
    }

    pub(super) fn is_of_validator(&self, gossip: &Gossip) -> bool {
        let set = self.ledger.app().validators(gossip.height());
        match gossip {
            Gossip::Vote(VoteRecord { voter, .. }) => set.get(voter).is_some(),
            Gossip::Proposal(proposal) => set.get(&proposal.proposer).is_some(),
            Gossip::Polka(polka) => polka.signers.iter().all(|s| set.get(&s.address).is_some()),
            Gossip::Round(round) => round.signers.iter().all(|s| set.get(&s.address).is_some()),
        }
    }
}

/// Frames that were passed on; two generations, so that it stays small.
#[derive(Default)]
pub(super) struct Seen {
    hasher: RandomState,
    now: HashSet<u64>,
    before: HashSet<u64>,
}

impl Seen {
    /// Notes a frame; false if it was noted already.
    pub(super) fn note(&mut self, payload: &[u8]) -> bool {
        let hash = self.hasher.hash_one(payload);
        if self.before.contains(&hash) || !self.now.insert(hash) {
            return false;
        }
        if self.now.len() >= 8_192 {
            self.before = std::mem::take(&mut self.now);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    pub(super) fn seen_frames_are_not_passed_on_again() {
        let mut seen = Seen::default();
        assert!(seen.note(b"a"));
        assert!(!seen.note(b"a"));
        for number in 0..9_000_u32 {
            seen.note(&number.to_be_bytes());
        }
        assert!(!seen.note(b"a"), "the generation before counts too");
        for number in 9_000..20_000_u32 {
            seen.note(&number.to_be_bytes());
        }
        assert!(seen.note(b"a"), "it does not grow for ever");
    }
}
