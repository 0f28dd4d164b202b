//! What is sent comes back: every type of value, and bytes of every size.

use lightning_tests::{
    bytes, payload,
    peer::{Client, Map, Server, Settings},
};
use rmpv::Value;

use crate::pairings;

pairings!(values_of_every_type, bytes_of_every_size);

async fn values_of_every_type<C: Client, S: Server>() {
    let server = echo_server::<S>().await;
    let client = C::connect(vec![server.axon()]).await;
    for kind in ["blocking", "asynchronous"] {
        for data in [Map::new(), every_type()] {
            let answer = client
                .query(&server.axon(), kind, data.clone())
                .await
                .unwrap();
            assert!(answer.success);
            // Value by value: the whole would fill the screen.
            let lost: Vec<_> = data
                .keys()
                .filter(|k| !answer.data.contains_key(*k))
                .collect();
            assert!(lost.is_empty(), "{kind}: {lost:?}");
            for (key, value) in &data {
                assert!(answer.data.get(key) == Some(value), "{kind}: {key}");
            }
            assert_eq!(answer.error, None);
            assert!(answer.latency_ms > 0.0);
        }
    }
}

async fn bytes_of_every_size<C: Client, S: Server>() {
    let server = echo_server::<S>().await;
    let client = C::connect(vec![server.axon()]).await;
    const KIB: usize = 1024;
    for len in [0, 1, 4095, 4096, 4097, 64 * KIB, 1024 * KIB, 8 * 1024 * KIB] {
        let sent = payload(bytes(len));
        let answer = client
            .query(&server.axon(), "blocking", sent.clone())
            .await
            .unwrap();
        // Not assert_eq: it would print megabytes.
        assert!(answer.success && answer.data == sent, "{len} bytes");
    }
}

async fn echo_server<S: Server>() -> S {
    let server = S::start(Settings::default()).await;
    server.blocking("blocking", Ok).await;
    server
        .asynchronous("asynchronous", |data| Box::pin(async { Ok(data) }))
        .await;
    server
}

fn every_type() -> Map {
    let text = |s: &str| Value::String(s.into());
    let values = [
        Value::Nil,
        Value::Boolean(false),
        Value::Boolean(true),
        Value::from(0),
        Value::from(-1),
        Value::from(127),
        Value::from(128),
        Value::from(-32),
        Value::from(-33),
        Value::from(i64::MIN),
        Value::from(i64::MAX),
        Value::from(u64::MAX),
        Value::F32(1.5),
        Value::F64(f64::MIN_POSITIVE),
        Value::F64(f64::INFINITY),
        text(""),
        text("λ⚡"),
        text(&"long ".repeat(20_000)),
        Value::Binary(vec![]),
        Value::Binary(vec![0, 255]),
        Value::Ext(7, vec![1, 2, 3, 4]),
        Value::Array(vec![]),
        Value::Array(vec![Value::Nil, text("x"), Value::Array(vec![1.into()])]),
        Value::Array((0..70_000).map(Value::from).collect()),
        Value::Map(vec![]),
        Value::Map(vec![
            (text("inner"), Value::Map(vec![(text("deep"), Value::Nil)])),
            (Value::from(-5), Value::Boolean(true)),
            (Value::Binary(vec![9]), text("keyed by bytes")),
        ]),
    ];
    let named = |(i, value)| (format!("value {i}"), value);
    let mut data: Map = values.into_iter().enumerate().map(named).collect();
    data.insert(String::new(), text("under an empty name"));
    data
}
