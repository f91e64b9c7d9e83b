//! How things are written down: on the wire, in the write-ahead log and in the block file.
//!
//! Everything is JSON made from the records below, which mirror the consensus core's types (those
//! have no serde of their own). Keys, signatures and transactions are base64, hashes and addresses
//! upper-case hexadecimal.

use arc_malachitebft_core_consensus::{Input, ProposedValue};
use arc_malachitebft_core_types as core;
use arc_malachitebft_signing_ed25519::Signature;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use core::{NilOrVal, Round, SignedProposal, SignedVote, TimeoutKind, VoteType};
use serde::{Deserialize, Serialize};

use super::types::{Address, Block, Ctx, Hash, Header, Height, Proposal, Vote};

/// Bytes that are written as base64.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base64(pub Vec<u8>);

impl Serialize for Base64 {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        let bytes = BASE64.decode(&*text).map_err(serde::de::Error::custom)?;
        Ok(Self(bytes))
    }
}

/// A signature, written as base64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sig(pub Signature);

impl Serialize for Sig {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64.encode(self.0.to_bytes()))
    }
}

impl<'de> Deserialize<'de> for Sig {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = Base64::deserialize(deserializer)?;
        let bytes: [u8; 64] = bytes
            .0
            .try_into()
            .map_err(|_| serde::de::Error::custom("a signature has 64 bytes"))?;
        Ok(Self(Signature::from_bytes(bytes)))
    }
}

/// What a node sends to another, after the handshake.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Message {
    /// The sender has committed this height. Sent every second, and on each new block; being
    /// regular, it also shows that the link is alive.
    Tip(Height),
    /// Please send what you hold of the consensus at this height.
    WantRecent(Height),
    /// One such thing.
    Recent(Gossip),
    /// Please send the blocks from the first to the last of these heights.
    WantBlocks(Height, Height),
    /// Blocks in order; the empty list means that the sender has none of those asked for.
    Blocks(Vec<StoredBlock>),
    /// Something for all nodes, passed on by each that had not seen it.
    Flood(Flood),
}

/// Something for all nodes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Flood {
    /// Of consensus. A repetition has a number of its own, so that it is passed on once more.
    Consensus(u32, Gossip),
    /// A transaction.
    Tx(Base64),
}

/// A message of consensus.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Gossip {
    /// A vote.
    Vote(VoteRecord),
    /// A proposal, with the whole block.
    Proposal(Box<ProposalRecord>),
    /// A quorum of prevotes.
    Polka(PolkaRecord),
    /// The reason to enter a round.
    Round(RoundRecord),
}

impl Gossip {
    /// The height it belongs to.
    pub fn height(&self) -> Height {
        match self {
            Self::Vote(vote) => vote.height,
            Self::Proposal(proposal) => proposal.height,
            Self::Polka(polka) => polka.height,
            Self::Round(round) => round.height,
        }
    }
}

/// A round; nil is -1, as in the core.
fn round_from(round: i64) -> Round {
    u32::try_from(round).map_or(Round::Nil, Round::new)
}

fn value_from(value: Option<Hash>) -> NilOrVal<Hash> {
    value.map_or(NilOrVal::Nil, NilOrVal::Val)
}

fn value_to(value: &NilOrVal<Hash>) -> Option<Hash> {
    match value {
        NilOrVal::Nil => None,
        NilOrVal::Val(hash) => Some(*hash),
    }
}

/// Prevote or precommit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VoteKind {
    /// The first of two votes.
    Prevote,
    /// The second.
    Precommit,
}

impl From<VoteType> for VoteKind {
    fn from(kind: VoteType) -> Self {
        match kind {
            VoteType::Prevote => Self::Prevote,
            VoteType::Precommit => Self::Precommit,
        }
    }
}

impl From<VoteKind> for VoteType {
    fn from(kind: VoteKind) -> Self {
        match kind {
            VoteKind::Prevote => Self::Prevote,
            VoteKind::Precommit => Self::Precommit,
        }
    }
}

