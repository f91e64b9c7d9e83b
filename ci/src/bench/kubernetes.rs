//! `kubernetes-start`: trialnet on the current context beside a bare `kubectl apply` of the same objects.
//!
//! The objects are read back from the cluster while a run is up, so that they name the images that are loaded and what starts in them.
//! Everything is looked at from outside through one `kubectl proxy`: the nodes' RPC by the pod proxy, and which pods there are.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{COMET_SCENARIO, Measured, devnodes, get, height_in, measure, median, now, ratios, read, row, wait};

/// The value of `--backend`.
const KUBERNETES: &str = "kubernetes";
/// The scenario's name, which is also a label on its objects: nobody else's pods are counted.
const NAME: &str = "bench-kubernetes";
/// The selector of its objects, as it stands in a query.
const OURS: &str = "trialnet.dev%2Fscenario%3Dbench-kubernetes";
/// The namespace of the bare objects.
const BARE: &str = "bench-kubernetes-bare";
/// How many validators the CometBFT network has.
const VALIDATORS: usize = 4;
/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(120);

/// Prints the table. Without a cluster it says that it is skipped; `must` (or `cluster` in `TRIALNET_REQUIRE`) makes that an error.
pub(super) fn start(repeats: usize, must: bool) -> Result<(), String> {
    let Some(api) = open(must, "kubernetes-start")? else {
        return Ok(());
    };
    let comet = named(COMET_SCENARIO);
    let kept = named(&devnodes(20, 0, "500ms"));
    // What makes volumes is the cluster's own, and as quick as it is.
    let many = kept.replace("block_time", "persistence = \"ephemeral\"\nblock_time");
    // The first runs make the images and load them into the cluster; they do not count.
    let objects = api.objects_of(&format!("{comet}[[steps]]\nwait = \"3s\"\n"))?;
    measure(&many, KUBERNETES)?;
    println!(
        "\nkubernetes-start, {VALIDATORS} CometBFT validators, images loaded (median of {repeats}; bare: `kubectl apply` of the same objects)"
    );
    let mut bare = Vec::new();
    let mut ours = Vec::new();
    for _ in 0..repeats {
        // In turn, so that both see the same cluster.
        bare.push(bare_apply(&api, &objects)?);
        ours.push(api.measure(&comet)?);
    }
    let of_ours = |value: fn(&Measured) -> u64| median(ours.iter().map(|(run, _)| value(run)));
    let rpc = (median(bare.iter().map(|times| times.0)), of_ours(|run| run.answered));
    let first = (median(bare.iter().map(|times| times.1)), of_ours(|run| run.height_1));
    ratios(rpc, first, "1.25");
    let all = |text: &str| (0..repeats).map(|_| api.measure(text)).collect::<Result<Vec<_>, _>>();
    let (runs, with_volumes) = (all(&many)?, all(&kept)?);
    println!("{:<34} {:>12} {:>9}", "network", "measured", "reach");
    row(
        "4 CometBFT: pods gone at the end",
        median(ours.iter().map(|(_, gone)| *gone)),
        3000,
    );
    row(
        "20 devnodes: all at height 3",
        median(runs.iter().map(|(run, _)| run.height_3)),
        15_000,
    );
    row(
        "20 devnodes: pods gone at the end",
        median(runs.iter().map(|(_, gone)| *gone)),
        3000,
    );
    row(
        "20 devnodes with a volume each: all at height 3",
        median(with_volumes.iter().map(|(run, _)| run.height_3)),
        15_000,
    );
    Ok(())
}

/// Whether a bench that is named so has a cluster; that it has none is an error where [`start`] says so.
pub(super) fn reached(bench: &str) -> Result<bool, String> {
    Ok(open(false, bench)?.is_some())
}

fn open(must: bool, bench: &str) -> Result<Option<Api>, String> {
    match Api::open() {
        Ok(api) => Ok(Some(api)),
        Err(why) if must || required() => Err(format!("{bench}: {why}")),
        Err(why) => {
            println!("\n{bench}: skipped in a cluster, {why}");
            Ok(None)
        }
    }
}

/// Whether a missing cluster is an error.
fn required() -> bool {
    let words = std::env::var("TRIALNET_REQUIRE").unwrap_or_default();
    words.split(',').any(|word| word.trim() == "cluster")
}

