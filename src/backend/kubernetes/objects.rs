//! What a run consists of in a cluster, as typed objects. Nothing here talks to a cluster: the same specs give the same bytes.
//!
//! Each node is a StatefulSet of one pod, a Service, a ConfigMap and, if it has keys, a Secret. All nodes listen at `0.0.0.0` at the
//! chain's own ports; a node reaches another one at a loopback address of its own pod, where its supervisor has a proxy that dials the
//! other node's Service.

pub mod images;
pub mod job;
pub mod observer;
pub mod quantity;

mod files;
pub(super) mod pod;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use k8s_openapi::ByteString;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{
    ConfigMap, LimitRange, LimitRangeItem, LimitRangeSpec, Namespace, ResourceQuota, ResourceQuotaSpec, Secret,
    Service, ServicePort, ServiceSpec,
};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::core::ApiResource;

use super::credentials::{self, Credentials};
use crate::agent::{node_trouble, trouble};
use crate::backend::{Addresses, Component, LinkId, LinkShape, NodeAddresses, NodeSpec, Program, Trouble, Wanted};
use crate::model::{Kubernetes, Ms, NodeName, Persistence, PullPolicy, PullSecret};

/// The field manager of everything that is applied.
pub const MANAGER: &str = "trialnet";
/// The label that every object carries, with the value [`MANAGER`].
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// The label with the run's id.
pub const RUN: &str = "trialnet.dev/run";
/// The label with the scenario's name.
pub const SCENARIO: &str = "trialnet.dev/scenario";
/// The label with the node's name, on all that belongs to one node.
pub const NODE: &str = "trialnet.dev/node";
/// The label, with the value `true`, of the pods that the disruption budget counts.
pub const VOTING: &str = "trialnet.dev/voting";
/// The annotation of a namespace that says who runs it; also a label, of the user alone.
pub const OWNER: &str = "trialnet.dev/owner";
/// The annotation of a namespace with the moment from which it may be removed, RFC 3339 in UTC.
pub const EXPIRES: &str = "trialnet.dev/expires";

/// The first of the ports at which the supervisors of a pod listen.
const CONTROL: u16 = 20_000;
/// Added to a port's number where a link to it is reached, so that the proxy is not in the way of a node that listens at `0.0.0.0`.
const LINK_PORT: u16 = 10_000;
/// What a component asks for that says nothing itself: (cpu, memory). So little that ten networks find room on a machine of two processors,
/// half of which kind's own pods ask for; a request is a share, no bound.
pub(crate) const REQUESTS: (&str, &str) = ("20m", "64Mi");
/// The size of a volume when nothing is said.
const STORAGE: &str = "1Gi";

/// What the objects of a run depend on, besides its nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The id of the run.
    pub run: String,
    /// The scenario's name.
    pub scenario: String,
    /// Who runs it, for people; `None`: the namespace does not say.
    pub owner: Option<String>,
    /// The namespace; see [`namespace_name`].
    pub namespace: String,
    /// What the file says of the backend.
    pub settings: Kubernetes,
    /// Whether volumes are claims, which outlive the pod, or go with it.
    pub persistence: Persistence,
    /// How long faults stay without a renewal.
    pub lease: Ms,
    /// The command that runs trialnet itself in any container, up to its arguments.
    pub own: Vec<String>,
    /// Trialnet's own image.
    pub own_image: Image,
    /// The image of each component that is not trialnet itself.
    pub images: BTreeMap<(NodeName, String), Image>,
    /// What the Secrets hold that the settings name as `pull_secrets`; where one is not read (in `render`), its copy has a stand-in.
    pub credentials: Credentials,
    /// The nodes whose pods the disruption budget counts.
    pub voting: Vec<NodeName>,
    /// How many of those have to stay; `None`: no budget.
    pub min_available: Option<u32>,
    /// The nodes that have a machine on which no other node of the network is.
    pub alone: BTreeSet<NodeName>,
    /// The machines that are kept for these, by the label `kubernetes.io/hostname`; empty: not known yet.
    pub kept: Vec<String>,
    /// What links suffer in new pods until their supervisors are told.
    pub shapes: Vec<LinkShape>,
    /// When the namespace may be removed, RFC 3339 in UTC; `None`: never without being asked.
    pub expires: Option<String>,
}

