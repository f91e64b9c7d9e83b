//! The devnode: trialnet's own little BFT chain, one process a node (`trialnet devnode`).
//!
//! A real quorum on real sockets that needs nothing installed, with misbehaviour on demand, so that
//! every verdict of trialnet can be proven both ways in seconds. Consensus is malachite's core
//! (Tendermint); network, timers, sync, disk and RPC are here:
//!
//! - `types`, `codec`: what the chain is made of, and how it is written down
//! - `app`: transactions, validator changes, the state's hash, the mempool
//! - `ledger`: blocks and write-ahead log on disk
//! - `net`: links between nodes
//! - `node`: the one task that owns everything and drives consensus
//! - `rpc`: CometBFT's RPC
//! - `misbehave`: what can be made to go wrong
//!
//! A node's folder holds `config.json` ([`Config`]), `key.json` ([`KeyFile`]), `genesis.json`
//! ([`Genesis`], the same bytes on all nodes) and, made by the node, `data/`.

pub mod app;
pub mod codec;
pub mod ledger;
pub mod misbehave;
pub mod net;
pub mod node;
pub mod rpc;
pub mod types;

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use arc_malachitebft_signing_ed25519::{PrivateKey, PublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use misbehave::Spec;
use types::{Address, Hash, Validator, ValidatorSet, address_of, sha256};

/// The exit code of a node that was told to [crash](misbehave::Misbehaviour::Crash).
pub const CRASH_EXIT_CODE: u8 = 13;

/// The command line of `trialnet devnode`.
#[derive(Clone, Debug, clap::Args)]
pub struct DevnodeArgs {
    /// The node's folder, with config.json, key.json and genesis.json
    #[arg(long, value_name = "DIR")]
    pub home: PathBuf,
    /// Misbehave, for example stall-as-proposer, go-back=3@20 or crash@15
    #[arg(long, value_name = "SPEC")]
    pub misbehave: Vec<Spec>,
}

/// What a devnode is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// The node's folder.
    pub home: PathBuf,
    /// Misbehaviours beside those in its configuration.
    pub misbehave: Vec<Spec>,
}

impl From<DevnodeArgs> for Options {
    fn from(args: DevnodeArgs) -> Self {
        let DevnodeArgs { home, misbehave } = args;
        Self { home, misbehave }
    }
}

/// `config.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The node's name, reported as its moniker.
    pub name: String,
    /// The chain's id; must be that of the genesis.
    pub chain_id: String,
    /// Where other nodes may call: an address and a port.
    pub p2p_listen: String,
    /// Where the RPC listens: an address and a port.
    pub rpc_listen: String,
    /// The nodes to dial. Of a pair, one that dials the other is enough; if both do, one link
    /// is kept.
    #[serde(default)]
    pub peers: Vec<PeerConfig>,
    /// From one block to the next, when all is well.
    #[serde(default = "default_block_time", with = "duration")]
    pub block_time: Duration,
    /// How long to wait for a proposal, in round 0; half as much more in each further round.
    /// Default: twice the block time and 200 ms, at least 400 ms.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "duration_option")]
    pub timeout_propose: Option<Duration>,
    /// How long to wait for more prevotes once two thirds are there but disagree.
    /// Default: the block time, at least 200 ms.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "duration_option")]
    pub timeout_prevote: Option<Duration>,
    /// The same for precommits.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "duration_option")]
    pub timeout_precommit: Option<Duration>,
    /// The version that the node reports.
    #[serde(default = "default_version")]
    pub version: String,
    /// Misbehaviours from the start.
    #[serde(default)]
    pub misbehave: Vec<Spec>,
    /// The node does nothing at all for so long after its start.
    #[serde(default, with = "duration")]
    pub start_delay: Duration,
}

impl Config {
    /// A configuration with the defaults, that dials nobody yet.
    pub fn new(name: &str, chain_id: &str, p2p_listen: &str, rpc_listen: &str) -> Self {
        Self {
            name: name.to_owned(),
            chain_id: chain_id.to_owned(),
            p2p_listen: p2p_listen.to_owned(),
            rpc_listen: rpc_listen.to_owned(),
            peers: Vec::new(),
            block_time: default_block_time(),
            timeout_propose: None,
            timeout_prevote: None,
            timeout_precommit: None,
            version: default_version(),
            misbehave: Vec::new(),
            start_delay: Duration::ZERO,
        }
    }
}

