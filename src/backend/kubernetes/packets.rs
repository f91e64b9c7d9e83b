//! The agents of a cluster, which make packets be lost on their way into a pod ([`crate::agent::packets`]), as runs see them: made by the
//! first run that needs them, shared, and removed with the last.
//!
//! They are a DaemonSet in a namespace of their own, with a Secret from which each run derives its token. Which runs use them stands in
//! annotations of that namespace. Whoever takes the last one off deletes it as it was then, by its resource version: a run that has come
//! meanwhile is not robbed of its agents.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use futures::future::join_all;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Namespace, Pod, Secret, Service};
use kube::api::{ApiResource, DeleteParams, Preconditions};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines, ReadHalf, WriteHalf};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::api::{Api, Cause, Failure, Manifest};
use super::gc::Found;
use super::objects::{Image, MANAGED_BY, MANAGER, NODE, Object};
use super::teardown;
use super::tunnel::{self, Connection};
use super::watch::{self, Pods, State, View};
use crate::agent::packets::protocol::{Answer, Ask, Bound, PORT, PROTOCOL, PodRules, Reply, Rule, Rules, token};
use crate::agent::registry::Swept;
use crate::agent::tamper::Tamper;
use crate::agent::{lock, node_trouble, trouble};
use crate::backend::{PacketShape, Trouble};
use crate::model::{Ms, NodeName, PullPolicy};
use crate::record::json_line;

/// The namespace of the agents.
pub const SYSTEM: &str = "trialnet-system";
/// The label, with the value `true`, of that namespace and of what is in it.
pub const AGENTS: &str = "trialnet.dev/agents";
/// The name of the DaemonSet and of the Secret.
pub const NAME: &str = "trialnet-agent";
/// What the annotation of a run begins with; its id follows, the value is its namespace.
pub const REGISTERED: &str = "run.trialnet.dev/";

/// The key of the Secret, and where its pod has it.
const KEY: &str = "key";
const KEY_FOLDER: &str = "/trialnet/key";
/// How long a run may take to enter itself, also when the agents are just being removed.
const JOIN: Duration = Duration::from_secs(60);
/// How long the agents may take until they answer on every machine of the run.
const READY: Duration = Duration::from_secs(60);
/// How long an agent may take to answer a question.
const PROMPT: Duration = Duration::from_secs(3);
/// Between two tries.
const AGAIN: Duration = Duration::from_millis(100);

/// Who is registered: runs, each with its namespace.
fn registered(system: &Namespace) -> BTreeMap<String, String> {
    let annotations = system.annotations().iter();
    annotations
        .filter_map(|(key, value)| Some((key.strip_prefix(REGISTERED)?.to_owned(), value.clone())))
        .collect()
}

fn is_ours(system: &Namespace) -> bool {
    let labels = system.labels();
    labels.get(MANAGED_BY).is_some_and(|value| value == MANAGER) && labels.contains_key(AGENTS)
}

fn labels() -> Value {
    json!({ MANAGED_BY: MANAGER, AGENTS: "true" })
}

fn manifest<K: kube::Resource<DynamicType = ()>>(mut value: Value) -> Manifest {
    value["apiVersion"] = K::api_version(&()).into();
    value["kind"] = K::kind(&()).into();
    Manifest {
        resource: ApiResource::erase::<K>(&()),
        value,
    }
}

/// The namespace, without the runs: those are annotations that the runs set by themselves.
fn namespace() -> Manifest {
    let mut labels = labels();
    for mode in ["enforce", "warn", "audit"] {
        labels[format!("pod-security.kubernetes.io/{mode}")] = "privileged".into();
    }
    manifest::<Namespace>(json!({ "metadata": { "name": SYSTEM, "labels": labels } }))
}

/// What agents are made of.
#[derive(Clone, Debug)]
pub struct Making {
    /// The command that runs trialnet in its own image, up to its arguments.
    pub own: Vec<String>,
    /// That image.
    pub image: Image,
    /// Secrets with registry credentials for it, in the agents' namespace.
    pub secrets: Vec<Object>,
}

/// The agents: one on each machine, whatever else it refuses, since a run's pods may be there.
fn daemon_set(Making { own, image, secrets }: &Making) -> Manifest {
    let secrets: Vec<Value> = secrets.iter().map(|secret| json!({ "name": secret.name() })).collect();
    let arguments = [
        "agent",
        "--key",
        &format!("{KEY_FOLDER}/{KEY}"),
        "--address",
        "$(POD_IP)",
    ];
    let command: Vec<&str> = own.iter().map(String::as_str).chain(arguments).collect();
    let pull = match image.pull {
        PullPolicy::Always => "Always",
        PullPolicy::IfNotPresent => "IfNotPresent",
        PullPolicy::Never => "Never",
    };
    let container = json!({
        "name": "agent",
        "image": image.name,
        "imagePullPolicy": pull,
        "command": command,
        "env": [{ "name": "POD_IP", "valueFrom": { "fieldRef": { "fieldPath": "status.podIP" } } }],
        "resources": { "requests": { "cpu": "10m", "memory": "16Mi" } },
        // It enters the network namespaces of other pods' processes.
        "securityContext": { "privileged": true, "runAsUser": 0, "readOnlyRootFilesystem": true },
        "volumeMounts": [{ "name": "key", "mountPath": KEY_FOLDER, "readOnly": true }],
    });
    manifest::<DaemonSet>(json!({
        "metadata": { "name": NAME, "namespace": SYSTEM, "labels": labels() },
        "spec": {
            "selector": { "matchLabels": { AGENTS: "true" } },
            "template": {
                "metadata": { "labels": labels() },
                "spec": {
                    "hostPID": true,
                    "imagePullSecrets": secrets,
                    "automountServiceAccountToken": false,
                    "enableServiceLinks": false,
                    "terminationGracePeriodSeconds": 1,
                    "tolerations": [{ "operator": "Exists" }],
                    "containers": [container],
                    "volumes": [{ "name": "key", "secret": { "secretName": NAME, "defaultMode": 0o400 } }],
                },
            },
        },
    }))
}

