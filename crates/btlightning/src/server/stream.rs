//! The two ends of a handler's exchange of chunks.

use btlightning_proto::{frame::MessageType, message};
use bytes::Bytes;
use quinn::RecvStream;

use crate::{
    error::{LightningError, Result},
    io::{FrameReader, FrameWriter},
};

/// What the client sends after its request.
#[derive(Debug)]
pub struct ChunkStream {
    /// `None` for a call that cannot have input.
    reader: Option<FrameReader<RecvStream>>,
    max_payload: usize,
    ended: bool,
}

impl ChunkStream {
    pub(super) fn empty() -> Self {
        Self {
            reader: None,
            max_payload: 0,
            ended: true,
        }
    }

    pub(super) fn new(reader: FrameReader<RecvStream>, max_payload: usize) -> Self {
        Self {
            reader: Some(reader),
            max_payload,
            ended: false,
        }
    }

    /// Returns the next chunk, or `None` when the client has ended its stream.
    ///
    /// Not reading holds the client back (QUIC flow control).
    ///
    /// # Errors
    ///
    /// [`LightningError::Stream`] when the client breaks off or reports failure.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn next_chunk(&mut self) -> Result<Option<Bytes>> {
        let Some(reader) = self.reader.as_mut().filter(|_| !self.ended) else {
            return Ok(None);
        };
        let (kind, payload) = reader
            .expect_frame(self.max_payload)
            .await
            .map_err(|e| LightningError::Stream(LightningError::from(e).to_string()))?;
        match kind {
            MessageType::StreamChunk => Ok(Some(message::decode_chunk(&payload)?)),
            MessageType::StreamEnd => {
                self.ended = true;
                let end = message::decode_stream_end(&payload)?;
                if end.success {
                    return Ok(None);
                }
                Err(LightningError::Stream(end.error.unwrap_or_else(|| {
                    "the client broke off its stream".into()
                })))
            }
            other => Err(LightningError::Stream(format!(
                "unexpected {other:?} in a stream of chunks"
            ))),
        }
    }
}

/// Where a handler sends chunks.
#[derive(Debug)]
pub struct ChunkSink {
    writer: FrameWriter,
    max_payload: usize,
}

impl ChunkSink {
    pub(super) fn new(writer: FrameWriter, max_payload: usize) -> Self {
        Self {
            writer,
            max_payload,
        }
    }

    /// Sends a chunk without copying it; waits while the client is slow to read.
    ///
    /// # Errors
    ///
    /// [`LightningError::Stream`] when the client is gone or wants no more;
    /// [`LightningError::Transport`] when the chunk is larger than a frame may be.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future may leave the chunk partly sent; the rest of it goes out with the next
    /// one.
    pub async fn send(&mut self, chunk: impl Into<Bytes>) -> Result<()> {
        let frame = message::encode_chunk(&chunk.into())?.within(self.max_payload)?;
        self.writer
            .write(frame)
            .await
            .map_err(|e| LightningError::Stream(format!("cannot send a chunk: {e}")))
    }

    pub(super) fn into_writer(self) -> FrameWriter {
        self.writer
    }
}
