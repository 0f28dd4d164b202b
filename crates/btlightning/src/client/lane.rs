//! The client's end of a lane: many callers, one stream, one task that reads and writes it.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use btlightning_proto::{
    Payload, ProtoError,
    close::{CloseReason, stream as code},
    frame::MessageType,
    lane::{self, Batch, INITIAL_CREDIT, RecordBuffer, ServerRecord, take_server_record},
    message::{self, Response},
};
use futures::FutureExt;
use lightning_quic::TaskGroup;
use quinn::{Connection, RecvStream};
use slab::Slab;
use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};

use super::link::{Failure, Outcome, within};
use crate::{
    error::{CallErrorKind, Phase},
    io::{FrameReader, FrameWriter},
    server::answer,
};

/// One lane of a connection.
#[derive(Debug)]
pub(super) struct Lane {
    state: Mutex<State>,
    /// Wakes the lane's task when there is something to write.
    wake: Notify,
}

#[derive(Debug)]
struct State {
    /// Records to be written.
    out: Batch,
    /// Requests the server still allows.
    credit: u64,
    /// Requests without an answer, by id.
    open: Slab<Slot>,
    /// Requests without credit: higher priority first, then older first.
    waiting: BTreeMap<WaitKey, Waiting>,
    next_in_line: u64,
    /// Why nothing can be sent any more.
    ended: Option<CallErrorKind>,
}

type WaitKey = (Reverse<u8>, u64);
type AnswerSender = oneshot::Sender<Answer>;
type Answer = Result<Result<Payload, String>, Failure>;

#[derive(Debug)]
enum Slot {
    /// In line for credit.
    Waiting(WaitKey, AnswerSender),
    /// Sent.
    Sent(AnswerSender),
    /// Sent, and given up by its caller. The id is free when the server has answered.
    Abandoned,
}

#[derive(Debug)]
struct Waiting {
    id: usize,
    priority: u8,
    timeout_ms: u64,
    synapse_type: Box<str>,
    data: Payload,
}

impl Lane {
    /// Opens a lane on an authenticated connection.
    pub(super) async fn open(
        connection: &Connection,
        group: &TaskGroup,
        max_payload: usize,
    ) -> Result<Arc<Self>, CallErrorKind> {
        let (send, recv) = connection.open_bi().await.map_err(CallErrorKind::Lost)?;
        let mut send = FrameWriter::new(send, code::CANCELLED);
        let opening = message::encode_lane_open().map_err(CallErrorKind::Encode)?;
        send.write(opening).await.map_err(crate::io::write_error)?;
        let lane = Arc::new(Self {
            state: Mutex::new(State {
                out: Batch::default(),
                credit: INITIAL_CREDIT.into(),
                open: Slab::new(),
                waiting: BTreeMap::new(),
                next_in_line: 0,
                ended: None,
            }),
            wake: Notify::new(),
        });
        group.spawn(
            lane.clone()
                .run(connection.clone(), group.clone(), send, recv),
        );
        tokio::spawn(
            lane.clone()
                .accept_large_answers(connection.clone(), max_payload),
        );
        Ok(lane)
    }

    /// Sends a request and waits for its answer for at most `wait`.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future tells the server, which drops the handler.
    pub(super) async fn exchange(
        self: &Arc<Self>,
        synapse_type: &str,
        data: &Payload,
        priority: u8,
        wait: Option<Duration>,
    ) -> Result<Outcome, Failure> {
        let started = Instant::now();
        let answer = match self.answer(synapse_type, data, priority, wait).await {
            // The server's word to the whole lane, before it saw this request.
            Err(Failure {
                kind: CallErrorKind::Remote(text),
                ..
            }) => Err(text),
            answer => answer?,
        };
        match (answer, wait) {
            // The server's clock was a little faster than ours.
            (Err(text), Some(after)) if text == answer::DEADLINE_EXCEEDED => Err(Failure::new(
                Phase::Wait,
                CallErrorKind::Timeout {
                    what: "query",
                    after,
                },
            )),
            (Err(text), _) if text == answer::STREAMING_ONLY => Err(super::link::streaming_only()),
            (outcome, _) => Ok(Outcome {
                result: outcome,
                latency: started.elapsed(),
            }),
        }
    }

    async fn answer(
        self: &Arc<Self>,
        synapse_type: &str,
        data: &Payload,
        priority: u8,
        wait: Option<Duration>,
    ) -> Answer {
        let timeout_ms = wait.map_or(0, |t| {
            u64::try_from(t.as_millis()).unwrap_or(u64::MAX).max(1)
        });
        let (sender, receiver) = oneshot::channel();
        let id = self.send(synapse_type, data, priority, timeout_ms, sender)?;
        let mut guard = AbandonOnDrop {
            lane: self,
            id: Some(id),
        };
        let answer = within(wait, "query", receiver).await?;
        guard.id = None;
        let lost = || Failure::new(Phase::Wait, CallErrorKind::CutShort { have: 0, need: 1 });
        answer.unwrap_or_else(|_| Err(lost()))
    }

