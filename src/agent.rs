//! What runs next to the nodes: the guard that owns them on this machine, the shim that every node starts through, the
//! proxies of the links, and the leases under which faults are held.
//!
//! The guard is a process of its own, so that it outlives trialnet by the moment that it takes to put everything back.
//! It decides nothing: it does what it is told over its standard input, and reverts when nobody tells it any more.

pub mod guard;
pub mod protocol;
pub mod proxy;
pub mod registry;
pub mod shim;
pub mod table;
pub mod tamper;
pub mod testnode;

mod nodes;

pub use guard::GuardArgs;
pub use shim::ShimArgs;
pub use testnode::TestnodeArgs;

use crate::backend::Trouble;

/// The environment variable that every process of a run carries, with the id of the run: how leftovers are recognised.
pub const RUN_VARIABLE: &str = "TRIALNET_RUN";

/// The environment variable that names the node to which a process belongs.
pub const NODE_VARIABLE: &str = "TRIALNET_NODE";

/// Whether these arguments (without the program's own name) call the guard or the shim. A program that embeds trialnet
/// must answer such a call before anything else, since trialnet starts its own executable for both.
#[must_use]
pub fn is_hidden_call(args: &[&str]) -> bool {
    matches!(args, ["guard", "--protocol", ..] | ["shim", "--guard", ..])
}

/// Trouble that is not about one node.
pub(crate) fn trouble(code: &str, expected: impl Into<String>, seen: impl Into<String>) -> Trouble {
    Trouble {
        code: code.to_owned(),
        node: None,
        expected: expected.into(),
        seen: seen.into(),
    }
}

/// Trouble with a node.
pub(crate) fn node_trouble(code: &str, node: &str, expected: impl Into<String>, seen: impl Into<String>) -> Trouble {
    Trouble {
        node: Some(node.to_owned()),
        ..trouble(code, expected, seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_filter_is_not_a_hidden_call() {
        assert!(is_hidden_call(&["guard", "--protocol", "1"]));
        assert!(is_hidden_call(&["shim", "--guard", "7", "--", "true"]));
        assert!(!is_hidden_call(&["guard"]));
        assert!(!is_hidden_call(&["shim", "guard"]));
        assert!(!is_hidden_call(&[]));
    }
}
