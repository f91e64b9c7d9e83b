//! The codes of scenario problems, each with what it means and the way out.
//!
//! A code exists only with its text: the constants and the table come from one list.

/// Defines a constant for each code, and the table of all of them.
macro_rules! codes {
    ($($name:ident = $code:literal, $title:literal, $text:literal;)*) => {
        $(pub(super) const $name: &str = $code;)*

        /// The codes of scenario problems: code, title, text.
        pub const CODES: &[crate::codes::Code] = &[$(($code, $title, $text)),*];
    };
}

codes! {
    UNREADABLE = "scenario/unreadable", "the file cannot be read",
        "The scenario file does not exist, may not be read, or is not UTF-8 text. The message carries the words of the \
         operating system. Check the path; `trialnet init FILE` writes a first scenario.";
    SYNTAX = "scenario/syntax", "the file is not TOML",
        "The text breaks the rules of TOML 1.0 at the marked place: usually a missing quote, a missing bracket, a comma at \
         the end of an inline table's line, or a key that stands twice. Only the syntax is reported then, because nothing \
         after a broken place can be trusted. See https://toml.io.";
    FORMAT = "scenario/format", "the file is of another version of the language",
        "`format` says for which version of the scenario language a file was written. This trialnet reads format 1. A newer \
         file needs a newer trialnet.";
    UNKNOWN_KEY = "scenario/unknown-key", "a table has a key that the language does not know",
        "An unknown key is an error, since a mistyped one would otherwise be passed over in silence. The message names the \
         known keys of that table and the nearest one. A chain's own configuration keys belong under `[network.config]` or a \
         group's `config`.";
    MISSING_KEY = "scenario/missing-key", "a table lacks a key that it needs",
        "The marked table does not say something that has no default. Add the key; `trialnet schema` prints what each table \
         may and must have, and editors that know JSON schema show it.";
    WRONG_TYPE = "scenario/wrong-type", "a value is of the wrong type",
        "The key wants a value of another type, for example a list where a string stands. `nodes` is always a list, also for \
         one node; `pick` is always a string; durations are strings with a unit; numbers stand without quotes.";
    UNKNOWN_WORD = "scenario/unknown-word", "a value is none of the words that are known there",
        "Some keys take one of a few words. The message names them all and the nearest one.";
    NOT_YET = "scenario/not-yet", "a word that belongs to another version of trialnet",
        "The word is planned for the scenario language, but this version of trialnet cannot do it. It is refused rather than \
         passed over. Use what the message names, or another version of trialnet.";
    BAD_DURATION = "scenario/bad-duration", "a duration without a unit, or not a duration",
        "Durations are strings with a unit: \"500ms\", \"5s\", \"1m30s\", \"2h\". A bare number is refused, because nobody can \
         tell seconds from milliseconds. The smallest unit is the millisecond.";
    OUT_OF_RANGE = "scenario/out-of-range", "a number or duration outside its range",
        "The value is of the right type but too small or too large to mean anything, such as a group of no nodes or a block \
         time of an hour. The message says the range.";
    BAD_NAME = "scenario/bad-name", "a name with characters that names cannot have",
        "Names of scenarios, groups and steps become parts of file names, process titles and Kubernetes objects, so they \
         consist of lower-case letters, digits and dashes, begin with a letter, do not end with a dash, and are short.";
    NO_NODES = "scenario/no-nodes", "the network has no node that could start",
        "There has to be at least one group, and at least one node with `start = \"auto\"`, or no network ever comes up.";
    POWER = "scenario/power", "voting powers that make no sense",
        "Validators have a power of at least 1; other nodes have none. A list of powers has one number for each node of the \
         group. Some validator must have power, or there is no quorum at all.";
    UNKNOWN_VERSION = "scenario/unknown-version", "a version that neither the chain nor the file describes",
        "A version is known if the chain's adapter knows it or a `[versions.\"NAME\"]` table says what it is: `binary` (a \
         program on PATH or a path) for the local backend, `image` for backends that run images, `reports` for what the node \
         calls itself.";
    CONFIG = "scenario/config", "a configuration key or value that the chain would not take",
        "Keys under `config` are the chain's own. They are checked as far as the adapter knows them for the version that the \
         nodes run, so that a typing mistake is found before anything starts.";
    NO_STEPS = "scenario/no-steps", "nothing happens in the scenario",
        "A scenario needs at least one step. The smallest useful one is an expectation: \
         `expect.progress = { blocks = 5, within = \"30s\" }`.";
    ONE_ACTION = "scenario/one-action", "a step with no action, or with several",
        "A step is a table with exactly one action (`kill`, `partition`, `expect`, `wait`, …) besides `id`, `name`, `when`, \
         `continue` and `background`; an `expect` asks exactly one question. Write one `[[steps]]` for each.";
    POINTLESS = "scenario/pointless", "a key that can have no effect where it stands",
        "The key is known, but here it changes nothing, which is hardly what was meant: `continue` on a step that expects \
         nothing, `never = false`, a `never` in the background (it always goes on beside the steps).";
    BACKGROUND = "scenario/background", "a step that cannot run in the background, or a join without one",
        "`background = true` is for `load`, `wait`, `restart`, `upgrade` and `expect`. A fault needs none: it lasts until its `for` or \
         `heal` while the next steps run. `join` waits for an earlier background step, by its id.";
    DUPLICATE_ID = "scenario/duplicate-id", "two steps with the same id",
        "Ids are unique in a file. Faults, loads and transactions without an id are called `step-N` after their position from \
         1, which may be what yours collides with.";
    UNKNOWN_ID = "scenario/unknown-id", "a reference to a step that does not exist",
        "`heal`, `of`, `join` and `\"@id\"` name an earlier step by its id. The message names the ids that would fit.";
    LATE_REFERENCE = "scenario/late-reference", "a reference to a step that comes later",
        "Steps run strictly in order, so a step can only refer to steps before it. Move one of the two.";
    WRONG_KIND = "scenario/wrong-kind", "a reference to a step of the wrong kind",
        "`heal`, `halt`, `recovery` and `\"@id\"` refer to faults, `expect.tx` to a `tx` step, `join` to a step in the \
         background. A `restart` ends by itself and cannot be healed.";
    UNKNOWN_NODE = "scenario/unknown-node", "a node, group or role that the network does not have",
        "Nodes are selected by name (`\"validator-0\"`), group (`\"group:validator\"`, or just the name where it is unique), \
         role (`\"role:full\"`), `\"all\"`, or the targets of an earlier fault (`\"@id\"`); with `!` before it, these are left \
         out. The message names what there is.";
    EMPTY_SELECTION = "scenario/empty-selection", "nothing is selected",
        "The list selects no node, or no link. That is an error, since a fault without a target would make everything after it \
         look green. Where `nodes` is left out, all started nodes without a declared fault are meant.";
    NOT_STARTED = "scenario/not-started", "a step about a node that has not been started by then",
        "A node with `start = \"manual\"` exists only after a `start` step. Before it, it can neither be struck nor asked.";
    NEVER_STARTED = "scenario/never-started", "nodes that wait for a start step which no step is",
        "The nodes of a group with `start = \"manual\"` run only after a `start` step names them. Without one they never exist, \
         and a run that looks complete says nothing of them. Add a `start` step, or remove `start = \"manual\"`.";
    ALREADY_STARTED = "scenario/already-started", "a start of a node that runs",
        "`start` is for nodes with `start = \"manual\"`, and for nodes that a `kill` or `stop` holds down. A paused node is \
         resumed by `heal`; a running node is restarted by `restart`.";
    ALREADY_DOWN = "scenario/already-down", "a fault or question about a node that is down",
        "An earlier fault holds the node down at that moment, so a further one could not be seen to have an effect, and a \
         question to it could never be answered. Heal the earlier fault first, or choose other nodes.";
    PARTITION = "scenario/partition", "sides that are no partition",
        "Every node stands on exactly one side. Nodes that no side names need `others`: \"alone\" (each on a side of its own) \
         or \"with-first\". A partition that cuts no link is refused. One way (`direction = \"one-way\"`) is from the first of \
         exactly two sides to the second.";
    PICK = "scenario/pick", "a pick that cannot be made",
        "`pick` is a string: a number such as \"1\", \"half\", \"f\" (as many as may fail), \"f+1\" (the fewest that make the \
         network halt), \"minority\" (less than half of the power), \"leader\" (the proposer of the moment). Candidates are \
         the nodes of the list that are started and under no declared fault.";
    NOT_OFFERED = "scenario/not-offered", "something that this backend or chain cannot do",
        "The scenario asks for something that the chosen backend or chain cannot do honestly. It is refused before anything \
         starts, with the reason. Choose another backend, another chain, or another fault.";
    KILL = "scenario/kill", "parts of a kill that do not go together",
        "A process (`how = \"process\"`, if left out) is killed at once, all of a node or one `component`, and is held down as \
         `down` says. A pod (`how = \"delete\"`, with a `grace`; \"force-delete\"; \"evict\") goes as a whole, and the platform \
         makes a new one by itself. Only an eviction can be expected to be `refused`.";
    MACHINES = "scenario/machines", "a fault of machines that cannot be made like this",
        "The nodes that a `drain` or `machine` names get a machine of the cluster each on which no other node of the network is, so they have to be known \
         before the run, and their volumes must not be bound to a machine before the pod is there. A drain that is `refused` strikes \
         nobody, so nothing of it lasts or is lost.";
    REGIONS = "scenario/regions", "regions without a clear table of latencies",
        "`delay = { regions = { eu = [\"group:eu\"], us = [\"group:us\"] }, latency = { eu-us = \"40ms\" } }` makes the links between regions \
         slow, each way and both ways alike. Every two regions have a latency, named after both with a dash between; \"0ms\" leaves \
         links as they are, `eu-eu` is for those inside of one. No node is in two regions; one that is in none keeps its links. `jitter` is \
         the same for all. Without `for` they stay so until `heal`, or the end of the run; other delays add up with them.";
    REPEAT = "scenario/repeat", "a fault that cannot be repeated as the file says",
        "`every` and `times` let kill, stop, pause, partition, isolate, delay, loss, bandwidth, stress, fill and read_only strike several times: the first at once, each \
         further one `every` after the effect of the first was seen, twice that, and so on. A `partition` or `isolate` that is repeated is \
         a link that flaps; a repeated `kill` is a crash loop. Each has to end by itself (`for`, `down`, or what the platform brings back), \
         and `every` needs room for that and one second more. The step ends when the first is seen; the others strike beside the \
         steps that follow, under the ids `ID.2`, `ID.3`, …; `heal` of `ID` ends them all, `expect.recovery` of it is judged after the last, and the \
         run goes on until then.";
    ON_RESTART = "scenario/on-restart", "a fault that cannot go on in another container",
        "`on_restart` says what becomes of a fault when another pod or container takes a target's place: \"reapply\" (if left out) lets it go on, \"drop\" ends it \
         for that target as soon as the cluster shows the other one, and records when. Its links are clear then, also at their other ends; with the last target the fault is \
         over. The arithmetic counts such a fault as certain only until a step that may replace one of its targets. A pause is of processes, and nobody halts those \
         of the next container, and a volume that is read-only is mounted anew there: say \"drop\" where that is meant; else a fault whose container is replaced has vanished, which is `infra/fault-no-effect`.";
    STRESS = "scenario/stress", "a stress of nothing, or one that would end the program",
        "`stress = { nodes = [\"validator-0\"], cpu = 2, memory = \"128Mi\", for = \"30s\" }` uses processors and memory beside each program of the nodes, in its \
         container, for as long as the fault is on: `cpu` threads that always want a processor, and `memory` that is held. Both count for the limits of the \
         container (`resources`), so the memory needs a `memory_limit` in which it fits, together with all other stress that may be on: with less, the \
         kernel would end a process, which is what `kill` is for.";
    FILL = "scenario/fill", "a volume to be filled that has no size of its own, or of which nobody knows whose it is",
        "`fill = { nodes = [\"validator-0\"], percent = 100, for = \"20s\" }` keeps the first volume of the nodes so full, for as long as the fault is on, by a file \
         that has no name: whatever becomes of trialnet, its room is free again. Who could not write and ended is started when it is over; one that \
         stands without having ended needs a `restart`; what it said and could not write is lost then, so its height may go back, though not below what it had said before the fault began. At 100 the arithmetic counts its nodes as down, maybe; below that they are expected to go on. The volume needs a size of its own: \
         `persistence = \"memory\"` with `[backend.kubernetes] storage = \"64Mi\"` makes it of memory, which counts for the `memory_limit` of its containers.";
    READ_ONLY = "scenario/read-only", "a volume to be read-only of which nobody knows whose it is",
        "`read_only = { nodes = [\"validator-0\"], for = \"20s\" }` ends the nodes (SIGKILL), makes their first volume read-only in their containers, and starts them on it: a file \
         system cannot become read-only while a file of it is open for writing, so no running node can be struck. Who cannot live with that ends, and is started when the fault is over; \
         one that lives on may need a `restart` then. The arithmetic counts its nodes as down, maybe. What a node said meanwhile and could not write is lost, so its height may go \
         back, though not below what it had said before the fault began. A privileged agent on its machine does it; should trialnet go silent, the supervisor ends its container when the lease is over, and the next one has a mount of its own.";
    CORRUPT = "scenario/corrupt", "damage to files of nodes that may run, or to no file",
        "`corrupt = { nodes = [\"validator-0\"], file = \"data/cs.wal/*\", bytes = 16 }` turns over bits in files of nodes that an earlier \
         `kill` or `stop` holds down until a later `heal` or `start`; which bytes follows from the seed. The path is below the node's first volume, its \
         home. It is a declared loss, as `wipe` is: heights may begin anew. That the node then starts and comes back is still expected of it; one that \
         ends by itself is `liveness/exit`.";
    UPGRADE = "scenario/upgrade", "an upgrade that cannot be made or verified as the file says",
        "`upgrade = { to = \"0.38.26\", nodes = [\"group:validator\"], strategy = \"rolling\" }` stops nodes, starts them as another version on the data that \
         they have, and goes on with the next batch once they are with the others again and the network has grown by `gate.grow`. So the data have to \
         stay (`persistence = \"volume\"`), the nodes run another version before, and what the new one calls itself over RPC is known: its `reports`, or \
         `expect_version`. `batch` says how many at once, for \"batch\" and \"canary\"; `max_unavailable` bounds that. To go back is to \
         upgrade to the older version.";
    KEYS_LOST = "scenario/keys-lost", "keys that are made in place have no place that lasts",
        "With `keys = \"in-place\"` a job makes each validator's key in the volume of its node, where the only copy stays. With \
         `persistence = \"ephemeral\"` or \"memory\" that volume goes with the pod of the job, before the node is there. Use `persistence = \"volume\"`, or \
         `keys = \"seed\"`.";
    WIPE = "scenario/wipe", "data is lost, and the file does not say so, or cannot mean it",
        "With `persistence = \"ephemeral\"` a step that ends a node's process or pod has to say `wipe = true`, with \"memory\" one that ends its pod, and with \
         \"volume\" a process may be ended with it: a declared loss, after which heights may begin anew. A validator loses with \
         its data what it has signed (of CometBFT: data/priv_validator_state.json); if it comes back while the same height is \
         still being decided it may sign twice, which only `unsafe_double_sign = true` allows.";
    KUBERNETES = "scenario/kubernetes", "a setting that a cluster would not take",
        "Quantities are written as Kubernetes writes them (\"50m\" of a processor, \"128Mi\" of memory), a request is at most \
         its limit, names are those that Kubernetes takes: lower-case letters, digits and dashes.";
    APP = "scenario/app", "an application that could not be run",
        "`[network.app]` names a `binary`, or an `image` with the `program` in it, and passes the path of its unix socket on: \
         `{socket}` in one of its `args`. It takes the place of CometBFT's built-in application; a devnode has no place for one.";
    ATTACH = "scenario/attach", "something that found nodes cannot have",
        "With `attach` the nodes are somebody else's: trialnet gives them no configuration, application, keys or late start, and \
         does not know whose key is whose, so that no leader can be picked and no power be changed.";
    MISBEHAVE = "scenario/misbehave", "an unknown misbehaviour",
        "`how` is one of the devnode's misbehaviours, for some with `=VALUE`, then `@HEIGHT` if it is to begin at a height, \
         for example \"wrong-hash@12\" or \"go-back=3@20\".";
    WINDOW = "scenario/window", "contradictory or missing times",
        "An expectation takes `within` (eventually), `for` (all the time), `never = true` (to the end of the run), or none of \
         them (now), but not two at once; `log` needs one of them. `when` takes `height` with `within`, or `after`, or `progress_of` (an \
         `upgrade` in the background) with `nodes_done` and `within`.";
    BOUNDS = "scenario/bounds", "an expectation that cannot be met, or cannot fail",
        "The expectation names no number, or bounds that exclude each other, or a bound that always holds. None of these \
         could tell a healthy network from a broken one.";
    TX = "scenario/tx", "a transaction that would be refused, or would break the chain",
        "A `tx` step sends either `value = \"key=value\"` or `power = { validator = …, to = … }`. Removing a key that is no \
         validator halts every CometBFT node; removing the last one halts any chain.";
    CHAOS = "scenario/chaos", "a rehearsal that cannot be drawn or carried out",
        "`[chaos]` draws a schedule from the seed, which needs `duration` and `every`, or takes one from `[[chaos.schedule]]`, which \
         stands without the keys of the drawing. A fault of a schedule is exactly one of kill, pause, stop, restart, partition, \
         isolate and delay, begins at `at`, names its nodes and ends by itself. A schedule without any fault is refused, since a \
         rehearsal in which nothing happens proves nothing.";
    RUN_LIMIT = "scenario/run-limit", "the steps take longer than the run may last",
        "The waits and `for` windows of the steps alone add up to more than `limits.run` (10m if left out), so the run could \
         never reach its end. Raise the limit or shorten the steps.";
    QUORUM_CHAOS = "quorum/chaos", "a rehearsal that may halt the chain",
        "Unless `halts = true`, never more may be down or cut off at once than the chain's engine tolerates. The schedule that the \
         file gives breaks that, or the faults of the steps break it together with those of the rehearsal, which may strike at any \
         moment beside them. The message shows the sum. Strike less, or say `halts = true` with a number as `budget`.";
    QUORUM_PICK = "quorum/pick", "the arithmetic allows no such pick",
        "`f`, `f+1`, `half` and `minority` go by voting power, as what is left under the faults that may be on at that moment. \
         The message shows the sum. Heal earlier faults first, add validators, or pick fewer.";
}

