//! What Python code gets for a request.

use std::time::{Duration, Instant};

use btlightning::{CallError, CallErrorKind, Reply};
use pyo3::{intern, prelude::*, types::PyDict};

use crate::{
    errors,
    values::{self, Decode},
};

/// What becomes of the miner's word that it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// An answer without success, as in the published package.
    Told,
    /// A `HandlerError`.
    Raised,
}

/// Makes the dict with success, data, latency_ms and error.
///
/// # Errors
///
/// What went wrong with the call.
pub(super) fn to_dict<'py>(
    py: Python<'py>,
    result: Result<Reply, CallError>,
    begun: Instant,
    decode: Decode,
    refusal: Refusal,
) -> PyResult<Bound<'py, PyDict>> {
    let answer = PyDict::new(py);
    match result {
        Ok(reply) => {
            let data = values::decode(py, &reply.data, decode)?;
            fill(&answer, true, data, reply.latency)?;
            answer.set_item(intern!(py, "error"), py.None())?;
        }
        Err(error) => match error.kind() {
            CallErrorKind::Remote(text) if refusal == Refusal::Told => {
                fill(&answer, false, PyDict::new(py), begun.elapsed())?;
                answer.set_item(intern!(py, "error"), text)?;
            }
            _ => return Err(errors::from_call(error)),
        },
    }
    Ok(answer)
}

fn fill<'py>(
    answer: &Bound<'py, PyDict>,
    success: bool,
    data: Bound<'py, PyDict>,
    latency: Duration,
) -> PyResult<()> {
    let py = answer.py();
    answer.set_item(intern!(py, "success"), success)?;
    answer.set_item(intern!(py, "data"), data)?;
    let milliseconds = latency.as_secs_f64() * 1000.0;
    answer.set_item(intern!(py, "latency_ms"), milliseconds)
}
