//! From an incoming packet to a session.

use std::{
    net::IpAddr,
    sync::{Arc, Weak},
    time::Duration,
};

use btlightning_proto::{Version, close::CloseReason};
use lightning_quic::SourceFilter;
use quinn::{Endpoint, Incoming};

use super::{
    dispatch,
    gate::Place,
    session::{Session, canonical},
    shared::Shared,
};

/// The allow-list, as the socket asks for it.
pub(super) struct AllowedSources {
    /// Weak: the sessions hold the socket, and so this.
    shared: Weak<Shared>,
}

impl AllowedSources {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        Self {
            shared: Arc::downgrade(shared),
        }
    }
}

impl SourceFilter for AllowedSources {
    fn allows(&self, ip: IpAddr) -> bool {
        // A server that is gone still has its goodbyes to send.
        let shared = self.shared.upgrade();
        shared.is_none_or(|shared| shared.allows_source(ip))
    }

    fn ignored(&self) {
        if let Some(shared) = self.shared.upgrade() {
            shared.counters.sources_ignored.add_one();
        }
    }
}

/// Accepts connections until the endpoint is closed.
pub(super) async fn accept_loop(shared: &Arc<Shared>, endpoint: &Endpoint) {
    while let Some(incoming) = endpoint.accept().await {
        consider(shared, incoming);
    }
}

/// Decides about a connection attempt, from the cheapest question to the costliest.
fn consider(shared: &Arc<Shared>, incoming: Incoming) {
    let ip = canonical(incoming.remote_address()).ip();
    if shared.config.require_address_validation
        && !incoming.remote_address_validated()
        && incoming.may_retry()
    {
        if let Err(refused) = incoming.retry() {
            refused.into_incoming().ignore();
        }
        return;
    }
    let Some(place) = shared.gate.enter(ip).filter(|_| !shared.is_draining()) else {
        shared.counters.connections_refused.add_one();
        tracing::debug!(%ip, "too many unauthenticated connections, refusing one more");
        incoming.refuse();
        return;
    };
    tokio::spawn(establish(shared.clone(), incoming, place));
}

/// Completes the QUIC handshake and serves the connection until it ends.
async fn establish(shared: Arc<Shared>, incoming: Incoming, place: Place) {
    let limit = Duration::from_secs(shared.config.handshake_timeout_secs);
    let deadline = tokio::time::Instant::now() + limit;
    let (connecting, group) = match lightning_quic::accept(incoming) {
        Ok(begun) => begun,
        Err(error) => {
            tracing::debug!(%error, "connection attempt failed");
            return;
        }
    };
    let connection = match tokio::time::timeout_at(deadline, connecting).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            tracing::debug!(%error, "connection attempt failed");
            return;
        }
        Err(_) => {
            tracing::debug!("connection attempt timed out");
            return;
        }
    };
    let alpn = lightning_quic::tls::negotiated_alpn(&connection);
    let session = Arc::new(Session::new(
        connection,
        group,
        Version::from_alpn(alpn.as_deref()),
    ));
    tracing::debug!(peer = %session.remote_addr(), version = ?session.version, "connected");
    let patience = async {
        if tokio::time::timeout_at(deadline, session.first_authentication())
            .await
            .is_err()
        {
            tracing::debug!(peer = %session.remote_addr(), "no handshake in time");
            session.close(CloseReason::HandshakeTimeout);
        }
        drop(place);
        // From here on the streams alone decide how long the connection lasts.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = accept_streams(&shared, &session) => {}
        () = patience => {}
    }
    shared.unregister(&session);
    session.close(CloseReason::Done);
}

async fn accept_streams(shared: &Arc<Shared>, session: &Arc<Session>) {
    loop {
        match session.connection.accept_bi().await {
            Ok((send, recv)) => {
                if dispatch::admits_stream(session) {
                    let serve = dispatch::serve_stream(shared.clone(), session.clone(), send, recv);
                    tokio::spawn(serve);
                }
            }
            Err(reason) => {
                tracing::info!(peer = %session.remote_addr(), %reason, "connection ended");
                return;
            }
        }
    }
}
