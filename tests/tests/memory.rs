//! What peers can make us hold: bounds on the heap, counted by its allocator.
//!
//! Both ends live in one process, so what the sender holds counts too. The tests of this file run
//! one at a time: the heap is one for all.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use btlightning::{
    CallOptions, ChunkSink, ChunkStream, LightningServerConfig, Payload, QuicRequest,
    RequestContext, Result, StreamHandler, StreamingSynapseHandler,
};
use btlightning_proto::{frame::MessageType, limits::EAGER_ALLOCATION};
use bytes::Bytes;
use futures::future::join_all;
use lightning_keys::Keypair;
use lightning_tests::{
    CLIENT, MINER, Miner, echo, miner_with,
    raw::{Answer, RawClient, frame, honest_frame},
    until, validator, within,
};
use peak_alloc::PeakAlloc;
use rmpv::Value;
use tokio::sync::{Mutex, MutexGuard, Notify, mpsc};

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

const MIB: usize = 1024 * 1024;

/// Held by the test that measures.
static TURN: Mutex<()> = Mutex::const_new(());

/// Watches how far the heap grows from now on.
struct Growth {
    _turn: MutexGuard<'static, ()>,
    start: usize,
}

impl Growth {
    async fn turn() -> Self {
        Self {
            _turn: TURN.lock().await,
            start: 0,
        }
    }

    /// Counts from here, when all that does not matter has been made.
    fn start(&mut self) {
        HEAP.reset_peak_usage();
        self.start = HEAP.current_usage();
    }

    #[track_caller]
    fn assert_below(&self, limit: usize) {
        let grown = HEAP.peak_usage().saturating_sub(self.start);
        assert!(
            grown < limit,
            "{grown} bytes more than before, {limit} allowed"
        );
    }
}

async fn serve() -> Miner {
    let config = LightningServerConfig::builder()
        .handshake_timeout_secs(2)
        .build()
        .unwrap();
    let server = miner_with(MINER, 0, config);
    server
        .register_synapse_handler("echo".into(), echo())
        .await
        .unwrap();
    Miner::serve(server).await
}

/// Sixteen strangers push 64 MiB each.
#[tokio::test]
async fn strangers_make_us_hold_next_to_nothing() {
    let mut growth = Growth::turn().await;
    for head in [
        frame(MessageType::HandshakeRequest as u8, 4096, &[0x94]),
        frame(MessageType::SynapsePacket as u8, 64 * 1024 * 1024, &[0x93]),
    ] {
        let miner = serve().await;
        let mut strangers = Vec::new();
        for _ in 0..16 {
            strangers.push(within(RawClient::connect(miner.addr())).await);
        }
        growth.start();
        let chunk: Arc<[u8]> = vec![0xc0; 64 * 1024].into();
        let pushes = strangers.iter().map(async |stranger| {
            let mut streams = Vec::new();
            while let Ok((mut send, recv)) = stranger.connection.open_bi().await {
                let (head, chunk) = (head.clone(), chunk.clone());
                streams.push(tokio::spawn(async move {
                    let _recv = recv;
                    let mut sent = send.write_all(&head).await.is_ok();
                    while sent {
                        sent = send.write_all(&chunk).await.is_ok();
                    }
                }));
            }
            join_all(streams).await;
        });
        within(join_all(pushes)).await;
        // For each: a receive window, a packet's worth of overhead for each piece, and what the
        // sending side keeps.
        growth.assert_below(16 * 512 * 1024);
    }
}

/// What a frame declares is worth little until it has come.
#[tokio::test]
async fn declared_lengths_cost_little() {
    let mut growth = Growth::turn().await;
    let miner = serve().await;
    let peer = within(RawClient::connect(miner.addr())).await;
    within(peer.authenticate(&Keypair::from_seed(&CLIENT))).await;
    growth.start();
    // Nearly as many as may be open at a time, each said to have 64 MiB: 7.5 GiB in all.
    const STREAMS: usize = 120;
    let head = frame(
        MessageType::SynapsePacket as u8,
        64 * 1024 * 1024,
        &[0x93; 1000],
    );
    let mut open = Vec::new();
    for _ in 0..STREAMS {
        let (mut send, recv) = within(peer.connection.open_bi()).await.unwrap();
        within(send.write_all(&head)).await.unwrap();
        open.push((send, recv));
    }
    // All of it has been read: this came behind.
    let answer = within(peer.request("echo", &Payload::empty())).await;
    assert!(answer.success);
    growth.assert_below(STREAMS * EAGER_ALLOCATION + 16 * MIB);
}

/// Lengths within a payload neither.
#[tokio::test]
async fn declared_counts_cost_nothing() {
    let mut growth = Growth::turn().await;
    let miner = serve().await;
    let peer = within(RawClient::connect(miner.addr())).await;
    within(peer.authenticate(&Keypair::from_seed(&CLIENT))).await;
    growth.start();
    for marker in [0xc6, 0xc9, 0xdb, 0xdd, 0xdf] {
        for count in [u32::MAX, 0x7fff_ffff, 0x0100_0000] {
            let mut bytes = b"\x93\xa4echo\x81\xa1k".to_vec();
            bytes.push(marker);
            bytes.extend(count.to_be_bytes());
            bytes.extend([0; 100]);
            let bytes = honest_frame(MessageType::SynapsePacket, &bytes);
            let answer = within(peer.exchange(&bytes)).await;
            assert!(matches!(answer, Answer::Frame(..)), "{answer:?}");
        }
    }
    growth.assert_below(MIB);
}

