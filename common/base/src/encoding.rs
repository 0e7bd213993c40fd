//! How things become bytes.
//!
//! Whatever is signed or hashed uses the one canonical encoding: the domain string and then each field in its documented
//! order, every one of them as a `u32` little-endian length and that many bytes. Integers are fields of their full width,
//! little-endian; a list is its count (`u32`) followed by its items' fields.
//!
//! Control headers of frames, which are neither signed nor hashed, use bincode: this file is the only place that names
//! it, and the golden bytes in its tests let it be replaced.

use serde::{Serialize, de::DeserializeOwned};

use crate::{Digest, limits::HEADER_LEN_MAX};

/// Why bytes were not the encoding of anything.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end inside a field.
    #[error("{what} ends early")]
    Truncated {
        /// What was being read.
        what: &'static str,
    },
    /// Bytes remain after the last field.
    #[error("{n_bytes} bytes after the end of {what}")]
    Trailing {
        /// What was being read.
        what: &'static str,
        /// How many remain.
        n_bytes: usize,
    },
    /// The domain string is another.
    #[error("not a {expected}")]
    Domain {
        /// The domain expected.
        expected: &'static str,
    },
    /// A field is not what its place calls for.
    #[error("{what} is malformed")]
    Malformed {
        /// Which field.
        what: &'static str,
    },
    /// Something exceeds its named limit.
    #[error("{what} of {len}, limit {max}")]
    Limit {
        /// What is too large.
        what: &'static str,
        /// Its size.
        len: u64,
        /// The limit.
        max: u64,
    },
    /// A control header that bincode does not read.
    #[error("control header is malformed")]
    Header,
}

/// Writes the canonical encoding.
#[derive(Clone, Debug)]
pub struct Canonical(Vec<u8>);

impl Canonical {
    /// Starts an encoding under `domain`.
    pub fn new(domain: &str) -> Self {
        Self(Vec::new()).text(domain)
    }

    /// Appends one field.
    ///
    /// # Panics
    /// If the field is 4 GiB or longer; every field of the system is bounded far below.
    #[must_use]
    pub fn field(mut self, bytes: &[u8]) -> Self {
        let len = u32::try_from(bytes.len()).expect("fields are bounded far below 4 GiB");
        self.0.extend_from_slice(&len.to_le_bytes());
        self.0.extend_from_slice(bytes);
        self
    }

    /// Appends a text field.
    #[must_use]
    pub fn text(self, text: &str) -> Self {
        self.field(text.as_bytes())
    }

    /// Appends an integer field of one byte.
    #[must_use]
    pub fn u8(self, value: u8) -> Self {
        self.field(&[value])
    }

    /// Appends an integer field of two bytes.
    #[must_use]
    pub fn u16(self, value: u16) -> Self {
        self.field(&value.to_le_bytes())
    }

    /// Appends an integer field of four bytes.
    #[must_use]
    pub fn u32(self, value: u32) -> Self {
        self.field(&value.to_le_bytes())
    }

    /// Appends an integer field of eight bytes.
    #[must_use]
    pub fn u64(self, value: u64) -> Self {
        self.field(&value.to_le_bytes())
    }

    /// Appends a field of the eight bytes of an IEEE 754 number.
    #[must_use]
    pub fn f64(self, value: f64) -> Self {
        self.field(&value.to_le_bytes())
    }

    /// Appends a digest.
    #[must_use]
    pub fn digest(self, digest: &Digest) -> Self {
        self.field(&digest.0)
    }

    /// The encoding.
    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// Reads the canonical encoding, strictly: what it accepts re-encodes to the same bytes.
#[derive(Clone, Debug)]
pub struct CanonicalReader<'a> {
    what: &'static str,
    rest: &'a [u8],
}

impl<'a> CanonicalReader<'a> {
    /// Starts reading an encoding under `domain`.
    ///
    /// # Errors
    /// If the domain is another.
    pub fn new(bytes: &'a [u8], domain: &'static str) -> Result<Self, DecodeError> {
        let mut reader = Self { what: domain, rest: bytes };
        match reader.field() {
            Ok(found) if found == domain.as_bytes() => Ok(reader),
            _ => Err(DecodeError::Domain { expected: domain }),
        }
    }

