//! Removing a namespace in the order in which it goes fastest.
//!
//! The namespace is deleted first: from then on nothing can be made in it, neither by a request that is still under way nor by a
//! StatefulSet. Its controller looks at it 5 s later (`namespaceDeletionGracePeriod` in Kubernetes' own sources), and comes back after more
//! seconds if it finds pods in their grace or claims that are in use. So those are told to go at once, and have those 5 s for it: 5.5 s in all
//! and pods gone after 0.2 s, where emptying first takes 7 s, and deleting the namespace alone as long as the pods' grace and more.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Namespace, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use kube::api::{DeleteParams, Preconditions};
use tokio::time::Instant;

use super::api::{Api, Cause, Failure, Kind};
use super::objects::{MANAGED_BY, MANAGER, RUN};
use super::packets::AGENTS;
use crate::model::Ms;

/// How long a namespace may take to go, unless somebody says otherwise.
pub const LIMIT: Duration = Duration::from_secs(60);
/// How many times as long its volumes have after it. A storage class removes them in its own time: at once where it has nothing else to
/// do, one after the other for more than a minute where ten runs on two processors end together.
pub const VOLUMES: u32 = 2;
/// How long a namespace that was never seen has to stay away: the last request of a trialnet that was killed may still be under way.
const LINGER: Duration = Duration::from_secs(2);
/// The first and the longest pause between two looks.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(500));
/// How many looks pass until what is still there is told to go once more.
const INSIST: u32 = 10;
/// How long the last look at what holds the namespace may take, after the limit.
const LAST_LOOK: Duration = Duration::from_secs(2);

/// Removes a namespace of ours with everything in it, and waits until it is gone, the volumes of its claims included.
///
/// Idempotent, and safe at any moment of a namespace that is half made or half gone. A namespace without trialnet's labels is not
/// touched. What is left after `limit`, or of the volumes after [`VOLUMES`] times as long again, is returned in words, with the reason that
/// the cluster gives.
pub async fn remove(api: &Api, namespace: &str, limit: Duration) -> Vec<String> {
    let left = Box::pin(Removal::new(api, namespace).finish(limit)).await;
    if !left.is_empty() {
        return left;
    }
    let limit = limit * VOLUMES;
    let deadline = Instant::now() + limit;
    match tokio::time::timeout_at(deadline, Box::pin(volumes_gone(api, namespace, deadline))).await {
        Ok(volumes) => volumes,
        Err(_) => vec![format!(
            "the volumes of {namespace}: it was not seen within {} whether they are gone",
            Ms::from(limit)
        )],
    }
}

/// Waits until a namespace of ours is gone that is being deleted already, and tells what is in it to go at once. Another one of the same name
/// is left alone. What is left after `limit` is returned in words.
pub async fn see_off(api: &Api, namespace: &str, uid: String, limit: Duration) -> Vec<String> {
    let mut removal = Removal::new(api, namespace);
    removal.uid = Some(uid);
    Box::pin(removal.finish(limit)).await
}

/// Whether trialnet made this namespace.
#[must_use]
pub fn is_ours(namespace: &Namespace) -> bool {
    let labels = namespace.labels();
    let ours = labels.get(MANAGED_BY).is_some_and(|value| value == MANAGER);
    ours && (labels.contains_key(RUN) || labels.contains_key(AGENTS))
}

/// What one look shows.
enum Look {
    /// There is no such namespace (any more).
    Gone,
    /// It is somebody else's.
    NotOurs(String),
    /// It is still there, and everything in it was told to go.
    There,
}

/// A removal under way.
struct Removal<'a> {
    api: &'a Api,
    namespace: &'a str,
    begun: Instant,
    /// Of the namespace, once it was seen.
    uid: Option<String>,
    looks: u32,
    /// What the cluster says of why it is not gone.
    reasons: BTreeSet<String>,
    /// The last call that failed.
    trouble: Option<Failure>,
}

impl<'a> Removal<'a> {
    fn new(api: &'a Api, namespace: &'a str) -> Self {
        Self {
            api,
            namespace,
            begun: Instant::now(),
            uid: None,
            looks: 0,
            reasons: BTreeSet::new(),
            trouble: None,
        }
    }

