//! Every environment variable that trialnet reads or sets, in one place. An empty value counts as unset.

use std::path::PathBuf;

use crate::model::{BackendKind, Ms};

/// Comma-separated names of what has to be there (`chains`, `cluster`, `machines`): tests that would be skipped without it fail instead.
pub const REQUIRE: &str = "TRIALNET_REQUIRE";
/// The backend on which tests of scenario files run: `local` (as without it) or `kubernetes`.
pub const BACKEND: &str = "TRIALNET_BACKEND";
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
/// For tests of trialnet itself: after how many seconds without its guard the namespace of a run counts as nobody's.
pub const EXPIRY: &str = "TRIALNET_EXPIRY";
/// The node image of kind clusters that trialnet makes, unless the scenario names one.
pub const NODE_IMAGE: &str = "TRIALNET_NODE_IMAGE";
/// kind's own variable: the container engine that its nodes run in, if it is not docker.
pub const KIND_PROVIDER: &str = "KIND_EXPERIMENTAL_PROVIDER";
/// Where state goes when [`STATE_DIR`] is unset.
pub const XDG_RUNTIME_DIR: &str = "XDG_RUNTIME_DIR";
/// Any value turns colour off, unless `--color always` is given (no-color.org).
pub const NO_COLOR: &str = "NO_COLOR";
/// Set by CI services: plain lines instead of moving progress.
pub const CI: &str = "CI";
/// `dumb` means a terminal without cursor movement: plain lines.
pub const TERM: &str = "TERM";

/// The variables that a user may set, with what each does, for `--help`.
pub const TABLE: [(&str, &str); 9] = [
    (SEED, "the seed of every run without --seed"),
    (STATE_DIR, "where trialnet registers what is up"),
    (LOG, "what trialnet logs of itself, for example trialnet=debug"),
    (NODE_IMAGE, "the node image of kind clusters that trialnet makes"),
    (REQUIRE, "programs without which tests fail instead of being skipped"),
    (BACKEND, "where scenario files run as tests: local or kubernetes"),
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

/// [`BACKEND`].
///
/// # Errors
/// When it is set to something else than the two names.
pub fn backend() -> Result<BackendKind, EnvError> {
    var(BACKEND).map_or(Ok(BackendKind::Local), parse_backend)
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

/// [`NODE_IMAGE`].
#[must_use]
pub fn node_image() -> Option<String> {
    var(NODE_IMAGE)
}

/// [`EXPIRY`].
///
/// # Errors
/// When it is set to something else than a whole number of seconds from 1 to 86400.
pub fn expiry() -> Result<Option<Ms>, EnvError> {
    var(EXPIRY).map(parse_expiry).transpose()
}

/// [`KIND_PROVIDER`], or `docker`.
#[must_use]
pub fn kind_provider() -> String {
    var(KIND_PROVIDER).unwrap_or_else(|| "docker".to_owned())
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

fn parse_backend(value: String) -> Result<BackendKind, EnvError> {
    match value.as_str() {
        "local" => Ok(BackendKind::Local),
        "kubernetes" => Ok(BackendKind::Kubernetes),
        _ => Err(EnvError {
            name: BACKEND,
            value,
            expected: "local or kubernetes",
        }),
    }
}

fn parse_expiry(value: String) -> Result<Ms, EnvError> {
    match value.trim().parse() {
        Ok(seconds @ 1..=86_400) => Ok(Ms::secs(seconds)),
        _ => Err(EnvError {
            name: EXPIRY,
            value,
            expected: "a whole number of seconds from 1 to 86400",
        }),
    }
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
    fn a_backend_of_another_name_is_an_error() {
        assert_eq!(parse_backend("kubernetes".into()), Ok(BackendKind::Kubernetes));
        let error = parse_backend("docker".into()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "TRIALNET_BACKEND is \"docker\", expected local or kubernetes"
        );
    }

    #[test]
    fn an_expiry_is_seconds() {
        assert_eq!(parse_expiry("5".into()), Ok(Ms::secs(5)));
        assert!(parse_expiry("0".into()).is_err() && parse_expiry("5m".into()).is_err());
    }

    #[test]
    fn required_programs_are_a_list() {
        assert!(names("geth, cometbft", "cometbft"));
        assert!(!names("cometbft-0.38", "cometbft"));
    }
}
