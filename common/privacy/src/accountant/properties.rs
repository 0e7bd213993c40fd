//! What holds of every accountant, whatever the figures: monotone, consistent with one another, composing in any order,
//! and never below what is exact. Each test says which broken accountant it catches.

use super::{
    Accountant, Event,
    calibrate::{self, AccountantKind, CalibrationError, NOISE_MULTIPLIER_MAX, Target},
    gaussian, pld, tau, zcdp,
};

const SAMPLED: [AccountantKind; 2] = [AccountantKind::Rdp, AccountantKind::Pld];
const ALL: [AccountantKind; 3] = [AccountantKind::Rdp, AccountantKind::Pld, AccountantKind::Zcdp];

fn gaussian_event(q: f64, z: f64) -> Event {
    Event::PoissonGaussian { sampling_probability: q, noise_multiplier: z }
}

fn epsilon_rdp(events: &[(Event, u64)], delta: f64) -> f64 {
    let mut accountant = Accountant::new();
    events.iter().for_each(|(event, n)| accountant.compose(event, *n));
    accountant.epsilon(delta)
}

#[test]
fn less_noise_more_rounds_more_sampling_or_less_delta_never_costs_less() {
    for kind in SAMPLED {
        let epsilon = |z, q, rounds, delta| calibrate::epsilon(kind, z, q, rounds, delta);
        let base = epsilon(1.1, 0.02, 500, 1e-5);
        let worse = [
            epsilon(1.0, 0.02, 500, 1e-5),
            epsilon(1.1, 0.021, 500, 1e-5),
            epsilon(1.1, 0.02, 510, 1e-5),
            epsilon(1.1, 0.02, 500, 8e-6),
        ];
        assert!(worse.iter().all(|worse| *worse > base), "{kind:?}: {base}, {worse:?}");
        // Far apart too, where grid and tilt are others.
        let mut last = f64::INFINITY;
        for z in [0.3, 0.5, 0.8, 1.5, 3.0, 10.0, 100.0] {
            let found = epsilon(z, 0.02, 500, 1e-5);
            assert!(found < last || found == 0.0, "{kind:?}: {found} at z = {z}, {last} before");
            last = found;
        }
        let mut last = 0.0;
        for rounds in [1, 3, 10, 100, 1000, 10_000, 100_000] {
            let found = epsilon(1.1, 0.02, rounds, 1e-5);
            assert!(found >= last, "{kind:?}: {found} over {rounds} rounds, {last} before");
            last = found;
        }
    }
}

#[test]
fn privacy_losses_never_cost_more_than_renyi_divergences_and_never_less_than_what_is_exact() {
    for z in [0.5, 1.0, 4.0, 20.0] {
        for n in [1, 7, 1000] {
            for delta in [1e-2, 1e-5, 1e-12] {
                for q in [0.001, 0.05, 0.5, 0.999] {
                    let events = [(gaussian_event(q, z), n)];
                    let (least, renyi) = (pld::epsilon(&events, delta), epsilon_rdp(&events, delta));
                    // Where both are about nothing, the grid of 1e-4 is seen.
                    assert!(least <= renyi + 1e-4, "{least} > {renyi}: q = {q}, z = {z}, n = {n}, delta = {delta}");
                }
                // n Gaussians are one: rounding losses down, a missing tail or too narrow a window would undercut it.
                let events = [(gaussian_event(1.0, z), n)];
                let (least, exact) = (pld::epsilon(&events, delta), gaussian::epsilon(z / (n as f64).sqrt(), delta));
                let what = format!("{least}, exactly {exact}: z = {z}, n = {n}, delta = {delta}");
                assert!(least >= exact * (1.0 - 1e-12) && least <= exact * (1.0 + 1e-3) + 1e-4, "{what}");
                assert!(zcdp::epsilon(&events, delta) >= least, "{what}");
                assert!(epsilon_rdp(&events, delta) >= zcdp::epsilon(&events, delta) * (1.0 - 1e-9), "{what}");
            }
        }
    }
}

