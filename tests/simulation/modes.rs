//! The modes of privacy: what is protected, and who adds the noise. Whole rounds in which clients put in what their mode
//! asks for, and plans of one mode for clients that demand another.

use std::sync::Arc;

use eranos_client::{
    policy::Unit,
    round::{End, RefusalKind},
    session::SessionError,
};
use eranos_ledger::Entry;
use eranos_nn::{Dataset, data::Files};
use eranos_privacy::{
    ClientMechanism, ClientParameters, Figures, Groups, Mechanism, Noise, NoiseVariance, Promise, RecordMechanism,
    RecordParameters, RotationSeed,
    accountant::Accountant,
    budget::{BudgetError, UnitOfPrivacy},
    groups::{AdaptiveClip, Metrics, Share},
    mechanism::{ClientTarget, LocalTraining, NoiseTarget, RecordTarget, SiloTraining, design_client},
    rotation::restore,
    update,
};
use eranos_secagg::GraphKind;

use super::{
    admission_attacks::rebudget,
    adversary::alter_answers,
    canaries::{flat_model, train},
    coordinator_attacks::{VICTIM, check_refusal},
    world::{ATTEMPTS_MAX, Client, DELTA, EPSILON, FIVE, World, mechanism, target},
};

fn of_client(noise: NoiseTarget) -> ClientMechanism {
    of_client_with(noise, Groups::default())
}

fn of_client_with(noise: NoiseTarget, groups: Groups) -> ClientMechanism {
    let training = LocalTraining { steps: 4, batch_size: 8, learning_rate: 0.5 };
    design_client(&ClientTarget {
        groups,
        l2_clip_norm: 1.0,
        n_parameters: 16,
        n_max: 5,
        u_min: FIVE.u_min,
        max_colluders: FIVE.f,
        training,
        max_attempts: ATTEMPTS_MAX,
        noise,
        delta: DELTA,
    })
    .unwrap()
}

const DISTRIBUTED: NoiseTarget = NoiseTarget::Distributed { epsilon: EPSILON };
const LOCAL: NoiseTarget = NoiseTarget::Local { epsilon: EPSILON };

fn world(seed: u64, mechanism: &ClientMechanism) -> World {
    World::of(mechanism.clone().into(), GraphKind::Complete, seed, FIVE)
}

/// Begins a round in which every client puts in the same update.
fn begin(world: &mut World, number: u64, mechanism: &ClientMechanism, update: &[f64]) -> RotationSeed {
    world.begin(number);
    // The rotation is the plan's, which the coordinator draws when the cohort is complete.
    world.run_until(|world| world.coordinator.plan.is_some());
    let rotation = RotationSeed(world.coordinator.plan.as_ref().unwrap().rotation_seed);
    for client in &mut world.clients {
        client.contribution =
            update::contribute(update, &Figures::default(), mechanism, &rotation, &mut world.dice.0).unwrap();
    }
    rotation
}

