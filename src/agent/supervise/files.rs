//! The files of a component, and those of trialnet itself, in a container.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use fs_err::os::unix::fs::OpenOptionsExt;

use super::protocol::{Spec, SpecFile};
use crate::agent::node_trouble;
use crate::backend::{Trouble, Write};

/// Stands at the top of a file system of its own and belongs to that, not to the node.
const OF_THE_FILE_SYSTEM: &str = "lost+found";

/// Makes the component's home and writes those of its files that are due. What is in a volume that is `locked` stays as it is.
///
/// # Errors
/// `infra/home` names the path and the system's reason.
pub(super) fn write(spec: &Spec, locked: bool) -> Result<(), Trouble> {
    let failed = |what: String, error: &io::Error| node_trouble("infra/home", &spec.node, what, error.to_string());
    fs_err::create_dir_all(&spec.home).map_err(|error| failed("the component's home made".to_owned(), &error))?;
    for file in &spec.files {
        match copy(file) {
            Err(error) if locked && error.kind() == io::ErrorKind::ReadOnlyFilesystem => {}
            done => done.map_err(|error| failed(format!("{} written", file.to.display()), &error))?,
        }
    }
    Ok(())
}

fn copy(
    SpecFile {
        from,
        to,
        secret,
        write,
    }: &SpecFile,
) -> io::Result<()> {
    match write {
        Write::Once if to.try_exists()? => return Ok(()),
        Write::Once | Write::Always => {}
        Write::Absent => {
            return match fs_err::remove_file(to) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
        }
    }
    let content = fs_err::read(from)?;
    if let Some(parent) = to.parent() {
        fs_err::create_dir_all(parent)?;
    }
    put(to, &content, if *secret { 0o600 } else { 0o644 })
}

/// Writes a file beside its place and moves it there: whole or not at all, and also over one that cannot be written.
fn put(to: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut name = to.file_name().unwrap_or_default().to_owned();
    name.push(".trialnet-next");
    let next = to.with_file_name(name);
    if let Err(error) = fs_err::remove_file(&next)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let mut options = fs_err::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(mode).open(&next)?;
    io::Write::write_all(&mut file, content)?;
    // Whatever the umask says.
    file.set_permissions(std::fs::Permissions::from_mode(mode))?;
    fs_err::rename(next, to)
}

/// Empties the volumes; they themselves stay, being mounted.
///
/// # Errors
/// `infra/home` names the path and the system's reason.
pub(super) fn wipe(node: &str, volumes: &[PathBuf]) -> Result<(), Trouble> {
    let empty = |volume: &PathBuf| -> io::Result<()> {
        for entry in fs_err::read_dir(volume)? {
            let entry = entry?;
            if entry.file_name() == OF_THE_FILE_SYSTEM {
                continue;
            }
            if entry.file_type()?.is_dir() {
                fs_err::remove_dir_all(entry.path())?;
            } else {
                fs_err::remove_file(entry.path())?;
            }
        }
        Ok(())
    };
    volumes.iter().try_for_each(|volume| {
        empty(volume).map_err(|error| {
            node_trouble(
                "infra/home",
                node,
                format!("{} emptied", volume.display()),
                error.to_string(),
            )
        })
    })
}

/// Copies everything below a folder to another one, each file whole or not at all, with its mode.
///
/// # Errors
/// The system's reason, with the path.
pub(super) fn install(from: &Path, to: &Path) -> io::Result<()> {
    fs_err::create_dir_all(to)?;
    for entry in fs_err::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        // Also through links, which may lead out of the folder.
        let about = fs_err::metadata(&source)?;
        if about.is_dir() {
            install(&source, &target)?;
        } else {
            put(&target, &fs_err::read(&source)?, about.permissions().mode() & 0o777)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn files_are_written_once_or_always_with_their_mode() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("f0"), dir.path().join("home/config/key.json"));
        let file = |secret, write| SpecFile {
            from: from.clone(),
            to: to.clone(),
            secret,
            write,
        };
        fs::write(&from, "one").unwrap();
        copy(&file(true, Write::Once)).unwrap();
        assert_eq!((fs::read_to_string(&to).unwrap().as_str(), mode(&to)), ("one", 0o600));
        fs::write(&from, "two").unwrap();
        copy(&file(true, Write::Once)).unwrap();
        assert_eq!(fs::read_to_string(&to).unwrap(), "one");
        fs::set_permissions(&to, fs::Permissions::from_mode(0o400)).unwrap();
        copy(&file(false, Write::Always)).unwrap();
        assert_eq!((fs::read_to_string(&to).unwrap().as_str(), mode(&to)), ("two", 0o644));
        assert_eq!(fs::read_dir(to.parent().unwrap()).unwrap().count(), 1);
        copy(&file(false, Write::Absent)).unwrap();
        copy(&file(false, Write::Absent)).unwrap();
        assert!(!to.exists());
    }

    #[test]
    fn a_wipe_leaves_the_volume_itself() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("data");
        fs::create_dir_all(volume.join("a/b")).unwrap();
        fs::create_dir_all(volume.join(OF_THE_FILE_SYSTEM)).unwrap();
        fs::write(volume.join("a/b/c"), "").unwrap();
        fs::write(volume.join("d"), "").unwrap();
        std::os::unix::fs::symlink("/", volume.join("root")).unwrap();
        wipe("n", std::slice::from_ref(&volume)).unwrap();
        let left: Vec<_> = fs::read_dir(&volume)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(left, [OF_THE_FILE_SYSTEM]);
        assert!(fs::metadata("/").is_ok());
        let trouble = wipe("n", &[dir.path().join("none")]).unwrap_err();
        assert!(
            trouble.code == "infra/home" && trouble.seen.contains("none"),
            "{trouble}"
        );
    }

    #[test]
    fn an_installation_is_whole_and_can_be_repeated() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("bin"), dir.path().join("install"));
        fs::create_dir_all(from.join("lib")).unwrap();
        fs::write(from.join("trialnet"), "program").unwrap();
        fs::set_permissions(from.join("trialnet"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(from.join("lib/libc.so.6"), "library").unwrap();
        for _ in 0..2 {
            install(&from, &to).unwrap();
            assert_eq!(mode(&to.join("trialnet")), 0o755);
            assert_eq!(fs::read_to_string(to.join("lib/libc.so.6")).unwrap(), "library");
        }
    }
}
