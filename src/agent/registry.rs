//! The registry of the runs on this machine: a small file for each, so that what is up or left over can be listed, and
//! what a lost machine left can be removed. Also the slots of loopback addresses.
//!
//! An entry is written by the guard before anything of the run exists, and removed by it when nothing exists any more.

use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::table::{self, Proc};

/// The environment variable that moves the registry, for tests and for machines without a temporary folder.
pub const STATE_VARIABLE: &str = "TRIALNET_STATE_DIR";

/// The file in the folder of the node homes that holds the id of its run. A folder without it is never removed.
const MARKER: &str = ".trialnet-run";

/// How long leftover processes have to go after SIGKILL.
const END_LIMIT: Duration = Duration::from_secs(2);

/// A run as the registry knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunEntry {
    /// Its id.
    pub run: String,
    /// The scenario's name.
    pub scenario: String,
    /// The trialnet that began it.
    pub owner: Proc,
    /// Its guard.
    pub guard: Proc,
    /// The run folder.
    pub run_dir: PathBuf,
    /// The folder of the node homes.
    pub homes: PathBuf,
    /// The slot of addresses.
    pub slot: Option<u8>,
    /// When it began, as Unix time in milliseconds.
    pub began: u64,
    /// What its process ids mean something in: see [`process_space`].
    pub space: String,
    /// Where it is, if its nodes are not processes of this machine. What it leaves is not for [`gc`] to remove then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<InCluster>,
    /// Its guard stays when the trialnet that began it has gone.
    #[serde(default)]
    pub stays: bool,
}

/// Where in a cluster a run is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InCluster {
    /// The kubeconfig that was named; `None`: the usual ones.
    pub kubeconfig: Option<PathBuf>,
    /// Its context.
    pub context: String,
    /// The namespace.
    pub namespace: String,
    /// The name of the cluster, if it was made for this run and goes with it.
    pub created: Option<String>,
}

/// A name for the set of processes that this one can see. A folder may be shared between containers, in which other
/// processes have the same ids: runs of another one are neither listed nor collected here.
#[must_use]
pub fn process_space() -> String {
    std::fs::read_link("/proc/self/ns/pid")
        .map(|link| link.display().to_string())
        .unwrap_or_default()
}

/// Whether a run goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// Trialnet runs, or the network stays without it.
    Up,
    /// Trialnet is gone; its guard is putting things back.
    Ending,
    /// Both are gone: what is there is left over, and [`gc`] removes it.
    LeftOver,
}

impl RunEntry {
    /// Whether the run goes on.
    #[must_use]
    pub fn life(&self) -> Life {
        if self.owner.alive() || (self.stays && self.guard.alive()) {
            Life::Up
        } else if self.guard.alive() {
            Life::Ending
        } else {
            Life::LeftOver
        }
    }

    /// The ids of its living processes.
    #[must_use]
    pub fn processes(&self) -> Vec<u32> {
        table::of_run(&self.run)
    }
}

/// The runs of this user on this machine, oldest first. What cannot be read is left out.
#[must_use]
pub fn list_runs() -> Vec<RunEntry> {
    state_dir().map(|dir| list_runs_in(&dir)).unwrap_or_default()
}

/// The runs in a registry folder; see [`list_runs`].
#[must_use]
pub fn list_runs_in(state_dir: &Path) -> Vec<RunEntry> {
    let Ok(files) = std::fs::read_dir(state_dir.join("runs")) else {
        return Vec::new();
    };
    let space = process_space();
    let mut runs: Vec<RunEntry> = files
        .filter_map(|file| {
            let path = file.ok()?.path();
            if path.extension()? != "json" {
                return None;
            }
            serde_json::from_slice(&std::fs::read(path).ok()?).ok()
        })
        .filter(|entry: &RunEntry| entry.space == space)
        .collect();
    runs.sort_by(|a, b| (a.began, &a.run).cmp(&(b.began, &b.run)));
    runs
}

/// What was removed, or would be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// What was (or with `dry_run` would be) done, in words.
    pub done: Vec<String>,
    /// What could not be done, in words.
    pub left: Vec<String>,
}

impl Swept {
    /// Both lists of another one come after these.
    pub fn extend(&mut self, other: Self) {
        self.done.extend(other.done);
        self.left.extend(other.left);
    }
}

/// Removes what runs have left whose trialnet and guard are both gone: processes that carry the run's id, node homes, and
/// the entry; what is in a cluster is not looked at, and nothing is touched that is not ours.
#[must_use]
pub fn gc(dry_run: bool) -> Swept {
    match state_dir() {
        Ok(dir) => gc_in(&dir, dry_run),
        Err(error) => Swept {
            left: vec![format!("cannot open the registry: {error}")],
            ..Swept::default()
        },
    }
}

