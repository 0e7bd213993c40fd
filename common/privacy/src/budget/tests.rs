use super::*;
use crate::{
    accountant::filter::{Planned, RenyiFilter},
    groups::{AdaptiveClip, Groups, Share},
    mechanism::{
        ClientTarget, LocalTraining, Noise, NoiseTarget, Probability, RecordMechanism, RecordParameters, RecordTarget,
        design, design_client,
    },
};

fn mechanism() -> Mechanism {
    static MECHANISM: std::sync::LazyLock<Mechanism> =
        std::sync::LazyLock::new(|| mechanism_with(NoiseTarget::Distributed { epsilon: 4.0 }));
    MECHANISM.clone()
}

fn mechanism_with(noise: NoiseTarget) -> Mechanism {
    let mechanism = design(&RecordTarget {
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
        noise,
        delta: 1e-5,
    });
    mechanism.expect("reachable").into()
}

fn terms() -> Terms {
    Terms { unit: UnitOfPrivacy::Record, data_set: "digits".to_owned(), epsilon_limit: 4.0, delta: 1e-5 }
}

fn session(name: &[u8]) -> SessionId {
    SessionId(Digest::of(name))
}

fn task() -> TaskId {
    "digits".parse().expect("a name")
}

/// Begins a round of the usual mechanism.
fn begin(budget: &Budget, session: SessionId, round: RoundNumber) -> Result<Append, BudgetError> {
    budget.begin(session, round, &task(), &mechanism(), false)
}

/// A budget with its file, as a client keeps them.
struct File {
    budget: Budget,
    bytes: Vec<u8>,
}

impl File {
    fn new(terms: Terms) -> Self {
        let (budget, bytes) = Budget::create(terms).expect("terms in range");
        Self { budget, bytes }
    }

    fn take(&mut self, append: Result<Append, BudgetError>) {
        let append = append.expect("allowed");
        self.bytes.extend_from_slice(append.bytes());
        self.budget.commit(append).expect("on its state");
    }

    /// A round that is begun, charged, signed and receipted.
    fn round(&mut self, session: SessionId, round: u64) {
        let round = RoundNumber(round);
        self.take(begin(&self.budget, session, round));
        self.take(self.budget.charge(session, round, round.0 as u32, Digest::of(b"plan"), &mechanism(), false));
        self.take(self.budget.sign_consistency(session, round, Digest::of(b"u3")));
        self.take(self.budget.receipt(session, round, Digest::of(b"entry"), 8));
    }
}

/// Where each frame begins, and the end.
fn frames(bytes: &[u8]) -> Vec<usize> {
    let mut at = vec![0];
    while let Some(offset) = at.last().copied().filter(|offset| *offset < bytes.len()) {
        let len = u32::from_le_bytes(bytes[offset..offset + 4].try_into().expect("four bytes"));
        at.push(offset + 8 + len as usize + 32);
    }
    at
}

fn small() -> File {
    let mut file = File::new(terms());
    file.round(session(b"a"), 1);
    file.take(file.budget.refuse(session(b"a"), RoundNumber(2), "epsilon too high"));
    file.round(session(b"b"), 1);
    file
}

#[test]
fn what_is_read_is_what_was_written() {
    let file = small();
    let (read, torn) = Budget::parse(&file.bytes).expect("sound");
    assert_eq!(torn, None);
    assert_eq!((read.head(), read.n_records(), read.n_charged()), (file.budget.head(), 10, 2));
    assert_eq!(read.terms(), &terms());
    assert_eq!(read.epsilon_spent(), file.budget.epsilon_spent());
    assert_eq!(read.epsilon_spent(), mechanism().promised_epsilon(2, 1e-5));
    assert_eq!(read.signed_statement(session(b"a"), RoundNumber(1)), Some(Digest::of(b"u3")));
    assert_eq!((read.n_charged_in(session(b"a")), read.n_receipts()), (1, 2));
    assert!(read.is_charged(session(b"b"), RoundNumber(1)) && !read.is_charged(session(b"b"), RoundNumber(2)));
    assert_eq!(read.last_begun(session(b"a")), Some(RoundNumber(1)));
}

#[test]
fn every_flipped_bit_is_noticed() {
    let bytes = small().bytes;
    let at = frames(&bytes);
    // Every bit up to the end of the first charge, and then, since reading a charge takes its time, one of each byte.
    let later = (at[3]..bytes.len()).map(|byte| byte * 8 + byte % 8);
    for bit in (0..at[3] * 8).chain(later) {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let read = Budget::parse(&flipped);
        assert!(matches!(read, Err(BudgetError::Damaged { .. })), "bit {bit}: {read:?}");
    }
}

#[test]
fn a_cut_inside_the_last_record_is_a_torn_tail_and_a_cut_elsewhere_an_older_state() {
    let file = small();
    let at = frames(&file.bytes);
    for len in 0..file.bytes.len() {
        let n_whole = at.iter().filter(|offset| **offset <= len).count() as u64 - 1;
        match Budget::parse(&file.bytes[..len]) {
            Err(BudgetError::Empty) => assert_eq!(n_whole, 0, "cut to {len}"),
            Ok((budget, torn)) => {
                assert_eq!(budget.n_records(), n_whole, "cut to {len}");
                let valid = at[n_whole as usize] as u64;
                let n_bytes = len as u64 - valid;
                assert_eq!(torn, (n_bytes > 0).then_some(TornTail { len_valid: valid, n_bytes }), "cut to {len}");
                assert_ne!(budget.head(), file.budget.head());
            }
            Err(error) => panic!("cut to {len}: {error}"),
        }
    }
}

