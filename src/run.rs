//! A scenario from its file to its verdict: what `trialnet run`, the test runner and other people's programs call.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::mpsc;

use crate::backend::kubernetes::attach::Found;
use crate::backend::kubernetes::provider::Flags;
use crate::backend::kubernetes::{Kubernetes, KubernetesOptions};
use crate::backend::local::{Local, LocalOptions};
use crate::backend::{Capabilities, Deployer, kubernetes, local};
use crate::chain::adapter;
use crate::engine::{self, Cancel, Keep, Setup};
use crate::model::effects::net_of;
use crate::model::verdict::Report;
use crate::model::{BackendKind, Ms, NodeName, Plan, Start};
use crate::quorum;
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
    /// What the command line says of the cluster; counts on the Kubernetes backend only.
    pub cluster: Flags,
    /// Ends the run early.
    pub cancel: Cancel,
}

/// How long faults stay when trialnet has gone silent.
const LEASE: Ms = Ms::secs(10);

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
            capabilities: capabilities(backend),
            adapter,
        },
    )
}

/// What a backend offers.
pub(crate) fn capabilities(backend: BackendKind) -> &'static Capabilities {
    match backend {
        BackendKind::Kubernetes => kubernetes::capabilities(),
        BackendKind::Local | BackendKind::Memory => local::capabilities(),
    }
}

/// What a disruption budget counts, and how many of those have to stay so that a quorum is left whichever of the others are gone, the
/// most powerful included. Validators that are started only by a step count as gone. `None`: nobody votes.
#[must_use]
pub fn min_available(plan: &Plan) -> Option<(Vec<NodeName>, u32)> {
    let nodes = &plan.network.nodes;
    let net = net_of(plan, adapter(plan.network.chain).engine());
    let votes = |index: &usize| nodes[*index].power > 0 && nodes[*index].start == Start::Auto;
    let voting: Vec<usize> = (0..nodes.len()).filter(votes).collect();
    if voting.is_empty() {
        return None;
    }
    let stay = voting.len() - quorum::spare(&net, &voting).unwrap_or(0);
    let names = voting.iter().map(|index| nodes[*index].name.clone()).collect();
    Some((names, u32::try_from(stay).unwrap_or(u32::MAX)))
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
        cluster,
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
    let deployer: Arc<dyn Deployer> = match plan.backend {
        BackendKind::Kubernetes => {
            let (voting, min_available) = min_available(&plan).unzip();
            let options = KubernetesOptions {
                exe,
                run_dir: path.clone(),
                run_id: run.clone(),
                scenario: plan.scenario.clone(),
                settings: plan.kubernetes.clone(),
                flags: cluster,
                persistence: plan.network.persistence,
                lease: LEASE,
                voting: voting.unwrap_or_default(),
                min_available,
                packets: plan.loses_packets(),
                locks: plan.locks_volumes(),
                rates: plan.bounds_rates(),
                alone: plan.alone(),
                outages: plan.fails_machines(),
            };
            match plan.network.attach.clone() {
                Some(attach) => Arc::new(Found::new(options, attach, records.clone())),
                None => Arc::new(Kubernetes::new(options, records.clone())),
            }
        }
        BackendKind::Local | BackendKind::Memory => {
            let options = LocalOptions {
                scenario: plan.scenario.clone(),
                ..LocalOptions::new(exe, path.clone(), run.clone())
            };
            Arc::new(Local::new(options, records.clone()))
        }
    };
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
        records,
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
pub(crate) fn run_id() -> String {
    format!("{:08x}", rand::random::<u32>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::tests::plan;
    use crate::model::ChainKind;

    fn stay(powers: &[u64], manual: &[usize]) -> (usize, u32) {
        let mut plan = plan(ChainKind::Devnode, powers.len(), 2);
        for (node, power) in plan.network.nodes.iter_mut().zip(powers) {
            node.power = *power;
        }
        for index in manual {
            plan.network.nodes[*index].start = Start::Manual;
        }
        let (voting, stay) = min_available(&plan).unwrap();
        (voting.len(), stay)
    }

    #[test]
    fn a_budget_leaves_a_quorum_whoever_goes() {
        assert_eq!(stay(&[10; 1], &[]), (1, 1));
        assert_eq!(stay(&[10; 3], &[]), (3, 3), "20 of 30 is not more than two thirds");
        assert_eq!(stay(&[10; 4], &[]), (4, 3), "never two of four");
        assert_eq!(stay(&[10; 7], &[]), (7, 5));
        assert_eq!(stay(&[10, 10, 10, 30], &[]), (4, 4), "without the heavy one, 30 of 60");
        assert_eq!(
            stay(&[1, 1, 1, 1, 10, 10, 10, 10], &[]),
            (8, 7),
            "two of the light ones might go, but not two of the others"
        );
        assert_eq!(stay(&[10; 4], &[3]), (3, 3), "the one that comes later is gone already");
        assert_eq!(
            stay(&[10; 4], &[2, 3]),
            (2, 2),
            "no quorum to begin with: nothing may go"
        );
    }

    #[test]
    fn without_voters_there_is_no_budget() {
        assert_eq!(min_available(&plan(ChainKind::Devnode, 0, 2)), None);
    }

    #[test]
    fn each_backend_says_what_it_offers() {
        assert_eq!(capabilities(BackendKind::Kubernetes).backend, "kubernetes");
        assert_eq!(capabilities(BackendKind::Local).backend, "local");
    }
}
