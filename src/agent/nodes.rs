//! The guard's nodes: starting their processes and signalling them.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};

use nix::sys::signal::Signal;
use tokio::process::Child;

use super::protocol::{ComponentDef, NodeDef};
use super::table;

/// How much of a log is looked through for its last lines.
pub(super) const TAIL_BYTES: u64 = 16 << 10;
/// How many lines of a log an exit carries.
const TAIL_LINES: usize = 20;

/// A node that the guard owns.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) def: NodeDef,
    /// In the order of the definition.
    pub(super) processes: Vec<Process>,
    pub(super) paused: bool,
    /// Questions that are answered when no process of the node is left, or of one component, by its index.
    pub(super) awaited_by: Vec<(u64, Option<usize>)>,
}

/// A component's process, over all its generations.
#[derive(Debug, Default)]
pub(super) struct Process {
    /// Of the last generation, while it runs.
    pub(super) pid: Option<u32>,
    /// Of the last generation, also when it is gone.
    pub(super) last_pid: Option<u32>,
    pub(super) generation: u32,
    /// Whether somebody wants it gone.
    pub(super) asked: bool,
    /// Where the log of this generation begins.
    log_from: u64,
}

impl Node {
    pub(super) fn new(def: NodeDef) -> Self {
        let processes = def.components.iter().map(|_| Process::default()).collect();
        Self {
            def,
            processes,
            paused: false,
            awaited_by: Vec::new(),
        }
    }

    /// Takes a new definition while nothing runs. The generations of components that stay go on counting.
    pub(super) fn redefine(&mut self, def: NodeDef) {
        let before = std::mem::replace(self, Self::new(def));
        let names = before.def.components.into_iter().map(|component| component.name);
        for (name, process) in names.zip(before.processes) {
            if let Some(index) = self.def.components.iter().position(|component| component.name == name) {
                self.processes[index] = process;
            }
        }
    }

    pub(super) fn runs(&self) -> bool {
        self.processes.iter().any(|process| process.pid.is_some())
    }

    /// Signals all processes of the node: each is the leader of its group.
    pub(super) fn signal(&self, signal: Signal) {
        self.signal_some(None, signal);
    }

    /// Whether any process runs of those that are meant: all, or one component's.
    pub(super) fn any_runs(&self, which: Option<usize>) -> bool {
        self.meant(which).any(|process| process.pid.is_some())
    }

    fn meant(&self, which: Option<usize>) -> impl Iterator<Item = &Process> {
        let meant = move |index: usize| which.is_none_or(|which| which == index);
        let processes = self.processes.iter().enumerate();
        processes
            .filter(move |(index, _)| meant(*index))
            .map(|(_, process)| process)
    }

    /// Signals all processes, or that of one component.
    pub(super) fn signal_some(&self, which: Option<usize>, signal: Signal) {
        for pid in self.meant(which).filter_map(|process| process.pid) {
            table::signal_group(pid, signal);
        }
    }

    /// From now on its exits are wanted; or those of one component.
    pub(super) fn expect_exit(&mut self, which: Option<usize>) {
        for (index, process) in self.processes.iter_mut().enumerate() {
            process.asked |= process.pid.is_some() && which.is_none_or(|which| which == index);
        }
    }

    /// Whether it, or a component of it, was told to end, and has.
    pub(super) fn was_ended(&self) -> bool {
        self.processes
            .iter()
            .any(|process| process.asked && process.pid.is_none())
    }

    /// Whether it, or a component of it, was told to end, and is about to.
    pub(super) fn is_ending(&self) -> bool {
        self.processes
            .iter()
            .any(|process| process.asked && process.pid.is_some())
    }

    /// Takes the questions whose processes are gone.
    pub(super) fn answered(&mut self) -> Vec<u64> {
        let awaited = std::mem::take(&mut self.awaited_by);
        let (left, done) = awaited.into_iter().partition(|(_, which)| self.any_runs(*which));
        self.awaited_by = left;
        done.into_iter().map(|(id, _): (u64, _)| id).collect()
    }

    /// Starts the next generation of a component. Does not wait for anything.
    pub(super) fn spawn(&mut self, index: usize, exe: &Path) -> io::Result<Child> {
        let component = &self.def.components[index];
        let process = &mut self.processes[index];
        let (log, log_from) = open_log(component, process.generation + 1)?;
        let child = tokio::process::Command::from(through_shim(exe, &[], &component.program, &component.args))
            .env_clear()
            .envs(&component.env)
            .current_dir(&self.def.home)
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        process.pid = child.id();
        process.last_pid = process.pid;
        process.generation += 1;
        process.asked = false;
        process.log_from = log_from;
        Ok(child)
    }

