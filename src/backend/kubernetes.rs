//! Nodes as pods in a namespace of a cluster, one namespace for each run.
//!
//! Objects are made without a cluster ([`objects`]) and applied in parallel ([`api`]). In each container a supervisor is the first process
//! ([`crate::agent::supervise`]); [`control`] is the line to it. What runs, and what keeps a pod from running, is seen from the API server
//! ([`watch`]), not from the injector. A guard process ([`guard`]) removes the namespace when trialnet asks, or is gone.

pub mod access;
pub mod api;
pub mod attach;
mod command;
pub mod control;
pub mod credentials;
pub mod desk;
pub mod gc;
pub mod guard;
pub mod image;
mod job;
pub mod logs;
pub mod machines;
pub mod objects;
pub mod packets;
pub mod provider;
pub mod replace;
pub mod survey;
pub mod teardown;
pub mod tunnel;
pub mod watch;

#[cfg(test)]
mod mock;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex, OnceLock};
use std::time::Duration;

use futures::future::{BoxFuture, join_all, try_join_all};
use futures::{FutureExt, TryFutureExt};
use tokio::sync::{OnceCell, mpsc};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use self::api::{Api, Cause};
use self::control::{Connect, Control, Peer};
use self::credentials::Credentials;
use self::guard::Guard;
use self::logs::Logs;
use self::objects::Image;
use self::objects::images;
use self::packets::Packets;
use self::provider::{Cluster, Flags};
use self::replace::Later;
use self::tunnel::Forward;
use self::watch::{Pods, State};
use super::{
    Addresses, Bytes, Capabilities, Component, ComponentState, Damage, Deployer, Dial, Digest, Endpoint, Incarnation,
    Job, JobOutput, LinkEvidence, LinkId, LinkLook, LinkShape, MachineStrike, NodeOps, NodeSpec, NodeState, Observer,
    PROBER, PROXIES_LACK, PacketEvidence, PacketShape, RunState, StressEvidence, Teardown, Trouble, Volley,
    VolumeEvidence, Wanted,
};
use crate::agent::registry::{self, InCluster};
use crate::agent::supervise::protocol::{Ask, Reply};
use crate::agent::tamper::{self, Tamper};
use crate::agent::{lock, node_trouble, trouble};
use crate::env;
use crate::model::{self, Ms, NodeName, Outage, Persistence, Provider, Removal, Stress};
use crate::record::Record;

/// The file in the folder of the logs to which the guard's own standard error goes.
const GUARD_LOG: &str = "trialnet.guard.log";
/// How long a supervisor may take for what takes no time, its line included.
const PROMPT: Duration = Duration::from_secs(10);
/// How long one may take to say what the kernel says of its process.
const LOOK: Duration = Duration::from_secs(3);
/// How long a container that is away is waited for.
const AWAY: Duration = Duration::from_millis(500);
/// How long a renewal of leases may take.
const RENEW: Duration = Duration::from_secs(2);
/// How long after the disruption budget has refused an eviction of a drain it is asked again.
const EVICT_AGAIN: Duration = Duration::from_millis(500);
/// How long the last lines of the logs, and the dumps, may take.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// What this backend offers.
#[must_use]
pub fn capabilities() -> &'static Capabilities {
    static CAPABILITIES: LazyLock<Capabilities> = LazyLock::new(|| Capabilities {
        backend: "kubernetes",
        // What no proxy can do the agents do.
        lacks: (PROXIES_LACK.into_iter())
            .filter(|(word, _)| !["loss", "one-way", "bandwidth"].contains(word))
            .collect(),
    });
    &CAPABILITIES
}

/// The images of components, by node and component.
type Images = BTreeMap<(NodeName, String), Image>;

/// What the backend needs to know of the run.
#[derive(Clone, Debug)]
pub struct KubernetesOptions {
    /// Trialnet's executable: it answers the hidden subcommands, and goes into the pods.
    pub exe: PathBuf,
    /// The run folder. Logs, events and dumps are below it.
    pub run_dir: PathBuf,
    /// The id of the run.
    pub run_id: String,
    /// The scenario's name.
    pub scenario: String,
    /// What the file says of the backend.
    pub settings: model::Kubernetes,
    /// What the command line says of it.
    pub flags: Flags,
    /// Whether volumes outlive pods.
    pub persistence: Persistence,
    /// How long faults stay without a renewal.
    pub lease: Ms,
    /// The nodes that vote, for the disruption budget.
    pub voting: Vec<NodeName>,
    /// How many of them have to stay; `None`: no budget.
    pub min_available: Option<u32>,
    /// Whether packets are to be lost, for which the cluster's machines need agents.
    pub packets: bool,
    /// Whether volumes are to be read-only, for which they need them too.
    pub locks: bool,
    /// Whether rates are to be bound besides.
    pub rates: bool,
    /// The nodes whose machines are to be struck: none of the others is placed on these.
    pub alone: BTreeSet<NodeName>,
    /// Whether machines are to fail, which those of kind clusters can be made to.
    pub outages: bool,
}

/// The Kubernetes backend. A copy is the same backend.
#[derive(Clone)]
pub struct Kubernetes {
    shared: Arc<Shared>,
}

struct Shared {
    options: KubernetesOptions,
    namespace: String,
    records: mpsc::UnboundedSender<Record>,
    site: OnceCell<Site>,
    /// What guards the namespace, from before anything is made; none: the namespace stays by itself.
    guard: OnceLock<Guard>,
    reserved: OnceLock<(Addresses, Vec<LinkId>)>,
    network: OnceLock<Network>,
    /// What observes from beside the nodes, if anything does.
    observer: OnceLock<Observer>,
    /// What nodes may be replaced by.
    provided: OnceLock<Vec<NodeSpec>>,
    /// The same once it is known what their pods are made of.
    later: OnceLock<Later>,
    /// How often each node has been replaced.
    replaced: Mutex<BTreeMap<NodeName, u32>>,
    /// The agents, where packets are to be lost.
    packets: OnceLock<Packets>,
    /// By node and port.
    tunnels: Mutex<BTreeMap<(NodeName, String), Forward>>,
    /// Nodes whose containers a step has ended, with what they were then, until the platform has them back.
    disturbed: Mutex<BTreeMap<NodeName, Vec<Incarnation>>>,
    /// The machines that were struck, by the fault for which they were.
    struck: Mutex<BTreeMap<String, Struck>>,
    watching: Mutex<Option<AbortOnDropHandle<()>>>,
    /// Writes down what there is once all is up, for the case that nobody can at the end.
    dumping: Mutex<Option<AbortOnDropHandle<()>>>,
    jobs: job::Jobs,
    over: std::sync::atomic::AtomicBool,
}

