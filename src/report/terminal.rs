//! The terminal: a line for each thing that happens, the moving state below, the summary at the end.
//!
//! In CI and without a terminal nothing moves; there the heights are a line every ten seconds.

use std::path::PathBuf;

use crate::model::verdict::{Class, Finding, Verdict};
use crate::model::{Ms, Plan};
use crate::record::{Event, FaultState, NodeEvent, Phase, Record, Stamped, StepState, TxEvent, UpgradeState};
use crate::ui::{Live, Ui, paint};

use super::summary::{self, Context};
use super::view::{View, phase_word};
use super::words::{clean, count, cut, names, tenths, when};

/// How often the heights are printed where nothing moves.
const BEAT: Ms = Ms::secs(10);
/// How often the moving lines are made anew.
const REDRAW: Ms = Ms(100);
/// Evidence in a line is cut here.
const DETAIL: usize = 160;

/// Shows one run.
#[derive(Debug)]
pub struct Terminal {
    ui: Ui,
    plan: Plan,
    options: Options,
    view: View,
    live: Option<Live>,
    drawn: Option<Ms>,
    beat: Ms,
}

/// What the terminal has to know besides the plan.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Put the scenario's name before each line, because several runs go side by side.
    pub several: bool,
    /// The scenario file, for the command that runs it again.
    pub file: PathBuf,
    /// The run folder.
    pub folder: Option<PathBuf>,
}

impl Terminal {
    /// Before the first event of a run.
    #[must_use]
    pub fn new(ui: &Ui, plan: &Plan, options: Options) -> Self {
        Self {
            ui: ui.clone(),
            plan: plan.clone(),
            options,
            view: View::new(plan),
            live: ui.live(3),
            drawn: None,
            beat: Ms(0),
        }
    }

    /// Shows an event.
    pub fn event(&mut self, event: &Event) {
        let lines = lines(&self.plan, &self.view, event);
        self.view.event(event);
        for line in lines {
            self.line(&line);
        }
        match event {
            Event::Done(report) => {
                // The moving lines go before the summary takes their place.
                self.live = None;
                let folder = self.options.folder.as_deref();
                let logs = folder.map(|folder| summary::logs(report, folder)).unwrap_or_default();
                let text = summary::summary(
                    report,
                    &Context {
                        plan: Some(&self.plan),
                        folder,
                        again: Some(summary::again(&self.options.file, report)),
                        logs: &logs,
                    },
                );
                self.ui.err("");
                self.ui.out(&text);
            }
            Event::Record(_) => {
                self.draw();
                self.heartbeat();
            }
            Event::Finding(_) => {}
        }
    }

    fn line(&self, text: &str) {
        let time = if self.view.phase.is_none() {
            String::new()
        } else {
            self.view.clock(self.view.now)
        };
        let time = paint::dim(&format!("{time:>8}"));
        if self.options.several {
            self.ui.err(&format!(
                "{} {time}  {text}",
                paint::dim(&format!("[{}]", self.plan.scenario))
            ));
        } else {
            self.ui.err(&format!("{time}  {text}"));
        }
    }

    fn draw(&mut self) {
        let Some(live) = &self.live else { return };
        if self.drawn.is_none_or(|drawn| self.view.now.since(drawn) >= REDRAW) {
            self.drawn = Some(self.view.now);
            live.show(&self.view.frame());
        }
    }

    fn heartbeat(&mut self) {
        let goes = matches!(self.view.phase, Some(Phase::Running | Phase::Settling));
        if self.live.is_none() && goes && self.view.now.since(self.beat) >= BEAT {
            self.beat = self.view.now;
            self.line(&self.view.heights());
        }
    }
}

/// The lines for an event, given the view before it. With colours.
#[must_use]
pub fn lines(plan: &Plan, view: &View, event: &Event) -> Vec<String> {
    match event {
        Event::Record(Stamped { at, record }) => of_record(plan, view, *at, record),
        Event::Finding(finding) => vec![of_finding(finding)],
        Event::Done(_) => Vec::new(),
    }
}

