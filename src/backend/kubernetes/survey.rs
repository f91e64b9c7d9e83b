//! What a cluster has to offer: what `trialnet doctor` looks at besides permissions.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::{self as core, Namespace, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use kube::{Client, Error, ResourceExt};
use serde_json::json;

use super::objects::{EXPIRES, MANAGED_BY, RUN, quantity};
use super::provider::causes;
use crate::agent::trouble;
use crate::backend::Trouble;

/// For one question to the API server.
const ASK_LIMIT: Duration = Duration::from_secs(8);
/// How long a namespace of ours stays if trialnet dies at the wrong moment.
const LEASE: Duration = Duration::from_secs(120);
/// Between two looks at whether a new namespace takes pods.
const POLL: Duration = Duration::from_millis(200);
/// Marks the storage class of claims that name none.
const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";

/// A machine of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Its name.
    pub name: String,
    /// Whether its kubelet says that it can run pods.
    pub ready: bool,
    /// Whether pods without tolerations may be placed on it.
    pub open: bool,
    /// The processor, as Go names it.
    pub processor: String,
    /// What pods may request on it, and have not requested yet.
    pub free: Amount,
}

/// Resources of pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// In thousandths of a core.
    pub cpu: u128,
    /// In thousandths of a byte.
    pub memory: u128,
    /// Their number.
    pub pods: u128,
}

impl Amount {
    /// Both together.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            cpu: self.cpu + other.cpu,
            memory: self.memory + other.memory,
            pods: self.pods + other.pods,
        }
    }

    /// What is left of it; nothing below zero.
    const fn minus(self, other: Self) -> Self {
        Self {
            cpu: self.cpu.saturating_sub(other.cpu),
            memory: self.memory.saturating_sub(other.memory),
            pods: self.pods.saturating_sub(other.pods),
        }
    }

    /// Whether the other one fits into it.
    #[must_use]
    pub const fn holds(self, other: Self) -> bool {
        self.cpu >= other.cpu && self.memory >= other.memory && self.pods >= other.pods
    }
}

impl std::fmt::Display for Amount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { cpu, memory, pods } = self;
        let mebibytes = memory / 1000 / 1024 / 1024;
        write!(f, "{pods} pods, {cpu}m cpu, {mebibytes}Mi memory")
    }
}

/// The machines of the cluster, with what is free on each.
///
/// # Errors
/// When the API server does not tell.
pub async fn machines(client: &Client) -> Result<Vec<Machine>, Trouble> {
    let (nodes, pods) = (Api::<core::Node>::all(client.clone()), Api::<Pod>::all(client.clone()));
    // Of pods that have ended nothing is held any more.
    let alive = ListParams::default().fields("status.phase!=Succeeded,status.phase!=Failed");
    let all = ListParams::default();
    let (nodes, pods) = tokio::join!(
        ask("nodes can be listed", nodes.list(&all)),
        ask("pods can be listed", pods.list(&alive))
    );
    let mut used: BTreeMap<String, Amount> = BTreeMap::new();
    for pod in pods?.items {
        let Some(spec) = pod.spec else { continue };
        let Some(node) = spec.node_name.clone() else { continue };
        let entry = used.entry(node).or_default();
        *entry = entry.plus(requested(&spec));
    }
    let machine = |node: core::Node| {
        let name = node.name_any();
        let (spec, status) = (node.spec.unwrap_or_default(), node.status.unwrap_or_default());
        let ready = status
            .conditions
            .iter()
            .flatten()
            .any(|one| one.type_ == "Ready" && one.status == "True");
        let closed = spec
            .taints
            .iter()
            .flatten()
            .any(|taint| taint.effect != "PreferNoSchedule");
        let allocatable = amount(status.allocatable.as_ref());
        Machine {
            ready,
            open: !closed && !spec.unschedulable.unwrap_or(false),
            processor: status.node_info.map(|info| info.architecture).unwrap_or_default(),
            free: allocatable.minus(used.get(&name).copied().unwrap_or_default()),
            name,
        }
    };
    Ok(nodes?.items.into_iter().map(machine).collect())
}

/// What a pod holds of its node: as the scheduler counts, the sum of its containers, or what one that initialises needs if that is more.
fn requested(spec: &core::PodSpec) -> Amount {
    let of = |container: &core::Container| {
        amount(
            container
                .resources
                .as_ref()
                .and_then(|resources| resources.requests.as_ref()),
        )
    };
    let sum = spec.containers.iter().map(of).fold(Amount::default(), Amount::plus);
    let first = spec.init_containers.iter().flatten().map(of);
    let most = first.fold(sum, |most, one| Amount {
        cpu: most.cpu.max(one.cpu),
        memory: most.memory.max(one.memory),
        pods: 0,
    });
    Amount { pods: 1, ..most }
}

fn amount(quantities: Option<&BTreeMap<String, Quantity>>) -> Amount {
    let of = |name| {
        let text = quantities
            .and_then(|all| all.get(name))
            .map_or("0", |quantity| quantity.0.as_str());
        quantity::parse(text).unwrap_or(0)
    };
    Amount {
        cpu: of("cpu"),
        memory: of("memory"),
        pods: of("pods") / 1000,
    }
}

