//! A server's statistics as a dict.

use btlightning::ServerStats;
use pyo3::{
    prelude::*,
    types::{PyDict, PyList},
};

/// Makes a dict of plain values of a server's statistics.
pub(super) fn to_dict<'py>(py: Python<'py>, stats: &ServerStats) -> PyResult<Bound<'py, PyDict>> {
    let callers = PyList::empty(py);
    for caller in &stats.callers {
        let dict = PyDict::new(py);
        dict.set_item("hotkey", &caller.hotkey)?;
        dict.set_item("connection_id", &caller.connection_id)?;
        dict.set_item("remote_addr", caller.remote_addr.to_string())?;
        dict.set_item("version", caller.version.to_string())?;
        dict.set_item("idle_secs", caller.idle_secs)?;
        dict.set_item("rtt_secs", caller.rtt.as_secs_f64())?;
        callers.append(dict)?;
    }
    let handshakes_refused = PyDict::new(py);
    for (reason, count) in &stats.handshakes_refused {
        handshakes_refused.set_item(reason, count)?;
    }
    let dict = PyDict::new(py);
    dict.set_item("callers", callers)?;
    dict.set_item(
        "unauthenticated_connections",
        stats.unauthenticated_connections,
    )?;
    dict.set_item("requests_in_flight", stats.requests_in_flight)?;
    dict.set_item("requests", stats.requests)?;
    dict.set_item("requests_cancelled", stats.requests_cancelled)?;
    dict.set_item("requests_failed", stats.requests_failed)?;
    dict.set_item("requests_refused", stats.requests_refused)?;
    dict.set_item("handshakes", stats.handshakes)?;
    dict.set_item("handshakes_refused", handshakes_refused)?;
    dict.set_item("connections_refused", stats.connections_refused)?;
    dict.set_item("sources_ignored", stats.sources_ignored)?;
    Ok(dict)
}
