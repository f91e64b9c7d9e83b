//! Whatever happens to trialnet, nothing is left: SIGKILL at random moments, of trialnet and of its guard, and the polite signals.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs};

use rand::RngExt;

/// How long the world may take to be as before.
const LIMIT: Duration = Duration::from_secs(5);
/// Longer than any trial takes to reach the moment that it was given.
const LATEST_MOMENT: u64 = 4000;

/// A run with faults of every kind on when it is struck.
const SCENARIO: &str = r#"
format = 1
name = "struck"
[network]
chain = "devnode"
[network.groups.validator]
role = "validator"
count = 7
[[steps]]
expect.height = { at_least = 2, within = "60s" }
[[steps]]
kill = { nodes = ["validator-6"] }
[[steps]]
pause = { nodes = ["validator-5"] }
[[steps]]
delay = { nodes = ["all", "!validator-5", "!validator-6"], latency = "20ms" }
[[steps]]
wait = "1m"
"#;

/// A run that moves nodes to other versions all the time.
const MOVING: &str = r#"
format = 1
name = "moving"
[network]
chain = "devnode"
[network.groups.validator]
role = "validator"
count = 4
[[steps]]
expect.height = { at_least = 2, within = "60s" }
[[steps]]
upgrade = { to = "0.2.0", gate = { grow = 1, within = "30s" } }
[[steps]]
upgrade = { to = "0.3.0", strategy = "batch", batch = 2, gate = { grow = 1, within = "30s" } }
[[steps]]
upgrade = { to = "0.2.0", strategy = "all-at-once", gate = { grow = 1, within = "30s" } }
[[steps]]
wait = "1m"
"#;

struct Trial {
    place: tempfile::TempDir,
    child: Child,
}

impl Trial {
    fn start() -> Self {
        Self::telling(Stdio::null())
    }

    /// What it says besides the verdict goes there.
    fn telling(stderr: Stdio) -> Self {
        Self::of(SCENARIO, stderr)
    }

    fn of(scenario: &str, stderr: Stdio) -> Self {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("struck.toml");
        fs::write(&file, scenario).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_trialnet"))
            .arg("run")
            .arg(&file)
            .arg("--run-dir")
            .arg(place.path().join("run"))
            .env("TRIALNET_STATE_DIR", place.path().join("state"))
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .unwrap();
        Self { place, child }
    }

    fn folder(&self) -> PathBuf {
        self.place.path().join("run")
    }

    /// The run's entry in the registry, once there is one.
    fn entry(&self) -> Option<serde_json::Value> {
        let runs = fs::read_dir(self.place.path().join("state/runs")).ok()?;
        let path = runs
            .flatten()
            .map(|file| file.path())
            .find(|path| path.extension().is_some_and(|e| e == "json"))?;
        serde_json::from_slice(&fs::read(path).ok()?).ok()
    }

    /// The sockets at which the run listens now.
    fn listened(&self) -> Sockets {
        let slot = self.entry().and_then(|entry| entry["slot"].as_u64());
        listeners()
            .into_iter()
            .filter(|(_, (of, _))| slot == Some(*of))
            .collect()
    }

    fn records(&self) -> String {
        fs::read_to_string(self.folder().join("records.jsonl")).unwrap_or_default()
    }

    /// What is left of the run, in words.
    fn left(&self, listened: &Sockets) -> Vec<String> {
        let mut left = processes(self.place.path());
        let homes = self.folder().join("homes");
        if homes.exists() {
            left.push(format!("{} exists", homes.display()));
        }
        if let Some(entry) = self.entry() {
            left.push(format!("the registry still has {entry}"));
        }
        let now = listeners().into_iter();
        left.extend(
            now.filter(|(inode, _)| listened.contains_key(inode))
                .map(|(_, (_, what))| what),
        );
        left
    }

    #[track_caller]
    fn leaves_nothing(&self, listened: &Sockets) {
        until("something is left", || {
            let left = self.left(listened);
            if left.is_empty() { Ok(()) } else { Err(left.join("\n")) }
        });
    }

    /// The folder can be judged, and the verdict is not green.
    #[track_caller]
    fn can_be_judged(&self) {
        if self.records().is_empty() {
            return;
        }
        let judged = Command::new(env!("CARGO_BIN_EXE_trialnet"))
            .arg("judge")
            .arg(self.folder())
            .output()
            .unwrap();
        let code = judged.status.code();
        let text = String::from_utf8_lossy(&judged.stdout).into_owned() + &String::from_utf8_lossy(&judged.stderr);
        assert!(matches!(code, Some(3 | 96)), "exit code {code:?}:\n{text}");
    }
}

