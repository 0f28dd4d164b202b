//! Who gives up a request ends the work for it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc as std_mpsc,
    },
    time::Duration,
};

use async_trait::async_trait;
use btlightning::{
    AsyncSynapseHandler, CallErrorKind, CallOptions, ChunkSink, ChunkStream, LightningClient,
    LightningError, LightningServerConfig, LightningServerConfigBuilder, Payload, Phase,
    QuicRequest, RequestContext, RequestHandler, Result, StreamHandler, StreamingSynapseHandler,
    SynapseHandler,
};
use btlightning_proto::{frame::HEADER_LEN, message};
use futures::{FutureExt, future::join_all};
use lightning_keys::Keypair;
use lightning_tests::{
    CLIENT, MINER, Miner, NotifyOnDrop, axon, echo, hotkey, miner_with, payload,
    raw::{ALPN_OLD, RawClient, RawServer},
    until, validator, within,
};
use rmpv::Value;
use tokio::sync::{Notify, mpsc, oneshot};

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

#[tokio::test]
async fn dropping_a_query_drops_its_handler() {
    let f = fixture(config()).await;
    for (count, len) in (1..).zip(SIZES.repeat(3)) {
        let query = f.query("stuck", len);
        tokio::select! {
            result = query => panic!("{result:?}"),
            () = within(f.stuck.started.notified()) => {}
        }
        within(f.stuck.dropped.notified()).await;
        f.until_cancelled(count).await;
    }
    f.assert_serves().await;
    assert_eq!(f.miner.server().stats().requests_failed, 0);
}

/// Peers of the old protocol say it by stopping the stream.
#[tokio::test]
async fn stopping_the_stream_of_an_answer_drops_its_handler() {
    let f = fixture(config()).await;
    let peer = within(RawClient::connect_with(f.miner.addr(), ALPN_OLD)).await;
    within(peer.authenticate(&Keypair::from_seed(&CLIENT))).await;
    let (mut send, mut recv) = within(peer.connection.open_bi()).await.unwrap();
    let request = message::encode_request("stuck", &data(10), 0).unwrap();
    within(send.write_all(&request.to_vec())).await.unwrap();
    send.finish().unwrap();
    within(f.stuck.started.notified()).await;
    recv.stop(0u32.into()).unwrap();
    within(f.stuck.dropped.notified()).await;
    f.until_cancelled(1).await;
    assert!(within(peer.request("echo", &data(10))).await.success);
}

#[tokio::test]
async fn losing_the_connection_drops_its_handlers() {
    let f = fixture(config()).await;
    let queries = join_all(SIZES.map(|len| f.query("stuck", len)));
    let close = async {
        until("both handlers run", async || {
            f.miner.server().stats().requests == 2
        })
        .await;
        within(f.client.close_all_connections()).await.unwrap();
    };
    let (results, ()) = tokio::join!(within(queries), close);
    for result in results {
        assert!(matches!(result, Err(CallErrorKind::Lost(_))), "{result:?}");
    }
    f.until_cancelled(2).await;
}

/// Cut off at every point of its life, a request leaves nothing behind.
#[tokio::test]
async fn many_dropped_queries_leave_nothing_behind() {
    let f = fixture(config()).await;
    f.assert_serves().await;
    for turns in 0..60 {
        let queries = join_all((0..8).map(|n| f.query(["echo", "stuck"][n % 2], SIZES[n / 2 % 2])));
        tokio::pin!(queries);
        for _ in 0..turns {
            assert!(queries.as_mut().now_or_never().is_none());
            tokio::task::yield_now().await;
        }
    }
    until("nothing runs any more", async || {
        f.miner.server().stats().requests_in_flight == 0
    })
    .await;
    // All places on the connection are free again: for more requests than it takes at a time.
    let queries = (0..400).map(|n| f.query("echo", SIZES[n % 2]));
    for result in within(join_all(queries)).await {
        result.unwrap();
    }
    f.assert_serves().await;
}

