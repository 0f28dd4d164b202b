//! Serves a lane: small requests in, small answers out, on one stream and mostly in one task.
//!
//! A handler that is done at its first poll costs no task, no timer and no wake-up: its answer
//! goes into the batch that is written when the requests at hand are through. Only a handler that
//! has to wait gets a task, and one that may block a thread.

use std::{
    collections::{BTreeSet, HashMap},
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use btlightning_proto::{
    Payload, ProtoError,
    close::stream as code,
    lane::{
        self, Batch, ClientRecord, INITIAL_CREDIT, LaneRequest, RecordBuffer, take_client_record,
    },
    message::Response,
};
use bytes::Bytes;
use futures::FutureExt;
use quinn::{RecvStream, SendStream};
use tokio::{sync::Notify, time::Instant};
use tokio_util::{sync::CancellationToken, task::task_tracker::TaskTrackerToken};

use super::{
    answer,
    context::RequestContext,
    dispatch::{self, Verdict},
    pool,
    routes::{Asynchronous, Route},
    session::{Caller, Session},
    shared::Shared,
};
use crate::{error::Result, io::FrameWriter, util::unix_timestamp_secs};

/// A lane as its task and the handlers on other tasks and threads see it.
struct Lane {
    shared: Arc<Shared>,
    session: Arc<Session>,
    caller: Arc<Caller>,
    state: Mutex<State>,
    /// Wakes the lane's task when there is something to write.
    wake: Notify,
}

#[derive(Default)]
struct State {
    /// Records to be written.
    out: Batch,
    /// Requests whose handler has not answered.
    open: HashMap<u64, Open>,
    /// When the time of each open request is over.
    deadlines: BTreeSet<(Instant, u64)>,
    /// Answers on their way on streams of their own.
    large: usize,
}

impl State {
    /// Whether the client takes its answers, so that more requests can be read.
    ///
    /// A request that was answered is no longer open, whether or not its answer was taken: without
    /// this bound, a client that asks and never reads would have us keep all its answers.
    fn is_taken_from(&self, credit: usize) -> bool {
        self.out.len_bytes() < MAX_UNSENT && self.large <= credit
    }
}

struct Open {
    cancelled: CancellationToken,
    deadline: Instant,
    /// What to say when the deadline passes.
    late: &'static str,
    /// Lets a stopping server wait for the request.
    _running: TaskTrackerToken,
}

/// How long a request may take, and what to say when it took longer.
type Limit = (Duration, &'static str);

type Work = Pin<Box<dyn Future<Output = Verdict> + Send>>;

/// Serves a lane until the client ends it or breaks its rules.
pub(super) async fn serve(
    shared: Arc<Shared>,
    session: Arc<Session>,
    caller: Arc<Caller>,
    send: SendStream,
    mut recv: RecvStream,
    received: Bytes,
) {
    let mut send = FrameWriter::new(send, code::REFUSED);
    let credit = shared
        .config
        .max_concurrent_bidi_streams
        .max(INITIAL_CREDIT);
    let draining = shared.draining.clone();
    let lane = Arc::new(Lane {
        shared,
        session,
        caller,
        state: Mutex::default(),
        wake: Notify::new(),
    });
    if credit > INITIAL_CREDIT {
        lane::put_credit(&mut lane.lock().out, u64::from(credit - INITIAL_CREDIT));
    }
    // A stopping server waits until the last answers are delivered.
    let _serving = lane.shared.lanes.token();
    let mut buffer = RecordBuffer::default();
    buffer.push(received);
    let result = lane
        .run(
            &mut send,
            &mut recv,
            &mut buffer,
            credit as usize,
            &draining,
        )
        .await;
    lane.cancel_all();
    if let Err(error) = result {
        tracing::warn!(hotkey = %lane.caller.hotkey, %error, "lane broken by its client");
        lane.shared.counters.refused.add_one();
        let _ = recv.stop(code::REFUSED.into());
    } else {
        send.finish();
        send.stopped().await;
    }
}

impl Lane {
    async fn run(
        self: &Arc<Self>,
        send: &mut FrameWriter,
        recv: &mut RecvStream,
        buffer: &mut RecordBuffer,
        credit: usize,
        draining: &CancellationToken,
    ) -> std::result::Result<(), ProtoError> {
        let mut said_goodbye = false;
        loop {
            while let Some(record) = buffer.next(take_client_record)? {
                match record {
                    ClientRecord::Request(request) => {
                        let mut state = self.lock();
                        if state.open.len() >= credit {
                            return Err(ProtoError::Field {
                                field: "request",
                                expected: "no more requests than credits",
                            });
                        }
                        if state.open.contains_key(&request.id) {
                            return Err(ProtoError::Field {
                                field: "id",
                                expected: "an id that is not in use",
                            });
                        }
                        let refusal = if self.caller.is_revoked() {
                            Some(answer::AUTHENTICATION_FAILED)
                        } else if draining.is_cancelled() {
                            Some(answer::SHUTTING_DOWN)
                        } else {
                            None
                        };
                        if let Some(text) = refusal {
                            lane::put_failure(&mut state.out, request.id, text);
                            self.shared.counters.refused.add_one();
                            continue;
                        }
                        drop(state);
                        self.begin(request);
                    }
                    ClientRecord::Cancel { id } => self.cancel(id),
                    ClientRecord::Invalid { id, error } => {
                        tracing::warn!(hotkey = %self.caller.hotkey, %error, "request refused");
                        self.shared.counters.refused.add_one();
                        lane::put_failure(&mut self.lock().out, id, answer::INVALID_REQUEST);
                    }
                }
            }
            if draining.is_cancelled() && !said_goodbye {
                said_goodbye = true;
                lane::put_go_away(&mut self.lock().out);
            }
            let (next_deadline, taken_from) = {
                let mut state = self.lock();
                if send.is_idle() && !state.out.is_empty() {
                    state.out.take_into(send.queue());
                }
                let next_deadline = state.deadlines.first().map(|(at, _)| *at);
                (next_deadline, state.is_taken_from(credit))
            };
            tokio::select! {
                biased;
                written = send.progress(), if !send.is_idle() => {
                    if written.is_err() {
                        return Ok(());
                    }
                }
                chunk = recv.read_chunk(usize::MAX, true), if taken_from => match chunk {
                    Ok(Some(chunk)) => {
                        self.session.touch();
                        buffer.push(chunk.bytes);
                        // A client that floods its lane must not keep the worker from others.
                        tokio::task::coop::consume_budget().await;
                    }
                    Ok(None) | Err(_) => return Ok(()),
                },
                () = self.wake.notified() => {}
                () = draining.cancelled(), if !said_goodbye => {}
                () = sleep_until(next_deadline) => self.expire(Instant::now()),
            }
        }
    }

    /// Finds the handler and runs it as far as it goes without waiting.
    fn begin(self: &Arc<Self>, request: LaneRequest) {
        let id = request.id;
        let limit = self.limit(&request);
        let route = self.shared.routes.load().find(request.synapse_type());
        let (work, token): (Work, _) = match route {
            None | Some(Route::Streaming(_)) => {
                self.shared.counters.refused.add_one();
                let text = if route.is_none() {
                    answer::UNRECOGNIZED_TYPE
                } else {
                    answer::STREAMING_ONLY
                };
                tracing::warn!(hotkey = %self.caller.hotkey, synapse_type = request.synapse_type(), "request refused: {text}");
                lane::put_failure(&mut self.lock().out, id, text);
                return;
            }
            Some(Route::Blocking(handler)) => {
                self.shared.counters.requests.add_one();
                let context = self.context(&request);
                let token = context.token().clone();
                self.open(id, token.clone(), limit);
                let lane = self.clone();
                pool::run(self.shared.runtime(), move || {
                    let _over = token.drop_guard();
                    if context.is_cancelled() {
                        // Given up, or late, before there was a thread for it.
                        return;
                    }
                    let result = std::panic::catch_unwind(AssertUnwindSafe(|| {
                        handler.handle_request(&context, request.data)
                    }));
                    let verdict = dispatch::judge(&lane.shared.counters, &lane.caller, result);
                    lane.answer(id, verdict);
                });
                return;
            }
            Some(Route::Asynchronous(Asynchronous::Plain(handler))) => {
                self.shared.counters.requests.add_one();
                let lane = self.clone();
                let work = async move {
                    let (synapse_type, data) = (request.synapse_type(), request.data.clone());
                    // Within a future, since making the handler's may panic too.
                    lane.judge(async { handler.handle_payload(synapse_type, data).await })
                        .await
                };
                (Box::pin(work), None)
            }
            Some(Route::Asynchronous(Asynchronous::WithContext(handler))) => {
                self.shared.counters.requests.add_one();
                let context = self.context(&request);
                let token = context.token().clone();
                let lane = self.clone();
                let work = async move {
                    let _over = context.token().clone().drop_guard();
                    lane.judge(async { handler.handle(context.clone(), request.data).await })
                        .await
                };
                (Box::pin(work), Some(token))
            }
        };
        self.run_inline(id, work, limit, token);
    }

    /// Polls a handler once; only one that is not done then gets a task.
    fn run_inline(
        self: &Arc<Self>,
        id: u64,
        mut work: Work,
        limit: Limit,
        token: Option<CancellationToken>,
    ) {
        // A stopping server waits for a handler that has begun, before it is one of the open ones.
        let running = self.shared.requests.token();
        if let Some(verdict) = work.as_mut().now_or_never() {
            self.put(&mut self.lock(), id, verdict);
            return;
        }
        let token = token.unwrap_or_default();
        self.open(id, token.clone(), limit);
        drop(running);
        let lane = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                biased;
                verdict = work => lane.answer(id, verdict),
                () = token.cancelled() => {}
            }
        });
    }

    async fn judge(&self, work: impl Future<Output = Result<Payload>>) -> Verdict {
        let result = AssertUnwindSafe(work).catch_unwind().await;
        dispatch::judge(&self.shared.counters, &self.caller, result)
    }

    fn open(&self, id: u64, cancelled: CancellationToken, (limit, late): Limit) {
        let deadline = Instant::now() + limit;
        let open = Open {
            cancelled,
            deadline,
            late,
            _running: self.shared.requests.token(),
        };
        let mut state = self.lock();
        let first = state.deadlines.first().is_none_or(|(at, _)| deadline < *at);
        state.open.insert(id, open);
        state.deadlines.insert((deadline, id));
        drop(state);
        if first {
            // The task sleeps until the first deadline, which has changed.
            self.wake.notify_one();
        }
    }

    /// Returns how long a request may take and what to say when it took longer.
    fn limit(&self, request: &LaneRequest) -> Limit {
        let handler = Duration::from_secs(self.shared.config.handler_timeout_secs);
        let caller = Duration::from_millis(request.timeout_ms);
        if request.timeout_ms != 0 && caller < handler {
            (caller, answer::DEADLINE_EXCEEDED)
        } else {
            (handler, answer::HANDLER_TIMED_OUT)
        }
    }

    fn context(&self, request: &LaneRequest) -> RequestContext {
        RequestContext::new(
            self.caller.clone(),
            &self.session,
            request.synapse_type(),
            Instant::now() + self.limit(request).0,
        )
    }

    /// Answers an open request, unless it was cancelled or late.
    fn answer(self: &Arc<Self>, id: u64, verdict: Verdict) {
        let mut state = self.lock();
        // Kept until the answer is where a stopping server waits for it.
        let Some(_open) = close(&mut state, id) else {
            return;
        };
        let idle = state.out.is_empty();
        self.put(&mut state, id, verdict);
        drop(state);
        if idle {
            self.wake.notify_one();
        }
    }

    /// Puts an answer where the lane's task finds it.
    fn put(self: &Arc<Self>, state: &mut State, id: u64, verdict: Verdict) {
        match verdict {
            Err(text) => lane::put_failure(&mut state.out, id, text),
            Ok(data) if lane::put_answer(&mut state.out, id, &data).is_ok() => {}
            Ok(data) if dispatch::fits(&self.shared.config, &data) => {
                state.large += 1;
                let running = self.shared.requests.token();
                let lane = self.clone();
                // From a pool thread too.
                self.shared.runtime().spawn(async move {
                    lane.send_large(id, data).await;
                    lane.lock().large -= 1;
                    lane.wake.notify_one();
                    drop(running);
                });
            }
            Ok(_) => lane::put_failure(&mut state.out, id, answer::SERIALIZATION_FAILED),
        }
    }

    /// Sends an answer that is too large for a record on a stream of its own.
    async fn send_large(&self, id: u64, data: Payload) {
        let now = unix_timestamp_secs();
        let response = Response {
            success: true,
            data,
            timestamp: now,
            error: None,
        };
        let Ok(frame) = response.encode() else { return };
        let Ok(stream) = self.session.connection.open_uni().await else {
            return;
        };
        let mut writer = FrameWriter::new(stream, code::CANCELLED);
        writer.queue().push(lane::large_answer_head(id));
        writer.write_last(frame).await;
    }

    fn cancel(&self, id: u64) {
        let mut state = self.lock();
        // A request that was answered meanwhile has its answer on the way.
        let Some(open) = close(&mut state, id) else {
            return;
        };
        lane::put_failure(&mut state.out, id, answer::CANCELLED);
        drop(state);
        open.cancelled.cancel();
        self.shared.counters.cancelled.add_one();
        tracing::debug!(hotkey = %self.caller.hotkey, id, "the caller gave up");
    }

    fn expire(&self, now: Instant) {
        let mut state = self.lock();
        while let Some((at, id)) = state.deadlines.first().copied() {
            if at > now {
                return;
            }
            let Some(open) = close(&mut state, id) else {
                return;
            };
            lane::put_failure(&mut state.out, id, open.late);
            open.cancelled.cancel();
            self.shared.counters.failed.add_one();
            tracing::warn!(hotkey = %self.caller.hotkey, "{}", open.late);
        }
    }

    fn cancel_all(&self) {
        let open = std::mem::take(&mut self.lock().open);
        for open in open.into_values() {
            open.cancelled.cancel();
            self.shared.counters.cancelled.add_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a request off the open ones.
fn close(state: &mut State, id: u64) -> Option<Open> {
    let open = state.open.remove(&id)?;
    state.deadlines.remove(&(open.deadline, id));
    Some(open)
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Bytes of answers that wait to be written before no more requests are read.
const MAX_UNSENT: usize = 1024 * 1024;