/// The cluster.
struct Site {
    cluster: Cluster,
    client: kube::Client,
    api: Api,
    /// What the pods may pull images with.
    credentials: Credentials,
}

/// What was done to machines for a fault.
#[derive(Clone)]
struct Struck {
    how: MachineStrike,
    machines: BTreeSet<String>,
    nodes: Vec<NodeName>,
}

/// What was applied.
struct Network {
    pods: Pods,
    logs: tokio::sync::Mutex<Option<Logs>>,
    nodes: BTreeMap<NodeName, Node>,
}

/// A node as it was applied.
struct Node {
    spec: NodeSpec,
    /// In the order of the spec's components.
    controls: Vec<Control>,
}

impl Kubernetes {
    /// A backend for one run; what happens to its nodes by itself goes to `records`. Nothing is made before [`Deployer::reserve`].
    #[must_use]
    pub fn new(options: KubernetesOptions, records: mpsc::UnboundedSender<Record>) -> Self {
        let namespace = objects::namespace_name(&options.scenario, &options.run_id);
        Self {
            shared: Arc::new(Shared {
                options,
                namespace,
                records,
                site: OnceCell::new(),
                guard: OnceLock::new(),
                reserved: OnceLock::new(),
                network: OnceLock::new(),
                observer: OnceLock::new(),
                provided: OnceLock::new(),
                later: OnceLock::new(),
                replaced: Mutex::default(),
                packets: OnceLock::new(),
                tunnels: Mutex::default(),
                disturbed: Mutex::default(),
                struck: Mutex::default(),
                watching: Mutex::default(),
                dumping: Mutex::default(),
                jobs: job::Jobs::default(),
                over: std::sync::atomic::AtomicBool::new(false),
            }),
        }
    }

