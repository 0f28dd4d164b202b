//! Properties that every message has: it comes back as it was, from every form that a peer may
//! give it, and never from a damaged one.

#![allow(clippy::unwrap_used, reason = "a failed test panics")]

mod message;

use btlightning_proto::{
    Payload, ProtoError,
    frame::{self, FrameHeader, HEADER_LEN, MessageType},
    limits::DEFAULT_MAX_FRAME_PAYLOAD,
    message::{self as proto, EncodedFrame, Request, Response},
};
use bytes::Bytes;
use message::{Message, any_message};
use proptest::prelude::*;
use rmpv::Value;

/// Frame bytes, checked against the frame's own idea of itself.
fn frame_of(message: &Message) -> Vec<u8> {
    let frame = message.encode().unwrap();
    let bytes = frame.to_vec();
    assert_eq!(frame.len(), bytes.len());
    assert!(!frame.is_empty());
    assert_eq!(frame.into_chunks().concat(), bytes);
    bytes
}

fn body_of(message: &Message) -> Bytes {
    Bytes::from(frame_of(message)).slice(HEADER_LEN..)
}

fn packed(value: &Value) -> Bytes {
    let mut bytes = Vec::new();
    rmpv::encode::write_value(&mut bytes, value).unwrap();
    bytes.into()
}

/// What the decoders say about a field that is absent. The handshake's are serde's.
fn is_missing(error: &ProtoError, field: &str) -> bool {
    match error {
        ProtoError::MissingField(name) => *name == field,
        ProtoError::Deserialize(text) => text.contains("missing field") && text.contains(field),
        _ => false,
    }
}

const OPTIONAL: [&str; 3] = ["error", "timeout_ms", "cert_fingerprint"];

