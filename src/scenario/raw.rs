//! The scenario file as it is written: tables of optional values, each with its place.
//!
//! These types are the one source of the language's words: the reader, the lists of known keys in messages and the JSON
//! schema come from them. Reading never stops at the first mistake. A value that cannot be read leaves its field empty and
//! a problem behind, so that everything else is still checked. (Serde stops at the first error, which is why it is not used here.)

mod read;
mod value;

use schemars::JsonSchema;

pub(super) use read::{At, read};
pub(super) use value::{Anything, Config, Down, Named, Power, Time};

use crate::model;

use read::{table, words};

/// A list of selectors: `"validator-0"`, `"group:validator"`, `"role:full"`, `"all"`, `"@id"` (the targets of an earlier fault),
/// each with `!` before it to leave these out.
pub(super) type Selectors = Vec<At<String>>;

table! {
    /// A trialnet scenario: a network, what happens to it, and what has to be seen.
    Scenario "the scenario" {
        needs {
            /// The version of the scenario language: 1.
            format: u64,
            /// What the scenario is called: lower-case letters, digits and dashes, at most 40.
            name: String,
            /// The network before the first step.
            network: Network,
            /// What happens, strictly in this order.
            steps: Vec<At<Step>>,
        }
        may {
            /// What the scenario shows, in a sentence.
            about: String,
            /// Where every random choice comes from. Left out: a random one, which is printed; `--seed` overrides it.
            seed: u64,
            /// What each version is, by its name; only for versions that the chain's adapter does not know.
            versions: Named<Version>,
            /// How long things may take.
            limits: Limits,
            /// What is judged all the time; each has a safe default.
            invariants: Invariants,
            /// What a test runner expects of this file; `run` keeps the true verdict.
            outcome: Outcome,
        }
    }
}

table! {
    /// The network before the first step.
    Network "`network`" {
        needs {
            /// Which chain the nodes run.
            chain: Chain,
            /// Groups of equal nodes, by name; the nodes are called `NAME-0`, `NAME-1`, …
            groups: Named<Group>,
        }
        may {
            /// The version that nodes run unless their group says otherwise.
            version: String,
            /// The interval between blocks that is asked of the chain, from 50ms to 60s.
            block_time: Time,
            /// Whether a node's data outlives its process; "volume" if left out.
            persistence: Persistence,
            /// The chain's own configuration keys, for every node.
            config: Config,
        }
    }
}

table! {
    /// A group of equal nodes.
    Group "a group" {
        needs {
            /// What the nodes do for consensus.
            role: Role,
        }
        may {
            /// How many nodes; 1 if left out.
            count: u64,
            /// Voting power: one number for each of the validators, or a list with one number a node; 10 if left out.
            power: Power,
            /// The version that these nodes run at first.
            version: String,
            /// Configuration keys over those of the network.
            config: Config,
            /// Whether the nodes start with the network or by a `start` step; "auto" if left out.
            start: Start,
        }
    }
}

table! {
    /// What a version is.
    Version "a version" {
        needs {}
        may {
            /// A program on PATH or a path to one, for the local backend.
            binary: String,
            /// An image, for backends that run images.
            image: String,
            /// What a node of this version calls itself over RPC.
            reports: String,
        }
    }
}

table! {
    /// How long things may take.
    Limits "`limits`" {
        needs {}
        may {
            /// From the first process to ready; 60s if left out.
            start: Time,
            /// From ready to the end of the last step; 10m if left out.
            run: Time,
            /// For the recovery that is judged after the last step; 30s if left out.
            settle: Time,
        }
    }
}

table! {
    /// What is judged all the time.
    Invariants "`invariants`" {
        needs {}
        may {
            /// The longest time without growth of the quorum's height, outside declared faults.
            max_stall: Time,
            /// The most blocks that a node may be behind the quorum's height, outside declared faults.
            max_lag: u64,
            /// Invariants that are not judged; printed beside the verdict.
            off: Vec<At<Invariant>>,
        }
    }
}

table! {
    /// What a test runner expects of a scenario that is meant to fail.
    Outcome "`outcome`" {
        needs {
            /// The verdict.
            verdict: Verdict,
        }
        may {
            /// The code of a finding that has to be there.
            code: String,
            /// The node that the finding is about.
            node: String,
        }
    }
}

