//! The keys of CometBFT's `config.toml` that a scenario may set, from what `cometbft init` writes (0.37.18, 0.38.17, 1.0.1).

use serde_json::Value;

use super::Family::{self, V0_37, V0_38, V1};
use crate::chain::ConfigProblem;
use crate::model::Ms;

/// What a key takes.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// A string.
    Text,
    /// `true` or `false`.
    Flag,
    /// A whole number, not negative; CometBFT itself writes some of them as strings.
    Whole,
    /// A duration as Go writes it.
    Time,
    /// A list of strings.
    Texts,
    /// One of these strings.
    OneOf(&'static [&'static str]),
    /// Only `true`, for this reason.
    True(&'static str),
    /// Set by trialnet, for this reason.
    Ours(&'static str),
}

use Kind::{Flag, OneOf, Ours, Text, Texts, Time, True, Whole};

const ALL: &[Family] = &[V0_37, V0_38, V1];
const LEGACY: &[Family] = &[V0_37, V0_38];
const RECENT: &[Family] = &[V0_38, V1];

const PEERS: &str = "who dials whom is the network's topology";
const FILES: &str = "trialnet writes the node's files";
const LISTENS: &str = "it listens at the addresses that the backend reserved";
const PORT: &str = "it would need a port of its own, and none is reserved";

/// Every key, what it takes, and the versions that have it.
const KEYS: &[(&str, Kind, &[Family])] = &[
    ("proxy_app", OneOf(&["persistent_kvstore", "kvstore", "noop"]), ALL),
    ("moniker", Ours("it is the node's name"), ALL),
    ("version", Ours("the program says it"), RECENT),
    ("block_sync", Flag, &[V0_37]),
    ("db_backend", OneOf(&["goleveldb", "pebbledb"]), ALL),
    ("db_dir", Ours(FILES), ALL),
    ("log_level", Text, ALL),
    ("log_format", OneOf(&["plain", "json"]), ALL),
    ("genesis_file", Ours(FILES), ALL),
    ("priv_validator_key_file", Ours(FILES), ALL),
    ("priv_validator_state_file", Ours(FILES), ALL),
    ("priv_validator_laddr", Ours(FILES), ALL),
    ("node_key_file", Ours(FILES), ALL),
    ("abci", Ours("the application is built in"), ALL),
    ("filter_peers", Flag, ALL),
    ("rpc.laddr", Ours(LISTENS), ALL),
    ("rpc.cors_allowed_origins", Texts, ALL),
    ("rpc.cors_allowed_methods", Texts, ALL),
    ("rpc.cors_allowed_headers", Texts, ALL),
    ("rpc.grpc_laddr", Ours(PORT), LEGACY),
    ("rpc.grpc_max_open_connections", Whole, LEGACY),
    ("rpc.unsafe", Flag, ALL),
    ("rpc.max_open_connections", Whole, ALL),
    ("rpc.max_subscription_clients", Whole, ALL),
    ("rpc.max_subscriptions_per_client", Whole, ALL),
    ("rpc.experimental_subscription_buffer_size", Whole, ALL),
    ("rpc.experimental_websocket_write_buffer_size", Whole, ALL),
    ("rpc.experimental_close_on_slow_client", Flag, ALL),
    ("rpc.timeout_broadcast_tx_commit", Time, ALL),
    ("rpc.max_request_batch_size", Whole, RECENT),
    ("rpc.max_body_bytes", Whole, ALL),
    ("rpc.max_header_bytes", Whole, ALL),
    ("rpc.tls_cert_file", Ours("trialnet reads plain HTTP"), ALL),
    ("rpc.tls_key_file", Ours("trialnet reads plain HTTP"), ALL),
    ("rpc.pprof_laddr", Ours(PORT), ALL),
    ("grpc.laddr", Ours(PORT), &[V1]),
    ("grpc.version_service.enabled", Flag, &[V1]),
    ("grpc.block_service.enabled", Flag, &[V1]),
    ("grpc.block_results_service.enabled", Flag, &[V1]),
    ("grpc.privileged.laddr", Ours(PORT), &[V1]),
    ("grpc.privileged.pruning_service.enabled", Flag, &[V1]),
    ("p2p.laddr", Ours(LISTENS), ALL),
    ("p2p.external_address", Ours(LISTENS), ALL),
    ("p2p.seeds", Ours(PEERS), ALL),
    ("p2p.persistent_peers", Ours(PEERS), ALL),
    ("p2p.addr_book_file", Ours(FILES), ALL),
    ("p2p.addr_book_strict", Ours(PEERS), ALL),
    ("p2p.max_num_inbound_peers", Whole, ALL),
    ("p2p.max_num_outbound_peers", Whole, ALL),
    ("p2p.unconditional_peer_ids", Text, ALL),
    ("p2p.persistent_peers_max_dial_period", Time, ALL),
    ("p2p.flush_throttle_timeout", Time, ALL),
    ("p2p.max_packet_msg_payload_size", Whole, ALL),
    ("p2p.send_rate", Whole, ALL),
    ("p2p.recv_rate", Whole, ALL),
    ("p2p.pex", Ours(PEERS), ALL),
    ("p2p.seed_mode", Ours(PEERS), ALL),
    ("p2p.private_peer_ids", Text, ALL),
    ("p2p.allow_duplicate_ip", Ours(PEERS), ALL),
    ("p2p.handshake_timeout", Time, ALL),
    ("p2p.dial_timeout", Time, ALL),
    ("mempool.version", OneOf(&["v0", "v1"]), &[V0_37]),
    ("mempool.type", OneOf(&["flood", "nop"]), ALL),
    ("mempool.recheck", Flag, ALL),
    ("mempool.recheck_timeout", Time, RECENT),
    ("mempool.broadcast", Flag, ALL),
    ("mempool.wal_dir", Text, ALL),
    ("mempool.size", Whole, ALL),
    ("mempool.max_txs_bytes", Whole, ALL),
    ("mempool.cache_size", Whole, ALL),
    ("mempool.keep-invalid-txs-in-cache", Flag, ALL),
    ("mempool.max_tx_bytes", Whole, ALL),
    ("mempool.max_batch_bytes", Whole, LEGACY),
    ("mempool.ttl-duration", Time, &[V0_37]),
    ("mempool.ttl-num-blocks", Whole, &[V0_37]),
    (
        "mempool.experimental_max_gossip_connections_to_persistent_peers",
        Whole,
        ALL,
    ),
    (
        "mempool.experimental_max_gossip_connections_to_non_persistent_peers",
        Whole,
        ALL,
    ),
    ("statesync.enable", Flag, ALL),
    ("statesync.rpc_servers", Text, ALL),
    ("statesync.trust_height", Whole, ALL),
    ("statesync.trust_hash", Text, ALL),
    ("statesync.trust_period", Time, ALL),
    ("statesync.discovery_time", Time, ALL),
    ("statesync.temp_dir", Text, ALL),
    ("statesync.chunk_request_timeout", Time, ALL),
    ("statesync.chunk_fetchers", Whole, ALL),
    ("statesync.max_snapshot_chunks", Whole, &[V0_37]),
    ("blocksync.version", OneOf(&["v0"]), ALL),
    ("consensus.wal_file", Ours(FILES), ALL),
    ("consensus.timeout_propose", Time, ALL),
    ("consensus.timeout_propose_delta", Time, ALL),
    ("consensus.timeout_prevote", Time, ALL),
    ("consensus.timeout_prevote_delta", Time, ALL),
    ("consensus.timeout_precommit", Time, ALL),
    ("consensus.timeout_precommit_delta", Time, ALL),
    ("consensus.timeout_commit", Time, ALL),
    ("consensus.double_sign_check_height", Whole, ALL),
    ("consensus.skip_timeout_commit", Flag, ALL),
    (
        "consensus.create_empty_blocks",
        True("a chain without empty blocks looks like one that has stalled"),
        ALL,
    ),
    (
        "consensus.create_empty_blocks_interval",
        Ours("the interval between blocks is `block_time`"),
        ALL,
    ),
    ("consensus.peer_gossip_sleep_duration", Time, ALL),
    ("consensus.peer_gossip_intraloop_sleep_duration", Time, &[V1]),
    ("consensus.peer_query_maj23_sleep_duration", Time, ALL),
    ("storage.discard_abci_responses", Flag, ALL),
    ("storage.experimental_db_key_layout", OneOf(&["v1", "v2"]), &[V1]),
    ("storage.compact", Flag, &[V1]),
    ("storage.compaction_interval", Whole, &[V1]),
    ("storage.pruning.interval", Time, &[V1]),
    ("storage.pruning.data_companion.enabled", Flag, &[V1]),
    (
        "storage.pruning.data_companion.initial_block_retain_height",
        Whole,
        &[V1],
    ),
    (
        "storage.pruning.data_companion.initial_block_results_retain_height",
        Whole,
        &[V1],
    ),
    ("tx_index.indexer", OneOf(&["kv", "null"]), ALL),
    ("tx_index.psql-conn", Text, ALL),
    ("instrumentation.prometheus", Ours(PORT), ALL),
    ("instrumentation.prometheus_listen_addr", Ours(PORT), ALL),
    ("instrumentation.max_open_connections", Whole, ALL),
    ("instrumentation.namespace", Text, ALL),
];

/// Checks a key and its value for a family (`None`: any of them will do); the value as the file takes it.
pub(super) fn check(family: Option<Family>, key: &str, value: &Value) -> Result<toml::Value, ConfigProblem> {
    let (_, kind, families) = KEYS
        .iter()
        .find(|(known, _, _)| *known == key)
        .ok_or_else(|| unknown(family, key))?;
    if family.is_some_and(|family| !families.contains(&family)) {
        let of: Vec<&str> = families.iter().map(|family| line(*family)).collect();
        return Err(ConfigProblem {
            message: format!("this version of CometBFT has no key `{key}`"),
            help: Some(format!("CometBFT {} has it", of.join(" and "))),
            key: true,
        });
    }
    let wrong = |what: &str| ConfigProblem {
        message: format!("`{key}` takes {what}, not {value}"),
        help: None,
        key: false,
    };
    match (kind, value) {
        (Ours(why), _) => Err(ConfigProblem {
            message: format!("`{key}` is set by trialnet: {why}"),
            help: Some("leave it out".into()),
            key: true,
        }),
        (True(_), Value::Bool(true)) => Ok(true.into()),
        (True(why), _) => Err(ConfigProblem {
            help: Some((*why).to_owned()),
            ..wrong("`true`")
        }),
        (Text, Value::String(text)) => Ok(text.as_str().into()),
        (Text, _) => Err(wrong("a string")),
        (Flag, Value::Bool(flag)) => Ok((*flag).into()),
        (Flag, _) => Err(wrong("`true` or `false`")),
        (Whole, value) => {
            let number = value.as_i64().filter(|number| *number >= 0);
            number
                .map(Into::into)
                .ok_or_else(|| wrong("a whole number that is not negative"))
        }
        (Time, value) => {
            let text = value.as_str().filter(|text| duration(text).is_some());
            text.map(Into::into)
                .ok_or_else(|| wrong("a duration such as \"500ms\" or \"3s\""))
        }
        (Texts, value) => texts(value).ok_or_else(|| wrong("a list of strings")),
        (OneOf(words), value) => {
            let word = value.as_str().filter(|text| words.contains(text));
            word.map(Into::into).ok_or_else(|| wrong(&one_of(words)))
        }
    }
}

/// The durations of Go's `time.ParseDuration`, those that are not negative, rounded down to milliseconds: `1h2m`, `1.5s`, `500ms`, `0`.
pub(super) fn duration(text: &str) -> Option<Ms> {
    if text == "0" {
        return Some(Ms(0));
    }
    let mut rest = text;
    let mut nanos = 0_f64;
    while !rest.is_empty() {
        let end = rest.find(|char: char| !char.is_ascii_digit() && char != '.')?;
        let (number, unit) = rest.split_at(end);
        let end = unit
            .find(|char: char| char.is_ascii_digit() || char == '.')
            .unwrap_or(unit.len());
        let (unit, after) = unit.split_at(end);
        let scale = match unit {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3_600e9,
            _ => return None,
        };
        nanos += number.parse::<f64>().ok()? * scale;
        rest = after;
    }
    // Go counts nanoseconds in 63 bits.
    if text.is_empty() || nanos >= 9.2e18 {
        return None;
    }
    let whole = std::time::Duration::from_secs_f64(nanos / 1e9);
    Some(whole.into())
}

fn texts(value: &Value) -> Option<toml::Value> {
    let list = value.as_array()?.iter().map(Value::as_str);
    let list: Option<Vec<&str>> = list.collect();
    list.map(Into::into)
}

fn one_of(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
    quoted.join(" or ")
}

fn line(family: Family) -> &'static str {
    match family {
        V0_37 => "0.37",
        V0_38 => "0.38",
        V1 => "1.x",
    }
}

