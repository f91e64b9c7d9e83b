//! What the run says in the end: the findings together, the evidence that is missing, the report.

use std::collections::BTreeMap;

use super::agreement::{Agreement, Conflict, Group};
use super::expect::what_words;
use super::faults::{Life, STEADY};
use super::notes::{Draft, Note};
use super::{Answer, GAP, Judge, WITNESSES, list, short};
use crate::model::verdict::{Class, Coverage, FaultReport, Finding, Report, StepEnd, StepReport, Verdict};
use crate::model::{Action, FORMAT, FaultKind, Invariant, Lasts, Ms, Step};
use crate::quorum::Forecast;
use crate::record::Header;

/// From this height on, states of the application have to have been seen: they are asked for once a second only.
const STATES_FROM: u64 = 10;

impl Judge {
    pub(super) fn make_report(&self) -> Report {
        let mut notes = self.notes.list.clone();
        if self.ended.is_none() {
            let faults = self.faults_on();
            let alone = |draft| Note {
                draft,
                faults: faults.clone(),
                more: 0,
                last: None,
            };
            notes.extend(self.missing_at_end().into_iter().map(alone));
        }
        notes.extend(self.conflict_notes());
        let mut findings: Vec<Finding> = notes.iter().map(|note| self.finding(note)).collect();
        findings.sort_by(|a, b| (a.class, a.since_ms, &a.code, &a.node).cmp(&(b.class, b.since_ms, &b.code, &b.node)));
        let verdict = findings.first().map_or(Verdict::Passed, |worst| worst.class);
        Report {
            format: FORMAT,
            verdict,
            scenario: self.plan.scenario.clone(),
            seed: self.plan.seed,
            backend: self.plan.backend,
            coverage: self.coverage(),
            findings,
            steps: self.plan.steps.iter().map(|step| self.step_report(step)).collect(),
            faults: (self.faults.iter())
                .filter(|life| life.planned.is_some() || life.fault.kind != FaultKind::Upgrade)
                .map(|life| self.fault_report(life))
                .collect(),
            upgrades: self.upgrade_reports(),
            mixed: self.mixed_reports(),
            versions: self.versions_now(),
            timings: self.timings(),
            off: self.plan.invariants.off.iter().copied().collect(),
        }
    }

    /// What has been found since the last call.
    pub(super) fn announce(&mut self) -> Vec<Finding> {
        let mut fresh = Vec::new();
        if self.conflicts_changed && self.witnessed() {
            self.conflicts_changed = false;
            for note in self.conflict_notes() {
                if self
                    .conflicts_announced
                    .insert((note.draft.code.clone().into_owned(), note.draft.node))
                {
                    fresh.push(self.finding(&note));
                }
            }
        }
        fresh.extend(self.notes.list[self.announced..].iter().map(|note| self.finding(note)));
        self.announced = self.notes.list.len();
        fresh
    }

    /// Whether every node that answers has spoken of some conflict, or has had its time.
    fn witnessed(&self) -> bool {
        let silent = |i: usize, conflict: &Conflict| {
            !self.silence_excused(i) && !conflict.groups.iter().any(|group| group.who.contains(i))
        };
        self.conflicts().any(|conflict| {
            self.now > conflict.since + WITNESSES || !(0..self.nodes.len()).any(|i| silent(i, conflict))
        })
    }

    /// When a conflict is no longer held back.
    pub(super) fn witnesses_due(&self) -> Option<Ms> {
        let first = self.conflicts().map(|conflict| conflict.since).min();
        first.filter(|_| self.conflicts_changed).map(|since| since + WITNESSES)
    }

    fn conflicts(&self) -> impl Iterator<Item = &Conflict> {
        let tables = [&self.blocks, &self.states].into_iter();
        let conflicts = tables.flat_map(|table| table.conflicts.values());
        conflicts.filter(|conflict| conflict.between_nodes())
    }

