//! Colours for words. They are never the only carrier of a meaning: the words say it too.

use owo_colors::OwoColorize;

/// Something is wrong with the chain.
#[must_use]
pub fn bad(text: &str) -> String {
    text.red().bold().to_string()
}

/// Something is as it should be.
#[must_use]
pub fn good(text: &str) -> String {
    text.green().bold().to_string()
}

/// Something to look at: a fault that is on, missing evidence, trouble outside the chain.
#[must_use]
pub fn warn(text: &str) -> String {
    text.yellow().bold().to_string()
}

/// A heading.
#[must_use]
pub fn bold(text: &str) -> String {
    text.bold().to_string()
}

/// Details.
#[must_use]
pub fn dim(text: &str) -> String {
    text.dimmed().to_string()
}