/// A node to dial.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerConfig {
    /// Its name, for messages only.
    pub name: String,
    /// Who must answer.
    pub public_key: PublicKeyText,
    /// Where to dial: the node itself, or a proxy in between.
    pub address: String,
}

/// A public key, written as base64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKeyText(pub PublicKey);

impl PublicKeyText {
    /// The address, and node id, that belongs to the key.
    pub fn address(&self) -> Address {
        address_of(&self.0)
    }

    /// The key as base64.
    pub fn base64(&self) -> String {
        BASE64.encode(self.0.as_bytes())
    }
}

impl Serialize for PublicKeyText {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.base64())
    }
}

impl<'de> Deserialize<'de> for PublicKeyText {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = codec::Base64::deserialize(deserializer)?.0;
        let bytes: Option<[u8; 32]> = bytes.try_into().ok();
        bytes
            .and_then(|bytes| PublicKey::from_bytes(bytes).ok())
            .map(Self)
            .ok_or_else(|| serde::de::Error::custom("no ed25519 public key"))
    }
}

/// `key.json`: the node's key, which signs both its votes and its handshakes.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyFile {
    /// The 32 bytes of an ed25519 private key, as base64.
    private_key: codec::Base64,
}

impl KeyFile {
    /// The key made from these 32 random bytes.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self {
            private_key: codec::Base64(seed.to_vec()),
        }
    }

    /// The public key.
    ///
    /// # Errors
    /// When the file does not hold 32 bytes.
    pub fn public_key(&self) -> Result<PublicKeyText, Error> {
        Ok(PublicKeyText(self.secret()?.public_key()))
    }

    fn secret(&self) -> Result<PrivateKey, Error> {
        let bytes: Result<[u8; 32], _> = self.private_key.0.as_slice().try_into();
        bytes
            .map(PrivateKey::from)
            .map_err(|_| Error::Invalid("key.json: the private key must have 32 bytes".into()))
    }
}

/// `genesis.json`: how the chain begins.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Genesis {
    /// The chain's id.
    pub chain_id: String,
    /// When it begins, RFC 3339; no block is earlier.
    #[serde(with = "time")]
    pub genesis_time: SystemTime,
    /// The validators of the first blocks; at least one.
    pub validators: Vec<GenesisValidator>,
}

/// A validator in the genesis.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GenesisValidator {
    /// Its name.
    pub name: String,
    /// Its key.
    pub public_key: PublicKeyText,
    /// Its power: from 1 to [`types::MAX_POWER`].
    pub power: u64,
}

impl Genesis {
    fn validators(&self) -> Result<ValidatorSet, Error> {
        let mut seen = HashSet::new();
        let mut validators = Vec::new();
        for validator in &self.validators {
            let GenesisValidator {
                name,
                public_key,
                power,
            } = validator;
            if *power == 0 || *power > types::MAX_POWER {
                return Err(Error::Invalid(format!(
                    "genesis.json: the power of {name} is {power}; it must be from 1 to 2^40"
                )));
            }
            if !seen.insert(public_key.address()) {
                return Err(Error::Invalid(format!(
                    "genesis.json: {name} has the key of another validator"
                )));
            }
            validators.push(Validator::new(name, public_key.0, *power));
        }
        if validators.is_empty() {
            return Err(Error::Invalid("genesis.json: there is no validator".into()));
        }
        Ok(ValidatorSet::new(validators))
    }
}

/// Why a devnode ended, other than by a signal.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read or written.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// A file holds something else than it should.
    #[error("{path}: {source}")]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        source: serde_json::Error,
    },
    /// A value that cannot be.
    #[error("{0}")]
    Invalid(String),
    /// A port cannot be opened.
    #[error("cannot listen on {address} ({what}): {source}")]
    Listen {
        /// What for.
        what: &'static str,
        /// Where.
        address: String,
        /// Why not.
        source: io::Error,
    },
    /// Consensus cannot go on.
    #[error("consensus stopped at height {height}: {problem}")]
    Consensus {
        /// The height that was being decided.
        height: u64,
        /// Why.
        problem: String,
    },
    /// The node was told to crash.
    #[error("crashed at height {height}, as told")]
    Crash {
        /// The height that was committed last.
        height: u64,
    },
}

