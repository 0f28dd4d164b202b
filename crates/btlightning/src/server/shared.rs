//! What all connections of a server share.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock},
};

use arc_swap::ArcSwap;
use btlightning_proto::{
    handshake::{Fingerprint, Refusal},
    limits::HANDSHAKE_RATE_WINDOW_SECS,
    nonce::NonceWindow,
    rate::AttemptLimiter,
};
use lightning_quic::TransportOptions;
use tokio::{runtime::Handle, sync::Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    HandshakeObserver, LightningServerConfig, SourceAddressResolver, SourceAllowlist,
    ValidatorPermitResolver,
    gate::Gate,
    routes::Routes,
    session::{Caller, Session},
    stats::Counters,
};
use crate::signing::Signer;

pub(crate) struct Shared {
    pub(crate) config: LightningServerConfig,
    pub(crate) miner_hotkey: String,
    pub(crate) routes: ArcSwap<Routes>,
    pub(crate) hooks: RwLock<Hooks>,
    pub(crate) fingerprint: RwLock<Option<Fingerprint>>,
    sessions: Mutex<HashMap<Arc<str>, Registration>>,
    nonces: Mutex<NonceWindow>,
    attempts: Mutex<AttemptLimiter>,
    pub(crate) permits: ArcSwap<HashSet<String>>,
    pub(crate) sources: ArcSwap<SourceAllowlist>,
    pub(crate) gate: Arc<Gate>,
    /// Signature checks that may run at a time: one a core, so that a flood of bad signatures
    /// queues here and not in front of the handlers.
    pub(crate) verifiers: Arc<Semaphore>,
    pub(crate) counters: Counters,
    /// Requests being served.
    pub(crate) requests: TaskTracker,
    /// Lanes that are open.
    pub(crate) lanes: TaskTracker,
    /// Cancelled when the server begins to stop.
    pub(crate) draining: CancellationToken,
    runtime: OnceLock<Handle>,
    /// Ends the background tasks of one run.
    pub(crate) stopped: CancellationToken,
}

/// What the application plugs in or chooses; replaced as a whole, read at handshakes only.
#[derive(Clone, Default)]
pub(crate) struct Hooks {
    pub(crate) signer: Option<Arc<dyn Signer>>,
    pub(crate) permits: Option<Arc<dyn ValidatorPermitResolver>>,
    pub(crate) sources: Option<Arc<dyn SourceAddressResolver>>,
    pub(crate) observer: Option<Arc<dyn HandshakeObserver>>,
    pub(crate) transport: TransportOptions,
}

/// A connected hotkey.
#[derive(Clone)]
pub(crate) struct Registration {
    pub(crate) caller: Arc<Caller>,
    pub(crate) session: Arc<Session>,
}

impl Shared {
    pub(crate) fn new(miner_hotkey: String, config: LightningServerConfig) -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Self {
            miner_hotkey,
            routes: ArcSwap::default(),
            hooks: RwLock::default(),
            fingerprint: RwLock::default(),
            sessions: Mutex::default(),
            nonces: Mutex::new(NonceWindow::new(config.max_nonce_entries)),
            attempts: Mutex::new(AttemptLimiter::new(
                config.max_handshake_attempts_per_minute as usize,
                HANDSHAKE_RATE_WINDOW_SECS,
                config.max_tracked_rate_ips,
            )),
            permits: ArcSwap::default(),
            // Nothing is allowed until a resolver has spoken.
            sources: ArcSwap::from_pointee(SourceAllowlist::Enforce(HashSet::new())),
            gate: Gate::new(
                config.max_unauthenticated_connections,
                config.max_unauthenticated_per_ip,
            ),
            verifiers: Arc::new(Semaphore::new(cores)),
            counters: Counters::default(),
            requests: TaskTracker::new(),
            lanes: TaskTracker::new(),
            draining: CancellationToken::new(),
            runtime: OnceLock::new(),
            stopped: CancellationToken::new(),
            config,
        }
    }

    pub(crate) fn hooks(&self) -> Hooks {
        self.hooks
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn fingerprint(&self) -> Option<Fingerprint> {
        *self
            .fingerprint
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn nonces(&self) -> MutexGuard<'_, NonceWindow> {
        self.nonces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn attempts(&self) -> MutexGuard<'_, AttemptLimiter> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn sessions(&self) -> MutexGuard<'_, HashMap<Arc<str>, Registration>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.is_cancelled()
    }

    /// Remembers the runtime that the server was started on.
    pub(crate) fn set_runtime(&self, runtime: Handle) {
        let _ = self.runtime.set(runtime);
    }

    /// Returns the runtime that the server was started on. Only for code that a started server
    /// runs.
    pub(crate) fn runtime(&self) -> Handle {
        self.runtime.get().cloned().unwrap_or_else(Handle::current)
    }

    /// Whether packets from `ip` are answered.
    pub(crate) fn allows_source(&self, ip: IpAddr) -> bool {
        if !self.config.enforce_source_allowlist {
            return true;
        }
        match &**self.sources.load() {
            SourceAllowlist::Bypass => true,
            SourceAllowlist::Enforce(allowed) => {
                allowed.contains(&ip) || allowed.contains(&ip.to_canonical())
            }
        }
    }

    /// Whether another hotkey may connect.
    pub(crate) fn has_room_for(&self, hotkey: &str) -> Result<(), Refusal> {
        let sessions = self.sessions();
        if sessions.contains_key(hotkey) || sessions.len() < self.config.max_connections {
            Ok(())
        } else {
            Err(Refusal::TooManyConnections)
        }
    }

    /// Enters a hotkey; returns the session it leaves, if it moves.
    pub(crate) fn register(
        &self,
        caller: Arc<Caller>,
        session: &Arc<Session>,
    ) -> Result<Option<Arc<Session>>, Refusal> {
        let mut sessions = self.sessions();
        if !sessions.contains_key(&caller.hotkey) && sessions.len() >= self.config.max_connections {
            return Err(Refusal::TooManyConnections);
        }
        let registration = Registration {
            caller: caller.clone(),
            session: session.clone(),
        };
        let previous = sessions.insert(caller.hotkey.clone(), registration);
        Ok(previous
            .map(|r| r.session)
            .filter(|old| !Arc::ptr_eq(old, session)))
    }

    /// Removes the hotkeys that are registered on `session`.
    pub(crate) fn unregister(&self, session: &Arc<Session>) {
        let mut sessions = self.sessions();
        for caller in session.callers() {
            if sessions
                .get(&caller.hotkey)
                .is_some_and(|r| Arc::ptr_eq(&r.session, session))
            {
                sessions.remove(&caller.hotkey);
            }
        }
    }

    /// Drops nonces and counters that no longer matter.
    pub(crate) fn expire(&self, now: u64) {
        self.nonces()
            .expire(now, self.config.max_signature_age_secs);
        self.attempts().expire(now);
    }
}
