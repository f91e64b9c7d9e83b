//! A network that stays while a person works at it: what `up`, `status`, `inject`, `heal` and `down` do.
//!
//! There is no daemon but the guard of local nodes. Each command comes, takes the network over from the one before ([`engine::Hand`]), and
//! goes. What it has to know is the [`State`]: a file in the run folder. Whoever changes something holds a lock on it, so what a node or link
//! suffers stays a function of one set of faults.

mod up;

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};

use crate::agent::registry::{self, Life, RunEntry};
use crate::agent::trouble;
use crate::backend::kubernetes::provider::{self, Flags};
use crate::backend::kubernetes::{self, Kubernetes, KubernetesOptions};
use crate::backend::local::Local;
use crate::backend::{Deployer, RunState, Teardown, Trouble};
use crate::chain::{ChainAdapter, adapter};
use crate::engine::{self, Cancel, Hand, Held, HeldFault, Made};
use crate::model::{Action, BackendKind, Lasts, Ms, NodeName, Plan, Step};
use crate::record::{Record, TxEvent};
use crate::report::words;
use crate::run;
use crate::scenario::{self, Diagnostics, Given, On};

pub use up::{Up, UpError, UpOptions, offered, up};

/// The file in the run folder that holds the [`State`].
pub const STATE: &str = "desk.json";
/// The file in the run folder that whoever changes something locks.
const LOCK: &str = "desk.lock";
/// How long somebody else may take to change something.
const LOCK_LIMIT: Ms = Ms::secs(60);
/// How long a transaction may take to be committed.
const COMMIT_LIMIT: Duration = Duration::from_secs(30);
/// How long a node's RPC has to answer for `status`.
const ASK_LIMIT: Duration = Duration::from_secs(2);
/// How long a cluster has to answer that nobody named.
const CLUSTER_LIMIT: Duration = Duration::from_secs(2);
/// How long a namespace may take to go.
const REMOVE_LIMIT: Duration = Duration::from_secs(60);
/// Between SIGTERM and SIGKILL in `down`.
const GRACE: Ms = Ms::secs(2);

/// The codes of this module.
pub const CODES: &[(&str, &str, &str)] = &[
    (
        "infra/desk-none",
        "no network stays up, or none of this name",
        "`trialnet up FILE` brings one up that stays, `trialnet ps` lists what is there. A network is named by its scenario or by its run's id.",
    ),
    (
        "infra/desk-ambiguous",
        "several networks are meant",
        "More than one network is up and fits the name. Give the id of the run: it stands in the message, and in `trialnet ps`.",
    ),
    (
        "infra/desk-state",
        "what is known of a network that stays cannot be read or written",
        "The state of a network that stays is desk.json in its run folder, or the Secret trialnet-desk in its namespace. Without it faults \
         cannot be told any more; `trialnet down` still removes the network.",
    ),
    (
        "infra/desk-busy",
        "somebody else changes the network",
        "Two commands at once would not know of each other's faults, so the second waits for the first. Look for another terminal in which \
         `trialnet inject` or `heal` is at work.",
    ),
    (
        "infra/desk-log",
        "the log of a pod cannot be read",
        "The words of the API server stand in the message. A container that does not run yet has no log; `kubectl describe pod` says why.",
    ),
    (
        "infra/desk-fault",
        "no fault of this name is on",
        "`trialnet status` shows the faults that are on, with their ids.",
    ),
];

/// What is known of a network that stays.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Always [`crate::model::FORMAT`].
    pub format: u32,
    /// The id of the run.
    pub run: String,
    /// What it was made from; without its steps.
    pub plan: Plan,
    /// What was reserved and made for it.
    pub made: Made,
    /// The faults that are on.
    pub faults: Vec<Suffered>,
    /// The nodes that were started.
    pub present: BTreeSet<NodeName>,
    /// When it ends by itself, as Unix time in milliseconds.
    pub until: u64,
}

