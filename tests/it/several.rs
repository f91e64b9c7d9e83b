//! Several files in one call: one after the other, side by side, and none after the first that failed.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a call may take to come to what is waited for.
const LIMIT: Duration = Duration::from_secs(60);

/// A network of one validator that waits so long, and is then expected at this height.
fn scenario(place: &Path, name: &str, wait: &str, height: u64) -> PathBuf {
    let file = place.join(format!("{name}.toml"));
    let text = format!(
        r#"
format = 1
name = "{name}"
[network]
chain = "devnode"
[network.groups.validator]
role = "validator"
count = 1
[[steps]]
wait = "{wait}"
[[steps]]
expect.height = {{ at_least = {height}, within = "500ms" }}
"#
    );
    std::fs::write(&file, text).unwrap();
    file
}

fn run(place: &Path, flags: &[&str], files: &[PathBuf]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_trialnet"))
        .arg("run")
        .args(flags)
        .arg("--run-dir")
        .arg(place.join("runs"))
        .args(files)
        .env("TRIALNET_STATE_DIR", place.join("state"))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The verdicts of these runs, as far as there are any.
fn verdicts(place: &Path, names: &[&str]) -> Vec<Option<String>> {
    let verdict = |name: &&str| {
        let text = std::fs::read(place.join("runs").join(name).join("verdict.json")).ok()?;
        let report: serde_json::Value = serde_json::from_slice(&text).unwrap();
        Some(report["verdict"].as_str().unwrap().to_owned())
    };
    names.iter().map(verdict).collect()
}

#[test]
fn nothing_starts_after_the_first_that_failed() {
    let names = ["first", "second", "third"];
    for (flags, second, third) in [
        (&["--jobs", "1", "--fail-fast"][..], None, None),
        (&["--jobs", "1"][..], Some("passed"), Some("passed")),
    ] {
        let place = tempfile::tempdir().unwrap();
        let heights = [1_000_000, 1, 1];
        let files: Vec<_> = names
            .iter()
            .zip(heights)
            .map(|(name, height)| scenario(place.path(), name, "1ms", height))
            .collect();
        let done = run(place.path(), flags, &files).wait_with_output().unwrap();
        let told = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(100), "{told}");
        let expected = [Some("expectation-failed"), second, third].map(|verdict| verdict.map(str::to_owned));
        assert_eq!(verdicts(place.path(), &names), expected, "{told}");
        assert_eq!(told.contains("2 scenarios not started"), second.is_none(), "{told}");
    }
}

#[test]
fn as_many_run_at_the_same_time_as_are_asked_for() {
    let names = ["one", "other"];
    let place = tempfile::tempdir().unwrap();
    let files = names.map(|name| scenario(place.path(), name, "1m", 1));
    let mut child = run(place.path(), &["--jobs", "2"], &files);
    let ready = |name: &str| {
        let records = std::fs::read_to_string(place.path().join("runs").join(name).join("records.jsonl"));
        records.is_ok_and(|text| text.contains("\"ready\""))
    };
    let begun = Instant::now();
    while !names.iter().all(|name| ready(name)) {
        assert!(begun.elapsed() < LIMIT, "not both are ready");
        assert!(child.try_wait().unwrap().is_none(), "it ended before both were ready");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(
        verdicts(place.path(), &names),
        [None, None],
        "one was over before the other was ready"
    );
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(3));
    let interrupted = [Some("interrupted".to_owned()), Some("interrupted".to_owned())];
    assert_eq!(verdicts(place.path(), &names), interrupted);
}