/// A signed vote.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VoteRecord {
    /// Prevote or precommit.
    pub kind: VoteKind,
    /// For which height.
    pub height: Height,
    /// For which round.
    pub round: i64,
    /// For which block; none is nil.
    pub value: Option<Hash>,
    /// Who votes.
    pub voter: Address,
    /// Over [`vote_sign_bytes`](super::types::vote_sign_bytes).
    pub signature: Sig,
}

impl From<&SignedVote<Ctx>> for VoteRecord {
    fn from(vote: &SignedVote<Ctx>) -> Self {
        Self {
            kind: vote.message.kind.into(),
            height: vote.message.height,
            round: vote.message.round.as_i64(),
            value: value_to(&vote.message.value),
            voter: vote.message.voter,
            signature: Sig(vote.signature),
        }
    }
}

impl From<VoteRecord> for SignedVote<Ctx> {
    fn from(record: VoteRecord) -> Self {
        let vote = Vote {
            kind: record.kind.into(),
            height: record.height,
            round: round_from(record.round),
            value: value_from(record.value),
            voter: record.voter,
        };
        Self::new(vote, record.signature.0)
    }
}

/// A block as it is written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockRecord {
    /// The transactions. First, so that a reader sees at a glance that there are none.
    pub txs: Vec<Base64>,
    /// The header, which gives the hash.
    pub header: Header,
}

impl From<&Block> for BlockRecord {
    fn from(block: &Block) -> Self {
        Self {
            txs: block.txs().iter().cloned().map(Base64).collect(),
            header: block.header().clone(),
        }
    }
}

impl From<BlockRecord> for Block {
    fn from(record: BlockRecord) -> Self {
        Self::new(record.header, record.txs.into_iter().map(|tx| tx.0).collect())
    }
}

/// A signed proposal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProposalRecord {
    /// For which height.
    pub height: Height,
    /// For which round.
    pub round: i64,
    /// The round of an earlier quorum of prevotes, or -1.
    pub pol_round: i64,
    /// Who proposes.
    pub proposer: Address,
    /// Over [`proposal_sign_bytes`](super::types::proposal_sign_bytes).
    pub signature: Sig,
    /// The block.
    pub block: BlockRecord,
}

impl From<&SignedProposal<Ctx>> for ProposalRecord {
    fn from(proposal: &SignedProposal<Ctx>) -> Self {
        Self {
            height: proposal.message.height,
            round: proposal.message.round.as_i64(),
            pol_round: proposal.message.pol_round.as_i64(),
            proposer: proposal.message.proposer,
            signature: Sig(proposal.signature),
            block: BlockRecord::from(&proposal.message.block),
        }
    }
}

impl From<ProposalRecord> for SignedProposal<Ctx> {
    fn from(record: ProposalRecord) -> Self {
        let proposal = Proposal {
            height: record.height,
            round: round_from(record.round),
            pol_round: round_from(record.pol_round),
            block: record.block.into(),
            proposer: record.proposer,
        };
        Self::new(proposal, record.signature.0)
    }
}

/// One signature of a certificate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signer {
    /// Who signed.
    pub address: Address,
    /// The signature of the vote.
    pub signature: Sig,
}

/// A quorum of prevotes for a block.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolkaRecord {
    /// At which height.
    pub height: Height,
    /// In which round.
    pub round: i64,
    /// For which block.
    pub value: Hash,
    /// Whose votes.
    pub signers: Vec<Signer>,
}

impl From<&core::PolkaCertificate<Ctx>> for PolkaRecord {
    fn from(polka: &core::PolkaCertificate<Ctx>) -> Self {
        let signer = |s: &core::PolkaSignature<Ctx>| Signer {
            address: s.address,
            signature: Sig(s.signature),
        };
        Self {
            height: polka.height,
            round: polka.round.as_i64(),
            value: polka.value_id,
            signers: polka.polka_signatures.iter().map(signer).collect(),
        }
    }
}

