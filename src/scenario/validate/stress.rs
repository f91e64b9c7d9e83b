//! `stress`: what is used beside the programs of nodes, and whether it fits.

use super::faults::plain;
use super::kubernetes::{MEBI, quantity};
use super::{Check, Here};
use crate::model::{Action, Fault, FaultKind, Stress, Targets};
use crate::scenario::diag::list;
use crate::scenario::explain as code;
use crate::scenario::raw::{self, At, Selectors};
use crate::scenario::select::Nodes;

/// The most threads beside a program.
const THREADS: u64 = 64;

impl Check<'_> {
    pub(super) fn stress(&mut self, here: &Here, stress: &At<raw::Stress>) -> Option<Action> {
        let raw::Stress {
            nodes,
            pick,
            cpu,
            memory,
            r#for: lasts,
            every,
            times,
            on_restart,
            table,
        } = &stress.value;
        self.offered("stress", &here.key)?;
        let lasts = self.until(lasts.as_ref());
        if !table.iter().any(|(key, _)| ["cpu", "memory"].contains(&key.as_str())) {
            let help = "say how many threads want a processor (`cpu = 2`), how much memory is held (`memory = \"128Mi\"`), or both";
            return self.odd(
                code::STRESS,
                &here.key,
                "this stress uses nothing",
                "neither `cpu` nor `memory`",
                help,
            );
        }
        let threads = match cpu {
            Some(_) => Some(self.number(cpu.as_ref(), "cpu", 1, THREADS)?),
            None => None,
        };
        let held = match memory {
            Some(memory) => Some(self.amount(memory, "`memory`", MEBI, "1Mi")?),
            None => None,
        };
        let message = "what the leader may use is not known beforehand";
        let targets = self.known_targets(here, nodes.as_ref(), pick.as_ref(), (code::STRESS, message))?;
        if let (Some(memory), Some(held)) = (memory, held) {
            self.must_fit(memory, held, &targets)?;
        }
        let stress = Stress {
            cpu: threads
                .and_then(|threads| u32::try_from(threads).ok())
                .unwrap_or_default(),
            memory: bytes(held.unwrap_or_default()),
            fill: None,
            drops: false,
        };
        // What cannot be read was complained about.
        if stress == Stress::default() {
            return None;
        }
        let on_restart = self.at_restart(on_restart.as_ref());
        let fault = Fault {
            on_restart: on_restart?,
            ..plain(here, FaultKind::Stress(stress), targets, lasts?)
        };
        self.planned(here, (every.as_ref(), times.as_ref()), fault)
    }

    /// Whom a fault strikes, who have to be known before the run: with the leader among them, the problem that is given.
    pub(super) fn known_targets(
        &mut self,
        here: &Here,
        nodes: Option<&At<Selectors>>,
        pick: Option<&At<String>>,
        (code, message): (&'static str, &str),
    ) -> Option<Targets> {
        let targets = self.targets(here, nodes, pick)?;
        if let Targets::Leader { .. } = targets {
            let at = pick.map_or(&here.key, |pick| &pick.at);
            let help = "pick by number, or name the nodes";
            return self.odd(code, at, message, "not the leader", help);
        }
        Some(targets)
    }

    /// Whether the containers of the targets have a limit above all that may be held in them at once.
    fn must_fit(&mut self, memory: &At<String>, held: f64, targets: &Targets) -> Option<()> {
        let struck: Nodes = targets
            .nodes()
            .iter()
            .filter_map(|name| self.plan.node_index(name))
            .collect();
        let others = |node: usize| -> f64 {
            let on = self.timeline.on().filter(|live| live.targets.contains(&node));
            let held = on.filter_map(|live| live.fault.kind.beside());
            held.map(|Stress { memory, fill, .. }| float(memory) + fill.map_or(0.0, |fill| float(fill.size)))
                .sum()
        };
        let limit = |node: usize| {
            let limit = self.plan.network.nodes[node].resources.memory_limit.as_deref();
            limit.and_then(quantity)
        };
        let unbound: Nodes = struck.iter().copied().filter(|node| limit(*node).is_none()).collect();
        if !unbound.is_empty() {
            let message = format!(
                "the containers of these nodes have no limit in which memory could be held: {}",
                list(&self.names(&unbound), 6)
            );
            let help = "give their group one: `resources = { memory_limit = \"512Mi\" }`";
            return self.odd(code::STRESS, &memory.at, &message, "memory of the whole machine", help);
        }
        let full: Nodes = (struck.iter().copied())
            .filter(|node| limit(*node).is_some_and(|limit| others(*node) + held >= limit))
            .collect();
        let Some(first) = full.first() else { return Some(()) };
        let most = self.plan.network.nodes[*first]
            .resources
            .memory_limit
            .clone()
            .unwrap_or_default();
        let before = others(*first);
        let beside = if before > 0.0 {
            format!(", beside {} of earlier stress", crate::model::mebibytes(bytes(before)))
        } else {
            String::new()
        };
        let message = format!(
            "{}{beside} leaves no room for the program itself under the memory limit of {most}: {}",
            memory.value,
            list(&self.names(&full), 6)
        );
        let help = "hold less, raise `memory_limit`, or `kill` the program if its end is meant";
        self.odd(code::STRESS, &memory.at, &message, "as much as the limit", help)
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a checked quantity is positive and far below 2^63"
)]
pub(super) fn bytes(quantity: f64) -> u64 {
    quantity.ceil() as u64
}

#[expect(clippy::cast_precision_loss, reason = "bytes of memory are below 2^52")]
fn float(bytes: u64) -> f64 {
    bytes as f64
}