#[test]
fn a_cut_in_the_middle_a_reordering_and_a_splice_are_damage() {
    let file = small();
    let at = frames(&file.bytes);
    let frame = |i: usize| &file.bytes[at[i]..at[i + 1]];
    let n = at.len() - 1;
    let join = |order: &[usize]| order.iter().flat_map(|i| frame(*i).to_vec()).collect::<Vec<u8>>();
    let damaged = |bytes: &[u8], what: &str| {
        let read = Budget::parse(bytes);
        assert!(matches!(read, Err(BudgetError::Damaged { .. })), "{what}: {read:?}");
    };
    let all: Vec<usize> = (0..n).collect();
    assert!(Budget::parse(&join(&all)).is_ok());
    for out in 0..n - 1 {
        let mut order = all.clone();
        order.remove(out);
        damaged(&join(&order), "a record taken out");
        let mut order = all.clone();
        order.swap(out, out + 1);
        damaged(&join(&order), "two records swapped");
        let mut order = all.clone();
        order.insert(out, out);
        damaged(&join(&order), "a record twice");
    }
    let other = File::new(Terms { data_set: "letters".to_owned(), ..terms() });
    let spliced = [other.bytes.as_slice(), &file.bytes[at[1]..]].concat();
    damaged(&spliced, "another budget's beginning");
    // A cut record that belongs elsewhere is no torn write of this file.
    let strange = [&file.bytes[..at[5]], &frame(7)[..frame(7).len() - 1]].concat();
    damaged(&strange, "a cut record of another place");
    damaged(&[file.bytes.as_slice(), b"garbage that is no record at all"].concat(), "garbage");
    // Zeros are what a crash leaves where a file grew before its data was written.
    let (budget, torn) = Budget::parse(&[file.bytes.as_slice(), &[0; 100]].concat()).expect("a torn tail");
    assert_eq!((budget.n_records(), torn.map(|t| t.n_bytes)), (n as u64, Some(100)));
}

#[test]
fn a_forged_record_with_a_right_hash_still_has_to_be_allowed() {
    let mut file = File::new(terms());
    let forge = |file: &File, record: Record| {
        let (bytes, _) = frame(file.budget.n_records(), &file.budget.head(), &record);
        Budget::parse(&[file.bytes.as_slice(), &bytes].concat())
    };
    let (session, round) = (session(b"a"), RoundNumber(1));
    let receipt = Record::Receipt { session, round, entry: Digest::ZERO, survivors: None };
    assert!(forge(&file, receipt.clone()).is_err());
    assert!(forge(&file, Record::Created(terms())).is_err());
    file.take(begin(&file.budget, session, round));
    assert!(forge(&file, receipt).is_err());
    assert!(forge(&file, Record::Begun { session, round, reserved: None }).is_err());
    assert!(forge(&file, Record::Begun { session, round: RoundNumber(2), reserved: None }).is_ok());
}

#[test]
fn once_only_steps_are_taken_once_even_after_a_restart() {
    let mut file = File::new(terms());
    let (session, round) = (session(b"a"), RoundNumber(5));
    let plan = Digest::of(b"plan");
    let m = mechanism();
    assert!(matches!(file.budget.charge(session, round, 1, plan, &m, false), Err(BudgetError::NotBegun { .. })));
    assert!(matches!(file.budget.sign_consistency(session, round, plan), Err(BudgetError::NotBegun { .. })));
    file.take(begin(&file.budget, session, round));
    assert!(matches!(file.budget.receipt(session, round, plan, 8), Err(BudgetError::NotCharged { .. })));
    file.take(file.budget.charge(session, round, 3, plan, &m, false));
    file.take(file.budget.sign_consistency(session, round, plan));
    file.take(file.budget.receipt(session, round, plan, 8));

    let (restarted, _) = Budget::parse(&file.bytes).expect("sound");
    for budget in [&file.budget, &restarted] {
        for earlier in [0, 4, 5] {
            assert!(matches!(begin(budget, session, RoundNumber(earlier)), Err(BudgetError::RoundNotNew { .. })));
        }
        assert!(matches!(budget.charge(session, round, 4, plan, &m, false), Err(BudgetError::AlreadyDone { .. })));
        // Neither another statement nor the same one.
        for statement in [plan, Digest::ZERO] {
            let signed = budget.sign_consistency(session, round, statement);
            assert!(matches!(signed, Err(BudgetError::AlreadyDone { .. })));
        }
        assert!(matches!(budget.receipt(session, round, plan, 8), Err(BudgetError::AlreadyDone { .. })));
    }
    let next = RoundNumber(6);
    file.take(begin(&file.budget, session, next));
    for attempt in [0, 3, 156] {
        let charge = file.budget.charge(session, next, attempt, plan, &m, false);
        assert!(matches!(charge, Err(BudgetError::Attempt { least: 4, most: 155, .. })), "{attempt}: {charge:?}");
    }
    assert!(file.budget.charge(session, next, 155, plan, &m, false).is_ok());
}

