//! The reference vectors of other implementations, each under its file's pass rule (`meta.note`, or the folder's README).
//!
//! The folder is the one that ERANOS_DP_VECTORS names, by default this crate's copy. What is checked here is what needs
//! Renyi accounting at integer orders, the discrete Gaussian and the Walsh-Hadamard transform; the vectors of exact
//! privacy loss distributions, fractional orders and audits belong to parts that do not exist yet.

use std::path::PathBuf;

use eranos_base::SeededEntropy;
use eranos_privacy::{
    Accountant, Event,
    accountant::ORDERS,
    noise::{NoiseSource, NoiseVariance},
    rotation::walsh_hadamard,
};
use serde_json::Value;

/// The cases of a file.
fn cases(name: &str) -> Vec<Value> {
    let folder = std::env::var_os("ERANOS_DP_VECTORS")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors"), PathBuf::from);
    let path = folder.join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let file: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let cases = file["cases"].as_array().expect("a list of cases").clone();
    assert!(!cases.is_empty(), "{name} has cases");
    cases
}

/// A number, also where it is written as a string.
fn number(case: &Value, key: &str) -> f64 {
    let value = &case[key];
    value.as_f64().or_else(|| value.as_str()?.parse().ok()).unwrap_or_else(|| panic!("{key} in {case}"))
}

fn list(case: &Value, key: &str) -> Vec<f64> {
    case[key].as_array().unwrap_or_else(|| panic!("{key} in {case}")).iter().filter_map(Value::as_f64).collect()
}

fn assert_close(found: f64, expected: f64, tolerance: f64, case: &Value) {
    assert!((found - expected).abs() <= tolerance * expected.abs(), "{found}, expected {expected}: {case}");
}

fn poisson(q: f64, z: f64, steps: u64, accountant: &mut Accountant) {
    accountant.compose(&Event::PoissonGaussian { sampling_probability: q, noise_multiplier: z }, steps);
}

#[test]
fn rdp_curves_at_integer_orders() {
    let mut n_checked = 0;
    for case in cases("rdp_curves.json") {
        // Fixed-size cohorts come with the accountants of a later part.
        if case["kind"] != "poisson_add_remove" {
            continue;
        }
        let event = Event::PoissonGaussian {
            sampling_probability: number(&case, "sampling_rate"),
            noise_multiplier: number(&case, "noise_multiplier"),
        };
        let curve: Vec<(u32, f64)> = event.rdp().iter().collect();
        for (order, expected) in list(&case, "orders").into_iter().zip(list(&case, "rdp")) {
            if let Some((_, found)) = curve.iter().find(|(integer, _)| f64::from(*integer) == order) {
                assert_close(*found, expected, 1e-6, &case);
                n_checked += 1;
            }
        }
    }
    assert!(n_checked >= 40, "{n_checked}");
}

#[test]
fn gaussian_poisson_eps() {
    for case in cases("gaussian_poisson_eps.json") {
        let mut accountant = Accountant::new();
        poisson(
            number(&case, "sampling_rate"),
            number(&case, "noise_multiplier"),
            number(&case, "steps") as u64,
            &mut accountant,
        );
        check_epsilon(&accountant, &case);
    }
}

#[test]
fn heterogeneous_eps() {
    for case in cases("heterogeneous_eps.json") {
        let mut accountant = Accountant::new();
        for phase in case["phases"].as_array().expect("phases") {
            let (q, z) = (number(phase, "sampling_rate"), number(phase, "noise_multiplier"));
            poisson(q, z, number(phase, "steps") as u64, &mut accountant);
        }
        check_epsilon(&accountant, &case);
    }
}

fn check_epsilon(accountant: &Accountant, case: &Value) {
    let epsilon = accountant.epsilon(number(case, "delta"));
    let expected = number(case, "epsilon_rdp_int");
    assert_close(epsilon, expected, 1e-6, case);
    assert!(epsilon <= expected * (1.0 + 1e-9), "{epsilon}: {case}");
    assert!(epsilon >= number(case, "epsilon_pld") * (1.0 - 2e-3), "{epsilon}: {case}");
}

