//! The smallest schedule as a scenario file.

use std::collections::BTreeMap;

use crate::model::verdict::Class;
use crate::model::{Fault, FaultKind, Lasts, Ms, NodeName, OnRestart, Plan, Plane, Stress, Timed, bits};

/// What the file says besides what happens in it.
#[derive(Clone, Debug)]
pub(super) struct Head<'a> {
    pub(super) name: String,
    pub(super) about: String,
    pub(super) seed: u64,
    pub(super) class: Class,
    pub(super) code: &'a str,
}

/// The faults as ordinary steps. `verified` says how long each took to be verified: the next step begins only then.
///
/// # Errors
/// What is not TOML about the original, or what the steps of the language cannot say.
pub(super) fn as_steps(
    head: &Head<'_>,
    original: &str,
    plan: &Plan,
    schedule: &[Timed],
    verified: &BTreeMap<String, Ms>,
) -> Result<String, String> {
    let mut steps = Vec::new();
    let (mut now, mut end) = (Ms(0), Ms(0));
    for Timed { at, fault } in schedule {
        let mut lines = vec!["[[steps]]".to_owned(), format!("id = {}", quoted(&fault.id))];
        let wait = Ms(at.since(now).0 / 10 * 10);
        if wait > Ms(0) {
            lines.push(format!("when = {{ after = {} }}", time(wait)));
        }
        lines.push(action(plan, fault).ok_or("a fault that no step can say")?);
        if fault.kind == FaultKind::Restart {
            lines.push("background = true".to_owned());
        }
        steps.push(lines.join("\n"));
        now = now.max(*at);
        if fault.kind != FaultKind::Restart {
            now = now + verified.get(&fault.id).copied().unwrap_or_default();
        }
        if let Lasts::For(lasts) = fault.lasts {
            end = end.max(now + lasts);
        }
    }
    // At the end of the last step all faults end, so there has to be one until the last has ended by itself.
    let wait = Ms(end.since(now).0 + 1_000);
    steps.push(format!("[[steps]]\nwait = {}", time(wait)));
    Ok(format!("{}\n{}\n", start(head, original)?, steps.join("\n\n")))
}

/// The faults as the schedule of a rehearsal, beside the steps of the original.
///
/// # Errors
/// What is not TOML about the original.
pub(super) fn as_schedule(
    head: &Head<'_>,
    original: &str,
    plan: &Plan,
    schedule: &[Timed],
    steps: bool,
) -> Result<String, String> {
    let chaos = plan.chaos.as_ref().ok_or("there is no rehearsal")?;
    let mut lines = vec!["[chaos]".to_owned(), format!("recovery = {}", time(chaos.recovery))];
    if chaos.halts {
        lines.push("halts = true".to_owned());
        if let Some(most) = chaos.most {
            lines.push(format!("budget = \"{most}\""));
        }
    }
    let mut parts = vec![lines.join("\n")];
    for Timed { at, fault } in schedule {
        let action = action(plan, fault).ok_or("a fault that no schedule can say")?;
        let (at, id) = (time(*at), quoted(&fault.id));
        parts.push(format!("[[chaos.schedule]]\nat = {at}\nid = {id}\n{action}"));
    }
    if steps {
        let mut table = parsed(original)?;
        table.retain(|key, _| key == "steps");
        parts.push(toml::to_string(&table).map_err(|error| error.to_string())?);
    } else {
        parts.push("[[steps]]\nwait = \"1s\"\n".to_owned());
    }
    Ok(format!("{}\n{}", start(head, original)?, parts.join("\n\n")))
}

/// Everything before what happens: the network and all that stays as it was.
fn start(head: &Head<'_>, original: &str) -> Result<String, String> {
    let Head {
        name,
        about,
        seed,
        class,
        code,
    } = head;
    let mut table = parsed(original)?;
    for key in ["format", "name", "about", "seed", "outcome", "chaos", "steps"] {
        table.remove(key);
    }
    let rest = toml::to_string(&table).map_err(|error| error.to_string())?;
    let verdict = class.to_string().replace(' ', "-");
    Ok(format!(
        "format = 1\nname = {}\nabout = {}\nseed = {seed}\noutcome = {{ verdict = {}, code = {} }}\n\n{rest}",
        quoted(name),
        quoted(about),
        quoted(&verdict),
        quoted(code)
    ))
}

fn parsed(text: &str) -> Result<toml::Table, String> {
    text.parse().map_err(|error: toml::de::Error| error.to_string())
}

