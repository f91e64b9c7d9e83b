//! Words for people: counts, moments, lists of nodes, steps in a few words, tables.

use crate::model::upgrade::{OnFailure, Strategy, Upgrade};
use crate::model::{
    Action, Bounds, Expect, Fault, FaultKind, Invariant, Lasts, NodeName, OnRestart, Outage, Plane, Removal, Start,
    Step, Stress, Targets, TxBody, What, When, Window, bits, mebibytes,
};

/// Lists of nodes are cut at about so many characters.
const NAMES_WIDTH: usize = 60;

/// A number with its noun, in the plural unless it is one: `1 step`, `0 steps`.
#[must_use]
pub fn count(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

/// A moment in milliseconds from *ready* in words: `12.3s after ready`, `0.4s before ready`.
#[must_use]
pub fn from_ready(ms: i64) -> String {
    let side = if ms < 0 { "before" } else { "after" };
    format!("{} {side} ready", tenths(ms.unsigned_abs()))
}

/// A duration in milliseconds, always in seconds with one decimal (cut, not rounded): `12.3s`.
#[must_use]
pub fn tenths(ms: u64) -> String {
    format!("{}.{}s", ms / 1000, ms % 1000 / 100)
}

/// The time from one moment to another, where both are known.
#[must_use]
pub fn between(from: Option<i64>, to: Option<i64>) -> Option<String> {
    let ms = to?.saturating_sub(from?).max(0);
    Some(tenths(ms.unsigned_abs()))
}

/// Node names with indices drawn together: `validator-0..3,7, full-0`; a list that is still long is cut and gets its number.
///
/// Prefixes come in the order of their first node, indices ascending; both ends of a range belong to it.
#[must_use]
pub fn names<N: AsRef<str>>(nodes: &[N]) -> String {
    let mut groups: indexmap::IndexMap<&str, Vec<u64>> = indexmap::IndexMap::new();
    for node in nodes {
        let (prefix, index) = split_name(node.as_ref());
        groups.entry(prefix).or_default().extend(index);
    }
    let parts: Vec<String> = groups
        .into_iter()
        .map(|(prefix, indices)| group_name(prefix, indices))
        .collect();
    let all = parts.join(", ");
    if all.chars().count() <= NAMES_WIDTH {
        return all;
    }
    format!("{} ({})", count(nodes.len(), "node"), cut(&all, NAMES_WIDTH - 12))
}

/// `validator-3` is index 3 under `validator`; any other name stands for itself.
fn split_name(name: &str) -> (&str, Option<u64>) {
    name.rsplit_once('-')
        .and_then(|(prefix, digits)| {
            let index: u64 = digits.parse().ok()?;
            // A name such as `node-007` could not be told from `node-7` afterwards.
            (index.to_string() == digits).then_some((prefix, Some(index)))
        })
        .unwrap_or((name, None))
}

fn group_name(prefix: &str, mut indices: Vec<u64>) -> String {
    if indices.is_empty() {
        return prefix.to_owned();
    }
    indices.sort_unstable();
    indices.dedup();
    let ranges: Vec<String> = indices
        .chunk_by(|a, b| b - a == 1)
        .flat_map(|range| match range {
            [first, .., last] if range.len() > 2 => vec![format!("{first}..{last}")],
            few => few.iter().map(u64::to_string).collect(),
        })
        .collect();
    format!("{prefix}-{}", ranges.join(","))
}

/// At most `width` characters; what is cut off is shown by `…`. Escape sequences and control characters are taken out, so that text
/// from a node cannot disturb the terminal.
#[must_use]
pub fn cut(text: &str, width: usize) -> String {
    let text = clean(text);
    if text.chars().count() <= width {
        return text;
    }
    let mut short: String = text.chars().take(width.saturating_sub(1)).collect();
    short.truncate(short.trim_end().len());
    short.push('…');
    short
}

/// Text without escape sequences, with control characters (also line ends) as spaces.
#[must_use]
pub fn clean(text: &str) -> String {
    let text = anstream::adapter::strip_str(text).to_string();
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Text in at most `lines` lines of at most `width` characters, broken at spaces where there are some; what is cut off is shown by `…`.
#[must_use]
pub fn wrap(text: &str, width: usize, lines: usize) -> Vec<String> {
    let mut wrapped = vec![String::new()];
    for part in text.lines() {
        if wrapped.last().is_some_and(|line| !line.is_empty()) {
            wrapped.push(String::new());
        }
        for word in clean(part).split_whitespace() {
            push_word(&mut wrapped, word, width);
        }
    }
    if wrapped.len() > lines {
        wrapped.truncate(lines);
        if let Some(last) = wrapped.last_mut() {
            *last = cut(&format!("{last} …"), width);
        }
    }
    wrapped
}

fn push_word(lines: &mut Vec<String>, word: &str, width: usize) {
    let used = lines.last().map_or(0, |line| line.chars().count());
    let length = word.chars().count();
    match lines.last_mut() {
        Some(line) if used == 0 && length <= width => line.push_str(word),
        Some(line) if used + 1 + length <= width => {
            line.push(' ');
            line.push_str(word);
        }
        _ if length <= width => lines.push(word.to_owned()),
        _ => {
            // Longer than a line: a hash or a path. It is broken anywhere.
            for piece in word.chars().collect::<Vec<_>>().chunks(width.max(1)) {
                if lines.last().is_some_and(|line| !line.is_empty()) {
                    lines.push(String::new());
                }
                if let Some(line) = lines.last_mut() {
                    line.extend(piece);
                }
            }
        }
    }
}

/// Columns aligned to the left, two spaces apart, each line after `indent`; the last column is not padded.
#[must_use]
pub fn table<const N: usize>(indent: &str, rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let lines: Vec<String> = rows
        .iter()
        .map(|row| {
            let cells: Vec<String> = row
                .iter()
                .zip(widths)
                .map(|(cell, width)| format!("{cell:<width$}"))
                .collect();
            format!("{indent}{}", cells.join("  ")).trim_end().to_owned()
        })
        .collect();
    lines.join("\n")
}

/// A step in a few words: its name, or what it does, after its id.
#[must_use]
pub fn title(step: &Step) -> String {
    match (&step.name, &step.id) {
        (Some(name), _) => name.clone(),
        (None, Some(id)) => format!("{id}: {}", action(&step.action)),
        (None, None) => action(&step.action),
    }
}

/// What delays a step: `at height 40 (within 1m)`, `after 10s`.
#[must_use]
pub fn when(when: &When) -> String {
    match when {
        When::Height { height, within } => format!("at height {height} (within {within})"),
        When::After(duration) => format!("after {duration}"),
        When::Moved { of, nodes, within } => {
            format!("when {} of {of} are done (within {within})", count(*nodes, "node"))
        }
    }
}

/// What a step does, in a few words close to those of the scenario language.
#[must_use]
pub fn action(action: &Action) -> String {
    match action {
        Action::Fault(described) => fault(described),
        Action::Start { nodes } => format!("start {}", names(nodes)),
        Action::Heal { faults } => format!("heal {}", faults.join(", ")),
        Action::Wait(duration) => format!("wait {duration}"),
        Action::Load(load) => format!(
            "load of {} transactions a second ({} bytes each) for {} on {}",
            load.rate,
            load.size,
            load.lasts,
            names(&load.nodes)
        ),
        Action::Tx(tx) => match &tx.body {
            TxBody::Raw(text) => format!("send `{}` to {}", cut(text, 40), tx.node),
            TxBody::Power { validator, power: 0 } => format!("remove validator {validator} through {}", tx.node),
            TxBody::Power { validator, power } => format!("give {validator} power {power} through {}", tx.node),
        },
        Action::Join { id, within } => format!("join {id} within {within}"),
        Action::Evict { nodes, drain: false } => format!("an eviction of {} is refused", names(nodes)),
        Action::Evict { nodes, drain: true } => format!("a drain of the machine of {} is refused", names(nodes)),
        Action::Corrupt(corrupt) => {
            let bytes = usize::try_from(corrupt.bytes).unwrap_or(usize::MAX);
            let (bytes, nodes) = (count(bytes, "byte"), names(&corrupt.nodes));
            format!("damage {bytes} of {} of {nodes}", corrupt.file)
        }
        Action::Upgrade(moved) => upgrade(moved),
        Action::Expect(described) => expect(described),
    }
}

/// What an upgrade does, to whom, and how many at once.
fn upgrade(upgrade: &Upgrade) -> String {
    let moved: Vec<&NodeName> = upgrade.nodes().collect();
    let how = match upgrade.strategy {
        Strategy::Batch => format!("{} at once", upgrade.widest()),
        Strategy::Canary if upgrade.widest() > 1 => format!("canary, then {} at once", upgrade.widest()),
        other => other.word().to_owned(),
    };
    let failed = match upgrade.on_failure {
        OnFailure::Stop => "",
        OnFailure::Rollback => ", back if it fails",
    };
    format!("upgrade {} to {}, {how}{failed}", names(&moved), upgrade.to)
}

/// What a fault does, to whom, and until when.
#[must_use]
pub fn fault(fault: &Fault) -> String {
    let targets = match &fault.targets {
        Targets::Nodes(nodes) => names(nodes),
        Targets::Leader { among } => format!("the proposer among {}", names(among)),
    };
    let what = match &fault.kind {
        FaultKind::Kill | FaultKind::Pause | FaultKind::Stop | FaultKind::Restart | FaultKind::Upgrade => {
            let component = fault.component.as_ref().map(|name| format!("{name} of "));
            format!("{} {}{targets}", fault.kind.word(), component.unwrap_or_default())
        }
        FaultKind::Remove(how) => match how {
            Removal::Delete { grace: None } => format!("delete the pod of {targets}"),
            Removal::Delete { grace: Some(grace) } => format!("delete the pod of {targets} with a grace of {grace}"),
            Removal::Force => format!("delete the pod of {targets} by force"),
            Removal::Evict => format!("evict the pod of {targets}"),
        },
        FaultKind::Drain => format!("drain the machine of {targets}"),
        FaultKind::Machine(Outage::Stop) => format!("stop the machine of {targets}"),
        FaultKind::Machine(Outage::Pause) => format!("halt the machine of {targets}"),
        FaultKind::Partition {
            sides: parts,
            plane,
            one_way,
        } => {
            let way = if *one_way {
                ", from the first to the second only"
            } else {
                ""
            };
            format!("partition {}{}{way}", sides(parts), with_plane(*plane))
        }
        FaultKind::Isolate { plane } => format!("isolate {targets}{}", with_plane(*plane)),
        kind @ FaultKind::Delay {
            links,
            latency,
            jitter,
            each: _,
        } => {
            let which = which(links);
            let least = kind.least_latency().filter(|least| least != latency);
            let least = least.map(|least| format!("{least} to ")).unwrap_or_default();
            let jitter = if jitter.0 == 0 {
                String::new()
            } else {
                format!(" ± {jitter}")
            };
            format!("delay {which} by {least}{latency}{jitter} each way")
        }
        FaultKind::Bandwidth { links, rate } => format!(
            "let no more than {} pass between {} each way",
            bits(*rate),
            which(links)
        ),
        FaultKind::Loss { links, percent } => format!("lose {percent} % of the packets of {} each way", which(links)),
        FaultKind::ReadOnly => format!("start {targets} on a read-only volume"),
        FaultKind::Fill(fill) => format!("fill the volume of {targets} to {} %", fill.percent),
        FaultKind::Stress(Stress { cpu, memory, .. }) => {
            let threads = usize::try_from(*cpu).unwrap_or(usize::MAX);
            let threads = (*cpu > 0).then(|| count(threads, "thread"));
            let held = (*memory > 0).then(|| format!("{} of memory", mebibytes(*memory)));
            let what: Vec<_> = threads.into_iter().chain(held).collect();
            format!("stress {targets} with {}", what.join(" and "))
        }
        FaultKind::Misbehave { how, .. } => format!("misbehave {how} on {targets}"),
    };
    let wiped = if fault.wipe { ", data included" } else { "" };
    let until = match fault.lasts {
        Lasts::Platform if matches!(fault.kind, FaultKind::Remove(_)) => String::new(),
        Lasts::For(duration) => format!(" for {duration}"),
        Lasts::UntilHealed => " until healed".to_owned(),
        Lasts::Platform => ", left to the platform".to_owned(),
        Lasts::Itself => String::new(),
    };
    let dropped = match fault.on_restart {
        OnRestart::Reapply => "",
        OnRestart::Drop => ", dropped where a pod or container is replaced",
    };
    format!("{what}{until}{wiped}{dropped}")
}

/// `the link a to b`, `6 links`.
fn which(links: &[(NodeName, NodeName)]) -> String {
    match links {
        [(a, b)] => format!("the link {a} to {b}"),
        _ => count(links.len(), "link"),
    }
}

fn with_plane(plane: Plane) -> &'static str {
    match plane {
        Plane::P2p => "",
        Plane::All => " (RPC too)",
    }
}

/// `validator-0,1 | validator-2,3`; more than two nodes that are alone are named together.
fn sides(sides: &[Vec<NodeName>]) -> String {
    let alone: Vec<&NodeName> = sides.iter().filter(|side| side.len() == 1).flatten().collect();
    let draw_together = alone.len() > 2;
    let mut parts: Vec<String> = sides
        .iter()
        .filter(|side| side.len() > 1 || !draw_together)
        .map(|side| names(side))
        .collect();
    if draw_together {
        parts.push(format!("each of {} alone", names(&alone)));
    }
    parts.join(" | ")
}

fn expect(expect: &Expect) -> String {
    let what = match &expect.what {
        What::Height(wanted) => format!("height {}", bounds(*wanted)),
        What::Progress { blocks } => format!(
            "progress of {}",
            count(usize::try_from(*blocks).unwrap_or(usize::MAX), "block")
        ),
        What::Halt { of } => format!("halt of {of}"),
        What::Recovery { of } => format!("recovery of {of}"),
        What::Lag(wanted) => format!("lag {}", bounds(*wanted)),
        What::Peers(wanted) => format!("peers {}", bounds(*wanted)),
        What::Version { is } => format!("version {is}"),
        What::Validators { count: number, powers } => {
            let number = number.map(|number| format!("{number} in all"));
            let powers = powers.iter().map(|(node, power)| format!("{node} with {power}"));
            let parts: Vec<String> = number.into_iter().chain(powers).collect();
            format!("validators {}", cut(&parts.join(", "), NAMES_WIDTH))
        }
        What::Log { contains } => format!("log line with `{}`", cut(contains, 40)),
        What::Restarts(wanted) => format!("restarts {}", bounds(*wanted)),
        What::Tx { of } => format!("transaction {of} committed on every node"),
    };
    let nodes = expect
        .nodes
        .as_ref()
        .map(|nodes| format!(" on {}", names(nodes)))
        .unwrap_or_default();
    match expect.window {
        Window::Now => format!("expect {what}{nodes} now"),
        Window::Within(limit) => format!("expect {what}{nodes} within {limit}"),
        Window::For(duration) => format!("expect {what}{nodes} for {duration}"),
        Window::Never => format!("expect never {what}{nodes}"),
    }
}

fn bounds(Bounds { at_least, at_most }: Bounds) -> String {
    match (at_least, at_most) {
        (Some(low), Some(high)) if low == high => format!("exactly {low}"),
        (Some(low), Some(high)) => format!("from {low} to {high}"),
        (Some(low), None) => format!("at least {low}"),
        (None, Some(high)) => format!("at most {high}"),
        (None, None) => "any".to_owned(),
    }
}

/// The word with which a scenario switches an invariant off.
#[must_use]
pub const fn invariant(invariant: Invariant) -> &'static str {
    match invariant {
        Invariant::Fork => "fork",
        Invariant::AppState => "app-state",
        Invariant::HashChange => "hash-change",
        Invariant::HeightBack => "height-back",
        Invariant::ParentLink => "parent-link",
        Invariant::Minority => "minority",
        Invariant::MaxStall => "max-stall",
        Invariant::MaxLag => "max-lag",
        Invariant::Restarts => "restarts",
        Invariant::Coverage => "coverage",
    }
}

