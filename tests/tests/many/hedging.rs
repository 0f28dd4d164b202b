//! A second request to a miner that is silent: one answer counts, the other is cancelled.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use btlightning::{Payload, Phase, RequestContext, RequestHandler, Result};
use lightning_tests::{NotifyOnDrop, until, within};
use tokio::sync::Notify;

use crate::{
    AMPLE, BRIEF, Held, LONG, SIZES, assert_good, axons, client_config, client_of, data, options,
    serve, serve_willing,
};

/// Answers one of two requests, once both have come; the other is stuck.
struct OneOfTwo {
    answered: usize,
    come: AtomicUsize,
    both: Notify,
    dropped: Arc<Notify>,
}

impl OneOfTwo {
    fn answering(answered: usize) -> Arc<Self> {
        Arc::new(Self {
            answered,
            come: AtomicUsize::new(0),
            both: Notify::new(),
            dropped: Arc::default(),
        })
    }
}

#[async_trait]
impl RequestHandler for OneOfTwo {
    async fn handle(&self, _context: RequestContext, data: Payload) -> Result<Payload> {
        let number = self.come.fetch_add(1, Ordering::Relaxed);
        if number == 1 {
            self.both.notify_one();
        }
        if number == self.answered {
            if number == 0 {
                self.both.notified().await;
            }
            return Ok(data);
        }
        let _guard = NotifyOnDrop(self.dropped.clone());
        std::future::pending().await
    }
}

#[tokio::test]
async fn the_first_answer_counts_and_the_other_request_is_cancelled() {
    for len in SIZES {
        for answered in [0, 1] {
            let handler = OneOfTwo::answering(answered);
            let miner = serve(1, handler.clone()).await;
            let client = client_of(client_config(), vec![miner.axon()]).await;
            let options = options().hedge_after(BRIEF);
            let many = client.query_many(vec![miner.axon()], "ask", &data(len), options);
            let answers = within(many.collect()).await;
            assert_eq!(answers.len(), 1);
            assert_good(&answers[0], &data(len));
            // From the first request on, whichever was answered.
            assert!(answers[0].result.as_ref().unwrap().latency >= BRIEF);
            within(handler.dropped.notified()).await;
            until("the server has counted and tidied up", async || {
                let stats = miner.server().stats();
                (
                    stats.requests,
                    stats.requests_cancelled,
                    stats.requests_in_flight,
                ) == (2, 1, 0)
            })
            .await;
            assert_eq!(miner.server().stats().handshakes, 1);
        }
    }
}

#[tokio::test]
async fn who_answers_in_time_is_asked_once() {
    let miners = serve_willing(1..=3).await;
    let client = client_of(client_config(), axons(&miners)).await;
    let options = options().hedge_after(LONG);
    let many = client.query_many(axons(&miners), "ask", &data(10), options);
    for answer in within(many.collect()).await {
        assert_good(&answer, &data(10));
    }
    for miner in &miners {
        assert_eq!(miner.server().stats().requests, 1);
    }
}

/// One limit for both, and none of them outlives it.
#[tokio::test]
async fn the_limits_hold_for_both_requests() {
    let held = Held::new(0);
    let miner = serve(1, held.clone()).await;
    let client = client_of(client_config(), vec![miner.axon()]).await;
    let hedged = options().hedge_after(BRIEF);
    for (round, (options, what)) in (1..).zip([
        (hedged.timeout(AMPLE), "query"),
        (hedged.deadline(AMPLE), "fan-out"),
    ]) {
        let many = client.query_many(vec![miner.axon()], "ask", &data(10), options);
        let answers = within(many.collect()).await;
        let error = answers[0].result.as_ref().unwrap_err();
        assert_eq!((error.phase(), error.is_timeout()), (Phase::Wait, true));
        assert!(error.kind().to_string().starts_with(what), "{error}");
        held.until_dropped(2 * round).await;
        assert_eq!(held.counts().begun, 2 * round);
    }
}

#[tokio::test]
async fn dropping_it_cancels_both_requests() {
    let held = Held::new(0);
    let miner = serve(1, held.clone()).await;
    let client = client_of(client_config(), vec![miner.axon()]).await;
    let options = options().hedge_after(BRIEF);
    let many = client.query_many(vec![miner.axon()], "ask", &data(10), options);
    held.until_begun(2).await;
    drop(many);
    held.until_dropped(2).await;
}