/// An image, and the program in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// As a pod names it.
    pub name: String,
    /// The program's path in the image, or its name on the image's PATH; `None`: trialnet itself.
    pub program: Option<String>,
    /// When it is pulled.
    pub pull: PullPolicy,
}

/// An object of the cluster.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "each is the Kubernetes kind of that name")]
#[expect(clippy::large_enum_variant, reason = "a run has a few hundred of them")]
pub enum Object {
    Namespace(Namespace),
    ResourceQuota(ResourceQuota),
    LimitRange(LimitRange),
    PodDisruptionBudget(PodDisruptionBudget),
    ConfigMap(ConfigMap),
    Secret(Secret),
    Service(Service),
    StatefulSet(StatefulSet),
}

/// The same expression for whatever kind it is.
macro_rules! each {
    ($object:expr, $inner:ident => $value:expr) => {
        match $object {
            Object::Namespace($inner) => $value,
            Object::ResourceQuota($inner) => $value,
            Object::LimitRange($inner) => $value,
            Object::PodDisruptionBudget($inner) => $value,
            Object::ConfigMap($inner) => $value,
            Object::Secret($inner) => $value,
            Object::Service($inner) => $value,
            Object::StatefulSet($inner) => $value,
        }
    };
}

impl Object {
    /// For example `StatefulSet`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        fn kind<K: k8s_openapi::Resource>(_: &K) -> &'static str {
            K::KIND
        }
        each!(self, object => kind(object))
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.metadata().name.as_deref().unwrap_or_default()
    }

    /// The namespace that it is in; `None` for a namespace itself.
    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        self.metadata().namespace.as_deref()
    }

    /// How the API calls its kind.
    #[must_use]
    pub fn resource(&self) -> ApiResource {
        fn resource<K: kube::Resource<DynamicType = ()>>(_: &K) -> ApiResource {
            ApiResource::erase::<K>(&())
        }
        each!(self, object => resource(object))
    }

    /// As the API takes it, `apiVersion` and `kind` included.
    ///
    /// # Panics
    /// Never: these types have only text keys.
    #[must_use]
    pub fn value(&self) -> serde_json::Value {
        each!(self, object => serde_json::to_value(object)).expect("an object has only text keys")
    }

    /// As a document of a YAML stream, its `---` included.
    ///
    /// # Errors
    /// When the object cannot be written as YAML, which would be a bug.
    pub fn yaml(&self) -> Result<String, Trouble> {
        let options = serde_saphyr::ser_options! {
            // No line is folded: a program may give each a meaning.
            folded_wrap_chars: 1 << 24,
        };
        let text = serde_saphyr::to_string_with_options(&self.value(), options)
            .map_err(|error| trouble("infra/internal", "an object as YAML", error.to_string()))?;
        Ok(format!("---\n{text}"))
    }

    /// The same object; of a Secret, with the word `REDACTED` in place of each value, or what the API server takes in its place.
    #[must_use]
    pub fn redacted(mut self) -> Self {
        if let Self::Secret(Secret {
            data: Some(data),
            type_,
            ..
        }) = &mut self
        {
            let credentials = type_.as_deref() == Some(credentials::TYPE);
            let instead = if credentials {
                credentials::STAND_IN
            } else {
                b"REDACTED"
            };
            for value in data.values_mut() {
                *value = ByteString(instead.to_vec());
            }
        }
        self
    }

    fn metadata(&self) -> &ObjectMeta {
        each!(self, object => &object.metadata)
    }
}

/// The name of a run's namespace: `trialnet-<scenario>-<run>`, at most 63 characters.
#[must_use]
pub fn namespace_name(scenario: &str, run: &str) -> String {
    let run = label_value(&run.to_ascii_lowercase()).replace(['.', '_'], "-");
    let room = 63 - "trialnet--".len();
    let run = &run[..run.len().min(20)];
    let scenario: String = scenario.chars().take(room - run.len()).collect();
    let scenario = label_value(&scenario.to_ascii_lowercase()).replace(['.', '_'], "-");
    format!("trialnet-{scenario}-{run}").trim_end_matches('-').to_owned()
}

/// The name of a node's pod.
#[must_use]
pub fn pod_name(node: &str) -> String {
    format!("{node}-0")
}

/// Where the supervisor of a component listens, at 127.0.0.1 of the pod.
///
/// # Panics
/// With more than 45,000 components.
#[must_use]
pub fn control_port(component_index: usize) -> u16 {
    let index = u16::try_from(component_index).expect("a pod has few components");
    CONTROL + index
}

