//! The validator's side: connections to miners, kept and renewed, and the requests on them.

mod caller;
mod config;
mod core;
mod lane;
mod link;
mod many;
mod registry;
mod stats;
mod streaming;

use std::{
    collections::{HashMap, HashSet},
    fmt,
    net::{Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use btlightning_proto::{ALPN_V0, ALPN_V1, Payload, Version, close::CloseReason, message};
use lightning_quic::{TransportOptions, new_endpoint, tls};
use serde::{Serialize, de::DeserializeOwned};

use self::core::Core;
use caller::Caller;
pub use config::{LightningClientConfig, LightningClientConfigBuilder};
use link::{Failure, Outcome, Wants};
pub use many::{DEFAULT_FAN_OUT, Many, ManyAnswer, ManyOptions};
pub use stats::{ClientStats, ConnectionStats};
pub use streaming::{DuplexCall, DuplexReceiver, DuplexSender, StreamingResponse};

use crate::{
    error::{CallError, CallErrorKind, LightningError, Phase, Result},
    signing::Signer,
    types::{QuicAxonInfo, QuicRequest, QuicResponse},
    util::unix_timestamp_secs,
};

/// Sends requests to miners over connections that it keeps.
///
/// Give it a signer, [`initialize_connections`](Self::initialize_connections), then query. A
/// connection that died is found by the next request to it and made anew; requests that find it at
/// the same time share one dial. Dropping the client closes its connections.
pub struct LightningClient {
    caller: Caller,
    transport: TransportOptions,
}

/// How one call is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct CallOptions {
    /// Longest wait for the answer once the request is sent; dialling and sending have limits of
    /// their own. For a duplex call, the time until its reply. Default: none, so until the
    /// connection dies.
    pub timeout: Option<Duration>,
    /// Requests to one miner that have to queue go in the order of this, highest first.
    /// Default: 0.
    pub priority: u8,
}

impl CallOptions {
    /// Waits no longer than this for the answer.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Goes before requests of lower priority to the same miner.
    #[must_use]
    pub fn priority(mut self, priority: u8) -> Self {
        self.priority = priority;
        self
    }
}

/// A miner's answer, still encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reply {
    /// What the handler returned.
    pub data: Payload,
    /// Time from opening the stream to the answer.
    pub latency: Duration,
}

impl LightningClient {
    /// Makes a client for the validator `wallet_hotkey` (SS58) with default settings.
    pub fn new(wallet_hotkey: String) -> Self {
        Self::from_valid(wallet_hotkey, LightningClientConfig::default())
    }

    /// Makes a client with these settings.
    ///
    /// # Errors
    ///
    /// [`LightningError::Config`] names the setting that is out of bounds.
    pub fn with_config(wallet_hotkey: String, config: LightningClientConfig) -> Result<Self> {
        config.validate()?;
        Ok(Self::from_valid(wallet_hotkey, config))
    }

    /// Returns the validator's hotkey.
    pub fn hotkey(&self) -> &str {
        &self.caller.wallet_hotkey
    }

    /// Signs handshakes with this signer.
    pub fn set_signer(&mut self, signer: Box<dyn Signer>) {
        self.caller.signer = Some(Arc::from(signer));
    }

    /// Signs handshakes with a hotkey of the Bittensor wallet folder.
    #[cfg(feature = "btwallet")]
    pub fn set_wallet(
        &mut self,
        wallet_name: &str,
        wallet_path: &str,
        hotkey_name: &str,
    ) -> Result<()> {
        let signer =
            crate::signing::BtWalletSigner::from_wallet(wallet_name, wallet_path, hotkey_name)?;
        self.set_signer(Box::new(signer));
        Ok(())
    }

    /// Chooses packet size, buffers, windows and congestion control of all connections.
    ///
    /// # Errors
    ///
    /// [`LightningError::Config`] names the option that is out of bounds, or says that the endpoint
    /// exists already.
    pub fn set_transport(&mut self, options: TransportOptions) -> Result<()> {
        if self.caller.endpoint.is_some() {
            return Err(LightningError::Config(
                "transport options must be set before the endpoint is created".into(),
            ));
        }
        options
            .validate()
            .map_err(|e| LightningError::Config(e.to_string()))?;
        self.transport = options;
        Ok(())
    }

