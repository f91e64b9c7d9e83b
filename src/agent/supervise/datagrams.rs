//! Datagrams from one pod to another, counted where they arrive: the one way to see what share of the packets is lost, and in which direction.
//! A connection repeats what is lost, and needs both directions.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::future::try_join_all;
use nix::sys::socket::{MsgFlags, recv, setsockopt, sockopt};
use tokio::net::UdpSocket;
use tokio_util::task::AbortOnDropHandle;

use crate::agent::lock;
use crate::backend::Volley;
use crate::model::Ms;

/// What each datagram begins with; the sender follows.
const MAGIC: &[u8; 8] = b"trialnet";
/// So much of a datagram is read; the rest is cut off, since only the beginning says anything.
const LONGEST: usize = 64;
/// A port listens so long at most.
const LISTENS: Duration = Duration::from_secs(20);
/// So many to each address leave at once, and then there is a pause: a burst that no queue on the way is too short for.
const BURST: u32 = 5;
const PAUSE: Duration = Duration::from_millis(4);
/// What waits at a port to be counted, in bytes.
const BUFFER: usize = 8 << 20;
/// So many sockets send in turn what has to leave fast: a single one waits while a queue on the way is long, and then nothing is lost.
const SOCKETS: usize = 64;

/// What came to a port so far, by sender.
type Counts = Arc<Mutex<BTreeMap<u16, u32>>>;

/// A port that listens: what came to it, and the task that counts it.
struct Ear {
    socket: Arc<UdpSocket>,
    counts: Counts,
    _counting: AbortOnDropHandle<()>,
}

/// The ports that listen. Copies are the same.
#[derive(Clone, Default)]
pub(super) struct Ears(Arc<Mutex<BTreeMap<u16, Ear>>>);

impl Ears {
    /// Counts datagrams at a new port.
    pub(super) async fn listen(&self) -> io::Result<u16> {
        let socket = Arc::new(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?);
        // The system gives as much as it lets anybody have: this process may not have its turn for a while.
        setsockopt(&socket, sockopt::RcvBuf, &BUFFER)?;
        let port = socket.local_addr()?.port();
        let counts = Counts::default();
        let (open, heard, ears) = (socket.clone(), counts.clone(), self.clone());
        let counting = tokio::spawn(async move {
            drop(tokio::time::timeout(LISTENS, count(&open, &heard)).await);
            lock(&ears.0).remove(&port);
        });
        let ear = Ear {
            socket,
            counts,
            _counting: AbortOnDropHandle::new(counting),
        };
        lock(&self.0).insert(port, ear);
        Ok(port)
    }

    /// What came to a port, by sender, and how many more there were than could be taken. It no longer listens then.
    pub(super) fn heard(&self, port: u16) -> io::Result<(BTreeMap<u16, u32>, u64)> {
        let ear = lock(&self.0)
            .remove(&port)
            .ok_or_else(|| io::Error::other(format!("nobody listens at the port {port}")))?;
        // What has arrived counts, although the one who counts may not have had its turn.
        let mut buffer = [0; LONGEST];
        while let Ok(length) = recv(ear.socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            note(&buffer[..length], &ear.counts);
        }
        let counts = lock(&ear.counts).clone();
        Ok((counts, overrun(port)))
    }
}

async fn count(socket: &UdpSocket, counts: &Counts) {
    let mut buffer = [0; LONGEST];
    loop {
        // An error of one datagram is none of the others.
        if let Ok(length) = socket.recv(&mut buffer).await {
            note(&buffer[..length], counts);
        }
    }
}

/// Counts a datagram, if it is one of ours.
fn note(datagram: &[u8], counts: &Counts) {
    if let Some([high, low, ..]) = datagram.strip_prefix(MAGIC) {
        *lock(counts).entry(u16::from_be_bytes([*high, *low])).or_default() += 1;
    }
}

