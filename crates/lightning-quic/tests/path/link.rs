//! One direction of a simulated path: delay, rate, a bounded queue, loss, a largest packet.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use quinn_proto::EcnCodepoint;

/// What a direction of a path is like.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LinkSettings {
    /// Time from one end to the other, without queueing.
    pub(crate) delay: Duration,
    /// Rate in bits per second, of packets with their IP and UDP headers.
    pub(crate) rate: u64,
    /// What may wait for its turn, in bytes; what comes when it is full is dropped.
    pub(crate) queue_bytes: usize,
    /// One packet in so many is lost at random; 0 loses none.
    pub(crate) lost_one_in: u64,
    /// Largest UDP payload that gets through.
    pub(crate) max_udp_payload: usize,
}

/// A datagram under way.
#[derive(Debug)]
pub(crate) struct Datagram {
    pub(crate) data: Vec<u8>,
    pub(crate) ecn: Option<EcnCodepoint>,
    arrival: Instant,
}

/// What happened on a link.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct LinkCounters {
    /// Datagrams that got through.
    pub(crate) delivered: u64,
    /// Datagrams dropped for their size.
    pub(crate) too_large: u64,
    /// Datagrams dropped because the queue was full.
    pub(crate) overflowed: u64,
    /// Datagrams lost at random.
    pub(crate) lost: u64,
    /// Most bytes that were on the link at a time, waiting or under way.
    pub(crate) most_inside_bytes: usize,
}

/// One direction of a path.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) settings: LinkSettings,
    pub(crate) counters: LinkCounters,
    inside: VecDeque<Datagram>,
    inside_bytes: usize,
    /// When everything that waits is on its way.
    free_at: Instant,
    random: u64,
}

impl Link {
    pub(crate) fn new(settings: LinkSettings, now: Instant, seed: u64) -> Self {
        Self {
            settings,
            counters: LinkCounters::default(),
            inside: VecDeque::new(),
            inside_bytes: 0,
            free_at: now,
            random: seed,
        }
    }

    /// Takes a datagram in, or drops it.
    pub(crate) fn send(&mut self, now: Instant, data: &[u8], ecn: Option<EcnCodepoint>) {
        if data.len() > self.settings.max_udp_payload {
            self.counters.too_large += 1;
            return;
        }
        if self.settings.lost_one_in > 0
            && self.next_random().is_multiple_of(self.settings.lost_one_in)
        {
            self.counters.lost += 1;
            return;
        }
        let bits = 8 * (data.len() + HEADER_BYTES) as u64;
        let waiting = self.free_at.saturating_duration_since(now);
        let queued_bytes = waiting.as_secs_f64() * self.settings.rate as f64 / 8.0;
        if queued_bytes as usize + data.len() > self.settings.queue_bytes {
            self.counters.overflowed += 1;
            return;
        }
        let takes = Duration::from_nanos(bits * 1_000_000_000 / self.settings.rate);
        self.free_at = self.free_at.max(now) + takes;
        self.inside_bytes += data.len();
        self.counters.most_inside_bytes = self.counters.most_inside_bytes.max(self.inside_bytes);
        self.inside.push_back(Datagram {
            data: data.to_vec(),
            ecn,
            arrival: self.free_at + self.settings.delay,
        });
    }

    /// Gives out the next datagram that has arrived.
    pub(crate) fn receive(&mut self, now: Instant) -> Option<Datagram> {
        if self.next_arrival()? > now {
            return None;
        }
        let datagram = self.inside.pop_front()?;
        self.inside_bytes -= datagram.data.len();
        self.counters.delivered += 1;
        Some(datagram)
    }

    pub(crate) fn next_arrival(&self) -> Option<Instant> {
        self.inside.front().map(|datagram| datagram.arrival)
    }

    /// `SplitMix64`, so that every run loses the same packets.
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// IPv4 and UDP.
const HEADER_BYTES: usize = 28;
