//! What waits for an observer that runs elsewhere.
//!
//! Its records come late: a little always, and for as long as the line to it is down. So judged time is its time: whatever else happens is put
//! aside with the moment at which it came, and is taken in when the observer has told everything up to that moment. The judge is fed in the order of
//! time then, ticks included, as if nothing had been late; a gap in the line is no gap in what was observed, and only whoever waits for the judge
//! waits longer. When the observer stays away for [`LOST`], that is trouble; judged time stands still from then on, so that nothing is found for
//! want of observations.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::{Dispatcher, Message};
use crate::model::Ms;
use crate::observe::line::Told;
use crate::record::Record;

/// How long nothing may be heard of an observer that was heard before.
const LOST: Duration = Duration::from_secs(60);
/// A tick that changes nothing must not become a busy loop.
const TICK: Ms = Ms(5);

/// What comes from this machine.
#[derive(Debug)]
pub(super) enum Input {
    Message(Message),
    Record(Record),
}

/// Whether anything waits for an observer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Nothing does: there is no observer elsewhere, or it has not been heard yet.
    #[default]
    Free,
    /// Everything does.
    Holds,
    /// Nothing does any more, and judged time stands still.
    Still,
    /// Nothing does: what is observed is not judged any more.
    Over,
}

/// What waits.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    state: State,
    /// In the order in which it came, with the moment.
    waiting: VecDeque<(Ms, Input)>,
    /// When the observer was last heard.
    heard: Option<Instant>,
    /// Whether the line to it is up.
    up: bool,
    /// Why it is not.
    why: Option<String>,
}

impl Backlog {
    /// What a record is stamped with that came at a moment.
    pub(super) fn stamp(&self, last: Ms, at: Ms) -> Ms {
        if self.state == State::Still { last } else { last.max(at) }
    }

    /// What is observed from here on is not judged: nothing waits for it.
    pub(super) fn end(&mut self) {
        self.state = State::Over;
    }

    /// Why an observer that there should be was never heard.
    pub(super) fn unheard(&self) -> Option<&str> {
        self.why.as_deref().filter(|_| self.state == State::Free && !self.up)
    }
}

impl Dispatcher<'_> {
    /// When something has to be done although nothing comes.
    pub(super) fn wakes(&self) -> Option<Instant> {
        match self.backlog.state {
            State::Free | State::Over => {
                let due = self.judge.next_due()?;
                Some(self.clock.instant(due.max(self.last + TICK)))
            }
            State::Holds => self.backlog.heard.map(|heard| heard + LOST),
            State::Still => None,
        }
    }

    /// That moment has come. True at the end of the run.
    pub(super) fn woken(&mut self) -> bool {
        if self.backlog.state != State::Holds {
            self.now(Record::Tick);
            return false;
        }
        let why = self.backlog.why.clone().filter(|_| !self.backlog.up);
        let why = why.unwrap_or_else(|| "the line is up and brings nothing".to_owned());
        self.lose(format!("nothing for {}: {why}", Ms::from(LOST)))
    }

    /// Something came from this machine. True at the end of the run.
    pub(super) fn came(&mut self, input: Input) -> bool {
        let at = self.clock.now();
        if matches!(input, Input::Message(Message::LetGo)) {
            return self.let_go();
        }
        if self.backlog.state == State::Holds {
            self.backlog.waiting.push_back((at, input));
            return false;
        }
        self.handle(input, at)
    }

    /// Something came over the line to an observer elsewhere. True at the end of the run.
    pub(super) fn told(&mut self, told: Told) -> bool {
        if matches!(self.backlog.state, State::Still | State::Over) {
            return false;
        }
        match told {
            Told::At(at, record) => {
                if self.catch_up(at) {
                    return true;
                }
                self.take(record, at);
                false
            }
            Told::Upto(at) => self.catch_up(at),
            Told::Up(detail) => {
                self.backlog.up = true;
                let connected = true;
                self.came(Input::Record(Record::Observer { connected, detail }))
            }
            Told::Down(detail) => {
                self.backlog.why = Some(detail.clone());
                if !std::mem::take(&mut self.backlog.up) {
                    return false;
                }
                // The record is seen when the line is back.
                tracing::warn!("the line to the observer is down: {detail}; nothing is judged until it is back");
                let connected = false;
                self.came(Input::Record(Record::Observer { connected, detail }))
            }
            Told::Lost(why) => self.lose(why),
        }
    }

    /// The observer has told everything up to a moment: takes in what came until then, and ticks between.
    fn catch_up(&mut self, to: Ms) -> bool {
        self.backlog.state = State::Holds;
        self.backlog.heard = Some(Instant::now());
        loop {
            if self.backlog.state != State::Holds {
                return self.release();
            }
            let came = self.backlog.waiting.front().map(|(at, _)| *at).filter(|at| *at <= to);
            let due = self.judge.next_due().map(|due| due.max(self.last + TICK));
            match (due.filter(|due| *due <= to), came) {
                (Some(due), came) if came.is_none_or(|came| due < came) => self.take(Record::Tick, due),
                (_, Some(_)) => {
                    if let Some((at, input)) = self.backlog.waiting.pop_front()
                        && self.handle(input, at)
                    {
                        return true;
                    }
                }
                (_, None) => return false,
            }
        }
    }

    /// Its records cannot be had any more.
    fn lose(&mut self, why: String) -> bool {
        if matches!(self.backlog.state, State::Still | State::Over) {
            return false;
        }
        self.backlog.state = State::Still;
        // Before what waited: none of that is to be judged without the observations that are missing.
        let trouble = Record::Trouble {
            code: "infra/observer-lost".to_owned(),
            node: None,
            expected: "the records of the observer in the cluster".to_owned(),
            seen: why,
        };
        self.take(trouble, self.last);
        self.release()
    }

    /// Nobody waits any longer for an observer that is behind.
    fn let_go(&mut self) -> bool {
        if self.backlog.state != State::Holds {
            return false;
        }
        self.backlog.state = State::Still;
        self.release()
    }

    /// Takes in all that waited.
    fn release(&mut self) -> bool {
        while let Some((at, input)) = self.backlog.waiting.pop_front() {
            if self.handle(input, at) {
                return true;
            }
        }
        false
    }

    fn handle(&mut self, input: Input, at: Ms) -> bool {
        match input {
            Input::Message(message) => {
                self.hear(message);
                false
            }
            Input::Record(record) => {
                let end = record == Record::End;
                self.take(record, at);
                end
            }
        }
    }
}
