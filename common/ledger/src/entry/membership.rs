//! Who may take part, entered so that only whoever is shown the opening learns who: the entry holds a hiding commitment.
//!
//! Each commitment has a salt of its own, and none names another: that a certificate was renewed, or a client revoked, does
//! not tell which enrolment it followed. Else whoever knows from elsewhere when somebody's certificate was renewed would
//! find that one's enrolment in every ledger, and by the place of the enrolment its pseudonyms. The openings say it.

use eranos_base::{ClientId, Digest, encoding::Canonical};

use crate::{
    entry::{EntryError, EntryKind, fields::Fields},
    note::Origin,
    text::Lines,
};

/// What became of a client's admission.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MembershipChange {
    /// It was selected for the first time.
    Enrolled,
    /// It was selected under another certificate than before.
    Renewed,
    /// The authority revoked its certificate.
    Revoked,
}

impl MembershipChange {
    /// Every change.
    pub const ALL: [Self; 3] = [Self::Enrolled, Self::Renewed, Self::Revoked];

    /// The kind of its entry.
    pub const fn kind(self) -> EntryKind {
        match self {
            Self::Enrolled => EntryKind::ClientEnrolled,
            Self::Renewed => EntryKind::CertificateRenewed,
            Self::Revoked => EntryKind::ClientRevoked,
        }
    }
}

/// One change, of somebody whom the entry does not name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Membership {
    /// What changed.
    pub change: MembershipChange,
    /// To what its opening leads: [`Opening::commitment`].
    pub commitment: Digest,
}

impl Membership {
    pub(super) fn write(&self, lines: &mut Lines) {
        lines.line("commitment", self.commitment);
    }

    pub(super) fn read(change: MembershipChange, fields: &mut Fields<'_, '_>) -> Result<Self, EntryError> {
        Ok(Self { change, commitment: fields.digest("commitment")? })
    }
}

/// Whom a change is about: for the coordinator, and for the auditor to whom it is disclosed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening {
    /// What changed.
    pub change: MembershipChange,
    /// The log.
    pub origin: Origin,
    /// The client.
    pub client: ClientId,
    /// SHA-256 of its certificate: the one that it came with, or that was revoked.
    pub certificate: Digest,
    /// 32 bytes from the operating system; without them nobody can try names.
    pub salt: [u8; 32],
}

impl Opening {
    /// SHA-256 of the canonical encoding: domain, kind, origin, client, certificate, salt.
    pub fn commitment(&self) -> Digest {
        let canonical = Canonical::new(DOMAIN).text(&self.change.kind().to_string()).text(self.origin.as_str());
        Digest::of(&canonical.text(self.client.as_str()).digest(&self.certificate).field(&self.salt).finish())
    }

    /// The entry's content.
    pub fn membership(&self) -> Membership {
        Membership { change: self.change, commitment: self.commitment() }
    }
}

/// The domain of commitments and of disclosed openings.
pub(crate) const DOMAIN: &str = "eranos/ledger/membership/v1";
