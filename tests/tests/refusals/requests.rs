//! Requests that the server refuses, of strangers and of authenticated peers.

use btlightning_proto::{
    close::stream::REFUSED,
    frame::MessageType,
    limits::{MAX_HANDSHAKE_PAYLOAD, MAX_NESTING_DEPTH},
    message::{self, Response, StreamEnd},
};
use bytes::Bytes;
use lightning_tests::{
    payload,
    raw::{ALPN_OLD, Answer, RawClient, frame, honest_frame},
    within,
};

use crate::{LIMIT, assert_serves, client_key, hello, serve};

/// What the server does with a stream that it refuses.
enum Expected {
    /// It says so.
    Says(&'static str),
    /// Nothing can be said to half a frame: the stream is reset.
    Resets,
}

const INVALID: Expected = Expected::Says("invalid request format");
const STRANGER: Expected = Expected::Says("authentication failed");

#[tokio::test]
async fn an_authenticated_peer_loses_nothing_by_a_bad_request() {
    let miner = serve().await;
    let peer = within(RawClient::connect(miner.addr())).await;
    within(peer.authenticate(&client_key())).await;
    let packet = MessageType::SynapsePacket;
    let limit = u32::try_from(LIMIT).unwrap();
    let cases: Vec<(&str, Expected, Vec<u8>)> = vec![
        ("type 0", INVALID, frame(0, 0, &[])),
        ("type 9", INVALID, frame(9, 3, &[1, 2, 3])),
        ("type 255", INVALID, frame(255, u32::MAX, &[])),
        (
            "a declared byte too many",
            INVALID,
            frame(packet as u8, limit + 1, &[]),
        ),
        (
            "a byte too many",
            INVALID,
            frame(packet as u8, limit + 1, &vec![0xc0; LIMIT + 1]),
        ),
        (
            "4 GiB declared",
            INVALID,
            frame(packet as u8, u32::MAX, &[]),
        ),
        ("no frame", Expected::Resets, vec![]),
        ("a cut header", Expected::Resets, vec![3, 0, 0]),
        (
            "a cut payload",
            Expected::Resets,
            frame(packet as u8, 100, &[0x93]),
        ),
        (
            "a payload cut at the limit",
            Expected::Resets,
            frame(packet as u8, limit, &[0x93; 1000]),
        ),
        ("an empty payload", INVALID, honest_frame(packet, &[])),
        ("noise", INVALID, honest_frame(packet, &noise(1000))),
        (
            "a byte that begins no value",
            INVALID,
            honest_frame(packet, &[0x93, 0xc1, 0x80, 0]),
        ),
        ("nil", INVALID, honest_frame(packet, &[0xc0])),
        (
            "two fields",
            INVALID,
            honest_frame(packet, &[0x92, 0xa0, 0x80]),
        ),
        (
            "five fields",
            INVALID,
            honest_frame(packet, &[0x95, 0xa0, 0x80, 0, 0, 0]),
        ),
        (
            "a map without data",
            INVALID,
            honest_frame(packet, b"\x81\xa9timestamp\x00"),
        ),
        (
            "a type that is a number",
            INVALID,
            honest_frame(packet, &[0x93, 7, 0x80, 0]),
        ),
        (
            "a type that is not UTF-8",
            INVALID,
            honest_frame(packet, &[0x93, 0xa1, 0xff, 0x80, 0]),
        ),
        (
            "data that is a list",
            INVALID,
            honest_frame(packet, b"\x93\xa4echo\x90\x00"),
        ),
        (
            "data with a number for a key",
            INVALID,
            honest_frame(packet, b"\x93\xa4echo\x81\x01\x01\x00"),
        ),
        (
            "a negative timestamp",
            INVALID,
            honest_frame(packet, b"\x93\xa4echo\x80\xff"),
        ),
        (
            "bytes behind the message",
            INVALID,
            honest_frame(packet, b"\x93\xa4echo\x80\x00\x00"),
        ),
        (
            "a level too many",
            INVALID,
            honest_frame(packet, &nested(MAX_NESTING_DEPTH + 1)),
        ),
        (
            "half a million levels",
            INVALID,
            honest_frame(packet, &nested(500_000)),
        ),
        (
            "a text of 4 GiB",
            INVALID,
            honest_frame(packet, &huge(0xdb)),
        ),
        (
            "binary data of 4 GiB",
            INVALID,
            honest_frame(packet, &huge(0xc6)),
        ),
        (
            "an extension of 4 GiB",
            INVALID,
            honest_frame(packet, &huge(0xc9)),
        ),
        (
            "a list of 4 Gi values",
            INVALID,
            honest_frame(packet, &huge(0xdd)),
        ),
        (
            "a map of 4 Gi entries",
            INVALID,
            honest_frame(packet, &huge(0xdf)),
        ),
        (
            "data of 4 Gi entries",
            INVALID,
            honest_frame(packet, b"\x93\xa4echo\xdf\xff\xff\xff\xff\x00"),
        ),
        (
            "an answer",
            INVALID,
            Response::failure("x", 0).encode().unwrap().to_vec(),
        ),
        (
            "a chunk",
            INVALID,
            message::encode_chunk(&Bytes::from_static(b"x"))
                .unwrap()
                .to_vec(),
        ),
        (
            "the end of a stream",
            INVALID,
            message::encode_stream_end(&StreamEnd::ok())
                .unwrap()
                .to_vec(),
        ),
        (
            "the answer to a handshake",
            INVALID,
            honest_frame(MessageType::HandshakeResponse, &[0x80]),
        ),
        (
            "a duplex call that does not decode",
            INVALID,
            honest_frame(MessageType::DuplexOpen, &[0x93, 0xa0, 0x80, 0]),
        ),
        (
            "a type that nobody serves",
            Expected::Says("unrecognized synapse type"),
            message::encode_request("nobody", &hello(), 0)
                .unwrap()
                .to_vec(),
        ),
    ];
    for (what, expected, bytes) in cases {
        let refused = miner.server().stats().requests_refused;
        let answer = within(peer.exchange(&bytes)).await;
        let counted = assert_refusal(answer, &expected, what);
        assert_eq!(
            miner.server().stats().requests_refused,
            refused + counted,
            "{what}"
        );
        assert_serves(&peer, what).await;
    }
    // A handshake that fails takes nothing away from who is authenticated.
    let bytes = honest_frame(MessageType::HandshakeRequest, &[0xc1]);
    assert!(matches!(
        within(peer.exchange(&bytes)).await,
        Answer::Frame(MessageType::HandshakeResponse, _)
    ));
    assert_serves(&peer, "a failed handshake").await;

    let stats = miner.server().stats();
    assert_eq!(stats.handshakes, 1, "all on one connection");
    assert_eq!(stats.requests_failed, 0, "no handler saw any of it");
}

#[tokio::test]
async fn a_stranger_gets_no_request_through() {
    let miner = serve().await;
    let budget = u32::try_from(MAX_HANDSHAKE_PAYLOAD).unwrap();
    let large = btlightning::Payload::from_map(&payload(vec![7; 100_000])).unwrap();
    let cases: Vec<(&str, Expected, Vec<u8>)> = vec![
        (
            "a request",
            STRANGER,
            message::encode_request("echo", &hello(), 0)
                .unwrap()
                .to_vec(),
        ),
        (
            "a duplex call",
            STRANGER,
            message::encode_duplex_open("echo", &hello(), 0, None)
                .unwrap()
                .to_vec(),
        ),
        (
            "a large request",
            STRANGER,
            message::encode_request("echo", &large, 0).unwrap().to_vec(),
        ),
        (
            "a byte more than a handshake may have",
            STRANGER,
            frame(MessageType::HandshakeRequest as u8, budget + 1, &[]),
        ),
        (
            "4 GiB declared",
            STRANGER,
            frame(MessageType::SynapsePacket as u8, u32::MAX, &[]),
        ),
        ("a type that does not exist", STRANGER, frame(99, 0, &[])),
        (
            "a chunk",
            STRANGER,
            message::encode_chunk(&Bytes::from_static(b"x"))
                .unwrap()
                .to_vec(),
        ),
        (
            "a lane",
            STRANGER,
            message::encode_lane_open().unwrap().to_vec(),
        ),
        (
            "a cut frame",
            Expected::Resets,
            frame(MessageType::HandshakeRequest as u8, budget, &[0x94]),
        ),
    ];
    let peer = within(RawClient::connect(miner.addr())).await;
    for (what, expected, bytes) in cases {
        let refused = miner.server().stats().requests_refused;
        let answer = within(peer.exchange(&bytes)).await;
        let counted = assert_refusal(answer, &expected, what);
        assert_eq!(
            miner.server().stats().requests_refused,
            refused + counted,
            "{what}"
        );
    }
    assert_eq!(miner.server().stats().requests, 0, "no handler was asked");
    within(peer.authenticate(&client_key())).await;
    assert_serves(&peer, "many mistakes").await;
}

/// Authentication belongs to a connection: another one of the same host does not share it.
#[tokio::test]
async fn a_second_connection_is_a_stranger_again() {
    let miner = serve().await;
    let peer = within(RawClient::connect(miner.addr())).await;
    within(peer.authenticate(&client_key())).await;
    // The same socket and so the same address.
    let second = peer.endpoint.connect(miner.addr(), "localhost").unwrap();
    let stranger = RawClient {
        endpoint: peer.endpoint.clone(),
        connection: within(second).await.unwrap(),
        fingerprint: peer.fingerprint,
    };
    let answer = within(stranger.request("echo", &hello())).await;
    assert_eq!(answer.error.as_deref(), Some("authentication failed"));
    assert_serves(&peer, "a stranger's request").await;
}

#[tokio::test]
async fn frames_of_the_new_protocol_are_refused_on_the_old_one() {
    let miner = serve().await;
    let peer = within(RawClient::connect_with(miner.addr(), ALPN_OLD)).await;
    within(peer.authenticate(&client_key())).await;
    for (what, frame) in [
        (
            "a duplex call",
            message::encode_duplex_open("echo", &hello(), 0, None),
        ),
        ("a lane", message::encode_lane_open()),
    ] {
        let answer = within(peer.exchange(&frame.unwrap().to_vec())).await;
        assert_eq!(assert_refusal(answer, &INVALID, what), 1);
        assert_serves(&peer, what).await;
    }
}

#[tokio::test]
async fn frames_up_to_the_limit_are_served() {
    let miner = serve().await;
    let peer = within(RawClient::connect(miner.addr())).await;
    within(peer.authenticate(&client_key())).await;
    // A type that is not served: so the answer is small whatever the request is.
    let frame_of = |len: usize| {
        let data = btlightning::Payload::from_map(&payload(vec![7; len])).unwrap();
        message::encode_request("nobody", &data, 0)
            .unwrap()
            .to_vec()
    };
    // Header of five bytes; the length of everything around the payload does not change here.
    let around = frame_of(LIMIT / 2).len() - 5 - LIMIT / 2;
    for (len, text) in [
        (LIMIT - around - 1, "unrecognized synapse type"),
        (LIMIT - around, "unrecognized synapse type"),
        (LIMIT - around + 1, "invalid request format"),
    ] {
        let answer = within(peer.response(&frame_of(len))).await;
        assert_eq!(answer.error.as_deref(), Some(text), "{len} bytes");
    }
}

/// Checks what came back, and returns how many refused requests it counts for.
fn assert_refusal(answer: Answer, expected: &Expected, what: &str) -> u64 {
    match (expected, answer) {
        (Expected::Says(text), Answer::Frame(MessageType::SynapseResponse, payload)) => {
            let response = Response::decode(payload).unwrap();
            assert!(!response.success, "{what}");
            assert!(response.data.is_empty(), "{what}");
            assert_eq!(response.error.as_deref(), Some(*text), "{what}");
            1
        }
        (Expected::Resets, Answer::Reset(code)) => {
            assert_eq!(code, u64::from(REFUSED), "{what}");
            0
        }
        (_, other) => panic!("{what}: {other:?}"),
    }
}

/// A request for `echo` whose one value has this many levels of lists.
fn nested(levels: usize) -> Vec<u8> {
    let mut bytes = b"\x93\xa4echo\x81\xa1k".to_vec();
    bytes.extend(vec![0x91; levels]);
    bytes.extend([0xc0, 0x00]);
    bytes
}

/// A request for `echo` with a value that says it has 4 Gi of something.
fn huge(marker: u8) -> Vec<u8> {
    let mut bytes = b"\x93\xa4echo\x81\xa1k".to_vec();
    bytes.extend([marker, 0xff, 0xff, 0xff, 0xff, 1, 2, 3]);
    bytes
}

/// Bytes without a meaning, the same in every run.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..len).map(|_| next()).collect()
}