/// When a node is started.
#[must_use]
pub const fn start(start: Start) -> &'static str {
    match start {
        Start::Auto => "with the network",
        Start::Manual => "by a step",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Ms;

    fn nodes(prefix: &str, indices: impl IntoIterator<Item = u32>) -> Vec<String> {
        indices.into_iter().map(|index| format!("{prefix}-{index}")).collect()
    }

    #[test]
    fn nodes_are_drawn_together() {
        assert_eq!(names(&nodes("validator", 0..4)), "validator-0..3");
        assert_eq!(names(&nodes("validator", [3, 0, 1])), "validator-0,1,3");
        assert_eq!(
            names(&["validator-0", "full-0", "validator-1", "validator-2"]),
            "validator-0..2, full-0"
        );
        assert_eq!(names(&["validator-0"]), "validator-0");
        assert_eq!(names::<&str>(&[]), "");
        assert_eq!(names(&["alone", "node-007", "node-7"]), "alone, node-007, node-7");
        let mut many = nodes("validator", 0..10);
        many.extend(nodes("full", 0..90));
        assert_eq!(names(&many), "validator-0..9, full-0..89");
        let odd = names(&nodes("validator", (0..100).step_by(2)));
        assert!(
            odd.starts_with("50 nodes (validator-0,2,4,") && odd.ends_with("…)"),
            "{odd}"
        );
        assert!(odd.chars().count() <= NAMES_WIDTH + 2, "{odd}");
    }

    #[test]
    fn numbers_and_moments() {
        assert_eq!(count(1, "step"), "1 step");
        assert_eq!(count(0, "step"), "0 steps");
        assert_eq!(from_ready(12_399), "12.3s after ready");
        assert_eq!(from_ready(-400), "0.4s before ready");
        assert_eq!(between(Some(100), Some(5_250)).as_deref(), Some("5.1s"));
        assert_eq!(between(None, Some(1)), None);
    }

    #[test]
    fn text_is_cut_and_wrapped_and_cannot_disturb_the_terminal() {
        assert_eq!(cut("abcdef", 4), "abc…");
        assert_eq!(cut("a\u{1b}[31mb\u{1b}[0m\tc\n", 9), "ab c ");
        assert_eq!(wrap("one two three", 7, 5), ["one two", "three"]);
        assert_eq!(wrap("one two three four", 7, 2), ["one two", "three …"]);
        assert_eq!(wrap("x 0123456789", 4, 9), ["x", "0123", "4567", "89"]);
        assert_eq!(wrap("first\nsecond", 20, 5), ["first", "second"]);
        assert_eq!(wrap("", 20, 5), [""]);
    }

    #[test]
    fn faults_in_a_few_words() {
        let split = |parts: Vec<Vec<String>>| {
            fault(&Fault {
                id: "split".into(),
                targets: Targets::Nodes(parts.concat()),
                kind: FaultKind::Partition {
                    sides: parts,
                    plane: Plane::P2p,
                    one_way: false,
                },
                lasts: Lasts::UntilHealed,
                component: None,
                wipe: false,
                on_restart: crate::model::OnRestart::Reapply,
            })
        };
        assert_eq!(
            split(vec![nodes("v", 0..2), nodes("v", 2..4)]),
            "partition v-0,1 | v-2,3 until healed"
        );
        let alone = nodes("full", 0..90).into_iter().map(|node| vec![node]);
        assert_eq!(
            split(std::iter::once(nodes("v", 0..4)).chain(alone).collect()),
            "partition v-0..3 | each of full-0..89 alone until healed"
        );
        let leader = Fault {
            id: "gone".into(),
            kind: FaultKind::Pause,
            targets: Targets::Leader {
                among: nodes("v", 0..4),
            },
            lasts: Lasts::For(Ms::secs(5)),
            component: None,
            wipe: false,
            on_restart: crate::model::OnRestart::Reapply,
        };
        assert_eq!(fault(&leader), "pause the proposer among v-0..3 for 5s");
    }

    #[test]
    fn a_table_is_aligned_without_trailing_spaces() {
        let rows = [["a", "b", ""], ["long", "c", "d"]].map(|row| row.map(str::to_owned));
        assert_eq!(table(" ", &rows), " a     b\n long  c  d");
    }
}
