//! What trialnet needs to be allowed to do in a cluster, and whether it is.
//!
//! [`NEEDS`] is the one list: it is checked before a run, `trialnet doctor` shows what is missing, and `trialnet rbac` prints it as a role. Whoever calls the API
//! server in a new way adds a line.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject};
use kube::api::{Api, ObjectMeta, PostParams};
use kube::{Client, Error};

use super::desk;
use super::packets::{self, SYSTEM};
use super::provider::causes;
use crate::agent::trouble;
use crate::backend::Trouble;
use crate::model::{Plan, PullSecret};

/// Rights on one resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// The API group; empty for the core.
    pub group: &'static str,
    /// The resource, with a subresource after a slash.
    pub resource: &'static str,
    /// What is done to it.
    pub verbs: &'static [&'static str],
    /// To the objects of these names only; empty: to all.
    pub names: &'static [&'static str],
    /// Where it is.
    pub scope: Scope,
    /// What for.
    pub why: &'static str,
}

/// Where a resource is that something is done to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// In no namespace.
    Cluster,
    /// In the namespace of the run, whose name is known only then.
    Run,
    /// In no namespace, and a run can do without: something is less exact then.
    Extra,
}

impl Need {
    const fn run(
        group: &'static str,
        resource: &'static str,
        verbs: &'static [&'static str],
        why: &'static str,
    ) -> Self {
        Self {
            group,
            resource,
            verbs,
            names: &[],
            scope: Scope::Run,
            why,
        }
    }
}

/// Server-side apply creates what is not there, and needs both rights.
const APPLY: &[&str] = &["create", "patch"];

/// Everything that a run needs.
pub const NEEDS: &[Need] = &[
    Need {
        scope: Scope::Cluster,
        ..Need::run(
            "",
            "namespaces",
            &["get", "list", "create", "patch", "delete"],
            "one for each run, made, kept and removed",
        )
    },
    Need::run(
        "",
        "resourcequotas",
        &["create", "patch", "list"],
        "the limits of the namespace; evidence",
    ),
    Need::run("", "limitranges", APPLY, "limits for containers that name none"),
    Need::run(
        "policy",
        "poddisruptionbudgets",
        APPLY,
        "as many validators as a quorum needs",
    ),
    Need::run(
        "",
        "services",
        &["create", "patch", "list"],
        "the name of each node; evidence",
    ),
    Need::run(
        "",
        "configmaps",
        &["create", "patch", "list"],
        "files of the nodes; evidence",
    ),
    Need::run("", "secrets", APPLY, "keys of the nodes"),
    Need {
        names: &[desk::STATE],
        ..Need::run("", "secrets", &["get"], "what is known of a network that stays")
    },
    Need::run(
        "apps",
        "statefulsets",
        &["list", "create", "patch"],
        "one for each node",
    ),
    Need::run(
        "",
        "persistentvolumeclaims",
        &["list", "create", "patch", "deletecollection"],
        "volumes of the nodes, made here where a job fills them beforehand",
    ),
    Need::run(
        "",
        "pods",
        &["get", "list", "watch", "create", "patch", "delete", "deletecollection"],
        "watching them, faults that remove them, jobs",
    ),
    Need::run("", "pods/log", &["get"], "logs in the run folder"),
    Need::run(
        "",
        "pods/portforward",
        &["get", "create"],
        "the nodes' RPC, and the supervisors that carry out faults",
    ),
    Need::run("", "pods/eviction", &["create"], "the fault that evicts"),
    Need::run("", "events", &["list", "watch"], "why a pod does not start"),
    Need {
        scope: Scope::Extra,
        ..Need::run("", "nodes", &["list"], "whether a plan fits")
    },
    Need {
        scope: Scope::Extra,
        ..Need::run(
            "",
            "persistentvolumes",
            &["list"],
            "whether volumes are gone after a run",
        )
    },
    Need {
        scope: Scope::Extra,
        ..Need::run(
            "storage.k8s.io",
            "storageclasses",
            &["list"],
            "whether there is one for volumes",
        )
    },
];

/// What is needed of a network that somebody else made: to look at its pods, and to remove one.
pub const FOUND: &[Need] = &[
    Need::run(
        "",
        "pods",
        &["get", "list", "watch", "delete"],
        "finding and watching them, faults that remove them",
    ),
    Need::run("", "pods/log", &["get"], "logs in the run folder"),
    Need::run("", "pods/portforward", &["get", "create"], "the nodes' RPC"),
    Need::run("", "pods/eviction", &["create"], "the fault that evicts"),
    Need::run("", "events", &["list", "watch"], "why a pod does not start"),
];