/// A fault that is on, and since when.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Suffered {
    /// The fault.
    #[serde(flatten)]
    pub held: HeldFault,
    /// When it was injected, as Unix time in milliseconds.
    pub since: u64,
    /// When the command that injected it ends it; `None`: it is on until it is healed.
    pub ends: Option<u64>,
}

/// Why something could not be done.
#[derive(Debug, thiserror::Error)]
pub enum DeskError {
    /// What was asked for makes no sense for this network.
    #[error("{}", .0.summary())]
    Invalid(Box<Diagnostics>),
    /// It could not be done.
    #[error(transparent)]
    Trouble(#[from] Trouble),
    /// A signal came before its effect was seen; what was done of it has been taken back.
    #[error("interrupted; what was done has been taken back")]
    Interrupted,
}

impl State {
    fn held(&self) -> Held {
        Held {
            on: self.faults.iter().map(|fault| fault.held.clone()).collect(),
            present: self.present.clone(),
        }
    }

    /// Takes in what a keeper knows; faults that are new have begun now.
    fn learn(&mut self, Held { on, present }: Held) {
        let now = unix_now();
        let before = std::mem::take(&mut self.faults);
        let known = |id: &str| before.iter().find(|fault| fault.held.fault.id == id);
        self.faults = (on.into_iter())
            .map(|held| {
                let (since, ends) = known(&held.fault.id).map_or((now, None), |fault| (fault.since, fault.ends));
                Suffered { held, since, ends }
            })
            .collect();
        self.present = present;
    }

    fn adapter(&self) -> &'static dyn ChainAdapter {
        adapter(self.plan.network.chain)
    }
}

/// Where a network is that stays.
#[derive(Clone, Debug)]
pub enum Place {
    /// On this machine.
    Local(Box<RunEntry>),
    /// In a namespace of a cluster.
    Cluster(Box<kubernetes::desk::Place>),
}

/// Holds what is known of a network, so that nobody else changes it.
#[derive(Debug)]
enum Lock {
    /// A file that is locked as long as it is open.
    File { _file: File },
    /// A mark in the cluster that is taken away again.
    Mark(kubernetes::desk::Hold),
}

impl Place {
    /// The scenario's name.
    #[must_use]
    pub fn scenario(&self) -> &str {
        match self {
            Self::Local(entry) => &entry.scenario,
            Self::Cluster(place) => &place.scenario,
        }
    }

    /// The id of the run.
    #[must_use]
    pub fn run(&self) -> &str {
        match self {
            Self::Local(entry) => &entry.run,
            Self::Cluster(place) => &place.run,
        }
    }

    /// Where it is, in words.
    #[must_use]
    pub fn words(&self) -> String {
        match self {
            Self::Local(entry) => entry.run_dir.display().to_string(),
            Self::Cluster(place) => format!("namespace {} of {}", place.namespace, place.context),
        }
    }

