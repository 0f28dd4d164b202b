//! The crate `btlightning` 0.2.15 from the registry, with the settings ours has.

use std::{collections::HashMap, sync::Arc};

use anyhow::{Result, ensure};
use async_trait::async_trait;
use published::{
    AsyncSynapseHandler, LightningClient, LightningServer, LightningServerConfig, QuicAxonInfo,
    QuicRequest, Sr25519Signer, SynapseHandler,
};
use rmpv::Value;
use tokio::task::JoinHandle;

use super::{
    Handler, PAYLOAD_KEY, Payload, SLOW_TYPE, SLOWNESS, ServerInfo, host,
    ours::{client_seed, hotkey, miner_seed, payload_len},
};

/// Starts a server and the task that serves.
pub(crate) async fn serve(miner: u32, max_streams: u32) -> Result<(ServerInfo, JoinHandle<()>)> {
    let config = LightningServerConfig::builder()
        .max_concurrent_bidi_streams(max_streams)
        .max_handshake_attempts_per_minute(1_000_000)
        .max_connections(4096)
        .build()?;
    let seed = miner_seed(miner);
    let mut server = LightningServer::with_config(hotkey(seed), host().to_string(), 0, config)?;
    server.set_miner_keypair(seed);
    server
        .register_async_synapse_handler(Handler::Async.synapse_type().into(), Arc::new(Echo))
        .await?;
    server
        .register_synapse_handler(Handler::Sync.synapse_type().into(), Arc::new(Echo))
        .await?;
    server
        .register_async_synapse_handler(SLOW_TYPE.into(), Arc::new(Slow))
        .await?;
    server.start().await?;
    let info = ServerInfo::at(server.local_addr()?, miner);
    let task = tokio::spawn(async move {
        if let Err(error) = server.serve_forever().await {
            eprintln!("the published server ended: {error}");
        }
    });
    Ok((info, task))
}

/// A client with one connection.
pub(crate) struct Client {
    inner: LightningClient,
    axon: QuicAxonInfo,
}

impl Client {
    /// Makes a client and its socket.
    pub(crate) async fn undialled(server: &ServerInfo, index: u32) -> Result<Self> {
        let mut inner = new_client(index);
        inner.create_endpoint().await?;
        Ok(Self {
            inner,
            axon: axon(server),
        })
    }

    /// Connects and authenticates.
    pub(crate) async fn connect(server: &ServerInfo, index: u32) -> Result<Self> {
        let axon = axon(server);
        let mut inner = new_client(index);
        inner.initialize_connections(vec![axon.clone()]).await?;
        ensure!(
            inner.authenticated_hotkeys().await.len() == 1,
            "cannot connect to the server or be authenticated"
        );
        Ok(Self { inner, axon })
    }

    /// Sends a payload and returns the length of what came back.
    pub(crate) async fn echo(&self, handler: Handler, payload: &Payload) -> Result<usize> {
        let data = HashMap::from([(PAYLOAD_KEY.to_owned(), Value::Binary(payload.raw.to_vec()))]);
        let response = self
            .inner
            .query_axon(
                self.axon.clone(),
                QuicRequest::new(handler.synapse_type().into(), data),
            )
            .await?;
        ensure!(response.success, "the handler failed: {:?}", response.error);
        payload_len(&response.data)
    }

    pub(crate) async fn close(self) {
        // Whether the peer heard of it does not matter here.
        let _ = self.inner.close_all_connections().await;
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

/// Makes a client that has not connected, with the hotkey number `index`.
pub(crate) fn new_client(index: u32) -> LightningClient {
    let seed = client_seed(index);
    let mut client = LightningClient::new(hotkey(seed));
    client.set_signer(Box::new(Sr25519Signer::from_seed(seed)));
    client
}

/// Describes a server to a client.
pub(crate) fn axon(server: &ServerInfo) -> QuicAxonInfo {
    let hotkey = hotkey(miner_seed(server.miner));
    QuicAxonInfo::new(hotkey, server.ip.to_string(), server.port, 4)
}

/// Echoes maps of dynamic values.
struct Echo;

impl SynapseHandler for Echo {
    fn handle(
        &self,
        _: &str,
        data: HashMap<String, Value>,
    ) -> published::Result<HashMap<String, Value>> {
        Ok(data)
    }
}

#[async_trait]
impl AsyncSynapseHandler for Echo {
    async fn handle(
        &self,
        _: &str,
        data: HashMap<String, Value>,
    ) -> published::Result<HashMap<String, Value>> {
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
    ) -> published::Result<HashMap<String, Value>> {
        tokio::time::sleep(SLOWNESS).await;
        Ok(data)
    }
}