#[test]
fn a_client_level_round_releases_the_noised_mean_and_is_charged_and_audited_as_one() {
    for (seed, noise) in [(61, DISTRIBUTED), (62, LOCAL)] {
        let mechanism = of_client(noise);
        let mut world = world(seed, &mechanism);
        // Twice as long as the clip: its mean comes back at the clip's length.
        let update: Vec<f64> = (0..16).map(|i| if i % 2 == 0 { 0.5 } else { -0.5 }).collect();
        let rotation = begin(&mut world, 1, &mechanism, &update);
        world.run();
        world.check("client level", &[]);
        assert!(world.settled_without(&[]), "{:?}", world.coordinator.abandoned);
        let released = world.coordinator.released.clone().unwrap();
        let n = released.survivors.len() as u32;
        let mean = restore(&released.residues, &mechanism, &rotation, n).unwrap();
        // Noise and rounding of all that are in the sum, each coordinate alike.
        let p = mechanism.parameters();
        let variance = f64::from(n) * (p.noise.share_variance().unwrap().to_f64() + 0.25);
        let deviation = variance.sqrt() / (f64::from(p.scaled_clip) * f64::from(n));
        for (i, found) in mean.iter().enumerate() {
            let error = f64::from(*found) - update[i] / 2.0;
            assert!(error.abs() < 6.0 * deviation + 1e-3, "{i}: {found}, noise {deviation}, seed {seed}");
        }
        for client in &world.clients {
            let spent = [UnitOfPrivacy::Client, UnitOfPrivacy::Record].map(|unit| client.budget.epsilon_spent_of(unit));
            assert_eq!(spent[0], mechanism.promised_epsilon(1, DELTA));
            match noise {
                // To each record it is a replacement, at half the multiplier.
                NoiseTarget::Distributed { .. } => assert!(spent[1] > spent[0], "{spent:?}"),
                // It is one to the client already.
                _ => assert_eq!(spent[1], spent[0]),
            }
        }
        let entry = world.coordinator.ledger.receipt(released.index, 0).unwrap().entry;
        let attachment = world.coordinator.ledger.attachment(&entry).unwrap();
        let Entry::Attempt(attempt) = Entry::parse(&entry, attachment.as_deref()).unwrap() else {
            panic!("an attempt")
        };
        assert_eq!(attempt.mechanism, Mechanism::from(mechanism.clone()));
        assert_eq!(attempt.epsilons.coordinator, mechanism.promised_epsilon(1, DELTA));
        let text = String::from_utf8(entry).unwrap();
        let relation = if noise == LOCAL { "replace" } else { "zero-out" };
        assert!(text.contains(&format!("\nunit: client\nrelation: {relation}\n")), "{text}");
    }
}

/// A round of a federation of `planned` in which the victim is as `demand` leaves it, and refuses the plan.
fn refused(
    context: &str,
    planned: Mechanism,
    demand: impl FnOnce(&mut Client),
    expect: impl Fn(&RefusalKind) -> bool,
    next_step: &str,
) {
    let mut world = World::of(planned, GraphKind::Complete, 63, FIVE);
    demand(&mut world.clients[VICTIM]);
    world.begin(1);
    world.run();
    world.check(context, &[VICTIM]);
    check_refusal(&world, context, true, false, expect);
    let Some(End::Refused(refusal)) = &world.clients[VICTIM].end else { panic!("refused") };
    assert!(refusal.is_final(), "{context}");
    let shown = SessionError::Refused(refusal.clone()).user_error().to_string();
    assert!(shown.lines().count() == 2 && shown.contains(next_step), "{context}: {shown}");
    assert!(world.settled_without(&[VICTIM]), "{context}: {:?}", world.coordinator.abandoned);
}

const AGREE: &str = "change policy.toml if you agree";

#[test]
fn a_client_that_demands_its_own_protection_refuses_a_plan_for_records() {
    let records = mechanism(target(FIVE, 16));
    let demand = |client: &mut Client| {
        rebudget(client, UnitOfPrivacy::Client, EPSILON);
        client.member_mut().policy.unit = Unit::Client;
        // Nor does the permission to go without noise, or any limit, stand in for it.
        client.member_mut().policy.allow_no_noise = true;
        client.member_mut().policy.task_epsilon_max = f64::MAX;
        client.member_mut().policy.noise_multiplier_min = 0.0;
    };
    refused("records", records, demand, |kind| matches!(kind, RefusalKind::Unit), "a plan with unit = client");
}

