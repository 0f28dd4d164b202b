//! Bytes on the wire.
//!
//! Counted by a relay between client and server, the same way for every rival: UDP or TCP
//! payload in both directions, so encryption, QUIC's or TLS's framing and acknowledgements count,
//! and IP and UDP or TCP headers do not. The length of the request message by itself, which is
//! what the published crate's own table lists, stands beside it.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use anyhow::{Context, Result};
use btlightning_proto::{lane, message};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket, tcp},
    sync::OnceCell,
    task::JoinSet,
};

use crate::{
    Plan,
    measure::Outcome,
    rivals::{Client, DEFAULT_STREAMS, Handler, Payload, Rival, Server},
};

/// What one rival sends for one size.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct WireRow {
    pub(crate) rival: Rival,
    pub(crate) payload_bytes: usize,
    /// The request message with its framing, before QUIC; only for ours and the published crate.
    pub(crate) message_bytes: Option<usize>,
    /// One request at a time.
    pub(crate) alone: Outcome<PerRequest>,
    /// With 32 in flight.
    pub(crate) together: Outcome<PerRequest>,
}

/// Bytes for one request and its answer.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct PerRequest {
    pub(crate) to_server: f64,
    pub(crate) to_client: f64,
}

/// Measures all rivals but the mixed ones.
pub(crate) async fn run(plan: &Plan) -> Result<Vec<WireRow>> {
    let mut rows = Vec::new();
    for &rival in plan.rivals.iter().filter(|rival| !rival.is_mixed()) {
        plan.progress(format_args!("bytes on the wire, {}", rival.name()));
        for &payload_bytes in &plan.payloads {
            let payload = Payload::new(payload_bytes)?;
            let alone = count(rival, &payload, 1, REQUESTS).await;
            let together = count(rival, &payload, 32, REQUESTS).await;
            rows.push(WireRow {
                rival,
                payload_bytes,
                message_bytes: message_bytes(rival, &payload)?,
                alone: Outcome::of(alone),
                together: Outcome::of(together),
            });
        }
    }
    Ok(rows)
}

/// The length of the request as ours and the published crate write it to a stream.
fn message_bytes(rival: Rival, payload: &Payload) -> Result<Option<usize>> {
    let synapse_type = Handler::Async.synapse_type();
    let data = &payload.encoded;
    let is_ours = matches!(rival, Rival::OursQuery | Rival::OursPayload);
    Ok(if is_ours && lane::fits_record(synapse_type, data) {
        let mut batch = lane::Batch::default();
        lane::put_request(&mut batch, 31, 0, 0, synapse_type, data)?;
        let mut chunks = Vec::new();
        batch.take_into(&mut chunks);
        Some(chunks.iter().map(bytes::Bytes::len).sum())
    } else if is_ours || rival == Rival::Published {
        // Any time of this decade has the same length.
        Some(message::encode_request(synapse_type, data, 1_800_000_000)?.len())
    } else {
        None
    })
}

async fn count(
    rival: Rival,
    payload: &Payload,
    in_flight: usize,
    requests: usize,
) -> Result<PerRequest> {
    let server = Server::start(rival, 0, DEFAULT_STREAMS).await?;
    let relay = if rival == Rival::Tonic {
        Relay::tcp(server.info.addr()).await?
    } else {
        Relay::udp(server.info.addr()).await?
    };
    let client = Arc::new(Client::connect(rival, &server.info.through(relay.port), 0).await?);
    // Handshake, packet size discovery and the opening of long-lived streams are not counted.
    send(&client, payload, in_flight, 4 * in_flight).await?;
    let before = relay.counters();
    send(&client, payload, in_flight, requests).await?;
    let after = relay.counters();
    let per_request = |now: u64, then: u64| (now - then) as f64 / requests as f64;
    Ok(PerRequest {
        to_server: per_request(after.0, before.0),
        to_client: per_request(after.1, before.1),
    })
}

