//! What an adversary knows that reads every answer of the coordinator: enough to sign whatever its keys allow.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use eranos_base::{ClientId, Context, Digest, Position, SessionId, Signature, SigningKey, StatementKind, VerifyingKey};
use eranos_secagg::{
    AddressedPart, Advert, Finished, Identity, Roster, RosterEntry, SharePart, Sharers, ShortName, ShownRoster,
    ShownSharers, Survivors, Terms,
    roster::show_unchecked,
    share_keys::{parts_from_bytes, parts_to_bytes},
};
use eranos_wire::{
    Answer, RoundPlan,
    messages::{
        advertise_keys::{self, Credential},
        configure::Debit,
        masked_input, share_keys,
    },
};

use super::world::{Client, Setup, World};

/// A coordinator's or a client's view of a round, as far as it has come.
pub(crate) struct Adversary {
    pub(crate) setup: Arc<Setup>,
    /// Whom the coordinator deceives.
    pub(crate) victim: ClientId,
    /// The certificate keys by identity.
    pub(crate) keys: BTreeMap<ClientId, VerifyingKey>,
    /// Whose credentials rosters name.
    credentials: BTreeMap<ClientId, Credential>,
    /// What it received of adverts.
    entries: Arc<Mutex<BTreeMap<ClientId, RosterEntry>>>,
    /// The roster that it showed in place of the honest one.
    shown: Mutex<Vec<RosterEntry>>,
    /// What it received of the bundles.
    bundles: Arc<Mutex<BTreeMap<Position, Digest>>>,
    pub(crate) plan: Option<RoundPlan>,
    pub(crate) roster: Option<Roster>,
    pub(crate) context: Option<Context>,
}

/// One adversary, looked at from a test while its hook runs.
pub(crate) type Shared = Arc<Mutex<Adversary>>;

impl Adversary {
    pub(crate) fn new(world: &World, victim: usize) -> Self {
        let key = |i| {
            let peer = world.peer(i);
            (peer.id, peer.key)
        };
        let keys = (0..world.clients.len()).map(key).collect();
        let victim = world.peer(victim).id;
        let setup = world.setup.clone();
        let credential = |client: &Client| {
            let Identity { id, certificate_key, statement_key, .. } = &*client.member.identity;
            let credential = Credential {
                certificate: client.certificate.clone(),
                statement_key: statement_key.verifying_key(),
                certification: statement_key.certify(&setup.trust_domain, &setup.task, certificate_key),
            };
            (id.clone(), credential)
        };
        let credentials = world.clients.iter().map(credential).collect();
        let shown = Mutex::default();
        let (setup, entries, bundles) = (world.setup.clone(), world.entries.clone(), world.bundles.clone());
        Self { setup, victim, keys, credentials, entries, shown, bundles, plan: None, roster: None, context: None }
    }

    /// Takes in an honest answer.
    pub(crate) fn see(&mut self, answer: &Answer) {
        match answer {
            Answer::Configure(configure) => {
                let plan = configure.plan.verify(&self.setup.ledger_key().verifying_key()).unwrap();
                self.context = Some(plan.context());
                self.plan = Some(plan);
            }
            Answer::Roster(roster) => {
                let roster = Roster::assemble(self.terms(), self.entries(roster)).unwrap();
                self.context = Some(roster.context());
                self.roster = Some(roster);
            }
            Answer::Sharers(sharers) => {
                let n1 = self.roster.as_ref().unwrap().n1();
                let sharers = ShownSharers::from_bytes(&sharers.sharers, n1).unwrap();
                self.context = self.context.map(|context| context.with_sharers(sharers.root()));
            }
            _ => {}
        }
    }

    pub(crate) fn terms(&self) -> Arc<Terms> {
        Arc::new(self.plan.as_ref().expect("the plan was seen").terms().unwrap())
    }

    pub(crate) fn context(&self) -> Context {
        self.context.expect("the plan was seen")
    }

    /// The entries of a roster, whole, whatever of it the victim was shown.
    pub(crate) fn entries(&self, roster: &advertise_keys::Roster) -> Vec<RosterEntry> {
        let shown = ShownRoster::from_bytes(&roster.roster).unwrap();
        let entries = self.entries.lock().unwrap();
        let named = |name: &ShortName| {
            let of = |entry: &&RosterEntry| ShortName::of(&shown.digest, &entry.credential().digest()) == *name;
            entries.values().find(of).expect("the coordinator took its advert").clone()
        };
        shown.names.iter().map(named).collect()
    }

