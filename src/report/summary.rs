//! The end of a run on one screen: at most [`LINES`] lines of [`WIDTH`] columns, except that paths and commands are never broken.
//!
//! On *passed*: what was shown. On everything else: the worst finding with its evidence, where to look, and how to run it again.
//! A fault that could not be put back is the first line of all.

use std::collections::BTreeMap;
use std::path::Path;

use crate::model::verdict::{FaultReport, Finding, MoveReport, Report, StepEnd, StepReport, UpgradeReport, Verdict};
use crate::model::{FaultKind, Plan};
use crate::ui::paint;

use super::folder::{LogTail, RECORDS, log_tails};
use super::words::{between, clean, count, cut, from_ready, invariant, names, tenths, wrap};

/// No summary is longer.
pub const LINES: usize = 40;
/// No line is wider, but those with a path or a command.
pub const WIDTH: usize = 100;
/// The finding's code of a fault that could not be taken back.
pub const REVERT_FAILED: &str = "infra/revert-failed";

/// Labels are padded to this width, after two spaces.
const LABEL: usize = 10;
/// What remains for the text after a label.
const TEXT: usize = WIDTH - LABEL - 4;
/// So many steps are listed; longer scenarios are shown around the first step that is not ok.
const STEPS: usize = 8;
/// So many faults are listed.
const FAULTS: usize = 9;
/// So many lines of a log are shown.
const TAIL: usize = 5;
/// So many logs of a node are named.
const LOG_FILES: usize = 2;

/// What a summary has to know besides the report.
#[derive(Clone, Debug, Default)]
pub struct Context<'a> {
    /// The plan.
    pub plan: Option<&'a Plan>,
    /// The run folder.
    pub folder: Option<&'a Path>,
    /// The command that runs it again.
    pub again: Option<String>,
    /// The logs of the node that the first finding is about.
    pub logs: &'a [LogTail],
}

/// The summary, with colours; ends without a line end.
#[must_use]
pub fn summary(report: &Report, context: &Context<'_>) -> String {
    let mut lines = not_put_back(report);
    if report.verdict == Verdict::Passed {
        passed(&mut lines, report, context);
    } else {
        failed(&mut lines, report, context);
    }
    lines.join("\n")
}

/// What teardown could not remove, for stderr after the summary: it does not change the verdict.
#[must_use]
pub fn left_behind(leftovers: &[String]) -> Option<String> {
    if leftovers.is_empty() {
        return None;
    }
    let lines: Vec<String> = leftovers.iter().map(|what| format!("  {}", clean(what))).collect();
    let what = count(leftovers.len(), "thing");
    Some(format!(
        "{} {what} could not be removed; `trialnet gc` tries again:\n{}",
        paint::warn("LEFT BEHIND"),
        lines.join("\n")
    ))
}

/// The command that runs a scenario again with the same choices.
#[must_use]
pub fn again(file: &Path, report: &Report) -> String {
    format!(
        "trialnet run {} --seed {}",
        quote(&file.display().to_string()),
        report.seed
    )
}

/// The logs that belong under the summary of this report.
#[must_use]
pub fn logs(report: &Report, folder: &Path) -> Vec<LogTail> {
    let node = report.findings.first().and_then(|finding| finding.node.as_deref());
    node.map(|node| log_tails(folder, node, TAIL)).unwrap_or_default()
}

/// A verdict as a heading.
#[must_use]
pub fn headline(verdict: Verdict) -> String {
    verdict.to_string().to_uppercase()
}

/// `safety/fork on validator-2 at height 13`.
#[must_use]
pub fn place(finding: &Finding) -> String {
    let node = finding
        .node
        .as_ref()
        .map(|node| format!(" on {node}"))
        .unwrap_or_default();
    let height = finding
        .height
        .map(|height| format!(" at height {height}"))
        .unwrap_or_default();
    format!("{}{node}{height}", finding.code)
}

