//! Frames on QUIC streams, with no copy beyond the one that makes a message contiguous.

use std::borrow::BorrowMut;

use btlightning_proto::{
    ProtoError,
    frame::{FrameHeader, HEADER_LEN, MessageType},
    lane,
    limits::EAGER_ALLOCATION,
    message::{EncodedFrame, FrameBody, Large, find_large},
};
use bytes::{Buf, Bytes, BytesMut};
use futures::FutureExt;
use lightning_quic::reassembly::{InOrder, Scattered, StreamReadError};
use quinn::{ConnectionError, ReadError, RecvStream, SendStream, WriteError};

use crate::error::{CallErrorKind, LightningError};

/// Reads frames from a stream.
///
/// A frame that lies in one packet is a slice of that packet; a longer one is assembled once, in
/// memory that grows as data arrives.
#[derive(Debug)]
pub(crate) struct FrameReader<R> {
    recv: R,
    order: InOrder,
    /// Received and not yet used.
    buffered: Bytes,
    /// The frame being assembled.
    partial: Option<(FrameHeader, Vec<u8>)>,
}

/// Why a frame could not be read.
#[derive(Debug)]
pub(crate) enum FrameError {
    /// The bytes are no frame that may come here.
    Proto(ProtoError),
    /// The stream ended within a frame or before it.
    CutShort { have: usize, need: usize },
    /// The peer reset the stream.
    Reset(u64),
    /// The connection is gone.
    Lost(ConnectionError),
    /// The stream has more gaps than are kept.
    Scattered(Scattered),
}

impl<R: BorrowMut<RecvStream>> FrameReader<R> {
    pub(crate) fn new(recv: R) -> Self {
        Self {
            recv,
            order: InOrder::default(),
            buffered: Bytes::new(),
            partial: None,
        }
    }

    /// Reads a frame that has to come.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: what was read stays here for the next call.
    pub(crate) async fn expect_frame(
        &mut self,
        max_payload: usize,
    ) -> Result<(MessageType, Bytes), FrameError> {
        if self.partial.is_none() {
            let Some(header) = self.header(max_payload).await? else {
                return Err(FrameError::CutShort {
                    have: 0,
                    need: HEADER_LEN,
                });
            };
            if self.buffered.len() >= header.len {
                return Ok((header.kind, self.buffered.split_to(header.len)));
            }
            let payload = Vec::with_capacity(header.len.min(EAGER_ALLOCATION));
            self.partial = Some((header, payload));
        }
        // Kept in self while waiting, for the sake of cancel safety.
        while let Some((header, payload)) = &mut self.partial {
            let wanted = header.len - payload.len();
            let piece = self.buffered.split_to(wanted.min(self.buffered.len()));
            extend(payload, &piece, header.len);
            let (kind, have, need) = (header.kind, payload.len(), header.len);
            if have == need {
                let payload = std::mem::take(payload);
                self.partial = None;
                return Ok((kind, payload.into()));
            }
            if !self.fill().await? {
                self.partial = None;
                return Err(FrameError::CutShort { have, need });
            }
        }
        Err(FrameError::CutShort {
            have: 0,
            need: HEADER_LEN,
        })
    }

