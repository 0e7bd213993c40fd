//! `advertise_keys`: the roster comes. It names each member's credential; those that this client has not seen are fetched.
//! Every certificate, signature and key is checked before a share is sealed.

use std::collections::{BTreeMap, BTreeSet};

use eranos_base::{Digest, Entropy, Position, StatementKind, Timestamp};
use eranos_privacy::Promise;
use eranos_secagg::{Advertised, Member, RosterError, ShortName, ShownRoster};
use eranos_wire::{
    Answer,
    messages::{
        advertise_keys::{CREDENTIALS_PER_FETCH_MAX, Credential, Credentials, FetchCredentials, Roster},
        share_keys,
    },
};
use zeroize::Zeroizing;

use super::{Action, Common, Event, Phase, RefusalKind, Round, ShareKeys, send};

/// Sent its keys; waits for the roster, and then perhaps for credentials in it that it has not seen.
pub struct AdvertiseKeys {
    pub(super) common: Common,
    advertised: Advertised,
    contribution: Option<Zeroizing<Vec<u32>>>,
    asked: Option<Asked>,
}

/// A roster whose credentials are being fetched.
struct Asked {
    shown: ShownRoster,
    /// Under what the credentials that it names are kept, where they are.
    known: BTreeMap<ShortName, Digest>,
    /// Still to be asked for; the last of them are.
    unknown: Vec<ShortName>,
    fetched: BTreeMap<ShortName, Credential>,
}

impl Asked {
    fn new(shown: ShownRoster, kept: &BTreeMap<Digest, Credential>) -> Self {
        let named: BTreeSet<ShortName> = shown.names.iter().copied().collect();
        let known = kept.keys().map(|digest| (ShortName::of(&shown.digest, digest), *digest));
        let known: BTreeMap<_, _> = known.filter(|(name, _)| named.contains(name)).collect();
        let unknown = shown.names.iter().filter(|name| !known.contains_key(name)).copied().collect();
        Self { shown, known, unknown, fetched: BTreeMap::new() }
    }

    /// What one exchange asks for.
    fn asking(&self) -> &[ShortName] {
        &self.unknown[self.unknown.len().saturating_sub(CREDENTIALS_PER_FETCH_MAX)..]
    }

    /// Takes in exactly the credentials asked for: whatever else is shown in place of one has another name.
    fn take(&mut self, credentials: Vec<Credential>) -> Result<(), RefusalKind> {
        let mut shown = credentials.into_iter();
        for asked in self.asking().to_vec() {
            let is_asked = |credential: &Credential| ShortName::of(&self.shown.digest, &credential.digest()) == asked;
            let credential = shown.next().filter(is_asked);
            let credential = credential.ok_or(RefusalKind::CredentialMissing { credential: asked })?;
            self.fetched.insert(asked, credential);
        }
        if shown.next().is_some() {
            return Err(RefusalKind::CredentialsUnasked);
        }
        self.unknown.truncate(self.unknown.len() - self.asking().len());
        Ok(())
    }
}

impl AdvertiseKeys {
    pub(super) fn new(common: Common, advertised: Advertised) -> Self {
        Self { common, advertised, contribution: None, asked: None }
    }

    pub(super) fn handle(mut self, event: Event, now: Timestamp, entropy: &mut dyn Entropy) -> (Round, Vec<Action>) {
        match (event, self.asked.take()) {
            (Event::Answer { answer: Answer::Roster(roster), .. }, None) => match self.read(&roster) {
                Ok(shown) => {
                    let asked = Asked::new(shown, &self.common.memory.credentials);
                    self.fetch(asked, now, entropy)
                }
                Err(kind) => self.common.refuse(kind),
            },
            (Event::Answer { answer: Answer::Credentials(Credentials { credentials }), .. }, Some(mut asked)) => {
                match asked.take(credentials) {
                    Ok(()) => self.fetch(asked, now, entropy),
                    Err(kind) => self.common.refuse(kind),
                }
            }
            (Event::Contribution(contribution), asked) => {
                self.contribution = Some(contribution);
                self.asked = asked;
                (Round::AdvertiseKeys(self), Vec::new())
            }
            (Event::Wake, asked) => {
                self.asked = asked;
                (Round::AdvertiseKeys(self), Vec::new())
            }
            _ => self.common.out_of_phase("advertise_keys"),
        }
    }

