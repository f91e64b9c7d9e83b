//! Ethereum's JSON-RPC, as geth with Clique speaks it. What belongs together is asked in one batch.
//!
//! Hashes and addresses are in upper-case hex without `0x`, as everywhere else in trialnet.

use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{
    Committed, Leader, MAX_HEADERS, NodeError, Peers, Rpc, RpcError, Status, Validator, ValidatorSet, short,
    unreadable, upper,
};
use crate::record::Header;

pub(super) async fn status(rpc: &Rpc) -> Result<Status, RpcError> {
    let calls = [
        ("eth_getBlockByNumber", json!(["latest", false])),
        ("eth_getBlockByNumber", json!(["0x0", false])),
        ("eth_syncing", json!([])),
        ("eth_chainId", json!([])),
        ("web3_clientVersion", json!([])),
    ];
    let [latest, genesis, syncing, chain, client] = batch(rpc, calls).await?;
    let (latest, genesis): (Block, Block) = (read(latest?)?, read(genesis?)?);
    let (height, hash) = (quantity(&latest.number)?, bare(latest.hash)?);
    let client: String = read(client?)?;
    let (moniker, version) = name_and_version(&client);
    let chain = quantity(&read::<String>(chain?)?)?;
    // Two networks may have one id, but not one first block.
    let genesis: String = bare(genesis.hash)?.chars().take(8).collect();
    Ok(Status {
        height,
        hash: if height == 0 { String::new() } else { hash },
        earliest: height.min(1),
        catching_up: syncing? != Value::Bool(false),
        version,
        chain: format!("{chain}-{}", genesis.to_lowercase()),
        moniker,
    })
}

pub(super) async fn headers(rpc: &Rpc, from: u64, to: u64) -> Result<Vec<Header>, RpcError> {
    let from = from.max((to + 1).saturating_sub(MAX_HEADERS));
    let call = |height| ("eth_getBlockByNumber", json!([hex(height), false]));
    let answers = batch_of(rpc, (from..=to).map(call).collect()).await?;
    let mut headers = Vec::with_capacity(answers.len());
    for (height, answer) in (from..=to).zip(answers) {
        let block: Option<Block> = read(answer?)?;
        if let Some(block) = block {
            headers.push(block.header(height)?);
        }
    }
    Ok(headers)
}

/// The root of all accounts after the block of this height.
pub(super) async fn app_state(rpc: &Rpc, height: u64) -> Result<String, RpcError> {
    let block: Option<Block> = call(rpc, "eth_getBlockByNumber", json!([hex(height), false])).await?;
    let block = block.ok_or_else(|| RpcError::Refused {
        code: 0,
        words: format!("it has no block {height}"),
    })?;
    block.is_at(height)?;
    bare(block.state_root)
}

pub(super) async fn peers(rpc: &Rpc) -> Result<Peers, RpcError> {
    let peers: Vec<PeerInfo> = call(rpc, "admin_peers", json!([])).await?;
    let mut names: Vec<String> = peers.iter().map(|peer| name_and_version(&peer.name).0).collect();
    names.sort();
    Ok(Peers {
        count: names.len() as u64,
        names,
    })
}

/// The sealers, who count one each.
pub(super) async fn validators(rpc: &Rpc, height: Option<u64>) -> Result<ValidatorSet, RpcError> {
    let (height, signers) = match height {
        Some(height) => (height, call(rpc, "clique_getSigners", json!([hex(height)])).await?),
        None => latest_signers(rpc).await?,
    };
    let validator = |address: String| {
        let address = bare(address)?;
        Ok::<_, RpcError>(Validator {
            key: address.clone(),
            address,
            power: 1,
        })
    };
    Ok(ValidatorSet {
        height,
        validators: signers.into_iter().map(validator).collect::<Result<_, _>>()?,
    })
}

/// Whose turn it is to seal the next block: the sealers take turns in the order of their addresses. Another may seal it in their place.
pub(super) async fn leader(rpc: &Rpc) -> Result<Leader, RpcError> {
    let (height, signers) = latest_signers(rpc).await?;
    let mut signers = signers.into_iter().map(bare).collect::<Result<Vec<_>, _>>()?;
    signers.sort();
    let next = height.saturating_add(1);
    let turn = usize::try_from(next).unwrap_or(0) % signers.len().max(1);
    let address = signers.into_iter().nth(turn);
    Ok(Leader {
        height: next,
        round: 0,
        address: address.ok_or_else(|| RpcError::garbage("no sealers at all"))?,
    })
}

pub(super) async fn send_tx(rpc: &Rpc, bytes: &[u8]) -> Result<String, RpcError> {
    let raw = format!("0x{}", ::hex::encode(bytes));
    bare(call(rpc, "eth_sendRawTransaction", json!([raw])).await?)
}

pub(super) async fn tx(rpc: &Rpc, hash: &str) -> Result<Option<Committed>, RpcError> {
    let calls = [
        ("eth_getTransactionReceipt", json!([format!("0x{hash}")])),
        ("eth_blockNumber", json!([])),
    ];
    let [receipt, tip] = batch(rpc, calls).await?;
    let receipt: Option<Receipt> = read(receipt?)?;
    let tip = quantity(&read::<String>(tip?)?)?;
    let Some(receipt) = receipt else { return Ok(None) };
    let height = quantity(&receipt.block_number)?;
    Ok(Some(Committed {
        height,
        // A receipt says 1 for success.
        code: u64::from(quantity(&receipt.status)? != 1),
        above: tip.saturating_sub(height),
    }))
}

pub(super) async fn nonce(rpc: &Rpc, account: &str) -> Result<u64, RpcError> {
    let account = format!("0x{account}");
    let count: String = call(rpc, "eth_getTransactionCount", json!([account, "pending"])).await?;
    quantity(&count)
}

