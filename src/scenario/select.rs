//! Who is meant: selectors, picks, and which nodes are free of faults at a step.

use std::collections::BTreeSet;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use sha2::{Digest, Sha256};

use super::diag::{Problem, did_you_mean, list};
use super::explain as code;
use super::forecast;
use super::raw::{At, Selectors};
use super::validate::{Check, Here, Refer};
use crate::model::effects::net_of;
use crate::model::{Fault, FaultKind, Lasts, Ms, NodeName, Role, Targets};
use crate::quorum::{self, Effect, Pick};

/// Nodes by index.
pub(super) type Nodes = BTreeSet<usize>;

/// What is known of the network's state before a step, whatever happens in the run.
#[derive(Clone, Debug, Default)]
pub(super) struct Timeline {
    /// Nodes that have been started.
    pub(super) started: Nodes,
    /// The least time that has passed for certain.
    pub(super) elapsed: Ms,
    /// Every fault so far.
    pub(super) faults: Vec<Live>,
}

/// A fault on the timeline.
#[derive(Clone, Debug)]
pub(super) struct Live {
    pub(super) fault: Fault,
    /// The nodes that it concerns; those that a `start` brought back are gone from it.
    pub(super) targets: Nodes,
    /// Those that a step without `nodes` leaves out because of it.
    pub(super) touched: Nodes,
    /// [`Timeline::elapsed`] when its effect was verified.
    pub(super) since: Ms,
    /// For so long after its first time the last of its repetitions may begin.
    pub(super) repeated: Ms,
    /// Whether it has ended for certain.
    pub(super) ended: bool,
    /// The platform brings its targets back within this time.
    pub(super) comes_back: Option<Ms>,
}

impl Live {
    /// Whether a `start` ends it for the nodes that it names.
    pub(super) const fn ends_by_start(&self) -> bool {
        matches!(self.fault.kind, FaultKind::Kill | FaultKind::Stop) && self.comes_back.is_none()
    }

    fn may_be_on(&self, now: Ms) -> bool {
        !self.ended
            && match self.fault.lasts {
                Lasts::For(time) => now.since(self.since) < time + self.repeated,
                Lasts::Platform => self
                    .comes_back
                    .is_none_or(|limit| now.since(self.since) < limit + self.repeated),
                Lasts::UntilHealed => true,
                Lasts::Itself => false,
            }
    }

    /// Whether it holds its targets down until another step ends it.
    fn holds_down(&self) -> bool {
        !self.ended
            && self.comes_back.is_none()
            && matches!(self.fault.lasts, Lasts::UntilHealed | Lasts::Platform)
            && matches!(
                self.fault.kind,
                FaultKind::Kill | FaultKind::Stop | FaultKind::Pause | FaultKind::ReadOnly
            )
            && matches!(self.fault.targets, Targets::Nodes(_))
    }
}

impl Timeline {
    /// Faults that may be on.
    pub(super) fn on(&self) -> impl Iterator<Item = &Live> {
        self.faults.iter().filter(|live| live.may_be_on(self.elapsed))
    }

    /// Started nodes without a declared fault that may be on.
    pub(super) fn free(&self) -> Nodes {
        let touched: Nodes = self.on().flat_map(|live| live.touched.iter().copied()).collect();
        self.started.difference(&touched).copied().collect()
    }

    /// The fault that certainly holds a node down (`or_paused`: or halts it).
    pub(super) fn down(&self, node: usize, or_paused: bool) -> Option<&Live> {
        self.faults
            .iter()
            .filter(|live| or_paused || live.fault.kind != FaultKind::Pause)
            .find(|live| live.holds_down() && live.targets.contains(&node))
    }
}

