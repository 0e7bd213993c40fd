//! Who was enrolled, renewed and revoked, as far as entries that name nobody show it.

use std::collections::HashMap;

use eranos_base::Digest;

use crate::{
    audit::fault::Fault,
    entry::{Membership, MembershipChange},
};

/// Most entries about members in one log; each takes about two hundred bytes of the auditor's memory.
pub const MEMBERS_MAX: usize = 1 << 18;

/// What the entries about members add up to.
#[derive(Default)]
pub(super) struct Members {
    /// In their order, each with the entry's index.
    pub(super) changes: Vec<(u64, Membership)>,
    by_commitment: HashMap<Digest, u64>,
    enrolled: u64,
    renewed: u64,
    revoked: u64,
    /// Whether a roster stood in the log before anybody was enrolled: then it does not say who is.
    is_silent: bool,
}

impl Members {
    pub(super) fn take(&mut self, index: u64, membership: Membership, fault: &mut dyn FnMut(Fault)) {
        if self.changes.len() == MEMBERS_MAX {
            return fault(Fault::TooMany { what: "entries about members", max: MEMBERS_MAX });
        }
        if let Some(before) = self.by_commitment.insert(membership.commitment, index) {
            fault(Fault::CommitmentTwice { before });
        }
        let (enrolled, certificates, revoked) = (self.enrolled, self.enrolled + self.renewed, self.revoked);
        match membership.change {
            MembershipChange::Enrolled if self.is_silent && enrolled == 0 => fault(Fault::LateEnrolment),
            MembershipChange::Renewed if enrolled == 0 => fault(Fault::Membership { enrolled, certificates, revoked }),
            MembershipChange::Revoked if revoked >= certificates => {
                fault(Fault::Membership { enrolled, certificates, revoked });
            }
            _ => {}
        }
        match membership.change {
            MembershipChange::Enrolled => self.enrolled += 1,
            MembershipChange::Renewed => self.renewed += 1,
            MembershipChange::Revoked => self.revoked += 1,
        }
        self.changes.push((index, membership));
    }

    /// Holds a roster of `n1` different clients against those who were enrolled. A log that enrols nobody is taken as it is,
    /// and its statement says so.
    pub(super) fn check_roster(&mut self, n1: usize, fault: &mut dyn FnMut(Fault)) {
        self.is_silent |= self.enrolled == 0;
        if !self.is_silent && n1 as u64 > self.enrolled {
            fault(Fault::NotEnrolled { n1, enrolled: self.enrolled });
        }
    }
}
