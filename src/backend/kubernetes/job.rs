//! Jobs: a chain's own program that runs to its end in a pod, before the network is applied.
//!
//! The pod has the claims that the node's pod will have, so that what the job leaves in them (a key) is there when the node starts. It is removed
//! when it has ended; what it printed is in the run folder.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::{ApiResource, DeleteParams, LogParams};
use serde::Serialize;
use tokio::time::Instant;

use super::api::Manifest;
use super::objects::job::{self as object, CONTAINER, JOB};
use super::objects::{self, Image};
use super::watch::{Pods, State, TAIL, Terminated, verdict};
use super::{Kubernetes, Shared, Site};
use crate::agent::trouble;
use crate::backend::{Job, JobOutput, Program, Trouble};
use crate::model::Ms;

/// How long a new namespace may be without what its controllers put there.
const NEW: Duration = Duration::from_secs(10);
/// Between two attempts to make a pod in a new namespace, and the longest time between two looks at one.
const AGAIN: Duration = Duration::from_millis(200);
/// How long the log of a pod that has ended may take.
const LOG: Duration = Duration::from_secs(10);

/// What the jobs of a run have in common.
#[derive(Default)]
pub(super) struct Jobs {
    /// What objects depend on, by program: its image is made and loaded once.
    prepared: tokio::sync::Mutex<BTreeMap<String, Arc<objects::Options>>>,
}

impl Kubernetes {
    pub(super) async fn do_run_job(&self, job: &Job) -> Result<JobOutput, Trouble> {
        let site = self.site().await?;
        if self.shared.options.persistence.is_lost(true) && !job.volumes.is_empty() {
            return Err(trouble(
                "infra/render",
                format!("a volume that keeps what the job {} leaves in it", job.name),
                "such a volume goes with the job's pod; use `persistence = \"volume\"`",
            ));
        }
        let options = self.shared.prepare(site, job).await?;
        let image = match &job.program {
            Program::Trialnet => options.own_image.clone(),
            Program::Chain { .. } | Program::Found => self.shared.image(&options, job)?,
        };
        let name = object::pod_name(&job.name);
        let namespace = Some(options.namespace.as_str());
        let done = async {
            // Before the pod: a watch begins with what is there.
            let pods = Pods::spawn(site.client.clone(), &options.namespace, Some(&format!("{JOB}={name}")));
            let claims: Vec<_> = object::claims(job, &options)
                .iter()
                .map(manifest::<PersistentVolumeClaim>)
                .collect();
            site.api.apply_manifests(&claims).await?;
            make(site, manifest::<Pod>(&object::pod(job, &image, &options))).await?;
            let ended = ended(&pods, job, &name).await?;
            self.shared.output(site, job, &name, &ended).await
        };
        let done = done.await;
        // Also one that still runs; what remains goes with the namespace.
        let params = DeleteParams::default().grace_period(0);
        if let Err(failure) = site.api.delete::<Pod>(namespace, &name, &params).await {
            tracing::debug!("{failure}");
        }
        done
    }
}

impl Shared {
    /// Makes the program's image and loads it, and makes the namespace; what was made before is as it was.
    async fn prepare(&self, site: &Site, job: &Job) -> Result<Arc<objects::Options>, Trouble> {
        let mut prepared = self.jobs.prepared.lock().await;
        let program = format!("{:?}", job.program);
        if let Some(options) = prepared.get(&program) {
            return Ok(Arc::clone(options));
        }
        let (mut options, _) = self.object_options(site, &[object::spec(job)], Vec::new()).await?;
        // The same program is another node's too.
        let images = std::mem::take(&mut options.images).into_iter();
        options.images = images
            .map(|((_, component), image)| ((String::new(), component), image))
            .collect();
        site.api.apply(&objects::namespace(&options)).await?;
        let options = Arc::new(options);
        prepared.insert(program, Arc::clone(&options));
        Ok(options)
    }

