//! Records of an observer on disk, numbered from 1, until whoever reads them has them.
//!
//! They are in files of some megabytes, called after the number of their first record; each line is what goes over a connection ([`Said::Record`]),
//! so that a reader passes bytes on. A file of which everything is acknowledged is removed. When there is no room the writer waits: the
//! observer is slowed down then, and nothing is lost.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch};

use super::pod::Said;
use crate::model::Ms;
use crate::record::{Record, json_line};

/// How large a file gets, in bytes.
const FILE: u64 = 4 * 1024 * 1024;
/// How large all of them may get, in bytes: hours of a network of a hundred nodes.
const ALL: u64 = 256 * 1024 * 1024;
/// What the files are called after their number.
const SUFFIX: &str = ".jsonl";

/// Where records are kept.
pub(super) struct Spool {
    inner: Mutex<Inner>,
    now: fn() -> Ms,
    all: u64,
    file: u64,
    /// The number of the last record.
    last: watch::Sender<u64>,
    /// Told when files were removed.
    room: Notify,
}

struct Inner {
    folder: PathBuf,
    /// In the order of their numbers; the last one is written.
    files: VecDeque<Kept>,
    written: File,
    next: u64,
}

struct Kept {
    first: u64,
    path: PathBuf,
    bytes: u64,
}

/// A moment, and the last record that was written before it: what is written later is later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) at: Ms,
    pub(super) last: u64,
}

impl Spool {
    /// Goes on with what is in the folder, which is made if it is not there. `now` is the clock that records are stamped with.
    pub(super) fn open(folder: &Path, now: fn() -> Ms) -> io::Result<Self> {
        Self::with(folder, now, FILE, ALL)
    }

    fn with(folder: &Path, now: fn() -> Ms, file: u64, all: u64) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let mut files: Vec<Kept> = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let Some(first) = name.strip_suffix(SUFFIX).and_then(|name| name.parse().ok()) else {
                continue;
            };
            let bytes = std::fs::metadata(&path)?.len();
            files.push(Kept { first, path, bytes });
        }
        files.sort_by_key(|kept| kept.first);
        let mut files = VecDeque::from(files);
        let next = match files.back_mut() {
            None => 1,
            Some(last) => last.first + whole_lines(last)?,
        };
        let written = match files.back() {
            Some(last) => OpenOptions::new().append(true).open(&last.path)?,
            None => begin(folder, &mut files, next)?,
        };
        Ok(Self {
            inner: Mutex::new(Inner {
                folder: folder.to_owned(),
                files,
                written,
                next,
            }),
            now,
            all,
            file,
            last: watch::channel(next - 1).0,
            room: Notify::new(),
        })
    }

    /// Writes a record; waits while there is no room.
    pub(super) async fn write(&self, record: Record) -> io::Result<()> {
        loop {
            // Before the look, so that what is removed after it is heard of.
            let room = self.room.notified();
            if self.lock().bytes() < self.all {
                break;
            }
            room.await;
        }
        let mut inner = self.lock();
        let number = inner.next;
        // Under the lock: whoever looks at the clock later finds this record written.
        let at = (self.now)();
        let line = json_line(&Said::Record { number, at, record })?;
        inner.written.write_all(&line)?;
        inner.next += 1;
        let next = inner.next;
        if let Some(kept) = inner.files.back_mut() {
            kept.bytes += line.len() as u64;
            if kept.bytes >= self.file {
                let Inner {
                    folder, files, written, ..
                } = &mut *inner;
                *written = begin(folder, files, next)?;
            }
        }
        drop(inner);
        self.last.send_replace(number);
        Ok(())
    }

    /// Whoever reads has everything up to this record.
    pub(super) fn acknowledge(&self, number: u64) {
        let mut inner = self.lock();
        // A file ends where the next one begins; the last one is still written.
        while let [_, after, ..] = inner.files.make_contiguous()
            && after.first <= number.saturating_add(1)
            && let Some(kept) = inner.files.pop_front()
        {
            // One that cannot be removed is only waste.
            drop(std::fs::remove_file(kept.path));
            self.room.notify_waiters();
        }
    }

    pub(super) fn mark(&self) -> Mark {
        let inner = self.lock();
        Mark {
            at: (self.now)(),
            last: inner.next - 1,
        }
    }

    /// Changes with every record.
    pub(super) fn last(&self) -> watch::Receiver<u64> {
        self.last.subscribe()
    }

    /// Reads from the record after this one; of what has been removed already, from the first that is left.
    pub(super) fn reader(&self, after: u64) -> io::Result<Reader> {
        let wanted = after.saturating_add(1);
        let (path, first) = {
            let inner = self.lock();
            let of = |kept: &Kept| (kept.path.clone(), kept.first);
            let holds = inner.files.iter().rev().find(|kept| kept.first <= wanted);
            holds.or(inner.files.front()).map(of).ok_or(io::ErrorKind::NotFound)?
        };
        let mut lines = BufReader::new(File::open(path)?);
        let mut next = first;
        let mut passed = Vec::new();
        while next < wanted && lines.read_until(b'\n', &mut passed)? > 0 {
            passed.clear();
            next += 1;
        }
        Ok(Reader { lines, next })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn bytes(&self) -> u64 {
        self.files.iter().map(|kept| kept.bytes).sum()
    }
}

