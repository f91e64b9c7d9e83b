//! The logs of all containers, streamed into the run folder; events and object dumps.
//!
//! One task for each file `logs/<node>.<component>.log` reads the containers of that component one after the other, each from its
//! start to its end, across restarts and pods. A stream that breaks is taken up again some seconds before the last line, and what is
//! known already is left out: lines carry the runtime's timestamps of nanoseconds. What cannot be read any more: the last lines of a
//! container whose pod is gone, those that the kubelet rotated away, and a container that was there and gone between two looks.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use fs_err::{File, OpenOptions};
use futures::{AsyncBufRead, AsyncBufReadExt as _};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, PersistentVolumeClaim, Pod, ResourceQuota, Secret, Service};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ListParams, LogParams};
use kube::{Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::watch::{Container, Crashed, Event, Pods, State};

/// How long the API server may take to open a stream.
const OPEN: Duration = Duration::from_secs(5);
/// How long a log that is read to its present end may bring nothing.
const QUIET: Duration = Duration::from_secs(5);
/// Between two attempts to open a stream, and how long the view may take to know that a container has ended.
const AGAIN: Duration = Duration::from_millis(250);
/// How long a stream may go on when its container is no longer the one of the pod: what was force-deleted still lives for a while.
const FORMER: Duration = Duration::from_secs(2);
/// How long streams go on when the end was asked for.
const LAST: Duration = Duration::from_millis(200);
/// A stream is taken up again this much before its last line.
const BACK_SECS: i64 = 2;
/// Lines younger than this are known by heart.
const KEPT_SECS: i64 = 10;
/// A line that is longer is written in pieces.
const LONGEST: usize = 1024 * 1024;
/// Attempts to read the rest of a container that has ended.
const ATTEMPTS: usize = 4;
/// How long a list of objects may take.
const LIST: Duration = Duration::from_secs(10);

/// Streams the logs of a namespace into a run folder. Dropping it ends the streams at once.
#[derive(Debug)]
#[must_use = "logs end when they are dropped"]
pub struct Logs {
    stop: CancellationToken,
    task: AbortOnDropHandle<Vec<String>>,
}

impl Logs {
    /// Follows every container of every pod of the view into `logs/<node>.<component>.log` below `folder`, from its start, and writes
    /// the events to `events.jsonl` as they become known. A pod without the label of a node is called by its own name. Containers that
    /// prepare a pod get a file only when they fail.
    ///
    /// # Errors
    /// When the folder or a file cannot be made.
    pub fn spawn(client: Client, namespace: &str, pods: Pods, folder: &Path) -> io::Result<Self> {
        let logs = folder.join("logs");
        fs_err::create_dir_all(&logs)?;
        let events = append(&folder.join("events.jsonl"))?;
        let stop = CancellationToken::new();
        let files = Files {
            api: Api::namespaced(client, namespace),
            pods,
            logs,
            stop: stop.clone(),
        };
        let task = AbortOnDropHandle::new(tokio::spawn(Box::pin(files.run(events))));
        Ok(Self { stop, task })
    }

    /// Reads what was written last and ends; call it before the pods are removed if everything is wanted. The result names in words
    /// what is incomplete.
    pub async fn finish(self, limit: Duration) -> Vec<String> {
        let Self { stop, task } = self;
        stop.cancel();
        match timeout(limit, task).await {
            Ok(Ok(missing)) => missing,
            Ok(Err(error)) => vec![format!("the streams of the logs: {error}")],
            Err(_) => vec![format!(
                "the ends of the logs were not read within {} s",
                limit.as_secs()
            )],
        }
    }
}

/// The last lines of a container that ended; empty where they cannot be had.
pub async fn tail(client: &Client, namespace: &str, crashed: &Crashed, lines: usize) -> Vec<String> {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let Crashed { pod, container, again } = crashed;
    // What ended may have been started again just now.
    for previous in [*again, !*again] {
        let params = LogParams {
            container: Some(container.clone()),
            previous,
            tail_lines: i64::try_from(lines).ok(),
            ..LogParams::default()
        };
        if let Ok(Ok(text)) = timeout(OPEN, Box::pin(api.logs(pod, &params))).await
            && !text.is_empty()
        {
            return text.lines().map(str::to_owned).collect();
        }
    }
    Vec::new()
}

/// Writes every object of a namespace that says something of a run into `objects/<kind>.<name>.yaml` below `folder`; of Secrets only
/// the names of what they hold. The result names in words what could not be had.
pub async fn dump(client: &Client, namespace: &str, folder: &Path) -> Vec<String> {
    let folder = folder.join("objects");
    if let Err(error) = fs_err::create_dir_all(&folder) {
        return vec![error.to_string()];
    }
    let mut missing = Vec::new();
    let client = || client.clone();
    let (pods, sets, claims, services, maps, secrets, quotas) = tokio::join!(
        list::<Pod>(Api::namespaced(client(), namespace)),
        list::<StatefulSet>(Api::namespaced(client(), namespace)),
        list::<PersistentVolumeClaim>(Api::namespaced(client(), namespace)),
        list::<Service>(Api::namespaced(client(), namespace)),
        list::<ConfigMap>(Api::namespaced(client(), namespace)),
        list::<Secret>(Api::namespaced(client(), namespace)),
        list::<ResourceQuota>(Api::namespaced(client(), namespace)),
    );
    for listed in [pods, sets, claims, services, maps, secrets, quotas] {
        match listed {
            Ok(objects) => missing.extend(objects.iter().filter_map(|object| object.write(&folder).err())),
            Err(why) => missing.push(why),
        }
    }
    let spaces: Api<Namespace> = Api::all(client());
    match timeout(LIST, spaces.get(namespace)).await {
        Ok(Ok(space)) => missing.extend(Dumped::of(&space).and_then(|object| object.write(&folder)).err()),
        Ok(Err(error)) => missing.push(format!("the namespace {namespace}: {error}")),
        Err(_) => missing.push(format!("the namespace {namespace}: no answer in time")),
    }
    missing
}

struct Dumped {
    kind: String,
    name: String,
    value: serde_json::Value,
}

impl Dumped {
    fn of<K>(object: &K) -> Result<Self, String>
    where
        K: Resource<DynamicType = ()> + serde::Serialize,
    {
        let kind = K::kind(&()).into_owned();
        let name = object.name_any();
        let mut value = serde_json::to_value(object).map_err(|error| format!("{kind} {name}: {error}"))?;
        if let Some(metadata) = value.get_mut("metadata").and_then(serde_json::Value::as_object_mut) {
            metadata.remove("managedFields");
            // It repeats the whole object, keys included, where kubectl made it.
            if let Some(annotations) = metadata.get_mut("annotations").and_then(|it| it.as_object_mut()) {
                annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
            }
        }
        if kind == "Secret" {
            for part in ["data", "stringData"] {
                if let Some(held) = value.get_mut(part).and_then(serde_json::Value::as_object_mut) {
                    held.values_mut().for_each(|value| *value = json!("not shown"));
                }
            }
        }
        if let Some(object) = value.as_object_mut() {
            object.insert("apiVersion".to_owned(), json!(K::api_version(&())));
            object.insert("kind".to_owned(), json!(kind));
        }
        Ok(Self { kind, name, value })
    }

    fn write(&self, folder: &Path) -> Result<(), String> {
        let Self { kind, name, value } = self;
        let text = serde_saphyr::to_string(value).map_err(|error| format!("{kind} {name}: {error}"))?;
        let path = folder.join(format!("{}.{name}.yaml", kind.to_lowercase()));
        fs_err::write(path, text).map_err(|error| error.to_string())
    }
}

async fn list<K>(api: Api<K>) -> Result<Vec<Dumped>, String>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned + serde::Serialize,
{
    let kind = K::kind(&());
    match timeout(LIST, Box::pin(api.list(&ListParams::default()))).await {
        Ok(Ok(objects)) => objects.items.iter().map(Dumped::of).collect(),
        Ok(Err(error)) => Err(format!("{kind}: {error}")),
        Err(_) => Err(format!("{kind}: no answer in time")),
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// The task that starts the others.
struct Files {
    api: Api<Pod>,
    pods: Pods,
    logs: PathBuf,
    stop: CancellationToken,
}

impl Files {
    async fn run(self, mut events: File) -> Vec<String> {
        let mut pods = self.pods.clone();
        let mut written = 0;
        let mut failed_inits = HashSet::new();
        let mut followed = HashSet::new();
        let mut tasks = JoinSet::new();
        let mut missing = Vec::new();
        loop {
            let stopped = self.stop.is_cancelled();
            let (found, new_events) = pods.look(|view| {
                let mut found = Vec::new();
                for pod in view.pods.values() {
                    let node = pod.node.as_ref().unwrap_or(&pod.name);
                    found.extend(
                        pod.containers
                            .iter()
                            .map(|c| (node.clone(), pod.name.clone(), c.clone())),
                    );
                }
                let first = usize::try_from(written - view.dropped.min(written)).unwrap_or(0);
                let new: Vec<Event> = view.events.iter().skip(first).cloned().collect();
                written = view.dropped + view.events.len() as u64;
                (found, new)
            });
            for event in &new_events {
                if let Err(error) = writeln!(events, "{}", event_line(event)) {
                    missing.push(error.to_string());
                }
            }
            for (node, pod, container) in found {
                let follower = self.follower(&node, &pod, &container.name);
                if container.init {
                    if failed(&container) && failed_inits.insert(container.id.clone()) {
                        tasks.spawn(follower.once());
                    }
                } else if followed.insert((pod, container.name)) {
                    tasks.spawn(follower.run());
                }
            }
            if stopped {
                break;
            }
            tokio::select! {
                () = pods.changed() => {}
                () = self.stop.cancelled() => {}
            }
        }
        while let Some(ended) = tasks.join_next().await {
            match ended {
                Ok(Ok(())) => {}
                Ok(Err(why)) => missing.push(why),
                Err(error) => missing.push(format!("the stream of a log: {error}")),
            }
        }
        missing
    }

    fn follower(&self, node: &str, pod: &str, container: &str) -> Follower {
        Follower {
            api: self.api.clone(),
            pods: self.pods.clone(),
            node: node.to_owned(),
            pod: pod.to_owned(),
            container: container.to_owned(),
            path: self.logs.join(format!("{node}.{container}.log")),
            stop: self.stop.clone(),
        }
    }
}

fn failed(container: &Container) -> bool {
    match &container.state {
        State::Terminated(ended) => ended.code != 0,
        State::Waiting { .. } | State::Running { .. } => container.last.as_ref().is_some_and(|last| last.code != 0),
    }
}

fn event_line(event: &Event) -> serde_json::Value {
    let Event {
        known: _,
        past: _,
        time,
        warning,
        kind,
        name,
        uid,
        reason,
        message,
        count,
    } = event;
    json!({
        "time": time.map(|time| time.to_string()),
        "type": if *warning { "Warning" } else { "Normal" },
        "kind": kind,
        "name": name,
        "uid": uid,
        "reason": reason,
        "message": message,
        "count": count,
    })
}

/// Reads the containers of one component, one after the other, into one file.
struct Follower {
    api: Api<Pod>,
    pods: Pods,
    node: String,
    pod: String,
    container: String,
    path: PathBuf,
    stop: CancellationToken,
}

/// Where a container is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Where {
    /// It is the pod's, and runs.
    Live,
    /// It is the pod's, and has ended.
    Over,
    /// The pod has a newer one; its log is still there.
    Former,
    /// Its log cannot be had any more.
    Lost,
}

/// How reading a stream ended.
enum End {
    /// The stream is at its end.
    Ended,
    /// It broke, or could not be opened.
    Broken(String),
    /// Somebody here had enough.
    Enough,
}

impl Follower {
    async fn run(self) -> Result<(), String> {
        let mut log = Log::open(&self.path).map_err(|error| error.to_string())?;
        let mut done = String::new();
        let mut missing = None;
        while let Some(container) = self.next(&done).await {
            let former = container.last.as_ref().map(|last| last.id.clone());
            // One that came and went, or of which the end is missing.
            if let Some(former) = former.filter(|former| !former.is_empty() && *former != done) {
                missing = missing.or(self.read(&former, &mut log).await?);
            }
            done = container.id;
            missing = missing.or(self.read(&done, &mut log).await?);
        }
        let lacks = |why| Err(format!("{} may lack lines: {why}", self.path.display()));
        missing.map_or(Ok(()), lacks)
    }

    /// The log of a container that failed to prepare its pod, as it is now.
    async fn once(self) -> Result<(), String> {
        let mut log = Log::open(&self.path).map_err(|error| error.to_string())?;
        for _ in 0..ATTEMPTS {
            if let End::Ended = self.stream(&mut log, Where::Over, false).await? {
                break;
            }
            sleep(AGAIN).await;
        }
        Ok(())
    }

    /// The next container that was started; `None` when it should end and there is none.
    async fn next(&self, done: &str) -> Option<Container> {
        let mut pods = self.pods.clone();
        loop {
            let stopped = self.stop.is_cancelled();
            let current = self
                .current()
                .filter(|container| !container.id.is_empty() && container.id != done);
            if current.is_some() || stopped {
                return current;
            }
            tokio::select! {
                () = pods.changed() => {}
                () = self.stop.cancelled() => {}
            }
        }
    }

    fn current(&self) -> Option<Container> {
        self.pods.look(|view| {
            let pod = view.pods.get(&self.pod).or_else(|| view.pod_of(&self.node))?;
            pod.container(&self.container).cloned()
        })
    }

    fn place(&self, id: &str) -> Where {
        match self.current() {
            Some(current) if current.id == id => match current.state {
                State::Running { .. } => Where::Live,
                State::Terminated(_) | State::Waiting { .. } => Where::Over,
            },
            Some(current) if current.last.as_ref().is_some_and(|last| last.id == id) => Where::Former,
            _ => Where::Lost,
        }
    }

    /// Reads a container to its end; gives the reason if its last lines may be missing. Errors are those of the file.
    async fn read(&self, id: &str, log: &mut Log) -> Result<Option<String>, String> {
        let mut attempts = 0;
        let mut ended = false;
        log.own = false;
        loop {
            let place = self.place(id);
            if place == Where::Lost {
                return Ok(None);
            }
            let stopped = self.stop.is_cancelled();
            let follow = place == Where::Live && !stopped;
            let stream = self.stream(log, place, follow);
            let end = if follow {
                tokio::select! {
                    end = stream => end?,
                    () = self.former(id) => End::Enough,
                    () = self.stopping() => End::Enough,
                }
            } else {
                stream.await?
            };
            match end {
                // Only what was read when it was over is all of it.
                End::Ended if !follow => return Ok(None),
                End::Ended => ended = true,
                End::Enough => ended = false,
                End::Broken(why) if !follow => {
                    attempts += 1;
                    if attempts >= ATTEMPTS {
                        // The kubelet removes old containers; what was followed to its end is whole anyway.
                        return Ok(Some(why).filter(|_| !ended));
                    }
                }
                End::Broken(_) => ended = false,
            }
            if !stopped {
                self.moved(id, place).await;
            }
        }
    }

    /// Waits a little for the view to know more of this container.
    async fn moved(&self, id: &str, from: Where) {
        let mut pods = self.pods.clone();
        let moved = async {
            while self.place(id) == from {
                pods.changed().await;
            }
        };
        drop(timeout(AGAIN, moved).await);
    }

    /// Ends when the container has not been the pod's for a while.
    async fn former(&self, id: &str) {
        let mut pods = self.pods.clone();
        while matches!(self.place(id), Where::Live | Where::Over) {
            pods.changed().await;
        }
        sleep(FORMER).await;
    }

    async fn stopping(&self) {
        self.stop.cancelled().await;
        sleep(LAST).await;
    }

    /// Opens a stream and writes what is new of it. Errors are those of the file.
    async fn stream(&self, log: &mut Log, place: Where, follow: bool) -> Result<End, String> {
        let params = LogParams {
            container: Some(self.container.clone()),
            follow,
            previous: place == Where::Former,
            since_time: log.since(),
            timestamps: true,
            ..LogParams::default()
        };
        let opened = timeout(OPEN, Box::pin(self.api.log_stream(&self.pod, &params))).await;
        let stream = match opened {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Ok(End::Broken(error.to_string())),
            Err(_) => return Ok(End::Broken("the API server opens no stream in time".to_owned())),
        };
        copy(std::pin::pin!(stream), log, follow)
            .await
            .map_err(|error| error.to_string())
    }
}

/// Writes what a stream brings, as it comes. Errors are those of the file.
async fn copy(
    mut stream: std::pin::Pin<&mut (impl AsyncBufRead + Send)>,
    log: &mut Log<impl Write + Send>,
    follow: bool,
) -> io::Result<End> {
    log.begin();
    let quiet = if follow { Duration::MAX } else { QUIET };
    loop {
        let bytes = match timeout(quiet, stream.fill_buf()).await {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(error)) => return Ok(End::Broken(error.to_string())),
            Err(_) => return Ok(End::Broken("the stream brought nothing for too long".to_owned())),
        };
        if bytes.is_empty() {
            // A line without an end may have been cut off where the API server closed the stream.
            if !follow {
                log.end()?;
            }
            return Ok(log.complaint.take().map_or(End::Ended, End::Broken));
        }
        let read = bytes.len();
        log.feed(bytes)?;
        stream.as_mut().consume(read);
        if let Some(why) = log.complaint.take() {
            return Ok(End::Broken(why));
        }
    }
}

/// A file, and what has to be known of its last lines so that none stands there twice.
struct Log<W = File> {
    file: W,
    /// The lines of the last seconds, by the second of their timestamp: how often each was written.
    seen: BTreeMap<i64, HashMap<u64, u32>>,
    /// Lines that the stream may bring again.
    skip: HashMap<u64, u32>,
    /// The beginning of a line, with its timestamp.
    partial: Vec<u8>,
    /// Whether the line was too long, and its beginning is written.
    long: bool,
    /// Whether lines of the present container were written.
    own: bool,
    /// What the kubelet said in place of lines.
    complaint: Option<String>,
}

impl Log {
    fn open(path: &Path) -> io::Result<Self> {
        append(path).map(Self::new)
    }
}

impl<W: Write> Log<W> {
    fn new(file: W) -> Self {
        Self {
            file,
            seen: BTreeMap::new(),
            skip: HashMap::new(),
            partial: Vec::new(),
            long: false,
            own: false,
            complaint: None,
        }
    }

    /// From when on a stream of the present container is wanted; `None`: from its start. The API rounds to seconds.
    fn since(&self) -> Option<Timestamp> {
        let (newest, _) = self.seen.last_key_value().filter(|_| self.own)?;
        Timestamp::from_second(newest - BACK_SECS).ok()
    }

    /// A stream begins.
    fn begin(&mut self) {
        self.skip.clear();
        for (line, count) in self.seen.values().flatten() {
            *self.skip.entry(*line).or_default() += count;
        }
        self.partial.clear();
        self.long = false;
        self.complaint = None;
    }

    fn feed(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let mut out = Vec::with_capacity(bytes.len());
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let (line, rest) = bytes.split_at(end + 1);
            bytes = rest;
            if self.partial.is_empty() {
                self.line(line, &mut out);
            } else {
                let mut whole = std::mem::take(&mut self.partial);
                whole.extend_from_slice(line);
                self.line(&whole, &mut out);
            }
        }
        self.partial.extend_from_slice(bytes);
        if self.partial.len() > LONGEST {
            let piece = std::mem::take(&mut self.partial);
            self.line(&piece, &mut out);
            self.long = true;
        }
        self.file.write_all(&out)
    }

    /// The stream is complete.
    fn end(&mut self) -> io::Result<()> {
        if self.partial.is_empty() && !self.long {
            return Ok(());
        }
        self.feed(b"\n")
    }

    /// A line with its timestamp, or a piece of one.
    fn line(&mut self, line: &[u8], out: &mut Vec<u8>) {
        if self.long {
            self.long = line.last() != Some(&b'\n');
            out.extend_from_slice(line);
            return;
        }
        let mut hasher = DefaultHasher::new();
        line.hash(&mut hasher);
        let hash = hasher.finish();
        if let Some(left) = self.skip.get_mut(&hash).filter(|left| **left > 0) {
            *left -= 1;
            return;
        }
        let Some((time, text)) = stamped(line) else {
            // The kubelet speaks for itself: "unable to retrieve container logs for …", with status 200.
            self.complaint
                .get_or_insert(String::from_utf8_lossy(line).trim().to_owned());
            return;
        };
        let newest = self.seen.last_key_value().map_or(i64::MIN, |(second, _)| *second);
        let second = time.as_second();
        *self.seen.entry(second).or_default().entry(hash).or_default() += 1;
        let oldest = newest.max(second).saturating_sub(KEPT_SECS);
        while self.seen.first_key_value().is_some_and(|(second, _)| *second < oldest) {
            self.seen.pop_first();
        }
        self.own = true;
        out.extend_from_slice(text);
    }
}