    /// The run's namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.shared.namespace
    }

    /// Chooses the cluster, sees that it answers and lets trialnet do what it needs, and starts the guard.
    async fn site(&self) -> Result<&Site, Trouble> {
        self.shared
            .site
            .get_or_try_init(|| Box::pin(self.shared.find_site()))
            .await
    }

    async fn do_apply(&self, specs: &[NodeSpec]) -> Result<(), Trouble> {
        let site = self.site().await?;
        let shared = &self.shared;
        let none = (Addresses::default(), Vec::new());
        let (addresses, links) = shared.reserved.get().unwrap_or(&none);
        let provided = shared.provided.get().cloned().unwrap_or_default();
        let (mut options, nodes) = shared.object_options(site, specs, provided).await?;
        let alone = shared.options.alone.len();
        if alone > 0 {
            options.kept = machines::room(&site.api, alone, specs.len() > alone).await?;
        }
        let later = Later {
            options: options.clone(),
            nodes,
        };
        // It is applied once.
        drop(shared.later.set(later));
        let mut objects = objects::network(specs, addresses, links, &options)?;
        if let Some(observer) = shared.observer.get() {
            objects.extend(objects::observer::objects(observer, addresses, &options)?);
        }
        let pods = Pods::spawn(site.client.clone(), &shared.namespace, None);
        let logs = Logs::spawn(
            site.client.clone(),
            &shared.namespace,
            pods.clone(),
            &shared.options.run_dir,
        )
        .map_err(|error| trouble("infra/run-folder", "files for the logs", error.to_string()))?;
        let nodes = specs.iter().map(|spec| {
            let controls = (spec.components.iter().enumerate())
                .map(|(index, component)| shared.line(site, &pods, spec, index, &component.name))
                .collect();
            let spec = spec.clone();
            (spec.name.clone(), Node { spec, controls })
        });
        let network = Network {
            nodes: nodes.collect(),
            logs: tokio::sync::Mutex::new(Some(logs)),
            pods,
        };
        if shared.network.set(network).is_err() {
            return Err(trouble(
                "infra/io",
                "a network that is applied once",
                "it was applied before",
            ));
        }
        site.api.apply(&objects).await?;
        let network = shared.network()?;
        if shared.options.packets || shared.options.locks {
            Box::pin(shared.join_agents(site, network, &options)).await?;
        }
        let mut up = Vec::new();
        for node in network.nodes.values() {
            for control in &node.controls {
                up.push(control.up(node.spec.started));
            }
        }
        let all_up = async {
            join_all(up).await;
            match shared.packets.get() {
                Some(packets) => packets.ready(shared.options.packets, shared.options.rates).await,
                None => Ok(()),
            }
        };
        tokio::select! {
            up = Box::pin(all_up) => up?,
            stuck = self.stuck(network, site) => return Err(stuck),
        }
        let (me, handle) = (self.clone(), tokio::runtime::Handle::current());
        *lock(&shared.watching) = Some(AbortOnDropHandle::new(
            handle.spawn(Box::pin(async move { me.watch().await })),
        ));
        let (client, namespace) = (site.client.clone(), shared.namespace.clone());
        let folder = shared.options.run_dir.clone();
        let dump = handle.spawn(Box::pin(async move {
            drop(logs::dump(&client, &namespace, &folder).await);
        }));
        *lock(&shared.dumping) = Some(AbortOnDropHandle::new(dump));
        Ok(())
    }

    /// Waits for something that keeps a node from running and that no step has caused.
    async fn stuck(&self, network: &Network, site: &Site) -> Trouble {
        let mut pods = network.pods.clone();
        loop {
            self.shared.calm(network);
            let observer = self.shared.observer.get().map(|_| objects::observer::NAME.to_owned());
            let nodes: Vec<&NodeName> = {
                let disturbed = lock(&self.shared.disturbed);
                let undisturbed = |node: &&NodeName| !disturbed.contains_key(*node);
                network.nodes.keys().filter(undisturbed).chain(&observer).collect()
            };
            if let Some(trouble) = pods.trouble(&site.client, nodes).await {
                return trouble;
            }
            // Some of what is looked for depends on how long it lasts.
            drop(tokio::time::timeout(Duration::from_millis(500), pods.changed()).await);
        }
    }

    /// Reports what keeps nodes from running, each thing once.
    async fn watch(&self) {
        let (Some(network), Some(site)) = (self.shared.network.get(), self.shared.site.get()) else {
            return;
        };
        let mut told = std::collections::BTreeSet::new();
        loop {
            let trouble = self.stuck(network, site).await;
            if told.insert((trouble.code.clone(), trouble.node.clone())) {
                self.shared.record(trouble.into());
            } else {
                network.pods.clone().changed().await;
            }
        }
    }

    /// Asks the supervisors of a node, or that of one component.
    async fn order(&self, node: &str, component: Option<&str>, ask: Ask, limit: Duration) -> Result<(), Trouble> {
        let mut asked = Vec::new();
        for control in self.shared.node(node)?.lines(component)? {
            asked.push(control.ask(ask.clone(), limit));
        }
        try_join_all(asked).await.map(drop)
    }

    /// Ends one component of a node, or all of them. The others learn of it first: they may end for it.
    async fn do_end(&self, node: &str, component: Option<&str>, how: Ask) -> Result<(), Trouble> {
        if let Some(struck) = component {
            let found = self.shared.node(node)?;
            let mut asked = Vec::new();
            for (other, control) in found.spec.components.iter().zip(&found.controls) {
                if other.name != struck {
                    asked.push(self.ask_or_leave(node, other, control, Ask::Attend));
                }
            }
            try_join_all(asked).await?;
        }
        self.order(node, component, how, PROMPT).await
    }

    /// Asks the supervisor of a node's first component: all of them see the node's volumes.
    async fn ask_first(&self, node: &str, ask: Ask) -> Result<Reply, Trouble> {
        let found = self.shared.node(node)?;
        let Some(control) = found.lines(None)?.into_iter().next() else {
            return Err(node_trouble("infra/io", node, "a component", "it has none"));
        };
        control.ask(ask, PROMPT).await
    }

    /// Starts what is down: that some components run is no error, that all do is one.
    async fn do_start(&self, node: &str) -> Result<(), Trouble> {
        let mut asked = Vec::new();
        for control in self.shared.node(node)?.lines(None)? {
            asked.push(control.ask(Ask::Start, PROMPT));
        }
        let done = join_all(asked).await;
        let started = done.iter().any(Result::is_ok);
        let failed = |trouble: &Trouble| !(started && trouble.code == "infra/node-runs");
        done.into_iter()
            .filter_map(Result::err)
            .find(failed)
            .map_or(Ok(()), Err)
    }

    async fn do_state(&self, name: &str) -> Result<NodeState, Trouble> {
        let node = self.shared.node(name)?;
        let mut looks = Vec::new();
        for (component, control) in node.spec.components.iter().zip(&node.controls) {
            looks.push(self.look(name, &component.name, control));
        }
        let components = try_join_all(looks).await?;
        Ok(NodeState { components })
    }

    async fn look(&self, node: &str, component: &str, control: &Control) -> Result<ComponentState, Trouble> {
        let view = control.view();
        let mut state = ComponentState {
            name: component.to_owned(),
            pid: view.pid,
            generation: view.generation,
            run: RunState::Gone,
            place: self.shared.incarnation(node, component).map(|(place, _)| place),
        };
        if !self.shared.container_runs(node, component) {
            return Ok(state);
        }
        match control.ask(Ask::State, LOOK).await {
            Ok(Reply::State { pid, run, .. }) => {
                state.pid = pid;
                state.run = run;
                Ok(state)
            }
            Ok(other) => Err(nonsense(node, &other)),
            // The container ended meanwhile.
            Err(_) if !self.shared.container_runs(node, component) => Ok(state),
            Err(trouble) => Err(trouble),
        }
    }

    async fn probe_own(
        &self,
        node: &str,
        control: &Control,
        links: Vec<LinkId>,
        look: LinkLook,
    ) -> Result<Vec<LinkEvidence>, Trouble> {
        let limit = look.limit.duration() + PROMPT;
        match control.ask(Ask::Probe { links, look }, limit).await? {
            Reply::Links(evidence) => Ok(evidence),
            other => Err(nonsense(node, &other)),
        }
    }

    async fn do_shape(&self, shapes: &[LinkShape]) -> Result<(), Trouble> {
        let network = self.shared.network()?;
        // Of a network that stays nobody here knows how its links were left.
        let taken_over = self.shared.guard.get().is_none();
        let mut asked = Vec::new();
        for (name, node) in &network.nodes {
            for (component, control) in node.spec.components.iter().zip(&node.controls) {
                let own: Vec<LinkShape> = (shapes.iter())
                    .filter(|shape| shape.link.from == *name && component.ports.contains(&shape.link.port))
                    .cloned()
                    .collect();
                if !own.is_empty() || control.shaped() || taken_over {
                    asked.push(self.ask_or_leave(name, component, control, Ask::Shape(own)));
                }
            }
        }
        try_join_all(asked).await.map(drop)
    }

    async fn do_stress(&self, name: &str, all: &BTreeMap<String, Stress>) -> Result<(), Trouble> {
        let node = self.shared.node(name)?;
        let mut asked = Vec::new();
        for (component, control) in node.spec.components.iter().zip(&node.controls) {
            asked.push(self.ask_or_leave(name, component, control, Ask::Stress(all.clone())));
        }
        try_join_all(asked).await.map(drop)
    }

    /// Asks for what holds until something else is asked: a container that is away is told when it is there.
    async fn ask_or_leave(
        &self,
        node: &str,
        component: &Component,
        control: &Control,
        ask: Ask,
    ) -> Result<(), Trouble> {
        let runs = self.shared.container_runs(node, &component.name);
        let done = control.ask(ask, if runs { PROMPT } else { AWAY }).await;
        match done {
            // It may have ended meanwhile.
            Err(trouble) if self.shared.container_runs(node, &component.name) && runs => Err(trouble),
            _ => Ok(()),
        }
    }

    async fn do_lock_volume(&self, name: &str, on: bool) -> Result<(), Trouble> {
        let node = self.shared.node(name)?;
        let (Some(agents), Some(volume)) = (self.shared.packets.get(), node.spec.volumes.first()) else {
            let seen = "there are no agents, or it has no volume";
            let failed = node_trouble("infra/not-offered", name, "a volume that nobody can write to", seen);
            return if on { Err(failed) } else { Ok(()) };
        };
        let path = objects::pod::volume_path(volume);
        if on {
            // Nobody has a file open for writing then.
            self.order(name, None, Ask::Kill, PROMPT).await?;
            self.order(name, None, Ask::Lock(true), PROMPT).await?;
            agents.mount(name, &path, true, PROMPT).await?;
            return self.do_start(name).await;
        }
        agents.mount(name, &path, false, PROMPT).await?;
        let mut asked = Vec::new();
        for (component, control) in node.spec.components.iter().zip(&node.controls) {
            asked.push(self.ask_or_leave(name, component, control, Ask::Lock(false)));
        }
        try_join_all(asked).await.map(drop)
    }

    async fn do_volume(&self, name: &str) -> Result<Vec<VolumeEvidence>, Trouble> {
        let node = self.shared.node(name)?;
        let mut asked = Vec::new();
        for (component, control) in node.spec.components.iter().zip(&node.controls) {
            asked.push(async move {
                match control.ask(Ask::Volume, LOOK).await? {
                    Reply::Volume(seen) => Ok(VolumeEvidence {
                        component: component.name.clone(),
                        seen,
                    }),
                    other => Err(nonsense(name, &other)),
                }
            });
        }
        try_join_all(asked).await
    }

    async fn do_another(&self, name: &str) -> Result<String, Trouble> {
        let (network, node) = (self.shared.network()?, self.shared.node(name)?);
        let before = self.shared.incarnations(node);
        let mut pods = network.pods.clone();
        loop {
            let now = self.shared.incarnations(node);
            if let Some(seen) = before
                .iter()
                .zip(&now)
                .find_map(|(before, now)| replaced(before.as_ref(), now.as_ref()))
            {
                return Ok(format!("{name}: {seen}"));
            }
            pods.changed().await;
        }
    }

    async fn do_stressed(&self, name: &str, fault: &str) -> Result<Vec<StressEvidence>, Trouble> {
        let node = self.shared.node(name)?;
        let mut asked = Vec::new();
        for (component, control) in node.spec.components.iter().zip(&node.controls) {
            asked.push(async move {
                match control.ask(Ask::Stressed(fault.to_owned()), LOOK).await? {
                    Reply::Stressed(seen) => Ok(StressEvidence {
                        component: component.name.clone(),
                        seen,
                    }),
                    other => Err(nonsense(name, &other)),
                }
            });
        }
        try_join_all(asked).await
    }

    async fn do_probe(&self, links: &[LinkId], look: LinkLook) -> Result<Vec<LinkEvidence>, Trouble> {
        let network = self.shared.network()?;
        // A link may be asked for several times.
        let mut seen: BTreeMap<LinkId, Vec<LinkEvidence>> = BTreeMap::new();
        let mut looks = Vec::new();
        for (name, node) in &network.nodes {
            for (component, control) in node.spec.components.iter().zip(&node.controls) {
                let own: Vec<LinkId> = (links.iter())
                    .filter(|link| link.from == *name && component.ports.contains(&link.port))
                    .cloned()
                    .collect();
                if !own.is_empty() {
                    looks.push(self.probe_own(name, control, own, look.clone()));
                }
            }
        }
        for evidence in try_join_all(looks).await?.into_iter().flatten() {
            seen.entry(evidence.link.clone()).or_default().push(evidence);
        }
        let missing = |link: &LinkId| {
            let LinkId { from, to, port } = link;
            trouble(
                "infra/io",
                "a link of the plan",
                format!("{from} -> {to} ({port}) was not reserved"),
            )
        };
        links
            .iter()
            .map(|link| seen.get_mut(link).and_then(Vec::pop).ok_or_else(|| missing(link)))
            .collect()
    }

    async fn do_filter(&self, shapes: &[PacketShape]) -> Result<(), Trouble> {
        match self.shared.packets.get() {
            Some(packets) => packets.filter(shapes, PROMPT).await,
            None if shapes.is_empty() => Ok(()),
            None => Err(super::no_packets()),
        }
    }

    async fn do_probe_packets(
        &self,
        pairs: &[(NodeName, NodeName)],
        volley: Volley,
    ) -> Result<Vec<PacketEvidence>, Trouble> {
        let froms: BTreeSet<&NodeName> = pairs.iter().map(|(from, _)| from).collect();
        let tos: BTreeSet<&NodeName> = pairs.iter().map(|(_, to)| to).collect();
        let ears = try_join_all(tos.iter().map(|to| self.listen(to))).await?;
        let ears: BTreeMap<&NodeName, SocketAddr> = tos.iter().copied().zip(ears).collect();
        let begun = Instant::now();
        let mut sending = Vec::new();
        for (sender, from) in (0..).zip(&froms) {
            let mine = pairs.iter().filter(|(by, _)| by == *from);
            let to = mine.filter_map(|(_, to)| ears.get(to).copied()).collect();
            sending.push(self.send(from, to, (sender, volley)));
        }
        let took = try_join_all(sending).await?;
        let heard = ears.iter().map(|(to, ear)| self.heard(to, ear.port()));
        let heard: BTreeMap<&NodeName, BTreeMap<u16, u32>> =
            ears.keys().copied().zip(try_join_all(heard).await?).collect();
        let counted = begun.elapsed().into();
        let senders: BTreeMap<&NodeName, (u16, Ms)> = froms.into_iter().zip((0..).zip(took)).collect();
        let evidence = |(from, to): &(NodeName, NodeName)| PacketEvidence {
            from: from.clone(),
            to: to.clone(),
            sent: volley.count,
            received: heard[to].get(&senders[from].0).copied().unwrap_or_default(),
            took: senders[from].1,
            counted,
        };
        Ok(pairs.iter().map(evidence).collect())
    }

    /// Has datagrams sent from the pod of a node; how long it took.
    async fn send(&self, node: &str, to: Vec<SocketAddr>, (sender, volley): (u16, Volley)) -> Result<Ms, Trouble> {
        // They leave in no more than a few seconds.
        match self.prober_of(node, Ask::Send { to, sender, volley }, PROMPT).await? {
            Reply::Sent { took } => Ok(took),
            other => Err(nonsense(node, &other)),
        }
    }

    /// Asks the prober of a node's first component.
    async fn prober_of(&self, node: &str, ask: Ask, limit: Duration) -> Result<Reply, Trouble> {
        match self.shared.node(node)?.controls.first() {
            Some(control) => control.ask(ask, limit).await,
            None => Err(node_trouble("infra/io", node, "a component", "it has none")),
        }
    }

    /// Has datagrams counted in the pod of a node, and says where.
    async fn listen(&self, node: &str) -> Result<SocketAddr, Trouble> {
        let port = match self.prober_of(node, Ask::Listen, LOOK).await? {
            Reply::Listens { port } => port,
            other => return Err(nonsense(node, &other)),
        };
        let ip = self.shared.network()?.pods.look(|view| view.pod_of(node)?.ip.clone());
        match ip.as_deref().map(str::parse::<IpAddr>) {
            Some(Ok(ip)) => Ok(SocketAddr::new(ip, port)),
            _ => Err(node_trouble(
                "infra/io",
                node,
                "a pod with an address",
                format!("{ip:?}"),
            )),
        }
    }

    async fn heard(&self, node: &str, port: u16) -> Result<BTreeMap<u16, u32>, Trouble> {
        match self.prober_of(node, Ask::Heard { port }, LOOK).await? {
            Reply::Heard { counts, overrun: 0 } => Ok(counts),
            Reply::Heard { overrun, .. } => Err(node_trouble(
                PROBER,
                node,
                "every datagram that arrives is counted",
                format!("{overrun} came faster than they could be"),
            )),
            other => Err(nonsense(node, &other)),
        }
    }

    async fn do_remove(&self, name: &str, how: Removal) -> Result<(), Trouble> {
        let site = self.site().await?;
        let node = self.shared.node(name)?;
        let pod = objects::pod_name(name);
        let Some(found) = self.shared.network()?.pods.get(&pod) else {
            return Err(node_trouble(
                "infra/io",
                name,
                "a pod to remove",
                format!("there is no pod {pod} at the moment"),
            ));
        };
        self.shared.disturb(name);
        for control in &node.controls {
            control.doom();
        }
        let done = (site.api)
            .remove_pod(&self.shared.namespace, (&pod, &found.uid), how)
            .await;
        if done.is_err() {
            for control in &node.controls {
                control.pardon();
            }
            lock(&self.shared.disturbed).remove(name);
        }
        done.map_err(api::Failure::trouble)
    }

    async fn do_strike_machines(&self, fault: &str, nodes: &[NodeName], how: MachineStrike) -> Result<(), Trouble> {
        let site = self.site().await?;
        let shared = &self.shared;
        let network = shared.network()?;
        let known: BTreeSet<&NodeName> = network.nodes.keys().collect();
        let machines = network.pods.look(|view| machines::hosts(view, nodes, &known))?;
        // Remembered before it is done: an answer may be lost.
        let struck = Struck {
            how,
            machines: machines.clone(),
            nodes: nodes.to_vec(),
        };
        lock(&shared.struck).insert(fault.to_owned(), struck);
        match how {
            MachineStrike::Drain(limit) => {
                for machine in &machines {
                    machines::cordon(&site.api, machine, &shared.namespace).await?;
                }
                self.evict_all(nodes, limit).await
            }
            MachineStrike::Fail(outage) => {
                for node in nodes {
                    shared.disturb(node);
                }
                let (api, namespace) = (&site.api, &shared.namespace);
                let failing = machines.iter().map(|machine| {
                    let cluster = site.cluster.name.as_str();
                    machines::fail(api, machine, (namespace, cluster), outage)
                });
                try_join_all(failing).await.map(drop)
            }
        }
    }

    /// Evicts pods, one after the other.
    async fn evict_all(&self, nodes: &[NodeName], limit: Ms) -> Result<(), Trouble> {
        for node in nodes {
            let deadline = Instant::now() + limit.duration();
            while let Err(refused) = self.do_remove(node, Removal::Evict).await {
                // While another pod is on its way back, the budget may refuse what it allows a moment later.
                if refused.code != Cause::EvictionRefused.code() || Instant::now() + EVICT_AGAIN > deadline {
                    return Err(refused);
                }
                tokio::time::sleep(EVICT_AGAIN).await;
            }
        }
        Ok(())
    }

    async fn do_struck_machines(&self, fault: &str) -> Result<String, Trouble> {
        let site = self.site().await?;
        let network = self.shared.network()?;
        let Some(Struck { how, machines, .. }) = lock(&self.shared.struck).get(fault).cloned() else {
            let seen = "none was struck for it";
            return Err(trouble("infra/machine-none", format!("the machines of {fault}"), seen));
        };
        let known: BTreeSet<&NodeName> = network.nodes.keys().collect();
        let mut seen = Vec::new();
        for machine in &machines {
            if let MachineStrike::Fail(outage) = how {
                seen.push(machines::is_off(machine, &site.cluster.name, outage).await?);
                continue;
            }
            machines::takes_none(&site.api, machine, &self.shared.namespace).await?;
            if let Some(node) = (network.pods).look(|view| machines::on(view, machine, &known).next().cloned()) {
                return Err(node_trouble(
                    "infra/machine-held",
                    &node,
                    format!("none of the network on {machine} while it is drained"),
                    "it is there",
                ));
            }
            seen.push(format!("{machine} takes no pods and has none of the network"));
        }
        Ok(seen.join(", "))
    }

    async fn do_restore_machines(&self, fault: &str) -> Result<(), Trouble> {
        let Some(Struck { how, machines, nodes }) = lock(&self.shared.struck).get(fault).cloned() else {
            return Ok(());
        };
        let site = self.site().await?;
        let (api, namespace) = (&site.api, self.shared.namespace.as_str());
        let restoring = machines
            .iter()
            .map(|machine| machines::restore(api, machine, namespace));
        try_join_all(restoring).await?;
        lock(&self.shared.struck).remove(fault);
        if how == MachineStrike::Fail(Outage::Pause) {
            // Its containers are the same as before.
            lock(&self.shared.disturbed).retain(|node, _| !nodes.contains(node));
        }
        Ok(())
    }

    async fn do_destroy(&self, _how: Teardown) -> Vec<String> {
        let shared = &self.shared;
        shared.over.store(true, std::sync::atomic::Ordering::Relaxed);
        drop(lock(&shared.watching).take());
        drop(lock(&shared.dumping).take());
        let site = shared.site.get();
        if let (Some(site), Some(_)) = (site, shared.network.get()) {
            let dump = logs::dump(&site.client, &shared.namespace, &shared.options.run_dir);
            drop(tokio::time::timeout(LAST_WORDS, dump).await);
        }
        let left = match (shared.guard.get(), site) {
            (Some(guard), Some(_)) => guard.teardown(teardown::LIMIT).await,
            // Before there is a site nothing is made, unless it is the cluster itself.
            (Some(guard), None) if guard.creates() => guard.teardown(teardown::LIMIT).await,
            (Some(guard), None) => {
                if let Err(trouble) = guard.leave().await {
                    tracing::debug!("{trouble}");
                }
                Vec::new()
            }
            (None, Some(site)) => Box::pin(teardown::remove(&site.api, &shared.namespace, teardown::LIMIT)).await,
            (None, None) => return Vec::new(),
        };
        if let Some(network) = shared.network.get()
            && let Some(logs) = network.logs.lock().await.take()
        {
            for missing in logs.finish(LAST_WORDS).await {
                tracing::debug!("{missing}");
            }
        }
        lock(&shared.tunnels).clear();
        left
    }
}

