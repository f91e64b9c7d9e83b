//! What `trialnet init` writes.

/// A commented scenario that runs as it is: for `cometbft` that chain, for anything else the devnode.
#[must_use]
pub fn template(kind: &str) -> &'static str {
    match kind {
        "cometbft" => include_str!("template/cometbft.toml"),
        _ => include_str!("template/devnode.toml"),
    }
}
