//! The observer: asks every node by itself, and writes what it hears as records. It interprets nothing and shares no state with the
//! engine.
//!
//! Each node has two tasks, one for `/status` at the observing rate and one for everything else, each with at most one request in
//! flight: a node that hangs costs its own samples only, and its headers never wait for its status. What changed is written at
//! once; what is equal only once a second, as a heartbeat.
//!
//! It runs in trialnet's own process, or as a process beside the nodes ([`pod`]), whose records come over a [`mod@line`] then.

mod details;
mod given;
pub mod line;
mod logs;
pub mod pod;
mod spool;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::backend::Endpoint;
use crate::chain::Dialect;
use crate::chain::rpc::{Client, Rpc, RpcError, Status};
use crate::model::{Ms, NodeName};
use crate::record::{Clock, Record, Sample, Silence};

/// How often an equal sample is written all the same.
pub const HEARTBEAT: Ms = Ms::secs(1);

/// What to observe, and how.
#[derive(Clone, Debug)]
pub struct Config {
    /// The nodes, started or not: one that nobody has started yet is silent.
    pub targets: Vec<Target>,
    /// How often each node is asked for its status.
    pub interval: Ms,
    /// How long an answer may take before the node counts as silent.
    pub timeout: Ms,
    /// What to look for in logs.
    pub patterns: Vec<Pattern>,
    /// Whose the validators are: node names by address (upper-case hex).
    pub validators: BTreeMap<String, NodeName>,
    /// So many blocks below a node's tip may still be replaced: nothing is read of them but that there is a tip.
    pub depth: u64,
}

/// In a network of so few nodes each is asked more often until its first answer, so that *ready* is not seen late.
const FEW: u64 = 20;
/// So often.
const EAGER: Ms = Ms(20);
/// But no longer than this: a node that is started by a later step is asked at the usual interval.
const EAGER_FOR: Duration = Duration::from_secs(5);

/// A node to observe.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its name.
    pub node: NodeName,
    /// Where its RPC answers; the same over restarts.
    pub endpoint: Endpoint,
    /// How it is talked to.
    pub dialect: Dialect,
    /// Its logs, by component; they need not exist yet.
    pub logs: Vec<(String, PathBuf)>,
}

/// What to look for in logs.
#[derive(Clone, Debug)]
pub struct Pattern {
    /// Lines that contain this text.
    pub text: String,
    /// In the logs of these nodes.
    pub nodes: Vec<NodeName>,
}

/// Observes until `cancel`, or until nobody listens to `out`; the task then ends by itself. A full channel slows the observer down rather
/// than losing records. Must be called in a tokio runtime.
pub fn observe(config: Config, clock: Clock, out: mpsc::Sender<Record>, cancel: CancellationToken) -> JoinHandle<()> {
    tokio::spawn(async move {
        let output = Output { out, clock };
        match Client::new() {
            Ok(client) => Box::pin(all(config, &client, output, cancel)).await,
            Err(error) => {
                let trouble = Record::Trouble {
                    code: "infra/rpc".into(),
                    node: None,
                    expected: "a client for the nodes' RPC".into(),
                    seen: error.to_string(),
                };
                // If nobody listens any more, nobody misses it.
                let _end = output.write(trouble).await;
            }
        }
    })
}

/// Looks for the patterns in the logs, which are on this machine, and at nothing else; `cancel` and `out` as with [`observe`].
pub fn follow_logs(
    config: &Config,
    clock: Clock,
    out: mpsc::Sender<Record>,
    cancel: CancellationToken,
) -> JoinHandle<()> {
    let following = logs::follow(&config.targets, &config.patterns, Output { out, clock }, cancel);
    tokio::spawn(async {
        let _end = following.await;
    })
}

/// Where records go.
#[derive(Clone)]
struct Output {
    out: mpsc::Sender<Record>,
    clock: Clock,
}

/// How long a turn is in which nodes are asked.
const TURN: Ms = Ms(20);

/// Nobody listens any more.
struct Closed;

impl Output {
    async fn write(&self, record: Record) -> Result<(), Closed> {
        self.out.send(record).await.map_err(|_| Closed)
    }

    fn now(&self) -> Ms {
        self.clock.now()
    }
}

/// What a node's status task tells its other task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    /// The last height it gave.
    height: u64,
    /// The lowest height that it has.
    earliest: u64,
    /// Whether it answered last time.
    answers: bool,
    /// Grows when the node may be another than before: it was silent, or went back.
    epoch: u32,
}

