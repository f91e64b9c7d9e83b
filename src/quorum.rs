//! What may fail: the arithmetic of quorums, used by validation, `pick`, disruption budgets, upgrades and the judge.
//!
//! A pure module over plain numbers: nodes are indices, powers are integers, effects are sets. Messages are relayed, so what
//! counts is the power of a *connected part*: nodes that are up and reach each other over links that are not cut, be it through
//! other nodes. At most one part can hold a quorum of a BFT, Clique or Raft chain.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

/// How a chain's consensus counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// More than two thirds of the power.
    Bft,
    /// Clique: ⌊n/2⌋+1 of the sealers, one each. The sealers are the nodes with power above 0.
    Clique,
    /// Raft: a majority of the members, one each. The members are the nodes with power above 0.
    Raft,
    /// Longest chain: any block producer goes on; final below this depth.
    LongestChain {
        /// Blocks until a block counts as final.
        depth: u64,
    },
}

impl Engine {
    /// Whether every node that votes counts one, whatever its power.
    #[must_use]
    pub fn counts_heads(self) -> bool {
        self != Self::Bft
    }

    /// So many blocks have to stand on a block before it counts as final, with so many nodes that vote; 0: at once.
    ///
    /// Clique: any ⌊n/2⌋+1 blocks in a row are by different sealers (EIP-225), so a majority has built on such a block; and sealers without a
    /// majority make at most ⌊n/2⌋ blocks among themselves, so that nothing they do in a partition replaces it.
    #[must_use]
    pub fn depth(self, voting: usize) -> u64 {
        match self {
            Self::Bft | Self::Raft => 0,
            Self::Clique => voting as u64 / 2 + 1,
            Self::LongestChain { depth } => depth,
        }
    }

    /// So many blocks may still appear after a cut, with so many nodes that vote: out of messages that were already under way, and those that sealers
    /// may make without the others.
    #[must_use]
    pub fn slack(self, voting: usize) -> u64 {
        match self {
            Self::Bft | Self::Raft => 1,
            Self::Clique | Self::LongestChain { .. } => self.depth(voting),
        }
    }
}

/// What the arithmetic says of a network under a set of effects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Forecast {
    /// It has to grow.
    MustGoOn,
    /// It cannot grow.
    MustHalt,
    /// Either may happen.
    Undetermined,
}

/// A network as the arithmetic sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Net {
    /// How it counts.
    pub engine: Engine,
    /// Voting power by node; 0 for nodes that do not vote. Everybody's power counts in the total, also of nodes that are down.
    pub powers: Vec<u64>,
    /// Undirected peer links, lower index first; messages are relayed along them by every node that is up.
    pub links: BTreeSet<(usize, usize)>,
}

/// What a fault does, as sets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// These nodes are down or silent.
    Down(BTreeSet<usize>),
    /// Some `count` of these nodes are down, nobody knows which (the leader of the moment).
    SomeDown {
        /// The nodes that qualify.
        among: BTreeSet<usize>,
        /// How many of them.
        count: usize,
    },
    /// These links (lower index first) carry nothing.
    Cut(BTreeSet<(usize, usize)>),
    /// These nodes may say anything or nothing, and relay or not: their power cannot be counted on, and counts against f.
    Byzantine(BTreeSet<usize>),
}

/// A forecast and the sum that shows why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reckoned {
    /// What must happen.
    pub forecast: Forecast,
    /// For example `30 of 40 is more than two thirds (26.7)`.
    pub why: String,
}

/// How many nodes a `pick` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pick {
    /// So many.
    Count(usize),
    /// Half of the candidates, rounded down.
    Half,
    /// As many as may fail, by power, over and above what has failed already: along the order, each candidate whose loss the network
    /// still survives, until no further one can be added.
    F,
    /// The fewest that make the network halt; of several such sets the first one along the order.
    FPlusOne,
    /// Candidates that together hold less than half of the power: along the order, until no further one can be added.
    Minority,
}

