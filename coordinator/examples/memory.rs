//! How much of the heap the coordinator's part of one round takes, phase by phase. Clients and coordinator speak the real
//! messages in one process; only what is allocated while the coordinator works is counted. As in the running coordinator,
//! an answer stays until its client's next request, and as many uploads are staged as there are grants.
//!
//! ```text
//! cargo build --release -p eranos-coordinator --example memory
//! target/release/examples/memory [clients] [parameters] [dropped] [colluders] [complete|sparse]
//! ```
//!
//! The last `dropped` clients share keys and send no vector, and u_min = clients - max(dropped, 1). It ends in an error if
//! uploads take more than a vector for each grant and two, or the unmasking four or more, beside what stays of keys and
//! messages. A vector is what the sum is added up in: 4 bytes a value, 2 up to 16 bits.

#![expect(clippy::unwrap_used, reason = "a measurement may stop at whatever goes wrong")]

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use eranos_base::{
    ClientId, Digest, Entropy, OsEntropy, RoundNumber, SigningKey, TaskId, Timestamp, limits::UPLOAD_GRANTS_MAX,
};
use eranos_coordinator::{
    exchanges::{AnswerFrame, Exchanges},
    round::{Action, Event, Message, Peer, Phase, Release, Round, RoundSpec},
};
use eranos_privacy::{
    Groups, Mechanism, Probability, Promise,
    mechanism::{NoiseTarget, RecordTarget, design},
};
use eranos_secagg::{
    Advertised, GraphKind, Identity, Member, Quorum, ShownRoster, ShownSharers, StatementKey, Survivors, Terms,
    VerifiedCertifications, share_keys::parts_from_bytes,
};
use eranos_wire::{
    Answer,
    messages::select::{CheckIn, PLAN_VERSION},
};
use peak_alloc::PeakAlloc;

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut argument = |default| arguments.next().map_or(default, |argument| argument.parse::<usize>().unwrap());
    let (clients, parameters, dropped) = (argument(50), argument(1 << 20), argument(5));
    let colluders = argument(1);
    let graph = match arguments.next().as_deref() {
        Some("sparse") => GraphKind::Sparse,
        Some("complete") | None => GraphKind::Complete,
        Some(other) => panic!("{other} is neither complete nor sparse"),
    };
    println!("{clients} clients, {dropped} dropped before upload, {parameters} parameters, {graph:?} graph");
    let used = measure(&Size { clients, parameters, dropped, colluders, graph });
    let megabytes = |bytes: usize| bytes as f64 / 1e6;
    for (phase, held, most) in &used.phases {
        println!("{:9.2} MB held after it, {:9.2} MB at most: {phase}", megabytes(*held), megabytes(*most));
    }
    println!(
        "a vector has {:.2} MB; beside keys and messages there are at most {:.2} of them while vectors come in, {:.2} while \
         masks come off, beside up to {:.2} MB of their keys",
        megabytes(used.vector_len),
        used.vectors_uploading(),
        used.vectors_unmasking(),
        megabytes(used.mask_keys_len),
    );
    if !used.is_within_bounds() {
        eprintln!("that is more than it should be");
        std::process::exit(1);
    }
}

/// What is measured.
pub(crate) struct Size {
    pub(crate) clients: usize,
    pub(crate) parameters: usize,
    pub(crate) dropped: usize,
    pub(crate) colluders: usize,
    pub(crate) graph: GraphKind,
}

/// Bytes of the heap.
#[derive(Debug, Default)]
pub(crate) struct Used {
    vector_len: usize,
    /// Each phase, what was held after it, and the most at once since the phase before.
    phases: Vec<(&'static str, usize, usize)>,
    /// What there was beside the sum before the first vector came, and the most until the last was added.
    uploading: (usize, usize),
    /// The same before the last released share, with the keys of the masks, and the most while they came off.
    unmasking: (usize, usize),
    mask_keys_len: usize,
}

impl Used {
    /// The vectors while uploads come in, beside keys and messages: what is staged, the sum, and what adding takes.
    pub(crate) fn vectors_uploading(&self) -> f64 {
        self.vectors(self.uploading)
    }

    /// The vectors while the masks come off, beside keys and messages.
    pub(crate) fn vectors_unmasking(&self) -> f64 {
        self.vectors(self.unmasking)
    }

    fn vectors(&self, (beside, most): (usize, usize)) -> f64 {
        most.saturating_sub(beside) as f64 / self.vector_len as f64
    }

