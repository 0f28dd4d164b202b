//! How servers and clients end, and what the other side learns of it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use btlightning::{
    CallError, CallErrorKind, CallOptions, ChunkSink, ChunkStream, LightningClient,
    LightningServer, LightningServerConfig, Payload, Phase, QuicAxonInfo, Reply, RequestContext,
    RequestHandler, Result, StreamHandler,
};
use futures::{FutureExt, future::join_all};
use lightning_tests::{
    CLIENT, MINER, OTHER_CLIENT, axon, echo, hotkey, miner_with, payload, raw::close_of, until,
    validator, within,
};
use quinn::ConnectionError;
use tokio::{
    sync::{Notify, Semaphore},
    task::JoinHandle,
};

/// A handler that answers with as many bytes as it got, once it may.
struct Held {
    started: Arc<Notify>,
    release: Arc<Semaphore>,
}

impl Held {
    fn new() -> Self {
        Self {
            started: Arc::default(),
            release: Arc::new(Semaphore::new(0)),
        }
    }
}

#[async_trait]
impl RequestHandler for Held {
    async fn handle(&self, _context: RequestContext, data: Payload) -> Result<Payload> {
        self.started.notify_one();
        self.release.acquire().await.unwrap().forget();
        Ok(data)
    }
}

#[async_trait]
impl StreamHandler for Held {
    async fn handle(
        &self,
        _context: RequestContext,
        data: Payload,
        _input: ChunkStream,
        output: &mut ChunkSink,
    ) -> Result<Payload> {
        output.send("first").await?;
        self.started.notify_one();
        self.release.acquire().await.unwrap().forget();
        output.send("last").await?;
        Ok(data)
    }
}

/// A server that is served, and can be stopped while it is used.
struct Stoppable {
    server: Arc<LightningServer>,
    axon: QuicAxonInfo,
    serving: JoinHandle<Result<()>>,
    started: Arc<Notify>,
    release: Arc<Semaphore>,
}

async fn serve() -> Stoppable {
    serve_at(0).await
}

async fn serve_at(port: u16) -> Stoppable {
    let config = LightningServerConfig::builder()
        .shutdown_grace_secs(50)
        .build()
        .unwrap();
    let mut server = miner_with(MINER, port, config);
    let held = Arc::new(Held::new());
    server.register_handler("held", held.clone());
    server.register_stream_handler("held-stream", held.clone());
    server
        .register_synapse_handler("echo".into(), echo())
        .await
        .unwrap();
    // A port that was given up a moment ago may not be free yet.
    until("the port is free", async || server.start().await.is_ok()).await;
    let server = Arc::new(server);
    let serving = tokio::spawn({
        let server = server.clone();
        async move { server.serve_forever().await }
    });
    Stoppable {
        axon: axon(&hotkey(MINER), server.local_addr().unwrap()),
        server,
        serving,
        started: held.started.clone(),
        release: held.release.clone(),
    }
}

fn data(len: usize) -> Payload {
    Payload::from_map(&payload(vec![7; len])).unwrap()
}

async fn ask(
    client: &LightningClient,
    axon: &QuicAxonInfo,
    synapse_type: &str,
    len: usize,
) -> std::result::Result<Reply, CallError> {
    let data = data(len);
    within(client.call_payload(axon, synapse_type, &data, CallOptions::default())).await
}

/// Small enough to share a stream with others, on a stream of its own, longer than any buffer.
const SIZES: [usize; 3] = [10, 100_000, 20_000_000];

/// Waits until the server takes no new requests, and returns what it says to them.
async fn until_draining(client: &LightningClient, axon: &QuicAxonInfo) -> CallError {
    let mut refusal = None;
    until("the server takes no requests", async || {
        refusal = ask(client, axon, "echo", 10).await.err();
        refusal.is_some()
    })
    .await;
    refusal.unwrap()
}

#[tokio::test]
async fn a_running_handler_finishes_and_its_answer_arrives() {
    for len in SIZES {
        let miner = serve().await;
        let client = validator(CLIENT, vec![miner.axon.clone()]).await;
        let other = validator(OTHER_CLIENT, vec![miner.axon.clone()]).await;
        let running = ask(&client, &miner.axon, "held", len);
        let stop = async {
            within(miner.started.notified()).await;
            let stop = tokio::spawn({
                let server = miner.server.clone();
                async move { server.stop().await }
            });
            // Another validator is told to go elsewhere, on a lane and on a stream.
            for size in [10, 100_000] {
                until_draining(&other, &miner.axon).await;
                let error = ask(&other, &miner.axon, "echo", size).await.unwrap_err();
                assert!(
                    matches!(error.kind(), CallErrorKind::Remote(text) if text == "server shutting down"),
                    "{error}"
                );
                assert!(error.is_retry_safe(), "{error}");
            }
            assert!(!stop.is_finished(), "a handler is running");
            miner.release.add_permits(1);
            within(stop).await.unwrap().unwrap();
        };
        let (answer, ()) = tokio::join!(running, stop);
        assert!(answer.unwrap().data == data(len), "{len} bytes");
        within(miner.serving).await.unwrap().unwrap();
        assert_told(&client).await;
        assert_told(&other).await;
    }
}

