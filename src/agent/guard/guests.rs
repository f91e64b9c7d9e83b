//! Those who come by the socket of a guard that stays: they ask what trialnet itself asks over the pipes, side by side.
//!
//! Each guest has a number. The ids of its questions carry it in their upper half inside the guard, so an answer finds its way back.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::tell;
use crate::agent::lock;
use crate::agent::protocol::{Call, Said};

/// The bits of an id that are the guest's own.
const OWN: u32 = 32;

/// Where the guard speaks: to whoever began it, and to its guests. A copy is the same voice.
#[derive(Clone, Debug)]
pub(super) struct Voice {
    stdout: mpsc::UnboundedSender<String>,
    guests: Arc<Mutex<BTreeMap<u64, mpsc::UnboundedSender<String>>>>,
}

impl Voice {
    pub(super) fn new(stdout: mpsc::UnboundedSender<String>) -> Self {
        Self {
            stdout,
            guests: Arc::default(),
        }
    }

    /// Says it to whom it concerns: an answer to the one who asked, anything else to all.
    pub(super) fn say(&self, said: &Said) {
        let guests = lock(&self.guests);
        match said {
            Said::Answer { id, result } if id >> OWN > 0 => {
                // A guest that has left does not wait for it any more.
                if let Some(guest) = guests.get(&(id >> OWN)) {
                    let id = id & ((1 << OWN) - 1);
                    let result = result.clone();
                    tell(guest, &Said::Answer { id, result });
                }
            }
            Said::Answer { .. } => tell(&self.stdout, said),
            Said::Node { .. } | Said::Trouble(_) => {
                tell(&self.stdout, said);
                for guest in guests.values() {
                    tell(guest, said);
                }
            }
        }
    }
}

/// The guests of a guard.
#[derive(Debug)]
pub(super) struct Guests {
    voice: Voice,
    calls: mpsc::UnboundedSender<Call>,
    asked: mpsc::UnboundedReceiver<Call>,
    door: Option<JoinHandle<()>>,
    writers: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

impl Guests {
    pub(super) fn new(voice: Voice) -> Self {
        let (calls, asked) = mpsc::unbounded_channel();
        Self {
            voice,
            calls,
            asked,
            door: None,
            writers: Arc::default(),
        }
    }

    /// Lets guests in at this path; a second door replaces the first.
    pub(super) fn open(&mut self, path: &Path) -> io::Result<()> {
        if let Some(door) = self.door.take() {
            door.abort();
        }
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        let (voice, calls, writers) = (self.voice.clone(), self.calls.clone(), Arc::clone(&self.writers));
        self.door = Some(tokio::spawn(async move {
            for number in 1.. {
                let Ok((stream, _)) = listener.accept().await else {
                    return;
                };
                let writer = welcome(number, stream, &voice, &calls);
                let mut writers = lock(&writers);
                writers.retain(|writer| !writer.is_finished());
                writers.push(writer);
            }
        }));
        Ok(())
    }

    /// The next question of a guest.
    pub(super) async fn next(&mut self) -> Option<Call> {
        self.asked.recv().await
    }

    /// Lets nobody in any more, and waits a moment for the last words to get out.
    pub(super) async fn leave(self, limit: Duration) {
        if let Some(door) = self.door {
            door.abort();
        }
        lock(&self.voice.guests).clear();
        let writers = std::mem::take(&mut *lock(&self.writers));
        // A guest that does not read its answer does not hold the end up.
        drop(tokio::time::timeout(limit, futures::future::join_all(writers)).await);
    }
}

/// Listens to a guest until it leaves; the task that writes to it is returned.
fn welcome(number: u64, stream: UnixStream, voice: &Voice, calls: &mpsc::UnboundedSender<Call>) -> JoinHandle<()> {
    let (read, write) = stream.into_split();
    let (say, sayings) = mpsc::unbounded_channel();
    lock(&voice.guests).insert(number, say);
    let (voice, calls) = (voice.clone(), calls.clone());
    tokio::spawn(async move {
        hear(number, read, &calls).await;
        lock(&voice.guests).remove(&number);
    });
    tokio::spawn(write_all(write, sayings))
}

/// Passes on what a guest asks; returns when it has left, or is not to be understood.
async fn hear(number: u64, read: OwnedReadHalf, calls: &mpsc::UnboundedSender<Call>) {
    let mut lines = BufReader::new(read).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let Ok(Call { id, ask }) = serde_json::from_str(&line) else {
            return;
        };
        if id >> OWN > 0
            || calls
                .send(Call {
                    id: id | (number << OWN),
                    ask,
                })
                .is_err()
        {
            return;
        }
    }
}

async fn write_all(mut write: OwnedWriteHalf, mut sayings: mpsc::UnboundedReceiver<String>) {
    while let Some(line) = sayings.recv().await {
        if write.write_all(line.as_bytes()).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::protocol::{Ask, Reply};

    async fn line(lines: &mut tokio::io::Lines<BufReader<UnixStream>>) -> Said {
        serde_json::from_str(&lines.next_line().await.unwrap().unwrap()).unwrap()
    }

    #[tokio::test]
    async fn each_guest_gets_its_own_answers() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let (stdout, mut heard) = mpsc::unbounded_channel();
        let voice = Voice::new(stdout);
        let mut guests = Guests::new(voice.clone());
        guests.open(&path).unwrap();
        let mut streams = Vec::new();
        for _ in 0..2 {
            let mut stream = UnixStream::connect(&path).await.unwrap();
            let call = Call { id: 7, ask: Ask::Renew };
            let text = serde_json::to_string(&call).unwrap() + "\n";
            stream.write_all(text.as_bytes()).await.unwrap();
            streams.push(BufReader::new(stream).lines());
        }
        let (first, second) = (guests.next().await.unwrap(), guests.next().await.unwrap());
        assert_ne!(first.id, second.id, "the same id of two guests is two questions");
        for (call, slot) in [(first, 1), (second, 2)] {
            let result = Ok(Reply::Slot(Some(slot)));
            voice.say(&Said::Answer { id: call.id, result });
        }
        let mut slots = Vec::new();
        for stream in &mut streams {
            let Said::Answer {
                id: 7,
                result: Ok(Reply::Slot(slot)),
            } = line(stream).await
            else {
                panic!("another answer")
            };
            slots.push(slot);
        }
        slots.sort_unstable();
        assert_eq!(slots, [Some(1), Some(2)]);
        assert!(heard.try_recv().is_err(), "whoever began the guard asked nothing");
        voice.say(&Said::Trouble(crate::agent::trouble("infra/x", "one", "two")));
        assert!(heard.try_recv().is_ok());
        assert!(matches!(line(&mut streams[0]).await, Said::Trouble(_)));
        drop(voice);
        guests.leave(Duration::from_secs(1)).await;
        let [_, mut other] = <[_; 2]>::try_from(streams).unwrap();
        assert!(matches!(line(&mut other).await, Said::Trouble(_)));
        assert_eq!(other.next_line().await.unwrap(), None, "the guard hangs up");
    }
}
