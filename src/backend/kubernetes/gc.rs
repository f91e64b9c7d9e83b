//! Namespaces and clusters of runs that nobody owns any more: what is there, and removing it.
//!
//! A namespace is given up when the moment in its annotation is over, which its guard moves as long as it lives. Of a run of this machine
//! the registry knows more: that both of its processes are gone, whatever the annotation says. Nothing without trialnet's labels, and no cluster without
//! the name that trialnet gives, is ever touched. Clocks of machines that share a cluster have to agree within a minute.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, SystemTime};

use futures::stream::{self, StreamExt};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::ResourceExt;

use super::api::{Api, Failure};
use super::objects::{EXPIRES, MANAGED_BY, MANAGER, OWNER, RUN, SCENARIO};
use super::provider::{self, Flags};
use super::{guard, machines, packets, teardown};
use crate::agent::registry::{self, Life, Swept};
use crate::backend::Trouble;
use crate::model::{Kubernetes, Ms};

/// How many namespaces are removed at the same time.
const AT_ONCE: usize = 8;

/// A run in a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its namespace.
    pub namespace: String,
    /// Its id.
    pub run: String,
    /// Its scenario.
    pub scenario: String,
    /// Who runs it.
    pub owner: String,
    /// When its namespace was made.
    pub made: Option<SystemTime>,
    /// When nobody owns it any more; `None`: it does not say, and is never removed by [`sweep`].
    pub expires: Option<SystemTime>,
    /// Whether it is being removed.
    pub ending: bool,
    /// How many pods it has.
    pub pods: usize,
    /// How many of them run.
    pub running: usize,
}

impl Found {
    fn of(namespace: &Namespace) -> Self {
        let label = |name| namespace.labels().get(name).cloned().unwrap_or_default();
        Self {
            namespace: namespace.name_any(),
            run: label(RUN),
            scenario: label(SCENARIO),
            owner: namespace.annotations().get(OWNER).cloned().unwrap_or_default(),
            made: namespace.creation_timestamp().map(|time| SystemTime::from(time.0)),
            expires: expiry(namespace),
            ending: namespace.metadata.deletion_timestamp.is_some(),
            pods: 0,
            running: 0,
        }
    }

    /// Whether it expired at least `older_than` before `now`.
    #[must_use]
    pub fn expired(&self, now: SystemTime, older_than: Duration) -> bool {
        self.expires.is_some_and(|expires| over(expires, now, older_than))
    }
}

fn expiry(namespace: &Namespace) -> Option<SystemTime> {
    humantime::parse_rfc3339(namespace.annotations().get(EXPIRES)?).ok()
}

fn over(expires: SystemTime, now: SystemTime, older_than: Duration) -> bool {
    now.duration_since(expires).is_ok_and(|since| since >= older_than)
}

/// Selects what trialnet made.
fn selector() -> String {
    format!("{MANAGED_BY}={MANAGER},{RUN}")
}

/// The runs of a cluster, by namespace.
///
/// # Errors
/// When the cluster does not tell.
pub async fn list(api: &Api) -> Result<Vec<Found>, Failure> {
    let selector = selector();
    let (namespaces, pods) = tokio::join!(api.list::<Namespace>(None, &selector), api.list::<Pod>(None, &selector));
    let mut found: Vec<Found> = namespaces?.iter().map(Found::of).collect();
    // Who may not look at pods everywhere still sees the namespaces.
    for pod in pods.unwrap_or_default() {
        let namespace = pod.namespace();
        let Some(run) = found.iter_mut().find(|run| Some(&run.namespace) == namespace.as_ref()) else {
            continue;
        };
        run.pods += 1;
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        run.running += usize::from(phase == Some("Running"));
    }
    // Who may not look at them is not told of them.
    found.extend(packets::idle(api).await.unwrap_or_default());
    found.sort_by(|a, b| a.namespace.cmp(&b.namespace));
    Ok(found)
}

