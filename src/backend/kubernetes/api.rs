//! Calls to the API server: each with a limit, tried again by cause.
//!
//! kube's own retries must be off in the client (`Config::default_retry = false`): they would repeat a final refusal for minutes, and
//! say nothing. Here a call is repeated only where its cause may pass by itself, with growing pauses, inside a limit of the whole.

use std::fmt;
use std::time::Duration;

use futures::stream::{self, TryStreamExt};
use http::{Request, StatusCode};
use kube::api::{DeleteParams, GetParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::client::Body;
use kube::core::{ApiResource, DynamicObject, Request as Path, Status};
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::objects::{self, MANAGER, Object};
use super::provider::causes;
use crate::backend::Trouble;
use crate::codes::Code;
use crate::model::{Ms, NodeName, Removal};

/// How many objects are applied at the same time; each is one connection (HTTP/1.1).
const AT_ONCE: usize = 20;
/// How long one call may take.
const CALL_LIMIT: Duration = Duration::from_secs(10);
/// How long a call with all its repetitions may take, so that an unreachable API server is a finding within 15 s.
const WHOLE_LIMIT: Duration = Duration::from_secs(12);
/// The pause before the first repetition; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause, unless the server asks for more.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// An object of any kind as it is sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// Its kind, and where the server keeps such objects.
    pub resource: ApiResource,
    /// The object itself, with `apiVersion`, `kind` and `metadata`.
    pub value: Value,
}

impl From<&Object> for Manifest {
    fn from(object: &Object) -> Self {
        Self {
            resource: object.resource(),
            value: object.value(),
        }
    }
}

impl Manifest {
    /// Its name; empty if it has none, which the server refuses.
    #[must_use]
    pub fn name(&self) -> &str {
        self.value["metadata"]["name"].as_str().unwrap_or_default()
    }

    /// Its namespace; `None` for what belongs to the cluster.
    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        self.value["metadata"]["namespace"].as_str()
    }

    /// The node of the network that it belongs to.
    fn node(&self) -> Option<&str> {
        self.value["metadata"]["labels"][objects::NODE].as_str()
    }

    /// Namespaces first; then what pods refer to, and what bounds them; then what makes pods. A pod that is made before its ConfigMap
    /// waits for the kubelet's next try, and one that is made before the quota is not counted by it.
    fn phase(&self) -> u8 {
        match self.resource.kind.as_str() {
            "Namespace" => 0,
            "StatefulSet" | "Pod" | "Job" | "Deployment" | "DaemonSet" => 2,
            _ => 1,
        }
    }
}

/// The API server of one cluster. A copy is the same connection.
#[derive(Clone)]
pub struct Api {
    client: Client,
    context: Option<String>,
    whole: Duration,
}