/// Enters a run (its id and its namespace, which is there), and makes the agents if nobody has yet. Returns the key of this cluster's agents.
///
/// # Errors
/// `infra/agent-silent` when the namespace is somebody else's or does not come to be; what the API server refuses.
pub async fn join(api: &Api, run: (&str, &str), making: &Making) -> Result<Vec<u8>, Trouble> {
    let deadline = Instant::now() + JOIN;
    loop {
        let seen = match Box::pin(try_join(api, run, making)).await {
            Ok(Ok(key)) => return Ok(key),
            Ok(Err(seen)) => seen,
            // The namespace went away in between.
            Err(failure) if matches!(failure.cause, Cause::NamespaceGone | Cause::Missing | Cause::Conflict) => {
                failure.to_string()
            }
            Err(failure) => return Err(failure.trouble()),
        };
        if Instant::now() + AGAIN >= deadline {
            let expected = format!("the namespace {SYSTEM} for agents within {}", Ms::from(JOIN));
            return Err(trouble("infra/agent-silent", expected, seen));
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// One try: the key, or why there is none yet.
async fn try_join(
    api: &Api,
    (run, own_namespace): (&str, &str),
    making: &Making,
) -> Result<Result<Vec<u8>, String>, Failure> {
    match api.get::<Namespace>(None, SYSTEM).await? {
        None => api.apply_one(&namespace()).await?,
        Some(system) if !is_ours(&system) => {
            return Ok(Err(
                "there is one that trialnet did not make; it has not its labels".to_owned()
            ));
        }
        Some(system) if system.metadata.deletion_timestamp.is_some() => {
            return Ok(Err("the one of former runs is still being removed".to_owned()));
        }
        Some(_) => {}
    }
    let patch = json!({ "metadata": { "annotations": { format!("{REGISTERED}{run}"): own_namespace } } });
    api.merge::<Namespace>(None, SYSTEM, &patch).await?;
    // From here on nobody deletes it; unless somebody just did.
    match api.get::<Namespace>(None, SYSTEM).await? {
        Some(system) if system.metadata.deletion_timestamp.is_none() && registered(&system).contains_key(run) => {}
        _ => return Ok(Err("it was removed at the same moment".to_owned())),
    }
    let Some(secret) = api.get::<Secret>(Some(SYSTEM), NAME).await? else {
        let key: [u8; 32] = rand::random();
        let secret = json!({
            "metadata": { "name": NAME, "namespace": SYSTEM, "labels": labels() },
            "stringData": { KEY: hex::encode(key) },
        });
        // Another run may be faster, and then its key counts.
        api.create(&manifest::<Secret>(secret)).await?;
        return Ok(Err("the key was just made".to_owned()));
    };
    let Some(key) = secret.data.unwrap_or_default().remove(KEY) else {
        return Ok(Err(format!("the Secret {NAME} has no {KEY}")));
    };
    if api.get::<DaemonSet>(Some(SYSTEM), NAME).await?.is_none() {
        for secret in &making.secrets {
            api.apply_one(&secret.into()).await?;
        }
        api.apply_one(&daemon_set(making)).await?;
    }
    Ok(Ok(key.0))
}

/// Takes a run off, if it is on. With the last one the agents go, and the namespace's end is awaited within `limit`; what is left is returned
/// in words.
pub async fn leave(api: &Api, run: &str, limit: Duration) -> Vec<String> {
    match Box::pin(try_leave(api, run, limit)).await {
        Ok(left) => left,
        Err(failure) => vec![format!("the agents in {SYSTEM}: {failure}")],
    }
}

async fn try_leave(api: &Api, run: &str, limit: Duration) -> Result<Vec<String>, Failure> {
    let Some(system) = api.get::<Namespace>(None, SYSTEM).await?.filter(is_ours) else {
        return Ok(Vec::new());
    };
    let key = format!("{REGISTERED}{run}");
    if system.annotations().contains_key(&key) {
        let patch = json!({ "metadata": { "annotations": { key: null } } });
        api.merge::<Namespace>(None, SYSTEM, &patch).await?;
    }
    // Also where it had not come so far: it may have made the namespace. Who is just about to enter finds it gone, and makes another.
    remove_unused(api, limit).await
}

/// Removes the agents if no run uses them.
async fn remove_unused(api: &Api, limit: Duration) -> Result<Vec<String>, Failure> {
    loop {
        let Some(system) = api.get::<Namespace>(None, SYSTEM).await? else {
            return Ok(Vec::new());
        };
        let ending = system.metadata.deletion_timestamp.is_some();
        if !is_ours(&system) || !ending && !registered(&system).is_empty() {
            return Ok(Vec::new());
        }
        if !ending {
            let params = DeleteParams {
                preconditions: Some(Preconditions {
                    uid: system.uid(),
                    resource_version: system.resource_version(),
                }),
                ..DeleteParams::background()
            };
            match api.delete::<Namespace>(None, SYSTEM, &params).await {
                // Somebody has come, or somebody else deletes it.
                Err(failure) if failure.cause == Cause::Conflict => continue,
                done => done?,
            };
        }
        let uid = system.uid().unwrap_or_default();
        return Ok(Box::pin(teardown::see_off(api, SYSTEM, uid, limit)).await);
    }
}

/// The agents, if they are there and none of the runs that are entered has a namespace any more.
///
/// # Errors
/// When the cluster does not tell.
pub async fn idle(api: &Api) -> Result<Option<Found>, Failure> {
    let system = api.get::<Namespace>(None, SYSTEM).await?.filter(is_ours);
    let Some(system) = system.filter(|system| system.metadata.deletion_timestamp.is_none()) else {
        return Ok(None);
    };
    let all = api.list::<Namespace>(None, &format!("{MANAGED_BY}={MANAGER}")).await?;
    let runs = registered(&system);
    if all
        .iter()
        .any(|there| runs.values().any(|namespace| *namespace == there.name_any()))
    {
        return Ok(None);
    }
    let pods = api.list::<Pod>(Some(SYSTEM), "").await.unwrap_or_default();
    let phase = |pod: &Pod| pod.status.as_ref().and_then(|status| status.phase.clone());
    let made = system.creation_timestamp().map(|time| SystemTime::from(time.0));
    Ok(Some(Found {
        namespace: SYSTEM.to_owned(),
        run: runs.keys().next().cloned().unwrap_or_default(),
        scenario: "(agents of no run)".to_owned(),
        owner: String::new(),
        made,
        // It has not been needed at least since now.
        expires: made,
        ending: false,
        pods: pods.len(),
        running: pods
            .iter()
            .filter(|pod| phase(pod).as_deref() == Some("Running"))
            .count(),
    }))
}

/// Takes off the runs whose namespaces are gone. Returns what was (or with `dry_run` would be) done, in words.
pub async fn sweep(api: &Api, dry_run: bool, limit: Duration) -> Swept {
    let mut swept = Swept::default();
    if let Err(failure) = Box::pin(try_sweep(api, dry_run, limit, &mut swept)).await {
        swept.left.push(format!("could not look for agents: {failure}"));
    }
    swept
}

async fn try_sweep(api: &Api, dry_run: bool, limit: Duration, swept: &mut Swept) -> Result<(), Failure> {
    let Some(system) = api.get::<Namespace>(None, SYSTEM).await?.filter(is_ours) else {
        return Ok(());
    };
    let all = api.list::<Namespace>(None, &format!("{MANAGED_BY}={MANAGER}")).await?;
    let there: BTreeSet<String> = all.iter().map(ResourceExt::name_any).collect();
    let all = registered(&system);
    let over: Vec<&String> = (all.iter())
        .filter(|(_, namespace)| !there.contains(*namespace))
        .map(|(run, _)| run)
        .collect();
    if dry_run {
        let would = (over.iter()).map(|run| format!("run {run}: would take it off the agents"));
        swept.done.extend(would);
        if over.len() == all.len() {
            (swept.done).push(format!("would remove the agents that no run uses (namespace {SYSTEM})"));
        }
        return Ok(());
    }
    for run in &over {
        let left = try_leave(api, run, limit).await?;
        if left.is_empty() {
            swept.done.push(format!("run {run}: took it off the agents"));
        }
        swept.left.extend(left);
    }
    if all.is_empty() {
        let left = remove_unused(api, limit).await?;
        if left.is_empty() {
            (swept.done).push(format!("removed the agents that no run uses (namespace {SYSTEM})"));
        }
        swept.left.extend(left);
    }
    Ok(())
}

/// The agents on the machines of one run's pods. A copy is the same.
#[derive(Clone)]
pub struct Packets {
    inner: Arc<Inner>,
    _following: Arc<AbortOnDropHandle<()>>,
}

struct Inner {
    client: Client,
    run: String,
    token: String,
    lease: Ms,
    tamper: Option<Tamper>,
    /// The run's own pods, and the agents'.
    pods: Pods,
    agents: Pods,
    /// Under which other address each node is seen: replies to those who dial its Service come from there.
    services: BTreeMap<NodeName, Ipv4Addr>,
    /// What has to be so.
    wanted: Mutex<Vec<PacketShape>>,
    told: tokio::sync::Mutex<Told>,
}

/// What the agents know.
struct Told {
    /// Lines to agents that are up, by machine.
    lines: BTreeMap<String, Line>,
    /// What holds for pods, by uid, with the machine.
    rules: BTreeMap<String, Place>,
    /// When all of it was renewed last.
    renewed: Instant,
}

/// A pod's machine, and what becomes of its packets.
type Place = (String, Rules);

impl Packets {
    /// The agents for a run that has joined. `key` is theirs.
    ///
    /// # Errors
    /// When the run's Services cannot be listed.
    pub async fn of(
        api: &Api,
        (run, namespace): (&str, &str),
        key: &[u8],
        pods: Pods,
        (lease, tamper): (Ms, Option<Tamper>),
    ) -> Result<Self, Trouble> {
        let services = Box::pin(api.list::<Service>(Some(namespace), ""))
            .await
            .map_err(Failure::trouble)?;
        let services = services.iter().filter_map(|service| {
            let node = service.labels().get(NODE)?.clone();
            Some((node, service.spec.as_ref()?.cluster_ip.as_ref()?.parse().ok()?))
        });
        let inner = Arc::new(Inner {
            client: api.client().clone(),
            run: run.to_owned(),
            token: token(key, run),
            lease,
            tamper,
            agents: Pods::spawn(api.client().clone(), SYSTEM, None),
            pods,
            services: services.collect(),
            wanted: Mutex::default(),
            told: tokio::sync::Mutex::new(Told {
                lines: BTreeMap::new(),
                rules: BTreeMap::new(),
                renewed: Instant::now(),
            }),
        });
        let following = tokio::spawn(Box::pin(follow(Arc::clone(&inner))));
        Ok(Self {
            inner,
            _following: Arc::new(AbortOnDropHandle::new(following)),
        })
    }

    /// Makes a folder that is mounted in a node's containers read-only there, or not. A pod that is not there has nothing to be taken back.
    ///
    /// # Errors
    /// `infra/agent-silent` and those of the agents; that there is no such pod, if it is to be read-only.
    pub async fn mount(&self, node: &str, path: &Path, read_only: bool, limit: Duration) -> Result<(), Trouble> {
        let inner = &self.inner;
        let place = inner.pods.look(|view| {
            let pod = view.pod_of(node)?;
            Some((pod.uid.clone(), pod.host.clone()?))
        });
        let Some((pod, host)) = place else {
            return if read_only { Err(no_mount(node)) } else { Ok(()) };
        };
        let ask = Ask::Mount {
            pod,
            path: path.to_owned(),
            read_only,
            tamper: inner.tamper,
        };
        let mut told = inner.told.lock().await;
        let line = told.lines.remove(&host);
        let (line, absent) = inner.order(&host, line, &ask, Instant::now() + limit).await?;
        told.lines.insert(host, line);
        if read_only && !absent.is_empty() {
            return Err(no_mount(node));
        }
        Ok(())
    }

    /// Waits until an agent answers on every machine where the run has a pod, and can do what it is for: let packets be `lost` and bind `rates`, as far
    /// as that is asked.
    ///
    /// # Errors
    /// `infra/agent-cannot`, `infra/agent-silent` with what the cluster says of it, and what keeps a pod from running.
    pub async fn ready(&self, lost: bool, rates: bool) -> Result<(), Trouble> {
        let inner = &self.inner;
        let hosts: BTreeSet<String> =
            (inner.pods).look(|view| view.pods.values().filter_map(|pod| pod.host.clone()).collect());
        let orders = hosts.into_iter().map(|host| (host, Vec::new())).collect();
        let mut told = inner.told.lock().await;
        tokio::select! {
            done = inner.give(&mut told, orders, READY) => done?,
            stuck = inner.stuck() => return Err(stuck),
        }
        let unable = |(host, line): (&String, &Line)| Some((host.clone(), line.cannot.clone()?));
        if let Some((host, why)) = told.lines.iter().find_map(unable).filter(|_| lost) {
            return Err(trouble(
                "infra/agent-cannot",
                format!("packets can be lost on {host}"),
                why,
            ));
        }
        let unable = |(host, line): (&String, &Line)| Some((host.clone(), line.unbound.clone()?));
        match told.lines.iter().find_map(unable) {
            Some((host, why)) if rates => {
                let expected = format!("rates of packets can be bound on {host}");
                Err(trouble("infra/agent-cannot", expected, why))
            }
            _ => Ok(()),
        }
    }

    /// Makes what becomes of packets what these say.
    ///
    /// # Errors
    /// `infra/agent-silent` and those of the agents.
    pub async fn filter(&self, shapes: &[PacketShape], limit: Duration) -> Result<(), Trouble> {
        *lock(&self.inner.wanted) = shapes.to_vec();
        self.inner.hold(limit).await
    }

    /// Renews the leases.
    ///
    /// # Errors
    /// When that has not been possible for as long as a lease, so that the kernel has ended what it held.
    pub async fn renew(&self, limit: Duration) -> Result<(), Trouble> {
        let inner = &self.inner;
        if lock(&inner.wanted).is_empty() {
            return Ok(());
        }
        let Err(failed) = inner.hold(limit).await else {
            return Ok(());
        };
        let renewed = inner.told.lock().await.renewed;
        if renewed.elapsed() < inner.lease.duration() {
            tracing::debug!("rules of agents were not renewed: {failed}");
            return Ok(());
        }
        Err(failed)
    }
}

/// Tells the agents whenever a pod is another one than before, so that a fault goes on over a pod's end, and whenever an agent is, so that what it
/// has to hold is renewed as soon as it is there.
async fn follow(inner: Arc<Inner>) {
    let (mut pods, mut agents) = (inner.pods.clone(), inner.agents.clone());
    loop {
        let of_agents = tokio::select! {
            () = pods.changed() => false,
            () = agents.changed() => true,
        };
        if lock(&inner.wanted).is_empty() {
            continue;
        }
        let stale = {
            let told = inner.told.lock().await;
            let all_there = || {
                let runs = |host: &String| inner.agents.look(|view| agent(view, host).is_some());
                told.rules.values().all(|(host, _)| runs(host))
            };
            let other =
                |rules: BTreeMap<String, Place>| rules.iter().any(|(pod, rules)| told.rules.get(pod) != Some(rules));
            (of_agents && all_there()) || inner.rules().is_ok_and(other)
        };
        if stale && let Err(failed) = inner.hold(PROMPT).await {
            // The next renewal tries again, and tells if it has to.
            tracing::debug!("a new pod is not known to its agent yet: {failed}");
        }
    }
}

impl Inner {
    /// Has the agents do what is wanted now.
    async fn hold(&self, limit: Duration) -> Result<(), Trouble> {
        let mut told = self.told.lock().await;
        let mut rules = self.rules()?;
        // Pods that are left alone from now on are told so once, as long as they are there.
        let there: BTreeSet<String> = self
            .pods
            .look(|view| view.pods.values().map(|pod| pod.uid.clone()).collect());
        told.rules.retain(|pod, _| there.contains(pod));
        for (pod, (host, _)) in &told.rules {
            rules
                .entry(pod.clone())
                .or_insert_with(|| (host.clone(), Rules::default()));
        }
        let mut orders: BTreeMap<String, Vec<PodRules>> = BTreeMap::new();
        for (pod, (host, rules)) in rules {
            orders.entry(host).or_default().push(PodRules { pod, rules });
        }
        self.give(&mut told, orders, limit).await
    }

    /// What has to become of the packets into each pod, by its uid.
    fn rules(&self) -> Result<BTreeMap<String, Place>, Trouble> {
        let wanted = lock(&self.wanted).clone();
        self.pods.look(|view| rules(view, &self.services, &wanted))
    }

    /// Gives each machine its orders, all at once.
    async fn give(
        &self,
        told: &mut Told,
        orders: BTreeMap<String, Vec<PodRules>>,
        limit: Duration,
    ) -> Result<(), Trouble> {
        let begun = Instant::now();
        let mut given = Vec::new();
        for (host, pods) in orders {
            // A line is back only with its answer read: else the next one would get that.
            let line = told.lines.remove(&host);
            given.push(async move {
                let ask = Ask::Hold {
                    lease: self.lease,
                    pods: pods.clone(),
                    tamper: self.tamper,
                };
                let done = self.order(&host, line, &ask, begun + limit).await;
                (host, pods, done)
            });
        }
        let mut failed = None;
        for (host, pods, done) in join_all(given).await {
            match done {
                Ok((line, absent)) => {
                    told.lines.insert(host.clone(), line);
                    for PodRules { pod, rules } in pods {
                        if rules.is_empty() || absent.contains(&pod) {
                            told.rules.remove(&pod);
                        } else {
                            told.rules.insert(pod, (host.clone(), rules));
                        }
                    }
                }
                Err(trouble) => failed = Some(trouble),
            }
        }
        match failed {
            Some(trouble) => Err(trouble),
            None => {
                told.renewed = begun;
                Ok(())
            }
        }
    }

    /// Gives one machine its order, again and again until the deadline; the pods that are not there.
    async fn order(
        &self,
        host: &str,
        mut line: Option<Line>,
        ask: &Ask,
        deadline: Instant,
    ) -> Result<(Line, Vec<String>), Trouble> {
        loop {
            let tried = tokio::time::timeout_at(deadline, Box::pin(self.try_order(host, line.take(), ask))).await;
            let seen = match tried {
                Ok(Ok((line, Ok(Reply::Held { absent })))) => return Ok((line, absent)),
                Ok(Ok((_, Err(trouble)))) => return Err(trouble),
                Ok(Ok((_, Ok(other)))) => format!("it answered {other:?}"),
                Ok(Err(seen)) => seen,
                Err(_) => "it does not answer".to_owned(),
            };
            if Instant::now() + AGAIN >= deadline {
                let expected = format!("the agent on {host} does what it is asked");
                let seen = format!("{seen}; {}", self.agents.look(|view| describe(view, host)));
                return Err(trouble("infra/agent-silent", expected, seen));
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn try_order(&self, host: &str, line: Option<Line>, ask: &Ask) -> Result<(Line, Answer), String> {
        let mut line = match line {
            Some(line) => line,
            None => {
                let pod = self.agents.look(|view| agent(view, host).map(|pod| pod.name.clone()));
                let pod = pod.ok_or("there is none that runs")?;
                let (read, write) = tunnel::connect(self.client.clone(), SYSTEM, &pod, PORT)
                    .await
                    .map(tokio::io::split)
                    .map_err(|(_, why)| why)?;
                let lines = BufReader::new(read).lines();
                let mut line = Line {
                    lines,
                    write,
                    cannot: None,
                    unbound: None,
                };
                let hello = Ask::Hello {
                    protocol: PROTOCOL,
                    run: self.run.clone(),
                    token: self.token.clone(),
                };
                match line.ask(&hello).await? {
                    Ok(Reply::Hello { cannot, unbound, .. }) => {
                        line.cannot = cannot;
                        line.unbound = unbound;
                        line
                    }
                    other => return Ok((line, other)),
                }
            }
        };
        let answer = line.ask(ask).await?;
        Ok((line, answer))
    }

    /// Waits for something that keeps an agent from running.
    async fn stuck(&self) -> Trouble {
        let mut agents = self.agents.clone();
        loop {
            let found = agents.look(|view| {
                let now = Instant::now();
                let pods = view.pods.values();
                let pod = pods.filter_map(|pod| watch::verdict(pod, &view.events, now)).next();
                pod.map(|found| found.trouble).or_else(|| refused(view))
            });
            if let Some(trouble) = found {
                return trouble;
            }
            drop(tokio::time::timeout(Duration::from_millis(500), agents.changed()).await);
        }
    }
}

fn no_mount(node: &str) -> Trouble {
    let expected = "a volume in the containers of its pod";
    node_trouble(
        "infra/agent-failed",
        node,
        expected,
        "the agent of its machine finds none",
    )
}

/// What has to become of the packets into each pod, by its uid; with its machine.
fn rules(
    view: &View,
    services: &BTreeMap<NodeName, Ipv4Addr>,
    wanted: &[PacketShape],
) -> Result<BTreeMap<String, Place>, Trouble> {
    let mut rules: BTreeMap<String, Place> = BTreeMap::new();
    for PacketShape { from, to, loss, rate } in wanted {
        if *loss > 0.0 {
            let from = addresses(view, services, from)?;
            if let Some(rules) = rules_of(&mut rules, view, to).filter(|_| !from.is_empty()) {
                match rules.lost.iter_mut().find(|rule| rule.loss.to_bits() == loss.to_bits()) {
                    Some(rule) => rule.from.extend(from),
                    None => rules.lost.push(Rule { from, loss: *loss }),
                }
            }
        }
        if let Some(rate) = *rate {
            let to = addresses(view, services, to)?;
            if let Some(rules) = rules_of(&mut rules, view, from).filter(|_| !to.is_empty()) {
                rules.bounds.push(Bound { to, rate });
            }
        }
    }
    Ok(rules)
}

/// The rules of a node's pod, if it is on a machine.
fn rules_of<'a>(rules: &'a mut BTreeMap<String, Place>, view: &View, node: &str) -> Option<&'a mut Rules> {
    let pod = view.pod_of(node)?;
    let host = pod.host.clone()?;
    let (_, rules) = rules.entry(pod.uid.clone()).or_insert_with(|| (host, Rules::default()));
    Some(rules)
}

/// Under which addresses others see a node.
fn addresses(view: &View, services: &BTreeMap<NodeName, Ipv4Addr>, node: &NodeName) -> Result<Vec<Ipv4Addr>, Trouble> {
    let of_pod = view.pod_of(node).and_then(|pod| pod.ip.as_ref()).map(|ip| {
        ip.parse::<Ipv4Addr>().map_err(|_| {
            let expected = "pods with IPv4 addresses, where packets are to be lost or bound";
            trouble("infra/agent-cannot", expected, format!("{node} is at {ip}"))
        })
    });
    Ok(of_pod
        .transpose()?
        .into_iter()
        .chain(services.get(node).copied())
        .collect())
}

/// The agent's pod on a machine, if it runs.
fn agent<'a>(view: &'a View, host: &str) -> Option<&'a watch::Pod> {
    let runs = |pod: &&watch::Pod| {
        let running = |container: &watch::Container| matches!(container.state, State::Running { .. });
        pod.host.as_deref() == Some(host) && !pod.deleting && pod.containers.iter().any(running)
    };
    view.pods.values().find(runs)
}

/// What the cluster says of the agent on a machine.
fn describe(view: &View, host: &str) -> String {
    let on = |pod: &&watch::Pod| pod.host.as_deref() == Some(host);
    match view.pods.values().find(on) {
        Some(pod) => {
            let states: Vec<String> = (pod.containers.iter())
                .map(|container| format!("{:?}, {} restarts", container.state, container.restarts))
                .collect();
            format!("its pod {} is {} ({})", pod.name, pod.phase, states.join("; "))
        }
        None => format!("{NAME} in {SYSTEM} has no pod there"),
    }
}

/// That the cluster does not let the DaemonSet make its pods.
fn refused(view: &View) -> Option<Trouble> {
    let event = (view.events.iter())
        .find(|event| event.kind == "DaemonSet" && event.warning && !event.past && event.reason == "FailedCreate")?;
    // Right after the namespace was made this passes by itself.
    if event.message.contains("error looking up service account") {
        return None;
    }
    let expected = format!("privileged pods for {NAME} in {SYSTEM}");
    Some(trouble("infra/agent-silent", expected, event.message.clone()))
}

/// A connection to an agent that knows who we are.
struct Line {
    lines: Lines<BufReader<ReadHalf<Connection>>>,
    write: WriteHalf<Connection>,
    /// Why packets cannot be lost there.
    cannot: Option<String>,
    /// Why rates cannot be bound there.
    unbound: Option<String>,
}

impl Line {
    /// Asks; the outer error is the line's.
    async fn ask(&mut self, ask: &Ask) -> Result<Answer, String> {
        let exchange = async {
            self.write.write_all(&json_line(ask)?).await?;
            self.write.flush().await?;
            self.lines.next_line().await
        };
        match tokio::time::timeout(PROMPT, exchange).await {
            Ok(Ok(Some(line))) => serde_json::from_str(&line).map_err(|error| format!("it said {line:?}: {error}")),
            Ok(Ok(None)) => Err("the connection ended".to_owned()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {}", Ms::from(PROMPT))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::MutexGuard;

    use super::super::mock::{self, Asked, server, status};
    use super::*;

    /// The system namespace of a cluster that knows no more.
    #[derive(Default)]
    struct Cluster {
        /// `None`: there is none.
        system: Option<Value>,
        /// Goes up with each change.
        version: u64,
        secret: Option<Value>,
        set: bool,
        /// Somebody who comes between a look and a deletion.
        intruder: Option<&'static str>,
    }

    impl Cluster {
        fn answer(&mut self, asked: &Asked) -> mock::Answer {
            let ok = |value: &Value| mock::Answer::Json(200, value.clone());
            let found = |object: &Option<Value>| match object {
                Some(object) => ok(object),
                None => status(404, "NotFound", ""),
            };
            match asked.line().as_str() {
                "GET /api/v1/namespaces/trialnet-system" => found(&self.system),
                "PATCH /api/v1/namespaces/trialnet-system" => {
                    let system = self.system.get_or_insert_with(
                        || json!({ "metadata": { "name": SYSTEM, "uid": "u", "annotations": {}, "labels": labels(), "creationTimestamp": "2026-01-01T00:00:00Z" } }),
                    );
                    self.version += 1;
                    system["metadata"]["resourceVersion"] = self.version.to_string().into();
                    for (key, value) in asked.body["metadata"]["annotations"].as_object().into_iter().flatten() {
                        let annotations = system["metadata"]["annotations"].as_object_mut().unwrap();
                        match value {
                            Value::Null => drop(annotations.remove(key)),
                            value => drop(annotations.insert(key.clone(), value.clone())),
                        }
                    }
                    ok(system)
                }
                "DELETE /api/v1/namespaces/trialnet-system" => {
                    if let Some(run) = self.intruder.take() {
                        let system = self.system.as_mut().unwrap();
                        system["metadata"]["annotations"][format!("{REGISTERED}{run}")] = "trialnet-b".into();
                        self.version += 1;
                        system["metadata"]["resourceVersion"] = self.version.to_string().into();
                    }
                    let wanted = asked.body["preconditions"]["resourceVersion"].as_str();
                    if wanted != Some(self.version.to_string().as_str()) {
                        return status(409, "Conflict", "the object has been modified");
                    }
                    self.system = None;
                    self.secret = None;
                    self.set = false;
                    mock::Answer::Json(200, json!({}))
                }
                "GET /api/v1/namespaces/trialnet-system/secrets/trialnet-agent" => found(&self.secret),
                "POST /api/v1/namespaces/trialnet-system/secrets" => {
                    let key = asked.body["stringData"]["key"].as_str().unwrap();
                    assert_eq!(key.len(), 64);
                    let key = k8s_openapi::ByteString(key.as_bytes().to_vec());
                    let made = json!({ "metadata": { "name": NAME }, "data": { "key": key } });
                    // Somebody else was faster; the answer must be read again.
                    self.secret = Some(made);
                    status(409, "AlreadyExists", "secrets \"trialnet-agent\" already exists")
                }
                "GET /apis/apps/v1/namespaces/trialnet-system/daemonsets/trialnet-agent" if self.set => {
                    mock::Answer::Json(200, json!({ "metadata": { "name": NAME } }))
                }
                "GET /apis/apps/v1/namespaces/trialnet-system/daemonsets/trialnet-agent" => status(404, "NotFound", ""),
                "PATCH /apis/apps/v1/namespaces/trialnet-system/daemonsets/trialnet-agent" => {
                    assert!(!self.set, "applied although it is there");
                    self.set = true;
                    mock::Answer::Json(200, json!({}))
                }
                "GET /api/v1/namespaces/trialnet-system/pods" => {
                    let pod = |phase| json!({ "metadata": { "name": NAME }, "status": { "phase": phase } });
                    mock::Answer::Json(200, json!({ "items": [pod("Running"), pod("Pending")] }))
                }
                "GET /api/v1/namespaces" => {
                    mock::Answer::Json(200, json!({ "items": [{ "metadata": { "name": "trialnet-a" } }] }))
                }
                other => panic!("asked for {other}"),
            }
        }
    }

    fn cluster(begin: Cluster) -> (Api, Arc<Mutex<Cluster>>) {
        let cluster = Arc::new(Mutex::new(begin));
        let answering = Arc::clone(&cluster);
        let (client, _) = server(move |asked| answering.lock().unwrap().answer(asked));
        (Api::new(client), cluster)
    }

    fn runs(cluster: &MutexGuard<'_, Cluster>) -> Vec<String> {
        let annotations = &cluster.system.as_ref().unwrap()["metadata"]["annotations"];
        annotations.as_object().unwrap().keys().cloned().collect()
    }

    fn making() -> Making {
        Making {
            own: vec!["/trialnet/bin/trialnet".to_owned()],
            image: Image {
                name: "trialnet:1".to_owned(),
                program: None,
                pull: PullPolicy::Never,
            },
            secrets: Vec::new(),
        }
    }

    async fn joined(api: &Api, run: &str) -> Vec<u8> {
        join(api, (run, &format!("trialnet-{run}")), &making()).await.unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_makes_the_agents_and_the_last_removes_them() {
        let (api, cluster) = cluster(Cluster::default());
        let key = joined(&api, "a").await;
        assert_eq!(joined(&api, "b").await, key, "one key for all");
        assert_eq!(
            runs(&cluster.lock().unwrap()),
            ["run.trialnet.dev/a", "run.trialnet.dev/b"]
        );
        assert_eq!(leave(&api, "never-there", JOIN).await, [""; 0]);
        assert_eq!(leave(&api, "a", JOIN).await, [""; 0]);
        assert_eq!(runs(&cluster.lock().unwrap()), ["run.trialnet.dev/b"]);
        assert_eq!(leave(&api, "b", JOIN).await, [""; 0]);
        assert!(cluster.lock().unwrap().system.is_none());
        assert_eq!(leave(&api, "b", JOIN).await, [""; 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_that_comes_between_keeps_the_agents() {
        let (api, cluster) = cluster(Cluster::default());
        joined(&api, "a").await;
        cluster.lock().unwrap().intruder = Some("b");
        assert_eq!(leave(&api, "a", JOIN).await, [""; 0]);
        assert_eq!(runs(&cluster.lock().unwrap()), ["run.trialnet.dev/b"]);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_joins_what_goes_or_is_not_ours() {
        for (labels, more) in [(labels(), "2026-01-01T00:00:00Z"), (json!({}), "")] {
            let mut system = json!({ "metadata": { "name": SYSTEM, "uid": "u", "labels": labels } });
            if !more.is_empty() {
                system["metadata"]["deletionTimestamp"] = more.into();
            }
            let (api, _) = cluster(Cluster {
                system: Some(system),
                ..Cluster::default()
            });
            let failed = join(&api, ("a", "trialnet-a"), &making()).await.unwrap_err();
            assert_eq!(failed.code, "infra/agent-silent", "{failed}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn runs_without_a_namespace_are_taken_off() {
        let (api, cluster) = cluster(Cluster::default());
        joined(&api, "a").await;
        joined(&api, "lost").await;
        assert_eq!(idle(&api).await.unwrap(), None, "run a is there");
        let would = sweep(&api, true, JOIN).await;
        assert_eq!(would.done, ["run lost: would take it off the agents"]);
        assert_eq!(
            sweep(&api, false, JOIN).await.done,
            ["run lost: took it off the agents"]
        );
        assert_eq!(runs(&cluster.lock().unwrap()), ["run.trialnet.dev/a"]);
        let patch = json!({ "metadata": { "annotations": { "run.trialnet.dev/a": null } } });
        api.merge::<Namespace>(None, SYSTEM, &patch).await.unwrap();
        let left = idle(&api).await.unwrap().unwrap();
        assert_eq!((left.namespace.as_str(), left.pods, left.running), (SYSTEM, 2, 1));
        assert!(left.expired(SystemTime::now(), Duration::ZERO), "{left:?}");
        let would = sweep(&api, true, JOIN).await;
        assert!(would.done[0].starts_with("would remove the agents"), "{would:?}");
        let done = sweep(&api, false, JOIN).await;
        assert!(done.done[0].contains("removed the agents"), "{done:?}");
        assert!(cluster.lock().unwrap().system.is_none());
        assert_eq!(sweep(&api, false, JOIN).await, Swept::default());
        assert_eq!(idle(&api).await.unwrap(), None);
    }

    fn view() -> View {
        let pod = |node: &str, ip: Option<&str>, host: Option<&str>| watch::Pod {
            name: format!("{node}-0"),
            uid: format!("uid-{node}"),
            node: Some(node.to_owned()),
            host: host.map(str::to_owned),
            ip: ip.map(str::to_owned),
            ..watch::Pod::default()
        };
        let pods = [
            pod("a", Some("10.0.0.1"), Some("m1")),
            pod("b", Some("10.0.0.2"), Some("m2")),
            pod("c", None, None),
            pod("d", Some("fd00::1"), Some("m1")),
        ];
        View {
            pods: pods.map(|pod| (pod.name.clone(), pod)).into(),
            ..View::default()
        }
    }

    fn shape(from: &str, to: &str, loss: f64) -> PacketShape {
        PacketShape {
            from: from.to_owned(),
            to: to.to_owned(),
            loss,
            rate: None,
        }
    }

    #[test]
    fn a_sender_is_known_by_its_pod_and_by_its_service() {
        let services: BTreeMap<NodeName, Ipv4Addr> = ["a", "c"]
            .into_iter()
            .zip(1..)
            .map(|(node, last)| (node.to_owned(), Ipv4Addr::new(10, 96, 0, last)))
            .collect();
        let wanted = [
            shape("a", "b", 0.3),
            shape("c", "b", 0.3),
            shape("b", "a", 1.0),
            shape("a", "c", 0.3),
            PacketShape {
                rate: Some(1_000_000),
                ..shape("a", "b", 0.0)
            },
        ];
        let rules = rules(&view(), &services, &wanted).unwrap();
        let addresses = |all: &[&str]| all.iter().map(|one| one.parse().unwrap()).collect::<Vec<Ipv4Addr>>();
        let into_b = Rule {
            from: addresses(&["10.0.0.1", "10.96.0.1", "10.96.0.2"]),
            loss: 0.3,
        };
        let into_a = Rule {
            from: addresses(&["10.0.0.2"]),
            loss: 1.0,
        };
        let from_a = Bound {
            to: addresses(&["10.0.0.2"]),
            rate: 1_000_000,
        };
        let of = |lost: Rule, bounds: Vec<Bound>| Rules {
            lost: vec![lost],
            bounds,
        };
        // A pod that is on no machine yet has no rules.
        let expected = BTreeMap::from([
            ("uid-b".to_owned(), ("m2".to_owned(), of(into_b, Vec::new()))),
            ("uid-a".to_owned(), ("m1".to_owned(), of(into_a, vec![from_a]))),
        ]);
        assert_eq!(rules, expected);
    }

    #[test]
    fn what_cannot_be_told_from_others_is_said() {
        let failed = rules(&view(), &BTreeMap::new(), &[shape("d", "a", 0.5)]).unwrap_err();
        assert_eq!(failed.code, "infra/agent-cannot", "{failed}");
    }

    #[test]
    fn the_agents_are_made_of_trialnets_own_image() {
        let Manifest { value, resource } = daemon_set(&making());
        assert_eq!(resource.kind, "DaemonSet");
        let set: DaemonSet = serde_json::from_value(value).unwrap();
        let spec = set.spec.unwrap().template.spec.unwrap();
        assert_eq!((spec.host_pid, spec.host_network), (Some(true), None));
        let container = &spec.containers[0];
        assert_eq!(container.image.as_deref(), Some("trialnet:1"));
        let command: Vec<&str> = container.command.iter().flatten().map(String::as_str).collect();
        assert!(crate::agent::is_hidden_call(&command[1..]), "{command:?}");
    }
}
