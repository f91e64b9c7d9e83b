//! From what is written to what is meant: every check of a scenario that needs more than one value.

mod chaos;
mod corrupt;
pub(super) mod desk;
mod expect;
mod faults;
mod fill;
mod kubernetes;
mod network;
mod regions;
mod repeat;
mod steps;
mod stress;
mod upgrade;

use std::collections::BTreeMap;
use std::ops::Range;

use indexmap::IndexMap;

use super::Options;
use super::diag::{Problem, did_you_mean, nearest, place};
use super::explain as code;
use super::forecast::forecast;
use super::raw::{self, At, Time};
use super::select::{Nodes, Timeline};
use crate::chain::ChainAdapter;
use crate::model::{ChainKind, FORMAT, Invariants, Limits, Ms, Network, Outcome, Persistence, Plan};

/// Checks a scenario that could be read, as far as it could be.
///
/// # Errors
/// All problems, those found before included.
pub(super) fn validate(
    raw: &raw::Scenario,
    source: &str,
    problems: Vec<Problem>,
    options: &Options<'_>,
) -> Result<Plan, Vec<Problem>> {
    let mut check = Check::new(source, problems, options);
    if check.other_format(raw) {
        return Err(check.problems);
    }
    check.header(raw);
    check.reckoned(|check| check.limits(raw.limits.as_ref()));
    check.kubernetes(raw);
    check.reckoned(|check| {
        if let Some(network) = &raw.network {
            check.network(network, raw.versions.as_ref());
        }
    });
    check.observe(raw);
    check.reckoned(|check| check.invariants(raw.invariants.as_ref()));
    check.outcome(raw.outcome.as_ref());
    check.reckoned(|check| {
        let begin = check.timeline.clone();
        if let Some(steps) = &raw.steps {
            check.steps(steps);
            if let Some(groups) = raw.network.as_ref().and_then(|network| network.groups.as_ref()) {
                check.never_started(groups, steps);
            }
        }
        check.chaos(raw.chaos.as_ref(), begin);
    });
    check.finish()
}

/// A check under way: the plan so far, and everything found wrong.
pub(super) struct Check<'a> {
    source: &'a str,
    options: &'a Options<'a>,
    pub(super) problems: Vec<Problem>,
    /// Whether what the arithmetic reckons with is as it was meant, so that its sums say something.
    sums: bool,
    /// Grows from top to bottom; complete only if there are no problems.
    pub(super) plan: Plan,
    /// `None`: the chain is not known.
    pub(super) adapter: Option<&'static dyn ChainAdapter>,
    /// Whether all nodes are known, so that a name that is not among them is wrong.
    pub(super) sound: bool,
    pub(super) timeline: Timeline,
    /// Nodes that some step wanted before they were started.
    pub(super) missed: Nodes,
    /// The steps that can be referred to.
    ids: Vec<Id>,
    /// The step that is being checked.
    current: usize,
    /// Where each step of the plan stands.
    spans: Vec<Range<usize>>,
    /// Where `limits.run` stands, if it does.
    run_limit: Option<Range<usize>>,
    /// Voting powers as the transactions of the steps so far make them.
    powers: Vec<u64>,
    /// The version that each node runs as the upgrades of the steps so far make it.
    runs: Vec<String>,
    /// The network's own keys and those of each group as the file has them, for versions to which nodes move.
    configs: Vec<(Option<String>, At<raw::Config>)>,
}

/// A step that can be referred to.
#[derive(Clone, Debug)]
struct Id {
    id: String,
    /// Where the id, or else the step's action, stands.
    at: Range<usize>,
    index: usize,
    /// The action.
    word: String,
    background: bool,
    /// An expectation that goes on to the end of the run.
    never: bool,
}

/// What a reference has to name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refer {
    Fault,
    /// A fault that can be healed.
    Lasting,
    Tx,
    Background,
    /// An upgrade in the background.
    Upgrade,
}

/// The step that is being checked.
#[derive(Clone, Debug)]
pub(super) struct Here {
    /// Its id, or `step-N`.
    pub(super) id: String,
    /// The action.
    pub(super) word: &'static str,
    /// Where the action stands.
    pub(super) key: Range<usize>,
    pub(super) background: bool,
    pub(super) go_on: bool,
    /// Why no fault can be repeated here.
    pub(super) once: Option<&'static str>,
}

/// The longest duration that any key takes.
const A_DAY: Ms = Ms::secs(24 * 60 * 60);

