use super::*;
use crate::{Accountant, Mechanism, NoiseVariance, RdpCurve, View};

fn demo_target() -> RecordTarget {
    RecordTarget {
        groups: Groups::default(),
        l2_clip_norm: 1.0,
        n_parameters: 121_930,
        sampling_probability: Probability::new(1, 4).expect("a probability"),
        expected_lot: 1500,
        record_bound: 750,
        local: None,
        n_max: 8,
        u_min: 7,
        max_colluders: 1,
        max_attempts: 155,
        noise: NoiseTarget::Distributed { epsilon: 4.0 },
        delta: 1e-5,
    }
}

fn promising(epsilon: f64) -> RecordTarget {
    RecordTarget { noise: NoiseTarget::Distributed { epsilon }, ..demo_target() }
}

fn share_variance(parameters: &RecordParameters) -> NoiseVariance {
    parameters.noise.share_variance().expect("noise")
}

#[test]
fn the_demos_arithmetic_comes_out() {
    let mechanism = design(&demo_target()).expect("reachable");
    let p = mechanism.parameters();
    assert_eq!((p.d_pad, p.records_per_round, p.shift, p.bits), (1 << 17, 274, 17, 23));
    assert_eq!(mechanism.sensitivity_squared(), (1 << 17) * 129 * 129);
    assert_eq!(mechanism.promised_shares(), 6);
    let share = share_variance(p).deviation() / mechanism.l2_sensitivity();
    assert!((share - 1.540).abs() < 1e-6, "sg = {share} Delta2");
    assert!((mechanism.epsilon() - 3.9971).abs() < 5e-5, "epsilon {}", mechanism.epsilon());
    // All live: 4.36 in total, and outsiders see one share more than the headline.
    assert!((mechanism.noise_multiplier(8) - 4.36).abs() < 0.005);
    let headline = mechanism.attained_epsilon(View::CoordinatorWithColluders, &[8; 155], 1e-5);
    let outsider = mechanism.attained_epsilon(View::Outsider, &[8; 155], 1e-5);
    assert!(outsider < headline && headline < mechanism.epsilon());
    assert_eq!(mechanism.attained_epsilon(View::CoordinatorWithColluders, &[7; 155], 1e-5), mechanism.epsilon());
    assert_eq!(mechanism.attained_epsilon(View::Outsider, &[8, 6], 1e-5), f64::INFINITY);
}

#[test]
fn the_specifications_figures_for_the_demo_come_out() {
    // PRIVACY.md: z = 3.72: 3.992 over 150 rounds; for exactly 4: 3.714, over 155: 3.770.
    let check = |z: f64, rounds: u64, expected: f64| {
        let mut accountant = Accountant::new();
        let event = Event::PoissonGaussian { sampling_probability: 0.25, noise_multiplier: z };
        accountant.compose(&event, rounds);
        assert!((accountant.epsilon(1e-5) - expected).abs() < 5e-4, "z = {z}: {}", accountant.epsilon(1e-5));
    };
    check(3.72, 150, 3.992);
    check(3.714, 150, 4.0);
    check(3.770, 155, 4.0);
    let curve = Event::PoissonGaussian { sampling_probability: 0.25, noise_multiplier: 3.72 }.rdp();
    let mut total = RdpCurve::default();
    total.add(&curve, 150);
    assert_eq!(total.best_order(1e-5), 6);
}