    /// Notes that a process ended. What it left of its group is ended with it: a component is one thing, and a child that
    /// lives on would hold its ports and files.
    pub(super) fn ended(&mut self, index: usize, pid: u32) {
        table::signal_group(pid, Signal::SIGKILL);
        self.processes[index].pid = None;
        if !self.runs() {
            self.paused = false;
        }
    }

    /// The last lines that a component wrote in this generation.
    pub(super) fn tail(&self, index: usize) -> Vec<String> {
        // An exit without its last words is better than none.
        tail(&self.def.components[index].log, self.processes[index].log_from).unwrap_or_default()
    }
}

/// A program of its own process group that dies with the main thread of this process. `exe` and `first` are the command that
/// runs trialnet itself.
pub(super) fn through_shim(exe: &Path, first: &[String], program: &Path, args: &[String]) -> std::process::Command {
    let mut command = std::process::Command::new(exe);
    command
        .args(first)
        .args(["shim", "--guard", &std::process::id().to_string(), "--"])
        .arg(program)
        .args(args)
        .stdin(Stdio::null())
        .process_group(0);
    command
}

/// The code and the signal of an exit.
pub(super) fn exit(status: ExitStatus) -> (Option<i32>, Option<i32>) {
    use std::os::unix::process::ExitStatusExt;
    (status.code(), status.signal())
}

/// Opens a log for another generation, with a line that says so. The process writes to the file itself: nothing has to be
/// drained, and nothing is lost when anybody dies.
fn open_log(component: &ComponentDef, generation: u32) -> io::Result<(File, u64)> {
    let mut log = OpenOptions::new()
        .create(true)
        .append(true)
        .read(true)
        .open(&component.log)?;
    let length = log.seek(SeekFrom::End(0))?;
    let mut last = [b'\n'];
    if length > 0 {
        log.read_exact_at(&mut last, length - 1)?;
    }
    let newline = if last == [b'\n'] { "" } else { "\n" };
    let ComponentDef { name, version, .. } = component;
    writeln!(log, "{newline}{}", marker(name, version, generation))?;
    let begins = log.seek(SeekFrom::End(0))?;
    Ok((log, begins))
}

/// The line that stands before the output of each generation.
pub(super) fn marker(component: &str, version: &str, generation: u32) -> String {
    format!("=== trialnet: {component} {version}, generation {generation} ===")
}

fn tail(log: &Path, from: u64) -> io::Result<Vec<String>> {
    let mut file = File::open(log)?;
    let end = file.seek(SeekFrom::End(0))?;
    let start = end.saturating_sub(TAIL_BYTES).max(from);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    Ok(last_lines(&bytes))
}

/// The last lines of an output, as an exit carries them.
pub(super) fn last_lines(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<&str> = text.lines().collect();
    let skip = lines.len().saturating_sub(TAIL_LINES);
    lines[skip..].iter().map(|line| (*line).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn component(name: &str, log: &Path) -> ComponentDef {
        ComponentDef {
            name: name.to_owned(),
            version: "1.0".to_owned(),
            program: "p".into(),
            args: Vec::new(),
            env: std::collections::BTreeMap::default(),
            log: log.to_path_buf(),
        }
    }

    #[test]
    fn generations_outlive_a_new_definition() {
        let def = |names: &[&str]| NodeDef {
            name: "n".to_owned(),
            home: "/h".into(),
            data: None,
            components: names.iter().map(|name| component(name, Path::new("/l"))).collect(),
        };
        let mut node = Node::new(def(&["app", "core"]));
        node.processes[1].generation = 3;
        node.redefine(def(&["core", "sidecar", "more"]));
        let generations: Vec<_> = node.processes.iter().map(|process| process.generation).collect();
        assert_eq!(generations, [3, 0, 0]);
    }

    #[test]
    fn each_generation_is_marked_and_has_its_own_tail() {
        let dir = tempfile::tempdir().unwrap();
        let component = component("node", &dir.path().join("log"));
        let (mut log, first) = open_log(&component, 1).unwrap();
        write!(log, "old\nunfinished").unwrap();
        assert_eq!(tail(&component.log, first).unwrap(), ["old", "unfinished"]);
        let (mut log, second) = open_log(&component, 2).unwrap();
        for n in 0..30 {
            writeln!(log, "line {n}").unwrap();
        }
        let lines = tail(&component.log, second).unwrap();
        assert_eq!(lines.len(), TAIL_LINES);
        assert_eq!(lines[0], "line 10");
        let whole = std::fs::read_to_string(&component.log).unwrap();
        assert!(
            whole.contains("unfinished\n=== trialnet: node 1.0, generation 2 ===\nline 0\n"),
            "{whole}"
        );
    }
}