table! {
    /// A step: exactly one action, and what goes with every step.
    Step "a step" {
        needs {}
        may {
            /// The name that other steps refer to; faults without one are called `step-N`.
            id: String,
            /// For people.
            name: String,
            /// Delays the step.
            when: When,
            /// Go on with the next step although this one's expectation failed.
            r#continue: bool,
            /// Do not wait for the step's end; for `load`, `wait`, `restart` and `expect`.
            background: bool,
            /// Ends nodes at once (SIGKILL) and holds them down.
            kill: Kill,
            /// Halts nodes (SIGSTOP).
            pause: Lasting,
            /// Ends nodes gracefully and holds them down.
            stop: Lasting,
            /// Starts nodes: late ones, stopped ones, killed ones.
            start: StartNodes,
            /// Stops nodes gracefully and starts them at once.
            restart: Restart,
            /// Cuts the links between sides.
            partition: Partition,
            /// Cuts all links of nodes.
            isolate: Isolate,
            /// Makes links slow.
            delay: Delay,
            /// Loses packets; only on backends that can do it honestly.
            loss: Anything,
            /// Ends faults, by their ids.
            heal: Vec<At<String>>,
            /// Lets time pass.
            wait: Time,
            /// Sends transactions at a rate.
            load: Load,
            /// Sends one transaction.
            tx: Tx,
            /// Tells devnodes to misbehave.
            misbehave: Misbehave,
            /// Waits for a background step.
            join: Join,
            /// Asks the judge.
            expect: Expect,
        }
    }
}

table! {
    /// Delays a step, by a height or by a time.
    When "`when`" {
        needs {}
        may {
            /// Until the quorum's height is at least this.
            height: u64,
            /// How long that may take.
            within: Time,
            /// For this long.
            after: Time,
        }
    }
}

table! {
    /// Ends nodes at once and holds them down.
    Kill "`kill`" {
        needs {}
        may {
            /// Which nodes; left out: all started nodes without a declared fault.
            nodes: Selectors,
            /// How many of them, by the seed: "1", "half", "f", "f+1", "minority" or "leader".
            pick: String,
            /// How long they are held down: a duration, "until-start" (if left out) or "platform".
            down: Down,
        }
    }
}

table! {
    /// A fault on nodes that lasts.
    Lasting "this fault" {
        needs {}
        may {
            /// Which nodes; left out: all started nodes without a declared fault.
            nodes: Selectors,
            /// How many of them, by the seed: "1", "half", "f", "f+1", "minority" or "leader".
            pick: String,
            /// For how long; left out: until `heal`, or the end of the run.
            r#for: Time,
        }
    }
}

table! {
    /// Starts nodes.
    StartNodes "`start`" {
        needs {
            /// Which nodes.
            nodes: Selectors,
        }
        may {}
    }
}

table! {
    /// Stops nodes gracefully and starts them at once.
    Restart "`restart`" {
        needs {}
        may {
            /// Which nodes; left out: all started nodes without a declared fault.
            nodes: Selectors,
            /// How many of them, by the seed: "1", "half", "f", "f+1", "minority" or "leader".
            pick: String,
        }
    }
}

table! {
    /// Cuts the links between sides.
    Partition "`partition`" {
        needs {
            /// The sides, each a list of nodes; no node on two.
            sides: Vec<At<Selectors>>,
        }
        may {
            /// What becomes of nodes on no side; left out: there may be none.
            others: Others,
            /// Which traffic is cut; "p2p" if left out.
            plane: Plane,
            /// For how long; left out: until `heal`, or the end of the run.
            r#for: Time,
            /// "both" if left out.
            direction: Direction,
        }
    }
}

table! {
    /// Cuts all links of nodes.
    Isolate "`isolate`" {
        needs {}
        may {
            /// Which nodes; left out: all started nodes without a declared fault.
            nodes: Selectors,
            /// How many of them, by the seed: "1", "half", "f", "f+1", "minority" or "leader".
            pick: String,
            /// Which traffic is cut; "p2p" if left out.
            plane: Plane,
            /// For how long; left out: until `heal`, or the end of the run.
            r#for: Time,
        }
    }
}

table! {
    /// Makes links slow: all links of some nodes, or those between two sets of nodes.
    Delay "`delay`" {
        needs {
            /// Added each way, from 1ms to 60s.
            latency: Time,
        }
        may {
            /// Which nodes; left out (and no `between`): all started nodes without a declared fault.
            nodes: Selectors,
            /// How many of them, by the seed: "1", "half", "f", "f+1" or "minority".
            pick: String,
            /// Two lists of nodes: only the links from the one to the other.
            between: Vec<At<Selectors>>,
            /// Uniform in ± around the latency, at most the latency.
            jitter: Time,
            /// For how long; left out: until `heal`, or the end of the run.
            r#for: Time,
        }
    }
}