/// Where each node listens, and where it reaches the others.
///
/// # Errors
/// When a node listens at a port that one of its own links needs, or at one so high that a link to it has no port.
pub fn addresses(wanted: &[Wanted], links: &[LinkId]) -> Result<Addresses, Trouble> {
    let nodes = wanted.iter().map(|node| {
        let of = NodeAddresses {
            ip: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            ports: (node.ports.iter())
                .map(|port| (port.name.to_owned(), port.number))
                .collect(),
            volumes: (node.volumes.iter())
                .map(|volume| (volume.clone(), pod::volume_path(volume)))
                .collect(),
        };
        (node.node.clone(), of)
    });
    let nodes: BTreeMap<NodeName, NodeAddresses> = nodes.collect();
    let index: BTreeMap<&str, usize> = (wanted.iter().enumerate())
        .map(|(index, node)| (node.node.as_str(), index))
        .collect();
    let reserved = links.iter().map(|link| {
        let address = link_address(link, &index, &nodes)?;
        Ok((link.clone(), address))
    });
    let links = reserved.collect::<Result<_, Trouble>>()?;
    Ok(Addresses { nodes, links })
}

/// The loopback address of the dialling node's pod at which it reaches the other one.
fn link_address(
    link: &LinkId,
    index: &BTreeMap<&str, usize>,
    nodes: &BTreeMap<NodeName, NodeAddresses>,
) -> Result<SocketAddr, Trouble> {
    let LinkId { from, to, port } = link;
    let refused = |expected: &str, seen: String| Err(node_trouble("infra/render", from, expected, seen));
    let known = index
        .get(to.as_str())
        .zip(nodes.get(to).and_then(|to| to.ports.get(port)));
    let (Some((&at, &number)), Some(dialling)) = (known, nodes.get(from)) else {
        return refused(
            "links between the nodes of the plan, to one of their ports",
            format!("{from} -> {to} ({port})"),
        );
    };
    let Some(listen) = number.checked_add(LINK_PORT) else {
        return refused(
            "ports up to 55535 where links lead, since a link is reached 10000 above",
            format!("the port `{port}` of {to} is {number}"),
        );
    };
    if let Some((name, _)) = dialling.ports.iter().find(|(_, number)| **number == listen) {
        return refused(
            "ports of a node that are not 10000 above those that it dials",
            format!("its own port `{name}` is {listen}, where its link to {to} would be"),
        );
    }
    let third = u8::try_from(at / 250);
    let fourth = u8::try_from(1 + at % 250).expect("at most 250");
    match third {
        Ok(third) => Ok(SocketAddr::from(([127, 77, third, fourth], listen))),
        Err(_) => refused("at most 64000 nodes", format!("{} nodes", index.len())),
    }
}

/// The namespace of a run and what belongs to the whole of it, in the order of applying; [`quota`] comes after these.
#[must_use]
pub fn namespace(options: &Options) -> Vec<Object> {
    let metadata = ObjectMeta {
        name: Some(options.namespace.clone()),
        labels: Some({
            let mut labels = labels(options);
            labels.insert("pod-security.kubernetes.io/enforce".into(), "restricted".into());
            let user = options.owner.as_deref().and_then(|owner| owner.split('@').next());
            labels.extend(user.map(|user| (OWNER.into(), label_value(user))));
            labels
        }),
        annotations: Some(
            [(OWNER, &options.owner), (EXPIRES, &options.expires)]
                .into_iter()
                .filter_map(|(name, value)| Some((name.to_owned(), value.clone()?)))
                .collect(),
        )
        .filter(|annotations: &BTreeMap<_, _>| !annotations.is_empty()),
        ..ObjectMeta::default()
    };
    let mut objects = vec![
        Object::Namespace(Namespace {
            metadata,
            ..Namespace::default()
        }),
        // For pods that say nothing of what they need, so that the quota does not refuse them. No limits: they would be under the
        // requests of a node that asks for much.
        Object::LimitRange(LimitRange {
            metadata: meta("defaults", options),
            spec: Some(LimitRangeSpec {
                limits: vec![LimitRangeItem {
                    type_: "Container".into(),
                    default_request: Some(quantities([
                        ("cpu", REQUESTS.0.to_owned()),
                        ("memory", REQUESTS.1.to_owned()),
                    ])),
                    ..LimitRangeItem::default()
                }],
            }),
        }),
    ];
    if let Some(min) = options.min_available {
        objects.push(Object::PodDisruptionBudget(PodDisruptionBudget {
            metadata: meta("voting", options),
            spec: Some(PodDisruptionBudgetSpec {
                min_available: Some(IntOrString::Int(i32::try_from(min).unwrap_or(i32::MAX))),
                selector: Some(LabelSelector {
                    match_labels: Some(BTreeMap::from([(VOTING.to_owned(), "true".to_owned())])),
                    ..LabelSelector::default()
                }),
                ..PodDisruptionBudgetSpec::default()
            }),
            ..PodDisruptionBudget::default()
        }));
    }
    objects.extend(options.settings.pull_secrets.iter().map(|secret| copy(secret, options)));
    objects
}