    /// Binds the socket, for IPv4 and IPv6. Done by
    /// [`initialize_connections`](Self::initialize_connections) too; a second call does nothing.
    pub async fn create_endpoint(&mut self) -> Result<()> {
        if self.caller.endpoint.is_some() {
            return Ok(());
        }
        let config_error = |e: lightning_quic::QuicError| LightningError::Config(e.to_string());
        let config = &self.caller.core.config;
        let mut transport = self.transport.transport();
        transport.idle_timeout = config.idle_timeout;
        transport.keep_alive_interval = Some(config.keep_alive_interval);
        // Miners answer on the client's streams and open none of their own.
        transport.max_bidi_streams = 0;
        // Large answers to small requests.
        transport.max_uni_streams = MAX_LARGE_ANSWERS;
        let quic = tls::any_certificate(
            &[ALPN_V1, ALPN_V0],
            transport.build().map_err(config_error)?,
        )
        .map_err(config_error)?;
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
        let mut endpoint = new_endpoint(any, &self.transport.endpoint(), None)
            .map_err(|e| LightningError::Connection(e.to_string()))?;
        endpoint.set_default_client_config(quic);
        self.caller.endpoint = Some(endpoint);
        Ok(())
    }

    /// Connects to miners and authenticates with each. Hotkeys at one address share a connection.
    ///
    /// Miners that cannot be reached are logged and tried again when they are queried.
    ///
    /// # Errors
    ///
    /// [`LightningError::Signing`] without a signer.
    pub async fn initialize_connections(&mut self, miners: Vec<QuicAxonInfo>) -> Result<()> {
        self.create_endpoint().await?;
        self.caller.dialer()?.connect_all(miners).await;
        Ok(())
    }

    /// Brings the connections in step with this set of miners: drops absent hotkeys, closes a
    /// connection with its last hotkey, follows changes of address, authenticates new hotkeys, and
    /// allows another attempt where attempts had failed.
    pub async fn update_miner_registry(&self, miners: Vec<QuicAxonInfo>) -> Result<()> {
        self.caller.dialer()?.reconcile(miners).await;
        Ok(())
    }

    /// Sends a request and waits for its answer, however long the handler takes.
    ///
    /// An answer without success is an `Ok` here; see [`QuicResponse::into_result`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future resets the stream; the miner drops the handler.
    pub async fn query_axon(
        &self,
        axon_info: QuicAxonInfo,
        request: QuicRequest,
    ) -> Result<QuicResponse> {
        self.query(axon_info, request, None).await
    }

    /// Like [`query_axon`](Self::query_axon), waiting for the answer for at most `timeout`.
    ///
    /// The time to send the request is not part of it: it has a limit that grows with its size.
    ///
    /// # Errors
    ///
    /// [`LightningError::Transport`] `query timed out` when the time is over.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future resets the stream; the miner drops the handler.
    pub async fn query_axon_with_timeout(
        &self,
        axon_info: QuicAxonInfo,
        request: QuicRequest,
        timeout: Duration,
    ) -> Result<QuicResponse> {
        self.query(axon_info, request, Some(timeout)).await
    }

    /// Sends a request whose answer comes in chunks.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future resets the stream; the miner drops the handler.
    pub async fn query_axon_stream(
        &self,
        axon_info: QuicAxonInfo,
        request: QuicRequest,
    ) -> Result<StreamingResponse> {
        let data = Payload::from_values(request.data)?;
        Ok(self
            .open_stream(&axon_info, &request.synapse_type, &data)
            .await?)
    }

    /// Sends a typed value and returns the typed answer; both go straight from and to the bytes on
    /// the wire.
    ///
    /// # Errors
    ///
    /// The [`CallError`] says which phase failed and whether a retry is safe. What the miner
    /// answers in place of success is [`CallErrorKind::Remote`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future resets the stream; the miner drops the handler.
    pub async fn call<Req: Serialize + ?Sized, Resp: DeserializeOwned>(
        &self,
        axon: &QuicAxonInfo,
        synapse_type: &str,
        request: &Req,
        options: CallOptions,
    ) -> std::result::Result<Resp, CallError> {
        let data = Payload::from_typed(request)
            .map_err(|e| Failure::new(Phase::Send, CallErrorKind::Encode(e)).of(axon))?;
        let reply = self
            .call_payload(axon, synapse_type, &data, options)
            .await?;
        reply
            .data
            .deserialize()
            .map_err(|e| Failure::new(Phase::Wait, CallErrorKind::Decode(e)).of(axon))
    }

