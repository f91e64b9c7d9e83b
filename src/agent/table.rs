//! The operating system's process table: what a process does, and which processes belong to a run.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{NODE_VARIABLE, RUN_VARIABLE};
use crate::backend::RunState;

/// What the operating system says of a process id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// What the process does.
    pub run: RunState,
    /// When it started, in the system's own unit; tells a process from a later one with the same id.
    pub start: u64,
}

/// A process id together with its start time: a name that is never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Proc {
    /// The process id.
    pub pid: u32,
    /// See [`Seen::start`].
    pub start: u64,
}

impl Proc {
    /// The process with this id as it is now; `None` if there is none.
    #[must_use]
    pub fn now(pid: u32) -> Option<Self> {
        look(pid).map(|seen| Self { pid, start: seen.start })
    }

    /// Whether this very process still runs (or is halted).
    #[must_use]
    pub fn alive(self) -> bool {
        self.state() != RunState::Gone
    }

    /// What this very process does.
    #[must_use]
    pub fn state(self) -> RunState {
        match look(self.pid) {
            Some(seen) if seen.start == self.start => seen.run,
            _ => RunState::Gone,
        }
    }
}

/// Looks a process up. A process that has ended and was not yet waited for is [`RunState::Gone`].
#[cfg(target_os = "linux")]
#[must_use]
pub fn look(pid: u32) -> Option<Seen> {
    parse_stat(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// `/proc/<pid>/stat` as of proc_pid_stat(5): the state is field 3, the start time field 22.
#[cfg(target_os = "linux")]
fn parse_stat(stat: &str) -> Option<Seen> {
    let mut fields = fields(stat)?;
    let run = run_state(fields.next()?);
    let start = fields.nth(18)?.parse().ok()?;
    Some(Seen { run, start })
}

/// The fields of a `stat` of a process or thread from the third, its state, on. The name in the second may hold spaces and brackets, so counting begins after its
/// last bracket.
pub(super) fn fields(stat: &str) -> Option<std::str::Split<'_, char>> {
    Some(stat.rsplit_once(") ")?.1.split(' '))
}

/// All processes that descend from `root`, at any depth, and have not ended. Empty where the system has no `/proc`.
///
/// A process whose parent ended has a new one: the nearest ancestor that asked for such (a "subreaper"), else the first process of its
/// namespace. So nothing that a first process or a subreaper ever started leaves this tree.
#[must_use]
pub fn descendants(root: u32) -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let parents: Vec<(u32, u32)> = entries
        .filter_map(|entry| {
            let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            // The state is followed by the parent's id.
            let mut fields = fields(&stat)?;
            let alive = run_state(fields.next()?) != RunState::Gone;
            alive.then_some((pid, fields.next()?.parse().ok()?))
        })
        .collect();
    family(root, &parents)
}

/// The descendants of `root` among pairs of a process and its parent.
fn family(root: u32, parents: &[(u32, u32)]) -> Vec<u32> {
    let mut found = Vec::new();
    let mut next = vec![root];
    while let Some(of) = next.pop() {
        for &(pid, _) in parents.iter().filter(|&&(_, parent)| parent == of) {
            found.push(pid);
            next.push(pid);
        }
    }
    found
}