    /// One vector for each grant and two; fewer than four.
    pub(crate) fn is_within_bounds(&self) -> bool {
        self.vectors_uploading() <= (UPLOAD_GRANTS_MAX + 2) as f64 && self.vectors_unmasking() < 4.0
    }
}

pub(crate) fn measure(size: &Size) -> Used {
    let u_min = size.clients - size.dropped.max(1);
    let n_survivors = size.clients - size.dropped;
    let (spec, d_pad, bits) = spec(size, u_min);
    let ledger_key = spec.key.verifying_key();
    let mut identities: Vec<Arc<Identity>> = (0..size.clients).map(|i| identity(&spec, i)).collect();
    // As they stand in the roster.
    identities.sort_by_key(|identity| identity.statement_key.verifying_key());
    let mut coordinator = Coordinator::new(spec, &identities);
    let mut used = Used { vector_len: d_pad * if bits <= 16 { 2 } else { 4 }, ..Used::default() };

    for i in 0..size.clients {
        let task = coordinator.task.clone();
        let (plan_version, nonce) = (PLAN_VERSION, i as u64);
        let check_in = || Message::CheckIn(CheckIn { task, plan_version, ledger_key, ledger_size: 0, nonce });
        coordinator.hear(i, true, check_in);
    }
    used.phases.push(coordinator.phase("select, configure"));
    let plans = coordinator.answers();
    let Answer::Configure(configure) = &plans[0].1 else { panic!("no plan") };
    let terms = Arc::new(configure.plan.verify(&ledger_key).unwrap().terms().unwrap());
    let clients: Vec<_> =
        identities.iter().map(|id| Advertised::begin(terms.clone(), id.clone(), &mut OsEntropy)).collect();

    for (i, client) in clients.iter().enumerate() {
        let possession = identities[i].possession(&terms);
        coordinator.hear(i, false, || Message::Advertise { advert: client.advert().to_bytes().to_vec(), possession });
    }
    used.phases.push(coordinator.phase("advertise_keys"));
    let members: Vec<Member> = clients.iter().map(|client| client.entry().member()).collect();
    let share = |(client, (_, answer)): (Advertised, (usize, Answer))| {
        let Answer::Roster(roster) = answer else { panic!("no roster") };
        client.share_keys(ShownRoster::from_bytes(&roster.roster).unwrap(), members.clone(), &mut OsEntropy).unwrap()
    };
    let shared: Vec<_> = clients.into_iter().zip(coordinator.answers()).map(share).collect();

    for (i, client) in shared.iter().enumerate() {
        coordinator.hear(i, false, || Message::ShareKeys(client.bundle().to_bytes()));
    }
    used.phases.push(coordinator.phase("share_keys"));
    let receive = |(client, (_, answer)): (eranos_secagg::SharedKeys, (usize, Answer))| {
        let Answer::Sharers(message) = answer else { panic!("no U2") };
        let parts = parts_from_bytes(&message.parts).unwrap();
        client.receive(&ShownSharers::from_bytes(&message.sharers, size.clients).unwrap(), &parts).unwrap()
    };
    let mut ready: BTreeMap<usize, _> =
        shared.into_iter().zip(coordinator.answers()).map(receive).enumerate().collect();

    for i in n_survivors..size.clients {
        coordinator.hear(i, false, || Message::Abort("gone".to_owned()));
    }
    for (i, client) in ready.iter().take(n_survivors) {
        coordinator.hear(*i, false, || Message::Ready(client.ready()));
    }
    // By now nobody need be sent its shares again.
    let (beside, most_before) = (coordinator.held - used.vector_len, coordinator.peak);
    coordinator.peak = coordinator.held;
    // Whoever holds a grant sends at once, so that as many vectors are staged as may be.
    let (mut staged, mut masked, mut expect) = (VecDeque::new(), BTreeMap::new(), vec![0; d_pad]);
    let mut answers = VecDeque::from(coordinator.answers());
    loop {
        while let Some((i, Answer::Grant(_))) = answers.front() {
            let x: Vec<i64> = (0..d_pad).map(|k| (k * 31 + i * 7) as i64 % 1000 - 500).collect();
            expect.iter_mut().zip(&x).for_each(|(sum, x)| *sum += x);
            let (client, upload) = ready.remove(i).unwrap().mask(&x).unwrap();
            masked.insert(*i, client);
            staged.push_back((*i, coordinator.work(|_| upload.packed.clone()), upload.finished));
            answers.pop_front();
        }
        let Some((i, packed, finished)) = staged.pop_front() else { break };
        coordinator.hear(i, false, || Message::MaskedInput { packed, finished: finished.to_bytes() });
        answers.extend(coordinator.answers());
    }
    used.uploading = (beside, coordinator.peak);
    coordinator.peak = coordinator.peak.max(most_before);
    used.phases.push(coordinator.phase("masked_input"));
    let sign = |(i, answer): (usize, Answer)| {
        let Answer::Survivors(message) = answer else { return None };
        let survivors = Survivors::from_bytes(&message.survivors, size.clients).unwrap();
        Some((i, masked.remove(&i)?.sign(&survivors).unwrap()))
    };
    let mut signed: BTreeMap<usize, _> = answers.into_iter().filter_map(sign).collect();
    assert_eq!(signed.len(), n_survivors, "every survivor hears of U3");

    for (i, client) in &signed {
        coordinator.hear(*i, false, || Message::Consistency(client.signature()));
    }
    used.phases.push(coordinator.phase("consistency"));
    for (i, answer) in coordinator.answers() {
        let Answer::Quorum(message) = answer else { panic!("no quorum") };
        let quorum = Quorum::from_bytes(&message.quorum).unwrap();
        let answer = signed.remove(&i).unwrap().release(&quorum).unwrap();
        let (held, most) = (coordinator.held, std::mem::replace(&mut coordinator.peak, 0));
        coordinator.hear(i, false, || Message::Unmask { shares: answer.to_bytes(), ledger_size: 0 });
        if coordinator.released.is_some() {
            used.mask_keys_len = mask_keys_len(size, &terms, u_min);
            used.unmasking = (held - used.vector_len + used.mask_keys_len, coordinator.peak);
            coordinator.peak = coordinator.peak.max(most);
            break;
        }
        coordinator.peak = coordinator.peak.max(most);
    }
    used.phases.push(coordinator.phase("unmask"));
    let Release { sum, .. } = coordinator.released.as_ref().unwrap();
    assert!(sum.centered() == expect, "the sum is not exact");
    used
}

/// The most bytes of the keys of all masks that come off: 25 each, in a list for each dealer, which has grown by doubling, and
/// once more in one list of all.
fn mask_keys_len(size: &Size, terms: &Terms, u_min: usize) -> usize {
    let thresholds = match terms.graph {
        GraphKind::Complete => eranos_secagg::Thresholds::complete(size.clients, size.colluders, u_min),
        GraphKind::Sparse => eranos_secagg::Thresholds::sparse(size.clients, size.colluders, u_min),
    };
    (size.clients + size.dropped * thresholds.unwrap().degree()) * 25 * 4
}

/// A round without noise: what stands in a vector is nothing to the memory. With d_pad and b.
fn spec(size: &Size, u_min: usize) -> (RoundSpec, usize, u8) {
    let target = RecordTarget {
        groups: Groups::default(),
        l2_clip_norm: 1.0,
        n_parameters: size.parameters as u32,
        sampling_probability: Probability::ONE,
        expected_lot: 40,
        record_bound: 40,
        local: None,
        n_max: size.clients as u16,
        u_min: u_min as u16,
        max_colluders: size.colluders as u16,
        max_attempts: 10,
        noise: NoiseTarget::None,
        delta: 1e-5,
    };
    let mechanism = Mechanism::from(design(&target).unwrap());
    let (d_pad, bits) = (mechanism.common().d_pad as usize, mechanism.common().bits);
    let checkpoint = Bytes::from(vec![0; 4 * size.parameters]);
    let spec = RoundSpec {
        trust_domain: "example.org".parse().unwrap(),
        ledger_origin: "example.org/ledger".to_owned(),
        task: "task".parse().unwrap(),
        session_nonce: OsEntropy.bytes(),
        round: RoundNumber(1),
        model_spec: Vec::new(),
        data_spec: Vec::new(),
        checkpoint_digest: Digest::of(&checkpoint),
        checkpoint,
        mechanism,
        graph: size.graph,
        received: Arc::default(),
        spent: Arc::default(),
        ready_slot_ms: 100,
        phase_timeout_ms: 60_000,
        waits: [Duration::from_secs(60); Phase::ALL.len()],
        key: Arc::new(SigningKey::generate(&mut OsEntropy)),
    };
    (spec, d_pad, bits)
}

fn identity(spec: &RoundSpec, i: usize) -> Arc<Identity> {
    Arc::new(Identity {
        id: ClientId::new(&spec.trust_domain, &format!("c{i:05}")).unwrap(),
        certificate: Digest::of(&i.to_le_bytes()),
        certificate_key: SigningKey::generate(&mut OsEntropy),
        statement_key: StatementKey::derive(&OsEntropy.bytes(), &spec.task),
        verified: VerifiedCertifications::default(),
    })
}

/// The coordinator, and how much of the heap it has.
struct Coordinator {
    task: TaskId,
    /// Kept, or its end would count: it was there before.
    _checkpoint: Bytes,
    peers: Vec<Peer>,
    round: Round,
    exchanges: Exchanges<usize>,
    /// Answers on their way.
    sent: Vec<(usize, AnswerFrame)>,
    released: Option<Release>,
    n_requests: u64,
    held: usize,
    peak: usize,
}

impl Coordinator {
    fn new(spec: RoundSpec, identities: &[Arc<Identity>]) -> Self {
        let peer = |identity: &Arc<Identity>| Peer {
            id: identity.id.clone(),
            key: identity.certificate_key.verifying_key(),
            certificate: identity.certificate,
        };
        Self {
            task: spec.task.clone(),
            _checkpoint: spec.checkpoint.clone(),
            peers: identities.iter().map(peer).collect(),
            round: Round::new(spec, NOW),
            exchanges: Exchanges::default(),
            sent: Vec::new(),
            released: None,
            n_requests: 0,
            held: 0,
            peak: 0,
        }
    }