proptest! {
    #[test]
    fn a_message_comes_back_as_it_was(message in any_message()) {
        let bytes = frame_of(&message);
        let (kind, body) = frame::parse(&bytes, DEFAULT_MAX_FRAME_PAYLOAD).unwrap();
        prop_assert_eq!(kind, message.kind());
        prop_assert_eq!(body.len() + HEADER_LEN, bytes.len());
        let decoded = Message::decode(kind, Bytes::copy_from_slice(body)).unwrap();
        prop_assert_eq!(decoded, message);
    }

    /// The reference encoder, given the fields in order, writes the same bytes.
    #[test]
    fn a_message_is_an_array_of_its_fields(message in any_message()) {
        let fields = message.fields().into_iter().map(|(_, value)| value).collect();
        prop_assert_eq!(body_of(&message), packed(&Value::Array(fields)));
    }

    #[test]
    fn a_map_in_any_order_with_unknown_fields_is_the_same_message(
        (message, order) in any_message().prop_flat_map(|message| {
            let mut entries: Vec<_> = message
                .fields()
                .into_iter()
                .map(|(name, value)| (Value::from(name), value))
                .collect();
            entries.push(("priority".into(), Value::Array(vec![1.into(), Value::Nil])));
            entries.push(("".into(), Value::Map(vec![(3.into(), Value::Ext(1, vec![0]))])));
            (Just(message), Just(entries).prop_shuffle())
        }),
    ) {
        let body = packed(&Value::Map(order));
        prop_assert_eq!(Message::decode(message.kind(), body).unwrap(), message);
    }

    #[test]
    fn every_field_that_may_not_be_missing_is_missed(message in any_message()) {
        let fields = message.fields();
        for (index, (absent, value)) in fields.iter().enumerate() {
            let rest = fields
                .iter()
                .filter(|(name, _)| name != absent)
                .map(|(name, value)| (Value::from(*name), value.clone()))
                .collect();
            match Message::decode(message.kind(), packed(&Value::Map(rest))) {
                Ok(decoded) => {
                    prop_assert!(OPTIONAL.contains(absent), "{absent} was not missed");
                    let (_, decoded) = &decoded.fields()[index];
                    prop_assert_eq!(decoded, &Value::Nil);
                }
                Err(error) => {
                    prop_assert!(is_missing(&error, absent), "{absent}: {error}");
                    prop_assert!(!OPTIONAL.contains(absent), "{absent} = {value} was missed");
                }
            }
        }
    }

    #[test]
    fn a_field_given_twice_is_refused(message in any_message(), pick in any::<prop::sample::Index>()) {
        let mut entries: Vec<_> = message
            .fields()
            .into_iter()
            .map(|(name, value)| (Value::from(name), value))
            .collect();
        entries.push(entries[pick.index(entries.len())].clone());
        let error = Message::decode(message.kind(), packed(&Value::Map(entries))).unwrap_err();
        let refused = match &error {
            ProtoError::Field { expected, .. } => *expected == "one entry",
            ProtoError::Deserialize(text) => text.contains("duplicate field"),
            _ => false,
        };
        prop_assert!(refused, "{error}");
    }

    #[test]
    fn arrays_with_another_number_of_fields_are_refused(message in any_message()) {
        let fields: Vec<_> = message.fields().into_iter().map(|(_, value)| value).collect();
        let mut more = fields.clone();
        more.push(Value::Nil);
        let decoded = Message::decode(message.kind(), packed(&Value::Array(more)));
        prop_assert!(decoded.is_err(), "{decoded:?}");

        let fewer = packed(&Value::Array(fields[..fields.len() - 1].to_vec()));
        let decoded = Message::decode(message.kind(), fewer);
        if message.kind() == MessageType::HandshakeResponse {
            // Peers of before the fingerprint leave it out.
            let fields = decoded.unwrap().fields();
            prop_assert_eq!(fields.last(), Some(&("cert_fingerprint", Value::Nil)));
        } else {
            prop_assert!(decoded.is_err(), "{decoded:?}");
        }
    }

    #[test]
    fn a_frame_cut_short_anywhere_is_an_error(message in any_message()) {
        let bytes = frame_of(&message);
        for cut in 0..bytes.len() {
            let error = frame::parse(&bytes[..cut], DEFAULT_MAX_FRAME_PAYLOAD).unwrap_err();
            prop_assert!(matches!(error, ProtoError::Truncated { .. }), "at {cut}: {error}");
        }
        let body = body_of(&message);
        for cut in 0..body.len() {
            let decoded = Message::decode(message.kind(), body.slice(..cut));
            prop_assert!(decoded.is_err(), "cut to {cut} of {}: {decoded:?}", body.len());
        }
    }

    #[test]
    fn bytes_behind_the_message_are_an_error(message in any_message(), extra in 1usize..40) {
        let mut longer = body_of(&message).to_vec();
        longer.resize(longer.len() + extra, 0xc0);
        prop_assert_eq!(
            Message::decode(message.kind(), longer.into()),
            Err(ProtoError::TrailingBytes(extra))
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A damaged frame is refused, or is another whole message that comes back as it is.
    #[test]
    fn any_byte_may_be_damaged(message in any_message(), damage in 1u8..=255) {
        let frame = frame_of(&message);
        for index in 0..frame.len() {
            let mut damaged = frame.clone();
            damaged[index] ^= damage;
            let Ok((kind, body)) = frame::parse(&damaged, DEFAULT_MAX_FRAME_PAYLOAD) else {
                prop_assert!(index < HEADER_LEN, "a header changed with the body");
                continue;
            };
            if let Ok(other) = Message::decode(kind, Bytes::copy_from_slice(body)) {
                let again = body_of(&other);
                prop_assert_eq!(Message::decode(kind, again).unwrap(), other, "byte {}", index);
            }
        }
    }
}

/// The header and the fields around a body of `len` bytes must not depend on whether the body was
/// copied between them.
#[test]
fn bodies_are_copied_up_to_4_kib_and_shared_beyond() {
    for len in [0, 1, 4095, 4096, 4097, 65_536, 3_000_000] {
        let body = Bytes::from(vec![0xa5; len]);
        let [head, middle, tail] = proto::encode_chunk(&body).unwrap().into_chunks();
        if len <= 4096 {
            assert!(head.is_empty() && middle.is_empty(), "{len}");
        } else {
            assert_eq!(middle.as_ptr(), body.as_ptr(), "{len}");
        }

        let whole = [head, middle, tail].concat();
        let fields = Value::Array(vec![Value::Binary(body.to_vec())]);
        let expected = framed(MessageType::StreamChunk, &packed(&fields));
        assert!(whole == expected, "{len}");
        let (_, payload) = frame::parse(&whole, DEFAULT_MAX_FRAME_PAYLOAD).unwrap();
        let decoded = proto::decode_chunk(&Bytes::copy_from_slice(payload)).unwrap();
        assert!(decoded == body, "{len}");
    }
}

#[test]
fn payloads_are_copied_up_to_4_kib_and_shared_beyond() {
    for len in [4094, 4095, 4096, 4097, 4098, 70_000, 2_000_000] {
        let data = payload_of_len(len);
        let response = Response {
            success: true,
            data: data.clone(),
            timestamp: 1_700_000_000,
            error: Some("why".into()),
        };
        let frames: [(EncodedFrame, MessageType); 3] = [
            (
                proto::encode_request("echo", &data, 1).unwrap(),
                MessageType::SynapsePacket,
            ),
            (
                proto::encode_duplex_open("echo", &data, 1, Some(500)).unwrap(),
                MessageType::DuplexOpen,
            ),
            (response.encode().unwrap(), MessageType::SynapseResponse),
        ];
        for (frame, kind) in frames {
            let whole = frame.to_vec();
            assert_eq!(frame.len(), whole.len());
            let [head, middle, tail] = frame.into_chunks();
            if len <= 4096 {
                assert!(head.is_empty() && middle.is_empty(), "{kind:?} {len}");
            } else {
                assert_eq!(middle.as_ptr(), data.as_bytes().as_ptr(), "{kind:?} {len}");
            }
            assert!([head, middle, tail].concat() == whole, "{kind:?} {len}");

            let (parsed, body) = frame::parse(&whole, DEFAULT_MAX_FRAME_PAYLOAD).unwrap();
            assert_eq!((parsed, body.len() + HEADER_LEN), (kind, whole.len()));
            let body = Bytes::copy_from_slice(body);
            let decoded = match kind {
                MessageType::SynapsePacket => Request::decode(body).unwrap().into_data(),
                MessageType::DuplexOpen => Request::decode_duplex(body).unwrap().into_data(),
                _ => Response::decode(body).unwrap().data,
            };
            assert!(decoded == data, "{kind:?} {len}");
        }
    }
}

/// A received body is a view of the frame it came in.
#[test]
fn decoding_copies_no_body() {
    let data = payload_of_len(10_000);
    let inside = |frame: &Bytes, part: &[u8]| {
        let range = frame.as_ptr_range();
        range.contains(&part.as_ptr()) && part.as_ptr_range().end <= range.end
    };
    let request = body(proto::encode_request("echo", &data, 1).unwrap());
    let decoded = Request::decode(request.clone()).unwrap();
    assert!(inside(&request, decoded.data().as_bytes()));
    assert!(inside(&request, decoded.synapse_type().as_bytes()));
    assert!(inside(&request, &decoded.data().get_bin("b").unwrap()));

    let chunk = body(proto::encode_chunk(&Bytes::from(vec![1; 10_000])).unwrap());
    assert!(inside(&chunk, &proto::decode_chunk(&chunk).unwrap()));
}

#[test]
fn a_message_in_place_of_another_is_refused() {
    let messages = [
        Message::Chunk(Bytes::from_static(b"chunk")),
        Message::End(proto::StreamEnd::ok()),
        Message::HandshakeResponse(proto::HandshakeResponse::rejected("", 1)),
        Message::Request {
            synapse_type: "echo".into(),
            data: Payload::empty(),
            timestamp: 1,
        },
        Message::Response(Response::failure("no", 1)),
        Message::DuplexOpen {
            synapse_type: "echo".into(),
            data: Payload::empty(),
            timestamp: 1,
            timeout_ms: None,
        },
    ];
    for message in &messages {
        for other in messages.iter().filter(|o| o.kind() != message.kind()) {
            let decoded = Message::decode(other.kind(), body_of(message));
            assert!(decoded.is_err(), "{message:?} passed for {decoded:?}");
        }
    }
}

#[test]
fn fields_of_another_type_are_named() {
    let array = |fields: &[Value]| packed(&Value::Array(fields.to_vec()));
    let map = || Value::Map(vec![]);
    let field = |field, expected| ProtoError::Field { field, expected };
    let request = |fields: &[Value]| Request::decode(array(fields)).unwrap_err();
    assert_eq!(
        request(&[Value::Nil, map(), 1.into()]),
        field("synapse_type", "a string")
    );
    assert_eq!(
        request(&[Value::Binary(vec![b'e']), map(), 1.into()]),
        field("synapse_type", "a string")
    );
    assert_eq!(
        request(&["e".into(), Value::Array(vec![]), 1.into()]),
        field("data", "a map")
    );
    assert_eq!(
        request(&["e".into(), Value::Map(vec![(1.into(), 1.into())]), 1.into()]),
        field("data", "string keys")
    );
    for timestamp in [Value::from(-1), Value::from(1.0), Value::Nil, "1".into()] {
        assert_eq!(
            request(&["e".into(), map(), timestamp]),
            field("timestamp", "an unsigned integer")
        );
    }
    // "e" in one byte that is no UTF-8.
    assert_eq!(
        Request::decode(Bytes::from_static(&[0x93, 0xa1, 0xff, 0x80, 0x01])).unwrap_err(),
        field("synapse_type", "a string")
    );
    let duplex = array(&["e".into(), map(), 1.into(), "soon".into()]);
    assert_eq!(
        Request::decode_duplex(duplex).unwrap_err(),
        field("timeout_ms", "an unsigned integer")
    );
    assert_eq!(
        Response::decode(array(&[1.into(), map(), 1.into(), Value::Nil])).unwrap_err(),
        field("success", "a boolean")
    );
    assert_eq!(
        Response::decode(array(&[true.into(), map(), 1.into(), 7.into()])).unwrap_err(),
        field("error", "a string or nil")
    );
    assert_eq!(
        proto::decode_chunk(&array(&["text".into()])).unwrap_err(),
        field("data", "binary data")
    );
    assert_eq!(
        proto::decode_stream_end(&packed(&"ok".into())).unwrap_err(),
        field("message", "an array or a map")
    );
    assert_eq!(
        proto::decode_stream_end(&packed(&Value::Map(vec![(1.into(), true.into())]))).unwrap_err(),
        field("message", "string keys")
    );
}

/// A signed marker may hold what an unsigned field wants, as long as it is not negative.
#[test]
fn timestamps_come_in_every_integer_form() {
    let forms: [(&[u8], u64); 9] = [
        (&[0x7f], 127),
        (&[0xcc, 5], 5),
        (&[0xcd, 0, 5], 5),
        (&[0xce, 0, 0, 0, 5], 5),
        (
            &[0xcf, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
            u64::MAX,
        ),
        (&[0xd0, 0x7f], 127),
        (&[0xd1, 0x7f, 0xff], 32_767),
        (&[0xd2, 0, 0, 0, 5], 5),
        (
            &[0xd3, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
            i64::MAX as u64,
        ),
    ];
    for (form, expected) in forms {
        let body = [&[0x93, 0xa1, b'e', 0x80], form].concat();
        assert_eq!(Request::decode(body.into()).unwrap().timestamp(), expected);
    }
    for negative in [
        &[0xffu8][..],
        &[0xd0, 0x80],
        &[0xd1, 0x80, 0],
        &[0xd2, 0x80, 0, 0, 0],
    ] {
        let body = [&[0x93, 0xa1, b'e', 0x80], negative].concat();
        assert!(Request::decode(body.into()).is_err(), "{negative:x?}");
    }
}

fn framed(kind: MessageType, body: &[u8]) -> Vec<u8> {
    let header = FrameHeader {
        kind,
        len: body.len(),
    };
    [&header.encode().unwrap(), body].concat()
}

fn body(frame: EncodedFrame) -> Bytes {
    Bytes::from(frame.to_vec()).slice(HEADER_LEN..)
}

/// A payload of exactly `len` bytes: one binary entry `b`, whose head takes three bytes up to
/// 65,535 of content and five beyond.
fn payload_of_len(len: usize) -> Payload {
    let content = len - if len > 65_541 { 8 } else { 6 };
    let map = [("b".to_owned(), Value::Binary(vec![0x42; content]))].into();
    let payload = Payload::from_map(&map).unwrap();
    assert_eq!(payload.as_bytes().len(), len);
    payload
}

/// A frame whose large value was read apart decodes to the same message as in one piece.
#[test]
fn values_read_apart_decode_alike() {
    use btlightning_proto::message::{FrameBody, Response, find_large};
    use rmpv::Value;

    let large = |len: usize| Value::Binary((0..len).map(|n| n as u8).collect());
    for len in [32 * 1024 - 1, 32 * 1024, 65_535, 65_536, 200_000] {
        let map = std::collections::HashMap::from([
            ("a".to_owned(), Value::from(7)),
            ("large".to_owned(), large(len)),
            ("z".to_owned(), Value::from("text ".repeat(50_000))),
        ]);
        let data = Payload::from_values(map.clone()).unwrap();
        assert_eq!(data, Payload::from_bytes(data.as_bytes().clone()).unwrap());
        assert_eq!(data.to_map().unwrap(), map);
        assert_eq!(data.clone().into_values().unwrap(), map);

        let sent = Response {
            success: true,
            data: data.clone(),
            timestamp: 5,
            error: None,
        };
        let request = btlightning_proto::message::encode_request("echo", &data, 1)
            .unwrap()
            .to_vec();
        for frame in [request, sent.encode().unwrap().to_vec()] {
            let kind = MessageType::try_from(frame[0]).unwrap();
            let payload = Bytes::from(frame[5..].to_vec());
            let found = find_large(kind, &payload);
            let Some(found) = found else {
                assert!(len < 32 * 1024, "{len} not found");
                continue;
            };
            assert_eq!(found.content_len, len);
            let end = found.content_start + len;
            let body = FrameBody::Apart {
                before: payload.slice(..found.content_start),
                value_start: found.value_start,
                content: payload.slice(found.content_start..end),
                after: payload.slice(end..),
            };
            assert_eq!(body.clone().into_whole(), payload);
            let got = if kind == MessageType::SynapsePacket {
                let request = Request::decode_body(body).unwrap();
                assert_eq!((request.synapse_type(), request.timestamp()), ("echo", 1));
                request.into_data()
            } else {
                let response = Response::decode_body(body).unwrap();
                assert_eq!((response.success, response.timestamp), (true, 5));
                response.data
            };
            assert_eq!(got, data);
            assert_eq!(got.into_values().unwrap(), map);
        }
    }
}

/// The content of a large value goes from a `Vec` to the frame and back without a copy.
#[test]
fn large_values_are_not_copied() {
    use rmpv::Value;

    let content = vec![1u8; 100_000];
    let address = content.as_ptr();
    let map = std::collections::HashMap::from([("v".to_owned(), Value::Binary(content))]);
    let data = Payload::from_values(map).unwrap();
    let frame = btlightning_proto::message::encode_request("echo", &data, 1).unwrap();
    assert!(
        frame
            .into_chunks()
            .iter()
            .any(|chunk| chunk.as_ptr() == address)
    );
    match data.into_values().unwrap().remove("v") {
        Some(Value::Binary(content)) => assert_eq!(content.as_ptr(), address),
        other => panic!("{other:?}"),
    }
}