#[test]
fn a_share_for_the_planned_cohort_or_over_n_breaks_the_promise() {
    // PRIVACY.md, noise: z/sqrt(n) each would give 3.99 to an outsider, 4.35 to another silo, 4.76 with one drop; these
    // are at z = 3.72 and 150 rounds.
    let epsilon = |shares: f64, z: f64| {
        let mut accountant = Accountant::new();
        let noise_multiplier = z * (shares / 8.0).sqrt();
        accountant.compose(&Event::PoissonGaussian { sampling_probability: 0.25, noise_multiplier }, 150);
        accountant.epsilon(1e-5)
    };
    assert!((epsilon(8.0, 3.72) - 3.99).abs() < 0.01);
    assert!((epsilon(7.0, 3.72) - 4.35).abs() < 0.01);
    assert!((epsilon(6.0, 3.72) - 4.76).abs() < 0.01);

    let good = design(&demo_target()).expect("reachable");
    let z = good.promised_noise_multiplier();
    assert!(good.reaches(z * (1.0 - 1e-12)) && !good.reaches(z * 1.001));
    let with_total = |divisor: u64| {
        // The total noise z^2 Delta2^2 that t_min = 6 shares must reach, cut into `divisor` instead.
        let numerator = share_variance(good.parameters()).numerator() * 6 / divisor;
        let noise = Noise::Distributed(NoiseVariance::from_numerator(numerator).expect("in range"));
        RecordMechanism::new(RecordParameters { noise, ..good.parameters().clone() })
    };
    for (what, divisor) in [("planned cohort", 8), ("k = 0", 7)] {
        let bad = with_total(divisor).expect("well formed");
        assert!(bad.epsilon() > 4.1, "{what}: epsilon {}", bad.epsilon());
        assert!(!bad.reaches(z * (1.0 - 1e-12)), "{what}");
    }
    // Over n instead of sqrt n so little noise is left that nothing can be claimed at all.
    assert!(matches!(with_total(64), Err(MechanismError::Unbounded { .. })));
}

#[test]
fn the_encoding_is_golden_and_comes_back() {
    let mechanism = design(&demo_target()).expect("reachable");
    let bytes = mechanism.encode();
    assert_eq!(RecordMechanism::decode(&bytes), Ok(mechanism));
    let golden = concat!(
        "220000006572616e6f732f707269766163792f7265636f72642d6d656368616e69736d2f7631",
        "08000000000000000000f03f", // C = 1.0
        "0400000000000001",         // K = 2^24
        "0100000011",               // e = 17
        "040000004adc0100",         // 121,930
        "0400000000000200",         // 2^17
        "020000000700020000000100020000000800",
        "0400000012010000", // B_max = 274
        "04000000dc050000", // L = 1500
        "080000000100000000000000080000000400000000000000",
        "04000000ee020000", // 750
    );
    let found: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(&found[..golden.len()], golden);
    assert_eq!(&found[golden.len() + 24..], "0100000017040000009b00000008000000f168e388b5f8e43e");
}

#[test]
fn without_noise_nothing_is_promised_and_the_encoding_says_so_first() {
    let mechanism = design(&RecordTarget { noise: NoiseTarget::None, ..demo_target() }).expect("reachable");
    let p = mechanism.parameters();
    // The rounded sum alone: as many records in a round, and the bits of their sum.
    assert_eq!((p.noise, p.records_per_round, p.shift, p.bits), (Noise::None, 274, 17, 23));
    assert!(!mechanism.has_noise() && mechanism.wrap_probability() <= 1e-9);
    let fewer = RecordParameters { bits: 22, ..p.clone() };
    assert_eq!(RecordMechanism::new(fewer), Err(MechanismError::TooFewBits { found: 22, needed: 23 }));
    assert_eq!((mechanism.epsilon(), mechanism.promised_noise_multiplier()), (f64::INFINITY, 0.0));
    assert!(!mechanism.reaches(1e-9));
    for view in [View::CoordinatorWithColluders, View::Outsider] {
        assert_eq!(mechanism.attained_epsilon(view, &[8], 1e-5), f64::INFINITY);
    }
    let bytes = mechanism.encode();
    let head = Canonical::new(DOMAIN_V2).text("none").f64(1.0).finish();
    assert_eq!(bytes[..head.len()], head);
    assert_eq!(RecordMechanism::decode(&bytes), Ok(mechanism.clone()));
    // One mechanism has one encoding, and none of version 1 lacks its noise.
    let noisy = design(&demo_target()).expect("reachable").encode();
    let body = |bytes: &[u8]| bytes[Canonical::new(DOMAIN).finish().len()..].to_vec();
    for (domain, name, body) in [
        (DOMAIN_V2, Some("distributed"), body(&noisy)),
        (DOMAIN_V2, Some("local"), body(&noisy)),
        (DOMAIN_V2, None, body(&noisy)),
        (DOMAIN_V2, Some("none"), body(&noisy)),
        (DOMAIN, None, body(&bytes)),
        (DOMAIN, None, bytes[head.len() - 12..].to_vec()),
    ] {
        let head = Canonical::new(domain);
        let head = name.map_or(head.clone(), |name| head.text(name)).finish();
        assert!(RecordMechanism::decode(&[head, body].concat()).is_err(), "{domain} {name:?}");
    }
}

