//! How many may be connected, and how large an answer may be.

use std::{collections::HashMap, sync::Arc};

use btlightning::{
    CallError, CallErrorKind, CallOptions, LightningClient, LightningClientConfig, Payload, Phase,
    QuicAxonInfo, QuicRequest, Result, SynapseHandler,
};
use lightning_keys::Keypair;
use lightning_tests::{
    CLIENT, MINER, Miner, OTHER_MINER, axon, hotkey, miner_with, payload,
    raw::{ALPN_BOTH, RawClient, RawServer},
    until, validator, validator_with, within,
};

use crate::{assert_serves, config, key, refused, serve};

#[tokio::test]
async fn a_server_takes_as_many_hotkeys_as_it_says() {
    let miner = serve(config().max_connections(2)).await;
    let connect = async |n: u8| {
        let peer = within(RawClient::connect(miner.addr())).await;
        let response = within(peer.send_handshake(&peer.handshake(&key(n)))).await;
        (peer, response)
    };
    let (first, accepted) = connect(0).await;
    assert!(accepted.accepted);
    let (second, accepted) = connect(1).await;
    assert!(accepted.accepted);

    let (third, refusal) = connect(2).await;
    assert!(!refusal.accepted);
    assert_eq!(refusal.miner_hotkey, hotkey(MINER), "it is no stranger");
    assert_eq!(refused(&miner, "too_many_connections"), 1);

    // A hotkey that is connected already takes no place by connecting anew.
    let (first_again, accepted) = connect(0).await;
    assert!(accepted.accepted);
    let reason = within(first.connection.closed()).await;
    assert_eq!(lightning_tests::raw::close_of(&reason).0, "replaced");
    assert_serves(&first_again).await;
    assert_serves(&second).await;

    // Who leaves makes room, also for a peer that was refused before.
    second.close();
    until("one hotkey is gone", async || {
        miner.server().stats().callers.len() == 1
    })
    .await;
    within(third.authenticate(&key(2))).await;
    assert_serves(&third).await;
}

#[tokio::test]
async fn a_client_connects_to_as_many_addresses_as_it_says() {
    let first = serve(config()).await;
    let second = serve(config()).await;
    let limited = LightningClientConfig::builder().max_connections(1).build();
    let client = validator_with(CLIENT, limited.unwrap(), vec![first.axon(), second.axon()]).await;
    // Which of the two it took is not said.
    let (near, far) = if client.stats().connections[0].addr == first.addr().to_string() {
        (first, second)
    } else {
        (second, first)
    };
    assert_eq!(client.stats().connections.len(), 1);
    assert!(call(&client, &near.axon()).await.is_ok());

    for _ in 0..2 {
        // No attempt was made, so there is no pause before the next.
        let error = call(&client, &far.axon()).await.unwrap_err();
        assert_eq!(error.phase(), Phase::Dial);
        assert!(error.is_retry_safe());
        assert!(
            matches!(error.kind(), CallErrorKind::ConnectionLimit(1)),
            "{error}"
        );
        assert!(error.to_string().contains("connection limit (1) reached"));
    }
    assert_eq!(far.server().stats().handshakes, 0);
    assert!(call(&client, &near.axon()).await.is_ok());

    // A dead connection gives way to a query.
    let near_axon = near.axon();
    near.stop().await;
    until_dead(&client).await;
    assert!(call(&client, &far.axon()).await.is_ok());
    let connections = client.stats().connections;
    assert_eq!(connections.len(), 1);
    assert_eq!(connections[0].addr, far.addr().to_string());
    let error = call(&client, &near_axon).await.unwrap_err();
    assert!(matches!(error.kind(), CallErrorKind::ConnectionLimit(1)));
}

#[tokio::test]
async fn a_dead_connection_gives_way_to_a_new_miner() {
    let first = serve(config()).await;
    let second = serve(config()).await;
    let limited = LightningClientConfig::builder().max_connections(1).build();
    let mut client = validator_with(CLIENT, limited.unwrap(), vec![first.axon()]).await;
    first.stop().await;
    until_dead(&client).await;
    within(client.initialize_connections(vec![second.axon()]))
        .await
        .unwrap();
    let connections = client.stats().connections;
    assert_eq!(connections.len(), 1);
    assert_eq!(connections[0].addr, second.addr().to_string());
    assert!(connections[0].closed.is_none());
}

