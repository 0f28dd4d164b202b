//! Numbers that Python code gives: checked, with errors that name them.

use std::time::Duration;

use btlightning::{CallOptions, LightningClientConfig, LightningError};
use pyo3::{exceptions::PyValueError, prelude::*};

use crate::errors;

/// The settings of a client as they come from Python; `None` stands for the default.
pub(super) struct Settings {
    pub(super) connect_timeout_secs: Option<f64>,
    pub(super) idle_timeout_secs: Option<f64>,
    pub(super) keep_alive_interval_secs: Option<f64>,
    pub(super) reconnect_initial_backoff_secs: Option<f64>,
    pub(super) reconnect_max_backoff_secs: Option<f64>,
    pub(super) reconnect_max_retries: Option<u32>,
    pub(super) max_frame_payload_bytes: Option<usize>,
    pub(super) max_stream_payload_bytes: Option<usize>,
}

impl Settings {
    /// Checks the settings, each by itself and together.
    ///
    /// # Errors
    ///
    /// A `LightningConfigError` that names the setting.
    pub(super) fn check(self) -> PyResult<LightningClientConfig> {
        let default = LightningClientConfig::default();
        let mut builder = LightningClientConfig::builder()
            .connect_timeout(or(
                "connect_timeout_secs",
                self.connect_timeout_secs,
                default.connect_timeout,
            )?)
            .idle_timeout(or(
                "idle_timeout_secs",
                self.idle_timeout_secs,
                default.idle_timeout,
            )?)
            .keep_alive_interval(or(
                "keep_alive_interval_secs",
                self.keep_alive_interval_secs,
                default.keep_alive_interval,
            )?)
            .reconnect_initial_backoff(or(
                "reconnect_initial_backoff_secs",
                self.reconnect_initial_backoff_secs,
                default.reconnect_initial_backoff,
            )?)
            .reconnect_max_backoff(or(
                "reconnect_max_backoff_secs",
                self.reconnect_max_backoff_secs,
                default.reconnect_max_backoff,
            )?);
        if let Some(retries) = self.reconnect_max_retries {
            builder = builder.reconnect_max_retries(retries);
        }
        let frame = self
            .max_frame_payload_bytes
            .unwrap_or(default.max_frame_payload_bytes);
        // A larger frame limit alone is meant for streams too.
        let stream = self
            .max_stream_payload_bytes
            .unwrap_or(default.max_stream_payload_bytes.max(frame));
        builder
            .max_frame_payload_bytes(frame)
            .max_stream_payload_bytes(stream)
            .build()
            .map_err(errors::from_lightning)
    }
}

/// Reads the timeout of `query_axon`, whose error existing code expects as a plain `ValueError`.
pub(super) fn timeout_secs(seconds: Option<f64>) -> PyResult<Option<Duration>> {
    seconds
        .map(|seconds| {
            positive(seconds).ok_or_else(|| {
                PyValueError::new_err(format!(
                    "timeout_secs must be a finite positive number, got {seconds}"
                ))
            })
        })
        .transpose()
}

/// Reads a duration in seconds, if there is one.
pub(super) fn duration(name: &str, seconds: Option<f64>) -> PyResult<Option<Duration>> {
    seconds
        .map(|seconds| positive(seconds).ok_or_else(|| not_positive(name, seconds)))
        .transpose()
}

/// Joins the options of one call.
pub(super) fn options(timeout: Option<Duration>, priority: i64) -> PyResult<CallOptions> {
    let priority = u8::try_from(priority)
        .map_err(|_| config_error(format!("priority must be from 0 to 255, got {priority}")))?;
    let options = CallOptions::default().priority(priority);
    Ok(match timeout {
        Some(timeout) => options.timeout(timeout),
        None => options,
    })
}

/// Makes a `LightningConfigError`.
pub(super) fn config_error(text: String) -> PyErr {
    errors::from_lightning(LightningError::Config(text))
}

fn or(name: &str, seconds: Option<f64>, default: Duration) -> PyResult<Duration> {
    Ok(duration(name, seconds)?.unwrap_or(default))
}

fn positive(seconds: f64) -> Option<Duration> {
    // No time limit in use comes near this; some sums of times need the room.
    let seconds = (seconds.is_finite() && seconds > 0.0).then(|| seconds.min(LONGEST_SECS))?;
    Duration::try_from_secs_f64(seconds)
        .ok()
        .filter(|duration| !duration.is_zero())
}

fn not_positive(name: &str, seconds: f64) -> PyErr {
    config_error(format!(
        "{name} must be a finite positive number of seconds, got {seconds}"
    ))
}

/// A century.
const LONGEST_SECS: f64 = 100.0 * 365.25 * 86_400.0;
