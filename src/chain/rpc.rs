//! A client for the RPC of a node: CometBFT's dialect (0.37, 0.38, 1.0), which the devnode speaks too.
//!
//! Whatever a node answers, the worst that comes out is an [`RpcError`]: bodies are bounded, redirects are not followed, numbers may
//! be numbers or strings, and nothing waits longer than the client's limit.

use std::error::Error as _;
use std::fmt;
use std::io;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::de::{DeserializeOwned, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};

use super::Dialect;
use crate::backend::{Endpoint, Tunnel};
use crate::model::Ms;
use crate::record::{Header, Silence};

/// The longest answer that is read.
pub const MAX_BODY: usize = 8 * 1024 * 1024;

/// The most headers that one request gives.
pub const MAX_HEADERS: u64 = 20;

/// Validators on a page of `/validators`, and the most pages that are read.
const PAGE: usize = 100;
const MAX_PAGES: usize = 100;

/// The connections to all nodes: made once in a run, and cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    /// Keeps its connections.
    kept: reqwest::Client,
    /// Makes one for each question.
    own: reqwest::Client,
}

/// Asks one node.
#[derive(Clone, Debug)]
pub struct Rpc {
    client: reqwest::Client,
    /// Makes a connection for each question.
    own: reqwest::Client,
    base: reqwest::Url,
    status: reqwest::Url,
    limit: Duration,
    /// The way to the node, where it is not on this machine.
    tunnel: Option<Tunnel>,
}

/// Why there is no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RpcError {
    /// The node gave no answer that the dialect knows.
    #[error("{detail}")]
    Silent {
        /// In which way.
        cause: Silence,
        /// In words.
        detail: String,
    },
    /// The node answered that it will not.
    #[error("the node answered: {words} (code {code})")]
    Refused {
        /// Its code.
        code: i64,
        /// Its words.
        words: String,
    },
}

/// What `/status` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The latest height; 0 before the first block.
    pub height: u64,
    /// The hash at that height, upper-case hex; empty before the first block.
    pub hash: String,
    /// The lowest height that the node still has; 0 before the first block.
    pub earliest: u64,
    /// Whether the node says that it is catching up.
    pub catching_up: bool,
    /// What it calls itself.
    pub version: String,
    /// The chain id.
    pub chain: String,
    /// The node's own name.
    pub moniker: String,
}

/// What `/net_info` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peers {
    /// How many.
    pub count: u64,
    /// Their names (monikers), sorted.
    pub names: Vec<String>,
}

/// A validator set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidatorSet {
    /// The height that the set belongs to.
    pub height: u64,
    /// In the node's order.
    pub validators: Vec<Validator>,
}

/// One validator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Validator {
    /// Upper-case hex.
    pub address: String,
    /// The public key in base64.
    pub key: String,
    /// Its voting power.
    pub power: u64,
}

/// Who proposes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    /// The height that is being decided.
    pub height: u64,
    /// The round.
    pub round: u64,
    /// The proposer's address, upper-case hex.
    pub address: String,
}

/// What the application says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AbciInfo {
    /// The last height that it has executed; 0 before the first.
    pub height: u64,
    /// Its state after that, upper-case hex.
    pub app_hash: String,
}

/// A committed transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// In the block of this height.
    pub height: u64,
    /// The application's result code; 0 is success.
    pub code: u64,
}

impl Client {
    /// A client without connections.
    ///
    /// # Errors
    /// When the system refuses what a client needs.
    pub fn new() -> Result<Self, RpcError> {
        Ok(Self {
            kept: connections(4)?,
            own: connections(0)?,
        })
    }

    /// Talks to the node whose RPC is at this endpoint; no request takes longer than `limit`.
    #[must_use]
    pub fn node(&self, endpoint: impl Into<Endpoint>, dialect: Dialect, limit: Ms) -> Rpc {
        let Dialect::Comet = dialect;
        let Endpoint { address, tunnel } = endpoint.into();
        let base: reqwest::Url = format!("http://{address}/")
            .parse()
            .expect("a socket address makes a URL");
        let mut status = base.clone();
        status.set_path("status");
        Rpc {
            client: self.kept.clone(),
            own: self.own.clone(),
            base,
            status,
            limit: limit.duration(),
            tunnel,
        }
    }
}