    fn finding(&self, note: &Note) -> Finding {
        let draft = &note.draft;
        let mut seen = self.with_complaint(draft);
        if note.more > 0 {
            let times = if note.more == 1 {
                "once".to_owned()
            } else {
                format!("{} times", note.more)
            };
            let last = note
                .last
                .map(|height| format!(", last at height {height}"))
                .unwrap_or_default();
            seen = format!("{seen}; and {times} more{last}");
        }
        let mut class = draft.class;
        // What rests on a fault that had no effect proves nothing of the chain.
        let broken = draft
            .rests_on
            .iter()
            .map(|at| &self.faults[*at])
            .find(|life| life.no_effect.is_some());
        let why = match broken {
            Some(life) => Some(format!("\"{}\" had no effect", life.fault.id)),
            None => draft
                .step
                .filter(|step| self.is_expect(*step))
                .and_then(|step| self.tainted(step)),
        };
        if let Some(why) = why
            && (broken.is_some() || draft.code.starts_with("expect/") || class == Class::Inconclusive)
        {
            class = Class::Infrastructure;
            seen = format!("{seen}; but {why}");
        }
        Finding {
            code: draft.code.clone().into_owned(),
            class,
            node: draft.node.map(|i| self.nodes[i].name.clone()),
            height: draft.height,
            expected: draft.expected.clone(),
            seen,
            since_ms: self.since_ready(draft.since),
            faults: note.faults.clone(),
            step: draft.step,
        }
    }

    /// Milliseconds from *ready*; as long as there is none, from the last record.
    pub(super) fn since_ready(&self, at: Ms) -> i64 {
        let signed = |ms: Ms| i64::try_from(ms.0).unwrap_or(i64::MAX);
        signed(at) - signed(self.ready.unwrap_or(self.now))
    }

    /// Why what was judged of this step proves nothing: a fault in its window had no effect, or was not taken back.
    pub(super) fn tainted(&self, step: usize) -> Option<String> {
        let track = &self.steps[step];
        let began = track.began.filter(|_| self.is_expect(step))?;
        let until = track
            .decided
            .as_ref()
            .map_or(self.closed.unwrap_or(self.now), |(at, _)| *at);
        self.faults.iter().find_map(|life| {
            let id = &life.fault.id;
            let end = life.revert_verified.unwrap_or(Ms(u64::MAX));
            // Steps follow one another: what began in the moment of the decision came after it.
            let in_window = |from: Ms| from < until && began <= end;
            if life.no_effect.is_some() && life.planned.is_some_and(in_window) {
                return Some(format!("\"{id}\" had no effect"));
            }
            let stuck = life.stuck.map(|stuck| life.ending.or(life.reverted).unwrap_or(stuck));
            stuck
                .is_some_and(in_window)
                .then(|| format!("\"{id}\" could not be taken back"))
        })
    }

    /// Forks and differing application states, from all that is known now of who said what: the nodes in the smaller group are
    /// the ones that are named.
    fn conflict_notes(&self) -> Vec<Note> {
        let mut notes = Vec::new();
        if !self.off(Invariant::Fork) {
            self.notes_of(&self.blocks, "safety/fork", "block", &mut notes);
        }
        if !self.off(Invariant::AppState) {
            self.notes_of(&self.states, "safety/app-state", "application state", &mut notes);
        }
        notes
    }

    fn notes_of(&self, table: &Agreement, code: &'static str, what: &str, notes: &mut Vec<Note>) {
        let mut by_node: BTreeMap<usize, usize> = BTreeMap::new();
        for (height, conflict) in table.conflicts.iter().filter(|(_, conflict)| conflict.between_nodes()) {
            let (most, others) = conflict.split();
            for group in others {
                for node in group.who.iter() {
                    if let Some(&at) = by_node.get(&node) {
                        let note: &mut Note = &mut notes[at];
                        note.more += 1;
                        note.last = Some(*height);
                        continue;
                    }
                    by_node.insert(node, notes.len());
                    notes.push(Note {
                        draft: Draft {
                            node: Some(node),
                            height: Some(*height),
                            expected: format!("one {what} at a height: {}", self.group_words(most)),
                            seen: self.group_words(group),
                            ..Draft::new(code, Class::SafetyViolated, conflict.since)
                        },
                        faults: conflict.faults.clone(),
                        more: 0,
                        last: None,
                    });
                }
            }
        }
        if let Some(note) = notes.last_mut().filter(|_| table.beyond > 0) {
            note.more += table.beyond;
        }
    }

