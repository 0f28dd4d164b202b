//! Frames on their way out.

use bytes::{BufMut, Bytes, BytesMut};

use crate::{
    error::ProtoError,
    frame::{FrameHeader, HEADER_LEN, MessageType},
};

/// A whole frame, ready to be written, in up to three pieces so that a large body is not copied.
#[derive(Debug, Clone)]
pub struct EncodedFrame {
    chunks: [Bytes; 3],
}

impl EncodedFrame {
    /// Returns the pieces in order; some may be empty.
    pub fn into_chunks(self) -> [Bytes; 3] {
        self.chunks
    }

    /// Returns the frame, unless its payload is longer than `max_payload` bytes.
    pub fn within(self, max_payload: usize) -> Result<Self, ProtoError> {
        let len = self.len() - HEADER_LEN;
        if len > max_payload {
            return Err(ProtoError::FrameTooLarge {
                len: len as u64,
                max: max_payload as u64,
            });
        }
        Ok(self)
    }

    /// Returns the length of the frame in bytes, header included.
    pub fn len(&self) -> usize {
        self.chunks.iter().map(Bytes::len).sum()
    }

    /// Whether there are no bytes at all, which no frame is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies the frame into one piece.
    pub fn to_vec(&self) -> Vec<u8> {
        self.chunks.concat()
    }

    /// Builds a frame from the pieces of a body and what stands before and behind them.
    pub(super) fn around(
        kind: MessageType,
        before: &[u8],
        [first, large, last]: [&Bytes; 3],
        after: &[u8],
    ) -> Result<Self, ProtoError> {
        let head = HEADER_LEN + before.len() + first.len();
        let tail = last.len() + after.len();
        let len = head - HEADER_LEN + large.len() + tail;
        let header = FrameHeader { kind, len }.encode()?;
        let inline = large.len() <= INLINE_BODY;
        let mut bytes = BytesMut::with_capacity(if inline {
            HEADER_LEN + len
        } else {
            head + tail
        });
        bytes.put_slice(&header);
        bytes.put_slice(before);
        bytes.put_slice(first);
        if inline {
            bytes.put_slice(large);
        }
        let head = if inline {
            Bytes::new()
        } else {
            bytes.split().freeze()
        };
        bytes.put_slice(last);
        bytes.put_slice(after);
        let large = if inline { Bytes::new() } else { large.clone() };
        Ok(Self {
            chunks: [head, large, bytes.freeze()],
        })
    }

    /// Builds a frame whose payload is these bytes.
    pub(super) fn of(kind: MessageType, payload: &[u8]) -> Result<Self, ProtoError> {
        let none = &Bytes::new();
        Self::around(kind, payload, [none, none, none], &[])
    }
}

/// Bodies up to this length are copied into one piece with their header: cheaper than three
/// entries in the stream's send queue.
const INLINE_BODY: usize = 4 * 1024;
