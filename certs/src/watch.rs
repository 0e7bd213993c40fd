//! A party's folder, looked at again and again while the party runs: revocations, a renewed certificate and a new
//! authority take effect without a restart.
//!
//! What is read decides, not a file's time: a copied file may carry any. Whatever cannot be used leaves in force what was
//! there before, and is said once. Revocation lists never go back: the highest number that was in force is remembered,
//! beside the party's state, so that an older list that is put in the place of a newer one is refused after a restart too.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use eranos_base::Digest;

use crate::{
    files::{FileError, read_limited, write_atomic},
    party::{
        AUTHORITY_FILE, CERTIFICATE_FILE, KEY_FILE, Own, PEM_LEN_MAX, PartyError, REVOCATION_LIST_FILE, load_anchor,
    },
    trust::{REVOCATION_LIST_LEN_MAX, TrustAnchor},
};

/// The name under which the highest numbers of revocation lists are remembered.
pub const REVOCATIONS_SEEN_FILE: &str = "revocations-seen";

/// Whom a party believes, as its folder says from now on.
#[derive(Debug)]
pub struct TrustWatch {
    folder: PathBuf,
    memory: PathBuf,
    seen: Option<Digest>,
    anchor: Arc<TrustAnchor>,
    /// The number and digest of the newest list of each authority that was ever in force.
    numbers: BTreeMap<Digest, (u64, Option<Digest>)>,
}

impl TrustWatch {
    /// Watches authority and revocation lists in `folder`, of which `anchor` was read, and remembers the lists' numbers in
    /// the folder `state`, which is there.
    ///
    /// # Errors
    /// If a list is older than one that was in force before, or what is remembered cannot be read or written.
    pub fn new(folder: &Path, state: &Path, anchor: TrustAnchor) -> Result<Self, PartyError> {
        let memory = state.join(REVOCATIONS_SEEN_FILE);
        let numbers = read_numbers(&memory)?;
        let anchor = Arc::new(anchor);
        let mut watch = Self { folder: folder.to_owned(), memory, seen: None, anchor: anchor.clone(), numbers };
        watch.put_in_force(anchor)?;
        Ok(watch)
    }

    /// Whom to believe now.
    pub fn anchor(&self) -> &Arc<TrustAnchor> {
        &self.anchor
    }

    /// Looks at the folder. Gives whom to believe from now on, if that changed.
    ///
    /// # Errors
    /// If what is there cannot be used, once for each change: what was in force stays so.
    pub fn look(&mut self) -> Result<Option<Arc<TrustAnchor>>, PartyError> {
        let files = [(AUTHORITY_FILE, 2 * PEM_LEN_MAX), (REVOCATION_LIST_FILE, REVOCATION_LIST_LEN_MAX)];
        if !changed(&self.folder, &files, &mut self.seen)? {
            return Ok(None);
        }
        let taken = self.take();
        if let Err(PartyError::File(_)) = &taken {
            // The disk may be mended without another change.
            self.seen = None;
        }
        taken
    }

    fn take(&mut self) -> Result<Option<Arc<TrustAnchor>>, PartyError> {
        let anchor = load_anchor(&self.folder)?;
        if anchor.trust_domain() != self.anchor.trust_domain() {
            return Err(PartyError::OtherDomain {
                path: self.folder.join(AUTHORITY_FILE),
                found: anchor.trust_domain().to_string(),
                expected: self.anchor.trust_domain().to_string(),
            });
        }
        let same = anchor.lists().eq(self.anchor.lists());
        let anchor = Arc::new(anchor);
        self.put_in_force(anchor.clone())?;
        Ok((!same).then_some(anchor))
    }

    fn put_in_force(&mut self, anchor: Arc<TrustAnchor>) -> Result<(), PartyError> {
        let mut numbers = self.numbers.clone();
        for list in anchor.lists() {
            let (seen, digest) = *numbers.get(&list.authority).unwrap_or(&(0, None));
            let other = digest.is_some_and(|digest| digest != list.digest);
            // Two lists of one number: one of them was not made by the authority's own tool.
            if list.number < seen || (list.number == seen && other) {
                let path = self.folder.join(REVOCATION_LIST_FILE);
                return Err(PartyError::ListGoesBack { path, found: list.number, seen });
            }
            numbers.insert(list.authority, (list.number, Some(list.digest)));
        }
        let text = |numbers: &BTreeMap<Digest, (u64, Option<Digest>)>| -> String {
            numbers.iter().map(|(authority, (number, _))| format!("{authority} {number}\n")).collect()
        };
        if text(&numbers) != text(&self.numbers) || !self.memory.exists() {
            // Durable before it is in force: a list that was obeyed once is never forgotten.
            write_atomic(&self.memory, text(&numbers).as_bytes())?;
        }
        (self.numbers, self.anchor) = (numbers, anchor);
        Ok(())
    }
}

/// A party's own key and certificate, as its folder says from now on.
#[derive(Debug)]
pub struct OwnWatch {
    folder: PathBuf,
    seen: Option<Digest>,
}

impl OwnWatch {
    /// Watches key and certificate in `folder`; the first look gives what is there.
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), seen: None }
    }

    /// Looks at the folder. Gives key and certificate if they changed since the last look.
    ///
    /// # Errors
    /// If they cannot be read or do not belong together, once for each change.
    pub fn look(&mut self) -> Result<Option<Own>, PartyError> {
        let files = [(KEY_FILE, PEM_LEN_MAX), (CERTIFICATE_FILE, PEM_LEN_MAX)];
        if !changed(&self.folder, &files, &mut self.seen)? {
            return Ok(None);
        }
        Own::load(&self.folder).map(Some)
    }
}

/// Whether the files are others than when they were `seen`; a file that is missing counts as one of its own.
fn changed(folder: &Path, files: &[(&str, usize)], seen: &mut Option<Digest>) -> Result<bool, FileError> {
    let mut digests = Vec::new();
    for (name, len_max) in files {
        let digest = match read_limited(&folder.join(name), *len_max) {
            Ok(bytes) => Digest::of(&zeroize::Zeroizing::new(bytes)),
            Err(error) if error.source.kind() == io::ErrorKind::NotFound => Digest::of(b""),
            Err(error) => return Err(error),
        };
        digests.extend_from_slice(digest.as_bytes());
    }
    let now = Some(Digest::of(&digests));
    Ok(std::mem::replace(seen, now) != now)
}

fn read_numbers(path: &Path) -> Result<BTreeMap<Digest, (u64, Option<Digest>)>, PartyError> {
    let bytes = match read_limited(path, PEM_LEN_MAX) {
        Ok(bytes) => bytes,
        Err(error) if error.source.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(error.into()),
    };
    let damaged = || PartyError::Content { what: "list of revocation lists' numbers", path: path.to_owned() };
    let text = std::str::from_utf8(&bytes).map_err(|_| damaged())?;
    let line = |line: &str| {
        let (authority, number) = line.split_once(' ')?;
        Some((authority.parse().ok()?, (number.parse().ok()?, None)))
    };
    text.lines().map(|text| line(text).ok_or_else(damaged)).collect()
}
