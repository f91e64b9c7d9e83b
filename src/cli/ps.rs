//! `trialnet ps` and `trialnet gc`: what is up, what is left, what was removed. Here only how they are shown.

use std::path::PathBuf;

use crate::exit;
use crate::model::Ms;
use crate::report::words::{count, table, tenths};

/// A run that the registry of this machine knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its id.
    pub run: String,
    /// Its scenario.
    pub scenario: String,
    /// What became of it.
    pub state: State,
    /// The process of trialnet that made it.
    pub pid: u32,
    /// How long ago it was made, where that is known.
    pub age: Option<Ms>,
    /// Its run folder.
    pub folder: PathBuf,
}

/// What became of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It goes on.
    Up,
    /// Its trialnet is gone, and something of it is still there.
    LeftOver,
}

/// The runs as a table; says so when there are none, and what to do about those that are left over.
#[must_use]
pub fn render(rows: &[Row]) -> String {
    if rows.is_empty() {
        return "no run is up, and nothing is left over".to_owned();
    }
    let mut cells = vec![["RUN", "SCENARIO", "STATE", "PROCESS", "AGE", "FOLDER"].map(str::to_owned)];
    cells.extend(rows.iter().map(
        |Row {
             run,
             scenario,
             state,
             pid,
             age,
             folder,
         }| {
            let state = match state {
                State::Up => "up",
                State::LeftOver => "LEFT OVER",
            };
            [
                run.clone(),
                scenario.clone(),
                state.to_owned(),
                pid.to_string(),
                age.map_or_else(|| "?".to_owned(), |age| tenths(age.0)),
                folder.display().to_string(),
            ]
        },
    ));
    let left = rows.iter().filter(|row| row.state == State::LeftOver).count();
    let mut text = table("", &cells);
    if left > 0 {
        let them = if left == 1 { "it" } else { "them" };
        let runs = count(left, "run");
        text.push_str(&["\n", &runs, " left over: `trialnet gc` removes what is there of ", them].concat());
    }
    text
}

/// The exit code of `ps`: with `--check`, anything that is up or left over fails.
#[must_use]
pub const fn code(rows: &[Row], check: bool) -> u8 {
    if check && !rows.is_empty() {
        exit::INFRASTRUCTURE
    } else {
        exit::PASSED
    }
}

/// What `gc` removed or, after a dry run, would remove.
#[must_use]
pub fn render_gc(removed: &[String], dry_run: bool) -> String {
    if removed.is_empty() {
        return "nothing is left over".to_owned();
    }
    let verb = if dry_run { "would remove" } else { "removed" };
    let lines: Vec<String> = removed.iter().map(|what| format!("  {what}")).collect();
    format!("{verb} {}:\n{}", count(removed.len(), "thing"), lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(run: &str, state: State, age: Option<Ms>) -> Row {
        Row {
            run: run.into(),
            scenario: "kill-one".into(),
            state,
            pid: 4711,
            age,
            folder: ".trialnet/runs/kill-one".into(),
        }
    }

    #[test]
    fn a_check_fails_while_anything_is_there() {
        for state in [State::Up, State::LeftOver] {
            let rows = [row("a1", state, None)];
            assert_eq!(code(&rows, true), exit::INFRASTRUCTURE, "{state:?}");
            assert_eq!(code(&rows, false), exit::PASSED, "{state:?}");
        }
        assert_eq!(code(&[], true), exit::PASSED);
    }

    #[test]
    fn runs_as_a_table() {
        insta::assert_snapshot!(render(&[
            row("a1b2c3", State::Up, Some(Ms(12_345))),
            row("d4", State::LeftOver, None)
        ]));
        assert_eq!(render(&[]), "no run is up, and nothing is left over");
    }

    #[test]
    fn what_gc_did() {
        assert_eq!(render_gc(&[], false), "nothing is left over");
        assert_eq!(
            render_gc(&["process 12".into()], true),
            "would remove 1 thing:\n  process 12"
        );
    }
}