#[test]
fn a_silos_own_steps_are_accounted_one_by_one_with_one_share_each() {
    let local = SiloTraining { steps: 5, learning_rate: 0.5, update_clip_norm: 2.0 };
    let target = RecordTarget {
        expected_lot: 187,
        n_parameters: 1000,
        local: Some(local),
        noise: NoiseTarget::Local { epsilon: 8.0 },
        ..demo_target()
    };
    let m = design(&target).expect("reachable");
    let p = m.parameters();
    assert_eq!((m.promised_shares(), p.d_pad, p.records_per_round), (1, 1024, 274));
    // Steps times attempts, each with a cut of its own: 5 x 155.
    let z = share_variance(p).deviation() / m.l2_sensitivity();
    let event = Event::PoissonGaussian { sampling_probability: 0.25, noise_multiplier: z };
    let epsilon = |n_steps: u64| {
        let mut accountant = Accountant::new();
        accountant.compose_curve(&event.rdp(), n_steps, SAMPLE_TAIL_MAX);
        accountant.epsilon(1e-5)
    };
    assert!((m.epsilon() / epsilon(775) - 1.0).abs() < 1e-9, "{}, expected {}", m.epsilon(), epsilon(775));
    assert!(m.epsilon() <= 8.0 && m.epsilon() > 7.9 && epsilon(155) < 0.6 * m.epsilon());
    for view in [View::CoordinatorWithColluders, View::Outsider] {
        assert_eq!((m.shares(view, 8), m.shares(view, 6)), (Some(1), None));
        assert_eq!(m.attained_epsilon(view, &[8; 155], 1e-5), m.epsilon());
    }
    // The bits are those of the sum of updates.
    assert!(p.bits < 16 && m.wrap_probability() <= 1e-9, "{}", p.bits);
    assert!(Mechanism::from(m.clone()).sums_updates());

    let bytes = m.encode();
    assert_eq!(Mechanism::decode(&bytes), Ok(m.clone().into()));
    let head = Canonical::new(DOMAIN_V2).text("local").f64(1.0).finish();
    assert_eq!(bytes[..head.len()], head);
    for len in 0..bytes.len() {
        assert!(Mechanism::decode(&bytes[..len]).is_err());
    }
    let refused = |change: fn(&mut RecordParameters), says: &str| {
        let mut p = m.parameters().clone();
        change(&mut p);
        let error = RecordMechanism::new(p).expect_err(says).to_string();
        assert!(error.contains(says), "{error}, expected {says}");
    };
    refused(|p| p.local = None, "with noise = local, and only there");
    refused(|p| p.noise = Noise::Distributed(share_variance(p)), "with noise = local, and only there");
    refused(|p| p.noise = Noise::None, "with noise = local, and only there");
    let training = |p: &mut RecordParameters, change: fn(&mut SiloTraining)| {
        if let Some(local) = &mut p.local {
            change(local);
        }
    };
    refused(|p| p.bits -= 1, "bits");
    let mut p = m.parameters().clone();
    for change in [
        (|local| local.steps = 0) as fn(&mut SiloTraining),
        |local| local.learning_rate = f64::NAN,
        |local| local.update_clip_norm = 0.0,
    ] {
        p.local = m.parameters().local;
        training(&mut p, change);
        assert!(matches!(RecordMechanism::new(p.clone()), Err(MechanismError::Range { .. })), "{:?}", p.local);
    }
    // What is measured would leave a silo without noise.
    let groups = Groups::new(Some(crate::groups::Metrics::new(4.0, 0.01).expect("shares")), None).expect("groups");
    let error = RecordMechanism::new(RecordParameters { groups, ..m.parameters().clone() }).expect_err("groups");
    assert!(matches!(error, MechanismError::NotRun { .. }), "{error}");
}