    /// What is known of it.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn state(&self) -> Result<State, Trouble> {
        let what = match self {
            Self::Local(entry) => entry.run_dir.join(STATE).display().to_string(),
            Self::Cluster(place) => format!("the Secret in {}", place.namespace),
        };
        let unread = |error: String| trouble("infra/desk-state", format!("{what} can be read"), error);
        let text = match self {
            Self::Local(_) => tokio::fs::read_to_string(&what)
                .await
                .map_err(|error| unread(error.to_string()))?,
            Self::Cluster(place) => place.load().await?,
        };
        serde_json::from_str(&text).map_err(|error| unread(error.to_string()))
    }

    async fn save(&self, state: &State) -> Result<(), Trouble> {
        match self {
            Self::Local(entry) => save_file(&entry.run_dir, state),
            Self::Cluster(place) => place.save(&text(state)?).await,
        }
    }

    async fn lock(&self) -> Result<Lock, Trouble> {
        let busy = |seen| trouble("infra/desk-busy", "nobody else changes the network", seen);
        let entry = match self {
            Self::Local(entry) => entry,
            Self::Cluster(place) => {
                let held = engine::until(LOCK_LIMIT, || place.hold()).await;
                return held.map(Lock::Mark).map_err(busy);
            }
        };
        let path = entry.run_dir.join(LOCK);
        let unopened =
            |error: std::io::Error| trouble("infra/desk-state", path.display().to_string(), error.to_string());
        let file = File::options()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(unopened)?;
        engine::until(LOCK_LIMIT, || async {
            file.try_lock()
                .map_err(|_| format!("{} is locked by another command", path.display()))
        })
        .await
        .map_err(busy)?;
        Ok(Lock::File { _file: file })
    }

    async fn unlock(&self, lock: Lock) {
        if let (Self::Cluster(place), Lock::Mark(hold)) = (self, lock) {
            place.release(hold).await;
        }
    }

    /// Comes to the network as the state says it is; what happens there is told to `tell`.
    async fn attach(&self, exe: &Path, state: &State, tell: mpsc::UnboundedSender<Record>) -> Result<Seat, Trouble> {
        let adapter = state.adapter();
        let rendered = state.made.render(&state.plan, adapter)?;
        let (specs, addresses) = (rendered.nodes.clone(), state.made.addresses());
        let deployer: Arc<dyn Deployer> = match self {
            Self::Local(entry) => {
                Arc::new(Local::reattach(entry, exe.to_owned(), specs, addresses, tell.clone()).await?)
            }
            Self::Cluster(place) => {
                let links = engine::all_links(&state.plan);
                let options = KubernetesOptions {
                    exe: exe.to_owned(),
                    run_dir: PathBuf::new(),
                    run_id: state.run.clone(),
                    scenario: state.plan.scenario.clone(),
                    settings: state.plan.kubernetes.clone(),
                    flags: Flags::default(),
                    persistence: state.plan.network.persistence,
                    lease: Ms(state.until.saturating_sub(unix_now())),
                    voting: Vec::new(),
                    min_available: None,
                    packets: false,
                    locks: false,
                    rates: false,
                    alone: BTreeSet::new(),
                    outages: false,
                };
                let network = Kubernetes::reattach(place, options, specs, (addresses, links), tell.clone());
                Arc::new(Box::pin(network).await?)
            }
        };
        let plan = Arc::new(state.plan.clone());
        let hand = Hand::new(plan, &rendered, adapter, deployer.ops(), state.held(), tell)?;
        Ok(Seat { hand, deployer })
    }
}

/// A network that was taken over.
struct Seat {
    hand: Hand,
    deployer: Arc<dyn Deployer>,
}

fn text(state: &State) -> Result<String, Trouble> {
    serde_json::to_string(state)
        .map_err(|error| trouble("infra/desk-state", "the state of a network as JSON", error.to_string()))
}

fn save_file(run_dir: &Path, state: &State) -> Result<(), Trouble> {
    let path = run_dir.join(STATE);
    let draft = path.with_extension("draft");
    let written = serde_json::to_vec_pretty(state)
        .map_err(std::io::Error::from)
        .and_then(|bytes| std::fs::write(&draft, bytes))
        .and_then(|()| std::fs::rename(&draft, &path));
    written.map_err(|error| {
        trouble(
            "infra/desk-state",
            format!("{} can be written", path.display()),
            error.to_string(),
        )
    })
}

/// The networks that stay: of this machine, and of the cluster.
///
/// # Errors
/// When a cluster was named and does not answer, or does not list its namespaces.
pub async fn all(flags: &Flags) -> Result<Vec<Place>, Trouble> {
    let stays = |entry: &RunEntry| entry.stays && entry.cluster.is_none() && entry.life() == Life::Up;
    let entries = registry::list_runs().into_iter().filter(stays);
    let mut places: Vec<Place> = entries.map(|entry| Place::Local(Box::new(entry))).collect();
    // Where one of this machine is there already, nobody waits long for a cluster that is not meant.
    let limit = if places.is_empty() {
        provider::ANSWER_LIMIT
    } else {
        CLUSTER_LIMIT
    };
    let namespaces = Box::pin(kubernetes::desk::all(flags, limit)).await?;
    places.extend(namespaces.into_iter().map(|place| Place::Cluster(Box::new(place))));
    Ok(places)
}

