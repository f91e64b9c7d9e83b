//! One test for each shipped scenario; `TRIALNET_SCENARIOS` names another folder.

fn main() -> std::process::ExitCode {
    let folder = std::env::var("TRIALNET_SCENARIOS").unwrap_or_else(|_| "scenarios".to_owned());
    trialnet::libtest_main(&[&folder])
}
