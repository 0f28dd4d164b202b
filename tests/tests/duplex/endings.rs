//! How calls end: early, badly, too late.

use std::{collections::HashMap, time::Duration};

use btlightning::{CallErrorKind, CallOptions, LightningError, Phase, QuicRequest};
use btlightning_proto::{
    frame::MessageType,
    message::{self, Response, StreamEnd},
};
use bytes::Bytes;
use lightning_keys::Keypair;
use lightning_tests::{
    CLIENT,
    raw::{Answer, RawClient, frame, read_answer},
    until, within,
};

use crate::{MIB, config, fixture, question, text};

#[tokio::test]
async fn a_miner_may_reply_before_it_has_heard_all() {
    let f = fixture(config()).await;
    // Long after: all that is sent goes nowhere.
    let mut call = f.open("reply-early").await;
    assert_eq!(within(call.next_chunk()).await.unwrap().unwrap(), "enough");
    assert_eq!(within(call.next_chunk()).await.unwrap(), None);
    let refused = async {
        loop {
            if let Err(error) = call.send(vec![7; MIB]).await {
                break error;
            }
        }
    };
    let error = within(refused).await;
    assert_eq!(error.phase(), Phase::Wait);
    assert!(matches!(error.kind(), CallErrorKind::Reset(_)), "{error}");
    within(call.finish()).await.unwrap();
    assert_eq!(within(call.reply()).await.unwrap().data, question());

    // In the middle of it, on two tasks.
    let (mut sender, receiver) = f.open("reply-early").await.split();
    let send = async { while within(sender.send(vec![7; MIB])).await.is_ok() {} };
    let (reply, ()) = tokio::join!(within(receiver.reply()), send);
    assert_eq!(reply.unwrap().data, question());
    f.assert_serves().await;
}

#[tokio::test]
async fn a_handler_that_fails_says_so_behind_its_chunks() {
    let f = fixture(config()).await;
    for behaviour in ["fail-late", "panic-late"] {
        let mut call = f.open(behaviour).await;
        assert_eq!(within(call.next_chunk()).await.unwrap().unwrap(), "one");
        assert_eq!(within(call.next_chunk()).await.unwrap().unwrap(), "two");
        assert_eq!(within(call.next_chunk()).await.unwrap(), None);
        let error = within(call.reply()).await.unwrap_err();
        assert!(
            matches!(error.kind(), CallErrorKind::Remote(text) if text == "stream processing failed"),
            "{error}"
        );
        assert!(!error.is_retry_safe());

        // The same as a plain stream.
        let request = QuicRequest::new(behaviour.into(), HashMap::new());
        let mut stream = within(f.client.query_axon_stream(f.miner.axon(), request))
            .await
            .unwrap();
        assert_eq!(within(stream.next_chunk()).await.unwrap().unwrap(), b"one");
        assert_eq!(within(stream.next_chunk()).await.unwrap().unwrap(), b"two");
        let error = within(stream.next_chunk()).await.unwrap_err();
        assert_eq!(
            error,
            LightningError::Stream("stream processing failed".into())
        );
    }
    assert_eq!(f.miner.server().stats().requests_failed, 4);
    f.assert_serves().await;
}

#[tokio::test]
async fn a_handler_learns_how_its_input_ends() {
    let f = fixture(config()).await;
    let mut call = f.open("tell-end").await;
    within(call.send("x")).await.unwrap();
    let reply = within(call.reply()).await.unwrap();
    assert_eq!(text(&reply.data, "end"), "it ended well");

    // Dropped without an end, as when the sender fails.
    let (mut sender, receiver) = f.open("tell-end").await.split();
    within(sender.send("x")).await.unwrap();
    until("the handler runs", async || {
        f.miner.server().stats().requests == 2
    })
    .await;
    drop(sender);
    let reply = within(receiver.reply()).await.unwrap();
    assert!(text(&reply.data, "end").starts_with("stream error: "));
    f.assert_serves().await;
}