impl Shared {
    async fn find_site(&self) -> Result<Site, Trouble> {
        let KubernetesOptions {
            exe, settings, flags, ..
        } = &self.options;
        if self.over.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(trouble(
                "infra/guard-setup",
                "a run that is not over",
                "it was torn down already",
            ));
        }
        let cluster = provider::choose(settings, flags)?;
        if self.options.outages {
            machines::can_fail(&cluster)?;
        }
        if cluster.provider == Provider::Existing {
            // Every pod needs it, so it is missed before anything is made.
            images::own_pulled(settings)?;
        }
        if let Err(error) = std::fs::create_dir_all(self.logs()) {
            return Err(trouble("infra/run-folder", "a folder for the logs", error.to_string()));
        }
        // The guard comes before everything that it has to remove, a cluster included.
        let log = self.logs().join(GUARD_LOG);
        let guard = Guard::spawn(exe, &log, self.guard_setup(&cluster)?, self.records.clone()).await?;
        // The site is looked for once.
        drop(self.guard.set(guard));
        if cluster.created {
            cluster.make(&self.options.run_id).await?;
        }
        let client = cluster.client().await?;
        provider::answers(&client, provider::ANSWER_LIMIT).await?;
        access::require(&client, &self.namespace).await?;
        if self.options.packets || self.options.locks {
            access::require_packets(&client).await?;
        }
        if !self.options.alone.is_empty() {
            access::require_machines(&client).await?;
        }
        let api = Api::new(client.clone()).in_context(&cluster.context);
        let credentials = Box::pin(credentials::read(&api, &settings.pull_secrets)).await?;
        Ok(Site {
            cluster,
            client,
            api,
            credentials,
        })
    }

    /// Enters the run with the agents of the cluster, and makes them if there are none.
    async fn join_agents(&self, site: &Site, network: &Network, options: &objects::Options) -> Result<(), Trouble> {
        let run = (options.run.as_str(), self.namespace.as_str());
        let making = packets::Making {
            own: options.own.clone(),
            image: options.own_image.clone(),
            secrets: objects::copies(options, packets::SYSTEM),
        };
        let key = packets::join(&site.api, run, &making).await?;
        let tamper = env::var(tamper::VARIABLE).unwrap_or_default();
        let tamper = Tamper::parse(&tamper)
            .map_err(|error| trouble("infra/guard-setup", "a known way to tamper", error.to_string()))?;
        let packets = Packets::of(&site.api, run, &key, network.pods.clone(), (options.lease, tamper)).await?;
        // It is applied once.
        drop(self.packets.set(packets));
        Ok(())
    }

    fn guard_setup(&self, cluster: &Cluster) -> Result<guard::Setup, Trouble> {
        let failed =
            |error: std::io::Error| trouble("infra/guard-setup", "a folder for the registry", error.to_string());
        Ok(guard::Setup {
            run: self.options.run_id.clone(),
            scenario: self.options.scenario.clone(),
            owner: std::process::id(),
            run_dir: self.options.run_dir.clone(),
            state_dir: registry::state_dir().map_err(failed)?,
            cluster: InCluster {
                kubeconfig: cluster.kubeconfig.clone(),
                context: cluster.context.clone(),
                namespace: self.namespace.clone(),
                created: cluster.created.then(|| cluster.name.clone()),
            },
            expiry: expiry()?,
            renewal: Ms(expiry()?.0 / 4).min(guard::RENEWAL),
        })
    }

    /// Makes the images that are missing, loads them, and says what the objects depend on; also those of what nodes may become later.
    async fn object_options(
        &self,
        site: &Site,
        specs: &[NodeSpec],
        later: Vec<NodeSpec>,
    ) -> Result<(objects::Options, Vec<(NodeSpec, Images)>), Trouble> {
        let KubernetesOptions {
            exe,
            run_id,
            scenario,
            settings,
            persistence,
            lease,
            voting,
            min_available,
            alone,
            ..
        } = &self.options;
        let loads = site.cluster.provider != Provider::Existing;
        let (exe, specs, asked) = (exe.clone(), specs.to_vec(), settings.clone());
        let made = tokio::task::spawn_blocking(move || {
            let mut made = images::Images::of(&specs, &asked, loads, &exe)?;
            let mut all = Vec::with_capacity(later.len());
            for spec in later {
                let images = made.also(std::slice::from_ref(&spec), &asked, loads)?;
                all.push((spec, images));
            }
            Ok((made, all))
        });
        let (made, later) = made
            .await
            .unwrap_or_else(|error| Err(trouble("internal/task", "images made", error.to_string())))?;
        if loads {
            let all: Vec<_> = std::iter::once(&made.own.made)
                .chain(made.made.values())
                .cloned()
                .collect();
            image::load(&site.cluster, &all).await?;
        }
        let options = objects::Options {
            run: run_id.clone(),
            scenario: scenario.clone(),
            owner: Some(owner()),
            namespace: self.namespace.clone(),
            settings: settings.clone(),
            persistence: *persistence,
            lease: *lease,
            own: made.own.command.clone(),
            own_image: made.own_image,
            images: made.images,
            credentials: site.credentials.clone(),
            voting: voting.clone(),
            min_available: *min_available,
            alone: alone.clone(),
            kept: Vec::new(),
            shapes: Vec::new(),
            expires: Some(guard::expires_in(expiry()?)),
        };
        Ok((options, later))
    }

    /// Opens the line to the supervisor of a component.
    fn line(&self, site: &Site, pods: &Pods, spec: &NodeSpec, index: usize, component: &str) -> Control {
        let (client, pods, namespace) = (site.client.clone(), pods.clone(), self.namespace.clone());
        let (pod, port) = (objects::pod_name(&spec.name), objects::control_port(index));
        let name = component.to_owned();
        let connect: Connect = Arc::new(move || {
            let (client, pods, namespace) = (client.clone(), pods.clone(), namespace.clone());
            let (pod, name) = (pod.clone(), name.clone());
            Box::pin(async move {
                let uid = pods
                    .until(Duration::from_secs(1), |view| match view.pods.get(&pod) {
                        None => Err(format!("there is no pod {pod}")),
                        Some(found) => match container(found, &name).map(|container| &container.state) {
                            Some(State::Running { .. }) => Ok(found.uid.clone()),
                            other => Err(format!("the container {name} of {pod} does not run: {other:?}")),
                        },
                    })
                    .await?;
                let bytes = tunnel::connect(client, &namespace, &pod, port)
                    .await
                    .map_err(|(_, why)| why)?;
                Ok((uid, Box::new(bytes) as Box<dyn Bytes>))
            })
        });
        let peer = Peer {
            node: spec.name.clone(),
            component: component.to_owned(),
        };
        Control::open(peer, connect, self.records.clone())
    }

    fn network(&self) -> Result<&Network, Trouble> {
        self.network
            .get()
            .ok_or_else(|| trouble("infra/io", "a network that was applied", "none was yet"))
    }

    fn node(&self, name: &str) -> Result<&Node, Trouble> {
        self.network()?.nodes.get(name).ok_or_else(|| {
            node_trouble(
                "infra/io",
                name,
                "a node that was applied",
                "there is none of this name",
            )
        })
    }

    /// A component's container as the platform knows it, and whether it runs.
    fn incarnation(&self, node: &str, component: &str) -> Option<(Incarnation, bool)> {
        let pods = &self.network.get()?.pods;
        pods.look(|view| {
            let pod = view.pod_of(node)?;
            let container = container(pod, component)?;
            let place = Incarnation {
                pod_uid: pod.uid.clone(),
                container_id: container.id.clone(),
                restarts: container.restarts,
            };
            Some((place, matches!(container.state, State::Running { .. })))
        })
    }

    fn container_runs(&self, node: &str, component: &str) -> bool {
        self.incarnation(node, component).is_some_and(|(_, runs)| runs)
    }

    fn incarnations(&self, node: &Node) -> Vec<Option<(Incarnation, bool)>> {
        (node.spec.components.iter())
            .map(|component| self.incarnation(&node.spec.name, &component.name))
            .collect()
    }

    /// A step ends containers of this node: that is no trouble until the platform has them back.
    fn disturb(&self, name: &str) {
        if let Ok(node) = self.node(name) {
            let places = self
                .incarnations(node)
                .into_iter()
                .flatten()
                .map(|(place, _)| place)
                .collect();
            lock(&self.disturbed).insert(name.to_owned(), places);
        }
    }

    /// Forgets what steps did to nodes that run again, all components in another container or pod.
    fn calm(&self, network: &Network) {
        lock(&self.disturbed).retain(|name, before| {
            let Some(node) = network.nodes.get(name) else {
                return false;
            };
            let now = self.incarnations(node);
            let runs = now.iter().all(|place| matches!(place, Some((_, true))));
            let changed = now.iter().flatten().any(|(place, _)| !before.contains(place));
            !(runs && changed)
        });
    }

    fn record(&self, record: Record) {
        // Nobody listens any more: the run is over.
        drop(self.records.send(record));
    }

    fn logs(&self) -> PathBuf {
        self.options.run_dir.join("logs")
    }

    fn tunnel(&self, node: &str, port: &str) -> Result<Endpoint, Trouble> {
        let mut tunnels = lock(&self.tunnels);
        let key = (node.to_owned(), port.to_owned());
        if let Some(forward) = tunnels.get(&key) {
            return Ok(forward.endpoint());
        }
        let unknown = || {
            node_trouble(
                "infra/io",
                node,
                "a port that was reserved",
                format!("no port {port} of {node}"),
            )
        };
        let site = self.site.get().ok_or_else(unknown)?;
        let (addresses, _) = self.reserved.get().ok_or_else(unknown)?;
        let number = addresses
            .nodes
            .get(node)
            .and_then(|node| node.ports.get(port))
            .ok_or_else(unknown)?;
        let forward = tunnel::open(site.client.clone(), &self.namespace, &objects::pod_name(node), *number)?;
        let endpoint = forward.endpoint();
        tunnels.insert(key, forward);
        Ok(endpoint)
    }
}

