//! A network in a namespace that stays: no guard is left of it. What is known of it is in a Secret beside it (the seed from
//! which all its keys follow is part of that), so that another terminal, also one on another machine, goes on; its label and its expiry are the
//! namespace's.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use futures::AsyncBufRead;
use futures::future::join_all;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Namespace, Pod, Secret};
use kube::ResourceExt;
use kube::api::LogParams;
use kube::core::ApiResource;
use serde_json::json;
use tokio::sync::mpsc;

use super::api::{Api, Cause, Failure, Manifest};
use super::credentials::Credentials;
use super::objects::{self, EXPIRES, MANAGED_BY, MANAGER, RUN, SCENARIO};
use super::provider::{self, Flags};
use super::watch::Pods;
use super::{Kubernetes, KubernetesOptions, Network, Node, Shared, Site, gc, guard, teardown};
use crate::agent::trouble;
use crate::backend::{Addresses, LinkId, NodeSpec, Trouble};
use crate::model::Ms;
use crate::record::Record;

/// The label of namespaces that stay, and of the Secret in them.
pub const DESK: &str = "trialnet.dev/desk";
/// The name of that Secret.
pub const STATE: &str = "trialnet-desk";
/// The only key in it.
const KEY: &str = "desk.json";
/// The annotation of that Secret with who changes the network, and until when that counts.
const HELD: &str = "trialnet.dev/held";
/// How long somebody who changes the network may have died before another goes on.
const HOLD: Ms = Ms(300_000);
/// How long the supervisors of a network that is up may take to be met.
const MEET: Duration = Duration::from_secs(10);

/// A namespace that stays.
#[derive(Clone)]
pub struct Place {
    api: Api,
    kubeconfig: Option<PathBuf>,
    /// The cluster's context.
    pub context: String,
    /// Its name.
    pub namespace: String,
    /// The id of the run.
    pub run: String,
    /// The scenario's name.
    pub scenario: String,
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} in {}", self.namespace, self.context)
    }
}

/// That nobody else changes the network.
#[derive(Debug)]
pub struct Hold(String);

/// The namespaces of the cluster that stay. A cluster that nobody named and that does not answer within `limit` has none.
///
/// # Errors
/// When a cluster was named and does not answer, or the namespaces cannot be listed.
pub async fn all(flags: &Flags, limit: Duration) -> Result<Vec<Place>, Trouble> {
    let Some(api) = gc::reach(flags, limit).await? else {
        return Ok(Vec::new());
    };
    let selector = format!("{MANAGED_BY}={MANAGER},{DESK}=true");
    let namespaces = Box::pin(api.list::<Namespace>(None, &selector))
        .await
        .map_err(Failure::trouble)?;
    let living = namespaces
        .iter()
        .filter(|namespace| namespace.metadata.deletion_timestamp.is_none());
    let place = |namespace: &Namespace| {
        let label = |name| namespace.labels().get(name).cloned().unwrap_or_default();
        Place {
            api: api.clone(),
            kubeconfig: flags.kubeconfig.clone(),
            context: api.context().unwrap_or_default().to_owned(),
            namespace: namespace.name_any(),
            run: label(RUN),
            scenario: label(SCENARIO),
        }
    };
    Ok(living.map(place).collect())
}

/// What the Secret holds.
fn content(state: &str) -> serde_json::Value {
    json!({ KEY: ByteString(state.as_bytes().to_vec()) })
}

impl Place {
    async fn secret(&self) -> Result<Secret, Trouble> {
        let secret = Box::pin(self.api.get::<Secret>(Some(&self.namespace), STATE)).await;
        secret
            .map_err(Failure::trouble)?
            .ok_or_else(|| self.lost("it is not there"))
    }

    fn lost(&self, seen: &str) -> Trouble {
        let expected = format!("the Secret {STATE} in the namespace {}", self.namespace);
        trouble("infra/desk-state", expected, seen)
    }

