//! Linux: the network namespace of a pod, found by the pod's uid in the machine's process table.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::Path;

use nix::sched::{CloneFlags, setns, unshare};

/// The processes of pods, by the pod's uid: the name of a process's control group holds the uid of its pod, with `_` for `-` where systemd
/// made it. Processes that end meanwhile are left out.
pub(super) fn processes<'a>(uids: &[&'a str]) -> io::Result<BTreeMap<&'a str, Vec<u32>>> {
    let names: Vec<(&str, [String; 2])> = uids.iter().map(|uid| (*uid, names(uid))).collect();
    let mut found: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let Ok(groups) = fs::read_to_string(entry.path().join("cgroup")) else {
            continue;
        };
        for (uid, names) in &names {
            if names.iter().any(|name| groups.contains(name)) {
                found.entry(uid).or_default().push(pid);
            }
        }
    }
    Ok(found)
}

/// How the control group of a pod may be called.
fn names(uid: &str) -> [String; 2] {
    [format!("pod{uid}"), format!("pod{}", uid.replace('-', "_"))]
}

/// Whether the process of this folder of the table belongs to a pod.
pub(super) fn is_of(uid: &str, process: &Path) -> bool {
    let groups = fs::read_to_string(process.join("cgroup")).unwrap_or_default();
    names(uid).iter().any(|name| groups.contains(name))
}

/// Acts in the network namespace of a pod, on a thread of its own, which ends with it. `false`: none of these processes is there any more.
///
/// # Errors
/// When the namespace cannot be entered, and those of `act`.
pub(super) fn inside(
    uid: &str,
    pids: &[u32],
    act: impl FnOnce() -> io::Result<()> + Send + 'static,
) -> io::Result<bool> {
    for pid in pids {
        let process = Path::new("/proc").join(pid.to_string());
        let Ok(namespace) = File::open(process.join("ns/net")) else {
            continue;
        };
        // Another process may have got the number before the namespace was open.
        if !is_of(uid, &process) {
            continue;
        }
        return on_own_thread(move || {
            setns(&namespace, CloneFlags::CLONE_NEWNET)?;
            act()
        })
        .map(|()| true);
    }
    Ok(false)
}

/// Acts in a new network namespace that goes with it.
///
/// # Errors
/// When there can be none, and those of `act`.
pub(super) fn apart(act: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<()> {
    on_own_thread(move || {
        unshare(CloneFlags::CLONE_NEWNET)?;
        act()
    })
}

/// Acts on a thread that ends with it, and takes with it whatever it has entered.
pub(super) fn on_own_thread(act: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<()> {
    let ended = std::thread::Builder::new().name("apart".to_owned()).spawn(act)?.join();
    ended.unwrap_or_else(|_| Err(io::Error::other("the thread in another namespace panicked")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_of_a_pod_are_known() {
        let uid = "0d6e-11";
        let v1 = format!("4:memory:/kubepods/besteffort/pod{uid}/cafe");
        let systemd = "0::/../kubepods-besteffort-pod0d6e_11.slice/cri-containerd-cafe.scope";
        for groups in [v1.as_str(), systemd] {
            assert!(names(uid).iter().any(|name| groups.contains(name)), "{groups}");
        }
        assert!(!names("0d6e-1f").iter().any(|name| systemd.contains(name)));
    }

    #[test]
    fn a_pod_that_is_not_there_has_no_processes() {
        assert_eq!(processes(&["no-such-pod"]).unwrap(), BTreeMap::new());
        let never = || -> io::Result<()> { unreachable!("there is no such process") };
        assert!(!inside("no-such-pod", &[std::process::id()], never).unwrap());
    }
}
