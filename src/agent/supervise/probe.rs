//! The prober: a child process of the supervisor that looks at the program and at its links, so that what is said of a fault comes
//! from another process than the one that carries it out.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::unix::pipe;
use tokio::runtime::Builder;
use tokio::sync::{mpsc, oneshot};

use super::datagrams::{self, Ears};
use super::usage;
use crate::agent::damage;
use crate::agent::reach::{self, Way};
use crate::agent::table::Proc;
use crate::agent::{COMPONENT_VARIABLE, NODE_VARIABLE, RUN_VARIABLE, lock, trouble};
use crate::backend::{Digest, LinkEvidence, PROBER, RunState, Stressed, Trouble, Volley, Writable};
use crate::model::Ms;
use crate::record::json_line;

/// Where the prober's own connections come from: no node has this address, and no link.
const SOURCE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 77, 255, 255));
/// How long a prober that is not asked anything lives.
const IDLE: Duration = Duration::from_secs(10);

/// A question, as a line of the prober's standard input.
#[derive(Debug, Serialize, Deserialize)]
struct Call {
    id: u64,
    question: Question,
}

/// An answer, as a line of its standard output.
#[derive(Debug, Serialize, Deserialize)]
struct Said {
    id: u64,
    answer: Result<Answer, Trouble>,
}

/// What a prober can look at.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Question {
    /// What this process does.
    State(Proc),
    /// What can be seen of links.
    Links {
        /// Which ones.
        links: Vec<Way>,
        /// How long a new connection may take to bring its first byte.
        limit: Ms,
    },
    /// What stands in files.
    Files {
        /// Whose.
        node: String,
        /// Below which folder.
        root: PathBuf,
        /// Which ones.
        pattern: String,
    },
    /// Whether this folder can be written to.
    Volume(PathBuf),
    /// What this process uses.
    Stressed(Proc),
    /// Count datagrams from now on.
    Listen,
    /// Send datagrams.
    Send {
        /// Where to.
        to: Vec<SocketAddr>,
        /// Who sends.
        sender: u16,
        /// How many to each, and how.
        volley: Volley,
    },
    /// What came to a port that listens.
    Heard {
        /// Which.
        port: u16,
    },
}

/// What it saw.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Answer {
    /// What the process does.
    State(RunState),
    /// In the order of the question.
    Links(Vec<LinkEvidence>),
    /// What stands in files.
    Files(Vec<Digest>),
    /// Whether the folder can be written to.
    Volume(Writable),
    /// What the process uses, if it is there.
    Stressed(Option<Stressed>),
    /// Where datagrams are counted.
    Listens {
        /// The port.
        port: u16,
    },
    /// All have left.
    Sent {
        /// How long that took.
        took: Ms,
    },
    /// What came.
    Heard {
        /// By sender.
        counts: BTreeMap<u16, u32>,
        /// More than could be taken.
        overrun: u64,
    },
}