impl Check<'_> {
    /// The nodes that a list of selectors means, in the order of the file. `None`: a problem was reported, or the network is not known.
    pub(super) fn select(&mut self, selectors: &At<Selectors>) -> Option<Nodes> {
        if !self.sound {
            return None;
        }
        let mut with = Nodes::new();
        let mut without = Nodes::new();
        let mut only_without = true;
        let mut good = true;
        for selector in selectors.iter() {
            let (text, set) = match selector.strip_prefix('!') {
                Some(rest) => (rest, &mut without),
                None => {
                    only_without = false;
                    (selector.as_str(), &mut with)
                }
            };
            match self.selector(selector, text) {
                Some(found) => set.extend(found),
                None => good = false,
            }
        }
        if !good {
            return None;
        }
        if only_without && !selectors.is_empty() {
            with = (0..self.plan.network.nodes.len()).collect();
        }
        let selected: Nodes = with.difference(&without).copied().collect();
        if selected.is_empty() {
            let problem = if selectors.is_empty() {
                Problem::new(code::EMPTY_SELECTION, &selectors.at, "an empty list selects no node")
                    .help("leave the key out for all started nodes without a declared fault, or write [\"all\"]")
            } else {
                Problem::new(code::EMPTY_SELECTION, &selectors.at, "this list selects no node")
                    .help("everything that it selects is left out again by `!`")
            };
            self.problems.push(problem.label("nothing is left"));
            return None;
        }
        Some(selected)
    }

    /// The nodes of one selector without its `!`.
    fn selector(&mut self, place: &At<String>, text: &str) -> Option<Nodes> {
        let nodes = &self.plan.network.nodes;
        let all = || nodes.iter().enumerate();
        if text == "all" {
            return Some((0..nodes.len()).collect());
        }
        if let Some(id) = text.strip_prefix('@') {
            return self.targets_of(place, id);
        }
        let groups: BTreeSet<&str> = nodes.iter().map(|node| node.group.as_str()).collect();
        if let Some(group) = text.strip_prefix("group:") {
            if groups.contains(group) {
                return Some(all().filter(|(_, node)| node.group == group).map(|(i, _)| i).collect());
            }
            let help = did_you_mean(group, groups.iter().copied());
            return self.unknown(place, format!("there is no group `{group}`"), help);
        }
        if let Some(word) = text.strip_prefix("role:") {
            let role = match word {
                "validator" => Role::Validator,
                "full" => Role::Full,
                _ => {
                    let help = did_you_mean(word, ["validator", "full"]);
                    return self.unknown(place, format!("there is no role `{word}`"), help);
                }
            };
            let found: Nodes = all().filter(|(_, node)| node.role == role).map(|(i, _)| i).collect();
            if found.is_empty() {
                let help = format!("groups: {}", list(&groups.into_iter().collect::<Vec<_>>(), 12));
                return self.unknown(place, format!("no node has the role `{word}`"), help);
            }
            return Some(found);
        }
        let node = self.plan.node_index(text);
        let group: Nodes = all().filter(|(_, node)| node.group == text).map(|(i, _)| i).collect();
        match (node, group.is_empty()) {
            (Some(node), true) => Some([node].into()),
            (None, false) => Some(group),
            (Some(_), false) => {
                let problem = Problem::new(
                    code::UNKNOWN_NODE,
                    &place.at,
                    format!("`{text}` is both a node and a group"),
                )
                .label("two meanings")
                .help(format!(
                    "write `group:{text}` for the group, or give the group another name"
                ));
                self.problems.push(problem);
                None
            }
            (None, true) => {
                let mut known: Vec<&str> = nodes.iter().map(|node| node.name.as_str()).collect();
                known.extend(groups);
                let help = did_you_mean(text, known);
                self.unknown(place, format!("there is no node or group `{text}`"), help)
            }
        }
    }

    fn unknown(&mut self, place: &At<String>, message: String, help: String) -> Option<Nodes> {
        self.problems.push(
            Problem::new(code::UNKNOWN_NODE, &place.at, message)
                .label("nothing by this name")
                .help(help),
        );
        None
    }

    /// The targets of an earlier fault.
    fn targets_of(&mut self, place: &At<String>, id: &str) -> Option<Nodes> {
        let place = At {
            key: place.key.clone(),
            at: place.at.clone(),
            value: id.to_owned(),
        };
        self.refer(&place, Refer::Fault)?;
        let live = self.timeline.faults.iter().find(|live| live.fault.id == id)?;
        if let Targets::Nodes(names) = &live.fault.targets {
            return Some(names.iter().filter_map(|name| self.plan.node_index(name)).collect());
        }
        let problem = Problem::new(
            code::PICK,
            &place.at,
            format!("whom `{id}` strikes is known only in the run"),
        )
        .label("the leader of that moment")
        .help("`pick = \"leader\"` chooses when the step begins; name the nodes in one of the two steps instead");
        self.problems.push(problem);
        None
    }

    /// Whom a fault strikes.
    pub(super) fn targets(
        &mut self,
        here: &Here,
        nodes: Option<&At<Selectors>>,
        pick: Option<&At<String>>,
    ) -> Option<Targets> {
        let free = self.timeline.free();
        let candidates = match nodes {
            Some(selectors) => {
                let selected = self.select(selectors)?;
                if !self.all_started(&selected, selectors) {
                    return None;
                }
                if pick.is_some() {
                    selected.intersection(&free).copied().collect()
                } else {
                    let or_paused = matches!(here.word, "pause" | "misbehave");
                    self.none_down(&selected, selectors, or_paused)?;
                    selected
                }
            }
            None if !self.sound => return None,
            None => free,
        };
        let span = pick.map_or(nodes.map_or(&here.key, |nodes| &nodes.at), |pick| &pick.at);
        if candidates.is_empty() {
            let problem = Problem::new(
                code::EMPTY_SELECTION,
                span,
                "every node that could be struck is under a declared fault that may still be on, or was never started",
            )
            .label("nobody is left")
            .help(format!("heal first: {}", list(&self.faults_on(), 6)));
            self.problems.push(problem);
            return None;
        }
        match pick {
            None => Some(Targets::Nodes(self.names(&candidates))),
            Some(pick) => self.pick(here, pick, &candidates),
        }
    }

    fn pick(&mut self, here: &Here, word: &At<String>, candidates: &Nodes) -> Option<Targets> {
        let pick = match word.as_str() {
            "leader" => return self.leader(word, candidates),
            "half" => Pick::Half,
            "f" => Pick::F,
            "f+1" => Pick::FPlusOne,
            "minority" => Pick::Minority,
            number => match number.parse::<usize>() {
                Ok(count) if count > 0 => Pick::Count(count),
                _ => {
                    let words = ["1", "half", "f", "f+1", "minority", "leader"];
                    let problem = Problem::new(code::PICK, &word.at, format!("`pick` cannot be \"{number}\""))
                        .label("not a pick")
                        .help(did_you_mean(number, words));
                    self.problems.push(problem);
                    return None;
                }
            },
        };
        let order = shuffled(self.plan.seed, &here.id, candidates);
        let picked = match pick {
            // A count needs no arithmetic.
            Pick::Count(count) if count <= order.len() => order[..count].to_vec(),
            Pick::Count(count) => {
                let names = self.names(candidates);
                let problem = Problem::new(
                    code::PICK,
                    &word.at,
                    format!("{count} are to be picked, but there are only {}: {}", names.len(), list(&names, 12)),
                )
                .label("too many")
                .help("candidates are the nodes of the list that are started and under no declared fault that may still be on");
                self.problems.push(problem);
                return None;
            }
            _ => {
                let net = net_of(&self.plan, self.adapter?.engine());
                match quorum::pick(&net, &self.effects(), &order, pick) {
                    Ok(picked) => picked,
                    Err(why) => {
                        let problem = Problem::new(
                            code::QUORUM_PICK,
                            &word.at,
                            format!("`pick = \"{}\"` cannot be made: {why}", word.value),
                        )
                        .label("by the arithmetic of the quorum")
                        .help(format!("faults that may be on: {}", list(&self.faults_on(), 6)));
                        self.problems.push(problem);
                        return None;
                    }
                }
            }
        };
        Some(Targets::Nodes(self.names(&picked.into_iter().collect())))
    }

    fn leader(&mut self, word: &At<String>, candidates: &Nodes) -> Option<Targets> {
        let help = "pick by number, or name the nodes";
        if self.not_for_found(
            &word.at,
            "nobody knows which found node has which key, so the leader cannot be told",
            help,
        ) {
            return None;
        }
        let nodes = &self.plan.network.nodes;
        let among: Nodes = candidates.iter().copied().filter(|&i| nodes[i].power > 0).collect();
        if among.is_empty() {
            let problem = Problem::new(
                code::PICK,
                &word.at,
                "no candidate is a validator, so none can be the leader",
            )
            .label("no leader among them")
            .help(format!("candidates: {}", list(&self.names(candidates), 12)));
            self.problems.push(problem);
            return None;
        }
        Some(Targets::Leader {
            among: self.names(&among),
        })
    }

    /// What the faults that may be on, and the nodes that were never started, take away.
    fn effects(&self) -> Vec<Effect> {
        let mut effects: Vec<Effect> = self
            .timeline
            .on()
            .filter_map(|live| forecast::effects_of(&self.plan, &live.fault, &self.names(&live.targets)))
            .collect();
        let missing: Nodes = (0..self.plan.network.nodes.len())
            .filter(|node| !self.timeline.started.contains(node))
            .collect();
        if !missing.is_empty() {
            effects.push(Effect::Down(missing));
        }
        effects
    }

    fn faults_on(&self) -> Vec<String> {
        let on: Vec<String> = self.timeline.on().map(|live| format!("`{}`", live.fault.id)).collect();
        if on.is_empty() { vec!["none".into()] } else { on }
    }

    /// Complains if some of these nodes have not been started by now.
    pub(super) fn all_started(&mut self, nodes: &Nodes, place: &At<Selectors>) -> bool {
        let late: Nodes = nodes.difference(&self.timeline.started).copied().collect();
        if late.is_empty() {
            return true;
        }
        self.missed.extend(&late);
        let names = list(&self.names(&late), 6);
        let problem = Problem::new(
            code::NOT_STARTED,
            &place.at,
            format!("not started by this step: {names}"),
        )
        .label("selects nodes that are not there yet")
        .help(format!(
            "add a step `start = {{ nodes = [\"{}\"] }}` before, or leave them out",
            names.replace(", ", "\", \"")
        ));
        self.problems.push(problem);
        false
    }

    /// Complains if some of these nodes are held down by an earlier fault.
    pub(super) fn none_down(&mut self, nodes: &Nodes, place: &At<Selectors>, or_paused: bool) -> Option<()> {
        let Some((node, live)) = nodes
            .iter()
            .find_map(|&node| Some((node, self.timeline.down(node, or_paused)?)))
        else {
            return Some(());
        };
        let (name, id) = (&self.plan.network.nodes[node].name, &live.fault.id);
        let problem = Problem::new(
            code::ALREADY_DOWN,
            &place.at,
            format!(
                "`{name}` is held down by the {} of `{id}` until another step ends it",
                live.fault.kind.word()
            ),
        )
        .label(format!("`{name}` is down here"))
        .help(format!(
            "heal it first (`heal = [\"{id}\"]`), or leave it out with \"!{name}\""
        ));
        self.problems.push(problem);
        None
    }

    pub(super) fn names(&self, nodes: &Nodes) -> Vec<NodeName> {
        nodes.iter().map(|&i| self.plan.network.nodes[i].name.clone()).collect()
    }
}

