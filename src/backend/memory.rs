//! The in-memory double: a backend without processes, on which engine, judge and teardown are tested.
//!
//! It keeps a small world (nodes, links, one chain that grows while a quorum is connected) and serves each node's RPC on loopback, so that the observer and
//! the probes work as ever. It can be told to lie about its faults ([`Tamper`]) and to let a node die, so that what must be caught can be tried.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::Router;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{
    Addresses, Capabilities, ComponentState, DATAGRAM_HEADERS, Damage, Deployer, Digest, Endpoint, Incarnation, Job,
    JobOutput, LinkEvidence, LinkId, LinkLook, LinkShape, MachineStrike, NodeAddresses, NodeOps, NodeSpec, NodeState,
    PacketEvidence, PacketShape, RunState, StressEvidence, Stressed, Teardown, Trouble, Volley, VolumeEvidence, Wanted,
    Writable, rate_burst,
};
use crate::agent::lock;
use crate::model::effects::net_of;
use crate::model::{BackendKind, Ms, NodeName, Plan, Removal, Stress};
use crate::quorum::{self, Effect, Engine, Forecast};
use crate::record::{NodeEvent, Record};

/// The first process id that the double gives out.
const FIRST_PID: u32 = 1_000_000;

/// A backend without processes.
#[derive(Clone)]
pub struct Memory {
    world: Arc<Mutex<World>>,
    events: mpsc::UnboundedSender<Record>,
    capabilities: Arc<Capabilities>,
    over: CancellationToken,
}

/// How the double lies about faults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tamper {
    /// It does not.
    #[default]
    None,
    /// `shape` and `filter` say done and do nothing.
    CutNothing,
    /// `kill` says done and does nothing.
    KillNothing,
    /// `kill` strikes the next node too.
    KillMore,
    /// `start` fails, and the platform brings nothing back.
    StartNothing,
    /// `remove` and `crash` say done and do nothing.
    RemoveNothing,
    /// The disruption budget lets no pod go.
    RefuseEvictions,
    /// `corrupt` says done and does nothing.
    CorruptNothing,
    /// `stress` says done and does nothing.
    StressNothing,
    /// `stress` never ends what it began.
    StressForEver,
    /// `replace` says done, and starts what was there before.
    ReplaceNothing,
    /// Nodes do not end when they are asked to, only when they are killed.
    EndUnwillingly,
    /// `destroy` says that something could not be removed.
    LeaveSomething,
}

/// What is wrong with a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// Its nodes end by themselves when they are started.
    Dies,
    /// Its nodes run, and never have another block.
    Stands,
    /// Its nodes run and do not answer.
    Silent,
}

struct World {
    plan: Arc<Plan>,
    tamper: Tamper,
    /// What is wrong with a version, on one node or on all.
    flaws: Vec<(Option<NodeName>, String, Flaw)>,
    nodes: Vec<MemoryNode>,
    shapes: Vec<LinkShape>,
    filters: Vec<PacketShape>,
    /// What was done to machines, by fault, and whose they were.
    machines: BTreeMap<String, (MachineStrike, Vec<NodeName>)>,
    /// Height of the chain, and the heights at which each node stands.
    height: u64,
    destroyed: bool,
}

struct MemoryNode {
    name: NodeName,
    /// A key of the plan's versions.
    version: String,
    address: SocketAddr,
    /// Keeps others off its port while it is down.
    _port: TcpSocket,
    generation: u32,
    height: u64,
    run: watch::Sender<RunState>,
    server: CancellationToken,
    /// How many pods it has had, and how often the platform has started its container again in this one.
    pods: u32,
    restarts: u32,
    /// Its only file, `blocks`.
    file: Vec<u8>,
    /// What is used beside it, by fault.
    stress: BTreeMap<String, Stress>,
    /// Nobody can write to its volume.
    locked: bool,
}

/// How long the platform takes to bring a node back, where the plan is one for pods.
const COMES_BACK: Ms = Ms(300);