    /// Sends an encoded value and returns the answer as it came: nothing is decoded, and nothing
    /// copied beyond what makes a message contiguous.
    ///
    /// # Errors
    ///
    /// As [`call`](Self::call).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future resets the stream; the miner drops the handler.
    pub async fn call_payload(
        &self,
        axon: &QuicAxonInfo,
        synapse_type: &str,
        data: &Payload,
        options: CallOptions,
    ) -> std::result::Result<Reply, CallError> {
        let Outcome { result, latency } = self
            .caller
            .exchange(axon, synapse_type, data, options, Wants::Payload)
            .await?;
        match result {
            Ok(data) => Ok(Reply { data, latency }),
            Err(text) => Err(Failure::new(Phase::Wait, CallErrorKind::Remote(text)).of(axon)),
        }
    }

    /// Sends an encoded request whose answer comes in chunks.
    ///
    /// # Errors
    ///
    /// As [`call`](Self::call), for the request; the stream has errors of its own.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future resets the stream; the miner drops the handler.
    pub async fn open_stream(
        &self,
        axon: &QuicAxonInfo,
        synapse_type: &str,
        data: &Payload,
    ) -> std::result::Result<StreamingResponse, CallError> {
        let config = &self.caller.core.config;
        let frame = link::encode_request(synapse_type, data, config.max_frame_payload_bytes)
            .map_err(|e| Failure::new(Phase::Send, CallErrorKind::Encode(e)).of(axon))?;
        let (mut send, reader) = self.caller.open(axon, frame, |_| Ok(())).await?;
        send.finish();
        Ok(StreamingResponse::new(reader, config, axon.clone()))
    }

