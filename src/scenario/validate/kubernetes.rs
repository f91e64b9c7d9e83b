//! What only a cluster needs to know: where it is, what the pods may use, and pods that somebody else made.

use std::collections::BTreeMap;

use super::Check;
use crate::model::{Attach, ObserveFrom, PullSecret, Resources};
use crate::scenario::diag::Problem;
use crate::scenario::explain as code;
use crate::scenario::raw::{self, At, Named};

impl Check<'_> {
    pub(super) fn kubernetes(&mut self, raw: &raw::Scenario) {
        let Some(table) = raw.backend.as_ref().and_then(|backend| backend.kubernetes.as_ref()) else {
            return;
        };
        let raw::Kubernetes {
            provider,
            context,
            cluster,
            node_image,
            storage_class,
            storage,
            pull_policy,
            own_image,
            pull_secrets,
            quota,
            table: _,
        } = &table.value;
        for text in [context, cluster, node_image, own_image].into_iter().flatten() {
            self.some_setting(text);
        }
        if let Some(name) = storage_class {
            self.object_name(name, 253);
        }
        let pull_secrets = self.pull_secrets(pull_secrets.as_ref().map_or(&[], |list| list.as_slice()));
        let storage = storage.as_ref().and_then(|size| {
            self.amount(size, "`storage`", MEBI, "1Mi")?;
            Some(size.value.clone())
        });
        let quota = quota.as_ref().map(|quota| self.quota(quota)).unwrap_or_default();
        let text = |text: &Option<At<String>>| text.as_ref().map(|text| text.value.clone());
        let kubernetes = &mut self.plan.kubernetes;
        kubernetes.provider = provider.as_ref().map(|provider| provider.0);
        kubernetes.context = text(context);
        kubernetes.cluster = text(cluster);
        kubernetes.node_image = text(node_image);
        kubernetes.storage_class = text(storage_class);
        kubernetes.storage = storage;
        kubernetes.pull_policy = pull_policy.as_ref().map(|policy| policy.0);
        kubernetes.own_image = text(own_image);
        kubernetes.pull_secrets = pull_secrets;
        kubernetes.quota = quota;
    }

    /// From where the nodes are observed; the network is known.
    pub(super) fn observe(&mut self, raw: &raw::Scenario) {
        let Some(from) = raw.observe.as_ref().and_then(|observe| observe.from.as_ref()) else {
            return;
        };
        self.plan.kubernetes.observe = from.0;
        if from.0 != ObserveFrom::Cluster {
            return;
        }
        if self.options.capabilities.lacks.contains_key("observe-cluster") {
            self.not_offered_as("observe-cluster", "observe.from = \"cluster\"", &from.at);
        } else {
            let message = "an observer in the cluster is a pod in a namespace that somebody else made";
            self.not_for_found(
                &from.at,
                message,
                "use from = \"here\": what is found is left as it was",
            );
        }
    }

    /// Secrets that are copied under their names, so that each name stands once.
    fn pull_secrets(&mut self, list: &[At<String>]) -> Vec<PullSecret> {
        let mut secrets: Vec<PullSecret> = Vec::new();
        for text in list {
            let secret = PullSecret::of(text);
            // The copy's name is longer by a prefix.
            if !is_name(&secret.namespace, 63) || !is_name(&secret.name, 240) {
                self.refused_setting(
                    &text.at,
                    format!("no Secret is called \"{}\"", text.value),
                    "not a name",
                    "\"namespace/name\", or \"name\" in the namespace `default`: lower-case letters, digits and dashes",
                );
            } else if let Some(other) = secrets.iter().find(|other| other.name == secret.name) {
                self.refused_setting(
                    &text.at,
                    format!("{secret} and {other} would be one Secret in the namespace of the run"),
                    "the same name again",
                    "copy one of them under another name",
                );
            } else {
                secrets.push(secret);
            }
        }
        secrets
    }

    fn quota(&mut self, quota: &At<Named<String>>) -> BTreeMap<String, String> {
        for (name, amount) in &quota.0 {
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
            if name.is_empty() || !name.chars().all(plain) {
                self.refused_setting(
                    &name.at,
                    format!("a quota cannot be called \"{}\"", name.value),
                    "not a resource",
                    "as Kubernetes names them, for example `requests.cpu`, `limits.memory` or `pods`",
                );
            }
            self.amount(amount, &format!("`{}`", name.value), 0.0, "0");
        }
        let entries = quota.0.iter();
        entries
            .map(|(name, amount)| (name.value.clone(), amount.value.clone()))
            .collect()
    }

    /// What the components of a group's nodes ask of a cluster.
    pub(super) fn resources(&mut self, resources: Option<&At<raw::Resources>>) -> Resources {
        let Some(resources) = resources else {
            return Resources::default();
        };
        let raw::Resources {
            cpu,
            memory,
            cpu_limit,
            memory_limit,
            table: _,
        } = &resources.value;
        // The least that Kubernetes counts, and the least in which a container starts at all.
        for (request, limit, name, least, shown) in [
            (cpu, cpu_limit, "cpu", 0.001, "1m"),
            (memory, memory_limit, "memory", 4.0 * MEBI, "4Mi"),
        ] {
            let ask = request
                .as_ref()
                .and_then(|text| self.amount(text, &format!("`{name}`"), least, shown));
            let most = limit
                .as_ref()
                .and_then(|text| self.amount(text, &format!("`{name}_limit`"), least, shown));
            if let (Some(ask), Some(most), Some(at)) = (ask, most, request)
                && ask > most
            {
                self.refused_setting(
                    &at.at,
                    format!("`{name}` is more than `{name}_limit`"),
                    "more than the limit",
                    "a request is at most its limit",
                );
            }
        }
        let text = |text: &Option<At<String>>| text.as_ref().map(|text| text.value.clone());
        Resources {
            cpu: text(cpu),
            memory: text(memory),
            cpu_limit: text(cpu_limit),
            memory_limit: text(memory_limit),
        }
    }

    /// Pods that somebody else made.
    pub(super) fn attach(&mut self, attach: &At<raw::Attach>) -> Option<Attach> {
        let raw::Attach {
            namespace,
            selector,
            rpc_port,
            table: _,
        } = &attach.value;
        self.offered("attach", &attach.key)?;
        if let Some(namespace) = namespace {
            self.object_name(namespace, 63);
        }
        if let Some(selector) = selector {
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=!,() ".contains(c);
            if selector.trim().is_empty() || !selector.chars().all(plain) {
                self.refused_setting(
                    &selector.at,
                    format!("\"{}\" selects no pods by their labels", selector.value),
                    "not a label selector",
                    "as Kubernetes writes them, for example \"app=node,tier!=seed\"",
                );
            }
        }
        let rpc_port = match rpc_port {
            Some(_) => Some(u16::try_from(self.number(rpc_port.as_ref(), "rpc_port", 1, 65_535)?).ok()?),
            None => None,
        };
        Some(Attach {
            namespace: namespace.as_ref()?.value.clone(),
            selector: selector.as_ref()?.value.clone(),
            rpc_port,
        })
    }

    /// Complains about something that needs more of found nodes than is known or given. Whether there are any.
    pub(in crate::scenario) fn not_for_found(
        &mut self,
        at: &std::ops::Range<usize>,
        message: &str,
        help: &str,
    ) -> bool {
        if self.plan.network.attach.is_none() {
            return false;
        }
        let problem = Problem::new(code::ATTACH, at, message)
            .label("not with found nodes")
            .help(help);
        self.problems.push(problem);
        true
    }

    fn some_setting(&mut self, text: &At<String>) {
        if text.trim().is_empty() {
            let help = "leave the key out where the default will do";
            self.refused_setting(&text.at, "an empty text names nothing".to_owned(), "empty", help);
        }
    }

    fn object_name(&mut self, name: &At<String>, longest: usize) {
        if !is_name(name, longest) {
            let message = format!("Kubernetes has no objects called \"{}\"", name.value);
            let help = "lower-case letters, digits and dashes, a letter or digit at both ends";
            self.refused_setting(&name.at, message, "not a name", help);
        }
    }

    /// A quantity as Kubernetes writes it, at least `least`; its value. `None`: a problem was reported.
    pub(super) fn amount(&mut self, text: &At<String>, name: &str, least: f64, shown: &str) -> Option<f64> {
        let problem = match quantity(text) {
            Some(value) if value >= least => return Some(value),
            Some(_) => (
                format!("{name} is at least {shown}, not {}", text.value),
                "too little; of memory, `Mi` are mebibytes and `m` would be thousandths of a byte",
            ),
            None => (
                format!("\"{}\" is no quantity", text.value),
                "a number with a suffix of Kubernetes: \"50m\" or \"2\" processors, \"128Mi\" or \"1Gi\" of memory",
            ),
        };
        self.refused_setting(&text.at, problem.0, "not a quantity that fits", problem.1);
        None
    }

    fn refused_setting(&mut self, at: &std::ops::Range<usize>, message: String, label: &str, help: &str) {
        let _: Option<()> = self.odd(code::KUBERNETES, at, message, label, help);
    }
}