/// A tree of values costs more than the bytes they came in; the number of values is what bounds it.
#[tokio::test]
async fn many_small_values_cost_what_they_must() {
    let mut growth = Growth::turn().await;
    let miner = serve().await;
    let peer = within(RawClient::connect(miner.addr())).await;
    within(peer.authenticate(&Keypair::from_seed(&CLIENT))).await;
    growth.start();
    let values = 4 * MIB;
    let mut bytes = b"\x93\xa4echo\x81\xa1k\xdd".to_vec();
    bytes.extend(u32::try_from(values).unwrap().to_be_bytes());
    bytes.extend(vec![0xc0; values]);
    bytes.push(0);
    let request = honest_frame(MessageType::SynapsePacket, &bytes);
    let answer = within(peer.exchange(&request)).await;
    assert!(matches!(answer, Answer::Frame(..)), "{answer:?}");
    growth.assert_below(values * 96);
}

/// Sends 64 MiB, or takes none of it until it may.
#[derive(Default)]
struct Bulk {
    release: Notify,
}

#[async_trait]
impl StreamHandler for Bulk {
    async fn handle(
        &self,
        context: RequestContext,
        _data: Payload,
        mut input: ChunkStream,
        output: &mut ChunkSink,
    ) -> Result<Payload> {
        let mut taken = 0u64;
        if context.synapse_type() == "upload" {
            self.release.notified().await;
            while let Some(chunk) = input.next_chunk().await? {
                taken += chunk.len() as u64;
            }
        } else {
            for _ in 0..64 {
                output.send(vec![7; MIB]).await?;
            }
        }
        Ok(Payload::from_typed(&HashMap::from([("taken", taken)]))?)
    }
}

#[async_trait]
impl StreamingSynapseHandler for Bulk {
    async fn handle(
        &self,
        _: &str,
        _: HashMap<String, Value>,
        sender: mpsc::Sender<Vec<u8>>,
    ) -> Result<()> {
        for _ in 0..1024 {
            let _ = sender.send(vec![7; 64 * 1024]).await;
        }
        Ok(())
    }
}

/// What a stream may hold between a fast and a slow side: its window at both ends, a few chunks,
/// and as much again for the joints between packets.
const STREAM: usize = 56 * MIB;

#[tokio::test]
async fn uploads_wait_for_the_handler() {
    let mut growth = Growth::turn().await;
    let miner = serve().await;
    let bulk = Arc::new(Bulk::default());
    miner
        .server()
        .register_stream_handler("upload", bulk.clone());
    let client = validator(CLIENT, vec![miner.axon()]).await;
    let (axon, data) = (miner.axon(), Payload::empty());
    let call = client.open_duplex(&axon, "upload", &data, CallOptions::default());
    let (mut sender, receiver) = within(call).await.unwrap().split();
    growth.start();
    let chunk = Bytes::from(vec![7; MIB]);
    let send = async {
        for _ in 0..64 {
            // Stuck for a second: then it is time to read.
            let sending = sender.send(chunk.clone());
            tokio::pin!(sending);
            match tokio::time::timeout(Duration::from_secs(1), &mut sending).await {
                Ok(sent) => sent.unwrap(),
                Err(_) => {
                    bulk.release.notify_one();
                    within(sending).await.unwrap();
                }
            }
        }
        within(sender.finish()).await.unwrap();
    };
    let (reply, ()) = tokio::join!(within(receiver.reply()), send);
    let taken: HashMap<String, usize> = reply.unwrap().data.deserialize().unwrap();
    assert_eq!(taken["taken"], 64 * MIB);
    growth.assert_below(STREAM);
}

#[tokio::test]
async fn handlers_wait_for_the_client() {
    let mut growth = Growth::turn().await;
    let miner = serve().await;
    let bulk = Arc::new(Bulk::default());
    miner
        .server()
        .register_stream_handler("download", bulk.clone());
    miner
        .server()
        .register_streaming_handler("channel".into(), bulk)
        .await
        .unwrap();
    let client = validator(CLIENT, vec![miner.axon()]).await;
    for synapse_type in ["download", "channel"] {
        growth.start();
        let request = QuicRequest::new(synapse_type.into(), HashMap::new());
        let mut stream = within(client.query_axon_stream(miner.axon(), request))
            .await
            .unwrap();
        let stats = || client.stats().connections[0].received_bytes;
        // Until nothing comes any more: the handler waits.
        let mut before = stats();
        until("no more comes", async || {
            tokio::time::sleep(Duration::from_millis(300)).await;
            stats() - std::mem::replace(&mut before, stats()) < 10_000
        })
        .await;
        let mut received = 0;
        while let Some(chunk) = within(stream.next_chunk()).await.unwrap() {
            received += chunk.len();
        }
        assert_eq!(received, 64 * MIB);
        growth.assert_below(STREAM);
    }
}
