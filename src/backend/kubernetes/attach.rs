//! Pods that somebody else made are the nodes of a run: they are found, watched, reached and removed like any other, and nothing of
//! them is ever changed.
//!
//! Nothing is made, labelled or annotated, so that there is nothing to put back: a pod that a fault removes is brought back by whoever made it, under the
//! same name (a StatefulSet) or another one (a Deployment). [`Seats`] follow the nodes from pod to pod.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1;
use tokio::sync::{OnceCell, mpsc};
use tokio_util::task::AbortOnDropHandle;

use super::api::{Api, Cause, Failure};
use super::logs::{self, Logs};
use super::provider;
use super::tunnel::{self, Forward};
use super::watch::{self, Container, Crashed, Pods, State, TAIL, Terminated, View};
use super::{KubernetesOptions, LAST_WORDS, access, capabilities, lock};
use crate::agent::{node_trouble, trouble};
use crate::backend::{
    Addresses, Capabilities, ComponentState, Deployer, Endpoint, Incarnation, Job, JobOutput, LinkEvidence, LinkId,
    LinkLook, LinkShape, NodeAddresses, NodeOps, NodeSpec, NodeState, RunState, Teardown, Trouble, Wanted,
};
use crate::model::{Attach, Ms, NodeName, Removal};
use crate::record::{NodeEvent, Record};

/// How long the pods that are there may take to be read.
const READ: Duration = Duration::from_secs(10);
/// Some of what keeps a pod from running depends on how long it lasts, so it is looked at this often.
const LOOK: Duration = Duration::from_millis(500);

/// Which pod is which node: a node keeps its seat while its pods come and go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seats(Vec<Seat>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Seat {
    node: NodeName,
    pod: String,
    uid: String,
    owner: Option<String>,
    maker: Option<String>,
    /// The containers of its pods, which are named also while there is none.
    containers: Vec<String>,
    /// The uids of its former pods.
    former: BTreeSet<String>,
}

impl Seats {
    /// Seats for these nodes on these pods, in the natural order of the pods' names.
    #[must_use]
    pub fn of(nodes: &[NodeName], mut pods: Vec<watch::Pod>) -> Self {
        pods.sort_by(|one, other| natural(&one.name, &other.name));
        let seats = nodes.iter().zip(pods).map(|(node, pod)| {
            let mut seat = Seat {
                node: node.clone(),
                pod: String::new(),
                uid: String::new(),
                owner: None,
                maker: None,
                containers: Vec::new(),
                former: BTreeSet::new(),
            };
            seat.take(&pod);
            seat
        });
        Self(seats.collect())
    }

    /// The uid of a node's pod, the last that it had.
    #[must_use]
    pub fn uid(&self, node: &str) -> Option<&str> {
        self.seat(node).map(|seat| seat.uid.as_str())
    }

    /// Gives the seats of pods that are on their way out, or gone, to those that came instead: of the same name, else one that the same
    /// owner made, else one of the same maker (a rollout gives a Deployment another ReplicaSet), else one whose maker no seat knows.
    pub fn settle(&mut self, pods: &BTreeMap<String, watch::Pod>) {
        let sits = |seats: &[Seat], pod: &watch::Pod| {
            let knows = |seat: &Seat| seat.uid == pod.uid || seat.former.contains(&pod.uid);
            seats.iter().any(knows)
        };
        for index in 0..self.0.len() {
            let seat = &self.0[index];
            if pods.values().any(|pod| pod.uid == seat.uid && stays(pod)) {
                continue;
            }
            let mut free: Vec<&watch::Pod> = pods.values().filter(|pod| stays(pod) && !sits(&self.0, pod)).collect();
            free.sort_by(|one, other| natural(&one.name, &other.name));
            let same_name = free.iter().find(|pod| pod.name == seat.pod);
            let same_owner = || free.iter().find(|pod| pod.owner.is_some() && pod.owner == seat.owner);
            let same_maker = || free.iter().find(|pod| pod.maker.is_some() && pod.maker == seat.maker);
            // One more pod of a maker that is known makes up for one of its own, or is one too many.
            let known = |pod: &watch::Pod| {
                let made = |seat: &Seat| {
                    (seat.owner.is_some() && seat.owner == pod.owner)
                        || (seat.maker.is_some() && seat.maker == pod.maker)
                };
                self.0.iter().any(made)
            };
            let stranger = || free.iter().find(|pod| !known(pod));
            if let Some(pod) = same_name.or_else(same_owner).or_else(same_maker).or_else(stranger) {
                self.0[index].take(pod);
            }
        }
    }