/// What is needed besides of the agents' namespace, by plans in which packets are lost. Who may make a privileged DaemonSet has the machines.
pub const PACKETS: &[Need] = &[
    Need {
        names: &[packets::NAME],
        ..Need::run("", "secrets", &["get"], "the key of the agents that lose packets")
    },
    Need {
        names: &[packets::NAME],
        ..Need::run("apps", "daemonsets", &["get", "patch"], "the agents that lose packets")
    },
    Need::run("apps", "daemonsets", &["create"], "the agents that lose packets"),
];

/// What is needed besides by plans in which machines of the cluster are drained or fail: to look at the machines, and to cordon them.
pub const MACHINES: &[Need] = &[Need {
    scope: Scope::Cluster,
    ..Need::run(
        "",
        "nodes",
        &["get", "list", "patch"],
        "machines that are drained or fail",
    )
}];

/// What is needed where the Secrets are that `pull_secrets` names. Whether it is there shows when they are read, before anything starts.
pub const PULL_SECRETS: Need = Need::run("", "secrets", &["get"], "registry credentials that are copied");

/// How long all the questions may take together, and how many are asked at once.
const LIMIT: Duration = Duration::from_secs(8);
const AT_ONCE: usize = 16;

/// A right that is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Of which resource.
    pub need: Need,
    /// What must not be done to it.
    pub verb: &'static str,
    /// The API server's reason; often empty.
    pub reason: String,
}

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { need, verb, reason } = self;
        let group = if need.group.is_empty() {
            String::new()
        } else {
            format!(".{}", need.group)
        };
        write!(f, "{verb} {}{group}", need.resource)?;
        for name in need.names {
            write!(f, " {name}")?;
        }
        write!(f, " ({})", need.why)?;
        if reason.is_empty() {
            Ok(())
        } else {
            write!(f, ": {reason}")
        }
    }
}

/// The rights of [`NEEDS`] that these credentials do not have, in the table's order. `namespace` is that of the run, which need not exist
/// yet; `None`: in any.
///
/// # Errors
/// `infra/cluster-unreachable` when the API server does not answer, `infra/cluster-forbidden` when it does not accept the credentials.
pub async fn check(client: &Client, namespace: Option<&str>) -> Result<Vec<Missing>, Trouble> {
    check_for(client, namespace, NEEDS).await
}

/// The rights that a plan needs, each table with the namespace in which (`None`: in any).
#[must_use]
pub fn needs_of(plan: &Plan) -> Vec<(Option<&str>, &'static [Need])> {
    let mut needs = vec![match &plan.network.attach {
        Some(attach) => (Some(attach.namespace.as_str()), FOUND),
        None => (None, NEEDS),
    }];
    if plan.loses_packets() || plan.locks_volumes() {
        needs.push((Some(SYSTEM), PACKETS));
    }
    if !plan.alone().is_empty() {
        needs.push((None, MACHINES));
    }
    needs
}

/// As [`check`], of one table.
///
/// # Errors
/// As [`check`].
pub async fn check_for(client: &Client, namespace: Option<&str>, needs: &[Need]) -> Result<Vec<Missing>, Trouble> {
    let reviews = Api::<SelfSubjectAccessReview>::all(client.clone());
    let mut asked = Vec::new();
    for need in needs {
        for verb in need.verbs {
            asked.push(ask(&reviews, *need, verb, namespace));
        }
    }
    let all = async {
        let answers: Vec<_> = futures::stream::iter(asked).buffered(AT_ONCE).collect().await;
        answers.into_iter().collect::<Result<Vec<_>, _>>()
    };
    let expected = "the API server says what trialnet may do";
    match tokio::time::timeout(LIMIT, all).await {
        Ok(Ok(missing)) => Ok(missing.into_iter().flatten().collect()),
        Ok(Err(Error::Api(status))) if matches!(status.code, 401 | 403) => Err(trouble(
            FORBIDDEN,
            expected,
            format!("{}: the credentials of the context are not accepted", status.message),
        )),
        Ok(Err(error)) => Err(trouble(UNREACHABLE, expected, causes(&error))),
        Err(_) => Err(trouble(
            UNREACHABLE,
            expected,
            format!("no answer within {}s", LIMIT.as_secs()),
        )),
    }
}

async fn ask(
    reviews: &Api<SelfSubjectAccessReview>,
    need: Need,
    verb: &'static str,
    namespace: Option<&str>,
) -> Result<Option<Missing>, Error> {
    let review = review(need, verb, namespace);
    let answer = reviews.create(&PostParams::default(), &review).await?;
    let status = answer.status.unwrap_or_default();
    Ok((!status.allowed).then(|| Missing {
        need,
        verb,
        reason: status.reason.unwrap_or_default(),
    }))
}

