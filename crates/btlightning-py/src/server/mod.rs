//! The miner's side: `RustLightningServer`, and Python functions as its handlers.
//!
//! - [`lifecycle`]: the server itself, with nothing of Python in it.
//! - [`blocking`], [`stream`]: handlers on threads; [`thread`] is what such a thread needs.
//! - [`asynchronous`], [`chunks`]: handlers on an asyncio loop.
//! - [`callee`]: what all handlers have in common.
//! - [`hooks`]: what else a server asks Python for.

mod asynchronous;
mod blocking;
mod callee;
mod chunks;
mod context;
mod hooks;
mod lifecycle;
mod stats;
mod stream;
mod thread;

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::Duration,
};

use btlightning::{
    BtWalletSigner, LightningError, LightningServerConfig, server::wrap_handler_threads,
};
use pyo3::{prelude::*, types::PyDict};

use crate::{
    bridge::{LoopBridge, Operation},
    client::signer::{self, PythonSigner},
    errors,
    runtime::{self, EndAtExit, Owned, block_on},
};
use asynchronous::{AsyncIterated, Coroutine};
use blocking::Function;
use callee::Callee;
use context::Context;
use lifecycle::{Handler, Lifecycle};
use stream::Iterated;

/// Accepts validators and serves their requests.
#[pyclass(frozen, name = "RustLightningServer", module = "btlightning")]
pub(crate) struct Server {
    lifecycle: Owned<Lifecycle>,
}