#[tokio::test]
async fn input_that_is_none_ends_the_input_and_no_more() {
    let f = fixture(config().max_frame_payload_bytes(MIB)).await;
    let peer = within(RawClient::connect(f.miner.addr())).await;
    within(peer.authenticate(&Keypair::from_seed(&CLIENT))).await;
    let too_large = u32::try_from(MIB + 1).unwrap();
    for (input, expected) in [
        (
            message::encode_stream_end(&StreamEnd::failure("disk full"))
                .unwrap()
                .to_vec(),
            "disk full",
        ),
        (frame(MessageType::StreamEnd as u8, 2, &[0x92, 0xc2]), ""),
        (vec![], "closed"),
        (
            frame(MessageType::StreamChunk as u8, 9, &[0x91]),
            "closed after",
        ),
        (
            frame(MessageType::StreamChunk as u8, 2, &[0xc1, 0xc1]),
            "expected",
        ),
        (
            frame(MessageType::StreamChunk as u8, too_large, &[]),
            "exceeds maximum",
        ),
        (
            frame(MessageType::SynapsePacket as u8, 0, &[]),
            "unexpected SynapsePacket",
        ),
        (frame(99, 0, &[]), "unknown message type"),
    ] {
        let (mut send, recv) = within(peer.connection.open_bi()).await.unwrap();
        let open = message::encode_duplex_open("tell-end", &question(), 0, None).unwrap();
        let good = message::encode_chunk(&Bytes::from_static(b"good")).unwrap();
        let all = [open.to_vec(), good.to_vec(), input].concat();
        within(send.write_all(&all)).await.unwrap();
        let _ = send.finish();
        let Answer::Frame(MessageType::SynapseResponse, answer) = within(read_answer(recv)).await
        else {
            panic!("no answer where {expected:?} was expected")
        };
        let answer = Response::decode(answer).unwrap();
        assert_eq!(answer.error, None);
        let end = text(&answer.data, "end");
        assert!(end.contains(expected), "{end:?} instead of {expected:?}");
        assert_ne!(end, "it ended well");
    }
    assert_eq!(f.miner.server().stats().requests_failed, 0);
}

#[tokio::test]
async fn chunks_over_the_limit_are_not_sent() {
    let f = fixture(config()).await;
    let mut call = f.open("collect").await;
    let error = within(call.send(vec![7; 64 * MIB])).await.unwrap_err();
    assert!(matches!(error.kind(), CallErrorKind::Encode(_)), "{error}");
    // The call goes on as if nothing had been tried.
    within(call.send("small")).await.unwrap();
    let reply = within(call.reply()).await.unwrap();
    assert_eq!(reply.data.get_bin("payload").unwrap(), "small");
}

#[tokio::test]
async fn a_reply_over_the_limit_is_replaced_by_an_error() {
    let f = fixture(config().max_frame_payload_bytes(MIB)).await;
    let error = within(f.open("large-reply").await.reply())
        .await
        .unwrap_err();
    assert!(
        matches!(error.kind(), CallErrorKind::Remote(text) if text == "internal serialization error"),
        "{error}"
    );
    f.assert_serves().await;
}

#[tokio::test]
async fn a_call_that_takes_too_long_is_ended() {
    // By its caller's word.
    let f = fixture(config()).await;
    let options = CallOptions::default().timeout(Duration::from_millis(50));
    let error = within(f.open_with("hang", options).await.reply())
        .await
        .unwrap_err();
    assert_eq!(error.phase(), Phase::Wait);
    assert!(error.is_timeout(), "{error}");
    assert!(!error.is_retry_safe());
    within(f.handler.dropped.notified()).await;
    f.assert_serves().await;

    // By the server's limit.
    let f = fixture(config().handler_timeout_secs(1)).await;
    let error = within(f.open("hang").await.reply()).await.unwrap_err();
    assert!(
        matches!(error.kind(), CallErrorKind::Remote(text) if text == "handler timed out"),
        "{error}"
    );
    within(f.handler.dropped.notified()).await;
    let request = QuicRequest::new("hang".into(), HashMap::new());
    let mut stream = within(f.client.query_axon_stream(f.miner.axon(), request))
        .await
        .unwrap();
    let error = within(stream.next_chunk()).await.unwrap_err();
    assert_eq!(error, LightningError::Stream("handler timed out".into()));
    f.assert_serves().await;
}

/// The time runs out in the middle of a chunk, whose rest must not be taken for something else.
#[tokio::test]
async fn a_stream_cut_in_the_middle_of_a_chunk_is_not_misread() {
    let f = fixture(config().handler_timeout_secs(1)).await;
    let request = QuicRequest::new("flood".into(), HashMap::new());
    let mut stream = within(f.client.query_axon_stream(f.miner.axon(), request))
        .await
        .unwrap();
    let mut call = f.open("flood").await;
    // Nobody reads until both handlers have been dropped.
    for _ in 0..2 {
        within(f.handler.dropped.notified()).await;
    }
    let mut chunks = 0;
    let error = loop {
        match within(stream.next_chunk()).await {
            Ok(Some(chunk)) => assert!(chunk == [7; MIB]),
            Ok(None) => panic!("the stream seems whole after {chunks} chunks"),
            Err(error) => break error,
        }
        chunks += 1;
    };
    assert_eq!(error, LightningError::Stream("handler timed out".into()));
    while let Some(chunk) = within(call.next_chunk()).await.unwrap() {
        assert!(chunk == [7; MIB][..]);
    }
    let error = within(call.reply()).await.unwrap_err();
    assert!(
        matches!(error.kind(), CallErrorKind::Remote(text) if text == "handler timed out"),
        "{error}"
    );
    f.assert_serves().await;
}
