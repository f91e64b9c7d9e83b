use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{StatusCode, Uri, header};
use axum::response::Response;
use proptest::prelude::*;

use super::super::*;
use super::*;

/// What the programs of these versions answered (one validator, one transaction `a=b`).
const VERSIONS: [&str; 3] = ["0.37.18", "0.38.17", "1.0.1"];
const TX: &str = "42144F3939C3FFBBF0BF8B1F12AFFB5C23A4C5BD41E0FF672D54A5754F062058";

fn fixture(version: &str, name: &str) -> Vec<u8> {
    fs_err::read(format!(
        "{}/fixtures/rpc/{version}/{name}.json",
        env!("CARGO_MANIFEST_DIR")
    ))
    .unwrap()
}

/// A server that gives every request to `answer`: path and query in, status and body out.
async fn serve(answer: impl Fn(String) -> Response + Clone + Send + Sync + 'static) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let handler = move |uri: Uri| {
        let answer = answer.clone();
        async move { answer(uri.to_string()) }
    };
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(handler)).await });
    address
}

fn body(status: u16, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}

fn rpc(address: SocketAddr, limit: u64) -> Rpc {
    Client::new().unwrap().node(address, Dialect::Comet, Ms(limit))
}

/// A client of a server that always answers this.
async fn always(status: u16, text: &'static str) -> Rpc {
    rpc(serve(move |_| body(status, text)).await, 5_000)
}

/// A client of a server that answers as a program did, with HTTP status 500 for errors as the programs do.
async fn recorded(version: &'static str, names: &'static [(&'static str, &'static str)]) -> Rpc {
    let answer = move |uri: String| {
        let known = names.iter().find(|(prefix, _)| uri.starts_with(prefix));
        let Some((_, name)) = known else {
            return body(404, format!("404 page not found: {uri}"));
        };
        let bytes = fixture(version, name);
        let failed = String::from_utf8_lossy(&bytes).contains("\"error\"");
        body(if failed { 500 } else { 200 }, bytes)
    };
    rpc(serve(answer).await, 5_000)
}

