//! Shrinking a rehearsal that failed: the same failure with fewer and shorter faults, as an ordinary scenario.
//!
//! `smaller` makes the candidates; here each is run, up to a few times since a failure may be flaky, and is kept only if it ends in a
//! finding with the same code. A run ends as soon as it has that. What is left at last is written as steps, and the file itself is run:
//! only a file that was seen to fail is given out as one that does.

mod smaller;
mod text;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};

use tokio::task::JoinSet;

use self::smaller::Case;
use self::text::Head;
use crate::backend::kubernetes::provider::Flags;
use crate::engine::{Cancel, Keep};
use crate::model::verdict::{Class, Finding, Report, Verdict};
use crate::model::{Action, Lasts, Ms, Plan, Step, Timed};
use crate::record::Event;
use crate::report::folder::{self, FolderError};
use crate::run::{self, RunOptions};
use crate::scenario::{self, Loaded};

/// The longest name of a scenario.
const NAME: usize = 40;
/// What the smallest scenario is called after its origin.
const SUFFIX: &str = "-smallest";

/// A rehearsal that failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Its plan.
    pub plan: Plan,
    /// The text of its scenario.
    pub text: String,
    /// The finding that has to come again.
    pub code: String,
    class: Class,
    /// The faults that struck, at the times at which they did.
    pub schedule: Vec<Timed>,
}

/// Why a run cannot be shrunk.
#[derive(Debug, thiserror::Error)]
pub enum ShrinkError {
    /// It is not there, or is no run.
    #[error("the run cannot be read")]
    Folder(#[from] FolderError),
    /// No `[chaos]`.
    #[error("the scenario of this run has no [chaos]")]
    NoRehearsal,
    /// Nothing of the chain's was found.
    #[error("this run ended as {0}, with no such finding of the chain")]
    NotFailed(Verdict),
    /// No fault struck.
    #[error("no fault of the rehearsal struck in this run")]
    NoFaults,
    /// The whole schedule does not fail any more.
    #[error("{runs} runs of the whole schedule did not end in {code} again")]
    NotAgain {
        /// How often it was tried.
        runs: usize,
        /// What should have come.
        code: String,
    },
    /// The result cannot be written as a scenario.
    #[error("the smallest schedule cannot be written as a scenario: {0}")]
    Unwritable(String),
    /// A signal.
    #[error("interrupted")]
    Interrupted,
}

impl ShrinkError {
    /// The way out.
    #[must_use]
    pub fn help(&self) -> &'static str {
        match self {
            Self::Folder(error) => error.help(),
            Self::NoRehearsal => "only rehearsals are shrunk; add [chaos] and run it until it fails",
            Self::NotFailed(_) => {
                "shrink a run with a finding of safety, liveness or an expectation; --code names another one"
            }
            Self::NoFaults => "the failure is not the faults' doing: look at the run itself with `trialnet judge`",
            Self::NotAgain { .. } => "the failure is flaky: raise --repeat, or lower --jobs on a busy machine",
            Self::Unwritable(_) => "the run folder holds the whole schedule in plan.json",
            Self::Interrupted => "start again; nothing was written",
        }
    }
}

/// How to shrink.
#[derive(Clone, Debug)]
pub struct ShrinkOptions {
    /// At most so many runs.
    pub tries: usize,
    /// A candidate that does not fail is run so often.
    pub repeat: usize,
    /// So many runs at the same time.
    pub jobs: usize,
    /// Answers the hidden subcommands.
    pub exe: PathBuf,
    /// What the command line says of the cluster.
    pub cluster: Flags,
    /// Where the run folders go while they are needed.
    pub folder: PathBuf,
    /// Ends it early.
    pub cancel: Cancel,
}

/// What came out.
#[derive(Clone, Debug)]
pub struct Smallest {
    /// The faults that are left.
    pub schedule: Vec<Timed>,
    /// The scenario.
    pub text: String,
    /// It consists of steps alone; otherwise it needs `[[chaos.schedule]]`.
    pub ordinary: bool,
    /// The scenario was run and ended in the same finding.
    pub confirmed: bool,
    /// So many runs it took.
    pub runs: usize,
}

/// Reads what failed from a run folder. `code` chooses among several findings; the worst one if left out.
///
/// # Errors
/// Why this run cannot be shrunk.
pub fn failure(path: &Path, code: Option<&str>) -> Result<Failure, ShrinkError> {
    let (plan, _) = folder::read(path)?;
    let report = folder::judge_again(path)?;
    let text = fs_err::read_to_string(path.join(folder::SCENARIO)).map_err(FolderError::from)?;
    let Some(chaos) = &plan.chaos else {
        return Err(ShrinkError::NoRehearsal);
    };
    let of_chain = |finding: &&Finding| {
        let class = matches!(
            finding.class,
            Class::SafetyViolated | Class::LivenessFailed | Class::ExpectationFailed
        );
        class && code.is_none_or(|code| finding.code == code)
    };
    let Some(finding) = report.findings.iter().find(of_chain) else {
        return Err(ShrinkError::NotFailed(report.verdict));
    };
    // What was left out, or never had its time, has not made it fail.
    let struck = chaos.schedule.iter().filter_map(|timed| {
        let life = report.faults.iter().find(|life| life.id == timed.fault.id)?;
        let at = life.planned_ms.filter(|_| life.skipped.is_none())?;
        Some(Timed {
            at: Ms(u64::try_from(at).unwrap_or(0)),
            fault: timed.fault.clone(),
        })
    });
    let schedule: Vec<Timed> = struck.collect();
    if schedule.is_empty() {
        return Err(ShrinkError::NoFaults);
    }
    Ok(Failure {
        code: finding.code.clone(),
        class: finding.class,
        text,
        schedule,
        plan,
    })
}

