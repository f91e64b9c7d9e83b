//! Nodes of several components on a cluster, through the seam that every chain uses: six small programs in one pod.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::time::Duration;

use futures::FutureExt;
use k8s_openapi::api::core::v1::Pod;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use trialnet::backend::kubernetes::provider::Flags;
use trialnet::backend::kubernetes::{Kubernetes, KubernetesOptions};
use trialnet::backend::{
    Component, ComponentState, Deployer, LinkId, NodeOps, NodeSpec, Place, Port, Program, RunState, Teardown, Trouble,
    Wanted,
};
use trialnet::model::{self, Ms, Persistence, Resources};

use super::cluster::{EXE, cluster, until};

/// The services of a CITA-Cloud node, each at a port of its own and dialling the next: `network` to its peer's.
const SERVICES: [(&str, u16); 6] = [
    ("network", 50_000),
    ("consensus", 50_001),
    ("executor", 50_002),
    ("storage", 50_003),
    ("controller", 50_004),
    ("crypto", 50_005),
];
const NODES: [&str; 2] = ["node-0", "node-1"];

fn options(place: &tempfile::TempDir) -> KubernetesOptions {
    KubernetesOptions {
        exe: PathBuf::from(EXE),
        run_dir: place.path().to_path_buf(),
        run_id: format!("{:08x}", rand::random::<u32>()),
        scenario: "six-components".to_owned(),
        settings: model::Kubernetes::default(),
        flags: Flags::default(),
        persistence: Persistence::Ephemeral,
        lease: Ms::secs(10),
        voting: Vec::new(),
        min_available: None,
        alone: std::collections::BTreeSet::new(),
        outages: false,
        packets: false,
        locks: false,
        rates: false,
    }
}

/// The component at this place: it listens at its port and dials the one after it.
fn component(index: usize, peer: Option<String>) -> Component {
    let (name, port) = SERVICES[index];
    let mut args = vec!["testnode".to_owned(), "--listen".to_owned(), format!("0.0.0.0:{port}")];
    if let Some((_, next)) = SERVICES.get(index + 1) {
        args.push(format!("--dial=127.0.0.1:{next}"));
    }
    args.extend(peer.map(|peer| format!("--dial={peer}")));
    Component {
        name: name.to_owned(),
        program: Program::Trialnet,
        version: "1".to_owned(),
        args,
        env: BTreeMap::new(),
        ports: vec![name.to_owned()],
        files: Vec::new(),
        user: None,
        resources: Resources {
            cpu: Some("10m".to_owned()),
            memory: Some("16Mi".to_owned()),
            ..Resources::default()
        },
    }
}

async fn components(ops: &dyn NodeOps, node: &str) -> Vec<ComponentState> {
    ops.state(node).await.unwrap().components
}

/// Whether somebody greets at this port of the node.
async fn greets(ops: &dyn NodeOps, node: &str, service: &str) -> bool {
    let endpoint = ops.endpoint(node, service, service).unwrap();
    let greeting = async {
        let mut stream = TcpStream::connect(endpoint.address).await?;
        stream.read_u8().await
    };
    let greeting = tokio::time::timeout(Duration::from_secs(3), greeting).await;
    matches!(greeting, Ok(Ok(_)))
}

/// Ends the program of a component by a way of our own: those of a kind cluster are in this machine's table.
fn end_from_outside(run: &str, node: &str, component: &str) {
    let wanted = [
        format!("TRIALNET_RUN={run}"),
        format!("TRIALNET_NODE={node}"),
        format!("TRIALNET_COMPONENT={component}"),
    ];
    let mut ended = 0;
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let environ = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        let has = |word: &String| environ.split(|byte| *byte == 0).any(|found| found == word.as_bytes());
        if wanted.iter().all(has) {
            let pid = entry.file_name().to_str().unwrap().parse().unwrap();
            crate::killed::signal(pid, nix::sys::signal::Signal::SIGKILL);
            ended += 1;
        }
    }
    assert_eq!(ended, 1, "{component} of {node}");
}

