//! Connections that are gone: who notices, who dials, who waits, and what failed calls say.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod phases;

use std::{
    collections::HashSet,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use btlightning::{
    CallError, CallErrorKind, CallOptions, LightningClient, LightningClientConfig,
    LightningClientConfigBuilder, LightningServerConfig, Payload, Phase, QuicAxonInfo,
};
use futures::{FutureExt, future::join_all};
use lightning_keys::Keypair;
use lightning_tests::{
    CLIENT, MINER, Miner, OTHER_MINER, axon, echo, hotkey, miner_with, payload,
    raw::{ALPN_BOTH, RawPeer, RawServer, close_of},
    until, validator, validator_with, within,
};
use tokio::net::UdpSocket;

/// A request small enough to share a stream with others, and one that gets a stream of its own.
const SIZES: [usize; 2] = [10, 100_000];

async fn serve() -> Miner {
    serve_as(MINER, 0).await
}

/// Starts a miner on a port that another one may have given up a moment ago.
async fn serve_as(seed: [u8; 32], port: u16) -> Miner {
    let config = LightningServerConfig::default();
    if port != 0 {
        until("the port is free", async || {
            UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).await.is_ok()
        })
        .await;
    }
    let server = miner_with(seed, port, config);
    server
        .register_synapse_handler("echo".into(), echo())
        .await
        .unwrap();
    Miner::serve(server).await
}

/// A client that soon gives up on an address that is silent.
fn hasty() -> LightningClientConfigBuilder {
    LightningClientConfig::builder().connect_timeout(Duration::from_millis(300))
}

async fn client_of(config: LightningClientConfigBuilder) -> LightningClient {
    validator_with(CLIENT, config.build().unwrap(), vec![]).await
}

async fn ask(client: &LightningClient, target: &QuicAxonInfo, len: usize) -> Result<(), CallError> {
    let data = Payload::from_map(&payload(vec![7; len])).unwrap();
    let call = client.call_payload(target, "echo", &data, CallOptions::default());
    within(call).await.map(|reply| assert_eq!(reply.data, data))
}

async fn until_dead(client: &LightningClient) {
    until("the client knows that the miner is gone", async || {
        client
            .stats()
            .connections
            .iter()
            .all(|c| c.closed.is_some())
    })
    .await;
}

#[tokio::test]
async fn queries_that_find_a_dead_connection_share_one_dial() {
    let mut miner = serve().await;
    let client = validator(CLIENT, vec![miner.axon()]).await;
    for _ in 0..3 {
        let target = miner.axon();
        ask(&client, &target, 10).await.unwrap();
        miner.stop().await;
        until_dead(&client).await;
        miner = serve_as(MINER, target.port).await;
        let asks = (0..32).map(|n| ask(&client, &target, SIZES[n % 2]));
        for answer in join_all(asks).await {
            answer.unwrap();
        }
        let stats = miner.server().stats();
        assert_eq!(stats.handshakes, 1, "{stats:?}");
        assert_eq!(stats.connections_refused, 0);
        assert_eq!(client.stats().connections.len(), 1);
    }
}

/// The first to need a connection may give up: the others still get theirs.
#[tokio::test]
async fn a_dial_goes_on_without_the_caller_who_began_it() {
    let server = RawServer::bind(ALPN_BOTH);
    let target = axon(&hotkey(MINER), server.addr());
    let client = validator(CLIENT, vec![]).await;
    let mut first = Box::pin(ask(&client, &target, 100_000));
    let peer = tokio::select! {
        _ = &mut first => panic!("nobody answers yet"),
        peer = within(server.accept()) => peer,
    };
    drop(first);
    let second = ask(&client, &target, 100_000);
    let serving = async {
        peer.authenticate(&Keypair::from_seed(&MINER)).await;
        echo_one(&peer).await;
    };
    let (answer, ()) = tokio::join!(second, within(serving));
    answer.unwrap();
    assert!(server.accept().now_or_never().is_none(), "it dialled twice");
}

