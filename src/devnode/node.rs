//! The node itself: one task that owns everything, takes one event at a time, and drives the
//! consensus core.
//!
//! - **Links and gossip.** What is for all nodes is passed on by each node that had not seen it,
//!   so any connected topology works. A new link is first sent what belongs to the height in work.
//! - **Consensus** is fed only on nodes that are validators of the height; the others follow by
//!   committed blocks. Inputs are queued and never fed from inside an effect.
//! - **Sync.** Every node tells its height each second and on each new block. Who is behind asks
//!   one that is ahead for blocks, and checks their certificates.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_malachitebft_core_consensus as consensus;
use arc_malachitebft_core_types as core;
use arc_malachitebft_signing_ed25519::{PublicKey, Signature};
use consensus::{
    ConsensusMsg, Effect, Input, LivenessMsg, LocallyProposedValue, Params, PeerId, ProposedValue, Resumable as _,
    Resume, SignedConsensusMsg, State, ValuePayload,
};
use core::{
    CertificateError, CommitCertificate, CommitSignature, LinearTimeouts, NilOrVal, Round, RoundCertificateType,
    SignedMessage, SignedProposal, ThresholdParam, ThresholdParams, Timeout, TimeoutKind, Validity, ValueOrigin,
    ValueResponse, VoteExtensionPolicy, VoteType,
};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::app::{MAX_BLOCK_BYTES, MAX_BLOCK_TXS, Mempool};
use super::codec::{Base64, Flood, Gossip, Message, ProposalRecord, StoredBlock, VoteKind, VoteRecord};
use super::ledger::{Ledger, Wal};
use super::misbehave::{Misbehaviour, Misbehaviours, Spec};
use super::net::{self, Connected, Frame, Identity, Link};
use super::types::{
    Address, Block, Ctx, Hash, Header, Height, Validator, ValidatorSet, Vote, enough_signers, hash_parts,
    proposal_sign_bytes, sha256, vote_sign_bytes,
};
use super::{Config, Error, Home, rpc};

/// How often the height is told.
const BEACON: Duration = Duration::from_secs(1);
/// A validator that is one block behind waits so long for its own consensus before it syncs.
const PATIENCE: Duration = Duration::from_millis(150);
/// How long a peer may take to send blocks before another is asked.
const SYNC_LIMIT: Duration = Duration::from_secs(1);
/// Blocks asked for at a time, and the most bytes sent at a time.
const SYNC_BATCH: (u64, u64) = (100, 1024 * 1024);
/// Messages are kept for so many heights ahead, and at most so many a height.
const RECENT: (u64, usize) = (8, 1_024);
/// The most links.
const MAX_LINKS: usize = 256;
/// Two links to one peer that begin within this time come from both having dialled.
const SIMULTANEOUS: Duration = Duration::from_secs(2);
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

/// Frames that were passed on; two generations, so that it stays small.
#[derive(Default)]
struct Seen {
    hasher: RandomState,
    now: HashSet<u64>,
    before: HashSet<u64>,
}

impl Seen {
    /// Notes a frame; false if it was noted already.
    fn note(&mut self, payload: &[u8]) -> bool {
        let hash = self.hasher.hash_one(payload);
        if self.before.contains(&hash) || !self.now.insert(hash) {
            return false;
        }
        if self.now.len() >= 8_192 {
            self.before = std::mem::take(&mut self.now);
        }
        true
    }
}

/// Signatures of this height that were found good, so that certificates cost nothing more.
#[derive(Default)]
struct Checked {
    chain_id: String,
    good: HashSet<Hash>,
}

impl Checked {
    fn is_good(&mut self, bytes: &Hash, signature: &Signature, key: &PublicKey) -> bool {
        let id = hash_parts("", &[&bytes.0, &signature.to_bytes(), key.as_bytes()]);
        if self.good.contains(&id) {
            return true;
        }
        let good = key.verify(&bytes.0, signature).is_ok();
        if good && self.good.len() < 10_000 {
            self.good.insert(id);
        }
        good
    }

    fn message(&mut self, message: &SignedMessage<Ctx, ConsensusMsg<Ctx>>, key: &PublicKey) -> bool {
        let bytes = match &message.message {
            ConsensusMsg::Vote(vote) => vote_sign_bytes(&self.chain_id, vote),
            ConsensusMsg::Proposal(proposal) => proposal_sign_bytes(&self.chain_id, proposal),
        };
        self.is_good(&bytes, &message.signature, key)
    }

