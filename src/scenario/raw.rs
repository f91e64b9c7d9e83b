//! The scenario file as it is written: tables of optional values, each with its place.
//!
//! These types are the one source of the language's words: the reader, the lists of known keys in messages and the JSON
//! schema come from them. Reading never stops at the first mistake. A value that cannot be read leaves its field empty and
//! a problem behind, so that everything else is still checked. (Serde stops at the first error, which is why it is not used here.)

mod read;
mod value;

use schemars::JsonSchema;

pub(super) use read::{At, read};
pub(super) use value::{Config, Down, Latency, Named, Power, Rate, Time};

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
            /// A rehearsal: faults at moments that the seed decides, beside the steps and within a budget.
            chaos: Chaos,
            /// What single backends need to know; the others pass it over.
            backend: Backend,
            /// From where the nodes are observed.
            observe: Observe,
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
            /// Your own application, beside each node and reached over a unix socket, instead of the built-in one; for CometBFT.
            app: App,
            /// Where the validators' keys are made; "seed" if left out.
            keys: Keys,
            /// The nodes are pods that somebody else made; only on Kubernetes.
            attach: Attach,
        }
    }
}

table! {
    /// An application that runs as a component `app` beside each node, over a unix socket.
    App "`app`" {
        needs {}
        may {
            /// A program on PATH or a path to one.
            binary: String,
            /// An image, for backends that run images; then `program` says what runs in it.
            image: String,
            /// The program's name or path in the image.
            program: String,
            /// Its arguments; `{socket}` stands for the path of the unix socket at which it has to listen.
            args: Vec<At<String>>,
            /// Its environment.
            env: Named<String>,
        }
    }
}

table! {
    /// Pods that somebody else made are the nodes: those that match, in the natural order of their names, are the nodes of the
    /// groups in the order of the file. They are named, observed, judged and deleted like any other, and left as they were found.
    Attach "`attach`" {
        needs {
            /// The namespace that they are in.
            namespace: String,
            /// A label selector as Kubernetes writes it, for example "app=node,tier!=seed".
            selector: String,
        }
        may {
            /// Where their RPC listens; the chain's usual port if left out.
            rpc_port: u64,
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
            /// What each of the nodes' components asks of a cluster.
            resources: Resources,
        }
    }
}

table! {
    /// What a component asks of a cluster, as Kubernetes writes quantities; means nothing on this machine.
    Resources "`resources`" {
        needs {}
        may {
            /// Requested, for example "50m".
            cpu: String,
            /// Requested, for example "128Mi".
            memory: String,
            /// At most.
            cpu_limit: String,
            /// At most.
            memory_limit: String,
        }
    }
}

table! {
    /// What single backends need to know.
    Backend "`backend`" {
        needs {}
        may {
            /// How and where the Kubernetes backend runs the network.
            kubernetes: Kubernetes,
        }
    }
}

table! {
    /// How and where the Kubernetes backend runs the network; flags of the command line go before.
    Kubernetes "`backend.kubernetes`" {
        needs {}
        may {
            /// What kind of cluster it is; left out: as the context shows.
            provider: Provider,
            /// The context of the kubeconfig; left out: the current one, if it is local.
            context: String,
            /// The cluster's name, for kind and minikube.
            cluster: String,
            /// The node image of a kind cluster that trialnet makes.
            node_image: String,
            /// The storage class of the volumes; left out: the cluster's default.
            storage_class: String,
            /// The size of each volume, for example "1Gi", which it is if left out. With `persistence = "memory"` that is "64Mi".
            storage: String,
            /// When images are pulled.
            pull_policy: PullPolicy,
            /// What trialnet's own image is called in a registry (`trialnet image` makes it); needed where nothing can be loaded: "existing".
            own_image: String,
            /// Secrets with registry credentials, "namespace/name" or a name in the namespace `default`; they are copied for the pods.
            pull_secrets: Vec<At<String>>,
            /// Hard limits of the namespace, for example { "requests.cpu" = "2" }.
            quota: Named<String>,
        }
    }
}

