//! Ten thousand rounds in which clients leave before any of their messages: the sum is the plain sum of the survivors'
//! inputs, bit for bit, or the round ends, and how it must end is worked out beforehand from the rules alone.

use std::{
    collections::BTreeSet,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use eranos_base::{Entropy, OsEntropy, Position, SeededEntropy};
use eranos_secagg::{
    Advertised, Arrival, Bundle, Consistent, Finished, Graph, GraphKind, Incomplete, Masked, Quorum, Ready, Roster,
    RosterError, ShareRouter, SharedKeys, ShownRoster, ShownSharers, Survivors, ThresholdError, Thresholds,
    UnmaskAnswer,
    share_keys::{parts_from_bytes, parts_to_bytes},
};

use crate::federation::{Federation, federation, position};

/// The messages of a round, in order. Whoever leaves before one sends it and those after it never.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Leaves {
    BeforeAdvert,
    BeforeShares,
    BeforeReady,
    BeforeVector,
    BeforeStatement,
    BeforeAnswer,
    Never,
}

use Leaves::{BeforeAdvert, BeforeAnswer, BeforeReady, BeforeShares, BeforeStatement, BeforeVector, Never};

/// One round: who takes part, under which terms, and when each leaves.
#[derive(Clone, Debug)]
struct Schedule {
    graph: GraphKind,
    f: usize,
    u_min: usize,
    dimension: usize,
    bits: u8,
    leaves: Vec<Leaves>,
}

/// How a round must end.
#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    /// With the sum of these clients' inputs.
    Sum(BTreeSet<usize>),
    /// Before keys are shared.
    Roster(RosterError),
    /// Later.
    Incomplete(Incomplete),
}

impl Schedule {
    fn draw(dice: &mut Dice) -> Self {
        let graph = if dice.below(256) == 0 { GraphKind::Sparse } else { GraphKind::Complete };
        let (n, f, u_min) = loop {
            let n = match (graph, dice.below(100)) {
                // Small sparse graphs are complete ones.
                (GraphKind::Sparse, _) => 10 + dice.below(8),
                // The cost of a round grows with the square of its size.
                (GraphKind::Complete, 0..70) => 3,
                (GraphKind::Complete, 70..94) => 4,
                (GraphKind::Complete, 94..97) => 5,
                (GraphKind::Complete, _) => 6 + dice.below(5),
            };
            let (f, u_min) = (1 + dice.below(3), 2 + dice.below(n - 1));
            let thresholds = match graph {
                GraphKind::Complete => Thresholds::complete(n, f, u_min),
                GraphKind::Sparse => Thresholds::sparse(n, f, u_min),
            };
            // Whole rosters that do not fit their plan have tests of their own; here too few may be left of one that did.
            if thresholds.is_ok() {
                break (n, f, u_min);
            }
        };
        // Many, so that more than half the rounds end early, which are the cheap ones; and sometimes as many as the plan
        // tolerates, at one phase together.
        let leave_percent = [0, 25, 45, 60][dice.below(4)];
        let mut leaves: Vec<_> = (0..n)
            .map(|_| match dice.below(100) < leave_percent {
                true => PHASES[dice.below(PHASES.len())],
                false => Never,
            })
            .collect();
        if dice.below(4) == 0 {
            let phase = PHASES[dice.below(PHASES.len())];
            for _ in 0..n - u_min {
                leaves[dice.below(n)] = phase;
            }
        }
        let dimension = if dice.below(50) == 0 { 1 + dice.below(5000) } else { 1 + dice.below(40) };
        Self { graph, f, u_min, dimension, bits: 1 + dice.below(32) as u8, leaves }
    }

    /// Who sends the message before which others left at `phase`.
    fn send(&self, phase: Leaves) -> BTreeSet<usize> {
        (0..self.leaves.len()).filter(|i| self.leaves[*i] > phase).collect()
    }