/// A change to the demo's parameters, and what the refusal must say.
fn refused(change: impl FnOnce(&mut RecordParameters), says: &str) {
    let mut parameters = design(&demo_target()).expect("reachable").parameters().clone();
    change(&mut parameters);
    match RecordMechanism::new(parameters.clone()) {
        Ok(_) => panic!("accepted, expected a refusal for {says}"),
        Err(error) => assert!(error.to_string().contains(says), "{error}, expected {says}"),
    }
    // What is refused when built is refused when read.
    assert!(RecordMechanism::decode(&RecordMechanism(parameters).encode()).is_err());
}

#[test]
fn every_refusal_of_the_specification_is_made() {
    let variance = |numerator| NoiseVariance::from_numerator(numerator).expect("in range");
    for clip in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e-300, 1e300] {
        refused(|p| p.l2_clip_norm = clip, "l2_clip_norm");
    }
    refused(|p| p.grid = 1 << 23, "grid");
    refused(|p| p.shift = 16, "shift");
    refused(|p| p.shift = 22, "shift");
    refused(|p| p.shift = 18, "17 would do");
    refused(|p| p.n_parameters = 0, "n_parameters");
    refused(|p| (p.n_parameters, p.d_pad) = ((1 << 26) + 1, 1 << 27), "n_parameters");
    refused(|p| p.d_pad = 1 << 18, "d_pad");
    refused(|p| p.d_pad = 1 << 16, "d_pad");
    refused(|p| p.max_colluders = 0, "max_colluders");
    refused(|p| p.u_min = 2, "at least 2 honest");
    refused(|p| p.max_colluders = 6, "at least 2 honest");
    refused(|p| p.max_colluders = 7, "at least 2 honest");
    refused(|p| p.u_min = 9, "u_min");
    refused(|p| p.records_per_round = 273, "exceeds 273");
    refused(|p| p.records_per_round = 0, "records_per_round");
    refused(|p| p.records_per_round = 751, "records_per_round");
    refused(|p| p.record_bound = 800, "exceeds 274");
    refused(|p| p.sampling_probability = Probability::new(1, 3).expect("valid"), "exceeds 274");
    refused(|p| p.expected_lot = 0, "expected_lot");
    refused(|p| p.noise = Noise::Distributed(variance((16 << 10) - 1)), "noise_deviation");
    refused(|p| p.bits = 22, "needs 23");
    refused(|p| p.bits = 33, "bits");
    refused(|p| p.max_attempts = 0, "max_attempts");
    for delta in [0.0, -1e-5, 1.5, f64::NAN] {
        refused(|p| p.delta = delta, "delta");
    }
    // The attempts' cut samples alone use up this delta.
    refused(|p| p.delta = 1e-11, "unbounded");
    let wide = |p: &mut RecordParameters| {
        (p.n_parameters, p.d_pad) = (1 << 26, 1 << 26);
        p.sampling_probability = Probability::ONE;
        (p.record_bound, p.records_per_round) = (1 << 25, 1 << 25);
    };
    refused(wide, "2^62");
    assert_eq!(NoiseVariance::from_numerator(1 << 50), None);
    for (numerator, denominator) in [(0, 4), (2, 4), (5, 4), (1, 0), (0, 0)] {
        assert!(Probability::new(numerator, denominator).is_err(), "{numerator}/{denominator}");
    }
}

