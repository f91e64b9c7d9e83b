//! Pods and what keeps them from running: the reasons for which waiting makes no sense.
//!
//! One watch over the pods of a namespace and one over its events keep a [`View`] up to date. [`verdict`] is a pure look at a pod in
//! it: an image that is not there, a crash loop, no room, and so on. A crash that a step caused is none of these; only the caller knows
//! which nodes a fault is on, and leaves them out.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1;
use k8s_openapi::jiff::Timestamp;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use tokio::sync::watch::{self, Receiver, Sender};
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use super::attach::Seats;
use super::logs;
use super::objects::NODE;
use crate::agent::{node_trouble, trouble};
use crate::backend::Trouble;
use crate::model::{Ms, NodeName};

/// How long a pod may find no room before that is trouble: those that are on their way out make some.
pub const UNSCHEDULABLE: Duration = Duration::from_secs(5);
/// How long what the kubelet tries again by itself (a volume, a sandbox) may fail.
pub const STUCK: Duration = Duration::from_secs(5);
/// Lines of a crashed container that are shown.
pub const TAIL: usize = 20;
/// Events that are kept.
const EVENTS: usize = 20_000;
/// A condition is looked at this often even when nothing changes, since some depend on time.
const LOOK: Duration = Duration::from_millis(500);
/// Events before this time belong to something that was here before.
const PAST_SECS: i64 = 60;
/// Between attempts to watch, at first and at most.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(3));

/// A live view of the pods and events of a namespace. Copies are the same view; it ends with the last of them.
#[derive(Clone, Debug)]
pub struct Pods {
    view: Receiver<View>,
    _watching: Arc<AbortOnDropHandle<()>>,
}

/// What is known of a namespace.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// The namespace.
    pub namespace: String,
    /// Whether the pods that were there at the start have been read.
    pub synced: bool,
    /// The pods by name.
    pub pods: BTreeMap<String, Pod>,
    /// The events in the order in which they became known; one that is repeated stands here again.
    pub events: VecDeque<Event>,
    /// How many events were dropped at the front since there were too many.
    pub dropped: u64,
    /// Why a watch does not work at the moment.
    pub broken: Option<String>,
    /// Which pods are which nodes, where their labels do not say it.
    pub seats: Option<Seats>,
}

/// A pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Which incarnation of the name it is.
    pub uid: String,
    /// The node of the network that it is, by its label or its seat.
    pub node: Option<NodeName>,
    /// The uid of the object whose controller made it.
    pub owner: Option<String>,
    /// Whose it is over all revisions: of a pod of a Deployment that one, whose ReplicaSets come and go, else the owner; `Kind/name`.
    pub maker: Option<String>,
    /// The machine of the cluster that it is on.
    pub host: Option<String>,
    /// `Pending`, `Running`, `Succeeded`, `Failed` or `Unknown`.
    pub phase: String,
    /// Its address.
    pub ip: Option<String>,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Why the platform ended it, for example `Evicted`, and in its words.
    pub reason: Option<(String, String)>,
    /// Since when no machine has room for it, as far as this view saw it, and the scheduler's words.
    pub unschedulable: Option<(Instant, String)>,
    /// The revision of its StatefulSet that it was made from.
    pub revision: Option<String>,
    /// Its containers, those of its initialisation first.
    pub containers: Vec<Container>,
}

/// A container of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// Its name: the component.
    pub name: String,
    /// Whether it only prepares the pod.
    pub init: bool,
    /// Its image.
    pub image: String,
    /// The runtime's id; empty before the first start.
    pub id: String,
    /// How often the platform started it again in this pod.
    pub restarts: u32,
    /// Whether it is ready.
    pub ready: bool,
    /// What it does.
    pub state: State,
    /// How its former run ended.
    pub last: Option<Terminated>,
}

/// What a container does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It is not started, or not again.
    Waiting {
        /// For example `ContainerCreating`; empty where none is given.
        reason: String,
        /// In words.
        message: String,
    },
    /// It runs.
    Running {
        /// Since when, as the cluster says.
        since: Option<Timestamp>,
    },
    /// It has ended.
    Terminated(Terminated),
}

/// How a container ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terminated {
    /// The runtime's id of the container.
    pub id: String,
    /// The exit code.
    pub code: i32,
    /// The signal, where the runtime gives it.
    pub signal: Option<i32>,
    /// For example `Error`, `OOMKilled`.
    pub reason: String,
    /// In words.
    pub message: String,
}

/// An event of the namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When this view came to know it first.
    pub known: Instant,
    /// Whether it is from before the run.
    pub past: bool,
    /// When it happened last, as the cluster says.
    pub time: Option<Timestamp>,
    /// Whether it is a warning.
    pub warning: bool,
    /// The kind of the object that it is about.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// For example `FailedCreate`.
    pub reason: String,
    /// In words.
    pub message: String,
    /// How often it happened.
    pub count: i32,
}

/// What keeps a pod from running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The trouble.
    pub trouble: Trouble,
    /// Whose log says more.
    pub crashed: Option<Crashed>,
}

/// A container that ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crashed {
    /// Its pod.
    pub pod: String,
    /// Its name.
    pub container: String,
    /// Whether it was started again since.
    pub again: bool,
}

impl Pods {
    /// Watches the pods of a namespace that have the labels (all, if `None`), and all its events. Errors of the watch are tried again
    /// and stand in the view meanwhile. Has to be called within a tokio runtime.
    #[must_use]
    pub fn spawn(client: Client, namespace: &str, selector: Option<&str>) -> Self {
        Self::of(client, namespace, selector, None)
    }

