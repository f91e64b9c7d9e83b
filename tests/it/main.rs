//! The integration tests.

mod devnode;
