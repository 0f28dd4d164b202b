//! The validator's side: the class `RustLightning` and what its methods return.

mod answer;
mod axon;
mod connection;
mod many;
mod request;
mod settings;
pub(crate) mod signer;
mod stream;

use std::time::Instant;

use btlightning::{
    BtWalletSigner, CallOptions, LightningClient, LightningError, Payload, QuicAxonInfo,
    client::ManyOptions,
};
use pyo3::{prelude::*, types::PyDict};

use self::{
    answer::Refusal, axon::AxonInfo, connection::Connections, many::QueryMany, request::Request,
    settings::Settings, signer::PythonSigner, stream::PyStreamingResponse,
};
use crate::{
    bridge::{LoopBridge, Operation},
    errors,
    runtime::{self, Owned},
    values::{self, Decode, Tensors},
};

/// Sends requests to miners over connections that it keeps.
///
/// All methods may be called from any thread at any time; none holds up another.
#[pyclass(frozen, module = "btlightning", name = "RustLightning")]
pub(crate) struct RustLightning {
    connections: Owned<Connections>,
}

#[pymethods]
impl RustLightning {
    #[new]
    #[pyo3(signature = (
        wallet_hotkey,
        connect_timeout_secs=None,
        idle_timeout_secs=None,
        keep_alive_interval_secs=None,
        reconnect_initial_backoff_secs=None,
        reconnect_max_backoff_secs=None,
        reconnect_max_retries=None,
        max_frame_payload_bytes=None,
        max_stream_payload_bytes=None,
    ))]
    #[allow(
        clippy::too_many_arguments,
        reason = "the published package's signature"
    )]
    fn new(
        wallet_hotkey: String,
        connect_timeout_secs: Option<f64>,
        idle_timeout_secs: Option<f64>,
        keep_alive_interval_secs: Option<f64>,
        reconnect_initial_backoff_secs: Option<f64>,
        reconnect_max_backoff_secs: Option<f64>,
        reconnect_max_retries: Option<u32>,
        max_frame_payload_bytes: Option<usize>,
        max_stream_payload_bytes: Option<usize>,
    ) -> PyResult<Self> {
        let settings = Settings {
            connect_timeout_secs,
            idle_timeout_secs,
            keep_alive_interval_secs,
            reconnect_initial_backoff_secs,
            reconnect_max_backoff_secs,
            reconnect_max_retries,
            max_frame_payload_bytes,
            max_stream_payload_bytes,
        };
        Ok(Self {
            connections: Owned::new(Connections::new(wallet_hotkey, settings.check()?)),
        })
    }

    /// The validator's hotkey.
    #[getter]
    fn wallet_hotkey(&self) -> &str {
        self.connections.hotkey()
    }

    /// Signs handshakes with the key pair of this 32-byte seed.
    fn set_validator_keypair(&self, keypair_seed: &Bound<'_, PyAny>) -> PyResult<()> {
        let signer = signer::from_seed(keypair_seed)?;
        self.connections.set_signer(signer);
        Ok(())
    }

    /// Signs handshakes by calling this from bytes to bytes, on a thread of its own.
    fn set_python_signer(&self, signer_callback: Bound<'_, PyAny>) -> PyResult<()> {
        let signer = PythonSigner::new(signer_callback)?;
        self.connections.set_signer(signer);
        Ok(())
    }

    /// Signs handshakes with a hotkey of the Bittensor wallet folder.
    #[pyo3(signature = (
        wallet_name="default",
        wallet_path="~/.bittensor/wallets",
        hotkey_name="default",
    ))]
    fn set_wallet(
        &self,
        py: Python<'_>,
        wallet_name: &str,
        wallet_path: &str,
        hotkey_name: &str,
    ) -> PyResult<()> {
        // An encrypted key takes seconds.
        let signer = py
            .detach(|| BtWalletSigner::from_wallet(wallet_name, wallet_path, hotkey_name))
            .map_err(errors::from_lightning)?;
        self.connections.set_signer(signer);
        Ok(())
    }

    /// Connects to miners and authenticates with each; those that cannot be reached are logged.
    fn initialize_connections(&self, py: Python<'_>, miners: &Bound<'_, PyAny>) -> PyResult<()> {
        let miners = axon::parse_all(miners)?;
        let connections = self.connections.share();
        runtime::block_on(py, connections.connect(miners))?.map_err(errors::from_lightning)
    }

    /// Brings the connections in step with this set of miners.
    fn update_miner_registry(&self, py: Python<'_>, miners: &Bound<'_, PyAny>) -> PyResult<()> {
        let miners = axon::parse_all(miners)?;
        let connections = self.connections.share();
        runtime::block_on(py, connections.update(miners))?.map_err(errors::from_lightning)
    }

    /// Sends a request `{"synapse_type": ..., "data": ...}` and waits for its answer.
    #[pyo3(signature = (axon_info, request, timeout_secs=None))]
    fn query_axon<'py>(
        &self,
        axon_info: &Bound<'py, PyAny>,
        request: &Bound<'py, PyAny>,
        timeout_secs: Option<f64>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let options = settings::options(settings::timeout_secs(timeout_secs)?, 0)?;
        let axon = axon::parse(axon_info)?;
        let (synapse_type, data) = request::split(request)?;
        let decode = Decode { buffers: false };
        self.call(
            &axon,
            synapse_type.to_str()?,
            &data,
            options,
            decode,
            Refusal::Told,
        )
    }

    /// Sends a request `{"synapse_type": ..., "data": ...}` whose answer comes in chunks.
    fn query_axon_stream(
        &self,
        py: Python<'_>,
        axon_info: &Bound<'_, PyAny>,
        request: &Bound<'_, PyAny>,
    ) -> PyResult<PyStreamingResponse> {
        let axon = axon::parse(axon_info)?;
        let (synapse_type, data) = request::split(request)?;
        let client = self.client()?;
        let data = self.encode_for(&axon, &data)?;
        let stream = client.open_stream(&axon, synapse_type.to_str()?, &data);
        let stream = runtime::block_on(py, stream)?.map_err(errors::from_call)?;
        Ok(PyStreamingResponse::new(stream))
    }

    /// Returns the connections and their states as text.
    fn get_connection_stats(&self, py: Python<'_>) -> PyResult<Py<PyDict>> {
        self.connections.stats_as_text(py).map(Bound::unbind)
    }

    /// Closes all connections and forgets all miners. The client can be used again.
    fn close_all_connections(&self, py: Python<'_>) -> PyResult<()> {
        let connections = self.connections.share();
        runtime::block_on(py, connections.close())?.map_err(errors::from_lightning)
    }

    /// Sends a request and waits for its answer.
    #[pyo3(signature = (axon, synapse_type, data=None, timeout=None, priority=0, buffers=false))]
    #[allow(clippy::too_many_arguments, reason = "Python's keyword arguments")]
    fn query<'py>(
        &self,
        axon: &Bound<'py, PyAny>,
        synapse_type: &str,
        data: Option<&Bound<'py, PyAny>>,
        timeout: Option<f64>,
        priority: i64,
        buffers: bool,
    ) -> PyResult<Bound<'py, PyDict>> {
        let options = settings::options(settings::duration("timeout", timeout)?, priority)?;
        let data = request::data_or_none(axon.py(), data);
        let axon = axon::parse(axon)?;
        self.call(
            &axon,
            synapse_type,
            &data,
            options,
            Decode { buffers },
            Refusal::Raised,
        )
    }

    /// Sends a request; the future gets its answer.
    #[pyo3(signature = (
        bridge,
        axon,
        synapse_type,
        data=None,
        timeout=None,
        priority=0,
        buffers=false,
    ))]
    #[allow(clippy::too_many_arguments, reason = "Python's keyword arguments")]
    fn query_async(
        &self,
        py: Python<'_>,
        bridge: &LoopBridge,
        axon: &Bound<'_, PyAny>,
        synapse_type: String,
        data: Option<&Bound<'_, PyAny>>,
        timeout: Option<f64>,
        priority: i64,
        buffers: bool,
    ) -> PyResult<Operation> {
        let options = settings::options(settings::duration("timeout", timeout)?, priority)?;
        let axon = axon::parse(axon)?;
        let request = Request::encode(&request::data_or_none(py, data))?;
        let client = self.connections.client()?;
        let begun = Instant::now();
        let answer = async move {
            let data = request.for_peer(&client, &axon).await?;
            let reply = client.call_payload(&axon, &synapse_type, &data, options);
            PyResult::Ok(reply.await)
        };
        bridge.spawn(py, answer, move |py, result| {
            let answer = answer::to_dict(py, result?, begun, Decode { buffers }, Refusal::Raised)?;
            Ok(answer.into_any().unbind())
        })
    }

    /// Sends a request whose answer comes in chunks; the future gets a `PyStreamingResponse`.
    #[pyo3(signature = (bridge, axon, synapse_type, data=None))]
    fn stream_async(
        &self,
        py: Python<'_>,
        bridge: &LoopBridge,
        axon: &Bound<'_, PyAny>,
        synapse_type: String,
        data: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Operation> {
        let axon = axon::parse(axon)?;
        let request = Request::encode(&request::data_or_none(py, data))?;
        let client = self.connections.client()?;
        let stream = async move {
            let data = request.for_peer(&client, &axon).await?;
            let stream = client.open_stream(&axon, &synapse_type, &data);
            stream.await.map_err(errors::from_call)
        };
        bridge.spawn(py, stream, |py, stream| {
            Ok(Py::new(py, PyStreamingResponse::new(stream?))?.into_any())
        })
    }

    /// Sends one request to many miners and returns their answers as they come.
    #[pyo3(signature = (
        axons,
        synapse_type,
        data=None,
        timeout=None,
        connect_timeout=None,
        deadline=None,
        concurrency=many::CONCURRENCY,
        wanted=None,
        hedge_after=None,
        buffers=false,
    ))]
    #[allow(clippy::too_many_arguments, reason = "Python's keyword arguments")]
    fn query_many(
        &self,
        axons: &Bound<'_, PyAny>,
        synapse_type: &str,
        data: Option<&Bound<'_, PyAny>>,
        timeout: Option<f64>,
        connect_timeout: Option<f64>,
        deadline: Option<f64>,
        concurrency: usize,
        wanted: Option<usize>,
        hedge_after: Option<f64>,
        buffers: bool,
    ) -> PyResult<QueryMany> {
        if concurrency == 0 || wanted == Some(0) {
            return Err(settings::config_error(
                "concurrency and wanted must be at least 1".into(),
            ));
        }
        let mut options = ManyOptions::default().concurrency(concurrency);
        options.timeout = settings::duration("timeout", timeout)?;
        options.connect_timeout = settings::duration("connect_timeout", connect_timeout)?;
        options.deadline = settings::duration("deadline", deadline)?;
        options.hedge_after = settings::duration("hedge_after", hedge_after)?;
        options.wanted = wanted;
        let miners = axon::parse_all(axons)?;
        let data = request::data_or_none(axons.py(), data);
        let encoded = values::encode(&data, Tensors::Extension)?;
        let client = self.connections.client()?;
        let decode = Decode { buffers };
        // The requests start at once, on the runtime.
        let _context = runtime::runtime()?.enter();
        if !encoded.has_tensors || connection::all_know_tensors(&client, &miners) {
            let many = client.query_many(miners, synapse_type, &encoded.payload, options);
            return Ok(QueryMany::new(many, decode));
        }
        let plain = values::encode(&data, Tensors::Bytes)?.payload;
        let synapse_type = synapse_type.to_owned();
        let answers = many::with_versions(
            client,
            miners,
            synapse_type,
            encoded.payload,
            plain,
            options,
        );
        Ok(QueryMany::new(answers, decode))
    }

    /// Connects to miners, as `initialize_connections`.
    fn connect_async(
        &self,
        py: Python<'_>,
        bridge: &LoopBridge,
        miners: &Bound<'_, PyAny>,
    ) -> PyResult<Operation> {
        let miners = axon::parse_all(miners)?;
        let connections = self.connections.share();
        bridge.spawn(py, connections.connect(miners), none_or_error)
    }

    /// Brings the connections in step with these miners, as `update_miner_registry`.
    fn update_async(
        &self,
        py: Python<'_>,
        bridge: &LoopBridge,
        miners: &Bound<'_, PyAny>,
    ) -> PyResult<Operation> {
        let miners = axon::parse_all(miners)?;
        let connections = self.connections.share();
        bridge.spawn(py, connections.update(miners), none_or_error)
    }

    /// Closes all connections, as `close_all_connections`.
    fn close_async(&self, py: Python<'_>, bridge: &LoopBridge) -> PyResult<Operation> {
        let connections = self.connections.share();
        bridge.spawn(py, connections.close(), none_or_error)
    }

    /// Returns the connections and what QUIC knows of them, as a dict.
    fn stats(&self, py: Python<'_>) -> PyResult<Py<PyDict>> {
        self.connections.stats(py).map(Bound::unbind)
    }
}

