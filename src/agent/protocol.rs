//! What trialnet and its guard say to each other: one JSON value on each line.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::tamper::Tamper;
use crate::backend::{Damage, LinkId, LinkShape, Trouble};
use crate::model::{Ms, NodeName};
use crate::record::NodeEvent;

/// The version of what is said. Both ends are the same executable, except when it was replaced in the middle of a run.
pub const PROTOCOL: u32 = 3;

/// Trialnet asks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Call {
    /// Given back with the reply.
    pub id: u64,
    /// What is asked.
    pub ask: Ask,
}

/// What can be asked of the guard.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Ask {
    /// The first question: whose guard it is.
    Setup(Setup),
    /// Takes the first free slot that is none of these, and gives one up that it holds. Answered with [`Reply::Slot`].
    Claim {
        /// Slots in which addresses turned out to be taken.
        except: Vec<u8>,
    },
    /// What nodes are made of. A node that does not run may be defined anew.
    Define(Vec<NodeDef>),
    /// Opens the proxies of these links.
    Link(Vec<LinkDef>),
    /// Starts those components of these nodes that are down.
    Start(Vec<NodeName>),
    /// SIGKILL, for all components or one. Answered when the processes are gone.
    Kill(NodeName, Option<String>),
    /// SIGTERM, and SIGKILL after the grace. Answered when all processes of the node are gone.
    Stop(NodeName, Ms),
    /// Damages files of a node that is down.
    Corrupt(NodeName, Vec<Damage>),
    /// SIGSTOP.
    Pause(NodeName),
    /// SIGCONT.
    Resume(NodeName),
    /// Sets the state of all links.
    Shape(Vec<LinkShape>),
    /// Keeps the leases alive.
    Renew,
    /// Outlives whoever began it, for this time at most: from now on the guard is also reached at the run's socket, and what is said there
    /// has the same form.
    Stay(Ms),
    /// What processes there are. Answered with [`Reply::Nodes`].
    Describe,
    /// Runs a program to its end. Answered with [`Reply::Job`].
    Job(JobDef),
    /// Puts everything back and ends. Answered with [`Reply::Left`].
    Teardown {
        /// Between SIGTERM and SIGKILL.
        grace: Ms,
        /// Whether the node homes stay.
        keep_homes: bool,
    },
}

/// Whose guard it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Setup {
    /// The id of the run.
    pub run: String,
    /// The scenario's name.
    pub scenario: String,
    /// Trialnet's own process id.
    pub owner: u32,
    /// Trialnet's executable, which is also the shim.
    pub exe: PathBuf,
    /// The run folder.
    pub run_dir: PathBuf,
    /// The folder of the node homes, removed at the end.
    pub homes: PathBuf,
    /// The folder of the registry.
    pub state_dir: PathBuf,
    /// How long faults stay without a renewal.
    pub lease: Ms,
    /// How to be wrong on purpose.
    pub tamper: Option<Tamper>,
}

/// A node as the guard sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeDef {
    /// Its name.
    pub name: NodeName,
    /// Where its processes start.
    pub home: PathBuf,
    /// Where its first volume is; `None`: it has none.
    #[serde(default)]
    pub data: Option<PathBuf>,
    /// Its processes.
    pub components: Vec<ComponentDef>,
}

/// A process of a node as the guard sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ComponentDef {
    /// Its name.
    pub name: String,
    /// For records.
    pub version: String,
    /// The program's path.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its whole environment.
    pub env: BTreeMap<String, String>,
    /// Where its output goes.
    pub log: PathBuf,
}

/// A link as the guard sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LinkDef {
    /// Which link.
    pub link: LinkId,
    /// Where the dialling node reaches it.
    pub listen: SocketAddr,
    /// Where the dialled node listens.
    pub target: SocketAddr,
    /// The address that the dialled node sees as its peer's.
    pub source: Option<IpAddr>,
}

/// A component's process as the guard knows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProcessNow {
    /// The node.
    pub node: NodeName,
    /// The component.
    pub component: String,
    /// Of the last generation, if there was one.
    pub pid: Option<u32>,
    /// How many there were.
    pub generation: u32,
}

/// A program that runs to its end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobDef {
    /// For messages.
    pub name: String,
    /// The program's path.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its whole environment.
    pub env: BTreeMap<String, String>,
    /// Where it starts.
    pub home: PathBuf,
    /// How long it may take.
    pub limit: Ms,
    /// Where its standard output goes.
    pub stdout: PathBuf,
    /// Where its standard error goes.
    pub stderr: PathBuf,
}

/// The guard speaks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Said {
    /// The answer to a question.
    Answer {
        /// Which question.
        id: u64,
        /// The answer.
        result: Result<Reply, Trouble>,
    },
    /// Something happened to a node's process.
    Node {
        /// Which node.
        node: NodeName,
        /// What.
        event: NodeEvent,
    },
    /// Something outside the chain failed.
    Trouble(Trouble),
}

/// The guard's answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    /// It is done.
    Done,
    /// The slot of addresses that it holds; `None` where the system has no slots.
    Slot(Option<u8>),
    /// How a job ended.
    Job {
        /// Its exit code; `None`: ended by a signal.
        code: Option<i32>,
        /// Whether it took longer than its limit.
        late: bool,
    },
    /// Every component of every node.
    Nodes(Vec<ProcessNow>),
    /// What is left after the teardown, in words.
    Left(Vec<String>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_survive_the_way_through_json() {
        let trouble = crate::agent::node_trouble("infra/x", "a", "one", "two");
        for said in [
            Said::Answer {
                id: 7,
                result: Ok(Reply::Slot(Some(3))),
            },
            Said::Answer {
                id: 8,
                result: Err(trouble),
            },
        ] {
            let line = serde_json::to_string(&said).unwrap();
            assert!(!line.contains('\n'));
            assert_eq!(serde_json::from_str::<Said>(&line).unwrap(), said);
        }
    }
}
