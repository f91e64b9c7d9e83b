//! The StatefulSet of a node and the pod in it.

use std::path::PathBuf;

use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec};
use k8s_openapi::api::core::v1::{
    Affinity, Capabilities, ConfigMapVolumeSource, Container, ContainerPort, EmptyDirVolumeSource, KeyToPath,
    LocalObjectReference, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PersistentVolumeClaim,
    PersistentVolumeClaimSpec, PodAffinityTerm, PodAntiAffinity, PodSecurityContext, PodSpec, PodTemplateSpec,
    ResourceRequirements, SeccompProfile, SecretVolumeSource, SecurityContext, Volume, VolumeMount,
    VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement, ObjectMeta};

use super::files::{Mounted, spec_file};
use super::{
    Image, NODE, Options, REQUESTS, STORAGE, VOTING, copy_name, image_of, in_pod, labels, node_label, node_meta,
    port_name, ports, quantities, quantity, requests,
};
use crate::backend::kubernetes::machines::HOSTNAME;
use crate::backend::{Addresses, Component, NodeSpec, Trouble};
use crate::model::{MEMORY_STORAGE, Persistence, PullPolicy};

/// The init container that brings trialnet into images that are not its own.
pub(super) const INSTALL: &str = "install";
/// Where it puts it.
const INSTALL_TO: &str = "trialnet/install";
/// Where trialnet is.
const BIN: &str = "trialnet/bin";
/// What the supervisors are told.
pub(super) const SPEC: &str = "trialnet/spec";
/// The files of the node that are no secrets.
pub(super) const FILES: &str = "trialnet/files";
/// Its keys.
pub(super) const SECRETS: &str = "trialnet/secrets";
/// What supervisors keep.
pub(super) const STATE: &str = "trialnet/state";
/// Where the node's own volumes are.
const DATA: &str = "data";

/// Who runs everything, and the group to which the volumes belong.
const USER: i64 = 1000;
/// How long the pod has between SIGTERM and SIGKILL, in seconds. Faults that stop a node gracefully do not go through the pod.
const GRACE: i64 = 2;
/// Keys are for the volumes' group alone.
const SECRET_MODE: i32 = 0o440;

/// Where a volume of the node is, as its containers see it.
pub(in crate::backend::kubernetes) fn volume_path(volume: &str) -> PathBuf {
    in_pod(&[DATA, volume])
}

pub(super) fn stateful_set(
    spec: &NodeSpec,
    addresses: &Addresses,
    mounted: &Mounted,
    options: &Options,
) -> Result<StatefulSet, Trouble> {
    let claimed = options.persistence == Persistence::Volume && !spec.volumes.is_empty();
    Ok(StatefulSet {
        metadata: node_meta(spec, options),
        spec: Some(StatefulSetSpec {
            replicas: Some(1),
            pod_management_policy: Some("Parallel".into()),
            service_name: Some(spec.name.clone()),
            selector: LabelSelector {
                match_labels: Some(node_label(spec)),
                ..LabelSelector::default()
            },
            template: PodTemplateSpec {
                metadata: Some(pod_meta(spec, options)),
                spec: Some(pod(spec, addresses, mounted, options)?),
            },
            volume_claim_templates: claimed.then(|| spec.volumes.iter().map(|volume| claim(volume, options)).collect()),
            ..StatefulSetSpec::default()
        }),
        ..StatefulSet::default()
    })
}

fn pod_meta(spec: &NodeSpec, options: &Options) -> ObjectMeta {
    let mut labels = labels(options);
    labels.extend(node_label(spec));
    if options.voting.contains(&spec.name) {
        labels.insert(VOTING.to_owned(), "true".to_owned());
    }
    ObjectMeta {
        labels: Some(labels),
        ..ObjectMeta::default()
    }
}

fn pod(spec: &NodeSpec, addresses: &Addresses, mounted: &Mounted, options: &Options) -> Result<PodSpec, Trouble> {
    let containers = (spec.components.iter())
        .map(|component| container(spec, component, addresses, mounted, options))
        .collect::<Result<Vec<_>, _>>()?;
    let foreign = (containers.iter()).any(|container| container.image.as_ref() != Some(&options.own_image.name));
    let common = restricted(options);
    Ok(PodSpec {
        containers,
        affinity: if options.alone.contains(&spec.name) {
            Some(alone(options))
        } else {
            common.affinity
        },
        init_containers: foreign.then(|| vec![install(options)]),
        volumes: Some(volumes(spec, mounted, options, foreign)),
        ..common
    })
}

