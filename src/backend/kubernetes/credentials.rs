//! Registry credentials that a run's pods may use: Secrets of other namespaces, read when a run begins and copied into its own.
//!
//! A pod can only name Secrets of its own namespace, which is new in each run. The copies go with it.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;

use super::api::{Api, Cause};
use crate::agent::trouble;
use crate::backend::Trouble;
use crate::codes::Code;
use crate::model::PullSecret;

/// The type of the Secrets that hold credentials for registries.
pub const TYPE: &str = "kubernetes.io/dockerconfigjson";
/// The only key in them.
pub const KEY: &str = ".dockerconfigjson";
/// What stands in place of a value that is not known or not shown; the API server takes it.
pub const STAND_IN: &[u8] = br#"{"auths":{}}"#;

const MISSING: &str = "infra/pull-secret";

/// The codes of this module.
pub const CODES: &[Code] = &[(
    MISSING,
    "a Secret with registry credentials cannot be copied",
    "`pull_secrets` of [backend.kubernetes] names Secrets as \"namespace/name\", or as \"name\" in the namespace `default`. They are of the type \
     kubernetes.io/dockerconfigjson, as `kubectl create secret docker-registry` makes them, and are copied into the namespace of each run.",
)];

/// Credentials, by the Secret that they are from.
pub type Credentials = BTreeMap<PullSecret, ByteString>;

/// Reads them.
///
/// # Errors
/// `infra/pull-secret` when there is no such Secret or it holds something else; as [`Api::get`] when it cannot be read.
pub async fn read(api: &Api, wanted: &[PullSecret]) -> Result<Credentials, Trouble> {
    let mut credentials = Credentials::new();
    for secret in wanted {
        credentials.insert(secret.clone(), read_one(api, secret).await?);
    }
    Ok(credentials)
}

async fn read_one(api: &Api, wanted: &PullSecret) -> Result<ByteString, Trouble> {
    let PullSecret { namespace, name } = wanted;
    let expected = format!("the Secret {wanted} with registry credentials, which `pull_secrets` names");
    let missing = |seen: String| trouble(MISSING, expected.clone(), seen);
    let found = match api.get::<Secret>(Some(namespace), name).await {
        Ok(Some(found)) => found,
        Ok(None) => {
            let make = format!(
                "create secret docker-registry {name} --docker-server=… --docker-username=… --docker-password=…"
            );
            let make = api.kubectl(Some(namespace), &make);
            return Err(missing(format!(
                "there is none; `{make}` makes it, and one of another namespace is named \"namespace/name\""
            )));
        }
        Err(failure) if failure.cause == Cause::Forbidden => {
            let trouble = failure.trouble();
            return Err(Trouble {
                seen: format!(
                    "{}; `trialnet rbac --pull-secret {wanted}` prints a role that suffices",
                    trouble.seen
                ),
                ..trouble
            });
        }
        Err(failure) => return Err(failure.trouble()),
    };
    let kind = found.type_.unwrap_or_default();
    if kind != TYPE {
        return Err(missing(format!("it is of the type {kind}, not {TYPE}")));
    }
    let value = found.data.and_then(|mut data| data.remove(KEY));
    value.ok_or_else(|| missing(format!("it has no {KEY}")))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::mock::{Answer, server, status};
    use super::*;

    fn wanted(text: &str) -> PullSecret {
        PullSecret::of(text)
    }

    async fn of(
        answer: impl FnMut(&super::super::mock::Asked) -> Answer + Send + 'static,
    ) -> Result<Credentials, Trouble> {
        let (client, _) = server(answer);
        read(&Api::new(client), &[wanted("ci/registry")]).await
    }

    fn secret(kind: &str, key: &str) -> Value {
        json!({ "metadata": { "name": "registry" }, "type": kind, "data": { key: ByteString(b"{}".to_vec()) } })
    }

    #[tokio::test]
    async fn credentials_are_read_where_they_are() {
        let credentials = of(|asked| {
            assert_eq!(asked.line(), "GET /api/v1/namespaces/ci/secrets/registry");
            Answer::Json(200, secret(TYPE, KEY))
        });
        let credentials = credentials.await.unwrap();
        assert_eq!(credentials[&wanted("ci/registry")], ByteString(b"{}".to_vec()));
    }

    #[tokio::test]
    async fn what_is_missing_says_how_to_get_it() {
        let none = of(|_| status(404, "NotFound", "")).await.unwrap_err();
        assert_eq!(none.code, MISSING);
        assert!(
            none.expected.contains("ci/registry") && none.seen.contains("-n ci create secret docker-registry registry"),
            "{none}"
        );
        let other = of(|_| Answer::Json(200, secret("Opaque", KEY))).await.unwrap_err();
        assert!(other.seen.contains("type Opaque"), "{other}");
        let empty = of(|_| Answer::Json(200, secret(TYPE, "else"))).await.unwrap_err();
        assert!(empty.seen.contains(KEY), "{empty}");
        let words =
            "secrets \"registry\" is forbidden: User \"me\" cannot get resource \"secrets\" in the namespace \"ci\"";
        let hidden = of(move |_| status(403, "Forbidden", words)).await.unwrap_err();
        assert_eq!(hidden.code, "infra/cluster-forbidden");
        assert!(hidden.seen.contains("rbac --pull-secret ci/registry"), "{hidden}");
    }
}