fn named(text: &str) -> String {
    text.replace("name = \"bench\"", &format!("name = \"{NAME}\""))
}

/// The cluster as seen through a `kubectl proxy`, which ends with this value.
struct Api {
    proxy: Child,
    address: SocketAddr,
}

impl Drop for Api {
    fn drop(&mut self) {
        if self.proxy.kill().is_ok() {
            drop(self.proxy.wait());
        }
    }
}

impl Api {
    fn open() -> Result<Self, String> {
        let mut proxy = Command::new("kubectl")
            .args(["proxy", "--port=0"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("kubectl: {error}"))?;
        // "Starting to serve on 127.0.0.1:PORT"
        let mut line = String::new();
        let out = proxy.stdout.take().ok_or("kubectl proxy has no output")?;
        let told = BufReader::new(out).read_line(&mut line);
        let address = line.trim().rsplit(' ').next().and_then(|word| word.parse().ok());
        // Made before anything can fail, so that the proxy ends in any case.
        let api = Self {
            proxy,
            address: address.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 0))),
        };
        if told.is_err() || address.is_none() {
            return Err("kubectl has no cluster (set KUBECONFIG)".to_owned());
        }
        match get(api.address, "/readyz") {
            Some(answer) if answer.ends_with("ok") => Ok(api),
            answer => Err(format!("no cluster answers: {}", answer.unwrap_or_default().trim())),
        }
    }

    /// What the API server says of a path.
    fn read(&self, path: &str) -> Option<Value> {
        let answer = get(self.address, path)?;
        let (_, body) = answer.split_once("\r\n\r\n")?;
        serde_json::from_str(body).ok()
    }

    /// The items of a list.
    fn list(&self, path: &str) -> Option<Vec<Value>> {
        match self.read(path)?["items"].take() {
            Value::Array(items) => Some(items),
            _ => None,
        }
    }

    /// The names of the pods that a path lists.
    fn pods(&self, path: &str) -> Option<Vec<String>> {
        let name = |pod: &Value| pod["metadata"]["name"].as_str().map(str::to_owned);
        self.list(path)?.iter().map(name).collect()
    }

    /// Runs a scenario; the objects of its network as a list for `kubectl apply`, in the namespace [`BARE`].
    fn objects_of(&self, text: &str) -> Result<Vec<u8>, String> {
        let place = tempfile::tempdir().map_err(|error| error.to_string())?;
        let spawned = now();
        let (child, records) = super::start(text, place.path(), KUBERNETES)?;
        let up = wait(LIMIT, "ready", || {
            let text = fs::read_to_string(&records).unwrap_or_default();
            text.contains("\"record\":\"ready\"").then_some(())
        });
        let found = up.and_then(|()| {
            self.objects()
                .ok_or_else(|| "the run's objects cannot be read".to_owned())
        });
        read(child, &records, spawned)?;
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": found? });
        Ok(list.to_string().into_bytes())
    }

    /// The objects that the run has in the cluster, without what the server and others have put into them.
    fn objects(&self) -> Option<Vec<Value>> {
        let run = self.list(&format!("/api/v1/namespaces?labelSelector={OURS}"))?;
        let [namespace] = run.as_slice() else { return None };
        let name = namespace["metadata"]["name"].as_str()?;
        let enforce = "pod-security.kubernetes.io/enforce";
        let labels = json!({ enforce: namespace["metadata"]["labels"][enforce] });
        let mut objects = vec![json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": BARE, "labels": labels },
        })];
        for (version, kind, path) in [
            ("v1", "ResourceQuota", "api/v1/namespaces/{}/resourcequotas"),
            ("v1", "LimitRange", "api/v1/namespaces/{}/limitranges"),
            (
                "policy/v1",
                "PodDisruptionBudget",
                "apis/policy/v1/namespaces/{}/poddisruptionbudgets",
            ),
            ("v1", "ConfigMap", "api/v1/namespaces/{}/configmaps"),
            ("v1", "Secret", "api/v1/namespaces/{}/secrets"),
            ("v1", "Service", "api/v1/namespaces/{}/services"),
            ("apps/v1", "StatefulSet", "apis/apps/v1/namespaces/{}/statefulsets"),
        ] {
            let found = self.list(&format!("/{}?labelSelector={OURS}", path.replace("{}", name)))?;
            objects.extend(found.into_iter().map(|object| stripped(version, kind, object)));
        }
        Some(objects)
    }

    /// One run of a scenario; what its records say, and the milliseconds from the begin of its teardown until its pods are gone.
    fn measure(&self, text: &str) -> Result<(Measured, u64), String> {
        let place = tempfile::tempdir().map_err(|error| error.to_string())?;
        let spawned = now();
        let (mut child, records) = super::start(text, place.path(), KUBERNETES)?;
        let removing = wait(LIMIT, "the teardown", || {
            let ended = child.try_wait().is_ok_and(|status| status.is_some());
            let text = fs::read_to_string(&records).unwrap_or_default();
            (ended || text.contains("\"tearing-down\"")).then(now)
        });
        let ours = format!("/api/v1/pods?labelSelector={OURS}");
        let gone = wait(LIMIT, "pods gone", || {
            self.pods(&ours).is_some_and(|pods| pods.is_empty()).then(now)
        });
        let measured = read(child, &records, spawned)?;
        Ok((measured, gone?.saturating_sub(removing?)))
    }
}

