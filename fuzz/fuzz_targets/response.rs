//! An answer: comes back as it was, and the published decoder, serde over MessagePack, sees the
//! same in it.

#![no_main]

use std::collections::HashMap;

use btlightning_proto::frame::{self, HEADER_LEN, MessageType};
use btlightning_proto::message::Response;
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use serde::Deserialize;

#[derive(Deserialize)]
struct Published {
    success: bool,
    data: HashMap<String, rmpv::Value>,
    timestamp: u64,
    error: Option<String>,
}

fuzz_target!(|data: &[u8]| {
    let body = Bytes::copy_from_slice(data);
    let Ok(response) = Response::decode(body.clone()) else {
        return;
    };
    let frame = response.encode().expect("what was decoded").to_vec();
    assert!(frame.len() <= HEADER_LEN + data.len(), "grew");
    let (kind, again) = frame::parse(&frame, data.len()).expect("our own frame");
    assert_eq!(kind, MessageType::SynapseResponse);
    let again = Bytes::copy_from_slice(again);
    assert_eq!(Response::decode(again).as_ref(), Ok(&response));
    assert!(Response::decode(body.slice(..body.len() - 1)).is_err());
    assert!(Response::decode([data, &[0xc0]].concat().into()).is_err());

    let theirs: Published = rmp_serde::from_slice(data).expect("the published decoder takes it");
    assert_eq!(theirs.success, response.success);
    assert_eq!(theirs.timestamp, response.timestamp);
    assert_eq!(theirs.error, response.error);
    let ours = response.data.to_map().expect("a payload that was checked");
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
