//! The seams to where nodes run: a [`Deployer`] makes and removes them, [`NodeOps`] acts on them.
//!
//! Making nodes and acting on nodes are apart, because nodes may also be found (made by somebody else). A backend never
//! knows what chain it runs. What a backend can do is data ([`Capabilities`]), so that a plan is refused before anything starts.

pub mod kubernetes;
pub mod local;
pub mod memory;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::agent::lock;
use crate::model::{Ms, NodeName, Outage, Removal, Resources, Stress};
use crate::record::{Record, Silence};

/// Makes nodes and removes them.
pub trait Deployer: Send + Sync {
    /// What this backend can do, and why it cannot do the rest.
    fn capabilities(&self) -> &Capabilities;

    /// Sees that there is a place for the nodes, and makes it where that was asked for (a cluster), which takes its own time. Called once, before all else.
    fn place(&self) -> BoxFuture<'_, Result<(), Trouble>> {
        Box::pin(async { Ok(()) })
    }

    /// Reserves addresses, ports and mount paths for all nodes, before any file is rendered. Called once.
    fn reserve<'a>(&'a self, wanted: &'a [Wanted], links: &'a [LinkId]) -> BoxFuture<'a, Result<Addresses, Trouble>>;

    /// Runs a job to its end.
    fn run_job<'a>(&'a self, job: &'a Job) -> BoxFuture<'a, Result<JobOutput, Trouble>>;

    /// Is told what nodes may be replaced by later ([`NodeOps::replace`]), and sees that their programs can be had. Called at most once, after the jobs
    /// and before `apply`.
    ///
    /// # Errors
    /// A program that is missing.
    fn provide<'a>(&'a self, later: &'a [NodeSpec]) -> BoxFuture<'a, Result<(), Trouble>> {
        let none = later.is_empty();
        Box::pin(async move { if none { Ok(()) } else { Err(no_replacement("a node")) } })
    }

    /// Makes the nodes: writes their files, and starts those with `started = true`, in parallel. Returns when each has been
    /// started, not when it answers. Nothing that started is left behind after an error and `destroy`.
    fn apply<'a>(&'a self, specs: &'a [NodeSpec]) -> BoxFuture<'a, Result<(), Trouble>>;

    /// Has an observer made beside the nodes by the next `apply`; gives the way to it, which leads somewhere once it runs. It goes with the
    /// nodes. Called at most once, after `reserve`.
    ///
    /// # Errors
    /// `infra/not-offered` where nothing can run beside the nodes; a target that was not reserved.
    fn with_observer(&self, observer: &Observer) -> Result<Dial, Trouble> {
        Err(Trouble {
            code: "infra/not-offered".to_owned(),
            node: None,
            expected: format!("an observer of {} nodes beside them", observer.targets.len()),
            seen: format!("nothing can run there on the {} backend", self.capabilities().backend),
        })
    }

    /// Acts on the nodes that were applied.
    fn ops(&self) -> std::sync::Arc<dyn NodeOps>;

    /// Reverts every fault, ends every process and removes what was made, node homes included unless `keep_homes`. Idempotent; safe at any moment, also before
    /// `apply`. The result lists what is left, in words.
    fn destroy(&self, how: Teardown) -> BoxFuture<'_, Vec<String>>;
}

