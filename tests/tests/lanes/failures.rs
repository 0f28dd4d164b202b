//! Handlers that fail, each in its way, and that cost only themselves.

use std::{
    collections::HashMap,
    future::Future,
    pin::Pin,
    sync::{Arc, Barrier},
};

use async_trait::async_trait;
use btlightning::{
    LightningError, LightningServerConfigBuilder, Payload, QuicRequest, RequestContext,
    RequestHandler, Result, StreamingSynapseHandler, SynapseHandler,
};
use futures::future::join_all;
use lightning_tests::{payload, within};
use rmpv::Value;
use tokio::sync::mpsc;

use crate::{Fixture, config, fixture, numbered, remote, values};

const FRAME_LIMIT: usize = 1024 * 1024;
const SECRET: &str = "the database password";

/// Fails as its type says.
struct Failing;

impl Failing {
    fn fail(synapse_type: &str) -> Result<HashMap<String, Value>> {
        match synapse_type {
            "error" | "error-async" => Err(LightningError::Handler(SECRET.into())),
            "panic" | "panic-async" => panic!("{SECRET}"),
            "too-large" | "too-large-async" => Ok(payload(vec![7; FRAME_LIMIT])),
            "too-deep" | "too-deep-async" => {
                let deep = (0..200).fold(Value::Nil, |inner, _| Value::Array(vec![inner]));
                Ok(HashMap::from([("deep".into(), deep)]))
            }
            other => panic!("{other}"),
        }
    }
}

impl SynapseHandler for Failing {
    fn handle(&self, kind: &str, _: HashMap<String, Value>) -> Result<HashMap<String, Value>> {
        Self::fail(kind)
    }
}

#[async_trait]
impl RequestHandler for Failing {
    async fn handle(&self, context: RequestContext, _: Payload) -> Result<Payload> {
        if context.synapse_type() == "panic-later" {
            tokio::task::yield_now().await;
            panic!("{SECRET}");
        }
        Ok(Payload::from_map(&Self::fail(context.synapse_type())?)?)
    }
}

/// Panics before there is a future to poll.
struct NoFuture;

impl RequestHandler for NoFuture {
    fn handle<'a, 'f>(
        &'a self,
        _: RequestContext,
        _: Payload,
    ) -> Pin<Box<dyn Future<Output = Result<Payload>> + Send + 'f>>
    where
        'a: 'f,
        Self: 'f,
    {
        panic!("{SECRET}")
    }
}

#[async_trait]
impl StreamingSynapseHandler for Failing {
    async fn handle(
        &self,
        _: &str,
        _: HashMap<String, Value>,
        _: mpsc::Sender<Vec<u8>>,
    ) -> Result<()> {
        Ok(())
    }
}

fn small_frames() -> LightningServerConfigBuilder {
    config().max_frame_payload_bytes(FRAME_LIMIT)
}

async fn failing() -> Fixture {
    let f = fixture(small_frames()).await;
    let server = f.miner.server();
    for kind in ["error", "panic", "too-large", "too-deep"] {
        server
            .register_synapse_handler(kind.into(), Arc::new(Failing))
            .await
            .unwrap();
        server.register_handler(format!("{kind}-async"), Arc::new(Failing));
    }
    server.register_handler("panic-later", Arc::new(Failing));
    server.register_handler("panic-at-once", Arc::new(NoFuture));
    server
        .register_streaming_handler("streaming".into(), Arc::new(Failing))
        .await
        .unwrap();
    f
}

const CASES: [(&str, &str); 10] = [
    ("error", "request processing failed"),
    ("error-async", "request processing failed"),
    ("panic", "request processing failed"),
    ("panic-async", "request processing failed"),
    ("panic-later", "request processing failed"),
    ("panic-at-once", "request processing failed"),
    ("too-large", "internal serialization error"),
    ("too-large-async", "internal serialization error"),
    ("too-deep", "request processing failed"),
    ("too-deep-async", "request processing failed"),
];

#[tokio::test]
async fn failures_are_told_apart_and_give_nothing_away() {
    let f = failing().await;
    for (synapse_type, text) in CASES {
        let error = within(f.ask(synapse_type, 1)).await.unwrap_err();
        assert_eq!(remote(&error), text, "{synapse_type}");
        assert!(!error.is_retry_safe(), "{synapse_type} has run");
        assert!(!error.to_string().contains(SECRET));
        within(f.ask("at-once", 2)).await.unwrap();
    }
    f.until_idle().await;
    let stats = f.miner.server().stats();
    assert_eq!(
        stats.requests_failed, 8,
        "what cannot be sent has not failed"
    );
    f.assert_serves().await;
}

/// A stream of its own tells the same as a lane.
#[tokio::test]
async fn large_requests_fail_with_the_same_words() {
    let f = failing().await;
    for (synapse_type, text) in CASES {
        for len in [10, 100_000] {
            let request = QuicRequest::new(synapse_type.into(), payload(vec![7; len]));
            let response = within(f.client.query_axon(f.miner.axon(), request))
                .await
                .unwrap();
            assert!(!response.success && response.data.is_empty());
            assert_eq!(
                response.error.as_deref(),
                Some(text),
                "{synapse_type} {len}"
            );
        }
    }
}

#[tokio::test]
async fn a_type_that_is_served_in_chunks_is_not_queried() {
    let f = failing().await;
    for len in [10, 100_000] {
        let request = QuicRequest::new("streaming".into(), values(&numbered(1, len)));
        let error = within(f.client.query_axon(f.miner.axon(), request))
            .await
            .unwrap_err();
        let text = error.to_string();
        assert!(text.contains("use query_axon_stream"), "{len}: {text}");
    }
    f.assert_serves().await;
}

/// Goes on when as many are there as the barrier wants.
struct Meeting(Barrier);

impl SynapseHandler for Meeting {
    fn handle(&self, _: &str, data: HashMap<String, Value>) -> Result<HashMap<String, Value>> {
        self.0.wait();
        Ok(data)
    }
}

#[tokio::test]
async fn blocking_handlers_may_wait_for_each_other() {
    let f = fixture(config()).await;
    f.miner
        .server()
        .register_synapse_handler("meeting".into(), Arc::new(Meeting(Barrier::new(64))))
        .await
        .unwrap();
    for round in 0..4 {
        let meeting = (0..64).map(|n| f.ask("meeting", round * 64 + n));
        for answer in within(join_all(meeting)).await {
            answer.unwrap();
        }
    }
}