    /// Whether the votes are all good, of different validators, and of enough power.
    fn certificate(
        &mut self,
        set: &ValidatorSet,
        threshold: ThresholdParam,
        votes: impl Iterator<Item = (Vote, Signature)>,
    ) -> Result<(), CertificateError<Ctx>> {
        let mut voters = HashSet::new();
        let mut signed = 0;
        for (vote, signature) in votes {
            let voter = vote.voter;
            let validator = set.get(&voter).ok_or(CertificateError::UnknownValidator(voter))?;
            if !voters.insert(voter) {
                return Err(CertificateError::DuplicateVote(voter));
            }
            let bytes = vote_sign_bytes(&self.chain_id, &vote);
            if !self.is_good(&bytes, &signature, &validator.key) {
                let bad = CommitSignature::new(voter, signature);
                return Err(CertificateError::InvalidCommitSignature(bad));
            }
            signed += validator.power;
        }
        let total = core::ValidatorSet::<Ctx>::total_voting_power(set);
        if threshold.is_met(signed, total) {
            Ok(())
        } else {
            Err(CertificateError::NotEnoughVotingPower {
                signed,
                total,
                expected: threshold.min_expected(total),
            })
        }
    }

    fn commit(
        &mut self,
        certificate: &CommitCertificate<Ctx>,
        set: &ValidatorSet,
        thresholds: ThresholdParams,
    ) -> Result<(), CertificateError<Ctx>> {
        let votes = certificate.commit_signatures.iter().map(|s| {
            let vote = Vote {
                kind: VoteType::Precommit,
                height: certificate.height,
                round: certificate.round,
                value: NilOrVal::Val(certificate.value_id),
                voter: s.address,
            };
            (vote, s.signature)
        });
        self.certificate(set, thresholds.quorum, votes)
    }

    fn polka(
        &mut self,
        certificate: &core::PolkaCertificate<Ctx>,
        set: &ValidatorSet,
        thresholds: ThresholdParams,
    ) -> Result<(), CertificateError<Ctx>> {
        let votes = certificate.votes(&Ctx).map(|vote| (vote.message, vote.signature));
        self.certificate(set, thresholds.quorum, votes)
    }

    fn round(
        &mut self,
        certificate: &core::RoundCertificate<Ctx>,
        set: &ValidatorSet,
        thresholds: ThresholdParams,
    ) -> Result<(), CertificateError<Ctx>> {
        let precommits = certificate.cert_type == RoundCertificateType::Precommit;
        if let Some(wrong) = certificate
            .round_signatures
            .iter()
            .find(|s| precommits && s.vote_type != VoteType::Precommit)
        {
            return Err(CertificateError::InvalidVoteType(wrong.address));
        }
        let threshold = if precommits {
            thresholds.quorum
        } else {
            thresholds.honest
        };
        let votes = certificate.votes(&Ctx).map(|vote| (vote.message, vote.signature));
        self.certificate(set, threshold, votes)
    }
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
        let address = super::types::address_of(&key.public_key());
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

// What the core asks for.
impl Host {
    fn effect(&mut self, effect: Effect<Ctx>) -> Resume<Ctx> {
        match effect {
            Effect::CancelAllTimeouts(r) => {
                self.timers.clear();
                r.resume_with(())
            }
            Effect::CancelTimeout(timeout, r) => {
                self.timers.retain(|(_, _, t)| *t != timeout);
                r.resume_with(())
            }
            Effect::ScheduleTimeout(timeout, r) => {
                self.schedule(timeout);
                r.resume_with(())
            }
            Effect::StartRound(height, round, proposer, _, r) => {
                if round > Round::new(0) {
                    tracing::info!(%height, %round, %proposer, "new round");
                }
                r.resume_with(())
            }
            Effect::PublishConsensusMsg(message, r) => {
                match message {
                    SignedConsensusMsg::Vote(vote) => {
                        self.publish(Gossip::Vote((&vote).into()), false);
                    }
                    SignedConsensusMsg::Proposal(proposal) => {
                        self.publish(Gossip::Proposal((&proposal).into()), false);
                    }
                }
                r.resume_with(())
            }
            Effect::PublishLivenessMsg(message, r) => {
                match message {
                    LivenessMsg::Vote(vote) => self.publish(Gossip::Vote((&vote).into()), true),
                    LivenessMsg::PolkaCertificate(polka) => {
                        self.publish(Gossip::Polka((&polka).into()), false);
                    }
                    LivenessMsg::SkipRoundCertificate(round) => {
                        self.publish(Gossip::Round((&round).into()), false);
                    }
                }
                r.resume_with(())
            }
            Effect::RepublishVote(vote, r) => {
                self.publish(Gossip::Vote((&vote).into()), true);
                r.resume_with(())
            }
            Effect::RepublishRoundCertificate(round, r) => {
                self.publish(Gossip::Round((&round).into()), true);
                r.resume_with(())
            }
            Effect::GetValue(height, round, _, r) => {
                if self.misbehaves(Misbehaviour::StallAsProposer) {
                    tracing::warn!(%height, %round, "stalls as proposer, as told");
                } else {
                    self.wants_block = Some((height, round));
                }
                r.resume_with(())
            }
            // A proposal carries its block, so publishing it is enough.
            Effect::RestreamProposal(.., r) => r.resume_with(()),
            Effect::CertVerifiedSyncValue(response, proposer, r) => {
                self.on_synced(&response, proposer);
                r.resume_with(())
            }
            Effect::CertRejectedSyncValue(_, height, error, r) => {
                tracing::warn!(%height, %error, "a peer sent a block with a bad certificate");
                self.drop_synced();
                r.resume_with(())
            }
            Effect::Decide(certificate, _, r) => {
                self.commit(&certificate);
                r.resume_with(())
            }
            Effect::Finalize(_, _, evidence, r) => {
                for voter in evidence.votes.iter().map(|(address, _)| address) {
                    tracing::warn!(%voter, "voted twice");
                }
                self.finished = true;
                r.resume_with(())
            }
            Effect::WalAppend(height, input, r) => {
                // Only votes of our own can ever conflict with the log.
                if self.active
                    && height > self.ledger.height()
                    && let Err(error) = self.wal.append(height, &input)
                {
                    self.fatal = Some(error.into());
                }
                r.resume_with(())
            }
            Effect::ExtendVote(.., r) => r.resume_with(None),
            Effect::VerifyVoteExtension(.., r) => r.resume_with(Ok(())),
            other => self.signature_effect(other),
        }
    }

