//! Linux: the connections of this machine and the bytes that each has received, from the kernel's socket diagnostics.
//!
//! The messages are those of sock_diag(7) and `linux/inet_diag.h`, the counter is `tcpi_bytes_received` of `linux/tcp.h`.
//! One request answers for all connections; no privilege is needed.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, sendto, setsockopt, socket,
    sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use super::reach::Connection;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST_DUMP: u16 = 0x301;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const AF_INET: u8 = 2;
const IPPROTO_TCP: u8 = 6;
/// In `idiag_ext` the attribute n is asked for by the bit n−1.
const INET_DIAG_INFO: u16 = 2;
const STATE_ESTABLISHED: u32 = 1 << 1;
/// `struct nlmsghdr`.
const HEADER: usize = 16;
/// `struct inet_diag_msg`, after which the attributes follow.
const MESSAGE: usize = 72;
/// The offset of `tcpi_bytes_received` in `struct tcp_info`.
const BYTES_RECEIVED: usize = 128;
/// The kernel answers at once; this is for one that does not.
const LIMIT_MS: i64 = 2000;

/// All established IPv4 connections of this network namespace.
pub(super) fn established() -> io::Result<Vec<Connection>> {
    let fd = socket(
        AddressFamily::Netlink,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkSockDiag,
    )?;
    setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::milliseconds(LIMIT_MS))?;
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
    sendto(fd.as_raw_fd(), &request(), &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    read_all(&fd)
}

/// `struct nlmsghdr` and `struct inet_diag_req_v2`, which asks for every socket in the given states.
fn request() -> Vec<u8> {
    let length: u32 = 16 + 56;
    let mut bytes = Vec::new();
    bytes.extend(length.to_ne_bytes());
    bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes.extend(NLM_F_REQUEST_DUMP.to_ne_bytes());
    // Sequence number and port id: one request on a socket of its own needs neither.
    bytes.extend([0; 8]);
    bytes.extend([AF_INET, IPPROTO_TCP, 1 << (INET_DIAG_INFO - 1), 0]);
    bytes.extend(STATE_ESTABLISHED.to_ne_bytes());
    // `struct inet_diag_sockid`: any.
    bytes.extend([0; 48]);
    bytes
}

fn read_all(fd: &OwnedFd) -> io::Result<Vec<Connection>> {
    let mut buffer = vec![0; 256 << 10];
    let mut connections = Vec::new();
    loop {
        let count = recv(fd.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        if read_messages(&buffer[..count], &mut connections)? {
            return Ok(connections);
        }
    }
}

/// Reads the messages of one datagram. Returns whether the last was the end.
fn read_messages(mut bytes: &[u8], into: &mut Vec<Connection>) -> io::Result<bool> {
    while let (Some(length), Some(kind)) = (u32_at(bytes, 0), u16_at(bytes, 4)) {
        let length = usize::try_from(length).map_err(io::Error::other)?;
        let body = bytes
            .get(HEADER..length)
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
        match kind {
            NLMSG_DONE => return Ok(true),
            NLMSG_ERROR => {
                let code = u32_at(body, 0).map_or(0, u32::cast_signed);
                return Err(io::Error::from_raw_os_error(-code));
            }
            _ => into.extend(read_connection(body)),
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

fn read_connection(body: &[u8]) -> Option<Connection> {
    // family, state, timer, retransmits; then the ports and addresses of the socket id, in network order.
    let port = |at: usize| Some(u16::from_be_bytes(body.get(at..at + 2)?.try_into().ok()?));
    let ip = |at: usize| -> Option<IpAddr> {
        let octets: [u8; 4] = body.get(at..at + 4)?.try_into().ok()?;
        Some(Ipv4Addr::from(octets).into())
    };
    let local = SocketAddr::new(ip(8)?, port(4)?);
    let remote = SocketAddr::new(ip(24)?, port(6)?);
    let mut attributes = body.get(MESSAGE..)?;
    while let (Some(length), Some(kind)) = (u16_at(attributes, 0), u16_at(attributes, 2)) {
        let length = usize::from(length);
        if kind == INET_DIAG_INFO {
            let info = attributes.get(4..length)?;
            let counter = info.get(BYTES_RECEIVED..BYTES_RECEIVED + 8)?;
            return Some(Connection {
                local,
                remote,
                received: u64::from_ne_bytes(counter.try_into().ok()?),
            });
        }
        // A length of nothing would never end.
        attributes = attributes.get(length.max(4).next_multiple_of(4)..)?;
    }
    None
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn bytes_of_an_open_connection_are_counted() {
        // Some sandboxes have no socket diagnostics; then probes say that they do not know.
        let Ok(before) = established() else { return };
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        client.write_all(&[7; 1234]).unwrap();
        server.read_exact(&mut [0; 1234]).unwrap();
        let (local, remote) = (server.local_addr().unwrap(), client.local_addr().unwrap());
        let same = |connection: &&Connection| connection.local == local && connection.remote == remote;
        assert!(!before.iter().any(|connection| same(&connection)));
        let now = established().unwrap();
        assert_eq!(now.iter().find(same).map(|connection| connection.received), Some(1234));
    }

    #[test]
    fn broken_answers_are_no_panic() {
        let mut into = Vec::new();
        assert!(read_messages(&[255; 16], &mut into).is_err());
        assert!(!read_messages(&[1, 2, 3], &mut into).unwrap());
        assert_eq!(read_connection(&[0; 80]), None);
    }
}
