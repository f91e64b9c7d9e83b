//! `trialnet ps`, `gc` and `doctor`: this machine.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::doctor::{self, Check};
use super::ps::{self, InCluster, Row, State};
use super::validate::LOOK;
use super::{Backend, DoctorArgs, GcArgs, LookArgs, PsArgs, cluster};
use crate::agent::registry::{self, Life, RunEntry, Swept};
use crate::backend::Trouble;
use crate::backend::kubernetes::api::Failure;
use crate::backend::kubernetes::{gc, provider, teardown};
use crate::model::Ms;
use crate::scenario::Loaded;
use crate::ui::Ui;
use crate::{exit, run};

/// Programs of chains that `doctor` looks for.
const CHAINS: &[&str] = &[
    "cometbft-0.37.18",
    "cometbft-0.38.17",
    "cometbft-0.38.26",
    "cometbft-1.0.1",
    "geth-1.12.2",
    "geth-1.13.15",
];
/// A run of 100 nodes keeps about so many files open in its guard.
const WANTED_FILES: u64 = 4096;

/// How long the API server of a cluster has to answer that nobody named.
const CLUSTER_LIMIT: Duration = Duration::from_secs(2);

/// Lists the runs that are up, and what is left of dead ones: those of this machine, and those in its cluster.
pub async fn ps(args: &PsArgs, ui: &Ui) -> u8 {
    let now = SystemTime::now();
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default().into();
    let row = |entry: RunEntry| Row {
        state: if entry.life() == Life::LeftOver {
            State::LeftOver
        } else {
            State::Up
        },
        pid: entry.owner.pid,
        age: Some(Ms::since(since, Ms(entry.began))),
        run: entry.run,
        scenario: entry.scenario,
        folder: entry.run_dir,
    };
    let rows: Vec<_> = registry::list_runs().into_iter().map(row).collect();
    let found = match Box::pin(in_cluster(&args.cluster)).await {
        Ok(found) => found,
        Err(trouble) => {
            ui.error(&trouble, None);
            return exit::INFRASTRUCTURE;
        }
    };
    let found = found.map(|(context, runs)| InCluster {
        context,
        rows: runs
            .into_iter()
            .map(|run| ps::ClusterRow::of(run, now, &rows))
            .collect(),
    });
    ui.out(&ps::render(&rows, found.as_ref()));
    ps::code(&rows, found.as_ref(), args.check)
}

/// The runs in the cluster, with its context.
async fn in_cluster(args: &LookArgs) -> Result<Option<(String, Vec<gc::Found>)>, Trouble> {
    let Some(api) = gc::reach(&args.into(), CLUSTER_LIMIT).await? else {
        return Ok(None);
    };
    let runs = gc::list(&api.within(CLUSTER_LIMIT)).await.map_err(Failure::trouble)?;
    Ok(Some((api.context().unwrap_or_default().to_owned(), runs)))
}

/// Removes what dead runs have left on this machine and in clusters.
pub async fn gc(args: &GcArgs, ui: &Ui) -> u8 {
    let GcArgs {
        dry_run,
        older_than,
        forget,
        cluster,
    } = args;
    let dir = registry::state_dir().ok();
    if let Some(run) = forget {
        return give_up(run, dir.as_deref(), ui);
    }
    let mut swept = registry::gc(*dry_run);
    if let Some(dir) = &dir {
        swept.extend(Box::pin(gc::sweep_registered(dir, *dry_run, teardown::LIMIT)).await);
    }
    let mut failed = false;
    match Box::pin(gc::reach(&cluster.into(), provider::ANSWER_LIMIT)).await {
        Ok(Some(api)) => swept.extend(Box::pin(gc::sweep(&api, *older_than, *dry_run, teardown::LIMIT)).await),
        Ok(None) => {}
        Err(trouble) => {
            ui.error(&trouble, None);
            failed = true;
        }
    }
    // Without a registry nobody knows whose they are.
    if let Some(dir) = &dir {
        swept.extend(Box::pin(gc::sweep_clusters(dir, *older_than, *dry_run)).await);
    }
    ui.out(&ps::render_gc(&swept, *dry_run));
    if failed || !swept.left.is_empty() {
        return exit::INFRASTRUCTURE;
    }
    exit::PASSED
}

