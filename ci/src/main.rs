//! The project's own chores, run as `cargo xtask CHORE`: checks, real chains, benches and long trials.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a chore talks to whoever runs it"
)]

mod bench;
mod chores;

use std::process::ExitCode;

/// What can be asked for, with what it does.
const CHORES: &[(&str, &str)] = &[
    ("check", "format, lints, documentation, licences"),
    (
        "scenarios [FOLDER]",
        "run every scenario of scenarios (or FOLDER) and compare with its outcome",
    ),
    (
        "bench [--quick] [NAME…]",
        "print the tables: local-start, cometbft-start, observe, devnode, kubernetes-start, faults (--write: into docs)",
    ),
    ("long", "the random trials at their full count"),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["check"] => chores::check(),
        ["scenarios", rest @ ..] => chores::scenarios(rest.first().copied().unwrap_or("scenarios/cometbft")),
        ["bench", rest @ ..] => bench::run(rest),
        ["long"] => chores::long(),
        _ => {
            for (chore, what) in CHORES {
                eprintln!("cargo xtask {chore:<26} {what}");
            }
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}
