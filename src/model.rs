//! Plain, valid data: what a scenario means once every check has passed.
//!
//! A [`Plan`] is all that the engine, the judge and the chain adapters see of a scenario file. It is written to
//! `plan.json` in the run folder, so that a run can be judged again later without the file it came from.

pub mod effects;
pub mod upgrade;
pub mod verdict;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

/// The version of the scenario language, of `plan.json`, `records.jsonl` and `verdict.json`.
pub const FORMAT: u32 = 1;

/// A name such as `validator-0`: the group's name, a dash, the index in the group. Unique in a plan.
pub type NodeName = String;

/// A valid scenario: targets resolved, defaults filled in, sums done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Always [`FORMAT`].
    pub format: u32,
    /// The scenario's `name`.
    pub scenario: String,
    /// What the scenario shows, in a sentence.
    pub about: Option<String>,
    /// Where every random choice of this run comes from; the same seed gives the same targets.
    pub seed: u64,
    /// Where the network runs.
    pub backend: BackendKind,
    /// How and where the Kubernetes backend runs it; what the command line says goes before.
    #[serde(default)]
    pub kubernetes: Kubernetes,
    /// The network before the first step.
    pub network: Network,
    /// What each version that the plan mentions is, by its name.
    pub versions: IndexMap<String, Version>,
    /// How long things may take.
    pub limits: Limits,
    /// What is judged all the time.
    pub invariants: Invariants,
    /// What happens, strictly in this order.
    pub steps: Vec<Step>,
    /// What steps do again (`every`, `times`): the second and all further times of their faults, in the order of the steps and of their
    /// beginnings.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub repeats: Vec<Repeat>,
    /// The faults of a rehearsal, beside the steps.
    #[serde(default)]
    pub chaos: Option<Chaos>,
    /// What a test runner expects of this file; `run` ignores it.
    pub outcome: Option<Outcome>,
    /// For each step, what the quorum arithmetic says of the network then, for people to read.
    pub sums: Vec<Sum>,
}

/// Which backend brings the network up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BackendKind {
    /// Plain processes on this machine.
    Local,
    /// Pods in a namespace of a cluster.
    Kubernetes,
    /// The in-memory double that the tests of engine, judge and teardown use.
    Memory,
}

/// What the file says of the Kubernetes backend (`[backend.kubernetes]`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Kubernetes {
    /// What kind of cluster it is; `None`: as the context shows.
    pub provider: Option<Provider>,
    /// The context of the kubeconfig; `None`: the current one, if it is local.
    pub context: Option<String>,
    /// The cluster's name, for `kind` and `minikube`; `None`: from the context, or of a cluster that trialnet makes.
    pub cluster: Option<String>,
    /// The node image of a kind cluster that trialnet makes.
    pub node_image: Option<String>,
    /// The storage class of the volumes; `None`: the cluster's default.
    pub storage_class: Option<String>,
    /// The size of each volume, as Kubernetes writes quantities; `None`: `1Gi`.
    pub storage: Option<String>,
    /// When images are pulled; `None`: never where trialnet loads them, else if they are not present.
    pub pull_policy: Option<PullPolicy>,
    /// What trialnet's own image is called, for clusters into which nothing can be loaded.
    pub own_image: Option<String>,
    /// Secrets whose registry credentials the pods may use; they are copied into the run's namespace.
    pub pull_secrets: Vec<PullSecret>,
    /// Hard limits of the namespace's ResourceQuota over those that the plan needs, for example `requests.cpu`.
    pub quota: BTreeMap<String, String>,
    /// Where the observer runs.
    pub observe: ObserveFrom,
}

/// A Secret with registry credentials.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PullSecret {
    /// Where it is.
    pub namespace: String,
    /// What it is called.
    pub name: String,
}

impl PullSecret {
    /// As people write it: `namespace/name`, or `name` in the namespace `default`. Whether there can be such names is not checked.
    #[must_use]
    pub fn of(text: &str) -> Self {
        let (namespace, name) = text.split_once('/').unwrap_or(("default", text));
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }
}

impl std::fmt::Display for PullSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Kinds of clusters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Provider {
    /// Kubernetes in docker: images are loaded into its nodes.
    Kind,
    /// minikube: images are loaded by its own program.
    Minikube,
    /// Any other cluster: images come from a registry.
    Existing,
}

/// When the cluster pulls an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PullPolicy {
    /// Each time.
    Always,
    /// Unless the node has it.
    IfNotPresent,
    /// Not at all.
    Never,
}

/// Where the observer runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ObserveFrom {
    /// In trialnet's own process.
    #[default]
    Here,
    /// In a pod of the namespace: it still sees the nodes when the API server is out.
    Cluster,
}

