//! What is used beside a program, in its container: threads that always want a processor, and memory that is held. It is a process of its own, so that it can be
//! told from the program and ends by a signal, and what it uses counts for the container.

use std::hint::black_box;
use std::process::ExitCode;
use std::thread;

/// Arguments of the hidden subcommand `stress`.
#[derive(Clone, Debug, clap::Args)]
pub struct StressArgs {
    /// How many threads want a processor all the time
    #[arg(long)]
    pub cpu: u32,
    /// How many bytes are held
    #[arg(long)]
    pub memory: usize,
}

/// Uses what it is told to until it is ended. Returns only when the system has no threads for it.
#[must_use]
pub fn run(StressArgs { cpu, memory }: &StressArgs) -> ExitCode {
    // Should the memory of the container not do for all, this process is the one that the kernel ends (proc_pid_oom_score_adj(5)), unless it is to end all of them
    // together, as kubelets since 1.28 ask for where they can (`memory.oom.group`).
    drop(std::fs::write("/proc/self/oom_score_adj", "1000"));
    // Every byte is written, so that every page is there.
    let held = black_box(vec![1_u8; *memory]);
    for index in 0..*cpu {
        let name = format!("stress-{index}");
        if thread::Builder::new().name(name).spawn(spin).is_err() {
            return ExitCode::FAILURE;
        }
    }
    loop {
        thread::park();
        black_box(&held);
    }
}

fn spin() {
    let mut turn = 0_u64;
    loop {
        turn = black_box(turn.wrapping_add(1));
    }
}