    fn signature_effect(&mut self, effect: Effect<Ctx>) -> Resume<Ctx> {
        // A signature that the core finds bad makes it drop the message, as if never signed.
        let bad = || Signature::from_bytes([0; 64]);
        match effect {
            Effect::SignVote(vote, r) => {
                let signature = if self.misbehaves(Misbehaviour::Silent) {
                    bad()
                } else {
                    let bytes = vote_sign_bytes(&self.identity.chain_id, &vote);
                    self.identity.key.sign(&bytes.0)
                };
                r.resume_with(SignedMessage::new(vote, signature))
            }
            Effect::SignProposal(proposal, r) => {
                let signature = if self.misbehaves(Misbehaviour::StallAsProposer) {
                    bad()
                } else {
                    let bytes = proposal_sign_bytes(&self.identity.chain_id, &proposal);
                    self.identity.key.sign(&bytes.0)
                };
                r.resume_with(SignedMessage::new(proposal, signature))
            }
            Effect::VerifySignature(message, key, r) => r.resume_with(self.checked.message(&message, &key)),
            Effect::VerifyCommitCertificate(certificate, set, thresholds, r) => {
                r.resume_with(self.checked.commit(&certificate, &set, thresholds))
            }
            Effect::VerifyExtendedCommitCertificate(certificate, set, thresholds, _, r) => {
                let certificate = certificate.trim_vote_extensions();
                r.resume_with(self.checked.commit(&certificate, &set, thresholds))
            }
            Effect::VerifyPolkaCertificate(certificate, set, thresholds, r) => {
                r.resume_with(self.checked.polka(&certificate, &set, thresholds))
            }
            Effect::VerifyRoundCertificate(certificate, set, thresholds, r) => {
                r.resume_with(self.checked.round(&certificate, &set, thresholds))
            }
            other => {
                // Unreachable: the other effects are handled before.
                tracing::error!(?other, "unknown effect");
                Resume::Continue
            }
        }
    }

    fn schedule(&mut self, timeout: Timeout) {
        let duration = match timeout.kind {
            TimeoutKind::FinalizeHeight(duration) => duration,
            _ => self.timeouts.duration_for(timeout),
        };
        let height = self.working;
        self.timers.retain(|(_, _, t)| *t != timeout);
        self.timers.push((Instant::now() + duration, height, timeout));
    }