    /// Counts what a piece of the coordinator's work allocates and frees.
    fn work<T>(&mut self, work: impl FnOnce(&mut Self) -> T) -> T {
        HEAP.reset_peak_usage();
        let before = HEAP.current_usage();
        let result = work(self);
        let (after, most) = (HEAP.current_usage(), HEAP.peak_usage());
        self.peak = self.peak.max(self.held + most.saturating_sub(before));
        // What it frees it had allocated, but for the empty round that it began with.
        self.held = (self.held + after).saturating_sub(before);
        result
    }

    /// Takes a message, which `read` reads off the network, and answers whom it may.
    fn hear(&mut self, i: usize, is_check_in: bool, read: impl FnOnce() -> Message) {
        self.n_requests += 1;
        let request = Digest::of(&self.n_requests.to_le_bytes());
        self.work(|coordinator| {
            let (from, message) = (coordinator.peers[i].clone(), read());
            let _ = coordinator.exchanges.arrive(&from.id, request, is_check_in, i);
            let round = std::mem::replace(&mut coordinator.round, Round::Over);
            let (round, actions) = round.handle(Event::Message { from, message }, NOW, &mut OsEntropy);
            coordinator.round = round;
            for action in actions {
                match action {
                    Action::Answer { to, answer, body } => coordinator.answer(&[to], &answer, body),
                    Action::AnswerAll { to, answer } => coordinator.answer(&to, &answer, Bytes::new()),
                    Action::Settle(release) => coordinator.released = Some(*release),
                    Action::Abandon(abandoned) => panic!("{}", abandoned.reason),
                    Action::Persist(_) | Action::WakeAt(_) | Action::Receipt { .. } | Action::Note(_) => {}
                }
            }
        });
    }

    fn answer(&mut self, to: &[ClientId], answer: &Answer, body: Bytes) {
        let frame = AnswerFrame::new(answer, body).unwrap();
        for to in to {
            if let Some(i) = self.exchanges.answer(to, matches!(answer, Answer::Configure(_)), &frame) {
                self.sent.push((i, frame.clone()));
            }
        }
    }

    /// What the clients hear, in order of the clients.
    fn answers(&mut self) -> Vec<(usize, Answer)> {
        let sent = std::mem::take(&mut self.sent);
        let decode = |(i, frame): (usize, AnswerFrame)| (i, Answer::decode(frame.kind, &frame.header).unwrap());
        sent.into_iter().map(decode).collect()
    }

    /// Ends a phase.
    fn phase(&mut self, name: &'static str) -> (&'static str, usize, usize) {
        (name, self.held, std::mem::replace(&mut self.peak, self.held))
    }
}

const NOW: Timestamp = Timestamp::from_unix_ms(1_800_000_000_000);
