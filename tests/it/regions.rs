//! Regions with real CometBFT nodes: blocks take longer when the validators are far apart.

use std::fs;
use std::path::Path;
use std::process::Command;

use trialnet::model::Ms;
use trialnet::record::{FaultState, Record, Stamped};

/// A block takes at least so many milliseconds between the regions, however busy the machine is: the 300 of `block_time`, and twice the 80
/// to the nearest region, since three of four votes are never from one place; less what jitter and the time between two samples add to the
/// reading. Measured are 320 in one place, 565 between regions.
const LEAST: f64 = 420.0;

fn records(folder: &Path) -> Vec<Stamped> {
    let text = fs::read_to_string(folder.join("records.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The mean time of a block between two moments, by when each height was first seen on any node.
fn interval(records: &[Stamped], from: Ms, to: Ms) -> f64 {
    let mut highest: Vec<(Ms, u64)> = Vec::new();
    for stamped in records.iter().filter(|stamped| stamped.at >= from && stamped.at <= to) {
        if let Record::Sample(sample) = &stamped.record
            && highest.last().is_none_or(|(_, height)| sample.height > *height)
        {
            highest.push((stamped.at, sample.height));
        }
    }
    // The first is where it stood, not when it came there.
    let (first, last) = (highest[1], highest[highest.len() - 1]);
    assert!(last.1 >= first.1 + 5, "too few blocks to tell: {highest:?}");
    let time = u32::try_from(last.0.since(first.0).0).unwrap();
    f64::from(time) / f64::from(u32::try_from(last.1 - first.1).unwrap())
}

#[test]
fn blocks_take_longer_between_regions() {
    if !crate::chain::available("0.38.17") {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("run");
    let output = Command::new(env!("CARGO_BIN_EXE_trialnet"))
        .args(["run", "scenarios/cometbft/regions.toml", "--run-dir"])
        .arg(&folder)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("TRIALNET_STATE_DIR", place.path().join("state"))
        .output()
        .unwrap();
    assert_eq!(
        output.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let records = records(&folder);
    let at = |wanted: &dyn Fn(&Record) -> bool| records.iter().find(|stamped| wanted(&stamped.record)).unwrap().at;
    let fault = |wanted: FaultState| at(&|record| matches!(record, Record::Fault { state, .. } if *state == wanted));
    let ready = at(&|record| *record == Record::Ready);
    let end = at(&|record| *record == Record::Phase(trialnet::record::Phase::Settling));
    let before = interval(&records, ready, fault(FaultState::Planned));
    let between = interval(&records, fault(FaultState::Verified), end);
    println!("a block every {before:.0} ms in one place, every {between:.0} ms between regions");
    assert!(between > LEAST, "{between:.0} ms after {before:.0} ms");
}
