//! The fuzz bodies of the repository's tests, one function for each target.

#![forbid(unsafe_code)]
#![expect(dead_code, reason = "the tests use more of what is included here")]

#[path = "../../tests/fuzz"]
mod fuzz {
    pub(crate) mod bodies;
    pub(crate) mod corpus;
    pub(crate) mod machines;
}

#[path = "../../tests/simulation"]
mod simulation {
    pub(crate) mod world;
}

/// Valid inputs of each body that reads a format.
pub fn corpora() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    fuzz::corpus::all()
}

macro_rules! bodies {
    ($($name:ident),+) => {
        $(
            /// The body of this name.
            pub fn $name(data: &[u8]) {
                fuzz::bodies::$name(data);
            }
        )+
    };
}

bodies!(wire, framing, secagg, plan, mechanism, ledger, tile, budget, model, data, names);

/// A program against the coordinator's round.
pub fn coordinator(data: &[u8]) {
    fuzz::machines::play_coordinator(data);
}

/// A program against a client's round.
pub fn client(data: &[u8]) {
    fuzz::machines::play_client(data);
}
