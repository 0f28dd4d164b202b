//! Rust values as payloads: what `from_typed` writes, `deserialize` reads back, and the bytes are
//! those of the published layout.

#![allow(clippy::unwrap_used, reason = "a failed test panics")]

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
    time::Duration,
};

use btlightning_proto::{Payload, ProtoError};
use proptest::{collection, option, prelude::*};
use rmpv::Value;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// A kind of each of Rust's enum variants, and itself within itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Shape {
    Empty,
    Label(String),
    Optional(Option<bool>),
    Pair(i64, u64),
    Single(Box<Shape>),
    Record {
        ratio: f32,
        inner: Vec<Shape>,
        choice: Option<Box<Shape>>,
    },
    Nothing {},
    Marker(Marker),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Marker;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Metres(f64);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Coordinates(i8, i16, i32);

/// Everything that serde's data model has, but for enums.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Plain {
    flag: bool,
    small: (i8, u8),
    medium: (i16, u16),
    large: (i32, u32),
    huge: (i64, u64),
    single: f32,
    double: f64,
    letter: char,
    text: String,
    #[serde(with = "serde_bytes")]
    body: Vec<u8>,
    numbers: Vec<u8>,
    fixed: [u16; 3],
    absent: Option<u32>,
    nested: Option<Vec<Option<String>>>,
    by_number: BTreeMap<i32, String>,
    by_letter: BTreeMap<char, u8>,
    by_name: BTreeMap<String, BTreeMap<u64, bool>>,
    length: Metres,
    place: Coordinates,
    nothing: (),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Everything {
    plain: Plain,
    shape: Shape,
    shapes: BTreeMap<u16, Vec<Shape>>,
    maybe: Option<Shape>,
    marker: Marker,
}

/// Serde gives no length beforehand to the map that a flattened struct becomes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Flat {
    id: u32,
    #[serde(flatten)]
    head: Head,
    #[serde(flatten)]
    rest: BTreeMap<String, Vec<i64>>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Head {
    title: String,
    #[serde(with = "serde_bytes")]
    digest: Vec<u8>,
    weight: Option<f64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Sparse {
    #[serde(skip_serializing_if = "Option::is_none")]
    first: Option<String>,
    always: u8,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    list: Vec<Sparse>,
    #[serde(skip)]
    never: u64,
    #[serde(rename = "wire name")]
    renamed: bool,
}

fn shape() -> impl Strategy<Value = Shape> {
    let leaf = prop_oneof![
        Just(Shape::Empty),
        ".{0,20}".prop_map(Shape::Label),
        any::<Option<bool>>().prop_map(Shape::Optional),
        any::<(i64, u64)>().prop_map(|(a, b)| Shape::Pair(a, b)),
        Just(Shape::Nothing {}),
        Just(Shape::Marker(Marker)),
    ];
    leaf.prop_recursive(4, 16, 3, |inner| {
        prop_oneof![
            inner.clone().prop_map(|s| Shape::Single(Box::new(s))),
            (
                any::<f32>(),
                collection::vec(inner.clone(), 0..3),
                option::of(inner)
            )
                .prop_map(|(ratio, inner, choice)| Shape::Record {
                    ratio,
                    inner,
                    choice: choice.map(Box::new)
                }),
        ]
    })
}

fn edge_or_any<T: Arbitrary + Clone + 'static>(edges: Vec<T>) -> impl Strategy<Value = T> {
    prop_oneof![prop::sample::select(edges), any::<T>()]
}