impl<'a> Check<'a> {
    fn new(source: &'a str, problems: Vec<Problem>, options: &'a Options<'a>) -> Self {
        let plan = Plan {
            format: FORMAT,
            scenario: String::new(),
            about: None,
            seed: 0,
            backend: options.backend,
            kubernetes: crate::model::Kubernetes::default(),
            network: Network {
                chain: ChainKind::Devnode,
                version: String::new(),
                block_time: Ms::default(),
                persistence: Persistence::Volume,
                config: BTreeMap::new(),
                nodes: Vec::new(),
                links: Vec::new(),
                app: None,
                keys: crate::model::Keys::Seed,
                attach: None,
            },
            versions: IndexMap::new(),
            limits: Limits {
                start: Ms::secs(60),
                run: Ms::secs(600),
                settle: Ms::secs(30),
            },
            invariants: Invariants {
                max_stall: Ms::default(),
                max_lag: 0,
                off: std::collections::BTreeSet::new(),
            },
            steps: Vec::new(),
            outcome: None,
            repeats: Vec::new(),
            sums: Vec::new(),
            chaos: None,
        };
        Self {
            source,
            options,
            sums: problems.is_empty(),
            problems,
            plan,
            adapter: None,
            sound: false,
            timeline: Timeline::default(),
            missed: Nodes::new(),
            ids: Vec::new(),
            current: 0,
            spans: Vec::new(),
            run_limit: None,
            powers: Vec::new(),
            runs: Vec::new(),
            configs: Vec::new(),
        }
    }

    /// Whether the file is written in another version of the language, so that nothing else can be said of it.
    fn other_format(&mut self, raw: &raw::Scenario) -> bool {
        match &raw.format {
            Some(format) if format.value != u64::from(FORMAT) => {
                let problem = Problem::new(
                    code::FORMAT,
                    &format.at,
                    format!("this trialnet reads format {FORMAT}, not {}", format.value),
                )
                .label("another version of the language")
                .help(if format.value > u64::from(FORMAT) {
                    "a newer trialnet is needed for this file"
                } else {
                    "write `format = 1`"
                });
                self.problems = vec![problem];
                true
            }
            _ => false,
        }
    }

    fn header(&mut self, raw: &raw::Scenario) {
        if let Some(name) = &raw.name {
            self.name("a scenario's name", name, 40);
            self.plan.scenario.clone_from(name);
        }
        self.plan.about = raw.about.as_ref().map(|about| about.value.clone());
        // 32 bits are enough to tell runs apart and short enough to be typed again.
        self.plan.seed = self
            .options
            .seed
            .or(raw.seed.as_ref().map(|seed| seed.value))
            .unwrap_or_else(|| u64::from(rand::random::<u32>()));
    }

    fn limits(&mut self, raw: Option<&At<raw::Limits>>) {
        let Some(raw::Limits {
            start,
            run,
            settle,
            table: _,
        }) = raw.map(|limits| &limits.value)
        else {
            return;
        };
        let second = Ms::secs(1);
        if let Some(start) = self.time(start.as_ref(), second, Ms::secs(3600)) {
            self.plan.limits.start = start;
        }
        self.run_limit = run.as_ref().map(|run| run.at.clone());
        if let Some(run) = self.time(run.as_ref(), second, A_DAY) {
            self.plan.limits.run = run;
        }
        if let Some(settle) = self.time(settle.as_ref(), second, Ms::secs(3600)) {
            self.plan.limits.settle = settle;
        }
    }

    fn invariants(&mut self, raw: Option<&At<raw::Invariants>>) {
        if let Some(adapter) = self.adapter
            && self.sound
        {
            let (max_stall, max_lag) = adapter.default_invariants(&self.plan.network);
            self.plan.invariants.max_stall = max_stall;
            self.plan.invariants.max_lag = max_lag;
        }
        let Some(raw::Invariants {
            max_stall,
            max_lag,
            off,
            table: _,
        }) = raw.map(|invariants| &invariants.value)
        else {
            return;
        };
        let block_time = self.plan.network.block_time;
        if let Some(stall) = self.time(max_stall.as_ref(), block_time.max(Ms(1)), Ms::secs(3600)) {
            self.plan.invariants.max_stall = stall;
        }
        if let Some(lag) = self.number(max_lag.as_ref(), "max_lag", 1, 1_000_000) {
            self.plan.invariants.max_lag = lag;
        }
        if let Some(off) = off {
            self.plan.invariants.off = off.iter().map(|invariant| invariant.0).collect();
        }
    }

    fn outcome(&mut self, raw: Option<&At<raw::Outcome>>) {
        let Some(raw::Outcome {
            verdict,
            code: finding,
            node,
            table: _,
        }) = raw.map(|outcome| &outcome.value)
        else {
            return;
        };
        if let Some(finding) = finding
            && crate::codes::find(finding).is_none()
        {
            let known: Vec<&str> = crate::codes::all().map(|(code, _, _)| *code).collect();
            let help = nearest(finding, &known).map_or_else(
                || "`trialnet explain` lists all codes".to_owned(),
                |near| format!("did you mean `{near}`?"),
            );
            let problem = Problem::new(
                code::UNKNOWN_WORD,
                &finding.at,
                format!("no finding has the code \"{}\"", finding.value),
            )
            .label("unknown code")
            .help(help);
            self.problems.push(problem);
        }
        let node = node.as_ref().and_then(|node| self.node(node));
        if let Some(verdict) = verdict {
            self.plan.outcome = Some(Outcome {
                verdict: verdict.0,
                code: finding.as_ref().map(|finding| finding.value.clone()),
                node: node.map(|index| self.plan.network.nodes[index].name.clone()),
            });
        }
    }

