//! Our settings on long, fat, lossy and shrinking paths, simulated.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

mod host;
mod link;
mod mtu;
mod sim;
mod windows;
