//! The rehearsal: whether there is room for its next fault, and that its targets come back from each.

use super::Judge;
use super::effects::{effect_of, forecast};
use super::faults::Life;
use super::notes::Draft;
use crate::model::Ms;
use crate::model::verdict::Class;
use crate::quorum::Forecast;

impl Judge {
    /// Whether a fault of the rehearsal may strike now. What a fault has struck counts until it is with the others again, or its limit
    /// for that has passed, so that a schedule that went slower than it was drawn still never takes more than its budget.
    ///
    /// # Errors
    /// Why not, in words.
    pub fn room_for(&self, id: &str) -> Result<(), String> {
        let Some(chaos) = &self.plan.chaos else { return Ok(()) };
        let Some(life) = self.faults.iter().find(|life| life.fault.id == id) else {
            return Ok(());
        };
        let wanted = self.plan.struck(&life.fault);
        let mut struck = wanted.clone();
        let in_force: Vec<usize> = (0..self.faults.len())
            .filter(|at| self.faults[*at].in_force(self.now))
            .collect();
        for other in in_force.iter().map(|at| &self.faults[*at]) {
            let theirs = self.struck_by(other);
            if let Some(node) = wanted.intersection(&theirs).next() {
                let name = &self.nodes[*node].name;
                let (word, other_id) = (other.fault.kind.word(), &other.fault.id);
                return Err(if other.declared() {
                    format!("the {word} of {other_id} is still on {name}")
                } else {
                    format!("{name} is not with the others again after the {word} of {other_id}")
                });
            }
            struck.extend(theirs);
        }
        if let Some(most) = chaos.most.filter(|most| struck.len() > *most) {
            return Err(format!(
                "{} nodes would be struck at once, more than {most}",
                struck.len()
            ));
        }
        if chaos.halts {
            return Ok(());
        }
        let mut effects = self.effects(&in_force, &self.absent());
        effects.extend(effect_of(&self.plan, &life.fault, &life.targets));
        if forecast(&self.net, &effects) == Forecast::MustGoOn {
            return Ok(());
        }
        let why = crate::quorum::reckon(&self.net, &effects).why;
        Err(format!("the chain need not go on then: {why}"))
    }

    /// The nodes that a fault has taken out, as far as they are known.
    fn struck_by(&self, life: &Life) -> std::collections::BTreeSet<usize> {
        match &life.fault.targets {
            crate::model::Targets::Nodes(_) => self.plan.struck(&life.fault),
            crate::model::Targets::Leader { .. } => life.targets.iter().copied().collect(),
        }
    }

    /// Whether no fault of the rehearsal is on.
    #[must_use]
    pub fn at_rest(&self) -> bool {
        let rehearsed = self.faults.iter().filter(|life| life.step.is_none());
        !rehearsed.into_iter().any(|life| life.declared() && !life.broken())
    }

    /// When the targets of a reverted fault of the rehearsal have to be with the others again; `None` while nothing is demanded of them.
    pub(super) fn overdue_at(&self, at: usize) -> Option<Ms> {
        let life = &self.faults[at];
        let asked = life.step.is_none() && life.recovered.is_none() && !life.overdue_judged && !life.broken();
        let from = life.revert_verified.filter(|_| asked)?;
        Some(from.max(self.view.goes_on?) + life.patience)
    }

    /// The targets of each fault of the rehearsal come back in time.
    pub(super) fn overdue(&mut self) {
        for at in 0..self.faults.len() {
            if self.overdue_at(at).is_none_or(|due| self.now <= due) {
                continue;
            }
            self.faults[at].overdue_judged = true;
            if self.interrupted || self.ground_gone {
                continue;
            }
            let life = &self.faults[at];
            let (word, id, patience) = (life.fault.kind.word(), life.fault.id.clone(), life.patience);
            let since = life.revert_verified.unwrap_or(self.now);
            // Those that another fault holds are asked for after that.
            for i in self.returning(at) {
                let node = &self.nodes[i];
                if !node.started || node.troubled {
                    continue;
                }
                let draft = Draft {
                    node: Some(i),
                    height: node.last.as_ref().map(|seen| seen.height),
                    expected: format!("with the others again within {patience} after the {word} of {id}"),
                    seen: format!("{}; Q is {}", node.words(), self.heights.q),
                    ..Draft::new("liveness/not-recovered", Class::LivenessFailed, since)
                };
                self.find_unless_starved(draft, patience);
            }
        }
    }

    /// A rehearsal in which nothing struck has tried nothing.
    pub(super) fn rehearsal_missing(&self) -> Option<Draft> {
        let rehearsed = || self.faults.iter().filter(|life| life.step.is_none());
        let all = rehearsed().count();
        if all == 0 || rehearsed().any(|life| life.verified.is_some()) {
            return None;
        }
        let skipped = rehearsed().filter(|life| life.skipped.is_some()).count();
        Some(Draft {
            expected: "a fault of the rehearsal whose effect was seen".to_owned(),
            seen: format!("none of {all}; {skipped} were left out"),
            ..Draft::new(
                "evidence/nothing-rehearsed",
                Class::Inconclusive,
                self.ready.unwrap_or(self.now),
            )
        })
    }
}
