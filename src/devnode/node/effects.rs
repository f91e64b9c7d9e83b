//! What the consensus core asks for: time-outs, signatures, the log, messages to the others, and
//! at last the committed block.

use arc_malachitebft_core_consensus::{Effect, Input, LivenessMsg, Resumable as _, Resume, SignedConsensusMsg};
use arc_malachitebft_core_types::{CommitCertificate, Round, SignedMessage, SignedVote, Timeout, TimeoutKind};
use arc_malachitebft_signing_ed25519::Signature;
use tokio::time::Instant;

use super::Host;
use crate::devnode::Error;
use crate::devnode::codec::{Gossip, ProposalRecord, StoredBlock};
use crate::devnode::misbehave::Misbehaviour;
use crate::devnode::types::{Ctx, Height, enough_signers, proposal_sign_bytes, vote_sign_bytes};

impl Host {
    pub(super) fn effect(&mut self, effect: Effect<Ctx>) -> Resume<Ctx> {
        match effect {
            Effect::CancelAllTimeouts(r) => {
                self.timers.clear();
                r.resume_with(())
            }
            Effect::CancelTimeout(timeout, r) => {
                self.timers.retain(|(_, _, t)| *t != timeout);
                r.resume_with(())
            }
            Effect::ScheduleTimeout(timeout, r) => {
                self.schedule(timeout);
                r.resume_with(())
            }
            Effect::StartRound(height, round, proposer, _, r) => {
                if round > Round::new(0) {
                    tracing::info!(%height, %round, %proposer, "new round");
                }
                r.resume_with(())
            }
            Effect::PublishConsensusMsg(message, r) => {
                match message {
                    SignedConsensusMsg::Vote(vote) => {
                        self.publish(Gossip::Vote((&vote).into()), false);
                    }
                    SignedConsensusMsg::Proposal(proposal) => {
                        let record = ProposalRecord::from(&proposal);
                        self.publish(Gossip::Proposal(Box::new(record)), false);
                    }
                }
                r.resume_with(())
            }
            Effect::PublishLivenessMsg(message, r) => {
                match message {
                    LivenessMsg::Vote(vote) => self.publish(Gossip::Vote((&vote).into()), true),
                    LivenessMsg::PolkaCertificate(polka) => {
                        self.publish(Gossip::Polka((&polka).into()), false);
                    }
                    LivenessMsg::SkipRoundCertificate(round) => {
                        self.publish(Gossip::Round((&round).into()), false);
                    }
                }
                r.resume_with(())
            }
            Effect::RepublishVote(vote, r) => {
                let vote = self.signed_at_last(vote);
                self.publish(Gossip::Vote((&vote).into()), true);
                r.resume_with(())
            }
            Effect::RepublishRoundCertificate(round, r) => {
                self.publish(Gossip::Round((&round).into()), true);
                r.resume_with(())
            }
            Effect::GetValue(height, round, _, r) => {
                if self.misbehaves(Misbehaviour::StallAsProposer) {
                    tracing::warn!(%height, %round, "stalls as proposer, as told");
                } else {
                    self.wants_block = Some((height, round));
                }
                r.resume_with(())
            }
            // A proposal carries its block, so publishing it is enough.
            Effect::RestreamProposal(.., r) => r.resume_with(()),
            Effect::CertVerifiedSyncValue(response, proposer, r) => {
                self.on_synced(&response, proposer);
                r.resume_with(())
            }
            Effect::CertRejectedSyncValue(_, height, error, r) => {
                tracing::warn!(%height, %error, "a peer sent a block with a bad certificate");
                self.drop_synced();
                r.resume_with(())
            }
            Effect::Decide(certificate, _, r) => {
                self.commit(&certificate);
                r.resume_with(())
            }
            Effect::Finalize(_, _, evidence, r) => {
                for voter in evidence.votes.iter().map(|(address, _)| address) {
                    tracing::warn!(%voter, "voted twice");
                }
                self.finished = true;
                r.resume_with(())
            }
            Effect::WalAppend(height, input, r) => {
                // Only votes of our own can ever conflict with the log.
                if self.active
                    && height > self.ledger.height()
                    && let Err(error) = self.wal.append(height, &input)
                {
                    self.fatal = Some(error.into());
                }
                r.resume_with(())
            }
            Effect::ExtendVote(.., r) => r.resume_with(None),
            Effect::VerifyVoteExtension(.., r) => r.resume_with(Ok(())),
            other => self.signature_effect(other),
        }
    }

