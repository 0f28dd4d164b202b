//! Lanes, end to end: who gets which answer, in what order, and what breaks a lane.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod ending;
mod failures;
mod many;
mod order;
mod peer;
mod raw_peers;
mod sizes;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use btlightning::{
    CallError, CallErrorKind, CallOptions, LightningClient, LightningServerConfig,
    LightningServerConfigBuilder, Payload, RequestContext, RequestHandler, Result,
};
use lightning_tests::{CLIENT, MINER, Miner, echo, miner_with, until, validator};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

/// What requests carry: the id tells whose answer it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Numbered {
    id: u64,
    #[serde(with = "serde_bytes")]
    filler: Vec<u8>,
}

fn numbered(id: u64, len: usize) -> Numbered {
    Numbered {
        id,
        filler: lightning_tests::bytes(len),
    }
}

/// Returns its input, once it may; notes what begins, and what is dropped.
struct Held {
    release: Semaphore,
    log: Mutex<Log>,
}

#[derive(Default)]
struct Log {
    /// Ids, in the order in which their handlers began.
    began: Vec<u64>,
    running: usize,
    most_running: usize,
    dropped: Vec<u64>,
}

impl Held {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            release: Semaphore::new(0),
            log: Mutex::default(),
        })
    }

    fn began(&self) -> Vec<u64> {
        self.log.lock().unwrap().began.clone()
    }

    fn dropped(&self) -> Vec<u64> {
        self.log.lock().unwrap().dropped.clone()
    }

    async fn until_began(&self, count: usize) {
        until("as many handlers began", async || {
            self.began().len() == count
        })
        .await;
    }
}

#[async_trait]
impl RequestHandler for Held {
    async fn handle(&self, _context: RequestContext, data: Payload) -> Result<Payload> {
        let running = Running::begin(self, data.deserialize::<Numbered>()?.id);
        self.release.acquire().await.unwrap().forget();
        running.finish();
        Ok(data)
    }
}

/// A handler that is at work; one that is dropped before it finished is noted as such.
struct Running<'a> {
    held: &'a Held,
    id: u64,
    finished: bool,
}

impl<'a> Running<'a> {
    fn begin(held: &'a Held, id: u64) -> Self {
        let mut log = held.log.lock().unwrap();
        log.began.push(id);
        log.running += 1;
        log.most_running = log.most_running.max(log.running);
        Self {
            held,
            id,
            finished: false,
        }
    }

    fn finish(mut self) {
        self.finished = true;
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut log = self.held.log.lock().unwrap();
        log.running -= 1;
        if !self.finished {
            log.dropped.push(self.id);
        }
    }
}

/// Answers at its first poll.
struct AtOnce;

#[async_trait]
impl RequestHandler for AtOnce {
    async fn handle(&self, _context: RequestContext, data: Payload) -> Result<Payload> {
        Ok(data)
    }
}

fn config() -> LightningServerConfigBuilder {
    LightningServerConfig::builder().handler_timeout_secs(100)
}

/// As few requests at a time as a lane may have open.
fn narrow() -> LightningServerConfigBuilder {
    config().max_concurrent_bidi_streams(16)
}

/// Serves `held`, `at-once` on the lane's own task, and `blocking` on a thread.
async fn serve(config: LightningServerConfigBuilder) -> (Miner, Arc<Held>) {
    let server = miner_with(MINER, 0, config.build().unwrap());
    let held = Held::new();
    server.register_handler("held", held.clone());
    server.register_handler("at-once", Arc::new(AtOnce));
    server
        .register_synapse_handler("blocking".into(), echo())
        .await
        .unwrap();
    (Miner::serve(server).await, held)
}

/// A miner, a client of it, and the handler whose answers the test holds back.
struct Fixture {
    miner: Miner,
    held: Arc<Held>,
    client: LightningClient,
}

async fn fixture(config: LightningServerConfigBuilder) -> Fixture {
    let (miner, held) = serve(config).await;
    let client = validator(CLIENT, vec![miner.axon()]).await;
    Fixture {
        miner,
        held,
        client,
    }
}

impl Fixture {
    async fn ask(&self, synapse_type: &str, id: u64) -> std::result::Result<(), CallError> {
        self.ask_with(synapse_type, id, CallOptions::default())
            .await
    }

    /// Asks, and checks that the answer is the one to this request.
    async fn ask_with(
        &self,
        synapse_type: &str,
        id: u64,
        options: CallOptions,
    ) -> std::result::Result<(), CallError> {
        ask(&self.client, &self.miner, synapse_type, id, options).await
    }

    /// The lane still does what it is for, and is still the first one.
    async fn assert_serves(&self) {
        for id in 0..300 {
            let synapse_type = ["blocking", "at-once"][id as usize % 2];
            lightning_tests::within(self.ask(synapse_type, 1_000_000 + id))
                .await
                .unwrap();
        }
        assert_eq!(self.miner.server().stats().handshakes, 1);
    }

    async fn until_idle(&self) {
        until("nothing runs any more", async || {
            self.miner.server().stats().requests_in_flight == 0
        })
        .await;
    }
}

async fn ask(
    client: &LightningClient,
    miner: &Miner,
    synapse_type: &str,
    id: u64,
    options: CallOptions,
) -> std::result::Result<(), CallError> {
    let sent = numbered(id, 20);
    let got: Numbered = client
        .call(&miner.axon(), synapse_type, &sent, options)
        .await?;
    assert_eq!(got, sent, "somebody else's answer");
    Ok(())
}

/// The miner's word in place of an answer.
fn remote(error: &CallError) -> &str {
    match error.kind() {
        CallErrorKind::Remote(text) => text,
        other => panic!("{other:?}"),
    }
}

fn values(data: &impl Serialize) -> HashMap<String, rmpv::Value> {
    Payload::from_typed(data).unwrap().to_map().unwrap()
}
