//! What a process uses, as the kernel says it: proc_pid_stat(5), proc_pid_task(5), proc_pid_status(5) and statvfs(3).

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::agent::table::{Proc, fields};
use crate::backend::{RunState, Stressed, Writable};
use crate::model::Ms;

/// Over which time it is looked at.
const LOOK: Duration = Duration::from_millis(300);
/// What a tick of these files is in milliseconds: the kernel counts in hundredths of a second for all programs (`USER_HZ`).
const TICK: u64 = 10;

/// Looks at a process for a while; `None` if it is gone at the end.
pub(super) async fn look(proc: Proc) -> Option<Stressed> {
    let begun = Instant::now();
    let (busy, before) = (busy(proc.pid), ticks(proc.pid)?);
    tokio::time::sleep(LOOK).await;
    let (busy, after) = (busy.min(self::busy(proc.pid)), ticks(proc.pid)?);
    let took = begun.elapsed();
    let memory = held(&read(proc.pid, "status")?)?;
    let full = full(Path::new(&format!("/proc/{}/cwd", proc.pid)));
    // Last, so that all of this was about this very process.
    (proc.state() == RunState::Running).then_some(Stressed {
        busy,
        used: Ms(after.saturating_sub(before) * TICK),
        took: took.into(),
        memory,
        full,
    })
}

/// How full the file system of a folder is, in percent, rounded down.
fn full(folder: &Path) -> u8 {
    let Ok(seen) = nix::sys::statvfs::statvfs(folder) else {
        return 0;
    };
    let used = seen.blocks().saturating_sub(seen.blocks_available());
    u8::try_from(used * 100 / seen.blocks().max(1)).unwrap_or(100)
}

/// Whether a folder can be written to: what its mount says, and whether a file can be made in it.
///
/// # Errors
/// When nobody can say what is mounted there, or a file that was made cannot be removed.
pub(super) fn writable(folder: &Path) -> io::Result<Writable> {
    let mount = nix::sys::statvfs::statvfs(folder)?;
    let name = folder.join(format!(".trialnet-probe-{}", std::process::id()));
    let refused = match fs_err::OpenOptions::new().write(true).create_new(true).open(&name) {
        Ok(_made) => {
            fs_err::remove_file(&name)?;
            None
        }
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => Some("Read-only file system".to_owned()),
        Err(error) => Some(error.to_string()),
    };
    Ok(Writable {
        read_only: mount.flags().contains(nix::sys::statvfs::FsFlags::ST_RDONLY),
        refused,
    })
}

fn read(pid: u32, file: &str) -> Option<String> {
    std::fs::read_to_string(format!("/proc/{pid}/{file}")).ok()
}

/// How many threads want a processor: they run, or wait for one.
fn busy(pid: u32) -> u32 {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return 0;
    };
    let state = |thread: &Path| {
        let stat = std::fs::read_to_string(thread.join("stat")).ok()?;
        fields(&stat)?.next()?.bytes().next()
    };
    let states = threads.filter_map(|thread| state(&thread.ok()?.path()));
    u32::try_from(states.filter(|state| *state == b'R').count()).unwrap_or(u32::MAX)
}

/// How many ticks all its threads had a processor: fields 14 and 15.
fn ticks(pid: u32) -> Option<u64> {
    ticks_in(&read(pid, "stat")?)
}

fn ticks_in(stat: &str) -> Option<u64> {
    let mut fields = fields(stat)?.skip(11).map(str::parse::<u64>);
    Some(fields.next()?.ok()? + fields.next()?.ok()?)
}

/// The bytes that it holds, in memory or swapped out.
fn held(status: &str) -> Option<u64> {
    let kib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok()
    };
    Some((kib("VmRSS:")? + kib("VmSwap:").unwrap_or(0)) * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_read() {
        let stat = "7 (a) b) R 1 7 7 0 -1 4194304 90 0 0 0 250 17 0 0 20 0 3 0 5 0 0";
        assert_eq!(ticks_in(stat), Some(267));
        assert_eq!(fields(stat).and_then(|mut fields| fields.next()), Some("R"));
        let status = "Name:\tx\nVmRSS:\t    2048 kB\nVmSwap:\t       4 kB\n";
        assert_eq!(held(status), Some(2052 * 1024));
        assert_eq!(held("Name:\tx\nVmRSS:\t 1 kB\n"), Some(1024));
        assert_eq!(held("Name:\tx\n"), None);
    }

    #[tokio::test]
    async fn a_process_that_is_there_is_looked_at_and_one_that_is_not_is_not() {
        let me = Proc::now(std::process::id()).unwrap();
        let seen = look(me).await.unwrap();
        assert!(seen.memory > 0 && seen.took >= Ms::from(LOOK), "{seen:?}");
        assert_eq!(
            look(Proc {
                start: me.start + 1,
                ..me
            })
            .await,
            None
        );
    }
}
