//! The connections of a client, shared with what runs on the I/O threads.

use std::sync::Arc;

use btlightning::{
    LightningClient, LightningClientConfig, LightningError, QuicAxonInfo, Result, Signer,
};
use futures::future::BoxFuture;
use pyo3::{
    prelude::*,
    types::{PyDict, PyList},
};
use tokio::{sync::OnceCell, task::JoinSet};

use super::signer::SignerSlot;
use crate::{
    errors,
    runtime::{self, EndAtExit},
};

/// A client that gets its socket when it first connects.
pub(super) struct Connections {
    hotkey: String,
    config: LightningClientConfig,
    signer: SignerSlot,
    client: OnceCell<Arc<LightningClient>>,
}

impl Connections {
    pub(super) fn new(hotkey: String, config: LightningClientConfig) -> Self {
        Self {
            hotkey,
            config,
            signer: SignerSlot::default(),
            client: OnceCell::new(),
        }
    }

    pub(super) fn hotkey(&self) -> &str {
        &self.hotkey
    }

    pub(super) fn set_signer(&self, signer: impl Signer + 'static) {
        self.signer.set(signer);
    }

    /// Returns the client, to be used by a task.
    ///
    /// # Errors
    ///
    /// A `LightningConnectionError` before the first `connect`.
    pub(super) fn client(&self) -> PyResult<Arc<LightningClient>> {
        let client = self.client.get().cloned();
        client.ok_or_else(|| errors::from_lightning(not_initialized()))
    }

    /// Returns the client, to be used by the calling thread.
    ///
    /// # Errors
    ///
    /// As [`client`](Self::client).
    pub(super) fn client_ref(&self) -> PyResult<&LightningClient> {
        let client = self.client.get().map(Arc::as_ref);
        client.ok_or_else(|| errors::from_lightning(not_initialized()))
    }

    /// Connects to these miners, besides those there are.
    pub(super) async fn connect(self: Arc<Self>, miners: Vec<QuicAxonInfo>) -> Result<()> {
        self.signer.signer()?;
        let mut is_new = false;
        let client = self
            .client
            .get_or_try_init(|| {
                is_new = true;
                self.create()
            })
            .await?;
        if is_new {
            let this = Arc::downgrade(&self);
            runtime::end_at_exit(this);
            return client.update_miner_registry(miners).await;
        }
        let mut dials = JoinSet::new();
        for miner in miners {
            let client = client.clone();
            // Failures are logged where they happen: a subnet always has dead addresses.
            dials.spawn(async move { drop(client.version(&miner).await) });
        }
        while dials.join_next().await.is_some() {}
        Ok(())
    }

    /// Brings the connections in step with this set of miners.
    pub(super) async fn update(self: Arc<Self>, miners: Vec<QuicAxonInfo>) -> Result<()> {
        let client = self.client.get().ok_or_else(not_initialized)?;
        client.update_miner_registry(miners).await
    }

    /// Closes all connections.
    pub(super) async fn close(self: Arc<Self>) -> Result<()> {
        match self.client.get() {
            Some(client) => client.close_all_connections().await,
            None => Ok(()),
        }
    }

    /// Returns the number of connections and miners, and each connection's state, as text.
    pub(super) fn stats_as_text<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = self.client.get().map(|client| client.stats());
        let stats = stats.unwrap_or_default();
        let text = PyDict::new(py);
        text.set_item("total_connections", stats.connections.len().to_string())?;
        text.set_item("active_miners", stats.active_miners.to_string())?;
        for connection in stats.connections {
            let state = match connection.closed {
                None => "active".to_owned(),
                Some(reason) => format!("closed({reason})"),
            };
            text.set_item(format!("connection_{}", connection.addr), state)?;
        }
        Ok(text)
    }

    /// Returns what there is to know of the connections.
    pub(super) fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = self.client.get().map(|client| client.stats());
        let stats = stats.unwrap_or_default();
        let connections = PyList::empty(py);
        for connection in stats.connections {
            let dict = PyDict::new(py);
            dict.set_item("addr", connection.addr)?;
            dict.set_item("hotkeys", connection.hotkeys)?;
            dict.set_item("closed", connection.closed.map(|reason| reason.to_string()))?;
            dict.set_item("version", connection.version.to_string())?;
            dict.set_item("rtt_ms", connection.rtt.as_secs_f64() * 1000.0)?;
            dict.set_item("sent_bytes", connection.sent_bytes)?;
            dict.set_item("received_bytes", connection.received_bytes)?;
            dict.set_item("lost_packets", connection.lost_packets)?;
            dict.set_item("mtu", connection.mtu)?;
            connections.append(dict)?;
        }
        let dict = PyDict::new(py);
        dict.set_item("active_miners", stats.active_miners)?;
        dict.set_item("connections", connections)?;
        Ok(dict)
    }

    async fn create(&self) -> Result<Arc<LightningClient>> {
        let mut client = LightningClient::with_config(self.hotkey.clone(), self.config.clone())?;
        client.set_signer(Box::new(self.signer.clone()));
        client.create_endpoint().await?;
        Ok(Arc::new(client))
    }
}

impl EndAtExit for Connections {
    fn end(self: Arc<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move { drop(self.close().await) })
    }
}

/// Whether all these miners have a connection on which tensors may travel.
pub(super) fn all_know_tensors(client: &LightningClient, miners: &[QuicAxonInfo]) -> bool {
    let stats = client.stats();
    let knowing: std::collections::HashSet<(&str, &str)> = stats
        .connections
        .iter()
        .filter(|c| c.closed.is_none() && c.version.has_client_streams())
        .flat_map(|c| c.hotkeys.iter().map(|h| (h.as_str(), c.addr.as_str())))
        .collect();
    miners
        .iter()
        .all(|miner| knowing.contains(&(miner.hotkey.as_str(), miner.addr_key().as_ref())))
}

fn not_initialized() -> LightningError {
    LightningError::Connection("QUIC endpoint not initialized".into())
}