impl Memory {
    /// A double for a plan, and the two ends of the way on which it will report.
    #[must_use]
    pub fn new(
        plan: Arc<Plan>,
        tamper: Tamper,
    ) -> (Self, mpsc::UnboundedSender<Record>, mpsc::UnboundedReceiver<Record>) {
        let (events, receiver) = mpsc::unbounded_channel();
        let world = World {
            plan,
            tamper,
            flaws: Vec::new(),
            nodes: Vec::new(),
            shapes: Vec::new(),
            filters: Vec::new(),
            machines: BTreeMap::new(),
            height: 0,
            destroyed: false,
        };
        let capabilities = Arc::new(Capabilities {
            backend: "memory",
            lacks: BTreeMap::new(),
        });
        let records = events.clone();
        let memory = Self {
            world: Arc::new(Mutex::new(world)),
            events,
            capabilities,
            over: CancellationToken::new(),
        };
        (memory, records, receiver)
    }

    /// Lets a node die by itself with an exit code.
    pub fn die(&self, node: &str, code: i32) {
        let mut world = self.lock();
        if let Some(node) = world.nodes.iter_mut().find(|known| known.name == node) {
            node.end(&self.events, Some(code), false);
        }
    }

    /// From now on there is something wrong with a version, on one node or on all: with what is started then, and with what stands.
    pub fn flaw(&self, node: Option<&str>, version: &str, flaw: Flaw) {
        let node = node.map(str::to_owned);
        self.lock().flaws.push((node, version.to_owned(), flaw));
    }

    /// The version that a node runs.
    #[must_use]
    pub fn version(&self, node: &str) -> Option<String> {
        self.with(node, |node| node.version.clone()).ok()
    }

    /// Lets the double lie from now on.
    pub fn tamper(&self, tamper: Tamper) {
        self.lock().tamper = tamper;
    }

    /// Whether everything is gone: no server, no node that runs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let world = self.lock();
        world.destroyed
            && world
                .nodes
                .iter()
                .all(|node| node.server.is_cancelled() && *node.run.borrow() == RunState::Gone)
    }

    /// The plan that it plays.
    #[must_use]
    pub fn plan(&self) -> Arc<Plan> {
        Arc::clone(&self.lock().plan)
    }

    fn lock(&self) -> MutexGuard<'_, World> {
        lock(&self.world)
    }

    fn with<T>(&self, node: &str, act: impl FnOnce(&mut MemoryNode) -> T) -> Result<T, Trouble> {
        let mut world = self.lock();
        let known = world
            .nodes
            .iter_mut()
            .find(|known| known.name == node)
            .ok_or_else(|| unknown(node))?;
        Ok(act(known))
    }

    /// Serves a node's RPC at its address until its token is cancelled.
    async fn serve(&self, index: usize) -> Result<(), Trouble> {
        let (address, name) = {
            let world = self.lock();
            (world.nodes[index].address, world.nodes[index].name.clone())
        };
        let listener = TcpListener::bind(address).await.map_err(|error| Trouble {
            code: "infra/address".to_owned(),
            node: Some(name.clone()),
            expected: format!("{address} is free"),
            seen: error.to_string(),
        })?;
        let bound = listener.local_addr().unwrap_or(address);
        let stop = CancellationToken::new();
        let flaw = {
            let mut world = self.lock();
            let version = world.nodes[index].version.clone();
            let flaw = world.flaw(index);
            let node = &mut world.nodes[index];
            node.address = bound;
            node.server = stop.clone();
            node.generation += 1;
            node.run.send_replace(RunState::Running);
            let (pid, generation) = (node.pid(index), node.generation);
            let event = NodeEvent::Started {
                component: "node".to_owned(),
                pid,
                generation,
                version,
            };
            // Nobody listens any more once the run is over.
            drop(self.events.send(Record::Node { node: name, event }));
            flaw
        };
        match flaw {
            Some(Flaw::Dies) => {
                self.lock().nodes[index].end(&self.events, Some(1), false);
                return Ok(());
            }
            Some(Flaw::Silent) => return Ok(()),
            Some(Flaw::Stands) | None => {}
        }
        let router = Router::new()
            .route("/status", get(status))
            .route("/blockchain", get(blockchain))
            .route("/block_results", get(block_results))
            .route("/abci_info", get(abci_info))
            .route("/net_info", get(net_info))
            .route("/", post(broadcast_tx))
            .with_state(Rpc {
                memory: self.clone(),
                index,
            });
        let serving = axum::serve(listener, router).with_graceful_shutdown(async move { stop.cancelled().await });
        tokio::spawn(serving.into_future());
        Ok(())
    }

    /// Whether the plan is one for pods, which the platform brings back.
    fn has_pods(&self) -> bool {
        self.lock().plan.backend == BackendKind::Kubernetes
    }

    /// Ends a node, as the platform does or after a crash, and lets the platform bring it back.
    fn leave_to_platform(&self, node: &str, mut how: impl FnMut(&mut MemoryNode)) -> Result<(), Trouble> {
        let tamper = self.lock().tamper;
        if tamper == Tamper::RemoveNothing {
            return Ok(());
        }
        self.with(node, |node| {
            node.end(&self.events, None, false);
            how(node);
        })?;
        let index = self.lock().nodes.iter().position(|known| known.name == node);
        if let (Some(index), true) = (index, tamper != Tamper::StartNothing) {
            let memory = self.clone();
            tokio::spawn(async move {
                tokio::time::sleep(COMES_BACK.duration()).await;
                if !memory.lock().destroyed {
                    // A port that is taken shows as a node that does not come back.
                    drop(memory.serve(index).await);
                }
                let mut world = memory.lock();
                if world.destroyed {
                    world.nodes[index].end(&memory.events, None, true);
                }
            });
        }
        Ok(())
    }

    /// Lets the chain grow while a quorum is up and connected.
    async fn grow(self) {
        let interval = self.lock().plan.network.block_time;
        let mut tick = tokio::time::interval(interval.duration());
        loop {
            tick.tick().await;
            self.lock().step();
        }
    }
}

