//! The façade as other people's crates use it: their own test program is what guards, shims and devnodes are started from.

use std::path::Path;
use std::process::Command;

fn cargo_test(arguments: &[&str]) -> (bool, String) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = option_env!("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), Into::into);
    let crate_of_others = root.join("fixtures/facade-user");
    // Its lock file is ours, so that nothing is built twice or fetched anew.
    std::fs::copy(root.join("Cargo.lock"), crate_of_others.join("Cargo.lock")).unwrap();
    let output = Command::new(env!("CARGO"))
        .args(["test", "--quiet", "--test", "scenarios", "--target-dir"])
        .arg(target.join("facade"))
        .arg("--")
        .args(arguments)
        .current_dir(&crate_of_others)
        .env_remove("TRIALNET_SCENARIOS")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text)
}

#[test]
fn scenarios_of_other_crates_are_tests_that_can_be_listed_chosen_and_run() {
    let (ok, text) = cargo_test(&["--list"]);
    assert!(
        ok && text.contains("scenarios/fails: test") && text.contains("scenarios/grows: test"),
        "{text}"
    );
    let (ok, text) = cargo_test(&["--exact", "scenarios/grows"]);
    assert!(
        ok && text.contains("1 passed") && text.contains("1 filtered out"),
        "{text}"
    );
    let (ok, text) = cargo_test(&[]);
    assert!(ok && text.contains("2 passed"), "{text}");
}
