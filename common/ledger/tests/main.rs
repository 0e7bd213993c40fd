//! The ledger from outside: written, crashed, tampered with, read by other implementations.

mod bindings;
mod browser;
mod command_line;
mod kinds;
mod oracles;
mod parsers;
mod report;
mod support;
mod tampering;
mod vectors;
mod witness;
mod writer;
