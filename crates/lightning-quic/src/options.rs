//! What an application may choose of an endpoint and its connections.

use crate::{
    congestion::Congestion,
    endpoint::EndpointSettings,
    error::QuicError,
    transport::{MAX_PACKET_BYTES, MIN_PACKET_BYTES, TransportSettings},
};

/// Packet size, buffers, windows and congestion control, each with a default for most paths.
///
/// The defaults carry a 64 MiB message over 100 ms and 1 Gbit/s without being what limits it.
/// Windows are memory: what one authenticated peer can make its other side hold unread.
///
/// ```
/// use lightning_quic::{Congestion, TransportOptions};
///
/// let options = TransportOptions::default()
///     .congestion(Congestion::Bbr)
///     .segmentation_offload(false);
/// assert!(options.validate().is_ok());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct TransportOptions {
    /// Which congestion controller sends. Default: [`Congestion::Cubic`]. BBR keeps its rate where
    /// packets are lost at random, and takes more than its share beside others.
    pub congestion: Congestion,
    /// Whether packets are handed to the kernel in batches (UDP GSO). Default: true. Hosts that
    /// refuse it at run time (EIO, EINVAL) fall back by themselves after some losses; this spares
    /// them those.
    pub segmentation_offload: bool,
    /// Largest UDP payload that path MTU discovery tries and that is announced as receivable, in
    /// bytes. Default: 6500; 1200 to 6500. A path starts with 1200 whatever this says.
    pub max_udp_payload: u16,
    /// Kernel receive and send buffer to ask for, in bytes. Default: 1 MiB; 64 KiB to 256 MiB. A
    /// host that gives less is named in a warning.
    pub socket_buffer: usize,
    /// Bytes the peer may send on one stream before they are read. Default: 16 MiB; 64 KiB to
    /// `receive_window`.
    pub stream_receive_window: u32,
    /// Bytes the peer may send on all streams before they are read. Default: 32 MiB; 64 KiB to
    /// 1 GiB. A server grants it after the handshake.
    pub receive_window: u32,
    /// Bytes that are kept until the peer has acknowledged them. Default: 32 MiB; 64 KiB to 1 GiB.
    pub send_window: u64,
}

impl TransportOptions {
    /// Sends with this congestion controller.
    #[must_use]
    pub fn congestion(mut self, congestion: Congestion) -> Self {
        self.congestion = congestion;
        self
    }

    /// Hands packets to the kernel in batches, or one by one.
    #[must_use]
    pub fn segmentation_offload(mut self, enabled: bool) -> Self {
        self.segmentation_offload = enabled;
        self
    }

    /// Tries and takes packets of at most this.
    #[must_use]
    pub fn max_udp_payload(mut self, bytes: u16) -> Self {
        self.max_udp_payload = bytes;
        self
    }

    /// Asks for kernel buffers of this size.
    #[must_use]
    pub fn socket_buffer(mut self, bytes: usize) -> Self {
        self.socket_buffer = bytes;
        self
    }

    /// Takes so many unread bytes on a stream.
    #[must_use]
    pub fn stream_receive_window(mut self, bytes: u32) -> Self {
        self.stream_receive_window = bytes;
        self
    }

    /// Takes so many unread bytes on a connection.
    #[must_use]
    pub fn receive_window(mut self, bytes: u32) -> Self {
        self.receive_window = bytes;
        self
    }

    /// Keeps so many unacknowledged bytes.
    #[must_use]
    pub fn send_window(mut self, bytes: u64) -> Self {
        self.send_window = bytes;
        self
    }

    /// Checks the options.
    ///
    /// # Errors
    ///
    /// [`QuicError::Setting`] names the field and the bound.
    pub fn validate(&self) -> Result<(), QuicError> {
        let fields = [
            (
                "max_udp_payload",
                u64::from(self.max_udp_payload),
                MIN_PACKET_BYTES.into(),
                u64::from(MAX_PACKET_BYTES),
            ),
            (
                "socket_buffer",
                self.socket_buffer as u64,
                MIN_BUFFER_BYTES,
                MAX_SOCKET_BUFFER_BYTES,
            ),
            (
                "receive_window",
                self.receive_window.into(),
                MIN_BUFFER_BYTES,
                MAX_WINDOW_BYTES,
            ),
            (
                "stream_receive_window",
                self.stream_receive_window.into(),
                MIN_BUFFER_BYTES,
                self.receive_window.into(),
            ),
            (
                "send_window",
                self.send_window,
                MIN_BUFFER_BYTES,
                MAX_WINDOW_BYTES,
            ),
        ];
        for (field, value, least, most) in fields {
            if !(least..=most).contains(&value) {
                return Err(QuicError::Setting {
                    field,
                    reason: format!("{value} must be {least} to {most}"),
                });
            }
        }
        Ok(())
    }