/// Runs as a prober until the standard input ends, which it does with the supervisor at the latest.
#[must_use]
pub fn run() -> ExitCode {
    let runtime = Builder::new_current_thread().enable_all().build();
    match runtime.and_then(|runtime| runtime.block_on(answer_all())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

async fn answer_all() -> io::Result<()> {
    let mut questions = lines(io::stdin().as_fd().try_clone_to_owned()?)?;
    let mut answers = pipe::Sender::from_owned_fd(io::stdout().as_fd().try_clone_to_owned()?)?;
    let (say, mut sayings) = mpsc::unbounded_channel();
    let ears = Ears::default();
    loop {
        tokio::select! {
            line = questions.next_line() => {
                let Some(line) = line? else { return Ok(()) };
                let Call { id, question } = serde_json::from_str(&line)?;
                let (say, ears) = (say.clone(), ears.clone());
                tokio::spawn(async move { drop(say.send(Said { id, answer: answer(question, &ears).await })) });
            }
            Some(said) = sayings.recv() => {
                let said: Said = said;
                answers.write_all(&json_line(&said)?).await?;
            }
        }
    }
}

async fn answer(question: Question, ears: &Ears) -> Result<Answer, Trouble> {
    let failed = |error: io::Error| trouble(PROBER, "datagrams counted", error.to_string());
    match question {
        Question::Listen => {
            let port = ears.listen().await.map_err(failed)?;
            Ok(Answer::Listens { port })
        }
        Question::Send { to, sender, volley } => {
            let begun = Instant::now();
            datagrams::send(&to, sender, volley).await.map_err(failed)?;
            let took = begun.elapsed().into();
            Ok(Answer::Sent { took })
        }
        Question::Heard { port } => {
            let (counts, overrun) = ears.heard(port).map_err(failed)?;
            Ok(Answer::Heard { counts, overrun })
        }
        Question::State(proc) => Ok(Answer::State(proc.state())),
        Question::Stressed(proc) => Ok(Answer::Stressed(usage::look(proc).await)),
        Question::Volume(root) => usage::writable(&root)
            .map(Answer::Volume)
            .map_err(|error| trouble(PROBER, "a look at a volume", error.to_string())),
        Question::Files { node, root, pattern } => damage::digests(&node, &root, &pattern).map(Answer::Files),
        Question::Links { links, limit } => reach::links(links, source, limit).await.map(Answer::Links),
    }
}

fn source(link: SocketAddr) -> Option<IpAddr> {
    // The way past the injector leaves the pod.
    (link.is_ipv4() && link.ip().is_loopback()).then_some(SOURCE)
}

/// The supervisor's end of the conversation. A prober is there while it is needed.
#[derive(Clone, Debug)]
pub(super) struct Prober {
    questions: mpsc::UnboundedSender<(Question, oneshot::Sender<Result<Answer, Trouble>>)>,
    pids: Arc<Mutex<BTreeSet<u32>>>,
}

impl Prober {
    /// `own` is the command that runs trialnet. Probers are started from the thread of the runtime that this is called on, which must
    /// have but one, the one that reaps.
    pub(super) fn new(own: Vec<String>) -> Self {
        let (questions, asked) = mpsc::unbounded_channel();
        let pids = Arc::<Mutex<BTreeSet<u32>>>::default();
        tokio::spawn(talk(own, pids.clone(), asked));
        Self { questions, pids }
    }

    /// Asks a prober. Takes as long as the question says, but not much longer.
    pub(super) async fn ask(&self, question: Question) -> Result<Answer, Trouble> {
        let (answer, answered) = oneshot::channel();
        let ended = || failed("it ended before");
        self.questions.send((question, answer)).map_err(|_| ended())?;
        answered.await.unwrap_or_else(|_| Err(ended()))
    }

    /// The process ids of probers that were not reaped yet: children of the supervisor that do not belong to the program.
    pub(super) fn pids(&self) -> BTreeSet<u32> {
        lock(&self.pids).clone()
    }

    /// A child of the supervisor was reaped: its id may soon be another's.
    pub(super) fn reaped(&self, pid: u32) {
        lock(&self.pids).remove(&pid);
    }
}

fn failed(seen: impl ToString) -> Trouble {
    trouble(PROBER, "an answer of the prober", seen.to_string())
}

type Asked = mpsc::UnboundedReceiver<(Question, oneshot::Sender<Result<Answer, Trouble>>)>;

/// Starts a prober when there is a question and lets it go when there has been none for a while.
async fn talk(own: Vec<String>, pids: Arc<Mutex<BTreeSet<u32>>>, mut asked: Asked) {
    let mut next = 0;
    while let Some((first, answer)) = asked.recv().await {
        let (questions, answers) = match spawn(&own, &pids) {
            Ok(pipes) => pipes,
            Err(error) => {
                drop(answer.send(Err(failed(error))));
                continue;
            }
        };
        let mut waiting = HashMap::from([(next, answer)]);
        let (mut questions, mut answers) = (questions, answers);
        if send(&mut questions, next, first).await.is_err() {
            continue;
        }
        loop {
            tokio::select! {
                line = answers.next_line() => {
                    let said = line.ok().flatten().and_then(|line| serde_json::from_str(&line).ok());
                    // Those who wait learn of its end by their closed channel.
                    let Some(Said { id, answer }) = said else { break };
                    if let Some(waits) = waiting.remove(&id) {
                        drop(waits.send(answer));
                    }
                }
                question = asked.recv() => {
                    let Some((question, answer)) = question else { return };
                    next += 1;
                    waiting.insert(next, answer);
                    if send(&mut questions, next, question).await.is_err() {
                        break;
                    }
                }
                () = tokio::time::sleep(IDLE), if waiting.is_empty() => break,
            }
        }
    }
}

/// Starts a prober. Not as tokio's child: the supervisor reaps.
fn spawn(own: &[String], pids: &Mutex<BTreeSet<u32>>) -> io::Result<(pipe::Sender, Lines<BufReader<pipe::Receiver>>)> {
    let (program, args) = own.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let mut child = Command::new(program)
        .args(args)
        .arg("supervise-probe")
        .env_remove(RUN_VARIABLE)
        .env_remove(NODE_VARIABLE)
        .env_remove(COMPONENT_VARIABLE)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    lock(pids).insert(child.id());
    let pipes = child.stdin.take().zip(child.stdout.take());
    let (stdin, stdout) = pipes.ok_or(io::ErrorKind::BrokenPipe)?;
    Ok((pipe::Sender::from_owned_fd(stdin.into())?, lines(stdout.into())?))
}

async fn send(to: &mut pipe::Sender, id: u64, question: Question) -> io::Result<()> {
    to.write_all(&json_line(&Call { id, question })?).await
}

fn lines(fd: OwnedFd) -> io::Result<Lines<BufReader<pipe::Receiver>>> {
    Ok(BufReader::new(pipe::Receiver::from_owned_fd(fd)?).lines())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_prober_that_cannot_be_started_is_an_answer() {
        let prober = Prober::new(vec!["/no/such/program".to_owned()]);
        let question = Question::State(Proc { pid: 2, start: 0 });
        for _ in 0..2 {
            let trouble = prober.ask(question.clone()).await.unwrap_err();
            assert_eq!(trouble.code, "infra/prober");
            assert!(trouble.seen.contains("No such file"), "{trouble}");
        }
        assert!(prober.pids().is_empty());
    }

    #[tokio::test]
    async fn a_process_is_looked_up() {
        let me = Proc::now(std::process::id()).unwrap();
        let seen = answer(Question::State(me), &Ears::default()).await.unwrap();
        assert_eq!(seen, Answer::State(RunState::Running));
    }
}