impl Api {
    /// Calls through this client, whose own retries are off.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self {
            client,
            context: None,
            whole: WHOLE_LIMIT,
        }
    }

    /// Names the kubeconfig's context, for the commands in messages.
    #[must_use]
    pub fn in_context(self, context: impl Into<String>) -> Self {
        Self {
            context: Some(context.into()),
            ..self
        }
    }

    /// The same, with another limit for a call with all its repetitions.
    #[must_use]
    pub fn within(&self, whole: Duration) -> Self {
        Self { whole, ..self.clone() }
    }

    /// The client below, for streams. Whoever uses it sets the limits.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The kubeconfig's context, if it was named.
    #[must_use]
    pub fn context(&self) -> Option<&str> {
        self.context.as_deref()
    }

    /// A kubectl command line for this cluster, for messages.
    #[must_use]
    pub fn kubectl(&self, namespace: Option<&str>, rest: &str) -> String {
        let context = self.context.iter().map(|context| format!(" --context {context}"));
        let namespace = namespace.iter().map(|namespace| format!(" -n {namespace}"));
        let flags: String = context.chain(namespace).collect();
        format!("kubectl{flags} {rest}")
    }

    /// Makes these objects, or makes them as they are given (server-side apply, as [`MANAGER`], with force): namespaces, then what
    /// pods refer to, then what makes pods; of each, up to 20 at once. Ends at the first failure.
    ///
    /// # Errors
    /// The first object that could not be applied, by cause.
    pub async fn apply(&self, objects: &[Object]) -> Result<(), Trouble> {
        let manifests: Vec<_> = objects.iter().map(Manifest::from).collect();
        self.apply_manifests(&manifests).await
    }

    /// As [`Api::apply`], for objects of any kind.
    ///
    /// # Errors
    /// The first object that could not be applied, by cause.
    pub async fn apply_manifests(&self, objects: &[Manifest]) -> Result<(), Trouble> {
        for phase in 0..=2 {
            let mut wanted = Vec::new();
            for object in objects.iter().filter(|object| object.phase() == phase) {
                wanted.push(Ok(Box::pin(self.apply_one(object))));
            }
            stream::iter(wanted)
                .try_buffer_unordered(AT_ONCE)
                .try_collect::<()>()
                .await
                .map_err(Failure::trouble)?;
        }
        Ok(())
    }

    /// As [`Api::apply`], for one object.
    ///
    /// # Errors
    /// Any failure.
    pub async fn apply_one(&self, object: &Manifest) -> Result<(), Failure> {
        let what = What::about(Verb::Apply, object);
        let path = Path::new(DynamicObject::url_path(&object.resource, object.namespace()));
        let params = PatchParams::apply(MANAGER).force();
        let request = path.patch(object.name(), &params, &Patch::Apply(&object.value));
        self.call(&what, request).await.map(drop)
    }

    /// Makes an object; that there is one of this name already is [`Cause::Conflict`].
    ///
    /// # Errors
    /// Any failure.
    pub async fn create(&self, object: &Manifest) -> Result<(), Failure> {
        let what = What::about(Verb::Create, object);
        let path = Path::new(DynamicObject::url_path(&object.resource, object.namespace()));
        let request = path.create(&PostParams::default(), object.value.to_string().into_bytes());
        self.call(&what, request).await.map(drop)
    }

    /// An object; `None` if there is none of this name. `namespace` is `None` for what belongs to the cluster.
    ///
    /// # Errors
    /// Any other failure.
    pub async fn get<K: Kind>(&self, namespace: Option<&str>, name: &str) -> Result<Option<K>, Failure> {
        let what = What::of::<K>(Verb::Get, namespace, Some(name));
        let request = path_of::<K>(namespace).get(name, &GetParams::default());
        match self.call(&what, request).await {
            Ok(value) => self.read(&what, value).map(Some),
            Err(failure) if failure.cause == Cause::Missing => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// The objects of a namespace (`None`: of the cluster) with these labels; an empty selector takes all.
    ///
    /// # Errors
    /// Any failure.
    pub async fn list<K: Kind>(&self, namespace: Option<&str>, labels: &str) -> Result<Vec<K>, Failure> {
        let what = What::of::<K>(Verb::List, namespace, None);
        let mut value = self.call(&what, path_of::<K>(namespace).list(&select(labels))).await?;
        self.read(&what, value["items"].take())
    }

    /// Deletes an object; returns whether there was one. A precondition that does not hold is [`Cause::Conflict`].
    ///
    /// # Errors
    /// Any failure but that there is none.
    pub async fn delete<K: Kind>(
        &self,
        namespace: Option<&str>,
        name: &str,
        params: &DeleteParams,
    ) -> Result<bool, Failure> {
        let what = What::of::<K>(Verb::Delete, namespace, Some(name));
        let request = path_of::<K>(namespace).delete(name, params);
        there(self.call(&what, request).await)
    }

    /// Deletes all objects of a kind in a namespace that have these labels; an empty selector takes all.
    ///
    /// # Errors
    /// Any failure.
    pub async fn delete_all<K: Kind>(
        &self,
        namespace: &str,
        labels: &str,
        params: &DeleteParams,
    ) -> Result<(), Failure> {
        let what = What::of::<K>(Verb::DeleteAll, Some(namespace), None);
        let request = path_of::<K>(Some(namespace)).delete_collection(params, &select(labels));
        self.call(&what, request).await.map(drop)
    }

    /// Changes an object by a JSON merge patch; returns whether there was one. Never makes one.
    ///
    /// # Errors
    /// Any failure but that there is none.
    pub async fn merge<K: Kind>(&self, namespace: Option<&str>, name: &str, patch: &Value) -> Result<bool, Failure> {
        let what = What::of::<K>(Verb::Merge, namespace, Some(name));
        let params = PatchParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let request = path_of::<K>(namespace).patch(name, &params, &Patch::Merge(patch));
        there(self.call(&what, request).await)
    }

    /// Has a pod removed, this very one only: a new one of the same name must not be struck by an order that came late. Where nothing is said of
    /// the grace, it is the pod's own.
    ///
    /// # Errors
    /// As [`Api::evict`] and [`Api::delete`].
    pub async fn remove_pod(&self, namespace: &str, (pod, uid): (&str, &str), how: Removal) -> Result<(), Failure> {
        let grace = match how {
            Removal::Evict => return self.evict(namespace, pod, Some(uid), None).await,
            Removal::Delete { grace } => {
                grace.map(|grace| u32::try_from(grace.0.div_ceil(1000)).unwrap_or(u32::MAX).max(1))
            }
            Removal::Force => Some(0),
        };
        let params = DeleteParams {
            grace_period_seconds: grace,
            preconditions: Some(Preconditions {
                uid: Some(uid.to_owned()),
                ..Preconditions::default()
            }),
            ..DeleteParams::default()
        };
        self.delete::<k8s_openapi::api::core::v1::Pod>(Some(namespace), pod, &params)
            .await
            .map(drop)
    }

    /// Asks for the eviction of a pod, which a disruption budget may refuse ([`Cause::EvictionRefused`], not repeated). With `uid`, of
    /// this very pod only.
    ///
    /// # Errors
    /// Any failure; that there is no such pod is [`Cause::Missing`].
    pub async fn evict(&self, namespace: &str, pod: &str, uid: Option<&str>, grace: Option<Ms>) -> Result<(), Failure> {
        use k8s_openapi::api::core::v1::Pod;
        let what = What::of::<Pod>(Verb::Evict, Some(namespace), Some(pod));
        let mut options = json!({});
        if let Some(uid) = uid {
            options["preconditions"] = json!({ "uid": uid });
        }
        if let Some(grace) = grace {
            options["gracePeriodSeconds"] = json!(grace.0.div_ceil(1000));
        }
        // Written here since kube 5.0 sends `delete_options`, a name that the server does not know.
        let body = json!({
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": { "name": pod, "namespace": namespace },
            "deleteOptions": options,
        });
        let request = path_of::<Pod>(Some(namespace)).create_subresource(
            "eviction",
            pod,
            &PostParams::default(),
            body.to_string().into_bytes(),
        );
        self.call(&what, request).await.map(drop)
    }

    fn read<T: DeserializeOwned>(&self, what: &What<'_>, value: Value) -> Result<T, Failure> {
        serde_json::from_value(value)
            .map_err(|error| self.failure(what, Cause::Busy, &format!("the answer cannot be read: {error}"), 1))
    }

    /// Calls until it succeeds, fails for good, or the limit of the whole is over.
    async fn call(
        &self,
        what: &What<'_>,
        request: Result<Request<Vec<u8>>, kube::core::request::Error>,
    ) -> Result<Value, Failure> {
        let request = request.map_err(|error| self.failure(what, Cause::Invalid, &error.to_string(), 1))?;
        let deadline = Instant::now() + self.whole;
        let mut pause = FIRST_PAUSE;
        let mut tries = 1;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Refusal { cause, words, again } =
                match Box::pin(self.once(what.verb, request.clone(), left.min(CALL_LIMIT))).await {
                    Ok(value) => return Ok(value),
                    Err(refusal) => refusal,
                };
            let Some(at_least) = again else {
                return Err(self.failure(what, cause, &words, tries));
            };
            let wait = pause.max(at_least);
            if Instant::now() + wait >= deadline {
                return Err(self.failure(what, cause, &words, tries));
            }
            tracing::debug!("{what}: {words}; again in {wait:?}");
            tokio::time::sleep(wait).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            tries += 1;
        }
    }

    /// Calls once. Reads status, headers and body itself: what an overloaded server says is not always a `Status`.
    async fn once(&self, verb: Verb, request: Request<Vec<u8>>, limit: Duration) -> Result<Value, Refusal> {
        let exchange = async {
            let response = self.client.send(request.map(Body::from)).await?;
            let status = response.status();
            let wait = retry_after(response.headers());
            let bytes = response.into_body().collect_bytes().await?;
            Ok((status, wait, bytes))
        };
        let (status, wait, body) = match tokio::time::timeout(limit, exchange).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Err(Refusal::of_connection(&error)),
            Err(_) => {
                return Err(Refusal {
                    cause: Cause::Unreachable,
                    words: format!("no answer within {}", Ms::from(limit)),
                    again: Some(Duration::ZERO),
                });
            }
        };
        if !status.is_success() {
            return Err(Refusal::of_server(verb, status, wait, &body));
        }
        serde_json::from_slice(&body).map_err(|error| Refusal {
            cause: Cause::Busy,
            words: format!("the answer is no JSON: {error}"),
            again: Some(Duration::ZERO),
        })
    }

    fn failure(&self, what: &What<'_>, cause: Cause, words: &str, tries: u32) -> Failure {
        let words = match tries {
            1 => words.to_owned(),
            _ => format!("{words} (tried {tries} times)"),
        };
        Failure {
            cause,
            node: what.node.map(str::to_owned),
            expected: what.to_string(),
            words,
            look: self.look(what, cause),
        }
    }

    /// The command that shows more.
    fn look(&self, what: &What<'_>, cause: Cause) -> String {
        let What {
            plural,
            namespace,
            name,
            ..
        } = *what;
        match cause {
            Cause::Forbidden => self.kubectl(namespace, &format!("auth can-i {} {plural}", what.verb.permission())),
            Cause::Quota => self.kubectl(namespace, "describe resourcequota"),
            Cause::Unreachable => self.kubectl(None, "cluster-info"),
            Cause::Busy => self.kubectl(None, "get --raw '/readyz?verbose'"),
            Cause::NamespaceGone => {
                self.kubectl(None, &format!("get namespace {} -o yaml", namespace.unwrap_or(plural)))
            }
            Cause::EvictionRefused => self.kubectl(namespace, "get poddisruptionbudget"),
            Cause::Invalid | Cause::Refused | Cause::Conflict | Cause::Missing => {
                let name = name.map(|name| format!(" {name}")).unwrap_or_default();
                self.kubectl(namespace, &format!("get {plural}{name} -o yaml"))
            }
        }
    }
}

