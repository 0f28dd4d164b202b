//! From a stream to a handler and back.

use std::{future::Future, panic::AssertUnwindSafe, pin::pin, sync::Arc, time::Duration};

use btlightning_proto::{
    Payload,
    close::{CloseReason, stream as code},
    frame::MessageType,
    limits::MAX_HANDSHAKE_PAYLOAD,
    message::{self, Large, Request, Response, StreamEnd},
};
use bytes::Bytes;
use futures::FutureExt;
use quinn::{RecvStream, SendStream};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::{
    LightningServerConfig, answer,
    context::RequestContext,
    handler::StreamingSynapseHandler,
    handshake, lane, pool,
    routes::{Asynchronous, Route, Streaming},
    session::{Caller, Session},
    shared::Shared,
    stats::Counters,
    stream::{ChunkSink, ChunkStream},
};
use crate::{
    error::{LightningError, Result},
    io::{FrameError, FrameReader, FrameWriter},
    util::unix_timestamp_secs,
};

/// What a handler's run comes to: an answer, or the text to give in its place.
pub(super) type Verdict = std::result::Result<Payload, &'static str>;

/// Serves one stream.
pub(super) async fn serve_stream(
    shared: Arc<Shared>,
    session: Arc<Session>,
    send: SendStream,
    recv: RecvStream,
) {
    let mut reader = FrameReader::new(recv);
    let caller = session.caller();
    let limit = match caller {
        Some(_) => shared.config.max_frame_payload_bytes,
        None => MAX_HANDSHAKE_PAYLOAD,
    };
    let takes_values = |large: Large<'_>| {
        large
            .synapse_type
            .is_some_and(|t| shared.routes.load().takes_values(t))
    };
    let frame = reader.expect_body(limit, takes_values).await;
    if let (Ok((MessageType::LaneOpen, payload)), Some(caller)) = (&frame, &caller)
        && session.version.has_lanes()
        && message::decode_lane_open(&payload.clone().into_whole()).is_ok()
        && let Some(place) = session.enter_lane()
    {
        let (recv, received) = reader.into_parts();
        let serve = lane::serve(
            shared,
            session.clone(),
            caller.clone(),
            send,
            recv,
            received,
        );
        let group = session.group.clone();
        group.spawn(async move {
            let _place = place;
            serve.await;
        });
        return;
    }
    let mut send = FrameWriter::new(send, code::REFUSED);
    let (kind, payload) = match frame {
        Ok(frame) => frame,
        Err(FrameError::Proto(error)) => {
            tracing::debug!(peer = %session.remote_addr(), %error, "refused a frame");
            let _ = reader.stream_mut().stop(code::REFUSED.into());
            shared.counters.refused.add_one();
            let text = match caller {
                Some(_) => answer::INVALID_REQUEST,
                None => answer::AUTHENTICATION_FAILED,
            };
            respond(&mut send, Response::failure(text, unix_timestamp_secs())).await;
            return;
        }
        // The peer is gone or gave up: nobody waits for an answer.
        Err(_) => return,
    };
    match (kind, caller) {
        (MessageType::HandshakeRequest, _) => {
            let response = handshake::answer(&shared, &session, &payload.into_whole()).await;
            if let Ok(frame) = message::encode_handshake_response(&response) {
                send.write_last(frame).await;
            }
        }
        (MessageType::SynapsePacket, Some(caller)) => {
            let call = Call::new(shared, session, caller);
            match Request::decode_body(payload) {
                Ok(request) => {
                    call.serve(send, request, ChunkStream::empty(), Ending::Plain)
                        .await
                }
                Err(error) => {
                    call.refuse(&mut send, answer::INVALID_REQUEST, &error)
                        .await
                }
            }
        }
        (MessageType::DuplexOpen, Some(caller)) if session.version.has_client_streams() => {
            let input = ChunkStream::new(reader, shared.config.max_frame_payload_bytes);
            let call = Call::new(shared, session, caller);
            match Request::decode_duplex(payload.into_whole()) {
                Ok(request) => call.serve(send, request, input, Ending::Duplex).await,
                Err(error) => {
                    call.refuse(&mut send, answer::INVALID_REQUEST, &error)
                        .await
                }
            }
        }
        (kind, caller) => {
            shared.counters.refused.add_one();
            tracing::debug!(peer = %session.remote_addr(), ?kind, "unexpected message");
            let text = match caller {
                Some(_) => answer::INVALID_REQUEST,
                None => answer::AUTHENTICATION_FAILED,
            };
            respond(&mut send, Response::failure(text, unix_timestamp_secs())).await;
        }
    }
}

/// How the last frame of a call looks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// A unary answer, or a stream's end.
    Plain,
    /// An answer behind the chunks.
    Duplex,
}

/// A request of an authenticated caller.
struct Call {
    shared: Arc<Shared>,
    session: Arc<Session>,
    caller: Arc<Caller>,
    /// Lets a stopping server wait for the request.
    _running: TaskTrackerToken,
}

