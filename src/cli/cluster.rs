//! What `trialnet doctor` says of a cluster.

use kube::Client;

use super::ClusterArgs;
use super::doctor::Check;
use crate::backend::Trouble;
use crate::backend::kubernetes::access::{self, Missing, NEEDS, Need, Scope};
use crate::backend::kubernetes::image;
use crate::backend::kubernetes::objects::{REQUESTS, quantity};
use crate::backend::kubernetes::provider::{self, ANSWER_LIMIT, Cluster};
use crate::backend::kubernetes::survey::{self, Amount, Machine};
use crate::chain;
use crate::model::{Kubernetes, ObserveFrom, Persistence, Plan, Resources};
use crate::report::words::count;

/// The oldest minor version of Kubernetes 1 in which everything is stable that a run uses (Pod Security is the youngest part).
const OLDEST: u32 = 25;

/// Checks the cluster that a run would use; with a plan, also whether it fits.
pub(super) async fn checks(args: &ClusterArgs, plan: Option<&Plan>) -> Vec<Check> {
    let settings = plan.map_or_else(Kubernetes::default, |plan| plan.kubernetes.clone());
    let found = async {
        let cluster = provider::choose(&settings, &args.flags())?;
        let client = cluster.client().await?;
        Ok::<_, Trouble>((cluster, client))
    };
    let (cluster, client) = match found.await {
        Ok(found) => found,
        Err(trouble) => return vec![failed("cluster", &trouble)],
    };
    let mut checks = vec![check("cluster", true, format!("{cluster}, {}", cluster.server), "")];
    match provider::answers(&client, ANSWER_LIMIT).await {
        Ok(info) => {
            let minor = info
                .minor
                .trim_end_matches(|c: char| !c.is_ascii_digit())
                .parse::<u32>();
            let new = info.major == "1" && minor.is_ok_and(|minor| minor >= OLDEST);
            checks.push(check(
                "Kubernetes version",
                new,
                info.git_version,
                &format!("trialnet needs 1.{OLDEST} or newer"),
            ));
        }
        Err(trouble) => {
            checks.push(failed("API server", &trouble));
            return checks;
        }
    }
    let needs = plan.map_or_else(|| vec![(None, NEEDS)], access::needs_of);
    let (rights, machines, classes, security, loading) = Box::pin(async {
        tokio::join!(
            all_rights(&client, &needs),
            survey::machines(&client),
            survey::storage_classes(&client),
            survey::pod_security(&client),
            image::reaches(&cluster),
        )
    })
    .await;
    checks.extend(permissions(rights, &needs));
    checks.extend(nodes(machines, plan));
    checks.push(storage(classes, plan));
    checks.push(pod_security(security));
    checks.push(images(&cluster, loading));
    checks
}

fn check(name: &str, ok: bool, detail: impl Into<String>, help: &str) -> Check {
    Check {
        name: name.to_owned(),
        ok,
        optional: false,
        detail: detail.into(),
        help: Some(help.to_owned()).filter(|help| !help.is_empty()),
    }
}

/// One that runs can do without.
fn extra(check: Check) -> Check {
    Check {
        optional: true,
        ..check
    }
}

fn failed(name: &str, trouble: &Trouble) -> Check {
    let Trouble {
        code, expected, seen, ..
    } = trouble;
    check(name, false, format!("not so: {expected}"), &format!("{seen} ({code})"))
}

