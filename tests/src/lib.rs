//! Fixtures of the end-to-end tests: fixed keys, a miner and validators on loopback, a peer that
//! sends what it likes.
//!
//! ```
//! use lightning_tests::{CLIENT, Miner, miner, validator, within};
//!
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! let server = miner();
//! server.register_synapse_handler("echo".into(), lightning_tests::echo()).await.unwrap();
//! let miner = Miner::serve(server).await;
//! let client = validator(CLIENT, vec![miner.axon()]).await;
//!
//! let request = btlightning::QuicRequest::new("echo".into(), Default::default());
//! let answer = within(client.query_axon(miner.axon(), request)).await.unwrap();
//! assert!(answer.success);
//! miner.stop().await;
//! # });
//! ```

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a fixture that fails ends the test"
)]

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use btlightning::{
    LightningClient, LightningClientConfig, LightningServer, LightningServerConfig, QuicAxonInfo,
    Result, Sr25519Signer, SynapseHandler,
};
use rmpv::Value;
use tokio::{sync::Notify, task::JoinHandle};

pub mod peer;
pub mod raw;

/// Seed of the miner that [`miner`] makes.
pub const MINER: [u8; 32] = [1; 32];
/// Seed of another miner.
pub const OTHER_MINER: [u8; 32] = [2; 32];
/// Seed of a validator.
pub const CLIENT: [u8; 32] = [11; 32];
/// Seed of another validator.
pub const OTHER_CLIENT: [u8; 32] = [12; 32];

/// A server of ours that is being served, on loopback. Dropping it closes its connections.
#[derive(Debug)]
pub struct Miner {
    server: Arc<LightningServer>,
    addr: SocketAddr,
    serving: JoinHandle<Result<()>>,
}

impl Miner {
    /// Starts and serves a server. It takes connections when this returns.
    pub async fn serve(mut server: LightningServer) -> Self {
        server.start().await.expect("the server starts");
        let addr = server.local_addr().unwrap();
        let server = Arc::new(server);
        let serving = tokio::spawn({
            let server = server.clone();
            async move { server.serve_forever().await }
        });
        Self {
            server,
            addr,
            serving,
        }
    }

    /// Returns where it listens and who it is.
    pub fn axon(&self) -> QuicAxonInfo {
        axon(self.server.hotkey(), self.addr)
    }

    /// Returns where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Returns the server, for its statistics and to register handlers.
    pub fn server(&self) -> &LightningServer {
        &self.server
    }

    /// Stops the server as its owner would, and waits until its port is free again.
    pub async fn stop(mut self) {
        within(self.server.stop()).await.unwrap();
        within(&mut self.serving).await.unwrap().unwrap();
    }
}

impl Drop for Miner {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Makes a server of [`MINER`] with default settings, for a free port of 127.0.0.1.
pub fn miner() -> LightningServer {
    miner_with(MINER, 0, LightningServerConfig::default())
}

/// Makes a server with these settings. Register handlers, then [`Miner::serve`] it.
pub fn miner_with(seed: [u8; 32], port: u16, config: LightningServerConfig) -> LightningServer {
    let mut server =
        LightningServer::with_config(hotkey(seed), "127.0.0.1".into(), port, config).unwrap();
    server.set_miner_keypair(seed);
    server
}

/// Makes a client with default settings and connects it to these miners.
pub async fn validator(seed: [u8; 32], miners: Vec<QuicAxonInfo>) -> LightningClient {
    validator_with(seed, LightningClientConfig::default(), miners).await
}

/// Makes a client with these settings and connects it to these miners.
pub async fn validator_with(
    seed: [u8; 32],
    config: LightningClientConfig,
    miners: Vec<QuicAxonInfo>,
) -> LightningClient {
    let mut client = LightningClient::with_config(hotkey(seed), config).unwrap();
    client.set_signer(Box::new(Sr25519Signer::from_seed(seed)));
    within(client.initialize_connections(miners)).await.unwrap();
    client
}

/// Returns the SS58 address of a seed's key.
pub fn hotkey(seed: [u8; 32]) -> String {
    Sr25519Signer::from_seed(seed).hotkey()
}

/// Describes the miner `hotkey` at `addr`.
pub fn axon(hotkey: &str, addr: SocketAddr) -> QuicAxonInfo {
    QuicAxonInfo::new(hotkey.into(), addr.ip().to_string(), addr.port(), 4)
}

/// Makes a map of one binary value, `payload`.
pub fn payload(bytes: Vec<u8>) -> HashMap<String, Value> {
    HashMap::from([("payload".into(), Value::Binary(bytes))])
}

/// Makes `len` bytes of which no two neighbouring blocks are alike.
pub fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i ^ (i >> 8) ^ (i >> 16)) as u8).collect()
}

/// Makes a handler that returns its input.
pub fn echo() -> Arc<dyn SynapseHandler> {
    struct Echo;
    impl SynapseHandler for Echo {
        fn handle(
            &self,
            _synapse_type: &str,
            data: HashMap<String, Value>,
        ) -> Result<HashMap<String, Value>> {
            Ok(data)
        }
    }
    Arc::new(Echo)
}

/// Notifies when it is dropped; for a handler to hold while it runs.
#[derive(Debug)]
pub struct NotifyOnDrop(pub Arc<Notify>);

impl Drop for NotifyOnDrop {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

/// Waits for something that must happen; a test that would hang fails instead.
pub async fn within<F: IntoFuture>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future.into_future())
        .await
        .expect("this takes far too long")
}

/// Waits until a condition holds that nobody notifies of, such as a counter of a server.
pub async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !condition().await {
        assert!(start.elapsed() < PATIENCE, "still not: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Longer than any wait that ends well, on any machine.
const PATIENCE: Duration = Duration::from_secs(60);
