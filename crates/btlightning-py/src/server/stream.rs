//! Streaming handlers that are plain functions: each call iterates on a thread of its own.

use std::sync::Arc;

use async_trait::async_trait;
use btlightning::{ChunkSink, ChunkStream, LightningError, Payload, RequestContext, StreamHandler};
use bytes::Bytes;
use pyo3::{exceptions::PyTypeError, prelude::*, types::PyTuple};
use tokio::sync::{
    Semaphore,
    mpsc::{self, error::TrySendError},
    oneshot,
};

use super::{
    blocking::finalized,
    callee::{self, Callee},
    thread,
};

/// A function from a request to an iterable of chunks: a generator function as a rule.
pub(super) struct Iterated {
    callee: Arc<Callee>,
}

impl Iterated {
    pub(super) fn new(callee: Callee) -> Arc<Self> {
        Arc::new(Self {
            callee: Arc::new(callee),
        })
    }
}

#[async_trait]
impl StreamHandler for Iterated {
    async fn handle(
        &self,
        context: RequestContext,
        data: Payload,
        _input: ChunkStream,
        output: &mut ChunkSink,
    ) -> btlightning::Result<Payload> {
        let permit = THREADS.acquire().await.map_err(LightningError::handler)?;
        let (sender, mut chunks) = mpsc::channel(CHUNKS_AHEAD);
        let (done, result) = oneshot::channel();
        let run = Iteration {
            callee: self.callee.clone(),
            context,
            sender,
        };
        std::thread::Builder::new()
            .name("lightning-stream".into())
            .spawn(move || {
                // Held by the thread, not by the call: a generator that the caller has given up
                // still occupies it.
                let _permit = permit;
                let result = Python::try_attach(|py| run.run(py, &data));
                // A caller that has given up waits for no result.
                let _ = done.send(result.unwrap_or_else(|| Err(finalized())));
            })
            .map_err(LightningError::handler)?;
        // The thread sees the channel closed when this returns early or is dropped.
        while let Some(chunk) = chunks.recv().await {
            output.send(chunk).await?;
        }
        result
            .await
            .unwrap_or_else(|_| Err(LightningError::handler("the handler's thread panicked")))
            .map(|()| Payload::empty())
    }
}

/// One call, on its thread.
struct Iteration {
    callee: Arc<Callee>,
    context: RequestContext,
    sender: mpsc::Sender<Bytes>,
}

impl Iteration {
    fn run(self, py: Python<'_>, data: &Payload) -> btlightning::Result<()> {
        let result = self.callee.call(py, &self.context, data)?;
        self.send_all(&result)
            .map_err(|error| callee::failure(py, self.context.synapse_type(), &error))
    }

    fn send_all(&self, iterable: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = iterable.py();
        let Ok(iterator) = iterable.try_iter() else {
            return Err(PyTypeError::new_err(format!(
                "a streaming handler returns an iterable of chunks, not {}",
                iterable.get_type().name()?
            )));
        };
        let iterator = iterator.into_any();
        while let Some(item) = thread::next(&iterator)? {
            let sent = callee::chunk(&item).map(|chunk| {
                match self.sender.try_send(chunk) {
                    Ok(()) => true,
                    Err(TrySendError::Closed(_)) => false,
                    // The caller is slow to read, or the network slow to carry.
                    Err(TrySendError::Full(chunk)) => {
                        py.detach(|| self.sender.blocking_send(chunk).is_ok())
                    }
                }
            });
            match sent {
                Ok(true) => {}
                Ok(false) => return close(&iterator),
                Err(error) => {
                    close(&iterator)?;
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}

/// Closes a generator that nobody asks for more, so that its `finally` blocks run now.
fn close(iterator: &Bound<'_, PyAny>) -> PyResult<()> {
    match iterator.getattr_opt("close")? {
        Some(close) => thread::call(&close, &PyTuple::empty(iterator.py())).map(drop),
        None => Ok(()),
    }
}

/// Chunks that a generator may be ahead of the network.
const CHUNKS_AHEAD: usize = 8;

/// Threads for streams, over all servers; further streams wait, as their deadlines allow.
static THREADS: Semaphore = Semaphore::const_new(512);
