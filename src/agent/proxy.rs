//! The proxies of the links. Each carries the TCP connections that one node opens to another, and can hold or delay them,
//! connections that are open already included.
//!
//! A cut holds: neither side's bytes nor its end are passed on, new connections are taken but not led to the target, and all
//! goes on when the link is clear. That is what a packet-level cut looks like to the programs. A delay keeps the order, and
//! a new connection takes one round trip of it until its first byte.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use super::protocol::LinkDef;
use super::supervise::protocol::SpecLink;
use crate::backend::{LinkId, LinkShape};
use crate::model::Ms;

/// How many bytes a delayed direction of a connection may hold: at 100 ms still 40 MB a second.
const DELAYED_LIMIT: usize = 4 << 20;
/// How many bytes a direction without delay may hold when the reader is slow.
const DIRECT_LIMIT: usize = 256 << 10;
/// How many bytes are taken from a connection that is not led on yet.
const EARLY_LIMIT: usize = 64 << 10;
/// Counted for each piece held, so that many small ones are bounded too.
const PIECE_COST: usize = 64;
/// How long the target may take to accept.
const DIAL_LIMIT: Duration = Duration::from_secs(10);
/// The same before it was reached for the first time, when packets may go to an address that is nobody's yet.
const FIRST_DIAL_LIMIT: Duration = Duration::from_secs(1);
/// Between two attempts to reach it for the first time.
const FIRST_DIAL_EVERY: Duration = Duration::from_millis(50);

thread_local! {
    /// One for all connections of a thread: bytes stay in it only between a read and the write right after it.
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; 256 << 10].into_boxed_slice());
}

/// The state of a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// Nothing passes.
    pub cut: bool,
    /// Each way.
    pub latency: Ms,
    /// Around the latency, uniform.
    pub jitter: Ms,
}

impl Shape {
    fn delayed(self) -> bool {
        self.latency != Ms(0) || self.jitter != Ms(0)
    }

    /// When a byte that comes now is due.
    fn due(self) -> Instant {
        let now = Instant::now();
        if !self.delayed() {
            return now;
        }
        let micros = |ms: Ms| ms.0.saturating_mul(1000);
        let (latency, jitter) = (micros(self.latency), micros(self.jitter));
        let delay = rand::random_range(latency.saturating_sub(jitter)..=latency.saturating_add(jitter));
        now + Duration::from_micros(delay)
    }

    /// When a byte that comes now is due at the latest.
    fn latest_due(self) -> Instant {
        Instant::now() + (self.latency + self.jitter).duration()
    }
}

impl From<&LinkShape> for Shape {
    fn from(
        LinkShape {
            link: _,
            cut,
            latency,
            jitter,
            drops: _,
        }: &LinkShape,
    ) -> Self {
        Self {
            cut: *cut,
            latency: *latency,
            jitter: *jitter,
        }
    }
}

/// All links of a run. Dropping it closes every connection.
#[derive(Debug)]
pub struct Links {
    runtime: Handle,
    links: BTreeMap<LinkId, Link>,
}

