//! One QUIC connection and the hotkeys authenticated on it.
//!
//! Authentication belongs to the connection, not to the address its packets come from: QUIC
//! connections migrate, and addresses can be shared.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwapOption;
use btlightning_proto::{Version, close::CloseReason};
use lightning_quic::TaskGroup;
use quinn::Connection;
use tokio::sync::Notify;

use crate::util::unix_timestamp_secs;

/// A hotkey that proved itself on a connection.
#[derive(Debug)]
pub(crate) struct Caller {
    pub(crate) hotkey: Arc<str>,
    pub(crate) connection_id: Arc<str>,
    /// Set when the hotkey was authenticated on another connection.
    revoked: AtomicBool,
}

impl Caller {
    pub(crate) fn new(hotkey: &str, connection_id: Arc<str>) -> Arc<Self> {
        Arc::new(Self {
            hotkey: hotkey.into(),
            connection_id,
            revoked: AtomicBool::new(false),
        })
    }

    /// Whether the hotkey may no longer be served on this connection.
    pub(crate) fn is_revoked(&self) -> bool {
        self.revoked.load(Ordering::Relaxed)
    }
}

/// One QUIC connection.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) connection: Connection,
    /// The task of the connection, and of its lanes.
    pub(crate) group: TaskGroup,
    pub(crate) version: Version,
    /// The hotkey that requests are attributed to: the last one authenticated.
    caller: ArcSwapOption<Caller>,
    /// All hotkeys authenticated and not replaced, oldest first.
    callers: Mutex<Vec<Arc<Caller>>>,
    last_activity: AtomicU64,
    /// Streams seen before the first hotkey was authenticated.
    strange_streams: AtomicU32,
    lanes: AtomicU32,
    authenticated: Notify,
}

impl Session {
    pub(crate) fn new(connection: Connection, group: TaskGroup, version: Version) -> Self {
        Self {
            connection,
            group,
            version,
            caller: ArcSwapOption::empty(),
            callers: Mutex::default(),
            last_activity: AtomicU64::new(unix_timestamp_secs()),
            strange_streams: AtomicU32::new(0),
            lanes: AtomicU32::new(0),
            authenticated: Notify::new(),
        }
    }

    /// Returns who the next request is from, if anybody is authenticated.
    pub(crate) fn caller(&self) -> Option<Arc<Caller>> {
        self.caller.load_full()
    }

    /// Attributes requests to `caller` from now on.
    pub(crate) fn authenticate(&self, caller: Arc<Caller>) {
        let mut callers = self.lock();
        callers.retain(|c| c.hotkey != caller.hotkey);
        callers.push(caller.clone());
        self.caller.store(Some(caller));
        drop(callers);
        self.touch();
        self.authenticated.notify_one();
    }

    /// Takes a hotkey away, which authenticated elsewhere; closes the connection with the last.
    pub(crate) fn revoke(&self, hotkey: &str, reason: CloseReason) {
        let mut callers = self.lock();
        for caller in callers.extract_if(.., |c| &*c.hotkey == hotkey) {
            caller.revoked.store(true, Ordering::Relaxed);
        }
        let last = callers.last().cloned();
        self.caller.store(last.clone());
        drop(callers);
        if last.is_none() {
            self.close(reason);
        }
    }

    /// Returns the hotkeys authenticated here.
    pub(crate) fn callers(&self) -> Vec<Arc<Caller>> {
        self.lock().clone()
    }

    /// Waits for the first hotkey to be authenticated.
    pub(crate) async fn first_authentication(&self) {
        while self.caller.load().is_none() {
            self.authenticated.notified().await;
        }
    }

    /// Counts a stream opened before authentication and returns how many there were.
    pub(crate) fn count_strange_stream(&self) -> u32 {
        self.strange_streams.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Takes one of the connection's lanes, if there is one left; given back when dropped.
    pub(crate) fn enter_lane(self: &Arc<Self>) -> Option<LanePlace> {
        let taken = self.lanes.fetch_add(1, Ordering::Relaxed);
        let place = LanePlace(self.clone());
        (taken < MAX_LANES).then_some(place)
    }

    pub(crate) fn touch(&self) {
        self.last_activity
            .store(unix_timestamp_secs(), Ordering::Relaxed);
    }

    /// Returns the seconds since the last request.
    pub(crate) fn idle_secs(&self) -> u64 {
        unix_timestamp_secs().saturating_sub(self.last_activity.load(Ordering::Relaxed))
    }

    pub(crate) fn remote_addr(&self) -> SocketAddr {
        canonical(self.connection.remote_address())
    }

    pub(crate) fn close(&self, reason: CloseReason) {
        let code = reason.code().into();
        lightning_quic::close(&self.connection, code, reason.as_str().as_bytes());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Caller>>> {
        self.callers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of a connection's lanes.
#[derive(Debug)]
pub(crate) struct LanePlace(Arc<Session>);

impl Drop for LanePlace {
    fn drop(&mut self) {
        self.0.lanes.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Lanes that a connection may have: each may have as many requests open as a connection streams.
const MAX_LANES: u32 = 4;

/// Shows an IPv4 address as one, also on a socket that carries both families.
pub(crate) fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}
