//! Trialnet's program: for now, its devnode.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use trialnet::devnode::{self, DevnodeArgs};

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run one node of trialnet's own chain
    Devnode(DevnodeArgs),
}

fn main() -> ExitCode {
    let Command::Devnode(args) = Cli::parse().command;
    match devnode::main(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => ExitCode::from(error.exit_code()),
    }
}
