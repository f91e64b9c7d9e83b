//! The integration tests: one program, so that it is linked once.

mod chain;
mod devnode;
mod engine;
mod facade;
mod killed;
mod scenario;
mod tidy;