    /// Reads a frame that has to come, with a large value apart from the rest where `apart`, given
    /// what is known of the message, wants it so.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe.
    pub(crate) async fn expect_body(
        &mut self,
        max_payload: usize,
        apart: impl FnOnce(Large<'_>) -> bool,
    ) -> Result<(MessageType, FrameBody), FrameError> {
        let Some(header) = self.header(max_payload).await? else {
            return Err(FrameError::CutShort {
                have: 0,
                need: HEADER_LEN,
            });
        };
        if header.len > self.buffered.len() {
            if self.buffered.is_empty() && !self.fill().await? {
                return Err(FrameError::CutShort {
                    have: 0,
                    need: header.len,
                });
            }
            let found = find_large(header.kind, &self.buffered).map(|large| {
                let end = large.content_start.saturating_add(large.content_len);
                let wanted = end <= header.len && apart(large);
                (
                    large.value_start,
                    large.content_start,
                    large.content_len,
                    wanted,
                )
            });
            if let Some((value_start, content_start, content_len, true)) = found {
                let before = self.buffered.split_to(content_start);
                let content = self.assemble(content_len).await?;
                let after = self
                    .assemble(header.len - content_start - content_len)
                    .await?;
                let body = FrameBody::Apart {
                    before,
                    value_start,
                    content,
                    after,
                };
                return Ok((header.kind, body));
            }
        }
        let payload = if self.buffered.len() >= header.len {
            self.buffered.split_to(header.len)
        } else {
            self.assemble(header.len).await?
        };
        Ok((header.kind, FrameBody::Whole(payload)))
    }

    /// Reads exactly `len` bytes into one piece, which grows as data arrives.
    async fn assemble(&mut self, len: usize) -> Result<Bytes, FrameError> {
        let mut piece = Vec::with_capacity(len.min(EAGER_ALLOCATION));
        let mut chunks: [Bytes; CHUNKS_AT_A_TIME] = Default::default();
        loop {
            let some = self
                .buffered
                .split_to(self.buffered.len().min(len - piece.len()));
            extend(&mut piece, &some, len);
            if piece.len() == len {
                return Ok(piece.into());
            }
            let read = self
                .order
                .read_chunks(self.recv.borrow_mut(), &mut chunks, len >= LARGE);
            let Some(count) = read.await? else {
                return Err(FrameError::CutShort {
                    have: piece.len(),
                    need: len,
                });
            };
            for chunk in &mut chunks[..count] {
                let mut chunk = std::mem::take(chunk);
                let some = chunk.split_to(chunk.len().min(len - piece.len()));
                extend(&mut piece, &some, len);
                if !chunk.is_empty() {
                    // Behind the frame: kept for the next one.
                    self.buffered = if self.buffered.is_empty() {
                        chunk
                    } else {
                        [std::mem::take(&mut self.buffered), chunk].concat().into()
                    };
                }
            }
        }
    }

    /// Reads a varint that stands before the first frame; `None` when the stream ended before it.
    pub(crate) async fn varint(&mut self) -> Result<Option<u64>, FrameError> {
        loop {
            if let Some((value, len)) = lane::peek_varint(&self.buffered) {
                self.buffered.advance(len);
                return Ok(Some(value));
            }
            if !self.fill().await? {
                return Ok(None);
            }
        }
    }

    /// Returns the stream and what was read from it beyond the last frame.
    pub(crate) fn into_parts(self) -> (R, Bytes) {
        (self.recv, self.buffered)
    }

    pub(crate) fn stream_mut(&mut self) -> &mut RecvStream {
        self.recv.borrow_mut()
    }

    async fn header(&mut self, max_payload: usize) -> Result<Option<FrameHeader>, FrameError> {
        while self.buffered.len() < HEADER_LEN {
            if !self.fill().await? {
                return match self.buffered.len() {
                    0 => Ok(None),
                    have => Err(FrameError::CutShort {
                        have,
                        need: HEADER_LEN,
                    }),
                };
            }
        }
        let mut bytes = [0; HEADER_LEN];
        self.buffered.copy_to_slice(&mut bytes);
        FrameHeader::decode(bytes, max_payload)
            .map(Some)
            .map_err(FrameError::Proto)
    }

    /// Waits for more bytes; false at the end of the stream.
    async fn fill(&mut self) -> Result<bool, FrameError> {
        let frame = self.partial.as_ref().map_or(0, |(header, _)| header.len);
        let much = frame >= LARGE || self.order.position() >= LONG;
        let mut chunk = [Bytes::new()];
        let read = self
            .order
            .read_chunks(self.recv.borrow_mut(), &mut chunk, much);
        if read.await?.is_none() {
            return Ok(false);
        }
        let [chunk] = chunk;
        if self.buffered.is_empty() {
            self.buffered = chunk;
        } else {
            // Only a header cut in two gets here: a few bytes.
            let mut joined = BytesMut::with_capacity(self.buffered.len() + chunk.len());
            joined.extend_from_slice(&self.buffered);
            joined.extend_from_slice(&chunk);
            self.buffered = joined.freeze();
        }
        Ok(true)
    }
}

/// Appends to a piece that shall have `len` bytes, whose room doubles as it fills: the peer's word
/// is never worth more than what it has sent.
fn extend(piece: &mut Vec<u8>, some: &[u8], len: usize) {
    if piece.capacity() - piece.len() < some.len() {
        let room = piece
            .capacity()
            .max(EAGER_ALLOCATION)
            .min(len - piece.len());
        piece.reserve_exact(room.max(some.len()));
    }
    piece.extend_from_slice(some);
}

/// Packets taken from a stream under one lock.
const CHUNKS_AT_A_TIME: usize = 32;

/// Messages from here on may be read out of order, see [`lightning_quic::reassembly`]. Smaller ones
/// have too few packets for quinn's limit on gaps to be reached.
const LARGE: usize = 2 * 1024 * 1024;

/// So may streams of which as much was read. Whoever reads on in another way after the first frame
/// (a lane) has read less.
const LONG: u64 = 64 * 1024;

impl From<StreamReadError> for FrameError {
    fn from(error: StreamReadError) -> Self {
        match error {
            StreamReadError::Read(error) => error.into(),
            StreamReadError::Scattered(error) => Self::Scattered(error),
        }
    }
}

impl From<ReadError> for FrameError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Reset(code) => Self::Reset(code.into_inner()),
            ReadError::ConnectionLost(error) => Self::Lost(error),
            // Our own side stopped the stream, or read it out of order: the same as no more data.
            _ => Self::CutShort {
                have: 0,
                need: HEADER_LEN,
            },
        }
    }
}