#[test]
fn a_client_level_plan_beyond_the_policy_is_refused_in_each_dimension() {
    let check = |context: &str, demand: fn(&mut Client), expect: fn(&RefusalKind) -> bool| {
        refused(context, of_client(DISTRIBUTED).into(), demand, expect, AGREE);
    };
    check(
        "steps",
        |c| c.member_mut().policy.local_records_max = 31,
        |kind| matches!(kind, RefusalKind::TooMuch { what: "work of local training in records", .. }),
    );
    check(
        "learning rate",
        |c| c.member_mut().policy.local_learning_rate_max = 0.4,
        |kind| matches!(kind, RefusalKind::TooMuch { what: "learning rate of local training", .. }),
    );
    check(
        "noise",
        |c| c.member_mut().policy.noise_multiplier_min *= 1.001,
        |kind| matches!(kind, RefusalKind::TooLittle { what: "noise multiplier", .. }),
    );
    // Who counts on its own noise alone is not served by shares.
    check(
        "a local floor",
        |c| c.member_mut().policy.own_noise_multiplier_min = 0.99 * of_client(DISTRIBUTED).promised_noise_multiplier(),
        |kind| matches!(kind, RefusalKind::TooLittle { what: "noise multiplier of one's own noise", .. }),
    );
    // Whoever counts records pays for a replacement: what the task promises to clients is too little for them.
    check(
        "records at half the multiplier",
        |c| {
            rebudget(c, UnitOfPrivacy::Record, 2.0 * EPSILON);
            c.member_mut().policy.unit = Unit::Record;
            c.member_mut().policy.noise_multiplier_min = 0.0;
        },
        |kind| matches!(kind, RefusalKind::TooMuch { what: "epsilon of the task", found, .. } if *found > 2.0 * EPSILON),
    );
}

/// Loss, accuracy, and a clip that may move between a half and twice what it begins with.
fn all_groups() -> Groups {
    let share = Share::from_millionths(10_000).unwrap();
    let adaptive = AdaptiveClip { l2_clip_norm_min: 0.5, l2_clip_norm_max: 2.0, share };
    Groups::new(Some(Metrics::new(4.0, 0.01).unwrap()), Some(adaptive)).unwrap()
}

#[test]
fn rounds_whose_clip_adapts_are_charged_and_audited_as_one_mechanism() {
    let records = mechanism(RecordTarget { groups: all_groups(), ..target(FIVE, 16) });
    let clients = of_client_with(DISTRIBUTED, all_groups());
    for (seed, opened) in [(67, records), (68, clients.into())] {
        let mut world = World::of(opened.clone(), GraphKind::Complete, seed, FIVE);
        for (round, clip) in [(1, 1.0), (2, 0.5), (3, 2.0)] {
            Arc::get_mut(&mut world.setup).unwrap().mechanism = opened.with_clip(clip).unwrap();
            world.begin(round);
            world.run();
            world.check("adaptive", &[]);
            assert!(world.settled_without(&[]), "seed {seed}, {clip}: {:?}", world.coordinator.abandoned);
            for client in &world.clients {
                assert_eq!(client.budget.epsilon_spent(), opened.promised_epsilon(round as u32, DELTA), "seed {seed}");
            }
        }
    }
}

/// Silos that take three steps of their own in a round, each with all the noise that protects their records.
fn of_silos(n_parameters: usize, epsilon: f64) -> Mechanism {
    mechanism(RecordTarget {
        local: Some(SiloTraining { steps: 3, learning_rate: 0.5, update_clip_norm: 0.2 }),
        noise: NoiseTarget::Local { epsilon },
        expected_lot: 20,
        max_attempts: 4,
        ..target(FIVE, n_parameters)
    })
}

