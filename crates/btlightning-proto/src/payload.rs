//! The `data` map of a request or an answer, kept as the bytes it travels in.

use std::collections::HashMap;

use bytes::Bytes;
use rmp::encode;
use serde::{Deserialize, Serialize};

mod split;

pub(crate) use split::{MIN_APART, Split};

use crate::{
    error::ProtoError,
    limits::MAX_NESTING_DEPTH,
    msgpack::{self, Scanner},
};

/// A MessagePack map with string keys: what a request carries and what an answer brings.
///
/// It holds validated bytes (whole, at most [`MAX_NESTING_DEPTH`] deep, at most
/// [`MAX_ELEMENTS`](crate::limits::MAX_ELEMENTS) values), shared and never changed, so a clone is
/// cheap. Received payloads are slices of the frame they came in. A large binary value may be kept
/// apart from what stands around it, so that it can be taken from a `Vec` and become one again
/// without a copy ([`from_values`](Self::from_values), [`into_values`](Self::into_values)).
#[derive(Clone)]
pub struct Payload {
    repr: Repr,
}

#[derive(Clone)]
enum Repr {
    Whole(Bytes),
    Split(Box<Split>),
}

impl Payload {
    /// The map without entries.
    pub fn empty() -> Self {
        Self::from_checked(Bytes::from_static(&[0x80]))
    }

    /// Takes MessagePack bytes that hold exactly one map with string keys.
    pub fn from_bytes(bytes: impl Into<Bytes>) -> Result<Self, ProtoError> {
        let bytes = bytes.into();
        check(&bytes)?;
        Ok(Self::from_checked(bytes))
    }

    /// Serializes a struct or a map straight to bytes, without a value tree in between.
    ///
    /// Top-level keys that are not strings become their decimal or textual form, as in the
    /// published package.
    ///
    /// # Errors
    ///
    /// When `value` is not a map, or refuses to serialize.
    pub fn from_typed<T: Serialize + ?Sized>(value: &T) -> Result<Self, ProtoError> {
        let mut bytes = Vec::with_capacity(128);
        msgpack::to_writer(&mut bytes, value)?;
        if Scanner::new(&bytes).map()?.is_none() {
            return Err(ProtoError::Serialize(
                "expected map from serialized struct".into(),
            ));
        }
        match check(&bytes) {
            Ok(()) => Ok(Self::from_checked(bytes.into())),
            Err(ProtoError::Field { field: "data", .. }) => Self::with_textual_keys(&bytes),
            Err(error) => Err(error),
        }
    }

    /// Encodes a map of dynamic values.
    pub fn from_map(map: &HashMap<String, rmpv::Value>) -> Result<Self, ProtoError> {
        let entries = map
            .iter()
            .map(|(key, value)| key.len() + 5 + size_hint(value));
        let mut bytes = Vec::with_capacity(5 + entries.sum::<usize>());
        write_map_head(&mut bytes, map.len())?;
        for (key, value) in map {
            write_entry(&mut bytes, key, value)?;
        }
        Self::from_bytes(bytes)
    }

    /// Encodes a map of dynamic values, without copying its largest binary value where that is
    /// worth it.
    pub fn from_values(map: HashMap<String, rmpv::Value>) -> Result<Self, ProtoError> {
        match Split::from_values(map)? {
            Ok(split) => Ok(Self {
                repr: Repr::Split(Box::new(split)),
            }),
            Err(map) => Self::from_map(&map),
        }
    }

    /// Turns into a map of dynamic values, without copying a binary value that was kept apart and
    /// is not shared. Of entries with the same key, the last one counts.
    pub fn into_values(self) -> Result<HashMap<String, rmpv::Value>, ProtoError> {
        match self.repr {
            Repr::Split(split) => split.into_values(),
            Repr::Whole(_) => self.to_map(),
        }
    }

    /// Decodes into a map of dynamic values. Of entries with the same key, the last one counts.
    pub fn to_map(&self) -> Result<HashMap<String, rmpv::Value>, ProtoError> {
        let mut map = HashMap::with_capacity(self.len().min(1024));
        for (key, raw) in self.entries() {
            map.insert(key.to_owned(), read_tree(raw, MAX_NESTING_DEPTH)?);
        }
        Ok(map)
    }

