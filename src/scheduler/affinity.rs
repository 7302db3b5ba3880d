//! Which worker has lately read a prompt that begins like this one, and so may still have its state.

use std::collections::HashMap;
use std::sync::Arc;

/// Beginnings that one generation remembers. Two of them are kept, 3 MB at most in a pool.
const GENERATION: usize = 16_384;

/// Beginnings of prompts and the workers that read them. The older generation is dropped as a whole when the
/// younger one is full; what is asked for goes over to the younger.
#[derive(Default)]
pub(super) struct Affinity {
    young: HashMap<u64, Arc<str>>,
    old: HashMap<u64, Arc<str>>,
}

impl Affinity {
    /// The worker that read the longest beginning. `prefix` has a hash for each, the shortest first.
    pub(super) fn find(&self, prefix: &[u64]) -> Option<&Arc<str>> {
        let known = |hash| self.young.get(hash).or_else(|| self.old.get(hash));
        prefix.iter().rev().find_map(known)
    }

    /// This worker reads the prompt now.
    pub(super) fn note(&mut self, prefix: &[u64], worker: &Arc<str>) {
        for hash in prefix {
            if self.young.len() >= GENERATION {
                self.old = std::mem::take(&mut self.young);
            }
            self.young.insert(*hash, Arc::clone(worker));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_beginning_counts() {
        let mut affinity = Affinity::default();
        affinity.note(&[1, 2, 3], &"a".into());
        affinity.note(&[1, 4], &"b".into());
        assert_eq!(affinity.find(&[1, 2, 9]).unwrap().as_ref(), "a");
        assert_eq!(affinity.find(&[1, 7]).unwrap().as_ref(), "b");
        assert!(affinity.find(&[8]).is_none());
    }

    #[test]
    fn memory_is_bounded_and_the_newest_stay() {
        let mut affinity = Affinity::default();
        for hash in 0..100_000 {
            affinity.note(&[hash], &"a".into());
        }
        assert!(affinity.young.len() + affinity.old.len() <= 2 * GENERATION);
        assert!(affinity.find(&[99_999]).is_some());
        assert!(affinity.find(&[0]).is_none());
    }
}
