//! Who goes first, who gives up, and whose time is over.

use std::{
    collections::HashMap,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use btlightning::{
    CallErrorKind, CallOptions, LightningError, QuicRequest, Result, SynapseHandler,
};
use futures::{FutureExt, future::join_all};
use lightning_tests::{OTHER_CLIENT, until, validator, within};

use rmpv::Value;

use crate::{Numbered, ask, config, fixture, narrow, numbered, values};

#[tokio::test]
async fn requests_of_high_priority_begin_first() {
    let f = fixture(narrow()).await;
    let running = join_all((0..16).map(|id| f.ask("held", id)));
    tokio::pin!(running);
    tokio::select! {
        _ = &mut running => panic!("nobody answers"),
        () = f.held.until_began(16) => {}
    }
    // In line, in this order: eight of no priority, four of the highest, four of one between.
    let in_line = join_all((100..116).map(|id| {
        let priority = match id {
            100..108 => 0,
            108..112 => 9,
            _ => 5,
        };
        f.ask_with("held", id, CallOptions::default().priority(priority))
    }));
    tokio::pin!(in_line);
    assert!(in_line.as_mut().now_or_never().is_none());
    let serving = async {
        // One by one, so that there is one order only.
        for released in 1..=16 {
            f.held.release.add_permits(1);
            f.held.until_began(16 + released).await;
        }
        f.held.release.add_permits(16);
    };
    let (first, second, ()) = within(async { tokio::join!(running, in_line, serving) }).await;
    for answer in first.into_iter().chain(second) {
        answer.unwrap();
    }
    let expected: Vec<_> = (108..116).chain(100..108).collect();
    assert_eq!(f.held.began()[16..], expected);
}

/// One client's crowd holds up nobody but itself.
#[tokio::test]
async fn a_crowd_of_one_client_does_not_keep_another_waiting() {
    let f = fixture(config()).await;
    let other = validator(OTHER_CLIENT, vec![f.miner.axon()]).await;
    let crowd = join_all((0..1000).map(|id| f.ask("held", id)));
    tokio::pin!(crowd);
    let others = async {
        f.held.until_began(128).await;
        let began = || f.held.began().len();
        for id in 5000..5010 {
            for synapse_type in ["at-once", "blocking"] {
                let options = CallOptions::default();
                within(ask(&other, &f.miner, synapse_type, id, options))
                    .await
                    .unwrap();
            }
        }
        assert_eq!(began(), 128, "none of the crowd was answered in between");
        f.held.release.add_permits(1000);
    };
    let (answers, ()) = within(async { tokio::join!(crowd, others) }).await;
    for answer in answers {
        answer.unwrap();
    }
}

#[tokio::test]
async fn given_up_requests_end_and_their_ids_are_used_again_safely() {
    let f = fixture(narrow()).await;
    for round in 0..8 {
        let base = round * 1000;
        let sent = join_all((0..16).map(|n| f.ask("held", base + n)));
        tokio::pin!(sent);
        tokio::select! {
            _ = &mut sent => panic!("nobody answers"),
            () = f.held.until_began(16 * (round as usize + 1)) => {}
        }
        let mut in_line = Box::pin(join_all((100..116).map(|n| f.ask("held", base + n))));
        assert!(in_line.as_mut().now_or_never().is_none());
        // Those in line first: none of them is ever sent.
        drop(in_line);
        sent.set(join_all(vec![]));
        // Ids of those that were given up are taken by these, some before the server knows.
        let next = join_all((200..264).map(|n| {
            let synapse_type = ["at-once", "blocking"][n as usize % 2];
            f.ask(synapse_type, base + n)
        }));
        for answer in within(next).await {
            answer.unwrap();
        }
        f.until_idle().await;
        let mut dropped = f.held.dropped();
        dropped.sort_unstable();
        let all = (0..=round).flat_map(|r| (0..16).map(move |n| r * 1000 + n));
        assert_eq!(dropped, all.collect::<Vec<_>>());
    }
    let stats = f.miner.server().stats();
    assert_eq!(stats.requests_cancelled, 8 * 16);
    f.assert_serves().await;
}

#[tokio::test]
async fn a_request_whose_time_is_over_is_given_up_and_its_handler_dropped() {
    let f = fixture(config()).await;
    let query = f.client.query_axon_with_timeout(
        f.miner.axon(),
        QuicRequest::new("held".into(), values(&numbered(7, 0))),
        Duration::from_millis(50),
    );
    let error = within(query).await.unwrap_err();
    assert_eq!(error, LightningError::Transport("query timed out".into()));
    until("the handler was dropped", async || f.held.dropped() == [7]).await;
    f.until_idle().await;
    f.assert_serves().await;
}

/// The time of a request that waits for credit runs too; it is never sent.
#[tokio::test]
async fn a_request_can_time_out_in_line() {
    let f = fixture(narrow()).await;
    let running = join_all((0..16).map(|id| f.ask("held", id)));
    tokio::pin!(running);
    tokio::select! {
        _ = &mut running => panic!("nobody answers"),
        () = f.held.until_began(16) => {}
    }
    let brief = CallOptions::default().timeout(Duration::from_millis(20));
    let late = async {
        let error = within(f.ask_with("held", 99, brief)).await.unwrap_err();
        assert!(error.is_timeout(), "{error}");
        f.held.release.add_permits(16);
    };
    let (answers, ()) = within(async { tokio::join!(running, late) }).await;
    for answer in answers {
        answer.unwrap();
    }
    f.assert_serves().await;
    assert!(!f.held.began().contains(&99), "it was sent");
}

/// A slow handler is no reason to give the connection up: whoever else waits on it goes on.
#[tokio::test]
async fn a_timeout_does_not_harm_the_connection() {
    let f = fixture(config()).await;
    let patient = f.ask("held", 1);
    let hasty = async {
        for id in 2..5 {
            let brief = CallOptions::default().timeout(Duration::from_millis(10));
            let error = within(f.ask_with("held", id, brief)).await.unwrap_err();
            assert!(
                matches!(error.kind(), CallErrorKind::Timeout { .. }),
                "{error}"
            );
        }
        // Longer than the client looks for a sign of life.
        tokio::time::sleep(Duration::from_millis(1500)).await;
        f.held.release.add_permits(1);
    };
    let (answer, ()) = within(async { tokio::join!(patient, hasty) }).await;
    answer.unwrap();
    assert_eq!(f.held.dropped().len(), 3);
    f.assert_serves().await;
}

/// Where no stream is free and no credit left, a request that times out was never sent, and the
/// peer's silence means nothing.
#[tokio::test]
async fn a_timeout_does_not_harm_a_connection_that_is_full() {
    let f = fixture(narrow()).await;
    let small = join_all((0..16).map(|id| f.ask("held", id)));
    let (axon, sent) = (f.miner.axon(), numbered(99, 20_000));
    let large = async {
        f.held.until_began(16).await;
        let options = CallOptions::default();
        let ask = || f.client.call::<_, Numbered>(&axon, "held", &sent, options);
        join_all((0..16).map(|_| ask())).await
    };
    let hasty = async {
        // One stream is the lane, and another one may not have been given back yet.
        until("all streams are in use", async || {
            f.held.began().len() >= 16 + 14
        })
        .await;
        // A young connection has things to say of its own; the second time it is quiet.
        for id in 100..102 {
            let brief = CallOptions::default().timeout(Duration::from_millis(20));
            let error = within(f.ask_with("held", id, brief)).await.unwrap_err();
            assert!(error.is_timeout(), "{error}");
            // Longer than the client looks for a sign of life.
            tokio::time::sleep(Duration::from_millis(1500)).await;
        }
        f.held.release.add_permits(32);
    };
    let (small, large, ()) = within(async { tokio::join!(small, large, hasty) }).await;
    for answer in small {
        answer.unwrap();
    }
    for answer in large {
        assert!(answer.unwrap() == sent);
    }
    f.assert_serves().await;
}

/// Keeps its thread until the test lets all go on.
#[derive(Default)]
struct Blocked {
    began: AtomicUsize,
    released: Mutex<bool>,
    release: Condvar,
}

impl SynapseHandler for Blocked {
    fn handle(&self, _: &str, data: HashMap<String, Value>) -> Result<HashMap<String, Value>> {
        self.began.fetch_add(1, Ordering::Relaxed);
        let released = self.released.lock().unwrap();
        let _released = self.release.wait_while(released, |released| !*released);
        Ok(data)
    }
}

/// There are 512 threads. Who waits for one in vain and gives up has not been served.
#[tokio::test]
async fn a_request_given_up_before_there_is_a_thread_never_runs() {
    const CLIENTS: u8 = 5;
    for len in [20, 20_000] {
        let f = fixture(config()).await;
        let blocked = Arc::new(Blocked::default());
        f.miner
            .server()
            .register_synapse_handler("blocked".into(), blocked.clone())
            .await
            .unwrap();
        let mut clients = Vec::new();
        for n in 0..CLIENTS {
            clients.push(validator([100 + n; 32], vec![f.miner.axon()]).await);
        }
        let (axon, sent) = (f.miner.axon(), numbered(0, len));
        // As many as a connection takes, but for the lane's and the handshake's stream.
        let all = usize::from(CLIENTS) * 120;
        {
            let asking = (0..all).map(|n| {
                let client = &clients[n % clients.len()];
                client.call::<_, Numbered>(&axon, "blocked", &sent, CallOptions::default())
            });
            tokio::select! {
                answers = join_all(asking) => panic!("nobody answers: {:?}", answers.first()),
                () = until("all have come", async || {
                    f.miner.server().stats().requests == all as u64
                }) => {}
            }
        }
        until("all were given up", async || {
            f.miner.server().stats().requests_cancelled == all as u64
        })
        .await;
        *blocked.released.lock().unwrap() = true;
        blocked.release.notify_all();
        // Behind all of them in the line for a thread.
        within(f.ask("blocking", 1)).await.unwrap();
        let began = blocked.began.load(Ordering::Relaxed);
        assert!(began <= 512, "{began} of {all} ran");
    }
}
