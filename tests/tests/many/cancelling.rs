//! What is not wanted any more is cancelled, down to the miners' handlers.

use btlightning::{CallErrorKind, Phase};
use lightning_keys::Keypair;
use lightning_tests::{
    MINER, axon, hotkey,
    raw::{ALPN_BOTH, RawServer},
    until, within,
};

use crate::{
    Held, SIZES, assert_good, axons, client_config, client_of, data, options, serve, serve_willing,
};

#[tokio::test]
async fn dropping_it_drops_the_handlers() {
    let held = Held::new(0);
    let miners = [serve(1, held.clone()).await, serve(2, held.clone()).await];
    let client = client_of(client_config(), axons(&miners)).await;
    for (round, len) in (1..).zip(SIZES) {
        let many = client.query_many(axons(&miners), "ask", &data(len), options());
        held.until_begun(2 * round).await;
        drop(many);
        held.until_dropped(2 * round).await;
    }
    for len in SIZES {
        let collecting = client
            .query_many(axons(&miners), "ask", &data(len), options())
            .collect();
        let begun = held.counts().begun;
        tokio::select! {
            answers = collecting => panic!("{answers:?}"),
            () = held.until_begun(begun + 2) => {}
        }
        held.until_dropped(begun + 2).await;
    }
    // The connections are as good as new.
    held.release.add_permits(2);
    let many = client.query_many(axons(&miners), "ask", &data(10), options());
    for answer in within(many.collect()).await {
        assert_good(&answer, &data(10));
    }
    for miner in &miners {
        until("the server has tidied up", async || {
            let stats = miner.server().stats();
            (stats.requests_cancelled, stats.requests_in_flight) == (4, 0)
        })
        .await;
        assert_eq!(miner.server().stats().handshakes, 1);
    }
}

#[tokio::test]
async fn as_many_good_answers_as_wanted_end_it() {
    let held = Held::new(0);
    let stuck = [serve(1, held.clone()).await, serve(2, held.clone()).await];
    let ready = Held::new(0);
    let mut willing = Vec::new();
    for seed in 3..=6 {
        willing.push(serve(seed, ready.clone()).await);
    }
    let (silence, dead) = crate::silence(7).await;
    let mut all = axons(&stuck);
    all.extend(axons(&willing));
    all.push(dead);
    let client = client_of(
        client_config().connect_timeout(crate::LONG),
        all[..6].to_vec(),
    )
    .await;
    for (round, len) in (1..).zip(SIZES) {
        let options = options().wanted(3);
        let mut many = client.query_many(all.clone(), "ask", &data(len), options);
        held.until_begun(2 * round).await;
        ready.release.add_permits(3);
        for _ in 0..3 {
            let answer = within(many.next()).await.unwrap();
            assert!((2..6).contains(&answer.index));
            assert_good(&answer, &data(len));
        }
        assert!(within(many.next()).await.is_none());
        held.until_dropped(2 * round).await;
        ready.until_dropped(round).await;
    }
    drop(silence);
}

/// Bad answers do not count, and are reported.
#[tokio::test]
async fn only_good_answers_count() {
    let miners = serve_willing(1..=3).await;
    let mut all = axons(&miners);
    let client = client_of(client_config(), all.clone()).await;
    // The wrong hotkey at a live address.
    all[0].hotkey = hotkey([99; 32]);
    let many = client.query_many(all.clone(), "ask", &data(10), options().wanted(3));
    let answers = within(many.collect()).await;
    assert_eq!(answers.len(), 3);
    let error = answers[0].result.as_ref().unwrap_err();
    assert_eq!(error.phase(), Phase::Handshake, "{error}");
    for answer in &answers[1..] {
        assert_good(answer, &data(10));
    }
    let many = client.query_many(all, "ask", &data(10), options().wanted(0));
    assert_eq!(within(many.collect()).await.len(), 0);
}

/// It has what it needs without the client, but the connections are the client's.
#[tokio::test]
async fn dropping_the_client_ends_the_calls() {
    let held = Held::new(0);
    let miner = serve(1, held.clone()).await;
    let client = client_of(client_config(), vec![miner.axon()]).await;
    let late = RawServer::bind(ALPN_BOTH);
    let all = vec![miner.axon(), axon(&hotkey(MINER), late.addr())];
    let many = client.query_many(all, "ask", &data(10), options());
    held.until_begun(1).await;
    let peer = within(late.accept()).await;
    drop(client);
    held.until_dropped(1).await;
    // The dial of the other one ends too late: nobody would ever close its connection.
    let ended = async {
        peer.authenticate(&Keypair::from_seed(&MINER)).await;
        peer.connection.closed().await
    };
    let (answers, _reason) = within(async { tokio::join!(many.collect(), ended) }).await;
    let error = answers[0].result.as_ref().unwrap_err();
    assert!(matches!(error.kind(), CallErrorKind::Lost(_)), "{error}");
    let error = answers[1].result.as_ref().unwrap_err();
    assert_eq!(error.phase(), Phase::Dial);
    assert!(matches!(error.kind(), CallErrorKind::Config(_)), "{error}");
}
