//! What is refused, by whom, and that nothing is lost by it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod handshakes;
mod impostors;
mod requests;

use std::collections::BTreeMap;

use btlightning::{LightningServerConfig, Payload};
use lightning_keys::Keypair;
use lightning_tests::{CLIENT, MINER, Miner, echo, miner_with, raw::RawClient, within};

/// The smallest limit that a server takes: 1 MiB.
const LIMIT: usize = 1024 * 1024;

/// Starts a miner with an echo, frames of at most [`LIMIT`] and patience with many handshakes.
async fn serve() -> Miner {
    let config = LightningServerConfig::builder()
        .max_frame_payload_bytes(LIMIT)
        .max_handshake_attempts_per_minute(1000)
        .build()
        .unwrap();
    let server = miner_with(MINER, 0, config);
    server
        .register_synapse_handler("echo".into(), echo())
        .await
        .unwrap();
    Miner::serve(server).await
}

/// Returns how often the server refused a handshake for this reason.
fn refused(miner: &Miner, reason: &str) -> u64 {
    let stats = miner.server().stats();
    let of_reason = |(name, _): &&(&str, u64)| *name == reason;
    let found = stats.handshakes_refused.iter().find(of_reason);
    found.map_or(0, |(_, count)| *count)
}

fn client_key() -> Keypair {
    Keypair::from_seed(&CLIENT)
}

fn hello() -> Payload {
    Payload::from_typed(&BTreeMap::from([("text", "hello")])).unwrap()
}

/// The connection still does what it is for.
async fn assert_serves(peer: &RawClient, after: &str) {
    let answer = within(peer.request("echo", &hello())).await;
    assert!(answer.success, "after {after}: {answer:?}");
    assert_eq!(answer.data, hello(), "after {after}");
}