/// Not on a machine on which another node of the network is; the scheduler puts none there later either.
fn alone(options: &Options) -> Affinity {
    let term = PodAffinityTerm {
        label_selector: Some(LabelSelector {
            match_expressions: Some(vec![LabelSelectorRequirement {
                key: NODE.to_owned(),
                operator: "Exists".to_owned(),
                values: None,
            }]),
            ..LabelSelector::default()
        }),
        topology_key: HOSTNAME.to_owned(),
        ..PodAffinityTerm::default()
    };
    Affinity {
        node_affinity: kept(options, "In"),
        pod_anti_affinity: Some(PodAntiAffinity {
            required_during_scheduling_ignored_during_execution: Some(vec![term]),
            ..PodAntiAffinity::default()
        }),
        ..Affinity::default()
    }
}

/// On one of the machines that are kept for nodes alone (`In`), or on another (`NotIn`); `None` where none are.
fn kept(options: &Options, operator: &str) -> Option<NodeAffinity> {
    let one = NodeSelectorRequirement {
        key: HOSTNAME.to_owned(),
        operator: operator.to_owned(),
        values: Some(options.kept.clone()),
    };
    (!options.kept.is_empty()).then(|| NodeAffinity {
        required_during_scheduling_ignored_during_execution: Some(NodeSelector {
            node_selector_terms: vec![NodeSelectorTerm {
                match_expressions: Some(vec![one]),
                ..NodeSelectorTerm::default()
            }],
        }),
        ..NodeAffinity::default()
    })
}

/// What all pods have in common.
pub(super) fn restricted(options: &Options) -> PodSpec {
    let secrets = options.settings.pull_secrets.iter();
    let secrets: Vec<_> = secrets
        .map(|secret| LocalObjectReference {
            name: copy_name(secret),
        })
        .collect();
    let elsewhere = |kept| Affinity {
        node_affinity: Some(kept),
        ..Affinity::default()
    };
    PodSpec {
        affinity: kept(options, "NotIn").map(elsewhere),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        image_pull_secrets: Some(secrets).filter(|secrets| !secrets.is_empty()),
        security_context: Some(PodSecurityContext {
            fs_group: Some(USER),
            fs_group_change_policy: Some("OnRootMismatch".into()),
            run_as_group: Some(USER),
            run_as_non_root: Some(true),
            run_as_user: Some(USER),
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".into(),
                ..SeccompProfile::default()
            }),
            ..PodSecurityContext::default()
        }),
        termination_grace_period_seconds: Some(GRACE),
        ..PodSpec::default()
    }
}

/// What a container asks for that nobody gave anything.
pub(super) fn least() -> ResourceRequirements {
    ResourceRequirements {
        requests: Some(quantities([
            ("cpu", REQUESTS.0.to_owned()),
            ("memory", REQUESTS.1.to_owned()),
        ])),
        ..ResourceRequirements::default()
    }
}

/// Copies trialnet to where the other containers find it.
fn install(options: &Options) -> Container {
    let folder = in_pod(&[INSTALL_TO]).display().to_string();
    let command = options.own.iter().cloned();
    Container {
        name: INSTALL.into(),
        command: Some(command.chain(["supervise-install".into(), folder]).collect()),
        resources: Some(least()),
        volume_mounts: Some(vec![mount("trialnet-bin", INSTALL_TO)]),
        ..base(&options.own_image, None)
    }
}

fn container(
    spec: &NodeSpec,
    component: &Component,
    addresses: &Addresses,
    mounted: &Mounted,
    options: &Options,
) -> Result<Container, Trouble> {
    let image = image_of(spec, component, options)?;
    let told = in_pod(&[SPEC, &spec_file(&component.name)]).display().to_string();
    let command = options.own.iter().cloned();
    let mut mounts = vec![read_only("trialnet-spec", SPEC), mount("trialnet-state", STATE)];
    if image.name != options.own_image.name {
        mounts.push(read_only("trialnet-bin", BIN));
    }
    if !mounted.files.is_empty() {
        mounts.push(read_only("trialnet-files", FILES));
    }
    if !mounted.secrets.is_empty() {
        mounts.push(read_only("trialnet-secrets", SECRETS));
    }
    let data = spec.volumes.iter();
    mounts.extend(data.map(|volume| mount(volume, &format!("{DATA}/{volume}"))));
    let port = |(name, number): (&str, u16)| ContainerPort {
        name: Some(port_name(name)),
        container_port: i32::from(number),
        protocol: Some("TCP".into()),
        ..ContainerPort::default()
    };
    let ports: Vec<_> = ports(spec, component, addresses).map(port).collect();
    Ok(Container {
        name: component.name.clone(),
        command: Some(command.chain(["supervise".into(), "--spec".into(), told]).collect()),
        ports: Some(ports).filter(|ports| !ports.is_empty()),
        resources: Some(resources(spec, component)?),
        volume_mounts: Some(mounts),
        ..base(image, component.user)
    })
}

