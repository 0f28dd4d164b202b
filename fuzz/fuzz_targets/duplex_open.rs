//! A request that chunks follow: comes back as it was, with or without the time it may take.

#![no_main]

use btlightning_proto::frame::{self, HEADER_LEN, MessageType};
use btlightning_proto::message::{Request, encode_duplex_open};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let body = Bytes::copy_from_slice(data);
    let Ok(request) = Request::decode_duplex(body.clone()) else {
        return;
    };
    let frame = encode_duplex_open(
        request.synapse_type(),
        request.data(),
        request.timestamp(),
        request.timeout_ms(),
    )
    .expect("what was decoded")
    .to_vec();
    assert!(frame.len() <= HEADER_LEN + data.len(), "grew");
    let (kind, again) = frame::parse(&frame, data.len()).expect("our own frame");
    assert_eq!(kind, MessageType::DuplexOpen);
    let again = Bytes::copy_from_slice(again);
    // An array of four fields is no request without chunks.
    assert!(Request::decode(again.clone()).is_err());
    assert!(Request::decode_duplex(body.slice(..body.len() - 1)).is_err());
    assert!(Request::decode_duplex([data, &[0xc0]].concat().into()).is_err());
    let again = Request::decode_duplex(again).expect("our own body");
    assert_eq!(again.synapse_type(), request.synapse_type());
    assert_eq!(again.data(), request.data());
    assert_eq!(again.timestamp(), request.timestamp());
    assert_eq!(again.timeout_ms(), request.timeout_ms());

    // A map with the fields of both is both, and says the same as either.
    if let Ok(plain) = Request::decode(body) {
        assert_eq!(plain.synapse_type(), request.synapse_type());
        assert_eq!(plain.data(), request.data());
        assert_eq!(plain.timestamp(), request.timestamp());
    }
});