/// Acts on nodes. Every method returns when the injector is done; whether it had an effect is for the probes to say.
pub trait NodeOps: Send + Sync {
    /// Ends all processes of the node, or those of one component, at once (SIGKILL) and holds them down.
    fn kill<'a>(&'a self, node: &'a str, component: Option<&'a str>) -> BoxFuture<'a, Result<(), Trouble>>;

    /// The same, and leaves what follows to the platform: the kubelet starts the containers again, a process of this machine stays dead.
    fn crash<'a>(&'a self, node: &'a str, component: Option<&'a str>) -> BoxFuture<'a, Result<(), Trouble>>;

    /// Removes the node's pod; the platform makes a new one. An error where nodes are no pods.
    fn remove<'a>(&'a self, node: &'a str, how: Removal) -> BoxFuture<'a, Result<(), Trouble>>;

    /// Strikes the machines of the cluster on which these nodes are. What is done is remembered by the fault's id, also after an error. An error
    /// where there are no machines, or where another node of the network would be struck too.
    fn strike_machines<'a>(
        &'a self,
        fault: &'a str,
        nodes: &'a [NodeName],
        how: MachineStrike,
    ) -> BoxFuture<'a, Result<(), Trouble>> {
        let _: (&str, &[NodeName], MachineStrike) = (fault, nodes, how);
        Box::pin(async { Err(no_machines()) })
    }

    /// What others than the nodes say of the machines that were struck for a fault: the evidence that they are, or an error.
    fn struck_machines<'a>(&'a self, fault: &'a str) -> BoxFuture<'a, Result<String, Trouble>> {
        let _: &str = fault;
        Box::pin(async { Err(no_machines()) })
    }

    /// Takes back what was done to machines for a fault. Idempotent.
    fn restore_machines<'a>(&'a self, fault: &'a str) -> BoxFuture<'a, Result<(), Trouble>> {
        let _: &str = fault;
        Box::pin(async { Ok(()) })
    }

    /// Empties the volumes of a node that is down; files that are written once are written again at its next start. Whoever asks records
    /// the loss.
    fn wipe<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<(), Trouble>>;

    /// Turns over all bits of bytes in files of a node that is down, where a file is still what it was: asked twice, it is done once.
    fn corrupt<'a>(&'a self, node: &'a str, damages: &'a [Damage]) -> BoxFuture<'a, Result<(), Trouble>> {
        let asked = damages.len();
        Box::pin(async move { Err(no_files(node, &format!("{asked} files damaged"))) })
    }

    /// The files of a node that a pattern names, below its first volume: read by another than who damages them. In the order of their paths.
    fn digests<'a>(&'a self, node: &'a str, pattern: &'a str) -> BoxFuture<'a, Result<Vec<Digest>, Trouble>> {
        Box::pin(async move { Err(no_files(node, pattern)) })
    }

    /// Asks all processes of the node to end (SIGTERM), ends them after `grace`, and holds them down. A paused node is resumed first.
    fn stop<'a>(&'a self, node: &'a str, grace: Ms) -> BoxFuture<'a, Result<(), Trouble>>;

    /// Starts those components of the node that are down. Starting a node of which all run is an error.
    fn start<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<(), Trouble>>;

    /// Makes a node that is down another one of the same name, on the same volumes and with the same components, and starts it. What it becomes was
    /// told to [`Deployer::provide`]. Files that are written once stay as they are.
    fn replace<'a>(&'a self, spec: &'a NodeSpec) -> BoxFuture<'a, Result<(), Trouble>> {
        Box::pin(async move { Err(no_replacement(&spec.name)) })
    }

    /// Halts all processes of the node (SIGSTOP).
    fn pause<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<(), Trouble>>;

    /// Lets them go on (SIGCONT).
    fn resume<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<(), Trouble>>;

    /// Sets the state of every link: those in `shapes` as they say, all others clear. Idempotent.
    fn shape<'a>(&'a self, shapes: &'a [LinkShape]) -> BoxFuture<'a, Result<(), Trouble>>;

    /// Sets what becomes of the packets from one node to another, whoever dialled: those in `shapes` as they say, all others pass. Idempotent.
    /// An error where packets cannot be lost, unless none have to be.
    fn filter<'a>(&'a self, shapes: &'a [PacketShape]) -> BoxFuture<'a, Result<(), Trouble>> {
        let none = shapes.is_empty();
        Box::pin(async move { if none { Ok(()) } else { Err(no_packets()) } })
    }

    /// What can be seen of the packets from one node to another from outside the injector: datagrams are sent from the first of each pair
    /// to the second, and counted there. In the order of the pairs.
    fn probe_packets<'a>(
        &'a self,
        pairs: &'a [(NodeName, NodeName)],
        volley: Volley,
    ) -> BoxFuture<'a, Result<Vec<PacketEvidence>, Trouble>> {
        let _: (&[(NodeName, NodeName)], Volley) = (pairs, volley);
        Box::pin(async { Err(no_packets()) })
    }

    /// Sets what is used beside each program of the node, by the ids of the faults that want it: what is not in `all` ends. Idempotent. An error where
    /// nothing can run there, unless nothing has to.
    fn stress<'a>(&'a self, node: &'a str, all: &'a BTreeMap<String, Stress>) -> BoxFuture<'a, Result<(), Trouble>> {
        let none = all.is_empty();
        Box::pin(async move { if none { Ok(()) } else { Err(no_stress(node)) } })
    }

    /// What the operating system (not the injector) says of what a fault uses beside each program of the node, in the spec's order.
    fn stressed<'a>(&'a self, node: &'a str, fault: &'a str) -> BoxFuture<'a, Result<Vec<StressEvidence>, Trouble>> {
        let _: &str = fault;
        Box::pin(async move { Err(no_stress(node)) })
    }

    /// What the operating system (not the injector) says of the node's processes.
    fn state<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<NodeState, Trouble>>;

    /// Ends all processes of a node, lets nobody write to its first volume, and starts them again; or (not `on`) lets everybody write again, and starts
    /// nothing. Idempotent.
    fn lock_volume<'a>(&'a self, node: &'a str, on: bool) -> BoxFuture<'a, Result<(), Trouble>> {
        Box::pin(async move {
            if on {
                Err(no_files(node, "a volume that nobody can write to"))
            } else {
                Ok(())
            }
        })
    }

    /// What the operating system (not the injector) says of a node's first volume, as each of its components sees it, in the spec's order.
    fn volume<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<Vec<VolumeEvidence>, Trouble>> {
        Box::pin(async move { Err(no_files(node, "a look at its volume")) })
    }

    /// Waits until the pod or a container of the node is another one than now, or gone; what was seen, in words. Never where there are none.
    fn another<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<String, Trouble>> {
        let _: &str = node;
        Box::pin(std::future::pending())
    }

    /// What can be seen of these links from outside the injector: a new connection is tried over each, and the bytes that open connections
    /// have carried so far are read from the operating system.
    fn probe_links<'a>(
        &'a self,
        links: &'a [LinkId],
        look: LinkLook,
    ) -> BoxFuture<'a, Result<Vec<LinkEvidence>, Trouble>>;

    /// A TCP address on this machine at which a port of a node answers; a tunnel where the node is elsewhere.
    fn endpoint(&self, node: &str, component: &str, port: &str) -> Result<Endpoint, Trouble>;

    /// The file into which the output of a component is written, all generations, in the run folder.
    fn log(&self, node: &str, component: &str) -> PathBuf;

    /// Keeps the leases of all faults alive; called every two seconds. When calls stop for the lease's time (ten seconds), whoever
    /// carries the faults out reverts them by itself.
    fn renew(&self) -> BoxFuture<'_, Result<(), Trouble>>;
}

