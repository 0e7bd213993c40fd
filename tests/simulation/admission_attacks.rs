//! A coordinator that signs with its real ledger key, before the first key leaves a client: whom it admits, what it says
//! it has received, its plan with the model and the records. The client refuses, says why, and notes it durably.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use eranos_base::{Context, Position, RoundNumber, SessionId, SigningKey, StatementKind, Timestamp};
use eranos_client::round::{self as client, End, RefusalKind};
use eranos_coordinator::round as coordinator;
use eranos_nn::{
    DataSpec,
    data::{
        Form, Schema,
        schema::{Input, Label},
        text::{Side, Tokenizer, TokenizerSettings},
    },
};
use eranos_privacy::{
    Budget,
    budget::{BudgetError, Terms, UnitOfPrivacy},
    mechanism::{NoiseTarget, RecordTarget},
};
use eranos_wire::{
    Answer, Request, RoundPlan,
    messages::{
        RoundRef,
        configure::Debit,
        select::{ComeBack, ComeBackLater},
    },
};

use super::{
    adversary::{Adversary, alter_answers},
    coordinator_attacks::{Expect, VICTIM, check_refusal, deceive, refusal_to_admit},
    secrecy::replaced,
    world::{
        ATTEMPTS_MAX, Client, DELAY_MS_MAX, DELTA, Did, EPSILON, FIVE, PHASE_TIMEOUT_MS, World, mechanism, model,
        records, target,
    },
};

// Admission.

