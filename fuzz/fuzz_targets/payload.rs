//! The `data` map. Bytes that pass the scanner are read by every reader without an error, all of
//! them see the same, and writing down what they saw changes nothing.

#![no_main]

use std::collections::{BTreeMap, HashMap};

use btlightning_proto::msgpack::validate;
use btlightning_proto::{Payload, ProtoError};
use libfuzzer_sys::fuzz_target;
use rmpv::Value;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

/// A type that contains itself in every way an enum can.
#[derive(Debug, Serialize, Deserialize)]
enum Tree {
    Leaf,
    Number(i64),
    Text(String),
    Bytes(serde_bytes::ByteBuf),
    Child(Box<Tree>),
    List(Vec<Tree>),
    Pair(Box<Tree>, Box<Tree>),
    Node {
        left: Option<Box<Tree>>,
        named: BTreeMap<String, Tree>,
    },
}

fuzz_target!(|data: &[u8]| {
    let Ok(payload) = Payload::from_bytes(data.to_vec()) else {
        return;
    };
    assert_eq!(payload.as_bytes(), data);
    assert!(Payload::from_bytes(data[..data.len() - 1].to_vec()).is_err());
    let longer = [data, &[0xc0]].concat();
    assert_eq!(
        Payload::from_bytes(longer),
        Err(ProtoError::TrailingBytes(1))
    );
    assert_eq!(payload.entries().count(), payload.len());
    let mut ends = Vec::new();
    for (_, raw) in payload.entries() {
        let summary = validate(raw).expect("an entry that was checked");
        assert_eq!(summary.len, raw.len());
        assert!(summary.elements <= raw.len());
        ends.push(raw.as_ptr_range().end);
    }
    if let Some(last) = ends.last() {
        assert_eq!(*last, payload.as_bytes().as_ptr_range().end);
    }

    let map = payload.to_map().expect("a payload that was checked");
    assert!(map.len() <= payload.len());
    let typed: HashMap<String, Value> = payload.deserialize().expect("values of any type");
    let _: HashMap<&str, IgnoredAny> = payload.deserialize().expect("values that are skipped");
    assert_eq!(typed.len(), map.len());
    for (key, value) in &map {
        let packed = packed(value);
        assert_eq!(packed, self::packed(&typed[key]), "{key}");
        let raw = payload.get(key).expect("a key of the map");
        // A string that is not UTF-8 becomes binary data, whose head may be a byte longer.
        assert!(packed.len() <= raw.len() * 3 / 2, "{key} grew");
        if let Value::Binary(content) = value {
            assert_eq!(payload.get_bin(key).expect("binary data"), content);
        }
    }

    let again = Payload::from_map(&map).expect("what was decoded");
    assert_eq!(again.len(), map.len());
    for (key, value) in &map {
        assert_eq!(
            again.get(key).expect("a key of the map"),
            packed(value),
            "{key}"
        );
    }

    if let Ok(trees) = payload.deserialize::<BTreeMap<String, Tree>>() {
        fixpoint(&trees);
    }
});

fn fixpoint(trees: &BTreeMap<String, Tree>) {
    let first = match Payload::from_typed(trees) {
        Ok(first) => first,
        // Binary data was read as a list, which is a level deeper.
        Err(ProtoError::TooDeep) => return,
        Err(error) => panic!("{error}"),
    };
    let read: BTreeMap<String, Tree> = first.deserialize().expect("what was written");
    assert_eq!(format!("{read:?}"), format!("{trees:?}"));
    assert_eq!(Payload::from_typed(&read).as_ref(), Ok(&first));
}

/// Bytes, because NaN is not equal to itself.
fn packed(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    rmpv::encode::write_value(&mut bytes, value).expect("memory");
    bytes
}