    /// Decodes into a type, which may borrow strings and binary data from the payload.
    pub fn deserialize<'de, T: Deserialize<'de>>(&'de self) -> Result<T, ProtoError> {
        let mut de =
            rmp_serde::Deserializer::from_read_ref(&self.as_bytes()[..]).with_human_readable();
        // The map itself and an extension value at the bottom count too, and the last level given
        // is never used.
        de.set_max_depth(MAX_NESTING_DEPTH + 3);
        T::deserialize(&mut de).map_err(|e| ProtoError::Deserialize(e.to_string()))
    }

    /// Returns an entry's value in MessagePack, without a copy. Of entries with the same key, the
    /// last one counts, as it does for [`to_map`](Self::to_map).
    pub fn get(&self, key: &str) -> Option<Bytes> {
        self.find(key).map(|raw| self.as_bytes().slice_ref(raw))
    }

    /// Returns the content of a binary entry, without a copy. `None` where there is no entry of
    /// that name or it holds something else.
    pub fn get_bin(&self, key: &str) -> Option<Bytes> {
        let content = Scanner::new(self.find(key)?).bin().ok()??;
        Some(self.as_bytes().slice_ref(content))
    }

    /// Iterates over the entries in their order on the wire: key, and value in MessagePack.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let bytes = self.as_bytes();
        let mut scanner = Scanner::new(bytes);
        let left = scanner.map().ok().flatten().unwrap_or(0);
        (0..left).map_while(move |_| {
            let key = std::str::from_utf8(scanner.str_bytes().ok()??).ok()?;
            let start = scanner.pos();
            scanner.skip().ok()?;
            Some((key, &bytes[start..scanner.pos()]))
        })
    }

    /// Returns the number of entries.
    pub fn len(&self) -> usize {
        Scanner::new(self.as_bytes())
            .map()
            .ok()
            .flatten()
            .unwrap_or(0)
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the map in MessagePack. A value that was kept apart is copied, once.
    pub fn as_bytes(&self) -> &Bytes {
        match &self.repr {
            Repr::Whole(bytes) => bytes,
            Repr::Split(split) => split.whole(),
        }
    }

    /// Returns the length of the map in MessagePack in bytes.
    pub fn len_bytes(&self) -> usize {
        match &self.repr {
            Repr::Whole(bytes) => bytes.len(),
            Repr::Split(split) => split.len(),
        }
    }

    /// Returns the map in MessagePack as pieces in order, without a copy: what stands before the
    /// value that is kept apart (its head included), the content of that value, and what stands
    /// behind it. Without such a value, the second piece is the whole map and the others are empty.
    pub fn pieces(&self) -> [&Bytes; 3] {
        static NOTHING: Bytes = Bytes::new();
        match &self.repr {
            Repr::Whole(bytes) => [&NOTHING, bytes, &NOTHING],
            Repr::Split(split) => split.pieces(),
        }
    }

    /// Wraps pieces whose map was checked with an empty value in the place of the large one.
    pub(crate) fn from_split(split: Split) -> Self {
        Self {
            repr: Repr::Split(Box::new(split)),
        }
    }

    /// Wraps bytes that [`skip_data`] has stepped over.
    pub(crate) fn from_checked(bytes: Bytes) -> Self {
        Self {
            repr: Repr::Whole(bytes),
        }
    }

    /// The last value under `key`: what one reader takes must not be hidden from another.
    fn find(&self, key: &str) -> Option<&[u8]> {
        let same = self.entries().filter(|(k, _)| *k == key);
        same.last().map(|(_, raw)| raw)
    }

    fn with_textual_keys(bytes: &[u8]) -> Result<Self, ProtoError> {
        let rmpv::Value::Map(entries) = read_tree(bytes, MAX_NESTING_DEPTH + 1)? else {
            return Err(ProtoError::Serialize(
                "expected map from serialized struct".into(),
            ));
        };
        let mut out = Vec::with_capacity(bytes.len());
        write_map_head(&mut out, entries.len())?;
        for (key, value) in &entries {
            match key.as_str() {
                Some(key) => write_entry(&mut out, key, value)?,
                None => write_entry(&mut out, &key.to_string(), value)?,
            }
        }
        Self::from_bytes(out)
    }
}