impl RustLightning {
    fn client(&self) -> PyResult<&LightningClient> {
        self.connections.client_ref()
    }

    /// The path of all blocking requests.
    fn call<'py>(
        &self,
        axon: &QuicAxonInfo,
        synapse_type: &str,
        data: &Bound<'py, PyAny>,
        options: CallOptions,
        decode: Decode,
        refusal: Refusal,
    ) -> PyResult<Bound<'py, PyDict>> {
        let client = self.client()?;
        let py = data.py();
        let data = self.encode_for(axon, data)?;
        let begun = Instant::now();
        let reply = client.call_payload(axon, synapse_type, &data, options);
        answer::to_dict(py, runtime::block_on(py, reply)?, begun, decode, refusal)
    }

    /// Encodes a request in a form that this miner understands.
    fn encode_for(&self, axon: &QuicAxonInfo, data: &Bound<'_, PyAny>) -> PyResult<Payload> {
        let encoded = values::encode(data, Tensors::Extension)?;
        if encoded.has_tensors {
            let version = runtime::block_on(data.py(), self.client()?.version(axon))?
                .map_err(errors::from_call)?;
            if !version.has_client_streams() {
                return Ok(values::encode(data, Tensors::Bytes)?.payload);
            }
        }
        Ok(encoded.payload)
    }
}

fn none_or_error(py: Python<'_>, result: Result<(), LightningError>) -> PyResult<Py<PyAny>> {
    result.map_err(errors::from_lightning)?;
    Ok(py.None())
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<AxonInfo>()?;
    module.add_class::<PyStreamingResponse>()?;
    module.add_class::<QueryMany>()?;
    module.add_class::<RustLightning>()
}
