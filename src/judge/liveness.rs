//! Growth, silence, lag and processes.

use super::effects::{is_quorum, weight};
use super::nodes::{Damaged, Found, Quiet, cause_words};
use super::notes::Draft;
use super::{Judge, short};
use crate::model::verdict::Class;
use crate::model::{Action, Invariant, Ms};
use crate::quorum::Forecast;
use crate::record::{NodeEvent, Silence};

/// So many samples in a row have to be too far behind.
const BEHIND: u32 = 3;

/// So long a node on which no fault is may leave requests without an answer. It does not depend on the chain: a node has to answer
/// also while the chain stands still. One request that times out (two seconds) is not enough.
const SILENT: Ms = Ms(3000);

/// Troubles after which nothing can be said of liveness any more: whatever held the nodes is gone.
const GROUND: [&str; 2] = ["infra/guard-died", "infra/lease-lost"];

impl Judge {
    /// The longest stall that is allowed now.
    fn stall_limit(&self) -> Ms {
        self.plan.invariants.max_stall + self.view.slow
    }

    /// Since when Q has to have grown, if it has to grow at all.
    fn stall_from(&self) -> Option<Ms> {
        let judged = self.stalled != Found::Yes && !self.ground_gone && self.view.forecast == Some(Forecast::MustGoOn);
        let ready = self.ready.filter(|_| judged && !self.off(Invariant::MaxStall))?;
        let from = ready.max(self.heights.q_grew).max(self.view.since);
        Some(self.clear_from(self.stalled, from, self.stall_limit()))
    }

    /// The next moment at which a stall can be one.
    pub(super) fn stall_due(&self) -> Option<Ms> {
        Some(self.stall_from()? + self.stall_limit() + Ms(1))
    }

    /// Q has to grow. The open interval counts, up to the last moment at which it was seen not to have grown: where nothing is
    /// observed there is no stall, only silence or a gap.
    pub(super) fn stall(&mut self) {
        let Some(from) = self.stall_from() else { return };
        let limit = self.stall_limit();
        if self.now.since(from) <= limit {
            return;
        }
        let Some(until) = self.seen_still().filter(|until| until.since(from) > limit) else {
            return;
        };
        let q = self.heights.q;
        let seen = format!(
            "Q stayed at {q} for {}; {}",
            short(until.since(from)),
            self.heights_words()
        );
        let draft = Draft {
            height: Some(q),
            expected: format!("growth of the quorum's height within {limit}"),
            seen,
            ..Draft::new("liveness/stall", Class::LivenessFailed, from)
        };
        self.stalled = self.find_unless_starved(draft, limit);
    }

    /// Until when Q certainly did not grow: the latest moment at which nodes without which there is no quorum were seen at Q or
    /// below. A dead process stays where it is.
    pub(super) fn seen_still(&self) -> Option<Ms> {
        let engine = self.net.engine;
        let weigh = |power: &u64| weight(engine, *power);
        let total: u128 = self.net.powers.iter().map(weigh).sum();
        let mut still: Vec<(Ms, u128)> = Vec::new();
        for (node, power) in self.nodes.iter().zip(&self.net.powers) {
            if *power == 0 || node.best > self.heights.q {
                continue;
            }
            let last = node.last.as_ref().map(|seen| seen.sent);
            let until = if node.alive == Some(false) {
                Some(self.now)
            } else {
                last
            };
            still.extend(until.map(|until| (until, weigh(power))));
        }
        still.sort_unstable_by(|a, b| b.cmp(a));
        // Whoever holds the other keys is not seen, and cannot be counted on.
        let mut blocking = self.net.powers.last().map_or(0, weigh);
        still.into_iter().find_map(|(until, weight)| {
            blocking += weight;
            (!is_quorum(engine, total.saturating_sub(blocking), total)).then_some(until)
        })
    }

