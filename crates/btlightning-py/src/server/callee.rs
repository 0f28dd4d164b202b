//! A Python handler: calling it, and turning what it returns into an answer.

use btlightning::{LightningError, Payload, RequestContext};
use bytes::Bytes;
use pyo3::{
    prelude::*,
    pybacked::PyBackedBytes,
    sync::PyOnceLock,
    types::{IntoPyDict, PyBytes, PyTuple},
};

use super::{context::Context, thread};
use crate::values::{self, Decode, Tensors};

/// A handler as it was registered.
pub(super) struct Callee {
    callable: Py<PyAny>,
    with_context: bool,
    decode: Decode,
}

impl Callee {
    pub(super) fn new(callable: Py<PyAny>, with_context: bool, buffers: bool) -> Self {
        Self {
            callable,
            with_context,
            decode: Decode { buffers },
        }
    }

    /// Calls the handler. A failure is logged, and what is returned in its place tells nothing of
    /// it that a caller must not know.
    pub(super) fn call<'py>(
        &self,
        py: Python<'py>,
        context: &RequestContext,
        data: &Payload,
    ) -> Result<Bound<'py, PyAny>, LightningError> {
        let data = values::decode(py, data, self.decode)
            .map_err(|error| LightningError::Serialization(error.to_string()))?;
        let args = if self.with_context {
            PyTuple::new(py, [data.as_any(), self.context(py, context)?.as_any()])
        } else {
            PyTuple::new(py, [data])
        };
        args.and_then(|args| thread::call(self.callable.bind(py), &args))
            .map_err(|error| failure(py, context.synapse_type(), &error))
    }

    fn context<'py>(
        &self,
        py: Python<'py>,
        context: &RequestContext,
    ) -> Result<Bound<'py, Context>, LightningError> {
        Bound::new(py, Context::new(context.clone()))
            .map_err(|error| failure(py, context.synapse_type(), &error))
    }
}

/// Encodes what a handler returned, as its caller can read it.
pub(super) fn answer(
    result: &Bound<'_, PyAny>,
    context: &RequestContext,
) -> Result<Payload, LightningError> {
    // A published peer knows no extension types.
    let tensors = if context.version().has_client_streams() {
        Tensors::Extension
    } else {
        Tensors::Bytes
    };
    match values::encode(result, tensors) {
        Ok(encoded) => Ok(encoded.payload),
        Err(error) => Err(failure(result.py(), context.synapse_type(), &error)),
    }
}

/// Takes a chunk of a stream: anything that is bytes-like.
pub(super) fn chunk(item: &Bound<'_, PyAny>) -> PyResult<Bytes> {
    if let Ok(bytes) = item.cast_exact::<PyBytes>() {
        let content = bytes.as_bytes();
        return Ok(if content.len() < KEPT_BYTES {
            Bytes::copy_from_slice(content)
        } else {
            Bytes::from_owner(PyBackedBytes::from(bytes.clone()))
        });
    }
    values::bytes_of(item)
}

/// Logs what a handler raised, with its traceback, and returns the failure that stands for it.
pub(super) fn failure(py: Python<'_>, synapse_type: &str, error: &PyErr) -> LightningError {
    log(py, "the handler of %r failed", synapse_type, Some(error));
    let kind = error.get_type(py);
    let name = kind
        .name()
        .map_or_else(|_| "an exception".into(), |name| name.to_string());
    LightningError::Handler(format!("a Python handler raised {name}"))
}

/// Logs an error about `subject`, which `message` has a place for, to the logger `btlightning`.
pub(super) fn log(py: Python<'_>, message: &str, subject: &str, error: Option<&PyErr>) {
    if let Err(unlogged) = try_log(py, message, subject, error) {
        // The logging is broken, as at the end of the interpreter: what is left is stderr.
        unlogged.write_unraisable(py, None);
    }
}

fn try_log(py: Python<'_>, message: &str, subject: &str, error: Option<&PyErr>) -> PyResult<()> {
    static LOGGER: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let logger = LOGGER.get_or_try_init(py, || {
        let logging = py.import("logging")?;
        PyResult::Ok(
            logging
                .call_method1("getLogger", ("btlightning",))?
                .unbind(),
        )
    })?;
    // All three: before Python 3.12, the traceback is not with the exception.
    let raised = error.map(|error| (error.get_type(py), error.value(py), error.traceback(py)));
    let options = [("exc_info", raised)].into_py_dict(py)?;
    logger
        .bind(py)
        .call_method("error", (message, subject), Some(&options))?;
    Ok(())
}

/// Size from which a chunk stays in the Python object until it is sent; a smaller one is copied,
/// which costs less than giving the object back.
const KEPT_BYTES: usize = 16 * 1024;
