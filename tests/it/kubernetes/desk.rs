//! A network on the cluster that stays: each command is a process of its own, and nothing of trialnet runs between them.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

const SCENARIO: &str = "format = 1\nname = \"NAME\"\n[network]\nchain = \"devnode\"\n[network.groups.validator]\nrole = \"validator\"\n\
                        count = 4\n[[steps]]\nexpect.height = { at_least = 2, within = \"30s\" }\n";

struct Space {
    place: tempfile::TempDir,
    name: String,
}

impl Drop for Space {
    fn drop(&mut self) {
        self.trialnet(&["down", &self.name]);
    }
}

impl Space {
    /// A network that is up and stays.
    fn up(prefix: &str) -> Self {
        let name = format!("{prefix}-{:06x}", rand::random::<u32>() & 0x00ff_ffff);
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("desk.toml");
        std::fs::write(&file, SCENARIO.replace("NAME", &name)).unwrap();
        let space = Self { place, name };
        space.good(&["up", file.to_str().unwrap(), "--backend", "kubernetes", "--for", "10m"]);
        space
    }

    /// A registry folder of its own for each call, as on another machine.
    fn trialnet(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let elsewhere = tempfile::tempdir().unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_trialnet"))
            .args(arguments)
            .current_dir(self.place.path())
            .env("TRIALNET_STATE_DIR", elsewhere.path())
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.code(), text)
    }

    #[track_caller]
    fn good(&self, arguments: &[&str]) -> String {
        let (code, text) = self.trialnet(arguments);
        assert_eq!(code, Some(0), "{arguments:?}: {text}");
        text
    }

    #[track_caller]
    fn status(&self) -> Value {
        serde_json::from_str(&self.good(&["status", &self.name, "--output", "json"])).unwrap()
    }
}

fn state<'a>(status: &'a Value, name: &str) -> &'a Value {
    let mut nodes = status["nodes"].as_array().unwrap().iter();
    &nodes.find(|node| node["name"] == name).unwrap()["state"]
}

fn namespaces() -> String {
    let output = Command::new("kubectl")
        .args(["get", "namespaces", "-o", "name"])
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn kubectl(arguments: &[&str]) -> String {
    let output = Command::new("kubectl").args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The namespace of a network that is up.
fn namespace(name: &str) -> String {
    let all = namespaces();
    let mut found = all.lines().filter_map(|line| line.strip_prefix("namespace/"));
    found.find(|one| one.contains(name)).unwrap().to_owned()
}

/// All keys follow from the seed, so nothing that anybody may read holds it.
fn the_seed_is_a_secret(name: &str) {
    let namespace = namespace(name);
    let maps = kubectl(&["get", "configmaps", "-n", &namespace, "-o", "json"]);
    assert!(
        !maps.contains("\\\"seed\\\"") && !maps.contains("trialnet-desk"),
        "{maps}"
    );
    let state = kubectl(&["get", "secret", "trialnet-desk", "-n", &namespace, "-o", "json"]);
    let state: Value = serde_json::from_str(&state).unwrap();
    assert_eq!(state["metadata"]["labels"]["trialnet.dev/desk"], "true");
    assert!(state["data"]["desk.json"].is_string(), "{state}");
}

/// Kills the first process of the container of a node from the machine that it runs on, as nobody in the pod could.
fn kill_container(namespace: &str, pod: &str) {
    let pod: Value = serde_json::from_str(&kubectl(&["get", "pod", pod, "-n", namespace, "-o", "json"])).unwrap();
    // As the cgroup of its processes is called, by either driver.
    let uid = pod["metadata"]["uid"].as_str().unwrap().replace('-', "[-_]");
    let machine = pod["spec"]["nodeName"].as_str().unwrap();
    let script = format!(
        "for group in $(grep -l {uid} /proc/[0-9]*/cgroup); do of=${{group%/cgroup}}; \
         if tr '\\0' ' ' < $of/cmdline | grep -q -- 'supervise --spec'; then kill -9 ${{of#/proc/}} && echo killed; fi; done"
    );
    let output = Command::new("docker")
        .args(["exec", machine, "sh", "-c", &script])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said.lines().count(), 1, "{output:?}");
}

/// What a node's RPC says of its height, asked of the API server and not of trialnet.
fn height(namespace: &str, pod: &str) -> Option<u64> {
    let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}:26657/proxy/status");
    let output = Command::new("kubectl").args(["get", "--raw", &path]).output().unwrap();
    let said: Value = serde_json::from_slice(&output.stdout).ok()?;
    let height = &said["result"]["sync_info"]["latest_block_height"];
    height.as_str()?.parse().ok()
}

