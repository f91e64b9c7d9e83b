//! Loopback ports that lead to ports of pods.
//!
//! Each TCP connection to such a port becomes one port-forward to the pod that has the name at that moment. So nothing has to be put
//! right when a pod is replaced: the next connection reaches the new one at the same local address.
//!
//! What a port-forward can and cannot carry (Kubernetes 1.34, containerd; seen on a real cluster):
//! - It opens also where nobody listens; the pod's "connection refused" follows as a text beside the stream.
//! - It has no half-close. The end of what the pod sends is passed on; a client that ends its sending is not told to the pod, but may
//!   still read until the pod is silent for [`LINGER`].
//! - It is dialled from inside the pod's network namespace, so faults on the pod's network do not touch it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, Portforwarder};
use kube::{Client, Error};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::agent::trouble;
use crate::backend::{Endpoint, Trouble, Tunnel};
use crate::record::Silence;

/// How long opening a port-forward may take.
pub const OPEN: Duration = Duration::from_secs(5);
/// How long a client that has ended its own sending is still given what the pod sends: since its last byte.
pub const LINGER: Duration = Duration::from_secs(2);
/// When opening takes longer, a request that waits for it is told that the way is slow, not that the node is silent.
const SLOW: Duration = Duration::from_millis(300);
/// A refusal comes within this time after opening, if there is one; then somebody listens.
const SETTLED: Duration = Duration::from_millis(100);
/// How long asking for the pod of a broken forward may take.
const ASK: Duration = Duration::from_secs(2);
/// How long a forward that has ended has to say why.
const REASON: Duration = Duration::from_millis(50);
/// Between two attempts to accept, when this machine has run out of files.
const AGAIN: Duration = Duration::from_millis(50);
/// Bytes that are passed on at once.
const CHUNK: usize = 32 * 1024;

/// A loopback port that leads to a port of a pod. Dropping it ends all its connections.
#[derive(Debug)]
#[must_use = "a forward ends when it is dropped"]
pub struct Forward {
    endpoint: Endpoint,
    _accepting: AbortOnDropHandle<()>,
}

impl Forward {
    /// Where it is reached, and what is known of the way.
    #[must_use]
    pub fn endpoint(&self) -> Endpoint {
        self.endpoint.clone()
    }
}

/// Listens at a free loopback port and leads each connection to `port` of the pod of this name, at that moment. The pod need not be
/// there yet. Has to be called within a tokio runtime.
///
/// # Errors
/// `infra/address` when there is no free port.
pub fn open(client: Client, namespace: &str, pod: &str, port: u16) -> Result<Forward, Trouble> {
    let name = pod.to_owned();
    open_to(client, namespace, pod, port, move || name.clone())
}

/// The same to a pod whose name changes: `pod` gives it at the moment of a connection. `node` is what it is called in messages.
///
/// # Errors
/// `infra/address` when there is no free port.
pub fn open_to(
    client: Client,
    namespace: &str,
    node: &str,
    port: u16,
    pod: impl Fn() -> String + Send + 'static,
) -> Result<Forward, Trouble> {
    let bind = || {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        Ok((listener.local_addr()?, listener))
    };
    let (address, listener) = bind().map_err(|error: io::Error| {
        let wanted = format!("a free loopback port for the tunnel to {node}:{port}");
        trouble("infra/address", wanted, error.to_string())
    })?;
    let tunnel = Tunnel::default();
    let pods = Api::namespaced(client, namespace);
    let target = move || Target {
        pods: pods.clone(),
        pod: pod(),
        port,
    };
    let accepting = tokio::spawn(accept(listener, target, tunnel.clone()));
    Ok(Forward {
        endpoint: Endpoint {
            address,
            tunnel: Some(tunnel),
        },
        _accepting: AbortOnDropHandle::new(accepting),
    })
}

/// One connection to a port of a pod. That it opens does not mean that somebody listens: a refusal is the first read's error.
///
/// # Errors
/// [`Silence::Refused`] when there is no such pod or it does not run, [`Silence::Tunnel`] when the way to it is broken; with the words.
pub async fn connect(client: Client, namespace: &str, pod: &str, port: u16) -> Result<Connection, (Silence, String)> {
    let target = Target {
        pods: Api::namespaced(client, namespace),
        pod: pod.to_owned(),
        port,
    };
    target.connect().await
}

#[derive(Clone)]
struct Target {
    pods: Api<Pod>,
    pod: String,
    port: u16,
}