/// What is done to machines of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MachineStrike {
    /// They take no more pods, and the pods of the nodes are evicted from them, each asked for again for so long while the disruption budget
    /// refuses.
    Drain(Ms),
    /// They fail.
    Fail(Outage),
}

/// What can be seen of what is used beside a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StressEvidence {
    /// The component whose program it is.
    pub component: String,
    /// `None`: there is no such process.
    pub seen: Option<Stressed>,
}

/// What the operating system says of a process that stresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stressed {
    /// How many of its threads wanted a processor, at the beginning and at the end of the look.
    pub busy: u32,
    /// How long they had one, all together.
    pub used: Ms,
    /// How long the look took.
    pub took: Ms,
    /// How many bytes it holds.
    pub memory: u64,
    /// How full the file system is that it works in, in percent.
    pub full: u8,
}

/// What can be seen of a volume in a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeEvidence {
    /// The component whose container it is.
    pub component: String,
    /// What was seen.
    pub seen: Writable,
}

/// Whether a volume can be written to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Writable {
    /// What the mount says of itself.
    pub read_only: bool,
    /// Why no file could be made in it; `None`: one could, and was removed.
    pub refused: Option<String>,
}

/// A file of a node as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    /// Its path below the node's first volume.
    pub file: String,
    /// In bytes.
    pub size: u64,
    /// The SHA-256 of what stands in it, in hex.
    pub sha256: String,
}