impl World {
    /// One block, if the arithmetic says that there can be one; every node that is connected to the quorum has it.
    fn step(&mut self) {
        let (net, effects) = self.arithmetic();
        if quorum::reckon(&net, &effects).forecast != Forecast::MustGoOn {
            return;
        }
        self.height += 1;
        for index in 0..self.nodes.len() {
            // A node is with the quorum when the network would halt if all nodes it reaches were lost; in this world that is:
            // it is up and some uncut path leads to another node that is up, or it is alone.
            let stands = self.flaw(index) == Some(Flaw::Stands);
            let runs = *self.nodes[index].run.borrow() == RunState::Running;
            if runs && !stands && self.majority().contains(&index) {
                self.nodes[index].height = self.height;
            }
        }
    }

    /// What is wrong with the version that a node runs.
    fn flaw(&self, index: usize) -> Option<Flaw> {
        let MemoryNode { name, version, .. } = &self.nodes[index];
        let of_it = |(node, of, _): &&(Option<NodeName>, String, Flaw)| {
            of == version && node.as_ref().is_none_or(|node| node == name)
        };
        self.flaws.iter().find(of_it).map(|(_, _, flaw)| *flaw)
    }

    /// The connected component with the most power.
    fn majority(&self) -> BTreeSet<usize> {
        let up = |index: usize| *self.nodes[index].run.borrow() == RunState::Running;
        let mut best = (0, BTreeSet::new());
        for start in (0..self.nodes.len()).filter(|&index| up(index)) {
            let mut seen = BTreeSet::from([start]);
            let mut queue = vec![start];
            while let Some(here) = queue.pop() {
                for &(a, b) in &self.plan.network.links {
                    let there = if a == here {
                        b
                    } else if b == here {
                        a
                    } else {
                        continue;
                    };
                    if up(there) && !self.is_cut(a, b) && seen.insert(there) {
                        queue.push(there);
                    }
                }
            }
            let power: u64 = seen.iter().map(|&index| self.plan.network.nodes[index].power).sum();
            if power > best.0 {
                best = (power, seen);
            }
        }
        best.1
    }

    fn is_cut(&self, a: usize, b: usize) -> bool {
        let (a, b) = (&self.nodes[a].name, &self.nodes[b].name);
        let between = |link: &LinkId| (&link.from == a && &link.to == b) || (&link.from == b && &link.to == a);
        self.shapes.iter().any(|shape| shape.cut && between(&shape.link)) || self.is_deaf(a, b) || self.is_deaf(b, a)
    }

    /// Whether no packet gets from one node to the other. A connection needs both directions.
    fn is_deaf(&self, from: &str, to: &str) -> bool {
        self.filter(from, to).0 >= 1.0
    }

    /// What share of the packets from one node to another is lost, and what passes at most.
    fn filter(&self, from: &str, to: &str) -> (f64, Option<u64>) {
        let shape = (self.filters.iter()).find(|shape| shape.from == from && shape.to == to);
        shape.map_or((0.0, None), |shape| (shape.loss, shape.rate))
    }

