//! Everybody is heard, as often as asked, and as many at a time as may be.

use std::collections::HashSet;

use btlightning::{CallErrorKind, Many, Payload, Phase};
use btlightning_proto::message;
use futures::StreamExt;
use lightning_keys::Keypair;
use lightning_tests::{
    MINER, axon, hotkey,
    peer::{Server, Settings, old},
    raw::{ALPN_OLD, RawServer},
    within,
};

use crate::{
    Held, SIZES, assert_good, axons, client_config, client_of, data, options, serve, serve_willing,
};

#[tokio::test]
async fn all_answer_and_are_collected_in_order() {
    let miners = serve_willing(1..=12).await;
    let all = axons(&miners);
    // Half of them are dialled by the first call.
    let client = client_of(client_config(), all[..6].to_vec()).await;
    for len in SIZES {
        for concurrency in [0, 1, 5, usize::MAX] {
            let options = options().concurrency(concurrency);
            let sent = data(len);
            let many = client.query_many(all.clone(), "ask", &sent, options);
            let answers = within(many.collect()).await;
            assert_eq!(answers.len(), 12);
            for (index, answer) in answers.iter().enumerate() {
                assert_eq!((answer.index, &answer.axon), (index, &all[index]));
                assert_good(answer, &sent);
            }
        }
    }
    for miner in &miners {
        let stats = miner.server().stats();
        assert_eq!((stats.handshakes, stats.requests), (1, 8), "{stats:?}");
    }
}

#[tokio::test]
async fn nobody_to_ask_is_the_end_at_once() {
    let client = client_of(client_config(), vec![]).await;
    let mut many = client.query_many(vec![], "ask", &Payload::empty(), options());
    assert!(within(many.next()).await.is_none());
    assert!(within(many.next()).await.is_none());
}

#[tokio::test]
async fn it_is_a_stream_that_can_be_moved_anywhere() {
    fn can_be_moved<T: Send + Sync + Unpin + 'static>(it: T) -> T {
        it
    }
    let miners = serve_willing(1..=5).await;
    let client = client_of(client_config(), vec![]).await;
    let many: Many = client.query_many(axons(&miners), "ask", &data(10), options());
    let asking = can_be_moved(many).map(|answer| answer.index);
    let heard: HashSet<usize> = within(tokio::spawn(asking.collect())).await.unwrap();
    assert_eq!(heard, (0..5).collect());
}

/// Without anybody who waits for an answer.
#[tokio::test]
async fn it_begins_at_once() {
    let held = Held::new(0);
    let miner = serve(1, held.clone()).await;
    let client = client_of(client_config(), vec![]).await;
    let many = client.query_many(vec![miner.axon()], "ask", &data(10), options());
    held.until_begun(1).await;
    held.release.add_permits(1);
    assert_good(&within(many.collect()).await[0], &data(10));
}

#[tokio::test]
async fn no_more_run_than_there_are_places() {
    for len in SIZES {
        let held = Held::new(0);
        let miner = serve(1, held.clone()).await;
        let client = client_of(client_config(), vec![miner.axon()]).await;
        let options = options().concurrency(8);
        let many = client.query_many(vec![miner.axon(); 64], "ask", &data(len), options);
        let releasing = async {
            for released in 8..=64 {
                held.until_begun(released).await;
                held.release.add_permits(1);
            }
            held.release.add_permits(8);
        };
        let (answers, ()) = within(async { tokio::join!(many.collect(), releasing) }).await;
        for answer in &answers {
            assert_good(answer, &data(len));
        }
        let counts = held.counts();
        assert_eq!((counts.begun, counts.most_running), (64, 8), "{counts:?}");
    }
}

/// An answer keeps its place until it is taken, or a slow taker would fill the memory.
#[tokio::test]
async fn answers_that_nobody_takes_hold_up_new_requests() {
    let willing = Held::new(1_000_000);
    let miner = serve(1, willing.clone()).await;
    let client = client_of(client_config(), vec![miner.axon()]).await;
    let options = options().concurrency(8);
    let mut many = client.query_many(vec![miner.axon(); 64], "ask", &data(10), options);
    for taken in 0..64 {
        willing.until_begun((8 + taken).min(64)).await;
        assert_good(&within(many.next()).await.unwrap(), &data(10));
    }
    assert!(within(many.next()).await.is_none());
}

