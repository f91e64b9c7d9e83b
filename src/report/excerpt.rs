//! What a node logged around a moment, for a look: lines with a time of their own in the window, else the last lines.

use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use fs_err as fs;
use serde::Serialize;

use super::folder::{LOGS, log_tails};
use super::words::clean;

/// So long before and after the moment, in milliseconds.
const BEFORE: i64 = 3000;
const AFTER: i64 = 2000;
/// So many lines of a log are shown: first those that complain, then those nearest to the moment.
const LINES: usize = 14;
/// By these words a line complains, in the dialects of the programs that we know.
const COMPLAINTS: [&str; 7] = ["E[", "panic", "ERR", "error", "CRIT", "FAILURE", "fatal"];
/// Of a long log only so many bytes from its end are looked at.
const BYTES: u64 = 16 * 1024 * 1024;
/// A line's time stands in its first so many bytes.
const HEAD: usize = 64;
/// A longer line is cut, in characters.
const WIDTH: usize = 400;

/// Lines of a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Excerpt {
    /// The file, below the run folder.
    pub file: String,
    /// Whether they are from around the moment; else they are the last of the file, since its lines tell no time.
    pub timed: bool,
    /// The lines, without control characters.
    pub lines: Vec<String>,
}

/// What the components of a node logged around `wall` (Unix time in milliseconds); what cannot be read is left out.
#[must_use]
pub fn around(folder: &Path, node: &str, wall: i64) -> Vec<Excerpt> {
    let tails = log_tails(folder, node, LINES);
    tails
        .into_iter()
        .map(|tail| {
            let timed = window(&tail.path, wall).unwrap_or_default();
            let (timed, lines) = if timed.is_empty() {
                (false, tail.lines)
            } else {
                (true, timed)
            };
            Excerpt {
                file: named(&tail.path),
                timed,
                lines: lines
                    .into_iter()
                    .map(|line| line.chars().take(WIDTH).collect())
                    .collect(),
            }
        })
        .filter(|excerpt| !excerpt.lines.is_empty())
        .collect()
}

fn named(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    PathBuf::from(LOGS).join(name).display().to_string()
}

/// The lines with a time in the window. A line without one belongs to the line before it.
fn window(path: &Path, wall: i64) -> std::io::Result<Vec<String>> {
    let mut file = fs::File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(BYTES)))?;
    let mut bytes = Vec::new();
    file.take(BYTES).read_to_end(&mut bytes)?;
    let mut lines: Vec<(i64, String)> = Vec::new();
    let mut now = None;
    for line in bytes.split(|byte| *byte == b'\n') {
        let text = String::from_utf8_lossy(line);
        if let Some(time) = time_of(&text) {
            now = Some(time).filter(|time| (wall - BEFORE..=wall + AFTER).contains(time));
        }
        if let Some(time) = now.filter(|_| !text.trim().is_empty()) {
            lines.push((time, clean(&text)));
        }
    }
    let complains = |text: &str| COMPLAINTS.iter().any(|word| text.contains(word));
    let mut order: Vec<usize> = (0..lines.len()).collect();
    order.sort_by_key(|at| (!complains(&lines[*at].1), (lines[*at].0 - wall).abs()));
    order.truncate(LINES);
    order.sort_unstable();
    Ok(order.into_iter().map(|at| lines[at].1.clone()).collect())
}

