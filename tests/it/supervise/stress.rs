//! What a supervisor uses beside its program.

use trialnet::backend::Stressed;
use trialnet::model::{Fill, Stress};

use super::*;

const MEBI: u64 = 1 << 20;

fn busy(threads: u32) -> Stress {
    Stress {
        cpu: threads,
        ..Stress::default()
    }
}

fn all(stresses: &[(&str, Stress)]) -> Ask {
    let named = stresses.iter().map(|(fault, stress)| ((*fault).to_owned(), *stress));
    Ask::Stress(named.collect())
}

async fn seen(client: &mut Client, fault: &str) -> Option<Stressed> {
    match client.ask(Ask::Stressed(fault.to_owned())).await.unwrap() {
        Reply::Stressed(seen) => seen,
        other => panic!("{other:?}"),
    }
}

/// The processes that use something beside the program.
fn processes(supervisor: &Supervisor) -> Vec<u32> {
    let mut all = table::descendants(supervisor.child.id());
    all.retain(|pid| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        words.split(|byte| *byte == 0).any(|word| word == b"stress")
    });
    all
}

#[tokio::test]
async fn stress_is_beside_the_program_and_adds_up() {
    let dir = tempfile::tempdir().unwrap();
    let supervisor = Supervisor::start(dir.path(), spec(dir.path(), &[]));
    let mut client = supervisor.connect(0).await;
    client.started().await;
    let full = Stress {
        memory: 64 * MEBI,
        ..Stress::default()
    };
    client.done(all(&[("busy", busy(2)), ("full", full)])).await;
    until_true("two threads want a processor", async || {
        let seen = seen(&mut client, "busy").await;
        seen.is_some_and(|seen| seen.busy == 2 && seen.used > Ms(0))
    })
    .await;
    until_true("64 MiB are held", async || {
        let seen = seen(&mut client, "full").await;
        seen.is_some_and(|seen| seen.busy == 0 && seen.memory >= 64 * MEBI && seen.memory < 96 * MEBI)
    })
    .await;
    assert_eq!(seen(&mut client, "nothing").await, None);

    // None of the program's: neither halted nor killed with it.
    client.done(Ask::Pause).await;
    client.until_state(RunState::Paused).await;
    assert_eq!(seen(&mut client, "busy").await.unwrap().busy, 2);
    client.done(Ask::Resume).await;
    let before = processes(&supervisor);
    assert_eq!(before.len(), 2);
    client.done(Ask::Kill).await;
    client.done(Ask::Start).await;
    assert_eq!(processes(&supervisor), before);

    // What stays is not begun anew.
    client.done(all(&[("busy", busy(2))])).await;
    until_true("the other one is gone", async || {
        seen(&mut client, "full").await.is_none()
    })
    .await;
    let left = processes(&supervisor);
    assert!(left.len() == 1 && before.contains(&left[0]), "{left:?} of {before:?}");
    client.done(all(&[])).await;
    until_true("all are gone", async || seen(&mut client, "busy").await.is_none()).await;
    assert_eq!(processes(&supervisor), [0_u32; 0]);
    assert!(client.troubles.is_empty(), "{:?}", client.troubles);
}

#[tokio::test]
async fn stress_ends_with_its_lease() {
    let dir = tempfile::tempdir().unwrap();
    let mut spec = spec(dir.path(), &[]);
    spec.lease = Ms(500);
    let supervisor = Supervisor::start(dir.path(), spec);
    let mut client = supervisor.connect(0).await;
    client.done(all(&[("busy", busy(1))])).await;
    until_true("it says so", async || {
        client.state().await;
        !client.troubles.is_empty()
    })
    .await;
    // The connection breaks before anybody has heeded it, so it is said again.
    let mut client = supervisor.connect(0).await;
    let trouble = client.trouble().await;
    assert_eq!(trouble.code, "infra/lease-lost");
    assert!(trouble.seen.contains("1 processes beside it ended"), "{trouble}");
    let mut client = supervisor.connect(0).await;
    until_true("it is gone", async || seen(&mut client, "busy").await.is_none()).await;
    assert!(client.troubles.is_empty(), "heeded and said again");
    assert_eq!(processes(&supervisor), [0_u32; 0]);
}

#[tokio::test]
async fn a_volume_that_is_larger_than_was_said_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let supervisor = Supervisor::start(dir.path(), spec(dir.path(), &["home"]));
    let mut client = supervisor.connect(0).await;
    let fill = |size| Stress {
        fill: Some(Fill { percent: 1, size }),
        ..Stress::default()
    };
    // Somebody's disk: nothing is written, and it is said that this fault is not on.
    client.done(all(&[("full", fill(MEBI))])).await;
    let trouble = client.trouble().await;
    assert_eq!(trouble.code, "infra/stress-ended");
    assert_eq!(seen(&mut client, "full").await, None);
    // As large as was said, and more than one percent of it is used already.
    client.done(all(&[("full", fill(u64::MAX / 2))])).await;
    until_true("it is looked at", async || {
        seen(&mut client, "full").await.is_some_and(|seen| seen.full >= 1)
    })
    .await;
    client.done(all(&[])).await;
    until_true("it is gone", async || seen(&mut client, "full").await.is_none()).await;
}

#[tokio::test]
async fn stress_that_ends_by_itself_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let supervisor = Supervisor::start(dir.path(), spec(dir.path(), &[]));
    let mut client = supervisor.connect(0).await;
    client.done(all(&[("busy", busy(1))])).await;
    let mut pids = Vec::new();
    until_true("it runs", async || {
        pids = processes(&supervisor);
        pids.len() == 1
    })
    .await;
    table::signal(pids[0], Signal::SIGKILL);
    let trouble = client.trouble().await;
    assert_eq!(trouble.code, "infra/stress-ended");
    assert!(trouble.expected.contains("busy"), "{trouble}");
    assert_eq!(seen(&mut client, "busy").await, None);
}

#[tokio::test]
async fn stress_does_not_outlive_its_supervisor() {
    let dir = tempfile::tempdir().unwrap();
    let mut supervisor = Supervisor::start(dir.path(), spec(dir.path(), &[]));
    let mut client = supervisor.connect(0).await;
    client.done(all(&[("busy", busy(1))])).await;
    let mut pids = Vec::new();
    until_true("it runs", async || {
        pids = processes(&supervisor);
        pids.len() == 1 && seen(&mut client, "busy").await.is_some()
    })
    .await;
    supervisor.signal(Signal::SIGKILL);
    supervisor.end().await;
    until_true("it is gone", async || {
        table::look(pids[0]).is_none_or(|seen| seen.run == RunState::Gone)
    })
    .await;
}
