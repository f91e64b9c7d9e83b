//! What is known of each node, and the heights Q and M.

use std::collections::BTreeMap;

use super::effects::{is_quorum, weight};
use crate::model::verdict::Class;
use crate::model::{Invariant, Ms, Plan, Start};
use crate::record::{Sample, Silence};

use super::agreement::Noted;
use super::notes::Draft;
use super::{GAP, Judge, short};

/// One node as it has shown itself.
#[derive(Clone, Debug)]
pub(super) struct Track {
    pub(super) name: String,
    /// Whether its process was ever started.
    pub(super) started: bool,
    /// Whether its process is there; unknown until the backend says.
    pub(super) alive: Option<bool>,
    /// It exited without being asked, and that was found; its silence is no other finding.
    pub(super) gone: bool,
    /// How its process ended by itself the last time, and what it wrote before.
    pub(super) exit: Option<String>,
    /// The height that it ever reported at most.
    pub(super) best: u64,
    /// Its last answer, by the time of sending.
    pub(super) last: Option<Seen>,
    /// The highest height since its data was last removed.
    pub(super) floor: u64,
    /// When its data was last removed.
    pub(super) wiped: Ms,
    pub(super) damaged: Damaged,
    /// It does not answer.
    pub(super) silence: Option<Quiet>,
    /// When it was last asked with any outcome.
    pub(super) heard: Option<Ms>,
    /// The end of the last time in which it was not observed.
    pub(super) gap: Option<Ms>,
    /// Samples in a row that were too far behind, and since when.
    pub(super) behind: (u32, Ms),
    /// Samples in a row, since recovery is judged after the last step, that were with the others.
    pub(super) settled: u32,
    pub(super) peers: Option<u64>,
    pub(super) validators: Option<(u64, BTreeMap<String, u64>)>,
    /// Since when it reports a validator set without any power, and whether that was found.
    pub(super) powerless: Option<(Ms, bool)>,
    /// Exits and restarts that no step caused.
    pub(super) restarts: u64,
    /// Started after the others: not judged until it is with them, or until this moment.
    pub(super) join_by: Option<Ms>,
    /// Something outside the chain failed on this node.
    pub(super) troubled: bool,
}

/// The last answer of a node.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) sent: Ms,
    pub(super) height: u64,
    pub(super) version: String,
}

/// Whether a node's files were damaged on purpose, as long as nobody knows whether it bears that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Damaged {
    No,
    /// It has not been started since.
    Down,
    /// It was, and has not answered.
    Started,
}

/// A time without an answer.
#[derive(Clone, Debug)]
pub(super) struct Quiet {
    /// The first request without an answer since this is judged.
    pub(super) since: Ms,
    /// The last one.
    pub(super) last: Ms,
    pub(super) cause: Silence,
    pub(super) detail: String,
    pub(super) found: Found,
}

/// Whether what goes on was found already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Found {
    #[default]
    No,
    /// Polls came too late to tell; if it goes on with polls in time, it is told then.
    Unclear,
    Yes,
}

impl Track {
    pub(super) fn new(plan: &Plan, node: usize) -> Self {
        let node = &plan.network.nodes[node];
        Self {
            name: node.name.clone(),
            started: node.start == Start::Auto,
            alive: None,
            gone: false,
            exit: None,
            best: 0,
            last: None,
            floor: 0,
            wiped: Ms(0),
            damaged: Damaged::No,
            silence: None,
            heard: None,
            gap: None,
            behind: (0, Ms(0)),
            settled: 0,
            peers: None,
            validators: None,
            powerless: None,
            restarts: 0,
            join_by: None,
            troubled: false,
        }
    }

    /// Its last answer if the request was sent after `since` and it has not fallen silent again.
    pub(super) fn fresh(&self, since: Ms) -> Option<&Seen> {
        self.last
            .as_ref()
            .filter(|seen| seen.sent > since && self.silence.is_none())
    }