/// Removes the namespaces of a cluster that expired at least `older_than` ago, each within `limit`, and takes runs off the agents that have no
/// namespace any more, and has machines take pods again that such runs have cordoned.
pub async fn sweep(api: &Api, older_than: Duration, dry_run: bool, limit: Duration) -> Swept {
    let now = SystemTime::now();
    let namespaces = match api.list::<Namespace>(None, &selector()).await {
        Ok(namespaces) => namespaces,
        Err(failure) => {
            return Swept {
                left: vec![format!("could not look for namespaces: {failure}")],
                ..Swept::default()
            };
        }
    };
    let expired: Vec<Found> = namespaces
        .iter()
        .map(Found::of)
        .filter(|run| run.expired(now, older_than))
        .collect();
    let going: Vec<String> = expired.iter().map(|run| run.namespace.clone()).collect();
    let mut swept = Swept::default();
    let mut work = stream::iter(expired)
        .map(|run| Box::pin(sweep_one(api, run, dry_run, limit)))
        .buffer_unordered(AT_ONCE);
    while let Some(one) = work.next().await {
        swept.extend(one);
    }
    swept.extend(packets::sweep(api, dry_run, limit).await);
    swept.extend(machines::sweep(api, &going, dry_run).await);
    swept
}

async fn sweep_one(api: &Api, Found { namespace, run, .. }: Found, dry_run: bool, limit: Duration) -> Swept {
    if dry_run {
        return of_run(&run, &format!("would remove the namespace {namespace}"), Vec::new());
    }
    let left = teardown::remove(api, &namespace, limit).await;
    of_run(&run, &format!("removed the namespace {namespace}"), left)
}

/// What was done for a run, unless something is left.
fn of_run(run: &str, done: &str, left: Vec<String>) -> Swept {
    let mut swept = Swept::default();
    if left.is_empty() {
        swept.done.push(format!("run {run}: {done}"));
    }
    for what in left {
        let words = format!("run {run}: {what}");
        if !swept.left.contains(&words) {
            swept.left.push(words);
        }
    }
    swept
}

/// Removes what runs of this machine have left in clusters whose trialnet and guard are both gone, whatever it says of its expiry.
pub async fn sweep_registered(state_dir: &Path, dry_run: bool, limit: Duration) -> Swept {
    let mut swept = Swept::default();
    for entry in registry::list_runs_in(state_dir) {
        let Some(cluster) = &entry.cluster else { continue };
        if entry.life() != Life::LeftOver {
            continue;
        }
        let run = &entry.run;
        let what = match &cluster.created {
            Some(name) => format!("the cluster {name}"),
            None => format!("the namespace {} in the context {}", cluster.namespace, cluster.context),
        };
        if dry_run {
            swept.extend(of_run(run, &format!("would remove {what}"), Vec::new()));
            continue;
        }
        let left = match Box::pin(absent(cluster)).await {
            Some(why) => vec![format!(
                "the cluster of {what} does not answer: {why}; where it is gone for good: `trialnet gc --forget {run}`"
            )],
            None => Box::pin(guard::finish(run, cluster, limit)).await,
        };
        // An entry with something left stays, so that the next call tries again.
        if left.is_empty() {
            registry::forget(state_dir, run);
        }
        swept.extend(of_run(run, &format!("removed {what}"), left));
    }
    swept
}

/// Why nothing can be done in a cluster: nobody answers there. Of one that the run made for itself kind knows.
async fn absent(cluster: &registry::InCluster) -> Option<String> {
    if cluster.created.is_some() {
        return None;
    }
    let answer = async {
        let client = provider::connect(cluster.kubeconfig.as_deref(), &cluster.context).await?;
        provider::answers(&client, provider::ANSWER_LIMIT).await
    };
    Box::pin(answer).await.err().map(|trouble| trouble.seen)
}

