//! Sockets and endpoints.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::{Arc, Once},
};

use quinn::{Endpoint, EndpointConfig, Runtime, ServerConfig};
use socket2::{Domain, Protocol, Socket, Type};

use crate::{
    error::QuicError, filter::SourceFilter, runtime::GroupRuntime, socket::EndpointSocket,
    transport::MAX_PACKET_BYTES,
};

/// Settings of an endpoint and its socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct EndpointSettings {
    /// Kernel receive and send buffer to ask for, in bytes. Default: 1 MiB. The usual 208 KiB
    /// drop large packets that arrive in bursts; 4 MiB measured slower than 1 MiB.
    pub socket_buffer_bytes: usize,
    /// Largest UDP payload to announce as receivable, in bytes. Default: 6500. Its receive
    /// buffer takes 32 times 64 KiB whatever this is.
    pub max_packet_bytes: u16,
}

impl EndpointSettings {
    /// Checks the settings and builds quinn's form of those that concern it.
    ///
    /// # Errors
    ///
    /// [`QuicError::Setting`] names the field and the bound.
    pub fn config(&self) -> Result<EndpointConfig, QuicError> {
        let mut config = EndpointConfig::default();
        config
            .max_udp_payload_size(self.max_packet_bytes)
            .map_err(|e| QuicError::Setting {
                field: "max_packet_bytes",
                reason: e.to_string(),
            })?;
        Ok(config)
    }
}

impl Default for EndpointSettings {
    fn default() -> Self {
        Self {
            socket_buffer_bytes: 1024 * 1024,
            max_packet_bytes: MAX_PACKET_BYTES,
        }
    }
}

/// Opens a UDP socket with large buffers.
///
/// An IPv6 wildcard address carries IPv4 too; where the host has no IPv6, the IPv4 wildcard takes
/// its place. Smaller buffers than asked for are logged, not an error.
pub fn bind(addr: SocketAddr, settings: &EndpointSettings) -> Result<UdpSocket, QuicError> {
    match open(addr, settings) {
        Ok(socket) => Ok(socket),
        Err(source) if addr.is_ipv6() && addr.ip().is_unspecified() && lacks_ipv6(&source) => {
            let v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, addr.port()));
            tracing::debug!(%addr, %source, "no IPv6 here, binding {v4}");
            open(v4, settings).map_err(|source| QuicError::Bind { addr: v4, source })
        }
        Err(source) => Err(QuicError::Bind { addr, source }),
    }
}

/// Starts an endpoint on `addr`; with a server configuration it accepts connections.
///
/// Needs a running tokio runtime.
pub fn new_endpoint(
    addr: SocketAddr,
    settings: &EndpointSettings,
    server: Option<ServerConfig>,
) -> Result<Endpoint, QuicError> {
    start(addr, settings, server, None)
}

/// Like [`new_endpoint`], exchanging packets with those only that `filter` allows.
///
/// Needs a running tokio runtime.
pub fn new_filtered_endpoint(
    addr: SocketAddr,
    settings: &EndpointSettings,
    server: Option<ServerConfig>,
    filter: Arc<dyn SourceFilter>,
) -> Result<Endpoint, QuicError> {
    start(addr, settings, server, Some(filter))
}

fn start(
    addr: SocketAddr,
    settings: &EndpointSettings,
    server: Option<ServerConfig>,
    filter: Option<Arc<dyn SourceFilter>>,
) -> Result<Endpoint, QuicError> {
    let socket = bind(addr, settings)?;
    let config = settings.config()?;
    let runtime = Arc::new(GroupRuntime);
    let socket = runtime
        .wrap_udp_socket(socket)
        .map_err(QuicError::Endpoint)?;
    let socket = Arc::new(EndpointSocket::new(
        socket,
        settings.max_packet_bytes,
        filter,
    ));
    Endpoint::new_with_abstract_socket(config, server, socket, runtime).map_err(QuicError::Endpoint)
}

fn open(addr: SocketAddr, settings: &EndpointSettings) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    if addr.is_ipv6() && addr.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    let wanted = settings.socket_buffer_bytes;
    socket.set_recv_buffer_size(wanted)?;
    socket.set_send_buffer_size(wanted)?;
    let (receive, send) = (socket.recv_buffer_size()?, socket.send_buffer_size()?);
    if receive.min(send) < wanted {
        warn_once(wanted, receive, send);
    }
    socket.bind(&addr.into())?;
    Ok(socket.into())
}

/// Once per process: every endpoint of a host fares alike.
fn warn_once(wanted: usize, receive: usize, send: usize) {
    static WARNED: Once = Once::new();
    WARNED.call_once(|| {
        tracing::warn!(
            wanted,
            receive,
            send,
            "smaller UDP buffers than asked for: raise net.core.rmem_max and net.core.wmem_max"
        );
    });
}

fn lacks_ipv6(error: &io::Error) -> bool {
    // EAFNOSUPPORT and EADDRNOTAVAIL: no such family, or no address of it.
    matches!(
        error.kind(),
        io::ErrorKind::Unsupported | io::ErrorKind::AddrNotAvailable
    ) || error.raw_os_error() == Some(EAFNOSUPPORT)
}

#[cfg(target_os = "linux")]
const EAFNOSUPPORT: i32 = 97;
#[cfg(target_os = "macos")]
const EAFNOSUPPORT: i32 = 47;
#[cfg(not(any(target_os = "linux", target_os = "macos")))]
const EAFNOSUPPORT: i32 = 10047;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_in_use_is_named() {
        let settings = EndpointSettings::default();
        let first = bind("127.0.0.1:0".parse().unwrap(), &settings).unwrap();
        let taken = first.local_addr().unwrap();
        let error = bind(taken, &settings).unwrap_err();
        assert!(
            matches!(&error, QuicError::Bind { addr, .. } if *addr == taken),
            "{error}"
        );
        assert!(error.to_string().contains(&taken.to_string()));
    }

    #[test]
    fn the_wildcard_carries_ipv4() {
        let socket = bind("[::]:0".parse().unwrap(), &EndpointSettings::default()).unwrap();
        let port = socket.local_addr().unwrap().port();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.send_to(b"ping", ("127.0.0.1", port)).unwrap();
        let mut buf = [0; 8];
        let (len, from) = socket.recv_from(&mut buf).unwrap();
        assert_eq!(
            (&buf[..len], from.port()),
            (&b"ping"[..], sender.local_addr().unwrap().port())
        );
    }
}