fn plain() -> impl Strategy<Value = Plain> {
    let numbers = (
        any::<bool>(),
        any::<(i8, u8)>(),
        any::<(i16, u16)>(),
        any::<(i32, u32)>(),
        (
            edge_or_any(vec![i64::MIN, i64::MAX, -33, -32, -1, 0, 127, 128]),
            edge_or_any(vec![0, 127, 128, 255, 256, 65_535, 65_536, u64::MAX]),
        ),
        edge_or_any(vec![f32::MIN_POSITIVE, f32::MAX, -0.0, f32::INFINITY]),
        edge_or_any(vec![f64::MIN_POSITIVE, f64::MAX, -0.0, f64::NEG_INFINITY]),
    );
    let texts = (
        any::<char>(),
        ".{0,40}",
        collection::vec(any::<u8>(), 0..300),
        collection::vec(any::<u8>(), 0..40),
        any::<[u16; 3]>(),
        any::<Option<u32>>(),
        option::of(collection::vec(option::of(".{0,8}"), 0..4)),
    );
    let maps = (
        collection::btree_map(any::<i32>(), ".{0,8}", 0..20),
        collection::btree_map(any::<char>(), any::<u8>(), 0..4),
        collection::btree_map(
            ".{0,8}",
            collection::btree_map(any::<u64>(), any::<bool>(), 0..3),
            0..3,
        ),
        any::<f64>(),
        any::<(i8, i16, i32)>(),
    );
    (numbers, texts, maps).prop_map(|(numbers, texts, maps)| {
        let (flag, small, medium, large, huge, single, double) = numbers;
        let (letter, text, body, numbers, fixed, absent, nested) = texts;
        let (by_number, by_letter, by_name, length, place) = maps;
        Plain {
            flag,
            small,
            medium,
            large,
            huge,
            single,
            double,
            letter,
            text,
            body,
            numbers,
            fixed,
            absent,
            nested,
            by_number,
            by_letter,
            by_name,
            length: Metres(length),
            place: Coordinates(place.0, place.1, place.2),
            nothing: (),
        }
    })
}

fn flat() -> impl Strategy<Value = Flat> {
    let head = (
        ".{0,20}",
        collection::vec(any::<u8>(), 0..40),
        any::<Option<f64>>(),
    );
    // Names of the struct's own fields would be given twice.
    let name = ".{0,8}".prop_filter("a field's name", |name| {
        !["id", "title", "digest", "weight"].contains(&name.as_str())
    });
    let rest = collection::btree_map(name, collection::vec(any::<i64>(), 0..4), 0..20);
    (any::<u32>(), head, rest).prop_map(|(id, (title, digest, weight), rest)| Flat {
        id,
        head: Head {
            title,
            digest,
            weight,
        },
        rest,
    })
}

/// The reference serializer, told to write structs as maps. It names the variants of enums, which
/// the published package numbers, so it serves for values without enums.
fn reference<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut serializer = rmp_serde::Serializer::new(&mut bytes)
        .with_struct_map()
        .with_human_readable();
    value.serialize(&mut serializer).unwrap();
    bytes
}

fn assert_returns<T>(value: &T)
where
    T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let payload = Payload::from_typed(value).unwrap();
    assert_eq!(&payload.deserialize::<T>().unwrap(), value);
    // And by way of the wire, of a value tree, and of the tree's own encoding.
    let received = Payload::from_bytes(payload.as_bytes().to_vec()).unwrap();
    assert_eq!(&received.deserialize::<T>().unwrap(), value);
    let tree = received.to_map().unwrap();
    let again = Payload::from_map(&tree).unwrap();
    assert_eq!(&again.deserialize::<T>().unwrap(), value);
}