/// The codes of the forecast, which are made in `forecast`.
pub const FORECAST: &[crate::codes::Code] = &[
    (
        "quorum/asks-nobody",
        "an expectation that may find no node to look at",
        "Without `nodes`, an expectation of lag, peers, version, validators, restarts or a log line looks at the nodes that are \
         under no fault, and by that step every node may still be under one. Whether anything was judged would depend on how \
         quick the steps before were. Say with `nodes` which are meant, or end the fault first.",
    ),
    (
        "quorum/contradiction",
        "an expectation contradicts the arithmetic",
        "Under the faults that are on at that moment, the network cannot do what the step expects: it has to halt where \
         progress is expected, or has to go on where a halt is. The message shows the sum. Change the faults, heal them \
         earlier, or expect what must happen.",
    ),
    (
        "quorum/undeclared-halt",
        "a fault halts the chain and nothing says so",
        "The faults that are on take away the quorum, and no `expect.halt` says that this is meant before the fault can end. \
         Add one, so that the run proves that the chain really halts, or strike fewer nodes.",
    ),
    (
        "quorum/halt-outlasts-fault",
        "a halt is expected for longer than the fault certainly lasts",
        "`expect.halt` has a `for` that may go on after the fault has ended by itself: earlier steps may take as long as their \
         `within`. Make the fault last longer, or until `heal`, or the halt shorter.",
    ),
    (
        "quorum/undetermined",
        "nobody can say whether the chain goes on",
        "Under these faults the arithmetic allows both, progress and halt, so that no run could be judged. Make the faults \
         definite: name the nodes, heal earlier faults first, or let steps that overlap not depend on how long others take.",
    ),
    (
        "quorum/max-unavailable",
        "more nodes of an upgrade may be away at once than the quorum bears",
        "`max_unavailable` says that the network goes on while any so many of the upgrade's nodes are away, besides the faults that may be on at \
         that moment. The message shows the sum by which it need not. Allow fewer, or leave it out where the chain may stand still for a moment: \
         then a batch is reckoned like a `restart` of its nodes.",
    ),
    (
        "quorum/recovery-impossible",
        "a recovery is expected of a fault that has not ended by then",
        "`expect.recovery` is judged from the moment the fault's revert was verified. The fault cannot have ended by the \
         step's limit: add a `heal` or a `start` before it, or give the fault a `for`.",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_family() {
        for (code, _, _) in CODES.iter().chain(FORECAST) {
            assert!(code.starts_with("scenario/") || code.starts_with("quorum/"), "{code}");
        }
    }
}
