//! A piece of a stream and its end: both decoders read every input, and what they take comes back
//! as it was.

#![no_main]

use btlightning_proto::frame::{self, HEADER_LEN, MessageType};
use btlightning_proto::message::{
    decode_chunk, decode_stream_end, encode_chunk, encode_stream_end,
};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let body = Bytes::copy_from_slice(data);
    if let Ok(chunk) = decode_chunk(&body) {
        assert!(
            chunk.is_empty() || body.as_ptr_range().contains(&chunk.as_ptr()),
            "a copy"
        );
        let frame = encode_chunk(&chunk).expect("what was decoded").to_vec();
        assert!(frame.len() <= HEADER_LEN + data.len(), "grew");
        let (kind, again) = frame::parse(&frame, data.len()).expect("our own frame");
        assert_eq!(kind, MessageType::StreamChunk);
        let again = Bytes::copy_from_slice(again);
        assert_eq!(decode_chunk(&again), Ok(chunk));
        assert!(decode_chunk(&body.slice(..body.len() - 1)).is_err());
        assert!(decode_chunk(&[data, &[0xc0]].concat().into()).is_err());
        assert!(decode_stream_end(&again).is_err(), "a chunk is no end");
    }
    if let Ok(end) = decode_stream_end(data) {
        let frame = encode_stream_end(&end).expect("what was decoded").to_vec();
        assert!(frame.len() <= HEADER_LEN + data.len(), "grew");
        let (kind, again) = frame::parse(&frame, data.len()).expect("our own frame");
        assert_eq!(kind, MessageType::StreamEnd);
        assert_eq!(decode_stream_end(again).as_ref(), Ok(&end));
        assert!(decode_stream_end(&data[..data.len() - 1]).is_err());
        assert!(decode_stream_end(&[data, &[0xc0]].concat()).is_err());
        assert!(
            decode_chunk(&Bytes::copy_from_slice(again)).is_err(),
            "an end is no chunk"
        );
    }
});