/// Those of these networks that are meant: by the scenario's name, the run's id or its beginning; all of them without a name.
fn meant<'a>(all: &'a [Place], name: Option<&str>) -> Vec<&'a Place> {
    let Some(name) = name else {
        return all.iter().collect();
    };
    let exact: Vec<&Place> = all
        .iter()
        .filter(|place| place.run() == name || place.scenario() == name)
        .collect();
    if !exact.is_empty() {
        return exact;
    }
    all.iter().filter(|place| place.run().starts_with(name)).collect()
}

/// The network that is meant; without a name, the only one.
///
/// # Errors
/// When there is none, or there are several: they are listed.
pub fn find(all: &[Place], name: Option<&str>) -> Result<Place, Trouble> {
    let listed = |places: &[&Place]| {
        let lines = places
            .iter()
            .map(|place| format!("{} (run {}, {})", place.scenario(), place.run(), place.words()));
        lines.collect::<Vec<_>>().join(", ")
    };
    match meant(all, name).as_slice() {
        [one] => Ok((*one).clone()),
        [] => {
            let expected = name.map_or_else(|| "a network that stays".to_owned(), |name| format!("a network {name}"));
            let seen = if all.is_empty() {
                "none is up; `trialnet up FILE` brings one up".to_owned()
            } else {
                format!("up are {}", listed(&all.iter().collect::<Vec<_>>()))
            };
            Err(trouble("infra/desk-none", expected, seen))
        }
        several => Err(trouble(
            "infra/desk-ambiguous",
            "one network; name it by its run's id",
            format!("these are up: {}", listed(several)),
        )),
    }
}

/// Checks that a fault that was asked for exists, for the first argument of a command may be a network or something in it.
#[must_use]
pub fn names(all: &[Place], name: &str) -> bool {
    !meant(all, Some(name)).is_empty()
}

/// What became of something that was injected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Injected {
    /// Its id, if it is a fault that is on.
    pub on: Option<String>,
    /// How long it is to be on, if it ends by itself.
    pub lasts: Option<Ms>,
    /// A transaction was taken, but not committed within half a minute.
    pub uncommitted: bool,
}

/// Carries out one step of the scenario language; returns when its effect is verified. A fault that ends by itself is on until whoever
/// called this heals it.
///
/// # Errors
/// What is wrong with the text; or why it could not be done. What was done of it is taken back then.
pub async fn inject(
    place: &Place,
    exe: &Path,
    what: (&str, Option<&str>),
    cancel: &Cancel,
    tell: mpsc::UnboundedSender<Record>,
) -> Result<Injected, DeskError> {
    let lock = place.lock().await?;
    let done = Box::pin(inject_alone(place, exe, what, cancel, tell)).await;
    place.unlock(lock).await;
    done
}

async fn inject_alone(
    place: &Place,
    exe: &Path,
    (text, id): (&str, Option<&str>),
    cancel: &Cancel,
    tell: mpsc::UnboundedSender<Record>,
) -> Result<Injected, DeskError> {
    let mut state = place.state().await?;
    let (step, lasts) = timeless(check(&state, text, id)?);
    let (records, committed) = listen(tell);
    let Seat { hand, deployer } = Box::pin(place.attach(exe, &state, records)).await?;
    let fault = match &step.action {
        Action::Fault(fault) => Some(fault.clone()),
        _ => None,
    };
    if let Some(fault) = &fault
        && fault.lasts != Lasts::Itself
    {
        // Known before it strikes: whatever becomes of this process, somebody can heal it.
        let targets = fault.targets.nodes().to_vec();
        let started = BTreeSet::new();
        let held = HeldFault {
            fault: fault.clone(),
            targets,
            started,
        };
        let (since, ends) = (unix_now(), lasts.map(|lasts| unix_now() + lasts.0));
        let mut intended = state.clone();
        intended.faults.push(Suffered { held, since, ends });
        place.save(&intended).await?;
    }
    let done = tokio::select! {
        done = hand.act(&step) => done.map_err(DeskError::from),
        () = cancel.stop.cancelled() => Err(DeskError::Interrupted),
    };
    if let Some(fault) = &fault
        && (done.is_err() || state.plan.comes_back(fault))
    {
        // What the platform brings back is waited for, what went wrong is taken back.
        let healed = hand.heal(vec![fault.id.clone()]).await;
        if let Err(trouble) = healed {
            // It stays on as far as anybody knows: `heal` can try again.
            return Err(trouble.into());
        }
    }
    state.learn(hand.held().await?);
    let on = fault
        .map(|fault| fault.id)
        .filter(|id| state.faults.iter().any(|fault| fault.held.fault.id == *id));
    if let Some(fault) = state
        .faults
        .iter_mut()
        .find(|fault| Some(&fault.held.fault.id) == on.as_ref())
    {
        fault.ends = lasts.map(|lasts| unix_now() + lasts.0);
    }
    place.save(&state).await?;
    done?;
    let uncommitted = matches!(step.action, Action::Tx(_)) && !wait(committed).await;
    drop((hand, deployer));
    Ok(Injected {
        lasts: lasts.filter(|_| on.is_some()),
        on,
        uncommitted,
    })
}