    /// How the round must end, by PROTOCOL's rules: q = floor((n1 + f) / 2) + 1 and t = min(q, u_min - 1), or the sparse
    /// graph's; `peers` says whose shares a client gets.
    fn end(&self, peers: impl Fn(usize) -> Option<BTreeSet<usize>>) -> End {
        let adverts = self.send(BeforeAdvert);
        let (n1, u_min) = (adverts.len(), self.u_min);
        let threshold = match self.graph {
            _ if n1 < u_min => return End::Roster(ThresholdError::RosterTooSmall { n1, u_min }.into()),
            GraphKind::Complete => ((n1 + self.f) / 2 + 1).min(u_min - 1),
            GraphKind::Sparse => match Thresholds::sparse(n1, self.f, u_min) {
                Ok(thresholds) => thresholds.threshold(),
                Err(error) => return End::Roster(error.into()),
            },
        };
        let quorum = (n1 + self.f) / 2 + 1;
        // Positions count those who advertised.
        let index = |i: &usize| adverts.range(..i).count();
        let held_by = |left: &BTreeSet<usize>, dealer: &usize| match peers(index(dealer)) {
            Some(peers) => left.iter().filter(|i| peers.contains(&index(i))).count(),
            None => left.iter().filter(|i| *i != dealer).count(),
        };
        let out_of_reach = |dealers: &BTreeSet<usize>, left: &BTreeSet<usize>| {
            let dealer = dealers.iter().find(|dealer| held_by(left, dealer) < threshold)?;
            let n_shares = held_by(left, dealer);
            Some(End::Incomplete(Incomplete::Shares { dealer: position(index(dealer)), n_shares, threshold }))
        };
        let sharers = self.send(BeforeShares);
        if sharers.len() < u_min {
            return End::Incomplete(Incomplete::Sharers { n_sharers: sharers.len(), u_min });
        }
        if let Some(end) = out_of_reach(&sharers, &sharers) {
            return end;
        }
        let survivors = self.send(BeforeVector);
        let needed = quorum.max(u_min);
        if survivors.len() < needed {
            return End::Incomplete(Incomplete::Survivors { n_survivors: survivors.len(), needed });
        }
        if let Some(end) = out_of_reach(&sharers, &survivors) {
            return end;
        }
        let n_signatures = self.send(BeforeStatement).len();
        if n_signatures < quorum {
            return End::Incomplete(Incomplete::Quorum { n_signatures, quorum });
        }
        out_of_reach(&sharers, &self.send(BeforeAnswer)).unwrap_or(End::Sum(survivors))
    }
}

/// A round as it goes: the coordinator, the clients, and the bytes between them.
fn run(seed: u64) -> (Schedule, End) {
    let mut dice = Dice(SeededEntropy::new(seed));
    let schedule = Schedule::draw(&mut dice);
    let n = schedule.leaves.len();
    let federation = federation(n, schedule.f, schedule.u_min, schedule.dimension, schedule.bits, seed);
    let federation = federation.with_terms(|terms| terms.graph = schedule.graph);
    let mut graph = Graph::Complete { n };
    let end = go(&schedule, &federation, &mut dice, &mut graph);
    let peers = |i| match &graph {
        Graph::Complete { .. } => None,
        graph => Some(graph.neighbors(position(i)).iter().map(|peer| peer.index()).collect()),
    };
    assert_eq!(end, schedule.end(peers), "{schedule:?}");
    (schedule, end)
}

