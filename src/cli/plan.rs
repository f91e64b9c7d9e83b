//! `trialnet plan`: what a scenario would make and do, for people to read.

use std::collections::BTreeMap;

use crate::model::verdict::Verdict;
use crate::model::{Chaos, Keys, Network, Node, Outcome, Persistence, Plan, Role, Step, Timed};
use crate::quorum::Forecast;
use crate::report::words::{self, count, invariant, names, table, title, wrap};
use crate::ui::paint;

const WIDTH: usize = 100;

/// The plan as text, with colours; ends without a line end.
#[must_use]
pub fn render_plan(plan: &Plan) -> String {
    let mut text = vec![paint::bold(&plan.scenario)];
    if let Some(about) = &plan.about {
        text.extend(indented(about));
    }
    text.push(String::new());
    text.push(table("  ", &facts(plan)));
    text.push(String::new());
    text.push(paint::bold(&format!("nodes ({})", plan.network.nodes.len())));
    text.push(nodes(&plan.network));
    if plan.network.attach.is_none() {
        text.push(format!("  {}", count(plan.network.links.len(), "link")));
    }
    text.push(String::new());
    text.push(paint::bold(&format!("steps ({})", plan.steps.len())));
    text.extend(steps(plan));
    if let Some(chaos) = &plan.chaos {
        text.push(String::new());
        text.extend(rehearsal(chaos));
    }
    if let Some(outcome) = &plan.outcome {
        text.push(String::new());
        text.extend(indented(&expected(outcome)));
    }
    text.join("\n")
}

fn facts(plan: &Plan) -> Vec<[String; 2]> {
    let network = &plan.network;
    let persistence = match network.persistence {
        Persistence::Volume => "data outlives a process",
        Persistence::Memory => "data goes with the pod",
        Persistence::Ephemeral => "data goes with the process",
    };
    let limits = &plan.limits;
    let judged = &plan.invariants;
    let mut facts = vec![
        fact(
            "chain",
            format!(
                "{} {}, a block each {}",
                word(network.chain),
                network.version,
                network.block_time
            ),
        ),
        fact("backend", format!("{}; {persistence}", word(plan.backend))),
        fact("seed", plan.seed.to_string()),
        fact(
            "limits",
            format!("start {}, run {}, settle {}", limits.start, limits.run, limits.settle),
        ),
        fact(
            "always",
            format!(
                "stall at most {}, lag at most {}",
                judged.max_stall,
                blocks(judged.max_lag)
            ),
        ),
    ];
    if !judged.off.is_empty() {
        let off: Vec<&str> = judged.off.iter().copied().map(invariant).collect();
        facts.push(fact("not judged", off.join(", ")));
    }
    for (name, version) in &plan.versions {
        let is = [
            ("program", &version.binary),
            ("image", &version.image),
            ("reports", &version.reports),
        ];
        let is: Vec<String> = is
            .into_iter()
            .filter_map(|(what, is)| Some(format!("{what} {}", is.as_ref()?)))
            .collect();
        if !is.is_empty() {
            facts.push(fact("version", format!("{name}: {}", is.join(", "))));
        }
    }
    facts.extend(more_facts(network));
    facts.extend(config(&network.config).map(|config| fact("config", config)));
    facts
}

/// What not every network has.
fn more_facts(network: &Network) -> Vec<[String; 2]> {
    let mut facts = Vec::new();
    if let Some(attach) = &network.attach {
        let port = attach
            .rpc_port
            .map(|port| format!(", RPC at {port}"))
            .unwrap_or_default();
        let pods = format!("found: pods of {} with {}{port}", attach.namespace, attach.selector);
        facts.push(fact("nodes", pods));
    }
    if let Some(app) = &network.app {
        let program = app.binary.as_ref().or(app.program.as_ref());
        let image = app
            .image
            .as_ref()
            .map(|image| format!(" of {image}"))
            .unwrap_or_default();
        let program = program.map(String::as_str).unwrap_or_default();
        facts.push(fact("app", format!("{program}{image} {}", app.args.join(" "))));
    }
    if network.keys == Keys::InPlace {
        facts.push(fact("keys", "made where the nodes run".to_owned()));
    }
    facts
}

fn fact(name: &str, value: String) -> [String; 2] {
    [name.to_owned(), value]
}

fn blocks(number: u64) -> String {
    count(usize::try_from(number).unwrap_or(usize::MAX), "block")
}

/// The word of the scenario language.
fn word(value: impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        other => format!("{other:?}"),
    }
}

fn config(config: &BTreeMap<String, serde_json::Value>) -> Option<String> {
    let keys: Vec<String> = config.iter().map(|(key, value)| format!("{key} = {value}")).collect();
    (!keys.is_empty()).then(|| keys.join(", "))
}

