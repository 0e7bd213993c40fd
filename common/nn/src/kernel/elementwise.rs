//! What is done value by value. Nothing here is unsafe: the loops are compiled once for each instruction set, and the
//! functions that are not the platform's are made of additions, fused multiply-adds and divisions, so that their bits
//! are the same everywhere.

use super::LANES;

/// Sixteen values that the compiler may keep in registers.
type Lanes = [f32; LANES];

#[inline(always)]
pub(super) unsafe fn relu_body<V>(values: &mut [f32]) {
    for value in values {
        *value = if *value < 0.0 { 0.0 } else { *value };
    }
}

#[inline(always)]
pub(super) unsafe fn relu_backward_body<V>(output: &[f32], gradient: &mut [f32]) {
    for (gradient, &output) in gradient.iter_mut().zip(output) {
        // A NaN output passes its gradient on, which is NaN as well: it must not vanish here.
        *gradient = if output <= 0.0 { 0.0 } else { *gradient };
    }
}

#[inline(always)]
pub(super) unsafe fn sigmoid_body<V>(values: &mut [f32]) {
    for value in values {
        *value = sigmoid(*value);
    }
}

#[inline(always)]
pub(super) unsafe fn tanh_body<V>(values: &mut [f32]) {
    for value in values {
        *value = tanh(*value);
    }
}

#[inline(always)]
pub(super) unsafe fn lstm_step_body<V>(
    gates: &mut [f32],
    cell_before: &[f32],
    cell: &mut [f32],
    cell_tanh: &mut [f32],
    hidden: &mut [f32],
) {
    let units = hidden.len();
    for j in (0..units).step_by(LANES) {
        let n = (units - j).min(LANES);
        let gate = |number: usize| load(&gates[number * units + j..], n);
        let (mut i, mut f, mut c, mut o) = (gate(0), gate(1), gate(2), gate(3));
        let before = load(&cell_before[j..], n);
        let (mut now, mut squashed, mut out) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
        for l in 0..LANES {
            (i[l], f[l], c[l], o[l]) = (sigmoid(i[l]), sigmoid(f[l]), tanh(c[l]), sigmoid(o[l]));
            now[l] = f[l].mul_add(before[l], i[l] * c[l]);
            squashed[l] = tanh(now[l]);
            out[l] = o[l] * squashed[l];
        }
        for (number, values) in [i, f, c, o].into_iter().enumerate() {
            store(&mut gates[number * units + j..], n, values);
        }
        store(&mut cell[j..], n, now);
        store(&mut cell_tanh[j..], n, squashed);
        store(&mut hidden[j..], n, out);
    }
}

#[inline(always)]
pub(super) unsafe fn lstm_step_backward_body<V>(
    gates: &[f32],
    cell_before: &[f32],
    cell_tanh: &[f32],
    hidden_gradient: &[f32],
    cell_gradient: &mut [f32],
    gates_gradient: &mut [f32],
) {
    let units = hidden_gradient.len();
    for j in (0..units).step_by(LANES) {
        let n = (units - j).min(LANES);
        let gate = |number: usize| load(&gates[number * units + j..], n);
        let (i, f, c, o) = (gate(0), gate(1), gate(2), gate(3));
        let (before, squashed) = (load(&cell_before[j..], n), load(&cell_tanh[j..], n));
        let (hidden, mut cell) = (load(&hidden_gradient[j..], n), load(&cell_gradient[j..], n));
        let mut out = [[0.0; LANES]; 4];
        for l in 0..LANES {
            let slope = (-squashed[l]).mul_add(squashed[l], 1.0);
            let total = (hidden[l] * o[l]).mul_add(slope, cell[l]);
            out[0][l] = total * c[l] * (i[l] * (1.0 - i[l]));
            out[1][l] = total * before[l] * (f[l] * (1.0 - f[l]));
            out[2][l] = total * i[l] * (-c[l]).mul_add(c[l], 1.0);
            out[3][l] = hidden[l] * squashed[l] * (o[l] * (1.0 - o[l]));
            cell[l] = total * f[l];
        }
        for (number, values) in out.into_iter().enumerate() {
            store(&mut gates_gradient[number * units + j..], n, values);
        }
        store(&mut cell_gradient[j..], n, cell);
    }
}

/// The first `n` values of `from`, the others zero.
#[inline(always)]
fn load(from: &[f32], n: usize) -> Lanes {
    // The usual case by itself, so that it is one load.
    if let Some(lanes) = from.first_chunk().filter(|_| n == LANES) {
        return *lanes;
    }
    let mut lanes = [0.0; LANES];
    lanes[..n].copy_from_slice(&from[..n]);
    lanes
}

#[inline(always)]
fn store(to: &mut [f32], n: usize, lanes: Lanes) {
    match to.first_chunk_mut() {
        Some(to) if n == LANES => *to = lanes,
        _ => to[..n].copy_from_slice(&lanes[..n]),
    }
}

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// Near zero the polynomial of the Cephes library (Moshier 1989, tanhf), elsewhere 1 - 2 / (e^2x + 1).
#[inline(always)]
fn tanh(x: f32) -> f32 {
    let size = x.abs();
    let square = x * x;
    let mut sum = -5.704_988_7e-3_f32;
    for coefficient in [2.063_909e-2, -5.373_971_6e-2, 1.333_144_2e-1, -3.333_328e-1] {
        sum = sum.mul_add(square, coefficient);
    }
    let near = (sum * square).mul_add(x, x);
    let far = (1.0 - 2.0 / (exp(2.0 * size) + 1.0)).copysign(x);
    if size < 0.625 { near } else { far }
}

/// e^x by the polynomial of the Cephes library (Moshier 1989, expf), to a relative error below 2e-7 in [-87, 88]; beyond,
/// the value at the nearer end. NaN stays NaN.
#[inline(always)]
fn exp(x: f32) -> f32 {
    let x = if x < -87.0 { -87.0 } else { x };
    let x = if x > 88.0 { 88.0 } else { x };
    // x = n ln 2 + r with |r| <= ln 2 / 2: adding 1.5 2^23 rounds to the nearest n, which the last bits then hold.
    let shifted = x.mul_add(std::f32::consts::LOG2_E, 12_582_912.0);
    let n = shifted - 12_582_912.0;
    // ln 2 in two parts, so that n times the first is exact.
    let r = n.mul_add(-0.693_359_4, x);
    let r = n.mul_add(2.121_944_4e-4, r);
    let mut sum = 1.987_569_1e-4_f32;
    for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        sum = sum.mul_add(r, coefficient);
    }
    let sum = sum.mul_add(r * r, r) + 1.0;
    sum * f32::from_bits(shifted.to_bits().wrapping_add(127) << 23)
}
