//! Machines of the cluster that take no more pods, or are off, for the time of a fault.
//!
//! A machine is cordoned as `kubectl cordon` does it; one of a kind cluster fails when its container is killed or paused. Before that it says in a
//! label which run does it. So whoever comes after a run that is gone (its guard, or `gc`) finds what has to be mended, and nobody mends what
//! somebody else has done. It needs no expiry of its own: it is over with the namespace of the run.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::core::v1::{Namespace, Node};
use kube::ResourceExt;
use serde_json::json;

use super::api::{Api, Cause, Failure};
use super::command::Call;
use super::provider::Cluster;
use super::watch::View;
use crate::agent::registry::Swept;
use crate::agent::{node_trouble, trouble};
use crate::backend::Trouble;
use crate::codes::Code;
use crate::model::{NodeName, Outage, Provider};

/// The label of a machine that a run has cordoned, with the run's namespace.
pub const CORDONED: &str = "trialnet.dev/cordoned-by";
/// The label of a machine that a run has made fail, with the run's namespace.
pub const OFF: &str = "trialnet.dev/off-by";
/// The label of machines on which the API server runs.
const CONTROL_PLANE: &str = "node-role.kubernetes.io/control-plane";
/// The label of machines that tells one from another for the scheduler.
pub const HOSTNAME: &str = "kubernetes.io/hostname";

const DOCKER: &str = "infra/machine-docker";
/// How long docker may take for anything.
const DOCKER_LIMIT: Duration = Duration::from_secs(15);
/// States of containers, as docker names them.
const RUNS: &str = "running";
const PAUSED: &str = "paused";

/// How long one change of a machine may take, and how often it is tried when somebody else changes the machine meanwhile.
const CHANGE: Duration = Duration::from_secs(3);
const TRIES: u32 = 3;

/// The machines on which these nodes are, on which no other of the network's `nodes` is.
///
/// # Errors
/// A node that is on none at the moment, or one on which somebody else is, who would be struck too.
pub(super) fn hosts(view: &View, named: &[NodeName], nodes: &BTreeSet<&NodeName>) -> Result<BTreeSet<String>, Trouble> {
    let mut hosts = BTreeSet::new();
    for node in named {
        let Some(host) = view.pod_of(node).and_then(|pod| pod.host.clone()) else {
            let seen = "it has no pod on a machine at the moment";
            return Err(node_trouble(
                "infra/machine-none",
                node,
                "a machine on which the node is",
                seen,
            ));
        };
        if let Some(other) = on(view, &host, nodes).find(|other| !named.contains(other)) {
            return Err(node_trouble(
                "infra/machine-shared",
                node,
                format!("only {} on the machine that is to be struck", named.join(", ")),
                format!("{other} is on {host} too"),
            ));
        }
        hosts.insert(host);
    }
    Ok(hosts)
}

/// The nodes of the network on a machine.
pub(super) fn on<'a>(view: &'a View, host: &str, nodes: &BTreeSet<&NodeName>) -> impl Iterator<Item = &'a NodeName> {
    let there = move |pod: &&super::watch::Pod| pod.host.as_deref() == Some(host);
    let known = move |node: &&NodeName| nodes.contains(node);
    (view.pods.values())
        .filter(there)
        .filter_map(|pod| pod.node.as_ref())
        .filter(known)
}

/// The machines, by the label `kubernetes.io/hostname`, that are kept for nodes of which each needs one for itself: where there are enough, two for
/// each, so that a pod may move. All others of the network keep to the rest, or the scheduler might spread these over all machines first.
///
/// # Errors
/// `infra/machines-few`; the cluster does not tell.
pub async fn room(api: &Api, alone: usize, others: bool) -> Result<Vec<String>, Trouble> {
    let machines = api.list::<Node>(None, "").await.map_err(Failure::trouble)?;
    let open: Vec<String> = machines
        .iter()
        .filter(|node| takes_pods(node))
        .map(|node| node.labels().get(HOSTNAME).cloned().unwrap_or_else(|| node.name_any()))
        .collect();
    let needed = alone + usize::from(others);
    if open.len() < needed {
        return Err(trouble(
            "infra/machines-few",
            format!(
                "{needed} machines that take pods: one for each of the {alone} whose machines are struck, and one for the others"
            ),
            format!("{} of {} do: {}", open.len(), machines.len(), open.join(", ")),
        ));
    }
    let kept = (alone * 2).min(open.len() - usize::from(others));
    Ok(open.into_iter().take(kept).collect())
}