/// Looks a process up through `ps`, which is the same on all Unix systems.
#[cfg(not(target_os = "linux"))]
#[must_use]
pub fn look(pid: u32) -> Option<Seen> {
    let output = std::process::Command::new("ps")
        .args(["-o", "stat=", "-o", "lstart=", "-p", &pid.to_string()])
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let (state, started) = text.trim().split_once(' ')?;
    // Only ever compared for equality.
    let start = started
        .bytes()
        .fold(0, |sum: u64, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    Some(Seen {
        run: run_state(state),
        start,
    })
}

fn run_state(word: &str) -> RunState {
    match word.as_bytes().first() {
        Some(b'T' | b't') => RunState::Paused,
        Some(b'Z' | b'X' | b'x') | None => RunState::Gone,
        Some(_) => RunState::Running,
    }
}

/// The ids of all living processes that carry the run's id in their environment, this one excepted. Empty where the system
/// does not show environments.
#[must_use]
pub fn of_run(run: &str) -> Vec<u32> {
    carrying(&[format!("{RUN_VARIABLE}={run}")])
}

/// Ends all processes of a run with SIGKILL and waits at most `limit` until none is left. Returns those that are.
///
/// Blocks; for the end of a run, when nothing else is to be done.
#[must_use]
pub fn end_run(run: &str, limit: Duration) -> Vec<u32> {
    end(&[format!("{RUN_VARIABLE}={run}")], limit)
}

/// As [`end_run`], for one node of the run.
#[must_use]
pub fn end_node(run: &str, node: &str, limit: Duration) -> Vec<u32> {
    end(
        &[format!("{RUN_VARIABLE}={run}"), format!("{NODE_VARIABLE}={node}")],
        limit,
    )
}

fn end(variables: &[String], limit: Duration) -> Vec<u32> {
    let deadline = Instant::now() + limit;
    loop {
        let left = carrying(variables);
        if left.is_empty() || Instant::now() >= deadline {
            return left;
        }
        for &pid in &left {
            signal(pid, Signal::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn carrying(variables: &[String]) -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|&pid| pid != std::process::id() && carries(pid, variables))
        .collect()
}

fn carries(pid: u32, variables: &[String]) -> bool {
    // A process that is gone, is a zombie or is somebody else's shows nothing.
    std::fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environ| {
        let has = |wanted: &String| {
            environ
                .split(|&byte| byte == 0)
                .any(|variable| variable == wanted.as_bytes())
        };
        variables.iter().all(has)
    })
}

/// Sends a signal to one process. That it is gone already is no error.
pub fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = checked(pid) {
        // The only errors are that it is gone, or not ours; both show in the process table afterwards.
        let _: Result<(), nix::Error> = kill(pid, signal);
    }
}

/// Sends a signal to a process group. That it is gone already is no error.
pub fn signal_group(leader: u32, signal: Signal) {
    if let Some(pid) = checked(leader) {
        let _: Result<(), nix::Error> = nix::sys::signal::killpg(pid, signal);
    }
}

/// Ids 0 and 1 would mean "my own group" and "everything".
fn checked(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().filter(|&pid| pid > 1).map(Pid::from_raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn stat_lines_with_odd_names_are_read() {
        let line = "42 (a) b (c) T 1 42 42 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 777 9 9";
        assert_eq!(
            parse_stat(line),
            Some(Seen {
                run: RunState::Paused,
                start: 777
            })
        );
        assert_eq!(parse_stat("42 (a"), None);
    }

    #[test]
    fn this_process_is_alive_and_another_start_is_not() {
        let me = Proc::now(std::process::id()).unwrap();
        assert!(me.alive());
        assert!(
            !Proc {
                start: me.start.wrapping_add(1),
                ..me
            }
            .alive()
        );
    }

    #[test]
    fn a_family_has_all_generations_and_nobody_else() {
        let mut found = family(7, &[(8, 7), (9, 8), (10, 9), (11, 1), (7, 1), (12, 11)]);
        found.sort_unstable();
        assert_eq!(found, [8, 9, 10]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_child_of_a_child_descends_from_this_process() {
        let mut child = std::process::Command::new("sh")
            .args(["-c", "sleep 60 & echo $!; wait"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().unwrap()), &mut line).unwrap();
        let grandchild = line.trim().parse().unwrap();
        let all = descendants(std::process::id());
        assert!(all.contains(&child.id()) && all.contains(&grandchild), "{all:?}");
        signal(grandchild, Signal::SIGKILL);
        child.wait().unwrap();
        assert!(!descendants(std::process::id()).contains(&child.id()));
    }

    #[test]
    fn dangerous_ids_are_never_signalled() {
        assert_eq!(checked(0), None);
        assert_eq!(checked(1), None);
        assert_eq!(checked(u32::MAX), None);
    }
}
