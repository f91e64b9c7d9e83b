//! Turned wrong on purpose, with real processes: a guard that does something else than it says, plans that cannot come true, a program
//! that is not there, records that end in the middle. Each is caught for the right reason, and its healthy twin passes.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::{fs, str};

use serde_json::Value;

use crate::killed::processes;

/// A side of three goes on without the fourth; the step heals what is cut.
const CUT: &str = r#"
[[steps]]
id = "cut-off"
partition = { sides = [["validator-0", "validator-1", "validator-2"], ["validator-3"]] }
[[steps]]
expect.progress = { blocks = 2, within = "20s" }
[[steps]]
heal = ["cut-off"]
[[steps]]
expect.recovery = { of = "cut-off", within = "20s" }
"#;
/// The cut ends by itself.
const TIMED_CUT: &str = r#"
[[steps]]
id = "cut-off"
isolate = { nodes = ["validator-3"], for = "1s" }
[[steps]]
expect.recovery = { of = "cut-off", within = "20s" }
"#;
const DELAY: &str = r#"
[[steps]]
id = "slow"
delay = { nodes = ["all"], latency = "100ms", for = "1s" }
[[steps]]
expect.progress = { blocks = 2, within = "20s" }
"#;
const KILL: &str = r#"
[[steps]]
id = "victim"
kill = { nodes = ["validator-2"], down = "1s" }
[[steps]]
expect.progress = { blocks = 2, within = "20s" }
[[steps]]
expect.recovery = { of = "victim", within = "20s" }
"#;
const PAUSE: &str = r#"
[[steps]]
id = "frozen"
pause = { nodes = ["validator-1"], for = "1s" }
[[steps]]
expect.recovery = { of = "frozen", within = "20s" }
"#;

/// `trialnet` in a place of its own, as a user calls it.
fn trialnet(place: &Path, arguments: &[&str], tamper: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_trialnet"))
        .args(arguments)
        .current_dir(place)
        .env("TRIALNET_STATE_DIR", place.join("state"))
        .env("TRIALNET_GUARD_TAMPER", tamper)
        .env_remove("TRIALNET_SEED")
        .output()
        .unwrap()
}

fn words(bytes: &[u8]) -> String {
    str::from_utf8(bytes).unwrap().to_owned()
}

/// A run that has ended, with nothing left of it but its folder.
struct Ran {
    place: tempfile::TempDir,
    code: Option<i32>,
    out: String,
    err: String,
    verdict: Value,
}

/// Runs four validators through these steps.
#[track_caller]
fn run(steps: &str, tamper: &str) -> Ran {
    run_text(
        &format!(
            "format = 1\nname = \"turned\"\n[network]\nchain = \"devnode\"\n\
             [network.groups.validator]\nrole = \"validator\"\ncount = 4\n[limits]\nsettle = \"10s\"\n\
             [[steps]]\nexpect.height = {{ at_least = 2, within = \"30s\" }}\n{steps}"
        ),
        tamper,
    )
}

#[track_caller]
fn run_text(scenario: &str, tamper: &str) -> Ran {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("turned.toml"), scenario).unwrap();
    let output = trialnet(place.path(), &["run", "turned.toml", "--run-dir", "run"], tamper);
    let (out, err) = (words(&output.stdout), words(&output.stderr));
    let read = fs::read(place.path().join("run/verdict.json")).unwrap_or_else(|_| panic!("no verdict:\n{err}"));
    let verdict = serde_json::from_slice(&read).unwrap();
    let ran = Ran {
        place,
        code: output.status.code(),
        out,
        err,
        verdict,
    };
    ran.leaves_nothing();
    ran.is_judged_the_same_again();
    ran
}

impl Ran {
    fn folder(&self) -> PathBuf {
        self.place.path().join("run")
    }

    #[track_caller]
    fn leaves_nothing(&self) {
        let left = processes(self.place.path());
        assert!(left.is_empty(), "{left:?}");
        assert!(!self.folder().join("homes").exists(), "the nodes' homes are left");
        let runs = fs::read_dir(self.place.path().join("state/runs"));
        let entries: Vec<_> = runs.into_iter().flatten().flatten().collect();
        assert!(entries.is_empty(), "the registry still has {entries:?}");
    }

