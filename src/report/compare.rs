//! Runs side by side: a table of what can be compared, as Markdown for a pull request and as a page.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use crate::model::verdict::Report;

use super::folder::FolderError;
use super::page;
use super::summary::place;
use super::words::tenths;

/// What is compared of one run.
#[derive(Clone, Debug, PartialEq)]
pub struct Figures {
    /// What its column is called.
    pub name: String,
    /// The versions that its nodes began with.
    pub versions: BTreeSet<String>,
    /// Its verdict and all that led to it.
    pub report: Report,
    /// After how many milliseconds each block came, from *ready* to the removal, ascending.
    pub blocks: Vec<i64>,
}

/// A longer cell is broken into lines, in bytes.
const WIDE: usize = 40;

/// A row: its name, and a cell for each run.
struct Row {
    name: String,
    cells: Vec<String>,
}

/// The runs in these folders, each called by the folder's name.
///
/// # Errors
/// When one is not a run folder that can be read.
pub fn read(folders: &[impl AsRef<Path>]) -> Result<Vec<Figures>, FolderError> {
    folders.iter().map(|folder| page::figures(folder.as_ref())).collect()
}

/// The table as Markdown; figures of the second run on are set against the first.
#[must_use]
pub fn markdown(runs: &[Figures]) -> String {
    // Markdown lets markup through.
    let escape = |text: &str| escape(text).replace('|', "\\|").replace('\n', " ");
    let mut text = String::from("| |");
    for run in runs {
        let _infallible = write!(text, " {} |", escape(&run.name));
    }
    text.push_str("\n|---|");
    text.push_str(&"---|".repeat(runs.len()));
    for Row { name, cells } in rows(runs) {
        let _infallible = write!(text, "\n| {} |", escape(&name));
        for cell in cells {
            let _infallible = write!(text, " {} |", escape(&cell));
        }
    }
    text.push('\n');
    text
}

