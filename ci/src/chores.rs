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

/// The random trials at their full count, those on a cluster included where there is one.
pub(crate) fn long() -> Result<(), String> {
    run(Command::new("cargo")
        .args(["test", "--workspace", "--test", "it", "--"])
        .args([
            "killed::",
            "leases::",
            "rehearsal::",
            "kills_at_random_moments",
            "--nocapture",
        ])
        .env("TRIALNET_TRIALS", "100"))
}

fn cargo(arguments: &[&str]) -> Result<(), String> {
    run(Command::new("cargo").args(arguments))
}

/// Runs a command to its end; an error unless it succeeds.
pub(crate) fn run(command: &mut Command) -> Result<(), String> {
    println!("+ {command:?}");
    // What `cargo xtask` was told of its own package: a build script that looks at it (ring's does) would run anew, and all that is built
    // on it, at each turn between `cargo` and `cargo xtask`.
    for (name, _) in std::env::vars_os() {
        let word = name.to_string_lossy();
        if word.starts_with("CARGO_PKG_") || word.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    let status = command
        .status()
        .map_err(|error| format!("start {command:?}: {error}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("{command:?} ended with {status}"))
    }
}
