//! Sockets that are deaf to some sources.
//!
//! QUIC answers packets before anybody is asked whether there shall be a connection: an unknown
//! version with a list of versions
//! ([RFC 9000, section 6](https://www.rfc-editor.org/rfc/rfc9000#section-6)), a connection that is
//! gone with a stateless reset
//! ([section 10.3](https://www.rfc-editor.org/rfc/rfc9000#section-10.3)). Whoever wants to be
//! silent has to drop packets before QUIC sees them.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{RecvMeta, Transmit},
};

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

/// A socket that exchanges packets with some addresses only.
pub(crate) struct FilteredSocket {
    inner: Arc<dyn AsyncUdpSocket>,
    filter: Arc<dyn SourceFilter>,
}

impl FilteredSocket {
    pub(crate) fn new(inner: Arc<dyn AsyncUdpSocket>, filter: Arc<dyn SourceFilter>) -> Self {
        Self { inner, filter }
    }

    fn allows(&self, addr: SocketAddr) -> bool {
        self.filter.allows(addr.ip().to_canonical())
    }
}

impl AsyncUdpSocket for FilteredSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.inner.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        // The list may have changed since the connection was made.
        if !self.allows(transmit.destination) {
            return Ok(());
        }
        self.inner.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [io::IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let received = self.inner.poll_recv(cx, bufs, meta);
        if let Poll::Ready(Ok(count)) = received {
            for meta in meta.iter_mut().take(count) {
                if !self.allows(meta.addr) {
                    self.filter.ignored();
                    // Nothing is left of it to be looked at.
                    meta.len = 0;
                }
            }
        }
        received
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

impl fmt::Debug for FilteredSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FilteredSocket")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}