/// The table as a page of its own.
#[must_use]
pub fn html(runs: &[Figures]) -> String {
    let cells = |tag: &str, cells: &mut dyn Iterator<Item = &str>| -> String {
        let kind = |cell: &str| if cell.len() > WIDE { " class=\"wide\"" } else { "" };
        cells
            .map(|cell| format!("<{tag}{}>{}</{tag}>", kind(cell), escape(cell)))
            .collect()
    };
    let head = cells(
        "th",
        &mut std::iter::once("").chain(runs.iter().map(|run| run.name.as_str())),
    );
    let body: String = rows(runs)
        .iter()
        .map(|row| {
            let rest = cells("td", &mut row.cells.iter().map(String::as_str));
            format!("<tr><th scope=\"row\">{}</th>{rest}</tr>\n", escape(&row.name))
        })
        .collect();
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <title>runs compared · trialnet</title>\n<style>{}</style>\n</head>\n<body>\n<h1>Runs compared</h1>\n\
         <p class=\"soft\">Changes are against the first run.</p>\n\
         <div class=\"scroll\"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table></div>\n</body>\n</html>\n",
        include_str!("page/page.css")
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn rows(runs: &[Figures]) -> Vec<Row> {
    let words = |name: &str, of: &dyn Fn(&Figures) -> String| Row {
        name: name.to_owned(),
        cells: runs.iter().map(of).collect(),
    };
    let times = |name: String, of: &dyn Fn(&Figures) -> Option<i64>| Row {
        name,
        cells: against_the_first(&runs.iter().map(of).collect::<Vec<_>>()),
    };
    let mut rows = vec![
        words("verdict", &|run| run.report.verdict.to_string()),
        words("scenario", &|run| run.report.scenario.clone()),
        words("backend", &|run| page::word(&run.report.backend)),
        words("seed", &|run| run.report.seed.to_string()),
        words("versions", &|run| {
            run.versions.iter().cloned().collect::<Vec<_>>().join(", ")
        }),
        words("blocks", &|run| run.blocks.len().to_string()),
        times("time between blocks, median".into(), &|run| quantile(&run.blocks, 50)),
        times("time between blocks, p95".into(), &|run| quantile(&run.blocks, 95)),
        times("longest time without a block".into(), &|run| run.blocks.last().copied()),
    ];
    let mut faults: Vec<(&str, &str)> = Vec::new();
    // The batches of upgrades are no faults to those who compare.
    let all = runs.iter().flat_map(|run| &run.report.faults);
    for fault in all.filter(|fault| fault.kind != "upgrade") {
        if !faults.iter().any(|(id, _)| *id == fault.id) {
            faults.push((&fault.id, &fault.kind));
        }
    }
    for (id, kind) in faults {
        rows.push(times(format!("recovery from {id} ({kind})"), &|run| {
            let fault = run.report.faults.iter().find(|fault| fault.id == id)?;
            i64::try_from(fault.recovery_ms?).ok()
        }));
    }
    rows.push(words("findings", &|run| {
        let findings: Vec<String> = run.report.findings.iter().map(place).collect();
        if findings.is_empty() {
            "none".into()
        } else {
            findings.join("; ")
        }
    }));
    rows.push(words("heights compared", &|run| {
        let coverage = run.report.coverage;
        format!("{} of {}", coverage.compared, coverage.of)
    }));
    rows
}

/// Times in words, from the second on with the change against the first.
fn against_the_first(times: &[Option<i64>]) -> Vec<String> {
    let first = times.first().copied().flatten().filter(|first| *first > 0);
    let cell = |(at, time): (usize, &Option<i64>)| {
        let Some(time) = *time else { return "–".to_owned() };
        let words = if time < 1000 {
            format!("{time} ms")
        } else {
            tenths(time.unsigned_abs())
        };
        match first.filter(|_| at > 0) {
            // Rounded to whole per cent, half away from zero.
            Some(first) => {
                let change = (200 * (time - first) + first * (time - first).signum()) / (2 * first);
                match change {
                    0 => format!("{words} (±0 %)"),
                    change => format!("{words} ({change:+} %)"),
                }
            }
            None => words,
        }
    };
    times.iter().enumerate().map(cell).collect()
}

/// Of ascending times, that below which so many of a hundred are.
fn quantile(sorted: &[i64], share: usize) -> Option<i64> {
    let at = (sorted.len() * share / 100).min(sorted.len().checked_sub(1)?);
    sorted.get(at).copied()
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    fn runs() -> Vec<Figures> {
        let run = |name: &str, report: Report, blocks: &[i64]| Figures {
            name: name.into(),
            versions: ["0.38.17".to_owned()].into(),
            report,
            blocks: blocks.to_vec(),
        };
        vec![
            run("before", sample::passed(), &[100, 100, 200, 400]),
            run("after|<b>", sample::violated(), &[100, 110, 150, 3_000]),
        ]
    }

    #[test]
    fn side_by_side() {
        insta::assert_snapshot!("compared", markdown(&runs()));
    }

    #[test]
    fn names_stay_text() {
        let page = html(&runs());
        assert!(
            page.contains("<th>after|&lt;b&gt;</th>") && !page.contains("<b>"),
            "{page}"
        );
        assert!(!page.contains("http:") && !page.contains("<script"));
    }

    #[test]
    fn changes() {
        let times = [Some(200), Some(250), Some(100), Some(201), None, Some(2_500)];
        let cells = [
            "200 ms",
            "250 ms (+25 %)",
            "100 ms (-50 %)",
            "201 ms (+1 %)",
            "–",
            "2.5s (+1150 %)",
        ];
        assert_eq!(against_the_first(&times), cells);
        assert_eq!(against_the_first(&[None, Some(5)]), ["–", "5 ms"]);
        assert_eq!(quantile(&[], 50), None);
        assert_eq!(quantile(&[1, 2, 3, 4], 50), Some(3));
    }
}