    /// A node did not answer.
    pub(super) fn silent(&mut self, name: &str, sent: Ms, cause: Silence, detail: &str) {
        let Some(i) = self.index(name) else { return };
        self.heard(i, sent);
        let excused = self.silence_excused(i) || self.ground_gone;
        let node = &mut self.nodes[i];
        if node.last.as_ref().is_some_and(|last| last.sent >= sent) {
            return;
        }
        let tunnel = |cause| cause == Silence::Tunnel;
        let quiet = match &mut node.silence {
            Some(quiet) if tunnel(quiet.cause) == tunnel(cause) => quiet,
            other => other.insert(Quiet {
                since: sent,
                last: sent,
                cause,
                detail: String::new(),
                found: Found::No,
            }),
        };
        quiet.last = quiet.last.max(sent);
        quiet.cause = cause;
        if quiet.detail != detail {
            detail.clone_into(&mut quiet.detail);
        }
        if excused {
            quiet.since = sent;
        }
        self.silence(i);
    }

    fn silence(&mut self, i: usize) {
        let limit = SILENT;
        let node = &self.nodes[i];
        let (Some(quiet), Some(ready)) = (&node.silence, self.ready) else {
            return;
        };
        let since = self.clear_from(quiet.found, quiet.since.max(ready), limit);
        let long = quiet.last.since(since);
        if quiet.found == Found::Yes || long <= limit {
            return;
        }
        let process = match node.alive {
            Some(true) => " while its process is there",
            Some(false) => ", and its process is gone",
            None => "",
        };
        let detail = if quiet.detail.is_empty() {
            String::new()
        } else {
            format!(" ({})", quiet.detail)
        };
        let seen = format!("{} for {}{process}{detail}", cause_words(quiet.cause), short(long));
        let (code, class, expected) = match quiet.cause {
            Silence::Tunnel => (
                "infra/tunnel",
                Class::Infrastructure,
                "trialnet's connection to the node",
            ),
            Silence::Timeout => ("liveness/hang", Class::LivenessFailed, "an answer over RPC"),
            Silence::Refused | Silence::Broken | Silence::Garbage => {
                ("liveness/silent", Class::LivenessFailed, "an answer over RPC")
            }
        };
        let draft = Draft {
            node: Some(i),
            height: Some(node.best),
            expected: format!("{expected} at least every {limit}: no fault is on this node"),
            seen,
            ..Draft::new(code, class, since)
        };
        let found = self.find_unless_starved(draft, limit);
        if let Some(quiet) = &mut self.nodes[i].silence {
            quiet.found = found;
        }
    }

    /// A node that answers has to name validators. Looked at with each of its samples, which come once a second at least.
    pub(super) fn powerless(&mut self, i: usize, sent: Ms) {
        let excused = self.silence_excused(i) || self.ground_gone || self.ready.is_none();
        let node = &mut self.nodes[i];
        let Some((since, found)) = &mut node.powerless else {
            return;
        };
        if excused {
            *since = sent;
        }
        let (since, long) = (*since, sent.since(*since));
        if *found || long <= SILENT {
            return;
        }
        *found = true;
        let draft = Draft {
            node: Some(i),
            height: Some(node.best),
            expected: "a validator set that can decide: no fault is on this node".to_owned(),
            seen: format!("a set without any voting power for {}; it is not believed", short(long)),
            ..Draft::new("liveness/garbage", Class::LivenessFailed, since)
        };
        self.find(draft);
    }

    /// Counts a sample of a node that is too far behind.
    pub(super) fn lag(&mut self, i: usize, height: u64, sent: Ms) {
        // An answer that took long is compared with what the others had when it was asked for.
        let behind = self.heights.q_at(sent).saturating_sub(height);
        let max = self.plan.invariants.max_lag;
        let judged = self.ready.is_some_and(|ready| sent >= ready) && !self.ground_gone && !self.off(Invariant::MaxLag);
        let excused = !judged || behind <= max || self.lag_excused(i);
        let run = &mut self.nodes[i].behind;
        if excused {
            *run = (0, sent);
            return;
        }
        if run.0 == 0 {
            run.1 = sent;
        }
        run.0 += 1;
        let (count, since) = *run;
        if count != BEHIND {
            return;
        }
        let draft = Draft {
            node: Some(i),
            height: Some(height),
            expected: format!("at most {max} blocks behind the quorum"),
            seen: format!(
                "{behind} blocks behind in {BEHIND} samples in a row; {}",
                self.heights_words()
            ),
            ..Draft::new("liveness/lag", Class::LivenessFailed, since)
        };
        if self.find_unless_starved(draft, self.plan.invariants.max_stall) == Found::Unclear {
            // It is counted again from the next on.
            self.nodes[i].behind = (0, sent);
        }
    }

