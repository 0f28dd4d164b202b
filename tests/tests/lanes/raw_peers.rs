//! Peers that break a lane's rules, and what it costs them.

use std::sync::Arc;

use async_trait::async_trait;
use btlightning::{Payload, RequestContext, RequestHandler, Result};
use btlightning_proto::{
    close::stream::REFUSED,
    frame::MessageType,
    lane::{INITIAL_CREDIT, ServerRecord},
    message::{self, Response},
};
use lightning_keys::Keypair;
use lightning_tests::{
    CLIENT, Miner, OTHER_CLIENT,
    raw::{ALPN_OLD, Answer, RawClient, read_answer},
    until, within,
};

use crate::{
    Held, config, narrow, numbered,
    peer::{Next, RawLane, request},
    serve,
};

const BROKEN: Next = Next::Reset(REFUSED as u64);

fn data(id: u64) -> Payload {
    Payload::from_typed(&numbered(id, 20)).unwrap()
}

async fn authenticated(miner: &Miner) -> RawClient {
    let peer = within(RawClient::connect(miner.addr())).await;
    within(peer.authenticate(&Keypair::from_seed(&CLIENT))).await;
    peer
}

async fn start() -> (Miner, Arc<Held>, RawClient) {
    let (miner, held) = serve(narrow()).await;
    let peer = authenticated(&miner).await;
    (miner, held, peer)
}

/// The connection, and another lane on it, still do what they are for.
async fn assert_connection_serves(peer: &RawClient) {
    let answer = within(peer.request("at-once", &data(1))).await;
    assert_eq!((answer.success, answer.data), (true, data(1)));
    RawLane::open(peer).await.assert_serves(1).await;
}

#[tokio::test]
async fn the_server_says_how_many_requests_it_takes() {
    let (miner, _) = serve(config()).await;
    let peer = authenticated(&miner).await;
    let mut lane = RawLane::open(&peer).await;
    let requests = u64::from(128 - INITIAL_CREDIT);
    assert_eq!(
        lane.next().await,
        Next::Record(ServerRecord::Credit { requests })
    );
}

#[tokio::test]
async fn bad_requests_are_refused_and_the_lane_goes_on() {
    let (miner, _, peer) = start().await;
    let mut lane = RawLane::open(&peer).await;
    let cases: [(&str, &[u8]); 7] = [
        ("data that is nil", b"\x07\x00\x05\x07\x00\x01e\xc0"),
        ("no data", b"\x06\x00\x05\x07\x00\x01e"),
        ("two maps", b"\x08\x00\x05\x07\x00\x01e\x80\x80"),
        (
            "a number for a key",
            b"\x09\x00\x05\x07\x00\x01e\x81\x01\x01",
        ),
        ("a type without UTF-8", b"\x07\x00\x05\x07\x00\x01\xff\x80"),
        (
            "a type longer than the record",
            b"\x07\x00\x05\x07\x00\x09e\x80",
        ),
        ("an id and nothing more", b"\x02\x00\x05"),
    ];
    for (n, (what, bytes)) in cases.into_iter().enumerate() {
        // Together with a good one behind it.
        let both = [bytes, &request(9, "at-once", &data(9))].concat();
        lane.send_bytes(&both).await;
        let text = "invalid request format".to_owned();
        let refusal = ServerRecord::Failure { id: 5, text };
        assert_eq!(lane.record().await, refusal, "{what}");
        let answer = ServerRecord::Answer {
            id: 9,
            data: data(9),
        };
        assert_eq!(lane.record().await, answer, "{what}");
        let stats = miner.server().stats();
        assert_eq!(stats.requests_refused, n as u64 + 1, "{what}");
    }
}

