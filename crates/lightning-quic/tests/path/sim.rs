//! Two ends and a path between them, in virtual time.
//!
//! quinn's protocol code takes the time as an argument, so a transfer over 100 ms takes no longer
//! than its packets take to be computed, and every run loses the same packets. Only TLS's random
//! numbers differ, and with them a few bytes of the handshake.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use lightning_quic::{EndpointSettings, TransportSettings, tls};
use quinn_proto::{ConnectionError, StreamId};

use super::{
    host::Host,
    link::{Link, LinkSettings},
};

/// A connection over a simulated path.
pub(crate) struct Path {
    now: Instant,
    pub(crate) client: Host,
    pub(crate) server: Host,
    pub(crate) up: Link,
    pub(crate) down: Link,
}

/// Which end sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sender {
    Client,
    Server,
}

impl Path {
    /// Connects two ends with the same settings over links that are alike.
    pub(crate) fn connect(transport: &TransportSettings, link: LinkSettings) -> Self {
        let now = Instant::now();
        let mut transport = *transport;
        transport.max_uni_streams = 1024;
        let endpoint = EndpointSettings::default();
        let identity = tls::SelfSigned::generate("localhost").unwrap();
        let server = tls::server_config(&identity, &[b"path"], transport.build().unwrap()).unwrap();
        let client = tls::any_certificate(&[b"path"], transport.build().unwrap()).unwrap();
        let [near, far] = ADDRESSES.map(|text| text.parse::<SocketAddr>().unwrap());
        let mut path = Self {
            now,
            client: Host::new(endpoint.config().unwrap(), None, far, 1),
            server: Host::new(endpoint.config().unwrap(), Some(server), near, 2),
            up: Link::new(link, now, 3),
            down: Link::new(link, now, 4),
        };
        path.client.dial(now, client);
        path.run_until(|path| path.client.is_connected() && path.server.is_connected());
        path
    }

    pub(crate) fn now(&self) -> Instant {
        self.now
    }

    pub(crate) fn host(&mut self, which: Sender) -> &mut Host {
        match which {
            Sender::Client => &mut self.client,
            Sender::Server => &mut self.server,
        }
    }

    /// Sends a message on a stream of its own and returns when the last byte is read, in virtual
    /// time.
    pub(crate) fn transfer(&mut self, sender: Sender, bytes: usize) -> Duration {
        self.try_transfer(sender, bytes).unwrap()
    }

    /// Like [`transfer`](Self::transfer), where the connection may be lost.
    pub(crate) fn try_transfer(
        &mut self,
        sender: Sender,
        bytes: usize,
    ) -> Result<Duration, ConnectionError> {
        let began = self.now;
        let stream = self.host(sender).send_message(bytes);
        self.try_run_until(|path| path.arrived(sender, stream) == bytes as u64)?;
        Ok(self.now - began)
    }

    /// Bytes of a stream that the end that does not send has read.
    pub(crate) fn arrived(&self, sender: Sender, stream: StreamId) -> u64 {
        match sender {
            Sender::Client => self.server.bytes_read(stream),
            Sender::Server => self.client.bytes_read(stream),
        }
    }

    /// Waits until a stream has brought `bytes`, and returns the longest time in which it brought
    /// nothing.
    pub(crate) fn longest_pause(
        &mut self,
        sender: Sender,
        stream: StreamId,
        bytes: u64,
    ) -> Duration {
        let mut longest = Duration::ZERO;
        let (mut last, mut since) = (self.arrived(sender, stream), self.now);
        self.run_until(|path| {
            let arrived = path.arrived(sender, stream);
            if arrived > last {
                longest = longest.max(path.now - since);
                (last, since) = (arrived, path.now);
            }
            arrived == bytes
        });
        longest
    }

    /// Lets packets no larger than this through from now on, both ways.
    pub(crate) fn narrow_to(&mut self, max_udp_payload: usize) {
        self.up.settings.max_udp_payload = max_udp_payload;
        self.down.settings.max_udp_payload = max_udp_payload;
    }

    /// Goes on until a condition holds.
    pub(crate) fn run_until(&mut self, done: impl FnMut(&mut Self) -> bool) {
        self.try_run_until(done).unwrap();
    }

    fn try_run_until(
        &mut self,
        mut done: impl FnMut(&mut Self) -> bool,
    ) -> Result<(), ConnectionError> {
        let limit = self.now + LONGEST;
        loop {
            self.client.advance(self.now, &mut self.down, &mut self.up);
            self.server.advance(self.now, &mut self.up, &mut self.down);
            if let Some(reason) = self.client.lost.take().or(self.server.lost.take()) {
                return Err(reason);
            }
            if done(self) {
                return Ok(());
            }
            let next = [
                self.client.next_timeout(),
                self.server.next_timeout(),
                self.up.next_arrival(),
                self.down.next_arrival(),
            ];
            let next = next.into_iter().flatten().min();
            self.now = self.now.max(next.expect("nothing will ever happen again"));
            assert!(self.now < limit, "not done after {LONGEST:?}");
        }
    }
}

/// Longest wait of a test, in virtual time. Below the idle timeout, which would end it otherwise.
const LONGEST: Duration = Duration::from_secs(100);

const ADDRESSES: [&str; 2] = ["192.0.2.1:1000", "192.0.2.2:2000"];
