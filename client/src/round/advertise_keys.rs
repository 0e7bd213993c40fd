//! `advertise_keys`: the roster comes. Every certificate, signature and key in it is checked before a share is sealed.

use std::collections::BTreeMap;

use eranos_base::{Digest, Entropy, Position, StatementKind, Timestamp};
use eranos_secagg::{Advertised, RosterEntry, UnidentifiedEntry, roster::entries_from_bytes};
use eranos_wire::{
    Answer,
    messages::{
        advertise_keys::{Certificates, FetchCertificates, Roster},
        share_keys,
    },
};
use zeroize::Zeroizing;

use super::{Action, Common, Event, Phase, RefusalKind, Round, ShareKeys, send};

/// Sent its keys; waits for the roster, and then perhaps for certificates in it that it has not seen.
pub struct AdvertiseKeys {
    pub(super) common: Common,
    advertised: Advertised,
    contribution: Option<Zeroizing<Vec<u32>>>,
    asked: Option<Asked>,
}

/// A roster whose certificates are being fetched.
struct Asked {
    roster: Roster,
    entries: Vec<UnidentifiedEntry>,
    unknown: Vec<Digest>,
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
                let known = &self.common.memory.certificates;
                let unknown: Vec<Digest> = entries
                    .iter()
                    .map(|entry| entry.certificate)
                    .filter(|digest| !known.contains_key(digest))
                    .collect();
                if unknown.is_empty() {
                    return self.share_keys(&roster, entries, BTreeMap::new(), now, entropy);
                }
                let request = FetchCertificates { round: self.common.round_ref(), certificates: unknown.clone() };
                self.asked = Some(Asked { roster, entries, unknown });
                (Round::AdvertiseKeys(self), vec![send(request)])
            }
            (Event::Answer { answer: Answer::Certificates(Certificates { certificates }), .. }, Some(asked)) => {
                let fetched: BTreeMap<Digest, Vec<u8>> =
                    certificates.into_iter().map(|blob| (Digest::of(&blob.0), blob.0)).collect();
                if let Some(missing) = asked.unknown.iter().find(|digest| !fetched.contains_key(digest)) {
                    return self.common.refuse(RefusalKind::CertificateMissing { certificate: *missing });
                }
                self.share_keys(&asked.roster, asked.entries, fetched, now, entropy)
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

    fn share_keys(
        self,
        roster: &Roster,
        entries: Vec<UnidentifiedEntry>,
        fetched: BTreeMap<Digest, Vec<u8>>,
        now: Timestamp,
        entropy: &mut dyn Entropy,
    ) -> (Round, Vec<Action>) {
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
        // Only certificates that the roster names, and that were believed, are kept.
        let named: Vec<Digest> = shared.roster().entries().iter().map(|entry| entry.certificate).collect();
        let actions = vec![
            Action::Remember(fetched.into_iter().filter(|(digest, _)| named.contains(digest)).collect()),
            send(share_keys::ShareKeys { round: self.common.round_ref(), bundle }),
            Action::Note(Phase::ShareKeys),
        ];
        (Round::ShareKeys(ShareKeys::new(self.common, shared, self.contribution)), actions)
    }

    /// Checks the certificate of every entry and takes its public key from it.
    fn identify(
        &self,
        entries: Vec<UnidentifiedEntry>,
        fetched: &BTreeMap<Digest, Vec<u8>>,
        now: Timestamp,
    ) -> Result<Vec<RosterEntry>, RefusalKind> {
        let known = &self.common.memory.certificates;
        entries
            .into_iter()
            .map(|entry| {
                let digest = entry.certificate;
                let certificate = known.get(&digest).or_else(|| fetched.get(&digest));
                let certificate = certificate.ok_or(RefusalKind::CertificateMissing { certificate: digest })?;
                let id = entry.id.clone();
                let (named, key) = self
                    .common
                    .member
                    .trust
                    .check(certificate, now)
                    .map_err(|reason| RefusalKind::Certificate { id: id.clone(), reason })?;
                if named != id {
                    let reason = format!("it names {named}");
                    return Err(RefusalKind::Certificate { id, reason });
                }
                Ok(entry.with_key(key))
            })
            .collect()
    }
}
