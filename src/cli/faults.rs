//! `trialnet faults`: what a backend can do to a network, by which mechanism, and how it is seen that it did.

use serde::Serialize;

use super::FaultsArgs;
use crate::exit;
use crate::model::BackendKind;
use crate::run::capabilities;
use crate::ui::{Ui, paint};

/// A fault of the scenario language.
struct Entry {
    /// As a step has it.
    step: &'static str,
    /// What a backend that cannot do it says so of.
    lacks: Option<&'static str>,
    /// Who does it on this machine, and in a cluster.
    by: [&'static str; 2],
    /// What shows from outside that it is on.
    seen: &'static str,
}

/// Where bytes between nodes pass.
const PROXIES: [&str; 2] = [
    "the proxies of the links, in the guard",
    "the proxies of the links, in the supervisors of the dialling pods; no privilege is needed",
];
const AGENTS: [&str; 2] = [
    "",
    "nf_tables in the pods' network namespaces, by a privileged agent on each machine that tries it before the run begins; the kernel ends what nobody renews",
];
const SUPERVISOR: [&str; 2] = [
    "signals of the guard, which owns the processes",
    "signals of the supervisor, the first process of each container",
];

const AGAIN: [&str; 2] = ["as once, at fixed moments from the first effect on"; 2];

const CATALOGUE: [Entry; 18] = [
    Entry {
        step: "kill",
        lacks: None,
        by: SUPERVISOR,
        seen: "the process is gone, RPC refuses",
    },
    Entry {
        step: "kill, how = \"delete\", \"force-delete\", \"evict\"",
        lacks: Some("pods"),
        by: ["", "the API server; the StatefulSet makes a new pod"],
        seen: "another pod uid",
    },
    Entry {
        step: "pause",
        lacks: None,
        by: SUPERVISOR,
        seen: "the state of the process, RPC is silent",
    },
    Entry {
        step: "stop, restart",
        lacks: None,
        by: SUPERVISOR,
        seen: "the process is gone, or another generation",
    },
    Entry {
        step: "partition, isolate",
        lacks: None,
        by: PROXIES,
        seen: "no byte moves on new and on open connections, others carry bytes",
    },
    Entry {
        step: "partition, direction = \"one-way\"",
        lacks: Some("one-way"),
        by: AGENTS,
        seen: "the same, and datagrams counted in each direction",
    },
    Entry {
        step: "partition, isolate, plane = \"all\"",
        lacks: Some("plane-all"),
        by: ["", ""],
        seen: "RPC is silent too",
    },
    Entry {
        step: "delay, also between regions by a table of latencies",
        lacks: None,
        by: PROXIES,
        seen: "the first byte of new connections, beside ones past the link",
    },
    Entry {
        step: "loss",
        lacks: Some("loss"),
        by: AGENTS,
        seen: "datagrams counted in each direction, as many as tell the share from none",
    },
    Entry {
        step: "bandwidth",
        lacks: Some("bandwidth"),
        by: AGENTS,
        seen: "datagrams, three times as many as may pass, and how many bytes of them arrive",
    },
    Entry {
        step: "stress, cpu, memory",
        lacks: Some("stress"),
        by: [
            "",
            "a process beside each program, in its container and under the limits of that, started by the supervisor; it ends with the supervisor",
        ],
        seen: "the states of its threads, the time that they had a processor, the memory that it holds",
    },
    Entry {
        step: "fill",
        lacks: Some("fill"),
        by: [
            "",
            "a file without a name in a volume of memory, of a process beside each program that is started by the supervisor and ends with it",
        ],
        seen: "how full the file system is, read by another process",
    },
    Entry {
        step: "read_only",
        lacks: Some("read-only"),
        by: [
            "",
            "a privileged agent on each machine remounts the first volume in the containers of nodes that are held down meanwhile; the supervisor ends its container if nobody renews",
        ],
        seen: "what the kernel says of the mount, and that a file cannot be made, by another process in the container",
    },
    Entry {
        step: "all these but restart, every = \"6s\", times = 4: a link that flaps, a crash loop",
        lacks: None,
        by: AGAIN,
        seen: "each time its own effect and its own end",
    },
    Entry {
        step: "corrupt",
        lacks: None,
        by: [
            "the guard, in the home of a node that it holds down",
            "the supervisor, in the volume of a pod whose process it holds down",
        ],
        seen: "another digest, read by another process; it is never taken back",
    },
    Entry {
        step: "misbehave",
        lacks: None,
        by: ["the devnode itself, told by RPC", "the devnode itself, told by RPC"],
        seen: "a crash or a hang; what else it does is for the judge to find",
    },
    Entry {
        step: "drain",
        lacks: Some("machines"),
        by: [
            "",
            "the API server: the machine is cordoned, and the pods are evicted as the disruption budget lets them go; trialnet's guard, or gc, gives it back when trialnet is gone",
        ],
        seen: "another pod uid or none, the machine takes no pods and has none of the network",
    },
    Entry {
        step: "machine, how = \"stop\", \"pause\"",
        lacks: Some("machines"),
        by: [
            "",
            "docker, which kills or pauses the container of a kind cluster's machine; trialnet's guard, or gc, starts it when trialnet is gone",
        ],
        seen: "the state of the container, RPC is silent",
    },
];

/// What a backend makes of a fault.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Offer {
    step: &'static str,
    #[serde(flatten)]
    how: How,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum How {
    Offered { by: &'static str, seen: &'static str },
    Refused { refused: &'static str },
}

/// Prints the catalogue.
#[must_use]
pub fn run(args: &FaultsArgs, ui: &Ui) -> u8 {
    let backend = args.backend.into();
    ui.out(&if args.json { json(backend) } else { render(backend) });
    exit::PASSED
}

fn offers(backend: BackendKind) -> impl Iterator<Item = Offer> {
    let capabilities = capabilities(backend);
    CATALOGUE.iter().map(move |Entry { step, lacks, by, seen }| Offer {
        step,
        how: match lacks.and_then(|lacks| capabilities.lacks.get(lacks)) {
            Some(why) => How::Refused { refused: why },
            None => How::Offered {
                by: by[usize::from(backend == BackendKind::Kubernetes)],
                seen,
            },
        },
    })
}

/// The catalogue for programs.
#[must_use]
pub fn json(backend: BackendKind) -> String {
    let offers: Vec<Offer> = offers(backend).collect();
    serde_json::to_string_pretty(&offers).expect("strings alone")
}

/// The catalogue for people, with colours.
#[must_use]
pub fn render(backend: BackendKind) -> String {
    let mut text = format!("on the {} backend\n", capabilities(backend).backend);
    for Offer { step, how } in offers(backend) {
        let step = paint::bold(step);
        let words = match how {
            How::Refused { refused } => format!("\n{step}\n    {} {refused}\n", paint::warn("refused:")),
            How::Offered { by, seen } => format!("\n{step}\n    by    {by}\n    seen  {seen}\n"),
        };
        text.push_str(&words);
    }
    text.push_str("\nEach but `corrupt` is held under a lease, and reverts by itself when trialnet is gone.");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalogue_of_each_backend() {
        for (name, backend) in [("local", BackendKind::Local), ("kubernetes", BackendKind::Kubernetes)] {
            let (ui, captured) = Ui::memory();
            ui.out(&render(backend));
            insta::assert_snapshot!(name, captured.out());
        }
    }

    #[test]
    fn programs_are_told_the_same() {
        for backend in [BackendKind::Local, BackendKind::Kubernetes] {
            let (text, offers) = (render(backend), json(backend));
            let offers: Vec<serde_json::Value> = serde_json::from_str(&offers).unwrap();
            assert_eq!(offers.len(), CATALOGUE.len());
            for offer in &offers {
                let word = |key: &str| offer[key].as_str();
                assert!(text.contains(word("step").unwrap()), "{offer}");
                match (word("by"), word("seen"), word("refused")) {
                    (Some(by), Some(seen), None) => assert!(text.contains(by) && text.contains(seen), "{offer}"),
                    (None, None, Some(refused)) => assert!(text.contains(refused), "{offer}"),
                    _ => panic!("{offer}"),
                }
            }
        }
    }

    #[test]
    fn what_is_offered_says_by_whom() {
        for backend in [BackendKind::Local, BackendKind::Kubernetes] {
            let offers = capabilities(backend);
            for Entry { step, lacks, by, .. } in &CATALOGUE {
                let refused = lacks.is_some_and(|lacks| offers.lacks.contains_key(lacks));
                let by = by[usize::from(backend == BackendKind::Kubernetes)];
                assert_eq!(refused, by.is_empty(), "{step} on {}", offers.backend);
            }
        }
    }
}
