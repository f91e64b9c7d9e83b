//! Keys as Ethereum uses them: secp256k1, named by Keccak-256 of the public half.

use aes::Aes128;
use ctr::cipher::{KeyIvInit as _, StreamCipher as _};
use k256::ecdh::diffie_hellman;
use k256::ecdsa::SigningKey;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use sha3::Keccak256;

use crate::chain::keys::{Purpose, secret};

/// The password of every key file. It stands beside the key, in a network that holds nothing: so it is known, and unlocking costs no time.
pub(super) const PASSWORD: &str = "trialnet";

/// How often the password is hashed in the key files that trialnet writes.
const ROUNDS: u32 = 1;

/// A key pair.
pub(super) struct Key(SigningKey);

impl Key {
    pub(super) fn derive(seed: u64, purpose: Purpose, name: &str) -> Self {
        let mut bytes = secret(seed, purpose, name);
        loop {
            match SigningKey::from_slice(&bytes) {
                Ok(key) => return Self(key),
                // One in 2^127 numbers is no key.
                Err(_) => bytes = Sha256::digest(bytes).into(),
            }
        }
    }

    /// The 32 bytes of the private half in hex, as a `nodekey` file has it.
    pub(super) fn private(&self) -> String {
        hex::encode(self.0.to_bytes())
    }

    /// The 64 bytes of the public half in hex: the id of a node whose key this is.
    pub(super) fn public(&self) -> String {
        hex::encode(self.point())
    }

    /// The account: the last 20 bytes of the hash of the public half.
    pub(super) fn account(&self) -> [u8; 20] {
        keccak(&self.point())[12..].try_into().expect("20 of 32 bytes")
    }

    /// The account in lower-case hex.
    pub(super) fn address(&self) -> String {
        hex::encode(self.account())
    }

    /// Signs a hash: the numbers r and s, and whether the point has an odd y.
    pub(super) fn sign(&self, hash: &[u8; 32]) -> ([u8; 32], [u8; 32], bool) {
        let signed = self.0.sign_prehash_recoverable(hash);
        let (signature, recovery) = signed.expect("32 bytes can be signed");
        let (r, s) = signature.split_bytes();
        (r.into(), s.into(), recovery.is_y_odd())
    }

    /// The key file of version 3 that geth unlocks an account with. Salt and initial vector follow from the key, so that the same seed makes the same file.
    pub(super) fn file(&self) -> Value {
        let private = self.0.to_bytes();
        let salt: [u8; 32] = Sha256::digest([b"trialnet salt\0", private.as_slice()].concat()).into();
        let derived = derived(PASSWORD, &salt, ROUNDS);
        let mut cipher = private.to_vec();
        let iv: [u8; 16] = Sha256::digest(salt)[..16].try_into().expect("16 of 32 bytes");
        turn(&derived, &iv, &mut cipher);
        json!({
            "address": self.address(),
            "crypto": {
                "cipher": "aes-128-ctr",
                "cipherparams": { "iv": hex::encode(iv) },
                "ciphertext": hex::encode(&cipher),
                "kdf": "pbkdf2",
                "kdfparams": { "c": ROUNDS, "dklen": 32, "prf": "hmac-sha256", "salt": hex::encode(salt) },
                "mac": hex::encode(mac(&derived, &cipher)),
            },
            "id": uuid(&salt),
            "version": 3,
        })
    }

    /// What only the holders of both keys know.
    pub(super) fn shared(&self, with: &Self) -> [u8; 32] {
        let shared = diffie_hellman(self.0.as_nonzero_scalar(), with.0.verifying_key().as_affine());
        (*shared.raw_secret_bytes()).into()
    }

    /// The 64 bytes of the public half.
    pub(super) fn point(&self) -> [u8; 64] {
        let point = self.0.verifying_key().to_encoded_point(false);
        point.as_bytes()[1..]
            .try_into()
            .expect("an uncompressed point has 65 bytes")
    }
}

/// Keccak-256.
pub(super) fn keccak(bytes: &[u8]) -> [u8; 32] {
    Keccak256::digest(bytes).into()
}

fn derived(password: &str, salt: &[u8], rounds: u32) -> [u8; 32] {
    pbkdf2::pbkdf2_hmac_array::<Sha256, 32>(password.as_bytes(), salt, rounds)
}

/// Encrypts or decrypts with the first half of what was derived.
pub(super) fn turn(derived: &[u8; 32], iv: &[u8; 16], bytes: &mut [u8]) {
    let key: &[u8; 16] = derived[..16].try_into().expect("16 of 32 bytes");
    ctr::Ctr128BE::<Aes128>::new(key.into(), iv.into()).apply_keystream(bytes);
}

