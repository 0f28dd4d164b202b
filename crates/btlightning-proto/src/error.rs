//! What can be wrong with bytes.

use crate::limits;

/// An error in encoding or decoding a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProtoError {
    /// The frame's type byte is not one of the protocol's.
    #[error("unknown message type: 0x{0:02x}")]
    UnknownType(u8),
    /// The frame declares more than the receiver allows.
    #[error("frame payload {len} bytes exceeds maximum {max}")]
    FrameTooLarge {
        /// Declared payload length in bytes.
        len: u64,
        /// The receiver's limit in bytes.
        max: u64,
    },
    /// There are fewer bytes than the frame or value says.
    #[error("{what} is cut short: {have} of {need} bytes")]
    Truncated {
        /// What was being read.
        what: &'static str,
        /// Bytes there.
        have: u64,
        /// Bytes needed.
        need: u64,
    },
    /// Bytes are left over behind a complete message.
    #[error("{0} trailing bytes behind the message")]
    TrailingBytes(usize),
    /// The payload is MessagePack that nests too deeply.
    #[error("payload nests deeper than {} levels", limits::MAX_NESTING_DEPTH)]
    TooDeep,
    /// The payload has too many values.
    #[error("payload has more than {} values", limits::MAX_ELEMENTS)]
    TooManyElements,
    /// The payload holds a byte that begins no MessagePack value.
    #[error("invalid MessagePack marker 0x{marker:02x} at byte {offset}")]
    InvalidMarker {
        /// The byte.
        marker: u8,
        /// Where it stands in the payload.
        offset: usize,
    },
    /// A field of a message has the wrong type, or the message the wrong shape.
    #[error("{field}: expected {expected}")]
    Field {
        /// The field's name.
        field: &'static str,
        /// What should have stood there.
        expected: &'static str,
    },
    /// A message that is a map has no entry for a field.
    #[error("{0} is missing")]
    MissingField(&'static str),
    /// A value cannot be turned into MessagePack.
    #[error("cannot serialize: {0}")]
    Serialize(String),
    /// MessagePack does not fit the type asked for.
    #[error("cannot deserialize: {0}")]
    Deserialize(String),
}
