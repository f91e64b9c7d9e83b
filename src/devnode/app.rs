//! The application: a key-value store in the manner of CometBFT's, kept as a hash chain, and the
//! validator changes that transactions make.
//!
//! A transaction is `KEY=VALUE`, or `val=ed25519!BASE64KEY!POWER` to add, change or (power 0)
//! remove a validator, in force two heights later. The state's hash is a chain over the
//! transactions that had effect; blocks without any leave it as it is. Values are not kept: the
//! chain of hashes already tells two histories apart, and a long load costs no memory.

use std::collections::{HashMap, VecDeque};

use arc_malachitebft_signing_ed25519::PublicKey;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::types::{Block, Hash, Height, MAX_POWER, Validator, ValidatorSet, address_of, hash_parts, sha256};

/// The longest transaction, in bytes.
pub const MAX_TX: usize = 64 * 1024;
/// The most transaction bytes in one block.
pub const MAX_BLOCK_BYTES: usize = 512 * 1024;
/// The most transactions in one block.
pub const MAX_BLOCK_TXS: usize = 2_000;
/// The most transactions that wait for a block.
pub const MAX_WAITING: usize = 5_000;

/// Why a transaction is refused, with the code that the RPC gives.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TxError {
    /// Neither of the two forms.
    #[error("expected key=value or val=ed25519!BASE64KEY!POWER")]
    Form,
    /// Longer than [`MAX_TX`].
    #[error("longer than {MAX_TX} bytes")]
    Long,
    /// A validator change that cannot be read.
    #[error("validator change: {0}")]
    Change(&'static str),
    /// Power 0 for a key that is no validator.
    #[error("validator change: no validator has this key")]
    UnknownValidator,
    /// The change would leave no validator.
    #[error("validator change: the last validator cannot be removed")]
    LastValidator,
}

impl TxError {
    /// The ABCI code; 0 would mean accepted.
    pub fn code(&self) -> u32 {
        match self {
            Self::Form => 2,
            Self::Long => 3,
            Self::Change(_) => 4,
            Self::UnknownValidator => 5,
            Self::LastValidator => 6,
        }
    }
}

/// The application's state after a block.
#[derive(Clone, Debug)]
pub struct App {
    height: Height,
    hash: Hash,
    /// From which height on which validators; sorted, never empty.
    sets: Vec<(Height, ValidatorSet)>,
}

impl App {
    /// The state before the first block.
    pub fn new(genesis_hash: Hash, validators: ValidatorSet) -> Self {
        Self {
            height: Height(0),
            hash: hash_parts("app", &[&genesis_hash.0]),
            sets: vec![(Height(1), validators)],
        }
    }

    /// The height of the last block that was applied.
    pub fn height(&self) -> Height {
        self.height
    }

    /// Notes that all blocks up to here are applied, those passed over being empty.
    pub fn skip_to(&mut self, height: Height) {
        self.height = height;
    }

    /// The hash of the state.
    pub fn hash(&self) -> Hash {
        self.hash
    }

    /// The validators of a height; settled up to the next but one.
    pub fn validators(&self, height: Height) -> &ValidatorSet {
        let index = self.sets.partition_point(|(from, _)| *from <= height);
        &self.sets[index.saturating_sub(1)].1
    }

    /// Whether a transaction would be accepted now.
    pub fn check(&self, tx: &[u8]) -> Result<(), TxError> {
        match parse(tx)? {
            None => Ok(()),
            Some(change) => self.changed(&change).map(|_| ()),
        }
    }

    /// Applies a block; the outcome of each transaction, in order.
    pub fn apply(&mut self, block: &Block) -> Vec<Result<(), TxError>> {
        self.height = block.header().height;
        block.txs().iter().map(|tx| self.apply_tx(tx)).collect()
    }

    fn apply_tx(&mut self, tx: &[u8]) -> Result<(), TxError> {
        if let Some(change) = parse(tx)? {
            let set = self.changed(&change)?;
            let from = Height(self.height.0 + 2);
            match self.sets.last_mut() {
                Some((last, same)) if *last == from => *same = set,
                _ => self.sets.push((from, set)),
            }
        }
        self.hash = hash_parts("app", &[&self.hash.0, tx]);
        Ok(())
    }

