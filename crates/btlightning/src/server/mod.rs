//! The miner's side: a QUIC server that authenticates validators and hands their requests to
//! handlers.
//!
//! Five kinds of handlers exist, see [`SynapseHandler`], [`AsyncSynapseHandler`],
//! [`StreamingSynapseHandler`], [`RequestHandler`] and [`StreamHandler`]. For a type that has
//! several, streaming ones go before async ones before blocking ones.

mod accept;
pub(crate) mod answer;
mod config;
mod context;
mod dispatch;
mod gate;
mod handler;
mod handshake;
mod lane;
mod policy;
mod pool;
mod refresh;
mod routes;
mod session;
mod shared;
mod stats;
mod stream;

use std::{
    collections::HashMap,
    fmt,
    net::SocketAddr,
    sync::{Arc, PoisonError},
    time::Duration,
};

use btlightning_proto::{ALPN_V0, ALPN_V1, close::CloseReason, handshake::Fingerprint};
use lightning_quic::{TransportOptions, new_endpoint, new_filtered_endpoint, tls};
use quinn::Endpoint;

pub(crate) use config::check_frame_limit;
pub use config::{LightningServerConfig, LightningServerConfigBuilder};
pub use context::RequestContext;
pub use handler::{
    AsyncSynapseHandler, RequestHandler, StreamHandler, StreamingSynapseHandler, SynapseHandler,
    typed_async_handler, typed_handler, typed_request_handler,
};
pub use policy::{
    HandshakeObserver, SourceAddressResolver, SourceAllowlist, ValidatorPermitResolver,
};
pub use pool::wrap_handler_threads;
pub use stats::{CallerStats, ServerStats};
pub use stream::{ChunkSink, ChunkStream};

use crate::{
    error::{LightningError, Result},
    signing::{Signer, Sr25519Signer},
    util::unix_timestamp_secs,
};
use routes::{Asynchronous, Route, Streaming};
use shared::{Hooks, Shared};

/// Accepts validators and serves their requests.
///
/// Make it, give it a key and handlers, [`start`](Self::start) it and
/// [`serve_forever`](Self::serve_forever). Handlers may be registered at any time. Dropping the
/// server closes all connections at once; [`stop`](Self::stop) lets running handlers finish.
pub struct LightningServer {
    host: String,
    port: u16,
    shared: Arc<Shared>,
    endpoint: Option<Endpoint>,
}

impl LightningServer {
    /// Makes a server for the miner `miner_hotkey` (SS58) with default settings.
    ///
    /// `host` is an IPv4 or IPv6 address (`0.0.0.0`, `::`) or `localhost`; port 0 picks a free one.
    pub fn new(miner_hotkey: String, host: String, port: u16) -> Result<Self> {
        Self::with_config(miner_hotkey, host, port, LightningServerConfig::default())
    }

    /// Makes a server with these settings.
    ///
    /// # Errors
    ///
    /// [`LightningError::Config`] names the setting that is out of bounds.
    pub fn with_config(
        miner_hotkey: String,
        host: String,
        port: u16,
        config: LightningServerConfig,
    ) -> Result<Self> {
        config.validate()?;
        Ok(Self {
            host,
            port,
            shared: Arc::new(Shared::new(miner_hotkey, config)),
            endpoint: None,
        })
    }

    /// Returns the miner's hotkey.
    pub fn hotkey(&self) -> &str {
        &self.shared.miner_hotkey
    }

    /// Signs with the sr25519 key derived from this seed.
    pub fn set_miner_keypair(&mut self, keypair_bytes: [u8; 32]) {
        self.set_miner_signer(Box::new(Sr25519Signer::from_seed(keypair_bytes)));
    }

    /// Signs with this signer.
    pub fn set_miner_signer(&mut self, signer: Box<dyn Signer>) {
        self.update_hooks(|hooks| hooks.signer = Some(Arc::from(signer)));
    }

    /// Signs with a hotkey of the Bittensor wallet folder.
    #[cfg(feature = "btwallet")]
    pub fn set_miner_wallet(
        &mut self,
        wallet_name: &str,
        wallet_path: &str,
        hotkey_name: &str,
    ) -> Result<()> {
        let signer =
            crate::signing::BtWalletSigner::from_wallet(wallet_name, wallet_path, hotkey_name)?;
        self.set_miner_signer(Box::new(signer));
        Ok(())
    }

    /// Asks this resolver which hotkeys may connect, where permits are required.
    pub fn set_validator_permit_resolver(&mut self, resolver: Box<dyn ValidatorPermitResolver>) {
        self.update_hooks(|hooks| hooks.permits = Some(Arc::from(resolver)));
    }

