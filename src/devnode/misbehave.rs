//! What a devnode can be told to do wrong, so that every verdict of trialnet is proven both ways.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A way to misbehave. Written as `NAME`, `NAME=VALUE`, each with an optional `@HEIGHT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misbehaviour {
    /// `stall-as-proposer`
    StallAsProposer,
    /// `silent`
    Silent,
    /// `freeze`
    Freeze,
    /// `lag`
    Lag,
    /// `hang`
    Hang,
    /// `wrong-hash`
    WrongHash,
    /// `app-hash`
    AppHash,
    /// `go-back=BLOCKS`
    GoBack {
        /// By how many blocks, at least 1.
        blocks: u64,
    },
    /// `slow-start=DURATION`
    SlowStart {
        /// How long the RPC stays closed after the start.
        delay: Duration,
    },
    /// `crash`
    Crash,
    /// `deadlock=A+B`
    Deadlock {
        /// Two validators, by their place in the genesis from 0.
        pair: (usize, usize),
    },
}

/// So close to each other two losses of links are one deadlock.
pub const DEADLOCK: Duration = Duration::from_secs(1);

/// One of each, with the value that is taken where none is given.
pub const ALL: [Misbehaviour; 11] = [
    Misbehaviour::StallAsProposer,
    Misbehaviour::Silent,
    Misbehaviour::Freeze,
    Misbehaviour::Lag,
    Misbehaviour::Hang,
    Misbehaviour::WrongHash,
    Misbehaviour::AppHash,
    Misbehaviour::GoBack { blocks: 3 },
    Misbehaviour::SlowStart {
        delay: Duration::from_secs(3),
    },
    Misbehaviour::Crash,
    Misbehaviour::Deadlock { pair: (0, 1) },
];

impl Misbehaviour {
    /// The name in a [`Spec`].
    pub fn name(self) -> &'static str {
        match self {
            Self::StallAsProposer => "stall-as-proposer",
            Self::Silent => "silent",
            Self::Freeze => "freeze",
            Self::Lag => "lag",
            Self::Hang => "hang",
            Self::WrongHash => "wrong-hash",
            Self::AppHash => "app-hash",
            Self::GoBack { .. } => "go-back",
            Self::SlowStart { .. } => "slow-start",
            Self::Crash => "crash",
            Self::Deadlock { .. } => "deadlock",
        }
    }

    /// What it does, in one line.
    pub fn describe(self) -> &'static str {
        match self {
            Self::StallAsProposer => "never proposes when it is its turn; votes as it should",
            Self::Silent => "signs and sends no votes; still proposes and follows",
            Self::Freeze => "consensus and gossip stop, nothing is passed on; the RPC goes on answering",
            Self::Lag => {
                "stops following (and voting) at its height, passes messages on, and claims not \
                 to be catching up"
            }
            Self::Hang => "the RPC accepts requests and never answers; consensus goes on",
            Self::WrongHash => "the RPC serves another block hash for that one height (default: the next)",
            Self::AppHash => "the RPC serves a wrong application hash from that height on",
            Self::GoBack { .. } => "the RPC reports so many blocks fewer from that height on",
            Self::SlowStart { .. } => "the RPC opens only so long after the start",
            Self::Crash => "the process ends with exit code 13 when that height is committed",
            Self::Deadlock { .. } => {
                "consensus stops for good once the links to both of these two validators (by their \
                 place in the genesis, from 0) have ended within one second, as when both crash; the \
                 RPC goes on answering"
            }
        }
    }
}

/// A misbehaviour and when it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spec {
    /// What.
    pub what: Misbehaviour,
    /// From which committed height on (for `wrong-hash`: at which height); at once when none.
    pub at: Option<u64>,
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.what.name())?;
        match self.what {
            Misbehaviour::GoBack { blocks } => write!(f, "={blocks}")?,
            Misbehaviour::SlowStart { delay } => {
                write!(f, "={}", humantime::format_duration(delay).to_string().replace(' ', ""))?;
            }
            Misbehaviour::Deadlock { pair: (one, other) } => write!(f, "={one}+{other}")?,
            _ => {}
        }
        match self.at {
            Some(height) => write!(f, "@{height}"),
            None => Ok(()),
        }
    }
}

/// Why a text is no [`Spec`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("misbehaviour '{text}': {problem}")]
pub struct SpecError {
    text: String,
    problem: String,
}

impl FromStr for Spec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let fail = |problem: String| SpecError {
            text: text.to_owned(),
            problem,
        };
        let (rest, at) = match text.split_once('@') {
            None => (text, None),
            Some((rest, at)) => match at.parse::<u64>() {
                Ok(at) if at > 0 => (rest, Some(at)),
                _ => return Err(fail(format!("'{at}' is no height of 1 or more"))),
            },
        };
        let (name, value) = match rest.split_once('=') {
            None => (rest, None),
            Some((name, value)) => (name, Some(value)),
        };
        let Some(default) = ALL.into_iter().find(|m| m.name() == name) else {
            let names: Vec<&str> = ALL.iter().map(|m| m.name()).collect();
            return Err(fail(format!("unknown; there are {}", names.join(", "))));
        };
        let what = match (default, value) {
            (what, None) => what,
            (Misbehaviour::GoBack { .. }, Some(value)) => match value.parse::<u64>() {
                Ok(blocks) if blocks > 0 => Misbehaviour::GoBack { blocks },
                _ => return Err(fail(format!("'{value}' is no number of blocks of 1 or more"))),
            },
            (Misbehaviour::SlowStart { .. }, Some(value)) => {
                let delay = humantime::parse_duration(value)
                    .map_err(|_| fail(format!("'{value}' is no duration such as 3s")))?;
                Misbehaviour::SlowStart { delay }
            }
            (Misbehaviour::Deadlock { .. }, Some(value)) => {
                let pair = value.split_once('+');
                let pair = pair.and_then(|(one, other)| Some((one.parse().ok()?, other.parse().ok()?)));
                match pair {
                    Some((one, other)) if one != other => Misbehaviour::Deadlock { pair: (one, other) },
                    _ => return Err(fail(format!("'{value}' is no pair of validators such as 1+4"))),
                }
            }
            (_, Some(_)) => return Err(fail("takes no value".into())),
        };
        if at.is_some() && matches!(what, Misbehaviour::SlowStart { .. }) {
            return Err(fail("takes no height: it is over when the RPC opens".into()));
        }
        Ok(Self { what, at })
    }
}

