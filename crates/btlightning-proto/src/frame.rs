//! The header in front of every message: `type u8 | payload length u32 big-endian`.

use crate::error::ProtoError;

/// Length of the header in bytes.
pub const HEADER_LEN: usize = 5;

/// The kind of message in a frame.
#[repr(u8)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MessageType {
    /// Client to server: proves the validator's hotkey.
    HandshakeRequest = 0x01,
    /// Server to client: proves the miner's hotkey, or refuses.
    HandshakeResponse = 0x02,
    /// Client to server: a request for a handler.
    SynapsePacket = 0x03,
    /// Server to client: the answer, or the end of a duplex call.
    SynapseResponse = 0x04,
    /// A piece of a stream.
    StreamChunk = 0x05,
    /// The end of a stream of chunks.
    StreamEnd = 0x06,
    /// Client to server, [`Version::V1`](crate::Version::V1) only: a request that chunks follow.
    DuplexOpen = 0x07,
    /// Client to server, [`Version::V1`](crate::Version::V1) only: the stream becomes a
    /// [`lane`](crate::lane). It has no payload.
    LaneOpen = 0x08,
}

impl TryFrom<u8> for MessageType {
    type Error = ProtoError;

    fn try_from(value: u8) -> Result<Self, ProtoError> {
        Ok(match value {
            0x01 => Self::HandshakeRequest,
            0x02 => Self::HandshakeResponse,
            0x03 => Self::SynapsePacket,
            0x04 => Self::SynapseResponse,
            0x05 => Self::StreamChunk,
            0x06 => Self::StreamEnd,
            0x07 => Self::DuplexOpen,
            0x08 => Self::LaneOpen,
            other => return Err(ProtoError::UnknownType(other)),
        })
    }
}

/// A decoded header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// What the payload is.
    pub kind: MessageType,
    /// Length of the payload in bytes.
    pub len: usize,
}

impl FrameHeader {
    /// Decodes a header, refusing a payload longer than `max_payload` bytes.
    pub fn decode(bytes: [u8; HEADER_LEN], max_payload: usize) -> Result<Self, ProtoError> {
        let [kind, len @ ..] = bytes;
        let kind = MessageType::try_from(kind)?;
        let len = u32::from_be_bytes(len) as usize;
        if len > max_payload {
            return Err(ProtoError::FrameTooLarge {
                len: len as u64,
                max: max_payload as u64,
            });
        }
        Ok(Self { kind, len })
    }

    /// Encodes the header, refusing a payload whose length does not fit a `u32`.
    pub fn encode(self) -> Result<[u8; HEADER_LEN], ProtoError> {
        let len = u32::try_from(self.len).map_err(|_| ProtoError::FrameTooLarge {
            len: self.len as u64,
            max: u64::from(u32::MAX),
        })?;
        let [a, b, c, d] = len.to_be_bytes();
        Ok([self.kind as u8, a, b, c, d])
    }
}

/// Splits the first frame of `data` into its type and payload.
///
/// Bytes behind the frame are left alone.
pub fn parse(data: &[u8], max_payload: usize) -> Result<(MessageType, &[u8]), ProtoError> {
    let Some((header, rest)) = data.split_first_chunk::<HEADER_LEN>() else {
        return Err(ProtoError::Truncated {
            what: "frame header",
            have: data.len() as u64,
            need: HEADER_LEN as u64,
        });
    };
    let header = FrameHeader::decode(*header, max_payload)?;
    let payload = rest.get(..header.len).ok_or(ProtoError::Truncated {
        what: "frame payload",
        have: rest.len() as u64,
        need: header.len as u64,
    })?;
    Ok((header.kind, payload))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_round_trips_at_the_limits() {
        for len in [0, 1, 1024, u32::MAX as usize] {
            let header = FrameHeader {
                kind: MessageType::StreamChunk,
                len,
            };
            let bytes = header.encode().unwrap();
            assert_eq!(
                FrameHeader::decode(bytes, u32::MAX as usize).unwrap(),
                header
            );
        }
    }

    #[test]
    fn refuses_what_exceeds_the_limit_by_one() {
        let bytes = FrameHeader {
            kind: MessageType::SynapsePacket,
            len: 4097,
        }
        .encode()
        .unwrap();
        assert!(FrameHeader::decode(bytes, 4097).is_ok());
        assert_eq!(
            FrameHeader::decode(bytes, 4096),
            Err(ProtoError::FrameTooLarge {
                len: 4097,
                max: 4096
            })
        );
    }

    #[test]
    fn refuses_unknown_types() {
        for kind in (0..=u8::MAX).filter(|k| !(1..=8).contains(k)) {
            assert_eq!(
                parse(&[kind, 0, 0, 0, 0], 10),
                Err(ProtoError::UnknownType(kind))
            );
        }
    }

    #[test]
    fn says_how_much_is_missing() {
        assert!(matches!(
            parse(&[3, 0, 0], 10),
            Err(ProtoError::Truncated {
                have: 3,
                need: 5,
                ..
            })
        ));
        assert!(matches!(
            parse(&[3, 0, 0, 0, 4, 1, 2], 10),
            Err(ProtoError::Truncated {
                have: 2,
                need: 4,
                ..
            })
        ));
    }
}