    /// The same of pods that somebody else made: the seats say which of them are nodes.
    #[must_use]
    pub fn found(client: Client, namespace: &str, selector: &str, seats: Seats) -> Self {
        Self::of(client, namespace, Some(selector), Some(seats))
    }

    fn of(client: Client, namespace: &str, selector: Option<&str>, seats: Option<Seats>) -> Self {
        let empty = View {
            namespace: namespace.to_owned(),
            seats,
            ..View::default()
        };
        let (sender, view) = watch::channel(empty);
        let watching = tokio::spawn(Box::pin(follow(
            client,
            namespace.to_owned(),
            selector.map(str::to_owned),
            sender,
        )));
        Self {
            view,
            _watching: Arc::new(AbortOnDropHandle::new(watching)),
        }
    }

    /// The pod of this name, if there is one.
    #[must_use]
    pub fn get(&self, pod: &str) -> Option<Pod> {
        self.view.borrow().pods.get(pod).cloned()
    }

    /// Looks at everything at once. `look` must not take long: it holds up the watch.
    pub fn look<T>(&self, look: impl FnOnce(&View) -> T) -> T {
        look(&self.view.borrow())
    }

    /// Waits until something has changed since the last call on this copy.
    ///
    /// Cancel safe.
    pub async fn changed(&mut self) {
        if self.view.changed().await.is_err() {
            // The watch ends only with the runtime.
            std::future::pending().await
        }
    }

    /// Waits until `condition` gives `Ok`. It is looked at after every change, and every half second.
    ///
    /// # Errors
    /// What `condition` saw last when the limit ran out.
    pub async fn until<T>(
        &self,
        limit: Duration,
        mut condition: impl FnMut(&View) -> Result<T, String>,
    ) -> Result<T, String> {
        let mut view = self.view.clone();
        let deadline = Instant::now() + limit;
        loop {
            let (seen, broken) = {
                let view = view.borrow_and_update();
                match condition(&view) {
                    Ok(value) => return Ok(value),
                    Err(seen) => (seen, view.broken.clone()),
                }
            };
            let now = Instant::now();
            if now >= deadline {
                let broken = broken.map(|why| format!("; the watch does not work: {why}"));
                let limit = Ms::from(limit);
                return Err(format!("{seen} (after {limit}{})", broken.unwrap_or_default()));
            }
            let next = deadline.min(now + LOOK);
            if let Ok(Err(_)) = timeout_at(next, view.changed()).await {
                sleep_until(next).await;
            }
        }
    }

    /// What keeps one of these nodes from running, if anything does: see [`View::trouble`]. Of a container that crashed the last lines
    /// are fetched.
    pub async fn trouble<'a>(&self, client: &Client, nodes: impl IntoIterator<Item = &'a NodeName>) -> Option<Trouble> {
        let Found { mut trouble, crashed } = self.look(|view| view.trouble(nodes, Instant::now()))?;
        if let Some(crashed) = crashed {
            let namespace = self.look(|view| view.namespace.clone());
            let lines = logs::tail(client, &namespace, &crashed, TAIL).await;
            if !lines.is_empty() {
                trouble.seen = format!("{}; its last lines:\n{}", trouble.seen, lines.join("\n"));
            }
        }
        Some(trouble)
    }
}

impl View {
    /// What keeps one of these nodes (no fault may be on them) from running, the first that is found: the pod of a node has its
    /// label or is called after its StatefulSet.
    #[must_use]
    pub fn trouble<'a>(&self, nodes: impl IntoIterator<Item = &'a NodeName>, now: Instant) -> Option<Found> {
        nodes.into_iter().find_map(|node| match self.pod_of(node) {
            Some(pod) => verdict(pod, &self.events, now),
            None => refusal(&self.namespace, node, &self.events, now),
        })
    }

    /// The pod of a node.
    #[must_use]
    pub fn pod_of(&self, node: &str) -> Option<&Pod> {
        if let Some(seats) = &self.seats {
            let uid = seats.uid(node)?;
            return self.pods.values().find(|pod| pod.uid == uid);
        }
        let named = self.pods.values().find(|pod| pod.node.as_deref() == Some(node));
        named.or_else(|| self.pods.get(&format!("{node}-0")))
    }

    fn apply(&mut self, pod: v1::Pod) {
        let name = pod.metadata.name.clone().unwrap_or_default();
        let pod = read(pod, self.pods.get(&name));
        self.pods.insert(name, pod);
    }

    fn delete(&mut self, pod: &v1::Pod) {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let same = |known: &Pod| pod.metadata.uid.as_deref() == Some(known.uid.as_str());
        if self.pods.get(name).is_some_and(same) {
            self.pods.remove(name);
        }
    }

    fn seat(&mut self) {
        if let Some(seats) = &mut self.seats {
            // Until all are read it is not known who is gone.
            if self.synced {
                seats.settle(&self.pods);
            }
            seats.name(&mut self.pods);
        }
    }

    fn note(&mut self, event: Event) {
        if self.events.len() >= EVENTS {
            self.events.pop_front();
            self.dropped += 1;
        }
        self.events.push_back(event);
    }
}

