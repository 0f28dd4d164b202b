//! Many requests on one lane: each gets its own answer, and no more run than may.

use std::sync::Arc;

use async_trait::async_trait;
use btlightning::{CallOptions, Payload, RequestContext, RequestHandler, Result};
use futures::future::join_all;
use lightning_tests::within;

use crate::{Numbered, config, fixture, narrow, numbered};

/// Lets others go first, more or fewer of them.
struct Yielding;

#[async_trait]
impl RequestHandler for Yielding {
    async fn handle(&self, _context: RequestContext, data: Payload) -> Result<Payload> {
        for _ in 0..data.deserialize::<Numbered>()?.id % 7 {
            tokio::task::yield_now().await;
        }
        Ok(data)
    }
}

const REQUESTS: u64 = 10_000;
const TASKS: u64 = 64;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn everybody_gets_their_own_answer() {
    let f = Arc::new(fixture(config()).await);
    f.miner
        .server()
        .register_handler("yielding", Arc::new(Yielding));
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let f = f.clone();
            tokio::spawn(async move {
                for id in (task..REQUESTS).step_by(TASKS as usize) {
                    let synapse_type = ["blocking", "at-once", "yielding"][id as usize % 3];
                    let sent = numbered(id, id as usize % 3000);
                    let options = CallOptions::default();
                    let got: Numbered = f
                        .client
                        .call(&f.miner.axon(), synapse_type, &sent, options)
                        .await
                        .unwrap();
                    assert!(got == sent, "{id} got the answer to {}", got.id);
                }
            })
        })
        .collect();
    for task in tasks {
        within(task).await.unwrap();
    }
    let stats = f.miner.server().stats();
    assert_eq!((stats.requests, stats.requests_failed), (REQUESTS, 0));
    assert_eq!(stats.handshakes, 1);
}

#[tokio::test]
async fn no_more_run_than_the_credit_allows() {
    let f = fixture(narrow()).await;
    let asking = join_all((0..256).map(|id| f.ask("held", id)));
    let serving = async {
        f.held.until_began(16).await;
        for released in 1..=256 {
            f.held.release.add_permits(1);
            f.held.until_began((16 + released).min(256)).await;
        }
    };
    let (answers, ()) = within(async { tokio::join!(asking, serving) }).await;
    for answer in answers {
        answer.unwrap();
    }
    assert_eq!(f.held.log.lock().unwrap().most_running, 16);
    // First come, first served.
    let mut begun = f.held.began();
    assert_eq!(begun[..16], (0..16).collect::<Vec<_>>());
    begun.sort_unstable();
    assert_eq!(begun, (0..256).collect::<Vec<_>>());
}

/// More than two credits' worth at a time; the answers come as it pleases the handlers.
#[tokio::test]
async fn credit_comes_back_whatever_becomes_of_a_request() {
    let f = fixture(narrow()).await;
    for round in 0..20 {
        let requests = (0..48).map(|n| {
            let synapse_type = ["blocking", "nobody", "at-once"][n % 3];
            f.ask(synapse_type, round * 48 + n as u64)
        });
        for (n, answer) in within(join_all(requests)).await.into_iter().enumerate() {
            assert_eq!(answer.is_err(), n % 3 == 1, "{answer:?}");
        }
    }
    f.assert_serves().await;
}