/// `split (partition on validator-0..3), victim (kill on validator-2)`; `none`.
#[must_use]
pub fn fault_names(report: &Report, ids: &[String]) -> String {
    if ids.is_empty() {
        return "none".to_owned();
    }
    let known = |id: &String| match report.faults.iter().find(|fault| fault.id == *id) {
        Some(fault) if !fault.targets.is_empty() => format!("{id} ({} on {})", fault.kind, names(&fault.targets)),
        Some(fault) => format!("{id} ({})", fault.kind),
        None => id.clone(),
    };
    ids.iter().map(known).collect::<Vec<_>>().join(", ")
}

fn not_put_back(report: &Report) -> Vec<String> {
    let mut broken = report.findings.iter().filter(|finding| finding.code == REVERT_FAILED);
    let Some(first) = broken.next() else { return Vec::new() };
    let others = broken.count();
    let more = if others > 0 {
        format!(" (and {others} more)")
    } else {
        String::new()
    };
    let on = first
        .node
        .as_ref()
        .map(|node| format!(" on {node}"))
        .unwrap_or_default();
    let text = format!(
        "repair with `trialnet gc`: fault {}{on}{more}: {}",
        cut(&fault_names(report, &first.faults), 40),
        first.seen
    );
    let mut lines: Vec<String> = wrap(&text, WIDTH - 14, 2);
    for (index, line) in lines.iter_mut().enumerate() {
        let label = if index == 0 {
            paint::bad("NOT PUT BACK")
        } else {
            " ".repeat(12)
        };
        *line = format!("{label}  {line}");
    }
    lines.push(String::new());
    lines
}

fn passed(lines: &mut Vec<String>, report: &Report, context: &Context<'_>) {
    let off: Vec<&str> = report.off.iter().copied().map(invariant).collect();
    let off = if off.is_empty() {
        String::new()
    } else {
        paint::warn(&format!("  (not judged, switched off: {})", off.join(", ")))
    };
    lines.push(format!(
        "{}  {}{off}",
        paint::good(&headline(report.verdict)),
        paint::bold(&report.scenario)
    ));
    if let Some(about) = context.plan.and_then(|plan| plan.about.as_deref()) {
        lines.extend(
            wrap(about, WIDTH - 2, 2)
                .into_iter()
                .map(|line| paint::dim(&format!("  {line}"))),
        );
    }
    lines.push(String::new());
    row(lines, "heights", &heights(report), 2);
    let held = report.steps.iter().filter(|step| step.state == StepEnd::Ok).count();
    row(lines, "steps", &format!("{held} of {} held", report.steps.len()), 1);
    upgrades(lines, report);
    faults(lines, report);
    if !report.timings.is_empty() {
        row(lines, "times", &timings(report), 2);
    }
    path(
        lines,
        "evidence",
        context.folder.map(|folder| folder.display().to_string()),
    );
    path(lines, "again", context.again.clone());
}

fn failed(lines: &mut Vec<String>, report: &Report, context: &Context<'_>) {
    let word = headline(report.verdict);
    let word = match report.verdict {
        Verdict::Infrastructure | Verdict::Interrupted | Verdict::Inconclusive => paint::warn(&word),
        _ => paint::bad(&word),
    };
    let first = report.findings.first();
    let what = first
        .map(|finding| cut(&format!(": {}", place(finding)), WIDTH - 40))
        .unwrap_or_default();
    lines.push(format!("{word}  {}{what}", paint::bold(&report.scenario)));
    lines.push(String::new());
    if let Some(first) = first {
        evidence(lines, report, first);
    }
    row(lines, "heights", &heights(report), 1);
    upgrades(lines, report);
    others(lines, report);
    lines.push(String::new());
    steps(lines, &report.steps);
    lines.push(String::new());
    for log in context.logs.iter().take(LOG_FILES) {
        path(lines, "log", Some(log.path.display().to_string()));
        let left = TAIL / context.logs.len().clamp(1, LOG_FILES);
        let skip = log.lines.len().saturating_sub(left);
        let tail = log.lines.iter().skip(skip).map(|line| cut(line, TEXT - 2));
        lines.extend(tail.map(|line| paint::dim(&format!("  {:LABEL$}  | {line}", ""))));
    }
    path(
        lines,
        "records",
        context.folder.map(|folder| folder.join(RECORDS).display().to_string()),
    );
    path(lines, "again", context.again.clone());
    path(
        lines,
        "more",
        first.map(|finding| format!("trialnet explain {}", finding.code)),
    );
}

