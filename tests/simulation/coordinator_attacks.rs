//! A coordinator that signs with its real ledger key and tells one client something else. The client refuses, says why,
//! notes it durably, and nothing private leaves it any more.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use eranos_base::{
    ClientId, Digest, Position, RoundNumber, SeededEntropy, SessionId, Signature, SigningKey, Timestamp,
};
use eranos_client::round::{self as client, End, Event, RefusalKind, Step};
use eranos_ledger::{EncodedEntry, Entry, LedgerSigner, LogWriter, Outcome, Receipt, memory::MemoryFolder};
use eranos_privacy::{
    Budget, Mechanism,
    mechanism::{NoiseTarget, RecordTarget},
};
use eranos_secagg::{
    Advert, Advertised, Identity, Quorum, Refusal, RosterEntry, RosterError, StatementKey, ThresholdError,
    VerifiedCertifications, advert::AdvertError, roster::EntryError,
};
use eranos_wire::{
    Answer, Request,
    messages::{
        RoundRef,
        abort::{Aborted, Reason},
        advertise_keys::Credential,
        masked_input::Grant,
        select::{ComeBack, ComeBackLater},
        settle::Settled,
    },
};

use super::{
    adversary::{Adversary, alter_answers},
    world::{
        ATTEMPTS_MAX, Did, EPSILON, Exit, ExitHow, FIVE, MASKED_INPUT, SHARE_KEYS, Setup, World, certificate,
        mechanism, target,
    },
};

/// Whom the coordinator deceives.
pub(super) const VICTIM: usize = 0;

/// What must be true of the reason.
pub(super) type Expect = fn(&RefusalKind) -> bool;

/// The victim refused for the reason expected; if it knew a round, that is durable and the coordinator has heard it; and
/// nothing else happened after what it heard last.
pub(super) fn check_refusal(
    world: &World,
    context: &str,
    knew_round: bool,
    charged: bool,
    expect: impl Fn(&RefusalKind) -> bool,
) {
    let victim = &world.clients[VICTIM];
    let Some(End::Refused(refusal)) = &victim.end else {
        panic!("{context}: not refused but {:?} ({:?})", victim.end, victim.broken)
    };
    assert!(expect(&refusal.kind), "{context}: refused because {refusal} ({refusal:?})");
    let heard = victim.did.iter().rposition(|did| matches!(did, Did::Heard)).map_or(0, |index| index + 1);
    match &victim.did[heard..] {
        [
            Did::Persisted(Step::Refuse { reason: noted, .. }),
            Did::Sent { request: Request::Abort(abort), .. },
            Did::Ended,
        ] if knew_round => {
            assert_eq!(noted, Reason::from(refusal.to_string()).as_str(), "{context}");
            // What the coordinator hears says nothing of what was spent elsewhere.
            assert_eq!(abort.reason, Reason::from(refusal.public_reason()), "{context}");
            assert!(!matches!(refusal.kind, RefusalKind::Budget(_)) || abort.reason.as_str() != noted, "{context}");
        }
        [Did::Ended] if !knew_round => {}
        after => panic!("{context}: after the refusal {after:?}"),
    }
    assert_eq!(victim.is_charged(), charged, "{context}: charged");
    let (read, _) = Budget::parse(&victim.file).unwrap();
    assert_eq!(read.head(), victim.budget.head(), "{context}: the refusal is in the file");
}

/// One round in which the victim hears what `alter` makes of the answers.
pub(super) fn deceive(
    context: &str,
    prepare: impl FnOnce(&mut World),
    alter: impl FnMut(&Adversary, &mut Answer, &mut Bytes) + 'static,
) -> World {
    let mut world = World::new(21, FIVE);
    prepare(&mut world);
    alter_answers(&mut world, VICTIM, alter);
    world.begin(1);
    world.run();
    world.check(context, &[VICTIM]);
    world
}

/// What the coordinator says to a client that it does not admit.
pub(super) fn refusal_to_admit(world: &World, client: usize, when: ComeBack) -> ComeBackLater {
    let round = RoundRef { session: world.setup.session, round: RoundNumber(1) };
    ComeBackLater::sign(world.setup.ledger_key(), round, &world.peer(client).id, when, "no")
}

// The roster.

/// Someone with a certificate of the real authority who is not in the cohort.
fn outsider(setup: &Setup, authority: &SigningKey) -> (Arc<Identity>, Vec<u8>) {
    let id = ClientId::new(&setup.trust_domain, "c99").unwrap();
    let certificate_key = SigningKey::from_seed(&[7; 32]);
    let certificate = certificate(authority, &id, &certificate_key.verifying_key());
    let statement_key = StatementKey::derive(&[7; 32], &setup.task);
    let (digest, verified) = (Digest::of(&certificate), VerifiedCertifications::default());
    (Arc::new(Identity { id, certificate: digest, certificate_key, statement_key, verified }), certificate)
}

fn advertise(adversary: &Adversary, identity: &Arc<Identity>) -> RosterEntry {
    Advertised::begin(adversary.terms(), identity.clone(), &mut SeededEntropy::new(5)).entry()
}

#[test]
fn a_roster_that_is_not_the_cohorts_is_refused() {
    fn check(
        context: &'static str,
        change: impl Fn(&Adversary, &mut Vec<RosterEntry>) + 'static,
        expect: impl Fn(&Refusal) -> bool,
    ) {
        let world = deceive(
            context,
            |_| {},
            move |adversary, answer, _| {
                adversary.reroster(answer, |entries| change(adversary, entries));
                adversary.show(answer, &[]);
            },
        );
        check_refusal(
            &world,
            context,
            true,
            false,
            |kind| matches!(kind, RefusalKind::SecureSum(refusal) if expect(refusal)),
        );
        assert!(!world.clients[VICTIM].sent().any(|request| matches!(request, Request::ShareKeys(_))), "{context}");
    }
    check(
        "without the victim",
        |_, entries| drop(entries.remove(VICTIM)),
        |refusal| matches!(refusal, Refusal::NotInRoster { .. }),
    );
    check(
        "a key swapped",
        |adversary, entries| {
            let (identity, _) = outsider(&adversary.setup, &adversary.setup.authority);
            entries[1].advert.s_pk = advertise(adversary, &identity).advert.s_pk;
        },
        |refusal| matches!(refusal, Refusal::Roster(RosterError::Entry { id, .. }) if id.name() == "c01"),
    );
    check(
        "the statement key swapped",
        |adversary, entries| {
            let (identity, _) = outsider(&adversary.setup, &adversary.setup.authority);
            entries[1].advert.statement_key = advertise(adversary, &identity).advert.statement_key;
        },
        |refusal| matches!(refusal, Refusal::Roster(RosterError::Entry { id, .. }) if id.name() == "c01"),
    );
    check(
        "another's keys twice",
        |_, entries| entries[2].advert.c_pk = entries[1].advert.c_pk,
        |refusal| matches!(refusal, Refusal::Roster(RosterError::Duplicate { .. })),
    );
    check(
        "somebody twice",
        |_, entries| {
            let again = entries[1].clone();
            entries.insert(1, again);
            entries.pop();
        },
        |refusal| matches!(refusal, Refusal::Roster(_)),
    );
    check(
        "too small",
        |_, entries| entries.truncate(3),
        |refusal| matches!(refusal, Refusal::Roster(RosterError::Thresholds(ThresholdError::RosterTooSmall { .. }))),
    );
    check(
        "an advert unsigned",
        |_, entries| entries[1].advert.signature = Signature([0; 64]),
        |refusal| matches!(refusal, Refusal::Roster(RosterError::Entry { .. })),
    );
}

