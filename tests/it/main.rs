//! The integration tests.

mod local;
