//! The records of a run: the one stream that everything else is made from.
//!
//! Observer, engine and backend write records; the judge folds them, the terminal shows them, `records.jsonl` keeps them.
//! The judge is fed exactly what is written, in the written order, so that judging the file again gives the same verdict.
//! Equal samples are written once a second only (a heartbeat).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::verdict::{Finding, Report};
use crate::model::{BackendKind, Ms, NodeName};

/// What the engine tells the reporters of a run.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A record, after the judge was fed with it.
    Record(Stamped),
    /// The judge found something; follows the record that showed it.
    Finding(Finding),
    /// The run is over; the last event.
    Done(Report),
}

/// A value as a line of JSON, as every stream and file of ours has them.
///
/// # Errors
/// When it cannot be JSON: a map whose keys are no texts.
pub fn json_line(value: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(line)
}

/// One line of `records.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stamped {
    /// When the dispatcher took it in, in milliseconds since the start of the run, by a monotonic clock. Never decreases.
    pub at: Ms,
    /// What happened.
    pub record: Record,
}

/// Everything that can be recorded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Record {
    /// The first record.
    Begin {
        /// [`crate::model::FORMAT`].
        format: u32,
        /// The version of trialnet.
        trialnet: String,
        /// Unique among all runs.
        run: String,
        /// The scenario's name.
        scenario: String,
        /// The seed.
        seed: u64,
        /// The backend.
        backend: BackendKind,
        /// Unix time in milliseconds at `at` = 0, to match the records with the nodes' logs.
        wall: u64,
    },
    /// The run enters a phase.
    Phase(Phase),
    /// Time zero of the verdict: Q ≥ 1, and every node that starts by itself answers.
    Ready,
    /// A node's process.
    Node {
        /// Which node.
        node: NodeName,
        /// What happened to it.
        event: NodeEvent,
    },
    /// A node answered the status request.
    Sample(Sample),
    /// A node did not answer the status request.
    Silent {
        /// Which node.
        node: NodeName,
        /// When the request was sent.
        sent: Ms,
        /// Why there is no answer.
        cause: Silence,
        /// The error in words.
        detail: String,
    },
    /// Headers that a node gave, each recorded once per node unless it changed.
    Headers {
        /// Which node.
        node: NodeName,
        /// When the request was sent.
        sent: Ms,
        /// Ascending.
        headers: Vec<Header>,
    },
    /// The application's state at a height as a node gave it.
    AppState {
        /// Which node.
        node: NodeName,
        /// When the request was sent.
        sent: Ms,
        /// After the block of this height.
        height: u64,
        /// Upper-case hex.
        hash: String,
    },
    /// A node's peers, recorded when they change.
    Peers {
        /// Which node.
        node: NodeName,
        /// When the request was sent.
        sent: Ms,
        /// How many it has.
        count: u64,
        /// Their names (monikers), sorted.
        names: Vec<String>,
    },
    /// The validator set that a node reports, recorded when it changes.
    Validators {
        /// Which node.
        node: NodeName,
        /// When the request was sent.
        sent: Ms,
        /// The height that the set belongs to.
        height: u64,
        /// Power by node name; by the key where no node of the plan has it.
        powers: BTreeMap<String, u64>,
    },
    /// A poll came late: trialnet did not get the CPU in time. Recorded when above a tenth of the interval.
    Late {
        /// By how much.
        by: Ms,
        /// The interval that was meant.
        interval: Ms,
    },
    /// Trialnet's line to an observer that runs beside the nodes came up, or broke. The observations of the time without it follow it, with
    /// their own times.
    Observer {
        /// Whether the line is up.
        connected: bool,
        /// How well its clock is known, or why the line is down.
        detail: String,
    },
    /// A line of a node's log that some expectation of the plan looks for.
    Log {
        /// Which node.
        node: NodeName,
        /// Its component.
        component: String,
        /// The text that was looked for.
        pattern: String,
        /// The line, cut at 400 characters.
        line: String,
    },
    /// A step begins or ends.
    Step {
        /// Its index in the plan.
        step: usize,
        /// What happens.
        state: StepState,
    },
    /// A fault enters a state of its life.
    Fault {
        /// Its id.
        id: String,
        /// Which state.
        state: FaultState,
        /// The nodes that it strikes, as resolved.
        targets: Vec<NodeName>,
        /// The evidence in words: the signal, the pid, the bytes that did not move.
        detail: String,
    },
    /// A node moves to another version.
    Upgrade {
        /// The step's id.
        id: String,
        /// Which node.
        node: NodeName,
        /// The version that it ran before; a key of [`crate::model::Plan::versions`].
        from: String,
        /// The version to which it moves.
        to: String,
        /// Whether it goes back, because the upgrade has failed.
        back: bool,
        /// How far it has come.
        state: UpgradeState,
    },
    /// A transaction of a `tx` step.
    Tx {
        /// The step's id.
        id: String,
        /// What happened.
        event: TxEvent,
    },
    /// A summary of a `load` step, once a second and at its end.
    Load {
        /// The step's id.
        id: String,
        /// Sent so far.
        sent: u64,
        /// Accepted so far.
        accepted: u64,
        /// Refused or failed so far.
        refused: u64,
    },
    /// A moment at which something of the judge falls due; nothing else happened.
    Tick,
    /// Something outside the chain failed. The judge makes it a finding of class *infrastructure*.
    Trouble {
        /// Stable, for example `infra/program-missing`.
        code: String,
        /// The node, if it is about one.
        node: Option<NodeName>,
        /// What was expected.
        expected: String,
        /// What was seen, and the way out.
        seen: String,
    },
    /// Somebody asked trialnet to stop.
    Interrupted {
        /// For example `SIGINT`.
        signal: String,
    },
    /// The last record; a file without it belongs to a run that was cut off.
    End,
}