fn evidence(lines: &mut Vec<String>, report: &Report, finding: &Finding) {
    row(lines, "expected", &finding.expected, 3);
    row(lines, "seen", &finding.seen, 4);
    row(lines, "since", &from_ready(finding.since_ms), 1);
    row(lines, "faults on", &fault_names(report, &finding.faults), 2);
    if let Some(step) = finding
        .step
        .and_then(|index| report.steps.iter().find(|step| step.index == index))
    {
        row(lines, "step", &format!("{}: {}", step.index + 1, step.title), 1);
    }
}

/// All findings but the first, counted by code, worst first.
fn others(lines: &mut Vec<String>, report: &Report) {
    let mut by_code: BTreeMap<(Verdict, &str), usize> = BTreeMap::new();
    for finding in report.findings.iter().skip(1) {
        *by_code.entry((finding.class, &finding.code)).or_default() += 1;
    }
    if !by_code.is_empty() {
        let parts: Vec<String> = by_code
            .iter()
            .map(|((_, code), number)| format!("{number} × {code}"))
            .collect();
        row(lines, "also found", &parts.join(", "), 2);
    }
}

fn heights(report: &Report) -> String {
    let coverage = report.coverage;
    if coverage.of == 0 {
        return "no block was seen".to_owned();
    }
    let percent = coverage.compared.saturating_mul(100) / coverage.of;
    format!(
        "{} of {} heights ({percent} %) compared on two nodes or more",
        coverage.compared, coverage.of
    )
}

fn timings(report: &Report) -> String {
    let known = ["start", "run", "settle", "teardown"];
    let parts: Vec<String> = known
        .iter()
        .filter_map(|name| report.timings.get(*name).map(|ms| format!("{name} {}", tenths(*ms))))
        .collect();
    parts.join(", ")
}

fn faults(lines: &mut Vec<String>, report: &Report) {
    // Of upgrades more is said by themselves.
    let batch = FaultKind::Upgrade.word();
    let shown: Vec<&FaultReport> = report.faults.iter().filter(|fault| fault.kind != batch).collect();
    for (index, fault) in shown.iter().take(FAULTS).enumerate() {
        let label = if index == 0 { "faults" } else { "" };
        row(lines, label, &fault_life(fault), 2);
    }
    if shown.len() > FAULTS {
        row(
            lines,
            "",
            &format!("and {}", count(shown.len() - FAULTS, "more fault")),
            1,
        );
    }
}

/// How each upgrade went, and how long versions ran side by side.
fn upgrades(lines: &mut Vec<String>, report: &Report) {
    let begun = report.upgrades.iter().filter(|upgrade| !upgrade.nodes.is_empty());
    for (index, upgrade) in begun.take(FAULTS).enumerate() {
        let label = if index == 0 { "upgrades" } else { "" };
        row(lines, label, &upgrade_life(upgrade), 2);
    }
    let mixed = report.mixed.iter().map(|mixed| {
        let versions = mixed.versions.join(" and ");
        match mixed.to_ms {
            Some(to) => format!("{versions} for {}", tenths(to.abs_diff(mixed.from_ms))),
            None => format!("{versions} to the end"),
        }
    });
    let mixed: Vec<String> = mixed.collect();
    if !mixed.is_empty() {
        row(lines, "", &format!("side by side: {}", mixed.join(", ")), 2);
    }
}

