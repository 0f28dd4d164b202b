//! The first bytes of a peer that nobody knows yet: what decodes comes back as it was, nothing
//! grows, and the checks behind the decoder hold for every clock.

#![no_main]

use btlightning_proto::frame::{self, HEADER_LEN, MessageType};
use btlightning_proto::handshake::{Fingerprint, Refusal, Unverified};
use btlightning_proto::limits::{MAX_FUTURE_SKEW_SECS, MAX_HANDSHAKE_PAYLOAD, NONCE_HEX_LEN};
use btlightning_proto::message::{
    HandshakeRequest, decode_handshake_request, encode_handshake_request,
};
use libfuzzer_sys::fuzz_target;

const MAX_AGE: u64 = 300;
/// The one request that is signed: the seed from the published vectors.
const SIGNED_AT: u64 = 1_700_000_000;
const SIGNED_NONCE: &str = "000102030405060708090a0b0c0d0e0f";

fuzz_target!(|data: &[u8]| {
    let Ok(request) = decode_handshake_request(data) else {
        return;
    };
    let frame = encode_handshake_request(&request)
        .expect("what was decoded")
        .to_vec();
    assert!(frame.len() <= HEADER_LEN + data.len(), "grew");
    let (kind, body) = frame::parse(&frame, data.len()).expect("our own frame");
    assert_eq!(kind, MessageType::HandshakeRequest);
    assert_eq!(decode_handshake_request(body).as_ref(), Ok(&request));
    assert!(decode_handshake_request(&data[..data.len() - 1]).is_err());
    assert!(decode_handshake_request(&[data, &[0xc0]].concat()).is_err());

    if data.len() <= MAX_HANDSHAKE_PAYLOAD {
        let at = request.timestamp;
        for now in [
            0,
            at,
            at.saturating_add(MAX_AGE),
            at.saturating_sub(61),
            u64::MAX,
        ] {
            check(&request, now);
        }
    }
});

fn check(request: &HandshakeRequest, now: u64) {
    let certificate = Fingerprint::of_certificate(b"example certificate DER bytes");
    let at = request.timestamp;
    match Unverified::check(request, certificate, now, MAX_AGE) {
        Ok(unverified) => {
            assert!(now.saturating_sub(at) < MAX_AGE);
            assert!(at.saturating_sub(now) <= MAX_FUTURE_SKEW_SECS);
            assert_eq!(request.nonce.len(), NONCE_HEX_LEN);
            if let Ok((nonce, timestamp)) = unverified.verify() {
                assert_eq!(
                    (nonce.to_hex().as_str(), timestamp),
                    (SIGNED_NONCE, SIGNED_AT)
                );
            }
        }
        Err(Refusal::TooOld { age_secs, .. }) => {
            assert!(age_secs >= MAX_AGE && at + age_secs == now);
        }
        Err(Refusal::FromFuture { ahead_secs }) => {
            assert!(ahead_secs > MAX_FUTURE_SKEW_SECS && now + ahead_secs == at);
        }
        Err(refusal) => assert!(
            matches!(
                refusal,
                Refusal::NonceShape | Refusal::InvalidSignature | Refusal::InvalidHotkey
            ),
            "{refusal:?}"
        ),
    }
}
