//! The integration tests: one program, so that it is linked once.

mod chain;
mod codes;
mod devnode;
mod engine;
mod facade;
mod killed;
mod local;
mod scenario;
mod tidy;