#[test]
fn a_session_keeps_the_mechanism_of_its_first_charge_even_after_a_restart() {
    let mut file = File::new(terms());
    file.round(session(b"task"), 1);
    let other = NoiseDoubled::of(&mechanism());
    for budget in [file.budget.clone(), Budget::parse(&file.bytes).expect("whole").0] {
        let mut budget = budget;
        assert_eq!(budget.keeps_mechanism(session(b"task"), &mechanism()), Ok(()));
        assert_eq!(budget.keeps_mechanism(session(b"task"), &other), Err(BudgetError::OtherMechanism));
        assert_eq!(budget.keeps_mechanism(session(b"next task"), &other), Ok(()));
        let round = RoundNumber(2);
        let begin = begin(&budget, session(b"task"), round).expect("allowed");
        budget.commit(begin).expect("on its state");
        let charge = budget.charge(session(b"task"), round, 2, Digest::of(b"plan"), &other, false);
        assert_eq!(charge.err(), Some(BudgetError::OtherMechanism));
    }
}

#[test]
fn the_limit_holds_over_every_task_and_is_never_refunded() {
    let m = mechanism();
    let limit = m.promised_epsilon(4, 1e-5);
    let mut file = File::new(Terms { epsilon_limit: limit, ..terms() });
    assert_eq!(file.budget.epsilon_spent(), 0.0);
    assert_eq!(file.budget.attempts_left(session(b"next"), &m, 100), 4);
    file.round(session(b"a"), 1);
    file.round(session(b"b"), 1);
    // Charged and never released: counted all the same, also after a restart.
    let (s, round) = (session(b"c"), RoundNumber(9));
    file.take(begin(&file.budget, s, round));
    file.take(file.budget.charge(s, round, 1, Digest::ZERO, &m, false));
    file.round(session(b"d"), 3);
    let (restarted, _) = Budget::parse(&file.bytes).expect("sound");
    for budget in [&file.budget, &restarted] {
        assert_eq!(budget.epsilon_spent(), limit);
        assert_eq!(budget.attempts_left(session(b"next"), &m, 100), 0);
        match budget.can_afford(session(b"next"), &m, false) {
            Err(BudgetError::Exceeded { epsilon_spent, n_reserved, epsilon_after, epsilon_limit }) => {
                assert_eq!((epsilon_spent, n_reserved, epsilon_limit), (limit, 0, limit));
                assert_eq!(epsilon_after, m.promised_epsilon(5, 1e-5));
            }
            other => panic!("{other:?}"),
        }
    }
    let (s, round) = (session(b"e"), RoundNumber(1));
    assert!(matches!(begin(&file.budget, s, round), Err(BudgetError::Exceeded { .. })), "its keys never leave");
    // A log from before there were reservations may have begun it: it is not charged.
    let begun = file.budget.prepare(Record::Begun { session: s, round, reserved: None });
    file.take(begun);
    assert!(matches!(file.budget.charge(s, round, 1, Digest::ZERO, &m, false), Err(BudgetError::Exceeded { .. })));
}

#[test]
fn attempts_under_way_add_up_until_they_are_charged_or_given_back() {
    let m = mechanism();
    let limit = m.promised_epsilon(3, 1e-5);
    let mut file = File::new(Terms { epsilon_limit: limit, ..terms() });
    let [a, b, c, d] = [b"a", b"b", b"c", b"d"].map(|name| session(name));
    let one = RoundNumber(1);
    for s in [a, b, c] {
        file.take(begin(&file.budget, s, one));
    }
    let exceeded = |budget: &Budget| match begin(budget, d, one) {
        Err(BudgetError::Exceeded { epsilon_spent, n_reserved, epsilon_after, .. }) => {
            Some((epsilon_spent, n_reserved, epsilon_after))
        }
        _ => None,
    };
    for budget in [&file.budget, &Budget::parse(&file.bytes).expect("sound").0] {
        assert_eq!((budget.n_reserved(), budget.epsilon_spent(), budget.epsilon_reserved()), (3, 0.0, limit));
        assert_eq!(exceeded(budget), Some((0.0, 3, m.promised_epsilon(4, 1e-5))));
        assert_eq!(budget.attempts_left(a, &m, 100), 1, "its own is not in its way");
        assert!(budget.can_afford(a, &m, false).is_ok() && budget.can_afford(d, &m, false).is_err());
    }
    // A charge takes the reservation's place.
    file.take(file.budget.charge(a, one, 1, Digest::ZERO, &m, false));
    assert_eq!((file.budget.n_reserved(), file.budget.epsilon_reserved()), (2, limit));
    assert_eq!(exceeded(&file.budget), Some((m.promised_epsilon(1, 1e-5), 2, m.promised_epsilon(4, 1e-5))));
    assert_eq!(file.budget.give_back(a, one).err(), Some(BudgetError::NotReserved { round: one }), "for ever");
    // The session's next round does, too: the round before can no longer be charged for it.
    file.take(begin(&file.budget, b, RoundNumber(2)));
    assert_eq!((file.budget.n_reserved(), file.budget.epsilon_reserved()), (2, limit));
    // What is given back is free, and its round is over: nothing of it can be charged or given back again.
    file.take(file.budget.give_back(c, one));
    assert_eq!(file.budget.give_back(c, one).err(), Some(BudgetError::NotReserved { round: one }));
    let charge = file.budget.charge(c, one, 1, Digest::ZERO, &m, false);
    assert_eq!(charge.err(), Some(BudgetError::NotBegun { round: one }));
    assert!(matches!(begin(&file.budget, c, one), Err(BudgetError::RoundNotNew { .. })));
    file.take(begin(&file.budget, d, one));
    let (read, _) = Budget::parse(&file.bytes).expect("sound");
    assert_eq!((read.n_reserved(), read.epsilon_reserved(), read.is_reserved(d, one)), (2, limit, true));
    assert_eq!(read.begun_uncharged().map(|(s, _)| s == b || s == d), Some(true));
}

