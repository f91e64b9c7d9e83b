//! What is used beside the program: a process for each fault that wants it, so that faults add up and each can be looked at by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use nix::sys::signal::Signal;

use crate::agent::table::{self, Proc};
use crate::agent::{COMPONENT_VARIABLE, FILL, NODE_VARIABLE, RUN_VARIABLE, STRESS, nodes};
use crate::model::Stress;

/// The processes that stress.
#[derive(Debug)]
pub(super) struct Stresses {
    /// The command that runs trialnet itself.
    own: Vec<String>,
    /// What they fill.
    volume: Option<PathBuf>,
    /// Those that run, by fault.
    on: BTreeMap<String, (Stress, Proc)>,
    /// The last one of each fault.
    last: BTreeMap<String, Proc>,
    /// Children of the supervisor that were not reaped yet and do not belong to the program.
    pids: BTreeSet<u32>,
}

impl Stresses {
    pub(super) fn new(own: Vec<String>, volume: Option<PathBuf>) -> Self {
        Self {
            own,
            volume,
            on: BTreeMap::new(),
            last: BTreeMap::new(),
            pids: BTreeSet::new(),
        }
    }

    /// Ends what is not wanted, or not so, and starts what is missing. Waits for nothing.
    pub(super) fn set(&mut self, wanted: &BTreeMap<String, Stress>) -> io::Result<()> {
        self.on.retain(|fault, (what, proc)| {
            let stays = wanted.get(fault) == Some(what);
            if !stays {
                table::signal_group(proc.pid, Signal::SIGKILL);
            }
            stays
        });
        for (fault, what) in wanted {
            if !self.on.contains_key(fault) {
                let proc = self.start(*what)?;
                self.last.insert(fault.clone(), proc);
                self.on.insert(fault.clone(), (*what, proc));
            }
        }
        Ok(())
    }

    pub(super) fn end_all(&mut self) {
        for (_, proc) in std::mem::take(&mut self.on).into_values() {
            table::signal_group(proc.pid, Signal::SIGKILL);
        }
    }

    fn start(&mut self, Stress { cpu, memory, fill, .. }: Stress) -> io::Result<Proc> {
        let (exe, first) = self.own.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let [word, threads, bytes] = STRESS.map(str::to_owned);
        let mut told = vec![word, threads, cpu.to_string(), bytes, memory.to_string()];
        if let Some(fill) = fill {
            let [percent, size] = FILL.map(str::to_owned);
            told.extend([percent, fill.percent.to_string(), size, fill.size.to_string()]);
        }
        let args = [first, &told].concat();
        let mut command = nodes::through_shim(Path::new(exe), first, Path::new(exe), &args);
        if fill.is_some() {
            command.current_dir(self.volume.as_ref().ok_or(io::ErrorKind::NotFound)?);
        }
        // Dropped without a wait: whatever ends is reaped by the loop.
        let child = command
            .env_remove(RUN_VARIABLE)
            .env_remove(NODE_VARIABLE)
            .env_remove(COMPONENT_VARIABLE)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let pid = child.id();
        self.pids.insert(pid);
        Ok(Proc::now(pid).unwrap_or(Proc { pid, start: 0 }))
    }

    /// Whether one of them fills the volume.
    pub(super) fn fills(&self) -> bool {
        self.on.values().any(|(what, _)| what.fill.is_some())
    }

    /// How many run.
    pub(super) fn count(&self) -> usize {
        self.on.len()
    }

    /// The last process that was started for a fault, also when it is gone.
    pub(super) fn last(&self, fault: &str) -> Option<Proc> {
        self.last.get(fault).copied()
    }

    /// Whether this process is one of these.
    pub(super) fn has(&self, pid: u32) -> bool {
        self.pids.contains(&pid)
    }

    /// A child of the supervisor was reaped; the fault whose process ended without being asked, if it was one of these.
    pub(super) fn reaped(&mut self, pid: u32) -> Option<String> {
        self.pids.remove(&pid);
        let (fault, _) = self.on.iter().find(|(_, (_, proc))| proc.pid == pid)?;
        let fault = fault.clone();
        self.on.remove(&fault);
        Some(fault)
    }
}