/// Sends datagrams to each address.
pub(super) async fn send(to: &[SocketAddr], sender: u16, volley: Volley) -> io::Result<()> {
    let sockets = if volley.spread.is_some() { SOCKETS } else { 1 };
    let sockets = try_join_all((0..sockets).map(|_| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))).await?;
    let mut datagram = [MAGIC.as_slice(), &sender.to_be_bytes()].concat();
    datagram.resize(datagram.len().max(volley.size as usize), 0);
    let begun = Instant::now();
    let (mut sent, mut turns) = (0, sockets.iter().cycle());
    while sent < volley.count {
        // Who was late catches up.
        let due = match volley.spread {
            None => sent + BURST,
            Some(spread) => due(volley.count, spread, begun.elapsed() + PAUSE),
        };
        let now = due.clamp(sent, volley.count) - sent;
        for (address, _) in to
            .iter()
            .flat_map(|address| (0..now).map(move |number| (address, number)))
        {
            let Some(socket) = turns.next() else { break };
            socket.send_to(&datagram, address).await?;
        }
        sent += now;
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

/// How many of `count` should have left after this time, of those that are spread over a time.
fn due(count: u32, spread: Ms, elapsed: Duration) -> u32 {
    let due = u128::from(count) * elapsed.as_millis() / u128::from(spread.0.max(1));
    u32::try_from(due).unwrap_or(u32::MAX)
}

/// How many datagrams to this port the system dropped since the program was too slow, from `/proc/net/udp`: the local port stands in the second
/// column after a colon, in hexadecimal, the count is the last column.
fn overrun(port: u16) -> u64 {
    let table = std::fs::read_to_string("/proc/self/net/udp").unwrap_or_default();
    let of = |line: &str| {
        let mut columns = line.split_whitespace();
        let local = columns.nth(1)?.rsplit(':').next()?;
        (u16::from_str_radix(local, 16) == Ok(port)).then(|| columns.last()?.parse::<u64>().ok())?
    };
    table.lines().filter_map(of).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn few(count: u32) -> Volley {
        Volley {
            count,
            size: 0,
            spread: None,
        }
    }

    #[test]
    fn what_is_late_is_due_at_once() {
        let due = |ms| due(1000, Ms(500), Duration::from_millis(ms));
        assert_eq!([0, 4, 250, 500, 700].map(due), [0, 8, 500, 1000, 1400]);
    }

    #[tokio::test]
    async fn datagrams_are_counted_by_sender() {
        let ears = Ears::default();
        let port = ears.listen().await.unwrap();
        let to = [SocketAddr::from((Ipv4Addr::LOCALHOST, port))];
        send(&to, 3, few(12)).await.unwrap();
        send(&to, 7, few(1)).await.unwrap();
        let spread = Volley {
            size: 1200,
            spread: Some(Ms(20)),
            ..few(40)
        };
        send(&to, 9, spread).await.unwrap();
        let wanted = BTreeMap::from([(3, 12), (7, 1), (9, 40)]);
        let all = async {
            while lock(&ears.0).get(&port).map(|ear| lock(&ear.counts).clone()).as_ref() != Some(&wanted) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), all)
            .await
            .expect("all datagrams arrive over loopback");
        assert_eq!(ears.heard(port).unwrap(), (wanted, 0));
        assert!(ears.heard(port).is_err(), "it listens no longer");
    }

    #[tokio::test]
    async fn what_has_arrived_counts_although_nobody_has_counted_it() {
        let ears = Ears::default();
        let port = ears.listen().await.unwrap();
        // The one who counts has its turn only when this test waits for something.
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        for _ in 0..500 {
            socket.send_to(b"trialnet\x00\x05", ("127.0.0.1", port)).unwrap();
        }
        assert_eq!(ears.heard(port).unwrap(), (BTreeMap::from([(5, 500)]), 0));
    }

    #[tokio::test]
    async fn strangers_are_not_counted() {
        let ears = Ears::default();
        let port = ears.listen().await.unwrap();
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        for word in [b"trialnet".as_slice(), b"trialnet1", b"", b"hello, here"] {
            socket.send_to(word, (Ipv4Addr::LOCALHOST, port)).await.unwrap();
        }
        send(&[(Ipv4Addr::LOCALHOST, port).into()], 1, few(1)).await.unwrap();
        let ours = async {
            while !lock(&lock(&ears.0)[&port].counts).contains_key(&1) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), ours)
            .await
            .expect("ours arrives after theirs");
        assert_eq!(ears.heard(port).unwrap().0, BTreeMap::from([(1, 1)]));
    }

    #[test]
    fn what_the_system_dropped_is_known() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        if !std::path::Path::new("/proc/self/net/udp").exists() {
            return;
        }
        assert_eq!(overrun(port), 0);
        for _ in 0..2000 {
            socket.send_to(&[0; 1000], ("127.0.0.1", port)).unwrap();
        }
        assert!(overrun(port) > 0, "nobody took 2 MB");
    }
}
