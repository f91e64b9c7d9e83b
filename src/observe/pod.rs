//! The observer as a process of its own: `trialnet observe-pod`, in a pod beside the nodes.
//!
//! It runs the same code as the one in trialnet's own process, and keeps its records, numbered, on disk until they are fetched. Trialnet's end of
//! the conversation is [`super::line`]: one JSON value on each line of a TCP connection, which only a port-forward reaches. Its times are those of
//! its machine's monotonic clock, which goes on when the container is started again.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::spool::{Reader, Spool};
use super::{Config, Target, observe};
use crate::backend::ObserverFile;
use crate::chain::Dialect;
use crate::model::{Ms, NodeName};
use crate::record::{Clock, Record, json_line};

/// The version of the settings and of what is said.
pub const PROTOCOL: u32 = 2;
/// Where nothing is recorded, whoever follows is told so this often.
const MARK: Duration = Duration::from_millis(50);
/// Bytes of records that are sent at once.
const CHUNK: usize = 64 * 1024;
/// How long a connection may take no bytes before it is given up.
const STUCK: Duration = Duration::from_secs(30);
/// How long the names of the nodes may be unknown.
const NAMES: Duration = Duration::from_secs(30);
/// Between two looks for them.
const AGAIN: Duration = Duration::from_millis(200);
/// Records on their way to the disk.
const ON_THEIR_WAY: usize = 1024;
/// The file that says which observer it is.
const WHO: &str = "who";

/// Arguments of the hidden subcommand `observe-pod`.
#[derive(Clone, Debug, clap::Args)]
pub struct ObservePodArgs {
    /// The file that says whom to observe
    #[arg(long)]
    pub config: PathBuf,
}

/// How nodes are observed: [`crate::backend::Observer::settings`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// [`PROTOCOL`].
    pub protocol: u32,
    /// How all nodes are talked to.
    pub dialect: Dialect,
    /// [`Config::interval`].
    pub interval: Ms,
    /// [`Config::timeout`].
    pub timeout: Ms,
    /// [`Config::validators`].
    pub validators: BTreeMap<String, NodeName>,
    /// [`Config::depth`].
    #[serde(default)]
    pub depth: u64,
}

/// Trialnet asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// The first question: who is there. Answered with [`Said::Hello`].
    Hello {
        /// [`PROTOCOL`].
        protocol: u32,
    },
    /// What time it is. Answered with [`Said::Clock`].
    Clock {
        /// Given back with the answer.
        id: u64,
    },
    /// All records after this one, and from then on each as it is made.
    Follow {
        /// The number of the last record that the asker has; 0: none.
        after: u64,
    },
    /// Everything up to this record has arrived.
    Have {
        /// Its number.
        number: u64,
    },
}

/// The observer speaks. All times are its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Said {
    /// Who is there.
    Hello {
        /// [`PROTOCOL`].
        protocol: u32,
        /// Which observer: another one has other records and another clock.
        who: String,
    },
    /// What time it is.
    Clock {
        /// Which question.
        id: u64,
        /// The time.
        now: Ms,
    },
    /// A record.
    Record {
        /// From 1, without a gap.
        number: u64,
        /// When it was made; never before that of the record before it.
        at: Ms,
        /// What was observed.
        record: Record,
    },
    /// Every record that was made before this moment has been sent.
    Upto {
        /// The moment.
        at: Ms,
    },
}

/// An observer that keeps its records until they are fetched.
pub struct Pod {
    spool: Spool,
    who: String,
}

impl Pod {
    /// Observes until `cancel`; goes on with the records that are in the folder. The task ends early only when a record cannot be kept. Must be
    /// called in a tokio runtime.
    ///
    /// # Errors
    /// When the folder cannot be used.
    pub fn start(
        config: Config,
        folder: &Path,
        cancel: CancellationToken,
    ) -> io::Result<(Arc<Self>, JoinHandle<io::Result<()>>)> {
        let who = identity(folder)?;
        let spool = Spool::open(folder, monotonic)?;
        let pod = Arc::new(Self { spool, who });
        let (out, mut records) = mpsc::channel(ON_THEIR_WAY);
        let origin = monotonic();
        drop(observe(config, Clock::start(), out, cancel));
        let keeper = Arc::clone(&pod);
        let keeping = tokio::spawn(async move {
            while let Some(mut record) = records.recv().await {
                record.on_clock(|at| origin + at);
                keeper.spool.write(record).await?;
            }
            Ok(())
        });
        Ok((pod, keeping))
    }

    /// Answers on one connection until it ends; any number may be open.
    ///
    /// # Errors
    /// When the connection breaks, or brings what is not understood.
    pub async fn serve(&self, stream: impl AsyncRead + AsyncWrite + Send + Unpin) -> io::Result<()> {
        let (read, write) = tokio::io::split(stream);
        let (ask, mut asked) = mpsc::unbounded_channel();
        let listen = async move {
            let mut lines = BufReader::new(read).lines();
            while let Some(line) = lines.next_line().await? {
                let question = serde_json::from_str::<Ask>(&line)?;
                if ask.send(question).is_err() {
                    break;
                }
            }
            Ok(())
        };
        tokio::select! {
            ended = listen => ended,
            ended = self.speak(write, &mut asked) => ended,
        }
    }

    /// Keeps a record as if it had been observed.
    #[cfg(test)]
    pub(super) async fn keep(&self, record: Record) {
        self.spool.write(record).await.unwrap();
    }

