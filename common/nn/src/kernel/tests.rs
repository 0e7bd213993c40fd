use eranos_base::{Entropy, SeededEntropy};

use super::*;

fn values(n: usize, entropy: &mut SeededEntropy) -> Vec<f32> {
    (0..n).map(|_| i16::from_le_bytes(entropy.bytes()) as f32 / 8192.0).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

#[test]
fn products_are_chains_of_fused_multiply_adds_on_every_instruction_set() {
    let mut entropy = SeededEntropy::new(3);
    for m in [1, 2, 5, 6, 7, 13] {
        for n in [1, 8, 10, 16, 17, 32, 33, 48, 64, 70, 129] {
            let (n_segments, segment_len, segment_stride, stride) = (3, 5, 17, 2);
            let k = n_segments * segment_len;
            let offsets: Vec<u32> = (0..m).map(|i| (i * 7 % 11) as u32).collect();
            let (data, b) = (values(64, &mut entropy), values(k * n, &mut entropy));
            let (bias, before) = (values(n, &mut entropy), values(m * n, &mut entropy));
            let a = Rows { data: &data, offsets: &offsets, n_segments, segment_len, segment_stride, stride };
            for start in [Start::Zero, Start::Row(&bias), Start::Add] {
                let mut expected = before.clone();
                for i in 0..m {
                    for j in 0..n {
                        let c = &mut expected[i * n + j];
                        *c = match start {
                            Start::Zero => 0.0,
                            Start::Row(bias) => bias[j],
                            Start::Add => *c,
                        };
                        for kk in 0..k {
                            let at = kk / segment_len * segment_stride + kk % segment_len * stride;
                            *c = data[offsets[i] as usize + at].mul_add(b[kk * n + j], *c);
                        }
                    }
                }
                for &set in InstructionSet::available() {
                    let mut c = before.clone();
                    gemm_on(set, a, &b, n, start, &mut c);
                    assert_eq!(bits(&c), bits(&expected), "{set:?} m={m} n={n} {start:?}");
                }
            }
        }
    }
}

#[test]
fn outer_products_agree_on_every_instruction_set() {
    let mut entropy = SeededEntropy::new(4);
    for n in [1, 7, 10, 16, 40, 64, 65] {
        let (v, x) = (values(n, &mut entropy), values(9, &mut entropy));
        let product: Vec<f32> = (0..9 * n).map(|at| x[at / n] * v[at % n]).collect();
        for &set in InstructionSet::available() {
            let mut outer = vec![0.0; 9 * n];
            outer_on(set, &x, &v, &mut outer);
            assert_eq!(bits(&outer), bits(&product), "{set:?} n={n}");
        }
    }
}

#[test]
fn pooled_gradients_agree_with_their_definition_on_every_instruction_set() {
    let mut entropy = SeededEntropy::new(5);
    for (segment_len, n_channels) in [(3, 5), (16, 4), (24, 3), (96, 64), (100, 2), (130, 7)] {
        let patch = Patch { n_segments: 3, segment_len, segment_stride: 2 * segment_len };
        let (n_positions, window) = (6, 4);
        let x = values(8 * segment_len, &mut entropy);
        let bases: Vec<u32> = (0..n_positions * window).map(|i| (i * 5 % (2 * segment_len)) as u32).collect();
        let gradient = values(n_positions * n_channels, &mut entropy);
        let choice: Vec<u32> = gradient.iter().map(|g| g.to_bits() >> 13 & 3).collect();
        let kernel = values(n_channels * patch.len(), &mut entropy);
        let choices = Choices { bases: &bases, window, choice: &choice, gradient: &gradient, n_channels };
        let (mut weights, mut input) = (vec![0.0_f32; kernel.len()], x.clone());
        for c in 0..n_channels {
            for p in 0..n_positions {
                let base = bases[p * window + choice[p * n_channels + c] as usize] as usize;
                let g = gradient[p * n_channels + c];
                for k in 0..patch.len() {
                    let at = base + k / segment_len * patch.segment_stride + k % segment_len;
                    let w = &mut weights[c * patch.len() + k];
                    *w = g.mul_add(x[at], *w);
                }
            }
        }
        for piece in 0..3 * segment_len.div_ceil(96) {
            let (s, piece) = (piece / segment_len.div_ceil(96), piece % segment_len.div_ceil(96));
            for (p, q) in (0..n_positions * window).map(|at| (at / window, at % window)) {
                for t in piece * 96..segment_len.min(piece * 96 + 96) {
                    let mut sum = 0.0_f32;
                    for c in (0..n_channels).filter(|c| choice[p * n_channels + c] as usize == q) {
                        let weight = kernel[c * patch.len() + s * segment_len + t];
                        sum = gradient[p * n_channels + c].mul_add(weight, sum);
                    }
                    input[bases[p * window + q] as usize + s * patch.segment_stride + t] += sum;
                }
            }
        }
        for &set in InstructionSet::available() {
            let (mut scratch, mut out) = (vec![7; 200 + n_positions * n_channels], vec![9.0; kernel.len()]);
            scatter_weights_on(set, &x, patch, choices, &mut scratch, &mut out);
            assert_eq!(bits(&out), bits(&weights), "{set:?} {segment_len}");
            let mut out = x.clone();
            scatter_input_on(set, &kernel, patch, choices, &mut scratch, &mut out);
            assert_eq!(bits(&out), bits(&input), "{set:?} {segment_len}");
        }
    }
}

#[test]
fn the_first_maximum_is_chosen_and_nan_is_kept() {
    let nan = f32::NAN;
    let values = [1.0, nan, 5.0, 3.0, 2.0, 5.0, 3.0, 9.0, nan, 2.0, 1.0, 5.0];
    let (mut out, mut choice) = ([0.0; 3], [9; 3]);
    max_of_windows(&values, 4, 3, &mut out, &mut choice);
    assert_eq!((out[0], choice), (3.0, [1, 0, 2]));
    assert!(out[1].is_nan() && out[2].is_nan());
    let mut spread_out = [9.0; 12];
    spread(&[1.0, 2.0, 3.0], &choice, &[0, 1, 3, 2], 3, &mut spread_out);
    assert_eq!(spread_out, [0.0, 2.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 3.0]);
}

#[test]
fn relu_keeps_nan_both_ways() {
    let mut values = [-1.0, 0.0, 2.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
    relu(&mut values);
    assert!(values[3].is_nan());
    assert_eq!((values[0], values[2], values[4], values[5]), (0.0, 2.0, f32::INFINITY, 0.0));
    let mut gradient = [1.0; 6];
    relu_backward(&values, &mut gradient);
    assert_eq!(gradient, [0.0, 0.0, 1.0, 1.0, 1.0, 0.0]);
}

#[test]
fn a_transpose_moves_every_value() {
    for (n_rows, n_columns) in [(1, 1), (3, 50), (64, 288), (17, 16)] {
        let from: Vec<f32> = (0..n_rows * n_columns).map(|i| i as f32).collect();
        let mut to = vec![0.0; from.len()];
        transpose(&from, n_rows, &mut to);
        assert!((0..from.len()).all(|i| to[i % n_columns * n_rows + i / n_columns] == from[i]));
    }
}

#[test]
#[should_panic(expected = "every row lies in the data")]
fn a_row_outside_the_data_is_refused() {
    let a = Rows { data: &[0.0; 8], offsets: &[5], n_segments: 1, segment_len: 4, segment_stride: 0, stride: 1 };
    gemm(a, &[0.0; 4], 1, Start::Zero, &mut [0.0]);
}

/// On every instruction set: the same bits, which agree with the platform's functions.
#[test]
fn sigmoid_and_tanh_agree_with_the_platform_on_every_instruction_set() {
    let x: Vec<f32> = (-200_000..200_000).map(|i| i as f32 / 2000.0).chain([1e-8, -3e-4, 1e30, -1e30]).collect();
    for &set in InstructionSet::available() {
        let (mut sigmoids, mut tanhs) = (x.clone(), x.clone());
        dispatch!(set, sigmoid_body(&mut sigmoids));
        dispatch!(set, tanh_body(&mut tanhs));
        for (i, &x) in x.iter().enumerate() {
            let (sigmoid, tanh) = (1.0 / (1.0 + (-f64::from(x)).exp()), f64::from(x).tanh());
            assert!((f64::from(sigmoids[i]) - sigmoid).abs() < 2e-7, "{set:?} sigmoid({x}) {}", sigmoids[i]);
            assert!((f64::from(tanhs[i]) - tanh).abs() <= 4e-7 * tanh.abs(), "{set:?} tanh({x}) {}", tanhs[i]);
        }
        let (mut portable, mut nan) = (x.clone(), [f32::NAN, f32::INFINITY, f32::NEG_INFINITY]);
        dispatch!(InstructionSet::Portable, sigmoid_body(&mut portable));
        assert!(bits(&portable) == bits(&sigmoids), "{set:?}");
        portable.clone_from(&x);
        dispatch!(InstructionSet::Portable, tanh_body(&mut portable));
        assert!(bits(&portable) == bits(&tanhs), "{set:?}");
        dispatch!(set, tanh_body(&mut nan));
        assert!(nan[0].is_nan() && nan[1..] == [1.0, -1.0]);
        nan[0] = f32::NAN;
        dispatch!(set, sigmoid_body(&mut nan));
        assert!(nan[0].is_nan());
    }
}

#[test]
fn lstm_steps_agree_with_their_definition_on_every_instruction_set() {
    let mut entropy = SeededEntropy::new(6);
    for units in [1, 8, 15, 16, 17, 64, 70] {
        let (start, before) = (values(4 * units, &mut entropy), values(units, &mut entropy));
        let (hidden_gradient, cell_gradient) = (values(units, &mut entropy), values(units, &mut entropy));
        let mut first = None;
        for &set in InstructionSet::available() {
            let mut gates = start.clone();
            let (mut cell, mut cell_tanh, mut hidden) = (vec![9.0; units], vec![9.0; units], vec![9.0; units]);
            let (mut to_cell, mut to_gates) = (cell_gradient.clone(), vec![9.0; 4 * units]);
            dispatch!(set, lstm_step_body(&mut gates, &before, &mut cell, &mut cell_tanh, &mut hidden));
            dispatch!(
                set,
                lstm_step_backward_body(&gates, &before, &cell_tanh, &hidden_gradient, &mut to_cell, &mut to_gates)
            );
            let all = [&*gates, &*cell, &*cell_tanh, &*hidden, &*to_cell, &*to_gates].concat();
            let first = first.get_or_insert_with(|| all.clone());
            assert_eq!(bits(&all), bits(first), "{set:?} units={units}");
            for j in 0..units {
                let z = [0, 1, 2, 3].map(|k| f64::from(start[k * units + j]));
                let before = f64::from(before[j]);
                let (cell, hidden) = reference_step(z, before);
                assert!((f64::from(all[4 * units + j]) - cell).abs() < 2e-6, "{set:?} units={units}");
                assert!((f64::from(all[6 * units + j]) - hidden).abs() < 2e-6, "{set:?} units={units}");
                // What flows back is the slope of hidden times its gradient plus cell times its own.
                let value = |z: [f64; 4], before: f64| {
                    let (cell, hidden) = reference_step(z, before);
                    cell * f64::from(cell_gradient[j]) + hidden * f64::from(hidden_gradient[j])
                };
                let step = 1e-5;
                let slope = (value(z, before + step) - value(z, before - step)) / (2.0 * step);
                assert!((f64::from(to_cell[j]) - slope).abs() < 1e-5, "{set:?} units={units} cell {j}");
                for k in 0..4 {
                    let (mut above, mut below) = (z, z);
                    above[k] += step;
                    below[k] -= step;
                    let slope = (value(above, before) - value(below, before)) / (2.0 * step);
                    assert!((f64::from(to_gates[k * units + j]) - slope).abs() < 1e-5, "{set:?} gate {k} of {j}");
                }
            }
        }
    }
}

/// Cell and hidden value after a step of one unit.
fn reference_step(z: [f64; 4], before: f64) -> (f64, f64) {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let cell = sigmoid(z[1]) * before + sigmoid(z[0]) * z[2].tanh();
    (cell, sigmoid(z[3]) * cell.tanh())
}
