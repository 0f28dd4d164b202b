//! Connections: found, made once for everybody who waits, kept in step with the registry.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use arc_swap::ArcSwap;
use btlightning_proto::close::CloseReason;
use futures::{
    FutureExt, StreamExt,
    future::{BoxFuture, Shared},
    stream,
};
use quinn::Endpoint;
use tokio::time::Instant;

use super::{
    LightningClientConfig,
    link::{Failure, Identity, Link},
    registry::{Registry, Routes, join_key},
};
use crate::{
    error::{CallErrorKind, Phase},
    types::{PeerAddr, QuicAxonInfo},
};

/// What all of a client's requests share.
pub(super) struct Core {
    pub(super) config: LightningClientConfig,
    registry: Mutex<Registry>,
    /// Read by every request without a lock; replaced when the registry changes.
    routes: ArcSwap<Routes>,
    dials: Mutex<HashMap<PeerAddr, Dial>>,
}

/// What it takes to make a connection.
#[derive(Clone)]
pub(super) struct Dialer {
    pub(super) core: Arc<Core>,
    pub(super) endpoint: Endpoint,
    pub(super) identity: Identity,
}

/// A dial in progress.
struct Dial {
    done: SharedDial,
    wanted: Wanted,
}

/// Whom a dial will authenticate: everybody who asks before there is a connection. `None` then.
#[derive(Clone)]
struct Wanted(Arc<Mutex<Option<Vec<QuicAxonInfo>>>>);

/// The end of a dial; everybody who wants the address waits for the same one.
type SharedDial = Shared<BoxFuture<'static, Result<Arc<Dialed>, Undialled>>>;

/// A connection with at least one authenticated hotkey.
struct Dialed {
    link: Arc<Link>,
    /// The hotkeys that could not be authenticated on it.
    failures: Vec<(String, Failure)>,
}

/// Why a dial brought no connection.
#[derive(Clone)]
struct Undialled {
    failure: Failure,
    /// What became of each hotkey, where the address was reached and none could be authenticated.
    failures: Arc<[(String, Failure)]>,
}

/// What there is at an address.
enum Found {
    Connected(Arc<Link>),
    Dialling(SharedDial),
}

/// Whether a failed dial delays the next one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Backoff {
    Count,
    Ignore,
}

impl Core {
    pub(super) fn new(config: LightningClientConfig) -> Arc<Self> {
        Arc::new(Self {
            config,
            registry: Mutex::default(),
            routes: ArcSwap::default(),
            dials: Mutex::default(),
        })
    }

    pub(super) fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the registry and what requests see of it.
    pub(super) fn update<T>(&self, change: impl FnOnce(&mut Registry) -> T) -> T {
        let mut registry = self.registry();
        let result = change(&mut registry);
        self.routes.store(Arc::new(registry.routes()));
        result
    }

    /// Returns the live connection on which this miner is authenticated, if there is one.
    pub(super) fn live_link(&self, axon: &QuicAxonInfo) -> Option<Arc<Link>> {
        let routes = self.routes.load();
        let route = routes.get(&axon.hotkey)?;
        let same_address = route.axon.port == axon.port && route.axon.ip == axon.ip;
        (same_address && route.link.is_alive()).then(|| route.link.clone())
    }

    /// Returns how often the last attempts to connect to this miner have failed.
    pub(super) fn failed_attempts(&self, axon: &QuicAxonInfo) -> u32 {
        let addr = axon.addr_key();
        let registry = self.registry();
        registry
            .failed_attempts(addr.as_ref())
            .max(registry.failed_attempts(&join_key(&axon.hotkey, &addr)))
    }

    /// Tells which phase somebody who waits for a connection to this miner is in.
    pub(super) fn connecting_phase(&self, axon: &QuicAxonInfo) -> Phase {
        let addr = axon.addr_key();
        let dials = self.dials();
        let connected = match dials.get(&addr) {
            Some(dial) => dial.wanted.lock().is_none(),
            // It waits for its turn to be authenticated on a connection that others made.
            None => self
                .registry()
                .link(&addr)
                .is_some_and(|link| link.is_alive()),
        };
        if connected {
            Phase::Handshake
        } else {
            Phase::Dial
        }
    }

