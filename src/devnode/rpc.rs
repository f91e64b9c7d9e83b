//! The RPC, in CometBFT's shape: GET with arguments in the URI, or POST of a JSON-RPC request.
//!
//! The server only takes requests apart; the node answers them ([`answer`]), so that all of an
//! answer is of one moment. Heights are strings, hashes upper-case hexadecimal, byte fields of the
//! ABCI base64. Beyond CometBFT's there are `/misbehave?spec="…"` and `/behave`.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::{Bytes, to_bytes};
use axum::extract::{Query, Request as HttpRequest, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse as _, Json, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};

use super::PublicKeyText;
use super::codec::StoredBlock;
use super::misbehave::{Misbehaviour, Spec};
use super::node::{Event, Node};
use super::types::{Block, Hash, Header, Height, Hex, ValidatorSet, hash_parts, sha256};

/// The largest request body, in bytes.
const MAX_BODY: usize = 1024 * 1024;
/// The most block headers in one answer, as in CometBFT.
const MAX_METAS: u64 = 20;

/// The methods, in the order in which `/` lists them.
const METHODS: [&str; 16] = [
    "health",
    "status",
    "net_info",
    "blockchain",
    "block",
    "commit",
    "block_results",
    "abci_info",
    "validators",
    "consensus_state",
    "num_unconfirmed_txs",
    "broadcast_tx_sync",
    "tx",
    "misbehaviours",
    "misbehave",
    "behave",
];

/// A request on its way to the node.
#[derive(Debug)]
pub struct Request {
    /// The method, without a slash.
    pub method: String,
    /// Its arguments.
    pub arguments: Arguments,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Reply>,
}

/// The node's answer.
#[derive(Debug)]
pub enum Reply {
    /// The result.
    Result(Value),
    /// An error.
    Error(RpcError),
    /// Nothing, ever: the node misbehaves.
    Never,
}

/// An error as JSON-RPC has it.
#[derive(Debug, PartialEq, Eq)]
pub struct RpcError {
    code: i32,
    message: &'static str,
    data: String,
}

impl RpcError {
    fn internal(data: impl Into<String>) -> Self {
        Self {
            code: -32603,
            message: "Internal error",
            data: data.into(),
        }
    }

    fn arguments(data: impl Into<String>) -> Self {
        Self {
            code: -32602,
            message: "Invalid params",
            data: data.into(),
        }
    }
}

/// The arguments of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arguments {
    values: BTreeMap<String, String>,
    /// Bytes are base64, as in a POST; in a URI they are `"text"` or `0xHEX`.
    base64: bool,
}

impl Arguments {
    fn from_uri(values: BTreeMap<String, String>) -> Self {
        Self { values, base64: false }
    }

    fn from_json(params: &Value) -> Self {
        let mut values = BTreeMap::new();
        for (name, value) in params.as_object().into_iter().flatten() {
            match value {
                Value::Null => {}
                Value::String(text) => {
                    values.insert(name.clone(), text.clone());
                }
                other => {
                    values.insert(name.clone(), other.to_string());
                }
            }
        }
        Self { values, base64: true }
    }

    /// An argument without the quotes that a URI puts around text.
    fn text(&self, name: &str) -> Option<&str> {
        let value = self.values.get(name)?.as_str();
        let bare = value.strip_prefix('"').and_then(|v| v.strip_suffix('"'));
        Some(bare.unwrap_or(value)).filter(|v| !v.is_empty())
    }

    fn height(&self, name: &str) -> Result<Option<u64>, RpcError> {
        let Some(text) = self.text(name) else {
            return Ok(None);
        };
        let bad = || RpcError::arguments(format!("{name}: '{text}' is no height"));
        text.parse().map(Some).map_err(|_| bad())
    }

    fn bytes(&self, name: &str) -> Result<Vec<u8>, RpcError> {
        let missing = || RpcError::arguments(format!("{name} is missing"));
        let raw = self.values.get(name).ok_or_else(missing)?;
        let text = self.text(name).ok_or_else(missing)?;
        let bad = |form| RpcError::arguments(format!("{name}: expected {form}"));
        if self.base64 {
            return BASE64.decode(text).map_err(|_| bad("base64"));
        }
        if let Some(digits) = raw.strip_prefix("0x") {
            return hex::decode(digits).map_err(|_| bad("0x and hexadecimal digits"));
        }
        if raw.starts_with('"') {
            Ok(text.as_bytes().to_vec())
        } else {
            Err(bad("\"text\" or 0x and hexadecimal digits"))
        }
    }
}

