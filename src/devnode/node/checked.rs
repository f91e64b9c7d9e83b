//! Checking signatures and the certificates made of them.

use std::collections::HashSet;

use arc_malachitebft_core_consensus::ConsensusMsg;
use arc_malachitebft_core_types as core;
use arc_malachitebft_signing_ed25519::{PublicKey, Signature};
use core::{
    CertificateError, CommitCertificate, CommitSignature, NilOrVal, RoundCertificateType, SignedMessage,
    ThresholdParam, ThresholdParams, VoteType,
};

use crate::devnode::types::{Ctx, Hash, ValidatorSet, Vote, hash_parts, proposal_sign_bytes, vote_sign_bytes};

/// Signatures of this height that were found good, so that certificates cost nothing more.
#[derive(Default)]
pub(super) struct Checked {
    pub(super) chain_id: String,
    pub(super) good: HashSet<Hash>,
}

impl Checked {
    pub(super) fn is_good(&mut self, bytes: &Hash, signature: &Signature, key: &PublicKey) -> bool {
        let id = hash_parts("", &[&bytes.0, &signature.to_bytes(), key.as_bytes()]);
        if self.good.contains(&id) {
            return true;
        }
        let good = key.verify(&bytes.0, signature).is_ok();
        if good && self.good.len() < 10_000 {
            self.good.insert(id);
        }
        good
    }

    pub(super) fn message(&mut self, message: &SignedMessage<Ctx, ConsensusMsg<Ctx>>, key: &PublicKey) -> bool {
        let bytes = match &message.message {
            ConsensusMsg::Vote(vote) => vote_sign_bytes(&self.chain_id, vote),
            ConsensusMsg::Proposal(proposal) => proposal_sign_bytes(&self.chain_id, proposal),
        };
        self.is_good(&bytes, &message.signature, key)
    }

    /// Whether the votes are all good, of different validators, and of enough power.
    pub(super) fn certificate(
        &mut self,
        set: &ValidatorSet,
        threshold: ThresholdParam,
        votes: impl Iterator<Item = (Vote, Signature)>,
    ) -> Result<(), CertificateError<Ctx>> {
        let mut voters = HashSet::new();
        let mut signed = 0;
        for (vote, signature) in votes {
            let voter = vote.voter;
            let validator = set.get(&voter).ok_or(CertificateError::UnknownValidator(voter))?;
            if !voters.insert(voter) {
                return Err(CertificateError::DuplicateVote(voter));
            }
            let bytes = vote_sign_bytes(&self.chain_id, &vote);
            if !self.is_good(&bytes, &signature, &validator.key) {
                let bad = CommitSignature::new(voter, signature);
                return Err(CertificateError::InvalidCommitSignature(bad));
            }
            signed += validator.power;
        }
        let total = core::ValidatorSet::<Ctx>::total_voting_power(set);
        if threshold.is_met(signed, total) {
            Ok(())
        } else {
            Err(CertificateError::NotEnoughVotingPower {
                signed,
                total,
                expected: threshold.min_expected(total),
            })
        }
    }

    pub(super) fn commit(
        &mut self,
        certificate: &CommitCertificate<Ctx>,
        set: &ValidatorSet,
        thresholds: ThresholdParams,
    ) -> Result<(), CertificateError<Ctx>> {
        let votes = certificate.commit_signatures.iter().map(|s| {
            let vote = Vote {
                kind: VoteType::Precommit,
                height: certificate.height,
                round: certificate.round,
                value: NilOrVal::Val(certificate.value_id),
                voter: s.address,
            };
            (vote, s.signature)
        });
        self.certificate(set, thresholds.quorum, votes)
    }

    pub(super) fn polka(
        &mut self,
        certificate: &core::PolkaCertificate<Ctx>,
        set: &ValidatorSet,
        thresholds: ThresholdParams,
    ) -> Result<(), CertificateError<Ctx>> {
        let votes = certificate.votes(&Ctx).map(|vote| (vote.message, vote.signature));
        self.certificate(set, thresholds.quorum, votes)
    }

    pub(super) fn round(
        &mut self,
        certificate: &core::RoundCertificate<Ctx>,
        set: &ValidatorSet,
        thresholds: ThresholdParams,
    ) -> Result<(), CertificateError<Ctx>> {
        let precommits = certificate.cert_type == RoundCertificateType::Precommit;
        if let Some(wrong) = certificate
            .round_signatures
            .iter()
            .find(|s| precommits && s.vote_type != VoteType::Precommit)
        {
            return Err(CertificateError::InvalidVoteType(wrong.address));
        }
        let threshold = if precommits {
            thresholds.quorum
        } else {
            thresholds.honest
        };
        let votes = certificate.votes(&Ctx).map(|vote| (vote.message, vote.signature));
        self.certificate(set, threshold, votes)
    }
}

#[cfg(test)]
mod tests {
    use super::core::Round;
    use super::*;
    use crate::devnode::types::{Height, Hex, Validator, address_of};
    use arc_malachitebft_signing_ed25519::PrivateKey;

    pub(super) fn key(seed: u8) -> PrivateKey {
        PrivateKey::from([seed; 32])
    }

    pub(super) fn set(count: u8) -> ValidatorSet {
        let validators = (1..=count).map(|n| Validator::new("v", key(n).public_key(), 10));
        ValidatorSet::new(validators.collect())
    }

    pub(super) fn commit(signers: &[u8]) -> CommitCertificate<Ctx> {
        let value_id = Hex([5; 32]);
        let signature = |seed: &u8| {
            let vote = Vote {
                kind: VoteType::Precommit,
                height: Height(3),
                round: Round::new(0),
                value: NilOrVal::Val(value_id),
                voter: address_of(&key(*seed).public_key()),
            };
            let signature = key(*seed).sign(&vote_sign_bytes("c", &vote).0);
            CommitSignature::new(vote.voter, signature)
        };
        CommitCertificate {
            height: Height(3),
            round: Round::new(0),
            value_id,
            commit_signatures: signers.iter().map(signature).collect(),
        }
    }

    pub(super) fn checked() -> Checked {
        Checked {
            chain_id: "c".into(),
            good: HashSet::new(),
        }
    }

    #[test]
    pub(super) fn certificates_need_more_than_two_thirds_of_different_validators() {
        let thresholds = ThresholdParams::default();
        let mut checked = checked();
        assert!(checked.commit(&commit(&[1, 2, 3]), &set(4), thresholds).is_ok());
        assert!(matches!(
            checked.commit(&commit(&[1, 2]), &set(4), thresholds),
            Err(CertificateError::NotEnoughVotingPower { .. })
        ));
        assert!(matches!(
            checked.commit(&commit(&[1, 2, 2]), &set(4), thresholds),
            Err(CertificateError::DuplicateVote(_))
        ));
        assert!(matches!(
            checked.commit(&commit(&[1, 2, 9]), &set(4), thresholds),
            Err(CertificateError::UnknownValidator(_))
        ));
        let mut forged = commit(&[1, 2, 3]);
        forged.value_id = Hex([6; 32]);
        assert!(matches!(
            checked.commit(&forged, &set(4), thresholds),
            Err(CertificateError::InvalidCommitSignature(_))
        ));
        let elsewhere = &mut Checked {
            chain_id: "d".into(),
            good: HashSet::new(),
        };
        assert!(elsewhere.commit(&commit(&[1, 2, 3]), &set(4), thresholds).is_err());
    }
}
