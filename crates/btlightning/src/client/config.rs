//! Settings of a client.

use std::time::Duration;

use btlightning_proto::limits::DEFAULT_MAX_FRAME_PAYLOAD;

use crate::{
    error::{LightningError, Result},
    server::check_frame_limit,
    setters::setters,
};

/// Settings of a [`LightningClient`](super::LightningClient).
///
/// Checked once, when the client is made: a [`LightningError::Config`] names the field and the
/// bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LightningClientConfig {
    /// Time to dial, and again to authenticate. Default: 10 s.
    pub connect_timeout: Duration,
    /// Silence after which a connection is dead. Default: 150 s.
    pub idle_timeout: Duration,
    /// Interval of keep-alive packets, below the idle timeout. Default: 30 s.
    pub keep_alive_interval: Duration,
    /// Pause after the first failed attempt to reconnect; it doubles with each one. Default: 1 s.
    pub reconnect_initial_backoff: Duration,
    /// Longest such pause. Default: 60 s.
    pub reconnect_max_backoff: Duration,
    /// Failed attempts after which only slow probes follow. Default: 5.
    pub reconnect_max_retries: u32,
    /// Interval of slow probes; `None` gives up until the registry is updated. Default: 60 s.
    pub reconnect_slow_probe_interval: Option<Duration>,
    /// Addresses that may be connected at a time, whatever the number of hotkeys at each.
    /// Default: 1024.
    pub max_connections: usize,
    /// Largest frame payload in bytes. Default: 64 MiB; 1 MiB to `u32::MAX`.
    pub max_frame_payload_bytes: usize,
    /// Bytes that [`collect_all`](super::StreamingResponse::collect_all) gathers at most, no less
    /// than the frame limit. Default: 64 MiB.
    pub max_stream_payload_bytes: usize,
    /// Longest wait for one chunk of a stream. Default: none.
    pub stream_chunk_timeout: Option<Duration>,
}

impl LightningClientConfig {
    /// Begins with the defaults.
    pub fn builder() -> LightningClientConfigBuilder {
        LightningClientConfigBuilder {
            config: Self::default(),
        }
    }

    pub(crate) fn validate(&self) -> Result<()> {
        let zero = Some(Duration::ZERO);
        for (field, value) in [
            ("connect_timeout", Some(self.connect_timeout)),
            ("idle_timeout", Some(self.idle_timeout)),
            ("keep_alive_interval", Some(self.keep_alive_interval)),
            (
                "reconnect_initial_backoff",
                Some(self.reconnect_initial_backoff),
            ),
            ("reconnect_max_backoff", Some(self.reconnect_max_backoff)),
            (
                "reconnect_slow_probe_interval",
                self.reconnect_slow_probe_interval,
            ),
            ("stream_chunk_timeout", self.stream_chunk_timeout),
        ] {
            if value == zero {
                return Err(LightningError::Config(format!("{field} must be non-zero")));
            }
        }
        if self.keep_alive_interval >= self.idle_timeout {
            return Err(LightningError::Config(format!(
                "keep_alive_interval ({:?}) must be less than idle_timeout ({:?})",
                self.keep_alive_interval, self.idle_timeout
            )));
        }
        if self.reconnect_initial_backoff > self.reconnect_max_backoff {
            return Err(LightningError::Config(format!(
                "reconnect_initial_backoff ({:?}) must not exceed reconnect_max_backoff ({:?})",
                self.reconnect_initial_backoff, self.reconnect_max_backoff
            )));
        }
        if self.reconnect_max_retries == 0 {
            return Err(LightningError::Config(
                "reconnect_max_retries must be at least 1".into(),
            ));
        }
        if self.max_connections == 0 {
            return Err(LightningError::Config(
                "max_connections must be at least 1".into(),
            ));
        }
        check_frame_limit(self.max_frame_payload_bytes)?;
        if self.max_stream_payload_bytes < self.max_frame_payload_bytes {
            return Err(LightningError::Config(format!(
                "max_stream_payload_bytes ({}) must be at least max_frame_payload_bytes ({})",
                self.max_stream_payload_bytes, self.max_frame_payload_bytes
            )));
        }
        Ok(())
    }
}

impl Default for LightningClientConfig {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(150),
            keep_alive_interval: Duration::from_secs(30),
            reconnect_initial_backoff: Duration::from_secs(1),
            reconnect_max_backoff: Duration::from_secs(60),
            reconnect_max_retries: 5,
            reconnect_slow_probe_interval: Some(Duration::from_secs(60)),
            max_connections: 1024,
            max_frame_payload_bytes: DEFAULT_MAX_FRAME_PAYLOAD,
            max_stream_payload_bytes: DEFAULT_MAX_FRAME_PAYLOAD,
            stream_chunk_timeout: None,
        }
    }
}

/// Builds a [`LightningClientConfig`].
#[derive(Debug, Clone)]
#[must_use]
pub struct LightningClientConfigBuilder {
    config: LightningClientConfig,
}

impl LightningClientConfigBuilder {
    setters! {
        LightningClientConfig {
            connect_timeout: Duration,
            idle_timeout: Duration,
            keep_alive_interval: Duration,
            reconnect_initial_backoff: Duration,
            reconnect_max_backoff: Duration,
            reconnect_max_retries: u32,
            reconnect_slow_probe_interval: Option<Duration>,
            max_connections: usize,
            max_frame_payload_bytes: usize,
            max_stream_payload_bytes: usize,
        }
    }

    /// Sets [`stream_chunk_timeout`](LightningClientConfig::stream_chunk_timeout).
    pub fn stream_chunk_timeout(mut self, val: Duration) -> Self {
        self.config.stream_chunk_timeout = Some(val);
        self
    }

    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// [`LightningError::Config`] names the field and the bound.
    pub fn build(self) -> Result<LightningClientConfig> {
        self.config.validate()?;
        Ok(self.config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error_of(builder: LightningClientConfigBuilder) -> String {
        match builder.build() {
            Err(LightningError::Config(text)) => text,
            other => panic!("expected a config error, got {other:?}"),
        }
    }

    #[test]
    fn defaults_are_valid() {
        assert_eq!(
            LightningClientConfig::builder().build().unwrap(),
            LightningClientConfig::default()
        );
    }

    #[test]
    fn errors_name_the_field() {
        let b = LightningClientConfig::builder;
        let sec = Duration::from_secs(1);
        assert!(error_of(b().connect_timeout(Duration::ZERO)).starts_with("connect_timeout"));
        assert!(error_of(b().idle_timeout(sec)).starts_with("keep_alive_interval"));
        assert!(
            error_of(b().reconnect_initial_backoff(61 * sec)).contains("reconnect_max_backoff")
        );
        assert!(error_of(b().reconnect_max_retries(0)).starts_with("reconnect_max_retries"));
        assert!(
            error_of(b().reconnect_slow_probe_interval(Some(Duration::ZERO)))
                .starts_with("reconnect_slow_probe_interval")
        );
        assert!(
            error_of(b().stream_chunk_timeout(Duration::ZERO)).contains("stream_chunk_timeout")
        );
        assert!(error_of(b().max_connections(0)).starts_with("max_connections"));
        assert!(error_of(b().max_frame_payload_bytes(1000)).starts_with("max_frame_payload_bytes"));
        assert!(error_of(b().max_stream_payload_bytes(1)).starts_with("max_stream_payload_bytes"));
    }
}