/// An object type of k8s-openapi that can be read.
pub trait Kind: Resource<DynamicType = ()> + DeserializeOwned {}

impl<K: Resource<DynamicType = ()> + DeserializeOwned> Kind for K {}

fn path_of<K: Kind>(namespace: Option<&str>) -> Path {
    Path::new(K::url_path(&(), namespace))
}

fn select(labels: &str) -> ListParams {
    ListParams {
        label_selector: (!labels.is_empty()).then(|| labels.to_owned()),
        ..ListParams::default()
    }
}

/// Whether there was an object.
fn there(result: Result<Value, Failure>) -> Result<bool, Failure> {
    match result {
        Ok(_) => Ok(true),
        Err(failure) if failure.cause == Cause::Missing => Ok(false),
        Err(failure) => Err(failure),
    }
}

/// What a call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Apply,
    Create,
    Get,
    List,
    Delete,
    DeleteAll,
    Merge,
    Evict,
}

impl Verb {
    /// As Role-based access control names it.
    const fn permission(self) -> &'static str {
        match self {
            Self::Apply | Self::Merge => "patch",
            Self::Create => "create",
            Self::Get => "get",
            Self::List => "list",
            Self::Delete => "delete",
            Self::DeleteAll => "deletecollection",
            Self::Evict => "create --subresource=eviction",
        }
    }
}

