//! What a supervisor is told to run, and what it and trialnet say to each other: one JSON value on each line of a TCP connection.
//!
//! The supervisor listens at a loopback port of its pod, which only the pod's own containers and a port-forward reach. Any number of
//! connections may be open at once; each is told of all events.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::backend::{
    Damage, Digest, LinkEvidence, LinkId, LinkLook, LinkShape, RunState, Stressed, Trouble, Volley, Writable, Write,
};
use crate::model::{Ms, NodeName, Stress};
use crate::record::NodeEvent;

/// The version of the spec and of what is said.
pub const PROTOCOL: u32 = 4;

/// What a supervisor runs: the file that `trialnet supervise --spec FILE` is given.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spec {
    /// [`PROTOCOL`].
    pub protocol: u32,
    /// The id of the run.
    pub run: String,
    /// The node.
    pub node: NodeName,
    /// The component's name, unique in the node.
    pub component: String,
    /// Its version, for records.
    pub version: String,
    /// The command that runs trialnet itself in this container, up to its arguments.
    pub own: Vec<String>,
    /// The program's path or name in the container; `None`: trialnet itself.
    pub program: Option<PathBuf>,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its environment over that of the container.
    pub env: BTreeMap<String, String>,
    /// Where it starts; made if it is not there.
    pub home: PathBuf,
    /// The volumes that a wipe empties, as this container sees them.
    pub volumes: Vec<PathBuf>,
    /// Files that are copied before each start.
    pub files: Vec<SpecFile>,
    /// The links that this component dials. They have a proxy each, in the supervisor.
    pub links: Vec<SpecLink>,
    /// Where the supervisor listens, at 127.0.0.1.
    pub control: u16,
    /// A folder that outlives the container but not the pod: generations, events, and whether the process is held down.
    pub state: PathBuf,
    /// Whether the process starts by itself in a new pod.
    pub started: bool,
    /// How long faults stay without a renewal.
    pub lease: Ms,
    /// What its links suffer in a new pod until it is told, under a lease that begins with it: what was cut before stays so.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shapes: Vec<LinkShape>,
}

/// A file that is copied before each start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpecFile {
    /// Where it is mounted.
    pub from: PathBuf,
    /// Where the program wants it.
    pub to: PathBuf,
    /// A key: mode 0600.
    pub secret: bool,
    /// When it is written.
    pub write: Write,
}

/// A link that the component dials.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpecLink {
    /// Which link.
    pub link: LinkId,
    /// Where the component reaches it: a loopback address of the pod.
    pub listen: SocketAddr,
    /// The host name of the dialled node (its Service), or an address.
    pub host: String,
    /// Its port.
    pub port: u16,
}

/// Trialnet asks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Call {
    /// Given back with the reply; unique on its connection.
    pub id: u64,
    /// What is asked.
    pub ask: Ask,
}

