//! `faults`: every fault on both backends, by runs: who does it, what a probe measured, and how long each state of its life took.
//!
//! A probe that says that nothing comes has to watch for a while; that time belongs to the claim, not to trialnet, and stands apart.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use serde_json::Value;

use super::{LOCAL, TRIALNET, kubernetes, median, start};

/// A fault as one would ask for it.
struct Case {
    /// The name of its row.
    name: &'static str,
    /// The step.
    step: &'static str,
    /// How it stands in `trialnet faults`.
    entry: &'static str,
    /// How it ends.
    end: End,
    /// At most so many milliseconds may be ours until it is verified: on this machine, in a cluster.
    reach: Option<(u64, u64)>,
    /// Whether the nodes need volumes of memory.
    memory: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// By `heal`.
    Heal,
    /// By itself; the network has to recover.
    Itself,
}

/// A fault that a step heals.
const fn healed(name: &'static str, entry: &'static str, step: &'static str) -> Case {
    Case {
        name,
        step,
        entry,
        end: End::Heal,
        reach: None,
        memory: false,
    }
}

/// A fault that ends by itself.
const fn ending(name: &'static str, entry: &'static str, step: &'static str) -> Case {
    Case {
        end: End::Itself,
        ..healed(name, entry, step)
    }
}

impl Case {
    const fn within(self, local: u64, cluster: u64) -> Self {
        Self {
            reach: Some((local, cluster)),
            ..self
        }
    }
}

