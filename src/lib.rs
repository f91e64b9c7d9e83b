//! Trialnet: a declarative test-network harness for blockchains.

pub mod agent;
pub mod backend;
pub mod chain;
pub mod judge;
pub mod model;
pub mod quorum;
pub mod record;