    /// Whether it is trialnet's own way to it that is broken, and nothing is known of the node.
    pub(super) fn is_cut_off(&self) -> bool {
        self.silence
            .as_ref()
            .is_some_and(|quiet| quiet.cause == Silence::Tunnel)
    }

    /// Its state in a few words.
    pub(super) fn words(&self) -> String {
        match (&self.last, &self.silence) {
            (_, Some(quiet)) => format!("{} silent ({})", self.name, cause_words(quiet.cause)),
            (Some(seen), None) => format!("{} {}", self.name, seen.height),
            (None, None) => format!("{} not observed", self.name),
        }
    }
}

/// A cause of silence in words.
pub(super) const fn cause_words(cause: Silence) -> &'static str {
    match cause {
        Silence::Refused => "connection refused",
        Silence::Timeout => "no answer in time",
        Silence::Broken => "connection broken",
        Silence::Garbage => "not a valid answer",
        Silence::Tunnel => "trialnet's tunnel is down",
    }
}

/// Q and M.
#[derive(Clone, Debug, Default)]
pub(super) struct Heights {
    /// The height that nodes holding a quorum have reached.
    pub(super) q: u64,
    /// When Q last grew.
    pub(super) q_grew: Ms,
    /// The growth of Q of late: (when, Q then), for samples that took long.
    pub(super) recent: std::collections::VecDeque<(Ms, u64)>,
    /// The highest height on any node.
    pub(super) m: u64,
    /// When M last grew.
    pub(super) m_grew: Ms,
}

impl Heights {
    /// Q at an earlier moment, as far back as it is remembered.
    pub(super) fn q_at(&self, moment: Ms) -> u64 {
        let before = self.recent.iter().rev().find(|(at, _)| *at <= moment);
        before.or(self.recent.front()).map_or(self.q, |(_, q)| *q)
    }
}

impl Judge {
    /// Takes in a node's answer.
    pub(super) fn sample(&mut self, sample: &Sample) {
        let Some(i) = self.index(&sample.node) else { return };
        self.heard(i, sample.sent);
        // The tip of a chain without finality is nobody's word.
        if sample.height > 0 && !sample.hash.is_empty() && self.tips.depth == 0 {
            self.hash_given(i, sample.height, &sample.hash, None);
        }
        self.chain_id(i, &sample.chain);
        let node = &mut self.nodes[i];
        if node.last.as_ref().is_some_and(|last| last.sent >= sample.sent) {
            return;
        }
        node.started = true;
        node.silence = None;
        match &mut node.last {
            Some(last) => {
                last.sent = sample.sent;
                last.height = sample.height;
                if last.version != sample.version {
                    last.version.clone_from(&sample.version);
                }
            }
            none => {
                *none = Some(Seen {
                    sent: sample.sent,
                    height: sample.height,
                    version: sample.version.clone(),
                });
            }
        }
        if self.nodes[i].damaged == Damaged::Started && sample.height > 0 {
            self.nodes[i].damaged = Damaged::No;
        }
        self.floor(i, sample);
        self.grow(i, sample.height, sample.sent);
        self.cut_growth(i, sample.height, sample.sent);
        self.recovering(i, sample.height, sample.sent);
        self.lag(i, sample.height, sample.sent);
        self.powerless(i, sample.sent);
    }

    fn chain_id(&mut self, i: usize, chain: &str) {
        if chain.is_empty() {
            return;
        }
        match &self.chain {
            None => self.chain = Some(chain.to_owned()),
            Some(known) if known == chain => {}
            Some(known) => {
                let (expected, seen) = (
                    format!("chain id {known}, as the other nodes"),
                    format!("chain id {chain}"),
                );
                self.find(Draft {
                    node: Some(i),
                    expected,
                    seen,
                    ..Draft::new("infra/other-chain", Class::Infrastructure, self.now)
                });
            }
        }
    }

