//! Which addresses are answered at all, and what is kept for them.

use std::{
    collections::HashSet,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use btlightning::{
    LightningError, Payload, Result, SourceAddressResolver, SourceAllowlist,
    ValidatorPermitResolver,
};
use lightning_quic::{EndpointSettings, TransportSettings, new_endpoint, tls};
use lightning_tests::{
    CLIENT, MINER, Miner, OTHER_CLIENT, echo, hotkey, miner_with,
    raw::{ALPN_BOTH, RawClient},
    until, within,
};
use tokio::net::UdpSocket;

use crate::{assert_serves, config, connect_from, key, local, refused, serve};

struct Sources(SourceAllowlist);

impl SourceAddressResolver for Sources {
    fn resolve_allowed_sources(&self) -> Result<SourceAllowlist> {
        Ok(self.0.clone())
    }
}

async fn serve_only(sources: SourceAllowlist) -> Miner {
    let config = config().enforce_source_allowlist(true).build().unwrap();
    let mut server = miner_with(MINER, 0, config);
    server.set_source_address_resolver(Box::new(Sources(sources)));
    server
        .register_synapse_handler("echo".into(), echo())
        .await
        .unwrap();
    let miner = Miner::serve(server).await;
    // The resolver is asked when the server begins to serve.
    until("the resolver was asked", async || {
        miner.server().get_allowed_source_count().await > 0
            || miner.server().is_source_enforcement_bypassed().await
    })
    .await;
    miner
}

/// Returns the first packet of a client that knows nothing of its server.
async fn first_packet() -> Vec<u8> {
    let trap = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let mut endpoint = new_endpoint(any, &EndpointSettings::default(), None).unwrap();
    let transport = TransportSettings::default().build().unwrap();
    endpoint.set_default_client_config(tls::any_certificate(ALPN_BOTH, transport).unwrap());
    let _connecting = endpoint
        .connect(trap.local_addr().unwrap(), "localhost")
        .unwrap();
    let mut packet = vec![0; 2000];
    let len = within(trap.recv(&mut packet)).await.unwrap();
    packet.truncate(len);
    packet
}

#[tokio::test]
async fn a_source_that_is_not_allowed_gets_no_packet() {
    let allowed = HashSet::from([local(2)]);
    let miner = serve_only(SourceAllowlist::Enforce(allowed)).await;
    assert_eq!(miner.server().get_allowed_source_count().await, 1);

    // QUIC answers the one with a Retry and the other with the versions it speaks.
    let mut strange_version = first_packet().await;
    strange_version[1..5].copy_from_slice(&[0x1a, 0x2a, 0x3a, 0x4a]);
    let packets = [first_packet().await, strange_version];
    let outsider = UdpSocket::bind((local(1), 0)).await.unwrap();
    for (count, packet) in (1..).zip(packets.iter().chain(&packets)) {
        outsider.send_to(packet, miner.addr()).await.unwrap();
        until("the packet was ignored", async || {
            miner.server().stats().sources_ignored == count
        })
        .await;
    }
    let mut answer = [0; 2000];
    let nothing = outsider.try_recv(&mut answer).unwrap_err();
    assert_eq!(nothing.kind(), std::io::ErrorKind::WouldBlock);

    // From elsewhere each of them is answered.
    let bystander = serve(config()).await;
    for packet in &packets {
        outsider.send_to(packet, bystander.addr()).await.unwrap();
        within(outsider.recv(&mut answer)).await.unwrap();
    }

    let insider = connect_from(&miner, local(2)).await.unwrap();
    within(insider.authenticate(&key(0))).await;
    assert_serves(&insider).await;
    let stats = miner.server().stats();
    assert_eq!((stats.sources_ignored, stats.connections_refused), (4, 0));
}

/// Allows what is in it at the moment.
#[derive(Clone)]
struct Changing(Arc<Mutex<SourceAllowlist>>);

impl SourceAddressResolver for Changing {
    fn resolve_allowed_sources(&self) -> Result<SourceAllowlist> {
        Ok(self.0.lock().unwrap().clone())
    }
}

#[tokio::test]
async fn a_source_that_is_no_longer_allowed_is_cut_off() {
    let list = Changing(Arc::new(Mutex::new(SourceAllowlist::Bypass)));
    let config = config()
        .enforce_source_allowlist(true)
        .source_allowlist_refresh_secs(1)
        .build()
        .unwrap();
    let mut server = miner_with(MINER, 0, config);
    server.set_source_address_resolver(Box::new(list.clone()));
    server
        .register_synapse_handler("echo".into(), echo())
        .await
        .unwrap();
    let miner = Miner::serve(server).await;
    until("the resolver was asked", async || {
        miner.server().is_source_enforcement_bypassed().await
    })
    .await;
    let kept = connect_from(&miner, local(2)).await.unwrap();
    within(kept.authenticate(&key(0))).await;
    let cut = connect_from(&miner, local(3)).await.unwrap();
    within(cut.authenticate(&key(1))).await;

    *list.0.lock().unwrap() = SourceAllowlist::Enforce([local(2)].into());
    until("the resolver was asked again", async || {
        miner.server().get_allowed_source_count().await == 1
    })
    .await;
    let ignored = miner.server().stats().sources_ignored;
    let empty = Payload::empty();
    let request = cut.request("echo", &empty);
    let noticed = until("its packets are ignored", async || {
        miner.server().stats().sources_ignored > ignored
    });
    tokio::select! {
        answer = request => panic!("{answer:?}"),
        () = noticed => {}
    }
    assert_serves(&kept).await;
    assert_eq!(miner.server().stats().requests, 1);
}

#[tokio::test]
async fn a_bypassed_allow_list_lets_everybody_in() {
    let miner = serve_only(SourceAllowlist::Bypass).await;
    assert!(miner.server().is_source_enforcement_bypassed().await);
    let anybody = connect_from(&miner, local(9)).await.unwrap();
    within(anybody.authenticate(&key(0))).await;
    assert_serves(&anybody).await;
    assert_eq!(miner.server().stats().sources_ignored, 0);
}

/// What the server says to a first packet: [`INITIAL`] or [`RETRY`].
async fn first_answer(miner: &Miner) -> u8 {
    let socket = UdpSocket::bind((local(1), 0)).await.unwrap();
    let packet = first_packet().await;
    assert_eq!(packet[0] & TYPE, INITIAL);
    socket.send_to(&packet, miner.addr()).await.unwrap();
    let mut answer = vec![0; 2000];
    let (len, from) = within(socket.recv_from(&mut answer)).await.unwrap();
    assert_eq!(from, miner.addr());
    assert_eq!(answer[1..5], [0, 0, 0, 1], "QUIC version 1");
    // A spoofed address must not be sent more than it has sent itself.
    assert!(len <= 3 * packet.len());
    answer[0] & TYPE
}

/// Header form and packet type of RFC 9000, section 17.2; the bit between them may be greased.
const TYPE: u8 = 0xb0;
const INITIAL: u8 = 0x80;
const RETRY: u8 = 0xb0;

#[tokio::test]
async fn an_address_proves_itself_before_anything_is_kept_for_it() {
    let miner = serve(config()).await;
    assert_eq!(first_answer(&miner).await, RETRY);
    assert_eq!(miner.server().stats().unauthenticated_connections, 0);

    let trusting = serve(config().require_address_validation(false)).await;
    assert_eq!(first_answer(&trusting).await, INITIAL);
    assert_eq!(trusting.server().stats().unauthenticated_connections, 1);
}

/// Allows what is in it, or fails.
#[derive(Clone, Default)]
struct Permits {
    hotkeys: Arc<Mutex<HashSet<String>>>,
    broken: Arc<AtomicBool>,
}

impl ValidatorPermitResolver for Permits {
    fn resolve_permitted_validators(&self) -> Result<HashSet<String>> {
        if self.broken.load(Ordering::Relaxed) {
            return Err(LightningError::handler("no answer from the chain"));
        }
        Ok(self.hotkeys.lock().unwrap().clone())
    }
}

#[tokio::test]
async fn hotkeys_without_a_permit_are_refused() {
    let permits = Permits::default();
    permits.hotkeys.lock().unwrap().insert(hotkey(CLIENT));
    let config = config()
        .require_validator_permit(true)
        .validator_permit_refresh_secs(1)
        .build()
        .unwrap();
    let mut server = miner_with(MINER, 0, config);
    server.set_validator_permit_resolver(Box::new(permits.clone()));
    server
        .register_synapse_handler("echo".into(), echo())
        .await
        .unwrap();
    let miner = Miner::serve(server).await;
    until("the resolver was asked", async || {
        miner.server().get_permitted_validator_count().await == 1
    })
    .await;

    let permitted = within(RawClient::connect(miner.addr())).await;
    within(permitted.authenticate(&lightning_keys::Keypair::from_seed(&CLIENT))).await;
    let other = within(RawClient::connect(miner.addr())).await;
    let other_key = lightning_keys::Keypair::from_seed(&OTHER_CLIENT);
    let refusal = within(other.send_handshake(&other.handshake(&other_key))).await;
    assert!(!refusal.accepted);
    assert_eq!(refusal.miner_hotkey, hotkey(MINER));
    assert_eq!(refused(&miner, "no_permit"), 1);
    assert_serves(&permitted).await;

    // The set is asked for again; a failure keeps the last one.
    permits.hotkeys.lock().unwrap().insert(hotkey(OTHER_CLIENT));
    until("the resolver was asked again", async || {
        miner.server().get_permitted_validator_count().await == 2
    })
    .await;
    permits.broken.store(true, Ordering::Relaxed);
    within(other.authenticate(&other_key)).await;
    assert_serves(&other).await;
}

#[tokio::test]
async fn a_policy_without_its_resolver_is_an_error() {
    for (field, config) in [
        (
            "require_validator_permit",
            config().require_validator_permit(true),
        ),
        (
            "enforce_source_allowlist",
            config().enforce_source_allowlist(true),
        ),
    ] {
        let mut server = miner_with(MINER, 0, config.build().unwrap());
        server.start().await.unwrap();
        match within(server.serve_forever()).await {
            Err(LightningError::Config(text)) => assert!(text.contains(field), "{text}"),
            other => panic!("{field}: {other:?}"),
        }
    }
}
