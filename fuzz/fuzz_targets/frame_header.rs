//! The frame header: what is accepted encodes to the same bytes, and no length is believed beyond
//! the limit or beyond what is there.

#![no_main]

use btlightning_proto::ProtoError;
use btlightning_proto::frame::{self, FrameHeader, HEADER_LEN};
use libfuzzer_sys::fuzz_target;

/// Small: libFuzzer lengthens its inputs slowly, and reaches 256 bytes at once but not 4,096 in a
/// minute.
const MAX_PAYLOAD: usize = 256;

fuzz_target!(|data: &[u8]| {
    match frame::parse(data, MAX_PAYLOAD) {
        Ok((kind, payload)) => {
            assert!(payload.len() <= MAX_PAYLOAD);
            let header = FrameHeader {
                kind,
                len: payload.len(),
            };
            let frame = [&header.encode().expect("a length below the limit"), payload].concat();
            assert!(data.starts_with(&frame));

            let cut = &frame[..frame.len() - 1];
            assert!(matches!(
                frame::parse(cut, MAX_PAYLOAD),
                Err(ProtoError::Truncated { .. })
            ));
        }
        Err(ProtoError::Truncated { have, need, .. }) => {
            assert!(have < need && need <= MAX_PAYLOAD as u64);
            assert!(have == data.len() as u64 || have == (data.len() - HEADER_LEN) as u64);
        }
        Err(ProtoError::FrameTooLarge { len, max }) => {
            assert!(len > max && max == MAX_PAYLOAD as u64);
        }
        Err(error) => assert_eq!(error, ProtoError::UnknownType(data[0])),
    }
});
