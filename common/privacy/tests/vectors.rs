//! The reference vectors of other implementations, each under its file's pass rule (`meta.note`, or the folder's README).
//!
//! The folder is the one that ERANOS_DP_VECTORS names, by default this crate's copy. Every file is checked; fractional
//! Renyi orders, which no accountant here has, are the one thing passed over in them.

use std::path::PathBuf;

use eranos_base::SeededEntropy;
use eranos_privacy::{
    Accountant, Event,
    accountant::{
        ORDERS, RdpCurve,
        calibrate::{self, AccountantKind, Target},
        gaussian, pld, skellam,
        zcdp::{self, Zcdp},
    },
    audit::{Guesses, audit_bound, audit_bound_gaussian, p_value},
    noise::{NoiseSource, NoiseVariance},
    rotation::hadamard,
    rounding::{l1_bound, l2_bound, l2_bound_squared},
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

fn poisson(case: &Value) -> (Event, u64) {
    let (q, z) = (number(case, "sampling_rate"), number(case, "noise_multiplier"));
    (Event::PoissonGaussian { sampling_probability: q, noise_multiplier: z }, number(case, "steps") as u64)
}

fn epsilon_rdp(events: &[(Event, u64)], delta: f64) -> f64 {
    let mut accountant = Accountant::new();
    events.iter().for_each(|(event, n)| accountant.compose(event, *n));
    accountant.epsilon(delta)
}

#[test]
fn rdp_curves_at_integer_orders() {
    let mut n_checked = 0;
    for case in cases("rdp_curves.json") {
        let (q, z) = (number(&case, "sampling_rate"), number(&case, "noise_multiplier"));
        let event = if case["kind"] == "poisson_add_remove" {
            Event::PoissonGaussian { sampling_probability: q, noise_multiplier: z }
        } else {
            assert_eq!(case["kind"], "fixed_size_wor_replace_one");
            Event::FixedSizeGaussian { sampling_fraction: q, noise_multiplier: z }
        };
        let curve: Vec<(u32, f64)> = event.rdp().iter().collect();
        for (order, expected) in list(&case, "orders").into_iter().zip(list(&case, "rdp")) {
            if let Some((_, found)) = curve.iter().find(|(integer, _)| f64::from(*integer) == order) {
                assert_close(*found, expected, 1e-6, &case);
                n_checked += 1;
            }
        }
    }
    assert!(n_checked >= 80, "{n_checked}");
}

#[test]
fn fixed_size_wor_eps() {
    for case in cases("fixed_size_wor_eps.json") {
        // Every best order is an integer here, so that the figures are equality targets.
        assert_eq!(number(&case, "rdp_order").fract(), 0.0);
        let q = number(&case, "sample") / number(&case, "population");
        let z = number(&case, "noise_multiplier_replace_one");
        let (steps, delta) = (number(&case, "steps") as u64, number(&case, "delta"));
        let event = Event::FixedSizeGaussian { sampling_fraction: q, noise_multiplier: z };
        assert_close(epsilon_rdp(&[(event, steps)], delta), number(&case, "epsilon_rdp"), 1e-6, &case);
        // A fixed batch is no Poisson sample: taken for one, it would look better than it is.
        let mistaken = Event::PoissonGaussian { sampling_probability: q, noise_multiplier: z };
        assert!(epsilon_rdp(&[(mistaken, steps)], delta) < 0.9 * number(&case, "epsilon_rdp"), "{case}");
        assert_eq!(pld::epsilon(&[(event, steps)], delta), f64::INFINITY);
    }
}

#[test]
fn gaussian_poisson_eps() {
    for case in cases("gaussian_poisson_eps.json") {
        check_epsilon(&[poisson(&case)], &case);
    }
}

#[test]
fn heterogeneous_eps() {
    for case in cases("heterogeneous_eps.json") {
        let phases: Vec<_> = case["phases"].as_array().expect("phases").iter().map(poisson).collect();
        check_epsilon(&phases, &case);
    }
}

fn check_epsilon(events: &[(Event, u64)], case: &Value) {
    let delta = number(case, "delta");
    let (epsilon, expected) = (epsilon_rdp(events, delta), number(case, "epsilon_rdp_int"));
    assert_close(epsilon, expected, 1e-6, case);
    assert!(epsilon <= expected * (1.0 + 1e-9), "{epsilon}: {case}");
    let expected = number(case, "epsilon_pld");
    assert!(epsilon >= expected * (1.0 - 2e-3), "{epsilon}: {case}");

    let least = pld::epsilon(events, delta);
    assert_close(least, expected, 5e-3, case);
    assert!(least >= expected * (1.0 - 2e-3), "{least}: {case}");
    assert!(least <= epsilon, "{least} by privacy losses, {epsilon} by Renyi divergences: {case}");
}

#[test]
fn opacus_crosscheck() {
    for case in cases("opacus_crosscheck.json") {
        let (events, delta) = ([poisson(&case)], number(&case, "delta"));
        // Its orders are fractional as well, which may only help, and little.
        let (epsilon, theirs) = (epsilon_rdp(&events, delta), number(&case, "opacus_eps_rdp"));
        assert!(epsilon >= theirs * (1.0 - 1e-6) && epsilon <= theirs * 1.01, "{epsilon}: {case}");
        // Its figure is an upper bound that errs by at most 0.01 in epsilon and a thousandth of delta.
        let (least, theirs) = (pld::epsilon(&events, delta), number(&case, "opacus_eps_prv"));
        assert!(least <= theirs && least >= theirs - 0.0105, "{least}: {case}");
    }
}

#[test]
fn gaussian_analytic() {
    for case in cases("gaussian_analytic.json") {
        let (sigma, epsilon, delta) = (number(&case, "sigma"), number(&case, "epsilon"), number(&case, "delta"));
        assert_close(gaussian::delta(sigma, epsilon), delta, 1e-6, &case);
        assert_close(gaussian::epsilon(sigma, delta), epsilon, 1e-6, &case);
        let found = calibrate::least(0.01, 100.0, 1e-9, |sigma| gaussian::epsilon(sigma, delta) <= epsilon);
        assert_close(found.expect("there is one"), sigma, 1e-6, &case);
        // What is exact is never undercut, and hardly exceeded.
        let event = Event::PoissonGaussian { sampling_probability: 1.0, noise_multiplier: sigma };
        let bound = pld::epsilon(&[(event, 1)], delta);
        assert!(bound >= epsilon * (1.0 - 1e-9) && bound <= epsilon * (1.0 + 1e-3), "{bound}: {case}");
    }
}

#[test]
fn zcdp_conversion() {
    for case in cases("zcdp_conversion.json") {
        let (rho, epsilon, delta) = (number(&case, "rho"), number(&case, "epsilon"), number(&case, "delta"));
        let guarantee = Zcdp { xi: 0.0, rho };
        assert_close(guarantee.epsilon(delta), epsilon, 1e-6, &case);
        assert_close(guarantee.delta(epsilon), delta, 1e-4, &case);
        assert!(epsilon < number(&case, "epsilon_standard_BS16"), "{case}");
    }
}

#[test]
fn discrete_gaussian_delta() {
    let mut n_undercut = 0;
    for case in cases("discrete_gaussian_delta.json") {
        let (sigma2, sensitivity) = (number(&case, "sigma2"), number(&case, "sensitivity"));
        let (epsilon, exact) = (number(&case, "epsilon"), number(&case, "delta_exact"));
        let event = discrete(sigma2, 1, sensitivity);
        let guarantee = zcdp::guarantees(&event).expect("not sampled")[0];
        assert_close(guarantee.rho, number(&case, "rho_zcdp"), 1e-12, &case);
        assert_close(guarantee.delta(epsilon), number(&case, "delta_zcdp_bound"), 1e-6, &case);
        check_claims(&event, epsilon, exact, &case);
        n_undercut += u32::from(gaussian::delta(sigma2.sqrt() / sensitivity, epsilon) < exact * (1.0 - 1e-3));
    }
    // The continuous Gaussian of equal variance would claim too much: these vectors see the difference.
    assert!(n_undercut >= 5, "{n_undercut}");
}

#[test]
fn ddg_sum_exact_1d() {
    for case in cases("ddg_sum_exact_1d.json") {
        let event = discrete(number(&case, "sigma2_local"), number(&case, "n") as u32, number(&case, "shift"));
        let (epsilon, exact) = (number(&case, "epsilon"), number(&case, "delta_exact_sum"));
        assert!(exact <= number(&case, "delta_ddg_bound"), "{case}");
        let guarantees = zcdp::guarantees(&event).expect("not sampled");
        let bound = guarantees.into_iter().map(|g| g.delta(epsilon)).fold(1.0, f64::min);
        // Over all orders it is no more than theirs, over integer ones.
        assert!(bound >= exact && bound <= number(&case, "delta_ddg_bound") * (1.0 + 1e-9), "{bound}: {case}");
        check_claims(&event, epsilon, exact, &case);
    }
}

/// A one-dimensional sum.
fn discrete(share_variance: f64, shares: u32, sensitivity: f64) -> Event {
    Event::DiscreteGaussianSum {
        sampling_probability: 1.0,
        l2_sensitivity: sensitivity,
        l1_sensitivity: sensitivity,
        share_variance,
        shares,
        dimension: 1,
    }
}

/// At the exact delta no accountant may claim less than the exact epsilon.
fn check_claims(event: &Event, epsilon: f64, exact: f64, case: &Value) {
    if exact > 1e-30 {
        let least = pld::epsilon(&[(*event, 1)], exact);
        // Differences of float64 in the vectors: 1e-13 of delta is below 1e-6 of epsilon only where delta is large.
        let tolerance = if exact > 1e-8 { 1e-4 } else { 1e-2 };
        assert!(least >= epsilon * (1.0 - tolerance), "{least} by privacy losses: {case}");
        let renyi = epsilon_rdp(&[(*event, 1)], exact);
        assert!(renyi >= epsilon, "{renyi} by Renyi divergences: {case}");
        assert!(zcdp::epsilon(&[(*event, 1)], exact) >= epsilon, "{case}");
    }
}

#[test]
fn rounding_bound() {
    for case in cases("rounding_bound.json") {
        let (clip, dimension) = (number(&case, "scaled_clip"), number(&case, "dim") as u32);
        let bound = l2_bound(clip, dimension, beta(&case));
        assert_close(bound, number(&case, "l2_bound"), 1e-6, &case);
        assert_close(bound / clip, number(&case, "inflation"), 1e-6, &case);
        assert_close(l1_bound(bound, dimension), number(&case, "l1_bound"), 1e-6, &case);
        if case["beta"] == "e-0.5" && clip.fract() == 0.0 {
            let squared = l2_bound_squared(clip as u32, dimension) as f64;
            let expected = number(&case, "l2_bound").powi(2);
            assert!((expected - 1.0 - 1e-6 * expected..=expected * (1.0 + 1e-6)).contains(&squared), "{case}");
        }
    }
}

fn beta(case: &Value) -> f64 {
    match case["beta"].as_str() {
        Some("e-0.5") => (-0.5f64).exp(),
        Some("0") => 0.0,
        other => panic!("beta {other:?}"),
    }
}

#[test]
fn ddg_param_select() {
    for case in cases("ddg_param_select.json") {
        let (clip, gamma, n) = (number(&case, "clip"), number(&case, "gamma"), number(&case, "n"));
        let (dimension, steps) = (number(&case, "dim") as u32, number(&case, "steps") as u64);
        let inflated = l2_bound(clip / gamma, dimension, beta(&case)) * gamma;
        assert_close(inflated, number(&case, "inflated_l2"), 1e-3, &case);
        // The least noise that keeps the target, by zCDP.
        let target = Target {
            epsilon: number(&case, "target_epsilon"),
            delta: number(&case, "delta"),
            rounds: steps,
            sampling_probability: 1.0,
            accountant: AccountantKind::Zcdp,
        };
        let holds = |z| calibrate::epsilon(target.accountant, z, 1.0, steps, target.delta) <= target.epsilon;
        let z = calibrate::least(0.1, 100.0, 1e-6, holds).expect("there is one");
        assert_close(z, number(&case, "noise_mult_inflated"), 1e-3, &case);
        assert_close(calibrate::noise_multiplier(&target).expect("there is one"), z, 1e-3, &case);
        let local = z * inflated / n.sqrt();
        assert_close(local, number(&case, "local_std_unscaled"), 1e-3, &case);
        // What the file solves for, 2^b = 2 k sqrt(c^2 n_f/d + (gamma^2/4 + sigma^2) n)/gamma, holds at its gamma.
        let growth = if case["sqrtn_norm_growth"] == true { n } else { n * n };
        let variance = clip * clip * growth / f64::from(dimension) + (gamma * gamma / 4.0 + local * local) * n;
        let width = 2.0 * number(&case, "k_stddevs") * variance.sqrt() / gamma;
        assert_close(width, number(&case, "bits").exp2(), 2e-3, &case);
    }
}

#[test]
fn skellam_q1() {
    for case in cases("skellam_q1.json") {
        assert_close(epsilon_skellam(&case), number(&case, "epsilon"), 1e-6, &case);
    }
}

#[test]
fn skellam_eps() {
    // Amplification by sampling, which the others have, is not defined here: informative vectors.
    let unsampled: Vec<Value> = cases("skellam_eps.json").into_iter().filter(|case| number(case, "q") == 1.0).collect();
    assert!(unsampled.len() >= 3, "{}", unsampled.len());
    for case in unsampled {
        assert_close(epsilon_skellam(&case), number(&case, "epsilon"), 1e-6, &case);
    }
}

fn epsilon_skellam(case: &Value) -> f64 {
    let scale = number(case, "scale");
    let (l2, l1) = (number(case, "l2_rounded") * scale, number(case, "l1_rounded") * scale);
    let mut curve = RdpCurve::default();
    curve.add(&skellam::rdp((number(case, "central_std") * scale).powi(2), l2, l1), number(case, "steps") as u64);
    curve.epsilon(number(case, "delta"))
}

#[test]
fn audit_one_run() {
    let mut n_gaussian = 0;
    for case in cases("audit_one_run.json") {
        let count = |key| number(&case, key) as u32;
        let guesses = Guesses { canaries: count("m"), guessed: count("r"), right: count("v") };
        let delta = number(&case, "delta");
        for (significance, key) in [(number(&case, "p"), "eps_lb"), (0.01, "eps_lb_p01")] {
            let bound = audit_bound(guesses, delta, significance);
            assert!((bound - number(&case, key)).abs() < 1e-4, "{bound}: {case}");
        }
        // Null where delta is 0, at which Gaussian noise has no epsilon.
        let bound = audit_bound_gaussian(guesses, delta, number(&case, "p"));
        assert_eq!(bound.is_some(), delta > 0.0, "{case}");
        if let Some(bound) = bound {
            assert!((bound - number(&case, "eps_lb_fdp_gaussian")).abs() < 1e-3, "{bound}: {case}");
            n_gaussian += 1;
        }
        for (epsilon, expected) in case["pvalue_at_eps"].as_object().expect("p-values") {
            let p = p_value(guesses, epsilon.parse().expect("a number"), delta);
            assert_close(p, expected.as_f64().expect("a number"), 1e-6, &case);
        }
    }
    assert!(n_gaussian >= 6, "{n_gaussian}");
}

#[test]
fn calibrate_to_a_target() {
    for case in cases("calibrate.json") {
        let (q, steps) = (number(&case, "sampling_rate"), number(&case, "steps") as u64);
        let (epsilon, delta) = (number(&case, "target_epsilon"), number(&case, "delta"));
        // These vectors have the orders 2 to 128 only.
        let over_128 = |z: f64| {
            let curve = Event::PoissonGaussian { sampling_probability: q, noise_multiplier: z }.rdp();
            curve
                .iter()
                .take_while(|(order, _)| *order <= 128)
                .map(|(order, r)| {
                    let a = f64::from(order);
                    r * steps as f64 + (-1.0 / a).ln_1p() - (delta * a).ln() / (a - 1.0)
                })
                .fold(f64::INFINITY, f64::min)
        };
        let found = calibrate::least(0.2, 100.0, 1e-9, |z| over_128(z) <= epsilon).expect("there is one");
        assert_close(found, number(&case, "noise_multiplier_rdp_int128"), 1e-5, &case);
        let of = |accountant| {
            let target = Target { epsilon, delta, rounds: steps, sampling_probability: q, accountant };
            calibrate::noise_multiplier(&target).expect("there is one")
        };
        assert_close(of(AccountantKind::Rdp), found, 1e-3, &case);
        assert_close(of(AccountantKind::Pld), number(&case, "noise_multiplier_pld"), 5e-3, &case);
    }
}

#[test]
fn ddg_q1() {
    for case in cases("ddg_q1.json") {
        let event = Event::DiscreteGaussianSum {
            sampling_probability: 1.0,
            l2_sensitivity: number(&case, "l2_grid"),
            l1_sensitivity: number(&case, "l1_grid"),
            share_variance: number(&case, "grid_local_sigma").powi(2),
            shares: number(&case, "n_survivors") as u32,
            dimension: number(&case, "dim") as u32,
        };
        let (events, delta) = ([(event, number(&case, "steps") as u64)], number(&case, "delta"));
        let epsilon = epsilon_rdp(&events, delta);
        assert_close(epsilon, number(&case, "epsilon_integer_orders"), 1e-6, &case);
        let over_all_orders = zcdp::epsilon(&events, delta);
        assert_close(over_all_orders, number(&case, "epsilon_zcdp_real_alpha"), 1e-6, &case);
        assert!(over_all_orders <= epsilon, "{over_all_orders}, {epsilon} at integer orders: {case}");
        let [base, by_l1, by_l2] = zcdp::guarantees(&event).expect("not sampled");
        for (found, key) in [(base.rho, "rho_base"), (base.xi, "xi"), (by_l1.rho, "rho_l1"), (by_l2.rho, "rho_l2")] {
            assert_close(found, number(&case, key), 1e-6, &case);
        }
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
        let epsilon = epsilon_rdp(&[(event, number(&case, "steps") as u64)], number(&case, "delta"));
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
        hadamard(&mut rotated);
        let expected = list(&case, "y");
        assert_eq!(expected.len(), rotated.len());
        for (found, expected) in rotated.iter().zip(expected) {
            let found = *found as f64 / 1e6 / (v.len() as f64).sqrt();
            assert!((found - expected).abs() <= 1e-12 * expected.abs().max(1.0), "{found}, expected {expected}");
        }
        hadamard(&mut rotated);
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
