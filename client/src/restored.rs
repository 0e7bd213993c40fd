//! A coordinator that was restored from a backup goes on in another ledger. A client does not follow by itself, since what was
//! lost may be what somebody wants to be lost: it keeps what it was shown, and waits until its own operator has accepted it.
//! The old checkpoint is kept as evidence, the budget is not touched: it is the larger figure.

use std::{
    fs,
    io::{self, Write},
    path::Path,
};

use eranos_base::{Digest, UserError, println};
use eranos_ledger::{Checkpoint, Entry, LedgerKey, LogOpened, LogRestored, SignedNote};
use eranos_wire::messages::select::{self, ROTATIONS_MAX};

use crate::{
    budget,
    config::{Config, read_toml},
    setup::{self, CONFIG},
    store::{CHECKPOINT, LEDGER_KEYS, LOCK, private, replace, sync_dir},
};

/// Another ledger that goes on from the one known, as its first two entries say.
#[derive(Clone, Debug, PartialEq)]
pub struct Offer {
    /// Whose it is, with its key.
    pub opened: LogOpened,
    /// From where it goes on.
    pub restored: LogRestored,
    /// Both entries, as they are kept.
    pub bytes: Vec<u8>,
}

impl Offer {
    /// Takes what a coordinator says, if the last of `keys`, or one that they lead to, signed it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn verify(message: &select::LogRestored, keys: &[LedgerKey]) -> Result<Self, String> {
        let offer = Self::new(&message.opened.0, &message.restored.0)?;
        if message.rotations.len() > ROTATIONS_MAX {
            return Err("too many exchanges of the old ledger's key".to_owned());
        }
        let mut known = keys.to_vec();
        for rotation in &message.rotations {
            let Ok(Entry::KeyRotated(rotated)) = Entry::parse(&rotation.entry.0, None) else {
                return Err("an exchange of the old ledger's key that is none".to_owned());
            };
            let Some(from) = known.iter().find(|key| **key == rotated.old) else { continue };
            known.push(rotated.verify(rotation.index, from).map_err(|error| error.to_string())?.clone());
        }
        match known.contains(&offer.restored.old_key) {
            true => Ok(offer),
            false => Err("the ledger that it goes on from is not the one that this client knows".to_owned()),
        }
    }

    fn new(opened: &[u8], restored: &[u8]) -> Result<Self, String> {
        let bytes = [opened, b"\n", restored].concat();
        let parsed = (Entry::parse(opened, None), Entry::parse(restored, None));
        let (Ok(Entry::LogOpened(opened)), Ok(Entry::LogRestored(restored))) = parsed else {
            return Err("its first entries are not those of a ledger that was restored".to_owned());
        };
        let is_other = opened.origin != *restored.old_key.name() && opened.origin == *opened.ledger_key.name();
        if !is_other || restored.verify(&opened.ledger_key).is_err() {
            return Err("the old ledger's key did not sign that it goes on there".to_owned());
        }
        Ok(Self { opened, restored: *restored, bytes })
    }

    fn read(state: &Path) -> Result<Option<Self>, UserError> {
        let path = state.join(OFFERED);
        let unusable = |what: &dyn std::fmt::Display| {
            let what = format!("cannot use {}: {what}", path.display());
            UserError::new(what, "remove the file and start the client: the coordinator shows it again")
        };
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unusable(&error)),
        };
        let (opened, restored) = text.split_once("\n\n").ok_or_else(|| unusable(&"it is damaged"))?;
        let offer = Self::new(format!("{opened}\n").as_bytes(), restored.as_bytes());
        offer.map(Some).map_err(|error| unusable(&error))
    }
}

/// Keeps what was offered, in place of an offer before.
pub(crate) fn keep(state: &Path, offer: &[u8]) -> io::Result<()> {
    replace(&state.join(OFFERED), offer)
}

/// The key of a ledger that waits for this client's operator to accept it.
pub(crate) fn offered(state: &Path) -> Option<LedgerKey> {
    Offer::read(state).ok().flatten().map(|offer| offer.opened.ledger_key)
}