impl Target {
    async fn connect(&self) -> Result<Connection, (Silence, String)> {
        let Self { pods, pod, port } = self;
        let ports = [*port];
        let opening = Box::pin(timeout(OPEN, pods.portforward(pod, &ports)));
        match opening.await {
            Ok(Ok(forwarder)) => Connection::new(forwarder, *port).ok_or_else(|| {
                (
                    Silence::Tunnel,
                    format!("the port-forward to {pod}:{port} has no stream"),
                )
            }),
            // A refusal here is the API server's or the kubelet's; the pod's own comes over the forward.
            Ok(Err(error)) => Err(self.blame_way(&words(&error)).await),
            Err(_) => {
                let why = format!("no port-forward to {pod}:{port} within {} s", OPEN.as_secs());
                Err((Silence::Tunnel, why))
            }
        }
    }

    /// Whether a forward that was open failed because of the pod or because of the way to it.
    async fn blame(&self, why: &str) -> (Silence, String) {
        let Self { pod, port, .. } = self;
        if refused(why) {
            return (Silence::Refused, format!("{pod}:{port}: {why}"));
        }
        self.blame_way(why).await
    }

    /// The same of one that could not be opened: what the API server says of the pod decides.
    async fn blame_way(&self, why: &str) -> (Silence, String) {
        let Self { pods, pod, port } = self;
        let found = match timeout(ASK, pods.get_opt(pod)).await {
            Ok(Ok(found)) => found,
            Ok(Err(_)) | Err(_) => {
                let why =
                    format!("the port-forward to {pod}:{port}: {why}, and the API server does not say how the pod is");
                return (Silence::Tunnel, why);
            }
        };
        match found.as_ref().map(stopped) {
            None => (Silence::Refused, format!("there is no pod {pod}")),
            Some(Some(state)) => (Silence::Refused, format!("the pod {pod} {state}")),
            Some(None) => (Silence::Tunnel, format!("the port-forward to {pod}:{port}: {why}")),
        }
    }
}

/// Whether the pod's own network said that nobody listens.
fn refused(why: &str) -> bool {
    why.to_ascii_lowercase().contains("connection refused")
}

/// Why nobody can listen in the pod, if so.
fn stopped(pod: &Pod) -> Option<String> {
    if pod.metadata.deletion_timestamp.is_some() {
        return Some("is being deleted".to_owned());
    }
    let status = pod.status.as_ref()?;
    let phase = status.phase.as_deref().unwrap_or("Unknown");
    if phase != "Running" {
        return Some(format!("does not run ({phase})"));
    }
    let containers = status.container_statuses.as_deref().unwrap_or_default();
    let runs = |container: &k8s_openapi::api::core::v1::ContainerStatus| {
        container.state.as_ref().is_some_and(|state| state.running.is_some())
    };
    (!containers.iter().any(runs)).then(|| "has no container that runs".to_owned())
}

/// What the API server said, without the code that kube puts before it.
fn words(error: &Error) -> String {
    match error {
        Error::Api(status) if !status.message.is_empty() => status.message.clone(),
        Error::Api(status) => format!("HTTP status {}", status.code),
        other => {
            let mut text = other.to_string();
            let mut source = std::error::Error::source(other);
            while let Some(inner) = source {
                let inner_text = inner.to_string();
                if !text.contains(&inner_text) {
                    text = format!("{text}: {inner_text}");
                }
                source = inner.source();
            }
            text
        }
    }
}

async fn accept(listener: TcpListener, target: impl Fn() -> Target, tunnel: Tunnel) {
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((local, _)) => {
                    open.spawn(carry(local, target(), tunnel.clone()));
                }
                Err(error) => {
                    tunnel.failed(Silence::Tunnel, format!("accept a connection on this machine: {error}"));
                    sleep(AGAIN).await;
                }
            },
            Some(_) = open.join_next() => {}
        }
    }
}

/// Leads one connection of this machine to the pod. When the way fails, the reason is known before the connection is reset.
async fn carry(mut local: TcpStream, target: Target, tunnel: Tunnel) {
    // Without it requests are only slower.
    drop(local.set_nodelay(true));
    let result = match reach(&target, &tunnel).await {
        Ok(way) => pass(&mut local, way, &target, &tunnel).await,
        Err(failed) => Err(failed),
    };
    if let Err((cause, why)) = result {
        tunnel.failed(cause, why);
        // The client has to see that the connection broke, not that it ended.
        drop(local.set_zero_linger());
    }
}

async fn reach(target: &Target, tunnel: &Tunnel) -> Result<Connection, (Silence, String)> {
    let mut opening = std::pin::pin!(target.connect());
    if let Ok(opened) = timeout(SLOW, &mut opening).await {
        return opened;
    }
    let (pod, port) = (&target.pod, target.port);
    let why = format!(
        "the port-forward to {pod}:{port} is not open after {} ms",
        SLOW.as_millis()
    );
    tunnel.failed(Silence::Tunnel, why);
    let opened = opening.await;
    if opened.is_ok() {
        tunnel.carries();
    }
    opened
}