table! {
    /// Sends transactions at a rate.
    Load "`load`" {
        needs {
            /// Transactions a second, above 0 and up to 10000.
            rate: f64,
            /// For how long.
            r#for: Time,
        }
        may {
            /// Bytes of a transaction, from 32 to 65536; 64 if left out.
            size: u64,
            /// The nodes that receive them, in turn; left out: all started nodes without a declared fault.
            nodes: Selectors,
        }
    }
}

table! {
    /// Sends one transaction: either `value` or `power`.
    Tx "`tx`" {
        needs {}
        may {
            /// A `key=value` of the built-in application.
            value: String,
            /// Changes a validator's voting power.
            power: TxPower,
            /// The node that receives it; left out: the first started node without a declared fault.
            node: String,
        }
    }
}

table! {
    /// Changes a validator's voting power.
    TxPower "`power`" {
        needs {
            /// The node whose key it is.
            validator: String,
            /// The new power; 0 removes the validator.
            to: u64,
        }
        may {}
    }
}

table! {
    /// Tells devnodes to misbehave.
    Misbehave "`misbehave`" {
        needs {
            /// What they do: a word, for some with `=VALUE`, then `@HEIGHT` if it begins at a height.
            how: String,
        }
        may {
            /// Which nodes; left out: all started nodes without a declared fault.
            nodes: Selectors,
            /// How many of them, by the seed: "1", "half", "f", "f+1", "minority" or "leader".
            pick: String,
            /// For how long; left out: until `heal`, or the end of the run.
            r#for: Time,
        }
    }
}

table! {
    /// Waits for a background step.
    Join "`join`" {
        needs {
            /// The background step's id.
            id: String,
            /// How long that may take.
            within: Time,
        }
        may {}
    }
}

table! {
    /// Asks the judge: exactly one question.
    Expect "`expect`" {
        needs {}
        may {
            /// The height of nodes, or of the quorum.
            height: Height,
            /// The quorum's height grows.
            progress: Progress,
            /// Nothing grows, because of a fault.
            halt: Halt,
            /// The targets of a fault are with the others again.
            recovery: Recovery,
            /// Blocks behind the quorum's height.
            lag: Numbers,
            /// Number of peers.
            peers: Numbers,
            /// What nodes call themselves.
            version: Is,
            /// The validator set.
            validators: Validators,
            /// A line in a node's log.
            log: Log,
            /// Restarts of a node's process that no step caused.
            restarts: Numbers,
            /// A transaction is committed, once, and on every node.
            tx: Committed,
        }
    }
}

table! {
    /// The height of nodes; without `nodes`, the height that a quorum has reached.
    Height "`height`" {
        needs {}
        may {
            /// At least so high.
            at_least: u64,
            /// At most so high.
            at_most: u64,
            /// Of which nodes.
            nodes: Selectors,
            /// At some moment before this limit.
            within: Time,
            /// All the time for this long.
            r#for: Time,
            /// At no moment to the end of the run.
            never: bool,
        }
    }
}

table! {
    /// The quorum's height grows by so many blocks from the step's start.
    Progress "`progress`" {
        needs {
            /// How many, at least 1.
            blocks: u64,
            /// How long that may take.
            within: Time,
        }
        may {}
    }
}

table! {
    /// Nothing grows from the moment that the fault's effect was verified, plus one block time.
    Halt "`halt`" {
        needs {
            /// The id of the fault that causes it.
            of: String,
            /// For how long.
            r#for: Time,
        }
        may {}
    }
}

table! {
    /// All targets of a fault (of a partition: all nodes) are with the others again.
    Recovery "`recovery`" {
        needs {
            /// The id of the fault.
            of: String,
            /// How long that may take.
            within: Time,
        }
        may {}
    }
}

table! {
    /// A number between bounds.
    Numbers "this expectation" {
        needs {}
        may {
            /// At least so many.
            at_least: u64,
            /// At most so many.
            at_most: u64,
            /// Of which nodes; left out: all started nodes without a declared fault.
            nodes: Selectors,
            /// At some moment before this limit.
            within: Time,
            /// All the time for this long.
            r#for: Time,
            /// At no moment to the end of the run.
            never: bool,
        }
    }
}

table! {
    /// What nodes call themselves.
    Is "`version`" {
        needs {
            /// Exactly this.
            is: String,
        }
        may {
            /// Of which nodes; left out: all started nodes without a declared fault.
            nodes: Selectors,
            /// At some moment before this limit.
            within: Time,
            /// All the time for this long.
            r#for: Time,
            /// At no moment to the end of the run.
            never: bool,
        }
    }
}

table! {
    /// The validator set as nodes report it.
    Validators "`validators`" {
        needs {}
        may {
            /// How many there are.
            count: u64,
            /// The voting power of these nodes.
            powers: Named<u64>,
            /// As which nodes report it; left out: all started nodes without a declared fault.
            nodes: Selectors,
            /// At some moment before this limit.
            within: Time,
            /// All the time for this long.
            r#for: Time,
            /// At no moment to the end of the run.
            never: bool,
        }
    }
}

