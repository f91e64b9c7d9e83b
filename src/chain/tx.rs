//! Transactions that trialnet sends: as the kvstore applications of CometBFT and the devnode read them, and transfers on Ethereum.

use std::fmt::Write as _;

use sha2::{Digest, Sha256};

use super::keys::validator_key;
use super::rpc::{Rpc, RpcError};
use super::{ChainError, ForeignKeys, cometbft, ethereum};
use crate::model::{Action, ChainKind, Load, Plan, Tx, TxBody};

/// The bytes of a `tx` step.
///
/// Nodes refuse bytes that they have seen lately; a power change that the plan makes more than once is told apart by leading zeros
/// in the power, which the applications ignore.
///
/// # Errors
/// A node that the plan does not have.
pub fn tx_bytes(plan: &Plan, keys: &ForeignKeys, tx: &Tx) -> Result<Vec<u8>, ChainError> {
    let (validator, power) = match &tx.body {
        TxBody::Raw(text) if plan.network.chain == ChainKind::Ethereum => {
            return Ok(ethereum::transfer_of(plan, &tx.id, text));
        }
        TxBody::Raw(text) => return Ok(text.clone().into_bytes()),
        TxBody::Power { validator, power } => (validator, *power),
    };
    let unknown = |node: &str| ChainError {
        what: format!("the transaction `{}`", tx.id),
        why: format!("the network has no node `{node}`"),
    };
    let key = validator_key(plan, keys, validator).ok_or_else(|| unknown(validator))?;
    let receiver = plan.node_index(&tx.node).ok_or_else(|| unknown(&tx.node))?;
    let before = plan
        .steps
        .iter()
        .filter_map(|step| match &step.action {
            Action::Tx(other) => Some(other),
            _ => None,
        })
        .take_while(|other| other.id != tx.id)
        .filter(|other| other.body == tx.body)
        .count();
    // Before 0.38 CometBFT's kvstore knows no key types and has a colon where later ones have `=`.
    let old = plan.network.chain == ChainKind::Cometbft
        && cometbft::family_of(plan, &plan.network.nodes[receiver].version) == cometbft::Family::V0_37;
    let mut text = if old { "val:" } else { "val=ed25519!" }.to_owned();
    text.push_str(&key.public);
    text.push('!');
    text.extend(std::iter::repeat_n('0', before));
    write!(text, "{power}").expect("writing to a string does not fail");
    Ok(text.into_bytes())
}

/// So many transactions of a load may be under way at once; each place among them keeps to one node.
pub const SENDERS: u64 = 64;

/// Sends the `n`th transaction of a load; returns its hash.
///
/// # Errors
/// As [`Rpc::send_tx`].
pub async fn send_load(plan: &Plan, load: &Load, rpc: &Rpc, n: u64) -> Result<String, RpcError> {
    match plan.network.chain {
        ChainKind::Ethereum => ethereum::send_load(plan, load, rpc, n).await,
        ChainKind::Devnode | ChainKind::Cometbft => rpc.send_tx(&load_tx(plan.seed, &load.id, n, load.size)).await,
    }
}

/// The `n`th transaction of a load on a kvstore: `key=value`, unique in the run, of `size` bytes (or as few as its key needs, if that is more).
#[must_use]
pub fn load_tx(seed: u64, load: &str, n: u64, size: usize) -> Vec<u8> {
    // The load's id may hold what the application gives a meaning to, so it goes in as a hash.
    let tag = hex::encode(&Sha256::digest(load.as_bytes())[..4]);
    let mut text = format!("load-{seed:x}-{tag}-{n}=v").into_bytes();
    if text.len() < size {
        text.resize(size, b'x');
    }
    text
}

/// The hash by which a transaction is asked for: SHA-256, upper-case hex.
#[must_use]
pub fn tx_hash(bytes: &[u8]) -> String {
    hex::encode_upper(Sha256::digest(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::tests::plan;
    use crate::model::{Step, TxBody};

    fn power(id: &str, power: u64) -> Tx {
        Tx {
            id: id.into(),
            body: TxBody::Power {
                validator: "validator-1".into(),
                power,
            },
            node: "validator-0".into(),
        }
    }

    fn text(plan: &Plan, tx: &Tx) -> String {
        String::from_utf8(tx_bytes(plan, &ForeignKeys::new(), tx).unwrap()).unwrap()
    }

    #[test]
    fn a_power_change_in_the_form_of_the_receiving_version() {
        let mut plan = plan(ChainKind::Cometbft, 4, 0);
        let key = validator_key(&plan, &ForeignKeys::new(), "validator-1").unwrap().public;
        assert_eq!(text(&plan, &power("a", 5)), format!("val=ed25519!{key}!5"));
        plan.network.nodes[0].version = "0.37.18".into();
        assert_eq!(text(&plan, &power("a", 5)), format!("val:{key}!5"));
        let mut unknown = power("a", 5);
        unknown.node = "nobody".into();
        assert!(tx_bytes(&plan, &ForeignKeys::new(), &unknown).is_err());
    }

    #[test]
    fn the_same_change_twice_gives_other_bytes() {
        let mut plan = plan(ChainKind::Devnode, 4, 0);
        for (index, tx) in [power("a", 0), power("b", 7), power("c", 0)].into_iter().enumerate() {
            plan.steps.push(Step {
                index,
                id: Some(tx.id.clone()),
                name: None,
                when: None,
                go_on: false,
                background: false,
                line: 1,
                action: Action::Tx(tx),
            });
        }
        assert!(text(&plan, &power("a", 0)).ends_with("!0"));
        assert!(text(&plan, &power("b", 7)).ends_with("!7"));
        assert!(text(&plan, &power("c", 0)).ends_with("!00"));
    }

    #[test]
    fn load_is_unique_and_of_its_size() {
        let tx = load_tx(7, "step-3", 1, 100);
        assert_eq!(tx.len(), 100);
        assert_eq!(tx.iter().filter(|byte| **byte == b'=').count(), 1);
        assert!(!tx.contains(&b':'));
        assert_ne!(tx, load_tx(7, "step-3", 2, 100));
        assert_ne!(tx, load_tx(7, "step-4", 1, 100));
        assert_ne!(load_tx(7, "a=:b", 1, 0), load_tx(7, "a=:b", 11, 0));
        assert!(load_tx(7, "a=:b", 1, 0).ends_with(b"=v"));
    }

    #[test]
    fn hash_as_cometbft_gives_it() {
        assert_eq!(
            tx_hash(b"a=b"),
            "42144F3939C3FFBBF0BF8B1F12AFFB5C23A4C5BD41E0FF672D54A5754F062058"
        );
    }
}