    /// Writes the decided block and tells the others.
    fn commit(&mut self, certificate: &CommitCertificate<Ctx>) {
        let height = certificate.height;
        let Some(block) = self.blocks.get(&certificate.value_id).cloned() else {
            self.fatal = Some(Error::Consensus {
                height: height.0,
                problem: format!("block {} was decided but never seen", certificate.value_id),
            });
            return;
        };
        let mut stored = StoredBlock::new(&block, certificate);
        let set = self.ledger.app().validators(height);
        stored.signers = enough_signers(set, stored.signers, |signer| signer.address);
        let written = self.ledger.commit(&stored, &block);
        if let Err(error) = written.and_then(|()| self.wal.height_done()) {
            self.fatal = Some(error.into());
            return;
        }
        self.mempool.remove(block.txs());
        self.recent = self.recent.split_off(&Height(height.0 + 1));
        let (hash, round, txs) = (block.hash(), certificate.round, block.txs().len());
        tracing::info!(%height, %hash, %round, txs, "committed");
        self.tell_tip();
        if self.misbehaves(Misbehaviour::Crash) {
            self.fatal = Some(Error::Crash { height: height.0 });
        }
    }
}

// Heights, blocks and messages of consensus.
impl Host {
    fn misbehaves(&self, kind: Misbehaviour) -> bool {
        self.misbehaviours.is(kind, self.ledger.height().0)
    }

    /// Consensus is held up by a misbehaviour.
    fn held(&self) -> bool {
        self.misbehaves(Misbehaviour::Freeze) || self.misbehaves(Misbehaviour::Lag)
    }

    /// The first height after the start.
    fn begin_first(&mut self) {
        if self.begin.take().is_some() {
            self.begin_height(Height(self.ledger.height().0 + 1));
        }
    }

    fn begin_height(&mut self, height: Height) {
        let set = self.ledger.app().validators(height).clone();
        let active = set.get(&self.identity.address).is_some();
        if active != self.active {
            tracing::info!(%height, validator = active, "role");
        }
        self.active = active;
        self.working = height;
        self.blocks.clear();
        self.checked.good.clear();
        self.syncing = None;
        self.wants_block = None;
        let pace = Some(self.config.block_time);
        let policy = VoteExtensionPolicy::Disabled;
        self.queue.clear();
        self.queue
            .push_back(Input::StartHeight(height, set, false, pace, policy));
        self.feed_recent(height);
        self.feed_sync();
        self.sync_if_behind();
        if self.sync.caught_up && self.sync.blocks.is_empty() && self.best_tip() < height {
            // What the others said of this height passed while this node was behind.
            self.sync.caught_up = false;
            if self.active {
                self.send_all(&Message::WantRecent(height), None);
            }
        }
    }

