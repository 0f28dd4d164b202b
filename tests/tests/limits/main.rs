//! Bounds: on strangers, on connections, on what is answered at all.
//!
//! Several tests need clients at several addresses of one host; all of 127.0.0.0/8 is local where
//! these tests run.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod connections;
mod sources;
mod strangers;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
};

use btlightning::{LightningServerConfig, LightningServerConfigBuilder, Payload};
use lightning_keys::Keypair;
use lightning_tests::{
    MINER, Miner, echo, miner_with,
    raw::{ALPN_BOTH, RawClient},
    until, within,
};
use quinn::ConnectionError;

fn config() -> LightningServerConfigBuilder {
    LightningServerConfig::builder()
}

async fn serve(config: LightningServerConfigBuilder) -> Miner {
    let server = miner_with(MINER, 0, config.build().unwrap());
    server
        .register_synapse_handler("echo".into(), echo())
        .await
        .unwrap();
    Miner::serve(server).await
}

/// The `n`th address of the host.
fn local(n: u8) -> IpAddr {
    Ipv4Addr::new(127, 0, 0, n).into()
}

async fn connect_from(miner: &Miner, from: IpAddr) -> Result<RawClient, ConnectionError> {
    within(RawClient::try_connect(miner.addr(), ALPN_BOTH, from)).await
}

/// Returns the key of the `n`th validator.
fn key(n: u8) -> Keypair {
    Keypair::from_seed(&[100 + n; 32])
}

fn refused(miner: &Miner, reason: &str) -> u64 {
    let stats = miner.server().stats();
    let of_reason = |(name, _): &&(&str, u64)| *name == reason;
    let found = stats.handshakes_refused.iter().find(of_reason);
    found.map_or(0, |(_, count)| *count)
}

async fn assert_serves(peer: &RawClient) {
    let hello = Payload::from_typed(&BTreeMap::from([("text", "hello")])).unwrap();
    let answer = within(peer.request("echo", &hello)).await;
    assert_eq!(answer.error, None);
    assert_eq!(answer.data, hello);
}

/// Waits until the server counts this many connections without a hotkey.
async fn until_unauthenticated(miner: &Miner, count: usize) {
    until("as many strangers as expected", async || {
        miner.server().stats().unauthenticated_connections == count
    })
    .await;
}