#[test]
fn one_sampled_release_costs_what_its_closed_form_says() {
    // With the record: delta = q delta_1(ln(1 + (e^epsilon - 1)/q)) of the unsampled Gaussian (Li, Qardaji and Su 2012),
    // which is the worse direction for epsilon > 0. Composing in the other one only, or q = 1, would differ.
    for (q, z, delta) in [(0.1, 1.0, 1e-5), (0.01, 0.7, 1e-6), (0.5, 2.0, 1e-8)] {
        let exact_delta = |epsilon: f64| q * gaussian::delta(z, (epsilon.exp_m1() / q).ln_1p());
        let exact = calibrate::least(1e-6, 100.0, 1e-12, |epsilon| exact_delta(epsilon) <= delta).expect("one");
        let found = pld::epsilon(&[(gaussian_event(q, z), 1)], delta);
        assert!(found >= exact && found < exact * 1.001, "{found}, exactly {exact}: q = {q}, z = {z}");
    }
}

#[test]
fn composition_knows_no_order_and_no_grouping() {
    let (a, b, c) = (gaussian_event(0.01, 1.0), gaussian_event(0.2, 4.0), gaussian_event(1.0, 30.0));
    let together = [(a, 300), (b, 20), (c, 5)];
    let apart = [(c, 2), (a, 100), (b, 20), (c, 3), (a, 200), (b, 0)];
    let close = |x: f64, y: f64| assert!((x / y - 1.0).abs() < 1e-6, "{x}, {y}");
    close(epsilon_rdp(&together, 1e-5), epsilon_rdp(&apart, 1e-5));
    close(pld::epsilon(&together, 1e-5), pld::epsilon(&apart, 1e-5));
    let unsampled = |m, n| zcdp::epsilon(&[(c, m), (gaussian_event(1.0, 7.0), 3), (c, n)], 1e-5);
    close(unsampled(5, 0), unsampled(2, 3));
    // Nothing released costs nothing, and a release with q = 0 is none.
    for nothing in [&[][..], &[(a, 0)], &[(gaussian_event(0.0, 1.0), 9)]] {
        assert_eq!(pld::epsilon(nothing, 1e-5), 0.0);
        // Orders that end at 1024 leave a little.
        assert!(epsilon_rdp(nothing, 1e-5) < 0.004);
    }
    assert_eq!(zcdp::epsilon(&[], 1e-5), 0.0);
}

#[test]
fn a_sum_of_discrete_gaussians_pays_for_not_being_one() {
    // At sg = 1 tau is large enough to be seen; without its term, or with the plain variance, this would be the Gaussian.
    let (share_variance, shares, dimension, rounds) = (1.0, 10, 3, 4);
    for q in [1.0, 0.2] {
        let sum = Event::DiscreteGaussianSum {
            sampling_probability: q,
            l2_sensitivity: 2.0,
            l1_sensitivity: 2.0,
            share_variance,
            shares,
            dimension,
        };
        let z = (f64::from(shares) * share_variance - 4.0).sqrt() / 2.0;
        let narrower = pld::epsilon(&[(gaussian_event(q, z), rounds)], 1e-5);
        let distance = rounds as f64 * 2.0 * f64::from(dimension) * tau(share_variance, shares);
        assert!(distance > 0.01, "{distance}");
        let found = pld::epsilon(&[(sum, rounds)], 1e-5);
        assert!((found - narrower - distance).abs() < 1e-9, "{found} = {narrower} + {distance}");
        let plain = gaussian_event(q, (f64::from(shares) * share_variance).sqrt() / 2.0);
        assert!(epsilon_rdp(&[(sum, rounds)], 1e-5) > epsilon_rdp(&[(plain, rounds)], 1e-5) + 1e-3);
    }
}