#[test]
fn what_another_process_appends_is_read_on() {
    let mut file = File::new(terms());
    let (mut other, _) = Budget::parse(&file.bytes).expect("sound");
    file.round(session(b"a"), 1);
    let n_known = other.n_bytes() as usize;
    assert_eq!(other.read_on(&file.bytes[n_known..]), Ok(None));
    assert_eq!((other.head(), other.n_bytes()), (file.budget.head(), file.bytes.len() as u64));
    assert_eq!(other.epsilon_spent(), file.budget.epsilon_spent());
    // A torn write of the other process is named by its place in the whole file, and damage by its own.
    let next = begin(&file.budget, session(b"b"), RoundNumber(1)).expect("allowed");
    let torn = TornTail { len_valid: file.bytes.len() as u64, n_bytes: 20 };
    assert_eq!(other.read_on(&next.bytes()[..20]), Ok(Some(torn)));
    let damaged = other.read_on(b"not a record, whatever else");
    assert!(matches!(damaged, Err(BudgetError::Damaged { offset, index: 5, .. }) if offset == file.bytes.len()));
    assert_eq!(other.read_on(next.bytes()), Ok(None));
    assert!(other.is_reserved(session(b"b"), RoundNumber(1)));
}

#[test]
fn a_log_from_before_there_were_reservations_is_read_and_gone_on_with() {
    let mut file = File::new(terms());
    let (session, round) = (session(b"a"), RoundNumber(1));
    file.take(file.budget.prepare(Record::Begun { session, round, reserved: None }));
    file.take(file.budget.charge(session, round, 1, Digest::of(b"plan"), &mechanism(), false));
    file.take(file.budget.prepare(Record::Receipt { session, round, entry: Digest::ZERO, survivors: None }));
    file.take(begin(&file.budget, session, RoundNumber(2)));
    let (read, _) = Budget::parse(&file.bytes).expect("sound");
    assert_eq!((read.n_charged(), read.n_receipts(), read.n_reserved()), (1, 1, 1));
    let report = &read.sessions()[0];
    assert_eq!((report.task.as_ref(), report.reserved), (Some(&task()), Some(RoundNumber(2))));
    assert_eq!(report.epsilon_attained, Some(report.epsilon_spent[0]), "nobody noted more than the least noise");
}

#[test]
fn each_session_tells_what_it_cost_what_was_attained_and_what_is_left() {
    let m = mechanism();
    let limit = m.promised_epsilon(10, 1e-5) + 1e-9;
    let mut file = File::new(Terms { epsilon_limit: limit, ..terms() });
    file.round(session(b"z"), 1);
    file.round(session(b"a"), 1);
    file.round(session(b"a"), 4);
    let (s, round) = (session(b"a"), RoundNumber(5));
    file.take(begin(&file.budget, s, round));
    file.take(file.budget.charge(s, round, 5, Digest::ZERO, &m, false));
    let reports = Budget::parse(&file.bytes).expect("sound").0.sessions();
    assert_eq!(reports.iter().map(|report| report.session).collect::<Vec<_>>(), [session(b"z"), s]);
    let report = &reports[1];
    assert_eq!((report.n_charged, report.n_receipts, report.reserved), (3, 2, None));
    assert_eq!(report.epsilon_spent, [m.promised_epsilon(3, 1e-5), f64::INFINITY]);
    // Eight survivors of two attempts; the third was not released and counts with the least, seven.
    let attained = m.attained_epsilon(View::CoordinatorWithColluders, &[8, 8, 7], 1e-5);
    assert_eq!(report.epsilon_attained, Some(attained));
    assert!(attained < report.epsilon_spent[0]);
    assert_eq!((report.attempts_left, report.attempts_left_by_plan), (6, 150), "the accountant says, four are charged");
}

#[test]
fn a_charge_without_noise_leaves_no_guarantee_for_ever() {
    let (noisy, bare) = (mechanism(), mechanism_with(NoiseTarget::None));
    let mut file = File::new(terms());
    file.round(session(b"a"), 1);
    let spent = file.budget.epsilon_spent();
    let (s, round, plan) = (session(b"b"), RoundNumber(1), Digest::of(b"plan"));
    file.take(begin(&file.budget, s, round));
    let reserve = |allow| file.budget.begin(session(b"c"), round, &task(), &bare, allow).err();
    assert_eq!((reserve(false), reserve(true)), (Some(BudgetError::NoNoise), None));
    let refused = file.budget.charge(s, round, 1, plan, &bare, false);
    assert_eq!(refused.err(), Some(BudgetError::NoNoise));
    // What was refused cost nothing.
    assert_eq!((file.budget.epsilon_spent(), file.budget.n_without_noise()), (spent, 0));
    file.take(file.budget.charge(s, round, 1, plan, &bare, true));
    let (restarted, _) = Budget::parse(&file.bytes).expect("sound");
    for budget in [&file.budget, &restarted] {
        assert_eq!((budget.epsilon_spent(), budget.n_without_noise()), (f64::INFINITY, 1));
        assert_eq!(budget.attempts_left(session(b"next"), &noisy, 10), 0);
        // Nor does noise bring it back, in this task or another.
        assert_eq!(budget.can_afford(session(b"next"), &noisy, false), Err(BudgetError::GuaranteeLost));
        assert_eq!(
            (budget.can_afford(session(b"next"), &noisy, true), budget.can_afford(session(b"next"), &bare, true)),
            (Ok(()), Ok(()))
        );
        assert_eq!(begin(budget, session(b"c"), round).err(), Some(BudgetError::GuaranteeLost));
        let next = budget.begin(session(b"c"), round, &task(), &noisy, true).expect("allowed");
        let mut budget = budget.clone();
        budget.commit(next).expect("on its state");
        let charge = |allow| budget.charge(session(b"c"), round, 1, plan, &noisy, allow).map(|_| ());
        assert_eq!(charge(false), Err(BudgetError::GuaranteeLost));
        assert_eq!(charge(true), Ok(()));
    }
}

