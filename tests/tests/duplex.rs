//! Calls in which both sides send chunks.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use btlightning::{
    AsyncSynapseHandler, CallErrorKind, CallOptions, ChunkSink, ChunkStream, DuplexCall,
    LightningClient, LightningError, LightningServerConfig, LightningServerConfigBuilder, Payload,
    Phase, QuicRequest, RequestContext, Result, StreamHandler, StreamingSynapseHandler,
};
use btlightning_proto::{
    frame::MessageType,
    message::{self, Response, StreamEnd},
};
use bytes::Bytes;
use lightning_keys::Keypair;
use lightning_tests::{
    CLIENT, MINER, Miner, NotifyOnDrop, axon, bytes, hotkey, miner_with, payload,
    raw::{ALPN_OLD, Answer, RawClient, RawServer, frame, read_answer},
    until, validator, within,
};
use rmpv::Value;
use tokio::sync::{Notify, Semaphore, mpsc};

/// One handler for all; the synapse type says what it does.
#[derive(Default)]
struct Handler {
    dropped: Arc<Notify>,
    /// What [`read_late`](Handler::read_late) waits for.
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

#[tokio::test]
async fn a_client_streams_and_gets_one_reply() {
    let f = fixture(config()).await;
    let all = Bytes::from(bytes(3_000_000));
    // Nothing at all, nothing in a chunk, and chunks of many sizes.
    for cuts in [
        vec![],
        vec![0],
        vec![1],
        vec![0, 1, 0, 100, 5000, 70_000, 0, 1_500_000],
    ] {
        let mut call = f.open("collect").await;
        let mut sent = 0;
        for cut in cuts {
            within(call.send(all.slice(sent..sent + cut)))
                .await
                .unwrap();
            sent += cut;
        }
        let reply = within(call.reply()).await.unwrap();
        assert_eq!(reply.data.get_bin("payload").unwrap(), all[..sent]);
    }
}

#[tokio::test]
async fn a_miner_streams_and_replies() {
    let f = fixture(config()).await;
    let mut call = f.open("produce").await;
    for n in 0..10u8 {
        let chunk = within(call.next_chunk()).await.unwrap().unwrap();
        assert_eq!(chunk, vec![n; usize::from(n) * 1000]);
    }
    assert_eq!(within(call.next_chunk()).await.unwrap(), None);
    assert_eq!(within(call.next_chunk()).await.unwrap(), None);
    let reply = within(call.reply()).await.unwrap();
    assert_eq!(reply.data, question());

    // Who wants the reply only need not read the chunks.
    let call = f.open("produce").await;
    assert_eq!(within(call.reply()).await.unwrap().data, question());
}

#[tokio::test]
async fn both_stream_in_turns() {
    let f = fixture(config()).await;
    let mut call = f.open("ping-pong").await;
    let mut rounds = 0u64;
    for len in [0, 1, 100, 1200, 64 * 1024, MIB, 3, 0].repeat(10) {
        let chunk = Bytes::from(bytes(len));
        within(call.send(chunk.clone())).await.unwrap();
        let back = within(call.next_chunk()).await.unwrap().unwrap();
        assert!(back == chunk, "{len} bytes");
        rounds += 1;
    }
    within(call.finish()).await.unwrap();
    assert_eq!(within(call.next_chunk()).await.unwrap(), None);
    let reply = within(call.reply()).await.unwrap();
    let counted: HashMap<String, u64> = reply.data.deserialize().unwrap();
    assert_eq!(counted["rounds"], rounds);
}

#[tokio::test]
async fn both_stream_at_once() {
    let f = fixture(config()).await;
    let all = Bytes::from(bytes(64 * MIB));
    let (mut sender, mut receiver) = f.open("ping-pong").await.split();
    let send = async {
        for chunk in all.chunks(300_000) {
            within(sender.send(all.slice_ref(chunk))).await.unwrap();
        }
        within(sender.finish()).await.unwrap();
    };
    let receive = async {
        let mut received = 0;
        while let Some(chunk) = within(receiver.next_chunk()).await.unwrap() {
            assert!(chunk == all[received..received + chunk.len()]);
            received += chunk.len();
        }
        received
    };
    let (received, ()) = tokio::join!(receive, send);
    assert_eq!(received, all.len());
    within(receiver.reply()).await.unwrap();
}

/// A side that does not read holds the other one back.
#[tokio::test]
async fn a_sender_waits_for_its_reader() {
    let f = fixture(config()).await;
    let (mut sender, receiver) = f.open("read-late").await.split();
    let chunk = Bytes::from(vec![7; MIB]);
    let mut sent = 0u64;
    // There is no event for "it takes no more": a second without progress has to do. A slow
    // machine lets the sender wait earlier, which is as good.
    while tokio::time::timeout(Duration::from_secs(1), sender.send(chunk.clone()))
        .await
        .is_ok()
    {
        sent += 1;
        assert!(sent < 64, "nobody reads, and 64 MiB are gone");
    }
    f.handler.release.notify_one();
    // The chunk that was cut off is completed by what follows.
    within(sender.send("last")).await.unwrap();
    within(sender.finish()).await.unwrap();
    let reply = within(receiver.reply()).await.unwrap();
    let counted: HashMap<String, u64> = reply.data.deserialize().unwrap();
    assert_eq!(counted["count"], sent + 2);
}

#[tokio::test]
async fn a_miner_may_reply_before_it_has_heard_all() {
    let f = fixture(config()).await;
    // Long after: all that is sent goes nowhere.
    let mut call = f.open("reply-early").await;
    assert_eq!(within(call.next_chunk()).await.unwrap().unwrap(), "enough");
    assert_eq!(within(call.next_chunk()).await.unwrap(), None);
    let refused = async {
        loop {
            if let Err(error) = call.send(vec![7; MIB]).await {
                break error;
            }
        }
    };
    let error = within(refused).await;
    assert_eq!(error.phase(), Phase::Wait);
    assert!(matches!(error.kind(), CallErrorKind::Reset(_)), "{error}");
    within(call.finish()).await.unwrap();
    assert_eq!(within(call.reply()).await.unwrap().data, question());

    // In the middle of it, on two tasks.
    let (mut sender, receiver) = f.open("reply-early").await.split();
    let send = async { while within(sender.send(vec![7; MIB])).await.is_ok() {} };
    let (reply, ()) = tokio::join!(within(receiver.reply()), send);
    assert_eq!(reply.unwrap().data, question());
    f.assert_serves().await;
}

#[tokio::test]
async fn a_handler_that_fails_says_so_behind_its_chunks() {
    let f = fixture(config()).await;
    for behaviour in ["fail-late", "panic-late"] {
        let mut call = f.open(behaviour).await;
        assert_eq!(within(call.next_chunk()).await.unwrap().unwrap(), "one");
        assert_eq!(within(call.next_chunk()).await.unwrap().unwrap(), "two");
        assert_eq!(within(call.next_chunk()).await.unwrap(), None);
        let error = within(call.reply()).await.unwrap_err();
        assert!(
            matches!(error.kind(), CallErrorKind::Remote(text) if text == "stream processing failed"),
            "{error}"
        );
        assert!(!error.is_retry_safe());

        // The same as a plain stream.
        let request = QuicRequest::new(behaviour.into(), HashMap::new());
        let mut stream = within(f.client.query_axon_stream(f.miner.axon(), request))
            .await
            .unwrap();
        assert_eq!(within(stream.next_chunk()).await.unwrap().unwrap(), b"one");
        assert_eq!(within(stream.next_chunk()).await.unwrap().unwrap(), b"two");
        let error = within(stream.next_chunk()).await.unwrap_err();
        assert_eq!(
            error,
            LightningError::Stream("stream processing failed".into())
        );
    }
    assert_eq!(f.miner.server().stats().requests_failed, 4);
    f.assert_serves().await;
}

#[tokio::test]
async fn a_handler_learns_how_its_input_ends() {
    let f = fixture(config()).await;
    let mut call = f.open("tell-end").await;
    within(call.send("x")).await.unwrap();
    let reply = within(call.reply()).await.unwrap();
    assert_eq!(text(&reply.data, "end"), "it ended well");

    // Dropped without an end, as when the sender fails.
    let (mut sender, receiver) = f.open("tell-end").await.split();
    within(sender.send("x")).await.unwrap();
    until("the handler runs", async || {
        f.miner.server().stats().requests == 2
    })
    .await;
    drop(sender);
    let reply = within(receiver.reply()).await.unwrap();
    assert!(text(&reply.data, "end").starts_with("stream error: "));
    f.assert_serves().await;
}

#[tokio::test]
async fn input_that_is_none_ends_the_input_and_no_more() {
    let f = fixture(config().max_frame_payload_bytes(MIB)).await;
    let peer = within(RawClient::connect(f.miner.addr())).await;
    within(peer.authenticate(&Keypair::from_seed(&CLIENT))).await;
    let too_large = u32::try_from(MIB + 1).unwrap();
    for (input, expected) in [
        (
            message::encode_stream_end(&StreamEnd::failure("disk full"))
                .unwrap()
                .to_vec(),
            "disk full",
        ),
        (frame(MessageType::StreamEnd as u8, 2, &[0x92, 0xc2]), ""),
        (vec![], "closed"),
        (
            frame(MessageType::StreamChunk as u8, 9, &[0x91]),
            "closed after",
        ),
        (
            frame(MessageType::StreamChunk as u8, 2, &[0xc1, 0xc1]),
            "expected",
        ),
        (
            frame(MessageType::StreamChunk as u8, too_large, &[]),
            "exceeds maximum",
        ),
        (
            frame(MessageType::SynapsePacket as u8, 0, &[]),
            "unexpected SynapsePacket",
        ),
        (frame(99, 0, &[]), "unknown message type"),
    ] {
        let (mut send, recv) = within(peer.connection.open_bi()).await.unwrap();
        let open = message::encode_duplex_open("tell-end", &question(), 0, None).unwrap();
        let good = message::encode_chunk(&Bytes::from_static(b"good")).unwrap();
        let all = [open.to_vec(), good.to_vec(), input].concat();
        within(send.write_all(&all)).await.unwrap();
        let _ = send.finish();
        let Answer::Frame(MessageType::SynapseResponse, answer) = within(read_answer(recv)).await
        else {
            panic!("no answer where {expected:?} was expected")
        };
        let answer = Response::decode(answer).unwrap();
        assert_eq!(answer.error, None);
        let end = text(&answer.data, "end");
        assert!(end.contains(expected), "{end:?} instead of {expected:?}");
        assert_ne!(end, "it ended well");
    }
    assert_eq!(f.miner.server().stats().requests_failed, 0);
}

#[tokio::test]
async fn chunks_over_the_limit_are_not_sent() {
    let f = fixture(config()).await;
    let mut call = f.open("collect").await;
    let error = within(call.send(vec![7; 64 * MIB])).await.unwrap_err();
    assert!(matches!(error.kind(), CallErrorKind::Encode(_)), "{error}");
    // The call goes on as if nothing had been tried.
    within(call.send("small")).await.unwrap();
    let reply = within(call.reply()).await.unwrap();
    assert_eq!(reply.data.get_bin("payload").unwrap(), "small");
}

#[tokio::test]
async fn a_reply_over_the_limit_is_replaced_by_an_error() {
    let f = fixture(config().max_frame_payload_bytes(MIB)).await;
    let error = within(f.open("large-reply").await.reply())
        .await
        .unwrap_err();
    assert!(
        matches!(error.kind(), CallErrorKind::Remote(text) if text == "internal serialization error"),
        "{error}"
    );
    f.assert_serves().await;
}

#[tokio::test]
async fn a_call_that_takes_too_long_is_ended() {
    // By its caller's word.
    let f = fixture(config()).await;
    let options = CallOptions::default().timeout(Duration::from_millis(50));
    let error = within(f.open_with("hang", options).await.reply())
        .await
        .unwrap_err();
    assert_eq!(error.phase(), Phase::Wait);
    assert!(error.is_timeout(), "{error}");
    assert!(!error.is_retry_safe());
    within(f.handler.dropped.notified()).await;
    f.assert_serves().await;

    // By the server's limit.
    let f = fixture(config().handler_timeout_secs(1)).await;
    let error = within(f.open("hang").await.reply()).await.unwrap_err();
    assert!(
        matches!(error.kind(), CallErrorKind::Remote(text) if text == "handler timed out"),
        "{error}"
    );
    within(f.handler.dropped.notified()).await;
    let request = QuicRequest::new("hang".into(), HashMap::new());
    let mut stream = within(f.client.query_axon_stream(f.miner.axon(), request))
        .await
        .unwrap();
    let error = within(stream.next_chunk()).await.unwrap_err();
    assert_eq!(error, LightningError::Stream("handler timed out".into()));
    f.assert_serves().await;
}

/// The time runs out in the middle of a chunk, whose rest must not be taken for something else.
#[tokio::test]
async fn a_stream_cut_in_the_middle_of_a_chunk_is_not_misread() {
    let f = fixture(config().handler_timeout_secs(1)).await;
    let request = QuicRequest::new("flood".into(), HashMap::new());
    let mut stream = within(f.client.query_axon_stream(f.miner.axon(), request))
        .await
        .unwrap();
    let mut call = f.open("flood").await;
    // Nobody reads until both handlers have been dropped.
    for _ in 0..2 {
        within(f.handler.dropped.notified()).await;
    }
    let mut chunks = 0;
    let error = loop {
        match within(stream.next_chunk()).await {
            Ok(Some(chunk)) => assert!(chunk == [7; MIB]),
            Ok(None) => panic!("the stream seems whole after {chunks} chunks"),
            Err(error) => break error,
        }
        chunks += 1;
    };
    assert_eq!(error, LightningError::Stream("handler timed out".into()));
    while let Some(chunk) = within(call.next_chunk()).await.unwrap() {
        assert!(chunk == [7; MIB][..]);
    }
    let error = within(call.reply()).await.unwrap_err();
    assert!(
        matches!(error.kind(), CallErrorKind::Remote(text) if text == "handler timed out"),
        "{error}"
    );
    f.assert_serves().await;
}

#[tokio::test]
async fn a_stream_handler_serves_plain_streams_too() {
    let f = fixture(config()).await;
    let request = QuicRequest::new("produce".into(), payload(vec![1]));
    let mut stream = within(f.client.query_axon_stream(f.miner.axon(), request))
        .await
        .unwrap();
    let chunks = within(stream.collect_all()).await.unwrap();
    let expected: Vec<Vec<u8>> = (0..10u8).map(|n| vec![n; usize::from(n) * 1000]).collect();
    assert_eq!(chunks, expected);
    // Such a call has no input: it has ended well before it began.
    let request = QuicRequest::new("collect".into(), HashMap::new());
    let mut stream = within(f.client.query_axon_stream(f.miner.axon(), request))
        .await
        .unwrap();
    assert_eq!(within(stream.next_chunk()).await.unwrap(), None);
}

/// A handler of the older kinds.
struct Old;

#[async_trait]
impl StreamingSynapseHandler for Old {
    async fn handle(
        &self,
        _: &str,
        data: HashMap<String, Value>,
        sender: mpsc::Sender<Vec<u8>>,
    ) -> Result<()> {
        assert_eq!(data, payload(b"question".to_vec()));
        for n in 0..3 {
            sender
                .send(vec![n; 10])
                .await
                .map_err(LightningError::handler)?;
        }
        Ok(())
    }
}

#[async_trait]
impl AsyncSynapseHandler for Old {
    async fn handle(
        &self,
        _: &str,
        data: HashMap<String, Value>,
    ) -> Result<HashMap<String, Value>> {
        Ok(data)
    }
}

#[tokio::test]
async fn older_streaming_handlers_serve_duplex_calls_too() {
    let f = fixture(config()).await;
    f.miner
        .server()
        .register_streaming_handler("old".into(), Arc::new(Old))
        .await
        .unwrap();
    let mut call = f.open("old").await;
    for n in 0..3 {
        assert_eq!(
            within(call.next_chunk()).await.unwrap().unwrap(),
            [n; 10][..]
        );
    }
    let reply = within(call.reply()).await.unwrap();
    assert!(reply.data.is_empty());
}

#[tokio::test]
async fn calls_that_nobody_serves_are_refused() {
    let f = fixture(config()).await;
    f.miner
        .server()
        .register_async_synapse_handler("unary".into(), Arc::new(Old))
        .await
        .unwrap();
    for synapse_type in ["nobody", "unary"] {
        let error = within(f.open(synapse_type).await.reply())
            .await
            .unwrap_err();
        assert!(matches!(error.kind(), CallErrorKind::Remote(_)), "{error}");
        assert!(error.is_retry_safe(), "no handler was asked: {error}");
    }
    assert_eq!(f.miner.server().stats().requests, 0);
    f.assert_serves().await;
}

#[tokio::test]
async fn a_peer_of_the_old_protocol_is_not_asked() {
    let server = RawServer::bind(ALPN_OLD);
    let target = axon(&hotkey(MINER), server.addr());
    let asked = Arc::new(Semaphore::new(0));
    let streams = asked.clone();
    let serving = tokio::spawn(async move {
        let peer = server.accept().await;
        peer.authenticate(&Keypair::from_seed(&MINER)).await;
        while peer.connection.accept_bi().await.is_ok() {
            streams.add_permits(1);
        }
    });
    let client = validator(CLIENT, vec![target.clone()]).await;
    let data = question();
    let call = client.open_duplex(&target, "collect", &data, CallOptions::default());
    let error = within(call).await.unwrap_err();
    assert!(
        matches!(error.kind(), CallErrorKind::Unsupported),
        "{error}"
    );
    assert!(error.is_retry_safe());
    assert!(error.to_string().contains("`btlightning`"), "{error}");
    assert!(client.stats().connections[0].closed.is_none());
    within(client.close_all_connections()).await.unwrap();
    within(serving).await.unwrap();
    assert_eq!(asked.available_permits(), 0);
}
