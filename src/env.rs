//! Every environment variable that trialnet reads or sets, in one place. An empty value counts as unset.

use std::path::PathBuf;

/// Comma-separated names of programs that have to be there (for example `cometbft`): tests that would be skipped without one fail instead.
pub const REQUIRE: &str = "TRIALNET_REQUIRE";
/// The folder in which trialnet registers what is up, so that `ps` and `gc` find it.
pub const STATE_DIR: &str = "TRIALNET_STATE_DIR";
/// What trialnet logs of itself to stderr, as a filter of tracing-subscriber, for example `trialnet=debug`.
pub const LOG: &str = "TRIALNET_LOG";
/// `1` lets tests rewrite the generated files that they compare with.
pub const BLESS: &str = "TRIALNET_BLESS";
/// The seed of every run without `--seed`.
pub const SEED: &str = "TRIALNET_SEED";
/// Set by trialnet in every process that it starts for a run: the run's id. What does not carry it is never touched.
pub const RUN: &str = "TRIALNET_RUN";
/// For tests of trialnet itself: lets the guard's injector do something else than it says.
pub const GUARD_TAMPER: &str = "TRIALNET_GUARD_TAMPER";
/// Where state goes when [`STATE_DIR`] is unset.
pub const XDG_RUNTIME_DIR: &str = "XDG_RUNTIME_DIR";
/// Any value turns colour off, unless `--color always` is given (no-color.org).
pub const NO_COLOR: &str = "NO_COLOR";
/// Set by CI services: plain lines instead of moving progress.
pub const CI: &str = "CI";
/// `dumb` means a terminal without cursor movement: plain lines.
pub const TERM: &str = "TERM";

/// The variables that a user may set, with what each does, for `--help`.
pub const TABLE: [(&str, &str); 7] = [
    (SEED, "the seed of every run without --seed"),
    (STATE_DIR, "where trialnet registers what is up"),
    (LOG, "what trialnet logs of itself, for example trialnet=debug"),
    (REQUIRE, "programs without which tests fail instead of being skipped"),
    (BLESS, "1: tests rewrite the generated files that they compare with"),
    (NO_COLOR, "any value: no colour"),
    (CI, "any value: plain lines instead of moving progress"),
];

/// A variable whose value trialnet cannot use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name} is {value:?}, expected {expected}")]
pub struct EnvError {
    /// The variable.
    pub name: &'static str,
    /// Its value.
    pub value: String,
    /// What it should be.
    pub expected: &'static str,
}

/// A variable's value; `None` if it is unset, empty or not text.
#[must_use]
pub fn var(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Cargo's target folder: where a test may leave its evidence.
#[must_use]
pub fn target_dir() -> PathBuf {
    var("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from)
}

/// Whether [`REQUIRE`] names this program.
#[must_use]
pub fn requires(program: &str) -> bool {
    var(REQUIRE).is_some_and(|list| names(&list, program))
}

/// [`STATE_DIR`].
#[must_use]
pub fn state_dir() -> Option<PathBuf> {
    var(STATE_DIR).map(PathBuf::from)
}

/// [`LOG`].
#[must_use]
pub fn log_filter() -> Option<String> {
    var(LOG)
}

/// Whether [`BLESS`] is `1`.
#[must_use]
pub fn bless() -> bool {
    var(BLESS).as_deref() == Some("1")
}

/// [`SEED`].
///
/// # Errors
/// When it is set to something else than a whole number from 0 to 2^64-1.
pub fn seed() -> Result<Option<u64>, EnvError> {
    var(SEED).map(parse_seed).transpose()
}

/// Whether a CI service runs us. `CI=false` and `CI=0` count as no.
#[must_use]
pub fn ci() -> bool {
    var(CI).is_some_and(|value| value != "false" && value != "0")
}

/// Whether the terminal says that it cannot move its cursor.
#[must_use]
pub fn dumb_terminal() -> bool {
    var(TERM).as_deref() == Some("dumb")
}

/// The section of `--help` on environment variables.
#[must_use]
pub fn help() -> String {
    let lines = TABLE.map(|(name, meaning)| format!("  {name:<18}  {meaning}"));
    format!("Environment variables:\n{}", lines.join("\n"))
}

fn names(list: &str, program: &str) -> bool {
    list.split(',').any(|name| name.trim() == program)
}

fn parse_seed(value: String) -> Result<u64, EnvError> {
    value.trim().parse().map_err(|_| EnvError {
        name: SEED,
        value,
        expected: "a whole number from 0 to 18446744073709551615",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_whole_number() {
        assert_eq!(parse_seed(" 42 ".into()), Ok(42));
        let error = parse_seed("-1".into()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "TRIALNET_SEED is \"-1\", expected a whole number from 0 to 18446744073709551615"
        );
    }

    #[test]
    fn required_programs_are_a_list() {
        assert!(names("geth, cometbft", "cometbft"));
        assert!(!names("cometbft-0.38", "cometbft"));
    }
}
