//! Round plans, the messages of each phase, framing, and the TLS configuration.
