//! The authority as its operator and its members see it: by the transcripts of commands, and by what certificates are
//! believed. Expired and forged certificates are made here, with the same library but without its checks.

#![forbid(unsafe_code)]

mod cli;
mod life;
mod trust;
