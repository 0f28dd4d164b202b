//! A server from its making to its end, and how often it is started in between.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use btlightning::{
    LightningError, LightningServer, LightningServerConfig, RequestHandler, Result, ServerStats,
    StreamHandler, SynapseHandler,
};
use futures::{FutureExt, future::BoxFuture};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use super::hooks::{CurrentResolver, CurrentSigner, Hooks, NO_RESOLVER};
use crate::runtime::EndAtExit;

/// A server that remembers its handlers and settings, so that it can be started again when it was
/// stopped. No lock is held while anything waits.
pub(super) struct Lifecycle {
    pub(super) hotkey: String,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) config: LightningServerConfig,
    pub(super) hooks: Arc<Hooks>,
    state: Mutex<State>,
    /// What holds the socket besides the state.
    serving: TaskTracker,
}

/// A handler of one of the kinds that Python has.
#[derive(Clone)]
pub(super) enum Handler {
    Blocking(Arc<dyn SynapseHandler>),
    Asynchronous(Arc<dyn RequestHandler>),
    Streaming(Arc<dyn StreamHandler>),
}

#[derive(Default)]
struct State {
    handlers: Vec<(String, Handler)>,
    phase: Phase,
}

#[derive(Default)]
enum Phase {
    #[default]
    New,
    Starting,
    Started(Arc<LightningServer>),
    /// With the statistics at its end.
    Stopped(Box<ServerStats>),
}

impl Lifecycle {
    pub(super) fn new(
        hotkey: String,
        host: String,
        port: u16,
        config: LightningServerConfig,
    ) -> Self {
        Self {
            hotkey,
            host,
            port,
            config,
            hooks: Arc::default(),
            state: Mutex::default(),
            serving: TaskTracker::new(),
        }
    }

    /// Serves a type with a handler, from now on.
    pub(super) fn register(&self, synapse_type: String, handler: Handler) {
        let mut state = self.state();
        if let Phase::Started(server) = &state.phase {
            handler.register(server, &synapse_type);
        }
        let previous = state
            .handlers
            .iter()
            .position(|(other, old)| *other == synapse_type && old.is_like(&handler))
            .map(|place| state.handlers.swap_remove(place));
        state.handlers.push((synapse_type, handler));
        drop(state);
        // Without the lock: the end of a handler may run any Python code.
        drop(previous);
    }

    /// Binds the socket.
    pub(super) async fn start(self: Arc<Self>) -> Result<()> {
        let starting = Starting::begin(&self)?;
        let mut server = LightningServer::with_config(
            self.hotkey.clone(),
            self.host.clone(),
            self.port,
            self.config,
        )?;
        server.set_miner_signer(Box::new(CurrentSigner(self.hooks.clone())));
        if self.config.require_validator_permit {
            server.set_validator_permit_resolver(Box::new(CurrentResolver(self.hooks.clone())));
        }
        server.start().await?;
        starting.finish(server);
        Ok(())
    }

    /// Serves until the server is stopped; does not stop it when dropped. Returns at once when it
    /// was stopped before.
    pub(super) async fn serve(self: Arc<Self>) -> Result<()> {
        if matches!(self.state().phase, Phase::Stopped(_)) {
            return Ok(());
        }
        let server = self.started()?;
        if self.config.require_validator_permit && !self.hooks.has_resolver() {
            return Err(LightningError::Config(NO_RESOLVER.into()));
        }
        // On the I/O threads, where it does not depend on how soon the waiting thread runs.
        let serve = async move { server.serve_forever().await };
        AbortOnDropHandle::new(self.serving.spawn(serve))
            .await
            .map_err(|error| LightningError::Transport(format!("cannot serve: {error}")))?
    }

    /// Stops the server, with the grace that its settings give to handlers.
    pub(super) async fn stop(self: Arc<Self>) -> Result<()> {
        let grace = Duration::from_secs(self.config.shutdown_grace_secs);
        self.shutdown(grace).await.map(drop)
    }

    /// Stops the server, closes its socket and returns how many requests were cut off. Does
    /// nothing to one that is not started.
    pub(super) async fn shutdown(self: Arc<Self>, grace: Duration) -> Result<usize> {
        let Some(server) = self.running() else {
            return Ok(0);
        };
        let unfinished = server.shutdown(grace).await?;
        let addr = server.local_addr();
        self.finish(server);
        self.serving.close();
        // A resolver that hangs must not hold us up.
        let _ = tokio::time::timeout(SERVING_LINGER, self.serving.wait()).await;
        // A handler that was cut off may keep its connection, and with it the socket.
        if let (0, Ok(addr)) = (unfinished, addr) {
            let _ = tokio::time::timeout(SOCKET_LINGER, until_free(addr)).await;
        }
        Ok(unfinished)
    }

