//! Which scenario files a command line names.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use fs_err as fs;

/// Why the files cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// There is nothing at a path.
    #[error("there is no file or folder {}", .0.display())]
    Missing(PathBuf),
    /// The system says no; the cause names the path.
    #[error("look for scenario files")]
    Io(#[source] std::io::Error),
}

/// Files as they are given; of a folder, every `*.toml` below it in the order of their paths. Each once. Folders that are hidden, that
/// are caches (by their `CACHEDIR.TAG`, as Cargo's `target` is) or that are links are passed over, unless they are given themselves.
///
/// # Errors
/// When a path does not exist or cannot be read.
pub fn expand(paths: &[PathBuf]) -> Result<Vec<PathBuf>, FilesError> {
    let mut files = Vec::new();
    for path in paths {
        let kind = fs::metadata(path).map_err(|error| match error.kind() {
            ErrorKind::NotFound => FilesError::Missing(path.clone()),
            _ => FilesError::Io(error),
        })?;
        if kind.is_dir() {
            below(path, &mut files).map_err(FilesError::Io)?;
        } else {
            files.push(path.clone());
        }
    }
    let mut seen = std::collections::BTreeSet::new();
    files.retain(|file| seen.insert(file.clone()));
    Ok(files)
}

fn below(folder: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    let mut entries = fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = match folder == Path::new(".") {
            true => PathBuf::from(entry.file_name()),
            false => entry.path(),
        };
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        let kind = entry.file_type()?;
        if kind.is_dir() && !hidden && !path.join("CACHEDIR.TAG").exists() {
            below(&path, files)?;
        } else if !kind.is_dir()
            && !hidden
            && path.extension().is_some_and(|extension| extension == "toml")
            && path.is_file()
        {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> tempfile::TempDir {
        let temp = tempfile::tempdir().unwrap();
        for file in [
            "b.toml",
            "a.toml",
            "sub/c.toml",
            "sub/readme.md",
            ".git/d.toml",
            "target/e.toml",
            "target/CACHEDIR.TAG",
        ] {
            let path = temp.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        temp
    }

    fn expanded(temp: &tempfile::TempDir, paths: &[&str]) -> Vec<String> {
        let paths: Vec<PathBuf> = paths.iter().map(|path| temp.path().join(path)).collect();
        let files = expand(&paths).unwrap();
        files
            .iter()
            .map(|file| file.strip_prefix(temp.path()).unwrap().display().to_string())
            .collect()
    }

    #[test]
    fn folders_give_every_toml_below() {
        let temp = tree();
        assert_eq!(expanded(&temp, &[""]), ["a.toml", "b.toml", "sub/c.toml"]);
        assert_eq!(
            expanded(&temp, &["target"]),
            ["target/e.toml"],
            "a folder that is given is looked into"
        );
    }

    #[test]
    fn given_files_keep_their_order_and_come_once() {
        let temp = tree();
        assert_eq!(
            expanded(&temp, &["sub/readme.md", "b.toml", "", "b.toml"]),
            ["sub/readme.md", "b.toml", "a.toml", "sub/c.toml"]
        );
    }

    #[test]
    fn a_missing_path_is_named() {
        let error = expand(&[PathBuf::from("no/such.toml")]).unwrap_err();
        assert_eq!(error.to_string(), "there is no file or folder no/such.toml");
    }
}