#[test]
fn silos_that_train_by_themselves_are_charged_and_audited_for_every_step() {
    let (model, records) = flat_model(3, 4);
    // So large a promise that the direction of what was learnt shows through the noise.
    let mechanism = of_silos(model.n_parameters(), 200.0);
    let mut world = World::training(70, FIVE, GraphKind::Complete, mechanism.clone(), model, records);
    for client in &mut world.clients {
        rebudget(client, UnitOfPrivacy::Record, 400.0);
        let policy = &mut client.member_mut().policy;
        (policy.task_epsilon_max, policy.epsilon_max) = (200.0, 400.0);
        // Each need trust nobody else's noise.
        policy.own_noise_multiplier_min = mechanism.promised_noise_multiplier();
        // Three steps of at most forty records.
        policy.local_records_max = 120;
        client.trains_ms = 300;
    }
    world.begin(1);
    assert!(world.run_until(|world| world.clients.iter().all(|client| client.job.is_some())));
    let mut rotation = None;
    for client in &mut world.clients {
        let job = client.job.take().unwrap();
        rotation = Some(job.rotation_seed);
        // Forty bright records of the last class.
        let own = Dataset::from_values(vec![255.0; 3 * 40], vec![3; 40], &[1, 3, 1]);
        client.contribution = train(Files::Idx(own), job);
    }
    world.run();
    world.check("silos", &[]);
    assert!(world.settled_without(&[]), "{:?}", world.coordinator.abandoned);
    let released = world.coordinator.released.clone().unwrap();
    let mean = restore(&released.residues, &mechanism, &rotation.unwrap(), 5).unwrap();
    // A change of the model, toward the class that all records have, no longer than an update may be.
    let of_class = |class: usize| mean.iter().skip(class).step_by(4).sum::<f32>();
    assert!((0..3).all(|class| of_class(3) > of_class(class)), "{mean:?}");
    assert!(mean.iter().map(|x| x * x).sum::<f32>().sqrt() < 0.21, "{mean:?}");

    // Three releases of one share each, amplified by nothing here: q is 1.
    let mut accountant = Accountant::new();
    accountant.compose(&mechanism.event(1), 3);
    for client in &world.clients {
        assert_eq!(client.budget.epsilon_spent(), accountant.epsilon(DELTA));
        assert_eq!(client.budget.epsilon_spent_of(UnitOfPrivacy::Client), f64::INFINITY);
    }
    let entry = world.coordinator.ledger.receipt(released.index, 0).unwrap().entry;
    let attachment = world.coordinator.ledger.attachment(&entry).unwrap();
    let Entry::Attempt(attempt) = Entry::parse(&entry, attachment.as_deref()).unwrap() else { panic!("an attempt") };
    assert_eq!(attempt.epsilons.coordinator, accountant.epsilon(DELTA));
    assert_eq!(attempt.epsilons.outsider, attempt.epsilons.coordinator, "nobody else's share counts");
    let text = String::from_utf8(entry).unwrap();
    for line in ["unit: record", "noise: local discrete gaussian", "local-steps: 3", "update-clip-norm: 0.2"] {
        assert!(text.contains(&format!("\n{line}\n")), "{line} in {text}");
    }
}

#[test]
fn a_silos_own_training_beyond_the_policy_is_refused() {
    let check = |context: &str, demand: fn(&mut Client), expect: fn(&RefusalKind) -> bool| {
        refused(context, of_silos(16, EPSILON), demand, expect, AGREE);
    };
    check(
        "steps",
        |c| c.member_mut().policy.local_records_max = 119,
        |kind| matches!(kind, RefusalKind::TooMuch { what: "work of local training in records", .. }),
    );
    check(
        "learning rate",
        |c| c.member_mut().policy.local_learning_rate_max = 0.4,
        |kind| matches!(kind, RefusalKind::TooMuch { what: "learning rate of local training", .. }),
    );
    check(
        "noise of one's own",
        |c| {
            // Of the same multiplier: nobody else's share counts in either.
            let multiplier = of_silos(16, EPSILON).promised_noise_multiplier();
            c.member_mut().policy.own_noise_multiplier_min = 1.001 * multiplier;
        },
        |kind| matches!(kind, RefusalKind::TooLittle { what: "noise multiplier of one's own noise", .. }),
    );
    // More steps of the same noise cost more, and the client reckons that itself.
    let Mechanism::Record(honest) = of_silos(16, EPSILON) else { panic!("unit = record") };
    let p = honest.parameters().clone();
    let local = p.local.map(|local| SiloTraining { steps: 4, ..local });
    let more = Mechanism::from(RecordMechanism::new(RecordParameters { local, ..p }).unwrap());
    let mut world = World::of(of_silos(16, EPSILON), GraphKind::Complete, 71, FIVE);
    alter_answers(&mut world, VICTIM, move |adversary, answer, _| {
        adversary.replan(answer, |plan| plan.mechanism = more.clone());
    });
    world.begin(1);
    world.run();
    world.check("a step more", &[VICTIM]);
    check_refusal(&world, "a step more", true, false, |kind| {
        matches!(kind, RefusalKind::TooMuch { what: "epsilon of the task", .. })
    });
}

