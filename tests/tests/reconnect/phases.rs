//! For each way a call can fail: which phase it names, and whether it may be made again.

use std::{sync::Arc, time::Duration};

use btlightning::{
    CallError, CallErrorKind, CallOptions, CallbackSigner, LightningClient, LightningClientConfig,
    LightningError, Payload, Phase, QuicAxonInfo, Sr25519Signer,
};
use btlightning_proto::{
    frame::MessageType,
    handshake::Distrust,
    message::{self, HandshakeResponse, Response, StreamEnd},
};
use bytes::Bytes;
use lightning_keys::Keypair;
use lightning_tests::{
    CLIENT, MINER, axon, hotkey, payload,
    raw::{ALPN_OLD, RawPeer, RawServer, frame},
    validator, validator_with, within,
};

use super::{Silence, ask, hasty, serve};

/// What a failed call says of itself, and what the older error type makes of it.
#[derive(Debug, PartialEq)]
struct Verdict {
    phase: Phase,
    retry_safe: bool,
    old: &'static str,
}

fn verdict(error: &CallError) -> Verdict {
    Verdict {
        phase: error.phase(),
        retry_safe: error.is_retry_safe(),
        old: match error.clone().into() {
            LightningError::Connection(_) => "connection",
            LightningError::Handshake(_) => "handshake",
            LightningError::Signing(_) => "signing",
            LightningError::Serialization(_) => "serialization",
            LightningError::Transport(_) => "transport",
            LightningError::Handler(_) => "handler",
            LightningError::Config(_) => "config",
            LightningError::Stream(_) => "stream",
        },
    }
}

const DIAL: Verdict = Verdict {
    phase: Phase::Dial,
    retry_safe: true,
    old: "connection",
};
const HANDSHAKE: Verdict = Verdict {
    phase: Phase::Handshake,
    retry_safe: true,
    old: "handshake",
};
const SEND: Verdict = Verdict {
    phase: Phase::Send,
    retry_safe: true,
    old: "transport",
};
const WAIT: Verdict = Verdict {
    phase: Phase::Wait,
    retry_safe: false,
    old: "transport",
};

/// Somewhere that nobody listens.
fn nowhere() -> QuicAxonInfo {
    QuicAxonInfo::new(hotkey(MINER), "127.0.0.1".into(), 9, 4)
}

#[tokio::test]
async fn before_there_is_a_connection() {
    let mut client = LightningClient::new(hotkey(CLIENT));
    let error = ask(&client, &nowhere(), 10).await.unwrap_err();
    assert_eq!(verdict(&error), DIAL);
    assert!(matches!(error.kind(), CallErrorKind::NotInitialized));

    within(client.create_endpoint()).await.unwrap();
    let error = ask(&client, &nowhere(), 10).await.unwrap_err();
    let signing = Verdict {
        old: "signing",
        ..DIAL
    };
    assert_eq!(verdict(&error), signing);
    assert!(matches!(error.kind(), CallErrorKind::Signing(_)));

    client.set_signer(Box::new(Sr25519Signer::from_seed(CLIENT)));
    for ip in ["miner.example", "", "127.0.0.1.1", "[::1"] {
        let target = QuicAxonInfo::new(hotkey(MINER), ip.into(), 9, 4);
        let error = ask(&client, &target, 10).await.unwrap_err();
        assert_eq!(verdict(&error), DIAL, "{ip}");
        assert!(
            matches!(error.kind(), CallErrorKind::InvalidAddress(addr) if addr.contains(ip)),
            "{error}"
        );
    }

    let silence = Silence::bind().await;
    let client = super::client_of(hasty()).await;
    let error = ask(&client, &silence.axon(), 10).await.unwrap_err();
    assert_eq!(verdict(&error), DIAL);
    assert!(error.is_timeout());
    let error = ask(&client, &silence.axon(), 10).await.unwrap_err();
    assert_eq!(verdict(&error), DIAL);
    assert!(matches!(error.kind(), CallErrorKind::Backoff { .. }));

    let stranger = RawServer::bind(&[b"another protocol"]);
    let client = validator(CLIENT, vec![]).await;
    let target = axon(&hotkey(MINER), stranger.addr());
    let accepting = tokio::spawn(async move {
        // Fails for want of a common protocol.
        let _ = stranger.accept_any().await;
    });
    let error = ask(&client, &target, 10).await.unwrap_err();
    assert_eq!(verdict(&error), DIAL);
    assert!(matches!(error.kind(), CallErrorKind::Lost(_)), "{error}");
    accepting.abort();
}