/// A client that keeps so many idle connections to each node.
fn connections(idle: usize) -> Result<reqwest::Client, RpcError> {
    reqwest::Client::builder()
        // Nodes are on this machine, whatever proxy the environment names.
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .tcp_nodelay(true)
        .pool_max_idle_per_host(idle)
        // CometBFT closes idle connections after ten seconds; closing first spares us the race.
        .pool_idle_timeout(Duration::from_secs(8))
        .build()
        .map_err(|error| RpcError::Silent {
            cause: Silence::Tunnel,
            detail: format!("make an HTTP client: {error}"),
        })
}

impl RpcError {
    /// The same seen as silence: where a request needs an answer, an error of the node's own is none.
    #[must_use]
    pub fn silence(&self) -> (Silence, String) {
        match self {
            Self::Silent { cause, detail } => (*cause, detail.clone()),
            Self::Refused { .. } => (Silence::Garbage, self.to_string()),
        }
    }

    fn garbage(detail: impl fmt::Display) -> Self {
        Self::Silent {
            cause: Silence::Garbage,
            detail: detail.to_string(),
        }
    }
}

impl Rpc {
    /// The same over connections of its own, one for each question, where no request takes longer than `limit`: what is seen over a connection that was open before
    /// may be old news. (The end of a port-forward that was open is told a second after the node's.)
    #[must_use]
    pub fn anew(&self, limit: Ms) -> Self {
        Self {
            client: self.own.clone(),
            limit: limit.duration(),
            ..self.clone()
        }
    }

    /// The node's own account of itself.
    ///
    /// # Errors
    /// See [`RpcError`]; so for all methods.
    pub async fn status(&self) -> Result<Status, RpcError> {
        let StatusResult {
            node_info,
            sync_info: sync,
        } = self.call(self.status.clone()).await?;
        Ok(Status {
            height: sync.latest_block_height,
            hash: upper(sync.latest_block_hash)?,
            earliest: sync.earliest_block_height,
            catching_up: sync.catching_up,
            version: short(node_info.version),
            chain: short(node_info.network),
            moniker: short(node_info.moniker),
        })
    }

    /// The headers from `from` to `to`, ascending: at most [`MAX_HEADERS`], the highest of them, and only those that the node has.
    pub async fn headers(&self, from: u64, to: u64) -> Result<Vec<Header>, RpcError> {
        let url = self.url(
            "blockchain",
            &[("minHeight", from.to_string()), ("maxHeight", to.to_string())],
        );
        let result: BlockchainResult = self.call(url).await?;
        let mut headers = Vec::with_capacity(result.block_metas.len());
        for BlockMeta { block_id, header } in result.block_metas {
            if !(from..=to).contains(&header.height) {
                return Err(RpcError::garbage(format!(
                    "asked for the headers {from} to {to}, and got that of {}",
                    header.height
                )));
            }
            headers.push(Header {
                height: header.height,
                hash: upper(block_id.hash)?,
                parent: upper(header.last_block_id.hash)?,
                time: short(header.time),
            });
        }
        headers.sort_by_key(|header| header.height);
        Ok(headers)
    }

    /// The application's state after the block of this height, upper-case hex; `None` from versions whose `/block_results` does not
    /// have it (before CometBFT 0.38): there [`Self::abci_info`] is all there is.
    pub async fn app_state(&self, height: u64) -> Result<Option<String>, RpcError> {
        let url = self.url("block_results", &[("height", height.to_string())]);
        let result: BlockResults = self.call(url).await?;
        if result.height != height {
            return Err(RpcError::garbage(format!(
                "asked for the results of height {height}, and got those of {}",
                result.height
            )));
        }
        result.app_hash.map(bytes_as_hex).transpose()
    }

    /// What the application says of its own height and state.
    pub async fn abci_info(&self) -> Result<AbciInfo, RpcError> {
        let InfoResult { response } = self.call(self.url("abci_info", &[])).await?;
        Ok(AbciInfo {
            height: response.last_block_height,
            app_hash: bytes_as_hex(response.last_block_app_hash)?,
        })
    }

