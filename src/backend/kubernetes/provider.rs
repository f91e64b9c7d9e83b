//! Clusters: which one a run uses, whether it is local, and making one.
//!
//! A cluster that trialnet makes (`--create`) is called `trialnet-run-<when>-<random>`: a kind cluster carries no labels of its own, so its name says whose it
//! is and when it was made. Its kubeconfig is a file of the registry folder, never the user's own. See [`abandoned`] for what becomes of one whose trialnet is gone.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apimachinery::pkg::version::Info;
use kube::api::ListParams;
use kube::config::{KubeConfigOptions, Kubeconfig, NamedContext};
use kube::{Client, Config};
use tokio::time::Instant;

use super::command::Call;
use crate::agent::{registry, trouble};
use crate::backend::Trouble;
use crate::env;
use crate::model::{Kubernetes, Provider};

/// What the names of clusters begin with that trialnet has made.
pub const CREATED_PREFIX: &str = "trialnet-run-";
/// How long an API server has to answer when a run begins.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(8);

/// To open a connection; less than [`ANSWER_LIMIT`], so that the cause is known.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// kind's own limit for the control plane, as its command line wants it, and the whole of it.
const CREATE_WAIT: &str = "180s";
const CREATE_LIMIT: Duration = Duration::from_secs(360);
const DELETE_LIMIT: Duration = Duration::from_secs(60);
const ASK_LIMIT: Duration = Duration::from_secs(10);
/// How long after kind was ended docker may still make what kind had asked for, and between two looks whether it did.
const SETTLES: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A cluster that is younger may be one whose namespace does not exist yet.
const YOUNG: Duration = Duration::from_secs(600);

/// The codes of trouble with clusters and images, each with a title and a longer text.
pub const CODES: &[(&str, &str, &str)] = &[
    (
        CONFIG,
        "the cluster for the run cannot be told",
        "There is no kubeconfig, it has no such context, or the settings contradict each other. Name a context with --context, or let trialnet make a kind cluster with --create.",
    ),
    (
        "infra/cluster-remote",
        "the cluster is not on this machine",
        "Trialnet makes and removes namespaces and kills pods, so it takes a cluster elsewhere only when it is named with --context and --allow-remote on the command line.",
    ),
    (
        CREATE,
        "a kind cluster could not be made or removed",
        "The words of kind stand in the finding. `trialnet gc` removes what is left of it.",
    ),
    (
        "infra/image-program",
        "a program cannot be made into an image",
        "It is a script, a program of another system, or one of which a library is missing. Link it statically, or name an `image` that the cluster can pull.",
    ),
    (
        "infra/image-name",
        "an image has no name that the cluster could pull",
        "Into a cluster that is neither of kind nor of minikube nothing can be loaded, so that it has to pull every image. `trialnet image` writes \
         the image of trialnet itself, or of a version's program, as a file; push it to a registry that the cluster reaches, and name it: \
         `own_image` of [backend.kubernetes], or `image` of the version.",
    ),
    (
        "infra/image-load",
        "an image could not be loaded into the cluster",
        "The words of docker or minikube stand in the finding. A cluster that is neither of kind nor of minikube has to pull its images: name an `image`.",
    ),
];

/// No or bad settings of clusters.
const CONFIG: &str = "infra/cluster-config";
/// Making or removing a cluster.
const CREATE: &str = "infra/cluster-create";

/// What the command line says of the cluster. It goes before what the file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// The context of the kubeconfig.
    pub context: Option<String>,
    /// The name of the kind cluster or minikube profile.
    pub cluster: Option<String>,
    /// What kind of cluster it is.
    pub provider: Option<Provider>,
    /// The kubeconfig; `None`: those that `KUBECONFIG` names, else `~/.kube/config`.
    pub kubeconfig: Option<PathBuf>,
    /// Whether the context that is named here may be that of a cluster elsewhere.
    pub allow_remote: bool,
    /// Make a kind cluster for this run.
    pub create: bool,
}

