//! The seams to where nodes run: a [`Deployer`] makes and removes them, [`NodeOps`] acts on them.
//!
//! Making nodes and acting on nodes are apart, because nodes may also be found (made by somebody else). A backend never
//! knows what chain it runs. What a backend can do is data ([`Capabilities`]), so that a plan is refused before anything starts.

pub mod local;
pub mod memory;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

use crate::model::{Ms, NodeName};
use crate::record::Record;

/// Makes nodes and removes them.
pub trait Deployer: Send + Sync {
    /// What this backend can do, and why it cannot do the rest.
    fn capabilities(&self) -> &Capabilities;

    /// Reserves addresses, ports and mount paths for all nodes, before any file is rendered. Called once.
    fn reserve<'a>(&'a self, wanted: &'a [Wanted], links: &'a [LinkId]) -> BoxFuture<'a, Result<Addresses, Trouble>>;

    /// Runs a job to its end.
    fn run_job<'a>(&'a self, job: &'a Job) -> BoxFuture<'a, Result<JobOutput, Trouble>>;

    /// Makes the nodes: writes their files, and starts those with `started = true`, in parallel. Returns when each has been
    /// started, not when it answers. Nothing that started is left behind after an error and `destroy`.
    fn apply<'a>(&'a self, specs: &'a [NodeSpec]) -> BoxFuture<'a, Result<(), Trouble>>;

    /// Acts on the nodes that were applied.
    fn ops(&self) -> std::sync::Arc<dyn NodeOps>;

    /// Reverts every fault, ends every process and removes what was made, node homes included unless `keep_homes`. Idempotent; safe at any moment, also before
    /// `apply`. The result lists what is left, in words.
    fn destroy(&self, how: Teardown) -> BoxFuture<'_, Vec<String>>;
}

/// Acts on nodes. Every method returns when the injector is done; whether it had an effect is for the probes to say.
pub trait NodeOps: Send + Sync {
    /// Ends all processes of the node at once (SIGKILL) and holds them down.
    fn kill<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<(), Trouble>>;

    /// Asks all processes of the node to end (SIGTERM), ends them after `grace`, and holds them down. A paused node is resumed first.
    fn stop<'a>(&'a self, node: &'a str, grace: Ms) -> BoxFuture<'a, Result<(), Trouble>>;

    /// Starts the node on its home. Starting a running node is an error.
    fn start<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<(), Trouble>>;

    /// Halts all processes of the node (SIGSTOP).
    fn pause<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<(), Trouble>>;

    /// Lets them go on (SIGCONT).
    fn resume<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<(), Trouble>>;

    /// Sets the state of every link: those in `shapes` as they say, all others clear. Idempotent.
    fn shape<'a>(&'a self, shapes: &'a [LinkShape]) -> BoxFuture<'a, Result<(), Trouble>>;

    /// What the operating system (not the injector) says of the node's processes.
    fn state<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<NodeState, Trouble>>;

    /// What can be seen of these links from outside the injector: a new connection is tried over each, at most `limit` long, and the
    /// bytes that open connections have carried so far are read from the operating system.
    fn probe_links<'a>(&'a self, links: &'a [LinkId], limit: Ms) -> BoxFuture<'a, Result<Vec<LinkEvidence>, Trouble>>;

    /// A TCP address on this machine at which a port of a node answers; a tunnel where the node is elsewhere.
    fn endpoint(&self, node: &str, component: &str, port: &str) -> Result<SocketAddr, Trouble>;

    /// The file into which the output of a component is written, all generations, in the run folder.
    fn log(&self, node: &str, component: &str) -> PathBuf;

    /// Keeps the leases of all faults alive; called every two seconds. When calls stop for the lease's time (ten seconds), whoever
    /// carries the faults out reverts them by itself.
    fn renew(&self) -> BoxFuture<'_, Result<(), Trouble>>;
}

/// What a backend can do. A missing capability carries the reason, which the user is told before anything starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// The backend's name.
    pub backend: &'static str,
    /// Words of the scenario language that it does not offer, each with the reason and what to do instead.
    pub lacks: BTreeMap<&'static str, &'static str>,
}

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
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// Its environment; nothing else of trialnet's own environment is passed on but PATH, HOME (the node's) and TMPDIR.
    pub env: BTreeMap<String, String>,
    /// The names of the ports at which it listens.
    pub ports: Vec<String>,
    /// Files that it needs.
    pub files: Vec<File>,
    /// Who runs it; `None`: whoever runs trialnet, or the image's user.
    pub user: Option<u32>,
}

/// The program of a component.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Program {
    /// Trialnet's own executable.
    Trialnet,
    /// A program of the chain.
    Chain {
        /// A name on PATH, or a path.
        binary: String,
        /// An image, for backends that run images.
        image: Option<String>,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// Only where it does not exist: state that the node goes on to change.
    Once,
    /// At each start.
    Always,
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
    /// How long it may take.
    pub limit: Ms,
}

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
}

/// What a process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    /// It runs or sleeps.
    Running,
    /// It is halted by a signal.
    Paused,
    /// There is none.
    Gone,
}

/// What can be seen of a link from outside the injector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkEvidence {
    /// Which link.
    pub link: LinkId,
    /// The time until a new connection brought its first byte; `None`: not within the limit.
    pub first_byte: Option<Ms>,
    /// Bytes received so far by the dialling node on each open connection of this link, by local port. Empty where there is none;
    /// `None` where the operating system does not tell.
    pub open: Option<BTreeMap<u16, u64>>,
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