/// Which chain's adapter makes and reads the nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChainKind {
    /// Trialnet's own small BFT chain.
    Devnode,
    /// CometBFT with its built-in kvstore application.
    Cometbft,
    /// Ethereum by geth, with the proof of authority of Clique.
    Ethereum,
}

/// The network as the scenario describes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Network {
    /// The chain.
    pub chain: ChainKind,
    /// The version that nodes run unless their group says otherwise; a key of [`Plan::versions`].
    pub version: String,
    /// The interval between blocks that is asked of the chain.
    pub block_time: Ms,
    /// Whether a node's data outlives its process being replaced.
    pub persistence: Persistence,
    /// The chain's own configuration keys, for every node.
    pub config: BTreeMap<String, serde_json::Value>,
    /// All nodes, started at once or later, in the order of the file.
    pub nodes: Vec<Node>,
    /// Who dials whom: (dialling node, dialled node) as indices into `nodes`. Two nodes are peers if either dials the other.
    pub links: Vec<(usize, usize)>,
    /// The application, where it is a program of its own; `None`: the one that is built into the chain's program.
    #[serde(default)]
    pub app: Option<App>,
    /// Where the validators' keys are made.
    #[serde(default)]
    pub keys: Keys,
    /// The nodes are found, not made; `links` are then all pairs, for the arithmetic alone.
    #[serde(default)]
    pub attach: Option<Attach>,
}

/// An application that runs beside each node as a component of its own, `app`, and is reached over a unix socket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct App {
    /// A program on PATH or a path to one; see [`Version::binary`].
    pub binary: Option<String>,
    /// An image; see [`Version::image`].
    pub image: Option<String>,
    /// The program's name or path in the image; `None`: the image's own entry point is not used, so `binary` says it.
    pub program: Option<String>,
    /// Its arguments; `{socket}` stands for the path of the socket.
    pub args: Vec<String>,
    /// Its environment.
    pub env: BTreeMap<String, String>,
}

/// Where the validators' keys are made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Keys {
    /// By trialnet, from the seed: the same in each run.
    #[default]
    Seed,
    /// By the chain's own program where the node runs; they never leave it.
    InPlace,
}

/// Which pods are the nodes of a network that somebody else made: those that match, in the natural order of their names, are the nodes
/// of the plan in its order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attach {
    /// Where they are.
    pub namespace: String,
    /// A label selector as Kubernetes writes it, for example `app=node,tier!=seed`.
    pub selector: String,
    /// Where their RPC listens; `None`: at the chain's usual port.
    pub rpc_port: Option<u16>,
}

/// One node of the network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// Its unique name.
    pub name: NodeName,
    /// The group of the file that it belongs to.
    pub group: String,
    /// What it does for consensus.
    pub role: Role,
    /// Voting power in the genesis; 0 for nodes that are no validators.
    pub power: u64,
    /// The version that it runs at first; a key of [`Plan::versions`].
    pub version: String,
    /// Configuration keys over those of the network.
    pub config: BTreeMap<String, serde_json::Value>,
    /// Whether it starts by itself.
    pub start: Start,
    /// What its pod may use; nothing of it counts on this machine.
    #[serde(default)]
    pub resources: Resources,
}

/// What a component of a node asks of a cluster, as Kubernetes writes quantities.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// Requested, for example `50m`.
    pub cpu: Option<String>,
    /// Requested, for example `128Mi`.
    pub memory: Option<String>,
    /// At most.
    pub cpu_limit: Option<String>,
    /// At most.
    pub memory_limit: Option<String>,
}

/// What a node does for consensus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Votes with its power.
    Validator,
    /// Follows and relays.
    Full,
}

/// When a node is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// With the network.
    Auto,
    /// By a `start` step.
    Manual,
}

/// Whether a node's data outlives its process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Persistence {
    /// Data stays when the process is killed or replaced.
    Volume,
    /// Data stays when the process is killed or replaced, and goes with the pod: volumes are of memory, and of the size that the plan gives them.
    Memory,
    /// Data goes with the process.
    Ephemeral,
}

impl Persistence {
    /// The word of the scenario language.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Volume => "volume",
            Self::Memory => "memory",
            Self::Ephemeral => "ephemeral",
        }
    }

    /// Whether a node's data goes with its process, or with its pod at the latest.
    #[must_use]
    pub const fn is_lost(self, with_pod: bool) -> bool {
        match self {
            Self::Volume => false,
            Self::Memory => with_pod,
            Self::Ephemeral => true,
        }
    }
}

