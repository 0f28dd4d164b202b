//! Every bound of the protocol, by name.

/// Largest frame payload unless configured otherwise, in bytes (64 MiB).
pub const DEFAULT_MAX_FRAME_PAYLOAD: usize = 64 * 1024 * 1024;

/// Smallest frame limit that may be configured, in bytes (1 MiB).
pub const MIN_FRAME_PAYLOAD_LIMIT: usize = 1024 * 1024;

/// Largest frame limit that may be configured, in bytes: the length field is a `u32`.
pub const MAX_FRAME_PAYLOAD_LIMIT: usize = u32::MAX as usize;

/// Largest payload read from a peer that has not authenticated, in bytes.
///
/// A handshake request is about 200 bytes with the longest SS58 address and number encodings.
pub const MAX_HANDSHAKE_PAYLOAD: usize = 4 * 1024;

/// Deepest nesting of arrays and maps within one entry of a `data` map.
pub const MAX_NESTING_DEPTH: usize = 128;

/// Most values in one payload, the keys of nested maps included: 8 Mi, so that any list of 64-bit numbers that
/// fits a default frame passes, while a frame of one-byte values cannot blow up into gigabytes
/// when a handler asks for a value tree.
pub const MAX_ELEMENTS: usize = 8 * 1024 * 1024;

/// Length of a nonce in hex characters (128 bits).
pub const NONCE_HEX_LEN: usize = 32;

/// How far a handshake timestamp may lie in the future, in seconds.
pub const MAX_FUTURE_SKEW_SECS: u64 = 60;

/// The window over which handshake attempts of one address are counted, in seconds.
pub const HANDSHAKE_RATE_WINDOW_SECS: u64 = 60;

/// Most bytes reserved for a frame before any of its payload has arrived.
///
/// Beyond this, memory is taken as data arrives, never on the peer's word alone.
pub const EAGER_ALLOCATION: usize = 1024 * 1024;