    /// A node's height never goes back, unless its data was removed.
    fn floor(&mut self, i: usize, sample: &Sample) {
        if sample.height < self.nodes[i].floor
            && let Some(kept) = self.kept_height(i)
        {
            // The new pod has none of the old one's data, or a node none of what it could not write.
            self.nodes[i].floor = kept;
            self.nodes[i].wiped = sample.sent;
        }
        let node = &mut self.nodes[i];
        if sample.sent < node.wiped {
            return;
        }
        let floor = node.floor;
        node.floor = floor.max(sample.height);
        let least = floor.saturating_sub(self.tips.depth.saturating_sub(1));
        if sample.height < least && !self.off(Invariant::HeightBack) {
            let before = if least == floor {
                "as this node reported before".to_owned()
            } else {
                format!("since this node reported {floor} before and only blocks that are not final may go")
            };
            self.find(Draft {
                node: Some(i),
                height: Some(sample.height),
                expected: format!("a height of {least} or more, {before}"),
                seen: format!("height {}", sample.height),
                ..Draft::new("safety/height-back", Class::SafetyViolated, sample.sent)
            });
        }
    }

    fn grow(&mut self, i: usize, height: u64, sent: Ms) {
        if height <= self.nodes[i].best {
            return;
        }
        self.nodes[i].best = height;
        self.finals(i);
        if height > self.heights.m {
            self.heights.m = height;
            self.heights.m_grew = sent;
        }
        if height > self.heights.q {
            self.raise_q(sent);
        }
    }

    /// Counts Q anew. Heights that were reached stay reached, also by nodes killed since, so Q never falls.
    fn raise_q(&mut self, at: Ms) {
        let engine = self.net.engine;
        let total = self.net.powers.iter().map(|power| weight(engine, *power)).sum();
        // Nodes that are not above Q cannot raise it.
        let above = || {
            let votes = self.nodes.iter().zip(&self.net.powers);
            let above = votes.filter(|(node, power)| **power > 0 && node.best > self.heights.q);
            above.map(|(node, power)| (node.best, weight(engine, *power)))
        };
        if !is_quorum(engine, above().map(|(_, power)| power).sum(), total) {
            return;
        }
        let mut reached: Vec<(u64, u128)> = above().collect();
        reached.sort_unstable_by(|a, b| b.cmp(a));
        let mut part = 0;
        for (best, power) in reached {
            part += power;
            if is_quorum(engine, part, total) {
                self.heights.q = best;
                self.heights.q_grew = at;
                self.heights.recent.push_back((at, best));
                if self.heights.recent.len() > 256 {
                    self.heights.recent.pop_front();
                }
                self.stalled = Found::No;
                return;
            }
        }
    }

    /// Takes in a validator set. The set that most nodes reported last is the one that counts; of two equally frequent ones the
    /// one of the greater height. Until a node reports one, the genesis counts. A set without any power is garbage: under it nothing
    /// could ever be decided, and Q would stand still for good. It is never believed; [`Judge::powerless`] finds it.
    pub(super) fn validator_set(&mut self, node: &str, sent: Ms, height: u64, powers: &BTreeMap<String, u64>) {
        let Some(i) = self.index(node) else { return };
        if powers.values().all(|power| *power == 0) {
            self.nodes[i].powerless.get_or_insert((sent, false));
            return;
        }
        self.nodes[i].powerless = None;
        self.nodes[i].validators = Some((height, powers.clone()));
        // Of found nodes nobody knows whose key is whose: the file says how they vote.
        if self.plan.network.attach.is_some() {
            return;
        }
        let mut sets: Vec<(usize, u64, &BTreeMap<String, u64>)> = Vec::new();
        for (height, set) in self.nodes.iter().filter_map(|node| node.validators.as_ref()) {
            match sets.iter_mut().find(|(_, _, known)| *known == set) {
                Some((count, at, _)) => {
                    *count += 1;
                    *at = (*at).max(*height);
                }
                None => sets.push((1, *height, set)),
            }
        }
        let Some((_, _, set)) = sets.into_iter().max_by_key(|(count, at, _)| (*count, *at)) else {
            return;
        };
        let power_of = |name: &str| set.get(name).copied().unwrap_or(0);
        let mut powers: Vec<u64> = self.nodes.iter().map(|node| power_of(&node.name)).collect();
        let sum = |powers: &mut dyn Iterator<Item = &u64>| powers.fold(0, |sum: u64, power| sum.saturating_add(*power));
        let foreign = sum(&mut set.values()).saturating_sub(sum(&mut powers.iter()));
        powers.push(foreign);
        if powers != self.net.powers {
            self.net.powers = powers;
            self.view_stale = true;
            self.raise_q(self.now);
        }
    }

