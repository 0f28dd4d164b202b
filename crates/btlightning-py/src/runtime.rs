//! The I/O threads, and waiting for them without the GIL.
//!
//! There is one tokio runtime in a process, made when it is first needed. A call that blocks polls
//! its future on the thread that made it: the answer wakes that thread straight away, with no task
//! in between.

use std::{
    cell::Cell,
    future::Future,
    mem,
    ops::Deref,
    pin::{Pin, pin},
    process,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::Duration,
};

use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use pyo3::{exceptions::PyRuntimeError, prelude::*};
use tokio::runtime::{Builder, Runtime};

/// What is brought to an end when the interpreter exits, if it still lives then.
pub(crate) trait EndAtExit: Send + Sync {
    /// Ends it. Waited for, with all the others, for at most a second.
    fn end(self: Arc<Self>) -> BoxFuture<'static, ()>;
}

/// Returns the runtime of this process, which it makes first if there is none.
///
/// # Errors
///
/// A `RuntimeError` in a forked child of a process that had made one: the threads are not there.
pub(crate) fn runtime() -> PyResult<&'static Runtime> {
    let process = match PROCESS.get() {
        Some(process) => process,
        None => start()?,
    };
    if process.pid != process::id() {
        return Err(PyRuntimeError::new_err(
            "btlightning cannot be used in a forked child of a process that used it; \
             use the spawn start method",
        ));
    }
    Ok(&process.runtime)
}

/// Whether this process is a forked child of the one that made the runtime.
///
/// What hangs on the runtime must not be touched there, not even to drop it: the I/O threads may
/// have held its locks when the process was forked.
pub(crate) fn is_forked() -> bool {
    PROCESS
        .get()
        .is_some_and(|process| process.pid != process::id())
}

/// Shared ownership of something with connections, which a forked child leaks rather than drops.
pub(crate) struct Owned<T>(Arc<T>);

impl<T> Owned<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Arc::new(value))
    }

    /// Returns the value to share with what runs on the I/O threads.
    pub(crate) fn share(&self) -> Arc<T> {
        self.0.clone()
    }
}

impl<T> Deref for Owned<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        if is_forked() {
            mem::forget(self.0.clone());
        }
    }
}

/// Waits for a future on this thread, without the GIL.
///
/// On Python's main thread, signal handlers run while it waits: what one raises, such as
/// `KeyboardInterrupt`, drops the future.
pub(crate) fn block_on<F>(py: Python<'_>, future: F) -> PyResult<F::Output>
where
    F: Future + Send,
    F::Output: Send,
{
    let runtime = runtime()?;
    let is_main = is_main_thread(py)?;
    py.detach(|| {
        let output = wait(runtime, future, is_main);
        if !is_main && EXITING.load(Ordering::Relaxed) {
            // Only daemon threads are left, and what they waited for has just been ended: they
            // shall not fill the terminal with tracebacks of it while the process goes away.
            thread::sleep(EXIT_LIMIT);
        }
        output
    })
}

/// Whether this is a daemon thread of an interpreter that exits, where nobody waits for results.
pub(crate) fn is_left_behind(py: Python<'_>) -> bool {
    EXITING.load(Ordering::Relaxed) && !is_main_thread(py).unwrap_or(false)
}

/// Has `what` brought to an end when the interpreter exits.
pub(crate) fn end_at_exit(what: Weak<dyn EndAtExit>) {
    let mut live = live();
    live.retain(|other| other.strong_count() > 0);
    live.push(what);
}

/// Registers what runs when the interpreter exits.
pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let end = wrap_pyfunction!(end_all, module)?;
    module
        .py()
        .import("atexit")?
        .call_method1("register", (end,))?;
    Ok(())
}

/// Ends what still runs, so that the I/O threads have no reason to call Python any more.
#[pyfunction]
fn end_all(py: Python<'_>) -> PyResult<()> {
    let Some(process) = PROCESS.get().filter(|process| process.pid == process::id()) else {
        return Ok(());
    };
    EXITING.store(true, Ordering::Relaxed);
    let ends: FuturesUnordered<_> = live()
        .drain(..)
        .filter_map(|what| what.upgrade())
        .map(EndAtExit::end)
        .collect();
    if ends.is_empty() {
        return Ok(());
    }
    py.detach(|| {
        let all = async { tokio::time::timeout(EXIT_LIMIT, ends.collect::<()>()).await };
        // Whatever has not ended by now ends with the process.
        let _ = wait(&process.runtime, all, false);
    });
    Ok(())
}

