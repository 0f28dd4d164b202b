//! What a handler may know about the request it serves.

use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

use btlightning_proto::Version;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::session::{Caller, Session};

/// Who asks, for what, and until when. Clones share one state.
#[derive(Clone)]
pub struct RequestContext {
    inner: Arc<Inner>,
}

struct Inner {
    caller: Arc<Caller>,
    connection: quinn::Connection,
    version: Version,
    synapse_type: Box<str>,
    deadline: Instant,
    cancelled: CancellationToken,
}

impl RequestContext {
    pub(super) fn new(
        caller: Arc<Caller>,
        session: &Session,
        synapse_type: &str,
        deadline: Instant,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                caller,
                connection: session.connection.clone(),
                version: session.version,
                synapse_type: synapse_type.into(),
                deadline,
                cancelled: CancellationToken::new(),
            }),
        }
    }

    /// Returns the SS58 address of the caller's hotkey, which the caller has proven to hold.
    pub fn hotkey(&self) -> &str {
        &self.inner.caller.hotkey
    }

    /// Returns the name of the authenticated connection, which the caller was told too.
    pub fn connection_id(&self) -> &str {
        &self.inner.caller.connection_id
    }

    /// Returns where the caller's packets come from at this moment; it may move.
    pub fn remote_addr(&self) -> SocketAddr {
        super::session::canonical(self.inner.connection.remote_address())
    }

    /// Returns the version of the protocol that the caller speaks.
    pub fn version(&self) -> Version {
        self.inner.version
    }

    /// Returns the type the request was sent for.
    pub fn synapse_type(&self) -> &str {
        &self.inner.synapse_type
    }

    /// Returns when the handler will be dropped and the caller told that it timed out.
    pub fn deadline(&self) -> std::time::Instant {
        self.inner.deadline.into_std()
    }

    /// Returns the time left until the deadline; zero when it has passed.
    pub fn time_left(&self) -> Duration {
        self.inner
            .deadline
            .saturating_duration_since(Instant::now())
    }

    /// Waits until nobody waits for the answer any more: the caller gave up, the connection is
    /// lost, the deadline passed, or the answer was given.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn cancelled(&self) {
        self.inner.cancelled.cancelled().await;
    }

    /// Whether nobody waits for the answer any more. For handlers on threads that block.
    pub fn is_cancelled(&self) -> bool {
        self.inner.cancelled.is_cancelled()
    }

    pub(super) fn token(&self) -> &CancellationToken {
        &self.inner.cancelled
    }
}

impl fmt::Debug for RequestContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestContext")
            .field("hotkey", &self.hotkey())
            .field("connection_id", &self.connection_id())
            .field("remote_addr", &self.remote_addr())
            .field("synapse_type", &self.synapse_type())
            .field("time_left", &self.time_left())
            .finish()
    }
}