    fn send(
        &self,
        synapse_type: &str,
        data: &Payload,
        priority: u8,
        timeout_ms: u64,
        sender: AnswerSender,
    ) -> Result<usize, Failure> {
        let mut state = self.lock();
        if let Some(reason) = &state.ended {
            return Err(Failure::new(Phase::Send, reason.clone()));
        }
        if state.credit == 0 {
            let key = (Reverse(priority), state.next_in_line);
            state.next_in_line += 1;
            let id = state.open.insert(Slot::Waiting(key, sender));
            let synapse_type = synapse_type.into();
            let data = data.clone();
            state.waiting.insert(
                key,
                Waiting {
                    id,
                    priority,
                    timeout_ms,
                    synapse_type,
                    data,
                },
            );
            return Ok(id);
        }
        let id = state.open.vacant_key();
        let idle = state.out.is_empty();
        lane::put_request(
            &mut state.out,
            id as u64,
            priority,
            timeout_ms,
            synapse_type,
            data,
        )
        .map_err(|e| Failure::new(Phase::Send, CallErrorKind::Encode(e)))?;
        state.open.insert(Slot::Sent(sender));
        state.credit -= 1;
        drop(state);
        if idle {
            self.wake.notify_one();
        }
        Ok(id)
    }

    fn abandon(&self, id: usize) {
        let mut state = self.lock();
        match state.open.get_mut(id) {
            Some(Slot::Waiting(key, _)) => {
                let key = *key;
                state.waiting.remove(&key);
                state.open.remove(id);
            }
            Some(slot @ Slot::Sent(_)) => {
                *slot = Slot::Abandoned;
                lane::put_cancel(&mut state.out, id as u64);
                drop(state);
                self.wake.notify_one();
            }
            Some(Slot::Abandoned) | None => {}
        }
    }

    async fn run(
        self: Arc<Self>,
        connection: Connection,
        group: TaskGroup,
        mut send: FrameWriter,
        mut recv: RecvStream,
    ) {
        let mut buffer = RecordBuffer::default();
        let mut answers = Vec::new();
        let reason = loop {
            let mut result = self.take_records(&mut buffer, &mut answers);
            // Whatever else is here already belongs to the same delivery.
            while result.is_ok()
                && answers.len() < MAX_DELIVERY
                && let Some(Ok(Some(chunk))) = recv.read_chunk(usize::MAX, true).now_or_never()
            {
                buffer.push(chunk.bytes);
                result = self.take_records(&mut buffer, &mut answers);
            }
            deliver(&group, &mut answers);
            if let Err(error) = result {
                tracing::warn!(%error, "the server broke the lane's rules, closing the connection");
                // Answers could be taken for those of other requests.
                close_done(&connection);
                break CallErrorKind::Decode(error);
            }
            if send.is_idle() {
                let mut state = self.lock();
                if !state.out.is_empty() {
                    state.out.take_into(send.queue());
                } else if let (Some(reason), true) = (&state.ended, state.open.is_empty()) {
                    send.finish();
                    break reason.clone();
                }
            }
            tokio::select! {
                biased;
                written = send.progress(), if !send.is_idle() => {
                    if let Err(error) = written {
                        break crate::io::write_error(error);
                    }
                }
                chunk = recv.read_chunk(usize::MAX, true) => match chunk {
                    Ok(Some(chunk)) => buffer.push(chunk.bytes),
                    Ok(None) => break CallErrorKind::CutShort { have: 0, need: 1 },
                    Err(error) => break crate::io::FrameError::from(error).into(),
                },
                () = self.wake.notified() => {}
            }
        };
        if self.end(&reason) && connection.close_reason().is_none() {
            // What they came to is unknown, and there is no lane to ask again on.
            close_done(&connection);
        }
    }

    /// Takes the records that have come and notes whom they answer.
    fn take_records(
        &self,
        buffer: &mut RecordBuffer,
        answers: &mut Vec<(AnswerSender, Answer)>,
    ) -> Result<(), ProtoError> {
        let Some(first) = buffer.next(take_server_record)? else {
            return Ok(());
        };
        let mut state = self.lock();
        let mut next = Some(first);
        while let Some(record) = next {
            match record {
                ServerRecord::Answer { id, data } => {
                    answers.extend(state.close(id)?.map(|sender| (sender, Ok(Ok(data)))));
                }
                ServerRecord::Failure { id, text } => {
                    answers.extend(state.close(id)?.map(|sender| (sender, Ok(Err(text)))));
                }
                ServerRecord::Invalid { id, error } => {
                    let failure = Failure::new(Phase::Wait, CallErrorKind::Decode(error));
                    answers.extend(state.close(id)?.map(|sender| (sender, Err(failure))));
                }
                ServerRecord::Credit { requests } => {
                    state.credit = state.credit.saturating_add(requests);
                    state.send_waiting()?;
                }
                ServerRecord::GoAway => {
                    let shutting_down = CallErrorKind::Remote(answer::SHUTTING_DOWN.to_owned());
                    answers.extend(state.fail_waiting(&shutting_down));
                    state.ended = Some(shutting_down);
                }
            }
            next = buffer.next(take_server_record)?;
        }
        Ok(())
    }