    /// What is known of the network, as it was last saved.
    ///
    /// # Errors
    /// When it is not there.
    pub async fn load(&self) -> Result<String, Trouble> {
        let mut data = self.secret().await?.data.unwrap_or_default();
        let ByteString(state) = data.remove(KEY).ok_or_else(|| self.lost(&format!("it has no {KEY}")))?;
        String::from_utf8(state).map_err(|error| self.lost(&format!("its {KEY} is no text: {error}")))
    }

    /// Saves it.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn save(&self, state: &str) -> Result<(), Trouble> {
        self.change(&json!({ "data": content(state) })).await
    }

    async fn change(&self, patch: &serde_json::Value) -> Result<(), Trouble> {
        let changed = Box::pin(self.api.merge::<Secret>(Some(&self.namespace), STATE, patch)).await;
        match changed.map_err(Failure::trouble)? {
            true => Ok(()),
            false => Err(self.lost("it is not there")),
        }
    }

    /// Takes the right to change the network, if nobody has it.
    ///
    /// # Errors
    /// Who has it; or that the API server refuses.
    pub async fn hold(&self) -> Result<Hold, String> {
        let secret = self.secret().await.map_err(|trouble| trouble.to_string())?;
        if let Some(held) = secret.annotations().get(HELD)
            && let Some((who, until)) = held.rsplit_once(' ')
            && humantime::parse_rfc3339(until).is_ok_and(|until| until > SystemTime::now())
        {
            return Err(format!("{who} is at work"));
        }
        let held = format!("{} {}", super::owner(), guard::expires_in(HOLD));
        let version = secret.resource_version();
        let patch = json!({ "metadata": { "resourceVersion": version, "annotations": { HELD: held } } });
        let api = self.api.within(Duration::from_secs(2));
        match Box::pin(api.merge::<Secret>(Some(&self.namespace), STATE, &patch)).await {
            Ok(true) => Ok(Hold(held)),
            Ok(false) => Err(self.lost("it is not there").to_string()),
            Err(failure) if failure.cause == Cause::Conflict => Err("somebody else was faster".to_owned()),
            Err(failure) => Err(failure.trouble().to_string()),
        }
    }

    /// Gives it up.
    pub async fn release(&self, hold: Hold) {
        let ours = self
            .secret()
            .await
            .is_ok_and(|secret| secret.annotations().get(HELD) == Some(&hold.0));
        if ours
            && let Err(trouble) = self
                .change(&json!({ "metadata": { "annotations": { HELD: null } } }))
                .await
        {
            tracing::warn!("{trouble}; others can change the network again in {HOLD}");
        }
    }

    /// Removes the namespace with all that is in it; returns what is left, in words.
    pub async fn remove(&self, limit: Duration) -> Vec<String> {
        Box::pin(teardown::remove(&self.api, &self.namespace, limit)).await
    }

    /// What a container writes, from its last `tail` lines on; with `follow`, for ever.
    ///
    /// # Errors
    /// When the API server does not give it.
    pub async fn log(
        &self,
        node: &str,
        container: &str,
        follow: bool,
        tail: Option<usize>,
    ) -> Result<impl AsyncBufRead + Unpin + Send + use<>, Trouble> {
        let pods: kube::Api<Pod> = kube::Api::namespaced(self.api.client().clone(), &self.namespace);
        let params = LogParams {
            container: Some(container.to_owned()),
            follow,
            tail_lines: tail.map(|lines| i64::try_from(lines).unwrap_or(i64::MAX)),
            ..LogParams::default()
        };
        let pod = objects::pod_name(node);
        let stream = tokio::time::timeout(MEET, Box::pin(pods.log_stream(&pod, &params))).await;
        let failed = |seen: String| trouble("infra/desk-log", format!("the log of {container} in {pod}"), seen);
        match stream {
            Ok(Ok(stream)) => Ok(Box::pin(stream)),
            Ok(Err(error)) => Err(failed(error.to_string())),
            Err(_) => Err(failed(format!("no answer within {}", Ms::from(MEET)))),
        }
    }
}

