//! What trialnet and the agent of a cluster's machine say to each other: one JSON value on each line, each question answered before the next.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::agent::tamper::Tamper;
use crate::backend::Trouble;
use crate::model::Ms;

/// The version of what is said.
pub const PROTOCOL: u32 = 3;
/// Where an agent listens: at 127.0.0.1 of its pod, which a port-forward reaches and no other pod. At the pod's own address it only says no.
pub const PORT: u16 = 20_900;

/// Trialnet asks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Ask {
    /// The first question on each connection. Answered with [`Reply::Hello`].
    Hello {
        /// [`PROTOCOL`].
        protocol: u32,
        /// The run.
        run: String,
        /// Its [`token`].
        token: String,
    },
    /// Sets what becomes of packets of these pods, for as long as the lease. Answered with [`Reply::Held`].
    Hold {
        /// After that the kernel forgets the rules.
        lease: Ms,
        /// The pods of the run on this machine, each with all its rules.
        pods: Vec<PodRules>,
        /// For tests: how the agent is wrong.
        #[serde(default)]
        tamper: Option<Tamper>,
    },
    /// Makes a folder of this pod's containers that is mounted by itself read-only in them, or not. No process there may have a file below it open for
    /// writing. It has no lease of its own: a container that ends takes its mounts with it. Answered with [`Reply::Held`].
    Mount {
        /// The pod's uid.
        pod: String,
        /// Where it is mounted, as the containers see it.
        path: PathBuf,
        /// Whether nobody can write to it.
        read_only: bool,
        /// For tests: how the agent is wrong.
        #[serde(default)]
        tamper: Option<Tamper>,
    },
}

/// What becomes of the packets of a pod.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PodRules {
    /// The pod's uid.
    pub pod: String,
    /// All of them.
    pub rules: Rules,
}

/// What becomes of packets into a pod and out of it; nothing: all pass.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rules {
    /// Of packets into it; tried in this order on each.
    pub lost: Vec<Rule>,
    /// Of packets out of it.
    pub bounds: Vec<Bound>,
}

impl Rules {
    /// Whether all packets pass.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.lost.is_empty() && self.bounds.is_empty()
    }
}

/// Packets from these addresses are lost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rule {
    /// All addresses under which the sender is seen.
    pub from: Vec<Ipv4Addr>,
    /// How probably each packet is lost, from 0 to 1.
    pub loss: f64,
}

/// Packets to these addresses leave no faster than this, all together: they queue for a while, and what finds the queue full is lost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bound {
    /// All addresses of a receiver.
    pub to: Vec<Ipv4Addr>,
    /// Bits a second, IP headers included.
    pub rate: u64,
}

/// The agent answers.
pub type Answer = Result<Reply, Trouble>;

/// What an agent says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    /// Who is there.
    Hello {
        /// [`PROTOCOL`].
        protocol: u32,
        /// Why packets cannot be lost on this machine, as found by trying.
        cannot: Option<String>,
        /// Why rates cannot be bound on this machine, as found by trying.
        unbound: Option<String>,
    },
    /// The rules are in force.
    Held {
        /// Pods of which no process was found: there is nothing yet, or nothing left, that could receive a packet.
        absent: Vec<String>,
    },
}

/// What a run shows to an agent, out of the key that all agents of a cluster share.
#[must_use]
pub fn token(key: &[u8], run: &str) -> String {
    // Twice, so that nobody can lengthen the name of a run.
    let inner = Sha256::new().chain_update(key).chain_update(run).finalize();
    hex::encode(Sha256::new().chain_update(key).chain_update(inner).finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_of_one_run_and_one_key() {
        assert_eq!(token(b"key", "a"), token(b"key", "a"));
        assert_ne!(token(b"key", "a"), token(b"key", "b"));
        assert_ne!(token(b"key", "a"), token(b"other", "a"));
        assert_eq!(token(b"key", "a").len(), 64);
    }
}