    async fn speak(
        &self,
        mut write: impl AsyncWrite + Send + Unpin,
        asked: &mut mpsc::UnboundedReceiver<Ask>,
    ) -> io::Result<()> {
        let mut last = self.spool.last();
        let mut reader: Option<Reader> = None;
        loop {
            if let Some(reader) = &mut reader {
                last.borrow_and_update();
                let mark = self.spool.mark();
                loop {
                    let mut text = Vec::new();
                    while text.len() < CHUNK && reader.read(&self.spool, mark.last, &mut text)? {}
                    if text.is_empty() {
                        break;
                    }
                    send(&mut write, &text).await?;
                }
                say(&mut write, &Said::Upto { at: mark.at }).await?;
            }
            tokio::select! {
                ask = asked.recv() => match ask {
                    None => return Ok(()),
                    Some(Ask::Hello { .. }) => {
                        let who = self.who.clone();
                        say(&mut write, &Said::Hello { protocol: PROTOCOL, who }).await?;
                    }
                    Some(Ask::Clock { id }) => say(&mut write, &Said::Clock { id, now: monotonic() }).await?,
                    Some(Ask::Follow { after }) => reader = Some(self.spool.reader(after)?),
                    Some(Ask::Have { number }) => self.spool.acknowledge(number),
                },
                Ok(()) = last.changed(), if reader.is_some() => {}
                () = sleep(MARK), if reader.is_some() => {}
            }
        }
    }
}

async fn say(write: &mut (impl AsyncWrite + Unpin), said: &Said) -> io::Result<()> {
    send(write, &json_line(said)?).await
}

async fn send(write: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    let sending = async {
        write.write_all(bytes).await?;
        write.flush().await
    };
    timeout(STUCK, sending).await.map_err(|_| io::ErrorKind::TimedOut)?
}

/// Milliseconds since the machine began, whichever process asks.
fn monotonic() -> Ms {
    // The clock is always there.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Ms(0), |time| Duration::from(time).into())
}

/// Which observer this is: the same as before if its records are still there and the machine, whose clock they have, did not begin anew.
fn identity(folder: &Path) -> io::Result<String> {
    // Where there is none a machine that began anew is not noticed.
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let boot = boot.trim();
    let path = folder.join(WHO);
    match std::fs::read_to_string(&path) {
        Ok(who) if who.ends_with(boot) && !who.is_empty() => return Ok(who),
        Ok(_) => std::fs::remove_dir_all(folder)?,
        Err(_) => {}
    }
    std::fs::create_dir_all(folder)?;
    let who = format!("{:016x}-{boot}", rand::random::<u64>());
    std::fs::write(path, &who)?;
    Ok(who)
}

/// Runs as the observer in a pod, until SIGTERM.
#[must_use]
pub fn run(ObservePodArgs { config }: &ObservePodArgs) -> ExitCode {
    match try_run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log(&error);
            ExitCode::FAILURE
        }
    }
}

/// Writes a line to standard error, which is the container's log.
fn log(what: impl std::fmt::Display) {
    // Nothing can be done about a log that cannot be written.
    drop(writeln!(io::stderr(), "trialnet observe-pod: {what}"));
}

fn try_run(config: &Path) -> io::Result<()> {
    let file: ObserverFile = serde_json::from_slice(&fs_err::read(config)?)?;
    let settings = Settings::deserialize(&file.settings)?;
    if settings.protocol != PROTOCOL {
        let version = settings.protocol;
        return Err(io::Error::other(format!(
            "the settings are of version {version}, this program of version {PROTOCOL}"
        )));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let result = runtime.block_on(Box::pin(observe_and_serve(file, settings)));
    runtime.shutdown_background();
    result
}

async fn observe_and_serve(file: ObserverFile, settings: Settings) -> io::Result<()> {
    // The first process of a container has to ask for the signals that end others.
    let mut term = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let ObserverFile {
        listen,
        spool,
        targets,
        settings: _,
    } = file;
    let listener = TcpListener::bind(("127.0.0.1", listen)).await?;
    let mut found = Vec::new();
    for (node, place) in targets {
        found.push(Target {
            endpoint: resolve(&node, &place).await?.into(),
            node,
            dialect: settings.dialect,
            logs: Vec::new(),
        });
    }
    let config = Config {
        targets: found,
        interval: settings.interval,
        timeout: settings.timeout,
        patterns: Vec::new(),
        validators: settings.validators,
        depth: settings.depth,
    };
    let (pod, mut keeping) = Pod::start(config, &spool, CancellationToken::new())?;
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    // Without it marks are only slower.
                    drop(stream.set_nodelay(true));
                    let pod = Arc::clone(&pod);
                    // A connection that breaks is made again by the other side.
                    tokio::spawn(Box::pin(async move { drop(pod.serve(stream).await) }));
                }
                // Out of files, or gone already: neither is helped by asking again at once.
                Err(_) => sleep(AGAIN).await,
            },
            ended = &mut keeping => return ended.unwrap_or_else(|error| Err(io::Error::other(error))),
            _ = term.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
        }
    }
}

/// The address of a node. Looked up once: a Service keeps its address, and a name server that fails later is no silence of a node.
async fn resolve(node: &str, place: &str) -> io::Result<SocketAddr> {
    let deadline = Instant::now() + NAMES;
    loop {
        let seen = match tokio::net::lookup_host(place).await {
            Ok(mut found) => match found.next() {
                Some(address) => return Ok(address),
                None => "no address".to_owned(),
            },
            Err(error) => error.to_string(),
        };
        if Instant::now() > deadline {
            return Err(io::Error::other(format!("look up {place} for {node}: {seen}")));
        }
        sleep(AGAIN).await;
    }
}
