//! Damage to the files of nodes that are down.

use trialnet::record::NodeEvent;

use super::*;

fn corrupted(file: &str, rest: Vec<(&'static str, Action)>) -> Plan {
    let corrupt = Action::Corrupt(Corrupt {
        id: "rot".to_owned(),
        nodes: vec!["validator-1".to_owned()],
        file: file.to_owned(),
        bytes: 4,
    });
    let down = fault("down", FaultKind::Kill, &["validator-1"], Lasts::UntilHealed);
    let mut steps = vec![("down", down), ("rot", corrupt)];
    steps.extend(rest);
    plan(steps)
}

fn back() -> Vec<(&'static str, Action)> {
    let heal = Action::Heal {
        faults: vec!["down".to_owned()],
    };
    let of = "down".to_owned();
    vec![
        ("", heal),
        ("", expect(What::Recovery { of }, Window::Within(Ms::secs(10)))),
    ]
}

fn damaged(ended: &Ended) -> Vec<(&str, &[u64])> {
    fn damage(stamped: &Stamped) -> Option<(&str, &[u64])> {
        let Record::Node { event, .. } = &stamped.record else {
            return None;
        };
        let NodeEvent::Damaged {
            file,
            offsets,
            before,
            after,
        } = event
        else {
            return None;
        };
        assert_ne!(before, after);
        Some((file, offsets))
    }
    ended.records.iter().filter_map(damage).collect()
}

#[tokio::test]
async fn damage_is_recorded_with_what_was_seen_of_it() {
    let ended = run(corrupted("blocks", back()), Tamper::None).await;
    ended.verdict(Verdict::Passed);
    let again = run(corrupted("blocks", back()), Tamper::None).await;
    let [(file, offsets)] = damaged(&ended)[..] else {
        panic!("not one file: {:?}", damaged(&ended))
    };
    assert_eq!((file, offsets.len()), ("blocks", 4));
    assert_eq!(damaged(&again), [(file, offsets)], "the seed decides");
}

#[tokio::test]
async fn damage_that_is_not_done_is_infrastructure() {
    for (file, tamper) in [("blocks", Tamper::CorruptNothing), ("others", Tamper::None)] {
        let ended = run(corrupted(file, back()), tamper).await;
        ended.verdict(Verdict::Infrastructure);
        assert_eq!(ended.codes(), [("infra/fault-failed", None)]);
        assert_eq!(damaged(&ended), []);
    }
}

#[tokio::test]
async fn a_damaged_node_that_ends_at_its_start_is_found() {
    let ended = run_with(corrupted("blocks", back()), Tamper::None, |memory, _, event| {
        if let Event::Record(Stamped {
            record:
                Record::Node {
                    node,
                    event: NodeEvent::Started { generation: 2, .. },
                },
            ..
        }) = event
        {
            memory.die(node, 2);
        }
    })
    .await;
    ended.verdict(Verdict::LivenessFailed);
    let found = ("liveness/exit", Some("validator-1"));
    assert!(ended.codes().contains(&found), "{:?}", ended.codes());
}
