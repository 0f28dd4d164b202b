//! Chunks on their way from an async generator to the network.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use pyo3::{intern, prelude::*, sync::PyOnceLock};
use tokio::sync::Notify;

use super::callee;
use crate::bridge::LoopBridge;

/// A queue whose reader waits in Rust and whose writer waits in asyncio.
#[derive(Default)]
pub(super) struct ChunkQueue {
    state: Mutex<State>,
    filled: Notify,
}

#[derive(Default)]
struct State {
    chunks: VecDeque<Bytes>,
    /// The future that the writer awaits before it goes on.
    waiter: Option<Py<PyAny>>,
}

impl ChunkQueue {
    /// Waits for the next chunk. Cancel safe.
    pub(super) async fn next(&self, bridge: &Py<LoopBridge>) -> Bytes {
        loop {
            if let Some(chunk) = self.pop(bridge) {
                return chunk;
            }
            self.filled.notified().await;
        }
    }

    /// Takes a chunk if there is one, and has the writer go on when there is room.
    pub(super) fn pop(&self, bridge: &Py<LoopBridge>) -> Option<Bytes> {
        let mut state = self.lock();
        let chunk = state.chunks.pop_front();
        let waiter = if state.chunks.len() <= CHUNKS_AHEAD / 2 {
            state.waiter.take()
        } else {
            None
        };
        drop(state);
        if let Some(waiter) = waiter {
            bridge.get().post(move |py| {
                if let Err(error) = wake(waiter.bind(py)) {
                    callee::log(py, "cannot resume %s", "a stream", Some(&error));
                }
            });
        }
        chunk
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where the driver of an async generator puts its chunks.
#[pyclass(frozen, module = "btlightning")]
pub(super) struct ChunkWriter {
    queue: Arc<ChunkQueue>,
}

impl ChunkWriter {
    pub(super) fn new(queue: Arc<ChunkQueue>) -> Self {
        Self { queue }
    }
}

#[pymethods]
impl ChunkWriter {
    /// Sends a chunk. Returns a future to await before the next one, or `None` to go on at once.
    fn put<'py>(
        &self,
        py: Python<'py>,
        chunk: &Bound<'py, PyAny>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let chunk = callee::chunk(chunk)?;
        let full = {
            let mut state = self.queue.lock();
            state.chunks.push_back(chunk);
            state.chunks.len() >= CHUNKS_AHEAD
        };
        self.queue.filled.notify_one();
        if !full {
            return Ok(None);
        }
        // Made without the lock, since making an object may run any Python code.
        let waiter = create_future(py)?;
        let mut state = self.queue.lock();
        if state.chunks.len() <= CHUNKS_AHEAD / 2 {
            return Ok(None);
        }
        let previous = state.waiter.replace(waiter.clone().unbind());
        drop(state);
        drop(previous);
        Ok(Some(waiter))
    }
}

fn create_future(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    static RUNNING: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    RUNNING
        .import(py, "asyncio", "get_running_loop")?
        .call0()?
        .call_method0(intern!(py, "create_future"))
}

fn wake(waiter: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = waiter.py();
    // A writer that was cancelled no longer waits.
    if !waiter.call_method0(intern!(py, "done"))?.is_truthy()? {
        waiter.call_method1(intern!(py, "set_result"), (py.None(),))?;
    }
    Ok(())
}

/// Chunks that a generator may be ahead of the network.
const CHUNKS_AHEAD: usize = 8;