#[test]
fn a_roster_in_any_other_order_than_its_pseudonyms_is_refused() {
    // The ledger keeps the order. One of names would tell an outsider which pseudonyms of two tasks are one client's.
    fn check(context: &'static str, order: fn(&mut Vec<RosterEntry>)) {
        let world = deceive(
            context,
            |_| {},
            move |adversary, answer, _| {
                adversary.reorder(answer, order);
                adversary.show(answer, &[]);
            },
        );
        check_refusal(&world, context, true, false, |kind| {
            matches!(kind, RefusalKind::SecureSum(Refusal::Roster(RosterError::Order { .. })))
        });
        assert!(!world.clients[VICTIM].sent().any(|request| matches!(request, Request::ShareKeys(_))), "{context}");
    }
    check("by name, backwards", |entries| entries.sort_by(|one, other| other.id.cmp(&one.id)));
    check("by certificate", |entries| entries.sort_by_key(|entry| entry.certificate));
    check("two exchanged", |entries| entries.swap(1, 2));
    check("the first last", |entries| entries.rotate_left(1));
}

#[test]
fn a_roster_with_the_victims_entry_replaced_is_refused() {
    // Even an entry that the victim's own key signed, if it is not the one it sent.
    let mut world = World::new(21, FIVE);
    let identity = world.clients[VICTIM].member.identity.clone();
    alter_answers(&mut world, VICTIM, move |adversary, answer, _| {
        adversary.reroster(answer, |entries| entries[VICTIM] = advertise(adversary, &identity));
        adversary.show(answer, &[]);
    });
    world.begin(1);
    world.run();
    check_refusal(&world, "own entry", true, false, |kind| {
        matches!(kind, RefusalKind::SecureSum(Refusal::OwnEntryAltered))
    });
}

#[test]
fn a_roster_larger_than_the_plan_says_is_refused() {
    let world = deceive(
        "a sixth of five",
        |_| {},
        |adversary, answer, _| {
            let (identity, shown) = outsider(&adversary.setup, &adversary.setup.authority);
            adversary.reroster(answer, |entries| entries.push(advertise(adversary, &identity)));
            adversary.show(answer, &[shown]);
        },
    );
    check_refusal(&world, "a sixth of five", true, false, |kind| {
        matches!(kind, RefusalKind::SecureSum(Refusal::Roster(RosterError::TooMany { n1: 6, n_max: 5 })))
    });
    let fetches = world.clients[VICTIM].sent().filter(|request| matches!(request, Request::FetchCredentials(_)));
    assert_eq!(fetches.count(), 0, "no more is fetched than a roster of the plan may name");
}

#[test]
fn a_member_of_the_roster_without_its_certificate_is_refused() {
    fn check(context: &'static str, shown: bool, own_authority: bool, expect: Expect) {
        let world = deceive(
            context,
            |_| {},
            move |adversary, answer, _| {
                let other = SigningKey::from_seed(&[8; 32]);
                let authority = if own_authority { &other } else { &adversary.setup.authority };
                let (identity, certificate) = outsider(&adversary.setup, authority);
                adversary.reroster(answer, |entries| entries[4] = advertise(adversary, &identity));
                adversary.show(answer, &shown.then_some(certificate).into_iter().collect::<Vec<_>>());
            },
        );
        check_refusal(&world, context, true, false, expect);
        assert!(!world.clients[VICTIM].sent().any(|request| matches!(request, Request::ShareKeys(_))), "{context}");
        assert!(world.clients[VICTIM].credentials.is_empty(), "{context}: nothing of a refused roster is kept");
    }
    check("not shown", false, false, |kind| matches!(kind, RefusalKind::CredentialMissing { .. }));
    check(
        "of another authority",
        true,
        true,
        |kind| matches!(kind, RefusalKind::Certificate { reason, .. } if reason.contains("another authority")),
    );
}

#[test]
fn a_member_is_whom_its_certificate_names() {
    // The coordinator calls an outsider, who has a certificate, by the name of a client of the cohort.
    let world = deceive(
        "another's name",
        |_| {},
        |adversary, answer, _| {
            let (identity, certificate) = outsider(&adversary.setup, &adversary.setup.authority);
            adversary.reroster(answer, |entries| {
                let id = entries[4].id.clone();
                entries[4] = RosterEntry { id, ..advertise(adversary, &identity) };
            });
            adversary.show(answer, &[certificate]);
        },
    );
    // Its name is not sent at all: the victim comes to another R1 than the one that was signed.
    check_refusal(&world, "another's name", true, false, |kind| {
        matches!(kind, RefusalKind::SecureSum(Refusal::Roster(RosterError::Digest)))
    });
    assert!(!world.clients[VICTIM].sent().any(|request| matches!(request, Request::ShareKeys(_))));
    assert!(world.clients[VICTIM].credentials.is_empty());
}

