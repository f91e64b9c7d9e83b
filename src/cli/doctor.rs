//! `trialnet doctor`: whether this machine has what runs need. Here only how the checks are shown.

use crate::exit;
use crate::report::words::{count, wrap};
use crate::ui::paint;

/// One check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What was looked at, in a few words.
    pub name: String,
    /// Whether it is as it should be.
    pub ok: bool,
    /// Whether runs can do without it; then it being amiss is no error.
    pub optional: bool,
    /// What was seen.
    pub detail: String,
    /// The way out, shown when it is not ok.
    pub help: Option<String>,
}

/// The checks for people, with colours.
#[must_use]
pub fn render(checks: &[Check]) -> String {
    let width = checks.iter().map(|check| check.name.chars().count()).max().unwrap_or(0);
    let mut lines = Vec::new();
    for Check {
        name,
        ok,
        optional,
        detail,
        help,
    } in checks
    {
        let state = match (ok, optional) {
            (true, _) => paint::good("ok     "),
            (false, true) => paint::warn("absent "),
            (false, false) => paint::bad("FAILED "),
        };
        lines.push(format!("{state}  {name:<width$}  {detail}"));
        if let Some(help) = help.as_ref().filter(|_| !ok) {
            lines.extend(
                wrap(help, 80, 6)
                    .into_iter()
                    .map(|line| format!("{:width$}  {line}", "", width = width + 9)),
            );
        }
    }
    let failed = checks.iter().filter(|check| !check.ok && !check.optional).count();
    lines.push(match failed {
        0 => "everything that runs need is there".to_owned(),
        failed => format!("{} failed", count(failed, "check")),
    });
    lines.join("\n")
}

/// The exit code for these checks.
#[must_use]
pub fn code(checks: &[Check]) -> u8 {
    let failed = checks.iter().any(|check| !check.ok && !check.optional);
    if failed { exit::INFRASTRUCTURE } else { exit::PASSED }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, ok: bool, optional: bool) -> Check {
        Check {
            name: name.into(),
            ok,
            optional,
            detail: "what was seen".into(),
            help: Some("what to do about it".into()),
        }
    }

    #[test]
    fn only_what_is_needed_fails() {
        let mut checks = vec![check("loopback addresses", true, false), check("cometbft", false, true)];
        assert_eq!(code(&checks), exit::PASSED);
        checks.push(check("state folder", false, false));
        assert_eq!(code(&checks), exit::INFRASTRUCTURE);
        insta::assert_snapshot!(anstream::adapter::strip_str(&render(&checks)).to_string());
    }
}
