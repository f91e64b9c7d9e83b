//! What can be seen of links from outside the injector: connections of trialnet's own over them, and what the operating
//! system has counted on the nodes' connections.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use futures::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::Instant;

use super::proxy::connect;
use super::trouble;
use crate::backend::{LinkEvidence, LinkId, Trouble};
use crate::model::Ms;

/// How many connections are tried at the same time, so that a large network does not need as many files.
const AT_ONCE: usize = 200;

/// Where the connections of a look at this address come from, so that they are not taken for the nodes' own; `None`: from
/// wherever the system likes.
pub(crate) type Source = fn(SocketAddr) -> Option<IpAddr>;

/// A link that is looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Way {
    /// Which link.
    pub(crate) link: LinkId,
    /// The address at which the dialling node reaches it.
    pub(crate) address: SocketAddr,
    /// Where the dialled node itself listens, as `host:port`, if the way past the injector is looked at too.
    pub(crate) past: Option<String>,
    /// What the dialled node has to be told before it says anything.
    pub(crate) knock: Vec<u8>,
    /// Where the dialled node's end can be seen too: the address at which it listens, and that from which the dialling one comes there.
    pub(crate) accepts: Option<(SocketAddr, IpAddr)>,
}

/// A connection that is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Connection {
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    /// Bytes that this end has received so far.
    pub(super) received: u64,
}

/// Looks at links. What the operating system has counted is read first, so that the two looks of a comparison are at least `limit`
/// apart.
///
/// # Errors
/// Only when this program fails: a link over which nothing comes is an answer.
pub(crate) async fn links(ways: Vec<Way>, source: Source, limit: Ms) -> Result<Vec<LinkEvidence>, Trouble> {
    let connections = tokio::task::spawn_blocking(move || connections(source))
        .await
        .map_err(|error| trouble("infra/internal", "the connections counted", error.to_string()))?;
    let looks = ways.into_iter().map(|way| {
        let (open, accepted) = match &connections {
            Some(all) => (
                Some(dialled(all, way.address)),
                way.accepts.map(|ends| accepted(all, ends)),
            ),
            None => (None, None),
        };
        let Way {
            link,
            address,
            past,
            knock,
            ..
        } = way;
        async move {
            let past = async {
                let past = tokio::net::lookup_host(past?).await.ok()?.next()?;
                first_byte(past, source(past), &knock, limit).await
            };
            let (first_byte, past) = tokio::join!(first_byte(address, source(address), &knock, limit), past);
            LinkEvidence {
                link,
                first_byte,
                past,
                open,
                accepted,
            }
        }
    });
    Ok(stream::iter(looks).buffered(AT_ONCE).collect().await)
}

/// What the connections that were dialled to an address have received, by local port.
fn dialled(all: &[Connection], address: SocketAddr) -> BTreeMap<u16, u64> {
    let here = all.iter().filter(|one| one.remote == address);
    here.map(|one| (one.local.port(), one.received)).collect()
}

/// What the connections have received that a listener accepted from somebody, by remote port.
fn accepted(all: &[Connection], (listener, from): (SocketAddr, IpAddr)) -> BTreeMap<u16, u64> {
    let here = all
        .iter()
        .filter(|one| one.local == listener && one.remote.ip() == from);
    here.map(|one| (one.remote.port(), one.received)).collect()
}

/// The time until a new connection, over which this is said first, brings its first byte.
async fn first_byte(address: SocketAddr, source: Option<IpAddr>, knock: &[u8], limit: Ms) -> Option<Ms> {
    let began = Instant::now();
    let wait = async {
        let mut stream = connect(address, source).await?;
        stream.write_all(knock).await?;
        stream.read_u8().await
    };
    // Refused, ended or silent: for the question whether bytes come over the link, it is all the same.
    let came = tokio::time::timeout(limit.duration(), wait).await;
    matches!(came, Ok(Ok(_))).then(|| began.elapsed().into())
}

/// All connections here, those of looks excepted; `None` where they cannot be known.
fn connections(source: Source) -> Option<Vec<Connection>> {
    #[cfg(target_os = "linux")]
    {
        let mut all = super::sockets::established().ok()?;
        all.retain(|one| source(one.remote).is_none_or(|probe| one.local.ip() != probe));
        Some(all)
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _: Source = source;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpSocket;

    #[tokio::test]
    async fn first_bytes_and_counted_bytes_are_seen() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let link = LinkId {
            from: "a".to_owned(),
            to: "b".to_owned(),
            port: "p2p".to_owned(),
        };
        let way = Way {
            link,
            address,
            past: Some(address.to_string()),
            knock: b"?".to_vec(),
            accepts: Some((address, address.ip())),
        };
        let look = async |limit| links(vec![way.clone()], |_| None, limit).await.unwrap();
        let mut client = tokio::net::TcpStream::connect(address).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        server.write_all(b"12345").await.unwrap();
        client.read_exact(&mut [0; 5]).await.unwrap();
        client.write_all(b"123").await.unwrap();
        server.read_exact(&mut [0; 3]).await.unwrap();

        let silent = look(Ms(50)).await;
        assert_eq!((silent[0].first_byte, silent[0].past), (None, None));
        if let Some(open) = &silent[0].open {
            let port = client.local_addr().unwrap().port();
            assert_eq!(open.get(&port), Some(&5));
            assert_eq!(silent[0].accepted.as_ref().unwrap().get(&port), Some(&3));
        }
        let greeter = tokio::spawn(async move {
            // The look above was accepted by the kernel; it is gone by now, and greeting it is in vain.
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    // It speaks to nobody who has not knocked.
                    if matches!(stream.read_u8().await, Ok(b'?')) {
                        drop(stream.write_all(b"x").await);
                    }
                    stream.read_u8().await
                });
            }
        });
        let loud = look(Ms::secs(20)).await;
        assert!(loud[0].first_byte.is_some() && loud[0].past.is_some());
        greeter.abort();
    }

    #[tokio::test]
    async fn looks_are_not_taken_for_connections_of_the_node() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let source: Source = |_| Some(IpAddr::from([127, 77, 255, 255]));
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.77.255.255:0".parse().unwrap()).unwrap();
        let _open = socket.connect(address).await.unwrap();
        if let Some(all) = connections(source) {
            assert_eq!(dialled(&all, address), BTreeMap::new());
            assert_eq!(dialled(&connections(|_| None).unwrap(), address).len(), 1);
        }
    }
}
