//! `trialnet shrink`: the smallest rehearsal that still fails.

use std::path::{Path, PathBuf};

use super::ShrinkArgs;
use crate::engine::Cancel;
use crate::exit;
use crate::model::Timed;
use crate::report::folder::HOME;
use crate::report::words::{self, count, table};
use crate::shrink::{self, Failure, ShrinkError, ShrinkOptions, Smallest};
use crate::ui::{Ui, paint};

/// Shrinks a failed run. Exit code 0: the file that was written was seen to fail in the same way.
pub async fn run(args: &ShrinkArgs, ui: &Ui, exe: &Path, cancel: &Cancel) -> u8 {
    let failure = match shrink::failure(&args.folder, args.code.as_deref()) {
        Ok(failure) => failure,
        Err(error) => return refused(ui, &error),
    };
    let output = args
        .output
        .clone()
        .unwrap_or_else(|| PathBuf::from(format!("{}-smallest.toml", failure.plan.scenario)));
    if output.exists() {
        ui.err(&format!(
            "{} {} exists\n help: name another file with -o",
            paint::bad("error:"),
            output.display()
        ));
        return exit::USAGE;
    }
    let options = ShrinkOptions {
        tries: args.tries.get(),
        repeat: args.repeat.get(),
        jobs: args.jobs.get(),
        exe: exe.to_owned(),
        cluster: args.cluster.flags(),
        folder: Path::new(HOME).join(format!("shrink-{}", crate::run::run_id())),
        cancel: cancel.clone(),
    };
    ui.err(&format!(
        "{} of {} end in {}; looking for the fewest",
        count(failure.schedule.len(), "fault"),
        failure.plan.scenario,
        failure.code
    ));
    let done = Box::pin(shrink::shrink(&failure, &options, &mut |line| ui.err(&line))).await;
    if options.folder.exists()
        && let Err(error) = fs_err::remove_dir_all(&options.folder)
    {
        ui.err(&format!("{} {error}", paint::warn("left behind:")));
    }
    match done {
        Ok(smallest) => written(ui, &failure, &smallest, &output),
        Err(error) => refused(ui, &error),
    }
}

fn written(ui: &Ui, failure: &Failure, smallest: &Smallest, output: &Path) -> u8 {
    if let Err(error) = fs_err::write(output, &smallest.text) {
        ui.error(&error, Some("name another file with -o"));
        return exit::USAGE;
    }
    let runs = count(smallest.runs, "run");
    let left = count(smallest.schedule.len(), "fault");
    ui.out(&format!("{left} of {}, after {runs}:", failure.schedule.len()));
    let row = |timed: &Timed| [timed.at.to_string(), timed.fault.id.clone(), words::fault(&timed.fault)];
    ui.out(&table("  ", &smallest.schedule.iter().map(row).collect::<Vec<_>>()));
    let how = if smallest.ordinary {
        "as ordinary steps"
    } else {
        "as a schedule, since steps alone did not show it"
    };
    ui.out(&format!("written to {} {how}", output.display()));
    if smallest.confirmed {
        ui.out(&format!("run again, it ended in {}", failure.code));
        return exit::PASSED;
    }
    ui.err(&format!(
        "{} as a file it did not end in {} again: the failure is flaky, or --tries was too small",
        paint::warn("note:"),
        failure.code
    ));
    exit::INCONCLUSIVE
}

fn refused(ui: &Ui, error: &ShrinkError) -> u8 {
    ui.error(error, Some(error.help()));
    match error {
        ShrinkError::Folder(_) | ShrinkError::NoRehearsal | ShrinkError::NotFailed(_) | ShrinkError::NoFaults => {
            exit::USAGE
        }
        ShrinkError::NotAgain { .. } | ShrinkError::Unwritable(_) => exit::INCONCLUSIVE,
        ShrinkError::Interrupted => exit::INTERRUPTED,
    }
}
