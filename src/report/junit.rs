//! JUnit XML for CI services: a suite for each scenario, a case for each step and for each class of invariants.
//!
//! What the chain did wrong is a *failure*; what kept us from judging it (infrastructure, an interruption, missing evidence) is an
//! *error*. The type is the finding's code, the message carries the evidence. A run that did not pass never gives a green suite.

use std::collections::BTreeMap;
use std::time::Duration;

use quick_junit::{NonSuccessKind, Report as Document, SerializeError, TestCase, TestCaseStatus, TestSuite};

use crate::model::verdict::{Class, Finding, Report, StepEnd, StepReport, Verdict};

use super::summary::{fault_names, place};
use super::words::{clean, from_ready, invariant};

/// A case describes at most so many findings.
const FINDINGS: usize = 20;

/// The report of one or several runs as XML.
///
/// # Errors
/// When the XML writer fails.
pub fn xml(reports: &[&Report]) -> Result<String, SerializeError> {
    let mut document = Document::new("trialnet");
    for report in reports {
        document.add_test_suite(suite(report));
    }
    document.to_string()
}

/// What a case is about when it is not a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Topic {
    Safety,
    Liveness,
    /// Expectations that belong to no step of the report; only there when there are findings.
    Expectations,
    Evidence,
    Infrastructure,
}

impl Topic {
    const ALL: [Self; 5] = [
        Self::Safety,
        Self::Liveness,
        Self::Expectations,
        Self::Evidence,
        Self::Infrastructure,
    ];

    const fn of(class: Class) -> Self {
        match class {
            Verdict::SafetyViolated => Self::Safety,
            Verdict::LivenessFailed => Self::Liveness,
            Verdict::Inconclusive => Self::Evidence,
            Verdict::ExpectationFailed => Self::Expectations,
            Verdict::Infrastructure | Verdict::Interrupted | Verdict::Passed => Self::Infrastructure,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Safety => "invariants: safety",
            Self::Liveness => "invariants: liveness",
            Self::Expectations => "expectations",
            Self::Evidence => "evidence",
            Self::Infrastructure => "infrastructure",
        }
    }
}

fn suite(report: &Report) -> TestSuite {
    let mut suite = TestSuite::new(report.scenario.as_str());
    let backend = serde_json::to_value(report.backend).ok();
    let backend = backend.as_ref().and_then(|name| name.as_str()).unwrap_or_default();
    suite.add_property(("verdict", report.verdict.to_string().as_str()));
    suite.add_property(("seed", report.seed.to_string().as_str()));
    suite.add_property(("backend", backend));
    let coverage = format!("{} of {} heights", report.coverage.compared, report.coverage.of);
    suite.add_property(("coverage", coverage.as_str()));
    if let Some(run) = report.timings.get("run") {
        suite.set_time(Duration::from_millis(*run));
    }

    let mut by_step: BTreeMap<usize, Vec<&Finding>> = BTreeMap::new();
    let mut by_topic: BTreeMap<Topic, Vec<&Finding>> = BTreeMap::new();
    for finding in &report.findings {
        match finding
            .step
            .filter(|index| report.steps.iter().any(|step| step.index == *index))
        {
            Some(step) => by_step.entry(step).or_default().push(finding),
            None => by_topic.entry(Topic::of(finding.class)).or_default().push(finding),
        }
    }
    for step in &report.steps {
        let findings = by_step.remove(&step.index).unwrap_or_default();
        suite.add_test_case(step_case(report, step, &findings));
    }
    for topic in Topic::ALL {
        let findings = by_topic.remove(&topic).unwrap_or_default();
        if findings.is_empty() && topic == Topic::Expectations {
            continue;
        }
        let status = status(report, &findings).unwrap_or_else(TestCaseStatus::success);
        suite.add_test_case(case(report, topic.name(), status));
    }
    for off in &report.off {
        let mut skipped = TestCaseStatus::skipped();
        skipped.set_message("switched off in the scenario: not judged");
        suite.add_test_case(case(report, &format!("invariants: {}", invariant(*off)), skipped));
    }
    if report.verdict != Verdict::Passed && suite.failures + suite.errors == 0 {
        let mut status = TestCaseStatus::non_success(kind(report.verdict));
        status
            .set_type(report.verdict.to_string())
            .set_message("the run did not pass");
        suite.add_test_case(case(report, "verdict", status));
    }
    suite
}