    /// Tells every pod which node it is or was.
    pub fn name(&self, pods: &mut BTreeMap<String, watch::Pod>) {
        for pod in pods.values_mut() {
            let seat = (self.0.iter()).find(|seat| seat.uid == pod.uid || seat.former.contains(&pod.uid));
            pod.node = seat.map(|seat| seat.node.clone());
        }
    }

    fn seat(&self, node: &str) -> Option<&Seat> {
        self.0.iter().find(|seat| seat.node == node)
    }
}

impl Seat {
    fn take(&mut self, pod: &watch::Pod) {
        if !self.uid.is_empty() {
            self.former.insert(std::mem::take(&mut self.uid));
        }
        self.pod.clone_from(&pod.name);
        self.uid.clone_from(&pod.uid);
        self.owner.clone_from(&pod.owner);
        self.maker.clone_from(&pod.maker);
        self.containers = proper(pod).map(|container| container.name.clone()).collect();
    }
}

/// Whether a pod is there to stay: one that has ended is left by its owner as it is.
fn stays(pod: &watch::Pod) -> bool {
    !pod.deleting && !matches!(pod.phase.as_str(), "Succeeded" | "Failed")
}

/// The containers that are the node, not those that prepare it.
fn proper(pod: &watch::Pod) -> impl Iterator<Item = &Container> {
    pod.containers.iter().filter(|container| !container.init)
}

/// Names with numbers in them as people order them: `node-2` before `node-10`.
fn natural(one: &str, other: &str) -> Ordering {
    let key = |text: &str| {
        let mut parts: Vec<(bool, u128, String)> = Vec::new();
        for char in text.chars() {
            let digit = char.is_ascii_digit();
            match parts.last_mut() {
                Some((is_digit, _, part)) if *is_digit == digit => part.push(char),
                _ => parts.push((digit, 0, char.to_string())),
            }
        }
        for (_, number, part) in parts.iter_mut().filter(|(digit, ..)| *digit) {
            *number = part.parse().unwrap_or(u128::MAX);
        }
        parts
    };
    key(one).cmp(&key(other)).then_with(|| one.cmp(other))
}

/// The backend for nodes that are found. A copy is the same backend.
#[derive(Clone)]
pub struct Found {
    shared: Arc<Shared>,
}

struct Shared {
    options: KubernetesOptions,
    attach: Attach,
    records: mpsc::UnboundedSender<Record>,
    site: OnceCell<Site>,
    reserved: OnceLock<(Seats, Addresses)>,
    network: OnceLock<Network>,
    /// By node and port.
    tunnels: Mutex<BTreeMap<(NodeName, String), Forward>>,
    /// The uids of pods that a step removed.
    removed: Mutex<BTreeSet<String>>,
    watching: Mutex<Option<AbortOnDropHandle<()>>>,
    over: std::sync::atomic::AtomicBool,
}

struct Site {
    client: kube::Client,
    api: Api,
}

struct Network {
    pods: Pods,
    logs: tokio::sync::Mutex<Option<Logs>>,
    versions: BTreeMap<NodeName, String>,
    /// The containers that were seen, by node and name.
    known: Mutex<BTreeMap<(NodeName, String), Known>>,
}

/// What was seen last of a container.
#[derive(Clone, Debug, Default)]
struct Known {
    pod: String,
    uid: String,
    id: String,
    generation: u32,
    runs: bool,
    /// Whether its start was reported: nobody is shown it before, so that nobody tells first what follows from it.
    told: bool,
}

impl Found {
    /// A backend for one run on the pods that `attach` names; what happens to them by itself goes to `records`. Nothing is looked for before
    /// [`Deployer::reserve`].
    #[must_use]
    pub fn new(options: KubernetesOptions, attach: Attach, records: mpsc::UnboundedSender<Record>) -> Self {
        Self {
            shared: Arc::new(Shared {
                options,
                attach,
                records,
                site: OnceCell::new(),
                reserved: OnceLock::new(),
                network: OnceLock::new(),
                tunnels: Mutex::default(),
                removed: Mutex::default(),
                watching: Mutex::default(),
                over: std::sync::atomic::AtomicBool::new(false),
            }),
        }
    }

