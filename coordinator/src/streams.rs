//! One exchange on one stream: a request's header is read under the limits of `wire`, its body only when the federation
//! asks for it, and the answer may come late. Every wait has a bound.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use eranos_base::{ClientId, limits::CHUNK_LEN};
use eranos_wire::framing::{Decoder, FrameError, Kind, Limits, Piece, StreamCode, encode_head};
use quinn::{RecvStream, SendStream};
use tokio::{sync::RwLock, time::timeout};

use crate::{
    limits::{ANSWER_TIME_MAX, BODY_BYTES_PER_SECOND_MIN, CHUNK_TIME_MAX},
    offences::{Offence, Offences},
};

pub(crate) type Limiter = fn(Kind) -> Option<Limits>;

/// Reads a request up to its body.
///
/// # Errors
/// If the bytes are no frame, or the stream ends early.
pub(crate) async fn read_opening(
    mut stream: RecvStream,
    limits: Limiter,
    from: &ClientId,
    offences: &Arc<Offences>,
) -> Result<(Kind, Vec<u8>, BodyReader), BodyError> {
    let mut decoder = Decoder::new(limits);
    let mut input = Bytes::new();
    loop {
        if let Some(Piece::Opening { kind, header, body_len }) = decoder.decode(&mut input)? {
            if body_len == 0 {
                // Nobody reads on where there is no body, so what follows the frame would never be found.
                expect_end(&mut stream, &mut decoder, &mut input).await?;
            }
            let (from, offences) = (from.clone(), offences.clone());
            return Ok((
                kind,
                header,
                BodyReader { stream, decoder, input, len: body_len, wanted: body_len == 0, from, offences },
            ));
        }
        input = next_chunk(&mut stream).await?.ok_or(BodyError::Cut)?;
    }
}

async fn expect_end(
    stream: &mut RecvStream,
    decoder: &mut Decoder<Limiter>,
    input: &mut Bytes,
) -> Result<(), BodyError> {
    loop {
        decoder.decode(input)?;
        match next_chunk(stream).await? {
            Some(chunk) => *input = chunk,
            None => return Ok(()),
        }
    }
}

async fn next_chunk(stream: &mut RecvStream) -> Result<Option<Bytes>, BodyError> {
    let chunk = stream.read_chunk(CHUNK_LEN, true).await.map_err(|_| BodyError::Cut)?;
    Ok(chunk.map(|chunk| chunk.bytes))
}

/// Why a body was not read.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The bytes are no frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The stream ended early.
    #[error("stream cut off")]
    Cut,
    /// The body has another length than expected.
    #[error("body of {found} bytes, expected {expected}")]
    Length {
        /// Its length.
        found: u64,
        /// The length expected.
        expected: u64,
    },
    /// The client was too slow.
    #[error("no bytes within {} s, or less than {BODY_BYTES_PER_SECOND_MIN} a second", CHUNK_TIME_MAX.as_secs())]
    TooSlow,
}

/// A request's body, still on its way: nothing is read before it is asked for, which holds the client back.
pub struct BodyReader {
    stream: RecvStream,
    decoder: Decoder<Limiter>,
    input: Bytes,
    len: u64,
    wanted: bool,
    from: ClientId,
    offences: Arc<Offences>,
}

impl BodyReader {
    /// The length that the frame claims.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is no body.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Reads the whole body, which must have `len` bytes.
    ///
    /// # Errors
    /// If it has another length, is cut off, stalls, or trickles.
    pub async fn read_all(mut self, len: usize) -> Result<Vec<u8>, BodyError> {
        self.wanted = true;
        let time_max = CHUNK_TIME_MAX + Duration::from_secs(len as u64 / BODY_BYTES_PER_SECOND_MIN);
        let read = timeout(time_max, self.read(len)).await.unwrap_or(Err(BodyError::TooSlow));
        let offence = match &read {
            // A lost connection is no offence.
            Ok(_) | Err(BodyError::Cut) => None,
            Err(BodyError::Frame(_)) => Some(Offence::BadFrame),
            Err(BodyError::Length { .. }) => Some(Offence::WrongLength),
            Err(BodyError::TooSlow) => Some(Offence::TooSlow),
        };
        if let (Some(offence), Err(error)) = (offence, &read) {
            self.offences.note(offence, &self.from, error);
        }
        read
    }

    async fn read(&mut self, len: usize) -> Result<Vec<u8>, BodyError> {
        if self.len != len as u64 {
            // A stream that is gone need not be stopped.
            let _ = self.stream.stop(StreamCode::BodyUnwanted.number().into());
            return Err(BodyError::Length { found: self.len, expected: len as u64 });
        }
        let mut body = Vec::with_capacity(len);
        loop {
            while let Some(piece) = self.decoder.decode(&mut self.input)? {
                if let Piece::Body(bytes) = piece {
                    body.extend_from_slice(&bytes);
                }
            }
            let chunk = timeout(CHUNK_TIME_MAX, next_chunk(&mut self.stream)).await;
            match chunk.map_err(|_| BodyError::TooSlow)?? {
                Some(chunk) => self.input = chunk,
                None => break,
            }
        }
        self.decoder.finish()?;
        Ok(body)
    }
}

impl Drop for BodyReader {
    fn drop(&mut self) {
        if !self.wanted {
            self.offences.note(Offence::UnwantedBody, &self.from, &"a body that nobody asked for, or no longer");
            // A stream that is gone need not be stopped.
            let _ = self.stream.stop(StreamCode::BodyUnwanted.number().into());
        }
    }
}

/// Where an answer goes. Dropped unused, it breaks the exchange off, and the client asks again.
pub struct Reply {
    stream: Option<SendStream>,
    answering: Arc<RwLock<()>>,
}

impl Reply {
    /// A reply that nobody waits for.
    #[cfg(test)]
    pub(crate) fn to_nobody() -> Self {
        Self { stream: None, answering: Arc::new(RwLock::const_new(())) }
    }

    pub(crate) fn new(stream: SendStream, answering: &Arc<RwLock<()>>) -> Self {
        Self { stream: Some(stream), answering: answering.clone() }
    }

    /// Sends the answer in the background; header and body may be shared by many answers.
    pub fn send(mut self, kind: Kind, header: Bytes, body: Bytes) {
        let Some(mut stream) = self.stream.take() else { return };
        let head = match encode_head(kind, header.len(), body.len() as u64) {
            Ok(head) => head,
            Err(error) => {
                tracing::error!(%error, "an answer exceeds its limit");
                return;
            }
        };
        // None is given while a server waits for those before, at its end.
        let answering = self.answering.clone().try_read_owned().ok();
        tokio::spawn(async move {
            let _answering = answering;
            let write = async {
                stream.write_all(&head).await?;
                stream.write_all_chunks(&mut [header, body]).await?;
                stream.finish().ok();
                // Whether it arrived is the client's to say, by its next request.
                stream.stopped().await.ok();
                Ok::<_, quinn::WriteError>(())
            };
            if !matches!(timeout(ANSWER_TIME_MAX, write).await, Ok(Ok(()))) {
                tracing::debug!("an answer was not taken");
            }
        });
    }

    pub(crate) fn reset(mut self, code: StreamCode) {
        if let Some(mut stream) = self.stream.take() {
            // A stream that is gone need not be reset.
            let _ = stream.reset(code.number().into());
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if let Some(mut stream) = self.stream.take() {
            // A stream that is gone need not be reset.
            let _ = stream.reset(StreamCode::NoAnswer.number().into());
        }
    }
}
