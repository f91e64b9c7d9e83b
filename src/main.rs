//! The command line of trialnet.

use std::process::ExitCode;

use clap::Parser;
use trialnet::agent::{self, GuardArgs, ShimArgs, TestnodeArgs};

/// A declarative test-network harness for blockchains
#[derive(Debug, Parser)]
#[command(version)]
enum Cli {
    /// Owns the nodes of a run on this machine
    #[command(hide = true)]
    Guard(GuardArgs),
    /// Becomes a node's program, and dies with the guard
    #[command(hide = true)]
    Shim(ShimArgs),
    /// A program for the tests of the local backend
    #[command(hide = true)]
    Testnode(TestnodeArgs),
}

fn main() -> ExitCode {
    match Cli::parse() {
        Cli::Guard(args) => agent::guard::run(args),
        Cli::Shim(args) => agent::shim::run(args),
        Cli::Testnode(args) => agent::testnode::run(args),
    }
}
