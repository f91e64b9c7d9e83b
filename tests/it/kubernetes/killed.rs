//! Whatever happens to trialnet, nothing is left in the cluster: SIGKILL at random moments, of its guard too, and the polite signals.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::time::{Duration, SystemTime};

use kube::ResourceExt;
use nix::sys::signal::Signal;
use rand::RngExt;
use trialnet::backend::kubernetes::objects::EXPIRES;

use super::agent::leaves_the_agents;
use super::cluster::cluster;
use super::runs::{EXE, GONE, LIMIT, Others, Run, STRUCK, four};
use crate::killed::{end_both, signal};

/// Longer than a run usually takes until all its faults are on.
const LATEST_MOMENT: u64 = 30_000;
/// After so many seconds without its guard a namespace is nobody's.
const EXPIRY: &str = "4";

/// Twenty in full; each takes up to a minute.
fn trials() -> u64 {
    let asked = std::env::var("TRIALNET_TRIALS").ok().and_then(|text| text.parse().ok());
    asked.unwrap_or(2).min(20)
}

/// Every other run has volumes; the others have agents that lose packets.
fn scenario(trial: u64) -> String {
    let text = four(STRUCK, "");
    match trial.is_multiple_of(2) {
        true => text,
        false => text
            .replace("[network]\n", "[network]\npersistence = \"ephemeral\"\n")
            .replace(
                "kill = { nodes = [\"validator-3\"] }",
                "pause = { nodes = [\"validator-3\"] }",
            )
            .replace("delay = {", "loss = {")
            .replace("latency = \"20ms\"", "percent = 20"),
    }
}

/// Waits for a random moment, but not longer than until every fault is on.
async fn random_moment(run: &Run) {
    let moment = Duration::from_millis(rand::rng().random_range(0..LATEST_MOMENT));
    println!("{} is struck after {moment:?}", run.name);
    tokio::time::sleep(moment).await;
}

#[tokio::test]
async fn sigkill_of_trialnet_at_random_moments_leaves_nothing() {
    let Some(api) = cluster().await else { return };
    let others = Others::make(&api).await;
    for trial in 0..trials() {
        let mut run = Run::start(&api, &scenario(trial));
        random_moment(&run).await;
        signal(u64::from(run.child.id()), Signal::SIGKILL);
        let status = run.child.wait().unwrap();
        assert_eq!(
            status.signal(),
            Some(9),
            "it was not running any more: {status}\n{}",
            run.words()
        );
        run.leaves_nothing().await;
        leaves_the_agents(&api, &run).await;
        run.can_be_judged();
    }
    others.are_as_before().await;
}

#[tokio::test]
async fn after_sigkill_of_trialnet_and_its_guard_gc_removes_everything_once_it_expires() {
    let Some(api) = cluster().await else { return };
    let others = Others::make(&api).await;
    for trial in 0..trials().div_ceil(4) {
        let mut run = Run::start_with(&api, &scenario(trial), |command, _| {
            command.env("TRIALNET_EXPIRY", EXPIRY);
        });
        let begun = std::time::Instant::now();
        while run.namespaces().await.is_empty() {
            assert!(begun.elapsed() < LIMIT, "no namespace:\n{}", run.words());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        random_moment(&run).await;
        let entry = run.entry().unwrap();
        let guard = entry["guard"]["pid"].as_u64().unwrap();
        end_both(u64::from(run.child.id()), guard);
        run.child.wait().unwrap();
        // A machine that knows nothing of the run, as when its own is lost.
        let elsewhere = tempfile::tempdir().unwrap();
        let gc = |arguments: &[&str]| {
            let mut command = Command::new(EXE);
            command
                .arg("gc")
                .args(arguments)
                .env("TRIALNET_STATE_DIR", elsewhere.path());
            let output = command.output().unwrap();
            let words = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{words}");
            words
        };
        let [namespace] = &run.namespaces().await[..] else {
            panic!("the namespace is gone without a guard")
        };
        let name = namespace.name_any();
        let expires = humantime::parse_rfc3339(&namespace.annotations()[EXPIRES]).unwrap();
        let ahead = expires.duration_since(SystemTime::now()).unwrap_or_default();
        let words = gc(&["--dry-run"]);
        // It may have taken its time.
        if SystemTime::now() < expires {
            assert!(!words.contains(&name), "{words}");
        }
        assert!(ahead < Duration::from_secs(6), "{ahead:?}");
        let left = expires.duration_since(SystemTime::now()).unwrap_or_default();
        tokio::time::sleep(left + Duration::from_millis(100)).await;
        let words = gc(&[]);
        assert!(words.contains(&format!("removed the namespace {name}")), "{words}");
        // Its own machine forgets it too; what is there is only an entry.
        let state = run.place.path().join("state");
        let own = Command::new(EXE)
            .arg("gc")
            .env("TRIALNET_STATE_DIR", &state)
            .output()
            .unwrap();
        assert!(own.status.success(), "{own:?}");
        run.leaves_nothing().await;
        leaves_the_agents(&api, &run).await;
        run.can_be_judged();
    }
    others.are_as_before().await;
}

#[tokio::test]
async fn polite_signals_interrupt_with_a_complete_run_folder() {
    let Some(api) = cluster().await else { return };
    for polite in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let mut run = Run::start(&api, &scenario(0));
        run.says("\"ready\"").await;
        tokio::time::sleep(Duration::from_millis(rand::rng().random_range(0..6000))).await;
        signal(u64::from(run.child.id()), polite);
        let code = run.ended(GONE).await;
        assert_eq!(code, Some(3), "{polite}:\n{}", run.words());
        let verdict = run.verdict();
        assert_eq!(verdict["verdict"], "interrupted", "{}", run.words());
        for fault in verdict["faults"].as_array().unwrap() {
            let was_on = fault["injected_ms"].is_i64();
            assert!(!was_on || fault["reverted_ms"].is_i64(), "{polite}: {fault}");
        }
        let files = [
            "scenario.toml",
            "plan.json",
            "junit.xml",
            "logs/validator-0.devnode.log",
        ];
        for file in files {
            assert!(run.folder().join(file).is_file(), "{polite}: {file} is missing");
        }
        run.leaves_nothing().await;
        leaves_the_agents(&api, &run).await;
    }
}

#[tokio::test]
async fn polite_signals_at_any_moment_leave_nothing() {
    let Some(api) = cluster().await else { return };
    let others = Others::make(&api).await;
    let polite = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];
    for (trial, polite) in (0..trials()).zip(polite.into_iter().cycle()) {
        let mut run = Run::start(&api, &scenario(trial));
        random_moment(&run).await;
        signal(u64::from(run.child.id()), polite);
        let code = run.ended(GONE).await;
        assert_eq!(code, Some(3), "{polite}:\n{}", run.words());
        if !run.records().is_empty() {
            assert_eq!(run.verdict()["verdict"], "interrupted", "{}", run.words());
        }
        run.leaves_nothing().await;
        leaves_the_agents(&api, &run).await;
    }
    others.are_as_before().await;
}