impl Record {
    /// Changes the time of sending that an observation tells: from the clock of whoever observed to another one.
    pub fn on_clock(&mut self, other: impl FnOnce(Ms) -> Ms) {
        match self {
            Self::Sample(Sample { sent, .. })
            | Self::Silent { sent, .. }
            | Self::Headers { sent, .. }
            | Self::AppState { sent, .. }
            | Self::Peers { sent, .. }
            | Self::Validators { sent, .. } => *sent = other(*sent),
            Self::Begin { .. }
            | Self::Phase(_)
            | Self::Ready
            | Self::Node { .. }
            | Self::Late { .. }
            | Self::Observer { .. }
            | Self::Log { .. }
            | Self::Step { .. }
            | Self::Fault { .. }
            | Self::Upgrade { .. }
            | Self::Tx { .. }
            | Self::Load { .. }
            | Self::Tick
            | Self::Trouble { .. }
            | Self::Interrupted { .. }
            | Self::End => {}
        }
    }
}

/// The phases of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Keys, genesis, homes.
    Preparing,
    /// Processes are being started.
    Starting,
    /// Steps.
    Running,
    /// After the last step: faults end, recovery is judged.
    Settling,
    /// Everything is being removed. What is observed from here on is not judged.
    TearingDown,
}

/// What happened to a node's process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeEvent {
    /// A process was started.
    Started {
        /// The component.
        component: String,
        /// Its process id.
        pid: u32,
        /// 1 for the first, counted over the whole run.
        generation: u32,
        /// The version that it was started with.
        version: String,
    },
    /// A process ended.
    Exited {
        /// The component.
        component: String,
        /// Its process id.
        pid: u32,
        /// Which generation.
        generation: u32,
        /// Its exit code.
        code: Option<i32>,
        /// The signal that ended it.
        signal: Option<i32>,
        /// Whether trialnet ended it, for a step or for teardown.
        asked: bool,
        /// The last lines of its log, at most 20; empty when it was asked to end.
        tail: Vec<String>,
    },
    /// The node's data was removed on purpose: its height may begin anew.
    Wiped,
    /// A file of the node was damaged on purpose while it was down: its height may begin anew, and it may not start.
    Damaged {
        /// Which one, below the node's first volume.
        file: String,
        /// Where its bits were turned over, in bytes from the beginning.
        offsets: Vec<u64>,
        /// The digest (SHA-256) of what stood there before, read by another than who damaged it.
        before: String,
        /// What stands there since.
        after: String,
    },
}

