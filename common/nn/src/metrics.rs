//! What a test set says of a model beside loss and accuracy, from the outputs that [`Network::predict`] gives: the recall of
//! one class, and the area under the ROC curve of two.
//!
//! [`Network::predict`]: crate::Network::predict

use ndarray::ArrayView2;

use crate::losses::largest;

/// Of the records whose label is `class`, the share for which `outputs` (`[n_records, n_outputs]`) say so. Among equal
/// outputs the first counts as the largest; a single output says class 1 if it is above one half. None without such
/// records.
///
/// # Panics
/// If there is not one label a row.
pub fn recall(outputs: ArrayView2<'_, f32>, labels: &[u32], class: u32) -> Option<f64> {
    assert_eq!(outputs.nrows(), labels.len(), "one label per record");
    let (mut n, mut n_found) = (0_u64, 0_u64);
    for (row, _) in outputs.rows().into_iter().zip(labels).filter(|(_, label)| **label == class) {
        let said = if row.len() == 1 { u32::from(row[0] > 0.5) } else { largest(row.iter().copied()) };
        n += 1;
        n_found += u64::from(said == class);
    }
    (n > 0).then(|| n_found as f64 / n as f64)
}

/// The area under the ROC curve of `outputs` (`[n_records, n_outputs]`) over two classes: of all pairs of a record of class 1
/// and one of class 0, the share in which the former has the larger output for class 1, a tie counted as one half (Hanley
/// and McNeil 1982). Exact, by ranks; the output for class 1 is the last of one or two.
///
/// None if there are not both classes and no other, one or two outputs, and numbers alone among them.
///
/// # Panics
/// If there is not one label a row.
pub fn roc_auc(outputs: ArrayView2<'_, f32>, labels: &[u32]) -> Option<f64> {
    assert_eq!(outputs.nrows(), labels.len(), "one label per record");
    if !(1..=2).contains(&outputs.ncols()) || labels.iter().any(|&label| label > 1) {
        return None;
    }
    let scores = outputs.column(outputs.ncols() - 1);
    if scores.iter().any(|score| score.is_nan()) {
        return None;
    }
    let mut ranked: Vec<(f32, u32)> = scores.iter().copied().zip(labels.iter().copied()).collect();
    ranked.sort_unstable_by(|(a, _), (b, _)| a.total_cmp(b));
    let (mut n_negative, mut n_positive, mut twice_won) = (0_u64, 0_u64, 0_u128);
    // Equal as numbers: -0 and 0 tie, and are neighbours.
    for tied in ranked.chunk_by(|(a, _), (b, _)| a == b) {
        let positive = tied.iter().map(|(_, label)| u64::from(*label)).sum::<u64>();
        let negative = tied.len() as u64 - positive;
        twice_won += u128::from(positive) * u128::from(2 * n_negative + negative);
        (n_negative, n_positive) = (n_negative + negative, n_positive + positive);
    }
    let n_pairs = u128::from(n_negative) * u128::from(n_positive);
    (n_pairs > 0).then(|| twice_won as f64 / (2 * n_pairs) as f64)
}

#[cfg(test)]
mod tests {
    use eranos_base::{Entropy, SeededEntropy};
    use ndarray::Array2;

    use super::*;

    fn outputs(n_outputs: usize, values: &[f32]) -> Array2<f32> {
        Array2::from_shape_vec((values.len() / n_outputs, n_outputs), values.to_vec()).expect("whole rows")
    }

    #[test]
    fn recall_counts_the_records_of_its_class_alone() {
        let one = outputs(1, &[0.9, 0.2, 0.5, 0.6]);
        let check = |labels: &[u32], class, expected| assert_eq!(recall(one.view(), labels, class), expected);
        check(&[1, 1, 1, 0], 1, Some(1.0 / 3.0));
        // One half says class 0.
        check(&[0, 0, 0, 1], 0, Some(2.0 / 3.0));
        check(&[0, 0, 0, 0], 1, None);
        check(&[1, 1, 1, 1], 0, None);
        let three = outputs(3, &[0.2, 0.4, 0.4, 0.1, 0.2, 0.7, 0.5, 0.5, 0.0]);
        // Among equal outputs the first.
        assert_eq!(recall(three.view(), &[1, 2, 1], 1), Some(0.5));
        assert_eq!(recall(three.view(), &[2, 2, 0], 2), Some(0.5));
        assert_eq!(recall(Array2::zeros((0, 1)).view(), &[], 0), None);
    }

    #[test]
    fn the_area_is_that_of_textbook_cases() {
        let check = |scores: &[f32], labels: &[u32], expected| {
            let found = roc_auc(outputs(1, scores).view(), labels);
            assert_eq!(found, expected, "{scores:?} {labels:?}");
            // Two outputs, of which the last is class 1's.
            let two: Vec<f32> = scores.iter().flat_map(|score| [1.0 - score, *score]).collect();
            assert_eq!(roc_auc(outputs(2, &two).view(), labels), expected);
        };
        check(&[0.1, 0.4, 0.35, 0.8], &[0, 0, 1, 1], Some(0.75));
        check(&[0.1, 0.2, 0.8, 0.9], &[0, 0, 1, 1], Some(1.0));
        check(&[0.1, 0.2, 0.8, 0.9], &[1, 1, 0, 0], Some(0.0));
        // A constant answer tells nothing, whatever the order of its ties.
        check(&[0.5; 4], &[1, 0, 0, 1], Some(0.5));
        check(&[0.3, 0.5, 0.5], &[0, 1, 0], Some(0.75));
        check(&[0.0, -0.0], &[0, 1], Some(0.5));
        // One class alone has no curve; nor has a third class, or what is no number.
        check(&[0.1, 0.9], &[1, 1], None);
        check(&[0.1, 0.9], &[0, 0], None);
        check(&[], &[], None);
        check(&[0.1, 0.5, 0.9], &[0, 1, 2], None);
        check(&[0.1, f32::NAN], &[0, 1], None);
        assert_eq!(roc_auc(outputs(3, &[0.1, 0.2, 0.7, 0.7, 0.2, 0.1]).view(), &[0, 1]), None);
    }

    #[test]
    fn ranks_give_what_counting_every_pair_gives() {
        for seed in 0..50 {
            let mut entropy = SeededEntropy::new(seed);
            let n = 2 + usize::from(entropy.bytes::<1>()[0]) % 60;
            // Few different scores, so that many tie.
            let scores: Vec<f32> = (0..n).map(|_| f32::from(entropy.bytes::<1>()[0] % 8)).collect();
            let labels: Vec<u32> = (0..n).map(|_| u32::from(entropy.bytes::<1>()[0] % 2)).collect();
            let (mut won, mut pairs) = (0.0, 0.0);
            for (i, j) in (0..n).flat_map(|i| (0..n).map(move |j| (i, j))).filter(|&(i, j)| labels[i] > labels[j]) {
                pairs += 1.0;
                won += if scores[i] > scores[j] {
                    1.0
                } else if scores[i] == scores[j] {
                    0.5
                } else {
                    0.0
                };
            }
            let expected = (pairs > 0.0).then(|| won / pairs);
            assert_eq!(roc_auc(outputs(1, &scores).view(), &labels), expected, "seed {seed}");
        }
    }
}
