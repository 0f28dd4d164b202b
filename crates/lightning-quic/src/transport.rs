//! Settings of a connection, each default with its reason.

use std::time::Duration;

use quinn::{IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};

use crate::{congestion::Congestion, error::QuicError};

/// Settings of one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct TransportSettings {
    /// Silence after which the connection is dead. Default: 150 s.
    pub idle_timeout: Duration,
    /// Interval of keep-alive packets, below the idle timeout. Default: 30 s, the shortest time
    /// after which NATs commonly forget a UDP mapping.
    pub keep_alive_interval: Option<Duration>,
    /// Bidirectional streams the peer may have open. Default: 128.
    pub max_bidi_streams: u32,
    /// Unidirectional streams the peer may have open. Default: 0.
    pub max_uni_streams: u32,
    /// Bytes the peer may send on one stream before they are read. Default: 16 MiB. quinn renews
    /// it by eighths, so 14.7 MB are under way at least: 1 Gbit/s over 100 ms needs 12.5 MB.
    pub stream_receive_window: u32,
    /// Bytes the peer may send on all streams before they are read. Default: 32 MiB, two streams'
    /// worth, so that one which is not read leaves room for others.
    pub receive_window: u32,
    /// Bytes sent and not yet acknowledged that are kept. Default: 32 MiB.
    pub send_window: u64,
    /// Largest UDP payload that path MTU discovery tries, in bytes. Default: 6500.
    pub max_packet_bytes: u16,
    /// Whether packets are handed to the kernel in batches (UDP GSO). Default: true. Some hosts
    /// refuse it at run time (EIO, EINVAL).
    pub segmentation_offload: bool,
    /// Which congestion controller sends. Default: CUBIC.
    pub congestion: Congestion,
}

impl TransportSettings {
    /// Checks the settings and builds quinn's form of them.
    ///
    /// # Errors
    ///
    /// [`QuicError::Setting`] names the field and the bound.
    pub fn build(&self) -> Result<TransportConfig, QuicError> {
        let idle = IdleTimeout::try_from(self.idle_timeout).map_err(|e| QuicError::Setting {
            field: "idle_timeout",
            reason: e.to_string(),
        })?;
        if self
            .keep_alive_interval
            .is_some_and(|interval| interval >= self.idle_timeout)
        {
            return Err(QuicError::Setting {
                field: "keep_alive_interval",
                reason: format!("must be below the idle timeout of {:?}", self.idle_timeout),
            });
        }
        if !(MIN_PACKET_BYTES..=MAX_PACKET_BYTES).contains(&self.max_packet_bytes) {
            return Err(QuicError::Setting {
                field: "max_packet_bytes",
                reason: format!("must be {MIN_PACKET_BYTES} to {MAX_PACKET_BYTES}"),
            });
        }
        let mut mtu = MtuDiscoveryConfig::default();
        mtu.upper_bound(self.max_packet_bytes);

        let mut config = TransportConfig::default();
        config
            .max_idle_timeout(Some(idle))
            .keep_alive_interval(self.keep_alive_interval)
            .max_concurrent_bidi_streams(VarInt::from_u32(self.max_bidi_streams))
            .max_concurrent_uni_streams(VarInt::from_u32(self.max_uni_streams))
            .stream_receive_window(VarInt::from_u32(self.stream_receive_window))
            .receive_window(VarInt::from_u32(self.receive_window))
            .send_window(self.send_window)
            // Round-robin between streams cuts many small messages into fragments.
            .send_fairness(false)
            .datagram_receive_buffer_size(None)
            .mtu_discovery_config(Some(mtu))
            .enable_segmentation_offload(self.segmentation_offload);
        config.congestion_controller_factory(self.congestion.factory());
        Ok(config)
    }
}

impl Default for TransportSettings {
    fn default() -> Self {
        Self {
            idle_timeout: Duration::from_secs(150),
            keep_alive_interval: Some(Duration::from_secs(30)),
            max_bidi_streams: 128,
            max_uni_streams: 0,
            stream_receive_window: 16 * 1024 * 1024,
            receive_window: 32 * 1024 * 1024,
            send_window: 32 * 1024 * 1024,
            max_packet_bytes: MAX_PACKET_BYTES,
            segmentation_offload: true,
            congestion: Congestion::Cubic,
        }
    }
}

/// QUIC's smallest packet ([RFC 9000, section 14](https://www.rfc-editor.org/rfc/rfc9000#section-14)).
pub(crate) const MIN_PACKET_BYTES: u16 = 1200;

/// quinn sends batches of ten packets; ten larger ones exceed what UDP can carry in one call
/// (65,507 bytes), the batch is refused, and quinn takes that for a path that lost its MTU.
pub(crate) const MAX_PACKET_BYTES: u16 = 6500;

#[cfg(test)]
mod tests {
    use super::*;

    fn field_of(settings: TransportSettings) -> &'static str {
        match settings.build() {
            Err(QuicError::Setting { field, .. }) => field,
            other => panic!("expected a setting error, got {other:?}"),
        }
    }

    #[test]
    fn errors_name_the_field() {
        let default = TransportSettings::default;
        assert!(default().build().is_ok());
        let mut settings = default();
        settings.keep_alive_interval = Some(settings.idle_timeout);
        assert_eq!(field_of(settings), "keep_alive_interval");
        for bytes in [0, 1199, 6501, u16::MAX] {
            assert_eq!(
                field_of(TransportSettings {
                    max_packet_bytes: bytes,
                    ..default()
                }),
                "max_packet_bytes"
            );
        }
        assert_eq!(
            field_of(TransportSettings {
                idle_timeout: Duration::MAX,
                ..default()
            }),
            "idle_timeout"
        );
    }
}