/// The name of the copy of a Secret with registry credentials; no node is called so, for a node's name has no dots.
#[must_use]
pub fn copy_name(secret: &PullSecret) -> String {
    format!("pull.{}", secret.name)
}

/// The copies for another namespace than that of the run.
#[must_use]
pub fn copies(options: &Options, namespace: &str) -> Vec<Object> {
    let there = Options {
        namespace: namespace.to_owned(),
        ..options.clone()
    };
    let secrets = there.settings.pull_secrets.iter();
    secrets.map(|secret| copy(secret, &there)).collect()
}

fn copy(secret: &PullSecret, options: &Options) -> Object {
    let value = options.credentials.get(secret).cloned();
    let value = value.unwrap_or_else(|| ByteString(credentials::STAND_IN.to_vec()));
    Object::Secret(Secret {
        metadata: meta(&copy_name(secret), options),
        type_: Some(credentials::TYPE.to_owned()),
        data: Some(BTreeMap::from([(credentials::KEY.to_owned(), value)])),
        ..Secret::default()
    })
}

/// What the namespace may use: exactly what the nodes need, and one small pod more for a job or the observer. What the file says goes
/// before.
///
/// # Errors
/// When a node asks for something that is no quantity.
pub fn quota(specs: &[NodeSpec], options: &Options) -> Result<Object, Trouble> {
    let [mut cpu, mut memory] = [REQUESTS.0, REQUESTS.1].map(|spare| quantity::parse(spare).unwrap_or(0));
    for spec in specs {
        let mut sum = (0, 0);
        for component in &spec.components {
            let requests = requests(spec, component)?;
            sum = (sum.0 + requests.0, sum.1 + requests.1);
        }
        // The init container runs before the others, so that the greater of both counts.
        cpu += sum.0.max(quantity::parse(REQUESTS.0).unwrap_or(0));
        memory += sum.1.max(quantity::parse(REQUESTS.1).unwrap_or(0));
    }
    let claims: usize = match options.persistence {
        Persistence::Volume => specs.iter().map(|spec| spec.volumes.len()).sum(),
        Persistence::Memory | Persistence::Ephemeral => 0,
    };
    let size = options.settings.storage.as_deref().unwrap_or(STORAGE);
    let storage = quantity::parse(size).ok_or_else(|| no_quantity(None, "storage", size))?;
    let mut hard = quantities([
        ("pods", (specs.len() + 1).to_string()),
        ("requests.cpu", quantity::cpu(cpu)),
        ("requests.memory", quantity::bytes(memory)),
        ("persistentvolumeclaims", claims.to_string()),
        ("requests.storage", quantity::bytes(storage * claims as u128)),
    ]);
    for (name, value) in &options.settings.quota {
        hard.insert(name.clone(), Quantity(value.clone()));
    }
    Ok(Object::ResourceQuota(ResourceQuota {
        metadata: meta("plan", options),
        spec: Some(ResourceQuotaSpec {
            hard: Some(hard),
            ..ResourceQuotaSpec::default()
        }),
        ..ResourceQuota::default()
    }))
}

