//! Settings of a server.

use btlightning_proto::limits::{
    DEFAULT_MAX_FRAME_PAYLOAD, MAX_FRAME_PAYLOAD_LIMIT, MIN_FRAME_PAYLOAD_LIMIT,
};

use crate::{
    error::{LightningError, Result},
    setters::setters,
};

/// Settings of a [`LightningServer`](super::LightningServer).
///
/// Checked once, when the server is made: a [`LightningError::Config`] names the field and the
/// bound.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LightningServerConfig {
    /// Age in seconds at which a handshake's signature is refused. Default: 300; at most 3600.
    pub max_signature_age_secs: u64,
    /// Silence in seconds after which a connection is dead. Default: 150.
    pub idle_timeout_secs: u64,
    /// Interval of keep-alive packets in seconds, below the idle timeout. Default: 30.
    pub keep_alive_interval_secs: u64,
    /// Interval in seconds at which expired nonces and rate counters are dropped. Default: 60.
    pub nonce_cleanup_interval_secs: u64,
    /// Hotkeys that may be connected at a time. Default: 128.
    pub max_connections: usize,
    /// Nonces remembered. Default: 100,000. When there are more within the signature's age, the
    /// age that is accepted shrinks; a replay is refused in any case.
    pub max_nonce_entries: usize,
    /// Seconds a handshake may take, and a connection may stay without one. Below the idle
    /// timeout. Default: 10.
    pub handshake_timeout_secs: u64,
    /// Handshakes that one address (IPv6: one /64) may try in 60 seconds. Default: 30.
    pub max_handshake_attempts_per_minute: u32,
    /// Streams that a connection may have open. Default: 128.
    pub max_concurrent_bidi_streams: u32,
    /// Whether only hotkeys that the permit resolver names may connect. Default: false.
    pub require_validator_permit: bool,
    /// Interval in seconds at which permits are resolved anew. Default: 1800.
    pub validator_permit_refresh_secs: u64,
    /// Addresses whose handshakes are counted at a time. Default: 10,000.
    pub max_tracked_rate_ips: usize,
    /// Seconds a handler may take. Below the idle timeout. Default: 30.
    pub handler_timeout_secs: u64,
    /// Largest frame payload in bytes. Default: 64 MiB; 1 MiB to `u32::MAX`.
    pub max_frame_payload_bytes: usize,
    /// Chunks a streaming handler may be ahead of the network. Default: 32.
    pub streaming_channel_buffer: usize,
    /// Whether only addresses that the source resolver names get an answer. Default: false.
    pub enforce_source_allowlist: bool,
    /// Interval in seconds at which sources are resolved anew. Default: 300.
    pub source_allowlist_refresh_secs: u64,
    /// Whether a client has to prove its address with a QUIC Retry before any state is kept for
    /// it ([RFC 9000, section 8.1.2](https://www.rfc-editor.org/rfc/rfc9000#section-8.1.2)).
    /// Default: true.
    pub require_address_validation: bool,
    /// Connections that may be without an authenticated hotkey at a time. Default: 256.
    pub max_unauthenticated_connections: usize,
    /// The same for one address (IPv6: one /64). Default: 32.
    pub max_unauthenticated_per_ip: usize,
    /// Seconds that [`stop`](super::LightningServer::stop) lets running handlers go on.
    /// Default: 5.
    pub shutdown_grace_secs: u64,
}

impl LightningServerConfig {
    /// Begins with the defaults.
    pub fn builder() -> LightningServerConfigBuilder {
        LightningServerConfigBuilder {
            config: Self::default(),
        }
    }

    pub(crate) fn validate(&self) -> Result<()> {
        for (field, value) in [
            ("max_signature_age_secs", self.max_signature_age_secs),
            ("idle_timeout_secs", self.idle_timeout_secs),
            ("keep_alive_interval_secs", self.keep_alive_interval_secs),
            (
                "nonce_cleanup_interval_secs",
                self.nonce_cleanup_interval_secs,
            ),
            ("max_connections", self.max_connections as u64),
            ("max_nonce_entries", self.max_nonce_entries as u64),
            ("handshake_timeout_secs", self.handshake_timeout_secs),
            (
                "max_handshake_attempts_per_minute",
                self.max_handshake_attempts_per_minute.into(),
            ),
            (
                "max_concurrent_bidi_streams",
                self.max_concurrent_bidi_streams.into(),
            ),
            (
                "validator_permit_refresh_secs",
                self.validator_permit_refresh_secs,
            ),
            ("max_tracked_rate_ips", self.max_tracked_rate_ips as u64),
            ("handler_timeout_secs", self.handler_timeout_secs),
            (
                "streaming_channel_buffer",
                self.streaming_channel_buffer as u64,
            ),
            (
                "source_allowlist_refresh_secs",
                self.source_allowlist_refresh_secs,
            ),
            (
                "max_unauthenticated_connections",
                self.max_unauthenticated_connections as u64,
            ),
            (
                "max_unauthenticated_per_ip",
                self.max_unauthenticated_per_ip as u64,
            ),
        ] {
            if value == 0 {
                return Err(LightningError::Config(format!("{field} must be non-zero")));
            }
        }
        for (field, value) in [
            ("keep_alive_interval_secs", self.keep_alive_interval_secs),
            ("handshake_timeout_secs", self.handshake_timeout_secs),
            ("handler_timeout_secs", self.handler_timeout_secs),
        ] {
            if value >= self.idle_timeout_secs {
                return Err(LightningError::Config(format!(
                    "{field} ({value}) must be less than idle_timeout_secs ({})",
                    self.idle_timeout_secs
                )));
            }
        }
        if self.max_signature_age_secs > MAX_SIGNATURE_AGE_SECS {
            return Err(LightningError::Config(format!(
                "max_signature_age_secs ({}) must not exceed {MAX_SIGNATURE_AGE_SECS}",
                self.max_signature_age_secs
            )));
        }
        check_frame_limit(self.max_frame_payload_bytes)
    }
}