/// The size of a volume of memory where the plan gives none.
pub const MEMORY_STORAGE: &str = "64Mi";

/// What a version name stands for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// A program on PATH or a path to one. A backend that runs images makes one from it where it is found.
    pub binary: Option<String>,
    /// An image, for backends that run images. Where the file gives one and the backend runs images, `binary` is `None`.
    pub image: Option<String>,
    /// The program's name or path in that image; `None`: as the chain's own image has it.
    #[serde(default)]
    pub program: Option<String>,
    /// The user that runs it in that image; `None`: 1000.
    #[serde(default)]
    pub user: Option<u32>,
    /// What a node of this version calls itself over RPC.
    pub reports: Option<String>,
}

/// How long things may take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// From the first process to *ready*.
    pub start: Ms,
    /// From *ready* to the end of the last step.
    pub run: Ms,
    /// For the recovery that is judged after the last step.
    pub settle: Ms,
}

/// What is judged all the time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invariants {
    /// The longest time without growth of the quorum's height, outside declared faults.
    pub max_stall: Ms,
    /// The most blocks that a node may be behind the quorum's height, outside declared faults.
    pub max_lag: u64,
    /// Invariants that the file switched off; printed beside *passed*.
    pub off: BTreeSet<Invariant>,
}

/// An invariant by the name with which a scenario switches it off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Invariant {
    /// Safety: one hash at a height on all nodes.
    Fork,
    /// Safety: one application state at a height on all nodes.
    AppState,
    /// Safety: the hash that a node gave for a height never changes.
    HashChange,
    /// Safety: a node's height never goes back.
    HeightBack,
    /// Safety: the parent of block h+1 is block h.
    ParentLink,
    /// Safety: a side without quorum does not grow.
    Minority,
    /// Liveness: `max_stall`.
    MaxStall,
    /// Liveness: `max_lag`.
    MaxLag,
    /// Liveness: no exit or restart that no step caused.
    Restarts,
    /// Evidence: every height compared on two nodes or more.
    Coverage,
}

/// One step of the scenario.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Position, from 0.
    pub index: usize,
    /// The name other steps refer to; faults without one in the file get `step-N` (N from 1).
    pub id: Option<String>,
    /// For people.
    pub name: Option<String>,
    /// Delays the step.
    pub when: Option<When>,
    /// Go on with the next step although this one's expectation failed (`continue = true`).
    pub go_on: bool,
    /// Do not wait for the step's end; a later `join` may.
    pub background: bool,
    /// Line in the scenario file, from 1.
    pub line: usize,
    /// What it does.
    pub action: Action,
}

/// What delays a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum When {
    /// Until the quorum's height is at least `height`; the step fails when that takes longer than `within`.
    Height {
        /// The height.
        height: u64,
        /// The limit.
        within: Ms,
    },
    /// For a duration.
    After(Ms),
    /// Until so many nodes of an upgrade have passed their gates; the step fails when that takes longer than `within`.
    Moved {
        /// The upgrade.
        of: String,
        /// How many nodes.
        nodes: usize,
        /// The limit.
        within: Ms,
    },
}

/// What a step does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Injects a fault; returns when its effect is verified.
    Fault(Fault),
    /// Starts nodes: late ones, stopped ones, and those killed until-start (whose fault ends by it).
    Start {
        /// The nodes.
        nodes: Vec<NodeName>,
    },
    /// Ends faults, and returns when the revert is verified.
    Heal {
        /// Ids of faults.
        faults: Vec<String>,
    },
    /// Damages files of nodes that are down; never taken back.
    Corrupt(Corrupt),
    /// Moves nodes to another version, batch by batch, on the data that they have.
    Upgrade(upgrade::Upgrade),
    /// Lets time pass.
    Wait(Ms),
    /// Sends transactions at a rate.
    Load(Load),
    /// Sends one transaction.
    Tx(Tx),
    /// Waits for a background step.
    Join {
        /// The background step's id.
        id: String,
        /// The limit.
        within: Ms,
    },
    /// Asks the platform to evict the nodes' pods, one after the other, and expects that the disruption budget refuses each.
    Evict {
        /// The nodes.
        nodes: Vec<NodeName>,
        /// As a drain does it: their machines take no more pods meanwhile, and each is asked for again for [`REFUSED`].
        #[serde(default)]
        drain: bool,
    },
    /// Asks the judge.
    Expect(Expect),
}