    /// The newest validators with a change made.
    fn changed(&self, change: &Change) -> Result<ValidatorSet, TxError> {
        let newest = &self.sets.last().expect("there is always a set").1;
        let address = address_of(&change.key);
        let mut validators = newest.as_slice().to_vec();
        let known = validators.iter().position(|v| v.address == address);
        match (known, change.power) {
            (Some(index), 0) => {
                validators.remove(index);
            }
            (None, 0) => return Err(TxError::UnknownValidator),
            (Some(index), power) => validators[index].power = power,
            (None, power) => {
                validators.push(Validator::new(&address.to_string(), change.key, power));
            }
        }
        if validators.is_empty() {
            return Err(TxError::LastValidator);
        }
        Ok(ValidatorSet::new(validators))
    }
}

/// A validator change.
struct Change {
    key: PublicKey,
    power: u64,
}

/// Reads a transaction; an ordinary one is `None`.
fn parse(tx: &[u8]) -> Result<Option<Change>, TxError> {
    if tx.len() > MAX_TX {
        return Err(TxError::Long);
    }
    if let Some(change) = tx.strip_prefix(b"val=") {
        let text = std::str::from_utf8(change).map_err(|_| TxError::Change("no text"))?;
        return parse_change(text).map(Some);
    }
    let equals = tx.iter().filter(|byte| **byte == b'=').count();
    if equals == 1 && tx.first() != Some(&b'=') {
        Ok(None)
    } else {
        Err(TxError::Form)
    }
}

fn parse_change(text: &str) -> Result<Change, TxError> {
    let mut parts = text.split('!');
    let (Some("ed25519"), Some(key), Some(power), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(TxError::Change("expected ed25519!BASE64KEY!POWER"));
    };
    let bytes: [u8; 32] = BASE64
        .decode(key)
        .ok()
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or(TxError::Change("the key is not base64 of 32 bytes"))?;
    let key = PublicKey::from_bytes(bytes).map_err(|_| TxError::Change("no ed25519 key"))?;
    let power = power
        .parse::<u64>()
        .ok()
        .filter(|power| *power <= MAX_POWER)
        .ok_or(TxError::Change("the power is no number up to 2^40"))?;
    Ok(Change { key, power })
}

/// The transactions that wait for a block, oldest first.
#[derive(Debug, Default)]
pub struct Mempool {
    order: VecDeque<Hash>,
    txs: HashMap<Hash, Vec<u8>>,
}

impl Mempool {
    /// How many wait.
    pub fn len(&self) -> usize {
        self.txs.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.txs.is_empty()
    }

    /// Whether one waits.
    pub fn contains(&self, hash: &Hash) -> bool {
        self.txs.contains_key(hash)
    }

    /// Adds one, unless it waits already or there are [`MAX_WAITING`].
    pub fn add(&mut self, tx: Vec<u8>) -> bool {
        let hash = sha256(&tx);
        if self.txs.len() >= MAX_WAITING || self.txs.contains_key(&hash) {
            return false;
        }
        self.order.push_back(hash);
        self.txs.insert(hash, tx);
        true
    }

    /// Takes out what a block holds.
    pub fn remove(&mut self, txs: &[Vec<u8>]) {
        if txs.is_empty() {
            return;
        }
        for tx in txs {
            self.txs.remove(&sha256(tx));
        }
        let left = &self.txs;
        self.order.retain(|hash| left.contains_key(hash));
    }

    /// The oldest, as many as fit in a block.
    pub fn for_block(&self) -> Vec<Vec<u8>> {
        let mut room = MAX_BLOCK_BYTES;
        let mut txs = Vec::new();
        for tx in self.iter().take(MAX_BLOCK_TXS) {
            if tx.len() > room {
                break;
            }
            room -= tx.len();
            txs.push(tx.clone());
        }
        txs
    }

    /// All, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Vec<u8>> {
        self.order.iter().filter_map(|hash| self.txs.get(hash))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devnode::types::{Header, Hex};
    use arc_malachitebft_core_types::Round;
    use arc_malachitebft_signing_ed25519::PrivateKey;

