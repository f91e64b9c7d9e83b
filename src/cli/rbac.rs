//! `trialnet rbac`: the role that runs on a cluster need, for whoever administers it.

use super::RbacArgs;
use crate::backend::kubernetes::access::{self, Need, Runs, Who};
use crate::exit;
use crate::model::PullSecret;
use crate::ui::Ui;

/// Prints the role and its binding.
#[must_use]
pub fn run(args: &RbacArgs, ui: &Ui) -> u8 {
    let RbacArgs {
        name,
        user,
        group,
        service_account,
        packets,
        machines,
        attach,
        pull_secrets,
    } = args;
    let who = match (user, group) {
        (Some(user), _) => Who::User(user.clone()),
        (None, Some(group)) => Who::Group(group.clone()),
        (None, None) => {
            let (namespace, name) = service_account;
            Who::ServiceAccount(namespace.clone(), name.clone())
        }
    };
    let more: Vec<&[Need]> = [(*packets, access::PACKETS), (*machines, access::MACHINES)]
        .into_iter()
        .filter_map(|(wanted, needs)| wanted.then_some(needs))
        .collect();
    let runs = Runs {
        attach: attach.as_deref(),
        more: &more,
        pull_secrets,
    };
    let objects = access::role(name, &who, runs);
    let documents: Result<Vec<_>, _> = objects.iter().map(serde_saphyr::to_string).collect();
    match documents {
        Ok(documents) => {
            ui.out(&documents.join("---\n"));
            exit::PASSED
        }
        Err(error) => {
            ui.error(&error, None);
            exit::INTERNAL_ERROR
        }
    }
}

/// A service account on the command line: `NAMESPACE/NAME`.
pub(super) fn service_account(text: &str) -> Result<(String, String), String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok((namespace.to_owned(), name.to_owned()))
        }
        _ => Err("write it as NAMESPACE/NAME".to_owned()),
    }
}

/// A Secret on the command line: `[NAMESPACE/]NAME`.
pub(super) fn pull_secret(text: &str) -> Result<PullSecret, String> {
    let secret = PullSecret::of(text);
    if secret.namespace.is_empty() || secret.name.is_empty() || secret.name.contains('/') {
        return Err("write it as NAMESPACE/NAME, or as NAME in the namespace default".to_owned());
    }
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(change: impl FnOnce(&mut RbacArgs)) -> String {
        let (ui, captured) = Ui::memory();
        let mut args = RbacArgs {
            name: "trialnet".into(),
            user: None,
            group: None,
            service_account: ("ci".into(), "trialnet".into()),
            packets: false,
            machines: false,
            attach: None,
            pull_secrets: Vec::new(),
        };
        change(&mut args);
        assert_eq!(run(&args, &ui), exit::PASSED);
        captured.out()
    }

    #[test]
    fn the_role_as_it_is_printed() {
        insta::assert_snapshot!(printed(|args| args.pull_secrets = vec![PullSecret::of("registry")]));
    }

    #[test]
    fn the_role_for_found_pods_is_of_their_namespace() {
        insta::assert_snapshot!(printed(|args| args.attach = Some("chain".into())));
        let text = printed(|args| {
            args.attach = Some("chain".into());
            args.machines = true;
        });
        assert!(
            text.contains("kind: ClusterRole\n") && text.contains("kind: Role\n"),
            "{text}"
        );
        assert!(!text.contains("statefulsets"), "{text}");
    }

    #[test]
    fn service_accounts_have_a_namespace() {
        assert_eq!(service_account("ci/trialnet"), Ok(("ci".into(), "trialnet".into())));
        for wrong in ["trialnet", "/trialnet", "ci/", "a/b/c"] {
            assert!(service_account(wrong).is_err(), "{wrong}");
        }
    }
}
