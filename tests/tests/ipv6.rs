//! IPv6, and both families on one socket. Needs a host with the loopback address `::1`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use btlightning::{
    CallOptions, HandshakeObserver, LightningClient, LightningServer, LightningServerConfig,
    QuicAxonInfo, RequestContext, Result, SourceAddressResolver, SourceAllowlist,
    typed_request_handler,
};
use lightning_tests::{
    CLIENT, MINER, Miner, OTHER_CLIENT, OTHER_MINER, hotkey, until, validator, within,
};

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

fn server_on(host: &str, seed: [u8; 32], config: LightningServerConfig) -> LightningServer {
    let mut server = LightningServer::with_config(hotkey(seed), host.into(), 0, config).unwrap();
    server.set_miner_keypair(seed);

    server.register_handler(
        "where",
        typed_request_handler(
            |context: RequestContext, _: HashMap<String, u8>| async move {
                Result::Ok(HashMap::from([("addr", context.remote_addr())]))
            },
        ),
    );
    server
}

async fn serve_on(host: &str) -> Miner {
    Miner::serve(server_on(host, MINER, LightningServerConfig::default())).await
}

fn axon(ip: &str, miner: &Miner) -> QuicAxonInfo {
    QuicAxonInfo::new(miner.axon().hotkey, ip.into(), miner.addr().port(), 4)
}

/// Returns where the server sees the client.
async fn seen_at(client: &LightningClient, axon: &QuicAxonInfo) -> IpAddr {
    let request = HashMap::<String, u8>::new();
    let call = client.call(axon, "where", &request, CallOptions::default());
    let answer: HashMap<String, SocketAddr> = within(call).await.unwrap();
    answer["addr"].ip()
}

#[tokio::test]
async fn a_server_on_ipv6_is_reached_over_ipv6() {
    for host in ["::1", "[::1]"] {
        let miner = serve_on(host).await;
        assert_eq!(miner.addr().ip(), V6);
        for ip in ["::1", "[::1]", "0:0:0:0:0:0:0:1"] {
            let axon = axon(ip, &miner);
            let client = validator(CLIENT, vec![axon.clone()]).await;
            assert_eq!(client.authenticated_hotkeys().await.len(), 1, "{ip}");
            assert_eq!(seen_at(&client, &axon).await, V6, "{ip}");
            client.rebind().unwrap();
            assert_eq!(seen_at(&client, &axon).await, V6, "{ip}");
        }
        let stats = miner.server().stats();
        assert_eq!(stats.handshakes, 3);
        assert_eq!(stats.callers[0].remote_addr.ip(), V6);
    }
}

#[tokio::test]
async fn a_server_on_the_wildcard_is_reached_over_both() {
    let miner = serve_on("::").await;
    let v4 = axon("127.0.0.1", &miner);
    let v6 = axon("::1", &miner);
    let over_v4 = validator(CLIENT, vec![v4.clone()]).await;
    let over_v6 = validator(OTHER_CLIENT, vec![v6.clone()]).await;
    // An IPv4 address is shown as one, although the socket carries both.
    assert_eq!(seen_at(&over_v4, &v4).await, V4);
    assert_eq!(seen_at(&over_v6, &v6).await, V6);
    let mut seen: Vec<_> = miner
        .server()
        .stats()
        .callers
        .iter()
        .map(|caller| caller.remote_addr.ip())
        .collect();
    seen.sort();
    assert_eq!(seen, [V4, V6]);
}

#[tokio::test]
async fn one_client_reaches_miners_of_both_families() {
    let old = serve_on("127.0.0.1").await;
    let config = LightningServerConfig::default();
    let new = Miner::serve(server_on("::1", OTHER_MINER, config)).await;
    let axons = [axon("127.0.0.1", &old), axon("::1", &new)];
    let client = validator(CLIENT, vec![]).await;
    assert_eq!(seen_at(&client, &axons[0]).await, V4);
    assert_eq!(seen_at(&client, &axons[1]).await, V6);
    let mut addrs: Vec<_> = client
        .stats()
        .connections
        .into_iter()
        .map(|c| c.addr)
        .collect();
    addrs.sort();
    let v4 = format!("127.0.0.1:{}", old.addr().port());
    let v6 = format!("[::1]:{}", new.addr().port());
    assert_eq!(addrs, [v4, v6]);
}

/// Notes where handshakes came from.
#[derive(Default)]
struct Notes(Mutex<Vec<IpAddr>>);

#[async_trait]
impl HandshakeObserver for Notes {
    async fn observe_successful_handshake(&self, validator_hotkey: &str, source_ip: IpAddr) {
        assert_eq!(validator_hotkey, hotkey(CLIENT));
        self.0.lock().unwrap().push(source_ip);
    }
}

struct OnlyV4;

impl SourceAddressResolver for OnlyV4 {
    fn resolve_allowed_sources(&self) -> Result<SourceAllowlist> {
        Ok(SourceAllowlist::Enforce([V4].into()))
    }
}

/// Policies speak of IPv4 addresses, whatever the socket calls them.
#[tokio::test]
async fn policies_on_the_wildcard_see_ipv4_addresses() {
    let config = LightningServerConfig::builder().enforce_source_allowlist(true);
    let mut server = server_on("::", MINER, config.build().unwrap());
    let notes = Arc::new(Notes::default());
    server.set_handshake_observer(notes.clone());
    server.set_source_address_resolver(Box::new(OnlyV4));
    let miner = Miner::serve(server).await;
    until("the resolver was asked", async || {
        miner.server().get_allowed_source_count().await == 1
    })
    .await;
    let axon = axon("127.0.0.1", &miner);
    let client = validator(CLIENT, vec![axon.clone()]).await;
    assert_eq!(seen_at(&client, &axon).await, V4);
    until("the observer was told", async || {
        *notes.0.lock().unwrap() == [V4]
    })
    .await;
    assert_eq!(miner.server().stats().sources_ignored, 0);
}