/// The cluster of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// How images get into it.
    pub provider: Provider,
    /// Its context in the kubeconfig.
    pub context: String,
    /// The name of the kind cluster or minikube profile; of any other cluster, what the kubeconfig calls it.
    pub name: String,
    /// The address of its API server; empty for a cluster that is yet to be made.
    pub server: String,
    /// The kubeconfig that was named; `None`: the usual ones.
    pub kubeconfig: Option<PathBuf>,
    /// Whether trialnet makes it, and therefore removes it.
    pub created: bool,
    /// The node image for making it; `None`: kind's own choice.
    pub node_image: Option<String>,
}

/// Chooses the cluster of a run. Reads the kubeconfig and nothing else: a cluster that is to be made for the run has its name afterwards, so that a guard can
/// own it before [`Cluster::make`] makes it.
///
/// # Errors
/// `infra/cluster-config` when there is no such context, or what was asked contradicts itself; `infra/cluster-remote` when the cluster is not local and
/// was not named by `--context` together with `--allow-remote`.
pub fn choose(settings: &Kubernetes, flags: &Flags) -> Result<Cluster, Trouble> {
    if flags.create {
        return to_be_made(settings, flags);
    }
    let kubeconfig = read(flags.kubeconfig.as_deref())?;
    let provider = flags.provider.or(settings.provider);
    let cluster = flags.cluster.as_ref().or(settings.cluster.as_ref());
    let named = flags.context.clone().or_else(|| settings.context.clone());
    let of_cluster = || {
        Some(match provider {
            Some(Provider::Minikube) => cluster?.clone(),
            Some(Provider::Existing) => return None,
            Some(Provider::Kind) | None => format!("kind-{}", cluster?),
        })
    };
    let current = || kubeconfig.current_context.clone().filter(|name| !name.is_empty());
    let context = named.or_else(of_cluster).or_else(current).ok_or_else(|| {
        trouble(
            CONFIG,
            "the kubeconfig has a current context",
            format!(
                "it has none; name one with --context{}, or let trialnet make a kind cluster with --create",
                known(&kubeconfig)
            ),
        )
    })?;
    let seen = Seen::find(&kubeconfig, &context)?;
    let detected = seen.provider();
    if !seen.is_near(detected) {
        let allowed = flags.allow_remote && flags.context.is_some();
        if !allowed {
            return Err(trouble(
                "infra/cluster-remote",
                format!(
                    "the context {context} is that of a cluster on this machine: of kind, of minikube, or with a server at a loopback address"
                ),
                format!(
                    "its server is {}; if this run is meant for it, say so with `--context {context} --allow-remote`",
                    seen.server
                ),
            ));
        }
    }
    let provider = provider.unwrap_or(detected);
    let name = cluster.cloned().unwrap_or_else(|| match provider {
        Provider::Kind => context.strip_prefix("kind-").unwrap_or(&context).to_owned(),
        Provider::Minikube => context.clone(),
        Provider::Existing => seen.cluster.clone(),
    });
    Ok(Cluster {
        provider,
        context,
        name,
        server: seen.server,
        kubeconfig: flags.kubeconfig.clone(),
        created: false,
        node_image: None,
    })
}

fn to_be_made(settings: &Kubernetes, flags: &Flags) -> Result<Cluster, Trouble> {
    let expected = "with --create trialnet makes a kind cluster of its own";
    let provider = flags.provider.or(settings.provider).unwrap_or(Provider::Kind);
    if provider != Provider::Kind {
        return Err(trouble(
            CONFIG,
            expected,
            "another provider is asked for; leave out one of both",
        ));
    }
    if flags.context.is_some() || flags.cluster.is_some() {
        return Err(trouble(
            CONFIG,
            expected,
            "a context or cluster is named as well; leave out one of both",
        ));
    }
    let state = registry::state_dir().map_err(|error| trouble(CONFIG, expected, error.to_string()))?;
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let name = format!("{CREATED_PREFIX}{:08x}-{:08x}", since.as_secs(), rand::random::<u32>());
    Ok(Cluster {
        provider,
        context: format!("kind-{name}"),
        kubeconfig: Some(kubeconfig_of(&state, &name)),
        server: String::new(),
        created: true,
        node_image: settings.node_image.clone().or_else(env::node_image),
        name,
    })
}

