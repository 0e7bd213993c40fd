//! A federation of honest clients and an honest coordinator, taken as far through a round as a test wants. All
//! randomness comes from one seed, so that the same round can be gone through again.

use std::sync::Arc;

use eranos_base::{
    ClientId, Context, Digest, Entropy, Position, RoundNumber, SeededEntropy, SessionId, SigningKey, TaskId,
};
use eranos_secagg::{
    Accumulator, Advertised, Arrival, Bits, Bundle, ConsistencyCollector, Consistent, Finished, GraphKind, Identity,
    Masked, Quorum, Ready, Refusal, Roster, RosterEntry, ShareRouter, SharedKeys, ShownRoster, ShownSharers,
    StatementKey, Survivors, Terms, Unmasker, Upload, VerifiedCertifications, roster, share_keys, terms::Dimension,
};

pub(crate) struct Federation {
    pub(crate) terms: Arc<Terms>,
    pub(crate) identities: Vec<Arc<Identity>>,
    seed: u64,
}

pub(crate) fn federation(n1: usize, f: usize, u_min: usize, dimension: usize, bits: u8, seed: u64) -> Federation {
    let mut entropy = SeededEntropy::new(seed);
    let task: TaskId = "digits".parse().expect("name");
    let terms = Terms {
        session: SessionId(Digest::of(b"session")),
        round: RoundNumber(1),
        plan: Digest::of(b"plan"),
        trust_domain: "example.org".parse().expect("name"),
        task: task.clone(),
        graph: GraphKind::Complete,
        max_colluders: f,
        u_min,
        n_max: n1,
        dimension: Dimension::new(dimension).expect("valid"),
        bits: Bits::new(bits).expect("valid"),
    };
    let mut keys: Vec<_> =
        (0..n1).map(|_| (SigningKey::generate(&mut entropy), StatementKey::derive(&entropy.bytes(), &task))).collect();
    // In the order of a roster: client i stands at position i of one that has all of them.
    keys.sort_by_key(|(_, statement_key)| statement_key.verifying_key());
    let identity = |(i, (certificate_key, statement_key)): (usize, (SigningKey, StatementKey))| {
        let certificate = Digest::of(format!("certificate {i}").as_bytes());
        let verified = VerifiedCertifications::default();
        Arc::new(Identity { id: id(n1, i), certificate, certificate_key, statement_key, verified })
    };
    let identities = keys.into_iter().enumerate().map(identity).collect();
    Federation { terms: Arc::new(terms), identities, seed }
}

/// The identity of client `i` of `n1`: names descend where positions ascend, lest somebody take one order for the other.
pub(crate) fn id(n1: usize, i: usize) -> ClientId {
    format!("spiffe://example.org/client/c{:05}", n1 - 1 - i).parse().expect("identity")
}

/// The same on the sparse graph.
pub(crate) fn sparse(n1: usize, f: usize, u_min: usize, dimension: usize, bits: u8, seed: u64) -> Federation {
    federation(n1, f, u_min, dimension, bits, seed).with_terms(|terms| terms.graph = GraphKind::Sparse)
}

impl Federation {
    pub(crate) fn with_terms(&self, change: impl FnOnce(&mut Terms)) -> Self {
        let mut terms = (*self.terms).clone();
        change(&mut terms);
        Self { terms: Arc::new(terms), identities: self.identities.clone(), seed: self.seed }
    }

    /// The generator of client `i` in `phase`: the same whenever the round is gone through again.
    fn entropy(&self, i: usize, phase: u64) -> SeededEntropy {
        SeededEntropy::new(self.seed.wrapping_mul(1_000_003) ^ ((i as u64 + 1) << 8) ^ phase)
    }

    pub(crate) fn advertise(&self, i: usize) -> Advertised {
        Advertised::begin(self.terms.clone(), self.identities[i].clone(), &mut self.entropy(i, 0))
    }

    pub(crate) fn advertised(&self) -> Vec<Advertised> {
        (0..self.identities.len()).map(|i| self.advertise(i)).collect()
    }

    /// The entries as the coordinator knows them.
    pub(crate) fn entries(&self) -> Vec<RosterEntry> {
        self.advertised().iter().map(Advertised::entry).collect()
    }

    /// Client `i` after it was shown these entries, over the wire, by a coordinator that checks nothing.
    pub(crate) fn deal(
        &self,
        i: usize,
        entries: &[RosterEntry],
        entropy: &mut dyn Entropy,
    ) -> Result<SharedKeys, Refusal> {
        let (shown, members) = roster::show_unchecked(&self.terms, entries, &self.identities[i].id);
        let shown = ShownRoster::from_bytes(&shown.to_bytes()).expect("our own bytes");
        self.advertise(i).share_keys(shown, members, entropy)
    }

    pub(crate) fn roster(&self) -> Arc<Roster> {
        Arc::new(Roster::assemble(self.terms.clone(), self.entries()).expect("an honest roster"))
    }

    /// Client `i` after share_keys.
    pub(crate) fn share(&self, i: usize) -> SharedKeys {
        self.share_among(i, &self.entries())
    }