proptest! {
    #[test]
    fn values_without_enums_return_and_match_the_reference(plain in plain()) {
        assert_returns(&plain);
        let payload = Payload::from_typed(&plain).unwrap();
        prop_assert_eq!(&payload.as_bytes()[..], reference(&plain));
    }

    #[test]
    fn enums_return_at_every_depth(
        plain in plain(),
        shape in shape(),
        shapes in collection::btree_map(any::<u16>(), collection::vec(shape(), 0..3), 0..3),
        maybe in option::of(shape()),
    ) {
        assert_returns(&Everything { plain, shape, shapes, maybe, marker: Marker });
    }

    #[test]
    fn flattened_structs_return_and_match_the_reference(flat in flat()) {
        assert_returns(&flat);
        let payload = Payload::from_typed(&flat).unwrap();
        prop_assert_eq!(payload.len(), 4 + flat.rest.len());
        prop_assert_eq!(&payload.as_bytes()[..], reference(&flat));
    }

    #[test]
    fn strings_and_bytes_are_borrowed(
        name in ".{0,80}",
        title in ".{0,80}",
        body in collection::vec(any::<u8>(), 0..600),
    ) {
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        struct View<'a> {
            name: &'a str,
            #[serde(borrow)]
            title: Cow<'a, str>,
            #[serde(with = "serde_bytes")]
            body: &'a [u8],
            #[serde(borrow)]
            parts: Vec<&'a str>,
            nothing: Option<&'a str>,
        }
        let sent = View {
            name: &name,
            title: Cow::Borrowed(&title),
            body: &body,
            parts: vec![&name, &title],
            nothing: None,
        };
        let payload = Payload::from_typed(&sent).unwrap();
        let received: View<'_> = payload.deserialize().unwrap();
        prop_assert_eq!(&received, &sent);
        let frame = payload.as_bytes().as_ptr_range();
        for part in [received.name.as_bytes(), received.title.as_bytes(), received.body] {
            prop_assert!(frame.start <= part.as_ptr() && part.as_ptr_range().end <= frame.end);
        }
        prop_assert!(matches!(received.title, Cow::Borrowed(_)));
    }
}

#[test]
fn fields_left_out_are_not_counted() {
    let sparse = |first: Option<&str>, list| Sparse {
        first: first.map(Into::into),
        always: 1,
        list,
        never: 0,
        renamed: true,
    };
    let cases = [
        (sparse(None, vec![]), 2),
        (sparse(Some("x"), vec![]), 3),
        (sparse(None, vec![sparse(Some("y"), vec![])]), 3),
        (sparse(Some("x"), vec![sparse(None, vec![])]), 4),
    ];
    for (value, entries) in cases {
        let payload = Payload::from_typed(&value).unwrap();
        assert_eq!(payload.len(), entries);
        assert!(payload.get("never").is_none());
        assert!(payload.get("wire name").is_some());
        assert_eq!(&payload.as_bytes()[..], reference(&value));
        assert_returns(&value);
    }
}

#[test]
fn variants_are_numbered_in_the_published_layout() {
    let tree = |shape: Shape| {
        let payload = Payload::from_typed(&BTreeMap::from([("s", shape)])).unwrap();
        payload.to_map().unwrap().remove("s").unwrap()
    };
    let one = |index: u8, content| Value::Map(vec![(index.into(), content)]);
    assert_eq!(tree(Shape::Empty), Value::from(0));
    assert_eq!(tree(Shape::Label("a".into())), one(1, "a".into()));
    assert_eq!(tree(Shape::Optional(None)), one(2, Value::Nil));
    assert_eq!(
        tree(Shape::Pair(-1, u64::MAX)),
        one(3, Value::Array(vec![(-1).into(), u64::MAX.into()]))
    );
    assert_eq!(
        tree(Shape::Single(Box::new(Shape::Empty))),
        one(4, 0.into())
    );
    let record = Shape::Record {
        ratio: 0.5,
        inner: vec![Shape::Empty],
        choice: None,
    };
    let fields = vec![
        ("ratio".into(), Value::F32(0.5)),
        ("inner".into(), Value::Array(vec![0.into()])),
        ("choice".into(), Value::Nil),
    ];
    assert_eq!(tree(record), one(5, Value::Map(fields)));
    assert_eq!(tree(Shape::Nothing {}), one(6, Value::Map(vec![])));
    assert_eq!(tree(Shape::Marker(Marker)), one(7, Value::Nil));
}

