//! How connections end, and what follows.

use lightning_keys::Keypair;
use lightning_tests::{
    CLIENT, MINER, OTHER_MINER, axon, hotkey,
    peer::{Client, Map, Server, Settings},
    raw::{ALPN_BOTH, RawClient, RawPeer, RawServer, close_of},
    until, within,
};

use crate::{one_sided, pairings};

pairings!(
    a_second_connection_replaces_the_first,
    a_server_that_restarts
);
one_sided!(Client: reasons_that_clients_give);
one_sided!(Server: reasons_that_servers_give);

async fn a_second_connection_replaces_the_first<C: Client, S: Server>() {
    let server = echo_server::<S>(0).await;
    let axon = server.axon();
    let first = C::connect(vec![axon.clone()]).await;
    let second = C::connect(vec![axon.clone()]).await;
    let state = first.wait_closed(&axon).await;
    assert!(state.contains("replaced"), "{state}");
    assert!(
        second
            .query(&axon, "echo", Map::new())
            .await
            .unwrap()
            .success
    );
    assert_eq!(server.stats().await["total_connections"], "1");

    // Whoever lost the place takes it back by asking.
    assert!(
        first
            .query(&axon, "echo", Map::new())
            .await
            .unwrap()
            .success
    );
    let state = second.wait_closed(&axon).await;
    assert!(state.contains("replaced"), "{state}");
}

async fn a_server_that_restarts<C: Client, S: Server>() {
    let mut server = echo_server::<S>(0).await;
    let axon = server.axon();
    let client = C::connect(vec![axon.clone()]).await;
    for _ in 0..2 {
        assert!(
            client
                .query(&axon, "echo", Map::new())
                .await
                .unwrap()
                .success
        );
        server.stop().await;
        let state = client.wait_closed(&axon).await;
        assert!(state.contains("server_shutdown"), "{state}");
        // With another certificate, which the new handshake signs.
        server = echo_server::<S>(axon.port).await;
    }
    assert!(
        client
            .query(&axon, "echo", Map::new())
            .await
            .unwrap()
            .success
    );
    assert_eq!(client.stats().await["total_connections"], "1");
}

async fn reasons_that_clients_give<C: Client>() {
    let (client, peer, _server) = connected_by_hand::<C>(MINER).await;
    client.close().await;
    assert_closed(&peer, "client_shutdown").await;

    let (client, peer, _server) = connected_by_hand::<C>(MINER).await;
    client.update_registry(vec![]).await;
    assert_closed(&peer, "miner_deregistered").await;

    let (client, peer, _server) = connected_by_hand::<C>(MINER).await;
    let elsewhere = RawServer::bind(ALPN_BOTH);
    let moved = client.update_registry(vec![axon(&hotkey(MINER), elsewhere.addr())]);
    let welcome = async { elsewhere.accept().await.authenticate(&key(MINER)).await };
    within(async { tokio::join!(moved, welcome) }).await;
    assert_closed(&peer, "miner_addr_changed").await;

    let (_client, peer, _server) = connected_by_hand::<C>(OTHER_MINER).await;
    assert_closed(&peer, "no_authenticated_hotkeys").await;
}

async fn reasons_that_servers_give<S: Server>() {
    let server = echo_server::<S>(0).await;
    let addr = server.axon().addr_key().as_ref().parse().unwrap();
    let first = within(RawClient::connect(addr)).await;
    within(first.authenticate(&key(CLIENT))).await;
    let second = within(RawClient::connect(addr)).await;
    within(second.authenticate(&key(CLIENT))).await;
    let closed = |peer: RawClient| async move { close_of(&within(peer.connection.closed()).await) };
    assert_eq!(closed(first).await, ("replaced".into(), 0));

    until("the idle connection is closed", async || {
        server.cleanup(0).await;
        second.connection.close_reason().is_some()
    })
    .await;
    assert_eq!(closed(second).await, ("cleanup".into(), 0));

    let third = within(RawClient::connect(addr)).await;
    within(third.authenticate(&key(CLIENT))).await;
    server.stop().await;
    assert_eq!(closed(third).await, ("server_shutdown".into(), 0));
}

/// Connects a client that expects [`MINER`] to a server by hand that answers as `miner`.
async fn connected_by_hand<C: Client>(miner: [u8; 32]) -> (C, RawPeer, RawServer) {
    let server = RawServer::bind(ALPN_BOTH);
    let connect = C::connect(vec![axon(&hotkey(MINER), server.addr())]);
    let welcome = async {
        let peer = server.accept().await;
        peer.authenticate(&key(miner)).await;
        peer
    };
    let (client, peer) = within(async { tokio::join!(connect, welcome) }).await;
    (client, peer, server)
}

async fn assert_closed(peer: &RawPeer, reason: &str) {
    let error = within(peer.connection.closed()).await;
    assert_eq!(close_of(&error), (reason.into(), 0));
}

fn key(seed: [u8; 32]) -> Keypair {
    Keypair::from_seed(&seed)
}

async fn echo_server<S: Server>(port: u16) -> S {
    let server = S::start(Settings {
        port,
        ..Settings::default()
    })
    .await;
    server.blocking("echo", Ok).await;
    server
}