/// What a call is about. As text: what was expected of it.
struct What<'a> {
    verb: Verb,
    kind: &'a str,
    plural: &'a str,
    namespace: Option<&'a str>,
    name: Option<&'a str>,
    node: Option<&'a str>,
}

impl<'a> What<'a> {
    fn about(verb: Verb, object: &'a Manifest) -> Self {
        Self {
            verb,
            kind: &object.resource.kind,
            plural: &object.resource.plural,
            namespace: object.namespace(),
            name: Some(object.name()),
            node: object.node(),
        }
    }

    fn of<K: Kind>(verb: Verb, namespace: Option<&'a str>, name: Option<&'a str>) -> Self {
        let fixed = |text| match text {
            std::borrow::Cow::Borrowed(text) => text,
            // Types that are known when this is compiled have names that are, too.
            std::borrow::Cow::Owned(_) => "objects",
        };
        Self {
            verb,
            kind: fixed(K::kind(&())),
            plural: fixed(K::plural(&())),
            namespace,
            name,
            node: None,
        }
    }
}

impl fmt::Display for What<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name {
            Some(name) => write!(f, "{} {name}", self.kind)?,
            None => write!(f, "{}", self.plural)?,
        }
        if let Some(namespace) = self.namespace {
            write!(f, " in {namespace}")?;
        }
        f.write_str(match self.verb {
            Verb::Apply => " applied",
            Verb::Create => " made",
            Verb::Get => " read",
            Verb::List => " listed",
            Verb::Delete | Verb::DeleteAll => " deleted",
            Verb::Merge => " changed",
            Verb::Evict => " evicted",
        })
    }
}

