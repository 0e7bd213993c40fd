//! The log of every attempt, its proofs, and the auditor that trusts nobody.
//!
//! The log is an append-only Merkle tree ([`tree`]) stored as static tiles ([`tile`]) under signed checkpoints
//! ([`note`]). Its leaves are canonical text ([`entry`]). The coordinator writes it ([`log`]); a client verifies what it
//! was told of it ([`receipt`]); a stranger verifies all of it and recomputes every epsilon from the raw parameters
//! ([`audit`], [`cli`]), and says in words what is promised ([`statement`]), or on a page for whoever has no terminal
//! ([`report`]). A witness cosigns what continues ([`witness`], [`cosignature`]), and a client may demand that
//! ([`witnessed`]). Every format is drawn field by field in
//! `docs/ledger.md`.
//!
//! This crate knows nothing of sockets, models or databases, and reads no clock.

#![forbid(unsafe_code)]

pub mod audit;
pub mod binding;
pub mod cli;
pub mod cosignature;
pub mod disclosure;
pub mod entry;
pub mod log;
pub mod memory;
pub mod note;
pub mod plan;
pub mod receipt;
pub mod report;
pub mod statement;
pub mod tile;
pub mod tree;
pub mod witness;
pub mod witnessed;

mod text;

pub use binding::{Binding, BindingError};
pub use cosignature::{WitnessKey, WitnessSigner};
pub use disclosure::Disclosure;
pub use entry::{
    Attempt, BudgetSet, Date, EncodedEntry, Entry, EntryError, Epsilons, Executable, KeyRotated, LogOpened,
    LogRestored, Membership, MembershipChange, ModelPublished, Opening, Outcome, Participant, PrivacyStated,
    Restoration, Roster, RotationError, Sharers, Survivors, TaskOpened, TaskStated, Version, Words,
};
pub use log::{AppendError, LogWriter};
pub use note::{Checkpoint, KeyError, LedgerKey, LedgerSigner, NoteError, Origin, SignedCheckpoint, SignedNote};
pub use plan::PlanTerms;
pub use receipt::{Receipt, ReceiptError};
