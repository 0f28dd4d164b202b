//! Streams and duplex calls that are dropped.

use std::{collections::HashMap, sync::Arc};

use async_trait::async_trait;
use btlightning::{
    CallOptions, ChunkSink, ChunkStream, Payload, QuicRequest, RequestContext, Result,
    StreamHandler, StreamingSynapseHandler,
};
use lightning_tests::{NotifyOnDrop, until, within};
use rmpv::Value;
use tokio::sync::{Notify, mpsc};

use crate::{config, fixture};

/// Streams for ever, and tells when it is dropped.
struct Endless {
    dropped: Arc<Notify>,
}

#[async_trait]
impl StreamingSynapseHandler for Endless {
    async fn handle(
        &self,
        _: &str,
        _: HashMap<String, Value>,
        sender: mpsc::Sender<Vec<u8>>,
    ) -> Result<()> {
        let _guard = NotifyOnDrop(self.dropped.clone());
        // Sooner or later nobody takes them; this is not how it learns of it.
        while sender.send(vec![7; 1000]).await.is_ok() {}
        std::future::pending().await
    }
}

#[async_trait]
impl StreamHandler for Endless {
    async fn handle(
        &self,
        _: RequestContext,
        _: Payload,
        _: ChunkStream,
        output: &mut ChunkSink,
    ) -> Result<Payload> {
        let _guard = NotifyOnDrop(self.dropped.clone());
        output.send("one").await?;
        output.send("two").await?;
        std::future::pending().await
    }
}

#[tokio::test]
async fn dropping_a_half_read_stream_drops_its_handler() {
    let f = fixture(config()).await;
    let endless = Arc::new(Endless {
        dropped: Arc::default(),
    });
    let server = f.miner.server();
    server
        .register_streaming_handler("busy".into(), endless.clone())
        .await
        .unwrap();
    server.register_stream_handler("idle", endless.clone());
    for (count, (synapse_type, reads)) in
        (1..).zip([("busy", 0), ("busy", 2), ("idle", 1), ("idle", 2)])
    {
        let request = QuicRequest::new(synapse_type.into(), HashMap::new());
        let open = f.client.query_axon_stream(f.miner.axon(), request);
        let mut stream = within(open).await.unwrap();
        for _ in 0..reads {
            assert!(within(stream.next_chunk()).await.unwrap().is_some());
        }
        until("the handler runs", async || {
            f.miner.server().stats().requests == count
        })
        .await;
        drop(stream);
        within(endless.dropped.notified()).await;
        f.until_cancelled(count).await;
    }
    f.assert_serves().await;
}

#[tokio::test]
async fn dropping_a_duplex_call_drops_its_handler() {
    let f = fixture(config()).await;
    let endless = Arc::new(Endless {
        dropped: Arc::default(),
    });
    f.miner
        .server()
        .register_stream_handler("idle", endless.clone());
    let axon = f.miner.axon();
    let empty = Payload::empty();
    let open = || {
        f.client
            .open_duplex(&axon, "idle", &empty, CallOptions::default())
    };

    let mut whole = within(open()).await.unwrap();
    within(whole.next_chunk()).await.unwrap().unwrap();
    drop(whole);
    within(endless.dropped.notified()).await;
    f.until_cancelled(1).await;

    // The handler may go on when only its input breaks off; not so when nobody takes its output.
    let (sender, mut receiver) = within(open()).await.unwrap().split();
    assert_eq!(within(receiver.next_chunk()).await.unwrap().unwrap(), "one");
    drop(sender);
    assert_eq!(within(receiver.next_chunk()).await.unwrap().unwrap(), "two");
    assert_eq!(f.miner.server().stats().requests_in_flight, 1);
    drop(receiver);
    within(endless.dropped.notified()).await;
    f.until_cancelled(2).await;

    // While it waits for the reply.
    let call = within(open()).await.unwrap();
    let reply = call.reply();
    let started = until("the handler runs", async || {
        f.miner.server().stats().requests == 3
    });
    tokio::select! {
        reply = reply => panic!("{reply:?}"),
        () = started => {}
    }
    within(endless.dropped.notified()).await;
    f.until_cancelled(3).await;
    f.assert_serves().await;
}