/// Answers that were given a moment before the server stops are not lost either.
#[tokio::test]
async fn answers_on_their_way_arrive() {
    for len in SIZES {
        let miner = serve().await;
        let client = validator(CLIENT, vec![miner.axon.clone()]).await;
        let count = if len > 1_000_000 { 2 } else { 32 };
        let running = join_all((0..count).map(|_| ask(&client, &miner.axon, "held", len)));
        let stop = async {
            until("all handlers run", async || {
                miner.server.stats().requests == count as u64
            })
            .await;
            miner.release.add_permits(count);
            within(miner.server.stop()).await.unwrap();
        };
        let (answers, ()) = tokio::join!(running, stop);
        for answer in answers {
            assert!(answer.unwrap().data == data(len), "{len} bytes");
        }
    }
}

#[tokio::test]
async fn a_stream_that_is_running_goes_on_to_its_end() {
    let miner = serve().await;
    let client = validator(CLIENT, vec![miner.axon.clone()]).await;
    let empty = Payload::empty();
    let mut stream = within(client.open_stream(&miner.axon, "held-stream", &empty))
        .await
        .unwrap();
    assert_eq!(
        within(stream.next_chunk()).await.unwrap().unwrap(),
        b"first"
    );
    let stop = tokio::spawn({
        let server = miner.server.clone();
        async move { server.stop().await }
    });
    until_draining(&client, &miner.axon).await;
    miner.release.add_permits(1);
    assert_eq!(within(stream.next_chunk()).await.unwrap().unwrap(), b"last");
    assert_eq!(within(stream.next_chunk()).await.unwrap(), None);
    within(stop).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_handler_that_takes_too_long_is_cut() {
    for len in [10, 100_000] {
        let miner = serve().await;
        let client = validator(CLIENT, vec![miner.axon.clone()]).await;
        let empty = Payload::empty();
        let mut stream = within(client.open_stream(&miner.axon, "held-stream", &empty))
            .await
            .unwrap();
        assert_eq!(
            within(stream.next_chunk()).await.unwrap().unwrap(),
            b"first"
        );
        let stop = async {
            until("both handlers run", async || {
                miner.server.stats().requests == 2
            })
            .await;
            let grace = Duration::from_millis(10);
            within(miner.server.shutdown(grace)).await.unwrap();
        };
        let (answer, ()) = tokio::join!(ask(&client, &miner.axon, "held", len), stop);
        let error = answer.unwrap_err();
        assert_eq!(error.phase(), Phase::Wait);
        assert!(!error.is_retry_safe(), "the handler has run");
        match error.kind() {
            CallErrorKind::Lost(reason) => assert_eq!(close_of(reason).0, "server_shutdown"),
            other => panic!("{other:?}"),
        }
        // What has not ended well must not look as if it had.
        within(stream.next_chunk()).await.unwrap_err();
        within(miner.serving).await.unwrap().unwrap();
        assert_eq!(miner.server.stats().callers, []);
        assert_told(&client).await;
    }
}

/// The congestion window is full of the answer when the server cuts it off.
#[tokio::test]
async fn a_client_learns_of_the_end_in_the_middle_of_a_large_answer() {
    let miner = serve().await;
    let client = validator(CLIENT, vec![miner.axon.clone()]).await;
    let stop = async {
        within(miner.started.notified()).await;
        miner.release.add_permits(1);
        within(miner.server.shutdown(Duration::ZERO)).await.unwrap();
    };
    let (answer, ()) = tokio::join!(ask(&client, &miner.axon, "held", 60_000_000), stop);
    match answer.unwrap_err().kind() {
        CallErrorKind::Lost(reason) => assert_eq!(close_of(reason).0, "server_shutdown"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_server_that_is_stopping_takes_no_connections() {
    let miner = serve().await;
    let client = validator(CLIENT, vec![miner.axon.clone()]).await;
    let stop = async {
        within(miner.started.notified()).await;
        let stop = tokio::spawn({
            let server = miner.server.clone();
            async move { server.stop().await }
        });
        until_draining(&client, &miner.axon).await;
        let late = validator(OTHER_CLIENT, vec![]).await;
        let error = ask(&late, &miner.axon, "echo", 10).await.unwrap_err();
        assert_eq!(error.phase(), Phase::Dial, "{error}");
        assert!(error.is_retry_safe());
        miner.release.add_permits(1);
        within(stop).await.unwrap().unwrap();
    };
    let (answer, ()) = tokio::join!(ask(&client, &miner.axon, "held", 10), stop);
    answer.unwrap();
}

#[tokio::test]
async fn clients_find_the_successor_on_the_same_port() {
    let miner = serve().await;
    let client = validator(CLIENT, vec![miner.axon.clone()]).await;
    let mut current = miner;
    for _ in 0..3 {
        ask(&client, &current.axon, "echo", 10).await.unwrap();
        within(current.server.stop()).await.unwrap();
        within(current.serving).await.unwrap().unwrap();
        assert_told(&client).await;
        let port = current.axon.port;
        drop(current.server);
        current = serve_at(port).await;
        assert_eq!(current.server.stats().handshakes, 0);
    }
    ask(&client, &current.axon, "echo", 100_000).await.unwrap();
    ask(&client, &current.axon, "echo", 10).await.unwrap();
    assert_eq!(current.server.stats().handshakes, 1);
}

#[tokio::test]
async fn stopping_is_idempotent() {
    let server = miner_with(MINER, 0, LightningServerConfig::default());
    within(server.stop()).await.unwrap();

    let miner = serve().await;
    within(miner.server.stop()).await.unwrap();
    within(miner.server.stop()).await.unwrap();
    within(miner.serving).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_client_that_closes_tells_its_miners() {
    let miners = [serve().await, serve().await];
    let client = validator(CLIENT, vec![]).await;
    for miner in &miners {
        ask(&client, &miner.axon, "echo", 10).await.unwrap();
    }
    // The same hotkey twice: the second address took the place of the first.
    until("one connection is left", async || {
        miners[0].server.stats().callers.is_empty()
    })
    .await;
    within(client.close_all_connections()).await.unwrap();
    until("the miner knows", async || {
        miners[1].server.stats().callers.is_empty()
    })
    .await;
    assert!(client.stats().connections.is_empty());
    assert!(client.authenticated_hotkeys().await.is_empty());
    // It can be used again.
    ask(&client, &miners[1].axon, "echo", 10).await.unwrap();
    assert_eq!(miners[1].server.stats().handshakes, 2);
}

#[tokio::test]
async fn a_client_that_is_dropped_tells_its_miners() {
    for queries in [0, 1, 5] {
        let miner = serve().await;
        let client = validator(CLIENT, vec![miner.axon.clone()]).await;
        for n in 0..queries {
            ask(&client, &miner.axon, "echo", [10, 100_000][n % 2])
                .await
                .unwrap();
        }
        assert_eq!(miner.server.stats().callers.len(), 1);
        drop(client);
        until("the miner knows", async || {
            miner.server.stats().callers.is_empty()
        })
        .await;
    }
}

/// The congestion window is full of the request when its client goes away.
#[tokio::test]
async fn a_client_that_is_dropped_in_the_middle_of_an_upload_tells_its_miners() {
    for turns in 0..24 {
        let miner = serve().await;
        let client = validator(CLIENT, vec![miner.axon.clone()]).await;
        let mut upload = Box::pin(ask(&client, &miner.axon, "echo", 50_000_000));
        // One thread: each turn lets all endpoints and connections run once.
        for _ in 0..turns {
            assert!(upload.as_mut().now_or_never().is_none());
            tokio::task::yield_now().await;
        }
        drop(upload);
        drop(client);
        until("the miner knows", async || {
            miner.server.stats().callers.is_empty()
        })
        .await;
    }
}

#[tokio::test]
async fn a_handler_is_dropped_with_its_client() {
    let miner = serve().await;
    let client = Arc::new(validator(CLIENT, vec![miner.axon.clone()]).await);
    let query = tokio::spawn({
        let (client, axon) = (client.clone(), miner.axon.clone());
        async move { ask(&client, &axon, "held", 10).await.map(drop) }
    });
    within(miner.started.notified()).await;
    query.abort();
    let _ = query.await;
    drop(client);
    until("nothing runs any more", async || {
        let stats = miner.server.stats();
        stats.callers.is_empty() && stats.requests_in_flight == 0 && stats.requests_cancelled == 1
    })
    .await;
}

#[tokio::test]
async fn a_server_that_is_dropped_tells_its_clients() {
    let miner = serve().await;
    let client = validator(CLIENT, vec![miner.axon.clone()]).await;
    let running = ask(&client, &miner.axon, "held", 10);
    let crash = async {
        within(miner.started.notified()).await;
        miner.serving.abort();
        let _ = miner.serving.await;
        assert_eq!(Arc::strong_count(&miner.server), 1);
        drop(miner.server);
    };
    let (answer, ()) = tokio::join!(running, crash);
    let error = answer.unwrap_err();
    assert_eq!(error.phase(), Phase::Wait);
    assert!(matches!(
        error.kind(),
        CallErrorKind::Lost(ConnectionError::ApplicationClosed(_))
    ));
    assert_told(&client).await;
}

/// The client knows that and why its one connection has ended.
async fn assert_told(client: &LightningClient) {
    until("the client was told", async || {
        client.stats().connections[0].closed.is_some()
    })
    .await;
    let reason = client.stats().connections.remove(0).closed.unwrap();
    assert_eq!(close_of(&reason), ("server_shutdown".to_owned(), 0));
}
