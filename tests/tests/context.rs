//! What handlers know about their callers, and which handler is asked.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use btlightning::{
    AsyncSynapseHandler, CallErrorKind, CallOptions, ChunkSink, ChunkStream, LightningClient,
    LightningServer, LightningServerConfig, Payload, QuicRequest, RequestContext, Result,
    StreamHandler, StreamingSynapseHandler, SynapseHandler, typed_handler, typed_request_handler,
};
use futures::future::join_all;
use lightning_keys::Keypair;
use lightning_tests::{
    CLIENT, MINER, Miner, OTHER_CLIENT, hotkey, miner_with, payload,
    raw::{ALPN_OLD, RawClient, close_of},
    until, validator, within,
};
use rmpv::Value;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

/// A request small enough to share a stream with others, and one that gets a stream of its own.
const SIZES: [usize; 2] = [10, 100_000];

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Padding {
    padding: String,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Seen {
    hotkey: String,
    connection_id: String,
    remote_addr: SocketAddr,
    synapse_type: String,
    time_left_ms: u64,
}

impl Seen {
    fn of(context: &RequestContext) -> Self {
        // The two ways to ask agree.
        assert!(context.deadline() > std::time::Instant::now());
        assert!(!context.is_cancelled());
        Self {
            hotkey: context.hotkey().to_owned(),
            connection_id: context.connection_id().to_owned(),
            remote_addr: context.remote_addr(),
            synapse_type: context.synapse_type().to_owned(),
            time_left_ms: context.time_left().as_millis() as u64,
        }
    }
}

/// Handlers of a call have 20 seconds.
async fn serve() -> Miner {
    let config = LightningServerConfig::builder().handler_timeout_secs(20);
    let server = miner_with(MINER, 0, config.build().unwrap());
    server.register_handler(
        "whoami",
        typed_request_handler(|context: RequestContext, _: Padding| async move {
            Result::Ok(Seen::of(&context))
        }),
    );
    server.register_stream_handler("whoami-stream", Arc::new(WhoAmI));
    Miner::serve(server).await
}

struct WhoAmI;

#[async_trait]
impl StreamHandler for WhoAmI {
    async fn handle(
        &self,
        context: RequestContext,
        _data: Payload,
        _input: ChunkStream,
        output: &mut ChunkSink,
    ) -> Result<Payload> {
        let seen = Payload::from_typed(&Seen::of(&context))?;
        output.send(seen.as_bytes().clone()).await?;
        Ok(seen)
    }
}

fn padding(len: usize) -> Padding {
    Padding {
        padding: "x".repeat(len),
    }
}

async fn ask(client: &LightningClient, miner: &Miner, len: usize, options: CallOptions) -> Seen {
    within(client.call(&miner.axon(), "whoami", &padding(len), options))
        .await
        .unwrap()
}

async fn ask_raw(peer: &RawClient) -> Seen {
    let request = Payload::from_typed(&padding(10)).unwrap();
    let answer = within(peer.request("whoami", &request)).await;
    assert_eq!(answer.error, None);
    answer.data.deserialize().unwrap()
}

#[tokio::test]
async fn a_handler_knows_its_caller() {
    let miner = serve().await;
    for alpn in [lightning_tests::raw::ALPN_BOTH, ALPN_OLD] {
        let peer = within(RawClient::connect_with(miner.addr(), alpn)).await;
        let accepted = within(peer.authenticate(&Keypair::from_seed(&CLIENT))).await;
        let seen = ask_raw(&peer).await;
        assert_eq!(seen.hotkey, hotkey(CLIENT));
        // The name that the handshake gave to the connection, on both sides.
        assert_eq!(seen.connection_id, accepted.connection_id);
        assert!(
            seen.connection_id
                .starts_with(&format!("conn_{}_", hotkey(CLIENT)))
        );
        assert_eq!(seen.remote_addr, peer.endpoint.local_addr().unwrap());
        assert_eq!(seen.synapse_type, "whoami");
        assert!((1..=20_000).contains(&seen.time_left_ms), "{seen:?}");
        let stats = miner.server().stats();
        assert_eq!(stats.callers.len(), 1);
        assert_eq!(stats.callers[0].hotkey, seen.hotkey);
        assert_eq!(stats.callers[0].connection_id, seen.connection_id);
        assert_eq!(stats.callers[0].remote_addr, seen.remote_addr);
    }
}

#[tokio::test]
async fn the_caller_is_the_same_however_it_asks() {
    let miner = serve().await;
    let client = validator(CLIENT, vec![miner.axon()]).await;
    let small = ask(&client, &miner, SIZES[0], CallOptions::default()).await;
    let large = ask(&client, &miner, SIZES[1], CallOptions::default()).await;
    let data = Payload::from_typed(&padding(10)).unwrap();
    let axon = miner.axon();
    let mut stream = within(client.open_stream(&axon, "whoami-stream", &data))
        .await
        .unwrap();
    let chunk = within(stream.next_bytes()).await.unwrap().unwrap();
    let streamed: Seen = Payload::from_bytes(chunk).unwrap().deserialize().unwrap();
    assert_eq!(within(stream.next_bytes()).await.unwrap(), None);
    let duplex = client.open_duplex(&axon, "whoami-stream", &data, CallOptions::default());
    let reply = within(within(duplex).await.unwrap().reply()).await.unwrap();
    let duplex: Seen = reply.data.deserialize().unwrap();

    assert_eq!(small.hotkey, hotkey(CLIENT));
    for other in [&large, &streamed, &duplex] {
        assert_eq!(other.hotkey, small.hotkey);
        assert_eq!(other.connection_id, small.connection_id);
        assert_eq!(other.remote_addr, small.remote_addr);
    }
    assert_eq!(streamed.synapse_type, "whoami-stream");
    assert_eq!(duplex.synapse_type, "whoami-stream");
    assert_eq!(small.remote_addr.ip().to_string(), "127.0.0.1");
}

/// What the caller will not wait for, the handler need not begin.
#[tokio::test]
async fn the_deadline_is_the_earlier_of_both_sides() {
    let miner = serve().await;
    let client = validator(CLIENT, vec![miner.axon()]).await;
    let short = CallOptions::default().timeout(Duration::from_secs(15));
    let long = CallOptions::default().timeout(Duration::from_secs(1000));
    assert!(ask(&client, &miner, 10, short).await.time_left_ms <= 15_000);
    let seen = ask(&client, &miner, 10, long).await;
    assert!((1..=20_000).contains(&seen.time_left_ms), "{seen:?}");

    let axon = miner.axon();
    let data = Payload::empty();
    for (options, most) in [(short, 15_000), (long, 20_000)] {
        let call = within(client.open_duplex(&axon, "whoami-stream", &data, options)).await;
        let reply = within(call.unwrap().reply()).await.unwrap();
        let seen: Seen = reply.data.deserialize().unwrap();
        assert!((1..=most).contains(&seen.time_left_ms), "{seen:?}");
    }
}

#[tokio::test]
async fn two_validators_are_told_apart() {
    let miner = serve().await;
    let one = validator(CLIENT, vec![miner.axon()]).await;
    let two = validator(OTHER_CLIENT, vec![miner.axon()]).await;
    let asks = (0..100).map(async |n| {
        let (client, seed) = if n % 2 == 0 {
            (&one, CLIENT)
        } else {
            (&two, OTHER_CLIENT)
        };
        let seen = ask(client, &miner, SIZES[n % 4 / 2], CallOptions::default()).await;
        assert_eq!(seen.hotkey, hotkey(seed));
        seen.connection_id
    });
    let mut ids = join_all(asks).await;
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 2);
}

