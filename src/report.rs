//! Consumers of a run's records: terminal, plain lines, run folder, JUnit, the page.
//!
//! Everything here is made from one stream of [`Event`]s and can be tested by feeding events. Nothing here judges.

pub mod compare;
pub mod excerpt;
pub mod folder;
pub mod junit;
pub mod page;
pub mod summary;
pub mod terminal;
pub mod view;
pub mod words;

#[cfg(test)]
pub(crate) mod sample;

use crate::record::Event;

use folder::{Folder, FolderError};
use terminal::Terminal;

/// All reporters of one run.
#[derive(Debug)]
pub struct Reporters {
    /// The run folder.
    pub folder: Option<Folder>,
    /// The terminal, or plain lines.
    pub terminal: Option<Terminal>,
}

impl Reporters {
    /// Gives an event to every reporter, to the run folder first: what the user sees is already kept.
    ///
    /// # Errors
    /// When the run folder cannot be written; the terminal was served all the same.
    pub fn event(&mut self, event: &Event) -> Result<(), FolderError> {
        let kept = match &mut self.folder {
            Some(folder) => folder.event(event),
            None => Ok(()),
        };
        if let Some(terminal) = &mut self.terminal {
            terminal.event(event);
        }
        kept
    }
}
