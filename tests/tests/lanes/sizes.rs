//! Sizes: what fits a lane, what gets a stream of its own, and that nobody can tell.

use std::sync::Arc;

use async_trait::async_trait;
use btlightning::{CallOptions, Payload, RequestContext, RequestHandler, Result};
use btlightning_proto::{
    frame::MessageType,
    lane::{MAX_OVERHEAD, MAX_RECORD},
};
use lightning_keys::Keypair;
use lightning_tests::{
    CLIENT, MINER, axon, hotkey,
    raw::{ALPN_BOTH, RawServer},
    validator, within,
};
use tokio::task::JoinSet;

use crate::{Numbered, config, fixture, numbered};

/// Largest data of a request for `at-once` that shares a lane.
const LIMIT: usize = MAX_RECORD - MAX_OVERHEAD - "at-once".len();

const SIZES: [usize; 5] = [LIMIT - 1, LIMIT, LIMIT + 1, 64 * 1024, 1024 * 1024];

/// A request whose data has exactly this many bytes.
fn of_size(id: u64, len: usize) -> Numbered {
    let around = encoded(&numbered(id, len / 2)).len() - len / 2;
    let request = numbered(id, len - around);
    let off = encoded(&request).len().abs_diff(len);
    // The head of a longer value is longer.
    let request = numbered(id, len - around - off);
    assert_eq!(encoded(&request).len(), len);
    request
}

fn encoded(request: &Numbered) -> Vec<u8> {
    Payload::from_typed(request).unwrap().as_bytes().to_vec()
}

#[tokio::test]
async fn requests_of_all_sizes_are_answered_alike() {
    let f = fixture(config()).await;
    let mut replies = 0;
    for synapse_type in ["at-once", "blocking", "held"] {
        f.held.release.add_permits(SIZES.len());
        for (id, len) in SIZES.into_iter().enumerate() {
            let sent = of_size(id as u64, len);
            let options = CallOptions::default();
            let axon = f.miner.axon();
            let call = f.client.call(&axon, synapse_type, &sent, options);
            let got: Numbered = within(call).await.unwrap();
            assert!(got == sent, "{len} bytes from {synapse_type}");
            replies += 1;
        }
    }
    for len in SIZES {
        let sent = of_size(0, len);
        let axon = f.miner.axon();
        let call = f
            .client
            .call::<_, Numbered>(&axon, "nobody!", &sent, CallOptions::default());
        let error = within(call).await.unwrap_err();
        assert_eq!(crate::remote(&error), "unrecognized synapse type", "{len}");
    }
    assert_eq!(f.miner.server().stats().requests, replies);
}

/// What the client opens for a request of each size.
#[tokio::test]
async fn only_requests_beyond_the_limit_get_a_stream_of_their_own() {
    for (len, expected) in SIZES.into_iter().zip([
        MessageType::LaneOpen,
        MessageType::LaneOpen,
        MessageType::SynapsePacket,
        MessageType::SynapsePacket,
        MessageType::SynapsePacket,
    ]) {
        let server = RawServer::bind(ALPN_BOTH);
        let target = axon(&hotkey(MINER), server.addr());
        let accepting = tokio::spawn(async move {
            let peer = server.accept().await;
            peer.authenticate(&Keypair::from_seed(&MINER)).await;
            let (_, _, kind, _) = peer.next_frame().await;
            (kind, server)
        });
        let client = validator(CLIENT, vec![target.clone()]).await;
        let sent = of_size(0, len);
        let call = client.call::<_, Numbered>(&target, "at-once", &sent, CallOptions::default());
        tokio::select! {
            answer = call => panic!("nobody answers: {answer:?}"),
            accepted = within(accepting) => assert_eq!(accepted.unwrap().0, expected, "{len}"),
        }
    }
}

/// Answers with as many bytes as the id says.
struct Generous;

#[async_trait]
impl RequestHandler for Generous {
    async fn handle(&self, _context: RequestContext, data: Payload) -> Result<Payload> {
        let id = data.deserialize::<Numbered>()?.id;
        Ok(Payload::from_typed(&numbered(id, id as usize))?)
    }
}

/// Large answers to small requests have streams of their own, which small ones pass by.
#[tokio::test]
async fn small_answers_flow_beside_large_ones() {
    let f = Arc::new(fixture(config()).await);
    f.miner
        .server()
        .register_handler("generous", Arc::new(Generous));
    let mut tasks = JoinSet::new();
    for task in 0..32_u64 {
        let f = f.clone();
        tasks.spawn(async move {
            for round in 0..8 {
                let large = task % 8 == 0;
                let len = if large {
                    1024 * 1024 + round
                } else {
                    task * 100 + round
                };
                let options = CallOptions::default();
                let got: Numbered = f
                    .client
                    .call(&f.miner.axon(), "generous", &numbered(len, 0), options)
                    .await
                    .unwrap();
                assert!(got == numbered(len, len as usize), "{len} bytes");
            }
        });
    }
    within(tasks.join_all()).await;
    assert_eq!(f.miner.server().stats().handshakes, 1);
}

/// Answers around the limit of a record, which are one byte apart in what they are sent as.
#[tokio::test]
async fn answers_around_the_limit_are_whole() {
    let f = fixture(config()).await;
    f.miner
        .server()
        .register_handler("generous", Arc::new(Generous));
    for len in MAX_RECORD as u64 - 64..MAX_RECORD as u64 + 16 {
        let options = CallOptions::default();
        let axon = f.miner.axon();
        let sent = numbered(len, 0);
        let call = f.client.call(&axon, "generous", &sent, options);
        let got: Numbered = within(call).await.unwrap();
        assert!(got == numbered(len, len as usize), "{len} bytes");
    }
}
