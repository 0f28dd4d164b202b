//! The socket that an endpoint works on: deaf to some sources, and modest in its memory.

use std::{
    fmt, io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{RecvMeta, Transmit},
};

use crate::filter::SourceFilter;

/// A socket that exchanges packets with some addresses only, where there is a filter, and announces
/// as many segments per receive call as fit into the largest datagram.
///
/// The kernel may hand over several packets of one sender joined (UDP GRO), up to 64 of them, but
/// never more than 65,535 bytes. quinn reserves, and clears, room for 64 of the largest packets in
/// each of its 32 receive slots: 13 MB at 6500 bytes, where 2.3 MB hold all that can come.
pub(crate) struct EndpointSocket {
    inner: Arc<dyn AsyncUdpSocket>,
    segments: usize,
    filter: Option<Arc<dyn SourceFilter>>,
}

impl EndpointSocket {
    /// Wraps the socket of an endpoint that receives packets of up to `max_packet_bytes`.
    pub(crate) fn new(
        inner: Arc<dyn AsyncUdpSocket>,
        max_packet_bytes: u16,
        filter: Option<Arc<dyn SourceFilter>>,
    ) -> Self {
        let enough = MAX_DATAGRAM_BYTES.div_ceil(usize::from(max_packet_bytes).max(1));
        let segments = inner.max_receive_segments().min(enough);
        Self {
            inner,
            segments,
            filter,
        }
    }
}

impl AsyncUdpSocket for EndpointSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.inner.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        // The list may have changed since the connection was made.
        if let Some(filter) = &self.filter
            && !allows(&**filter, transmit.destination)
        {
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
        if let Some(filter) = &self.filter
            && let Poll::Ready(Ok(count)) = received
        {
            for meta in meta.iter_mut().take(count) {
                if !allows(&**filter, meta.addr) {
                    filter.ignored();
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
        self.segments
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

impl fmt::Debug for EndpointSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EndpointSocket")
            .field("inner", &self.inner)
            .field("segments", &self.segments)
            .finish_non_exhaustive()
    }
}

fn allows(filter: &dyn SourceFilter, addr: SocketAddr) -> bool {
    filter.allows(addr.ip().to_canonical())
}

/// UDP's length field has 16 bits.
const MAX_DATAGRAM_BYTES: usize = 65_535;

#[cfg(test)]
mod tests {
    use quinn::{Runtime, TokioRuntime};

    use super::*;

    #[tokio::test]
    async fn a_slot_holds_the_largest_datagram() {
        for max_packet_bytes in [1200, 1472, 6500, 65_535] {
            let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            let inner = TokioRuntime.wrap_udp_socket(socket).unwrap();
            let offered = inner.max_receive_segments();
            let segments =
                EndpointSocket::new(inner, max_packet_bytes, None).max_receive_segments();
            let slot = segments * usize::from(max_packet_bytes);
            assert!(
                segments == offered || slot >= MAX_DATAGRAM_BYTES,
                "{segments} of {max_packet_bytes}"
            );
            assert!(
                segments == offered || slot < 2 * MAX_DATAGRAM_BYTES,
                "{segments} of {max_packet_bytes}"
            );
        }
    }
}
