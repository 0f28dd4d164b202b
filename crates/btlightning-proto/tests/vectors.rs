//! Frames and signatures made by the published package: every one is decoded, and encoded to the
//! same bytes again.

#![allow(clippy::unwrap_used, reason = "a failed test panics")]

mod message;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use base64::{Engine, prelude::BASE64_STANDARD};
use btlightning_proto::{
    Payload,
    frame::{self, FrameHeader, HEADER_LEN, MessageType},
    handshake::{self, ClientHandshake, Fingerprint, Unverified},
    limits::DEFAULT_MAX_FRAME_PAYLOAD,
    message as proto,
    nonce::Nonce,
};
use bytes::Bytes;
use lightning_keys::{Keypair, PublicKey};
use message::Message;
use rmpv::Value;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

#[derive(Deserialize)]
struct Vectors {
    keys: Keys,
    fingerprint: Certificate,
    signed_messages: Signed,
    frames: Vec<Frame>,
}

#[derive(Deserialize)]
struct Keys {
    miner_seed_hex: String,
    miner_hotkey: String,
    validator_seed_hex: String,
    validator_hotkey: String,
}

#[derive(Deserialize)]
struct Certificate {
    der_utf8: String,
    blake2_256_b64: String,
}

#[derive(Deserialize)]
struct Signed {
    request: String,
    request_signature_b64: String,
    response: String,
    response_signature_b64: String,
}

#[derive(Deserialize)]
struct Frame {
    name: String,
    #[serde(rename = "type")]
    kind: u8,
    frame_hex: String,
    value: Json,
}

impl Frame {
    fn bytes(&self) -> Vec<u8> {
        hex::decode(&self.frame_hex).unwrap()
    }

    fn decoded(&self) -> Message {
        let bytes = self.bytes();
        let (kind, body) = frame::parse(&bytes, DEFAULT_MAX_FRAME_PAYLOAD).unwrap();
        assert_eq!(kind as u8, self.kind, "{}", self.name);
        assert_eq!(HEADER_LEN + body.len(), bytes.len(), "{}", self.name);
        if let Some(len) = self.value.get("frame_len") {
            assert_eq!(bytes.len() as u64, len.as_u64().unwrap(), "{}", self.name);
        }
        Message::decode(kind, Bytes::copy_from_slice(body)).unwrap()
    }
}

fn vectors() -> Vectors {
    serde_json::from_str(include_str!("vectors/btlightning.json")).unwrap()
}

fn seed(hex_text: &str) -> [u8; 32] {
    hex::decode(hex_text).unwrap().try_into().unwrap()
}

fn signature(base64_text: &str) -> [u8; 64] {
    BASE64_STANDARD
        .decode(base64_text)
        .unwrap()
        .try_into()
        .unwrap()
}

/// What a `value` of the file stands for. Binary data is described there, not shown.
fn tree(json: &Json) -> Value {
    match json {
        Json::String(text) => match text.strip_suffix(" bytes of 0x42, msgpack bin>") {
            Some(len) => Value::Binary(vec![0x42; len[1..].parse().unwrap()]),
            None => match text.strip_suffix(" (msgpack bin)") {
                Some(content) => Value::Binary(content.into()),
                None => Value::from(text.as_str()),
            },
        },
        Json::Array(items) => Value::Array(items.iter().map(tree).collect()),
        Json::Object(entries) => Value::Map(
            entries
                .iter()
                .map(|(k, v)| (k.as_str().into(), tree(v)))
                .collect(),
        ),
        Json::Number(n) => match (n.as_u64(), n.as_i64()) {
            (Some(n), _) => Value::from(n),
            (_, Some(n)) => Value::from(n),
            _ => Value::from(n.as_f64().unwrap()),
        },
        Json::Bool(b) => Value::from(*b),
        Json::Null => Value::Nil,
    }
}

fn tree_map(json: &Json) -> HashMap<String, Value> {
    let entries = json.as_object().unwrap();
    entries.iter().map(|(k, v)| (k.clone(), tree(v))).collect()
}