/// As [`gc`], for a registry folder.
#[must_use]
pub fn gc_in(state_dir: &Path, dry_run: bool) -> Swept {
    let Swept {
        mut done,
        left: mut words,
    } = Swept::default();
    for entry in list_runs_in(state_dir) {
        if entry.life() != Life::LeftOver || entry.cluster.is_some() {
            continue;
        }
        let RunEntry { run, homes, .. } = &entry;
        let processes = entry.processes();
        if dry_run {
            done.extend(
                processes
                    .iter()
                    .map(|pid| format!("run {run}: would end process {pid}")),
            );
            if homes.exists() {
                done.push(format!("run {run}: would remove {}", homes.display()));
            }
            continue;
        }
        let left = table::end_run(run, END_LIMIT);
        for pid in processes {
            if left.contains(&pid) {
                words.push(format!("run {run}: could not end process {pid}"));
            } else {
                done.push(format!("run {run}: ended process {pid}"));
            }
        }
        let had_homes = homes.exists();
        match remove_homes(homes, run) {
            Ok(()) if had_homes => done.push(format!("run {run}: removed {}", homes.display())),
            Ok(()) => {}
            Err(error) => words.push(format!("run {run}: could not remove {}: {error}", homes.display())),
        }
        // An entry with something left stays, so that the next call tries again.
        if left.is_empty() && !homes.exists() {
            forget(state_dir, run);
        }
    }
    Swept { done, left: words }
}

/// Where the registry is: [`STATE_VARIABLE`], else `trialnet` in `XDG_RUNTIME_DIR`, else `/tmp/trialnet-<uid>`. Made if it
/// does not exist.
///
/// # Errors
/// When it cannot be made, or belongs to somebody else.
pub fn state_dir() -> io::Result<PathBuf> {
    let named = |variable| {
        std::env::var_os(variable)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let uid = nix::unistd::getuid();
    let dir = named(STATE_VARIABLE)
        .or_else(|| {
            named("XDG_RUNTIME_DIR")
                .filter(|dir| dir.is_dir())
                .map(|dir| dir.join("trialnet"))
        })
        .unwrap_or_else(|| PathBuf::from(format!("/tmp/trialnet-{uid}")));
    prepare(&dir)?;
    Ok(dir)
}

/// Makes a registry folder, readable by this user only.
///
/// # Errors
/// When it cannot be made, or belongs to somebody else.
pub fn prepare(dir: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir.join("runs"))?;
    let owner = std::fs::symlink_metadata(dir)?.uid();
    if owner != nix::unistd::getuid().as_raw() {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!(
                "{} belongs to user {owner}; set {STATE_VARIABLE} to another folder",
                dir.display()
            ),
        ));
    }
    Ok(())
}

/// Writes an entry, or replaces it, in one step.
///
/// # Errors
/// When the file cannot be written.
pub fn remember(state_dir: &Path, entry: &RunEntry) -> io::Result<()> {
    let path = entry_path(state_dir, &entry.run);
    let draft = path.with_extension("draft");
    std::fs::write(&draft, serde_json::to_vec(entry)?)?;
    std::fs::rename(draft, path)
}

/// Removes an entry, if there is one.
pub fn forget(state_dir: &Path, run: &str) {
    // An entry that cannot be removed is listed as left over, and tried again by the next `gc`.
    drop(std::fs::remove_file(socket(state_dir, run)));
    drop(std::fs::remove_file(entry_path(state_dir, run)));
}

/// Where the guard of a run that stays is reached.
#[must_use]
pub fn socket(state_dir: &Path, run: &str) -> PathBuf {
    state_dir.join("runs").join(format!("{run}.sock"))
}

fn entry_path(state_dir: &Path, run: &str) -> PathBuf {
    state_dir.join("runs").join(format!("{run}.json"))
}

/// Makes the folder of the node homes and marks it as the run's.
///
/// # Errors
/// When it cannot be made.
pub fn make_homes(homes: &Path, run: &str) -> io::Result<()> {
    std::fs::create_dir_all(homes)?;
    std::fs::write(homes.join(MARKER), run)
}

/// Removes the folder of the node homes if it is marked as the run's. That there is none is no error.
///
/// # Errors
/// When it is not marked as the run's, or cannot be removed.
pub fn remove_homes(homes: &Path, run: &str) -> io::Result<()> {
    if !homes.exists() {
        return Ok(());
    }
    if std::fs::read_to_string(homes.join(MARKER)).ok().as_deref() != Some(run) {
        return Err(io::Error::other(format!("it is not marked as belonging to run {run}")));
    }
    // The marker goes last, so that a removal that is cut off can be taken up again.
    for child in std::fs::read_dir(homes)? {
        let child = child?;
        if child.file_name() == MARKER {
            continue;
        }
        let removed = if child.file_type()?.is_dir() {
            std::fs::remove_dir_all(child.path())
        } else {
            std::fs::remove_file(child.path())
        };
        // Two may remove at once: the guard, and trialnet that thinks it dead.
        removed.or_else(gone_is_fine)?;
    }
    std::fs::remove_dir_all(homes).or_else(gone_is_fine)
}