impl From<FrameError> for CallErrorKind {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::Proto(error) => Self::Decode(error),
            FrameError::CutShort { have, need } => Self::CutShort { have, need },
            FrameError::Reset(code) => Self::Reset(code),
            FrameError::Lost(error) => Self::Lost(error),
            FrameError::Scattered(error) => Self::Unexpected(error.to_string()),
        }
    }
}

impl From<FrameError> for LightningError {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::Proto(error) => error.into(),
            other => Self::Transport(CallErrorKind::from(other).to_string()),
        }
    }
}

/// Writes bytes by copying them into the stream.
pub(crate) async fn write_all(send: &mut SendStream, bytes: &[u8]) -> Result<(), LightningError> {
    send.write_all(bytes)
        .await
        .map_err(|e| LightningError::Transport(format!("cannot write the frame: {e}")))
}

/// Says in the caller's terms why a write failed.
pub(crate) fn write_error(error: WriteError) -> CallErrorKind {
    match error {
        WriteError::Stopped(code) => CallErrorKind::Reset(code.into_inner()),
        WriteError::ConnectionLost(error) => CallErrorKind::Lost(error),
        other => CallErrorKind::Unexpected(other.to_string()),
    }
}

/// Writes frames to a stream without copying their bodies, and resets it when dropped before it
/// was finished.
///
/// quinn finishes a dropped stream, so that a request given up halfway would look whole.
#[derive(Debug)]
pub(crate) struct FrameWriter {
    send: SendStream,
    /// What is left to be written.
    pending: Vec<Bytes>,
    reset_code: u32,
    finished: bool,
}

impl FrameWriter {
    pub(crate) fn new(send: SendStream, reset_code: u32) -> Self {
        Self {
            send,
            pending: Vec::new(),
            reset_code,
            finished: false,
        }
    }

    /// Writes a frame; waits while the peer is slow to read.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: what is left of a frame goes out before the next one.
    pub(crate) async fn write(&mut self, frame: EncodedFrame) -> Result<(), WriteError> {
        self.flush().await?;
        self.pending.extend(frame.into_chunks());
        self.flush().await
    }

    /// Returns where to put what [`progress`](Self::progress) shall write.
    pub(crate) fn queue(&mut self) -> &mut Vec<Bytes> {
        &mut self.pending
    }

    /// Whether there is nothing left to write.
    pub(crate) fn is_idle(&self) -> bool {
        self.pending.is_empty()
    }

    /// Writes as much as the stream takes now, waiting until it takes something.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub(crate) async fn progress(&mut self) -> Result<(), WriteError> {
        let written = self.send.write_chunks(&mut self.pending).await?;
        self.pending.drain(..written.chunks);
        Ok(())
    }

    /// Writes the last frame, ends the stream, and waits until the peer has it all: a connection
    /// that is closed before takes with it what was not delivered. A peer that is gone gets
    /// nothing.
    pub(crate) async fn write_last(&mut self, frame: EncodedFrame) {
        if self.write(frame).await.is_ok() {
            self.finish();
            self.stopped().await;
        }
    }

    /// Ends the stream; what was written stands.
    pub(crate) fn finish(&mut self) {
        // Fails only when the peer has stopped the stream: then there is nothing to end.
        let _ = self.send.finish();
        self.finished = true;
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.finished
    }

    /// Completes when the peer has all of a finished stream or wants no more of it, or when the
    /// connection is lost.
    pub(crate) fn stopped(&self) -> impl Future<Output = ()> + Send + 'static {
        self.send.stopped().map(drop)
    }

    async fn flush(&mut self) -> Result<(), WriteError> {
        while !self.is_idle() {
            self.progress().await?;
        }
        Ok(())
    }
}

impl Drop for FrameWriter {
    fn drop(&mut self) {
        if !self.finished {
            let _ = self.send.reset(self.reset_code.into());
        }
    }
}