#[derive(Debug)]
struct Link {
    shape: watch::Sender<Shape>,
    task: AbortHandle,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Links {
    /// No links yet; their proxies will run on this runtime.
    #[must_use]
    pub fn new(runtime: Handle) -> Self {
        Self {
            runtime,
            links: BTreeMap::new(),
        }
    }

    /// Opens the proxy of a link.
    ///
    /// # Errors
    /// When its address is taken.
    pub fn open(&mut self, def: LinkDef) -> io::Result<()> {
        let LinkDef {
            link,
            listen,
            target,
            source,
        } = def;
        let route = Route {
            target: Target::Address(target),
            source,
            reached: AtomicBool::new(true),
        };
        self.add(link, listen, route)
    }

    /// Opens the proxy of a link to a target by name, which is looked up at each dial. Until the target was reached once, connections
    /// are held and their dial is repeated, for as long as the client waits: the target may not be there yet, and a client that is
    /// refused would often wait for seconds until it tries again.
    ///
    /// # Errors
    /// When its address is taken.
    pub fn open_named(&mut self, link: SpecLink) -> io::Result<()> {
        let SpecLink {
            link,
            listen,
            host,
            port,
        } = link;
        let route = Route {
            target: Target::Name(host, port),
            source: None,
            reached: AtomicBool::new(false),
        };
        self.add(link, listen, route)
    }

    fn add(&mut self, link: LinkId, listen: SocketAddr, route: Route) -> io::Result<()> {
        let _on = self.runtime.enter();
        let socket = if listen.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        socket.set_reuseaddr(true)?;
        socket.bind(listen)?;
        let listener = socket.listen(128)?;
        let (shape, watched) = watch::channel(Shape::default());
        let task = self
            .runtime
            .spawn(serve(listener, Arc::new(route), watched))
            .abort_handle();
        self.links.insert(link, Link { shape, task });
        Ok(())
    }

    /// Whether there is such a link.
    #[must_use]
    pub fn has(&self, link: &LinkId) -> bool {
        self.links.contains_key(link)
    }

    /// Sets the state of all links: `shape` says it for each, given the one before.
    pub fn set(&self, mut shape: impl FnMut(&LinkId, Shape) -> Shape) {
        for (id, link) in &self.links {
            link.shape.send_if_modified(|now| {
                let next = shape(id, *now);
                let changed = next != *now;
                *now = next;
                changed
            });
        }
    }

    /// Ends all proxies and their connections.
    pub fn close(&mut self) {
        self.links.clear();
    }

    /// How many links are not clear.
    #[must_use]
    pub fn shaped(&self) -> usize {
        self.links
            .values()
            .filter(|link| *link.shape.borrow() != Shape::default())
            .count()
    }
}

/// Where a link leads.
#[derive(Debug)]
struct Route {
    target: Target,
    source: Option<IpAddr>,
    /// Whether there has been a connection to the target.
    reached: AtomicBool,
}

#[derive(Debug)]
enum Target {
    Address(SocketAddr),
    Name(String, u16),
}

async fn serve(listener: TcpListener, route: Arc<Route>, shape: watch::Receiver<Shape>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => {
                    connections.spawn(carry(client, route.clone(), shape.clone()));
                }
                // Out of file descriptors, or the client is gone already: neither is helped by asking again at once.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn carry(mut client: TcpStream, route: Arc<Route>, mut shape: watch::Receiver<Shape>) {
    // Without it, small messages wait for acknowledgements that a real link would not need either.
    drop(client.set_nodelay(true));
    let mut early = Vec::new();
    let mut next = None;
    let mut target = loop {
        if hold(&client, &mut shape, &mut early, next).await.is_none() {
            return;
        }
        if let Ok(target) = dial(&route).await {
            route.reached.store(true, Ordering::Relaxed);
            break target;
        }
        if route.reached.load(Ordering::Relaxed) {
            // As if the dialled port had refused.
            drop(client.set_zero_linger());
            return;
        }
        next = Some(Instant::now() + FIRST_DIAL_EVERY);
    };
    let broken = {
        let (from_client, to_client) = client.split();
        let (from_target, to_target) = target.split();
        let there = flow(from_client, to_target, shape.clone(), early);
        let back = flow(from_target, to_client, shape, Vec::new());
        tokio::try_join!(there, back).is_err()
    };
    if broken {
        drop(client.set_zero_linger());
        drop(target.set_zero_linger());
    }
}

/// Waits until the link lets a new connection through, not before `next`, and takes what the client says meanwhile; `None`: the client
/// is gone.
///
/// Reading is how a client that gives up is noticed; so a dialler that tries again and again does not pile connections up.
async fn hold(
    client: &TcpStream,
    shape: &mut watch::Receiver<Shape>,
    early: &mut Vec<u8>,
    next: Option<Instant>,
) -> Option<()> {
    let mut state = *shape.borrow_and_update();
    let mut due = next.unwrap_or_else(|| state.due());
    loop {
        if !state.cut && due <= Instant::now() {
            return Some(());
        }
        tokio::select! {
            changed = shape.changed() => {
                changed.ok()?;
                let was_cut = state.cut;
                state = *shape.borrow_and_update();
                due = if was_cut { state.due() } else { due.min(state.latest_due()) };
            }
            () = tokio::time::sleep_until(due), if !state.cut => {}
            readable = client.readable(), if early.len() < EARLY_LIMIT => {
                readable.ok()?;
                match client.try_read_buf(early) {
                    Ok(0) => return None,
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => return None,
                }
            }
        }
    }
}

async fn dial(route: &Route) -> io::Result<TcpStream> {
    let limit = if route.reached.load(Ordering::Relaxed) {
        DIAL_LIMIT
    } else {
        FIRST_DIAL_LIMIT
    };
    tokio::time::timeout(limit, async {
        match &route.target {
            Target::Address(address) => connect(*address, route.source).await,
            Target::Name(host, port) => {
                let mut failed = io::ErrorKind::NotFound.into();
                for address in tokio::net::lookup_host((host.as_str(), *port)).await? {
                    match connect(address, route.source).await {
                        Ok(stream) => return Ok(stream),
                        Err(error) => failed = error,
                    }
                }
                Err(failed)
            }
        }
    })
    .await?
}

/// A connection from `source`, or from wherever the system likes.
pub(super) async fn connect(target: SocketAddr, source: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = if target.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    if let Some(source) = source {
        socket.bind(SocketAddr::new(source, 0))?;
    }
    let stream = socket.connect(target).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Carries one direction of a connection to its end.
async fn flow(
    from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut shape: watch::Receiver<Shape>,
    early: Vec<u8>,
) -> io::Result<()> {
    let mut state = *shape.borrow_and_update();
    let mut held = Held::default();
    if !early.is_empty() {
        held.push(state.due(), &early);
        drop(early);
    }
    let mut ended = false;
    loop {
        if ended && held.pieces.is_empty() {
            return to.shutdown().await;
        }
        let due = held.pieces.front().map(|piece| piece.due);
        let ripe = due.is_some_and(|due| due <= Instant::now());
        let limit = if state.delayed() { DELAYED_LIMIT } else { DIRECT_LIMIT };
        tokio::select! {
            biased;
            changed = shape.changed() => {
                changed.map_err(io::Error::other)?;
                state = *shape.borrow_and_update();
                held.hasten(state.latest_due());
            }
            writable = to.writable(), if ripe && !state.cut => {
                writable?;
                held.write(&to)?;
            }
            () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() && !ripe && !state.cut => {}
            readable = from.readable(), if !ended && !state.cut && held.bytes < limit => {
                readable?;
                ended = pass(&from, &to, &mut held, state)?;
            }
        }
    }
}

/// Reads once, and writes at once what may go at once. Returns whether this was the end.
fn pass(from: &ReadHalf<'_>, to: &WriteHalf<'_>, held: &mut Held, state: Shape) -> io::Result<bool> {
    BUFFER.with_borrow_mut(|buffer| {
        let count = match from.try_read(buffer) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        };
        let mut rest = &buffer[..count];
        if held.pieces.is_empty() && !state.delayed() && count > 0 {
            rest = &rest[try_write(to, rest)?..];
            if rest.is_empty() {
                return Ok(false);
            }
        }
        // The end is held like bytes are, as a piece with none.
        held.push(state.due(), rest);
        Ok(count == 0)
    })
}

fn try_write(to: &WriteHalf<'_>, bytes: &[u8]) -> io::Result<usize> {
    match to.try_write(bytes) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        result => result,
    }
}

