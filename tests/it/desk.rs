//! A local network that stays while a person works at it; each command is a process of its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs};

use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(10);

fn scenario(name: &str) -> String {
    format!(
        "format = 1\nname = \"{name}\"\n[network]\nchain = \"devnode\"\n[network.groups.validator]\nrole = \"validator\"\n\
         count = 4\n[network.groups.late]\nrole = \"full\"\ncount = 1\nstart = \"manual\"\n\
         [[steps]]\nstart = {{ nodes = [\"late\"] }}\n"
    )
}

/// A folder with a registry of its own; whatever a test leaves up is removed.
struct Space {
    place: tempfile::TempDir,
}

impl Drop for Space {
    fn drop(&mut self) {
        self.trialnet(&["down", "--all"]);
    }
}

impl Space {
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        Self { place }
    }

    fn path(&self) -> &Path {
        self.place.path()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_trialnet"));
        command
            .args(arguments)
            .current_dir(self.path())
            .env("TRIALNET_STATE_DIR", self.path().join("state"))
            .env("KUBECONFIG", self.path().join("no-cluster"))
            .env("NO_COLOR", "1")
            .stdin(Stdio::null());
        command
    }

    /// The exit code and all that was printed.
    fn trialnet(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let output = self.command(arguments).output().unwrap();
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
    fn up(&self, name: &str) -> PathBuf {
        let file = self.path().join(format!("{name}.toml"));
        fs::write(&file, scenario(name)).unwrap();
        let folder = self.path().join(format!("run-{name}"));
        let text = self.good(&["up", file.to_str().unwrap(), "--run-dir", folder.to_str().unwrap()]);
        assert!(text.contains("trialnet down"), "{text}");
        folder
    }

    #[track_caller]
    fn status(&self, name: &str) -> Value {
        serde_json::from_str(&self.good(&["status", name, "--output", "json"])).unwrap()
    }

    /// The first status of which the condition holds.
    #[track_caller]
    fn until(&self, name: &str, condition: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + LIMIT;
        loop {
            let status = self.status(name);
            if condition(&status) {
                return status;
            }
            assert!(Instant::now() < deadline, "last seen: {status:#}");
        }
    }

    /// What is left of all runs here, in words.
    fn left(&self) -> Vec<String> {
        let mut left: Vec<String> = processes(self.path())
            .into_iter()
            .map(|pid| format!("process {pid}"))
            .collect();
        for folder in [self.path().to_owned(), self.path().join("state/runs")] {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let homes = entry.path().join("homes");
                if homes.exists() {
                    left.push(homes.display().to_string());
                }
            }
        }
        for entry in fs::read_dir(self.path().join("state/runs"))
            .into_iter()
            .flatten()
            .flatten()
        {
            left.push(entry.path().display().to_string());
        }
        left
    }

    #[track_caller]
    fn nothing_left(&self) {
        let deadline = Instant::now() + LIMIT;
        loop {
            let left = self.left();
            if left.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "left: {}", left.join("\n"));
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Processes whose environment or arguments name this folder.
fn processes(folder: &Path) -> Vec<u32> {
    let mine = std::process::id();
    let folder = folder.to_str().unwrap().as_bytes();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        let names = ["cmdline", "environ"].iter().any(|file| {
            let text = fs::read(entry.path().join(file)).unwrap_or_default();
            text.windows(folder.len()).any(|part| part == folder)
        });
        if names && pid != mine {
            found.push(pid);
        }
    }
    found
}

fn node<'a>(status: &'a Value, name: &str) -> &'a Value {
    let nodes = status["nodes"].as_array().unwrap();
    nodes.iter().find(|node| node["name"] == name).unwrap()
}

fn faults(status: &Value) -> Vec<&str> {
    let faults = status["faults"].as_array().unwrap();
    faults.iter().map(|fault| fault["id"].as_str().unwrap()).collect()
}

#[test]
fn a_network_is_worked_at_from_several_processes() {
    let space = Space::new();
    let folder = space.up("bench");
    // A network is ready with its first block, for which two thirds of the links suffice.
    let status = space.until("bench", |status| {
        (0..4).all(|index| node(status, &format!("validator-{index}"))["peers"] == 3)
    });
    for index in 0..4 {
        let node = node(&status, &format!("validator-{index}"));
        assert_eq!(node["state"], "running", "{status:#}");
        assert!(node["height"].as_u64() > Some(0), "{status:#}");
    }
    assert_eq!(node(&status, "late-0")["state"], "not started");
    assert!(space.good(&["ps"]).contains("bench"));
    assert_eq!(space.good(&["gc"]).trim(), "nothing is left over");

    let partition =
        r#"partition = { sides = [["validator-0"], ["validator-1", "validator-2", "validator-3", "late-0"]] }"#;
    let text = space.good(&["inject", "bench", partition]);
    assert!(text.contains("partition-1: verified: no byte on"), "{text}");
    let text = space.good(&["inject", "kill = { nodes = [\"validator-3\"] }", "--id", "dead"]);
    assert!(
        text.contains("dead: verified:") && text.contains("RPC port closed"),
        "{text}"
    );
    let status = space.status("bench");
    assert_eq!(faults(&status), ["partition-1", "dead"]);
    assert_eq!(node(&status, "validator-3")["state"], "down");

    // Whoever heals has never seen these faults before.
    let text = space.good(&["heal", "partition-1"]);
    assert!(text.contains("partition-1: revert verified: bytes on"), "{text}");
    let text = space.good(&["inject", "start = { nodes = [\"validator-3\"] }"]);
    assert!(text.contains("dead: revert verified"), "{text}");
    let status = space.status("bench");
    assert!(faults(&status).is_empty(), "{status:#}");
    assert_eq!(node(&status, "validator-3")["state"], "running");
    space.good(&["inject", "start = { nodes = [\"late\"] }"]);
    assert_eq!(node(&space.status("bench"), "late-0")["state"], "running");
    let text = space.good(&["inject", "tx = { value = \"a=1\" }"]);
    assert!(text.contains("committed at height"), "{text}");

    let text = space.good(&["logs", "validator-3", "--tail", "3"]);
    assert_eq!(text.lines().count(), 3, "{text}");
    assert!(
        space.good(&["logs", "validator-3.devnode"]).contains("generation 2"),
        "{text}"
    );

    space.good(&["down"]);
    space.nothing_left();
    assert!(folder.join("records.jsonl").exists() && folder.join("logs/validator-0.devnode.log").exists());
    let (code, text) = space.trialnet(&["status"]);
    assert_eq!(code, Some(2), "{text}");
}

