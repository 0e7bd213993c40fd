//! A gradient that knows where it is zero: rows of an embedding that no record looked up are neither written nor read.

use std::ops::{Deref, Range};

use eranos_base::Digest;

use crate::Buffer;

/// The gradient of a record, or of a chunk of a batch, as long as the parameters. It reads as a dense vector;
/// [`Gradient::ranges`] tells where it may be other than zero. A network makes it ([`crate::Network::gradient`]), and
/// only that network writes it.
#[derive(Clone, Debug)]
pub struct Gradient {
    pub(crate) network: Digest,
    values: Buffer,
    /// Where it may be other than zero: in ascending order, none empty, none touching the next.
    ranges: Vec<Range<usize>>,
    /// The rows among them: what has to be zeroed before the next record. Everything else is written in any case.
    rows: Vec<Range<usize>>,
}

impl Gradient {
    /// `len` zeros, for the network of this digest.
    pub(crate) fn zeroed(network: Digest, len: usize) -> Self {
        Self { network, values: Buffer::zeroed(len), ranges: Vec::new(), rows: Vec::new() }
    }

    /// The ranges outside of which all values are zero, in ascending order; no two overlap.
    pub fn ranges(&self) -> &[Range<usize>] {
        &self.ranges
    }

    /// The values within [`Gradient::ranges`].
    pub(crate) fn nonzero(&self) -> impl Iterator<Item = &[f32]> {
        self.ranges.iter().map(|range| &self.values[range.clone()])
    }

    /// Adds the values from `at` on to `sum`, as many as it has.
    ///
    /// # Panics
    /// If there are not as many.
    pub fn add_to(&self, at: usize, sum: &mut [f32]) {
        let end = at + sum.len();
        assert!(end <= self.values.len(), "within the gradient");
        let first = self.ranges.partition_point(|range| range.end <= at);
        for range in self.ranges[first..].iter().take_while(|range| range.start < end) {
            let (from, to) = (range.start.max(at), range.end.min(end));
            for (sum, x) in sum[from - at..to - at].iter_mut().zip(&self.values[from..to]) {
                *sum += x;
            }
        }
    }

    /// Zeroes the rows and forgets all ranges: the network says anew what it writes.
    pub(crate) fn begin(&mut self) {
        for row in self.rows.drain(..) {
            self.values[row].fill(0.0);
        }
        self.ranges.clear();
    }

    /// What a layer writes: all of it, or rows of zeros as [`Gradient::begin`] left them.
    pub(crate) fn values_mut(&mut self, range: Range<usize>) -> &mut [f32] {
        &mut self.values[range]
    }

    /// Says that `range` was written. To be called in ascending order.
    pub(crate) fn touch(&mut self, range: Range<usize>) {
        match self.ranges.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => self.ranges.push(range),
        }
    }

    /// Says that of what begins at `at` those rows were written that `list` lists, in any order, the same one more than
    /// once.
    pub(crate) fn touch_rows(&mut self, at: usize, list: impl FnOnce(&mut Vec<Range<usize>>)) {
        let first = self.rows.len();
        list(&mut self.rows);
        let rows = &mut self.rows[first..];
        rows.sort_unstable_by_key(|row| row.start);
        let mut n_rows = 0;
        for i in 0..rows.len() {
            let row = at + rows[i].start..at + rows[i].end;
            if n_rows == 0 || rows[n_rows - 1] != row {
                rows[n_rows] = row;
                n_rows += 1;
            }
        }
        self.rows.truncate(first + n_rows);
        for i in first..self.rows.len() {
            self.touch(self.rows[i].clone());
        }
    }
}

impl Deref for Gradient {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.values
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_what_was_touched_and_sums_take_no_more() {
        let mut gradient = Gradient::zeroed(Digest::of(b"a network"), 20);
        for rows in [vec![4..6, 0..2, 4..6, 2..4], vec![8..10, 8..10], vec![]] {
            gradient.begin();
            assert!(gradient.iter().take(12).all(|&x| x == 0.0), "what was there before does not show");
            gradient.touch_rows(0, |list| list.extend(rows.clone()));
            for row in rows {
                gradient.values_mut(row).fill(1.0);
            }
            gradient.touch(12..15);
            gradient.touch(15..20);
            gradient.values_mut(12..20).fill(2.0);
            let dense: Vec<f32> = gradient.to_vec();
            let mut seen = vec![0.0; 20];
            for range in gradient.ranges() {
                seen[range.clone()].copy_from_slice(&dense[range.clone()]);
            }
            assert_eq!(seen, dense);
            for at in 0..20 {
                for end in at..=20 {
                    let mut sum = vec![0.5; end - at];
                    gradient.add_to(at, &mut sum);
                    assert!(sum.iter().zip(&dense[at..end]).all(|(sum, x)| *sum == 0.5 + x), "{at}..{end}");
                }
            }
        }
        assert_eq!(gradient.ranges().to_vec(), vec![Range { start: 12, end: 20 }]);
        gradient.begin();
        gradient.touch_rows(4, |list| list.extend([2..4, 0..2, 2..4]));
        assert_eq!(gradient.ranges().to_vec(), vec![Range { start: 4, end: 8 }]);
    }
}
