//! Payloads as they were received, with a large binary value apart where it is wanted so.

use bytes::Bytes;

use crate::{
    error::ProtoError,
    frame::MessageType,
    msgpack::Scanner,
    payload::{MIN_APART, Payload, Split},
};

/// A frame's payload as it was received.
#[derive(Debug, Clone)]
pub enum FrameBody {
    /// In one piece.
    Whole(Bytes),
    /// With the content of a large binary value apart from the rest; see [`find_large`].
    Apart {
        /// Everything before the content, the value's head included.
        before: Bytes,
        /// Where the value's head begins in `before`.
        value_start: usize,
        /// The content.
        content: Bytes,
        /// Everything behind it.
        after: Bytes,
    },
}

impl FrameBody {
    /// Returns the payload in one piece, copying what was apart.
    pub fn into_whole(self) -> Bytes {
        match self {
            Self::Whole(bytes) => bytes,
            Self::Apart {
                before,
                content,
                after,
                ..
            } => [before, content, after].concat().into(),
        }
    }

    /// Decodes with `decode`, which finds an empty value in the place of one that is apart, and
    /// puts the large value into the data.
    pub(super) fn decode<T>(
        self,
        decode: impl FnOnce(Bytes) -> Result<T, ProtoError>,
        data: impl FnOnce(&mut T) -> &mut Payload,
    ) -> Result<T, ProtoError> {
        let (before, value_start, content, after) = match self {
            Self::Whole(bytes) => return decode(bytes),
            Self::Apart {
                before,
                value_start,
                content,
                after,
            } => (before, value_start, content, after),
        };
        let mut skeleton = Vec::with_capacity(value_start + EMPTY_BIN.len() + after.len());
        skeleton.extend_from_slice(&before[..value_start]);
        skeleton.extend_from_slice(&EMPTY_BIN);
        skeleton.extend_from_slice(&after);
        let skeleton = Bytes::from(skeleton);
        let mut message = decode(skeleton.clone())?;
        let data = data(&mut message);
        let start = data.as_bytes().as_ptr() as usize - skeleton.as_ptr() as usize;
        let behind = start + data.as_bytes().len() - value_start - EMPTY_BIN.len();
        *data = Payload::from_split(Split::new(
            before.slice(start..),
            content,
            after.slice(..behind),
        ));
        Ok(message)
    }
}

/// A large binary value that is an entry of a message's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Large<'a> {
    /// The type, if the message is a request.
    pub synapse_type: Option<&'a str>,
    /// Where the value's head begins in the payload.
    pub value_start: usize,
    /// Where its content begins.
    pub content_start: usize,
    /// Length of its content in bytes.
    pub content_len: usize,
}

/// Finds the first large binary value of a request or an answer, by the beginning of its payload.
///
/// A receiver that will make it a `Vec` can then read its content into one. `None` where there is
/// none, or too little has come to tell.
pub fn find_large(kind: MessageType, beginning: &[u8]) -> Option<Large<'_>> {
    let mut scanner = Scanner::new(beginning);
    let mut synapse_type = None;
    match kind {
        MessageType::SynapsePacket if scanner.array().ok()? == Some(3) => {
            synapse_type = Some(std::str::from_utf8(scanner.str_bytes().ok()??).ok()?);
        }
        MessageType::SynapseResponse if scanner.array().ok()? == Some(4) => {
            scanner.bool()?;
        }
        _ => return None,
    }
    for _ in 0..scanner.map().ok()?? {
        scanner.str_bytes().ok()??;
        let value_start = scanner.pos();
        if let Some(content_len) = scanner
            .clone()
            .bin_len()
            .ok()?
            .filter(|len| *len >= MIN_APART)
        {
            scanner.bin_len().ok()?;
            let content_start = scanner.pos();
            return Some(Large {
                synapse_type,
                value_start,
                content_start,
                content_len,
            });
        }
        scanner.skip().ok()?;
    }
    None
}

/// A binary value without content.
const EMPTY_BIN: [u8; 2] = [0xc4, 0];