fn unknown(family: Option<Family>, key: &str) -> ConfigProblem {
    let known: Vec<&str> = KEYS
        .iter()
        .filter(|(_, kind, families)| {
            !matches!(kind, Ours(_)) && family.is_none_or(|family| families.contains(&family))
        })
        .map(|(known, _, _)| *known)
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
        message: format!("CometBFT has no configuration key `{key}`"),
        help: Some(match guess {
            Some(guess) => format!("did you mean `{guess}`?"),
            None => "keys are written as `section.key`, as in CometBFT's config.toml, for example `consensus.timeout_propose`".into(),
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
            ("consensus.timeout_propose", json!("1.5s"), toml::Value::from("1.5s")),
            ("mempool.size", json!(10), 10.into()),
            ("mempool.recheck", json!(false), false.into()),
            ("log_level", json!("consensus:debug"), "consensus:debug".into()),
            ("proxy_app", json!("kvstore"), "kvstore".into()),
            ("rpc.cors_allowed_origins", json!(["*"]), vec!["*"].into()),
            ("consensus.create_empty_blocks", json!(true), true.into()),
        ];
        for (key, value, wanted) in good {
            assert_eq!(check(Some(V0_38), key, &value), Ok(wanted), "{key}");
        }
        let bad = [
            ("consensus.timeout_propose", json!(3)),
            ("consensus.timeout_propose", json!("3")),
            ("mempool.size", json!(-1)),
            ("mempool.size", json!("10")),
            ("mempool.recheck", json!("no")),
            ("log_level", json!(1)),
            ("proxy_app", json!("tcp://127.0.0.1:1")),
            ("rpc.cors_allowed_origins", json!([1])),
            ("consensus.create_empty_blocks", json!(false)),
        ];
        for (key, value) in bad {
            let problem = check(Some(V0_38), key, &value).unwrap_err();
            assert!(!problem.key, "{problem:?}");
            assert!(problem.message.contains(key), "{problem:?}");
        }
    }

    #[test]
    fn unknown_keys_get_a_guess() {
        let help = |key: &str| check(Some(V0_38), key, &json!(1)).unwrap_err().help.unwrap();
        assert_eq!(help("timeout_commit"), "did you mean `consensus.timeout_commit`?");
        assert_eq!(
            help("consensus.timeout_comit"),
            "did you mean `consensus.timeout_commit`?"
        );
        assert!(help("wholly.unlike_anything").contains("section.key"));
    }

    #[test]
    fn keys_belong_to_versions() {
        let key = "mempool.ttl-num-blocks";
        assert!(check(Some(V0_37), key, &json!(5)).is_ok());
        assert!(check(None, key, &json!(5)).is_ok());
        let problem = check(Some(V1), key, &json!(5)).unwrap_err();
        assert_eq!(problem.help.as_deref(), Some("CometBFT 0.37 has it"));
        assert!(problem.key);
    }

    #[test]
    fn what_trialnet_sets_is_refused() {
        let problem = check(Some(V0_38), "p2p.persistent_peers", &json!("")).unwrap_err();
        assert!(problem.key);
        assert!(problem.message.contains("topology"), "{problem:?}");
    }

    #[test]
    fn durations_as_go_reads_them() {
        let good = [
            ("500ms", 500),
            ("1.5s", 1_500),
            ("1h2m3s", 3_723_000),
            ("0", 0),
            ("0s", 0),
            ("168h0m0s", 604_800_000),
            ("900us", 0),
            ("2000µs", 2),
        ];
        for (text, wanted) in good {
            assert_eq!(duration(text), Some(Ms(wanted)), "{text}");
        }
        for text in ["", "5", "ms", "-1s", "1 s", "1d", "1.2.3s", "s1", "9999999999h"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn keys_are_unique() {
        for (place, (key, _, families)) in KEYS.iter().enumerate() {
            assert!(KEYS[place + 1..].iter().all(|(other, _, _)| other != key), "{key}");
            assert!(!families.is_empty());
        }
    }
}
