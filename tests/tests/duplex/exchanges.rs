//! Chunks in both directions, and who may send them.

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use btlightning::{
    AsyncSynapseHandler, CallErrorKind, CallOptions, LightningError, QuicRequest, Result,
    StreamingSynapseHandler,
};
use bytes::Bytes;
use lightning_keys::Keypair;
use lightning_tests::{
    CLIENT, MINER, axon, bytes, hotkey, payload,
    raw::{ALPN_OLD, RawServer},
    validator, within,
};
use rmpv::Value;
use tokio::sync::{Semaphore, mpsc};

use crate::{MIB, config, fixture, question};

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