/// What all containers have in common.
pub(super) fn base(image: &Image, user: Option<u32>) -> Container {
    Container {
        image: Some(image.name.clone()),
        image_pull_policy: Some(
            match image.pull {
                PullPolicy::Always => "Always",
                PullPolicy::IfNotPresent => "IfNotPresent",
                PullPolicy::Never => "Never",
            }
            .to_owned(),
        ),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            capabilities: Some(Capabilities {
                drop: Some(vec!["ALL".into()]),
                ..Capabilities::default()
            }),
            read_only_root_filesystem: Some(false),
            run_as_user: user.map(i64::from),
            ..SecurityContext::default()
        }),
        // The reason of a crash is then in the pod's status, for whoever looks at it with other tools.
        termination_message_policy: Some("FallbackToLogsOnError".into()),
        ..Container::default()
    }
}

fn resources(spec: &NodeSpec, component: &Component) -> Result<ResourceRequirements, Trouble> {
    let given = &component.resources;
    let (cpu, memory) = requests(spec, component)?;
    let request = |given: &Option<String>, reckoned: String| given.clone().unwrap_or(reckoned);
    let limits: Vec<_> = [("cpu", &given.cpu_limit), ("memory", &given.memory_limit)]
        .into_iter()
        .filter_map(|(name, limit)| Some((name.to_owned(), Quantity(limit.clone()?))))
        .collect();
    Ok(ResourceRequirements {
        requests: Some(quantities([
            ("cpu", request(&given.cpu, quantity::cpu(cpu))),
            ("memory", request(&given.memory, quantity::bytes(memory))),
        ])),
        limits: (!limits.is_empty()).then(|| limits.into_iter().collect()),
        ..ResourceRequirements::default()
    })
}

fn volumes(spec: &NodeSpec, mounted: &Mounted, options: &Options, foreign: bool) -> Vec<Volume> {
    let items = |keys: &mut dyn Iterator<Item = &String>| {
        let item = |key: &String| KeyToPath {
            key: key.clone(),
            path: key.clone(),
            mode: None,
        };
        Some(keys.map(item).collect())
    };
    let config_map = |name: &str, keys: &mut dyn Iterator<Item = &String>| Volume {
        name: name.to_owned(),
        config_map: Some(ConfigMapVolumeSource {
            name: spec.name.clone(),
            items: items(keys),
            ..ConfigMapVolumeSource::default()
        }),
        ..Volume::default()
    };
    let mut volumes = vec![
        config_map("trialnet-spec", &mut mounted.specs.keys()),
        empty("trialnet-state"),
    ];
    if foreign {
        volumes.push(empty("trialnet-bin"));
    }
    if !mounted.files.is_empty() {
        volumes.push(config_map("trialnet-files", &mut mounted.files.keys()));
    }
    if !mounted.secrets.is_empty() {
        volumes.push(Volume {
            name: "trialnet-secrets".into(),
            secret: Some(SecretVolumeSource {
                secret_name: Some(spec.name.clone()),
                default_mode: Some(SECRET_MODE),
                items: items(&mut mounted.secrets.keys()),
                ..SecretVolumeSource::default()
            }),
            ..Volume::default()
        });
    }
    match options.persistence {
        // Claims of the StatefulSet.
        Persistence::Volume => {}
        Persistence::Memory => volumes.extend(spec.volumes.iter().map(|volume| of_memory(volume, options))),
        Persistence::Ephemeral => volumes.extend(spec.volumes.iter().map(|volume| empty(volume))),
    }
    volumes
}

pub(super) fn empty(name: &str) -> Volume {
    Volume {
        name: name.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource::default()),
        ..Volume::default()
    }
}

fn of_memory(name: &str, options: &Options) -> Volume {
    let size = options.settings.storage.as_deref().unwrap_or(MEMORY_STORAGE);
    Volume {
        empty_dir: Some(EmptyDirVolumeSource {
            medium: Some("Memory".to_owned()),
            size_limit: Some(Quantity(size.to_owned())),
        }),
        ..empty(name)
    }
}

pub(super) fn mount(volume: &str, at: &str) -> VolumeMount {
    VolumeMount {
        name: volume.to_owned(),
        mount_path: in_pod(&[at]).display().to_string(),
        ..VolumeMount::default()
    }
}

pub(super) fn read_only(volume: &str, at: &str) -> VolumeMount {
    VolumeMount {
        read_only: Some(true),
        ..mount(volume, at)
    }
}

pub(super) fn claim(volume: &str, options: &Options) -> PersistentVolumeClaim {
    let size = options.settings.storage.as_deref().unwrap_or(STORAGE);
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(volume.to_owned()),
            labels: Some(labels(options)),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".into()]),
            resources: Some(VolumeResourceRequirements {
                requests: Some(quantities([("storage", size.to_owned())])),
                ..VolumeResourceRequirements::default()
            }),
            storage_class_name: options.settings.storage_class.clone(),
            ..PersistentVolumeClaimSpec::default()
        }),
        ..PersistentVolumeClaim::default()
    }
}