impl Cluster {
    /// Makes the cluster, if it is one that trialnet makes; returns when its control plane is ready. kind is a process of the run `run`, so that
    /// the guard ends it when trialnet is gone.
    ///
    /// # Errors
    /// `infra/cluster-create` with kind's words. What was made of it is for [`Cluster::delete`] to remove.
    pub async fn make(&self, run: &str) -> Result<(), Trouble> {
        if !self.created {
            return Ok(());
        }
        let kubeconfig = self.kubeconfig.clone().unwrap_or_default();
        let kubeconfig = kubeconfig.to_string_lossy();
        let mut args = vec![
            "create",
            "cluster",
            "--name",
            &self.name,
            "--kubeconfig",
            &kubeconfig,
            "--wait",
            CREATE_WAIT,
        ];
        if let Some(image) = &self.node_image {
            args.extend(["--image", image]);
        }
        Call::new(CREATE, "kind", &args, CREATE_LIMIT)
            .of_run(run)
            .output()
            .await
            .map(|_| ())
    }

    /// Removes the cluster, if it is one that trialnet makes. Idempotent; also of one that is half made.
    ///
    /// # Errors
    /// `infra/cluster-create` with kind's words.
    pub async fn delete(&self) -> Result<(), Trouble> {
        if self.created {
            delete_created(&self.name).await
        } else {
            Ok(())
        }
    }

    /// A client for it. Nothing is asked of the server yet: see [`answers`].
    ///
    /// # Errors
    /// `infra/cluster-config` when the kubeconfig cannot be used.
    pub async fn client(&self) -> Result<Client, Trouble> {
        connect(self.kubeconfig.as_deref(), &self.context).await
    }
}

/// A client for a context. It tries nothing again by itself, waits for no answer longer than its caller does, and never takes a cluster
/// that it runs inside of.
///
/// # Errors
/// `infra/cluster-config` when the kubeconfig cannot be used.
pub async fn connect(kubeconfig: Option<&Path>, context: &str) -> Result<Client, Trouble> {
    let failed = |error: &dyn std::error::Error| {
        trouble(
            CONFIG,
            format!("the context {context} of the kubeconfig can be used"),
            causes(error),
        )
    };
    let options = KubeConfigOptions {
        context: Some(context.to_owned()),
        ..KubeConfigOptions::default()
    };
    let config = Config::from_custom_kubeconfig(read(kubeconfig)?, &options).await;
    let mut config = config.map_err(|error| failed(&error))?;
    config.default_retry = false;
    config.connect_timeout = Some(CONNECT_LIMIT);
    if config.cluster_url.host().is_some_and(is_loopback) {
        // A proxy from the environment has no way to this machine's own loopback.
        config.proxy_url = None;
    }
    Client::try_from(config).map_err(|error| failed(&error))
}

/// Whether the API server answers, and what it is.
///
/// # Errors
/// `infra/cluster-unreachable` with the cause.
pub async fn answers(client: &Client, limit: Duration) -> Result<Info, Trouble> {
    let seen = match tokio::time::timeout(limit, client.apiserver_version()).await {
        Ok(Ok(info)) => return Ok(info),
        Ok(Err(error)) => causes(&error),
        Err(_) => format!("no answer within {}s", limit.as_secs()),
    };
    Err(trouble(
        "infra/cluster-unreachable",
        "the API server of the cluster answers",
        format!("{seen}; does the cluster run? `trialnet doctor --backend kubernetes` looks closer"),
    ))
}

/// What an error says with all its causes, nothing twice.
#[must_use]
pub fn causes(error: &dyn std::error::Error) -> String {
    let mut words: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        // Some errors repeat their cause in their own words; the cause alone is enough then.
        if let Some(last) = words
            .last_mut()
            .filter(|last| last.len() > text.len() && last.contains(&text))
        {
            let cut = last.replace(&text, "");
            cut.trim_end_matches([' ', ':', '(', ')']).clone_into(last);
        }
        if !text.is_empty() && words.last() != Some(&text) {
            words.push(text);
        }
        next = error.source();
    }
    words.retain(|text| !text.is_empty());
    words.join(": ")
}

/// The clusters of kind that trialnet has made, with the moment of each. None where kind is not there.
pub async fn created() -> Vec<(String, SystemTime)> {
    let listed = Call::new(CREATE, "kind", &["get", "clusters"], ASK_LIMIT)
        .output()
        .await;
    let listed = listed.unwrap_or_default();
    listed
        .lines()
        .filter_map(|name| Some((name.to_owned(), made_at(name)?)))
        .collect()
}