/// What must happen in a network while all of these effects are on.
///
/// Goes on: whatever misbehaving nodes do and whichever of the uncertain nodes are down, some connected part of well-behaved nodes holds
/// a quorum. Halts: whatever they do, no connected part does. Exact, except that of very many possibilities at once (several
/// [`Effect::SomeDown`] on a large, sparse graph) only bounds are known; then it may say *undetermined* too often, never anything else.
#[must_use]
pub fn reckon(net: &Net, effects: &[Effect]) -> Reckoned {
    let rule = Rule::of(net);
    let scene = Scene::new(net, effects);
    let range = scene.range(&rule);
    let forecast = range.forecast(&rule);
    Reckoned {
        forecast,
        why: why(&rule, &scene, range, forecast),
    }
}

/// Chooses nodes. `order` is a random permutation of the candidates (from the seed); the choice prefers its beginning. Only nodes that vote
/// and are not down already are chosen by [`Pick::F`], [`Pick::FPlusOne`] and [`Pick::Minority`].
///
/// # Errors
/// Why there is no such choice, with the sum.
pub fn pick(net: &Net, effects: &[Effect], order: &[usize], pick: Pick) -> Result<Vec<usize>, String> {
    let scene = Scene::new(net, effects);
    let voters: Vec<usize> = order
        .iter()
        .copied()
        .filter(|node| scene.up[*node] && net.powers[*node] > 0)
        .collect();
    match pick {
        Pick::Count(0) => Err("at least one node has to be picked".into()),
        Pick::Count(count) if count > order.len() => Err(format!(
            "{count} nodes are asked for, and there {}",
            are(order.len(), "candidate")
        )),
        Pick::Count(count) => Ok(order[..count].to_vec()),
        Pick::Half if order.len() < 2 => Err(format!("half of {} is none", counted(order.len(), "candidate"))),
        Pick::Half => Ok(order[..order.len() / 2].to_vec()),
        Pick::F | Pick::FPlusOne | Pick::Minority if voters.is_empty() => {
            Err("none of the candidates both votes and is up".into())
        }
        Pick::F => pick_f(net, effects, &voters),
        Pick::FPlusOne => pick_f_plus_one(net, effects, &voters),
        Pick::Minority => pick_minority(net, &voters),
    }
}

/// How many of the nodes in `present` may be gone at once, whichever they are, so that those left still hold a quorum of all: reckoned
/// for the most powerful of them. `None`: they hold none to begin with. Only power counts here, not who relays to whom.
#[must_use]
pub fn spare(net: &Net, present: &[usize]) -> Option<usize> {
    let rule = Rule::of(net);
    let mut left = rule.weigh(present).checked_sub(rule.need)?;
    let mut weights: Vec<u128> = present.iter().map(|node| u128::from(rule.weights[*node])).collect();
    weights.sort_unstable_by(|one, other| other.cmp(one));
    let mut count = 0;
    for weight in weights {
        if weight == 0 || weight > left {
            break;
        }
        left -= weight;
        count += 1;
    }
    Some(count)
}

impl fmt::Display for Forecast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::MustGoOn => "must go on",
            Self::MustHalt => "must halt",
            Self::Undetermined => "undetermined",
        })
    }
}

/// In a network that goes on, another loss never helps, so that walking the order once finds a set that cannot be extended.
fn pick_f(net: &Net, effects: &[Effect], voters: &[usize]) -> Result<Vec<usize>, String> {
    let now = reckon(net, effects);
    if now.forecast != Forecast::MustGoOn {
        return Err(format!("no node may fail: {}", now.why));
    }
    let mut chosen = Vec::new();
    for &node in voters {
        chosen.push(node);
        if reckon_without(net, effects, &chosen).forecast != Forecast::MustGoOn {
            chosen.pop();
        }
    }
    if !chosen.is_empty() {
        return Ok(chosen);
    }
    let least = voters.iter().copied().min_by_key(|node| net.powers[*node]);
    let loss = reckon_without(net, effects, least.as_slice());
    Err(format!(
        "no node may fail: without any one of them, at best {}",
        loss.why
    ))
}