#[test]
fn groups_that_a_plan_changes_in_the_middle_of_a_session_are_refused() {
    let opened = mechanism(RecordTarget { groups: all_groups(), ..target(FIVE, 16) });
    let Mechanism::Record(record) = &opened else { panic!("unit = record") };
    // More for the metrics, so less for the model; another bound on the loss; wider bounds on the clip.
    let altered: [fn(&mut Groups); 3] = [
        |groups| *groups = Groups::new(Some(Metrics::new(4.0, 0.02).unwrap()), groups.adaptive_clip).unwrap(),
        |groups| groups.metrics.as_mut().unwrap().loss_max = 8.0,
        |groups| groups.adaptive_clip.as_mut().unwrap().l2_clip_norm_max = 4.0,
    ];
    for change in altered {
        let mut p = record.parameters().clone();
        change(&mut p.groups);
        let other = Mechanism::from(RecordMechanism::new(p).unwrap());
        let mut world = World::of(opened.clone(), GraphKind::Complete, 69, FIVE);
        world.begin(1);
        world.run();
        assert!(world.settled_without(&[]));
        alter_answers(&mut world, VICTIM, move |adversary, answer, _| {
            adversary.replan(answer, |plan| plan.mechanism = other.clone());
        });
        world.begin(2);
        world.run();
        world.check("other groups", &[VICTIM]);
        check_refusal(&world, "other groups", true, false, |kind| {
            matches!(kind, RefusalKind::Budget(BudgetError::OtherMechanism))
        });
    }
}

#[test]
fn local_noise_meets_a_local_floor() {
    let local = of_client(LOCAL);
    let mut world = world(64, &local);
    for client in &mut world.clients {
        client.member_mut().policy.own_noise_multiplier_min = local.promised_noise_multiplier();
    }
    begin(&mut world, 1, &local, &[0.1; 16]);
    world.run();
    world.check("local", &[]);
    assert!(world.settled_without(&[]));
}

#[test]
fn one_client_alone_is_not_given_a_weaker_plan() {
    // The plan to the victim alone: a third of the noise; shares where the task has local noise; no noise; and the same
    // noise, said to be local, which would count one share against twice the sensitivity.
    let weaker = |noise: fn(NoiseVariance) -> Noise| {
        let p = of_client(DISTRIBUTED).parameters().clone();
        let noise = noise(p.noise.share_variance().unwrap());
        ClientMechanism::new(ClientParameters { noise, ..p })
    };
    let third =
        |variance: NoiseVariance| Noise::Distributed(NoiseVariance::from_numerator(variance.numerator() / 9).unwrap());
    let cases = [
        ("a third", weaker(third).unwrap(), of_client(DISTRIBUTED)),
        ("said to be local", weaker(Noise::Local).unwrap(), of_client(DISTRIBUTED)),
        ("no noise", of_client(NoiseTarget::None), of_client(DISTRIBUTED)),
    ];
    for (context, given, task) in cases {
        let mut world = world(65, &task);
        alter_answers(&mut world, VICTIM, move |adversary, answer, _| {
            adversary.replan(answer, |plan| plan.mechanism = given.clone().into());
        });
        world.begin(1);
        world.run();
        world.check(context, &[VICTIM]);
        check_refusal(&world, context, true, false, |kind| {
            matches!(kind, RefusalKind::TooMuch { what: "epsilon of the task", .. } | RefusalKind::NoNoise)
        });
        assert!(world.settled_without(&[VICTIM]), "{context}: {:?}", world.coordinator.abandoned);
    }
}
