//! Trialnet: a declarative test-network harness for blockchains.

pub mod backend;
pub mod chain;
pub mod cli;
pub mod engine;
pub mod env;
pub mod exit;
pub mod judge;
pub mod model;
pub mod observe;
pub mod quorum;
pub mod record;
pub mod report;
pub mod ui;