/// A fault as the line of a step.
fn action(plan: &Plan, fault: &Fault) -> Option<String> {
    let nodes = list(fault.targets.nodes());
    let dropped = match fault.on_restart {
        OnRestart::Reapply => "",
        OnRestart::Drop => ", on_restart = \"drop\"",
    };
    let lasts = |key: &str| match fault.lasts {
        Lasts::For(lasts) => format!(", {key} = {}{dropped}", time(lasts)),
        _ => dropped.to_owned(),
    };
    let mut wipe = String::new();
    if fault.wipe {
        wipe.push_str(", wipe = true, unsafe_double_sign = true");
    }
    let with = |plane: Plane| match plane {
        Plane::P2p => "",
        Plane::All => ", plane = \"all\"",
    };
    Some(match &fault.kind {
        FaultKind::Kill => {
            let component = fault.component.as_ref();
            let component = component.map(|name| format!(", component = {}", quoted(name)));
            let component = component.unwrap_or_default();
            format!("kill = {{ nodes = {nodes}{}{component}{wipe} }}", lasts("down"))
        }
        FaultKind::Pause => format!("pause = {{ nodes = {nodes}{} }}", lasts("for")),
        FaultKind::Stop => format!("stop = {{ nodes = {nodes}{}{wipe} }}", lasts("for")),
        FaultKind::Restart => format!("restart = {{ nodes = {nodes}{wipe} }}"),
        FaultKind::Isolate { plane } => format!("isolate = {{ nodes = {nodes}{}{} }}", lasts("for"), with(*plane)),
        FaultKind::Partition { sides, plane, one_way } => {
            let sides: Vec<String> = sides.iter().map(|side| list(side)).collect();
            let sides = sides.join(", ");
            let way = if *one_way { ", direction = \"one-way\"" } else { "" };
            format!(
                "partition = {{ sides = [{sides}]{}{}{way} }}",
                lasts("for"),
                with(*plane)
            )
        }
        FaultKind::Loss { links, percent } => {
            let whom = slowed(plan, fault.targets.nodes(), links)?;
            format!("loss = {{ {whom}, percent = {percent}{} }}", lasts("for"))
        }
        FaultKind::Bandwidth { links, rate } => {
            let (whom, rate) = (slowed(plan, fault.targets.nodes(), links)?, bits(*rate));
            format!("bandwidth = {{ {whom}, rate = \"{rate}\"{} }}", lasts("for"))
        }
        FaultKind::ReadOnly => format!("read_only = {{ nodes = {nodes}{} }}", lasts("for")),
        FaultKind::Fill(fill) => format!(
            "fill = {{ nodes = {nodes}, percent = {}{} }}",
            fill.percent,
            lasts("for")
        ),
        FaultKind::Stress(Stress { cpu, memory, .. }) => {
            let said = |name: &str, value: u64, quote: &str| match value {
                0 => String::new(),
                _ => format!(", {name} = {quote}{value}{quote}"),
            };
            let (cpu, memory) = (said("cpu", u64::from(*cpu), ""), said("memory", *memory, "\""));
            format!("stress = {{ nodes = {nodes}{cpu}{memory}{} }}", lasts("for"))
        }
        // A schedule has no regions.
        FaultKind::Delay {
            links,
            latency,
            jitter,
            each: _,
        } => {
            let whom = slowed(plan, fault.targets.nodes(), links)?;
            let jitter = if *jitter == Ms(0) {
                String::new()
            } else {
                format!(", jitter = {}", time(*jitter))
            };
            format!(
                "delay = {{ {whom}, latency = {}{jitter}{} }}",
                time(*latency),
                lasts("for")
            )
        }
        FaultKind::Remove(_)
        | FaultKind::Drain
        | FaultKind::Machine(_)
        | FaultKind::Upgrade
        | FaultKind::Misbehave { .. } => return None,
    })
}

/// Whose links are slow: all links of some nodes, or those between one pair.
fn slowed(plan: &Plan, targets: &[NodeName], links: &[(NodeName, NodeName)]) -> Option<String> {
    let name = |node: usize| &plan.network.nodes[node].name;
    let of_targets = |(a, b): &&(usize, usize)| targets.contains(name(*a)) || targets.contains(name(*b));
    let all = plan.network.links.iter().filter(of_targets).count();
    match links {
        _ if links.len() == all => Some(format!("nodes = {}", list(targets))),
        [(a, b)] => Some(format!("between = [[{}], [{}]]", quoted(a), quoted(b))),
        _ => None,
    }
}

fn list(names: &[NodeName]) -> String {
    let names: Vec<String> = names.iter().map(|name| quoted(name)).collect();
    format!("[{}]", names.join(", "))
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// A duration as the language writes it.
fn time(time: Ms) -> String {
    if time.0.is_multiple_of(1000) {
        format!("\"{}s\"", time.0 / 1000)
    } else {
        format!("\"{}ms\"", time.0)
    }
}