#[test]
fn nothing_is_claimed_where_nothing_can_be() {
    for (q, z) in [(0.5, 0.0), (0.5, -1.0), (0.5, f64::NAN), (1.5, 1.0), (-0.1, 1.0), (f64::NAN, 1.0)] {
        for kind in ALL {
            assert_eq!(calibrate::epsilon(kind, z, q, 10, 1e-5), f64::INFINITY, "{kind:?}: q = {q}, z = {z}");
        }
    }
    for delta in [0.0, 1.0, -1.0, f64::NAN] {
        for kind in ALL {
            assert_eq!(calibrate::epsilon(kind, 1.0, 1.0, 10, delta), f64::INFINITY, "{kind:?}: delta = {delta}");
        }
    }
    // Noise so small that no continuous Gaussian is below it.
    let few = Event::DiscreteGaussianSum {
        sampling_probability: 1.0,
        l2_sensitivity: 1.0,
        l1_sensitivity: 1.0,
        share_variance: 2.0,
        shares: 2,
        dimension: 1,
    };
    assert_eq!(pld::epsilon(&[(few, 1)], 1e-5), f64::INFINITY);
    assert_eq!(calibrate::epsilon(AccountantKind::Zcdp, 1.0, 0.5, 1, 1e-5), f64::INFINITY);
    assert_eq!(pld::epsilon(&[(gaussian_event(0.01, 1.0), u64::MAX)], 1e-5), f64::INFINITY);
}

#[test]
fn the_least_noise_keeps_its_promise_and_a_little_less_breaks_it() {
    for accountant in ALL {
        let q = if accountant == AccountantKind::Zcdp { 1.0 } else { 0.25 };
        let target = Target { epsilon: 4.0, delta: 1e-5, rounds: 150, sampling_probability: q, accountant };
        let z = calibrate::noise_multiplier(&target).expect("possible");
        let epsilon = |z| calibrate::epsilon(accountant, z, q, 150, 1e-5);
        assert!(epsilon(z) <= 4.0 && epsilon(z / 1.0011) > 4.0, "{accountant:?}: {z}");
    }
    // The demo's arithmetic: z = 3.714 by Renyi divergences, 3.465 by privacy losses.
    let z = |accountant| {
        let target = Target { epsilon: 4.0, delta: 1e-5, rounds: 150, sampling_probability: 0.25, accountant };
        calibrate::noise_multiplier(&target).expect("possible")
    };
    assert!((z(AccountantKind::Rdp) / 3.714 - 1.0).abs() < 1.2e-3, "{}", z(AccountantKind::Rdp));
    assert!((z(AccountantKind::Pld) / 3.465 - 1.0).abs() < 1.2e-3, "{}", z(AccountantKind::Pld));
}

#[test]
fn hopeless_targets_are_refused() {
    let target =
        Target { epsilon: 1.0, delta: 1e-5, rounds: 100, sampling_probability: 0.5, accountant: AccountantKind::Rdp };
    let refused = |target: Target| calibrate::noise_multiplier(&target).expect_err("refused");
    let what = |target: Target| match refused(target) {
        CalibrationError::Range { what, .. } => what,
        other => panic!("{other}"),
    };
    assert_eq!(what(Target { epsilon: 0.0, ..target }), "epsilon");
    assert_eq!(what(Target { epsilon: f64::NAN, ..target }), "epsilon");
    assert_eq!(what(Target { delta: 1.0, ..target }), "delta");
    assert_eq!(what(Target { rounds: 0, ..target }), "rounds");
    assert_eq!(what(Target { sampling_probability: 0.0, ..target }), "sampling probability");
    assert_eq!(refused(Target { accountant: AccountantKind::Zcdp, ..target }), CalibrationError::Sampled(0.5));
    // The orders end at 1024: at delta 1e-300 not even endless noise is worth less than 0.6.
    let error = refused(Target { epsilon: 0.1, delta: 1e-300, ..target });
    assert!(matches!(error, CalibrationError::Unreachable { max, .. } if max == NOISE_MULTIPLIER_MAX), "{error}");
}