/// Looks again and again until it sees something.
fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_cut_stays_when_a_container_is_started_again_and_nobody_is_there() {
    if !super::render::cluster() {
        return;
    }
    let space = Space::up("it-cut");
    let name = space.name.as_str();
    let partition = r#"partition = { sides = [["validator-0"], ["validator-1", "validator-2", "validator-3"]] }"#;
    space.good(&["inject", name, partition, "--id", "cut"]);
    let namespace = namespace(name);
    let restarts = || {
        let path = "jsonpath={.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].ready}";
        kubectl(&["get", "pod", "validator-0-0", "-n", &namespace, "-o", path])
    };
    assert_eq!(restarts(), "0 true");
    kill_container(&namespace, "validator-0-0");
    until("the kubelet starts it again", || (restarts() == "1 true").then_some(()));
    let alone = until("the node's own height", || height(&namespace, "validator-0-0"));
    // The others have a quorum and go on; with links that are clear it would follow them within a moment.
    let others = until("height of another", || height(&namespace, "validator-1-0"));
    until("the others go on", || {
        height(&namespace, "validator-1-0").filter(|now| *now >= others + 5)
    });
    assert_eq!(
        height(&namespace, "validator-0-0"),
        Some(alone),
        "no block came over the cut"
    );

    let text = space.good(&["heal", name, "--all"]);
    assert!(text.contains("cut: revert verified"), "{text}");
    until("it follows the others", || {
        height(&namespace, "validator-0-0").filter(|now| *now > others + 5)
    });
    space.good(&["down", name]);
}

#[test]
fn a_network_in_a_cluster_is_worked_at_from_several_processes() {
    if !super::render::cluster() {
        return;
    }
    let space = Space::up("it-desk");
    let name = space.name.as_str();
    assert!(namespaces().contains(name));
    the_seed_is_a_secret(name);
    let status = space.status();
    assert!(
        (0..4).all(|index| state(&status, &format!("validator-{index}")) == "running"),
        "{status:#}"
    );

    let partition = r#"partition = { sides = [["validator-0"], ["validator-1", "validator-2", "validator-3"]] }"#;
    let text = space.good(&["inject", name, partition, "--id", "cut"]);
    assert!(text.contains("cut: verified: no byte on"), "{text}");
    let text = space.good(&["inject", name, "kill = { nodes = [\"validator-3\"] }"]);
    assert!(text.contains("kill-1: verified"), "{text}");
    let status = space.status();
    assert_eq!(status["faults"].as_array().unwrap().len(), 2, "{status:#}");
    assert_eq!(state(&status, "validator-3"), "down");
    let (code, text) = space.trialnet(&["inject", name, "kill = { nodes = [\"validator-9\"] }"]);
    assert!(code == Some(2) && text.contains("validator-9"), "{text}");

    let text = space.good(&["heal", name, "--all"]);
    assert!(
        text.contains("cut: revert verified") && text.contains("kill-1: revert verified"),
        "{text}"
    );
    let status = space.status();
    assert_eq!(status["faults"].as_array().unwrap().len(), 0, "{status:#}");
    assert_eq!(state(&status, "validator-3"), "running");
    let text = space.good(&["logs", name, "validator-3", "--tail", "2"]);
    assert_eq!(text.lines().count(), 2, "{text}");

    space.good(&["down", name]);
    assert!(!namespaces().contains(name), "{}", namespaces());
}
