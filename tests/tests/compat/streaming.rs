//! Answers in chunks.

use std::sync::Arc;

use lightning_tests::{
    NotifyOnDrop, bytes,
    peer::{Chunks, Client, Later, Map, Server, Settings, ours},
    until, within,
};
use rmpv::Value;
use tokio::sync::{Notify, mpsc};

use crate::{one_sided, pairings};

pairings!(all_chunks_in_order, failures_behind_chunks);
one_sided!(Client: a_stream_given_up, a_query_given_up);

async fn all_chunks_in_order<C: Client, S: Server>() {
    let server = S::start(Settings::default()).await;
    server.streaming("count", count).await;
    server
        .streaming("sizes", |_, sender| {
            Box::pin(async move {
                for len in SIZES {
                    send(&sender, bytes(len)).await?;
                }
                Ok(())
            })
        })
        .await;
    let client = C::connect(vec![server.axon()]).await;
    for wanted in [0, 1, 1000] {
        let mut chunks = client
            .stream(&server.axon(), "count", up_to(wanted))
            .await
            .unwrap();
        for i in 0..wanted {
            let chunk = chunks.next().await.unwrap();
            assert_eq!(chunk, Some(i.to_be_bytes().to_vec()), "of {wanted}");
        }
        assert_eq!(chunks.next().await, Ok(None), "of {wanted}");
    }
    let mut chunks = client
        .stream(&server.axon(), "sizes", Map::new())
        .await
        .unwrap();
    let expected: Vec<_> = SIZES.into_iter().map(bytes).collect();
    assert!(chunks.all().await.unwrap() == expected);
}

async fn failures_behind_chunks<C: Client, S: Server>() {
    let server = S::start(Settings {
        handler_timeout_secs: 1,
        ..Settings::default()
    })
    .await;
    server
        .streaming("fails", |data, sender| {
            Box::pin(async {
                count(data, sender).await?;
                Err("a secret")
            })
        })
        .await;
    server
        .streaming("panics", |data, sender| {
            Box::pin(async {
                count(data, sender).await?;
                panic!("a secret")
            })
        })
        .await;
    server
        .streaming("hangs", |data, sender| {
            Box::pin(async move {
                count(data, sender.clone()).await?;
                sender.closed().await;
                std::future::pending().await
            })
        })
        .await;
    let client = C::connect(vec![server.axon()]).await;
    for (kind, text) in [
        ("fails", "stream error: stream processing failed"),
        ("panics", "stream error: stream processing failed"),
        ("hangs", "stream error: handler timed out"),
    ] {
        let mut chunks = client.stream(&server.axon(), kind, up_to(3)).await.unwrap();
        for i in 0..3u64 {
            let chunk = chunks.next().await.unwrap();
            assert_eq!(chunk, Some(i.to_be_bytes().to_vec()), "{kind}");
        }
        assert_eq!(chunks.next().await, Err(text.to_owned()));
    }
}

/// The published server notices at the handler's next chunk only, so this is about ours.
async fn a_stream_given_up<C: Client>() {
    let dropped = Arc::new(Notify::new());
    let server = ours::Server::start(Settings::default()).await;
    let notify = dropped.clone();
    server
        .streaming("hangs", move |data, sender| {
            let running = NotifyOnDrop(notify.clone());
            Box::pin(async move {
                let _running = running;
                count(data, sender).await?;
                std::future::pending().await
            })
        })
        .await;
    let client = C::connect(vec![server.axon()]).await;
    let mut chunks = client
        .stream(&server.axon(), "hangs", up_to(2))
        .await
        .unwrap();
    assert_eq!(chunks.next().await, Ok(Some(0u64.to_be_bytes().to_vec())));
    drop(chunks);
    within(dropped.notified()).await;
    until("the server has counted it", async || {
        server.server.stats().requests_cancelled == 1
    })
    .await;
}

async fn a_query_given_up<C: Client>() {
    let (started, dropped) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let server = ours::Server::start(Settings::default()).await;
    let (start, stop) = (started.clone(), dropped.clone());
    server
        .asynchronous("hangs", move |_| {
            let running = NotifyOnDrop(stop.clone());
            start.notify_one();
            Box::pin(async move {
                let _running = running;
                std::future::pending().await
            })
        })
        .await;
    let client = C::connect(vec![server.axon()]).await;
    let axon = server.axon();
    tokio::select! {
        answer = client.query(&axon, "hangs", Map::new()) => panic!("answered: {answer:?}"),
        () = within(started.notified()) => {}
    }
    within(dropped.notified()).await;
    until("the server has counted it", async || {
        server.server.stats().requests_cancelled == 1
    })
    .await;
}

/// Sends the numbers below the request's `n`, one a chunk.
fn count(data: Map, sender: mpsc::Sender<Vec<u8>>) -> Later<()> {
    Box::pin(async move {
        for i in 0..data["n"].as_u64().unwrap() {
            send(&sender, i.to_be_bytes().to_vec()).await?;
        }
        Ok(())
    })
}

async fn send(sender: &mpsc::Sender<Vec<u8>>, chunk: Vec<u8>) -> Result<(), &'static str> {
    sender.send(chunk).await.map_err(|_| "the caller is gone")
}

fn up_to(n: u64) -> Map {
    Map::from([("n".into(), Value::from(n))])
}

/// In an order in which a large chunk is followed by small ones.
const SIZES: [usize; 6] = [0, 1, 4096, 2 * 1024 * 1024, 0, 7];
