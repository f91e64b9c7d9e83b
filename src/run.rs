//! A scenario from its file to its verdict: what `trialnet run`, the test runner and other people's programs call.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::mpsc;

use crate::backend::local::{Local, LocalOptions, capabilities};
use crate::chain::adapter;
use crate::engine::{self, Cancel, Keep, Setup};
use crate::model::BackendKind;
use crate::model::verdict::Report;
use crate::record::Event;
use crate::report::folder::{Folder, FolderError, default_path};
use crate::scenario::{self, Diagnostics, Loaded};

/// How a scenario is run.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// The run folder; must be empty or not exist. `None`: a new one below `.trialnet/runs` of the current directory.
    pub folder: Option<PathBuf>,
    /// Whether node homes stay.
    pub keep: Keep,
    /// The program that answers the hidden subcommands `guard`, `shim` and `devnode`; usually the current executable.
    pub exe: PathBuf,
    /// Ends the run early.
    pub cancel: Cancel,
}

/// A run that has come to its end.
#[derive(Clone, Debug)]
pub struct Done {
    /// The verdict and all that led to it.
    pub report: Report,
    /// What teardown could not remove, in words.
    pub leftovers: Vec<String>,
    /// The run folder.
    pub folder: PathBuf,
}

/// Reads and checks a scenario file; without a seed, there or here, one is drawn.
///
/// # Errors
/// Everything that is wrong with the file, at once.
pub fn load(file: &Path, backend: BackendKind, seed: Option<u64>) -> Result<Loaded, Diagnostics> {
    scenario::load(
        file,
        &scenario::Options {
            seed,
            backend,
            capabilities: capabilities(),
            adapter,
        },
    )
}

/// Runs a scenario on the backend that its plan names. `watch` sees every event after the run folder has it; the folder's path is its first argument.
///
/// # Errors
/// When the run folder cannot be used. Whatever else happens is in the report.
pub async fn run(
    loaded: Loaded,
    options: RunOptions,
    mut watch: impl FnMut(&Path, &Event) + Send,
) -> Result<Done, FolderError> {
    let RunOptions {
        folder,
        keep,
        exe,
        cancel,
    } = options;
    let Loaded { plan, text } = loaded;
    let run = run_id();
    let path = match folder {
        Some(path) => path,
        None => default_path(Path::new("."), &plan.scenario, SystemTime::now(), &run)?,
    };
    let mut folder = Folder::create(&path, &plan, &text)?;
    // Nodes start in their homes, so every path that reaches them has to be absolute.
    let path = std::path::absolute(&path).unwrap_or(path);
    let (records, events) = mpsc::unbounded_channel();
    let options = LocalOptions {
        scenario: plan.scenario.clone(),
        ..LocalOptions::new(exe, path.clone(), run.clone())
    };
    let deployer = Arc::new(Local::new(options, records));
    let adapter = adapter(plan.network.chain);
    let mut unwritten = None;
    let mut sink = |event: Event| {
        if let Err(error) = folder.event(&event) {
            unwritten.get_or_insert(error);
        }
        watch(&path, &event);
    };
    let plan = Arc::new(plan);
    let setup = Setup {
        plan,
        run,
        deployer,
        events,
        adapter,
        cancel,
        sink: &mut sink,
        keep,
    };
    let finished = Box::pin(engine::run(setup)).await;
    match unwritten {
        // A verdict that nobody can check is none.
        Some(error) => Err(error),
        None => Ok(Done {
            report: finished.report,
            leftovers: finished.leftovers,
            folder: path,
        }),
    }
}

/// Unique among all runs of all machines, short enough to read.
fn run_id() -> String {
    format!("{:08x}", rand::random::<u32>())
}
