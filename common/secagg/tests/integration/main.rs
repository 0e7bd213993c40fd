//! Whole rounds in one process, over the bytes that would travel, without a socket.
//!
//! What these can find: a sum that is not exact, a refusal that is missing, a decoder that panics or is not strict.
//! What they cannot: a secret that shows in time or memory.

mod attacks;
mod decode;
mod decoders;
mod exactness;
mod federation;
mod flips;
mod large;
mod rounds;
mod secrecy;
mod sparse;
