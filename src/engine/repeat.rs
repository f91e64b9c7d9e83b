//! Faults that a step repeats (`every`, `times`): the second and all further times, beside the steps that follow.

use std::sync::{Arc, Mutex};

use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::faults::Request;
use super::steps::Network;
use super::{Message, lock};
use crate::model::{Action, Repeat, Step};
use crate::record::{FaultState, Record};

/// A series under way, for whoever heals it.
#[derive(Clone, Debug)]
pub(super) struct Series {
    /// No further time begins.
    healed: CancellationToken,
    /// It has ended: no time of it begins any more.
    over: CancellationToken,
    /// The id of the last fault that began.
    last: Arc<Mutex<String>>,
}

impl Series {
    /// Ends the series; the fault of it that may still be on.
    pub(super) async fn end(&self) -> String {
        self.healed.cancel();
        self.over.cancelled().await;
        lock(&self.last).clone()
    }
}

impl Network {
    /// Strikes again after the fault of a step, whose effect has just been verified, as often as the plan says.
    pub(super) fn repeat(self: &Arc<Self>, step: &Step, beside: &mut JoinSet<()>) {
        let Action::Fault(first) = &step.action else { return };
        let of_step = self.plan.repeats.iter().filter(|repeat| repeat.step == step.index);
        let repeats: Vec<Repeat> = of_step.cloned().collect();
        if repeats.is_empty() {
            return;
        }
        let series = Series {
            healed: CancellationToken::new(),
            over: CancellationToken::new(),
            last: Arc::new(Mutex::new(first.id.clone())),
        };
        lock(&self.series).insert(first.id.clone(), series.clone());
        let (network, verified) = (Arc::clone(self), Instant::now());
        beside.spawn(async move {
            let _over = series.over.clone().drop_guard();
            let mut left = repeats.into_iter();
            while let Some(repeat) = left.next() {
                tokio::select! {
                    biased;
                    () = series.healed.cancelled() => {}
                    () = tokio::time::sleep_until(verified + repeat.after.duration()) => {
                        if !network.strike_again(&repeat, &series).await {
                            return;
                        }
                    }
                }
                if series.healed.is_cancelled() {
                    let struck = *lock(&series.last) == repeat.fault.id;
                    let rest = (!struck).then_some(repeat).into_iter().chain(left);
                    return rest.for_each(|repeat| network.leave_out(&repeat));
                }
            }
        });
    }

    /// One more time, once the one before is over; whether the series goes on.
    async fn strike_again(&self, Repeat { fault, .. }: &Repeat, series: &Series) -> bool {
        let before = lock(&series.last).clone();
        let slip = self.plan.repeat_slip(fault);
        let over = self.desk.ask_within(slip, |reply| Message::Over(before.clone(), reply));
        let over = tokio::select! {
            biased;
            () = series.healed.cancelled() => return true,
            over = over => over,
        };
        if over.is_none() {
            self.desk.record(Record::Trouble {
                code: "infra/repeat-late".to_owned(),
                node: None,
                expected: format!("\"{before}\" is over when \"{}\" begins, at most {slip} late", fault.id),
                seen: "a probe did not see its end; let `every` be longer".to_owned(),
            });
            return false;
        }
        let targets = match self.targets_now(fault).await {
            Ok(targets) => targets,
            Err(seen) => {
                self.desk.record(Record::Trouble {
                    code: "infra/fault-failed".to_owned(),
                    node: None,
                    expected: format!("a target for \"{}\" ({})", fault.id, fault.kind.word()),
                    seen,
                });
                return false;
            }
        };
        lock(&series.last).clone_from(&fault.id);
        let struck = self
            .faults
            .ask(|reply| Request::Inject(fault.clone(), targets, reply))
            .await;
        // Why it had no effect, or could not be injected, is in the records, and the judge has heard it.
        let struck = struck.and_then(|struck| struck);
        struck.inspect_err(|seen| tracing::warn!("{seen}")).is_ok()
    }

    /// What a `heal` has left of a series.
    fn leave_out(&self, Repeat { fault, .. }: &Repeat) {
        self.desk.record(Record::Fault {
            id: fault.id.clone(),
            state: FaultState::Skipped,
            targets: fault.targets.nodes().to_vec(),
            detail: "it was healed before its time".to_owned(),
        });
    }

    /// Ends the series among these faults, and then what is on.
    pub(super) async fn heal(&self, ids: &[String]) -> Result<(), String> {
        let mut on = Vec::new();
        for id in ids {
            let series = lock(&self.series).remove(id);
            on.push(match series {
                Some(series) => series.end().await,
                None => id.clone(),
            });
        }
        self.faults.ask(|reply| Request::Heal(on, reply)).await?
    }
}