#[tokio::test]
async fn while_the_two_sides_authenticate() {
    let config = LightningClientConfig::builder().connect_timeout(Duration::from_secs(2));
    let config = config.build().unwrap();
    let target = |server: &RawServer| axon(&hotkey(MINER), server.addr());

    // Nobody answers the handshake.
    let server = RawServer::bind(ALPN_OLD);
    let client = validator_with(CLIENT, config.clone(), vec![]).await;
    let target_axon = target(&server);
    let (error, _peer) = tokio::join!(ask(&client, &target_axon, 10), within(server.accept()));
    let error = error.unwrap_err();
    assert_eq!(verdict(&error), HANDSHAKE);
    assert!(error.is_timeout(), "{error}");

    // The miner refuses.
    let error = fail_at(async |peer| {
        peer.handshake(async |_| HandshakeResponse::rejected("", 0))
            .await;
    })
    .await;
    assert_eq!(verdict(&error), HANDSHAKE);
    assert!(matches!(
        error.kind(),
        CallErrorKind::Distrust(Distrust::Rejected)
    ));

    // The miner hangs up.
    let error = fail_at(async |peer| {
        peer.next_frame().await;
        lightning_quic::close(&peer.connection, 5u32.into(), b"bye");
    })
    .await;
    assert_eq!(verdict(&error), HANDSHAKE);
    assert!(matches!(error.kind(), CallErrorKind::Lost(_)), "{error}");

    // The miner answers with something else.
    for bytes in [
        Response::failure("no", 0).encode().unwrap().to_vec(),
        frame(MessageType::HandshakeResponse as u8, 1, &[0xc1]),
        frame(MessageType::HandshakeResponse as u8, 100_000, &[]),
        frame(99, 0, &[]),
        vec![],
    ] {
        let error = fail_at(async |peer| {
            let (mut send, ..) = peer.next_frame().await;
            send.write_all(&bytes).await.unwrap();
            send.finish().unwrap();
            peer.connection.closed().await;
        })
        .await;
        assert_eq!(error.phase(), Phase::Handshake, "{bytes:?}: {error}");
        assert!(error.is_retry_safe(), "{bytes:?}: {error}");
    }

    // The validator's own key fails.
    let miner = serve().await;
    let mut client = LightningClient::new(hotkey(CLIENT));
    client.set_signer(Box::new(CallbackSigner::new(|_| {
        Err(LightningError::Signing("the key is locked".into()))
    })));
    within(client.create_endpoint()).await.unwrap();
    let error = ask(&client, &miner.axon(), 10).await.unwrap_err();
    let signing = Verdict {
        old: "signing",
        ..HANDSHAKE
    };
    assert_eq!(verdict(&error), signing);
    assert!(error.to_string().contains("the key is locked"), "{error}");
}

/// Has a client call a miner that behaves like this, and returns how the call failed.
async fn fail_at(behave: impl AsyncFnOnce(&RawPeer)) -> CallError {
    let server = RawServer::bind(ALPN_OLD);
    let client = validator(CLIENT, vec![]).await;
    let target = axon(&hotkey(MINER), server.addr());
    let serving = async {
        let peer = server.accept().await;
        behave(&peer).await;
        // Kept until the call has failed: a dropped connection is a failure of its own.
        peer
    };
    let (result, _peer) = tokio::join!(ask(&client, &target, 10), within(serving));
    result.unwrap_err()
}