    fn arithmetic(&self) -> (quorum::Net, Vec<Effect>) {
        let network = &self.plan.network;
        let ordered = |&(a, b): &(usize, usize)| (a.min(b), a.max(b));
        let net = net_of(&self.plan, Engine::Bft);
        let down = (0..self.nodes.len())
            .filter(|&index| *self.nodes[index].run.borrow() != RunState::Running)
            .collect();
        let cut = network
            .links
            .iter()
            .filter(|&&(a, b)| self.is_cut(a, b))
            .map(ordered)
            .collect();
        (net, vec![Effect::Down(down), Effect::Cut(cut)])
    }
}

impl MemoryNode {
    fn pid(&self, index: usize) -> u32 {
        FIRST_PID + self.generation * 1000 + u32::try_from(index).unwrap_or(0)
    }

    /// Ends the node's "process".
    fn end(&mut self, events: &mpsc::UnboundedSender<Record>, code: Option<i32>, asked: bool) {
        self.server.cancel();
        if self.run.send_replace(RunState::Gone) == RunState::Gone {
            return;
        }
        let event = NodeEvent::Exited {
            component: "node".to_owned(),
            pid: self.pid(0),
            generation: self.generation,
            code,
            signal: if code.is_none() { Some(9) } else { None },
            asked,
            tail: Vec::new(),
        };
        drop(events.send(Record::Node {
            node: self.name.clone(),
            event,
        }));
    }
}

impl Deployer for Memory {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn reserve<'a>(&'a self, wanted: &'a [Wanted], links: &'a [LinkId]) -> BoxFuture<'a, Result<Addresses, Trouble>> {
        let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let node = |wanted: &Wanted| {
            let ports = wanted
                .ports
                .iter()
                .map(|port| (port.name.to_owned(), port.number))
                .collect();
            let volumes = wanted
                .volumes
                .iter()
                .map(|volume| (volume.clone(), PathBuf::from("/").join(volume)))
                .collect();
            (wanted.node.clone(), NodeAddresses { ip, ports, volumes })
        };
        let nodes = wanted.iter().map(node).collect();
        let links = links
            .iter()
            .map(|link| (link.clone(), SocketAddr::new(ip, 1)))
            .collect();
        async move { Ok(Addresses { nodes, links }) }.boxed()
    }

    fn run_job<'a>(&'a self, _job: &'a Job) -> BoxFuture<'a, Result<JobOutput, Trouble>> {
        async { Ok(JobOutput { stdout: Vec::new() }) }.boxed()
    }

    fn provide<'a>(&'a self, _later: &'a [NodeSpec]) -> BoxFuture<'a, Result<(), Trouble>> {
        async { Ok(()) }.boxed()
    }

    fn apply<'a>(&'a self, specs: &'a [NodeSpec]) -> BoxFuture<'a, Result<(), Trouble>> {
        async move {
            for spec in specs {
                let (port, address) = reserve().map_err(|error| Trouble {
                    code: "infra/address".to_owned(),
                    node: Some(spec.name.clone()),
                    expected: "a free port".to_owned(),
                    seen: error.to_string(),
                })?;
                let (run, _) = watch::channel(RunState::Gone);
                let server = CancellationToken::new();
                server.cancel();
                let node = MemoryNode {
                    name: spec.name.clone(),
                    version: version(spec),
                    address,
                    _port: port,
                    generation: 0,
                    height: 0,
                    run,
                    server,
                    pods: 1,
                    restarts: 0,
                    file: vec![0; 64],
                    stress: BTreeMap::new(),
                    locked: false,
                };
                self.lock().nodes.push(node);
            }
            for (index, spec) in specs.iter().enumerate() {
                if spec.started {
                    self.serve(index).await?;
                }
            }
            let growing = self.clone().grow();
            let over = self.over.clone();
            tokio::spawn(async move { over.run_until_cancelled(growing).await });
            Ok(())
        }
        .boxed()
    }

    fn ops(&self) -> Arc<dyn NodeOps> {
        Arc::new(self.clone())
    }

    fn destroy(&self, how: Teardown) -> BoxFuture<'_, Vec<String>> {
        if how.grace > Ms(0) && self.lock().tamper == Tamper::EndUnwillingly {
            return std::future::pending().boxed();
        }
        self.over.cancel();
        let mut world = self.lock();
        for node in &mut world.nodes {
            node.end(&self.events, None, true);
        }
        world.destroyed = true;
        let something = world.tamper == Tamper::LeaveSomething;
        let left = Vec::from_iter(something.then(|| "something".to_owned()));
        std::future::ready(left).boxed()
    }
}