/// What keeps a pod from running, if anything does and waiting will not help.
#[must_use]
pub fn verdict<'a>(pod: &Pod, events: impl IntoIterator<Item = &'a Event>, now: Instant) -> Option<Found> {
    if pod.deleting {
        return None;
    }
    if let Some((reason, message)) = &pod.reason {
        let seen = format!("{reason}: {message}");
        return Some(pod.trouble("infra/evicted", "a pod that the cluster lets run", &seen));
    }
    if let Some(found) = pod.containers.iter().find_map(|container| crashed(pod, container)) {
        return Some(found);
    }
    if let Some((since, message)) = &pod.unschedulable
        && (now.saturating_duration_since(*since) >= UNSCHEDULABLE || never_fits(message))
    {
        let wanted = "a machine of the cluster with room for the pod";
        return Some(pod.trouble("infra/unschedulable", wanted, message));
    }
    if pod.started() {
        return None;
    }
    let claim = format!("-{}", pod.name);
    let stuck = |event: &&Event| {
        let own = event.uid == pod.uid || event.kind == "PersistentVolumeClaim" && event.name.ends_with(&claim);
        // The API server has not heard yet that the pod is on this machine: the kubelet asks again.
        let early = event.message.contains("no relationship found between node");
        let stuck = match tries(&event.reason) {
            Some(tries) => event.count >= tries,
            None => now.saturating_duration_since(event.known) >= STUCK,
        };
        own && event.warning && !event.past && !early && stuck
    };
    events.into_iter().filter(stuck).find_map(|event| {
        let (code, wanted) = match event.reason.as_str() {
            "FailedMount" | "FailedAttachVolume" | "ProvisioningFailed" | "VolumeFailedDelete" | "FailedBinding" => {
                ("infra/volume", "the pod's volumes mounted")
            }
            "FailedCreatePodSandBox" | "NetworkNotReady" => ("infra/container", "a sandbox for the pod"),
            _ => return None,
        };
        Some(pod.trouble(code, wanted, &format!("{}: {}", event.reason, event.message)))
    })
}

/// How often a thing that the kubelet tries again has to fail before it is stuck. A busy kubelet fails once or twice and then succeeds,
/// for example when its cache has not heard of the pod's Secret yet ("failed to sync secret cache"). It tries to mount after 0.5, 1, 2,
/// 4 … s, so the fifth failure is at least 7.5 s after the first; a sandbox it tries about every 10 s.
fn tries(reason: &str) -> Option<i32> {
    match reason {
        "FailedMount" | "FailedAttachVolume" => Some(5),
        "FailedCreatePodSandBox" => Some(2),
        _ => None,
    }
}

/// Why the pod of a node is not even made, if the cluster refuses it.
#[must_use]
pub fn refusal<'a>(
    namespace: &str,
    node: &str,
    events: impl IntoIterator<Item = &'a Event>,
    now: Instant,
) -> Option<Found> {
    let mut refused = events.into_iter().filter(|event| {
        let made_by = event.kind == "StatefulSet" && event.name == node;
        made_by && event.warning && !event.past && event.reason == "FailedCreate"
    });
    refused.find_map(|event| {
        let message = event.message.as_str();
        let code = if message.contains("exceeded quota") || message.contains("must specify") {
            "infra/quota"
        // A quota or a service account that is not there yet will be: the StatefulSet tries again.
        } else if message.contains("violates PodSecurity") || now.saturating_duration_since(event.known) >= STUCK {
            "infra/pod-refused"
        } else {
            return None;
        };
        let further = format!("kubectl -n {namespace} describe statefulset {node}");
        let seen = format!("{message}; look further: {further}");
        Some(Found {
            trouble: node_trouble(code, node, "a pod for the node", seen),
            crashed: None,
        })
    })
}

/// What is wrong with a container, as the kubelet says.
fn crashed(pod: &Pod, container: &Container) -> Option<Found> {
    let Container { name, image, .. } = container;
    let (reason, message) = match &container.state {
        State::Waiting { reason, message } => (reason.as_str(), message.as_str()),
        State::Terminated(_) | State::Running { .. } => ("", ""),
    };
    let (code, wanted) = match reason {
        "ErrImagePull"
        | "ImagePullBackOff"
        | "ErrImageNeverPull"
        | "InvalidImageName"
        | "ImageInspectError"
        | "RegistryUnavailable"
        | "SignatureValidationFailed" => ("infra/image", format!("the image {image} of the component {name}")),
        "CreateContainerConfigError"
        | "CreateContainerError"
        | "RunContainerError"
        | "PreCreateHookError"
        | "PreStartHookError"
        | "PostStartHookError" => ("infra/container", format!("a container for the component {name}")),
        _ => return crash_loop(pod, container, reason),
    };
    let seen = format!(
        "{reason}: {}",
        if message.is_empty() { "no reason given" } else { message }
    );
    Some(pod.trouble(code, &wanted, &seen))
}

/// A container that ends again and again, or for want of memory.
fn crash_loop(pod: &Pod, container: &Container, reason: &str) -> Option<Found> {
    let Container { name, .. } = container;
    let (ended, over) = match &container.state {
        State::Terminated(ended) => (Some(ended), true),
        State::Waiting { .. } => (container.last.as_ref(), true),
        State::Running { .. } => (container.last.as_ref(), false),
    };
    let ended = ended?;
    if container.init && ended.code == 0 {
        return None;
    }
    let times = container.restarts + u32::from(matches!(container.state, State::Terminated(_)));
    // It never ran: the program is not there, or may not be run.
    if over && matches!(ended.reason.as_str(), "StartError" | "ContainerCannotRun") {
        return Some(pod.trouble(
            "infra/container",
            &format!("a container for the component {name}"),
            &ended.words(),
        ));
    }
    let mut found = if ended.reason == "OOMKilled" {
        let seen = format!("{} was ended by the kernel: OOMKilled, {}", name, ended.words());
        pod.trouble(
            "infra/out-of-memory",
            &format!("memory for the component {name}"),
            &seen,
        )
    } else if over && (reason == "CrashLoopBackOff" || times >= 2 || container.init && times >= 1 && !pod.started()) {
        let seen = format!("{name} ended {}: {}", times_words(times), ended.words());
        pod.trouble("infra/crash-loop", &format!("the component {name} running"), &seen)
    } else {
        return None;
    };
    found.crashed = Some(Crashed {
        pod: pod.name.clone(),
        container: name.clone(),
        again: !over,
    });
    Some(found)
}

