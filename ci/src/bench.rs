//! Benches: each prints a table of what was measured beside what is to be reached. Ratios are taken in one run, on one machine.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::chores;

mod faults;
mod kubernetes;

/// CometBFT version of the benches.
const COMETBFT: &str = "cometbft-0.38.17";

/// Runs the named benches, or all.
pub(crate) fn run(words: &[&str]) -> Result<(), String> {
    let quick = words.contains(&"--quick");
    let names: Vec<_> = words.iter().copied().filter(|word| !word.starts_with("--")).collect();
    let wanted = |name: &str| names.is_empty() || names.contains(&name);
    chores::run(Command::new("cargo").args(["build", "--release", "--bin", "trialnet"]))?;
    let repeats = if quick { 2 } else { 5 };
    if wanted("local-start") {
        local_start(repeats)?;
    }
    if wanted("cometbft-start") {
        cometbft_start(repeats)?;
    }
    if wanted("observe") {
        observe(if quick { 10 } else { 60 })?;
    }
    if wanted("devnode") {
        devnode(if quick { 10 } else { 60 })?;
    }
    if wanted("kubernetes-start") {
        // Each takes half a minute.
        let repeats = if quick { 1 } else { repeats };
        kubernetes::start(repeats, names.contains(&"kubernetes-start"))?;
    }
    // Minutes long, so only by its name.
    if names.contains(&"faults") {
        let write = words.contains(&"--write").then_some("docs/faults.md");
        faults::table(repeats, write)?;
    }
    Ok(())
}

/// What is measured.
const TRIALNET: &str = "target/release/trialnet";

/// What was measured of a run.
struct Measured {
    /// Milliseconds from the start of the process until every node answered / had height 1 / had height 3.
    answered: u64,
    height_1: u64,
    height_3: u64,
    /// From the start of teardown to the end of the process.
    gone: u64,
}

fn local_start(repeats: usize) -> Result<(), String> {
    println!("\nlocal-start (median of {repeats})");
    println!("{:<34} {:>12} {:>9}", "network", "measured", "reach");
    let four = repeated(repeats, || measure(&devnodes(4, 0, "500ms"), LOCAL))?;
    row("4 devnodes: all at height 3", four.height_3, 1500);
    let hundred = repeated(repeats, || measure(&devnodes(10, 90, "500ms"), LOCAL))?;
    row("100 nodes: all at height 3", hundred.height_3, 5000);
    row("100 nodes: gone again", hundred.gone, 1000);
    Ok(())
}

fn cometbft_start(repeats: usize) -> Result<(), String> {
    if Command::new(COMETBFT)
        .arg("version")
        .stdout(Stdio::null())
        .status()
        .is_err()
    {
        println!("\ncometbft-start: skipped, {COMETBFT} is not on PATH");
        return Ok(());
    }
    println!("\ncometbft-start, 4 validators (median of {repeats}; bare: the same processes started without trialnet)");
    let mut bare = Vec::new();
    let mut ours = Vec::new();
    for _ in 0..repeats {
        // In turn, so that both see the same machine.
        bare.push(bare_cometbft()?);
        ours.push(measure(COMET_SCENARIO, LOCAL)?);
    }
    let rpc = (
        median(bare.iter().map(|times| times.0)),
        median(ours.iter().map(|run| run.answered)),
    );
    let first = (
        median(bare.iter().map(|times| times.1)),
        median(ours.iter().map(|run| run.height_1)),
    );
    ratios(rpc, first, "1.15");
    Ok(())
}

/// The table of a bench with a baseline: (bare, ours) until all RPC is up and until all are at height 1, beside what is to be reached.
fn ratios(rpc: (u64, u64), first: (u64, u64), reach: &str) {
    println!(
        "{:<20} {:>10} {:>10} {:>8} {:>8}",
        "until", "bare", "trialnet", "ratio", "reach"
    );
    for (what, (bare, ours)) in [("all RPC up", rpc), ("all at height 1", first)] {
        let ratio = ours as f64 / bare as f64;
        println!("{what:<20} {bare:>7} ms {ours:>7} ms {ratio:>8.2} {reach:>8}");
    }
}

