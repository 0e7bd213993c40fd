//! What the federation enters into its ledger beside attempts, and how the ledger follows the database, its journal.

use std::{path::Path, sync::Arc};

use eranos_base::{ClientId, Clock, Digest, OsEntropy, SystemClock, VerifyingKey};
use eranos_certs::{TrustAnchor, TrustError};
use eranos_ledger::{
    AppendError, Date, EncodedEntry, Entry, EntryError, LedgerSigner, LogWriter, PrivacyStated,
    audit::{self, Options},
    log::Storage,
    statement,
};
use eranos_wire::messages::{
    Blob,
    select::{CheckIn, KeyRotated, ROTATIONS_MAX},
};

use super::{Federation, FederationError};
use crate::store::{ClosedRound, Member, Outcome, Resume, StateStore};

impl Federation {
    /// Enters who of a cohort was never in one before, or not under this certificate.
    pub(super) fn enrol(&mut self, cohort: &[ClientId]) -> Result<(), FederationError> {
        let present = cohort.iter().filter_map(|id| {
            let certificate = self.certificates.get(&self.directory.get(id)?.certificate)?;
            Some((id, certificate.as_slice()))
        });
        let changes = self.members.admitted(present, &mut OsEntropy);
        self.enter_members(&changes)
    }

    /// Enters whose certificate the authority has revoked, of those who were enrolled. To be called whenever its revocation list
    /// was read; who was entered already is not entered again.
    ///
    /// # Errors
    /// If database or ledger fail.
    pub fn record_revocations(&mut self, anchor: &TrustAnchor) -> Result<(), FederationError> {
        let now = SystemClock.now();
        let is_revoked = |certificate: &[u8]| anchor.verify_client(certificate, now) == Err(TrustError::Revoked);
        let changes = self.members.revoked(is_revoked, &mut OsEntropy);
        self.enter_members(&changes)
    }

    /// Enters whom revocation lists that came meanwhile revoke: behind the attempt whose roster may still name them.
    pub(super) fn enter_revocations(&mut self) -> Result<(), FederationError> {
        self.trust.take().map_or(Ok(()), |anchor| self.record_revocations(&anchor))
    }

    pub(super) fn enter_members(&mut self, changes: &[Member]) -> Result<(), FederationError> {
        if changes.is_empty() {
            return Ok(());
        }
        let encoded = |one: &Member| Ok((one.clone(), Entry::Membership(one.opening.membership()).encode()?));
        let entered = changes.iter().map(encoded).collect::<Result<Vec<_>, EntryError>>()?;
        let index = self.store.enter_members(&entered, self.ledger.durable())?;
        let entries: Vec<EncodedEntry> = entered.into_iter().map(|(_, entry)| entry).collect();
        self.ledger.append_all(index, &entries)?;
        Ok(())
    }

    /// Enters what the task has promised, once it is over.
    pub(super) fn state_privacy(&mut self) -> Result<(), FederationError> {
        let options = Options::new(self.ledger.ledger_key());
        let report = audit::verify(self.ledger.storage().path(), &options)?;
        let Some(task) = report.tasks.iter().find(|task| task.task == self.task.name) else { return Ok(()) };
        let is_stated = task.privacy_stated.as_ref().is_some_and(|(_, stated, _)| stated.attempts == task.attempts);
        if is_stated || task.attempts == 0 {
            return Ok(());
        }
        // A clock that was set back does not turn the ledger's.
        let dates = [
            Some(Date::of(SystemClock.now())),
            report.opened.as_ref().map(|opened| opened.date),
            task.stated.as_ref().map(|(_, stated)| stated.date),
            task.privacy_stated.as_ref().map(|(_, stated, _)| stated.date),
        ];
        let stated = PrivacyStated {
            task: task.task.clone(),
            session: task.session,
            date: dates.into_iter().flatten().max().unwrap_or(Date::of(SystemClock.now())),
            attempts: task.attempts,
            wording: statement::WORDING,
            statement: Digest::of(statement::entered(report.opened.as_ref(), task).as_bytes()),
        };
        enter(self.store.as_ref(), &mut self.ledger, &Entry::PrivacyStated(stated).encode()?)
    }
}

/// Opens the ledger in `dir` as the database has it, making anew what a crash left out, and closes a round that was open
/// then: it will never be finished, and what was debited stays debited. Gives all entries, and the ledger.
pub(crate) fn catch_up(
    store: &dyn StateStore,
    resume: &Resume,
    dir: &Path,
    signer: Arc<LedgerSigner>,
) -> Result<(Vec<EncodedEntry>, LogWriter), FederationError> {
    let mut entries = store.entries_from(0)?;
    let mut ledger = LogWriter::restore(dir, signer, &entries, resume.ledger_durable)?;
    if let Some(open) = &resume.open_round {
        let entry = Entry::parse(&open.abort_entry.leaf, open.abort_entry.attachment.as_deref())?;
        let revealed = matches!(&entry, Entry::Attempt(attempt) if attempt.outcome.reveals());
        let outcome = if revealed { Outcome::AbortedAfterReveal } else { Outcome::AbortedBeforeReveal };
        let entry = &open.abort_entry;
        let closed = ClosedRound { round: open.round, outcome, model: None, received: &[], bindings: &[], entry };
        let index = store.close_round(&closed, ledger.durable())?;
        ledger.append(index, entry)?;
        entries.push(entry.clone());
    }
    Ok((entries, ledger))
}

/// Commits an entry that belongs to no round, and appends it to the ledger, which must have every entry before it.
pub(crate) fn enter(
    store: &dyn StateStore,
    ledger: &mut LogWriter,
    entry: &EncodedEntry,
) -> Result<(), FederationError> {
    let index = store.append_entry(entry, ledger.durable())?;
    ledger.append(index, entry)?;
    Ok(())
}

/// The rotations from the key that a client knows to the present one, where they differ and one leads to the other. A
/// client that claims to know more of the ledger than there is, or another ledger's key, gets none.
///
/// # Errors
/// If the ledger cannot be read.
pub fn key_rotated<S: Storage>(
    ledger: &LogWriter<S>,
    rotations: &[(VerifyingKey, u64)],
    check_in: &CheckIn,
) -> Result<Option<KeyRotated>, AppendError> {
    let from = rotations.iter().position(|(old, _)| *old == check_in.ledger_key);
    let Some(rotations) = from.and_then(|from| rotations.get(from..)) else { return Ok(None) };
    if check_in.ledger_size > ledger.size() || rotations.len() > ROTATIONS_MAX {
        return Ok(None);
    }
    let receipts = rotations.iter().map(|(_, index)| Ok(Blob(ledger.receipt(*index, check_in.ledger_size)?.encode())));
    Ok(Some(KeyRotated { receipts: receipts.collect::<Result<_, AppendError>>()? }))
}
