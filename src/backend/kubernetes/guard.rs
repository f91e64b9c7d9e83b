//! The guard of a namespace: a process of its own session that keeps the namespace from expiring, and removes it when trialnet asks, or is
//! gone, by whatever signal. Trialnet's end of the conversation is [`Guard`].
//!
//! It speaks JSON, one value on each line, as the guard of local nodes does. It reaches for the cluster only when it has something to do
//! there, so it can exist before the cluster does.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use k8s_openapi::api::core::v1::Namespace;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::api::Api;
use super::objects::EXPIRES;
use super::{machines, packets, provider, teardown};
use crate::agent::client::{self, Questions};
use crate::agent::guard::{converse, flush, ignored_signals, swallow, tell};
use crate::agent::registry::{self, InCluster, RunEntry};
use crate::agent::table::{self, Proc};
use crate::agent::trouble;
use crate::backend::Trouble;
use crate::model::Ms;
use crate::record::{Record, json_line};

/// The version of what is said.
pub const PROTOCOL: u32 = 1;
/// How far ahead a namespace expires.
pub const EXPIRY: Ms = Ms(120_000);
/// How often that is moved.
pub const RENEWAL: Ms = Ms(30_000);

/// For how long the API server does not answer when nobody is to wait for it any longer.
const AWAY: Duration = Duration::from_secs(4);
/// How long one look at it takes at most, so that no single answer decides.
const LOOK: Duration = Duration::from_secs(1);
/// How often it is looked whether it answers.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long the guard has to answer what it can answer at once.
const PROMPT: Duration = Duration::from_secs(5);
/// What trialnet waits longer than the guard was told to take.
const SLACK: Duration = Duration::from_secs(5);
/// How long a program of this machine that works for the run (kind) has to go after SIGKILL.
const KILL_LIMIT: Duration = Duration::from_secs(2);
/// How long what a failing guard has not removed may take to go.
const SECOND_LIMIT: Duration = Duration::from_secs(30);

/// Arguments of the hidden subcommand `guard-kubernetes`.
#[derive(Clone, Debug, clap::Args)]
pub struct GuardKubernetesArgs {
    /// The version of what is said over standard input and output
    #[arg(long)]
    pub protocol: u32,
}

/// Whose guard it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setup {
    /// The id of the run.
    pub run: String,
    /// The scenario's name.
    pub scenario: String,
    /// Trialnet's own process id.
    pub owner: u32,
    /// The run folder.
    pub run_dir: PathBuf,
    /// The folder of the registry.
    pub state_dir: PathBuf,
    /// The namespace, and where it is.
    pub cluster: InCluster,
    /// How far ahead the namespace expires; usually [`EXPIRY`].
    pub expiry: Ms,
    /// How often that is moved; usually [`RENEWAL`].
    pub renewal: Ms,
}

/// A moment so far ahead, as [`EXPIRES`] has it.
#[must_use]
pub fn expires_in(ahead: Ms) -> String {
    humantime::format_rfc3339_seconds(SystemTime::now() + ahead.duration()).to_string()
}

#[derive(Debug, Serialize, Deserialize)]
struct Call {
    id: u64,
    ask: Ask,
}

#[derive(Debug, Serialize, Deserialize)]
enum Ask {
    /// The first question.
    Setup(Box<Setup>),
    /// Removes everything within this time, and ends. Answered with what is left.
    Teardown(Ms),
    /// Ends, and leaves everything as it is.
    Leave,
}

#[derive(Debug, Serialize, Deserialize)]
enum Said {
    Answer {
        id: u64,
        result: Answer,
    },
    /// Something outside the chain failed.
    Trouble(Trouble),
}

/// Runs the guard to its end, which follows that of trialnet.
#[must_use]
pub fn run(GuardKubernetesArgs { protocol }: GuardKubernetesArgs) -> ExitCode {
    if protocol != PROTOCOL {
        return ExitCode::from(2);
    }
    // A Ctrl-C in the terminal is for trialnet. The only error is that this already is a session of its own.
    let _: nix::Result<nix::unistd::Pid> = nix::unistd::setsid();
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return ExitCode::FAILURE;
    };
    let result = runtime.block_on(Box::pin(guard()));
    runtime.shutdown_background();
    if result.is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Listens until trialnet asks for the end or is gone.