/// The storage classes, and which of them is for claims that name none.
///
/// # Errors
/// When the API server does not tell.
pub async fn storage_classes(client: &Client) -> Result<Vec<(String, bool)>, Trouble> {
    let classes = Api::<StorageClass>::all(client.clone());
    let listed = ask("storage classes can be listed", classes.list(&ListParams::default())).await?;
    let class = |class: StorageClass| {
        let default = class
            .annotations()
            .get(DEFAULT_CLASS)
            .is_some_and(|value| value == "true");
        (class.name_any(), default)
    };
    Ok(listed.items.into_iter().map(class).collect())
}

/// Tries whether the cluster enforces Pod Security: it makes a namespace for which `restricted` is asked, and asks, without making it, for a privileged pod
/// there. The answer is the refusal in the server's words, `None` when the pod was taken. The namespace is removed again.
///
/// # Errors
/// When the API server does not take the namespace, or neither takes nor refuses the pod.
pub async fn pod_security(client: &Client) -> Result<Option<String>, Trouble> {
    let namespaces = Api::<Namespace>::all(client.clone());
    let name = format!("trialnet-doctor-{:08x}", rand::random::<u32>());
    let expires = humantime::format_rfc3339_seconds(SystemTime::now() + LEASE).to_string();
    let namespace = serde_json::from_value(json!({ "metadata": {
        "name": name,
        "labels": { MANAGED_BY: "trialnet", RUN: "doctor", "pod-security.kubernetes.io/enforce": "restricted" },
        "annotations": { EXPIRES: expires },
    } }));
    let namespace: Namespace = namespace.expect("it has the form of one");
    ask(
        "a namespace can be made",
        namespaces.create(&PostParams::default(), &namespace),
    )
    .await?;
    let tried = tokio::time::timeout(ASK_LIMIT, privileged(client, &name)).await;
    let removed = ask(
        "a namespace can be removed",
        namespaces.delete(&name, &DeleteParams::default()),
    )
    .await;
    let expected = "a privileged pod is taken or refused";
    let answer = match tried {
        Ok(answer) => answer.map_err(|error| failed(expected, &error)),
        Err(_) => Err(trouble("infra/cluster-unreachable", expected, "neither within 8s")),
    };
    removed.and(answer)
}

async fn privileged(client: &Client, namespace: &str) -> Result<Option<String>, Error> {
    let pods = Api::<Pod>::namespaced(client.clone(), namespace);
    let pod = serde_json::from_value(json!({
        "metadata": { "name": "privileged" },
        "spec": { "containers": [{ "name": "main", "image": "none.invalid/none", "securityContext": { "privileged": true } }] },
    }));
    let pod: Pod = pod.expect("it has the form of one");
    let params = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let mut looks = tokio::time::interval(POLL);
    loop {
        looks.tick().await;
        match pods.create(&params, &pod).await {
            Ok(_) => return Ok(None),
            // No pod is taken before the namespace has its service account, a moment after it is made.
            Err(Error::Api(status)) if status.code == 403 && status.message.contains("serviceaccount") => {}
            Err(Error::Api(status)) if status.code == 403 => return Ok(Some(status.message.clone())),
            Err(error) => return Err(error),
        }
    }
}

async fn ask<T>(expected: &str, answer: impl Future<Output = Result<T, Error>>) -> Result<T, Trouble> {
    match tokio::time::timeout(ASK_LIMIT, answer).await {
        Ok(answer) => answer.map_err(|error| failed(expected, &error)),
        Err(_) => {
            let seen = format!("no answer within {}s", ASK_LIMIT.as_secs());
            Err(trouble("infra/cluster-unreachable", expected, seen))
        }
    }
}

fn failed(expected: &str, error: &Error) -> Trouble {
    let code = match error {
        Error::Api(status) if matches!(status.code, 401 | 403) => "infra/cluster-forbidden",
        _ => "infra/cluster-unreachable",
    };
    let words = match error {
        Error::Api(status) => status.message.clone(),
        error => causes(error),
    };
    trouble(code, expected, words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_holds_what_it_requests() {
        let spec: core::PodSpec = serde_json::from_value(json!({
            "initContainers": [{ "name": "a", "resources": { "requests": { "memory": "1Gi" } } }],
            "containers": [
                { "name": "b", "resources": { "requests": { "cpu": "250m", "memory": "64Mi" } } },
                { "name": "c", "resources": { "requests": { "cpu": "1" } } },
                { "name": "d" },
            ],
        }))
        .unwrap();
        let held = requested(&spec);
        assert_eq!((held.cpu, held.pods), (1250, 1));
        assert_eq!(held.memory, 1000 * 1024 * 1024 * 1024);
        assert_eq!(held.to_string(), "1 pods, 1250m cpu, 1024Mi memory");
        let less = Amount { cpu: 1249, ..held };
        assert!(held.holds(held) && held.holds(less) && !less.holds(held));
    }
}
