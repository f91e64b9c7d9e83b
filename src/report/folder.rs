//! The run folder: written as the run goes, usable after a SIGKILL, and judged again from it alone.
//!
//! | file | what |
//! |---|---|
//! | `scenario.toml`, `scenario.sha256` | the scenario's text and its hash, as `sha256sum --check` reads it |
//! | `plan.json` | the resolved plan |
//! | `records.jsonl` | one record a line, each written to the system at once |
//! | `verdict.json`, `junit.xml`, `report.html` | at the end, put in place by renaming |
//! | `logs/` | the output of the nodes, `<node>.<component>.log` |

use std::io::{BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use fs_err as fs;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use crate::judge::Judge;
use crate::model::verdict::Report;
use crate::model::{FORMAT, Plan};
use crate::record::{Event, Record, Stamped};

use super::words::clean;
use super::{junit, page};

/// The scenario's text.
pub const SCENARIO: &str = "scenario.toml";
/// Its hash.
pub const SCENARIO_HASH: &str = "scenario.sha256";
/// The plan.
pub const PLAN: &str = "plan.json";
/// The records.
pub const RECORDS: &str = "records.jsonl";
/// The report.
pub const VERDICT: &str = "verdict.json";
/// The report for CI services.
pub const JUNIT: &str = "junit.xml";
/// The folder of the nodes' output.
pub const LOGS: &str = "logs";

/// Where run folders go by default, under the current directory.
pub const HOME: &str = ".trialnet";

/// Of a long log, only the end is read to find its last lines: so many bytes.
const TAIL_BYTES: u64 = 64 * 1024;

/// Each code of [`FolderError`] with its title and its explanation.
pub const CODES: &[(&str, &str, &str)] = &[
    (
        "folder/missing",
        "there is no run folder at this path",
        "A run prints the path of its folder at the end; by default it is under .trialnet/runs.",
    ),
    (
        "folder/exists",
        "the folder for a new run is not empty",
        "Evidence of an earlier run is never overwritten. Give another --run-dir, or remove the folder.",
    ),
    (
        "folder/no-plan",
        "a run folder without plan.json",
        "The folder was not written by trialnet, or the run ended before its plan was made. It cannot be judged; run the scenario again.",
    ),
    (
        "folder/bad-plan",
        "plan.json or verdict.json cannot be read",
        "The file is not what trialnet writes: it was changed, or cut off. Run the scenario again.",
    ),
    (
        "folder/no-records",
        "a run folder without records.jsonl",
        "The run ended before its first record. It cannot be judged; run the scenario again.",
    ),
    (
        "folder/bad-record",
        "a line of records.jsonl is not a record",
        "Only the last line may be torn, when trialnet was killed while it wrote. Any other bad line means that the file was changed after the run: its verdict would be worth nothing.",
    ),
    (
        "folder/format",
        "the run folder has a format that this version does not know",
        "It was written by another version of trialnet. Judge it with that version (the first record names it).",
    ),
    (
        "folder/io",
        "the run folder cannot be read or written",
        "Look at the cause: permissions, or a full disk. Give another --run-dir if need be.",
    ),
];

/// Why a run folder cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// Nothing there.
    #[error("there is no run folder at {}", .0.display())]
    Missing(PathBuf),
    /// A new run would overwrite something.
    #[error("{} is not empty", .0.display())]
    Exists(PathBuf),
    /// No plan.
    #[error("{} holds no {PLAN}", .0.display())]
    NoPlan(PathBuf),
    /// The plan or the verdict is not one.
    #[error("{} is not what trialnet writes", .path.display())]
    BadPlan {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// No records.
    #[error("{} holds no {RECORDS}", .0.display())]
    NoRecords(PathBuf),
    /// A line is not a record.
    #[error("line {line} of {} is not a record", .path.display())]
    BadRecord {
        /// The file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// Why.
        source: serde_json::Error,
    },
    /// Written by another version.
    #[error("{} has format {found}, this version reads format {FORMAT}", .path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u64,
    },
    /// The system says no; the cause names the file.
    #[error("use the run folder")]
    Io(#[from] std::io::Error),
    /// A value cannot be written as JSON or XML.
    #[error("write {file}")]
    Serialize {
        /// The file.
        file: &'static str,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl FolderError {
    /// The stable code; `trialnet explain` describes it.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Missing(_) => "folder/missing",
            Self::Exists(_) => "folder/exists",
            Self::NoPlan(_) => "folder/no-plan",
            Self::BadPlan { .. } => "folder/bad-plan",
            Self::NoRecords(_) => "folder/no-records",
            Self::BadRecord { .. } => "folder/bad-record",
            Self::Format { .. } => "folder/format",
            Self::Io(_) | Self::Serialize { .. } => "folder/io",
        }
    }

    /// The way out.
    #[must_use]
    pub fn help(&self) -> &'static str {
        CODES
            .iter()
            .find(|(code, ..)| *code == self.code())
            .map_or("", |(_, _, text)| text)
    }
}