/// Passes records on, and tells when one says that a transaction was committed.
fn listen(tell: mpsc::UnboundedSender<Record>) -> (mpsc::UnboundedSender<Record>, watch::Receiver<bool>) {
    let (records, mut heard) = mpsc::unbounded_channel();
    let (say, committed) = watch::channel(false);
    tokio::spawn(async move {
        while let Some(record) = heard.recv().await {
            let event = match &record {
                Record::Tx { event, .. } => Some(event),
                _ => None,
            };
            if matches!(event, Some(TxEvent::Committed { .. })) {
                say.send_replace(true);
            }
            drop(tell.send(record));
        }
    });
    (records, committed)
}

async fn wait(mut committed: watch::Receiver<bool>) -> bool {
    let seen = committed.wait_for(|committed| *committed);
    tokio::time::timeout(COMMIT_LIMIT, seen).await.is_ok()
}

/// A step without the time after which its fault ends, and that time: nobody but the caller is there to end it.
fn timeless(mut step: Step) -> (Step, Option<Ms>) {
    let mut lasts = None;
    if let Action::Fault(fault) = &mut step.action
        && let Lasts::For(time) = fault.lasts
    {
        fault.lasts = Lasts::UntilHealed;
        lasts = Some(time);
    }
    (step, lasts)
}

fn check(state: &State, text: &str, id: Option<&str>) -> Result<Step, DeskError> {
    let left = |fault: &Suffered| {
        let HeldFault { targets, started, .. } = &fault.held;
        targets
            .iter()
            .filter(|node| !started.contains(*node))
            .cloned()
            .collect()
    };
    let on = state.faults.iter().map(|fault| On {
        fault: &fault.held.fault,
        targets: left(fault),
    });
    let given = Given {
        plan: &state.plan,
        present: &state.present,
        on: on.collect(),
    };
    let options = scenario::Options {
        seed: Some(state.plan.seed),
        backend: state.plan.backend,
        capabilities: run::capabilities(state.plan.backend),
        adapter,
    };
    scenario::load_step("the step", text, id, &given, &options)
        .map_err(|problems| DeskError::Invalid(Box::new(problems)))
}

/// Ends faults, and returns when that is verified; `None`: all. Gives the ids of those that were on.
///
/// # Errors
/// When one is not on, or could not be healed.
pub async fn heal(
    place: &Place,
    exe: &Path,
    ids: Option<&[String]>,
    tell: mpsc::UnboundedSender<Record>,
) -> Result<Vec<String>, Trouble> {
    let lock = place.lock().await?;
    let done = Box::pin(heal_alone(place, exe, ids, tell)).await;
    place.unlock(lock).await;
    done
}

