//! Time limits, each of which says which part of the call it ended.

use btlightning::{CallError, CallErrorKind, Phase};
use lightning_tests::{
    MINER, OTHER_MINER, axon, hotkey,
    raw::{ALPN_BOTH, RawServer},
    within,
};

use crate::{
    AMPLE, BRIEF, Held, LONG, SIZES, assert_good, axons, client_config, client_of, data, options,
    serve, serve_willing, silence,
};

/// The phase and the limit that ended it.
fn timeout_of(error: &CallError) -> (Phase, &'static str) {
    match error.kind() {
        CallErrorKind::Timeout { what, .. } => (error.phase(), what),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn at_the_deadline_the_rest_is_reported() {
    let willing = serve_willing([11]).await;
    let held = Held::new(0);
    let stuck = serve(12, held.clone()).await;
    let in_line = serve_willing([13]).await;
    let (_socket, dead) = silence(14).await;
    let mute = RawServer::bind(ALPN_BOTH);
    let connected = vec![willing[0].axon(), stuck.axon(), in_line[0].axon()];
    let client = client_of(client_config().connect_timeout(LONG), connected.clone()).await;
    let mut all = connected;
    // Dialled first, and never authenticated.
    all.extend([axon(&hotkey(MINER), mute.addr()), dead]);
    let options = options().concurrency(1).deadline(AMPLE);
    let many = client.query_many(all, "ask", &data(10), options);
    let (answers, _peer) = within(async { tokio::join!(many.collect(), mute.accept()) }).await;
    assert_eq!(answers.len(), 5);
    assert_good(&answers[0], &data(10));
    let expected = [Phase::Wait, Phase::Send, Phase::Handshake, Phase::Dial];
    for (answer, phase) in answers[1..].iter().zip(expected) {
        let error = answer.result.as_ref().unwrap_err();
        assert_eq!(timeout_of(error), (phase, "fan-out"), "{error}");
        assert_eq!(error.is_retry_safe(), phase != Phase::Wait);
        assert!(
            matches!(error.kind(), CallErrorKind::Timeout { after, .. } if *after == AMPLE),
            "{error}"
        );
    }
    held.until_dropped(1).await;
    assert_eq!(in_line[0].server().stats().requests, 0);
}

#[tokio::test]
async fn after_the_deadline_nobody_is_asked() {
    let willing = Held::new(1000);
    let miner = serve(1, willing.clone()).await;
    let client = client_of(client_config(), vec![miner.axon()]).await;
    let options = options().deadline(std::time::Duration::ZERO);
    let many = client.query_many(vec![miner.axon(); 3], "ask", &data(10), options);
    for answer in within(many.collect()).await {
        let error = answer.result.unwrap_err();
        assert_eq!(timeout_of(&error), (Phase::Send, "fan-out"));
    }
    let client = client_of(client_config(), vec![]).await;
    let many = client.query_many(vec![miner.axon()], "ask", &data(10), options);
    let error = within(many.collect()).await.remove(0).result.unwrap_err();
    assert_eq!(timeout_of(&error), (Phase::Dial, "fan-out"));
    assert_eq!(willing.counts().begun, 0);
    assert_eq!(client.stats().connections.len(), 0);
}

/// The limit of one answer lets the others go on.
#[tokio::test]
async fn the_wait_for_each_answer_has_a_limit() {
    let held = Held::new(0);
    let stuck = serve(1, held.clone()).await;
    let willing = serve_willing(2..=4).await;
    let mut all = vec![stuck.axon(); 2];
    all.extend(axons(&willing));
    let client = client_of(client_config(), vec![]).await;
    for (round, len) in (1..).zip(SIZES) {
        let options = options().concurrency(1).timeout(BRIEF).deadline(LONG);
        let many = client.query_many(all.clone(), "ask", &data(len), options);
        let answers = within(many.collect()).await;
        for answer in &answers[..2] {
            let error = answer.result.as_ref().unwrap_err();
            assert_eq!(timeout_of(error), (Phase::Wait, "query"));
        }
        for answer in &answers[2..] {
            assert_good(answer, &data(len));
        }
        held.until_dropped(2 * round).await;
    }
}

#[tokio::test]
async fn connecting_to_each_has_a_limit() {
    let willing = serve_willing([1]).await;
    let (_socket, dead) = silence(2).await;
    let mute = RawServer::bind(ALPN_BOTH);
    let all = vec![
        dead,
        axon(&hotkey(OTHER_MINER), mute.addr()),
        willing[0].axon(),
    ];
    let client = client_of(client_config().connect_timeout(LONG), vec![]).await;
    let options = options().connect_timeout(AMPLE);
    let many = client.query_many(all, "ask", &data(10), options);
    let (answers, _peer) = within(async { tokio::join!(many.collect(), mute.accept()) }).await;
    let error = answers[0].result.as_ref().unwrap_err();
    assert_eq!(timeout_of(error), (Phase::Dial, "connection"));
    let error = answers[1].result.as_ref().unwrap_err();
    assert_eq!(timeout_of(error), (Phase::Handshake, "handshake"));
    assert_good(&answers[2], &data(10));
}