/// Passes bytes both ways, at the pace of whoever reads, until the pod or the client has ended.
async fn pass(
    local: &mut TcpStream,
    way: Connection,
    target: &Target,
    tunnel: &Tunnel,
) -> Result<(), (Silence, String)> {
    let (mut from_pod, mut to_pod) = tokio::io::split(way);
    let (mut from_local, mut to_local) = local.split();
    let ended = tokio_util::sync::CancellationToken::new();
    let up = async {
        let mut buffer = vec![0; CHUNK];
        loop {
            // A client that resets has ended as well.
            let Ok(read @ 1..) = from_local.read(&mut buffer).await else {
                ended.cancel();
                // Whatever else ends this connection, the client does not any more.
                return std::future::pending().await;
            };
            if to_pod.write_all(&buffer[..read]).await.is_err() {
                // Why the forward ended is what reading says.
                return std::future::pending().await;
            }
        }
    };
    let down = async {
        let mut buffer = vec![0; CHUNK];
        let mut settled = false;
        loop {
            let reading = from_pod.read(&mut buffer);
            let read = if !settled {
                settled = true;
                match timeout(SETTLED, reading).await {
                    Ok(read) => read?,
                    Err(_) => {
                        tunnel.carries();
                        continue;
                    }
                }
            } else {
                tokio::select! {
                    read = reading => read?,
                    () = idle(&ended) => return Ok(()),
                }
            };
            if read == 0 {
                // The client may be gone already.
                drop(to_local.shutdown().await);
                return Ok(());
            }
            tunnel.carries();
            if to_local.write_all(&buffer[..read]).await.is_err() {
                return Ok(());
            }
        }
    };
    let result: io::Result<()> = tokio::select! {
        never = up => never,
        result = down => result,
    };
    match result {
        Ok(()) => Ok(()),
        Err(error) => Err(target.blame(&error.to_string()).await),
    }
}

/// Ends when the client has ended its sending and the pod then was silent for a while.
async fn idle(ended: &tokio_util::sync::CancellationToken) {
    ended.cancelled().await;
    sleep(LINGER).await;
}

/// A stream to a port of a pod. The reason for which it broke is the error of a read: [`io::ErrorKind::ConnectionRefused`] when
/// nobody listens at the port, [`io::ErrorKind::ConnectionAborted`] when the way broke. Shutting down its writing ends both ways.
pub struct Connection {
    stream: DuplexStream,
    forwarder: Option<Portforwarder>,
    /// What the pod's side says of the port, at most once.
    error: Option<BoxFuture<'static, Option<String>>>,
    /// Waits for the forward's own account of its end.
    ending: Option<BoxFuture<'static, Option<String>>>,
    ended: Option<Option<(io::ErrorKind, String)>>,
}

impl Connection {
    fn new(mut forwarder: Portforwarder, port: u16) -> Option<Self> {
        let stream = forwarder.take_stream(port)?;
        let error = forwarder.take_error(port)?.boxed();
        Some(Self {
            stream,
            forwarder: Some(forwarder),
            error: Some(error),
            ending: None,
            ended: None,
        })
    }

    /// The pod's words, once they are there.
    fn poll_error(&mut self, cx: &mut Context<'_>) {
        let Some(error) = &mut self.error else { return };
        if let Poll::Ready(text) = error.poll_unpin(cx) {
            self.error = None;
            if let Some(text) = text {
                self.ended = Some(Some(kind(text)));
            }
        }
    }

    /// The end of the stream was read: was it the pod's, or did the way break?
    fn poll_ending(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let ending = self.ending.get_or_insert_with(|| {
            let forwarder = self.forwarder.take();
            async move {
                // A forward that has broken is over by now. One that the pod ended goes on until this side ends as well.
                match timeout(REASON, forwarder?.join()).await {
                    Ok(Err(error)) => Some(error.to_string()),
                    Ok(Ok(())) | Err(_) => None,
                }
            }
            .boxed()
        });
        let why = std::task::ready!(ending.poll_unpin(cx));
        self.poll_error(cx);
        let broken = why.map(|why| (io::ErrorKind::ConnectionAborted, why));
        self.ended.get_or_insert(broken);
        Poll::Ready(())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(forwarder) = &self.forwarder {
            forwarder.abort();
        }
    }
}

fn kind(text: String) -> (io::ErrorKind, String) {
    let kind = if refused(&text) {
        io::ErrorKind::ConnectionRefused
    } else {
        io::ErrorKind::ConnectionAborted
    };
    (kind, text.trim().to_owned())
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            if let Some(ended) = &self.ended {
                return Poll::Ready(match ended {
                    None => Ok(()),
                    Some((kind, why)) => Err(io::Error::new(*kind, why.clone())),
                });
            }
            if self.ending.is_some() {
                std::task::ready!(self.poll_ending(cx));
                continue;
            }
            self.poll_error(cx);
            if self.ended.is_some() {
                continue;
            }
            let before = buf.filled().len();
            std::task::ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
            if buf.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
            std::task::ready!(self.poll_ending(cx));
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