/// Serves the RPC for ever, after the delay.
pub async fn serve(listener: TcpListener, events: mpsc::Sender<Event>) {
    let router = Router::new().fallback(handle).with_state(events);
    let listener = axum::serve::ListenerExt::tap_io(listener, |stream| {
        // Without it answers are only slower.
        let _slower = stream.set_nodelay(true);
    });
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(%error, "the RPC server ended");
    }
}

/// The body of a POST.
#[derive(Deserialize)]
struct JsonRequest {
    #[serde(default)]
    id: Value,
    method: String,
    #[serde(default)]
    params: Value,
}

async fn handle(State(events): State<mpsc::Sender<Event>>, request: HttpRequest) -> Response {
    let (id, method, arguments) = match *request.method() {
        Method::GET => {
            let method = request.uri().path().trim_matches('/').to_owned();
            match Query::<BTreeMap<String, String>>::try_from_uri(request.uri()) {
                Ok(query) => (json!(-1), method, Arguments::from_uri(query.0)),
                Err(error) => return refuse(json!(-1), RpcError::arguments(error.to_string())),
            }
        }
        Method::POST => match read_json(request).await {
            Ok(json) => (json.id, json.method, Arguments::from_json(&json.params)),
            Err(error) => return refuse(json!(-1), error),
        },
        _ => return StatusCode::METHOD_NOT_ALLOWED.into_response(),
    };
    if !METHODS.contains(&method.as_str()) {
        let body = format!("no such method; there are: {}\n", METHODS.join(", "));
        return (StatusCode::NOT_FOUND, body).into_response();
    }
    let (reply, answer) = oneshot::channel();
    let request = Request {
        method,
        arguments,
        reply,
    };
    if events.send(Event::Rpc(request)).await.is_err() {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    match answer.await {
        Ok(Reply::Result(result)) => Json(json!({ "jsonrpc": "2.0", "id": id, "result": result })).into_response(),
        Ok(Reply::Error(error)) => refuse(id, error),
        Ok(Reply::Never) => std::future::pending().await,
        Err(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

async fn read_json(request: HttpRequest) -> Result<JsonRequest, RpcError> {
    let body: Bytes = to_bytes(request.into_body(), MAX_BODY)
        .await
        .map_err(|error| RpcError::arguments(error.to_string()))?;
    serde_json::from_slice(&body).map_err(|error| RpcError {
        code: -32700,
        message: "Parse error",
        data: error.to_string(),
    })
}

fn refuse(id: Value, error: RpcError) -> Response {
    let RpcError { code, message, data } = error;
    let error = json!({ "code": code, "message": message, "data": data });
    let body = Json(json!({ "jsonrpc": "2.0", "id": id, "error": error }));
    (StatusCode::INTERNAL_SERVER_ERROR, body).into_response()
}

/// Answers a request.
pub fn answer(node: &mut Node, method: &str, arguments: &Arguments) -> Reply {
    let control = matches!(method, "misbehave" | "behave" | "misbehaviours");
    if !control && node.misbehaves(Misbehaviour::Hang) {
        return Reply::Never;
    }
    match result(node, method, arguments) {
        Ok(result) => Reply::Result(result),
        Err(error) => Reply::Error(error),
    }
}

fn result(node: &mut Node, method: &str, arguments: &Arguments) -> Result<Value, RpcError> {
    match method {
        "health" => Ok(json!({})),
        "status" => Ok(status(node)),
        "net_info" => Ok(net_info(node)),
        "blockchain" => blockchain(node, arguments),
        "block" => block(node, arguments),
        "commit" => commit(node, arguments),
        "block_results" => block_results(node, arguments),
        "abci_info" => Ok(abci_info(node)),
        "validators" => validators(node, arguments),
        "consensus_state" => Ok(consensus_state(node)),
        "num_unconfirmed_txs" => {
            let count = node.mempool().len().to_string();
            Ok(json!({ "n_txs": count, "total": count, "txs": null }))
        }
        "broadcast_tx_sync" => broadcast(node, arguments.bytes("tx")?),
        "tx" => tx(node, arguments),
        "misbehave" => {
            let text = arguments.text("spec").unwrap_or_default();
            let spec: Spec = text
                .parse()
                .map_err(|error: super::misbehave::SpecError| RpcError::arguments(error.to_string()))?;
            if matches!(spec.what, Misbehaviour::SlowStart { .. }) {
                return Err(RpcError::arguments("slow-start takes effect at the start only"));
            }
            node.misbehave(spec);
            Ok(misbehaviours(node))
        }
        "behave" => {
            node.behave();
            Ok(misbehaviours(node))
        }
        "misbehaviours" => Ok(misbehaviours(node)),
        _ => Err(RpcError::internal("no such method")),
    }
}

fn misbehaviours(node: &Node) -> Value {
    let specs: Vec<String> = node.misbehaviours().list().iter().map(Spec::to_string).collect();
    json!({ "misbehaviours": specs })
}

/// The height that the node shows.
fn shown_height(node: &Node) -> u64 {
    node.misbehaviours().reported_height(node.ledger().height().0)
}

/// The hash that the node shows for a block.
fn shown_hash(node: &Node, height: u64, hash: Hash) -> Hash {
    if node.misbehaviours().lies_about(height) {
        hash_parts("another block", &[&hash.0])
    } else {
        hash
    }
}

/// The state's hash that the node shows for a height.
fn shown_app_hash(node: &Node, height: u64, hash: Hash) -> Hash {
    let set = node.misbehaviours();
    if set.is(Misbehaviour::AppHash, height) {
        hash_parts("another state", &[&hash.0])
    } else {
        hash
    }
}

fn stored(node: &Node, height: u64) -> Result<(StoredBlock, Block), RpcError> {
    match node.ledger().block(Height(height)) {
        Ok(Some(stored)) => {
            let block = Block::from(stored.block.clone());
            Ok((stored, block))
        }
        Ok(None) => Err(RpcError::internal(format!("no block of height {height}"))),
        Err(error) => Err(RpcError::internal(error.to_string())),
    }
}

/// The height that is asked for, or the newest.
fn wanted(node: &Node, arguments: &Arguments) -> Result<u64, RpcError> {
    let newest = shown_height(node);
    match arguments.height("height")? {
        None => Ok(newest),
        Some(0) => Err(RpcError::internal("height must be greater than 0, but got 0")),
        Some(height) if height > newest => Err(RpcError::internal(format!(
            "height {height} must be less than or equal to the current blockchain height {newest}"
        ))),
        Some(height) => Ok(height),
    }
}

/// The state's hash after a height.
fn app_hash_after(node: &Node, height: u64) -> Result<Hash, RpcError> {
    let ledger = node.ledger();
    let hash = if height >= ledger.height().0 {
        ledger.app().hash()
    } else {
        stored(node, height + 1)?.1.header().app_hash
    };
    Ok(shown_app_hash(node, height, hash))
}

fn time(ms: u64) -> String {
    let time = SystemTime::UNIX_EPOCH + Duration::from_millis(ms);
    humantime::format_rfc3339_millis(time).to_string()
}

/// Hashes of what does not exist are empty, as in CometBFT.
fn hash_or_empty(hash: Hash) -> String {
    if hash == Hex::ZERO {
        String::new()
    } else {
        hash.to_string()
    }
}

fn node_info(id: &super::types::Address, network: &str, version: &str, moniker: &str) -> Value {
    json!({
        "id": id.to_string().to_lowercase(),
        "network": network,
        "version": version,
        "moniker": moniker,
    })
}

fn status(node: &Node) -> Value {
    let height = shown_height(node);
    let (hash, app_hash, time_ms) = match stored(node, height) {
        Ok((_, block)) => {
            let header = block.header();
            // The header's is the one after the block before.
            let app_hash = shown_app_hash(node, height.saturating_sub(1), header.app_hash);
            let hash = shown_hash(node, height, block.hash());
            (hash.to_string(), app_hash.to_string(), header.time_ms)
        }
        Err(_) => (String::new(), String::new(), 0),
    };
    let identity = node.identity();
    let key = PublicKeyText(identity.key.public_key());
    let next = Height(node.ledger().height().0 + 1);
    let power = node.ledger().app().validators(next).get(&identity.address);
    let earliest = u64::from(height > 0).to_string();
    json!({
        "node_info": node_info(
            &identity.address, &identity.chain_id, &identity.version, &identity.name
        ),
        "sync_info": {
            "latest_block_hash": hash,
            "latest_app_hash": app_hash,
            "latest_block_height": height.to_string(),
            "latest_block_time": time(time_ms),
            "earliest_block_height": earliest,
            "catching_up": node.catching_up(),
        },
        "validator_info": {
            "address": identity.address,
            "pub_key": { "type": "tendermint/PubKeyEd25519", "value": key.base64() },
            "voting_power": power.map_or(0, |v| v.power).to_string(),
        },
    })
}

fn net_info(node: &Node) -> Value {
    let network = &node.identity().chain_id;
    let peers: Vec<Value> = node
        .links()
        .map(|link| {
            let peer = &link.peer;
            json!({
                "node_info": node_info(&peer.address, network, &peer.version, &peer.name),
                "is_outbound": link.dialed,
                "remote_ip": peer.remote.rsplit_once(':').map_or("", |(ip, _)| ip),
            })
        })
        .collect();
    json!({
        "listening": true,
        "n_peers": peers.len().to_string(),
        "peers": peers,
    })
}

fn header_json(header: &Header) -> Value {
    let Header {
        chain_id,
        height,
        time_ms,
        parent,
        app_hash,
        data_hash,
        validators_hash,
        proposer,
    } = header;
    json!({
        "chain_id": chain_id,
        "height": height.to_string(),
        "time": time(*time_ms),
        "last_block_id": { "hash": hash_or_empty(*parent) },
        "app_hash": app_hash,
        "data_hash": data_hash,
        "validators_hash": validators_hash,
        "proposer_address": proposer,
    })
}

fn blockchain(node: &Node, arguments: &Arguments) -> Result<Value, RpcError> {
    let newest = shown_height(node);
    let max = arguments.height("maxHeight")?.filter(|max| *max > 0);
    let max = max.unwrap_or(newest).min(newest);
    let min = arguments.height("minHeight")?.unwrap_or(1).max(1);
    let min = min.max((max + 1).saturating_sub(MAX_METAS));
    if min > max && newest > 0 {
        return Err(RpcError::internal(format!(
            "min height {min} can't be greater than max height {max}"
        )));
    }
    let mut metas = Vec::new();
    for height in (min..=max).rev() {
        let (_, block) = stored(node, height)?;
        metas.push(json!({
            "block_id": { "hash": shown_hash(node, height, block.hash()) },
            "header": header_json(block.header()),
            "num_txs": block.txs().len().to_string(),
        }));
    }
    Ok(json!({ "last_height": newest.to_string(), "block_metas": metas }))
}

fn commit_json(node: &Node, stored: &StoredBlock, block: &Block) -> Value {
    let height = block.header().height.0;
    let signatures: Vec<Value> = stored
        .signers
        .iter()
        .map(|signer| {
            json!({
                "block_id_flag": 2,
                "validator_address": signer.address,
                "signature": signer.signature,
            })
        })
        .collect();
    json!({
        "height": height.to_string(),
        "round": stored.round,
        "block_id": { "hash": shown_hash(node, height, block.hash()) },
        "signatures": signatures,
    })
}

fn block(node: &Node, arguments: &Arguments) -> Result<Value, RpcError> {
    let height = wanted(node, arguments)?;
    let (_, block) = stored(node, height)?;
    let last_commit = match stored(node, height.saturating_sub(1)) {
        Ok((before, block)) => commit_json(node, &before, &block),
        Err(_) => Value::Null,
    };
    let txs: Vec<String> = block.txs().iter().map(|tx| BASE64.encode(tx)).collect();
    Ok(json!({
        "block_id": { "hash": shown_hash(node, height, block.hash()) },
        "block": {
            "header": header_json(block.header()),
            "data": { "txs": txs },
            "evidence": { "evidence": [] },
            "last_commit": last_commit,
        },
    }))
}

fn commit(node: &Node, arguments: &Arguments) -> Result<Value, RpcError> {
    let height = wanted(node, arguments)?;
    let (stored, block) = stored(node, height)?;
    Ok(json!({
        "signed_header": {
            "header": header_json(block.header()),
            "commit": commit_json(node, &stored, &block),
        },
        "canonical": true,
    }))
}

fn tx_result(node: &Node, height: u64, index: u32) -> Value {
    match node.ledger().failure(Height(height), index) {
        None => json!({ "code": 0, "data": null, "log": "", "codespace": "" }),
        Some(error) => {
            let (code, log) = (error.code(), error.to_string());
            json!({ "code": code, "data": null, "log": log, "codespace": "" })
        }
    }
}

fn block_results(node: &Node, arguments: &Arguments) -> Result<Value, RpcError> {
    let height = wanted(node, arguments)?;
    let (_, block) = stored(node, height)?;
    let results: Vec<Value> = (0_u32..)
        .zip(block.txs())
        .map(|(index, _)| tx_result(node, height, index))
        .collect();
    Ok(json!({
        "height": height.to_string(),
        "txs_results": results,
        "app_hash": BASE64.encode(app_hash_after(node, height)?.0),
    }))
}

fn abci_info(node: &Node) -> Value {
    let height = shown_height(node);
    let hash = app_hash_after(node, height).unwrap_or(Hex::ZERO);
    json!({
        "response": {
            "data": "trialnet-devnode",
            "version": node.identity().version,
            "app_version": "1",
            "last_block_height": height.to_string(),
            "last_block_app_hash": BASE64.encode(hash.0),
        },
    })
}

fn validators(node: &Node, arguments: &Arguments) -> Result<Value, RpcError> {
    // Those of the next height are settled too, and before the first block there is nothing else.
    let newest = shown_height(node) + 1;
    let height = match arguments.height("height")? {
        Some(height) if height == 0 || height > newest => {
            return Err(RpcError::internal(format!(
                "height {height} must be from 1 to {newest}"
            )));
        }
        Some(height) => height,
        None => newest.saturating_sub(1).max(1),
    };
    let set: &ValidatorSet = node.ledger().app().validators(Height(height));
    let list: Vec<Value> = set
        .as_slice()
        .iter()
        .map(|validator| {
            json!({
                "address": validator.address,
                "pub_key": {
                    "type": "tendermint/PubKeyEd25519",
                    "value": PublicKeyText(validator.key).base64(),
                },
                "voting_power": validator.power.to_string(),
                "proposer_priority": "0",
                "name": validator.name,
            })
        })
        .collect();
    let count = list.len().to_string();
    Ok(json!({
        "block_height": height.to_string(),
        "validators": list,
        "count": count,
        "total": count,
    }))
}

fn consensus_state(node: &Node) -> Value {
    let (height, round, step) = node.position();
    let proposer = node.proposer();
    json!({
        "round_state": {
            "height/round/step": format!("{height}/{round}/{step}"),
            "height": height.to_string(),
            "round": round,
            "step": step,
            "proposer": { "address": proposer.address, "name": proposer.name },
        },
    })
}

fn broadcast(node: &mut Node, tx: Vec<u8>) -> Result<Value, RpcError> {
    let hash = sha256(&tx);
    if node.mempool().contains(&hash) || node.ledger().find_tx(&hash).is_some() {
        return Err(RpcError::internal("tx already exists in cache"));
    }
    let (code, log) = match node.ledger().app().check(&tx) {
        Ok(()) => (0, String::new()),
        Err(error) => (error.code(), error.to_string()),
    };
    if code == 0 && !node.submit(tx) {
        return Err(RpcError::internal("mempool is full"));
    }
    Ok(json!({
        "code": code,
        "data": "",
        "log": log,
        "codespace": "",
        "hash": hash,
    }))
}

fn tx(node: &Node, arguments: &Arguments) -> Result<Value, RpcError> {
    let hash = arguments.bytes("hash")?;
    let shown = hex::encode_upper(&hash);
    let found = <[u8; 32]>::try_from(hash)
        .ok()
        .and_then(|hash| node.ledger().find_tx(&Hex(hash)))
        .filter(|(height, _)| height.0 <= shown_height(node));
    let Some((height, index)) = found else {
        return Err(RpcError::internal(format!("tx ({shown}) not found")));
    };
    let (_, block) = stored(node, height.0)?;
    let bytes = block.txs().get(usize::try_from(index).unwrap_or(usize::MAX));
    Ok(json!({
        "hash": shown,
        "height": height.to_string(),
        "index": index,
        "tx_result": tx_result(node, height.0, index),
        "tx": bytes.map(|bytes| BASE64.encode(bytes)),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(name: &str, value: &str) -> Arguments {
        Arguments::from_uri(BTreeMap::from([(name.to_owned(), value.to_owned())]))
    }

    #[test]
    fn arguments_of_a_uri() {
        assert_eq!(uri("tx", "\"a=b\"").bytes("tx").unwrap(), b"a=b");
        assert_eq!(uri("tx", "0x613D62").bytes("tx").unwrap(), b"a=b");
        for bad in ["a=b", "0xZZ", "", "\"\""] {
            assert!(uri("tx", bad).bytes("tx").is_err(), "{bad}");
        }
        assert_eq!(uri("height", "\"12\"").height("height").unwrap(), Some(12));
        assert_eq!(uri("height", "12").height("height").unwrap(), Some(12));
        assert_eq!(uri("height", "").height("height").unwrap(), None);
        assert!(uri("height", "-1").height("height").is_err());
    }

    #[test]
    fn arguments_of_a_post() {
        let arguments = Arguments::from_json(&json!({ "tx": "YT1i", "height": 3, "x": null }));
        assert_eq!(arguments.bytes("tx").unwrap(), b"a=b");
        assert_eq!(arguments.height("height").unwrap(), Some(3));
        assert_eq!(arguments.text("x"), None);
        assert_eq!(Arguments::from_json(&json!([1])), Arguments::from_json(&json!({})));
    }
}