/// The timestamp that the kubelet puts before a line, and the line itself.
fn stamped(line: &[u8]) -> Option<(Timestamp, &[u8])> {
    let space = line.iter().position(|byte| *byte == b' ')?;
    let time = std::str::from_utf8(&line[..space]).ok()?.parse().ok()?;
    Some((time, &line[space + 1..]))
}

#[cfg(test)]
mod tests {
    use futures::io::{AsyncReadExt as _, Cursor};
    use proptest::prelude::*;

    use super::*;

    fn line(second: u32, text: &str) -> String {
        format!("2026-01-01T00:{:02}:{:02}.5Z {text}\n", second / 60, second % 60)
    }

    fn text(log: &Log<Vec<u8>>) -> String {
        String::from_utf8(log.file.clone()).unwrap()
    }

    #[test]
    fn timestamps_are_taken_off() {
        let mut log = Log::new(Vec::new());
        log.begin();
        log.feed(b"2026-01-01T00:00:00.123456789Z one\n2026-01-01T01:00:00.1+01:00 two\n2026-01-01T00:")
            .unwrap();
        log.feed(b"00:00Z \n2026-01-01T00:00:01Z rest").unwrap();
        assert_eq!(text(&log), "one\ntwo\n\n");
        log.end().unwrap();
        assert_eq!(text(&log), "one\ntwo\n\nrest\n");
        log.end().unwrap();
        assert_eq!(text(&log), "one\ntwo\n\nrest\n");
    }