/// Shows the ledger that waits to be accepted; with its `key`, pins it in the old one's place.
///
/// # Errors
/// If none waits, it is another one, the client runs, or a file cannot be read or written.
pub fn accept(dir: &Path, key: Option<&str>) -> Result<(), UserError> {
    let path = dir.join(CONFIG);
    let config = Config::read(&path)?;
    let Some(offer) = Offer::read(&config.state)? else {
        let what = format!("no other ledger waits in {} to be accepted", config.state.display());
        return Err(UserError::new(
            what,
            "let `eranos client run` meet the coordinator first: it keeps what it is shown",
        ));
    };
    let note = match fs::read(config.state.join(CHECKPOINT)) {
        Ok(note) => Some(note),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(cannot("read", &config.state.join(CHECKPOINT), &error)),
    };
    show(&config, &offer, note.as_deref());
    let new = &offer.opened.ledger_key;
    let Some(key) = key else {
        println!(
            "nothing was changed. Ask the coordinator's operator, by another way than this network, whether it is so."
        );
        println!("Then stop this client and accept: eranos client accept-ledger --dir {} --key {new}", dir.display());
        return Ok(());
    };
    let line = fs::read_to_string(key).unwrap_or_else(|_| key.to_owned());
    if line.trim() != new.to_string() {
        let what = format!("the coordinator showed this client a ledger of another key, {new}");
        return Err(UserError::new(what, "ask its operator again which is right; nothing was changed"));
    }
    let lock = private().append(true).open(config.state.join(LOCK));
    let lock = lock.map_err(|error| cannot("open", &config.state.join(LOCK), &error))?;
    lock.try_lock().map_err(|_| {
        UserError::new("the client runs".to_owned(), "stop it, accept, and start it again: nothing was changed")
    })?;
    let pinned = setup::pinned_key(dir, &config)?;
    // Every step may be done again: what a crash leaves undone, the same command finishes.
    if let Some(note) = note.filter(|_| pinned != *new) {
        keep_for_ever(&config.state, BEFORE, &note)?;
    }
    keep_for_ever(&config.state, RESTORED, &offer.bytes)?;
    if pinned != *new {
        pin(&path, new)?;
    }
    for name in [CHECKPOINT, LEDGER_KEYS, OFFERED] {
        match fs::remove_file(config.state.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(cannot("remove", &config.state.join(name), &error));
            }
            _ => {}
        }
    }
    sync_dir(&config.state).map_err(|error| cannot("write", &config.state, &error))?;
    println!("accepted: {} pins the new ledger's key from now on", path.display());
    println!("the old checkpoint is kept as evidence: {BEFORE}* beside {RESTORED}* in {}", config.state.display());
    Ok(())
}

fn show(config: &Config, offer: &Offer, note: Option<&[u8]>) {
    let LogRestored { old_key, old_size, attempts_before, attempts_lost, .. } = &offer.restored;
    let known = note.and_then(known_size).unwrap_or_default();
    println!("old ledger: {old_key}");
    println!("new ledger: {}, opened on {}", offer.opened.ledger_key, offer.opened.date);
    match known > *old_size {
        true => println!(
            "LOST: entries {old_size} to {} of the old ledger, which this client has verified, and whatever followed",
            known - 1
        ),
        false => println!(
            "LOST: whatever followed the first {old_size} entries of the old ledger; this client knows {known}"
        ),
    }
    println!(
        "attempts: {attempts_before} stand in the old ledger, at most {attempts_lost} are lost, as the coordinator says"
    );
    if let Ok(budget) = budget::read(config.budget_dir()) {
        let spent = budget.epsilon_spent();
        let spent = if spent.is_finite() { format!("epsilon {spent:.3}") } else { "no guarantee".to_owned() };
        println!("this client's own budget stands as it is: {} attempts charged, {spent}", budget.n_charged());
    }
}

/// The size of a checkpoint that this client has verified before it kept it.
fn known_size(note: &[u8]) -> Option<u64> {
    let note = SignedNote::parse(note).ok()?;
    Some(Checkpoint::parse(note.text()).ok()?.size)
}

/// Writes a file that is named by what is in it, and never written again.
fn keep_for_ever(state: &Path, name: &str, bytes: &[u8]) -> Result<(), UserError> {
    let path = state.join(format!("{name}{}", Digest::of(bytes)));
    let write = || match private().write(true).create_new(true).open(&path) {
        Ok(mut file) => {
            file.write_all(bytes)?;
            file.sync_all()
        }
        // A crash may have left a part of it.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => match fs::read(&path)? == bytes {
            true => Ok(()),
            false => replace(&path, bytes),
        },
        Err(error) => Err(error),
    };
    write().and_then(|()| sync_dir(state)).map_err(|error| cannot("write", &path, &error))
}

/// Puts the key into client.toml, in the place of the one before.
fn pin(path: &Path, key: &LedgerKey) -> Result<(), UserError> {
    let by_hand = || {
        let what = format!("{} does not name ledger_key on a line of its own", path.display());
        UserError::new(what, format!("write it there by hand and run this again: ledger_key = \"{key}\""))
    };
    let text = fs::read_to_string(path).map_err(|error| cannot("read", path, &error))?;
    let is_key = |line: &str| line.split_once('=').is_some_and(|(name, _)| name.trim() == "ledger_key");
    if text.lines().filter(|line| is_key(line)).count() != 1 {
        return Err(by_hand());
    }
    let replaced = |line: &str| if is_key(line) { format!("ledger_key = \"{key}\"") } else { line.to_owned() };
    let text: String = text.lines().map(|line| replaced(line) + "\n").collect();
    let aside = path.with_extension("new");
    // Read as it will be before it is in place.
    let checked = fs::write(&aside, &text).map_err(|error| cannot("write", &aside, &error)).and_then(|()| {
        let config: Config = read_toml(&aside, "write the key there by hand")?;
        if config.ledger_key == key.to_string() { Ok(()) } else { Err(by_hand()) }
    });
    let _ = fs::remove_file(&aside);
    checked?;
    let mode = fs::metadata(path).map(|metadata| metadata.permissions());
    replace(path, text.as_bytes()).map_err(|error| cannot("write", path, &error))?;
    // Who could read it before still can.
    mode.and_then(|mode| fs::set_permissions(path, mode)).map_err(|error| cannot("write", path, &error))
}

