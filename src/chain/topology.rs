//! Who dials whom, where the chain leaves it to trialnet: by rule, never by chance.

use crate::model::{Node, Role};

/// Up to this many validators all dial one another.
const MESH: usize = 20;

/// Pairs of peers, the lower index first: up to `small` nodes all are peers of one another. In larger networks the validators are (with
/// more than 20 of them: each of those 1, 2, 4, 8… places on), and each full node has four peers, two validators and two full
/// nodes before it, so that no validator carries them all.
pub(crate) fn pairs(nodes: &[Node], small: usize) -> Vec<(usize, usize)> {
    let mut pairs = Vec::new();
    let all: Vec<usize> = (0..nodes.len()).collect();
    if nodes.len() <= small {
        mesh(&all, &mut pairs);
    } else {
        let (validators, full): (Vec<usize>, Vec<usize>) =
            all.into_iter().partition(|index| nodes[*index].role == Role::Validator);
        if validators.len() <= MESH {
            mesh(&validators, &mut pairs);
        } else {
            chords(&validators, &mut pairs);
        }
        for (place, index) in full.iter().enumerate() {
            let mut peers = Vec::new();
            if !validators.is_empty() {
                peers.push(validators[(2 * place) % validators.len()]);
                peers.push(validators[(2 * place + 1) % validators.len()]);
            }
            if place > 0 {
                peers.push(full[place - 1]);
                peers.push(full[place / 2]);
            }
            let others = peers.into_iter().filter(|peer| peer != index);
            pairs.extend(others.map(|peer| (peer.min(*index), peer.max(*index))));
        }
    }
    pairs.sort_unstable();
    pairs.dedup();
    pairs
}

fn mesh(nodes: &[usize], pairs: &mut Vec<(usize, usize)>) {
    for (place, one) in nodes.iter().enumerate() {
        pairs.extend(nodes[place + 1..].iter().map(|other| (*one, *other)));
    }
}

fn chords(nodes: &[usize], pairs: &mut Vec<(usize, usize)>) {
    for (place, one) in nodes.iter().enumerate() {
        let mut step = 1;
        while step <= nodes.len() / 2 {
            let other = nodes[(place + step) % nodes.len()];
            pairs.push(((*one).min(other), (*one).max(other)));
            step *= 2;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::tests::plan;
    use crate::model::ChainKind;

    fn pairs_of(validators: usize, full: usize) -> Vec<(usize, usize)> {
        pairs(&plan(ChainKind::Devnode, validators, full).network.nodes, 12)
    }

    #[test]
    fn small_networks_are_a_mesh() {
        assert_eq!(pairs_of(3, 1), [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]);
        assert_eq!(pairs_of(1, 0), []);
        assert_eq!(pairs_of(12, 0).len(), 66);
    }

    #[test]
    fn large_networks_are_sparse_and_connected() {
        for (validators, full) in [(10, 90), (1, 30), (0, 20), (60, 3), (21, 0)] {
            let pairs = pairs_of(validators, full);
            let count = validators + full;
            assert!(
                pairs.len() < count * 6 + 200,
                "{validators}+{full}: {} pairs",
                pairs.len()
            );
            assert!(pairs.iter().all(|(one, other)| one < other && *other < count));
            let mut group: Vec<usize> = (0..count).collect();
            for (one, other) in &pairs {
                let (a, b) = (group[*one], group[*other]);
                group.iter_mut().filter(|g| **g == b).for_each(|g| *g = a);
            }
            assert!(group.iter().all(|g| *g == group[0]), "{validators}+{full} falls apart");
            for node in validators..count {
                let degree = pairs.iter().filter(|(a, b)| *a == node || *b == node).count();
                assert!(
                    degree >= 2 || validators == 0,
                    "node {node} of {validators}+{full}: {degree}"
                );
            }
        }
    }
}
