//! The hashes that a node gave, so that a header is recorded once only, and again when it is another.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

/// How many heights are remembered: a digest of each, 64 KB for a node.
const MOST: usize = 4096;

/// What a node gave for the heights from `first` on.
#[derive(Debug, Default)]
pub(super) struct Given {
    first: u64,
    /// `None`: it gave nothing for that height.
    digests: VecDeque<Option<u64>>,
    /// The lowest height of those that were read again last.
    again: u64,
}

impl Given {
    /// Whether it has not given this hash for this height before, as far as is remembered.
    pub(super) fn is_new(&mut self, height: u64, hash: &str) -> bool {
        if self.digests.is_empty() {
            self.first = height;
        }
        // Below the first nothing is remembered: such a header is recorded each time that it comes.
        let Some(above) = height.checked_sub(self.first) else {
            return true;
        };
        let mut at = usize::try_from(above).unwrap_or(usize::MAX);
        let excess = at.saturating_add(1).saturating_sub(MOST);
        if excess > 0 {
            self.digests.drain(..excess.min(self.digests.len()));
            self.first += excess as u64;
            at -= excess;
        }
        if self.digests.len() <= at {
            self.digests.resize(at + 1, None);
        }
        let mut digest = DefaultHasher::new();
        hash.hash(&mut digest);
        let digest = Some(digest.finish());
        std::mem::replace(&mut self.digests[at], digest) != digest
    }

    /// Forgets everything above a height.
    pub(super) fn forget_above(&mut self, height: u64) {
        let kept = (height + 1).saturating_sub(self.first);
        self.digests.truncate(usize::try_from(kept).unwrap_or(usize::MAX));
    }

    /// The next `count` heights below `under` to be read again: from there down to the lowest, and from the top again.
    pub(super) fn older(&mut self, under: u64, count: u64) -> Option<(u64, u64)> {
        let top = if self.again > self.first {
            self.again.min(under)
        } else {
            under
        };
        if self.digests.is_empty() || top <= self.first {
            return None;
        }
        let from = top.saturating_sub(count).max(self.first);
        self.again = from;
        Some((from, top - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_new_once_and_when_it_is_another() {
        let mut given = Given::default();
        assert!(given.is_new(5, "a") && given.is_new(7, "c"));
        assert!(!given.is_new(5, "a") && !given.is_new(7, "c"));
        assert!(given.is_new(6, "b"), "the gap is nothing that was given");
        assert!(given.is_new(5, "x") && !given.is_new(5, "x"));
        assert!(given.is_new(2, "z"));
        given.forget_above(5);
        assert!(!given.is_new(5, "x") && given.is_new(6, "b"));
        given.forget_above(1);
        assert!(given.is_new(5, "x"));
    }

    #[test]
    fn no_more_than_so_many_are_remembered() {
        let mut given = Given::default();
        for height in 1..=MOST as u64 + 10 {
            assert!(given.is_new(height, "a"));
        }
        assert_eq!((given.digests.len(), given.first), (MOST, 11));
        assert!(given.is_new(10, "a"));
        assert!(!given.is_new(11, "a"));
        assert!(given.is_new(u64::MAX, "a"), "far away");
        assert_eq!(given.digests.len(), MOST);
        assert!(!given.is_new(u64::MAX, "a"));
    }

    #[test]
    fn all_older_heights_come_round() {
        let mut given = Given::default();
        assert_eq!(given.older(9, 20), None);
        for height in 3..=100 {
            given.is_new(height, "a");
        }
        let rounds: Vec<_> = (0..5).map(|_| given.older(81, 30)).collect();
        let round = [Some((51, 80)), Some((21, 50)), Some((3, 20))];
        assert_eq!(rounds, [&round[..], &round[..2]].concat());
        assert_eq!(given.older(15, 30), Some((3, 14)), "the node went back");
        assert_eq!(given.older(3, 30), None, "nothing is older");
    }
}