/// What is done to a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Damage {
    /// Its path below the node's first volume.
    pub file: String,
    /// What it has to be; nothing is done to it otherwise.
    pub sha256: String,
    /// The bytes to turn over.
    pub offsets: Vec<u64>,
}

/// The answer of a backend that does not reach the nodes' files.
fn no_files(node: &str, expected: &str) -> Trouble {
    Trouble {
        code: "infra/not-offered".to_owned(),
        node: Some(node.to_owned()),
        expected: expected.to_owned(),
        seen: "this backend does not reach the files of its nodes".to_owned(),
    }
}

/// Where a port of a node is reached.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// On this machine.
    pub address: SocketAddr,
    /// What is known of the way from there to the node, where there is one.
    pub tunnel: Option<Tunnel>,
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self { address, tunnel: None }
    }
}

/// What is known of the tunnel to a port: whoever sees a connection break asks here whether that was the node or the way to it. Copies
/// are the same tunnel.
#[derive(Clone, Debug, Default)]
pub struct Tunnel(Arc<Mutex<Option<(Silence, String)>>>);

impl Tunnel {
    /// A connection could not be led to the port, or was lost on the way: [`Silence::Refused`] where nobody listens at it,
    /// [`Silence::Tunnel`] where the way is broken.
    pub fn failed(&self, cause: Silence, detail: impl Into<String>) {
        *lock(&self.0) = Some((cause, detail.into()));
    }

    /// Bytes came through.
    pub fn carries(&self) {
        *lock(&self.0) = None;
    }

    /// Why the last connection failed, if it did.
    #[must_use]
    pub fn last(&self) -> Option<(Silence, String)> {
        lock(&self.0).clone()
    }
}

/// A connection's bytes.
pub trait Bytes: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Bytes for T {}

/// Connects to a process of trialnet's own that is elsewhere; gives the reason in words where that fails.
pub type Dial = Arc<dyn Fn() -> BoxFuture<'static, Result<Box<dyn Bytes>, String>> + Send + Sync>;

/// An observer that runs beside the nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observer {
    /// Whom it asks: nodes, and the name of the port of each.
    pub targets: Vec<(NodeName, String)>,
    /// How it asks; what that means is between it and whoever reads its records.
    pub settings: serde_json::Value,
}

/// What an observer beside the nodes is told: the file that `trialnet observe-pod --config FILE` is given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObserverFile {
    /// Where it listens, at 127.0.0.1.
    pub listen: u16,
    /// The folder in which it keeps its records until they are fetched.
    pub spool: PathBuf,
    /// Where each node answers, as `host:port`.
    pub targets: BTreeMap<NodeName, String>,
    /// [`Observer::settings`].
    pub settings: serde_json::Value,
}

/// What a backend can do. A missing capability carries the reason, which the user is told before anything starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// The backend's name.
    pub backend: &'static str,
    /// Words of the scenario language that it does not offer, each with the reason and what to do instead.
    pub lacks: BTreeMap<&'static str, &'static str>,
}