    /// Looks until it is gone; what is left after `limit`, in words.
    async fn finish(mut self, limit: Duration) -> Vec<String> {
        let deadline = Instant::now() + limit;
        let mut pause = PAUSES.0;
        loop {
            match tokio::time::timeout_at(deadline, Box::pin(self.look())).await {
                Ok(Ok(Look::Gone)) => return Vec::new(),
                Ok(Ok(Look::NotOurs(words))) => return vec![words],
                Ok(Ok(Look::There)) => {}
                Ok(Err(failure)) => {
                    let for_good = !failure.cause.may_pass();
                    self.trouble = Some(failure);
                    if for_good {
                        return self.left(limit).await;
                    }
                }
                Err(_) => return self.left(limit).await,
            }
            if Instant::now() + pause >= deadline {
                return self.left(limit).await;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 3 / 2).min(PAUSES.1);
        }
    }

    /// Looks whether it is still there, and does what can be done.
    async fn look(&mut self) -> Result<Look, Failure> {
        let Some(found) = self.api.get::<Namespace>(None, self.namespace).await? else {
            let gone = self.uid.is_some() || self.begun.elapsed() >= LINGER;
            return Ok(if gone { Look::Gone } else { Look::There });
        };
        if !is_ours(&found) {
            return Ok(Look::NotOurs(format!(
                "namespace {} was left alone: it has not the labels of a namespace that trialnet made",
                self.namespace
            )));
        }
        let uid = found.uid().unwrap_or_default();
        if self.uid.as_ref().is_some_and(|known| *known != uid) {
            // Ours is gone; this is another one of the same name.
            return Ok(Look::Gone);
        }
        self.uid = Some(uid);
        if found.metadata.deletion_timestamp.is_none() {
            self.delete_namespace().await?;
            self.tell_contents_to_go().await;
            self.looks = 1;
            return Ok(Look::There);
        }
        self.reasons = reasons(&found);
        if self.looks.is_multiple_of(INSIST) {
            // Whoever deleted it first may have left the pods their grace.
            self.tell_contents_to_go().await;
        }
        self.looks += 1;
        Ok(Look::There)
    }

    /// Pods at once, without their grace; claims as soon as no pod uses them. The rest needs no help.
    async fn tell_contents_to_go(&mut self) {
        let Self { api, namespace, .. } = *self;
        let at_once = DeleteParams::default().grace_period(0);
        let background = DeleteParams::background();
        let (pods, claims) = tokio::join!(
            api.delete_all::<Pod>(namespace, "", &at_once),
            api.delete_all::<PersistentVolumeClaim>(namespace, "", &background),
        );
        for failure in [pods, claims].into_iter().filter_map(Result::err) {
            // The namespace goes all the same, later.
            tracing::debug!("removing {namespace}: {failure}");
            self.trouble = Some(failure);
        }
    }

    async fn delete_namespace(&mut self) -> Result<(), Failure> {
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: self.uid.clone(),
                resource_version: None,
            }),
            ..DeleteParams::background()
        };
        match self.api.delete::<Namespace>(None, self.namespace, &params).await {
            // It is being deleted already, or is another one: the next look shows which.
            Err(failure) if failure.cause == Cause::Conflict => Ok(()),
            other => other.map(drop),
        }
    }

    /// What is left, in words.
    async fn left(self, limit: Duration) -> Vec<String> {
        let Self { api, namespace, .. } = self;
        if self.uid.is_none() {
            let why = self
                .trouble
                .map_or_else(|| "no answer".to_owned(), |failure| failure.words);
            return vec![format!(
                "namespace {namespace} could not be looked at within {}: {why}",
                Ms::from(limit)
            )];
        }
        let show = api.kubectl(None, &format!("get namespace {namespace} -o yaml"));
        let mut why: Vec<String> = self.reasons.into_iter().collect();
        if why.is_empty() {
            why.extend(self.trouble.map(|failure| failure.to_string()));
        }
        if why.is_empty() {
            why.push("the cluster gives no reason".to_owned());
        }
        let mut left = vec![format!(
            "namespace {namespace} is still there after {}: {}; `{show}` shows more",
            Ms::from(limit),
            why.join(" ")
        )];
        left.extend(Box::pin(contents(api, namespace)).await);
        left
    }
}

