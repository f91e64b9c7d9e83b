//! What the chain is made of: heights, addresses, validators, blocks, votes, proposals, and how
//! the consensus core sees them ([`Ctx`]).
//!
//! Hashes are SHA-256, signatures ed25519 over the bytes that the `*_sign_bytes` functions give;
//! an address is the first 20 bytes of the SHA-256 of the public key, as in CometBFT.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use arc_malachitebft_core_types as core;
use arc_malachitebft_signing_ed25519::{Ed25519, PublicKey};
use core::{NilOrVal, Round, SignedExtension, VoteType};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The highest power one validator may have: sums of many, times three, stay within 64 bits.
pub const MAX_POWER: u64 = 1 << 40;

/// A block height; the first block has 1, and 0 means that there is none yet.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Height(pub u64);

impl fmt::Display for Height {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl core::Height for Height {
    const ZERO: Self = Self(0);
    const INITIAL: Self = Self(1);

    fn increment_by(&self, n: u64) -> Self {
        Self(self.0.saturating_add(n))
    }

    fn decrement_by(&self, n: u64) -> Option<Self> {
        self.0.checked_sub(n).map(Self)
    }

    fn as_u64(&self) -> u64 {
        self.0
    }
}

/// Bytes that are printed, parsed and stored as upper-case hexadecimal.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hex<const N: usize>(pub [u8; N]);

/// A SHA-256 hash.
pub type Hash = Hex<32>;

/// The address of a node or validator.
pub type Address = Hex<20>;

impl<const N: usize> Hex<N> {
    /// All bytes zero: "nothing comes before this".
    pub const ZERO: Self = Self([0; N]);
}

impl<const N: usize> fmt::Display for Hex<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode_upper(self.0))
    }
}

impl<const N: usize> fmt::Debug for Hex<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<const N: usize> FromStr for Hex<N> {
    type Err = hex::FromHexError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; N];
        hex::decode_to_slice(text, &mut bytes)?;
        Ok(Self(bytes))
    }
}

impl<const N: usize> Serialize for Hex<N> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode_upper(self.0))
    }
}

impl<'de, const N: usize> Deserialize<'de> for Hex<N> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl core::Address for Address {}

/// The SHA-256 of the parts, each with its length before it, so that no two lists collide.
pub fn hash_parts(domain: &str, parts: &[&[u8]]) -> Hash {
    let mut hasher = Sha256::new();
    for part in std::iter::once(domain.as_bytes()).chain(parts.iter().copied()) {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    Hex(hasher.finalize().into())
}

/// The plain SHA-256 of some bytes: what identifies a transaction.
pub fn sha256(bytes: &[u8]) -> Hash {
    Hex(Sha256::digest(bytes).into())
}

/// The address that belongs to a public key.
pub fn address_of(key: &PublicKey) -> Address {
    let mut address = [0; 20];
    address.copy_from_slice(&Sha256::digest(key.as_bytes())[..20]);
    Hex(address)
}

/// One validator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Validator {
    /// The name in the genesis; of one that joined by a transaction, its address.
    pub name: String,
    /// Derived from the key.
    pub address: Address,
    /// Checks its votes.
    pub key: PublicKey,
    /// Its voting power, at least 1 and at most [`MAX_POWER`].
    pub power: u64,
}

impl Validator {
    /// A validator with the address that belongs to its key.
    pub fn new(name: &str, key: PublicKey, power: u64) -> Self {
        Self {
            name: name.to_owned(),
            address: address_of(&key),
            key,
            power,
        }
    }
}

impl core::Validator<Ctx> for Validator {
    fn address(&self) -> &Address {
        &self.address
    }

    fn public_key(&self) -> &PublicKey {
        &self.key
    }

    fn voting_power(&self) -> u64 {
        self.power
    }
}

/// The validators of a height, by power (highest first), then by address; cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidatorSet(Arc<SetInner>);

#[derive(Debug, PartialEq, Eq)]
struct SetInner {
    validators: Vec<Validator>,
    total: u64,
    hash: Hash,
    /// Whose turn it is, as indices into `validators`; used round and round.
    turns: Vec<u16>,
}

/// No more turns than this in one cycle; greater powers are scaled down to it.
const MAX_TURNS: u64 = 2_000;

impl ValidatorSet {
    /// Sorts the validators and works out whose turn it is when.
    pub fn new(mut validators: Vec<Validator>) -> Self {
        validators.sort_by(|a, b| b.power.cmp(&a.power).then(a.address.cmp(&b.address)));
        let mut bytes = Vec::with_capacity(validators.len() * 40);
        for validator in &validators {
            bytes.extend_from_slice(validator.key.as_bytes());
            bytes.extend_from_slice(&validator.power.to_be_bytes());
        }
        Self(Arc::new(SetInner {
            total: validators.iter().map(|v| v.power).sum(),
            hash: hash_parts("validators", &[&bytes]),
            turns: turns(&validators),
            validators,
        }))
    }

