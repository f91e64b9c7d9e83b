//! The integration tests: one program, so that it is linked once.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on fails; what it measured or drew is shown when it does"
)]

mod caught;
mod chain;
mod cli;
mod codes;
mod desk;
mod devnode;
mod engine;
mod facade;
mod killed;
mod kubernetes;
mod local;
mod readme;
mod regions;
mod rehearsal;
mod scenario;
mod several;
mod supervise;
mod tidy;
