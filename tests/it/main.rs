//! The integration tests: one program, so that it is linked once.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod chain;
mod codes;
mod devnode;
mod engine;
mod facade;
mod killed;
mod local;
mod scenario;
mod tidy;