fn pick_f_plus_one(net: &Net, effects: &[Effect], voters: &[usize]) -> Result<Vec<usize>, String> {
    let halts = |chosen: &[usize]| reckon_without(net, effects, chosen).forecast == Forecast::MustHalt;
    if halts(&[]) {
        return Err(format!("the network must halt already: {}", reckon(net, effects).why));
    }
    if !halts(voters) {
        let left = reckon_without(net, effects, voters);
        return Err(format!(
            "not even the loss of all {} halts the network: {}",
            counted(voters.len(), "candidate"),
            left.why
        ));
    }
    let by_power = fewest_by_power(net, effects, voters, &halts);
    // Where nodes also relay, losing a few in the right place may cut the network apart.
    let scene = Scene::new(net, effects);
    if scene.some.is_empty() && scene.holds_together(by_power.len()) {
        return Ok(by_power);
    }
    let mut budget = BUDGET / scene.cost();
    for size in 1..=by_power.len() {
        budget = budget.saturating_sub(combinations(voters.len(), size));
        if budget == 0 {
            break;
        }
        if let Some(set) = subsets(voters, size).find(|set| halts(set)) {
            return Ok(set);
        }
    }
    Ok(by_power)
}

/// The fewest voters whose power is what it takes, as if the network could not fall apart; of several such sets the first along the order.
fn fewest_by_power(net: &Net, effects: &[Effect], voters: &[usize], halts: &dyn Fn(&[usize]) -> bool) -> Vec<usize> {
    let scene = Scene::new(net, effects);
    let rule = Rule::of(net);
    let parts = scene.parts(&|node| scene.up[node]);
    // Only losses in a part that holds a quorum help.
    let helps = |node: usize| {
        let part = parts.iter().find(|part| part.contains(&node));
        part.is_some_and(|part| rule.weigh(part) >= rule.need)
    };
    let mut greatest: Vec<usize> = voters.to_vec();
    greatest.sort_by_key(|node| (!helps(*node), std::cmp::Reverse(rule.weights[*node])));
    let enough = (1..=greatest.len())
        .find(|size| halts(&greatest[..*size]))
        .unwrap_or(greatest.len());
    let mut chosen = Vec::new();
    for &node in voters {
        if chosen.len() == enough {
            break;
        }
        let mut set = chosen.clone();
        set.push(node);
        let rest = greatest
            .iter()
            .filter(|other| !set.contains(other))
            .take(enough - set.len());
        let completed: Vec<usize> = set.iter().chain(rest).copied().collect();
        if halts(&completed) {
            chosen = set;
        }
    }
    chosen
}

fn pick_minority(net: &Net, voters: &[usize]) -> Result<Vec<usize>, String> {
    let rule = Rule::of(net);
    let mut chosen = Vec::new();
    for &node in voters {
        chosen.push(node);
        if 2 * rule.weigh(&chosen) >= rule.total {
            chosen.pop();
        }
    }
    if chosen.is_empty() {
        let least = voters.iter().map(|node| rule.weights[*node]).min().unwrap_or(0);
        return Err(format!(
            "no candidate holds less than half of the power: {least} of {} is the least",
            rule.total
        ));
    }
    Ok(chosen)
}

fn reckon_without(net: &Net, effects: &[Effect], lost: &[usize]) -> Reckoned {
    let mut effects = effects.to_vec();
    effects.push(Effect::Down(lost.iter().copied().collect()));
    reckon(net, &effects)
}

/// How an engine counts, as numbers. Sums are wider than powers, so that nothing overflows.
struct Rule {
    engine: Engine,
    /// What each node counts.
    weights: Vec<u64>,
    /// The sum of all weights.
    total: u128,
    /// The least sum that is a quorum.
    need: u128,
}

impl Rule {
    fn of(net: &Net) -> Self {
        let one_each = net.engine.counts_heads();
        let weights: Vec<u64> = net
            .powers
            .iter()
            .map(|power| if one_each { (*power).min(1) } else { *power })
            .collect();
        let total: u128 = weights.iter().map(|weight| u128::from(*weight)).sum();
        let need = match net.engine {
            Engine::Bft => 2 * total / 3 + 1,
            Engine::Clique | Engine::Raft => total / 2 + 1,
            Engine::LongestChain { .. } => 1,
        };
        Self {
            engine: net.engine,
            weights,
            total,
            need,
        }
    }

    fn weigh(&self, nodes: &[usize]) -> u128 {
        nodes.iter().map(|node| u128::from(self.weights[*node])).sum()
    }

