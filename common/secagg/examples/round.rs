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
//! Means of several rounds, of processor time where Linux tells it (in ticks of up to 4 ms, hence the several rounds),
//! otherwise of the clock.

#![expect(clippy::unwrap_used, reason = "a measurement may stop at whatever goes wrong")]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use eranos_base::{ClientId, Digest, Entropy, OsEntropy, Position, RoundNumber, SessionId, SigningKey};
use eranos_secagg::{
    Advertised, Bits, Bundle, Finished, GraphKind, Identity, Quorum, Roster, RosterEntry, SharePart, ShareRouter,
    Sharers, SparseParameters, StatementKey, Survivors, Terms, UnmaskAnswer, graph, roster, share_keys,
    terms::Dimension,
};

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
            id: ClientId::new(&terms.trust_domain, &format!("c{i:03}")).unwrap(),
            certificate: Digest::of(format!("{i}").as_bytes()),
            certificate_key: SigningKey::generate(&mut OsEntropy),
            statement_key: StatementKey::derive(&OsEntropy.bytes(), &terms.task),
        })
    };
    let identities: Vec<_> = (0..n1).map(identity).collect();
    let input = |i: usize| (0..dimension).map(move |k| (k * 31 + i * 7) as i64 % 1000 - 500).collect::<Vec<i64>>();
    let inputs: Vec<_> = (0..n1).map(input).collect();
    let n_survivors = n1 - n_dropped;

    println!(
        "{n1} clients, {n_dropped} dropped before upload, {dimension} values of {bits} bits, {graph:?} graph; milliseconds"
    );
    let mut lap = Lap { phases: Vec::new(), clock: Instant::now(), last: Duration::ZERO };
    for _ in 0..N_ROUNDS - 1 {
        round(&terms, &identities, &inputs, n_survivors, &mut lap);
    }
    let (up, down) = round(&terms, &identities, &inputs, n_survivors, &mut lap);
    for (phase, total) in &lap.phases {
        print(phase, *total);
    }
    print("whole round", lap.phases.iter().map(|(_, total)| *total).sum());
    println!("bytes of bodies per client: {up} up, {down} down; every sum was exact");
    // What n1 inputs need to sum without wrapping is not in them.
    let input_bits = bits.saturating_sub(n1.next_power_of_two().ilog2() as usize).max(1);
    let plain = (dimension * input_bits).div_ceil(8) as f64;
    println!(
        "over the plain input of {input_bits} bits a value: {:.3} up, {:.3} both ways",
        up as f64 / plain,
        (up + down) as f64 / plain
    );
}

