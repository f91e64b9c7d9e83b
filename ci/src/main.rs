//! The project's own chores: checks, schema, benches and long trials.
fn main() {}