async fn guard() -> io::Result<()> {
    let (mut questions, say, writer) = converse()?;
    let mut ignored = ignored_signals();
    let mut term = signal(SignalKind::terminate())?;
    let Some(line) = questions.next_line().await? else {
        return Ok(());
    };
    let Call {
        id,
        ask: Ask::Setup(mut setup),
    } = serde_json::from_str(&line)?
    else {
        return Err(io::Error::other("the first question must be the setup"));
    };
    setup.cluster.kubeconfig = setup.cluster.kubeconfig.or_else(single_kubeconfig);
    let result = register(&setup).map(|()| Done::default());
    let failed = result.is_err();
    tell(&say, &Said::Answer { id, result });
    if failed {
        drop(say);
        return flush(writer).await;
    }
    let renewals = tokio::spawn(Box::pin(renew(*setup.clone(), say.clone())));
    let (asked_by, limit) = loop {
        tokio::select! {
            line = questions.next_line() => match line.ok().flatten().map(|line| serde_json::from_str::<Call>(&line)) {
                // Trialnet is gone, or not to be understood: both end the run.
                None | Some(Err(_)) => break (None, teardown::LIMIT),
                Some(Ok(Call { id, ask: Ask::Teardown(limit) })) => break (Some(id), limit.duration()),
                Some(Ok(Call { id, ask: Ask::Leave })) => {
                    renewals.abort();
                    drop(renewals.await);
                    registry::forget(&setup.state_dir, &setup.run);
                    let result = Ok(Done::default());
                    tell(&say, &Said::Answer { id, result });
                    drop(say);
                    return flush(writer).await;
                }
                Some(Ok(Call { id, ask: Ask::Setup(_) })) => {
                    let result = Err(trouble("infra/guard-protocol", "one setup", "a second one"));
                    tell(&say, &Said::Answer { id, result });
                }
            },
            _ = term.recv() => break (None, teardown::LIMIT),
            () = swallow(&mut ignored) => {}
        }
    };
    renewals.abort();
    let mut finishing = Box::pin(finish(&setup.run, &setup.cluster, limit));
    let left = tokio::select! {
        left = &mut finishing => left,
        words = unreachable(&setup.cluster), if asked_by.is_some() => {
            // Who waits for the verdict need not wait for that.
            if let Some(id) = asked_by {
                let (namespace, limit, pid) = (&setup.cluster.namespace, Ms::from(limit), std::process::id());
                let left = vec![format!(
                    "namespace {namespace}: {words}; the guard (process {pid}) tries on for {limit}, then `trialnet gc` is what removes it"
                )];
                let result = Ok(Done { left, goes_on: true });
                tell(&say, &Said::Answer { id, result });
            }
            finishing.await
        }
    };
    if left.is_empty() {
        registry::forget(&setup.state_dir, &setup.run);
    }
    if let Some(id) = asked_by {
        let result = Ok(Done { left, goes_on: false });
        tell(&say, &Said::Answer { id, result });
    }
    drop(say);
    // The renewals hold the other end until they are dropped.
    drop(renewals.await);
    flush(writer).await
}

