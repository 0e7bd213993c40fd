//! Valid inputs of every body, out of one honest round.

use std::sync::{Arc, Mutex, OnceLock};

use bytes::Bytes;
use eranos_base::RoundNumber;
use eranos_ledger::{
    Receipt,
    tile::{Tile, TileKind, parse_entries, push_entry},
};
use eranos_nn::{DataSpec, ModelSpec, model::BUILTIN_NAMES};
use eranos_privacy::{
    Groups,
    groups::{AdaptiveClip, Metrics, Share},
    mechanism::{ClientTarget, LocalTraining, NoiseTarget, RecordTarget, SiloTraining, design_client},
};
use eranos_wire::{Answer, Request};

use crate::simulation::world::{self, DELTA, EPSILON, FIVE, World, records, target};

/// Every message of one honest round, and the world after it.
pub(crate) struct Recorded {
    pub(crate) requests: Vec<(usize, Request, Bytes)>,
    pub(crate) answers: Vec<(usize, Answer, Bytes)>,
    plan: Vec<u8>,
    mechanism: Vec<u8>,
    entries: Vec<Vec<u8>>,
    /// Of the last entry.
    attachment: Vec<u8>,
    receipt: Vec<u8>,
    budgets: Vec<Vec<u8>>,
    model: Vec<u8>,
    ledger_key: String,
}

/// The seed of the round: worlds of this seed have its keys, so that its messages are real ones in them.
pub(crate) const SEED: u64 = 50;

pub(crate) fn recorded() -> &'static Recorded {
    static RECORDED: OnceLock<Recorded> = OnceLock::new();
    RECORDED.get_or_init(record)
}

fn record() -> Recorded {
    let requests: Arc<Mutex<Vec<_>>> = Arc::default();
    let answers: Arc<Mutex<Vec<_>>> = Arc::default();
    let mut world = World::new(SEED, FIVE);
    let into = requests.clone();
    world.on_request = Some(Box::new(move |i, request, body| {
        into.lock().expect("not poisoned").push((i, request.clone(), body.clone()));
    }));
    let into = answers.clone();
    world.on_answer = Some(Box::new(move |i, answer, body| {
        into.lock().expect("not poisoned").push((i, answer.clone(), body.clone()));
    }));
    world.begin(1);
    world.run();
    assert!(world.settled_without(&[]));
    let ledger = &world.coordinator.ledger;
    Recorded {
        requests: std::mem::take(&mut requests.lock().expect("not poisoned")),
        answers: std::mem::take(&mut answers.lock().expect("not poisoned")),
        plan: world.coordinator.plan.as_ref().expect("it was sent").to_bytes(),
        mechanism: world.setup.mechanism.encode(),
        entries: (0..ledger.size()).map(|index| ledger.entry(index).expect("it is there")).collect(),
        attachment: {
            let last = ledger.entry(ledger.size() - 1).expect("it is there");
            ledger.attachment(&last).expect("it is there").expect("an attempt has one")
        },
        receipt: ledger.receipt(ledger.size() - 1, 1).expect("it is there").encode(),
        budgets: world.clients.iter().map(|client| client.file.clone()).collect(),
        model: world.setup.model.to_canonical(),
        ledger_key: world.setup.signer.ledger_key().to_string(),
    }
}

/// Every corpus with the name of its body.
pub(crate) fn all() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    vec![
        ("wire", wire()),
        ("framing", framing()),
        ("secagg", secagg()),
        ("plan", plan()),
        ("mechanism", mechanism()),
        ("ledger", ledger()),
        ("tile", tile()),
        ("budget", budget()),
        ("model", model()),
        ("data", data()),
        ("names", names()),
    ]
}

pub(crate) fn wire() -> Vec<Vec<u8>> {
    let recorded = recorded();
    let request = |request: &Request| [&[request.kind()][..], &request.encode().expect("short")].concat();
    let answer = |answer: &Answer| [&[answer.kind()][..], &answer.encode().expect("short")].concat();
    let requests = recorded.requests.iter().filter(|(i, ..)| *i == 0).map(|(_, message, _)| request(message));
    let answers = recorded.answers.iter().filter(|(i, ..)| *i == 0).map(|(_, message, _)| answer(message));
    requests.chain(answers).collect()
}

pub(crate) fn framing() -> Vec<Vec<u8>> {
    let frame = |header: &[u8], body: &[u8]| {
        let kind = eranos_wire::framing::Kind(0x15);
        let opening = eranos_wire::framing::encode_opening(kind, header, body.len() as u64).expect("short");
        [&[7], &opening[..], body].concat()
    };
    vec![frame(b"", b""), frame(b"header", b""), frame(b"header", b"and a body"), frame(&[1; 300], &[2; 1000])]
}

pub(crate) fn secagg() -> Vec<Vec<u8>> {
    let mut inputs = Vec::new();
    for (_, request, body) in &recorded().requests {
        match request {
            Request::Advertise(message) => inputs.push(message.advert.clone()),
            Request::ShareKeys(message) => inputs.push(message.bundle.clone()),
            Request::MaskedInput(message) => inputs.extend([message.finished.clone(), body.to_vec()]),
            Request::Unmask(message) => inputs.push(message.shares.clone()),
            _ => {}
        }
    }
    for (_, answer, _) in recorded().answers.iter().filter(|(i, ..)| *i == 0) {
        match answer {
            Answer::Roster(message) => inputs.push(message.roster.clone()),
            Answer::Sharers(message) => inputs.extend([message.sharers.clone(), message.parts.clone()]),
            Answer::Survivors(message) => inputs.push(message.survivors.clone()),
            Answer::Quorum(message) => inputs.push(message.quorum.clone()),
            _ => {}
        }
    }
    inputs
}

