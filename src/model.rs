//! Plain, valid data: what a scenario means once every check has passed.
//!
//! A [`Plan`] is all that the engine, the judge and the chain adapters see of a scenario file. It is written to
//! `plan.json` in the run folder, so that a run can be judged again later without the file it came from.

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
    /// The in-memory double that the tests of engine, judge and teardown use.
    Memory,
}

/// Which chain's adapter makes and reads the nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChainKind {
    /// Trialnet's own small BFT chain.
    Devnode,
    /// CometBFT with its built-in kvstore application.
    Cometbft,
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
    /// Data goes with the process.
    Ephemeral,
}

/// What a version name stands for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// A program on PATH or a path to one, for the local backend.
    pub binary: Option<String>,
    /// An image, for backends that run images.
    pub image: Option<String>,
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

/// The kinds of faults, each with what only it has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultKind {
    /// SIGKILL; the process is held down.
    Kill,
    /// SIGSTOP.
    Pause,
    /// SIGTERM with a grace, then SIGKILL; the process is held down.
    Stop,
    /// Stopped gracefully, started at once; ends when the node answers again.
    Restart,
    /// Links between different sides are cut.
    Partition {
        /// Disjoint sides that together hold every node.
        sides: Vec<Vec<NodeName>>,
        /// Which traffic.
        plane: Plane,
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
        /// Added to each packet or chunk, in each direction.
        latency: Ms,
        /// Uniform in ±jitter around `latency`; at most `latency`.
        jitter: Ms,
    },
    /// The devnode is told to misbehave.
    Misbehave {
        /// The devnode's own words for it, for example `wrong-hash@12`.
        how: String,
        /// Whether the target's voting power counts as faulty in the arithmetic.
        byzantine: bool,
    },
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
    /// Whenever the platform ends it: a dead process stays dead on the local backend.
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

    /// The fault with this id.
    #[must_use]
    pub fn fault(&self, id: &str) -> Option<&Fault> {
        self.faults().map(|(_, fault)| fault).find(|fault| fault.id == id)
    }
}

impl FaultKind {
    /// The word of the scenario language.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Pause => "pause",
            Self::Stop => "stop",
            Self::Restart => "restart",
            Self::Partition { .. } => "partition",
            Self::Isolate { .. } => "isolate",
            Self::Delay { .. } => "delay",
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
