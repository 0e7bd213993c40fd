//! Reads the fixed layouts of messages, strictly and without allocating for what a peer merely claims.

use eranos_base::{Digest, Position, Signature, encoding::DecodeError};

/// The unread rest of a message named `what`.
pub(crate) struct Reader<'a> {
    what: &'static str,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { what, rest: bytes }
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (head, rest) = self.rest.split_at_checked(len).ok_or(DecodeError::Truncated { what: self.what })?;
        self.rest = rest;
        Ok(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, rest) = self.rest.split_first_chunk().ok_or(DecodeError::Truncated { what: self.what })?;
        self.rest = rest;
        Ok(*head)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, DecodeError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(crate) fn position(&mut self) -> Result<Position, DecodeError> {
        Ok(Position(self.u16()?))
    }

    pub(crate) fn digest(&mut self) -> Result<Digest, DecodeError> {
        Ok(Digest(self.array()?))
    }

    pub(crate) fn signature(&mut self) -> Result<Signature, DecodeError> {
        Ok(Signature(self.array()?))
    }

    /// The digests that the rest consists of, at most `max`.
    pub(crate) fn digests(&mut self, max: usize) -> Result<Vec<Digest>, DecodeError> {
        let n_digests = self.rest.len() / Digest::LEN;
        if n_digests > max {
            return Err(DecodeError::Limit { what: self.what, len: n_digests as u64, max: max as u64 });
        }
        (0..n_digests).map(|_| self.digest()).collect()
    }

    /// The signatures that the rest consists of, at most `max`.
    pub(crate) fn signatures(&mut self, max: usize) -> Result<Vec<Signature>, DecodeError> {
        let n_signatures = self.rest.len() / 64;
        if n_signatures > max {
            return Err(DecodeError::Limit { what: self.what, len: n_signatures as u64, max: max as u64 });
        }
        (0..n_signatures).map(|_| self.signature()).collect()
    }

    /// A count of at most `max`.
    pub(crate) fn count(&mut self, max: usize) -> Result<usize, DecodeError> {
        let count = usize::from(self.u16()?);
        if count > max {
            return Err(DecodeError::Limit { what: self.what, len: count as u64, max: max as u64 });
        }
        Ok(count)
    }

    pub(crate) fn malformed(&self) -> DecodeError {
        DecodeError::Malformed { what: self.what }
    }

    pub(crate) fn finish(self) -> Result<(), DecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            n_bytes => Err(DecodeError::Trailing { what: self.what, n_bytes }),
        }
    }
}

/// Whether positions ascend strictly: sorted, and none twice.
pub(crate) fn strictly_ascending(mut positions: impl Iterator<Item = Position>) -> bool {
    let Some(mut last) = positions.next() else { return true };
    positions.all(|position| std::mem::replace(&mut last, position) < position)
}