pub(crate) fn plan() -> Vec<Vec<u8>> {
    let plan = eranos_wire::RoundPlan::from_bytes(&recorded().plan).expect("our own bytes");
    let later = eranos_wire::RoundPlan { round: RoundNumber(9), ..plan };
    vec![recorded().plan.clone(), later.to_bytes()]
}

/// One of each form: alone, with everything beside it, of silos that train by themselves, of clients.
pub(crate) fn mechanism() -> Vec<Vec<u8>> {
    let share = Share::from_millionths(10_000).expect("a share");
    let adaptive = AdaptiveClip { l2_clip_norm_min: 0.5, l2_clip_norm_max: 2.0, share };
    let metrics = Metrics::new(4.0, 0.01).expect("shares");
    let groups = Groups::new(Some(metrics), Some(adaptive)).expect("groups");
    let noise = NoiseTarget::Local { epsilon: EPSILON };
    let local = Some(SiloTraining { steps: 3, learning_rate: 0.5, update_clip_norm: 0.2 });
    let of_clients = design_client(&ClientTarget {
        groups,
        l2_clip_norm: 1.0,
        n_parameters: 16,
        n_max: 5,
        u_min: FIVE.u_min,
        max_colluders: FIVE.f,
        training: LocalTraining { steps: 4, batch_size: 8, learning_rate: 0.5 },
        max_attempts: 4,
        noise,
        delta: DELTA,
    });
    vec![
        recorded().mechanism.clone(),
        world::mechanism(RecordTarget { groups, ..target(FIVE, 16) }).encode(),
        world::mechanism(RecordTarget { local, noise, ..target(FIVE, 16) }).encode(),
        of_clients.expect("reachable").encode(),
    ]
}

pub(crate) fn ledger() -> Vec<Vec<u8>> {
    let recorded = recorded();
    let checkpoint = Receipt::decode(&recorded.receipt).expect("our own bytes").checkpoint;
    let text = checkpoint.split(|byte| *byte == b'\n').take(3).flat_map(|line| [line, b"\n"].concat()).collect();
    let attempt = [recorded.entries.last().expect("an attempt").as_slice(), &recorded.attachment].concat();
    recorded
        .entries
        .iter()
        .cloned()
        .chain([attempt, recorded.receipt.clone(), checkpoint, text])
        .chain(kinds())
        .collect()
}

/// One entry of each kind that a round leaves none of, out of the stored log, but for the attempts.
fn kinds() -> impl Iterator<Item = Vec<u8>> {
    const BUNDLE: &[u8] = include_bytes!("../../common/ledger/tests/vectors/kinds/tile/entries/000.p/14");
    let tile = Tile { kind: TileKind::Entries, index: 0, width: 14 };
    let entries = parse_entries(&tile, BUNDLE).expect("the stored bundle");
    let short = entries.into_iter().filter(|entry| entry.len() < 1500).map(<[u8]>::to_vec).collect::<Vec<_>>();
    assert!(short.len() >= 11, "{}", short.len());
    short.into_iter()
}

pub(crate) fn tile() -> Vec<Vec<u8>> {
    let mut bundle = vec![3, 0];
    assert!(recorded().entries.iter().take(3).all(|entry| push_entry(&mut bundle, entry)));
    let paths =
        ["tile/0/000", "tile/entries/000.p/7", "tile/1/x001/x234/067.p/255"].map(|path| path.as_bytes().to_vec());
    let hashes = [&[2, 0][..], &[7; 64]].concat();
    paths.into_iter().chain([bundle, hashes]).collect()
}

pub(crate) fn budget() -> Vec<Vec<u8>> {
    recorded().budgets[..1].to_vec()
}

pub(crate) fn model() -> Vec<Vec<u8>> {
    let builtin = BUILTIN_NAMES.iter().map(|name| ModelSpec::builtin(name).expect("built in"));
    let keras = [
        include_bytes!("../../common/nn/src/model/cnn.json").to_vec(),
        include_bytes!("../../common/nn/src/model/recommender.json").to_vec(),
    ];
    builtin.map(|spec| spec.to_canonical()).chain([recorded().model.clone()]).chain(keras).collect()
}

pub(crate) fn data() -> Vec<Vec<u8>> {
    let images = DataSpec::Images { shape: [28, 28, 1], n_classes: 10 };
    vec![records(3, 4).to_canonical(), records(1, 2).to_canonical(), images.to_canonical()]
}

pub(crate) fn names() -> Vec<Vec<u8>> {
    let fixed =
        ["example.org", "a-task", "spiffe://example.org/client/c01", "example.org/ledger", "2026-02-28", "0.1.0"];
    let digest = eranos_base::Digest::of(b"x").to_string();
    let fixed = fixed.into_iter().map(str::to_owned);
    fixed.chain([digest.clone(), digest.repeat(2), recorded().ledger_key.clone()]).map(String::into_bytes).collect()
}