/// The folder of a run that goes on.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    records: fs::File,
    line: Vec<u8>,
}

impl Folder {
    /// Makes the folder with the scenario's text and the plan in it.
    ///
    /// # Errors
    /// When there is something at this path already, or the system says no.
    pub fn create(path: &Path, plan: &Plan, scenario: &str) -> Result<Self, FolderError> {
        match fs::read_dir(path).map(|mut entries| entries.next().is_some()) {
            Ok(true) => return Err(FolderError::Exists(path.to_owned())),
            Ok(false) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
        fs::create_dir_all(path.join(LOGS))?;
        fs::write(path.join(SCENARIO), scenario)?;
        let hash = hex::encode(Sha256::digest(scenario));
        fs::write(path.join(SCENARIO_HASH), format!("{hash}  {SCENARIO}\n"))?;
        replace(&path.join(PLAN), &json(PLAN, plan)?)?;
        let records = fs::OpenOptions::new()
            .append(true)
            .create_new(true)
            .open(path.join(RECORDS))?;
        Ok(Self {
            path: path.to_owned(),
            records,
            line: Vec::new(),
        })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the nodes' output goes.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.path.join(LOGS)
    }

    /// Keeps an event.
    ///
    /// # Errors
    /// When the system says no.
    pub fn event(&mut self, event: &Event) -> Result<(), FolderError> {
        match event {
            Event::Record(stamped) => self.record(stamped),
            // Findings follow from the records; the report holds them.
            Event::Finding(_) => Ok(()),
            Event::Done(report) => self.report(report),
        }
    }

    /// Appends a record. It is with the system when this returns: one write for each line costs microseconds, and a SIGKILL
    /// can tear only the line that is being written.
    fn record(&mut self, stamped: &Stamped) -> Result<(), FolderError> {
        self.line.clear();
        serde_json::to_writer(&mut self.line, stamped).map_err(|error| serialize(RECORDS, error))?;
        self.line.push(b'\n');
        Ok(self.records.write_all(&self.line)?)
    }

    /// Writes the report for people's programs, for CI services and for people.
    fn report(&self, report: &Report) -> Result<(), FolderError> {
        replace(&self.path.join(VERDICT), &json(VERDICT, report)?)?;
        let xml = junit::xml(&[report]).map_err(|error| serialize(JUNIT, error))?;
        replace(&self.path.join(JUNIT), xml.as_bytes())?;
        // From the records and logs, which are whole by now.
        Ok(replace(
            &self.path.join(page::FILE),
            page::page(&self.path)?.as_bytes(),
        )?)
    }
}

/// Where a run's folder goes by default: `.trialnet/runs/<scenario>-<UTC time>-<short id>` under `base`. Makes `.trialnet` with a
/// `.gitignore` in it, so that runs are not committed by accident.
///
/// # Errors
/// When the system says no.
pub fn default_path(base: &Path, scenario: &str, now: SystemTime, run: &str) -> Result<PathBuf, FolderError> {
    let home = base.join(HOME);
    fs::create_dir_all(home.join("runs"))?;
    let ignore = home.join(".gitignore");
    if !ignore.exists() {
        fs::write(ignore, "*\n")?;
    }
    let time: String = humantime::format_rfc3339_seconds(now)
        .to_string()
        .chars()
        .filter(|c| !matches!(c, '-' | ':'))
        .collect();
    let short: String = run.chars().take(6).collect();
    Ok(home.join("runs").join(format!("{scenario}-{time}-{short}")))
}

/// Where the run folders go that `--run-dir` asks for: the folder itself for a single run; a folder below it for each of several,
/// named by its scenario, with a number where scenarios share a name.
#[must_use]
pub fn given_paths(run_dir: &Path, scenarios: &[&str]) -> Vec<PathBuf> {
    if let [_] = scenarios {
        return vec![run_dir.to_owned()];
    }
    let mut paths: Vec<PathBuf> = Vec::new();
    for scenario in scenarios {
        let mut path = run_dir.join(scenario);
        let mut number = 2;
        while paths.contains(&path) {
            path = run_dir.join(format!("{scenario}-{number}"));
            number += 1;
        }
        paths.push(path);
    }
    paths
}

/// The plan and the records of a run, also of one that still goes on or was cut off. Records are read one by one.
///
/// # Errors
/// When it is not a run folder, or one of a format that this version does not know.
pub fn read(path: &Path) -> Result<(Plan, Records), FolderError> {
    if !path.is_dir() {
        return Err(FolderError::Missing(path.to_owned()));
    }
    let plan = read_json(&path.join(PLAN))?.ok_or_else(|| FolderError::NoPlan(path.to_owned()))?;
    let file = path.join(RECORDS);
    let records = match fs::File::open(&file) {
        Ok(opened) => Records {
            path: file,
            lines: BufReader::new(opened),
            number: 0,
            text: Vec::new(),
            torn: false,
        },
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(FolderError::NoRecords(path.to_owned())),
        Err(error) => return Err(error.into()),
    };
    Ok((plan, records))
}

/// The report that a run wrote at its end; `None` if it was cut off before.
///
/// # Errors
/// When there is one that cannot be read.
pub fn verdict(path: &Path) -> Result<Option<Report>, FolderError> {
    read_json(&path.join(VERDICT))
}

/// Judges a run again from its folder alone: its plan and its records, nothing else.
///
/// # Errors
/// When the folder cannot be read.
pub fn judge_again(path: &Path) -> Result<Report, FolderError> {
    let (plan, records) = read(path)?;
    let mut judge = Judge::new(&plan);
    for record in records {
        judge.feed(&record?);
    }
    Ok(judge.report())
}

/// The records of a run folder, in the written order. A torn last line ends them; it is no error.
#[derive(Debug)]
pub struct Records {
    path: PathBuf,
    lines: BufReader<fs::File>,
    number: usize,
    text: Vec<u8>,
    torn: bool,
}

impl Records {
    /// Whether the last line was torn: trialnet was killed while it wrote. Known when the records have ended.
    #[must_use]
    pub const fn torn(&self) -> bool {
        self.torn
    }