fn go(schedule: &Schedule, federation: &Federation, dice: &mut Dice, graph: &mut Graph) -> End {
    let n = schedule.leaves.len();
    // advertise_keys: those who come at all, in order of statement key.
    let mut advertised: Vec<Option<Advertised>> = (0..n).map(|_| None).collect();
    for i in schedule.send(BeforeAdvert) {
        advertised[i] = Some(federation.advertise(i));
    }
    let members: Vec<usize> = schedule.send(BeforeAdvert).into_iter().collect();
    let entries: Vec<_> = advertised.iter().flatten().map(Advertised::entry).collect();
    let roster = match Roster::assemble(federation.terms.clone(), entries.clone()) {
        Ok(roster) => Arc::new(roster),
        Err(error) => return End::Roster(error),
    };
    *graph = roster.graph().clone();
    let n1 = members.len();
    let at = |i: usize| position(members.binary_search(&i).expect("a member"));

    let show = roster.show();

    // share_keys. A message in four comes twice: an answer was lost.
    let mut router = ShareRouter::new(roster.clone());
    let mut shared: Vec<Option<SharedKeys>> = (0..n).map(|_| None).collect();
    for i in dice.shuffled(schedule.send(BeforeShares)) {
        let mut entropy = SeededEntropy::new(dice.next());
        let shown = ShownRoster::from_bytes(&show(at(i)).to_bytes()).expect("our own bytes");
        let client = advertised[i].take().expect("it advertised");
        let client = client.share_keys(shown, roster.members().to_vec(), &mut entropy);
        let client = client.expect("an honest roster");
        assert_eq!(client.roster().digest(), roster.digest());
        for &arrival in dice.arrivals() {
            let bundle = Bundle::from_bytes(&client.bundle().to_bytes()).expect("our own bytes");
            assert_eq!(router.accept(at(i), bundle), Ok(arrival));
        }
        shared[i] = Some(client);
    }
    let routed = match router.close() {
        Ok(routed) => routed,
        Err(incomplete) => return End::Incomplete(incomplete),
    };

    // masked_input, READY first.
    let mut ready: Vec<Option<Ready>> = (0..n).map(|_| None).collect();
    for i in schedule.send(BeforeReady) {
        let sharers = routed.sharers().shown_to(at(i)).to_bytes();
        let sharers = ShownSharers::from_bytes(&sharers, n1).expect("our own bytes");
        let parts = parts_from_bytes(&parts_to_bytes(&routed.parts_for(at(i)))).expect("our own bytes");
        let client = shared[i].take().expect("it shared").receive(&sharers, &parts).expect("an honest U2");
        assert_eq!(client.complaints(), []);
        ready[i] = Some(client);
    }
    let mut accumulator = routed.accumulate();
    for i in dice.shuffled(schedule.send(BeforeReady)) {
        let client = ready[i].as_ref().expect("it is ready");
        for &arrival in dice.arrivals() {
            assert_eq!(accumulator.ready(at(i), &client.ready()), Ok(arrival));
        }
    }
    let inputs: Vec<Vec<i64>> = (0..n).map(|_| dice.input(schedule)).collect();
    let mut masked: Vec<Option<Masked>> = (0..n).map(|_| None).collect();
    for i in dice.shuffled(schedule.send(BeforeVector)) {
        let (client, upload) = ready[i].take().expect("it is ready").mask(&inputs[i]).expect("the plan's length");
        let finished = upload.finished.to_bytes();
        for &arrival in dice.arrivals() {
            let finished = Finished::from_bytes(&finished).expect("our own bytes");
            assert_eq!(accumulator.accept(at(i), &upload.packed, &finished), Ok(arrival));
        }
        masked[i] = Some(client);
    }
    let mut collector = match accumulator.close() {
        Ok(collector) => collector,
        Err(incomplete) => return End::Incomplete(incomplete),
    };

    // consistency.
    let survivors = collector.survivors().clone();
    let mut signed: Vec<Option<Consistent>> = (0..n).map(|_| None).collect();
    for i in dice.shuffled(schedule.send(BeforeStatement)) {
        let shown = survivors.shown_to(&roster, at(i)).to_bytes();
        let survivors = Survivors::from_bytes(&shown, n1).expect("our own bytes");
        let client = masked[i].take().expect("it sent its vector").sign(&survivors).expect("honest survivors");
        for &arrival in dice.arrivals() {
            assert_eq!(collector.accept(at(i), &client.signature()), Ok(arrival));
        }
        signed[i] = Some(client);
    }
    let (quorum, mut unmasker) = match collector.close() {
        Ok(closed) => closed,
        Err(incomplete) => return End::Incomplete(incomplete),
    };

    // unmask.
    let quorum = quorum.to_bytes();
    for i in dice.shuffled(schedule.send(BeforeAnswer)) {
        let quorum = Quorum::from_bytes(&quorum).expect("our own bytes");
        let answer = signed[i].take().expect("it signed").release(&quorum).expect("an honest quorum").to_bytes();
        for &arrival in dice.arrivals() {
            let answer = UnmaskAnswer::from_bytes(&answer).expect("our own bytes");
            assert_eq!(unmasker.accept(at(i), answer), Ok(arrival));
        }
    }
    let is_complete = unmasker.is_complete();
    match unmasker.finish() {
        Ok(sum) => {
            assert!(is_complete);
            let survivors: BTreeSet<_> = sum.survivors().iter().map(|p: Position| members[p.index()]).collect();
            assert_eq!(sum.residues(), plain_sum(schedule, &inputs, &survivors));
            End::Sum(survivors)
        }
        Err(incomplete) => {
            assert!(!is_complete);
            End::Incomplete(incomplete)
        }
    }
}

/// The sum of the inputs of `clients` modulo 2^b, in whole numbers that do not wrap.
fn plain_sum(schedule: &Schedule, inputs: &[Vec<i64>], clients: &BTreeSet<usize>) -> Vec<u32> {
    let sum = |k: usize| clients.iter().map(|i| i128::from(inputs[*i][k])).sum::<i128>();
    (0..schedule.dimension).map(|k| sum(k).rem_euclid(1 << schedule.bits) as u32).collect()
}

