//! What a peer gets before it has authenticated: a few streams, a few kilobytes, a few seconds.

use btlightning_proto::{
    close::CloseReason,
    frame::MessageType,
    limits::MAX_HANDSHAKE_PAYLOAD,
    message::{HandshakeResponse, decode_handshake_response},
};
use futures::{FutureExt, future::join_all};
use lightning_tests::{
    hotkey,
    raw::{Answer, RawClient, close_of, frame, honest_frame},
    within,
};

use crate::{
    assert_serves, config, connect_from, key, local, refused, serve, until_unauthenticated,
};

/// Streams that a connection may open in all before its first handshake succeeds.
const STREAMS_IN_ALL: usize = 16;
/// Streams that it may have open at a time until then.
const STREAMS_AT_A_TIME: usize = 8;
/// What a connection may send in all until then, whatever it tries: a receive window for each of
/// its streams, since a stream that was refused gives back what it took.
const BYTES_IN_ALL: u64 = STREAMS_IN_ALL as u64 * 16 * 1024;

#[tokio::test]
async fn a_connection_without_a_handshake_is_closed() {
    let miner = serve(config().handshake_timeout_secs(1)).await;
    let validator = within(RawClient::connect(miner.addr())).await;
    within(validator.authenticate(&key(0))).await;

    let silent = within(RawClient::connect(miner.addr())).await;
    let refused_all = within(RawClient::connect(miner.addr())).await;
    let bytes = honest_frame(MessageType::HandshakeRequest, &[0xc0]);
    within(refused_all.exchange(&bytes)).await;
    let unfinished = within(RawClient::connect(miner.addr())).await;
    let (mut send, _recv) = within(unfinished.connection.open_bi()).await.unwrap();
    within(send.write_all(&[1, 0, 0])).await.unwrap();

    for (what, stranger) in [
        ("silence", silent),
        ("a refused handshake", refused_all),
        ("half a handshake", unfinished),
    ] {
        let reason = within(stranger.connection.closed()).await;
        assert_closed(&reason, CloseReason::HandshakeTimeout, what);
    }
    // Who has authenticated has all the time in the world.
    assert_serves(&validator).await;
    until_unauthenticated(&miner, 0).await;
}

#[tokio::test]
async fn a_connection_that_only_opens_streams_is_closed() {
    let miner = serve(config()).await;
    let stranger = within(RawClient::connect(miner.addr())).await;
    let request = frame(MessageType::SynapsePacket as u8, 0, &[]);
    for n in 0..STREAMS_IN_ALL {
        let answer = within(stranger.exchange(&request)).await;
        assert!(
            matches!(answer, Answer::Frame(MessageType::SynapseResponse, _)),
            "stream {n}: {answer:?}"
        );
    }
    let Answer::Closed(reason) = within(stranger.exchange(&request)).await else {
        panic!("a stream too many was served");
    };
    assert_closed(&reason, CloseReason::ProtocolViolation, "streams");
}

#[tokio::test]
async fn streams_are_few_until_the_handshake() {
    let miner = serve(config()).await;
    let peer = within(RawClient::connect(miner.addr())).await;
    let open = async || within(peer.connection.open_bi()).await.unwrap();
    let mut streams = Vec::new();
    for _ in 0..STREAMS_AT_A_TIME {
        streams.push(open().await);
    }
    let one_more = peer.connection.open_bi();
    tokio::pin!(one_more);
    assert!(one_more.as_mut().now_or_never().is_none());

    // The handshake goes over a stream that is open already.
    let (mut send, recv) = streams.pop().unwrap();
    let request = peer.handshake(&key(0));
    let bytes = btlightning_proto::message::encode_handshake_request(&request).unwrap();
    send.write_all(&bytes.to_vec()).await.unwrap();
    send.finish().unwrap();
    assert!(response(within(lightning_tests::raw::read_answer(recv)).await).accepted);

    // A server that lets 128 requests run at a time has places for all that follow.
    streams.push(within(one_more).await.unwrap());
    for _ in 0..100 {
        streams.push(open().await);
    }
    assert_serves(&peer).await;
}

/// Pushes 64 MiB in every way there is: no more than a few kilobytes are taken.
#[tokio::test]
async fn what_a_stranger_pushes_is_not_taken() {
    let budget = u32::try_from(MAX_HANDSHAKE_PAYLOAD).unwrap();
    for (what, head) in [
        (
            "handshakes that do not end",
            frame(MessageType::HandshakeRequest as u8, budget, &[0x94]),
        ),
        (
            "handshakes with something behind them",
            honest_frame(MessageType::HandshakeRequest, &[0xc0]),
        ),
        (
            "handshakes of 64 MiB",
            frame(MessageType::HandshakeRequest as u8, 64 * 1024 * 1024, &[]),
        ),
        (
            "requests of 64 MiB",
            frame(MessageType::SynapsePacket as u8, 64 * 1024 * 1024, &[]),
        ),
        ("types that do not exist", frame(77, u32::MAX, &[])),
    ] {
        let miner = serve(config().handshake_timeout_secs(1)).await;
        let stranger = within(RawClient::connect(miner.addr())).await;
        let taken = within(push_everything(&stranger, &head)).await;
        assert!(taken > 0, "{what}: not even tried");
        assert!(taken <= BYTES_IN_ALL, "{what}: {taken} bytes were taken");
        // Path MTU probes and repetitions included.
        let on_the_wire = stranger.connection.stats().udp_tx.bytes;
        assert!(
            on_the_wire <= 4 * BYTES_IN_ALL,
            "{what}: {on_the_wire} bytes"
        );
        assert_eq!(miner.server().stats().requests, 0, "{what}");
    }
}

