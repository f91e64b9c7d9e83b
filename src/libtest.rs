//! Scenario files as tests: `cargo test` and nextest see one test for each file.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};

use crate::cli::files;
use crate::engine::{Cancel, Keep};
use crate::model::verdict::{Report, Verdict};
use crate::model::{BackendKind, Outcome};
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
    let trials = match files::expand(&paths) {
        Ok(files) => files.into_iter().map(trial).collect(),
        // Zero tests would be green, so what cannot be listed is a test that fails.
        Err(error) => {
            let words = error.to_string();
            vec![Trial::test("scenarios are found", move || Err(Failed::from(words)))]
        }
    };
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// The test of one file.
fn trial(file: PathBuf) -> Trial {
    let name = file.with_extension("").display().to_string().replace('\\', "/");
    let missing = missing_program(&file);
    let ignored = missing.is_some() && !env::requires("chains");
    let kind = missing.map(|program| format!("needs {program}")).unwrap_or_default();
    Trial::test(name, move || check(&file))
        .with_kind(kind)
        .with_ignored_flag(ignored)
}

/// A program of the file's versions that is not on this machine.
fn missing_program(file: &Path) -> Option<String> {
    let Loaded { plan, .. } = run::load(file, BackendKind::Local, None).ok()?;
    let used =
        |name: &String| plan.network.version == *name || plan.network.nodes.iter().any(|node| node.version == *name);
    let binaries = plan
        .versions
        .iter()
        .filter(|(name, _)| used(name))
        .filter_map(|(_, version)| version.binary.clone());
    binaries.into_iter().find(|binary| !on_path(binary))
}

fn on_path(binary: &str) -> bool {
    if binary.contains('/') {
        return Path::new(binary).is_file();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(binary).is_file())
}

/// Runs a file and compares with what it says of itself.
fn check(file: &Path) -> Result<(), Failed> {
    let seed = env::seed().map_err(|error| error.to_string())?;
    let loaded = run::load(file, BackendKind::Local, seed)
        .map_err(|diagnostics| diagnostics.render(crate::scenario::Look::PLAIN))?;
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
