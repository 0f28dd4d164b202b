//! Results and requests into an asyncio loop, in batches.
//!
//! I/O threads put events into a queue; the first one into an empty queue writes a byte to a pipe
//! that the loop watches. The loop then takes all events there are at once, so that under load
//! neither a system call nor a hold of the GIL is paid for each of them.

use std::{
    future::Future,
    io::{self, Read, Write},
    os::fd::{AsRawFd, RawFd},
    sync::{
        Arc, Mutex, MutexGuard, Once, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use pyo3::{
    exceptions::PyOSError,
    gc::{PyTraverseError, PyVisit},
    intern,
    prelude::*,
    types::PyDict,
};
use tokio::task::AbortHandle;

use crate::runtime;

/// Carries results and requests from the I/O threads into one asyncio loop, in batches.
///
/// To be made in the loop's thread.
#[pyclass(frozen, module = "btlightning", name = "LoopBridge")]
pub(crate) struct LoopBridge {
    target: Py<PyAny>,
    create_future: Py<PyAny>,
    shared: Arc<Shared>,
    /// Whether the loop runs where Python handles signals.
    in_main_thread: bool,
    ticking: Once,
}

/// One asynchronous operation; `cancel` stops it here and at the peer.
#[pyclass(frozen, module = "btlightning", name = "Operation")]
pub(crate) struct Operation {
    /// Gets the result, in the loop's thread.
    #[pyo3(get)]
    future: Py<PyAny>,
    task: AbortHandle,
}

#[pymethods]
impl LoopBridge {
    #[new]
    fn new(r#loop: &Bound<'_, PyAny>) -> PyResult<Self> {
        let create_future = r#loop.getattr("create_future")?.unbind();
        let shared = Shared::new()
            .map_err(|e| PyOSError::new_err(format!("cannot make a wake-up pipe: {e}")))?;
        Ok(Self {
            target: r#loop.clone().unbind(),
            create_future,
            shared: Arc::new(shared),
            in_main_thread: runtime::is_main_thread(r#loop.py())?,
            ticking: Once::new(),
        })
    }

    /// Returns the descriptor that is readable when `drain` has something to do.
    fn fileno(&self) -> RawFd {
        self.shared.reader.as_raw_fd()
    }

    /// Handles all events there are. To be called in the loop's thread.
    fn drain(&self, py: Python<'_>) {
        let events = self.shared.take();
        // What has just been ended shall not fill the terminal with tracebacks.
        if runtime::is_left_behind(py) {
            return;
        }
        for event in events {
            if let Err(error) = event.handle(py) {
                self.report(py, error);
            }
        }
    }

    /// Drops all events, now and from now on.
    fn close(&self) {
        let left = {
            let mut queue = self.shared.queue();
            queue.closed = true;
            std::mem::take(&mut queue.events)
        };
        // Dropped without the lock: this may run Python code.
        drop(left);
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.target)?;
        visit.call(&self.create_future)
    }
}

#[pymethods]
impl Operation {
    /// Stops the operation; its future gets no result any more, unless it has one already.
    fn cancel(&self) {
        if !runtime::is_forked() {
            self.task.abort();
        }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.future)
    }
}

impl LoopBridge {
    /// Runs a future on the I/O threads and gives what `convert` makes of its output to an asyncio
    /// future, both in the loop's thread.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        py: Python<'_>,
        future: impl Future<Output = T> + Send + 'static,
        convert: impl FnOnce(Python<'_>, T) -> PyResult<Py<PyAny>> + Send + 'static,
    ) -> PyResult<Operation> {
        let runtime = runtime::runtime()?;
        let result = self.create_future.call0(py)?;
        let target = result.clone_ref(py);
        if self.in_main_thread {
            self.ticking.call_once(|| {
                runtime.spawn(tick(Arc::downgrade(&self.shared)));
            });
        }
        let pending = Pending::new(&self.shared);
        let task = runtime.spawn(async move {
            let output = future.await;
            pending.shared.push(Event::Result {
                target,
                convert: Box::new(move |py| convert(py, output)),
            });
        });
        Ok(Operation {
            future: result,
            task: task.abort_handle(),
        })
    }

    /// Runs a closure in the loop's thread, soon.
    pub(crate) fn post(&self, call: impl FnOnce(Python<'_>) + Send + 'static) {
        self.shared.push(Event::Call(Box::new(call)));
    }

    /// Tells the loop's exception handler of an error that has nowhere else to go.
    fn report(&self, py: Python<'_>, error: PyErr) {
        let told = (|| {
            let context = PyDict::new(py);
            context.set_item("message", "btlightning could not deliver a result")?;
            context.set_item("exception", error.value(py))?;
            self.target
                .call_method1(py, "call_exception_handler", (context,))
        })();
        if let Err(second) = told {
            second.write_unraisable(py, Some(self.target.bind(py)));
        }
    }
}

/// What the I/O threads know of a bridge.
struct Shared {
    queue: Mutex<Queue>,
    pending: AtomicUsize,
    reader: io::PipeReader,
    writer: io::PipeWriter,
}

/// An operation that is not over, one way or the other.
struct Pending {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Queue {
    events: Vec<Event>,
    closed: bool,
}

enum Event {
    Result {
        target: Py<PyAny>,
        convert: Box<Convert>,
    },
    Call(Box<dyn FnOnce(Python<'_>) + Send>),
}

/// Makes the Python value of a result.
type Convert = dyn FnOnce(Python<'_>) -> PyResult<Py<PyAny>> + Send;

impl Shared {
    fn new() -> io::Result<Self> {
        let (reader, writer) = io::pipe()?;
        rustix::io::ioctl_fionbio(&reader, true)?;
        rustix::io::ioctl_fionbio(&writer, true)?;
        Ok(Self {
            queue: Mutex::default(),
            pending: AtomicUsize::new(0),
            reader,
            writer,
        })
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, event: Event) {
        let mut queue = self.queue();
        if queue.closed {
            drop(queue);
            drop(event);
            return;
        }
        let was_empty = queue.events.is_empty();
        queue.events.push(event);
        drop(queue);
        if was_empty {
            self.wake();
        }
    }

    fn wake(&self) {
        // A pipe that is full is readable, which is all that matters.
        let _ = (&self.writer).write(&[1]);
    }

    /// Takes all events. The pipe is emptied first: a byte that is written in between is then
    /// found by the next call.
    fn take(&self) -> Vec<Event> {
        let mut bytes = [0; 64];
        while matches!((&self.reader).read(&mut bytes), Ok(n) if n == bytes.len()) {}
        std::mem::take(&mut self.queue().events)
    }
}

impl Pending {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.pending.fetch_add(1, Ordering::Relaxed);
        Self {
            shared: shared.clone(),
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.shared.pending.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Wakes the loop now and then while it waits for operations.
///
/// Python only notes a signal when it comes and handles it later. One that comes in the instant
/// before the loop begins to wait is not handled until something wakes the loop: without this,
/// about one Ctrl-C in a hundred right after a start was not heard.
async fn tick(shared: Weak<Shared>) {
    loop {
        tokio::time::sleep(SIGNAL_INTERVAL).await;
        let Some(shared) = shared.upgrade().filter(|shared| !shared.queue().closed) else {
            return;
        };
        if shared.pending.load(Ordering::Relaxed) > 0 {
            shared.wake();
        }
    }
}

impl Event {
    fn handle(self, py: Python<'_>) -> PyResult<()> {
        match self {
            Self::Call(call) => {
                call(py);
                Ok(())
            }
            Self::Result { target, convert } => {
                let target = target.into_bound(py);
                // Cancelled, or its loop gone: nobody waits for the result.
                if target.call_method0(intern!(py, "done"))?.is_truthy()? {
                    return Ok(());
                }
                match convert(py) {
                    Ok(value) => target.call_method1(intern!(py, "set_result"), (value,))?,
                    Err(error) => target
                        .call_method1(intern!(py, "set_exception"), (error.into_value(py),))?,
                };
                Ok(())
            }
        }
    }
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<LoopBridge>()?;
    module.add_class::<Operation>()
}

/// How long Ctrl-C may go unnoticed.
const SIGNAL_INTERVAL: Duration = Duration::from_millis(500);
