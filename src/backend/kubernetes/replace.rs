//! A node becomes another one: its StatefulSet and what that refers to are changed, and its pod is replaced by one of the new revision.
//!
//! That the pod is of the new revision is seen by its label `controller-revision-hash`, which has to be the StatefulSet's `updateRevision`; its
//! `currentRevision` says so only later. A pod of an older revision that does not run is replaced too, whatever keeps it from running.

use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::apps::v1::StatefulSet;
use tokio::time::Instant;

use super::objects::{self, NODE, Object};
use super::watch::{Pod, State};
use super::{Images, Kubernetes, Network, Site, api};
use crate::agent::{lock, node_trouble};
use crate::backend::{Addresses, NodeSpec, Trouble};
use crate::codes::Code;
use crate::model::{NodeName, Removal};

/// How long it may take until a pod of the new revision runs. What keeps it from running is trouble before.
const LIMIT: Duration = Duration::from_secs(60);
/// How long the cluster may take to begin to remove the old pod before it is removed from here.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often the StatefulSet is asked for its revision.
const AGAIN: Duration = Duration::from_millis(50);
/// The annotation of a pod that says which replacement of its node it is: so that a node that becomes what it was before gets a new pod too.
const REPLACED: &str = "trialnet.dev/replaced";
/// The code of a node that did not become another.
const CODE: &str = "infra/not-replaced";

/// What can go wrong here, for `trialnet explain`.
pub const CODES: &[Code] = &[(
    CODE,
    "a node's pod was not replaced by one of the new version",
    "For an upgrade the node's StatefulSet is changed, and the cluster has to replace its pod: the new one has the label `controller-revision-hash` \
     with the StatefulSet's `updateRevision`, and its containers run. `kubectl -n NAMESPACE describe statefulset NODE` says what keeps it from that.",
)];

/// What nodes may become, with what the objects of all nodes depend on.
pub(super) struct Later {
    pub(super) options: objects::Options,
    /// Each with the images of its components.
    pub(super) nodes: Vec<(NodeSpec, Images)>,
}

impl Kubernetes {
    /// Makes a node another one, and waits until its pod is of the new revision and its processes have been started.
    pub(super) async fn do_replace(&self, spec: &NodeSpec) -> Result<(), Trouble> {
        let site = self.site().await?;
        let shared = &self.shared;
        let (network, node) = (shared.network()?, shared.node(&spec.name)?);
        let refused = |expected: &str, seen: &str| node_trouble(CODE, &spec.name, expected, seen);
        let names = |spec: &NodeSpec| -> Vec<String> { spec.components.iter().map(|one| one.name.clone()).collect() };
        if names(&node.spec) != names(spec) {
            return Err(refused("the same components as before", "others"));
        }
        let found = shared.later.get().and_then(|later| {
            let known = later.nodes.iter().find(|(known, _)| known == spec)?;
            Some((later.options.clone(), known.1.clone()))
        });
        let (mut options, images) = found.ok_or_else(|| refused("a spec that was told before the run", "another"))?;
        options.images.extend(images);
        // The new pod is told what its links have to be, but not before its program may have dialled.
        options.shapes = node.controls.iter().flat_map(|control| control.shapes()).collect();
        let none = (Addresses::default(), Vec::new());
        let (addresses, links) = shared.reserved.get().unwrap_or(&none);
        let mut objects = objects::nodes(std::slice::from_ref(spec), addresses, links, &options)?;
        let count = {
            let mut replaced = lock(&shared.replaced);
            let count = replaced.entry(spec.name.clone()).or_insert(0);
            *count += 1;
            *count
        };
        objects.iter_mut().for_each(|object| mark(object, count));
        shared.disturb(&spec.name);
        let before: Vec<u32> = node.controls.iter().map(|control| control.view().generation).collect();
        for control in &node.controls {
            control.doom();
        }
        let deadline = Instant::now() + LIMIT;
        let renewed = async {
            site.api.apply(&objects).await?;
            let revision = self.revision(site, &spec.name, deadline).await?;
            self.renewed(site, network, &spec.name, (&revision, deadline)).await
        };
        if let Err(trouble) = renewed.await {
            // What ends from now on was not asked to.
            node.controls.iter().for_each(|control| control.pardon());
            return Err(trouble);
        }
        let started = node.controls.iter().zip(before).map(|(control, before)| {
            // A supervisor starts its program by itself.
            control.until(move |view| view.met && view.generation > before)
        });
        let started = tokio::time::timeout_at(deadline, join_all(started)).await;
        started.map(drop).map_err(|_| {
            let seen = format!("no word of it within {}s", LIMIT.as_secs());
            refused("the supervisors of the new pod have started its programs", &seen)
        })
    }