#[test]
fn a_credential_that_is_not_the_one_named_is_refused_and_names_nobody() {
    // The roster is the honest one: what is wrong is what is shown for the names in it.
    fn check(context: &'static str, change: impl Fn(&mut Vec<Credential>) + 'static) {
        let world = deceive(
            context,
            |_| {},
            move |_, answer, _| {
                if let Answer::Credentials(message) = answer {
                    change(&mut message.credentials);
                }
            },
        );
        check_refusal(&world, context, true, false, |kind| {
            let said = kind.to_string();
            let as_expected = match kind {
                RefusalKind::CredentialsUnasked => context == "one too many",
                RefusalKind::CredentialMissing { .. } => context != "one too many",
                _ => false,
            };
            as_expected && (0..5).all(|i| !said.contains(&world.peer(i).id.to_string()))
        });
        assert!(!world.clients[VICTIM].sent().any(|request| matches!(request, Request::ShareKeys(_))), "{context}");
        assert!(world.clients[VICTIM].credentials.is_empty(), "{context}: nothing is kept");
        assert!(world.blamed().is_empty(), "{context}");
    }
    check("another certificate of the same cohort", |shown| shown[1].certificate = shown[2].certificate.clone());
    check("a certificate with a byte more", |shown| shown[1].certificate.push(0));
    check("no certificate", |shown| shown[1].certificate.clear());
    check("another statement key", |shown| shown[1].statement_key = shown[2].statement_key);
    check("another certification", |shown| shown[1].certification = shown[2].certification);
    check("another's credential", |shown| shown[1] = shown[2].clone());
    check("in another order", |shown| shown.swap(1, 2));
    check("one too few", |shown| drop(shown.pop()));
    check("none", Vec::clear);
    check("one too many", |shown| shown.push(shown[1].clone()));
}

#[test]
fn a_credential_certified_for_another_task_is_refused_and_not_kept() {
    // By a member that works with the coordinator: all of it is signed, and its digest is right.
    let mut world = World::new(21, FIVE);
    let identity = world.clients[1].member.identity.clone();
    alter_answers(&mut world, VICTIM, move |adversary, answer, _| {
        adversary.reroster(answer, |entries| {
            let other = "another".parse().unwrap();
            let mut advert = entries[1].advert.clone();
            let key = &identity.certificate_key;
            advert.certification = identity.statement_key.certify(&adversary.setup.trust_domain, &other, key);
            entries[1].advert = adversary.sign_advert(advert, key);
        });
        adversary.show(answer, &[]);
    });
    world.begin(1);
    world.run();
    world.check("another task", &[VICTIM]);
    check_refusal(&world, "another task", true, false, |kind| match kind {
        RefusalKind::SecureSum(Refusal::Roster(RosterError::Entry { id, error })) => {
            id.name() == "c01" && *error == EntryError::Advert(AdvertError::Certification)
        }
        _ => false,
    });
    assert!(world.clients[VICTIM].credentials.is_empty());
}

#[test]
fn what_a_client_keeps_of_a_roster_is_no_use_in_another_round() {
    // A roster of the second round that names what was never shown, and one that names a credential kept from the first
    // in another's place.
    type Change = fn(&Adversary, &mut Vec<RosterEntry>);
    let cases: [(&str, Change, Expect); 3] = [
        (
            "an unknown statement key",
            |_, entries| entries[1].advert.statement_key = entries[1].key,
            |kind| matches!(kind, RefusalKind::CredentialMissing { .. }),
        ),
        (
            "the keys of two members exchanged under the credentials that are known",
            |_, entries| {
                let advert = entries[1].advert.clone();
                for (to, from) in [(1, entries[2].advert.clone()), (2, advert)] {
                    let Advert { statement_key, certification, .. } = entries[to].advert;
                    entries[to].advert = Advert { statement_key, certification, ..from };
                }
            },
            |kind| matches!(kind, RefusalKind::SecureSum(Refusal::Roster(RosterError::Entry { .. }))),
        ),
        (
            "one known credential for two members",
            |_, entries| {
                let (certificate, id, key) = (entries[1].certificate, entries[1].id.clone(), entries[1].key);
                let Advert { statement_key, certification, .. } = entries[1].advert;
                let advert = Advert { statement_key, certification, ..entries[2].advert.clone() };
                entries[2] = RosterEntry { id, certificate, key, advert };
            },
            |kind| matches!(kind, RefusalKind::SecureSum(Refusal::Roster(_))),
        ),
    ];
    for (context, change, expect) in cases {
        let mut world = World::new(21, FIVE);
        world.begin(1);
        world.run();
        world.check(context, &[]);
        let before = world.clients[VICTIM].credentials.clone();
        assert_eq!(before.len(), 5, "{context}");
        alter_answers(&mut world, VICTIM, move |adversary, answer, _| {
            adversary.reroster(answer, |entries| change(adversary, entries));
            // Whatever is asked for is answered by what was asked for in the first round.
            if let Answer::Credentials(message) = answer {
                message.credentials = before.values().take(1).cloned().collect();
            }
        });
        world.begin(2);
        world.run();
        world.check(context, &[VICTIM]);
        check_refusal(&world, context, true, false, expect);
        assert_eq!(world.clients[VICTIM].credentials.len(), 5, "{context}: nothing is added");
    }
}

#[test]
fn a_kept_credential_that_is_not_what_its_digest_says_is_not_used() {
    // As if somebody had changed what the client keeps: the state folder is its own, its contents are checked all the same.
    let mut world = World::new(21, FIVE);
    world.begin(1);
    world.run();
    world.check("the first round", &[]);
    let kept = Arc::make_mut(&mut world.clients[VICTIM].credentials);
    let digests: Vec<Digest> = kept.keys().copied().collect();
    let other = kept[&digests[1]].clone();
    kept.insert(digests[0], other);
    world.begin(2);
    world.run();
    world.check("the second", &[VICTIM]);
    check_refusal(&world, "a changed copy", true, false, |kind| matches!(kind, RefusalKind::CredentialMissing { .. }));
}

#[test]
fn a_roster_that_the_pinned_key_did_not_sign_is_refused() {
    fn check(context: &'static str, sign: impl Fn(&Adversary) -> Signature + 'static) {
        let world = deceive(
            context,
            |_| {},
            move |adversary, answer, _| {
                if let Answer::Roster(message) = answer {
                    message.signature = sign(adversary);
                }
            },
        );
        check_refusal(&world, context, true, false, |kind| matches!(kind, RefusalKind::NotSigned { what: "roster" }));
    }
    check("another key", |a| SigningKey::from_seed(&[9; 32]).sign(&a.roster.as_ref().unwrap().statement()));
    check("another round", |a| {
        let context = eranos_base::Context { round: RoundNumber(9), ..a.context() };
        a.setup.ledger_key().sign(&context.statement(eranos_base::StatementKind::Roster, Position::NONE, &[]))
    });
    check("another statement", |a| {
        a.setup.ledger_key().sign(&a.context().statement(eranos_base::StatementKind::Sharers, Position::NONE, &[]))
    });
}

// U2.

