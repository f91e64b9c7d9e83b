//! The rehearsal: walks the schedule of `[chaos]` beside the steps.

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Message;
use super::faults::Request;
use super::steps::Network;
use crate::model::{FaultKind, Timed};
use crate::record::{FaultState, Record};

impl Network {
    /// Injects each fault when its time has come, counted from now on, and returns when the last of them is over.
    ///
    /// One after the other, so that each is seen to have its effect before the next one changes what is to be seen; a restart, which is
    /// over only when its node answers again, runs beside. For what there is no room is left out, and the records say why.
    pub(super) async fn rehearse(&self) {
        let Some(chaos) = &self.plan.chaos else { return };
        let ready = Instant::now();
        let mut beside = JoinSet::new();
        for timed in &chaos.schedule {
            tokio::time::sleep_until(ready + timed.at.duration()).await;
            self.strike(timed, &mut beside).await;
        }
        while beside.join_next().await.is_some() {}
        self.desk.ask(Message::AtRest).await;
    }

    async fn strike(&self, Timed { at: _, fault }: &Timed, beside: &mut JoinSet<()>) {
        let targets = fault.targets.nodes().to_vec();
        if let Err(why) = self.desk.ask(|reply| Message::Room(fault.id.clone(), reply)).await {
            self.desk.record(Record::Fault {
                id: fault.id.clone(),
                state: FaultState::Skipped,
                targets,
                detail: why,
            });
            return;
        }
        let (faults, fault) = (self.faults.clone(), fault.clone());
        let apart = fault.kind == FaultKind::Restart;
        let injecting = async move {
            // Why it had no effect, or could not be injected, is in the records, and the judge has heard it.
            if let Ok(Err(seen)) | Err(seen) = faults.ask(|reply| Request::Inject(fault, targets, reply)).await {
                tracing::warn!("{seen}");
            }
        };
        if apart {
            beside.spawn(injecting);
        } else {
            injecting.await;
        }
    }
}