    /// Reports a problem; `None`, for the sake of the callers.
    fn odd<T>(
        &mut self,
        code: &'static str,
        at: &Range<usize>,
        message: impl Into<String>,
        label: &str,
        help: &str,
    ) -> Option<T> {
        let problem = Problem::new(code, at, message).label(label).help(help);
        self.problems.push(problem);
        None
    }

    /// Checks a part with which the arithmetic reckons.
    fn reckoned(&mut self, part: impl FnOnce(&mut Self)) {
        let before = self.problems.len();
        part(self);
        self.sums &= self.problems.len() == before;
    }

    /// The plan, if nothing was wrong and the arithmetic agrees.
    fn finish(mut self) -> Result<Plan, Vec<Problem>> {
        let Some(adapter) = self.adapter else {
            return Err(self.problems);
        };
        if !self.sums {
            return Err(self.problems);
        }
        let forecasted = forecast(&self.plan, adapter.engine());
        if forecasted.problems.is_empty() && self.problems.is_empty() {
            self.plan.sums = forecasted.sums;
            return Ok(self.plan);
        }
        for problem in forecasted.problems {
            let span = self.spans.get(problem.step).cloned().unwrap_or(0..0);
            self.problems.push(
                Problem::new(problem.code, &span, problem.message)
                    .label(format!("step {}", problem.step + 1))
                    .help(problem.help),
            );
        }
        Err(self.problems)
    }

    /// The index of a node that is named exactly.
    fn node(&mut self, name: &At<String>) -> Option<usize> {
        if !self.sound {
            return None;
        }
        let found = self.plan.node_index(name);
        if found.is_none() {
            let known = self.plan.network.nodes.iter().map(|node| node.name.as_str());
            let help = did_you_mean(name, known);
            let problem = Problem::new(
                code::UNKNOWN_NODE,
                &name.at,
                format!("there is no node `{}`", name.value),
            )
            .label("one node is wanted here")
            .help(help);
            self.problems.push(problem);
        }
        found
    }

    /// Checks a name that becomes part of other names.
    fn name(&mut self, what: &str, name: &At<String>, longest: usize) -> bool {
        let good = name.len() <= longest
            && name.starts_with(|first: char| first.is_ascii_lowercase())
            && !name.ends_with('-')
            && name
                .chars()
                .all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-');
        if !good {
            let better = tidy_name(name, longest);
            let mut help =
                format!("lower-case letters, digits and dashes, at most {longest}, a letter first and no dash last");
            if !better.is_empty() {
                help = format!("{help}: for example `{better}`");
            }
            let shown: String = name.chars().take(60).collect();
            let problem = Problem::new(code::BAD_NAME, &name.at, format!("{what} cannot be \"{shown}\""))
                .label("not a name")
                .help(help);
            self.problems.push(problem);
        }
        good
    }

    /// A duration within its range, both ends included.
    fn time(&mut self, time: Option<&At<Time>>, least: Ms, most: Ms) -> Option<Ms> {
        let time = time?;
        let value = time.value.0;
        if value < least || value > most {
            let name = self.source.get(time.key.clone()).unwrap_or("this").to_owned();
            let problem = Problem::new(
                code::OUT_OF_RANGE,
                &time.at,
                format!("`{name}` is from {least} to {most}, not {value}"),
            )
            .label("out of range");
            self.problems.push(problem);
            return None;
        }
        Some(value)
    }

    /// A duration that lasts at all.
    fn lasting(&mut self, time: Option<&At<Time>>) -> Option<Ms> {
        self.time(time, Ms(1), A_DAY)
    }

    /// A number within its range, both ends included.
    fn number(&mut self, number: Option<&At<u64>>, name: &str, least: u64, most: u64) -> Option<u64> {
        let number = number?;
        if number.value < least || number.value > most {
            let problem = Problem::new(
                code::OUT_OF_RANGE,
                &number.at,
                format!("`{name}` is from {least} to {most}, not {}", number.value),
            )
            .label("out of range");
            self.problems.push(problem);
            return None;
        }
        Some(number.value)
    }

    fn line(&self, at: &Range<usize>) -> usize {
        place(self.source, at.start).0
    }
}

/// The nearest name that would do; empty if there is none.
fn tidy_name(name: &str, longest: usize) -> String {
    let mut tidy = String::new();
    for letter in name.chars() {
        let letter = letter.to_ascii_lowercase();
        if letter.is_ascii_lowercase() || (letter.is_ascii_digit() && !tidy.is_empty()) {
            tidy.push(letter);
        } else if !tidy.is_empty() && !tidy.ends_with('-') {
            tidy.push('-');
        }
    }
    tidy.truncate(longest);
    tidy.trim_end_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_tidied() {
        assert_eq!(tidy_name("Kill One!", 40), "kill-one");
        assert_eq!(tidy_name("--", 40), "");
        assert_eq!(tidy_name("a_b", 2), "a");
        assert_eq!(tidy_name("3 ä 2", 40), "");
    }
}
