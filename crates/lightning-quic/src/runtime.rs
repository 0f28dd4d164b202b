//! tokio as quinn's runtime, with connections in groups and timers that are rarely touched.

use std::{
    future::Future,
    io,
    net::UdpSocket,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use quinn::{AsyncTimer, AsyncUdpSocket, Runtime, TokioRuntime};
use tokio::time::{Sleep, sleep_until};

use crate::group;

/// Runs each connection's driver in a [`TaskGroup`](crate::TaskGroup).
#[derive(Debug)]
pub(crate) struct GroupRuntime;

impl Runtime for GroupRuntime {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        Box::pin(LazyTimer::new(at))
    }

    fn spawn(&self, driver: Pin<Box<dyn Future<Output = ()> + Send>>) {
        group::start(driver);
    }

    fn wrap_udp_socket(&self, socket: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        TokioRuntime.wrap_udp_socket(socket)
    }

    fn now(&self) -> Instant {
        TokioRuntime.now()
    }
}

/// A timer that is armed again only when it has to fire earlier, or has fired.
///
/// A connection sets its timer with every packet it sends, mostly later than before; arming
/// tokio's timer takes a lock and, often, a system call.
#[derive(Debug)]
pub(crate) struct LazyTimer {
    sleep: Pin<Box<Sleep>>,
    /// When tokio's timer fires: never later than the deadline.
    armed: Instant,
    deadline: Instant,
}

impl LazyTimer {
    pub(crate) fn new(at: Instant) -> Self {
        Self {
            sleep: Box::pin(sleep_until(at.into())),
            armed: at,
            deadline: at,
        }
    }

    fn arm(&mut self) {
        self.armed = self.deadline;
        self.sleep.as_mut().reset(self.deadline.into());
    }
}

impl AsyncTimer for LazyTimer {
    fn reset(mut self: Pin<&mut Self>, at: Instant) {
        self.deadline = at;
        if at < self.armed {
            self.arm();
        }
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(Future::poll(self.sleep.as_mut(), cx));
            if self.deadline <= self.armed {
                return Poll::Ready(());
            }
            self.arm();
        }
    }
}
