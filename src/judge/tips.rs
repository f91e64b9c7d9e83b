//! What nodes say of blocks that may still be replaced: held back until so many blocks stand on them that they count as final. Where every block is final at
//! once nothing is held.

use std::collections::BTreeMap;

use super::Judge;
use crate::model::{Plan, effects};
use crate::record::Header;

/// What is held back.
#[derive(Clone, Debug)]
pub(super) struct Tips {
    /// So many blocks have to stand on a block before it counts as final.
    pub(super) depth: u64,
    /// By node and height: the last that was said.
    blocks: Vec<BTreeMap<u64, Header>>,
    states: Vec<BTreeMap<u64, String>>,
}

impl Tips {
    pub(super) fn of(plan: &Plan) -> Self {
        let nodes = plan.network.nodes.len();
        Self {
            depth: effects::depth(plan),
            blocks: vec![BTreeMap::new(); nodes],
            states: vec![BTreeMap::new(); nodes],
        }
    }

    /// The greatest height that is final for whoever has this one.
    pub(super) const fn below(&self, height: u64) -> u64 {
        height.saturating_sub(self.depth)
    }
}

impl Judge {
    /// A node gave a header.
    pub(super) fn header_given(&mut self, i: usize, header: &Header) {
        if self.is_final(i, header.height) {
            self.hash_given(i, header.height, &header.hash, Some(header));
        } else {
            self.tips.blocks[i].insert(header.height, header.clone());
        }
    }

    /// A node gave the application's state after a height.
    pub(super) fn app_state_given(&mut self, i: usize, height: u64, hash: &str) {
        if self.is_final(i, height) {
            self.state_given(i, height, hash);
        } else {
            self.tips.states[i].insert(height, hash.to_owned());
        }
    }

    fn is_final(&self, i: usize, height: u64) -> bool {
        self.tips.depth == 0 || height <= self.tips.below(self.nodes[i].best)
    }

    /// A node has grown: what has become final counts now.
    pub(super) fn finals(&mut self, i: usize) {
        let from = self.tips.below(self.nodes[i].best).saturating_add(1);
        let held = self.tips.blocks[i].split_off(&from);
        for header in std::mem::replace(&mut self.tips.blocks[i], held).into_values() {
            self.hash_given(i, header.height, &header.hash, Some(&header));
        }
        let held = self.tips.states[i].split_off(&from);
        for (height, hash) in std::mem::replace(&mut self.tips.states[i], held) {
            self.state_given(i, height, &hash);
        }
    }
}