#[test]
fn calibrate_at_integer_orders() {
    for case in cases("calibrate.json") {
        let (q, steps) = (number(&case, "sampling_rate"), number(&case, "steps") as u64);
        // These vectors have the orders 2 to 128 only.
        let epsilon = |z: f64| {
            let curve = Event::PoissonGaussian { sampling_probability: q, noise_multiplier: z }.rdp();
            let delta = number(&case, "delta");
            curve
                .iter()
                .take_while(|(order, _)| *order <= 128)
                .map(|(order, r)| {
                    let a = f64::from(order);
                    r * steps as f64 + (-1.0 / a).ln_1p() - (delta * a).ln() / (a - 1.0)
                })
                .fold(f64::INFINITY, f64::min)
        };
        let (mut low, mut high) = (0.2, 100.0);
        for _ in 0..60 {
            let middle = f64::midpoint(low, high);
            if epsilon(middle) <= number(&case, "target_epsilon") {
                high = middle;
            } else {
                low = middle;
            }
        }
        assert_close(high, number(&case, "noise_multiplier_rdp_int128"), 1e-5, &case);
    }
}

#[test]
fn ddg_q1_at_integer_orders() {
    for case in cases("ddg_q1.json") {
        let event = Event::DiscreteGaussianSum {
            sampling_probability: 1.0,
            l2_sensitivity: number(&case, "l2_grid"),
            l1_sensitivity: number(&case, "l1_grid"),
            share_variance: number(&case, "grid_local_sigma").powi(2),
            shares: number(&case, "n_survivors") as u32,
            dimension: number(&case, "dim") as u32,
        };
        let mut accountant = Accountant::new();
        accountant.compose(&event, number(&case, "steps") as u64);
        let epsilon = accountant.epsilon(number(&case, "delta"));
        assert_close(epsilon, number(&case, "epsilon_integer_orders"), 1e-6, &case);
        assert!(epsilon >= number(&case, "epsilon_zcdp_real_alpha") * (1.0 - 1e-9), "{epsilon}: {case}");
    }
}

#[test]
fn ddg_eps_at_integer_orders() {
    for case in cases("ddg_eps.json") {
        // Sensitivities are given in units of the unscaled vector.
        let scale = number(&case, "scale");
        let q = number(&case, "q");
        let event = Event::DiscreteGaussianSum {
            sampling_probability: q,
            l2_sensitivity: number(&case, "l2_rounded") * scale,
            l1_sensitivity: number(&case, "l1_rounded") * scale,
            share_variance: number(&case, "grid_local_sigma").powi(2),
            shares: number(&case, "n") as u32,
            dimension: number(&case, "dim") as u32,
        };
        let mut accountant = Accountant::new();
        accountant.compose(&event, number(&case, "steps") as u64);
        let epsilon = accountant.epsilon(number(&case, "delta"));
        let expected = number(&case, "epsilon");
        if q == 1.0 {
            assert_close(epsilon, expected, 1e-6, &case);
        } else {
            // A looser amplification theorem: an upper bound only, and only on grids that a mechanism may use; at sg = 1, where
            // both are in the millions, its term for the distance from a Gaussian is the smaller one.
            assert!(number(&case, "grid_local_sigma") < 4.0 || epsilon <= expected * (1.0 + 1e-9), "{epsilon}: {case}");
        }
    }
}

#[test]
fn fwht() {
    for case in cases("fwht.json") {
        // The inputs have at most six decimals, so that they are integers a million times as large, and the transform of
        // integers is exact.
        let signs = list(&case, "signs");
        let micro = |x: &f64| (x * 1e6).round() as i64;
        let v: Vec<i64> = list(&case, "x").iter().map(micro).collect();
        let signed: Vec<i64> = v.iter().zip(&signs).map(|(x, sign)| x * *sign as i64).collect();
        let mut rotated = signed.clone();
        walsh_hadamard(&mut rotated);
        let expected = list(&case, "y");
        assert_eq!(expected.len(), rotated.len());
        for (found, expected) in rotated.iter().zip(expected) {
            let found = *found as f64 / 1e6 / (v.len() as f64).sqrt();
            assert!((found - expected).abs() <= 1e-12 * expected.abs().max(1.0), "{found}, expected {expected}");
        }
        walsh_hadamard(&mut rotated);
        assert!(rotated.iter().zip(&signed).all(|(back, x)| *back == x * v.len() as i64));
    }
}