#[tokio::test]
async fn what_is_no_record_ends_the_lane_alone() {
    let (miner, held, peer) = start().await;
    let cases: [(&str, &[u8]); 7] = [
        ("an empty record", b"\x00"),
        ("an unknown kind", b"\x02\x02\x05"),
        ("a request without an id", b"\x01\x00"),
        ("an id cut short", b"\x02\x00\x40"),
        ("bytes behind a cancel", b"\x03\x01\x05\x05"),
        ("a record too long", b"\x80\x00\x40\x01"),
        ("a record as long as can be", &[0xff; 8]),
    ];
    for (n, (what, bytes)) in cases.into_iter().enumerate() {
        let mut lane = RawLane::open(&peer).await;
        lane.assert_serves(1).await;
        // What is open on it ends with it.
        lane.request(2, "held", &data(n as u64)).await;
        held.until_began(n + 1).await;
        lane.send_bytes(bytes).await;
        assert_eq!(lane.next().await, BROKEN, "{what}");
        until("its handler was dropped", async || {
            held.dropped().len() == n + 1
        })
        .await;
        let stats = miner.server().stats();
        assert_eq!(stats.requests_refused, n as u64 + 1, "{what}");
    }
    assert_connection_serves(&peer).await;
    assert_eq!(miner.server().stats().handshakes, 1);
}

#[tokio::test]
async fn a_request_without_credit_ends_the_lane() {
    let (_miner, held, peer) = start().await;
    let mut lane = RawLane::open(&peer).await;
    for id in 0..16 {
        lane.request(id, "held", &data(id)).await;
    }
    held.until_began(16).await;
    lane.request(16, "held", &data(16)).await;
    assert_eq!(lane.next().await, BROKEN);
    assert!(!held.began().contains(&16));
    assert_connection_serves(&peer).await;
}

#[tokio::test]
async fn an_id_in_use_ends_the_lane() {
    let (_miner, held, peer) = start().await;
    let mut lane = RawLane::open(&peer).await;
    lane.request(3, "held", &data(3)).await;
    held.until_began(1).await;
    lane.request(3, "at-once", &data(3)).await;
    assert_eq!(lane.next().await, BROKEN);
    assert_connection_serves(&peer).await;
}

#[tokio::test]
async fn a_cancelled_request_is_answered_once() {
    let (_miner, held, peer) = start().await;
    let mut lane = RawLane::open(&peer).await;
    lane.request(3, "held", &data(3)).await;
    held.until_began(1).await;
    lane.cancel(3).await;
    lane.assert_fails(3, "cancelled").await;
    // Nobody's id, and one that was answered: a cancel may come too late.
    lane.cancel(3).await;
    lane.cancel(77).await;
    // The id is free again.
    lane.assert_serves(3).await;
    assert_eq!(held.dropped(), [3]);
}

#[tokio::test]
async fn a_lane_that_its_client_ends_takes_its_requests_along() {
    let (miner, held, peer) = start().await;
    let mut lane = RawLane::open(&peer).await;
    lane.request(3, "held", &data(3)).await;
    held.until_began(1).await;
    lane.finish();
    assert_eq!(lane.end().await, Next::Finished);
    until("its handler was dropped", async || held.dropped() == [3]).await;
    assert_eq!(miner.server().stats().requests_cancelled, 1);
    assert_connection_serves(&peer).await;
}

#[tokio::test]
async fn a_fifth_lane_is_refused_until_there_is_room() {
    let (_miner, _, peer) = start().await;
    let mut lanes = Vec::new();
    for id in 0..4 {
        let mut lane = RawLane::open(&peer).await;
        lane.assert_serves(id).await;
        lanes.push(lane);
    }
    let opening = message::encode_lane_open().unwrap().to_vec();
    for _ in 0..3 {
        let answer = within(peer.response(&opening)).await;
        assert_eq!(answer.error.as_deref(), Some("invalid request format"));
    }
    let mut last = lanes.pop().unwrap();
    last.finish();
    assert_eq!(last.end().await, Next::Finished);
    for lane in &mut lanes {
        lane.assert_serves(9).await;
    }
    until("there is room for another", async || {
        let (mut send, recv) = peer.connection.open_bi().await.unwrap();
        send.write_all(&opening).await.unwrap();
        send.finish().unwrap();
        // A lane that ends without a record, in place of a refusal.
        within(read_answer(recv)).await == Answer::Ended
    })
    .await;
}