async fn heal_alone(
    place: &Place,
    exe: &Path,
    ids: Option<&[String]>,
    tell: mpsc::UnboundedSender<Record>,
) -> Result<Vec<String>, Trouble> {
    let mut state = place.state().await?;
    let on: Vec<String> = state.faults.iter().map(|fault| fault.held.fault.id.clone()).collect();
    let healed: Vec<String> = match ids {
        None => on.clone(),
        Some(ids) => ids.to_vec(),
    };
    if let Some(unknown) = healed.iter().find(|id| !on.contains(id)) {
        let seen = if on.is_empty() {
            "none".to_owned()
        } else {
            on.join(", ")
        };
        let expected = format!("a fault {unknown} that is on");
        return Err(trouble("infra/desk-fault", expected, format!("on are: {seen}")));
    }
    if healed.is_empty() {
        return Ok(healed);
    }
    // In the order in which they were injected, whatever the order of the names.
    let order = on.into_iter().filter(|id| healed.contains(id)).collect();
    let Seat { hand, deployer } = Box::pin(place.attach(exe, &state, tell)).await?;
    // What could not be healed stays on as far as anybody knows, so that it can be tried again.
    hand.heal(order).await?;
    state.learn(hand.held().await?);
    place.save(&state).await?;
    drop((hand, deployer));
    Ok(healed)
}

/// Removes a network with everything that belongs to it; returns what is left, in words.
///
/// # Errors
/// When it cannot be reached.
pub async fn down(place: &Place, exe: &Path) -> Result<Vec<String>, Trouble> {
    let entry = match place {
        Place::Local(entry) => entry,
        Place::Cluster(place) => return Ok(place.remove(REMOVE_LIMIT).await),
    };
    let (tell, _) = mpsc::unbounded_channel();
    // What the network is made of is not needed to remove it, so a state that cannot be read does not hold it up.
    let local = Local::reattach(
        entry,
        exe.to_owned(),
        Vec::new(),
        crate::backend::Addresses::default(),
        tell,
    )
    .await?;
    let how = Teardown {
        grace: GRACE,
        keep_homes: false,
    };
    let left = local.destroy(how).await;
    if left.is_empty() {
        for file in [STATE, LOCK] {
            // What is left of them says nothing: the registry is what counts.
            drop(std::fs::remove_file(entry.run_dir.join(file)));
        }
    }
    Ok(left)
}

/// What a network is like now.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Status {
    /// The scenario's name.
    pub scenario: String,
    /// The run's id.
    pub run: String,
    /// Where it runs.
    pub backend: BackendKind,
    /// Where its logs are; for a network in a cluster, its namespace.
    pub place: String,
    /// When it ends by itself, as Unix time in milliseconds.
    pub until: u64,
    /// In the order of the plan.
    pub nodes: Vec<NodeStatus>,
    /// In the order in which they were injected.
    pub faults: Vec<FaultStatus>,
}

/// What a node is like now.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NodeStatus {
    /// Its name.
    pub name: NodeName,
    /// `running`, `paused`, `down`, `not started`, or of several components what the worst does.
    pub state: &'static str,
    /// Its process.
    pub pid: Option<u32>,
    /// Its pod's UID.
    pub pod: Option<String>,
    /// The height that it says.
    pub height: Option<u64>,
    /// How many peers it says that it has.
    pub peers: Option<u64>,
    /// What it calls itself.
    pub version: Option<String>,
    /// Where its RPC is reached from this machine, as long as this process lives where that is a tunnel.
    pub rpc: Option<String>,
    /// Why something of this is not known.
    pub why: Option<String>,
}

/// A fault that is on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FaultStatus {
    /// Its id.
    pub id: String,
    /// What it does, in words.
    pub what: String,
    /// Whom it strikes still.
    pub targets: Vec<NodeName>,
    /// For how long it has been on, in milliseconds.
    pub since: Ms,
    /// How long until the command that injected it ends it.
    pub ends_in: Option<Ms>,
    /// That moment is over: the command is gone, and nobody but `heal` ends it.
    pub overdue: bool,
}