impl NodeOps for Memory {
    fn kill<'a>(&'a self, node: &'a str, _component: Option<&'a str>) -> BoxFuture<'a, Result<(), Trouble>> {
        let tamper = self.lock().tamper;
        let done = match tamper {
            Tamper::KillNothing => Ok(()),
            Tamper::KillMore => {
                let mut world = self.lock();
                let next = world
                    .nodes
                    .iter()
                    .position(|known| known.name == node)
                    .map(|index| index + 1);
                let (next, count) = (next.unwrap_or(0), world.nodes.len());
                world.nodes[next % count].end(&self.events, None, false);
                drop(world);
                self.with(node, |node| node.end(&self.events, None, true))
            }
            _ => self.with(node, |node| node.end(&self.events, None, true)),
        };
        async { done }.boxed()
    }

    fn crash<'a>(&'a self, node: &'a str, component: Option<&'a str>) -> BoxFuture<'a, Result<(), Trouble>> {
        if self.has_pods() {
            let done = self.leave_to_platform(node, |node| node.restarts += 1);
            return async { done }.boxed();
        }
        // Nobody but trialnet starts a process of this machine again.
        self.kill(node, component)
    }

    fn remove<'a>(&'a self, node: &'a str, how: Removal) -> BoxFuture<'a, Result<(), Trouble>> {
        let (tamper, persistence) = {
            let world = self.lock();
            (world.tamper, world.plan.network.persistence)
        };
        let done = if how == Removal::Evict && tamper == Tamper::RefuseEvictions {
            Err(Trouble {
                code: "infra/eviction-refused".to_owned(),
                ..unknown(node)
            })
        } else {
            self.leave_to_platform(node, |node| {
                node.pods += 1;
                node.restarts = 0;
                if persistence.is_lost(true) {
                    node.height = 0;
                }
            })
        };
        async { done }.boxed()
    }

    fn strike_machines<'a>(
        &'a self,
        fault: &'a str,
        nodes: &'a [NodeName],
        how: MachineStrike,
    ) -> BoxFuture<'a, Result<(), Trouble>> {
        async move {
            if self.lock().tamper == Tamper::RemoveNothing {
                return Ok(());
            }
            self.lock().machines.insert(fault.to_owned(), (how, nodes.to_vec()));
            for node in nodes {
                match how {
                    // There is another machine for each.
                    MachineStrike::Drain(_) => self.remove(node, Removal::Evict).await?,
                    MachineStrike::Fail(_) => self.with(node, |node| node.end(&self.events, None, false))?,
                }
            }
            Ok(())
        }
        .boxed()
    }

    fn struck_machines<'a>(&'a self, fault: &'a str) -> BoxFuture<'a, Result<String, Trouble>> {
        let struck = self.lock().machines.contains_key(fault);
        let seen = if struck {
            Ok("struck".to_owned())
        } else {
            Err(unknown(fault))
        };
        async { seen }.boxed()
    }

    fn restore_machines<'a>(&'a self, fault: &'a str) -> BoxFuture<'a, Result<(), Trouble>> {
        async move {
            let Some((MachineStrike::Fail(_), nodes)) = self.lock().machines.remove(fault) else {
                return Ok(());
            };
            for node in nodes {
                self.start(&node).await?;
            }
            Ok(())
        }
        .boxed()
    }

    fn wipe<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<(), Trouble>> {
        let done = self.with(node, |node| node.height = 0);
        async { done }.boxed()
    }

    fn corrupt<'a>(&'a self, node: &'a str, damages: &'a [Damage]) -> BoxFuture<'a, Result<(), Trouble>> {
        let nothing = self.lock().tamper == Tamper::CorruptNothing;
        let offsets = damages.iter().flat_map(|damage| &damage.offsets);
        let offsets: Vec<usize> = offsets.filter_map(|offset| usize::try_from(*offset).ok()).collect();
        let done = self.with(node, |node| {
            for offset in offsets.into_iter().filter(|_| !nothing) {
                node.file[offset] = !node.file[offset];
            }
        });
        async { done }.boxed()
    }

    fn digests<'a>(&'a self, node: &'a str, pattern: &'a str) -> BoxFuture<'a, Result<Vec<Digest>, Trouble>> {
        let seen = self.with(node, |node| Digest {
            file: "blocks".to_owned(),
            size: 64,
            // As good as a digest.
            sha256: format!("{:?}", node.file),
        });
        async move { Ok(if pattern == "blocks" { vec![seen?] } else { Vec::new() }) }.boxed()
    }

    fn stop<'a>(&'a self, node: &'a str, _grace: Ms) -> BoxFuture<'a, Result<(), Trouble>> {
        let done = self.with(node, |node| node.end(&self.events, Some(0), true));
        async { done }.boxed()
    }

    fn start<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<(), Trouble>> {
        async move {
            let index = {
                let world = self.lock();
                if world.tamper == Tamper::StartNothing {
                    return Err(unknown("the program"));
                }
                world
                    .nodes
                    .iter()
                    .position(|known| known.name == node)
                    .ok_or_else(|| unknown(node))?
            };
            self.serve(index).await
        }
        .boxed()
    }

    fn replace<'a>(&'a self, spec: &'a NodeSpec) -> BoxFuture<'a, Result<(), Trouble>> {
        async move {
            if self.lock().tamper != Tamper::ReplaceNothing {
                self.with(&spec.name, |node| node.version = version(spec))?;
            }
            self.start(&spec.name).await
        }
        .boxed()
    }

    fn pause<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<(), Trouble>> {
        let done = self
            .with(node, |node| node.run.send_replace(RunState::Paused))
            .map(|_| ());
        async { done }.boxed()
    }

    fn resume<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<(), Trouble>> {
        let done = self
            .with(node, |node| node.run.send_replace(RunState::Running))
            .map(|_| ());
        async { done }.boxed()
    }

    fn shape<'a>(&'a self, shapes: &'a [LinkShape]) -> BoxFuture<'a, Result<(), Trouble>> {
        let mut world = self.lock();
        if world.tamper != Tamper::CutNothing {
            world.shapes = shapes.to_vec();
        }
        async { Ok(()) }.boxed()
    }

    fn filter<'a>(&'a self, shapes: &'a [PacketShape]) -> BoxFuture<'a, Result<(), Trouble>> {
        let mut world = self.lock();
        if world.tamper != Tamper::CutNothing {
            world.filters = shapes.to_vec();
        }
        async { Ok(()) }.boxed()
    }

    fn probe_packets<'a>(
        &'a self,
        pairs: &'a [(NodeName, NodeName)],
        volley: Volley,
    ) -> BoxFuture<'a, Result<Vec<PacketEvidence>, Trouble>> {
        let took = volley.spread.unwrap_or(Ms(100));
        let world = self.lock();
        let evidence = |(from, to): &(NodeName, NodeName)| {
            let (lost, rate) = world.filter(from, to);
            let most = rate.map(|rate| rate_burst(rate) + rate / 8 * took.0 / 1000);
            let most = most.map(|bytes| bytes / u64::from(volley.size + DATAGRAM_HEADERS));
            let most = most.map_or(u32::MAX, |count| u32::try_from(count).unwrap_or(u32::MAX));
            PacketEvidence {
                from: from.clone(),
                to: to.clone(),
                sent: volley.count,
                received: arrived(volley.count, lost).min(most),
                took,
                counted: took,
            }
        };
        let evidence = pairs.iter().map(evidence).collect();
        drop(world);
        async { Ok(evidence) }.boxed()
    }

    fn state<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<NodeState, Trouble>> {
        let has_pods = self.has_pods();
        let state = self.with(node, |node| NodeState {
            components: vec![ComponentState {
                name: "node".to_owned(),
                pid: Some(node.pid(0)),
                generation: node.generation,
                run: *node.run.borrow(),
                place: has_pods.then(|| Incarnation {
                    pod_uid: format!("{}-{}", node.name, node.pods),
                    container_id: format!("double://{}", node.generation),
                    restarts: node.restarts,
                }),
            }],
        });
        async { state }.boxed()
    }

    fn lock_volume<'a>(&'a self, node: &'a str, on: bool) -> BoxFuture<'a, Result<(), Trouble>> {
        let nothing = self.lock().tamper == Tamper::StressNothing;
        let done = self.with(node, |node| {
            if on && !nothing {
                // It is ended, and cannot start where it cannot write.
                node.end(&self.events, None, true);
            }
            node.locked = on && !nothing;
        });
        async { done }.boxed()
    }

    fn volume<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<Vec<VolumeEvidence>, Trouble>> {
        let locked = self.with(node, |node| node.locked);
        async move {
            let read_only = locked?;
            let refused = read_only.then(|| "Read-only file system".to_owned());
            let (component, seen) = ("node".to_owned(), Writable { read_only, refused });
            Ok(vec![VolumeEvidence { component, seen }])
        }
        .boxed()
    }

    fn another<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<String, Trouble>> {
        async move {
            let look = || self.with(node, |node| (node.pods, node.restarts));
            let (before, mut run) = (look()?, self.with(node, |node| node.run.subscribe())?);
            loop {
                let now = look()?;
                if now != before {
                    return Ok(format!("{node}: pod {} instead of {}", now.0, before.0));
                }
                if run.changed().await.is_err() {
                    return futures::future::pending().await;
                }
            }
        }
        .boxed()
    }

    fn probe_links<'a>(
        &'a self,
        links: &'a [LinkId],
        look: LinkLook,
    ) -> BoxFuture<'a, Result<Vec<LinkEvidence>, Trouble>> {
        async move {
            let seen = || {
                let world = self.lock();
                let evidence = |link: &LinkId| {
                    let shape = world.shapes.iter().find(|shape| shape.link == *link);
                    let LinkId { from, to, .. } = link;
                    let deaf = world.is_deaf(from, to) || world.is_deaf(to, from);
                    let cut = deaf || shape.is_some_and(|shape| shape.cut);
                    let latency = shape.map_or(Ms(0), |shape| shape.latency);
                    let bytes = if cut { 0 } else { world.height };
                    let first_byte = (!cut && latency < look.limit).then_some(latency);
                    LinkEvidence {
                        link: link.clone(),
                        first_byte,
                        past: look.past.then_some(Ms(0)),
                        open: Some(BTreeMap::from([(1, bytes)])),
                        accepted: Some(BTreeMap::from([(1, bytes)])),
                    }
                };
                links.iter().map(evidence).collect()
            };
            Ok(seen())
        }
        .boxed()
    }

    fn stress<'a>(&'a self, node: &'a str, all: &'a BTreeMap<String, Stress>) -> BoxFuture<'a, Result<(), Trouble>> {
        async move {
            let tamper = self.lock().tamper;
            let events = self.events.clone();
            self.with(node, |node| {
                if all.values().any(|stress| stress.fill.is_some()) {
                    // It cannot write.
                    node.end(&events, Some(1), false);
                }
                if tamper == Tamper::StressForEver {
                    node.stress.extend(all.clone());
                } else if tamper != Tamper::StressNothing {
                    node.stress.clone_from(all);
                }
            })
        }
        .boxed()
    }

    fn stressed<'a>(&'a self, node: &'a str, fault: &'a str) -> BoxFuture<'a, Result<Vec<StressEvidence>, Trouble>> {
        async move {
            let stress = self.with(node, |node| node.stress.get(fault).copied())?;
            let took = Ms(100);
            let seen = stress.map(|Stress { cpu, memory, fill, .. }| Stressed {
                busy: cpu,
                used: Ms(took.0 * u64::from(cpu)),
                took,
                memory,
                full: fill.map_or(0, |fill| fill.percent),
            });
            let component = "node".to_owned();
            Ok(vec![StressEvidence { component, seen }])
        }
        .boxed()
    }

    fn endpoint(&self, node: &str, _component: &str, _port: &str) -> Result<Endpoint, Trouble> {
        self.with(node, |node| node.address.into())
    }

    fn log(&self, node: &str, component: &str) -> PathBuf {
        PathBuf::from(format!("/nonexistent/{node}.{component}.log"))
    }

    fn renew(&self) -> BoxFuture<'_, Result<(), Trouble>> {
        async { Ok(()) }.boxed()
    }
}

