//! Who may talk to whom.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

use lightning_keys::Keypair;
use lightning_tests::{
    CLIENT, MINER, OTHER_CLIENT, OTHER_MINER, hotkey,
    peer::{Client, Map, Server, Settings},
    raw::RawClient,
    until, within,
};

use crate::pairings;

pairings!(
    handshake,
    two_hotkeys_at_one_address,
    another_miner_than_expected,
    the_31st_handshake_in_a_minute,
    a_permit_refused_and_granted,
);

async fn handshake<C: Client, S: Server>() {
    let server = S::start(Settings::default()).await;
    let axon = server.axon();
    let client = C::connect(vec![axon.clone()]).await;
    assert_eq!(client.hotkeys().await, HashSet::from([hotkey(MINER)]));
    let stats = HashMap::from([
        ("total_connections".into(), "1".into()),
        ("active_miners".into(), "1".into()),
        (format!("connection_{}", axon.addr_key()), "active".into()),
    ]);
    assert_eq!(client.stats().await, stats);

    let stats = server.stats().await;
    assert_eq!(stats["total_connections"], "1");
    assert_eq!(stats["verified_connections"], "1");
    let connection = &stats[&format!("connection_{}", hotkey(CLIENT))];
    assert!(connection.contains(&format!("conn_{}_", hotkey(CLIENT))));
}

async fn two_hotkeys_at_one_address<C: Client, S: Server>() {
    let (server, served) = counting_server::<S>(Settings::default()).await;
    let right = server.axon();
    let mut wrong = right.clone();
    wrong.hotkey = hotkey(OTHER_MINER);
    let client = C::connect(vec![wrong.clone(), right.clone()]).await;
    assert_eq!(client.hotkeys().await, HashSet::from([hotkey(MINER)]));

    let error = client.query(&wrong, "count", Map::new()).await.unwrap_err();
    assert!(error.starts_with("handshake error: "), "{error}");
    let error = client.stream(&wrong, "count", Map::new()).await.err();
    assert!(error.is_some_and(|e| e.starts_with("handshake error: ")));
    assert_eq!(
        served.load(Ordering::SeqCst),
        0,
        "the other miner was asked"
    );

    assert!(
        client
            .query(&right, "count", Map::new())
            .await
            .unwrap()
            .success
    );
    assert_eq!(served.load(Ordering::SeqCst), 1);
}

async fn another_miner_than_expected<C: Client, S: Server>() {
    let (server, served) = counting_server::<S>(Settings::default()).await;
    let mut wrong = server.axon();
    wrong.hotkey = hotkey(OTHER_MINER);
    let client = C::connect(vec![wrong.clone()]).await;
    assert_eq!(client.hotkeys().await, HashSet::new());
    let error = client.query(&wrong, "count", Map::new()).await.unwrap_err();
    assert!(error.starts_with("handshake error: "), "{error}");
    assert!(error.contains(&hotkey(MINER)), "{error}");
    assert_eq!(served.load(Ordering::SeqCst), 0);
}

async fn the_31st_handshake_in_a_minute<C: Client, S: Server>() {
    let (server, served) = counting_server::<S>(Settings::default()).await;
    let axon = server.axon();
    let addr = axon.addr_key().as_ref().parse().unwrap();
    let peer = within(RawClient::connect(addr)).await;
    let key = Keypair::from_seed(&OTHER_CLIENT);
    for _ in 0..30 {
        within(peer.authenticate(&key)).await;
    }
    let response = within(peer.send_handshake(&peer.handshake(&key))).await;
    assert!(!response.accepted);
    // The server stops looking before it knows who asks, and does not say who it is.
    assert_eq!(
        (response.miner_hotkey, response.signature),
        Default::default()
    );

    let client = C::connect(vec![axon.clone()]).await;
    assert_eq!(client.hotkeys().await, HashSet::new());
    assert_refused(client.query(&axon, "count", Map::new()).await);
    assert_eq!(served.load(Ordering::SeqCst), 0);
}

async fn a_permit_refused_and_granted<C: Client, S: Server>() {
    let permits = Arc::new(Mutex::new(HashSet::from([hotkey(OTHER_CLIENT)])));
    let (server, served) = counting_server::<S>(Settings {
        permits: Some(permits.clone()),
        ..Settings::default()
    })
    .await;
    let axon = server.axon();
    until("the server knows of one permit", async || {
        server.permitted().await == 1
    })
    .await;
    let client = C::connect(vec![axon.clone()]).await;
    assert_eq!(client.hotkeys().await, HashSet::new());
    assert_refused(client.query(&axon, "count", Map::new()).await);
    assert_eq!(served.load(Ordering::SeqCst), 0);

    permits.lock().unwrap().insert(hotkey(CLIENT));
    until("the server knows of both permits", async || {
        server.permitted().await == 2
    })
    .await;
    client.update_registry(vec![axon.clone()]).await;
    assert_eq!(client.hotkeys().await, HashSet::from([hotkey(MINER)]));
    assert!(
        client
            .query(&axon, "count", Map::new())
            .await
            .unwrap()
            .success
    );
    assert_eq!(served.load(Ordering::SeqCst), 1);
}

/// A server that counts the requests of type `count`.
async fn counting_server<S: Server>(settings: Settings) -> (S, Arc<AtomicU32>) {
    let server = S::start(settings).await;
    let served = Arc::new(AtomicU32::new(0));
    let counter = served.clone();
    server
        .blocking("count", move |data| {
            counter.fetch_add(1, Ordering::SeqCst);
            Ok(data)
        })
        .await;
    (server, served)
}

fn assert_refused<T>(answer: Result<T, String>) {
    let error = answer.err().unwrap().to_lowercase();
    assert_eq!(error, "handshake error: handshake rejected by miner");
}
