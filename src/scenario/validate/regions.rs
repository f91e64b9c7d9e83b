//! Regions: which links are how slow.

use std::collections::BTreeMap;
use std::ops::Range;

use super::Check;
use crate::model::{FaultKind, Ms, Targets};
use crate::scenario::diag::{Problem, did_you_mean, list};
use crate::scenario::explain as code;
use crate::scenario::raw::{At, Named, Selectors, Time};
use crate::scenario::select::Nodes;

/// Two regions by their numbers, the lower first; twice the same for the links inside of one.
type Two = (usize, usize);

impl Check<'_> {
    /// The delay of all links between regions, and the nodes at their ends.
    pub(super) fn between_regions(
        &mut self,
        regions: &At<Named<Selectors>>,
        (key, table): (&Range<usize>, &Named<Time>),
        jitter: Option<&At<Time>>,
    ) -> Option<(FaultKind, Targets)> {
        let nodes = self.regions(regions);
        let latencies = self.latencies(regions, key, table);
        let (nodes, latencies) = (nodes?, latencies?);
        let region = |node: usize| nodes.iter().position(|region| region.contains(&node));
        let slow: BTreeMap<Two, Ms> = self
            .links()
            .filter_map(|(a, b)| {
                let (one, other) = (region(a)?, region(b)?);
                let latency = latencies.get(&(one.min(other), one.max(other)))?;
                (latency.0 > 0).then_some(((a, b), *latency))
            })
            .collect();
        let (Some(least), Some(most)) = (slow.values().min().copied(), slow.values().max().copied()) else {
            let problem = Problem::new(code::EMPTY_SELECTION, &regions.at, "there is no link to make slow")
                .label("no link")
                .help("choose nodes that are peers, and latencies above 0; `trialnet plan` lists the links");
            self.problems.push(problem);
            return None;
        };
        let jitter = match jitter {
            Some(_) => self.time(jitter, Ms(0), least)?,
            None => Ms(0),
        };
        let name = |node: usize| self.plan.network.nodes[node].name.clone();
        let ends: Nodes = slow.keys().flat_map(|&(a, b)| [a, b]).collect();
        let kind = FaultKind::Delay {
            links: slow.keys().map(|&(a, b)| (name(a), name(b))).collect(),
            latency: most,
            jitter,
            each: slow.into_values().collect(),
        };
        Some((kind, Targets::Nodes(self.names(&ends))))
    }

    /// The nodes of each region; no node is in two.
    fn regions(&mut self, regions: &At<Named<Selectors>>) -> Option<Vec<Nodes>> {
        let mut found: Vec<Nodes> = Vec::new();
        let mut good = true;
        for (name, selectors) in &regions.0 {
            good &= self.name("a region", name, 40);
            let Some(nodes) = self.select(selectors) else {
                good = false;
                continue;
            };
            let twice: Nodes = nodes
                .iter()
                .copied()
                .filter(|node| found.iter().any(|other| other.contains(node)))
                .collect();
            if !twice.is_empty() {
                good = false;
                let message = format!("in two regions: {}", list(&self.names(&twice), 6));
                self.odd_regions::<()>(
                    &selectors.at,
                    &message,
                    "every node is in one region at most; one in none keeps its links as they are",
                );
            }
            found.push(nodes);
        }
        good.then_some(found)
    }

    /// The latency between each two regions.
    fn latencies(
        &mut self,
        regions: &At<Named<Selectors>>,
        key: &Range<usize>,
        table: &Named<Time>,
    ) -> Option<BTreeMap<Two, Ms>> {
        let names: Vec<&str> = regions.0.iter().map(|(name, _)| name.as_str()).collect();
        let mut latencies: BTreeMap<Two, Ms> = BTreeMap::new();
        let mut good = true;
        for (pair, latency) in &table.0 {
            let two: Vec<Two> = twos(&names, pair);
            let [two] = two.as_slice() else {
                let message = match two.len() {
                    0 => format!("`{}` are no two regions", pair.value),
                    _ => format!("`{}` may mean several pairs of regions", pair.value),
                };
                let help = match two.len() {
                    0 => {
                        let known: Vec<String> = all_pairs(&names).map(|(_, pair)| pair).collect();
                        did_you_mean(pair, known.iter().map(String::as_str))
                    }
                    _ => "give the regions names without dashes".to_owned(),
                };
                good = false;
                self.odd_regions::<()>(&pair.at, &message, &help);
                continue;
            };
            let Some(time) = self.time(Some(latency), Ms(0), Ms::secs(60)) else {
                good = false;
                continue;
            };
            if latencies.insert(*two, time).is_some() {
                good = false;
                let message = format!("`{}`: the latency between these two stands twice", pair.value);
                self.odd_regions::<()>(&pair.at, &message, "it is the same both ways, so one is enough");
            }
        }
        let missing: Vec<String> = all_pairs(&names)
            .filter(|(two, _)| !latencies.contains_key(two))
            .map(|(_, pair)| pair)
            .collect();
        if good && let Some(first) = missing.first() {
            let message = format!("no latency is given between {}", list(&missing, 6));
            return self.odd_regions(
                key,
                &message,
                &format!("for example `{first} = \"80ms\"`; \"0ms\" leaves these links as they are"),
            );
        }
        good.then_some(latencies)
    }

    /// Complains about regions.
    pub(super) fn odd_regions<T>(&mut self, at: &Range<usize>, message: &str, help: &str) -> Option<T> {
        self.odd(code::REGIONS, at, message, "no regions so", help)
    }
}

