//! `trialnet judge`: the same verdict again, from a run folder alone.

use std::path::Path;

use super::JudgeArgs;
use crate::exit;
use crate::model::verdict::Report;
use crate::report::folder::{self, FolderError};
use crate::report::summary::{self, Context};
use crate::ui::{Ui, paint};

/// Judges the records of a folder again and shows the verdict; the exit code is the verdict's. Says when the run itself had come to
/// another verdict, or to none.
#[must_use]
pub fn run(args: &JudgeArgs, ui: &Ui) -> u8 {
    match judged(&args.folder) {
        Ok((report, former)) => {
            show(args, ui, &report);
            if let Some(note) = note(&report, former.as_ref()) {
                ui.err(&format!("{} {note}", paint::warn("note:")));
            }
            exit::of(&report)
        }
        Err(error) => {
            ui.error(&error, Some(error.help()));
            exit::USAGE
        }
    }
}

fn judged(path: &Path) -> Result<(Report, Option<Report>), FolderError> {
    Ok((folder::judge_again(path)?, folder::verdict(path)?))
}

fn show(args: &JudgeArgs, ui: &Ui, report: &Report) {
    if args.json {
        let text = serde_json::to_string_pretty(report).expect("a report has only text keys and finite numbers");
        return ui.out(&text);
    }
    let plan = folder::read(&args.folder).ok().map(|(plan, _)| plan);
    let logs = summary::logs(report, &args.folder);
    ui.out(&summary::summary(
        report,
        &Context {
            plan: plan.as_ref(),
            folder: Some(&args.folder),
            again: Some(summary::again(&args.folder.join(folder::SCENARIO), report)),
            logs: &logs,
        },
    ));
}

/// What is to be said when the verdict is not the one that the run came to.
fn note(report: &Report, former: Option<&Report>) -> Option<String> {
    let Some(former) = former else {
        return Some(format!(
            "there is no {}: the run was cut off before its end",
            folder::VERDICT
        ));
    };
    if former.verdict != report.verdict {
        return Some(format!(
            "{} says {}, the records say {}",
            folder::VERDICT,
            former.verdict,
            report.verdict
        ));
    }
    (former.findings != report.findings).then(|| format!("the findings differ from those in {}", folder::VERDICT))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::verdict::{Coverage, Verdict};
    use crate::model::{BackendKind, FORMAT};

    fn report(verdict: Verdict) -> Report {
        Report {
            format: FORMAT,
            verdict,
            scenario: "s".into(),
            seed: 1,
            backend: BackendKind::Local,
            coverage: Coverage::default(),
            findings: Vec::new(),
            steps: Vec::new(),
            faults: Vec::new(),
            upgrades: Vec::new(),
            mixed: Vec::new(),
            versions: std::collections::BTreeMap::new(),
            timings: std::collections::BTreeMap::new(),
            off: Vec::new(),
        }
    }

    #[test]
    fn another_verdict_is_said() {
        let passed = report(Verdict::Passed);
        assert_eq!(note(&passed, Some(&passed)), None);
        assert_eq!(
            note(&report(Verdict::SafetyViolated), Some(&passed)).as_deref(),
            Some("verdict.json says passed, the records say safety violated")
        );
        assert!(note(&passed, None).unwrap().contains("cut off"));
    }

    #[test]
    fn what_is_no_run_folder_is_a_bad_command_line() {
        let temp = tempfile::tempdir().unwrap();
        let (ui, captured) = Ui::memory();
        let args = JudgeArgs {
            folder: temp.path().to_owned(),
            json: false,
        };
        assert_eq!(run(&args, &ui), exit::USAGE);
        let err = captured.err();
        assert!(err.contains("holds no plan.json") && err.contains("\n help: "), "{err}");
        assert_eq!(captured.out(), "");
    }
}