/// The same data as a Rust value with types of its own: nothing of `rmpv` in it.
fn typed(json: &Json) -> Payload {
    #[derive(Serialize)]
    struct Body {
        #[serde(with = "serde_bytes")]
        payload: Vec<u8>,
    }
    match tree_map(json).remove("payload") {
        Some(Value::Binary(payload)) => Payload::from_typed(&Body { payload }).unwrap(),
        _ => Payload::from_typed(json).unwrap(),
    }
}

#[test]
fn the_file_has_a_frame_of_every_published_type() {
    let kinds: BTreeSet<u8> = vectors().frames.iter().map(|f| f.kind).collect();
    assert_eq!(kinds, (1..=6).collect());
    assert_eq!(vectors().frames.len(), 19);
}

#[test]
fn every_frame_decodes_to_its_value() {
    for vector in vectors().frames {
        let fields = vector.decoded().fields();
        let mut expected = vector.value.as_object().unwrap().clone();
        expected.remove("frame_len");
        assert_eq!(fields.len(), expected.len(), "{}", vector.name);
        for (name, value) in fields {
            assert_eq!(value, tree(&expected[name]), "{}: {name}", vector.name);
        }
    }
}

#[test]
fn every_frame_is_encoded_to_the_same_bytes() {
    for vector in vectors().frames {
        let encoded = vector.decoded().encode().unwrap().to_vec();
        assert_eq!(
            hex::encode(encoded),
            vector.frame_hex,
            "{}: as decoded",
            vector.name
        );
        let Some(data) = vector.value.get("data").filter(|data| data.is_object()) else {
            continue;
        };
        let from_map = Payload::from_map(&tree_map(data)).unwrap();
        for (origin, data) in [("map", from_map), ("type", typed(data))] {
            let mut message = vector.decoded();
            match &mut message {
                Message::Request { data: slot, .. } => *slot = data,
                Message::Response(response) => response.data = data,
                other => panic!("{} has no data: {other:?}", vector.name),
            }
            let encoded = message.encode().unwrap().to_vec();
            assert_eq!(
                hex::encode(encoded),
                vector.frame_hex,
                "{}: from a {origin}",
                vector.name
            );
        }
    }
}

/// Another implementation may write structs as maps; the published decoder takes those as well.
#[test]
fn every_frame_decodes_from_a_map_too() {
    for vector in vectors().frames {
        let message = vector.decoded();
        let mut entries: Vec<_> = message
            .fields()
            .into_iter()
            .map(|(name, value)| (Value::from(name), value))
            .collect();
        entries.push(("unknown".into(), Value::Map(vec![(1.into(), Value::Nil)])));
        // Front to back and back to front: two orders at least.
        for _ in 0..2 {
            let mut body = Vec::new();
            rmpv::encode::write_value(&mut body, &Value::Map(entries.clone())).unwrap();
            let decoded = Message::decode(message.kind(), body.into()).unwrap();
            assert_eq!(decoded, message, "{}", vector.name);
            entries.reverse();
        }
    }
}

/// Sizes of the specification's table, for bodies that the file has no room for as well.
#[test]
fn frames_have_the_published_sizes() {
    #[derive(Serialize)]
    struct Body<'a> {
        #[serde(with = "serde_bytes")]
        payload: &'a [u8],
    }
    for (content, frame_len) in [
        (256, 284),
        (1024, 1052),
        (10 * 1024, 10_268),
        (100 * 1024, 102_430),
        (1024 * 1024, 1_048_606),
    ] {
        let bytes = vec![0x42; content];
        let typed = Payload::from_typed(&Body { payload: &bytes }).unwrap();
        let map = BTreeMap::from([("payload".to_owned(), Value::Binary(bytes))]);
        let dynamic = Payload::from_map(&map.into_iter().collect()).unwrap();
        assert!(typed == dynamic, "{content}");

        let frame = proto::encode_request("echo", &typed, 1_700_000_000).unwrap();
        assert_eq!(frame.len(), frame_len, "{content}");
        let header = frame.to_vec()[..HEADER_LEN].try_into().unwrap();
        assert_eq!(
            FrameHeader::decode(header, DEFAULT_MAX_FRAME_PAYLOAD).unwrap(),
            FrameHeader {
                kind: MessageType::SynapsePacket,
                len: frame_len - HEADER_LEN
            }
        );
    }
}

