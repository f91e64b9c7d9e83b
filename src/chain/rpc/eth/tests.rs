use std::net::SocketAddr;

use axum::Router;
use axum::body::Bytes;
use proptest::prelude::*;

use super::*;
use crate::chain::Dialect;
use crate::chain::rpc::Client;
use crate::model::Ms;

/// A server that answers each request of a batch, or the only one, by its method and parameters; `None`: nothing at all.
async fn serve(answer: impl Fn(&str, &Value) -> Option<Value> + Clone + Send + Sync + 'static) -> SocketAddr {
    let one = move |request: &Value| {
        let mut said = answer(request["method"].as_str()?, &request["params"])?;
        said["id"] = request["id"].clone();
        Some(said)
    };
    let handler = move |body: Bytes| {
        let asked: Value = serde_json::from_slice(&body).unwrap();
        let said = match &asked {
            // From the last to the first: the order is nobody's promise.
            Value::Array(list) => list.iter().rev().filter_map(&one).collect(),
            single => one(single).unwrap_or_default(),
        };
        async move { said.to_string() }
    };
    raw(handler).await
}

async fn raw<F, R>(handler: F) -> SocketAddr
where
    F: Fn(Bytes) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = String> + Send,
{
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(handler)).await });
    address
}

fn rpc(address: SocketAddr) -> Rpc {
    Client::new().unwrap().node(address, Dialect::Eth, Ms(5_000))
}

async fn always(text: &'static str) -> Rpc {
    rpc(raw(move |_| async move { text.to_owned() }).await)
}

fn block(number: u64) -> Value {
    json!({
        "number": hex(number),
        "hash": format!("0x{number:064x}"),
        "parentHash": format!("0x{:064x}", number.saturating_sub(1)),
        "stateRoot": format!("0x{:064x}", number + 0xab00),
        "timestamp": "0x6747a000",
        "transactions": [],
    })
}

const SEALERS: [&str; 3] = [
    "0x883d01eae6eaac077e126ddb32cd53550966ed76",
    "0x127688bbc070dd69a4db8c3ba5d43909e13d8f77",
    "0xc2aa6271409c10dee630e79df90c968989ccf2b7",
];

/// A geth at height 6, as 1.13.15 answers.
fn geth(method: &str, params: &Value) -> Option<Value> {
    let result = match method {
        "eth_blockNumber" => json!("0x6"),
        "eth_getBlockByNumber" if params[0] == "latest" => block(6),
        "eth_getBlockByNumber" => match quantity(params[0].as_str()?).ok()? {
            height @ 0..=6 => block(height),
            _ => Value::Null,
        },
        "eth_syncing" => json!(false),
        "eth_chainId" => json!("0x1092"),
        "web3_clientVersion" => json!("Geth/sealer-0/v1.13.15-stable/linux-amd64/go1.21.6"),
        "admin_peers" => json!([
            { "name": "Geth/sealer-2/v1.13.15-stable/linux-amd64/go1.21.6" },
            { "name": "Geth/sealer-1/v1.12.2-stable-bed84606/linux-amd64/go1.21.6" },
        ]),
        "clique_getSigners" => json!(SEALERS),
        "eth_getTransactionCount" => json!("0x2a"),
        "eth_sendRawTransaction" => match params[0].as_str()? {
            "0x01" => json!(format!("0x{:064x}", 0xcd)),
            _ => return Some(json!({ "error": { "code": -32000, "message": "nonce too low" } })),
        },
        "eth_getTransactionReceipt" => match params[0].as_str()? {
            "0xAA" => json!({ "blockNumber": "0x4", "status": "0x1" }),
            "0xBB" => json!({ "blockNumber": "0x6", "status": "0x0" }),
            _ => Value::Null,
        },
        _ => return Some(json!({ "error": { "code": -32601, "message": "no such method" } })),
    };
    Some(json!({ "result": result }))
}

#[tokio::test]
async fn what_geth_says() {
    let rpc = rpc(serve(geth).await);
    let status = rpc.status().await.unwrap();
    assert_eq!((status.height, status.earliest, status.catching_up), (6, 1, false));
    assert_eq!(status.hash, format!("{:064X}", 6));
    assert_eq!((&*status.version, &*status.moniker), ("1.13.15", "sealer-0"));
    assert_eq!(status.chain, "4242-00000000");
    let headers = rpc.headers(5, 9).await.unwrap();
    assert_eq!(headers.len(), 2, "only those that it has");
    assert_eq!((headers[1].height, &*headers[1].parent), (6, &*format!("{:064X}", 5)));
    assert_eq!(headers[1].time, "2024-11-27T22:41:04Z");
    assert_eq!(
        rpc.headers(1, 60).await.unwrap(),
        [],
        "the highest of them, which it does not have"
    );
    assert_eq!(rpc.app_state(3).await.unwrap(), Some(format!("{:064X}", 0xab03)));
    let peers = rpc.peers().await.unwrap();
    assert_eq!(
        (peers.count, peers.names),
        (2, vec!["sealer-1".to_owned(), "sealer-2".to_owned()])
    );
    let set = rpc.validators(None).await.unwrap();
    assert_eq!((set.height, set.validators.len(), set.validators[0].power), (6, 3, 1));
    assert_eq!(set.validators[0].address, "883D01EAE6EAAC077E126DDB32CD53550966ED76");
    assert_eq!(rpc.validators(Some(2)).await.unwrap().height, 2);
    let leader = rpc.leader().await.unwrap();
    // 7 mod 3 is 1: the second in the order of the addresses.
    assert_eq!(
        (leader.height, &*leader.address),
        (7, "883D01EAE6EAAC077E126DDB32CD53550966ED76")
    );
    assert_eq!(rpc.nonce("ab").await.unwrap(), 42);
}

