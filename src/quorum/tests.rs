use proptest::collection::{btree_set, vec};
use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

fn mesh(engine: Engine, powers: &[u64]) -> Net {
    let nodes = powers.len();
    Net {
        engine,
        powers: powers.to_vec(),
        links: (0..nodes).flat_map(|a| (a + 1..nodes).map(move |b| (a, b))).collect(),
    }
}

fn bft(powers: &[u64]) -> Net {
    mesh(Engine::Bft, powers)
}

fn down(nodes: &[usize]) -> Effect {
    Effect::Down(nodes.iter().copied().collect())
}

fn leader(among: &[usize]) -> Effect {
    Effect::SomeDown {
        among: among.iter().copied().collect(),
        count: 1,
    }
}

fn byzantine(nodes: &[usize]) -> Effect {
    Effect::Byzantine(nodes.iter().copied().collect())
}

fn cut(links: &[(usize, usize)]) -> Effect {
    Effect::Cut(links.iter().copied().collect())
}

#[track_caller]
fn reckons(net: &Net, effects: &[Effect], forecast: Forecast, why: &str) {
    let reckoned = reckon(net, effects);
    assert_eq!((reckoned.forecast, reckoned.why.as_str()), (forecast, why));
}

#[test]
fn exactly_two_thirds_is_a_halt() {
    let net = bft(&[10; 9]);
    reckons(
        &net,
        &[down(&[0, 1])],
        Forecast::MustGoOn,
        "70 of 90 is more than two thirds (60)",
    );
    reckons(
        &net,
        &[down(&[0, 1, 2])],
        Forecast::MustHalt,
        "60 of 90 is not more than two thirds (60)",
    );
}

#[test]
fn losing_one_of_four_goes_on_and_two_halts() {
    let net = bft(&[10; 4]);
    reckons(&net, &[], Forecast::MustGoOn, "40 of 40 is more than two thirds (26.7)");
    reckons(
        &net,
        &[down(&[3])],
        Forecast::MustGoOn,
        "30 of 40 is more than two thirds (26.7)",
    );
    reckons(
        &net,
        &[down(&[3]), down(&[1])],
        Forecast::MustHalt,
        "20 of 40 is not more than two thirds (26.7)",
    );
}

#[test]
fn an_even_split_halts_unless_a_node_relays() {
    let between = [(0, 2), (0, 3), (1, 2), (1, 3)];
    reckons(
        &bft(&[10; 4]),
        &[cut(&between)],
        Forecast::MustHalt,
        "20 of 40 is not more than two thirds (26.7), in the greatest of 2 connected parts",
    );
    let with_relay = bft(&[10, 10, 10, 10, 0]);
    reckons(
        &with_relay,
        &[cut(&between)],
        Forecast::MustGoOn,
        "40 of 40 is more than two thirds (26.7)",
    );
    assert_eq!(
        reckon(&with_relay, &[cut(&between), down(&[4])]).forecast,
        Forecast::MustHalt
    );
    assert_eq!(
        reckon(&with_relay, &[cut(&between), leader(&[4])]).forecast,
        Forecast::MustHalt
    );
    assert_eq!(
        reckon(&with_relay, &[cut(&between), byzantine(&[4])]).forecast,
        Forecast::Undetermined
    );
}

#[test]
fn a_star_falls_apart_without_its_centre() {
    let net = Net {
        engine: Engine::Bft,
        powers: vec![0, 10, 10, 10, 10],
        links: (1..5).map(|leaf| (0, leaf)).collect(),
    };
    assert_eq!(reckon(&net, &[down(&[1])]).forecast, Forecast::MustGoOn);
    assert_eq!(reckon(&net, &[down(&[0])]).forecast, Forecast::MustHalt);
    assert_eq!(reckon(&net, &[leader(&[0, 1])]).forecast, Forecast::Undetermined);
}

#[test]
fn a_leader_of_unequal_power_is_undetermined() {
    let net = bft(&[40, 30, 20, 10]);
    reckons(
        &net,
        &[leader(&[0, 1, 2, 3])],
        Forecast::Undetermined,
        "at worst 60 of 100 is not more than two thirds (66.7), at best 90 of 100 is more than two thirds (66.7), \
         depending on which nodes fail",
    );
    reckons(
        &net,
        &[leader(&[1, 2, 3])],
        Forecast::MustGoOn,
        "70 of 100 is more than two thirds (66.7), whichever nodes fail",
    );
}

