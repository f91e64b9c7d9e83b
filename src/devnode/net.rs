//! Links between nodes: frames, the handshake, dialling, and one reader and one writer a link.
//!
//! A frame is a length (4 bytes, big-endian, at most [`MAX_FRAME`]) and that many bytes of JSON: a
//! [`Message`](super::codec::Message), or during the handshake a `Hello` and then a `Proof`.
//! Who the other one is comes from the handshake alone, never from its address, so a proxy in
//! between changes nothing. Nothing here waits for the node, and the node never waits for a link:
//! what a slow link cannot take costs the link, which is then dialled anew.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_malachitebft_signing_ed25519::{PrivateKey, PublicKey};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::PeerConfig;
use super::codec::{Base64, Sig};
use super::node::Event;
use super::types::{Address, Hash, Hex, address_of, hash_parts};

/// The longest frame, in bytes.
pub const MAX_FRAME: usize = 4 * 1024 * 1024;
/// The longest frame of a handshake.
const MAX_HELLO: usize = 4 * 1024;
/// A link on which nothing came for so long is dead: the other side sends at least every second.
const SILENCE: Duration = Duration::from_secs(5);
/// How long a handshake may take; bytes may be held up on the way.
const HANDSHAKE: Duration = Duration::from_secs(3);
/// The pause before a link is dialled again grows from the first to the second.
const REDIAL: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(500));
/// The most frames and bytes that wait for a slow link.
const QUEUE: (usize, usize) = (2_048, 8 * 1024 * 1024);
/// The most handshakes of unknown callers at a time.
const CALLERS: usize = 64;

/// What a node says of itself in the handshake.
#[derive(Debug)]
pub struct Identity {
    /// Signs the handshake.
    pub key: PrivateKey,
    /// Derived from the key.
    pub address: Address,
    /// The node's name.
    pub name: String,
    /// The version it reports.
    pub version: String,
    /// The chain it is on.
    pub chain_id: String,
    /// The hash of its genesis file.
    pub genesis: Hash,
}

/// What a node knows of another.
#[derive(Clone, Debug)]
pub struct PeerInfo {
    /// Its id.
    pub address: Address,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Where the link leads: the other end's address, or a proxy's.
    pub remote: String,
}

/// The first frame of each side.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Hello {
    chain_id: String,
    genesis: Hash,
    key: Base64,
    name: String,
    version: String,
    nonce: Hash,
}

/// The second frame of each side: a signature over both nonces.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Proof {
    signature: Sig,
}

/// Why there is no link.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The connection failed.
    #[error("connection: {0}")]
    Io(#[from] io::Error),
    /// It took too long.
    #[error("no handshake within {}", humantime::format_duration(HANDSHAKE))]
    Slow,
    /// Not a handshake.
    #[error("unreadable handshake: {0}")]
    Garbage(String),
    /// Another chain.
    #[error("the other node is on chain '{0}'")]
    Chain(String),
    /// Another genesis.
    #[error("the other node has another genesis ({0})")]
    Genesis(Hash),
    /// Not who was expected, or unable to prove it.
    #[error("the other node is not who it should be")]
    Identity,
}

/// A finished frame, length included; cheap to clone.
#[derive(Clone, Debug)]
pub struct Frame(Arc<[u8]>);

impl Frame {
    /// The frame around some bytes. Longer ones than [`MAX_FRAME`] would be refused by the others.
    pub fn new(payload: &[u8]) -> Self {
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let mut bytes = Vec::with_capacity(payload.len() + 4);
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(payload);
        Self(bytes.into())
    }

    /// What it carries.
    pub fn payload(&self) -> &[u8] {
        &self.0[4..]
    }
}

/// Reads one frame. Cancelling loses what was read.
async fn read_frame(reader: &mut (impl AsyncRead + Unpin), max: usize) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    read_full(reader, &mut length).await?;
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if length > max {
        let error = format!("a frame of {length} bytes; at most {max} are allowed");
        return Err(io::Error::new(io::ErrorKind::InvalidData, error));
    }
    let mut payload = vec![0; length];
    read_full(reader, &mut payload).await?;
    Ok(payload)
}

/// Fills the buffer; each byte that comes is a sign of life.
async fn read_full(reader: &mut (impl AsyncRead + Unpin), buffer: &mut [u8]) -> io::Result<()> {
    let mut filled = 0;
    while filled < buffer.len() {
        let read = timeout(SILENCE, reader.read(&mut buffer[filled..])).await;
        match read.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => filled += count,
        }
    }
    Ok(())
}

