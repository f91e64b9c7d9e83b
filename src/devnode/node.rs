//! The node itself: one task that owns everything, takes one event at a time, and drives the
//! consensus core.
//!
//! - **Links and gossip.** What is for all nodes is passed on by each node that had not seen it,
//!   so any connected topology works. A new link is first sent what belongs to the height in work.
//! - **Consensus** is fed only on nodes that are validators of the height; the others follow by
//!   committed blocks. Inputs are queued and never fed from inside an effect.
//! - **Sync.** Every node tells its height each second and on each new block. Who is behind asks
//!   one that is ahead for blocks, and checks their certificates.

mod checked;
mod effects;
mod gossip;
mod heights;
mod sync;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_malachitebft_core_consensus as consensus;
use arc_malachitebft_core_types::{LinearTimeouts, Round, ThresholdParams, Timeout};
use consensus::{Input, LocallyProposedValue, Params, State, ValuePayload};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use self::checked::Checked;
use self::gossip::Seen;
use super::app::Mempool;
use super::codec::{Base64, Flood, Gossip, StoredBlock};
use super::ledger::{Ledger, Wal};
use super::misbehave::{Misbehaviour, Misbehaviours, Spec};
use super::net::{self, Connected, Identity, Link};
use super::types::{Address, Block, Ctx, Hash, Height, Validator, address_of};
use super::{Config, Error, Home, rpc};

/// How often the height is told.
const BEACON: Duration = Duration::from_secs(1);
/// Messages are kept for so many heights ahead, and at most so many a height.
const RECENT: (u64, usize) = (8, 1_024);
/// The first height waits so long for two thirds of the peers to be linked.
const GATHER: Duration = Duration::from_millis(500);

/// What happens to a node.
#[derive(Debug)]
pub enum Event {
    /// A handshake succeeded.
    Connected(Connected),
    /// A frame came.
    Frame {
        /// From whom.
        from: Address,
        /// Over which link.
        link: u64,
        /// What it carries.
        payload: Vec<u8>,
    },
    /// A link ended.
    Closed {
        /// With whom.
        from: Address,
        /// Which one.
        link: u64,
        /// Why.
        problem: String,
    },
    /// A request came.
    Rpc(rpc::Request),
}

