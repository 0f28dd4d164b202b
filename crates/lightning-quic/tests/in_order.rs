//! `InOrder` on real streams, whose packets get lost.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use lightning_quic::{
    EndpointSettings, InOrder, SourceFilter, TransportOptions, new_endpoint, new_filtered_endpoint,
    tls,
};
use quinn::{Connection, Endpoint, ReadError};

/// Loses every second packet of a stretch.
#[derive(Default)]
struct Lossy {
    seen: AtomicUsize,
}

impl SourceFilter for Lossy {
    fn allows(&self, _ip: IpAddr) -> bool {
        let seen = self.seen.fetch_add(1, Relaxed);
        !((400..800).contains(&seen) && seen.is_multiple_of(2))
    }
}

struct Pair {
    client: Connection,
    server: Connection,
    _endpoints: [Endpoint; 2],
}

/// Connects two endpoints; the server's loses packets in both directions.
async fn pair(lossy: bool) -> Pair {
    let options = TransportOptions::default()
        .segmentation_offload(false)
        .max_udp_payload(1200);
    let transport = || {
        let mut transport = options.transport();
        transport.max_uni_streams = 8;
        transport.build().unwrap()
    };
    let identity = tls::SelfSigned::generate("localhost").unwrap();
    let config = tls::server_config(&identity, &[b"x"], transport()).unwrap();
    let loopback = "127.0.0.1:0".parse().unwrap();
    let settings: EndpointSettings = options.endpoint();
    let server = if lossy {
        let filter = Arc::new(Lossy::default());
        new_filtered_endpoint(loopback, &settings, Some(config), filter).unwrap()
    } else {
        new_endpoint(loopback, &settings, Some(config)).unwrap()
    };
    let mut client = new_endpoint(loopback, &settings, None).unwrap();
    client.set_default_client_config(tls::any_certificate(&[b"x"], transport()).unwrap());
    let dial = client
        .connect(server.local_addr().unwrap(), "localhost")
        .unwrap();
    let accept = async { server.accept().await.unwrap().await.unwrap() };
    let (ours, theirs) = tokio::join!(dial, accept);
    Pair {
        client: ours.unwrap(),
        server: theirs,
        _endpoints: [client, server],
    }
}

/// Sends a message one way and reads it; returns whether it was read out of order.
async fn transfer(pair: &Pair, len: usize, much: bool) -> bool {
    let sent: Bytes = (0..len)
        .map(|at| (at ^ (at >> 8) ^ (at >> 16)) as u8)
        .collect();
    let mut send = pair.client.open_uni().await.unwrap();
    let message = sent.clone();
    let sending = tokio::spawn(async move {
        send.write_chunk(message).await.unwrap();
        // Left open, for a look at the stream's state.
        send
    });
    let mut recv = pair.server.accept_uni().await.unwrap();
    let mut order = InOrder::default();
    let mut received = Vec::with_capacity(len);
    let mut chunks: [Bytes; 4] = Default::default();
    while received.len() < len {
        let read = order.read_chunks(&mut recv, &mut chunks, much).await;
        let count = read.unwrap().unwrap();
        for chunk in &chunks[..count] {
            received.extend_from_slice(chunk);
        }
        assert_eq!(order.position(), received.len() as u64);
    }
    assert!(received == sent, "{len} bytes differ");
    let mut send = sending.await.unwrap();
    if let Some(error) = ordered_read_error(&mut recv).await {
        // After which quinn knows the stream no more.
        assert_eq!(error, ReadError::IllegalOrderedRead);
        return true;
    }
    send.finish().unwrap();
    let end = order.read_chunks(&mut recv, &mut chunks, much).await;
    assert_eq!(end.unwrap(), None);
    false
}

/// The error of an ordered read, if it fails at once.
async fn ordered_read_error(recv: &mut quinn::RecvStream) -> Option<ReadError> {
    tokio::select! {
        biased;
        read = recv.read_chunk(1, true) => read.err(),
        () = std::future::ready(()) => None,
    }
}

#[tokio::test]
async fn lost_packets_make_it_read_out_of_order() {
    let pair = pair(true).await;
    assert!(transfer(&pair, 2_000_000, true).await);
}

#[tokio::test]
async fn without_leave_it_stays_in_order() {
    let pair = pair(true).await;
    assert!(!transfer(&pair, 2_000_000, false).await);
}

#[tokio::test]
async fn sizes_around_nothing() {
    let pair = pair(false).await;
    for len in [1, 2, 1200, 100_000] {
        transfer(&pair, len, true).await;
    }
}