fn cannot(action: &str, path: &Path, error: &dyn std::fmt::Display) -> UserError {
    UserError::new(format!("cannot {action} {}: {error}", path.display()), "check the folder and its owner")
}

/// Of a client's state: the first two entries of a ledger that waits to be accepted.
const OFFERED: &str = "ledger-offered";
/// The checkpoint of a ledger that was given up for a restored one, by the SHA-256 of the note.
const BEFORE: &str = "ledger-before-";
/// The first two entries of the one that was accepted, by the SHA-256 of both.
const RESTORED: &str = "ledger-restored-";

#[cfg(test)]
mod tests {
    use eranos_base::SigningKey;
    use eranos_ledger::{Date, KeyRotated, LedgerSigner, Restoration};
    use eranos_wire::messages::{Blob, select::Rotation};

    use super::*;

    fn signer(origin: &str, seed: u8) -> LedgerSigner {
        LedgerSigner::new(origin.parse().expect("a name"), SigningKey::from_seed(&[seed; 32]))
    }

    /// What the coordinator of `old` says, which goes on under `new`.
    fn message(old: &LedgerSigner, new: &LedgerSigner) -> select::LogRestored {
        let date: Date = "2026-01-01".parse().expect("a day");
        let opened = LogOpened {
            origin: new.ledger_key().name().clone(),
            trust_domain: "example.org".parse().expect("a name"),
            ledger_key: new.ledger_key(),
            date,
        };
        let restoration = Restoration {
            task: "digits".parse().expect("a name"),
            date,
            old: Checkpoint { origin: old.ledger_key().name().clone(), size: 9, root: Digest::of(b"root") },
            attempts_before: 7,
            attempts_lost: 1,
        };
        let restored = LogRestored::sign(restoration, old, &new.ledger_key());
        let leaf = |entry: Entry| Blob(entry.encode().expect("encodes").leaf);
        select::LogRestored {
            opened: leaf(Entry::LogOpened(opened)),
            restored: leaf(Entry::LogRestored(Box::new(restored))),
            rotations: Vec::new(),
        }
    }

    #[test]
    fn only_what_the_old_ledgers_key_signed_is_kept_to_be_accepted() {
        let (old, new, other) = (signer("old", 1), signer("new", 2), signer("other", 3));
        let known = [old.ledger_key()];
        let offer = Offer::verify(&message(&old, &new), &known).expect("signed by the key that is known");
        assert_eq!((&offer.opened.ledger_key, offer.restored.old_size), (&new.ledger_key(), 9));
        let dir = tempfile::tempdir().expect("a folder");
        assert_eq!((Offer::read(dir.path()).expect("readable"), offered(dir.path())), (None, None));
        keep(dir.path(), &offer.bytes).expect("kept");
        assert_eq!(Offer::read(dir.path()).expect("readable"), Some(offer));
        let refused = |message: &select::LogRestored, says: &str| {
            let error = Offer::verify(message, &known).expect_err("nothing that is believed");
            assert!(error.contains(says), "{error}");
        };
        refused(&message(&other, &new), "is not the one that this client knows");
        // Whoever has not the old key cannot say that it goes on elsewhere.
        let not_signed = "did not sign";
        refused(&select::LogRestored { opened: message(&old, &other).opened, ..message(&old, &new) }, not_signed);
        refused(&message(&old, &signer("old", 2)), not_signed);
        let mut altered = message(&old, &new);
        let text = String::from_utf8(altered.restored.0.clone())
            .expect("text")
            .replace("attempts-lost: 1", "attempts-lost: 0");
        altered.restored = Blob(text.into_bytes());
        refused(&altered, not_signed);
        refused(&select::LogRestored { opened: altered.restored.clone(), ..altered.clone() }, "not those of a ledger");
    }

    #[test]
    fn a_client_that_was_away_when_the_key_was_exchanged_follows_it_up_to_the_backup() {
        let (first, second, new) = (signer("old", 1), signer("old", 4), signer("new", 2));
        let rotation = |index, from: &LedgerSigner, to: &LedgerSigner| Rotation {
            index,
            entry: Blob(Entry::KeyRotated(KeyRotated::sign(5, from, to)).encode().expect("encodes").leaf),
        };
        let with = |rotations| select::LogRestored { rotations, ..message(&second, &new) };
        let known = [first.ledger_key()];
        assert!(Offer::verify(&with(Vec::new()), &known).is_err(), "the key is not known");
        Offer::verify(&with(vec![rotation(5, &first, &second)]), &known).expect("signed from the known key on");
        assert!(Offer::verify(&with(vec![rotation(6, &first, &second)]), &known).is_err(), "signed for another place");
        assert!(Offer::verify(&with(vec![rotation(5, &new, &second)]), &known).is_err(), "from another key");
        let many = vec![rotation(5, &first, &second); ROTATIONS_MAX + 1];
        assert!(Offer::verify(&with(many), &known).is_err());
    }
}