#[test]
fn a_permission_to_go_without_noise_raises_no_limit() {
    let m = mechanism();
    let file = File::new(Terms { epsilon_limit: m.promised_epsilon(1, 1e-5) / 2.0, ..terms() });
    assert!(matches!(file.budget.can_afford(session(b"next"), &m, true), Err(BudgetError::Exceeded { .. })));
}

#[test]
fn a_second_mechanism_is_charged_by_the_filter_that_began_with_the_first() {
    let m = mechanism();
    let more_noise = NoiseDoubled::of(&m);
    let mut file = File::new(terms());
    file.round(session(b"a"), 1);
    assert_eq!(file.budget.epsilon_spent(), m.promised_epsilon(1, 1e-5), "one alone costs what its task says");
    let (s, round) = (session(b"b"), RoundNumber(1));
    let before = file.budget.epsilon_after(s, &more_noise, 1);
    file.take(begin(&file.budget, s, round));
    file.take(file.budget.charge(s, round, 1, Digest::ZERO, &more_noise, false));
    let mut accountant = Accountant::new();
    accountant.compose_curve(&m.promised_curve(), 1, 1e-12);
    accountant.compose_curve(&more_noise.promised_curve(), 1, 1e-12);
    let filter = filter_of(&m, 4.0);
    assert_eq!(file.budget.epsilon_spent(), filter.epsilon_of(&accountant));
    assert_eq!(file.budget.epsilon_spent(), before, "what it would come to is known before");
    assert!(filter.epsilon_of(&accountant) > accountant.epsilon(1e-5));
    let (read, _) = Budget::parse(&file.bytes).expect("sound");
    assert_eq!(read.epsilon_spent(), file.budget.epsilon_spent());
    // However much is charged to either from now on, the limit is the filter's.
    for (session, mechanism) in [(session(b"a"), &m), (s, &more_noise)] {
        let left = file.budget.attempts_left(session, mechanism, 1000);
        let passes = |n| {
            let mut accountant = accountant.clone();
            accountant.compose_curve(&mechanism.promised_curve(), n, 1e-12);
            filter.lets_pass(&accountant)
        };
        assert!(left > 100 && passes(left.into()) && !passes(u64::from(left) + 1), "{left}");
    }
}

#[test]
fn one_mechanism_beyond_its_plan_leaves_what_is_kept_for_the_failures_of_others() {
    let m = mechanism();
    let budget = File::new(Terms { epsilon_limit: 8.0, ..terms() }).budget;
    let left = budget.attempts_left(session(b"a"), &m, 100_000);
    let after = |n: u32| {
        let mut accountant = Accountant::new();
        accountant.compose_curve(&m.promised_curve(), n.into(), 1e-12);
        accountant
    };
    let filter = filter_of(&m, 8.0);
    assert!(left > 155 && filter.lets_pass(&after(left)) && !filter.lets_pass(&after(left + 1)), "{left}");
    assert!(after(left + 1).epsilon(1e-5) <= 8.0, "{left}: alone it might go on");
}

#[test]
fn what_a_second_mechanism_costs() {
    let m = mechanism();
    let more_noise = NoiseDoubled::of(&m);
    let mut both = Accountant::new();
    for mechanism in [&m, &more_noise] {
        both.compose_curve(&mechanism.promised_curve(), 155, 1e-12);
    }
    let (first, second) = (m.promised_epsilon(155, 1e-5), more_noise.promised_epsilon(155, 1e-5));
    let in_advance = both.epsilon(1e-5);
    let chosen = least_of(&m, &both);
    println!(
        "epsilon {first:.3} alone, {second:.3} alone; both fixed in advance {in_advance:.3}, chosen one after the other {chosen:.3}"
    );
    assert!(in_advance <= chosen && chosen < in_advance + 0.02, "{in_advance} {chosen}");
}

#[test]
fn which_mechanism_was_the_first_is_open_until_one_is_charged() {
    let (m, more_noise) = (mechanism(), NoiseDoubled::of(&mechanism()));
    let terms = Terms { epsilon_limit: 2.0, ..terms() };
    let mut file = File::new(terms);
    let (a, b, round) = (session(b"a"), session(b"b"), RoundNumber(1));
    file.take(begin(&file.budget, a, round));
    file.take(file.budget.begin(b, round, &task(), &more_noise, false));
    let filter = |first: &Mechanism| filter_of(first, 2.0);
    let mut both = Accountant::new();
    both.compose_curve(&m.promised_curve(), 1, 1e-12);
    both.compose_curve(&more_noise.promised_curve(), 1, 1e-12);
    assert_eq!(file.budget.epsilon_after(a, &m, 1), filter(&m).epsilon_of(&both));
    assert_eq!(file.budget.epsilon_after(b, &more_noise, 1), filter(&more_noise).epsilon_of(&both));
    // What was reserved first was not charged first.
    file.take(file.budget.charge(b, round, 1, Digest::ZERO, &more_noise, false));
    assert_eq!(file.budget.epsilon_after(a, &m, 1), filter(&more_noise).epsilon_of(&both));
    let (read, _) = Budget::parse(&file.bytes).expect("sound");
    assert_eq!(read.epsilon_after(a, &m, 1), filter(&more_noise).epsilon_of(&both));
}