fn devnode(seconds: u64) -> Result<(), String> {
    println!("\ndevnode: each of 4 validators, a block every 200 ms, for {seconds} s");
    let place = tempfile::tempdir().map_err(|error| error.to_string())?;
    let (mut child, records) = start(&devnodes(4, 0, &format!("{}s", seconds + 5)), place.path(), LOCAL)?;
    let pids = wait(Duration::from_secs(60), "ready", || {
        let text = fs::read_to_string(&records).unwrap_or_default();
        text.contains("\"record\":\"ready\"").then(|| started(&text))
    });
    let pids = pids?;
    let begun = Instant::now();
    let before: Vec<f64> = pids.iter().map(|pid| cpu(*pid)).collect();
    std::thread::sleep(Duration::from_secs(seconds));
    let elapsed = begun.elapsed().as_secs_f64();
    let used = (pids.iter().zip(before)).map(|(pid, before)| 100.0 * (cpu(*pid) - before) / elapsed);
    let used = used.fold(0.0, f64::max);
    // Without the program itself, whose pages all of them share.
    let held = pids.iter().map(|pid| memory(*pid, "RssAnon:")).max().unwrap_or(0);
    let status = child.wait().map_err(|error| error.to_string())?;
    println!("{:<20} {:>10} {:>10}", "the most of any", "measured", "reach");
    println!("{:<20} {:>8.1} % {:>8} %", "of one core", used, 2);
    println!("{:<20} {:>7} MB {:>7} MB", "memory", held / 1024, 10);
    if status.success() && pids.len() == 4 {
        Ok(())
    } else {
        Err(format!("the run of {} nodes ended with {status}", pids.len()))
    }
}

/// The processes of nodes that were started, by the records.
fn started(records: &str) -> Vec<u32> {
    let lines = records
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let pid = |line: Value| u32::try_from(line["record"]["node"]["event"]["started"]["pid"].as_u64()?).ok();
    lines.filter_map(pid).collect()
}

fn observe(seconds: u64) -> Result<(), String> {
    println!("\nobserve: 100 nodes at 5 Hz for {seconds} s, trialnet's own process");
    let place = tempfile::tempdir().map_err(|error| error.to_string())?;
    // Nodes are asked three times in a block.
    let text =
        devnodes(10, 90, &format!("{}s", seconds + 5)).replace("block_time = \"200ms\"", "block_time = \"600ms\"");
    let (mut child, records) = start(&text, place.path(), LOCAL)?;
    let ready = wait(Duration::from_secs(60), "ready", || {
        let text = fs::read_to_string(&records).unwrap_or_default();
        text.contains("\"record\":\"ready\"").then_some(())
    });
    let begun = (Instant::now(), cpu(child.id()));
    let mut most = 0;
    while ready.is_ok() && begun.0.elapsed() < Duration::from_secs(seconds) {
        most = most.max(memory(child.id(), "VmRSS:"));
        std::thread::sleep(Duration::from_millis(250));
    }
    let (elapsed, used) = (begun.0.elapsed().as_secs_f64(), cpu(child.id()) - begun.1);
    let status = child.wait().map_err(|error| error.to_string())?;
    ready?;
    println!("{:<20} {:>10} {:>10}", "", "measured", "reach");
    println!("{:<20} {:>8.1} % {:>8} %", "of one core", 100.0 * used / elapsed, 15);
    println!("{:<20} {:>7} MB {:>7} MB", "memory", most / 1024, 60);
    if status.success() {
        Ok(())
    } else {
        Err(format!("the run ended with {status}"))
    }
}

fn row(what: &str, measured: u64, reach: u64) {
    println!("{what:<34} {measured:>9} ms {reach:>6} ms");
}

fn repeated(repeats: usize, mut one: impl FnMut() -> Result<Measured, String>) -> Result<Measured, String> {
    let runs = (0..repeats).map(|_| one()).collect::<Result<Vec<_>, _>>()?;
    Ok(Measured {
        answered: median(runs.iter().map(|run| run.answered)),
        height_1: median(runs.iter().map(|run| run.height_1)),
        height_3: median(runs.iter().map(|run| run.height_3)),
        gone: median(runs.iter().map(|run| run.gone)),
    })
}