/// Tells a wrong password.
fn mac(derived: &[u8; 32], cipher: &[u8]) -> [u8; 32] {
    keccak(&[&derived[16..], cipher].concat())
}

/// Bytes in the form of a random UUID.
fn uuid(bytes: &[u8; 32]) -> String {
    let mut id: [u8; 16] = bytes[..16].try_into().expect("16 of 32 bytes");
    id[6] = id[6] & 0x0f | 0x40;
    id[8] = id[8] & 0x3f | 0x80;
    let hex = hex::encode(id);
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

#[cfg(test)]
impl Key {
    pub(super) fn shared_with(&self, point: &[u8]) -> [u8; 32] {
        let public = k256::PublicKey::from_sec1_bytes(point).expect("a point");
        (*diffie_hellman(self.0.as_nonzero_scalar(), public.as_affine()).raw_secret_bytes()).into()
    }
}

#[cfg(test)]
pub(super) fn of_private(private: [u8; 32]) -> Key {
    Key(SigningKey::from_slice(&private).expect("a private key"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(private: &str) -> Key {
        of_private(hex::decode(private).unwrap().try_into().unwrap())
    }

    /// The key with which EIP-155 shows how it signs, and the account that the world knows it by.
    #[test]
    fn known_accounts() {
        let known = key(&"46".repeat(32));
        assert_eq!(known.address(), "9d8a62f656a8d1615c1294fd71e9cfb3e4855a4f");
        let one = key(&format!("{:064x}", 1));
        assert_eq!(one.address(), "7e5f4552091a69125d5dfcb7b8c2659029395bdf");
        // The private key 1 has the curve's generator as its public one.
        assert!(one.public().starts_with("79be667ef9dcbbac55a06295ce870b07"));
        assert_eq!(one.public().len(), 128);
        assert_eq!(one.private(), format!("{:064x}", 1));
        assert_eq!(
            hex::encode(keccak(b"")),
            "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"
        );
    }

    /// The test vector of the Web3 Secret Storage Definition.
    #[test]
    fn a_published_key_file() {
        let salt = hex::decode("ae3cd4e7013836a3df6bd7241b12db061dbe2c6785853cce422d148a624ce0bd").unwrap();
        let derived = derived("testpassword", &salt, 262_144);
        let mut cipher = hex::decode("5318b4d5bcd28de64ee5559e671353e16f075ecae9f99c7a79a38af5f869aa46").unwrap();
        assert_eq!(
            hex::encode(mac(&derived, &cipher)),
            "517ead924a9d0dc3124507e3393d175ce3ff7c1e96529c6c555ce9e51205e9b2"
        );
        let iv = hex::decode("6087dab2f9fdbbfaddc31a909735c1e6").unwrap();
        turn(&derived, &iv.try_into().unwrap(), &mut cipher);
        let private = "7a28b5ba57c53603b0b07b56bba752f7784bf506fa95edc395f5cf6c7514fe9d";
        assert_eq!(hex::encode(&cipher), private);
        assert_eq!(key(private).address(), "008aeeda4d805471df9b2a5b0f38a0c3bcba786b");
    }

    #[test]
    fn files_hold_the_key_and_are_the_same_each_time() {
        let key = Key::derive(7, Purpose::Validator, "sealer-0");
        let file = key.file();
        assert_eq!(file, Key::derive(7, Purpose::Validator, "sealer-0").file());
        assert_ne!(file, Key::derive(7, Purpose::Validator, "sealer-1").file());
        let crypto = &file["crypto"];
        let bytes = |value: &Value| hex::decode(value.as_str().unwrap()).unwrap();
        let derived = derived(PASSWORD, &bytes(&crypto["kdfparams"]["salt"]), ROUNDS);
        let mut cipher = bytes(&crypto["ciphertext"]);
        assert_eq!(bytes(&crypto["mac"]), mac(&derived, &cipher));
        turn(
            &derived,
            &bytes(&crypto["cipherparams"]["iv"]).try_into().unwrap(),
            &mut cipher,
        );
        assert_eq!(hex::encode(cipher), key.private());
        assert_eq!(file["id"].as_str().unwrap().as_bytes()[14], b'4');
    }

    #[test]
    fn no_two_purposes_share_a_key() {
        let address = |seed, purpose, name| Key::derive(seed, purpose, name).address();
        let one = address(1, Purpose::Validator, "sealer-0");
        assert_ne!(one, address(2, Purpose::Validator, "sealer-0"));
        assert_ne!(one, address(1, Purpose::Account, "sealer-0"));
        assert_ne!(one, address(1, Purpose::Validator, "sealer-1"));
    }
}