#[test]
fn discrete_gaussian() {
    let mut n_checked = 0;
    for (seed, case) in cases("discrete_gaussian.json").into_iter().enumerate() {
        // The variance's denominator is 2^10; 0.05 and 0.1 are no such fractions, and below what is ever allowed.
        let sigma2 = number(&case, "sigma2");
        let Some(variance) = NoiseVariance::from_numerator((sigma2 * 1024.0) as u64) else { continue };
        assert_eq!(variance.to_f64(), sigma2);
        let mut noise = vec![0; 1 << 21];
        NoiseSource::new(variance, &mut SeededEntropy::new(seed as u64)).fill(&mut noise);
        let n = noise.len() as f64;
        let (var, m4) = (number(&case, "variance"), number(&case, "fourth_moment"));
        let mean = noise.iter().map(|x| *x as f64).sum::<f64>() / n;
        assert!(mean.abs() <= 5.0 * (var / n).sqrt(), "mean {mean}, seed {seed}: {case}");
        let s2 = noise.iter().map(|x| (*x as f64 - mean).powi(2)).sum::<f64>() / (n - 1.0);
        assert!((s2 - var).abs() <= 5.0 * ((m4 - var * var) / n).sqrt(), "variance {s2}, seed {seed}: {case}");

        let z = number(&case, "normalizing_constant");
        let pmf = |x: i64| (-(x * x) as f64 / (2.0 * sigma2)).exp() / z;
        for (x, p) in case["pmf"].as_object().expect("pmf") {
            let p: f64 = p.as_str().and_then(|p| p.parse().ok()).expect("a number");
            assert!((pmf(x.parse().expect("an integer")) - p).abs() <= 1e-9 * p.max(1e-300));
        }
        check_chi_square(&noise, pmf, &format!("sigma2 {sigma2}, seed {seed}"));
        n_checked += 1;
    }
    assert!(n_checked >= 7, "{n_checked}");
}

/// Pearson's test on bins of one value each, the tails pooled where fewer than 20 are expected.
fn check_chi_square(noise: &[i64], pmf: impl Fn(i64) -> f64, what: &str) {
    let n = noise.len() as f64;
    let edge = (1..).find(|x| pmf(*x) * n < 20.0).expect("tails are thin");
    let len = (2 * edge + 1) as usize;
    let mut counts = vec![0u32; len];
    for x in noise {
        counts[((*x).clamp(-edge, edge) + edge) as usize] += 1;
    }
    let inner: f64 = (1 - edge..edge).map(&pmf).sum();
    let expected = |bin: usize| match bin as i64 - edge {
        x if x.abs() == edge => (1.0 - inner) / 2.0 * n,
        x => pmf(x) * n,
    };
    let chi_square: f64 =
        counts.iter().enumerate().map(|(bin, c)| (f64::from(*c) - expected(bin)).powi(2) / expected(bin)).sum();
    // Wilson and Hilferty's normal approximation; 5 deviations.
    let freedom = (len - 1) as f64;
    let bound = freedom * (1.0 - 2.0 / (9.0 * freedom) + 5.0 * (2.0 / (9.0 * freedom)).sqrt()).powi(3);
    assert!(chi_square < bound, "chi-square {chi_square} over {freedom} degrees, bound {bound}: {what}");
}

#[test]
fn the_orders_are_those_of_the_vectors() {
    let file = cases("gaussian_poisson_eps.json");
    assert!(file.iter().all(|case| ORDERS.contains(&(number(case, "order_int") as u32))));
}