    /// The next field.
    ///
    /// # Errors
    /// If the bytes end inside it.
    pub fn field(&mut self) -> Result<&'a [u8], DecodeError> {
        let truncated = DecodeError::Truncated { what: self.what };
        let (len, rest) = self.rest.split_first_chunk::<4>().ok_or_else(|| truncated.clone())?;
        let len = u32::from_le_bytes(*len) as usize;
        let (field, rest) = rest.split_at_checked(len).ok_or(truncated)?;
        self.rest = rest;
        Ok(field)
    }

    /// The next field, of exactly `N` bytes.
    ///
    /// # Errors
    /// If it has another length.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let what = self.what;
        self.field()?.try_into().map_err(|_| DecodeError::Malformed { what })
    }

    /// The next field as text.
    ///
    /// # Errors
    /// If it is not UTF-8.
    pub fn text(&mut self) -> Result<&'a str, DecodeError> {
        let what = self.what;
        std::str::from_utf8(self.field()?).map_err(|_| DecodeError::Malformed { what })
    }

    /// The next field as text, parsed.
    ///
    /// # Errors
    /// If it does not parse.
    pub fn parse<T: std::str::FromStr>(&mut self) -> Result<T, DecodeError> {
        let what = self.what;
        self.text()?.parse().map_err(|_| DecodeError::Malformed { what })
    }

    /// The next field as an integer of one byte.
    ///
    /// # Errors
    /// If it has another width.
    pub fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    /// The next field as an integer of two bytes.
    ///
    /// # Errors
    /// If it has another width.
    pub fn u16(&mut self) -> Result<u16, DecodeError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    /// The next field as an integer of four bytes.
    ///
    /// # Errors
    /// If it has another width.
    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// The next field as an integer of eight bytes.
    ///
    /// # Errors
    /// If it has another width.
    pub fn u64(&mut self) -> Result<u64, DecodeError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// The next field as a finite IEEE 754 number.
    ///
    /// # Errors
    /// If it has another width or is not finite.
    pub fn f64(&mut self) -> Result<f64, DecodeError> {
        let value = f64::from_le_bytes(self.array()?);
        if value.is_finite() { Ok(value) } else { Err(DecodeError::Malformed { what: self.what }) }
    }

    /// The next field as a digest.
    ///
    /// # Errors
    /// If it has another length.
    pub fn digest(&mut self) -> Result<Digest, DecodeError> {
        Ok(Digest(self.array()?))
    }

    /// A list's count, at most `max`, so that nothing larger is ever allocated for it.
    ///
    /// # Errors
    /// If it is larger.
    pub fn count(&mut self, max: usize) -> Result<usize, DecodeError> {
        let count = self.u32()? as usize;
        if count > max {
            return Err(DecodeError::Limit { what: self.what, len: count as u64, max: max as u64 });
        }
        Ok(count)
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// If bytes remain.
    pub fn finish(self) -> Result<(), DecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            n_bytes => Err(DecodeError::Trailing { what: self.what, n_bytes }),
        }
    }
}

/// Encodes a control header: bincode, little-endian, fixed-width integers.
///
/// # Errors
/// If it exceeds [`HEADER_LEN_MAX`].
pub fn encode_header<T: Serialize>(header: &T) -> Result<Vec<u8>, DecodeError> {
    let bytes = bincode::serde::encode_to_vec(header, header_config()).map_err(|_| DecodeError::Header)?;
    if bytes.len() > HEADER_LEN_MAX {
        return Err(DecodeError::Limit { what: "header", len: bytes.len() as u64, max: HEADER_LEN_MAX as u64 });
    }
    Ok(bytes)
}

/// Decodes a control header, which must fill `bytes`.
///
/// # Errors
/// If `bytes` is too long, malformed, or longer than the header.
pub fn decode_header<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    let (header, n_read) =
        bincode::serde::decode_from_slice(bytes, header_config()).map_err(|_| DecodeError::Header)?;
    match bytes.len() - n_read {
        0 => Ok(header),
        n_bytes => Err(DecodeError::Trailing { what: "header", n_bytes }),
    }
}

fn header_config() -> impl bincode::config::Config {
    bincode::config::standard().with_little_endian().with_fixed_int_encoding().with_limit::<HEADER_LEN_MAX>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_canonical_encoding_is_drawn_byte_by_byte() {
        let bytes = Canonical::new("d/v1").u16(0x0201).text("ab").field(&[]).finish();
        assert_eq!(hex::encode(&bytes), "04000000642f763102000000010202000000616200000000");
        let mut reader = CanonicalReader::new(&bytes, "d/v1").expect("domain");
        assert_eq!(reader.u16(), Ok(0x0201));
        assert_eq!(reader.text(), Ok("ab"));
        assert_eq!(reader.field(), Ok(&[][..]));
        assert_eq!(reader.finish(), Ok(()));
    }

    #[test]
    fn every_truncation_and_every_addition_is_refused() {
        let bytes = Canonical::new("d/v1").u64(7).digest(&Digest::of(b"x")).finish();
        let read = |bytes: &[u8]| -> Result<(), DecodeError> {
            let mut reader = CanonicalReader::new(bytes, "d/v1")?;
            reader.u64()?;
            reader.digest()?;
            reader.finish()
        };
        assert_eq!(read(&bytes), Ok(()));
        for len in 0..bytes.len() {
            assert!(read(&bytes[..len]).is_err(), "cut to {len}");
        }
        let longer = [bytes.as_slice(), &[0]].concat();
        assert!(matches!(read(&longer), Err(DecodeError::Trailing { n_bytes: 1, .. })));
    }

    #[test]
    fn a_list_longer_than_its_limit_is_refused_before_it_is_read() {
        let bytes = Canonical::new("l/v1").u32(u32::MAX).finish();
        let mut reader = CanonicalReader::new(&bytes, "l/v1").expect("domain");
        assert!(matches!(reader.count(8), Err(DecodeError::Limit { max: 8, .. })));
    }

    #[derive(Debug, PartialEq, Serialize, serde::Deserialize)]
    enum Header {
        CheckIn { task: String, round: u64 },
        Bytes(Vec<u8>),
    }

    #[test]
    fn control_headers_keep_their_golden_bytes() {
        let check = |header: Header, golden: &str| {
            let bytes = encode_header(&header).expect("encodes");
            assert_eq!(hex::encode(&bytes), golden);
            assert_eq!(decode_header::<Header>(&bytes), Ok(header));
            assert!(decode_header::<Header>(&bytes[..bytes.len() - 1]).is_err());
            assert!(decode_header::<Header>(&[bytes.as_slice(), &[0]].concat()).is_err());
        };
        check(Header::CheckIn { task: "mnist".into(), round: 3 }, "0000000005000000000000006d6e6973740300000000000000");
        check(Header::Bytes(vec![1, 2, 255]), "0100000003000000000000000102ff");
    }

    #[test]
    fn a_header_that_claims_a_huge_list_is_refused() {
        let bytes = [&1u32.to_le_bytes()[..], &u64::MAX.to_le_bytes()[..]].concat();
        assert_eq!(decode_header::<Header>(&bytes), Err(DecodeError::Header));
    }
}
