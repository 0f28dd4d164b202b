//! One end of a simulated path: quinn's endpoint and connection, without a socket or a clock.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use lightning_quic::Reassembly;

use bytes::{Bytes, BytesMut};
use quinn_proto::{
    ClientConfig, Connection, ConnectionError, ConnectionHandle, ConnectionStats, DatagramEvent,
    Dir, EcnCodepoint, Endpoint, EndpointConfig, Event, ReadError, ServerConfig, StreamId,
    WriteError,
};

use super::link::Link;

/// A client or a server of one connection.
pub(crate) struct Host {
    endpoint: Endpoint,
    peer: SocketAddr,
    connection: Option<(ConnectionHandle, Connection)>,
    connected: bool,
    pub(crate) lost: Option<ConnectionError>,
    writing: Vec<Writing>,
    reading: Vec<Reading>,
    /// Leaves it to quinn to put streams in order.
    pub(crate) insists_on_order: bool,
    buffer: Vec<u8>,
}

/// Bytes still to be handed to a stream.
#[derive(Debug)]
struct Writing {
    stream: StreamId,
    left: usize,
    finish: bool,
}

/// A stream of the peer's.
#[derive(Debug)]
struct Reading {
    stream: StreamId,
    bytes: u64,
    /// Set once the stream is read as pieces come.
    pieces: Option<Reassembly>,
    is_open: bool,
}

impl Host {
    pub(crate) fn new(
        config: EndpointConfig,
        server: Option<ServerConfig>,
        peer: SocketAddr,
        seed: u8,
    ) -> Self {
        Self {
            endpoint: Endpoint::new(
                Arc::new(config),
                server.map(Arc::new),
                true,
                Some([seed; 32]),
            ),
            peer,
            connection: None,
            connected: false,
            lost: None,
            writing: Vec::new(),
            reading: Vec::new(),
            insists_on_order: false,
            buffer: Vec::new(),
        }
    }

    pub(crate) fn dial(&mut self, now: Instant, config: ClientConfig) {
        let dialled = self.endpoint.connect(now, config, self.peer, "localhost");
        self.connection = Some(dialled.unwrap());
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.connected
    }

    /// Sends `bytes` on a stream of their own.
    pub(crate) fn send_message(&mut self, bytes: usize) -> StreamId {
        let stream = self.open_stream();
        self.writing.push(Writing {
            stream,
            left: bytes,
            finish: true,
        });
        stream
    }

    pub(crate) fn open_stream(&mut self) -> StreamId {
        let (_, connection) = self.connection.as_mut().unwrap();
        connection.streams().open(Dir::Uni).unwrap()
    }

    /// Sends `bytes` on a stream that stays open.
    pub(crate) fn write(&mut self, stream: StreamId, bytes: usize) {
        self.writing.push(Writing {
            stream,
            left: bytes,
            finish: false,
        });
    }

    /// Bytes of the peer's stream that were read.
    pub(crate) fn bytes_read(&self, stream: StreamId) -> u64 {
        let reading = self.reading.iter().find(|reading| reading.stream == stream);
        reading.map_or(0, |reading| reading.bytes)
    }

    pub(crate) fn stats(&self) -> ConnectionStats {
        self.connection.as_ref().unwrap().1.stats()
    }

    pub(crate) fn next_timeout(&mut self) -> Option<Instant> {
        self.connection.as_mut()?.1.poll_timeout()
    }

    /// Takes in what has arrived and what is due, and sends what there is to send.
    pub(crate) fn advance(&mut self, now: Instant, incoming: &mut Link, outgoing: &mut Link) {
        while let Some(datagram) = incoming.receive(now) {
            let data = BytesMut::from(&datagram.data[..]);
            self.take_in(now, data, datagram.ecn, outgoing);
        }
        let Some((_, connection)) = &mut self.connection else {
            return;
        };
        if connection.poll_timeout().is_some_and(|due| due <= now) {
            connection.handle_timeout(now);
        }
        self.pass_endpoint_events();
        self.poll_events();
        self.read_streams();
        self.write_streams();
        self.transmit(now, outgoing);
    }

