//! Every code that trialnet shows, with what it means and the way out: what `trialnet explain` knows.
//!
//! Each module keeps the list of its own codes; here they come together.

use crate::backend::kubernetes::{api, credentials, machines, provider, replace};
use crate::report::folder;
use crate::{desk, judge, scenario};

/// A code, its one-line title, and a longer text with the way out.
pub type Code = (&'static str, &'static str, &'static str);

/// The lists of all modules.
const LISTS: &[&[Code]] = &[
    scenario::CODES,
    scenario::FORECAST_CODES,
    judge::codes::CODES,
    folder::CODES,
    api::CODES,
    provider::CODES,
    credentials::CODES,
    machines::CODES,
    replace::CODES,
    desk::CODES,
];

/// All codes, list by list.
pub fn all() -> impl Iterator<Item = &'static Code> {
    LISTS.iter().copied().flatten()
}

/// The entry of a code.
#[must_use]
pub fn find(code: &str) -> Option<&'static Code> {
    all().find(|(known, _, _)| *known == code)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn codes_are_unique_and_documented() {
        let mut seen = BTreeSet::new();
        for (code, title, text) in all() {
            assert!(seen.insert(code), "{code} stands twice");
            assert!(code.contains('/'), "{code} has no family");
            assert!(
                title.len() > 8 && title.len() <= 100,
                "{code}: title of {} characters",
                title.len()
            );
            assert!(text.len() > 15, "{code}: the text says too little");
        }
    }

    #[test]
    fn codes_are_found() {
        assert!(find("scenario/unknown-key").is_some());
        assert!(find("scenario/no-such").is_none());
    }
}
