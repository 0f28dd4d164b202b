//! The btlightning wire protocol as pure functions and state machines.
//!
//! Nothing here opens a socket, reads a clock or draws a random number: bytes, the time and
//! nonces come in as arguments. A driver (quinn in the crate `btlightning`, later iroh) only moves
//! bytes between its streams and this crate.
//!
//! - [`frame`]: the five-byte header in front of every message;
//! - [`message`]: the messages, encoded straight into a frame and decoded from it;
//! - [`payload`]: the `data` map of a request or an answer, kept as the bytes it travels in;
//! - [`msgpack`]: the serde serializer for typed values and the validating scanner;
//! - [`lane`]: many small requests on one stream;
//! - [`handshake`]: who signs what, and what is refused;
//! - [`nonce`], [`rate`]: bounded memory of what has been seen;
//! - [`limits`], [`close`]: every bound and every close reason, by name.
//!
//! ```
//! use btlightning_proto::{frame, message, payload::Payload};
//!
//! let data = Payload::from_typed(&std::collections::BTreeMap::from([("prompt", "hello")]))?;
//! let frame = message::encode_request("MyQuery", &data, 1_700_000_000)?.to_vec();
//!
//! let (kind, body) = frame::parse(&frame, btlightning_proto::limits::DEFAULT_MAX_FRAME_PAYLOAD)?;
//! assert_eq!(kind, frame::MessageType::SynapsePacket);
//! let request = message::Request::decode(body.to_vec().into())?;
//! assert_eq!(request.synapse_type(), "MyQuery");
//! # Ok::<(), btlightning_proto::ProtoError>(())
//! ```

pub mod close;
pub mod error;
pub mod frame;
pub mod handshake;
pub mod lane;
pub mod limits;
pub mod message;
pub mod msgpack;
pub mod nonce;
pub mod payload;
pub mod rate;

pub use error::ProtoError;
pub use payload::Payload;

/// The protocol every deployed peer speaks: a stream per exchange.
pub const ALPN_V0: &[u8] = b"btlightning";

/// The extended protocol: everything of [`ALPN_V0`], streams of chunks from the client, and lanes.
pub const ALPN_V1: &[u8] = b"btlightning/1";

/// The protocol version that TLS agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// [`ALPN_V0`].
    V0,
    /// [`ALPN_V1`].
    V1,
}

impl Version {
    /// Returns the version that an agreed ALPN name stands for.
    ///
    /// A peer that agreed on no name at all is served as [`Version::V0`].
    pub fn from_alpn(alpn: Option<&[u8]>) -> Self {
        if alpn == Some(ALPN_V1) {
            Self::V1
        } else {
            Self::V0
        }
    }

    /// Returns the ALPN name of the version.
    pub fn alpn(self) -> &'static [u8] {
        match self {
            Self::V0 => ALPN_V0,
            Self::V1 => ALPN_V1,
        }
    }

    /// Whether the client may send chunks after its request.
    pub fn has_client_streams(self) -> bool {
        self >= Self::V1
    }

    /// Whether small requests may travel on [`lane`]s.
    pub fn has_lanes(self) -> bool {
        self >= Self::V1
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::V0 => "btlightning",
            Self::V1 => "btlightning/1",
        })
    }
}
