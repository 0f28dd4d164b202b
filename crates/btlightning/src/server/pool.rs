//! Threads for handlers that may block.
//!
//! Handing a job over costs a lock and, when a thread has to be woken, one wake-up: a thread that
//! has taken a job wakes the next one if there are more, so that a burst of short jobs is worked
//! off by the threads that are awake already, and a burst of long ones still gets a thread each.

use std::{
    collections::VecDeque,
    panic::AssertUnwindSafe,
    sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use tokio::{runtime::Handle, sync::oneshot};

/// Runs a job on a thread that may block, with `runtime` as its tokio context.
pub(super) fn run(runtime: Handle, job: impl FnOnce() + Send + 'static) {
    pool().push(Box::new(move || {
        let _context = runtime.enter();
        job();
    }));
}

/// Like [`run`], for a job with a result; a job that panics drops the sender, and one whose
/// receiver was dropped before there was a thread for it does not run.
pub(super) fn spawn<T: Send + 'static>(
    runtime: Handle,
    job: impl FnOnce() -> T + Send + 'static,
) -> oneshot::Receiver<T> {
    let (sender, receiver) = oneshot::channel();
    run(runtime, move || {
        if sender.is_closed() {
            return;
        }
        // Nobody waits any more: the handler ran for nothing.
        let _ = sender.send(job());
    });
    receiver
}

/// Has the threads for blocking handlers work within `wrapper`: it is called when a thread has been
/// woken, and has to call its argument once, which runs the handlers that wait.
///
/// For the process, and for handlers that need something which is costly to get: a lock of an
/// interpreter is then taken once for several handlers, and while one thread waits for it, no other
/// is woken. Only the first call counts.
pub fn wrap_handler_threads(wrapper: fn(&mut dyn FnMut())) {
    let _ = WRAPPER.set(wrapper);
}

static WRAPPER: OnceLock<fn(&mut dyn FnMut())> = OnceLock::new();

fn around(work: &mut dyn FnMut()) {
    match WRAPPER.get() {
        Some(wrapper) => wrapper(work),
        None => work(),
    }
}

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Pool {
    state: Mutex<State>,
    work: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Job>,
    threads: usize,
    /// Threads that wait for a job.
    idle: usize,
    /// Whether a thread was woken or started that has not taken a job yet.
    waking: bool,
}

fn pool() -> &'static Pool {
    static POOL: OnceLock<Pool> = OnceLock::new();
    POOL.get_or_init(Pool::default)
}

impl Pool {
    fn push(&'static self, job: Job) {
        let mut state = self.lock();
        state.queue.push_back(job);
        self.wake_one(&mut state);
    }

    /// Sees to it that somebody comes for the queue's first job.
    fn wake_one(&'static self, state: &mut State) {
        if state.waking || state.queue.is_empty() {
            return;
        }
        if state.idle > 0 {
            state.waking = true;
            self.work.notify_one();
        } else if state.threads < MAX_THREADS {
            let started = std::thread::Builder::new()
                .name("lightning-handler".into())
                .spawn(move || self.work());
            match started {
                Ok(_) => {
                    state.waking = true;
                    state.threads += 1;
                }
                // The job waits for a thread that is busy now; with none, it waits for the next try.
                Err(error) => {
                    tracing::error!(%error, "cannot start a thread for blocking handlers")
                }
            }
        }
    }

    fn work(&'static self) {
        loop {
            around(&mut || self.drain());
            if !self.wait() {
                return;
            }
        }
    }

    /// Works the queue off.
    fn drain(&'static self) {
        let mut state = self.lock();
        // The thread that was woken or started is here.
        state.waking = false;
        while let Some(job) = state.queue.pop_front() {
            self.wake_one(&mut state);
            drop(state);
            // Handlers are caught where they are called; this is for our own code.
            if std::panic::catch_unwind(AssertUnwindSafe(job)).is_err() {
                tracing::error!("a job for a blocking handler panicked");
            }
            state = self.lock();
        }
    }

    /// Waits until woken; false when there was nothing to do for so long that the thread shall end.
    fn wait(&self) -> bool {
        let mut state = self.lock();
        if !state.queue.is_empty() {
            state.waking = true;
            return true;
        }
        state.idle += 1;
        let (mut state, timeout) = self
            .work
            .wait_timeout(state, KEEP_ALIVE)
            .unwrap_or_else(PoisonError::into_inner);
        state.idle -= 1;
        let ends = timeout.timed_out() && state.queue.is_empty();
        // Nobody needs to be woken while this thread is on its way to the queue; and if it ends,
        // a wake-up that was meant for it must not be waited for.
        state.waking = !ends;
        state.threads -= usize::from(ends);
        !ends
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// As many as tokio's own pool for blocking work.
const MAX_THREADS: usize = 512;

/// How long a thread without work stays.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Barrier, mpsc};

    use super::*;

    #[tokio::test]
    async fn jobs_that_wait_for_each_other_all_get_a_thread() {
        let barrier = Arc::new(Barrier::new(64));
        let jobs: Vec<_> = (0..64)
            .map(|n| {
                let barrier = barrier.clone();
                spawn(Handle::current(), move || {
                    barrier.wait();
                    n
                })
            })
            .collect();
        for (n, job) in jobs.into_iter().enumerate() {
            assert_eq!(job.await.unwrap(), n);
        }
    }

    #[tokio::test]
    async fn a_panic_ends_one_job_only() {
        let failed = spawn(Handle::current(), || -> () { panic!("on purpose") });
        assert!(failed.await.is_err());
        assert_eq!(spawn(Handle::current(), || 5).await.unwrap(), 5);
    }

    #[tokio::test]
    async fn jobs_have_the_runtime_at_hand() {
        let inside = spawn(Handle::current(), || {
            Handle::current().block_on(async { 7 })
        });
        assert_eq!(inside.await.unwrap(), 7);
    }

    /// A thread that is woken for a job which another one takes first must not be waited for.
    #[tokio::test]
    async fn jobs_that_follow_each_other_closely_are_not_forgotten() {
        for round in 0..20_000u32 {
            let jobs = [round, round + 1].map(|n| spawn(Handle::current(), move || n));
            for (n, job) in jobs.into_iter().enumerate() {
                assert_eq!(job.await.unwrap(), round + n as u32);
            }
        }
    }

    #[tokio::test]
    async fn many_short_jobs_all_run() {
        let (sender, receiver) = mpsc::channel();
        for n in 0..10_000u32 {
            let sender = sender.clone();
            run(Handle::current(), move || sender.send(n).unwrap());
        }
        drop(sender);
        let mut got: Vec<_> = receiver.iter().collect();
        got.sort_unstable();
        assert_eq!(got, (0..10_000).collect::<Vec<_>>());
    }
}
