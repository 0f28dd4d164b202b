//! Bytes of messages that the published vectors do not hold, written out by hand.
//!
//! A change here is a change of the wire: `docs/protocol.md` changes with it.

#![allow(clippy::unwrap_used, reason = "a failed test panics")]

mod message;

use std::collections::BTreeMap;

use btlightning_proto::{
    Payload,
    frame::{self, HEADER_LEN},
    limits::DEFAULT_MAX_FRAME_PAYLOAD,
    message::{HandshakeResponse, Response, StreamEnd},
};
use bytes::Bytes;
use message::Message;

const NOW: u64 = 1_700_000_000;
/// [`NOW`] in MessagePack.
const NOW_HEX: &str = "ce6553f100";

/// Checks both directions. Spaces in `expected` set fields apart.
fn assert_frame(name: &str, message: Message, expected: &str) {
    let frame = message.encode().unwrap().to_vec();
    assert_eq!(hex::encode(&frame), expected.replace(' ', ""), "{name}");
    let (kind, body) = frame::parse(&frame, DEFAULT_MAX_FRAME_PAYLOAD).unwrap();
    assert_eq!(body.len(), frame.len() - HEADER_LEN);
    let decoded = Message::decode(kind, Bytes::copy_from_slice(body)).unwrap();
    assert_eq!(decoded, message, "{name}");
}

fn duplex_open(data: Payload, timeout_ms: Option<u64>) -> Message {
    Message::DuplexOpen {
        synapse_type: "sum".into(),
        data,
        timestamp: NOW,
        timeout_ms,
    }
}

#[test]
fn duplex_open_frames() {
    let data = Payload::from_typed(&BTreeMap::from([("n", 3)])).unwrap();
    assert_frame(
        "without a timeout",
        duplex_open(Payload::empty(), None),
        &format!("07 0000000c 94 a373756d 80 {NOW_HEX} c0"),
    );
    assert_frame(
        "with data and 30 s",
        duplex_open(data, Some(30_000)),
        &format!("07 00000011 94 a373756d 81a16e03 {NOW_HEX} cd7530"),
    );
    assert_frame(
        "that waits for nothing",
        duplex_open(Payload::empty(), Some(0)),
        &format!("07 0000000c 94 a373756d 80 {NOW_HEX} 00"),
    );
    assert_frame(
        "with the longest timeout",
        duplex_open(Payload::empty(), Some(u64::MAX)),
        &format!("07 00000014 94 a373756d 80 {NOW_HEX} cfffffffffffffffff"),
    );
}

#[test]
fn stream_chunk_frames() {
    assert_frame(
        "nothing",
        Message::Chunk(Bytes::new()),
        "05 00000003 91 c400",
    );
    assert_frame(
        "three bytes",
        Message::Chunk(Bytes::from_static(&[1, 2, 3])),
        "05 00000006 91 c403 010203",
    );
    // The length takes one, two and four bytes.
    for (len, head) in [
        (255, "05 00000102 91 c4ff"),
        (256, "05 00000104 91 c50100"),
        (65_535, "05 00010003 91 c5ffff"),
        (65_536, "05 00010006 91 c600010000"),
    ] {
        let content = Bytes::from(vec![0x2a; len]);
        let expected = format!("{head} {}", "2a".repeat(len));
        assert_frame("a long one", Message::Chunk(content), &expected);
    }
}

#[test]
fn stream_end_frames() {
    assert_frame(
        "whole",
        Message::End(StreamEnd::ok()),
        "06 00000003 92 c3 c0",
    );
    assert_frame(
        "broken off",
        Message::End(StreamEnd::failure("cut")),
        "06 00000006 92 c2 a3637574",
    );
    assert_frame(
        "broken off without a word",
        Message::End(StreamEnd {
            success: false,
            error: None,
        }),
        "06 00000003 92 c2 c0",
    );
    assert_frame(
        "with a long reason",
        Message::End(StreamEnd::failure("x".repeat(32))),
        &format!("06 00000024 92 c2 d920 {}", "78".repeat(32)),
    );
}

#[test]
fn refused_handshakes() {
    assert_frame(
        "before the signature was checked",
        Message::HandshakeResponse(HandshakeResponse::rejected("", NOW)),
        &format!("02 0000000b 96 a0 {NOW_HEX} a0 c2 a0 c0"),
    );
    let hotkey = "5CcyqxXnJucaCnQQvvUg5EPzj1uoNAxACZvzArHw5aVDvgNH";
    assert_frame(
        "after it",
        Message::HandshakeResponse(HandshakeResponse::rejected(hotkey, NOW)),
        &format!(
            "02 0000003c 96 d930{} {NOW_HEX} a0 c2 a0 c0",
            hex::encode(hotkey)
        ),
    );
}

/// The answers that the specification lists, as far as they travel in a response.
#[test]
fn refused_requests() {
    let short = |text: &str| format!("{:02x}{}", 0xa0 + text.len(), hex::encode(text));
    for (text, len) in [
        ("authentication failed", 0x1e),
        ("invalid request format", 0x1f),
        ("unrecognized synapse type", 0x22),
        ("request processing failed", 0x22),
        ("handler timed out", 0x1a),
        ("stream processing failed", 0x21),
        ("internal serialization error", 0x25),
    ] {
        assert_frame(
            text,
            Message::Response(Response::failure(text, NOW)),
            &format!("04 {len:08x} 94 c2 80 {NOW_HEX} {}", short(text)),
        );
    }
}