#[test]
fn a_u2_that_does_not_fit_is_refused() {
    fn check(
        context: &'static str,
        change: impl Fn(&mut Vec<(Position, Digest)>, &mut Vec<eranos_secagg::AddressedPart>) + 'static,
        expect: fn(&Refusal) -> bool,
    ) {
        let world = deceive(
            context,
            |_| {},
            move |adversary, answer, _| {
                adversary.resharers(answer, |members, parts| change(members, parts));
            },
        );
        check_refusal(
            &world,
            context,
            true,
            false,
            |kind| matches!(kind, RefusalKind::SecureSum(refusal) if expect(refusal)),
        );
        assert!(!world.clients[VICTIM].sent().any(|request| matches!(request, Request::Ready(_))), "{context}");
    }
    check(
        "too small",
        |members, parts| {
            members.truncate(3);
            parts.truncate(2);
        },
        |refusal| matches!(refusal, Refusal::TooFewSharers { n_sharers: 3, u_min: 4 }),
    );
    check(
        "without the victim",
        |members, _| _ = members.remove(VICTIM),
        |refusal| matches!(refusal, Refusal::NotASharer),
    );
    check(
        "own bundle altered",
        |members, _| members[VICTIM].1 = Digest::of(b"x"),
        |refusal| matches!(refusal, Refusal::OwnBundleAltered),
    );
    check(
        "a part missing",
        |_, parts| {
            parts.remove(1);
        },
        |refusal| matches!(refusal, Refusal::PartMissing { dealer: Position(2) }),
    );
    check(
        "a part twice",
        |_, parts| parts.push(parts[1].clone()),
        |refusal| matches!(refusal, Refusal::PartMissing { .. }),
    );
    check(
        "a part of a dropped member",
        |members, _| _ = members.remove(2),
        |refusal| matches!(refusal, Refusal::ForeignPart { dealer: Position(2), .. }),
    );
    check(
        "a part for another",
        |_, parts| parts[1].holder = Position(3),
        |refusal| matches!(refusal, Refusal::ForeignPart { .. }),
    );
    check(
        "a part forged",
        |_, parts| parts[1].signature.0[3] ^= 1,
        |refusal| matches!(refusal, Refusal::PartSignature { dealer: Position(2) }),
    );
    check(
        "a share altered",
        |_, parts| parts[1].ciphertext[3] ^= 1,
        |refusal| matches!(refusal, Refusal::PartSignature { dealer: Position(2) }),
    );
}

#[test]
fn sets_that_the_pinned_key_did_not_sign_are_refused() {
    let world = deceive(
        "U2",
        |_| {},
        |_, answer, _| {
            if let Answer::Sharers(message) = answer {
                message.signature.0[9] ^= 1;
            }
        },
    );
    check_refusal(
        &world,
        "U2",
        true,
        false,
        |kind| matches!(kind, RefusalKind::NotSigned { what } if what.contains("shared keys")),
    );
    let world = deceive(
        "U3",
        |_| {},
        |_, answer, _| {
            if let Answer::Survivors(message) = answer {
                message.signature.0[9] ^= 1;
            }
        },
    );
    check_refusal(
        &world,
        "U3",
        true,
        true,
        |kind| matches!(kind, RefusalKind::NotSigned { what } if what.contains("survivors")),
    );
}

#[test]
fn a_u2_whose_bytes_are_another_than_those_signed_is_refused() {
    // Its bitmap, the root over the bundles, and the proof of the victim's own, each with a bit flipped or cut.
    fn check(context: &'static str, change: fn(&mut Vec<u8>), expect: Expect) {
        let world = deceive(
            context,
            |_| {},
            move |_, answer, _| {
                if let Answer::Sharers(message) = answer {
                    change(&mut message.sharers);
                }
            },
        );
        check_refusal(&world, context, true, false, expect);
        assert!(!world.clients[VICTIM].sent().any(|request| matches!(request, Request::Ready(_))), "{context}");
    }
    let not_signed: Expect = |kind| matches!(kind, RefusalKind::NotSigned { what } if what.contains("shared keys"));
    check("a member less", |bytes| bytes[0] ^= 1 << 4, not_signed);
    check("another root", |bytes| bytes[1] ^= 1, not_signed);
    check("a position past the roster", |bytes| bytes[0] |= 1 << 5, |kind| matches!(kind, RefusalKind::Decode(_)));
    let altered: Expect = |kind| matches!(kind, RefusalKind::SecureSum(Refusal::OwnBundleAltered));
    check("another proof", |bytes| *bytes.last_mut().unwrap() ^= 1, altered);
    check("a shorter proof", |bytes| bytes.truncate(bytes.len() - 32), altered);
    check("a longer proof", |bytes| bytes.extend([0; 32]), altered);
}

#[test]
fn a_victim_with_a_u2_of_its_own_signs_no_survivors() {
    // It masks against another set than all others do: the sum of its pairwise masks would be known to the adversary.
    let mut world = World::new(24, FIVE);
    let shared = alter_answers(&mut world, VICTIM, |adversary, answer, _| {
        adversary.resharers(answer, |members, _| members[3].1 = Digest::of(b"another bundle"));
    });
    world.begin(1);
    assert!(world.run_until(|world| world.clients.iter().all(|c| c.sent().any(|r| matches!(r, Request::Ready(_))))));
    let readies: BTreeMap<Position, Signature> = (0..)
        .zip(&world.clients)
        .map(|(i, client)| {
            let ready = client.sent().find_map(|request| match request {
                Request::Ready(ready) => Some(ready.signature),
                _ => None,
            });
            (Position(i), ready.unwrap())
        })
        .collect();
    world.on_answer = None;
    // The coordinator grants, takes the vector, and shows survivors signed under the victim's own U2.
    hear(&mut world, Grant {}.into());
    assert!(world.clients[VICTIM].is_charged());
    let mut adversary = shared.lock().unwrap();
    adversary.context = Some(victims_context(&world, &adversary));
    let survivors = adversary.survivors(&readies);
    drop(adversary);
    hear(&mut world, survivors.into());
    check_refusal(&world, "U2 equivocated", true, true, |kind| {
        matches!(kind, RefusalKind::SecureSum(Refusal::ReadySignature { .. }))
    });
    assert!(!world.clients[VICTIM].did.iter().any(|did| matches!(did, Did::Persisted(Step::SignConsistency { .. }))));
}

