//! Which rows are computed together, and whose turn it is.

use std::collections::VecDeque;

use super::tokens::Row;
use crate::types::Precision;

/// Tokens of one batch. It bounds the memory that a step takes and how long the next request waits for it;
/// more gain nothing on a CPU.
const BATCH_TOKENS: usize = 512;
/// So many tokens of others may go with a request's own, or as many as it has: a question does not wait for a page.
const GUEST_TOKENS: usize = 64;

/// A request's rows that are still to be computed.
pub(super) struct Pending {
    /// With their places in the request; the first, which is taken first, stands last.
    rows: Vec<(usize, Row)>,
    precision: Precision,
}

/// Rows that are computed at once.
pub(super) struct Batch {
    /// Where each row's vector belongs.
    pub(super) places: Vec<Place>,
    pub(super) rows: Vec<Row>,
    pub(super) precision: Precision,
}

/// Where the vector of one row of a batch belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// Which request, as it stands in the queue.
    pub(super) request: usize,
    /// Which of its inputs.
    pub(super) input: usize,
}

impl Pending {
    pub(super) fn new(rows: Vec<Row>, precision: Precision) -> Self {
        let rows = rows.into_iter().enumerate().rev().collect();
        Self { rows, precision }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    fn take(&mut self, fits: impl FnOnce(usize) -> bool) -> Option<(usize, Row)> {
        let (_, first) = self.rows.last()?;
        fits(first.len()).then(|| self.rows.pop())?
    }
}

/// The next batch: rows of the first request, and rows of others that are computed as its are, where there is room left.
///
/// Nobody waits for another one's whole request: whoever calls puts the first request behind the others
/// after its batch.
pub(super) fn next<T>(queue: &mut VecDeque<T>, pending: impl Fn(&mut T) -> &mut Pending) -> Batch {
    let (mut places, mut rows, mut tokens) = (Vec::new(), Vec::new(), 0);
    let precision = queue
        .front_mut()
        .map_or_else(Precision::default, |first| pending(first).precision);
    let mut most = BATCH_TOKENS;
    for (request, item) in queue.iter_mut().enumerate() {
        if request == 1 {
            most = most.min(tokens + tokens.max(GUEST_TOKENS));
        }
        if pending(item).precision != precision {
            continue;
        }
        // A single row that is longer than the bound has to be computed too.
        while let Some((input, row)) = pending(item).take(|len| tokens == 0 || tokens + len <= most)
        {
            tokens += row.len();
            places.push(Place { request, input });
            rows.push(row);
        }
    }
    Batch {
        places,
        rows,
        precision,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(len: usize) -> Row {
        Row {
            ids: vec![7; len],
            types: vec![0; len],
        }
    }

    fn requests(lengths: &[&[usize]]) -> VecDeque<Pending> {
        let pending = |lengths: &&[usize]| {
            let rows = lengths.iter().map(|len| row(*len)).collect();
            Pending::new(rows, Precision::Full)
        };
        lengths.iter().map(pending).collect()
    }

    fn next_of(queue: &mut VecDeque<Pending>) -> (Vec<(usize, usize)>, Vec<usize>) {
        let batch = next(queue, |pending| pending);
        let places = batch.places.iter();
        let places = places.map(|place| (place.request, place.input));
        (places.collect(), batch.rows.iter().map(Row::len).collect())
    }

    #[test]
    fn rows_go_in_their_order_as_many_as_have_room() {
        let mut queue = requests(&[&[10, 400, 150, 12]]);
        assert_eq!(next_of(&mut queue), (vec![(0, 0), (0, 1)], vec![10, 400]));
        assert_eq!(next_of(&mut queue), (vec![(0, 2), (0, 3)], vec![150, 12]));
        assert!(queue[0].is_empty());
    }

    #[test]
    fn requests_share_a_batch_where_there_is_room() {
        let mut queue = requests(&[&[20], &[500, 4], &[3]]);
        let shared = (vec![(0, 0), (2, 0)], vec![20, 3]);
        assert_eq!(next_of(&mut queue), shared);
        queue.rotate_left(1);
        assert_eq!(next_of(&mut queue), (vec![(0, 0), (0, 1)], vec![500, 4]));
    }

    #[test]
    fn a_question_does_not_wait_for_others_pages() {
        let mut queue = requests(&[&[20], &[65, 30], &[34]]);
        // 64 of others' at most: 65 has to wait, 34 need not.
        assert_eq!(next_of(&mut queue), (vec![(0, 0), (2, 0)], vec![20, 34]));
        queue.rotate_left(1);
        assert_eq!(next_of(&mut queue), (vec![(0, 0), (0, 1)], vec![65, 30]));
        let mut queue = requests(&[&[100], &[90, 11]]);
        assert_eq!(next_of(&mut queue), (vec![(0, 0), (1, 0)], vec![100, 90]));
    }

    #[test]
    fn what_is_computed_otherwise_waits_for_its_own_batch() {
        let mut queue = requests(&[&[20], &[30], &[10]]);
        queue[1].precision = Precision::Approximate;
        let first = (vec![(0, 0), (2, 0)], vec![20, 10]);
        assert_eq!(next_of(&mut queue), first);
        queue.rotate_left(1);
        let batch = next(&mut queue, |pending| pending);
        assert_eq!(batch.precision, Precision::Approximate);
        assert_eq!(batch.rows.iter().map(Row::len).collect::<Vec<_>>(), [30]);
    }

    #[test]
    fn every_row_comes_once_and_no_batch_is_larger_than_the_bound() {
        let lengths: Vec<usize> = (0..2048).map(|index| 3 + index * 7919 % 254).collect();
        let mut queue = requests(&[&lengths, &[5000], &lengths[..9]]);
        let mut seen = std::collections::HashMap::new();
        let mut names: VecDeque<usize> = (0..3).collect();
        while !queue.iter().all(Pending::is_empty) {
            let Batch { places, rows, .. } = next(&mut queue, |pending| pending);
            let tokens: usize = rows.iter().map(Row::len).sum();
            assert!(tokens <= BATCH_TOKENS || rows.len() == 1);
            for (place, row) in places.iter().zip(&rows) {
                let earlier = seen.insert((names[place.request], place.input), row.len());
                assert_eq!(earlier, None);
            }
            queue.rotate_left(1);
            names.rotate_left(1);
        }
        assert_eq!(seen.len(), 2048 + 1 + 9);
        assert!(
            lengths
                .iter()
                .enumerate()
                .all(|(index, len)| seen[&(0, index)] == *len)
        );
        assert_eq!(seen[&(1, 0)], 5000);
    }
}