fn times_words(times: u32) -> String {
    match times {
        0 | 1 => "by itself".to_owned(),
        _ => format!("by itself {times} times"),
    }
}

/// Whether the scheduler says that no machine of the cluster can take the pod, whatever leaves.
fn never_fits(message: &str) -> bool {
    let Some((_, rest)) = message.split_once("0/") else {
        return false;
    };
    let Some((all, reasons)) = rest.split_once(" nodes are available: ") else {
        return false;
    };
    let unfit = reasons.split(['.', ',']).next().unwrap_or_default();
    unfit
        .strip_prefix(all)
        .is_some_and(|unfit| unfit.trim_start().starts_with("node(s) didn't match"))
}

impl Pod {
    /// Whether each of its containers runs or has run.
    #[must_use]
    pub fn started(&self) -> bool {
        let mut proper = self.containers.iter().filter(|container| !container.init).peekable();
        proper.peek().is_some() && proper.all(|container| !container.id.is_empty())
    }

    /// Whether it is there to stay and each of its containers runs.
    #[must_use]
    pub fn running(&self) -> bool {
        let mut proper = self.containers.iter().filter(|container| !container.init).peekable();
        let runs = |container: &Container| matches!(container.state, State::Running { .. });
        !self.deleting && proper.peek().is_some() && proper.all(runs)
    }

    /// The container of this name.
    #[must_use]
    pub fn container(&self, name: &str) -> Option<&Container> {
        self.containers.iter().find(|container| container.name == name)
    }

    fn trouble(&self, code: &str, expected: &str, seen: &str) -> Found {
        let Self {
            name, namespace, node, ..
        } = self;
        let seen = format!("{seen}; look further: kubectl -n {namespace} describe pod {name}");
        let trouble = match node {
            Some(node) => node_trouble(code, node, format!("{expected} of {node}"), seen),
            None => trouble(code, format!("{expected} of the pod {name}"), seen),
        };
        Found { trouble, crashed: None }
    }
}

impl Terminated {
    /// How it ended, in words.
    pub(super) fn words(&self) -> String {
        let Self {
            code,
            signal,
            reason,
            message,
            ..
        } = self;
        let mut words = format!("exit code {code}");
        if let Some(signal) = signal {
            words = format!("signal {signal}, {words}");
        }
        for more in [reason, message] {
            if !more.is_empty() {
                words = format!("{words}, {}", more.trim());
            }
        }
        words
    }
}

/// From the API's types to what is of use here.
pub(super) fn read(pod: v1::Pod, before: Option<&Pod>) -> Pod {
    let v1::Pod { metadata, spec, status } = pod;
    let (spec, status) = (spec.unwrap_or_default(), status.unwrap_or_default());
    let labels = metadata.labels.unwrap_or_default();
    let mut owners = metadata.owner_references.unwrap_or_default().into_iter();
    let owner = owners.find(|owner| owner.controller == Some(true));
    let maker = owner.as_ref().map(|owner| maker(&owner.kind, &owner.name, &labels));
    let owner = owner.map(|owner| owner.uid);
    let uid = metadata.uid.unwrap_or_default();
    let conditions = status.conditions.unwrap_or_default();
    let waits = conditions
        .into_iter()
        .find(|condition| condition.type_ == "PodScheduled" && condition.status == "False");
    let since = before
        .filter(|before| before.uid == uid)
        .and_then(|before| before.unschedulable.as_ref())
        .map(|(since, _)| *since);
    let unschedulable = waits
        .filter(|condition| condition.reason.as_deref() == Some("Unschedulable"))
        .map(|condition| {
            (
                since.unwrap_or_else(Instant::now),
                condition.message.unwrap_or_default(),
            )
        });
    let failed = status.phase.as_deref() == Some("Failed");
    let reason = status.reason.filter(|_| failed);
    let init = spec.init_containers.unwrap_or_default();
    let init_statuses = status.init_container_statuses.unwrap_or_default();
    let statuses = status.container_statuses.unwrap_or_default();
    let mut containers: Vec<Container> = init
        .into_iter()
        .map(|spec| container(spec, &init_statuses, true))
        .collect();
    containers.extend(
        spec.containers
            .into_iter()
            .map(|spec| container(spec, &statuses, false)),
    );
    Pod {
        name: metadata.name.unwrap_or_default(),
        namespace: metadata.namespace.unwrap_or_default(),
        uid,
        node: labels.get(NODE).cloned(),
        owner,
        maker,
        host: spec.node_name,
        phase: status.phase.unwrap_or_default(),
        ip: status.pod_ip,
        deleting: metadata.deletion_timestamp.is_some(),
        reason: reason.map(|reason| (reason, status.message.unwrap_or_default())),
        unschedulable,
        revision: labels.get("controller-revision-hash").cloned(),
        containers,
    }
}