    fn make_block(&self, height: Height) -> Block {
        let txs = self.mempool.for_block();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX));
        let app = self.ledger.app();
        let header = Header {
            chain_id: self.identity.chain_id.clone(),
            height,
            time_ms: now.max(self.last_time() + 1),
            parent: self.ledger.last_hash(),
            app_hash: app.hash(),
            data_hash: Block::data_hash(&txs),
            validators_hash: app.validators(height).hash(),
            proposer: self.identity.address,
        };
        Block::new(header, txs)
    }

    fn last_time(&self) -> u64 {
        self.ledger.last().map_or(0, |block| block.header().time_ms)
    }

    /// Whether a block may follow the last committed one.
    fn may_follow(&self, block: &Block) -> bool {
        let Header {
            chain_id,
            height,
            time_ms,
            parent,
            app_hash,
            data_hash,
            validators_hash,
            proposer,
        } = block.header();
        let next = Height(self.ledger.height().0 + 1);
        let set = self.ledger.app().validators(next);
        let bytes: usize = block.txs().iter().map(Vec::len).sum();
        *chain_id == self.identity.chain_id
            && *height == next
            && *time_ms > self.last_time()
            && *parent == self.ledger.last_hash()
            && *app_hash == self.ledger.app().hash()
            && *data_hash == Block::data_hash(block.txs())
            && *validators_hash == set.hash()
            && set.get(proposer).is_some()
            && block.txs().len() <= MAX_BLOCK_TXS
            && bytes <= MAX_BLOCK_BYTES
    }

    /// Sends a message of our own to all, and keeps it for links to come.
    fn publish(&mut self, gossip: Gossip, again: bool) {
        let suppressed = match &gossip {
            Gossip::Proposal(proposal) => {
                proposal.proposer == self.identity.address && self.misbehaves(Misbehaviour::StallAsProposer)
            }
            Gossip::Vote(_) | Gossip::Polka(_) | Gossip::Round(_) => self.misbehaves(Misbehaviour::Silent),
        };
        if suppressed || self.fatal.is_some() {
            return;
        }
        let number = if again {
            self.repeats += 1;
            self.repeats
        } else {
            0
        };
        self.keep_recent(&gossip);
        self.flood(&Flood::Consensus(number, gossip));
    }

    fn keep_recent(&mut self, gossip: &Gossip) {
        let list = self.recent.entry(gossip.height()).or_default();
        if list.len() < RECENT.1 && !list.contains(gossip) {
            list.push(gossip.clone());
        }
    }

    fn feed_recent(&mut self, height: Height) {
        for gossip in self.recent.get(&height).cloned().unwrap_or_default() {
            self.feed(gossip);
        }
    }

    /// Queues a message of the height in work for the core, if this node takes part.
    fn feed(&mut self, gossip: Gossip) {
        let height = gossip.height();
        let ready = height == self.working && height > self.ledger.height();
        if !self.active || !ready {
            return;
        }
        match gossip {
            Gossip::Vote(vote) => self.queue.push_back(Input::Vote(vote.into())),
            Gossip::Polka(polka) => self.queue.push_back(Input::PolkaCertificate(polka.into())),
            Gossip::Round(round) => self.queue.push_back(Input::RoundCertificate(round.into())),
            Gossip::Proposal(proposal) => self.feed_proposal(proposal),
        }
    }

    /// A proposal and the verdict on its block; of the right proposer only.
    fn feed_proposal(&mut self, record: ProposalRecord) {
        let signed: SignedProposal<Ctx> = record.into();
        let proposal = &signed.message;
        let set = self.ledger.app().validators(proposal.height);
        let proposer = set.proposer(proposal.height, proposal.round);
        let key = proposer.key;
        let message = signed.clone().map(ConsensusMsg::Proposal);
        if proposer.address != proposal.proposer || !self.checked.message(&message, &key) {
            tracing::warn!(height = %proposal.height, from = %proposal.proposer, "bad proposal");
            return;
        }
        let good = self.may_follow(&proposal.block);
        if !good {
            tracing::warn!(
                height = %proposal.height,
                hash = %proposal.block.hash(),
                "proposed block is invalid"
            );
        }
        self.blocks.insert(proposal.block.hash(), proposal.block.clone());
        let value = ProposedValue {
            height: proposal.height,
            round: proposal.round,
            valid_round: proposal.pol_round,
            proposer: proposal.proposer,
            value: proposal.block.clone(),
            validity: Validity::from_bool(good),
        };
        self.queue
            .push_back(Input::ProposedValue(value, ValueOrigin::Consensus));
        self.queue.push_back(Input::Proposal(signed));
    }
}

// Links and gossip.
impl Host {
    fn on_connected(&mut self, connected: Connected) {
        let address = connected.peer.address;
        if let Some(peer) = self.peers.get(&address) {
            // Both ends must keep the same link. A second one that the same side dialled means
            // that it lost the first. Of two dialled at the same time from both sides, that of the
            // smaller id is kept; later on, the new one, for the other side had none.
            let old = &peer.link;
            let ours_is_smaller = self.identity.address < address;
            let both_dialed = old.dialed != connected.dialed && old.since.elapsed() < SIMULTANEOUS;
            if both_dialed && connected.dialed != ours_is_smaller {
                return;
            }
        } else if self.peers.len() >= MAX_LINKS {
            tracing::warn!(peer = %connected.peer.name, "too many links");
            return;
        }
        self.links_made += 1;
        let name = connected.peer.name.clone();
        let link = Link::start(connected, self.links_made, &self.events);
        let tip = Height(0);
        let before = self.peers.insert(address, Peer { link, tip });
        if before.is_none() {
            tracing::info!(peer = %name, links = self.peers.len(), "linked");
        }
        if let Some(gate) = self.gates.get(&address) {
            gate.send_replace(true);
        }
        self.greet(&address);
        if self.begin.is_some() && self.peers.len() * 3 >= self.config.peers.len() * 2 {
            self.begin_first();
        }
    }

    /// Tells a new peer what it may have missed.
    fn greet(&mut self, to: &Address) {
        self.send(to, &Message::Tip(self.ledger.height()));
        self.send_recent(to, Height(0));
        for tx in self.mempool.iter().take(1_000).cloned().collect::<Vec<_>>() {
            self.send(to, &Message::Flood(Flood::Tx(Base64(tx))));
        }
    }

    fn send_recent(&mut self, to: &Address, from: Height) {
        let recent: Vec<Gossip> = self.recent.range(from..).flat_map(|(_, l)| l.clone()).collect();
        for gossip in recent {
            self.send(to, &Message::Recent(gossip));
        }
    }