/// Heads take one, two, three or five bytes.
#[test]
fn containers_of_every_head_return() {
    for len in [0u32, 1, 15, 16, 65_535, 65_536, 70_000] {
        let map: BTreeMap<u32, u32> = (0..len).map(|i| (i, len - i)).collect();
        let list: Vec<u32> = (0..len).collect();
        let value = BTreeMap::from([("map".to_owned(), map)]);
        assert_returns(&value);
        assert_returns(&BTreeMap::from([("list".to_owned(), list)]));
        assert_eq!(
            &Payload::from_typed(&value).unwrap().as_bytes()[..],
            reference(&value),
            "{len}"
        );
    }
    for len in [0, 31, 32, 255, 256, 65_535, 65_536] {
        assert_returns(&BTreeMap::from([("s".to_owned(), "s".repeat(len))]));
        let bytes = serde_bytes::ByteBuf::from(vec![9; len]);
        assert_returns(&BTreeMap::from([("b".to_owned(), bytes)]));
    }
}

#[test]
fn standard_types_return() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Standard {
        set: HashSet<String>,
        address: IpAddr,
        took: Duration,
        result: Result<u8, String>,
        map: HashMap<String, Option<bool>>,
        boxed: Box<str>,
    }
    assert_returns(&Standard {
        set: ["a".to_owned(), "b".to_owned()].into(),
        address: "2001:db8::1".parse().unwrap(),
        took: Duration::new(3, 5),
        result: Err("no".into()),
        map: [("x".to_owned(), None), ("y".to_owned(), Some(true))].into(),
        boxed: "boxed".into(),
    });
}

/// A list of small numbers and binary data are told apart on the wire, and taken for each other
/// where the type allows.
#[test]
fn binary_data_is_read_as_a_list_too() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct List {
        body: Vec<u8>,
    }
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Binary {
        #[serde(with = "serde_bytes")]
        body: Vec<u8>,
    }
    let body = vec![1, 2, 200];
    let list = Payload::from_typed(&List { body: body.clone() }).unwrap();
    let binary = Payload::from_typed(&Binary { body: body.clone() }).unwrap();
    assert_eq!(list.get_bin("body"), None);
    assert_eq!(binary.get_bin("body").unwrap(), body);
    assert_eq!(binary.deserialize::<List>().unwrap().body, body);
    assert_eq!(list.deserialize::<Binary>().unwrap().body, body);
}

#[test]
fn what_is_not_a_map_or_not_messagepack_is_refused() {
    fn refused(value: impl Serialize) -> String {
        match Payload::from_typed(&value) {
            Err(ProtoError::Serialize(text)) => text,
            other => panic!("{other:?}"),
        }
    }
    let no_map = "expected map from serialized struct";
    assert_eq!(refused(()), no_map);
    assert_eq!(refused(Marker), no_map);
    assert_eq!(refused("text"), no_map);
    assert_eq!(refused(vec![1]), no_map);
    assert_eq!(refused(Shape::Empty), no_map);
    assert_eq!(refused(None::<Head>), no_map);
    assert!(refused(BTreeMap::from([("big", 1i128)])).contains("i128"));
    assert!(refused(BTreeMap::from([("big", u128::MAX)])).contains("u128"));
}

/// A variant with content is a map from a number, whose key becomes text like any other.
#[test]
fn keys_at_the_top_become_text() {
    let keys = |payload: Payload| {
        let keys = payload.entries().map(|(key, _)| key.to_owned());
        keys.collect::<Vec<_>>()
    };
    let variant = Payload::from_typed(&Shape::Label("x".into())).unwrap();
    assert_eq!(keys(variant), ["1"]);
    let negative = Payload::from_typed(&BTreeMap::from([(-5, 0)])).unwrap();
    assert_eq!(keys(negative), ["-5"]);
    let flags = Payload::from_typed(&BTreeMap::from([(false, 0), (true, 1)])).unwrap();
    assert_eq!(keys(flags), ["false", "true"]);
    let some = Payload::from_typed(&Some(BTreeMap::from([('c', 1)]))).unwrap();
    assert_eq!(keys(some), ["c"]);
}