    /// The validators in their order.
    pub fn as_slice(&self) -> &[Validator] {
        &self.0.validators
    }

    /// The hash that block headers carry.
    pub fn hash(&self) -> Hash {
        self.0.hash
    }

    /// The validator with this address.
    pub fn get(&self, address: &Address) -> Option<&Validator> {
        self.0.validators.iter().find(|v| v.address == *address)
    }

    /// Who proposes at this height and round: by turns, each as often as its power says.
    pub fn proposer(&self, height: Height, round: Round) -> &Validator {
        let round = u64::from(round.as_u32().unwrap_or(0));
        let turn = height.0.wrapping_add(round) % self.0.turns.len() as u64;
        let index = self.0.turns[usize::try_from(turn).unwrap_or(0)];
        &self.0.validators[usize::from(index)]
    }
}

/// One cycle of turns: smooth weighted round robin, which spreads the turns of the strong evenly.
fn turns(validators: &[Validator]) -> Vec<u16> {
    let gcd = validators.iter().fold(0, |acc, v| gcd(acc, v.power)).max(1);
    let mut weights: Vec<u64> = validators.iter().map(|v| v.power / gcd).collect();
    let total: u64 = weights.iter().sum();
    if total > MAX_TURNS {
        for weight in &mut weights {
            let scaled = u128::from(*weight) * u128::from(MAX_TURNS) / u128::from(total);
            *weight = u64::try_from(scaled).unwrap_or(MAX_TURNS).max(1);
        }
    }
    let weights: Vec<i64> = weights.into_iter().map(u64::cast_signed).collect();
    let total: i64 = weights.iter().sum();
    let mut credit = vec![0_i64; weights.len()];
    let mut turns = Vec::new();
    for _ in 0..total {
        let mut best = 0;
        for index in 0..weights.len() {
            credit[index] += weights[index];
            if credit[index] > credit[best] {
                best = index;
            }
        }
        credit[best] -= total;
        turns.push(u16::try_from(best).unwrap_or(0));
    }
    turns
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

impl core::ValidatorSet<Ctx> for ValidatorSet {
    fn count(&self) -> usize {
        self.0.validators.len()
    }

    fn total_voting_power(&self) -> u64 {
        self.0.total
    }

    fn get_by_address(&self, address: &Address) -> Option<&Validator> {
        self.get(address)
    }

    fn get_by_index(&self, index: usize) -> Option<&Validator> {
        self.0.validators.get(index)
    }
}

/// The head of a block; its hash is the block's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// The chain's id, from the genesis.
    pub chain_id: String,
    /// The block's height.
    pub height: Height,
    /// When it was proposed, in milliseconds since 1970; always later than the block before.
    pub time_ms: u64,
    /// The hash of the block before; zero for the first.
    pub parent: Hash,
    /// The application's hash after the block *before*, as in CometBFT.
    pub app_hash: Hash,
    /// The hash of the transactions.
    pub data_hash: Hash,
    /// The hash of the validators of this height.
    pub validators_hash: Hash,
    /// Who made the block first.
    pub proposer: Address,
}

impl Header {
    fn hash(&self) -> Hash {
        let Self {
            chain_id,
            height,
            time_ms,
            parent,
            app_hash,
            data_hash,
            validators_hash,
            proposer,
        } = self;
        hash_parts(
            "block",
            &[
                chain_id.as_bytes(),
                &height.0.to_be_bytes(),
                &time_ms.to_be_bytes(),
                &parent.0,
                &app_hash.0,
                &data_hash.0,
                &validators_hash.0,
                &proposer.0,
            ],
        )
    }
}

/// A block: what consensus decides on. Cheap to clone; two are equal when their hashes are.
#[derive(Clone)]
pub struct Block(Arc<BlockInner>);

struct BlockInner {
    hash: Hash,
    header: Header,
    txs: Vec<Vec<u8>>,
}

impl Block {
    /// A block with the hash that its header gives. Whether the header fits the transactions is
    /// [checked](Self::data_hash) by who receives it.
    pub fn new(header: Header, txs: Vec<Vec<u8>>) -> Self {
        Self(Arc::new(BlockInner {
            hash: header.hash(),
            header,
            txs,
        }))
    }

    /// The hash that a header over these transactions must carry.
    pub fn data_hash(txs: &[Vec<u8>]) -> Hash {
        let parts: Vec<&[u8]> = txs.iter().map(Vec::as_slice).collect();
        hash_parts("data", &parts)
    }