    /// Asks this resolver which addresses get answers, where an allow-list is enforced.
    pub fn set_source_address_resolver(&mut self, resolver: Box<dyn SourceAddressResolver>) {
        self.update_hooks(|hooks| hooks.sources = Some(Arc::from(resolver)));
    }

    /// Tells this observer of every successful handshake.
    pub fn set_handshake_observer(&mut self, observer: Arc<dyn HandshakeObserver>) {
        self.update_hooks(|hooks| hooks.observer = Some(observer));
    }

    /// Serves requests of a type with a handler that may block.
    pub async fn register_synapse_handler(
        &self,
        synapse_type: String,
        handler: Arc<dyn SynapseHandler>,
    ) -> Result<()> {
        self.register(synapse_type, Route::Blocking(handler));
        Ok(())
    }

    /// Serves requests of a type with an async handler.
    pub async fn register_async_synapse_handler(
        &self,
        synapse_type: String,
        handler: Arc<dyn AsyncSynapseHandler>,
    ) -> Result<()> {
        self.register(
            synapse_type,
            Route::Asynchronous(Asynchronous::Plain(handler)),
        );
        Ok(())
    }

    /// Serves requests of a type with a handler that answers in chunks.
    pub async fn register_streaming_handler(
        &self,
        synapse_type: String,
        handler: Arc<dyn StreamingSynapseHandler>,
    ) -> Result<()> {
        self.register(synapse_type, Route::Streaming(Streaming::Channel(handler)));
        Ok(())
    }

    /// Serves requests of a type with a handler that knows its caller. It takes the place of an
    /// async handler.
    pub fn register_handler(
        &self,
        synapse_type: impl Into<String>,
        handler: Arc<dyn RequestHandler>,
    ) {
        let route = Route::Asynchronous(Asynchronous::WithContext(handler));
        self.register(synapse_type.into(), route);
    }

    /// Serves streams of a type with a handler that knows its caller. It takes the place of a
    /// streaming handler.
    pub fn register_stream_handler(
        &self,
        synapse_type: impl Into<String>,
        handler: Arc<dyn StreamHandler>,
    ) {
        self.register(
            synapse_type.into(),
            Route::Streaming(Streaming::Chunks(handler)),
        );
    }

    /// Chooses packet size, buffers, windows and congestion control of all connections.
    ///
    /// # Errors
    ///
    /// [`LightningError::Config`] names the option that is out of bounds, or says that the server
    /// was started already.
    pub fn set_transport(&mut self, options: TransportOptions) -> Result<()> {
        if self.endpoint.is_some() {
            return Err(LightningError::Config(
                "transport options must be set before the server is started".into(),
            ));
        }
        options.validate().map_err(config_error)?;
        self.update_hooks(|hooks| hooks.transport = options);
        Ok(())
    }

    /// Binds the socket and makes a fresh certificate. Connections are accepted by
    /// [`serve_forever`](Self::serve_forever).
    ///
    /// # Errors
    ///
    /// [`LightningError::Config`] when the address cannot be bound.
    pub async fn start(&mut self) -> Result<()> {
        self.shared.set_runtime(tokio::runtime::Handle::current());
        let addr = self.resolve_host().await?;
        let config = &self.shared.config;
        let options = self.shared.hooks().transport;
        let mut transport = options.transport();
        transport.idle_timeout = Duration::from_secs(config.idle_timeout_secs);
        transport.keep_alive_interval = Some(Duration::from_secs(config.keep_alive_interval_secs));
        // Until a hotkey is authenticated; the handshake raises both.
        transport.max_bidi_streams =
            MAX_OPEN_STREAMS_BEFORE_HANDSHAKE.min(config.max_concurrent_bidi_streams);
        transport.receive_window = RECEIVE_WINDOW_BEFORE_HANDSHAKE;

        let identity = tls::SelfSigned::generate("localhost").map_err(config_error)?;
        let quic = tls::server_config(
            &identity,
            &[ALPN_V1, ALPN_V0],
            transport.build().map_err(config_error)?,
        )
        .map_err(config_error)?;
        let settings = options.endpoint();
        let endpoint = if config.enforce_source_allowlist {
            let filter = Arc::new(accept::AllowedSources::new(&self.shared));
            new_filtered_endpoint(addr, &settings, Some(quic), filter)
        } else {
            new_endpoint(addr, &settings, Some(quic))
        }
        .map_err(config_error)?;
        let fingerprint = Fingerprint::of_certificate(identity.certificate_der());
        *self
            .shared
            .fingerprint
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Some(fingerprint);
        tracing::info!(addr = ?endpoint.local_addr().ok(), hotkey = self.hotkey(), "listening");
        self.endpoint = Some(endpoint);
        Ok(())
    }

