//! One tokio task for all that a connection does.
//!
//! quinn gives each connection a driver task. Whatever reads and writes its streams runs in tasks
//! of its own, so that a packet wakes one task after the other: endpoint, driver, reader, caller.
//! On a multi-threaded runtime such a chain ends up on another worker as soon as it is a few tasks
//! long, and waking a worker that sleeps takes longer than all the work of a small request. A
//! [`TaskGroup`] runs the driver and what is closely tied to it in one task: within it, waking
//! means to be put into a queue.

use std::{
    any::Any,
    cell::RefCell,
    collections::VecDeque,
    fmt,
    future::Future,
    net::SocketAddr,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
};

use futures::{
    FutureExt,
    task::{ArcWake, waker_ref},
};
use quinn::{ConnectError, Connecting, ConnectionError, Endpoint, Incoming};
use slab::Slab;
use tokio::task::coop;

/// Futures that share one tokio task with a connection's driver, and end with them.
///
/// What is spawned here should never work for long at a time: it holds up the connection's
/// packets. A future that panics ends alone.
#[derive(Clone)]
pub struct TaskGroup {
    shared: Arc<Shared>,
}

impl TaskGroup {
    /// Runs a future in the connection's task; in a task of its own when the connection is over.
    ///
    /// Needs a running tokio runtime.
    pub fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        let future = future.boxed();
        let mut state = self.shared.lock();
        if state.over {
            drop(state);
            tokio::spawn(future);
            return;
        }
        let member = self.shared.admit(&mut state, future);
        drop(state);
        self.shared.push(member);
    }

    /// Lets the tasks that are ready now go first, before the group's next turn.
    ///
    /// To be called by a member while it is polled, when it has woken several tasks that will come
    /// back to the group: what they bring is then there at once.
    pub fn linger(&self) {
        self.shared.lock().lingers = true;
    }

    /// Starts the task of a group whose first member is `driver`.
    fn start(driver: Boxed, patience: u32) -> Self {
        let group = Self::new(false);
        group.spawn(driver);
        tokio::spawn(Run {
            shared: group.shared.clone(),
            patience,
        });
        group
    }

    /// A group without a connection: whatever is spawned gets a task of its own.
    fn over() -> Self {
        Self::new(true)
    }

    fn new(over: bool) -> Self {
        Self {
            shared: Arc::new(Shared {
                state: Mutex::new(State {
                    members: Slab::new(),
                    ready: VecDeque::new(),
                    polling: false,
                    // Until the task's first poll.
                    woken: true,
                    lingers: false,
                    over,
                    task: None,
                }),
            }),
        }
    }
}

impl fmt::Debug for TaskGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskGroup")
            .field("members", &self.shared.lock().members.len())
            .finish_non_exhaustive()
    }
}

/// Begins a connection and returns the group that its driver runs in.
///
/// The endpoint must be one of this crate's.
pub fn connect(
    endpoint: &Endpoint,
    addr: SocketAddr,
    server_name: &str,
) -> Result<(Connecting, TaskGroup), ConnectError> {
    let (connecting, group) = capture(|| endpoint.connect(addr, server_name));
    Ok((connecting?, group))
}

/// Accepts a connection and returns the group that its driver runs in.
///
/// The endpoint must be one of this crate's.
pub fn accept(incoming: Incoming) -> Result<(Connecting, TaskGroup), ConnectionError> {
    let (connecting, group) = capture(|| incoming.accept());
    Ok((connecting?, group))
}

/// Runs a driver: that of a connection in a group, which [`connect`] and [`accept`] return, and an
/// endpoint's in a task of its own.
pub(crate) fn start(driver: Boxed) {
    CAPTURE.with_borrow_mut(|capture| match capture {
        Some(begun) => *begun = Some(TaskGroup::start(driver, 0)),
        None => {
            TaskGroup::start(driver, ENDPOINT_PATIENCE);
        }
    });
}

/// quinn starts the driver within the call, on the same thread.
fn capture<T>(begin: impl FnOnce() -> T) -> (T, TaskGroup) {
    CAPTURE.set(Some(None));
    let result = begin();
    // None after an error, or on an endpoint that is not ours.
    let group = CAPTURE.take().flatten().unwrap_or_else(TaskGroup::over);
    (result, group)
}

thread_local! {
    /// While a connection is begun on this thread: where its group is to be put.
    static CAPTURE: RefCell<Option<Option<TaskGroup>>> = const { RefCell::new(None) };
}