/// What a backend lacks whose links lead through proxies: [`Capabilities::lacks`] of all of them.
pub const PROXIES_LACK: [(&str, &str); 4] = [
    (
        "loss",
        "links lead through proxies, and a proxy sees a stream, not packets: it can delay or hold bytes, but never lose one; use delay, or the kubernetes backend",
    ),
    (
        "one-way",
        "links lead through proxies; a TCP connection that is cut one way soon carries nothing the other way either, and a proxy cannot show that honestly; cut both ways, or use the kubernetes backend",
    ),
    (
        "plane-all",
        "only the links between nodes lead through proxies, RPC is observed directly; use plane = \"p2p\"",
    ),
    (
        "bandwidth",
        "links lead through proxies, and a proxy cannot bound a link's rate as a network does; use delay, or the kubernetes backend",
    ),
];

/// What a node needs reserved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The node.
    pub node: NodeName,
    /// Its ports by name, with the number that the chain uses by default.
    pub ports: Vec<Port>,
    /// Its volumes by name.
    pub volumes: Vec<String>,
}

/// A port that a node listens at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// For example `p2p`.
    pub name: &'static str,
    /// The chain's own number for it; the backend may give another.
    pub number: u16,
}

/// A directed link: `from` dials `to` at one of its ports.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LinkId {
    /// Who dials.
    pub from: NodeName,
    /// Who is dialled.
    pub to: NodeName,
    /// The port's name, usually `p2p`.
    pub port: String,
}

/// What was reserved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// By node.
    pub nodes: BTreeMap<NodeName, NodeAddresses>,
    /// The address at which the dialling node reaches the other one: a proxy, where links can be shaped.
    pub links: BTreeMap<LinkId, SocketAddr>,
}

/// What was reserved for one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeAddresses {
    /// The node's own address.
    pub ip: IpAddr,
    /// Where it listens, by port name.
    pub ports: BTreeMap<String, u16>,
    /// Where its volumes are, as its processes see them, by volume name.
    pub volumes: BTreeMap<String, PathBuf>,
}

/// Everything a node is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSpec {
    /// Its name.
    pub name: NodeName,
    /// Where it runs.
    pub place: Place,
    /// Its processes; usually one.
    pub components: Vec<Component>,
    /// Its volumes by name.
    pub volumes: Vec<String>,
    /// Whether `apply` starts it.
    pub started: bool,
}

/// Where a node runs. On this machine both are `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The cluster's context.
    pub context: Option<String>,
    /// The namespace.
    pub namespace: Option<String>,
}

/// One process of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Component {
    /// Its name, unique in the node.
    pub name: String,
    /// What runs.
    pub program: Program,
    /// The name of the version, for records.
    pub version: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its environment; nothing else of trialnet's own environment is passed on but PATH. HOME and TMPDIR are the node's.
    pub env: BTreeMap<String, String>,
    /// The names of the ports at which it listens.
    pub ports: Vec<String>,
    /// Files that it needs.
    pub files: Vec<File>,
    /// Who runs it; `None`: whoever runs trialnet, or in a pod the user 1000.
    pub user: Option<u32>,
    /// What it may use.
    pub resources: Resources,
}

/// The program of a component.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Program {
    /// Trialnet's own executable.
    Trialnet,
    /// Somebody else's: the pod was found, not made.
    Found,
    /// A program of the chain.
    Chain {
        /// A name on PATH, or a path; `None`: only an image is known.
        binary: Option<String>,
        /// An image, for backends that run images: where both are known, they make one of `binary` if it is found on this machine.
        image: Option<String>,
        /// Its name or path in that image.
        program: String,
        /// How to get the program, for the message when it is missing.
        hint: String,
    },
}

/// A file that a component needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// The volume that holds it.
    pub volume: String,
    /// The path in the volume.
    pub path: PathBuf,
    /// What stands in it.
    pub content: Vec<u8>,
    /// A key: mode 0600, never shown.
    pub secret: bool,
    /// When it is written.
    pub write: Write,
}

