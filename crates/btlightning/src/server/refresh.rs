//! Background tasks: expiry, and asking the resolvers again.

use std::{future::Future, sync::Arc, time::Duration};

use super::{SourceAllowlist, shared::Shared};
use crate::{error::Result, util::unix_timestamp_secs};

/// Asks the resolvers once and starts the tasks that keep their answers and the nonces fresh.
pub(super) async fn start(shared: &Arc<Shared>) {
    refresh_permits(shared).await;
    refresh_sources(shared).await;
    every(
        shared,
        shared.config.nonce_cleanup_interval_secs,
        |shared| async move {
            shared.expire(unix_timestamp_secs());
        },
    );
    if shared.hooks().permits.is_some() {
        every(
            shared,
            shared.config.validator_permit_refresh_secs,
            |shared| async move {
                refresh_permits(&shared).await;
            },
        );
    }
    if shared.hooks().sources.is_some() {
        every(
            shared,
            shared.config.source_allowlist_refresh_secs,
            |shared| async move {
                refresh_sources(&shared).await;
            },
        );
    }
}

async fn refresh_permits(shared: &Arc<Shared>) {
    let Some(resolver) = shared.hooks().permits else {
        return;
    };
    if let Some(permitted) = ask("permits", move || resolver.resolve_permitted_validators()).await {
        tracing::info!(validators = permitted.len(), "validator permits resolved");
        shared.permits.store(Arc::new(permitted));
    }
}

async fn refresh_sources(shared: &Arc<Shared>) {
    let Some(resolver) = shared.hooks().sources else {
        return;
    };
    let Some(policy) = ask("sources", move || resolver.resolve_allowed_sources()).await else {
        return;
    };
    match &policy {
        SourceAllowlist::Bypass => tracing::info!("source addresses: any"),
        SourceAllowlist::Enforce(allowed) if allowed.is_empty() => {
            tracing::warn!("source addresses: none is allowed, nobody gets an answer");
        }
        SourceAllowlist::Enforce(allowed) => {
            tracing::info!(allowed = allowed.len(), "source addresses resolved");
        }
    }
    shared.sources.store(Arc::new(policy));
}

/// Asks a resolver on a thread that may block; a failure keeps what was known.
async fn ask<T: Send + 'static>(
    what: &'static str,
    resolve: impl FnOnce() -> Result<T> + Send + 'static,
) -> Option<T> {
    match tokio::task::spawn_blocking(resolve).await {
        Ok(Ok(answer)) => Some(answer),
        Ok(Err(error)) => {
            tracing::error!(%error, "cannot resolve {what}, keeping the last answer");
            None
        }
        Err(error) => {
            tracing::error!(%error, "the resolver of {what} panicked, keeping the last answer");
            None
        }
    }
}

/// Runs `work` at an interval until the server stops.
fn every<F: Future<Output = ()> + Send + 'static>(
    shared: &Arc<Shared>,
    secs: u64,
    work: impl Fn(Arc<Shared>) -> F + Send + 'static,
) {
    let stopped = shared.stopped.clone();
    // Weak: the task does not keep a dropped server alive.
    let shared = Arc::downgrade(shared);
    tokio::spawn(stopped.run_until_cancelled_owned(async move {
        let mut interval = tokio::time::interval(Duration::from_secs(secs));
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        interval.tick().await;
        loop {
            interval.tick().await;
            let Some(shared) = shared.upgrade() else {
                return;
            };
            work(shared).await;
        }
    }));
}