    fn parse(&self) -> Result<Stamped, FolderError> {
        let bad = |source| FolderError::BadRecord {
            path: self.path.clone(),
            line: self.number,
            source,
        };
        let stamped: Stamped = serde_json::from_slice(&self.text).map_err(bad)?;
        match stamped.record {
            Record::Begin { format, .. } if format != FORMAT => Err(FolderError::Format {
                path: self.path.clone(),
                found: format.into(),
            }),
            _ => Ok(stamped),
        }
    }
}

impl Iterator for Records {
    type Item = Result<Stamped, FolderError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.text.clear();
        match self.lines.read_until(b'\n', &mut self.text) {
            Ok(0) => return None,
            Ok(_) => self.number += 1,
            Err(error) => return Some(Err(error.into())),
        }
        let whole = self.text.ends_with(b"\n");
        match self.parse() {
            Err(FolderError::BadRecord { .. }) if !whole => {
                self.torn = true;
                None
            }
            parsed => Some(parsed),
        }
    }
}

/// The end of a log of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogTail {
    /// The file.
    pub path: PathBuf,
    /// Its last lines that hold something, without control characters.
    pub lines: Vec<String>,
}

/// The logs of a node in a run folder, one for each component, with at most so many last lines. What cannot be read is left out: this
/// is for a look, not evidence.
#[must_use]
pub fn log_tails(path: &Path, node: &str, lines: usize) -> Vec<LogTail> {
    let Ok(entries) = fs::read_dir(path.join(LOGS)) else {
        return Vec::new();
    };
    let prefix = format!("{node}.");
    let mut files: Vec<PathBuf> = entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .map(|entry| entry.path())
        .collect();
    files.sort();
    files.into_iter().filter_map(|path| tail(path, lines).ok()).collect()
}