    async fn do_reserve(&self, wanted: &[Wanted]) -> Result<Addresses, Trouble> {
        let shared = &self.shared;
        let site = shared.site().await?;
        let Attach {
            namespace, selector, ..
        } = &shared.attach;
        let pods = site.api.list::<v1::Pod>(Some(namespace), selector).await;
        let pods = pods.map_err(Failure::trouble)?.into_iter();
        let pods: Vec<_> = pods.map(|pod| watch::read(pod, None)).filter(stays).collect();
        if pods.len() != wanted.len() {
            return Err(miscounted(&site.api, &shared.attach, wanted, pods));
        }
        let nodes: Vec<_> = wanted.iter().map(|wanted| wanted.node.clone()).collect();
        let addresses = wanted.iter().map(|wanted| {
            let ports = wanted.ports.iter().map(|port| (port.name.to_owned(), port.number));
            let of = NodeAddresses {
                ip: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                ports: ports.collect(),
                volumes: BTreeMap::new(),
            };
            (wanted.node.clone(), of)
        });
        let addresses = Addresses {
            nodes: addresses.collect(),
            links: BTreeMap::new(),
        };
        drop(shared.reserved.set((Seats::of(&nodes, pods), addresses.clone())));
        Ok(addresses)
    }

    async fn do_apply(&self, specs: &[NodeSpec]) -> Result<(), Trouble> {
        let shared = &self.shared;
        let site = shared.site().await?;
        let Some((seats, _)) = shared.reserved.get() else {
            return Err(trouble(
                "infra/io",
                "pods that were found",
                "nobody looked for them yet",
            ));
        };
        let Attach {
            namespace, selector, ..
        } = &shared.attach;
        let pods = Pods::found(site.client.clone(), namespace, selector, seats.clone());
        let logs = Logs::spawn(site.client.clone(), namespace, pods.clone(), &shared.options.run_dir)
            .map_err(|error| trouble("infra/run-folder", "files for the logs", error.to_string()))?;
        let read = |view: &View| {
            if view.synced {
                Ok(())
            } else {
                Err("they are not read yet".to_owned())
            }
        };
        let synced = pods.until(READ, read).await;
        synced.map_err(|seen| trouble("infra/cluster-unreachable", format!("the pods of {namespace}"), seen))?;
        let network = Network {
            pods,
            logs: tokio::sync::Mutex::new(Some(logs)),
            versions: specs
                .iter()
                .filter_map(|spec| Some((spec.name.clone(), spec.components.first()?.version.clone())))
                .collect(),
            known: Mutex::default(),
        };
        if shared.network.set(network).is_err() {
            return Err(trouble(
                "infra/io",
                "a network that is found once",
                "it was found before",
            ));
        }
        let (me, handle) = (Arc::clone(shared), tokio::runtime::Handle::current());
        *lock(&shared.watching) = Some(AbortOnDropHandle::new(
            handle.spawn(Box::pin(async move { me.watch().await })),
        ));
        Ok(())
    }

    async fn do_remove(&self, node: &str, how: Removal) -> Result<(), Trouble> {
        let shared = &self.shared;
        let site = shared.site().await?;
        let network = shared.network()?;
        let Some((pod, uid)) = network
            .pods
            .look(|view| view.pod_of(node).map(|pod| (pod.name.clone(), pod.uid.clone())))
        else {
            return Err(node_trouble(
                "infra/io",
                node,
                "a pod to remove",
                "there is none at the moment",
            ));
        };
        lock(&shared.removed).insert(uid.clone());
        let done = (site.api).remove_pod(&shared.attach.namespace, (&pod, &uid), how).await;
        if done.is_err() {
            lock(&shared.removed).remove(&uid);
        }
        done.map_err(Failure::trouble)
    }

    /// Ends the watch and the logs. The pods stay as they are.
    async fn leave(&self) -> Vec<String> {
        let shared = &self.shared;
        shared.over.store(true, std::sync::atomic::Ordering::Relaxed);
        drop(lock(&shared.watching).take());
        if let Some(network) = shared.network.get()
            && let Some(logs) = network.logs.lock().await.take()
        {
            for missing in logs.finish(LAST_WORDS).await {
                tracing::debug!("{missing}");
            }
        }
        lock(&shared.tunnels).clear();
        Vec::new()
    }
}

