//! What is used beside a program, in its container: threads that always want a processor, memory that is held, and room in a volume. It is a process of its own, so that it can be
//! told from the program and ends by a signal, and what it uses counts for the container.

use std::fs::File;
use std::hint::black_box;
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use nix::sys::statvfs::statvfs;

use crate::model::Fill;

/// How often it is looked whether there is room again in a volume that is to be full.
const AGAIN: Duration = Duration::from_millis(100);

/// Arguments of the hidden subcommand `stress`.
#[derive(Clone, Debug, clap::Args)]
pub struct StressArgs {
    /// How many threads want a processor all the time
    #[arg(long)]
    pub cpu: u32,
    /// How many bytes are held
    #[arg(long)]
    pub memory: usize,
    /// How full the file system of this folder is made, in percent
    #[arg(long, requires = "size")]
    pub fill: Option<u8>,
    /// How many bytes that has; one that is larger is left alone
    #[arg(long)]
    pub size: Option<u64>,
}

/// Uses what it is told to until it is ended. Returns only when the system has no threads for it.
#[must_use]
pub fn run(args: &StressArgs) -> ExitCode {
    let StressArgs {
        cpu,
        memory,
        fill,
        size,
    } = args;
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
    if let (Some(percent), Some(size)) = (*fill, *size) {
        // Returns only when it cannot be done.
        drop(keep_full(Fill { percent, size }));
        return ExitCode::FAILURE;
    }
    loop {
        thread::park();
        black_box(&held);
    }
}

/// Keeps the file system of this folder so full, by a file that has no name: whatever becomes of this process, its room is free again.
fn keep_full(Fill { percent, size }: Fill) -> io::Result<()> {
    let mut file = tempfile::tempfile_in(".")?;
    loop {
        let seen = statvfs(".")?;
        let unit = seen.fragment_size();
        let total = seen.blocks() * unit;
        // Sizes are rounded to pages, or a little is taken for what manages it.
        if total > size + size / 8 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let used = total - seen.blocks_available() * unit;
        let missing = (total * u64::from(percent)).div_ceil(100).saturating_sub(used);
        write(&mut file, missing)?;
        // What the program frees is taken too.
        thread::sleep(AGAIN);
    }
}

/// Writes so many bytes, or as many as there is room for.
fn write(file: &mut File, bytes: u64) -> io::Result<()> {
    const CHUNK: usize = 64 << 10;
    let mut left = bytes;
    while left > 0 {
        let length = CHUNK.min(usize::try_from(left).unwrap_or(CHUNK));
        match file.write(&[1; CHUNK][..length]) {
            Ok(written) => left = left.saturating_sub(written as u64),
            Err(error) if error.kind() == io::ErrorKind::StorageFull => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn spin() {
    let mut turn = 0_u64;
    loop {
        turn = black_box(turn.wrapping_add(1));
    }
}