    fn key(seed: u8) -> PublicKey {
        PrivateKey::from([seed; 32]).public_key()
    }

    fn app() -> App {
        let set = ValidatorSet::new(vec![Validator::new("a", key(1), 10)]);
        App::new(Hex([5; 32]), set)
    }

    fn block(height: u64, txs: &[&str]) -> Block {
        let header = Header {
            chain_id: String::new(),
            height: Height(height),
            time_ms: height,
            parent: Hex::ZERO,
            app_hash: Hex::ZERO,
            data_hash: Hex::ZERO,
            validators_hash: Hex::ZERO,
            proposer: Hex::ZERO,
        };
        Block::new(header, txs.iter().map(|tx| tx.as_bytes().to_vec()).collect())
    }

    fn change(seed: u8, power: u64) -> String {
        format!("val=ed25519!{}!{power}", BASE64.encode(key(seed).as_bytes()))
    }

    #[test]
    fn a_change_is_in_force_two_heights_later() {
        let mut app = app();
        app.apply(&block(1, &["a=b"]));
        assert_eq!(app.apply(&block(2, &[&change(2, 5)])), [Ok(())]);
        assert_eq!(app.validators(Height(3)).as_slice().len(), 1);
        assert_eq!(app.validators(Height(4)).as_slice().len(), 2);
        app.apply(&block(3, &[&change(2, 0)]));
        assert_eq!(app.validators(Height(4)).as_slice().len(), 2);
        assert_eq!(app.validators(Height(5)).as_slice().len(), 1);
        let proposer = app.validators(Height(5)).proposer(Height(5), Round::new(0));
        assert_eq!(proposer.name, "a");
    }

    #[test]
    fn two_changes_in_one_block_add_up() {
        let mut app = app();
        app.apply(&block(1, &[&change(2, 5), &change(3, 5)]));
        assert_eq!(app.validators(Height(3)).as_slice().len(), 3);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let app = app();
        assert_eq!(app.check(change(9, 0).as_bytes()), Err(TxError::UnknownValidator));
        assert_eq!(app.check(change(1, 0).as_bytes()), Err(TxError::LastValidator));
        assert_eq!(app.check(b"novalue"), Err(TxError::Form));
        assert_eq!(app.check(b"a=b=c"), Err(TxError::Form));
        assert_eq!(app.check(b"=b"), Err(TxError::Form));
        assert!(matches!(app.check(b"val=ed25519!AA==!1"), Err(TxError::Change(_))));
        assert!(matches!(
            app.check(change(2, MAX_POWER + 1).as_bytes()),
            Err(TxError::Change(_))
        ));
        assert_eq!(app.check(&vec![b'='; MAX_TX + 1]), Err(TxError::Long));
        assert_eq!(app.check(b"a=b"), Ok(()));
    }

    #[test]
    fn the_hash_follows_effects_in_order() {
        let (mut one, mut two) = (app(), app());
        let start = one.hash();
        one.apply(&block(1, &[]));
        assert_eq!(one.hash(), start, "an empty block changes nothing");
        one.apply(&block(2, &["a=1", "b=2", "bad"]));
        two.apply(&block(2, &["a=1", "b=2"]));
        assert_eq!(one.hash(), two.hash(), "a refused transaction has no effect");
        two.apply(&block(3, &["c=1"]));
        assert_ne!(one.hash(), two.hash());
    }

    #[test]
    fn the_mempool_is_bounded_and_without_doubles() {
        let mut pool = Mempool::default();
        assert!(pool.add(b"a=1".to_vec()));
        assert!(!pool.add(b"a=1".to_vec()));
        for number in 0..MAX_WAITING + 10 {
            pool.add(format!("k={number}").into_bytes());
        }
        assert_eq!(pool.len(), MAX_WAITING);
        let txs = pool.for_block();
        assert_eq!(txs.len(), MAX_BLOCK_TXS);
        assert_eq!(txs[0], b"a=1");
        pool.remove(&txs);
        assert_eq!(pool.len(), MAX_WAITING - MAX_BLOCK_TXS);
        assert!(!pool.contains(&sha256(b"a=1")));
    }
}
