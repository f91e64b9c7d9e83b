//! A cluster that a run makes for itself goes with it, also when trialnet is killed while kind is at work.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::runs::{EXE, GONE, four};
use crate::killed::{end_both, processes, signal};

/// How long a cluster may take to be made, and a network in it.
const LIMIT: Duration = Duration::from_secs(400);

/// A run that makes a cluster of its own.
struct Run {
    place: tempfile::TempDir,
    child: Child,
}

impl Run {
    fn start(change: impl FnOnce(&mut Command, &Path)) -> Self {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("created.toml");
        let text = four("[[steps]]\nwait = \"10m\"\n", "").replace("NAME", "created");
        fs::write(&file, format!("{text}\n[limits]\nrun = \"20m\"\n")).unwrap();
        let said = fs::File::create(place.path().join("said")).unwrap();
        let mut command = Command::new(EXE);
        command
            .args(["run", "--backend", "kubernetes", "--create", "--run-dir", "run"])
            .arg(&file)
            .current_dir(place.path())
            .env("TRIALNET_STATE_DIR", place.path().join("state"))
            .stdin(Stdio::null())
            .stdout(said.try_clone().unwrap())
            .stderr(said);
        change(&mut command, place.path());
        let child = command.spawn().unwrap();
        Self { place, child }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// Waits until something is seen while the run goes on.
    fn until<T>(&mut self, what: &str, mut look: impl FnMut(&Self) -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            if let Some(seen) = look(self) {
                return seen;
            }
            assert_eq!(self.child.try_wait().unwrap(), None, "{what}: {}", self.read("said"));
            assert!(begun.elapsed() < LIMIT, "{what}: {}", self.read("said"));
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The entry in the registry.
    fn entry(&self) -> Option<serde_json::Value> {
        let mut files = fs::read_dir(self.path("state/runs"))
            .ok()?
            .flatten()
            .map(|file| file.path());
        let path = files.find(|path| path.extension().is_some_and(|end| end == "json"))?;
        serde_json::from_slice(&fs::read(path).ok()?).ok()
    }

    fn strike(&mut self) {
        signal(u64::from(self.child.id()), Signal::SIGKILL);
        self.child.wait().unwrap();
    }

    /// Waits until nothing of it is there: no process, no entry in the registry, no kubeconfig.
    fn leaves_nothing(&self) {
        let begun = Instant::now();
        loop {
            let mut left = processes(self.place.path());
            let files = fs::read_dir(self.path("state")).into_iter().flatten().flatten();
            left.extend(
                files
                    .map(|file| file.path().display().to_string())
                    .filter(|path| path.contains("kubeconfig")),
            );
            left.extend(self.entry().map(|entry| format!("entry {entry}")));
            if left.is_empty() {
                return;
            }
            assert!(begun.elapsed() < GONE, "left are {left:#?}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// A kind that says what it was asked, takes its time to make a cluster, and whose docker brings a machine up after its end.
const SLOW: &str = r#"#!/bin/sh
echo "$*" >> "$KIND_ASKED"
case "$1 $2" in
"create cluster") sleep 600 & echo $! > "$KIND_ASKED.child"; wait;;
"get nodes") test $(grep -c "^delete cluster" "$KIND_ASKED") -ge 2 || echo late-control-plane;;
esac
"#;

fn slow_kind(command: &mut Command, place: &Path) {
    let folder = place.join("bin");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("kind"), SLOW).unwrap();
    fs::set_permissions(folder.join("kind"), fs::Permissions::from_mode(0o755)).unwrap();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(folder).chain(std::env::split_paths(&path));
    command
        .env("PATH", std::env::join_paths(folders).unwrap())
        .env("KIND_ASKED", place.join("asked"))
        // No other cluster is looked at.
        .env("KUBECONFIG", place.join("none"));
}

fn gone(pid: &str) -> bool {
    let line = fs::read(Path::new("/proc").join(pid.trim()).join("cmdline"));
    line.is_ok_and(|line| line.is_empty()) || !Path::new("/proc").join(pid.trim()).exists()
}

#[test]
fn kind_is_ended_and_what_it_made_removed_when_trialnet_is_killed() {
    let mut run = Run::start(slow_kind);
    let child = run.until("kind is at work", |run| {
        Some(run.read("asked.child")).filter(|pid| pid.ends_with('\n'))
    });
    run.strike();
    run.leaves_nothing();
    assert!(gone(&child), "what kind had started lives on: {child}");
    let asked = run.read("asked");
    let deleted: Vec<&str> = asked
        .lines()
        .filter(|line| line.starts_with("delete cluster --name trialnet-run-"))
        .collect();
    assert_eq!(deleted.len(), 2, "what came after the first look went too:\n{asked}");
}

#[test]
fn gc_ends_kind_and_removes_what_it_made_when_the_guard_was_killed_too() {
    let mut run = Run::start(slow_kind);
    let child = run.until("kind is at work", |run| {
        Some(run.read("asked.child")).filter(|pid| pid.ends_with('\n'))
    });
    let guard = run.entry().unwrap()["guard"]["pid"].as_u64().unwrap();
    end_both(u64::from(run.child.id()), guard);
    run.child.wait().unwrap();
    assert!(!gone(&child) && run.entry().is_some(), "nobody was there to end it");
    let mut gc = Command::new(EXE);
    gc.arg("gc").env("TRIALNET_STATE_DIR", run.path("state"));
    gc.env("KIND_ASKED", run.path("asked"))
        .env("KUBECONFIG", run.path("none"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(run.path("bin")).chain(std::env::split_paths(&path));
    let output = gc.env("PATH", std::env::join_paths(folders).unwrap()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("removed the cluster trialnet-run-"), "{output:?}");
    run.leaves_nothing();
    assert!(gone(&child), "what kind had started lives on: {child}");
}

/// The containers of a kind cluster, those that are only being made too.
fn containers(cluster: &str) -> String {
    let filter = format!("label=io.x-k8s.kind.cluster={cluster}");
    let output = Command::new("docker")
        .args(["ps", "--all", "--quiet", "--filter", &filter])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn struck_with_a_real_cluster(what: &str, when: impl Fn(&Run, &str) -> bool) {
    if !super::render::cluster() || Command::new("kind").arg("version").output().is_err() {
        return;
    }
    let mut run = Run::start(|_, _| {});
    let name = run.until("the cluster's name", |run| {
        Some(run.entry()?["cluster"]["created"].as_str()?.to_owned())
    });
    run.until(what, |run| when(run, &name).then_some(()));
    run.strike();
    run.leaves_nothing();
    assert_eq!(containers(&name), "", "{name}");
}

#[test]
fn sigkill_while_kind_makes_the_cluster_leaves_nothing() {
    struck_with_a_real_cluster("a machine is being made", |_, cluster| !containers(cluster).is_empty());
}

#[test]
fn sigkill_of_a_run_in_its_own_cluster_leaves_nothing() {
    struck_with_a_real_cluster("the chain runs", |run, _| {
        run.read("run/records.jsonl").contains("\"ready\"")
    });
}
