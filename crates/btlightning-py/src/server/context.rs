//! `RequestContext`: what a handler may know about the request it serves.

use std::{
    sync::OnceLock,
    time::{Duration, Instant},
};

use btlightning::RequestContext;
use pyo3::{intern, prelude::*};

/// Who asks, for what, and until when. The second argument of a handler that takes one.
#[pyclass(frozen, name = "RequestContext", module = "btlightning")]
pub(super) struct Context {
    inner: RequestContext,
    /// Worked out when first asked for, so that it stays the same from then on.
    deadline: OnceLock<f64>,
}

impl Context {
    pub(super) fn new(inner: RequestContext) -> Self {
        Self {
            inner,
            deadline: OnceLock::new(),
        }
    }
}

#[pymethods]
impl Context {
    /// The SS58 address of the caller's hotkey, which the caller has proven to hold.
    #[getter]
    fn hotkey(&self) -> &str {
        self.inner.hotkey()
    }

    /// The name of the authenticated connection.
    #[getter]
    fn connection_id(&self) -> &str {
        self.inner.connection_id()
    }

    /// Where the caller's packets come from at this moment, as `ip:port`.
    #[getter]
    fn remote_addr(&self) -> String {
        self.inner.remote_addr().to_string()
    }

    /// The type the request was sent for.
    #[getter]
    fn synapse_type(&self) -> &str {
        self.inner.synapse_type()
    }

    /// The `time.monotonic()` at which the caller is told that the handler timed out.
    #[getter]
    fn deadline(&self, py: Python<'_>) -> PyResult<f64> {
        if let Some(deadline) = self.deadline.get() {
            return Ok(*deadline);
        }
        let now: f64 = py
            .import(intern!(py, "time"))?
            .call_method0(intern!(py, "monotonic"))?
            .extract()?;
        let deadline = now + seconds_until(self.inner.deadline());
        Ok(*self.deadline.get_or_init(|| deadline))
    }

    /// Seconds left until the deadline; zero when it has passed.
    #[getter]
    fn time_left(&self) -> f64 {
        self.inner.time_left().as_secs_f64()
    }

    /// Whether nobody waits for the answer any more.
    #[getter]
    fn cancelled(&self) -> bool {
        self.inner.is_cancelled()
    }

    fn __repr__(&self) -> String {
        format!(
            "RequestContext(hotkey={:?}, remote_addr={:?}, synapse_type={:?})",
            self.hotkey(),
            self.remote_addr(),
            self.synapse_type()
        )
    }
}

/// Returns the seconds until `instant`, below zero when it has passed.
fn seconds_until(instant: Instant) -> f64 {
    let now = Instant::now();
    match instant.checked_duration_since(now) {
        Some(left) => left.as_secs_f64(),
        None => -now
            .checked_duration_since(instant)
            .map_or(0.0, |d: Duration| d.as_secs_f64()),
    }
}
