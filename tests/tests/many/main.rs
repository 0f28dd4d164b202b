//! One request to many miners: all are heard, the dead and the slow hold up nobody, and what is
//! not wanted any more is cancelled.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod answers;
mod cancelling;
mod deadlines;
mod dials;
mod hedging;

use std::{
    net::Ipv4Addr,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use btlightning::{
    LightningClient, LightningClientConfig, LightningClientConfigBuilder, LightningServerConfig,
    ManyAnswer, ManyOptions, Payload, QuicAxonInfo, RequestContext, RequestHandler, Result,
};
use lightning_tests::{CLIENT, Miner, axon, hotkey, miner_with, payload, until, validator_with};
use tokio::{net::UdpSocket, sync::Semaphore};

/// A request small enough to share a stream with others, and one that gets a stream of its own.
const SIZES: [usize; 2] = [10, 100_000];

/// Returns its input, once it may, and counts.
struct Held {
    release: Semaphore,
    counts: Mutex<Counts>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counts {
    begun: usize,
    running: usize,
    most_running: usize,
    dropped: usize,
}

impl Held {
    fn new(permits: usize) -> Arc<Self> {
        Arc::new(Self {
            release: Semaphore::new(permits),
            counts: Mutex::default(),
        })
    }

    fn counts(&self) -> Counts {
        *self.counts.lock().unwrap()
    }

    async fn until_begun(&self, count: usize) {
        until("as many handlers began", async || {
            self.counts().begun == count
        })
        .await;
    }

    async fn until_dropped(&self, count: usize) {
        until("the handlers were dropped", async || {
            self.counts().dropped == count
        })
        .await;
    }
}

#[async_trait]
impl RequestHandler for Held {
    async fn handle(&self, _context: RequestContext, data: Payload) -> Result<Payload> {
        let mut running = Running::begin(self);
        self.release.acquire().await.unwrap().forget();
        running.finished = true;
        Ok(data)
    }
}

/// A handler at work; one that is dropped before it finished is counted as such.
struct Running<'a> {
    held: &'a Held,
    finished: bool,
}

impl<'a> Running<'a> {
    fn begin(held: &'a Held) -> Self {
        let mut counts = held.counts.lock().unwrap();
        counts.begun += 1;
        counts.running += 1;
        counts.most_running = counts.most_running.max(counts.running);
        Self {
            held,
            finished: false,
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut counts = self.held.counts.lock().unwrap();
        counts.running -= 1;
        counts.dropped += usize::from(!self.finished);
    }
}

/// Starts a miner that answers `ask` with this handler.
async fn serve(seed: u8, handler: Arc<dyn RequestHandler>) -> Miner {
    let config = LightningServerConfig::builder()
        .handler_timeout_secs(100)
        .build()
        .unwrap();
    let server = miner_with([seed; 32], 0, config);
    server.register_handler("ask", handler);
    Miner::serve(server).await
}

/// Starts miners that answer at once.
async fn serve_willing(seeds: impl IntoIterator<Item = u8>) -> Vec<Miner> {
    let mut miners = Vec::new();
    for seed in seeds {
        miners.push(serve(seed, Held::new(1_000_000)).await);
    }
    miners
}

fn axons(miners: &[Miner]) -> Vec<QuicAxonInfo> {
    miners.iter().map(Miner::axon).collect()
}

fn client_config() -> LightningClientConfigBuilder {
    LightningClientConfig::builder()
}

/// Makes a client that is connected to these.
async fn client_of(
    config: LightningClientConfigBuilder,
    connected: Vec<QuicAxonInfo>,
) -> LightningClient {
    let count = connected.len();
    let client = validator_with(CLIENT, config.build().unwrap(), connected).await;
    assert_eq!(client.stats().active_miners, count);
    client
}

fn data(len: usize) -> Payload {
    Payload::from_map(&payload(vec![7; len])).unwrap()
}

fn options() -> ManyOptions {
    ManyOptions::default()
}

/// An address that takes packets and never answers.
async fn silence(seed: u8) -> (UdpSocket, QuicAxonInfo) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let axon = axon(&hotkey([seed; 32]), socket.local_addr().unwrap());
    (socket, axon)
}

/// The answer is there and is what was sent.
fn assert_good(answer: &ManyAnswer, sent: &Payload) {
    let reply = answer.result.as_ref().unwrap();
    assert_eq!(&reply.data, sent, "{}", answer.index);
}

/// Longer than a test takes.
const LONG: Duration = Duration::from_secs(1000);
/// Enough to connect and be answered.
const AMPLE: Duration = Duration::from_millis(1200);
/// As short as can be told from none.
const BRIEF: Duration = Duration::from_millis(300);
