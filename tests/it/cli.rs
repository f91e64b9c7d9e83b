//! Whole calls of the program as a user sees them: exit code, stdout, stderr.

use std::path::Path;
use std::process::{Command, Output};

fn call(place: &Path, arguments: &[&str]) -> Output {
    let state = tempfile::tempdir().unwrap();
    Command::new(env!("CARGO_BIN_EXE_trialnet"))
        .args(arguments)
        .current_dir(place)
        .env("TRIALNET_STATE_DIR", state.path())
        .env_remove("TRIALNET_SEED")
        .env_remove("TRIALNET_GUARD_TAMPER")
        .env_remove("COLUMNS")
        .output()
        .unwrap()
}

/// What was seen.
fn seen(output: &Output) -> String {
    let text = |bytes| String::from_utf8_lossy(bytes).trim_end().to_owned();
    let code = output.status.code().unwrap();
    format!(
        "exit code {code}\n----- stdout\n{}\n----- stderr\n{}\n",
        text(&output.stdout),
        text(&output.stderr)
    )
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn help() {
    insta::assert_snapshot!("help", seen(&call(root(), &["--help"])));
    insta::assert_snapshot!("run-help", seen(&call(root(), &["run", "--help"])));
}

#[test]
fn lists_explains_and_plans() {
    insta::assert_snapshot!("list", seen(&call(root(), &["list", "scenarios"])));
    insta::assert_snapshot!("explain", seen(&call(root(), &["explain", "safety/fork"])));
    insta::assert_snapshot!("explain-unknown", seen(&call(root(), &["explain", "safety/fokr"])));
    let arguments = ["plan", "scenarios/quickstart.toml", "--seed", "1"];
    insta::assert_snapshot!("plan", seen(&call(root(), &arguments)));
}

#[test]
fn a_file_with_several_problems() {
    let arguments = [
        "validate",
        "fixtures/invalid/many-at-once.toml",
        "scenarios/kill-one.toml",
    ];
    insta::assert_snapshot!("validate", seen(&call(root(), &arguments)));
    insta::assert_snapshot!("no-such-file", seen(&call(root(), &["run", "no-such-file.toml"])));
}

#[test]
fn one_bad_file_of_several_and_nothing_is_started() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("runs");
    let (good, bad) = ("scenarios/quickstart.toml", "fixtures/invalid/corrupt.toml");
    let output = call(root(), &["run", good, bad, "--run-dir", folder.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(94), "{}", seen(&output));
    assert!(!folder.exists(), "{}", seen(&output));
}

#[test]
fn homes_are_kept_as_it_was_asked() {
    let place = tempfile::tempdir().unwrap();
    let scenario = |least: u32, window: &str| {
        format!(
            "format = 1\nname = \"kept\"\n[network]\nchain = \"devnode\"\n[network.groups.validator]\nrole = \"validator\"\ncount = 1\n\
             [[steps]]\nexpect.height = {{ at_least = {least}{window} }}\n"
        )
    };
    let files = [
        ("passes.toml", scenario(1, ", within = \"30s\"")),
        ("fails.toml", scenario(1_000_000, "")),
    ];
    for (file, text) in &files {
        std::fs::write(place.path().join(file), text).unwrap();
    }
    for (file, keep, code, kept) in [
        ("passes.toml", "never", 0, false),
        ("passes.toml", "on-failure", 0, false),
        ("passes.toml", "always", 0, true),
        ("fails.toml", "never", 100, false),
        ("fails.toml", "on-failure", 100, true),
    ] {
        let folder = place.path().join(format!("{file}-{keep}"));
        let output = call(
            place.path(),
            &["run", file, "--keep", keep, "--run-dir", folder.to_str().unwrap()],
        );
        assert_eq!(output.status.code(), Some(code), "{}", seen(&output));
        let home = folder.join("homes/validator-0");
        assert_eq!(home.is_dir(), kept, "{file} --keep {keep}: {}", seen(&output));
    }
}

/// Numbers that the machine decides, and lines that come when they come.
const FILTERS: &[(&str, &str)] = &[
    // The order of what two processes say is theirs, and heights are said every ten seconds.
    (
        r"(?m)^ .*(started again|tearing down|validator-0 (\d+|silent|down), ).*\n",
        "",
    ),
    (r"(?m)^( *\| ).*\n(?: *\| .*\n)*", "${1}the last lines of the log\n"),
    (r"(?m)^ *\+?\d+\.\d+s  ", "   TIME  "),
    (r"\d+(\.\d+)?m?s after ready", "TIME after ready"),
    (r"\(\d+(\.\d+)?s\)", "(TIME)"),
    (
        r"(up|verified|over|recovered|for|in) (after |in )?\d+\.\d+s",
        "$1 ${2}TIME",
    ),
    (r"(start|run|settle|teardown) \d+(\.\d+)?s", "$1 TIME"),
    (r"pid \d+", "pid PID"),
    (r"seen( +)validator-1 \d+", "seen${1}validator-1 N"),
    (r"\d+ of \d+ heights \(\d+ %\)", "N of N heights (N %)"),
    (r"(at height|height|quorum at) \d+\b", "$1 N"),
];

/// Runs steps on four validators; the output with all that differs redacted.
fn run(name: &str, steps: &str) -> String {
    let place = tempfile::tempdir().unwrap();
    let text = format!(
        "format = 1\nname = \"{name}\"\nabout = \"A run for a snapshot.\"\nseed = 7\n[network]\nchain = \"devnode\"\n\
         [network.groups.validator]\nrole = \"validator\"\ncount = 4\n{steps}"
    );
    std::fs::write(place.path().join("shown.toml"), text).unwrap();
    seen(&call(place.path(), &["run", "shown.toml", "--run-dir", "evidence"]))
}

#[test]
fn a_run_that_passes_in_plain_lines() {
    let text = run(
        "passes",
        "[[steps]]\nname = \"the chain runs\"\nexpect.height = { at_least = 2, within = \"30s\" }\n\
         [[steps]]\nid = \"victim\"\nkill = { nodes = [\"validator-2\"] }\n\
         [[steps]]\nexpect.progress = { blocks = 2, within = \"30s\" }\n\
         [[steps]]\nheal = [\"victim\"]\n\
         [[steps]]\nexpect.recovery = { of = \"victim\", within = \"30s\" }\n",
    );
    insta::with_settings!({ filters => FILTERS.to_vec() }, { insta::assert_snapshot!("passes", text) });
}

#[test]
fn a_run_that_fails_in_plain_lines() {
    let text = run(
        "fails",
        "[[steps]]\nexpect.height = { nodes = [\"validator-1\"], at_most = 2, for = \"3s\" }\n\
         [[steps]]\nexpect.progress = { blocks = 2, within = \"30s\" }\n",
    );
    insta::with_settings!({ filters => FILTERS.to_vec() }, { insta::assert_snapshot!("fails", text) });
}
