//! Who waits for which answer. An exchange belongs to a client's identity, not to its connection: a client that lost
//! its network sends the same request again and gets the answer that is due, or the one it missed.

use std::collections::BTreeMap;

use bytes::Bytes;
use eranos_base::{ClientId, Digest, encoding::DecodeError};
use eranos_wire::Answer;

/// What a request turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// Not seen before: handle it.
    New,
    /// The one that is waiting already, on another stream: the answer will go there.
    Pending,
    /// The one answered last: send this again.
    Answered(AnswerFrame),
}

/// An answer as it goes out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnswerFrame {
    /// Its kind byte.
    pub kind: u8,
    /// Its control header.
    pub header: Bytes,
    /// Its body.
    pub body: Bytes,
}

impl AnswerFrame {
    /// The frame of an answer; to be cloned for all who get it, which copies nothing.
    ///
    /// # Errors
    /// If its header exceeds the limit.
    pub fn new(answer: &Answer, body: Bytes) -> Result<Self, DecodeError> {
        Ok(Self { kind: answer.kind(), header: answer.encode()?.into(), body })
    }
}

/// The latest exchange of each client: one request, pending or answered. Memory is one answer a client, less what several
/// share.
pub struct Exchanges<R> {
    latest: BTreeMap<ClientId, Exchange<R>>,
}

struct Exchange<R> {
    request: Digest,
    /// Whether the request asks to take part in some round, rather than belonging to one.
    is_check_in: bool,
    state: State<R>,
}

enum State<R> {
    Pending(R),
    Answered(AnswerFrame),
}

impl<R> Default for Exchanges<R> {
    fn default() -> Self {
        Self { latest: BTreeMap::new() }
    }
}

impl<R> Exchanges<R> {
    /// Takes a request of `from` whose bytes hash to `request`, to be answered through `reply`. Gives `reply` back if
    /// the answer is known.
    pub fn arrive(&mut self, from: &ClientId, request: Digest, is_check_in: bool, reply: R) -> (Arrival, Option<R>) {
        match self.latest.get_mut(from) {
            Some(exchange) if exchange.request == request => match &mut exchange.state {
                State::Pending(pending) => {
                    *pending = reply;
                    (Arrival::Pending, None)
                }
                State::Answered(frame) => (Arrival::Answered(frame.clone()), Some(reply)),
            },
            _ => {
                self.latest.insert(from.clone(), Exchange { request, is_check_in, state: State::Pending(reply) });
                (Arrival::New, None)
            }
        }
    }

    /// The reply handle of the client's pending request, which `frame` now answers; none if nothing is pending, or what
    /// is pending is a check-in and the frame answers none (or the reverse): a client that came back has left its round.
    pub fn answer(&mut self, to: &ClientId, to_check_in: bool, frame: &AnswerFrame) -> Option<R> {
        let exchange = self.latest.get_mut(to).filter(|exchange| exchange.is_check_in == to_check_in)?;
        match std::mem::replace(&mut exchange.state, State::Answered(frame.clone())) {
            State::Pending(reply) => Some(reply),
            answered @ State::Answered(_) => {
                exchange.state = answered;
                None
            }
        }
    }

    /// Breaks off whatever the client waits for, and forgets what it was told.
    pub fn forget(&mut self, id: &ClientId) {
        self.latest.remove(id);
    }

    /// Clients with a pending request.
    pub fn pending(&self) -> impl Iterator<Item = &ClientId> {
        self.latest.iter().filter(|(_, exchange)| matches!(exchange.state, State::Pending(_))).map(|(id, _)| id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(header: u8) -> AnswerFrame {
        AnswerFrame { kind: 1, header: vec![header].into(), body: Bytes::new() }
    }

    #[test]
    fn a_request_sent_again_moves_its_answer_to_the_new_stream() {
        let id: ClientId = "spiffe://example.org/client/a".parse().unwrap();
        let mut exchanges = Exchanges::default();
        let (first, second) = (Digest::of(b"1"), Digest::of(b"2"));
        assert_eq!(exchanges.arrive(&id, first, false, "old stream"), (Arrival::New, None));
        assert_eq!(exchanges.arrive(&id, first, false, "new stream"), (Arrival::Pending, None));
        assert_eq!(exchanges.pending().count(), 1);
        assert_eq!(exchanges.answer(&id, true, &frame(6)), None, "it is no check-in that waits");
        assert_eq!(exchanges.answer(&id, false, &frame(7)), Some("new stream"));
        assert_eq!(exchanges.answer(&id, false, &frame(8)), None, "an exchange is answered once");
        assert_eq!(exchanges.arrive(&id, first, false, "again"), (Arrival::Answered(frame(7)), Some("again")));
        assert_eq!(exchanges.arrive(&id, second, true, "next"), (Arrival::New, None));
        assert_eq!(exchanges.answer(&id, false, &frame(9)), None, "the round it left answers no check-in");
    }
}