/// How many of so many packets get through, rounded.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a part of a count that fits"
)]
fn arrived(count: u32, lost: f64) -> u32 {
    (f64::from(count) * (1.0 - lost)).round() as u32
}

/// A port that the node has over all its generations. A socket that is bound and does not listen lets another listen there, but nobody else is
/// given the port.
fn reserve() -> std::io::Result<(TcpSocket, SocketAddr)> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
    let address = socket.local_addr()?;
    Ok((socket, address))
}

/// The version of a node: that of its only component.
fn version(spec: &NodeSpec) -> String {
    let version = spec.components.first().map(|component| component.version.clone());
    version.unwrap_or_default()
}

fn unknown(node: &str) -> Trouble {
    Trouble {
        code: "infra/io".to_owned(),
        node: Some(node.to_owned()),
        expected: format!("{node} can be acted on"),
        seen: "there is no such node".to_owned(),
    }
}

/// The RPC of one node.
#[derive(Clone)]
struct Rpc {
    memory: Memory,
    index: usize,
}

type Answer = Result<axum::Json<Value>, StatusCode>;

impl Rpc {
    /// Waits while the node is paused; then its height.
    async fn height(&self) -> Result<u64, StatusCode> {
        let mut run = self.memory.lock().nodes[self.index].run.subscribe();
        let state = run.wait_for(|run| *run != RunState::Paused).await.map(|run| *run);
        match state {
            Ok(RunState::Running) => Ok(self.memory.lock().nodes[self.index].height),
            _ => Err(StatusCode::SERVICE_UNAVAILABLE),
        }
    }
}

