//! The keys of geth's `config.toml` that a scenario may set, from what `geth dumpconfig` writes (1.12.2, 1.13.15).

use serde_json::Value;

use crate::chain::ConfigProblem;

/// How much a node writes to its log, from 0 to 5. It is no key of the file, but a flag.
pub(super) const VERBOSITY: &str = "verbosity";

/// What a key takes.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// `true` or `false`.
    Flag,
    /// A whole number in this range.
    Whole(i64, i64),
    /// A number, not negative.
    Number,
    /// Set by trialnet, for this reason.
    Ours(&'static str),
}

use Kind::{Flag, Number, Ours, Whole};

/// The greatest number that TOML can say.
const MOST: i64 = i64::MAX;

const GENESIS: &str = "it is in the genesis, which trialnet makes";
const KEPT: &str = "a killed node would come back many blocks behind itself";
const LISTENS: &str = "it listens at the addresses that the backend reserved";
const PEERS: &str = "who dials whom is the network's topology";
const FILES: &str = "trialnet writes the node's files";

/// Every key and what it takes.
const KEYS: &[(&str, Kind)] = &[
    (VERBOSITY, Whole(0, 5)),
    ("Eth.NetworkId", Ours(GENESIS)),
    ("Eth.SyncMode", Ours("each node executes every block")),
    ("Eth.NoPruning", Ours(KEPT)),
    ("Eth.NoPrefetch", Flag),
    ("Eth.DatabaseCache", Whole(16, 1 << 20)),
    ("Eth.TrieCleanCache", Whole(0, 1 << 20)),
    ("Eth.TrieDirtyCache", Whole(0, 1 << 20)),
    ("Eth.SnapshotCache", Whole(0, 1 << 20)),
    ("Eth.RPCGasCap", Whole(0, MOST)),
    ("Eth.RPCTxFeeCap", Number),
    ("Eth.Genesis.Timestamp", Ours(GENESIS)),
    ("Eth.Genesis.Difficulty", Ours(GENESIS)),
    ("Eth.Genesis.ExtraData", Ours(GENESIS)),
    ("Eth.Genesis.GasLimit", Whole(5_000, MOST)),
    ("Eth.Genesis.Config.ChainID", Ours(GENESIS)),
    (
        "Eth.Genesis.Config.Clique.Period",
        Ours("the interval between blocks is `block_time`"),
    ),
    ("Eth.Genesis.Config.Clique.Epoch", Whole(1, MOST)),
    ("Eth.Miner.Etherbase", Ours("each sealer has its own account")),
    ("Eth.Miner.GasCeil", Whole(5_000, MOST)),
    ("Eth.Miner.GasPrice", Whole(0, MOST)),
    ("Eth.TxPool.PriceLimit", Whole(1, MOST)),
    ("Eth.TxPool.PriceBump", Whole(1, 10_000)),
    ("Eth.TxPool.AccountSlots", Whole(1, MOST)),
    ("Eth.TxPool.GlobalSlots", Whole(1, MOST)),
    ("Eth.TxPool.AccountQueue", Whole(1, MOST)),
    ("Eth.TxPool.GlobalQueue", Whole(1, MOST)),
    ("Node.DataDir", Ours(FILES)),
    ("Node.UserIdent", Ours("it is the node's name")),
    ("Node.IPCPath", Ours(LISTENS)),
    ("Node.HTTPHost", Ours(LISTENS)),
    ("Node.HTTPPort", Ours(LISTENS)),
    ("Node.HTTPVirtualHosts", Ours(LISTENS)),
    ("Node.HTTPModules", Ours("trialnet asks for all that it needs")),
    (
        "Node.WSHost",
        Ours("it would need a port of its own, and none is reserved"),
    ),
    (
        "Node.WSPort",
        Ours("it would need a port of its own, and none is reserved"),
    ),
    ("Node.AuthAddr", Ours(LISTENS)),
    ("Node.AuthPort", Ours(LISTENS)),
    ("Node.P2P.ListenAddr", Ours(LISTENS)),
    ("Node.P2P.NoDiscovery", Ours(PEERS)),
    ("Node.P2P.MaxPeers", Ours(PEERS)),
    ("Node.P2P.DialRatio", Ours(PEERS)),
    ("Node.P2P.BootstrapNodes", Ours(PEERS)),
    ("Node.P2P.StaticNodes", Ours(PEERS)),
    ("Node.P2P.TrustedNodes", Ours(PEERS)),
    ("Node.P2P.NetRestrict", Ours(PEERS)),
];