    fn dials(&self) -> MutexGuard<'_, HashMap<PeerAddr, Dial>> {
        self.dials.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wanted {
    /// Adds a miner, unless it is too late for that.
    fn add(&self, axon: &QuicAxonInfo) {
        if let Some(wanted) = &mut *self.lock()
            && !wanted.contains(axon)
        {
            wanted.push(axon.clone());
        }
    }

    fn first(&self) -> Option<QuicAxonInfo> {
        self.lock().as_ref()?.first().cloned()
    }

    /// Takes all miners, for there is a connection now.
    fn take(&self) -> Vec<QuicAxonInfo> {
        self.lock().take().unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Vec<QuicAxonInfo>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<Failure> for Undialled {
    fn from(failure: Failure) -> Self {
        Self {
            failure,
            failures: Arc::new([]),
        }
    }
}

impl Dialer {
    /// Returns a connection on which this miner is authenticated, dialling if there is none.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a dial goes on for the others who wait for it.
    pub(super) async fn link_for(&self, axon: &QuicAxonInfo) -> Result<Arc<Link>, Failure> {
        if let Some(link) = self.core.live_link(axon) {
            return Ok(link);
        }
        let mut again = true;
        loop {
            let dial = match self.find_or_dial(axon)? {
                Found::Connected(link) => return self.join(&link, axon).await,
                Found::Dialling(dial) => dial,
            };
            let result = dial.await;
            let failures = match &result {
                Ok(dialed) => &dialed.failures[..],
                Err(undialled) => &undialled.failures[..],
            };
            if let Some((_, failure)) = failures.iter().find(|(h, _)| *h == axon.hotkey) {
                return Err(failure.clone());
            }
            match result {
                // Whoever comes late to a dial is not part of it.
                Ok(dialed) => return self.join(&dialed.link, axon).await,
                // What others at the same address failed of says nothing of this hotkey.
                Err(undialled) if again && !undialled.failures.is_empty() => again = false,
                Err(undialled) => return Err(undialled.failure),
            }
        }
    }

    /// Finds the connection to an address, or the dial in progress, or begins one.
    fn find_or_dial(&self, axon: &QuicAxonInfo) -> Result<Found, Failure> {
        let addr = axon.addr_key();
        let mut dials = self.core.dials();
        let mut registry = self.core.registry();
        if !dials.contains_key(&addr)
            && let Some(link) = registry.link(&addr).filter(|link| link.is_alive())
        {
            return Ok(Found::Connected(link.clone()));
        }
        let config = &self.core.config;
        let now = Instant::now();
        let fail = |kind| Failure::new(Phase::Dial, kind);
        registry
            .may_try(&join_key(&axon.hotkey, &addr), now, config)
            .map_err(fail)?;
        if let Some(dial) = dials.get(&addr) {
            dial.wanted.add(axon);
            return Ok(Found::Dialling(dial.done.clone()));
        }
        registry
            .may_try(addr.as_ref(), now, config)
            .and_then(|()| registry.check_room(&addr, config.max_connections))
            .map_err(fail)?;
        let mut wanted = registry.miners_at(&addr);
        drop(registry);
        wanted.retain(|m| m.hotkey != axon.hotkey);
        wanted.insert(0, axon.clone());
        Ok(Found::Dialling(self.begin_dial(
            &mut dials,
            addr,
            wanted,
            Backoff::Count,
        )))
    }

    /// Authenticates a miner on a connection that was made for others, unless it is already.
    async fn join(&self, link: &Arc<Link>, axon: &QuicAxonInfo) -> Result<Arc<Link>, Failure> {
        // One at a time: whoever comes second finds it done.
        let _joining = link.joining.lock().await;
        if link.is_authenticated(&axon.hotkey) {
            return Ok(link.clone());
        }
        let config = &self.core.config;
        let key = join_key(&axon.hotkey, &link.addr);
        self.core
            .registry()
            .may_try(&key, Instant::now(), config)
            .map_err(|kind| Failure::new(Phase::Handshake, kind))?;
        match link
            .authenticate(&axon.hotkey, &self.identity, config.connect_timeout)
            .await
        {
            Ok(()) => {
                if let Some(left) = self
                    .core
                    .update(|registry| registry.move_miner(axon.clone()))
                {
                    left.close(CloseReason::MinerAddrChanged);
                }
                Ok(link.clone())
            }
            Err(failure) => {
                let retry_in = self.core.registry().failed(&key, Instant::now(), config);
                tracing::warn!(hotkey = %axon.hotkey, addr = %link.addr, error = %failure.kind, ?retry_in, "cannot authenticate a miner");
                Err(failure)
            }
        }
    }

    /// Connects to miners that are not connected yet, all addresses at a time.
    ///
    /// Failures are logged: a subnet always has dead addresses.
    pub(super) async fn connect_all(&self, miners: Vec<QuicAxonInfo>) {
        let mut by_addr: HashMap<PeerAddr, Vec<QuicAxonInfo>> = HashMap::new();
        for miner in miners {
            by_addr.entry(miner.addr_key()).or_default().push(miner);
        }
        let tasks: Vec<_> = {
            let registry = self.core.registry();
            let mut room = self
                .core
                .config
                .max_connections
                .saturating_sub(registry.live_connection_count());
            let mut skipped = 0;
            by_addr.retain(|addr, _| {
                if registry.link(addr).is_some_and(|link| link.is_alive()) {
                    return true;
                }
                let allowed = room > 0;
                room -= usize::from(allowed);
                skipped += usize::from(!allowed);
                allowed
            });
            if skipped > 0 {
                tracing::warn!(
                    skipped,
                    max_connections = self.core.config.max_connections,
                    "connection limit reached, skipping addresses"
                );
            }
            by_addr
                .into_iter()
                .map(|(addr, miners)| self.clone().connect(addr, miners))
                .collect()
        };
        // Spawned, so that signatures are checked on all cores.
        let tasks: Vec<_> = tasks.into_iter().map(tokio::spawn).collect();
        for task in tasks {
            if let Err(error) = task.await {
                tracing::error!(%error, "a connection task panicked");
            }
        }
    }

    /// Connects to an address, or uses the connection there is, and authenticates these miners.
    async fn connect(self, addr: PeerAddr, miners: Vec<QuicAxonInfo>) {
        let alive = self
            .core
            .registry()
            .link(&addr)
            .filter(|link| link.is_alive())
            .cloned();
        let link = match alive {
            Some(link) => link,
            None => {
                let dial = {
                    let mut dials = self.core.dials();
                    match dials.get(&addr) {
                        Some(dial) => dial.done.clone(),
                        None => self.begin_dial(
                            &mut dials,
                            addr.clone(),
                            miners.clone(),
                            Backoff::Ignore,
                        ),
                    }
                };
                match dial.await {
                    Ok(dialed) if dialed.failures.is_empty() => dialed.link.clone(),
                    // The failures were logged where they happened.
                    Ok(_) | Err(_) => return,
                }
            }
        };
        // Those that were not part of the dial.
        let missing: Vec<_> = miners
            .into_iter()
            .filter(|m| !link.is_authenticated(&m.hotkey))
            .collect();
        let (authenticated, _) = self.authenticate(&link, missing).await;
        self.core.update(|registry| {
            for miner in authenticated {
                registry.add_miner(miner);
            }
        });
    }

    /// Starts the one dial to an address.
    fn begin_dial(
        &self,
        dials: &mut HashMap<PeerAddr, Dial>,
        addr: PeerAddr,
        wanted: Vec<QuicAxonInfo>,
        backoff: Backoff,
    ) -> SharedDial {
        let dialer = self.clone();
        let key = addr.clone();
        let wanted = Wanted(Arc::new(Mutex::new(Some(wanted))));
        let whom = wanted.clone();
        // A task of its own: no caller who gives up ends it for the others.
        let task = tokio::spawn(async move {
            let result = dialer.dial(&key, whom, backoff).await;
            dialer.core.dials().remove(&key);
            result
        });
        let core = self.core.clone();
        let key = addr.clone();
        let done = async move {
            task.await.unwrap_or_else(|e| {
                core.dials().remove(&key);
                let kind = CallErrorKind::Unexpected(format!("the dial panicked: {e}"));
                Err(Failure::new(Phase::Dial, kind).into())
            })
        }
        .boxed()
        .shared();
        let dial = Dial {
            done: done.clone(),
            wanted,
        };
        dials.insert(addr, dial);
        done
    }

    async fn dial(
        &self,
        addr: &PeerAddr,
        wanted: Wanted,
        backoff: Backoff,
    ) -> Result<Arc<Dialed>, Undialled> {
        let result = self.try_dial(addr, wanted).await;
        if let Err(Undialled { failure, failures }) = &result {
            let retry_in = (backoff == Backoff::Count).then(|| {
                let (now, config) = (Instant::now(), &self.core.config);
                let mut registry = self.core.registry();
                // An address that was reached may be good for other hotkeys.
                let keys = failures.iter().map(|(hotkey, _)| join_key(hotkey, addr));
                keys.map(|key| registry.failed(&key, now, config))
                    .max()
                    .unwrap_or_else(|| registry.failed(addr.as_ref(), now, config))
            });
            tracing::warn!(%addr, phase = %failure.phase, error = %failure.kind, ?retry_in, "cannot connect");
        }
        result
    }

    async fn try_dial(&self, addr: &PeerAddr, wanted: Wanted) -> Result<Arc<Dialed>, Undialled> {
        let config = &self.core.config;
        let Some(first) = wanted.first() else {
            return Err(Failure::new(Phase::Dial, CallErrorKind::NotAuthenticated).into());
        };
        let link = Arc::new(Link::dial(&self.endpoint, &first, config.connect_timeout).await?);
        let (authenticated, failures) = self.authenticate(&link, wanted.take()).await;
        if authenticated.is_empty() {
            link.close(CloseReason::NoAuthenticatedHotkeys);
            let failure = match failures.first() {
                Some((_, failure)) => failure.clone(),
                None => Failure::new(Phase::Handshake, CallErrorKind::NotAuthenticated),
            };
            return Err(Undialled {
                failure,
                failures: failures.into(),
            });
        }
        let moved: Result<_, Failure> = self.core.update(|registry| {
            let replaced = registry
                .set_link(link.clone(), config.max_connections)
                .map_err(|kind| Failure::new(Phase::Dial, kind))?;
            let mut left = Vec::new();
            for miner in authenticated {
                left.extend(registry.move_miner(miner));
            }
            for (hotkey, _) in &failures {
                if registry
                    .miner(hotkey)
                    .is_some_and(|old| old.addr_key() == *addr)
                {
                    registry.remove_miner(hotkey);
                }
            }
            Ok((replaced, left))
        });
        match moved {
            Ok((replaced, left)) => {
                if let Some(replaced) = replaced {
                    replaced.close(CloseReason::Done);
                }
                for link in left {
                    link.close(CloseReason::MinerAddrChanged);
                }
            }
            Err(failure) => {
                link.close(CloseReason::Done);
                return Err(failure.into());
            }
        }
        tracing::info!(%addr, version = ?link.version, "connected");
        Ok(Arc::new(Dialed { link, failures }))
    }

    /// Authenticates miners on a connection, several at a time.
    async fn authenticate(
        &self,
        link: &Arc<Link>,
        miners: Vec<QuicAxonInfo>,
    ) -> (Vec<QuicAxonInfo>, Vec<(String, Failure)>) {
        let limit = self.core.config.connect_timeout;
        let attempts = miners.into_iter().map(|miner| async move {
            let result = link
                .authenticate(&miner.hotkey, &self.identity, limit)
                .await;
            (miner, result)
        });
        let results: Vec<_> = stream::iter(attempts)
            .buffer_unordered(HANDSHAKES_AT_A_TIME)
            .collect()
            .await;
        let mut authenticated = Vec::new();
        let mut failures = Vec::new();
        for (miner, result) in results {
            match result {
                Ok(()) => authenticated.push(miner),
                Err(failure) => {
                    tracing::warn!(
                        hotkey = %miner.hotkey,
                        addr = %link.addr,
                        error = %failure.kind,
                        "cannot authenticate a miner"
                    );
                    failures.push((miner.hotkey, failure));
                }
            }
        }
        (authenticated, failures)
    }

    /// Brings registry and connections in step with the wanted miners.
    pub(super) async fn reconcile(&self, miners: Vec<QuicAxonInfo>) {
        let wanted: HashMap<String, QuicAxonInfo> =
            miners.into_iter().map(|m| (m.hotkey.clone(), m)).collect();
        let missing = self.core.update(|registry| {
            for hotkey in registry.hotkeys() {
                if !wanted.contains_key(&hotkey)
                    && let Some(link) = registry.remove_miner(&hotkey)
                {
                    tracing::info!(hotkey, addr = %link.addr, "miner deregistered");
                    link.close(CloseReason::MinerDeregistered);
                }
            }
            registry.reset_attempts();
            registry.prune_dead();
            for miner in wanted.values() {
                let moved = registry
                    .miner(&miner.hotkey)
                    .is_some_and(|old| old.addr_key() != miner.addr_key());
                if moved {
                    tracing::info!(hotkey = %miner.hotkey, to = %miner.addr_key(), "miner moved");
                    if let Some(link) = registry.remove_miner(&miner.hotkey) {
                        link.close(CloseReason::MinerAddrChanged);
                    }
                }
            }
            wanted
                .into_values()
                .filter(|miner| registry.miner(&miner.hotkey).is_none())
                .collect::<Vec<_>>()
        });
        if !missing.is_empty() {
            self.connect_all(missing).await;
        }
    }
}

/// Handshakes in flight on one connection: a server lets strangers open few streams.
const HANDSHAKES_AT_A_TIME: usize = 4;