    /// The block's hash.
    pub fn hash(&self) -> Hash {
        self.0.hash
    }

    /// Its header.
    pub fn header(&self) -> &Header {
        &self.0.header
    }

    /// Its transactions.
    pub fn txs(&self) -> &[Vec<u8>] {
        &self.0.txs
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Block({} {})", self.0.header.height, self.0.hash)
    }
}

impl PartialEq for Block {
    fn eq(&self, other: &Self) -> bool {
        self.0.hash == other.0.hash
    }
}

impl Eq for Block {}

impl PartialOrd for Block {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Block {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.hash.cmp(&other.0.hash)
    }
}

impl core::Value for Block {
    type Id = Hash;

    fn id(&self) -> Hash {
        self.0.hash
    }
}

/// A vote, without its signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vote {
    /// Prevote or precommit.
    pub kind: VoteType,
    /// For which height.
    pub height: Height,
    /// For which round.
    pub round: Round,
    /// For which block, or nil.
    pub value: NilOrVal<Hash>,
    /// Who votes.
    pub voter: Address,
}

impl core::Vote<Ctx> for Vote {
    fn height(&self) -> Height {
        self.height
    }

    fn round(&self) -> Round {
        self.round
    }

    fn value(&self) -> &NilOrVal<Hash> {
        &self.value
    }

    fn take_value(self) -> NilOrVal<Hash> {
        self.value
    }

    fn vote_type(&self) -> VoteType {
        self.kind
    }

    fn validator_address(&self) -> &Address {
        &self.voter
    }

    fn extension(&self) -> Option<&SignedExtension<Ctx>> {
        None
    }

    fn take_extension(&mut self) -> Option<SignedExtension<Ctx>> {
        None
    }

    fn extend(self, _: SignedExtension<Ctx>) -> Self {
        self
    }
}

/// A proposal, without its signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// For which height.
    pub height: Height,
    /// For which round.
    pub round: Round,
    /// The round in which the block already had a quorum of prevotes, or nil.
    pub pol_round: Round,
    /// The block.
    pub block: Block,
    /// Who proposes.
    pub proposer: Address,
}

impl core::Proposal<Ctx> for Proposal {
    fn height(&self) -> Height {
        self.height
    }

    fn round(&self) -> Round {
        self.round
    }

    fn value(&self) -> &Block {
        &self.block
    }

    fn take_value(self) -> Block {
        self.block
    }

    fn pol_round(&self) -> Round {
        self.pol_round
    }

    fn validator_address(&self) -> &Address {
        &self.proposer
    }
}

/// Proposals travel in one piece, so a part of one never exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoPart {}

impl core::ProposalPart<Ctx> for NoPart {
    fn is_first(&self) -> bool {
        match *self {}
    }

    fn is_last(&self) -> bool {
        match *self {}
    }
}

/// Ties the types together for the consensus core.
#[derive(Clone, Debug)]
pub struct Ctx;

impl core::Context for Ctx {
    type Address = Address;
    type Height = Height;
    type ProposalPart = NoPart;
    type Proposal = Proposal;
    type Validator = Validator;
    type ValidatorSet = ValidatorSet;
    type Timeouts = core::LinearTimeouts;
    type Value = Block;
    type Vote = Vote;
    type Extension = ();
    type SigningScheme = Ed25519;

    fn select_proposer<'a>(&self, set: &'a ValidatorSet, height: Height, round: Round) -> &'a Validator {
        set.proposer(height, round)
    }

    fn new_proposal(
        &self,
        height: Height,
        round: Round,
        block: Block,
        pol_round: Round,
        proposer: Address,
    ) -> Proposal {
        Proposal {
            height,
            round,
            pol_round,
            block,
            proposer,
        }
    }

    fn new_prevote(&self, height: Height, round: Round, value: NilOrVal<Hash>, voter: Address) -> Vote {
        Vote {
            kind: VoteType::Prevote,
            height,
            round,
            value,
            voter,
        }
    }

    fn new_precommit(&self, height: Height, round: Round, value: NilOrVal<Hash>, voter: Address) -> Vote {
        Vote {
            kind: VoteType::Precommit,
            height,
            round,
            value,
            voter,
        }
    }
}

/// The bytes that a voter signs.
pub fn vote_sign_bytes(chain_id: &str, vote: &Vote) -> Hash {
    let kind = match vote.kind {
        VoteType::Prevote => b"prevote".as_slice(),
        VoteType::Precommit => b"precommit",
    };
    let value = match &vote.value {
        NilOrVal::Nil => [].as_slice(),
        NilOrVal::Val(hash) => &hash.0,
    };
    hash_parts(
        "vote",
        &[
            chain_id.as_bytes(),
            kind,
            &vote.height.0.to_be_bytes(),
            &vote.round.as_i64().to_be_bytes(),
            value,
            &vote.voter.0,
        ],
    )
}