#[test]
fn a_client_is_sent_away_by_the_pinned_key_alone() {
    let hear = |refusal: fn(&World) -> ComeBackLater| {
        let mut world = World::new(27, FIVE);
        let refusal = refusal(&world);
        alter_answers(&mut world, VICTIM, move |_, answer, _| {
            if matches!(answer, Answer::Configure(_)) {
                *answer = refusal.clone().into();
            }
        });
        world.begin(1);
        world.run();
        world
    };
    let world = hear(|world| refusal_to_admit(world, VICTIM, ComeBack::Never));
    let sent_away = End::ComeBackLater { when: ComeBack::Never, reason: "no".into() };
    assert_eq!(world.clients[VICTIM].end, Some(sent_away));

    type Forge = (&'static str, fn(&World) -> ComeBackLater);
    let forged: [Forge; 5] = [
        ("another key", |world| {
            let honest = refusal_to_admit(world, VICTIM, ComeBack::Never);
            let key = SigningKey::from_seed(&[9; 32]);
            ComeBackLater::sign(&key, honest.round, &world.peer(VICTIM).id, honest.when, honest.reason)
        }),
        ("another client's", |world| refusal_to_admit(world, VICTIM + 1, ComeBack::Never)),
        ("later made never", |world| {
            let honest = refusal_to_admit(world, VICTIM, ComeBack::AfterMs(5));
            ComeBackLater { when: ComeBack::Never, ..honest }
        }),
        ("another reason", |world| {
            let honest = refusal_to_admit(world, VICTIM, ComeBack::Never);
            ComeBackLater { reason: "your data are bad".into(), ..honest }
        }),
        ("another round's", |world| {
            let honest = refusal_to_admit(world, VICTIM, ComeBack::Never);
            ComeBackLater { round: RoundRef { round: RoundNumber(2), ..honest.round }, ..honest }
        }),
    ];
    for (context, forge) in forged {
        let world = hear(forge);
        check_refusal(&world, context, false, false, |kind| {
            matches!(kind, RefusalKind::NotSigned { what: "refusal to admit this client" })
        });
        let Some(End::Refused(refusal)) = &world.clients[VICTIM].end else { unreachable!() };
        assert!(!refusal.is_final(), "{context}: whoever forges refusals ends no client");
    }
}

/// When the last masked vector was sent.
fn last_sent(world: &World) -> Timestamp {
    let sent = world.clients.iter().flat_map(|client| &client.did).filter_map(|did| match did {
        Did::Sent { at, request: Request::MaskedInput(_), .. } => Some(*at),
        _ => None,
    });
    sent.max().unwrap()
}

#[test]
fn a_client_restored_from_an_older_copy_refuses() {
    use coordinator::Phase;
    for (context, stopped_in) in [
        ("released", None),
        ("aborted while vectors come", Some(Phase::MaskedInput)),
        ("aborted when all have come", Some(Phase::Consistency)),
    ] {
        let mut world = World::new(28, FIVE);
        world.begin(1);
        world.run();
        assert!(world.settled_without(&[]));
        let copy = (world.clients[VICTIM].budget.clone(), world.clients[VICTIM].file.clone());
        if let Some(phase) = stopped_in {
            // One client is slow, so that there is a time at which the others' vectors have come.
            let slow = FIVE.n - 1;
            world.clients[slow].trains_ms = 600;
            world.begin(2);
            assert!(world.run_until(|world| {
                let sent = |client: &Client| client.sent().any(|request| matches!(request, Request::MaskedInput(_)));
                let others_sent = world.clients[..slow].iter().all(sent);
                others_sent
                    && (phase == Phase::Consistency
                        || world.now.since(last_sent(world)) >= Duration::from_millis(DELAY_MS_MAX))
            }));
            assert!(world.run_until(|world| world.coordinator.round.phase() == Some(phase)), "{context}");
            world.feed(coordinator::Event::Stop { reason: "burnt".to_owned() });
            world.run();
            world.clients[slow].trains_ms = 30;
        } else {
            world.begin(2);
            world.run();
        }
        assert_eq!(world.coordinator.released.is_some(), stopped_in.is_none(), "{context}");
        let received = world.coordinator.received[&world.peer(VICTIM).id];
        let charged = copy.0.n_charged_in(world.setup.session);
        assert_eq!((received, charged), (2, 1), "{context}");

        // Every client goes on from what it has, whatever the round came to.
        world.begin(3);
        world.run();
        assert!(world.settled_without(&[]), "{context}");
        (world.clients[VICTIM].budget, world.clients[VICTIM].file) = copy;
        world.begin(4);
        world.run();
        let received = 3;
        check_refusal(&world, context, true, false, |kind| *kind == RefusalKind::OlderBudget { received, charged });
        assert!(world.settled_without(&[VICTIM]), "{context}: the others go on");
        let Some(End::Refused(refusal)) = &world.clients[VICTIM].end else { unreachable!() };
        assert!(refusal.is_final() && refusal.next_step().contains("newest copy"), "{context}");
    }
}

#[test]
fn a_debit_that_the_pinned_key_did_not_sign_for_this_client_and_plan_is_refused() {
    type Forge = (&'static str, fn(&Adversary, &RoundPlan) -> Debit);
    let forged: [Forge; 4] = [
        ("another key", |adversary, plan| {
            Debit::sign(&SigningKey::from_seed(&[9; 32]), &plan.context(), &adversary.victim, 0)
        }),
        ("another client's", |adversary, plan| {
            let other = adversary.keys.keys().find(|id| **id != adversary.victim).unwrap();
            adversary.debit(plan, other, 0)
        }),
        ("another round's", |adversary, plan| {
            adversary.debit(&RoundPlan { round: RoundNumber(2), ..plan.clone() }, &adversary.victim, 0)
        }),
        ("another number", |adversary, plan| Debit { vectors: 0, ..adversary.debit(plan, &adversary.victim, 1) }),
    ];
    for (context, forge) in forged {
        let world = deceive(
            context,
            |_| {},
            move |adversary, answer, _| {
                if let Answer::Configure(configure) = answer {
                    configure.debit = forge(adversary, adversary.plan.as_ref().unwrap());
                }
            },
        );
        check_refusal(&world, context, true, false, |kind| matches!(kind, RefusalKind::NotSigned { what: "debit" }));
    }
}

// The plan.

#[test]
fn a_plan_that_the_pinned_key_did_not_sign_is_refused() {
    let world = deceive(
        "another key",
        |_| {},
        |adversary, answer, _| {
            if let Answer::Configure(configure) = answer {
                configure.plan = adversary.plan.as_ref().unwrap().sign(&SigningKey::from_seed(&[9; 32]));
            }
        },
    );
    check_refusal(&world, "another key", false, false, |kind| matches!(kind, RefusalKind::Plan(_)));
    assert!(world.clients[VICTIM].sent().all(|request| matches!(request, Request::CheckIn(_))));
}

#[test]
fn a_plan_signed_in_another_session_than_its_own_is_refused() {
    let world = deceive(
        "another session",
        |_| {},
        |adversary, answer, _| {
            if let Answer::Configure(configure) = answer {
                let (plan, honest) = (adversary.plan.clone().unwrap(), configure.plan.signature());
                let other = "another".parse().unwrap();
                let session = SessionId::derive(&plan.trust_domain, &plan.ledger_origin, &other, &plan.session_nonce);
                let context = Context::new(session, plan.round, plan.digest());
                let statement = context.statement(StatementKind::Plan, Position::NONE, &plan.plan_terms().encode());
                let signature = adversary.setup.ledger_key().sign(&statement);
                let header = answer.encode().unwrap();
                *answer = Answer::decode(answer.kind(), &replaced(&header, &honest.0, &signature.0)).unwrap();
            }
        },
    );
    check_refusal(&world, "another session", false, false, |kind| matches!(kind, RefusalKind::Plan(_)));
}

#[test]
fn a_plan_that_is_none_is_refused() {
    for (context, slot, timeout) in
        [("no slot", 0, 1000), ("no timeout", 100, 0), ("two days", 100, 2 * 24 * 3600 * 1000)]
    {
        let world = deceive(
            context,
            |_| {},
            move |adversary, answer, _| {
                adversary.replan(answer, |plan| (plan.ready_slot_ms, plan.phase_timeout_ms) = (slot, timeout));
            },
        );
        check_refusal(&world, context, false, false, |kind| matches!(kind, RefusalKind::Plan(_)));
    }
}

#[test]
fn a_plan_beyond_the_policy_is_refused_in_each_dimension() {
    let redesign = |change: fn(&mut RecordTarget)| {
        move |adversary: &Adversary, answer: &mut Answer, _: &mut Bytes| {
            let mut target = target(FIVE, adversary.setup.model.n_parameters());
            change(&mut target);
            adversary.replan(answer, |plan| plan.mechanism = mechanism(target));
        }
    };
    let check = |context: &str, change: fn(&mut RecordTarget), expect: Expect| {
        let world = deceive(context, |_| {}, redesign(change));
        check_refusal(&world, context, true, false, expect);
    };
    check(
        "epsilon",
        |t| t.noise = NoiseTarget::Distributed { epsilon: EPSILON + 0.5 },
        |kind| matches!(kind, RefusalKind::TooMuch { what: "epsilon of the task", .. }),
    );
    check("delta", |t| t.delta = 2.0 * DELTA, |kind| matches!(kind, RefusalKind::TooMuch { what: "delta", .. }));
    check(
        "u_min",
        |t| t.u_min = 3,
        |kind| matches!(kind, RefusalKind::TooLittle { what: "least number of survivors", .. }),
    );
    check(
        "more attempts",
        |t| (t.max_attempts, t.noise) = (2 * ATTEMPTS_MAX, NoiseTarget::Distributed { epsilon: 20.0 }),
        |kind| matches!(kind, RefusalKind::TooMuch { what: "epsilon of the task", .. }),
    );

    let world = deceive(
        "a slot longer than a phase",
        |_| {},
        |adversary, answer, _| {
            adversary.replan(answer, |plan| plan.ready_slot_ms = PHASE_TIMEOUT_MS + 1);
        },
    );
    check_refusal(&world, "a slot longer than a phase", true, false, |kind| {
        matches!(kind, RefusalKind::TooMuch { what: "slot of READY in ms", .. })
    });

    // The same plan, to a client that demands one step more.
    let check = |context: &str, demand: fn(&mut Client), expect: Expect| {
        let world = deceive(context, |world| demand(&mut world.clients[VICTIM]), |_, _, _| {});
        check_refusal(&world, context, true, false, expect);
    };
    check(
        "max_colluders",
        |c| c.member_mut().policy.max_colluders += 1,
        |kind| matches!(kind, RefusalKind::TooLittle { what: "number of colluders tolerated", .. }),
    );
    check(
        "noise multiplier",
        |c| c.member_mut().policy.noise_multiplier_min *= 1.001,
        |kind| matches!(kind, RefusalKind::TooLittle { what: "noise multiplier", .. }),
    );
    check(
        "survivors",
        |c| c.member_mut().policy.survivors_min += 1,
        |kind| matches!(kind, RefusalKind::TooLittle { what: "least number of survivors", .. }),
    );
    check(
        "records",
        |c| c.member_mut().policy.records_max += 1,
        |kind| matches!(kind, RefusalKind::TooLittle { what: "bound on a client's records", .. }),
    );
    check(
        "slot of READY",
        |c| c.member_mut().policy.ready_slot_ms_min += 1,
        |kind| matches!(kind, RefusalKind::TooLittle { what: "slot of READY in ms", .. }),
    );
    check(
        "time of a phase",
        |c| c.member_mut().policy.phase_timeout_ms_max -= 1,
        |kind| matches!(kind, RefusalKind::TooMuch { what: "time of a phase in ms", .. }),
    );
    check(
        "parameters",
        |c| c.member_mut().policy.parameters_max -= 1,
        |kind| matches!(kind, RefusalKind::TooMuch { what: "number of parameters", .. }),
    );
    check(
        "classes",
        |c| c.member_mut().n_classes += 1,
        |kind| matches!(kind, RefusalKind::Data(what) if what.contains("classes")),
    );
    check(
        "what is left of the budget",
        |c| rebudget(c, UnitOfPrivacy::Record, 0.1),
        |kind| matches!(kind, RefusalKind::Budget(BudgetError::Exceeded { .. })),
    );
    check("unit of privacy", |c| rebudget(c, UnitOfPrivacy::Client, EPSILON), |kind| matches!(kind, RefusalKind::Unit));
}

/// The plan without noise, or with it.
fn replan_noise(noise: NoiseTarget) -> impl Fn(&Adversary, &mut Answer, &mut Bytes) {
    move |adversary, answer, _| {
        let target = RecordTarget { noise, ..target(FIVE, adversary.setup.model.n_parameters()) };
        adversary.replan(answer, |plan| plan.mechanism = mechanism(target));
    }
}

#[test]
fn a_plan_without_noise_is_refused_unless_the_policy_allows_it() {
    // The coordinator says so to everybody: whoever does not allow it sends nothing but its refusal.
    let mut world = World::with_noise(31, FIVE, NoiseTarget::None);
    for client in &mut world.clients[1..] {
        client.member_mut().policy.allow_no_noise = true;
    }
    // Nor does a limit that no epsilon and no noise would reach stand in for the permission.
    world.clients[VICTIM].member_mut().policy.task_epsilon_max = f64::MAX;
    world.begin(1);
    world.run();
    world.check("without noise", &[VICTIM]);
    check_refusal(&world, "without noise", true, false, |kind| matches!(kind, RefusalKind::NoNoise));
    let Some(End::Refused(refusal)) = &world.clients[VICTIM].end else { panic!("refused") };
    assert!(refusal.is_final() && refusal.next_step().contains("allow_no_noise = true"), "{}", refusal.next_step());
    let sent: Vec<&Request> = world.clients[VICTIM].sent().collect();
    assert!(matches!(sent[..], [Request::CheckIn(_), Request::Abort(_)]), "{sent:?}");
    // The others had a round as any other, and their budgets and the ledger say what it was.
    assert!(world.settled_without(&[VICTIM]), "{:?}", world.coordinator.abandoned);
    for client in &world.clients[1..] {
        assert_eq!((client.budget.n_without_noise(), client.budget.epsilon_spent()), (1, f64::INFINITY));
    }
    // A victim that changes its mind takes part in the next.
    world.clients[VICTIM].member_mut().policy.allow_no_noise = true;
    world.begin(2);
    world.run();
    world.check("without noise, allowed", &[]);
    assert!(world.settled_without(&[]) && world.clients[VICTIM].is_charged());
}

#[test]
fn one_client_alone_is_not_talked_out_of_its_noise() {
    // The task is with noise, and the plan to the victim without: its own policy refuses.
    let world = deceive("to one alone", |_| {}, replan_noise(NoiseTarget::None));
    check_refusal(&world, "to one alone", true, false, |kind| matches!(kind, RefusalKind::NoNoise));
    assert!(world.settled_without(&[VICTIM]), "{:?}", world.coordinator.abandoned);

    // A victim that would go without noise signs its keys for that plan, and the others theirs for another: nobody takes
    // the other for a member of the same round.
    let mut world = World::new(32, FIVE);
    world.clients[VICTIM].member_mut().policy.allow_no_noise = true;
    alter_answers(&mut world, VICTIM, replan_noise(NoiseTarget::None));
    world.begin(1);
    world.run();
    world.check("two modes", &[VICTIM]);
    let victim = &world.clients[VICTIM];
    assert!(!victim.is_charged() && !matches!(victim.end, Some(End::Settled { .. })), "{:?}", victim.end);
    assert!(!victim.sent().any(|request| matches!(request, Request::ShareKeys(_) | Request::MaskedInput(_))));
    for client in &world.clients[1..] {
        assert_eq!(client.budget.n_without_noise(), 0);
    }
}

#[test]
fn noise_is_no_use_to_a_data_set_that_went_without() {
    let mut world = World::new(33, FIVE);
    // In another task it was charged without noise.
    let bare = mechanism(RecordTarget { noise: NoiseTarget::None, ..target(FIVE, world.setup.model.n_parameters()) });
    let (session, round) = (SessionId(eranos_base::Digest::of(b"another task")), RoundNumber(1));
    let client = &mut world.clients[VICTIM];
    let mut budget = (*client.budget).clone();
    for step in 0..2 {
        let append = match step {
            0 => budget.begin(session, round, &world.setup.task, &bare, true),
            _ => budget.charge(session, round, 1, eranos_base::Digest::ZERO, &bare, true),
        };
        let append = append.unwrap();
        client.file.extend_from_slice(append.bytes());
        budget.commit(append).unwrap();
    }
    client.budget = Arc::new(budget);
    world.begin(1);
    world.run();
    world.check("after none", &[VICTIM]);
    check_refusal(&world, "after none", true, false, |kind| {
        matches!(kind, RefusalKind::Budget(BudgetError::GuaranteeLost))
    });
    world.clients[VICTIM].member_mut().policy.allow_no_noise = true;
    world.begin(2);
    world.run();
    world.check("after none, allowed", &[]);
    assert!(world.settled_without(&[]));
}

pub(super) fn rebudget(client: &mut Client, unit: UnitOfPrivacy, epsilon_limit: f64) {
    let terms = Terms { unit, data_set: "random".to_owned(), epsilon_limit, delta: DELTA };
    let (budget, file) = Budget::create(terms).unwrap();
    (client.budget, client.file) = (Arc::new(budget), file);
}

#[test]
fn work_that_no_plan_waits_for_is_broken_off() {
    let mut world = World::new(30, FIVE);
    world.clients[VICTIM].trains_ms = 100 * u64::from(PHASE_TIMEOUT_MS);
    world.begin(1);
    let contributes = |round: &client::Round| round.phase() == client::Phase::Contribute;
    assert!(world.run_until(|world| world.clients[VICTIM].round.as_ref().is_some_and(contributes)));
    let began = world.now;
    assert!(world.run_until(|world| world.clients[VICTIM].end.is_some()));
    assert_eq!(world.now.since(began).as_millis(), u128::from(PHASE_TIMEOUT_MS));
    world.run();
    world.check("endless work", &[]);
    assert!(matches!(world.clients[VICTIM].end, Some(End::Left { .. })), "{:?}", world.clients[VICTIM].end);
    assert!(!world.clients[VICTIM].is_charged() && world.settled_without(&[VICTIM]));
}

#[test]
fn a_coordinator_that_burns_budget_is_left() {
    let mut world = World::new(22, FIVE);
    world.clients[VICTIM].member_mut().policy.charged_without_receipt_max = 0;
    // The round is aborted when the vectors are there.
    world.begin(1);
    assert!(world.run_until(|world| world.clients[VICTIM].is_charged()));
    world.feed(coordinator::Event::Stop { reason: "burnt".to_owned() });
    world.run();
    world.begin(2);
    world.run();
    world.check("burnt", &[VICTIM]);
    check_refusal(&world, "burnt", true, false, |kind| {
        matches!(kind, RefusalKind::TooMuch { what: "number of charged attempts without a receipt", .. })
    });
}

#[test]
fn a_plan_for_somebody_else_is_refused() {
    fn check(context: &'static str, change: impl Fn(&mut RoundPlan) + 'static) {
        let world = deceive(context, |_| {}, move |adversary, answer, _| adversary.replan(answer, |plan| change(plan)));
        check_refusal(
            &world,
            context,
            true,
            false,
            |kind| matches!(kind, RefusalKind::Other { what, .. } if *what == context),
        );
    }
    check("trust domain", |plan| plan.trust_domain = "example.com".parse().unwrap());
    check("ledger", |plan| plan.ledger_origin = "example.com/ledger".to_owned());
    check("task", |plan| plan.task = "another".parse().unwrap());
    // However long the reason, it is noted.
    check("ledger", |plan| plan.ledger_origin = "x".repeat(5000));
}

#[test]
fn a_model_or_checkpoint_that_does_not_fit_is_refused() {
    fn check(
        context: &'static str,
        says: &'static str,
        change: impl Fn(&Adversary, &mut Answer, &mut Bytes) + 'static,
    ) {
        let world = deceive(
            context,
            |_| {},
            move |adversary, answer, body| {
                if matches!(answer, Answer::Configure(_)) {
                    change(adversary, answer, body);
                }
            },
        );
        check_refusal(
            &world,
            context,
            true,
            false,
            |kind| matches!(kind, RefusalKind::Model(what) if what.contains(says)),
        );
    }
    check("checkpoint of another hash", "not the one that the plan names", |_, _, body| {
        let mut bytes = body.to_vec();
        bytes[5] ^= 1;
        *body = bytes.into();
    });
    check("checkpoint cut short", "bytes of checkpoint", |_, _, body| *body = body.slice(..body.len() - 1));
    check("no checkpoint", "0 bytes of checkpoint", |_, _, body| *body = Bytes::new());
    check("model of another size", "bytes of checkpoint", |adversary, answer, _| {
        adversary.replan(answer, |plan| plan.model_spec = model(3, 5).to_canonical());
    });
    check("model of other data", "the data has 3", |adversary, answer, _| {
        adversary.replan(answer, |plan| plan.model_spec = model(1, 8).to_canonical());
    });
    check("no model", "model bytes", |adversary, answer, _| {
        adversary.replan(answer, |plan| plan.model_spec = b"a program".to_vec());
    });
}

#[test]
fn records_that_this_client_does_not_have_are_refused() {
    let images = DataSpec::Images { shape: [1, 3, 1], n_classes: 4 }.to_canonical();
    for (context, says, spec) in [
        ("images", "the file is a table", images),
        ("other classes", "the plan has 5 classes", records(3, 5).to_canonical()),
        ("no specification", "malformed", b"a program".to_vec()),
    ] {
        let world = deceive(
            context,
            |_| {},
            move |adversary, answer, _| adversary.replan(answer, |plan| plan.data_spec = spec.clone()),
        );
        check_refusal(
            &world,
            context,
            true,
            false,
            |kind| matches!(kind, RefusalKind::Data(what) if what.contains(says)),
        );
    }
    // A column more than the table has.
    let prepare = |world: &mut World| world.clients[VICTIM].member_mut().form = Form::Table(vec!["a".to_owned()]);
    let world = deceive("columns", prepare, |_, _, _| {});
    check_refusal(
        &world,
        "columns",
        true,
        false,
        |kind| matches!(kind, RefusalKind::Data(what) if what.contains("a column \"b\"")),
    );
}

#[test]
fn records_so_long_that_their_number_would_show_are_refused_by_the_public_bound() {
    // 1500 records would be more values than a data set may have: training would fail for whoever has so many, and for
    // nobody else. What decides is the bound of the policy, not how many this client has.
    let column = |name: &str| name.to_owned();
    let tokenizer = Tokenizer::new(TokenizerSettings::default(), vec!["word".to_owned()]).expect("a vocabulary");
    let (padding, truncating) = (Side::Pre, Side::Post);
    let input = Input::Text { column: column("a"), tokenizer, maxlen: 1 << 20, padding, truncating };
    let label = Label::Integer { column: column("class"), n_classes: 4 };
    let long = DataSpec::Table(Schema::new(vec![input], label).expect("a schema")).to_canonical();
    let check = |records_max: u32, expect: Expect| {
        let (context, long) = (format!("{records_max} long records"), long.clone());
        let world = deceive(
            &context,
            |world| world.clients[VICTIM].member_mut().policy.records_max = records_max,
            move |adversary, answer, _| {
                let target = RecordTarget { record_bound: 2000, ..target(FIVE, adversary.setup.model.n_parameters()) };
                adversary.replan(answer, |plan| (plan.mechanism, plan.data_spec) = (mechanism(target), long.clone()));
            },
        );
        check_refusal(&world, &context, true, false, expect);
    };
    check(1500, |kind| matches!(kind, RefusalKind::Data(what) if what.contains("1500 records, limit")));
    // Then the data may be so long, but it is not the model's.
    check(1000, |kind| matches!(kind, RefusalKind::Model(what) if what.contains("takes records of")));
}

#[test]
fn a_round_number_that_is_not_new_is_refused() {
    for number in [2, 1] {
        let mut world = World::new(23, FIVE);
        for round in [1, 2] {
            world.begin(round);
            world.run();
            assert!(world.settled_without(&[]));
        }
        // The same coordinator plans it again, or one before it.
        world.begin(number);
        world.run();
        world.check(&format!("round {number} after 2"), &[VICTIM]);
        check_refusal(&world, &format!("round {number} after 2"), true, false, |kind| {
            matches!(kind, RefusalKind::Budget(BudgetError::RoundNotNew { .. }))
        });
    }
}

#[test]
fn another_mechanism_in_a_session_that_was_charged_is_refused() {
    let mut world = World::new(24, FIVE);
    world.begin(1);
    world.run();
    assert!(world.settled_without(&[]));
    // Weaker, and by itself within the policy: what the first and this one spend together, nobody accepted.
    let noise = NoiseTarget::Distributed { epsilon: EPSILON / 2.0 };
    let weaker = mechanism(RecordTarget { noise, ..target(FIVE, world.setup.model.n_parameters()) });
    alter_answers(&mut world, VICTIM, move |adversary, answer, _| {
        adversary.replan(answer, |plan| plan.mechanism = weaker.clone());
    });
    world.begin(2);
    world.run();
    world.check("another mechanism", &[VICTIM]);
    check_refusal(&world, "another mechanism", true, false, |kind| {
        matches!(kind, RefusalKind::Budget(BudgetError::OtherMechanism))
    });
}

#[test]
fn a_round_number_beyond_the_attempts_of_the_plan_is_refused() {
    for number in [0, u64::from(ATTEMPTS_MAX) + 1, u64::from(u32::MAX) + 2, u64::MAX] {
        let context = format!("round {number}");
        let world = deceive(
            &context,
            |_| {},
            move |adversary, answer, _| {
                adversary.replan(answer, |plan| plan.round = RoundNumber(number));
            },
        );
        check_refusal(&world, &context, true, false, |kind| {
            matches!(
                kind,
                RefusalKind::TooMuch { what: "attempt", .. } | RefusalKind::TooLittle { what: "attempt", .. }
            )
        });
    }
}