/// The context that the victim's READY was made in, found by trying the two roots that it can be.
fn victims_context(world: &World, adversary: &Adversary) -> eranos_base::Context {
    let victim = &world.clients[VICTIM];
    let ready = victim.sent().find_map(|request| match request {
        Request::Ready(ready) => Some(ready.signature),
        _ => None,
    });
    let key = victim.member.identity.certificate_key.verifying_key();
    let roster = adversary.roster.as_ref().unwrap();
    let bundles: Vec<(Position, Digest)> = (0..)
        .zip(&world.clients)
        .map(|(i, client)| {
            let bundle = client.sent().find_map(|request| match request {
                Request::ShareKeys(message) => Some(eranos_secagg::Bundle::from_bytes(&message.bundle).unwrap()),
                _ => None,
            });
            let digest = if i == 3 { Digest::of(b"another bundle") } else { bundle.unwrap().digest(Position(i)) };
            (Position(i), digest)
        })
        .collect();
    let sharers = eranos_secagg::Sharers::new(bundles.len(), bundles).unwrap();
    let context = roster.context().with_sharers(sharers.root());
    let statement = context.statement(eranos_base::StatementKind::Ready, Position(VICTIM as u16), &[]);
    key.verify(&statement, &ready.unwrap()).expect("the victim's READY names its own U2");
    context
}

/// Lets the victim hear an answer that the coordinator's machine never gave.
fn hear(world: &mut World, answer: Answer) {
    world.clients[VICTIM].did.push(Did::Heard);
    world.feed_client(VICTIM, Event::Answer { answer, body: Bytes::new() });
}

// U3 and the quorum.

#[test]
fn survivors_that_do_not_fit_are_not_signed() {
    fn check(
        context: &'static str,
        change: impl Fn(&mut BTreeMap<Position, Signature>) + 'static,
        expect: fn(&Refusal) -> bool,
    ) {
        // One member is gone before U2, so that there is somebody outside it; the plan tolerates no other.
        let gone =
            |world: &mut World| world.clients[4].exit = Some(Exit { kind: SHARE_KEYS, how: ExitHow::DiesBefore });
        let world = deceive(context, gone, move |adversary, answer, _| {
            adversary.resurvivors(answer, |readies| change(readies))
        });
        check_refusal(
            &world,
            context,
            true,
            true,
            |kind| matches!(kind, RefusalKind::SecureSum(refusal) if expect(refusal)),
        );
        let signed = |did: &Did| matches!(did, Did::Persisted(Step::SignConsistency { .. }));
        assert!(!world.clients[VICTIM].did.iter().any(signed), "{context}");
    }
    check(
        "too small",
        |readies| _ = readies.remove(&Position(2)),
        |refusal| matches!(refusal, Refusal::TooFewSurvivors { n_survivors: 3, needed: 4 }),
    );
    check(
        "outside U2",
        |readies| _ = readies.insert(Position(4), Signature([1; 64])),
        |refusal| matches!(refusal, Refusal::SurvivorOutsideSharers { position: Position(4) }),
    );
    check(
        "a READY forged",
        |readies| readies.get_mut(&Position(2)).unwrap().0[7] ^= 1,
        |refusal| matches!(refusal, Refusal::ReadySignature { position: Position(2) }),
    );
    check(
        "a READY of another",
        |readies| {
            let other = readies[&Position(1)];
            readies.insert(Position(2), other);
        },
        |refusal| matches!(refusal, Refusal::ReadySignature { position: Position(2) }),
    );
}

#[test]
fn survivors_without_the_victim_are_not_signed_by_it() {
    let world = deceive(
        "all but the victim",
        |_| {},
        |adversary, answer, _| {
            adversary.resurvivors(answer, |readies| _ = readies.remove(&Position(VICTIM as u16)));
        },
    );
    check_refusal(&world, "all but the victim", true, true, |kind| {
        matches!(kind, RefusalKind::SecureSum(Refusal::NotASurvivor))
    });
}

#[test]
fn two_sets_of_survivors_find_no_two_quorums() {
    // Four see one set, the victim another: it signs, and then the quorum it is shown is not on what it signed.
    let world = deceive(
        "U3 equivocated",
        |_| {},
        |adversary, answer, _| {
            adversary.resurvivors(answer, |readies| _ = readies.remove(&Position(3)));
        },
    );
    check_refusal(&world, "U3 equivocated", true, true, |kind| {
        matches!(kind, RefusalKind::SecureSum(Refusal::QuorumSignature { .. }))
    });
    assert!(!world.clients[VICTIM].sent().any(|request| matches!(request, Request::Unmask(_))));
    assert!(world.settled_without(&[VICTIM]), "the four are a quorum of their own");
}

#[test]
fn no_share_is_released_without_a_quorum() {
    fn check(
        context: &'static str,
        change: impl Fn(&mut Vec<(Position, Signature)>) + 'static,
        expect: fn(&Refusal) -> bool,
    ) {
        let world = deceive(
            context,
            |_| {},
            move |_, answer, _| {
                if let Answer::Quorum(message) = answer {
                    let mut signatures = Quorum::from_bytes(&message.quorum).unwrap().signatures().to_vec();
                    assert!(signatures.len() >= 4);
                    change(&mut signatures);
                    message.quorum = Quorum::new(signatures).to_bytes();
                }
            },
        );
        check_refusal(
            &world,
            context,
            true,
            true,
            |kind| matches!(kind, RefusalKind::SecureSum(refusal) if expect(refusal)),
        );
        assert!(!world.clients[VICTIM].sent().any(|request| matches!(request, Request::Unmask(_))), "{context}");
        assert!(world.settled_without(&[VICTIM]), "{context}: the others go on");
    }
    check(
        "one missing",
        |signatures| signatures.truncate(3),
        |refusal| matches!(refusal, Refusal::QuorumTooSmall { n_signatures: 3, quorum: 4 }),
    );
    check(
        "one twice",
        |signatures| signatures[1] = signatures[0],
        |refusal| matches!(refusal, Refusal::QuorumSignature { .. }),
    );
    check(
        "one more, doubled",
        |signatures| signatures.push(signatures[3]),
        |refusal| matches!(refusal, Refusal::QuorumSignature { .. }),
    );
    check(
        "one forged",
        |signatures| signatures[2].1.0[40] ^= 1,
        |refusal| matches!(refusal, Refusal::QuorumSignature { .. }),
    );
    check(
        "one under another's name",
        |signatures| {
            let first = signatures[0].1;
            signatures[1].1 = first;
        },
        |refusal| matches!(refusal, Refusal::QuorumSignature { .. }),
    );
    check(
        "one from outside",
        |signatures| signatures.push((Position(77), Signature([1; 64]))),
        |refusal| matches!(refusal, Refusal::QuorumSignature { position: Position(77) }),
    );
    check("none", Vec::clear, |refusal| matches!(refusal, Refusal::QuorumTooSmall { n_signatures: 0, .. }));
}