async fn all(config: Config, client: &Client, output: Output, cancel: CancellationToken) {
    let Config {
        targets,
        interval,
        timeout,
        patterns,
        validators,
        depth,
    } = config;
    let mut tasks = JoinSet::new();
    let late = Arc::new(AtomicU64::new(0));
    let validators = Arc::new(validators);
    let count = u64::try_from(targets.len()).unwrap_or(u64::MAX).max(1);
    // With many nodes headers are fetched less often, in larger batches.
    let pause = Duration::from_millis((5 * count).clamp(100, 1_000));
    let logs = logs::follow(&targets, &patterns, output.clone(), cancel.clone());
    // This one ends by itself when cancelled, after a last look.
    tasks.spawn(async {
        let _end = logs.await;
    });
    tasks.spawn(until(cancel.clone(), lateness(late.clone(), interval, output.clone())));
    for (target, place) in targets.into_iter().zip(0_u64..) {
        let (sender, receiver) = watch::channel(Seen::default());
        // Nodes are asked in turn rather than all at the same moment; many take a turn together, so that this process is woken less often.
        let offset = Ms(interval.0 * place / count / TURN.0 * TURN.0).duration();
        let rpc = client.node(target.endpoint, target.dialect, timeout);
        let details = details::Details::new(
            target.node.clone(),
            rpc.clone(),
            validators.clone(),
            depth,
            output.clone(),
        );
        tasks.spawn(until(cancel.clone(), details.run(receiver, pause, offset)));
        let poller = Poller {
            node: target.node,
            rpc,
            interval,
            eager: if count <= FEW { EAGER.min(interval) } else { interval },
            output: output.clone(),
            late: late.clone(),
            seen: sender,
            written: None,
        };
        tasks.spawn(until(cancel.clone(), poller.run(offset)));
    }
    let ended = async { while tasks.join_next().await.is_some() {} };
    tokio::select! {
        () = ended => {}
        // Dropping the set ends what is left.
        () = output.out.closed() => {}
    }
}

/// Runs a task until it is cancelled, or until nobody listens.
async fn until(cancel: CancellationToken, task: impl Future<Output = Result<(), Closed>>) {
    // Both ends are ordinary.
    let _end = Box::pin(cancel.run_until_cancelled(task)).await;
}

/// Asks one node for its status.
struct Poller {
    node: NodeName,
    rpc: Rpc,
    interval: Ms,
    /// How often it is asked until its first answer.
    eager: Ms,
    output: Output,
    late: Arc<AtomicU64>,
    seen: watch::Sender<Seen>,
    /// What was written last, and when its request was sent.
    written: Option<(Said, Ms)>,
}

/// What a node said, without what differs from one answer to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Said {
    Status(Status),
    Nothing(Silence),
}

impl Poller {
    async fn run(mut self, offset: Duration) -> Result<(), Closed> {
        let began = Instant::now();
        let mut due = began + offset.min(self.eager.duration());
        let mut answered = false;
        loop {
            sleep_until(due).await;
            let late = Ms::from(Instant::now().saturating_duration_since(due));
            self.late.fetch_max(late.0, Ordering::Relaxed);
            let sent = self.output.now();
            let answer = self.rpc.status().await;
            answered |= answer.is_ok();
            self.tell(&answer);
            self.write(sent, answer).await?;
            let pause = if answered || began.elapsed() > EAGER_FOR {
                self.interval
            } else {
                self.eager
            };
            // A slow answer delays the next request; it does not make several follow at once.
            due = (due + pause.duration()).max(Instant::now());
        }
    }

    async fn write(&mut self, sent: Ms, answer: Result<Status, RpcError>) -> Result<(), Closed> {
        let took = self.output.now().since(sent);
        let (said, detail) = match answer {
            Ok(status) => (Said::Status(status), String::new()),
            Err(error) => {
                let (cause, detail) = error.silence();
                (Said::Nothing(cause), detail)
            }
        };
        // Half an interval of grace, so that heartbeats are a second apart and not one interval more.
        let due = |at: &Ms| sent.since(*at).0 + self.interval.0 / 2 >= HEARTBEAT.0;
        if self
            .written
            .as_ref()
            .is_some_and(|(last, at)| *last == said && !due(at))
        {
            return Ok(());
        }
        self.written = Some((said.clone(), sent));
        let node = self.node.clone();
        let record = match said {
            Said::Status(status) => Record::Sample(Sample {
                node,
                sent,
                took,
                height: status.height,
                hash: status.hash,
                catching_up: status.catching_up,
                version: status.version,
                chain: status.chain,
            }),
            Said::Nothing(cause) => Record::Silent {
                node,
                sent,
                cause,
                detail,
            },
        };
        self.output.write(record).await
    }

    /// Tells the other task what it has to know.
    fn tell(&self, answer: &Result<Status, RpcError>) {
        self.seen.send_if_modified(|seen| {
            let before = *seen;
            match answer {
                Ok(status) => {
                    if !before.answers || status.height < before.height {
                        seen.epoch = seen.epoch.wrapping_add(1);
                    }
                    seen.height = status.height;
                    seen.earliest = status.earliest;
                    seen.answers = true;
                }
                Err(_) => seen.answers = false,
            }
            *seen != before
        });
    }
}

/// Once a second, the worst lateness of that second, if it is above a tenth of the interval.
async fn lateness(worst: Arc<AtomicU64>, interval: Ms, output: Output) -> Result<(), Closed> {
    let mut due = Instant::now();
    loop {
        due = due.max(Instant::now()) + Duration::from_secs(1);
        sleep_until(due).await;
        let by = Ms(worst.swap(0, Ordering::Relaxed));
        if by.0 * 10 > interval.0 {
            output.write(Record::Late { by, interval }).await?;
        }
    }
}

#[cfg(test)]
mod tests;