table! {
    /// A line of a node's log.
    Log "`log`" {
        needs {
            /// Text that the line contains.
            contains: String,
        }
        may {
            /// Of which nodes; left out: all started nodes without a declared fault.
            nodes: Selectors,
            /// At some moment before this limit.
            within: Time,
            /// At no moment to the end of the run.
            never: bool,
        }
    }
}

table! {
    /// A transaction is committed, once, and on every node.
    Committed "`tx`" {
        needs {
            /// The id of the `tx` step.
            of: String,
            /// How long that may take.
            within: Time,
        }
        may {}
    }
}

words! {
    /// Which chain the nodes run.
    Chain "chain" -> model::ChainKind {
        /// Trialnet's own small BFT chain; nothing has to be installed.
        "devnode" => model::ChainKind::Devnode,
        /// CometBFT with its built-in key-value application.
        "cometbft" => model::ChainKind::Cometbft,
    } later {
        "ethereum", "cosmos-sdk", "cita-cloud", "custom",
    }
}

words! {
    /// What a node does for consensus.
    Role "role" -> model::Role {
        /// Votes with its power.
        "validator" => model::Role::Validator,
        /// Follows and relays.
        "full" => model::Role::Full,
    } later { "seed", "light", }
}

words! {
    /// When a node is started.
    Start "start" -> model::Start {
        /// With the network.
        "auto" => model::Start::Auto,
        /// By a `start` step.
        "manual" => model::Start::Manual,
    } later {}
}

words! {
    /// Whether a node's data outlives its process.
    Persistence "persistence" -> model::Persistence {
        /// Data stays when the process is killed or replaced.
        "volume" => model::Persistence::Volume,
        /// Data goes with the process.
        "ephemeral" => model::Persistence::Ephemeral,
    } later {}
}

words! {
    /// Which traffic a cut concerns.
    Plane "plane" -> model::Plane {
        /// Links between nodes.
        "p2p" => model::Plane::P2p,
        /// Also what trialnet itself sees over RPC.
        "all" => model::Plane::All,
    } later {}
}

words! {
    /// What becomes of nodes on no side of a partition: `false` each alone, `true` with the first side.
    Others "others" -> bool {
        /// Each of them is on a side of its own.
        "alone" => false,
        /// They are on the first side.
        "with-first" => true,
    } later {}
}

words! {
    /// Which way a cut goes: whether one way only.
    Direction "direction" -> bool {
        /// Nothing passes either way.
        "both" => false,
        /// Packets pass one way only; only on backends that can do it honestly.
        "one-way" => true,
    } later {}
}

words! {
    /// Something that is judged all the time.
    Invariant "invariant" -> model::Invariant {
        /// One hash at a height on all nodes.
        "fork" => model::Invariant::Fork,
        /// One application state at a height on all nodes.
        "app-state" => model::Invariant::AppState,
        /// The hash that a node gave for a height never changes.
        "hash-change" => model::Invariant::HashChange,
        /// A node's height never goes back.
        "height-back" => model::Invariant::HeightBack,
        /// The parent of block h+1 is block h.
        "parent-link" => model::Invariant::ParentLink,
        /// A side without quorum does not grow.
        "minority" => model::Invariant::Minority,
        /// The limit `max_stall`.
        "max-stall" => model::Invariant::MaxStall,
        /// The limit `max_lag`.
        "max-lag" => model::Invariant::MaxLag,
        /// No exit or restart that no step caused.
        "restarts" => model::Invariant::Restarts,
        /// Every height compared on two nodes or more.
        "coverage" => model::Invariant::Coverage,
    } later {}
}

words! {
    /// The verdict of a run.
    Verdict "verdict" -> model::verdict::Verdict {
        /// The chain broke its own promise.
        "safety-violated" => model::verdict::Verdict::SafetyViolated,
        /// The chain did not go on where it had to.
        "liveness-failed" => model::verdict::Verdict::LivenessFailed,
        /// An expectation of the file was not met.
        "expectation-failed" => model::verdict::Verdict::ExpectationFailed,
        /// Something outside the chain failed.
        "infrastructure" => model::verdict::Verdict::Infrastructure,
        /// Somebody ended the run.
        "interrupted" => model::verdict::Verdict::Interrupted,
        /// Evidence is missing and no cause is known.
        "inconclusive" => model::verdict::Verdict::Inconclusive,
        /// Everything was evaluated and held.
        "passed" => model::verdict::Verdict::Passed,
    } later {}
}
