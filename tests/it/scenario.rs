//! The scenario language on a corpus of files: what a user sees of bad ones, what good ones mean.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use trialnet::backend::{kubernetes, local};
use trialnet::chain;
use trialnet::model::{Action, BackendKind, FaultKind, Keys, Kubernetes, Plan, Repeat, Resources, Targets, Timed};
use trialnet::scenario::{self, Diagnostics, Look, Options};

fn load(name: &str, text: &str, seed: Option<u64>) -> Result<Plan, Diagnostics> {
    let options = Options {
        seed,
        backend: BackendKind::Local,
        capabilities: local::capabilities(),
        adapter: chain::adapter,
    };
    // Files that are for pods say so by their name.
    if Path::new(name)
        .file_name()
        .is_some_and(|name| name.to_string_lossy().starts_with("kubernetes-"))
    {
        return load_for_pods(name, text, seed);
    }
    scenario::load_text(name, text, &options)
}

fn load_for_pods(name: &str, text: &str, seed: Option<u64>) -> Result<Plan, Diagnostics> {
    let options = Options {
        seed,
        backend: BackendKind::Kubernetes,
        capabilities: kubernetes::capabilities(),
        adapter: chain::adapter,
    };
    scenario::load_text(name, text, &options)
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf()
}

/// The scenario files below a folder, sorted.
fn files(folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("part of the repository") {
            let path = entry.expect("part of the repository").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "toml") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn stem(path: &Path) -> String {
    path.file_stem()
        .expect("part of the repository")
        .to_string_lossy()
        .into_owned()
}

/// What loading a file says, with the file's bare name in it.
fn diagnose(path: &Path) -> Diagnostics {
    let name = path
        .file_name()
        .expect("part of the repository")
        .to_string_lossy()
        .into_owned();
    let Ok(text) = fs::read_to_string(path) else {
        // Only the path of `load` can meet bytes that are no text.
        let options = Options {
            seed: None,
            backend: BackendKind::Local,
            capabilities: local::capabilities(),
            adapter: chain::adapter,
        };
        return scenario::load(path, &options).expect_err("no text");
    };
    match load(&name, &text, Some(7)) {
        Ok(_) => panic!("{name} was accepted"),
        Err(diagnostics) => diagnostics,
    }
}

fn assert_snapshot(folder: &str, name: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(root().join(folder).join("snapshots"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.add_filter(&regex_escape(&format!("{}/", root().join(folder).display())), "");
    settings.bind(|| insta::assert_snapshot!(name, text));
}

fn regex_escape(text: &str) -> String {
    let special = |letter: char| r"\.+*?()|[]{}^$-".contains(letter);
    text.chars().fold(String::new(), |mut escaped, letter| {
        if special(letter) {
            escaped.push('\\');
        }
        escaped.push(letter);
        escaped
    })
}

#[test]
fn bad_files_say_what_is_wrong() {
    let files = files("fixtures/invalid");
    assert!(files.len() >= 60, "{} bad files", files.len());
    let mut failed = Vec::new();
    for path in files {
        let diagnostics = diagnose(&path);
        assert!(!diagnostics.problems().is_empty(), "{}", path.display());
        let text = diagnostics.render(Look::PLAIN);
        let name = stem(&path);
        let compare = || assert_snapshot("fixtures/invalid", &name, &text);
        if std::panic::catch_unwind(compare).is_err() {
            failed.push(name);
        }
    }
    assert!(failed.is_empty(), "these look different: {failed:?}");
}

#[test]
fn every_problem_has_a_place_and_a_way_out() {
    for path in files("fixtures/invalid") {
        let diagnostics = diagnose(&path);
        let text = fs::read(&path).unwrap();
        for problem in diagnostics.problems() {
            let what = format!("{}: {problem:?}", path.display());
            assert!(problem.span.end <= text.len(), "outside the file: {what}");
            assert!(problem.span.start <= problem.span.end, "backwards: {what}");
            // A message with the range, or with what a key takes, is itself the way out.
            let says = ["from", "up to", "at most", "takes"]
                .iter()
                .any(|words| problem.message.contains(words));
            assert!(problem.help.is_some() || says, "no way out: {what}");
            assert!(trialnet::codes::find(problem.code).is_some(), "not documented: {what}");
        }
        let places: Vec<usize> = diagnostics
            .problems()
            .iter()
            .map(|problem| problem.span.start)
            .collect();
        assert!(places.is_sorted(), "not sorted: {}", path.display());
    }
}

#[test]
fn every_code_is_shown_by_some_bad_file() {
    let shown: BTreeSet<&str> = files("fixtures/invalid")
        .iter()
        .flat_map(|path| {
            diagnose(path)
                .problems()
                .iter()
                .map(|problem| problem.code)
                .collect::<Vec<_>>()
        })
        .collect();
    let silent: Vec<&str> = scenario::CODES
        .iter()
        .chain(scenario::FORECAST_CODES)
        .map(|(code, _, _)| *code)
        .filter(|code| !shown.contains(code))
        .collect();
    assert!(silent.is_empty(), "no bad file shows {silent:?}");
}

#[test]
fn all_problems_come_at_once() {
    let diagnostics = diagnose(&root().join("fixtures/invalid/many-at-once.toml"));
    assert!(
        diagnostics.problems().len() >= 10,
        "{}",
        diagnostics.render(Look::PLAIN)
    );
}

#[test]
fn good_files_mean_what_they_say() {
    let files = files("fixtures/valid");
    assert!(files.len() >= 15, "{} good files", files.len());
    for path in files {
        let text = fs::read_to_string(&path).unwrap();
        let plan = load(&stem(&path), &text, Some(7)).unwrap_or_else(|wrong| panic!("{wrong}"));
        assert_snapshot("fixtures/valid", &stem(&path), &summary(&plan));
    }
}

#[test]
fn shipped_files_and_templates_are_good() {
    for path in files("scenarios") {
        let text = fs::read_to_string(&path).unwrap();
        let name = path.display().to_string();
        load(&name, &text, None).unwrap_or_else(|wrong| panic!("{wrong}"));
        load_for_pods(&name, &text, None).unwrap_or_else(|wrong| panic!("for pods: {wrong}"));
    }
    for chain in ["devnode", "cometbft", "ethereum"] {
        load(chain, scenario::template(chain), None).unwrap_or_else(|wrong| panic!("{wrong}"));
    }
}

#[test]
fn the_schema_is_checked_in_and_takes_every_good_file() {
    let schema = scenario::schema();
    let text = format!("{}\n", serde_json::to_string_pretty(&schema).unwrap());
    let place = root().join("fixtures/scenario.schema.json");
    if std::env::var_os("TRIALNET_BLESS").is_some() {
        fs::write(&place, &text).unwrap();
    }
    let checked_in = fs::read_to_string(&place).unwrap_or_default();
    assert!(
        checked_in == text,
        "the schema has changed: TRIALNET_BLESS=1 cargo test writes it anew"
    );
    let validator = jsonschema::validator_for(&schema).unwrap();
    let complaints = |text: &str| -> Vec<String> {
        let value: serde_json::Value = toml::from_str(text).unwrap();
        let errors = validator.iter_errors(&value);
        errors
            .map(|error| format!("{error} at {}", error.instance_path()))
            .collect()
    };
    for path in files("fixtures/valid").into_iter().chain(files("scenarios")) {
        let found = complaints(&fs::read_to_string(&path).unwrap());
        assert!(found.is_empty(), "{}: {found:#?}", path.display());
    }
    for name in [
        "unknown-top-key",
        "nodes-is-a-string",
        "role-missing",
        "persistence-unknown",
        "block-time-number",
    ] {
        let path = root().join(format!("fixtures/invalid/{name}.toml"));
        assert!(
            !complaints(&fs::read_to_string(path).unwrap()).is_empty(),
            "the schema takes {name}"
        );
    }
}

#[test]
fn broken_files_never_make_it_panic() {
    for path in files("fixtures/valid") {
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        for index in 0..lines.len() {
            let mut without = lines.clone();
            without.remove(index);
            for text in [without.join("\n"), lines[..index].join("\n")] {
                if let Err(diagnostics) = load("broken.toml", &text, Some(1)) {
                    assert!(!diagnostics.render(Look::PLAIN).is_empty());
                }
            }
        }
    }
}

#[test]
fn the_seed_decides() {
    let text = fs::read_to_string(root().join("fixtures/valid/kill-one.toml")).unwrap();
    let victim = |seed: u64| {
        load("kill-one", &text, Some(seed))
            .unwrap()
            .fault("victim")
            .unwrap()
            .targets
            .clone()
    };
    assert_eq!(victim(1), victim(1));
    let all: BTreeSet<String> = (0..40).map(|seed| format!("{:?}", victim(seed))).collect();
    assert_eq!(all.len(), 4, "every validator is picked by some seed: {all:?}");
    // A step more before it changes nothing, since the choice hangs on the step's id.
    let longer = text.replacen("[[steps]]", "[[steps]]\nwait = \"1s\"\n\n[[steps]]", 1);
    let moved = load("kill-one", &longer, Some(1))
        .unwrap()
        .fault("victim")
        .unwrap()
        .targets
        .clone();
    assert_eq!(moved, victim(1));
    // The file's own seed counts unless it is overridden.
    let seeded = text.replacen("\n[network]", "seed = 5\n[network]", 1);
    assert_eq!(load("kill-one", &seeded, None).unwrap().seed, 5);
    assert_eq!(load("kill-one", &seeded, Some(6)).unwrap().seed, 6);
}

#[test]
fn a_missing_file_is_said_to_be_missing() {
    let options = Options {
        seed: None,
        backend: BackendKind::Local,
        capabilities: local::capabilities(),
        adapter: chain::adapter,
    };
    let wrong = scenario::load(Path::new("no-such-file.toml"), &options).unwrap_err();
    assert_eq!(wrong.problems()[0].code, "scenario/unreadable");
    assert!(wrong.to_string().contains("no-such-file.toml"), "{wrong}");
}

/// A plan in a few lines.
fn summary(plan: &Plan) -> String {
    let network = &plan.network;
    let mut text = format!(
        "{} (seed {}): {:?} {}, a block every {}, {:?}, {} links\n",
        plan.scenario,
        plan.seed,
        network.chain,
        network.version,
        network.block_time,
        network.persistence,
        network.links.len()
    );
    for node in &network.nodes {
        let start = format!("{:?}", node.start).to_lowercase();
        let (name, power, version) = (&node.name, node.power, &node.version);
        write!(text, "  {name}: {:?}, power {power}, {version}, {start}", node.role).expect("a string takes all");
        writeln!(
            text,
            "{}{}",
            if node.config.is_empty() {
                String::new()
            } else {
                format!(", {:?}", node.config)
            },
            if node.resources == Resources::default() {
                String::new()
            } else {
                format!(", {:?}", node.resources)
            }
        )
        .expect("a string takes all");
    }
    for (name, version) in &plan.versions {
        writeln!(text, "version {name}: {version:?}").expect("a string takes all");
    }
    writeln!(text, "config {:?}", network.config).expect("a string takes all");
    let more = [
        network.app.as_ref().map(|app| format!("{app:?}")),
        (network.keys != Keys::Seed).then(|| format!("keys {:?}", network.keys)),
        network.attach.as_ref().map(|attach| format!("{attach:?}")),
        (plan.kubernetes != Kubernetes::default()).then(|| format!("{:?}", plan.kubernetes)),
    ];
    for more in more.into_iter().flatten() {
        writeln!(text, "{more}").expect("a string takes all");
    }
    writeln!(text, "{:?}", plan.limits).expect("a string takes all");
    writeln!(text, "{:?}", plan.invariants).expect("a string takes all");
    writeln!(text, "outcome {:?}", plan.outcome).expect("a string takes all");
    for step in &plan.steps {
        let id = step.id.as_deref().unwrap_or("-");
        write!(
            text,
            "{} [{id}] line {}: {}",
            step.index + 1,
            step.line,
            action(&step.action)
        )
        .expect("a string takes all");
        if let Some(when) = &step.when {
            write!(text, " when {when:?}").expect("a string takes all");
        }
        let flags = [(step.go_on, " continue"), (step.background, " background")];
        flags
            .iter()
            .filter(|(on, _)| *on)
            .for_each(|(_, word)| text.push_str(word));
        text.push('\n');
        for Repeat { after, fault, .. } in plan.repeats.iter().filter(|repeat| repeat.step == step.index) {
            let again = action(&Action::Fault(fault.clone()));
            writeln!(text, "  after {after} [{}] {again}", fault.id).expect("a string takes all");
        }
    }
    if let Some(chaos) = &plan.chaos {
        let (recovery, halts, most) = (chaos.recovery, chaos.halts, chaos.most);
        writeln!(text, "rehearsal: recovery {recovery}, halts {halts}, at most {most:?}").expect("a string takes all");
        for Timed { at, fault } in &chaos.schedule {
            let id = &fault.id;
            writeln!(text, "  {at} [{id}] {}", action(&Action::Fault(fault.clone()))).expect("a string takes all");
        }
    }
    for sum in &plan.sums {
        writeln!(text, "sum {}: {}", sum.step + 1, sum.forecast).expect("a string takes all");
    }
    text
}

fn action(action: &Action) -> String {
    let Action::Fault(fault) = action else {
        return format!("{action:?}");
    };
    let targets = match &fault.targets {
        Targets::Nodes(nodes) => nodes.join(" "),
        Targets::Leader { among } => format!("the leader among {}", among.join(" ")),
    };
    let more = match &fault.kind {
        FaultKind::Kill | FaultKind::Pause | FaultKind::Stop | FaultKind::Restart | FaultKind::Upgrade => String::new(),
        other => format!(" {other:?}"),
    };
    let component = fault.component.as_ref().map(|name| format!("{name} of "));
    let component = component.unwrap_or_default();
    let wipe = if fault.wipe { ", wiped" } else { "" };
    format!(
        "{} {component}{targets}, {:?}{more}{wipe}",
        fault.kind.word(),
        fault.lasts
    )
}
