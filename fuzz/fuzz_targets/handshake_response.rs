//! The answer to a handshake: what decodes comes back as it was, and a client trusts only the one
//! answer that the miner signed.

#![no_main]

use btlightning_proto::frame::{self, HEADER_LEN, MessageType};
use btlightning_proto::handshake::{ClientHandshake, Fingerprint};
use btlightning_proto::message::{decode_handshake_response, encode_handshake_response};
use btlightning_proto::nonce::Nonce;
use libfuzzer_sys::fuzz_target;

/// The parties of the published vectors, one of which is a seed.
const VALIDATOR: &str = "5CfCr47V5Dte6bwxNBE8K9oNnQd9fiay6aDEEkgYtFv7w4Fq";
const MINER: &str = "5CcyqxXnJucaCnQQvvUg5EPzj1uoNAxACZvzArHw5aVDvgNH";
const SIGNED_AT: u64 = 1_700_000_001;

fuzz_target!(|data: &[u8]| {
    let Ok(response) = decode_handshake_response(data) else {
        return;
    };
    let frame = encode_handshake_response(&response)
        .expect("what was decoded")
        .to_vec();
    // The fingerprint may be left out, and is then written as nil.
    assert!(frame.len() <= HEADER_LEN + data.len() + 1, "grew");
    let (kind, body) = frame::parse(&frame, data.len() + 1).expect("our own frame");
    assert_eq!(kind, MessageType::HandshakeResponse);
    assert_eq!(decode_handshake_response(body).as_ref(), Ok(&response));
    assert!(decode_handshake_response(&data[..data.len() - 1]).is_err());
    assert!(decode_handshake_response(&[data, &[0xc0]].concat()).is_err());

    let certificate = Fingerprint::of_certificate(b"example certificate DER bytes");
    let nonce = Nonce::from_bytes([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
    let client = ClientHandshake::new(VALIDATOR, 1_700_000_000, nonce, certificate);
    if client.check(&response, MINER).is_ok() {
        assert!(response.accepted);
        assert_eq!(response.miner_hotkey, MINER);
        assert_eq!(response.timestamp, SIGNED_AT);
        assert_eq!(response.cert_fingerprint, Some(certificate.to_base64()));
    }
});
