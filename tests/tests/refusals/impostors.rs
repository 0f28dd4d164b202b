//! Miners and men in the middle that the client refuses.

use base64::{Engine, prelude::BASE64_STANDARD};
use btlightning::{CallErrorKind, CallOptions, LightningClient, Payload, Phase, QuicAxonInfo};
use btlightning_proto::{
    handshake::{Distrust, Fingerprint},
    message::HandshakeResponse,
};
use lightning_keys::Keypair;
use lightning_tests::{
    CLIENT, MINER, OTHER_CLIENT, OTHER_MINER, axon, hotkey,
    raw::{ALPN_BOTH, RawClient, RawPeer, RawServer, acceptance_of, close_of},
    validator, within,
};

use crate::{refused, serve};

/// What a false miner does to an acceptance, and what the client says to it.
type Case = (&'static str, fn(&mut HandshakeResponse), Distrust);

const CASES: &[Case] = &[
    (
        "one bit of the signature",
        |r| {
            let mut signature = BASE64_STANDARD.decode(&r.signature).unwrap();
            signature[10] ^= 1;
            r.signature = BASE64_STANDARD.encode(signature);
        },
        Distrust::InvalidSignature,
    ),
    (
        "no signature",
        |r| r.signature.clear(),
        Distrust::InvalidSignature,
    ),
    (
        "another time than signed",
        |r| r.timestamp += 1,
        Distrust::InvalidSignature,
    ),
    (
        "another certificate",
        |r| {
            let other = Fingerprint::of_certificate(b"another certificate");
            r.cert_fingerprint = Some(other.to_base64());
        },
        Distrust::WrongFingerprint,
    ),
    (
        "no certificate",
        |r| r.cert_fingerprint = None,
        Distrust::NoFingerprint,
    ),
    ("a refusal", |r| r.accepted = false, Distrust::Rejected),
];

#[tokio::test]
async fn the_client_refuses_what_is_not_signed_for_it_now() {
    let key = Keypair::from_seed(&MINER);
    for (what, tamper, distrust) in CASES {
        let server = RawServer::bind(ALPN_BOTH);
        let seen = distrust_of(&server, async |peer| {
            let fingerprint = peer.fingerprint;
            peer.handshake(async |request| {
                let mut response = acceptance_of(&request, &key, fingerprint);
                tamper(&mut response);
                response
            })
            .await;
        })
        .await;
        assert_eq!(seen, *distrust, "{what}");
    }
}

#[tokio::test]
async fn the_client_refuses_another_miner() {
    let miner = serve().await;
    let client = validator(CLIENT, vec![]).await;
    let error = call(&client, &axon(&hotkey(OTHER_MINER), miner.addr())).await;
    let expected = Distrust::WrongHotkey {
        expected: hotkey(OTHER_MINER),
        actual: hotkey(MINER),
    };
    assert_eq!(error, expected);
    // The right name works at once, for another client: this one waits before it dials again.
    let client = validator(OTHER_CLIENT, vec![miner.axon()]).await;
    let answer = within(client.call_payload(
        &miner.axon(),
        "echo",
        &Payload::empty(),
        CallOptions::default(),
    ))
    .await;
    assert_eq!(answer.unwrap().data, Payload::empty());
}

/// Who owns another hotkey signs with it, under the name that was asked for.
#[tokio::test]
async fn the_client_refuses_a_signature_by_another_key() {
    let server = RawServer::bind(ALPN_BOTH);
    let seen = distrust_of(&server, async |peer| {
        let fingerprint = peer.fingerprint;
        peer.handshake(async |request| {
            let impostor = Keypair::from_seed(&OTHER_MINER);
            let mut response = acceptance_of(&request, &impostor, fingerprint);
            response.miner_hotkey = hotkey(MINER);
            response
        })
        .await;
    })
    .await;
    assert_eq!(seen, Distrust::InvalidSignature);
}

/// A man in the middle passes the client's handshake on to the real miner.
#[tokio::test]
async fn a_relayed_handshake_is_refused_by_the_miner() {
    let miner = serve().await;
    let middle = RawServer::bind(ALPN_BOTH);
    let to_miner = within(RawClient::connect(miner.addr())).await;
    let seen = distrust_of(&middle, async |peer| {
        peer.handshake(async |request| to_miner.send_handshake(&request).await)
            .await;
    })
    .await;
    assert_eq!(seen, Distrust::Rejected);
    // The client signed for the certificate of the man in the middle.
    assert_eq!(refused(&miner, "invalid_signature"), 1);
    assert_eq!(miner.server().stats().handshakes, 0);
}

/// A man in the middle who has a hotkey of his own passes the miner's answer to it on.
#[tokio::test]
async fn a_relayed_acceptance_is_refused_by_the_client() {
    let miner = serve().await;
    let own_key = Keypair::from_seed(&OTHER_CLIENT);
    for (what, patch, distrust) in [
        ("as it is", false, Distrust::WrongFingerprint),
        (
            "renamed to his certificate",
            true,
            Distrust::InvalidSignature,
        ),
    ] {
        let middle = RawServer::bind(ALPN_BOTH);
        let to_miner = within(RawClient::connect(miner.addr())).await;
        let seen = distrust_of(&middle, async |peer| {
            let fingerprint = peer.fingerprint;
            peer.handshake(async |_| {
                let mut response = to_miner.authenticate(&own_key).await;
                if patch {
                    response.cert_fingerprint = Some(fingerprint.to_base64());
                }
                response
            })
            .await;
        })
        .await;
        assert_eq!(seen, distrust, "{what}");
    }
}

/// Has a client call a false [`MINER`] and returns why the client did not trust it.
async fn distrust_of(server: &RawServer, answer: impl AsyncFnOnce(&RawPeer)) -> Distrust {
    let client = validator(CLIENT, vec![]).await;
    let target = axon(&hotkey(MINER), server.addr());
    let serve = async {
        let peer = server.accept().await;
        answer(&peer).await;
        let reason = peer.connection.closed().await;
        assert_eq!(close_of(&reason).0, "no_authenticated_hotkeys");
    };
    let (distrust, ()) = within(async { tokio::join!(call(&client, &target), serve) }).await;
    assert!(client.stats().connections.is_empty());
    assert!(client.authenticated_hotkeys().await.is_empty());
    distrust
}

async fn call(client: &LightningClient, target: &QuicAxonInfo) -> Distrust {
    let error =
        within(client.call_payload(target, "echo", &Payload::empty(), CallOptions::default()))
            .await
            .unwrap_err();
    assert_eq!(error.phase(), Phase::Handshake);
    assert!(error.is_retry_safe());
    assert_eq!(error.hotkey(), target.hotkey);
    match error.kind() {
        CallErrorKind::Distrust(distrust) => distrust.clone(),
        other => panic!("expected distrust, got {other:?}"),
    }
}