// The order.

#[test]
fn every_answer_out_of_its_phase_ends_the_round() {
    // Everything that the victim hears in an honest round. The seed is the same in every run, so that what comes too
    // early are the real messages of this very round.
    let heard = Arc::new(std::sync::Mutex::new(Vec::<(Answer, Bytes)>::new()));
    let record = heard.clone();
    let mut world = World::new(25, FIVE);
    world.on_answer = Some(Box::new(move |i, answer, body| {
        if i == VICTIM {
            record.lock().unwrap().push((answer.clone(), body.clone()));
        }
    }));
    world.begin(1);
    world.run();
    assert!(world.settled_without(&[]));
    let heard = heard.lock().unwrap().clone();
    assert_eq!(heard.len(), 8, "configure, roster, credentials, sharers, grant, survivors, quorum, settled");
    let mut samples = heard.clone();
    let refusal = refusal_to_admit(&world, VICTIM, ComeBack::AfterMs(5));
    samples.push((refusal.into(), Bytes::new()));

    for (turn, (expected, _)) in heard.iter().enumerate() {
        for (sample, sample_body) in samples.iter().filter(|(sample, _)| sample.kind() != expected.kind()) {
            if turn == 0 && matches!(sample, Answer::ComeBackLater(_)) {
                continue;
            }
            let context = format!("{:#x} in place of {:#x}", sample.kind(), expected.kind());
            let (mut n_heard, sample, sample_body) = (0, sample.clone(), sample_body.clone());
            let mut world = World::new(25, FIVE);
            world.on_answer = Some(Box::new(move |i, answer, body| {
                if i == VICTIM {
                    if n_heard == turn {
                        (*answer, *body) = (sample.clone(), sample_body.clone());
                    }
                    n_heard += 1;
                }
            }));
            world.begin(1);
            world.run();
            // Charged once the grant has come, never before.
            check_refusal(&world, &context, turn > 0, turn > 4, |kind| matches!(kind, RefusalKind::OutOfPhase { .. }));
            world.check(&context, &[VICTIM]);
        }
    }

    // While it makes its contribution it waits for no answer at all.
    for (sample, body) in &samples {
        let context = format!("{:#x} before the contribution", sample.kind());
        let mut world = World::new(25, FIVE);
        world.clients[VICTIM].trains_ms = 600;
        world.begin(1);
        let contributes = |round: &client::Round| round.phase() == client::Phase::Contribute;
        assert!(world.run_until(|world| world.clients[VICTIM].round.as_ref().is_some_and(contributes)));
        world.clients[VICTIM].did.push(Did::Heard);
        world.feed_client(VICTIM, Event::Answer { answer: sample.clone(), body: body.clone() });
        check_refusal(&world, &context, true, false, |kind| matches!(kind, RefusalKind::OutOfPhase { .. }));
        world.run();
        world.check(&context, &[VICTIM]);
    }
}

#[test]
fn an_abort_of_the_coordinator_ends_the_round_without_a_refusal() {
    for turn in 0..8 {
        let mut n_heard = 0;
        let mut world = World::new(26, FIVE);
        world.on_answer = Some(Box::new(move |i, answer, _| {
            if i == VICTIM {
                if n_heard == turn {
                    *answer = Aborted { reason: "no".into() }.into();
                }
                n_heard += 1;
            }
        }));
        world.begin(1);
        world.run();
        let context = format!("aborted at answer {turn}");
        world.check(&context, &[VICTIM]);
        let victim = &world.clients[VICTIM];
        assert_eq!(victim.end, Some(End::Aborted { reason: "no".into() }), "{context}");
        assert_eq!(victim.is_charged(), turn > 4, "{context}");
    }
}

#[test]
fn what_a_coordinator_says_moves_no_cursor_and_turns_no_line() {
    const HOSTILE: &str = "\u{1b}[2J\u{7}\r\nnothing happened\u{9b}1A\u{202e}\u{2028}";
    let sayings: [fn(&Adversary, &mut Answer); 3] = [
        |adversary, answer| {
            let round = RoundRef { session: adversary.setup.session, round: RoundNumber(1) };
            let key = adversary.setup.ledger_key();
            *answer = ComeBackLater::sign(key, round, &adversary.victim, ComeBack::Never, HOSTILE).into();
        },
        |_, answer| *answer = Aborted { reason: HOSTILE.into() }.into(),
        |adversary, answer| adversary.replan(answer, |plan| plan.ledger_origin = HOSTILE.to_owned()),
    ];
    for say in sayings {
        let world = deceive(
            "hostile words",
            |_| {},
            move |adversary, answer, _| {
                if matches!(answer, Answer::Configure(_)) {
                    say(adversary, answer);
                }
            },
        );
        let said = world.clients[VICTIM].end.as_ref().unwrap().to_string();
        assert!(said.contains("nothing happened"), "{said:?}");
        assert!(!said.contains(|c: char| c.is_control() || "\u{202e}\u{2028}".contains(c)), "{said:?}");
    }
}

