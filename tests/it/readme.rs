//! What is shipped does what it says: the README's blocks, the scenarios and the reasons that they give.

use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn trialnet(arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_trialnet"))
        .args(arguments)
        .current_dir(root())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code(), text)
}

/// The shipped scenarios, relative to the root.
fn shipped() -> Vec<PathBuf> {
    fn below(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(root().join(folder)).unwrap().flatten() {
            let path = folder.join(entry.file_name());
            if entry.path().is_dir() {
                below(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "toml") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    below(Path::new("scenarios"), &mut found);
    found.sort();
    found
}

#[test]
fn console_blocks_of_the_readme_run() {
    let text = std::fs::read_to_string(root().join("README.md")).unwrap();
    let commands = text.lines().filter(|line| line.starts_with("$ trialnet ")).count();
    assert!(commands >= 2, "{commands} commands in the README's console blocks");
    trycmd::TestCases::new()
        .register_bin("trialnet", Path::new(env!("CARGO_BIN_EXE_trialnet")))
        .case("README.md")
        .run();
}

/// The blocks that a reader would paste name files and commands that are there.
#[test]
fn other_blocks_of_the_readme_are_good() {
    let text = std::fs::read_to_string(root().join("README.md")).unwrap();
    let blocks: Vec<&str> = text
        .split("\n```")
        .filter_map(|block| block.strip_prefix("toml\n"))
        .collect();
    assert!(!blocks.is_empty());
    let place = tempfile::tempdir().unwrap();
    for block in blocks {
        let file = place.path().join("readme.toml");
        std::fs::write(&file, block).unwrap();
        let (code, text) = trialnet(&["validate", file.to_str().unwrap()]);
        assert_eq!(code, Some(0), "{text}");
    }
    let run = text
        .lines()
        .filter_map(|line| line.strip_prefix("cargo run --release -- run "));
    for line in run {
        let file = line.split(' ').next().unwrap_or_default();
        assert!(root().join(file).is_file(), "the README names {file}");
    }
}

/// The script for CI passes its arguments and the exit code on, and says where the evidence is.
#[test]
fn the_script_for_ci_names_the_reports_and_keeps_the_exit_code() {
    let place = tempfile::tempdir().unwrap();
    let script = |folder: &str, files: &[&str]| {
        let folder = place.path().join(folder);
        let output = Command::new(root().join("ci/trialnet.sh"))
            .args(["--backend", "local", "--run-dir"])
            .arg(&folder)
            .args(files)
            .env("TRIALNET", env!("CARGO_BIN_EXE_trialnet"))
            .current_dir(root())
            .output()
            .unwrap();
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        let reports: Vec<PathBuf> = out
            .lines()
            .filter_map(|line| line.strip_prefix("junit: "))
            .map(PathBuf::from)
            .collect();
        assert!(
            reports
                .iter()
                .all(|report| report.starts_with(&folder) && report.is_file())
        );
        (output.status.code(), reports.len())
    };
    let passes = "scenarios/kill-one.toml";
    assert_eq!(script("passes", &[passes]), (Some(0), 1));
    let fails = "scenarios/caught/another-hash.toml";
    assert!(root().join(fails).is_file(), "{fails} is there");
    assert_eq!(script("fails", &[passes, fails]), (Some(100), 2));
    assert_eq!(script("invalid", &["Cargo.toml"]).0, Some(94));
}

/// The job that users copy asks for what trialnet has.
#[test]
fn the_job_for_ci_uses_commands_and_options_that_are_there() {
    let text = std::fs::read_to_string(root().join("ci/github-actions.yml")).unwrap();
    let job: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
    let steps = job["jobs"]["scenarios"]["steps"].as_array().unwrap();
    let commands: Vec<Vec<&str>> = steps
        .iter()
        .filter_map(|step| step["run"].as_str())
        .filter_map(|run| run.strip_prefix("trialnet "))
        .map(|run| run.split_whitespace().collect())
        .collect();
    assert!(commands.iter().any(|words| words[0] == "run"), "{commands:?}");
    for words in commands {
        let (code, help) = trialnet(&[words[0], "--help"]);
        assert_eq!(code, Some(0), "trialnet {}", words[0]);
        for option in words.iter().filter(|word| word.starts_with("--")) {
            assert!(help.contains(option), "trialnet {} {option}", words[0]);
        }
    }
    let kept = text.matches("if: always()").count();
    assert_eq!(kept, 2, "JUnit and run folders are kept of failed runs too");
}

#[test]
fn every_shipped_scenario_is_valid_plans_and_gives_its_reason() {
    let files = shipped();
    assert!(files.len() >= 20, "{files:?}");
    for file in &files {
        let name = file.to_str().unwrap();
        // Those that are about pods say so by their name.
        let for_pods = file.file_name().unwrap().to_str().unwrap().starts_with("kubernetes-");
        let backend = if for_pods { "kubernetes" } else { "local" };
        let (code, text) = trialnet(&["validate", name, "--backend", backend]);
        assert!(code == Some(0) && text.contains(&format!("{name}: valid (")), "{text}");
        let (code, plan) = trialnet(&["plan", name, "--json", "--backend", backend]);
        assert_eq!(code, Some(0), "{plan}");
        let plan: serde_json::Value = serde_json::from_str(&plan).unwrap();
        let about = plan["about"].as_str().unwrap_or_default();
        // What must fail says what is caught, and what `trialnet run` has to say of it.
        let (begin, fails) = if name.starts_with("scenarios/caught/") {
            ("Caught", true)
        } else {
            ("Passes because", false)
        };
        assert!(
            about.starts_with(begin) && about.len() > begin.len() + 20,
            "{name}: {about:?}"
        );
        assert_eq!(plan["outcome"].is_object(), fails, "{name}: {}", plan["outcome"]);
    }
}

#[test]
fn the_schema_that_is_printed_is_the_one_that_is_checked_in() {
    let (code, text) = trialnet(&["schema"]);
    assert_eq!(code, Some(0));
    let checked_in = std::fs::read_to_string(root().join("fixtures/scenario.schema.json")).unwrap();
    assert!(
        text == checked_in,
        "`trialnet schema` differs from fixtures/scenario.schema.json"
    );
    for file in shipped() {
        let text = std::fs::read_to_string(root().join(&file)).unwrap();
        let named = text
            .lines()
            .next()
            .unwrap_or_default()
            .strip_prefix("#:schema ")
            .unwrap_or_default();
        let place = root().join(&file).parent().unwrap().join(named);
        assert!(
            place.ends_with("fixtures/scenario.schema.json") && place.is_file(),
            "{file:?}: {named}"
        );
    }
}
