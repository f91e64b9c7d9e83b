//! One step for a network that is up already.

use super::steps::ACTIONS;
use super::{Check, Here, Id};
use crate::model::{self, Action, Fault, Lasts, Ms, NodeName, OnRestart, Plan};
use crate::scenario::Options;
use crate::scenario::diag::{Problem, list};
use crate::scenario::explain as code;
use crate::scenario::raw::{self, At};
use crate::scenario::select::Live;
use crate::scenario::{Given, On};

/// What can be done to a network without a scenario around it.
const AT_DESK: [&str; 10] = [
    "kill",
    "pause",
    "stop",
    "start",
    "restart",
    "partition",
    "isolate",
    "delay",
    "misbehave",
    "tx",
];

/// Checks a step against a network that is up.
///
/// # Errors
/// All problems, those found before included.
pub(in crate::scenario) fn step(
    raw: &At<raw::Step>,
    source: &str,
    problems: Vec<Problem>,
    id: Option<&str>,
    given: &Given<'_>,
    options: &Options<'_>,
) -> Result<model::Step, Vec<Problem>> {
    let mut check = Check::new(source, problems, options);
    check.adapter = Some((options.adapter)(given.plan.network.chain));
    check.take_up(given);
    check.desk_step(raw, id);
    match check.plan.steps.pop() {
        Some(step) if check.problems.is_empty() => Ok(step),
        _ => Err(check.problems),
    }
}

impl Check<'_> {
    /// Goes on from where the network is.
    fn take_up(&mut self, given: &Given<'_>) {
        self.plan = Plan {
            steps: Vec::new(),
            ..given.plan.clone()
        };
        self.sound = true;
        self.powers = self.plan.network.nodes.iter().map(|node| node.power).collect();
        self.runs = (self.plan.network.nodes.iter())
            .map(|node| node.version.clone())
            .collect();
        let index =
            |names: &mut dyn Iterator<Item = &NodeName>| names.filter_map(|name| given.plan.node_index(name)).collect();
        self.timeline.started = index(&mut given.present.iter());
        for On { fault, targets } in &given.on {
            let fault: Fault = (*fault).clone();
            let struck: super::Nodes = index(&mut targets.iter());
            self.ids.push(Id {
                id: fault.id.clone(),
                at: 0..0,
                index: self.current,
                word: fault.kind.word().to_owned(),
                background: false,
                never: false,
            });
            self.current += 1;
            let touched = self.touched(&fault, &struck);
            self.timeline.faults.push(Live {
                touched,
                targets: struck,
                since: self.timeline.elapsed,
                repeated: Ms(0),
                ended: fault.lasts == Lasts::Itself,
                comes_back: self.plan.comes_back(&fault).then_some(self.plan.limits.start),
                fault,
            });
        }
    }

    fn desk_step(&mut self, step: &At<raw::Step>, id: Option<&str>) {
        let Some((word, key)) = self.action_word(step) else {
            return;
        };
        let elsewhere = |word: &str| match word {
            "heal" => "use `trialnet heal`".to_owned(),
            _ => format!(
                "it needs a run around it: write a scenario and `trialnet run` it; here: {}",
                list(&AT_DESK, AT_DESK.len())
            ),
        };
        for (found, at) in &step.table {
            let refused = if ACTIONS.contains(&found.as_str()) {
                !AT_DESK.contains(&found.as_str())
            } else {
                found != "id" && found != "name"
            };
            if refused {
                let problem = Problem::new(code::NOT_OFFERED, at, format!("`{found}` is for scenario files"))
                    .label("not here")
                    .help(elsewhere(found));
                self.problems.push(problem);
            }
        }
        if !self.problems.is_empty() {
            return;
        }
        let at = step.id.as_ref().map_or_else(|| key.clone(), |id| id.at.clone());
        let named = step.id.as_ref().map(|id| id.value.clone()).or(id.map(str::to_owned));
        let id = named.unwrap_or_else(|| self.free_id(word));
        let name = At {
            key: at.clone(),
            at: at.clone(),
            value: id.clone(),
        };
        if !self.name("an id", &name, 40) {
            return;
        }
        if self.ids.iter().any(|other| other.id == id) {
            let problem = Problem::new(code::DUPLICATE_ID, &at, format!("a fault that is on is called `{id}`"))
                .label("again")
                .help("give this one another id, or `trialnet heal` that one first");
            self.problems.push(problem);
            return;
        }
        let here = Here {
            id: id.clone(),
            word,
            key,
            background: false,
            go_on: false,
            once: Some("nobody is there to strike again when this command has ended"),
        };
        if !self.offered_on_found_nodes(&here) {
            return;
        }
        let Some(action) = self.action(&here, step) else {
            return;
        };
        if matches!(&action, Action::Fault(fault) if fault.kind.loses_packets()) {
            let problem = Problem::new(
                code::NOT_OFFERED,
                &here.key,
                "packets are lost only as long as somebody renews it",
            )
            .label("not here")
            .help(elsewhere("one-way"));
            self.problems.push(problem);
            return;
        }
        if matches!(&action, Action::Fault(fault) if fault.on_restart == OnRestart::Drop) {
            let problem = Problem::new(
                code::NOT_OFFERED,
                &here.key,
                "nobody is there to see a restart when this command has ended, so that a fault could be dropped with it",
            )
            .label("not here")
            .help("leave `on_restart` out, or write a scenario and `trialnet run` it");
            self.problems.push(problem);
            return;
        }
        let id = matches!(action, Action::Fault(_) | Action::Tx(_)).then_some(id);
        self.plan.steps.push(model::Step {
            index: self.current,
            id,
            name: step.name.as_ref().map(|name| name.value.clone()),
            when: None,
            go_on: false,
            background: false,
            line: 1,
            action,
        });
    }

    /// `kill-1`, or the next that is not on.
    fn free_id(&self, word: &str) -> String {
        let free = |id: &String| !self.ids.iter().any(|other| other.id == *id);
        let mut ids = (1..).map(|number| format!("{word}-{number}"));
        ids.find(free).unwrap_or_default()
    }
}
