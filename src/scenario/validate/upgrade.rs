//! Upgrades: which nodes move to which version, in which batches.

use super::{Check, Here};
use crate::model::upgrade::{Batch, Gate, OnFailure, Strategy, Upgrade};
use crate::model::{Action, Fault, FaultKind, Lasts, Ms, NodeName, Targets};
use crate::scenario::diag::{Problem, list};
use crate::scenario::explain as code;
use crate::scenario::raw::{self, At, Selectors};
use crate::scenario::select::Nodes;

/// How many blocks the network has to grow by after a batch, where the file does not say.
const GROW: u64 = 2;
/// The most nodes of a batch, and the most blocks of a gate.
const MOST: u64 = 1_000_000;

impl Check<'_> {
    pub(super) fn upgrade(&mut self, here: &Here, upgrade: &At<raw::Upgrade>) -> Option<Action> {
        let raw::Upgrade {
            to,
            nodes,
            strategy,
            batch,
            pause,
            gate,
            max_unavailable,
            on_failure,
            expect_version,
            table: _,
        } = &upgrade.value;
        let to = to.as_ref()?;
        let good = self.data_stay(here);
        let pause = match pause {
            Some(_) => self.lasting(pause.as_ref()),
            None => Some(Ms(0)),
        };
        let gate = self.gate(gate.as_ref());
        let strategy = strategy.as_ref().map_or(Strategy::Rolling, |strategy| strategy.0);
        let size = self.batch(here, strategy, batch.as_ref());
        let bound = match max_unavailable {
            Some(_) => Some(self.number(max_unavailable.as_ref(), "max_unavailable", 1, MOST)?),
            None => None,
        };
        self.version(to);
        let expected = self.called(to, expect_version.as_ref())?;
        let moved = self.moved(here, to, nodes.as_ref())?;
        self.config_of(to, &moved);
        let names = self.names(&moved);
        for node in moved {
            self.runs[node].clone_from(&to.value);
        }
        let batches = batches(&here.id, strategy, &names, size?);
        let upgrade = Upgrade {
            id: here.id.clone(),
            to: to.value.clone(),
            strategy,
            pause: pause?,
            gate: gate?,
            on_failure: on_failure.as_ref().map_or(OnFailure::Stop, |what| what.0),
            expect_version: expected,
            max_unavailable: bound.and_then(|bound| usize::try_from(bound).ok()),
            batches,
        };
        let pauses = Ms(upgrade
            .pause
            .0
            .saturating_mul(upgrade.batches.len().saturating_sub(1) as u64));
        self.passes(here, pauses);
        self.within_bound(&upgrade, max_unavailable.as_ref());
        good.then_some(Action::Upgrade(upgrade))
    }

    /// An upgrade is one only if the nodes keep their data.
    fn data_stay(&mut self, here: &Here) -> bool {
        let kept = self.plan.network.persistence;
        if !kept.is_lost(true) {
            return true;
        }
        let message = format!(
            "an upgrade is of a node with its data, which go with its pod where persistence is \"{}\"",
            kept.word()
        );
        let _: Option<()> = self.odd(
            code::UPGRADE,
            &here.key,
            message,
            "nothing would be left to upgrade",
            "use `persistence = \"volume\"`, or leave it out",
        );
        false
    }

    fn gate(&mut self, gate: Option<&At<raw::Gate>>) -> Option<Gate> {
        let start = self.plan.limits.start;
        let Some(raw::Gate { grow, within, table: _ }) = gate.map(|gate| &gate.value) else {
            return Some(Gate {
                grow: GROW,
                within: start,
            });
        };
        let grow = match grow {
            Some(_) => self.number(grow.as_ref(), "grow", 1, MOST),
            None => Some(GROW),
        };
        let within = match within {
            Some(_) => self.lasting(within.as_ref()),
            None => Some(start),
        };
        Some(Gate {
            grow: grow?,
            within: within?,
        })
    }

    /// How many nodes at once, after the first where there is a canary.
    fn batch(&mut self, here: &Here, strategy: Strategy, batch: Option<&At<u64>>) -> Option<usize> {
        match (strategy, batch) {
            (Strategy::Batch | Strategy::Canary, Some(_)) => {
                let size = self.number(batch, "batch", 1, MOST)?;
                usize::try_from(size).ok()
            }
            (Strategy::Batch, None) => self.odd(
                code::UPGRADE,
                &here.key,
                "`strategy = \"batch\"` needs to know how many at once",
                "no `batch`",
                "add `batch = 2`, or use \"rolling\", which is one after the other",
            ),
            (Strategy::Rolling | Strategy::AllAtOnce, Some(size)) => self.odd(
                code::UPGRADE,
                &size.key,
                format!("`batch` does not go with `strategy = \"{}\"`", strategy.word()),
                "no effect",
                "leave it out, or use `strategy = \"batch\"`",
            ),
            (Strategy::Rolling | Strategy::Canary, None) => Some(1),
            (Strategy::AllAtOnce, None) => Some(usize::MAX),
        }
    }

    /// What a node of the new version has to call itself: without that nobody could tell that it runs.
    fn called(&mut self, to: &At<String>, given: Option<&At<String>>) -> Option<String> {
        if let Some(given) = given {
            return Some(given.value.clone());
        }
        let version = self.plan.versions.get(&to.value)?;
        if let Some(reports) = &version.reports {
            return Some(reports.clone());
        }
        let message = format!(
            "nothing says what a node of version \"{}\" calls itself, so that nobody could tell that it runs",
            to.value
        );
        let help = format!(
            "add `reports = \"…\"` to [versions.\"{}\"], or `expect_version = \"…\"` here",
            to.value
        );
        self.odd(code::UPGRADE, &to.at, message, "cannot be verified", &help)
    }

    /// Whom it moves.
    fn moved(&mut self, here: &Here, to: &At<String>, nodes: Option<&At<Selectors>>) -> Option<Nodes> {
        let old = |check: &Self, node: &usize| check.runs[*node] != to.value;
        let Some(selectors) = nodes else {
            if !self.sound {
                return None;
            }
            let free = self.timeline.free();
            let moved: Nodes = free.into_iter().filter(|node| old(self, node)).collect();
            if moved.is_empty() {
                return self.odd(
                    code::EMPTY_SELECTION,
                    &here.key,
                    format!(
                        "no started node without a declared fault runs another version than \"{}\" here",
                        to.value
                    ),
                    "nobody is left to move",
                    "name the nodes, heal a fault first, or move to another version",
                );
            }
            return Some(moved);
        };
        let nodes = self.select(selectors)?;
        if !self.all_started(&nodes, selectors) {
            return None;
        }
        self.none_down(&nodes, selectors, true)?;
        let there: Nodes = nodes.iter().copied().filter(|node| !old(self, node)).collect();
        if !there.is_empty() {
            let names = list(&self.names(&there), 6);
            return self.odd(
                code::UPGRADE,
                &selectors.at,
                format!("already of version \"{}\" here: {names}", to.value),
                "nothing would change",
                "leave them out, or move them to another version",
            );
        }
        Some(nodes)
    }

    /// Configuration keys that the new version would not take.
    fn config_of(&mut self, to: &At<String>, moved: &Nodes) {
        let nodes = &self.plan.network.nodes;
        let known = |version: &String| *version == to.value;
        let of_group = |group: &String| moved.iter().any(|node| nodes[*node].group == *group);
        let checked = |group: &Option<String>| match group {
            // The network's own keys were checked for every version that nodes have at first.
            None => known(&self.plan.network.version) || nodes.iter().any(|node| known(&node.version)),
            Some(group) => !of_group(group) || nodes.iter().any(|node| node.group == *group && known(&node.version)),
        };
        let configs: Vec<_> = (self.configs.iter())
            .filter(|(group, _)| !checked(group))
            .map(|(_, config)| config.clone())
            .collect();
        let before = self.problems.len();
        for config in &configs {
            self.config(Some(config), &to.value);
        }
        let found: Vec<Problem> = self.problems.drain(before..).collect();
        let here = |problem: Problem| problem.related(&to.at, "to which nodes move here");
        for problem in found.into_iter().map(here) {
            let same = |other: &Problem| (other.code, &other.span) == (problem.code, &problem.span);
            if !self.problems.iter().any(same) {
                self.problems.push(problem);
            }
        }
    }

    /// Complains about batches that are larger than the file's own bound; what the bound means for the quorum is for the forecast to say.
    fn within_bound(&mut self, upgrade: &Upgrade, bound: Option<&At<u64>>) {
        let (Some(most), Some(at)) = (upgrade.max_unavailable, bound) else {
            return;
        };
        if upgrade.widest() > most {
            let message = format!(
                "{} nodes are away at once, but `max_unavailable` is {most}",
                upgrade.widest()
            );
            let help = "move fewer at once: `strategy = \"batch\"` with a smaller `batch`, or \"rolling\"";
            let _: Option<()> = self.odd(code::UPGRADE, &at.at, message, "less than a batch has", help);
        }
    }
}