/// Several hotkeys of one validator can share a connection; requests do not say whose they are.
#[tokio::test]
async fn requests_belong_to_the_hotkey_that_authenticated_last() {
    let miner = serve().await;
    let [one, two] = [CLIENT, OTHER_CLIENT].map(|seed| Keypair::from_seed(&seed));
    let peer = within(RawClient::connect(miner.addr())).await;
    let first = within(peer.authenticate(&one)).await;
    assert_eq!(ask_raw(&peer).await.hotkey, one.hotkey());
    let second = within(peer.authenticate(&two)).await;
    assert_ne!(first.connection_id, second.connection_id);
    let seen = ask_raw(&peer).await;
    assert_eq!(seen.hotkey, two.hotkey());
    assert_eq!(seen.connection_id, second.connection_id);
    assert_eq!(miner.server().stats().callers.len(), 2);

    // It moves to another connection; the first one is left to whom it still belongs.
    let elsewhere = within(RawClient::connect(miner.addr())).await;
    within(elsewhere.authenticate(&two)).await;
    assert_eq!(ask_raw(&elsewhere).await.hotkey, two.hotkey());
    let seen = ask_raw(&peer).await;
    assert_eq!(seen.hotkey, one.hotkey());
    assert_eq!(seen.connection_id, first.connection_id);

    // With its last hotkey a connection ends.
    within(elsewhere.authenticate(&one)).await;
    let reason = within(peer.connection.closed()).await;
    assert_eq!(close_of(&reason).0, "replaced");
    assert_eq!(ask_raw(&elsewhere).await.hotkey, one.hotkey());
    until("both live on one connection", async || {
        let callers = miner.server().stats().callers;
        let addr = elsewhere.endpoint.local_addr().unwrap();
        callers.len() == 2 && callers.iter().all(|c| c.remote_addr == addr)
    })
    .await;
}