/// `roll: validator-0..2 to 0.38.26 in 9.8s; failed on validator-3; back to 0.38.17: validator-2,3`.
fn upgrade_life(UpgradeReport { id, to, nodes, .. }: &UpgradeReport) -> String {
    let of = |wanted: &dyn Fn(&&MoveReport) -> bool| -> Vec<&str> {
        let wanted = nodes.iter().filter(wanted);
        wanted.map(|one| one.node.as_str()).collect()
    };
    let mut parts = Vec::new();
    let done = of(&|one| !one.back && one.gated_ms.is_some());
    if !done.is_empty() {
        let first = nodes.iter().map(|one| one.begun_ms).min();
        let last = nodes
            .iter()
            .filter(|one| !one.back)
            .filter_map(|one| one.gated_ms)
            .max();
        let time = between(first, last)
            .map(|time| format!(" in {time}"))
            .unwrap_or_default();
        parts.push(format!("{} to {to}{time}", names(&done)));
    }
    let failed = of(&|one| !one.back && one.failed_ms.is_some());
    if !failed.is_empty() {
        parts.push(format!("failed on {}", names(&failed)));
    }
    let back = of(&|one| one.back && one.gated_ms.is_some());
    if !back.is_empty() {
        parts.push(format!("back again: {}", names(&back)));
    }
    let stuck = of(&|one| one.back && one.failed_ms.is_some());
    if !stuck.is_empty() {
        parts.push(format!("not back: {}", names(&stuck)));
    }
    format!("{id}: {}", parts.join("; "))
}

