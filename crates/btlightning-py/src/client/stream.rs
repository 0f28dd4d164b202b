//! Answers in chunks.

use btlightning::{CallError, StreamingResponse};
use bytes::Bytes;
use pyo3::{prelude::*, types::PyBytes};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::{
    bridge::{LoopBridge, Operation},
    errors,
    runtime::{self, Owned},
};

/// The chunks of an answer, as bytes. Dropping or closing it stops the miner's handler.
#[pyclass(frozen, module = "btlightning", name = "PyStreamingResponse")]
pub(crate) struct PyStreamingResponse {
    chunks: Owned<Chunks>,
}

struct Chunks {
    /// `None` after the end.
    response: Mutex<Option<StreamingResponse>>,
    closed: CancellationToken,
}

#[pymethods]
impl PyStreamingResponse {
    fn __iter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let chunk = runtime::block_on(py, self.chunks.next())?.map_err(errors::from_call)?;
        Ok(chunk.map(|bytes| PyBytes::new(py, &bytes)))
    }

    /// Gets the next chunk, or `None` at the end.
    fn next_async(&self, py: Python<'_>, bridge: &LoopBridge) -> PyResult<Operation> {
        let chunks = self.chunks.share();
        bridge.spawn(py, async move { chunks.next().await }, |py, chunk| {
            Ok(match chunk.map_err(errors::from_call)? {
                Some(bytes) => PyBytes::new(py, &bytes).into_any().unbind(),
                None => py.None(),
            })
        })
    }

    /// Stops the stream, and the miner's handler with it. What waits for a chunk sees the end.
    fn close(&self) -> PyResult<()> {
        runtime::runtime()?;
        self.chunks.closed.cancel();
        // Whoever holds the lock waits for a chunk: it sees the end and drops the stream itself.
        if let Ok(mut response) = self.chunks.response.try_lock() {
            *response = None;
        }
        Ok(())
    }
}

impl PyStreamingResponse {
    pub(super) fn new(response: StreamingResponse) -> Self {
        Self {
            chunks: Owned::new(Chunks {
                response: Mutex::new(Some(response)),
                closed: CancellationToken::new(),
            }),
        }
    }
}

impl Chunks {
    async fn next(&self) -> Result<Option<Bytes>, CallError> {
        let mut response = self.response.lock().await;
        let Some(stream) = response.as_mut() else {
            return Ok(None);
        };
        let chunk = tokio::select! {
            biased;
            () = self.closed.cancelled() => Ok(None),
            chunk = stream.next_bytes() => chunk,
        };
        if !matches!(chunk, Ok(Some(_))) {
            *response = None;
        }
        chunk
    }
}
