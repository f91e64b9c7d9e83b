//! Ten scenarios at the same time on one cluster: nobody is in anybody's way.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use k8s_openapi::api::core::v1::Namespace;
use kube::ResourceExt;
use serde_json::Value;
use trialnet::backend::kubernetes::objects::OWNER;

use super::cluster::cluster;
use super::runs::{EXE, Others};
use crate::killed::processes;

#[tokio::test]
async fn ten_scenarios_side_by_side_do_not_collide() {
    let Some(api) = cluster().await else { return };
    let others = Others::make(&api).await;
    let place = tempfile::tempdir().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files: Vec<PathBuf> = std::fs::read_dir(root.join("scenarios"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        // Two strike by the clock, whoever else is busy; `rehearsal` has seven nodes too.
        .filter(|path| {
            path.file_stem()
                .is_some_and(|stem| stem != "rehearsal" && stem != "flapping")
        })
        .collect();
    files.sort();
    assert_eq!(files.len(), 10, "{files:?}");
    // Forty pods start and run at the same time, on a machine that may have two processors: they get the time for it, and so few
    // blocks and polls that nobody starves. How fast they are is not what is looked at.
    let pace = ("chain = \"devnode\"\n", "chain = \"devnode\"\nblock_time = \"500ms\"\n");
    let limits = "\n[limits]\nstart = \"4m\"\nsettle = \"60s\"\n";
    let files: Vec<PathBuf> = files
        .iter()
        .map(|file| {
            let text = std::fs::read_to_string(file).unwrap();
            assert!(!text.contains("[limits]"), "{file:?} has limits of its own");
            assert!(
                text.contains(pace.0) && !text.contains("block_time"),
                "{file:?} has a pace of its own"
            );
            let copy = place.path().join(file.file_name().unwrap());
            std::fs::write(&copy, text.replace(pace.0, pace.1) + limits).unwrap();
            copy
        })
        .collect();
    let begun = Instant::now();
    let child = Command::new(EXE)
        .args(["run", "--jobs", "10", "--backend", "kubernetes", "--run-dir"])
        .arg(place.path().join("runs"))
        .args(&files)
        .env("TRIALNET_STATE_DIR", place.path().join("state"))
        .env_remove("TRIALNET_SEED")
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let pid = child.id();
    let output = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap())
        .await
        .unwrap();
    println!("ten scenarios took {:?}", begun.elapsed());
    let words = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    let verdicts: Vec<Value> = files
        .iter()
        .filter_map(|file| std::fs::read(place.path().join("runs").join(file.file_stem()?).join("verdict.json")).ok())
        .map(|verdict| serde_json::from_slice(&verdict).unwrap())
        .collect();
    let others_than_passed: Vec<&Value> = verdicts
        .iter()
        .filter(|verdict| verdict["verdict"] != "passed")
        .collect();
    // What was found stands last: a log that is cut keeps its end.
    assert!(others_than_passed.is_empty(), "{words}\n{others_than_passed:#?}");
    assert_eq!(verdicts.len(), files.len(), "{words}");
    assert_eq!(output.status.code(), Some(0), "{words}");
    let all = api.list::<Namespace>(None, "").await.unwrap();
    let mine = |namespace: &&Namespace| {
        let owner = namespace.annotations().get(OWNER);
        owner.is_some_and(|owner| owner.ends_with(&format!(" {pid}")))
    };
    let left: Vec<String> = all.iter().filter(mine).map(ResourceExt::name_any).collect();
    assert_eq!(left, [""; 0]);
    assert_eq!(processes(place.path()), [""; 0]);
    others.are_as_before().await;
}
