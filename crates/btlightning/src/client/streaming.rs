//! Streams of chunks, as the client sees them.

use std::{fmt, time::Duration};

use btlightning_proto::{
    frame::MessageType,
    message::{self, Response, StreamEnd},
};
use bytes::Bytes;
use quinn::RecvStream;
use tokio::time::Instant;

use super::{Reply, link};
use crate::{
    error::{CallError, CallErrorKind, LightningError, Phase, Result},
    io::{self, FrameReader, FrameWriter},
    types::QuicAxonInfo,
};

/// A miner's answer in chunks.
///
/// Dropping it before its end stops the stream, and the miner's handler with it.
pub struct StreamingResponse {
    reader: FrameReader<RecvStream>,
    max_payload: usize,
    max_stream_payload: usize,
    chunk_timeout: Option<Duration>,
    axon: QuicAxonInfo,
    ended: bool,
}

impl StreamingResponse {
    pub(super) fn new(
        reader: FrameReader<RecvStream>,
        config: &super::LightningClientConfig,
        axon: QuicAxonInfo,
    ) -> Self {
        Self {
            reader,
            max_payload: config.max_frame_payload_bytes,
            max_stream_payload: config.max_stream_payload_bytes,
            chunk_timeout: config.stream_chunk_timeout,
            axon,
            ended: false,
        }
    }

