//! Every code in the sources is one that `trialnet explain` knows.

use std::collections::BTreeSet;
use std::path::Path;

fn sources(under: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(under).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(std::fs::read_to_string(path).unwrap());
        }
    }
}

#[test]
fn every_code_in_the_sources_is_explained() {
    let families = [
        "safety/",
        "liveness/",
        "expect/",
        "evidence/",
        "infra/",
        "run/",
        "quorum/",
        "folder/",
        "scenario/",
    ];
    let mut texts = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut texts);
    let mut unknown = BTreeSet::new();
    for text in &texts {
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
        for literal in code.split('"') {
            let is_code = families
                .iter()
                .any(|family| literal.starts_with(family) && literal.len() > family.len())
                && literal.chars().all(|c| c.is_ascii_lowercase() || c == '-' || c == '/');
            if is_code && trialnet::codes::find(literal).is_none() {
                unknown.insert(literal.to_owned());
            }
        }
    }
    assert!(unknown.is_empty(), "not explained: {unknown:?}");
}
