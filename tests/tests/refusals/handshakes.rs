//! Handshakes that the server refuses.

use base64::{Engine, prelude::BASE64_STANDARD};
use btlightning::util::unix_timestamp_secs;
use btlightning_proto::{
    frame::{HEADER_LEN, MessageType},
    handshake::Fingerprint,
    message::{self, HandshakeRequest, HandshakeResponse},
};
use lightning_keys::Keypair;
use lightning_tests::{
    CLIENT, OTHER_CLIENT, hotkey,
    raw::{Answer, RawClient, honest_frame, signed_handshake},
    within,
};

use crate::{assert_serves, client_key, hello, refused, serve};

/// A way to break a handshake, the reason for which the server refuses it, and how it is made.
type Case = (
    &'static str,
    &'static str,
    fn(&RawClient) -> HandshakeRequest,
);

const CASES: &[Case] = &[
    ("one bit of the signature", "invalid_signature", |peer| {
        let mut request = peer.handshake(&client_key());
        let mut signature = BASE64_STANDARD.decode(&request.signature).unwrap();
        signature[10] ^= 1;
        request.signature = BASE64_STANDARD.encode(signature);
        request
    }),
    ("another key's signature", "invalid_signature", |peer| {
        let key = Keypair::from_seed(&OTHER_CLIENT);
        let now = unix_timestamp_secs();
        signed_handshake(&key, &hotkey(CLIENT), now, peer.fingerprint)
    }),
    ("no signature", "invalid_signature", |peer| {
        let mut request = peer.handshake(&client_key());
        request.signature.clear();
        request
    }),
    ("a signature of 63 bytes", "invalid_signature", |peer| {
        let mut request = peer.handshake(&client_key());
        request.signature = BASE64_STANDARD.encode([7; 63]);
        request
    }),
    (
        "a signature that is not base64",
        "invalid_signature",
        |peer| {
            let mut request = peer.handshake(&client_key());
            request.signature = "*".repeat(88);
            request
        },
    ),
    ("another certificate", "invalid_signature", |_| {
        let elsewhere = Fingerprint::of_certificate(b"another server's certificate");
        let now = unix_timestamp_secs();
        signed_handshake(&client_key(), &hotkey(CLIENT), now, elsewhere)
    }),
    ("another time than signed", "invalid_signature", |peer| {
        let mut request = peer.handshake(&client_key());
        request.timestamp -= 1;
        request
    }),
    ("another nonce than signed", "invalid_signature", |peer| {
        let mut request = peer.handshake(&client_key());
        request.nonce = "0".repeat(32);
        request
    }),
    ("another hotkey than signed", "invalid_signature", |peer| {
        let mut request = peer.handshake(&client_key());
        request.validator_hotkey = hotkey(OTHER_CLIENT);
        request
    }),
    ("a stale timestamp", "too_old", |peer| {
        peer.handshake_at(&client_key(), unix_timestamp_secs() - 300)
    }),
    ("the beginning of time", "too_old", |peer| {
        peer.handshake_at(&client_key(), 0)
    }),
    ("a timestamp in the future", "from_future", |peer| {
        peer.handshake_at(&client_key(), unix_timestamp_secs() + 120)
    }),
    ("the end of time", "from_future", |peer| {
        peer.handshake_at(&client_key(), u64::MAX)
    }),
    ("a short nonce", "nonce_shape", |peer| {
        let mut request = peer.handshake(&client_key());
        request.nonce.pop();
        request
    }),
    ("a nonce that is not hex", "nonce_shape", |peer| {
        let mut request = peer.handshake(&client_key());
        request.nonce = "+".repeat(32);
        request
    }),
    ("a hotkey that is none", "invalid_hotkey", |peer| {
        let now = unix_timestamp_secs();
        signed_handshake(&client_key(), "5NotAHotkey", now, peer.fingerprint)
    }),
    (
        "the same key on another network",
        "invalid_hotkey",
        |peer| {
            // A well-known test key, whose addresses on every network are published.
            let alice = Keypair::from_seed(&ALICE);
            assert_eq!(alice.hotkey(), ALICE_HERE);
            let now = unix_timestamp_secs();
            signed_handshake(&alice, ALICE_ON_POLKADOT, now, peer.fingerprint)
        },
    ),
];

#[tokio::test]
async fn the_server_refuses_what_is_not_signed_for_it_now() {
    let miner = serve().await;
    let in_all = || -> u64 {
        let stats = miner.server().stats();
        stats.handshakes_refused.iter().map(|(_, n)| n).sum()
    };
    for (what, reason, make) in CASES {
        let peer = within(RawClient::connect(miner.addr())).await;
        let before = (refused(&miner, reason), in_all());
        let accepted = miner.server().stats().handshakes;

        let response = within(peer.send_handshake(&make(&peer))).await;
        assert_refusal(&response, what);
        // To a stranger the server does not even say whose it is.
        assert_eq!(response.miner_hotkey, "", "{what}");
        let after = (refused(&miner, reason), in_all());
        assert_eq!(
            after,
            (before.0 + 1, before.1 + 1),
            "{what} counts as {reason}"
        );
        assert_eq!(miner.server().stats().handshakes, accepted, "{what}");

        let answer = within(peer.request("echo", &hello())).await;
        assert_eq!(
            answer.error.as_deref(),
            Some("authentication failed"),
            "{what}"
        );
        // Whoever made a mistake may correct it.
        within(peer.authenticate(&client_key())).await;
        assert_serves(&peer, what).await;
    }
}

