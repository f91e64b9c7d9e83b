//! Linux: folders of a pod's containers that are mounted by themselves, made read-only in the mount namespaces of these containers and nowhere else.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

use super::pods;

/// Makes what is mounted at this path read-only, or not, in each mount namespace of the pod that has it. `false`: none has.
///
/// # Errors
/// When a namespace cannot be entered, or its mount not be changed: somebody has a file open for writing, or this program lacks the right.
pub(super) fn set(pod: &str, path: &Path, read_only: bool) -> io::Result<bool> {
    let found = pods::processes(&[pod])?;
    let mut done = BTreeSet::new();
    for pid in found.get(pod).into_iter().flatten() {
        let process = Path::new("/proc").join(pid.to_string());
        // One that ends meanwhile has nothing to be changed in.
        let (Ok(namespace), Ok(mounts)) = (
            File::open(process.join("ns/mnt")),
            fs::read_to_string(process.join("mountinfo")),
        ) else {
            continue;
        };
        let Some(kept) = flags(&mounts, path) else { continue };
        if !pods::is_of(pod, &process) || done.contains(&namespace.metadata()?.ino()) {
            continue;
        }
        done.insert(namespace.metadata()?.ino());
        let mut flags = kept | MsFlags::MS_REMOUNT | MsFlags::MS_BIND;
        flags.set(MsFlags::MS_RDONLY, read_only);
        let path = path.to_owned();
        pods::on_own_thread(move || {
            // A thread that shares its folders with others cannot enter another namespace of mounts.
            unshare(CloneFlags::CLONE_FS)?;
            setns(&namespace, CloneFlags::CLONE_NEWNS)?;
            let none: Option<&str> = None;
            mount(none, &path, none, flags, none).map_err(|error| match error {
                Errno::EBUSY => io::Error::other("a file in it is open for writing"),
                error => error.into(),
            })
        })?;
    }
    Ok(!done.is_empty())
}

/// What has to be said again of the mount at a path when it is changed; `None`: there is none.
fn flags(mounts: &str, path: &Path) -> Option<MsFlags> {
    let fields = |line: &str| {
        let mut fields = line.split(' ');
        let at = fields.nth(4)?.to_owned();
        Some((at, fields.next()?.to_owned()))
    };
    // The last one is on top.
    let mut all = mounts.lines().rev().filter_map(fields);
    let (_, options) = all.find(|(at, _)| Path::new(at) == path)?;
    let mut flags = MsFlags::empty();
    for option in options.split(',') {
        flags |= match option {
            "nosuid" => MsFlags::MS_NOSUID,
            "nodev" => MsFlags::MS_NODEV,
            "noexec" => MsFlags::MS_NOEXEC,
            "noatime" => MsFlags::MS_NOATIME,
            "nodiratime" => MsFlags::MS_NODIRATIME,
            "relatime" => MsFlags::MS_RELATIME,
            _ => MsFlags::empty(),
        };
    }
    Some(flags)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_mount_was_it_stays() {
        let mounts = "36 35 98:0 / / rw,relatime - ext4 /dev/root rw\n\
                      40 36 0:50 /a /trialnet/volumes/home rw,nosuid,relatime shared:1 - tmpfs tmpfs rw\n";
        let home = flags(mounts, Path::new("/trialnet/volumes/home"));
        assert_eq!(home, Some(MsFlags::MS_NOSUID | MsFlags::MS_RELATIME));
        assert_eq!(flags(mounts, Path::new("/trialnet/volumes")), None);
    }

    #[test]
    fn a_pod_that_is_not_there_has_no_mounts() {
        assert!(!set("no-such-pod", Path::new("/"), true).unwrap());
    }
}