#[test]
fn fingerprints_and_hotkeys_are_the_published_ones() {
    let Vectors {
        keys, fingerprint, ..
    } = vectors();
    assert_eq!(
        Fingerprint::of_certificate(fingerprint.der_utf8.as_bytes()).to_base64(),
        fingerprint.blake2_256_b64
    );
    assert_eq!(
        Keypair::from_seed(&seed(&keys.miner_seed_hex)).hotkey(),
        keys.miner_hotkey
    );
    assert_eq!(
        Keypair::from_seed(&seed(&keys.validator_seed_hex)).hotkey(),
        keys.validator_hotkey
    );
}

#[test]
fn published_signatures_verify_over_the_texts_we_build() {
    let Vectors {
        keys,
        fingerprint,
        signed_messages: signed,
        ..
    } = vectors();
    let fingerprint = fingerprint.blake2_256_b64;
    let nonce = "000102030405060708090a0b0c0d0e0f";
    let request =
        handshake::request_message(&keys.validator_hotkey, 1_700_000_000, nonce, &fingerprint);
    assert_eq!(request, signed.request);
    let response = handshake::response_message(
        &keys.validator_hotkey,
        &keys.miner_hotkey,
        1_700_000_001,
        nonce,
        &fingerprint,
    );
    assert_eq!(response, signed.response);

    let validator = PublicKey::from_ss58(&keys.validator_hotkey).unwrap();
    let miner = PublicKey::from_ss58(&keys.miner_hotkey).unwrap();
    let request_signature = signature(&signed.request_signature_b64);
    let response_signature = signature(&signed.response_signature_b64);
    assert!(validator.verify(request.as_bytes(), &request_signature));
    assert!(miner.verify(response.as_bytes(), &response_signature));
    assert!(!validator.verify(response.as_bytes(), &response_signature));
    assert!(!miner.verify(request.as_bytes(), &request_signature));
}

/// Our server takes the published client's request, and our client the published server's answer.
#[test]
fn the_published_handshake_is_accepted_by_both_sides() {
    let Vectors {
        keys,
        fingerprint,
        frames,
        ..
    } = vectors();
    let certificate = Fingerprint::of_certificate(fingerprint.der_utf8.as_bytes());
    let nonce = Nonce::from_hex("000102030405060708090a0b0c0d0e0f").unwrap();
    let message = |name: &str| frames.iter().find(|f| f.name == name).unwrap().decoded();

    let Message::HandshakeRequest(request) = message("handshake_request") else {
        panic!("another message");
    };
    let unverified = Unverified::check(&request, certificate, 1_700_000_010, 300).unwrap();
    assert_eq!(unverified.verify(), Ok((nonce, 1_700_000_000)));

    let client = ClientHandshake::new(&keys.validator_hotkey, 1_700_000_000, nonce, certificate);
    assert_eq!(
        client.request(&signature(&request.signature)),
        request,
        "our request differs"
    );
    let Message::HandshakeResponse(accepted) = message("handshake_response_accepted") else {
        panic!("another message");
    };
    assert_eq!(client.check(&accepted, &keys.miner_hotkey), Ok(()));
    assert_eq!(
        handshake::acceptance(
            &keys.miner_hotkey,
            1_700_000_001,
            certificate,
            "conn-1",
            &signature(&accepted.signature)
        ),
        accepted,
        "our acceptance differs"
    );
    let Message::HandshakeResponse(rejected) = message("handshake_response_rejected") else {
        panic!("another message");
    };
    assert_eq!(
        client.check(&rejected, &keys.miner_hotkey),
        Err(handshake::Distrust::Rejected)
    );
}
