//! `trialnet ps` and `trialnet gc`: what is up, what is left, what was removed. Here only how they are shown.

use std::path::PathBuf;
use std::time::SystemTime;

use crate::agent::registry::Swept;
use crate::backend::kubernetes::gc::{Found, until};
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

/// The runs in a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InCluster {
    /// The cluster's context.
    pub context: String,
    /// The runs.
    pub rows: Vec<ClusterRow>,
}

/// A run in a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterRow {
    /// What the cluster says of it.
    pub found: Found,
    /// How long ago it was made.
    pub age: Option<Ms>,
    /// The time until it expires, or since, and whether it has.
    pub expires: Option<(Ms, bool)>,
    /// Whether it belongs to a run of this machine whose processes are gone.
    pub orphaned: bool,
}

impl ClusterRow {
    /// A run as it is at the moment `now`, beside the runs of this machine.
    #[must_use]
    pub fn of(found: Found, now: SystemTime, rows: &[Row]) -> Self {
        Self {
            orphaned: rows
                .iter()
                .any(|row| row.run == found.run && row.state == State::LeftOver),
            age: found.made.map(|made| until(made, now).0),
            expires: found.expires.map(|expires| until(expires, now)),
            found,
        }
    }

    fn left_over(&self) -> bool {
        let expired = self.expires.is_some_and(|(_, over)| over);
        !self.found.ending && (expired || self.orphaned)
    }

    fn cells(&self) -> [String; 7] {
        let Found {
            namespace,
            scenario,
            owner,
            ending,
            pods,
            running,
            ..
        } = &self.found;
        let state = match (self.left_over(), ending) {
            (true, _) => "LEFT OVER",
            (false, true) => "ending",
            (false, false) => "up",
        };
        let expires = match self.expires {
            Some((span, true)) => format!("{} ago", tenths(span.0)),
            Some((span, false)) => format!("in {}", tenths(span.0)),
            None => "never".to_owned(),
        };
        [
            namespace.clone(),
            scenario.clone(),
            state.to_owned(),
            owner.clone(),
            self.age.map_or_else(|| "?".to_owned(), |age| tenths(age.0)),
            expires,
            format!("{running}/{pods}"),
        ]
    }
}

/// The runs of this machine and of its cluster, a table each; says so when there are none, and what to do about those that are left over.
#[must_use]
pub fn render(rows: &[Row], cluster: Option<&InCluster>) -> String {
    let cluster = cluster.filter(|cluster| !cluster.rows.is_empty());
    match (rows.is_empty(), cluster) {
        (true, None) => "no run is up, and nothing is left over".to_owned(),
        (true, Some(cluster)) => render_cluster(cluster),
        (false, None) => render_machine(rows),
        (false, Some(cluster)) => [render_machine(rows), render_cluster(cluster)].join("\n\n"),
    }
}

fn render_cluster(InCluster { context, rows }: &InCluster) -> String {
    let mut cells = vec![["NAMESPACE", "SCENARIO", "STATE", "OWNER", "AGE", "EXPIRES", "PODS"].map(str::to_owned)];
    cells.extend(rows.iter().map(ClusterRow::cells));
    let left = rows.iter().filter(|row| row.left_over()).count();
    [format!("in the cluster of {context}:"), table("", &cells)].join("\n") + &hint(left)
}

/// What to do about what is left over.
fn hint(left: usize) -> String {
    if left == 0 {
        return String::new();
    }
    let them = if left == 1 { "it" } else { "them" };
    format!(
        "\n{} left over: `trialnet gc` removes what is there of {them}",
        count(left, "run")
    )
}

fn render_machine(rows: &[Row]) -> String {
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
    table("", &cells) + &hint(left)
}

/// The exit code of `ps`: with `--check`, anything of this machine fails, and what is left over in the cluster. What is in use there is somebody
/// else's, or is meant to stay.
#[must_use]
pub fn code(rows: &[Row], cluster: Option<&InCluster>, check: bool) -> u8 {
    let left = cluster.is_some_and(|cluster| cluster.rows.iter().any(ClusterRow::left_over));
    if check && (left || !rows.is_empty()) {
        exit::INFRASTRUCTURE
    } else {
        exit::PASSED
    }
}