    fn drop_link(&mut self, address: &Address, why: &str) {
        if let Some(peer) = self.peers.remove(address) {
            let (name, links) = (&peer.link.peer.name, self.peers.len());
            tracing::info!(peer = %name, links, why, "link ended");
            if let Some(gate) = self.gates.get(address) {
                gate.send_replace(false);
            }
        }
    }

    fn send(&mut self, to: &Address, message: &Message) {
        let Ok(payload) = serde_json::to_vec(message) else {
            return;
        };
        self.send_frame(to, &Frame::new(&payload));
    }

    fn send_frame(&mut self, to: &Address, frame: &Frame) {
        if self.peers.get(to).is_some_and(|peer| !peer.link.send(frame)) {
            self.drop_link(to, "it does not keep up");
        }
    }

    fn send_all(&mut self, message: &Message, except: Option<&Address>) {
        if let Ok(payload) = serde_json::to_vec(message) {
            self.send_all_frame(&Frame::new(&payload), except);
        }
    }

    fn send_all_frame(&mut self, frame: &Frame, except: Option<&Address>) {
        let mut slow = Vec::new();
        for (address, peer) in &self.peers {
            if Some(address) != except && !peer.link.send(frame) {
                slow.push(*address);
            }
        }
        for address in slow {
            self.drop_link(&address, "it does not keep up");
        }
    }

    /// Sends something of our own to all nodes.
    fn flood(&mut self, flood: &Flood) {
        let message = Message::Flood(flood.clone());
        if let Ok(payload) = serde_json::to_vec(&message) {
            self.seen.note(&payload);
            self.send_all_frame(&Frame::new(&payload), None);
        }
    }

    fn tell_tip(&mut self) {
        self.send_all(&Message::Tip(self.ledger.height()), None);
    }

    fn on_frame(&mut self, from: Address, payload: &[u8]) {
        if self.misbehaves(Misbehaviour::Freeze) {
            return;
        }
        // Most of what comes came before from another: not worth parsing.
        if payload.starts_with(b"{\"Flood\":") && !self.seen.note(payload) {
            return;
        }
        let message: Message = match serde_json::from_slice(payload) {
            Ok(message) => message,
            Err(error) => {
                tracing::warn!(peer = %from, %error, "unreadable message");
                self.drop_link(&from, "it sent an unreadable message");
                return;
            }
        };
        match message {
            Message::Tip(tip) => {
                if let Some(peer) = self.peers.get_mut(&from) {
                    peer.tip = tip;
                }
                self.sync_if_behind();
            }
            Message::Flood(Flood::Tx(tx)) => self.on_tx(from, tx.0, payload),
            Message::Flood(Flood::Consensus(_, gossip)) => {
                self.on_gossip(from, gossip, Some(payload));
            }
            Message::Recent(gossip) => self.on_gossip(from, gossip, None),
            Message::WantRecent(height) => self.send_recent(&from, height),
            Message::WantBlocks(first, last) => self.send_blocks(&from, first, last),
            Message::Blocks(blocks) => self.on_blocks(from, blocks),
        }
    }

    fn on_tx(&mut self, from: Address, tx: Vec<u8>, payload: &[u8]) {
        let known = self.ledger.find_tx(&sha256(&tx)).is_some();
        if !known && self.ledger.app().check(&tx).is_ok() && self.mempool.add(tx) {
            self.send_all_frame(&Frame::new(payload), Some(&from));
        }
    }

    /// Passes on and takes in a message of consensus; without a payload it was for this node.
    fn on_gossip(&mut self, from: Address, gossip: Gossip, payload: Option<&[u8]>) {
        let height = gossip.height();
        let committed = self.ledger.height();
        if height <= committed {
            return;
        }
        // The validators are settled up to the next height but one.
        if height.0 <= committed.0 + 2 && !self.is_of_validator(&gossip) {
            return;
        }
        let frame = match payload {
            Some(payload) => Some(Frame::new(payload)),
            None => {
                let message = Message::Flood(Flood::Consensus(0, gossip.clone()));
                let payload = serde_json::to_vec(&message).unwrap_or_default();
                let new = self.seen.note(&payload);
                new.then(|| Frame::new(&payload))
            }
        };
        if let Some(frame) = frame {
            self.send_all_frame(&frame, Some(&from));
        }
        if height.0 <= committed.0 + RECENT.0 {
            self.keep_recent(&gossip);
            if !self.held() {
                self.feed(gossip);
            }
        }
    }