    fn group_words(&self, group: &Group) -> String {
        let others = group.who.len().saturating_sub(1);
        let more = if others == 0 {
            String::new()
        } else {
            format!(" and {others} more")
        };
        let header = group.header.as_deref().map(header_words).unwrap_or_default();
        format!("{} from {}{more}{header}", group.hash, self.nodes[group.first].name)
    }

    /// What the recovery after the last step still waits for.
    pub(super) fn unsettled(&self) -> Vec<(Option<usize>, String)> {
        let Some((mark, _)) = self.settle_mark else {
            return vec![(None, "the end of the last step".to_owned())];
        };
        let mut missing = Vec::new();
        let mut stays = Vec::new();
        for (at, life) in self.faults.iter().enumerate().filter(|(_, life)| life.declared()) {
            if life.may_stay() || life.broken() {
                stays.push(at);
            } else {
                missing.push((None, format!("the revert of \"{}\"", life.fault.id)));
            }
        }
        let (forecast, quorum_side) = self.under(&stays);
        let held = |i: usize| stays.iter().any(|at| self.faults[*at].targets.contains(&i));
        if forecast == Forecast::MustGoOn {
            for (i, node) in self.nodes.iter().enumerate() {
                // A node that was started late has to come in now, though the arithmetic does not count it yet.
                let counts = quorum_side[i] || node.join_by.is_some();
                if node.started && !node.troubled && counts && !held(i) && node.settled < STEADY {
                    missing.push((
                        Some(i),
                        format!("{} above height {mark} and with the others", node.words()),
                    ));
                }
            }
        }
        if let Some((count, first)) = self.holes() {
            missing.push((
                None,
                format!("{count} heights from {first} on compared between two nodes"),
            ));
        }
        missing
    }

    /// M may have grown while a fault was being taken back: recovery counts from the last one.
    pub(super) fn settle_anew(&mut self) {
        if self.settle_mark.is_none() || self.settle_judged {
            return;
        }
        self.settle_mark = Some((self.heights.m, self.now));
        for node in &mut self.nodes {
            node.settled = 0;
        }
    }

    pub(super) fn settle_due(&self) -> Option<Ms> {
        Some(self.settle_mark?.1 + self.plan.limits.settle)
    }

    /// The recovery after the last step has a limit.
    pub(super) fn settle(&mut self) {
        if self.settle_judged || self.settle_due().is_none_or(|due| self.now <= due) {
            return;
        }
        self.settle_judged = true;
        if self.interrupted || self.ground_gone {
            return;
        }
        let since = self.settle_mark.map_or(self.now, |(_, from)| from);
        for (i, words) in self.unsettled() {
            let Some(i) = i else { continue };
            let draft = Draft {
                node: Some(i),
                height: self.nodes[i].last.as_ref().map(|seen| seen.height),
                expected: format!("recovery within {} after the last step", self.plan.limits.settle),
                seen: format!("awaited: {words}; Q is {}", self.heights.q),
                ..Draft::new("liveness/not-recovered", Class::LivenessFailed, since)
            };
            self.find_unless_starved(draft, self.plan.limits.settle);
        }
    }

    /// Heights that had to be compared and were not: how many, and the first. Where fewer than two nodes that no declared fault
    /// holds have a height, there is nothing to compare it with.
    fn holes(&self) -> Option<(u64, u64)> {
        let free = |(i, node): (usize, &super::nodes::Track)| {
            (node.started && !node.troubled && !self.under_fault(i)).then_some(node.best)
        };
        let mut best: Vec<u64> = self.nodes.iter().enumerate().filter_map(free).collect();
        best.sort_unstable_by(|a, b| b.cmp(a));
        let second = self.tips.below(best.get(1).copied().unwrap_or(0));
        self.blocks.holes(self.goal()?.min(second))
    }