impl Node {
    /// The lines to all its supervisors, or to that of one component.
    fn lines(&self, component: Option<&str>) -> Result<Vec<&Control>, Trouble> {
        let components = self.spec.components.iter().zip(&self.controls);
        let found: Vec<&Control> = components
            .filter(|(known, _)| component.is_none_or(|component| known.name == component))
            .map(|(_, control)| control)
            .collect();
        if found.is_empty() {
            let seen = format!(
                "it has {}",
                self.spec
                    .components
                    .iter()
                    .map(|c| c.name.as_str())
                    .collect::<Vec<_>>()
                    .join(", ")
            );
            let expected = format!("a component {}", component.unwrap_or("at all"));
            return Err(node_trouble("infra/io", &self.spec.name, expected, seen));
        }
        Ok(found)
    }
}

/// How far ahead the namespace expires.
fn expiry() -> Result<Ms, Trouble> {
    match env::expiry() {
        Ok(told) => Ok(told.unwrap_or(guard::EXPIRY)),
        Err(error) => Err(trouble(
            "infra/guard-setup",
            "an expiry for the namespace",
            error.to_string(),
        )),
    }
}

impl Deployer for Kubernetes {
    fn capabilities(&self) -> &Capabilities {
        capabilities()
    }

    fn place(&self) -> BoxFuture<'_, Result<(), Trouble>> {
        self.site().map_ok(drop).boxed()
    }

    fn reserve<'a>(&'a self, wanted: &'a [Wanted], links: &'a [LinkId]) -> BoxFuture<'a, Result<Addresses, Trouble>> {
        async move {
            let addresses = objects::addresses(wanted, links)?;
            // What is wrong with the cluster is found before anything is rendered.
            self.site().await?;
            drop(self.shared.reserved.set((addresses.clone(), links.to_vec())));
            Ok(addresses)
        }
        .boxed()
    }

    fn run_job<'a>(&'a self, job: &'a Job) -> BoxFuture<'a, Result<JobOutput, Trouble>> {
        self.do_run_job(job).boxed()
    }

    fn provide<'a>(&'a self, later: &'a [NodeSpec]) -> BoxFuture<'a, Result<(), Trouble>> {
        // Its images are made and loaded with all others.
        drop(self.shared.provided.set(later.to_vec()));
        async { Ok(()) }.boxed()
    }

    fn apply<'a>(&'a self, specs: &'a [NodeSpec]) -> BoxFuture<'a, Result<(), Trouble>> {
        self.do_apply(specs).boxed()
    }

    fn with_observer(&self, observer: &Observer) -> Result<Dial, Trouble> {
        // Whatever is wrong with it is said before anything of it is made.
        let none = (Addresses::default(), Vec::new());
        let (addresses, _) = self.shared.reserved.get().unwrap_or(&none);
        objects::observer::file(observer, addresses)?;
        drop(self.shared.observer.set(observer.clone()));
        let shared = Arc::downgrade(&self.shared);
        Ok(Arc::new(move || {
            let site = shared.upgrade().and_then(|shared| {
                let client = shared.site.get()?.client.clone();
                Some((client, shared.namespace.clone()))
            });
            Box::pin(async move {
                let (client, namespace) = site.ok_or("there is no cluster yet")?;
                let pod = objects::pod_name(objects::observer::NAME);
                let opened = tunnel::connect(client, &namespace, &pod, objects::observer::PORT).await;
                opened
                    .map(|bytes| Box::new(bytes) as Box<dyn Bytes>)
                    .map_err(|(_, why)| why)
            })
        }))
    }

    fn ops(&self) -> Arc<dyn NodeOps> {
        Arc::new(self.clone())
    }

    fn destroy(&self, how: Teardown) -> BoxFuture<'_, Vec<String>> {
        self.do_destroy(how).boxed()
    }
}

