//! `trialnet schema`, `explain` and `init`: texts.

use std::io::Write as _;

use super::{Chain, ExplainArgs, InitArgs};
use crate::ui::{Ui, paint};
use crate::{codes, exit, scenario};

/// Prints the JSON schema of scenario files.
#[must_use]
pub fn schema(ui: &Ui) -> u8 {
    ui.out(&serde_json::to_string_pretty(&scenario::schema()).expect("a schema has only text keys"));
    exit::PASSED
}

/// Explains a code, or lists all.
#[must_use]
pub fn explain(args: &ExplainArgs, ui: &Ui) -> u8 {
    let Some(wanted) = &args.code else {
        for (code, title, _) in codes::all() {
            ui.out(&format!("{code:<32} {title}"));
        }
        return exit::PASSED;
    };
    let Some((code, title, text)) = codes::find(wanted) else {
        let near = codes::all()
            .map(|(code, _, _)| *code)
            .max_by(|a, b| strsim::jaro_winkler(a, wanted).total_cmp(&strsim::jaro_winkler(b, wanted)));
        let near = near.map(|code| format!("; did you mean {code}?")).unwrap_or_default();
        ui.err(&format!("{} there is no code {wanted}{near}", paint::bad("error:")));
        ui.err(&format!("{} `trialnet explain` lists all", paint::good(" help:")));
        return exit::USAGE;
    };
    ui.out(&format!("{}: {title}\n\n{text}", paint::bold(code)));
    exit::PASSED
}

/// Writes a first scenario.
#[must_use]
pub fn init(args: &InitArgs, ui: &Ui) -> u8 {
    let text = scenario::template(match args.chain {
        Chain::Devnode => "devnode",
        Chain::Cometbft => "cometbft",
        Chain::Ethereum => "ethereum",
    });
    let written = fs_err::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&args.file)
        .and_then(|mut file| file.write_all(text.as_bytes()));
    match written {
        Ok(()) => {
            ui.out(&format!(
                "{0} is written; run it with: trialnet run {0}",
                args.file.display()
            ));
            exit::PASSED
        }
        Err(error) => {
            ui.error(&error, Some("name a file that does not exist"));
            exit::USAGE
        }
    }
}
