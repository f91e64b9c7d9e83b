//! `trialnet run`: scenarios, one after the other or side by side.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use tokio::task::JoinSet;

use super::{RunArgs, files};
use crate::backend::kubernetes::provider::Flags;
use crate::engine::{self, Cancel};
use crate::exit;
use crate::report::folder::{FolderError, given_paths};
use crate::report::summary::left_behind;
use crate::report::terminal::{Options, Terminal};
use crate::run::{self, RunOptions};
use crate::scenario::Loaded;
use crate::ui::{Ui, paint};

/// Runs scenarios; the exit code is the worst of all. `exe` answers the hidden subcommands.
pub async fn run(args: &RunArgs, ui: &Ui, exe: &Path, cancel: &Cancel) -> u8 {
    let files = match files::expand(&args.files) {
        Ok(files) if files.is_empty() => {
            ui.err("no scenario found");
            return exit::NOTHING_SELECTED;
        }
        Ok(files) => files,
        Err(error) => {
            ui.error(&error, Some("name scenario files, or folders that hold them"));
            return exit::NOTHING_SELECTED;
        }
    };
    // All files are checked before anything starts: a typo in the last one should not cost the time of the first.
    let (scenarios, invalid) = load(args, ui, &files);
    if invalid > 0 {
        return exit::SCENARIO_INVALID;
    }
    let mut codes = vec![exit::PASSED];
    let names: Vec<_> = scenarios
        .iter()
        .map(|(_, loaded)| loaded.plan.scenario.as_str())
        .collect();
    let folders: Vec<Option<PathBuf>> = match &args.run_dir {
        Some(folder) => given_paths(folder, &names).into_iter().map(Some).collect(),
        None => vec![None; scenarios.len()],
    };
    let several = scenarios.len() > 1;
    let mut waiting: VecDeque<_> = scenarios.into_iter().zip(folders).collect();
    let mut running = JoinSet::new();
    loop {
        let failed = codes.iter().any(|code| *code != exit::PASSED);
        let stop = cancel.stop.is_cancelled() || (args.fail_fast && failed);
        while running.len() < args.jobs.get() && !stop {
            let Some(((file, loaded), folder)) = waiting.pop_front() else {
                break;
            };
            let options = RunOptions {
                folder,
                keep: args.keep.into(),
                exe: exe.to_owned(),
                cluster: Flags {
                    create: args.create,
                    ..args.cluster.flags()
                },
                cancel: cancel.clone(),
            };
            running.spawn(Box::pin(one(file, loaded, options, ui.clone(), several)));
        }
        match running.join_next().await {
            Some(code) => codes.push(code.unwrap_or(exit::INTERNAL_ERROR)),
            None => break,
        }
    }
    if !waiting.is_empty() {
        ui.err(&format!(
            "{} not started",
            crate::report::words::count(waiting.len(), "scenario")
        ));
        if cancel.stop.is_cancelled() {
            codes.push(exit::INTERRUPTED);
        }
    }
    exit::worst(codes)
}

fn load(args: &RunArgs, ui: &Ui, files: &[PathBuf]) -> (Vec<(PathBuf, Loaded)>, usize) {
    let mut scenarios = Vec::new();
    let mut invalid = 0;
    for file in files {
        match run::load(file, args.backend.into(), args.seed) {
            Ok(loaded) => scenarios.push((file.clone(), loaded)),
            Err(diagnostics) => {
                invalid += 1;
                ui.err(&diagnostics.render(super::validate::LOOK));
            }
        }
    }
    (scenarios, invalid)
}

async fn one(file: PathBuf, loaded: Loaded, options: RunOptions, ui: Ui, several: bool) -> u8 {
    let mut terminal = None;
    let shown = loaded.plan.clone();
    let watch = |folder: &Path, event: &crate::record::Event| {
        let options = || Options {
            several,
            file: file.clone(),
            folder: Some(shorter(folder)),
        };
        terminal
            .get_or_insert_with(|| Terminal::new(&ui, &shown, options()))
            .event(event);
    };
    match Box::pin(run::run(loaded, options, watch)).await {
        Ok(done) => {
            if let Some(text) = left_behind(&done.leftovers) {
                ui.err(&paint::bad(&text));
            }
            exit::of(&done.report)
        }
        Err(error) => {
            ui.error(&error, Some(error.help()));
            refused(&error)
        }
    }
}

/// The exit code of a run that had no folder to write to.
pub(super) const fn refused(error: &FolderError) -> u8 {
    match error {
        // Only `--run-dir` can name a folder that is not new.
        FolderError::Exists(_) => exit::USAGE,
        _ => exit::INFRASTRUCTURE,
    }
}

/// Relative to the current directory where it is below it.
pub(super) fn shorter(path: &Path) -> PathBuf {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(&here).unwrap_or(path).to_owned()
}

impl From<super::Keep> for engine::Keep {
    fn from(keep: super::Keep) -> Self {
        match keep {
            super::Keep::Never => Self::Never,
            super::Keep::OnFailure => Self::OnFailure,
            super::Keep::Always => Self::Always,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_folder_in_use_is_a_bad_command_line() {
        let used = tempfile::tempdir().unwrap();
        std::fs::write(used.path().join("evidence"), "").unwrap();
        let plan = crate::report::sample::plan();
        let error = crate::report::folder::Folder::create(used.path(), &plan, "").unwrap_err();
        assert_eq!(refused(&error), exit::USAGE, "{error}");
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        assert_eq!(refused(&full.into()), exit::INFRASTRUCTURE);
    }
}