    fn image(&self, options: &objects::Options, job: &Job) -> Result<Image, Trouble> {
        let key = (String::new(), CONTAINER.to_owned());
        options.images.get(&key).cloned().ok_or_else(|| {
            trouble(
                "infra/render",
                format!("an image for the job {}", job.name),
                format!("none was chosen in {}", self.namespace),
            )
        })
    }

    /// What the job printed, which is kept in the run folder too; an error if it did not end well.
    async fn output(&self, site: &Site, job: &Job, pod: &str, ended: &Terminated) -> Result<JobOutput, Trouble> {
        let params = LogParams {
            container: Some(CONTAINER.to_owned()),
            ..LogParams::default()
        };
        let pods = kube::Api::<Pod>::namespaced(site.client.clone(), &self.namespace);
        let read = tokio::time::timeout(LOG, Box::pin(pods.logs(pod, &params))).await;
        let read = match read {
            Ok(Ok(text)) => Ok(text),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {}", Ms::from(LOG))),
        };
        if let Ok(text) = &read {
            let path = self.logs().join(format!("{pod}.out"));
            if let Err(error) = fs_err::tokio::write(&path, text).await {
                return Err(trouble("infra/run-folder", "the output of a job", error.to_string()));
            }
        }
        if ended.code != 0 {
            let words = read.unwrap_or_else(|why| format!("its log cannot be read: {why}"));
            let lines: Vec<&str> = words.lines().collect();
            let last = lines[lines.len().saturating_sub(TAIL)..].join("\n");
            return Err(trouble(
                "infra/job-failed",
                format!("the job {} done", job.name),
                format!("{}: {last}", ended.words()),
            ));
        }
        match read {
            Ok(text) => Ok(JobOutput {
                stdout: text.into_bytes(),
            }),
            Err(why) => Err(trouble("infra/io", format!("the output of the job {}", job.name), why)),
        }
    }
}

/// Makes a pod. A namespace that is new has no service account yet, without which no pod is accepted.
async fn make(site: &Site, pod: Manifest) -> Result<(), Trouble> {
    let deadline = Instant::now() + NEW;
    loop {
        let refused = match site.api.apply_manifests(std::slice::from_ref(&pod)).await {
            Ok(()) => return Ok(()),
            Err(refused) => refused,
        };
        let may_pass = refused.seen.contains("serviceaccount") && refused.seen.contains("not found");
        if !may_pass || Instant::now() > deadline {
            return Err(refused);
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// How the job's container ended; an error as soon as it is known that it cannot run, or when its time is over.
async fn ended(pods: &Pods, job: &Job, name: &str) -> Result<Terminated, Trouble> {
    let mut pods = pods.clone();
    let deadline = Instant::now() + job.limit.duration();
    loop {
        let seen = pods.look(|view| {
            let Some(pod) = view.pods.get(name) else {
                return Err(format!("there is no pod {name}"));
            };
            let state = pod.container(CONTAINER).map(|container| &container.state);
            if let Some(State::Terminated(ended)) = state
                && !matches!(ended.reason.as_str(), "StartError" | "ContainerCannotRun")
            {
                return Ok(Ok(ended.clone()));
            }
            if let Some(found) = verdict(pod, &view.events, Instant::now()) {
                return Ok(Err(found.trouble));
            }
            Err(format!("the pod {name} is {}: {state:?}", pod.phase))
        });
        let seen = match seen {
            Ok(known) => return known,
            Err(seen) => seen,
        };
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(trouble(
                "infra/job-timeout",
                format!("the job {} done within {}", job.name, job.limit),
                seen,
            ));
        }
        // Some of what is looked for depends on how long it lasts.
        drop(tokio::time::timeout(left.min(AGAIN), pods.changed()).await);
    }
}

fn manifest<K: kube::Resource<DynamicType = ()> + Serialize>(object: &K) -> Manifest {
    Manifest {
        resource: ApiResource::erase::<K>(&()),
        value: serde_json::to_value(object).expect("an object has only text keys"),
    }
}