/// Answers one request with what it carries.
async fn echo_one(peer: &RawPeer) {
    let (mut send, _recv, _, payload) = peer.next_frame().await;
    let request = btlightning_proto::message::Request::decode(payload).unwrap();
    let response = btlightning_proto::message::Response {
        success: true,
        data: request.into_data(),
        timestamp: 0,
        error: None,
    };
    let frame = response.encode().unwrap().to_vec();
    send.write_all(&frame).await.unwrap();
    send.finish().unwrap();
}

/// An address that takes packets and never answers, and counts who dialled it.
struct Silence {
    addr: SocketAddr,
    /// The names that clients chose for their connections (RFC 9000, section 17.2).
    dials: Arc<Mutex<HashSet<Vec<u8>>>>,
}

impl Silence {
    async fn bind() -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let addr = socket.local_addr().unwrap();
        let dials = Arc::new(Mutex::new(HashSet::new()));
        let seen = dials.clone();
        tokio::spawn(async move {
            let mut packet = [0; 2000];
            while let Ok(len) = socket.recv(&mut packet).await {
                let id_len = usize::from(packet[5]);
                assert!(len >= 6 + id_len);
                seen.lock().unwrap().insert(packet[6..6 + id_len].to_vec());
            }
        });
        Self { addr, dials }
    }

    fn axon(&self) -> QuicAxonInfo {
        axon(&hotkey(MINER), self.addr)
    }

    fn dials(&self) -> usize {
        self.dials.lock().unwrap().len()
    }
}

