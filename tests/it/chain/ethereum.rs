//! geth with Clique.

use trialnet::model::{Action, Load, Step};

use super::*;

const VERSIONS: [&str; 2] = ["1.12.2", "1.13.15"];

fn step(index: usize, action: Action) -> Step {
    Step {
        index,
        id: None,
        name: None,
        when: None,
        go_on: false,
        background: false,
        line: 1,
        action,
    }
}

fn load() -> Load {
    Load {
        id: "load".into(),
        rate: 10.0,
        lasts: Ms::secs(1),
        size: 100,
        nodes: vec!["validator-0".into()],
    }
}

fn tx() -> Tx {
    Tx {
        id: "transfer".into(),
        body: TxBody::Raw("hello=world".into()),
        node: "validator-0".into(),
    }
}

fn sealers(version: &str, slot: u8) -> Net {
    let mut plan = plan(ChainKind::Ethereum, version, 3, 0, Ms::secs(1));
    plan.steps = vec![step(0, Action::Tx(tx())), step(1, Action::Load(load()))];
    Net::of(plan, slot)
}

/// Waits until the node has this transaction under so many blocks.
async fn committed(rpc: &Rpc, hash: &str, above: u64) -> (u64, u64) {
    let limit = Instant::now() + LIMIT;
    loop {
        let found = rpc.tx(hash).await.unwrap();
        if let Some(found) = &found
            && found.above >= above
        {
            return (found.height, found.code);
        }
        assert!(Instant::now() < limit, "{hash} is not committed: {found:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn sealers_make_blocks_and_take_transfers() {
    for (slot, version) in (100..).step_by(4).zip(VERSIONS) {
        if !is_there(&format!("geth-{version}")) {
            continue;
        }
        let mut net = sealers(version, slot);
        (0..3).for_each(|index| net.start(index));
        let mut chains = BTreeSet::new();
        for index in 0..3 {
            let status = net.until(index, "three blocks", |status| status.height >= 3).await;
            assert_eq!(status.version, version);
            assert_eq!(status.moniker, format!("validator-{index}"));
            assert!(!status.catching_up);
            chains.insert(status.chain);
        }
        assert_eq!(chains.len(), 1, "one first block: {chains:?}");
        let rpc = net.rpc(0);
        let key = |index| validator_key(&net.plan, &chain::ForeignKeys::new(), &format!("validator-{index}")).unwrap();
        let known: BTreeSet<String> = (0..3).map(|index| key(index).address).collect();
        let set = rpc.validators(None).await.unwrap();
        let seen: BTreeSet<String> = set.validators.iter().map(|one| one.address.clone()).collect();
        assert_eq!(seen, known);
        assert!(known.contains(&rpc.leader().await.unwrap().address));
        assert_eq!(rpc.peers().await.unwrap().names, ["validator-1", "validator-2"]);

        let bytes = chain::tx_bytes(&net.plan, &chain::ForeignKeys::new(), &tx()).unwrap();
        let hash = rpc.send_tx(&bytes).await.unwrap();
        let refused = rpc.send_tx(&bytes).await.unwrap_err();
        assert!(matches!(refused, chain::rpc::RpcError::Refused { .. }), "{refused}");
        let mut hashes = vec![hash];
        for n in 0..70 {
            hashes.push(chain::send_load(&net.plan, &load(), &rpc, n).await.unwrap());
        }
        for hash in &hashes {
            let found = committed(&rpc, hash, 2).await;
            assert_eq!(found.1, 0, "it succeeded");
            assert_eq!(
                committed(&net.rpc(2), hash, 2).await,
                found,
                "in the same block everywhere"
            );
        }
        let last = committed(&rpc, hashes.last().unwrap(), 2).await.0;
        let (headers, others) = (
            rpc.headers(1, last).await.unwrap(),
            net.rpc(1).headers(1, last).await.unwrap(),
        );
        assert_eq!(headers, others);
        assert!(headers.windows(2).all(|pair| pair[1].parent == pair[0].hash));
        assert_eq!(rpc.app_state(last).await, net.rpc(1).app_state(last).await);
    }
}

#[tokio::test]
async fn a_killed_sealer_has_all_that_it_had() {
    if !is_there("geth-1.13.15") {
        return;
    }
    let mut net = sealers("1.13.15", 110);
    (0..3).for_each(|index| net.start(index));
    let before = net.until(1, "five blocks", |status| status.height >= 5).await;
    net.kill(1);
    net.start(1);
    let after = net.until(1, "any answer", |_| true).await;
    assert!(after.height + 1 >= before.height, "{after:?} after {before:?}");
    net.until(1, "the others", |status| status.height >= before.height + 3)
        .await;
}