    /// Returns the next chunk, or `None` when the stream is complete.
    ///
    /// # Errors
    ///
    /// [`LightningError::Stream`] when the miner breaks off or a chunk takes longer than
    /// `stream_chunk_timeout`; [`LightningError::Transport`] when the connection fails.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn next_chunk(&mut self) -> Result<Option<Vec<u8>>> {
        match self.next_bytes().await {
            Ok(chunk) => Ok(chunk.map(Vec::from)),
            Err(error) if error.is_timeout() => {
                Err(LightningError::Stream("chunk read timed out".into()))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Like [`next_chunk`](Self::next_chunk), without copying a chunk out of the frame it came in,
    /// and with an error that says whether the handler may have run.
    ///
    /// # Errors
    ///
    /// A [`CallError`] in the phase [`Wait`](Phase::Wait).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn next_bytes(&mut self) -> std::result::Result<Option<Bytes>, CallError> {
        if self.ended {
            return Ok(None);
        }
        let result = self.read_chunk().await;
        self.ended = !matches!(result, Ok(Some(_)));
        result.map_err(|kind| link::Failure::new(Phase::Wait, kind).of(&self.axon))
    }

    async fn read_chunk(&mut self) -> std::result::Result<Option<Bytes>, CallErrorKind> {
        let frame = self.reader.expect_frame(self.max_payload);
        let frame = match self.chunk_timeout {
            None => frame.await,
            Some(after) => match tokio::time::timeout(after, frame).await {
                Ok(frame) => frame,
                Err(_) => {
                    let code = btlightning_proto::close::stream::TIMED_OUT;
                    let _ = self.reader.stream_mut().stop(code.into());
                    return Err(CallErrorKind::Timeout {
                        what: "chunk read",
                        after,
                    });
                }
            },
        };
        match frame? {
            (MessageType::StreamChunk, payload) => message::decode_chunk(&payload)
                .map(Some)
                .map_err(CallErrorKind::Decode),
            (MessageType::StreamEnd, payload) => {
                let end = message::decode_stream_end(&payload).map_err(CallErrorKind::Decode)?;
                if end.success {
                    return Ok(None);
                }
                let text = end
                    .error
                    .unwrap_or_else(|| "stream ended with failure status".into());
                Err(CallErrorKind::StreamBroken(text))
            }
            (MessageType::SynapseResponse, payload) => {
                match Response::decode(payload)
                    .map_err(CallErrorKind::Decode)?
                    .into_result()
                {
                    Ok(_) => Err(CallErrorKind::StreamBroken(
                        "the server sent a single answer in place of a stream".into(),
                    )),
                    Err(text) => Err(CallErrorKind::StreamRefused(text)),
                }
            }
            (other, _) => Err(CallErrorKind::Unexpected(format!(
                "unexpected message in a stream: {other:?}"
            ))),
        }
    }

    /// Returns all chunks that are left.
    ///
    /// # Errors
    ///
    /// As [`next_chunk`](Self::next_chunk), and [`LightningError::Stream`] when the chunks exceed
    /// `max_stream_payload_bytes` together.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: chunks gathered so far are lost.
    pub async fn collect_all(&mut self) -> Result<Vec<Vec<u8>>> {
        let mut chunks = Vec::new();
        let mut total = 0usize;
        while let Some(chunk) = self.next_chunk().await? {
            total = total.saturating_add(chunk.len());
            if total > self.max_stream_payload {
                return Err(LightningError::Stream(format!(
                    "streaming response exceeded {} byte aggregate limit",
                    self.max_stream_payload
                )));
            }
            chunks.push(chunk);
        }
        Ok(chunks)
    }
}

impl fmt::Debug for StreamingResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamingResponse")
            .field("axon", &self.axon)
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

/// A call in which both sides send chunks.
///
/// Send with [`send`](Self::send), end with [`finish`](Self::finish), read with
/// [`next_chunk`](Self::next_chunk) and [`reply`](Self::reply). To do both at a time,
/// [`split`](Self::split) it. Dropping it before the reply stops the miner's handler.
#[derive(Debug)]
pub struct DuplexCall {
    sender: DuplexSender,
    receiver: DuplexReceiver,
}

/// The sending half of a [`DuplexCall`].
pub struct DuplexSender {
    send: FrameWriter,
    max_payload: usize,
    axon: QuicAxonInfo,
}

/// The receiving half of a [`DuplexCall`].
pub struct DuplexReceiver {
    reader: FrameReader<RecvStream>,
    max_payload: usize,
    axon: QuicAxonInfo,
    started: Instant,
    /// The caller's limit for the whole call.
    timeout: Option<Duration>,
    reply: Option<std::result::Result<Reply, CallErrorKind>>,
}

impl DuplexCall {
    pub(super) fn new(
        send: FrameWriter,
        reader: FrameReader<RecvStream>,
        max_payload: usize,
        axon: QuicAxonInfo,
        timeout: Option<Duration>,
    ) -> Self {
        let started = Instant::now();
        Self {
            sender: DuplexSender {
                send,
                max_payload,
                axon: axon.clone(),
            },
            receiver: DuplexReceiver {
                reader,
                max_payload,
                axon,
                started,
                timeout,
                reply: None,
            },
        }
    }

    /// Sends a chunk; see [`DuplexSender::send`].
    pub async fn send(&mut self, chunk: impl Into<Bytes>) -> std::result::Result<(), CallError> {
        self.sender.send(chunk).await
    }

    /// Tells the miner that no chunk follows; see [`DuplexSender::finish`].
    pub async fn finish(&mut self) -> std::result::Result<(), CallError> {
        self.sender.finish().await
    }

    /// Returns the next chunk; see [`DuplexReceiver::next_chunk`].
    pub async fn next_chunk(&mut self) -> std::result::Result<Option<Bytes>, CallError> {
        self.receiver.next_chunk().await
    }

    /// Ends the sending and returns the miner's reply, skipping chunks that were not read.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe.
    pub async fn reply(mut self) -> std::result::Result<Reply, CallError> {
        if !self.sender.send.is_finished() {
            self.sender.finish().await?;
        }
        self.receiver.reply().await
    }