/// Those clusters that trialnet has made and that nobody uses any more: none of the `owned` ones, older than ten minutes, and they hold no namespace of a run
/// that has not expired, or none of their machines runs. `selector` selects namespaces of ours by label; `expired` says whether one is over, from its annotations.
pub async fn abandoned(selector: &str, owned: &BTreeSet<String>, expired: impl Fn(&Namespace) -> bool) -> Vec<String> {
    let mut abandoned = Vec::new();
    for (name, made) in created().await {
        let age = SystemTime::now().duration_since(made).unwrap_or_default();
        if age > YOUNG && !owned.contains(&name) && !in_use(&name, selector, &expired).await {
            abandoned.push(name);
        }
    }
    abandoned
}

async fn in_use(name: &str, selector: &str, expired: impl Fn(&Namespace) -> bool) -> bool {
    let args = ["get", "kubeconfig", "--name", name];
    let asked = async {
        let text = Call::new(CREATE, "kind", &args, ASK_LIMIT).output().await.ok()?;
        let kubeconfig = Kubeconfig::from_yaml(&text).ok()?;
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
        let mut config = config.ok()?;
        config.default_retry = false;
        config.proxy_url = None;
        let namespaces = kube::Api::<Namespace>::all(Client::try_from(config).ok()?);
        namespaces.list(&ListParams::default().labels(selector)).await.ok()
    };
    match tokio::time::timeout(ASK_LIMIT, asked).await.ok().flatten() {
        Some(namespaces) => namespaces.items.iter().any(|namespace| !expired(namespace)),
        // No answer may be no more than a busy machine.
        None => runs(name).await,
    }
}

/// Whether any machine of a kind cluster runs, or nobody says.
async fn runs(name: &str) -> bool {
    let label = format!("label=io.x-k8s.kind.cluster={name}");
    let listed = Call::new(CREATE, "docker", &["ps", "--quiet", "--filter", &label], ASK_LIMIT);
    listed.output().await.map_or(true, |running| !running.trim().is_empty())
}

/// Removes a cluster that trialnet has made, by its name, and its kubeconfig.
///
/// # Errors
/// `infra/cluster-create` with kind's words; for any other cluster it does nothing but say so.
pub async fn delete_created(name: &str) -> Result<(), Trouble> {
    let expected = format!("the cluster {name} can be removed");
    if made_at(name).is_none() {
        return Err(trouble(CREATE, expected, "trialnet has not made it"));
    }
    let state = registry::state_dir().map_err(|error| trouble(CREATE, expected, error.to_string()))?;
    let kubeconfig = kubeconfig_of(&state, name);
    // kind writes it when all machines are there. Without it one may still come: docker goes on with what it was asked to do.
    let settles = if kubeconfig.exists() { Duration::ZERO } else { SETTLES };
    let deleted = Box::pin(delete_until(name, &kubeconfig, Instant::now() + settles)).await;
    for path in [kubeconfig.clone(), kubeconfig.with_extension("kubeconfig.lock")] {
        fs_err::remove_file(path).ok();
    }
    deleted
}

/// Removes a cluster, and what of it appears until then.
async fn delete_until(name: &str, kubeconfig: &Path, settled: Instant) -> Result<(), Trouble> {
    // Named, so that kind leaves the user's own kubeconfig alone.
    let shown = kubeconfig.to_string_lossy();
    let delete = ["delete", "cluster", "--name", name, "--kubeconfig", &shown];
    loop {
        Call::new(CREATE, "kind", &delete, DELETE_LIMIT).output().await?;
        loop {
            if Instant::now() >= settled {
                return Ok(());
            }
            tokio::time::sleep(LOOK_EVERY).await;
            let machines = Call::new(CREATE, "kind", &["get", "nodes", "--name", name], ASK_LIMIT);
            if !machines.output().await?.trim().is_empty() {
                break;
            }
        }
    }
}