#[tokio::test]
async fn a_slow_miner_holds_up_nobody() {
    let held = Held::new(0);
    let slow = serve(1, held.clone()).await;
    let miners = serve_willing(2..=6).await;
    let mut all = vec![slow.axon()];
    all.extend(axons(&miners));
    let client = client_of(client_config(), all.clone()).await;
    let options = options().concurrency(2);
    let mut many = client.query_many(all, "ask", &data(10), options);
    for _ in 0..5 {
        let answer = within(many.next()).await.unwrap();
        assert_ne!(answer.index, 0);
        assert_good(&answer, &data(10));
    }
    held.release.add_permits(1);
    let last = within(many.next()).await.unwrap();
    assert_eq!(last.index, 0);
    assert_good(&last, &data(10));
}

#[tokio::test]
async fn what_the_miners_say_is_told_apart() {
    let miners = serve_willing([1]).await;
    let client = client_of(client_config(), axons(&miners)).await;
    let many = client.query_many(axons(&miners), "nobody", &data(10), options());
    let answers = within(many.collect()).await;
    let error = answers[0].result.as_ref().unwrap_err();
    assert_eq!((error.phase(), error.is_retry_safe()), (Phase::Wait, true));
    assert!(
        matches!(error.kind(), CallErrorKind::Remote(text) if text == "unrecognized synapse type"),
        "{error}"
    );

    let config = client_config().max_frame_payload_bytes(1024 * 1024);
    let client = client_of(config, axons(&miners)).await;
    let many = client.query_many(axons(&miners), "ask", &data(2_000_000), options());
    let answers = within(many.collect()).await;
    let error = answers[0].result.as_ref().unwrap_err();
    assert_eq!(error.phase(), Phase::Send);
    assert!(matches!(error.kind(), CallErrorKind::Encode(_)), "{error}");
}

#[tokio::test]
async fn published_miners_answer_too() {
    let published = old::Server::start(Settings {
        seed: [77; 32],
        ..Settings::default()
    })
    .await;
    published.blocking("ask", Ok).await;
    let ours = serve_willing([1, 2]).await;
    let all = vec![ours[0].axon(), published.axon(), ours[1].axon()];
    let client = client_of(client_config(), vec![published.axon()]).await;
    for len in SIZES {
        for options in [options(), options().hedge_after(crate::LONG)] {
            let many = client.query_many(all.clone(), "ask", &data(len), options);
            let answers = within(many.collect()).await;
            assert_eq!(answers.len(), 3);
            for (answer, axon) in answers.iter().zip(&all) {
                assert_eq!(&answer.axon, axon);
                assert_good(answer, &data(len));
            }
        }
    }
    within(published.stop()).await;
}

/// What was not sent whole has reached no handler, so it may be sent again: once.
#[tokio::test]
async fn a_request_is_sent_once_more_on_a_new_connection() {
    for hang_ups in [1, 2] {
        let server = RawServer::bind(ALPN_OLD);
        let target = axon(&hotkey(MINER), server.addr());
        let client = client_of(client_config(), vec![]).await;
        let sent = data(50_000_000);
        let many = client.query_many(vec![target], "ask", &sent, options());
        let serving = async {
            for _ in 0..hang_ups {
                let peer = server.accept().await;
                peer.authenticate(&Keypair::from_seed(&MINER)).await;
                let (_send, mut recv) = peer.connection.accept_bi().await.unwrap();
                recv.read_exact(&mut [0; 1000]).await.unwrap();
                lightning_quic::close(&peer.connection, 5u32.into(), b"bye");
            }
            let peer = server.accept().await;
            peer.authenticate(&Keypair::from_seed(&MINER)).await;
            let (mut send, _recv, _, payload) = peer.next_frame().await;
            let response = message::Response {
                success: true,
                data: message::Request::decode(payload).unwrap().into_data(),
                timestamp: 0,
                error: None,
            };
            let frame = response.encode().unwrap().to_vec();
            send.write_all(&frame).await.unwrap();
            send.finish().unwrap();
            peer.connection.closed().await
        };
        let answers = tokio::select! {
            answers = within(many.collect()) => answers,
            reason = within(serving) => panic!("the client hung up: {reason}"),
        };
        match &answers[0].result {
            Ok(reply) => assert_eq!((reply.data == sent, hang_ups), (true, 1)),
            Err(error) => {
                assert_eq!((error.phase(), hang_ups), (Phase::Send, 2), "{error}");
                assert!(matches!(error.kind(), CallErrorKind::Lost(_)), "{error}");
            }
        }
    }
}
