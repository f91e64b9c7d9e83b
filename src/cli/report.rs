//! `trialnet report`: the page of a run, or several runs side by side, from their folders alone.

use std::path::Path;

use super::ReportArgs;
use crate::exit;
use crate::report::folder::FolderError;
use crate::report::{compare, page};
use crate::ui::Ui;

/// Of one folder the page is written, also of a run that was cut off, and where it is gets printed. Of several a table is printed as Markdown, or written as a
/// page.
#[must_use]
pub fn run(args: &ReportArgs, ui: &Ui) -> u8 {
    match made(args) {
        Ok((text, None)) => {
            ui.out(text.trim_end());
            exit::PASSED
        }
        Ok((text, Some(file))) => match fs_err::write(&file, text) {
            Ok(()) => {
                ui.out(&file.display().to_string());
                exit::PASSED
            }
            Err(error) => {
                ui.error(&error, Some("name another file with --out"));
                exit::USAGE
            }
        },
        Err(error) => {
            ui.error(&error, Some(error.help()));
            exit::USAGE
        }
    }
}

/// The text, and the file that it belongs into.
fn made(args: &ReportArgs) -> Result<(String, Option<std::path::PathBuf>), FolderError> {
    if let [folder] = args.folders.as_slice() {
        let file = args.out.clone().unwrap_or_else(|| folder.join(page::FILE));
        return Ok((page::page(folder)?, Some(file)));
    }
    let runs = compare::read(&args.folders)?;
    let is_page = |file: &Path| file.extension().is_some_and(|extension| extension == "html");
    let text = match &args.out {
        Some(file) if is_page(file) => compare::html(&runs),
        _ => compare::markdown(&runs),
    };
    Ok((text, args.out.clone()))
}