const FORBIDDEN: &str = "infra/cluster-forbidden";
const UNREACHABLE: &str = "infra/cluster-unreachable";

/// Checks before a run that it may do all that it has to.
///
/// # Errors
/// `infra/cluster-forbidden`, naming every verb and resource; else as [`check`].
pub async fn require(client: &Client, namespace: &str) -> Result<(), Trouble> {
    let missing = check(client, Some(namespace)).await?;
    let missing: Vec<_> = missing
        .into_iter()
        .filter(|missing| missing.need.scope != Scope::Extra)
        .collect();
    let expected = "these credentials may do in the cluster what a run needs";
    none_missing(&missing, expected, "; `trialnet rbac` prints a role that suffices")
}

/// The same for a plan in which packets are lost.
///
/// # Errors
/// As [`require`].
pub async fn require_packets(client: &Client) -> Result<(), Trouble> {
    let missing = check_for(client, Some(SYSTEM), PACKETS).await?;
    let expected = format!("these credentials may make the agents in {SYSTEM} that lose packets");
    none_missing(
        &missing,
        expected,
        "; `trialnet rbac --packets` prints a role that suffices",
    )
}

/// The same for a plan in which machines of the cluster are drained.
///
/// # Errors
/// As [`require`].
pub async fn require_machines(client: &Client) -> Result<(), Trouble> {
    let missing = check_for(client, None, MACHINES).await?;
    let expected = "these credentials may strike machines of the cluster";
    none_missing(
        &missing,
        expected,
        "; `trialnet rbac --machines` prints a role that suffices",
    )
}

/// The same for a run on pods that somebody else made in this namespace.
///
/// # Errors
/// As [`require`].
pub async fn require_found(client: &Client, namespace: &str) -> Result<(), Trouble> {
    let missing = check_for(client, Some(namespace), FOUND).await?;
    let expected = format!("these credentials may look at the pods of {namespace}, reach and remove them");
    let way_out = format!("; `trialnet rbac --attach {namespace}` prints a role that suffices");
    none_missing(&missing, expected, &way_out)
}

/// That nothing is missing, or what is; `way_out` follows it.
fn none_missing(missing: &[Missing], expected: impl Into<String>, way_out: &str) -> Result<(), Trouble> {
    if missing.is_empty() {
        return Ok(());
    }
    let words: Vec<_> = missing.iter().map(ToString::to_string).collect();
    let seen = format!("they may not {}{way_out}", words.join(", nor "));
    Err(trouble(FORBIDDEN, expected, seen))
}

fn review(need: Need, verb: &str, namespace: Option<&str>) -> SelfSubjectAccessReview {
    let (resource, subresource) = match need.resource.split_once('/') {
        Some((resource, subresource)) => (resource, Some(subresource)),
        None => (need.resource, None),
    };
    let attributes = ResourceAttributes {
        group: Some(need.group.to_owned()),
        resource: Some(resource.to_owned()),
        subresource: subresource.map(str::to_owned),
        verb: Some(verb.to_owned()),
        name: need.names.first().map(|name| (*name).to_owned()),
        namespace: namespace.filter(|_| need.scope == Scope::Run).map(str::to_owned),
        ..ResourceAttributes::default()
    };
    SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(attributes),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    }
}

/// Who is given a role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// By the name in the credentials.
    User(String),
    /// Everybody in it.
    Group(String),
    /// A service account: namespace and name.
    ServiceAccount(String, String),
}

impl Who {
    fn subject(&self) -> Subject {
        let (kind, name, namespace) = match self {
            Self::User(name) => ("User", name, None),
            Self::Group(name) => ("Group", name, None),
            Self::ServiceAccount(namespace, name) => ("ServiceAccount", name, Some(namespace.clone())),
        };
        Subject {
            api_group: namespace.is_none().then(|| GROUP.to_owned()),
            kind: kind.to_owned(),
            name: name.clone(),
            namespace,
        }
    }
}

const GROUP: &str = "rbac.authorization.k8s.io";

/// What a role is to be for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Runs<'a> {
    /// Runs on pods of this namespace that somebody else made; `None`: runs that make a namespace of their own, whose name nobody knows
    /// beforehand.
    pub attach: Option<&'a str>,
    /// What only some plans need ([`PACKETS`], [`MACHINES`]).
    pub more: &'a [&'a [Need]],
    /// The Secrets that they read elsewhere.
    pub pull_secrets: &'a [PullSecret],
}

