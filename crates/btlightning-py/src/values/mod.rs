//! Python values to MessagePack and back, with no tree in between.
//!
//! [`encode`] writes a mapping straight into the bytes that travel, [`decode`] makes Python objects
//! straight from the bytes that came. [`Buffer`] and [`Tensor`] alias received bytes.

mod buffer;
mod decode;
mod encode;
mod fail;
mod numpy;
mod objects;
mod tensor;

use btlightning::{LightningError, Payload};
use bytes::Bytes;
use pyo3::{
    prelude::*,
    types::{PyBytes, PyDict},
};

pub(crate) use buffer::{Buffer, bytes_of};
pub(crate) use tensor::Tensor;

use crate::errors;

/// How tensors travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tensors {
    /// As the extension type [`tensor::EXTENSION`], with dtype and shape.
    Extension,
    /// As their bytes alone: what a peer of the published package can take.
    Bytes,
}

/// A mapping in MessagePack.
#[derive(Debug)]
pub(crate) struct Encoded {
    /// The bytes.
    pub(crate) payload: Payload,
    /// Whether there are tensors among the values.
    pub(crate) has_tensors: bool,
}

/// What binary values become.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Decode {
    /// [`Buffer`]s without a copy, in place of `bytes`.
    pub(crate) buffers: bool,
}

/// Encodes a mapping with `str` keys, a dataclass instance or a pydantic model; `None` is the
/// empty map.
///
/// # Errors
///
/// A `TypeError` when `data` is none of these, a `SerializationError` that names the place for a
/// value that cannot travel, and whatever code of the values themselves raises.
pub(crate) fn encode(data: &Bound<'_, PyAny>, tensors: Tensors) -> PyResult<Encoded> {
    let (bytes, has_tensors) = encode::encode(data, tensors)?;
    let payload = checked(bytes)?;
    Ok(Encoded {
        payload,
        has_tensors,
    })
}

/// Decodes a payload into a `dict`.
///
/// # Errors
///
/// A `SerializationError` that names the place of a value that Python has nothing for.
pub(crate) fn decode<'py>(
    py: Python<'py>,
    payload: &Payload,
    options: Decode,
) -> PyResult<Bound<'py, PyDict>> {
    decode::decode(py, payload.pieces(), options)
}

/// Adds the classes and functions to the module.
pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("PROTOCOL_TENSOR_EXT", tensor::EXTENSION)?;
    module.add_class::<Buffer>()?;
    module.add_class::<Tensor>()?;
    module.add_function(wrap_pyfunction!(encode_py, module)?)?;
    module.add_function(wrap_pyfunction!(decode_py, module)?)
}

/// Encodes a mapping as the wire has it, tensors as bytes alone when told so.
#[pyfunction(name = "encode")]
#[pyo3(signature = (data, *, tensors_as_bytes = false))]
fn encode_py<'py>(
    data: &Bound<'py, PyAny>,
    tensors_as_bytes: bool,
) -> PyResult<Bound<'py, PyBytes>> {
    let tensors = if tensors_as_bytes {
        Tensors::Bytes
    } else {
        Tensors::Extension
    };
    let encoded = encode(data, tensors)?;
    Ok(PyBytes::new(data.py(), encoded.payload.as_bytes()))
}

/// Decodes MessagePack that holds one map with `str` keys; a `Buffer` is not copied.
#[pyfunction(name = "decode")]
#[pyo3(signature = (data, buffers = false))]
fn decode_py<'py>(data: &Bound<'py, PyAny>, buffers: bool) -> PyResult<Bound<'py, PyDict>> {
    let payload = checked(bytes_of(data)?)?;
    decode(data.py(), &payload, Decode { buffers })
}

fn checked(bytes: impl Into<Bytes>) -> PyResult<Payload> {
    Payload::from_bytes(bytes)
        .map_err(|error| errors::from_lightning(LightningError::Serialization(error.to_string())))
}