async fn send(
    client: &Arc<Client>,
    payload: &Payload,
    in_flight: usize,
    requests: usize,
) -> Result<()> {
    let mut callers = JoinSet::new();
    for caller in 0..in_flight {
        let (client, payload) = (client.clone(), payload.clone());
        let share = requests / in_flight + usize::from(caller < requests % in_flight);
        callers.spawn(async move {
            for _ in 0..share {
                client.echo(Handler::Async, &payload).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(joined) = callers.join_next().await {
        joined??;
    }
    Ok(())
}

/// Passes bytes on and counts them, for one client.
#[derive(Debug)]
struct Relay {
    port: u16,
    counted: Arc<[AtomicU64; 2]>,
    _tasks: JoinSet<Result<()>>,
}

impl Relay {
    async fn udp(server: SocketAddr) -> Result<Self> {
        let settings = lightning_quic::EndpointSettings::default();
        let open = || -> Result<UdpSocket> {
            let socket = lightning_quic::bind("127.0.0.1:0".parse()?, &settings)?;
            socket.set_nonblocking(true)?;
            Ok(UdpSocket::from_std(socket)?)
        };
        let (front, back) = (Arc::new(open()?), Arc::new(open()?));
        back.connect(server).await?;
        let port = front.local_addr()?.port();
        let counted: Arc<[AtomicU64; 2]> = Arc::default();
        let client = Arc::new(OnceCell::new());
        let mut tasks = JoinSet::new();
        tasks.spawn({
            let (front, back) = (front.clone(), back.clone());
            let (counted, client) = (counted.clone(), client.clone());
            async move {
                let mut datagram = vec![0; MAX_DATAGRAM];
                loop {
                    let (len, from) = front.recv_from(&mut datagram).await?;
                    client.get_or_init(|| async { from }).await;
                    counted[0].fetch_add(len as u64, Relaxed);
                    back.send(&datagram[..len]).await?;
                }
            }
        });
        tasks.spawn({
            let counted = counted.clone();
            async move {
                let mut datagram = vec![0; MAX_DATAGRAM];
                loop {
                    let len = back.recv(&mut datagram).await?;
                    counted[1].fetch_add(len as u64, Relaxed);
                    let client = client.get().context("an answer before any request")?;
                    front.send_to(&datagram[..len], client).await?;
                }
            }
        });
        Ok(Self {
            port,
            counted,
            _tasks: tasks,
        })
    }

    async fn tcp(server: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let counted: Arc<[AtomicU64; 2]> = Arc::default();
        let mut tasks = JoinSet::new();
        let counting = counted.clone();
        tasks.spawn(async move {
            let (client, _) = listener.accept().await?;
            let server = TcpStream::connect(server).await?;
            client.set_nodelay(true)?;
            server.set_nodelay(true)?;
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = server.into_split();
            tokio::try_join!(
                pass_on(from_client, to_server, &counting[0]),
                pass_on(from_server, to_client, &counting[1]),
            )?;
            Ok(())
        });
        Ok(Self {
            port,
            counted,
            _tasks: tasks,
        })
    }

    /// Bytes towards the server, and towards the client.
    fn counters(&self) -> (u64, u64) {
        (self.counted[0].load(Relaxed), self.counted[1].load(Relaxed))
    }
}

async fn pass_on(
    mut from: tcp::OwnedReadHalf,
    mut to: tcp::OwnedWriteHalf,
    counter: &AtomicU64,
) -> Result<()> {
    let mut buffer = vec![0; MAX_DATAGRAM];
    loop {
        let len = from.read(&mut buffer).await?;
        if len == 0 {
            return Ok(());
        }
        counter.fetch_add(len as u64, Relaxed);
        to.write_all(&buffer[..len]).await?;
    }
}

const MAX_DATAGRAM: usize = 64 * 1024;
const REQUESTS: usize = 128;