impl PartialEq for Payload {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Payload {}

impl Default for Payload {
    fn default() -> Self {
        Self::empty()
    }
}

impl std::fmt::Debug for Payload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Payload")
            .field("keys", &self.entries().map(|(k, _)| k).collect::<Vec<_>>())
            .field("len_bytes", &self.len_bytes())
            .finish()
    }
}

/// Checks that `bytes` are one `data` map and nothing else.
fn check(bytes: &[u8]) -> Result<(), ProtoError> {
    let mut scanner = Scanner::new(bytes);
    skip_data(&mut scanner)?;
    scanner.finish()
}

/// Decodes a value that nests at most `levels` deep.
///
/// `rmpv` counts two for each level, and three for a string or an extension at the bottom.
fn read_tree(mut bytes: &[u8], levels: usize) -> Result<rmpv::Value, ProtoError> {
    use rmpv::decode::{Error, read_value_with_max_depth};

    read_value_with_max_depth(&mut bytes, levels * 2 + 3).map_err(|e| match e {
        Error::DepthLimitExceeded => ProtoError::TooDeep,
        other => ProtoError::Deserialize(other.to_string()),
    })
}

/// Steps over a `data` map, checking that every key is a string.
pub(crate) fn skip_data(scanner: &mut Scanner<'_>) -> Result<(), ProtoError> {
    const KEYS: ProtoError = ProtoError::Field {
        field: "data",
        expected: "string keys",
    };
    let Some(len) = scanner.map()? else {
        return Err(ProtoError::Field {
            field: "data",
            expected: "a map",
        });
    };
    for _ in 0..len {
        let key = scanner.str_bytes()?.ok_or(KEYS)?;
        std::str::from_utf8(key).map_err(|_| KEYS)?;
        scanner.skip()?;
    }
    Ok(())
}

/// Returns at least the encoded size of a value that is not nested, and a guess for one that is:
/// growing a buffer under a megabyte of binary data costs as much as encoding it.
fn size_hint(value: &rmpv::Value) -> usize {
    use rmpv::Value;
    match value {
        Value::String(text) => text.as_bytes().len() + 5,
        Value::Binary(data) | Value::Ext(_, data) => data.len() + 6,
        Value::Array(items) => {
            5 + items
                .iter()
                .take(SAMPLED_ITEMS)
                .map(size_hint)
                .sum::<usize>()
        }
        Value::Map(_) => 64,
        _ => 9,
    }
}

/// Checks a map that ends with the head of a binary value whose content lies elsewhere.
fn check_with_hole(before: &[u8]) -> Result<(), ProtoError> {
    let mut scanner = Scanner::new(before);
    let len = scanner.map()?.unwrap_or(0);
    for _ in 1..len {
        scanner.str_bytes()?;
        scanner.skip()?;
    }
    Ok(())
}

fn write_map_head(out: &mut Vec<u8>, len: usize) -> Result<(), ProtoError> {
    let len = u32::try_from(len).map_err(|e| ProtoError::Serialize(e.to_string()))?;
    encode::write_map_len(out, len).map_err(|e| ProtoError::Serialize(e.to_string()))?;
    Ok(())
}

fn write_entry(out: &mut Vec<u8>, key: &str, value: &rmpv::Value) -> Result<(), ProtoError> {
    let fail = |e: &dyn std::fmt::Display| ProtoError::Serialize(e.to_string());
    encode::write_str(out, key).map_err(|e| fail(&e))?;
    rmpv::encode::write_value(out, value).map_err(|e| fail(&e))
}

