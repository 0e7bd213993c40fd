//! The coordinator's durable state: one SQLite file that an auditor can open with the stock shell.
//!
//! The order of writes is the promise: a round, its cohort and the debit of every selected client are committed before
//! the plan leaves; the new checkpoint's file is durable before the one transaction that commits outcome, checkpoint
//! and ledger leaf; only then is the tree head signed. A crash may over-count a budget, never under-count it. This file is
//! the ledger's journal: an entry's attachment is kept here until the ledger's own files of it are durable.

use std::{
    collections::BTreeMap,
    fs::OpenOptions,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use eranos_base::{ClientId, Digest, RoundNumber};
use eranos_ledger::{Binding, EncodedEntry, MembershipChange, Opening};
use rusqlite::{
    Connection, OpenFlags, OptionalExtension, Transaction, TransactionBehavior,
    backup::{Backup, StepResult},
    config::DbConfig,
    params,
};

/// The file's name in the folder of a coordinator's state.
pub const FILE: &str = "state.sqlite";

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// SQLite said no.
    #[error("coordinator's database: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// A row is not what this build writes.
    #[error("coordinator's database has a malformed {what}")]
    Malformed {
        /// Which column.
        what: &'static str,
    },
    /// The file was written by another version of this program.
    #[error("coordinator's database has schema version {found}, this build's is {SCHEMA_VERSION}")]
    Version {
        /// The version found.
        found: u32,
    },
    /// The file was written by a version before this one, whose databases this one takes over when it runs.
    #[error(
        "coordinator's database has schema version {found}, which this build takes over to {SCHEMA_VERSION} when it runs"
    )]
    Older {
        /// The version found.
        found: u32,
    },
    /// SQLite finds its own file damaged.
    #[error("coordinator's database is damaged: {what}")]
    Damaged {
        /// What it says.
        what: String,
    },
    /// The file could not be made.
    #[error("coordinator's database: {0}")]
    Io(#[from] std::io::Error),
}

impl StoreError {
    /// What to do about it; `otherwise` where nothing better is known.
    pub fn next_step(&self, otherwise: &'static str) -> &'static str {
        match self {
            Self::Version { .. } => VERSION_NEXT,
            Self::Older { .. } => "run `eranos coordinator run` of this build once",
            _ => otherwise,
        }
    }
}

/// How a round ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The sum was released and applied.
    Released,
    /// It ended before any client was asked to unmask.
    AbortedBeforeReveal,
    /// It ended after clients were asked to unmask: the sum counts as known to the coordinator.
    AbortedAfterReveal,
}

impl Outcome {
    fn as_str(self) -> &'static str {
        match self {
            Self::Released => "released",
            Self::AbortedBeforeReveal => "aborted-before-reveal",
            Self::AbortedAfterReveal => "aborted-after-reveal",
        }
    }
}

/// The model as of one released round: names of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelState {
    /// The parameters.
    pub checkpoint: Digest,
    /// The server optimizer's moments.
    pub optimizer: Digest,
}

/// What a coordinator that starts again needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resume {
    /// The nonce from which the session follows.
    pub session_nonce: [u8; 32],
    /// The model after the last released round.
    pub model: ModelState,
    /// The last round opened; zero if none was.
    pub last_round: RoundNumber,
    /// Attempts so far, released or not.
    pub attempts: u32,
    /// Rounds released so far.
    pub released: u32,
    /// A round that was open when the process ended.
    pub open_round: Option<OpenRound>,
    /// What the logs before this one come to, where it goes on from a backup; nothing where not.
    pub before: Before,
    /// How many of the ledger's entries had durable files there when the last one was committed here.
    pub ledger_durable: u64,
}

/// What counts beside this log's own rounds, since the log goes on from a backup of another one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Before {
    /// Attempts of the logs before, those that are lost included.
    pub attempts: u32,
    /// How many of them are lost: nobody knows whom they were debited to, so they count as everybody's.
    pub lost: u32,
    /// Rounds released before.
    pub released: u32,
}

/// What a session that goes on from a backup begins with.
pub struct Carried<'a> {
    /// Of all clients together.
    pub before: Before,
    /// What the backup has of each client, without what is lost.
    pub debits: &'a BTreeMap<ClientId, Debit>,
    /// The exchanges of the old log's key: by their index there.
    pub rotations: &'a [(u64, Vec<u8>)],
}

/// A round that was begun and neither released nor aborted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenRound {
    /// Its number.
    pub round: RoundNumber,
    /// The ledger entry to append, since it will never be finished.
    pub abort_entry: EncodedEntry,
}

/// A round that is over: what is committed of it at once.
pub struct ClosedRound<'a> {
    /// Its number.
    pub round: RoundNumber,
    /// How it ended.
    pub outcome: Outcome,
    /// The model after it, if it was released.
    pub model: Option<ModelState>,
    /// Whose vectors were received.
    pub received: &'a [ClientId],
    /// Whose pseudonyms stood in its roster; those that are known already are replaced.
    pub bindings: &'a [Binding],
    /// Its entry in the ledger.
    pub entry: &'a EncodedEntry,
}