/// `victim (kill on validator-2): verified after 0.2s, on for 5.1s, over after 0.1s, recovered in 1.9s`. Every moment is the one at
/// which a probe saw it, but the end of *on*, which is when the injector said undone.
fn fault_life(fault: &FaultReport) -> String {
    let FaultReport {
        id,
        kind,
        targets,
        planned_ms,
        injected_ms: _,
        verified_ms,
        reverted_ms,
        revert_verified_ms,
        recovery_ms,
        dropped,
        skipped,
    } = fault;
    if let Some(why) = skipped {
        return format!("{id} ({kind} on {}): left out: {why}", names(targets));
    }
    let parts = [
        between(*planned_ms, *verified_ms).map(|time| format!("verified after {time}")),
        between(*verified_ms, *reverted_ms).map(|time| format!("on for {time}")),
        between(*reverted_ms, *revert_verified_ms).map(|time| format!("over after {time}")),
        recovery_ms.map(|time| format!("recovered in {}", tenths(time))),
        (!dropped.is_empty()).then(|| format!("dropped on {}", names(&dropped.keys().collect::<Vec<_>>()))),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    let life = if planned_ms.is_none() {
        "its time never came".to_owned()
    } else if parts.is_empty() {
        "no effect was seen".to_owned()
    } else {
        parts.join(", ")
    };
    format!("{id} ({kind} on {}): {life}", names(targets))
}

fn steps(lines: &mut Vec<String>, steps: &[StepReport]) {
    let first_bad = steps.iter().position(|step| step.state != StepEnd::Ok).unwrap_or(0);
    let from = if steps.len() <= STEPS {
        0
    } else {
        first_bad.saturating_sub(3).min(steps.len() - STEPS)
    };
    let to = (from + STEPS).min(steps.len());
    if from > 0 {
        row(lines, "ok", &format!("the first {}", count(from, "step")), 1);
    }
    for step in &steps[from..to] {
        let (word, painted): (_, fn(&str) -> String) = match step.state {
            StepEnd::Ok => ("ok", paint::good),
            StepEnd::Failed => ("FAILED", paint::bad),
            StepEnd::Inconclusive => ("unclear", paint::warn),
            StepEnd::NotReached if step.began_ms.is_some() => ("cut off", paint::warn),
            StepEnd::NotReached => ("not run", paint::dim),
        };
        let time = between(step.began_ms, step.ended_ms)
            .map(|time| format!("  ({time})"))
            .unwrap_or_default();
        let title = cut(&format!("{:>2}. {}", step.index + 1, step.title), TEXT - 12);
        // Padded before painting: escape sequences have no width.
        lines.push(format!("  {}  {title}{time}", painted(&format!("{word:<LABEL$}"))));
    }
    if to < steps.len() {
        let rest = &steps[to..];
        let reached = rest.iter().filter(|step| step.state != StepEnd::NotReached).count();
        let rest = count(rest.len(), "more step");
        let rest = if reached == 0 { format!("{rest}, not run") } else { rest };
        row(lines, "…", &rest, 1);
    }
}

/// A label and its text in at most so many lines.
fn row(lines: &mut Vec<String>, label: &str, text: &str, most: usize) {
    for (index, line) in wrap(text, TEXT, most).into_iter().enumerate() {
        let label = if index == 0 { label } else { "" };
        lines.push(format!("  {label:<LABEL$}  {line}"));
    }
}

/// A label with a path or a command, which are never broken, so that they can be copied.
fn path(lines: &mut Vec<String>, label: &str, path: Option<String>) {
    if let Some(path) = path {
        lines.push(format!("  {label:<LABEL$}  {path}"));
    }
}

/// An argument as a POSIX shell takes it.
fn quote(argument: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "/._-+=:,@%".contains(c);
    if !argument.is_empty() && argument.chars().all(plain) {
        return argument.to_owned();
    }
    format!("'{}'", argument.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    fn shown(report: &Report, logs: &[LogTail]) -> String {
        let plan = sample::plan();
        let text = summary(
            report,
            &Context {
                plan: Some(&plan),
                folder: Some(Path::new(".trialnet/runs/kill-one-20261121T060000Z-a1b2c3")),
                again: Some(again(Path::new("scenarios/kill-one.toml"), report)),
                logs,
            },
        );
        anstream::adapter::strip_str(&text).to_string()
    }

    fn one_screen(text: &str) {
        let number = text.lines().count();
        assert!(number <= LINES, "{number} lines:\n{text}");
        for line in text.lines() {
            let width = line.chars().count();
            assert!(width <= WIDTH, "{width} columns: {line}");
            assert!(!line.ends_with(' '), "trailing space: {line:?}");
        }
    }

    #[test]
    fn every_verdict_on_one_screen() {
        for report in sample::every_verdict() {
            let text = shown(&report, &sample::logs());
            one_screen(&text);
            insta::assert_snapshot!(report.verdict.to_string().replace(' ', "-"), text);
        }
    }

    #[test]
    fn what_was_switched_off_stands_beside_passed() {
        let mut report = sample::passed();
        report.off = vec![crate::model::Invariant::Fork, crate::model::Invariant::MaxLag];
        let text = shown(&report, &[]);
        assert_eq!(
            text.lines().next(),
            Some("PASSED  kill-one  (not judged, switched off: fork, max-lag)")
        );
    }

    #[test]
    fn a_failed_revert_is_the_first_line() {
        let text = shown(&sample::not_put_back(), &[]);
        one_screen(&text);
        insta::assert_snapshot!(text);
    }

    #[test]
    fn the_worst_run_fits_on_one_screen() {
        let text = shown(&sample::monstrous(), &sample::logs());
        one_screen(&text);
        insta::assert_snapshot!(text);
    }

    #[test]
    fn what_is_left_behind_is_said() {
        assert_eq!(left_behind(&[]), None);
        let text = left_behind(&["process 12 (validator-0)".to_owned()]).unwrap();
        assert_eq!(
            anstream::adapter::strip_str(&text).to_string(),
            "LEFT BEHIND 1 thing could not be removed; `trialnet gc` tries again:\n  process 12 (validator-0)"
        );
    }

    #[test]
    fn arguments_are_quoted_for_the_shell() {
        assert_eq!(quote("scenarios/a-b_1.toml"), "scenarios/a-b_1.toml");
        assert_eq!(quote("my file's.toml"), r"'my file'\''s.toml'");
    }
}
