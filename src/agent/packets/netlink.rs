//! Linux: what all that is said over netlink has in common (`linux/netlink.h`).

use std::io;
use std::os::fd::AsRawFd;

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, sendto, setsockopt, socket,
    sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

/// The kernel answers at once; this is for one that does not.
const LIMIT_MS: i64 = 2000;

pub(super) const NLM_F_REQUEST: u16 = 1;
pub(super) const NLM_F_ACK: u16 = 4;
pub(super) const NLM_F_EXCL: u16 = 0x200;
pub(super) const NLM_F_CREATE: u16 = 0x400;
pub(super) const NLM_F_APPEND: u16 = 0x800;
const NLMSG_ERROR: u16 = 2;
const NESTED: u16 = 0x8000;

/// Says something to the kernel, in the network namespace of this thread, and waits for its answer to the message of this number.
///
/// # Errors
/// What the kernel answers to any of the messages, or that it does not.
pub(super) fn say(to: SockProtocol, messages: &[u8], number: u32) -> io::Result<()> {
    let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, to)?;
    setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::milliseconds(LIMIT_MS))?;
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
    sendto(fd.as_raw_fd(), messages, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = recv(fd.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        if acknowledged(&buffer[..count], number)? {
            return Ok(());
        }
    }
}

/// `struct nlmsghdr` and what follows it.
pub(super) fn message(kind: u16, flags: u16, number: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(16 + body.len()).unwrap_or(u32::MAX);
    [
        &length.to_ne_bytes()[..],
        &kind.to_ne_bytes(),
        &(NLM_F_REQUEST | flags).to_ne_bytes(),
        &number.to_ne_bytes(),
        &[0; 4],
        body,
    ]
    .concat()
}

/// Reads the answers of one datagram. Returns whether that to the message of this number is among them.
fn acknowledged(mut bytes: &[u8], number: u32) -> io::Result<bool> {
    let word = |bytes: &[u8], at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let mut done = false;
    while let (Some(length), Some(kind), Some(sequence), Some(code)) = (
        word(bytes, 0),
        word(bytes, 4).map(|word| word.to_ne_bytes()),
        word(bytes, 8),
        word(bytes, 16),
    ) {
        if u16::from_ne_bytes([kind[0], kind[1]]) == NLMSG_ERROR {
            if code != 0 {
                return Err(io::Error::from_raw_os_error(-code.cast_signed()));
            }
            done |= sequence == number;
        }
        let length = usize::try_from(length).map_err(io::Error::other)?;
        // A length of nothing would never end.
        bytes = bytes.get(length.max(16).next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(done)
}

/// `struct nlattr`s, each padded to four bytes.
#[derive(Default)]
pub(super) struct Attributes(pub(super) Vec<u8>);

impl Attributes {
    pub(super) fn bytes(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    pub(super) fn number(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    pub(super) fn text(&mut self, kind: u16, value: &str) {
        self.bytes(kind, &[value.as_bytes(), &[0]].concat());
    }

    pub(super) fn nest(&mut self, kind: u16, body: impl FnOnce(&mut Self)) {
        let mut inner = Self::default();
        body(&mut inner);
        self.bytes(NESTED | kind, &inner.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_answers_are_no_panic() {
        assert!(!acknowledged(&[1, 2, 3], 0).unwrap());
        assert!(!acknowledged(&[0; 64], 0).unwrap());
        assert!(acknowledged(&[255; 20], 0).is_ok());
    }
}
