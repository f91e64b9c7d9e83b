//! The `trialnet` program: parses the command line and leaves everything else to the library.

use std::process::ExitCode;

use clap::Parser;
use trialnet::cli::Cli;

fn main() -> ExitCode {
    if let Some(code) = trialnet::hidden::answer() {
        return code;
    }
    trialnet::hidden::command_line(Cli::parse())
}
