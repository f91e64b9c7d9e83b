//! The pod of a job, and the claims that it fills before the node's own pod has them.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Container, EnvVar, PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodSpec, Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{Image, NODE, Options, in_pod, label_value, labels, meta, pod};
use crate::backend::{Job, NodeSpec, Program};

/// The label with a job's name. Its pod has no label of a node: it is none.
pub const JOB: &str = "trialnet.dev/job";

/// The container of a job's pod.
pub const CONTAINER: &str = "job";

/// The name of a job's pod, which is the value of its label too.
#[must_use]
pub fn pod_name(job: &str) -> String {
    let plain = label_value(&format!("job-{}", job.to_ascii_lowercase()));
    plain.replace(['.', '_'], "-")
}

/// A spec of one component that runs the job's program: what its image is found by.
#[must_use]
pub fn spec(job: &Job) -> NodeSpec {
    NodeSpec {
        name: job.node.clone().unwrap_or_else(|| CONTAINER.to_owned()),
        place: crate::backend::Place::default(),
        components: vec![crate::backend::Component {
            name: CONTAINER.to_owned(),
            program: job.program.clone(),
            version: String::new(),
            args: job.args.clone(),
            env: job.env.clone(),
            ports: Vec::new(),
            files: Vec::new(),
            user: None,
            resources: crate::model::Resources::default(),
        }],
        volumes: job.volumes.clone(),
        started: true,
    }
}

/// The claims of the job's node, as its StatefulSet will look for them: one that exists is taken as it is.
#[must_use]
pub fn claims(job: &Job, options: &Options) -> Vec<PersistentVolumeClaim> {
    let Some(node) = &job.node else { return Vec::new() };
    let claim = |volume: &String| {
        let mut claim = pod::claim(volume, options);
        claim.metadata.name = Some(claim_name(volume, node));
        claim.metadata.namespace = Some(options.namespace.clone());
        let labels = claim.metadata.labels.get_or_insert_default();
        labels.insert(NODE.to_owned(), node.clone());
        claim
    };
    job.volumes.iter().map(claim).collect()
}

/// A pod that runs the job's program once. Its image's program is started directly: nothing holds it down or swaps it.
#[must_use]
pub fn pod(job: &Job, image: &Image, options: &Options) -> Pod {
    let name = pod_name(&job.name);
    let mut labels = labels(options);
    labels.insert(JOB.to_owned(), name.clone());
    let home = job.volumes.first().map(|volume| pod::volume_path(volume));
    let home = home.unwrap_or_else(|| in_pod(&["tmp"])).display().to_string();
    let mut env = BTreeMap::from([("HOME".to_owned(), home.clone())]);
    env.extend(job.env.clone());
    let variable = |(name, value)| EnvVar {
        name,
        value: Some(value),
        value_from: None,
    };
    let command = match (&image.program, &job.program) {
        (Some(program), Program::Chain { .. } | Program::Found) => vec![program.clone()],
        (None, _) | (_, Program::Trialnet) => options.own.clone(),
    };
    let mount = |volume: &String| pod::mount(volume, &pod::volume_path(volume).display().to_string());
    let node = job.node.clone().unwrap_or_default();
    let volume = |volume: &String| Volume {
        name: volume.clone(),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: claim_name(volume, &node),
            read_only: None,
        }),
        ..Volume::default()
    };
    Pod {
        metadata: ObjectMeta {
            labels: Some(labels),
            ..meta(&name, options)
        },
        spec: Some(PodSpec {
            containers: vec![Container {
                name: CONTAINER.into(),
                command: Some(command),
                args: Some(job.args.clone()),
                env: Some(env.into_iter().map(variable).collect()),
                working_dir: Some(home),
                resources: Some(pod::least()),
                volume_mounts: Some(job.volumes.iter().map(mount).collect()),
                ..pod::base(image, job.user)
            }],
            restart_policy: Some("Never".into()),
            volumes: Some(job.volumes.iter().map(volume).collect()),
            ..pod::restricted(options)
        }),
        ..Pod::default()
    }
}

/// What a StatefulSet calls the claim of its first pod.
fn claim_name(volume: &str, node: &str) -> String {
    format!("{volume}-{node}-0")
}

#[cfg(test)]
mod tests {
    use super::super::tests::options;
    use super::*;
    use crate::model::{Ms, PullPolicy};

    #[test]
    fn a_job_is_a_restricted_pod_with_the_claims_that_the_node_will_have() {
        let job = Job {
            name: "init-validator-0".into(),
            program: Program::Chain {
                binary: Some("chaind".into()),
                image: None,
                program: "chaind".into(),
                hint: String::new(),
            },
            args: vec!["init".into()],
            env: BTreeMap::new(),
            user: None,
            limit: Ms::secs(5),
            node: Some("validator-0".into()),
            volumes: vec!["home".into()],
        };
        let image = Image {
            name: "trialnet.local/chaind:0".into(),
            program: Some("/bin/chaind".into()),
            pull: PullPolicy::Never,
        };
        let options = options(&[]);
        let pod = serde_json::to_value(pod(&job, &image, &options)).unwrap();
        assert_eq!(pod["metadata"]["name"], "job-init-validator-0");
        assert!(
            pod["metadata"]["labels"][NODE].is_null(),
            "it would be taken for the node"
        );
        let spec = &pod["spec"];
        assert_eq!(spec["restartPolicy"], "Never");
        assert_eq!(spec["securityContext"]["runAsNonRoot"], true);
        let container = &spec["containers"][0];
        assert_eq!(container["command"], serde_json::json!(["/bin/chaind"]));
        assert_eq!(container["volumeMounts"][0]["mountPath"], "/data/home");
        assert_eq!(container["securityContext"]["allowPrivilegeEscalation"], false);
        let claims = claims(&job, &options);
        assert_eq!(claims[0].metadata.name.as_deref(), Some("home-validator-0-0"));
        assert_eq!(
            spec["volumes"][0]["persistentVolumeClaim"]["claimName"],
            "home-validator-0-0"
        );
    }
}
