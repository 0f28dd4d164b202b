//! Payloads as Rust types: what was read can be written, and what was written is read as the same
//! and written as the same again.
//!
//! Names are single letters and every field may be missing, so that random bytes get far.

#![no_main]

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Debug;

use btlightning_proto::{Payload, ProtoError};
use libfuzzer_sys::fuzz_target;
use serde::{Deserialize, Serialize};

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Everything<'a> {
    a: Option<bool>,
    b: (i8, u8),
    c: Vec<(i16, u16)>,
    d: [Option<i32>; 2],
    e: i64,
    f: u64,
    g: f32,
    h: f64,
    i: char,
    #[serde(borrow)]
    j: Cow<'a, str>,
    k: Option<&'a str>,
    #[serde(with = "serde_bytes")]
    l: &'a [u8],
    m: Vec<u8>,
    n: BTreeMap<i32, String>,
    o: BTreeMap<char, BTreeMap<u64, Option<bool>>>,
    p: Shape,
    q: Option<Box<Everything<'a>>>,
    r: Wrapper,
    s: Unit,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    t: Vec<Shape>,
    u: (),
}

#[derive(Debug, Default, Serialize, Deserialize)]
enum Shape {
    #[default]
    Empty,
    Wrapped(Option<u16>),
    Pair(i8, Box<Shape>),
    Record {
        #[serde(default)]
        x: f32,
        #[serde(default)]
        y: Vec<Shape>,
    },
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Wrapper(i16);

#[derive(Debug, Default, Serialize, Deserialize)]
struct Unit;

/// Its map has no length beforehand, and its fields are read twice.
#[derive(Debug, Serialize, Deserialize)]
struct Flat<'a> {
    #[serde(default)]
    a: u32,
    #[serde(flatten, borrow)]
    head: Head<'a>,
    #[serde(flatten)]
    rest: BTreeMap<String, rmpv::Value>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Head<'a> {
    #[serde(default)]
    b: Option<i64>,
    #[serde(default, borrow)]
    c: Cow<'a, str>,
}

/// Reads a payload as a type, writes that, and reads it again.
///
/// A macro, because the type borrows from the one payload first and from the other then.
macro_rules! returns {
    ($type:ident, $payload:ident) => {
        if let Ok(value) = $payload.deserialize::<$type<'_>>() {
            if let Some(written) = written(&value) {
                let read: $type<'_> = written.deserialize().expect("what was written");
                // Text, because NaN is not equal to itself.
                assert_eq!(format!("{read:?}"), format!("{value:?}"));
                assert_eq!(self::written(&read).as_ref(), Some(&written));
            }
        }
    };
}

fuzz_target!(|data: &[u8]| {
    let Ok(payload) = Payload::from_bytes(data.to_vec()) else {
        return;
    };
    returns!(Everything, payload);
    returns!(Flat, payload);
});

fn written<T: Serialize + Debug>(value: &T) -> Option<Payload> {
    match Payload::from_typed(value) {
        Ok(payload) => Some(payload),
        // Binary data was read as a list, which is a level deeper.
        Err(ProtoError::TooDeep) => None,
        Err(error) => panic!("{error} in {value:?}"),
    }
}
