//! What somebody says who dials a node, so that it answers: the first message of RLPx, which is for this node alone. A node of Ethereum says nothing before.

use pbkdf2::hmac::{Hmac, Mac as _};
use sha2::{Digest as _, Sha256};

use super::keys::{Key, keccak, turn};
use super::rlp::{bytes, list, number};
use crate::chain::keys::Purpose;

/// The version of the handshake.
const VERSION: u64 = 4;
/// Zeros behind the message, so that it does not look like the handshake of before EIP-8.
const PADDING: usize = 100;
/// What encryption adds: a public key, an initial vector, a tag.
const AROUND: usize = 65 + 16 + 32;

/// The message for this node, from somebody whom no node knows. The node answers with its own half of the handshake, and would then wait for a greeting.
pub(super) fn auth(seed: u64, node: &str) -> Vec<u8> {
    let target = Key::derive(seed, Purpose::Node, node);
    let own = |what: &str| Key::derive(seed, Purpose::Account, &format!("{what} at {node}"));
    let (knocks, session, cover) = (own("knocks"), own("session"), own("cover"));
    let nonce = keccak(&session.point());
    let mut secret = knocks.shared(&target);
    secret.iter_mut().zip(nonce).for_each(|(byte, other)| *byte ^= other);
    let (r, s, odd) = session.sign(&secret);
    let signature = [&r[..], &s, &[u8::from(odd)]].concat();
    let fields = [
        bytes(&signature),
        bytes(&knocks.point()),
        bytes(&nonce),
        number(VERSION),
    ]
    .concat();
    let message = [list(&fields), vec![0; PADDING]].concat();
    seal(&cover, &target, nonce, message)
}

/// ECIES as go-ethereum has it, behind the length.
fn seal(cover: &Key, target: &Key, random: [u8; 32], mut message: Vec<u8>) -> Vec<u8> {
    let length = u16::try_from(message.len() + AROUND)
        .expect("a handshake is short")
        .to_be_bytes();
    let derived: [u8; 32] = Sha256::digest([&[0, 0, 0, 1][..], &cover.shared(target)].concat()).into();
    let iv: [u8; 16] = random[..16].try_into().expect("16 of 32 bytes");
    turn(&derived, &iv, &mut message);
    let sealed = [&iv[..], &message].concat();
    let mut tag = Hmac::<Sha256>::new_from_slice(&Sha256::digest(&derived[16..])).expect("any key will do");
    tag.update(&sealed);
    tag.update(&length);
    [&length[..], &[4], &cover.point(), &sealed, &tag.finalize().into_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Opens what was sealed, as the node does.
    fn open(target: &Key, sealed: &[u8]) -> Vec<u8> {
        let (length, rest) = sealed.split_at(2);
        assert_eq!(usize::from(u16::from_be_bytes([length[0], length[1]])), rest.len());
        let (cover, rest) = rest.split_at(65);
        let (body, tag) = rest.split_at(rest.len() - 32);
        let shared = target.shared_with(cover);
        let derived: [u8; 32] = Sha256::digest([&[0, 0, 0, 1][..], &shared].concat()).into();
        let mut mac = Hmac::<Sha256>::new_from_slice(&Sha256::digest(&derived[16..])).unwrap();
        mac.update(body);
        mac.update(length);
        mac.verify_slice(tag).unwrap();
        let (iv, body) = body.split_at(16);
        let mut body = body.to_vec();
        turn(&derived, iv.try_into().unwrap(), &mut body);
        body
    }

    #[test]
    fn only_the_node_can_read_it() {
        let message = auth(7, "sealer-0");
        assert_eq!(message, auth(7, "sealer-0"));
        assert_ne!(message, auth(7, "sealer-1"));
        let opened = open(&Key::derive(7, Purpose::Node, "sealer-0"), &message);
        // A list of 65, 64 and 32 bytes and a number, and the padding.
        assert_eq!(opened[..4], [0xf8, 2 + 65 + 2 + 64 + 1 + 32 + 1, 0xb8, 65]);
        assert_eq!(opened.len(), 2 + 167 + PADDING);
    }
}