/// The time in a line: `2026-11-22T16:55:03.424Z`, also with a blank or a bar between (CometBFT: `I[2026-11-22|16:55:03.424]`), taken as UTC, as Unix time in
/// milliseconds. A time of day without a date is none.
fn time_of(line: &str) -> Option<i64> {
    let head: Vec<u8> = line.bytes().take(HEAD).collect();
    let shape = |at: usize| {
        let text = head.get(at..at + 19)?;
        let fits = text
            .iter()
            .zip(b"0000-00-00T00:00:00")
            .all(|(byte, shape)| match shape {
                b'0' => byte.is_ascii_digit(),
                b'T' => matches!(byte, b'T' | b' ' | b'|'),
                other => byte == other,
            });
        fits.then(|| text.to_vec())
    };
    let at = (0..head.len().saturating_sub(18)).find(|at| shape(*at).is_some())?;
    let mut text = String::from_utf8(shape(at)?).ok()?;
    text.replace_range(10..11, "T");
    let rest = head.get(at + 19..).unwrap_or_default();
    let digits = match rest.split_first() {
        Some((b'.' | b',', rest)) => rest
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .take(3)
            .copied()
            .collect(),
        _ => Vec::new(),
    };
    let digits = format!("{:0<3}", String::from_utf8(digits).ok()?);
    let seconds = humantime::parse_rfc3339(&format!("{text}Z")).ok()?;
    let seconds = seconds.duration_since(UNIX_EPOCH).ok()?.as_secs();
    Some(i64::try_from(seconds).ok()? * 1000 + digits.parse::<i64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_lines() {
        let moment = 1_795_366_503_424;
        for line in [
            "I[2026-11-22|16:55:03.424] service start module=proxy",
            "2026-11-22T16:55:03.424123Z  INFO something",
            "2026-11-22 16:55:03,424 WARN",
        ] {
            assert_eq!(time_of(line), Some(moment), "{line}");
        }
        assert_eq!(time_of("2026-11-22T16:55:03Z x"), Some(moment - 424));
        for line in ["", "16:55:03.424 x", "2026-13-22T16:55:03Z", "  at 0x2026-11"] {
            assert_eq!(time_of(line), None, "{line}");
        }
    }

    #[test]
    fn a_complaint_is_not_lost_among_others() {
        let folder = tempfile::tempdir().unwrap();
        let logs = folder.path().join(LOGS);
        std::fs::create_dir(&logs).unwrap();
        let panic = "E[2026-11-22|16:55:09.100] panic: no\n  at main\n".to_owned();
        let rest = (0..40).map(|number| format!("I[2026-11-22|16:55:11.{:03}] line {number}.\n", number * 10));
        let text: String = std::iter::once(panic).chain(rest).collect();
        std::fs::write(logs.join("a.core.log"), text).unwrap();
        let seen = around(folder.path(), "a", 1_795_366_511_000);
        assert_eq!(seen[0].lines.len(), LINES);
        assert!(seen[0].lines[0].contains("panic: no"), "{seen:?}");
        assert!(
            seen[0].lines[1].ends_with("line 0.") && seen[0].lines[13].ends_with("line 12."),
            "{seen:?}"
        );
    }

    #[test]
    fn lines_around_a_moment_or_the_last() {
        let folder = tempfile::tempdir().unwrap();
        let logs = folder.path().join(LOGS);
        std::fs::create_dir(&logs).unwrap();
        let line = |second: u32, words: &str| format!("I[2026-11-22|16:55:{second:02}.000] {words}\n");
        let text = [
            line(1, "early"),
            line(10, "before"),
            "  panic at\n".into(),
            line(12, "after"),
            line(40, "late"),
        ];
        std::fs::write(logs.join("a.core.log"), text.concat()).unwrap();
        std::fs::write(logs.join("a.app.log"), "without a time\n").unwrap();
        std::fs::write(logs.join("b.core.log"), line(10, "another node")).unwrap();
        let seen = around(folder.path(), "a", 1_795_366_511_000);
        assert_eq!(seen.len(), 2);
        assert_eq!((seen[0].file.as_str(), seen[0].timed), ("logs/a.app.log", false));
        assert_eq!(seen[0].lines, ["without a time"]);
        assert!(seen[1].timed);
        let words = seen[1].lines.join("\n");
        assert!(
            words.contains("before") && words.contains("panic") && words.contains("after"),
            "{words}"
        );
        assert!(
            !words.contains("early") && !words.contains("late") && !words.contains("another"),
            "{words}"
        );
    }
}
