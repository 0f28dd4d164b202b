//! Calls in which both sides send chunks.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod endings;
mod exchanges;

use std::{collections::HashMap, sync::Arc};

use async_trait::async_trait;
use btlightning::{
    CallOptions, ChunkSink, ChunkStream, DuplexCall, LightningClient, LightningError,
    LightningServerConfig, LightningServerConfigBuilder, Payload, RequestContext, Result,
    StreamHandler,
};
use bytes::Bytes;
use lightning_tests::{CLIENT, MINER, Miner, NotifyOnDrop, miner_with, payload, validator, within};
use tokio::sync::Notify;

/// One handler for all; the synapse type says what it does.
#[derive(Default)]
struct Handler {
    dropped: Arc<Notify>,
    /// What `read-late` waits for.
    release: Arc<Notify>,
}

#[async_trait]
impl StreamHandler for Handler {
    async fn handle(
        &self,
        context: RequestContext,
        data: Payload,
        mut input: ChunkStream,
        output: &mut ChunkSink,
    ) -> Result<Payload> {
        let _guard = NotifyOnDrop(self.dropped.clone());
        match context.synapse_type() {
            "collect" => {
                let mut all = Vec::new();
                while let Some(chunk) = input.next_chunk().await? {
                    all.extend_from_slice(&chunk);
                }
                // The end stays the end.
                assert!(input.next_chunk().await?.is_none());
                Ok(Payload::from_map(&payload(all))?)
            }
            "produce" => {
                for n in 0..10u8 {
                    output.send(vec![n; usize::from(n) * 1000]).await?;
                }
                Ok(data)
            }
            "ping-pong" => {
                let mut rounds = 0u64;
                while let Some(chunk) = input.next_chunk().await? {
                    output.send(chunk).await?;
                    rounds += 1;
                }
                Ok(Payload::from_typed(&HashMap::from([("rounds", rounds)]))?)
            }
            "reply-early" => {
                output.send("enough").await?;
                Ok(data)
            }
            "fail-late" => {
                output.send("one").await?;
                output.send("two").await?;
                Err(LightningError::handler("a secret"))
            }
            "panic-late" => {
                output.send("one").await?;
                output.send("two").await?;
                panic!("a secret")
            }
            "tell-end" => {
                let end = loop {
                    match input.next_chunk().await {
                        Ok(Some(_)) => {}
                        Ok(None) => break "it ended well".to_owned(),
                        Err(error) => break error.to_string(),
                    }
                };
                Ok(Payload::from_typed(&HashMap::from([("end", end)]))?)
            }
            "read-late" => {
                self.release.notified().await;
                let mut count = 0u64;
                while input.next_chunk().await?.is_some() {
                    count += 1;
                }
                Ok(Payload::from_typed(&HashMap::from([("count", count)]))?)
            }
            "flood" => {
                let chunk = Bytes::from(vec![7; MIB]);
                for _ in 0..1000 {
                    output.send(chunk.clone()).await?;
                }
                Ok(data)
            }
            "large-reply" => Ok(Payload::from_map(&payload(vec![7; 3 * MIB]))?),
            "hang" => std::future::pending().await,
            other => panic!("no such behaviour: {other}"),
        }
    }
}

const MIB: usize = 1024 * 1024;

struct Fixture {
    miner: Miner,
    client: LightningClient,
    handler: Arc<Handler>,
}

fn config() -> LightningServerConfigBuilder {
    LightningServerConfig::builder().handler_timeout_secs(100)
}

async fn fixture(config: LightningServerConfigBuilder) -> Fixture {
    let server = miner_with(MINER, 0, config.build().unwrap());
    let handler = Arc::new(Handler::default());
    for behaviour in [
        "collect",
        "produce",
        "ping-pong",
        "reply-early",
        "fail-late",
        "panic-late",
        "tell-end",
        "read-late",
        "flood",
        "large-reply",
        "hang",
    ] {
        server.register_stream_handler(behaviour, handler.clone());
    }
    let miner = Miner::serve(server).await;
    let client = validator(CLIENT, vec![miner.axon()]).await;
    Fixture {
        miner,
        client,
        handler,
    }
}

impl Fixture {
    async fn open(&self, synapse_type: &str) -> DuplexCall {
        self.open_with(synapse_type, CallOptions::default()).await
    }

    async fn open_with(&self, synapse_type: &str, options: CallOptions) -> DuplexCall {
        let (axon, data) = (self.miner.axon(), question());
        within(self.client.open_duplex(&axon, synapse_type, &data, options))
            .await
            .unwrap()
    }

    /// The connection still does what it is for.
    async fn assert_serves(&self) {
        let mut call = self.open("collect").await;
        within(call.send("still there")).await.unwrap();
        let reply = within(call.reply()).await.unwrap();
        assert_eq!(reply.data.get_bin("payload").unwrap(), "still there");
        assert_eq!(self.miner.server().stats().handshakes, 1);
    }
}

fn question() -> Payload {
    Payload::from_map(&payload(b"question".to_vec())).unwrap()
}

fn text(data: &Payload, key: &str) -> String {
    let map: HashMap<String, String> = data.deserialize().unwrap();
    map[key].clone()
}