#[test]
fn the_first_charge_records_the_filters_that_all_later_ones_have_to_pass() {
    let (m, more_noise) = (mechanism(), NoiseDoubled::of(&mechanism()));
    let mut file = File::new(terms());
    file.round(session(b"a"), 1);
    let (s, round, plan) = (session(b"b"), RoundNumber(1), Digest::of(b"plan"));
    file.take(file.budget.begin(s, round, &task(), &more_noise, false));
    let second = file.budget.charge(s, round, 1, plan, &more_noise, false).expect("allowed");
    assert!(matches!(second.record(), Record::Charged { filters: None, .. }), "once is enough");
    let fixed = file.budget.filters.clone().expect("fixed");
    assert_eq!(fixed[0], filter_of(&m, 4.0));
    let (read, _) = Budget::parse(&file.bytes).expect("sound");
    assert!(read.filters_recorded && read.filters == Some(fixed));
}

#[test]
fn a_filter_that_was_recorded_stays_what_it_was_whatever_would_be_chosen_today() {
    let (m, more_noise) = (mechanism(), NoiseDoubled::of(&mechanism()));
    // A version that went by another rule: by the mechanism with more noise, and for one order alone.
    let recorded = Box::new([filter_of(&more_noise, 3.0), RenyiFilter::new(9, 3.5, 1e-5).expect("possible")]);
    assert_ne!(recorded[0], filter_of(&m, 4.0));
    let mut file = File::new(terms());
    let (a, b, round) = (session(b"a"), session(b"b"), RoundNumber(1));
    file.take(begin(&file.budget, a, round));
    let (plan, filters) = (Digest::of(b"plan"), Some(recorded.clone()));
    let mechanism = Box::new(m.clone());
    let charged = Record::Charged { session: a, round, attempt: 1, plan, mechanism, filters };
    file.take(file.budget.prepare(charged));
    file.take(file.budget.begin(b, round, &task(), &more_noise, false));
    file.take(file.budget.charge(b, round, 1, plan, &more_noise, false));
    let released = |more: u64| {
        let mut released = Accountant::new();
        released.compose_curve(&m.promised_curve(), 1 + more, 1e-12);
        released.compose_curve(&more_noise.promised_curve(), 1, 1e-12);
        released
    };
    for budget in [&file.budget, &Budget::parse(&file.bytes).expect("sound").0] {
        assert_eq!(budget.epsilon_spent(), recorded[0].epsilon_of(&released(0)));
        // It was made for 3: the limit of 4 helps nobody who comes later.
        let left = u64::from(budget.attempts_left(a, &m, 1000));
        let passes = |more| recorded[0].lets_pass(&released(more));
        assert!(passes(left) && !passes(left + 1), "{left}");
    }
}

#[test]
fn a_log_from_before_filters_were_recorded_is_read_as_it_was_and_records_them_with_its_next_charge() {
    let (m, more_noise) = (mechanism(), NoiseDoubled::of(&mechanism()));
    let mut file = File::new(terms());
    let (a, b, round, plan) = (session(b"a"), session(b"b"), RoundNumber(1), Digest::of(b"plan"));
    file.take(begin(&file.budget, a, round));
    let mechanism = Box::new(m.clone());
    let charged = Record::Charged { session: a, round, attempt: 1, plan, mechanism, filters: None };
    file.take(file.budget.prepare(charged));
    let (read, _) = Budget::parse(&file.bytes).expect("sound");
    assert!(!read.filters_recorded && read.epsilon_spent() == m.promised_epsilon(1, 1e-5));
    assert_eq!(read.filters.as_ref().map(|filters| filters[0].clone()), Some(filter_of(&m, 4.0)));
    file.take(file.budget.begin(b, round, &task(), &more_noise, false));
    let next = file.budget.charge(b, round, 1, plan, &more_noise, false).expect("allowed");
    // Those of its first mechanism, not of the one that is charged now.
    let Record::Charged { filters: Some(filters), .. } = next.record() else { panic!("recorded") };
    assert_eq!(filters[0], filter_of(&m, 4.0));
    file.take(Ok(next));
    let (read, _) = Budget::parse(&file.bytes).expect("sound");
    assert!(read.filters_recorded && read.epsilon_spent() == file.budget.epsilon_spent());
}

