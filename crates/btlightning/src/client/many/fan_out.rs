//! The task behind a [`Many`](super::Many): who is dialled, who is asked, and when it ends.

use std::{
    collections::{HashSet, VecDeque},
    future::pending,
    sync::{Arc, OnceLock},
    time::Duration,
};

use btlightning_proto::{Payload, ProtoError, message::EncodedFrame};
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    sync::{
        OwnedSemaphorePermit, Semaphore,
        mpsc::{self, UnboundedReceiver, UnboundedSender},
    },
    task::JoinHandle,
    time::{Instant, sleep_until, timeout},
};

use super::{
    super::{
        CallOptions, Reply,
        caller::{Caller, lost_unsent},
        link::{self, Failure, Link, Outcome, Wants},
    },
    ManyAnswer, ManyOptions,
};
use crate::{
    error::{CallError, CallErrorKind, Phase},
    types::QuicAxonInfo,
};

/// An answer, and the place that it holds until somebody takes it: so there are never more answers
/// in memory than there are places.
pub(super) struct Heard {
    pub(super) answer: ManyAnswer,
    _place: Option<OwnedSemaphorePermit>,
}

/// What all miners are asked, and how.
pub(super) struct Request {
    caller: Caller,
    axons: Vec<QuicAxonInfo>,
    synapse_type: Box<str>,
    data: Payload,
    /// For those that get it on a stream of their own; built when the first of them does.
    frame: OnceLock<Result<EncodedFrame, ProtoError>>,
    options: ManyOptions,
    deadline: Option<Instant>,
}

struct FanOut {
    request: Arc<Request>,
    answers: UnboundedSender<Heard>,
    stages: Vec<Stage>,
    /// Miners that were not heard of yet.
    left: usize,
    good: usize,
    /// Good answers after which the rest does not matter.
    wanted: usize,
    /// Connected, and waiting for a place to be asked.
    connected: VecDeque<(usize, Arc<Link>)>,
    /// Waiting for a place to be dialled.
    unconnected: VecDeque<usize>,
    places: Arc<Semaphore>,
    dial_places: Arc<Semaphore>,
    calling: FuturesUnordered<BoxFuture<'static, Called>>,
    dialling: FuturesUnordered<BoxFuture<'static, Dialled>>,
    /// Those whose connection was lost before the request was sent, which is put up with once.
    lost: HashSet<usize>,
}

/// How far a miner has got.
enum Stage {
    Unconnected,
    Dialling,
    Connected,
    Calling(Arc<Link>),
    Done,
}

/// The end of a request.
struct Called {
    index: usize,
    place: OwnedSemaphorePermit,
    result: Result<Outcome, Failure>,
}

/// The end of an attempt to connect.
struct Dialled {
    index: usize,
    result: Result<Arc<Link>, CallError>,
}

/// Starts the task.
pub(super) fn start(request: Request) -> (UnboundedReceiver<Heard>, JoinHandle<()>) {
    let (sender, answers) = mpsc::unbounded_channel();
    let fan_out = FanOut::new(Arc::new(request), sender);
    (answers, tokio::spawn(fan_out.run()))
}

impl FanOut {
    fn new(request: Arc<Request>, answers: UnboundedSender<Heard>) -> Self {
        let count = request.axons.len();
        let places = request.options.concurrency.clamp(1, count.max(1));
        let mut fan_out = Self {
            answers,
            stages: Vec::with_capacity(count),
            left: count,
            good: 0,
            wanted: request.options.wanted.unwrap_or(usize::MAX),
            connected: VecDeque::new(),
            unconnected: VecDeque::new(),
            places: Arc::new(Semaphore::new(places)),
            dial_places: Arc::new(Semaphore::new(places)),
            calling: FuturesUnordered::new(),
            dialling: FuturesUnordered::new(),
            lost: HashSet::new(),
            request,
        };
        let core = &fan_out.request.caller.core;
        for (index, axon) in fan_out.request.axons.iter().enumerate() {
            fan_out.stages.push(match core.live_link(axon) {
                Some(link) => {
                    fan_out.connected.push_back((index, link));
                    Stage::Connected
                }
                None => {
                    fan_out.unconnected.push_back(index);
                    Stage::Unconnected
                }
            });
        }
        // Whoever failed before is the likeliest to keep a place for nothing.
        fan_out
            .unconnected
            .make_contiguous()
            .sort_by_cached_key(|index| core.failed_attempts(&fan_out.request.axons[*index]));
        fan_out
    }