    /// `30 of 40 is more than two thirds (26.7)`.
    fn compare(&self, sum: u128) -> String {
        let Self { total, need, .. } = self;
        let enough = sum >= *need;
        let verb = if sum == 1 { "is" } else { "are" };
        match self.engine {
            _ if *total == 0 => "no node votes".into(),
            Engine::Bft => {
                let compared = if enough { "is" } else { "is not" };
                format!(
                    "{sum} of {total} {compared} more than two thirds ({})",
                    self.two_thirds()
                )
            }
            Engine::Clique if enough => format!("{sum} of {total} sealers {verb} enough ({need})"),
            Engine::Clique => format!("{sum} of {total} sealers {verb} too few ({need} are needed)"),
            Engine::Raft if enough => format!("{sum} of {total} members {verb} a majority ({need})"),
            Engine::Raft => format!("{sum} of {total} members {verb} not a majority ({need})"),
            Engine::LongestChain { .. } if enough => {
                format!("{sum} of {total} block producers {verb} up (1 is enough)")
            }
            Engine::LongestChain { .. } => format!("none of {total} block producers is up"),
        }
    }

    /// Two thirds of the total with one decimal, which is never wrong about the whole numbers on either side.
    fn two_thirds(&self) -> String {
        thirds(2 * self.total)
    }
}

/// A third of a number with at most one decimal.
fn thirds(number: u128) -> String {
    let whole = number / 3;
    match number % 3 {
        0 => whole.to_string(),
        1 => format!("{whole}.3"),
        _ => format!("{whole}.7"),
    }
}

/// A network under effects.
struct Scene {
    neighbours: Vec<Vec<usize>>,
    up: Vec<bool>,
    byzantine: Vec<bool>,
    /// Nodes of which some are down, and how many.
    some: Vec<(Vec<usize>, usize)>,
    weights: Vec<u64>,
}

/// The power of the greatest part that can be counted on at worst, and that may help at best.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    least: u128,
    most: u128,
    /// Whether the protocol stands what misbehaves: one member of a raft is enough to break it.
    tolerated: bool,
}

impl Range {
    fn forecast(self, rule: &Rule) -> Forecast {
        if self.most < rule.need {
            Forecast::MustHalt
        } else if self.least >= rule.need && self.tolerated {
            Forecast::MustGoOn
        } else {
            Forecast::Undetermined
        }
    }
}

/// How many steps along links an exact answer may take.
const BUDGET: usize = 20_000_000;

impl Scene {
    fn new(net: &Net, effects: &[Effect]) -> Self {
        let nodes = net.powers.len();
        let mut scene = Self {
            neighbours: vec![Vec::new(); nodes],
            up: vec![true; nodes],
            byzantine: vec![false; nodes],
            some: Vec::new(),
            weights: Rule::of(net).weights,
        };
        let mut cuts = Vec::new();
        for effect in effects {
            match effect {
                Effect::Down(set) => set.iter().for_each(|node| scene.up[*node] = false),
                Effect::Byzantine(set) => set.iter().for_each(|node| scene.byzantine[*node] = true),
                Effect::Cut(links) => cuts.push(links),
                Effect::SomeDown { among, count } => {
                    let among: Vec<usize> = among.iter().copied().collect();
                    let count = (*count).min(among.len());
                    scene.some.push((among, count));
                }
            }
        }
        for link in &net.links {
            let (a, b) = *link;
            if scene.up[a] && scene.up[b] && !cuts.iter().any(|cut| cut.contains(link)) {
                scene.neighbours[a].push(b);
                scene.neighbours[b].push(a);
            }
        }
        scene
    }

    /// The connected parts of the nodes that are `in_play`.
    fn parts(&self, in_play: &dyn Fn(usize) -> bool) -> Vec<Vec<usize>> {
        let mut seen = vec![false; self.up.len()];
        let mut parts = Vec::new();
        for start in 0..self.up.len() {
            if seen[start] || !in_play(start) {
                continue;
            }
            seen[start] = true;
            let mut part = vec![start];
            let mut next = 0;
            while let Some(&node) = part.get(next) {
                next += 1;
                for &other in &self.neighbours[node] {
                    if !seen[other] && in_play(other) {
                        seen[other] = true;
                        part.push(other);
                    }
                }
            }
            parts.push(part);
        }
        parts
    }

