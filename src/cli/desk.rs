//! `trialnet up`, `status`, `logs`, `inject`, `heal` and `down`: a network that stays while a person works at it.

use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum, ValueHint};
use futures::{AsyncBufReadExt, StreamExt};
use tokio::sync::mpsc;

use super::{Backend, ClusterArgs, LookArgs};
use crate::backend::{Trouble, kubernetes};
use crate::desk::{self, DeskError, Place, Status, Up, UpError, UpOptions};
use crate::engine::{Cancel, Keep};
use crate::record::{Event, FaultState, Record, TxEvent};
use crate::report::summary::left_behind;
use crate::report::terminal::{Options, Terminal};
use crate::report::words::{names, table, tenths};
use crate::run::{self, RunOptions};
use crate::ui::{Ui, paint};
use crate::{env, exit};

/// How often a log is looked at for more.
const FOLLOW: Duration = Duration::from_millis(100);
/// How long the last records of a command may take to be shown.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// `trialnet up`.
#[derive(Clone, Debug, Args)]
pub struct UpArgs {
    /// The scenario file; of it the network, not the steps.
    #[arg(value_hint = ValueHint::FilePath)]
    pub file: PathBuf,

    /// Where the network runs.
    #[arg(long, value_enum, value_name = "BACKEND", default_value_t)]
    pub backend: Backend,

    /// Where every random choice comes from, keys included [default: the file's, else a random one].
    #[arg(long, value_name = "N", env = env::SEED)]
    pub seed: Option<u64>,

    /// The run folder, which must not exist or be empty [default: below .trialnet/runs].
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub run_dir: Option<PathBuf>,

    /// After this time the network ends by itself; one in a cluster has expired then, and goes with the next `gc`
    #[arg(long = "for", value_name = "DURATION", default_value = "24h", value_parser = lasting)]
    pub time: Duration,

