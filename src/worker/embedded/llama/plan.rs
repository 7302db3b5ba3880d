//! What goes together in a step.

/// Cells that attention need not walk, summed over sequences, make up for reading the weights once more.
const WORTH_A_SPLIT: usize = 16_384;

/// A sequence whose prompt is read.
pub(super) struct Reader {
    pub(super) id: usize,
    /// It is read at a pace.
    pub(super) long: bool,
    /// Tokens that it may bring.
    pub(super) wants: usize,
}

/// Shares `most` tokens out, at most `paced` of them to long prompts: who came first gets what it wants, and
/// neither kind keeps the other from being read. By id.
pub(super) fn share(readers: &[Reader], most: usize, paced: usize) -> Vec<(usize, usize)> {
    let only_long = readers.iter().all(|reader| reader.long);
    let paced = paced.min(if only_long { most } else { most / 2 });
    let mut left = most;
    let mut shares = Vec::new();
    for (long, budget) in [(true, paced), (false, most)] {
        let mut here = budget.min(left);
        for reader in readers.iter().filter(|reader| reader.long == long) {
            let tokens = reader.wants.min(here);
            here -= tokens;
            left -= tokens;
            if tokens > 0 {
                shares.push((reader.id, tokens));
            }
        }
    }
    shares.sort_unstable();
    shares
}

/// How many of the lengths, which rise, are computed together; the rest is computed apart.
pub(super) fn split(lengths: &[usize]) -> usize {
    let Some(longest) = lengths.last() else {
        return 0;
    };
    (1..lengths.len())
        .map(|count| (count * (longest - lengths[count - 1]), count))
        .max()
        .filter(|(saved, _)| *saved > WORTH_A_SPLIT)
        .map_or(lengths.len(), |(_, count)| count)
}

#[cfg(test)]
mod tests {
    use super::{Reader, share, split};

    #[test]
    fn long_prompts_are_paced_and_keep_no_short_one_waiting() {
        let reader = |id, long, wants| Reader { id, long, wants };
        let shares = |readers: &[Reader]| share(readers, 128, 10);
        assert_eq!(shares(&[]), []);
        assert_eq!(shares(&[reader(0, true, 1500)]), [(0, 10)]);
        let both = [reader(3, true, 1500), reader(1, false, 90)];
        assert_eq!(shares(&both), [(1, 90), (3, 10)]);
        // Who came first, first.
        let short = [reader(2, false, 100), reader(0, false, 100)];
        assert_eq!(shares(&short), [(0, 28), (2, 100)]);
        // However much long ones may have, short ones have the other half.
        let many = [
            reader(0, true, 1500),
            reader(1, true, 1500),
            reader(2, false, 300),
        ];
        assert_eq!(share(&many, 128, 999), [(0, 64), (2, 64)]);
        assert_eq!(share(&many, 2, 2), [(0, 1), (2, 1)]);
    }

    #[test]
    fn the_longest_are_computed_apart_where_that_saves_enough() {
        let beside = |long: usize| {
            let mut lengths = vec![100; 31];
            lengths.push(long);
            split(&lengths)
        };
        assert_eq!(beside(8000), 31);
        assert_eq!(beside(300), 32);
        assert_eq!(split(&[]), 0);
        assert_eq!(split(&[8000]), 1);
        assert_eq!(split(&[100, 8000]), 2);
        assert_eq!(split(&[10, 10, 10, 10, 9000, 9100]), 4);
    }
}
