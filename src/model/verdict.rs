//! Verdicts and findings: what a run says in the end. The shape of `verdict.json`.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{BackendKind, NodeName};

/// The verdict of a run, from worst to best; the worst of all findings wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The chain broke its own promise: two blocks at one height, a height that went back.
    SafetyViolated,
    /// The chain did not go on where it had to.
    LivenessFailed,
    /// An expectation of the file was not met.
    ExpectationFailed,
    /// Something outside the chain failed: a program, a fault without effect, trialnet itself.
    Infrastructure,
    /// Somebody ended the run.
    Interrupted,
    /// Evidence is missing and no cause is known.
    Inconclusive,
    /// Everything was evaluated and held.
    Passed,
}

/// The class of a finding: the verdict that it alone would give.
pub type Class = Verdict;

/// What the judge found, with its evidence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Stable, for example `safety/fork`; `trialnet explain` describes it.
    pub code: String,
    /// How bad.
    pub class: Class,
    /// On which node; `None`: the network.
    pub node: Option<NodeName>,
    /// At which height.
    pub height: Option<u64>,
    /// What should have been seen.
    pub expected: String,
    /// What was seen.
    pub seen: String,
    /// Since when, in milliseconds from *ready* (negative before it).
    pub since_ms: i64,
    /// Ids of the faults that were on.
    pub faults: Vec<String>,
    /// The index of the step whose expectation this is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<usize>,
}

/// `verdict.json`. All times are milliseconds from *ready*.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Always [`super::FORMAT`].
    pub format: u32,
    /// The worst of all findings.
    pub verdict: Verdict,
    /// The scenario's name.
    pub scenario: String,
    /// The seed that gives the same targets again.
    pub seed: u64,
    /// Where it ran.
    pub backend: BackendKind,
    /// How much was compared.
    pub coverage: Coverage,
    /// Worst first, then by time.
    pub findings: Vec<Finding>,
    /// What became of each step.
    pub steps: Vec<StepReport>,
    /// The life of each fault.
    pub faults: Vec<FaultReport>,
    /// How each upgrade went, node by node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub upgrades: Vec<UpgradeReport>,
    /// The times in which nodes ran different versions side by side because of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mixed: Vec<MixedReport>,
    /// The version that each node ran in the end; empty where none was moved.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub versions: BTreeMap<NodeName, String>,
    /// Durations in milliseconds by name: `start`, `run`, `teardown`, …
    pub timings: BTreeMap<String, u64>,
    /// Invariants that the file switched off.
    #[serde(default)]
    pub off: Vec<super::Invariant>,
}

/// How many heights were compared between nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Coverage {
    /// Heights whose hash two nodes or more have given.
    pub compared: u64,
    /// The quorum's height at the end of the last step; where no recovery was judged after it, shortly before the end of the run.
    pub of: u64,
    /// Heights whose application state two nodes or more have given.
    #[serde(default)]
    pub app_states: u64,
}

/// What became of a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepReport {
    /// From 0.
    pub index: usize,
    /// Its id or name, or its action in a few words.
    pub title: String,
    /// What became of it.
    pub state: StepEnd,
    /// `None` if it never began.
    pub began_ms: Option<i64>,
    /// `None` if it never ended.
    pub ended_ms: Option<i64>,
    /// What was seen last, or why it failed.
    pub seen: String,
}

/// What became of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepEnd {
    /// Done, or its expectation was met.
    Ok,
    /// Its expectation was not met, or it could not be done.
    Failed,
    /// It was done, but whether its expectation held cannot be told.
    Inconclusive,
    /// The run ended before it, or while it ran.
    NotReached,
}

/// The life of a fault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultReport {
    /// Its id.
    pub id: String,
    /// The word of the scenario language.
    pub kind: String,
    /// The nodes that it struck.
    pub targets: Vec<NodeName>,
    /// The step began.
    pub planned_ms: Option<i64>,
    /// The injector said done.
    pub injected_ms: Option<i64>,
    /// A probe from outside the injector saw the effect.
    pub verified_ms: Option<i64>,
    /// The injector said undone.
    pub reverted_ms: Option<i64>,
    /// A probe saw that the effect is gone.
    pub revert_verified_ms: Option<i64>,
    /// From *revert verified* until the targets were with the others again.
    pub recovery_ms: Option<u64>,
    /// When others took the places of targets with whom it was dropped, by node.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub dropped: BTreeMap<NodeName, i64>,
    /// Why it was left out: a fault of a rehearsal for which there was no room when its time came.
    #[serde(default)]
    pub skipped: Option<String>,
}

/// How an upgrade went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpgradeReport {
    /// Its id.
    pub id: String,
    /// The index of its step.
    pub step: usize,
    /// The version.
    pub to: String,
    /// Its nodes in the order in which they were moved; one that went back stands here again.
    pub nodes: Vec<MoveReport>,
}

/// How a node came from one version to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveReport {
    /// Which node.
    pub node: NodeName,
    /// The version that it ran before.
    pub from: String,
    /// The version to which it was moved.
    pub to: String,
    /// Whether it went back, because the upgrade had failed.
    pub back: bool,
    /// It was about to be stopped.
    pub begun_ms: i64,
    /// It was started as the other version.
    pub replaced_ms: Option<i64>,
    /// It answered and said what it is.
    pub verified_ms: Option<i64>,
    /// What it called itself.
    pub reports: Option<String>,
    /// It was with the others again and the network had grown.
    pub gated_ms: Option<i64>,
    /// It did not come so far.
    pub failed_ms: Option<i64>,
}

/// A time in which nodes of the network ran different versions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MixedReport {
    /// Which.
    pub versions: Vec<String>,
    /// From when.
    pub from_ms: i64,
    /// Until when; `None`: to the end of the run.
    pub to_ms: Option<i64>,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::SafetyViolated => "safety violated",
            Self::LivenessFailed => "liveness failed",
            Self::ExpectationFailed => "expectation failed",
            Self::Infrastructure => "infrastructure",
            Self::Interrupted => "interrupted",
            Self::Inconclusive => "inconclusive",
            Self::Passed => "passed",
        })
    }
}
