//! The demo's miner: the other process.

use std::{
    collections::HashSet,
    io::{self, BufRead, Read},
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use async_trait::async_trait;
use btlightning::{
    ChunkSink, ChunkStream, LightningServer, LightningServerConfig, Payload, RequestContext,
    RequestHandler, Sr25519Signer, StreamHandler, ValidatorPermitResolver, typed_request_handler,
};
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, oneshot};

use crate::{Outcome, keys::parse_seed, output};

/// What the demo tells its miner, as one line of JSON on stdin: no other user can see it there.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Role {
    /// Seed of the miner's hotkey, in hex.
    pub(super) seed: String,
    /// Port on the loopback address; 0 picks a free one.
    pub(super) port: u16,
    /// The hotkeys that hold a permit.
    pub(super) permits: HashSet<String>,
}

/// What the miner tells once it listens.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Ready {
    /// The address it listens on.
    pub(super) listening: std::net::SocketAddr,
}

/// A request for `sum`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Numbers {
    pub(super) numbers: Vec<i64>,
}

/// The answer of `sum`.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Total {
    pub(super) total: i64,
    pub(super) mean: f64,
}

/// The answer of `whoami`.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Caller {
    pub(super) hotkey: String,
    pub(super) remote_addr: String,
}

/// A request for `count`, and the answer of `upload`.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Amount {
    pub(super) chunks: u64,
    pub(super) bytes: u64,
}

/// The data of a request or an answer that has none.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Nothing {}

/// Serves until stdin ends: on purpose, or because the demo is gone.
pub(crate) fn run() -> Result<Outcome> {
    let mut line = String::new();
    io::stdin()
        .lock()
        .read_line(&mut line)
        .context("cannot read the role")?;
    let role: Role = serde_json::from_str(&line).context("the role")?;
    let (stop, stopped) = oneshot::channel();
    // A thread of its own: a read of stdin cannot be given up, and would hold up the runtime's end.
    thread::spawn(move || {
        let _ = io::stdin().lock().read_to_end(&mut Vec::new());
        let _ = stop.send(());
    });
    crate::runtime()?.block_on(serve(role, stopped))
}

async fn serve(role: Role, stopped: oneshot::Receiver<()>) -> Result<Outcome> {
    let signer = Sr25519Signer::from_seed(*parse_seed(&role.seed)?);
    let config = LightningServerConfig::builder()
        .require_validator_permit(true)
        .build()?;
    let mut server =
        LightningServer::with_config(signer.hotkey(), "127.0.0.1".into(), role.port, config)?;
    server.set_miner_signer(Box::new(signer));
    server.set_validator_permit_resolver(Box::new(Permits(role.permits)));
    register(&server);
    server.start().await?;
    let listening = server.local_addr()?;
    output::print_json(&Ready { listening })?;
    let stop = async {
        let _ = stopped.await;
        server.stop().await
    };
    let (served, stopped) = tokio::join!(server.serve_forever(), stop);
    served?;
    stopped?;
    Ok(Outcome::Done)
}

fn register(server: &LightningServer) {
    server.register_handler("echo", Arc::new(Echo));
    server.register_handler(
        "sum",
        typed_request_handler(|_, request: Numbers| async move {
            let total: i64 = request.numbers.iter().sum();
            let mean = total as f64 / request.numbers.len() as f64;
            btlightning::Result::Ok(Total { total, mean })
        }),
    );
    server.register_handler(
        "whoami",
        typed_request_handler(|context: RequestContext, _: Nothing| async move {
            btlightning::Result::Ok(Caller {
                hotkey: context.hotkey().to_owned(),
                remote_addr: context.remote_addr().to_string(),
            })
        }),
    );
    server.register_stream_handler("count", Arc::new(Count));
    server.register_stream_handler("upload", Arc::new(Upload));
    server.register_stream_handler("work", Arc::new(Work));
    let given_up = Arc::new(Notify::new());
    server.register_stream_handler("forever", Arc::new(Forever(given_up.clone())));
    server.register_handler(
        "was_given_up",
        typed_request_handler(move |_, _: Nothing| {
            let given_up = given_up.clone();
            async move {
                given_up.notified().await;
                btlightning::Result::Ok(Nothing {})
            }
        }),
    );
}

struct Permits(HashSet<String>);

impl ValidatorPermitResolver for Permits {
    fn resolve_permitted_validators(&self) -> btlightning::Result<HashSet<String>> {
        Ok(self.0.clone())
    }
}

/// Answers with what it was sent.
struct Echo;

#[async_trait]
impl RequestHandler for Echo {
    async fn handle(&self, _: RequestContext, data: Payload) -> btlightning::Result<Payload> {
        Ok(data)
    }
}

/// Streams numbered chunks.
struct Count;

#[async_trait]
impl StreamHandler for Count {
    async fn handle(
        &self,
        _: RequestContext,
        data: Payload,
        _: ChunkStream,
        output: &mut ChunkSink,
    ) -> btlightning::Result<Payload> {
        let amount: Amount = data.deserialize()?;
        for number in 0..amount.chunks {
            output.send(number.to_be_bytes().to_vec()).await?;
        }
        Ok(Payload::empty())
    }
}

/// Counts what the validator sends.
struct Upload;

#[async_trait]
impl StreamHandler for Upload {
    async fn handle(
        &self,
        _: RequestContext,
        _: Payload,
        mut input: ChunkStream,
        _: &mut ChunkSink,
    ) -> btlightning::Result<Payload> {
        let (mut chunks, mut bytes) = (0, 0);
        while let Some(chunk) = input.next_chunk().await? {
            chunks += 1;
            bytes += chunk.len() as u64;
        }
        Ok(Payload::from_typed(&Amount { chunks, bytes })?)
    }
}

/// Says that it has begun, and needs a while to finish.
struct Work;

#[async_trait]
impl StreamHandler for Work {
    async fn handle(
        &self,
        _: RequestContext,
        _: Payload,
        _: ChunkStream,
        output: &mut ChunkSink,
    ) -> btlightning::Result<Payload> {
        output.send("begun").await?;
        tokio::time::sleep(WORK).await;
        output.send("done").await?;
        Ok(Payload::empty())
    }
}

/// Says that it has begun, never finishes, and takes note when it is dropped.
struct Forever(Arc<Notify>);

#[async_trait]
impl StreamHandler for Forever {
    async fn handle(
        &self,
        _: RequestContext,
        _: Payload,
        _: ChunkStream,
        output: &mut ChunkSink,
    ) -> btlightning::Result<Payload> {
        let _dropped = NotifyOnDrop(&self.0);
        output.send("begun").await?;
        std::future::pending().await
    }
}

struct NotifyOnDrop<'a>(&'a Notify);

impl Drop for NotifyOnDrop<'_> {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

/// Long enough that a shutdown begins meanwhile.
const WORK: Duration = Duration::from_millis(300);
