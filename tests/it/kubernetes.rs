//! The Kubernetes backend against a real cluster, and what of it needs none.
//!
//! Tests that need a cluster use the one of the current context if that is local. Without one they say so and pass; with `cluster`
//! in `TRIALNET_REQUIRE` its absence is a failure; the same with `machines` where it has too few machines.

mod agent;
mod attached;
mod caught;
mod cluster;
mod components;
mod created;
mod desk;
mod existing;
mod fail_fast;
mod image;
mod killed;
mod leases;
mod locked;
mod lost_agent;
mod machines;
mod observer;
mod render;
mod runs;
mod side_by_side;
mod stress;
mod tunnel;