#[test]
fn misbehaving_power_counts_against_f() {
    let net = bft(&[10; 4]);
    reckons(
        &net,
        &[byzantine(&[0])],
        Forecast::MustGoOn,
        "30 of 40 is more than two thirds (26.7), without the 10 that may misbehave",
    );
    reckons(
        &net,
        &[byzantine(&[0]), down(&[1])],
        Forecast::Undetermined,
        "at worst 20 of 40 is not more than two thirds (26.7), at best 30 of 40 is more than two thirds (26.7), \
         depending on the 10 that may misbehave",
    );
    let two = reckon(&net, &[byzantine(&[0, 1])]);
    assert_eq!(two.forecast, Forecast::Undetermined);
    assert!(
        two.why
            .ends_with("; 20 is not less than a third (13.3), so that safety is not given either"),
        "{}",
        two.why
    );
    assert_eq!(
        reckon(&net, &[byzantine(&[0]), down(&[1, 2])]).forecast,
        Forecast::MustHalt
    );
    assert_eq!(
        reckon(&net, &[byzantine(&[0]), down(&[0])]).forecast,
        Forecast::MustGoOn
    );
}

#[test]
fn blocks_of_clique_are_final_under_a_majority() {
    let depths = [1, 2, 3, 4, 5, 21].map(|sealers| Engine::Clique.depth(sealers));
    assert_eq!(depths, [1, 2, 2, 3, 3, 11]);
    assert_eq!(Engine::Bft.depth(4), 0);
    assert_eq!(Engine::LongestChain { depth: 6 }.depth(4), 6);
    assert_eq!([Engine::Bft.slack(7), Engine::Clique.slack(7)], [1, 4]);
}

#[test]
fn the_other_engines_count_heads() {
    let clique = mesh(Engine::Clique, &[50, 1, 1, 1, 0]);
    reckons(
        &clique,
        &[down(&[0])],
        Forecast::MustGoOn,
        "3 of 4 sealers are enough (3)",
    );
    reckons(
        &clique,
        &[down(&[1, 2])],
        Forecast::MustHalt,
        "2 of 4 sealers are too few (3 are needed)",
    );
    let raft = mesh(Engine::Raft, &[1, 1, 1]);
    reckons(
        &raft,
        &[down(&[0])],
        Forecast::MustGoOn,
        "2 of 3 members are a majority (2)",
    );
    reckons(
        &raft,
        &[down(&[0, 1])],
        Forecast::MustHalt,
        "1 of 3 members is not a majority (2)",
    );
    reckons(
        &raft,
        &[byzantine(&[0])],
        Forecast::Undetermined,
        "2 of 3 members are a majority (2), but 1 may misbehave, which raft does not tolerate",
    );
    let longest = mesh(Engine::LongestChain { depth: 6 }, &[1, 1, 0]);
    reckons(
        &longest,
        &[cut(&[(0, 1), (0, 2), (1, 2)])],
        Forecast::MustGoOn,
        "1 of 2 block producers is up (1 is enough)",
    );
    reckons(
        &longest,
        &[down(&[0, 1])],
        Forecast::MustHalt,
        "none of 2 block producers is up",
    );
    reckons(&bft(&[0, 0]), &[], Forecast::MustHalt, "no node votes");
}