impl Error {
    /// The exit code for the process.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Crash { .. } => CRASH_EXIT_CODE,
            _ => 1,
        }
    }
}

/// A node's folder, read and checked.
struct Home {
    data: PathBuf,
    config: Config,
    key: PrivateKey,
    genesis: Genesis,
    genesis_hash: Hash,
    validators: ValidatorSet,
}

impl Home {
    fn read(options: &Options) -> Result<Self, Error> {
        let Options { home, misbehave } = options;
        let (mut config, _): (Config, _) = read_json(&home.join("config.json"))?;
        config.misbehave.extend(misbehave);
        let (key, _): (KeyFile, _) = read_json(&home.join("key.json"))?;
        let (genesis, bytes): (Genesis, _) = read_json(&home.join("genesis.json"))?;
        if config.chain_id != genesis.chain_id {
            return Err(Error::Invalid(format!(
                "config.json is for chain '{}', genesis.json for '{}'",
                config.chain_id, genesis.chain_id
            )));
        }
        if config.block_time.is_zero() {
            return Err(Error::Invalid("config.json: the block time is zero".into()));
        }
        let data = home.join("data");
        fs_err::create_dir_all(&data)?;
        Ok(Self {
            data,
            config,
            key: key.secret()?,
            validators: genesis.validators()?,
            genesis,
            genesis_hash: sha256(&bytes),
        })
    }
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<(T, Vec<u8>), Error> {
    let bytes = fs_err::read(path)?;
    let value = serde_json::from_slice(&bytes).map_err(|source| Error::Json {
        path: path.to_owned(),
        source,
    })?;
    Ok((value, bytes))
}

/// Runs a node until SIGTERM or SIGINT.
///
/// Wants a single-threaded runtime ([`main`] makes one). Dropping the future ends the node; what
/// it wrote stays valid.
///
/// # Errors
/// When the folder or a port cannot be used, when consensus or the disk fails, or when the node
/// was told to crash.
pub async fn run(options: Options) -> Result<(), Error> {
    let mut stop = node::Stop::new()?;
    let home = Home::read(&options)?;
    tokio::select! {
        () = stop.wait() => Ok(()),
        () = tokio::time::sleep(home.config.start_delay) => Box::pin(node::run(home, stop)).await,
    }
}

/// The whole process: log lines to stderr, a runtime of one thread, [`run`].
///
/// # Errors
/// Those of [`run`]; [`Error::exit_code`] tells the exit code.
pub fn main(args: DevnodeArgs) -> Result<(), Error> {
    log::init();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(run(args.into()));
    if let Err(error) = &result {
        tracing::error!(%error, "stopped");
    }
    result
}

/// Log lines: `2026-11-22T16:55:03.424Z LEVEL message key=value`.
mod log {
    use std::fmt;

    use tracing::{Event, Subscriber};
    use tracing_subscriber::filter::{LevelFilter, Targets};
    use tracing_subscriber::fmt::format::{DefaultFields, Writer};
    use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
    use tracing_subscriber::layer::{Layer, SubscriberExt};
    use tracing_subscriber::registry::LookupSpan;
    use tracing_subscriber::util::SubscriberInitExt;

    struct Line;

    impl<S, F> FormatEvent<S, F> for Line
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
        F: for<'a> FormatFields<'a> + 'static,
    {
        fn format_event(
            &self,
            context: &FmtContext<'_, S, F>,
            mut writer: Writer<'_>,
            event: &Event<'_>,
        ) -> fmt::Result {
            let now = humantime::format_rfc3339_millis(std::time::SystemTime::now());
            write!(writer, "{now} {} ", event.metadata().level())?;
            context.format_fields(writer.by_ref(), event)?;
            writeln!(writer)
        }
    }