    async fn run(mut self) {
        let deadline = self.request.deadline;
        let end = async move {
            match deadline {
                Some(deadline) => sleep_until(deadline).await,
                None => pending().await,
            }
        };
        tokio::pin!(end);
        while self.left > 0 && self.good < self.wanted {
            tokio::select! {
                biased;
                () = &mut end => {
                    self.end_at_deadline();
                    return;
                }
                Ok(place) = self.places.clone().acquire_owned(), if !self.connected.is_empty() => {
                    self.call_next(place);
                }
                Ok(place) = self.dial_places.clone().acquire_owned(), if !self.unconnected.is_empty() => {
                    self.dial_next(place);
                }
                Some(called) = self.calling.next() => self.called(called),
                Some(dialled) = self.dialling.next() => self.dialled(dialled),
            }
        }
    }

    fn call_next(&mut self, place: OwnedSemaphorePermit) {
        let Some((index, link)) = self.connected.pop_front() else {
            return;
        };
        self.stages[index] = Stage::Calling(link.clone());
        let request = self.request.clone();
        self.calling.push(
            async move {
                let result = request.ask(&link).await;
                Called {
                    index,
                    place,
                    result,
                }
            }
            .boxed(),
        );
    }

    fn dial_next(&mut self, place: OwnedSemaphorePermit) {
        let Some(index) = self.unconnected.pop_front() else {
            return;
        };
        self.stages[index] = Stage::Dialling;
        let request = self.request.clone();
        self.dialling.push(
            async move {
                let connecting = request.connect(&request.axons[index]);
                tokio::pin!(connecting);
                let result = match timeout(DIAL_PATIENCE, &mut connecting).await {
                    Ok(result) => result,
                    Err(_) => {
                        drop(place);
                        connecting.await
                    }
                };
                Dialled { index, result }
            }
            .boxed(),
        );
    }

    fn called(&mut self, called: Called) {
        let Called {
            index,
            place,
            result,
        } = called;
        let result = match result {
            Ok(Outcome {
                result: Ok(data),
                latency,
            }) => Ok(Reply { data, latency }),
            Ok(Outcome {
                result: Err(text), ..
            }) => Err(Failure::new(Phase::Wait, CallErrorKind::Remote(text))),
            Err(failure) if lost_unsent(&failure) && self.lost.insert(index) => {
                if let Stage::Calling(link) = &self.stages[index] {
                    link.note_end();
                }
                self.stages[index] = Stage::Unconnected;
                // It was there a moment ago.
                self.unconnected.push_front(index);
                return;
            }
            Err(failure) => Err(failure),
        };
        let result = result.map_err(|failure| failure.of(&self.request.axons[index]));
        self.tell(index, result, Some(place));
    }

    fn dialled(&mut self, dialled: Dialled) {
        let Dialled { index, result } = dialled;
        match result {
            Ok(link) => {
                self.stages[index] = Stage::Connected;
                self.connected.push_back((index, link));
            }
            Err(error) => self.tell(index, Err(error), None),
        }
    }

    /// Takes the answers that are there and reports all others as too late.
    fn end_at_deadline(&mut self) {
        while self.good < self.wanted
            && let Some(Some(called)) = self.calling.next().now_or_never()
        {
            self.called(called);
        }
        if self.good >= self.wanted {
            return;
        }
        let request = self.request.clone();
        for (index, axon) in request.axons.iter().enumerate() {
            let phase = match &self.stages[index] {
                Stage::Unconnected => Phase::Dial,
                Stage::Dialling => request.caller.core.connecting_phase(axon),
                Stage::Connected => Phase::Send,
                Stage::Calling(link) => {
                    link.suspect();
                    Phase::Wait
                }
                Stage::Done => continue,
            };
            let failure = Failure::new(phase, request.too_late());
            self.tell(index, Err(failure.of(axon)), None);
        }
    }

    fn tell(
        &mut self,
        index: usize,
        result: Result<Reply, CallError>,
        place: Option<OwnedSemaphorePermit>,
    ) {
        self.good += usize::from(result.is_ok());
        self.left -= 1;
        self.stages[index] = Stage::Done;
        let answer = ManyAnswer {
            index,
            axon: self.request.axons[index].clone(),
            result,
        };
        // Without anybody to hear it, this task is about to end.
        let _ = self.answers.send(Heard {
            answer,
            _place: place,
        });
    }
}

impl Request {
    pub(super) fn new(
        caller: Caller,
        axons: Vec<QuicAxonInfo>,
        synapse_type: &str,
        data: &Payload,
        options: ManyOptions,
    ) -> Self {
        let begun = Instant::now();
        Self {
            caller,
            axons,
            synapse_type: synapse_type.into(),
            data: data.clone(),
            frame: OnceLock::new(),
            options,
            // A time too far away to be reckoned is none.
            deadline: options.deadline.and_then(|after| begun.checked_add(after)),
        }
    }