/// When a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Write {
    /// Only where it does not exist: state that the node goes on to change.
    Once,
    /// At each start.
    Always,
    /// Never: it is removed before each start, for example a socket that a killed process left.
    Absent,
}

/// A chain's own program that runs to its end beforehand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// For messages.
    pub name: String,
    /// What runs.
    pub program: Program,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its environment.
    pub env: BTreeMap<String, String>,
    /// Who runs it, as of a [`Component`].
    pub user: Option<u32>,
    /// How long it may take.
    pub limit: Ms,
    /// It runs where this node will run, with the node's volumes at the places that were reserved; `None`: anywhere.
    pub node: Option<NodeName>,
    /// The volumes of that node by name.
    pub volumes: Vec<String>,
}

/// The volume for unix sockets between the components of a node. Where processes start in the node's home it is reserved as a relative
/// path, since the path of a socket has at most 107 bytes.
pub const SOCKETS: &str = "socks";

/// What a job printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobOutput {
    /// Its standard output.
    pub stdout: Vec<u8>,
}

/// The state of a link, computed from the set of faults that are on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkShape {
    /// Which link.
    pub link: LinkId,
    /// Nothing passes, either way: bytes are held as a packet-level cut would hold them, and go on when the link is clear again.
    pub cut: bool,
    /// Added latency each way.
    pub latency: Ms,
    /// Uniform in ± around the latency.
    pub jitter: Ms,
    /// A container that takes the place of the dialling one begins with a clear link.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub drops: bool,
}

/// What becomes of the packets from one node to another, computed from the set of faults that are on.
#[derive(Clone, Debug, PartialEq)]
pub struct PacketShape {
    /// Who sends.
    pub from: NodeName,
    /// Who does not hear all of it.
    pub to: NodeName,
    /// How probably each packet is lost, from 0 to 1.
    pub loss: f64,
    /// Bits a second that pass at most, IP headers included. More bytes may pass at once ([`rate_burst`]), more packets wait ([`rate_queue`]); the rest is lost.
    pub rate: Option<u64>,
}

/// How many bytes pass at once after a pause where the rate in bits a second is bound: what it is in ten milliseconds, or a packet.
#[must_use]
pub const fn rate_burst(rate: u64) -> u64 {
    let bytes = rate / 8 / 100;
    if bytes < 1600 { 1600 } else { bytes }
}

/// How many packets wait at most where the rate in bits a second is bound: of full ones what it is in a fifth of a second, and no fewer than 16. They are
/// not counted by their bytes, since one that a host hands over before it is split may be larger than a short queue, and would never pass.
#[must_use]
pub const fn rate_queue(rate: u64) -> u64 {
    let packets = rate / 8 / 5 / FULL_PACKET;
    if packets < 16 { 16 } else { packets }
}

/// The bytes of a packet that is as large as most networks let pass.
pub const FULL_PACKET: u64 = 1500;

/// Datagrams that a probe sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volley {
    /// How many to each receiver.
    pub count: u32,
    /// How many bytes each has, without its headers.
    pub size: u32,
    /// Over which time they leave; `None`: slowly enough for any queue on the way.
    pub spread: Option<Ms>,
}

/// The code of trouble with a probe that was not counted in time; slower ones may be.
pub const PROBER: &str = "infra/prober";
/// The bytes of the IP and UDP headers of a datagram.
pub const DATAGRAM_HEADERS: u32 = 28;

/// What can be seen of the packets from one node to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PacketEvidence {
    /// Who sent.
    pub from: NodeName,
    /// Where they were counted.
    pub to: NodeName,
    /// How many left.
    pub sent: u32,
    /// How many arrived.
    pub received: u32,
    /// How long it took until all had left.
    pub took: Ms,
    /// How long it took until those that had arrived were counted.
    pub counted: Ms,
}