fn tail(path: PathBuf, lines: usize) -> std::io::Result<LogTail> {
    let mut file = fs::File::open(&path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let mut last: Vec<String> = text
        .lines()
        .rev()
        .map(clean)
        .filter(|line| !line.trim().is_empty())
        .take(lines)
        .collect();
    last.reverse();
    Ok(LogTail { path, lines: last })
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, FolderError> {
    #[derive(Deserialize)]
    struct Head {
        format: u64,
    }

    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let bad = |source| FolderError::BadPlan {
        path: path.to_owned(),
        source,
    };
    // The format first: what another version wrote may differ anywhere else.
    let Head { format } = serde_json::from_slice(&bytes).map_err(bad)?;
    if format != u64::from(FORMAT) {
        return Err(FolderError::Format {
            path: path.to_owned(),
            found: format,
        });
    }
    serde_json::from_slice(&bytes).map(Some).map_err(bad)
}

fn json(file: &'static str, value: &impl serde::Serialize) -> Result<Vec<u8>, FolderError> {
    let mut bytes = serde_json::to_vec_pretty(value).map_err(|error| serialize(file, error))?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn serialize(file: &'static str, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> FolderError {
    FolderError::Serialize {
        file,
        source: error.into(),
    }
}

/// Writes a file so that it is there as a whole or not at all.
fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    fs::write(&new, bytes)?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    fn written() -> (tempfile::TempDir, PathBuf) {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("run");
        let mut folder = Folder::create(&path, &sample::plan(), "format = 1\n").unwrap();
        for event in sample::events() {
            folder.event(&event).unwrap();
        }
        (temp, path)
    }

    fn records(path: &Path) -> Result<Vec<Stamped>, FolderError> {
        read(path)?.1.collect()
    }

    fn append(path: &Path, text: &str) {
        let mut file = fs::OpenOptions::new().append(true).open(path.join(RECORDS)).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    #[test]
    fn what_was_written_is_read_again() {
        let (_temp, path) = written();
        let (plan, read_records) = read(&path).unwrap();
        assert_eq!(plan, sample::plan());
        let read_records: Vec<Stamped> = read_records.map(Result::unwrap).collect();
        assert_eq!(read_records, sample::records());
        assert_eq!(verdict(&path).unwrap(), Some(sample::violated()));
        assert!(fs::read_to_string(path.join(JUNIT)).unwrap().contains("safety/fork"));
        assert_eq!(
            fs::read_to_string(path.join(SCENARIO_HASH)).unwrap(),
            "a1af1bccf46862c1ce45d1064094b00a0808329540e06a44bcedd8c921849f1e  scenario.toml\n"
        );
        assert!(path.join(LOGS).is_dir());
        assert!(!path.join("verdict.json.new").exists());
    }

    #[test]
    fn records_are_with_the_system_before_the_next_event() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("run");
        let mut folder = Folder::create(&path, &sample::plan(), "").unwrap();
        for (number, record) in sample::records().into_iter().enumerate() {
            folder.event(&Event::Record(record)).unwrap();
            assert_eq!(records(&path).unwrap().len(), number + 1);
        }
        assert_eq!(verdict(&path).unwrap(), None, "there is no verdict before the end");
    }

    #[test]
    fn a_torn_last_line_is_tolerated_at_every_byte() {
        let (_temp, path) = written();
        let whole = fs::read(path.join(RECORDS)).unwrap();
        let all = sample::records();
        let last = whole[..whole.len() - 1]
            .iter()
            .rposition(|&byte| byte == b'\n')
            .unwrap()
            + 1;
        for end in last..whole.len() {
            fs::write(path.join(RECORDS), &whole[..end]).unwrap();
            let (_, mut left) = read(&path).unwrap();
            let number = left.by_ref().map(Result::unwrap).count();
            // Without only its line end, the last record is whole.
            let complete = end == whole.len() - 1;
            assert_eq!(number, if complete { all.len() } else { all.len() - 1 }, "cut at {end}");
            assert_eq!(left.torn(), !complete && end > last, "cut at {end}");
        }
    }

    #[test]
    fn a_bad_line_is_named() {
        let (_temp, path) = written();
        append(&path, "{\"at\":1}\n");
        let error = records(&path).unwrap_err();
        assert_eq!(error.code(), "folder/bad-record");
        let line = sample::records().len() + 1;
        assert!(error.to_string().starts_with(&format!("line {line} of ")), "{error}");
    }

    #[test]
    fn other_formats_are_refused() {
        let (_temp, path) = written();
        let text = fs::read_to_string(path.join(RECORDS)).unwrap();
        fs::write(path.join(RECORDS), text.replacen("\"format\":1", "\"format\":2", 1)).unwrap();
        assert_eq!(records(&path).unwrap_err().code(), "folder/format");
        fs::write(path.join(PLAN), "{\"format\": 9, \"new\": true}").unwrap();
        let error = records(&path).unwrap_err();
        assert_eq!(error.code(), "folder/format");
        assert!(
            error.to_string().ends_with("has format 9, this version reads format 1"),
            "{error}"
        );
    }

    #[test]
    fn what_is_no_run_folder_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let code = |path: &Path| records(path).unwrap_err().code();
        assert_eq!(code(&temp.path().join("none")), "folder/missing");
        assert_eq!(code(temp.path()), "folder/no-plan");
        let (_temp, path) = written();
        fs::remove_file(path.join(RECORDS)).unwrap();
        assert_eq!(code(&path), "folder/no-records");
        fs::write(path.join(PLAN), "{\"format\": 1}").unwrap();
        assert_eq!(code(&path), "folder/bad-plan");
    }

    #[test]
    fn evidence_is_never_overwritten() {
        let (_temp, path) = written();
        let error = Folder::create(&path, &sample::plan(), "").unwrap_err();
        assert_eq!(error.code(), "folder/exists");
        assert!(error.help().contains("--run-dir"));
    }

    #[test]
    fn folders_have_readable_names() {
        let temp = tempfile::tempdir().unwrap();
        let then = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_795_000_000);
        let path = default_path(temp.path(), "kill-one", then, "0123456789").unwrap();
        assert_eq!(
            path.strip_prefix(temp.path()).unwrap(),
            Path::new(".trialnet/runs/kill-one-20261118T110640Z-012345")
        );
        assert_eq!(
            fs::read_to_string(temp.path().join(".trialnet/.gitignore")).unwrap(),
            "*\n"
        );
        assert_eq!(given_paths(Path::new("out"), &["a"]), [Path::new("out")]);
        assert_eq!(
            given_paths(Path::new("out"), &["a", "b", "a"]),
            [Path::new("out/a"), Path::new("out/b"), Path::new("out/a-2")]
        );
    }

    #[test]
    fn the_last_lines_of_a_nodes_logs() {
        let (_temp, path) = written();
        let logs = path.join(LOGS);
        fs::write(
            logs.join("validator-1.devnode.log"),
            "one\n\ntwo\n\u{1b}[31mthree\u{1b}[0m\n",
        )
        .unwrap();
        fs::write(logs.join("validator-10.devnode.log"), "other\n").unwrap();
        fs::write(logs.join("validator-2.devnode.log"), vec![b'x'; 200_000]).unwrap();
        let tails = log_tails(&path, "validator-1", 2);
        assert_eq!(tails.len(), 1);
        assert_eq!(tails[0].lines, ["two", "three"]);
        assert_eq!(log_tails(&path, "validator-2", 2)[0].lines[0].len(), 64 * 1024);
        assert!(log_tails(&path, "full-0", 2).is_empty());
    }

    #[test]
    fn every_code_is_documented_once() {
        let mut codes: Vec<&str> = CODES.iter().map(|(code, ..)| *code).collect();
        codes.sort_unstable();
        let number = codes.len();
        codes.dedup();
        assert_eq!(codes.len(), number);
        assert!(FolderError::Missing(PathBuf::new()).help().contains(".trialnet/runs"));
    }
}
