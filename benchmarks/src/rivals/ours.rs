//! This repository's crate.

use std::{collections::HashMap, sync::Arc};

use anyhow::{Context, Result, ensure};
use async_trait::async_trait;
use btlightning::{
    AsyncSynapseHandler, CallOptions, LightningClient, LightningServer, LightningServerConfig,
    QuicAxonInfo, QuicRequest, RequestContext, RequestHandler, Sr25519Signer, SynapseHandler,
};
use rmpv::Value;
use tokio::task::JoinHandle;

use super::{Handler, PAYLOAD_KEY, Payload, SLOW_TYPE, SLOWNESS, ServerInfo, host};

/// Starts a server and the task that serves.
pub(crate) async fn serve(miner: u32, max_streams: u32) -> Result<(ServerInfo, JoinHandle<()>)> {
    let config = LightningServerConfig::builder()
        .max_concurrent_bidi_streams(max_streams)
        .max_handshake_attempts_per_minute(1_000_000)
        .max_connections(4096)
        .max_unauthenticated_connections(4096)
        .max_unauthenticated_per_ip(4096)
        .build()?;
    let signer = Sr25519Signer::from_seed(miner_seed(miner));
    let mut server = LightningServer::with_config(signer.hotkey(), host().to_string(), 0, config)?;
    server.set_miner_signer(Box::new(signer));
    let echo = Handler::Async.synapse_type();
    let sync = Handler::Sync.synapse_type();
    server
        .register_async_synapse_handler(echo.into(), Arc::new(Echo))
        .await?;
    server
        .register_synapse_handler(sync.into(), Arc::new(Echo))
        .await?;
    server
        .register_async_synapse_handler(SLOW_TYPE.into(), Arc::new(Slow))
        .await?;
    server.register_handler(zero_copy(echo), Arc::new(Raw));
    server
        .register_synapse_handler(zero_copy(sync), Arc::new(Raw))
        .await?;
    server.start().await?;
    let info = ServerInfo::at(server.local_addr()?, miner);
    let task = tokio::spawn(async move {
        if let Err(error) = server.serve_forever().await {
            eprintln!("our server ended: {error}");
        }
    });
    Ok((info, task))
}

/// A client with one connection.
pub(crate) struct Client {
    inner: LightningClient,
    axon: QuicAxonInfo,
    zero_copy: bool,
}

impl Client {
    /// Makes a client and its socket.
    pub(crate) async fn undialled(
        server: &ServerInfo,
        index: u32,
        zero_copy: bool,
    ) -> Result<Self> {
        let mut inner = new_client(index);
        inner.create_endpoint().await?;
        Ok(Self {
            inner,
            axon: axon(server),
            zero_copy,
        })
    }

    /// Connects and authenticates.
    pub(crate) async fn connect(server: &ServerInfo, index: u32, zero_copy: bool) -> Result<Self> {
        let axon = axon(server);
        let mut inner = new_client(index);
        inner.initialize_connections(vec![axon.clone()]).await?;
        ensure!(
            inner.stats().active_miners == 1,
            "cannot connect to our server or be authenticated"
        );
        Ok(Self {
            inner,
            axon,
            zero_copy,
        })
    }

    /// Sends a payload and returns the length of what came back.
    pub(crate) async fn echo(&self, handler: Handler, payload: &Payload) -> Result<usize> {
        let synapse_type = handler.synapse_type();
        if self.zero_copy {
            let options = CallOptions::default();
            let reply = self
                .inner
                .call_payload(
                    &self.axon,
                    zero_copy_type(handler),
                    &payload.encoded,
                    options,
                )
                .await?;
            let data = reply.data.get_bin(PAYLOAD_KEY);
            return Ok(data.context("the answer has no payload")?.len());
        }
        let data = HashMap::from([(PAYLOAD_KEY.to_owned(), Value::Binary(payload.raw.to_vec()))]);
        let response = self
            .inner
            .query_axon(
                self.axon.clone(),
                QuicRequest::new(synapse_type.into(), data),
            )
            .await?;
        ensure!(response.success, "the handler failed: {:?}", response.error);
        payload_len(&response.data)
    }