    /// Our own messages from *info* up, and the consensus core's errors.
    pub(super) fn init() {
        let filter = Targets::new()
            .with_default(LevelFilter::ERROR)
            .with_target("trialnet", LevelFilter::INFO);
        let lines = tracing_subscriber::fmt::layer()
            .event_format(Line)
            .fmt_fields(DefaultFields::new())
            .with_writer(std::io::stderr);
        // Fails only where a subscriber is set already, which then gets the messages.
        let _already_set = tracing_subscriber::registry()
            .with(lines.with_filter(filter))
            .try_init();
    }
}

fn default_block_time() -> Duration {
    Duration::from_millis(200)
}

fn default_version() -> String {
    env!("CARGO_PKG_VERSION").to_owned()
}

/// Durations as text with a unit.
mod duration {
    use std::time::Duration;

    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(*value))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_duration(&text).map_err(serde::de::Error::custom)
    }
}

/// The same, where it may be left out.
mod duration_option {
    use std::time::Duration;

    use serde::{Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => super::duration::serialize(value, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        super::duration::deserialize(deserializer).map(Some)
    }
}

/// Times as RFC 3339.
mod time {
    use std::time::SystemTime;

    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_rfc3339_millis(*value))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SystemTime, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_rfc3339(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn genesis(powers: &[(u8, u64)]) -> Genesis {
        let validator = |(seed, power): &(u8, u64)| GenesisValidator {
            name: format!("v{seed}"),
            public_key: KeyFile::from_seed([*seed; 32]).public_key().unwrap(),
            power: *power,
        };
        Genesis {
            chain_id: "c".into(),
            genesis_time: SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000),
            validators: powers.iter().map(validator).collect(),
        }
    }

    #[test]
    fn files_round_trip() {
        let mut config = Config::new("a", "c", "127.0.0.1:1", "127.0.0.1:2");
        config.timeout_propose = Some(Duration::from_millis(1500));
        config.misbehave = vec!["crash@3".parse().unwrap()];
        let text = serde_json::to_string(&config).unwrap();
        assert!(text.contains("\"200ms\"") && text.contains("\"1s 500ms\""), "{text}");
        assert_eq!(serde_json::from_str::<Config>(&text).unwrap(), config);
        let genesis = genesis(&[(1, 10), (2, 10)]);
        let text = serde_json::to_string(&genesis).unwrap();
        assert!(text.contains("2001-09-09T01:46:40.000Z"), "{text}");
        assert_eq!(serde_json::from_str::<Genesis>(&text).unwrap(), genesis);
    }

    #[test]
    fn bad_files_say_what_is_wrong() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options {
            home: dir.path().to_owned(),
            misbehave: Vec::new(),
        };
        let write = |name: &str, text: &str| fs_err::write(dir.path().join(name), text).unwrap();
        let problem = || Home::read(&options).err().unwrap().to_string();
        assert!(problem().contains("config.json"));
        let config = Config::new("a", "c", "127.0.0.1:1", "127.0.0.1:2");
        let text = serde_json::to_string(&config).unwrap();
        write("config.json", &text.replacen('{', "{\"colour\":1,", 1));
        assert!(problem().contains("unknown field `colour`"));
        write("config.json", &text);
        write("key.json", "{\"private_key\":\"AAAA\"}");
        write("genesis.json", &serde_json::to_string(&genesis(&[(1, 0)])).unwrap());
        assert!(problem().contains("32 bytes"));
        let key = serde_json::to_string(&KeyFile::from_seed([1; 32])).unwrap();
        write("key.json", &key);
        assert!(problem().contains("the power of v1 is 0"));
        write(
            "genesis.json",
            &serde_json::to_string(&genesis(&[(1, 1), (1, 1)])).unwrap(),
        );
        assert!(problem().contains("key of another"));
        write("genesis.json", &serde_json::to_string(&genesis(&[])).unwrap());
        assert!(problem().contains("no validator"));
        let mut other = genesis(&[(1, 1)]);
        other.chain_id = "d".into();
        write("genesis.json", &serde_json::to_string(&other).unwrap());
        assert!(problem().contains("'c'") && problem().contains("'d'"));
        write("genesis.json", &serde_json::to_string(&genesis(&[(1, 1)])).unwrap());
        assert!(Home::read(&options).is_ok());
    }
}