/// Why a call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Role-based access control, or credentials that are not accepted.
    Forbidden,
    /// A ResourceQuota.
    Quota,
    /// Another admission rule of the cluster.
    Refused,
    /// The namespace is being removed.
    NamespaceGone,
    /// The object, as it was sent, is none.
    Invalid,
    /// There is no such object, or no such kind.
    Missing,
    /// Somebody else changed it meanwhile, or a precondition does not hold.
    Conflict,
    /// A disruption budget does not let the pod go.
    EvictionRefused,
    /// The server is there and cannot.
    Busy,
    /// The server does not answer.
    Unreachable,
}

impl Cause {
    /// The stable code of the finding.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Forbidden => "infra/cluster-forbidden",
            Self::Quota => "infra/quota",
            Self::Refused => "infra/object-refused",
            Self::NamespaceGone => "infra/namespace-gone",
            Self::Invalid => "infra/object-invalid",
            Self::Missing => "infra/object-missing",
            Self::Conflict => "infra/object-conflict",
            Self::EvictionRefused => "infra/eviction-refused",
            Self::Busy => "infra/cluster-busy",
            Self::Unreachable => "infra/cluster-unreachable",
        }
    }

    /// Whether the same call may succeed later.
    #[must_use]
    pub const fn may_pass(self) -> bool {
        matches!(self, Self::Busy | Self::Unreachable | Self::Conflict)
    }
}

/// A call that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{expected}: {words}")]
pub struct Failure {
    /// Why.
    pub cause: Cause,
    /// The node that the object belongs to.
    pub node: Option<NodeName>,
    /// What was expected.
    pub expected: String,
    /// What the server, or the connection, said.
    pub words: String,
    /// The command that shows more.
    pub look: String,
}

impl Failure {
    /// As a finding of the run.
    #[must_use]
    pub fn trouble(self) -> Trouble {
        let Self {
            cause,
            node,
            expected,
            words,
            look,
        } = self;
        Trouble {
            code: cause.code().to_owned(),
            node,
            expected,
            seen: format!("{words}; `{look}` shows more"),
        }
    }
}

/// One try that failed.
struct Refusal {
    cause: Cause,
    words: String,
    /// When it may be tried again, at the earliest; `None`: never.
    again: Option<Duration>,
}

impl Refusal {
    fn of_connection(error: &kube::Error) -> Self {
        let words = causes(error);
        match error {
            // A program that gets credentials failed, or has none.
            kube::Error::Auth(_) => Self {
                cause: Cause::Forbidden,
                words,
                again: None,
            },
            _ => Self {
                cause: Cause::Unreachable,
                words,
                again: Some(Duration::ZERO),
            },
        }
    }