/// What the nodes are, node by node, each in the order of applying.
///
/// # Errors
/// When a spec cannot be a pod: names that are no DNS labels, root, files that are too much for one object, an image that is missing.
pub fn nodes(
    specs: &[NodeSpec],
    addresses: &Addresses,
    links: &[LinkId],
    options: &Options,
) -> Result<Vec<Object>, Trouble> {
    let mut objects = Vec::new();
    for spec in specs {
        check(spec, addresses)?;
        let mounted = files::Mounted::of(spec, addresses, links, options)?;
        let set = pod::stateful_set(spec, addresses, &mounted, options)?;
        let metadata = || node_meta(spec, options);
        objects.push(Object::ConfigMap(mounted.config_map(metadata())));
        objects.extend(mounted.secret(metadata()).map(Object::Secret));
        objects.extend(service(spec, addresses, metadata()).map(Object::Service));
        objects.push(Object::StatefulSet(set));
    }
    Ok(objects)
}

/// All objects of a run, in the order of applying.
///
/// # Errors
/// As [`quota`] and [`nodes`].
pub fn network(
    specs: &[NodeSpec],
    addresses: &Addresses,
    links: &[LinkId],
    options: &Options,
) -> Result<Vec<Object>, Trouble> {
    let mut objects = namespace(options);
    objects.push(quota(specs, options)?);
    objects.extend(nodes(specs, addresses, links, options)?);
    Ok(objects)
}

/// A stable address for a node. It leads to the pod also before the node answers, since nodes find each other by it.
fn service(spec: &NodeSpec, addresses: &Addresses, metadata: ObjectMeta) -> Option<Service> {
    let ports: BTreeMap<&str, u16> = (spec.components.iter())
        .flat_map(|component| ports(spec, component, addresses))
        .collect();
    // The API refuses a Service without ports; nobody dials such a node.
    if ports.is_empty() {
        return None;
    }
    let port = |(name, number): (&str, u16)| ServicePort {
        name: Some(port_name(name)),
        port: i32::from(number),
        protocol: Some("TCP".into()),
        ..ServicePort::default()
    };
    Some(Service {
        metadata,
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".into()),
            publish_not_ready_addresses: Some(true),
            selector: Some(node_label(spec)),
            ports: Some(ports.into_iter().map(port).collect()),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    })
}

/// The ports of a component by name.
fn ports<'a>(
    spec: &NodeSpec,
    component: &'a Component,
    addresses: &'a Addresses,
) -> impl Iterator<Item = (&'a str, u16)> {
    let numbers = addresses.nodes.get(&spec.name).map(|reserved| &reserved.ports);
    (component.ports.iter()).filter_map(move |name| Some((name.as_str(), *numbers?.get(name)?)))
}

/// What a component asks for, in thousandths: (cpu, memory). A limit that is lower than the usual request lowers that.
fn requests(spec: &NodeSpec, component: &Component) -> Result<(u128, u128), Trouble> {
    let of = |what: &str, given: &Option<String>, limit: &Option<String>, usual: &str| {
        let parsed = |text: &str| quantity::parse(text).ok_or_else(|| no_quantity(Some(&spec.name), what, text));
        match (given, limit) {
            (Some(given), _) => parsed(given),
            (None, Some(limit)) => Ok(parsed(limit)?.min(parsed(usual)?)),
            (None, None) => parsed(usual),
        }
    };
    let resources = &component.resources;
    Ok((
        of("cpu", &resources.cpu, &resources.cpu_limit, REQUESTS.0)?,
        of("memory", &resources.memory, &resources.memory_limit, REQUESTS.1)?,
    ))
}

fn no_quantity(node: Option<&str>, what: &str, seen: &str) -> Trouble {
    Trouble {
        node: node.map(str::to_owned),
        ..trouble(
            "infra/render",
            format!("{what} as Kubernetes writes quantities, for example 500m, 64Mi or 2"),
            format!("\"{seen}\""),
        )
    }
}

fn quantities<const N: usize>(of: [(&str, String); N]) -> BTreeMap<String, Quantity> {
    of.map(|(name, value)| (name.to_owned(), Quantity(value))).into()
}