/// Writes to as many streams as it can until the server closes the connection, and returns how
/// many bytes it took.
async fn push_everything(stranger: &RawClient, head: &[u8]) -> u64 {
    let mut pushes = Vec::new();
    while let Ok((mut send, _recv)) = stranger.connection.open_bi().await {
        let head = head.to_vec();
        pushes.push(tokio::spawn(async move {
            let _recv = _recv;
            let mut taken = 0u64;
            let mut next = head;
            while taken < 8 * 1024 * 1024 {
                let Ok(len) = send.write(&next).await else {
                    break;
                };
                taken += len as u64;
                next = vec![0xc0; 64 * 1024];
            }
            taken
        }));
    }
    let taken = join_all(pushes).await;
    taken.into_iter().map(Result::unwrap).sum()
}

#[tokio::test]
async fn connections_without_a_handshake_are_few() {
    let limits = config()
        .max_unauthenticated_per_ip(2)
        .max_unauthenticated_connections(3);
    let miner = serve(limits).await;
    let first = connect_from(&miner, local(1)).await.unwrap();
    let second = connect_from(&miner, local(1)).await.unwrap();
    until_unauthenticated(&miner, 2).await;
    assert_refused(
        connect_from(&miner, local(1)).await,
        "the third of an address",
    );
    let third = connect_from(&miner, local(2)).await.unwrap();
    until_unauthenticated(&miner, 3).await;
    assert_refused(connect_from(&miner, local(3)).await, "the fourth in all");
    assert_eq!(miner.server().stats().connections_refused, 2);

    // A handshake makes room, and so does leaving.
    within(first.authenticate(&key(0))).await;
    until_unauthenticated(&miner, 2).await;
    let fourth = connect_from(&miner, local(3)).await.unwrap();
    until_unauthenticated(&miner, 3).await;
    third.close();
    until_unauthenticated(&miner, 2).await;
    let fifth = connect_from(&miner, local(1)).await.unwrap();
    for (n, peer) in (1..).zip([&first, &second, &fourth, &fifth]) {
        within(peer.authenticate(&key(n))).await;
        assert_serves(peer).await;
    }
}

#[tokio::test]
async fn handshakes_of_an_address_are_few() {
    let miner = serve(config().max_handshake_attempts_per_minute(3)).await;
    let peer = connect_from(&miner, local(1)).await.unwrap();
    within(peer.authenticate(&key(0))).await;
    // Failures count too.
    for _ in 0..2 {
        let bytes = honest_frame(MessageType::HandshakeRequest, &[0xc0]);
        assert!(!response(within(peer.exchange(&bytes)).await).accepted);
    }
    assert_eq!(refused(&miner, "rate_limited"), 0);

    let another = connect_from(&miner, local(1)).await.unwrap();
    let late = within(another.send_handshake(&another.handshake(&key(1)))).await;
    assert!(!late.accepted);
    assert_eq!(late.miner_hotkey, "", "the signature was not looked at");
    assert_eq!(refused(&miner, "rate_limited"), 1);

    let elsewhere = connect_from(&miner, local(2)).await.unwrap();
    within(elsewhere.authenticate(&key(1))).await;
    assert_serves(&peer).await;
}

#[tokio::test]
async fn nonces_are_remembered_up_to_a_limit_and_never_taken_twice() {
    let limits = config()
        .max_nonce_entries(4)
        .max_handshake_attempts_per_minute(1000);
    let miner = serve(limits).await;
    let peer = within(RawClient::connect(miner.addr())).await;
    let now = btlightning::util::unix_timestamp_secs();
    let mut used = Vec::new();
    for n in 0..10 {
        let request = peer.handshake_at(&key(0), now - 60 + n);
        assert!(within(peer.send_handshake(&request)).await.accepted, "{n}");
        used.push(request);
        assert!(miner.server().get_active_nonce_count().await <= 4);
    }
    for request in &used {
        assert!(!within(peer.send_handshake(request)).await.accepted);
    }
    // Those that are remembered, and those that are older than all that are.
    assert_eq!(refused(&miner, "replayed"), 4);
    assert_eq!(refused(&miner, "forgotten"), 6);
    assert_eq!(miner.server().stats().callers[0].hotkey, hotkey([100; 32]));
    assert_serves(&peer).await;
}

fn assert_closed(error: &quinn::ConnectionError, reason: CloseReason, what: &str) {
    let expected = (reason.as_str().to_owned(), u64::from(reason.code()));
    assert_eq!(close_of(error), expected, "{what}");
}

fn response(answer: Answer) -> HandshakeResponse {
    match answer {
        Answer::Frame(MessageType::HandshakeResponse, payload) => {
            decode_handshake_response(&payload).unwrap()
        }
        other => panic!("expected a handshake response, got {other:?}"),
    }
}

fn assert_refused(connected: Result<RawClient, quinn::ConnectionError>, what: &str) {
    match connected {
        // CONNECTION_REFUSED of RFC 9000, section 20.1.
        Err(quinn::ConnectionError::ConnectionClosed(close)) => {
            assert_eq!(u64::from(close.error_code), 2, "{what}");
        }
        other => panic!("{what}: {other:?}"),
    }
}