impl Call {
    fn new(shared: Arc<Shared>, session: Arc<Session>, caller: Arc<Caller>) -> Self {
        session.touch();
        let running = shared.requests.token();
        Self {
            shared,
            session,
            caller,
            _running: running,
        }
    }

    async fn serve(
        self,
        mut send: FrameWriter,
        request: Request,
        input: ChunkStream,
        ending: Ending,
    ) {
        if self.shared.is_draining() {
            self.refuse(&mut send, answer::SHUTTING_DOWN, &"draining")
                .await;
            return;
        }
        let route = self.shared.routes.load().find(request.synapse_type());
        let context = self.context(&request);
        // Whoever still watches learns that the request is over, however it ended.
        let _over = context.token().clone().drop_guard();
        match route {
            None => {
                self.refuse(
                    &mut send,
                    answer::UNRECOGNIZED_TYPE,
                    &request.synapse_type(),
                )
                .await;
            }
            Some(Route::Streaming(handler)) => {
                self.serve_streaming(send, context, request, handler, input, ending)
                    .await;
            }
            // A unary handler has no use for chunks.
            Some(_) if ending == Ending::Duplex => {
                self.refuse(
                    &mut send,
                    answer::UNRECOGNIZED_TYPE,
                    &request.synapse_type(),
                )
                .await;
            }
            Some(Route::Asynchronous(Asynchronous::Plain(handler))) => {
                let work = async {
                    handler
                        .handle_payload(context.synapse_type(), request.into_data())
                        .await
                };
                self.serve_unary(send, &context, work).await;
            }
            Some(Route::Asynchronous(Asynchronous::WithContext(handler))) => {
                let work = async { handler.handle(context.clone(), request.into_data()).await };
                self.serve_unary(send, &context, work).await;
            }
            Some(Route::Blocking(handler)) => {
                let inner = context.clone();
                let data = request.into_data();
                let work = pool::spawn(self.shared.runtime(), move || {
                    handler.handle_request(&inner, data)
                })
                .map(|done| {
                    done.unwrap_or_else(|_| Err(LightningError::handler("handler panicked")))
                });
                self.serve_unary(send, &context, work).await;
            }
        }
    }

    async fn serve_unary(
        &self,
        mut send: FrameWriter,
        context: &RequestContext,
        work: impl Future<Output = Result<Payload>>,
    ) {
        self.shared.counters.requests.add_one();
        let Some(outcome) = self.guard(send.stopped(), context, work).await else {
            return;
        };
        let now = unix_timestamp_secs();
        let response = match outcome {
            Ok(data) => Response {
                success: true,
                data,
                timestamp: now,
                error: None,
            },
            Err(text) => Response::failure(text, now),
        };
        if !fits(&self.shared.config, &response.data) {
            let text = answer::SERIALIZATION_FAILED;
            respond(&mut send, Response::failure(text, now)).await;
            return;
        }
        respond(&mut send, response).await;
    }

    async fn serve_streaming(
        &self,
        send: FrameWriter,
        context: RequestContext,
        request: Request,
        handler: Streaming,
        input: ChunkStream,
        ending: Ending,
    ) {
        self.shared.counters.requests.add_one();
        let stopped = send.stopped();
        let mut sink = ChunkSink::new(send, self.shared.config.max_frame_payload_bytes);
        let outcome = {
            let work = async {
                match handler {
                    Streaming::Chunks(handler) => {
                        handler
                            .handle(context.clone(), request.into_data(), input, &mut sink)
                            .await
                    }
                    Streaming::Channel(handler) => {
                        let buffer = self.shared.config.streaming_channel_buffer;
                        pump(handler, &context, request.into_data(), buffer, &mut sink)
                            .await
                            .map(|()| Payload::empty())
                    }
                }
            };
            self.guard(stopped, &context, work).await
        };
        let Some(outcome) = outcome else { return };
        let mut writer = sink.into_writer();
        let outcome = outcome.map_err(|text| match text {
            answer::PROCESSING_FAILED => answer::STREAM_FAILED,
            other => other,
        });
        match ending {
            Ending::Plain => {
                let end = match outcome {
                    Ok(_) => StreamEnd::ok(),
                    Err(text) => StreamEnd::failure(text),
                };
                if let Ok(frame) = message::encode_stream_end(&end) {
                    writer.write_last(frame).await;
                }
            }
            Ending::Duplex => {
                let now = unix_timestamp_secs();
                let response = match outcome {
                    Ok(data) if fits(&self.shared.config, &data) => Response {
                        success: true,
                        data,
                        timestamp: now,
                        error: None,
                    },
                    Ok(_) => Response::failure(answer::SERIALIZATION_FAILED, now),
                    Err(text) => Response::failure(text, now),
                };
                respond(&mut writer, response).await;
            }
        }
    }