async fn network(backend: &Kubernetes) -> Result<(), Trouble> {
    let wanted = NODES.map(|node| Wanted {
        node: node.to_owned(),
        ports: SERVICES.map(|(name, number)| Port { name, number }).to_vec(),
        volumes: vec!["home".to_owned()],
    });
    let link = LinkId {
        from: NODES[0].to_owned(),
        to: NODES[1].to_owned(),
        port: "network".to_owned(),
    };
    let addresses = backend.reserve(&wanted, std::slice::from_ref(&link)).await?;
    let specs = NODES.map(|node| NodeSpec {
        name: node.to_owned(),
        place: Place::default(),
        components: (0..SERVICES.len())
            .map(|index| {
                let peer = (index == 0 && node == link.from).then(|| addresses.links[&link].to_string());
                component(index, peer)
            })
            .collect(),
        volumes: vec!["home".to_owned()],
        started: true,
    });
    backend.apply(&specs).await
}

#[tokio::test]
async fn a_component_of_six_is_killed_and_started_again_and_the_others_go_on() {
    let Some(api) = cluster().await else { return };
    let place = tempfile::tempdir().unwrap();
    let (records, _seen) = mpsc::unbounded_channel();
    let options = options(&place);
    let run = options.run_id.clone();
    let backend = Kubernetes::new(options, records);
    let done = AssertUnwindSafe(async {
        network(&backend).await.unwrap();
        let pods = api.list::<Pod>(Some(backend.namespace()), "").await.unwrap();
        assert_eq!(pods.len(), 2, "six components are one pod");
        let ops = backend.ops();
        for (service, _) in SERVICES {
            until(service, async || greets(&*ops, "node-0", service).await).await;
        }
        let before = components(&*ops, "node-0").await;
        assert_eq!(before.len(), 6);

        ops.kill("node-0", Some("executor")).await.unwrap();
        until("the executor is gone", async || {
            components(&*ops, "node-0").await[2].run == RunState::Gone
        })
        .await;
        assert!(!greets(&*ops, "node-0", "executor").await);
        for (service, _) in SERVICES.iter().filter(|(service, _)| *service != "executor") {
            assert!(
                greets(&*ops, "node-0", service).await,
                "{service} has nothing to do with it"
            );
        }
        assert!(greets(&*ops, "node-1", "executor").await);

        ops.start("node-0").await.unwrap();
        until("the executor runs again", async || {
            greets(&*ops, "node-0", "executor").await
        })
        .await;
        let after = components(&*ops, "node-0").await;
        for (before, after) in before.iter().zip(&after) {
            let again = u32::from(before.name == "executor");
            assert_eq!(after.generation, before.generation + again, "{after:?}");
            assert_eq!(after.pid == before.pid, again == 0, "{after:?}");
            assert_eq!(after.place, before.place, "its container stays: {after:?}");
            assert_eq!(after.run, RunState::Running);
        }

        // What ends beside a component that is held down starts with it when nobody renews.
        ops.kill("node-1", Some("executor")).await.unwrap();
        end_from_outside(&run, "node-1", "storage");
        until("both are gone", async || {
            let runs = components(&*ops, "node-1").await;
            runs[2].run == RunState::Gone && runs[3].run == RunState::Gone
        })
        .await;
        until("both run again", async || {
            let runs = components(&*ops, "node-1").await;
            runs.iter().all(|component| component.run == RunState::Running)
        })
        .await;
        let generations: Vec<_> = components(&*ops, "node-1")
            .await
            .iter()
            .map(|component| component.generation)
            .collect();
        assert_eq!(generations, [1, 1, 2, 2, 1, 1]);
    })
    .catch_unwind()
    .await;
    let left = backend
        .destroy(Teardown {
            grace: Ms(0),
            keep_homes: false,
        })
        .await;
    if let Err(panic) = done {
        std::panic::resume_unwind(panic);
    }
    assert_eq!(left, [""; 0]);
}