fn no_packets() -> Trouble {
    Trouble {
        code: "infra/not-offered".to_owned(),
        node: None,
        expected: "a backend that can make packets be lost".to_owned(),
        seen: "this one cannot".to_owned(),
    }
}

fn no_replacement(node: &str) -> Trouble {
    Trouble {
        code: "infra/not-offered".to_owned(),
        node: None,
        expected: format!("{node} replaced by another version"),
        seen: "this backend does not replace its nodes".to_owned(),
    }
}

fn no_stress(node: &str) -> Trouble {
    Trouble {
        code: "infra/not-offered".to_owned(),
        node: Some(node.to_owned()),
        expected: "a backend where something can run beside a program, under its limits".to_owned(),
        seen: "this one has no such place".to_owned(),
    }
}

fn no_machines() -> Trouble {
    Trouble {
        code: "infra/not-offered".to_owned(),
        node: None,
        expected: "a backend with machines that can be struck".to_owned(),
        seen: "this one has none".to_owned(),
    }
}

/// What the operating system says of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeState {
    /// By component, in the spec's order.
    pub components: Vec<ComponentState>,
}

/// What the operating system says of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComponentState {
    /// Its name.
    pub name: String,
    /// The process id of the last generation, if there was one.
    pub pid: Option<u32>,
    /// How many generations there were.
    pub generation: u32,
    /// What the process does.
    pub run: RunState,
    /// Which pod and container it is in; `None` where there are none.
    pub place: Option<Incarnation>,
}

/// A container, as the platform knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incarnation {
    /// Of its pod.
    pub pod_uid: String,
    /// Its own.
    pub container_id: String,
    /// How often the platform has started it again in this pod.
    pub restarts: u32,
}

/// What a process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunState {
    /// It runs or sleeps.
    Running,
    /// It is halted by a signal.
    Paused,
    /// There is none.
    Gone,
}

/// How links are looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkLook {
    /// How long a new connection may take to bring its first byte.
    pub limit: Ms,
    /// Whether another is tried at the same time to the same node past what injects faults into links, for a comparison.
    pub past: bool,
    /// What a new connection says first to these nodes, since they say nothing themselves before.
    pub knocks: BTreeMap<NodeName, Vec<u8>>,
}

impl From<Ms> for LinkLook {
    fn from(limit: Ms) -> Self {
        Self {
            limit,
            ..Self::default()
        }
    }
}

/// What can be seen of a link from outside the injector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkEvidence {
    /// Which link.
    pub link: LinkId,
    /// The time until a new connection brought its first byte; `None`: not within the limit.
    pub first_byte: Option<Ms>,
    /// The same of the one past what injects faults, where that was asked for: how slow the machine itself is.
    pub past: Option<Ms>,
    /// Bytes received so far by the dialling node on each open connection of this link, by local port. Empty where there is none;
    /// `None` where the operating system does not tell.
    pub open: Option<BTreeMap<u16, u64>>,
    /// The same of the dialled node, by the port at which the connection comes from; `None` also where its end cannot be looked at from
    /// where the dialling one is.
    pub accepted: Option<BTreeMap<u16, u64>>,
}

/// How to tear down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Teardown {
    /// How long processes have between SIGTERM and SIGKILL; zero: SIGKILL at once.
    pub grace: Ms,
    /// Leave the node homes for a look.
    pub keep_homes: bool,
}

/// Something outside the chain failed. The engine records it as [`Record::Trouble`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{expected}: {seen}")]
pub struct Trouble {
    /// Stable, for example `infra/program-missing`.
    pub code: String,
    /// The node, if it is about one.
    pub node: Option<NodeName>,
    /// What was expected.
    pub expected: String,
    /// What was seen, and the way out.
    pub seen: String,
}

impl From<Trouble> for Record {
    fn from(
        Trouble {
            code,
            node,
            expected,
            seen,
        }: Trouble,
    ) -> Self {
        Self::Trouble {
            code,
            node,
            expected,
            seen,
        }
    }
}