fn takes_pods(node: &Node) -> bool {
    let spec = node.spec.clone().unwrap_or_default();
    let tainted = spec
        .taints
        .iter()
        .flatten()
        .any(|taint| taint.effect != "PreferNoSchedule");
    !tainted && !spec.unschedulable.unwrap_or(false)
}

/// Has a machine take no more pods, for the run with this namespace. Done already is as good.
///
/// # Errors
/// `infra/machine-held` where it takes none for another reason: it is left as it is; any failure of the API.
pub async fn cordon(api: &Api, machine: &str, namespace: &str) -> Result<(), Trouble> {
    mark(api, machine, namespace, CORDONED).await
}

/// Makes a machine of a kind cluster fail, for the run with this namespace in the cluster of this name.
///
/// # Errors
/// As [`cordon`]; `infra/machine-docker` where docker cannot, or it is no machine of that cluster.
pub async fn fail(api: &Api, machine: &str, (namespace, cluster): (&str, &str), outage: Outage) -> Result<(), Trouble> {
    let expected = format!("{machine} is a machine of the kind cluster {cluster} that runs");
    match container(machine).await? {
        Some(seen) if seen == (RUNS.to_owned(), cluster.to_owned()) => {}
        seen => return Err(trouble(DOCKER, expected, format!("docker says {seen:?}"))),
    }
    mark(api, machine, namespace, OFF).await?;
    let how = match outage {
        Outage::Stop => "kill",
        Outage::Pause => "pause",
    };
    docker(&[how, machine]).await.map(drop)
}

/// Whether a machine of a kind cluster is off, in words.
///
/// # Errors
/// `infra/machine-docker` where it is not, or docker does not say.
pub async fn is_off(machine: &str, cluster: &str, outage: Outage) -> Result<String, Trouble> {
    let wanted = match outage {
        Outage::Stop => "exited",
        Outage::Pause => PAUSED,
    };
    match container(machine).await? {
        Some((state, of)) if state == wanted && of == cluster => Ok(format!("docker says that {machine} is {state}")),
        seen => Err(trouble(
            DOCKER,
            format!("the container {machine} is {wanted}"),
            format!("docker says {seen:?}"),
        )),
    }
}

/// Whether machines of this cluster can be made to fail.
///
/// # Errors
/// `infra/machine-docker` for all but kind clusters.
pub fn can_fail(cluster: &Cluster) -> Result<(), Trouble> {
    if cluster.provider == Provider::Kind {
        return Ok(());
    }
    let expected = "machines that can be made to fail: those of a kind cluster are containers of this machine";
    let seen = format!(
        "the context {} is of another cluster; use `drain`, or kill or stop the nodes",
        cluster.context
    );
    Err(trouble(DOCKER, expected, seen))
}

/// The state of a machine's container and the kind cluster that it belongs to; `None`: there is none.
async fn container(machine: &str) -> Result<Option<(String, String)>, Trouble> {
    let format = "{{.State.Status}} {{index .Config.Labels \"io.x-k8s.kind.cluster\"}}";
    let filter = format!("name=^/?{machine}$");
    // Unlike `inspect`, an answer is sure also where there is none.
    let ids = docker(&["ps", "--all", "--quiet", "--filter", &filter]).await?;
    let Some(id) = ids.lines().next() else { return Ok(None) };
    let seen = docker(&["inspect", "--format", format, id]).await?;
    Ok(seen
        .trim()
        .split_once(' ')
        .map(|(state, cluster)| (state.to_owned(), cluster.to_owned())))
}

async fn docker(args: &[&str]) -> Result<String, Trouble> {
    Call::new(DOCKER, "docker", args, DOCKER_LIMIT).output().await
}

