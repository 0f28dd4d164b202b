//! What we put around quinn's congestion controllers.
//!
//! Two things they lack: they cannot be told that the connection is closing (see
//! [`close`](mod@crate::close)), and their window grows while the peer's flow control, and not the
//! path, is what holds the sender back. [RFC 9002, section 7.8](https://www.rfc-editor.org/rfc/rfc9002#section-7.8)
//! forbids that: such a window says nothing about the path, and the next transfer leaves in one
//! burst that a queue on the way cannot hold.

use std::{
    any::Any,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use quinn::congestion::{BbrConfig, Controller, ControllerFactory, ControllerMetrics, CubicConfig};
use quinn_proto::RttEstimator;

/// Which congestion controller sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Congestion {
    /// CUBIC ([RFC 9438](https://www.rfc-editor.org/rfc/rfc9438)): fair beside TCP.
    #[default]
    Cubic,
    /// BBR version 1: keeps its rate under random loss, less fair beside CUBIC.
    Bbr,
}

impl Congestion {
    /// Returns what makes this controller, supervised.
    pub(crate) fn factory(self) -> Arc<dyn ControllerFactory + Send + Sync> {
        let inner: Arc<dyn ControllerFactory + Send + Sync> = match self {
            Self::Cubic => Arc::new(CubicConfig::default()),
            Self::Bbr => Arc::new(BbrConfig::default()),
        };
        Arc::new(SupervisedConfig { inner })
    }
}

/// Makes supervised controllers.
struct SupervisedConfig {
    inner: Arc<dyn ControllerFactory + Send + Sync>,
}

impl ControllerFactory for SupervisedConfig {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(Supervised {
            inner: self.inner.clone().build(now, current_mtu),
            in_flight: 0,
            closing: Arc::default(),
        })
    }
}

/// A controller that does not grow unused, and limits nothing once its connection is being closed.
pub(crate) struct Supervised {
    inner: Box<dyn Controller>,
    /// Bytes sent and neither acknowledged nor lost: exact after acknowledgements, and too high by
    /// what was lost since.
    in_flight: u64,
    /// Shared with the copies that quinn hands out and makes for new paths.
    closing: Arc<AtomicBool>,
}

impl Supervised {
    /// Limits nothing from now on.
    pub(crate) fn stand_aside(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    /// Whether less than half of the window is in use. Slow start doubles the window in a round
    /// trip, so a sender that the window holds back always uses half of it.
    fn is_underused(&self) -> bool {
        self.in_flight < self.inner.window() / 2
    }
}

impl Controller for Supervised {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.in_flight = self.in_flight.saturating_add(bytes);
        self.inner.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        app_limited: bool,
        rtt: &RttEstimator,
    ) {
        let app_limited = app_limited || self.is_underused();
        self.inner.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        largest_packet_num_acked: Option<u64>,
    ) {
        let app_limited = app_limited || self.is_underused();
        self.in_flight = in_flight;
        self.inner
            .on_end_acks(now, in_flight, app_limited, largest_packet_num_acked);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        self.inner
            .on_congestion_event(now, sent, is_persistent_congestion, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.inner.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        if self.closing.load(Ordering::Relaxed) {
            return u64::MAX;
        }
        self.inner.window()
    }

    fn metrics(&self) -> ControllerMetrics {
        self.inner.metrics()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self {
            inner: self.inner.clone_box(),
            in_flight: self.in_flight,
            closing: self.closing.clone(),
        })
    }

    fn initial_window(&self) -> u64 {
        self.inner.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