#[test]
fn messages_that_are_none_are_refused() {
    type Garble = (&'static str, bool, fn(&mut Answer));
    let garble: [Garble; 6] = [
        ("roster", false, |answer| {
            if let Answer::Roster(m) = answer {
                m.roster.truncate(100)
            }
        }),
        ("sharers", false, |answer| {
            if let Answer::Sharers(m) = answer {
                m.sharers.push(0)
            }
        }),
        ("parts", false, |answer| {
            if let Answer::Sharers(m) = answer {
                m.parts.truncate(100)
            }
        }),
        ("survivors", true, |answer| {
            if let Answer::Survivors(m) = answer {
                m.survivors.truncate(m.survivors.len() - 1)
            }
        }),
        ("quorum", true, |answer| {
            if let Answer::Quorum(m) = answer {
                m.quorum.clear()
            }
        }),
        ("receipt", true, |answer| {
            if let Answer::Settled(m) = answer {
                m.receipt.truncate(50)
            }
        }),
    ];
    for (context, charged, garble) in garble {
        let world = deceive(context, |_| {}, move |_, answer, _| garble(answer));
        check_refusal(&world, context, true, charged, |kind| matches!(kind, RefusalKind::Decode(_)));
    }
}

// The receipt.

/// A ledger of its own under `signer`, with `entries` in it.
pub(crate) fn forge_ledger(signer: Arc<LedgerSigner>, entries: &[EncodedEntry]) -> LogWriter<MemoryFolder> {
    let mut ledger = LogWriter::open_storage(MemoryFolder::default(), signer).unwrap();
    ledger.append_all(0, entries).unwrap();
    ledger
}

/// The entry that came with a receipt and its body.
pub(crate) fn encoded(receipt: &Receipt, body: &Bytes) -> EncodedEntry {
    EncodedEntry { leaf: receipt.entry.clone(), attachment: Some(body.to_vec()) }
}

/// The attempt that came with a receipt and its body.
fn attempt(receipt: &Receipt, body: &Bytes) -> eranos_ledger::Attempt {
    let Entry::Attempt(attempt) = Entry::parse(&receipt.entry, Some(body)).unwrap() else { panic!("an attempt") };
    *attempt
}

/// Puts `forged` into a ledger of its own, and its receipt in place of the one that was to be sent.
fn settle_with(setup: &Setup, forged: eranos_ledger::Attempt, message: &mut Settled, body: &mut Bytes) {
    let encoded = Entry::Attempt(Box::new(forged)).encode().unwrap();
    *body = encoded.attachment.clone().unwrap().into();
    message.receipt = forge_ledger(setup.signer.clone(), &[encoded]).receipt(0, 0).unwrap().encode();
}

#[test]
fn an_attachment_that_is_not_the_one_that_the_entry_names_is_no_receipt() {
    type Alter = fn(&mut Vec<u8>);
    let alterations: [(&'static str, Alter); 4] = [
        ("missing", Vec::clear),
        ("cut", |body| body.truncate(body.len() - 1)),
        ("longer", |body| body.push(b'\n')),
        ("flipped", |body| body[200] ^= 1),
    ];
    for (context, alter) in alterations {
        let world = deceive(
            context,
            |_| {},
            move |_, answer, body| {
                if let Answer::Settled(_) = answer {
                    let mut altered = body.to_vec();
                    alter(&mut altered);
                    *body = altered.into();
                }
            },
        );
        check_refusal(
            &world,
            context,
            true,
            true,
            |kind| matches!(kind, RefusalKind::Ledger(what) if what.contains("not the one that it names")),
        );
        assert_eq!(world.clients[VICTIM].budget.n_receipts(), 0, "{context}");
        assert!(world.clients[VICTIM].evidence.is_empty(), "{context}: the signed checkpoint is the true one");
    }
}

#[test]
fn an_entry_that_is_not_of_this_round_as_it_was_is_no_receipt() {
    fn check(context: &'static str, change: impl Fn(&mut eranos_ledger::Attempt) + 'static) {
        let world = deceive(
            context,
            |_| {},
            move |adversary, answer, body| {
                if let Answer::Settled(message) = answer {
                    let mut forged = attempt(&Receipt::decode(&message.receipt).unwrap(), body);
                    change(&mut forged);
                    settle_with(&adversary.setup, forged, message, body);
                }
            },
        );
        check_refusal(
            &world,
            context,
            true,
            true,
            |kind| matches!(kind, RefusalKind::Ledger(what) if what.contains(&format!("another {context} "))),
        );
        assert_eq!(world.clients[VICTIM].budget.n_receipts(), 0, "{context}");
        assert_eq!(world.clients[VICTIM].checkpoint, None, "{context}");
    }
    check("session", |attempt| attempt.session = SessionId(Digest::of(b"x")));
    check("session", |attempt| attempt.task = "another".parse().unwrap());
    check("round number", |attempt| attempt.round = RoundNumber(2));
    check("plan", |attempt| attempt.plan = Digest::of(b"x"));
    check("mechanism", |attempt| {
        let target = RecordTarget { noise: NoiseTarget::Distributed { epsilon: EPSILON + 0.5 }, ..target(FIVE, 16) };
        let weaker: Mechanism = mechanism(target);
        attempt.mechanism = weaker;
    });
    check("rotation seed", |attempt| attempt.rotation_seed.0[0] ^= 1);
    check("checkpoint", |attempt| attempt.weights_before = Digest::of(b"x"));
    check("outcome", |attempt| attempt.outcome = Outcome::AbortedAfterReveal);
    check("roster", |attempt| attempt.roster.as_mut().unwrap().digest = Digest::of(b"x"));
    check("list of participants", |attempt| {
        let participants = &mut attempt.roster.as_mut().unwrap().participants;
        participants[VICTIM].pseudonym = SigningKey::from_seed(&[3; 32]).verifying_key();
    });
    // Pseudonyms of nobody, with which a quorum can be signed.
    check("list of participants", |attempt| {
        let participants = &mut attempt.roster.as_mut().unwrap().participants;
        participants[2].pseudonym = SigningKey::from_seed(&[3; 32]).verifying_key();
    });
    check("count of this client's attempts", |attempt| {
        attempt.roster.as_mut().unwrap().participants[VICTIM].attempts = 0;
    });
    check("number of attempts", |attempt| attempt.attempts = 2);
    check("number of attempts", |attempt| attempt.attempts = u64::from(ATTEMPTS_MAX) + 1);
    check("epsilon", |attempt| attempt.epsilons.coordinator *= 0.9);
    check("epsilon", |attempt| attempt.epsilons.outsider *= 0.9);
    check("quorum", |attempt| {
        let survivors = attempt.roster.as_mut().unwrap().sharers.as_mut().unwrap().survivors.as_mut().unwrap();
        survivors.signatures[1].1.0[3] ^= 1;
    });
    check("quorum", |attempt| {
        let survivors = attempt.roster.as_mut().unwrap().sharers.as_mut().unwrap().survivors.as_mut().unwrap();
        survivors.signatures.truncate(3);
    });
    check("set of sharers", |attempt| {
        attempt.roster.as_mut().unwrap().sharers.as_mut().unwrap().root = Digest::of(b"x")
    });
    check("set of survivors", |attempt| {
        let sharers = attempt.roster.as_mut().unwrap().sharers.as_mut().unwrap();
        let survivors = sharers.survivors.as_mut().unwrap();
        survivors.bitmap = vec![0b0000_1111];
        survivors.signatures.retain(|(position, _)| *position < Position(4));
    });
}

#[test]
fn an_attempt_left_out_of_the_ledger_is_noticed_by_whoever_takes_part_again() {
    // Round 1 was charged to everybody and came to nothing. A coordinator that begins its ledger anew, without it, calls
    // round 2 the first attempt, with the epsilon of one.
    let mut world = World::new(29, FIVE);
    world.begin(1);
    assert!(world.run_until(|world| world.clients[VICTIM].is_charged()));
    world.feed(eranos_coordinator::round::Event::Stop { reason: "stopped".to_owned() });
    world.run();
    assert!(world.coordinator.abandoned.is_some());
    alter_answers(&mut world, VICTIM, |adversary, answer, body| {
        if let Answer::Settled(message) = answer {
            let mut forged = attempt(&Receipt::decode(&message.receipt).unwrap(), body);
            assert_eq!((forged.round, forged.attempts), (RoundNumber(2), 2));
            forged.attempts = 1;
            forged.epsilons = eranos_ledger::Epsilons::promised(&forged.mechanism, 1);
            settle_with(&adversary.setup, forged, message, body);
        }
    });
    world.begin(2);
    world.run();
    world.check("left out", &[VICTIM]);
    check_refusal(
        &world,
        "left out",
        true,
        true,
        |kind| matches!(kind, RefusalKind::Ledger(what) if what.contains("another number of attempts ")),
    );
}

#[test]
fn a_receipt_from_another_ledger_is_none() {
    let world = deceive(
        "another key",
        |_| {},
        |adversary, answer, body| {
            if let Answer::Settled(message) = answer {
                let receipt = Receipt::decode(&message.receipt).unwrap();
                let name = adversary.setup.signer.ledger_key().name().clone();
                let signer = Arc::new(LedgerSigner::new(name, SigningKey::from_seed(&[3; 32])));
                message.receipt = forge_ledger(signer, &[encoded(&receipt, body)]).receipt(0, 0).unwrap().encode();
            }
        },
    );
    check_refusal(&world, "another key", true, true, |kind| matches!(kind, RefusalKind::Ledger(_)));

    let world = deceive(
        "not an attempt",
        |_| {},
        |adversary, answer, body| {
            if let Answer::Settled(message) = answer {
                *body = Bytes::new();
                let key = adversary.setup.signer.ledger_key();
                let opened = eranos_ledger::LogOpened {
                    origin: key.name().clone(),
                    trust_domain: adversary.setup.trust_domain.clone(),
                    ledger_key: key,
                    date: eranos_ledger::Date::of(Timestamp::from_unix_ms(1_800_000_000_000)),
                };
                let entry = Entry::LogOpened(opened).encode().unwrap();
                let ledger = forge_ledger(adversary.setup.signer.clone(), &[entry]);
                message.receipt = ledger.receipt(0, 0).unwrap().encode();
            }
        },
    );
    check_refusal(
        &world,
        "not an attempt",
        true,
        true,
        |kind| matches!(kind, RefusalKind::Ledger(what) if what.contains("not an attempt")),
    );
}

#[test]
fn a_ledger_that_forks_shrinks_or_shows_an_older_round_is_no_receipt() {
    fn check(
        context: &'static str,
        forge: impl Fn(&Adversary, EncodedEntry, &[EncodedEntry]) -> Receipt + 'static,
        says: &'static str,
        is_evidence: bool,
    ) {
        let mut world = World::new(27, FIVE);
        world.begin(1);
        world.run();
        assert!(world.settled_without(&[]));
        let ledger = &world.coordinator.ledger;
        let encoded_at = |index| {
            let leaf = ledger.entry(index).unwrap();
            EncodedEntry { attachment: ledger.attachment(&leaf).unwrap(), leaf }
        };
        let entries: Vec<EncodedEntry> = (0..ledger.size()).map(encoded_at).collect();
        alter_answers(&mut world, VICTIM, move |adversary, answer, body| {
            if let Answer::Settled(message) = answer {
                let receipt = Receipt::decode(&message.receipt).unwrap();
                assert_eq!(receipt.old_size, 3, "the client says what it knows");
                let forged = forge(adversary, encoded(&receipt, body), &entries);
                let entries = [&entries[..], &[encoded(&receipt, body)]].concat();
                let named = entries.iter().find(|entry| entry.leaf == forged.entry).unwrap();
                *body = named.attachment.clone().unwrap().into();
                message.receipt = forged.encode();
            }
        });
        world.begin(2);
        world.run();
        world.check(context, &[VICTIM]);
        check_refusal(
            &world,
            context,
            true,
            true,
            |kind| matches!(kind, RefusalKind::Ledger(what) if what.contains(says)),
        );
        assert_eq!(world.clients[VICTIM].checkpoint.as_ref().unwrap().size, 3, "{context}: what it knew, it keeps");
        let n_evidence = usize::from(is_evidence);
        assert_eq!(world.clients[VICTIM].evidence.len(), n_evidence, "{context}: both checkpoints prove it to anybody");
    }
    // The same entry, in a history without the one before.
    check(
        "fork",
        |adversary, entry, entries| {
            let entries = [&entries[..2], &[entry.clone(), entry]].concat();
            forge_ledger(adversary.setup.signer.clone(), &entries).receipt(3, 3).unwrap()
        },
        "does not continue",
        true,
    );
    check(
        "shrunk",
        |adversary, entry, entries| {
            let entries = [&entries[..1], &[entry]].concat();
            forge_ledger(adversary.setup.signer.clone(), &entries).receipt(1, 2).unwrap()
        },
        "shrank",
        true,
    );
    check(
        "proved from nothing",
        |adversary, entry, entries| {
            let entries = [entries, &[entry]].concat();
            forge_ledger(adversary.setup.signer.clone(), &entries).receipt(3, 0).unwrap()
        },
        "from size 0",
        true,
    );
    check(
        "the round before",
        |adversary, entry, entries| {
            let entries = [entries, &[entry]].concat();
            forge_ledger(adversary.setup.signer.clone(), &entries).receipt(2, 3).unwrap()
        },
        "round number",
        false,
    );
}

#[test]
fn the_charge_comes_with_the_vector_and_no_sooner() {
    // A grant without an end: charged, uploaded, and then silence. The client leaves in time, and stays charged.
    let mut world = World::new(28, FIVE);
    world.begin(1);
    assert!(world.run_until(|world| world.clients[VICTIM].is_charged()));
    let uploaded = |world: &World| world.clients[VICTIM].sent().any(|request| request.kind() == MASKED_INPUT);
    assert!(uploaded(&world));
    world.coordinator.round = eranos_coordinator::round::Round::Over;
    world.feed_client(VICTIM, Event::Leave { reason: "no answer within the plan's time".to_owned() });
    let victim = &world.clients[VICTIM];
    assert!(matches!(victim.end, Some(End::Left { .. })));
    assert_eq!((victim.budget.n_charged(), victim.budget.n_receipts()), (1, 0));
}