    /// The folder alone gives the same report, field by field, and the same exit code.
    #[track_caller]
    fn is_judged_the_same_again(&self) {
        let judged = trialnet(self.place.path(), &["judge", "run", "--json"], "");
        let again: Value = serde_json::from_slice(&judged.stdout).unwrap();
        for (field, value) in self.verdict.as_object().unwrap() {
            assert_eq!(again[field], *value, "{field} differs");
        }
        assert_eq!(
            again.as_object().unwrap().len(),
            self.verdict.as_object().unwrap().len()
        );
        assert_eq!(judged.status.code(), self.code);
        assert_eq!(words(&judged.stderr), "", "there is something to note");
    }

    #[track_caller]
    fn passed(&self) {
        assert_eq!(
            (self.code, self.kind()),
            (Some(0), "passed"),
            "{}{}",
            self.err,
            self.out
        );
        assert_eq!(self.verdict["findings"], Value::Array(Vec::new()));
    }

    fn kind(&self) -> &str {
        self.verdict["verdict"].as_str().unwrap()
    }

    /// The verdict, and the first finding: its code, class, node and what was seen.
    #[track_caller]
    fn caught(&self, code: i32, class: &str, finding: &str, node: Option<&str>, seen: &str) {
        let shown = format!("{}{}", self.err, self.out);
        assert_eq!((self.code, self.kind()), (Some(code), class), "{shown}");
        let first = &self.verdict["findings"][0];
        assert_eq!(first["code"], finding, "{shown}");
        assert_eq!(first["class"], class, "{shown}");
        assert_eq!(first["node"].as_str(), node, "{shown}");
        let words = first["seen"].as_str().unwrap();
        assert!(words.contains(seen), "{words:?} does not say {seen:?}");
        assert!(self.out.contains(finding), "{shown}");
    }

    /// One thing went wrong, so there is one finding.
    #[track_caller]
    fn only(&self) {
        let findings = self.verdict["findings"].as_array().unwrap();
        assert_eq!(findings.len(), 1, "{findings:#?}");
    }

    fn fault(&self) -> &Value {
        &self.verdict["faults"][0]
    }

    /// The fault was asked for and never seen; what came before stands, what would have come after was not run.
    #[track_caller]
    fn without_effect(&self) {
        self.only();
        let fault = self.fault();
        assert!(
            fault["injected_ms"].is_i64() && fault["verified_ms"].is_null(),
            "{fault}"
        );
        let states: Vec<_> = self.steps();
        assert_eq!(states[..2], ["ok", "failed"]);
        assert!(states[2..].iter().all(|state| *state == "not-reached"), "{states:?}");
        assert!(self.out.starts_with("INFRASTRUCTURE  turned"), "{}", self.out);
    }

    /// The fault was there, was said to be gone, and was not.
    #[track_caller]
    fn not_put_back(&self, id: &str) {
        self.only();
        let fault = self.fault();
        assert!(
            fault["verified_ms"].is_i64() && fault["reverted_ms"].is_i64(),
            "{fault}"
        );
        assert!(fault["revert_verified_ms"].is_null(), "{fault}");
        let first = self.out.lines().next().unwrap();
        let wanted = format!("NOT PUT BACK  repair with `trialnet gc`: fault {id} (");
        assert!(first.starts_with(&wanted), "{first}");
    }

    fn steps(&self) -> Vec<&str> {
        let steps = self.verdict["steps"].as_array().unwrap();
        steps.iter().map(|step| step["state"].as_str().unwrap()).collect()
    }
}

const INFRASTRUCTURE: &str = "infrastructure";
const NO_EFFECT: &str = "infra/fault-no-effect";
const NOT_REVERTED: &str = "infra/revert-failed";

#[test]
fn healthy_twins_pass() {
    for steps in [CUT, TIMED_CUT, DELAY, KILL, PAUSE] {
        let ran = run(steps, "");
        ran.passed();
        let fault = ran.fault();
        for moment in [
            "planned_ms",
            "injected_ms",
            "verified_ms",
            "reverted_ms",
            "revert_verified_ms",
        ] {
            assert!(fault[moment].is_i64(), "{moment}: {fault}");
        }
    }
}

#[test]
fn a_cut_that_cuts_nothing() {
    let ran = run(CUT, "cut-nothing");
    ran.caught(96, INFRASTRUCTURE, NO_EFFECT, None, "brought a byte from validator-");
    ran.without_effect();
    let ran = run(TIMED_CUT, "cut-nothing");
    ran.caught(96, INFRASTRUCTURE, NO_EFFECT, Some("validator-3"), "brought a byte");
    ran.without_effect();
}

