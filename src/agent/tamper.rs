//! A guard that is wrong on purpose, for the tests of trialnet itself: whatever an injector claims, the probes and the
//! judge have to find out what really happened. This is the one place that knows the words.

use serde::{Deserialize, Serialize};

/// The environment variable from which the guard takes it when trialnet does not say.
pub const VARIABLE: &str = "TRIALNET_GUARD_TAMPER";

/// How the guard is wrong. In every case it answers that all is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tamper {
    /// No link is ever cut or delayed.
    CutNothing,
    /// When a link is cut, all are.
    CutMore,
    /// A link that is cut or slow stays so (until the teardown).
    HealNothing,
    /// A kill does nothing.
    KillNothing,
    /// A kill also kills the next running node by name.
    KillExtra,
    /// A pause does nothing.
    PauseNothing,
    /// A resume does nothing (until the teardown).
    ResumeNothing,
}

/// A word that names no way of being wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{VARIABLE} is \"{0}\": not one of cut-nothing, cut-more, heal-nothing, kill-nothing, kill-extra, pause-nothing, resume-nothing"
)]
pub struct UnknownTamper(String);

impl Tamper {
    /// Parses the value of [`VARIABLE`]; empty means none.
    ///
    /// # Errors
    /// When the word is unknown.
    pub fn parse(word: &str) -> Result<Option<Self>, UnknownTamper> {
        Ok(Some(match word {
            "" => return Ok(None),
            "cut-nothing" => Self::CutNothing,
            "cut-more" => Self::CutMore,
            "heal-nothing" => Self::HealNothing,
            "kill-nothing" => Self::KillNothing,
            "kill-extra" => Self::KillExtra,
            "pause-nothing" => Self::PauseNothing,
            "resume-nothing" => Self::ResumeNothing,
            other => return Err(UnknownTamper(other.to_owned())),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_serde() {
        for word in [
            "cut-nothing",
            "cut-more",
            "heal-nothing",
            "kill-nothing",
            "kill-extra",
            "pause-nothing",
            "resume-nothing",
        ] {
            let tamper = Tamper::parse(word).unwrap().unwrap();
            assert_eq!(serde_json::to_string(&tamper).unwrap(), format!("\"{word}\""));
        }
        assert_eq!(Tamper::parse(""), Ok(None));
        assert!(Tamper::parse("cut").unwrap_err().to_string().contains("\"cut\""));
    }
}