#[test]
fn a_timed_fault_ends_with_its_command() {
    let space = Space::new();
    space.up("timed");
    let begin = Instant::now();
    let text = space.good(&["inject", "kill = { nodes = [\"validator-0\"], down = \"1s\" }"]);
    assert!(begin.elapsed() >= Duration::from_secs(1));
    assert!(text.contains("kill-1: revert verified"), "{text}");
    // Ctrl-C ends it sooner.
    let mut command = space.command(&["inject", "pause = { nodes = [\"validator-1\"], for = \"10m\" }"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    space.until("timed", |status| node(status, "validator-1")["state"] == "paused");
    let pid = nix::unistd::Pid::from_raw(child.id().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{text}");
    let status = space.status("timed");
    assert!(faults(&status).is_empty(), "{status:#}\n{text}");
    assert_eq!(node(&status, "validator-1")["state"], "running");
    space.good(&["down", "timed"]);
    space.nothing_left();
}

#[test]
fn what_makes_no_sense_is_refused_with_its_place() {
    let space = Space::new();
    let (code, text) = space.trialnet(&["inject", "kill = { nodes = [\"validator-0\"] }"]);
    assert!(code == Some(2) && text.contains("none is up"), "{text}");
    space.up("odd");
    for (step, words) in [
        (
            "kill = { nodes = [\"validator-9\"] }",
            "there is no node or group `validator-9`",
        ),
        ("kil = { nodes = [\"validator-0\"] }", "did you mean"),
        (
            "expect.progress = { blocks = 1, within = \"1s\" }",
            "`expect` is for scenario files",
        ),
        ("start = { nodes = [\"validator-0\"] }", "already running here"),
        ("kill = { nodes = [\"validator-0\"]", "the step:1"),
    ] {
        let (code, text) = space.trialnet(&["inject", step]);
        assert_eq!(code, Some(2), "{step}: {text}");
        assert!(text.contains(words), "{step}: {text}");
    }
    let (code, text) = space.trialnet(&["heal", "nothing"]);
    assert!(code == Some(2) && text.contains("on are: none"), "{text}");
    space.good(&["inject", "pause = { nodes = [\"validator-0\"] }", "--id", "p"]);
    let (code, text) = space.trialnet(&["inject", "stop = { nodes = [\"validator-1\"] }", "--id", "p"]);
    assert!(
        code == Some(2) && text.contains("a fault that is on is called `p`"),
        "{text}"
    );
    space.good(&["down", "odd"]);
    space.nothing_left();
}

#[test]
fn two_networks_at_once_are_told_apart() {
    let space = Space::new();
    let (first, second) = (space.up("first"), space.up("second"));
    let (code, text) = space.trialnet(&["status"]);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("first") && text.contains("second"), "{text}");
    space.good(&["inject", "first", "kill = { nodes = [\"validator-0\"] }"]);
    assert_eq!(faults(&space.status("first")), ["kill-1"]);
    assert!(faults(&space.status("second")).is_empty());
    space.good(&["down", "first"]);
    assert!(!first.join("homes").exists() && second.join("homes").exists());
    assert_eq!(node(&space.status("second"), "validator-0")["state"], "running");
    space.good(&["down", "--all"]);
    space.nothing_left();
}

#[test]
fn nothing_outlives_a_guard_that_is_killed() {
    let space = Space::new();
    space.up("struck");
    let runs = space.path().join("state/runs");
    let mut files = fs::read_dir(runs).unwrap().flatten().map(|file| file.path());
    let entry = files
        .find(|path| path.extension().is_some_and(|e| e == "json"))
        .unwrap();
    let entry: Value = serde_json::from_slice(&fs::read(entry).unwrap()).unwrap();
    let guard = i32::try_from(entry["guard"]["pid"].as_i64().unwrap()).unwrap();
    assert!(processes(space.path()).len() > 4);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(guard), nix::sys::signal::Signal::SIGKILL).unwrap();
    let deadline = Instant::now() + LIMIT;
    while !processes(space.path()).is_empty() {
        assert!(Instant::now() < deadline, "{:?}", processes(space.path()));
        std::thread::sleep(Duration::from_millis(20));
    }
    let (code, text) = space.trialnet(&["status", "struck"]);
    assert_eq!(code, Some(2), "{text}");
    space.good(&["gc"]);
    space.nothing_left();
}

#[test]
fn a_network_ends_by_itself_after_its_time() {
    let space = Space::new();
    let file = space.path().join("short.toml");
    fs::write(&file, scenario("short")).unwrap();
    space.good(&["up", file.to_str().unwrap(), "--for", "2s"]);
    space.nothing_left();
}