#[tokio::test]
async fn a_failed_dial_fails_all_who_wait_and_the_next_one_waits() {
    let hour = Duration::from_secs(3600);
    let silence = Silence::bind().await;
    let config = hasty()
        .reconnect_initial_backoff(hour)
        .reconnect_max_backoff(100 * hour);
    let client = client_of(config).await;
    let target = silence.axon();
    let asks = (0..32).map(|n| ask(&client, &target, SIZES[n % 2]));
    for answer in join_all(asks).await {
        let error = answer.unwrap_err();
        assert_eq!(error.phase(), Phase::Dial);
        assert!(error.is_timeout(), "{error}");
        assert!(error.is_retry_safe());
    }
    assert_eq!(silence.dials(), 1);

    for _ in 0..3 {
        let error = ask(&client, &target, 10).await.unwrap_err();
        assert_eq!(error.phase(), Phase::Dial);
        assert!(error.is_retry_safe());
        match error.kind() {
            // One attempt was counted, not 32: the pause would have doubled with each.
            CallErrorKind::Backoff { retry_in } => assert!(*retry_in <= hour, "{retry_in:?}"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(silence.dials(), 1);

    // A registry update is news: it dials at once, and so may the next query.
    within(client.update_miner_registry(vec![target.clone()]))
        .await
        .unwrap();
    assert_eq!(silence.dials(), 2);
    assert!(ask(&client, &target, 10).await.unwrap_err().is_timeout());
    assert_eq!(silence.dials(), 3);
}

/// The port of a miner that is down.
async fn free_port() -> u16 {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    socket.local_addr().unwrap().port()
}

#[tokio::test]
async fn a_miner_that_comes_back_is_found_after_the_pause() {
    let config = hasty()
        .reconnect_initial_backoff(Duration::from_millis(20))
        .reconnect_max_backoff(Duration::from_millis(50))
        .reconnect_max_retries(1000);
    let client = client_of(config).await;
    let port = free_port().await;
    let target = QuicAxonInfo::new(hotkey(MINER), "127.0.0.1".into(), port, 4);
    assert!(ask(&client, &target, 10).await.unwrap_err().is_timeout());
    let miner = serve_as(MINER, port).await;
    until("the miner is found", async || {
        ask(&client, &target, 10).await.is_ok()
    })
    .await;
    assert_eq!(miner.server().stats().handshakes, 1);
}

#[tokio::test]
async fn a_miner_that_stays_away_is_probed_slowly() {
    let hour = Duration::from_secs(3600);
    let config = hasty()
        .reconnect_initial_backoff(hour)
        .reconnect_max_backoff(hour)
        .reconnect_max_retries(1)
        .reconnect_slow_probe_interval(Some(Duration::from_millis(20)));
    let client = client_of(config).await;
    let port = free_port().await;
    let target = QuicAxonInfo::new(hotkey(MINER), "127.0.0.1".into(), port, 4);
    assert!(ask(&client, &target, 10).await.unwrap_err().is_timeout());
    let _miner = serve_as(MINER, port).await;
    // By a probe: the pause of an hour is not over.
    until("the miner is found", async || {
        ask(&client, &target, 10).await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn without_probes_only_a_registry_update_helps() {
    let brief = Duration::from_millis(1);
    let config = hasty()
        .reconnect_initial_backoff(brief)
        .reconnect_max_backoff(brief)
        .reconnect_max_retries(1)
        .reconnect_slow_probe_interval(None);
    let client = client_of(config).await;
    let port = free_port().await;
    let target = QuicAxonInfo::new(hotkey(MINER), "127.0.0.1".into(), port, 4);
    assert!(ask(&client, &target, 10).await.unwrap_err().is_timeout());
    let miner = serve_as(MINER, port).await;
    for _ in 0..3 {
        let error = ask(&client, &target, 10).await.unwrap_err();
        assert!(
            matches!(error.kind(), CallErrorKind::Exhausted { attempts: 1 }),
            "{error}"
        );
        assert!(error.is_retry_safe());
    }
    within(client.update_miner_registry(vec![target.clone()]))
        .await
        .unwrap();
    ask(&client, &target, 10).await.unwrap();
    assert_eq!(miner.server().stats().handshakes, 1);
}

/// One dead address costs the others nothing.
#[tokio::test]
async fn a_silent_miner_does_not_hold_up_others() {
    let silence = Silence::bind().await;
    let good = serve_as(OTHER_MINER, 0).await;
    let config = LightningClientConfig::builder().connect_timeout(Duration::from_secs(1000));
    let client = client_of(config).await;
    let (dead, alive) = (silence.axon(), good.axon());
    let waits = ask(&client, &dead, 10);
    tokio::pin!(waits);
    assert!(waits.as_mut().now_or_never().is_none());
    for _ in 0..3 {
        ask(&client, &alive, 10).await.unwrap();
    }
    assert!(waits.now_or_never().is_none());
}

#[tokio::test]
async fn connections_follow_the_registry() {
    let servers = [MINER, OTHER_MINER].map(|seed| (RawServer::bind(ALPN_BOTH), seed));
    let [first, second] = &servers;
    let target = |server: &RawServer, seed| axon(&hotkey(seed), server.addr());
    let accept = async |server: &RawServer, seed: [u8; 32]| {
        let peer = server.accept().await;
        peer.authenticate(&Keypair::from_seed(&seed)).await;
        peer
    };
    let client = validator(CLIENT, vec![]).await;
    let both = vec![target(&first.0, MINER), target(&second.0, OTHER_MINER)];
    let (updated, one, two) = within(async {
        tokio::join!(
            client.update_miner_registry(both),
            accept(&first.0, MINER),
            accept(&second.0, OTHER_MINER),
        )
    })
    .await;
    updated.unwrap();
    assert_eq!(client.stats().active_miners, 2);

    // The first one moves, the second one leaves.
    let elsewhere = RawServer::bind(ALPN_BOTH);
    let moved = vec![target(&elsewhere, MINER)];
    let (updated, moved) = within(async {
        tokio::join!(
            client.update_miner_registry(moved),
            accept(&elsewhere, MINER)
        )
    })
    .await;
    updated.unwrap();
    let reason = within(one.connection.closed()).await;
    assert_eq!(close_of(&reason).0, "miner_addr_changed");
    let reason = within(two.connection.closed()).await;
    assert_eq!(close_of(&reason).0, "miner_deregistered");
    assert!(moved.connection.close_reason().is_none());
    let stats = client.stats();
    assert_eq!((stats.active_miners, stats.connections.len()), (1, 1));
    assert_eq!(stats.connections[0].addr, elsewhere.addr().to_string());
}