impl Shared {
    async fn site(&self) -> Result<&Site, Trouble> {
        self.site.get_or_try_init(|| Box::pin(self.find_site())).await
    }

    async fn find_site(&self) -> Result<Site, Trouble> {
        let KubernetesOptions { settings, flags, .. } = &self.options;
        if self.over.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(trouble(
                "infra/io",
                "a run that is not over",
                "it was torn down already",
            ));
        }
        if flags.create {
            return Err(trouble(
                "infra/cluster-config",
                "a cluster in which the pods of `attach` are",
                "--create makes a new one, which has none; leave it out",
            ));
        }
        let cluster = provider::choose(settings, flags)?;
        let client = cluster.client().await?;
        provider::answers(&client, provider::ANSWER_LIMIT).await?;
        let namespace = &self.attach.namespace;
        access::require_found(&client, namespace).await?;
        let api = Api::new(client.clone()).in_context(&cluster.context);
        match api.get::<v1::Namespace>(None, namespace).await {
            Ok(Some(_)) => {}
            Ok(None) => {
                return Err(trouble(
                    "infra/object-missing",
                    format!("the namespace {namespace}, which `attach` names"),
                    format!(
                        "the cluster of the context {} has none; `{}` shows those that there are",
                        cluster.context,
                        api.kubectl(None, "get namespaces")
                    ),
                ));
            }
            // Whoever may look at its pods need not be allowed to look at it.
            Err(failure) if failure.cause == Cause::Forbidden => {}
            Err(failure) => return Err(failure.trouble()),
        }
        Ok(Site { client, api })
    }

    fn network(&self) -> Result<&Network, Trouble> {
        let none = || trouble("infra/io", "a network that was found", "none was yet");
        self.network.get().ok_or_else(none)
    }

    /// Reports what happens to the pods by itself, and what keeps them from running, each thing once.
    async fn watch(&self) {
        let (Some(network), Some(site)) = (self.network.get(), self.site.get()) else {
            return;
        };
        let mut pods = network.pods.clone();
        let mut told = BTreeSet::new();
        loop {
            let mut events = Vec::new();
            let calm: Vec<NodeName> = pods.look(|view| {
                let mut known = lock(&network.known);
                let mut calm = Vec::new();
                for (node, version) in &network.versions {
                    let asked = |uid: &str| lock(&self.removed).contains(uid);
                    changes(view, node, version, &mut known, &asked, &mut events);
                    // What a step removed may take its time to come back.
                    let runs = view.pod_of(node).is_some_and(|pod| pod.running());
                    let struck = (known.iter()).any(|((name, _), known)| name == node && asked(&known.uid));
                    if runs || !struck {
                        calm.push(node.clone());
                    }
                }
                calm
            });
            for change in events {
                self.tell(site, change).await;
            }
            lock(&network.known).values_mut().for_each(|known| known.told = true);
            if let Some(trouble) = pods.trouble(&site.client, &calm).await
                && told.insert((trouble.code.clone(), trouble.node.clone()))
            {
                self.record(trouble.into());
            }
            drop(tokio::time::timeout(LOOK, pods.changed()).await);
        }
    }

    /// Records a change; of a container that ended by itself with its last lines, if they can still be had.
    async fn tell(&self, site: &Site, change: Change) {
        let Change {
            node,
            mut event,
            crashed,
        } = change;
        if let (NodeEvent::Exited { tail, .. }, Some(crashed)) = (&mut event, crashed) {
            *tail = logs::tail(&site.client, &self.attach.namespace, &crashed, TAIL).await;
        }
        self.record(Record::Node { node, event });
    }

    fn record(&self, record: Record) {
        // Nobody listens any more: the run is over.
        drop(self.records.send(record));
    }

    fn state(&self, node: &str) -> Result<NodeState, Trouble> {
        let network = self.network()?;
        let known = lock(&network.known);
        let components = network.pods.look(|view| {
            let pod = view.pod_of(node);
            let names = view
                .seats
                .as_ref()
                .and_then(|seats| seats.seat(node))
                .map(|seat| &seat.containers);
            let component = |name: &String| {
                let container = pod.and_then(|pod| pod.container(name));
                let runs = container.filter(|container| matches!(container.state, State::Running { .. }));
                let known = known.get(&(node.to_owned(), name.clone()));
                let told = |container: &Container| known.is_some_and(|known| known.told && known.id == container.id);
                let runs = runs.is_some_and(told);
                ComponentState {
                    name: name.clone(),
                    pid: None,
                    generation: known.map_or(0, |known| known.generation),
                    run: if runs { RunState::Running } else { RunState::Gone },
                    place: pod.zip(container).map(|(pod, container)| Incarnation {
                        pod_uid: pod.uid.clone(),
                        container_id: container.id.clone(),
                        restarts: container.restarts,
                    }),
                }
            };
            names.map(|names| names.iter().map(component).collect::<Vec<_>>())
        });
        match components {
            Some(components) => Ok(NodeState { components }),
            None => Err(node_trouble(
                "infra/io",
                node,
                "a node that was found",
                "there is none of this name",
            )),
        }
    }

    fn endpoint(&self, node: &str, port: &str) -> Result<Endpoint, Trouble> {
        let mut tunnels = lock(&self.tunnels);
        let key = (node.to_owned(), port.to_owned());
        if let Some(forward) = tunnels.get(&key) {
            return Ok(forward.endpoint());
        }
        let known = self
            .reserved
            .get()
            .and_then(|(_, addresses)| addresses.nodes.get(node)?.ports.get(port));
        let (Some(number), Some(site), Some(network)) = (known, self.site.get(), self.network.get()) else {
            let seen = format!("no port {port} of {node}");
            return Err(node_trouble("infra/io", node, "a port that was reserved", seen));
        };
        let (pods, name) = (network.pods.clone(), node.to_owned());
        let pod = move || {
            let seat = |view: &View| {
                view.seats
                    .as_ref()
                    .and_then(|seats| seats.seat(&name))
                    .map(|seat| seat.pod.clone())
            };
            pods.look(seat).unwrap_or_default()
        };
        let forward = tunnel::open_to(site.client.clone(), &self.attach.namespace, node, *number, pod)?;
        let endpoint = forward.endpoint();
        tunnels.insert(key, forward);
        Ok(endpoint)
    }

    /// Why something cannot be done to pods of somebody else.
    fn refused<T: Send + 'static>(&self, node: Option<&str>, what: &str) -> BoxFuture<'static, Result<T, Trouble>> {
        let refused = Trouble {
            node: node.map(str::to_owned),
            ..trouble(
                "infra/not-offered",
                format!("{what} the pods that were found in {}", self.attach.namespace),
                "that needs a supervisor in the pod, which pods of somebody else do not have; delete, force-delete or evict them, or let trialnet make the nodes",
            )
        };
        async { Err(refused) }.boxed()
    }
}