/// Ends when the API server has not answered for [`AWAY`]: with what is seen of it.
async fn unreachable(cluster: &InCluster) -> String {
    if cluster.created.is_some() {
        // It goes as a whole, by other means.
        return std::future::pending().await;
    }
    let mut answered = Instant::now();
    let mut seen = String::new();
    let Ok(client) = provider::connect(cluster.kubeconfig.as_deref(), &cluster.context).await else {
        // Whoever removes says that too.
        return std::future::pending().await;
    };
    while answered.elapsed() < AWAY {
        match provider::answers(&client, LOOK).await {
            Ok(_) => answered = Instant::now(),
            Err(trouble) => seen = trouble.seen,
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    format!("the API server has not answered for {}: {seen}", Ms::from(AWAY))
}

/// The one file that `KUBECONFIG` names, so that a `gc` elsewhere finds the same cluster.
fn single_kubeconfig() -> Option<PathBuf> {
    let value = std::env::var_os("KUBECONFIG")?;
    let mut paths = std::env::split_paths(&value).filter(|path| !path.as_os_str().is_empty());
    match (paths.next(), paths.next()) {
        (Some(path), None) => std::path::absolute(path).ok(),
        _ => None,
    }
}

/// Enters the run into the registry.
fn register(setup: &Setup) -> Result<(), Trouble> {
    let failed = |what: &str, seen: String| trouble("infra/guard-setup", what, seen);
    let process = |pid| Proc::now(pid).ok_or_else(|| failed("a process table", format!("no process {pid}")));
    let began = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let entry = RunEntry {
        run: setup.run.clone(),
        scenario: setup.scenario.clone(),
        owner: process(setup.owner)?,
        guard: process(std::process::id())?,
        run_dir: setup.run_dir.clone(),
        homes: setup.run_dir.join("homes"),
        slot: None,
        began: Ms::from(began).0,
        space: registry::process_space(),
        cluster: Some(setup.cluster.clone()),
        stays: false,
    };
    registry::remember(&setup.state_dir, &entry).map_err(|error| failed("an entry in the registry", error.to_string()))
}

/// Moves the expiry of the namespace for ever. A renewal that fails is tried again the next time: there are three before the expiry.
async fn renew(setup: Setup, say: mpsc::UnboundedSender<String>) {
    let Setup {
        cluster,
        expiry,
        renewal,
        ..
    } = setup;
    let mut api = None;
    let mut seen = false;
    loop {
        tokio::time::sleep(renewal.duration()).await;
        if api.is_none() {
            api = connect(&cluster).await.ok();
        }
        let Some(api) = &api else { continue };
        let patch = json!({ "metadata": { "annotations": { EXPIRES: expires_in(expiry) } } });
        let renewed = Box::pin(api.merge::<Namespace>(None, &cluster.namespace, &patch)).await;
        match renewed {
            Ok(true) => seen = true,
            Ok(false) if seen => {
                let expected = format!("the namespace {} as long as the run", cluster.namespace);
                let gone = trouble(
                    "infra/namespace-gone",
                    expected,
                    "it is gone: somebody else has removed it",
                );
                tell(&say, &Said::Trouble(gone));
                return;
            }
            // It is not made yet; or the API server is away, which others say.
            Ok(false) | Err(_) => {}
        }
    }
}

async fn connect(cluster: &InCluster) -> Result<Api, Trouble> {
    let client = provider::connect(cluster.kubeconfig.as_deref(), &cluster.context).await?;
    Ok(Api::new(client).in_context(cluster.context.clone()))
}

/// Removes what a run has in a cluster, or the cluster if it was made for it. What is left is returned in words.
pub async fn finish(run: &str, cluster: &InCluster, limit: Duration) -> Vec<String> {
    if let Some(name) = &cluster.created {
        // kind may still be at work for a trialnet that was killed.
        let run = run.to_owned();
        let ended = tokio::task::spawn_blocking(move || table::end_run(&run, KILL_LIMIT)).await;
        let mut left: Vec<String> = ended
            .unwrap_or_default()
            .into_iter()
            .map(|pid| format!("process {pid} did not end"))
            .collect();
        if let Err(trouble) = Box::pin(provider::delete_created(name)).await {
            left.push(format!("the cluster {name}: {}", trouble.seen));
        }
        return left;
    }
    match Box::pin(connect(cluster)).await {
        Ok(api) => {
            let release = || Box::pin(machines::release(&api, &cluster.namespace, limit));
            let (mut left, agents, machines) = tokio::join!(
                Box::pin(teardown::remove(&api, &cluster.namespace, limit)),
                Box::pin(packets::leave(&api, run, limit)),
                release(),
            );
            left.extend(agents);
            left.extend(machines);
            // The last request of a trialnet that was killed may have come after the first look.
            left.extend(Box::pin(packets::leave(&api, run, limit)).await);
            left.extend(release().await);
            left
        }
        Err(trouble) => vec![format!("namespace {}: {trouble}", cluster.namespace)],
    }
}

/// What a guard has done when it answers.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Done {
    /// What is left, in words.
    left: Vec<String>,
    /// The guard goes on removing it.
    goes_on: bool,
}

type Answer = Result<Done, Trouble>;
type Question = (Ask, oneshot::Sender<Answer>);

/// The guard of a run, as trialnet holds it. Dropping it ends the conversation, upon which the guard removes everything.
pub struct Guard {
    setup: Setup,
    questions: Questions<Ask, Done>,
    pid: u32,
    /// Whether the guard's end is wanted.
    ending: Arc<AtomicBool>,
    /// Becomes true when the process is gone.
    gone: watch::Receiver<bool>,
}

impl Guard {
    /// Starts a guard, before anything of the run is made in the cluster. Its words go to the file `log`, what it reports to `records`:
    /// also its own unexpected end, as `infra/guard-died`.
    ///
    /// # Errors
    /// When the program cannot be started, or cannot enter the run into the registry.
    pub async fn spawn(
        exe: &Path,
        log: &Path,
        setup: Setup,
        records: mpsc::UnboundedSender<Record>,
    ) -> Result<Self, Trouble> {
        let failed = |error: io::Error| trouble("infra/guard-setup", "a guard for the namespace", error.to_string());
        registry::prepare(&setup.state_dir).map_err(failed)?;
        let mut child = Command::new(exe)
            .args(["guard-kubernetes", "--protocol", &PROTOCOL.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(log).map_err(failed)?)
            .spawn()
            .map_err(failed)?;
        let pid = child.id().unwrap_or_default();
        let (questions, asked) = mpsc::unbounded_channel();
        let (tell_gone, gone) = watch::channel(false);
        let ending = Arc::new(AtomicBool::new(false));
        let wanted = ending.clone();
        tokio::spawn(async move {
            talk(&mut child, asked, &records, &wanted).await;
            // It closed its output: it is gone, or will be in a moment.
            let seen = match child.wait().await {
                Ok(status) => format!("it is gone ({status}); trialnet removes the namespace at the end"),
                Err(error) => format!("it is gone ({error}); trialnet removes the namespace at the end"),
            };
            if !wanted.load(Ordering::Relaxed) {
                let died = trouble("infra/guard-died", "a guard that lives as long as the run", seen);
                drop(records.send(Record::from(died)));
            }
            tell_gone.send_replace(true);
        });
        let guard = Self {
            setup,
            questions,
            pid,
            ending,
            gone,
        };
        guard.ask(Ask::Setup(Box::new(guard.setup.clone())), PROMPT).await?;
        Ok(guard)
    }

    /// The guard's process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether the cluster itself is made for the run.
    #[must_use]
    pub fn creates(&self) -> bool {
        self.setup.cluster.created.is_some()
    }

    /// Has everything of the run in the cluster removed within `limit`; what is left is returned in words. While the API server does not
    /// answer, the guard goes on by itself, and this returns. Where the guard is dead or does not answer, trialnet does it itself. Called once.
    pub async fn teardown(&self, limit: Duration) -> Vec<String> {
        self.ending.store(true, Ordering::Relaxed);
        let answer = self
            .ask(Ask::Teardown(Ms::from(limit)), limit * (1 + teardown::VOLUMES) + SLACK)
            .await;
        if let Ok(Done { left, goes_on: true }) = answer {
            return left;
        }
        client::see_end(self.pid, &self.gone, answer.is_ok().then_some(PROMPT)).await;
        match answer {
            Ok(Done { left, .. }) => left,
            Err(trouble) => {
                tracing::warn!("{trouble}; removing {} without it", self.setup.cluster.namespace);
                let Setup {
                    run,
                    cluster,
                    state_dir,
                    ..
                } = &self.setup;
                let left = Box::pin(finish(run, cluster, limit.min(SECOND_LIMIT))).await;
                if left.is_empty() {
                    registry::forget(state_dir, run);
                }
                left
            }
        }
    }

    /// Has the guard end without removing anything: the namespace expires by itself from now on.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn leave(&self) -> Result<(), Trouble> {
        self.ending.store(true, Ordering::Relaxed);
        self.ask(Ask::Leave, PROMPT).await.map(drop)
    }

    async fn ask(&self, ask: Ask, limit: Duration) -> Answer {
        client::ask(&self.questions, ask, self.pid, limit, "it is gone").await
    }
}

/// Talks with the guard until it is gone. One question is under way at a time.
async fn talk(
    child: &mut Child,
    mut asked: mpsc::UnboundedReceiver<Question>,
    records: &mpsc::UnboundedSender<Record>,
    ending: &AtomicBool,
) {
    let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
        return;
    };
    let mut stdin = Some(stdin);
    let mut lines = BufReader::new(stdout).lines();
    let mut waiting = None;
    let mut next = 0;
    loop {
        tokio::select! {
            line = lines.next_line() => match line.ok().flatten().map(|line| serde_json::from_str::<Said>(&line)) {
                None => return,
                Some(Ok(Said::Answer { id, result })) => {
                    if let Some((_, answer)) = waiting.take_if(|(asked, _): &mut (u64, oneshot::Sender<Answer>)| *asked == id) {
                        // Who asked may have given up.
                        drop(answer.send(result));
                    }
                }
                Some(Ok(Said::Trouble(trouble))) => drop(records.send(Record::from(trouble))),
                Some(Err(error)) => {
                    let nonsense = trouble("infra/guard-protocol", "a line that the guard may say", error.to_string());
                    drop(records.send(Record::from(nonsense)));
                }
            },
            question = asked.recv(), if stdin.is_some() => match (question, &mut stdin) {
                (Some((ask, answer)), Some(pipe)) => {
                    next += 1;
                    waiting = Some((next, answer));
                    let Ok(line) = json_line(&Call { id: next, ask }) else { return };
                    if pipe.write_all(&line).await.is_err() || pipe.flush().await.is_err() {
                        return;
                    }
                }
                // Nobody will ask any more: the closed pipe tells the guard.
                _ => {
                    ending.store(true, Ordering::Relaxed);
                    stdin = None;
                }
            },
        }
    }
}