    fn take_in(
        &mut self,
        now: Instant,
        data: BytesMut,
        ecn: Option<EcnCodepoint>,
        outgoing: &mut Link,
    ) {
        let mut reply = Vec::new();
        match self
            .endpoint
            .handle(now, self.peer, None, ecn, data, &mut reply)
        {
            None => {}
            Some(DatagramEvent::NewConnection(incoming)) => {
                let accepted = self.endpoint.accept(incoming, now, &mut reply, None);
                self.connection = Some(accepted.map_err(|e| e.cause).unwrap());
            }
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                let (ours, connection) = self.connection.as_mut().unwrap();
                assert_eq!(*ours, handle);
                connection.handle_event(event);
            }
            Some(DatagramEvent::Response(transmit)) => {
                outgoing.send(now, &reply[..transmit.size], transmit.ecn);
            }
        }
    }

    fn pass_endpoint_events(&mut self) {
        let (handle, connection) = self.connection.as_mut().unwrap();
        while let Some(event) = connection.poll_endpoint_events() {
            if let Some(event) = self.endpoint.handle_event(*handle, event) {
                connection.handle_event(event);
            }
        }
    }

    fn poll_events(&mut self) {
        let (_, connection) = self.connection.as_mut().unwrap();
        while let Some(event) = connection.poll() {
            match event {
                Event::Connected => self.connected = true,
                Event::ConnectionLost { reason } => self.lost = Some(reason),
                _ => {}
            }
        }
        while let Some(stream) = connection.streams().accept(Dir::Uni) {
            self.reading.push(Reading {
                stream,
                bytes: 0,
                pieces: None,
                is_open: true,
            });
        }
    }

    /// Reads at once whatever there is, and out of order once something is missing, as `InOrder`
    /// does.
    fn read_streams(&mut self) {
        let Some((_, connection)) = &mut self.connection else {
            return;
        };
        for reading in self.reading.iter_mut().filter(|reading| reading.is_open) {
            let mut receiver = connection.recv_stream(reading.stream);
            let Ok(mut chunks) = receiver.read(reading.pieces.is_none()) else {
                reading.is_open = false;
                continue;
            };
            let mut has_news = false;
            loop {
                match chunks.next(usize::MAX) {
                    Ok(Some(chunk)) => {
                        has_news = true;
                        reading.take(chunk.offset, chunk.bytes);
                    }
                    Err(ReadError::Blocked) => break,
                    Ok(None) | Err(ReadError::Reset(_)) => {
                        reading.is_open = false;
                        break;
                    }
                }
            }
            // What the peer has to be told goes out with the next packet in any case.
            let _ = chunks.finalize();
            if !has_news && reading.pieces.is_none() && !self.insists_on_order {
                reading.pieces = Some(Reassembly::starting_at(reading.bytes));
            }
        }
    }

    fn write_streams(&mut self) {
        let (_, connection) = self.connection.as_mut().unwrap();
        self.writing.retain_mut(|writing| {
            let mut sender = connection.send_stream(writing.stream);
            while writing.left > 0 {
                let piece = Bytes::from_static(&ZEROS).slice(..writing.left.min(ZEROS.len()));
                match sender.write_chunks(&mut [piece]) {
                    Ok(written) => writing.left -= written.bytes,
                    Err(WriteError::Blocked) => return true,
                    Err(_) => return false,
                }
            }
            if writing.finish {
                let _ = sender.finish();
            }
            false
        });
    }

    fn transmit(&mut self, now: Instant, outgoing: &mut Link) {
        let (_, connection) = self.connection.as_mut().unwrap();
        loop {
            self.buffer.clear();
            let Some(sent) = connection.poll_transmit(now, BATCH, &mut self.buffer) else {
                return;
            };
            let datagrams = &self.buffer[..sent.size];
            for datagram in datagrams.chunks(sent.segment_size.unwrap_or(sent.size)) {
                outgoing.send(now, datagram, sent.ecn);
            }
        }
    }
}

impl Reading {
    fn take(&mut self, offset: u64, piece: Bytes) {
        let Some(pieces) = &mut self.pieces else {
            self.bytes += piece.len() as u64;
            return;
        };
        let mut ready = pieces.push(offset, piece).unwrap();
        while let Some(bytes) = ready {
            self.bytes += bytes.len() as u64;
            ready = pieces.pop();
        }
    }
}

/// What quinn hands to the kernel at a time.
const BATCH: usize = 10;

static ZEROS: [u8; 65_536] = [0; 65_536];
