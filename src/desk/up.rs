//! Bringing a network up that stays.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::mpsc;

use super::{Place, State, save_file, unix_now};
use crate::agent::registry;
use crate::agent::trouble;
use crate::backend::kubernetes::{Kubernetes, KubernetesOptions};
use crate::backend::local::{Local, LocalOptions};
use crate::backend::{Deployer, Teardown, Trouble};
use crate::chain::adapter;
use crate::engine::{self, Setup};
use crate::model::{BackendKind, FORMAT, Ms, Plan};
use crate::record::Event;
use crate::report::folder::{Folder, FolderError, default_path};
use crate::run::{Done, RunOptions};
use crate::scenario::Loaded;

/// How a network is brought up.
#[derive(Clone, Debug)]
pub struct UpOptions {
    /// As for a run; nothing of the nodes' data is kept at the end.
    pub run: RunOptions,
    /// After this time it ends by itself.
    pub time: Ms,
}

/// What became of it.
#[derive(Debug)]
pub enum Up {
    /// It is ready and stays.
    Stays(Place, Box<State>),
    /// It did not become ready, and was removed.
    Fell(Box<Done>),
}

/// Why it could not be brought up.
#[derive(Debug, thiserror::Error)]
pub enum UpError {
    /// The run folder cannot be used.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// It was ready, but could not be left to itself; it was removed.
    #[error(transparent)]
    Trouble(#[from] Trouble),
}

/// Brings the network of a scenario up as a run does, and leaves it when it is ready; its steps are not carried out.
///
/// # Errors
/// When the run folder cannot be used, or the network could not be left to itself.
pub async fn up(
    loaded: Loaded,
    options: UpOptions,
    mut watch: impl FnMut(&Path, &Event) + Send,
) -> Result<Up, UpError> {
    let UpOptions { run: options, time } = options;
    let Loaded { plan, text } = loaded;
    let plan = without_steps(plan);
    let run = crate::run::run_id();
    let path = match options.folder {
        Some(path) => path,
        None => default_path(Path::new("."), &plan.scenario, SystemTime::now(), &run)?,
    };
    let mut folder = Folder::create(&path, &plan, &text)?;
    let path = std::path::absolute(&path).unwrap_or(path);
    let (records, events) = mpsc::unbounded_channel();
    let backend = match plan.backend {
        BackendKind::Kubernetes => {
            let (voting, min_available) = crate::run::min_available(&plan).unzip();
            let options = KubernetesOptions {
                exe: options.exe,
                run_dir: path.clone(),
                run_id: run.clone(),
                scenario: plan.scenario.clone(),
                settings: plan.kubernetes.clone(),
                flags: options.cluster,
                persistence: plan.network.persistence,
                // Nobody renews it while nobody is there.
                lease: time,
                voting: voting.unwrap_or_default(),
                min_available,
                packets: false,
                locks: false,
                rates: false,
                alone: plan.alone(),
                outages: false,
            };
            Backend::Kubernetes(Kubernetes::new(options, records.clone()))
        }
        BackendKind::Local | BackendKind::Memory => {
            let local = LocalOptions {
                scenario: plan.scenario.clone(),
                ..LocalOptions::new(options.exe, path.clone(), run.clone())
            };
            Backend::Local(Local::new(local, records.clone()))
        }
    };
    let (mut unwritten, mut last) = (None, None);
    let mut sink = |event: Event| {
        // A network that stays has no verdict.
        if matches!(event, Event::Done(_)) {
            last = Some(event);
            return;
        }
        if let Err(error) = folder.event(&event) {
            unwritten.get_or_insert(error);
        }
        watch(&path, &event);
    };
    let plan = Arc::new(plan);
    let setup = Setup {
        plan: Arc::clone(&plan),
        run: run.clone(),
        deployer: backend.deployer(),
        records,
        events,
        adapter: adapter(plan.network.chain),
        cancel: options.cancel.clone(),
        sink: &mut sink,
        keep: options.keep,
    };
    let (finished, made) = Box::pin(engine::up(setup)).await;
    if let Some(error) = unwritten {
        drop(backend.deployer().destroy(AT_ONCE).await);
        return Err(error.into());
    }
    let Some(made) = made else {
        if let Some(event) = last {
            folder.event(&event)?;
            watch(&path, &event);
        }
        return Ok(Up::Fell(Box::new(Done {
            report: finished.report,
            leftovers: finished.leftovers,
            folder: path,
        })));
    };
    let held = engine::Held::begin(&plan);
    let state = State {
        format: FORMAT,
        run: run.clone(),
        plan: (*plan).clone(),
        made,
        faults: Vec::new(),
        present: held.present,
        until: unix_now() + time.0,
    };
    match Box::pin(backend.stay(&state, &path, time)).await {
        Ok(place) => Ok(Up::Stays(place, Box::new(state))),
        Err(trouble) => {
            drop(backend.deployer().destroy(AT_ONCE).await);
            Err(trouble.into())
        }
    }
}

/// A plan of which nothing happens but that the network comes up.
fn without_steps(plan: Plan) -> Plan {
    Plan {
        steps: Vec::new(),
        repeats: Vec::new(),
        sums: Vec::new(),
        chaos: None,
        outcome: None,
        ..plan
    }
}

enum Backend {
    Local(Local),
    Kubernetes(Kubernetes),
}

impl Backend {
    fn deployer(&self) -> Arc<dyn Deployer> {
        match self {
            Self::Local(local) => Arc::new(local.clone()),
            Self::Kubernetes(kubernetes) => Arc::new(kubernetes.clone()),
        }
    }

    /// Leaves the network to itself.
    async fn stay(&self, state: &State, run_dir: &Path, time: Ms) -> Result<Place, Trouble> {
        match self {
            Self::Local(local) => {
                save_file(run_dir, state)?;
                local.stay(time).await?;
                let mut entries = registry::list_runs().into_iter();
                let entry = entries.find(|entry| entry.run == state.run);
                let missing = || {
                    let seen = format!("none of run {}", state.run);
                    trouble("infra/desk-state", "an entry in the registry", seen)
                };
                Ok(Place::Local(Box::new(entry.ok_or_else(missing)?)))
            }
            Self::Kubernetes(kubernetes) => {
                let place = kubernetes.stay(&super::text(state)?, time).await?;
                Ok(Place::Cluster(Box::new(place)))
            }
        }
    }
}

/// For what could not be left to itself.
const AT_ONCE: Teardown = Teardown {
    grace: Ms(0),
    keep_homes: false,
};

/// Whether a network of this plan can be brought up and stay; if not, why.
///
/// # Errors
/// The reason, in words.
pub fn offered(plan: &Plan) -> Result<(), String> {
    if plan.network.attach.is_some() {
        return Err("its nodes are found, not made, so there is nothing to bring up".to_owned());
    }
    Ok(())
}
