//! Whom an endpoint listens to.
//!
//! QUIC answers packets before anybody is asked whether there shall be a connection: an unknown
//! version with a list of versions
//! ([RFC 9000, section 6](https://www.rfc-editor.org/rfc/rfc9000#section-6)), a connection that is
//! gone with a stateless reset
//! ([section 10.3](https://www.rfc-editor.org/rfc/rfc9000#section-10.3)). Whoever wants to be
//! silent has to drop packets before QUIC sees them.

use std::net::IpAddr;

/// Says with whom an endpoint exchanges packets.
///
/// Asked for each packet, so it has to be quick. An IPv4 address is shown as one, also on a socket
/// that carries both families.
pub trait SourceFilter: Send + Sync + 'static {
    /// Whether packets from and to this address pass.
    fn allows(&self, ip: IpAddr) -> bool;

    /// Takes note of a packet, or of several that came at once, that did not pass.
    fn ignored(&self) {}
}