fn of_record(plan: &Plan, view: &View, at: Ms, record: &Record) -> Vec<String> {
    let line = match record {
        Record::Begin { seed, .. } => format!("{}, seed {seed}", paint::bold(&plan.scenario)),
        Record::Phase(Phase::Starting) => format!("starting {}", count(plan.network.nodes.len(), "node")),
        Record::Phase(phase) => phase_word(*phase).to_owned(),
        Record::Ready => format!("{}: {} up after {}", paint::good("ready"), count(view.answering(), "node"), tenths(at.0)),
        Record::Node { node, event } => return of_node(node, event),
        Record::Step { step, state } => return of_step(plan, view, *step, state, at),
        Record::Fault { id, state, targets, detail } => return vec![of_fault(plan, id, *state, targets, detail)],
        Record::Upgrade { node, from, to, back, state, .. } => return of_upgrade(node, (from, to), *back, state),
        Record::Tx { id, event } => return of_tx(view, id, event),
        Record::Interrupted { signal } => {
            format!("{} by {signal}: putting everything back; a second one kills", paint::warn("interrupted"))
        }
        Record::Observer { connected: false, detail } => {
            format!("{} the line to the observer: {}; nothing is judged until it is back", paint::warn("lost"), cut(detail, DETAIL))
        }
        Record::Observer { connected: true, detail } => format!("observed from within the cluster; {detail}"),
        Record::Sample(_)
        | Record::Silent { .. }
        | Record::Headers { .. }
        | Record::AppState { .. }
        | Record::Peers { .. }
        | Record::Validators { .. }
        | Record::Late { .. }
        | Record::Log { .. }
        | Record::Load { .. }
        | Record::Tick
        // The judge makes a finding of it, which is shown.
        | Record::Trouble { .. }
        | Record::End => return Vec::new(),
    };
    vec![line]
}

fn of_node(node: &str, event: &NodeEvent) -> Vec<String> {
    match event {
        NodeEvent::Started { pid, generation, .. } if *generation > 1 => {
            vec![format!("{node} started again (process {pid}, start {generation})")]
        }
        NodeEvent::Exited {
            code,
            signal,
            asked: false,
            tail,
            ..
        } => {
            let how = match (code, signal) {
                (_, Some(signal)) => format!("by signal {signal}"),
                (Some(code), None) => format!("with code {code}"),
                (None, None) => "for an unknown reason".to_owned(),
            };
            let ended = format!("{} {node} ended by itself {how}", paint::bad("exit:"));
            let skip = tail.len().saturating_sub(3);
            let tail = tail.iter().skip(skip).map(|line| format!("  | {}", cut(line, DETAIL)));
            std::iter::once(ended).chain(tail).collect()
        }
        NodeEvent::Wiped => vec![format!("{node} lost its data, as planned")],
        NodeEvent::Damaged { file, offsets, .. } => {
            let bytes = count(offsets.len(), "byte");
            vec![format!("{node}: {bytes} of {file} damaged, as planned")]
        }
        NodeEvent::Started { .. } | NodeEvent::Exited { .. } => Vec::new(),
    }
}

fn of_step(plan: &Plan, view: &View, step: usize, state: &StepState, at: Ms) -> Vec<String> {
    let took = || {
        let took = view.step_time(step).map(|until_last| until_last + at.since(view.now));
        took.map(|took| format!(" ({})", tenths(took.0))).unwrap_or_default()
    };
    let line = match state {
        StepState::Waiting => {
            let delay = plan.steps.get(step).and_then(|step| step.when.as_ref()).map(when);
            format!(
                "{} waits to begin{}",
                view.step_number(step),
                delay.map(|delay| format!(" {delay}")).unwrap_or_default()
            )
        }
        StepState::Began => view.step_name(step),
        StepState::Ended => {
            let word = match view.failed.get(&step) {
                None => paint::good("done"),
                Some(Class::Inconclusive) => paint::warn("INCONCLUSIVE"),
                Some(_) => paint::bad("FAILED"),
            };
            format!("{} {word}{}", view.step_number(step), took())
        }
        // What was expected and seen follows as a finding.
        StepState::Failed { .. } => format!("{} {}{}", view.step_number(step), paint::bad("FAILED"), took()),
    };
    vec![line]
}