/// A fault as planned.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fault {
    /// Unique; the step's id.
    pub id: String,
    /// What it does.
    pub kind: FaultKind,
    /// Whom it strikes; for a partition, all nodes that lose a link.
    pub targets: Targets,
    /// When it ends.
    pub lasts: Lasts,
    /// Only this component of each target, of a kill; `None`: all.
    #[serde(default)]
    pub component: Option<String>,
    /// The data of the targets go with them: a declared loss.
    #[serde(default)]
    pub wipe: bool,
    /// What becomes of it where another pod or container takes a target's place.
    #[serde(default, skip_serializing_if = "OnRestart::is_reapply")]
    pub on_restart: OnRestart,
}

/// What becomes of a fault where another pod or container takes a target's place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnRestart {
    /// It goes on: whoever takes the target's place suffers it too.
    #[default]
    Reapply,
    /// It is over for that target.
    Drop,
}

impl OnRestart {
    /// Whether it is what is usual.
    #[must_use]
    pub const fn is_reapply(&self) -> bool {
        matches!(self, Self::Reapply)
    }
}

/// A rehearsal (`[chaos]`): a schedule of faults beside the steps, drawn from the seed or given by the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Chaos {
    /// In the order of their beginning; they are called `chaos-1`, `chaos-2`, … unless the file says otherwise.
    pub schedule: Vec<Timed>,
    /// The targets of each fault have to be with the others again so long after its revert.
    pub recovery: Ms,
    /// The chain may halt by it. Otherwise never more is down or cut off at once than the chain's engine tolerates.
    pub halts: bool,
    /// At most so many nodes are struck at once; `None`: as many as the engine tolerates.
    pub most: Option<usize>,
    /// For so long after its end a fault counted as on when the schedule was drawn; 0 where the file gives the schedule.
    pub margin: Ms,
}

/// A fault of a rehearsal. Its targets are nodes, and it ends by itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Timed {
    /// When it begins, from *ready*.
    pub at: Ms,
    /// What it does.
    pub fault: Fault,
}

/// Whom a fault strikes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Targets {
    /// These nodes.
    Nodes(Vec<NodeName>),
    /// The proposer of the moment, if it is one of these; otherwise the next proposer that is.
    Leader {
        /// The nodes that qualify.
        among: Vec<NodeName>,
    },
}

/// One more time of a fault that a step repeats.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Repeat {
    /// The index of the step, which injects the first.
    pub step: usize,
    /// When it begins, from the moment at which the effect of the first was verified.
    pub after: Ms,
    /// The same fault, under an id of its own: `flap.2` is the second `flap`.
    pub fault: Fault,
}

/// The kinds of faults, each with what only it has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultKind {
    /// SIGKILL; the process is held down.
    Kill,
    /// The node's pod is removed, and the platform makes a new one.
    Remove(Removal),
    /// The machines of the cluster on which the nodes are take no more pods, and the nodes' pods are evicted from them.
    Drain,
    /// The machines of the cluster on which the nodes are fail.
    Machine(Outage),
    /// SIGSTOP.
    Pause,
    /// SIGTERM with a grace, then SIGKILL; the process is held down.
    Stop,
    /// Stopped gracefully, started at once; ends when the node answers again.
    Restart,
    /// Stopped gracefully and started as another version: a batch of an upgrade. Ends when the batch has passed its gate.
    Upgrade,
    /// Links between different sides are cut.
    Partition {
        /// Disjoint sides that together hold every node.
        sides: Vec<Vec<NodeName>>,
        /// Which traffic.
        plane: Plane,
        /// Only packets from the first side to the second are lost; there are two then.
        #[serde(default)]
        one_way: bool,
    },
    /// All links of each target are cut, also those between two targets.
    Isolate {
        /// Which traffic.
        plane: Plane,
    },
    /// Adds latency, each way.
    Delay {
        /// The pairs of nodes whose links are slow; each pair once, the lower index of the plan first.
        links: Vec<(NodeName, NodeName)>,
        /// Added to each packet or chunk, in each direction; the most, where links differ.
        latency: Ms,
        /// Uniform in ±jitter around the latency, and at most that.
        jitter: Ms,
        /// The latency of each of `links`, in their order; empty: all have `latency`.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        each: Vec<Ms>,
    },
    /// Packets are lost, each way.
    Loss {
        /// The pairs of nodes between which they are; each pair once, the lower index of the plan first.
        links: Vec<(NodeName, NodeName)>,
        /// How many of a hundred, in each direction, each packet by itself; from 1 to 90.
        percent: f64,
    },
    /// Packets beyond a rate are lost, each way.
    Bandwidth {
        /// The pairs of nodes between which they are; each pair once, the lower index of the plan first.
        links: Vec<(NodeName, NodeName)>,
        /// Bits a second that pass from one node of a pair to the other, IP headers included; from 100,000 to 100,000,000.
        rate: u64,
    },
    /// Something beside each program of its targets uses their processors and their memory.
    Stress(Stress),
    /// The volumes of its targets are so full. Where there is no room at all, they may end for it.
    Fill(Fill),
    /// Its targets end, and start on volumes that nobody can write to. They may end for it.
    ReadOnly,
    /// The devnode is told to misbehave.
    Misbehave {
        /// The devnode's own words for it, for example `wrong-hash@12`.
        how: String,
        /// Whether the target's voting power counts as faulty in the arithmetic.
        byzantine: bool,
    },
}