fn median(values: impl Iterator<Item = u64>) -> u64 {
    let mut values: Vec<_> = values.collect();
    values.sort_unstable();
    values[values.len() / 2]
}

/// A network of devnodes that runs for a while.
fn devnodes(validators: usize, full: usize, wait: &str) -> String {
    let group = if full == 0 {
        String::new()
    } else {
        format!("[network.groups.full]\nrole = \"full\"\ncount = {full}\n")
    };
    format!(
        "format = 1\nname = \"bench\"\n[network]\nchain = \"devnode\"\nblock_time = \"200ms\"\n\
         [network.groups.validator]\nrole = \"validator\"\ncount = {validators}\n{group}\
         [[steps]]\nexpect.height = {{ nodes = [\"all\"], at_least = 3, within = \"60s\" }}\n[[steps]]\nwait = \"{wait}\"\n"
    )
}

const COMET_SCENARIO: &str = r#"
format = 1
name = "bench"
[network]
chain = "cometbft"
version = "0.38.17"
block_time = "500ms"
[network.groups.validator]
role = "validator"
count = 4
[[steps]]
expect.height = { nodes = ["all"], at_least = 3, within = "60s" }
"#;

/// The value of `--backend` for processes on this machine.
const LOCAL: &str = "local";

/// Starts trialnet on a scenario; the path of its records.
fn start(text: &str, place: &Path, backend: &str) -> Result<(Child, PathBuf), String> {
    let file = place.join("bench.toml");
    let folder = place.join("run");
    fs::write(&file, text).map_err(|error| error.to_string())?;
    let child = Command::new(TRIALNET)
        .arg("run")
        .arg(&file)
        .args(["--backend", backend])
        .arg("--run-dir")
        .arg(&folder)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("start {TRIALNET}: {error}"))?;
    Ok((child, folder.join("records.jsonl")))
}

/// One run of a scenario, from the start of the process to its end.
fn measure(text: &str, backend: &str) -> Result<Measured, String> {
    let place = tempfile::tempdir().map_err(|error| error.to_string())?;
    let spawned = now();
    let (child, records) = start(text, place.path(), backend)?;
    read(child, &records, spawned)
}

/// Waits for the end of a run that was started at `spawned`, and reads from its records what was when.
fn read(mut child: Child, records: &Path, spawned: u64) -> Result<Measured, String> {
    let status = child.wait().map_err(|error| error.to_string())?;
    let ended = now();
    let text = fs::read_to_string(records).map_err(|error| format!("{}: {error}", records.display()))?;
    if !status.success() {
        return Err(format!(
            "the run ended with {status}; its last record: {}",
            text.lines().last().unwrap_or_default()
        ));
    }
    let lines: Vec<Value> = text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let wall = lines[0]["record"]["begin"]["wall"].as_u64().ok_or("no first record")?;
    let at = |line: &Value| wall + line["at"].as_u64().unwrap_or(0);
    // The moment at which the last node reached a height for the first time.
    let reached = |height: u64| {
        let mut first = std::collections::BTreeMap::new();
        for line in &lines {
            let sample = &line["record"]["sample"];
            if let Some(node) = sample["node"].as_str()
                && sample["height"].as_u64().unwrap_or(0) >= height
            {
                first.entry(node.to_owned()).or_insert_with(|| at(line));
            }
        }
        first.values().max().map_or(0, |moment| moment.saturating_sub(spawned))
    };
    let torn_down = lines
        .iter()
        .find(|line| line["record"]["phase"] == "tearing-down")
        .map_or(ended, at);
    Ok(Measured {
        answered: reached(0),
        height_1: reached(1),
        height_3: reached(3),
        gone: ended.saturating_sub(torn_down),
    })
}