/// Looks again and again until there is nothing to complain about.
#[track_caller]
fn until(what: &str, mut look: impl FnMut() -> Result<(), String>) {
    let begun = Instant::now();
    while let Err(seen) = look() {
        assert!(begun.elapsed() < LIMIT, "{what} after {LIMIT:?}:\n{seen}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Living processes whose command line or environment mentions a path.
pub(crate) fn processes(place: &Path) -> Vec<String> {
    let needle = place.to_str().unwrap();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let read = |file: &str| fs::read(entry.path().join(file)).unwrap_or_default();
        let dead = String::from_utf8_lossy(&read("stat"))
            .rsplit(") ")
            .next()
            .is_some_and(|rest| rest.starts_with('Z'));
        let (line, environment) = (read("cmdline"), read("environ"));
        let mentions = |bytes: &[u8]| String::from_utf8_lossy(bytes).contains(needle);
        if pid != std::process::id() && !dead && (mentions(&line) || mentions(&environment)) {
            found.push(format!(
                "process {pid}: {}",
                String::from_utf8_lossy(&line).replace('\0', " ")
            ));
        }
    }
    found
}

/// Sockets that listen at a loopback address, with its slot, by inode: a slot may be another run's a moment later.
type Sockets = BTreeMap<String, (u64, String)>;

fn listeners() -> Sockets {
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let mut found = BTreeMap::new();
    for line in table.lines().skip(1) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        // proc(5): the local address in hex with the bytes of the address reversed; state 0A is LISTEN.
        let octets: Vec<u64> = (0..4)
            .map(|i| u64::from_str_radix(&fields[1][2 * i..2 * i + 2], 16).unwrap())
            .collect();
        let (slot, listens) = (octets[2], fields[3] == "0A" && octets[3] == 127);
        if listens {
            let address = format!("127.{slot}.{}.{} is listened at", octets[1], octets[0]);
            found.insert(fields[9].to_owned(), (slot, address));
        }
    }
    found
}

fn trials() -> u64 {
    env::var("TRIALNET_TRIALS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(10)
}

pub(crate) fn signal(pid: u64, signal: nix::sys::signal::Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
}

/// Ends trialnet and its guard as if at one moment: halted, trialnet cannot clean up after its guard.
pub(crate) fn end_both(trialnet: u64, guard: u64) {
    use nix::sys::signal::Signal;
    signal(trialnet, Signal::SIGSTOP);
    let pid = u32::try_from(trialnet).unwrap();
    let begun = Instant::now();
    while !trialnet::agent::table::look(pid).is_some_and(|seen| seen.run == trialnet::backend::RunState::Paused) {
        assert!(begun.elapsed() < LIMIT, "{pid} is not halted");
        std::thread::sleep(Duration::from_millis(1));
    }
    signal(guard, Signal::SIGKILL);
    signal(trialnet, Signal::SIGKILL);
}

/// Waits for a random moment of a run, or until the run is at `mark`.
fn random_moment() {
    let moment = rand::rng().random_range(0..LATEST_MOMENT);
    println!("struck after {moment} ms");
    std::thread::sleep(Duration::from_millis(moment));
}

#[test]
fn sigkill_of_trialnet_at_random_moments_leaves_nothing() {
    for _ in 0..trials() {
        let mut trial = Trial::start();
        random_moment();
        let listened = trial.listened();
        signal(u64::from(trial.child.id()), nix::sys::signal::Signal::SIGKILL);
        let status = trial.child.wait().unwrap();
        assert_eq!(status.signal(), Some(9), "it was not running any more: {status}");
        trial.leaves_nothing(&listened);
        trial.can_be_judged();
    }
}

#[test]
fn sigkill_of_trialnet_in_the_middle_of_an_upgrade_leaves_nothing() {
    for _ in 0..trials() {
        let mut trial = Trial::of(MOVING, Stdio::null());
        let begun = Instant::now();
        while !trial.records().contains("\"upgrade\"") {
            assert!(begun.elapsed() < Duration::from_secs(60), "{}", trial.records());
            std::thread::sleep(Duration::from_millis(5));
        }
        // All of it takes longer.
        let moment = rand::rng().random_range(0..1500);
        println!("struck {moment} ms after its beginning");
        std::thread::sleep(Duration::from_millis(moment));
        let listened = trial.listened();
        signal(u64::from(trial.child.id()), nix::sys::signal::Signal::SIGKILL);
        let status = trial.child.wait().unwrap();
        assert_eq!(status.signal(), Some(9), "it was not running any more: {status}");
        trial.leaves_nothing(&listened);
        trial.can_be_judged();
    }
}

#[test]
fn sigkill_of_the_guard_at_random_moments_leaves_nothing() {
    let mut struck = 0;
    for _ in 0..trials() {
        let mut trial = Trial::start();
        random_moment();
        let entry = trial.entry();
        let listened = trial.listened();
        let guard = entry.and_then(|entry| entry["guard"]["pid"].as_u64());
        let Some(guard) = guard else {
            // It was struck before there was a guard; nothing to try.
            signal(u64::from(trial.child.id()), nix::sys::signal::Signal::SIGTERM);
            trial.child.wait().unwrap();
            continue;
        };
        struck += 1;
        signal(guard, nix::sys::signal::Signal::SIGKILL);
        let status = trial.child.wait().unwrap();
        assert_eq!(
            status.code(),
            Some(96),
            "{}",
            trial.records().lines().last().unwrap_or_default()
        );
        trial.leaves_nothing(&listened);
        trial.can_be_judged();
    }
    assert!(2 * struck > trials(), "a guard was struck in {struck} trials only");
}

#[test]
fn polite_signals_interrupt_with_a_complete_run_folder() {
    use nix::sys::signal::Signal;
    for polite in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let mut trial = Trial::start();
        let begun = Instant::now();
        // Every fault is on.
        while trial.records().matches("\"verified\"").count() < 3 {
            assert!(begun.elapsed() < Duration::from_secs(60), "{}", trial.records());
            std::thread::sleep(Duration::from_millis(20));
        }
        let listened = trial.listened();
        assert!(!listened.is_empty());
        signal(u64::from(trial.child.id()), polite);
        assert_eq!(trial.child.wait().unwrap().code(), Some(3));
        trial.leaves_nothing(&listened);
        let verdict: serde_json::Value =
            serde_json::from_slice(&fs::read(trial.folder().join("verdict.json")).unwrap()).unwrap();
        assert_eq!(verdict["verdict"], "interrupted");
        for file in [
            "scenario.toml",
            "plan.json",
            "junit.xml",
            "report.html",
            "logs/validator-0.devnode.log",
        ] {
            assert!(trial.folder().join(file).is_file(), "{file} is missing");
        }
    }
}

#[test]
fn a_third_signal_leaves_at_once_and_the_guard_goes_on() {
    use nix::sys::signal::Signal;
    let place = tempfile::tempdir().unwrap();
    let told = place.path().join("stderr");
    let mut trial = Trial::telling(fs::File::create(&told).unwrap().into());
    let begun = Instant::now();
    while !trial.records().contains("\"ready\"") {
        assert!(begun.elapsed() < Duration::from_secs(60), "{}", trial.records());
        std::thread::sleep(Duration::from_millis(20));
    }
    let listened = trial.listened();
    let guard = trial.entry().unwrap()["guard"]["pid"].as_u64().unwrap();
    // Halted, it ends nothing, however it is asked.
    signal(guard, Signal::SIGSTOP);
    for words in ["SIGTERM: ", "SIGTERM again: killing everything", "leaving at once"] {
        assert!(trial.child.try_wait().unwrap().is_none(), "gone before: {words}");
        signal(u64::from(trial.child.id()), Signal::SIGTERM);
        until("the signal was not heard", || {
            let told = fs::read_to_string(&told).unwrap();
            if told.contains(words) { Ok(()) } else { Err(told) }
        });
    }
    assert_eq!(trial.child.wait().unwrap().code(), Some(3));
    let words = fs::read_to_string(&told).unwrap();
    let entry = trial.entry().unwrap();
    for named in [
        entry["run"].as_str().unwrap(),
        &guard.to_string(),
        entry["homes"].as_str().unwrap(),
    ] {
        assert!(words.contains(named), "{named} is not in: {words}");
    }
    signal(guard, Signal::SIGCONT);
    trial.leaves_nothing(&listened);
    trial.can_be_judged();
}
