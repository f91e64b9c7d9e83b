//! Trialnet's end of the conversation with the guard.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::Path;
use std::process::Stdio;
use std::sync::Weak;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::process::Command;
use tokio::sync::{mpsc, oneshot, watch};

use super::Shared;
use crate::agent::client::{self, Questions};
use crate::agent::protocol::{Ask, Call, PROTOCOL, Reply, Said};
use crate::agent::table::Proc;
use crate::agent::trouble;
use crate::backend::Trouble;
use crate::model::Ms;
use crate::record::{Record, json_line};

/// How often it is looked whether a guard is gone that is not our child.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

type Answer = Result<Reply, Trouble>;
type Question = (Ask, oneshot::Sender<Answer>);

/// The guard. Dropping it ends the conversation, upon which the guard tears down.
pub(super) struct Client {
    questions: Questions<Ask, Reply>,
    pid: u32,
    /// Whether the guard's end is wanted.
    ending: std::sync::Arc<AtomicBool>,
    /// Becomes true when the guard is gone, and everything that follows from it is done.
    gone: watch::Receiver<bool>,
}

impl Client {
    /// Runs a guard. What it reports goes to `shared` as long as that lives.
    pub(super) fn spawn(exe: &Path, log: &Path, shared: Weak<Shared>) -> io::Result<Self> {
        let mut child = Command::new(exe)
            .args(["guard", "--protocol", &PROTOCOL.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(log)?)
            .spawn()
            .map_err(|error| io::Error::new(error.kind(), format!("run {}: {error}", exe.display())))?;
        let (Some(stdin), Some(stdout), Some(pid)) = (child.stdin.take(), child.stdout.take(), child.id()) else {
            return Err(io::Error::other("the guard came without pipes"));
        };
        let ended = async move {
            match child.wait().await {
                Ok(status) => format!("it is gone ({status})"),
                Err(error) => format!("it is gone ({error})"),
            }
        };
        Ok(Self::talking((stdin, stdout), (pid, false), ended, shared))
    }

    /// Comes to a guard that stays, as one of its guests: when it hangs up, that is no trouble of ours.
    pub(super) async fn visit(socket: &Path, guard: Proc, shared: Weak<Shared>) -> io::Result<Self> {
        let (stdout, stdin) = UnixStream::connect(socket).await?.into_split();
        let pid = guard.pid;
        let ended = async move {
            // It hung up because it is about to end; its process is waited for by the system.
            while guard.alive() {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            "it is gone".to_owned()
        };
        Ok(Self::talking((stdin, stdout), (pid, true), ended, shared))
    }

    /// Talks over these with the guard that is a process of this id and whose end is wanted or not. `ended` waits for that process and says how it
    /// went.
    fn talking(
        (stdin, stdout): (
            impl AsyncWrite + Unpin + Send + 'static,
            impl AsyncRead + Unpin + Send + 'static,
        ),
        (pid, ending): (u32, bool),
        ended: impl Future<Output = String> + Send + 'static,
        shared: Weak<Shared>,
    ) -> Self {
        let (questions, asked) = mpsc::unbounded_channel();
        let (tell_gone, gone) = watch::channel(false);
        let ending = std::sync::Arc::new(AtomicBool::new(ending));
        let talk = Talk {
            shared,
            waiting: HashMap::new(),
            next: 0,
            ending: ending.clone(),
        };
        tokio::spawn(async move {
            talk.on(stdin, stdout, asked, ended).await;
            tell_gone.send_replace(true);
        });
        Self {
            questions,
            pid,
            ending,
            gone,
        }
    }

    /// Asks, and waits for the answer at most `limit`.
    pub(super) async fn ask(&self, ask: Ask, limit: Duration) -> Answer {
        client::ask(
            &self.questions,
            ask,
            self.pid,
            limit,
            "it is gone, and the nodes with it",
        )
        .await
    }

    /// Has everything put back. A guard that does not answer in time is ended. Returns what it says is left.
    pub(super) async fn teardown(&self, grace: Ms, keep_homes: bool, limit: Duration) -> Result<Vec<String>, Trouble> {
        self.ending.store(true, Ordering::Relaxed);
        let answer = self.ask(Ask::Teardown { grace, keep_homes }, limit).await;
        client::see_end(self.pid, &self.gone, answer.is_ok().then_some(limit)).await;
        match answer? {
            Reply::Left(left) => Ok(left),
            other => Err(nonsense(&other)),
        }
    }
}

/// An answer that does not belong to the question.
pub(super) fn nonsense(reply: &Reply) -> Trouble {
    trouble(
        "infra/guard-protocol",
        "an answer to the question",
        format!("{reply:?}"),
    )
}

struct Talk {
    shared: Weak<Shared>,
    waiting: HashMap<u64, oneshot::Sender<Answer>>,
    next: u64,
    ending: std::sync::Arc<AtomicBool>,
}

impl Talk {
    /// Talks until the guard is gone.
    async fn on(
        mut self,
        stdin: impl AsyncWrite + Unpin,
        stdout: impl AsyncRead + Unpin,
        mut asked: mpsc::UnboundedReceiver<Question>,
        ended: impl Future<Output = String>,
    ) {
        let mut stdin = Some(stdin);
        let mut lines = BufReader::new(stdout).lines();
        loop {
            tokio::select! {
                line = lines.next_line() => match line {
                    Ok(Some(line)) => self.hear(&line),
                    Ok(None) | Err(_) => break,
                },
                question = asked.recv(), if stdin.is_some() => match (question, &mut stdin) {
                    (Some((ask, answer)), Some(pipe)) => {
                        self.next += 1;
                        self.waiting.insert(self.next, answer);
                        if say(pipe, &Call { id: self.next, ask }).await.is_err() {
                            break;
                        }
                    }
                    // Nobody will ask any more: the closed pipe tells the guard.
                    _ => {
                        self.ending.store(true, Ordering::Relaxed);
                        stdin = None;
                    }
                },
            }
        }
        drop(stdin);
        // It closed its output: it is gone, or will be in a moment.
        let seen = ended.await;
        if !self.ending.load(Ordering::Relaxed)
            && let Some(shared) = self.shared.upgrade()
        {
            drop(tokio::task::spawn_blocking(move || shared.guard_died(seen)).await);
        }
        // Those who wait for an answer learn of the end by the closed channel, after everything was put back.
        drop(self.waiting);
    }

    fn hear(&mut self, line: &str) {
        let said = serde_json::from_str(line);
        if let Ok(Said::Answer { id, result }) = said {
            if let Some(answer) = self.waiting.remove(&id) {
                // Who asked may have given up.
                drop(answer.send(result));
            }
            return;
        }
        let Some(shared) = self.shared.upgrade() else { return };
        match said {
            Ok(Said::Node { node, event }) => shared.happened(node, event),
            Ok(Said::Trouble(trouble)) => shared.record(Record::from(trouble)),
            Ok(Said::Answer { .. }) => {}
            Err(error) => shared.record(Record::from(trouble(
                "infra/guard-protocol",
                "a line that the guard may say",
                format!("{error}: {line}"),
            ))),
        }
    }
}

async fn say(pipe: &mut (impl AsyncWrite + Unpin), call: &Call) -> io::Result<()> {
    pipe.write_all(&json_line(call)?).await?;
    pipe.flush().await
}