    fn is_of_validator(&self, gossip: &Gossip) -> bool {
        let set = self.ledger.app().validators(gossip.height());
        match gossip {
            Gossip::Vote(VoteRecord { voter, .. }) => set.get(voter).is_some(),
            Gossip::Proposal(proposal) => set.get(&proposal.proposer).is_some(),
            Gossip::Polka(polka) => polka.signers.iter().all(|s| set.get(&s.address).is_some()),
            Gossip::Round(round) => round
                .signers
                .iter()
                .all(|s| matches!(s.kind, VoteKind::Prevote | VoteKind::Precommit) && set.get(&s.address).is_some()),
        }
    }
}

// Sync.
impl Host {
    fn best_tip(&self) -> Height {
        self.peers.values().map(|p| p.tip).max().unwrap_or_default()
    }

    /// Asks a peer for blocks when one is ahead and nobody is being asked.
    fn sync_if_behind(&mut self) {
        let now = Instant::now();
        let committed = self.ledger.height();
        let best = self.best_tip();
        if best <= committed {
            self.sync.behind_since = None;
            self.sync.check = None;
            return;
        }
        if self.held() || !self.sync.blocks.is_empty() {
            return;
        }
        let since = *self.sync.behind_since.get_or_insert(now);
        if self.active && best.0 == committed.0 + 1 && now < since + PATIENCE {
            self.sync.check = Some(since + PATIENCE);
            return;
        }
        if let Some((peer, at)) = self.sync.asked {
            if now < at + SYNC_LIMIT && self.peers.contains_key(&peer) {
                self.sync.check = Some(at + SYNC_LIMIT);
                return;
            }
            self.sync.shunned.insert(peer, now + SYNC_LIMIT);
        }
        self.sync.shunned.retain(|_, until| *until > now);
        let shunned = &self.sync.shunned;
        let ahead = self.peers.iter().filter(|(_, peer)| peer.tip > committed);
        let chosen = ahead
            .max_by_key(|(address, peer)| (!shunned.contains_key(*address), peer.tip))
            .map(|(address, _)| *address);
        self.sync.asked = None;
        if let Some(peer) = chosen {
            let first = Height(committed.0 + 1);
            let last = Height(committed.0 + SYNC_BATCH.0);
            self.sync.asked = Some((peer, now));
            self.sync.check = Some(now + SYNC_LIMIT);
            self.send(&peer, &Message::WantBlocks(first, last));
        }
    }

