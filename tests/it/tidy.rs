//! The directions between modules that `src/ARCHITECTURE.md` promises.

use std::fs;
use std::path::{Path, PathBuf};

/// Modules on the left use nothing of the modules on the right.
const NEVER: &[(&[&str], &[&str])] = &[
    (
        &["model", "quorum", "record", "judge"],
        &["backend", "agent", "engine", "observe", "report", "cli", "ui", "run"],
    ),
    (
        &["backend", "agent"],
        &[
            "chain", "engine", "judge", "scenario", "observe", "report", "cli", "ui", "run",
        ],
    ),
    (
        &["devnode"],
        &[
            "model", "quorum", "record", "judge", "backend", "agent", "chain", "engine", "observe", "report", "cli",
            "scenario", "run",
        ],
    ),
    (
        &["chain", "observe"],
        &[
            "backend::local",
            "agent",
            "engine",
            "judge",
            "report",
            "cli",
            "ui",
            "run",
        ],
    ),
    (&["engine"], &["report", "cli", "ui", "run", "backend::local", "agent"]),
    (
        &["scenario"],
        &["engine", "observe", "judge::", "report", "cli", "ui", "run"],
    ),
];

/// The in-memory double plays a chain, so it may use the arithmetic; nothing else of what a backend never uses.
const MAY_PRINT: &[&str] = &["main.rs", "ui.rs"];

fn sources(under: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(under).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The code of a file without its comments and unit tests.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let text = text
        .split("#[cfg(test)]\nmod tests")
        .next()
        .unwrap_or_default()
        .to_owned();
    text.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn modules_keep_their_directions() {
    let mut wrong = Vec::new();
    for path in sources(&root()) {
        let name = path.strip_prefix(root()).unwrap().to_string_lossy().replace(".rs", "");
        let module = name.split('/').next().unwrap();
        let code = code(&path);
        for (users, used) in NEVER.iter().filter(|(users, _)| users.contains(&module)) {
            for other in used
                .iter()
                .filter(|other| code.contains(&format!("crate::{other}")) && !users.contains(other))
            {
                wrong.push(format!("src/{name}.rs uses {other}"));
            }
        }
    }
    assert!(wrong.is_empty(), "see src/ARCHITECTURE.md:\n{}", wrong.join("\n"));
}

#[test]
fn only_the_printer_prints_and_only_main_exits() {
    let words = ["println!(", "eprintln!(", "process::exit("];
    let mut wrong = Vec::new();
    for path in sources(&root()) {
        let name = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
        if MAY_PRINT.contains(&name.as_str()) {
            continue;
        }
        for word in words.iter().filter(|word| code(&path).contains(**word)) {
            wrong.push(format!("src/{name} has {word}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_module_is_a_mod_rs() {
    let wrong: Vec<_> = sources(&root())
        .into_iter()
        .filter(|path| path.ends_with("mod.rs"))
        .collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}