/// Whether an object can have this name: of a namespace a DNS label, of others a DNS subdomain (RFC 1123).
fn is_name(name: &str, longest: usize) -> bool {
    let dots = longest > 63;
    let part = |part: &str| {
        let letter = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let ends = part.starts_with(letter) && part.ends_with(letter);
        ends && part.len() <= 63 && part.chars().all(|c| letter(c) || c == '-')
    };
    name.len() <= longest && (dots || !name.contains('.')) && name.split('.').all(part)
}

pub(super) const MEBI: f64 = 1_048_576.0;

/// The value of a quantity as `k8s.io/apimachinery/pkg/api/resource` reads it, none below zero: a decimal number, and a binary or
/// decimal suffix, or an exponent.
pub(super) fn quantity(text: &str) -> Option<f64> {
    let split = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    if !number.contains(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let number: f64 = number.parse().ok()?;
    let scale = match suffix {
        "" => 1.0,
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => 1024.0,
        "Mi" => MEBI,
        "Gi" => MEBI * 1024.0,
        "Ti" => MEBI * MEBI,
        "Pi" => MEBI * MEBI * 1024.0,
        "Ei" => MEBI * MEBI * MEBI,
        exponent => {
            let power = exponent.strip_prefix(['e', 'E'])?;
            10_f64.powi(power.parse().ok()?)
        }
    };
    Some(number * scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_as_kubernetes_reads_them() {
        for (text, value) in [
            ("50m", 0.05),
            ("2", 2.0),
            ("1.5", 1.5),
            ("128Mi", 128.0 * MEBI),
            ("1Gi", 1024.0 * MEBI),
            ("1e3", 1000.0),
            ("1E", 1e18),
        ] {
            let read = quantity(text).unwrap_or(f64::NAN);
            assert!((read - value).abs() <= value * 1e-12, "{text}: {read}");
        }
        for bad in ["", "Mi", "-1", "1 Gi", "1MB", "1gi", ".", "1.2.3", "0x10"] {
            assert_eq!(quantity(bad), None, "{bad}");
        }
    }
}