    fn range(&self, rule: &Rule) -> Range {
        if self.some.is_empty() {
            return self.exactly(rule, &self.mask(&[]));
        }
        let bounds = self.bounds(rule);
        let decided = bounds.forecast(rule) != Forecast::Undetermined;
        let possibilities = self.some.iter().map(|(among, count)| combinations(among.len(), *count));
        let work = possibilities.fold(self.cost(), usize::saturating_mul);
        if decided || work > BUDGET {
            return bounds;
        }
        let mut range = Range {
            least: u128::MAX,
            most: 0,
            tolerated: true,
        };
        self.each_choice(&self.some, &mut self.mask(&[]), &mut |lost| {
            let one = self.exactly(rule, lost);
            range.least = range.least.min(one.least);
            range.most = range.most.max(one.most);
            range.tolerated &= one.tolerated;
        });
        range
    }

    /// The range with these nodes down besides.
    fn exactly(&self, rule: &Rule, lost: &[bool]) -> Range {
        let greatest = |in_play: &dyn Fn(usize) -> bool| {
            let parts = self.parts(in_play);
            parts.iter().map(|part| rule.weigh(part)).max().unwrap_or(0)
        };
        Range {
            least: greatest(&|node| self.up[node] && !lost[node] && !self.byzantine[node]),
            most: greatest(&|node| self.up[node] && !lost[node]),
            tolerated: rule.engine != Engine::Raft || self.misbehaving(lost) == 0,
        }
    }

    /// Bounds without going through the possibilities: the uncertain nodes with the greatest power are lost, or those with the least.
    fn bounds(&self, rule: &Rule) -> Range {
        let uncertain: usize = self.some.iter().map(|(_, count)| *count).sum();
        let at_worst = self
            .parts(&|node| self.up[node] && !self.byzantine[node])
            .into_iter()
            .map(|part| {
                if !self.part_holds_together(&part, uncertain) {
                    return 0;
                }
                let losses = self.some.iter().map(|(among, count)| {
                    let inside = self.inside(&part, among, true);
                    rule.weigh(&inside[..inside.len().min(*count)])
                });
                let loss: u128 = losses.sum();
                rule.weigh(&part).saturating_sub(loss)
            });
        let at_best = self.parts(&|node| self.up[node]).into_iter().map(|part| {
            let losses = self.some.iter().map(|(among, count)| {
                let inside = self.inside(&part, among, false);
                let outside = among.len() - inside.len();
                rule.weigh(&inside[..count.saturating_sub(outside)])
            });
            rule.weigh(&part) - losses.max().unwrap_or(0)
        });
        Range {
            least: at_worst.max().unwrap_or(0),
            most: at_best.max().unwrap_or(0),
            tolerated: rule.engine != Engine::Raft || self.misbehaving(&self.mask(&[])) == 0,
        }
    }

    /// The nodes of `part` that are `among`, by weight.
    fn inside(&self, part: &[usize], among: &[usize], greatest_first: bool) -> Vec<usize> {
        let part = self.mask(part);
        let mut inside: Vec<usize> = among.iter().copied().filter(|node| part[*node]).collect();
        inside.sort_by_key(|node| self.weights[*node]);
        if greatest_first {
            inside.reverse();
        }
        inside
    }

    /// Whether no loss of so many nodes cuts any part in two. May say no too often.
    fn holds_together(&self, losses: usize) -> bool {
        let parts = self.parts(&|node| self.up[node]);
        parts.iter().all(|part| self.part_holds_together(part, losses))
    }

    /// A graph of n nodes with at least (n + k − 2)/2 neighbours each is k-connected (Chartrand and Harary, 1968): no k − 1 losses cut it.
    fn part_holds_together(&self, part: &[usize], losses: usize) -> bool {
        let losses = losses.min(part.len().saturating_sub(1));
        let inside = self.mask(part);
        let neighbours = |node: &usize| self.neighbours[*node].iter().filter(|other| inside[**other]).count();
        let fewest = part.iter().map(neighbours).min();
        fewest.is_none_or(|fewest| 2 * fewest + 1 >= part.len() + losses)
    }