table! {
    /// From where the nodes are observed.
    Observe "`observe`" {
        needs {}
        may {
            /// "here" if left out: from trialnet's own process. "cluster": from a pod beside the nodes.
            from: ObserveFrom,
        }
    }
}

table! {
    /// What a version is.
    Version "a version" {
        needs {}
        may {
            /// A program on PATH or a path to one. A backend that runs images makes one from it if the file gives none.
            binary: String,
            /// An image, for backends that run images.
            image: String,
            /// The program's name or path in the image; left out: as in the chain's own image.
            program: String,
            /// The user that runs it in the image, by number; 1000 if left out.
            user: u64,
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
            /// Go on with the next step although this one's expectation failed; for `expect` and `upgrade`.
            r#continue: bool,
            /// Do not wait for the step's end; for `load`, `wait`, `restart`, `upgrade` and `expect`.
            background: bool,
            /// Ends nodes at once (SIGKILL) and holds them down; or deletes their pods.
            kill: Kill,
            /// Halts nodes (SIGSTOP).
            pause: Lasting,
            /// Drains the machines of the cluster on which nodes are; only on backends with machines.
            drain: Drain,
            /// Makes the machines of the cluster fail on which nodes are; only on kind clusters.
            machine: Machine,
            /// Ends nodes gracefully and holds them down.
            stop: Stop,
            /// Starts nodes: late ones, stopped ones, killed ones.
            start: StartNodes,
            /// Stops nodes gracefully and starts them at once.
            restart: Restart,
            /// Moves nodes to another version, on the data that they have.
            upgrade: Upgrade,
            /// Cuts the links between sides.
            partition: Partition,
            /// Cuts all links of nodes.
            isolate: Isolate,
            /// Makes links slow.
            delay: Delay,
            /// Loses packets; only on backends that can do it honestly.
            loss: Loss,
            /// Bounds the rate of links; only on backends that can do it honestly.
            bandwidth: Bandwidth,
            /// Uses processors and memory beside the programs of nodes; only on backends where these have limits.
            stress: Stress,
            /// Fills the volumes of nodes; only on backends where these have a size.
            fill: Fill,
            /// Ends nodes and starts them on a volume that nobody can write to; only in a cluster.
            read_only: Lasting,
            /// Damages files of nodes that are held down.
            corrupt: Corrupt,
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
    /// A rehearsal: faults beside the steps, drawn from the seed (`every`, `duration`) or as `schedule` says. Times count from *ready*;
    /// the run goes on until the last of them is over. What finds no room when its time comes is left out, and the records say why.
    Chaos "`chaos`" {
        needs {}
        may {
            /// For how long faults begin.
            duration: Time,
            /// The mean time from the beginning of one fault to that of the next, at least 50ms.
            every: Time,
            /// How long each lasts: the shortest and the longest; ["500ms", "3s"] if left out.
            r#for: Vec<At<Time>>,
            /// The kinds of faults, each with a weight, for example { kill = 2, pause = 1 }; left out: all alike.
            kinds: Kinds,
            /// Which nodes; left out: all that start with the network.
            nodes: Selectors,
            /// What may be struck at once: "f" (if left out), as much as the chain's engine tolerates, or a number of nodes such as
            /// "1", and still never more than f unless `halts = true`.
            budget: String,
            /// The chain may halt; then `budget` is a number of nodes.
            halts: bool,
            /// How slow a `delay` makes links: the least and the most; ["20ms", "200ms"] if left out.
            latency: Vec<At<Time>>,
            /// For so long after the end of its fault a node still counts against the budget when the schedule is drawn: it has to catch
            /// up; 3s if left out.
            margin: Time,
            /// The targets of each fault have to be with the others again so long after its end; the limit `settle` if left out.
            recovery: Time,
            /// The schedule itself, instead of drawing one.
            schedule: Vec<At<Scheduled>>,
        }
    }
}

table! {
    /// How often each kind of fault is drawn, in proportion.
    Kinds "`kinds`" {
        needs {}
        may {
            /// SIGKILL, and held down.
            kill: u64,
            /// SIGSTOP.
            pause: u64,
            /// SIGTERM, and held down.
            stop: u64,
            /// Stopped and started at once.
            restart: u64,
            /// Each of some nodes alone.
            isolate: u64,
            /// Some nodes from the rest.
            partition: u64,
            /// Slow links of some nodes.
            delay: u64,
        }
    }
}

table! {
    /// A fault of a schedule: exactly one, on nodes that are named, and one that ends by itself.
    Scheduled "a fault of a schedule" {
        needs {
            /// When it begins, from *ready*.
            at: Time,
        }
        may {
            /// What it is called; `chaos-N` if left out.
            id: String,
            /// Ends nodes at once (SIGKILL) and holds them down for a time.
            kill: Kill,
            /// Halts nodes (SIGSTOP).
            pause: Lasting,
            /// Ends nodes gracefully and holds them down.
            stop: Stop,
            /// Stops nodes gracefully and starts them at once.
            restart: Restart,
            /// Cuts the links between sides.
            partition: Partition,
            /// Cuts all links of nodes.
            isolate: Isolate,
            /// Makes links slow.
            delay: Delay,
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
            /// How long that may take; with `height` and `progress_of`.
            within: Time,
            /// For this long.
            after: Time,
            /// Until so much of this `upgrade` in the background is done.
            progress_of: String,
            /// How many of its nodes have passed their gates; with `progress_of`.
            nodes_done: u64,
        }
    }
}

table! {
    /// Ends nodes at once and holds them down; or deletes their pods, which the platform makes anew.
    Kill "`kill`" {
        needs {}
        may {
            /// Which nodes; left out: all started nodes without a declared fault.
            nodes: Selectors,
            /// How many of them, by the seed: "1", "half", "f", "f+1", "minority" or "leader".
            pick: String,
            /// How long they are held down: a duration, "until-start" (if left out) or "platform": whatever the platform does by
            /// itself. A process of this machine stays dead; a container is started again at once by the kubelet.
            down: Down,
            /// What ends: the "process" (if left out), or the pod.
            how: How,
            /// With `how = "delete"`: how long the processes have to end, in whole seconds.
            grace: Time,
            /// Only this component of each node, for example "app"; left out: all.
            component: String,
            /// Their data is lost with them. Needed where `persistence = "ephemeral"`, and of pods where it is "memory"; see `unsafe_double_sign`.
            wipe: bool,
            /// With `how = "evict"`: the disruption budget must refuse it, and nothing dies.
            refused: bool,
            /// A validator without its data has forgotten what it signed, and may sign for one height twice. `wipe` of a
            /// validator is refused unless this says that it is meant.
            unsafe_double_sign: bool,
            /// Strike again so long after the effect was seen the first time, and again; with `times`. Needs a fault that ends by itself.
            every: Time,
            /// How many times in all, from 2 to 1000; with `every`.
            times: u64,
        }
    }
}

table! {
    /// The machines of the cluster on which nodes are take no more pods, and the nodes' pods are evicted from them, as the disruption
    /// budget lets them go. Each of these nodes has a machine on which no other node of the network is. Its pod waits until the
    /// machine takes pods again, unless another one is free and the node's volumes are not bound to the first.
    Drain "`drain`" {
        needs {}
        may {
            /// The nodes whose machines are drained; left out: those of all started nodes without a declared fault.
            nodes: Selectors,
            /// How many of them, by the seed: "1", "half", "f", "f+1" or "minority".
            pick: String,
            /// For how long; left out: until `heal`, or the end of the run.
            r#for: Time,
            /// The disruption budget must refuse to let any of them go for some seconds; then the machines take pods again.
            refused: bool,
            /// Their data is lost. Needed where `persistence = "ephemeral"`; see `unsafe_double_sign` of `kill`.
            wipe: bool,
            /// As in `kill`.
            unsafe_double_sign: bool,
        }
    }
}

table! {
    /// The machines of the cluster on which nodes are fail: of a kind cluster, their containers. Each of these nodes has a machine on which no
    /// other node of the network is.
    Machine "`machine`" {
        needs {
            /// "stop": it is off, and everything on it has ended; "pause": it halts, and nothing on it moves.
            how: Fails,
        }
        may {
            /// The nodes whose machines fail; left out: those of all started nodes without a declared fault.
            nodes: Selectors,
            /// How many of them, by the seed: "1", "half", "f", "f+1" or "minority".
            pick: String,
            /// For how long; left out: until `heal`, or the end of the run.
            r#for: Time,
        }
    }
}

table! {
    /// Ends nodes gracefully and holds them down.
    Stop "`stop`" {
        needs {}
        may {
            /// Which nodes; left out: all started nodes without a declared fault.
            nodes: Selectors,
            /// How many of them, by the seed: "1", "half", "f", "f+1", "minority" or "leader".
            pick: String,
            /// For how long; left out: until `heal`, or the end of the run.
            r#for: Time,
            /// Their data is lost. Needed where `persistence = "ephemeral"`; see `unsafe_double_sign` of `kill`.
            wipe: bool,
            /// As in `kill`.
            unsafe_double_sign: bool,
            /// As in `kill`.
            every: Time,
            /// As in `kill`.
            times: u64,
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
            /// As in `kill`.
            every: Time,
            /// As in `kill`.
            times: u64,
            /// What becomes of it when another pod or container takes a target's place; "reapply" if left out. Only where nodes are pods.
            on_restart: OnRestart,
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
            /// Their data is lost. Needed where `persistence = "ephemeral"`; see `unsafe_double_sign` of `kill`.
            wipe: bool,
            /// As in `kill`.
            unsafe_double_sign: bool,
        }
    }
}

table! {
    /// Moves nodes to another version (an older one is one too), on the data that they have: batch by batch, each has to pass a gate before the next
    /// begins.
    Upgrade "`upgrade`" {
        needs {
            /// The version to which they move: one that the chain's adapter knows, or one of `versions`.
            to: String,
        }
        may {
            /// Which nodes; left out: all started nodes without a declared fault that run another version.
            nodes: Selectors,
            /// Which of them at once; "rolling" if left out.
            strategy: Strategy,
            /// How many at once; for "batch", which needs it, and for what follows the first node of a "canary" (1 if left out).
            batch: u64,
            /// Time between a batch that has passed its gate and the next; none if left out.
            pause: Time,
            /// What each batch has to show before the next.
            gate: Gate,
            /// At most so many nodes are away at once, and the network has to go on without any so many of them.
            max_unavailable: u64,
            /// What follows when a node does not come back, says another version or does not pass its gate; "stop" if left out.
            on_failure: OnFailure,
            /// What each of them calls itself afterwards; left out: what its version `reports`.
            expect_version: String,
        }
    }
}

table! {
    /// What a batch of an upgrade has to show: its nodes are with the others again, beyond the highest height of the moment at which they answered,
    /// and the network has grown.
    Gate "`gate`" {
        needs {}
        may {
            /// The quorum's height grows by this much, at least 1; 2 if left out.
            grow: u64,
            /// How long that may take, from the moment at which they answer; the limit `start` if left out.
            within: Time,
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
            /// As in `kill`.
            every: Time,
            /// As in `kill`.
            times: u64,
            /// As in `pause`.
            on_restart: OnRestart,
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
            /// As in `kill`.
            every: Time,
            /// As in `kill`.
            times: u64,
            /// As in `pause`.
            on_restart: OnRestart,
        }
    }
}

table! {
    /// Makes links slow: all links of some nodes, those between two sets of nodes, or those between regions.
    Delay "`delay`" {
        needs {
            /// Added each way, from 1ms to 60s; with `regions` a table, for example { eu-us = "40ms", eu-ap = "120ms", us-ap = "90ms" }.
            latency: Latency,
        }
        may {
            /// Which nodes; left out (and no `between`): all started nodes without a declared fault.
            nodes: Selectors,
            /// How many of them, by the seed: "1", "half", "f", "f+1" or "minority".
            pick: String,
            /// Two lists of nodes: only the links from the one to the other.
            between: Vec<At<Selectors>>,
            /// Regions by name, each a list of nodes: links from one region to another are as slow as `latency` says of the two.
            regions: Named<Selectors>,
            /// Uniform in ± around the latency, at most the latency.
            jitter: Time,
            /// For how long; left out: until `heal`, or the end of the run.
            r#for: Time,
            /// As in `kill`.
            every: Time,
            /// As in `kill`.
            times: u64,
            /// As in `pause`.
            on_restart: OnRestart,
        }
    }
}

table! {
    /// Loses packets: on all links of some nodes, or on those between two sets of nodes.
    Loss "`loss`" {
        needs {
            /// How many of a hundred packets, each way and each packet by itself, from 1 to 90.
            percent: f64,
        }
        may {
            /// Which nodes; left out (and no `between`): all started nodes without a declared fault.
            nodes: Selectors,
            /// How many of them, by the seed: "1", "half", "f", "f+1" or "minority".
            pick: String,
            /// Two lists of nodes: only the links from the one to the other.
            between: Vec<At<Selectors>>,
            /// For how long; left out: until `heal`, or the end of the run.
            r#for: Time,
            /// As in `kill`.
            every: Time,
            /// As in `kill`.
            times: u64,
            /// As in `pause`.
            on_restart: OnRestart,
        }
    }
}

table! {
    /// Bounds what passes over links: packets beyond the rate are lost. On all links of some nodes, or on those between two sets of nodes.
    Bandwidth "`bandwidth`" {
        needs {
            /// What passes in a second from each node to each other, each way, from "100kbit" to "100mbit".
            rate: Rate,
        }
        may {
            /// Which nodes; left out (and no `between`): all started nodes without a declared fault.
            nodes: Selectors,
            /// How many of them, by the seed: "1", "half", "f", "f+1" or "minority".
            pick: String,
            /// Two lists of nodes: only the links from the one to the other.
            between: Vec<At<Selectors>>,
            /// For how long; left out: until `heal`, or the end of the run.
            r#for: Time,
            /// As in `kill`.
            every: Time,
            /// As in `kill`.
            times: u64,
            /// As in `pause`.
            on_restart: OnRestart,
        }
    }
}

table! {
    /// Uses processors and memory beside each program of nodes, in its container and under the limits of that: `cpu`, `memory`, or both.
    Stress "`stress`" {
        needs {}
        may {
            /// Which nodes; left out: all started nodes without a declared fault.
            nodes: Selectors,
            /// How many of them, by the seed: "1", "half", "f", "f+1" or "minority".
            pick: String,
            /// How many threads want a processor all the time, from 1 to 64.
            cpu: u64,
            /// How much memory is held, as Kubernetes writes it, for example "128Mi". The nodes need a larger `memory_limit`.
            memory: String,
            /// For how long; left out: until `heal`, or the end of the run.
            r#for: Time,
            /// As in `kill`.
            every: Time,
            /// As in `kill`.
            times: u64,
            /// As in `pause`.
            on_restart: OnRestart,
        }
    }
}

table! {
    /// Fills the first volume of nodes, which has a size of its own: what they write may fail, and they may end for it. Who has ended is started when it is over.
    Fill "`fill`" {
        needs {
            /// How much of it is used at least, in percent, from 1 to 100.
            percent: u64,
        }
        may {
            /// Which nodes; left out: all started nodes without a declared fault.
            nodes: Selectors,
            /// How many of them, by the seed: "1", "half", "f", "f+1" or "minority".
            pick: String,
            /// For how long; left out: until `heal`, or the end of the run.
            r#for: Time,
            /// As in `kill`.
            every: Time,
            /// As in `kill`.
            times: u64,
            /// As in `pause`.
            on_restart: OnRestart,
        }
    }
}

table! {
    /// Turns over bits in files of nodes that are held down. Nobody takes that back: a declared loss, after which heights may begin anew.
    Corrupt "`corrupt`" {
        needs {
            /// Which nodes; all are held down by an earlier `kill` or `stop`.
            nodes: Selectors,
            /// Which files, below the node's first volume, which is its home; `*` stands for any part of a name: "data/cs.wal/*".
            file: String,
        }
        may {
            /// How many bytes of each file, by the seed, from 1 to 4096; 16 if left out.
            bytes: u64,
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
        /// Ethereum: geth with Clique, the proof of authority.
        "ethereum" => model::ChainKind::Ethereum,
    } later {
        "cosmos-sdk", "cita-cloud", "custom",
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
        /// Data stays when the process is killed or replaced, and goes with the pod: volumes of memory, of the size `storage`.
        "memory" => model::Persistence::Memory,
        /// Data goes with the process.
        "ephemeral" => model::Persistence::Ephemeral,
    } later {}
}

/// What a `kill` ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ends {
    Process,
    Pod,
    PodByForce,
    PodByEviction,
}

words! {
    /// What a `kill` ends.
    How "how" -> Ends {
        /// The process, by SIGKILL.
        "process" => Ends::Process,
        /// The pod is deleted with a grace; the platform makes a new one.
        "delete" => Ends::Pod,
        /// The pod is deleted without waiting for its processes: for a moment a node may run twice.
        "force-delete" => Ends::PodByForce,
        /// The pod is evicted, as when a machine is drained; the disruption budget may refuse it.
        "evict" => Ends::PodByEviction,
    } later {}
}

words! {
    /// Which nodes of an upgrade at once.
    Strategy "strategy" -> model::upgrade::Strategy {
        /// One node after the other.
        "rolling" => model::upgrade::Strategy::Rolling,
        /// As many at once as `batch` says.
        "batch" => model::upgrade::Strategy::Batch,
        /// One node first, then the others, as many at once as `batch` says.
        "canary" => model::upgrade::Strategy::Canary,
        /// All at once.
        "all-at-once" => model::upgrade::Strategy::AllAtOnce,
    } later { "at-height", }
}

words! {
    /// What follows when an upgrade fails on a node.
    OnFailure "on_failure" -> model::upgrade::OnFailure {
        /// Everything stays as it is, and the step has failed.
        "stop" => model::upgrade::OnFailure::Stop,
        /// What was moved goes back to the version that it had, the last batch first, and the step has failed.
        "rollback" => model::upgrade::OnFailure::Rollback,
    } later {}
}

words! {
    /// How a machine fails.
    Fails "how" -> model::Outage {
        /// It is off: everything on it has ended.
        "stop" => model::Outage::Stop,
        /// It halts: nothing on it moves.
        "pause" => model::Outage::Pause,
    } later {}
}

words! {
    /// Where the validators' keys are made.
    Keys "keys" -> model::Keys {
        /// By trialnet, from the seed.
        "seed" => model::Keys::Seed,
        /// By the chain's own program where the node runs, once; they outlive every kill and never leave the node.
        "in-place" => model::Keys::InPlace,
    } later {}
}

words! {
    /// What kind of cluster it is.
    Provider "provider" -> model::Provider {
        /// Kubernetes in docker: images are loaded into its nodes.
        "kind" => model::Provider::Kind,
        /// minikube: images are loaded by its own program.
        "minikube" => model::Provider::Minikube,
        /// Any other cluster: images come from a registry.
        "existing" => model::Provider::Existing,
    } later {}
}

words! {
    /// When images are pulled.
    PullPolicy "pull_policy" -> model::PullPolicy {
        /// Each time.
        "always" => model::PullPolicy::Always,
        /// Unless the node has it.
        "if-not-present" => model::PullPolicy::IfNotPresent,
        /// Not at all.
        "never" => model::PullPolicy::Never,
    } later {}
}

words! {
    /// Where the observer runs.
    ObserveFrom "from" -> model::ObserveFrom {
        /// In trialnet's own process.
        "here" => model::ObserveFrom::Here,
        /// In a pod of the namespace: it asks the nodes without the API server in between, and still sees them when that is out.
        "cluster" => model::ObserveFrom::Cluster,
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
        /// Packets from the first of two sides to the second are lost, those back pass; only on backends that can do it honestly.
        "one-way" => true,
    } later {}
}

words! {
    /// What becomes of a fault when another pod or container takes a target's place.
    OnRestart "on_restart" -> model::OnRestart {
        /// It goes on: whoever takes the target's place suffers it too.
        "reapply" => model::OnRestart::Reapply,
        /// It is over for that target.
        "drop" => model::OnRestart::Drop,
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