    // As the coordinator, with its real ledger key.

    /// Another plan, signed in the session that follows from it.
    pub(crate) fn replan(&self, answer: &mut Answer, change: impl FnOnce(&mut RoundPlan)) {
        if let Answer::Configure(configure) = answer {
            let mut plan = configure.plan.verify(&self.setup.ledger_key().verifying_key()).unwrap();
            change(&mut plan);
            plan.session = SessionId::derive(&plan.trust_domain, &plan.ledger_origin, &plan.task, &plan.session_nonce);
            configure.plan = plan.sign(self.setup.ledger_key());
            configure.debit = self.debit(&plan, &self.victim, configure.debit.vectors);
        }
    }

    /// How many vectors of a client it says, signed, that it has received.
    pub(crate) fn debit(&self, plan: &RoundPlan, client: &ClientId, vectors: u64) -> Debit {
        Debit::sign(self.setup.ledger_key(), &plan.context(), client, vectors)
    }

    /// Another roster, in order and signed.
    pub(crate) fn reroster(&self, answer: &mut Answer, change: impl FnOnce(&mut Vec<RosterEntry>)) {
        self.reorder(answer, |entries| {
            change(entries);
            entries.sort_by_key(|entry| entry.advert.statement_key);
        });
    }

    /// Another roster, as it is, and signed.
    pub(crate) fn reorder(&self, answer: &mut Answer, change: impl FnOnce(&mut Vec<RosterEntry>)) {
        if let Answer::Roster(message) = answer {
            let mut entries = self.entries(message);
            change(&mut entries);
            *message = self.roster_under(self.plan.as_ref().unwrap(), &entries);
            *self.shown.lock().unwrap() = entries;
        }
    }

    /// What it shows the victim of these entries as a roster under `plan`, signed.
    pub(crate) fn roster_under(&self, plan: &RoundPlan, entries: &[RosterEntry]) -> advertise_keys::Roster {
        let (shown, _) = show_unchecked(&plan.terms().unwrap(), entries, &self.victim);
        let statement = plan.context().with_roster(shown.digest).statement(StatementKind::Roster, Position::NONE, &[]);
        advertise_keys::Roster { roster: shown.to_bytes(), signature: self.setup.ledger_key().sign(&statement) }
    }

    /// The credentials of the roster that it showed, or those of the cohort, all of which a client asks for in its first
    /// round; `outsiders` are certificates of others than the cohort.
    pub(crate) fn show(&self, answer: &mut Answer, outsiders: &[Vec<u8>]) {
        if let Answer::Credentials(message) = answer {
            let cohort = self.credentials.values().map(|credential| &credential.certificate);
            let certificates: Vec<_> = cohort.chain(outsiders).collect();
            let show = |entry: &RosterEntry| {
                let certificate =
                    certificates.iter().find(|certificate| Digest::of(certificate) == entry.certificate)?;
                let Advert { statement_key, certification, .. } = entry.advert;
                Some(Credential { certificate: certificate.to_vec(), statement_key, certification })
            };
            let shown = self.shown.lock().unwrap();
            message.credentials = shown.iter().filter_map(show).collect();
            if shown.is_empty() {
                message.credentials = self.credentials.values().cloned().collect();
            }
        }
    }

    /// Another U2 and other parts, signed.
    pub(crate) fn resharers(
        &self,
        answer: &mut Answer,
        change: impl FnOnce(&mut Vec<(Position, Digest)>, &mut Vec<AddressedPart>),
    ) {
        if let Answer::Sharers(message) = answer {
            let roster = self.roster.as_ref().unwrap();
            let sharers = ShownSharers::from_bytes(&message.sharers, roster.n1()).unwrap();
            let bundles = self.bundles.lock().unwrap();
            let mut members = sharers.set().iter().map(|position| (position, bundles[&position])).collect();
            let mut parts = parts_from_bytes(&message.parts).unwrap();
            change(&mut members, &mut parts);
            let sharers = Sharers::new(roster.n1(), members).unwrap();
            let signature = self.setup.ledger_key().sign(&sharers.statement(roster));
            let sharers = sharers.shown_to(roster.position_of(&self.victim).unwrap()).to_bytes();
            *message = share_keys::Sharers { sharers, signature, parts: parts_to_bytes(&parts) };
        }
    }