/// A permutation of the candidates that depends on the seed and the step's id only, so that other steps do not change it.
fn shuffled(seed: u64, id: &str, candidates: &Nodes) -> Vec<usize> {
    let key: [u8; 32] = Sha256::new()
        .chain_update(seed.to_le_bytes())
        .chain_update(id.as_bytes())
        .finalize()
        .into();
    let mut random = ChaCha8Rng::from_seed(key);
    let mut order: Vec<usize> = candidates.iter().copied().collect();
    // By hand, so that another release of a library does not choose other nodes for the same seed.
    for last in (1..order.len()).rev() {
        let bound = u64::try_from(last + 1).expect("a network's size fits");
        let other = usize::try_from(random.next_u64() % bound).expect("smaller than a usize");
        order.swap(last, other);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_and_id_give_the_same_order() {
        let nodes: Nodes = (0..10).collect();
        assert_eq!(shuffled(7, "a", &nodes), shuffled(7, "a", &nodes));
        assert_ne!(shuffled(7, "a", &nodes), shuffled(8, "a", &nodes));
        assert_ne!(shuffled(7, "a", &nodes), shuffled(7, "b", &nodes));
        let mut sorted = shuffled(7, "a", &nodes);
        sorted.sort_unstable();
        assert_eq!(sorted, (0..10).collect::<Vec<_>>());
    }

    #[test]
    fn the_order_of_a_seed_never_changes() {
        // If this fails, every printed seed of the past picks other nodes.
        let nodes: Nodes = (0..6).collect();
        assert_eq!(shuffled(1, "victim", &nodes), [1, 5, 0, 3, 4, 2]);
    }
}
