//! What the nodes say of each height: one hash while they agree, all of them where they do not.
//!
//! While all agree a height costs one hash and one bit for each node; full headers are kept for the last heights only.

use std::collections::BTreeMap;

use crate::model::Ms;
use crate::record::Header;

/// Headers older than this many heights are forgotten; their hashes are not.
const KEEP_HEADERS: u64 = 1000;

/// So many conflicting heights are kept with all their evidence; more are counted.
const KEEP_CONFLICTS: usize = 64;

/// A set of nodes as bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Members(Box<[u64]>);

impl Members {
    fn new(nodes: usize) -> Self {
        Self(vec![0; nodes.div_ceil(64).max(1)].into())
    }

    fn insert(&mut self, node: usize) -> bool {
        let (word, bit) = (node / 64, 1 << (node % 64));
        let fresh = self.0[word] & bit == 0;
        self.0[word] |= bit;
        fresh
    }

    pub(super) fn contains(&self, node: usize) -> bool {
        self.0.get(node / 64).is_some_and(|word| word & (1 << (node % 64)) != 0)
    }

    pub(super) fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.0.len() * 64).filter(|node| self.contains(*node))
    }
}

#[derive(Clone, Debug)]
struct Row {
    hash: Box<str>,
    who: Members,
    first: usize,
    header: Option<Box<Header>>,
}

/// The nodes that gave one hash for a height.
#[derive(Clone, Debug)]
pub(super) struct Group {
    pub(super) hash: Box<str>,
    pub(super) who: Members,
    /// The first that gave it.
    pub(super) first: usize,
    /// The header with this hash, if one was given.
    pub(super) header: Option<Box<Header>>,
}

/// A height for which more than one hash was given.
#[derive(Clone, Debug)]
pub(super) struct Conflict {
    pub(super) since: Ms,
    pub(super) faults: Vec<String>,
    /// In the order in which they were seen.
    pub(super) groups: Vec<Group>,
    last: BTreeMap<usize, usize>,
}

/// What a new statement did to the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Noted {
    /// It agrees with what is known, or is the first for its height.
    Agrees,
    /// Another hash than another node's.
    Differs,
    /// Another hash than this node itself gave before.
    Changed {
        /// What it said before.
        was: String,
    },
}

/// The table of all heights.
#[derive(Clone, Debug)]
pub(super) struct Agreement {
    nodes: usize,
    rows: BTreeMap<u64, Row>,
    /// Heights with more than one hash.
    pub(super) conflicts: BTreeMap<u64, Conflict>,
    /// Conflicting statements beyond those that are kept.
    pub(super) beyond: u64,
    /// Every height from 1 to below this one was given by two nodes.
    solid: u64,
}

impl Agreement {
    pub(super) fn new(nodes: usize) -> Self {
        Self {
            nodes,
            rows: BTreeMap::new(),
            conflicts: BTreeMap::new(),
            beyond: 0,
            solid: 1,
        }
    }

    /// Takes in that `node` gave `hash` for `height`.
    pub(super) fn note(&mut self, node: usize, height: u64, hash: &str, header: Option<&Header>, at: Ms) -> Noted {
        if let Some(conflict) = self.conflicts.get_mut(&height) {
            let noted = conflict.note(node, hash, header, self.nodes);
            self.mark(node, height);
            return noted;
        }
        let Some(row) = self.rows.get_mut(&height) else {
            let mut who = Members::new(self.nodes);
            who.insert(node);
            let row = Row {
                hash: hash.into(),
                who,
                first: node,
                header: header.cloned().map(Box::new),
            };
            self.rows.insert(height, row);
            let old = height.checked_sub(KEEP_HEADERS).and_then(|old| self.rows.get_mut(&old));
            if let Some(old) = old {
                old.header = None;
            }
            return Noted::Agrees;
        };
        if *row.hash == *hash {
            if row.header.is_none() {
                row.header = header.cloned().map(Box::new);
            }
            self.mark(node, height);
            return Noted::Agrees;
        }
        self.clash(node, height, hash, header, at)
    }