fn result(value: Value) -> Answer {
    let mut envelope = json!({"jsonrpc": "2.0", "id": -1});
    envelope["result"] = value;
    Ok(axum::Json(envelope))
}

/// The hash of the block at a height.
fn hash(height: u64) -> String {
    if height == 0 {
        String::new()
    } else {
        format!("{height:064X}")
    }
}

async fn status(State(rpc): State<Rpc>) -> Answer {
    let height = rpc.height().await?;
    let (plan, name, version) = {
        let world = rpc.memory.lock();
        let node = &world.nodes[rpc.index];
        let known = world.plan.versions.get(&node.version);
        let reports = known.and_then(|version| version.reports.clone());
        let version = reports.unwrap_or_else(|| node.version.clone());
        (Arc::clone(&world.plan), node.name.clone(), version)
    };
    result(json!({
        "node_info": {"id": name, "network": plan.scenario, "version": version, "moniker": name},
        "sync_info": {
            "latest_block_hash": hash(height), "latest_app_hash": hash(height.saturating_sub(1)), "latest_block_height": height.to_string(),
            "latest_block_time": "2026-01-01T00:00:00Z", "earliest_block_height": "1", "catching_up": false,
        },
        "validator_info": {"address": "", "pub_key": {"type": "", "value": ""}, "voting_power": "1"},
    }))
}