/// The bytes that a proposer signs.
pub fn proposal_sign_bytes(chain_id: &str, proposal: &Proposal) -> Hash {
    hash_parts(
        "proposal",
        &[
            chain_id.as_bytes(),
            &proposal.height.0.to_be_bytes(),
            &proposal.round.as_i64().to_be_bytes(),
            &proposal.pol_round.as_i64().to_be_bytes(),
            &proposal.block.hash().0,
            &proposal.proposer.0,
        ],
    )
}

/// The first entries of `signers` whose power together is more than two thirds: enough to prove a
/// commit, and nobody need check more. Entries by unknown or repeated signers are left out.
pub fn enough_signers<T>(set: &ValidatorSet, signers: Vec<T>, address: impl Fn(&T) -> Address) -> Vec<T> {
    let total = core::ValidatorSet::<Ctx>::total_voting_power(set);
    let mut seen = HashSet::new();
    let mut power = 0_u64;
    let mut kept = Vec::new();
    for signer in signers {
        let who = address(&signer);
        let Some(validator) = set.get(&who) else {
            continue;
        };
        if power * 3 > total * 2 || !seen.insert(who) {
            continue;
        }
        power += validator.power;
        kept.push(signer);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use arc_malachitebft_signing_ed25519::PrivateKey;

    fn set(powers: &[u64]) -> ValidatorSet {
        let validators = powers.iter().enumerate().map(|(index, power)| {
            let key = PrivateKey::from([u8::try_from(index + 1).unwrap(); 32]).public_key();
            Validator::new(&format!("v{index}"), key, *power)
        });
        ValidatorSet::new(validators.collect())
    }

    #[test]
    fn turns_follow_power() {
        let set = set(&[30, 10, 10, 10]);
        let mut counts = std::collections::BTreeMap::new();
        for height in 1..=60 {
            let name = set.proposer(Height(height), Round::new(0)).name.clone();
            *counts.entry(name).or_insert(0) += 1;
        }
        assert_eq!(counts["v0"], 30);
        assert_eq!(counts["v1"], 10);
        assert_eq!(counts["v2"], 10);
    }

    #[test]
    fn equal_powers_take_strict_turns_and_rounds_move_on() {
        let set = set(&[10, 10, 10, 10]);
        for height in 1..20 {
            let here = &set.proposer(Height(height), Round::new(0)).address;
            let next = &set.proposer(Height(height + 1), Round::new(0)).address;
            assert_ne!(here, next);
            assert_eq!(
                next,
                &set.proposer(Height(height), Round::new(1)).address,
                "a round moves to the next in turn"
            );
        }
    }

    #[test]
    fn huge_powers_are_scaled() {
        let set = set(&[MAX_POWER, 1, 1]);
        assert!(set.0.turns.len() <= 2 * usize::try_from(MAX_TURNS).unwrap());
        for wanted in ["v0", "v1", "v2"] {
            assert!((1..5_000).any(|h| set.proposer(Height(h), Round::new(0)).name == wanted));
        }
    }

    #[test]
    fn a_commit_needs_no_more_than_the_first_two_thirds() {
        let set = set(&[10, 10, 10, 10]);
        let all: Vec<Address> = set.as_slice().iter().map(|v| v.address).collect();
        assert_eq!(enough_signers(&set, all.clone(), |a| *a).len(), 3);
        let with_noise = vec![all[0], all[0], Hex([9; 20]), all[1], all[2]];
        assert_eq!(enough_signers(&set, with_noise, |a| *a), all[..3].to_vec());
    }

    #[test]
    fn sign_bytes_tell_votes_apart() {
        let vote = Vote {
            kind: VoteType::Prevote,
            height: Height(3),
            round: Round::new(1),
            value: NilOrVal::Nil,
            voter: Hex([1; 20]),
        };
        let precommit = Vote {
            kind: VoteType::Precommit,
            ..vote.clone()
        };
        assert_ne!(vote_sign_bytes("c", &vote), vote_sign_bytes("c", &precommit));
        assert_ne!(vote_sign_bytes("c", &vote), vote_sign_bytes("d", &vote));
    }

    #[test]
    fn hex_round_trips_and_refuses_other_lengths() {
        let hash = sha256(b"a=b");
        assert_eq!(hash.to_string().parse::<Hash>().unwrap(), hash);
        assert!("AB".parse::<Hash>().is_err());
    }
}