type Boxed = Pin<Box<dyn Future<Output = ()> + Send>>;

struct Shared {
    state: Mutex<State>,
}

struct State {
    /// Those that have not ended.
    members: Slab<Arc<Member>>,
    /// Those to be polled.
    ready: VecDeque<Arc<Member>>,
    /// Whether the task is at work: it will find what is put into the queue.
    polling: bool,
    /// Whether the task was woken and has not begun.
    woken: bool,
    /// Whether to let others go first once there is nothing to do.
    lingers: bool,
    /// Whether the task has ended.
    over: bool,
    task: Option<Waker>,
}

struct Member {
    key: usize,
    /// None when it has ended.
    future: Mutex<Option<Boxed>>,
    /// Whether it is in the queue.
    queued: AtomicBool,
    group: Arc<Shared>,
}

impl Member {
    /// Polls the future once; says whether it has ended with this.
    fn poll(self: &Arc<Self>) -> bool {
        // Before the poll: a wake-up during it counts for the next one.
        self.queued.store(false, Ordering::SeqCst);
        let mut slot = self.future.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(future) = slot.as_mut() else {
            return false;
        };
        let waker = waker_ref(self);
        let mut cx = Context::from_waker(&waker);
        let poll = std::panic::catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(&mut cx)));
        if let Ok(Poll::Pending) = poll {
            return false;
        }
        if let Err(panic) = &poll {
            tracing::error!(
                panic = message(panic.as_ref()),
                "a connection's task panicked"
            );
        }
        *slot = None;
        true
    }
}

impl ArcWake for Member {
    fn wake_by_ref(this: &Arc<Self>) {
        if !this.queued.swap(true, Ordering::SeqCst) {
            this.group.push(this.clone());
        }
    }
}

impl Shared {
    /// Makes a member that is about to be queued.
    fn admit(self: &Arc<Self>, state: &mut State, future: Boxed) -> Arc<Member> {
        let entry = state.members.vacant_entry();
        let member = Arc::new(Member {
            key: entry.key(),
            future: Mutex::new(Some(future)),
            queued: AtomicBool::new(true),
            group: self.clone(),
        });
        entry.insert(member.clone());
        member
    }

    fn push(&self, member: Arc<Member>) {
        let mut state = self.lock();
        if state.over {
            return;
        }
        state.ready.push_back(member);
        if state.polling || state.woken {
            return;
        }
        state.woken = true;
        let task = state.task.clone();
        drop(state);
        if let Some(task) = task {
            task.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The group's task.
struct Run {
    shared: Arc<Shared>,
    /// How often a member may ask to go on before others get their turn.
    patience: u32,
}

impl Future for Run {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut patience = self.patience;
        let mut state = self.shared.lock();
        state.polling = true;
        state.woken = false;
        for _ in 0..POLLS_AT_A_TIME {
            let Some(member) = state.ready.pop_front() else {
                if std::mem::take(&mut state.lingers) {
                    break;
                }
                state.polling = false;
                if state.members.is_empty() {
                    state.over = true;
                    return Poll::Ready(());
                }
                if !state
                    .task
                    .as_ref()
                    .is_some_and(|task| task.will_wake(cx.waker()))
                {
                    state.task = Some(cx.waker().clone());
                }
                return Poll::Pending;
            };
            drop(state);
            let ended = member.poll();
            state = self.shared.lock();
            if ended {
                state.members.try_remove(member.key);
            }
            // Woken in its own poll, it wants others to go first.
            let yields = !ended && member.queued.load(Ordering::SeqCst);
            if yields && patience == 0 || !coop::has_budget_remaining() {
                break;
            }
            patience -= u32::from(yields);
        }
        // There is more to do, but others have waited long enough.
        state.polling = false;
        state.woken = true;
        drop(state);
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // With members left, this is the end of the runtime. They hold the group, which holds them.
        let mut state = self.shared.lock();
        state.over = true;
        let members = std::mem::take(&mut state.members);
        let ready = std::mem::take(&mut state.ready);
        drop(state);
        drop(ready);
        for (_, member) in members {
            let future = member
                .future
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
            drop(future);
        }
    }
}

fn message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

/// An endpoint stops reading packets after 50 µs, to let others have their turn, which has the
/// runtime wake an idle worker for them.
const ENDPOINT_PATIENCE: u32 = 8;

/// Polls before other tasks of the worker get their turn.
const POLLS_AT_A_TIME: usize = 64;

#[cfg(test)]
mod tests;
