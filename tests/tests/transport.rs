//! The transport options, and large messages over a path that loses every second packet for a
//! while.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{net::SocketAddr, sync::Arc};

use async_trait::async_trait;
use btlightning::{
    CallOptions, ChunkSink, ChunkStream, Congestion, LightningClient, LightningError, Payload,
    QuicAxonInfo, RequestContext, RequestHandler, Result, Sr25519Signer, StreamHandler,
    TransportOptions,
};
use bytes::Bytes;
use lightning_tests::{CLIENT, Miner, hotkey, miner, within};
use serde::{Deserialize, Serialize};
use tokio::{net::UdpSocket, sync::OnceCell, task::JoinSet};

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Blob {
    #[serde(with = "serde_bytes")]
    bytes: Vec<u8>,
}

/// Returns what it gets.
struct Echo;

#[async_trait]
impl RequestHandler for Echo {
    async fn handle(&self, _context: RequestContext, data: Payload) -> Result<Payload> {
        Ok(data)
    }
}

/// Sends many chunks.
struct Chunks;

#[async_trait]
impl StreamHandler for Chunks {
    async fn handle(
        &self,
        _context: RequestContext,
        data: Payload,
        _input: ChunkStream,
        output: &mut ChunkSink,
    ) -> Result<Payload> {
        for index in 0..CHUNKS {
            output.send(chunk(index)).await?;
        }
        Ok(data)
    }
}

#[tokio::test]
async fn chosen_options_work_on_both_sides() {
    for congestion in [Congestion::Cubic, Congestion::Bbr] {
        let options = TransportOptions::default()
            .congestion(congestion)
            .segmentation_offload(false)
            .max_udp_payload(1350)
            .socket_buffer(128 * 1024)
            .stream_receive_window(64 * 1024)
            .receive_window(96 * 1024)
            .send_window(64 * 1024);
        let miner = serve(options).await;
        let client = connect(options, miner.axon()).await;
        assert_eq!(echo(&client, &miner.axon(), 1_000_000).await, 1_000_000);
        assert_eq!(echo(&client, &miner.axon(), 10).await, 10);
        client.rebind().unwrap();
        assert_eq!(echo(&client, &miner.axon(), 100_000).await, 100_000);
    }
}

#[tokio::test]
async fn options_are_checked_and_come_first() {
    let config_error = |result: Result<()>| match result {
        Err(LightningError::Config(text)) => text,
        other => panic!("expected a config error, got {other:?}"),
    };
    let narrow = TransportOptions::default().max_udp_payload(1199);
    let good = TransportOptions::default();

    let mut client = LightningClient::new(hotkey(CLIENT));
    let text = config_error(client.set_transport(narrow));
    assert!(
        text.contains("max_udp_payload") && text.contains("1200"),
        "{text}"
    );
    client.set_transport(good).unwrap();
    client.create_endpoint().await.unwrap();
    let text = config_error(client.set_transport(good));
    assert!(text.contains("before the endpoint"), "{text}");

    let mut server = miner();
    let text = config_error(server.set_transport(narrow));
    assert!(text.contains("max_udp_payload"), "{text}");
    server.set_transport(good).unwrap();
    server.start().await.unwrap();
    let text = config_error(server.set_transport(good));
    assert!(text.contains("before the server"), "{text}");
}

/// Requests, answers and streams are put in order by our readers, not by quinn.
#[tokio::test]
async fn large_messages_survive_a_spell_of_heavy_loss() {
    let options = TransportOptions::default().max_udp_payload(1200);
    let miner = serve(options).await;
    let relay = Relay::start(miner.addr()).await;
    let axon = QuicAxonInfo::new(miner.axon().hotkey, "127.0.0.1".into(), relay.port, 4);
    let client = connect(options, axon.clone()).await;
    assert_eq!(echo(&client, &axon, LARGE).await, LARGE);

    let request = Payload::from_typed(&Blob { bytes: vec![] }).unwrap();
    let mut stream = within(client.open_stream(&axon, "chunks", &request))
        .await
        .unwrap();
    for index in 0..CHUNKS {
        let received = within(stream.next_bytes()).await.unwrap();
        assert!(received == Some(Bytes::from(chunk(index))), "chunk {index}");
    }
    assert_eq!(within(stream.next_bytes()).await.unwrap(), None);
}

async fn serve(options: TransportOptions) -> Miner {
    let mut server = miner();
    server.set_transport(options).unwrap();
    server.register_handler("echo", Arc::new(Echo));
    server.register_stream_handler("chunks", Arc::new(Chunks));
    Miner::serve(server).await
}

async fn connect(options: TransportOptions, axon: QuicAxonInfo) -> LightningClient {
    let mut client = LightningClient::new(hotkey(CLIENT));
    client.set_transport(options).unwrap();
    client.set_signer(Box::new(Sr25519Signer::from_seed(CLIENT)));
    within(client.initialize_connections(vec![axon]))
        .await
        .unwrap();
    client
}

/// Sends bytes and compares what comes back; returns how many there were.
async fn echo(client: &LightningClient, axon: &QuicAxonInfo, len: usize) -> usize {
    let sent = Blob {
        bytes: pattern(len, 7),
    };
    let call = client.call(axon, "echo", &sent, CallOptions::default());
    let back: Blob = within(call).await.unwrap();
    assert!(back == sent, "the echo of {len} bytes differs");
    back.bytes.len()
}

fn chunk(index: usize) -> Vec<u8> {
    pattern(CHUNK_BYTES, index)
}

/// Bytes of which no two places look alike for long.
fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len)
        .map(|at| (at.wrapping_mul(31) ^ (at >> 8) ^ (at >> 16) ^ seed) as u8)
        .collect()
}

/// Passes packets on for one client, and loses every second one for a while, in both directions.
struct Relay {
    port: u16,
    _tasks: JoinSet<()>,
}

impl Relay {
    async fn start(server: SocketAddr) -> Self {
        let front = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let back = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        back.connect(server).await.unwrap();
        let port = front.local_addr().unwrap().port();
        let client = Arc::new(OnceCell::new());
        let mut tasks = JoinSet::new();
        tasks.spawn({
            let (front, back, client) = (front.clone(), back.clone(), client.clone());
            async move {
                let mut datagram = [0; 2048];
                let mut passes = loses_a_spell();
                while let Ok((len, from)) = front.recv_from(&mut datagram).await {
                    client.get_or_init(|| async { from }).await;
                    if passes(len) {
                        let _ = back.send(&datagram[..len]).await;
                    }
                }
            }
        });
        tasks.spawn(async move {
            let mut datagram = [0; 2048];
            let mut passes = loses_a_spell();
            while let Ok(len) = back.recv(&mut datagram).await {
                if let Some(client) = client.get().filter(|_| passes(len)) {
                    let _ = front.send_to(&datagram[..len], client).await;
                }
            }
        });
        Self {
            port,
            _tasks: tasks,
        }
    }
}

/// Tells which packets pass: of the large ones, every second of a spell does not, and there is a
/// spell every few thousand.
fn loses_a_spell() -> impl FnMut(usize) -> bool {
    let mut large = 0_usize;
    move |len| {
        if len < 1000 {
            return true;
        }
        large += 1;
        !((1000..1600).contains(&(large % 4000)) && large.is_multiple_of(2))
    }
}

const LARGE: usize = 8 * 1024 * 1024;
const CHUNKS: usize = 100;
const CHUNK_BYTES: usize = 64 * 1024;