/// The same four processes without trialnet: milliseconds to all RPC up, and to height 1 on all.
fn bare_cometbft() -> Result<(u64, u64), String> {
    let place = tempfile::tempdir().map_err(|error| error.to_string())?;
    let begun = Instant::now();
    // Addresses of a slot that trialnet does not give out.
    let made = Command::new(COMETBFT)
        .args(["testnet", "--v", "4", "--starting-ip-address", "127.200.0.1", "--o"])
        .arg(place.path())
        .stdout(Stdio::null())
        .status()
        .map_err(|error| error.to_string())?;
    if !made.success() {
        return Err(format!("{COMETBFT} testnet ended with {made}"));
    }
    let mut nodes = Vec::new();
    for index in 0..4 {
        let ip = format!("127.200.0.{}", index + 1);
        let home = place.path().join(format!("node{index}"));
        let config = home.join("config/config.toml");
        let text = fs::read_to_string(&config).map_err(|error| error.to_string())?;
        fs::write(&config, as_trialnet_has_it(&text)).map_err(|error| error.to_string())?;
        let child = Command::new(COMETBFT)
            .args(["start", "--proxy_app", "persistent_kvstore", "--home"])
            .arg(&home)
            .args([
                format!("--p2p.laddr=tcp://{ip}:26656"),
                format!("--rpc.laddr=tcp://{ip}:26657"),
            ])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| error.to_string())?;
        nodes.push((child, ip));
    }
    let at_least = |height: u64| {
        let all = nodes
            .iter()
            .all(|(_, ip)| height_of(ip).is_some_and(|seen| seen >= height));
        all.then(|| u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX))
    };
    let up = wait(Duration::from_secs(60), "all RPC up", || at_least(0));
    let first = wait(Duration::from_secs(60), "height 1", || at_least(1));
    for (mut child, _) in nodes {
        child.kill().map_err(|error| error.to_string())?;
        child.wait().map_err(|error| error.to_string())?;
    }
    Ok((up?, first?))
}

/// A node's configuration with what trialnet sets in it for a block every half second, so that both start the same processes.
fn as_trialnet_has_it(config: &str) -> String {
    let set = [
        ("flush_throttle_timeout", "10ms"),
        ("peer_gossip_sleep_duration", "20ms"),
        ("timeout_propose", "1500ms"),
        ("timeout_propose_delta", "500ms"),
        ("timeout_prevote", "500ms"),
        ("timeout_prevote_delta", "500ms"),
        ("timeout_precommit", "500ms"),
        ("timeout_precommit_delta", "500ms"),
        ("timeout_commit", "500ms"),
    ];
    let line = |line: &str| match line.split_once(" = ") {
        Some((key, _)) => match set.iter().find(|(known, _)| *known == key) {
            Some((key, value)) => format!("{key} = \"{value}\"\n"),
            None => format!("{line}\n"),
        },
        None => format!("{line}\n"),
    };
    config.lines().map(line).collect()
}

/// The height that a node reports.
fn height_of(ip: &str) -> Option<u64> {
    height_in(&get(format!("{ip}:26657").parse().ok()?, "/status")?)
}

/// The height in the answer to a status request.
fn height_in(answer: &str) -> Option<u64> {
    let rest = answer.split("\"latest_block_height\":\"").nth(1)?;
    rest.split('"').next()?.parse().ok()
}

/// The answer to an HTTP request, with its head. In HTTP 1.0, so that the body comes in one piece.
fn get(address: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_millis(200)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
    stream
        .write_all(format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes())
        .ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

/// Looks until there is a value.
fn wait<T>(limit: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> Result<T, String> {
    let begun = Instant::now();
    loop {
        if let Some(value) = look() {
            return Ok(value);
        }
        if begun.elapsed() > limit {
            return Err(format!("{what}: not within {limit:?}"));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// CPU seconds that a process has used.
fn cpu(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    // Fields 14 and 15 of proc(5), in ticks of 1/100 s; the first two are cut off above.
    [11, 12]
        .iter()
        .filter_map(|&index| fields.get(index)?.parse::<f64>().ok())
        .sum::<f64>()
        / 100.0
}

/// Memory of a process in KB: a field of `/proc/<pid>/status`, proc_pid_status(5).
fn memory(pid: u32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap_or_default();
    line.split_whitespace()
        .nth(1)
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

/// Unix time in milliseconds.
fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}