/// Requests that wait for their turn on the connection are not sent when their callers give up.
#[tokio::test]
async fn a_query_dropped_in_line_is_never_run() {
    for len in SIZES {
        let f = fixture(config().max_concurrent_bidi_streams(16)).await;
        // Some may share a stream, or a stream may be taken by something else.
        let running = join_all((0..16).map(|_| f.query("stuck", len)));
        tokio::pin!(running);
        let in_line = join_all((0..8).map(|_| f.query("echo", len)));
        let started = until("as many run as may", async || {
            f.miner.server().stats().requests >= 15
        });
        tokio::select! {
            biased;
            _ = &mut running => panic!("nobody answers"),
            _ = in_line => panic!("there was no room"),
            () = started => {}
        }
        // The ones in line are gone now. The others follow.
        let ran = f.miner.server().stats().requests;
        assert!((15..=16).contains(&ran), "{ran}");
        running.set(join_all(vec![]));
        until("nothing runs any more", async || {
            f.miner.server().stats().requests_in_flight == 0
        })
        .await;
        f.assert_serves().await;
        let more = f.miner.server().stats().requests - ran;
        assert!(
            (2..=3).contains(&more),
            "{more} ran instead of two and one in line"
        );
    }
}

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

/// Has a task watch over each request; the request itself ends as it is told to.
struct Watched {
    started: Notify,
    ended: Arc<Notify>,
}

#[async_trait]
impl RequestHandler for Watched {
    async fn handle(&self, context: RequestContext, data: Payload) -> Result<Payload> {
        let (ended, watched) = (self.ended.clone(), context.clone());
        tokio::spawn(async move {
            watched.cancelled().await;
            assert!(watched.is_cancelled());
            ended.notify_one();
        });
        assert!(!context.is_cancelled());
        self.started.notify_one();
        if context.synapse_type() == "answers" {
            return Ok(data);
        }
        std::future::pending().await
    }
}

#[tokio::test]
async fn tasks_of_a_handler_learn_that_the_request_is_over() {
    let f = fixture(config().handler_timeout_secs(1)).await;
    let watched = Arc::new(Watched {
        started: Notify::new(),
        ended: Arc::default(),
    });
    for synapse_type in ["answers", "hangs"] {
        f.miner
            .server()
            .register_handler(synapse_type, watched.clone());
    }
    for len in SIZES {
        within(f.query("answers", len)).await.unwrap();
        within(watched.started.notified()).await;
        within(watched.ended.notified()).await;

        let late = within(f.query("hangs", len)).await.unwrap_err();
        assert!(
            matches!(&late, CallErrorKind::Remote(text) if text == "handler timed out"),
            "{late:?}"
        );
        within(watched.started.notified()).await;
        within(watched.ended.notified()).await;

        tokio::select! {
            result = f.query("hangs", len) => panic!("{result:?}"),
            () = within(watched.started.notified()) => {}
        }
        within(watched.ended.notified()).await;
    }
    assert_eq!(f.miner.server().stats().requests_failed, 2);
    f.assert_serves().await;
}

/// Works on a thread until it is told to stop.
struct Works {
    started: Notify,
    stopped: Arc<Notify>,
}

#[async_trait]
impl RequestHandler for Works {
    async fn handle(&self, context: RequestContext, data: Payload) -> Result<Payload> {
        let stopped = self.stopped.clone();
        self.started.notify_one();
        let work = tokio::task::spawn_blocking(move || {
            while !context.is_cancelled() {
                std::thread::sleep(Duration::from_millis(1));
            }
            stopped.notify_one();
        });
        work.await.map_err(LightningError::handler)?;
        Ok(data)
    }
}

#[tokio::test]
async fn threads_of_a_handler_learn_that_the_request_is_over() {
    let f = fixture(config()).await;
    let works = Arc::new(Works {
        started: Notify::new(),
        stopped: Arc::default(),
    });
    f.miner.server().register_handler("works", works.clone());
    for len in SIZES {
        tokio::select! {
            result = f.query("works", len) => panic!("{result:?}"),
            () = within(works.started.notified()) => {}
        }
        within(works.stopped.notified()).await;
    }
    f.until_cancelled(2).await;
    f.assert_serves().await;
}

/// Blocks its thread until the test lets it go on.
struct Blocks {
    started: Notify,
    release: Mutex<std_mpsc::Receiver<()>>,
    finished: AtomicU64,
}

impl SynapseHandler for Blocks {
    fn handle(&self, _: &str, data: HashMap<String, Value>) -> Result<HashMap<String, Value>> {
        self.started.notify_one();
        let _ = self.release.lock().unwrap().recv();
        self.finished.fetch_add(1, Ordering::Relaxed);
        Ok(data)
    }
}