impl From<PolkaRecord> for core::PolkaCertificate<Ctx> {
    fn from(record: PolkaRecord) -> Self {
        let signature = |s: Signer| core::PolkaSignature::new(s.address, s.signature.0);
        Self {
            height: record.height,
            round: round_from(record.round),
            value_id: record.value,
            polka_signatures: record.signers.into_iter().map(signature).collect(),
        }
    }
}

/// One vote of a [`RoundRecord`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoundSigner {
    /// Prevote or precommit.
    pub kind: VoteKind,
    /// For which block; none is nil.
    pub value: Option<Hash>,
    /// Who signed.
    pub address: Address,
    /// The signature of the vote.
    pub signature: Sig,
}

/// The votes that justify entering a round.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoundRecord {
    /// At which height.
    pub height: Height,
    /// The round of the votes.
    pub round: i64,
    /// Made of precommits of the round before (else of more than a third of any votes).
    pub precommits: bool,
    /// The votes.
    pub signers: Vec<RoundSigner>,
}

impl From<&core::RoundCertificate<Ctx>> for RoundRecord {
    fn from(round: &core::RoundCertificate<Ctx>) -> Self {
        let signer = |s: &core::RoundSignature<Ctx>| RoundSigner {
            kind: s.vote_type.into(),
            value: value_to(&s.value_id),
            address: s.address,
            signature: Sig(s.signature),
        };
        Self {
            height: round.height,
            round: round.round.as_i64(),
            precommits: round.cert_type == core::RoundCertificateType::Precommit,
            signers: round.round_signatures.iter().map(signer).collect(),
        }
    }
}

impl From<RoundRecord> for core::RoundCertificate<Ctx> {
    fn from(record: RoundRecord) -> Self {
        let signature = |s: RoundSigner| {
            let value = value_from(s.value);
            core::RoundSignature::new(s.kind.into(), value, s.address, s.signature.0)
        };
        Self {
            height: record.height,
            round: round_from(record.round),
            cert_type: if record.precommits {
                core::RoundCertificateType::Precommit
            } else {
                core::RoundCertificateType::Skip
            },
            round_signatures: record.signers.into_iter().map(signature).collect(),
        }
    }
}

/// A committed block: one line of the block file, and what sync sends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredBlock {
    /// The block.
    pub block: BlockRecord,
    /// The round in which it was decided.
    pub round: i64,
    /// Whose precommits prove it: more than two thirds of the power.
    pub signers: Vec<Signer>,
}

impl StoredBlock {
    /// The line for a block and its certificate.
    pub fn new(block: &Block, certificate: &core::CommitCertificate<Ctx>) -> Self {
        let signer = |s: &core::CommitSignature<Ctx>| Signer {
            address: s.address,
            signature: Sig(s.signature),
        };
        Self {
            block: block.into(),
            round: certificate.round.as_i64(),
            signers: certificate.commit_signatures.iter().map(signer).collect(),
        }
    }

    /// The certificate in the form that the core takes from sync.
    pub fn certificate(&self, hash: Hash) -> core::ExtendedCommitCertificate<Ctx> {
        let signature = |s: &Signer| core::ExtendedCommitSignature::new(s.address, s.signature.0, None);
        core::ExtendedCommitCertificate {
            height: self.block.header.height,
            round: round_from(self.round),
            value_id: hash,
            commit_signatures: self.signers.iter().map(signature).collect(),
        }
    }
}

/// One line of the write-ahead log: an input of the consensus core that it must see again after a
/// crash, in the same order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WalRecord {
    /// The height that was being decided. First, so that other heights are skipped unparsed.
    pub height: Height,
    /// The input.
    pub entry: WalEntry,
}

