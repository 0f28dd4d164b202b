//! Typed requests and typed handlers understand each other.

use std::collections::BTreeMap;

use btlightning::CallOptions;
use lightning_tests::{
    peer::{Client, Later, Map, Outcome, Server, Settings, ours},
    within,
};
use rmpv::Value;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::{one_sided, pairings};

pairings!(typed_values, typed_failures, variants_on_the_wire);
one_sided!(Server: direct_calls, variants_read_by_our_client);
one_sided!(Client: variants_read_by_our_server);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Order {
    id: u64,
    change: i64,
    ratio: f64,
    share: f32,
    urgent: bool,
    name: String,
    blob: ByteBuf,
    note: Option<String>,
    absent: Option<u8>,
    nothing: (),
    pair: (u8, String),
    lines: Vec<Line>,
    replaces: Option<Box<Line>>,
    limits: BTreeMap<String, Line>,
    by_number: BTreeMap<u32, bool>,
    account: Account,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Line {
    low: i32,
    high: Option<i32>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Account(String);

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Receipt {
    order: Order,
    accepted: Option<Line>,
}

/// The published package sends all of these and reads none of them as an enum.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Shape {
    Point,
    Circle(f32),
    Offset(i8, i8),
    Rectangle { width: u16, height: Option<u16> },
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Drawing {
    first: Shape,
    more: Vec<Shape>,
}

async fn typed_values<C: Client, S: Server>() {
    let server = typed_server::<S>().await;
    let client = C::connect(vec![server.axon()]).await;
    for kind in ["blocking", "asynchronous"] {
        let receipt: Receipt = client
            .query_typed(&server.axon(), kind, &order())
            .await
            .unwrap();
        assert_eq!(receipt, accept(order()).unwrap(), "{kind}");
    }
}

async fn typed_failures<C: Client, S: Server>() {
    let server = typed_server::<S>().await;
    let client = C::connect(vec![server.axon()]).await;
    let failed = Err("handler error: request processing failed".to_owned());
    for kind in ["failing", "blocking", "asynchronous"] {
        // An order without most of its fields, which only `failing` is content with.
        let request = BTreeMap::from([("id", 1)]);
        let answer = client
            .query_typed::<_, Receipt>(&server.axon(), kind, &request)
            .await;
        assert_eq!(answer, failed, "{kind}");
    }
}

/// The typed call of this repository's client, which builds no dynamic values.
async fn direct_calls<S: Server>() {
    let server = typed_server::<S>().await;
    let axon = server.axon();
    let client = ours::Client::connect(vec![axon.clone()]).await;
    for kind in ["blocking", "asynchronous"] {
        let order = order();
        let call = client.0.call(&axon, kind, &order, CallOptions::default());
        let receipt: Receipt = within(call).await.unwrap();
        assert_eq!(receipt, accept(order.clone()).unwrap(), "{kind}");
    }
}

async fn variants_on_the_wire<C: Client, S: Server>() {
    let server = S::start(Settings::default()).await;
    server
        .blocking("look", |data| {
            let expected = Map::from([
                ("first".into(), Value::from(0)),
                ("more".into(), Value::Array(variants_as_values())),
            ]);
            let matches = Value::Boolean(data == expected);
            Ok(Map::from([("matches".into(), matches)]))
        })
        .await;
    let client = C::connect(vec![server.axon()]).await;
    let answer: BTreeMap<String, bool> = client
        .query_typed(&server.axon(), "look", &drawing())
        .await
        .unwrap();
    assert_eq!(answer, BTreeMap::from([("matches".into(), true)]));
}

async fn variants_read_by_our_server<C: Client>() {
    let server = ours::Server::start(Settings::default()).await;
    server
        .typed("compare", |got: Drawing| {
            Ok(BTreeMap::from([("same", got == drawing())]))
        })
        .await;
    let client = C::connect(vec![server.axon()]).await;
    let answer: BTreeMap<String, bool> = client
        .query_typed(&server.axon(), "compare", &drawing())
        .await
        .unwrap();
    assert_eq!(answer, BTreeMap::from([("same".into(), true)]));
}

async fn variants_read_by_our_client<S: Server>() {
    let server = S::start(Settings::default()).await;
    server
        .typed("draw", |_: BTreeMap<String, u8>| Ok(drawing()))
        .await;
    let axon = server.axon();
    let client = ours::Client::connect(vec![axon.clone()]).await;
    let request = BTreeMap::from([("seed", 1)]);
    let answer = client.query_typed(&axon, "draw", &request).await;
    assert_eq!(answer, Ok(drawing()));
    let call = client
        .0
        .call(&axon, "draw", &request, CallOptions::default());
    let answer: Drawing = within(call).await.unwrap();
    assert_eq!(answer, drawing());
}

async fn typed_server<S: Server>() -> S {
    let server = S::start(Settings::default()).await;
    server.typed("blocking", accept).await;
    server.typed_async("asynchronous", accept_later).await;
    server.typed("failing", refuse).await;
    server
}

fn accept(order: Order) -> Outcome<Receipt> {
    Ok(Receipt {
        accepted: order.lines.last().cloned(),
        order,
    })
}

fn accept_later(order: Order) -> Later<Receipt> {
    Box::pin(async { accept(order) })
}

fn refuse(_: BTreeMap<String, u8>) -> Outcome<Receipt> {
    Err("a secret")
}

fn order() -> Order {
    let line = |low, high| Line { low, high };
    Order {
        id: u64::MAX,
        change: i64::MIN,
        ratio: -0.1,
        share: 0.1,
        urgent: true,
        name: "ψ".into(),
        blob: ByteBuf::from(vec![0, 159, 146, 150]),
        note: Some("fragile".into()),
        absent: None,
        nothing: (),
        pair: (3, "three".into()),
        lines: vec![line(-1, Some(1)), line(i32::MIN, None)],
        replaces: Some(Box::new(line(0, None))),
        limits: BTreeMap::from([("x".into(), line(7, Some(8)))]),
        by_number: BTreeMap::from([(7, true)]),
        account: Account("main".into()),
    }
}

fn drawing() -> Drawing {
    let rectangle = |height| Shape::Rectangle { width: 800, height };
    Drawing {
        first: Shape::Point,
        more: vec![
            Shape::Circle(0.5),
            Shape::Offset(-1, 1),
            rectangle(None),
            rectangle(Some(600)),
        ],
    }
}

/// The variants of [`drawing`] behind the first as they travel: by index, fields by name.
fn variants_as_values() -> Vec<Value> {
    let variant = |index: u8, content| Value::Map(vec![(index.into(), content)]);
    let rectangle = |height| {
        let fields = vec![("width".into(), 800.into()), ("height".into(), height)];
        variant(3, Value::Map(fields))
    };
    vec![
        variant(1, Value::F32(0.5)),
        variant(2, Value::Array(vec![(-1).into(), 1.into()])),
        rectangle(Value::Nil),
        rectangle(600.into()),
    ]
}
