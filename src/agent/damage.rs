//! Damage to the files of a node: which ones a pattern names, what stands in them, and bytes turned over. Used where the files are.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::node_trouble;
use crate::backend::{Damage, Digest, Trouble};
use crate::model::Corrupt;

/// The files below `root` that a pattern names, with what stands in them.
///
/// # Errors
/// `infra/home` names the pattern and the system's reason.
pub(crate) fn digests(node: &str, root: &Path, pattern: &str) -> Result<Vec<Digest>, Trouble> {
    let read = || -> io::Result<Vec<Digest>> {
        let mut found = Vec::new();
        for file in matching(root, pattern)? {
            let (size, sha256) = digest(&root.join(&file))?;
            found.push(Digest { file, size, sha256 });
        }
        Ok(found)
    };
    read().map_err(|error| node_trouble("infra/home", node, format!("{pattern} read"), error.to_string()))
}

/// Turns over all bits of some bytes. A file that is no longer what the damage says is left alone.
///
/// # Errors
/// `infra/home` names the file and the system's reason.
pub(crate) fn damage(node: &str, root: &Path, damages: &[Damage]) -> Result<(), Trouble> {
    damages.iter().try_for_each(|damage| {
        turn_over(root, damage).map_err(|error| {
            node_trouble(
                "infra/home",
                node,
                format!("{} damaged", damage.file),
                error.to_string(),
            )
        })
    })
}

fn turn_over(root: &Path, Damage { file, sha256, offsets }: &Damage) -> io::Result<()> {
    // What comes from elsewhere names a file as a pattern does, and leads nowhere else.
    if !matching(root, file)?.contains(file) {
        return Err(io::ErrorKind::NotFound.into());
    }
    let path = root.join(file);
    if digest(&path)?.1 != *sha256 {
        return Ok(());
    }
    let mut file = fs_err::OpenOptions::new().read(true).write(true).open(path)?;
    for offset in offsets {
        let mut byte = [0];
        file.seek(SeekFrom::Start(*offset))?;
        file.read_exact(&mut byte)?;
        file.seek(SeekFrom::Start(*offset))?;
        file.write_all(&[!byte[0]])?;
    }
    file.sync_all()
}

/// The regular files that a pattern names, sorted, as paths below the root. No link is followed.
fn matching(root: &Path, pattern: &str) -> io::Result<Vec<String>> {
    if !Corrupt::is_path(pattern) {
        return Ok(Vec::new());
    }
    let mut found = vec![String::new()];
    let mut parts = pattern.split('/').peekable();
    while let Some(part) = parts.next() {
        let last = parts.peek().is_none();
        let mut next = Vec::new();
        for folder in found {
            for entry in entries(&root.join(&folder))? {
                let (Ok(name), kind) = (entry.file_name().into_string(), entry.file_type()?) else {
                    continue;
                };
                let fits = if last { kind.is_file() } else { kind.is_dir() };
                if fits && is_like(part, &name) {
                    next.push(if folder.is_empty() {
                        name
                    } else {
                        format!("{folder}/{name}")
                    });
                }
            }
        }
        found = next;
    }
    found.sort();
    Ok(found)
}

fn entries(folder: &Path) -> io::Result<Vec<fs_err::DirEntry>> {
    match fs_err::read_dir(folder) {
        Ok(entries) => entries.collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Whether a name is like one with `*` for any part of it.
fn is_like(pattern: &str, name: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else {
        return pattern == name;
    };
    name.strip_prefix(head).is_some_and(|name| {
        let ends = name.char_indices().map(|(at, _)| at).chain([name.len()]);
        ends.into_iter().any(|at| is_like(rest, &name[at..]))
    })
}

fn digest(path: &Path) -> io::Result<(u64, String)> {
    let mut sha256 = Sha256::new();
    let size = io::copy(&mut fs_err::File::open(path)?, &mut sha256)?;
    Ok((size, hex::encode(sha256.finalize())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (file, content) in [
            ("data/a.ldb", "one"),
            ("data/b.ldb", "two"),
            ("data/b.log", "three"),
            ("top", ""),
        ] {
            let path = dir.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        std::fs::create_dir(dir.path().join("data/c.ldb")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("data/d.ldb")).unwrap();
        dir
    }

    #[test]
    fn a_pattern_names_files_and_nothing_outside() {
        let dir = files();
        let named = |pattern: &str| matching(dir.path(), pattern).unwrap();
        assert_eq!(named("data/*.ldb"), ["data/a.ldb", "data/b.ldb"]);
        assert_eq!(named("data/b.*"), ["data/b.ldb", "data/b.log"]);
        assert_eq!(named("*/*.l*g"), ["data/b.log"]);
        assert_eq!(named("*"), ["top"]);
        for nothing in [
            "",
            "/etc/passwd",
            "../*",
            "data/../top",
            "data",
            "none/*",
            "data//a.ldb",
            "data/a.ldb/x",
        ] {
            assert_eq!(named(nothing), [""; 0], "{nothing}");
        }
    }

    #[test]
    fn bytes_are_turned_over_once() {
        let dir = files();
        let seen = || digests("n", dir.path(), "data/*.ldb").unwrap();
        let before = seen();
        assert_eq!(before[0].size, 3);
        assert_eq!(
            before[0].sha256, "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed",
            "as sha256sum says"
        );
        let asked = [Damage {
            file: "data/a.ldb".to_owned(),
            sha256: before[0].sha256.clone(),
            offsets: vec![0, 2],
        }];
        for _ in 0..2 {
            damage("n", dir.path(), &asked).unwrap();
            assert_eq!(
                std::fs::read(dir.path().join("data/a.ldb")).unwrap(),
                [!b'o', b'n', !b'e']
            );
        }
        assert_ne!(seen()[0].sha256, before[0].sha256);
        assert_eq!(seen()[1], before[1]);
        let elsewhere = [Damage {
            file: "data/d.ldb".to_owned(),
            ..asked[0].clone()
        }];
        let trouble = damage("n", dir.path(), &elsewhere).unwrap_err();
        assert_eq!(trouble.code, "infra/home");
    }
}