    /// Returns the server.
    ///
    /// # Errors
    ///
    /// [`LightningError::Config`] when it is not started.
    pub(super) fn started(&self) -> Result<Arc<LightningServer>> {
        self.running()
            .ok_or_else(|| LightningError::Config("server not started: call start() first".into()))
    }

    pub(super) fn stats(&self) -> ServerStats {
        match &self.state().phase {
            Phase::Started(server) => server.stats(),
            Phase::Stopped(stats) => (**stats).clone(),
            Phase::New | Phase::Starting => ServerStats::default(),
        }
    }

    pub(super) async fn connection_stats(self: Arc<Self>) -> Result<HashMap<String, String>> {
        match self.running() {
            Some(server) => server.get_connection_stats().await,
            None => {
                let none = ["total_connections", "verified_connections"];
                Ok(none.map(|name| (name.into(), "0".into())).into())
            }
        }
    }

    pub(super) async fn cleanup(self: Arc<Self>, max_idle_seconds: u64) -> Result<()> {
        match self.running() {
            Some(server) => server.cleanup_stale_connections(max_idle_seconds).await,
            None => Ok(()),
        }
    }

    /// Lets go of a server that was stopped.
    fn finish(&self, server: Arc<LightningServer>) {
        let stopped = Phase::Stopped(Box::new(server.stats()));
        let mut state = self.state();
        if matches!(&state.phase, Phase::Started(current) if Arc::ptr_eq(current, &server)) {
            state.phase = stopped;
        }
    }

    fn running(&self) -> Option<Arc<LightningServer>> {
        match &self.state().phase {
            Phase::Started(server) => Some(server.clone()),
            _ => None,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EndAtExit for Lifecycle {
    fn end(self: Arc<Self>) -> BoxFuture<'static, ()> {
        self.shutdown(Duration::ZERO).map(drop).boxed()
    }
}

impl Handler {
    fn register(&self, server: &LightningServer, synapse_type: &str) {
        match self.clone() {
            Self::Blocking(handler) => {
                // Has nothing to wait for.
                let _ = server
                    .register_synapse_handler(synapse_type.into(), handler)
                    .now_or_never();
            }
            Self::Asynchronous(handler) => server.register_handler(synapse_type, handler),
            Self::Streaming(handler) => server.register_stream_handler(synapse_type, handler),
        }
    }

    /// Whether one takes the place of the other.
    fn is_like(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

/// A start that was begun; the server is as before when it is dropped unfinished.
struct Starting<'a> {
    lifecycle: &'a Lifecycle,
    before: Phase,
}

impl<'a> Starting<'a> {
    fn begin(lifecycle: &'a Lifecycle) -> Result<Self> {
        let mut state = lifecycle.state();
        if matches!(state.phase, Phase::Starting | Phase::Started(_)) {
            return Err(LightningError::Config("server already started".into()));
        }
        let before = std::mem::replace(&mut state.phase, Phase::Starting);
        Ok(Self { lifecycle, before })
    }

    fn finish(self, server: LightningServer) {
        let mut state = self.lifecycle.state();
        for (synapse_type, handler) in &state.handlers {
            handler.register(&server, synapse_type);
        }
        state.phase = Phase::Started(Arc::new(server));
    }
}

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        let mut state = self.lifecycle.state();
        if matches!(state.phase, Phase::Starting) {
            state.phase = std::mem::take(&mut self.before);
        }
    }
}

/// Waits until an address can be bound again. The tasks of an endpoint close its socket shortly
/// after everybody has let go of it, and tell nobody.
async fn until_free(addr: SocketAddr) {
    while std::net::UdpSocket::bind(addr).is_err() {
        tokio::time::sleep(PROBE_INTERVAL).await;
    }
}

/// How long a stopped server waits for those who serve it to notice.
const SERVING_LINGER: Duration = Duration::from_millis(500);

/// How long a stopped server waits for its socket to be closed.
const SOCKET_LINGER: Duration = Duration::from_millis(200);

const PROBE_INTERVAL: Duration = Duration::from_millis(1);
