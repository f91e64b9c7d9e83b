//! What has been found so far: one note for each cause, repetitions counted.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::model::Ms;
use crate::model::verdict::Class;

/// A finding before names and times are put in.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    pub(super) code: Cow<'static, str>,
    pub(super) class: Class,
    pub(super) node: Option<usize>,
    pub(super) height: Option<u64>,
    pub(super) expected: String,
    pub(super) seen: String,
    pub(super) since: Ms,
    pub(super) step: Option<usize>,
    /// Faults whose effect this finding takes for granted; if one of them turns out to have had none, nothing is proved.
    pub(super) rests_on: Vec<usize>,
}

impl Draft {
    /// A draft about the network; the other fields are set by hand.
    pub(super) fn new(code: impl Into<Cow<'static, str>>, class: Class, since: Ms) -> Self {
        Self {
            code: code.into(),
            class,
            node: None,
            height: None,
            expected: String::new(),
            seen: String::new(),
            since,
            step: None,
            rests_on: Vec::new(),
        }
    }
}

/// A finding that is kept, with how often it came again.
#[derive(Clone, Debug)]
pub(super) struct Note {
    pub(super) draft: Draft,
    /// The faults that were on.
    pub(super) faults: Vec<String>,
    /// How often the same was found again.
    pub(super) more: u64,
    /// The height of the last repetition.
    pub(super) last: Option<u64>,
}

type Key = (String, Option<usize>, Option<usize>);

/// All notes in the order in which they were found.
#[derive(Clone, Debug, Default)]
pub(super) struct Notes {
    pub(super) list: Vec<Note>,
    keys: BTreeMap<Key, usize>,
}

impl Notes {
    /// Whether the same code was found before for this node and step; counts the repetition.
    pub(super) fn again(&mut self, code: &str, node: Option<usize>, step: Option<usize>, height: Option<u64>) -> bool {
        let Some(&at) = self.keys.get(&(code.to_owned(), node, step)) else {
            return false;
        };
        let note = &mut self.list[at];
        note.more += 1;
        note.last = height.or(note.last);
        true
    }

    /// Counts a repetition of the last note with this code, whatever node it names.
    pub(super) fn once_more(&mut self, code: &str, height: u64) {
        if let Some(note) = self.list.iter_mut().rev().find(|note| note.draft.code == code) {
            note.more += 1;
            note.last = Some(height);
        }
    }

    /// Keeps a draft, or counts it if it is a repetition.
    pub(super) fn add(&mut self, draft: Draft, faults: Vec<String>) {
        if self.again(&draft.code, draft.node, draft.step, draft.height) {
            return;
        }
        let key = (draft.code.clone().into_owned(), draft.node, draft.step);
        self.keys.insert(key, self.list.len());
        self.list.push(Note {
            draft,
            faults,
            more: 0,
            last: None,
        });
    }

    /// Whether there is a note with this code about this step, whatever node it names.
    pub(super) fn about_step(&self, code: &str, step: usize) -> bool {
        self.list
            .iter()
            .any(|note| note.draft.code == code && note.draft.step == Some(step))
    }

    /// Says of a note without a step that this step's expectation is about it; `false` if there is none.
    pub(super) fn claim(&mut self, code: &str, node: Option<usize>, step: usize) -> bool {
        let found = self
            .list
            .iter_mut()
            .find(|note| note.draft.code == code && note.draft.node == node && note.draft.step.is_none());
        match found {
            Some(note) => {
                note.draft.step = Some(step);
                true
            }
            None => false,
        }
    }
}