impl Default for LightningServerConfig {
    fn default() -> Self {
        Self {
            max_signature_age_secs: 300,
            idle_timeout_secs: 150,
            keep_alive_interval_secs: 30,
            nonce_cleanup_interval_secs: 60,
            max_connections: 128,
            max_nonce_entries: 100_000,
            handshake_timeout_secs: 10,
            max_handshake_attempts_per_minute: 30,
            max_concurrent_bidi_streams: 128,
            require_validator_permit: false,
            validator_permit_refresh_secs: 1800,
            max_tracked_rate_ips: 10_000,
            handler_timeout_secs: 30,
            max_frame_payload_bytes: DEFAULT_MAX_FRAME_PAYLOAD,
            streaming_channel_buffer: 32,
            enforce_source_allowlist: false,
            source_allowlist_refresh_secs: 300,
            require_address_validation: true,
            max_unauthenticated_connections: 256,
            max_unauthenticated_per_ip: 32,
            shutdown_grace_secs: 5,
        }
    }
}

/// Builds a [`LightningServerConfig`].
#[derive(Debug, Clone)]
#[must_use]
pub struct LightningServerConfigBuilder {
    config: LightningServerConfig,
}

impl LightningServerConfigBuilder {
    setters! {
        LightningServerConfig {
            max_signature_age_secs: u64,
            idle_timeout_secs: u64,
            keep_alive_interval_secs: u64,
            nonce_cleanup_interval_secs: u64,
            max_connections: usize,
            max_nonce_entries: usize,
            handshake_timeout_secs: u64,
            max_handshake_attempts_per_minute: u32,
            max_concurrent_bidi_streams: u32,
            require_validator_permit: bool,
            validator_permit_refresh_secs: u64,
            max_tracked_rate_ips: usize,
            handler_timeout_secs: u64,
            max_frame_payload_bytes: usize,
            streaming_channel_buffer: usize,
            enforce_source_allowlist: bool,
            source_allowlist_refresh_secs: u64,
            require_address_validation: bool,
            max_unauthenticated_connections: usize,
            max_unauthenticated_per_ip: usize,
            shutdown_grace_secs: u64,
        }
    }

    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// [`LightningError::Config`] names the field and the bound.
    pub fn build(self) -> Result<LightningServerConfig> {
        self.config.validate()?;
        Ok(self.config)
    }
}

/// Checks a frame limit, the client's too.
pub(crate) fn check_frame_limit(bytes: usize) -> Result<()> {
    if (MIN_FRAME_PAYLOAD_LIMIT..=MAX_FRAME_PAYLOAD_LIMIT).contains(&bytes) {
        return Ok(());
    }
    Err(LightningError::Config(format!(
        "max_frame_payload_bytes ({bytes}) must be between {MIN_FRAME_PAYLOAD_LIMIT} (1 MiB) and \
         {MAX_FRAME_PAYLOAD_LIMIT} (u32::MAX)"
    )))
}

/// A signature that is valid for longer is a password.
const MAX_SIGNATURE_AGE_SECS: u64 = 3600;

#[cfg(test)]
mod tests {
    use super::*;

    fn error_of(builder: LightningServerConfigBuilder) -> String {
        match builder.build() {
            Err(LightningError::Config(text)) => text,
            other => panic!("expected a config error, got {other:?}"),
        }
    }

    #[test]
    fn defaults_are_valid() {
        assert_eq!(
            LightningServerConfig::builder().build().unwrap(),
            LightningServerConfig::default()
        );
    }

    #[test]
    fn errors_name_the_field() {
        let b = LightningServerConfig::builder;
        assert!(error_of(b().max_connections(0)).starts_with("max_connections "));
        assert!(error_of(b().handler_timeout_secs(150)).starts_with("handler_timeout_secs (150)"));
        assert!(error_of(b().keep_alive_interval_secs(200)).contains("keep_alive_interval_secs"));
        assert!(error_of(b().max_signature_age_secs(3601)).contains("3600"));
        for bytes in [0, 1024 * 1024 - 1, u32::MAX as usize + 1] {
            assert!(
                error_of(b().max_frame_payload_bytes(bytes)).contains("max_frame_payload_bytes")
            );
        }
        assert!(b().max_frame_payload_bytes(1024 * 1024).build().is_ok());
        assert!(b().max_signature_age_secs(3600).build().is_ok());
    }
}