/// When a cluster was made, from its name; `None`: not by trialnet.
fn made_at(name: &str) -> Option<SystemTime> {
    let (when, random) = name.strip_prefix(CREATED_PREFIX)?.split_once('-')?;
    u32::from_str_radix(random, 16).ok()?;
    let seconds = u64::from_str_radix(when, 16).ok()?;
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

fn kubeconfig_of(state: &Path, name: &str) -> PathBuf {
    state.join(format!("{name}.kubeconfig"))
}

fn read(path: Option<&Path>) -> Result<Kubeconfig, Trouble> {
    let read = match path {
        Some(path) => Kubeconfig::read_from(path),
        None => Kubeconfig::read(),
    };
    read.map_err(|error| {
        let help = "name one with --kubeconfig or KUBECONFIG, or let trialnet make a kind cluster with --create";
        trouble(CONFIG, "there is a kubeconfig", format!("{}; {help}", causes(&error)))
    })
}

/// The contexts of a kubeconfig, for a message.
fn known(kubeconfig: &Kubeconfig) -> String {
    let names: Vec<_> = kubeconfig
        .contexts
        .iter()
        .map(|context| context.name.as_str())
        .collect();
    if names.is_empty() {
        String::new()
    } else {
        format!(" (there are: {})", names.join(", "))
    }
}

/// What the kubeconfig says of a context.
struct Seen {
    context: String,
    cluster: String,
    server: String,
    minikube: bool,
}

impl Seen {
    fn find(kubeconfig: &Kubeconfig, context: &str) -> Result<Self, Trouble> {
        let missing = |seen: String| trouble(CONFIG, format!("the kubeconfig has the context {context}"), seen);
        let of = |named: &&NamedContext| named.name == context;
        let found = kubeconfig
            .contexts
            .iter()
            .find(of)
            .and_then(|named| named.context.as_ref());
        let found = found.ok_or_else(|| missing(format!("it has no such context{}", known(kubeconfig))))?;
        let cluster = kubeconfig.clusters.iter().find(|named| named.name == found.cluster);
        let cluster = cluster.and_then(|named| named.cluster.as_ref());
        let cluster = cluster.ok_or_else(|| missing(format!("its cluster {} is not there", found.cluster)))?;
        let server = cluster.server.clone();
        let extensions = cluster.extensions.as_deref().unwrap_or_default();
        Ok(Self {
            context: context.to_owned(),
            cluster: found.cluster.clone(),
            server: server.ok_or_else(|| missing(format!("its cluster {} has no server", found.cluster)))?,
            // minikube marks what it writes.
            minikube: extensions
                .iter()
                .any(|named| named.extension["provider"] == "minikube.sigs.k8s.io"),
        })
    }

    fn provider(&self) -> Provider {
        if self.context.starts_with("kind-") {
            Provider::Kind
        } else if self.minikube || self.context == "minikube" {
            Provider::Minikube
        } else {
            Provider::Existing
        }
    }

    /// Whether the cluster is on this machine. kind and minikube may listen at an address of a virtual network; the name alone is not believed.
    fn is_near(&self, provider: Provider) -> bool {
        let host = self.server.parse::<axum::http::Uri>().ok();
        let host = host.as_ref().and_then(|uri| uri.host()).unwrap_or_default();
        is_loopback(host) || (provider != Provider::Existing && is_private(host))
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || address(host).is_some_and(|ip| ip.is_loopback())
}

/// Addresses that are not routed outside, and the names that container engines and kind give to their own hosts.
fn is_private(host: &str) -> bool {
    match address(host) {
        Some(IpAddr::V4(ip)) => ip.is_private() || ip.is_link_local(),
        Some(IpAddr::V6(ip)) => ip.is_unique_local() || ip.is_unicast_link_local(),
        None => !host.is_empty() && (!host.contains('.') || host.ends_with(".internal")),
    }
}

fn address(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

impl Display for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match self.provider {
            Provider::Kind => "kind cluster",
            Provider::Minikube => "minikube profile",
            Provider::Existing => "cluster",
        };
        write!(f, "{kind} {} (context {})", self.name, self.context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A kubeconfig with these contexts and servers; the first is the current one.
    fn kubeconfig(folder: &Path, contexts: &[(&str, &str)]) -> PathBuf {
        let clusters: Vec<_> = contexts
            .iter()
            .map(|(name, server)| {
                let extensions = match name.strip_prefix("profile-") {
                    Some(_) => serde_json::json!([{ "name": "cluster_info", "extension": { "provider": "minikube.sigs.k8s.io" } }]),
                    None => serde_json::json!([]),
                };
                serde_json::json!({ "name": format!("of-{name}"), "cluster": { "server": server, "extensions": extensions } })
            })
            .collect();
        let named: Vec<_> = contexts
            .iter()
            .map(|(name, _)| serde_json::json!({ "name": name, "context": { "cluster": format!("of-{name}"), "user": "me" } }))
            .collect();
        let text = serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "clusters": clusters, "contexts": named, "users": [],
            "current-context": contexts.first().map_or("", |(name, _)| *name),
        });
        let path = folder.join("config");
        std::fs::write(&path, text.to_string()).unwrap();
        path
    }

    const ALL: &[(&str, &str)] = &[
        ("kind-work", "https://127.0.0.1:40001"),
        ("minikube", "https://192.168.49.2:8443"),
        ("profile-two", "https://192.168.58.2:8443"),
        ("forwarded", "https://localhost:6443"),
        ("company", "https://10.1.2.3:6443"),
        ("kind-elsewhere", "https://k8s.example.com:6443"),
        ("six", "https://[::1]:6443"),
    ];

    fn chosen(settings: Kubernetes, flags: Flags) -> Result<Cluster, Trouble> {
        let folder = tempfile::tempdir().unwrap();
        let kubeconfig = Some(kubeconfig(folder.path(), ALL));
        choose(&settings, &Flags { kubeconfig, ..flags })
    }

    fn context(name: &str) -> Flags {
        Flags {
            context: Some(name.into()),
            ..Flags::default()
        }
    }

    #[test]
    fn local_clusters_are_recognised() {
        for (name, provider, cluster) in [
            ("kind-work", Provider::Kind, "work"),
            ("minikube", Provider::Minikube, "minikube"),
            ("profile-two", Provider::Minikube, "profile-two"),
            ("forwarded", Provider::Existing, "of-forwarded"),
            ("six", Provider::Existing, "of-six"),
        ] {
            let seen = chosen(Kubernetes::default(), context(name)).unwrap();
            assert_eq!(
                (seen.provider, seen.name.as_str(), seen.created),
                (provider, cluster, false),
                "{name}"
            );
        }
        let current = chosen(Kubernetes::default(), Flags::default()).unwrap();
        assert_eq!(current.context, "kind-work");
        assert_eq!(current.to_string(), "kind cluster work (context kind-work)");
    }

    #[test]
    fn a_cluster_elsewhere_is_taken_only_when_the_command_line_names_it() {
        for name in ["company", "kind-elsewhere"] {
            let refused = [
                (Kubernetes::default(), context(name)),
                (
                    Kubernetes {
                        context: Some(name.into()),
                        ..Kubernetes::default()
                    },
                    Flags {
                        allow_remote: true,
                        ..Flags::default()
                    },
                ),
                // That somebody calls it kind's does not make it local.
                (
                    Kubernetes::default(),
                    Flags {
                        provider: Some(Provider::Kind),
                        ..context(name)
                    },
                ),
            ];
            for (settings, flags) in refused {
                let trouble = chosen(settings, flags).unwrap_err();
                assert_eq!(trouble.code, "infra/cluster-remote");
                assert!(
                    trouble.seen.contains("--allow-remote") && trouble.seen.contains("https://"),
                    "{trouble}"
                );
            }
            let flags = Flags {
                allow_remote: true,
                ..context(name)
            };
            assert_eq!(chosen(Kubernetes::default(), flags).unwrap().context, name);
        }
    }

    #[test]
    fn the_command_line_goes_before_the_file() {
        let file = Kubernetes {
            context: Some("minikube".into()),
            provider: Some(Provider::Minikube),
            ..Kubernetes::default()
        };
        assert_eq!(chosen(file.clone(), Flags::default()).unwrap().context, "minikube");
        let flags = Flags {
            provider: Some(Provider::Existing),
            ..context("forwarded")
        };
        let seen = chosen(file, flags).unwrap();
        assert_eq!(
            (seen.context.as_str(), seen.provider),
            ("forwarded", Provider::Existing)
        );
        let by_cluster = Flags {
            cluster: Some("work".into()),
            ..Flags::default()
        };
        assert_eq!(chosen(Kubernetes::default(), by_cluster).unwrap().context, "kind-work");
    }

    #[test]
    fn what_is_missing_is_told_with_the_way_out() {
        let trouble = chosen(Kubernetes::default(), context("gone")).unwrap_err();
        assert_eq!(trouble.code, "infra/cluster-config");
        assert!(trouble.seen.contains("kind-work, minikube"), "{trouble}");
        let folder = tempfile::tempdir().unwrap();
        let of = |kubeconfig: PathBuf| {
            let flags = Flags {
                kubeconfig: Some(kubeconfig),
                ..Flags::default()
            };
            choose(&Kubernetes::default(), &flags).unwrap_err()
        };
        let none = of(folder.path().join("none"));
        assert!(
            none.seen.contains("--create") && none.seen.contains("No such file"),
            "{none}"
        );
        let empty = of(kubeconfig(folder.path(), &[]));
        assert!(empty.seen.contains("--context"), "{empty}");
        let text = folder.path().join("text");
        std::fs::write(&text, "contexts: 7").unwrap();
        assert_eq!(of(text).code, "infra/cluster-config");
    }

    #[test]
    fn a_cluster_to_be_made_has_a_name_that_says_so() {
        let flags = Flags {
            create: true,
            ..Flags::default()
        };
        let settings = Kubernetes {
            node_image: Some("node:1".into()),
            ..Kubernetes::default()
        };
        let made = choose(&settings, &flags).unwrap();
        assert!(made.created && made.provider == Provider::Kind && made.node_image.as_deref() == Some("node:1"));
        assert_eq!(made.context, format!("kind-{}", made.name));
        // The longest container name of kind is a host name.
        assert!(made.name.len() + "-external-load-balancer".len() <= 63, "{}", made.name);
        let age = SystemTime::now().duration_since(made_at(&made.name).unwrap()).unwrap();
        assert!(age < Duration::from_secs(60), "{age:?}");
        assert_ne!(choose(&settings, &flags).unwrap().name, made.name);
        for flags in [
            context("kind-work"),
            Flags {
                provider: Some(Provider::Minikube),
                ..Flags::default()
            },
        ] {
            let trouble = choose(&settings, &Flags { create: true, ..flags }).unwrap_err();
            assert_eq!(trouble.code, "infra/cluster-config");
        }
    }

    #[tokio::test]
    async fn clusters_of_others_are_never_removed() {
        for name in [
            "work",
            "trialnet",
            "trialnet-run-",
            "trialnet-run-mine",
            "trialnet-run-12345678",
            "trialnet-run-zz-00000000",
        ] {
            assert_eq!(made_at(name), None, "{name}");
            assert!(
                delete_created(name).await.unwrap_err().seen.contains("not made"),
                "{name}"
            );
        }
    }

    #[tokio::test]
    async fn an_api_server_that_is_not_there_is_told_within_seconds() {
        let folder = tempfile::tempdir().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let silent = listener.local_addr().unwrap();
        let closed = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        for (address, limit, words) in [
            (closed, Duration::from_secs(5), "onnection refused"),
            (silent, Duration::from_millis(300), "no answer within"),
        ] {
            let path = kubeconfig(folder.path(), &[("here", &format!("http://{address}"))]);
            let client = connect(Some(&path), "here").await.unwrap();
            let trouble = answers(&client, limit).await.unwrap_err();
            assert_eq!(trouble.code, "infra/cluster-unreachable");
            assert!(trouble.seen.contains(words), "{trouble}");
        }
    }

    #[test]
    fn causes_are_told_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer: {0}")]
        struct Repeats(#[source] std::io::Error);
        #[derive(Debug, thiserror::Error)]
        #[error("plain")]
        struct Plain(#[source] std::io::Error);

        let cause = || std::io::Error::other("the disk is full");
        assert_eq!(causes(&Repeats(cause())), "outer: the disk is full");
        assert_eq!(causes(&Plain(cause())), "plain: the disk is full");
        assert_eq!(causes(&cause()), "the disk is full");
    }
}
