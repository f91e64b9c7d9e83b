//! A chain that goes wrong is caught in pods as it is in processes: the same class, code, node and height.

use serde_json::Value;

use super::cluster::cluster;
use super::runs::{LIMIT, Run};

/// Runs a shipped file of `scenarios/caught`; the exit code, and the first finding.
async fn caught(file: &str) -> Option<(Run, Option<i32>, Value)> {
    let api = cluster().await?;
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("scenarios/caught/{file}.toml"));
    let text = std::fs::read_to_string(path).unwrap();
    let mut run = Run::start(&api, &text.replace(&format!("name = \"{file}\""), "name = \"NAME\""));
    let code = run.ended(LIMIT).await;
    let finding = run.verdict()["findings"][0].clone();
    run.leaves_nothing().await;
    Some((run, code, finding))
}

#[tokio::test]
async fn a_node_that_serves_another_hash() {
    let Some((run, code, finding)) = caught("another-hash").await else {
        return;
    };
    assert_eq!(code, Some(100), "{}", run.words());
    assert_eq!(finding["class"], "safety-violated", "{finding}");
    assert_eq!(finding["code"], "safety/fork", "{finding}");
    assert_eq!(
        (&finding["node"], &finding["height"]),
        (&"liar-0".into(), &8.into()),
        "{finding}"
    );
}

#[tokio::test]
async fn a_node_with_another_application_state() {
    let Some((run, code, finding)) = caught("another-app-state").await else {
        return;
    };
    assert_eq!(code, Some(100), "{}", run.words());
    assert_eq!(finding["code"], "safety/app-state", "{finding}");
    assert_eq!(finding["node"], "liar-0", "{finding}");
}

#[tokio::test]
async fn a_node_that_dies_by_itself() {
    let Some((run, code, finding)) = caught("dies-by-itself").await else {
        return;
    };
    assert_eq!(code, Some(100), "{}", run.words());
    assert_eq!(finding["class"], "liveness-failed", "{finding}");
    assert_eq!(finding["code"], "liveness/exit", "{finding}");
    assert_eq!(finding["node"], "liar-0", "{finding}");
    // Its last words came out of the pod.
    let log = std::fs::read_to_string(run.folder().join("logs/liar-0.devnode.log")).unwrap();
    assert!(!log.trim().is_empty());
}

#[tokio::test]
async fn a_node_that_does_not_bear_damaged_files() {
    let Some((run, code, finding)) = caught("corrupt-blocks").await else {
        return;
    };
    assert_eq!(code, Some(100), "{}", run.words());
    assert_eq!(finding["code"], "liveness/exit", "{finding}");
    assert_eq!(finding["node"], "validator-0", "{finding}");
    // The prober in the pod saw the file before and after.
    let damaged = |line: &&str| line.contains("\"damaged\"") && line.contains("data/blocks.jsonl");
    assert_eq!(run.records().lines().filter(damaged).count(), 1, "{}", run.words());
}