    /// The node's peers.
    pub async fn peers(&self) -> Result<Peers, RpcError> {
        let result: NetInfo = self.call(self.url("net_info", &[])).await?;
        let mut names: Vec<String> = result
            .peers
            .into_iter()
            .map(|peer| short(peer.node_info.moniker))
            .collect();
        names.sort();
        Ok(Peers {
            count: result.n_peers,
            names,
        })
    }

    /// The validator set at a height; `None`: the latest that the node knows.
    pub async fn validators(&self, height: Option<u64>) -> Result<ValidatorSet, RpcError> {
        let mut set = ValidatorSet {
            height: height.unwrap_or(0),
            validators: Vec::new(),
        };
        let mut at = height;
        for page in 1..=MAX_PAGES {
            let mut query = vec![("page", page.to_string()), ("per_page", PAGE.to_string())];
            query.extend(at.map(|height| ("height", height.to_string())));
            let result: ValidatorsResult = self.call(self.url("validators", &query)).await?;
            // The further pages have to be of the same set.
            at = Some(result.block_height);
            set.height = result.block_height;
            let last = result.validators.len() < PAGE;
            for validator in result.validators {
                set.validators.push(Validator {
                    address: upper(validator.address)?,
                    key: short(validator.pub_key.value),
                    power: validator.voting_power,
                });
            }
            if last || set.validators.len() as u64 >= result.total {
                break;
            }
        }
        Ok(set)
    }

    /// Who proposes in the round that the node is in.
    pub async fn leader(&self) -> Result<Leader, RpcError> {
        let ConsensusState { round_state } = self.call(self.url("consensus_state", &[])).await?;
        let mut numbers = round_state.at.splitn(3, '/').map(str::parse);
        let (Some(Ok(height)), Some(Ok(round))) = (numbers.next(), numbers.next()) else {
            return Err(RpcError::garbage(format!(
                "expected height/round/step, got `{}`",
                short(round_state.at)
            )));
        };
        Ok(Leader {
            height,
            round,
            address: upper(round_state.proposer.address)?,
        })
    }

    /// Hands a transaction to the node; returns its hash (upper-case hex) once the node's own check has taken it.
    ///
    /// # Errors
    /// [`RpcError::Refused`] when the check did not.
    pub async fn send_tx(&self, bytes: &[u8]) -> Result<String, RpcError> {
        let body = serde_json::json!({
            "jsonrpc": "2.0",
            "id": 1,
            "method": "broadcast_tx_sync",
            "params": { "tx": BASE64.encode(bytes) },
        });
        let request = self.client.post(self.base.clone()).json(&body);
        let Broadcast { code, log, hash } = self.limited(request).await?;
        if code == 0 {
            return upper(hash);
        }
        Err(RpcError::Refused {
            code: i64::try_from(code).unwrap_or(i64::MAX),
            words: if log.is_empty() {
                "no reason given".into()
            } else {
                short(log)
            },
        })
    }