#[pymethods]
impl Server {
    #[new]
    #[pyo3(signature = (
        miner_hotkey,
        host = "0.0.0.0".to_owned(),
        port = 8443,
        max_signature_age_secs = None,
        idle_timeout_secs = None,
        keep_alive_interval_secs = None,
        nonce_cleanup_interval_secs = None,
        max_nonce_entries = None,
        max_frame_payload_bytes = None,
        *,
        max_connections = None,
        handshake_timeout_secs = None,
        handler_timeout_secs = None,
        max_handshake_attempts_per_minute = None,
        max_concurrent_bidi_streams = None,
        require_validator_permit = None,
        validator_permit_refresh_secs = None,
        require_address_validation = None,
    ))]
    #[expect(
        clippy::too_many_arguments,
        reason = "they are keyword arguments in Python"
    )]
    fn new(
        miner_hotkey: String,
        host: String,
        port: u16,
        max_signature_age_secs: Option<u64>,
        idle_timeout_secs: Option<u64>,
        keep_alive_interval_secs: Option<u64>,
        nonce_cleanup_interval_secs: Option<u64>,
        max_nonce_entries: Option<usize>,
        max_frame_payload_bytes: Option<usize>,
        max_connections: Option<usize>,
        handshake_timeout_secs: Option<u64>,
        handler_timeout_secs: Option<u64>,
        max_handshake_attempts_per_minute: Option<u32>,
        max_concurrent_bidi_streams: Option<u32>,
        require_validator_permit: Option<bool>,
        validator_permit_refresh_secs: Option<u64>,
        require_address_validation: Option<bool>,
    ) -> PyResult<Self> {
        let mut config = LightningServerConfig::builder();
        macro_rules! set {
            ($($name:ident)*) => {
                $(if let Some(value) = $name {
                    config = config.$name(value);
                })*
            };
        }
        set! {
            max_signature_age_secs
            idle_timeout_secs
            keep_alive_interval_secs
            nonce_cleanup_interval_secs
            max_nonce_entries
            max_frame_payload_bytes
            max_connections
            handshake_timeout_secs
            handler_timeout_secs
            max_handshake_attempts_per_minute
            max_concurrent_bidi_streams
            require_validator_permit
            validator_permit_refresh_secs
            require_address_validation
        }
        let config = config.build().map_err(errors::from_lightning)?;
        let lifecycle = Owned::new(Lifecycle::new(miner_hotkey, host, port, config));
        let weak: Weak<Lifecycle> = Arc::downgrade(&lifecycle.share());
        runtime::end_at_exit(weak as Weak<dyn EndAtExit>);
        Ok(Self { lifecycle })
    }

    /// The miner's hotkey.
    #[getter]
    fn miner_hotkey(&self) -> &str {
        &self.lifecycle.hotkey
    }

    /// Signs with the sr25519 key derived from this 32-byte seed.
    fn set_miner_keypair(&self, keypair_seed: &Bound<'_, PyAny>) -> PyResult<()> {
        let signer = signer::from_seed(keypair_seed)?;
        self.lifecycle.hooks.set_signer(signer);
        Ok(())
    }

    /// Signs by calling back, on a thread that may block.
    fn set_python_signer(&self, signer_callback: Bound<'_, PyAny>) -> PyResult<()> {
        let signer = PythonSigner::new(signer_callback)?;
        self.lifecycle.hooks.set_signer(signer);
        Ok(())
    }

    /// Signs with a hotkey of the Bittensor wallet folder.
    #[pyo3(signature = (
        wallet_name = "default",
        wallet_path = "~/.bittensor/wallets",
        hotkey_name = "default",
    ))]
    fn set_miner_wallet(
        &self,
        py: Python<'_>,
        wallet_name: &str,
        wallet_path: &str,
        hotkey_name: &str,
    ) -> PyResult<()> {
        let signer = py
            .detach(|| BtWalletSigner::from_wallet(wallet_name, wallet_path, hotkey_name))
            .map_err(errors::from_lightning)?;
        self.lifecycle.hooks.set_signer(signer);
        Ok(())
    }

    /// Asks `resolver` for the hotkeys that may connect, where permits are required.
    fn set_validator_permit_resolver(&self, resolver: Py<PyAny>) {
        self.lifecycle.hooks.set_resolver(resolver);
    }

    /// Serves requests of a type with a function, on threads.
    #[pyo3(signature = (synapse_type, handler, context = false, buffers = false))]
    fn register_synapse_handler(
        &self,
        synapse_type: String,
        handler: Py<PyAny>,
        context: bool,
        buffers: bool,
    ) {
        let handler = Function::new(Callee::new(handler, context, buffers));
        self.lifecycle
            .register(synapse_type, Handler::Blocking(handler));
    }

    /// Serves requests of a type with a function that returns an iterable of chunks, on threads.
    #[pyo3(signature = (synapse_type, handler, context = false, buffers = false))]
    fn register_streaming_handler(
        &self,
        synapse_type: String,
        handler: Py<PyAny>,
        context: bool,
        buffers: bool,
    ) {
        let handler = Iterated::new(Callee::new(handler, context, buffers));
        self.lifecycle
            .register(synapse_type, Handler::Streaming(handler));
    }

    /// Serves requests of a type with a coroutine function, on a loop.
    #[pyo3(signature = (bridge, synapse_type, handler, context = false, buffers = false))]
    fn register_async_handler(
        &self,
        bridge: Py<LoopBridge>,
        synapse_type: String,
        handler: Py<PyAny>,
        context: bool,
        buffers: bool,
    ) {
        let handler = Coroutine::new(Callee::new(handler, context, buffers), bridge);
        self.lifecycle
            .register(synapse_type, Handler::Asynchronous(handler));
    }

    /// Serves requests of a type with an async generator function, on a loop.
    #[pyo3(signature = (bridge, synapse_type, handler, context = false, buffers = false))]
    fn register_async_stream(
        &self,
        bridge: Py<LoopBridge>,
        synapse_type: String,
        handler: Py<PyAny>,
        context: bool,
        buffers: bool,
    ) {
        let handler = AsyncIterated::new(Callee::new(handler, context, buffers), bridge);
        self.lifecycle
            .register(synapse_type, Handler::Streaming(handler));
    }

    /// Binds the socket.
    fn start(&self, py: Python<'_>) -> PyResult<()> {
        block_on(py, self.lifecycle.share().start())?.map_err(errors::from_lightning)
    }

    /// Serves until the server is stopped, or Ctrl-C stops it.
    fn serve_forever(&self, py: Python<'_>) -> PyResult<()> {
        match block_on(py, self.lifecycle.share().serve()) {
            Ok(served) => served.map_err(errors::from_lightning),
            Err(interrupt) => {
                // Whoever interrupts wants no grace. What goes wrong now matters less than that.
                let _ = block_on(py, self.lifecycle.share().shutdown(Duration::ZERO));
                Err(interrupt)
            }
        }
    }

    /// Like `start`, for a loop.
    fn start_async(&self, py: Python<'_>, bridge: &LoopBridge) -> PyResult<Operation> {
        bridge.spawn(py, self.lifecycle.share().start(), none)
    }

    /// Like `serve_forever`, for a loop; cancelling it does not stop the server.
    fn serve_async(&self, py: Python<'_>, bridge: &LoopBridge) -> PyResult<Operation> {
        bridge.spawn(py, self.lifecycle.share().serve(), none)
    }

    /// Stops the server, for a loop. Results in the number of requests that were cut off.
    fn shutdown_async(
        &self,
        py: Python<'_>,
        bridge: &LoopBridge,
        grace: f64,
    ) -> PyResult<Operation> {
        let grace = Duration::try_from_secs_f64(grace).map_err(|_| {
            errors::from_lightning(LightningError::Config(
                "grace must be a finite number of seconds, at least 0".into(),
            ))
        })?;
        let shutdown = self.lifecycle.share().shutdown(grace);
        bridge.spawn(py, shutdown, |py, unfinished| {
            let unfinished = unfinished.map_err(errors::from_lightning)?;
            Ok(unfinished.into_pyobject(py)?.into_any().unbind())
        })
    }

    /// Returns the address the server is bound to.
    fn local_addr(&self) -> PyResult<(String, u16)> {
        let addr = self
            .lifecycle
            .started()
            .and_then(|server| server.local_addr())
            .map_err(errors::from_lightning)?;
        Ok((addr.ip().to_string(), addr.port()))
    }

    /// Returns `total_connections`, `verified_connections` and `connection_{hotkey}` as text.
    fn get_connection_stats(&self, py: Python<'_>) -> PyResult<HashMap<String, String>> {
        block_on(py, self.lifecycle.share().connection_stats())?.map_err(errors::from_lightning)
    }

    /// Returns the server's state and counters.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = py.detach(|| self.lifecycle.stats());
        stats::to_dict(py, &stats)
    }

    /// Closes connections that have sent no request for more than so many seconds.
    #[pyo3(signature = (max_idle_seconds = 300))]
    fn cleanup_stale_connections(&self, py: Python<'_>, max_idle_seconds: u64) -> PyResult<()> {
        block_on(py, self.lifecycle.share().cleanup(max_idle_seconds))?
            .map_err(errors::from_lightning)
    }

    /// Stops the server; running handlers may go on for 5 seconds.
    fn stop(&self, py: Python<'_>) -> PyResult<()> {
        block_on(py, self.lifecycle.share().stop())?.map_err(errors::from_lightning)
    }

    fn __repr__(&self) -> String {
        format!(
            "RustLightningServer(miner_hotkey={:?}, host={:?}, port={})",
            self.lifecycle.hotkey, self.lifecycle.host, self.lifecycle.port
        )
    }
}

fn none(py: Python<'_>, result: btlightning::Result<()>) -> PyResult<Py<PyAny>> {
    result.map_err(errors::from_lightning)?;
    Ok(py.None())
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    // A thread that has the GIL answers all requests that wait, and only one more waits for it.
    wrap_handler_threads(|work| {
        if thread::attach(|_py| work()).is_none() {
            // Without an interpreter, handlers have their own answer.
            work();
        }
    });
    module.add_class::<Server>()?;
    module.add_class::<Context>()
}