    /// Q up to which heights have to be compared: at the end of the last step; in a run without one, two seconds before its end,
    /// since headers are read after the heights.
    fn goal(&self) -> Option<u64> {
        let q = self.goal.or_else(|| {
            let end = self.closed.unwrap_or(self.now);
            self.ready?;
            Some(self.heights.q_at(Ms(end.0.saturating_sub(2000))))
        });
        q.map(|q| self.tips.below(q))
    }

    fn coverage(&self) -> Coverage {
        let of = self.goal().unwrap_or(0);
        let holes = self.blocks.holes(of).map_or(0, |(count, _)| count);
        Coverage {
            compared: of - holes.min(of),
            of,
            app_states: self.states.compared(),
        }
    }

    /// The worst class so far.
    fn worst(&self) -> Class {
        let notes = self.notes.list.iter().chain(&[]).map(|note| self.finding(note).class);
        let conflicts = self.conflict_notes().into_iter().map(|note| note.draft.class);
        notes.chain(conflicts).min().unwrap_or(Class::Passed)
    }

    /// Observation ends here: what evidence is missing? Where the run has failed for a known reason, that is the answer.
    pub(super) fn close(&mut self) {
        if self.settle_mark.is_some() && !self.settle_judged && self.worst() >= Class::Inconclusive {
            let missing = self.unsettled();
            if missing.iter().any(|(i, _)| i.is_some()) {
                self.find(Draft {
                    expected: "recovery after the last step is awaited to its end or its limit".to_owned(),
                    seen: format!("still awaited: {}", list(missing.into_iter().map(|(_, words)| words))),
                    ..Draft::new("evidence/not-evaluated", Class::Inconclusive, self.now)
                });
            }
        }
        let Some(ready) = self.ready.filter(|_| self.worst() >= Class::Inconclusive) else {
            return;
        };
        let now = self.now;
        if self.nodes.iter().all(|node| node.last.is_none()) {
            self.find(Draft {
                expected: "samples of the nodes".to_owned(),
                seen: "no node gave a single one".to_owned(),
                ..Draft::new("evidence/no-samples", Class::Inconclusive, ready)
            });
            return;
        }
        for i in 0..self.nodes.len() {
            if self.silence_excused(i) || self.under_fault(i) {
                continue;
            }
            let heard = self.nodes[i].heard.unwrap_or(ready);
            if self.nodes[i].last.is_none() {
                self.find(Draft {
                    node: Some(i),
                    expected: "a sample of each node that was started and has no declared fault".to_owned(),
                    seen: "not a single one".to_owned(),
                    ..Draft::new("evidence/unreachable", Class::Inconclusive, ready)
                });
            } else if now.since(heard) > GAP.max(self.plan.invariants.max_stall) {
                self.gap_found(i, heard, now.since(heard));
            }
        }
        let met = |track: &super::expect::StepTrack| matches!(track.decided, Some((_, Answer::Met(_))));
        if self.heights.q <= self.q_ready && !self.steps.iter().any(met) {
            self.find(Draft {
                height: Some(self.heights.q),
                expected: "an expectation that held, or growth".to_owned(),
                seen: format!("no expectation held and nothing grew; {}", self.heights_words()),
                ..Draft::new("evidence/nothing-grew", Class::Inconclusive, ready)
            });
        }
        self.states_seen(ready);
        if self.off(Invariant::Coverage) {
            return;
        }
        if let Some((count, first)) = self.holes() {
            self.find(Draft {
                height: Some(first),
                expected: "the hash of every height from two nodes or more".to_owned(),
                seen: format!("{count} heights from fewer, the first is {first}"),
                ..Draft::new("evidence/coverage", Class::Inconclusive, ready)
            });
        }
    }

