//! The shim through which every node starts. It asks the kernel to end this process when the guard dies, then becomes the
//! node's program. So even a guard that is ended by SIGKILL leaves no node behind.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

/// Arguments of the hidden subcommand `shim`.
#[derive(Clone, Debug, clap::Args)]
pub struct ShimArgs {
    /// The process id of the guard that started this shim
    #[arg(long)]
    pub guard: i32,
    /// The program and its arguments
    #[arg(last = true, required = true)]
    pub command: Vec<std::ffi::OsString>,
}

/// The guard was gone before the kernel had been asked to watch it.
const ORPHANED: u8 = 125;
/// The program cannot be run, as a shell would say it.
const CANNOT_RUN: u8 = 126;

/// Becomes the program. Returns only when that fails; the reason is then written to standard error, which is the node's log.
#[must_use]
pub fn run(ShimArgs { guard, command }: ShimArgs) -> ExitCode {
    // The signal comes when the *thread* that started this process ends: the guard starts nodes from its main thread.
    #[cfg(target_os = "linux")]
    if let Err(error) = nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL) {
        return refuse(CANNOT_RUN, &format!("ask for the parent-death signal: {error}"));
    }
    // The guard may have died before the kernel was asked; then nobody would end this process.
    if nix::unistd::getppid().as_raw() != guard {
        return refuse(ORPHANED, "the guard is gone");
    }
    let Some((program, args)) = command.split_first() else {
        return refuse(CANNOT_RUN, "no program given");
    };
    let error = Command::new(program).args(args).exec();
    refuse(CANNOT_RUN, &format!("run {}: {error}", program.display()))
}

fn refuse(code: u8, why: &str) -> ExitCode {
    // Nothing can be done about a log that cannot be written; the exit code still tells.
    drop(writeln!(std::io::stderr(), "trialnet shim: {why}"));
    ExitCode::from(code)
}