    async fn connect(&self, axon: &QuicAxonInfo) -> Result<Arc<Link>, CallError> {
        if self.time_left() == Some(Duration::ZERO) {
            return Err(Failure::new(Phase::Dial, self.too_late()).of(axon));
        }
        let connecting = self.caller.link_for(axon);
        let Some(limit) = self.options.connect_timeout else {
            return connecting.await;
        };
        timeout(limit, connecting).await.unwrap_or_else(|_| {
            let phase = self.caller.core.connecting_phase(axon);
            let what = match phase {
                Phase::Handshake => "handshake",
                _ => "connection",
            };
            let kind = CallErrorKind::Timeout { what, after: limit };
            Err(Failure::new(phase, kind).of(axon))
        })
    }

    /// Sends the request, and once more to a miner that is silent for too long.
    async fn ask(&self, link: &Arc<Link>) -> Result<Outcome, Failure> {
        let left = self.time_left();
        if left == Some(Duration::ZERO) {
            return Err(Failure::new(Phase::Send, self.too_late()));
        }
        let wait = match (self.options.timeout, left) {
            (Some(limit), Some(left)) => Some(limit.min(left)),
            (limit, left) => limit.or(left),
        };
        let result = match self.options.hedge_after {
            Some(silence) if wait.is_none_or(|wait| silence < wait) => {
                self.ask_twice(link, wait, silence).await
            }
            _ => self.send(link, wait).await,
        };
        result.map_err(|failure| match failure {
            // Whether that was the miner's own limit or the end of the call.
            Failure {
                phase: Phase::Wait,
                kind: CallErrorKind::Timeout { .. },
            } if wait == left => Failure::new(Phase::Wait, self.too_late()),
            other => other,
        })
    }

    async fn ask_twice(
        &self,
        link: &Arc<Link>,
        wait: Option<Duration>,
        silence: Duration,
    ) -> Result<Outcome, Failure> {
        let began = Instant::now();
        let first = self.send(link, wait);
        tokio::pin!(first);
        if let Ok(result) = timeout(silence, &mut first).await {
            return result;
        }
        let rest = wait.map(|wait| wait.saturating_sub(silence));
        let second = self.send_alone(link, rest);
        tokio::pin!(second);
        // The miner's word ends it; what the network did to one request may spare the other.
        let mut outcome = tokio::select! {
            biased;
            result = &mut first => match result {
                Ok(outcome) => outcome,
                Err(failure) => second.await.map_err(|_| failure)?,
            },
            result = &mut second => match result {
                Ok(outcome) => outcome,
                Err(_) => first.await?,
            },
        };
        outcome.latency = began.elapsed();
        Ok(outcome)
    }

    async fn send(&self, link: &Arc<Link>, wait: Option<Duration>) -> Result<Outcome, Failure> {
        if !link.takes_to_lane(&self.synapse_type, &self.data) {
            return self.send_alone(link, wait).await;
        }
        let options = CallOptions {
            timeout: wait,
            priority: self.options.priority,
        };
        link.exchange(
            &self.synapse_type,
            &self.data,
            self.max_payload(),
            options,
            Wants::Payload,
        )
        .await
    }

    async fn send_alone(
        &self,
        link: &Arc<Link>,
        wait: Option<Duration>,
    ) -> Result<Outcome, Failure> {
        let max_payload = self.max_payload();
        let frame = self
            .frame
            .get_or_init(|| link::encode_request(&self.synapse_type, &self.data, max_payload))
            .clone()
            .map_err(|e| Failure::new(Phase::Send, CallErrorKind::Encode(e)))?;
        link.exchange_alone(frame, max_payload, wait, Wants::Payload)
            .await
    }

    /// Returns the time until the deadline, if there is one.
    fn time_left(&self) -> Option<Duration> {
        let deadline = self.deadline?;
        Some(deadline.saturating_duration_since(Instant::now()))
    }

    fn max_payload(&self) -> usize {
        self.caller.core.config.max_frame_payload_bytes
    }

    fn too_late(&self) -> CallErrorKind {
        CallErrorKind::Timeout {
            what: "fan-out",
            after: self.options.deadline.unwrap_or_default(),
        }
    }
}

/// How long a dial keeps its place. A miner that is there takes three round trips (address
/// validation, TLS, the handshake), which is less; one that is not there is silent for as long as it
/// is given.
const DIAL_PATIENCE: Duration = Duration::from_millis(500);