    #[test]
    fn lines_of_a_container_read_before_do_not_tell_where_to_begin_the_next() {
        let mut log = Log::new(Vec::new());
        assert_eq!(log.since(), None);
        log.begin();
        log.feed(line(30, "a").as_bytes()).unwrap();
        assert_eq!(log.since().unwrap().to_string(), "2026-01-01T00:00:28Z");
        log.own = false;
        assert_eq!(log.since(), None);
    }

    #[test]
    fn equal_lines_are_counted() {
        let mut log = Log::new(Vec::new());
        log.begin();
        log.feed([line(1, "x"), line(1, "x")].concat().as_bytes()).unwrap();
        log.begin();
        log.feed([line(1, "x"), line(1, "x"), line(1, "x")].concat().as_bytes())
            .unwrap();
        assert_eq!(text(&log), "x\nx\nx\n");
        log.begin();
        log.feed([line(1, "x"), line(1, "x"), line(1, "x")].concat().as_bytes())
            .unwrap();
        assert_eq!(text(&log), "x\nx\nx\n");
    }

    #[test]
    fn long_lines_are_written_in_pieces_and_memory_is_bounded() {
        let mut log = Log::new(Vec::new());
        log.begin();
        let long = "y".repeat(3 * LONGEST);
        for piece in line(1, &long).as_bytes().chunks(100_000) {
            log.feed(piece).unwrap();
            assert!(log.partial.len() <= LONGEST + 100_000);
        }
        log.feed(line(2, "next").as_bytes()).unwrap();
        assert_eq!(text(&log), format!("{long}\nnext\n"));
        for second in 3..600 {
            log.feed(line(second, "z").as_bytes()).unwrap();
        }
        assert!(log.seen.len() <= usize::try_from(KEPT_SECS).unwrap() + 1);
    }

