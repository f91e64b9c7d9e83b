//! `every` and `times`: a fault that strikes again and again.

use super::{A_DAY, Check, Here};
use crate::model::{Action, Fault, Lasts, Ms, REPEAT_ROOM, Repeat};
use crate::scenario::diag::Problem;
use crate::scenario::explain as code;
use crate::scenario::forecast;
use crate::scenario::raw::{At, Time};

/// The most times.
const TIMES: u64 = 1000;

/// How often a fault strikes again after the first time, and how long it is from one beginning to the next.
#[derive(Clone, Copy, Debug)]
pub(super) struct Again {
    more: u32,
    every: Ms,
}

impl Check<'_> {
    /// A fault with what it says of its repetition, planned. `None`: a problem was reported.
    pub(super) fn planned(
        &mut self,
        here: &Here,
        said: (Option<&At<Time>>, Option<&At<u64>>),
        fault: Fault,
    ) -> Option<Action> {
        let again = self.again(here, said, &fault)?;
        Some(self.repeated(fault, again))
    }

    /// What a fault says of its repetition. `None`: a problem was reported.
    #[expect(
        clippy::option_option,
        reason = "outside: whether a problem was reported; inside: whether it is repeated"
    )]
    pub(super) fn again(
        &mut self,
        here: &Here,
        (every, times): (Option<&At<Time>>, Option<&At<u64>>),
        fault: &Fault,
    ) -> Option<Option<Again>> {
        let (every, times) = match (every, times) {
            (None, None) => return Some(None),
            (Some(every), Some(times)) => (every, times),
            (Some(At { key, .. }), None) | (None, Some(At { key, .. })) => {
                return self.odd_repeat(
                    key,
                    "`every` says when a fault strikes again, and `times` how often; neither means anything alone",
                    "for example `every = \"6s\", times = 4`",
                );
            }
        };
        if let Some(why) = here.once {
            return self.odd_repeat(
                &every.key,
                &format!("no fault can be repeated here: {why}"),
                "leave `every` and `times` out",
            );
        }
        let at_most = self.number(Some(times), "times", 2, TIMES);
        let apart = self.time(Some(every), Ms(1), A_DAY)?;
        let own = match fault.lasts {
            Lasts::For(lasts) => lasts,
            _ if self.plan.comes_back(fault) => Ms(0),
            _ => {
                let how = if here.word == "kill" { "down" } else { "for" };
                return self.odd_repeat(
                    &every.key,
                    "only a fault that ends by itself can strike again",
                    &format!("say how long each lasts: `{how} = \"2s\"`"),
                );
            }
        };
        let least = own + REPEAT_ROOM;
        if apart < least {
            let message = format!(
                "`every` leaves no room: each lasts {own}, and {REPEAT_ROOM} more is needed to see its end and the next effect, {least} in all, not {apart}"
            );
            return self.odd_repeat(&every.at, &message, "let `every` be longer, or each fault shorter");
        }
        let more = u32::try_from(at_most? - 1).ok()?;
        let (run, passed) = (self.plan.limits.run, self.timeline.elapsed);
        let whole = Ms(apart.0.saturating_mul(u64::from(more))) + own;
        if passed + whole > run {
            let mut problem = Problem::new(
                code::RUN_LIMIT,
                &every.key,
                format!(
                    "up to the end of its last time this fault alone takes {}, but the run may last {run}",
                    passed + whole
                ),
            )
            .label("the limit is passed here")
            .help("raise `run` under [limits], or repeat it less");
            if let Some(limit) = &self.run_limit {
                problem = problem.related(limit, "the limit");
            }
            self.problems.push(problem);
            return None;
        }
        Some(Some(Again { more, every: apart }))
    }

    /// A fault that is planned, with its repetitions.
    pub(super) fn repeated(&mut self, fault: Fault, again: Option<Again>) -> Action {
        let step = self.current;
        let Some(Again { more, every }) = again else {
            return self.fault(fault);
        };
        let after = |time: u32| Ms(every.0.saturating_mul(u64::from(time)));
        let repeats = (1..=more).map(|time| Repeat {
            step,
            after: after(time),
            fault: Fault {
                id: format!("{}.{}", fault.id, time + 1),
                ..fault.clone()
            },
        });
        self.plan.repeats.extend(repeats);
        let latest = after(more) + self.plan.repeat_slip(&fault) + forecast::injection(&self.plan, &fault);
        let action = self.fault(fault);
        if let Some(live) = self.timeline.faults.last_mut() {
            live.repeated = latest;
        }
        action
    }

    fn odd_repeat<T>(&mut self, at: &std::ops::Range<usize>, message: &str, help: &str) -> Option<T> {
        self.odd(code::REPEAT, at, message, "cannot be repeated so", help)
    }
}