/// The smallest roles that these runs need, and their bindings, as JSON values: a ClusterRole for what is not in one namespace, a Role in
/// each namespace that is known.
#[must_use]
pub fn role(name: &str, who: &Who, runs: Runs<'_>) -> Vec<serde_json::Value> {
    let Runs {
        attach,
        more,
        pull_secrets,
    } = runs;
    let metadata = |namespace: Option<&str>| ObjectMeta {
        name: Some(name.to_owned()),
        namespace: namespace.map(str::to_owned),
        labels: Some(BTreeMap::from([(
            super::objects::MANAGED_BY.to_owned(),
            "trialnet".to_owned(),
        )])),
        ..ObjectMeta::default()
    };
    let reference = |kind: &str| RoleRef {
        api_group: GROUP.to_owned(),
        kind: kind.to_owned(),
        name: name.to_owned(),
    };
    let rule = |need: &Need, names: Vec<String>| PolicyRule {
        api_groups: Some(vec![need.group.to_owned()]),
        resources: Some(vec![need.resource.to_owned()]),
        resource_names: Some(names).filter(|names| !names.is_empty()),
        verbs: need.verbs.iter().map(|verb| (*verb).to_owned()).collect(),
        ..PolicyRule::default()
    };
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let value = |object: Result<serde_json::Value, serde_json::Error>| object.expect("its keys are text");
    let anywhere = attach
        .map_or(NEEDS, |_| &[])
        .iter()
        .chain(more.iter().copied().flatten());
    let anywhere: Vec<_> = anywhere.map(|need| rule(need, owned(need.names))).collect();
    let mut objects = Vec::new();
    if !anywhere.is_empty() {
        objects.push(value(serde_json::to_value(ClusterRole {
            metadata: metadata(None),
            rules: Some(anywhere),
            ..ClusterRole::default()
        })));
        objects.push(value(serde_json::to_value(ClusterRoleBinding {
            metadata: metadata(None),
            role_ref: reference("ClusterRole"),
            subjects: Some(vec![who.subject()]),
        })));
    }
    let mut there: BTreeMap<&str, Vec<PolicyRule>> = BTreeMap::new();
    if let Some(namespace) = attach {
        there.insert(
            namespace,
            FOUND.iter().map(|need| rule(need, owned(need.names))).collect(),
        );
    }
    let mut secrets: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for PullSecret { namespace, name } in pull_secrets {
        secrets.entry(namespace).or_default().push(name.clone());
    }
    for (namespace, names) in secrets {
        there.entry(namespace).or_default().push(rule(&PULL_SECRETS, names));
    }
    for (namespace, rules) in there {
        objects.push(value(serde_json::to_value(Role {
            metadata: metadata(Some(namespace)),
            rules: Some(rules),
        })));
        objects.push(value(serde_json::to_value(RoleBinding {
            metadata: metadata(Some(namespace)),
            role_ref: reference("Role"),
            subjects: Some(vec![who.subject()]),
        })));
    }
    objects
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_resource_stands_once_and_every_verb_is_one() {
        let known = [
            "get",
            "list",
            "watch",
            "create",
            "patch",
            "update",
            "delete",
            "deletecollection",
        ];
        let mut seen = BTreeSet::new();
        for need in NEEDS {
            assert!(
                seen.insert((need.group, need.resource, need.names)),
                "{} stands twice",
                need.resource
            );
            let verbs: BTreeSet<_> = need.verbs.iter().collect();
            // A review asks of one name.
            assert!(need.names.len() <= 1, "{need:?}");
            assert!(!verbs.is_empty() && verbs.len() == need.verbs.len(), "{need:?}");
            assert!(need.verbs.iter().all(|verb| known.contains(verb)), "{need:?}");
        }
    }

    #[test]
    fn the_role_grants_the_table_and_nothing_else() {
        let who = Who::ServiceAccount("ci".into(), "trialnet".into());
        let objects = role("trialnet", &who, Runs::default());
        let [role, binding] = objects.as_slice() else {
            panic!("{objects:#?}")
        };
        let granted: BTreeSet<String> = role["rules"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|rule| {
                assert_eq!(rule["apiGroups"].as_array().unwrap().len(), 1);
                let of = format!(
                    "{}/{}/{}",
                    rule["apiGroups"][0].as_str().unwrap(),
                    rule["resources"][0].as_str().unwrap(),
                    rule["resourceNames"][0].as_str().unwrap_or_default()
                );
                let verbs: Vec<_> = rule["verbs"].as_array().unwrap().clone();
                verbs
                    .into_iter()
                    .map(move |verb| format!("{of} {}", verb.as_str().unwrap()))
            })
            .collect();
        let needed = NEEDS.iter().flat_map(|need| {
            need.verbs
                .iter()
                .map(move |verb| format!("{}/{}/{} {verb}", need.group, need.resource, need.names.concat()))
        });
        assert_eq!(granted, needed.collect());
        assert!(!granted.iter().any(|right| right.contains('*')), "{granted:?}");
        assert!(
            granted.contains("/secrets/trialnet-desk get") && !granted.contains("/secrets/ get"),
            "nobody reads the keys of other namespaces: {granted:?}"
        );
        assert_eq!(binding["subjects"][0]["kind"], "ServiceAccount");
        assert_eq!(binding["subjects"][0]["namespace"], "ci");
        assert!(binding["subjects"][0].get("apiGroup").is_none());
    }

    #[test]
    fn credentials_of_registries_need_their_names_only() {
        let secrets = ["registry", "ci/one", "ci/two"].map(PullSecret::of);
        let objects = role(
            "trialnet",
            &Who::User("me".into()),
            Runs {
                pull_secrets: &secrets,
                ..Runs::default()
            },
        );
        assert_eq!(objects.len(), 6);
        let (ci, objects) = (&objects[2], [&objects[..2], &objects[4..]].concat());
        assert_eq!(ci["metadata"]["namespace"], "ci");
        assert_eq!(ci["rules"][0]["resourceNames"], serde_json::json!(["one", "two"]));
        assert_eq!(objects[2]["kind"], "Role");
        assert_eq!(objects[2]["metadata"]["namespace"], "default");
        assert_eq!(objects[2]["rules"][0]["resourceNames"], serde_json::json!(["registry"]));
        assert_eq!(objects[3]["subjects"][0]["apiGroup"], GROUP);
    }

    #[test]
    fn agents_are_changed_by_their_name_only() {
        let who = Who::User("me".into());
        let rules = |more: &[&[Need]]| {
            role(
                "trialnet",
                &who,
                Runs {
                    more,
                    ..Runs::default()
                },
            )[0]["rules"]
                .as_array()
                .unwrap()
                .clone()
        };
        let more = &rules(&[PACKETS])[rules(&[]).len()..];
        let said: Vec<_> = (more.iter())
            .map(|rule| {
                (
                    rule["resources"][0].as_str().unwrap(),
                    &rule["verbs"],
                    &rule["resourceNames"],
                )
            })
            .collect();
        let named = serde_json::json!(["trialnet-agent"]);
        let wanted = [
            ("secrets", &serde_json::json!(["get"]), &named),
            ("daemonsets", &serde_json::json!(["get", "patch"]), &named),
            ("daemonsets", &serde_json::json!(["create"]), &serde_json::Value::Null),
        ];
        assert_eq!(said, wanted);
        let machines = rules(&[PACKETS, MACHINES]);
        let last = &machines[machines.len() - 1];
        assert_eq!(last["resources"], serde_json::json!(["nodes"]));
        assert_eq!(last["verbs"], serde_json::json!(["get", "list", "patch"]));
    }

    #[test]
    fn a_missing_right_names_verb_and_resource() {
        let need = *NEEDS.iter().find(|need| need.resource == "statefulsets").unwrap();
        let missing = Missing {
            need,
            verb: "patch",
            reason: String::new(),
        };
        assert_eq!(missing.to_string(), "patch statefulsets.apps (one for each node)");
        let need = *NEEDS.iter().find(|need| !need.names.is_empty()).unwrap();
        let of = review(need, "get", None).spec.resource_attributes.unwrap();
        assert_eq!(of.name.as_deref(), Some("trialnet-desk"));
        let missing = Missing {
            need,
            verb: "get",
            reason: String::new(),
        };
        let words = missing.to_string();
        assert!(words.starts_with("get secrets trialnet-desk ("), "{words}");
    }

    #[test]
    fn questions_name_subresources_and_the_namespace_where_there_is_one() {
        let of = |resource: &str| {
            let need = *NEEDS.iter().find(|need| need.resource == resource).unwrap();
            review(need, "get", Some("trialnet-a-1"))
                .spec
                .resource_attributes
                .unwrap()
        };
        let logs = of("pods/log");
        assert_eq!(
            (logs.resource.as_deref(), logs.subresource.as_deref()),
            (Some("pods"), Some("log"))
        );
        assert_eq!(logs.namespace.as_deref(), Some("trialnet-a-1"));
        assert_eq!(of("namespaces").namespace, None);
        assert_eq!(of("persistentvolumes").namespace, None);
    }
}