/// What is used beside a program, in its container and under the limits of that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stress {
    /// How many threads want a processor all the time, from 0 to 64.
    pub cpu: u32,
    /// How many bytes are held.
    pub memory: u64,
    /// How full its first volume is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fill: Option<Fill>,
    /// A container that takes this one's place begins without it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub drops: bool,
}

/// How full a volume is that is a file system of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fill {
    /// How much of it is used at least, from 1 to 100.
    pub percent: u8,
    /// How many bytes it has: one that is larger is not the one that is meant, and is left alone.
    pub size: u64,
}

impl Fill {
    /// Whether there is no room at all, so that a node may end for it. With less it is expected to go on.
    #[must_use]
    pub const fn is_whole(self) -> bool {
        self.percent >= 100
    }
}

/// How a machine of the cluster fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outage {
    /// It is off: everything on it has ended.
    Stop,
    /// It halts: nothing on it moves.
    Pause,
}

/// How a pod is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Removal {
    /// Deleted: SIGTERM, and SIGKILL after the grace.
    Delete {
        /// `None`: as its spec says.
        grace: Option<Ms>,
    },
    /// Deleted without waiting for its processes: for a moment two generations of a node may run.
    Force,
    /// Evicted, which the disruption budget may refuse.
    Evict,
}

/// Which traffic a cut concerns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Plane {
    /// Links between nodes.
    #[default]
    P2p,
    /// Also what trialnet itself sees over RPC.
    All,
}

/// When a fault ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lasts {
    /// This long after its effect was verified.
    For(Ms),
    /// At `heal`, at a `start` of its targets, or at the end of the run.
    UntilHealed,
    /// Whenever the platform ends it: see [`Plan::comes_back`].
    Platform,
    /// By itself, at once (a restart).
    Itself,
}

/// Transactions at a rate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Load {
    /// The step's id or `step-N`.
    pub id: String,
    /// Transactions a second.
    pub rate: f64,
    /// For how long.
    pub lasts: Ms,
    /// Size of a transaction in bytes.
    pub size: usize,
    /// The nodes that receive them, in turn.
    pub nodes: Vec<NodeName>,
}

/// One transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tx {
    /// The step's id or `step-N`.
    pub id: String,
    /// What it says.
    pub body: TxBody,
    /// The node that receives it.
    pub node: NodeName,
}

/// What a transaction says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TxBody {
    /// These bytes, as the chain understands them (`key=value` on a kvstore).
    Raw(String),
    /// Gives the key of this node a voting power; 0 removes the validator.
    Power {
        /// Whose key.
        validator: NodeName,
        /// The new power.
        power: u64,
    },
}

/// Damage to the files of nodes that are down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Corrupt {
    /// The step's id or `step-N`: which bytes are struck follows from it and the seed.
    pub id: String,
    /// The nodes, which the steps before hold down.
    pub nodes: Vec<NodeName>,
    /// Which files, below the node's first volume; `*` stands for any part of a name.
    pub file: String,
    /// How many bytes of each file.
    pub bytes: u64,
}

impl Corrupt {
    /// Whether a text can name files below a folder: names with `/` between them.
    #[must_use]
    pub fn is_path(text: &str) -> bool {
        let inside = |part: &str| !part.is_empty() && part != "." && part != "..";
        text.split('/').all(inside)
    }
}

/// What is expected, of whom, and when.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Expect {
    /// What.
    pub what: What,
    /// Of which nodes; `None`: all started nodes without a declared fault, at the moment of judging.
    pub nodes: Option<Vec<NodeName>>,
    /// When.
    pub window: Window,
}

/// When an expectation has to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Window {
    /// At the first complete observation after the step began.
    Now,
    /// At some moment before the limit.
    Within(Ms),
    /// All the time for this long.
    For(Ms),
    /// At no moment to the end of the run.
    Never,
}

/// A number that is expected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bounds {
    /// Inclusive.
    pub at_least: Option<u64>,
    /// Inclusive.
    pub at_most: Option<u64>,
}