/// Forgets a run of this machine whose trialnet and guard are both gone, and what it may have in a cluster.
///
/// # Errors
/// In words, when there is no such run, it is still up, or it left something on this machine.
pub fn forget(state_dir: &Path, run: &str) -> Result<(), String> {
    let entry = (registry::list_runs_in(state_dir).into_iter())
        .find(|entry| entry.run == run)
        .ok_or_else(|| format!("no run {run} is known here; `trialnet ps` lists them"))?;
    if entry.life() != Life::LeftOver {
        return Err(format!("run {run} is up; end its process {} first", entry.owner.pid));
    }
    if entry.cluster.is_none() {
        return Err(format!(
            "run {run} is on this machine only; `trialnet gc` removes what is left of it"
        ));
    }
    registry::forget(state_dir, run);
    Ok(())
}

/// Removes the kind clusters that trialnet made and whose run expired at least `older_than` ago.
pub async fn sweep_clusters(state_dir: &Path, older_than: Duration, dry_run: bool) -> Swept {
    let now = SystemTime::now();
    // What is left over was removed before, or could not be.
    let entries = registry::list_runs_in(state_dir).into_iter();
    let owned: BTreeSet<String> = entries.filter_map(|entry| entry.cluster?.created).collect();
    let expired = |namespace: &Namespace| expiry(namespace).is_none_or(|expires| over(expires, now, older_than));
    let mut swept = Swept::default();
    for name in Box::pin(provider::abandoned(&selector(), &owned, expired)).await {
        if dry_run {
            swept.done.push(format!("would remove the kind cluster {name}"));
            continue;
        }
        match Box::pin(provider::delete_created(&name)).await {
            Ok(()) => swept.done.push(format!("removed the kind cluster {name}")),
            Err(trouble) => (swept.left).push(format!("could not remove the kind cluster {name}: {}", trouble.seen)),
        }
    }
    swept
}

/// The cluster at which a command looks: the one that is named, else that of the current context if it is local.
/// `None` where none is named and there is none, or it does not answer within `limit`.
///
/// # Errors
/// When a context, cluster or kubeconfig is named and there is no such cluster, or it does not answer.
pub async fn reach(flags: &Flags, limit: Duration) -> Result<Option<Api>, Trouble> {
    let named = flags.context.is_some() || flags.kubeconfig.is_some() || flags.cluster.is_some();
    let found = Box::pin(try_reach(flags, limit)).await;
    match found {
        Ok(api) => Ok(Some(api)),
        Err(trouble) if named => Err(trouble),
        Err(trouble) => {
            tracing::debug!("no cluster: {trouble}");
            Ok(None)
        }
    }
}

async fn try_reach(flags: &Flags, limit: Duration) -> Result<Api, Trouble> {
    let cluster = provider::choose(&Kubernetes::default(), flags)?;
    let client = cluster.client().await?;
    provider::answers(&client, limit).await?;
    Ok(Api::new(client).in_context(cluster.context))
}