/// Runs ever smaller schedules until none fails any more, and writes the last one as a scenario. `say` is told of each step.
///
/// # Errors
/// When the failure does not come again, or cannot be written.
pub async fn shrink(
    failure: &Failure,
    options: &ShrinkOptions,
    say: &mut (dyn FnMut(String) + Send),
) -> Result<Smallest, ShrinkError> {
    let mut trials = Trials {
        failure,
        options,
        say,
        runs: 0,
        failed: None,
        known: BTreeSet::new(),
    };
    let whole = Case {
        schedule: failure.schedule.clone(),
        steps: true,
    };
    if trials.first(vec![whole.clone()]).await.is_none() {
        trials.interrupted()?;
        return Err(ShrinkError::NotAgain {
            runs: trials.runs,
            code: failure.code.clone(),
        });
    }
    let mut ask = async |cases: Vec<Case>| trials.first(cases).await;
    let case = smaller::smallest(&failure.plan, whole, &mut ask).await;
    trials.interrupted()?;
    let smallest = trials.written(&case).await?;
    trials.interrupted()?;
    Ok(smallest)
}

/// Runs candidates.
struct Trials<'a> {
    failure: &'a Failure,
    options: &'a ShrinkOptions,
    say: &'a mut (dyn FnMut(String) + Send),
    runs: usize,
    /// The report of the last run that failed as wanted.
    failed: Option<Report>,
    /// Candidates that did not fail.
    known: BTreeSet<String>,
}

impl Trials<'_> {
    fn interrupted(&self) -> Result<(), ShrinkError> {
        if self.options.cancel.stop.is_cancelled() {
            return Err(ShrinkError::Interrupted);
        }
        Ok(())
    }

    /// Which of some candidates fails, if one does: each is run once, then each again, until one fails.
    async fn first(&mut self, cases: Vec<Case>) -> Option<usize> {
        let plans: Vec<(usize, Plan)> = (cases.iter().enumerate())
            .filter(|(_, case)| !self.known.contains(&key(case)))
            .map(|(at, case)| (at, self.failure.plan_of(case)))
            .collect();
        let found = self.any(plans, &self.failure.text.clone()).await;
        let shown = |case: &Case| {
            let steps = if case.steps { ", with the steps" } else { "" };
            format!("{}{steps}", crate::report::words::count(case.schedule.len(), "fault"))
        };
        match found {
            Some(at) => (self.say)(format!("run {}: {} still fail", self.runs, shown(&cases[at]))),
            None => {
                self.known.extend(cases.iter().map(key));
                let least = cases.iter().min_by_key(|case| case.schedule.len());
                let what = least.map(shown).unwrap_or_default();
                let many = crate::report::words::count(cases.len(), "candidate");
                (self.say)(format!("run {}: {many} from {what} on: no failure", self.runs));
            }
        }
        found
    }

    /// Which of some plans fails, if one does.
    async fn any(&mut self, plans: Vec<(usize, Plan)>, text: &str) -> Option<usize> {
        let cancel = self.options.cancel.child();
        let mut waiting: VecDeque<&(usize, Plan)> = (0..self.options.repeat).flat_map(|_| &plans).collect();
        let mut running = JoinSet::new();
        let mut found = None;
        loop {
            while running.len() < self.options.jobs
                && self.runs < self.options.tries
                && found.is_none()
                && !cancel.stop.is_cancelled()
            {
                let Some((at, plan)) = waiting.pop_front() else { break };
                self.runs += 1;
                let options = RunOptions {
                    folder: Some(self.options.folder.join(format!("run-{}", self.runs))),
                    keep: Keep::Never,
                    exe: self.options.exe.clone(),
                    cluster: self.options.cluster.clone(),
                    cancel: cancel.child(),
                };
                let loaded = Loaded {
                    plan: plan.clone(),
                    text: text.to_owned(),
                };
                let (at, code) = (*at, self.failure.code.clone());
                running.spawn(async move { (at, Box::pin(fails(loaded, options, code)).await) });
            }
            let Some(ended) = running.join_next().await else { break };
            if let Ok((at, Some(report))) = ended
                && found.is_none()
            {
                found = Some(at);
                self.failed = Some(report);
                cancel.stop("another candidate failed first");
            }
        }
        found
    }

    /// The case as a file, seen to fail: as steps alone if that fails, else as a schedule.
    async fn written(&mut self, case: &Case) -> Result<Smallest, ShrinkError> {
        let Failure { plan, text, .. } = self.failure;
        let head = self.failure.head(case);
        let verified = self.failed.as_ref().map(verified).unwrap_or_default();
        let steps = text::as_steps(&head, text, plan, &case.schedule, &verified).map_err(ShrinkError::Unwritable);
        let schedule = text::as_schedule(&head, text, plan, &case.schedule, case.steps);
        let made = |text: String, ordinary, confirmed, runs| Smallest {
            schedule: case.schedule.clone(),
            text,
            ordinary,
            confirmed,
            runs,
        };
        // With the steps of the original beside it, the order of everything in one line of steps is not known beforehand.
        if let (false, Ok(steps)) = (case.steps, &steps)
            && self.confirmed(steps, "as steps").await
        {
            return Ok(made(steps.clone(), true, true, self.runs));
        }
        let schedule = schedule.map_err(ShrinkError::Unwritable)?;
        let confirmed = self.confirmed(&schedule, "as a schedule").await;
        Ok(made(schedule, false, confirmed, self.runs))
    }

    /// Whether a scenario is sound and fails.
    async fn confirmed(&mut self, text: &str, how: &str) -> bool {
        let plan = &self.failure.plan;
        let options = scenario::Options {
            seed: None,
            backend: plan.backend,
            capabilities: run::capabilities(plan.backend),
            adapter: crate::chain::adapter,
        };
        let loaded = match scenario::load_text("the smallest scenario", text, &options) {
            Ok(loaded) => loaded,
            Err(problems) => {
                tracing::debug!("{problems}");
                (self.say)(format!("written {how}, it is no scenario that trialnet would run"));
                return false;
            }
        };
        let fails = self.any(vec![(0, loaded)], text).await.is_some();
        let fails_or_not = if fails { "it fails too" } else { "it does not fail" };
        (self.say)(format!("run {}: written {how}, {fails_or_not}", self.runs));
        fails
    }
}

