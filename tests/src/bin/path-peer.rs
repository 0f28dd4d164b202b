//! One side of an exchange that `cargo xtask rig` runs in a network namespace of its own.
//!
//! `path-peer serve IP PORT` echoes until it is killed; `path-peer drive IP PORT` sends one request
//! after another over one connection and prints `BYTES MICROSECONDS` for each.

#![allow(
    clippy::unwrap_used,
    reason = "a side that cannot go on says so and ends"
)]

use std::{
    env,
    io::{Write, stdout},
    time::{Duration, Instant},
};

use btlightning::{LightningServer, LightningServerConfig, QuicAxonInfo, QuicRequest};
use lightning_tests::{CLIENT, MINER, bytes, echo, hotkey, payload, validator};

#[tokio::main]
async fn main() {
    let args: Vec<String> = env::args().skip(1).collect();
    let [role, ip, port] = &args[..] else {
        panic!("usage: path-peer serve|drive IP PORT");
    };
    let port: u16 = port.parse().unwrap();
    match role.as_str() {
        "serve" => serve(ip.clone(), port).await,
        "drive" => drive(ip.clone(), port).await,
        other => panic!("no role `{other}`"),
    }
}

async fn serve(ip: String, port: u16) {
    let config = LightningServerConfig::default();
    let mut server = LightningServer::with_config(hotkey(MINER), ip, port, config).unwrap();
    server.set_miner_keypair(MINER);
    let registered = server.register_synapse_handler("echo".into(), echo());
    registered.await.unwrap();
    server.start().await.unwrap();
    say("listening");
    server.serve_forever().await.unwrap();
}

async fn drive(ip: String, port: u16) {
    let axon = QuicAxonInfo::new(hotkey(MINER), ip, port, 4);
    let client = validator(CLIENT, vec![axon.clone()]).await;
    for len in [1_000, 100_000, 1_000_000].into_iter().cycle() {
        let request = QuicRequest::new("echo".into(), payload(bytes(len)));
        let began = Instant::now();
        let answer = client
            .query_axon_with_timeout(axon.clone(), request, PATIENCE)
            .await
            .unwrap();
        let took = began.elapsed();
        assert_eq!(answer.data, payload(bytes(len)), "the echo differs");
        say(&format!("{len} {}", took.as_micros()));
    }
}

fn say(line: &str) {
    let mut out = stdout().lock();
    writeln!(out, "{line}").unwrap();
    out.flush().unwrap();
}

/// Longer than the rig waits.
const PATIENCE: Duration = Duration::from_secs(60);