/// Checks a key and its value; the value as the file takes it.
pub(super) fn check(key: &str, value: &Value) -> Result<toml::Value, ConfigProblem> {
    let known = KEYS.iter().find(|(known, _)| *known == key);
    let (_, kind) = known.ok_or_else(|| unknown(key))?;
    let wrong = |what: String| ConfigProblem {
        message: format!("`{key}` takes {what}, not {value}"),
        help: None,
        key: false,
    };
    match *kind {
        Ours(why) => Err(ConfigProblem {
            message: format!("`{key}` is set by trialnet: {why}"),
            help: Some("leave it out".into()),
            key: true,
        }),
        Flag => {
            let flag = value.as_bool().ok_or_else(|| wrong("true or false".into()))?;
            Ok(flag.into())
        }
        Whole(least, most) => {
            let number = value.as_i64().filter(|number| (least..=most).contains(number));
            let range = || {
                if most == MOST {
                    format!("{least} or more")
                } else {
                    format!("{least} to {most}")
                }
            };
            Ok(number
                .ok_or_else(|| wrong(format!("a whole number, {}", range())))?
                .into())
        }
        Number => {
            let number = value.as_f64().filter(|number| *number >= 0.0);
            Ok(number
                .ok_or_else(|| wrong("a number that is not negative".into()))?
                .into())
        }
    }
}

fn unknown(key: &str) -> ConfigProblem {
    let known: Vec<&str> = KEYS
        .iter()
        .filter(|(_, kind)| !matches!(kind, Ours(_)))
        .map(|(known, _)| *known)
        .collect();
    // A section that was forgotten is the likeliest mistake, then a slip of the pen.
    let same_end = known.iter().find(|known| known.rsplit('.').next() == Some(key));
    let near = known
        .iter()
        .map(|known| (strsim::damerau_levenshtein(known, key), *known))
        .min()
        .filter(|(distance, _)| *distance <= 1 + key.len() / 5);
    let guess = same_end.copied().or(near.map(|(_, known)| known));
    ConfigProblem {
        message: format!("geth has no configuration key `{key}` that trialnet knows"),
        help: Some(match guess {
            Some(guess) => format!("did you mean `{guess}`?"),
            None => {
                "keys are written as in geth's config.toml, for example `Eth.TxPool.GlobalSlots`; there are ".to_owned()
                    + &known.join(", ")
            }
        }),
        key: true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_of_the_right_kind() {
        let good = [
            ("Eth.TxPool.GlobalSlots", json!(4096), toml::Value::from(4096)),
            ("Eth.NoPrefetch", json!(true), true.into()),
            ("Eth.RPCTxFeeCap", json!(0), 0.0.into()),
            ("verbosity", json!(5), 5.into()),
        ];
        for (key, value, wanted) in good {
            assert_eq!(check(key, &value), Ok(wanted), "{key}");
        }
        let bad = [
            ("Eth.TxPool.GlobalSlots", json!(0)),
            ("Eth.TxPool.GlobalSlots", json!("4096")),
            ("Eth.NoPrefetch", json!(1)),
            ("Eth.RPCTxFeeCap", json!(-1)),
            ("verbosity", json!(6)),
        ];
        for (key, value) in bad {
            let problem = check(key, &value).unwrap_err();
            assert!(!problem.key && problem.message.contains(key), "{problem:?}");
        }
    }

    #[test]
    fn unknown_keys_and_those_of_trialnet() {
        let help = |key: &str| check(key, &json!(1)).unwrap_err().help.unwrap();
        assert_eq!(help("GlobalSlots"), "did you mean `Eth.TxPool.GlobalSlots`?");
        assert_eq!(help("Eth.TxPool.GlobalSlot"), "did you mean `Eth.TxPool.GlobalSlots`?");
        assert!(help("wholly.unlike_anything").contains("config.toml"));
        let problem = check("Node.P2P.StaticNodes", &json!([])).unwrap_err();
        assert!(problem.key && problem.message.contains("topology"), "{problem:?}");
    }

    #[test]
    fn keys_are_unique() {
        for (place, (key, _)) in KEYS.iter().enumerate() {
            assert!(KEYS[place + 1..].iter().all(|(other, _)| other != key), "{key}");
        }
    }
}