/// A thread cannot be stopped; what it comes to is dropped and disturbs nobody.
#[tokio::test]
async fn a_blocking_handler_that_nobody_waits_for_disturbs_nobody() {
    let f = fixture(config()).await;
    let (release, receiver) = std_mpsc::channel();
    let blocks = Arc::new(Blocks {
        started: Notify::new(),
        release: Mutex::new(receiver),
        finished: AtomicU64::new(0),
    });
    f.miner
        .server()
        .register_synapse_handler("blocks".into(), blocks.clone())
        .await
        .unwrap();
    for (count, len) in (1..).zip(SIZES) {
        tokio::select! {
            result = f.query("blocks", len) => panic!("{result:?}"),
            () = within(blocks.started.notified()) => {}
        }
        f.until_cancelled(count).await;
        f.assert_serves().await;
        release.send(()).unwrap();
        until("the thread is through", async || {
            blocks.finished.load(Ordering::Relaxed) == count
        })
        .await;
        f.assert_serves().await;
    }
}

#[tokio::test]
async fn a_query_that_takes_too_long_is_given_up() {
    let f = fixture(config()).await;
    let brief = Duration::from_millis(50);
    for len in SIZES {
        let request = QuicRequest::new("stuck".into(), payload(vec![7; len]));
        let query = f
            .client
            .query_axon_with_timeout(f.miner.axon(), request, brief);
        let error = within(query).await.unwrap_err();
        assert_eq!(error, LightningError::Transport("query timed out".into()));
        within(f.stuck.dropped.notified()).await;

        let (axon, data) = (f.miner.axon(), data(len));
        let options = CallOptions::default().timeout(brief);
        let call = f.client.call_payload(&axon, "stuck", &data, options);
        let error = within(call).await.unwrap_err();
        assert!(error.is_timeout(), "{error}");
        assert_eq!(error.phase(), Phase::Wait);
        assert!(!error.is_retry_safe(), "the handler has run");
        within(f.stuck.dropped.notified()).await;
    }
    until("nothing runs any more", async || {
        f.miner.server().stats().requests_in_flight == 0
    })
    .await;
    f.assert_serves().await;
}

#[tokio::test]
async fn a_handler_that_takes_too_long_is_dropped() {
    let f = fixture(config().handler_timeout_secs(1)).await;
    for len in SIZES {
        let error = within(f.query("stuck", len)).await.unwrap_err();
        assert!(
            matches!(&error, CallErrorKind::Remote(text) if text == "handler timed out"),
            "{error:?}"
        );
        within(f.stuck.dropped.notified()).await;
    }
    let stats = f.miner.server().stats();
    assert_eq!((stats.requests_failed, stats.requests_cancelled), (2, 0));
    f.assert_serves().await;
}

/// A request that is given up while it is sent must not look whole.
#[tokio::test]
async fn a_request_dropped_while_it_is_sent_is_reset() {
    let server = RawServer::bind(ALPN_OLD);
    let target = axon(&hotkey(MINER), server.addr());
    let (began, begun) = oneshot::channel();
    let serving = tokio::spawn(async move {
        let peer = server.accept().await;
        peer.authenticate(&Keypair::from_seed(&MINER)).await;
        let (_send, mut recv) = peer.connection.accept_bi().await.unwrap();
        let mut head = [0; HEADER_LEN];
        recv.read_exact(&mut head).await.unwrap();
        began.send(()).unwrap();
        let mut taken = 0;
        let end = loop {
            match recv.read_chunk(usize::MAX, true).await {
                Ok(Some(chunk)) => taken += chunk.bytes.len(),
                Ok(None) => panic!("the request was finished after {taken} bytes"),
                Err(error) => break error,
            }
        };
        (end, taken)
    });
    let client = validator(CLIENT, vec![target.clone()]).await;
    let len = 50_000_000;
    let data = data(len);
    let call = client.call_payload(&target, "any", &data, CallOptions::default());
    tokio::select! {
        result = call => panic!("{result:?}"),
        begun = within(begun) => begun.unwrap(),
    }
    let (end, taken) = within(serving).await.unwrap();
    assert_eq!(end, quinn::ReadError::Reset(0u32.into()));
    assert!(taken < len, "all of it was sent");
}

#[tokio::test]
async fn a_request_dropped_while_it_is_sent_reaches_no_handler() {
    let f = fixture(config()).await;
    // More than is sent without anybody waiting: one poll begins it and cannot end it.
    for _ in 0..3 {
        assert!(f.query("stuck", 50_000_000).now_or_never().is_none());
    }
    f.assert_serves().await;
    until("nothing is left of them", async || {
        f.miner.server().stats().requests_in_flight == 0
    })
    .await;
    let stats = f.miner.server().stats();
    assert_eq!(stats.requests, 2, "{stats:?}");
}