impl NodeOps for Kubernetes {
    fn kill<'a>(&'a self, node: &'a str, component: Option<&'a str>) -> BoxFuture<'a, Result<(), Trouble>> {
        self.do_end(node, component, Ask::Kill).boxed()
    }

    fn crash<'a>(&'a self, node: &'a str, component: Option<&'a str>) -> BoxFuture<'a, Result<(), Trouble>> {
        self.shared.disturb(node);
        self.do_end(node, component, Ask::Crash).boxed()
    }

    fn remove<'a>(&'a self, node: &'a str, how: Removal) -> BoxFuture<'a, Result<(), Trouble>> {
        self.do_remove(node, how).boxed()
    }

    fn strike_machines<'a>(
        &'a self,
        fault: &'a str,
        nodes: &'a [NodeName],
        how: MachineStrike,
    ) -> BoxFuture<'a, Result<(), Trouble>> {
        self.do_strike_machines(fault, nodes, how).boxed()
    }

    fn struck_machines<'a>(&'a self, fault: &'a str) -> BoxFuture<'a, Result<String, Trouble>> {
        self.do_struck_machines(fault).boxed()
    }

    fn restore_machines<'a>(&'a self, fault: &'a str) -> BoxFuture<'a, Result<(), Trouble>> {
        self.do_restore_machines(fault).boxed()
    }

    fn wipe<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<(), Trouble>> {
        self.order(node, None, Ask::Wipe, PROMPT).boxed()
    }

    fn corrupt<'a>(&'a self, node: &'a str, damages: &'a [Damage]) -> BoxFuture<'a, Result<(), Trouble>> {
        self.ask_first(node, Ask::Corrupt(damages.to_vec()))
            .map_ok(drop)
            .boxed()
    }

    fn digests<'a>(&'a self, node: &'a str, pattern: &'a str) -> BoxFuture<'a, Result<Vec<Digest>, Trouble>> {
        async move {
            match self.ask_first(node, Ask::Digests(pattern.to_owned())).await? {
                Reply::Digests(digests) => Ok(digests),
                other => Err(nonsense(node, &other)),
            }
        }
        .boxed()
    }

    fn stop<'a>(&'a self, node: &'a str, grace: Ms) -> BoxFuture<'a, Result<(), Trouble>> {
        self.order(node, None, Ask::Stop(grace), grace.duration() + PROMPT)
            .boxed()
    }

    fn start<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<(), Trouble>> {
        self.do_start(node).boxed()
    }

    fn replace<'a>(&'a self, spec: &'a NodeSpec) -> BoxFuture<'a, Result<(), Trouble>> {
        self.do_replace(spec).boxed()
    }

    fn pause<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<(), Trouble>> {
        self.order(node, None, Ask::Pause, PROMPT).boxed()
    }

    fn resume<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<(), Trouble>> {
        self.order(node, None, Ask::Resume, PROMPT).boxed()
    }

    fn shape<'a>(&'a self, shapes: &'a [LinkShape]) -> BoxFuture<'a, Result<(), Trouble>> {
        self.do_shape(shapes).boxed()
    }

    fn filter<'a>(&'a self, shapes: &'a [PacketShape]) -> BoxFuture<'a, Result<(), Trouble>> {
        self.do_filter(shapes).boxed()
    }

    fn probe_packets<'a>(
        &'a self,
        pairs: &'a [(NodeName, NodeName)],
        volley: Volley,
    ) -> BoxFuture<'a, Result<Vec<PacketEvidence>, Trouble>> {
        self.do_probe_packets(pairs, volley).boxed()
    }

    fn stress<'a>(&'a self, node: &'a str, all: &'a BTreeMap<String, Stress>) -> BoxFuture<'a, Result<(), Trouble>> {
        self.do_stress(node, all).boxed()
    }

    fn stressed<'a>(&'a self, node: &'a str, fault: &'a str) -> BoxFuture<'a, Result<Vec<StressEvidence>, Trouble>> {
        self.do_stressed(node, fault).boxed()
    }

    fn state<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<NodeState, Trouble>> {
        self.do_state(node).boxed()
    }

    fn lock_volume<'a>(&'a self, node: &'a str, on: bool) -> BoxFuture<'a, Result<(), Trouble>> {
        self.do_lock_volume(node, on).boxed()
    }

    fn volume<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<Vec<VolumeEvidence>, Trouble>> {
        self.do_volume(node).boxed()
    }

    fn another<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<String, Trouble>> {
        self.do_another(node).boxed()
    }

    fn probe_links<'a>(
        &'a self,
        links: &'a [LinkId],
        look: LinkLook,
    ) -> BoxFuture<'a, Result<Vec<LinkEvidence>, Trouble>> {
        self.do_probe(links, look).boxed()
    }

    fn endpoint(&self, node: &str, _component: &str, port: &str) -> Result<Endpoint, Trouble> {
        self.shared.tunnel(node, port)
    }

    fn log(&self, node: &str, component: &str) -> PathBuf {
        self.shared.logs().join(format!("{node}.{component}.log"))
    }

    fn renew(&self) -> BoxFuture<'_, Result<(), Trouble>> {
        async {
            let agents = async {
                match self.shared.packets.get() {
                    Some(packets) => packets.renew(RENEW).await,
                    None => Ok(()),
                }
            };
            let supervisors = async {
                let Some(network) = self.shared.network.get() else {
                    return;
                };
                let mut asked = Vec::new();
                for control in network.nodes.values().flat_map(|node| &node.controls) {
                    if control.view().connected {
                        asked.push(control.ask(Ask::Renew, RENEW));
                    }
                }
                // A supervisor that is not reached reverts by itself and says so.
                drop(join_all(asked).await);
            };
            tokio::join!(agents, supervisors).0
        }
        .boxed()
    }
}