    /// In a run of some length the application's states have to be looked at. That they were given for common heights cannot be
    /// asked for: some programs give the state of the moment only.
    fn states_seen(&mut self, ready: Ms) {
        let answered = self.nodes.iter().filter(|node| node.last.is_some()).count();
        let long = self.heights.q >= STATES_FROM && self.now.since(ready) >= GAP;
        if self.off(Invariant::AppState) || answered < 2 || !long || !self.states.is_empty() {
            return;
        }
        self.find(Draft {
            height: Some(self.heights.q),
            expected: "the application's state from the nodes, to compare it".to_owned(),
            seen: "no node gave a single one".to_owned(),
            ..Draft::new("evidence/app-state", Class::Inconclusive, ready)
        });
    }

    /// What is missing once there are no more records.
    pub(super) fn missing_at_end(&self) -> Vec<Draft> {
        let mut missing = Vec::new();
        let now = self.now;
        if self.ended.is_none() {
            missing.push(Draft {
                expected: "records to the end of the run".to_owned(),
                seen: format!("the last record is of {} after the start", short(now)),
                ..Draft::new("run/cut-off", Class::Interrupted, now)
            });
            return missing;
        }
        if self.worst() < Class::Inconclusive {
            return missing;
        }
        let inconclusive = |code, since, expected: &str, seen: String| Draft {
            expected: expected.to_owned(),
            seen,
            ..Draft::new(code, Class::Inconclusive, since)
        };
        if self.ready.is_none() {
            let seen = self
                .waiting_for_ready()
                .unwrap_or_else(|| "ready was not recorded".to_owned());
            missing.push(inconclusive(
                "evidence/not-ready",
                now,
                "a network that is ready",
                format!("awaited: {seen}"),
            ));
        }
        for step in &self.plan.steps {
            let track = &self.steps[step.index];
            let done = if self.is_expect(step.index) {
                track.decided.is_some()
            } else {
                track.ended.is_some()
            };
            if !done {
                let seen = if track.began.is_some() {
                    "it did not end"
                } else {
                    "it never began"
                };
                missing.push(Draft {
                    step: Some(step.index),
                    ..inconclusive(
                        "evidence/not-evaluated",
                        track.began.unwrap_or(now),
                        &format!("step {} ({}) to its end", step.index + 1, self.title(step)),
                        seen.to_owned(),
                    )
                });
            }
        }
        for life in self.faults.iter().filter(|life| !life.broken()) {
            let id = &life.fault.id;
            if let (Some(planned), None) = (life.planned, life.verified)
                && life.fault.lasts != Lasts::Itself
            {
                let expected = format!("a probe sees the effect of \"{id}\"");
                let draft = inconclusive(
                    "evidence/fault-unverified",
                    planned,
                    &expected,
                    "no such record".to_owned(),
                );
                missing.push(Draft {
                    step: life.step,
                    ..draft
                });
            }
            let step_ended = |step: usize| self.steps[step].ended.is_some();
            if life.comes_again() && life.planned.is_none() && life.step.is_some_and(step_ended) {
                let expected = format!("\"{id}\" begins when its time has come");
                let draft = inconclusive("evidence/not-evaluated", now, &expected, "it never began".to_owned());
                missing.push(Draft {
                    step: life.step,
                    ..draft
                });
            }
            let ended = life.reverted.or(life.verified.filter(|_| !life.may_stay()));
            if let (Some(reverted), None) = (ended, life.revert_verified) {
                let expected = format!("a probe sees that \"{id}\" is gone");
                let draft = inconclusive(
                    "evidence/revert-unverified",
                    reverted,
                    &expected,
                    "no such record".to_owned(),
                );
                missing.push(Draft {
                    step: life.step,
                    ..draft
                });
            }
        }
        missing.extend(self.rehearsal_missing());
        missing
    }

