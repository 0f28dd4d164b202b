//! Dead addresses, and whom they do not hold up.

use std::time::Duration;

use btlightning::{CallErrorKind, LightningClient, Payload, Phase, QuicAxonInfo};
use lightning_tests::{CLIENT, hotkey, within};

use crate::{
    AMPLE, BRIEF, LONG, assert_good, axons, client_config, client_of, data, options, serve_willing,
    silence,
};

/// Neither those with a connection nor those that have yet to be dialled.
#[tokio::test]
async fn dead_miners_hold_up_nobody() {
    let miners = serve_willing(1..=4).await;
    let (_one, first) = silence(5).await;
    let (_two, second) = silence(6).await;
    let mut all = vec![first, second];
    all.extend(axons(&miners));
    let config = client_config().connect_timeout(LONG);
    let client = client_of(config, axons(&miners[..2])).await;
    // A single place, which a dead one takes first.
    let options = options().concurrency(1);
    let mut many = client.query_many(all, "ask", &data(10), options);
    for index in 2..6 {
        let answer = within(many.next()).await.unwrap();
        assert_eq!(answer.index, index);
        assert_good(&answer, &data(10));
    }
}

/// Who failed before is dialled last, and not before its pause is over.
#[tokio::test]
async fn those_that_failed_least_are_dialled_first() {
    let brief = Duration::from_millis(1);
    let config = client_config()
        .connect_timeout(AMPLE)
        .reconnect_initial_backoff(brief)
        .reconnect_max_backoff(brief);
    let client = client_of(config, vec![]).await;
    let (_socket, dead) = silence(1).await;
    let options = options().concurrency(1);
    let many = client.query_many(vec![dead.clone()], "ask", &data(10), options);
    let answers = within(many.collect()).await;
    let error = answers[0].result.as_ref().unwrap_err();
    assert_eq!((error.phase(), error.is_timeout()), (Phase::Dial, true));

    let miners = serve_willing([2]).await;
    let mut many = client.query_many(vec![dead, miners[0].axon()], "ask", &data(10), options);
    let first = within(many.next()).await.unwrap();
    assert_eq!(first.index, 1);
    assert_good(&first, &data(10));
    let error = within(many.next()).await.unwrap().result.unwrap_err();
    assert_eq!((error.phase(), error.is_timeout()), (Phase::Dial, true));
}

#[tokio::test]
async fn an_address_that_failed_is_left_alone_for_a_while() {
    let config = client_config()
        .connect_timeout(BRIEF)
        .reconnect_initial_backoff(LONG)
        .reconnect_max_backoff(LONG);
    let client = client_of(config, vec![]).await;
    let (_socket, dead) = silence(1).await;
    // One dial for all who want it.
    let many = client.query_many(vec![dead.clone(); 4], "ask", &data(10), options());
    for answer in within(many.collect()).await {
        assert!(answer.result.unwrap_err().is_timeout());
    }
    let many = client.query_many(vec![dead; 4], "ask", &data(10), options());
    for answer in within(many.collect()).await {
        let error = answer.result.unwrap_err();
        assert_eq!(error.phase(), Phase::Dial);
        assert!(
            matches!(error.kind(), CallErrorKind::Backoff { retry_in } if *retry_in <= LONG),
            "{error}"
        );
    }
}

/// Hotkeys that are not there must not cost the one that is its connection, whoever comes first.
#[tokio::test]
async fn wrong_hotkeys_at_an_address_take_nothing_from_the_right_one() {
    let miners = serve_willing([1]).await;
    let right = miners[0].axon();
    let wrong = [97, 98, 99].map(|seed| QuicAxonInfo {
        hotkey: hotkey([seed; 32]),
        ..right.clone()
    });
    for concurrency in [1, 256] {
        let client = client_of(client_config(), vec![]).await;
        let mut all = wrong.to_vec();
        all.push(right.clone());
        let options = options().concurrency(concurrency);
        for _ in 0..2 {
            let many = client.query_many(all.clone(), "ask", &data(10), options);
            let answers = within(many.collect()).await;
            assert_good(&answers[3], &data(10));
            for answer in &answers[..3] {
                let error = answer.result.as_ref().unwrap_err();
                assert_eq!(error.phase(), Phase::Handshake, "{error}");
            }
        }
    }
}

#[tokio::test]
async fn a_client_that_is_not_set_up_says_so_for_each() {
    let miners = serve_willing(1..=2).await;
    let mut client = LightningClient::new(hotkey(CLIENT));
    let ask = |client: &LightningClient| {
        let many = client.query_many(axons(&miners), "ask", &Payload::empty(), options());
        within(many.collect())
    };
    for answer in ask(&client).await {
        let error = answer.result.unwrap_err();
        assert!(matches!(error.kind(), CallErrorKind::NotInitialized));
    }
    within(client.create_endpoint()).await.unwrap();
    for answer in ask(&client).await {
        let error = answer.result.unwrap_err();
        assert!(matches!(error.kind(), CallErrorKind::Signing(_)), "{error}");
    }
}
