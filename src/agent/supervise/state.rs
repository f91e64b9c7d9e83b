//! What a supervisor keeps for the next container of its pod: generations, events, whether the process is held down, and what its links
//! suffer.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::agent::table::Proc;
use crate::backend::LinkShape;
use crate::record::NodeEvent;

/// How many events are kept for those who ask later.
const EVENTS: usize = 100;

/// The state, as it stands in its file.
#[derive(Debug)]
pub(super) struct State {
    path: PathBuf,
    kept: Kept,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Kept {
    /// Down by order: only an order starts it.
    held: bool,
    /// Of all containers of the pod.
    generation: u32,
    /// Of the last generation.
    process: Option<Process>,
    /// The number of the last event.
    last: u64,
    /// The latest events with their numbers.
    events: VecDeque<(u64, NodeEvent)>,
    /// The links that are not clear.
    #[serde(default)]
    links: Vec<LinkShape>,
    /// How many containers there were in this pod.
    #[serde(default)]
    containers: u32,
}

/// The process of a generation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Process {
    pub(super) proc: Proc,
    /// Whether its exit is still to come.
    pub(super) runs: bool,
    /// Whether somebody wants it gone.
    pub(super) asked: bool,
}

impl State {
    /// Reads the state of a component from this folder; without one it is a new pod, in which the process is held unless `started`.
    ///
    /// # Errors
    /// When the folder cannot be made, or the file cannot be read.
    pub(super) fn open(folder: &Path, component: &str, started: bool) -> io::Result<Self> {
        fs_err::create_dir_all(folder)?;
        let path = folder.join(format!("{component}.json"));
        let mut kept = match fs_err::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Kept {
                held: !started,
                ..Kept::default()
            },
            Err(error) => return Err(error),
        };
        kept.containers += 1;
        let state = Self { path, kept };
        state.save()?;
        Ok(state)
    }

    /// Writes the file anew; a reader sees the old or the new one.
    fn save(&self) -> io::Result<()> {
        let next = self.path.with_extension("json.next");
        fs_err::write(&next, serde_json::to_vec(&self.kept)?)?;
        fs_err::rename(next, &self.path)
    }

    /// Whether nothing has happened in this pod yet.
    pub(super) fn is_new(&self) -> bool {
        self.kept.generation == 0 && self.kept.last == 0
    }

    pub(super) fn held(&self) -> bool {
        self.kept.held
    }

    pub(super) fn generation(&self) -> u32 {
        self.kept.generation
    }

    /// Of the last generation, whether it runs or not.
    pub(super) fn process(&self) -> Option<Process> {
        self.kept.process
    }

    /// Of this generation, while it runs.
    pub(super) fn running(&self) -> Option<Process> {
        self.kept.process.filter(|process| process.runs)
    }

    /// Which container of the pod this is, from 1.
    pub(super) fn container(&self) -> u32 {
        self.kept.containers
    }

    /// The number of the last event.
    pub(super) fn last(&self) -> u64 {
        self.kept.last
    }

    /// The events after the one of this number, as far as they are kept. A number that is yet to come is from another pod: all.
    pub(super) fn after(&self, number: u64) -> impl Iterator<Item = &(u64, NodeEvent)> {
        let number = if number > self.kept.last { 0 } else { number };
        self.kept.events.iter().filter(move |(its, _)| *its > number)
    }

    /// The process is down by order, or no longer.
    pub(super) fn hold(&mut self, held: bool) -> io::Result<()> {
        self.kept.held = held;
        self.save()
    }

    /// What the links suffer, as it was told last.
    pub(super) fn links(&self) -> &[LinkShape] {
        &self.kept.links
    }

    /// These links are not clear from now on, and no others.
    pub(super) fn shape(&mut self, links: &[LinkShape]) -> io::Result<()> {
        if self.kept.links == links {
            return Ok(());
        }
        self.kept.links = links.to_vec();
        self.save()
    }

    /// From now on the exit of the process is wanted.
    pub(super) fn expect_exit(&mut self) -> io::Result<()> {
        if let Some(process) = &mut self.kept.process {
            process.asked |= process.runs;
        }
        self.save()
    }

    /// A process was started: the next generation. Returns the event and its number.
    pub(super) fn started(&mut self, proc: Proc, component: &str, version: &str) -> (u64, NodeEvent, io::Result<()>) {
        self.kept.generation += 1;
        self.kept.process = Some(Process {
            proc,
            runs: true,
            asked: false,
        });
        self.push(NodeEvent::Started {
            component: component.to_owned(),
            pid: proc.pid,
            generation: self.kept.generation,
            version: version.to_owned(),
        })
    }

    /// The process ended. Returns the event and its number; `None`: it had ended already.
    pub(super) fn exited(
        &mut self,
        component: &str,
        (code, signal): (Option<i32>, Option<i32>),
        tail: Vec<String>,
    ) -> Option<(u64, NodeEvent, io::Result<()>)> {
        let process = self.kept.process.as_mut().filter(|process| process.runs)?;
        process.runs = false;
        let (Proc { pid, .. }, asked) = (process.proc, process.asked);
        Some(self.push(NodeEvent::Exited {
            component: component.to_owned(),
            pid,
            generation: self.kept.generation,
            code,
            signal,
            asked,
            tail: if asked { Vec::new() } else { tail },
        }))
    }

    fn push(&mut self, event: NodeEvent) -> (u64, NodeEvent, io::Result<()>) {
        self.kept.last += 1;
        self.kept.events.push_back((self.kept.last, event.clone()));
        while self.kept.events.len() > EVENTS {
            self.kept.events.pop_front();
        }
        (self.kept.last, event, self.save())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::LinkId;
    use crate::model::Ms;

    const PROC: Proc = Proc { pid: 7, start: 1 };

    fn open(folder: &Path) -> State {
        State::open(folder, "node", true).unwrap()
    }

    #[test]
    fn a_new_container_goes_on_where_the_last_one_was() {
        let folder = tempfile::tempdir().unwrap();
        let mut state = open(folder.path());
        assert!(!state.held() && state.running().is_none() && state.last() == 0);
        let (number, _, saved) = state.started(PROC, "node", "1");
        saved.unwrap();
        assert_eq!((number, state.generation()), (1, 1));
        state.expect_exit().unwrap();
        state.hold(true).unwrap();

        // The container dies here.
        let mut state = open(folder.path());
        assert!(state.held());
        assert_eq!(state.running().map(|process| process.asked), Some(true));
        let (number, event, saved) = state.exited("node", (None, None), vec!["x".to_owned()]).unwrap();
        saved.unwrap();
        let NodeEvent::Exited {
            pid,
            generation,
            asked,
            tail,
            ..
        } = event
        else {
            panic!("{event:?}")
        };
        assert_eq!((number, pid, generation, asked, tail.len()), (2, 7, 1, true, 0));
        assert!(state.exited("node", (None, None), Vec::new()).is_none());

        let mut state = open(folder.path());
        assert!(state.running().is_none() && state.process().is_some());
        let (number, _, _) = state.started(PROC, "node", "2");
        assert_eq!((number, state.generation()), (3, 2));
        assert_eq!(state.running().map(|process| process.asked), Some(false));
        let numbers = |after| state.after(after).map(|(number, _)| *number).collect::<Vec<_>>();
        assert_eq!(numbers(0), [1, 2, 3]);
        assert_eq!(numbers(2), [3]);
        assert_eq!(numbers(3), [0; 0]);
        // Whoever asks so has spoken with the supervisor of another pod.
        assert_eq!(numbers(9), [1, 2, 3]);
    }

    #[test]
    fn what_the_links_suffer_is_there_in_the_next_container() {
        let folder = tempfile::tempdir().unwrap();
        let cut = LinkShape {
            link: LinkId {
                from: "a-0".to_owned(),
                to: "b-0".to_owned(),
                port: "p2p".to_owned(),
            },
            cut: true,
            latency: Ms(0),
            jitter: Ms(0),
            drops: false,
        };
        let mut state = open(folder.path());
        assert_eq!(state.links(), []);
        state.shape(std::slice::from_ref(&cut)).unwrap();
        let mut state = open(folder.path());
        assert_eq!(state.links(), [cut]);
        state.shape(&[]).unwrap();
        assert_eq!(open(folder.path()).links(), []);
    }

    #[test]
    fn components_are_apart_and_events_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let other = State::open(folder.path(), "app", false).unwrap();
        assert!(other.held());
        let mut state = open(folder.path());
        for _ in 0..EVENTS {
            state.started(PROC, "node", "1").2.unwrap();
            state.exited("node", (Some(0), None), Vec::new()).unwrap().2.unwrap();
        }
        let state = open(folder.path());
        assert_eq!(state.after(0).count(), EVENTS);
        assert_eq!(state.last(), 2 * EVENTS as u64);
    }

    #[test]
    fn a_file_that_cannot_be_read_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("node.json"), "{").unwrap();
        assert!(State::open(folder.path(), "node", true).is_err());
    }
}
