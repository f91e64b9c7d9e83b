//! Trialnet: a declarative test-network harness for blockchains.
//!
//! One TOML scenario brings up a network of real nodes, makes it suffer, watches every node over RPC, and says with evidence whether the chain kept height,
//! liveness and safety. For your own scenarios under `cargo test`, see [`libtest_main`]; for a run from a program, [`run`].
#![doc = include_str!("ARCHITECTURE.md")]

pub mod agent;
pub mod backend;
pub mod chain;
pub mod cli;
pub mod codes;
pub mod desk;
pub mod devnode;
pub mod engine;
pub mod env;
pub mod exit;
pub mod hidden;
pub mod judge;
mod libtest;
pub mod model;
pub mod observe;
pub mod quorum;
pub mod record;
pub mod report;
pub mod run;
pub mod scenario;
pub mod shrink;
pub mod ui;

pub use libtest::libtest_main;