/// That a container, of which also is known whether it runs, is not the one that there was.
fn replaced(before: Option<&(Incarnation, bool)>, now: Option<&(Incarnation, bool)>) -> Option<String> {
    match (before, now) {
        (Some((before, _)), None) => Some(format!("pod {} is gone", before.pod_uid)),
        (Some((before, _)), Some((now, _))) if before.pod_uid != now.pod_uid => {
            Some(format!("pod {} instead of {}", now.pod_uid, before.pod_uid))
        }
        (Some((before, _)), Some((now, _))) if before.container_id != now.container_id => {
            Some(format!("its container started again (restart {})", now.restarts))
        }
        (Some((_, true)), Some((_, false))) => Some("its container has ended".to_owned()),
        (None, Some((now, true))) => Some(format!("pod {} is there", now.pod_uid)),
        _ => None,
    }
}

fn container<'a>(pod: &'a watch::Pod, name: &str) -> Option<&'a watch::Container> {
    pod.containers
        .iter()
        .find(|container| !container.init && container.name == name)
}

/// Who runs it, for people who look at the cluster: `user@host pid`.
fn owner() -> String {
    let user = nix::unistd::User::from_uid(nix::unistd::getuid()).ok().flatten();
    let user = user.map_or_else(|| "somebody".to_owned(), |user| user.name);
    let host = std::fs::read_to_string("/etc/hostname").unwrap_or_default();
    format!("{user}@{} {}", host.trim(), std::process::id())
}

fn nonsense(node: &str, reply: &Reply) -> Trouble {
    node_trouble(
        "infra/supervisor-silent",
        node,
        "an answer to what was asked",
        format!("{reply:?}"),
    )
}
