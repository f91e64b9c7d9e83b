//! Every code that a finding can carry, for `trialnet explain`.

/// Code, title, and what to make of it.
pub const CODES: &[(&str, &str, &str)] = &[
    // Safety.
    (
        "safety/fork",
        "two nodes gave different blocks for one height",
        "Every height is compared as soon as two nodes have given it, also for nodes that were killed since. The node that is named is in the smaller group; both headers stand in the finding. On a BFT chain this takes more than a third of the power acting wrongly, or a node that reports what it did not commit. On Ethereum a height is compared once so many blocks stand on it that it counts as final (half of the sealers and one); what is above may differ and is no fork.",
    ),
    (
        "safety/app-state",
        "two nodes have different application states at one height",
        "The same blocks have led to different states: the application is not deterministic, or a node runs another version of it, or its data is damaged. The node that is named is in the smaller group.",
    ),
    (
        "safety/hash-change",
        "a node gave another hash for a height than before",
        "A committed block was replaced on this node, or the node does not report what it has. On Ethereum this is a reorganisation deeper than blocks that count as final.",
    ),
    (
        "safety/height-back",
        "a node's height went back",
        "A node may begin anew only when its data was removed by a step. Lost writes, a restored snapshot or a rollback show like this. On Ethereum a height may go back by less than the depth at which blocks count as final.",
    ),
    (
        "safety/parent-link",
        "a block does not follow from the block below it",
        "The parent that a node gave in the header of h+1 is not the hash that it gave for h.",
    ),
    (
        "safety/minority-growth",
        "a side without a quorum went on by itself",
        "While a verified fault cut this side from the rest it passed the highest height at the cut by more than the blocks that may have been under way. If the fault later turns out to have had no effect, this counts as infrastructure.",
    ),
    (
        "safety/grew-without-quorum",
        "the chain grew although no side had a quorum",
        "Under the verified faults that were on no group of connected nodes held enough power to decide, and yet a height appeared above the highest at the cut and the blocks that may have been under way.",
    ),
    (
        "safety/tx-lost",
        "a committed transaction is gone",
        "A node that had reported the transaction as committed does not know it any more, and its data was not removed by a step.",
    ),
    // Liveness.
    (
        "liveness/stall",
        "the quorum's height did not grow for too long",
        "By the arithmetic of quorums the network had to go on under the faults that may have been on, and did not for longer than `max_stall`. Time begins anew with each change of the faults.",
    ),
    (
        "liveness/lag",
        "a node is too far behind",
        "Three samples in a row were more than `max_lag` blocks behind the quorum's height, and no declared fault explains it.",
    ),
    (
        "liveness/silent",
        "a node does not answer",
        "Its RPC refused or broke connections, or gave something else than an answer, for longer than three seconds, and no declared fault is on it.",
    ),
    (
        "liveness/hang",
        "a node takes requests and does not answer them",
        "Connections to its RPC are accepted, and no answer came in time for longer than three seconds, and no declared fault is on it.",
    ),
    (
        "liveness/garbage",
        "a node gives an answer that cannot be true",
        "For longer than three seconds it reported a validator set that is empty or has no voting power, and no declared fault is on it. Under such a set nothing could be decided, so it is never believed: the powers that were known before go on to count.",
    ),
    (
        "liveness/exit",
        "a process ended that no step ended",
        "The exit code or signal and the last lines of its log stand in the finding; the whole log is in the run folder.",
    ),
    (
        "liveness/restart",
        "a process was started again and no step did it",
        "Something restarted the node: look for an earlier exit, and at what supervises the process.",
    ),
    (
        "liveness/not-recovered",
        "a node was not with the others again in time",
        "After the last step all faults end. Within `limits.settle` every node has to pass the highest height of that moment and stay within `max_lag` for three samples. After each fault of a rehearsal the same is asked of its targets, within `recovery` of `[chaos]`.",
    ),
    // Upgrades.
    (
        "upgrade/exited",
        "the process of an upgraded node ended by itself",
        "It was started as the other version on the data that it has, and ended before it had passed its gate. How, and its last lines, stand in the finding; the whole log is in the run folder. Most often the new version cannot read what the old one has written, or does not take its configuration.",
    ),
    (
        "upgrade/silent",
        "an upgraded node does not answer",
        "Its process was started as the other version, runs, and did not answer over RPC within `limits.start`.",
    ),
    (
        "upgrade/version",
        "an upgraded node calls itself another version than expected",
        "Over RPC it does not say what its version `reports`, or what `expect_version` says: another program runs than the one that was meant, or it carries the number of another release.",
    ),
    (
        "upgrade/gate",
        "an upgraded node, or the network with it, does not go on",
        "Its gate was not passed in time: the nodes of the batch have to be with the others again, beyond the highest height of the moment at which they answered, and the quorum's height has to grow by `gate.grow` within `gate.within`. The node that is named is not with the others; without a name it is the network that does not grow.",
    ),
    (
        "upgrade/rollback-failed",
        "a node could not go back to the version that it had",
        "The upgrade had failed, and its way back has failed too: the older version did not start on the data that the newer one has written, did not answer, says that it is another one, or does not follow. Nothing more is taken back then, since to take further nodes away could cost the network its quorum.",
    ),
    // Expectations.
    (
        "expect/not-refused",
        "an eviction went through that the disruption budget had to refuse",
        "The step says `refused = true`: the namespace's PodDisruptionBudget must not let this pod go, because the network would lose its quorum. The API server evicted it all the same: look at the budget's `minAvailable` and at how many pods it counts as healthy.",
    ),
    (
        "expect/height",
        "the height is not as expected",
        "Without `nodes` the quorum's height is meant, with `nodes` the height of each.",
    ),
    (
        "expect/progress",
        "the chain did not go on as expected",
        "The quorum's height did not grow by as many blocks as the step asks for. This counts as failed liveness.",
    ),
    (
        "expect/halt",
        "the chain grew although a halt was expected",
        "The fault is on and some connected group of nodes still holds a quorum, so that growing broke no promise of the chain; the expectation does not fit the fault.",
    ),
    (
        "expect/recovery",
        "a fault's targets did not come back in time",
        "From the verified revert on each target (of a partition: each node) has to pass the highest height of that moment and stay within `max_lag` of the quorum for three samples. Of a fault that nobody ends the time runs from the begin of the step. A revert that fails is `infra/revert-failed` instead.",
    ),
    (
        "expect/lag",
        "a node is not as far behind as expected",
        "Blocks behind the quorum's height.",
    ),
    (
        "expect/peers",
        "a node has another number of peers than expected",
        "As the node's RPC says.",
    ),
    (
        "expect/version",
        "a node runs another version than expected",
        "What the node calls itself over RPC is compared with the expected name, and with what `[versions]` says that this version reports.",
    ),
    (
        "expect/validators",
        "the validator set is not as expected",
        "As each node reports it. A change takes force a few heights after its transaction.",
    ),
    (
        "expect/log",
        "the log does not have the expected line, or has one it must not have",
        "Lines count from the begin of the last step before this one that did something.",
    ),
    (
        "expect/restarts",
        "processes ended or restarted by themselves another number of times than expected",
        "Only exits and restarts that no step caused are counted, over the whole run.",
    ),
    (
        "expect/tx",
        "a transaction was not committed as expected",
        "It has to be committed with code 0, at one height, on every node in question.",
    ),
    (
        "expect/load",
        "none of a load's transactions was accepted",
        "The counts stand in the finding: the nodes that the load is sent to were down, or refused everything. Whether all of a load was accepted is not judged. Send it to nodes without a fault, or look at why they refuse.",
    ),
    // Evidence.
    (
        "evidence/not-evaluated",
        "an expectation or a step was not evaluated to its end",
        "There is no observation that decides it, and no known cause for that. A run without this evidence cannot pass.",
    ),
    (
        "evidence/coverage",
        "not every height was compared between two nodes",
        "A fork at such a height would have gone unseen. Observe more nodes, or for longer; a network of one node has nothing to compare and is exempt.",
    ),
    (
        "evidence/app-state",
        "no application state was seen",
        "The chain reached height 10 and two nodes or more answered, but none gave its application's state, so that different states would have gone unseen. See in the nodes' logs why they refuse `/block_results` and `/abci_info`, or switch the invariant `app-state` off.",
    ),
    (
        "evidence/no-samples",
        "no node gave a single sample",
        "Nothing was observed, so nothing is known.",
    ),
    (
        "evidence/unreachable",
        "a node was never observed",
        "It was started, no declared fault was on it, and it gave no sample.",
    ),
    (
        "evidence/nothing-grew",
        "nothing was expected and nothing grew",
        "A run that shows nothing does not pass. Add an expectation, or let it run for some blocks.",
    ),
    (
        "evidence/nothing-rehearsed",
        "no fault of the rehearsal struck",
        "`[chaos]` has a schedule, and every fault of it was left out or never had its time. A rehearsal in which nothing happens proves nothing: let the steps leave room (nodes that the steps have struck and that are not with the others again count against the budget), raise the budget, or make faults rarer and shorter.",
    ),
    (
        "evidence/gap",
        "a node was not observed for some time",
        "Nobody asked it for longer than `max_stall`, so that a stall could not have been seen. Usually trialnet did not get the CPU.",
    ),
    (
        "evidence/starved",
        "trialnet was starved of CPU",
        "Polls came late by more than a fifth of the limit that was to be judged, so the limit says nothing of the chain. Use fewer nodes or slower blocks on this machine.",
    ),
    (
        "evidence/not-ready",
        "the network was never ready",
        "Ready means: the quorum has reached height 1, and every node that starts by itself answers.",
    ),
    (
        "evidence/fault-unverified",
        "it is unknown whether a fault had its effect",
        "The run ended before a probe saw it.",
    ),
    (
        "evidence/revert-unverified",
        "it is unknown whether a fault was taken back",
        "The run ended before a probe saw it.",
    ),
    // The run.
    (
        "run/interrupted",
        "somebody ended the run",
        "A signal asked trialnet to stop. What had been proved until then stands.",
    ),
    (
        "run/cut-off",
        "the records end in the middle of the run",
        "Trialnet itself was killed, or the file is not complete. What had been proved until then stands.",
    ),
    (
        "run/limit",
        "the steps took longer than `limits.run`",
        "Raise `limits.run`, or look at the step that was running.",
    ),
    (
        "run/when",
        "what a step waited for did not come in time",
        "The condition under `when` was not met within its limit, so the step was not begun.",
    ),
    (
        "run/join",
        "a background step did not end in time",
        "The step that `join` names was still running at the limit.",
    ),
    // Infrastructure.
    (
        "infra/program-missing",
        "a program is not there",
        "The chain's program was not found on PATH or at the given path. The finding says how to get it.",
    ),
    (
        "infra/guard-died",
        "the guard process died",
        "The guard owns the nodes; when it dies they all end at once. Look for an out-of-memory kill or a stray signal.",
    ),
    (
        "infra/start-timeout",
        "the network was not ready in time",
        "Within `limits.start` the quorum did not reach height 1 or some node did not answer; the finding says which. Look at the node's log.",
    ),
    (
        "infra/exit-at-start",
        "a process ended before the network was ready",
        "Its exit code and the last lines of its log stand in the finding: usually a configuration that the program refuses, or an address that is taken.",
    ),
    (
        "infra/fault-no-effect",
        "a fault had not the effect that was asked",
        "No probe from outside the injector saw its effect in time, or the effect vanished before its end. What was judged in its window proves nothing.",
    ),
    (
        "infra/revert-failed",
        "a fault could not be taken back",
        "The injector said undone and a probe still saw the effect. What was judged afterwards proves nothing; the teardown removes the nodes in any case.",
    ),
    (
        "infra/fault-stronger",
        "a fault struck what no step names",
        "A process was ended by trialnet itself without a step that says so, or a probe saw links cut that the fault should have left alone: a fault was stronger than declared, and what was judged in its window proves nothing.",
    ),
    (
        "infra/lease-lost",
        "the lease of the faults ran out",
        "Whoever carries the faults out has not heard from trialnet in time and has reverted them by itself, as it has to.",
    ),
    (
        "infra/stress-ended",
        "what a fault used beside a program has ended",
        "The process that used processors or memory beside a program for a `stress` ended before its time: the memory of the container may not have done for it and the program (`memory_limit`), or somebody has ended it. What was judged meanwhile proves nothing.",
    ),
    (
        "infra/address",
        "no free addresses",
        "The addresses or ports that the nodes need are taken. `trialnet ps` shows runs that are up, `trialnet gc` removes left ones.",
    ),
    (
        "infra/io",
        "a file or directory could not be read or written",
        "The finding names it and the system's reason.",
    ),
    (
        "infra/job-failed",
        "a preparing job failed",
        "A chain's own program that runs before the nodes ended with an error or took too long.",
    ),
    (
        "infra/found-pods",
        "not as many pods as nodes",
        "With `attach` each pod that the selector matches is one node of the file, in the natural order of their names. The finding names the pods that were found; pods that are on their way out, or have ended, do not count.",
    ),
    (
        "infra/rpc",
        "a request to a node failed",
        "A request that a step needs (not the observation) got no valid answer.",
    ),
    (
        "expect/tx-refused",
        "a node refused a transaction",
        "The node that a `tx` step names did not take the transaction. Its words stand in the finding.",
    ),
    (
        "infra/fault-failed",
        "a fault could not be injected, or its effect was not seen",
        "The step ends there. What the injector or the probe saw last stands in the finding.",
    ),
    (
        "infra/repeat-late",
        "a fault had to strike again, and the one before it was not over",
        "With `every` and `times` a fault strikes at fixed moments, and at most five seconds late (what the platform brings back: `limits.start`). A node that takes longer to come back needs a longer `every`.",
    ),
    (
        "infra/start-failed",
        "a node that a step started does not answer",
        "Its log in the run folder says why.",
    ),
    (
        "infra/guard-protocol",
        "the guard said something that trialnet does not understand",
        "Trialnet's executable was probably replaced in the middle of a run. Run the scenario again.",
    ),
    (
        "infra/guard-setup",
        "the guard could not be started",
        "The words of the system stand in the finding. `trialnet doctor` checks what a guard needs.",
    ),
    (
        "infra/guard-silent",
        "the guard did not answer in time",
        "The machine may be overloaded, or the guard was stopped by a signal.",
    ),
    (
        "infra/home",
        "a node's home could not be written or removed",
        "The words of the system stand in the finding: permissions, or a full disk.",
    ),
    (
        "infra/job-timeout",
        "a program that prepares the chain did not end in time",
        "What it printed stands in the finding.",
    ),
    (
        "infra/no-addresses",
        "every slot of loopback addresses is taken",
        "Too many runs are up on this machine, or dead ones are left: `trialnet ps` shows them, `trialnet gc` removes what is left.",
    ),
    (
        "infra/node-down",
        "a node that an action needs is not running",
        "It ended before, by itself or by another fault.",
    ),
    (
        "infra/node-runs",
        "a node that was to be started runs already",
        "Only a node that is down can be started.",
    ),
    (
        "infra/not-offered",
        "this backend cannot do what a step asks",
        "Plans are refused for that before anything starts; look at what the backend was asked to do.",
    ),
    (
        "infra/run-folder",
        "the run folder cannot be used for logs and homes",
        "The words of the system stand in the finding. Give another --run-dir if need be.",
    ),
    (
        "infra/too-many-nodes",
        "the network has more nodes than a slot of loopback addresses",
        "The local backend runs up to 254 nodes.",
    ),
    (
        "infra/torn-down",
        "something was asked of a network that is being removed",
        "It follows from an earlier end of the run; look at the first finding.",
    ),
    (
        "infra/internal",
        "a bug of trialnet",
        "A part of trialnet failed; the network was removed all the same. Please report it with the run folder.",
    ),
    (
        "infra/tunnel",
        "trialnet lost its connection to a node",
        "The way to the node is down, not necessarily the node: the API server or the machine that the pod is on does not answer. What the tunnel saw last stands in the finding.",
    ),
    (
        "infra/observer-lost",
        "what the observer in the cluster saw cannot be had",
        "With `observe.from = \"cluster\"` a pod observes the nodes, and trialnet fetches its records. It could not be reached for a minute, or its pod was replaced, and its records went with it. What was judged until then stands.",
    ),
    (
        "infra/image",
        "the cluster does not have the image of a component",
        "It could not be pulled, or is not on the machine's disk although nothing pulls it. The finding names the image and what the kubelet says; check the name in `[versions]`, the pull secrets, and whether the image was loaded.",
    ),
    (
        "infra/crash-loop",
        "a container ends again and again by itself",
        "No step caused it. Its exit code and its last lines stand in the finding, everything that it wrote in the run folder.",
    ),
    (
        "infra/container",
        "a container cannot be made",
        "The kubelet's words stand in the finding: a Secret or ConfigMap that is not there, a program that is not in the image, a user that may not run.",
    ),
    (
        "infra/unschedulable",
        "no machine of the cluster has room for a pod",
        "The scheduler's words stand in the finding. Ask for fewer nodes or resources, or use a bigger cluster; `trialnet doctor` says what there is.",
    ),
    (
        "infra/out-of-memory",
        "the kernel ended a container for want of memory",
        "The component used more than its limit, or the machine has no more. Give it more in the scenario's resources.",
    ),
    (
        "infra/evicted",
        "the cluster ended a pod",
        "A machine ran out of disk or memory, was drained, or refused the pod. The kubelet's words stand in the finding.",
    ),
    (
        "infra/volume",
        "a volume of a pod cannot be made or mounted",
        "The words of the cluster stand in the finding: a storage class that is not there, no space, or a disk that another machine holds.",
    ),
    (
        "infra/pod-refused",
        "the cluster refuses to make a pod",
        "Pod Security or another admission of the cluster does not allow it. Its words stand in the finding.",
    ),
    (
        "infra/other-chain",
        "a node belongs to another chain",
        "It reports another chain id than the first node that was seen: its genesis differs, or the address belongs to somebody else.",
    ),
    (
        "infra/node-state",
        "a node was not in the state that an action needs",
        "For example starting a node that runs already.",
    ),
    (
        "infra/supervisor-protocol",
        "a supervisor was asked something that it does not understand",
        "The program in the pods is of another version than the trialnet that speaks to it. Run the scenario again; for a network that is attached, use the same version.",
    ),
    (
        "infra/supervisor-silent",
        "a supervisor does not answer",
        "The way to its pod is broken, the pod is gone, or its machine is overloaded. The finding says what was tried and what the cluster says of the pod.",
    ),
    (
        "infra/agent-refused",
        "an agent of the cluster does not know this run",
        "The agents that make packets be lost answer only to a run that shows its token, through a port-forward. Another version of trialnet started them, or their Secret in trialnet-system was changed: let the runs that share them end, or run `trialnet gc`.",
    ),
    (
        "infra/agent-failed",
        "an agent of the cluster could not do what a fault needs",
        "The kernel of that machine did not take the rules, or the pod's network namespace could not be entered. The finding has the kernel's words, and the agent's own log is in trialnet-system.",
    ),
    (
        "infra/agent-cannot",
        "a machine of the cluster cannot make packets be lost",
        "The agent tries it when it starts: the kernel has to have nf_tables with sets that expire and random numbers, and the pod the right to use them. Use `delay`, `partition` or `isolate`, which need nothing of the machine.",
    ),
    (
        "infra/agent-silent",
        "an agent of the cluster does not run or does not answer",
        "Faults that make packets be lost need a privileged pod of trialnet on each machine, in the namespace trialnet-system. The finding says what the cluster says of it. Rules that nobody renews are forgotten by the kernel.",
    ),
    (
        "infra/prober",
        "the process that looks at a fault's effect failed",
        "A supervisor starts a second process of trialnet in its container to see whether faults have their effect. It could not be started or ended early: look for an out-of-memory kill or a limit of processes.",
    ),
    (
        "infra/object-too-large",
        "a node's files do not fit into one object of the cluster",
        "The files of a node travel as a ConfigMap, its keys as a Secret, and Kubernetes takes at most 1 MiB of each. Make them smaller, or bring large files in the image.",
    ),
    (
        "infra/render",
        "the nodes' files could not be made",
        "The chain's adapter says why.",
    ),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::CODES;

    #[test]
    fn codes_are_unique_and_described() {
        let mut seen = BTreeSet::new();
        for (code, title, text) in CODES {
            assert!(seen.insert(code), "{code} twice");
            assert!(code.contains('/') && !title.is_empty() && !text.is_empty(), "{code}");
            assert!(!title.ends_with('.') && text.ends_with('.'), "{code}");
        }
    }

    #[test]
    fn every_code_in_the_judge_is_documented() {
        let sources = [
            include_str!("expect.rs"),
            include_str!("faults.rs"),
            include_str!("liveness.rs"),
            include_str!("nodes.rs"),
            include_str!("rehearsal.rs"),
            include_str!("upgrade.rs"),
            include_str!("verdict.rs"),
            include_str!("../judge.rs"),
            // What the engine sees of an upgrade the judge finds.
            include_str!("../engine/upgrade.rs"),
        ];
        let known: BTreeSet<&str> = CODES.iter().map(|(code, ..)| *code).collect();
        let mut used = BTreeSet::new();
        for text in sources.iter().flat_map(|source| source.split('"')) {
            let families = [
                "safety/",
                "liveness/",
                "upgrade/",
                "expect/",
                "evidence/",
                "run/",
                "infra/",
            ];
            let is_code = families
                .iter()
                .any(|family| text.starts_with(family) && text.len() > family.len());
            if is_code && text.chars().all(|c| c.is_ascii_lowercase() || c == '/' || c == '-') {
                used.insert(text);
            }
        }
        assert!(used.len() > 30, "the search finds the codes: {used:?}");
        let missing: Vec<_> = used.difference(&known).collect();
        assert!(missing.is_empty(), "not documented: {missing:?}");
        let judged = |code: &&str| {
            !code.starts_with("infra/")
                && !matches!(
                    *code,
                    "run/limit" | "run/when" | "run/join" | "expect/tx-refused" | "expect/not-refused"
                )
        };
        let unused: Vec<_> = known.difference(&used).filter(|code| judged(code)).collect();
        assert!(unused.is_empty(), "documented and not used: {unused:?}");
    }
}