/// One row for nodes that follow each other and differ only by name.
fn nodes(network: &Network) -> String {
    let mut rows = vec![["name", "role", "power", "version", "starts", "config"].map(str::to_owned)];
    let same = |a: &Node, b: &Node| {
        let key = |node: &Node| {
            (
                node.group.clone(),
                node.role,
                node.power,
                node.version.clone(),
                node.start,
            )
        };
        key(a) == key(b) && a.config == b.config
    };
    for nodes in network.nodes.chunk_by(same) {
        let first = &nodes[0];
        let all: Vec<&str> = nodes.iter().map(|node| node.name.as_str()).collect();
        let role = match first.role {
            Role::Validator => "validator",
            Role::Full => "full node",
        };
        rows.push([
            names(&all),
            role.to_owned(),
            first.power.to_string(),
            first.version.clone(),
            words::start(first.start).to_owned(),
            config(&first.config).unwrap_or_default(),
        ]);
    }
    if rows.iter().skip(1).all(|row| row[5].is_empty()) {
        rows[0][5].clear();
    }
    table("  ", &rows)
}

fn steps(plan: &Plan) -> Vec<String> {
    let mut lines = Vec::new();
    let mut former = None;
    for step in &plan.steps {
        lines.push(format!("  {:>2}. {}", step.index + 1, title(step)));
        let details = details(plan, step);
        lines.extend(details.into_iter().flat_map(|detail| under(&detail)));
        let sum = plan
            .sums
            .iter()
            .find(|sum| sum.step == step.index)
            .map(|sum| (sum.forecast, sum.why.as_str()));
        // Said where it changes.
        if let Some((forecast, why)) = sum.filter(|sum| former != Some(*sum)) {
            let painted = match forecast {
                Forecast::MustGoOn => paint::good,
                Forecast::MustHalt | Forecast::Undetermined => paint::warn,
            };
            let mut sum = under(&format!("{forecast}: {why}"));
            if let Some(first) = sum.first_mut() {
                *first = first.replacen(&forecast.to_string(), &painted(&forecast.to_string()), 1);
            }
            lines.extend(sum);
        }
        former = sum.or(former);
    }
    lines
}

/// The schedule beside the steps.
fn rehearsal(chaos: &Chaos) -> Vec<String> {
    let budget = match (chaos.most, chaos.halts) {
        (None, _) => "as much as the chain tolerates".to_owned(),
        (Some(most), true) => format!("{}, and the chain may halt", count(most, "node")),
        (Some(most), false) => format!("{}, and no more than the chain tolerates", count(most, "node")),
    };
    let mut lines = vec![paint::bold(&format!(
        "rehearsal ({})",
        count(chaos.schedule.len(), "fault")
    ))];
    lines.extend(indented(&format!(
        "beside the steps, from ready; at once at most {budget}; the nodes are back within {}",
        chaos.recovery
    )));
    let row = |timed: &Timed| [timed.at.to_string(), timed.fault.id.clone(), words::fault(&timed.fault)];
    let rows: Vec<[String; 3]> = chaos.schedule.iter().map(row).collect();
    lines.push(table("  ", &rows));
    lines
}

/// What the title does not say already.
fn details(plan: &Plan, step: &Step) -> Vec<String> {
    let mut details = Vec::new();
    if let Some(name) = &step.name {
        let id = step
            .id
            .as_ref()
            .filter(|id| *id != name)
            .map(|id| format!("{id}: "))
            .unwrap_or_default();
        details.push(format!("{id}{}", words::action(&step.action)));
    }
    details.extend(step.when.as_ref().map(words::when));
    let again = plan
        .repeated(step.index)
        .zip(plan.repeats.iter().find(|repeat| repeat.step == step.index));
    details.extend(again.map(|((more, last), next)| {
        let every = next.after;
        format!(
            "{} times, one every {every}; the last begins {last} after the first",
            more + 1
        )
    }));
    if step.background {
        details.push("in the background".to_owned());
    }
    if step.go_on {
        details.push("goes on even if it fails".to_owned());
    }
    details
}

fn expected(outcome: &Outcome) -> String {
    let code = outcome
        .code
        .as_ref()
        .map(|code| format!(" with {code}"))
        .unwrap_or_default();
    let node = outcome
        .node
        .as_ref()
        .map(|node| format!(" on {node}"))
        .unwrap_or_default();
    let verdict: Verdict = outcome.verdict;
    format!("Test runners expect: {verdict}{code}{node}.")
}

fn indented(text: &str) -> Vec<String> {
    wrap(text, WIDTH - 2, 9)
        .into_iter()
        .map(|line| format!("  {line}"))
        .collect()
}

fn under(text: &str) -> Vec<String> {
    wrap(text, WIDTH - 6, 9)
        .into_iter()
        .map(|line| format!("      {line}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    fn plain(plan: &Plan) -> String {
        anstream::adapter::strip_str(&render_plan(plan)).to_string()
    }

    #[test]
    fn a_plan_as_text() {
        insta::assert_snapshot!(plain(&sample::plan()));
    }

    #[test]
    fn many_nodes_are_few_rows() {
        let text = plain(&sample::wide_plan());
        let nodes = text.split("nodes (100)").nth(1).unwrap().split("steps").next().unwrap();
        insta::assert_snapshot!(nodes);
    }
}
