//! The scenario language: from the text of a file to a [`Plan`], with every problem located.
//!
//! Three stages: `raw` reads tables and values with their places, `validate` checks what they mean together, `forecast` asks
//! the quorum arithmetic whether the steps can be true. The first two go on after a problem, so that all are found at once;
//! the arithmetic needs limits, network and steps that are sound.

pub mod forecast;

mod chaos;
mod diag;
mod explain;
mod misbehave;
mod raw;
mod schema;
mod select;
mod template;
mod validate;

use std::collections::BTreeSet;
use std::path::Path;

use crate::backend::Capabilities;
use crate::chain::ChainAdapter;
use crate::model::{BackendKind, ChainKind, Fault, NodeName, Plan, Step};

pub use diag::{Diagnostics, Look, Problem};
pub use explain::{CODES, FORECAST as FORECAST_CODES};
pub use schema::schema;
pub use template::template;

/// What a scenario is checked against.
#[derive(Clone, Copy)]
pub struct Options<'a> {
    /// Overrides the file's seed.
    pub seed: Option<u64>,
    /// Where the network is to run.
    pub backend: BackendKind,
    /// What that backend can do.
    pub capabilities: &'a Capabilities,
    /// The adapter of each chain.
    pub adapter: fn(ChainKind) -> &'static dyn ChainAdapter,
}

/// A scenario file that is sound.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What it means.
    pub plan: Plan,
    /// The text that the plan was made from; the file may have changed since.
    pub text: String,
}

/// Reads and checks a scenario file.
///
/// # Errors
/// Everything that is wrong with it, at once.
pub fn load(path: &Path, options: &Options<'_>) -> Result<Loaded, Diagnostics> {
    let name = path.display().to_string();
    match read(path) {
        Ok(text) => {
            let plan = load_text(&name, &text, options)?;
            Ok(Loaded { plan, text })
        }
        Err(why) => {
            let problem = Problem::new(explain::UNREADABLE, &(0..0), format!("the file cannot be read: {why}"))
                .label("no text")
                .help("check the path; `trialnet init FILE` writes a first scenario");
            Err(Diagnostics::new(&name, "", vec![problem]))
        }
    }
}

/// Checks the text of a scenario; `name` is what messages call the file.
///
/// # Errors
/// Everything that is wrong with it, at once.
pub fn load_text(name: &str, text: &str, options: &Options<'_>) -> Result<Plan, Diagnostics> {
    let mut problems = Vec::new();
    let raw = match raw::read::<raw::Scenario>(text, &mut problems) {
        Some(_) if text.trim().is_empty() => {
            let empty = Problem::new(explain::MISSING_KEY, &(0..0), "the file is empty")
                .label("nothing here")
                .help("`trialnet init FILE` writes a first scenario");
            return Err(Diagnostics::new(name, text, vec![empty]));
        }
        Some(raw) => raw,
        None => return Err(Diagnostics::new(name, text, problems)),
    };
    validate::validate(&raw, text, problems, options).map_err(|problems| Diagnostics::new(name, text, problems))
}

/// A network that is up, for a step that is not in its file.
#[derive(Clone, Debug)]
pub struct Given<'a> {
    /// What it was made from.
    pub plan: &'a Plan,
    /// The nodes that were started.
    pub present: &'a BTreeSet<NodeName>,
    /// The faults that are on.
    pub on: Vec<On<'a>>,
}

/// A fault that is on.
#[derive(Clone, Debug)]
pub struct On<'a> {
    /// The fault.
    pub fault: &'a Fault,
    /// Whom it still strikes.
    pub targets: Vec<NodeName>,
}

/// Checks one step, written as in a file but without `[[steps]]`, against a network that is up; `name` is what messages call the text. A
/// fault without an id gets one that is free.
///
/// # Errors
/// Everything that is wrong with it, at once.
pub fn load_step(
    name: &str,
    text: &str,
    id: Option<&str>,
    given: &Given<'_>,
    options: &Options<'_>,
) -> Result<Step, Diagnostics> {
    let mut problems = Vec::new();
    let Some(step) = raw::read::<raw::Step>(text, &mut problems) else {
        return Err(Diagnostics::new(name, text, problems));
    };
    let whole = 0..text.len();
    let step = raw::At {
        key: whole.clone(),
        at: whole,
        value: step,
    };
    validate::desk::step(&step, text, problems, id, given, options)
        .map_err(|problems| Diagnostics::new(name, text, problems))
}

/// The text of a file, or why there is none.
fn read(path: &Path) -> Result<String, String> {
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        format!("it is not UTF-8 text from byte {at} on")
    })
}
