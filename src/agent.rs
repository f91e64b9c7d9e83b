//! What runs next to the nodes: the guard that owns them on this machine, the supervisor that owns one in its container, the shim that
//! every node starts through, the proxies of the links, and the leases under which faults are held.
//!
//! The guard is a process of its own, so that it outlives trialnet by the moment that it takes to put everything back.
//! It decides nothing: it does what it is told over its standard input, and reverts when nobody tells it any more.

pub mod guard;
pub mod packets;
pub mod protocol;
pub mod proxy;
pub mod registry;
pub mod shim;
pub mod stress;
pub mod supervise;
pub mod table;
pub mod tamper;
pub mod testnode;

pub(crate) mod client;
pub(crate) mod damage;
mod nodes;
pub(crate) mod reach;
#[cfg(target_os = "linux")]
mod sockets;

pub use guard::GuardArgs;
pub use packets::AgentArgs;
pub use shim::ShimArgs;
pub use stress::StressArgs;
pub use supervise::{InstallArgs, SuperviseArgs};
pub use testnode::TestnodeArgs;

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::backend::Trouble;

/// The environment variable that every process of a run carries, with the id of the run: how leftovers are recognised.
pub const RUN_VARIABLE: &str = "TRIALNET_RUN";

/// The environment variable that names the node to which a process belongs.
pub const NODE_VARIABLE: &str = "TRIALNET_NODE";

/// The environment variable that names the component of the node, where a supervisor started it.
pub const COMPONENT_VARIABLE: &str = "TRIALNET_COMPONENT";

/// How a supervisor is started: what stands before the path of its [`supervise::protocol::Spec`].
pub const SUPERVISE: [&str; 2] = ["supervise", "--spec"];

/// How trialnet's own program is copied for other containers of the pod: what stands before the path of the folder.
pub const INSTALL: &str = "supervise-install";

/// How what is used beside a program is started: what stands before the number of threads, and before the number of bytes.
pub const STRESS: [&str; 3] = ["stress", "--cpu", "--memory"];

/// What follows where it also fills the folder that it is started in: what stands before how full, in percent, and before the size of its file system.
pub const FILL: [&str; 2] = ["--fill", "--size"];

/// How an observer in a pod is started: what stands before the path of its [`crate::backend::ObserverFile`].
pub const OBSERVE: [&str; 2] = ["observe-pod", "--config"];

/// Whether these arguments (without the program's own name) call the guard, the shim or the supervisor. A program that embeds trialnet
/// must answer such a call before anything else, since trialnet starts its own executable for all of them.
#[must_use]
pub fn is_hidden_call(args: &[&str]) -> bool {
    matches!(
        args,
        ["guard" | "guard-kubernetes", "--protocol", ..]
            | ["shim", "--guard", ..]
            | ["supervise", "--spec", ..]
            | ["supervise-install", _]
            | ["agent", "--key", ..]
            | ["supervise-probe"]
            | ["stress", "--cpu", ..]
            | ["observe-pod", "--config", ..]
    )
}

/// Locks; one whose holder panicked still guards plain data that is whole.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
        assert!(is_hidden_call(&["guard-kubernetes", "--protocol", "1"]));
        assert!(is_hidden_call(&["shim", "--guard", "7", "--", "true"]));
        assert!(is_hidden_call(&[
            SUPERVISE[0],
            SUPERVISE[1],
            "/trialnet/spec/node.json"
        ]));
        assert!(is_hidden_call(&[INSTALL, "/trialnet/install"]));
        assert!(is_hidden_call(&[
            OBSERVE[0],
            OBSERVE[1],
            "/trialnet/spec/observer.json"
        ]));
        assert!(is_hidden_call(&[
            "agent",
            "--key",
            "/trialnet/key/key",
            "--address",
            "10.0.0.1"
        ]));
        assert!(is_hidden_call(&[STRESS[0], STRESS[1], "1", STRESS[2], "0"]));
        assert!(!is_hidden_call(&["stress"]));
        assert!(!is_hidden_call(&["guard"]));
        assert!(!is_hidden_call(&["agent"]));
        assert!(!is_hidden_call(&["supervise"]));
        assert!(!is_hidden_call(&["shim", "guard"]));
        assert!(!is_hidden_call(&[]));
    }
}