#[test]
fn picks_by_power() {
    let net = bft(&[40, 30, 20, 10]);
    let choose = |effects: &[Effect], order: &[usize], choice| pick(&net, effects, order, choice);
    assert_eq!(choose(&[], &[0, 1, 2, 3], Pick::F), Ok(vec![1]));
    assert_eq!(choose(&[], &[3, 0, 2, 1], Pick::F), Ok(vec![3, 2]));
    assert_eq!(
        choose(&[down(&[1])], &[0, 2, 3], Pick::F).unwrap_err(),
        "no node may fail: without any one of them, at best 60 of 100 is not more than two thirds (66.7)"
    );
    assert_eq!(
        choose(&[down(&[0])], &[1, 2, 3], Pick::F).unwrap_err(),
        "no node may fail: 60 of 100 is not more than two thirds (66.7)"
    );
    assert_eq!(choose(&[], &[3, 2, 1, 0], Pick::FPlusOne), Ok(vec![0]));
    assert_eq!(choose(&[], &[3, 2, 1], Pick::FPlusOne), Ok(vec![3, 1]));
    assert_eq!(
        choose(&[], &[3, 2], Pick::FPlusOne).unwrap_err(),
        "not even the loss of all 2 candidates halts the network: 70 of 100 is more than two thirds (66.7)"
    );
    assert_eq!(choose(&[], &[0, 1, 2, 3], Pick::Minority), Ok(vec![0]));
    assert_eq!(choose(&[], &[1, 0, 2, 3], Pick::Minority), Ok(vec![1, 3]));
    assert_eq!(choose(&[], &[2, 0, 3], Pick::Count(2)), Ok(vec![2, 0]));
    assert_eq!(
        choose(&[], &[2, 0, 3], Pick::Count(4)).unwrap_err(),
        "4 nodes are asked for, and there are 3 candidates"
    );
    assert_eq!(choose(&[], &[2, 0, 3], Pick::Half), Ok(vec![2]));
    assert_eq!(
        choose(&[], &[2], Pick::Half).unwrap_err(),
        "half of 1 candidate is none"
    );
    assert_eq!(
        choose(&[down(&[2])], &[2], Pick::F).unwrap_err(),
        "none of the candidates both votes and is up"
    );
}

#[test]
fn the_usual_thresholds_of_equal_power() {
    for (nodes, f) in [(1, 0), (3, 0), (4, 1), (6, 1), (7, 2), (9, 2), (10, 3), (100, 33)] {
        let net = bft(&vec![10; nodes]);
        let order: Vec<usize> = (0..nodes).rev().collect();
        assert_eq!(
            pick(&net, &[], &order, Pick::F).map_or(0, |set| set.len()),
            f,
            "{nodes} nodes"
        );
        assert_eq!(
            pick(&net, &[], &order, Pick::FPlusOne).unwrap(),
            order[..=f],
            "{nodes} nodes"
        );
    }
}

/// 254 nodes, and more uncertain ones than can be gone through one by one.
#[test]
fn large_networks_are_reckoned_by_bounds() {
    let net = bft(&[1_000_000_000_000; 254]);
    let all: BTreeSet<usize> = (0..254).collect();
    let some = |count| Effect::SomeDown {
        among: all.clone(),
        count,
    };
    assert_eq!(reckon(&net, &[some(84)]).forecast, Forecast::MustGoOn);
    assert_eq!(reckon(&net, &[some(85)]).forecast, Forecast::MustHalt);
    assert_eq!(reckon(&net, &[some(42), some(42)]).forecast, Forecast::MustGoOn);
    assert_eq!(reckon(&net, &[some(43), some(43)]).forecast, Forecast::Undetermined);
}

/// The definition itself, by going through every possibility: which of the uncertain nodes are down, and which of the misbehaving ones
/// are silent. Connections by transitive closure.
fn by_definition(net: &Net, effects: &[Effect]) -> Forecast {
    let nodes = net.powers.len();
    let mut downs = vec![0_u32];
    let mut liars = 0_u32;
    let mut cuts = BTreeSet::new();
    for effect in effects {
        match effect {
            Effect::Down(set) => downs.iter_mut().for_each(|mask| *mask |= bits(set)),
            Effect::Byzantine(set) => liars |= bits(set),
            Effect::Cut(set) => cuts.extend(set.iter().copied()),
            Effect::SomeDown { among, count } => {
                let choices = (0..1_u32 << nodes).filter(|mask| mask & !bits(among) == 0);
                let choices: Vec<u32> = choices
                    .filter(|mask| mask.count_ones() as usize == (*count).min(among.len()))
                    .collect();
                downs = downs
                    .iter()
                    .flat_map(|down| choices.iter().map(move |choice| down | choice))
                    .collect();
            }
        }
    }
    let mut grows = BTreeSet::new();
    for down in downs {
        for silent in (0..1_u32 << nodes).filter(|mask| mask & !liars == 0) {
            grows.insert(has_quorum(net, &cuts, down | silent));
        }
        let active = liars & !down;
        if net.engine == Engine::Raft && (0..nodes).any(|node| active & 1 << node != 0 && net.powers[node] > 0) {
            // It may do harm besides being silent.
            grows.insert(false);
        }
    }
    match (grows.contains(&true), grows.contains(&false)) {
        (true, false) => Forecast::MustGoOn,
        (false, _) => Forecast::MustHalt,
        (true, true) => Forecast::Undetermined,
    }
}