/// What was debited to one client: its identity's, whatever certificate it had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Debit {
    /// Attempts that it was selected for.
    pub attempts: u64,
    /// How many of its vectors were received in rounds that were closed, released or not. It never counts too many: what a
    /// crash leaves out is a vector of a round that it cut off.
    pub received: u64,
    /// How many of these are in a released sum.
    pub released: u64,
}

/// Whom an entry about a member is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// What the entry's commitment opens to.
    pub opening: Opening,
    /// The certificate, in DER.
    pub certificate: Vec<u8>,
}

/// What outlives the coordinator's process. One task each.
pub trait StateStore: Send + Sync {
    /// Begins the session: with the leaves that open the log.
    ///
    /// # Errors
    /// If the commit fails.
    fn begin_session(&self, nonce: &[u8; 32], model: ModelState, entries: &[EncodedEntry]) -> Result<(), StoreError>;

    /// What to go on from; none in a fresh store.
    ///
    /// # Errors
    /// If the state cannot be read.
    fn resume(&self) -> Result<Option<Resume>, StoreError>;

    /// Commits a round, the debit of every selected client, and the ledger entry to append if the process ends before
    /// the round does: before the plan leaves.
    ///
    /// # Errors
    /// If the commit fails.
    fn open_round(&self, round: RoundNumber, cohort: &[ClientId], abort_entry: &EncodedEntry)
    -> Result<(), StoreError>;

    /// Replaces the ledger entry to append if the process ends before the round does.
    ///
    /// # Errors
    /// If the commit fails.
    fn prepare_abort(&self, round: RoundNumber, entry: &EncodedEntry) -> Result<(), StoreError>;

    /// Commits the end of a round in one transaction, and gives the index of its entry. Of the ledger's entries the first
    /// `ledger_durable` have durable files there: their attachments are let go.
    ///
    /// # Errors
    /// If the commit fails.
    fn close_round(&self, closed: &ClosedRound<'_>, ledger_durable: u64) -> Result<u64, StoreError>;

    /// Whose pseudonyms are known.
    ///
    /// # Errors
    /// If they cannot be read.
    fn bindings(&self) -> Result<Vec<Binding>, StoreError>;

    /// Commits an entry of the ledger that belongs to no round. Gives its index. Attachments are let go as by
    /// [`close_round`](Self::close_round).
    ///
    /// # Errors
    /// If the commit fails.
    fn append_entry(&self, entry: &EncodedEntry, ledger_durable: u64) -> Result<u64, StoreError>;

    /// Commits entries about members, and what opens them: one entry for each. Gives the first one's index. Attachments are
    /// let go as by [`close_round`](Self::close_round).
    ///
    /// # Errors
    /// If the commit fails.
    fn enter_members(&self, members: &[(Member, EncodedEntry)], ledger_durable: u64) -> Result<u64, StoreError>;

    /// Whom the ledger's entries about members are about, in its order.
    ///
    /// # Errors
    /// If they cannot be read.
    fn members(&self) -> Result<Vec<Member>, StoreError>;

    /// The ledger's entries from `index` on; those that have durable files there without their attachments.
    ///
    /// # Errors
    /// If they cannot be read.
    fn entries_from(&self, index: u64) -> Result<Vec<EncodedEntry>, StoreError>;

    /// What was debited to each client that was ever selected in this session.
    ///
    /// # Errors
    /// If it cannot be read.
    fn debits(&self) -> Result<BTreeMap<ClientId, Debit>, StoreError>;
}

impl Debit {
    /// Together with what was debited before this session.
    #[must_use]
    pub const fn plus(self, before: Self) -> Self {
        Self {
            attempts: self.attempts.saturating_add(before.attempts),
            received: self.received.saturating_add(before.received),
            released: self.released.saturating_add(before.released),
        }
    }
}

/// [`StateStore`] in one SQLite file (WAL, `synchronous=FULL`, STRICT tables, one writer).
pub struct SqliteStore {
    connection: Mutex<Connection>,
}

impl SqliteStore {
    /// Opens the file, making it if need be.
    ///
    /// # Errors
    /// If it cannot be opened or is of another version.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        // Its openings name who is enrolled. SQLite gives the files beside it the same rights.
        OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        let mut connection = Connection::open(path)?;
        // Whatever another version wrote stays as it is: a close would move what a crash left beside the file into it.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        check_version(version(&connection)?, &MIGRATIONS)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "foreign_keys", "ON")?;
        // Negative: in KiB rather than in pages.
        connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
        migrate(&mut connection, &MIGRATIONS)?;
        Ok(Self { connection: Mutex::new(connection) })
    }

    /// Opens the file to look at it, whoever else has it open; there must be one.
    ///
    /// # Errors
    /// If it cannot be opened or is of another version.
    pub fn read(path: &Path) -> Result<Self, StoreError> {
        let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        let found = version(&connection)?;
        check_version(found, &MIGRATIONS)?;
        if found != SCHEMA_VERSION {
            return Err(StoreError::Older { found });
        }
        Ok(Self { connection: Mutex::new(connection) })
    }