/// Says which kind of handler was asked.
struct Kind(&'static str);

fn says(kind: &str) -> HashMap<String, Value> {
    HashMap::from([("kind".to_owned(), Value::from(kind))])
}

impl SynapseHandler for Kind {
    fn handle(&self, _: &str, _: HashMap<String, Value>) -> Result<HashMap<String, Value>> {
        Ok(says(self.0))
    }
}

#[async_trait]
impl AsyncSynapseHandler for Kind {
    async fn handle(&self, _: &str, _: HashMap<String, Value>) -> Result<HashMap<String, Value>> {
        Ok(says(self.0))
    }
}

#[async_trait]
impl StreamingSynapseHandler for Kind {
    async fn handle(
        &self,
        _: &str,
        _: HashMap<String, Value>,
        sender: mpsc::Sender<Vec<u8>>,
    ) -> Result<()> {
        let _ = sender.send(self.0.into()).await;
        Ok(())
    }
}

#[async_trait]
impl StreamHandler for Kind {
    async fn handle(
        &self,
        _: RequestContext,
        _: Payload,
        _: ChunkStream,
        output: &mut ChunkSink,
    ) -> Result<Payload> {
        output.send(self.0).await?;
        Ok(Payload::empty())
    }
}

/// Returns the kind of handler that serves a type, by asking in both ways and in both sizes.
async fn kind_of(client: &LightningClient, miner: &Miner, synapse_type: &str) -> String {
    let mut kinds = Vec::new();
    for len in SIZES {
        let request = QuicRequest::new(synapse_type.into(), payload(vec![7; len]));
        let unary = within(client.query_axon(miner.axon(), request.clone())).await;
        let mut stream = within(client.query_axon_stream(miner.axon(), request))
            .await
            .unwrap();
        let chunks = within(stream.collect_all()).await;
        kinds.push(match (unary, chunks) {
            (Ok(answer), Err(error)) => {
                assert!(
                    error.to_string().contains("in place of a stream"),
                    "{error}"
                );
                let data = answer.into_result().unwrap().data;
                data["kind"].as_str().unwrap().to_owned()
            }
            (Err(error), Ok(chunks)) => {
                assert!(
                    error.to_string().contains("use query_axon_stream"),
                    "{error}"
                );
                String::from_utf8(chunks.concat()).unwrap()
            }
            (unary, chunks) => panic!("{synapse_type}: {unary:?} and {chunks:?}"),
        });
    }
    kinds.dedup();
    assert_eq!(kinds.len(), 1, "{synapse_type}: {kinds:?}");
    kinds.remove(0)
}

#[tokio::test]
async fn streaming_goes_before_async_before_blocking() {
    let miner = serve().await;
    let client = validator(CLIENT, vec![miner.axon()]).await;
    let server: &LightningServer = miner.server();
    // Registered while the server runs, and seen by the next request.
    server
        .register_synapse_handler("kind".into(), Arc::new(Kind("blocking")))
        .await
        .unwrap();
    assert_eq!(kind_of(&client, &miner, "kind").await, "blocking");
    server
        .register_async_synapse_handler("kind".into(), Arc::new(Kind("async")))
        .await
        .unwrap();
    assert_eq!(kind_of(&client, &miner, "kind").await, "async");
    server
        .register_streaming_handler("kind".into(), Arc::new(Kind("streaming")))
        .await
        .unwrap();
    assert_eq!(kind_of(&client, &miner, "kind").await, "streaming");
    // A handler of a kind that goes later changes nothing.
    server
        .register_synapse_handler("kind".into(), Arc::new(Kind("blocking again")))
        .await
        .unwrap();
    assert_eq!(kind_of(&client, &miner, "kind").await, "streaming");
}

#[tokio::test]
async fn old_and_new_handlers_work_side_by_side() {
    let miner = serve().await;
    let client = validator(CLIENT, vec![miner.axon()]).await;
    let server = miner.server();
    server
        .register_synapse_handler("blocking".into(), Arc::new(Kind("blocking")))
        .await
        .unwrap();
    server
        .register_async_synapse_handler("async".into(), Arc::new(Kind("async")))
        .await
        .unwrap();
    server
        .register_streaming_handler("streaming".into(), Arc::new(Kind("streaming")))
        .await
        .unwrap();
    server.register_stream_handler("chunks", Arc::new(Kind("chunks")));
    server
        .register_synapse_handler(
            "typed".into(),
            typed_handler(|_: HashMap<String, Value>| Result::Ok(says("typed"))),
        )
        .await
        .unwrap();
    for kind in ["blocking", "async", "streaming", "chunks", "typed"] {
        assert_eq!(kind_of(&client, &miner, kind).await, kind);
    }
    let seen = ask(&client, &miner, 10, CallOptions::default()).await;
    assert_eq!(seen.hotkey, hotkey(CLIENT));

    // Of one kind, the last one registered serves: with a context or without.
    server
        .register_async_synapse_handler("whoami".into(), Arc::new(Kind("replaced")))
        .await
        .unwrap();
    assert_eq!(kind_of(&client, &miner, "whoami").await, "replaced");
    server.register_handler(
        "async",
        typed_request_handler(
            |context: RequestContext, _: HashMap<String, Value>| async move {
                Result::Ok(says(context.synapse_type()))
            },
        ),
    );
    assert_eq!(kind_of(&client, &miner, "async").await, "async");
    server.register_stream_handler("streaming", Arc::new(Kind("chunks")));
    assert_eq!(kind_of(&client, &miner, "streaming").await, "chunks");
}

/// A context says nothing of what the handler made of it: its error stays with the server.
#[tokio::test]
async fn an_error_of_a_handler_with_context_stays_with_the_server() {
    let miner = serve().await;
    let client = validator(CLIENT, vec![miner.axon()]).await;
    miner.server().register_handler(
        "fails",
        typed_request_handler(|_: RequestContext, _: Padding| async move {
            Err::<Padding, _>("a secret")
        }),
    );
    miner.server().register_handler(
        "panics",
        typed_request_handler(|_: RequestContext, request: Padding| async move {
            assert!(request.padding.is_empty(), "a secret");
            Result::Ok(request)
        }),
    );
    for synapse_type in ["fails", "panics"] {
        for len in SIZES {
            let axon = miner.axon();
            let request = padding(len);
            let call =
                client.call::<_, Padding>(&axon, synapse_type, &request, CallOptions::default());
            let error = within(call).await.unwrap_err();
            assert!(
                matches!(error.kind(), CallErrorKind::Remote(text) if text == "request processing failed"),
                "{error}"
            );
            assert!(!error.is_retry_safe());
        }
    }
    assert_eq!(miner.server().stats().requests_failed, 4);
    ask(&client, &miner, 10, CallOptions::default()).await;
}