#[tokio::test]
async fn while_the_request_is_sent() {
    let miner = serve().await;
    let config = LightningClientConfig::builder()
        .max_frame_payload_bytes(1024 * 1024)
        .build()
        .unwrap();
    let client = validator_with(CLIENT, config, vec![miner.axon()]).await;
    let error = ask(&client, &miner.axon(), 1024 * 1024).await.unwrap_err();
    let encode = Verdict {
        old: "serialization",
        ..SEND
    };
    assert_eq!(verdict(&error), encode);
    assert!(matches!(error.kind(), CallErrorKind::Encode(_)), "{error}");
    assert!(
        error.to_string().contains("exceeds maximum 1048576"),
        "{error}"
    );
    ask(&client, &miner.axon(), 10).await.unwrap();
    assert_eq!(miner.server().stats().handshakes, 1);

    // The miner hangs up in the middle, and again when the request is sent anew.
    let (result, _) = ask_who_hangs_up(2).await;
    let error = result.unwrap_err();
    assert_eq!(verdict(&error), SEND);
    assert!(matches!(error.kind(), CallErrorKind::Lost(_)), "{error}");
}

/// What was not sent whole has reached no handler, so the client itself may send it again.
#[tokio::test]
async fn a_request_is_sent_once_more_on_a_new_connection() {
    let (result, client) = ask_who_hangs_up(1).await;
    result.unwrap();
    assert_eq!(client.stats().connections.len(), 1);
}

/// Sends a large request to a miner that hangs up this many times before it answers.
async fn ask_who_hangs_up(times: usize) -> (Result<(), CallError>, LightningClient) {
    let server = RawServer::bind(ALPN_OLD);
    let client = validator(CLIENT, vec![]).await;
    let target = axon(&hotkey(MINER), server.addr());
    let serving = async {
        for _ in 0..times {
            let peer = server.accept().await;
            peer.authenticate(&Keypair::from_seed(&MINER)).await;
            let (_send, mut recv) = peer.connection.accept_bi().await.unwrap();
            recv.read_exact(&mut [0; 1000]).await.unwrap();
            lightning_quic::close(&peer.connection, 5u32.into(), b"bye");
        }
        let peer = server.accept().await;
        peer.authenticate(&Keypair::from_seed(&MINER)).await;
        super::echo_one(&peer).await;
        peer.connection.closed().await
    };
    let result = tokio::select! {
        result = ask(&client, &target, 50_000_000) => result,
        reason = within(serving) => panic!("the client hung up: {reason}"),
    };
    (result, client)
}

