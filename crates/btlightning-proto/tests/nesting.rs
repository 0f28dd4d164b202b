//! What passes the scanner is decoded by every decoder behind it, up to the last level and to the
//! deepest kind of value.

#![allow(clippy::unwrap_used, reason = "a failed test panics")]

use std::collections::{BTreeMap, HashMap};

use btlightning_proto::{
    Payload, ProtoError,
    limits::{MAX_ELEMENTS, MAX_NESTING_DEPTH},
    message::{HandshakeRequest, decode_handshake_request},
};
use rmpv::Value;
use serde::{Deserialize, Serialize};

/// Values without values in them. Decoders count their levels differently.
fn leaves() -> Vec<Value> {
    vec![
        Value::Nil,
        Value::from(7),
        Value::from(1.5),
        Value::from("text"),
        Value::Binary(vec![1, 2, 3]),
        Value::Ext(5, vec![1, 2, 3, 4]),
    ]
}

fn wrapped(leaf: Value, levels: usize, wrap: fn(Value) -> Value) -> Value {
    (0..levels).fold(leaf, |inner, _| wrap(inner))
}

const WRAPPINGS: [fn(Value) -> Value; 3] = [
    |inner| Value::Array(vec![inner]),
    |inner| Value::Map(vec![(Value::from("k"), inner)]),
    // As the key of a map.
    |inner| Value::Map(vec![(inner, Value::Nil)]),
];

#[test]
fn the_deepest_payload_is_decoded_by_all() {
    for leaf in leaves() {
        for wrap in WRAPPINGS {
            let value = wrapped(leaf.clone(), MAX_NESTING_DEPTH, wrap);
            let map = HashMap::from([("deep".to_owned(), value)]);
            let payload = Payload::from_map(&map).unwrap();
            assert_eq!(payload.to_map().unwrap(), map, "{leaf}");
            let typed: HashMap<String, Value> = payload.deserialize().unwrap();
            assert_eq!(typed, map, "{leaf}");
        }
    }
}

#[test]
fn one_level_more_is_refused_however_it_comes() {
    for wrap in WRAPPINGS {
        let value = wrapped(Value::Nil, MAX_NESTING_DEPTH + 1, wrap);
        let map = HashMap::from([("deep".to_owned(), value)]);
        assert_eq!(Payload::from_map(&map), Err(ProtoError::TooDeep));
        assert_eq!(Payload::from_typed(&map), Err(ProtoError::TooDeep));
    }
}

#[test]
fn textual_keys_reach_as_deep_as_others() {
    let value = wrapped(Value::from("leaf"), MAX_NESTING_DEPTH, WRAPPINGS[0]);
    let payload = Payload::from_typed(&BTreeMap::from([(7, value.clone())])).unwrap();
    assert_eq!(payload.to_map().unwrap()["7"], value);

    let deeper = BTreeMap::from([(7, Value::Array(vec![value]))]);
    assert_eq!(Payload::from_typed(&deeper), Err(ProtoError::TooDeep));
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Chain {
    End,
    Link(Box<Chain>),
}

#[test]
fn typed_recursion_is_bounded_by_the_same_limit() {
    let chain = |links| (0..links).fold(Chain::End, |inner, _| Chain::Link(Box::new(inner)));
    let deepest = BTreeMap::from([("chain".to_owned(), chain(MAX_NESTING_DEPTH))]);
    let payload = Payload::from_typed(&deepest).unwrap();
    assert_eq!(
        payload.deserialize::<BTreeMap<String, Chain>>().unwrap(),
        deepest
    );

    let deeper = BTreeMap::from([("chain", chain(MAX_NESTING_DEPTH + 1))]);
    assert_eq!(Payload::from_typed(&deeper), Err(ProtoError::TooDeep));
}

/// Before authentication: no recursion into what is not a handshake.
#[test]
fn a_handshake_ignores_unknown_fields_but_not_deep_ones() {
    let request = HandshakeRequest {
        validator_hotkey: "v".into(),
        timestamp: 1,
        nonce: "n".into(),
        signature: "s".into(),
    };
    let as_map = |extra: Value| {
        let mut bytes = Vec::new();
        let fields = Value::Map(vec![
            ("unknown".into(), extra),
            ("validator_hotkey".into(), "v".into()),
            ("timestamp".into(), 1.into()),
            ("nonce".into(), "n".into()),
            ("signature".into(), "s".into()),
        ]);
        rmpv::encode::write_value(&mut bytes, &fields).unwrap();
        bytes
    };
    for leaf in leaves() {
        let deepest = wrapped(leaf.clone(), MAX_NESTING_DEPTH - 1, WRAPPINGS[0]);
        assert_eq!(
            decode_handshake_request(&as_map(deepest)).as_ref(),
            Ok(&request),
            "{leaf}"
        );
    }
    let deeper = wrapped(Value::Nil, MAX_NESTING_DEPTH, WRAPPINGS[0]);
    assert_eq!(
        decode_handshake_request(&as_map(deeper)),
        Err(ProtoError::TooDeep)
    );
}

#[test]
fn as_many_values_as_allowed_and_one_more() {
    let payload = |count: usize| {
        let mut bytes = vec![0x81, 0xa1, b'v', 0xdd];
        bytes.extend(u32::try_from(count).unwrap().to_be_bytes());
        bytes.resize(bytes.len() + count, 0xc0);
        Payload::from_bytes(bytes)
    };
    // The list itself is a value too.
    let largest = payload(MAX_ELEMENTS - 1).unwrap();
    assert_eq!(largest.len(), 1);
    assert_eq!(payload(MAX_ELEMENTS), Err(ProtoError::TooManyElements));
}