const CASES: &[Case] = &[
    healed("kill", "kill", r#"kill = { nodes = ["validator-3"] }"#).within(30, 150),
    ending(
        "kill, brought back by the kubelet",
        "kill, how",
        r#"kill = { nodes = ["validator-3"], down = "platform" }"#,
    ),
    ending(
        "pod deleted",
        "kill, how",
        r#"kill = { nodes = ["validator-3"], how = "delete" }"#,
    ),
    ending(
        "pod evicted",
        "kill, how",
        r#"kill = { nodes = ["validator-3"], how = "evict" }"#,
    ),
    healed("pause", "pause", r#"pause = { nodes = ["validator-3"] }"#).within(30, 150),
    healed("stop", "stop", r#"stop = { nodes = ["validator-3"] }"#),
    ending("restart", "stop", r#"restart = { nodes = ["validator-3"] }"#),
    healed(
        "partition 3 from 1",
        "partition, isolate",
        r#"partition = { sides = [["validator-0", "validator-1", "validator-2"], ["validator-3"]] }"#,
    )
    .within(30, 150),
    healed(
        "isolate",
        "partition, isolate",
        r#"isolate = { nodes = ["validator-3"] }"#,
    ),
    healed(
        "one-way cut",
        "partition, direction",
        r#"partition = { sides = [["validator-0", "validator-1", "validator-2"], ["validator-3"]], direction = "one-way" }"#,
    ),
    healed("delay of 40 ms", "delay", r#"delay = { latency = "40ms" }"#),
    healed("loss of 20 %", "loss", r#"loss = { percent = 20 }"#),
    healed(
        "no more than 1 Mbit/s",
        "bandwidth",
        r#"bandwidth = { rate = "1mbit" }"#,
    ),
    healed(
        "stress by a thread and 64 MiB",
        "stress",
        r#"stress = { nodes = ["validator-3"], cpu = 1, memory = "64Mi" }"#,
    ),
    healed(
        "a read-only disk",
        "read_only",
        r#"read_only = { nodes = ["validator-3"] }"#,
    ),
    Case {
        memory: true,
        ..healed(
            "a full disk",
            "fill",
            r#"fill = { nodes = ["validator-3"], percent = 100 }"#,
        )
    },
];

/// Prints the tables of both backends, and writes them to a file where one is named. Without a cluster that half is left out.
pub(super) fn table(repeats: usize, file: Option<&str>) -> Result<(), String> {
    let mut text = String::from(
        "# What a fault does, and how long that takes\n\n\
         Made by `cargo xtask bench faults --write` from runs of four devnodes on this machine and in a kind cluster. Times are medians in \
         milliseconds. *By trialnet* is what is left of the time to *verified* without the time for which a probe has to watch before it may \
         say that nothing comes.\n",
    );
    text.push_str(&backend(LOCAL, repeats)?);
    if kubernetes::reached("faults")? {
        text.push_str(&backend("kubernetes", repeats)?);
    }
    println!("\n{text}");
    match file {
        Some(file) => fs::write(file, text).map_err(|error| format!("{file}: {error}")),
        None => Ok(()),
    }
}

/// The table of a backend.
fn backend(backend: &str, repeats: usize) -> Result<String, String> {
    let offers = offers(backend)?;
    let by = |case: &Case| {
        offers
            .iter()
            .find(|(step, _)| step.starts_with(case.entry))
            .map(|(_, by)| by.clone())
    };
    let offered: Vec<&Case> = CASES.iter().filter(|case| matches!(by(case), Some(Some(_)))).collect();
    let (memory, volume): (Vec<&Case>, Vec<&Case>) = offered.iter().copied().partition(|case| case.memory);
    let mut lives = Vec::new();
    for (cases, persistence) in [(volume, "volume"), (memory, "memory")] {
        if !cases.is_empty() {
            lives.extend(self::lives(backend, &cases, persistence, repeats)?);
        }
    }
    let mut text = format!(
        "\n## On the {backend} backend\n\n\
         | fault | done by | seen by a probe | asked → injected | → verified | of it watched | by trialnet | heal → reverted | → seen to be gone |\n\
         |---|---|---|--:|--:|--:|--:|--:|--:|\n"
    );
    for case in &offered {
        let by = by(case).flatten().unwrap_or_default();
        let of = lives.iter().filter(|(name, _)| *name == case.name);
        let of: Vec<&Life> = of.map(|(_, life)| life).collect();
        let time = |value: fn(&Life) -> Option<u64>| {
            let times: Vec<u64> = of.iter().filter_map(|life| value(life)).collect();
            if times.is_empty() {
                "".to_owned()
            } else {
                median(times.into_iter()).to_string()
            }
        };
        let reach = case
            .reach
            .map(|(local, cluster)| if backend == LOCAL { local } else { cluster });
        let reach = reach.map_or_else(String::new, |reach| format!(" (reach {reach})"));
        let seen = of.first().map_or("", |life| life.seen.as_str());
        let _ = writeln!(
            text,
            "| {} | {by} | {} | {} | {} | {} | {}{reach} | {} | {} |",
            case.name,
            seen.replace('|', "/"),
            time(|life| Some(life.injected)),
            time(|life| Some(life.verified)),
            time(|life| Some(watched(&life.seen))),
            time(|life| Some(life.injected + life.verified.saturating_sub(watched(&life.seen)))),
            time(|life| life.reverted),
            time(|life| life.gone),
        );
    }
    let refused = CASES.iter().filter(|case| matches!(by(case), Some(None)));
    let refused: Vec<_> = refused.map(|case| case.name).collect();
    if !refused.is_empty() {
        let _ = writeln!(text, "\nRefused before the start there: {}.", refused.join(", "));
    }
    Ok(text)
}

/// What `trialnet faults` says: the step of each fault, and by whom it is done, `None` where it is refused.
fn offers(backend: &str) -> Result<Vec<(String, Option<String>)>, String> {
    let output = Command::new(TRIALNET)
        .args(["faults", "--json", "--backend", backend])
        .output()
        .map_err(|error| format!("start {TRIALNET}: {error}"))?;
    let entries: Vec<Value> = serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())?;
    let entry = |entry: &Value| {
        let word = |key: &str| entry[key].as_str().map(str::to_owned);
        Some((word("step")?, word("by")))
    };
    Ok(entries.iter().filter_map(entry).collect())
}

/// What became of one fault, in milliseconds.
#[derive(Debug, PartialEq, Eq)]
struct Life {
    /// From the step's beginning.
    injected: u64,
    /// From there.
    verified: u64,
    /// From the beginning of `heal`.
    reverted: Option<u64>,
    /// From there.
    gone: Option<u64>,
    /// What the probe saw.
    seen: String,
}

/// Runs all cases in turn, so that each repetition sees the same machine; the lives of their faults, each with the name of its case.
fn lives(
    backend: &str,
    cases: &[&Case],
    persistence: &str,
    repeats: usize,
) -> Result<Vec<(&'static str, Life)>, String> {
    let place = tempfile::tempdir().map_err(|error| error.to_string())?;
    let (mut child, records) = start(&scenario(cases, persistence, repeats), place.path(), backend)?;
    let status = child.wait().map_err(|error| error.to_string())?;
    let text = fs::read_to_string(&records).map_err(|error| format!("{}: {error}", records.display()))?;
    if !status.success() {
        let told = Command::new(TRIALNET)
            .arg("judge")
            .arg(place.path().join("run"))
            .output();
        let told = told.map(|told| String::from_utf8_lossy(&told.stdout).into_owned());
        return Err(format!(
            "the faults' run ended with {status}: {}",
            told.unwrap_or_default()
        ));
    }
    Ok(read(&text, cases))
}

/// The steps: each case, its end, and the network as it was.
fn scenario(cases: &[&Case], persistence: &str, repeats: usize) -> String {
    let mut text = format!(
        "format = 1\nname = \"bench-faults\"\n[limits]\nrun = \"15m\"\n[network]\nchain = \"devnode\"\nblock_time = \"200ms\"\n\
         persistence = \"{persistence}\"\n\
         [network.groups.validator]\nrole = \"validator\"\ncount = 4\nresources = {{ memory_limit = \"512Mi\" }}\n\
         [[steps]]\nexpect.height = {{ nodes = [\"all\"], at_least = 3, within = \"60s\" }}\n",
    );
    for turn in 0..repeats {
        for (at, case) in cases.iter().enumerate() {
            let id = format!("f{at}-{turn}");
            let _ = write!(text, "[[steps]]\nid = \"{id}\"\n{}\n", case.step);
            if case.end == End::Heal {
                let _ = write!(text, "[[steps]]\nheal = [\"{id}\"]\n");
            }
            let _ = write!(
                text,
                "[[steps]]\nexpect.recovery = {{ of = \"{id}\", within = \"60s\" }}\n"
            );
        }
    }
    text
}

/// The lives of the faults of [`scenario`] from the records of its run.
fn read(records: &str, cases: &[&Case]) -> Vec<(&'static str, Life)> {
    let mut began = 0;
    // When the step of each state began, when it came, and what it said.
    let mut states: BTreeMap<(String, String), (u64, u64, String)> = BTreeMap::new();
    let mut order = Vec::new();
    for line in records
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
    {
        let (at, record) = (line["at"].as_u64().unwrap_or(0), &line["record"]);
        if record["step"]["state"] == "began" {
            began = at;
        }
        let fault = &record["fault"];
        if let (Some(id), Some(state)) = (fault["id"].as_str(), fault["state"].as_str()) {
            if state == "planned" {
                order.push(id.to_owned());
            }
            let detail = fault["detail"].as_str().unwrap_or_default().to_owned();
            states.insert((id.to_owned(), state.to_owned()), (began, at, detail));
        }
    }
    let life = |id: &String| {
        let index: usize = id.strip_prefix('f')?.split('-').next()?.parse().ok()?;
        let state = |state: &str| states.get(&(id.clone(), state.to_owned()));
        let (asked, injected, _) = state("injected")?;
        let (_, verified, seen) = state("verified")?;
        let case = cases.get(index)?;
        let healed = case.end == End::Heal;
        let reverted = state("reverted").filter(|_| healed);
        let gone = state("revert-verified").filter(|_| healed);
        let life = Life {
            injected: injected - asked,
            verified: verified.saturating_sub(*injected),
            reverted: reverted.map(|(asked, at, _)| at - asked),
            gone: reverted
                .zip(gone)
                .map(|((_, before, _), (_, at, _))| at.saturating_sub(*before)),
            seen: seen.clone(),
        };
        Some((case.name, life))
    };
    order.iter().filter_map(life).collect()
}

/// How long the probe had to watch, by its own words: "no byte … in 250ms" is two looks of that time, one after the other; "silent for 400ms" one.
fn watched(seen: &str) -> u64 {
    let after = |words: &str| {
        let rest = seen.split_once(words)?.1;
        rest.split_once("ms")?.0.parse::<u64>().ok()
    };
    let silent = after("silent for ").unwrap_or(0);
    let no_byte = after("open connections in ").unwrap_or(0);
    silent + 2 * no_byte
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lives_are_read_from_records() {
        let records = r#"
            {"at":100,"record":{"step":{"step":1,"state":"began"}}}
            {"at":110,"record":{"fault":{"id":"f0-0","state":"planned","targets":[],"detail":"partition"}}}
            {"at":120,"record":{"fault":{"id":"f0-0","state":"injected","targets":[],"detail":""}}}
            {"at":640,"record":{"fault":{"id":"f0-0","state":"verified","targets":[],"detail":"no byte on 6 new and 6 open connections in 250ms; 4 other links carry bytes"}}}
            {"at":700,"record":{"step":{"step":2,"state":"began"}}}
            {"at":720,"record":{"fault":{"id":"f0-0","state":"reverted","targets":[],"detail":""}}}
            {"at":750,"record":{"fault":{"id":"f0-0","state":"revert-verified","targets":[],"detail":"bytes"}}}"#;
        let cut = CASES.iter().find(|case| case.name.starts_with("partition")).unwrap();
        let lives = read(records, &[cut]);
        let [(name, life)] = lives.as_slice() else {
            panic!("{lives:?}")
        };
        assert_eq!(*name, cut.name);
        assert_eq!((life.injected, life.verified), (20, 520));
        assert_eq!((life.reverted, life.gone), (Some(20), Some(30)));
        assert_eq!(watched(&life.seen), 500);
        assert_eq!(watched("pid 7 halted, RPC silent for 400ms"), 400);
        assert_eq!(watched("pid 7 gone, RPC port closed"), 0);
    }
}