/// A Deployment calls each of its ReplicaSets after itself and a hash of the template, which it also writes on the pods; that saves the right to
/// read ReplicaSets.
fn maker(kind: &str, name: &str, labels: &BTreeMap<String, String>) -> String {
    let hash = labels.get("pod-template-hash").filter(|_| kind == "ReplicaSet");
    let deployment = hash.and_then(|hash| name.strip_suffix(hash)?.strip_suffix('-'));
    match deployment {
        Some(deployment) => format!("Deployment/{deployment}"),
        None => format!("{kind}/{name}"),
    }
}

fn container(spec: v1::Container, statuses: &[v1::ContainerStatus], init: bool) -> Container {
    let status = statuses.iter().find(|status| status.name == spec.name);
    let creating = State::Waiting {
        reason: String::new(),
        message: String::new(),
    };
    let status = status.cloned().unwrap_or_default();
    Container {
        name: spec.name,
        init,
        image: spec.image.unwrap_or_default(),
        id: status.container_id.unwrap_or_default(),
        restarts: u32::try_from(status.restart_count).unwrap_or(0),
        ready: status.ready,
        state: status.state.and_then(state).unwrap_or(creating),
        last: status.last_state.and_then(|state| state.terminated).map(terminated),
    }
}

fn state(state: v1::ContainerState) -> Option<State> {
    let v1::ContainerState {
        running,
        terminated: ended,
        waiting,
    } = state;
    if let Some(running) = running {
        let since = running.started_at.map(|time| time.0);
        return Some(State::Running { since });
    }
    if let Some(ended) = ended {
        return Some(State::Terminated(terminated(ended)));
    }
    waiting.map(|waiting| State::Waiting {
        reason: waiting.reason.unwrap_or_default(),
        message: waiting.message.unwrap_or_default(),
    })
}

fn terminated(ended: v1::ContainerStateTerminated) -> Terminated {
    Terminated {
        id: ended.container_id.unwrap_or_default(),
        code: ended.exit_code,
        signal: ended.signal,
        reason: ended.reason.unwrap_or_default(),
        message: ended.message.unwrap_or_default(),
    }
}

fn event(event: v1::Event, begun: Timestamp) -> Event {
    let series = event
        .series
        .as_ref()
        .and_then(|series| series.last_observed_time.as_ref());
    let time = series.or(event.event_time.as_ref()).map(|time| time.0);
    let time = event.last_timestamp.map(|time| time.0).or(time);
    let time = time.or(event.metadata.creation_timestamp.map(|time| time.0));
    let count = event.series.and_then(|series| series.count).or(event.count);
    Event {
        known: Instant::now(),
        past: time.is_some_and(|time| time.as_second() + PAST_SECS < begun.as_second()),
        time,
        warning: event.type_.as_deref() == Some("Warning"),
        kind: event.involved_object.kind.unwrap_or_default(),
        name: event.involved_object.name.unwrap_or_default(),
        uid: event.involved_object.uid.unwrap_or_default(),
        reason: event.reason.unwrap_or_default(),
        message: event.message.unwrap_or_default(),
        count: count.unwrap_or(1),
    }
}

async fn follow(client: Client, namespace: String, selector: Option<String>, view: Sender<View>) {
    let pods = follow_pods(Api::namespaced(client.clone(), &namespace), selector, &view);
    let events = follow_events(Api::namespaced(client, &namespace), &view);
    tokio::join!(pods, events);
}

async fn follow_pods(pods: Api<v1::Pod>, selector: Option<String>, view: &Sender<View>) {
    let config = watcher::Config {
        label_selector: selector,
        ..watcher::Config::default()
    };
    let mut changes = watcher::watcher(pods, config).backoff(Steps::default()).boxed();
    // What is listed anew after a watch broke: the pods that it does not name are gone.
    let mut listed = BTreeSet::new();
    while let Some(change) = changes.next().await {
        match change {
            Ok(change) => view.send_modify(|view| pod_changed(view, change, &mut listed)),
            Err(error) => {
                tracing::debug!("the watch over pods: {error}");
                view.send_modify(|view| view.broken = Some(error.to_string()));
            }
        }
    }
}

async fn follow_events(events: Api<v1::Event>, view: &Sender<View>) {
    let begun = Timestamp::now();
    let changes = watcher::watcher(events, watcher::Config::default());
    let mut changes = changes.backoff(Steps::default()).boxed();
    let mut known: HashMap<String, String> = HashMap::new();
    while let Some(change) = changes.next().await {
        let new = match change {
            Ok(watcher::Event::Apply(new) | watcher::Event::InitApply(new)) => new,
            Ok(_) => continue,
            Err(error) => {
                tracing::debug!("the watch over events: {error}");
                continue;
            }
        };
        let uid = new.metadata.uid.clone().unwrap_or_default();
        let version = new.metadata.resource_version.clone().unwrap_or_default();
        if known.len() > EVENTS {
            known.clear();
        }
        if known
            .insert(uid, version.clone())
            .is_none_or(|before| before != version)
        {
            view.send_modify(|view| view.note(event(new, begun)));
        }
    }
}

fn pod_changed(view: &mut View, change: watcher::Event<v1::Pod>, listed: &mut BTreeSet<String>) {
    match change {
        watcher::Event::Apply(pod) => {
            view.broken = None;
            view.apply(pod);
        }
        watcher::Event::Delete(pod) => {
            view.broken = None;
            view.delete(&pod);
        }
        watcher::Event::Init => listed.clear(),
        watcher::Event::InitApply(pod) => {
            listed.extend(pod.metadata.name.clone());
            view.apply(pod);
        }
        watcher::Event::InitDone => {
            view.broken = None;
            view.synced = true;
            view.pods.retain(|name, _| listed.contains(name));
        }
    }
    view.seat();
}