    /// A set of nodes, by node.
    fn mask(&self, nodes: &[usize]) -> Vec<bool> {
        let mut mask = vec![false; self.up.len()];
        nodes.iter().for_each(|node| mask[*node] = true);
        mask
    }

    fn each_choice(&self, some: &[(Vec<usize>, usize)], lost: &mut Vec<bool>, see: &mut dyn FnMut(&[bool])) {
        let Some(((among, count), rest)) = some.split_first() else {
            return see(lost);
        };
        for set in subsets(among, *count) {
            let before = lost.clone();
            set.iter().for_each(|node| lost[*node] = true);
            self.each_choice(rest, lost, see);
            *lost = before;
        }
    }

    /// The power of the nodes that misbehave and are neither down nor lost besides.
    fn misbehaving(&self, lost: &[bool]) -> u128 {
        let liars = (0..self.up.len()).filter(|node| self.up[*node] && !lost[*node] && self.byzantine[*node]);
        liars.map(|node| u128::from(self.weights[node])).sum()
    }

    /// Steps along links to find the parts, about.
    fn cost(&self) -> usize {
        self.up.len() + self.neighbours.iter().map(Vec::len).sum::<usize>() + 1
    }
}

fn why(rule: &Rule, scene: &Scene, range: Range, forecast: Forecast) -> String {
    let parts = scene.parts(&|node| scene.up[node]);
    let voting = parts.iter().filter(|part| rule.weigh(part) > 0).count();
    let misbehaving = scene.misbehaving(&scene.mask(&[]));
    let mut why = vec![match forecast {
        Forecast::MustGoOn => rule.compare(range.least),
        Forecast::MustHalt => rule.compare(range.most),
        Forecast::Undetermined if range.least >= rule.need => rule.compare(range.least),
        Forecast::Undetermined => format!(
            "at worst {}, at best {}",
            rule.compare(range.least),
            rule.compare(range.most)
        ),
    }];
    if voting > 1 && !matches!(rule.engine, Engine::LongestChain { .. }) {
        why.push(format!(", in the greatest of {voting} connected parts"));
    }
    if scene.some.iter().any(|(_, count)| *count > 0) {
        why.push(match forecast {
            Forecast::Undetermined => ", depending on which nodes fail".into(),
            Forecast::MustGoOn | Forecast::MustHalt => ", whichever nodes fail".into(),
        });
    }
    if misbehaving > 0 {
        why.push(match forecast {
            Forecast::MustGoOn => format!(", without the {misbehaving} that may misbehave"),
            Forecast::MustHalt => format!(", even with the {misbehaving} that may misbehave"),
            Forecast::Undetermined if rule.engine == Engine::Raft => {
                format!(", but {misbehaving} may misbehave, which raft does not tolerate")
            }
            Forecast::Undetermined => format!(", depending on the {misbehaving} that may misbehave"),
        });
    }
    if rule.engine == Engine::Bft && misbehaving > 0 && 3 * misbehaving >= rule.total {
        let third = thirds(rule.total);
        why.push(format!(
            "; {misbehaving} is not less than a third ({third}), so that safety is not given either"
        ));
    }
    why.concat()
}

/// All subsets of a size, in the order of the items.
fn subsets(items: &[usize], size: usize) -> impl Iterator<Item = Vec<usize>> {
    let mut places: Option<Vec<usize>> = (size <= items.len()).then(|| (0..size).collect());
    std::iter::from_fn(move || {
        let now = places.take()?;
        let set = now.iter().map(|place| items[*place]).collect();
        if let Some(moving) = (0..size).rev().find(|at| now[*at] < items.len() - size + at) {
            let mut next = now;
            let from = next[moving] + 1;
            (moving..size).for_each(|at| next[at] = from + at - moving);
            places = Some(next);
        }
        Some(set)
    })
}

/// How many subsets of a size there are; saturates.
fn combinations(items: usize, size: usize) -> usize {
    let size = size.min(items.saturating_sub(size));
    (0..size)
        .try_fold(1_usize, |product, step| {
            product.checked_mul(items - step).map(|product| product / (step + 1))
        })
        .unwrap_or(usize::MAX)
}

fn counted(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

fn are(count: usize, noun: &str) -> String {
    format!("{} {}", if count == 1 { "is" } else { "are" }, counted(count, noun))
}