    /// Returns what of this concerns a connection, with defaults for the rest.
    pub fn transport(&self) -> TransportSettings {
        TransportSettings {
            congestion: self.congestion,
            segmentation_offload: self.segmentation_offload,
            max_packet_bytes: self.max_udp_payload,
            stream_receive_window: self.stream_receive_window,
            receive_window: self.receive_window,
            send_window: self.send_window,
            ..TransportSettings::default()
        }
    }

    /// Returns what of this concerns an endpoint and its socket.
    pub fn endpoint(&self) -> EndpointSettings {
        EndpointSettings {
            socket_buffer_bytes: self.socket_buffer,
            max_packet_bytes: self.max_udp_payload,
        }
    }
}

impl Default for TransportOptions {
    fn default() -> Self {
        let (transport, endpoint) = (TransportSettings::default(), EndpointSettings::default());
        Self {
            congestion: transport.congestion,
            segmentation_offload: transport.segmentation_offload,
            max_udp_payload: transport.max_packet_bytes,
            socket_buffer: endpoint.socket_buffer_bytes,
            stream_receive_window: transport.stream_receive_window,
            receive_window: transport.receive_window,
            send_window: transport.send_window,
        }
    }
}

/// Less than a few packets' worth holds up every exchange.
const MIN_BUFFER_BYTES: u64 = 64 * 1024;

/// Beyond it a mistake in the unit is likelier than a path.
const MAX_SOCKET_BUFFER_BYTES: u64 = 256 * 1024 * 1024;
const MAX_WINDOW_BYTES: u64 = 1024 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(options: TransportOptions) -> &'static str {
        match options.validate() {
            Err(QuicError::Setting { field, .. }) => field,
            other => panic!("expected a setting error, got {other:?}"),
        }
    }

    #[test]
    fn the_defaults_are_those_of_the_settings() {
        let options = TransportOptions::default();
        options.validate().unwrap();
        assert_eq!(options.transport(), TransportSettings::default());
        assert_eq!(options.endpoint(), EndpointSettings::default());
        assert_eq!(options.congestion, Congestion::Cubic);
    }

    #[test]
    fn what_is_chosen_arrives() {
        let options = TransportOptions::default()
            .congestion(Congestion::Bbr)
            .segmentation_offload(false)
            .max_udp_payload(1472)
            .socket_buffer(1 << 21)
            .stream_receive_window(1 << 20)
            .receive_window(1 << 22)
            .send_window(1 << 23);
        options.validate().unwrap();
        let transport = options.transport();
        assert_eq!(transport.congestion, Congestion::Bbr);
        assert!(!transport.segmentation_offload);
        assert_eq!(transport.max_packet_bytes, 1472);
        assert_eq!(transport.stream_receive_window, 1 << 20);
        assert_eq!(transport.receive_window, 1 << 22);
        assert_eq!(transport.send_window, 1 << 23);
        let endpoint = options.endpoint();
        assert_eq!(endpoint.socket_buffer_bytes, 1 << 21);
        assert_eq!(endpoint.max_packet_bytes, 1472);
    }

    #[test]
    fn errors_name_the_field() {
        let with = TransportOptions::default;
        for bytes in [0, 1199, 6501] {
            assert_eq!(refused(with().max_udp_payload(bytes)), "max_udp_payload");
        }
        assert!(with().max_udp_payload(1200).validate().is_ok());
        for bytes in [0, 65_535, (256 << 20) + 1] {
            assert_eq!(refused(with().socket_buffer(bytes)), "socket_buffer");
        }
        for bytes in [65_535, (1 << 30) + 1] {
            assert_eq!(refused(with().receive_window(bytes)), "receive_window");
            assert_eq!(refused(with().send_window(bytes.into())), "send_window");
        }
        for bytes in [65_535, with().receive_window + 1] {
            let options = with().stream_receive_window(bytes);
            assert_eq!(refused(options), "stream_receive_window");
        }
        let least = with()
            .stream_receive_window(65_536)
            .receive_window(65_536)
            .send_window(65_536)
            .socket_buffer(65_536);
        assert!(least.validate().is_ok());
    }
}
