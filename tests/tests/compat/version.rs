//! Which protocol two peers agree on, and what follows from it.

use btlightning::{CallErrorKind, CallOptions, Payload, Phase, Version};
use lightning_tests::{
    peer::{Client, Map, Server, Settings, old, ours},
    within,
};

#[tokio::test]
async fn two_of_ours_agree_on_the_new_protocol() {
    let server = ours::Server::start(Settings::default()).await;
    let client = ours::Client::connect(vec![server.axon()]).await;
    assert_eq!(client.0.stats().connections[0].version, Version::V1);
    assert_eq!(server.server.stats().callers[0].version, Version::V1);
}

#[tokio::test]
async fn a_published_client_gets_the_old_protocol() {
    let server = ours::Server::start(Settings::default()).await;
    let _client = old::Client::connect(vec![server.axon()]).await;
    assert_eq!(server.server.stats().callers[0].version, Version::V0);
}

#[tokio::test]
async fn a_published_server_has_no_streams_from_the_client() {
    let server = old::Server::start(Settings::default()).await;
    server.blocking("echo", Ok).await;
    let axon = server.axon();
    let client = ours::Client::connect(vec![axon.clone()]).await;
    assert_eq!(client.0.stats().connections[0].version, Version::V0);

    let data = Payload::empty();
    let call = client
        .0
        .open_duplex(&axon, "echo", &data, CallOptions::default());
    let error = within(call).await.unwrap_err();
    assert!(
        matches!(error.kind(), CallErrorKind::Unsupported),
        "{error}"
    );
    assert_eq!(error.phase(), Phase::Send);
    assert!(error.is_retry_safe());

    let answer = client.query(&axon, "echo", Map::new()).await;
    assert!(answer.unwrap().success);
}
