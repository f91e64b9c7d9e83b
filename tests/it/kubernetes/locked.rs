//! Volumes that nobody can write to: real nodes on them, an agent that does nothing, and what is left when everybody is gone.

use std::time::Instant;

use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::ResourceExt;
use kube::api::DeleteParams;

use super::agent::{LEASE, MORE, detail, gc, leaves_the_agents};
use super::cluster::{cluster, until};
use super::runs::{LIMIT, Run, four};
use crate::killed::end_both;

const LOCKED: &str = "[[steps]]\nid = \"locked\"\nread_only = { nodes = [\"validator-3\"] }\n";

/// How many mounts of the node's first volume are read-only, and how many there are, in the processes of a pod: those of a kind cluster are in this
/// machine's table.
fn mounts(pod: &str) -> (usize, usize) {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let of_pod = all.filter(|entry| {
        let groups = std::fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
        groups.contains(pod) || groups.contains(&pod.replace('-', "_"))
    });
    let (mut locked, mut there) = (0, 0);
    for entry in of_pod {
        let mounts = std::fs::read_to_string(entry.path().join("mountinfo")).unwrap_or_default();
        for line in mounts.lines() {
            let fields: Vec<&str> = line.split(' ').collect();
            if fields.get(4).is_some_and(|at| at.ends_with("/data/home")) {
                there += 1;
                locked += usize::from(fields[5].split(',').any(|option| option == "ro"));
            }
        }
    }
    (locked, there)
}

#[tokio::test]
async fn nodes_end_on_a_volume_that_nobody_can_write_to_and_come_back() {
    let Some(api) = cluster().await else { return };
    for (file, name, component) in [
        ("kubernetes-read-only.toml", "read-only-disk", "devnode"),
        (
            "kubernetes-read-only-cometbft.toml",
            "read-only-disk-of-cometbft",
            "cometbft",
        ),
    ] {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("scenarios/stress")
            .join(file);
        let text = std::fs::read_to_string(path).unwrap();
        let text = text.replace(&format!("name = \"{name}\""), "name = \"NAME\"");
        let mut run = Run::start(&api, &format!("{text}\n[limits]\nstart = \"3m\"\n"));
        let code = run.ended(LIMIT * 2).await;
        assert_eq!(code, Some(0), "{}", run.words());
        let seen = detail(&run, "locked", "verified");
        assert!(
            seen.contains("Read-only file system") && seen.contains(&format!("beside {component} of validator-3")),
            "{seen}"
        );
        let back = detail(&run, "locked", "revert-verified");
        assert!(
            back.starts_with(&format!("a file can be made beside {component} of validator-3")),
            "{back}"
        );
        println!("{seen}\n{back}");
        run.leaves_nothing().await;
        leaves_the_agents(&api, &run).await;
    }
}

#[tokio::test]
async fn an_agent_that_locks_nothing_is_caught() {
    let Some(api) = cluster().await else { return };
    let text = four(
        &format!("{LOCKED}[[steps]]\nwait = \"1s\"\n"),
        "[limits]\nstart = \"3m\"\n",
    );
    let mut run = Run::start_with(&api, &text, |command, _| {
        command.env("TRIALNET_GUARD_TAMPER", "cut-nothing");
    });
    let code = run.ended(LIMIT).await;
    assert_eq!(code, Some(96), "{}", run.words());
    let finding = &run.verdict()["findings"][0];
    assert_eq!(finding["code"], "infra/fault-no-effect", "{finding}");
    run.leaves_nothing().await;
    leaves_the_agents(&api, &run).await;
}

#[tokio::test]
async fn after_sigkill_of_trialnet_and_its_guard_the_next_container_can_write() {
    let Some(api) = cluster().await else { return };
    let text = four(
        &format!("{LOCKED}[[steps]]\nwait = \"5m\"\n"),
        "[limits]\nstart = \"3m\"\n",
    );
    let mut run = Run::start(&api, &text);
    run.says("\"verified\"").await;
    let namespace = run.namespaces().await[0].name_any();
    let pods = api.list::<Pod>(Some(&namespace), "").await.unwrap();
    let pod = pods
        .iter()
        .find(|pod| pod.name_any().starts_with("validator-3"))
        .unwrap();
    let pod = pod.uid().unwrap();
    let (locked, there) = mounts(&pod);
    assert!(there > 0 && locked == there, "{locked} of {there}");
    let guard = run.entry().unwrap()["guard"]["pid"].as_u64().unwrap();
    end_both(u64::from(run.child.id()), guard);
    let begun = Instant::now();
    run.child.wait().unwrap();
    let mut over = begun.elapsed();
    until("its volume can be written to", async || {
        over = begun.elapsed();
        let (locked, there) = mounts(&pod);
        there > 0 && locked == 0
    })
    .await;
    println!("the volume could be written to {over:?} after SIGKILL");
    assert!(over < LEASE + MORE, "{over:?}");
    // Nobody is left who would remove it before it expires.
    let background = DeleteParams::background();
    api.delete::<Namespace>(None, &namespace, &background).await.unwrap();
    gc(&run.place.path().join("state"));
    run.leaves_nothing().await;
    leaves_the_agents(&api, &run).await;
}