fn start() -> PyResult<&'static Process> {
    static STARTING: Mutex<()> = Mutex::new(());
    let _starting = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(process) = PROCESS.get() {
        return Ok(process);
    }
    let cores = thread::available_parallelism().map_or(2, usize::from);
    let runtime = Builder::new_multi_thread()
        .worker_threads(cores.clamp(2, MAX_IO_THREADS))
        .thread_name("btlightning-io")
        .enable_all()
        .build()
        .map_err(|e| PyRuntimeError::new_err(format!("cannot start the I/O threads: {e}")))?;
    Ok(PROCESS.get_or_init(|| Process {
        pid: process::id(),
        runtime,
    }))
}

fn wait<F: Future>(runtime: &Runtime, future: F, signals: bool) -> PyResult<F::Output> {
    let _context = runtime.enter();
    let mut future = pin!(future);
    PARKER.with(|parker| {
        let mut context = Context::from_waker(&parker.waker);
        loop {
            if let Poll::Ready(output) = Pin::as_mut(&mut future).poll(&mut context) {
                return Ok(output);
            }
            if signals {
                while !parker.unparker.park_for(SIGNAL_INTERVAL) {
                    Python::attach(|py| py.check_signals())?;
                }
            } else {
                parker.unparker.park();
            }
        }
    })
}

/// Whether this is the thread in which Python runs signal handlers.
pub(crate) fn is_main_thread(py: Python<'_>) -> PyResult<bool> {
    if let Some(known) = IS_MAIN.get() {
        return Ok(known);
    }
    let threading = py.import("threading")?;
    let main = threading.call_method0("main_thread")?.getattr("ident")?;
    let is_main = main.eq(threading.call_method0("get_ident")?)?;
    IS_MAIN.set(Some(is_main));
    Ok(is_main)
}

fn live() -> MutexGuard<'static, Vec<Weak<dyn EndAtExit>>> {
    LIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Process {
    pid: u32,
    runtime: Runtime,
}

/// A thread that waits, with the waker that wakes it.
struct Parker {
    unparker: Arc<Unparker>,
    waker: Waker,
}

struct Unparker {
    thread: Thread,
    woken: AtomicBool,
}

impl Parker {
    fn current() -> Self {
        let unparker = Arc::new(Unparker {
            thread: thread::current(),
            woken: AtomicBool::new(false),
        });
        Self {
            waker: Waker::from(unparker.clone()),
            unparker,
        }
    }
}

impl Unparker {
    /// Waits until woken.
    fn park(&self) {
        while !self.woken.swap(false, Ordering::Acquire) {
            thread::park();
        }
    }

    /// Waits until woken, for about this long at most, and returns whether it was.
    fn park_for(&self, limit: Duration) -> bool {
        if !self.woken.load(Ordering::Acquire) {
            thread::park_timeout(limit);
        }
        self.woken.swap(false, Ordering::Acquire)
    }
}

impl Wake for Unparker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.woken.swap(true, Ordering::Release) {
            self.thread.unpark();
        }
    }
}

static PROCESS: OnceLock<Process> = OnceLock::new();
/// Whether the interpreter has begun to exit.
static EXITING: AtomicBool = AtomicBool::new(false);
static LIVE: Mutex<Vec<Weak<dyn EndAtExit>>> = Mutex::new(Vec::new());

thread_local! {
    /// A waker that fires late, for a future that is gone, costs the next one a needless poll.
    static PARKER: Parker = Parker::current();
    static IS_MAIN: Cell<Option<bool>> = const { Cell::new(None) };
}

/// More threads than this only pass packets around among themselves.
const MAX_IO_THREADS: usize = 4;
/// How long Ctrl-C may go unnoticed.
const SIGNAL_INTERVAL: Duration = Duration::from_millis(50);
/// How long the interpreter's exit may be held up.
const EXIT_LIMIT: Duration = Duration::from_secs(1);
