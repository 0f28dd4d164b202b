//! What a server says where no handler speaks: the same words from both packages.

use std::time::Duration;

use btlightning_proto::{Payload, frame::MessageType};
use lightning_keys::Keypair;
use lightning_tests::{
    CLIENT, payload,
    peer::{Client, Map, Server, Settings},
    raw::{RawClient, honest_frame},
    within,
};

use crate::{one_sided, pairings};

pairings!(
    failing_handlers,
    a_timeout_of_the_client,
    an_answer_in_chunks
);
one_sided!(Server: requests_by_hand);

async fn failing_handlers<C: Client, S: Server>() {
    let server = S::start(Settings {
        handler_timeout_secs: 1,
        ..Settings::default()
    })
    .await;
    server.blocking("fails", |_| Err("a secret")).await;
    server.blocking("panics", |_| panic!("a secret")).await;
    server
        .asynchronous("fails later", |_| Box::pin(async { Err("a secret") }))
        .await;
    server
        .asynchronous("hangs", |_| Box::pin(std::future::pending()))
        .await;
    server.blocking("echo", Ok).await;
    let client = C::connect(vec![server.axon()]).await;
    for (kind, text) in [
        ("fails", "request processing failed"),
        ("panics", "request processing failed"),
        ("fails later", "request processing failed"),
        ("hangs", "handler timed out"),
        ("never registered", "unrecognized synapse type"),
    ] {
        let answer = client
            .query(&server.axon(), kind, payload(vec![1]))
            .await
            .unwrap();
        assert!(!answer.success, "{kind}");
        assert_eq!(answer.error.as_deref(), Some(text), "{kind}");
        assert_eq!(answer.data, Map::new(), "{kind}");
        let error = answer.into_result().unwrap_err();
        assert_eq!(error.to_string(), format!("handler error: {text}"));
    }
    // The connection has survived all of them.
    let answer = client.query(&server.axon(), "echo", Map::new()).await;
    assert!(answer.unwrap().success);
    assert_eq!(server.stats().await["total_connections"], "1");
}

async fn a_timeout_of_the_client<C: Client, S: Server>() {
    let server = S::start(Settings::default()).await;
    server
        .asynchronous("hangs", |_| Box::pin(std::future::pending()))
        .await;
    let client = C::connect(vec![server.axon()]).await;
    let error = client
        .query_for(
            &server.axon(),
            "hangs",
            Map::new(),
            Duration::from_millis(20),
        )
        .await
        .unwrap_err();
    assert_eq!(error, "transport error: query timed out");
}

async fn an_answer_in_chunks<C: Client, S: Server>() {
    let server = S::start(Settings::default()).await;
    server
        .streaming("chunks", |_, sender| {
            Box::pin(async move { sender.send(vec![1]).await.map_err(|_| "the caller is gone") })
        })
        .await;
    server.blocking("single", Ok).await;
    let client = C::connect(vec![server.axon()]).await;
    let error = client
        .query(&server.axon(), "chunks", Map::new())
        .await
        .unwrap_err();
    assert_eq!(
        error,
        "transport error: received StreamChunk on non-streaming query; use query_axon_stream for \
         streaming synapses"
    );
    for (kind, detail) in [("single", ""), ("unknown", "unrecognized synapse type")] {
        let mut chunks = client
            .stream(&server.axon(), kind, Map::new())
            .await
            .unwrap();
        let error = lightning_tests::peer::Chunks::next(&mut chunks)
            .await
            .unwrap_err();
        assert!(error.starts_with("stream error: "), "{error}");
        assert!(error.ends_with(detail), "{error}");
    }
}

async fn requests_by_hand<S: Server>() {
    let server = S::start(Settings::default()).await;
    server.blocking("echo", Ok).await;
    let peer = within(RawClient::connect(server_addr(&server))).await;
    let key = Keypair::from_seed(&CLIENT);

    let answer = within(peer.request("echo", &Payload::empty())).await;
    assert_eq!(answer.error.as_deref(), Some("authentication failed"));

    within(peer.authenticate(&key)).await;
    for garbage in [
        &[][..],
        b"\xc1",
        b"\x93\xa4echo",
        b"\x91\xa4echo",
        b"\x93\x01\x80\x00",
        b"\x93\xa4echo\x90\x00",
    ] {
        let frame = honest_frame(MessageType::SynapsePacket, garbage);
        let answer = within(peer.response(&frame)).await;
        assert!(!answer.success);
        assert_eq!(
            answer.error.as_deref(),
            Some("invalid request format"),
            "{garbage:02x?}"
        );
        assert!(answer.data.is_empty());
    }
    let answer = within(peer.request("echo", &Payload::empty())).await;
    assert!(answer.success);
}

fn server_addr(server: &impl Server) -> std::net::SocketAddr {
    server.axon().addr_key().as_ref().parse().unwrap()
}