async fn send<T: Serialize>(stream: &mut (impl AsyncWrite + Unpin), value: &T) -> Result<(), LinkError> {
    let payload = serde_json::to_vec(value).map_err(|e| LinkError::Garbage(e.to_string()))?;
    stream.write_all(&Frame::new(&payload).0).await?;
    Ok(())
}

async fn receive<T: DeserializeOwned>(stream: &mut (impl AsyncRead + Unpin)) -> Result<T, LinkError> {
    let payload = read_frame(stream, MAX_HELLO).await?;
    serde_json::from_slice(&payload).map_err(|e| LinkError::Garbage(e.to_string()))
}

/// What is signed: the signer's role and key, and both nonces, so that nothing can be replayed.
fn proof_bytes(dialer: bool, genesis: &Hash, key: &PublicKey, own: &Hash, other: &Hash) -> Hash {
    let role: &[u8] = if dialer { b"dialer" } else { b"listener" };
    hash_parts("handshake", &[role, &genesis.0, key.as_bytes(), &own.0, &other.0])
}

/// Runs the handshake; `expected` is who is dialled.
async fn handshake(
    stream: &mut TcpStream,
    identity: &Identity,
    dialer: bool,
    expected: Option<Address>,
) -> Result<PeerInfo, LinkError> {
    stream.set_nodelay(true)?;
    let own_key = identity.key.public_key();
    let nonce: Hash = Hex(rand::random());
    let hello = Hello {
        chain_id: identity.chain_id.clone(),
        genesis: identity.genesis,
        key: Base64(own_key.as_bytes().to_vec()),
        name: identity.name.clone(),
        version: identity.version.clone(),
        nonce,
    };
    send(stream, &hello).await?;
    let theirs: Hello = receive(stream).await?;
    if theirs.chain_id != identity.chain_id {
        return Err(LinkError::Chain(theirs.chain_id));
    }
    if theirs.genesis != identity.genesis {
        return Err(LinkError::Genesis(theirs.genesis));
    }
    let key: [u8; 32] = theirs.key.0.try_into().map_err(|_| LinkError::Identity)?;
    let key = PublicKey::from_bytes(key).map_err(|_| LinkError::Identity)?;
    let address = address_of(&key);
    if address == identity.address || expected.is_some_and(|expected| expected != address) {
        return Err(LinkError::Identity);
    }
    let genesis = &identity.genesis;
    let bytes = proof_bytes(dialer, genesis, &own_key, &nonce, &theirs.nonce);
    let signature = Sig(identity.key.sign(&bytes.0));
    send(stream, &Proof { signature }).await?;
    let proof: Proof = receive(stream).await?;
    let bytes = proof_bytes(!dialer, genesis, &key, &theirs.nonce, &nonce);
    key.verify(&bytes.0, &proof.signature.0)
        .map_err(|_| LinkError::Identity)?;
    Ok(PeerInfo {
        address,
        name: theirs.name,
        version: theirs.version,
        remote: stream.peer_addr()?.to_string(),
    })
}

/// A connection whose other end is known.
#[derive(Debug)]
pub struct Connected {
    /// Who it is.
    pub peer: PeerInfo,
    /// This side dialled.
    pub dialed: bool,
    /// The connection.
    pub stream: TcpStream,
    /// Kept as long as the link is used; the dialler waits for its end.
    pub in_use: oneshot::Sender<()>,
}