    /// Which cluster.
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

fn lasting(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(time) if time >= Duration::from_secs(1) => Ok(time),
        Ok(_) => Err("at least 1s".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// `trialnet status`.
#[derive(Clone, Debug, Args)]
pub struct StatusArgs {
    /// The scenario's name or the run's id [default: the only network that is up].
    pub name: Option<String>,

    /// How it is printed.
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    pub output: Output,

    /// Which cluster is looked at.
    #[command(flatten)]
    pub cluster: LookArgs,
}

/// How something is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// `trialnet logs`.
#[derive(Clone, Debug, Args)]
pub struct LogsArgs {
    /// The network, where several are up, and the node, or one component of it: `validator-0`, `validator-0.app`.
    #[arg(value_name = "[NAME] NODE[.COMPONENT]", required = true, num_args = 1..=2)]
    pub what: Vec<String>,

    /// Go on with what is written from now on, until Ctrl-C.
    #[arg(long, short)]
    pub follow: bool,

    /// Only the last lines.
    #[arg(long, value_name = "N")]
    pub tail: Option<usize>,

    /// Which cluster is looked at.
    #[command(flatten)]
    pub cluster: LookArgs,
}

/// `trialnet inject`.
#[derive(Clone, Debug, Args)]
pub struct InjectArgs {
    /// The network, where several are up, and one step as a scenario has it: `kill = { nodes = ["validator-0"] }`.
    #[arg(value_name = "[NAME] STEP", required = true, num_args = 1..=2)]
    pub what: Vec<String>,

    /// What a fault is called until it is healed [default: its word and a number].
    #[arg(long)]
    pub id: Option<String>,

    /// Which cluster is looked at.
    #[command(flatten)]
    pub cluster: LookArgs,
}

/// `trialnet heal`.
#[derive(Clone, Debug, Args)]
pub struct HealArgs {
    /// The network, where several are up, and the ids of faults.
    #[arg(value_name = "[NAME] [ID]")]
    pub what: Vec<String>,

    /// All faults that are on.
    #[arg(long)]
    pub all: bool,

    /// Which cluster is looked at.
    #[command(flatten)]
    pub cluster: LookArgs,
}

/// `trialnet down`.
#[derive(Clone, Debug, Args)]
pub struct DownArgs {
    /// The scenario's name or the run's id [default: the only network that is up].
    pub name: Option<String>,

    /// All networks that are up.
    #[arg(long, conflicts_with = "name")]
    pub all: bool,

    /// Which cluster is looked at.
    #[command(flatten)]
    pub cluster: LookArgs,
}

/// Brings a network up and leaves it.
pub async fn up(args: &UpArgs, ui: &Ui, exe: &Path, cancel: &Cancel) -> u8 {
    let loaded = match run::load(&args.file, args.backend.into(), args.seed) {
        Ok(loaded) => loaded,
        Err(diagnostics) => {
            ui.err(&diagnostics.render(super::validate::LOOK));
            return exit::SCENARIO_INVALID;
        }
    };
    if let Err(why) = desk::offered(&loaded.plan) {
        ui.err(&format!("{} {why}", paint::bad("error:")));
        return exit::USAGE;
    }
    let options = UpOptions {
        run: RunOptions {
            folder: args.run_dir.clone(),
            keep: Keep::Never,
            exe: exe.to_owned(),
            cluster: args.cluster.flags(),
            cancel: cancel.clone(),
        },
        time: args.time.into(),
    };
    let shown = loaded.plan.clone();
    let mut terminal = None;
    let watch = |folder: &Path, event: &Event| {
        let options = || Options {
            several: false,
            file: args.file.clone(),
            folder: Some(super::run::shorter(folder)),
        };
        let terminal = terminal.get_or_insert_with(|| Terminal::new(ui, &shown, options()));
        // The end of the records is not that of the network.
        if !matches!(event, Event::Record(stamped) if stamped.record == Record::End) {
            terminal.event(event);
        }
    };
    let done = Box::pin(desk::up(loaded, options, watch)).await;
    drop(terminal);
    match done {
        Ok(Up::Stays(place, _)) => {
            let shown = match desk::status(&place, exe).await {
                Ok(status) => render(&status),
                Err(trouble) => trouble.to_string(),
            };
            ui.out(&format!("{shown}\n{}", go_on(&place)));
            exit::PASSED
        }
        Ok(Up::Fell(done)) => {
            if let Some(text) = left_behind(&done.leftovers) {
                ui.err(&paint::bad(&text));
            }
            // Not to become ready is no verdict that a caller could take for success.
            match exit::of(&done.report) {
                exit::PASSED => exit::INFRASTRUCTURE,
                code => code,
            }
        }
        Err(UpError::Folder(error)) => {
            ui.error(&error, Some(error.help()));
            super::run::refused(&error)
        }
        Err(UpError::Trouble(error)) => trouble(ui, &error),
    }
}

/// How to go on.
fn go_on(place: &Place) -> String {
    let name = place.run();
    [
        "it stays until `trialnet down`; from here or another terminal:".to_owned(),
        format!("  trialnet status {name}"),
        format!("  trialnet inject {name} 'kill = {{ nodes = [\"validator-0\"] }}'"),
        format!("  trialnet heal {name} --all"),
        format!("  trialnet down {name}"),
    ]
    .join("\n")
}

fn trouble(ui: &Ui, error: &Trouble) -> u8 {
    let help = format!("`trialnet explain {}` says more", error.code);
    ui.error(error, Some(&help));
    match error.code.as_str() {
        "infra/desk-none" | "infra/desk-ambiguous" | "infra/desk-fault" => exit::USAGE,
        _ => exit::INFRASTRUCTURE,
    }
}

/// Shows what a network is like.
pub async fn status(args: &StatusArgs, ui: &Ui, exe: &Path) -> u8 {
    let look = async {
        let place = desk::find(&all(&args.cluster).await?, args.name.as_deref())?;
        Box::pin(desk::status(&place, exe)).await
    };
    match look.await {
        Err(error) => trouble(ui, &error),
        Ok(status) if args.output == Output::Text => {
            ui.out(&render(&status));
            exit::PASSED
        }
        Ok(status) => match serde_json::to_string_pretty(&status) {
            Ok(text) => {
                ui.out(&text);
                exit::PASSED
            }
            Err(error) => {
                ui.error(&error, None);
                exit::INTERNAL_ERROR
            }
        },
    }
}

fn render(status: &Status) -> String {
    let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    let mut rows = vec![["NODE", "STATE", "PROCESS", "HEIGHT", "PEERS", "VERSION", "RPC"].map(str::to_owned)];
    for node in &status.nodes {
        let pod = |uid: &String| uid.get(..8).unwrap_or(uid).to_owned();
        rows.push([
            node.name.clone(),
            node.state.to_owned(),
            or_dash(node.pod.as_ref().map(pod).or(node.pid.map(|pid| pid.to_string()))),
            or_dash(node.height.map(|height| height.to_string())),
            or_dash(node.peers.map(|peers| peers.to_string())),
            or_dash(node.version.clone()),
            or_dash(node.rpc.clone()),
        ]);
    }
    let mut lines = vec![
        format!("{} (run {}), {}", status.scenario, status.run, status.place),
        table("", &rows),
    ];
    let why = |node: &desk::NodeStatus| node.why.as_ref().map(|why| format!("  {}: {why}", node.name));
    lines.extend(status.nodes.iter().filter_map(why));
    if status.faults.is_empty() {
        lines.push("no fault is on".to_owned());
    }
    for fault in &status.faults {
        let end = match (fault.overdue, fault.ends_in) {
            (true, _) => "; its end is over and nobody reverts it: `trialnet heal` it".to_owned(),
            (false, Some(left)) => format!(", ends in {}", tenths(left.0)),
            (false, None) => String::new(),
        };
        let (id, what, since) = (&fault.id, &fault.what, tenths(fault.since.0));
        lines.push(format!("fault {id}: {what}, on for {since}{end}"));
    }
    lines.join("\n")
}

/// The networks that stay, here and in the cluster.
async fn all(cluster: &LookArgs) -> Result<Vec<Place>, Trouble> {
    desk::all(&cluster.into()).await
}

/// The network of the first of these words, where it names one and there are more; the other words.
fn split<'a>(all: &[Place], what: &'a [String], least: usize) -> Result<(Place, &'a [String]), Trouble> {
    match what.split_first() {
        Some((first, rest)) if rest.len() >= least && (least > 0 || desk::names(all, first)) => {
            desk::find(all, Some(first)).map(|place| (place, rest))
        }
        _ => desk::find(all, None).map(|place| (place, what)),
    }
}

/// Prints what a node has written.
pub async fn logs(args: &LogsArgs, ui: &Ui, cancel: &Cancel) -> u8 {
    let look = async {
        let (place, rest) = split(&all(&args.cluster).await?, &args.what, 1)?;
        let word = rest.first().map(String::as_str).unwrap_or_default();
        let (node, component) = match word.split_once('.') {
            Some((node, component)) => (node, Some(component)),
            None => (word, None),
        };
        let components = desk::components(&place, node, component).await?;
        Ok((place, node.to_owned(), components))
    };
    let (place, node, components) = match look.await {
        Ok(found) => found,
        Err(error) => return trouble(ui, &error),
    };
    let several = components.len() > 1;
    let prefixed = components.into_iter().map(|name| {
        let prefix = if several { format!("{name}: ") } else { String::new() };
        (prefix, name)
    });
    match place {
        Place::Local(entry) => {
            let path = |name: &str| entry.run_dir.join("logs").join(format!("{node}.{name}.log"));
            let files = prefixed.map(|(prefix, name)| (prefix, path(&name))).collect();
            from_files(args, ui, cancel, files).await
        }
        Place::Cluster(place) => {
            let printing = prefixed.map(|(prefix, name)| from_pod(args, ui, &place, &node, (prefix, name)));
            let printing = futures::future::join_all(printing);
            let codes = cancel.stop.run_until_cancelled(printing).await;
            exit::worst(codes.unwrap_or_else(|| vec![exit::PASSED]))
        }
    }
}

async fn from_pod(
    args: &LogsArgs,
    ui: &Ui,
    place: &kubernetes::desk::Place,
    node: &str,
    (prefix, component): (String, String),
) -> u8 {
    let stream = match Box::pin(place.log(node, &component, args.follow, args.tail)).await {
        Ok(stream) => stream,
        Err(error) => return trouble(ui, &error),
    };
    let mut lines = stream.lines();
    while let Some(line) = lines.next().await {
        match line {
            Ok(line) => ui.out(&format!("{prefix}{line}")),
            Err(error) => {
                ui.error(&error, None);
                return exit::INFRASTRUCTURE;
            }
        }
    }
    exit::PASSED
}

async fn from_files(args: &LogsArgs, ui: &Ui, cancel: &Cancel, files: Vec<(String, PathBuf)>) -> u8 {
    let mut reading = Vec::new();
    for (prefix, path) in files {
        match open(&path, args.tail) {
            Ok(file) => reading.push((prefix, file, Vec::new())),
            Err(error) => {
                ui.err(&format!("{} {}: {error}", paint::bad("error:"), path.display()));
                return exit::INFRASTRUCTURE;
            }
        }
    }
    loop {
        for (prefix, file, rest) in &mut reading {
            if let Err(error) = pass_on(ui, prefix, file, rest, args.follow) {
                ui.error(&error, None);
                return exit::INFRASTRUCTURE;
            }
        }
        if !args.follow {
            return exit::PASSED;
        }
        tokio::select! {
            () = cancel.stop.cancelled() => return exit::PASSED,
            () = tokio::time::sleep(FOLLOW) => {}
        }
    }
}

/// Opens a log at the beginning of its last lines.
fn open(path: &Path, tail: Option<usize>) -> std::io::Result<std::fs::File> {
    let mut file = std::fs::File::open(path)?;
    if let Some(lines) = tail {
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let body = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
        let ends = body.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
        let start = match lines.checked_sub(1) {
            None => bytes.len(),
            Some(before) => ends.map(|(at, _)| at + 1).nth(before).unwrap_or(0),
        };
        file.seek(SeekFrom::Start(u64::try_from(start).unwrap_or(u64::MAX)))?;
    }
    Ok(file)
}

/// Prints the whole lines of what is new; a last one without its end only if nothing is waited for.
fn pass_on(ui: &Ui, prefix: &str, file: &mut std::fs::File, rest: &mut Vec<u8>, follow: bool) -> std::io::Result<()> {
    file.read_to_end(rest)?;
    let whole = match rest.iter().rposition(|byte| *byte == b'\n') {
        Some(end) if follow => end + 1,
        None if follow => 0,
        _ => rest.len(),
    };
    let new: Vec<u8> = rest.drain(..whole).collect();
    for line in String::from_utf8_lossy(&new).lines() {
        ui.out(&format!("{prefix}{line}"));
    }
    Ok(())
}

/// Carries out a step; a fault that ends by itself is waited for and reverted.
pub async fn inject(args: &InjectArgs, ui: &Ui, exe: &Path, cancel: &Cancel) -> u8 {
    let (place, text) = match all(&args.cluster).await.and_then(|all| split(&all, &args.what, 1)) {
        Ok((place, rest)) => (place, rest.first().cloned().unwrap_or_default()),
        Err(error) => return trouble(ui, &error),
    };
    let (tell, printer) = print(ui);
    let done = Box::pin(desk::inject(&place, exe, (&text, args.id.as_deref()), cancel, tell)).await;
    printer.finish().await;
    let injected = match done {
        Ok(injected) => injected,
        Err(DeskError::Invalid(diagnostics)) => {
            ui.err(&diagnostics.render(super::validate::LOOK));
            return exit::USAGE;
        }
        Err(DeskError::Trouble(error)) => return trouble(ui, &error),
        Err(error @ DeskError::Interrupted) => {
            ui.err(&error.to_string());
            return exit::INTERRUPTED;
        }
    };
    if injected.uncommitted {
        ui.err("the transaction was taken, but not committed within half a minute");
        return exit::SCENARIO_FAILED;
    }
    let (Some(id), Some(time)) = (&injected.on, injected.lasts) else {
        if let Some(id) = injected.on {
            ui.out(&format!("{id} is on until `trialnet heal {} {id}`", place.run()));
        }
        return exit::PASSED;
    };
    ui.err(&format!("{id} is on for {time}; Ctrl-C ends it now"));
    let ended = cancel
        .stop
        .run_until_cancelled(tokio::time::sleep(time.duration()))
        .await;
    let reverted = put_back(&place, ui, exe, Some(std::slice::from_ref(id))).await;
    match (ended, reverted) {
        (_, Err(error)) if error.code == "infra/desk-fault" => {
            ui.err(&format!("{id} was healed before its end"));
            exit::PASSED
        }
        (_, Err(error)) => trouble(ui, &error),
        (None, Ok(_)) => {
            ui.err(&format!("interrupted: {id} was reverted before its end"));
            exit::INTERRUPTED
        }
        (Some(()), Ok(_)) => exit::PASSED,
    }
}

/// Ends faults.
pub async fn heal(args: &HealArgs, ui: &Ui, exe: &Path) -> u8 {
    let (place, ids) = match all(&args.cluster).await.and_then(|all| split(&all, &args.what, 0)) {
        Ok(found) => found,
        Err(error) => return trouble(ui, &error),
    };
    if ids.is_empty() != args.all {
        ui.err(&format!(
            "{} name the faults to heal, or say --all; `trialnet status` shows those that are on",
            paint::bad("error:")
        ));
        return exit::USAGE;
    }
    match put_back(&place, ui, exe, (!args.all).then_some(ids)).await {
        Ok(healed) if healed.is_empty() => {
            ui.out("no fault is on");
            exit::PASSED
        }
        Ok(healed) => {
            ui.out(&format!("healed {}", names(&healed)));
            exit::PASSED
        }
        Err(error) => trouble(ui, &error),
    }
}

async fn put_back(place: &Place, ui: &Ui, exe: &Path, ids: Option<&[String]>) -> Result<Vec<String>, Trouble> {
    let (tell, printer) = print(ui);
    let healed = Box::pin(desk::heal(place, exe, ids, tell)).await;
    printer.finish().await;
    healed
}

/// Removes networks, and says what is left of them.
pub async fn down(args: &DownArgs, ui: &Ui, exe: &Path) -> u8 {
    let all = match all(&args.cluster).await {
        Ok(all) => all,
        Err(error) => return trouble(ui, &error),
    };
    let places = match (args.all, desk::find(&all, args.name.as_deref())) {
        (true, _) => all,
        (false, Ok(place)) => vec![place],
        (false, Err(error)) => return trouble(ui, &error),
    };
    let mut codes = vec![exit::PASSED];
    for place in &places {
        match Box::pin(desk::down(place, exe)).await {
            Ok(left) => match left_behind(&left) {
                None => ui.out(&format!("{} (run {}) is removed", place.scenario(), place.run())),
                Some(text) => {
                    ui.err(&paint::bad(&text));
                    codes.push(exit::INFRASTRUCTURE);
                }
            },
            Err(error) => codes.push(trouble(ui, &error)),
        }
    }
    exit::worst(codes)
}

/// Prints what happens to faults and transactions.
struct Printer(tokio::task::JoinHandle<()>);

impl Printer {
    /// Waits a moment for the last words.
    async fn finish(self) {
        drop(tokio::time::timeout(LAST_WORDS, self.0).await);
    }
}

fn print(ui: &Ui) -> (mpsc::UnboundedSender<Record>, Printer) {
    let (tell, mut heard) = mpsc::unbounded_channel();
    let ui = ui.clone();
    let task = tokio::spawn(async move {
        while let Some(record) = heard.recv().await {
            if let Some(line) = line(&record) {
                ui.out(&line);
            }
        }
    });
    (tell, Printer(task))
}

/// What a record says to whoever works at the network.
fn line(record: &Record) -> Option<String> {
    match record {
        Record::Fault {
            id,
            state,
            targets,
            detail,
        } => {
            let state = match state {
                FaultState::Planned | FaultState::AlreadyEnded | FaultState::Skipped | FaultState::Dropped => {
                    return None;
                }
                FaultState::Injected => "injected",
                FaultState::Verified => "verified",
                FaultState::NoEffect => "NO EFFECT",
                FaultState::Stronger => "STRONGER THAN ASKED",
                FaultState::Reverted => "reverted",
                FaultState::RevertVerified => "revert verified",
                FaultState::RevertFailed => "REVERT FAILED",
            };
            let detail = if detail.is_empty() {
                names(targets)
            } else {
                detail.clone()
            };
            Some(format!("{id}: {state}: {detail}"))
        }
        Record::Tx { event, .. } => match event {
            TxEvent::Accepted { node, hash } => Some(format!("transaction {hash} taken by {node}")),
            TxEvent::Committed { node, height, code } => {
                Some(format!("committed at height {height} with code {code}, says {node}"))
            }
            TxEvent::Refused { node, why } => Some(format!("refused by {node}: {why}")),
            TxEvent::Lost { .. } => None,
        },
        Record::Trouble {
            code, expected, seen, ..
        } => Some(format!("{code}: {expected}: {seen}")),
        _ => None,
    }
}