    /// The cause by status and words, as the API server of Kubernetes 1.33 to 1.37 gives them.
    fn of_server(verb: Verb, status: StatusCode, wait: Option<Duration>, body: &[u8]) -> Self {
        let said: Status = serde_json::from_slice(body).unwrap_or_default();
        let message = match said.message.as_str() {
            "" => String::from_utf8_lossy(body).trim().to_owned(),
            message => message.to_owned(),
        };
        let has = |needle: &str| message.contains(needle);
        let details = said.details.as_ref();
        let because = |reason: &str| details.is_some_and(|details| details.causes.iter().any(|c| c.reason == reason));
        let asked = wait.or_else(|| {
            let seconds = details.map_or(0, |details| details.retry_after_seconds);
            (seconds > 0).then(|| Duration::from_secs(seconds.into()))
        });
        let passing = Some(asked.unwrap_or_default());
        let writes = matches!(verb, Verb::Apply | Verb::Merge);
        let (cause, again) = match status.as_u16() {
            401 => (Cause::Forbidden, None),
            // The quota's controller has not counted yet, the service account's has not made it yet: right after the namespace.
            403 if has("status unknown for quota") => (Cause::Quota, passing),
            403 if has("error looking up service account") => (Cause::Refused, passing),
            403 if has("exceeded quota") || has("failed quota") => (Cause::Quota, None),
            403 if because("NamespaceTerminating") || has("because it is being terminated") => {
                (Cause::NamespaceGone, None)
            }
            403 if message.is_empty() || (has(" cannot ") && has(" resource ")) => (Cause::Forbidden, None),
            403 => (Cause::Refused, None),
            404 => (Cause::Missing, None),
            409 => (Cause::Conflict, writes.then_some(Duration::ZERO)),
            429 if verb == Verb::Evict && because("DisruptionBudget") => (Cause::EvictionRefused, None),
            429 => (Cause::Busy, passing),
            500 if has("not declared in schema") => (Cause::Invalid, None),
            500..=599 => (Cause::Busy, passing),
            _ => (Cause::Invalid, None),
        };
        Self {
            cause,
            words: format!("{} {message}", status.as_u16()).trim_end().to_owned(),
            again,
        }
    }
}

