//! Queries that are dropped, or take too long.

use std::time::Duration;

use btlightning::{CallErrorKind, CallOptions, LightningError, Phase, QuicRequest};
use btlightning_proto::{frame::HEADER_LEN, message};
use futures::{FutureExt, future::join_all};
use lightning_keys::Keypair;
use lightning_tests::{
    CLIENT, MINER, axon, hotkey, payload,
    raw::{ALPN_OLD, RawClient, RawServer},
    until, validator, within,
};
use tokio::sync::oneshot;

use crate::{SIZES, config, data, fixture};

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
