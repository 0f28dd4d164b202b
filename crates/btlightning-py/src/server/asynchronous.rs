//! Handlers that run on an asyncio loop.
//!
//! A request is posted to the loop's thread, where the handler's coroutine becomes a task; when
//! the task is done, its callback completes the request. A request that is given up posts the
//! cancellation of its task.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use btlightning::{
    ChunkSink, ChunkStream, LightningError, Payload, RequestContext, RequestHandler, StreamHandler,
};
use pyo3::{intern, prelude::*, sync::PyOnceLock, types::PyType};
use tokio::sync::oneshot;

use super::{
    callee::{self, Callee},
    chunks::{ChunkQueue, ChunkWriter},
};
use crate::bridge::LoopBridge;

/// An async function from a request to its answer.
pub(super) struct Coroutine {
    callee: Arc<Callee>,
    bridge: Arc<Py<LoopBridge>>,
}

impl Coroutine {
    pub(super) fn new(callee: Callee, bridge: Py<LoopBridge>) -> Arc<Self> {
        Arc::new(Self {
            callee: Arc::new(callee),
            bridge: Arc::new(bridge),
        })
    }
}

#[async_trait]
impl RequestHandler for Coroutine {
    async fn handle(&self, context: RequestContext, data: Payload) -> btlightning::Result<Payload> {
        let callee = self.callee.clone();
        let answered = context.clone();
        let call = Call::start(&self.bridge, context, Outcome::Answer, move |py| {
            callee.call(py, &answered, &data)
        });
        call.result().await
    }
}

/// An async generator function from a request to chunks.
pub(super) struct AsyncIterated {
    callee: Arc<Callee>,
    bridge: Arc<Py<LoopBridge>>,
}

impl AsyncIterated {
    pub(super) fn new(callee: Callee, bridge: Py<LoopBridge>) -> Arc<Self> {
        Arc::new(Self {
            callee: Arc::new(callee),
            bridge: Arc::new(bridge),
        })
    }
}

#[async_trait]
impl StreamHandler for AsyncIterated {
    async fn handle(
        &self,
        context: RequestContext,
        data: Payload,
        _input: ChunkStream,
        output: &mut ChunkSink,
    ) -> btlightning::Result<Payload> {
        let queue = Arc::new(ChunkQueue::default());
        let writer = ChunkWriter::new(queue.clone());
        let callee = self.callee.clone();
        let served = context.clone();
        let mut call = Call::start(&self.bridge, context, Outcome::Nothing, move |py| {
            let stream = callee.call(py, &served, &data)?;
            drive(&stream, writer)
                .map_err(|error| callee::failure(py, served.synapse_type(), &error))
        });
        loop {
            tokio::select! {
                biased;
                chunk = queue.next(&self.bridge) => output.send(chunk).await?,
                result = call.finished() => {
                    // What came before the end, or before the failure, goes out before it.
                    while let Some(chunk) = queue.pop(&self.bridge) {
                        output.send(chunk).await?;
                    }
                    return result;
                }
            }
        }
    }
}

/// Makes the coroutine that takes chunks from an async generator.
fn drive<'py>(stream: &Bound<'py, PyAny>, writer: ChunkWriter) -> PyResult<Bound<'py, PyAny>> {
    static DRIVE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = stream.py();
    let put = Bound::new(py, writer)?.getattr(intern!(py, "put"))?;
    DRIVE
        .import(py, "btlightning._drive", "drive")?
        .call1((stream, put))
}

/// One request on a loop; the task is cancelled when this is dropped before the task is done.
struct Call {
    bridge: Arc<Py<LoopBridge>>,
    task: Arc<TaskSlot>,
    result: oneshot::Receiver<btlightning::Result<Payload>>,
    finished: bool,
}