    /// Other survivors, signed.
    pub(crate) fn resurvivors(&self, answer: &mut Answer, change: impl FnOnce(&mut BTreeMap<Position, Signature>)) {
        if let Answer::Survivors(message) = answer {
            let n1 = self.roster.as_ref().unwrap().n1();
            let survivors = Survivors::from_bytes(&message.survivors, n1).unwrap();
            let mut readies = survivors.readies().map(|(position, ready)| (position, *ready)).collect();
            change(&mut readies);
            *message = self.survivors(&readies);
        }
    }

    /// The survivors with these READYs, signed.
    pub(crate) fn survivors(&self, readies: &BTreeMap<Position, Signature>) -> masked_input::Survivors {
        let n1 = self.roster.as_ref().unwrap().n1();
        let set = eranos_secagg::PositionSet::of(n1, readies.keys().copied());
        let bytes = [set.as_bytes(), &readies.values().flat_map(|ready| ready.0).collect::<Vec<u8>>()].concat();
        let survivors = Survivors::from_bytes(&bytes, n1).unwrap();
        let signature = self.setup.ledger_key().sign(&survivors.statement(&self.context()));
        masked_input::Survivors { survivors: bytes, signature }
    }

    // As a client, with its real certificate key.

    /// The advert, signed again after a change.
    pub(crate) fn sign_advert(&self, mut advert: Advert, key: &SigningKey) -> Advert {
        let bytes = advert.to_bytes();
        let context = self.plan.as_ref().unwrap().context();
        advert.signature =
            key.sign(&context.statement(StatementKind::Advert, Position::NONE, &bytes[..bytes.len() - 64]));
        advert
    }

    /// The part, signed again after a change.
    pub(crate) fn sign_part(&self, mut part: SharePart, key: &SigningKey) -> SharePart {
        let body =
            [&part.holder.0.to_le_bytes()[..], Digest::of(&part.ciphertext).as_bytes(), part.hashes().as_bytes()]
                .concat();
        let context = self.roster.as_ref().unwrap().context();
        part.signature = key.sign(&context.statement(StatementKind::SharePart, part.dealer, &body));
        part
    }

    /// The signature over a vector, made for these bytes.
    pub(crate) fn sign_finished(&self, packed: &[u8], position: Position, key: &SigningKey) -> Finished {
        self.sign_complaints(packed, &[], position, key)
    }

    /// The signature over a vector and over complaints about `dealers`, who ascend.
    pub(crate) fn sign_complaints(
        &self,
        packed: &[u8],
        dealers: &[Position],
        position: Position,
        key: &SigningKey,
    ) -> Finished {
        let digest = Digest::of(packed);
        let mut body = [digest.as_bytes().as_slice(), &(dealers.len() as u16).to_le_bytes()].concat();
        body.extend(dealers.iter().flat_map(|dealer| dealer.0.to_le_bytes()));
        let signature = key.sign(&self.context().statement(StatementKind::MaskedInput, position, &body));
        Finished { digest, complaints: dealers.to_vec(), signature }
    }

    /// Released shares, signed again after a change of the bytes before the signature.
    pub(crate) fn sign_shares(&self, shares: &mut [u8], position: Position, key: &SigningKey) {
        let (body, signature) = shares.split_at_mut(shares.len() - 64);
        signature.copy_from_slice(&key.sign(&self.context().statement(StatementKind::Unmask, position, body)).0);
    }
}

/// Lets `victim` hear what `alter` makes of the coordinator's answers, which the adversary has seen as they were.
pub(crate) fn alter_answers(
    world: &mut World,
    victim: usize,
    mut alter: impl FnMut(&Adversary, &mut Answer, &mut Bytes) + 'static,
) -> Shared {
    let shared = Arc::new(Mutex::new(Adversary::new(world, victim)));
    let seen = shared.clone();
    world.on_answer = Some(Box::new(move |i, answer, body| {
        if i == victim {
            let mut adversary = seen.lock().unwrap();
            adversary.see(answer);
            alter(&adversary, answer, body);
        }
    }));
    shared
}