/// What a direction holds, in order.
#[derive(Debug, Default)]
struct Held {
    pieces: VecDeque<Piece>,
    /// With [`PIECE_COST`] for each piece.
    bytes: usize,
}

#[derive(Debug)]
struct Piece {
    due: Instant,
    data: Vec<u8>,
    written: usize,
}

impl Held {
    fn push(&mut self, due: Instant, data: &[u8]) {
        self.bytes += data.len();
        match self.pieces.back_mut() {
            // Jitter never changes the order: what would overtake goes together with what is before it.
            Some(last) if last.due >= due && !data.is_empty() => last.data.extend_from_slice(data),
            last => {
                let due = last.map_or(due, |last| last.due.max(due));
                self.bytes += PIECE_COST;
                self.pieces.push_back(Piece {
                    due,
                    data: data.to_vec(),
                    written: 0,
                });
            }
        }
    }

    /// Nothing is due later than this: the delay of a link that became shorter or went away holds for no byte any more.
    fn hasten(&mut self, latest: Instant) {
        for piece in &mut self.pieces {
            piece.due = piece.due.min(latest);
        }
    }

    /// Writes what is due, as far as it goes.
    fn write(&mut self, to: &WriteHalf<'_>) -> io::Result<()> {
        let now = Instant::now();
        while let Some(piece) = self.pieces.front_mut().filter(|piece| piece.due <= now) {
            let rest = &piece.data[piece.written..];
            let count = if rest.is_empty() { 0 } else { try_write(to, rest)? };
            piece.written += count;
            self.bytes -= count;
            if piece.written < piece.data.len() {
                break;
            }
            self.pieces.pop_front();
            self.bytes -= PIECE_COST;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    const LIMIT: Duration = Duration::from_secs(20);

    fn id() -> LinkId {
        LinkId {
            from: "a".to_owned(),
            to: "b".to_owned(),
            port: "p2p".to_owned(),
        }
    }

    /// A link to a listener of the test, and the two addresses.
    async fn link() -> (Links, TcpListener, SocketAddr) {
        let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let listen = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let mut links = Links::new(Handle::current());
        links
            .open(LinkDef {
                link: id(),
                listen,
                target: target.local_addr().unwrap(),
                source: None,
            })
            .unwrap();
        (links, target, listen)
    }

    async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
        tokio::time::timeout(LIMIT, future)
            .await
            .unwrap_or_else(|_| panic!("{what}: not within {LIMIT:?}"))
    }

    #[tokio::test]
    async fn bytes_and_the_end_pass_both_ways() {
        let (_links, target, listen) = link().await;
        let mut client = TcpStream::connect(listen).await.unwrap();
        let (mut server, _) = soon("accept", target.accept()).await.unwrap();
        let sent: Vec<u8> = (0..3_000_000u32).map(|n| n as u8).collect();
        let expected = sent.clone();
        let writer = tokio::spawn(async move {
            client.write_all(&sent).await.unwrap();
            client.shutdown().await.unwrap();
            let mut back = Vec::new();
            client.read_to_end(&mut back).await.unwrap();
            back
        });
        let mut got = Vec::new();
        soon("all bytes", server.read_to_end(&mut got)).await.unwrap();
        assert!(got == expected, "the bytes changed on their way");
        server.write_all(b"thanks").await.unwrap();
        drop(server);
        assert_eq!(soon("the answer", writer).await.unwrap(), b"thanks");
    }

    #[tokio::test]
    async fn a_cut_holds_open_and_new_connections_and_lets_them_go_on() {
        let (links, target, listen) = link().await;
        let mut open = TcpStream::connect(listen).await.unwrap();
        let (mut server, _) = soon("accept", target.accept()).await.unwrap();
        open.write_all(b"1").await.unwrap();
        assert_eq!(soon("a byte", server.read_u8()).await.unwrap(), b'1');

        links.set(|_, _| Shape {
            cut: true,
            ..Shape::default()
        });
        assert_eq!(links.shaped(), 1);
        open.write_all(b"2").await.unwrap();
        server.write_all(b"3").await.unwrap();
        let mut new = TcpStream::connect(listen).await.unwrap();
        new.write_all(b"4").await.unwrap();
        let mut byte = [0; 1];
        tokio::select! {
            _ = server.read_u8() => panic!("the cut let a byte through"),
            _ = open.read_u8() => panic!("the cut let a byte back"),
            _ = target.accept() => panic!("the cut let a connection through"),
            _ = new.read(&mut byte) => panic!("the new connection was ended"),
            () = tokio::time::sleep(Duration::from_millis(100)) => {}
        }

        links.set(|_, _| Shape::default());
        assert_eq!(soon("held byte", server.read_u8()).await.unwrap(), b'2');
        assert_eq!(soon("held byte back", open.read_u8()).await.unwrap(), b'3');
        let (mut second, _) = soon("held connection", target.accept()).await.unwrap();
        assert_eq!(soon("early byte", second.read_u8()).await.unwrap(), b'4');
    }

    #[tokio::test]
    async fn a_delay_is_at_least_what_was_asked_and_keeps_the_order() {
        let (links, target, listen) = link().await;
        let mut client = TcpStream::connect(listen).await.unwrap();
        let (mut server, _) = soon("accept", target.accept()).await.unwrap();
        links.set(|_, _| Shape {
            cut: false,
            latency: Ms(60),
            jitter: Ms(20),
        });
        let began = Instant::now();
        for n in 0..50 {
            client.write_u8(n).await.unwrap();
            tokio::task::yield_now().await;
        }
        for n in 0..50 {
            assert_eq!(soon("a delayed byte", server.read_u8()).await.unwrap(), n);
            assert!(
                began.elapsed() >= Duration::from_millis(40),
                "came after {:?}",
                began.elapsed()
            );
        }
        server.write_u8(9).await.unwrap();
        let began = Instant::now();
        assert_eq!(soon("the way back", client.read_u8()).await.unwrap(), 9);
        assert!(began.elapsed() >= Duration::from_millis(39));
        // A new connection takes a round trip.
        let began = Instant::now();
        let mut new = TcpStream::connect(listen).await.unwrap();
        let (mut second, _) = soon("accept", target.accept()).await.unwrap();
        second.write_u8(1).await.unwrap();
        soon("first byte", new.read_u8()).await.unwrap();
        assert!(began.elapsed() >= Duration::from_millis(80));
    }

    #[tokio::test]
    async fn what_is_delayed_goes_at_once_when_the_delay_is_over() {
        let (links, target, listen) = link().await;
        let mut client = TcpStream::connect(listen).await.unwrap();
        let (mut server, _) = soon("accept", target.accept()).await.unwrap();
        links.set(|_, _| Shape {
            latency: Ms::secs(3600),
            ..Shape::default()
        });
        client.write_u8(7).await.unwrap();
        tokio::select! {
            _ = server.read_u8() => panic!("it was not delayed"),
            () = tokio::time::sleep(Duration::from_millis(50)) => {}
        }
        links.set(|_, _| Shape::default());
        assert_eq!(soon("the released byte", server.read_u8()).await.unwrap(), 7);
    }

    #[tokio::test]
    async fn a_node_that_is_down_ends_the_connection() {
        let (_links, target, listen) = link().await;
        drop(target);
        let mut client = TcpStream::connect(listen).await.unwrap();
        let error = soon("the refusal", client.read_u8()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }

    /// A link to a name behind which nobody listens yet, with the addresses of its target and of itself.
    async fn named(host: &str) -> (Links, SocketAddr, SocketAddr) {
        let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let listen = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let mut links = Links::new(Handle::current());
        let link = SpecLink {
            link: id(),
            listen,
            host: host.to_owned(),
            port: address.port(),
        };
        links.open_named(link).unwrap();
        (links, address, listen)
    }

    #[tokio::test]
    async fn a_target_that_is_not_there_yet_is_waited_for_once() {
        let (_links, address, listen) = named("localhost").await;
        let mut client = TcpStream::connect(listen).await.unwrap();
        client.write_all(b"early").await.unwrap();
        tokio::select! {
            result = client.read_u8() => panic!("it was not held: {result:?}"),
            () = tokio::time::sleep(Duration::from_millis(200)) => {}
        }
        let target = TcpListener::bind(address).await.unwrap();
        let (mut server, _) = soon("the held connection", target.accept()).await.unwrap();
        let mut early = [0; 5];
        soon("what was said early", server.read_exact(&mut early))
            .await
            .unwrap();
        assert_eq!(&early, b"early");
        server.write_u8(1).await.unwrap();
        assert_eq!(soon("the answer", client.read_u8()).await.unwrap(), 1);
        // From now on a target that is down refuses.
        drop((server, target));
        let mut client = TcpStream::connect(listen).await.unwrap();
        let error = soon("the refusal", client.read_u8()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn a_held_connection_whose_client_gives_up_is_forgotten_and_a_cut_holds_it_too() {
        let (links, address, listen) = named("127.0.0.1").await;
        drop(TcpStream::connect(listen).await.unwrap());
        let _waits = TcpStream::connect(listen).await.unwrap();
        links.set(|_, _| Shape {
            cut: true,
            ..Shape::default()
        });
        // Longer than the dials that may be under way.
        tokio::time::sleep(Duration::from_millis(200)).await;
        let target = TcpListener::bind(address).await.unwrap();
        tokio::select! {
            _ = target.accept() => panic!("the cut let a connection through"),
            () = tokio::time::sleep(Duration::from_millis(200)) => {}
        }
        links.set(|_, _| Shape::default());
        soon("the one that waits", target.accept()).await.unwrap();
        tokio::select! {
            _ = target.accept() => panic!("the one that gave up was led on"),
            () = tokio::time::sleep(Duration::from_millis(200)) => {}
        }
    }

    #[tokio::test]
    async fn much_data_under_delay_is_bounded_and_arrives() {
        let (links, target, listen) = link().await;
        let mut client = TcpStream::connect(listen).await.unwrap();
        let (mut server, _) = soon("accept", target.accept()).await.unwrap();
        links.set(|_, _| Shape {
            latency: Ms(20),
            ..Shape::default()
        });
        let writer = tokio::spawn(async move {
            client.write_all(&vec![1; 20 << 20]).await.unwrap();
        });
        let mut got = Vec::new();
        soon("all of it", server.read_to_end(&mut got)).await.unwrap();
        assert_eq!(got.len(), 20 << 20);
        writer.await.unwrap();
    }

    #[test]
    fn held_bytes_are_counted() {
        let now = Instant::now();
        let mut held = Held::default();
        held.push(now + Duration::from_secs(2), b"abc");
        held.push(now + Duration::from_secs(1), b"d");
        held.push(now + Duration::from_secs(3), b"e");
        held.push(now, b"");
        let dues: Vec<_> = held.pieces.iter().map(|piece| (piece.due - now).as_secs()).collect();
        assert_eq!(dues, [2, 3, 3]);
        assert_eq!(held.pieces[0].data, b"abcd");
        assert_eq!(held.bytes, 5 + 3 * PIECE_COST);
        held.hasten(now + Duration::from_secs(1));
        assert!(
            held.pieces
                .iter()
                .all(|piece| piece.due == now + Duration::from_secs(1))
        );
    }
}
