//! A client that moves to another port, as behind a NAT that forgets: its connections go on.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use btlightning::{
    CallOptions, ChunkSink, ChunkStream, LightningClient, Payload, RequestContext, Result,
    StreamHandler, typed_request_handler,
};
use bytes::Bytes;
use futures::{StreamExt, stream};
use lightning_tests::{CLIENT, Miner, bytes, miner, payload, validator, within};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Seen {
    connection_id: String,
    remote_addr: SocketAddr,
}

impl Seen {
    fn of(context: &RequestContext) -> Self {
        Self {
            connection_id: context.connection_id().to_owned(),
            remote_addr: context.remote_addr(),
        }
    }
}

/// Waits until the caller's packets come from elsewhere.
async fn moved(context: &RequestContext) -> Seen {
    let before = context.remote_addr();
    while context.remote_addr() == before {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Seen::of(context)
}

/// A miner whose handlers see where their caller is.
struct Observed {
    miner: Miner,
    /// Notified by a handler that waits for its caller to move.
    waits: Arc<Notify>,
}

async fn serve() -> Observed {
    let waits = Arc::new(Notify::new());
    let server = miner();
    server.register_handler(
        "where",
        typed_request_handler(|context: RequestContext, _: Options| async move {
            Result::Ok(Seen::of(&context))
        }),
    );
    let notify = waits.clone();
    server.register_handler(
        "moved",
        typed_request_handler(move |context: RequestContext, _: Options| {
            let notify = notify.clone();
            async move {
                notify.notify_one();
                Result::Ok(moved(&context).await)
            }
        }),
    );
    server.register_stream_handler("download", Arc::new(Download));
    server.register_stream_handler("upload", Arc::new(Upload(waits.clone())));
    Observed {
        miner: Miner::serve(server).await,
        waits,
    }
}

#[derive(Serialize, Deserialize)]
struct Options {
    padding: String,
}

async fn ask(client: &LightningClient, miner: &Miner, synapse_type: &str, len: usize) -> Seen {
    let request = Options {
        padding: "x".repeat(len),
    };
    let axon = miner.axon();
    let call = client.call(&axon, synapse_type, &request, CallOptions::default());
    within(call).await.unwrap()
}

/// A request small enough to share a stream with others, and one that gets a stream of its own.
const SIZES: [usize; 2] = [10, 100_000];

#[tokio::test]
async fn a_client_moves_between_queries() {
    let Observed { miner, .. } = serve().await;
    let client = validator(CLIENT, vec![miner.axon()]).await;
    let mut addresses = Vec::new();
    let first = ask(&client, &miner, "where", 10).await;
    for len in SIZES.repeat(3) {
        client.rebind().unwrap();
        let seen = ask(&client, &miner, "where", len).await;
        assert_eq!(seen.connection_id, first.connection_id);
        assert!(!addresses.contains(&seen.remote_addr), "it did not move");
        addresses.push(seen.remote_addr);
    }
    assert!(!addresses.contains(&first.remote_addr));
    assert_one_handshake(&miner, &client, *addresses.last().unwrap());
}

#[tokio::test]
async fn a_client_moves_while_its_query_runs() {
    let Observed { miner, waits } = serve().await;
    let client = validator(CLIENT, vec![miner.axon()]).await;
    let first = ask(&client, &miner, "where", 10).await;
    let mut last = first.remote_addr;
    for len in SIZES {
        let rebind = async {
            within(waits.notified()).await;
            client.rebind().unwrap();
        };
        let (seen, ()) = tokio::join!(ask(&client, &miner, "moved", len), rebind);
        assert_eq!(seen.connection_id, first.connection_id);
        assert_ne!(seen.remote_addr, last);
        last = seen.remote_addr;
    }
    assert_one_handshake(&miner, &client, last);
}

#[tokio::test]
async fn a_client_moves_while_many_queries_run() {
    let Observed { miner, .. } = serve().await;
    let client = validator(CLIENT, vec![miner.axon()]).await;
    let first = ask(&client, &miner, "where", 10).await;
    let seen: Vec<Seen> = stream::iter(0..300)
        .map(async |n| {
            if n % 100 == 50 {
                client.rebind().unwrap();
            }
            ask(&client, &miner, "where", SIZES[n % 2]).await
        })
        .buffer_unordered(16)
        .collect()
        .await;
    assert_eq!(seen.len(), 300);
    assert!(seen.iter().all(|s| s.connection_id == first.connection_id));
    let last = ask(&client, &miner, "where", 10).await;
    assert_ne!(last.remote_addr, first.remote_addr);
    assert_one_handshake(&miner, &client, last.remote_addr);
}

/// Sends a chunk, waits for its caller to move, sends the rest.
struct Download;

const CHUNKS: usize = 64;
const CHUNK: usize = 50_000;

#[async_trait]
impl StreamHandler for Download {
    async fn handle(
        &self,
        context: RequestContext,
        _data: Payload,
        _input: ChunkStream,
        output: &mut ChunkSink,
    ) -> Result<Payload> {
        let all = Bytes::from(bytes(CHUNKS * CHUNK));
        output.send(all.slice(..CHUNK)).await?;
        let seen = moved(&context).await;
        for n in 1..CHUNKS {
            output.send(all.slice(n * CHUNK..(n + 1) * CHUNK)).await?;
        }
        Ok(Payload::from_typed(&seen)?)
    }
}

#[tokio::test]
async fn a_client_moves_while_a_stream_runs() {
    let Observed { miner, .. } = serve().await;
    let client = validator(CLIENT, vec![miner.axon()]).await;
    let first = ask(&client, &miner, "where", 10).await;
    let axon = miner.axon();
    let data = Payload::empty();
    let mut stream = within(client.open_stream(&axon, "download", &data))
        .await
        .unwrap();
    let mut received = within(stream.next_chunk()).await.unwrap().unwrap();
    client.rebind().unwrap();
    for chunk in within(stream.collect_all()).await.unwrap() {
        received.extend(chunk);
    }
    assert!(
        received == bytes(CHUNKS * CHUNK),
        "chunks are missing or mixed up"
    );
    let last = ask(&client, &miner, "where", 10).await;
    assert_eq!(last.connection_id, first.connection_id);
    assert_ne!(last.remote_addr, first.remote_addr);
    assert_one_handshake(&miner, &client, last.remote_addr);
}

/// Takes a chunk, waits for its caller to move, takes the rest and returns how much there was.
struct Upload(Arc<Notify>);

#[async_trait]
impl StreamHandler for Upload {
    async fn handle(
        &self,
        context: RequestContext,
        _data: Payload,
        mut input: ChunkStream,
        _output: &mut ChunkSink,
    ) -> Result<Payload> {
        let mut received = Vec::new();
        received.extend(input.next_chunk().await?.unwrap_or_default());
        self.0.notify_one();
        moved(&context).await;
        while let Some(chunk) = input.next_chunk().await? {
            received.extend(chunk);
        }
        Ok(Payload::from_map(&payload(received))?)
    }
}

#[tokio::test]
async fn a_client_moves_while_it_uploads() {
    let Observed { miner, waits } = serve().await;
    let client = validator(CLIENT, vec![miner.axon()]).await;
    let axon = miner.axon();
    let data = Payload::empty();
    let call = client.open_duplex(&axon, "upload", &data, CallOptions::default());
    let (mut sender, receiver) = within(call).await.unwrap().split();
    let send = async {
        let all = Bytes::from(bytes(CHUNKS * CHUNK));
        for n in 0..CHUNKS {
            if n == CHUNKS / 2 {
                within(waits.notified()).await;
                client.rebind().unwrap();
            }
            let chunk = all.slice(n * CHUNK..(n + 1) * CHUNK);
            within(sender.send(chunk)).await.unwrap();
        }
        within(sender.finish()).await.unwrap();
    };
    let (reply, ()) = tokio::join!(within(receiver.reply()), send);
    let received = reply.unwrap().data.get_bin("payload").unwrap();
    assert!(
        received == bytes(CHUNKS * CHUNK),
        "chunks are missing or mixed up"
    );
    assert_eq!(miner.server().stats().handshakes, 1);
}

fn assert_one_handshake(miner: &Miner, client: &LightningClient, last: SocketAddr) {
    let stats = miner.server().stats();
    assert_eq!(stats.handshakes, 1, "{stats:?}");
    assert_eq!(stats.callers.len(), 1);
    assert_eq!(stats.callers[0].remote_addr, last);
    let connections = client.stats().connections;
    assert_eq!(connections.len(), 1);
    assert!(connections[0].closed.is_none());
}