async fn blockchain(State(rpc): State<Rpc>, Query(range): Query<BTreeMap<String, String>>) -> Answer {
    let height = rpc.height().await?;
    let number = |key: &str| {
        range
            .get(key)
            .and_then(|text| text.trim_matches('"').parse::<u64>().ok())
    };
    let last = number("maxHeight").unwrap_or(height).min(height);
    let first = number("minHeight").unwrap_or(1).max(last.saturating_sub(19)).max(1);
    let meta = |height: u64| {
        json!({
            "block_id": {"hash": hash(height)},
            "header": {
                "height": height.to_string(), "time": "2026-01-01T00:00:00Z", "app_hash": hash(height - 1),
                "last_block_id": {"hash": hash(height - 1)}, "proposer_address": "",
            },
        })
    };
    let metas: Vec<_> = (first..=last).rev().map(meta).collect();
    result(json!({"last_height": height.to_string(), "block_metas": metas}))
}

async fn block_results(State(rpc): State<Rpc>, Query(query): Query<BTreeMap<String, String>>) -> Answer {
    let latest = rpc.height().await?;
    let height = query
        .get("height")
        .and_then(|text| text.trim_matches('"').parse().ok())
        .unwrap_or(latest);
    result(json!({"height": height.to_string(), "txs_results": null, "app_hash": hash(height)}))
}

async fn abci_info(State(rpc): State<Rpc>) -> Answer {
    let height = rpc.height().await?;
    result(json!({"response": {"last_block_height": height.to_string(), "last_block_app_hash": ""}}))
}

async fn net_info(State(rpc): State<Rpc>) -> Answer {
    rpc.height().await?;
    result(json!({"n_peers": "0", "peers": []}))
}

/// Takes any transaction and forgets it.
async fn broadcast_tx(State(rpc): State<Rpc>) -> Answer {
    rpc.height().await?;
    result(json!({"code": 0, "log": "", "hash": hash(1)}))
}