/// What can be expected.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// Each node's height; without `nodes`, the quorum's height Q.
    Height(Bounds),
    /// Q grows by this many blocks from the step's start.
    Progress {
        /// How many.
        blocks: u64,
    },
    /// No growth anywhere: see the meanings in the scenario reference.
    Halt {
        /// The fault that causes it.
        of: String,
    },
    /// The targets of a fault are with the others again.
    Recovery {
        /// The fault.
        of: String,
    },
    /// Blocks behind Q.
    Lag(Bounds),
    /// Number of peers.
    Peers(Bounds),
    /// What the node calls itself.
    Version {
        /// Exactly this.
        is: String,
    },
    /// The validator set as the nodes report it.
    Validators {
        /// How many.
        count: Option<u64>,
        /// Power by node name; others may be in the set unless `count` says otherwise.
        powers: BTreeMap<NodeName, u64>,
    },
    /// A line of a node's log.
    Log {
        /// Text that the line contains.
        contains: String,
    },
    /// Restarts of the node's process that no step caused.
    Restarts(Bounds),
    /// The transaction of a `tx` step is committed, once, and on every node.
    Tx {
        /// The `tx` step.
        of: String,
    },
}

/// What a test runner expects of a scenario file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The verdict.
    pub verdict: verdict::Verdict,
    /// A finding with this code.
    pub code: Option<String>,
    /// … on this node.
    pub node: Option<NodeName>,
}

/// How long a node has between SIGTERM and SIGKILL in a `stop` or `restart`.
pub const STOP_GRACE: Ms = Ms::secs(10);
/// How long a pod may take to go, beyond its grace.
pub const REMOVAL: Ms = Ms::secs(15);
/// How long the evictions of a drain may take that the disruption budget does not let go at once.
pub const DRAIN: Ms = Ms::secs(30);
/// How long a machine may take to fail.
pub const OUTAGE: Ms = Ms::secs(15);
/// For how long a drain that has to be refused is refused.
pub const REFUSED: Ms = Ms::secs(5);
/// How much longer than its own time one of a series of faults has for its effect and its end to be seen.
pub const REPEAT_ROOM: Ms = Ms::secs(1);
/// See [`Plan::repeat_slip`].
const REPEAT_SLIP: Ms = Ms::secs(5);
/// How long a `pick = "leader"` may wait for a proposer that qualifies.
pub const FIND_LEADER: Ms = Ms::secs(30);

/// What the quorum arithmetic says while a step runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sum {
    /// The step's index.
    pub step: usize,
    /// `must go on`, `must halt` or `undetermined`.
    pub forecast: crate::quorum::Forecast,
    /// The sum that shows why, for example `30 of 40 is more than two thirds (26.7)`.
    pub why: String,
}

/// A duration or a moment in whole milliseconds; moments count from the start of the run unless said otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Ms(pub u64);

impl Ms {
    /// As a `std` duration.
    #[must_use]
    pub const fn duration(self) -> Duration {
        Duration::from_millis(self.0)
    }

    /// Whole seconds.
    #[must_use]
    pub const fn secs(secs: u64) -> Self {
        Self(secs * 1000)
    }

    /// The time from `earlier` to `self`; zero if it is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Self {
        Self(self.0.saturating_sub(earlier.0))
    }
}

impl std::ops::Add for Ms {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl From<Duration> for Ms {
    fn from(duration: Duration) -> Self {
        Self(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
    }
}

impl fmt::Display for Ms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_multiple_of(1000) || self.0 < 1000 {
            return write!(f, "{}", humantime::format_duration(self.duration()));
        }
        let tenths = self.0 / 100;
        write!(f, "{}.{}s", tenths / 10, tenths % 10)
    }
}

impl Plan {
    /// The index of a node in `network.nodes`.
    #[must_use]
    pub fn node_index(&self, name: &str) -> Option<usize> {
        self.network.nodes.iter().position(|node| node.name == name)
    }

    /// Every fault of the plan in the order of its steps.
    pub fn faults(&self) -> impl Iterator<Item = (&Step, &Fault)> {
        self.steps.iter().filter_map(|step| match &step.action {
            Action::Fault(fault) => Some((step, fault)),
            _ => None,
        })
    }

    /// Every fault of the plan: those of the steps, their repetitions, the batches of upgrades, then those of the rehearsal.
    pub fn every_fault(&self) -> impl Iterator<Item = &Fault> {
        let rehearsed = self.chaos.iter().flat_map(|chaos| &chaos.schedule);
        let of_steps = self.faults().map(|(_, fault)| fault);
        let again = self.repeats.iter().map(|repeat| &repeat.fault);
        let batches = self.upgrades().flat_map(|(_, upgrade)| &upgrade.batches);
        let batches = batches.flat_map(|batch| [&batch.forth, &batch.back]);
        (of_steps.chain(again).chain(batches)).chain(rehearsed.map(|timed| &timed.fault))
    }