#[tokio::test]
async fn lanes_are_for_authenticated_peers_of_the_new_protocol() {
    let (miner, _) = serve(config()).await;
    let opening = message::encode_lane_open().unwrap().to_vec();
    let with_request = [&opening[..], &request(1, "at-once", &data(1))].concat();
    let stranger = within(RawClient::connect(miner.addr())).await;
    let old = within(RawClient::connect_with(miner.addr(), ALPN_OLD)).await;
    within(old.authenticate(&Keypair::from_seed(&CLIENT))).await;
    for (peer, text) in [
        (&stranger, "authentication failed"),
        (&old, "invalid request format"),
    ] {
        for bytes in [&opening, &with_request] {
            let answer = within(peer.exchange(bytes)).await;
            let Answer::Frame(MessageType::SynapseResponse, payload) = answer else {
                panic!("{answer:?}");
            };
            let response = Response::decode(payload).unwrap();
            assert_eq!(response.error.as_deref(), Some(text));
        }
    }
    assert_eq!(miner.server().stats().requests, 0);
    let answer = within(old.request("at-once", &data(1))).await;
    assert!(answer.success);
    // The stranger, once it has a name.
    within(stranger.authenticate(&Keypair::from_seed(&OTHER_CLIENT))).await;
    RawLane::open(&stranger).await.assert_serves(1).await;
}

/// A lane belongs to the hotkey that opened it, not to the connection.
#[tokio::test]
async fn a_hotkey_that_moved_is_not_served_on_its_old_lane() {
    let (miner, held, peer) = start().await;
    let mut lane = RawLane::open(&peer).await;
    lane.assert_serves(1).await;
    lane.request(2, "held", &data(2)).await;
    held.until_began(1).await;
    // Another hotkey keeps the connection alive, and has a lane of its own.
    within(peer.authenticate(&Keypair::from_seed(&OTHER_CLIENT))).await;
    let mut others = RawLane::open(&peer).await;
    others.assert_serves(1).await;
    lane.assert_serves(3).await;

    let elsewhere = authenticated(&miner).await;
    RawLane::open(&elsewhere).await.assert_serves(1).await;
    for synapse_type in ["at-once", "blocking", "held"] {
        lane.request(4, synapse_type, &data(4)).await;
        lane.assert_fails(4, "authentication failed").await;
    }
    others.assert_serves(2).await;
    // What began before is answered.
    held.release.add_permits(1);
    let answer = ServerRecord::Answer {
        id: 2,
        data: data(2),
    };
    assert_eq!(lane.record().await, answer);
    assert_eq!(held.began(), [2]);
}

/// Answers a small request with more than a packet, as a record or beyond one.
struct Wordy(usize);

#[async_trait]
impl RequestHandler for Wordy {
    async fn handle(&self, _context: RequestContext, _: Payload) -> Result<Payload> {
        Ok(Payload::from_typed(&numbered(0, self.0))?)
    }
}

/// A peer that asks and never reads cannot have the server hold its answers without end.
#[tokio::test]
async fn requests_of_a_peer_that_takes_no_answers_are_not_read() {
    const REQUESTS: u64 = 20_000;
    for (len, most) in [(15_000, 8_000), (100_000, 2_000)] {
        let (miner, _, peer) = start().await;
        miner
            .server()
            .register_handler("wordy", Arc::new(Wordy(len)));
        let mut lane = RawLane::open(&peer).await;
        let requests: Vec<_> = (0..REQUESTS)
            .flat_map(|id| request(id, "wordy", &Payload::empty()))
            .collect();
        lane.send_bytes(&requests).await;
        // Another one is served meanwhile, until nothing of the first one's has moved for long.
        let other = within(RawClient::connect(miner.addr())).await;
        within(other.authenticate(&Keypair::from_seed(&OTHER_CLIENT))).await;
        let mut others = RawLane::open(&other).await;
        let of_first = |served: u64| miner.server().stats().requests - served;
        let (mut seen, mut still, mut served) = (0, 0, 0);
        while still < 300 {
            others.assert_serves(served).await;
            served += 1;
            let now = of_first(served);
            assert!(
                now <= most,
                "{now} requests were answered, and nobody takes the answers"
            );
            still = if now == seen { still + 1 } else { 0 };
            seen = now;
        }
        assert!(seen > 0);
        if len > 16_384 {
            continue;
        }
        // When they are taken, it goes on to the last one.
        for id in 0..REQUESTS {
            match lane.record().await {
                ServerRecord::Answer { id: got, .. } => assert_eq!(got, id),
                other => panic!("{other:?}"),
            }
        }
    }
}