fn bits(set: &BTreeSet<usize>) -> u32 {
    set.iter().map(|node| 1 << node).sum()
}

fn has_quorum(net: &Net, cuts: &BTreeSet<(usize, usize)>, off: u32) -> bool {
    let nodes = net.powers.len();
    let on = |node: usize| off & 1 << node == 0;
    let linked = |a: usize, b: usize| {
        let link = (a.min(b), a.max(b));
        on(a) && on(b) && (a == b || net.links.contains(&link) && !cuts.contains(&link))
    };
    let mut reach: Vec<Vec<bool>> = (0..nodes).map(|a| (0..nodes).map(|b| linked(a, b)).collect()).collect();
    for via in 0..nodes {
        for from in 0..nodes {
            for to in 0..nodes {
                reach[from][to] |= reach[from][via] && reach[via][to];
            }
        }
    }
    let members = net.powers.iter().filter(|power| **power > 0).count() as u64;
    reach.iter().any(|row| {
        let part = (0..nodes).filter(|node| row[*node]);
        let power: u64 = part.clone().map(|node| net.powers[node]).sum();
        let heads = part.filter(|node| net.powers[*node] > 0).count() as u64;
        match net.engine {
            Engine::Bft => 3 * power > 2 * net.powers.iter().sum::<u64>(),
            Engine::Clique | Engine::Raft => 2 * heads > members,
            Engine::LongestChain { .. } => heads > 0,
        }
    })
}

fn any_engine() -> impl Strategy<Value = Engine> {
    prop_oneof![
        3 => Just(Engine::Bft),
        1 => Just(Engine::Clique),
        1 => Just(Engine::Raft),
        1 => Just(Engine::LongestChain { depth: 3 }),
    ]
}

fn any_net() -> impl Strategy<Value = Net> {
    let powers = prop_oneof![vec(0_u64..=4, 1..=7), vec(Just(10_u64), 1..=7)];
    (
        any_engine(),
        powers,
        prop_oneof![Just(None), vec(any::<bool>(), 21).prop_map(Some)],
    )
        .prop_map(|(engine, powers, links)| {
            let mut net = mesh(engine, &powers);
            if let Some(chosen) = links {
                let mut chosen = chosen.into_iter();
                net.links.retain(|_| chosen.next().unwrap());
            }
            net
        })
}

fn any_effect(nodes: usize) -> impl Strategy<Value = Effect> {
    let set = move || btree_set(0..nodes, 0..=nodes.min(3));
    prop_oneof![
        set().prop_map(Effect::Down),
        set().prop_map(Effect::Byzantine),
        (btree_set(0..nodes, 0..=nodes), 0_usize..=2).prop_map(|(among, count)| Effect::SomeDown { among, count }),
        vec((0..nodes, 0..nodes), 0..12).prop_map(|links| {
            Effect::Cut(
                links
                    .into_iter()
                    .filter(|(a, b)| a != b)
                    .map(|(a, b)| (a.min(b), a.max(b)))
                    .collect(),
            )
        }),
    ]
}

fn any_case() -> impl Strategy<Value = (Net, Vec<Effect>)> {
    any_net().prop_flat_map(|net| {
        let nodes = net.powers.len();
        (Just(net), vec(any_effect(nodes), 0..=4))
    })
}

/// A case and an order of some of its nodes.
fn any_choice() -> impl Strategy<Value = (Net, Vec<Effect>, Vec<usize>)> {
    (any_case(), vec(any::<Index>(), 7), 1_usize..=7).prop_map(|((net, effects), places, size)| {
        let mut left: Vec<usize> = (0..net.powers.len()).collect();
        let order = places
            .iter()
            .take(size.min(left.len()))
            .map(|place| left.remove(place.index(left.len())))
            .collect();
        (net, effects, order)
    })
}

