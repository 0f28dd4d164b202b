//! The request, sent to all miners at a time.

use std::{collections::HashMap, sync::Arc, time::Duration};

use anyhow::{Result, bail};
use btlightning::{
    CallError, CallOptions, LightningClient, LightningClientConfig, Phase, QuicAxonInfo,
    Sr25519Signer,
};
use bytes::Bytes;
use lightning_keys::Keypair;
use serde_json::Value;
use tokio::{
    sync::{OnceCell, mpsc},
    task::JoinSet,
    time::Instant,
};

use super::Request;
use crate::{axon::Axon, json};

/// Requests under way. Dropping it gives them up.
#[derive(Debug)]
pub(super) struct Fanout {
    calls: JoinSet<()>,
    events: mpsc::Receiver<Event>,
    clients: Vec<Arc<LightningClient>>,
}

/// Something that a miner has sent, or the end of waiting for it.
#[derive(Debug)]
pub(super) struct Event {
    /// Which of the axons it is about.
    pub(super) index: usize,
    pub(super) news: News,
}

/// What there is to tell.
#[derive(Debug)]
pub(super) enum News {
    /// The next chunk of a stream.
    Chunk(Bytes),
    /// The last event of this axon.
    End(std::result::Result<Answer, Failure>),
}

/// What a miner answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) content: Content,
    pub(super) latency: Duration,
}

/// An answer's data, or how much came as a stream.
#[derive(Debug)]
pub(super) enum Content {
    Data(Value),
    Stream { chunks: u64, bytes: u64 },
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: String,
    pub(super) phase: Phase,
    pub(super) retry_safe: bool,
}

/// The hotkeys at one address.
#[derive(Debug)]
struct Host {
    client: Arc<LightningClient>,
    axons: Vec<QuicAxonInfo>,
    connected: OnceCell<()>,
}

/// One request to one miner.
struct Call {
    index: usize,
    axon: QuicAxonInfo,
    host: Arc<Host>,
    request: Arc<Request>,
    events: mpsc::Sender<Event>,
}

impl Fanout {
    /// Sends the request to every axon.
    pub(super) async fn start(
        axons: &[Axon],
        request: Request,
        config: LightningClientConfig,
        pair: &Keypair,
    ) -> Result<Self> {
        let mut by_addr: HashMap<_, Vec<QuicAxonInfo>> = HashMap::new();
        for axon in axons {
            let hotkeys = by_addr.entry(axon.addr).or_default();
            let info = axon.to_info();
            if !hotkeys.contains(&info) {
                hotkeys.push(info);
            }
        }
        let mut seen = HashMap::new();
        for axon in axons {
            if let Some(addr) = seen
                .insert(axon.hotkey, axon.addr)
                .filter(|a| *a != axon.addr)
            {
                bail!(
                    "hotkey {} is given with two addresses, {addr} and {}",
                    axon.hotkey,
                    axon.addr
                );
            }
        }

        // One socket is enough for all, but several hotkeys at one address have to be known to the
        // client before the first of them is asked, and the client makes known only all it has.
        let mut clients = vec![new_client(&config, pair).await?];
        let mut hosts = HashMap::new();
        for (addr, axons) in by_addr {
            if axons.len() > 1 {
                clients.insert(0, new_client(&config, pair).await?);
            }
            let index = if axons.len() > 1 {
                0
            } else {
                clients.len() - 1
            };
            let host = Host {
                client: clients[index].clone(),
                axons,
                connected: OnceCell::new(),
            };
            hosts.insert(addr, Arc::new(host));
        }

        let request = Arc::new(request);
        let (sender, events) = mpsc::channel(EVENTS_AHEAD);
        let mut calls = JoinSet::new();
        for (index, axon) in axons.iter().enumerate() {
            let call = Call {
                index,
                axon: axon.to_info(),
                host: hosts[&axon.addr].clone(),
                request: request.clone(),
                events: sender.clone(),
            };
            calls.spawn(call.run());
        }
        Ok(Self {
            calls,
            events,
            clients,
        })
    }

    /// Returns the next event, or `None` when all calls have ended.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub(super) async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// Gives up what is under way and closes all connections.
    pub(super) async fn stop(mut self) {
        self.calls.shutdown().await;
        let mut closing = JoinSet::new();
        for client in self.clients {
            closing.spawn(async move { client.close_all_connections().await });
        }
        closing.join_all().await;
    }
}

impl Host {
    /// Returns the client, with every hotkey of this address authenticated that can be.
    async fn client(&self) -> &LightningClient {
        if self.axons.len() > 1 {
            self.connected
                .get_or_init(async || {
                    // Those that fail here say why when they are asked.
                    if let Err(error) = self.client.update_miner_registry(self.axons.clone()).await
                    {
                        tracing::warn!(%error, "cannot connect");
                    }
                })
                .await;
        }
        &self.client
    }
}

impl Call {
    async fn run(self) {
        let result = if self.request.stream {
            self.stream().await
        } else {
            self.ask().await
        };
        self.tell(News::End(result)).await;
    }

    async fn ask(&self) -> std::result::Result<Answer, Failure> {
        let options = CallOptions::default().timeout(self.request.timeout);
        let client = self.host.client().await;
        let reply = client
            .call_payload(
                &self.axon,
                &self.request.synapse,
                &self.request.data,
                options,
            )
            .await?;
        let data = json::from_payload(&reply.data).map_err(|e| Failure {
            error: format!("cannot decode the answer: {e:#}"),
            phase: Phase::Wait,
            retry_safe: false,
        })?;
        Ok(Answer {
            content: Content::Data(data),
            latency: reply.latency,
        })
    }

    async fn stream(&self) -> std::result::Result<Answer, Failure> {
        let client = self.host.client().await;
        let started = Instant::now();
        let mut stream = client
            .open_stream(&self.axon, &self.request.synapse, &self.request.data)
            .await?;
        let (mut chunks, mut bytes) = (0, 0);
        while let Some(chunk) = stream.next_bytes().await? {
            chunks += 1;
            bytes += chunk.len() as u64;
            self.tell(News::Chunk(chunk)).await;
        }
        Ok(Answer {
            content: Content::Stream { chunks, bytes },
            latency: started.elapsed(),
        })
    }

    async fn tell(&self, news: News) {
        // Nobody listens any more when the output cannot be written; the call is given up then.
        let index = self.index;
        let _ = self.events.send(Event { index, news }).await;
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        Self {
            error: error.kind().to_string(),
            phase: error.phase(),
            retry_safe: error.is_retry_safe(),
        }
    }
}

async fn new_client(
    config: &LightningClientConfig,
    pair: &Keypair,
) -> Result<Arc<LightningClient>> {
    let mut client = LightningClient::with_config(pair.hotkey(), config.clone())?;
    client.set_signer(Box::new(Sr25519Signer::from_keypair(pair.clone())));
    client.create_endpoint().await?;
    Ok(Arc::new(client))
}

/// Chunks that may wait to be printed; beyond, the miners are held back.
const EVENTS_AHEAD: usize = 64;
