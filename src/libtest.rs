//! Scenario files as tests: `cargo test` and nextest see one test for each file.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};

use crate::backend::kubernetes::provider::{self, Flags};
use crate::cli::files;
use crate::engine::{Cancel, Keep};
use crate::model::verdict::{Report, Verdict};
use crate::model::{BackendKind, Kubernetes, Outcome};
use crate::report::summary::{self, Context};
use crate::run::{self, RunOptions};
use crate::scenario::Loaded;
use crate::{env, hidden};

/// The `main` of a test target that runs every scenario below these files and folders (relative to the working directory, which is the package's under
/// cargo), one test each.
///
/// ```no_run
/// // tests/scenarios.rs, with `harness = false` for this target in Cargo.toml
/// fn main() -> std::process::ExitCode {
///     trialnet::libtest_main(&["scenarios"])
/// }
/// ```
///
/// With `TRIALNET_BACKEND=kubernetes` they run on the cluster of the current context, and the tests are called `kubernetes::FILE`. Without a
/// local cluster in the kubeconfig they are ignored, unless `TRIALNET_REQUIRE` names `cluster`; so are those that
/// strike the cluster's machines, for which it needs several, unless it names `machines`.
///
/// A test passes when the verdict is `passed`, or what the file's `outcome` says. A scenario whose chain's program is not on this machine
/// is ignored, unless `TRIALNET_REQUIRE` names `chains`. Run folders go where `--run-dir` would put them, below `target/trialnet`.
///
/// This program is also what the networks' guards, shims and devnodes are started from, so nothing may happen before this call.
#[must_use]
pub fn libtest_main(paths: &[&str]) -> ExitCode {
    if let Some(code) = hidden::answer() {
        return code;
    }
    let arguments = Arguments::from_args();
    let paths: Vec<PathBuf> = paths.iter().map(PathBuf::from).collect();
    let listed = env::backend().map_err(|error| error.to_string()).and_then(|backend| {
        let files = files::expand(&paths).map_err(|error| error.to_string())?;
        Ok(files.into_iter().map(|file| trial(file, backend)).collect())
    });
    // Zero tests would be green, so what cannot be listed is a test that fails.
    let trials =
        listed.unwrap_or_else(|words| vec![Trial::test("scenarios are found", move || Err(Failed::from(words)))]);
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// The test of one file.
fn trial(file: PathBuf, backend: BackendKind) -> Trial {
    let path = file.with_extension("").display().to_string().replace('\\', "/");
    let name = match backend {
        BackendKind::Kubernetes => format!("kubernetes::{path}"),
        BackendKind::Local | BackendKind::Memory => path,
    };
    let missing = missing_program(&file, backend);
    let (other, needs_other) = match backend {
        BackendKind::Kubernetes => (BackendKind::Local, "local"),
        BackendKind::Local | BackendKind::Memory => (BackendKind::Kubernetes, "kubernetes"),
    };
    let (ignored, needs) = match missing {
        Some(program) => (!env::requires("chains"), program),
        None if !runs_on(&file, backend) && runs_on(&file, other) => (true, needs_other.to_owned()),
        None if backend == BackendKind::Kubernetes && !has_cluster() => {
            (!env::requires("cluster"), "a cluster".to_owned())
        }
        None if strikes_machines(&file, backend) => (!env::requires("machines"), "several machines".to_owned()),
        None => (false, String::new()),
    };
    let kind = Some(needs).filter(|needs| !needs.is_empty());
    Trial::test(name, move || check(&file, backend))
        .with_kind(kind.map(|needs| format!("needs {needs}")).unwrap_or_default())
        .with_ignored_flag(ignored)
}

/// Whether the backend can run the file.
fn runs_on(file: &Path, backend: BackendKind) -> bool {
    run::load(file, backend, None).is_ok()
}

/// Whether machines of the cluster are struck, of which it needs several then.
fn strikes_machines(file: &Path, backend: BackendKind) -> bool {
    run::load(file, backend, None).is_ok_and(|loaded| !loaded.plan.alone().is_empty())
}

/// Whether the kubeconfig leads to a cluster of this machine; nothing is asked of it.
fn has_cluster() -> bool {
    provider::choose(&Kubernetes::default(), &Flags::default()).is_ok()
}

/// A program of the file's versions that is not on this machine.
fn missing_program(file: &Path, backend: BackendKind) -> Option<String> {
    let Loaded { plan, .. } = run::load(file, backend, None).ok()?;
    let used = |name: &String| {
        let at_first = plan.network.version == *name || plan.network.nodes.iter().any(|node| node.version == *name);
        at_first || plan.upgrades().any(|(_, upgrade)| upgrade.to == *name)
    };
    let binaries = plan
        .versions
        .iter()
        .filter(|(name, _)| used(name))
        .filter_map(|(_, version)| version.binary.clone());
    let app = plan.network.app.iter().filter_map(|app| app.binary.clone());
    binaries.chain(app).find(|binary| !on_path(binary))
}

fn on_path(binary: &str) -> bool {
    if binary.contains('/') {
        return Path::new(binary).is_file();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(binary).is_file())
}

/// Runs a file and compares with what it says of itself.
fn check(file: &Path, backend: BackendKind) -> Result<(), Failed> {
    let seed = env::seed().map_err(|error| error.to_string())?;
    let loaded =
        run::load(file, backend, seed).map_err(|diagnostics| diagnostics.render(crate::scenario::Look::PLAIN))?;
    let plan = loaded.plan.clone();
    let (report, folder) = execute(file, loaded)?;
    let wrong = match &plan.outcome {
        None if report.verdict == Verdict::Passed => return Ok(()),
        None => None,
        Some(outcome) => match differs(outcome, &report) {
            None => return Ok(()),
            wrong => wrong,
        },
    };
    let logs = summary::logs(&report, &folder);
    let again = Some(summary::again(file, &report));
    let context = Context {
        plan: Some(&plan),
        folder: Some(&folder),
        again,
        logs: &logs,
    };
    let summary = summary::summary(&report, &context);
    let text = wrong.map(|wrong| format!("{wrong}\n")).unwrap_or_default() + &summary;
    Err(Failed::from(anstream::adapter::strip_str(&text).to_string()))
}

fn execute(file: &Path, loaded: Loaded) -> Result<(Report, PathBuf), Failed> {
    let exe = std::env::current_exe().map_err(|error| format!("find this program: {error}"))?;
    let runtime = hidden::runtime().map_err(|error| format!("start a runtime: {error}"))?;
    let stem = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let folder = env::target_dir()
        .join("trialnet")
        .join(format!("{stem}-{:08x}", rand::random::<u32>()));
    let options = RunOptions {
        folder: Some(folder),
        keep: Keep::Never,
        exe,
        cluster: Flags::default(),
        cancel: Cancel::default(),
    };
    let done = runtime
        .block_on(Box::pin(run::run(loaded, options, |_, _| {})))
        .map_err(|error| error.to_string())?;
    if !done.leftovers.is_empty() {
        return Err(format!("left behind: {}", done.leftovers.join("; ")).into());
    }
    Ok((done.report, done.folder))
}

/// What of a report is not as the file's `outcome` says.
fn differs(outcome: &Outcome, report: &Report) -> Option<String> {
    let Outcome { verdict, code, node } = outcome;
    if report.verdict != *verdict {
        return Some(format!(
            "outcome: {verdict} was expected, the verdict is {}",
            report.verdict
        ));
    }
    let fits = |finding: &&crate::model::verdict::Finding| {
        code.as_ref().is_none_or(|code| finding.code == *code) && (node.is_none() || finding.node == *node)
    };
    if (code.is_none() && node.is_none()) || report.findings.iter().any(|finding| fits(&finding)) {
        return None;
    }
    let code = code.as_deref().unwrap_or("any code");
    Some(format!(
        "outcome: no finding with {code} on {}",
        node.as_deref().unwrap_or("any node")
    ))
}
