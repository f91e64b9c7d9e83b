//! An agent whose pod goes. Apart from the other tests of agents, which would lose theirs.

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::DeleteParams;
use trialnet::backend::kubernetes::packets::{AGENTS, SYSTEM};

use super::agent::{DEAF, agents, detail, leaves_the_agents};
use super::cluster::cluster;
use super::runs::{LIMIT, Run, four};

#[tokio::test]
async fn an_agent_that_dies_comes_back_and_the_fault_stays_on() {
    let Some(api) = cluster().await else { return };
    // Twice as long as a lease: somebody has renewed it.
    let steps = format!(
        "{DEAF}[[steps]]\nexpect.halt = {{ of = \"deaf\", for = \"20s\" }}\n[[steps]]\nheal = [\"deaf\"]\n\
         [[steps]]\nexpect.recovery = {{ of = \"deaf\", within = \"60s\" }}\n"
    );
    let mut run = Run::start(&api, &four(&steps, "[limits]\nstart = \"3m\"\n"));
    run.says("\"verified\"").await;
    let before: Vec<_> = agents(&api).await.iter().filter_map(ResourceExt::uid).collect();
    assert!(!before.is_empty());
    let at_once = DeleteParams::default().grace_period(0);
    api.delete_all::<Pod>(SYSTEM, &format!("{AGENTS}=true"), &at_once)
        .await
        .unwrap();
    let code = run.ended(LIMIT).await;
    assert_eq!(code, Some(0), "{}", run.words());
    assert!(detail(&run, "deaf", "revert-verified").contains("0.0 % lost"));
    run.leaves_nothing().await;
    leaves_the_agents(&api, &run).await;
}