/// `Retry-After` in seconds (RFC 9110, 10.2.3); its other form, a date, is not used by API servers.
fn retry_after(headers: &http::HeaderMap) -> Option<Duration> {
    let seconds = headers.get(http::header::RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// What the codes of this module mean.
pub const CODES: &[Code] = &[
    (
        "infra/cluster-forbidden",
        "the cluster does not let trialnet do something",
        "The finding names verb and resource, or the credentials are not accepted. `trialnet rbac` prints what a run needs.",
    ),
    (
        "infra/quota",
        "a quota of the cluster is too small",
        "A ResourceQuota refused an object or leaves no room for a pod. Ask for less (`resources` of a group), or raise the quota that the finding names.",
    ),
    (
        "infra/object-refused",
        "a rule of the cluster refused an object",
        "An admission rule (a policy, a limit range, Pod Security) said no, in the words that stand in the finding.",
    ),
    (
        "infra/namespace-gone",
        "the namespace of the run was removed by somebody else",
        "Nothing can be made in it any more. Look for a `trialnet gc` on a machine with another clock, or for a person.",
    ),
    (
        "infra/object-invalid",
        "the cluster does not accept an object as it is",
        "A field has a value that the API server refuses, or its version does not know. `trialnet render` shows the objects.",
    ),
    (
        "infra/object-missing",
        "an object that was there is gone, or the cluster does not know its kind",
        "Somebody else removed it, or the API server is too old.",
    ),
    (
        "infra/object-conflict",
        "an object was changed by somebody else at the same time",
        "Trialnet tried again and somebody else was faster each time: a controller that fights over the object.",
    ),
    (
        "infra/eviction-refused",
        "a disruption budget did not let a pod be evicted",
        "So many nodes are down already that the chain would lose its quorum, and the API server says 429. Let fewer be down at the time, or say `refused = true` where that is what the scenario is to show.",
    ),
    (
        "infra/cluster-busy",
        "the API server is there and cannot answer",
        "It refused several times, over several seconds, with the words that stand in the finding: overload, a lost etcd, a webhook that fails.",
    ),
    (
        "infra/cluster-unreachable",
        "the API server does not answer",
        "The cluster is down, the kubeconfig names an old address, or the network is cut. The finding has the words of the connection.",
    ),
];

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{Namespace, Pod};

    use super::super::mock::{Answer, server, status};
    use super::*;

    fn manifest(kind: &str, name: &str) -> Manifest {
        let (group, version, plural) = match kind {
            "StatefulSet" => ("apps", "v1", "statefulsets".to_owned()),
            _ => ("", "v1", format!("{}s", kind.to_lowercase())),
        };
        let mut metadata = json!({ "name": name, "labels": { objects::NODE: name } });
        if kind != "Namespace" {
            metadata["namespace"] = json!("trialnet-s-1");
        }
        let api_version = if group.is_empty() {
            version.to_owned()
        } else {
            format!("{group}/{version}")
        };
        Manifest {
            resource: ApiResource {
                group: group.to_owned(),
                version: version.to_owned(),
                api_version: api_version.clone(),
                kind: kind.to_owned(),
                plural,
            },
            value: json!({ "apiVersion": api_version, "kind": kind, "metadata": metadata }),
        }
    }

    fn ok() -> Answer {
        Answer::Json(200, json!({}))
    }

    #[tokio::test]
    async fn a_set_of_objects_is_applied_in_three_waves() {
        let (client, seen) = server(|_| ok());
        let objects = [
            manifest("StatefulSet", "a"),
            manifest("Secret", "a"),
            manifest("Namespace", "trialnet-s-1"),
            manifest("Service", "a"),
        ];
        Api::new(client).apply_manifests(&objects).await.unwrap();
        let seen = seen.lock().unwrap().clone();
        let mut paths: Vec<_> = seen.iter().map(|asked| asked.path.as_str()).collect();
        paths[1..3].sort_unstable();
        let query = "?&force=true&fieldManager=trialnet";
        assert_eq!(
            paths,
            [
                "/api/v1/namespaces/trialnet-s-1",
                "/api/v1/namespaces/trialnet-s-1/secrets/a",
                "/api/v1/namespaces/trialnet-s-1/services/a",
                "/apis/apps/v1/namespaces/trialnet-s-1/statefulsets/a",
            ]
            .map(|path| format!("{path}{query}"))
        );
        assert!(seen.iter().all(|asked| asked.method == "PATCH"));
        assert_eq!(seen[3].body["kind"], "StatefulSet");
    }

    /// Applies one StatefulSet to a server that fails like this until the last time; the outcome, how often it was called, and the time.
    async fn against(mut failures: Vec<Answer>) -> (Result<(), Trouble>, usize, Duration) {
        failures.reverse();
        let (client, seen) = server(move |_| failures.pop().unwrap_or_else(ok));
        let begun = Instant::now();
        let api = Api::new(client).in_context("kind-x");
        let result = api.apply_manifests(&[manifest("StatefulSet", "a")]).await;
        let tries = seen.lock().unwrap().len();
        (result, tries, begun.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_pass_is_tried_again() {
        for failure in [
            status(409, "Conflict", "the object has been modified"),
            status(500, "InternalError", "etcdserver: leader changed"),
            status(503, "ServiceUnavailable", ""),
            status(504, "Timeout", "request timed out"),
            status(
                403,
                "Forbidden",
                "statefulsets \"a\" is forbidden: status unknown for quota: q, resources: pods",
            ),
            Answer::Broken("connection refused"),
        ] {
            let (result, tries, took) = against(vec![failure]).await;
            assert_eq!((result, tries), (Ok(()), 2));
            assert_eq!(took, FIRST_PAUSE);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_server_says_when_to_come_again() {
        let (result, tries, took) = against(vec![Answer::Later(
            429,
            "Too many requests, please try again later.",
            3,
        )])
        .await;
        assert_eq!((result, tries, took), (Ok(()), 2, Duration::from_secs(3)));
        // An hour is longer than the whole may take.
        let (result, tries, took) = against(vec![Answer::Later(429, "Too many requests.", 3600)]).await;
        let trouble = result.unwrap_err();
        assert_eq!(
            (trouble.code.as_str(), tries, took),
            ("infra/cluster-busy", 1, Duration::ZERO)
        );
        assert!(trouble.seen.starts_with("429 Too many requests.;"), "{trouble}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_pass_is_not_tried_again() {
        let rbac = "statefulsets.apps \"a\" is forbidden: User \"ci\" cannot patch resource \"statefulsets\" in API group \"apps\" in the namespace \"n\"";
        let quota = "statefulsets.apps \"a\" is forbidden: exceeded quota: run, requested: count/statefulsets.apps=1, used: 1, limited: 1";
        for (failure, code) in [
            (status(403, "Forbidden", rbac), "infra/cluster-forbidden"),
            (status(401, "Unauthorized", "Unauthorized"), "infra/cluster-forbidden"),
            (status(403, "Forbidden", quota), "infra/quota"),
            (
                status(403, "Forbidden", "admission webhook \"policy\" denied the request: no"),
                "infra/object-refused",
            ),
            (
                status(
                    403,
                    "Forbidden",
                    "unable to create new content in namespace n because it is being terminated",
                ),
                "infra/namespace-gone",
            ),
            (
                status(404, "NotFound", "namespaces \"n\" not found"),
                "infra/object-missing",
            ),
            (
                status(422, "Invalid", "spec: Forbidden: updates"),
                "infra/object-invalid",
            ),
            (status(400, "BadRequest", "no"), "infra/object-invalid"),
            (
                status(
                    500,
                    "",
                    "failed to create typed patch object: .spec.foo: field not declared in schema",
                ),
                "infra/object-invalid",
            ),
        ] {
            let (result, tries, _) = against(vec![failure]).await;
            let trouble = result.unwrap_err();
            assert_eq!((trouble.code.as_str(), tries), (code, 1));
            assert_eq!(trouble.expected, "StatefulSet a in trialnet-s-1 applied");
            assert_eq!(trouble.node.as_deref(), Some("a"));
            assert!(trouble.seen.contains("`kubectl --context kind-x"), "{trouble}");
            assert!(crate::codes::find(code).is_some(), "{code}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_hangs_or_refuses_for_ever_is_left_in_time() {
        let (client, seen) = server(|_| Answer::Hangs);
        let begun = Instant::now();
        let failure = Api::new(client).get::<Namespace>(None, "n").await.unwrap_err();
        assert_eq!(failure.cause, Cause::Unreachable);
        assert!(failure.words.starts_with("no answer within "), "{failure}");
        assert_eq!(seen.lock().unwrap().len(), 2);
        assert!(begun.elapsed() <= WHOLE_LIMIT, "{:?}", begun.elapsed());

        let (client, seen) = server(|_| Answer::Broken("connection refused"));
        let begun = Instant::now();
        let failure = Api::new(client).list::<Pod>(Some("n"), "").await.unwrap_err();
        assert_eq!(failure.cause, Cause::Unreachable);
        assert!(failure.words.contains("connection refused"), "{failure}");
        assert!(begun.elapsed() <= WHOLE_LIMIT, "{:?}", begun.elapsed());
        let tries = seen.lock().unwrap().len();
        assert!((5..12).contains(&tries), "{tries}");
    }

    #[tokio::test]
    async fn what_is_not_there_is_an_answer() {
        let (client, seen) = server(|_| status(404, "NotFound", "not found"));
        let api = Api::new(client);
        assert_eq!(api.get::<Namespace>(None, "n").await, Ok(None));
        assert_eq!(
            api.delete::<Pod>(Some("n"), "p", &DeleteParams::default()).await,
            Ok(false)
        );
        assert_eq!(api.merge::<Namespace>(None, "n", &json!({})).await, Ok(false));
        let lines: Vec<_> = seen
            .lock()
            .unwrap()
            .iter()
            .map(super::super::mock::Asked::line)
            .collect();
        assert_eq!(
            lines,
            [
                "GET /api/v1/namespaces/n",
                "DELETE /api/v1/namespaces/n/pods/p",
                "PATCH /api/v1/namespaces/n"
            ]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_eviction_is_told_from_a_busy_server() {
        let budget = json!({
            "kind": "Status", "code": 429, "reason": "TooManyRequests",
            "message": "Cannot evict pod as it would violate the pod's disruption budget.",
            "details": { "causes": [{ "reason": "DisruptionBudget", "message": "needs 3 healthy pods and has 3 currently" }] },
        });
        let mut answers = vec![Answer::Json(201, json!({})), Answer::Json(429, budget)];
        let (client, seen) = server(move |_| answers.pop().unwrap());
        let api = Api::new(client);
        let refused = api.evict("n", "p-0", Some("u"), Some(Ms(1500))).await.unwrap_err();
        assert_eq!(refused.cause, Cause::EvictionRefused);
        assert_eq!(api.evict("n", "p-0", Some("u"), Some(Ms(1500))).await, Ok(()));
        let seen = seen.lock().unwrap();
        assert_eq!(seen[0].line(), "POST /api/v1/namespaces/n/pods/p-0/eviction");
        let options = &seen[0].body["deleteOptions"];
        assert_eq!(
            options,
            &json!({ "preconditions": { "uid": "u" }, "gracePeriodSeconds": 2 })
        );
    }
}