/// Says on a machine that the run with this namespace strikes it; with [`CORDONED`] it takes no more pods besides.
async fn mark(api: &Api, machine: &str, namespace: &str, label: &str) -> Result<(), Trouble> {
    let held = |seen: String| {
        trouble(
            "infra/machine-held",
            format!("{machine} takes pods before it is struck"),
            seen,
        )
    };
    let api = api.within(CHANGE);
    let mut last = None;
    for _ in 0..TRIES {
        let Some(node) = api.get::<Node>(None, machine).await.map_err(Failure::trouble)? else {
            return Err(held("there is no such machine".to_owned()));
        };
        match [CORDONED, OFF]
            .into_iter()
            .find_map(|key| Some((key, node.labels().get(key)?)))
        {
            Some((key, by)) if by == namespace && key == label => return Ok(()),
            Some((_, by)) => return Err(held(format!("the run of the namespace {by} has struck it"))),
            None if !takes_pods(&node) => {
                return Err(held("somebody else has cordoned it, and it is left so".to_owned()));
            }
            None if label == OFF && node.labels().contains_key(CONTROL_PLANE) => {
                return Err(held("the API server runs there".to_owned()));
            }
            None => {}
        }
        // With the version that was read: another run may be about to do the same.
        let mut patch =
            json!({ "metadata": { "resourceVersion": node.resource_version(), "labels": { label: namespace } } });
        if label == CORDONED {
            patch["spec"] = json!({ "unschedulable": true });
        }
        match api.merge::<Node>(None, machine, &patch).await {
            Ok(true) => return Ok(()),
            Ok(false) => return Err(held("there is no such machine".to_owned())),
            Err(failure) if failure.cause == Cause::Conflict => last = Some(failure),
            Err(failure) => return Err(failure.trouble()),
        }
    }
    Err(last.map_or_else(|| held("nobody tried".to_owned()), Failure::trouble))
}

/// Takes back what the run with this namespace has done to a machine, if it has.
///
/// # Errors
/// Any failure of the API or of docker.
pub async fn restore(api: &Api, machine: &str, namespace: &str) -> Result<(), Trouble> {
    let api = api.within(CHANGE);
    let node = api.get::<Node>(None, machine).await.map_err(Failure::trouble)?;
    // A machine that is gone is as good.
    let Some(node) = node else { return Ok(()) };
    let by = |label: &str| node.labels().get(label).is_some_and(|by| by == namespace);
    if by(OFF) {
        match container(machine).await? {
            Some((state, _)) if state == RUNS => {}
            Some((state, _)) if state == PAUSED => drop(docker(&["unpause", machine]).await?),
            Some(_) => drop(docker(&["start", machine]).await?),
            None => {
                return Err(trouble(
                    DOCKER,
                    format!("the container {machine}"),
                    "there is none on this machine",
                ));
            }
        }
    }
    for (label, mut patch) in [
        (OFF, json!({})),
        (CORDONED, json!({ "spec": { "unschedulable": null } })),
    ] {
        if by(label) {
            patch["metadata"] = json!({ "labels": { label: null } });
            api.merge::<Node>(None, machine, &patch)
                .await
                .map_err(Failure::trouble)?;
        }
    }
    Ok(())
}

/// What the cluster says of a machine that a run has cordoned: whether it still takes no pods.
///
/// # Errors
/// In words, that it does; any failure of the API.
pub async fn takes_none(api: &Api, machine: &str, namespace: &str) -> Result<(), Trouble> {
    let expected = format!("{machine} takes no pods while it is drained");
    let node = api
        .within(CHANGE)
        .get::<Node>(None, machine)
        .await
        .map_err(Failure::trouble)?;
    let Some(node) = node else {
        return Err(trouble("infra/machine-held", expected, "there is no such machine"));
    };
    let cordoned = node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true);
    if !cordoned || node.labels().get(CORDONED).map(String::as_str) != Some(namespace) {
        return Err(trouble(
            "infra/machine-held",
            expected,
            "somebody else lets it take pods",
        ));
    }
    Ok(())
}

/// Takes back what the run with this namespace has done to machines, within `limit`. Returns what is left, in words.
pub async fn release(api: &Api, namespace: &str, limit: Duration) -> Vec<String> {
    let work = async {
        match struck(api).await {
            Ok(struck) => {
                let ours = struck.into_iter().filter(|(_, by)| by == namespace);
                mend(api, ours.collect()).await
            }
            // Who may not look at machines has not struck any.
            Err(failure) if failure.cause == Cause::Forbidden => Vec::new(),
            Err(failure) => vec![format!("machines that may be cordoned or off: {failure}")],
        }
    };
    let late = || {
        vec![format!(
            "machines that {namespace} may have struck: no answer within {limit:?}"
        )]
    };
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| late())
}