/// What `gc` removed or, after a dry run, would remove.
#[must_use]
pub fn render_gc(swept: &Swept, dry_run: bool) -> String {
    let verb = if dry_run { "would remove" } else { "removed" };
    let parts = [(verb, &swept.done), ("could not remove", &swept.left)];
    let parts: Vec<String> = (parts.into_iter())
        .filter(|(_, what)| !what.is_empty())
        .map(|(verb, what)| {
            let lines: String = what.iter().map(|what| format!("\n  {what}")).collect();
            format!("{verb} {}:{lines}", count(what.len(), "thing"))
        })
        .collect();
    if parts.is_empty() {
        return "nothing is left over".to_owned();
    }
    parts.join("\n")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
            assert_eq!(code(&rows, None, true), exit::INFRASTRUCTURE, "{state:?}");
            assert_eq!(code(&rows, None, false), exit::PASSED, "{state:?}");
        }
        assert_eq!(code(&[], None, true), exit::PASSED);
    }

    #[test]
    fn runs_as_a_table() {
        let rows = [
            row("a1b2c3", State::Up, Some(Ms(12_345))),
            row("d4", State::LeftOver, None),
        ];
        insta::assert_snapshot!(render(&rows, None));
        let none = InCluster {
            context: "kind-x".into(),
            rows: Vec::new(),
        };
        for cluster in [None, Some(&none)] {
            assert_eq!(render(&[], cluster), "no run is up, and nothing is left over");
            assert_eq!(code(&[], cluster, true), exit::PASSED);
        }
    }

    #[test]
    fn runs_in_a_cluster_as_a_table() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let run = |namespace: &str, expires: u64, ending| {
            let found = Found {
                namespace: namespace.into(),
                run: "r".into(),
                scenario: "kill-one".into(),
                owner: "me@here 4711".into(),
                made: Some(now - Duration::from_secs(70)),
                expires: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(expires)),
                ending,
                pods: 5,
                running: 4,
            };
            ClusterRow::of(found, now, &[])
        };
        let cluster = InCluster {
            context: "kind-x".into(),
            rows: vec![
                run("trialnet-kill-one-a1", 1_000_090, false),
                run("trialnet-kill-one-b2", 999_000, false),
                run("trialnet-kill-one-c3", 999_000, true),
            ],
        };
        insta::assert_snapshot!(render(&[], Some(&cluster)));
        let both = render(&[row("a1", State::Up, None)], Some(&cluster));
        assert!(
            both.starts_with("RUN") && both.contains("\n\nin the cluster of kind-x:\nNAMESPACE"),
            "{both}"
        );
        assert_eq!(code(&[], Some(&cluster), true), exit::INFRASTRUCTURE);
        assert_eq!(code(&[], Some(&cluster), false), exit::PASSED);
        let mut used = cluster.clone();
        used.rows.remove(1);
        assert_eq!(
            code(&[], Some(&used), true),
            exit::PASSED,
            "others are at work, or it is going"
        );
        let mine = |state| ClusterRow::of(used.rows[0].found.clone(), now, &[row("r", state, None)]);
        for (state, left) in [(State::Up, false), (State::LeftOver, true)] {
            assert_eq!(mine(state).left_over(), left, "{state:?}");
        }
    }

    #[test]
    fn what_gc_did() {
        let mut swept = Swept::default();
        assert_eq!(render_gc(&swept, false), "nothing is left over");
        swept.done.push("process 12".into());
        assert_eq!(render_gc(&swept, true), "would remove 1 thing:\n  process 12");
        swept.left.push("process 13".into());
        let both = "removed 1 thing:\n  process 12\ncould not remove 1 thing:\n  process 13";
        assert_eq!(render_gc(&swept, false), both);
    }
}