/// `gc --forget`: a cluster that is gone for good tells nobody that nothing of a run is left in it.
fn give_up(run: &str, dir: Option<&Path>, ui: &Ui) -> u8 {
    let forgotten = dir.map_or_else(
        || Err("the registry cannot be opened".to_owned()),
        |dir| gc::forget(dir, run),
    );
    match forgotten {
        Ok(()) => {
            ui.out(&format!(
                "run {run} is forgotten; what it may have in its cluster stays there"
            ));
            exit::PASSED
        }
        Err(words) => {
            ui.err(&words);
            exit::USAGE
        }
    }
}

/// Checks whether this machine, and the cluster if that is to be used, has what runs need.
pub async fn doctor(args: &DoctorArgs, ui: &Ui) -> u8 {
    let DoctorArgs { file, backend, cluster } = args;
    let plan = match file.as_ref().map(|file| run::load(file, (*backend).into(), None)) {
        None => None,
        Some(Ok(Loaded { plan, .. })) => Some(plan),
        Some(Err(diagnostics)) => {
            ui.err(&diagnostics.render(LOOK));
            return exit::SCENARIO_INVALID;
        }
    };
    let mut checks = match backend {
        Backend::Local => vec![loopback(), state(), files(), left_over()],
        Backend::Kubernetes => vec![state(), files(), left_over()],
    };
    if *backend == Backend::Kubernetes {
        checks.extend(cluster::checks(cluster, plan.as_ref()).await);
    }
    checks.extend(CHAINS.iter().map(|program| chain(program)));
    ui.out(&doctor::render(&checks));
    doctor::code(&checks)
}

fn check(name: &str, seen: Result<String, String>, help: &str) -> Check {
    let ok = seen.is_ok();
    let detail = seen.unwrap_or_else(|detail| detail);
    Check {
        name: name.to_owned(),
        ok,
        optional: false,
        detail,
        help: Some(help.to_owned()),
    }
}

/// Every node and link has a loopback address of its own on Linux.
fn loopback() -> Check {
    let bound = std::net::TcpListener::bind(("127.126.1.1", 0));
    let seen = match bound {
        Ok(_) => Ok("every node and link gets an address of its own".to_owned()),
        Err(error) if cfg!(target_os = "linux") => Err(format!("127.126.1.1 cannot be listened at: {error}")),
        Err(_) => Ok("nodes share 127.0.0.1 and get ports of their own".to_owned()),
    };
    check(
        "loopback addresses",
        seen,
        "bring the loopback interface up: ip link set lo up",
    )
}

fn state() -> Check {
    let seen = registry::state_dir()
        .map(|dir| dir.display().to_string())
        .map_err(|error| error.to_string());
    check(
        "registry of runs",
        seen,
        "name a folder that you may write in TRIALNET_STATE_DIR",
    )
}

fn files() -> Check {
    use nix::sys::resource::{Resource, getrlimit};
    let seen = match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((_, hard)) if hard >= WANTED_FILES => Ok(format!("up to {hard}")),
        Ok((_, hard)) => Err(format!("at most {hard}; a network of 100 nodes wants {WANTED_FILES}")),
        Err(error) => Err(error.to_string()),
    };
    check("open files", seen, "raise the hard limit of open files (ulimit -Hn)")
}

fn left_over() -> Check {
    let Swept { done, mut left } = registry::gc(true);
    left.extend(done);
    let seen = if left.is_empty() {
        Ok("nothing".to_owned())
    } else {
        Err(left.join("; "))
    };
    Check {
        optional: true,
        ..check("left over by dead runs", seen, "trialnet gc removes it")
    }
}

fn chain(program: &str) -> Check {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|path| path.is_file());
    let seen = found
        .map(|path| path.display().to_string())
        .ok_or_else(|| "not on PATH".to_owned());
    let (name, version) = program.split_once('-').unwrap_or((program, ""));
    let source = match name {
        "geth" => "github.com/ethereum/go-ethereum/cmd/geth",
        _ => "github.com/cometbft/cometbft/cmd/cometbft",
    };
    let help = format!(
        "go install {source}@v{version}, and name the program {program}; only scenarios with this version need it"
    );
    Check {
        optional: true,
        ..check(program, seen, &help)
    }
}