    /// Takes answers that were too large for the lane.
    async fn accept_large_answers(self: Arc<Self>, connection: Connection, max_payload: usize) {
        while let Ok(stream) = connection.accept_uni().await {
            let lane = self.clone();
            tokio::spawn(async move {
                let mut reader = FrameReader::new(stream);
                let Ok(Some(id)) = reader.varint().await else {
                    return;
                };
                let answer = match reader.expect_frame(max_payload).await {
                    Ok((MessageType::SynapseResponse, payload)) => Response::decode(payload)
                        .map(Response::into_result)
                        .map_err(CallErrorKind::Decode),
                    Ok((other, _)) => Err(CallErrorKind::Unexpected(format!(
                        "unexpected response type: {other:?}"
                    ))),
                    Err(e) => Err(e.into()),
                };
                let answer = answer.map_err(|kind| Failure::new(Phase::Wait, kind));
                let sender = lane.lock().close(id);
                lane.wake.notify_one();
                if let Ok(Some(sender)) = sender {
                    let _ = sender.send(answer);
                }
            });
        }
    }

    /// Fails what has no answer; says whether the lane ended without the server's word.
    fn end(&self, reason: &CallErrorKind) -> bool {
        let (waiting, open, broken) = {
            let mut state = self.lock();
            let broken = state.ended.is_none() || !state.open.is_empty();
            state.ended.get_or_insert_with(|| reason.clone());
            (
                state.fail_waiting(reason),
                std::mem::take(&mut state.open),
                broken,
            )
        };
        for (sender, answer) in waiting {
            let _ = sender.send(answer);
        }
        for (_, slot) in open {
            if let Slot::Sent(sender) = slot {
                let _ = sender.send(Err(Failure::new(Phase::Wait, reason.clone())));
            }
        }
        broken
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Hands answers to those who wait for them.
fn deliver(group: &TaskGroup, answers: &mut Vec<(AnswerSender, Answer)>) {
    if answers.len() > 1 {
        // Their callers may have more to ask: one batch instead of many.
        group.linger();
    }
    for (sender, answer) in answers.drain(..) {
        // A caller may have given up meanwhile.
        let _ = sender.send(answer);
    }
}

impl State {
    /// Takes back the credit of an answered request and returns who waits for it, if anybody does.
    fn close(&mut self, id: u64) -> Result<Option<AnswerSender>, ProtoError> {
        const UNKNOWN: ProtoError = ProtoError::Field {
            field: "id",
            expected: "the id of an open request",
        };
        let id = usize::try_from(id).map_err(|_| UNKNOWN)?;
        let sender = match self.open.get(id) {
            Some(Slot::Sent(_) | Slot::Abandoned) => match self.open.remove(id) {
                Slot::Sent(sender) => Some(sender),
                _ => None,
            },
            Some(Slot::Waiting(..)) | None => return Err(UNKNOWN),
        };
        self.credit += 1;
        self.send_waiting()?;
        Ok(sender)
    }

    /// Sends requests that were in line, as far as the credit goes.
    fn send_waiting(&mut self) -> Result<(), ProtoError> {
        while self.credit > 0 {
            let Some((_, next)) = self.waiting.pop_first() else {
                return Ok(());
            };
            lane::put_request(
                &mut self.out,
                next.id as u64,
                next.priority,
                next.timeout_ms,
                &next.synapse_type,
                &next.data,
            )?;
            self.credit -= 1;
            if let Some(slot) = self.open.get_mut(next.id)
                && let Slot::Waiting(_, sender) = std::mem::replace(slot, Slot::Abandoned)
            {
                *slot = Slot::Sent(sender);
            }
        }
        Ok(())
    }

    /// Takes all requests out of the line; the server has not seen them.
    fn fail_waiting(&mut self, reason: &CallErrorKind) -> Vec<(AnswerSender, Answer)> {
        let mut failed = Vec::new();
        for waiting in std::mem::take(&mut self.waiting).into_values() {
            if let Some(Slot::Waiting(_, sender)) = self.open.try_remove(waiting.id) {
                failed.push((sender, Err(Failure::new(Phase::Send, reason.clone()))));
            }
        }
        failed
    }
}

fn close_done(connection: &Connection) {
    let reason = CloseReason::Done;
    lightning_quic::close(connection, reason.code().into(), reason.as_str().as_bytes());
}

/// Gives a request up when its caller does.
struct AbandonOnDrop<'a> {
    lane: &'a Lane,
    id: Option<usize>,
}

impl Drop for AbandonOnDrop<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.lane.abandon(id);
        }
    }
}

/// Answers taken before their callers are woken.
const MAX_DELIVERY: usize = 256;
