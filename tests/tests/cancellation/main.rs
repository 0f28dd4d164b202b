//! Who gives up a request ends the work for it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod handlers;
mod queries;
mod streams;

use std::{collections::HashMap, sync::Arc};

use async_trait::async_trait;
use btlightning::{
    AsyncSynapseHandler, CallErrorKind, CallOptions, LightningClient, LightningServerConfig,
    LightningServerConfigBuilder, Payload, Result,
};
use lightning_tests::{
    CLIENT, MINER, Miner, NotifyOnDrop, echo, miner_with, payload, until, validator, within,
};
use rmpv::Value;
use tokio::sync::Notify;

/// A request small enough to share a stream with others, and one that gets a stream of its own.
const SIZES: [usize; 2] = [10, 100_000];

fn config() -> LightningServerConfigBuilder {
    LightningServerConfig::builder().handler_timeout_secs(100)
}

/// Never answers, and tells when it runs and when it is dropped.
#[derive(Default)]
struct Stuck {
    started: Notify,
    dropped: Arc<Notify>,
}

#[async_trait]
impl AsyncSynapseHandler for Stuck {
    async fn handle(&self, _: &str, _: HashMap<String, Value>) -> Result<HashMap<String, Value>> {
        let _guard = NotifyOnDrop(self.dropped.clone());
        self.started.notify_one();
        std::future::pending().await
    }
}

struct Fixture {
    miner: Miner,
    client: LightningClient,
    stuck: Arc<Stuck>,
}

async fn fixture(config: LightningServerConfigBuilder) -> Fixture {
    let stuck = Arc::new(Stuck::default());
    let server = miner_with(MINER, 0, config.build().unwrap());
    server
        .register_async_synapse_handler("stuck".into(), stuck.clone())
        .await
        .unwrap();
    server
        .register_synapse_handler("echo".into(), echo())
        .await
        .unwrap();
    let miner = Miner::serve(server).await;
    let client = validator(CLIENT, vec![miner.axon()]).await;
    Fixture {
        miner,
        client,
        stuck,
    }
}

fn data(len: usize) -> Payload {
    Payload::from_map(&payload(vec![7; len])).unwrap()
}

impl Fixture {
    async fn query(
        &self,
        synapse_type: &str,
        len: usize,
    ) -> std::result::Result<(), CallErrorKind> {
        let (axon, data) = (self.miner.axon(), data(len));
        self.client
            .call_payload(&axon, synapse_type, &data, CallOptions::default())
            .await
            .map(drop)
            .map_err(|e| e.kind().clone())
    }

    /// The connection still does what it is for, in both ways.
    async fn assert_serves(&self) {
        for len in SIZES {
            within(self.query("echo", len)).await.unwrap();
        }
        assert_eq!(self.miner.server().stats().handshakes, 1);
    }

    async fn until_cancelled(&self, count: u64) {
        until("the server has counted and tidied up", async || {
            let stats = self.miner.server().stats();
            assert!(stats.requests_cancelled <= count, "{stats:?}");
            stats.requests_cancelled == count && stats.requests_in_flight == 0
        })
        .await;
    }
}