/// Waits that double.
#[derive(Debug)]
struct Steps(Duration);

impl Default for Steps {
    fn default() -> Self {
        Self(BACKOFF.0)
    }
}

impl Iterator for Steps {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let now = self.0;
        self.0 = (now * 2).min(BACKOFF.1);
        Some(now)
    }
}

impl kube::runtime::utils::Backoff for Steps {
    fn reset(&mut self) {
        self.0 = BACKOFF.0;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::mock::{Answer, server};
    use super::*;

    /// A pod as the API server gives it, with one container in this state and this many restarts.
    fn pod(state: serde_json::Value, last: serde_json::Value, restarts: u32) -> Pod {
        let started = restarts > 0 || state.get("running").is_some() || state.get("terminated").is_some();
        let id = if started { "containerd://1" } else { "" };
        given(json!({ "phase": "Pending", "containerStatuses": [{
            "name": "core", "image": "i", "imageID": "", "ready": false, "restartCount": restarts,
            "containerID": id, "state": state, "lastState": last,
        }] }))
    }

    fn given(status: serde_json::Value) -> Pod {
        let value = json!({
            "metadata": { "name": "validator-0-0", "namespace": "space", "uid": "u1",
                "labels": { NODE: "validator-0", "controller-revision-hash": "r2" } },
            "spec": { "containers": [{ "name": "core", "image": "chain:1" }],
                "initContainers": [{ "name": "install", "image": "own:1" }], "nodeName": "worker" },
            "status": status,
        });
        read(serde_json::from_value(value).unwrap(), None)
    }

    fn warning(reason: &str, message: &str, kind: &str, name: &str, known: Instant) -> Event {
        Event {
            known,
            past: false,
            time: None,
            warning: true,
            kind: kind.to_owned(),
            name: name.to_owned(),
            uid: if kind == "Pod" { "u1".to_owned() } else { String::new() },
            reason: reason.to_owned(),
            message: message.to_owned(),
            count: 1,
        }
    }

    fn waiting(reason: &str) -> serde_json::Value {
        json!({ "waiting": { "reason": reason, "message": "the kubelet's words" } })
    }

    fn ended(code: i32, reason: &str) -> serde_json::Value {
        json!({ "terminated": { "exitCode": code, "reason": reason, "containerID": "containerd://0" } })
    }

    /// A pod as a list or a watch names it.
    fn named(name: &str, version: &str) -> serde_json::Value {
        json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "namespace": "space", "uid": format!("u-{name}"),
            "resourceVersion": version }, "spec": { "containers": [] }, "status": { "phase": "Running" } })
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_that_ends_goes_on_and_one_that_is_too_old_begins_anew() {
        let list = |version: &str, pods: &[&str]| {
            let items: Vec<_> = pods.iter().map(|name| named(name, version)).collect();
            Answer::Json(
                200,
                json!({ "kind": "PodList", "apiVersion": "v1", "metadata": { "resourceVersion": version }, "items": items }),
            )
        };
        let change = |kind: &str, object: serde_json::Value| json!({ "type": kind, "object": object });
        let (mut lists, mut watches) = (0, 0);
        let (client, seen) = server(move |asked| {
            if asked.line() != "GET /api/v1/namespaces/space/pods" {
                return Answer::Hangs;
            }
            if !asked.path.contains("watch=") {
                lists += 1;
                // What went while nobody watched is not in the second list.
                return if lists == 1 {
                    list("10", &["a-0", "b-0"])
                } else {
                    list("30", &["b-0", "c-0"])
                };
            }
            watches += 1;
            match watches {
                1 => Answer::Lines(vec![change("ADDED", named("d-0", "12"))]),
                2 => Answer::Lines(vec![change("DELETED", named("d-0", "14"))]),
                3 => Answer::Lines(vec![change(
                    "ERROR",
                    json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure",
                    "code": 410, "reason": "Expired", "message": "too old resource version" }),
                )]),
                _ => Answer::Hangs,
            }
        });
        let pods = Pods::spawn(client, "space", None);
        pods.until(Duration::from_secs(60), |view| {
            let there: Vec<&str> = view.pods.keys().map(String::as_str).collect();
            if there == ["b-0", "c-0"] {
                Ok(())
            } else {
                Err(format!("{there:?}"))
            }
        })
        .await
        .unwrap();
        // Each watch went on after the change that was seen last, until that was too old.
        let asked = seen.lock().unwrap().clone();
        let of_pods = asked.iter().filter(|asked| asked.path.contains("/pods?"));
        let versions = of_pods.map(|asked| {
            let version = asked
                .path
                .split("&resourceVersion=")
                .nth(1)
                .map(|rest| rest.split('&').next().unwrap().to_owned());
            if asked.path.contains("watch=") {
                version.unwrap()
            } else {
                "list".to_owned()
            }
        });
        assert_eq!(
            versions.collect::<Vec<_>>()[..6],
            ["list", "10", "12", "14", "list", "30"]
        );
        assert!(pods.look(|view| view.synced && view.broken.is_none()));
    }

    #[test]
    fn what_keeps_a_container_from_running_has_a_code() {
        let none = json!({});
        let running = json!({ "running": { "startedAt": "2026-01-01T00:00:00Z" } });
        for (state, last, restarts, code) in [
            (waiting("ErrImagePull"), none.clone(), 0, "infra/image"),
            (waiting("ImagePullBackOff"), none.clone(), 0, "infra/image"),
            (waiting("ErrImageNeverPull"), none.clone(), 0, "infra/image"),
            (waiting("InvalidImageName"), none.clone(), 0, "infra/image"),
            (
                waiting("CreateContainerConfigError"),
                none.clone(),
                0,
                "infra/container",
            ),
            (waiting("CreateContainerError"), none.clone(), 0, "infra/container"),
            (
                waiting("RunContainerError"),
                ended(128, "StartError"),
                1,
                "infra/container",
            ),
            (
                waiting("CrashLoopBackOff"),
                ended(128, "StartError"),
                1,
                "infra/container",
            ),
            (ended(128, "StartError"), none.clone(), 0, "infra/container"),
            (waiting("CrashLoopBackOff"), ended(7, "Error"), 1, "infra/crash-loop"),
            (
                waiting("CrashLoopBackOff"),
                ended(0, "Completed"),
                1,
                "infra/crash-loop",
            ),
            (ended(7, "Error"), ended(7, "Error"), 1, "infra/crash-loop"),
            (ended(137, "OOMKilled"), none.clone(), 0, "infra/out-of-memory"),
            (running.clone(), ended(137, "OOMKilled"), 1, "infra/out-of-memory"),
            (waiting("ContainerCreating"), none.clone(), 0, ""),
            (waiting("PodInitializing"), none.clone(), 0, ""),
            (running.clone(), none.clone(), 0, ""),
            // One exit may be a step's, and the judge knows of it; a container that runs again is well.
            (ended(1, "Error"), none.clone(), 0, ""),
            (running, ended(1, "Error"), 2, ""),
        ] {
            let pod = pod(state.clone(), last, restarts);
            let found = verdict(&pod, &[], Instant::now());
            let seen = found.as_ref().map_or("", |found| found.trouble.code.as_str());
            assert_eq!(seen, code, "{state}");
            let Some(Found { trouble, crashed }) = found else {
                continue;
            };
            assert_eq!(trouble.node.as_deref(), Some("validator-0"));
            assert!(trouble.expected.contains("core"), "{trouble}");
            assert!(
                trouble.seen.ends_with("kubectl -n space describe pod validator-0-0"),
                "{trouble}"
            );
            let has_log = matches!(code, "infra/crash-loop" | "infra/out-of-memory");
            assert_eq!(crashed.is_some(), has_log, "{state}");
            assert!(!has_log || trouble.seen.contains("exit code"), "{trouble}");
        }
    }

    #[test]
    fn a_pod_that_is_being_deleted_is_not_in_trouble() {
        let mut pod = pod(waiting("CrashLoopBackOff"), ended(7, "Error"), 3);
        assert!(verdict(&pod, &[], Instant::now()).is_some());
        pod.deleting = true;
        assert_eq!(verdict(&pod, &[], Instant::now()), None);
    }

    #[test]
    fn a_preparing_container_that_fails_is_found_and_one_that_is_done_is_not() {
        let init = |state: serde_json::Value, restarts: u32| {
            given(json!({ "phase": "Pending", "initContainerStatuses": [{
                "name": "install", "image": "i", "imageID": "", "ready": false, "restartCount": restarts,
                "containerID": "containerd://9", "state": state, "lastState": {},
            }] }))
        };
        let found = verdict(&init(ended(1, "Error"), 0), &[], Instant::now()).unwrap();
        assert_eq!(found.trouble.code, "infra/crash-loop");
        assert_eq!(found.crashed.unwrap().container, "install");
        assert_eq!(verdict(&init(ended(0, "Completed"), 0), &[], Instant::now()), None);
    }

    #[test]
    fn evicted_pods_are_found() {
        let status = json!({ "phase": "Failed", "reason": "Evicted", "message": "low on disk" });
        let found = verdict(&given(status), &[], Instant::now()).unwrap();
        assert_eq!(found.trouble.code, "infra/evicted");
        assert!(found.trouble.seen.contains("low on disk"), "{found:?}");
    }

    #[test]
    fn a_pod_without_room_is_given_time_unless_it_can_never_fit() {
        let status = |message: &str| {
            json!({ "phase": "Pending", "conditions": [{
                "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message,
            }] })
        };
        let full = given(status(
            "0/3 nodes are available: 3 Insufficient cpu. no new claims to deallocate",
        ));
        let now = Instant::now();
        assert_eq!(verdict(&full, &[], now), None);
        let found = verdict(&full, &[], now + UNSCHEDULABLE * 2).unwrap();
        assert_eq!(found.trouble.code, "infra/unschedulable");
        assert!(found.trouble.seen.contains("Insufficient cpu"), "{found:?}");
        for (message, at_once) in [
            (
                "0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector. preemption: none",
                true,
            ),
            (
                "0/3 nodes are available: 2 node(s) didn't match Pod's node affinity/selector, 1 Insufficient cpu.",
                false,
            ),
            (
                "0/13 nodes are available: 3 node(s) didn't match Pod's node affinity/selector",
                false,
            ),
            ("something else", false),
        ] {
            assert_eq!(
                verdict(&given(status(message)), &[], now).is_some(),
                at_once,
                "{message}"
            );
        }
    }

    #[test]
    fn the_time_without_room_is_counted_in_one_incarnation() {
        let with = |uid: &str, before: Option<&Pod>| {
            let value = json!({
                "metadata": { "name": "a-0", "uid": uid },
                "status": { "conditions": [{ "type": "PodScheduled", "status": "False", "reason": "Unschedulable" }] },
            });
            read(serde_json::from_value(value).unwrap(), before)
        };
        let mut first = with("1", None);
        let long_ago = Instant::now() - Duration::from_secs(60);
        first.unschedulable = Some((long_ago, String::new()));
        assert_eq!(with("1", Some(&first)).unschedulable.unwrap().0, long_ago);
        assert!(with("2", Some(&first)).unschedulable.unwrap().0 > long_ago);
    }

    #[test]
    fn volumes_that_stay_away_are_found_by_their_events() {
        let pod = pod(waiting("ContainerCreating"), json!({}), 0);
        let known = Instant::now();
        let later = known + STUCK;
        for (reason, kind, name, code) in [
            ("FailedMount", "Pod", "validator-0-0", Some("infra/volume")),
            ("FailedAttachVolume", "Pod", "validator-0-0", Some("infra/volume")),
            (
                "ProvisioningFailed",
                "PersistentVolumeClaim",
                "data-validator-0-0",
                Some("infra/volume"),
            ),
            (
                "FailedCreatePodSandBox",
                "Pod",
                "validator-0-0",
                Some("infra/container"),
            ),
            (
                "ProvisioningFailed",
                "PersistentVolumeClaim",
                "data-validator-1-0",
                None,
            ),
            ("Unhealthy", "Pod", "validator-0-0", None),
        ] {
            let mut events = [warning(reason, "words", kind, name, known)];
            assert_eq!(verdict(&pod, &events, known), None, "the kubelet tries again");
            if let Some(tries) = tries(reason) {
                assert_eq!(verdict(&pod, &events, later), None, "{reason} happened once, long ago");
                events[0].count = tries;
            }
            let seen = verdict(&pod, &events, later).map(|found| found.trouble.code);
            assert_eq!(seen.as_deref(), code, "{reason} of {name}");
            let mut past = events;
            past[0].past = true;
            assert_eq!(verdict(&pod, &past, later), None);
        }
        let mut events = [warning("FailedMount", "words", "Pod", "validator-0-0", known)];
        events[0].count = 9;
        let runs = super::tests::pod(json!({ "running": {} }), json!({}), 0);
        assert_eq!(verdict(&runs, &events, later), None, "it came after all");
    }

    #[test]
    fn pods_that_are_not_made_have_a_reason() {
        let known = Instant::now();
        let refused = |message: &str, node: &str, now: Instant| {
            let events = [warning("FailedCreate", message, "StatefulSet", "validator-0", known)];
            refusal("space", node, &events, now).map(|found| found.trouble.code)
        };
        let quota = "create Pod validator-0-0 failed error: pods is forbidden: exceeded quota: q, requested: pods=1";
        assert_eq!(refused(quota, "validator-0", known).as_deref(), Some("infra/quota"));
        assert_eq!(refused(quota, "validator-1", known), None);
        let security = "pods is forbidden: violates PodSecurity \"restricted:latest\"";
        assert_eq!(
            refused(security, "validator-0", known).as_deref(),
            Some("infra/pod-refused")
        );
        let soon = "pods is forbidden: status unknown for quota: q";
        assert_eq!(refused(soon, "validator-0", known), None);
        assert_eq!(
            refused(soon, "validator-0", known + STUCK).as_deref(),
            Some("infra/pod-refused")
        );
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_ends_with_what_was_seen_last() {
        let (sender, view) = watch::channel(View::default());
        let pods = Pods {
            view,
            _watching: Arc::new(AbortOnDropHandle::new(tokio::spawn(std::future::pending()))),
        };
        let two = |view: &View| match view.pods.len() {
            2 => Ok("two"),
            some => Err(format!("{some} pods")),
        };
        let seen = pods.until(Duration::from_secs(3), two).await;
        assert_eq!(seen.unwrap_err(), "0 pods (after 3s)");
        sender.send_modify(|view| view.broken = Some("refused".to_owned()));
        let seen = pods.until(Duration::from_secs(3), two).await;
        assert_eq!(seen.unwrap_err(), "0 pods (after 3s; the watch does not work: refused)");
        let task = tokio::spawn(async move { pods.until(Duration::from_secs(3), two).await });
        for name in ["a", "b"] {
            sender.send_modify(|view| {
                view.pods.insert(name.to_owned(), Pod::default());
            });
        }
        assert_eq!(task.await.unwrap().unwrap(), "two");
    }

    #[test]
    fn a_new_list_forgets_what_is_not_in_it() {
        let pod = |name: &str, uid: &str| -> v1::Pod {
            serde_json::from_value(json!({ "metadata": { "name": name, "uid": uid } })).unwrap()
        };
        let (mut view, mut listed) = (View::default(), BTreeSet::new());
        let mut go = |view: &mut View, change| pod_changed(view, change, &mut listed);
        go(&mut view, watcher::Event::Init);
        go(&mut view, watcher::Event::InitApply(pod("a", "1")));
        go(&mut view, watcher::Event::InitApply(pod("b", "1")));
        assert!(!view.synced);
        go(&mut view, watcher::Event::InitDone);
        assert!(view.synced);
        go(&mut view, watcher::Event::Apply(pod("b", "2")));
        go(&mut view, watcher::Event::Delete(pod("b", "1")));
        assert_eq!(view.pods["b"].uid, "2", "the deletion of its predecessor");
        go(&mut view, watcher::Event::Init);
        go(&mut view, watcher::Event::InitApply(pod("a", "1")));
        assert!(view.pods.contains_key("b"), "not before the list is complete");
        go(&mut view, watcher::Event::InitDone);
        assert_eq!(view.pods.keys().collect::<Vec<_>>(), ["a"]);
        go(&mut view, watcher::Event::Delete(pod("a", "1")));
        assert!(view.pods.is_empty());
    }
}