    fn title(&self, step: &Step) -> String {
        if let Some(title) = step.id.as_ref().or(step.name.as_ref()) {
            return title.clone();
        }
        match &step.action {
            Action::Fault(fault) => fault.kind.word().to_owned(),
            Action::Start { nodes } => format!("start {}", list(nodes.iter().cloned())),
            Action::Heal { faults } => format!("heal {}", list(faults.iter().cloned())),
            Action::Wait(time) => format!("wait {time}"),
            Action::Load(load) => format!("load of {} a second", load.rate),
            Action::Tx(tx) => format!("transaction to {}", tx.node),
            Action::Evict { nodes, drain } => {
                let what = if *drain { "drain" } else { "eviction" };
                format!("{what} of {} refused", nodes.join(", "))
            }
            Action::Corrupt(corrupt) => {
                format!("damage to {} of {}", corrupt.file, list(corrupt.nodes.iter().cloned()))
            }
            Action::Upgrade(upgrade) => format!("upgrade to {}", upgrade.to),
            Action::Join { id, .. } => format!("join {id}"),
            Action::Expect(expect) => format!("expect {}", what_words(&expect.what)),
        }
    }

    fn step_report(&self, step: &Step) -> StepReport {
        let track = &self.steps[step.index];
        let fault = self.faults.iter().find(|life| life.step == Some(step.index));
        let (state, seen) = match self.answer(step.index) {
            Answer::Pending(seen) => (
                StepEnd::NotReached,
                if track.began.is_some() { seen } else { String::new() },
            ),
            Answer::Met(seen) => (StepEnd::Ok, seen),
            Answer::Failed(seen) => (StepEnd::Failed, seen),
            Answer::Inconclusive(seen) => (StepEnd::Inconclusive, seen),
        };
        let (state, seen) = match fault {
            _ if let Action::Upgrade(upgrade) = &step.action => {
                let words = self.upgrade_words(step.index, upgrade);
                let seen = if seen.is_empty() {
                    words
                } else {
                    format!("{words}; {seen}")
                };
                (state, seen)
            }
            Some(life) if life.no_effect.is_some() => (StepEnd::Failed, "no probe saw an effect".to_owned()),
            Some(life) if seen.is_empty() => (state, fault_words(life)),
            _ => (state, seen),
        };
        let decided = track.decided.as_ref().map(|(at, _)| *at);
        StepReport {
            index: step.index,
            title: self.title(step),
            state,
            began_ms: track.began.map(|at| self.since_ready(at)),
            ended_ms: track.ended.or(decided).map(|at| self.since_ready(at)),
            seen,
        }
    }

    fn fault_report(&self, life: &Life) -> FaultReport {
        let ms = |at: Option<Ms>| at.map(|at| self.since_ready(at));
        FaultReport {
            id: life.fault.id.clone(),
            kind: life.fault.kind.word().to_owned(),
            targets: life.targets.iter().map(|i| self.nodes[*i].name.clone()).collect(),
            planned_ms: ms(life.planned),
            injected_ms: ms(life.injected),
            verified_ms: ms(life.verified),
            reverted_ms: ms(life.reverted),
            revert_verified_ms: ms(life.revert_verified),
            recovery_ms: life
                .recovered
                .zip(life.revert_verified)
                .map(|(end, start)| end.since(start).0),
            dropped: (life.left.iter())
                .map(|(i, at)| (self.nodes[*i].name.clone(), self.since_ready(*at)))
                .collect(),
            skipped: life.skipped.clone(),
        }
    }

    fn timings(&self) -> BTreeMap<String, u64> {
        let phase = |word: &str| self.phases.get(word).copied();
        let closing = self.closed;
        let last_step = phase("settling").or(closing).or(Some(self.now));
        let spans = [
            ("prepare", self.begun, phase("starting")),
            ("start", phase("starting").or(self.begun), self.ready),
            ("run", self.ready, last_step),
            ("settle", phase("settling"), closing),
            ("teardown", closing, self.ended),
        ];
        let span = |(name, from, to): (&str, Option<Ms>, Option<Ms>)| Some((name.to_owned(), to?.since(from?).0));
        spans.into_iter().filter_map(span).collect()
    }
}

fn header_words(header: &Header) -> String {
    format!(
        " (height {}, parent {}, time {})",
        header.height, header.parent, header.time
    )
}

fn fault_words(life: &Life) -> String {
    match (life.planned, life.verified) {
        (Some(planned), Some(verified)) => format!("verified after {}", short(verified.since(planned))),
        _ => String::new(),
    }
}