/// Keeps a link to one peer: dials whenever there is none.
///
/// `linked` says whether there is a link, whichever side dialled it.
pub async fn keep_dialing(
    identity: Arc<Identity>,
    peer: PeerConfig,
    events: mpsc::Sender<Event>,
    mut linked: watch::Receiver<bool>,
) {
    let mut pause = REDIAL.0;
    let mut last_problem = String::new();
    while linked.wait_for(|linked| !linked).await.is_ok() {
        let started = Instant::now();
        match dial(&identity, &peer).await {
            Ok((info, stream)) => {
                let (in_use, ended) = oneshot::channel();
                let connected = Connected {
                    peer: info,
                    dialed: true,
                    stream,
                    in_use,
                };
                if events.send(Event::Connected(connected)).await.is_err() {
                    return;
                }
                // The sender is dropped when the link ends, or at once where another is kept.
                let _ended = ended.await;
                last_problem.clear();
                if started.elapsed() > REDIAL.1 {
                    pause = REDIAL.0;
                }
            }
            Err(error) => {
                let problem = error.to_string();
                if problem != last_problem {
                    tracing::debug!(peer = %peer.name, address = %peer.address, %problem, "no link");
                    last_problem = problem;
                }
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 3 / 2).min(REDIAL.1);
    }
}

async fn dial(identity: &Identity, peer: &PeerConfig) -> Result<(PeerInfo, TcpStream), LinkError> {
    let attempt = async {
        let mut stream = TcpStream::connect(&peer.address).await?;
        let expected = Some(peer.public_key.address());
        let info = handshake(&mut stream, identity, true, expected).await?;
        Ok((info, stream))
    };
    timeout(HANDSHAKE, attempt).await.unwrap_or(Err(LinkError::Slow))
}

/// Takes calls for ever.
pub async fn keep_listening(identity: Arc<Identity>, listener: TcpListener, events: mpsc::Sender<Event>) {
    let callers = Arc::new(Semaphore::new(CALLERS));
    loop {
        let Ok(permit) = Arc::clone(&callers).acquire_owned().await else {
            return;
        };
        let (mut stream, caller) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, most likely: others must be closed before more can come.
                tracing::warn!(%error, "cannot accept");
                tokio::time::sleep(REDIAL.1).await;
                continue;
            }
        };
        let (identity, events) = (Arc::clone(&identity), events.clone());
        tokio::spawn(async move {
            let shaken = timeout(HANDSHAKE, handshake(&mut stream, &identity, false, None)).await;
            drop(permit);
            match shaken.unwrap_or(Err(LinkError::Slow)) {
                Ok(peer) => {
                    let (in_use, _) = oneshot::channel();
                    let connected = Connected {
                        peer,
                        dialed: false,
                        stream,
                        in_use,
                    };
                    let _closing = events.send(Event::Connected(connected)).await;
                }
                Err(error @ (LinkError::Chain(_) | LinkError::Genesis(_))) => {
                    tracing::warn!(%caller, %error, "refused a caller");
                }
                Err(error) => tracing::debug!(%caller, %error, "no link"),
            }
        });
    }
}

/// A link in use. Dropping it closes the connection.
#[derive(Debug)]
pub struct Link {
    /// Who is at the other end.
    pub peer: PeerInfo,
    /// This side dialled.
    pub dialed: bool,
    /// Tells this link from former ones to the same peer.
    pub number: u64,
    /// When it began.
    pub since: Instant,
    queue: mpsc::Sender<Frame>,
    queued: Arc<AtomicUsize>,
    _reader: AbortOnDropHandle<()>,
    _writer: AbortOnDropHandle<()>,
    _in_use: oneshot::Sender<()>,
}

impl Link {
    /// Starts the reader and the writer.
    pub fn start(connected: Connected, number: u64, events: &mpsc::Sender<Event>) -> Self {
        let Connected {
            peer,
            dialed,
            stream,
            in_use,
        } = connected;
        let (read_half, write_half) = stream.into_split();
        let (queue, frames) = mpsc::channel(QUEUE.0);
        let queued = Arc::new(AtomicUsize::new(0));
        let from = peer.address;
        let reader = tokio::spawn(read_all(read_half, from, number, events.clone()));
        let writer = tokio::spawn(write_all(write_half, frames, Arc::clone(&queued)));
        Self {
            peer,
            dialed,
            number,
            since: Instant::now(),
            queue,
            queued,
            _reader: AbortOnDropHandle::new(reader),
            _writer: AbortOnDropHandle::new(writer),
            _in_use: in_use,
        }
    }

    /// Queues a frame. False when the link cannot keep up or has ended: it should be dropped.
    #[must_use]
    pub fn send(&self, frame: &Frame) -> bool {
        let queued = self.queued.fetch_add(frame.0.len(), Ordering::Relaxed);
        queued + frame.0.len() <= QUEUE.1 && self.queue.try_send(frame.clone()).is_ok()
    }
}

async fn read_all(half: OwnedReadHalf, from: Address, number: u64, events: mpsc::Sender<Event>) {
    let mut reader = BufReader::with_capacity(16 * 1024, half);
    let problem = loop {
        match read_frame(&mut reader, MAX_FRAME).await {
            Ok(payload) => {
                let event = Event::Frame {
                    from,
                    link: number,
                    payload,
                };
                if events.send(event).await.is_err() {
                    return;
                }
            }
            Err(error) => break error.to_string(),
        }
    };
    let closed = Event::Closed {
        from,
        link: number,
        problem,
    };
    let _closing = events.send(closed).await;
}

