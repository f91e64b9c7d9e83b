//! The rehearsal: what its schedule is drawn from, or the schedule that the file gives.

use std::ops::Range;

use super::{A_DAY, Check, Here};
use crate::model::{Action, Chaos, Fault, FaultKind, Lasts, Ms, Targets, Timed};
use crate::scenario::chaos::{self, Budget, Draw, Kind};
use crate::scenario::diag::Problem;
use crate::scenario::explain as code;
use crate::scenario::raw::{self, At, Time};
use crate::scenario::select::Timeline;

/// How long faults last, and how slow links are, where the file does not say.
const LASTS: (Ms, Ms) = (Ms(500), Ms(3_000));
const LATENCY: (Ms, Ms) = (Ms(20), Ms(200));
/// For so long after its end a fault counts as on, where the file does not say.
const MARGIN: Ms = Ms(3_000);

/// The keys of a schedule that is drawn.
const DRAWN: [&str; 8] = [
    "duration", "every", "for", "kinds", "nodes", "budget", "latency", "margin",
];

/// The faults of a schedule.
const FAULTS: [&str; 7] = ["kill", "pause", "stop", "restart", "partition", "isolate", "delay"];

impl Check<'_> {
    /// Checks the rehearsal, once the steps are known. `begin` is the network before the first of them.
    pub(super) fn chaos(&mut self, raw: Option<&At<raw::Chaos>>, begin: Timeline) {
        let Some(raw) = raw else { return };
        let (false, Some(adapter)) = (!self.sound, self.adapter) else {
            return;
        };
        if self.plan.network.attach.is_some() {
            return self.needs_supervisor("a rehearsal", &raw.key);
        }
        let after = std::mem::replace(&mut self.timeline, begin);
        let found = self.problems.len();
        let settle = self.plan.limits.settle;
        let recovery = match &raw.recovery {
            Some(recovery) => self.time(Some(recovery), Ms::secs(1), Ms::secs(3600)),
            None => Some(settle),
        };
        let halts = raw.halts.as_ref().is_some_and(|halts| halts.value);
        let made = match &raw.schedule {
            Some(schedule) => self.given_schedule(raw, schedule, halts),
            None => self.drawn_schedule(raw, halts),
        };
        self.timeline = after;
        let (Some(recovery), Some((schedule, most, margin))) = (recovery, made) else {
            return;
        };
        if self.problems.len() > found {
            return;
        }
        if schedule.is_empty() {
            let message = "no fault finds room in this rehearsal with this seed";
            let help = "let it last longer, strike more often, or add nodes: the budget leaves room only for what the chain survives";
            return self.odd_chaos(&raw.key, message, help);
        }
        self.chaos_ids(raw, &schedule);
        let end = schedule.iter().map(|timed| timed.at + chaos::held(&timed.fault)).max();
        if let Some(end) = end.filter(|end| *end > self.plan.limits.run) {
            let message = format!(
                "the rehearsal alone takes {end}, but the run may last {}",
                self.plan.limits.run
            );
            let mut problem = Problem::new(code::RUN_LIMIT, &raw.key, message)
                .label("longer than the limit")
                .help("raise `run` under [limits], or shorten the rehearsal");
            if let Some(limit) = &self.run_limit {
                problem = problem.related(limit, "the limit");
            }
            self.problems.push(problem);
        }
        if let (false, Some((at, why))) = (halts, chaos::beyond(&self.plan, adapter.engine(), &schedule)) {
            let place = raw.schedule.as_ref().and_then(|given| given.get(at));
            let message = format!("with `{}` the chain need not go on: {why}", schedule[at].fault.id);
            let problem = Problem::new(code::QUORUM_CHAOS, place.map_or(&raw.key, |place| &place.at), message)
                .label("beyond what the chain tolerates at once")
                .help("strike fewer nodes at once, or say `halts = true` if the chain may halt");
            self.problems.push(problem);
        }
        self.plan.chaos = Some(Chaos {
            schedule,
            recovery,
            halts,
            most,
            margin,
        });
    }

    /// What a schedule is drawn from, and the schedule, the budget in nodes and the margin.
    fn drawn_schedule(&mut self, raw: &At<raw::Chaos>, halts: bool) -> Option<(Vec<Timed>, Option<usize>, Ms)> {
        for (key, there, example) in [
            ("duration", raw.duration.is_some(), "duration = \"30s\""),
            ("every", raw.every.is_some(), "every = \"2s\""),
        ] {
            if !there && !raw.table.iter().any(|(seen, _)| seen == key) {
                let problem = Problem::new(
                    code::MISSING_KEY,
                    &raw.key,
                    format!("a rehearsal that is drawn needs the key `{key}`"),
                )
                .label(format!("`{key}` is missing"))
                .help(format!("for example `{example}`; or give the `schedule` itself"));
                self.problems.push(problem);
            }
        }
        let duration = self.time(raw.duration.as_ref(), Ms::secs(1), A_DAY);
        let every = self.time(raw.every.as_ref(), Ms(50), A_DAY);
        let lasts = self.range(raw.r#for.as_ref(), "for", (Ms(100), Ms::secs(3600)), LASTS);
        let latency = self.range(raw.latency.as_ref(), "latency", (Ms(1), Ms::secs(60)), LATENCY);
        let margin = match &raw.margin {
            Some(margin) => self.time(Some(margin), Ms(0), Ms::secs(600)),
            None => Some(MARGIN),
        };
        let kinds = self.kinds(raw);
        let most = self.budget(raw, halts);
        let nodes = match &raw.nodes {
            Some(selectors) => {
                let nodes = self.select(selectors)?;
                self.all_started(&nodes, selectors).then_some(nodes)
            }
            None => Some(self.timeline.started.clone()),
        };
        let most = most?;
        let draw = Draw {
            duration: duration?,
            every: every?,
            lasts: lasts?,
            kinds: kinds?,
            nodes: nodes?.into_iter().collect(),
            latency: latency?,
            margin: margin?,
            budget: Budget { most, halts },
        };
        let engine = self.adapter?.engine();
        Some((chaos::draw(&self.plan, engine, &draw), most, draw.margin))
    }

    /// The least and the greatest of a duration.
    fn range(
        &mut self,
        range: Option<&At<Vec<At<Time>>>>,
        name: &str,
        limits: (Ms, Ms),
        default: (Ms, Ms),
    ) -> Option<(Ms, Ms)> {
        let Some(range) = range else { return Some(default) };
        let [least, most] = range.as_slice() else {
            let message = format!("`{name}` wants two durations, not {}", range.len());
            let help = format!(
                "the shortest and the longest: `{name} = [\"{}\", \"{}\"]`",
                default.0, default.1
            );
            self.odd_chaos(&range.at, &message, &help);
            return None;
        };
        for (at, time) in [(&least.at, least.value.0), (&most.at, most.value.0)] {
            if time < limits.0 || time > limits.1 {
                let message = format!("`{name}` is from {} to {}, not {time}", limits.0, limits.1);
                self.problems
                    .push(Problem::new(code::OUT_OF_RANGE, at, message).label("out of range"));
                return None;
            }
        }
        if least.value.0 > most.value.0 {
            let message = format!("{} is longer than {}", least.value.0, most.value.0);
            self.odd_chaos(&range.at, &message, "the shorter one comes first");
            return None;
        }
        Some((least.value.0, most.value.0))
    }

    /// The kinds with their weights.
    fn kinds(&mut self, raw: &At<raw::Chaos>) -> Option<Vec<(Kind, u64)>> {
        let weights = raw.kinds.as_ref().map(|kinds| &kinds.value);
        let all = raw::Kinds::default();
        let of = weights.unwrap_or(&all);
        let kinds: Vec<(Kind, Option<&At<u64>>)> = vec![
            (Kind::Kill, of.kill.as_ref()),
            (Kind::Pause, of.pause.as_ref()),
            (Kind::Stop, of.stop.as_ref()),
            (Kind::Restart, of.restart.as_ref()),
            (Kind::Isolate, of.isolate.as_ref()),
            (Kind::Partition, of.partition.as_ref()),
            (Kind::Delay, of.delay.as_ref()),
        ];
        let mut weighted = Vec::new();
        for (kind, weight) in kinds {
            let weight = match (weights, weight) {
                (None, _) => 1,
                (Some(_), None) => 0,
                (Some(_), Some(weight)) => self.number(Some(weight), "a weight", 0, 1_000_000)?,
            };
            if weight > 0 {
                weighted.push((kind, weight));
            }
        }
        let at = raw.kinds.as_ref().map_or(&raw.key, |kinds| &kinds.at);
        if weighted.is_empty() {
            self.odd_chaos(
                at,
                "no kind of fault has a weight",
                "for example `kinds = { kill = 1 }`",
            );
            return None;
        }
        let loses = |kind: &Kind| matches!(kind, Kind::Kill | Kind::Stop | Kind::Restart);
        let ephemeral = self.plan.network.persistence.is_lost(false);
        if ephemeral && weighted.iter().any(|(kind, _)| loses(kind)) {
            let message = "kill, stop and restart take the nodes' data with them, since persistence is \"ephemeral\"";
            let help = "use `persistence = \"volume\"`, or kinds that leave the processes alone: pause, isolate, partition, delay";
            self.odd_chaos(at, message, help);
            return None;
        }
        Some(weighted)
    }

    /// At most so many nodes at once; `Some(None)`: as the engine tolerates.
    #[expect(
        clippy::option_option,
        reason = "outside: whether a problem was reported; inside: the plan's own option"
    )]
    fn budget(&mut self, raw: &At<raw::Chaos>, halts: bool) -> Option<Option<usize>> {
        let (at, most) = match &raw.budget {
            None => (&raw.key, None),
            Some(budget) if budget.value == "f" => (&budget.at, None),
            Some(budget) => match budget.parse::<usize>() {
                Ok(most) if most > 0 => (&budget.at, Some(most)),
                _ => {
                    let message = format!("`budget` cannot be \"{}\"", budget.value);
                    self.odd_chaos(&budget.at, &message, "write \"f\", or a number of nodes such as \"1\"");
                    return None;
                }
            },
        };
        if halts && most.is_none() {
            let message = "`halts = true` lets the chain halt, but the budget is what it survives";
            self.odd_chaos(
                at,
                message,
                "say how many nodes may be struck at once: `budget = \"3\"`",
            );
            return None;
        }
        Some(most)
    }

    /// The schedule of the file.
    fn given_schedule(
        &mut self,
        raw: &At<raw::Chaos>,
        given: &At<Vec<At<raw::Scheduled>>>,
        halts: bool,
    ) -> Option<(Vec<Timed>, Option<usize>, Ms)> {
        for (key, at) in raw.table.iter().filter(|(key, _)| DRAWN.contains(&key.as_str())) {
            // With a halt the number of nodes still counts.
            if key == "budget" {
                continue;
            }
            let message = format!("`{key}` is for a schedule that is drawn, and this one is given");
            self.odd_chaos(at, &message, "leave one of the two out");
        }
        let most = match &raw.budget {
            Some(_) => self.budget(raw, halts)?,
            None => None,
        };
        let mut schedule = Vec::new();
        let calm = self.timeline.clone();
        for (index, scheduled) in given.iter().enumerate() {
            if let Some(timed) = self.scheduled(index, scheduled) {
                schedule.push(timed);
            }
            // Where a fault may be on in the meantime is not for the selectors of the next one to say.
            self.timeline = calm.clone();
        }
        if given.is_empty() {
            self.odd_chaos(&given.at, "the schedule is empty", "add faults, or let one be drawn");
            return None;
        }
        if let Some(early) = schedule.windows(2).position(|pair| pair[1].at < pair[0].at) {
            let (late, early) = (&given[early], &given[early + 1]);
            let problem = Problem::new(code::CHAOS, &early.at, "this fault begins before the one above it")
                .label("out of order")
                .related(&late.at, "begins later")
                .help("faults stand in the order of their beginning");
            self.problems.push(problem);
        }
        (schedule.len() == given.len()).then_some((schedule, most, Ms(0)))
    }

    fn scheduled(&mut self, index: usize, raw: &At<raw::Scheduled>) -> Option<Timed> {
        let found: Vec<(&'static str, Range<usize>)> = raw
            .table
            .iter()
            .filter_map(|(key, at)| Some((FAULTS.into_iter().find(|word| word == key)?, at.clone())))
            .collect();
        let [(word, key)] = found.as_slice() else {
            let message = match found.len() {
                0 => "this fault does nothing".to_owned(),
                count => format!("{count} faults stand in one"),
            };
            let help = format!("exactly one of: {}", FAULTS.join(", "));
            self.odd_chaos(&raw.at, &message, &help);
            return None;
        };
        if let Some(id) = &raw.id {
            self.name("an id", id, 40);
        }
        let here = Here {
            id: raw
                .id
                .as_ref()
                .map_or_else(|| format!("chaos-{}", index + 1), |id| id.value.clone()),
            word,
            key: key.clone(),
            background: false,
            go_on: false,
            once: Some("each time stands in a schedule by itself"),
        };
        let at = self.time(raw.value.at.as_ref(), Ms(0), A_DAY);
        let raw::Scheduled {
            at: _,
            id: _,
            kill,
            pause,
            stop,
            restart,
            partition,
            isolate,
            delay,
            table: _,
        } = &raw.value;
        let action = if let Some(kill) = kill {
            self.kill(&here, kill)
        } else if let Some(pause) = pause {
            self.pause(&here, pause)
        } else if let Some(stop) = stop {
            self.stop(&here, stop)
        } else if let Some(restart) = restart {
            self.restart(&here, restart)
        } else if let Some(partition) = partition {
            self.partition(&here, partition)
        } else if let Some(isolate) = isolate {
            self.isolate(&here, isolate)
        } else {
            self.delay(&here, delay.as_ref()?)
        };
        let Action::Fault(fault) = action? else {
            self.odd_chaos(
                key,
                "this is no fault that a schedule can hold",
                "name a fault that strikes",
            );
            return None;
        };
        if matches!(&fault.kind, FaultKind::Delay { each, .. } if !each.is_empty()) {
            self.odd_chaos(
                key,
                "a schedule has no regions",
                "put them into a step; delays of the schedule add up with them",
            );
            return None;
        }
        self.ends_by_itself(key, &fault).then_some(())?;
        Some(Timed { at: at?, fault })
    }

    /// Whether a fault of a schedule has known targets and an end of its own.
    fn ends_by_itself(&mut self, key: &Range<usize>, fault: &Fault) -> bool {
        if matches!(fault.targets, Targets::Leader { .. }) {
            let message = "whom a fault of a schedule strikes has to be known beforehand";
            self.odd_chaos(key, message, "name the nodes, or pick by number");
            return false;
        }
        match fault.lasts {
            Lasts::For(_) | Lasts::Itself => true,
            Lasts::UntilHealed | Lasts::Platform => {
                let help = match fault.kind {
                    FaultKind::Kill => "say for how long: `down = \"2s\"`",
                    _ => "say for how long: `for = \"2s\"`",
                };
                self.odd_chaos(key, "nothing ends this fault: no step can heal it", help);
                false
            }
        }
    }

    /// The ids of a schedule are nobody else's.
    fn chaos_ids(&mut self, raw: &At<raw::Chaos>, schedule: &[Timed]) {
        for (index, timed) in schedule.iter().enumerate() {
            let id = &timed.fault.id;
            let given = raw.schedule.as_ref().and_then(|given| given.get(index));
            let at = given.map_or(&raw.key, |given| &given.at).clone();
            let step = self.ids.iter().find(|step| step.id == *id).map(|step| step.at.clone());
            let again = schedule[..index].iter().any(|other| other.fault.id == *id);
            if step.is_none() && !again {
                continue;
            }
            let mut problem = Problem::new(code::DUPLICATE_ID, &at, format!("two faults are called `{id}`"))
                .label("again")
                .help("give one of them another `id`");
            if let Some(step) = step {
                problem = problem.related(&step, "first");
            }
            self.problems.push(problem);
        }
    }

    fn odd_chaos(&mut self, at: &Range<usize>, message: &str, help: &str) {
        let _: Option<()> = self.odd(code::CHAOS, at, message, "no rehearsal", help);
    }
}
