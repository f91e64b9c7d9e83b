//! The scenario language.

pub mod forecast;
