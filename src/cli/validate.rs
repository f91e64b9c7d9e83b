//! `trialnet validate` and `trialnet plan`: everything that can be said without starting anything.

use super::{PlanArgs, ValidateArgs, files, plan};
use crate::scenario::{Loaded, Look};
use crate::ui::Ui;
use crate::{exit, run};

/// Checks scenario files.
#[must_use]
pub fn run(args: &ValidateArgs, ui: &Ui) -> u8 {
    let files = match files::expand(&args.files) {
        Ok(files) => files,
        Err(error) => {
            ui.error(&error, Some("name scenario files, or folders that hold them"));
            return exit::NOTHING_SELECTED;
        }
    };
    let mut code = if files.is_empty() {
        exit::NOTHING_SELECTED
    } else {
        exit::PASSED
    };
    for file in files {
        match run::load(&file, args.backend.into(), None) {
            Ok(Loaded { plan, .. }) => {
                let (nodes, steps) = (plan.network.nodes.len(), plan.steps.len());
                ui.out(&format!("{}: valid ({nodes} nodes, {steps} steps)", file.display()));
            }
            Err(diagnostics) => {
                ui.err(&diagnostics.render(LOOK));
                code = exit::SCENARIO_INVALID;
            }
        }
    }
    code
}

/// Shows what a scenario would make and do.
#[must_use]
pub fn plan(args: &PlanArgs, ui: &Ui) -> u8 {
    match run::load(&args.file, args.backend.into(), args.seed) {
        Ok(Loaded { plan, .. }) => {
            if args.json {
                ui.out(&serde_json::to_string_pretty(&plan).expect("a plan has only text keys and finite numbers"));
            } else {
                ui.out(&plan::render_plan(&plan));
            }
            exit::PASSED
        }
        Err(diagnostics) => {
            ui.err(&diagnostics.render(LOOK));
            exit::SCENARIO_INVALID
        }
    }
}

/// How diagnostics are drawn here; the printer takes the colours out where none are wanted.
pub(super) const LOOK: Look = Look {
    color: true,
    ..Look::PLAIN
};