    fn send_blocks(&mut self, to: &Address, first: Height, last: Height) {
        let last = last.min(Height(first.0.saturating_add(SYNC_BATCH.0)));
        let lines = match self.ledger.lines(first, last, SYNC_BATCH.1) {
            Ok(lines) => lines,
            Err(error) => {
                self.fatal = Some(error.into());
                return;
            }
        };
        // The lines are what a `Message::Blocks` holds: no need to take them apart.
        let payload = [br#"{"Blocks":["#.as_slice(), &lines.join(&b','), b"]}".as_slice()];
        self.send_frame(to, &Frame::new(&payload.concat()));
    }

    fn on_blocks(&mut self, from: Address, blocks: Vec<StoredBlock>) {
        if self.sync.asked.is_none_or(|(peer, _)| peer != from) {
            return;
        }
        self.sync.asked = None;
        self.sync.check = None;
        let mut next = self.ledger.height().0 + 1;
        for block in blocks {
            if block.block.header.height.0 == next {
                next += 1;
                self.sync.blocks.push_back((from, block));
            }
        }
        if self.sync.blocks.is_empty() {
            self.sync.shunned.insert(from, Instant::now() + SYNC_LIMIT);
        }
        self.begin_first();
        self.feed_sync();
    }

    /// Queues the next block that came by sync, if the core is ready for it.
    fn feed_sync(&mut self) {
        let next = Height(self.ledger.height().0 + 1);
        while let Some((_, stored)) = self.sync.blocks.front() {
            if stored.block.header.height >= next {
                break;
            }
            self.sync.blocks.pop_front();
        }
        if self.working != next || self.syncing.is_some() || self.held() {
            return;
        }
        let Some((_, stored)) = self.sync.blocks.front() else {
            return;
        };
        let mut stored = stored.clone();
        let set = self.ledger.app().validators(next);
        stored.signers = enough_signers(set, stored.signers, |signer| signer.address);
        let block = Block::from(stored.block.clone());
        let certificate = stored.certificate(block.hash());
        self.blocks.insert(block.hash(), block.clone());
        self.syncing = Some(block);
        self.sync.caught_up = true;
        let response = ValueResponse::new(core_peer(), axum::body::Bytes::new(), certificate);
        self.queue.push_back(Input::SyncValueResponse(response));
    }

    /// The certificate of the block in `syncing` is good; is the block?
    fn on_synced(&mut self, response: &ValueResponse<Ctx>, proposer: Address) {
        let Some(block) = self.syncing.clone() else {
            return;
        };
        let good = self.may_follow(&block);
        if !good {
            tracing::error!(
                height = %response.certificate.height,
                hash = %block.hash(),
                "a certified block does not follow from this node's state"
            );
            self.drop_synced();
        }
        let value = ProposedValue {
            height: response.certificate.height,
            round: response.certificate.round,
            valid_round: Round::Nil,
            proposer,
            value: block,
            validity: Validity::from_bool(good),
        };
        self.queue.push_back(Input::ProposedValue(value, ValueOrigin::Sync));
    }

    /// Forgets the blocks of a peer that sent a bad one, and asks others for a while.
    fn drop_synced(&mut self) {
        self.syncing = None;
        if let Some((peer, _)) = self.sync.blocks.front() {
            let until = Instant::now() + 10 * SYNC_LIMIT;
            self.sync.shunned.insert(*peer, until);
        }
        self.sync.blocks.clear();
        self.sync.check = Some(Instant::now());
    }
}

/// The core wants to know which peer sent a block; this node remembers that itself.
fn core_peer() -> PeerId {
    // An identity multihash of nothing.
    PeerId::from_bytes(&[0, 0]).expect("a valid multihash")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devnode::types::{Hex, address_of};
    use arc_malachitebft_signing_ed25519::PrivateKey;

    fn key(seed: u8) -> PrivateKey {
        PrivateKey::from([seed; 32])
    }

    fn set(count: u8) -> ValidatorSet {
        let validators = (1..=count).map(|n| Validator::new("v", key(n).public_key(), 10));
        ValidatorSet::new(validators.collect())
    }

    fn commit(signers: &[u8]) -> CommitCertificate<Ctx> {
        let value_id = Hex([5; 32]);
        let signature = |seed: &u8| {
            let vote = Vote {
                kind: VoteType::Precommit,
                height: Height(3),
                round: Round::new(0),
                value: NilOrVal::Val(value_id),
                voter: address_of(&key(*seed).public_key()),
            };
            let signature = key(*seed).sign(&vote_sign_bytes("c", &vote).0);
            CommitSignature::new(vote.voter, signature)
        };
        CommitCertificate {
            height: Height(3),
            round: Round::new(0),
            value_id,
            commit_signatures: signers.iter().map(signature).collect(),
        }
    }

    fn checked() -> Checked {
        Checked {
            chain_id: "c".into(),
            good: HashSet::new(),
        }
    }

    #[test]
    fn certificates_need_more_than_two_thirds_of_different_validators() {
        let thresholds = ThresholdParams::default();
        let mut checked = checked();
        assert!(checked.commit(&commit(&[1, 2, 3]), &set(4), thresholds).is_ok());
        assert!(matches!(
            checked.commit(&commit(&[1, 2]), &set(4), thresholds),
            Err(CertificateError::NotEnoughVotingPower { .. })
        ));
        assert!(matches!(
            checked.commit(&commit(&[1, 2, 2]), &set(4), thresholds),
            Err(CertificateError::DuplicateVote(_))
        ));
        assert!(matches!(
            checked.commit(&commit(&[1, 2, 9]), &set(4), thresholds),
            Err(CertificateError::UnknownValidator(_))
        ));
        let mut forged = commit(&[1, 2, 3]);
        forged.value_id = Hex([6; 32]);
        assert!(matches!(
            checked.commit(&forged, &set(4), thresholds),
            Err(CertificateError::InvalidCommitSignature(_))
        ));
        let elsewhere = &mut Checked {
            chain_id: "d".into(),
            good: HashSet::new(),
        };
        assert!(elsewhere.commit(&commit(&[1, 2, 3]), &set(4), thresholds).is_err());
    }

    #[test]
    fn seen_frames_are_not_passed_on_again() {
        let mut seen = Seen::default();
        assert!(seen.note(b"a"));
        assert!(!seen.note(b"a"));
        for number in 0..9_000_u32 {
            seen.note(&number.to_be_bytes());
        }
        assert!(!seen.note(b"a"), "the generation before counts too");
        for number in 9_000..20_000_u32 {
            seen.note(&number.to_be_bytes());
        }
        assert!(seen.note(b"a"), "it does not grow for ever");
    }

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

    #[test]
    fn the_peer_that_the_core_gets_is_valid() {
        let _peer = core_peer();
    }
}