async fn latest_signers(rpc: &Rpc) -> Result<(u64, Vec<String>), RpcError> {
    let calls = [("eth_blockNumber", json!([])), ("clique_getSigners", json!(["latest"]))];
    let [height, signers] = batch(rpc, calls).await?;
    Ok((quantity(&read::<String>(height?)?)?, read(signers?)?))
}

async fn call<T: DeserializeOwned>(rpc: &Rpc, method: &str, params: Value) -> Result<T, RpcError> {
    let body = rpc.body(post(rpc, &request(0, method, params))).await?;
    read(answer(&body)?.open()?)
}

/// What each call of a batch gave, in their order.
type Answers<const N: usize> = [Result<Value, RpcError>; N];

async fn batch<const N: usize>(rpc: &Rpc, calls: [(&str, Value); N]) -> Result<Answers<N>, RpcError> {
    let answers = batch_of(rpc, calls.into()).await?;
    answers
        .try_into()
        .map_err(|_| RpcError::garbage("a batch of another length"))
}

async fn batch_of(rpc: &Rpc, calls: Vec<(&str, Value)>) -> Result<Vec<Result<Value, RpcError>>, RpcError> {
    let count = calls.len();
    let numbered = calls.into_iter().enumerate();
    let requests: Vec<Value> = numbered
        .map(|(id, (method, params))| request(id, method, params))
        .collect();
    let body = rpc.body(post(rpc, &Value::Array(requests))).await?;
    // A node that takes no batch answers with a single error.
    if body.trim_ascii_start().starts_with(b"{") {
        return match answer(&body)?.open() {
            Err(error) => Err(error),
            Ok(_) => Err(RpcError::garbage("one answer to a batch")),
        };
    }
    let answers: Vec<Answer> = serde_json::from_slice(&body).map_err(|error| unreadable(&body, &error))?;
    let mut by_id: BTreeMap<usize, Answer> = answers
        .into_iter()
        .filter_map(|answer| Some((answer.id?, answer)))
        .collect();
    let missing = |id| RpcError::garbage(format!("a batch of {count} without an answer to its request {id}"));
    (0..count)
        .map(|id| Ok(by_id.remove(&id).ok_or_else(|| missing(id))?.open()))
        .collect()
}

fn request(id: usize, method: &str, params: Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params })
}

fn post(rpc: &Rpc, body: &Value) -> reqwest::RequestBuilder {
    rpc.client.post(rpc.base.clone()).json(body)
}

/// One answer; its result may be `null`, which says that there is no such thing.
#[derive(Deserialize)]
struct Answer {
    id: Option<usize>,
    #[serde(default)]
    result: Value,
    error: Option<NodeError>,
}

impl Answer {
    fn open(self) -> Result<Value, RpcError> {
        self.error.map_or(Ok(self.result), |error| Err(error.into()))
    }
}

fn answer(body: &[u8]) -> Result<Answer, RpcError> {
    serde_json::from_slice(body).map_err(|error| unreadable(body, &error))
}

/// A result in the form that its method promises.
fn read<T: DeserializeOwned>(value: Value) -> Result<T, RpcError> {
    serde_json::from_value(value).map_err(RpcError::garbage)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Block {
    number: String,
    hash: String,
    parent_hash: String,
    state_root: String,
    timestamp: String,
}

impl Block {
    fn is_at(&self, height: u64) -> Result<(), RpcError> {
        let number = quantity(&self.number)?;
        if number == height {
            return Ok(());
        }
        let message = format!("asked for the block {height}, and got that of {number}");
        Err(RpcError::garbage(message))
    }

    fn header(self, height: u64) -> Result<Header, RpcError> {
        self.is_at(height)?;
        let seconds = quantity(&self.timestamp)?;
        let time = UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
        // Later than that no calendar has words for it.
        let time = time.filter(|_| seconds < 253_402_300_800);
        Ok(Header {
            height,
            hash: bare(self.hash)?,
            parent: bare(self.parent_hash)?,
            time: time.map_or(self.timestamp, |time| {
                humantime::format_rfc3339_seconds(time).to_string()
            }),
        })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Receipt {
    block_number: String,
    status: String,
}

#[derive(Deserialize)]
struct PeerInfo {
    #[serde(default)]
    name: String,
}

/// `Geth/validator-0/v1.13.15-stable/linux-amd64/go1.21` is the node `validator-0` and the version `1.13.15`. Without a name of its own a
/// node has four parts.
fn name_and_version(client: &str) -> (String, String) {
    let parts: Vec<&str> = client.split('/').collect();
    let (name, version) = match parts[..] {
        [_, name, version, _, _] => (name, version),
        [_, version, _, _] => (client, version),
        _ => (client, client),
    };
    let number = version.strip_prefix('v').unwrap_or(version);
    let number = number.split_once('-').map_or(number, |(number, _)| number);
    (short(name.to_owned()), short(number.to_owned()))
}

/// A number as Ethereum writes it: `0x` and hex digits.
fn quantity(text: &str) -> Result<u64, RpcError> {
    let digits = text.strip_prefix("0x").filter(|digits| !digits.starts_with('+'));
    let number = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
    number.ok_or_else(|| RpcError::garbage(format!("`{}` is no number in hex", short(text.to_owned()))))
}

fn hex(number: u64) -> String {
    format!("{number:#x}")
}

/// A hash or address without its `0x`, which it has to have.
fn bare(text: String) -> Result<String, RpcError> {
    match text.strip_prefix("0x") {
        Some(digits) if !digits.is_empty() => upper(digits.to_owned()),
        _ => Err(RpcError::garbage(format!("`{}` is no hash", short(text)))),
    }
}

#[cfg(test)]
mod tests;
