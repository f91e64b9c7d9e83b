//! RLP, as the Yellow Paper has it: how Ethereum writes numbers, bytes and lists.

/// A number in RLP: its bytes without zeros before them.
pub(super) fn number(value: u64) -> Vec<u8> {
    big(&value.to_be_bytes())
}

/// The same of a number in bytes, the greatest first.
pub(super) fn big(be: &[u8]) -> Vec<u8> {
    let zeros = be.iter().take_while(|byte| **byte == 0).count();
    bytes(&be[zeros..])
}

/// Bytes in RLP.
pub(super) fn bytes(content: &[u8]) -> Vec<u8> {
    match content {
        [one] if *one < 0x80 => vec![*one],
        _ => [&head(0x80, content.len())[..], content].concat(),
    }
}

/// A list of what is in RLP already.
pub(super) fn list(content: &[u8]) -> Vec<u8> {
    [&head(0xc0, content.len())[..], content].concat()
}

/// How RLP begins what is so long.
fn head(kind: u8, length: usize) -> Vec<u8> {
    if let Ok(short @ 0..=55) = u8::try_from(length) {
        return vec![kind + short];
    }
    let be = length.to_be_bytes();
    let zeros = be.iter().take_while(|byte| **byte == 0).count();
    let count = u8::try_from(be.len() - zeros).expect("a length has at most 8 bytes");
    [&[kind + 55 + count], &be[zeros..]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Examples in the specification of RLP.
    #[test]
    fn as_rlp_is_specified() {
        assert_eq!(bytes(b"dog"), b"\x83dog");
        assert_eq!(list(&[bytes(b"cat"), bytes(b"dog")].concat()), b"\xc8\x83cat\x83dog");
        assert_eq!(bytes(b""), [0x80]);
        assert_eq!(list(&[]), [0xc0]);
        assert_eq!(
            (number(0), number(15), number(1024)),
            (vec![0x80], vec![0x0f], vec![0x82, 4, 0])
        );
        let long = b"Lorem ipsum dolor sit amet, consectetur adipisicing elit";
        assert_eq!(bytes(long)[..2], [0xb8, 0x38]);
        assert_eq!(bytes(&[1; 1024])[..3], [0xb9, 4, 0]);
    }
}