    /// What is shown of a roster that the coordinator signed, and no larger than the plan says: it bounds what is fetched.
    fn read(&self, roster: &Roster) -> Result<ShownRoster, RefusalKind> {
        let shown = ShownRoster::from_bytes(&roster.roster)?;
        let (n1, n_max) = (shown.names.len(), usize::from(self.common.plan.mechanism.common().n_max));
        if n1 > n_max {
            return Err(RefusalKind::SecureSum(RosterError::TooMany { n1, n_max }.into()));
        }
        let context = self.common.plan.context().with_roster(shown.digest);
        let statement = context.statement(StatementKind::Roster, Position::NONE, &[]);
        let key = self.common.member.ledger_key.key();
        key.verify(&statement, &roster.signature).map_err(|_| RefusalKind::NotSigned { what: "roster" })?;
        Ok(shown)
    }

    /// Asks for the next credentials that are not known, or goes on with all of them.
    fn fetch(mut self, asked: Asked, now: Timestamp, entropy: &mut dyn Entropy) -> (Round, Vec<Action>) {
        if asked.unknown.is_empty() {
            return self.share_keys(asked, now, entropy);
        }
        let request = FetchCredentials {
            round: self.common.round_ref(),
            credentials: asked.asking().iter().map(|name| name.0).collect(),
        };
        self.asked = Some(asked);
        (Round::AdvertiseKeys(self), vec![send(request)])
    }

    fn share_keys(self, asked: Asked, now: Timestamp, entropy: &mut dyn Entropy) -> (Round, Vec<Action>) {
        let members = match self.members(&asked, now) {
            Ok(members) => members,
            Err(kind) => return self.common.refuse(kind),
        };
        let Asked { shown, fetched, .. } = asked;
        let shared = match self.advertised.share_keys(shown, members, entropy) {
            Ok(shared) => shared,
            Err(refusal) => return self.common.refuse(RefusalKind::SecureSum(refusal)),
        };
        let bundle = shared.bundle().to_bytes();
        let believed = fetched.into_values().map(|credential| (credential.digest(), credential)).collect();
        let actions = vec![
            // R1, which is signed, is of these.
            Action::Remember(believed),
            send(share_keys::ShareKeys { round: self.common.round_ref(), bundle }),
            Action::Note(Phase::ShareKeys),
        ];
        (Round::ShareKeys(ShareKeys::new(self.common, shared, self.contribution)), actions)
    }

    /// Who the roster's members are, by their credentials, whose certificates are checked: they say who each is, and with which
    /// key it signs.
    fn members(&self, asked: &Asked, now: Timestamp) -> Result<Vec<Member>, RefusalKind> {
        let member = |name: &ShortName| {
            let missing = RefusalKind::CredentialMissing { credential: *name };
            let kept = asked.known.get(name).and_then(|digest| {
                let credential = self.common.memory.credentials.get(digest)?;
                // What is kept is checked like what is shown.
                (credential.digest() == *digest).then_some(credential)
            });
            let Some(credential) = kept.or_else(|| asked.fetched.get(name)) else { return Err(missing) };
            let digested = credential.digested();
            let (id, key) = self
                .common
                .member
                .trust
                .check(&credential.certificate, now)
                .map_err(|reason| RefusalKind::Certificate { certificate: digested.certificate, reason })?;
            Ok(Member { id, key, credential: digested })
        };
        asked.shown.names.iter().map(member).collect()
    }
}
