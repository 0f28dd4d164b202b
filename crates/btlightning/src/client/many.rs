//! One request to many miners: answers as they come, and the dead hold up nobody.

mod fan_out;

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use btlightning_proto::Payload;
use futures::Stream;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio_util::task::AbortOnDropHandle;

use self::fan_out::{Heard, Request};
use super::{LightningClient, Reply};
use crate::{error::CallError, types::QuicAxonInfo};

/// Miners that [`LightningClient::query_many`] asks at a time unless told otherwise: a subnet.
pub const DEFAULT_FAN_OUT: usize = 256;

/// How [`LightningClient::query_many`] asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ManyOptions {
    /// Requests that are sent and not answered, or answered and not yet taken from the [`Many`],
    /// at a time; at least 1. As many miners again may be dialled meanwhile: see
    /// [`LightningClient::query_many`]. Default: [`DEFAULT_FAN_OUT`].
    pub concurrency: usize,
    /// Longest time to dial and authenticate with one miner, besides the limits of the client's
    /// configuration, which go on to apply to the dial itself. Default: none.
    pub connect_timeout: Option<Duration>,
    /// Longest wait for one miner's answer once the request is on its way. Default: none, so until
    /// the connection dies.
    pub timeout: Option<Duration>,
    /// Longest time for the whole call; what has no answer then is reported as timed out.
    /// Default: none.
    pub deadline: Option<Duration>,
    /// Good answers after which the call ends; the rest is cancelled and not reported. Default:
    /// none, so that every miner is heard.
    pub wanted: Option<usize>,
    /// Silence after which a miner gets the request a second time, on a stream of its own. The
    /// first answer counts and the other request is cancelled. Only for requests that may run
    /// twice. Default: none.
    pub hedge_after: Option<Duration>,
    /// Requests to one miner that have to queue go in the order of this, highest first.
    /// Default: 0.
    pub priority: u8,
}

impl ManyOptions {
    /// Asks at most this many miners at a time; 0 counts as 1.
    #[must_use]
    pub fn concurrency(mut self, concurrency: usize) -> Self {
        self.concurrency = concurrency;
        self
    }

    /// Gives a miner no longer than this to be dialled and authenticated.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = Some(timeout);
        self
    }

    /// Waits no longer than this for each answer.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Ends the call after this time, with or without answers.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Ends the call after this many good answers.
    #[must_use]
    pub fn wanted(mut self, answers: usize) -> Self {
        self.wanted = Some(answers);
        self
    }

    /// Asks a miner that is silent for this long a second time. Only for requests that may run
    /// twice.
    #[must_use]
    pub fn hedge_after(mut self, silence: Duration) -> Self {
        self.hedge_after = Some(silence);
        self
    }

    /// Goes before requests of lower priority to the same miner.
    #[must_use]
    pub fn priority(mut self, priority: u8) -> Self {
        self.priority = priority;
        self
    }
}

impl Default for ManyOptions {
    fn default() -> Self {
        Self {
            concurrency: DEFAULT_FAN_OUT,
            connect_timeout: None,
            timeout: None,
            deadline: None,
            wanted: None,
            hedge_after: None,
            priority: 0,
        }
    }
}

/// The answers to one request to many miners, as they come.
///
/// Dropping it cancels what is in flight: miners drop the handlers. Dials that have begun go on, as
/// they do whenever a caller gives up, and their connections serve later requests. Dropping the
/// client ends its connections, and so the calls on them.
#[must_use = "dropping it cancels the requests"]
pub struct Many {
    /// Unbounded, and never longer than the list of miners.
    answers: UnboundedReceiver<Heard>,
    /// The requests' own task, so that they and their deadlines make progress whether or not
    /// somebody waits for the next answer.
    _task: AbortOnDropHandle<()>,
}

/// What became of the request to one miner.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ManyAnswer {
    /// Which of the given axons it is.
    pub index: usize,
    /// The miner.
    pub axon: QuicAxonInfo,
    /// Its answer, or the phase that failed and why. The miner's own word that it failed is a
    /// [`CallErrorKind::Remote`](crate::CallErrorKind::Remote).
    pub result: Result<Reply, CallError>,
}

impl Many {
    /// Returns the next answer or failure; `None` when every miner was heard of, or as many good
    /// answers came as were wanted.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: no answer is lost.
    pub async fn next(&mut self) -> Option<ManyAnswer> {
        self.answers.recv().await.map(|heard| heard.answer)
    }

    /// Waits for all that there is to come and returns it in the order of the axons.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future cancels the requests and loses the answers that have come.
    pub async fn collect(mut self) -> Vec<ManyAnswer> {
        let mut answers = Vec::new();
        while let Some(answer) = self.next().await {
            answers.push(answer);
        }
        answers.sort_unstable_by_key(|answer| answer.index);
        answers
    }
}

impl Stream for Many {
    type Item = ManyAnswer;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<ManyAnswer>> {
        let heard = ready!(self.answers.poll_recv(cx));
        Poll::Ready(heard.map(|heard| heard.answer))
    }
}

impl fmt::Debug for Many {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Many").finish_non_exhaustive()
    }
}

impl LightningClient {
    /// Sends one request to many miners and returns their answers as they come.
    ///
    /// The request is encoded once. Miners with a live connection are asked at once, in the order
    /// given, [`concurrency`](ManyOptions::concurrency) at a time; beside them, and without taking
    /// their places, others are dialled, those first that failed least. A dial takes one of as many
    /// places for half a second at most: one that is silent for longer goes on without it, so that
    /// hundreds of dead addresses cannot keep the good ones from being dialled. An address whose
    /// last attempts failed is not dialled before its pause is over, as in any other call.
    ///
    /// A request that could not be sent because its connection turned out to be lost is sent once
    /// more on a new one. A miner may be given several times, and is asked as often.
    ///
    /// The [`CallError`] of a miner that took too long names the phase it was in: dialling or
    /// waiting for a place to be dialled, authenticating, waiting for a place to be asked (`Send`),
    /// or being asked (`Wait`: the handler may have run).
    ///
    /// ```
    /// # use btlightning::{LightningClient, ManyOptions, Payload, QuicAxonInfo};
    /// # use std::time::Duration;
    /// # async fn ask(client: &LightningClient, miners: Vec<QuicAxonInfo>) {
    /// let options = ManyOptions::default()
    ///     .timeout(Duration::from_secs(12))
    ///     .deadline(Duration::from_secs(20));
    /// let mut answers = client.query_many(miners, "guess", &Payload::empty(), options);
    /// while let Some(answer) = answers.next().await {
    ///     match answer.result {
    ///         Ok(reply) => println!("{}: {} bytes", answer.axon.hotkey, reply.data.len_bytes()),
    ///         Err(error) => eprintln!("{error}"),
    ///     }
    /// }
    /// # }
    /// ```
    ///
    /// # Panics
    ///
    /// Outside a Tokio runtime, on which it starts at once.
    pub fn query_many(
        &self,
        axons: Vec<QuicAxonInfo>,
        synapse_type: &str,
        data: &Payload,
        options: ManyOptions,
    ) -> Many {
        let request = Request::new(self.caller.clone(), axons, synapse_type, data, options);
        let (answers, task) = fan_out::start(request);
        Many {
            answers,
            _task: AbortOnDropHandle::new(task),
        }
    }
}