/// A place in the records.
pub(super) struct Reader {
    lines: BufReader<File>,
    /// The number of the record that comes next.
    next: u64,
}

impl Reader {
    /// Adds the line of the next record to `to`, if its number is not beyond `last`, which is written.
    pub(super) fn read(&mut self, spool: &Spool, last: u64, to: &mut Vec<u8>) -> io::Result<bool> {
        if self.next > last {
            return Ok(false);
        }
        if self.lines.read_until(b'\n', to)? == 0 {
            // The file is at its end: the next one begins with this number.
            *self = spool.reader(self.next - 1)?;
            if self.lines.read_until(b'\n', to)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        self.next += 1;
        Ok(true)
    }
}

fn begin(folder: &Path, files: &mut VecDeque<Kept>, first: u64) -> io::Result<File> {
    let path = folder.join(format!("{first:020}{SUFFIX}"));
    let file = OpenOptions::new().create(true).append(true).open(&path)?;
    files.push_back(Kept { first, path, bytes: 0 });
    Ok(file)
}

/// How many whole lines a file has; the beginning of one more, at which its writer died, is cut off.
fn whole_lines(kept: &mut Kept) -> io::Result<u64> {
    let mut content = Vec::new();
    File::open(&kept.path)?.read_to_end(&mut content)?;
    let whole = content.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    if whole < content.len() {
        OpenOptions::new().write(true).open(&kept.path)?.set_len(whole as u64)?;
    }
    kept.bytes = whole as u64;
    Ok(content[..whole].iter().filter(|byte| **byte == b'\n').count() as u64)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn record(by: u64) -> Record {
        Record::Late {
            by: Ms(by),
            interval: Ms(1),
        }
    }

    fn read(spool: &Spool, after: u64) -> Vec<u64> {
        let mut reader = spool.reader(after).unwrap();
        let last = spool.mark().last;
        let mut text = Vec::new();
        while reader.read(spool, last, &mut text).unwrap() {}
        let numbers = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        numbers
            .map(|line| match serde_json::from_slice(line).unwrap() {
                Said::Record {
                    number,
                    record: Record::Late { by, .. },
                    ..
                } => {
                    assert_eq!(by.0, number, "the number belongs to the record");
                    number
                }
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[tokio::test]
    async fn records_are_read_from_any_number_on_over_files_and_restarts() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Spool::with(folder.path(), || Ms(7), 300, 1 << 20).unwrap();
        let spool = open();
        for number in 1..=20 {
            spool.write(record(number)).await.unwrap();
        }
        assert!(spool.lock().files.len() > 3);
        for after in 0..=20 {
            assert_eq!(read(&spool, after), (after + 1..=20).collect::<Vec<_>>());
        }
        // Its writer dies in the middle of a line.
        let last = spool.lock().files.back().unwrap().path.clone();
        drop(spool);
        let mut file = OpenOptions::new().append(true).open(last).unwrap();
        file.write_all(b"{\"Record\":{\"num").unwrap();
        let spool = open();
        assert_eq!(spool.mark(), Mark { at: Ms(7), last: 20 });
        spool.write(record(21)).await.unwrap();
        assert_eq!(read(&spool, 18), [19, 20, 21]);
    }

    #[tokio::test]
    async fn what_is_acknowledged_goes_and_makes_room() {
        let folder = tempfile::tempdir().unwrap();
        let spool = Spool::with(folder.path(), || Ms(7), 300, 1000).unwrap();
        let mut written = 0;
        while let Ok(done) = tokio::time::timeout(Duration::from_millis(50), spool.write(record(written + 1))).await {
            done.unwrap();
            written += 1;
        }
        assert!((10..30).contains(&written), "{written} until it was full");
        assert_eq!(
            read(&spool, 0).len() as u64,
            written,
            "what was waiting is not half written"
        );
        spool.acknowledge(written / 2);
        let left = read(&spool, 0);
        assert!(left[0] > 1 && left[0] <= written / 2 + 1, "{left:?}");
        assert_eq!(*left.last().unwrap(), written);
        spool.write(record(written + 1)).await.unwrap();
        // The file that is written stays, whatever anybody claims to have.
        spool.acknowledge(u64::MAX);
        assert_eq!(spool.lock().files.len(), 1);
        spool.write(record(written + 2)).await.unwrap();
        assert_eq!(read(&spool, written + 1), [written + 2]);
    }
}
