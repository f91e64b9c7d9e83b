//! Transactions: transfers that carry bytes, each signed with the key of an account that the genesis funds.

use super::keys::{Key, keccak};
use super::rlp::{big, bytes, list, number};

/// What a transfer pays for a unit of gas: a hundred times what the first block asks for, which with empty blocks only falls.
const GAS_PRICE: u64 = 100_000_000_000;
/// The gas of a transfer, and of a byte that it carries.
const TRANSFER: u64 = 21_000;
const BYTE: u64 = 16;

/// Moves one wei.
pub(super) struct Transfer<'a> {
    /// The number of the account's transactions before.
    pub(super) nonce: u64,
    /// Who gets it.
    pub(super) to: [u8; 20],
    /// What it carries along.
    pub(super) data: &'a [u8],
    pub(super) chain_id: u64,
}

impl Transfer<'_> {
    /// The signed bytes, as EIP-155 has it.
    pub(super) fn signed(&self, key: &Key) -> Vec<u8> {
        self.signed_with(key, GAS_PRICE, TRANSFER + BYTE * self.data.len() as u64, 1)
    }

    fn signed_with(&self, key: &Key, price: u64, gas: u64, value: u64) -> Vec<u8> {
        let head = [
            number(self.nonce),
            number(price),
            number(gas),
            bytes(&self.to),
            number(value),
            bytes(self.data),
        ]
        .concat();
        let unsigned = [head.clone(), number(self.chain_id), number(0), number(0)].concat();
        let (r, s, odd) = key.sign(&keccak(&list(&unsigned)));
        let v = 2 * self.chain_id + 35 + u64::from(odd);
        list(&[head, number(v), big(&r), big(&s)].concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::ethereum::keys;

    /// The example in EIP-155.
    #[test]
    fn as_eip_155_signs() {
        let transfer = Transfer {
            nonce: 9,
            to: [0x35; 20],
            data: &[],
            chain_id: 1,
        };
        let key = keys::of_private([0x46; 32]);
        let signed = transfer.signed_with(&key, 20_000_000_000, 21_000, 1_000_000_000_000_000_000);
        assert_eq!(
            hex::encode(signed),
            "f86c098504a817c800825208943535353535353535353535353535353535353535880de0b6b3a76400008025a028ef61340bd939bc2195fe537567866003e1a15d\
             3c71ff63e1590620aa636276a067cbe9d8997f761aecb703304b3800ccf555c9f3dc64214b297fb1966a3b6d83"
        );
    }
}
