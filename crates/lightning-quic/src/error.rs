//! What can go wrong before there is a connection.

use std::{io, net::SocketAddr};

/// An error in building an endpoint.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QuicError {
    /// The socket could not be opened or bound.
    #[error("cannot bind {addr}: {source}")]
    Bind {
        /// The address asked for.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The endpoint could not be started on its socket.
    #[error("cannot start the endpoint: {0}")]
    Endpoint(#[source] io::Error),
    /// A transport setting is out of bounds.
    #[error("{field} is out of bounds: {reason}")]
    Setting {
        /// The setting's name.
        field: &'static str,
        /// The bound.
        reason: String,
    },
    /// A certificate could not be made.
    #[error("cannot make a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// TLS refused its configuration.
    #[error("cannot configure TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// TLS offers no cipher suite for QUIC's first packets.
    #[error("cannot configure TLS for QUIC: {0}")]
    NoInitialCipher(#[from] quinn::crypto::rustls::NoInitialCipherSuite),
}