    /// Opens a call in which both sides send chunks: client streaming, server streaming, or both.
    ///
    /// # Errors
    ///
    /// As [`call`](Self::call), and [`CallErrorKind::Unsupported`] when the miner's protocol has no
    /// streams from the client.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future resets the stream; the miner drops the handler.
    pub async fn open_duplex(
        &self,
        axon: &QuicAxonInfo,
        synapse_type: &str,
        data: &Payload,
        options: CallOptions,
    ) -> std::result::Result<DuplexCall, CallError> {
        let max_payload = self.caller.core.config.max_frame_payload_bytes;
        let timeout_ms = options
            .timeout
            .map(|t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX));
        let frame =
            message::encode_duplex_open(synapse_type, data, unix_timestamp_secs(), timeout_ms)
                .and_then(|frame| frame.within(max_payload))
                .map_err(|e| Failure::new(Phase::Send, CallErrorKind::Encode(e)).of(axon))?;
        let streams = |version: Version| {
            let supported = version.has_client_streams();
            supported.then_some(()).ok_or(CallErrorKind::Unsupported)
        };
        let (send, reader) = self.caller.open(axon, frame, streams).await?;
        Ok(DuplexCall::new(
            send,
            reader,
            max_payload,
            axon.clone(),
            options.timeout,
        ))
    }

    /// Returns the version of the protocol that a miner speaks, connecting to it if need be.
    ///
    /// # Errors
    ///
    /// As [`call`](Self::call), without the phases after the handshake.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a connection that is being made goes on for others.
    pub async fn version(&self, axon: &QuicAxonInfo) -> std::result::Result<Version, CallError> {
        Ok(self.caller.link_for(axon).await?.version)
    }

    /// Returns the hotkeys that were authenticated and are in the registry, also while their
    /// connection is being renewed.
    pub async fn authenticated_hotkeys(&self) -> HashSet<String> {
        self.caller.core.registry().hotkeys()
    }

    /// Returns the connections and what QUIC knows of them.
    pub fn stats(&self) -> ClientStats {
        stats::collect(&self.caller.core)
    }

    /// Returns `total_connections`, `active_miners` and `connection_{addr}` as text;
    /// [`stats`](Self::stats) has more, typed.
    pub async fn get_connection_stats(&self) -> Result<HashMap<String, String>> {
        let stats = self.stats();
        let mut text = HashMap::with_capacity(stats.connections.len() + 2);
        text.insert(
            "total_connections".into(),
            stats.connections.len().to_string(),
        );
        text.insert("active_miners".into(), stats.active_miners.to_string());
        for connection in stats.connections {
            let state = match connection.closed {
                None => "active".to_owned(),
                Some(reason) => format!("closed({reason})"),
            };
            text.insert(format!("connection_{}", connection.addr), state);
        }
        Ok(text)
    }

    /// Closes all connections and forgets all miners. The client can be used again.
    pub async fn close_all_connections(&self) -> Result<()> {
        for link in self.caller.core.update(registry::Registry::clear) {
            link.close(CloseReason::ClientShutdown);
        }
        if let Some(endpoint) = &self.caller.endpoint {
            // Lets the close packets out; a peer that is gone must not hold us up.
            let _ = tokio::time::timeout(CLOSE_LINGER, endpoint.wait_idle()).await;
        }
        Ok(())
    }

    /// Moves the client to another UDP socket, as after a change of network. Connections go on.
    ///
    /// # Errors
    ///
    /// [`LightningError::Connection`] when there is no endpoint yet or no socket to be had.
    pub fn rebind(&self) -> Result<()> {
        let failed =
            |e: &dyn fmt::Display| LightningError::Connection(format!("cannot rebind: {e}"));
        let endpoint = self
            .caller
            .endpoint
            .as_ref()
            .ok_or_else(|| failed(&CallErrorKind::NotInitialized))?;
        let family = endpoint.local_addr().map_err(|e| failed(&e))?;
        let any = SocketAddr::new(family.ip(), 0);
        let socket =
            lightning_quic::bind(any, &self.transport.endpoint()).map_err(|e| failed(&e))?;
        endpoint.rebind(socket).map_err(|e| failed(&e))
    }

    fn from_valid(wallet_hotkey: String, config: LightningClientConfig) -> Self {
        Self {
            caller: Caller {
                wallet_hotkey: wallet_hotkey.into(),
                signer: None,
                endpoint: None,
                core: Core::new(config),
            },
            transport: TransportOptions::default(),
        }
    }

    async fn query(
        &self,
        axon: QuicAxonInfo,
        request: QuicRequest,
        timeout: Option<Duration>,
    ) -> Result<QuicResponse> {
        let data = Payload::from_values(request.data)?;
        let options = CallOptions {
            timeout,
            ..CallOptions::default()
        };
        let Outcome { result, latency } = self
            .caller
            .exchange(&axon, &request.synapse_type, &data, options, Wants::Values)
            .await
            .map_err(in_old_words)?;
        let (success, data, error) = match result {
            Ok(data) => (true, data.into_values()?, None),
            Err(text) => (false, HashMap::new(), Some(text)),
        };
        Ok(QuicResponse {
            success,
            data,
            latency_ms: latency.as_secs_f64() * 1000.0,
            error,
        })
    }
}

impl Drop for LightningClient {
    fn drop(&mut self) {
        // The tasks that read from the connections would keep them open.
        for link in self.caller.core.update(registry::Registry::retire) {
            link.close(CloseReason::ClientShutdown);
        }
    }
}

impl fmt::Debug for LightningClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LightningClient")
            .field("hotkey", &self.caller.wallet_hotkey)
            .field("config", &self.caller.core.config)
            .finish_non_exhaustive()
    }
}

/// Says a timeout as the published package does; its users match the text.
fn in_old_words(error: CallError) -> LightningError {
    if error.is_timeout() && error.phase() == Phase::Wait {
        return LightningError::Transport("query timed out".into());
    }
    error.into()
}

/// Answers too large for a lane that a miner may send at a time.
const MAX_LARGE_ANSWERS: u32 = 64;

/// How long closing waits for the close packets to get out.
const CLOSE_LINGER: Duration = Duration::from_millis(500);