#[tokio::test]
async fn transactions() {
    let rpc = rpc(serve(geth).await);
    assert_eq!(rpc.send_tx(&[1]).await.unwrap(), format!("{:064X}", 0xcd));
    let refused = rpc.send_tx(&[2]).await.unwrap_err();
    assert!(matches!(refused, RpcError::Refused { code: -32000, .. }), "{refused}");
    let found = rpc.tx("AA").await.unwrap().unwrap();
    assert_eq!((found.height, found.code, found.above), (4, 0, 2));
    let failed = rpc.tx("BB").await.unwrap().unwrap();
    assert_eq!((failed.height, failed.code, failed.above), (6, 1, 0));
    assert_eq!(rpc.tx("CC").await.unwrap(), None);
    assert!(
        matches!(rpc.app_state(9).await, Err(RpcError::Refused { .. })),
        "it has no such block"
    );
}

#[tokio::test]
async fn before_the_first_block() {
    let address = serve(|method, params| match method {
        "eth_getBlockByNumber" => Some(json!({ "result": block(0) })),
        "eth_syncing" => Some(json!({ "result": { "currentBlock": "0x0" } })),
        "web3_clientVersion" => Some(json!({ "result": "Geth/v1.12.2-stable/linux-amd64/go1.20" })),
        _ => geth(method, params),
    })
    .await;
    let status = rpc(address).status().await.unwrap();
    assert_eq!((status.height, &*status.hash, status.earliest), (0, "", 0));
    assert!(status.catching_up);
    assert_eq!(status.version, "1.12.2");
}

#[tokio::test]
async fn answers_that_are_none() {
    for text in [
        "",
        "{}",
        "[]",
        "nothing",
        "[{\"id\":0}]",
        "{\"id\":0,\"result\":17}",
        "[{\"id\":0,\"result\":{\"number\":\"17\"}}]",
    ] {
        let rpc = always(text).await;
        let errors = [
            rpc.status().await.unwrap_err(),
            rpc.headers(1, 2).await.unwrap_err(),
            rpc.leader().await.unwrap_err(),
            rpc.nonce("ab").await.unwrap_err(),
            rpc.tx("AA").await.unwrap_err(),
        ];
        for error in errors {
            assert!(matches!(error, RpcError::Silent { .. }), "{text}: {error}");
        }
    }
    let rpc = always("{\"id\":0,\"error\":{\"code\":-32005,\"message\":\"batch too large\"}}").await;
    assert!(matches!(
        rpc.status().await,
        Err(RpcError::Refused { code: -32005, .. })
    ));
    // Another block than the one that was asked for.
    let other = rpc_of(|_, _| Some(json!({ "result": block(3) }))).await;
    assert!(
        other
            .headers(4, 4)
            .await
            .unwrap_err()
            .to_string()
            .contains("got that of 3")
    );
    assert!(
        other
            .app_state(4)
            .await
            .unwrap_err()
            .to_string()
            .contains("got that of 3")
    );
    let empty = rpc_of(|method, params| match method {
        "clique_getSigners" => Some(json!({ "result": [] })),
        _ => geth(method, params),
    })
    .await;
    assert!(empty.leader().await.unwrap_err().to_string().contains("no sealers"));
}

async fn rpc_of(answer: impl Fn(&str, &Value) -> Option<Value> + Clone + Send + Sync + 'static) -> Rpc {
    rpc(serve(answer).await)
}

#[tokio::test]
async fn what_the_chain_does_not_have_is_refused() {
    let rpc = always("{}").await;
    for error in [
        rpc.abci_info().await.unwrap_err(),
        rpc.misbehave("hang").await.unwrap_err(),
        rpc.behave().await.unwrap_err(),
    ] {
        assert!(matches!(error, RpcError::Refused { .. }), "{error}");
    }
}

proptest! {
    #[test]
    fn numbers_and_names_never_panic(text in "\\PC*") {
        let _number = quantity(&text);
        let _hash = bare(text.clone());
        let (name, version) = name_and_version(&text);
        prop_assert!(name.chars().count() <= 400 && version.chars().count() <= 400);
    }

    #[test]
    fn numbers_come_back(number: u64) {
        prop_assert_eq!(quantity(&hex(number)), Ok(number));
    }
}