fn cause<T: fmt::Debug>(result: Result<T, RpcError>) -> Silence {
    match result.unwrap_err() {
        RpcError::Silent { cause, .. } => cause,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_cometbft_answers() {
    for version in VERSIONS {
        let rpc = recorded(
            version,
            &[
                ("/status", "status"),
                ("/blockchain?minHeight=1&maxHeight=3", "blockchain"),
                ("/blockchain?minHeight=99990", "blockchain_ahead"),
                ("/block_results?height=3", "block_results"),
                ("/block_results?height=99999", "block_results_ahead"),
                ("/abci_info", "abci_info"),
                ("/net_info", "net_info"),
                ("/validators?page=1&per_page=100", "validators"),
                ("/consensus_state", "consensus_state"),
                (
                    "/tx?hash=0x42144F3939C3FFBBF0BF8B1F12AFFB5C23A4C5BD41E0FF672D54A5754F062058",
                    "tx",
                ),
                ("/tx", "tx_unknown"),
            ],
        )
        .await;
        let status = rpc.status().await.unwrap();
        assert!(status.height > 50, "{status:?}");
        assert_eq!(status.hash.len(), 64);
        assert_eq!(status.earliest, 1);
        assert_eq!(status.version, if version == "0.37.18" { "0.37.16" } else { version });
        assert!(status.chain.starts_with("test-chain-"));
        assert!(!status.catching_up);

        let headers = rpc.headers(1, 3).await.unwrap();
        let heights: Vec<u64> = headers.iter().map(|header| header.height).collect();
        assert_eq!(heights, [1, 2, 3]);
        assert_eq!(headers[0].parent, "");
        assert_eq!(headers[1].parent, headers[0].hash);
        assert_eq!(headers[2].parent, headers[1].hash);
        assert!(
            matches!(rpc.headers(99_990, 99_999).await, Err(RpcError::Refused { words, .. }) if words.contains("max height"))
        );

        let state = rpc.app_state(3).await.unwrap();
        assert_eq!(state.as_deref(), (version != "0.37.18").then_some("0000000000000000"));
        assert!(matches!(rpc.app_state(99_999).await, Err(RpcError::Refused { .. })));
        let info = rpc.abci_info().await.unwrap();
        assert!(info.height > 50);
        assert_eq!(info.app_hash, "0200000000000000");

        assert_eq!(
            rpc.peers().await.unwrap(),
            Peers {
                count: 0,
                names: vec![]
            }
        );
        let set = rpc.validators(None).await.unwrap();
        assert_eq!(set.validators.len(), 1);
        assert_eq!(set.validators[0].power, 10);
        let leader = rpc.leader().await.unwrap();
        assert_eq!(leader.address, set.validators[0].address);
        assert!(leader.height > 50 && leader.round == 0, "{leader:?}");

        let committed = rpc.tx(TX).await.unwrap().unwrap();
        assert!(committed.height > 50 && committed.code == 0, "{committed:?}");
        assert_eq!(rpc.tx("00").await.unwrap(), None);
    }
}

#[tokio::test]
async fn transactions() {
    for version in VERSIONS {
        let rpc = recorded(version, &[("/", "broadcast_tx_sync")]).await;
        assert_eq!(rpc.send_tx(b"a=b").await.unwrap(), TX);
        let again = recorded(version, &[("/", "broadcast_again")]).await;
        let error = again.send_tx(b"a=b").await.unwrap_err();
        assert!(error.to_string().contains("tx already exists in cache"), "{error}");
        assert!(matches!(error, RpcError::Refused { .. }));
    }
    let refused = always(200, r#"{"result":{"code":2,"log":"no","hash":"AB"}}"#).await;
    let error = refused.send_tx(b"a").await.unwrap_err();
    assert_eq!(
        error,
        RpcError::Refused {
            code: 2,
            words: "no".into()
        }
    );
}

#[tokio::test]
async fn validators_come_in_pages_of_one_height() {
    let page = |from: usize, count: usize| {
        let validators: Vec<_> = (from..from + count)
            .map(|index| {
                serde_json::json!({ "address": format!("{index:040x}"), "pub_key": { "value": "AA==" }, "voting_power": 1 })
            })
            .collect();
        serde_json::json!({ "result": { "block_height": 7, "validators": validators, "total": 130 } }).to_string()
    };
    let address = serve(move |uri| match uri.as_str() {
        "/validators?page=1&per_page=100" => body(200, page(0, 100)),
        "/validators?page=2&per_page=100&height=7" => body(200, page(100, 30)),
        _ => body(404, uri),
    })
    .await;
    let set = rpc(address, 5_000).validators(None).await.unwrap();
    assert_eq!(set.height, 7);
    assert_eq!(set.validators.len(), 130);
}

#[tokio::test]
async fn what_is_no_answer_is_garbage() {
    for text in [
        "",
        "404 page not found",
        "{",
        "[]",
        "{}",
        r#"{"result":null}"#,
        r#"{"result":{"node_info":{},"sync_info":{"latest_block_hash":"xyz","latest_block_height":"1","catching_up":false}}}"#,
        r#"{"result":{"node_info":{},"sync_info":{"latest_block_hash":"","latest_block_height":"-1","catching_up":false}}}"#,
        r#"{"result":{"node_info":{},"sync_info":{"latest_block_hash":"","latest_block_height":-1,"catching_up":false}}}"#,
        r#"{"result":{"node_info":{},"sync_info":{"latest_block_hash":"","latest_block_height":"99999999999999999999","catching_up":false}}}"#,
        r#"{"result":{"node_info":{},"sync_info":{"latest_block_hash":"","latest_block_height":1.5,"catching_up":false}}}"#,
    ] {
        assert_eq!(
            cause(always(200, text).await.status().await),
            Silence::Garbage,
            "{text}"
        );
    }
    let number = r#"{"result":{"node_info":{},"sync_info":{"latest_block_hash":"","latest_block_height":5,"catching_up":true}}}"#;
    let status = always(200, number).await.status().await.unwrap();
    assert_eq!((status.height, status.catching_up, status.earliest), (5, true, 0));
    let other = r#"{"result":{"block_metas":[{"block_id":{"hash":"AA"},"header":{"height":"9","time":"","last_block_id":{"hash":""}}}]}}"#;
    assert_eq!(cause(always(200, other).await.headers(1, 3).await), Silence::Garbage);
    assert_eq!(
        cause(always(200, r#"{"result":{"height":"4"}}"#).await.app_state(3).await),
        Silence::Garbage
    );
    let state = r#"{"result":{"round_state":{"height/round/step":"5","proposer":{"address":"AB"}}}}"#;
    assert_eq!(cause(always(200, state).await.leader().await), Silence::Garbage);
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let hits = Arc::new(AtomicUsize::new(0));
    let count = hits.clone();
    let address = serve(move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        let mut response = body(302, "");
        response
            .headers_mut()
            .insert(header::LOCATION, "/status".parse().unwrap());
        response
    })
    .await;
    assert_eq!(cause(rpc(address, 5_000).status().await), Silence::Garbage);
    assert_eq!(hits.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn endless_answers_end() {
    let endless = |_| {
        let chunk = Bytes::from(vec![b' '; 64 * 1024]);
        let stream = futures::stream::repeat_with(move || Ok::<_, io::Error>(chunk.clone()));
        body(200, Body::from_stream(stream))
    };
    assert_eq!(
        cause(rpc(serve(endless).await, 60_000).status().await),
        Silence::Garbage
    );
}

#[tokio::test]
async fn silence_has_a_cause() {
    // Bound, so that nobody else takes the port, and not listening.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let closed = socket.local_addr().unwrap();
    assert_eq!(cause(rpc(closed, 5_000).status().await), Silence::Refused);

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mute = listener.local_addr().unwrap();
    assert_eq!(cause(rpc(mute, 50).status().await), Silence::Timeout);

    let closing = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = closing.local_addr().unwrap();
    tokio::spawn(async move { while closing.accept().await.is_ok() {} });
    assert_eq!(cause(rpc(address, 5_000).status().await), Silence::Broken);
}

#[tokio::test]
async fn a_tunnel_says_whose_fault_silence_is() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closing = listener.local_addr().unwrap();
    tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mute = listener.local_addr().unwrap();
    let garbage = serve(|_| body(200, "{")).await;
    for (address, limit, own) in [
        (closing, 5_000, Silence::Broken),
        (mute, 50, Silence::Timeout),
        (garbage, 5_000, Silence::Garbage),
    ] {
        let tunnel = Tunnel::default();
        let endpoint = Endpoint {
            address,
            tunnel: Some(tunnel.clone()),
        };
        let rpc = Client::new().unwrap().node(endpoint, Dialect::Comet, Ms(limit));
        assert_eq!(cause(rpc.status().await), own);
        for known in [Silence::Refused, Silence::Tunnel] {
            tunnel.failed(known, "the pod is gone");
            let (seen, detail) = rpc.status().await.unwrap_err().silence();
            // An answer came from the node, whatever was before.
            let expected = if own == Silence::Garbage { own } else { known };
            assert_eq!(seen, expected);
            assert_eq!(detail == "the pod is gone", own != Silence::Garbage, "{detail}");
        }
        tunnel.carries();
        assert_eq!(cause(rpc.status().await), own);
    }
}

#[test]
fn app_hashes_in_base64_or_hex() {
    let of = |text: &str| bytes_as_hex(text.to_owned());
    assert_eq!(of("AgAAAAAAAAA=").unwrap(), "0200000000000000");
    assert_eq!(of(&"ab".repeat(32)).unwrap(), "AB".repeat(32));
    assert_eq!(of("").unwrap(), "");
    assert!(of("no base64").is_err());
}

proptest! {
    #[test]
    fn no_body_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(parse::<StatusResult>(&bytes).is_err());
        prop_assert!(parse::<BlockchainResult>(&bytes).is_err());
    }

    #[test]
    fn no_change_of_an_answer_makes_it_panic(at in 0_usize..2_000, byte in any::<u8>()) {
        for name in ["status", "blockchain", "validators", "tx", "abci_info"] {
            let mut bytes = fixture("0.38.17", name);
            let at = at % bytes.len();
            bytes[at] = byte;
            // Either is fine; it must only not panic.
            drop(parse::<StatusResult>(&bytes));
            drop(parse::<BlockchainResult>(&bytes));
            drop(parse::<ValidatorsResult>(&bytes));
            drop(parse::<TxResult>(&bytes));
            drop(parse::<InfoResult>(&bytes));
        }
    }
}