/// Items of an array whose size is looked at beforehand.
const SAMPLED_ITEMS: usize = 64;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use rmpv::Value;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Borrowing<'a> {
        name: &'a str,
        #[serde(with = "serde_bytes")]
        body: &'a [u8],
    }

    #[test]
    fn borrows_from_the_frame() {
        let sent = Borrowing {
            name: "n",
            body: &[7; 300],
        };
        let payload = Payload::from_typed(&sent).unwrap();
        let got: Borrowing<'_> = payload.deserialize().unwrap();
        assert_eq!(got, sent);
        assert!(
            payload
                .as_bytes()
                .as_ptr_range()
                .contains(&got.body.as_ptr())
        );
        let slice = payload.get_bin("body").unwrap();
        assert_eq!(slice.as_ptr(), got.body.as_ptr());
        assert_eq!(payload.get_bin("name"), None);
        assert_eq!(payload.get("nothing"), None);
    }

    #[test]
    fn only_maps_are_payloads() {
        assert!(matches!(
            Payload::from_typed(&5u8),
            Err(ProtoError::Serialize(_))
        ));
        assert!(matches!(
            Payload::from_bytes(vec![0x91, 0xc0]),
            Err(ProtoError::Field {
                field: "data",
                expected: "a map"
            })
        ));
        assert_eq!(
            Payload::from_bytes(vec![0x80, 0xc0]),
            Err(ProtoError::TrailingBytes(1))
        );
        assert!(matches!(
            Payload::from_bytes(vec![0x81, 0xa1, 0xff, 0xc0]),
            Err(ProtoError::Field {
                expected: "string keys",
                ..
            })
        ));
    }

    #[test]
    fn the_last_of_equal_keys_counts_for_every_reader() {
        // {"k": "first", "k": b"last"}
        let payload = Payload::from_bytes(&b"\x82\xa1k\xa5first\xa1k\xc4\x04last"[..]).unwrap();
        assert_eq!(payload.len(), 2);
        assert_eq!(payload.get_bin("k").unwrap(), &b"last"[..]);
        assert_eq!(payload.get("k").unwrap(), &b"\xc4\x04last"[..]);
        let last = HashMap::from([("k".to_owned(), Value::Binary(b"last".to_vec()))]);
        assert_eq!(payload.to_map().unwrap(), last);
        assert_eq!(
            payload.deserialize::<HashMap<String, Value>>().unwrap(),
            last
        );
    }

    #[test]
    fn integer_keys_become_text() {
        let payload = Payload::from_typed(&BTreeMap::from([(1u8, "a"), (20, "b")])).unwrap();
        assert_eq!(
            payload.entries().map(|(k, _)| k).collect::<Vec<_>>(),
            ["1", "20"]
        );
    }

    #[test]
    fn a_mistyped_value_names_the_problem() {
        let payload = Payload::from_typed(&BTreeMap::from([("name", 5)])).unwrap();
        let error = payload
            .deserialize::<Borrowing<'_>>()
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("invalid type") && error.contains("5"),
            "{error}"
        );
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Nil),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f32>()
                .prop_filter("NaN is not equal to itself", |v| !v.is_nan())
                .prop_map(Value::from),
            any::<f64>()
                .prop_filter("NaN is not equal to itself", |v| !v.is_nan())
                .prop_map(Value::from),
            ".{0,40}".prop_map(Value::from),
            proptest::collection::vec(any::<u8>(), 0..300).prop_map(Value::from),
            (any::<i8>(), proptest::collection::vec(any::<u8>(), 0..40))
                .prop_map(|(tag, data)| Value::Ext(tag, data)),
        ];
        leaf.prop_recursive(4, 64, 8, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..20).prop_map(Value::Array),
                proptest::collection::vec((inner.clone(), inner), 0..8).prop_map(Value::Map),
            ]
        })
    }

    proptest! {
        #[test]
        fn dynamic_maps_round_trip(map in proptest::collection::hash_map(".{0,12}", value(), 0..6)) {
            let payload = Payload::from_map(&map).unwrap();
            prop_assert_eq!(payload.len(), map.len());
            prop_assert_eq!(payload.to_map().unwrap(), map.clone());
            let moved = Payload::from_values(map.clone()).unwrap();
            prop_assert_eq!(moved.into_values().unwrap(), map);
        }

        /// The typed serializer writes value trees exactly as the tree encoder does.
        #[test]
        fn typed_and_tree_encoders_agree(map in proptest::collection::hash_map(".{0,12}", value(), 0..6)) {
            let tree = Payload::from_map(&map).unwrap();
            let typed = Payload::from_typed(&map).unwrap();
            prop_assert_eq!(tree.as_bytes(), typed.as_bytes());
        }

        #[test]
        fn any_bytes_are_taken_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(payload) = Payload::from_bytes(bytes) {
                prop_assert_eq!(payload.entries().count(), payload.len());
                let _ = payload.to_map();
            }
        }
    }
}