/// What is in a namespace that should be empty, as far as it can be told in a moment.
async fn contents(api: &Api, namespace: &str) -> Vec<String> {
    let api = api.within(LAST_LOOK);
    let listed = async {
        tokio::join!(
            metadata::<StatefulSet>(&api, namespace),
            metadata::<Pod>(&api, namespace),
            metadata::<PersistentVolumeClaim>(&api, namespace),
        )
    };
    let Ok((sets, pods, claims)) = tokio::time::timeout(LAST_LOOK, listed).await else {
        return Vec::new();
    };
    let kinds = [("StatefulSet", sets), ("Pod", pods), ("PersistentVolumeClaim", claims)];
    let each = |(kind, found): (&'static str, Vec<ObjectMeta>)| {
        found
            .into_iter()
            .map(move |metadata| format!("{} in {namespace}", describe(kind, &metadata)))
    };
    kinds.into_iter().flat_map(each).collect()
}

/// The conditions of a namespace that say why it is not gone.
fn reasons(namespace: &Namespace) -> BTreeSet<String> {
    let conditions = namespace
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    let said = conditions
        .filter(|condition| condition.status == "True")
        .map(|condition| condition.message.clone().unwrap_or_else(|| condition.type_.clone()));
    let finalizers = namespace.spec.iter().flat_map(|spec| spec.finalizers.iter().flatten());
    let held = finalizers
        .filter(|finalizer| *finalizer != "kubernetes")
        .map(|finalizer| format!("The namespace has the finalizer {finalizer}."));
    said.chain(held).collect()
}

/// The objects of a kind; none where they may not be listed.
async fn metadata<K: Kind>(api: &Api, namespace: &str) -> Vec<ObjectMeta> {
    let objects = api.list::<K>(Some(namespace), "").await.unwrap_or_default();
    objects
        .into_iter()
        .map(|mut object| std::mem::take(object.meta_mut()))
        .collect()
}

fn describe(kind: &str, metadata: &ObjectMeta) -> String {
    let name = metadata.name.as_deref().unwrap_or_default();
    let finalizers = metadata.finalizers.as_deref().unwrap_or_default();
    if finalizers.is_empty() {
        format!("{kind} {name}")
    } else {
        format!("{kind} {name}, held by the finalizer {},", finalizers.join(", "))
    }
}

/// Waits until the volumes of the namespace's claims are gone. Those that their storage class keeps are named.
async fn volumes_gone(api: &Api, namespace: &str, deadline: Instant) -> Vec<String> {
    let mut pause = PAUSES.0;
    loop {
        let left: Vec<PersistentVolume> = match api.list::<PersistentVolume>(None, "").await {
            Ok(volumes) => volumes
                .into_iter()
                .filter(|volume| claimed_in(volume, namespace))
                .collect(),
            // Volumes belong to the cluster; who may not look at them has to trust the storage class.
            Err(failure) if !failure.cause.may_pass() => return Vec::new(),
            Err(failure) => {
                return vec![format!(
                    "the volumes of {namespace} could not be looked at: {}",
                    failure.words
                )];
            }
        };
        let late = Instant::now() + pause >= deadline;
        if late || left.iter().all(is_kept) {
            return left.iter().map(|volume| describe_volume(volume, namespace)).collect();
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 3 / 2).min(PAUSES.1);
    }
}

fn claimed_in(volume: &PersistentVolume, namespace: &str) -> bool {
    let claim = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    claim.is_some_and(|claim| claim.namespace.as_deref() == Some(namespace))
}

fn is_kept(volume: &PersistentVolume) -> bool {
    let policy = volume
        .spec
        .as_ref()
        .and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref());
    policy != Some("Delete")
}