impl Call {
    /// Has the loop's thread make a coroutine and run it as a task.
    fn start(
        bridge: &Arc<Py<LoopBridge>>,
        context: RequestContext,
        outcome: Outcome,
        coroutine: impl FnOnce(Python<'_>) -> btlightning::Result<Bound<'_, PyAny>> + Send + 'static,
    ) -> Self {
        let (sender, result) = oneshot::channel();
        let task = Arc::new(TaskSlot::default());
        let slot = task.clone();
        bridge.get().post(move |py| {
            // Given up before its turn came.
            if sender.is_closed() {
                return;
            }
            let synapse_type = context.synapse_type().to_owned();
            let started = coroutine(py).and_then(|coroutine| {
                let task = create_task(&coroutine)
                    .map_err(|error| callee::failure(py, &synapse_type, &error))?;
                Ok(task)
            });
            let task = match started {
                Ok(task) => task,
                Err(error) => {
                    let _ = sender.send(Err(error));
                    return;
                }
            };
            slot.set(Some(task.clone().unbind()));
            let done = Done {
                pending: Mutex::new(Some(Pending { sender, context })),
                outcome,
                task: slot,
            };
            if let Err(error) = task.call_method1(intern!(py, "add_done_callback"), (done,)) {
                callee::log(
                    py,
                    "cannot watch the handler of %r",
                    &synapse_type,
                    Some(&error),
                );
            }
        });
        Self {
            bridge: bridge.clone(),
            task,
            result,
            finished: false,
        }
    }

    async fn result(mut self) -> btlightning::Result<Payload> {
        self.finished().await
    }

    /// Waits for the task. Cancel safe; not to be called again once it has returned.
    async fn finished(&mut self) -> btlightning::Result<Payload> {
        let result = (&mut self.result).await;
        self.finished = true;
        result.unwrap_or_else(|_| Err(LightningError::handler("the handler's loop is closed")))
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        let task = self.task.clone();
        // Behind the start in the queue, so that the task is there if it will ever be.
        self.bridge.get().post(move |py| {
            if let Some(task) = task.get(py)
                && let Err(error) = task.bind(py).call_method0(intern!(py, "cancel"))
            {
                callee::log(py, "cannot cancel %s", "a handler's task", Some(&error));
            }
        });
    }
}

/// What the result of a task stands for.
#[derive(Clone, Copy)]
enum Outcome {
    /// The answer.
    Answer,
    /// Nothing: the chunks were the answer.
    Nothing,
}

/// The callback of a handler's task.
#[pyclass(frozen, module = "btlightning")]
struct Done {
    pending: Mutex<Option<Pending>>,
    outcome: Outcome,
    task: Arc<TaskSlot>,
}

struct Pending {
    sender: oneshot::Sender<btlightning::Result<Payload>>,
    context: RequestContext,
}

#[pymethods]
impl Done {
    fn __call__(&self, py: Python<'_>, task: &Bound<'_, PyAny>) {
        drop(self.task.set(None));
        let pending = self
            .pending
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(Pending { sender, context }) = pending else {
            return;
        };
        let result = match task.call_method0(intern!(py, "result")) {
            Ok(result) => match self.outcome {
                Outcome::Answer => callee::answer(&result, &context),
                Outcome::Nothing => Ok(Payload::empty()),
            },
            // By whoever gave up, or by a loop that ends: neither is the handler's failure.
            Err(error) if is_cancellation(py, &error) => {
                Err(LightningError::handler("the handler was cancelled"))
            }
            Err(error) => Err(callee::failure(py, context.synapse_type(), &error)),
        };
        let _ = sender.send(result);
    }
}

/// Keeps a task alive until it is done, since a loop holds its tasks weakly; and lets it be
/// cancelled. Used in the loop's thread only.
#[derive(Default)]
struct TaskSlot(Mutex<Option<Py<PyAny>>>);

impl TaskSlot {
    /// Returns what was there, to be dropped where no lock is held.
    fn set(&self, task: Option<Py<PyAny>>) -> Option<Py<PyAny>> {
        std::mem::replace(
            &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner),
            task,
        )
    }

    fn get(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        let task = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        task.as_ref().map(|task| task.clone_ref(py))
    }
}

/// Runs a coroutine, or whatever else can be awaited, as a task of the running loop.
fn create_task<'py>(awaitable: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    static COROUTINE: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    static RUNNING: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    static ENSURE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = awaitable.py();
    if awaitable.is_exact_instance(COROUTINE.import(py, "types", "CoroutineType")?) {
        let running = RUNNING.import(py, "asyncio", "get_running_loop")?.call0()?;
        return running.call_method1(intern!(py, "create_task"), (awaitable,));
    }
    ENSURE
        .import(py, "asyncio", "ensure_future")?
        .call1((awaitable,))
}

fn is_cancellation(py: Python<'_>, error: &PyErr) -> bool {
    static CANCELLED: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    CANCELLED
        .import(py, "asyncio", "CancelledError")
        .is_ok_and(|cancelled| error.is_instance(py, cancelled))
}