    /// Begins a session that goes on from a backup.
    ///
    /// # Errors
    /// If the commit fails.
    pub fn begin_restored(
        &self,
        nonce: &[u8; 32],
        model: ModelState,
        entries: &[EncodedEntry],
        carried: &Carried<'_>,
    ) -> Result<(), StoreError> {
        let mut connection = self.lock();
        let transaction = connection.transaction()?;
        begin(&transaction, nonce, model, entries)?;
        let Carried { before: Before { attempts, lost, released }, debits, rotations } = carried;
        transaction.execute(
            "UPDATE session SET attempts_before = ?1, attempts_lost = ?2, released_before = ?3",
            [attempts, lost, released],
        )?;
        for (client, Debit { attempts, received, released }) in *debits {
            let query = "INSERT INTO carried (client, attempts, received, released) VALUES (?1, ?2, ?3, ?4)";
            transaction.execute(query, params![client.as_str(), attempts, received, released])?;
        }
        for (index, entry) in *rotations {
            let query = "INSERT INTO rotation_before (leaf_index, entry) VALUES (?1, ?2)";
            transaction.execute(query, params![index, entry])?;
        }
        Ok(transaction.commit()?)
    }

    /// What the backup that this session goes on from has of each client, without what is lost.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn carried(&self) -> Result<BTreeMap<ClientId, Debit>, StoreError> {
        read_debits(&self.lock(), "SELECT client, attempts, received, released FROM carried")
    }

    /// The exchanges of the key of the log that this one goes on from, by their index there.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn rotations_before(&self) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
        let connection = self.lock();
        let mut statement = connection.prepare("SELECT leaf_index, entry FROM rotation_before ORDER BY leaf_index")?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        // A panic while the lock is held leaves an open transaction, which its drop has rolled back.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The database as of one instant, whoever goes on writing it.
pub struct Snapshot {
    connection: Connection,
}

impl Snapshot {
    /// Takes the file as it is now; there must be one.
    ///
    /// # Errors
    /// If it cannot be read or is of another version.
    pub fn take(path: &Path) -> Result<Self, StoreError> {
        let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        connection.busy_timeout(BUSY_TIME_MAX)?;
        check_version(version(&connection)?, &MIGRATIONS)?;
        // What is read first in a transaction fixes what all of it sees: the writer writes beside it.
        connection.execute_batch("BEGIN; SELECT count(*) FROM session;")?;
        Ok(Self { connection })
    }

    /// The model's objects; none where no session was begun.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn model(&self) -> Result<Option<ModelState>, StoreError> {
        let model = self.connection.query_row("SELECT checkpoint, optimizer FROM session", [], |row| {
            Ok(ModelState { checkpoint: Digest(row.get(0)?), optimizer: Digest(row.get(1)?) })
        });
        Ok(model.optional()?)
    }

    /// Writes it to `to`, as one file that is whole by itself, and has SQLite look through what came of it. `progress` hears
    /// how many pages of how many are written.
    ///
    /// # Errors
    /// If it cannot be read or written, or is damaged.
    pub fn copy(&self, to: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<(), StoreError> {
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
        let mut copy = Connection::open(to)?;
        {
            let backup = Backup::new(&self.connection, &mut copy)?;
            while backup.step(PAGES_PER_STEP)? != StepResult::Done {
                let left = backup.progress();
                progress((left.pagecount - left.remaining).max(0) as u64, left.pagecount.max(0) as u64);
            }
        }
        copy.pragma_update(None, "journal_mode", "DELETE")?;
        let said: String = copy.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
        if said != "ok" {
            return Err(StoreError::Damaged { what: said });
        }
        Ok(())
    }
}

/// The schema's version; 0 in a file that is empty.
fn version(connection: &Connection) -> Result<u32, StoreError> {
    Ok(connection.pragma_query_value(None, "user_version", |row| row.get(0))?)
}

/// Whether these migrations lead from the version found, or an empty file, to their last.
fn check_version(found: u32, migrations: &[(u32, &str)]) -> Result<(), StoreError> {
    match found == 0 || migrations.iter().any(|(version, _)| *version == found) {
        true => Ok(()),
        false => Err(StoreError::Version { found }),
    }
}

/// Takes the steps that are left, all of them or none.
fn migrate(connection: &mut Connection, migrations: &[(u32, &str)]) -> Result<(), StoreError> {
    // Two processes that begin at once take them one after the other, and the second finds none left.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let found = version(&transaction)?;
    check_version(found, migrations)?;
    for (version, step) in migrations.iter().filter(|(version, _)| *version > found) {
        transaction.execute_batch(step)?;
        transaction.pragma_update(None, "user_version", version)?;
    }
    Ok(transaction.commit()?)
}

impl StateStore for SqliteStore {
    fn begin_session(&self, nonce: &[u8; 32], model: ModelState, entries: &[EncodedEntry]) -> Result<(), StoreError> {
        let mut connection = self.lock();
        let transaction = connection.transaction()?;
        begin(&transaction, nonce, model, entries)?;
        Ok(transaction.commit()?)
    }