/// What a line of the write-ahead log holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum WalEntry {
    /// A vote, of this node or another.
    Vote(VoteRecord),
    /// A proposal.
    Proposal(ProposalRecord),
    /// A block that was checked or made.
    Value {
        /// The round it belongs to.
        round: i64,
        /// The round of an earlier quorum of prevotes, or -1.
        valid_round: i64,
        /// Who proposed it.
        proposer: Address,
        /// The outcome of the check.
        valid: bool,
        /// It came by sync.
        synced: bool,
        /// The block.
        block: BlockRecord,
    },
    /// A time-out ran off.
    Timeout {
        /// Of which step.
        step: Step,
        /// Of which round.
        round: i64,
    },
    /// A quorum of prevotes.
    Polka(PolkaRecord),
}

/// The steps whose time-outs are logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// Waiting for a proposal.
    Propose,
    /// Waiting for prevotes.
    Prevote,
    /// Waiting for precommits.
    Precommit,
}

impl WalRecord {
    /// The line for an input, if inputs of its kind are logged.
    pub fn from_input(height: Height, input: &Input<Ctx>) -> Option<Self> {
        let entry = match input {
            Input::Vote(vote) => WalEntry::Vote(vote.into()),
            Input::Proposal(proposal) => WalEntry::Proposal(proposal.into()),
            Input::PolkaCertificate(polka) => WalEntry::Polka(polka.into()),
            Input::ProposedValue(value, origin) => WalEntry::Value {
                round: value.round.as_i64(),
                valid_round: value.valid_round.as_i64(),
                proposer: value.proposer,
                valid: value.validity.is_valid(),
                synced: origin.is_sync(),
                block: (&value.value).into(),
            },
            Input::TimeoutElapsed(timeout) => WalEntry::Timeout {
                step: match timeout.kind {
                    TimeoutKind::Propose => Step::Propose,
                    TimeoutKind::Prevote => Step::Prevote,
                    TimeoutKind::Precommit => Step::Precommit,
                    TimeoutKind::Rebroadcast | TimeoutKind::FinalizeHeight(_) => return None,
                },
                round: timeout.round.as_i64(),
            },
            Input::StartHeight(..) | Input::RoundCertificate(_) | Input::Propose(_) | Input::SyncValueResponse(_) => {
                return None;
            }
        };
        Some(Self { height, entry })
    }

