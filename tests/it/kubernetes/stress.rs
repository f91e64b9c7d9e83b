//! What is used beside the programs in their containers: it counts for these, follows a pod to the next, and ends with its lease.

use std::time::Instant;

use k8s_openapi::api::core::v1::Namespace;
use kube::ResourceExt;
use kube::api::DeleteParams;
use nix::sys::signal::Signal;

use super::agent::{LEASE, MORE, detail, gc};
use super::cluster::{cluster, until};
use super::runs::{LIMIT, Run, four};
use crate::killed::{end_both, signal};

/// The processes of this machine that hold exactly so many bytes beside a program: those of a kind cluster's containers are among them.
pub(super) fn holding(bytes: u64) -> Vec<u64> {
    let bytes = bytes.to_string();
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let holds = |entry: std::fs::DirEntry| {
        let words = std::fs::read(entry.path().join("cmdline")).ok()?;
        let words: Vec<&[u8]> = words.split(|byte| *byte == 0).collect();
        // Not the shim on its way to become it.
        let it = !words.contains(&b"shim".as_slice())
            && words
                .windows(2)
                .any(|two| two == [b"--memory".as_slice(), bytes.as_bytes()]);
        it.then(|| entry.file_name().to_str()?.parse().ok()).flatten()
    };
    all.filter_map(holds).collect()
}

/// A number of bytes that no other test has.
pub(super) fn some_bytes() -> u64 {
    u64::from((16 << 20) + rand::random_range(0..1_u32 << 20))
}

#[tokio::test]
async fn a_cometbft_network_goes_on_beside_stress() {
    let Some(api) = cluster().await else { return };
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios/stress/kubernetes-stress.toml");
    let text = std::fs::read_to_string(path).unwrap();
    let text = text.replace("name = \"stress\"", "name = \"NAME\"");
    let mut run = Run::start(&api, &text);
    let code = run.ended(LIMIT * 2).await;
    assert_eq!(code, Some(0), "{}", run.words());
    let (busy, full) = (detail(&run, "busy", "verified"), detail(&run, "full", "verified"));
    assert!(
        busy.contains("2 threads had") && busy.contains("beside cometbft of limited-0"),
        "{busy}"
    );
    assert!(full.contains("MiB are held beside cometbft of limited-0"), "{full}");
    println!("{busy}\n{full}\n{}", detail(&run, "busy", "revert-verified"));
    run.leaves_nothing().await;
}

#[tokio::test]
async fn a_pod_that_takes_anothers_place_is_stressed_the_same() {
    let Some(api) = cluster().await else { return };
    // The last look, at the heal, sees whether it is there.
    let steps = "[[steps]]\nid = \"busy\"\nstress = { nodes = [\"validator-0\"], cpu = 1 }\n\
         [[steps]]\nid = \"gone\"\nkill = { nodes = [\"validator-0\"], how = \"force-delete\" }\n\
         [[steps]]\nheal = [\"gone\"]\n\
         [[steps]]\nid = \"dead\"\nkill = { nodes = [\"validator-0\"], down = \"platform\" }\n\
         [[steps]]\nheal = [\"dead\"]\n[[steps]]\nheal = [\"busy\"]\n\
         [[steps]]\nexpect.progress = { blocks = 3, within = \"60s\" }\n";
    let mut run = Run::start(&api, &four(steps, "[limits]\nstart = \"3m\"\n"));
    let code = run.ended(LIMIT).await;
    assert_eq!(code, Some(0), "{}", run.words());
    run.leaves_nothing().await;
}

#[tokio::test]
async fn what_ends_before_its_time_is_caught() {
    let Some(api) = cluster().await else { return };
    let bytes = some_bytes();
    let steps = format!(
        "[[steps]]\nid = \"full\"\nstress = {{ nodes = [\"validator-0\"], memory = \"{bytes}\" }}\n[[steps]]\nwait = \"5m\"\n"
    );
    let mut run = Run::start(&api, &four(&steps, &limited()));
    run.says("\"verified\"").await;
    let [pid] = holding(bytes)[..] else {
        panic!("not one holds it")
    };
    signal(pid, Signal::SIGKILL);
    let code = run.ended(LIMIT).await;
    assert_eq!(code, Some(96), "{}", run.words());
    let findings = run.verdict()["findings"].to_string();
    assert!(findings.contains("infra/stress-ended"), "{findings}");
    run.leaves_nothing().await;
}

#[tokio::test]
async fn after_sigkill_of_trialnet_and_its_guard_the_lease_ends_the_stress() {
    let Some(api) = cluster().await else { return };
    let bytes = some_bytes();
    let steps = format!(
        "[[steps]]\nid = \"full\"\nstress = {{ nodes = [\"validator-0\", \"validator-1\"], cpu = 1, memory = \"{bytes}\" }}\n\
         [[steps]]\nwait = \"5m\"\n"
    );
    let mut run = Run::start(&api, &four(&steps, &limited()));
    run.says("\"verified\"").await;
    assert_eq!(holding(bytes).len(), 2);
    let namespace = run.namespaces().await[0].name_any();
    let guard = run.entry().unwrap()["guard"]["pid"].as_u64().unwrap();
    end_both(u64::from(run.child.id()), guard);
    let begun = Instant::now();
    run.child.wait().unwrap();
    let mut over = begun.elapsed();
    until("nothing is held", async || {
        over = begun.elapsed();
        holding(bytes).is_empty()
    })
    .await;
    println!("the stress was over {over:?} after SIGKILL");
    assert!(over < LEASE + MORE, "{over:?}");
    // Nobody is left who would remove it before it expires.
    let background = DeleteParams::background();
    api.delete::<Namespace>(None, &namespace, &background).await.unwrap();
    gc(&run.place.path().join("state"));
    run.leaves_nothing().await;
    run.can_be_judged();
}

/// Limits under which it fits.
pub(super) fn limited() -> String {
    "resources = { memory_limit = \"256Mi\" }\n[limits]\nstart = \"3m\"\nrun = \"15m\"\n".to_owned()
}