/// Hotkeys at one address share a connection, which counts once.
#[tokio::test]
async fn hotkeys_at_one_address_take_one_place() {
    let server = RawServer::bind(ALPN_BOTH);
    let keys = [MINER, OTHER_MINER].map(|seed| Keypair::from_seed(&seed));
    let axons = [MINER, OTHER_MINER].map(|seed| axon(&hotkey(seed), server.addr()));
    let serving = tokio::spawn(async move {
        let peer = server.accept().await;
        for key in &keys {
            peer.authenticate(key).await;
        }
        peer.connection.closed().await;
    });
    let limited = LightningClientConfig::builder().max_connections(1).build();
    let [first, second] = axons;
    let mut client = validator_with(CLIENT, limited.unwrap(), vec![first]).await;
    within(client.initialize_connections(vec![second]))
        .await
        .unwrap();
    let stats = client.stats();
    assert_eq!(stats.connections.len(), 1);
    assert_eq!(stats.active_miners, 2);
    let mut hotkeys = vec![hotkey(MINER), hotkey(OTHER_MINER)];
    hotkeys.sort();
    assert_eq!(stats.connections[0].hotkeys, hotkeys);
    within(client.close_all_connections()).await.unwrap();
    within(serving).await.unwrap();
}

/// Returns as many bytes as it is asked for.
struct Produce;

impl SynapseHandler for Produce {
    fn handle(
        &self,
        _synapse_type: &str,
        data: HashMap<String, rmpv::Value>,
    ) -> Result<HashMap<String, rmpv::Value>> {
        let len = data["len"].as_u64().unwrap_or_default();
        Ok(payload(vec![7; usize::try_from(len).unwrap()]))
    }
}

#[tokio::test]
async fn an_answer_over_the_limit_is_replaced_by_an_error() {
    const LIMIT: usize = 1024 * 1024;
    let server = miner_with(
        MINER,
        0,
        config().max_frame_payload_bytes(LIMIT).build().unwrap(),
    );
    let produce: Arc<dyn SynapseHandler> = Arc::new(Produce);
    server
        .register_synapse_handler("produce".into(), produce)
        .await
        .unwrap();
    let miner = Miner::serve(server).await;
    let client = validator(CLIENT, vec![miner.axon()]).await;
    let ask = async |len: usize| {
        let data = HashMap::from([("len".to_owned(), rmpv::Value::from(len))]);
        let request = QuicRequest::new("produce".into(), data);
        within(client.query_axon(miner.axon(), request))
            .await
            .unwrap()
    };
    // A hundred bytes are more than what stands around the data in a frame.
    let fits = ask(LIMIT - 100).await;
    assert!(fits.success);
    assert_eq!(fits.data, payload(vec![7; LIMIT - 100]));
    for len in [LIMIT, LIMIT + 1, 3 * LIMIT] {
        let answer = ask(len).await;
        assert!(!answer.success, "{len}");
        assert_eq!(
            answer.error.as_deref(),
            Some("internal serialization error")
        );
    }
    assert!(ask(10).await.success);
    assert_eq!(
        miner.server().stats().handshakes,
        1,
        "the connection lived on"
    );
}

/// A client has a limit of its own, however the answer comes.
#[tokio::test]
async fn an_answer_over_the_clients_limit_is_refused_by_it() {
    const LIMIT: usize = 1024 * 1024;
    let server = miner_with(MINER, 0, config().build().unwrap());
    let produce: Arc<dyn SynapseHandler> = Arc::new(Produce);
    server
        .register_synapse_handler("produce".into(), produce)
        .await
        .unwrap();
    let miner = Miner::serve(server).await;
    let limited = LightningClientConfig::builder().max_frame_payload_bytes(LIMIT);
    let client = validator_with(CLIENT, limited.build().unwrap(), vec![miner.axon()]).await;
    // Asked by a small request and by one that gets a stream of its own.
    for padding in [0, 100_000] {
        let ask = async |len: usize| {
            let data = HashMap::from([
                ("len".to_owned(), rmpv::Value::from(len)),
                ("padding".to_owned(), rmpv::Value::from(vec![7; padding])),
            ]);
            let data = Payload::from_map(&data).unwrap();
            let axon = miner.axon();
            let call = client.call_payload(&axon, "produce", &data, CallOptions::default());
            within(call).await
        };
        let fits = ask(LIMIT - 100).await.unwrap();
        assert!(fits.data.get_bin("payload").unwrap() == vec![7; LIMIT - 100]);
        for len in [LIMIT, 3 * LIMIT] {
            let error = ask(len).await.unwrap_err();
            assert_eq!(error.phase(), Phase::Wait);
            assert!(
                error.to_string().contains("exceeds maximum 1048576"),
                "{error}"
            );
        }
        ask(10).await.unwrap();
    }
    assert_eq!(
        miner.server().stats().handshakes,
        1,
        "the connection lived on"
    );
}

async fn call(
    client: &LightningClient,
    target: &QuicAxonInfo,
) -> std::result::Result<(), CallError> {
    let empty = Payload::empty();
    let call = client.call_payload(target, "echo", &empty, CallOptions::default());
    within(call).await.map(drop)
}

async fn until_dead(client: &LightningClient) {
    until("the client knows that the miner is gone", async || {
        client.stats().connections[0].closed.is_some()
    })
    .await;
}