#[test]
fn a_larger_shift_is_taken_only_where_it_is_needed() {
    // The noise of a tight promise at d = 2^26 does not fit sg < 2^20 at e = 17.
    let target = RecordTarget { n_parameters: 1 << 26, u_min: 3, n_max: 4, ..promising(2.0) };
    let mechanism = design(&target).expect("reachable");
    assert!(mechanism.parameters().shift > 17, "{:?}", mechanism.parameters());
    assert_eq!(
        design(&RecordTarget { noise: NoiseTarget::Distributed { epsilon: 1e-3 }, ..target })
            .map_err(|e| e.to_string())
            .err()
            .as_deref(),
        { Some("no noise below 2^20 and 32 bits reaches epsilon 0.001 at delta 1e-5") }
    );
}

#[test]
fn sampling_everything_needs_no_dummies_and_no_cut() {
    let target = RecordTarget { sampling_probability: Probability::ONE, ..promising(21.0) };
    let mechanism = design(&target).expect("reachable");
    assert_eq!(mechanism.parameters().records_per_round, 750);
    assert_eq!(mechanism.cut_probability(), 0.0);
    // PRIVACY.md: at q = 1 the demo's noise costs 21 instead of 4.
    let parameters = RecordParameters {
        noise: design(&demo_target()).expect("reachable").parameters().noise,
        ..mechanism.parameters().clone()
    };
    let epsilon = RecordMechanism::new(parameters).expect("valid").epsilon();
    assert!((20.0..22.0).contains(&epsilon), "{epsilon}");
}

#[test]
fn a_probability_is_never_rounded_down() {
    let check = |numerator, denominator| {
        let q = Probability::new(numerator, denominator).expect("valid");
        let scaled = (q.to_f64() * (1u64 << 53) as f64) as u128;
        assert!(scaled * u128::from(denominator) + u128::from(denominator) > u128::from(numerator) << 53);
        assert!(q.to_f64() <= 1.0);
    };
    check(1, 4);
    check(1, 3);
    check(u64::MAX - 1, u64::MAX);
    check(1, u64::MAX);
    assert_eq!(Probability::new(1, 4).expect("valid").to_f64(), 0.25);
}

#[test]
fn no_bytes_make_the_decoder_panic_and_what_it_accepts_it_writes_back() {
    use eranos_base::{Entropy, SeededEntropy};
    let good = design(&demo_target()).expect("reachable").encode();
    let mut entropy = SeededEntropy::new(5);
    let mut n_accepted = 0;
    for round in 0..4000 {
        let mut bytes = good.clone();
        match round % 3 {
            0 => {
                for _ in 0..=entropy.bytes::<1>()[0] % 3 {
                    let at = usize::from(u16::from_le_bytes(entropy.bytes())) % bytes.len();
                    bytes[at] ^= 1 << (entropy.bytes::<1>()[0] % 8);
                }
            }
            1 => bytes.truncate(usize::from(u16::from_le_bytes(entropy.bytes())) % bytes.len()),
            _ => {
                // Keeps the domain, so that the fields are read.
                let domain = 4 + DOMAIN.len();
                entropy.fill(&mut bytes[domain..]);
            }
        }
        if let Ok(mechanism) = RecordMechanism::decode(&bytes) {
            n_accepted += 1;
            assert_eq!(mechanism.encode(), bytes, "seed 5, round {round}");
            assert!(mechanism.epsilon().is_finite());
        }
    }
    // A flipped bit of the clip, the lot or the noise is another sound mechanism: signatures are what guards those.
    assert!(n_accepted > 10, "{n_accepted}");
    for len in 0..good.len() {
        assert!(RecordMechanism::decode(&good[..len]).is_err());
    }
    assert!(RecordMechanism::decode(&[good.as_slice(), &[0]].concat()).is_err());
}
