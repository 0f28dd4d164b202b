//! Requests, from the forms in which Python code has them.

use btlightning::{LightningClient, Payload, QuicAxonInfo};
use pyo3::{
    exceptions::{PyKeyError, PyRuntimeError, PyTypeError},
    intern,
    prelude::*,
    types::{PyDict, PyString},
};

use super::axon;
use crate::{
    errors,
    values::{self, Tensors},
};

/// An encoded request whose miner is asked off the interpreter's threads.
pub(super) struct Request {
    payload: Payload,
    /// What it was made of, if miners that do not know tensors need another form of it.
    tensors: Option<Py<PyAny>>,
}

impl Request {
    pub(super) fn encode(data: &Bound<'_, PyAny>) -> PyResult<Self> {
        let encoded = values::encode(data, Tensors::Extension)?;
        Ok(Self {
            payload: encoded.payload,
            tensors: encoded.has_tensors.then(|| data.clone().unbind()),
        })
    }

    /// Returns the form that this miner understands.
    pub(super) async fn for_peer(
        self,
        client: &LightningClient,
        axon: &QuicAxonInfo,
    ) -> PyResult<Payload> {
        let Some(data) = self.tensors else {
            return Ok(self.payload);
        };
        let version = client.version(axon).await.map_err(errors::from_call)?;
        if version.has_client_streams() {
            return Ok(self.payload);
        }
        // Away from the I/O threads, which must not wait for the GIL.
        let plain = tokio::task::spawn_blocking(move || {
            Python::try_attach(|py| values::encode(data.bind(py), Tensors::Bytes))
        });
        match plain.await {
            Ok(Some(encoded)) => Ok(encoded?.payload),
            Ok(None) | Err(_) => Err(PyRuntimeError::new_err("the interpreter is exiting")),
        }
    }
}

/// Takes a request dict apart. `data` may be missing: it is `None` then.
pub(super) fn split<'py>(
    request: &Bound<'py, PyAny>,
) -> PyResult<(Bound<'py, PyString>, Bound<'py, PyAny>)> {
    let py = request.py();
    let get = |key: &Bound<'py, PyString>| match request.cast::<PyDict>() {
        Ok(dict) => dict.get_item(key),
        Err(_) => match request.get_item(key) {
            Ok(value) => Ok(Some(value)),
            Err(e) if e.is_instance_of::<PyKeyError>(py) => Ok(None),
            Err(e) => Err(e),
        },
    };
    let synapse_type =
        get(intern!(py, "synapse_type"))?.ok_or_else(|| errors::missing_key("synapse_type"))?;
    let synapse_type = synapse_type.cast_into::<PyString>().map_err(|e| {
        PyTypeError::new_err(format!(
            "synapse_type must be a str, not {}",
            axon::type_name(&e.into_inner())
        ))
    })?;
    let data = get(intern!(py, "data"))?;
    Ok((synapse_type, data_or_none(py, data.as_ref())))
}

/// Returns the data of a request, `None` for one without.
pub(super) fn data_or_none<'py>(
    py: Python<'py>,
    data: Option<&Bound<'py, PyAny>>,
) -> Bound<'py, PyAny> {
    match data {
        Some(data) => data.clone(),
        None => py.None().into_bound(py),
    }
}