/// Writes what is queued, many frames at once. A write that hangs fills the queue, and a full
/// queue ends the link.
async fn write_all(mut half: OwnedWriteHalf, mut frames: mpsc::Receiver<Frame>, queued: Arc<AtomicUsize>) {
    let mut buffer = Vec::new();
    while let Some(frame) = frames.recv().await {
        buffer.clear();
        buffer.extend_from_slice(&frame.0);
        while buffer.len() < 64 * 1024 {
            match frames.try_recv() {
                Ok(frame) => buffer.extend_from_slice(&frame.0),
                Err(_) => break,
            }
        }
        if half.write_all(&buffer).await.is_err() {
            return;
        }
        queued.fetch_sub(buffer.len(), Ordering::Relaxed);
        buffer.shrink_to(64 * 1024);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(seed: u8, chain_id: &str, genesis: u8) -> Identity {
        let key = PrivateKey::from([seed; 32]);
        Identity {
            address: address_of(&key.public_key()),
            key,
            name: format!("n{seed}"),
            version: "1".into(),
            chain_id: chain_id.into(),
            genesis: Hex([genesis; 32]),
        }
    }

    async fn shake(
        one: Identity,
        two: Identity,
        expected: Option<Address>,
    ) -> (Result<PeerInfo, LinkError>, Result<PeerInfo, LinkError>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let listening = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            handshake(&mut stream, &two, false, None).await
        };
        let dialing = async {
            let mut stream = TcpStream::connect(address).await.unwrap();
            handshake(&mut stream, &one, true, expected).await
        };
        tokio::join!(dialing, listening)
    }

    #[tokio::test]
    async fn nodes_of_one_chain_know_each_other() {
        let (one, two) = (identity(1, "c", 1), identity(2, "c", 1));
        let (one_id, two_id) = (one.address, two.address);
        let (dialed, listened) = shake(one, two, Some(two_id)).await;
        assert_eq!(dialed.unwrap().address, two_id);
        assert_eq!(listened.unwrap().address, one_id);
    }

    #[tokio::test]
    async fn others_are_refused() {
        let (dialed, _) = shake(identity(1, "c", 1), identity(2, "d", 1), None).await;
        assert!(matches!(dialed, Err(LinkError::Chain(chain)) if chain == "d"));
        let (dialed, _) = shake(identity(1, "c", 1), identity(2, "c", 2), None).await;
        assert!(matches!(dialed, Err(LinkError::Genesis(_))));
        let (dialed, _) = shake(identity(1, "c", 1), identity(2, "c", 1), Some(Hex::ZERO)).await;
        assert!(matches!(dialed, Err(LinkError::Identity)));
        let (dialed, _) = shake(identity(1, "c", 1), identity(1, "c", 1), None).await;
        assert!(
            matches!(dialed, Err(LinkError::Identity)),
            "a node is no peer of itself"
        );
    }

    #[tokio::test]
    async fn a_stolen_key_needs_its_secret() {
        let mut thief = identity(2, "c", 1);
        let victim = identity(3, "c", 1);
        // Says the victim's key, signs with its own.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        thief.name = "thief".into();
        let stealing = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let nonce: Hash = Hex([1; 32]);
            let hello = Hello {
                chain_id: "c".into(),
                genesis: Hex([1; 32]),
                key: Base64(victim.key.public_key().as_bytes().to_vec()),
                name: "victim".into(),
                version: "1".into(),
                nonce,
            };
            send(&mut stream, &hello).await.unwrap();
            let theirs: Hello = receive(&mut stream).await.unwrap();
            let key = victim.key.public_key();
            let bytes = proof_bytes(false, &Hex([1; 32]), &key, &nonce, &theirs.nonce);
            let signature = Sig(thief.key.sign(&bytes.0));
            send(&mut stream, &Proof { signature }).await.unwrap();
            stream
        };
        let one = identity(1, "c", 1);
        let dialing = async {
            let mut stream = TcpStream::connect(address).await.unwrap();
            handshake(&mut stream, &one, true, Some(victim.address)).await
        };
        let (_stream, dialed) = tokio::join!(stealing, dialing);
        assert!(matches!(dialed, Err(LinkError::Identity)));
    }

    #[tokio::test]
    async fn frames_are_bounded() {
        let frame = Frame::new(b"hello");
        assert_eq!(frame.payload(), b"hello");
        let mut bytes: &[u8] = &frame.0;
        assert_eq!(read_frame(&mut bytes, 5).await.unwrap(), b"hello");
        let mut bytes: &[u8] = &frame.0;
        let error = read_frame(&mut bytes, 4).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        let mut bytes: &[u8] = b"GET / HTTP/1.1\r\n\r\n";
        assert!(read_frame(&mut bytes, MAX_FRAME).await.is_err());
    }
}
