//! What a server counts.

use std::sync::atomic::{AtomicU64, Ordering};

use btlightning_proto::handshake::Refusal;

/// A server's state and what it has counted since it was made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerStats {
    /// The connected hotkeys.
    pub callers: Vec<CallerStats>,
    /// Connections without an authenticated hotkey.
    pub unauthenticated_connections: usize,
    /// Requests being served.
    pub requests_in_flight: usize,
    /// Requests that reached a handler.
    pub requests: u64,
    /// Requests whose caller gave up before the answer.
    pub requests_cancelled: u64,
    /// Requests whose handler failed, panicked or took too long.
    pub requests_failed: u64,
    /// Requests refused before a handler was asked.
    pub requests_refused: u64,
    /// Handshakes that succeeded.
    pub handshakes: u64,
    /// Handshakes refused, by reason.
    pub handshakes_refused: Vec<(&'static str, u64)>,
    /// Connections refused or closed because too many had not authenticated.
    pub connections_refused: u64,
    /// Packets from sources that are not on the allow-list, which were dropped unseen.
    pub sources_ignored: u64,
}

/// One connected hotkey.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CallerStats {
    /// SS58 address.
    pub hotkey: String,
    /// Name of the authenticated connection.
    pub connection_id: String,
    /// Where its packets come from.
    pub remote_addr: std::net::SocketAddr,
    /// The protocol agreed on.
    pub version: btlightning_proto::Version,
    /// Seconds since its last request.
    pub idle_secs: u64,
    /// QUIC's estimate of the round-trip time.
    pub rtt: std::time::Duration,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) requests: Counter,
    pub(crate) cancelled: Counter,
    pub(crate) failed: Counter,
    pub(crate) refused: Counter,
    pub(crate) handshakes: Counter,
    pub(crate) connections_refused: Counter,
    pub(crate) sources_ignored: Counter,
    handshakes_refused: [Counter; REASONS.len()],
}

#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add_one(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Counters {
    pub(crate) fn refuse_handshake(&self, refusal: Refusal) {
        let reason = reason(refusal);
        if let Some(index) = REASONS.iter().position(|r| *r == reason) {
            self.handshakes_refused[index].add_one();
        }
    }

    pub(crate) fn handshakes_refused(&self) -> Vec<(&'static str, u64)> {
        REASONS
            .iter()
            .zip(&self.handshakes_refused)
            .map(|(reason, counter)| (*reason, counter.value()))
            .filter(|(_, count)| *count > 0)
            .collect()
    }
}

fn reason(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::Malformed => "malformed",
        Refusal::TooOld { .. } => "too_old",
        Refusal::FromFuture { .. } => "from_future",
        Refusal::NonceShape => "nonce_shape",
        Refusal::InvalidHotkey => "invalid_hotkey",
        Refusal::InvalidSignature => "invalid_signature",
        Refusal::Replayed => "replayed",
        Refusal::Forgotten => "forgotten",
        Refusal::NoPermit => "no_permit",
        Refusal::RateLimited => "rate_limited",
        Refusal::TooManyConnections => "too_many_connections",
        Refusal::SignerFailed => "signer_failed",
        Refusal::TimedOut => "timed_out",
        _ => OTHER,
    }
}

const OTHER: &str = "other";

const REASONS: [&str; 14] = [
    "malformed",
    "too_old",
    "from_future",
    "nonce_shape",
    "invalid_hotkey",
    "invalid_signature",
    "replayed",
    "forgotten",
    "no_permit",
    "rate_limited",
    "too_many_connections",
    "signer_failed",
    "timed_out",
    OTHER,
];
