//! Exit codes: a promise to whoever calls trialnet from a script.
//!
//! 4, 96 and 100 mean the same as in nextest.

use crate::model::verdict::{Report, Verdict};

/// Every scenario passed, or the command did what it was asked.
pub const PASSED: u8 = 0;
/// A bug in trialnet.
pub const INTERNAL_ERROR: u8 = 1;
/// The command line is wrong, or names something that does not exist.
pub const USAGE: u8 = 2;
/// Ended by a signal, after a clean teardown.
pub const INTERRUPTED: u8 = 3;
/// No scenario was selected.
pub const NOTHING_SELECTED: u8 = 4;
/// A scenario file is invalid; nothing was started.
pub const SCENARIO_INVALID: u8 = 94;
/// Something outside the chain failed, so that the chain could not be judged.
pub const INFRASTRUCTURE: u8 = 96;
/// The chain broke a promise, or an expectation was not met.
pub const SCENARIO_FAILED: u8 = 100;
/// Evidence is missing.
pub const INCONCLUSIVE: u8 = 102;

/// Every exit code with what it means, from the one that wins when several files give different ones to the one that any other
/// replaces. It follows the order of [`Verdict`]: what was proved of the chain is never masked by later trouble; a bug in trialnet
/// comes next, because it casts doubt on the rest.
pub const TABLE: [(u8, &str); 9] = [
    (SCENARIO_FAILED, "a scenario failed: safety, liveness or an expectation"),
    (INTERNAL_ERROR, "internal error"),
    (USAGE, "bad command line"),
    (SCENARIO_INVALID, "a scenario file is invalid; nothing was started"),
    (INFRASTRUCTURE, "infrastructure: something outside the chain failed"),
    (INTERRUPTED, "interrupted, after a clean teardown"),
    (INCONCLUSIVE, "inconclusive: evidence is missing"),
    (NOTHING_SELECTED, "nothing selected"),
    (PASSED, "passed"),
];

/// The finding that says that trialnet itself failed.
const INTERNAL: &str = "infra/internal";

/// The exit code of a run: that of its verdict, but for a run that could not be judged because of a bug in trialnet.
#[must_use]
pub fn of(report: &Report) -> u8 {
    let bug = report.findings.iter().any(|finding| finding.code == INTERNAL);
    match report.verdict {
        Verdict::Infrastructure if bug => INTERNAL_ERROR,
        verdict => code(verdict),
    }
}

/// The exit code of one verdict. A violation outranks an interruption already in the verdict, so that an interrupted run with a
/// violation gives 100.
#[must_use]
pub const fn code(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::SafetyViolated | Verdict::LivenessFailed | Verdict::ExpectationFailed => SCENARIO_FAILED,
        Verdict::Infrastructure => INFRASTRUCTURE,
        Verdict::Interrupted => INTERRUPTED,
        Verdict::Inconclusive => INCONCLUSIVE,
        Verdict::Passed => PASSED,
    }
}

/// The exit code of several files: the first in [`TABLE`] that occurs; [`NOTHING_SELECTED`] for no file at all. A code that is
/// not in the table counts as an internal error.
#[must_use]
pub fn worst(codes: impl IntoIterator<Item = u8>) -> u8 {
    codes
        .into_iter()
        .map(|code| TABLE.iter().position(|&(known, _)| known == code).unwrap_or(1))
        .min()
        .map_or(NOTHING_SELECTED, |rank| TABLE[rank].0)
}

/// The section of `--help` on exit codes, ascending.
#[must_use]
pub fn help() -> String {
    let mut table = TABLE;
    table.sort_unstable();
    let lines = table.map(|(code, meaning)| format!("  {code:>3}  {meaning}"));
    format!("Exit codes (of several files, the worst):\n{}", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_the_documented_ones() {
        let codes = [
            Verdict::SafetyViolated,
            Verdict::LivenessFailed,
            Verdict::ExpectationFailed,
            Verdict::Infrastructure,
            Verdict::Interrupted,
            Verdict::Inconclusive,
            Verdict::Passed,
        ]
        .map(code);
        assert_eq!(codes, [100, 100, 100, 96, 3, 102, 0]);
    }

    #[test]
    fn a_bug_is_told_from_a_cluster_that_failed() {
        let mut report = crate::report::sample::violated();
        report.verdict = Verdict::Infrastructure;
        report.findings.truncate(1);
        report.findings[0].code = "infra/guard-died".into();
        assert_eq!(of(&report), INFRASTRUCTURE);
        report.findings[0].code = INTERNAL.into();
        assert_eq!(of(&report), INTERNAL_ERROR);
        report.verdict = Verdict::SafetyViolated;
        assert_eq!(
            of(&report),
            SCENARIO_FAILED,
            "what was proved of the chain stays proved"
        );
    }

    #[test]
    fn the_worst_of_several_files_wins() {
        assert_eq!(worst([0, 0]), 0);
        assert_eq!(worst([3, 100]), 100, "a violation comes before an interruption");
        assert_eq!(worst([0, 102, 96]), 96);
        assert_eq!(worst([102, 3]), 3);
        assert_eq!(worst([0, 94]), 94);
        assert_eq!(worst([0, 77]), 1, "an unknown code is a bug");
        assert_eq!(worst([]), 4);
    }

    #[test]
    fn every_code_stands_once_in_the_table() {
        let mut codes: Vec<u8> = TABLE.iter().map(|&(code, _)| code).collect();
        codes.sort_unstable();
        assert_eq!(codes, [0, 1, 2, 3, 4, 94, 96, 100, 102]);
    }
}
