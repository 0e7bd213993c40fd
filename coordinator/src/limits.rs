//! Every bound of the coordinator towards the network, with what it costs to raise it. What client and coordinator must
//! agree on stands in [`eranos_base::limits`]; docs/limits.md shows all of them on one page.

use std::time::Duration;

/// Connections beyond two for each client of a cohort: newcomers, and those who were just turned away. An idle connection
/// takes 33 kB.
pub const CONNECTIONS_SPARE: usize = 64;
/// Handshakes under way at once, up to Hello; each holds some tens of kilobytes. From half of them on an address must be
/// shown to be real (a QUIC Retry, which keeps nothing) before anything is kept for it.
pub const HANDSHAKES_MAX: usize = 256;
/// Bytes of one connection that arrive before its handshake is taken up.
pub const EARLY_BYTES_MAX: u64 = 64 << 10;
/// The same of all of them together.
pub const EARLY_BYTES_TOTAL_MAX: u64 = 8 << 20;
/// Longest time from a connection's first packet to its Hello. A slower line than that cannot take part.
pub const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);
/// Connections that one certificate may make at once before they are counted; each costs a handshake, a millisecond of one
/// core.
pub const CONNECTS_BURST: u32 = 128;
/// Connections a second that one certificate may make after that.
pub const CONNECTS_PER_SECOND: u32 = 4;
/// Longest time for a request's header, and its end where there is no body. A header of a mebibyte needs 35 KB/s.
pub const OPENING_TIME_MAX: Duration = Duration::from_secs(30);
/// Longest time without a byte inside a body.
pub const CHUNK_TIME_MAX: Duration = Duration::from_secs(30);
/// The slowest line over which a body may come, beyond [`CHUNK_TIME_MAX`]: a body that trickles ends all the same.
pub const BODY_BYTES_PER_SECOND_MIN: u64 = 2 << 10;
/// Longest time for writing an answer, a checkpoint over a slow line included.
pub const ANSWER_TIME_MAX: Duration = Duration::from_secs(600);
/// A connection without a sign of life for this long is gone; clients send keep-alives.
pub const IDLE_TIME_MAX_MS: u32 = 30_000;
/// Exchanges of one connection at once: one, and the one that replaces it, twice. Each may hold a header of
/// [`eranos_base::limits::REQUEST_HEADER_LEN_MAX`].
pub const STREAMS_PER_CONNECTION_MAX: u32 = 4;
/// Exchanges of one connection that were no frames, or never came, before it is cut.
pub const OFFENCES_PER_CONNECTION_MAX: u32 = 64;
/// Bytes of one stream that may wait unread.
pub const STREAM_WINDOW: u32 = 1 << 20;
/// Bytes of one connection that may wait unread.
pub const CONNECTION_WINDOW: u32 = 2 << 20;
/// Bytes of one connection that may wait for acknowledgement.
pub const SEND_WINDOW: u64 = 2 << 20;
/// Requests read and not yet handled; the reading waits when they are so many.
pub const INCOMING_QUEUED_MAX: usize = 1024;
/// The size asked for the socket's buffers.
pub const SOCKET_BUFFER_LEN: usize = 4 << 20;
/// How often certificates and revocation lists are looked at: a revoked client is cut no later than this after its list
/// was copied.
pub const CERTIFICATES_CHECK_EVERY: Duration = Duration::from_secs(1);
/// At most one line in the log about each kind of offence in this time.
pub const OFFENCE_LOG_EVERY: Duration = Duration::from_secs(10);
/// Connections to the metrics' port at once.
pub const METRICS_CONNECTIONS_MAX: usize = 16;
/// Longest head of a request for metrics, in bytes; the least that the HTTP library takes.
pub const METRICS_REQUEST_LEN_MAX: usize = 8 << 10;
/// Longest time for one connection to the metrics' port, kept alive or not.
pub const METRICS_TIME_MAX: Duration = Duration::from_secs(30);
/// Longest time for a request's head, and for the coordinator's answer to it.
pub const METRICS_ANSWER_TIME_MAX: Duration = Duration::from_secs(5);
/// The wait after an accept that failed, as when there are no file descriptors left.
pub const ACCEPT_AGAIN: Duration = Duration::from_millis(200);