    /// A vote that was not signed out of misbehaviour is signed once the node behaves again: the
    /// core takes it for cast, and the others may be waiting for it.
    pub(super) fn signed_at_last(&mut self, mut vote: SignedVote<Ctx>) -> SignedVote<Ctx> {
        if vote.signature != unsigned() || self.misbehaves(Misbehaviour::Silent) {
            return vote;
        }
        let bytes = vote_sign_bytes(&self.identity.chain_id, &vote.message);
        vote.signature = self.identity.key.sign(&bytes.0);
        let input = Input::Vote(vote.clone());
        if let Err(error) = self.wal.append(vote.message.height, &input) {
            self.fatal = Some(error.into());
        }
        self.queue.push_back(input);
        vote
    }

    pub(super) fn signature_effect(&mut self, effect: Effect<Ctx>) -> Resume<Ctx> {
        match effect {
            Effect::SignVote(vote, r) => {
                let signature = if self.misbehaves(Misbehaviour::Silent) {
                    unsigned()
                } else {
                    let bytes = vote_sign_bytes(&self.identity.chain_id, &vote);
                    self.identity.key.sign(&bytes.0)
                };
                r.resume_with(SignedMessage::new(vote, signature))
            }
            Effect::SignProposal(proposal, r) => {
                let signature = if self.misbehaves(Misbehaviour::StallAsProposer) {
                    unsigned()
                } else {
                    let bytes = proposal_sign_bytes(&self.identity.chain_id, &proposal);
                    self.identity.key.sign(&bytes.0)
                };
                r.resume_with(SignedMessage::new(proposal, signature))
            }
            Effect::VerifySignature(message, key, r) => r.resume_with(self.checked.message(&message, &key)),
            Effect::VerifyCommitCertificate(certificate, set, thresholds, r) => {
                r.resume_with(self.checked.commit(&certificate, &set, thresholds))
            }
            Effect::VerifyExtendedCommitCertificate(certificate, set, thresholds, _, r) => {
                let certificate = certificate.trim_vote_extensions();
                r.resume_with(self.checked.commit(&certificate, &set, thresholds))
            }
            Effect::VerifyPolkaCertificate(certificate, set, thresholds, r) => {
                r.resume_with(self.checked.polka(&certificate, &set, thresholds))
            }
            Effect::VerifyRoundCertificate(certificate, set, thresholds, r) => {
                r.resume_with(self.checked.round(&certificate, &set, thresholds))
            }
            other => {
                // Unreachable: the other effects are handled before.
                tracing::error!(?other, "unknown effect");
                Resume::Continue
            }
        }
    }

    pub(super) fn schedule(&mut self, timeout: Timeout) {
        let duration = match timeout.kind {
            TimeoutKind::FinalizeHeight(duration) => duration,
            _ => self.timeouts.duration_for(timeout),
        };
        let height = self.working;
        self.timers.retain(|(_, _, t)| *t != timeout);
        self.timers.push((Instant::now() + duration, height, timeout));
    }

    /// Writes the decided block and tells the others.
    pub(super) fn commit(&mut self, certificate: &CommitCertificate<Ctx>) {
        let height = certificate.height;
        let Some(block) = self.blocks.get(&certificate.value_id).cloned() else {
            self.fatal = Some(Error::Consensus {
                height: height.0,
                problem: format!("block {} was decided but never seen", certificate.value_id),
            });
            return;
        };
        let mut stored = StoredBlock::new(&block, certificate);
        let set = self.ledger.app().validators(height);
        stored.signers = enough_signers(set, stored.signers, |signer| signer.address);
        let written = self.ledger.commit(&stored, &block);
        if let Err(error) = written.and_then(|()| self.wal.height_done()) {
            self.fatal = Some(error.into());
            return;
        }
        self.mempool.remove(block.txs());
        self.recent = self.recent.split_off(&Height(height.0 + 1));
        let (hash, round, txs) = (block.hash(), certificate.round, block.txs().len());
        tracing::info!(%height, %hash, %round, txs, "committed");
        self.tell_tip();
        if self.misbehaves(Misbehaviour::Crash) {
            self.fatal = Some(Error::Crash { height: height.0 });
        }
    }
}

/// In place of a signature that a misbehaving node does not make. The core finds it bad and drops
/// the message, as if there were none.
fn unsigned() -> Signature {
    Signature::from_bytes([0; 64])
}
