//! One request to many miners.

use std::{future::ready, sync::Arc, time::Instant};

use btlightning::{
    LightningClient, Payload, QuicAxonInfo,
    client::{ManyAnswer, ManyOptions},
};
use futures::{FutureExt, Stream, StreamExt, stream, stream::BoxStream};
use pyo3::{prelude::*, types::PyList};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::answer::{self, Refusal};
use crate::{
    bridge::{LoopBridge, Operation},
    runtime::{self, Owned},
    values::Decode,
};

/// The answers to one request to many miners, as they come: pairs of the position of the axon and
/// the answer as a dict, or a `LightningError`. Dropping or closing it cancels what is in flight.
#[pyclass(frozen, module = "btlightning", name = "QueryMany")]
pub(crate) struct QueryMany {
    answers: Owned<Answers>,
    begun: Instant,
    decode: Decode,
}

struct Answers {
    /// `None` after the end.
    stream: Mutex<Option<BoxStream<'static, ManyAnswer>>>,
    closed: CancellationToken,
}

#[pymethods]
impl QueryMany {
    fn __iter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<(usize, Bound<'py, PyAny>)>> {
        let answer = runtime::block_on(py, self.answers.next())?;
        Ok(answer.map(|answer| to_pair(py, answer, self.begun, self.decode)))
    }

    /// Gets a list of the answers that have come, at least one, or `None` at the end.
    fn next_async(&self, py: Python<'_>, bridge: &LoopBridge) -> PyResult<Operation> {
        let answers = self.answers.share();
        let (begun, decode) = (self.begun, self.decode);
        bridge.spawn(
            py,
            async move { answers.next_batch().await },
            move |py, batch| {
                if batch.is_empty() {
                    return Ok(py.None());
                }
                let pairs = batch
                    .into_iter()
                    .map(|answer| to_pair(py, answer, begun, decode));
                Ok(PyList::new(py, pairs.collect::<Vec<_>>())?
                    .into_any()
                    .unbind())
            },
        )
    }

    /// Cancels what is in flight. What waits for an answer sees the end.
    fn close(&self) -> PyResult<()> {
        runtime::runtime()?;
        self.answers.closed.cancel();
        // Whoever holds the lock waits for an answer: it sees the end and cancels the rest itself.
        if let Ok(mut stream) = self.answers.stream.try_lock() {
            *stream = None;
        }
        Ok(())
    }
}

impl QueryMany {
    pub(super) fn new(
        answers: impl Stream<Item = ManyAnswer> + Send + 'static,
        decode: Decode,
    ) -> Self {
        Self {
            answers: Owned::new(Answers {
                stream: Mutex::new(Some(answers.boxed())),
                closed: CancellationToken::new(),
            }),
            begun: Instant::now(),
            decode,
        }
    }
}

impl Answers {
    async fn next(&self) -> Option<ManyAnswer> {
        let mut stream = self.stream.lock().await;
        let answer = tokio::select! {
            biased;
            () = self.closed.cancelled() => None,
            answer = stream.as_mut()?.next() => answer,
        };
        if answer.is_none() {
            *stream = None;
        }
        answer
    }

    async fn next_batch(&self) -> Vec<ManyAnswer> {
        let mut batch: Vec<_> = self.next().await.into_iter().collect();
        while !batch.is_empty()
            && let Some(Some(answer)) = self.next().now_or_never()
        {
            batch.push(answer);
        }
        batch
    }
}

/// Asks miners some of which need another form of the request: `plain` goes to those that may not
/// know the extension type of tensors, `data` to the others.
pub(super) fn with_versions(
    client: Arc<LightningClient>,
    axons: Vec<QuicAxonInfo>,
    synapse_type: String,
    data: Payload,
    plain: Payload,
    options: ManyOptions,
) -> impl Stream<Item = ManyAnswer> {
    let begun = Instant::now();
    let asked = stream::iter(axons.into_iter().enumerate())
        .map(move |(index, axon)| {
            let (client, synapse_type) = (client.clone(), synapse_type.clone());
            let (data, plain) = (data.clone(), plain.clone());
            async move {
                let left = |options: &ManyOptions| {
                    options
                        .deadline
                        .map(|deadline| deadline.saturating_sub(begun.elapsed()))
                };
                let version = client.version(&axon);
                let limit = [options.connect_timeout, left(&options)];
                let version = match limit.into_iter().flatten().min() {
                    Some(limit) => tokio::time::timeout(limit, version).await.ok(),
                    None => Some(version.await),
                };
                // What could not be found out by now gets the form that everybody understands.
                let data = match version {
                    Some(Ok(version)) if version.has_client_streams() => &data,
                    _ => &plain,
                };
                let mut options = options;
                options.deadline = left(&options);
                options.wanted = None;
                let mut answer = client
                    .query_many(vec![axon], &synapse_type, data, options)
                    .next()
                    .await?;
                answer.index = index;
                Some(answer)
            }
        })
        .buffer_unordered(options.concurrency.max(1))
        .filter_map(ready);
    let wanted = options.wanted.unwrap_or(usize::MAX);
    stream::unfold((asked.boxed(), 0), move |(mut asked, good)| async move {
        if good >= wanted {
            return None;
        }
        let answer = asked.next().await?;
        let good = good + usize::from(answer.result.is_ok());
        Some((answer, (asked, good)))
    })
}

fn to_pair(
    py: Python<'_>,
    answer: ManyAnswer,
    begun: Instant,
    decode: Decode,
) -> (usize, Bound<'_, PyAny>) {
    let content = match answer::to_dict(py, answer.result, begun, decode, Refusal::Raised) {
        Ok(dict) => dict.into_any(),
        Err(error) => error.into_value(py).into_bound(py).into_any(),
    };
    (answer.index, content)
}

/// Miners that are asked at a time unless told otherwise.
pub(super) const CONCURRENCY: usize = btlightning::client::DEFAULT_FAN_OUT;