#[test]
fn a_recorded_filter_that_lets_more_pass_than_the_limit_is_damage_and_so_is_a_second_one() {
    let m = mechanism();
    let mut file = File::new(terms());
    let (s, round) = (session(b"a"), RoundNumber(1));
    file.take(begin(&file.budget, s, round));
    let forge = |file: &File, round, filters: [RenyiFilter; 2]| {
        let (plan, mechanism) = (Digest::of(b"plan"), Box::new(m.clone()));
        let filters = Some(Box::new(filters));
        let record = Record::Charged { session: s, round, attempt: round.0 as u32, plan, mechanism, filters };
        let (bytes, _) = frame(file.budget.n_records(), &file.budget.head(), &record);
        Budget::parse(&[file.bytes.as_slice(), &bytes].concat()).map(|_| ())
    };
    let own = || filter_of(&m, 4.0);
    let too_much = || filter_of(&m, 4.1);
    let other_delta = RenyiFilter::new(8, 4.0, 1.1e-5).expect("possible");
    assert_eq!(forge(&file, round, [own(), own()]), Ok(()));
    for filters in [[too_much(), own()], [own(), too_much()], [other_delta, own()]] {
        let read = forge(&file, round, filters);
        assert!(matches!(read, Err(BudgetError::Damaged { index: 2, .. })), "{read:?}");
    }
    file.take(file.budget.charge(s, round, 1, Digest::of(b"plan"), &m, false));
    file.take(begin(&file.budget, s, RoundNumber(2)));
    let read = forge(&file, RoundNumber(2), [own(), own()]);
    assert!(matches!(read, Err(BudgetError::Damaged { index: 4, .. })), "{read:?}");
}

/// The filter of a budget that begins with a mechanism.
fn filter_of(first: &Mechanism, limit: f64) -> RenyiFilter {
    let curve = first.curve_for(UnitOfPrivacy::Record);
    let (failure, attempts) = (first.cut_probability(), first.common().max_attempts);
    RenyiFilter::beginning_with(&Planned { curve: &curve, failure, attempts }, limit, 1e-5)
}

fn least_of(first: &Mechanism, released: &Accountant) -> f64 {
    let curve = first.curve_for(UnitOfPrivacy::Record);
    let (failure, attempts) = (first.cut_probability(), first.common().max_attempts);
    RenyiFilter::least(&Planned { curve: &curve, failure, attempts }, released, 1e-5)
}

fn client_mechanism() -> Mechanism {
    static MECHANISM: std::sync::LazyLock<Mechanism> = std::sync::LazyLock::new(|| {
        let mechanism = design_client(&ClientTarget {
            groups: Groups::default(),
            l2_clip_norm: 1.0,
            n_parameters: 1000,
            n_max: 100,
            u_min: 90,
            max_colluders: 2,
            training: LocalTraining { steps: 1, batch_size: 8, learning_rate: 0.1 },
            max_attempts: 20,
            noise: NoiseTarget::Distributed { epsilon: 1.0 },
            delta: 1e-5,
        });
        mechanism.expect("reachable").into()
    });
    MECHANISM.clone()
}

#[test]
fn a_session_whose_clip_adapts_is_charged_as_one_mechanism() {
    let share = Share::from_millionths(10_000).expect("a share");
    let adaptive = AdaptiveClip { l2_clip_norm_min: 0.1, l2_clip_norm_max: 10.0, share };
    let Mechanism::Record(fixed) = mechanism() else { panic!("unit = record") };
    let groups = Groups::new(None, Some(adaptive)).expect("groups");
    let first: Mechanism =
        RecordMechanism::new(RecordParameters { groups, ..fixed.parameters().clone() }).expect("sound").into();
    let mut file = File::new(terms());
    for (round, clip) in [(1, 1.0), (2, 1.5), (3, 0.7)] {
        let mechanism = first.with_clip(clip).expect("within the bounds");
        let begun = file.budget.begin(session(b"task"), RoundNumber(round), &task(), &mechanism, false);
        file.take(begun);
        let epsilon_after = file.budget.epsilon_after(session(b"task"), &mechanism, 1);
        assert_eq!(epsilon_after, first.promised_epsilon(round as u32, 1e-5));
        let plan = Digest::of(b"plan");
        let (round, attempt) = (RoundNumber(round), round as u32);
        file.take(file.budget.charge(session(b"task"), round, attempt, plan, &mechanism, false));
    }
    // No more than three attempts of one mechanism, since none was chosen by what another released: the same read back.
    let (read, _) = Budget::parse(&file.bytes).expect("sound");
    assert_eq!(read.epsilon_spent(), first.promised_epsilon(3, 1e-5));
    assert_eq!(read.epsilon_spent(), mechanism().promised_epsilon(3, 1e-5), "nor more than without groups");
    // Other bounds, or none, are another mechanism.
    assert_eq!(read.keeps_mechanism(session(b"task"), &mechanism()), Err(BudgetError::OtherMechanism));
    let wider = AdaptiveClip { l2_clip_norm_max: 20.0, ..adaptive };
    let groups = Groups::new(None, Some(wider)).expect("groups");
    let wider = RecordMechanism::new(RecordParameters { groups, ..fixed.parameters().clone() }).expect("sound");
    assert_eq!(read.keeps_mechanism(session(b"task"), &wider.into()), Err(BudgetError::OtherMechanism));
}