fn of_fault(plan: &Plan, id: &str, state: FaultState, targets: &[String], detail: &str) -> String {
    let kind = plan.fault(id).map_or("fault", |fault| fault.kind.word());
    let word = match state {
        FaultState::Planned => format!("planned on {}", names(targets)),
        FaultState::Injected => "injected".to_owned(),
        FaultState::Verified => paint::warn("on, verified"),
        FaultState::Reverted => "taken back".to_owned(),
        FaultState::RevertVerified => paint::good("over, verified"),
        FaultState::NoEffect => paint::bad("WITHOUT EFFECT"),
        FaultState::Stronger => paint::bad("STRONGER THAN ASKED"),
        FaultState::RevertFailed => paint::bad("NOT PUT BACK"),
        FaultState::AlreadyEnded => "had ended already".to_owned(),
        FaultState::Dropped => format!("{} on {}", paint::warn("dropped"), names(targets)),
        FaultState::Skipped => format!("{} on {}", paint::warn("left out"), names(targets)),
    };
    let detail = if detail.is_empty() {
        String::new()
    } else {
        format!(": {}", cut(detail, DETAIL))
    };
    format!("{kind} {id} {word}{detail}")
}

fn of_upgrade(node: &str, (from, to): (&str, &str), back: bool, state: &UpgradeState) -> Vec<String> {
    let word = if back { "rollback" } else { "upgrade" };
    let line = match state {
        UpgradeState::Begun => format!("{word}: {node} from {from} to {to}"),
        // The life of the fault says so.
        UpgradeState::Replaced => return Vec::new(),
        UpgradeState::Verified { reports } => format!("{word}: {node} is up again and says that it is {reports}"),
        UpgradeState::Gated { height } => {
            let word = paint::good(if back { "rolled back" } else { "upgraded" });
            format!("{node} {word} to {to}, the network is at height {height}")
        }
        // What was seen follows as a finding.
        UpgradeState::Failed { .. } => format!("{word}: {node} {}", paint::bad("FAILED")),
    };
    vec![line]
}

fn of_tx(view: &View, id: &str, event: &TxEvent) -> Vec<String> {
    let line = match event {
        TxEvent::Accepted { node, hash } => format!("transaction {id} accepted by {node} as {}", cut(hash, 16)),
        TxEvent::Refused { node, why } => {
            format!(
                "transaction {id} {} by {node}: {}",
                paint::warn("REFUSED"),
                cut(why, DETAIL)
            )
        }
        // The first node that has it is enough to see; the judge waits for all.
        TxEvent::Committed { .. } if view.committed.contains(id) => return Vec::new(),
        TxEvent::Committed { node, height, code } => {
            format!("transaction {id} committed at height {height} on {node}, result code {code}")
        }
        TxEvent::Lost { node } => format!("transaction {id} {} on {node}", paint::bad("LOST")),
    };
    vec![line]
}

fn of_finding(finding: &Finding) -> String {
    let class = match finding.class {
        Verdict::SafetyViolated | Verdict::LivenessFailed | Verdict::ExpectationFailed => {
            paint::bad(&summary::headline(finding.class))
        }
        Verdict::Infrastructure | Verdict::Interrupted | Verdict::Inconclusive => {
            paint::warn(&summary::headline(finding.class))
        }
        Verdict::Passed => paint::good(&summary::headline(finding.class)),
    };
    let expected = clean(&finding.expected);
    let seen = cut(&finding.seen, 2 * DETAIL);
    format!("{class}: {}: expected {expected}; seen {seen}", summary::place(finding))
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    fn shown(several: bool) -> (String, String) {
        let (ui, captured) = Ui::memory();
        let plan = sample::plan();
        let options = Options {
            several,
            file: "scenarios/kill-one.toml".into(),
            folder: None,
        };
        let mut terminal = Terminal::new(&ui, &plan, options);
        for event in sample::events() {
            terminal.event(&event);
        }
        (captured.out(), captured.err())
    }

    #[test]
    fn plain_lines_of_a_run() {
        let (out, err) = shown(false);
        assert!(out.starts_with("SAFETY VIOLATED  kill-one"), "{out}");
        insta::assert_snapshot!(err);
    }

    #[test]
    fn runs_side_by_side_name_their_scenario_on_each_line() {
        let (_, err) = shown(true);
        assert!(err.lines().count() > 20);
        for line in err.lines().filter(|line| !line.is_empty()) {
            assert!(line.starts_with("[kill-one] "), "{line}");
        }
    }
}