    fn resume(&self) -> Result<Option<Resume>, StoreError> {
        let connection = self.lock();
        let session = connection
            .query_row(
                "SELECT nonce, checkpoint, optimizer, ledger_durable, attempts_before, attempts_lost, released_before
                 FROM session",
                [],
                |row| {
                    let digest = |column| row.get::<_, [u8; 32]>(column);
                    let before = Before { attempts: row.get(4)?, lost: row.get(5)?, released: row.get(6)? };
                    Ok((digest(0)?, digest(1)?, digest(2)?, row.get(3)?, before))
                },
            )
            .optional()?;
        let Some((session_nonce, checkpoint, optimizer, ledger_durable, before)) = session else { return Ok(None) };
        let (last_round, attempts, released) = connection.query_row(
            "SELECT coalesce(max(round), 0), count(*), count(*) FILTER (WHERE outcome = 'released') FROM round",
            [],
            |row| Ok((row.get::<_, u64>(0)?, row.get(1)?, row.get(2)?)),
        )?;
        let open_round = connection
            .query_row("SELECT round, abort_entry, abort_attachment FROM round WHERE outcome = 'open'", [], |row| {
                let abort_entry = EncodedEntry { leaf: row.get(1)?, attachment: row.get(2)? };
                Ok(OpenRound { round: RoundNumber(row.get(0)?), abort_entry })
            })
            .optional()?;
        Ok(Some(Resume {
            session_nonce,
            model: ModelState { checkpoint: Digest(checkpoint), optimizer: Digest(optimizer) },
            last_round: RoundNumber(last_round),
            attempts,
            released,
            open_round,
            before,
            ledger_durable,
        }))
    }

    fn open_round(
        &self,
        round: RoundNumber,
        cohort: &[ClientId],
        abort_entry: &EncodedEntry,
    ) -> Result<(), StoreError> {
        let mut connection = self.lock();
        let transaction = connection.transaction()?;
        transaction.execute(
            "INSERT INTO round (round, outcome, abort_entry, abort_attachment) VALUES (?1, 'open', ?2, ?3)",
            params![round.0, abort_entry.leaf, abort_entry.attachment],
        )?;
        for client in cohort {
            transaction
                .execute("INSERT INTO debit (client, round) VALUES (?1, ?2)", params![client.as_str(), round.0])?;
        }
        Ok(transaction.commit()?)
    }

    fn prepare_abort(&self, round: RoundNumber, entry: &EncodedEntry) -> Result<(), StoreError> {
        self.lock().execute(
            "UPDATE round SET abort_entry = ?2, abort_attachment = ?3 WHERE round = ?1",
            params![round.0, entry.leaf, entry.attachment],
        )?;
        Ok(())
    }

    fn close_round(&self, closed: &ClosedRound<'_>, ledger_durable: u64) -> Result<u64, StoreError> {
        let ClosedRound { round, outcome, model, received, bindings, entry } = closed;
        let mut connection = self.lock();
        let transaction = connection.transaction()?;
        let n_closed = transaction.execute(
            "UPDATE round SET outcome = ?2, abort_entry = NULL, abort_attachment = NULL
             WHERE round = ?1 AND outcome = 'open'",
            params![round.0, outcome.as_str()],
        )?;
        if n_closed != 1 {
            return Err(StoreError::Malformed { what: "round to close: it is not open" });
        }
        if let Some(model) = model {
            transaction.execute(
                "UPDATE session SET checkpoint = ?1, optimizer = ?2",
                params![model.checkpoint.0, model.optimizer.0],
            )?;
        }
        for client in *received {
            let query = "UPDATE debit SET received = 1 WHERE client = ?1 AND round = ?2";
            transaction.execute(query, params![client.as_str(), round.0])?;
        }
        for binding in *bindings {
            let query = "INSERT OR REPLACE INTO binding (pseudonym, text) VALUES (?1, ?2)";
            transaction.execute(query, params![binding.pseudonym.0, binding.encode()])?;
        }
        let index = append_leaf(&transaction, entry, ledger_durable)?;
        transaction.commit()?;
        Ok(index)
    }

    fn bindings(&self) -> Result<Vec<Binding>, StoreError> {
        let connection = self.lock();
        let mut statement = connection.prepare("SELECT text FROM binding ORDER BY pseudonym")?;
        let texts = statement.query_map([], |row| row.get::<_, String>(0))?.collect::<Result<String, _>>()?;
        Binding::parse_all(&texts).map_err(|_| StoreError::Malformed { what: "binding" })
    }

    fn append_entry(&self, entry: &EncodedEntry, ledger_durable: u64) -> Result<u64, StoreError> {
        let mut connection = self.lock();
        let transaction = connection.transaction()?;
        let index = append_leaf(&transaction, entry, ledger_durable)?;
        transaction.commit()?;
        Ok(index)
    }