    /// Takes in what happened to a process.
    pub(super) fn process(&mut self, name: &str, event: &NodeEvent) {
        let Some(i) = self.index(name) else { return };
        match event {
            NodeEvent::Started { generation, .. } => self.process_started(i, *generation),
            NodeEvent::Exited { asked: true, .. } => self.process_ended(i),
            NodeEvent::Exited {
                asked: false,
                component,
                code,
                signal,
                tail,
                ..
            } => {
                self.nodes[i].alive = Some(false);
                let how = ending(component, (*code, *signal), tail);
                self.nodes[i].exit = Some(how.clone());
                // That a damaged node does not come up again is the chain's doing, also while the fault that held it down ends.
                let damaged = self.nodes[i].damaged == Damaged::Started;
                if self.exit_excused(i) && !damaged {
                    return;
                }
                self.nodes[i].restarts += 1;
                self.nodes[i].gone = true;
                if self.off(Invariant::Restarts) || self.ground_gone {
                    return;
                }
                // Before the network is ready the chain has promised nothing yet.
                let (code, class) = match self.ready {
                    Some(_) => ("liveness/exit", Class::LivenessFailed),
                    None => ("infra/exit-at-start", Class::Infrastructure),
                };
                self.find(Draft {
                    node: Some(i),
                    height: Some(self.nodes[i].best),
                    expected: "no exit that no step caused".to_owned(),
                    seen: how,
                    ..Draft::new(code, class, self.now)
                });
            }
            NodeEvent::Wiped => {
                let node = &mut self.nodes[i];
                node.wiped = self.now;
                node.floor = 0;
            }
            NodeEvent::Damaged { .. } => {
                let node = &mut self.nodes[i];
                node.wiped = self.now;
                node.floor = 0;
                node.damaged = Damaged::Down;
            }
        }
    }

    fn process_started(&mut self, i: usize, generation: u32) {
        let by_step = self.start_step_runs(i);
        let excused = by_step || self.restart_excused(i) || self.ready.is_none();
        let settle = self.plan.limits.settle;
        let known = self.nodes[i].gone;
        let node = &mut self.nodes[i];
        node.alive = Some(true);
        node.gone = false;
        if node.damaged == Damaged::Down {
            node.damaged = Damaged::Started;
        }
        if !node.started || (by_step && !self.faults.iter().any(|life| life.targets.contains(&i))) {
            node.started = true;
            node.join_by = Some(self.now + settle);
            self.view_stale = true;
            self.mix();
        }
        if generation < 2 || excused || known {
            return;
        }
        self.nodes[i].restarts += 1;
        if self.off(Invariant::Restarts) || self.ground_gone {
            return;
        }
        self.find(Draft {
            node: Some(i),
            height: Some(self.nodes[i].best),
            expected: "no restart that no step caused".to_owned(),
            seen: format!("a process was started for the {generation}. time"),
            ..Draft::new("liveness/restart", Class::LivenessFailed, self.now)
        });
    }

    /// Trialnet ended a process: some step has to have said so.
    fn process_ended(&mut self, i: usize) {
        self.nodes[i].alive = Some(false);
        if self.restart_excused(i) || self.ready.is_none() || self.interrupted {
            return;
        }
        self.nodes[i].gone = true;
        self.find(Draft {
            node: Some(i),
            height: Some(self.nodes[i].best),
            expected: "faults strike the nodes that they name and no others".to_owned(),
            seen: "trialnet ended the process of this node, which no step names".to_owned(),
            ..Draft::new("infra/fault-stronger", Class::Infrastructure, self.now)
        });
    }

