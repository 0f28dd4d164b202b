//! A request: a view of its frame that comes back as it was, and in which the published decoder,
//! serde over MessagePack, sees the same.

#![no_main]

use std::collections::HashMap;

use btlightning_proto::frame::{self, HEADER_LEN, MessageType};
use btlightning_proto::message::{Request, encode_request};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use serde::Deserialize;

#[derive(Deserialize)]
struct Published {
    synapse_type: String,
    data: HashMap<String, rmpv::Value>,
    timestamp: u64,
}

fuzz_target!(|data: &[u8]| {
    let body = Bytes::copy_from_slice(data);
    let Ok(request) = Request::decode(body.clone()) else {
        return;
    };
    assert_eq!(request.timeout_ms(), None);
    for part in [request.synapse_type().as_bytes(), request.data().as_bytes()] {
        assert!(
            body.as_ptr_range().contains(&part.as_ptr()) || part.is_empty(),
            "a copy"
        );
    }

    let frame = encode_request(request.synapse_type(), request.data(), request.timestamp())
        .expect("what was decoded")
        .to_vec();
    assert!(frame.len() <= HEADER_LEN + data.len(), "grew");
    let (kind, again) = frame::parse(&frame, data.len()).expect("our own frame");
    assert_eq!(kind, MessageType::SynapsePacket);
    let again = Bytes::copy_from_slice(again);
    assert!(Request::decode(body.slice(..body.len() - 1)).is_err());
    assert!(Request::decode([data, &[0xc0]].concat().into()).is_err());
    let again = Request::decode(again).expect("our own body");
    assert_eq!(again.synapse_type(), request.synapse_type());
    assert_eq!(again.data(), request.data());
    assert_eq!(again.timestamp(), request.timestamp());

    let theirs: Published = rmp_serde::from_slice(data).expect("the published decoder takes it");
    assert_eq!(theirs.synapse_type, request.synapse_type());
    assert_eq!(theirs.timestamp, request.timestamp());
    let ours = request.data().to_map().expect("a payload that was checked");
    assert_eq!(ours.len(), theirs.data.len());
    for (key, value) in &ours {
        assert_eq!(packed(value), packed(&theirs.data[key]), "{key}");
    }
});

/// Bytes, because NaN is not equal to itself.
fn packed(value: &rmpv::Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    rmpv::encode::write_value(&mut bytes, value).expect("memory");
    bytes
}
