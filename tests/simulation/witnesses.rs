//! Clients whose policies demand witnesses, and a coordinator that shows two of them two histories.

use std::{
    path::Path,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use eranos_base::{OsEntropy, Timestamp};
use eranos_client::round::{End, RefusalKind};
use eranos_ledger::{
    Date, EncodedEntry, Entry, LogOpened, LogWriter, Receipt, SignedCheckpoint, WitnessKey, memory::MemoryFolder,
    witness::Witness, witnessed::DemandError,
};
use eranos_wire::{
    Answer,
    messages::{Blob, configure::Cosigned},
};

use super::{
    adversary::{Adversary, alter_answers},
    coordinator_attacks::{VICTIM, encoded, forge_ledger},
    world::{ADVERTISE, Did, FIVE, World, cosigned},
};

/// A federation, a witness of its ledger that everybody pins, and another one that nobody does.
struct Watched {
    world: World,
    dir: tempfile::TempDir,
    witnesses: [Witness; 2],
}

impl Watched {
    fn new(seed: u64, lag_max: u32) -> Self {
        let mut world = World::new(seed, FIVE);
        let dir = tempfile::tempdir().expect("a folder");
        let key = world.setup.signer.ledger_key();
        let witnesses = ["pinned", "stranger"].map(|name| {
            let dir = dir.path().join(name);
            Witness::init(&dir, name.parse().expect("a name"), &key, &mut OsEntropy).expect("made");
            Witness::open(&dir).expect("opens")
        });
        for client in &mut world.clients {
            let policy = &mut Arc::make_mut(&mut client.member).policy;
            (policy.witnesses, policy.witnesses_min, policy.witness_lag_max) = (vec![witnesses[0].key()], 1, lag_max);
        }
        Self { world, dir, witnesses }
    }

    fn key(&self) -> WitnessKey {
        self.witnesses[0].key()
    }

    /// The witness is given a copy of the ledger as it is now, and cosigns it. Gives the note.
    fn cosign(&mut self, which: usize) -> Note {
        let copy = self.dir.path().join("copy");
        let _ = std::fs::remove_dir_all(&copy);
        self.world.coordinator.ledger.storage().write_to(&copy).unwrap();
        cosign(&mut self.witnesses[which], &copy)
    }

    fn round(&mut self, number: u64) {
        self.world.begin(number);
        self.world.run();
    }

    /// The victim refused, and nothing of it had left: no key, no vector, no charge.
    #[track_caller]
    fn refused(&self, context: &str, kind: impl Fn(&RefusalKind) -> bool, n_evidence: usize) {
        let victim = &self.world.clients[VICTIM];
        let Some(End::Refused(refusal)) = &victim.end else { panic!("{context}: {:?}", victim.end) };
        assert!(kind(&refusal.kind), "{context}: {refusal}");
        let sent = |did: &Did| matches!(did, Did::Sent { request, .. } if request.kind() >= ADVERTISE && request.kind() < ABORT);
        assert!(!victim.did.iter().any(sent), "{context}: something left");
        assert!(!victim.is_charged(), "{context}");
        assert_eq!(victim.evidence.len(), n_evidence, "{context}");
    }
}

fn cosign(witness: &mut Witness, copy: &Path) -> Note {
    let signed = witness.cosign(copy, Timestamp::from_unix_ms(1_800_000_000_000)).expect("cosigned");
    (signed.checkpoint().size, signed.note().encode().into_bytes())
}

fn too_few(kind: &RefusalKind) -> bool {
    matches!(kind, RefusalKind::Witnesses(DemandError::TooFew { found: 0, min: 1, .. }))
}

fn forked(kind: &RefusalKind) -> bool {
    matches!(kind, RefusalKind::Ledger(what) if what.starts_with("FORK: "))
}

#[test]
fn a_client_that_demands_a_witness_waits_for_its_cosignature() {
    let mut watched = Watched::new(81, 2);
    // So few entries may be there before anybody cosigned.
    watched.round(1);
    assert!(watched.world.settled_without(&[]));
    watched.round(2);
    watched.refused("not cosigned", too_few, 0);
    assert!(watched.world.coordinator.abandoned.is_some(), "nobody takes part");
    // A cosignature by somebody else is none.
    let stranger = watched.cosign(1);
    watched.world.coordinator.cosigned = vec![stranger];
    watched.round(3);
    watched.refused("by a stranger", too_few, 0);
    let first = watched.cosign(0);
    watched.world.coordinator.cosigned = vec![first];
    watched.round(4);
    assert!(watched.world.settled_without(&[]), "{:?}", watched.world.clients[VICTIM].end);
    // It carries for two more entries, and then another is due.
    for number in [5, 6] {
        watched.round(number);
        assert!(watched.world.settled_without(&[]));
    }
    watched.round(7);
    watched.refused("too old", too_few, 0);
    let second = watched.cosign(0);
    watched.world.coordinator.cosigned.push(second);
    watched.round(8);
    assert!(watched.world.settled_without(&[]));
    watched.world.check("cosigned again", &[]);
    // The ledger's own key is no witness, whatever the policy says.
    let ledger = watched.world.setup.signer.ledger_key();
    let own = WitnessKey::new(ledger.name().clone(), *ledger.key()).expect("a key");
    Arc::make_mut(&mut watched.world.clients[VICTIM].member).policy.witnesses = vec![own];
    watched.round(9);
    watched.refused("the ledger's own key", too_few, 0);
}

/// The history that is shown to the victim alone: an entry more before its round's.
fn branch(adversary: &Adversary, honest: &LogWriter<MemoryFolder>, round: EncodedEntry) -> LogWriter<MemoryFolder> {
    let opening = (0..2).map(|index| EncodedEntry { leaf: honest.entry(index).expect("there"), attachment: None });
    let key = adversary.setup.signer.ledger_key();
    let opened = LogOpened {
        origin: key.name().clone(),
        trust_domain: adversary.setup.trust_domain.clone(),
        ledger_key: key,
        date: Date::of(Timestamp::from_unix_ms(0)),
    };
    let between = Entry::LogOpened(opened).encode().expect("encodes");
    forge_ledger(adversary.setup.signer.clone(), &opening.chain([between, round]).collect::<Vec<_>>())
}

/// What was cosigned: the size of the ledger, and the note.
type Note = (u64, Vec<u8>);
/// The ledger that only the victim saw, once it has.
type Branch = Arc<Mutex<Option<LogWriter<MemoryFolder>>>>;
/// What the victim is shown, and what it does about it.
type Way =
    (&'static str, fn(&LogWriter<MemoryFolder>, &[Note; 2]) -> Vec<Cosigned>, u32, fn(&RefusalKind) -> bool, usize);

/// A federation whose victim was shown a receipt from a branch of its own in round 1; a witness has cosigned the other.
fn split(lag_max: u32) -> (Watched, Branch, [Note; 2]) {
    let mut watched = Watched::new(82, lag_max);
    let before = watched.cosign(0);
    watched.world.coordinator.cosigned = vec![before.clone()];
    let honest = World::new(82, FIVE).coordinator.ledger;
    let shown = Arc::new(Mutex::new(None));
    let keep = shown.clone();
    alter_answers(&mut watched.world, VICTIM, move |adversary, answer, body| {
        if let Answer::Settled(message) = answer {
            let receipt = Receipt::decode(&message.receipt).expect("a receipt");
            let ledger = branch(adversary, &honest, encoded(&receipt, body));
            message.receipt = ledger.receipt(3, receipt.old_size).expect("proved").encode();
            *keep.lock().expect("not poisoned") = Some(ledger);
        }
    });
    watched.round(1);
    assert!(watched.world.settled_without(&[]), "nobody can tell yet: {:?}", watched.world.clients[VICTIM].end);
    let sizes = [1, VICTIM].map(|i| watched.world.clients[i].checkpoint.as_ref().map(|checkpoint| checkpoint.size));
    assert_eq!(sizes, [Some(3), Some(4)]);
    let after = watched.cosign(0);
    watched.world.coordinator.cosigned = vec![after.clone()];
    watched.world.on_answer = None;
    (watched, shown, [before, after])
}

#[test]
fn a_coordinator_that_forks_its_ledger_gets_no_second_vector_where_a_witness_saw_the_other_branch() {
    // Whatever it shows to the victim: proofs of the victim's own branch, of none, nothing, or what was cosigned before the
    // branches parted.
    let ways: [Way; 6] = [
        ("its own branch's proofs", |branch, notes| cosigned(branch, &notes[1..], 4), 100, forked, 1),
        (
            "the larger log's note alone",
            |_, notes| vec![Cosigned { note: Blob(notes[1].1.clone()), consistency: Vec::new() }],
            100,
            forked,
            1,
        ),
        (
            // It convicts nobody, and is not kept.
            "the larger log's text, which the ledger's key did not sign",
            |_, notes| {
                let note = String::from_utf8(notes[1].1.clone()).expect("text");
                let (text, signatures) = note.split_once("\n\n").expect("a note");
                let cosignature = signatures.lines().last().expect("a signature");
                let note = format!("{text}\n\n{cosignature}\n").into_bytes();
                vec![Cosigned { note: Blob(note), consistency: Vec::new() }]
            },
            100,
            forked,
            0,
        ),
        ("nothing", |_, _| Vec::new(), 1, too_few, 0),
        ("what both continue", |branch, notes| cosigned(branch, &notes[..1], 4), 1, too_few, 0),
        (
            // The cosignature of another text.
            "a note made to fit",
            |branch, notes| {
                let own = branch.checkpoint().note().encode();
                let theirs = String::from_utf8(notes[1].1.clone()).expect("text");
                let cosignature = theirs.lines().last().expect("a signature");
                cosigned(branch, &[(4, format!("{own}{cosignature}\n").into_bytes())], 4)
            },
            1,
            too_few,
            0,
        ),
    ];
    for (context, show, lag_max, kind, n_evidence) in ways {
        let (mut watched, branch, notes) = split(lag_max);
        alter_answers(&mut watched.world, VICTIM, move |_, answer: &mut Answer, _: &mut Bytes| {
            if let Answer::Configure(configure) = answer {
                let branch = branch.lock().expect("not poisoned");
                configure.cosigned = show(branch.as_ref().expect("shown"), &notes);
            }
        });
        watched.round(2);
        watched.refused(context, kind, n_evidence);
        assert!(watched.world.settled_without(&[VICTIM]), "{context}: the others go on");
        // What it keeps convicts: two checkpoints of the ledger's key, one of them cosigned by the witness.
        let victim = &watched.world.clients[VICTIM];
        assert_eq!(victim.checkpoint.as_ref().map(|checkpoint| checkpoint.size), Some(4), "{context}");
        for note in &victim.evidence {
            let signed = SignedCheckpoint::open(note, &watched.world.setup.signer.ledger_key()).expect("signed");
            assert!(watched.key().verify(signed.note()).is_ok(), "{context}");
        }
        let refusal = match &victim.end {
            Some(End::Refused(refusal)) => refusal,
            end => panic!("{end:?}"),
        };
        let lines = format!("{refusal}\n{}", refusal.next_step());
        assert_eq!(lines.lines().count(), 2, "{lines}");
        assert_eq!(refusal.is_final(), forked(&refusal.kind), "{context}: a cosignature may come, a fork stays");
    }
}

#[test]
fn a_client_that_is_new_to_the_ledger_begins_with_what_a_witness_has_seen() {
    let mut watched = Watched::new(83, 1);
    let first = watched.cosign(0);
    watched.world.coordinator.cosigned = vec![first];
    watched.round(1);
    assert!(watched.world.settled_without(&[]));
    let second = watched.cosign(0);
    watched.world.coordinator.cosigned.push(second);
    // It has never heard of this ledger.
    watched.world.clients[VICTIM].checkpoint = None;
    let honest = World::new(83, FIVE).coordinator.ledger;
    alter_answers(&mut watched.world, VICTIM, move |adversary, answer, body| {
        if let Answer::Settled(message) = answer {
            let receipt = Receipt::decode(&message.receipt).expect("a receipt");
            assert_eq!(receipt.old_size, 3, "it holds the receipt against what was cosigned");
            let ledger = branch(adversary, &honest, encoded(&receipt, body));
            message.receipt = ledger.receipt(3, 3).expect("proved").encode();
        }
    });
    watched.round(2);
    let victim = &watched.world.clients[VICTIM];
    let Some(End::Refused(refusal)) = &victim.end else { panic!("{:?}", victim.end) };
    assert!(matches!(&refusal.kind, RefusalKind::Ledger(what) if what.contains("does not continue")), "{refusal}");
    assert_eq!(victim.checkpoint.as_ref().map(|checkpoint| checkpoint.size), Some(3));
    assert_eq!(victim.evidence.len(), 1);
}

const ABORT: u8 = 0x18;