/// How long ago, or how long until then, for a table: the whole seconds, and whether it is over.
#[must_use]
pub fn until(moment: SystemTime, now: SystemTime) -> (Ms, bool) {
    let whole = |span: Duration| Ms::from(Duration::from_secs(span.as_secs()));
    match moment.duration_since(now) {
        Ok(ahead) => (whole(ahead), false),
        Err(error) => (whole(error.duration()), true),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::mock::{Answer, server, status};
    use super::*;

    fn namespace(name: &str, expires: Option<SystemTime>) -> Value {
        let annotations = match expires {
            Some(moment) => {
                json!({ EXPIRES: humantime::format_rfc3339_seconds(moment).to_string(), OWNER: "me@here 7" })
            }
            None => json!({}),
        };
        json!({ "metadata": { "name": name, "uid": name, "annotations": annotations,
            "labels": { MANAGED_BY: MANAGER, RUN: format!("run-of-{name}"), SCENARIO: "s" } } })
    }

    fn moment(ahead: i64) -> Option<SystemTime> {
        let now = SystemTime::now();
        let span = Duration::from_secs(ahead.unsigned_abs());
        Some(if ahead < 0 { now - span } else { now + span })
    }

    /// A cluster with a run that goes on, one that expired a minute ago, and one that does not say.
    fn cluster() -> (Api, std::sync::Arc<std::sync::Mutex<Vec<super::super::mock::Asked>>>) {
        let all = vec![
            namespace("alive", moment(90)),
            namespace("over", moment(-60)),
            namespace("silent", None),
        ];
        let mut gone = false;
        let (client, seen) = server(move |asked| match asked.line().as_str() {
            "GET /api/v1/namespaces" => {
                assert!(
                    asked
                        .path
                        .contains("labelSelector=app.kubernetes.io%2Fmanaged-by%3Dtrialnet%2Ctrialnet.dev%2Frun")
                );
                Answer::Json(200, json!({ "items": all.clone() }))
            }
            "GET /api/v1/pods" => Answer::Json(
                200,
                json!({ "items": [
                    { "metadata": { "name": "a-0", "namespace": "alive" }, "status": { "phase": "Running" } },
                    { "metadata": { "name": "b-0", "namespace": "alive" }, "status": { "phase": "Pending" } },
                ] }),
            ),
            "DELETE /api/v1/namespaces/over" => {
                gone = true;
                Answer::Json(200, json!({}))
            }
            "GET /api/v1/namespaces/over" if !gone => Answer::Json(200, all[1].clone()),
            "GET /api/v1/namespaces/over" | "GET /api/v1/namespaces/trialnet-system" => status(404, "NotFound", ""),
            "GET /api/v1/nodes" => Answer::Json(200, json!({ "items": [] })),
            line if line.contains("/namespaces/over/") || line == "GET /api/v1/persistentvolumes" => {
                Answer::Json(200, json!({ "items": [] }))
            }
            other => panic!("asked for {other}"),
        });
        (Api::new(client), seen)
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_expired_is_removed() {
        let (api, seen) = cluster();
        let words = sweep(&api, Duration::ZERO, true, teardown::LIMIT).await;
        assert_eq!(words.done, ["run run-of-over: would remove the namespace over"]);
        assert!(seen.lock().unwrap().iter().all(|asked| asked.method == "GET"));
        let older = sweep(&api, Duration::from_secs(3600), false, teardown::LIMIT).await;
        assert_eq!(older, Swept::default());
        let words = sweep(&api, Duration::ZERO, false, teardown::LIMIT).await;
        assert_eq!(
            (words.done, words.left),
            (vec!["run run-of-over: removed the namespace over".to_owned()], vec![])
        );
    }

    #[tokio::test]
    async fn runs_are_listed_with_their_pods() {
        let (api, _) = cluster();
        let runs = list(&api).await.unwrap();
        let names: Vec<_> = runs.iter().map(|run| run.namespace.as_str()).collect();
        assert_eq!(names, ["alive", "over", "silent"]);
        let alive = &runs[0];
        assert_eq!((alive.pods, alive.running, alive.owner.as_str()), (2, 1, "me@here 7"));
        assert_eq!((alive.run.as_str(), alive.scenario.as_str()), ("run-of-alive", "s"));
        let expired: Vec<_> = runs
            .iter()
            .map(|run| run.expired(SystemTime::now(), Duration::ZERO))
            .collect();
        assert_eq!(expired, [false, true, false]);
    }

    #[test]
    fn spans_of_time() {
        let now = SystemTime::now();
        assert_eq!(until(now + Duration::from_millis(90_400), now), (Ms(90_000), false));
        assert_eq!(until(now - Duration::from_millis(5400), now), (Ms(5000), true));
    }

    #[tokio::test]
    async fn nothing_is_said_of_a_cluster_that_nobody_named() {
        let missing = Flags {
            kubeconfig: Some("/no/such/file".into()),
            ..Flags::default()
        };
        assert!(reach(&missing, Duration::from_secs(1)).await.is_err());
    }
}