    /// Accepts and serves connections until the server is stopped.
    ///
    /// # Errors
    ///
    /// [`LightningError::Config`] when the server was not started, or a policy is required and its
    /// resolver missing.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future stops accepting; connections already accepted go on.
    pub async fn serve_forever(&self) -> Result<()> {
        let endpoint = self.endpoint()?;
        let hooks = self.shared.hooks();
        let config = &self.shared.config;
        if config.require_validator_permit && hooks.permits.is_none() {
            return Err(LightningError::Config(
                "require_validator_permit needs a ValidatorPermitResolver: set one".into(),
            ));
        }
        if config.enforce_source_allowlist && hooks.sources.is_none() {
            return Err(LightningError::Config(
                "enforce_source_allowlist needs a SourceAddressResolver: set one".into(),
            ));
        }
        refresh::start(&self.shared).await;
        accept::accept_loop(&self.shared, endpoint).await;
        Ok(())
    }

    /// Stops the server like [`shutdown`](Self::shutdown), with
    /// [`shutdown_grace_secs`](LightningServerConfig::shutdown_grace_secs) for running handlers.
    pub async fn stop(&self) -> Result<()> {
        let grace = Duration::from_secs(self.shared.config.shutdown_grace_secs);
        self.shutdown(grace).await.map(drop)
    }

    /// Stops the server: accepts nothing new, lets running handlers finish for up to `grace`, then
    /// closes all connections with the reason `server_shutdown`. Returns how many requests were
    /// cut off.
    ///
    /// Requests that arrive meanwhile are answered `server shutting down`, which clients know as
    /// safe to retry elsewhere.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves a server that refuses requests; call it again to go on.
    pub async fn shutdown(&self, grace: Duration) -> Result<usize> {
        self.shared.draining.cancel();
        self.shared.requests.close();
        self.shared.lanes.close();
        let _ = tokio::time::timeout(grace, self.shared.requests.wait()).await;
        let unfinished = self.shared.requests.len();
        if unfinished > 0 {
            tracing::warn!(
                unfinished,
                "handlers did not finish in time, closing their connections"
            );
        } else {
            // The last answers are on their way; a client that is gone must not hold us up.
            let _ =
                tokio::time::timeout(DELIVERY_LINGER.min(grace), self.shared.lanes.wait()).await;
        }
        self.shared.stopped.cancel();
        if let Some(endpoint) = &self.endpoint {
            self.close_connections(endpoint);
            // Lets the close packets out; a peer that is gone must not hold us up.
            let _ = tokio::time::timeout(CLOSE_LINGER, endpoint.wait_idle()).await;
        }
        self.shared.sessions().clear();
        tracing::info!(hotkey = self.hotkey(), "server stopped");
        Ok(unfinished)
    }

    /// Returns the address the server is bound to.
    ///
    /// # Errors
    ///
    /// [`LightningError::Config`] before [`start`](Self::start).
    pub fn local_addr(&self) -> Result<SocketAddr> {
        self.endpoint()?
            .local_addr()
            .map_err(|e| LightningError::Config(format!("cannot tell the local address: {e}")))
    }

    /// Returns the server's state and counters.
    pub fn stats(&self) -> ServerStats {
        let shared = &self.shared;
        let sessions = shared.sessions();
        let callers = sessions.values().map(|r| CallerStats {
            hotkey: r.caller.hotkey.to_string(),
            connection_id: r.caller.connection_id.to_string(),
            remote_addr: r.session.remote_addr(),
            version: r.session.version,
            idle_secs: r.session.idle_secs(),
            rtt: r.session.connection.rtt(),
        });
        ServerStats {
            callers: callers.collect(),
            unauthenticated_connections: shared.gate.total(),
            requests_in_flight: shared.requests.len(),
            requests: shared.counters.requests.value(),
            requests_cancelled: shared.counters.cancelled.value(),
            requests_failed: shared.counters.failed.value(),
            requests_refused: shared.counters.refused.value(),
            handshakes: shared.counters.handshakes.value(),
            handshakes_refused: shared.counters.handshakes_refused(),
            connections_refused: shared.counters.connections_refused.value(),
            sources_ignored: shared.counters.sources_ignored.value(),
        }
    }