fn without(effects: &[Effect], lost: &[usize]) -> Vec<Effect> {
    effects.iter().cloned().chain([down(lost)]).collect()
}

/// The candidates that F and F + 1 may choose.
fn voters(net: &Net, effects: &[Effect], order: &[usize]) -> Vec<usize> {
    let is_down = |node: &usize| {
        effects
            .iter()
            .any(|effect| matches!(effect, Effect::Down(set) if set.contains(node)))
    };
    order
        .iter()
        .copied()
        .filter(|node| net.powers[*node] > 0 && !is_down(node))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn reckons_by_definition((net, effects) in any_case()) {
        let Reckoned { forecast, why } = reckon(&net, &effects);
        prop_assert_eq!(forecast, by_definition(&net, &effects), "{}", why);
        prop_assert!(!why.is_empty());
    }

    #[test]
    fn another_loss_never_helps((net, effects) in any_case(), more in btree_set(0_usize..7, 0..3)) {
        let more: Vec<usize> = more.into_iter().filter(|node| *node < net.powers.len()).collect();
        let before = reckon(&net, &effects).forecast;
        let after = reckon(&net, &without(&effects, &more)).forecast;
        prop_assert!(before != Forecast::MustHalt || after == Forecast::MustHalt);
        // Except that a misbehaving member of a raft does less harm when it is down.
        prop_assert!(net.engine == Engine::Raft || after != Forecast::MustGoOn || before == Forecast::MustGoOn);
    }

    #[test]
    fn f_survives_and_cannot_be_extended((net, effects, order) in any_choice()) {
        let voters = voters(&net, &effects, &order);
        let survives = |set: &[usize]| by_definition(&net, &without(&effects, set)) == Forecast::MustGoOn;
        match pick(&net, &effects, &order, Pick::F) {
            Ok(set) => {
                prop_assert!(!set.is_empty() && survives(&set));
                for more in voters.iter().filter(|node| !set.contains(node)) {
                    prop_assert!(!survives(&[set.clone(), vec![*more]].concat()));
                }
                // The first in the order that may fail alone is always taken.
                prop_assert_eq!(voters.iter().find(|node| survives(&[**node])), set.first());
            }
            Err(_) => prop_assert!(!survives(&[]) || voters.iter().all(|node| !survives(&[*node]))),
        }
    }

    #[test]
    fn f_plus_one_is_the_first_of_the_smallest_sets((net, effects, order) in any_choice()) {
        let voters = voters(&net, &effects, &order);
        let halts = |set: &Vec<usize>| by_definition(&net, &without(&effects, set)) == Forecast::MustHalt;
        let first = (1..=voters.len()).find_map(|size| subsets(&voters, size).find(halts));
        let expected = if halts(&Vec::new()) { None } else { first };
        prop_assert_eq!(pick(&net, &effects, &order, Pick::FPlusOne).ok(), expected);
    }

    #[test]
    fn a_minority_is_less_than_half_and_cannot_be_extended((net, effects, order) in any_choice()) {
        let voters = voters(&net, &effects, &order);
        let weight = |node: &usize| if net.engine == Engine::Bft { net.powers[*node] } else { net.powers[*node].min(1) };
        let total: u64 = (0..net.powers.len()).map(|node| weight(&node)).sum();
        let less = |set: &[usize]| 2 * set.iter().map(weight).sum::<u64>() < total;
        match pick(&net, &effects, &order, Pick::Minority) {
            Ok(set) => {
                prop_assert!(!set.is_empty() && less(&set));
                prop_assert!(voters.iter().filter(|node| !set.contains(node)).all(|more| !less(&[set.clone(), vec![*more]].concat())));
            }
            Err(_) => prop_assert!(voters.iter().all(|node| !less(&[*node]))),
        }
    }

    #[test]
    fn subsets_are_counted(items in 0_usize..8, size in 0_usize..8) {
        let items: Vec<usize> = (0..items).collect();
        let all: BTreeSet<Vec<usize>> = subsets(&items, size).collect();
        prop_assert_eq!(all.len(), if size <= items.len() { combinations(items.len(), size) } else { 0 });
        prop_assert!(all.iter().all(|set| set.len() == size));
    }
}
