//! What one whole round costs, all parties in one process and on one thread, every message encoded, decoded, signed
//! and verified:
//!
//! ```text
//! cargo build --release -p eranos-secagg --example round
//! taskset -c 0 target/release/examples/round [clients] [dimension] [bits] [dropped] [colluders] [complete|sparse]
//! ```
//!
//! On one core, or the masks of long vectors go to threads of their own, whose time would not be counted.
//!
//! The last `dropped` clients share keys and send no vector, and u_min = clients - max(dropped, 1).
//! Means of several rounds (of large cohorts: one), of processor time where Linux tells it (in ticks of up to 4 ms, hence
//! the several rounds), otherwise of the clock. Beside the unmasking stands what it cannot be faster than: the AES rounds
//! of all masks and the key agreements of all pairs, measured in the same run.

#![expect(clippy::unwrap_used, reason = "a measurement may stop at whatever goes wrong")]

use std::{
    collections::BTreeMap,
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use eranos_base::{ClientId, Digest, Entropy, OsEntropy, Position, RoundNumber, SessionId, SigningKey};
use eranos_secagg::{
    AddressedPart, Advert, Advertised, Bits, Bundle, Finished, FreshKeys, Graph, GraphKind, Identity, Member, Quorum,
    Roster, RosterEntry, SharePart, ShareRouter, ShortName, ShownRoster, ShownSharers, StatementKey, Survivors, Terms,
    Thresholds, UnmaskAnswer, VerifiedCertifications,
    kernel::{InstructionSet, aes_rounds},
    merkle, share_keys,
    terms::Dimension,
};
use x25519_dalek::{PublicKey, StaticSecret};

fn main() {
    if std::thread::available_parallelism().is_ok_and(|cores| cores.get() > 1) {
        eprintln!(
            "on several cores not all time is counted\nrun it on one: taskset -c 0 target/release/examples/round"
        );
        std::process::exit(2);
    }
    let mut arguments = std::env::args().skip(1);
    let mut argument = |default| arguments.next().map_or(default, |argument| argument.parse::<usize>().unwrap());
    let (n1, dimension, bits, n_dropped) = (argument(8), argument(131_072), argument(23), argument(1));
    let max_colluders = argument(1);
    let graph = match arguments.next().as_deref() {
        Some("sparse") => GraphKind::Sparse,
        Some("complete") | None => GraphKind::Complete,
        Some(other) => panic!("{other} is neither complete nor sparse"),
    };
    let terms = Arc::new(Terms {
        session: SessionId(Digest::of(b"session")),
        round: RoundNumber(1),
        plan: Digest::of(b"plan"),
        trust_domain: "example.org".parse().unwrap(),
        task: "task".parse().unwrap(),
        graph,
        max_colluders,
        u_min: n1 - n_dropped.max(1),
        n_max: n1,
        dimension: Dimension::new(dimension).unwrap(),
        bits: Bits::new(bits.try_into().unwrap()).unwrap(),
    });
    let identity = |i| {
        Arc::new(Identity {
            id: ClientId::new(&terms.trust_domain, &format!("c{i:05}")).unwrap(),
            certificate: Digest::of(format!("{i}").as_bytes()),
            certificate_key: SigningKey::generate(&mut OsEntropy),
            statement_key: StatementKey::derive(&OsEntropy.bytes(), &terms.task),
            verified: VerifiedCertifications::default(),
        })
    };
    let mut identities: Vec<_> = (0..n1).map(identity).collect();
    // As they stand in the roster.
    identities.sort_by_key(|identity| identity.statement_key.verifying_key());
    let n_survivors = n1 - n_dropped;

    println!(
        "{n1} clients, {n_dropped} dropped before upload, {dimension} values of {bits} bits, {graph:?} graph; milliseconds"
    );
    let n_rounds = if n1 < LARGE { N_ROUNDS } else { 1 };
    let mut lap = Lap { phases: Vec::new(), clock: Instant::now(), last: Duration::ZERO };
    if n_rounds > 1 {
        // What is verified once for a task is verified here.
        round(&terms, &identities, n_survivors, &mut lap);
        lap.phases.clear();
    }
    for _ in 0..n_rounds - 1 {
        round(&terms, &identities, n_survivors, &mut lap);
    }
    let bytes = round(&terms, &identities, n_survivors, &mut lap);
    let print = |what: &str, total: Duration| println!("{:10.2}  {what}", total.as_secs_f64() * 1e3 / n_rounds as f64);
    for (phase, total) in &lap.phases {
        print(phase, *total);
    }
    print("whole round", lap.phases.iter().map(|(_, total)| *total).sum());
    println!("bytes of bodies, of a client that survives; every sum was exact");
    for (phase, up, down) in bytes {
        println!("{up:10} up {down:10} down  {phase}");
    }
    let up: usize = bytes.iter().map(|(_, up, _)| up).sum();
    let down: usize = bytes.iter().map(|(.., down)| down).sum();
    println!("{up:10} up {down:10} down  in all");
    // What n1 inputs need to sum without wrapping is not in them.
    let input_bits = bits.saturating_sub(n1.next_power_of_two().ilog2() as usize).max(1);
    let plain = (dimension * input_bits).div_ceil(8) as f64;
    println!(
        "over the plain input of {input_bits} bits a value: {:.3} up, {:.3} both ways",
        up as f64 / plain,
        (up + down) as f64 / plain
    );
    // All but the vector is as long whatever its dimension.
    let (vector, large) = (terms.bits.packed_len(terms.dimension), Dimension::new(1 << 20).unwrap());
    let (up, plain) = (up - vector + terms.bits.packed_len(large), (large.len() * 2) as f64);
    println!(
        "with 2^20 inputs of 16 bits: {up} up; over the plain input {:.3} up, {:.3} both ways",
        up as f64 / plain,
        (up + down) as f64 / plain
    );
}

fn input(i: usize, dimension: usize) -> impl Iterator<Item = i64> {
    (0..dimension).map(move |k| (k * 31 + i * 7) as i64 % 1000 - 500)
}

/// By phase, the bytes that a client sends and receives.
type Bytes = [(&'static str, usize, usize); 5];

/// One round; gives the bytes of a surviving client.
fn round(terms: &Arc<Terms>, identities: &[Arc<Identity>], n_survivors: usize, lap: &mut Lap) -> Bytes {
    let (n1, dimension) = (identities.len(), terms.dimension.len());
    lap.start();
    let clients: Vec<_> =
        identities.iter().map(|id| Advertised::begin(terms.clone(), id.clone(), &mut OsEntropy)).collect();
    lap.of("advertise_keys, clients");
    let entries: Vec<RosterEntry> = clients.iter().map(Advertised::entry).collect();
    for entry in &entries {
        entry.verify(terms).unwrap();
    }
    let roster = Arc::new(Roster::assemble(terms.clone(), entries).unwrap());
    let show = roster.show();
    let rosters: Vec<Vec<u8>> = match roster.graph() {
        Graph::Complete { .. } => vec![show(Position(0)).to_bytes(); n1],
        Graph::Sparse { .. } => roster.positions().map(|position| show(position).to_bytes()).collect(),
    };
    lap.of("advertise_keys, coordinator");

    // Credentials were seen in an earlier round; under what, the client looks up.
    let known: BTreeMap<Digest, &Member> =
        roster.members().iter().map(|member| (member.credential.digest(), member)).collect();
    lap.start();
    let share = |(client, shown): (Advertised, &Vec<u8>)| {
        let shown = ShownRoster::from_bytes(shown).unwrap();
        let known: BTreeMap<ShortName, &Member> =
            known.iter().map(|(digest, member)| (ShortName::of(&shown.digest, digest), *member)).collect();
        let members = shown.names.iter().map(|name| known[name].clone()).collect();
        client.share_keys(shown, members, &mut OsEntropy).unwrap()
    };
    let clients: Vec<_> = clients.into_iter().zip(&rosters).map(share).collect();
    let bundles: Vec<_> = clients.iter().map(|client| client.bundle().to_bytes()).collect();
    lap.of("share_keys, clients");
    let mut router = ShareRouter::new(roster.clone());
    for (position, bundle) in roster.positions().zip(&bundles) {
        router.accept(position, Bundle::from_bytes(bundle).unwrap()).unwrap();
    }
    let routed = router.close().unwrap();
    let parts: Vec<_> =
        roster.positions().map(|holder| share_keys::parts_to_bytes(&routed.parts_for(holder))).collect();
    let sharers: Vec<_> = roster.positions().map(|holder| routed.sharers().shown_to(holder).to_bytes()).collect();
    lap.of("share_keys, coordinator");

    let receive = |((client, parts), sharers): ((eranos_secagg::SharedKeys, &Vec<u8>), &Vec<u8>)| {
        let parts = share_keys::parts_from_bytes(parts).unwrap();
        client.receive(&ShownSharers::from_bytes(sharers, n1).unwrap(), &parts).unwrap()
    };
    let clients: Vec<_> = clients.into_iter().zip(&parts).zip(&sharers).map(receive).collect();
    lap.of("masked_input, clients: open shares, READY");
    let mut accumulator = routed.accumulate();
    for (position, client) in roster.positions().zip(&clients) {
        accumulator.ready(position, &client.ready()).unwrap();
    }
    lap.of("masked_input, coordinator: READYs");
    let (mut masked, mut finished_len, mut expect) = (Vec::new(), 0, vec![0; dimension]);
    // One vector after the other: together they may be larger than the memory.
    for (i, (position, client)) in roster.positions().zip(clients).enumerate().take(n_survivors) {
        let x: Vec<i64> = input(i, dimension).collect();
        expect.iter_mut().zip(&x).for_each(|(sum, x)| *sum += x);
        lap.start();
        let (client, upload) = client.mask(&x).unwrap();
        lap.of("masked_input, clients: mask, pack, sign");
        let finished = upload.finished.to_bytes();
        finished_len = finished.len();
        accumulator.accept(position, &upload.packed, &Finished::from_bytes(&finished).unwrap()).unwrap();
        lap.of("masked_input, coordinator: verify, add");
        masked.push(client);
    }
    let mut collector = accumulator.close().unwrap();
    let clients = masked;
    lap.of("masked_input, coordinator: verify, add");

    let shown: Vec<Vec<u8>> = match roster.graph() {
        Graph::Complete { .. } => vec![collector.survivors().to_bytes(); n_survivors],
        Graph::Sparse { .. } => {
            let survivors = collector.survivors();
            survivors.set().iter().map(|position| survivors.shown_to(&roster, position).to_bytes()).collect()
        }
    };
    lap.of("consistency, coordinator");
    let sign = |(client, shown): (eranos_secagg::Masked, &Vec<u8>)| {
        client.sign(&Survivors::from_bytes(shown, n1).unwrap()).unwrap()
    };
    let clients: Vec<_> = clients.into_iter().zip(&shown).map(sign).collect();
    lap.of("consistency, clients");
    for (position, client) in roster.positions().zip(&clients) {
        collector.accept(position, &client.signature()).unwrap();
    }
    let (quorum, mut unmasker) = collector.close().unwrap();
    lap.of("consistency, coordinator");

    let quorum = quorum.to_bytes();
    let release =
        |client: eranos_secagg::Consistent| client.release(&Quorum::from_bytes(&quorum).unwrap()).unwrap().to_bytes();
    let answers: Vec<_> = clients.into_iter().map(release).collect();
    lap.of("unmask, clients");
    for (position, answer) in roster.positions().zip(&answers) {
        unmasker.accept(position, UnmaskAnswer::from_bytes(answer).unwrap()).unwrap();
    }
    lap.of("unmask, coordinator: check shares");
    let limit = (n1 >= LARGE).then(|| UnmaskLimit::of(&roster, n_survivors, lap));
    let resident = restart_peak();
    lap.start();
    let sum = unmasker.finish().unwrap();
    lap.of(FINISH);
    if let (Some(limit), Some((_, took))) = (limit, lap.phases.iter().find(|(phase, _)| *phase == FINISH)) {
        limit.print(*took);
        if let (Some(before), Some(peak)) = (resident, memory("VmHWM:")) {
            println!("memory of all parties together: {before} kB before, at most {peak} kB meanwhile");
        }
    }

    assert!(expect == sum.centered(), "the sum is not exact");
    let packed_len = terms.bits.packed_len(terms.dimension);
    // Their proofs differ: the longest.
    let roster_len = rosters.iter().map(Vec::len).max().unwrap_or(0);
    let bytes = [
        ("advertise_keys", Advert::LEN, roster_len),
        ("share_keys", bundles[0].len(), sharers[0].len() + parts[0].len()),
        ("masked_input", 64 + packed_len + finished_len, shown[0].len()),
        ("consistency", 64, quorum.len()),
        ("unmask", answers[0].len(), 0),
    ];
    if n_survivors == n1 {
        let (degree, quorum) = (roster.thresholds().degree(), roster.thresholds().quorum());
        let proof_len = roster_len - (36 + ShortName::LEN * n1 + FreshKeys::LEN * (degree + 1));
        let expect = (bytes_up(degree, packed_len), bytes_down(n1, degree, quorum, proof_len));
        let (up, down) = bytes.iter().fold((0, 0), |(ups, downs), (_, up, down)| (ups + up, downs + down));
        assert_eq!((up, down), expect, "messages have other lengths");
        print_large();
    }
    assert_eq!(sum.survivors().iter().last(), Some(Position((n_survivors - 1) as u16)));
    bytes
}

/// The bytes that a client sends in a round without dropouts, of as many clients as one likes; held against the messages of
/// the round above: advert, bundle, READY, packed vector and its statement, consistency statement, unmask answer.
fn bytes_up(degree: usize, packed_len: usize) -> usize {
    Advert::LEN + SharePart::LEN * degree + 64 + packed_len + 98 + 64 + (2 + 34 * degree + 64)
}

/// And receives: roster, U2 and the parts, U3 and its READYs, quorum. Credentials are those seen before.
fn bytes_down(n1: usize, degree: usize, quorum: usize, proof_len: usize) -> usize {
    let bitmap = n1.div_ceil(8);
    let roster = 36 + ShortName::LEN * n1 + FreshKeys::LEN * (degree + 1) + proof_len;
    // The first position's proof is one of the longest.
    let sharers = bitmap + 32 + 32 * n1.next_power_of_two().ilog2() as usize;
    roster + (sharers + AddressedPart::LEN * degree) + (bitmap + 64 * (degree + 1)) + (2 + 66 * quorum)
}

/// What 1,024 clients would send and receive, 2^20 values of 16 bits each, on the complete graph and on the sparse one for
/// a tenth corrupt and a third dropping out. How long the proof of the neighbors' keys is depends on who they are: the
/// longest of all clients', in each of several rings.
fn print_large() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    let (n1, dimension) = (1024_usize, 1 << 20);
    let (f, u_min) = (n1 / 10, n1 - n1 / 3);
    ONCE.call_once(|| {
        for thresholds in [Thresholds::complete(n1, f, u_min).unwrap(), Thresholds::sparse(n1, f, u_min).unwrap()] {
            let degree = thresholds.degree();
            let proof_len = if degree < n1 - 1 { longest_proof(n1, degree) } else { 0 };
            let up = bytes_up(degree, dimension * 26 / 8);
            let down = bytes_down(n1, degree, thresholds.quorum(), proof_len);
            let over_plain = |bytes: usize| bytes as f64 / (dimension * 2) as f64;
            println!(
                "n = 1024, {degree} neighbors, 2^20 inputs of 16 bits, by the lengths of these messages: {up} up, {down} \
                 down; over the plain input {:.3} up, {:.3} both ways",
                over_plain(up),
                over_plain(up + down)
            );
        }
    });
}

/// The bytes of the longest proof that one of `n1` clients is shown, in ten rings.
fn longest_proof(n1: usize, degree: usize) -> usize {
    let ids: Vec<ClientId> = (0..n1).map(|i| format!("spiffe://example.org/client/c{i}").parse().unwrap()).collect();
    let tree = merkle::Tree::new((0..n1).map(|i| merkle::leaf_hash(&i.to_le_bytes())).collect());
    let of_ring = |_| {
        let graph = Graph::sparse(&Digest(OsEntropy.bytes()), ids.iter(), degree).unwrap();
        let proof = |i: usize| {
            let mut at: Vec<usize> = graph.neighbors(Position(i as u16)).iter().map(|at| at.index()).collect();
            at.push(i);
            at.sort();
            32 * tree.proof(&at).len()
        };
        (0..n1).map(proof).max().unwrap()
    };
    (0..10).map(of_ring).max().unwrap()
}

/// What unmasking cannot be faster than.
struct UnmaskLimit {
    n_pairs: usize,
    masks: Duration,
    agreements: Duration,
}

impl UnmaskLimit {
    /// Of the last clients dropped: the pairs of each with its surviving neighbors, and every survivor's own mask.
    fn of(roster: &Roster, n_survivors: usize, lap: &Lap) -> Self {
        let survives = |neighbor: &Position| neighbor.index() < n_survivors;
        let dropped = roster.positions().skip(n_survivors);
        let n_pairs: usize =
            dropped.map(|dropped| roster.graph().neighbors(dropped).iter().filter(|n| survives(n)).count()).sum();

        let lane_len = if roster.terms().bits.get() <= 16 { 2 } else { 4 };
        let blocks_a_mask = roster.terms().dimension.len() * lane_len / 16;
        let (set, started) = (InstructionSet::detect(), lap.now());
        let n_rounds = (ROUNDS_PER_BLOCK * blocks_a_mask * N_SAMPLE).checked_div(aes_rounds(set, 0)).unwrap();
        black_box(aes_rounds(set, black_box(n_rounds)));
        let masks = (lap.now() - started) / N_SAMPLE as u32 * (n_pairs + n_survivors) as u32;

        let (secret, public) = (StaticSecret::from(OsEntropy.bytes()), PublicKey::from(OsEntropy.bytes()));
        let started = lap.now();
        for _ in 0..N_SAMPLE {
            black_box(black_box(&secret).diffie_hellman(black_box(&public)));
        }
        let agreements = (lap.now() - started) / N_SAMPLE as u32 * n_pairs as u32;
        Self { n_pairs, masks, agreements }
    }

    fn print(&self, took: Duration) {
        let (took, limit) = (took.as_secs_f64(), (self.masks + self.agreements).as_secs_f64());
        println!(
            "unmasking {} pairs took {took:.2} s; AES rounds {:.2} s and X25519 {:.2} s alone: {:.2} times that",
            self.n_pairs,
            self.masks.as_secs_f64(),
            self.agreements.as_secs_f64(),
            took / limit
        );
    }
}

/// Masks, and agreements, over which a limit is measured.
const N_SAMPLE: usize = 1000;
const ROUNDS_PER_BLOCK: usize = 10;
const FINISH: &str = "unmask, coordinator: rebuild secrets, take masks off";

/// The kB that this line of the process's status says.
fn memory(line: &str) -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|found| found.strip_prefix(line)?.split_whitespace().next()?.parse().ok())
}

/// Forgets how much memory there was at most, and gives how much there is.
fn restart_peak() -> Option<usize> {
    std::fs::write("/proc/self/clear_refs", "5").ok()?;
    memory("VmRSS:")
}

/// How often the round of a small cohort is gone through.
const N_ROUNDS: usize = 20;
/// From so many clients on once is enough.
const LARGE: usize = 100;

/// Sums up what each phase took.
struct Lap {
    phases: Vec<(&'static str, Duration)>,
    clock: Instant,
    last: Duration,
}

impl Lap {
    /// Leaves out what was since the last phase.
    fn start(&mut self) {
        self.last = self.now();
    }

    fn of(&mut self, phase: &'static str) {
        let now = self.now();
        let took = now - self.last;
        match self.phases.iter_mut().find(|(name, _)| *name == phase) {
            Some((_, total)) => *total += took,
            None => self.phases.push((phase, took)),
        }
        self.last = now;
    }

    fn now(&self) -> Duration {
        processor_time().unwrap_or_else(|| self.clock.elapsed())
    }
}

/// How long this thread has run, if the system tells.
fn processor_time() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    Some(Duration::from_nanos(text.split(' ').next()?.parse().ok()?))
}