    /// Every upgrade of the plan in the order of its steps.
    pub fn upgrades(&self) -> impl Iterator<Item = (&Step, &upgrade::Upgrade)> {
        self.steps.iter().filter_map(|step| match &step.action {
            Action::Upgrade(upgrade) => Some((step, upgrade)),
            _ => None,
        })
    }

    /// How many times a step strikes again, and how long after the first time the last of them begins; `None` for a step that repeats nothing.
    #[must_use]
    pub fn repeated(&self, step: usize) -> Option<(usize, Ms)> {
        let of_step = || self.repeats.iter().filter(move |repeat| repeat.step == step);
        Some((of_step().count(), of_step().next_back()?.after))
    }

    /// For so long a fault whose time has come again waits for the one before it to be over; what takes longer is an infrastructure failure.
    #[must_use]
    pub fn repeat_slip(&self, fault: &Fault) -> Ms {
        if self.comes_back(fault) {
            self.limits.start
        } else {
            REPEAT_SLIP
        }
    }

    /// The nodes that a fault takes out of the network that goes on: of a partition those that are not on the side with the most power,
    /// of all others the targets.
    #[must_use]
    pub fn struck(&self, fault: &Fault) -> BTreeSet<usize> {
        let index = |name: &NodeName| self.node_index(name);
        let FaultKind::Partition { sides, .. } = &fault.kind else {
            return fault.targets.nodes().iter().filter_map(index).collect();
        };
        let power = |side: &[NodeName]| -> u64 {
            let nodes = side.iter().filter_map(index);
            nodes.map(|node| self.network.nodes[node].power).sum()
        };
        let most = sides.iter().map(|side| power(side)).max().unwrap_or(0);
        let strongest = sides.iter().position(|side| power(side) == most);
        let others = sides.iter().enumerate().filter(|(at, _)| Some(*at) != strongest);
        others.flat_map(|(_, side)| side).filter_map(index).collect()
    }

    /// Whether the platform by itself brings the targets of this fault back, at a moment that nobody knows beforehand and within
    /// `limits.start`: removed pods are made anew and containers that died are started again. A dead process of this machine stays dead.
    #[must_use]
    pub fn comes_back(&self, fault: &Fault) -> bool {
        let pods = matches!(fault.kind, FaultKind::Remove(_)) || self.backend == BackendKind::Kubernetes;
        fault.lasts == Lasts::Platform && pods
    }

    /// Whether a fault has other pods or containers take the places of those that its targets have.
    #[must_use]
    pub fn replaces(&self, fault: &Fault) -> bool {
        let stopped = matches!(fault.kind, FaultKind::Drain | FaultKind::Machine(Outage::Stop));
        stopped || self.comes_back(fault)
    }

    /// Whether any of its faults makes packets be lost, for which proxies do not do.
    #[must_use]
    pub fn loses_packets(&self) -> bool {
        self.faults().any(|(_, fault)| fault.kind.loses_packets())
    }

    /// Whether any of its faults makes volumes read-only.
    #[must_use]
    pub fn locks_volumes(&self) -> bool {
        self.faults().any(|(_, fault)| fault.kind == FaultKind::ReadOnly)
    }

    /// Whether any of its faults bounds the rate of packets.
    #[must_use]
    pub fn bounds_rates(&self) -> bool {
        self.faults()
            .any(|(_, fault)| matches!(fault.kind, FaultKind::Bandwidth { .. }))
    }

    /// The nodes whose machines are struck by a step: each has one on which no other node of the network is, so that it is known before the run
    /// whom that strikes.
    #[must_use]
    pub fn alone(&self) -> BTreeSet<NodeName> {
        let of_step = |step: &Step| match &step.action {
            Action::Fault(fault) if fault.kind.strikes_machines() => fault.targets.nodes().to_vec(),
            Action::Evict { nodes, drain: true } => nodes.clone(),
            _ => Vec::new(),
        };
        self.steps.iter().flat_map(of_step).collect()
    }

    /// Whether any of its faults makes machines of the cluster fail.
    #[must_use]
    pub fn fails_machines(&self) -> bool {
        self.faults()
            .any(|(_, fault)| matches!(fault.kind, FaultKind::Machine(_)))
    }

    /// The fault with this id.
    #[must_use]
    pub fn fault(&self, id: &str) -> Option<&Fault> {
        self.every_fault().find(|fault| fault.id == id)
    }
}