/// What a miner answers in place of an answer.
#[tokio::test]
async fn while_the_handler_may_run() {
    let server = Arc::new(RawServer::bind(ALPN_OLD));
    let target = axon(&hotkey(MINER), server.addr());
    let cases: Vec<(&str, Vec<u8>, Verdict)> = vec![
        ("nothing", vec![], WAIT),
        ("half a header", vec![4, 0], WAIT),
        (
            "half an answer",
            frame(MessageType::SynapseResponse as u8, 100, &[0x94]),
            WAIT,
        ),
        (
            "garbage",
            frame(MessageType::SynapseResponse as u8, 2, &[0xc1, 0xc1]),
            Verdict {
                old: "serialization",
                ..WAIT
            },
        ),
        (
            "more than the client takes",
            frame(MessageType::SynapseResponse as u8, u32::MAX, &[]),
            Verdict {
                old: "serialization",
                ..WAIT
            },
        ),
        (
            "a type that does not exist",
            frame(99, 0, &[]),
            Verdict {
                old: "serialization",
                ..WAIT
            },
        ),
        (
            "a handshake",
            frame(MessageType::HandshakeResponse as u8, 0, &[]),
            WAIT,
        ),
        (
            "a chunk",
            message::encode_chunk(&Bytes::from_static(b"x"))
                .unwrap()
                .to_vec(),
            WAIT,
        ),
        (
            "the end of a stream",
            message::encode_stream_end(&StreamEnd::ok())
                .unwrap()
                .to_vec(),
            WAIT,
        ),
        (
            "that the handler failed",
            failure("request processing failed"),
            Verdict {
                old: "handler",
                ..WAIT
            },
        ),
        (
            "that the handler took too long",
            failure("handler timed out"),
            Verdict {
                old: "handler",
                ..WAIT
            },
        ),
        (
            "that it knows no such type",
            failure("unrecognized synapse type"),
            REFUSED,
        ),
        (
            "that it is stopping",
            failure("server shutting down"),
            REFUSED,
        ),
        (
            "that it knows nobody",
            failure("authentication failed"),
            REFUSED,
        ),
        (
            "that the request is bad",
            failure("invalid request format"),
            REFUSED,
        ),
    ];
    let answers: Vec<_> = cases.iter().map(|(_, bytes, _)| bytes.clone()).collect();
    let serving = tokio::spawn(async move {
        let peer = server.accept().await;
        peer.authenticate(&Keypair::from_seed(&MINER)).await;
        for answer in answers {
            let (mut send, ..) = peer.next_frame().await;
            send.write_all(&answer).await.unwrap();
            send.finish().unwrap();
        }
        // A stream that is reset, a good answer, a connection that is lost.
        let (mut send, ..) = peer.next_frame().await;
        send.reset(7u32.into()).unwrap();
        super::echo_one(&peer).await;
        peer.next_frame().await;
        lightning_quic::close(&peer.connection, 5u32.into(), b"bye");
    });
    let client = validator(CLIENT, vec![target.clone()]).await;
    for (what, _, expected) in cases {
        let error = ask(&client, &target, 10).await.unwrap_err();
        assert_eq!(verdict(&error), expected, "{what}: {error}");
        assert_eq!(error.addr(), target.addr_key().as_ref());
        assert_eq!(error.hotkey(), target.hotkey);
    }
    let error = ask(&client, &target, 10).await.unwrap_err();
    assert_eq!(verdict(&error), WAIT);
    assert!(matches!(error.kind(), CallErrorKind::Reset(7)), "{error}");
    // None of it cost the connection.
    ask(&client, &target, 10).await.unwrap();
    let error = ask(&client, &target, 10).await.unwrap_err();
    assert_eq!(verdict(&error), WAIT);
    assert!(matches!(error.kind(), CallErrorKind::Lost(_)), "{error}");
    within(serving).await.unwrap();
}

/// The server's word that no handler was asked.
const REFUSED: Verdict = Verdict {
    phase: Phase::Wait,
    retry_safe: true,
    old: "handler",
};

fn failure(text: &str) -> Vec<u8> {
    Response::failure(text, 0).encode().unwrap().to_vec()
}

/// A value that is not a map cannot be sent, and an answer may not fit the type asked for.
#[tokio::test]
async fn values_that_do_not_fit() {
    let miner = serve().await;
    let client = validator(CLIENT, vec![miner.axon()]).await;
    let target = miner.axon();
    let options = CallOptions::default();
    let call = client.call::<_, Vec<u8>>(&target, "echo", "a text", options);
    let error = within(call).await.unwrap_err();
    let encode = Verdict {
        old: "serialization",
        ..SEND
    };
    assert_eq!(verdict(&error), encode);
    assert_eq!(miner.server().stats().requests, 0);

    let data = payload(vec![7; 10]);
    let call =
        client.call::<_, std::collections::BTreeMap<String, u64>>(&target, "echo", &data, options);
    let error = within(call).await.unwrap_err();
    let decode = Verdict {
        old: "serialization",
        ..WAIT
    };
    assert_eq!(verdict(&error), decode);
    let data = Payload::empty();
    within(client.call_payload(&target, "echo", &data, options))
        .await
        .unwrap();
}