#[test]
fn every_release_is_charged_to_records_and_to_the_client_alike() {
    let (of_record, of_client) = (mechanism(), client_mechanism());
    let mut file = File::new(terms());
    let charge = |file: &mut File, name: &[u8], mechanism: &Mechanism| {
        let (session, round) = (session(name), RoundNumber(1));
        file.take(begin(&file.budget, session, round));
        file.take(file.budget.charge(session, round, 1, Digest::ZERO, mechanism, false));
    };
    let spent = |file: &File| {
        let (read, _) = Budget::parse(&file.bytes).expect("sound");
        let units = [UnitOfPrivacy::Record, UnitOfPrivacy::Client];
        let spent = units.map(|unit| file.budget.epsilon_spent_of(unit));
        assert_eq!(units.map(|unit| read.epsilon_spent_of(unit)), spent);
        assert_eq!(file.budget.epsilon_spent(), spent[0]);
        spent
    };
    let epsilon = |curves: &[RdpCurve], failure: f64| {
        let mut accountant = Accountant::new();
        curves.iter().for_each(|curve| accountant.compose_curve(curve, 1, 0.0));
        accountant.compose_curve(&RdpCurve::default(), 1, failure);
        accountant.epsilon(1e-5)
    };
    // A client-level release: its own epsilon to the client, that of a replacement to each record.
    charge(&mut file, b"a", &of_client);
    let replaced = of_client.curve_for(UnitOfPrivacy::Record);
    assert_eq!(
        spent(&file),
        [epsilon(std::slice::from_ref(&replaced), 0.0), epsilon(&[of_client.promised_curve()], 0.0)]
    );
    assert!(spent(&file)[0] > 2.0 * spent(&file)[1]);
    // A record-level release on top: the total of records has both, and nothing is promised to the client any more.
    charge(&mut file, b"b", &of_record);
    let mut both = Accountant::new();
    both.compose_curve(&replaced, 1, 0.0);
    both.compose_curve(&of_record.promised_curve(), 1, 1e-12);
    let [record, client] = spent(&file);
    let filter = filter_of(&of_client, 4.0);
    assert_eq!(record, filter.epsilon_of(&both));
    assert!(record.is_finite() && record >= both.epsilon(1e-5));
    assert!(record > epsilon(&[of_record.promised_curve()], 1e-12));
    assert_eq!(client, f64::INFINITY);
    // The limit is on records: it counts both.
    let least = least_of(&of_client, &both);
    let mut enough = File::new(Terms { epsilon_limit: least, ..terms() });
    charge(&mut enough, b"a", &of_client);
    charge(&mut enough, b"b", &of_record);
    let mut tight = File::new(Terms { epsilon_limit: least * 0.999, ..terms() });
    charge(&mut tight, b"a", &of_client);
    assert!(matches!(tight.budget.can_afford(session(b"next"), &of_record, false), Err(BudgetError::Exceeded { .. })));
}

#[test]
fn a_budget_for_clients_counts_client_level_releases_at_their_own_price() {
    let of_client = client_mechanism();
    let limit = of_client.promised_epsilon(3, 1e-5);
    let budget = File::new(Terms { unit: UnitOfPrivacy::Client, epsilon_limit: limit, ..terms() }).budget;
    assert_eq!(budget.attempts_left(session(b"next"), &of_client, 100), 3);
    let budget = File::new(Terms { epsilon_limit: limit, ..terms() }).budget;
    assert_eq!(budget.attempts_left(session(b"next"), &of_client, 100), 0);
}

struct NoiseDoubled;

impl NoiseDoubled {
    fn of(mechanism: &Mechanism) -> Mechanism {
        let Mechanism::Record(mechanism) = mechanism else { panic!("a record-level mechanism") };
        let mut parameters = mechanism.parameters().clone();
        let variance = parameters.noise.share_variance().expect("noise");
        let doubled = crate::NoiseVariance::from_numerator(variance.numerator() * 2).expect("in range");
        parameters.noise = Noise::Distributed(doubled);
        parameters.bits += 1;
        RecordMechanism::new(parameters).expect("sound").into()
    }
}

#[test]
fn a_step_prepared_on_an_older_state_is_not_taken() {
    let mut file = File::new(terms());
    let begin = |round| begin(&file.budget, session(b"a"), RoundNumber(round)).expect("allowed");
    let (first, second) = (begin(1), begin(2));
    file.budget.commit(first).expect("on its state");
    assert_eq!(file.budget.commit(second), Err(BudgetError::Stale));
}

#[test]
fn terms_out_of_range_and_other_units_are_refused() {
    for bad in [
        Terms { data_set: String::new(), ..terms() },
        Terms { data_set: "x".repeat(256), ..terms() },
        Terms { epsilon_limit: f64::NAN, ..terms() },
        Terms { epsilon_limit: -1.0, ..terms() },
        Terms { epsilon_limit: f64::INFINITY, ..terms() },
        Terms { delta: 0.0, ..terms() },
        Terms { delta: 1.0, ..terms() },
    ] {
        assert!(Budget::create(bad).is_err());
    }
    let file = File::new(Terms { unit: UnitOfPrivacy::Client, ..terms() });
    assert_eq!(file.budget.can_afford(session(b"next"), &mechanism(), false), Err(BudgetError::Unit));
    assert_eq!(file.budget.can_afford(session(b"next"), &mechanism(), true), Err(BudgetError::Unit));
    let long = file.budget.refuse(session(b"a"), RoundNumber(1), &"x".repeat(REASON_LEN_MAX + 1));
    assert!(matches!(long, Err(BudgetError::TextTooLong { .. })));
}

#[test]
fn no_bytes_make_the_reader_panic() {
    use eranos_base::Entropy;
    let bytes = small().bytes;
    let mut entropy = eranos_base::SeededEntropy::new(13);
    for _ in 0..3000 {
        let mut mutated = bytes.clone();
        for _ in 0..4 {
            let at = u32::from_le_bytes(entropy.bytes()) as usize % mutated.len();
            mutated[at] = entropy.bytes::<1>()[0];
        }
        mutated.truncate(u32::from_le_bytes(entropy.bytes()) as usize % (2 * bytes.len()));
        let _ = Budget::parse(&mutated);
    }
    let mut random = vec![0; 400];
    for _ in 0..1000 {
        entropy.fill(&mut random);
        assert!(Budget::parse(&random).is_err());
    }
}
