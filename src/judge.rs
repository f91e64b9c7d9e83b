//! The judge: records in, findings out. A pure fold: no clock, no I/O; the same live and offline.

use crate::model::verdict::{Finding, Report};
use crate::model::{Ms, Plan};
use crate::record::Stamped;

/// Folds records into findings.
#[derive(Debug)]
pub struct Judge {
    plan: Plan,
}

/// What the judge says of an `expect` step so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Not decided; what was seen last.
    Pending(String),
    /// It held; what was seen.
    Met(String),
    /// It did not hold; there is a finding with this step's index.
    Failed(String),
    /// It cannot be told, and why.
    Inconclusive(String),
}

impl Judge {
    /// A judge for a plan, before the first record.
    #[must_use]
    pub fn new(plan: &Plan) -> Self {
        Self { plan: plan.clone() }
    }

    /// Takes one record in; returns what it newly found.
    pub fn feed(&mut self, record: &Stamped) -> Vec<Finding> {
        let _ = (record, &self.plan);
        Vec::new()
    }

    /// What is known of an `expect` step that has begun.
    #[must_use]
    pub fn answer(&self, step: usize) -> Answer {
        let _ = step;
        Answer::Pending(String::new())
    }

    /// The next moment at which an answer or a finding falls due without any other record; the engine feeds a tick then.
    #[must_use]
    pub fn next_due(&self) -> Option<Ms> {
        None
    }

    /// Q: the height that nodes holding a quorum have reached.
    #[must_use]
    pub fn quorum_height(&self) -> u64 {
        0
    }

    /// The last height that a node reported.
    #[must_use]
    pub fn height(&self, node: &str) -> Option<u64> {
        let _ = node;
        None
    }

    /// Whether the network is ready: Q ≥ 1 and every node that starts by itself answers. The engine records `Ready` then.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        false
    }

    /// Whether the recovery that is judged after the last step is complete, and what is missing.
    ///
    /// # Errors
    /// What is still awaited, in words.
    pub fn settled(&self) -> Result<(), String> {
        Ok(())
    }

    /// The report so far; after the last record, the verdict.
    #[must_use]
    pub fn report(&self) -> Report {
        unimplemented!("being written")
    }
}
