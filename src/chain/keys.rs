//! Keys of nodes, made from the run's seed: ed25519, in the forms that CometBFT and the devnode share. What Ethereum makes of the same
//! secrets is in [`ethereum`].

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ed25519_dalek::SigningKey;
use sha2::{Digest, Sha256};

use super::{ForeignKeys, ethereum};
use crate::model::{ChainKind, Plan};

/// The public half of a node's consensus key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidatorKey {
    /// An ed25519 key in base64; on Ethereum, where only the address counts, the address.
    pub public: String,
    /// Upper-case hex: the first 20 bytes of an ed25519 key's SHA-256, or the account of a sealer.
    pub address: String,
}

/// The consensus key of a node, whether or not it is a validator yet; `None` if the plan has no such node. Unless it is among `foreign`, it
/// depends on the kind of key, the seed and the name alone.
#[must_use]
pub fn validator_key(plan: &Plan, foreign: &ForeignKeys, node: &str) -> Option<ValidatorKey> {
    plan.node_index(node)?;
    let own = || match plan.network.chain {
        ChainKind::Ethereum => ethereum::sealer(plan.seed, node),
        ChainKind::Devnode | ChainKind::Cometbft => Key::derive(plan.seed, Purpose::Validator, node).validator(),
    };
    Some(foreign.get(node).cloned().unwrap_or_else(own))
}

impl ValidatorKey {
    /// The key whose 32 public bytes these are in base64; `None`: they are not.
    #[must_use]
    pub fn of_public(public: &str) -> Option<Self> {
        let bytes: [u8; 32] = BASE64.decode(public).ok()?.try_into().ok()?;
        Some(Self {
            public: public.to_owned(),
            address: hex::encode_upper(&Sha256::digest(bytes)[..20]),
        })
    }
}

/// What a key is for; a node has one of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Signs votes.
    Validator,
    /// Identifies the node to its peers.
    Node,
    /// Sends transactions; not of a node, but of a step.
    Account,
}

/// The secret of a run for one purpose: a SHA-256 over the run's seed, the purpose and the name of whose it is, so that no two nodes, purposes or runs share
/// one.
pub(crate) fn secret(seed: u64, purpose: Purpose, name: &str) -> [u8; 32] {
    let purpose: &[u8] = match purpose {
        Purpose::Validator => b"validator",
        Purpose::Node => b"node",
        Purpose::Account => b"account",
    };
    let mut hash = Sha256::new();
    hash.update(b"trialnet key 1\0");
    hash.update(seed.to_be_bytes());
    hash.update(purpose);
    hash.update([0]);
    hash.update(name.as_bytes());
    hash.finalize().into()
}

/// A key pair.
#[derive(Debug)]
pub(crate) struct Key(SigningKey);

impl Key {
    /// The key of a node in a run.
    pub(crate) fn derive(seed: u64, purpose: Purpose, node: &str) -> Self {
        Self::from_seed(secret(seed, purpose, node))
    }

    /// The key with this ed25519 seed.
    pub(crate) fn from_seed(seed: [u8; 32]) -> Self {
        Self(SigningKey::from_bytes(&seed))
    }

    /// The seed itself, which RFC 8032 calls the private key, in base64.
    pub(crate) fn seed_base64(&self) -> String {
        BASE64.encode(self.0.to_bytes())
    }

    /// The public key.
    pub(crate) fn public(&self) -> [u8; 32] {
        self.0.verifying_key().to_bytes()
    }

    /// The public key in base64.
    pub(crate) fn public_base64(&self) -> String {
        BASE64.encode(self.public())
    }

    /// The private key as CometBFT writes it: base64 of seed and public key, 64 bytes.
    pub(crate) fn private_base64(&self) -> String {
        BASE64.encode(self.0.to_keypair_bytes())
    }

    /// The address (of a validator key) or id (of a node key): the first 20 bytes of the public key's SHA-256, lower-case hex.
    pub(crate) fn id(&self) -> String {
        hex::encode(&Sha256::digest(self.public())[..20])
    }

    /// The public half.
    pub(crate) fn validator(&self) -> ValidatorKey {
        ValidatorKey {
            public: self.public_base64(),
            address: self.id().to_uppercase(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_vectors() {
        let zero = Key::from_seed([0; 32]);
        assert_eq!(zero.public_base64(), "O2onvM62pC1io6jQKm8Nc2UyFXcd4kOmOsBIoYtZ2ik=");
        assert_eq!(zero.id(), "139e3940e64b5491722088d9a0d741628fc826e0");
        assert_eq!(Key::from_seed([7; 32]).id(), "fe812c12f3ab4ce6ac5db69ac352f906cb1b11ef");
        assert_eq!(zero.validator().address, "139E3940E64B5491722088D9A0D741628FC826E0");
        let private = BASE64.decode(zero.private_base64()).unwrap();
        assert_eq!(private.len(), 64);
        assert_eq!(private[..32], [0; 32]);
        assert_eq!(BASE64.decode(zero.seed_base64()).unwrap(), [0; 32]);
        assert_eq!(private[32..], zero.public());
    }

    #[test]
    fn keys_depend_on_everything_that_they_are_derived_from() {
        let id = |seed, purpose, node| Key::derive(seed, purpose, node).id();
        let one = id(1, Purpose::Validator, "validator-0");
        assert_eq!(one, id(1, Purpose::Validator, "validator-0"));
        assert_ne!(one, id(2, Purpose::Validator, "validator-0"));
        assert_ne!(one, id(1, Purpose::Node, "validator-0"));
        assert_ne!(one, id(1, Purpose::Validator, "validator-1"));
    }
}