impl Kubernetes {
    /// Leaves the network to itself, for this time; `state` is what whoever comes next has to know.
    ///
    /// # Errors
    /// When nothing was applied yet, or the API server refuses. The guard is still there then, unless it had already been told to leave: the
    /// namespace is over two minutes later in that case.
    pub async fn stay(&self, state: &str, time: Ms) -> Result<Place, Trouble> {
        let site = self.site().await?;
        let Shared { options, namespace, .. } = &*self.shared;
        let secret = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": STATE,
                "namespace": namespace,
                "labels": { MANAGED_BY: MANAGER, RUN: options.run_id, SCENARIO: options.scenario, DESK: "true" },
            },
            "data": content(state),
        });
        let secret = Manifest {
            resource: ApiResource::erase::<Secret>(&()),
            value: secret,
        };
        Box::pin(site.api.apply_manifests(&[secret])).await?;
        if let Some(guard) = self.shared.guard.get() {
            guard.leave().await?;
        }
        // Not before: the guard would move the expiry.
        let patch = json!({ "metadata": {
            "labels": { DESK: "true" },
            "annotations": { EXPIRES: guard::expires_in(time) },
        } });
        let marked = Box::pin(site.api.merge::<Namespace>(None, namespace, &patch)).await;
        if !marked.map_err(Failure::trouble)? {
            return Err(trouble(
                "infra/namespace-gone",
                format!("the namespace {namespace}"),
                "it is gone: somebody else has removed it",
            ));
        }
        Ok(Place {
            api: site.api.clone(),
            kubeconfig: site.cluster.kubeconfig.clone(),
            context: site.cluster.context.clone(),
            namespace: namespace.clone(),
            run: options.run_id.clone(),
            scenario: options.scenario.clone(),
        })
    }

    /// The network of a namespace that stays, as it was applied; what happens to its nodes, and what has happened, goes to `records`.
    /// Dropping it leaves the network alone.
    ///
    /// # Errors
    /// When the cluster does not answer.
    pub async fn reattach(
        place: &Place,
        options: KubernetesOptions,
        specs: Vec<NodeSpec>,
        (addresses, links): (Addresses, Vec<LinkId>),
        records: mpsc::UnboundedSender<Record>,
    ) -> Result<Self, Trouble> {
        let flags = Flags {
            context: Some(place.context.clone()),
            kubeconfig: place.kubeconfig.clone(),
            allow_remote: true,
            ..Flags::default()
        };
        let cluster = provider::choose(&options.settings, &flags)?;
        let client = place.api.client().clone();
        let pods = Pods::spawn(client.clone(), &place.namespace, None);
        let site = Site {
            cluster,
            client,
            api: place.api.clone(),
            // Nothing is applied any more.
            credentials: Credentials::new(),
        };
        let me = Self::new(options, records);
        let shared = &me.shared;
        let nodes = specs.into_iter().map(|spec| {
            let controls = (spec.components.iter().enumerate())
                .map(|(index, component)| shared.line(&site, &pods, &spec, index, &component.name))
                .collect();
            (spec.name.clone(), Node { spec, controls })
        });
        let network = Network {
            nodes: nodes.collect(),
            logs: tokio::sync::Mutex::new(None),
            pods,
        };
        // Nothing else could have set these: the value is new.
        drop(shared.site.set(site));
        drop(shared.reserved.set((addresses, links)));
        drop(shared.network.set(network));
        let network = shared.network()?;
        let lines = network.nodes.values().flat_map(|node| &node.controls);
        // Those that are away (a pod that is being made anew) say so when they are asked something.
        drop(tokio::time::timeout(MEET, join_all(lines.map(|control| control.up(false)))).await);
        Ok(me)
    }
}