/// What can be said of a spec before anything is made of it.
fn check(spec: &NodeSpec, addresses: &Addresses) -> Result<(), Trouble> {
    let name = &spec.name;
    let refused = |expected: &str, seen: String| Err(node_trouble("infra/render", name, expected, seen));
    // The pod's label `controller-revision-hash` is the name and eleven characters more.
    if !is_label(name, 52) {
        return refused("a node's name of at most 52 letters, digits and dashes", name.clone());
    }
    let Some(reserved) = addresses.nodes.get(name) else {
        return refused("addresses for the node", "none were reserved".into());
    };
    if spec.components.is_empty() {
        return refused("a node has a component", "none".into());
    }
    let mut names = BTreeSet::from([pod::INSTALL]);
    for component in &spec.components {
        if !is_label(&component.name, 63) || !names.insert(&component.name) {
            return refused(
                "components with names of their own, of letters, digits and dashes",
                component.name.clone(),
            );
        }
        if component.user == Some(0) {
            return refused(
                "a user who is not root: the namespace's pods are restricted",
                format!("{} runs as user 0", component.name),
            );
        }
        if let Some(port) = component.ports.iter().find(|port| !reserved.ports.contains_key(*port)) {
            return refused(
                "components listen at ports that were reserved",
                format!("{} lists `{port}`", component.name),
            );
        }
    }
    let control = CONTROL..CONTROL + 1000;
    if let Some((port, number)) = reserved.ports.iter().find(|(_, number)| control.contains(number)) {
        return refused(
            "ports outside 20000 to 20999, where the supervisors listen",
            format!("`{port}` is {number}"),
        );
    }
    if let Some(volume) = spec
        .volumes
        .iter()
        .find(|volume| !is_label(volume, 30) || volume.starts_with("trialnet"))
    {
        return refused(
            "volumes with names of letters, digits and dashes that do not begin with `trialnet`",
            volume.clone(),
        );
    }
    Ok(())
}

/// What every object of a run carries.
fn labels(options: &Options) -> BTreeMap<String, String> {
    BTreeMap::from([
        (MANAGED_BY.to_owned(), MANAGER.to_owned()),
        (RUN.to_owned(), label_value(&options.run)),
        (SCENARIO.to_owned(), label_value(&options.scenario)),
    ])
}

fn node_label(spec: &NodeSpec) -> BTreeMap<String, String> {
    BTreeMap::from([(NODE.to_owned(), spec.name.clone())])
}

fn meta(name: &str, options: &Options) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(options.namespace.clone()),
        labels: Some(labels(options)),
        ..ObjectMeta::default()
    }
}

fn node_meta(spec: &NodeSpec, options: &Options) -> ObjectMeta {
    let mut meta = meta(&spec.name, options);
    meta.labels.get_or_insert_default().extend(node_label(spec));
    meta
}

/// The image of a component.
fn image_of<'a>(spec: &NodeSpec, component: &Component, options: &'a Options) -> Result<&'a Image, Trouble> {
    let key = (spec.name.clone(), component.name.clone());
    match (options.images.get(&key), &component.program) {
        (Some(image), _) => Ok(image),
        (None, Program::Trialnet) => Ok(&options.own_image),
        (None, Program::Chain { .. } | Program::Found) => Err(node_trouble(
            "infra/render",
            &spec.name,
            format!("an image for the component {}", component.name),
            "none was chosen",
        )),
    }
}

/// A DNS label as RFC 1035 has it, which also Services take.
fn is_label(text: &str, longest: usize) -> bool {
    let word = |char: char| char.is_ascii_lowercase() || char.is_ascii_digit() || char == '-';
    text.len() <= longest
        && text.starts_with(|first: char| first.is_ascii_lowercase())
        && !text.ends_with('-')
        && text.chars().all(word)
}

/// A port's name as pods take it: at most 15 letters, digits and dashes.
fn port_name(name: &str) -> String {
    let word = |char: char| if char.is_ascii_alphanumeric() { char } else { '-' };
    let name: String = name.to_ascii_lowercase().chars().map(word).take(15).collect();
    name.trim_matches('-').to_owned()
}

/// The nearest text that a label's value may be: at most 63 letters, digits, dashes, underscores and dots, not one of the last three at
/// either end.
fn label_value(text: &str) -> String {
    let word = |char: char| {
        if char.is_ascii_alphanumeric() || "-_.".contains(char) {
            char
        } else {
            '-'
        }
    };
    let value: String = text.chars().map(word).collect();
    let value = value.trim_start_matches(['-', '_', '.']);
    value[..value.len().min(63)]
        .trim_end_matches(['-', '_', '.'])
        .to_owned()
}

/// Where volumes are, as the containers see them.
fn in_pod(parts: &[&str]) -> PathBuf {
    parts.iter().fold(PathBuf::from("/"), |path, part| path.join(part))
}

#[cfg(test)]
mod tests;