/// Looks at a network.
///
/// # Errors
/// When it cannot be reached.
pub async fn status(place: &Place, exe: &Path) -> Result<Status, Trouble> {
    let state = place.state().await?;
    let (tell, _heard) = mpsc::unbounded_channel();
    let Seat { hand, deployer } = Box::pin(place.attach(exe, &state, tell)).await?;
    let looks = state
        .plan
        .network
        .nodes
        .iter()
        .map(|node| look(&hand, &state, &node.name));
    let nodes = futures::future::join_all(looks).await;
    drop((hand, deployer));
    let now = unix_now();
    let faults = state.faults.iter().map(|Suffered { held, since, ends }| FaultStatus {
        id: held.fault.id.clone(),
        what: words::fault(&held.fault),
        targets: (held.targets.iter())
            .filter(|node| !held.started.contains(*node))
            .cloned()
            .collect(),
        since: Ms(now.saturating_sub(*since)),
        ends_in: ends.map(|ends| Ms(ends.saturating_sub(now))),
        overdue: ends.is_some_and(|ends| ends + 5_000 < now),
    });
    Ok(Status {
        scenario: place.scenario().to_owned(),
        run: place.run().to_owned(),
        backend: state.plan.backend,
        place: place.words(),
        until: state.until,
        nodes,
        faults: faults.collect(),
    })
}

async fn look(hand: &Hand, state: &State, name: &str) -> NodeStatus {
    let mut seen = NodeStatus {
        name: name.to_owned(),
        state: "unknown",
        pid: None,
        pod: None,
        height: None,
        peers: None,
        version: None,
        rpc: hand.address(name).map(|address| format!("http://{address}")),
        why: None,
    };
    match hand.ops().state(name).await {
        Ok(node) => {
            let any = |run| node.components.iter().any(|component| component.run == run);
            seen.state = if !state.present.contains(name) {
                "not started"
            } else if any(RunState::Gone) {
                "down"
            } else if any(RunState::Paused) {
                "paused"
            } else {
                "running"
            };
            let first = node.components.first();
            seen.pid = first
                .filter(|component| component.run != RunState::Gone)
                .and_then(|c| c.pid);
            seen.pod = first.and_then(|component| Some(component.place.as_ref()?.pod_uid.clone()));
        }
        Err(trouble) => seen.why = Some(trouble.to_string()),
    }
    let Some(rpc) = hand.rpc(name).filter(|_| seen.state == "running") else {
        return seen;
    };
    let (status, peers) = tokio::join!(
        tokio::time::timeout(ASK_LIMIT, rpc.status()),
        tokio::time::timeout(ASK_LIMIT, rpc.peers())
    );
    match status {
        Ok(Ok(status)) => {
            seen.height = Some(status.height);
            seen.version = Some(status.version);
        }
        Ok(Err(error)) => seen.why = Some(error.to_string()),
        Err(_) => seen.why = Some(format!("no answer in {}", Ms::from(ASK_LIMIT))),
    }
    if let Ok(Ok(peers)) = peers {
        seen.peers = Some(peers.count);
    }
    seen
}

/// The components of a node, or the one that is named.
///
/// # Errors
/// When there is no such node or component.
pub async fn components(place: &Place, node: &str, component: Option<&str>) -> Result<Vec<String>, Trouble> {
    let state = place.state().await?;
    let known: Vec<&str> = (state.plan.network.nodes.iter())
        .map(|node| node.name.as_str())
        .collect();
    if !known.contains(&node) {
        let seen = format!("its nodes are {}", known.join(", "));
        return Err(trouble("infra/desk-none", format!("a node {node}"), seen));
    }
    let all = state.adapter().components(&state.plan.network);
    let meant = |name: &&str| component.is_none_or(|component| component == *name);
    let wanted: Vec<String> = all.iter().copied().filter(meant).map(str::to_owned).collect();
    if wanted.is_empty() {
        let seen = format!("it has {}", all.join(", "));
        let expected = format!("a component {} of {node}", component.unwrap_or_default());
        return Err(trouble("infra/desk-none", expected, seen));
    }
    Ok(wanted)
}

/// Unix time in milliseconds.
fn unix_now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Ms::from(now).0
}
