//! Wall-clock time in the units of the protocol.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Returns the time since the Unix epoch in seconds.
pub fn unix_timestamp_secs() -> u64 {
    since_epoch().as_secs()
}

/// Returns the time since the Unix epoch in milliseconds.
pub fn unix_timestamp_millis() -> u128 {
    since_epoch().as_millis()
}

/// A clock set before 1970 reads as zero, which every peer refuses as too old.
fn since_epoch() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}