impl Serialize for Spec {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Spec {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The misbehaviours of one node, asked by the parts that would otherwise behave.
#[derive(Clone, Debug, Default)]
pub struct Misbehaviours {
    specs: Vec<Spec>,
}

impl Misbehaviours {
    /// Adds one; of its kind it is then the only one. `committed` is the node's height now.
    pub fn set(&mut self, mut spec: Spec, committed: u64) {
        if spec.what == Misbehaviour::WrongHash {
            spec.at.get_or_insert(committed + 1);
        }
        self.specs.retain(|s| s.what.name() != spec.what.name());
        self.specs.push(spec);
    }

    /// Behave from now on.
    pub fn clear(&mut self) {
        self.specs.clear();
    }

    /// What is set, in effect or not yet.
    pub fn list(&self) -> &[Spec] {
        &self.specs
    }

    /// The one of this kind, when it has begun by this height.
    fn active(&self, kind: Misbehaviour, height: u64) -> Option<Misbehaviour> {
        let spec = self.specs.iter().find(|s| s.what.name() == kind.name())?;
        spec.at.is_none_or(|at| at <= height).then_some(spec.what)
    }

    /// Whether one without a value has begun, for a node that has committed this height.
    pub fn is(&self, kind: Misbehaviour, committed: u64) -> bool {
        self.active(kind, committed).is_some()
    }

    /// Whether to lie about the hash of this height.
    pub fn lies_about(&self, height: u64) -> bool {
        self.specs
            .iter()
            .any(|s| s.what == Misbehaviour::WrongHash && s.at == Some(height))
    }

    /// The height to report instead of the true one.
    pub fn reported_height(&self, committed: u64) -> u64 {
        match self.active(Misbehaviour::GoBack { blocks: 1 }, committed) {
            Some(Misbehaviour::GoBack { blocks }) => committed.saturating_sub(blocks),
            _ => committed,
        }
    }

    /// The two validators whose crashes within a second stop this node.
    pub fn deadlock_pair(&self, committed: u64) -> Option<(usize, usize)> {
        match self.active(Misbehaviour::Deadlock { pair: (0, 0) }, committed) {
            Some(Misbehaviour::Deadlock { pair }) => Some(pair),
            _ => None,
        }
    }

    /// How long the RPC stays closed after the start.
    pub fn rpc_delay(&self) -> Option<Duration> {
        self.specs.iter().find_map(|s| match s.what {
            Misbehaviour::SlowStart { delay } => Some(delay),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specs_round_trip() {
        for what in ALL {
            for at in [None, Some(20)] {
                let spec = Spec { what, at };
                if at.is_some() && matches!(what, Misbehaviour::SlowStart { .. }) {
                    continue;
                }
                assert_eq!(spec.to_string().parse(), Ok(spec));
            }
            assert!(!what.describe().is_empty());
            assert_eq!(what.name().parse(), Ok(Spec { what, at: None }));
        }
        let spec: Spec = "slow-start=1500ms".parse().unwrap();
        assert_eq!(spec.to_string(), "slow-start=1s500ms");
        assert_eq!(spec.to_string().parse(), Ok(spec));
    }

    #[test]
    fn bad_specs_say_what_is_wrong() {
        for (text, part) in [
            ("wrong-hsh", "there are stall-as-proposer"),
            ("crash@0", "'0' is no height"),
            ("crash@x", "'x' is no height"),
            ("go-back=0", "number of blocks"),
            ("slow-start=soon", "no duration"),
            ("hang=3", "takes no value"),
            ("slow-start=3s@10", "takes no height"),
            ("deadlock=1", "no pair"),
            ("deadlock=1+1", "no pair"),
            ("deadlock=a+b", "no pair"),
        ] {
            let error = text.parse::<Spec>().unwrap_err().to_string();
            assert!(error.contains(part) && error.contains(text), "{error}");
        }
    }

    #[test]
    fn they_begin_at_their_height() {
        let mut set = Misbehaviours::default();
        set.set("go-back=3@20".parse().unwrap(), 0);
        set.set("hang@5".parse().unwrap(), 0);
        assert_eq!(set.reported_height(19), 19);
        assert_eq!(set.reported_height(20), 17);
        assert!(!set.is(Misbehaviour::Hang, 4));
        assert!(set.is(Misbehaviour::Hang, 5));
        set.set("go-back=1".parse().unwrap(), 20);
        assert_eq!(set.list().len(), 2);
        assert_eq!(set.reported_height(2), 1);
        set.set("wrong-hash".parse().unwrap(), 7);
        assert!(set.lies_about(8) && !set.lies_about(7) && !set.lies_about(9));
        set.clear();
        assert_eq!(set.reported_height(20), 20);
    }
}