/// SIGTERM and SIGINT, heard from the very start.
pub(super) struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for either. Cancelling loses nothing.
    pub(super) async fn wait(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Opens the ports, starts the node, and runs it until it is told to stop.
pub(super) async fn run(home: Home, mut stop: Stop) -> Result<(), Error> {
    let (events, mut incoming) = mpsc::channel(4_096);
    let p2p = listen("p2p", &home.config.p2p_listen).await?;
    let mut node = Node::open(home, events.clone())?;
    let mut tasks = JoinSet::new();
    let identity = Arc::clone(&node.host.identity);
    tasks.spawn(net::keep_listening(identity, p2p, events.clone()));
    for peer in &node.host.config.peers {
        let (gate, linked) = watch::channel(false);
        node.host.gates.insert(peer.public_key.address(), gate);
        let identity = Arc::clone(&node.host.identity);
        tasks.spawn(net::keep_dialing(identity, peer.clone(), events.clone(), linked));
    }
    let delay = node.host.misbehaviours.rpc_delay();
    let address = node.host.config.rpc_listen.clone();
    if delay.is_none() {
        let listener = listen("rpc", &address).await?;
        tasks.spawn(rpc::serve(listener, events));
    } else {
        let opens = Instant::now() + delay.unwrap_or_default();
        tasks.spawn(async move {
            sleep_until(opens).await;
            match listen("rpc", &address).await {
                Ok(listener) => rpc::serve(listener, events).await,
                Err(error) => tracing::error!(%error, "no RPC"),
            }
        });
    }
    loop {
        let deadline = node.deadline();
        tokio::select! {
            biased;
            () = stop.wait() => return Ok(()),
            () = sleep_until(deadline) => node.on_time(),
            Some(event) = incoming.recv() => node.on_event(event),
        }
        node.drive()?;
    }
}

async fn listen(what: &'static str, address: &str) -> Result<TcpListener, Error> {
    let listener = TcpListener::bind(address).await;
    let listener = listener.map_err(|source| Error::Listen {
        what,
        address: address.to_owned(),
        source,
    })?;
    tracing::info!(what, address = %listener.local_addr()?, "listening");
    Ok(listener)
}

/// A node.
pub struct Node {
    core: State<Ctx>,
    host: Host,
}

/// All of a node but the consensus core, which asks it for effects.
struct Host {
    config: Config,
    identity: Arc<Identity>,
    events: mpsc::Sender<Event>,
    ledger: Ledger,
    wal: Wal,
    mempool: Mempool,
    misbehaviours: Misbehaviours,
    /// In milliseconds since 1970.
    genesis_time: u64,
    timeouts: LinearTimeouts,
    /// Set when the node cannot go on.
    fatal: Option<Error>,

    // The height in work.
    working: Height,
    /// This node is a validator of it.
    active: bool,
    queue: VecDeque<Input<Ctx>>,
    timers: Vec<(Instant, Height, Timeout)>,
    /// The core waits for a block to propose.
    wants_block: Option<(Height, Round)>,
    /// The core is done with the height.
    finished: bool,
    /// The blocks that may be decided on.
    blocks: HashMap<Hash, Block>,
    /// The block whose certificate the core is checking.
    syncing: Option<Block>,
    checked: Checked,

    /// The validators of the genesis, in its order.
    genesis_order: Vec<Address>,
    /// When the link to each was lost last; only while this node may deadlock by it.
    lost: HashMap<Address, Instant>,
    /// Consensus has stopped for good.
    deadlocked: bool,

    // Links.
    peers: BTreeMap<Address, Peer>,
    gates: HashMap<Address, watch::Sender<bool>>,
    links_made: u64,
    seen: Seen,
    /// Messages of heights that are not committed yet.
    recent: BTreeMap<Height, Vec<Gossip>>,
    repeats: u32,
    next_beacon: Instant,
    /// When consensus begins even if few peers are linked; none once it has begun.
    begin: Option<Instant>,
    sync: Sync,
}

struct Peer {
    link: Link,
    tip: Height,
}

/// The state of catching up.
#[derive(Default)]
struct Sync {
    asked: Option<(Address, Instant)>,
    blocks: VecDeque<(Address, StoredBlock)>,
    behind_since: Option<Instant>,
    /// Peers that had nothing or sent rubbish, until when they are not asked.
    shunned: HashMap<Address, Instant>,
    /// When to look again.
    check: Option<Instant>,
    /// Blocks were taken since the node last was at the tip.
    caught_up: bool,
}

/// Milliseconds since 1970.
fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The time-outs that a configuration means; each grows by half of itself with every round.
fn timeouts(config: &Config) -> LinearTimeouts {
    let block = config.block_time;
    let ms = Duration::from_millis;
    let propose = config
        .timeout_propose
        .unwrap_or_else(|| (block * 2 + ms(200)).max(ms(400)));
    let prevote = config.timeout_prevote.unwrap_or_else(|| block.max(ms(200)));
    let precommit = config.timeout_precommit.unwrap_or_else(|| block.max(ms(200)));
    LinearTimeouts {
        propose,
        propose_delta: propose / 2,
        prevote,
        prevote_delta: prevote / 2,
        precommit,
        precommit_delta: precommit / 2,
        rebroadcast: propose + prevote + precommit,
        max_timeout: (propose * 10).max(Duration::from_secs(10)),
    }
}

// What the RPC asks.
impl Node {
    /// The committed blocks and the state.
    pub fn ledger(&self) -> &Ledger {
        &self.host.ledger
    }

    /// The transactions that wait.
    pub fn mempool(&self) -> &Mempool {
        &self.host.mempool
    }

    /// Who this node is.
    pub fn identity(&self) -> &Identity {
        &self.host.identity
    }

    /// The links there are.
    pub fn links(&self) -> impl Iterator<Item = &Link> {
        self.host.peers.values().map(|peer| &peer.link)
    }

    /// What is set to go wrong.
    pub fn misbehaviours(&self) -> &Misbehaviours {
        &self.host.misbehaviours
    }

    /// Whether one has begun.
    pub fn misbehaves(&self, kind: Misbehaviour) -> bool {
        self.host.misbehaves(kind)
    }

    /// Whether a peer is more than one block ahead; a node that lags on purpose denies it.
    pub fn catching_up(&self) -> bool {
        let best = self.host.best_tip();
        best.0 > self.host.ledger.height().0 + 1 && !self.misbehaves(Misbehaviour::Lag)
    }

    /// Height, round and step in work; the round is 0 while none has begun.
    pub fn position(&self) -> (Height, u32, u8) {
        let driver = &self.core.driver;
        // The numbers of CometBFT's RoundStepType.
        let step = if driver.step_is_propose() {
            3
        } else if driver.step_is_prevote() {
            4
        } else if driver.step_is_precommit() {
            6
        } else if driver.step_is_commit() {
            8
        } else {
            1
        };
        (self.core.height(), self.core.round().as_u32().unwrap_or(0), step)
    }

    /// Whose turn it is to propose.
    pub fn proposer(&self) -> &Validator {
        let (height, round, _) = self.position();
        let set = self.host.ledger.app().validators(height);
        set.proposer(height, Round::new(round))
    }

    /// Takes a transaction that was checked; false when there is no room.
    pub fn submit(&mut self, tx: Vec<u8>) -> bool {
        if !self.host.mempool.add(tx.clone()) {
            return false;
        }
        self.host.flood(&Flood::Tx(Base64(tx)));
        true
    }

    /// Misbehave from now on, or from the height it says.
    pub fn misbehave(&mut self, spec: Spec) {
        tracing::warn!(%spec, "told to misbehave");
        let committed = self.host.ledger.height().0;
        self.host.misbehaviours.set(spec, committed);
    }

    /// Behave from now on.
    pub fn behave(&mut self) {
        tracing::warn!("told to behave");
        let held = self.host.held();
        self.host.misbehaviours.clear();
        self.host.deadlocked = false;
        if held {
            self.host.feed_recent(self.host.working);
            self.host.feed_sync();
            self.host.sync_if_behind();
        }
    }
}

impl Node {
    /// Reads the disk and is then where the node was when it ended.
    fn open(home: Home, events: mpsc::Sender<Event>) -> Result<Self, Error> {
        let Home {
            data,
            config,
            key,
            genesis,
            genesis_hash,
            validators,
        } = home;
        let ledger = Ledger::open(&data, genesis_hash, validators)?;
        let height = Height(ledger.height().0 + 1);
        let (wal, replay) = Wal::open(&data, height)?;
        let address = address_of(&key.public_key());
        let genesis_order = genesis
            .validators
            .iter()
            .map(|validator| validator.public_key.address())
            .collect();
        let identity = Identity {
            address,
            key,
            name: config.name.clone(),
            version: config.version.clone(),
            chain_id: genesis.chain_id,
            genesis: genesis_hash,
        };
        let mut misbehaviours = Misbehaviours::default();
        for spec in &config.misbehave {
            misbehaviours.set(*spec, ledger.height().0);
        }
        let set = ledger.app().validators(height).clone();
        let params = Params {
            address,
            threshold_params: ThresholdParams::default(),
            value_payload: ValuePayload::ProposalAndParts,
            enabled: true,
        };
        tracing::info!(
            name = %config.name,
            id = %address,
            validator = set.get(&address).is_some(),
            height = %ledger.height(),
            replay = replay.len(),
            "starting"
        );
        let now = Instant::now();
        // Alone, or taking up a height: there is nobody to wait for, or something to say.
        let gather = if config.peers.is_empty() && set.as_slice().len() == 1 {
            Duration::ZERO
        } else {
            GATHER
        };
        let host = Host {
            genesis_time: millis(genesis.genesis_time),
            timeouts: timeouts(&config),
            checked: Checked {
                chain_id: identity.chain_id.clone(),
                good: HashSet::new(),
            },
            config,
            identity: Arc::new(identity),
            events,
            ledger,
            wal,
            mempool: Mempool::default(),
            misbehaviours,
            genesis_order,
            lost: HashMap::new(),
            deadlocked: false,
            fatal: None,
            working: Height(0),
            active: false,
            queue: VecDeque::new(),
            timers: Vec::new(),
            wants_block: None,
            finished: false,
            blocks: HashMap::new(),
            syncing: None,
            peers: BTreeMap::new(),
            gates: HashMap::new(),
            links_made: 0,
            seen: Seen::default(),
            recent: BTreeMap::new(),
            repeats: 0,
            next_beacon: now,
            begin: Some(now + gather),
            sync: Sync::default(),
        };
        let mut node = Self {
            core: State::new(Ctx, height, set, params, 4, 64),
            host,
        };
        node.replay(height, replay)?;
        Ok(node)
    }

    /// Takes up a height that was in work, with what the log holds of it.
    fn replay(&mut self, height: Height, replay: Vec<Input<Ctx>>) -> Result<(), Error> {
        if replay.is_empty() {
            self.host.wal.replayed();
            return Ok(());
        }
        // Someone may wait for what is in the log.
        self.host.begin = None;
        self.host.begin_height(height);
        self.process_next()?;
        self.core.index_wal_entries(&replay);
        for input in replay {
            // The log holds only what was checked.
            if let Input::ProposedValue(value, _) = &input {
                self.host.blocks.insert(value.value.hash(), value.value.clone());
            }
            self.host.queue.push_back(input);
            self.process_next()?;
        }
        self.core.reset_entries_index();
        self.host.wal.replayed();
        Ok(())
    }

    /// Until when nothing happens by itself.
    fn deadline(&self) -> Instant {
        let host = &self.host;
        let held = host.held();
        let timers = host.timers.iter().filter(|_| !held).map(|(at, ..)| *at);
        timers
            .chain(host.begin)
            .chain(host.sync.check.filter(|_| !held))
            .fold(host.next_beacon, Instant::min)
    }

    /// Does what is due.
    fn on_time(&mut self) {
        let now = Instant::now();
        let host = &mut self.host;
        if now >= host.next_beacon {
            host.next_beacon = now + BEACON;
            host.tell_tip();
            host.sync_if_behind();
        }
        if host.begin.is_some_and(|at| now >= at) {
            host.begin_first();
        }
        if host.held() {
            return;
        }
        if host.sync.check.is_some_and(|at| now >= at) {
            host.sync.check = None;
            host.sync_if_behind();
        }
        let height = self.core.height();
        let due = host.timers.extract_if(.., |(at, ..)| *at <= now);
        let due: Vec<_> = due.filter(|(_, of, _)| *of == height).collect();
        for (_, _, timeout) in due {
            host.queue.push_back(Input::TimeoutElapsed(timeout));
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Connected(connected) => self.host.on_connected(connected),
            Event::Closed { from, link, problem } => {
                if self.host.peers.get(&from).is_some_and(|p| p.link.number == link) {
                    self.host.drop_link(&from, &problem);
                    self.host.lost(from);
                }
            }
            Event::Frame { from, link, payload } => {
                if self.host.peers.get(&from).is_some_and(|p| p.link.number == link) {
                    self.host.on_frame(from, &payload);
                }
            }
            Event::Rpc(request) => {
                let rpc::Request {
                    method,
                    arguments,
                    reply,
                } = request;
                let answer = rpc::answer(self, &method, &arguments);
                // Who asked may be gone.
                let _gone = reply.send(answer);
            }
        }
    }

    /// Feeds the core until there is nothing more to feed.
    fn drive(&mut self) -> Result<(), Error> {
        loop {
            if let Some(error) = self.host.fatal.take() {
                return Err(error);
            }
            if self.host.held() {
                return Ok(());
            }
            if let Some((height, round)) = self.host.wants_block.take()
                && height == self.core.height()
                && round == self.core.round()
                && self.core.driver.step_is_propose()
            {
                let value = self.host.make_block(height);
                self.host.blocks.insert(value.hash(), value.clone());
                let value = LocallyProposedValue::new(height, round, value);
                self.host.queue.push_front(Input::Propose(value));
            }
            if std::mem::take(&mut self.host.finished) {
                let next = Height(self.host.ledger.height().0 + 1);
                self.host.begin_height(next);
            }
            if self.host.queue.is_empty() {
                return Ok(());
            }
            self.process_next()?;
        }
    }

    fn process_next(&mut self) -> Result<(), Error> {
        let Some(input) = self.host.queue.pop_front() else {
            return Ok(());
        };
        let Self { core, host } = self;
        let result: Result<(), consensus::Error<Ctx>> = consensus::process!(
            input: input,
            state: core,
            metrics: &(),
            with: effect => Ok::<_, io::Error>(host.effect(effect))
        );
        match result {
            Ok(()) => Ok(()),
            Err(
                error @ (consensus::Error::ReplayDivergence(..)
                | consensus::Error::WalCorrupted(_)
                | consensus::Error::DecisionNotFound(..)),
            ) => Err(Error::Consensus {
                height: core.height().0,
                problem: error.to_string(),
            }),
            Err(error) => {
                tracing::warn!(%error, "consensus refused an input");
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_proposer_costs_less_than_a_second() {
        let config = Config::new("a", "c", "127.0.0.1:1", "127.0.0.1:2");
        let timeouts = timeouts(&config);
        let cost = timeouts.propose + timeouts.precommit;
        assert!(
            cost >= Duration::from_millis(500) && cost <= Duration::from_secs(1),
            "{cost:?}"
        );
    }
}
