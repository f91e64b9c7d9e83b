//! What `trialnet init` writes.

/// A commented scenario that runs as it is: for `cometbft` and `ethereum` those chains, for anything else the devnode.
#[must_use]
pub fn template(kind: &str) -> &'static str {
    match kind {
        "cometbft" => include_str!("template/cometbft.toml"),
        "ethereum" => include_str!("template/ethereum.toml"),
        _ => include_str!("template/devnode.toml"),
    }
}
