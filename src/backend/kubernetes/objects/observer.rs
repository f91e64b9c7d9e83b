//! The observer beside the nodes: a StatefulSet of one pod that runs trialnet's own program, and what it is told.
//!
//! It is no node: it has no label of one, no Service, no claim, and no place in the disruption budget. What it observed is in an emptyDir, which
//! outlives its container and goes with its pod.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec};
use k8s_openapi::api::core::v1::{
    ConfigMap, ConfigMapVolumeSource, Container, EmptyDirVolumeSource, PodSpec, PodTemplateSpec, Volume,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

use super::{Object, Options, in_pod, labels, meta, pod};
use crate::agent::{OBSERVE, node_trouble};
use crate::backend::{Addresses, Observer, ObserverFile, Trouble};

/// The name of its StatefulSet and its ConfigMap.
pub const NAME: &str = "trialnet-observer";
/// Where it listens, at 127.0.0.1 of its pod: where the supervisor of a node's first component does.
pub const PORT: u16 = super::CONTROL;
/// The label that its pod is found by.
const OBSERVER: &str = "trialnet.dev/observer";
/// Its only container.
const CONTAINER: &str = "observer";
/// What it is told.
const FILE: &str = "observer.json";
/// The most that its records may take until they are fetched, a little above what it allows itself.
const SPOOL: &str = "320Mi";

/// What the observer is told: it reaches each node by the name of its Service.
///
/// # Errors
/// When a target's port was not reserved.
pub fn file(observer: &Observer, addresses: &Addresses) -> Result<ObserverFile, Trouble> {
    let place = |(node, port): &(String, String)| {
        let ports = addresses.nodes.get(node).map(|reserved| &reserved.ports);
        let number = ports.and_then(|ports| ports.get(port)).ok_or_else(|| {
            let seen = format!("`{port}` was not reserved");
            node_trouble("infra/render", node, "a port of the node that can be observed", seen)
        })?;
        Ok((node.clone(), format!("{node}:{number}")))
    };
    Ok(ObserverFile {
        listen: PORT,
        spool: in_pod(&[pod::STATE, CONTAINER]),
        targets: observer.targets.iter().map(place).collect::<Result<_, Trouble>>()?,
        settings: observer.settings.clone(),
    })
}

/// The objects of an observer, in the order of applying.
///
/// # Errors
/// As [`file()`].
pub fn objects(observer: &Observer, addresses: &Addresses, options: &Options) -> Result<Vec<Object>, Trouble> {
    let told = serde_json::to_string_pretty(&file(observer, addresses)?).expect("a file has only text keys");
    let map = ConfigMap {
        metadata: meta(NAME, options),
        data: Some(BTreeMap::from([(FILE.to_owned(), told)])),
        ..ConfigMap::default()
    };
    Ok(vec![Object::ConfigMap(map), Object::StatefulSet(stateful_set(options))])
}

fn stateful_set(options: &Options) -> StatefulSet {
    let label = BTreeMap::from([(OBSERVER.to_owned(), "true".to_owned())]);
    let mut metadata = labels(options);
    metadata.extend(label.clone());
    StatefulSet {
        metadata: meta(NAME, options),
        spec: Some(StatefulSetSpec {
            replicas: Some(1),
            pod_management_policy: Some("Parallel".into()),
            service_name: Some(NAME.into()),
            selector: LabelSelector {
                match_labels: Some(label),
                ..LabelSelector::default()
            },
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: Some(metadata),
                    ..ObjectMeta::default()
                }),
                spec: Some(PodSpec {
                    containers: vec![container(options)],
                    volumes: Some(volumes()),
                    ..pod::restricted(options)
                }),
            },
            ..StatefulSetSpec::default()
        }),
        ..StatefulSet::default()
    }
}

fn container(options: &Options) -> Container {
    let told = in_pod(&[pod::SPEC, FILE]).display().to_string();
    let command = options.own.iter().cloned();
    Container {
        name: CONTAINER.into(),
        command: Some(command.chain(OBSERVE.map(str::to_owned)).chain([told]).collect()),
        resources: Some(pod::least()),
        volume_mounts: Some(vec![
            pod::read_only("trialnet-spec", pod::SPEC),
            pod::mount("trialnet-state", pod::STATE),
        ]),
        ..pod::base(&options.own_image, None)
    }
}

fn volumes() -> Vec<Volume> {
    vec![
        Volume {
            name: "trialnet-spec".into(),
            config_map: Some(ConfigMapVolumeSource {
                name: NAME.into(),
                ..ConfigMapVolumeSource::default()
            }),
            ..Volume::default()
        },
        Volume {
            empty_dir: Some(EmptyDirVolumeSource {
                size_limit: Some(Quantity(SPOOL.into())),
                ..EmptyDirVolumeSource::default()
            }),
            ..pod::empty("trialnet-state")
        },
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::tests::{node, options};
    use super::super::{NODE, VOTING, addresses, control_port, pod_name};
    use super::*;
    use crate::backend::{Port, Wanted};

    fn reserved() -> Addresses {
        let wanted = Wanted {
            node: "validator-0".into(),
            ports: vec![Port {
                name: "rpc",
                number: 26657,
            }],
            volumes: Vec::new(),
        };
        addresses(&[wanted], &[]).unwrap()
    }

    fn observer(port: &str) -> Observer {
        Observer {
            targets: vec![("validator-0".into(), port.into())],
            settings: json!({ "interval": 100 }),
        }
    }

    #[test]
    fn the_observer_is_a_restricted_pod_that_is_no_node() {
        let options = options(&[node("validator-0", Vec::new())]);
        let objects = objects(&observer("rpc"), &reserved(), &options).unwrap();
        let [map, set] = objects.as_slice() else {
            panic!("{objects:?}");
        };
        let (map, set) = (map.value(), set.value());
        let told: ObserverFile = serde_json::from_str(map["data"][FILE].as_str().unwrap()).unwrap();
        assert_eq!(told.targets["validator-0"], "validator-0:26657");
        assert_eq!(
            (told.listen, &told.settings),
            (control_port(0), &json!({ "interval": 100 }))
        );
        let template = &set["spec"]["template"];
        for label in [NODE, VOTING] {
            assert!(template["metadata"]["labels"][label].is_null(), "{label}");
        }
        assert_eq!(
            set["spec"]["selector"]["matchLabels"][OBSERVER],
            template["metadata"]["labels"][OBSERVER]
        );
        let spec = &template["spec"];
        assert_eq!(spec["automountServiceAccountToken"], false);
        assert_eq!(spec["securityContext"]["runAsNonRoot"], true);
        assert!(spec["initContainers"].is_null(), "the image has trialnet");
        let container = &spec["containers"][0];
        let command: Vec<&str> = container["command"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(Value::as_str)
            .collect();
        assert_eq!(
            &command[command.len() - 3..],
            ["observe-pod", "--config", "/trialnet/spec/observer.json"]
        );
        assert!(
            told.spool
                .starts_with(container["volumeMounts"][1]["mountPath"].as_str().unwrap())
        );
        assert_eq!(pod_name(NAME), "trialnet-observer-0");
    }

    #[test]
    fn a_port_that_nobody_reserved_is_refused() {
        let trouble = file(&observer("grpc"), &reserved()).unwrap_err();
        assert_eq!(
            (trouble.code.as_str(), trouble.node.as_deref()),
            ("infra/render", Some("validator-0"))
        );
    }
}