/// Something that happened to a node.
struct Change {
    node: NodeName,
    event: NodeEvent,
    /// Whose last lines say why.
    crashed: Option<Crashed>,
}

/// What is new of the containers of a node, and what is known of them from now on. `asked` says of a pod's uid whether a step removed it.
fn changes(
    view: &View,
    node: &NodeName,
    version: &str,
    known: &mut BTreeMap<(NodeName, String), Known>,
    asked: &dyn Fn(&str) -> bool,
    changes: &mut Vec<Change>,
) {
    let Some(seat) = view.seats.as_ref().and_then(|seats| seats.seat(node)) else {
        return;
    };
    let pod = view.pod_of(node);
    for name in &seat.containers {
        let known = known.entry((node.clone(), name.clone())).or_default();
        let now = pod.and_then(|pod| pod.container(name).map(|container| (pod, container)));
        let runs = now.is_some_and(|(_, container)| matches!(container.state, State::Running { .. }));
        let id = now.map(|(_, container)| container.id.clone()).unwrap_or_default();
        if known.runs && !(runs && id == known.id) {
            let ended = now.and_then(|(_, container)| end_of(container, &known.id));
            let asked = asked(&known.uid);
            let crashed = now.filter(|(pod, _)| pod.uid == known.uid && !asked).map(|_| Crashed {
                pod: known.pod.clone(),
                container: name.clone(),
                again: runs,
            });
            changes.push(Change {
                node: node.clone(),
                event: NodeEvent::Exited {
                    component: name.clone(),
                    pid: 0,
                    generation: known.generation,
                    code: ended.map(|ended| ended.code),
                    signal: ended.and_then(|ended| ended.signal),
                    asked,
                    tail: Vec::new(),
                },
                crashed,
            });
            known.runs = false;
        }
        if runs && id != known.id {
            let (pod, _) = now.expect("it runs");
            *known = Known {
                pod: pod.name.clone(),
                uid: pod.uid.clone(),
                id,
                generation: known.generation + 1,
                runs: true,
                told: false,
            };
            changes.push(Change {
                node: node.clone(),
                event: NodeEvent::Started {
                    component: name.clone(),
                    pid: 0,
                    generation: known.generation,
                    version: version.to_owned(),
                },
                crashed: None,
            });
        }
    }
}