    #[tokio::test]
    async fn a_stream_that_breaks_is_told_from_one_that_ends() {
        let mut log = Log::new(Vec::new());
        let whole = [line(1, "a"), line(2, "b")].concat();
        let cut = &whole.as_bytes()[..whole.len() - 2];
        // The API server ends a stream that it lost as if it were complete.
        let end = copy(std::pin::pin!(Cursor::new(cut)), &mut log, true).await;
        assert!(matches!(end, Ok(End::Ended)));
        assert_eq!(text(&log), "a\n");
        let failing = Cursor::new(cut).chain(Failing);
        let end = copy(std::pin::pin!(failing), &mut log, true).await;
        assert!(matches!(end, Ok(End::Broken(_))));
        let end = copy(std::pin::pin!(Cursor::new(whole.as_bytes())), &mut log, false).await;
        assert!(matches!(end, Ok(End::Ended)));
        assert_eq!(text(&log), "a\nb\n");
    }

    #[tokio::test]
    async fn what_the_kubelet_says_of_itself_is_no_line_of_the_log() {
        for end in ["", "\n"] {
            let mut log = Log::new(Vec::new());
            let words = "unable to retrieve container logs for containerd://1";
            let stream = format!("{}{words}{end}", line(1, "a"));
            let end = copy(std::pin::pin!(Cursor::new(stream.as_bytes())), &mut log, false).await;
            assert!(matches!(end, Ok(End::Broken(why)) if why == words));
            assert_eq!(text(&log), "a\n");
            let end = copy(std::pin::pin!(Cursor::new(line(2, "b"))), &mut log, false).await;
            assert!(matches!(end, Ok(End::Ended)));
            assert_eq!(text(&log), "a\nb\n");
        }
    }

