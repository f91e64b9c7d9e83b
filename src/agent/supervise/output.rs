//! The way of a program's output: through the supervisor to its own standard output, which is the container's log.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::agent::lock;
use crate::agent::nodes::{TAIL_BYTES, last_lines};

/// How long the last words of a program that ended may take to come.
const DRAIN_LIMIT: Duration = Duration::from_millis(500);

/// The container's log.
#[derive(Clone, Debug)]
pub(super) struct Log(Arc<Mutex<Out>>);

#[derive(Debug)]
struct Out {
    to: File,
    /// Whether the next byte begins a line.
    fresh: bool,
}

impl Log {
    /// This process's standard output.
    ///
    /// # Errors
    /// When it is closed.
    pub(super) fn stdout() -> io::Result<Self> {
        Ok(Self::to(File::from(io::stdout().as_fd().try_clone_to_owned()?)))
    }

    fn to(file: File) -> Self {
        Self(Arc::new(Mutex::new(Out { to: file, fresh: true })))
    }

    /// Writes bytes as they are. That nobody takes them is no reason to stop: the program must not notice.
    fn pass(&self, bytes: &[u8]) {
        let mut out = lock(&self.0);
        if let Some(last) = bytes.last() {
            drop(out.to.write_all(bytes));
            out.fresh = *last == b'\n';
        }
    }

    /// Writes a line that is one whatever was before it.
    fn line(&self, line: &str) {
        let mut out = lock(&self.0);
        let newline = if out.fresh { "" } else { "\n" };
        drop(out.to.write_all(format!("{newline}{line}\n").as_bytes()));
        out.fresh = true;
    }
}

/// The output of one generation.
#[derive(Debug)]
pub(super) struct Output {
    last: Arc<Mutex<VecDeque<u8>>>,
    ended: oneshot::Receiver<()>,
}

impl Output {
    /// Opens a pipe for a program. Its bytes go to `log` after a line of their own; a thread carries them, so that a log that nobody
    /// takes holds up nothing but the program, as it would without us.
    ///
    /// # Errors
    /// When the system has no more pipes or threads.
    pub(super) fn open(log: &Log, marker: String) -> io::Result<(PipeWriter, Self)> {
        let (reader, writer) = io::pipe()?;
        let last = Arc::new(Mutex::new(VecDeque::new()));
        let (tell, ended) = oneshot::channel();
        let (log, keep) = (log.clone(), last.clone());
        std::thread::Builder::new().name("output".to_owned()).spawn(move || {
            log.line(&marker);
            carry(reader, &log, &keep);
            // Nobody may wait for it.
            let _: Result<(), ()> = tell.send(());
        })?;
        Ok((writer, Self { last, ended }))
    }

    /// The last lines, once all processes that hold the pipe have ended, or after a moment.
    pub(super) async fn tail(self) -> Vec<String> {
        drop(tokio::time::timeout(DRAIN_LIMIT, self.ended).await);
        last_lines(lock(&self.last).make_contiguous())
    }
}

fn carry(mut from: PipeReader, log: &Log, keep: &Mutex<VecDeque<u8>>) {
    let limit = usize::try_from(TAIL_BYTES).unwrap_or(usize::MAX);
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return,
        };
        let bytes = &buffer[..count];
        {
            let mut kept = lock(keep);
            kept.extend(bytes);
            let over = kept.len().saturating_sub(limit);
            kept.drain(..over);
        }
        log.pass(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bytes_pass_as_they_are_and_markers_have_lines_of_their_own() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let log = Log::to(file.reopen().unwrap());
        let (mut writer, output) = Output::open(&log, "=== one ===".to_owned()).unwrap();
        writer.write_all(b"\xff\r\nunfinished").unwrap();
        drop(writer);
        assert_eq!(output.tail().await, ["\u{fffd}", "unfinished"]);
        let (mut writer, output) = Output::open(&log, "=== two ===".to_owned()).unwrap();
        for n in 0..5000 {
            writeln!(writer, "line {n}").unwrap();
        }
        drop(writer);
        let tail = output.tail().await;
        assert_eq!((tail.len(), tail[19].as_str()), (20, "line 4999"));
        let whole = std::fs::read(file.path()).unwrap();
        let begins = b"=== one ===\n\xff\r\nunfinished\n=== two ===\nline 0\n";
        assert!(whole.starts_with(begins), "{:?}", &whole[..begins.len()]);
    }

    #[tokio::test]
    async fn a_pipe_that_somebody_holds_does_not_hold_up_the_tail() {
        let log = Log::to(tempfile::tempfile().unwrap());
        let (mut writer, output) = Output::open(&log, "=== one ===".to_owned()).unwrap();
        writer.write_all(b"words\n").unwrap();
        let held = writer.try_clone().unwrap();
        drop(writer);
        assert_eq!(output.tail().await, ["words"]);
        drop(held);
    }
}