    fn share_among(&self, i: usize, entries: &[RosterEntry]) -> SharedKeys {
        self.deal(i, entries, &mut self.entropy(i, 1)).expect("an honest roster")
    }

    /// Everybody after share_keys, and the coordinator with the bundles of all but `dropped`.
    pub(crate) fn shared(&self, dropped: &[usize]) -> (Vec<SharedKeys>, ShareRouter) {
        let entries = self.entries();
        let clients: Vec<_> = (0..self.identities.len()).map(|i| self.share_among(i, &entries)).collect();
        let mut router = ShareRouter::new(self.roster());
        for (i, client) in clients.iter().enumerate().filter(|(i, _)| !dropped.contains(i)) {
            let bundle = Bundle::from_bytes(&client.bundle().to_bytes()).expect("our own bytes");
            assert_eq!(router.accept(position(i), bundle), Ok(Arrival::New));
        }
        (clients, router)
    }

    /// Everybody with an accepted U2, and the coordinator without a READY yet.
    pub(crate) fn ready(&self) -> (Vec<Ready>, Accumulator) {
        let (clients, router) = self.shared(&[]);
        let routed = router.close().expect("everybody shared");
        let receive = |(i, client): (usize, SharedKeys)| {
            let sharers = routed.sharers().shown_to(position(i)).to_bytes();
            let sharers = ShownSharers::from_bytes(&sharers, self.identities.len()).expect("our own bytes");
            let parts = share_keys::parts_to_bytes(&routed.parts_for(position(i)));
            client.receive(&sharers, &share_keys::parts_from_bytes(&parts).expect("our own bytes")).expect("honest")
        };
        let clients = clients.into_iter().enumerate().map(receive).collect();
        (clients, routed.accumulate())
    }

    /// Everybody with its vector masked, none of which the coordinator has taken yet; it has all READYs.
    pub(crate) fn masked(&self) -> (Vec<(Masked, Upload)>, Accumulator) {
        let (clients, mut accumulator) = self.ready();
        for (i, client) in clients.iter().enumerate() {
            assert_eq!(accumulator.ready(position(i), &client.ready()), Ok(Arrival::New));
        }
        let mask = |(i, client): (usize, Ready)| client.mask(&self.input(i)).expect("honest");
        (clients.into_iter().enumerate().map(mask).collect(), accumulator)
    }

    /// Everybody having uploaded except `dropped`, and the coordinator with U3.
    pub(crate) fn uploaded(&self, dropped: &[usize]) -> (Vec<Masked>, ConsistencyCollector) {
        let (clients, mut accumulator) = self.masked();
        let clients = (clients.into_iter().enumerate())
            .map(|(i, (client, upload))| {
                if !dropped.contains(&i) {
                    let finished = Finished::from_bytes(&upload.finished.to_bytes()).expect("our own bytes");
                    assert_eq!(accumulator.accept(position(i), &upload.packed, &finished), Ok(Arrival::New));
                }
                client
            })
            .collect();
        (clients, accumulator.close().expect("enough survivors"))
    }

    /// The survivors having signed, and the coordinator with a quorum.
    pub(crate) fn consistent(&self, dropped: &[usize]) -> (Vec<(usize, Consistent)>, Quorum, Unmasker, Context) {
        let ((clients, mut collector), roster) = (self.uploaded(dropped), self.roster());
        let mut signed = Vec::new();
        for (i, client) in clients.into_iter().enumerate().filter(|(i, _)| !dropped.contains(i)) {
            let survivors = collector.survivors().shown_to(&roster, position(i)).to_bytes();
            let survivors = Survivors::from_bytes(&survivors, self.identities.len());
            let client = client.sign(&survivors.expect("our own bytes")).expect("honest");
            assert_eq!(collector.accept(position(i), &client.signature()), Ok(Arrival::New));
            signed.push((i, client));
        }
        let context = collector.context();
        let (quorum, unmasker) = collector.close().expect("everybody signed");
        (signed, quorum, unmasker, context)
    }

    /// The input of client `i`: small and large values of both signs.
    pub(crate) fn input(&self, i: usize) -> Vec<i64> {
        let mut entropy = self.entropy(i, 2);
        let draw = |k: usize| {
            let value = i64::from_le_bytes(entropy.bytes());
            if k.is_multiple_of(3) { value } else { value >> 50 }
        };
        (0..self.terms.dimension.len()).map(draw).collect()
    }

    /// The sum of the inputs of `clients` modulo 2^b, taken plainly.
    pub(crate) fn plain_sum(&self, clients: impl IntoIterator<Item = usize>) -> Vec<u32> {
        let mut sum = vec![0u32; self.terms.dimension.len()];
        for i in clients {
            for (sum, value) in sum.iter_mut().zip(self.input(i)) {
                *sum = sum.wrapping_add(value as u32) & self.terms.bits.mask();
            }
        }
        sum
    }
}

pub(crate) fn position(i: usize) -> Position {
    Position(i.try_into().expect("a position"))
}