    fn enter_members(&self, members: &[(Member, EncodedEntry)], ledger_durable: u64) -> Result<u64, StoreError> {
        let mut connection = self.lock();
        let transaction = connection.transaction()?;
        let mut first = None;
        for (Member { opening, certificate }, entry) in members {
            let index = append_leaf(&transaction, entry, ledger_durable)?;
            first.get_or_insert(index);
            transaction.execute(
                "INSERT INTO member (leaf_index, change, origin, client, salt, certificate) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                params![
                    index,
                    opening.change.kind().name(),
                    opening.origin.as_str(),
                    opening.client.as_str(),
                    opening.salt,
                    certificate
                ],
            )?;
        }
        transaction.commit()?;
        first.ok_or(StoreError::Malformed { what: "list of members to enter: it is empty" })
    }

    fn members(&self) -> Result<Vec<Member>, StoreError> {
        let connection = self.lock();
        let query = "SELECT change, origin, client, salt, certificate FROM member ORDER BY leaf_index";
        let mut statement = connection.prepare(query)?;
        let rows = statement.query_map([], |row| {
            let text = |place| row.get::<_, String>(place);
            Ok((text(0)?, text(1)?, text(2)?, row.get::<_, [u8; 32]>(3)?, row.get::<_, Vec<u8>>(4)?))
        })?;
        rows.map(|row| {
            let (change, origin, client, salt, certificate) = row?;
            let change = MembershipChange::ALL.into_iter().find(|known| known.kind().name() == change);
            let (Some(change), Ok(origin), Ok(client)) = (change, origin.parse(), client.parse()) else {
                return Err(StoreError::Malformed { what: "member" });
            };
            let opening = Opening { change, origin, client, certificate: Digest::of(&certificate), salt };
            Ok(Member { opening, certificate })
        })
        .collect()
    }

    fn entries_from(&self, index: u64) -> Result<Vec<EncodedEntry>, StoreError> {
        let connection = self.lock();
        let query = "SELECT entry, attachment FROM leaf WHERE leaf_index >= ?1 ORDER BY leaf_index";
        let mut statement = connection.prepare(query)?;
        let rows =
            statement.query_map([index], |row| Ok(EncodedEntry { leaf: row.get(0)?, attachment: row.get(1)? }))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    fn debits(&self) -> Result<BTreeMap<ClientId, Debit>, StoreError> {
        read_debits(
            &self.lock(),
            "SELECT client, count(*), sum(received), sum(received AND outcome = 'released')
             FROM debit JOIN round USING (round) GROUP BY client",
        )
    }
}

fn begin(
    transaction: &Transaction<'_>,
    nonce: &[u8; 32],
    model: ModelState,
    entries: &[EncodedEntry],
) -> Result<(), StoreError> {
    transaction.execute(
        "INSERT INTO session (only_row, nonce, checkpoint, optimizer) VALUES (1, ?1, ?2, ?3)",
        params![nonce, model.checkpoint.0, model.optimizer.0],
    )?;
    entries.iter().try_for_each(|entry| append_leaf(transaction, entry, 0).map(|_| ()))
}

/// What `query` gives: clients, each with its attempts, vectors received, and those in released sums.
fn read_debits(connection: &Connection, query: &str) -> Result<BTreeMap<ClientId, Debit>, StoreError> {
    let mut statement = connection.prepare(query)?;
    let rows = statement.query_map([], |row| {
        let debit = Debit { attempts: row.get(1)?, received: row.get(2)?, released: row.get(3)? };
        Ok((row.get::<_, String>(0)?, debit))
    })?;
    rows.map(|row| {
        let (client, debit) = row?;
        let client = client.parse().map_err(|_| StoreError::Malformed { what: "client's identity" })?;
        Ok((client, debit))
    })
    .collect()
}

fn append_leaf(transaction: &Transaction<'_>, entry: &EncodedEntry, ledger_durable: u64) -> Result<u64, StoreError> {
    let index: u64 = transaction.query_row("SELECT count(*) FROM leaf", [], |row| row.get(0))?;
    let before: u64 = transaction.query_row("SELECT ledger_durable FROM session", [], |row| row.get(0))?;
    if ledger_durable > before {
        transaction.execute("UPDATE session SET ledger_durable = ?1", [ledger_durable])?;
        let query = "UPDATE leaf SET attachment = NULL WHERE leaf_index >= ?1 AND leaf_index < ?2";
        transaction.execute(query, [before, ledger_durable])?;
    }
    transaction.execute(
        "INSERT INTO leaf (leaf_index, entry, attachment) VALUES (?1, ?2, ?3)",
        params![index, entry.leaf, entry.attachment],
    )?;
    Ok(index)
}

/// What makes a version's schema of the one before it, by ascending version; the first makes it of an empty file. What a
/// build once wrote is never altered here: a change is another entry. Numbers below the first belong to builds whose
/// databases nobody reads any more.
const MIGRATIONS: [(u32, &str); 2] = [(6, SCHEMA_6), (7, SCHEMA_7)];
/// The version of this build.
const SCHEMA_VERSION: u32 = MIGRATIONS[MIGRATIONS.len() - 1].0;
const VERSION_NEXT: &str = "go on with the build that wrote it, or begin a new federation in another folder";