/// An object of a list as one would apply it, in [`BARE`].
fn stripped(version: &str, kind: &str, mut object: Value) -> Value {
    let metadata = &object["metadata"];
    let metadata = json!({ "name": metadata["name"], "namespace": BARE, "labels": metadata["labels"] });
    if let Some(fields) = object.as_object_mut() {
        fields.remove("status");
    }
    if kind == "Service"
        && let Some(spec) = object["spec"].as_object_mut()
    {
        spec.remove("clusterIP");
        spec.remove("clusterIPs");
    }
    object["apiVersion"] = version.into();
    object["kind"] = kind.into();
    object["metadata"] = metadata;
    object
}

/// The same objects without trialnet: milliseconds from the start of `kubectl apply` to all RPC up, and to height 1 on all.
fn bare_apply(api: &Api, objects: &[u8]) -> Result<(u64, u64), String> {
    let begun = Instant::now();
    let times = apply(objects).and_then(|()| {
        let list = format!("/api/v1/namespaces/{BARE}/pods");
        let at_least = |height: u64| {
            let pods = api.pods(&list).filter(|pods| pods.len() == VALIDATORS)?;
            let reached = |pod: &String| {
                let status = format!("/api/v1/namespaces/{BARE}/pods/{pod}:26657/proxy/status");
                let seen = get(api.address, &status).and_then(|answer| height_in(&answer));
                seen.is_some_and(|seen| seen >= height)
            };
            pods.iter()
                .all(reached)
                .then(|| u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX))
        };
        let up = wait(LIMIT, "all RPC up", || at_least(0))?;
        Ok((up, wait(LIMIT, "height 1", || at_least(1))?))
    });
    remove()?;
    times
}

fn apply(objects: &[u8]) -> Result<(), String> {
    let mut kubectl = Command::new("kubectl")
        .args(["apply", "--filename", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .map_err(|error| format!("start kubectl: {error}"))?;
    let mut input = kubectl.stdin.take().ok_or("kubectl has no input")?;
    let written = input.write_all(objects);
    drop(input);
    let status = kubectl.wait().map_err(|error| error.to_string())?;
    written.map_err(|error| error.to_string())?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("kubectl apply ended with {status}"))
    }
}

/// Removes the bare objects, and waits until they are gone.
fn remove() -> Result<(), String> {
    let status = Command::new("kubectl")
        .args(["delete", "namespace", BARE, "--ignore-not-found", "--timeout=120s"])
        .stdout(Stdio::null())
        .status()
        .map_err(|error| format!("start kubectl: {error}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("namespace {BARE} is not gone: {status}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_server_has_put_in_is_taken_out() {
        let found = json!({
            "metadata": {
                "name": "validator-0", "namespace": "trialnet-x", "uid": "u", "resourceVersion": "7", "managedFields": [{}],
                "labels": { "trialnet.dev/scenario": NAME },
            },
            "spec": { "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"], "ports": [{ "port": 26656 }] },
            "status": { "loadBalancer": {} },
        });
        let expected = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": { "name": "validator-0", "namespace": BARE, "labels": { "trialnet.dev/scenario": NAME } },
            "spec": { "ports": [{ "port": 26656 }] },
        });
        assert_eq!(stripped("v1", "Service", found), expected);
        assert!(OURS.ends_with(NAME), "the selector names the scenario");
    }
}