    /// Runs a handler until it is done, its time is over, or nobody waits any more (`None`).
    async fn guard(
        &self,
        stopped: impl Future<Output = ()>,
        context: &RequestContext,
        work: impl Future<Output = Result<Payload>>,
    ) -> Option<Verdict> {
        let counters = &self.shared.counters;
        let mut stopped = pin!(stopped);
        let result = tokio::select! {
            biased;
            result = AssertUnwindSafe(work).catch_unwind() => Some(result),
            () = &mut stopped => None,
            () = tokio::time::sleep(context.time_left()) => {
                counters.failed.add_one();
                tracing::warn!(?context, "handler timed out");
                return Some(Err(answer::HANDLER_TIMED_OUT));
            }
        };
        match result {
            // A handler that cannot send its chunks because nobody takes them has not failed.
            Some(result) if matches!(result, Ok(Ok(_))) || stopped.now_or_never().is_none() => {
                Some(judge(counters, &self.caller, result))
            }
            _ => {
                counters.cancelled.add_one();
                tracing::debug!(?context, "the caller gave up");
                None
            }
        }
    }

    async fn refuse(
        &self,
        send: &mut FrameWriter,
        text: &'static str,
        detail: &(dyn std::fmt::Display + Sync),
    ) {
        self.shared.counters.refused.add_one();
        tracing::warn!(hotkey = %self.caller.hotkey, %detail, "request refused: {text}");
        respond(send, Response::failure(text, unix_timestamp_secs())).await;
    }

    fn context(&self, request: &Request) -> RequestContext {
        let mut time = Duration::from_secs(self.shared.config.handler_timeout_secs);
        if let Some(wanted) = request.timeout_ms() {
            time = time.min(Duration::from_millis(wanted));
        }
        RequestContext::new(
            self.caller.clone(),
            &self.session,
            request.synapse_type(),
            Instant::now() + time,
        )
    }
}

/// Turns a handler's result into what its caller may know of it, and logs the rest.
pub(super) fn judge(
    counters: &Counters,
    caller: &Caller,
    result: std::thread::Result<Result<Payload>>,
) -> Verdict {
    let hotkey = &caller.hotkey;
    match result {
        Ok(Ok(data)) => return Ok(data),
        // The caller's fault as a rule: its request does not fit the handler's type.
        Ok(Err(LightningError::Serialization(error))) => {
            tracing::warn!(%hotkey, %error, "request or answer does not fit the handler");
        }
        Ok(Err(error)) => tracing::error!(%hotkey, %error, "handler failed"),
        Err(_panic) => tracing::error!(%hotkey, "handler panicked"),
    }
    counters.failed.add_one();
    Err(answer::PROCESSING_FAILED)
}

/// Whether an answer fits a frame, with room for what stands around the data.
pub(super) fn fits(config: &LightningServerConfig, data: &Payload) -> bool {
    data.len_bytes() + RESPONSE_OVERHEAD <= config.max_frame_payload_bytes
}

/// Runs a handler that sends through a channel, and sends what comes out of it.
///
/// What the handler sent before it failed goes out before its failure does.
async fn pump(
    handler: Arc<dyn StreamingSynapseHandler>,
    context: &RequestContext,
    data: Payload,
    buffer: usize,
    sink: &mut ChunkSink,
) -> Result<()> {
    let (sender, mut chunks) = mpsc::channel::<Vec<u8>>(buffer);
    let produce = handler.handle(context.synapse_type(), data.into_values()?, sender);
    let produce = AssertUnwindSafe(produce)
        .catch_unwind()
        .map(|result| result.unwrap_or_else(|_| Err(LightningError::handler("handler panicked"))));
    let forward = async {
        while let Some(chunk) = chunks.recv().await {
            sink.send(Bytes::from(chunk)).await?;
        }
        Result::Ok(())
    };
    let (mut produce, mut forward) = (pin!(produce), pin!(forward));
    tokio::select! {
        produced = &mut produce => {
            forward.await?;
            produced
        }
        forwarded = &mut forward => {
            forwarded?;
            produce.await
        }
    }
}

async fn respond(send: &mut FrameWriter, response: Response) {
    match response.encode() {
        Ok(frame) => send.write_last(frame).await,
        Err(error) => tracing::error!(%error, "cannot encode an answer"),
    }
}

/// Closes a connection that opens stream after stream without authenticating.
pub(super) fn admits_stream(session: &Session) -> bool {
    if session.caller().is_some() || session.count_strange_stream() <= MAX_STREAMS_BEFORE_HANDSHAKE
    {
        return true;
    }
    tracing::warn!(peer = %session.remote_addr(), "too many streams before a handshake");
    session.close(CloseReason::ProtocolViolation);
    false
}

/// Streams a connection may open before a hotkey is authenticated on it: a handshake for each of
/// a handful of hotkeys, and some that fail.
const MAX_STREAMS_BEFORE_HANDSHAKE: u32 = 16;

/// Marker, flag, timestamp and error around an answer's data.
const RESPONSE_OVERHEAD: usize = 32;
