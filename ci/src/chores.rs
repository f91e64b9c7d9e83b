//! Checks and trials: each is a list of commands that have to succeed.

use std::process::Command;

/// Format, lints, documentation and licences.
pub(crate) fn check() -> Result<(), String> {
    cargo(&["fmt", "--all", "--check"])?;
    cargo(&[
        "clippy",
        "--workspace",
        "--all-targets",
        "--quiet",
        "--",
        "-D",
        "warnings",
    ])?;
    run(Command::new("cargo")
        .args(["doc", "--no-deps", "--workspace", "--quiet"])
        .env("RUSTDOCFLAGS", "-D warnings"))?;
    // Advisories need a network; licences, sources and bans do not.
    cargo(&["deny", "--all-features", "check", "bans", "licenses", "sources"])
}

/// Every scenario of a folder through the test runner, which honours each file's `outcome`.
pub(crate) fn scenarios(folder: &str) -> Result<(), String> {
    run(Command::new("cargo")
        .args(["test", "--release", "--test", "scenarios"])
        .env("TRIALNET_SCENARIOS", folder))
}

/// The random trials at their full count.
pub(crate) fn long() -> Result<(), String> {
    run(Command::new("cargo")
        .args(["test", "--release", "--test", "it", "--", "killed::", "--nocapture"])
        .env("TRIALNET_TRIALS", "100"))
}

fn cargo(arguments: &[&str]) -> Result<(), String> {
    run(Command::new("cargo").args(arguments))
}

/// Runs a command to its end; an error unless it succeeds.
pub(crate) fn run(command: &mut Command) -> Result<(), String> {
    println!("+ {command:?}");
    let status = command
        .status()
        .map_err(|error| format!("start {command:?}: {error}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("{command:?} ended with {status}"))
    }
}
