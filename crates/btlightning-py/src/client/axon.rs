//! Miners' addresses, in the forms in which Python code has them.

use btlightning::{LightningError, QuicAxonInfo};
use pyo3::{
    exceptions::{PyKeyError, PyTypeError},
    intern,
    prelude::*,
    types::{PyDict, PyInt, PyMapping, PyString},
};

use crate::errors;

/// Where a miner listens and who it is.
#[pyclass(module = "btlightning", name = "QuicAxonInfo", get_all, set_all, eq)]
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct AxonInfo {
    /// SS58 address of the miner's hotkey.
    hotkey: String,
    /// IPv4 or IPv6 address.
    ip: String,
    /// UDP port.
    port: u16,
    /// Protocol number published on the chain; 4 is QUIC.
    protocol: u8,
}

#[pymethods]
impl AxonInfo {
    #[new]
    #[pyo3(signature = (hotkey, ip, port, protocol=QUIC))]
    fn new(hotkey: String, ip: String, port: u16, protocol: u8) -> Self {
        Self {
            hotkey,
            ip,
            port,
            protocol,
        }
    }

    fn __repr__(&self) -> String {
        let Self {
            hotkey,
            ip,
            port,
            protocol,
        } = self;
        format!("QuicAxonInfo(hotkey={hotkey:?}, ip={ip:?}, port={port}, protocol={protocol})")
    }
}

/// Reads an axon: a mapping, a `QuicAxonInfo`, or any object with the same attributes.
///
/// # Errors
///
/// The `KeyError` of a mapping names the key that is missing; a value of the wrong type is a
/// `TypeError`, a number out of bounds a `LightningConfigError`.
pub(super) fn parse(axon: &Bound<'_, PyAny>) -> PyResult<QuicAxonInfo> {
    if let Ok(dict) = axon.cast::<PyDict>() {
        return from_items(axon.py(), |key| dict.get_item(key));
    }
    if let Ok(info) = axon.cast::<AxonInfo>() {
        let info = info.try_borrow()?;
        return Ok(QuicAxonInfo::new(
            info.hotkey.clone(),
            info.ip.clone(),
            info.port,
            info.protocol,
        ));
    }
    if let Ok(mapping) = axon.cast::<PyMapping>() {
        return from_items(axon.py(), |key| match mapping.get_item(key) {
            Ok(value) => Ok(Some(value)),
            Err(e) if e.is_instance_of::<PyKeyError>(axon.py()) => Ok(None),
            Err(e) => Err(e),
        });
    }
    if !axon.hasattr(intern!(axon.py(), "hotkey"))? {
        return Err(PyTypeError::new_err(format!(
            "an axon must be a dict, a QuicAxonInfo or an object with hotkey, ip and port, not {}",
            type_name(axon)
        )));
    }
    from_items(axon.py(), |key| axon.getattr_opt(key))
}

/// Reads the axons of an iterable.
pub(super) fn parse_all(axons: &Bound<'_, PyAny>) -> PyResult<Vec<QuicAxonInfo>> {
    axons.try_iter()?.map(|axon| parse(&axon?)).collect()
}

/// Returns the name of a value's type, for messages.
pub(super) fn type_name(value: &Bound<'_, PyAny>) -> String {
    value
        .get_type()
        .name()
        .map_or_else(|_| "something else".to_owned(), |name| name.to_string())
}

fn from_items<'py>(
    py: Python<'py>,
    get: impl Fn(&Bound<'py, PyString>) -> PyResult<Option<Bound<'py, PyAny>>>,
) -> PyResult<QuicAxonInfo> {
    let need =
        |key: &Bound<'py, PyString>, name: &str| get(key)?.ok_or_else(|| errors::missing_key(name));
    let hotkey = text(&need(intern!(py, "hotkey"), "hotkey")?, "hotkey")?;
    let ip = text(&need(intern!(py, "ip"), "ip")?, "ip")?;
    let port = number(&need(intern!(py, "port"), "port")?, "port")?;
    let protocol = match get(intern!(py, "protocol"))? {
        Some(value) if !value.is_none() => number(&value, "protocol")?,
        _ => QUIC,
    };
    Ok(QuicAxonInfo::new(hotkey, ip, port, protocol))
}

fn text(value: &Bound<'_, PyAny>, name: &str) -> PyResult<String> {
    match value.cast::<PyString>() {
        Ok(text) => Ok(text.to_str()?.to_owned()),
        Err(_) => Err(wrong_type(value, name, "a str")),
    }
}

fn number<T: TryFrom<i64>>(value: &Bound<'_, PyAny>, name: &str) -> PyResult<T> {
    let int: i64 = value.extract().map_err(|_| {
        if value.is_instance_of::<PyInt>() {
            out_of_bounds(value, name)
        } else {
            wrong_type(value, name, "an int")
        }
    })?;
    T::try_from(int).map_err(|_| out_of_bounds(value, name))
}

fn wrong_type(value: &Bound<'_, PyAny>, name: &str, wanted: &str) -> PyErr {
    PyTypeError::new_err(format!(
        "the {name} of an axon must be {wanted}, not {}",
        type_name(value)
    ))
}

fn out_of_bounds(value: &Bound<'_, PyAny>, name: &str) -> PyErr {
    errors::from_lightning(LightningError::Config(format!(
        "the {name} of an axon is out of bounds: {value}"
    )))
}

/// The protocol number of QUIC on the chain.
const QUIC: u8 = 4;