impl Failure {
    /// The plan of a candidate.
    fn plan_of(&self, case: &Case) -> Plan {
        let mut plan = self.plan.clone();
        if let Some(chaos) = &mut plan.chaos {
            chaos.schedule.clone_from(&case.schedule);
        }
        if !case.steps {
            plan.sums = Vec::new();
            plan.repeats = Vec::new();
            plan.steps = vec![Step {
                index: 0,
                id: None,
                name: None,
                when: None,
                go_on: false,
                background: false,
                line: 1,
                action: Action::Wait(Ms::secs(1)),
            }];
        }
        plan
    }

    fn head(&self, case: &Case) -> Head<'_> {
        let Plan { scenario, seed, .. } = &self.plan;
        let stem: String = scenario.chars().take(NAME - SUFFIX.len()).collect();
        let all = self.schedule.len();
        let left = crate::report::words::count(case.schedule.len(), "fault");
        Head {
            name: format!("{}{SUFFIX}", stem.trim_end_matches('-')),
            about: format!(
                "The smallest rehearsal with which `{scenario}` ends in {}: {left} of the {all} that struck with seed {seed}, \
                 found by `trialnet shrink`.",
                self.code
            ),
            seed: *seed,
            class: self.class,
            code: &self.code,
        }
    }
}

/// Runs a plan; its report if it ended in a finding with this code. Its folder is removed.
async fn fails(loaded: Loaded, options: RunOptions, code: String) -> Option<Report> {
    let (cancel, folder) = (options.cancel.clone(), options.folder.clone());
    let watch = |_: &Path, event: &Event| {
        // There is nothing more to be learnt from this run.
        if let Event::Finding(finding) = event
            && finding.code == code
        {
            cancel.stop("it has failed as wanted");
        }
    };
    let done = match Box::pin(run::run(loaded, options, watch)).await {
        Ok(done) => done,
        Err(error) => {
            tracing::warn!("{error}");
            return None;
        }
    };
    if let Some(folder) = folder
        && let Err(error) = fs_err::remove_dir_all(&folder)
    {
        tracing::debug!("{error}");
    }
    let found = done.report.findings.iter().any(|finding| finding.code == code);
    found.then_some(done.report)
}

/// How long each fault took to be verified.
fn verified(report: &Report) -> BTreeMap<String, Ms> {
    let took = |life: &crate::model::verdict::FaultReport| {
        let time = life.verified_ms? - life.planned_ms?;
        Some((life.id.clone(), Ms(u64::try_from(time).ok()?)))
    };
    report.faults.iter().filter_map(took).collect()
}

/// What tells one candidate from another.
fn key(case: &Case) -> String {
    let fault = |timed: &Timed| {
        let lasts = match timed.fault.lasts {
            Lasts::For(lasts) => lasts.0,
            _ => 0,
        };
        let targets = timed.fault.targets.nodes().join("+");
        format!("{} {} {targets} {lasts}", timed.at.0, timed.fault.id)
    };
    let faults: Vec<String> = case.schedule.iter().map(fault).collect();
    format!("{} {}", case.steps, faults.join(","))
}
