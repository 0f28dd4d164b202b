//! The request, sent to all miners at a time.

use std::{collections::HashMap, sync::Arc, time::Duration};

use anyhow::{Result, bail};
use btlightning::{
    CallError, LightningClient, LightningClientConfig, Many, ManyOptions, Phase, QuicAxonInfo,
    Reply, Sr25519Signer, TransportOptions,
};
use bytes::Bytes;
use lightning_keys::Keypair;
use serde_json::Value;
use tokio::{sync::mpsc, task::JoinSet, time::Instant};

use super::Request;
use crate::{axon::Axon, json};

/// Requests under way. Dropping it gives them up.
#[derive(Debug)]
pub(super) struct Fanout {
    client: Arc<LightningClient>,
    asked: Asked,
}

/// The two ways to ask.
#[derive(Debug)]
enum Asked {
    /// For one answer each.
    Answers(Many),
    /// For streams, which are tasks of their own.
    Streams {
        calls: JoinSet<()>,
        events: mpsc::Receiver<Event>,
    },
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

/// One request for a stream from one miner.
struct Call {
    index: usize,
    axon: QuicAxonInfo,
    client: Arc<LightningClient>,
    request: Arc<Request>,
    events: mpsc::Sender<Event>,
}

impl Fanout {
    /// Sends the request to every axon.
    pub(super) async fn start(
        axons: &[Axon],
        request: Request,
        config: LightningClientConfig,
        transport: TransportOptions,
        pair: &Keypair,
    ) -> Result<Self> {
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
        let mut client = LightningClient::with_config(pair.hotkey(), config)?;
        client.set_signer(Box::new(Sr25519Signer::from_keypair(pair.clone())));
        client.set_transport(transport)?;
        client.create_endpoint().await?;
        let client = Arc::new(client);
        let infos: Vec<_> = axons.iter().map(|axon| axon.to_info()).collect();
        let asked = if request.stream {
            stream_from_all(&client, infos, request)
        } else {
            let options = ManyOptions::default()
                .concurrency(axons.len())
                .timeout(request.timeout);
            Asked::Answers(client.query_many(infos, &request.synapse, &request.data, options))
        };
        Ok(Self { client, asked })
    }

    /// Returns the next event, or `None` when all calls have ended.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub(super) async fn next(&mut self) -> Option<Event> {
        match &mut self.asked {
            Asked::Answers(answers) => {
                let answer = answers.next().await?;
                Some(Event {
                    index: answer.index,
                    news: News::End(decoded(answer.result)),
                })
            }
            Asked::Streams { events, .. } => events.recv().await,
        }
    }

    /// Gives up what is under way and closes all connections.
    pub(super) async fn stop(self) {
        match self.asked {
            Asked::Answers(answers) => drop(answers),
            Asked::Streams { mut calls, .. } => calls.shutdown().await,
        }
        if let Err(error) = self.client.close_all_connections().await {
            tracing::warn!(%error, "cannot close the connections");
        }
    }
}

fn stream_from_all(
    client: &Arc<LightningClient>,
    axons: Vec<QuicAxonInfo>,
    request: Request,
) -> Asked {
    let request = Arc::new(request);
    let (sender, events) = mpsc::channel(EVENTS_AHEAD);
    let mut calls = JoinSet::new();
    for (index, axon) in axons.into_iter().enumerate() {
        let call = Call {
            index,
            axon,
            client: client.clone(),
            request: request.clone(),
            events: sender.clone(),
        };
        calls.spawn(call.run());
    }
    Asked::Streams { calls, events }
}

fn decoded(result: std::result::Result<Reply, CallError>) -> std::result::Result<Answer, Failure> {
    let reply = result?;
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

impl Call {
    async fn run(self) {
        let result = self.stream().await;
        self.tell(News::End(result)).await;
    }

    async fn stream(&self) -> std::result::Result<Answer, Failure> {
        let started = Instant::now();
        let mut stream = self
            .client
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

/// Chunks that may wait to be printed; beyond, the miners are held back.
const EVENTS_AHEAD: usize = 64;