/// The machines that runs have struck, and the namespace of each of these runs.
async fn struck(api: &Api) -> Result<BTreeSet<(String, String)>, Failure> {
    let mut struck = BTreeSet::new();
    for label in [CORDONED, OFF] {
        let machines = api.list::<Node>(None, label).await?;
        struck.extend(
            machines
                .iter()
                .filter_map(|node| Some((node.name_any(), node.labels().get(label)?.clone()))),
        );
    }
    Ok(struck)
}

async fn mend(api: &Api, machines: Vec<(String, String)>) -> Vec<String> {
    let work = machines.iter().map(|(machine, namespace)| async move {
        let done = restore(api, machine, namespace).await;
        done.err().map(|trouble| {
            let by_hand = api.kubectl(None, &format!("uncordon {machine}"));
            format!(
                "the machine {machine} is cordoned or off: {trouble}; `{by_hand}` or `docker start {machine}` mends it"
            )
        })
    });
    join_all(work).await.into_iter().flatten().collect()
}

/// Takes back what was done to machines by runs that have no namespace any more, or one of those that are `going`.
pub async fn sweep(api: &Api, going: &[String], dry_run: bool) -> Swept {
    let mut swept = Swept::default();
    // Who may not look at machines has struck none.
    let Ok(struck) = struck(api).await else {
        return swept;
    };
    for (machine, namespace) in struck {
        let gone = going.contains(&namespace) || matches!(api.get::<Namespace>(None, &namespace).await, Ok(None));
        if !gone {
            continue;
        }
        if dry_run {
            (swept.done).push(format!(
                "would give the machine {machine} back, which {namespace} has struck"
            ));
            continue;
        }
        let left = mend(api, vec![(machine.clone(), namespace.clone())]).await;
        if left.is_empty() {
            (swept.done).push(format!("gave the machine {machine} back, which {namespace} had struck"));
        }
        swept.left.extend(left);
    }
    swept
}