/// What can be asked of a supervisor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Ask {
    /// The first question on each connection: who is there, and all events after the one of this number (0: all). Answered with
    /// [`Reply::Hello`]; troubles that nobody has heeded and the events follow.
    Hello {
        /// The number of the last event that the asker has of this pod. One that is yet to come is of another pod, and counts as 0.
        after: u64,
    },
    /// Starts the process if it is down.
    Start,
    /// SIGKILL, and holds it down under the lease. Answered when all its processes are gone.
    Kill,
    /// Another component of the node is held down, under the lease: should this process end by itself meanwhile, it starts again with that one.
    Attend,
    /// SIGKILL, and then the supervisor itself ends with code 137, so that the platform starts the container again. Answered before that.
    Crash,
    /// SIGTERM, SIGKILL after the grace, and holds it down under the lease. Answered when all its processes are gone.
    Stop(Ms),
    /// SIGSTOP, under the lease.
    Pause,
    /// SIGCONT.
    Resume,
    /// Sets the state of all links of this component, under the lease: those not named are clear.
    Shape(Vec<LinkShape>),
    /// Sets what is used beside the program, by the ids of faults, under the lease: what is not named ends.
    Stress(BTreeMap<String, Stress>),
    /// What the kernel says of what is used for this fault: looked up by a process of its own. Answered with [`Reply::Stressed`].
    Stressed(String),
    /// This trouble was heard, and need not be said again.
    Heed(u64),
    /// Keeps the lease alive.
    Renew,
    /// Empties the volumes; the process must be down.
    Wipe,
    /// Damages files in the first volume; the process must be down.
    Corrupt(Vec<Damage>),
    /// The files in the first volume that a pattern names: read by a process of its own. Answered with [`Reply::Digests`].
    Digests(String),
    /// The first volume is about to be read-only for a fault, under the lease: should that run out, the container ends, since only a new one has it as it
    /// was. Or it is no longer.
    Lock(bool),
    /// Whether the first volume can be written to: tried by a process of its own. Answered with [`Reply::Volume`].
    Volume,
    /// What the kernel says of the process: looked up by a process of its own. Answered with [`Reply::State`].
    State,
    /// What can be seen of links of this component: looked at by a process of its own. Answered with [`Reply::Links`].
    Probe {
        /// Which.
        links: Vec<LinkId>,
        /// How.
        look: LinkLook,
    },
    /// Counts the datagrams that come to a new port of the pod, for a short while. A process of its own does. Answered with
    /// [`Reply::Listens`].
    Listen,
    /// Sends datagrams to ports that listen. A process of its own does. Answered with [`Reply::Sent`] when all have left.
    Send {
        /// Where to.
        to: Vec<SocketAddr>,
        /// Who sends, for the one who counts.
        sender: u16,
        /// How many to each, and how.
        volley: Volley,
    },
    /// What came to a port that listens, which it no longer does then. Answered with [`Reply::Heard`].
    Heard {
        /// Which.
        port: u16,
    },
}

/// The supervisor speaks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Said {
    /// The answer to a question of this connection.
    Answer {
        /// Which question.
        id: u64,
        /// The answer.
        result: Result<Reply, Trouble>,
    },
    /// Something happened.
    Event {
        /// From 1, counted over all containers of this pod.
        number: u64,
        /// What; the generation in it is counted over this pod.
        event: NodeEvent,
    },
    /// Something outside the chain failed, for example a lease that ran out. Said to all, and again on each new connection until somebody has heeded it.
    Trouble {
        /// Another one for each trouble of a pod; 0: it is not said again.
        id: u64,
        /// What.
        trouble: Trouble,
    },
}

/// The supervisor's answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    /// It is done.
    Done,
    /// Who is there.
    Hello {
        /// [`PROTOCOL`].
        protocol: u32,
        /// The node.
        node: NodeName,
        /// The component.
        component: String,
        /// The number of the last event so far.
        last: u64,
        /// Which container of this pod it is, from 1.
        #[serde(default)]
        container: u32,
    },
    /// What the kernel says of the process.
    State {
        /// The process id of the last generation, in the container's own count.
        pid: Option<u32>,
        /// The last generation, counted over this pod.
        generation: u32,
        /// What the process does.
        run: RunState,
    },
    /// What was seen of the links, in the order of the question.
    Links(Vec<LinkEvidence>),
    /// What stands in files.
    Digests(Vec<Digest>),
    /// Whether the first volume can be written to.
    Volume(Writable),
    /// What the kernel says of what is used beside the program; `None`: nothing is.
    Stressed(Option<Stressed>),
    /// All datagrams have left.
    Sent {
        /// How long that took.
        took: Ms,
    },
    /// Datagrams are counted at this port.
    Listens {
        /// Which.
        port: u16,
    },
    /// What came.
    Heard {
        /// How many datagrams of each sender.
        counts: BTreeMap<u16, u32>,
        /// How many more the system received and could not hand over in time: whose, nobody knows.
        overrun: u64,
    },
}
