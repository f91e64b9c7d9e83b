//! `trialnet report`: the page of a run, from its folder alone.

use super::ReportArgs;
use crate::exit;
use crate::report::page;
use crate::ui::Ui;

/// Writes the page of a run, also of one that was cut off, and prints where it is.
#[must_use]
pub fn run(args: &ReportArgs, ui: &Ui) -> u8 {
    let text = match page::page(&args.folder) {
        Ok(text) => text,
        Err(error) => {
            ui.error(&error, Some(error.help()));
            return exit::USAGE;
        }
    };
    let file = args.out.clone().unwrap_or_else(|| args.folder.join(page::FILE));
    match fs_err::write(&file, text) {
        Ok(()) => {
            ui.out(&file.display().to_string());
            exit::PASSED
        }
        Err(error) => {
            ui.error(&error, Some("name another file with --out"));
            exit::USAGE
        }
    }
}