    pub(crate) fn mtu(&self) -> Option<u16> {
        self.inner.stats().connections.first().map(|c| c.mtu)
    }

    pub(crate) async fn close(self) {
        // Whether the peer heard of it does not matter here.
        let _ = self.inner.close_all_connections().await;
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("axon", &self.axon)
            .finish_non_exhaustive()
    }
}

/// Makes a client that has not connected, with the hotkey number `index`.
pub(crate) fn new_client(index: u32) -> LightningClient {
    let signer = Sr25519Signer::from_seed(client_seed(index));
    let mut client = LightningClient::new(signer.hotkey());
    client.set_signer(Box::new(signer));
    client
}

/// Describes a server to a client.
pub(crate) fn axon(server: &ServerInfo) -> QuicAxonInfo {
    let hotkey = hotkey(miner_seed(server.miner));
    QuicAxonInfo::new(hotkey, server.ip.to_string(), server.port, 4)
}

/// The key of the miner number `index`.
pub(crate) fn miner_seed(index: u32) -> [u8; 32] {
    let mut seed = [1; 32];
    seed[..4].copy_from_slice(&index.to_be_bytes());
    seed
}

/// The key of the client number `index`.
pub(crate) fn client_seed(index: u32) -> [u8; 32] {
    let mut seed = [2; 32];
    seed[..4].copy_from_slice(&index.to_be_bytes());
    seed
}

/// The SS58 address of a key.
pub(crate) fn hotkey(seed: [u8; 32]) -> String {
    Sr25519Signer::from_seed(seed).hotkey()
}

/// The length of the echoed payload.
pub(crate) fn payload_len(data: &HashMap<String, Value>) -> Result<usize> {
    match data.get(PAYLOAD_KEY) {
        Some(Value::Binary(bytes)) => Ok(bytes.len()),
        other => anyhow::bail!(
            "the answer has {} in place of a payload",
            if other.is_some() {
                "another type"
            } else {
                "nothing"
            }
        ),
    }
}

/// Echoes maps of dynamic values, as the published crate's handlers have to.
struct Echo;

impl SynapseHandler for Echo {
    fn handle(
        &self,
        _: &str,
        data: HashMap<String, Value>,
    ) -> btlightning::Result<HashMap<String, Value>> {
        Ok(data)
    }
}

#[async_trait]
impl AsyncSynapseHandler for Echo {
    async fn handle(
        &self,
        _: &str,
        data: HashMap<String, Value>,
    ) -> btlightning::Result<HashMap<String, Value>> {
        Ok(data)
    }
}

/// Echoes late.
struct Slow;

#[async_trait]
impl AsyncSynapseHandler for Slow {
    async fn handle(
        &self,
        _: &str,
        data: HashMap<String, Value>,
    ) -> btlightning::Result<HashMap<String, Value>> {
        tokio::time::sleep(SLOWNESS).await;
        Ok(data)
    }
}

/// Echoes payloads without decoding them.
struct Raw;

#[async_trait]
impl RequestHandler for Raw {
    async fn handle(
        &self,
        _: RequestContext,
        data: btlightning::Payload,
    ) -> btlightning::Result<btlightning::Payload> {
        Ok(data)
    }
}

impl SynapseHandler for Raw {
    fn handle(
        &self,
        _: &str,
        data: HashMap<String, Value>,
    ) -> btlightning::Result<HashMap<String, Value>> {
        Ok(data)
    }

    fn handle_payload(
        &self,
        _: &str,
        data: btlightning::Payload,
    ) -> btlightning::Result<btlightning::Payload> {
        Ok(data)
    }
}

fn zero_copy(synapse_type: &str) -> String {
    format!("{synapse_type}_raw")
}

fn zero_copy_type(handler: Handler) -> &'static str {
    match handler {
        Handler::Async => "echo_raw",
        Handler::Sync => "sync_raw",
    }
}