#[test]
fn a_delay_that_delays_nothing() {
    let ran = run(DELAY, "cut-nothing");
    // Where the machine is too busy to tell, that is said.
    ran.caught(96, INFRASTRUCTURE, NO_EFFECT, None, "less than ");
    ran.without_effect();
}

#[test]
fn a_cut_that_cuts_more_than_it_says() {
    let ran = run(CUT, "cut-more");
    ran.caught(
        96,
        INFRASTRUCTURE,
        "infra/fault-stronger",
        None,
        "more was cut than asked: no byte from",
    );
    ran.without_effect();
}

#[test]
fn a_heal_that_heals_nothing() {
    let ran = run(CUT, "heal-nothing");
    ran.caught(96, INFRASTRUCTURE, NOT_REVERTED, None, "no byte from validator-");
    ran.not_put_back("cut-off");
    let states = ran.steps();
    assert_eq!(states[..3], ["ok", "ok", "ok"]);
    assert!(!states[3..].contains(&"ok"), "{states:?}");
}

#[test]
fn a_cut_that_does_not_end_by_itself() {
    let ran = run(TIMED_CUT, "heal-nothing");
    ran.caught(
        96,
        INFRASTRUCTURE,
        NOT_REVERTED,
        Some("validator-3"),
        "no byte from validator-",
    );
    ran.not_put_back("cut-off");
}

#[test]
fn a_kill_that_kills_nobody() {
    let ran = run(KILL, "kill-nothing");
    ran.caught(
        96,
        INFRASTRUCTURE,
        NO_EFFECT,
        Some("validator-2"),
        "validator-2 is still there, pid",
    );
    ran.without_effect();
}

#[test]
fn a_kill_that_also_kills_another() {
    let ran = run(KILL, "kill-extra");
    // Nobody asked for the death of validator-0, so it is that node's; the victim itself is no news.
    ran.caught(
        100,
        "liveness-failed",
        "liveness/exit",
        Some("validator-0"),
        "ended by signal 9",
    );
    let findings = ran.verdict["findings"].as_array().unwrap();
    assert!(
        findings.iter().all(|finding| finding["node"] != "validator-2"),
        "{findings:#?}"
    );
    assert_eq!(findings[0]["faults"], serde_json::json!(["victim"]));
    // What the node itself was last seen at, which may be a sample behind the others.
    assert!(
        findings[0]["height"].as_u64().is_some_and(|height| height >= 1),
        "{findings:#?}"
    );
}

#[test]
fn a_pause_that_pauses_nobody() {
    let ran = run(PAUSE, "pause-nothing");
    ran.caught(
        96,
        INFRASTRUCTURE,
        NO_EFFECT,
        Some("validator-1"),
        "validator-1 is Running",
    );
    ran.without_effect();
}

#[test]
fn a_resume_that_resumes_nobody() {
    let ran = run(PAUSE, "resume-nothing");
    ran.caught(
        96,
        INFRASTRUCTURE,
        NOT_REVERTED,
        Some("validator-1"),
        "validator-1 is still halted, pid",
    );
    ran.not_put_back("frozen");
}

#[test]
fn a_node_that_lies_is_caught_on_cut_off_records_too() {
    let text = fs::read_to_string(shipped("scenarios/caught/another-hash.toml")).unwrap();
    let ran = run_text(&text, "");
    ran.caught(100, "safety-violated", "safety/fork", Some("liar-0"), "from liar-0");
    let height = ran.verdict["findings"][0]["height"].as_u64();
    assert_eq!(height, Some(8));
    // As after a SIGKILL of trialnet after the fork was seen: what was proved stands.
    let records = fs::read_to_string(ran.folder().join("records.jsonl")).unwrap();
    let lines: Vec<&str> = records.lines().collect();
    let (code, out) = judge_records(ran.place.path(), &lines[..lines.len() - 3].join("\n"));
    assert_eq!(code, Some(100), "{out}");
    assert!(out.contains("safety/fork on liar-0 at height 8"), "{out}");
}

/// Judges a folder with the same plan and other records, and without a verdict.
#[test]
fn shipped_liars_are_caught_by_code_node_and_height() {
    for (file, verdict, code, heights) in [
        ("another-hash", "safety-violated", "safety/fork", 8..=8),
        ("another-app-state", "safety-violated", "safety/app-state", 8..=8),
        // From 10 on it is 9 blocks lower, whenever that is seen.
        ("height-goes-back", "safety-violated", "safety/height-back", 1..=10),
        // It dies while it makes block 8.
        ("dies-by-itself", "liveness-failed", "liveness/exit", 7..=8),
    ] {
        let text = fs::read_to_string(shipped(&format!("scenarios/caught/{file}.toml"))).unwrap();
        let ran = run_text(&text, "");
        let finding = &ran.verdict["findings"][0];
        assert_eq!(ran.verdict["verdict"], verdict, "{}", ran.err);
        assert_eq!(
            (finding["code"].as_str(), finding["node"].as_str()),
            (Some(code), Some("liar-0")),
            "{finding}"
        );
        let height = finding["height"].as_u64();
        assert!(height.is_some_and(|height| heights.contains(&height)), "{finding}");
    }
}