#[tokio::test]
async fn the_server_refuses_what_is_no_handshake() {
    let miner = serve().await;
    let good = |peer: &RawClient| {
        let request = peer.handshake(&client_key());
        let frame = message::encode_handshake_request(&request).unwrap();
        frame.to_vec()[HEADER_LEN..].to_vec()
    };
    type Make<'a> = Box<dyn Fn(&RawClient) -> Vec<u8> + 'a>;
    let cases: Vec<(&str, Make)> = vec![
        ("nothing", Box::new(|_| vec![])),
        ("a byte that begins no value", Box::new(|_| vec![0xc1; 40])),
        ("nil", Box::new(|_| vec![0xc0])),
        ("too few fields", Box::new(|_| vec![0x91, 0xa0])),
        (
            "text of 4 GiB",
            Box::new(|_| vec![0x94, 0xdb, 0xff, 0xff, 0xff, 0xff, b'5']),
        ),
        ("4000 levels", Box::new(|_| vec![0x91; 4000])),
        (
            "a byte behind it",
            Box::new(|peer| [good(peer), vec![0]].concat()),
        ),
        (
            "a byte too few",
            Box::new(|peer| {
                let mut bytes = good(peer);
                bytes.pop();
                bytes
            }),
        ),
    ];
    for (count, (what, make)) in (1..).zip(cases) {
        let peer = within(RawClient::connect(miner.addr())).await;
        let bytes = honest_frame(MessageType::HandshakeRequest, &make(&peer));
        let answer = within(peer.exchange(&bytes)).await;
        let Answer::Frame(MessageType::HandshakeResponse, payload) = answer else {
            panic!("{what}: {answer:?}")
        };
        let response = message::decode_handshake_response(&payload).unwrap();
        assert_refusal(&response, what);
        assert_eq!(refused(&miner, "malformed"), count, "{what}");
        within(peer.authenticate(&client_key())).await;
        assert_serves(&peer, what).await;
    }
}

#[tokio::test]
async fn a_nonce_is_good_for_one_handshake_on_one_connection() {
    let miner = serve().await;
    let first = within(RawClient::connect(miner.addr())).await;
    let request = first.handshake(&client_key());
    assert!(within(first.send_handshake(&request)).await.accepted);

    let again = within(first.send_handshake(&request)).await;
    assert_refusal(&again, "the same connection");
    // Anybody can repeat what somebody else has signed: to the server this is a stranger.
    assert_eq!(again.miner_hotkey, "");

    // The certificate is the same for the server's whole life, so the signature fits here too.
    let second = within(RawClient::connect(miner.addr())).await;
    let elsewhere = within(second.send_handshake(&request)).await;
    assert_refusal(&elsewhere, "another connection");
    assert_eq!(refused(&miner, "replayed"), 2);
    let answer = within(second.request("echo", &hello())).await;
    assert_eq!(answer.error.as_deref(), Some("authentication failed"));

    // The victim is not disturbed.
    assert_serves(&first, "replays").await;
    assert_eq!(miner.server().stats().handshakes, 1);
}

/// What was signed for the certificate of the server's former life is worth nothing.
#[tokio::test]
async fn a_restarted_server_refuses_handshakes_of_its_former_life() {
    let miner = serve().await;
    let peer = within(RawClient::connect(miner.addr())).await;
    let request = peer.handshake(&client_key());
    assert!(within(peer.send_handshake(&request)).await.accepted);
    miner.stop().await;

    let successor = serve().await;
    let peer = within(RawClient::connect(successor.addr())).await;
    assert!(!within(peer.send_handshake(&request)).await.accepted);
    assert_eq!(refused(&successor, "invalid_signature"), 1);
}

fn assert_refusal(response: &HandshakeResponse, what: &str) {
    assert!(!response.accepted, "{what}");
    assert_eq!(response.signature, "", "{what}");
    assert_eq!(response.connection_id, "", "{what}");
    assert_eq!(response.cert_fingerprint, None, "{what}");
}

const ALICE: [u8; 32] = [
    0xe5, 0xbe, 0x9a, 0x50, 0x92, 0xb8, 0x1b, 0xca, 0x64, 0xbe, 0x81, 0xd2, 0x12, 0xe7, 0xf2, 0xf9,
    0xeb, 0xa1, 0x83, 0xbb, 0x7a, 0x90, 0x95, 0x4f, 0x7b, 0x76, 0x36, 0x1f, 0x6e, 0xdb, 0x5c, 0x0a,
];
const ALICE_HERE: &str = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY";
const ALICE_ON_POLKADOT: &str = "15oF4uVJwmo4TdGW7VfQxNLavjCXviqxT9S1MgbjMNHr6Sp5";