/// The rights of all these tables that are missing.
async fn all_rights(client: &Client, needs: &[(Option<&str>, &'static [Need])]) -> Result<Vec<Missing>, Trouble> {
    let mut missing = Vec::new();
    for (namespace, needs) in needs {
        missing.extend(access::check_for(client, *namespace, needs).await?);
    }
    Ok(missing)
}

fn permissions(rights: Result<Vec<Missing>, Trouble>, needs: &[(Option<&str>, &'static [Need])]) -> Vec<Check> {
    let missing = match rights {
        Ok(missing) => missing,
        Err(trouble) => return vec![failed("permissions", &trouble)],
    };
    let (extras, needed): (Vec<_>, Vec<_>) = missing.iter().partition(|one| one.need.scope == Scope::Extra);
    let all: usize = (needs.iter())
        .flat_map(|(_, needs)| *needs)
        .filter(|need| need.scope != Scope::Extra)
        .map(|need| need.verbs.len())
        .sum();
    let help = "give these credentials the role that `trialnet rbac` prints";
    let words = |missing: &[&Missing]| missing.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let mut checks = vec![if needed.is_empty() {
        check("permissions", true, format!("all {all} that a run needs"), help)
    } else {
        check("permissions", false, format!("not: {}", words(&needed)), help)
    }];
    if !extras.is_empty() {
        checks.push(extra(check(
            "further permissions",
            false,
            format!("not: {}", words(&extras)),
            help,
        )));
    }
    checks
}

fn nodes(machines: Result<Vec<Machine>, Trouble>, plan: Option<&Plan>) -> Vec<Check> {
    let machines = match machines {
        Ok(machines) => machines,
        Err(trouble) => return vec![extra(failed("nodes", &trouble))],
    };
    let open: Vec<&Machine> = machines
        .iter()
        .filter(|machine| machine.ready && machine.open)
        .collect();
    let closed: Vec<String> = machines
        .iter()
        .filter(|machine| !machine.ready || !machine.open)
        .map(|machine| {
            format!(
                "{} {}",
                machine.name,
                if machine.ready { "takes no pods" } else { "is not ready" }
            )
        })
        .collect();
    let mut detail = format!("{} of {} ready for pods", open.len(), count(machines.len(), "node"));
    if !closed.is_empty() {
        detail = format!("{detail} ({})", closed.join(", "));
    }
    let mut checks = vec![check(
        "nodes",
        !open.is_empty(),
        detail,
        "look with `kubectl describe nodes`",
    )];
    let own = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let others: Vec<_> = open
        .iter()
        .filter(|machine| machine.processor != own)
        .map(|machine| machine.name.as_str())
        .collect();
    if !others.is_empty() {
        let detail = format!("not {own}, as this machine: {}", others.join(", "));
        let help = "images that are made here do not run on them; name an `image` for their processor";
        checks.push(extra(check("processors", false, detail, help)));
    }
    let free = open
        .iter()
        .fold(Amount::default(), |sum, machine| sum.plus(machine.free));
    let Some(plan) = plan else {
        checks.push(check(
            "capacity",
            true,
            format!("free: {free}; name a scenario file to compare"),
            "",
        ));
        return checks;
    };
    let wanted = plan_requests(plan);
    let (each, sum) = (
        wanted.iter(),
        wanted.iter().fold(Amount::default(), |sum, one| sum.plus(*one)),
    );
    // A pod is on one node.
    let placed = each
        .clone()
        .all(|pod| open.iter().any(|machine| machine.free.holds(*pod)));
    let detail = format!("the plan wants {sum}; free: {free}");
    checks.push(check(
        "capacity",
        free.holds(sum) && placed,
        detail,
        "set smaller `resources` for the groups, or make room: `trialnet ps` shows other runs",
    ));
    checks
}

/// What the nodes of a plan request, each as one pod of all its components, and the observer if it is a pod too.
fn plan_requests(plan: &Plan) -> Vec<Amount> {
    let (cpu, memory) = REQUESTS;
    let amount = |given: &Option<String>, default: &str| {
        quantity::parse(given.as_deref().unwrap_or(default)).unwrap_or_default()
    };
    let observes = plan.kubernetes.observe == ObserveFrom::Cluster;
    let observer = observes.then(Resources::default);
    // Found nodes are there already.
    if plan.network.attach.is_some() {
        return Vec::new();
    }
    let components = chain::adapter(plan.network.chain).components(&plan.network).len() as u128;
    let nodes = plan.network.nodes.iter().map(|node| (&node.resources, components));
    nodes
        .chain(observer.iter().map(|resources| (resources, 1)))
        .map(|(resources, containers)| Amount {
            cpu: amount(&resources.cpu, cpu) * containers,
            memory: amount(&resources.memory, memory) * containers,
            pods: 1,
        })
        .collect()
}

fn storage(classes: Result<Vec<(String, bool)>, Trouble>, plan: Option<&Plan>) -> Check {
    let wanted = plan.and_then(|plan| plan.kubernetes.storage_class.clone());
    let volumes = plan.is_none_or(|plan| plan.network.persistence == Persistence::Volume);
    let classes = match classes {
        Ok(classes) => classes,
        Err(trouble) => return extra(failed("storage class", &trouble)),
    };
    let names: Vec<_> = classes
        .iter()
        .map(|(name, default)| {
            if *default {
                format!("{name} (default)")
            } else {
                name.clone()
            }
        })
        .collect();
    let ok = match &wanted {
        Some(wanted) => classes.iter().any(|(name, _)| name == wanted),
        None => classes.iter().any(|(_, default)| *default),
    };
    let detail = match (names.is_empty(), &wanted) {
        (true, _) => "there is none".to_owned(),
        (false, Some(wanted)) if !ok => format!("there is no {wanted}, but {}", names.join(", ")),
        (false, None) if !ok => format!("none is the default of {}", names.join(", ")),
        (false, _) => names.join(", "),
    };
    let help = "name one as `storage_class` of [backend.kubernetes], or say persistence = \"ephemeral\"";
    Check {
        optional: !volumes,
        ..check("storage class", ok, detail, help)
    }
}

fn pod_security(answer: Result<Option<String>, Trouble>) -> Check {
    let check = match answer {
        Ok(Some(refusal)) if refusal.contains("PodSecurity") => check(
            "Pod Security",
            true,
            "a privileged pod is refused where `restricted` is asked for",
            "",
        ),
        Ok(Some(refusal)) => check(
            "Pod Security",
            true,
            format!("a privileged pod is refused: {refusal}"),
            "",
        ),
        Ok(None) => check(
            "Pod Security",
            false,
            "a privileged pod is taken although `restricted` is asked for",
            "runs work all the same; turn the admission plugin PodSecurity on if the cluster is shared",
        ),
        Err(trouble) => failed("Pod Security", &trouble),
    };
    extra(check)
}

fn images(cluster: &Cluster, loading: Result<String, Trouble>) -> Check {
    match loading {
        Ok(detail) => check("images", true, detail, ""),
        Err(trouble) => {
            let check = failed("images", &trouble);
            Check {
                detail: format!("cannot be loaded into the {cluster}"),
                ..check
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor;

    fn machine(name: &str, ready: bool, open: bool, free: Amount) -> Machine {
        Machine {
            name: name.into(),
            ready,
            open,
            processor: if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" }.into(),
            free,
        }
    }

    fn seen(checks: &[Check]) -> String {
        anstream::adapter::strip_str(&doctor::render(checks)).to_string()
    }

    const ROOM: Amount = Amount {
        cpu: 1000,
        memory: 1 << 40,
        pods: 10,
    };

    #[test]
    fn a_cluster_that_has_everything() {
        let plan = crate::report::sample::plan();
        let checks: Vec<Check> = permissions(Ok(Vec::new()), &[(None, NEEDS)])
            .into_iter()
            .chain(nodes(
                Ok(vec![
                    machine("one", true, true, ROOM),
                    machine("two", true, false, ROOM),
                ]),
                Some(&plan),
            ))
            .chain([
                storage(Ok(vec![("standard".into(), true)]), Some(&plan)),
                pod_security(Ok(Some("violates PodSecurity \"restricted:latest\"".into()))),
            ])
            .collect();
        assert!(checks.iter().all(|check| check.ok), "{}", seen(&checks));
        insta::assert_snapshot!(seen(&checks));
    }

    #[test]
    fn a_cluster_that_lacks_everything() {
        let missing = |resource: &str, verb| Missing {
            need: *NEEDS.iter().find(|need| need.resource == resource).unwrap(),
            verb,
            reason: String::new(),
        };
        let plan = crate::report::sample::plan();
        let small = Amount { cpu: 60, ..ROOM };
        let checks: Vec<Check> = permissions(
            Ok(vec![missing("statefulsets", "patch"), missing("nodes", "list")]),
            &[(None, NEEDS)],
        )
        .into_iter()
        .chain(nodes(
            Ok(vec![
                machine("one", false, true, ROOM),
                machine("two", true, true, small),
            ]),
            Some(&plan),
        ))
        .chain([
            storage(Ok(vec![("slow".into(), false)]), Some(&plan)),
            pod_security(Ok(None)),
        ])
        .collect();
        insta::assert_snapshot!(seen(&checks));
        assert_eq!(doctor::code(&checks), crate::exit::INFRASTRUCTURE);
    }

    #[test]
    fn room_on_many_small_nodes_is_not_room_for_a_large_pod() {
        let mut plan = crate::report::sample::plan();
        plan.network.nodes.truncate(1);
        plan.network.nodes[0].resources.cpu = Some("1500m".into());
        let two = vec![machine("one", true, true, ROOM), machine("two", true, true, ROOM)];
        let capacity = nodes(Ok(two), Some(&plan)).pop().unwrap();
        assert!(!capacity.ok, "{capacity:?}");
    }

    #[test]
    fn an_observer_in_the_cluster_needs_room_too() {
        let mut plan = crate::report::sample::plan();
        let nodes = plan.network.nodes.len();
        assert_eq!(plan_requests(&plan).len(), nodes);
        plan.kubernetes.observe = ObserveFrom::Cluster;
        assert_eq!(plan_requests(&plan).len(), nodes + 1);
    }
}