fn judge_records(place: &Path, records: &str) -> (Option<i32>, String) {
    let folder = place.join("cut");
    if folder.exists() {
        fs::remove_dir_all(&folder).unwrap();
    }
    fs::create_dir(&folder).unwrap();
    fs::copy(place.join("run/plan.json"), folder.join("plan.json")).unwrap();
    fs::write(folder.join("records.jsonl"), records).unwrap();
    let judged = trialnet(place, &["judge", "cut"], "");
    (judged.status.code(), words(&judged.stdout) + &words(&judged.stderr))
}

#[test]
fn records_that_end_in_the_middle_can_be_judged() {
    let ran = run(KILL, "");
    ran.passed();
    let records = fs::read_to_string(ran.folder().join("records.jsonl")).unwrap();
    let ends: Vec<usize> = records.match_indices('\n').map(|(at, _)| at + 1).collect();
    // A whole last line, and one torn in its middle and in its last byte: never green, never a complaint.
    for number in (1..ends.len()).step_by((ends.len() / 12).max(1)) {
        let (from, to) = (ends[number - 1], ends[number]);
        for end in [from, usize::midpoint(from, to), to - 2] {
            let (code, out) = judge_records(ran.place.path(), &records[..end]);
            assert_eq!(code, Some(3), "cut at byte {end}:\n{out}");
            assert!(out.contains("run/cut-off"), "cut at byte {end}:\n{out}");
            assert!(
                out.contains("the run was cut off before its end"),
                "cut at byte {end}:\n{out}"
            );
        }
    }
    // Something else in the middle was put there by somebody.
    let (first, rest) = records.split_at(ends[5]);
    let (code, out) = judge_records(ran.place.path(), &format!("{first}{{\"at\":\n{rest}"));
    assert_eq!(code, Some(2), "{out}");
    assert!(out.contains("line 7 of cut/records.jsonl is not a record"), "{out}");
}

fn shipped(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(file)
}

#[test]
fn plans_that_cannot_come_true_are_refused_with_the_sum() {
    let cases = [
        (
            "quorum-halt-not-declared",
            "quorum/undeclared-halt",
            "20 of 40 is not more than two",
        ),
        (
            "quorum-exactly-two-thirds-left",
            "quorum/undeclared-halt",
            "60 of 90 is not more than two",
        ),
        (
            "quorum-exactly-two-thirds-left",
            "quorum/contradiction",
            "60 of 90 is not",
        ),
        ("quorum-pick-too-large", "quorum/pick", "at best 20 of 40 is not"),
    ];
    for (name, code, sum) in cases {
        let place = tempfile::tempdir().unwrap();
        let file = shipped(&format!("fixtures/invalid/{name}.toml"));
        let refused = trialnet(place.path(), &["run", file.to_str().unwrap()], "");
        let err = words(&refused.stderr);
        assert_eq!(refused.status.code(), Some(94), "{err}");
        assert!(err.contains(code) && err.contains(sum), "{err}");
        assert!(err.contains("nothing was started"), "{err}");
        let made: Vec<_> = fs::read_dir(place.path()).unwrap().flatten().collect();
        assert!(made.is_empty(), "{made:?}");
    }
}

#[test]
fn a_missing_program_is_infrastructure_and_says_how_to_get_it() {
    let text = fs::read_to_string(shipped("scenarios/cometbft/kill-one.toml")).unwrap();
    let text = text.replacen(
        "[[steps]]",
        "[versions.\"0.38.17\"]\nbinary = \"no-such-cometbft\"\n\n[[steps]]",
        1,
    );
    let ran = run_text(&text, "");
    ran.caught(
        96,
        INFRASTRUCTURE,
        "infra/program-missing",
        None,
        "no-such-cometbft is not on PATH: `go install github.com/cometbft/cometbft/cmd/cometbft@v0.38.17`",
    );
    ran.only();
    assert!(ran.steps().iter().all(|state| *state == "not-reached"));
}
