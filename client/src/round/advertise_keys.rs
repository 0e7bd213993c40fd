//! `advertise_keys`: the roster comes. It names each member's credential by its digest; those that this client has not seen
//! are fetched. Every certificate, signature and key is checked before a share is sealed.

use std::collections::BTreeMap;

use eranos_base::{Digest, Entropy, Position, StatementKind, Timestamp};
use eranos_privacy::Promise;
use eranos_secagg::{Advertised, RosterEntry, RosterError, UnidentifiedEntry, roster::entries_from_bytes};
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
    roster: Roster,
    entries: Vec<UnidentifiedEntry>,
    /// Still to be asked for; the last of them are.
    unknown: Vec<Digest>,
    fetched: BTreeMap<Digest, Credential>,
}

impl Asked {
    /// What one exchange asks for.
    fn asking(&self) -> &[Digest] {
        &self.unknown[self.unknown.len().saturating_sub(CREDENTIALS_PER_FETCH_MAX)..]
    }

    /// Takes in exactly the credentials asked for: whatever else is shown in place of one is not it, by its digest.
    fn take(&mut self, credentials: Vec<Credential>) -> Result<(), RefusalKind> {
        let mut shown = credentials.into_iter();
        for asked in self.asking().to_vec() {
            let credential = shown.next().filter(|credential| credential.digest() == asked);
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
            (Event::Answer { answer: Answer::Roster(roster), .. }, None) => {
                let entries = match entries_from_bytes(&roster.entries) {
                    Ok(entries) => entries,
                    Err(error) => return self.common.refuse(RefusalKind::Decode(error)),
                };
                let (n1, n_max) = (entries.len(), usize::from(self.common.plan.mechanism.common().n_max));
                // Before anything is fetched for them: the plan bounds what a client holds.
                if n1 > n_max {
                    return self.common.refuse(RefusalKind::SecureSum(RosterError::TooMany { n1, n_max }.into()));
                }
                let known = &self.common.memory.credentials;
                let digests = entries.iter().map(|entry| entry.credential);
                let unknown = digests.filter(|digest| !known.contains_key(digest)).collect();
                self.fetch(Asked { roster, entries, unknown, fetched: BTreeMap::new() }, now, entropy)
            }
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

    /// Asks for the next credentials that are not known, or goes on with all of them.
    fn fetch(mut self, asked: Asked, now: Timestamp, entropy: &mut dyn Entropy) -> (Round, Vec<Action>) {
        if asked.unknown.is_empty() {
            return self.share_keys(asked, now, entropy);
        }
        let request = FetchCredentials { round: self.common.round_ref(), credentials: asked.asking().to_vec() };
        self.asked = Some(asked);
        (Round::AdvertiseKeys(self), vec![send(request)])
    }

    fn share_keys(self, asked: Asked, now: Timestamp, entropy: &mut dyn Entropy) -> (Round, Vec<Action>) {
        let Asked { roster, entries, fetched, .. } = asked;
        let entries = match self.identify(entries, &fetched, now) {
            Ok(entries) => entries,
            Err(kind) => return self.common.refuse(kind),
        };
        let shared = match self.advertised.share_keys(entries, entropy) {
            Ok(shared) => shared,
            Err(refusal) => return self.common.refuse(RefusalKind::SecureSum(refusal)),
        };
        let key = self.common.member.ledger_key.key();
        let statement = shared.roster().context().statement(StatementKind::Roster, Position::NONE, &[]);
        if key.verify(&statement, &roster.signature).is_err() {
            return self.common.refuse(RefusalKind::NotSigned { what: "roster" });
        }
        let bundle = shared.bundle().to_bytes();
        let actions = vec![
            // Each was asked for by the roster, and believed as it stands there.
            Action::Remember(fetched.into_iter().collect()),
            send(share_keys::ShareKeys { round: self.common.round_ref(), bundle }),
            Action::Note(Phase::ShareKeys),
        ];
        (Round::ShareKeys(ShareKeys::new(self.common, shared, self.contribution)), actions)
    }

    /// Makes every entry whole by its credential, whose certificate is checked: it says who the member is, and with which
    /// key it signs.
    fn identify(
        &self,
        entries: Vec<UnidentifiedEntry>,
        fetched: &BTreeMap<Digest, Credential>,
        now: Timestamp,
    ) -> Result<Vec<RosterEntry>, RefusalKind> {
        let known = &self.common.memory.credentials;
        entries
            .into_iter()
            .map(|entry| {
                let missing = RefusalKind::CredentialMissing { credential: entry.credential };
                let credential = known.get(&entry.credential).or_else(|| fetched.get(&entry.credential));
                let Some(credential) = credential else { return Err(missing) };
                let digested = credential.digested();
                let checked = self.common.member.trust.check(&credential.certificate, now);
                let (id, key) =
                    checked.map_err(|reason| RefusalKind::Certificate { certificate: digested.certificate, reason })?;
                entry.identify(&digested, id, key).ok_or(missing)
            })
            .collect()
    }
}