fn gone_is_fine(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound {
        Ok(())
    } else {
        Err(error)
    }
}

/// A slot of loopback addresses, held as long as this value lives.
///
/// The hold is a socket name that the kernel keeps for each network namespace, exactly like the addresses themselves: it
/// also keeps users apart, leaves no file, and ends with the process.
#[derive(Debug)]
pub struct Slot {
    /// 1 to 126: the second number of its addresses.
    pub number: u8,
    #[cfg(target_os = "linux")]
    _hold: std::os::unix::net::UnixDatagram,
}

impl Slot {
    /// Takes the first free slot that is none of `except`; `None` where all are taken, or the system has no slots.
    #[must_use]
    pub fn take(except: &[u8]) -> Option<Self> {
        (1..=126).filter(|number| !except.contains(number)).find_map(Self::hold)
    }

    #[cfg(target_os = "linux")]
    fn hold(number: u8) -> Option<Self> {
        use std::os::linux::net::SocketAddrExt;
        use std::os::unix::net::{SocketAddr, UnixDatagram};
        let name = SocketAddr::from_abstract_name(format!("trialnet-slot-{number}")).ok()?;
        UnixDatagram::bind_addr(&name)
            .ok()
            .map(|hold| Self { number, _hold: hold })
    }

    #[cfg(not(target_os = "linux"))]
    fn hold(_number: u8) -> Option<Self> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(dir: &Path, run: &str, owner: Proc) -> RunEntry {
        RunEntry {
            run: run.to_owned(),
            scenario: "s".to_owned(),
            owner,
            guard: Proc {
                pid: u32::MAX,
                start: 0,
            },
            run_dir: dir.to_path_buf(),
            homes: dir.join(run).join("homes"),
            slot: Some(1),
            began: 5,
            space: process_space(),
            cluster: None,
            stays: false,
        }
    }

    #[test]
    fn gc_removes_what_is_left_over_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        prepare(dir.path()).unwrap();
        let me = Proc::now(std::process::id()).unwrap();
        let dead = Proc {
            start: me.start + 1,
            ..me
        };
        for (run, owner) in [("up", me), ("dead", dead)] {
            let entry = entry(dir.path(), run, owner);
            remember(dir.path(), &entry).unwrap();
            make_homes(&entry.homes, run).unwrap();
            std::fs::create_dir(entry.homes.join("a")).unwrap();
        }
        assert_eq!(gc_in(dir.path(), true).done.len(), 1);
        assert!(dir.path().join("dead/homes/a").exists());
        assert_eq!(gc_in(dir.path(), false).done.len(), 1);
        assert!(!dir.path().join("dead/homes").exists());
        assert!(dir.path().join("up/homes/a").exists());
        let elsewhere = RunEntry {
            space: "another".to_owned(),
            ..entry(dir.path(), "elsewhere", dead)
        };
        remember(dir.path(), &elsewhere).unwrap();
        assert_eq!(gc_in(dir.path(), false), Swept::default());
        let in_cluster = RunEntry {
            cluster: Some(InCluster {
                kubeconfig: None,
                context: "kind-x".to_owned(),
                namespace: "trialnet-s-1".to_owned(),
                created: None,
            }),
            ..entry(dir.path(), "in-cluster", dead)
        };
        remember(dir.path(), &in_cluster).unwrap();
        assert_eq!(gc_in(dir.path(), false), Swept::default());
        let left: Vec<_> = list_runs_in(dir.path()).into_iter().map(|entry| entry.run).collect();
        assert_eq!(left, ["in-cluster", "up"]);
    }

    #[test]
    fn a_folder_without_the_mark_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let homes = dir.path().join("homes");
        std::fs::create_dir(&homes).unwrap();
        std::fs::write(homes.join("precious"), "x").unwrap();
        assert!(remove_homes(&homes, "r").is_err());
        make_homes(&homes, "other").unwrap();
        assert!(remove_homes(&homes, "r").is_err());
        assert!(homes.join("precious").exists());
        assert!(remove_homes(&homes, "other").is_ok());
        assert!(!homes.exists());
        assert!(remove_homes(&homes, "other").is_ok());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_slot_is_held_by_one() {
        let first = Slot::take(&[]).unwrap();
        let second = Slot::take(&[]).unwrap();
        assert_ne!(first.number, second.number);
        let third = Slot::take(&[first.number, second.number]).unwrap();
        assert!(third.number != first.number && third.number != second.number);
    }
}