struct Dice(SeededEntropy);

impl Dice {
    fn next(&mut self) -> u64 {
        u64::from_le_bytes(self.0.bytes())
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn shuffled(&mut self, clients: BTreeSet<usize>) -> Vec<usize> {
        let mut clients: Vec<_> = clients.into_iter().map(|i| (self.next(), i)).collect();
        clients.sort();
        clients.into_iter().map(|(_, i)| i).collect()
    }

    /// How often a message arrives, and what each arrival is.
    fn arrivals(&mut self) -> &'static [Arrival] {
        if self.below(4) == 0 { &[Arrival::New, Arrival::Again] } else { &[Arrival::New] }
    }

    /// Values of both signs, some far beyond b bits, which count modulo 2^b.
    fn input(&mut self, schedule: &Schedule) -> Vec<i64> {
        (0..schedule.dimension)
            .map(|_| {
                let value = self.next() as i64;
                if value % 3 == 0 { value } else { value >> (64 - u32::from(schedule.bits)) }
            })
            .collect()
    }
}

#[test]
fn ten_thousand_rounds_sum_exactly_or_end_as_the_rules_say() {
    let first_seed = u64::from_le_bytes(OsEntropy.bytes()) >> 16;
    let next = AtomicU64::new(0);
    let ends: Mutex<Vec<(Schedule, End)>> = Mutex::default();
    let failed: Mutex<Vec<u64>> = Mutex::default();
    let n_threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..n_threads {
            scope.spawn(|| {
                loop {
                    let round = next.fetch_add(1, Ordering::Relaxed);
                    if round >= N_ROUNDS {
                        break;
                    }
                    match catch_unwind(AssertUnwindSafe(|| run(first_seed + round))) {
                        Ok(end) => ends.lock().expect("not poisoned").push(end),
                        Err(_) => failed.lock().expect("not poisoned").push(first_seed + round),
                    }
                }
            });
        }
    });
    let (ends, failed) = (ends.into_inner().expect("not poisoned"), failed.into_inner().expect("not poisoned"));
    assert!(failed.is_empty(), "the rounds of these seeds fail: {failed:?}");
    assert_eq!(ends.len() as u64, N_ROUNDS);

    // No end is rare, or the schedules would say little about it. These bounds are missed once in 10^6 runs or less.
    let count = |is: fn(&Schedule, &End) -> bool| ends.iter().filter(|(schedule, end)| is(schedule, end)).count();
    let counts = [
        ("summed", 2500, count(|_, end| matches!(end, End::Sum(_)))),
        (
            "summed without somebody",
            200,
            count(|schedule, end| matches!(end, End::Sum(survivors) if survivors.len() < schedule.leaves.len())),
        ),
        (
            "summed although somebody left after its vector",
            80,
            count(|schedule, end| {
                let late = |i: &usize| [BeforeStatement, BeforeAnswer].contains(&schedule.leaves[*i]);
                matches!(end, End::Sum(survivors) if survivors.iter().any(late))
            }),
        ),
        (
            "summed sparsely",
            3,
            count(|schedule, end| schedule.graph == GraphKind::Sparse && matches!(end, End::Sum(_))),
        ),
        ("ended", 3000, count(|_, end| !matches!(end, End::Sum(_)))),
        ("ended for want of a roster", 100, count(|_, end| matches!(end, End::Roster(_)))),
        ("ended in share_keys", 100, count(|_, end| matches!(end, End::Incomplete(Incomplete::Sharers { .. })))),
        ("ended in masked_input", 100, count(|_, end| matches!(end, End::Incomplete(Incomplete::Survivors { .. })))),
        ("ended without a quorum", 100, count(|_, end| matches!(end, End::Incomplete(Incomplete::Quorum { .. })))),
        ("ended for want of shares", 100, count(|_, end| matches!(end, End::Incomplete(Incomplete::Shares { .. })))),
    ];
    println!("from seed {first_seed}: {counts:?}");
    for (what, at_least, found) in counts {
        assert!(found >= at_least, "from seed {first_seed} {found} of {N_ROUNDS} rounds {what}, too few");
    }
}

/// Rounds of one run; each run draws others.
const N_ROUNDS: u64 = 10_000;
/// When a client may leave.
const PHASES: [Leaves; 6] = [BeforeAdvert, BeforeShares, BeforeReady, BeforeVector, BeforeStatement, BeforeAnswer];