    struct Failing;

    impl futures::AsyncRead for Failing {
        fn poll_read(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            _: &mut [u8],
        ) -> std::task::Poll<io::Result<usize>> {
            std::task::Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
        }
    }

    impl AsyncBufRead for Failing {
        fn poll_fill_buf(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<io::Result<&[u8]>> {
            std::task::Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
        }

        fn consume(self: std::pin::Pin<&mut Self>, _: usize) {}
    }

    proptest! {
        /// A log that grows, read in streams that break anywhere and begin again at `since`, with lines of two writers a little out
        /// of order: the file holds every line once.
        #[test]
        fn breaks_lose_and_repeat_nothing(
            steps in proptest::collection::vec((0_u32..3, 0_u8..4), 1..60),
            breaks in proptest::collection::vec((1_usize..400, 1_usize..7), 1..12),
        ) {
            let mut second = 0;
            let mut lines = Vec::new();
            for (passed, what) in steps {
                second += passed;
                // One of two streams is written a moment later than it was stamped.
                lines.push((second.saturating_sub(u32::from(what == 3)), format!("{what}")));
            }
            let mut log = Log::new(Vec::new());
            let read = |log: &mut Log<Vec<u8>>, most: usize, piece: usize, whole: bool| {
                let since = log.since().map(Timestamp::as_second);
                let stream: String = lines
                    .iter()
                    .filter(|(at, _)| since.is_none_or(|since| stamp(*at) >= since))
                    .map(|(at, text)| line(*at, text))
                    .collect();
                log.begin();
                let bytes = &stream.as_bytes()[..if whole { stream.len() } else { most.min(stream.len()) }];
                for piece in bytes.chunks(piece) {
                    log.feed(piece).unwrap();
                }
            };
            for (most, piece) in breaks {
                read(&mut log, most, piece, false);
            }
            read(&mut log, 0, 64, true);
            let expected: String = lines.iter().map(|(_, text)| format!("{text}\n")).collect();
            prop_assert_eq!(text(&log), expected);
        }
    }

    fn stamp(second: u32) -> i64 {
        "2026-01-01T00:00:00Z".parse::<Timestamp>().unwrap().as_second() + i64::from(second)
    }

    #[test]
    fn secrets_are_not_shown() {
        let secret: Secret = serde_json::from_value(json!({
            "metadata": { "name": "keys", "managedFields": [{}], "annotations": {
                "kubectl.kubernetes.io/last-applied-configuration": "c2VjcmV0", "other": "kept" } },
            "data": { "f0": "c2VjcmV0" },
        }))
        .unwrap();
        let folder = tempfile::tempdir().unwrap();
        Dumped::of(&secret).unwrap().write(folder.path()).unwrap();
        let text = std::fs::read_to_string(folder.path().join("secret.keys.yaml")).unwrap();
        assert!(!text.contains("c2VjcmV0") && !text.contains("managedFields"), "{text}");
        assert!(
            text.contains("kind: Secret") && text.contains("f0: not shown") && text.contains("other: kept"),
            "{text}"
        );
    }
}