/// How long a reader waits where another process recovers the file after a crash.
const BUSY_TIME_MAX: Duration = Duration::from_secs(10);
/// Pages of 4 KiB that are copied before anybody is told.
const PAGES_PER_STEP: i32 = 4096;
/// Memory for the database's pages. What a round writes is read again only when the coordinator is started; SQLite's own
/// 2 MB fill up over some hundred rounds, which looks like a leak.
const CACHE_KIB: i64 = 256;

const SCHEMA_6: &str = "
CREATE TABLE session (
    only_row   INTEGER PRIMARY KEY CHECK (only_row = 1),
    nonce      BLOB NOT NULL CHECK (length(nonce) = 32),
    checkpoint BLOB NOT NULL CHECK (length(checkpoint) = 32),
    optimizer  BLOB NOT NULL CHECK (length(optimizer) = 32),
    ledger_durable INTEGER NOT NULL DEFAULT 0 -- leaves whose files in the ledger are durable: no attachment is kept here
) STRICT;
CREATE TABLE round (
    round       INTEGER PRIMARY KEY,
    outcome     TEXT NOT NULL CHECK (outcome IN ('open', 'released', 'aborted-before-reveal', 'aborted-after-reveal')),
    abort_entry BLOB,
    abort_attachment BLOB
) STRICT;
CREATE UNIQUE INDEX one_open_round ON round (outcome) WHERE outcome = 'open';
CREATE TABLE debit (
    client   TEXT NOT NULL,
    round    INTEGER NOT NULL REFERENCES round (round),
    received INTEGER NOT NULL DEFAULT 0 CHECK (received IN (0, 1)), -- whether its masked vector came, complete
    PRIMARY KEY (client, round)
) STRICT, WITHOUT ROWID;
CREATE TABLE binding (
    pseudonym BLOB PRIMARY KEY CHECK (length(pseudonym) = 32),
    text      TEXT NOT NULL -- as an auditor reads it
) STRICT, WITHOUT ROWID;
CREATE TABLE leaf (
    leaf_index INTEGER PRIMARY KEY,
    entry      BLOB NOT NULL,
    attachment BLOB -- until the ledger's own file of it is durable
) STRICT;
CREATE TABLE member (
    leaf_index  INTEGER PRIMARY KEY REFERENCES leaf (leaf_index),
    change      TEXT NOT NULL CHECK (change IN ('client-enrolled', 'certificate-renewed', 'client-revoked')),
    origin      TEXT NOT NULL,
    client      TEXT NOT NULL,
    salt        BLOB NOT NULL CHECK (length(salt) = 32), -- without it nobody can tell whom the entry is about
    certificate BLOB NOT NULL -- in DER
) STRICT;
";
/// A log that goes on from a backup of another one.
const SCHEMA_7: &str = "
ALTER TABLE session ADD COLUMN attempts_before INTEGER NOT NULL DEFAULT 0; -- of the logs before, those lost included
ALTER TABLE session ADD COLUMN attempts_lost INTEGER NOT NULL DEFAULT 0; -- how many of these count as everybody's
ALTER TABLE session ADD COLUMN released_before INTEGER NOT NULL DEFAULT 0;
CREATE TABLE carried (
    client   TEXT PRIMARY KEY,
    attempts INTEGER NOT NULL, -- what the backup has of the client, without those lost
    received INTEGER NOT NULL,
    released INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE rotation_before (
    leaf_index INTEGER PRIMARY KEY, -- in the log before
    entry      BLOB NOT NULL
) STRICT;
";

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    fn id(name: &str) -> ClientId {
        ClientId::new(&"example.org".parse().unwrap(), name).unwrap()
    }

    fn entry(leaf: &str, attachment: Option<&str>) -> EncodedEntry {
        EncodedEntry { leaf: leaf.into(), attachment: attachment.map(Into::into) }
    }

    fn model(name: &str) -> ModelState {
        ModelState { checkpoint: Digest::of(name.as_bytes()), optimizer: Digest::of(b"optimizer") }
    }

    fn closed(round: u64, outcome: Outcome, entry: &EncodedEntry) -> ClosedRound<'_> {
        ClosedRound { round: RoundNumber(round), outcome, model: None, received: &[], bindings: &[], entry }
    }

    #[test]
    fn what_was_committed_is_there_after_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.sqlite");
        let nonce = [7; 32];
        {
            let store = SqliteStore::open(&path).unwrap();
            assert_eq!(store.resume().unwrap(), None);
            store.begin_session(&nonce, model("zero"), &[entry("opened", None)]).unwrap();
            store.open_round(RoundNumber(1), &[id("a"), id("b")], &entry("leaf", None)).unwrap();
            let (received, released) = ([id("a")], entry("leaf 1", Some("one")));
            let closed = ClosedRound {
                model: Some(model("one")),
                received: &received,
                ..closed(1, Outcome::Released, &released)
            };
            assert_eq!(store.close_round(&closed, 1).unwrap(), 1);
            assert_eq!(store.entries_from(1).unwrap(), [released], "kept until it is durable in the ledger");
            store.open_round(RoundNumber(2), &[id("b")], &entry("leaf", None)).unwrap();
            store.prepare_abort(RoundNumber(2), &entry("leaf 2", Some("two"))).unwrap();
        }
        let store = SqliteStore::open(&path).unwrap();
        let resume = store.resume().unwrap().unwrap();
        assert_eq!((resume.session_nonce, resume.model), (nonce, model("one")));
        assert_eq!((resume.last_round, resume.attempts, resume.released), (RoundNumber(2), 2, 1));
        let open_round = resume.open_round.unwrap();
        assert_eq!((open_round.round, open_round.abort_entry.clone()), (RoundNumber(2), entry("leaf 2", Some("two"))));
        let debits = |store: &SqliteStore| {
            let debits = store.debits().unwrap();
            ["a", "b"].map(|name| (debits[&id(name)].attempts, debits[&id(name)].received, debits[&id(name)].released))
        };
        assert_eq!(debits(&store), [(1, 1, 1), (2, 0, 0)], "an open round is debited and has received nothing");
        assert_eq!(debits(&SqliteStore::read(&path).unwrap()), debits(&store), "whoever looks at it sees the same");
        let received = [id("b")];
        let aborted =
            ClosedRound { received: &received, ..closed(2, Outcome::AbortedAfterReveal, &open_round.abort_entry) };
        assert_eq!(store.close_round(&aborted, 1).unwrap(), 2);
        assert_eq!(debits(&store), [(1, 1, 1), (2, 1, 0)]);
        drop(store);
        assert_eq!(debits(&SqliteStore::read(&path).unwrap()), [(1, 1, 1), (2, 1, 0)], "when nobody else has it open");
        let store = SqliteStore::open(&path).unwrap();
        let (one, two) = (entry("leaf 1", Some("one")), entry("leaf 2", Some("two")));
        assert_eq!(store.entries_from(0).unwrap(), [entry("opened", None), one, two.clone()]);
        // What is durable in the ledger is let go here, and that is never taken back.
        let next = entry("leaf 3", None);
        assert_eq!(store.append_entry(&next, 2).unwrap(), 3);
        assert_eq!(store.append_entry(&next, 0).unwrap(), 4);
        assert_eq!(store.resume().unwrap().unwrap().ledger_durable, 2);
        let entries = store.entries_from(1).unwrap();
        assert_eq!(entries, [entry("leaf 1", None), two, next.clone(), next]);
    }

    #[test]
    fn nobody_else_reads_the_database() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.sqlite");
        let store = SqliteStore::open(&path).unwrap();
        store.begin_session(&[7; 32], model("zero"), &[]).unwrap();
        let mut n_files = 0;
        for file in fs::read_dir(dir.path()).unwrap() {
            assert_eq!(file.unwrap().metadata().unwrap().permissions().mode() & 0o077, 0);
            n_files += 1;
        }
        assert!(n_files > 1, "what SQLite writes beside it was not there to look at");
    }

    #[test]
    fn another_versions_database_is_refused_and_stays_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let (running, killed, closed) =
            (dir.path().join("running"), dir.path().join("killed"), dir.path().join("closed"));
        let beside =
            |path: &Path, suffix: &str| path.with_file_name(format!("{}{suffix}", path.file_name().unwrap().display()));
        for found in [1, MIGRATIONS[0].0 - 1, SCHEMA_VERSION + 1, u32::MAX >> 1] {
            let store = SqliteStore::open(&running).unwrap();
            store.lock().pragma_update(None, "user_version", found).unwrap();
            // As a kill leaves it: what was committed last is not in the file yet.
            fs::copy(&running, &killed).unwrap();
            fs::copy(beside(&running, "-wal"), beside(&killed, "-wal")).unwrap();
            store.lock().pragma_update(None, "journal_mode", "DELETE").unwrap();
            drop(store);
            fs::rename(&running, &closed).unwrap();
            let files = [killed.clone(), beside(&killed, "-wal"), closed.clone()];
            let bytes = || files.each_ref().map(|path| fs::read(path).unwrap());
            let before = bytes();
            for opened in
                [SqliteStore::open, SqliteStore::read].iter().flat_map(|open| [&killed, &closed].map(|path| open(path)))
            {
                let error = opened.err().expect("of another version");
                assert!(matches!(error, StoreError::Version { found: said } if said == found), "{error}");
                let (what, next) = (error.to_string(), error.next_step(""));
                assert!(what.contains(&format!("version {found}, this build's is {SCHEMA_VERSION}")), "{what}");
                assert!(next.contains("the build that wrote it") && next.contains("begin a new federation"), "{next}");
            }
            assert!(bytes() == before, "{found}");
            fs::remove_file(beside(&killed, "-wal")).unwrap();
        }
    }

    #[test]
    fn the_steps_to_a_version_are_taken_together_or_not_at_all() {
        assert!(MIGRATIONS.is_sorted_by(|(before, _), (after, _)| before < after));
        let mut connection = Connection::open_in_memory().unwrap();
        let tables = |connection: &Connection| -> u32 {
            connection
                .query_row("SELECT count(*) FROM sqlite_schema WHERE type = 'table'", [], |row| row.get(0))
                .unwrap()
        };
        let next = SCHEMA_VERSION + 1;
        let added = "CREATE TABLE added (one INTEGER) STRICT; INSERT INTO added VALUES (1);";
        let fails =
            [MIGRATIONS.as_slice(), &[(next, added), (next + 1, "CREATE TABLE last (one INTEGER); nonsense")]].concat();
        migrate(&mut connection, &fails).unwrap_err();
        assert_eq!((version(&connection).unwrap(), tables(&connection)), (0, 0), "of an empty file nothing is left");
        migrate(&mut connection, &MIGRATIONS).unwrap();
        let n_tables = tables(&connection);
        migrate(&mut connection, &fails).unwrap_err();
        assert_eq!((version(&connection).unwrap(), tables(&connection)), (SCHEMA_VERSION, n_tables));
        // Those that are left are taken, once.
        for _ in 0..2 {
            migrate(&mut connection, &fails[..fails.len() - 1]).unwrap();
            assert_eq!((version(&connection).unwrap(), tables(&connection)), (next, n_tables + 1));
        }
        let error = migrate(&mut connection, &MIGRATIONS).unwrap_err();
        assert!(matches!(error, StoreError::Version { found } if found == next), "{error}");
    }

    #[test]
    fn what_the_first_version_wrote_is_taken_over_with_all_that_is_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.sqlite");
        let mut connection = Connection::open(&path).unwrap();
        migrate(&mut connection, &MIGRATIONS[..1]).unwrap();
        let transaction = connection.transaction().unwrap();
        begin(&transaction, &[7; 32], model("zero"), &[entry("opened", None)]).unwrap();
        transaction.commit().unwrap();
        drop(connection);
        let error = SqliteStore::read(&path).err().expect("older");
        assert!(matches!(error, StoreError::Older { found: 6 }), "{error}");
        assert!(error.next_step("").contains("`eranos coordinator run` of this build"));
        let resume = SqliteStore::open(&path).unwrap().resume().unwrap().unwrap();
        assert_eq!((resume.session_nonce, resume.model, resume.before), ([7; 32], model("zero"), Before::default()));
        assert_eq!(SqliteStore::read(&path).unwrap().entries_from(0).unwrap(), [entry("opened", None)]);
    }

    #[test]
    fn a_snapshot_is_of_one_instant_whatever_is_written_meanwhile() {
        let dir = tempfile::tempdir().unwrap();
        let (path, copy) = (dir.path().join("state.sqlite"), dir.path().join("copy.sqlite"));
        let store = SqliteStore::open(&path).unwrap();
        store.begin_session(&[7; 32], model("zero"), &[entry("opened", None)]).unwrap();
        let snapshot = Snapshot::take(&path).unwrap();
        store.open_round(RoundNumber(1), &[id("a")], &entry("leaf", None)).unwrap();
        let released = entry("leaf 1", None);
        store
            .close_round(&ClosedRound { model: Some(model("one")), ..closed(1, Outcome::Released, &released) }, 0)
            .unwrap();
        assert_eq!(snapshot.model().unwrap(), Some(model("zero")));
        snapshot.copy(&copy, &mut |_, _| {}).unwrap();
        let copied = SqliteStore::read(&copy).unwrap();
        let resume = copied.resume().unwrap().unwrap();
        assert_eq!((resume.model, resume.attempts, copied.entries_from(0).unwrap().len()), (model("zero"), 0, 1));
        assert_eq!(fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(store.resume().unwrap().unwrap().model, model("one"), "who writes goes on");
    }

    #[test]
    fn what_was_charged_before_is_carried_over() {
        let dir = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&dir.path().join("state.sqlite")).unwrap();
        let before = Before { attempts: 5, lost: 2, released: 3 };
        let debits = BTreeMap::from([(id("a"), Debit { attempts: 3, received: 2, released: 1 })]);
        let rotations = [(4, b"rotation".to_vec())];
        let carried = Carried { before, debits: &debits, rotations: &rotations };
        store.begin_restored(&[7; 32], model("zero"), &[entry("opened", None)], &carried).unwrap();
        assert_eq!(store.resume().unwrap().unwrap().before, before);
        assert_eq!((store.carried().unwrap(), store.rotations_before().unwrap()), (debits, rotations.to_vec()));
        assert!(store.debits().unwrap().is_empty(), "the session's own are counted from nothing");
    }

    #[test]
    fn a_round_is_opened_once_closed_once_and_alone() {
        let dir = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&dir.path().join("state.sqlite")).unwrap();
        store.begin_session(&[0; 32], model("zero"), &[]).unwrap();
        store.open_round(RoundNumber(1), &[], &entry("leaf", None)).unwrap();
        assert!(store.open_round(RoundNumber(1), &[], &entry("leaf", None)).is_err());
        assert!(store.open_round(RoundNumber(2), &[], &entry("leaf", None)).is_err(), "two rounds open at once");
        let leaf = entry("leaf", None);
        store.close_round(&closed(1, Outcome::AbortedBeforeReveal, &leaf), 0).unwrap();
        assert!(store.close_round(&closed(1, Outcome::Released, &leaf), 0).is_err());
        assert_eq!(store.entries_from(0).unwrap().len(), 1, "a refused close appends nothing");
    }
}