/// How the container of this id ended, if its pod still says so.
fn end_of<'a>(container: &'a Container, id: &str) -> Option<&'a Terminated> {
    let now = match &container.state {
        State::Terminated(ended) => Some(ended),
        State::Running { .. } | State::Waiting { .. } => None,
    };
    now.or(container.last.as_ref()).filter(|ended| ended.id == id)
}

/// That there are more or fewer pods than nodes.
fn miscounted(api: &Api, attach: &Attach, wanted: &[Wanted], mut pods: Vec<watch::Pod>) -> Trouble {
    let Attach {
        namespace, selector, ..
    } = attach;
    pods.sort_by(|one, other| natural(&one.name, &other.name));
    let names: Vec<&str> = pods.iter().map(|pod| pod.name.as_str()).take(20).collect();
    let more = if pods.len() > names.len() { ", …" } else { "" };
    let found = match pods.len() {
        0 => "none".to_owned(),
        count => format!("{count}: {}{more}", names.join(", ")),
    };
    let look = api.kubectl(Some(namespace), &format!("get pods --selector '{selector}'"));
    trouble(
        "infra/found-pods",
        format!(
            "{} pods in {namespace} with {selector}, one for each node of the file",
            wanted.len()
        ),
        format!("{found}; change `count` or the selector; `{look}` shows them"),
    )
}

impl Deployer for Found {
    fn capabilities(&self) -> &Capabilities {
        capabilities()
    }

    fn reserve<'a>(&'a self, wanted: &'a [Wanted], _links: &'a [LinkId]) -> BoxFuture<'a, Result<Addresses, Trouble>> {
        self.do_reserve(wanted).boxed()
    }

    fn run_job<'a>(&'a self, _job: &'a Job) -> BoxFuture<'a, Result<JobOutput, Trouble>> {
        self.shared.refused(None, "a job run for")
    }

    fn apply<'a>(&'a self, specs: &'a [NodeSpec]) -> BoxFuture<'a, Result<(), Trouble>> {
        self.do_apply(specs).boxed()
    }

    fn ops(&self) -> Arc<dyn NodeOps> {
        Arc::new(self.clone())
    }

    fn destroy(&self, _how: Teardown) -> BoxFuture<'_, Vec<String>> {
        self.leave().boxed()
    }
}