    /// Returns `total_connections`, `verified_connections` and `connection_{hotkey}` as text;
    /// [`stats`](Self::stats) has more, typed.
    pub async fn get_connection_stats(&self) -> Result<HashMap<String, String>> {
        let sessions = self.shared.sessions();
        let mut stats = HashMap::with_capacity(sessions.len() + 2);
        stats.insert("total_connections".into(), sessions.len().to_string());
        stats.insert("verified_connections".into(), sessions.len().to_string());
        for (hotkey, registration) in sessions.iter() {
            let id = registration.caller.connection_id.to_string();
            stats.insert(format!("connection_{hotkey}"), id);
        }
        Ok(stats)
    }

    /// Closes connections that have sent no request for more than `max_idle_seconds`.
    pub async fn cleanup_stale_connections(&self, max_idle_seconds: u64) -> Result<()> {
        let stale: Vec<_> = {
            let sessions = self.shared.sessions();
            let is_stale = |r: &&shared::Registration| r.session.idle_secs() > max_idle_seconds;
            sessions
                .values()
                .filter(is_stale)
                .map(|r| r.session.clone())
                .collect()
        };
        for session in stale {
            tracing::info!(peer = %session.remote_addr(), "closing an idle connection");
            self.shared.unregister(&session);
            session.close(CloseReason::Cleanup);
        }
        Ok(())
    }

    /// Forgets the nonces of handshakes that are too old to be accepted.
    pub async fn cleanup_expired_nonces(&self) {
        self.shared.expire(unix_timestamp_secs());
    }

    /// Returns how many nonces are remembered.
    pub async fn get_active_nonce_count(&self) -> usize {
        self.shared.nonces().len()
    }

    /// Returns how many hotkeys hold a permit.
    pub async fn get_permitted_validator_count(&self) -> usize {
        self.shared.permits.load().len()
    }

    /// Returns how many addresses are on the allow-list; 0 also while it is bypassed.
    pub async fn get_allowed_source_count(&self) -> usize {
        match &**self.shared.sources.load() {
            SourceAllowlist::Bypass => 0,
            SourceAllowlist::Enforce(allowed) => allowed.len(),
        }
    }

    /// Whether the source resolver has switched the allow-list off for now.
    pub async fn is_source_enforcement_bypassed(&self) -> bool {
        matches!(&**self.shared.sources.load(), SourceAllowlist::Bypass)
    }

    fn endpoint(&self) -> Result<&Endpoint> {
        self.endpoint
            .as_ref()
            .ok_or_else(|| LightningError::Config("server not started: call start() first".into()))
    }

    fn close_connections(&self, endpoint: &Endpoint) {
        let reason = CloseReason::ServerShutdown;
        // One by one first, so that a peer in the middle of a transfer learns of it too.
        for registration in self.shared.sessions().values() {
            registration.session.close(reason);
        }
        endpoint.close(reason.code().into(), reason.as_str().as_bytes());
    }

    fn register(&self, synapse_type: String, route: Route) {
        tracing::info!(synapse_type, "handler registered");
        self.shared
            .routes
            .rcu(|routes| routes.with(synapse_type.clone(), route.clone()));
    }

    fn update_hooks(&mut self, update: impl FnOnce(&mut Hooks)) {
        update(
            &mut self
                .shared
                .hooks
                .write()
                .unwrap_or_else(PoisonError::into_inner),
        );
    }

    async fn resolve_host(&self) -> Result<SocketAddr> {
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        let unknown = |e: &dyn fmt::Display| {
            LightningError::Config(format!("invalid address {}:{}: {e}", self.host, self.port))
        };
        tokio::net::lookup_host((host, self.port))
            .await
            .map_err(|e| unknown(&e))?
            .next()
            .ok_or_else(|| unknown(&"no such host"))
    }
}

impl Drop for LightningServer {
    fn drop(&mut self) {
        self.shared.stopped.cancel();
        if let Some(endpoint) = &self.endpoint {
            self.close_connections(endpoint);
        }
    }
}

impl fmt::Debug for LightningServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LightningServer")
            .field("hotkey", &self.hotkey())
            .field("host", &self.host)
            .field("port", &self.port)
            .field("config", &self.shared.config)
            .finish_non_exhaustive()
    }
}

fn config_error(error: lightning_quic::QuicError) -> LightningError {
    LightningError::Config(error.to_string())
}

/// Bytes in all that a peer may have sent unread before it is authenticated.
const RECEIVE_WINDOW_BEFORE_HANDSHAKE: u32 = 16 * 1024;

/// Streams a peer may have open before it is authenticated.
const MAX_OPEN_STREAMS_BEFORE_HANDSHAKE: u32 = 8;

/// How long a stopping server waits for clients to take its last answers.
const DELIVERY_LINGER: Duration = Duration::from_secs(1);

/// How long a stopped server waits for its close packets to get out.
const CLOSE_LINGER: Duration = Duration::from_millis(500);
