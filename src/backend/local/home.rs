//! What a node finds on this machine: its program, its environment, its files.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component as Part, Path, PathBuf};

use super::executable;
use crate::agent::{NODE_VARIABLE, RUN_VARIABLE, node_trouble, trouble};
use crate::backend::{File, NodeSpec, Program, Trouble, Write};

/// The path of a program: as it stands where it holds a slash, else looked for on PATH. `None`: there is none that can be run.
#[must_use]
pub fn find_program(binary: &str) -> Option<PathBuf> {
    if binary.contains('/') {
        return std::path::absolute(binary).ok().filter(|path| executable(path));
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(binary))
        .find(|path| executable(path))
}

/// What stands in messages for a program that nothing names.
const NO_PROGRAM: &str = "(only an image is known)";

/// The programs of the chain, by the word of the specs.
pub(super) struct Programs(BTreeMap<String, PathBuf>);

impl Programs {
    pub(super) fn path(&self, program: &Program, exe: &Path) -> PathBuf {
        match program {
            Program::Trialnet => exe.to_path_buf(),
            Program::Found => PathBuf::new(),
            Program::Chain { binary, .. } => {
                let binary = binary.as_deref().unwrap_or_default();
                self.0.get(binary).cloned().unwrap_or_else(|| PathBuf::from(binary))
            }
        }
    }
}

/// Finds all programs.
///
/// # Errors
/// When some are missing: names them all, and how to get them.
pub(super) fn programs(specs: &[NodeSpec], exe: &Path) -> Result<Programs, Trouble> {
    let mut found = BTreeMap::new();
    let mut missing = BTreeMap::new();
    for program in specs
        .iter()
        .flat_map(|spec| &spec.components)
        .map(|component| &component.program)
    {
        let Program::Chain { binary, hint, .. } = program else {
            continue;
        };
        let binary = binary.as_deref().unwrap_or(NO_PROGRAM);
        if found.contains_key(binary) || missing.contains_key(binary) {
            continue;
        }
        match find_program(binary) {
            Some(path) => drop(found.insert(binary.to_owned(), path)),
            None => drop(missing.insert(binary.to_owned(), hint.clone())),
        }
    }
    if !executable(exe) {
        missing.insert(exe.display().to_string(), "it is trialnet's own executable".to_owned());
    }
    if missing.is_empty() {
        Ok(Programs(found))
    } else {
        Err(are_missing(&missing))
    }
}

/// Finds one program.
pub(super) fn program(program: &Program, exe: &Path) -> Result<PathBuf, Trouble> {
    match program {
        Program::Trialnet => Ok(exe.to_path_buf()),
        Program::Found => {
            let hint = "only the kubernetes backend finds nodes".to_owned();
            Err(are_missing(&BTreeMap::from([(NO_PROGRAM.to_owned(), hint)])))
        }
        Program::Chain { binary, hint, .. } => {
            let binary = binary.as_deref().unwrap_or(NO_PROGRAM);
            find_program(binary).ok_or_else(|| are_missing(&BTreeMap::from([(binary.to_owned(), hint.clone())])))
        }
    }
}

fn are_missing(missing: &BTreeMap<String, String>) -> Trouble {
    let names: Vec<&str> = missing.keys().map(String::as_str).collect();
    let seen = missing.iter().map(|(name, hint)| {
        let place = if name.contains('/') {
            "no such program, or it cannot be run"
        } else {
            "not on PATH"
        };
        format!("{name} is {place}: {hint}")
    });
    trouble(
        "infra/program-missing",
        format!("the program {}", names.join(", ")),
        seen.collect::<Vec<_>>().join("; "),
    )
}

/// The whole environment of a process: its own variables, by which it is also found again, and trialnet's PATH. What it leaves in a temporary folder goes with its home.
pub(super) fn environment(
    run: &str,
    node: Option<&str>,
    home: &Path,
    own: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let path = std::env::var("PATH").ok();
    let mut all: BTreeMap<String, String> = path.map(|path| ("PATH".to_owned(), path)).into_iter().collect();
    for name in ["HOME", "TMPDIR"] {
        all.insert(name.to_owned(), home.display().to_string());
    }
    all.extend(own.clone());
    // Last, so that nobody can take the mark away.
    all.insert(RUN_VARIABLE.to_owned(), run.to_owned());
    if let Some(node) = node {
        all.insert(NODE_VARIABLE.to_owned(), node.to_owned());
    }
    all
}

/// Writes the files of a node below its home, before every start. Files that are written once are never overwritten; where
/// they were removed on purpose, they are written again.
pub(super) fn write(home: &Path, spec: &NodeSpec) -> Result<(), Trouble> {
    let failed = |path: &Path, error: io::Error| {
        node_trouble(
            "infra/home",
            &spec.name,
            format!("{} written", path.display()),
            error.to_string(),
        )
    };
    volumes(home, &spec.name, &spec.volumes)?;
    std::fs::create_dir_all(home).map_err(|error| failed(home, error))?;
    for file in spec.components.iter().flat_map(|component| &component.files) {
        let path = home.join(&file.volume).join(&file.path);
        match file.write {
            Write::Once if path.exists() => continue,
            Write::Once | Write::Always => {}
            Write::Absent => {
                match std::fs::remove_file(&path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(&path, error)),
                    _ => continue,
                };
            }
        }
        check(&Path::new(&file.volume).join(&file.path))
            .and_then(|()| write_file(&path, file))
            .map_err(|error| failed(&path, error))?;
    }
    Ok(())
}