    /// A node was asked: is there a gap before this?
    pub(super) fn heard(&mut self, i: usize, sent: Ms) {
        let before = self.nodes[i].heard;
        self.nodes[i].heard = before.max(Some(sent));
        let (Some(before), Some(ready)) = (before, self.ready) else {
            return;
        };
        let gap = sent.since(before.max(ready));
        if gap <= GAP {
            return;
        }
        self.nodes[i].gap = Some(sent);
        self.nodes[i].behind.0 = 0;
        if gap > GAP.max(self.plan.invariants.max_stall) {
            self.gap_found(i, before, gap);
        }
    }

    pub(super) fn gap_found(&mut self, i: usize, since: Ms, gap: Ms) {
        self.find(Draft {
            node: Some(i),
            height: Some(self.nodes[i].best),
            expected: format!("an observation at least every {GAP}"),
            seen: format!("none for {}{}", short(gap), self.lateness_words(since)),
            ..Draft::new("evidence/gap", Class::Inconclusive, since)
        });
    }

    /// A node gave a hash for a height.
    pub(super) fn hash_given(&mut self, i: usize, height: u64, hash: &str, header: Option<&crate::record::Header>) {
        let known = self.blocks.conflicts.len();
        let noted = self.blocks.note(i, height, hash, header, self.now);
        if self.blocks.conflicts.len() > known {
            let faults = self.faults_on();
            if let Some(conflict) = self.blocks.conflicts.get_mut(&height) {
                conflict.faults = faults;
            }
        }
        self.conflicts_changed |= noted != Noted::Agrees;
        if let Noted::Changed { was } = noted
            && !self.off(Invariant::HashChange)
        {
            self.find(Draft {
                node: Some(i),
                height: Some(height),
                expected: format!("hash {was}, as this node gave before"),
                seen: format!("hash {hash}"),
                ..Draft::new("safety/hash-change", Class::SafetyViolated, self.now)
            });
        }
        let Some(header) = header else { return };
        if height < 2 || header.parent.is_empty() || self.off(Invariant::ParentLink) {
            return;
        }
        // Where the height below is in dispute already, the broken link has the same cause.
        if self.blocks.conflicts.contains_key(&(height - 1)) {
            return;
        }
        if let Some(below) = self.blocks.own(i, height - 1)
            && below != header.parent
        {
            let expected = format!("parent {below}, as this node gave for height {}", height - 1);
            self.find(Draft {
                node: Some(i),
                height: Some(height),
                expected,
                seen: format!("parent {}", header.parent),
                ..Draft::new("safety/parent-link", Class::SafetyViolated, self.now)
            });
        }
    }

    /// A node gave the application's state after a height.
    pub(super) fn state_given(&mut self, i: usize, height: u64, hash: &str) {
        let known = self.states.conflicts.len();
        let noted = self.states.note(i, height, hash, None, self.now);
        if self.states.conflicts.len() > known {
            let faults = self.faults_on();
            if let Some(conflict) = self.states.conflicts.get_mut(&height) {
                conflict.faults = faults;
            }
        }
        self.conflicts_changed |= noted != Noted::Agrees;
    }
}
