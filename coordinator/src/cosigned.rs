//! Cosigned checkpoints that witnesses, or whoever carries files for them, put into a folder of the coordinator's state, and
//! that it shows to its clients: the coordinator needs no witness's key, and judges none. A checkpoint that is not one of its
//! own ledger is shown to nobody.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    time::SystemTime,
};

use eranos_ledger::{
    Checkpoint, LogWriter, SignedNote,
    log::Storage,
    note::{NOTE_LEN_MAX, NoteSignature},
    witnessed::{self, COSIGNED_MAX},
};
use eranos_wire::messages::{Blob, configure::Cosigned};

/// Its name in the folder of a coordinator's state.
pub const FOLDER: &str = "cosigned";

/// A folder of signed notes, one a file.
#[derive(Debug)]
pub struct CosignedFolder {
    dir: PathBuf,
    /// What is shown, by ascending size.
    notes: Vec<(u64, Vec<u8>)>,
    /// Of which files it was said that they are of no use.
    told: BTreeSet<PathBuf>,
}

impl CosignedFolder {
    /// Opens the folder, making it if need be. What was attached to the ledger's own checkpoint while the coordinator did not
    /// run (`eranos witness cosign --attach`) is kept in it, since the next entry replaces that checkpoint.
    ///
    /// # Errors
    /// If it cannot be made, or that cannot be kept.
    pub fn open<S: Storage>(dir: &Path, ledger: &LogWriter<S>) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let signed = ledger.checkpoint();
        if signed.note().signatures().len() > 1 {
            let path = dir.join(format!("attached-{}", signed.checkpoint().size));
            let aside = path.with_extension("tmp");
            fs::write(&aside, signed.note().encode())?;
            fs::rename(aside, path)?;
        }
        Ok(Self { dir: dir.to_owned(), notes: Vec::new(), told: BTreeSet::new() })
    }

    /// Looks again what lies there: of each signature by each key the newest, on at most [`COSIGNED_MAX`] checkpoints. A file
    /// that is no checkpoint of `ledger` is named in the log, once. Nobody here can tell a true cosignature from a line that
    /// looks like one: what was written last comes first, so that a witness's newest word stands before whatever lies there
    /// already.
    pub fn refresh<S: Storage>(&mut self, ledger: &LogWriter<S>) {
        let paths = self.newest();
        self.told.retain(|path| paths.contains(path));
        let mut found: Vec<(u64, SignedNote)> = Vec::new();
        for path in paths {
            match read(&path, ledger) {
                Ok((size, note)) => match found.iter_mut().find(|(other, _)| *other == size) {
                    Some((_, other)) => other.take_signatures(&note),
                    None => found.push((size, note)),
                },
                Err(what) => {
                    if self.told.insert(path.clone()) {
                        tracing::warn!(file = %path.display(), what, "no cosigned checkpoint of this ledger");
                    }
                }
            }
        }
        found.sort_by_key(|(size, _)| std::cmp::Reverse(*size));
        let mut signers = BTreeSet::new();
        found.retain(|(_, note)| {
            let new = note.signatures().iter().filter(|one| signers.insert((one.name.clone(), one.key_id)));
            new.count() > 0
        });
        self.notes = found.iter().take(COSIGNED_MAX).rev().map(|(size, note)| (*size, note.encode().into())).collect();
    }

    /// The files that are looked at, the newest first.
    fn newest(&self) -> Vec<PathBuf> {
        let paths = fs::read_dir(&self.dir).into_iter().flatten().flatten().map(|file| file.path());
        let paths = paths.filter(|path| path.extension().is_none_or(|extension| extension != "tmp"));
        let written = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified());
        let mut files: Vec<(SystemTime, PathBuf)> =
            paths.map(|path| (written(&path).unwrap_or(SystemTime::UNIX_EPOCH), path)).collect();
        files.sort_by(|one, other| other.cmp(one));
        files.into_iter().take(FILES_MAX).map(|(_, path)| path).collect()
    }

    /// What a client is shown that kept a checkpoint of `known` entries; 0 for none.
    ///
    /// # Errors
    /// If the ledger cannot be read.
    pub fn shown<S: Storage>(
        &self,
        ledger: &LogWriter<S>,
        known: u64,
    ) -> Result<Vec<Cosigned>, eranos_ledger::AppendError> {
        let chain = witnessed::chain(ledger, &self.notes, known)?.into_iter();
        Ok(chain.map(|one| Cosigned { note: Blob(one.note), consistency: one.consistency }).collect())
    }
}