/// Makes the volumes of a node where they are missing.
pub(super) fn volumes(home: &Path, node: &str, volumes: &[String]) -> Result<(), Trouble> {
    for volume in volumes {
        let path = home.join(volume);
        check(Path::new(volume))
            .and_then(|()| std::fs::create_dir_all(&path))
            .map_err(|error| {
                node_trouble(
                    "infra/home",
                    node,
                    format!("{} made", path.display()),
                    error.to_string(),
                )
            })?;
    }
    Ok(())
}

/// Removes what is in the volumes of a node, and leaves them empty.
pub(super) fn empty(home: &Path, spec: &NodeSpec) -> Result<(), Trouble> {
    for volume in &spec.volumes {
        let path = home.join(volume);
        check(Path::new(volume))
            .and_then(|()| match std::fs::remove_dir_all(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => std::fs::create_dir_all(&path),
            })
            .map_err(|error| {
                let expected = format!("{} emptied", path.display());
                node_trouble("infra/home", &spec.name, expected, error.to_string())
            })?;
    }
    Ok(())
}

/// Nothing is written outside the home.
fn check(inside: &Path) -> io::Result<()> {
    if inside
        .components()
        .all(|part| matches!(part, Part::Normal(_) | Part::CurDir))
    {
        Ok(())
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the path leads out of the node's home",
        ))
    }
}

fn write_file(path: &Path, file: &File) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mode = if file.secret { 0o600 } else { 0o644 };
    OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(mode)
        .open(path)?
        .write_all(&file.content)
}

/// The last lines of a file, for a message.
pub(super) fn last_lines(path: &Path) -> String {
    let text = std::fs::read(path)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(5)..].join(" | ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Component, Place};
    use std::os::unix::fs::PermissionsExt;

    fn file(path: &str, content: &str, secret: bool, write: Write) -> File {
        File {
            volume: "data".to_owned(),
            path: path.into(),
            content: content.into(),
            secret,
            write,
        }
    }

    fn spec(program: Program, files: Vec<File>) -> NodeSpec {
        NodeSpec {
            name: "a".to_owned(),
            place: Place::default(),
            components: vec![Component {
                name: "node".to_owned(),
                program,
                version: "1".to_owned(),
                args: Vec::new(),
                env: BTreeMap::new(),
                ports: Vec::new(),
                files,
                user: None,
                resources: crate::model::Resources::default(),
            }],
            volumes: vec!["data".to_owned()],
            started: true,
        }
    }

    fn chain(binary: &str) -> Program {
        Program::Chain {
            binary: Some(binary.to_owned()),
            program: String::new(),
            image: None,
            hint: "make it".to_owned(),
        }
    }

    #[test]
    fn files_are_written_once_or_always_and_keys_are_private() {
        let dir = tempfile::tempdir().unwrap();
        let files = |content| {
            vec![
                file("config/key", content, true, Write::Once),
                file("config.toml", content, false, Write::Always),
            ]
        };
        write(dir.path(), &spec(Program::Trialnet, files("first"))).unwrap();
        write(dir.path(), &spec(Program::Trialnet, files("second"))).unwrap();
        let key = dir.path().join("data/config/key");
        assert_eq!(std::fs::read_to_string(&key).unwrap(), "first");
        assert_eq!(key.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(
            std::fs::read_to_string(dir.path().join("data/config.toml")).unwrap(),
            "second"
        );
    }

    #[test]
    fn nothing_is_written_outside_the_home() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("home");
        for path in ["../../out", "/tmp/out"] {
            let error = write(
                &home,
                &spec(Program::Trialnet, vec![file(path, "x", false, Write::Always)]),
            )
            .unwrap_err();
            assert_eq!(error.code, "infra/home");
            assert_eq!(error.node.as_deref(), Some("a"));
        }
    }

    #[test]
    fn all_missing_programs_are_named_with_the_way_to_get_them() {
        let specs = [
            spec(chain("no-such-program-1"), vec![]),
            spec(chain("/no/such"), vec![]),
            spec(chain("sh"), vec![]),
        ];
        let exe = std::env::current_exe().unwrap();
        let trouble = programs(&specs, &exe).err().unwrap();
        assert_eq!(trouble.code, "infra/program-missing");
        assert!(trouble.expected.contains("/no/such, no-such-program-1"), "{trouble}");
        assert!(trouble.seen.contains("not on PATH: make it"), "{trouble}");
        let found = programs(&specs[2..], &exe).unwrap();
        assert!(found.path(&chain("sh"), &exe).is_absolute());
        assert_eq!(program(&Program::Trialnet, &exe), Ok(exe));
    }

    #[test]
    fn the_environment_is_clean_and_marked() {
        let own = BTreeMap::from([
            ("A".to_owned(), "1".to_owned()),
            (RUN_VARIABLE.to_owned(), "stolen".to_owned()),
        ]);
        let all = environment("r-1", Some("a"), Path::new("/h"), &own);
        assert_eq!(all[RUN_VARIABLE], "r-1");
        assert_eq!(
            (all["HOME"].as_str(), all["A"].as_str(), all[NODE_VARIABLE].as_str()),
            ("/h", "1", "a")
        );
        assert!(!all.contains_key("CARGO_MANIFEST_DIR"));
    }
}
