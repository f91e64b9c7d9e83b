//! What can be seen of the links from outside the injector: trialnet's own connections over them, and what the operating
//! system has counted on the nodes' connections.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use futures::{StreamExt, stream};
use tokio::io::AsyncReadExt;
use tokio::net::TcpSocket;
use tokio::time::Instant;

use super::address::probe_source;
use super::{blocking, trouble};
use crate::backend::{Addresses, LinkEvidence, LinkId, Trouble};
use crate::model::Ms;

/// How many connections are tried at the same time, so that a large network does not need as many files.
const AT_ONCE: usize = 200;

/// Received bytes by remote address and local port.
pub(super) type Received = BTreeMap<SocketAddr, BTreeMap<u16, u64>>;

/// Looks at links. What the operating system has counted is read first, so that the two looks of a comparison are at least
/// `limit` apart.
pub(super) async fn links(addresses: &Addresses, links: &[LinkId], limit: Ms) -> Result<Vec<LinkEvidence>, Trouble> {
    let received = blocking(|| Ok(received())).await?;
    let mut looks = Vec::with_capacity(links.len());
    for link in links {
        let Some(&address) = addresses.links.get(link) else {
            let LinkId { from, to, port } = link;
            let seen = format!("{from} -> {to} ({port}) was not reserved");
            return Err(trouble("infra/io", "a link of the plan", seen));
        };
        let open = received
            .as_ref()
            .map(|all| all.get(&address).cloned().unwrap_or_default());
        looks.push(look(link.clone(), address, open, limit));
    }
    Ok(stream::iter(looks).buffered(AT_ONCE).collect().await)
}

async fn look(link: LinkId, address: SocketAddr, open: Option<BTreeMap<u16, u64>>, limit: Ms) -> LinkEvidence {
    let first_byte = first_byte(address, limit).await;
    LinkEvidence { link, first_byte, open }
}

/// The time until a new connection brings its first byte.
async fn first_byte(address: SocketAddr, limit: Ms) -> Option<Ms> {
    let began = Instant::now();
    let wait = async {
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        if let Some(source) = probe_source(address) {
            socket.bind(SocketAddr::new(source, 0))?;
        }
        let mut stream = socket.connect(address).await?;
        stream.read_u8().await
    };
    // Refused, ended or silent: for the question whether bytes come over the link, it is all the same.
    let came = tokio::time::timeout(limit.duration(), wait).await;
    matches!(came, Ok(Ok(_))).then(|| began.elapsed().into())
}

/// What all connections of this machine have received, trialnet's own probes excepted; `None` where it cannot be known.
fn received() -> Option<Received> {
    #[cfg(target_os = "linux")]
    {
        let mut all = Received::new();
        for connection in super::sockets::established().ok()? {
            if probe_source(connection.remote).is_none_or(|probe| connection.local.ip() != probe) {
                all.entry(connection.remote)
                    .or_default()
                    .insert(connection.local.port(), connection.received);
            }
        }
        Some(all)
    }
    #[cfg(not(target_os = "linux"))]
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    #[tokio::test]
    async fn first_bytes_and_counted_bytes_are_seen() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let link = LinkId {
            from: "a".to_owned(),
            to: "b".to_owned(),
            port: "p2p".to_owned(),
        };
        let addresses = Addresses {
            links: BTreeMap::from([(link.clone(), address)]),
            ..Addresses::default()
        };
        let mut client = tokio::net::TcpStream::connect(address).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        server.write_all(b"12345").await.unwrap();
        client.read_exact(&mut [0; 5]).await.unwrap();

        let silent = links(&addresses, std::slice::from_ref(&link), Ms(50)).await.unwrap();
        assert_eq!(silent[0].first_byte, None);
        if let Some(open) = &silent[0].open {
            assert_eq!(open.get(&client.local_addr().unwrap().port()), Some(&5));
        }
        let greeter = tokio::spawn(async move {
            // The probe above was accepted by the kernel; it is gone by now, and greeting it is in vain.
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                drop(stream.write_all(b"x").await);
                tokio::spawn(async move { stream.read_u8().await });
            }
        });
        let loud = links(&addresses, &[link], Ms::secs(20)).await.unwrap();
        assert!(loud[0].first_byte.is_some());
        greeter.abort();
    }

    #[test]
    fn probes_have_a_source_of_their_own_only_in_a_slot() {
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        assert_eq!(probe_source(address("127.0.0.1:5")), None);
        assert_eq!(
            probe_source(address("127.9.3.1:5")),
            Some(std::net::IpAddr::from([127, 9, 0, 255]))
        );
    }
}