    fn clash(&mut self, node: usize, height: u64, hash: &str, header: Option<&Header>, at: Ms) -> Noted {
        let row = self.rows.get(&height).expect("the caller has just seen this row");
        let was = row.who.contains(node).then(|| row.hash.to_string());
        let kept = self.conflicts.len() < KEEP_CONFLICTS;
        if kept {
            let mut conflict = Conflict {
                since: at,
                faults: Vec::new(),
                groups: vec![Group {
                    hash: row.hash.clone(),
                    who: row.who.clone(),
                    first: row.first,
                    header: row.header.clone(),
                }],
                last: row.who.iter().map(|member| (member, 0)).collect(),
            };
            conflict.note(node, hash, header, self.nodes);
            self.conflicts.insert(height, conflict);
        } else {
            self.beyond += 1;
        }
        self.mark(node, height);
        match was {
            Some(was) => Noted::Changed { was },
            None if kept => Noted::Differs,
            // Only counted: there is no new evidence.
            None => Noted::Agrees,
        }
    }

    /// Remembers that the node has said something of this height, so that it counts as compared.
    fn mark(&mut self, node: usize, height: u64) {
        if let Some(row) = self.rows.get_mut(&height) {
            row.who.insert(node);
        }
        while self.rows.get(&self.solid).is_some_and(|row| row.who.len() >= 2) {
            self.solid += 1;
        }
    }

    /// What this node said last of a height.
    pub(super) fn own(&self, node: usize, height: u64) -> Option<&str> {
        if let Some(conflict) = self.conflicts.get(&height) {
            return conflict.last.get(&node).map(|&at| &*conflict.groups[at].hash);
        }
        let row = self.rows.get(&height)?;
        row.who.contains(node).then_some(&*row.hash)
    }

    /// Whether no node has given anything.
    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// How many heights two nodes or more have given.
    pub(super) fn compared(&self) -> u64 {
        let both = self.rows.values().filter(|row| row.who.len() >= 2);
        u64::try_from(both.count()).unwrap_or(u64::MAX)
    }

    /// How many heights from 1 to `to` fewer than two nodes have given, and the first of them.
    pub(super) fn holes(&self, to: u64) -> Option<(u64, u64)> {
        if self.solid > to {
            return None;
        }
        let compared = self
            .rows
            .range(self.solid..=to)
            .filter(|(_, row)| row.who.len() >= 2)
            .count();
        let compared = u64::try_from(compared).unwrap_or(u64::MAX);
        Some(((to - self.solid).saturating_add(1).saturating_sub(compared), self.solid))
    }
}

impl Conflict {
    fn note(&mut self, node: usize, hash: &str, header: Option<&Header>, nodes: usize) -> Noted {
        let at = self.groups.iter().position(|group| *group.hash == *hash);
        let at = at.unwrap_or_else(|| {
            self.groups.push(Group {
                hash: hash.into(),
                who: Members::new(nodes),
                first: node,
                header: None,
            });
            self.groups.len() - 1
        });
        let group = &mut self.groups[at];
        let fresh = group.who.insert(node);
        if group.header.is_none() {
            group.header = header.cloned().map(Box::new);
        }
        match self.last.insert(node, at) {
            Some(before) if before != at => Noted::Changed {
                was: self.groups[before].hash.to_string(),
            },
            _ if fresh => Noted::Differs,
            _ => Noted::Agrees,
        }
    }

    /// Whether two different nodes gave two hashes (rather than one node two).
    pub(super) fn between_nodes(&self) -> bool {
        let mut all: Vec<usize> = self.groups.iter().flat_map(|group| group.who.iter()).collect();
        all.sort_unstable();
        all.dedup();
        all.len() >= 2
    }

    /// The group that most nodes are in (the earlier one where two are equal), and the others.
    pub(super) fn split(&self) -> (&Group, Vec<&Group>) {
        let mut most = 0;
        for (at, group) in self.groups.iter().enumerate() {
            if group.who.len() > self.groups[most].who.len() {
                most = at;
            }
        }
        let others = self.groups.iter().enumerate().filter(|(at, _)| *at != most);
        (&self.groups[most], others.map(|(_, group)| group).collect())
    }
}