    fn start_step_runs(&self, i: usize) -> bool {
        let name = &self.nodes[i].name;
        self.plan.steps.iter().any(|step| {
            let runs = self
                .steps
                .get(step.index)
                .is_some_and(|track| track.began.is_some() && track.ended.is_none());
            runs && matches!(&step.action, Action::Start { nodes } if nodes.contains(name))
        })
    }

    /// Takes in that something outside the chain failed.
    pub(super) fn trouble(&mut self, code: &str, node: Option<&str>, expected: &str, seen: &str) {
        let i = node.and_then(|name| self.index(name));
        if let Some(i) = i {
            self.nodes[i].troubled = true;
        }
        self.ground_gone |= GROUND.contains(&code);
        self.find(Draft {
            node: i,
            expected: expected.to_owned(),
            seen: seen.to_owned(),
            ..Draft::new(code.to_owned(), Class::Infrastructure, self.now)
        });
    }

    /// How late polls were since a moment, at most.
    fn lateness(&self, since: Ms) -> Ms {
        let late = self.late.iter().rev().take_while(|(at, _)| *at >= since);
        late.map(|(_, by)| *by).max().unwrap_or_default()
    }

    pub(super) fn lateness_words(&self, since: Ms) -> String {
        match self.lateness(since) {
            Ms(0) => String::new(),
            by => format!("; polls came up to {} late", short(by)),
        }
    }

    /// Whether trialnet got so little CPU since a moment that a wait of `limit` says nothing of the chain.
    pub(super) fn starved(&self, since: Ms, limit: Ms) -> Option<Ms> {
        let late = self.lateness(since);
        (late > bearable(limit)).then_some(late)
    }

    /// From when on a time is judged: where it could not be told before, from the last poll on that came too late for that.
    fn clear_from(&self, found: Found, from: Ms, limit: Ms) -> Ms {
        let spoils = |(_, by): &&(Ms, Ms)| *by > bearable(limit);
        let last = self.late.iter().rev().find(spoils);
        let after = last.filter(|_| found == Found::Unclear).map(|(at, _)| *at + Ms(1));
        after.map_or(from, |after| from.max(after))
    }

    /// Notes a failure of liveness, or that trialnet itself was starved.
    pub(super) fn find_unless_starved(&mut self, draft: Draft, limit: Ms) -> Found {
        let liveness = draft.class == Class::LivenessFailed;
        let Some(late) = self.starved(draft.since, limit).filter(|_| liveness) else {
            self.find(draft);
            return Found::Yes;
        };
        self.find(Draft {
            expected: format!(
                "polls at most {} late, to judge: {}",
                short(bearable(limit)),
                draft.expected
            ),
            seen: format!("polls up to {} late, and {}", short(late), draft.seen),
            code: "evidence/starved".into(),
            class: Class::Inconclusive,
            ..draft
        });
        Found::Unclear
    }
}

/// What stands before the last lines of a log.
pub(super) const LAST_LINES: &str = "; its last lines: ";

/// How a process ended, with the last lines of its log.
fn ending(component: &str, (code, signal): (Option<i32>, Option<i32>), tail: &[String]) -> String {
    let how = match (code, signal) {
        (_, Some(signal)) => format!("ended by signal {signal}"),
        (Some(code), None) => format!("exited with code {code}"),
        (None, None) => "ended".to_owned(),
    };
    let lines: Vec<&str> = tail.iter().rev().take(5).rev().map(String::as_str).collect();
    if lines.is_empty() {
        return format!("{component} {how}");
    }
    format!("{component} {how}{LAST_LINES}{}", lines.join(" | "))
}

/// How late a poll may come at most, where a time of `limit` is judged.
const fn bearable(limit: Ms) -> Ms {
    Ms(limit.0 / 5)
}