/// The batches, each with its two faults.
fn batches(id: &str, strategy: Strategy, names: &[NodeName], size: usize) -> Vec<Batch> {
    let (first, rest) = match strategy {
        Strategy::Canary => names.split_at(1),
        Strategy::Rolling | Strategy::Batch | Strategy::AllAtOnce => names.split_at(0),
    };
    let parts = first.chunks(1).chain(rest.chunks(size.min(names.len()).max(1)));
    let fault = |id: String, nodes: &[NodeName]| Fault {
        id,
        kind: FaultKind::Upgrade,
        targets: Targets::Nodes(nodes.to_vec()),
        lasts: Lasts::Itself,
        component: None,
        wipe: false,
    };
    let batch = |(at, nodes): (usize, &[NodeName])| Batch {
        forth: fault(format!("{id}.{}", at + 1), nodes),
        back: fault(format!("{id}.back.{}", at + 1), nodes),
    };
    parts.enumerate().map(batch).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_canary_goes_first_and_alone() {
        let names: Vec<NodeName> = (0..5).map(|index| format!("v-{index}")).collect();
        let sizes = |strategy, size| -> Vec<usize> {
            let batches = batches("roll", strategy, &names, size);
            batches.iter().map(|batch| batch.nodes().len()).collect()
        };
        assert_eq!(sizes(Strategy::Rolling, 1), [1, 1, 1, 1, 1]);
        assert_eq!(sizes(Strategy::Batch, 2), [2, 2, 1]);
        assert_eq!(sizes(Strategy::Canary, 2), [1, 2, 2]);
        assert_eq!(sizes(Strategy::AllAtOnce, usize::MAX), [5]);
        let canary = batches("roll", Strategy::Canary, &names[..1], 1);
        assert_eq!(canary.len(), 1, "there may be nobody after it");
        assert_eq!(
            (canary[0].forth.id.as_str(), canary[0].back.id.as_str()),
            ("roll.1", "roll.back.1")
        );
    }
}