    /// Looks for a committed transaction by its hash; `None`: the node knows none.
    pub async fn tx(&self, hash: &str) -> Result<Option<Committed>, RpcError> {
        match self.call(self.url("tx", &[("hash", format!("0x{hash}"))])).await {
            Ok(TxResult { height, tx_result }) => Ok(Some(Committed {
                height,
                code: tx_result.code,
            })),
            Err(RpcError::Refused { words, .. }) if words.contains("not found") => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Tells a devnode to misbehave, in its own words.
    pub async fn misbehave(&self, spec: &str) -> Result<(), RpcError> {
        self.call(self.url("misbehave", &[("spec", format!("\"{spec}\""))]))
            .await
            .map(|_: serde::de::IgnoredAny| ())
    }

    /// Tells a devnode to behave from now on.
    pub async fn behave(&self) -> Result<(), RpcError> {
        self.call(self.url("behave", &[]))
            .await
            .map(|_: serde::de::IgnoredAny| ())
    }

    fn url(&self, path: &str, query: &[(&str, String)]) -> reqwest::Url {
        let mut url = self.base.clone();
        url.set_path(path);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        url
    }

    async fn call<T: DeserializeOwned>(&self, url: reqwest::Url) -> Result<T, RpcError> {
        self.limited(self.client.get(url)).await
    }

    async fn limited<T: DeserializeOwned>(&self, request: reqwest::RequestBuilder) -> Result<T, RpcError> {
        let fetched = tokio::time::timeout(self.limit, fetch(request)).await;
        let fetched = fetched.unwrap_or_else(|_| {
            Err(RpcError::Silent {
                cause: Silence::Timeout,
                detail: format!("no answer within {}", Ms::from(self.limit)),
            })
        });
        parse(&fetched.map_err(|error| self.blame(error))?)
    }

    /// Where a tunnel leads to the node, it knows better than a broken connection on this machine what went wrong.
    fn blame(&self, error: RpcError) -> RpcError {
        let RpcError::Silent {
            cause: Silence::Refused | Silence::Broken | Silence::Timeout,
            ..
        } = error
        else {
            return error;
        };
        let known = self.tunnel.as_ref().and_then(Tunnel::last);
        known.map_or(error, |(cause, detail)| RpcError::Silent {
            cause,
            detail: short(detail),
        })
    }
}

/// The body of an answer, whatever its HTTP status: CometBFT sends its own errors with status 500.
async fn fetch(request: reqwest::RequestBuilder) -> Result<Vec<u8>, RpcError> {
    let mut response = request.send().await.map_err(|error| transport(&error))?;
    if response.status().is_redirection() {
        return Err(RpcError::garbage(format!("a redirect ({})", response.status())));
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| transport(&error))? {
        if body.len() + chunk.len() > MAX_BODY {
            return Err(RpcError::garbage(format!("an answer of more than {MAX_BODY} bytes")));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, RpcError> {
    let envelope: Envelope<T> = serde_json::from_slice(body).map_err(|error| {
        let start = String::from_utf8_lossy(&body[..body.len().min(80)]).into_owned();
        RpcError::garbage(format!(
            "{error}, in an answer that starts with `{}`",
            start.escape_debug()
        ))
    })?;
    match envelope {
        Envelope { error: Some(error), .. } => {
            let mut words = error.message;
            if let Some(data) = error.data {
                words.push_str(": ");
                words.push_str(&data);
            }
            Err(RpcError::Refused {
                code: error.code,
                words: short(words),
            })
        }
        Envelope {
            result: Some(result), ..
        } => Ok(result),
        Envelope { .. } => Err(RpcError::garbage("an answer with neither result nor error")),
    }
}

fn transport(error: &reqwest::Error) -> RpcError {
    let mut kind = None;
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        if let Some(io) = inner.downcast_ref::<io::Error>() {
            kind = Some(io.kind());
        }
        words = inner.to_string();
        source = inner.source();
    }
    let cause = match kind {
        _ if error.is_timeout() => Silence::Timeout,
        Some(io::ErrorKind::ConnectionRefused) => Silence::Refused,
        Some(io::ErrorKind::TimedOut) => Silence::Timeout,
        _ => Silence::Broken,
    };
    RpcError::Silent {
        cause,
        detail: short(words),
    }
}

/// A hash or address: hex, at most 64 bytes; the empty text stands for none.
fn upper(mut text: String) -> Result<String, RpcError> {
    if text.len() > 128 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(RpcError::garbage(format!("`{}` is no hash", short(text))));
    }
    text.make_ascii_uppercase();
    Ok(text)
}

/// Bytes as upper-case hex. CometBFT writes them in base64; a SHA-256 or address in hex is taken too (as base64 it would have a
/// length that no hash has).
fn bytes_as_hex(text: String) -> Result<String, RpcError> {
    if matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return upper(text);
    }
    BASE64
        .decode(&text)
        .map(hex::encode_upper)
        .map_err(|error| RpcError::garbage(format!("`{}` is no base64: {error}", short(text))))
}

/// At most 400 characters: what a node says is kept in records.
fn short(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(400) {
        text.truncate(end);
    }
    text
}

#[derive(Deserialize)]
struct Envelope<T> {
    result: Option<T>,
    error: Option<NodeError>,
}

#[derive(Deserialize)]
struct NodeError {
    #[serde(default)]
    code: i64,
    #[serde(default)]
    message: String,
    data: Option<String>,
}

#[derive(Deserialize)]
struct StatusResult {
    node_info: NodeInfo,
    sync_info: SyncInfo,
}

#[derive(Deserialize)]
struct NodeInfo {
    #[serde(default)]
    network: String,
    #[serde(default)]
    version: String,
    #[serde(default)]
    moniker: String,
}

#[derive(Deserialize)]
struct SyncInfo {
    latest_block_hash: String,
    #[serde(deserialize_with = "number")]
    latest_block_height: u64,
    #[serde(default, deserialize_with = "number")]
    earliest_block_height: u64,
    catching_up: bool,
}

#[derive(Deserialize)]
struct BlockchainResult {
    #[serde(deserialize_with = "nullable")]
    block_metas: Vec<BlockMeta>,
}

#[derive(Deserialize)]
struct BlockMeta {
    block_id: BlockId,
    header: BlockHeader,
}

#[derive(Deserialize)]
struct BlockId {
    hash: String,
}

#[derive(Deserialize)]
struct BlockHeader {
    #[serde(deserialize_with = "number")]
    height: u64,
    time: String,
    last_block_id: BlockId,
}

#[derive(Deserialize)]
struct BlockResults {
    #[serde(deserialize_with = "number")]
    height: u64,
    app_hash: Option<String>,
}

#[derive(Deserialize)]
struct InfoResult {
    response: InfoResponse,
}

/// Go leaves out what is zero or empty: before the first block neither member is there.
#[derive(Deserialize)]
struct InfoResponse {
    #[serde(default, deserialize_with = "number")]
    last_block_height: u64,
    #[serde(default, deserialize_with = "nullable")]
    last_block_app_hash: String,
}

#[derive(Deserialize)]
struct NetInfo {
    #[serde(deserialize_with = "number")]
    n_peers: u64,
    #[serde(default, deserialize_with = "nullable")]
    peers: Vec<Peer>,
}

#[derive(Deserialize)]
struct Peer {
    node_info: NodeInfo,
}

#[derive(Deserialize)]
struct ValidatorsResult {
    #[serde(deserialize_with = "number")]
    block_height: u64,
    #[serde(deserialize_with = "nullable")]
    validators: Vec<ValidatorInfo>,
    #[serde(deserialize_with = "number")]
    total: u64,
}

#[derive(Deserialize)]
struct ValidatorInfo {
    address: String,
    pub_key: PubKey,
    #[serde(deserialize_with = "number")]
    voting_power: u64,
}

#[derive(Deserialize)]
struct PubKey {
    value: String,
}

#[derive(Deserialize)]
struct ConsensusState {
    round_state: RoundState,
}

#[derive(Deserialize)]
struct RoundState {
    #[serde(rename = "height/round/step")]
    at: String,
    proposer: Proposer,
}

#[derive(Deserialize)]
struct Proposer {
    address: String,
}

#[derive(Deserialize)]
struct Broadcast {
    #[serde(deserialize_with = "number")]
    code: u64,
    #[serde(default)]
    log: String,
    hash: String,
}

#[derive(Deserialize)]
struct TxResult {
    #[serde(deserialize_with = "number")]
    height: u64,
    tx_result: ExecResult,
}

#[derive(Deserialize)]
struct ExecResult {
    #[serde(default, deserialize_with = "number")]
    code: u64,
}

/// A number that may be written as a string: Go writes 64-bit integers so.
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    struct Number;
    impl Visitor<'_> for Number {
        type Value = u64;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a number that is not negative, or one in a string")
        }

        fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<u64, E> {
            Ok(value)
        }

        fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<u64, E> {
            u64::try_from(value).map_err(|_| E::invalid_value(Unexpected::Signed(value), &self))
        }

        fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<u64, E> {
            value
                .parse()
                .map_err(|_| E::invalid_value(Unexpected::Str(&short(value.to_owned())), &self))
        }
    }
    deserializer.deserialize_any(Number)
}

/// Go writes empty lists as `null`.
fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

#[cfg(test)]
mod tests;