    /// The revision that the StatefulSet of a node has since it was changed.
    async fn revision(&self, site: &Site, node: &str, deadline: Instant) -> Result<String, Trouble> {
        let labels = format!("{NODE}={node}");
        loop {
            let sets: Vec<StatefulSet> =
                (site.api.list(Some(&self.shared.namespace), &labels).await).map_err(api::Failure::trouble)?;
            let revision = sets.into_iter().find_map(|set| {
                let status = set.status?;
                let heard = status.observed_generation >= set.metadata.generation;
                status.update_revision.filter(|_| heard)
            });
            match revision {
                Some(revision) => return Ok(revision),
                None if Instant::now() > deadline => {
                    let expected = "the cluster takes note of the changed StatefulSet";
                    let seen = format!("not within {}s", LIMIT.as_secs());
                    return Err(node_trouble(CODE, node, expected, seen));
                }
                None => tokio::time::sleep(AGAIN).await,
            }
        }
    }

    /// Waits until the pod of a node is of this revision and all its containers run.
    async fn renewed(
        &self,
        site: &Site,
        network: &Network,
        node: &NodeName,
        (revision, deadline): (&str, Instant),
    ) -> Result<(), Trouble> {
        let old = |pod: &Pod| pod.revision.as_deref() != Some(revision);
        let begun = network.pods.until(PATIENCE, |view| match view.pod_of(node) {
            Some(pod) if old(pod) && !pod.deleting => Err(pod.uid.clone()),
            _ => Ok(()),
        });
        if begun.await.is_err()
            && let Some(pod) = network.pods.get(&objects::pod_name(node)).filter(|pod| old(pod))
        {
            let how = Removal::Delete { grace: None };
            let whose = (pod.name.as_str(), pod.uid.as_str());
            let removed = site.api.remove_pod(&self.shared.namespace, whose, how).await;
            removed.map_err(api::Failure::trouble)?;
        }
        let mut pods = network.pods.clone();
        loop {
            let (up, seen) = pods.look(|view| match view.pod_of(node) {
                Some(pod) if old(pod) => (false, format!("a pod of the revision {:?}", pod.revision)),
                Some(pod) => (
                    runs(pod),
                    format!("{} of the revision {revision} is {}", pod.name, pod.phase),
                ),
                None => (false, "no pod".to_owned()),
            });
            if up {
                return Ok(());
            }
            let newer = pods.look(|view| view.pod_of(node).is_none_or(|pod| !old(pod)));
            if newer && let Some(trouble) = pods.trouble(&site.client, [node]).await {
                return Err(trouble);
            }
            if Instant::now() > deadline {
                let expected = format!("a pod of the revision {revision} whose containers run");
                let seen = format!("{seen}, after {}s", LIMIT.as_secs());
                return Err(node_trouble(CODE, node, expected, seen));
            }
            // Some of what is looked for depends on how long it lasts.
            drop(tokio::time::timeout(Duration::from_millis(500), pods.changed()).await);
        }
    }
}

/// Whether every container of a pod runs.
fn runs(pod: &Pod) -> bool {
    let mut own = pod.containers.iter().filter(|container| !container.init).peekable();
    !pod.deleting && own.peek().is_some() && own.all(|container| matches!(container.state, State::Running { .. }))
}

/// Marks the pod of a StatefulSet as so many replacements old.
fn mark(object: &mut Object, count: u32) {
    if let Object::StatefulSet(set) = object
        && let Some(spec) = &mut set.spec
    {
        let metadata = spec.template.metadata.get_or_insert_default();
        let annotations = metadata.annotations.get_or_insert_default();
        annotations.insert(REPLACED.to_owned(), count.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::kubernetes::watch::Container;

    #[test]
    fn each_replacement_has_a_pod_of_its_own_and_nothing_else_changes() {
        let set = || {
            let template = k8s_openapi::api::core::v1::PodTemplateSpec::default();
            let spec = k8s_openapi::api::apps::v1::StatefulSetSpec {
                template,
                ..Default::default()
            };
            Object::StatefulSet(StatefulSet {
                spec: Some(spec),
                ..StatefulSet::default()
            })
        };
        let marked = |count| {
            let mut object = set();
            mark(&mut object, count);
            object.value()["spec"]["template"].clone()
        };
        assert_ne!(marked(1), marked(2), "a node that goes back gets a new pod too");
        assert_eq!(marked(2)["metadata"]["annotations"][REPLACED], "2");
        assert_eq!(marked(2)["spec"], set().value()["spec"]["template"]["spec"]);
    }

    #[test]
    fn a_pod_runs_when_all_its_own_containers_do() {
        let container = |init, state| Container {
            name: "core".into(),
            init,
            image: String::new(),
            id: String::new(),
            restarts: 0,
            ready: false,
            state,
            last: None,
        };
        let up = || State::Running { since: None };
        let ended = || State::Terminated(crate::backend::kubernetes::watch::Terminated::default());
        let pod = |containers: Vec<Container>| Pod {
            containers,
            ..Pod::default()
        };
        assert!(runs(&pod(vec![container(true, ended()), container(false, up())])));
        assert!(!runs(&pod(vec![container(false, up()), container(false, ended())])));
        assert!(!runs(&pod(Vec::new())), "nothing is known of it yet");
        let going = Pod {
            deleting: true,
            ..pod(vec![container(false, up())])
        };
        assert!(!runs(&going));
    }
}
