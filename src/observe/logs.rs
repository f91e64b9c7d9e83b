//! Looks for texts in the nodes' logs as they grow.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{Closed, Output, Pattern, Target};
use crate::model::NodeName;
use crate::record::Record;

/// How often files are looked at.
const EVERY: Duration = Duration::from_millis(200);
/// What is read of a file at a time.
const CHUNK: u64 = 1024 * 1024;
/// A line that is longer is looked at in pieces.
const LONGEST: usize = 64 * 1024;
/// Characters of a line that are kept.
const KEPT: usize = 400;
/// Lines of a file with the same pattern that are recorded in one look; one is enough for any expectation.
const MOST: usize = 10;

/// Follows the logs in which something is looked for; after `cancel` it looks once more, for what was written last.
pub(super) fn follow(
    targets: &[Target],
    patterns: &[Pattern],
    output: Output,
    cancel: CancellationToken,
) -> impl Future<Output = Result<(), Closed>> + use<> {
    let mut tails: Vec<Tail> = Vec::new();
    for target in targets {
        let wanted = patterns.iter().filter(|pattern| pattern.nodes.contains(&target.node));
        let wanted: Vec<String> = wanted.map(|pattern| pattern.text.clone()).collect();
        if !wanted.is_empty() {
            let logs = target.logs.iter();
            tails.extend(logs.map(|(component, path)| Tail::new(&target.node, component, path, &wanted)));
        }
    }
    async move {
        while !tails.is_empty() {
            let found;
            (tails, found) = look(tails).await;
            for record in found {
                output.write(record).await?;
            }
            if cancel.run_until_cancelled(sleep(EVERY)).await.is_none() {
                let (_, found) = look(tails).await;
                for record in found {
                    output.write(record).await?;
                }
                break;
            }
        }
        Ok(())
    }
}

async fn look(mut tails: Vec<Tail>) -> (Vec<Tail>, Vec<Record>) {
    let all = tokio::task::spawn_blocking(move || {
        let found = tails.iter_mut().flat_map(Tail::read).collect();
        (tails, found)
    });
    // Only a panic or the end of the runtime loses the tails; then there is nothing left to follow.
    all.await.unwrap_or_default()
}

/// Where reading a file has got to.
struct Tail {
    node: NodeName,
    component: String,
    path: PathBuf,
    patterns: Vec<String>,
    offset: u64,
    /// The beginning of a line whose end is not written yet.
    partial: Vec<u8>,
}

impl Tail {
    fn new(node: &str, component: &str, path: &std::path::Path, patterns: &[String]) -> Self {
        Self {
            node: node.to_owned(),
            component: component.to_owned(),
            path: path.to_owned(),
            patterns: patterns.to_vec(),
            offset: 0,
            partial: Vec::new(),
        }
    }

    /// What was found in what the file has grown by. A file that is not there or cannot be read has not grown.
    fn read(&mut self) -> Vec<Record> {
        let mut found = Vec::new();
        let mut counts = vec![0; self.patterns.len()];
        let Ok(length) = std::fs::metadata(&self.path).map(|metadata| metadata.len()) else {
            return found;
        };
        if length < self.offset {
            self.offset = 0;
            self.partial.clear();
        }
        if length == self.offset {
            return found;
        }
        let Ok(mut file) = std::fs::File::open(&self.path) else {
            return found;
        };
        if file.seek(SeekFrom::Start(self.offset)).is_err() {
            return found;
        }
        let mut bytes = Vec::new();
        // What was read before an error counts.
        drop(file.take(CHUNK).read_to_end(&mut bytes));
        self.offset += bytes.len() as u64;
        self.partial.extend_from_slice(&bytes);
        let text = std::mem::take(&mut self.partial);
        let mut rest = text.as_slice();
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            self.line(&rest[..end], &mut counts, &mut found);
            rest = &rest[end + 1..];
        }
        if rest.len() > LONGEST {
            self.line(rest, &mut counts, &mut found);
        } else {
            self.partial = rest.to_vec();
        }
        found
    }

    fn line(&self, bytes: &[u8], counts: &mut [usize], found: &mut Vec<Record>) {
        let line = String::from_utf8_lossy(bytes);
        for (pattern, count) in self.patterns.iter().zip(counts) {
            let Some(at) = line.find(pattern.as_str()).filter(|_| *count < MOST) else {
                continue;
            };
            *count += 1;
            found.push(Record::Log {
                node: self.node.clone(),
                component: self.component.clone(),
                pattern: pattern.clone(),
                line: cut(&line, at + pattern.len()),
            });
        }
    }
}

/// At most 400 characters of a line: its beginning, or if what was found ends later, the characters up to there.
fn cut(line: &str, end: usize) -> String {
    let line = line.trim_end_matches('\r');
    let found = line.get(..end).map_or(0, |head| head.chars().count());
    line.chars().skip(found.saturating_sub(KEPT)).take(KEPT).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(records: &[Record]) -> Vec<String> {
        let line = |record: &Record| match record {
            Record::Log { line, .. } => line.clone(),
            other => panic!("{other:?}"),
        };
        records.iter().map(line).collect()
    }

    fn tail(path: &std::path::Path) -> Tail {
        Tail::new("a", "node", path, &["needle".to_owned(), "pin".to_owned()])
    }

    #[test]
    fn follows_a_file_that_grows_begins_anew_and_was_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut tail = tail(&path);
        assert_eq!(tail.read(), []);
        std::fs::write(&path, "hay\na needle\nhay and a nee").unwrap();
        assert_eq!(lines(&tail.read()), ["a needle"]);
        assert_eq!(tail.read(), []);
        std::fs::write(&path, "hay\na needle\nhay and a needle, a pin\r\n").unwrap();
        assert_eq!(
            lines(&tail.read()),
            ["hay and a needle, a pin", "hay and a needle, a pin"]
        );
        std::fs::write(&path, "pin\n").unwrap();
        assert_eq!(lines(&tail.read()), ["pin"]);
    }

    #[test]
    fn long_lines_and_many_are_cut() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut tail = tail(&path);
        let long = format!(
            "needle{}\n{}needle{}\n",
            "ä".repeat(900),
            "ö".repeat(900),
            "ü".repeat(50)
        );
        std::fs::write(&path, &long).unwrap();
        let found = tail.read();
        let found = lines(&found);
        assert_eq!(found.len(), 2);
        assert!(
            found
                .iter()
                .all(|line| line.chars().count() == 400 && line.contains("needle")),
            "{found:?}"
        );
        std::fs::write(&path, format!("{long}{}", "pin\n".repeat(50))).unwrap();
        assert_eq!(tail.read().len(), MOST);
        let mut endless = long.into_bytes();
        endless.extend(b"pin\n".repeat(50));
        endless.extend(b"\xff needle".repeat(LONGEST / 8 + 1));
        std::fs::write(&path, endless).unwrap();
        assert_eq!(tail.read().len(), 1, "a line without an end");
        assert!(tail.partial.is_empty());
    }
}