/// The pairs of regions that a name such as `eu-us` may mean; a region's name may have dashes itself.
fn twos(names: &[&str], pair: &str) -> Vec<Two> {
    let region = |name: &str| names.iter().position(|known| *known == name);
    let split = |(at, _): (usize, &str)| {
        let (one, other) = (region(&pair[..at])?, region(&pair[at + 1..])?);
        Some((one.min(other), one.max(other)))
    };
    pair.match_indices('-').filter_map(split).collect()
}

/// Every two regions, with the name of the pair.
fn all_pairs(names: &[&str]) -> impl Iterator<Item = (Two, String)> {
    let pair = |(a, b): Two| ((a, b), format!("{}-{}", names[a], names[b]));
    (0..names.len())
        .flat_map(|a| (a + 1..names.len()).map(move |b| (a, b)))
        .map(pair)
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use proptest::prelude::*;

    use super::*;
    use crate::model::{Action, BackendKind, Plan};
    use crate::scenario::{Options, load_text};

    fn load(text: &str) -> Result<Plan, String> {
        let options = Options {
            seed: Some(1),
            backend: BackendKind::Local,
            capabilities: crate::run::capabilities(BackendKind::Local),
            adapter: crate::chain::adapter,
        };
        load_text("regions.toml", text, &options).map_err(|wrong| wrong.to_string())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]

        /// Each link is as slow as the table says of the regions of its ends, and no other link is.
        #[test]
        fn links_are_as_slow_as_their_regions(
            region_of in prop::collection::vec(prop::option::of(0_usize..3), 6),
            table in prop::array::uniform6(0_u64..100),
        ) {
            let names = ["eu", "us", "ap"];
            let of = |region: usize| -> Vec<usize> { (0..6).filter(|node| region_of[*node] == Some(region)).collect() };
            let there: Vec<usize> = (0..3).filter(|region| !of(*region).is_empty()).collect();
            let slot = |one: usize, other: usize| match (one.min(other), one.max(other)) {
                (0, last) => last,
                (1, last) => last + 2,
                _ => 5,
            };
            let (mut regions, mut latency) = (String::new(), String::new());
            for (at, one) in there.iter().enumerate() {
                let nodes: Vec<String> = of(*one).iter().map(|node| format!("\"validator-{node}\"")).collect();
                writeln!(regions, "{} = [{}]", names[*one], nodes.join(", ")).expect("a string takes all");
                for other in &there[at..] {
                    let time = table[slot(*one, *other)];
                    writeln!(latency, "{}-{} = \"{time}ms\"", names[*one], names[*other]).expect("a string takes all");
                }
            }
            let text = format!(
                "format = 1\nname = \"r\"\n[network]\nchain = \"devnode\"\n[network.groups.validator]\nrole = \"validator\"\ncount = 6\n\
                 [[steps]]\n[steps.delay.regions]\n{regions}[steps.delay.latency]\n{latency}"
            );
            let asked = |a: usize, b: usize| match (region_of[a], region_of[b]) {
                (Some(one), Some(other)) => Ms(table[slot(one, other)]),
                _ => Ms(0),
            };
            let pairs = || (0..6).flat_map(|a| (a + 1..6).map(move |b| (a, b)));
            let some = pairs().any(|(a, b)| asked(a, b) > Ms(0));
            let plan = match load(&text) {
                Ok(plan) => plan,
                Err(wrong) => {
                    prop_assert!(!some, "{wrong}\n{text}");
                    return Ok(());
                }
            };
            let Action::Fault(fault) = &plan.steps[0].action else { panic!("a delay is a fault") };
            let name = |node: usize| format!("validator-{node}");
            for (a, b) in pairs() {
                prop_assert_eq!(fault.kind.latency(&name(a), &name(b)), asked(a, b), "{} to {} of {}", a, b, text);
                prop_assert_eq!(fault.kind.latency(&name(b), &name(a)), asked(a, b));
            }
        }
    }

    #[test]
    fn a_pair_is_told_by_its_regions() {
        let names = ["eu", "us-east", "us", "east-eu"];
        assert_eq!(twos(&names, "eu-us-east"), [(0, 1)]);
        assert_eq!(twos(&names, "us-east-eu"), [(2, 3), (0, 1)], "two ways to read it");
        assert_eq!(twos(&names, "us-eu"), [(0, 2)]);
        assert_eq!(twos(&names, "eu-eu"), [(0, 0)], "inside of one");
        assert_eq!(twos(&names, "eu"), []);
        assert_eq!(twos(&names, "-eu"), []);
    }
}
