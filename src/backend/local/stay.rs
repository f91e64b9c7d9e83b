//! A network that stays when the trialnet that began it has gone: letting go of its guard, and coming to it again.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::client::{Client, nonsense};
use super::{Generation, Local, LocalOptions, PROMPT, View, lock};
use crate::agent::protocol::{Ask, ProcessNow, Reply};
use crate::agent::registry::{self, RunEntry};
use crate::agent::table::{self, Proc};
use crate::agent::trouble;
use crate::backend::{Addresses, NodeSpec, Trouble};
use crate::model::Ms;
use crate::record::Record;

impl Local {
    /// Lets the guard and its nodes outlive this process, for this time at most; faults that are on stay as long.
    ///
    /// # Errors
    /// When nothing was reserved yet, or the guard cannot be reached in the folder of the registry.
    pub async fn stay(&self, time: Ms) -> Result<(), Trouble> {
        self.order(Ask::Stay(time), PROMPT).await
    }

    /// The network of a run that stays, as it was applied; what happens to its nodes from now on goes to `records`. Dropping it leaves the
    /// network alone.
    ///
    /// # Errors
    /// When its guard is gone or does not answer.
    pub async fn reattach(
        entry: &RunEntry,
        exe: PathBuf,
        specs: Vec<NodeSpec>,
        addresses: Addresses,
        records: mpsc::UnboundedSender<Record>,
    ) -> Result<Self, Trouble> {
        let state_dir = registry::state_dir()
            .map_err(|error| trouble("infra/guard-setup", "the folder of the registry", error.to_string()))?;
        let socket = registry::socket(&state_dir, &entry.run);
        let options = LocalOptions {
            scenario: entry.scenario.clone(),
            state_dir: Some(state_dir),
            ..LocalOptions::new(exe, entry.run_dir.clone(), entry.run.clone())
        };
        let local = Self::new(options, records);
        let shared = &local.shared;
        let client = Client::visit(&socket, entry.guard, Arc::downgrade(shared)).await;
        let client = client.map_err(|error| {
            trouble(
                "infra/guard-died",
                format!("the guard of {} at {}", entry.run, socket.display()),
                error.to_string(),
            )
        })?;
        // Nothing else could have set them: this value is new.
        drop(shared.guard.set(client));
        drop(shared.addresses.set(addresses));
        let processes = match local.guard().await?.ask(Ask::Describe, PROMPT).await? {
            Reply::Nodes(processes) => processes,
            other => return Err(nonsense(&other)),
        };
        let ours = table::of_run(&entry.run);
        let mut nodes = lock(&shared.nodes);
        for spec in specs {
            let view = View {
                spec,
                components: std::collections::BTreeMap::new(),
            };
            nodes.insert(view.spec.name.clone(), view);
        }
        for ProcessNow {
            node,
            component,
            pid,
            generation,
        } in processes
        {
            let (Some(view), Some(pid)) = (nodes.get_mut(&node), pid) else {
                continue;
            };
            // The process may have ended long ago, and its id be somebody else's: what is asked is whether it is still ours.
            let process = Proc::now(pid).filter(|_| ours.contains(&pid));
            let number = generation;
            view.components.insert(component, Generation { number, pid, process });
        }
        drop(nodes);
        Ok(local)
    }
}