/// One round; gives the bytes that a surviving client sends and receives.
fn round(
    terms: &Arc<Terms>,
    identities: &[Arc<Identity>],
    inputs: &[Vec<i64>],
    n_survivors: usize,
    lap: &mut Lap,
) -> (usize, usize) {
    let (n1, dimension) = (identities.len(), terms.dimension.len());
    let keys: Vec<_> = identities.iter().map(|identity| identity.certificate_key.verifying_key()).collect();
    lap.start();
    let clients: Vec<_> =
        identities.iter().map(|id| Advertised::begin(terms.clone(), id.clone(), &mut OsEntropy)).collect();
    lap.of("advertise_keys, clients");
    let entries: Vec<RosterEntry> = clients.iter().map(Advertised::entry).collect();
    for entry in &entries {
        entry.verify(terms).unwrap();
    }
    let roster = Arc::new(Roster::assemble(terms.clone(), entries).unwrap());
    let entries = roster::entries_to_bytes(roster.entries());
    lap.of("advertise_keys, coordinator");

    let share = |client: Advertised| {
        let read = roster::entries_from_bytes(&entries).unwrap().into_iter();
        client.share_keys(read.zip(&keys).map(|(entry, key)| entry.with_key(*key)).collect(), &mut OsEntropy).unwrap()
    };
    let clients: Vec<_> = clients.into_iter().map(share).collect();
    let bundles: Vec<_> = clients.iter().map(|client| client.bundle().to_bytes()).collect();
    lap.of("share_keys, clients");
    let mut router = ShareRouter::new(roster.clone());
    for (position, bundle) in roster.positions().zip(&bundles) {
        router.accept(position, Bundle::from_bytes(bundle).unwrap()).unwrap();
    }
    let routed = router.close().unwrap();
    let parts: Vec<_> =
        roster.positions().map(|holder| share_keys::parts_to_bytes(&routed.parts_for(holder))).collect();
    let sharers = routed.sharers().to_bytes();
    lap.of("share_keys, coordinator");

    let receive = |(client, parts): (eranos_secagg::SharedKeys, &Vec<u8>)| {
        let parts = share_keys::parts_from_bytes(parts).unwrap();
        client.receive(&Sharers::from_bytes(&sharers).unwrap(), &parts).unwrap()
    };
    let clients: Vec<_> = clients.into_iter().zip(&parts).map(receive).collect();
    lap.of("masked_input, clients: open shares, READY");
    let mut accumulator = routed.accumulate();
    for (position, client) in roster.positions().zip(&clients) {
        accumulator.ready(position, &client.ready()).unwrap();
    }
    lap.of("masked_input, coordinator: READYs");
    let masked: Vec<_> =
        clients.into_iter().take(n_survivors).zip(inputs).map(|(client, x)| client.mask(x).unwrap()).collect();
    lap.of("masked_input, clients: mask, pack, sign");
    let mut clients = Vec::new();
    for (position, (client, upload)) in roster.positions().zip(masked) {
        let finished = Finished::from_bytes(&upload.finished.to_bytes()).unwrap();
        accumulator.accept(position, &upload.packed, &finished).unwrap();
        clients.push(client);
    }
    let mut collector = accumulator.close().unwrap();
    lap.of("masked_input, coordinator: verify, add");

    let survivors = collector.survivors().to_bytes();
    let sign = |client: eranos_secagg::Masked| client.sign(&Survivors::from_bytes(&survivors, n1).unwrap()).unwrap();
    let clients: Vec<_> = clients.into_iter().map(sign).collect();
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
    let sum = unmasker.finish().unwrap();
    lap.of("unmask, coordinator");

    let expect = (0..dimension).map(|k| inputs[..n_survivors].iter().map(|x| x[k]).sum::<i64>());
    assert!(expect.eq(sum.centered()), "the sum is not exact");
    let up = 272 + bundles[0].len() + 64 + terms.bits.packed_len(terms.dimension) + 98 + 64 + answers[0].len();
    let down = entries.len() + sharers.len() + parts[0].len() + survivors.len() + quorum.len();
    if n_survivors == n1 {
        let lengths = Lengths { entry: 4 + roster.entries()[0].to_bytes().len() };
        let packed_len = terms.bits.packed_len(terms.dimension);
        let degree = roster.thresholds().degree();
        let expect = (lengths.up(degree, packed_len), lengths.down(n1, degree));
        assert_eq!((up, down), expect, "messages have other lengths");
        print_large(&lengths);
    }
    assert_eq!(sum.survivors().iter().last(), Some(Position((n_survivors - 1) as u16)));
    (up, down)
}

/// The bytes of a client's messages in a round without dropouts, of as many clients as one likes; held against the
/// messages of the round above.
struct Lengths {
    /// A roster's entry, with its length before it.
    entry: usize,
}

impl Lengths {
    /// Advert, bundle, READY, packed vector and its statement, consistency statement, unmask answer.
    fn up(&self, degree: usize, packed_len: usize) -> usize {
        272 + SharePart::LEN * degree + 64 + packed_len + 98 + 64 + (2 + 34 * degree + 64)
    }

    /// Roster, U2 and the parts, U3 and its READYs, quorum. Certificates are those seen before.
    fn down(&self, n1: usize, degree: usize) -> usize {
        let roster = 4 + "eranos/secagg/v1/entries".len() + 4 + 4 + self.entry * n1;
        roster + (2 + 34 * n1) + SharePart::LEN * degree + (n1.div_ceil(8) + 64 * n1) + (2 + 66 * n1)
    }
}

/// What 1,024 clients would send and receive, 2^20 values of 16 bits each, on the complete graph and on the sparse one for
/// a tenth corrupt and a third dropping out.
fn print_large(lengths: &Lengths) {
    static ONCE: std::sync::Once = std::sync::Once::new();
    let (n1, dimension) = (1024, 1 << 20);
    let sparse = SparseParameters::solve(n1, n1 / 10, n1 / 3, graph::SIGMA, graph::ETA).unwrap();
    ONCE.call_once(|| {
        for degree in [n1 - 1, sparse.degree] {
            let (up, down) = (lengths.up(degree, dimension * 26 / 8), lengths.down(n1, degree));
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

/// How often the round is gone through.
const N_ROUNDS: usize = 20;

/// Sums up what each phase took.
struct Lap {
    phases: Vec<(&'static str, Duration)>,
    clock: Instant,
    last: Duration,
}

impl Lap {
    /// Starts the first phase of another round.
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

fn print(what: &str, total: Duration) {
    println!("{:8.2}  {what}", total.as_secs_f64() * 1e3 / N_ROUNDS as f64);
}

/// How long this thread has run, if the system tells.
fn processor_time() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    Some(Duration::from_nanos(text.split(' ').next()?.parse().ok()?))
}
