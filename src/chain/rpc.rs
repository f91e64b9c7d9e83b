//! A client for the RPC of a node, in the dialect of its chain: CometBFT's, which the devnode speaks too, or Ethereum's.
//!
//! Whatever a node answers, the worst that comes out is an [`RpcError`]: bodies are bounded, redirects are not followed, numbers may
//! be numbers or strings, and nothing waits longer than the client's limit.

mod comet;
mod eth;

use std::error::Error as _;
use std::fmt;
use std::io;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::Dialect;
use crate::backend::{Endpoint, Tunnel};
use crate::model::Ms;
use crate::record::{Header, Silence};

/// The longest answer that is read.
pub const MAX_BODY: usize = 8 * 1024 * 1024;

/// The most headers that one request gives.
pub const MAX_HEADERS: u64 = 20;

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
    dialect: Dialect,
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

/// What a node says of itself.
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

/// Whom a node is connected with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peers {
    /// How many.
    pub count: u64,
    /// Their names, sorted.
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
    /// The public key in base64; where the chain names its validators by their addresses only, the address.
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
    /// How many blocks the node has above that one, where blocks are final by their depth; 0 elsewhere.
    pub above: u64,
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
        let Endpoint { address, tunnel } = endpoint.into();
        let base: reqwest::Url = format!("http://{address}/")
            .parse()
            .expect("a socket address makes a URL");
        let mut status = base.clone();
        status.set_path("status");
        Rpc {
            client: self.kept.clone(),
            own: self.own.clone(),
            dialect,
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
        match self.dialect {
            Dialect::Comet => comet::status(self).await,
            Dialect::Eth => eth::status(self).await,
        }
    }

    /// The headers from `from` to `to`, ascending: at most [`MAX_HEADERS`], the highest of them, and only those that the node has.
    pub async fn headers(&self, from: u64, to: u64) -> Result<Vec<Header>, RpcError> {
        match self.dialect {
            Dialect::Comet => comet::headers(self, from, to).await,
            Dialect::Eth => eth::headers(self, from, to).await,
        }
    }

    /// The application's state after the block of this height, upper-case hex; `None` from programs that do not keep it for heights
    /// (CometBFT before 0.38): there [`Self::abci_info`] is all there is.
    pub async fn app_state(&self, height: u64) -> Result<Option<String>, RpcError> {
        match self.dialect {
            Dialect::Comet => comet::app_state(self, height).await,
            Dialect::Eth => eth::app_state(self, height).await.map(Some),
        }
    }

    /// What the application says of its own height and state.
    pub async fn abci_info(&self) -> Result<AbciInfo, RpcError> {
        match self.dialect {
            Dialect::Comet => comet::abci_info(self).await,
            Dialect::Eth => Err(no_such("abci_info")),
        }
    }

    /// The node's peers.
    pub async fn peers(&self) -> Result<Peers, RpcError> {
        match self.dialect {
            Dialect::Comet => comet::peers(self).await,
            Dialect::Eth => eth::peers(self).await,
        }
    }

    /// The validator set at a height; `None`: the latest that the node knows.
    pub async fn validators(&self, height: Option<u64>) -> Result<ValidatorSet, RpcError> {
        match self.dialect {
            Dialect::Comet => comet::validators(self, height).await,
            Dialect::Eth => eth::validators(self, height).await,
        }
    }

    /// Who proposes in the round that the node is in.
    pub async fn leader(&self) -> Result<Leader, RpcError> {
        match self.dialect {
            Dialect::Comet => comet::leader(self).await,
            Dialect::Eth => eth::leader(self).await,
        }
    }

    /// Hands a transaction to the node; returns its hash (upper-case hex) once the node's own check has taken it.
    ///
    /// # Errors
    /// [`RpcError::Refused`] when the check did not.
    pub async fn send_tx(&self, bytes: &[u8]) -> Result<String, RpcError> {
        match self.dialect {
            Dialect::Comet => comet::send_tx(self, bytes).await,
            Dialect::Eth => eth::send_tx(self, bytes).await,
        }
    }

    /// Looks for a committed transaction by its hash; `None`: the node knows none.
    pub async fn tx(&self, hash: &str) -> Result<Option<Committed>, RpcError> {
        match self.dialect {
            Dialect::Comet => comet::tx(self, hash).await,
            Dialect::Eth => eth::tx(self, hash).await,
        }
    }

    /// How many transactions of this account (40 digits in hex) the node knows, those that wait included: the number of the next.
    pub async fn nonce(&self, account: &str) -> Result<u64, RpcError> {
        match self.dialect {
            Dialect::Comet => Err(no_such("nonce")),
            Dialect::Eth => eth::nonce(self, account).await,
        }
    }

    /// Tells a devnode to misbehave, in its own words.
    pub async fn misbehave(&self, spec: &str) -> Result<(), RpcError> {
        match self.dialect {
            Dialect::Comet => comet::misbehave(self, spec).await,
            Dialect::Eth => Err(no_such("misbehave")),
        }
    }

    /// Tells a devnode to behave from now on.
    pub async fn behave(&self) -> Result<(), RpcError> {
        match self.dialect {
            Dialect::Comet => comet::behave(self).await,
            Dialect::Eth => Err(no_such("behave")),
        }
    }

    /// The result of one request.
    async fn limited<T: DeserializeOwned>(&self, request: reqwest::RequestBuilder) -> Result<T, RpcError> {
        parse(&self.body(request).await?)
    }

    /// The body of the answer to one request, within the limit.
    async fn body(&self, request: reqwest::RequestBuilder) -> Result<Vec<u8>, RpcError> {
        let fetched = tokio::time::timeout(self.limit, fetch(request)).await;
        let fetched = fetched.unwrap_or_else(|_| {
            Err(RpcError::Silent {
                cause: Silence::Timeout,
                detail: format!("no answer within {}", Ms::from(self.limit)),
            })
        });
        fetched.map_err(|error| self.blame(error))
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
    let envelope: Envelope<T> = serde_json::from_slice(body).map_err(|error| unreadable(body, &error))?;
    envelope.open()
}

fn unreadable(body: &[u8], error: &serde_json::Error) -> RpcError {
    let start = String::from_utf8_lossy(&body[..body.len().min(80)]).into_owned();
    RpcError::garbage(format!(
        "{error}, in an answer that starts with `{}`",
        start.escape_debug()
    ))
}

/// What is asked of a node whose dialect has no words for it.
fn no_such(what: &str) -> RpcError {
    RpcError::Refused {
        code: -32601,
        words: format!("this chain's RPC has no {what}"),
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

/// At most 400 characters: what a node says is kept in records.
fn short(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(400) {
        text.truncate(end);
    }
    text
}

/// What JSON-RPC wraps around a result.
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

impl<T> Envelope<T> {
    fn open(self) -> Result<T, RpcError> {
        match self {
            Self { error: Some(error), .. } => Err(error.into()),
            Self {
                result: Some(result), ..
            } => Ok(result),
            Self { .. } => Err(RpcError::garbage("an answer with neither result nor error")),
        }
    }
}

impl From<NodeError> for RpcError {
    fn from(error: NodeError) -> Self {
        let mut words = error.message;
        if let Some(data) = error.data {
            words.push_str(": ");
            words.push_str(&data);
        }
        Self::Refused {
            code: error.code,
            words: short(words),
        }
    }
}