/// A node's answer to the status request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// Which node.
    pub node: NodeName,
    /// When the request was sent; samples of a node are ordered by it.
    pub sent: Ms,
    /// How long the answer took.
    pub took: Ms,
    /// The latest height; 0 before the first block.
    pub height: u64,
    /// The hash at that height, upper-case hex; empty before the first block.
    pub hash: String,
    /// Whether the node says that it is catching up.
    pub catching_up: bool,
    /// What it calls itself.
    pub version: String,
    /// The chain id that it reports.
    pub chain: String,
}

/// A block header as a node gave it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The height.
    pub height: u64,
    /// Upper-case hex.
    pub hash: String,
    /// The hash of the block before, upper-case hex; empty at the first height.
    pub parent: String,
    /// The block's own time, as the chain writes it.
    pub time: String,
}

/// Why a node did not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Silence {
    /// Nobody listens.
    Refused,
    /// No answer within the limit.
    Timeout,
    /// The connection broke.
    Broken,
    /// An answer that is not what the dialect says.
    Garbage,
    /// Trialnet's own tunnel to the node is down; the node may be well.
    Tunnel,
}

/// A step begins or ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepState {
    /// It waits for its `when`.
    Waiting,
    /// Its action begins; expectations count from here.
    Began,
    /// It is over. For `expect` the judge's answer is what counts.
    Ended,
    /// It could not be done.
    Failed {
        /// The finding's code.
        code: String,
        /// The verdict that it gives.
        class: crate::model::verdict::Class,
        /// What was expected.
        expected: String,
        /// What was seen.
        seen: String,
    },
}

/// The states of a fault's life, in their order; `NoEffect`, `Stronger` and `RevertFailed` may come at any point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultState {
    /// The step began and the targets are known.
    Planned,
    /// The injector said done.
    Injected,
    /// A probe from outside the injector saw the effect.
    Verified,
    /// The injector said undone.
    Reverted,
    /// A probe saw that the effect is gone.
    RevertVerified,
    /// No probe saw the effect in time, or it vanished before its end.
    NoEffect,
    /// A probe saw more struck than was asked.
    Stronger,
    /// The effect could not be taken back.
    RevertFailed,
    /// Healing a fault that has already ended: nothing to do.
    AlreadyEnded,
    /// A fault of a rehearsal was left out: there was no room for it when its time came.
    Skipped,
    /// Others have taken the places of these targets, for whom it is over, as the plan says (`on_restart = "drop"`).
    Dropped,
}

/// How far a node has come on its way to another version, in this order; `Failed` may come after any but the first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UpgradeState {
    /// It is about to be stopped.
    Begun,
    /// It has been started as the other version.
    Replaced,
    /// It answers, and says that it is the version that was wanted.
    Verified {
        /// What it calls itself.
        reports: String,
    },
    /// It is with the others again, and the network has grown.
    Gated {
        /// The quorum's height then.
        height: u64,
    },
    /// It did not get further.
    Failed {
        /// The finding's code.
        code: String,
        /// What was expected.
        expected: String,
        /// What was seen.
        seen: String,
    },
}

/// What happened to a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TxEvent {
    /// A node took it.
    Accepted {
        /// Which node.
        node: NodeName,
        /// The transaction's hash, upper-case hex.
        hash: String,
    },
    /// A node refused it.
    Refused {
        /// Which node.
        node: NodeName,
        /// Its words.
        why: String,
    },
    /// A node reports it as committed.
    Committed {
        /// Which node.
        node: NodeName,
        /// In the block of this height.
        height: u64,
        /// The application's result code; 0 is success.
        code: u64,
    },
    /// A node that had reported it does not know it any more.
    Lost {
        /// Which node.
        node: NodeName,
    },
}

/// The monotonic clock of a run: milliseconds since its start. A copy reads the same clock.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: tokio::time::Instant,
}

impl Clock {
    /// Starts now.
    #[must_use]
    pub fn start() -> Self {
        Self {
            origin: tokio::time::Instant::now(),
        }
    }

    /// Milliseconds since the start.
    #[must_use]
    pub fn now(&self) -> Ms {
        self.origin.elapsed().into()
    }

    /// The moment of the runtime's clock at which `at` is reached.
    #[must_use]
    pub fn instant(&self, at: Ms) -> tokio::time::Instant {
        self.origin + at.duration()
    }
}