fn step_case(report: &Report, step: &StepReport, findings: &[&Finding]) -> TestCase {
    let status = status(report, findings).unwrap_or_else(|| match step.state {
        StepEnd::Ok => TestCaseStatus::success(),
        StepEnd::Failed => unexplained(NonSuccessKind::Failure, "step failed", &step.seen),
        StepEnd::Inconclusive => unexplained(NonSuccessKind::Error, "inconclusive", &step.seen),
        StepEnd::NotReached => {
            let mut skipped = TestCaseStatus::skipped();
            skipped.set_message("not run");
            skipped
        }
    });
    let mut case = case(
        report,
        &format!("step {}: {}", step.index + 1, clean(&step.title)),
        status,
    );
    if let (Some(began), Some(ended)) = (step.began_ms, step.ended_ms) {
        case.set_time(Duration::from_millis(ended.saturating_sub(began).max(0).unsigned_abs()));
    }
    case
}

fn unexplained(kind: NonSuccessKind, ty: &str, seen: &str) -> TestCaseStatus {
    let mut status = TestCaseStatus::non_success(kind);
    status.set_type(ty).set_message(clean(seen));
    status
}

fn case(report: &Report, name: &str, status: TestCaseStatus) -> TestCase {
    let mut case = TestCase::new(name, status);
    case.set_classname(report.scenario.as_str());
    case
}

/// The status that these findings give, the first (worst) one giving kind, type and message.
fn status(report: &Report, findings: &[&Finding]) -> Option<TestCaseStatus> {
    let first = findings.iter().min_by_key(|finding| finding.class)?;
    let mut status = TestCaseStatus::non_success(kind(first.class));
    let message = format!(
        "{}: expected {}; seen {}",
        place(first),
        clean(&first.expected),
        clean(&first.seen)
    );
    let mut parts: Vec<String> = findings
        .iter()
        .take(FINDINGS)
        .map(|finding| evidence(report, finding))
        .collect();
    if findings.len() > FINDINGS {
        parts.push(format!("and {} more", findings.len() - FINDINGS));
    }
    status
        .set_type(first.code.as_str())
        .set_message(message)
        .set_description(parts.join("\n\n"));
    Some(status)
}

fn evidence(report: &Report, finding: &Finding) -> String {
    format!(
        "{} ({})\nexpected  {}\nseen      {}\nsince     {}\nfaults    {}",
        place(finding),
        finding.class,
        finding.expected,
        finding.seen,
        from_ready(finding.since_ms),
        fault_names(report, &finding.faults),
    )
}

const fn kind(class: Class) -> NonSuccessKind {
    match class {
        Verdict::SafetyViolated | Verdict::LivenessFailed | Verdict::ExpectationFailed => NonSuccessKind::Failure,
        Verdict::Infrastructure | Verdict::Interrupted | Verdict::Inconclusive | Verdict::Passed => {
            NonSuccessKind::Error
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    #[test]
    fn runs_of_each_kind() {
        let reports = sample::every_verdict();
        let reports: Vec<&Report> = reports.iter().collect();
        insta::assert_snapshot!(xml(&reports).unwrap());
    }

    #[test]
    fn a_run_that_did_not_pass_is_never_green() {
        let mut report = sample::passed();
        report.verdict = Verdict::Inconclusive;
        let suite = suite(&report);
        assert_eq!((suite.failures, suite.errors), (0, 1));
        assert_eq!(self::suite(&sample::passed()).errors, 0);
    }

    #[test]
    fn the_chains_faults_are_failures_and_all_others_errors() {
        for report in sample::every_verdict() {
            let suite = suite(&report);
            let counts = (suite.failures > 0, suite.errors > 0);
            let expected = match report.verdict {
                Verdict::SafetyViolated | Verdict::LivenessFailed | Verdict::ExpectationFailed => true,
                Verdict::Infrastructure | Verdict::Interrupted | Verdict::Inconclusive | Verdict::Passed => false,
            };
            assert_eq!(counts.0, expected, "{}", report.verdict);
            assert_eq!(
                counts.0 || counts.1,
                report.verdict != Verdict::Passed,
                "{}",
                report.verdict
            );
        }
    }
}