    /// Takes the call apart, so that one task can send while another reads.
    pub fn split(self) -> (DuplexSender, DuplexReceiver) {
        (self.sender, self.receiver)
    }
}

impl DuplexSender {
    /// Sends a chunk without copying it; waits while the miner is slow to read.
    ///
    /// # Errors
    ///
    /// In the phase [`Wait`](Phase::Wait): the handler is running already. When the miner has
    /// answered early, the stream is reset; the reply says why.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future may leave the chunk partly sent; the rest of it goes out with the next
    /// one.
    pub async fn send(&mut self, chunk: impl Into<Bytes>) -> std::result::Result<(), CallError> {
        let frame = message::encode_chunk(&chunk.into())
            .and_then(|frame| frame.within(self.max_payload))
            .map_err(|e| self.error(CallErrorKind::Encode(e)))?;
        self.write(frame).await
    }

    /// Tells the miner that no chunk follows.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe.
    pub async fn finish(&mut self) -> std::result::Result<(), CallError> {
        let frame = message::encode_stream_end(&StreamEnd::ok())
            .map_err(|e| self.error(CallErrorKind::Encode(e)))?;
        match self.write(frame).await {
            Ok(()) => {}
            // The miner wanted no more: nothing is left to be said.
            Err(error) if matches!(error.kind(), CallErrorKind::Reset(_)) => {}
            Err(error) => return Err(error),
        }
        self.send.finish();
        Ok(())
    }

    async fn write(&mut self, frame: message::EncodedFrame) -> std::result::Result<(), CallError> {
        self.send
            .write(frame)
            .await
            .map_err(|e| self.error(io::write_error(e)))
    }

    fn error(&self, kind: CallErrorKind) -> CallError {
        link::Failure::new(Phase::Wait, kind).of(&self.axon)
    }
}

impl DuplexReceiver {
    /// Returns the next chunk, or `None` when the miner has replied.
    ///
    /// # Errors
    ///
    /// [`CallErrorKind::Timeout`] when the time given to the call is over, whatever has come.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn next_chunk(&mut self) -> std::result::Result<Option<Bytes>, CallError> {
        if self.reply.is_some() {
            return Ok(None);
        }
        let frame = self.reader.expect_frame(self.max_payload);
        let frame = match self.timeout {
            None => frame.await,
            Some(after) => match tokio::time::timeout_at(self.started + after, frame).await {
                Ok(frame) => frame,
                Err(_) => {
                    return Err(self.error(CallErrorKind::Timeout {
                        what: "call",
                        after,
                    }));
                }
            },
        };
        let (kind, payload) = frame.map_err(|e| self.error(e.into()))?;
        match kind {
            MessageType::StreamChunk => message::decode_chunk(&payload)
                .map(Some)
                .map_err(|e| self.error(CallErrorKind::Decode(e))),
            MessageType::SynapseResponse => {
                let response =
                    Response::decode(payload).map_err(|e| self.error(CallErrorKind::Decode(e)))?;
                let latency = self.started.elapsed();
                let reply = response.into_result().map(|data| Reply { data, latency });
                self.reply = Some(reply.map_err(CallErrorKind::Remote));
                Ok(None)
            }
            other => Err(self.error(CallErrorKind::Unexpected(format!(
                "unexpected message in a duplex call: {other:?}"
            )))),
        }
    }

    /// Returns the miner's reply, skipping chunks that were not read.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe.
    pub async fn reply(mut self) -> std::result::Result<Reply, CallError> {
        while self.next_chunk().await?.is_some() {}
        match self.reply.take() {
            Some(reply) => reply.map_err(|kind| self.error(kind)),
            None => Err(self.error(CallErrorKind::CutShort { have: 0, need: 1 })),
        }
    }

    fn error(&self, kind: CallErrorKind) -> CallError {
        link::Failure::new(Phase::Wait, kind).of(&self.axon)
    }
}

impl fmt::Debug for DuplexSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DuplexSender")
            .field("axon", &self.axon)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for DuplexReceiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DuplexReceiver")
            .field("axon", &self.axon)
            .finish_non_exhaustive()
    }
}