/// The note in the file, if its text is a checkpoint of `ledger` as it was at that size.
fn read<S: Storage>(path: &Path, ledger: &LogWriter<S>) -> Result<(u64, SignedNote), String> {
    // To open a pipe is to wait for whoever may never write to it.
    if !fs::metadata(path).map_err(|error| error.to_string())?.is_file() {
        return Err("it is not a file".to_owned());
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| error.to_string())?;
    file.take(NOTE_LEN_MAX as u64 + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    let note = SignedNote::parse(&bytes).map_err(|error| error.to_string())?;
    let checkpoint = Checkpoint::parse(note.text()).map_err(|error| error.to_string())?;
    let Checkpoint { origin, size, root } = &checkpoint;
    if origin != ledger.ledger_key().name() {
        return Err(format!("it is of the ledger {origin}"));
    }
    if *size == 0 || ledger.root_at(*size).map_err(|error| error.to_string())? != *root {
        return Err(format!("this ledger had another root at {size} entries"));
    }
    // A false line in the place of the ledger's own would make clients refuse whatever else the note says.
    let key = ledger.ledger_key();
    let own = |one: &NoteSignature| one.name == *key.name() && one.key_id == key.key_id();
    if note.signatures().iter().any(own) {
        note.verify(&key).map_err(|error| error.to_string())?;
    }
    Ok((*size, note))
}

/// Most files that are looked at: those that were written last.
const FILES_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use eranos_base::{SigningKey, Timestamp};
    use eranos_ledger::{Date, Entry, LedgerSigner, LogOpened, witness::Witness};

    use super::*;

    fn ledger(dir: &Path, n: u64, day: u64) -> LogWriter {
        let signer =
            Arc::new(LedgerSigner::new("ledger.example.org".parse().unwrap(), SigningKey::from_seed(&[1; 32])));
        let mut writer = LogWriter::open(dir, signer.clone()).unwrap();
        while writer.size() < n {
            let opened = LogOpened {
                origin: format!("log-{}", writer.size()).parse().unwrap(),
                trust_domain: "example.org".parse().unwrap(),
                ledger_key: signer.ledger_key(),
                date: Date::of(Timestamp::from_unix_ms(day * 86_400_000)),
            };
            writer.append(writer.size(), &Entry::LogOpened(opened).encode().unwrap()).unwrap();
        }
        writer
    }

    #[test]
    fn the_newest_of_each_witness_is_shown_and_nothing_of_another_ledger() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let mut writer = ledger(&path("ledger"), 1, 0);
        let [mut first, mut second] = ["first", "second"].map(|name| {
            let key = writer.ledger_key();
            Witness::init(&path(name), name.parse().unwrap(), &key, &mut eranos_base::OsEntropy).unwrap();
            Witness::open(&path(name)).unwrap()
        });
        let mut folder = CosignedFolder::open(&path(FOLDER), &writer).unwrap();
        folder.refresh(&writer);
        assert_eq!(folder.shown(&writer, 1).unwrap(), []);
        let now = Timestamp::from_unix_ms(1_800_000_000_000);
        let cosign = |witness: &mut Witness, name: &str| {
            let cosigned = witness.cosign(&path("ledger"), now).unwrap().note().encode();
            fs::write(path(FOLDER).join(name), &cosigned).unwrap();
        };
        cosign(&mut first, "a");
        cosign(&mut second, "b");
        folder.refresh(&writer);
        let shown = folder.shown(&writer, 0).unwrap();
        assert_eq!(shown.len(), 1, "two witnesses of one checkpoint");
        let note = SignedNote::parse(&shown[0].note.0).unwrap();
        assert_eq!((note.signatures().len(), first.key().verify(&note).is_ok()), (3, true));
        drop(writer);
        writer = ledger(&path("ledger"), 5, 0);
        cosign(&mut first, "c");
        folder.refresh(&writer);
        // Both, and each proof leads to the next.
        for known in [0, 1, 3, 5] {
            let sizes: Vec<usize> =
                folder.shown(&writer, known).unwrap().iter().map(|one| one.consistency.len()).collect();
            assert_eq!(sizes.len(), 2, "{known}");
        }
        assert_eq!(folder.shown(&writer, 6).unwrap(), [], "whoever knows more than there is");
        cosign(&mut second, "d");
        folder.refresh(&writer);
        assert_eq!(folder.shown(&writer, 0).unwrap().len(), 1, "older ones by the same witnesses are not shown");

        // What is no checkpoint of this ledger is shown to nobody.
        let other = ledger(&path("other"), 5, 1);
        for (name, bytes) in [
            ("e", other.checkpoint().note().encode().into_bytes()),
            ("f", b"nonsense".to_vec()),
            ("g", vec![b'x'; NOTE_LEN_MAX + 1]),
        ] {
            fs::write(path(FOLDER).join(name), bytes).unwrap();
        }
        fs::create_dir(path(FOLDER).join("h")).unwrap();
        folder.refresh(&writer);
        assert_eq!((folder.shown(&writer, 0).unwrap().len(), folder.told.len()), (1, 4));
        // What was attached while nobody had the ledger open is kept.
        drop(writer);
        let cosigned = first.cosign(&path("ledger"), now).unwrap().clone();
        eranos_ledger::witness::attach(&path("ledger"), &cosigned, first.ledger()).unwrap();
        let writer = ledger(&path("ledger"), 5, 0);
        fs::remove_dir_all(path(FOLDER)).unwrap();
        let mut folder = CosignedFolder::open(&path(FOLDER), &writer).unwrap();
        folder.refresh(&writer);
        assert_eq!(folder.shown(&writer, 0).unwrap().len(), 1);
    }
    #[test]
    fn what_was_written_last_is_looked_at_first_and_no_false_line_takes_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let writer = ledger(&path("ledger"), 3, 0);
        Witness::init(&path("witness"), "witness".parse().unwrap(), &writer.ledger_key(), &mut eranos_base::OsEntropy)
            .unwrap();
        let mut witness = Witness::open(&path("witness")).unwrap();
        let signed = witness.cosign(&path("ledger"), Timestamp::from_unix_ms(1_800_000_000_000)).unwrap();
        let cosigned = signed.note().encode();
        let mut folder = CosignedFolder::open(&path(FOLDER), &writer).unwrap();
        let put = |name: &str, bytes: &str, age: u64| {
            fs::write(path(FOLDER).join(name), bytes).unwrap();
            let file = File::options().write(true).open(path(FOLDER).join(name)).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(2_000_000_000 - age)).unwrap();
        };
        let shows_it = |folder: &mut CosignedFolder| {
            folder.refresh(&writer);
            let shown = folder.shown(&writer, 0).unwrap();
            let [one] = shown.as_slice() else { return false };
            let note = SignedNote::parse(&one.note.0).unwrap();
            witness.key().verify(&note).is_ok() && note.verify(&writer.ledger_key()).is_ok()
        };
        // More files than are looked at, before and behind it by name.
        for i in 0..FILES_MAX {
            put(&format!("a{i}"), "nonsense", 100);
            put(&format!("z{i}"), "nonsense", 100);
        }
        put("m", &cosigned, 50);
        assert!(shows_it(&mut folder));
        assert_eq!(folder.told.len(), FILES_MAX - 1);
        for i in 0..FILES_MAX {
            fs::remove_file(path(FOLDER).join(format!("a{i}"))).unwrap();
            fs::remove_file(path(FOLDER).join(format!("z{i}"))).unwrap();
        }
        // The ledger's line, then the witness's: each with another's signature, and as many lines as a note may have.
        let lines: Vec<&str> = cosigned.lines().collect();
        let [text @ .., own, cosignature] = lines.as_slice() else { panic!("{cosigned}") };
        let false_line = |line: &str| {
            let (before, signature) = line.rsplit_once(' ').unwrap();
            // Its name and key id stay.
            let (id, rest) = signature.split_at(8);
            let other = if rest.starts_with('A') { 'B' } else { 'A' };
            format!("{before} {id}{other}{}", &rest[1..])
        };
        let note = |lines: &[String]| format!("{}\n{}\n", text.join("\n"), lines.join("\n"));
        let many: Vec<String> = (0..32).map(|i| cosignature.replace("witness ", &format!("witness-{i} "))).collect();
        put("a", &note(&[(*own).to_owned(), false_line(cosignature)]), 60);
        put("b", &note(&many), 60);
        assert!(shows_it(&mut folder), "older ones");
        put("c", &note(&[false_line(own), (*cosignature).to_owned()]), 40);
        assert!(shows_it(&mut folder), "a newer one that the ledger did not sign");
        assert!(folder.told.contains(&path(FOLDER).join("c")) && folder.told.len() == 1, "{:?}", folder.told);
    }
}
