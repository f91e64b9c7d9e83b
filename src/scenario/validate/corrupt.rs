//! Damage to the files of nodes that are held down.

use super::{Check, Here};
use crate::model::{Action, Corrupt};
use crate::scenario::diag::Problem;
use crate::scenario::explain as code;
use crate::scenario::raw::{self, At};

/// How many bytes of a file, where the step does not say.
const BYTES: u64 = 16;

impl Check<'_> {
    pub(super) fn corrupt(&mut self, here: &Here, corrupt: &At<raw::Corrupt>) -> Option<Action> {
        let raw::Corrupt {
            nodes,
            file,
            bytes,
            table: _,
        } = &corrupt.value;
        let bytes = match bytes {
            Some(_) => self.number(bytes.as_ref(), "bytes", 1, 4096),
            None => Some(BYTES),
        };
        let file = file.as_ref().filter(|file| {
            let good = Corrupt::is_path(file);
            if !good {
                let problem = Problem::new(
                    code::CORRUPT,
                    &file.at,
                    format!("\"{}\" names no file below a node's home", file.value),
                )
                .label("not a path below it")
                .help("names with `/` between them, without `..` and without one at the beginning: \"data/cs.wal/*\"");
                self.problems.push(problem);
            }
            good
        });
        let selectors = nodes.as_ref()?;
        let nodes = self.select(selectors)?;
        if !self.all_started(&nodes, selectors) {
            return None;
        }
        // One component of several may be down while others write.
        let whole = |node: &usize| {
            self.timeline
                .down(*node, false)
                .is_some_and(|live| live.fault.component.is_none())
        };
        if let Some(up) = nodes.iter().find(|node| !whole(node)) {
            let name = self.plan.network.nodes[*up].name.clone();
            let problem = Problem::new(
                code::CORRUPT,
                &selectors.at,
                format!("`{name}` is not certainly down at this step, and nobody may damage the files of a node that writes them"),
            )
            .label("may run here")
            .help(format!("put `kill = {{ nodes = [\"{name}\"] }}` before it, without a duration, and a `heal` after it"));
            self.problems.push(problem);
            return None;
        }
        Some(Action::Corrupt(Corrupt {
            id: here.id.clone(),
            nodes: self.names(&nodes),
            file: file?.value.clone(),
            bytes: bytes?,
        }))
    }
}