/// A rate in the words of the scenario language: `1mbit`, `500kbit`.
#[must_use]
pub fn bits(rate: u64) -> String {
    if rate.is_multiple_of(1_000_000) {
        format!("{}mbit", rate / 1_000_000)
    } else {
        format!("{}kbit", rate / 1000)
    }
}

/// A number of bytes for people, in whole mebibytes where it is one or more.
#[must_use]
pub fn mebibytes(bytes: u64) -> String {
    const MEBI: u64 = 1 << 20;
    if bytes < MEBI {
        format!("{bytes} bytes")
    } else {
        format!("{} MiB", bytes / MEBI)
    }
}

impl FaultKind {
    /// Whether it makes packets be lost.
    #[must_use]
    pub const fn loses_packets(&self) -> bool {
        matches!(
            self,
            Self::Loss { .. } | Self::Bandwidth { .. } | Self::Partition { one_way: true, .. }
        )
    }

    /// Whether the processes of its targets end with it, without a word of theirs; no misbehaviour is meant.
    #[must_use]
    pub const fn ends_processes(&self) -> bool {
        match self {
            Self::Kill
            | Self::Remove(_)
            | Self::Drain
            | Self::Machine(_)
            | Self::Stop
            | Self::Restart
            | Self::Upgrade
            | Self::ReadOnly => true,
            Self::Pause
            | Self::Partition { .. }
            | Self::Isolate { .. }
            | Self::Delay { .. }
            | Self::Loss { .. }
            | Self::Bandwidth { .. }
            | Self::Stress(_)
            | Self::Fill(_)
            | Self::Misbehave { .. } => false,
        }
    }

    /// Whether its targets cannot write, and may end for that: what they say meanwhile may never be kept.
    #[must_use]
    pub const fn stops_writing(&self) -> bool {
        match self {
            Self::Fill(fill) => fill.is_whole(),
            Self::ReadOnly => true,
            _ => false,
        }
    }

    /// What is used beside the programs of its targets, if that is what it does.
    #[must_use]
    pub const fn beside(&self) -> Option<Stress> {
        match *self {
            Self::Stress(stress) => Some(stress),
            Self::Fill(fill) => Some(Stress {
                cpu: 0,
                memory: 0,
                fill: Some(fill),
                drops: false,
            }),
            _ => None,
        }
    }

    /// Whether it is one of the links between nodes, and not of nodes.
    #[must_use]
    pub const fn is_of_links(&self) -> bool {
        matches!(
            self,
            Self::Partition { .. }
                | Self::Isolate { .. }
                | Self::Delay { .. }
                | Self::Loss { .. }
                | Self::Bandwidth { .. }
        )
    }

    /// Whether it is one of the machines of the cluster on which its targets are.
    #[must_use]
    pub const fn strikes_machines(&self) -> bool {
        matches!(self, Self::Drain | Self::Machine(_))
    }

    /// What a delay adds to the links between two nodes, each way; nothing for any other kind.
    #[must_use]
    pub fn latency(&self, one: &str, other: &str) -> Ms {
        let Self::Delay {
            links, latency, each, ..
        } = self
        else {
            return Ms(0);
        };
        let of = |(a, b): &(NodeName, NodeName)| (a == one && b == other) || (a == other && b == one);
        match links.iter().position(of) {
            Some(at) => each.get(at).copied().unwrap_or(*latency),
            None => Ms(0),
        }
    }

    /// The least latency that a delay adds to a link; `None` for any other kind.
    #[must_use]
    pub fn least_latency(&self) -> Option<Ms> {
        let Self::Delay { latency, each, .. } = self else {
            return None;
        };
        Some(each.iter().min().copied().unwrap_or(*latency))
    }

    /// The word of the scenario language.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Kill | Self::Remove(_) => "kill",
            Self::Drain => "drain",
            Self::Machine(_) => "machine",
            Self::Pause => "pause",
            Self::Stop => "stop",
            Self::Restart => "restart",
            Self::Upgrade => "upgrade",
            Self::Partition { .. } => "partition",
            Self::Isolate { .. } => "isolate",
            Self::Delay { .. } => "delay",
            Self::Loss { .. } => "loss",
            Self::Bandwidth { .. } => "bandwidth",
            Self::Stress(_) => "stress",
            Self::Fill(_) => "fill",
            Self::ReadOnly => "read_only",
            Self::Misbehave { .. } => "misbehave",
        }
    }
}

impl Targets {
    /// The nodes that it strikes or may strike.
    #[must_use]
    pub fn nodes(&self) -> &[NodeName] {
        match self {
            Self::Nodes(nodes) | Self::Leader { among: nodes } => nodes,
        }
    }
}