/// What the codes of this module mean.
pub const CODES: &[Code] = &[
    (
        "infra/machines-few",
        "the cluster has too few machines that take pods",
        "Each node that a `drain` or `machine` names gets a machine on which no other node of the network is, and the others need one too. Drain fewer at a time, or use a cluster of more machines (`kind create cluster` with workers).",
    ),
    (
        "infra/machine-none",
        "a node is on no machine at the moment",
        "Its pod waits, or is being made: another fault has removed it. Wait for its recovery before its machine is struck.",
    ),
    (
        "infra/machine-shared",
        "another node of the network is on the machine that is to be struck",
        "It would be struck too, which the plan does not reckon with. Trialnet keeps them apart when it places them; somebody or something has moved a pod since.",
    ),
    (
        DOCKER,
        "a machine cannot be made to fail, or cannot be started again",
        "Only machines of a kind cluster can: they are containers of this machine, which docker kills or pauses and starts again. The words of docker stand in the finding. The machine of the API server is never struck.",
    ),
    (
        "infra/machine-held",
        "a machine takes no pods for another reason, or takes some although it is drained",
        "Somebody else has cordoned it, or another run has drained it, before the fault; or somebody has undone the fault while it was on. `kubectl get nodes --show-labels` says who.",
    ),
];

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use serde_json::Value;

    use super::super::mock::{Answer, server, status};
    use super::*;

    /// A cluster of one machine, which can be looked at and changed.
    fn machine(labels: Value, unschedulable: bool) -> (Api, Arc<Mutex<Value>>) {
        let node = json!({ "metadata": { "name": "m", "resourceVersion": "7", "labels": labels },
            "spec": { "unschedulable": unschedulable } });
        let state = Arc::new(Mutex::new(node));
        let shared = state.clone();
        let (client, _) = server(move |asked| {
            let mut node = shared.lock().unwrap();
            match asked.line().as_str() {
                "GET /api/v1/nodes/m" => Answer::Json(200, node.clone()),
                "GET /api/v1/nodes" => {
                    // The selector of either label, or none.
                    let label = asked
                        .path
                        .split_once("labelSelector=trialnet.dev%2F")
                        .map(|(_, label)| format!("trialnet.dev/{label}"));
                    let has = label
                        .is_none_or(|label| node["metadata"]["labels"][label.split('&').next().unwrap()].is_string());
                    let items: Vec<Value> = has.then(|| node.clone()).into_iter().collect();
                    Answer::Json(200, json!({ "items": items }))
                }
                "PATCH /api/v1/nodes/m" => {
                    let patch = &asked.body;
                    let version = &patch["metadata"]["resourceVersion"];
                    if !version.is_null() && *version != node["metadata"]["resourceVersion"] {
                        return status(409, "Conflict", "");
                    }
                    if patch.get("spec").is_some() {
                        node["spec"]["unschedulable"] = patch["spec"]["unschedulable"].clone();
                    }
                    for (label, value) in patch["metadata"]["labels"].as_object().unwrap() {
                        let labels = node["metadata"]["labels"].as_object_mut().unwrap();
                        match value.is_null() {
                            true => drop(labels.remove(label)),
                            false => drop(labels.insert(label.clone(), value.clone())),
                        }
                    }
                    Answer::Json(200, node.clone())
                }
                "GET /api/v1/namespaces/alive" => Answer::Json(200, json!({ "metadata": { "name": "alive" } })),
                "GET /api/v1/namespaces/gone" => status(404, "NotFound", ""),
                other => panic!("asked for {other}"),
            }
        });
        (Api::new(client), state)
    }

    fn takes_pods(state: &Mutex<Value>) -> bool {
        state.lock().unwrap()["spec"]["unschedulable"] != true
    }

    #[tokio::test]
    async fn a_machine_is_cordoned_and_given_back() {
        let (api, state) = machine(json!({}), false);
        cordon(&api, "m", "mine").await.unwrap();
        assert!(!takes_pods(&state));
        takes_none(&api, "m", "mine").await.unwrap();
        cordon(&api, "m", "mine").await.unwrap();
        // Not by another run, and not twice.
        assert_eq!(cordon(&api, "m", "other").await.unwrap_err().code, "infra/machine-held");
        restore(&api, "m", "other").await.unwrap();
        assert!(!takes_pods(&state));
        assert_eq!(release(&api, "mine", CHANGE).await, [""; 0]);
        assert!(takes_pods(&state));
        let seen = takes_none(&api, "m", "mine").await.unwrap_err();
        assert!(seen.seen.contains("somebody else"), "{seen}");
    }

    #[tokio::test]
    async fn what_somebody_else_has_cordoned_is_left_so() {
        let (api, state) = machine(json!({}), true);
        let refused = cordon(&api, "m", "mine").await.unwrap_err();
        assert_eq!(refused.code, "infra/machine-held");
        assert_eq!(release(&api, "mine", CHANGE).await, [""; 0]);
        assert_eq!(sweep(&api, &[], false).await, Swept::default());
        assert!(!takes_pods(&state));
    }

    #[tokio::test]
    async fn machines_of_runs_that_are_gone_are_mended() {
        let (api, state) = machine(json!({ CORDONED: "alive" }), true);
        assert_eq!(sweep(&api, &[], false).await, Swept::default());
        assert!(!takes_pods(&state));
        let words = sweep(&api, &["alive".to_owned()], true).await;
        assert_eq!(words.done, ["would give the machine m back, which alive has struck"]);
        let (api, state) = machine(json!({ CORDONED: "gone" }), true);
        let words = sweep(&api, &[], false).await;
        assert_eq!(words.done, ["gave the machine m back, which gone had struck"]);
        assert!(takes_pods(&state));
    }

    #[tokio::test]
    async fn there_have_to_be_machines_enough() {
        let (api, _) = machine(json!({}), false);
        assert_eq!(room(&api, 1, false).await.unwrap(), ["m"]);
        let few = room(&api, 1, true).await.unwrap_err();
        assert_eq!(few.code, "infra/machines-few");
        assert_eq!(few.seen, "1 of 1 do: m");
        let (api, _) = machine(json!({}), true);
        assert_eq!(room(&api, 1, false).await.unwrap_err().seen, "0 of 1 do: ");
    }
}