    /// The input to feed again.
    pub fn into_input(self) -> Input<Ctx> {
        match self.entry {
            WalEntry::Vote(vote) => Input::Vote(vote.into()),
            WalEntry::Proposal(proposal) => Input::Proposal(proposal.into()),
            WalEntry::Polka(polka) => Input::PolkaCertificate(polka.into()),
            WalEntry::Value {
                round,
                valid_round,
                proposer,
                valid,
                synced,
                block,
            } => {
                let value = ProposedValue {
                    height: self.height,
                    round: round_from(round),
                    valid_round: round_from(valid_round),
                    proposer,
                    value: block.into(),
                    validity: core::Validity::from_bool(valid),
                };
                let origin = if synced {
                    core::ValueOrigin::Sync
                } else {
                    core::ValueOrigin::Consensus
                };
                Input::ProposedValue(value, origin)
            }
            WalEntry::Timeout { step, round } => {
                let round = round_from(round);
                Input::TimeoutElapsed(match step {
                    Step::Propose => core::Timeout::propose(round),
                    Step::Prevote => core::Timeout::prevote(round),
                    Step::Precommit => core::Timeout::precommit(round),
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::core::{Timeout, Validity, ValueOrigin};
    use super::*;
    use crate::devnode::types::Hex;

    fn block() -> Block {
        let txs = vec![b"a=1".to_vec(), vec![0, 255]];
        let header = Header {
            chain_id: "c".into(),
            height: Height(7),
            time_ms: 5,
            parent: Hex([1; 32]),
            app_hash: Hex([2; 32]),
            data_hash: Block::data_hash(&txs),
            validators_hash: Hex([3; 32]),
            proposer: Hex([4; 20]),
        };
        Block::new(header, txs)
    }

    fn vote(kind: VoteType, value: NilOrVal<Hash>) -> SignedVote<Ctx> {
        let vote = Vote {
            kind,
            height: Height(7),
            round: Round::new(2),
            value,
            voter: Hex([4; 20]),
        };
        SignedVote::new(vote, Signature::from_bytes([7; 64]))
    }

    fn inputs() -> Vec<Input<Ctx>> {
        let block = block();
        let proposal = Proposal {
            height: Height(7),
            round: Round::new(2),
            pol_round: Round::Nil,
            block: block.clone(),
            proposer: Hex([4; 20]),
        };
        let value = ProposedValue {
            height: Height(7),
            round: Round::new(2),
            valid_round: Round::new(1),
            proposer: Hex([4; 20]),
            value: block.clone(),
            validity: Validity::Invalid,
        };
        let polka = core::PolkaCertificate {
            height: Height(7),
            round: Round::new(2),
            value_id: block.hash(),
            polka_signatures: vec![core::PolkaSignature::new(Hex([4; 20]), Signature::from_bytes([9; 64]))],
        };
        vec![
            Input::Vote(vote(VoteType::Prevote, NilOrVal::Nil)),
            Input::Vote(vote(VoteType::Precommit, NilOrVal::Val(block.hash()))),
            Input::Proposal(SignedProposal::new(proposal, Signature::from_bytes([8; 64]))),
            Input::ProposedValue(value, ValueOrigin::Sync),
            Input::TimeoutElapsed(Timeout::precommit(Round::new(2))),
            Input::PolkaCertificate(polka),
        ]
    }

    #[test]
    fn logged_inputs_come_back_the_same() {
        for input in inputs() {
            let record = WalRecord::from_input(Height(7), &input).expect("is logged");
            let line = serde_json::to_string(&record).unwrap();
            assert!(line.starts_with("{\"height\":7,"), "{line}");
            let back: WalRecord = serde_json::from_str(&line).unwrap();
            assert_eq!(back.into_input(), input);
        }
    }

    #[test]
    fn a_block_keeps_its_hash_and_a_changed_one_does_not() {
        let block = block();
        let record = BlockRecord::from(&block);
        let text = serde_json::to_string(&record).unwrap();
        let back: BlockRecord = serde_json::from_str(&text).unwrap();
        assert_eq!(Block::from(back).hash(), block.hash());
        let other: BlockRecord = serde_json::from_str(&text.replace("\"time_ms\":5", "\"time_ms\":6")).unwrap();
        assert_ne!(Block::from(other).hash(), block.hash());
    }

    #[test]
    fn round_certificates_come_back_the_same() {
        let votes = vec![
            vote(VoteType::Prevote, NilOrVal::Nil),
            vote(VoteType::Precommit, NilOrVal::Val(block().hash())),
        ];
        let certificate =
            core::RoundCertificate::new_from_votes(Height(7), Round::new(2), core::RoundCertificateType::Skip, votes);
        let message = Message::Flood(Flood::Consensus(3, Gossip::Round((&certificate).into())));
        let text = serde_json::to_vec(&message).unwrap();
        let back: Message = serde_json::from_slice(&text).unwrap();
        let Message::Flood(Flood::Consensus(3, Gossip::Round(record))) = back else {
            panic!("another message came back");
        };
        assert_eq!(core::RoundCertificate::from(record), certificate);
    }

    #[test]
    fn garbage_is_an_error() {
        for text in ["", "{}", "[1]", "{\"Tip\":-1}", "{\"Flood\":{\"Tx\":\"***\"}}"] {
            assert!(serde_json::from_str::<Message>(text).is_err(), "{text}");
        }
    }
}
