//! The message types of the protocol that every deployed peer speaks.

use btlightning_proto::{ProtoError, frame};

use crate::error::LightningError;

/// The kind of message in a frame of the protocol `btlightning`.
///
/// `btlightning/1` has more, see [`btlightning_proto::frame::MessageType`]; they do not come here.
#[repr(u8)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MessageType {
    /// Client to server: proves the validator's hotkey.
    HandshakeRequest = 0x01,
    /// Server to client: proves the miner's hotkey, or refuses.
    HandshakeResponse = 0x02,
    /// Client to server: a request for a handler.
    SynapsePacket = 0x03,
    /// Server to client: the answer.
    SynapseResponse = 0x04,
    /// Server to client: a piece of a stream.
    StreamChunk = 0x05,
    /// Server to client: the end of a stream.
    StreamEnd = 0x06,
}

impl TryFrom<u8> for MessageType {
    type Error = LightningError;

    fn try_from(value: u8) -> Result<Self, LightningError> {
        Ok(match value {
            0x01 => Self::HandshakeRequest,
            0x02 => Self::HandshakeResponse,
            0x03 => Self::SynapsePacket,
            0x04 => Self::SynapseResponse,
            0x05 => Self::StreamChunk,
            0x06 => Self::StreamEnd,
            other => return Err(ProtoError::UnknownType(other).into()),
        })
    }
}

impl TryFrom<frame::MessageType> for MessageType {
    type Error = LightningError;

    fn try_from(kind: frame::MessageType) -> Result<Self, LightningError> {
        Self::try_from(kind as u8)
    }
}

impl From<MessageType> for frame::MessageType {
    fn from(kind: MessageType) -> Self {
        match kind {
            MessageType::HandshakeRequest => Self::HandshakeRequest,
            MessageType::HandshakeResponse => Self::HandshakeResponse,
            MessageType::SynapsePacket => Self::SynapsePacket,
            MessageType::SynapseResponse => Self::SynapseResponse,
            MessageType::StreamChunk => Self::StreamChunk,
            MessageType::StreamEnd => Self::StreamEnd,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_six_types_of_every_peer() {
        for byte in 0..=u8::MAX {
            match MessageType::try_from(byte) {
                Ok(kind) => {
                    assert_eq!(kind as u8, byte);
                    assert_eq!(frame::MessageType::from(kind) as u8, byte);
                }
                Err(error) => {
                    assert!(!(1..=6).contains(&byte));
                    let text = format!("transport error: unknown message type: 0x{byte:02x}");
                    assert_eq!(error.to_string(), text);
                }
            }
        }
    }
}