fn describe_volume(volume: &PersistentVolume, namespace: &str) -> String {
    let name = volume.name_any();
    let status = volume.status.as_ref();
    let why = if is_kept(volume) {
        "its storage class keeps volumes (reclaim policy Retain)".to_owned()
    } else {
        let said = status.and_then(|status| status.message.clone().or_else(|| status.phase.clone()));
        format!("its storage class has not removed it yet: {}", said.unwrap_or_default())
    };
    format!("PersistentVolume {name} of a claim in {namespace}: {why}")
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use serde_json::{Value, json};

    use super::super::mock::{Answer, Asked, server, status};
    use super::*;

    /// A namespace as the API server has it: what is in it goes when it is told to.
    #[derive(Default)]
    struct World {
        namespace: bool,
        labels: Value,
        terminating: bool,
        pods: Vec<Value>,
        sets: Vec<Value>,
        conditions: Value,
        /// Answers that go before, by method and path.
        instead: Vec<(&'static str, Answer)>,
    }

    fn ours() -> Value {
        json!({ MANAGED_BY: MANAGER, RUN: "r" })
    }

    fn full() -> World {
        World {
            namespace: true,
            labels: ours(),
            pods: vec![json!({ "metadata": { "name": "a-0" } })],
            sets: vec![json!({ "metadata": { "name": "a" } })],
            ..World::default()
        }
    }

    impl World {
        fn answer(&mut self, asked: &Asked) -> Answer {
            let line = asked.line();
            if let Some(at) = self.instead.iter().position(|(which, _)| *which == line) {
                return self.instead.remove(at).1;
            }
            let list = |items: &[Value]| Answer::Json(200, json!({ "items": items }));
            let gone = || status(404, "NotFound", "namespaces \"n\" not found");
            match line.as_str() {
                "GET /api/v1/namespaces/n" if !self.namespace => gone(),
                "GET /api/v1/namespaces/n" => {
                    if self.terminating && self.pods.is_empty() {
                        self.namespace = false;
                    }
                    let deleted = self.terminating.then_some("2026-11-21T00:00:00Z");
                    Answer::Json(
                        200,
                        json!({
                            "metadata": { "name": "n", "uid": "u", "labels": self.labels, "deletionTimestamp": deleted },
                            "status": { "conditions": self.conditions },
                        }),
                    )
                }
                "DELETE /api/v1/namespaces/n" => {
                    self.terminating = true;
                    Answer::Json(200, json!({}))
                }
                "GET /api/v1/namespaces/n/pods" => list(&self.pods),
                "GET /apis/apps/v1/namespaces/n/statefulsets" => list(&self.sets),
                "DELETE /api/v1/namespaces/n/pods" => {
                    self.pods.retain(|pod| pod["metadata"]["finalizers"].is_array());
                    Answer::Json(200, json!({}))
                }
                _ => list(&[]),
            }
        }
    }

    /// Removes the namespace `n` of this world; what is left, and what was asked.
    async fn removed_from(world: World) -> (Vec<String>, Vec<Asked>, Duration) {
        let world = Arc::new(Mutex::new(world));
        let (client, seen) = server(move |asked| world.lock().unwrap().answer(asked));
        let begun = Instant::now();
        let left = remove(&Api::new(client), "n", LIMIT).await;
        let seen = seen.lock().unwrap().clone();
        (left, seen, begun.elapsed())
    }

    fn deletions(seen: &[Asked]) -> Vec<String> {
        seen.iter()
            .filter(|asked| asked.method == "DELETE")
            .map(Asked::line)
            .collect()
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_closed_before_it_is_emptied() {
        let (left, seen, took) = removed_from(full()).await;
        assert_eq!(left, [""; 0]);
        let mut deleted = deletions(&seen);
        deleted[1..].sort_unstable();
        assert_eq!(
            deleted,
            [
                "DELETE /api/v1/namespaces/n",
                "DELETE /api/v1/namespaces/n/persistentvolumeclaims",
                "DELETE /api/v1/namespaces/n/pods",
            ]
        );
        assert!(took < Duration::from_millis(500), "{took:?}");
        let body = |line: &str| seen.iter().find(|asked| asked.line() == line).unwrap().body.clone();
        assert_eq!(body("DELETE /api/v1/namespaces/n/pods")["gracePeriodSeconds"], 0);
        assert_eq!(body(&deleted[0])["preconditions"]["uid"], "u");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_there_is_waited_for_a_moment_and_not_touched() {
        let (left, seen, took) = removed_from(World::default()).await;
        assert_eq!((left, deletions(&seen)), (Vec::new(), Vec::new()));
        assert!(took >= LINGER && took < LINGER * 2, "{took:?}");
        // The last request of a trialnet that is gone arrives late.
        let late = World {
            instead: vec![("GET /api/v1/namespaces/n", status(404, "NotFound", ""))],
            ..full()
        };
        let (left, seen, _) = removed_from(late).await;
        assert_eq!((left.len(), deletions(&seen).len()), (0, 3));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_ours_is_left_alone() {
        for labels in [
            json!({}),
            json!({ MANAGED_BY: MANAGER }),
            json!({ MANAGED_BY: "x", RUN: "r" }),
        ] {
            let (left, seen, _) = removed_from(World { labels, ..full() }).await;
            assert!(left[0].contains("was left alone"), "{left:?}");
            assert_eq!(deletions(&seen), [""; 0]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn failures_in_the_middle_do_not_end_it() {
        let instead = vec![
            ("GET /api/v1/namespaces/n", Answer::Broken("connection reset")),
            (
                "DELETE /api/v1/namespaces/n/pods",
                status(403, "Forbidden", "User \"x\" cannot deletecollection resource \"pods\""),
            ),
            (
                "DELETE /api/v1/namespaces/n",
                status(409, "Conflict", "the system is ensuring all content is removed"),
            ),
            (
                "DELETE /api/v1/namespaces/n",
                Answer::Later(429, "Too many requests.", 1),
            ),
            (
                "GET /api/v1/persistentvolumes",
                status(
                    403,
                    "Forbidden",
                    "User \"x\" cannot list resource \"persistentvolumes\"",
                ),
            ),
        ];
        let (left, seen, took) = removed_from(World { instead, ..full() }).await;
        assert_eq!(left, [""; 0]);
        assert!(deletions(&seen).len() > 4, "{seen:?}");
        assert!(took < Duration::from_secs(20), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_role_that_may_not_delete_is_said_at_once() {
        let words = "namespaces \"n\" is forbidden: User \"x\" cannot delete resource \"namespaces\" in API group \"\"";
        let instead = vec![("DELETE /api/v1/namespaces/n", status(403, "Forbidden", words))];
        let (left, _, took) = removed_from(World { instead, ..full() }).await;
        assert!(left[0].contains("cannot delete resource"), "{left:?}");
        assert!(took < Duration::from_secs(1), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stuck_finalizer_is_named() {
        let world = World {
            pods: vec![json!({ "metadata": { "name": "a-0", "finalizers": ["example.com/stuck"] } })],
            conditions: json!([
                { "type": "NamespaceFinalizersRemaining", "status": "True", "message": "Some content in the namespace has finalizers remaining: example.com/stuck in 1 resource instances" },
                { "type": "NamespaceDeletionDiscoveryFailure", "status": "False", "message": "All resources successfully discovered" },
            ]),
            ..full()
        };
        let (left, _, took) = removed_from(world).await;
        assert!(
            took >= LIMIT - PAUSES.1 && took < LIMIT + Duration::from_secs(3),
            "{took:?}"
        );
        assert!(left[0].contains("finalizers remaining: example.com/stuck"), "{left:?}");
        assert!(!left[0].contains("successfully"), "{left:?}");
        assert_eq!(
            left[1..],
            [
                "StatefulSet a in n",
                "Pod a-0, held by the finalizer example.com/stuck, in n"
            ]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_is_away_is_waited_for_until_the_limit() {
        let (client, _) = server(|_| Answer::Broken("connection refused"));
        let begun = Instant::now();
        let left = remove(&Api::new(client), "n", LIMIT).await;
        assert!(
            left[0].contains("could not be looked at") && left[0].contains("connection refused"),
            "{left:?}"
        );
        assert!(
            begun.elapsed() >= LIMIT - Duration::from_secs(3) && begun.elapsed() <= LIMIT,
            "{:?}",
            begun.elapsed()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn volumes_that_stay_are_named() {
        let volume = |policy: &str, namespace: &str| json!({ "metadata": { "name": policy.to_lowercase() }, "spec": { "persistentVolumeReclaimPolicy": policy, "claimRef": { "namespace": namespace } } });
        let items = json!({ "items": [volume("Retain", "n"), volume("Delete", "other")] });
        let instead = vec![("GET /api/v1/persistentvolumes", Answer::Json(200, items))];
        let (left, _, _) = removed_from(World { instead, ..full() }).await;
        assert_eq!(left.len(), 1);
        assert!(
            left[0].starts_with("PersistentVolume retain of a claim in n: its storage class keeps"),
            "{left:?}"
        );
    }
}