impl NodeOps for Found {
    fn kill<'a>(&'a self, node: &'a str, _component: Option<&'a str>) -> BoxFuture<'a, Result<(), Trouble>> {
        self.shared.refused(Some(node), "a process killed in")
    }

    fn crash<'a>(&'a self, node: &'a str, _component: Option<&'a str>) -> BoxFuture<'a, Result<(), Trouble>> {
        self.shared.refused(Some(node), "a process killed in")
    }

    fn remove<'a>(&'a self, node: &'a str, how: Removal) -> BoxFuture<'a, Result<(), Trouble>> {
        self.do_remove(node, how).boxed()
    }

    fn wipe<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<(), Trouble>> {
        self.shared.refused(Some(node), "the volumes emptied of")
    }

    fn stop<'a>(&'a self, node: &'a str, _grace: Ms) -> BoxFuture<'a, Result<(), Trouble>> {
        self.shared.refused(Some(node), "a process stopped in")
    }

    fn start<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<(), Trouble>> {
        self.shared.refused(Some(node), "a process started in")
    }

    fn pause<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<(), Trouble>> {
        self.shared.refused(Some(node), "a process halted in")
    }

    fn resume<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<(), Trouble>> {
        self.shared.refused(Some(node), "a process resumed in")
    }

    fn shape<'a>(&'a self, shapes: &'a [LinkShape]) -> BoxFuture<'a, Result<(), Trouble>> {
        match shapes.first() {
            // All links are clear, as they are.
            None => async { Ok(()) }.boxed(),
            Some(shape) => self
                .shared
                .refused(Some(&shape.link.from), "links cut or delayed between"),
        }
    }

    fn state<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<NodeState, Trouble>> {
        async move { self.shared.state(node) }.boxed()
    }

    fn probe_links<'a>(
        &'a self,
        links: &'a [LinkId],
        _look: LinkLook,
    ) -> BoxFuture<'a, Result<Vec<LinkEvidence>, Trouble>> {
        match links.first() {
            None => async { Ok(Vec::new()) }.boxed(),
            Some(link) => self.shared.refused(Some(&link.from), "links probed between"),
        }
    }

    fn endpoint(&self, node: &str, _component: &str, port: &str) -> Result<Endpoint, Trouble> {
        self.shared.endpoint(node, port)
    }

    fn log(&self, node: &str, component: &str) -> PathBuf {
        let first = |view: &View| view.seats.as_ref()?.seat(node)?.containers.first().cloned();
        let container = self.shared.network.get().and_then(|network| network.pods.look(first));
        let container = container.unwrap_or_else(|| component.to_owned());
        let logs = self.shared.options.run_dir.join("logs");
        logs.join(format!("{node}.{container}.log"))
    }

    fn renew(&self) -> BoxFuture<'_, Result<(), Trouble>> {
        // Nothing is held under a lease here.
        async { Ok(()) }.boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, uid: &str, owner: &str) -> watch::Pod {
        watch::Pod {
            name: name.to_owned(),
            uid: uid.to_owned(),
            owner: Some(owner.to_owned()),
            phase: "Running".to_owned(),
            ..watch::Pod::default()
        }
    }

    fn view(pods: Vec<watch::Pod>) -> BTreeMap<String, watch::Pod> {
        pods.into_iter().map(|pod| (pod.name.clone(), pod)).collect()
    }

    fn nodes(count: usize) -> Vec<NodeName> {
        (0..count).map(|index| format!("validator-{index}")).collect()
    }

    fn sits(seats: &Seats) -> Vec<(&str, &str)> {
        seats
            .0
            .iter()
            .map(|seat| (seat.node.as_str(), seat.uid.as_str()))
            .collect()
    }

    #[test]
    fn pods_are_nodes_in_the_order_in_which_people_count() {
        let pods = vec![pod("tm-10", "k", "s"), pod("tm-2", "b", "s"), pod("tm-01", "a", "s")];
        let seats = Seats::of(&nodes(3), pods);
        assert_eq!(
            sits(&seats),
            [("validator-0", "a"), ("validator-1", "b"), ("validator-2", "k")]
        );
    }

    #[test]
    fn a_seat_goes_to_the_next_pod_of_the_same_name() {
        let mut seats = Seats::of(&nodes(2), vec![pod("tm-0", "a", "s"), pod("tm-1", "b", "s")]);
        let mut pods = view(vec![pod("tm-0", "a", "s"), pod("tm-1", "b2", "s")]);
        seats.settle(&pods);
        seats.name(&mut pods);
        assert_eq!(sits(&seats), [("validator-0", "a"), ("validator-1", "b2")]);
        assert_eq!(pods["tm-1"].node.as_deref(), Some("validator-1"));
    }

    #[test]
    fn a_seat_goes_to_the_pod_that_the_same_owner_made_instead() {
        let mut seats = Seats::of(&nodes(2), vec![pod("x-aaa", "a", "one"), pod("y-bbb", "b", "two")]);
        let mut going = pod("y-bbb", "b", "two");
        going.deleting = true;
        let mut pods = view(vec![pod("x-aaa", "a", "one"), going.clone(), pod("x-new", "z", "one")]);
        seats.settle(&pods);
        seats.name(&mut pods);
        assert_eq!(
            sits(&seats)[1],
            ("validator-1", "b"),
            "another owner's pod is no successor"
        );
        assert_eq!(pods["x-new"].node, None);
        let mut pods = view(vec![pod("x-aaa", "a", "one"), going, pod("y-ccc", "c", "two")]);
        seats.settle(&pods);
        seats.name(&mut pods);
        assert_eq!(sits(&seats)[1], ("validator-1", "c"));
        assert_eq!(
            pods["y-bbb"].node.as_deref(),
            Some("validator-1"),
            "its log is still the node's"
        );
        // The former pod is never taken for a new one.
        seats.settle(&view(vec![pod("x-aaa", "a", "one"), pod("y-bbb", "b", "two")]));
        assert_eq!(sits(&seats)[1], ("validator-1", "c"));
    }

    #[test]
    fn a_rollout_hands_the_seats_on_to_the_pods_of_the_new_revision() {
        let made = |name: &str, uid: &str, owner: &str, maker: &str| watch::Pod {
            maker: Some(maker.to_owned()),
            ..pod(name, uid, owner)
        };
        let (x, y) = ("Deployment/x", "Deployment/y");
        let old = [made("x-1-a", "a", "x1", x), made("y-1-b", "b", "y1", y)];
        let mut seats = Seats::of(&nodes(2), old.to_vec());
        // The new pods are there before the old ones go.
        let new = [made("x-2-c", "c", "x2", x), made("y-2-d", "d", "y2", y)];
        seats.settle(&view([old.clone(), new.clone()].concat()));
        assert_eq!(sits(&seats), [("validator-0", "a"), ("validator-1", "b")]);
        // The later one goes first.
        seats.settle(&view([&old[..1], &new[..]].concat()));
        assert_eq!(sits(&seats), [("validator-0", "a"), ("validator-1", "d")]);
        seats.settle(&view(new.to_vec()));
        assert_eq!(sits(&seats), [("validator-0", "c"), ("validator-1", "d")]);
        // Somebody makes the pods of y in another way.
        let other = made("z-0", "e", "z", "StatefulSet/z");
        seats.settle(&view(vec![new[0].clone(), other]));
        assert_eq!(sits(&seats), [("validator-0", "c"), ("validator-1", "e")]);
    }

    #[test]
    fn an_evicted_pod_that_is_left_lying_has_left_its_seat() {
        let mut seats = Seats::of(&nodes(1), vec![pod("y-bbb", "b", "two")]);
        let mut evicted = pod("y-bbb", "b", "two");
        evicted.phase = "Failed".to_owned();
        seats.settle(&view(vec![evicted, pod("y-ccc", "c", "two")]));
        assert_eq!(sits(&seats), [("validator-0", "c")]);
    }

    #[test]
    fn what_happens_to_a_container_is_told_once() {
        let container = |id: &str, state: State, last| Container {
            name: "node".into(),
            init: false,
            image: String::new(),
            id: id.into(),
            restarts: 0,
            ready: true,
            state,
            last,
        };
        let running = || State::Running { since: None };
        let with = |uid: &str, container: Container| {
            let mut pod = pod("tm-0", uid, "s");
            pod.containers = vec![container];
            pod
        };
        let first = with("a", container("c1", running(), None));
        let seats = Seats::of(&nodes(1), vec![first.clone()]);
        let mut known = BTreeMap::new();
        let mut look = |pods: Vec<watch::Pod>, removed: &str| {
            let mut told = Vec::new();
            let mut view = View {
                pods: view(pods),
                seats: Some(seats.clone()),
                ..View::default()
            };
            let View { pods, seats, .. } = &mut view;
            let seats = seats.as_mut().unwrap();
            seats.settle(pods);
            seats.name(pods);
            let node = nodes(1).remove(0);
            changes(&view, &node, "1", &mut known, &|uid| uid == removed, &mut told);
            told.into_iter()
                .map(|change| match change.event {
                    NodeEvent::Started { generation, .. } => format!("started {generation}"),
                    NodeEvent::Exited { asked, code, .. } => format!("exited {asked} {code:?}"),
                    NodeEvent::Wiped | NodeEvent::Damaged { .. } => "lost".to_owned(),
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(look(vec![first.clone()], ""), ["started 1"]);
        assert_eq!(look(vec![first], ""), [""; 0]);
        let last = Terminated {
            id: "c1".into(),
            code: 2,
            ..Terminated::default()
        };
        let again = with("a", container("c2", running(), Some(last)));
        assert_eq!(look(vec![again], ""), ["exited false Some(2)", "started 2"]);
        assert_eq!(look(vec![], "a"), ["exited true None"]);
        assert_eq!(
            look(vec![with("b", container("c3", running(), None))], "a"),
            ["started 3"]
        );
    }
}
