//! CometBFT's dialect (0.37, 0.38, 1.0), which the devnode speaks too.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::de::{DeserializeOwned, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};

use super::{AbciInfo, Committed, Leader, Peers, Rpc, RpcError, Status, Validator, ValidatorSet, short, upper};
use crate::record::Header;

/// Validators on a page of `/validators`, and the most pages that are read.
const PAGE: usize = 100;
const MAX_PAGES: usize = 100;

/// The node's own account of itself.
pub(super) async fn status(rpc: &Rpc) -> Result<Status, RpcError> {
    let StatusResult {
        node_info,
        sync_info: sync,
    } = rpc.limited(rpc.client.get(rpc.status.clone())).await?;
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
pub(super) async fn headers(rpc: &Rpc, from: u64, to: u64) -> Result<Vec<Header>, RpcError> {
    let heights = [("minHeight", from.to_string()), ("maxHeight", to.to_string())];
    let result: BlockchainResult = get(rpc, "blockchain", &heights).await?;
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
/// have it (before CometBFT 0.38): there [`abci_info`] is all there is.
pub(super) async fn app_state(rpc: &Rpc, height: u64) -> Result<Option<String>, RpcError> {
    let result: BlockResults = get(rpc, "block_results", &[("height", height.to_string())]).await?;
    if result.height != height {
        return Err(RpcError::garbage(format!(
            "asked for the results of height {height}, and got those of {}",
            result.height
        )));
    }
    result.app_hash.map(bytes_as_hex).transpose()
}

/// What the application says of its own height and state.
pub(super) async fn abci_info(rpc: &Rpc) -> Result<AbciInfo, RpcError> {
    let InfoResult { response } = get(rpc, "abci_info", &[]).await?;
    Ok(AbciInfo {
        height: response.last_block_height,
        app_hash: bytes_as_hex(response.last_block_app_hash)?,
    })
}

/// The node's peers.
pub(super) async fn peers(rpc: &Rpc) -> Result<Peers, RpcError> {
    let result: NetInfo = get(rpc, "net_info", &[]).await?;
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
pub(super) async fn validators(rpc: &Rpc, height: Option<u64>) -> Result<ValidatorSet, RpcError> {
    let mut set = ValidatorSet {
        height: height.unwrap_or(0),
        validators: Vec::new(),
    };
    let mut at = height;
    for page in 1..=MAX_PAGES {
        let mut query = vec![("page", page.to_string()), ("per_page", PAGE.to_string())];
        query.extend(at.map(|height| ("height", height.to_string())));
        let result: ValidatorsResult = get(rpc, "validators", &query).await?;
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
pub(super) async fn leader(rpc: &Rpc) -> Result<Leader, RpcError> {
    let ConsensusState { round_state } = get(rpc, "consensus_state", &[]).await?;
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
pub(super) async fn send_tx(rpc: &Rpc, bytes: &[u8]) -> Result<String, RpcError> {
    let body = serde_json::json!({
        "jsonrpc": "2.0",
        "id": 1,
        "method": "broadcast_tx_sync",
        "params": { "tx": BASE64.encode(bytes) },
    });
    let request = rpc.client.post(rpc.base.clone()).json(&body);
    let Broadcast { code, log, hash } = rpc.limited(request).await?;
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
pub(super) async fn tx(rpc: &Rpc, hash: &str) -> Result<Option<Committed>, RpcError> {
    match get(rpc, "tx", &[("hash", format!("0x{hash}"))]).await {
        Ok(TxResult { height, tx_result }) => Ok(Some(Committed {
            height,
            code: tx_result.code,
            above: 0,
        })),
        Err(RpcError::Refused { words, .. }) if words.contains("not found") => Ok(None),
        Err(error) => Err(error),
    }
}

/// Tells a devnode to misbehave, in its own words.
pub(super) async fn misbehave(rpc: &Rpc, spec: &str) -> Result<(), RpcError> {
    get(rpc, "misbehave", &[("spec", format!("\"{spec}\""))])
        .await
        .map(|_: serde::de::IgnoredAny| ())
}

/// Tells a devnode to behave from now on.
pub(super) async fn behave(rpc: &Rpc) -> Result<(), RpcError> {
    get(rpc, "behave", &[]).await.map(|_: serde::de::IgnoredAny| ())
}

async fn get<T: DeserializeOwned>(rpc: &Rpc, path: &str, query: &[(&str, String)]) -> Result<T, RpcError> {
    let mut url = rpc.base.clone();
    url.set_path(path);
    if !query.is_empty() {
        url.query_pairs_mut().extend_pairs(query);
    }
    rpc.limited(rpc.client.get(url)).await
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
