//! The façade as other people's crates use it: their own test program is what guards, shims and devnodes are started from.

use std::process::Command;

fn cargo_test(arguments: &[&str]) -> (bool, String) {
    // With the features of the whole workspace, as they were built for this very test, and without what cargo says to a test:
    // the build script of ring looks at it, and whatever needs ring would be built anew, here and by the next call outside.
    let said = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
    let mut command = Command::new(env!("CARGO"));
    for (name, _) in std::env::vars().filter(|(name, _)| said(name)) {
        command.env_remove(name);
    }
    let output = command
        .args(["test", "--quiet", "--workspace", "--test", "facade", "--"])
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
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
