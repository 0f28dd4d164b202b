//! Peers that speak QUIC and do by themselves nothing else: what goes over a stream, and what does
//! not, is up to the test.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use btlightning_proto::{
    ALPN_V0, ALPN_V1, Payload,
    frame::{FrameHeader, HEADER_LEN, MessageType},
    handshake::{ClientHandshake, Fingerprint, acceptance, acceptance_message, request_message},
    message::{self, HandshakeRequest, HandshakeResponse, Response},
    nonce::Nonce,
};
use bytes::Bytes;
use lightning_keys::Keypair;
use lightning_quic::{EndpointSettings, TransportSettings, new_endpoint, tls};
use quinn::{Connection, ConnectionError, Endpoint, ReadExactError, RecvStream, SendStream};

/// Both protocol names, the newer one first, as the client offers them.
pub const ALPN_BOTH: &[&[u8]] = &[ALPN_V1, ALPN_V0];
/// The protocol of every deployed peer alone.
pub const ALPN_OLD: &[&[u8]] = &[ALPN_V0];

/// A client that sends what it is told to.
#[derive(Debug)]
pub struct RawClient {
    /// The endpoint of its one connection.
    pub endpoint: Endpoint,
    /// Its connection.
    pub connection: Connection,
    /// The certificate that the server showed.
    pub fingerprint: Fingerprint,
}

/// What a server did with a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It sent this frame.
    Frame(MessageType, Bytes),
    /// It reset the stream with this code.
    Reset(u64),
    /// It ended the stream without a whole frame.
    Ended,
    /// It closed the connection.
    Closed(ConnectionError),
}

impl RawClient {
    /// Connects to `server`, offering both protocols.
    pub async fn connect(server: SocketAddr) -> Self {
        Self::connect_with(server, ALPN_BOTH).await
    }

    /// Connects to `server`, offering these protocols.
    pub async fn connect_with(server: SocketAddr, alpn: &[&[u8]]) -> Self {
        let any = match server {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        };
        Self::try_connect(server, alpn, any).await.unwrap()
    }

    /// Connects to `server` from the address `from`.
    pub async fn try_connect(
        server: SocketAddr,
        alpn: &[&[u8]],
        from: IpAddr,
    ) -> Result<Self, ConnectionError> {
        let mut transport = TransportSettings::default();
        // What is sent and not acknowledged is memory of this process too, which tests measure.
        transport.send_window = 64 * 1024;
        let transport = transport.build().unwrap();
        let local = SocketAddr::new(from, 0);
        let mut endpoint = new_endpoint(local, &EndpointSettings::default(), None).unwrap();
        endpoint.set_default_client_config(tls::any_certificate(alpn, transport).unwrap());
        let connection = endpoint.connect(server, "localhost").unwrap().await?;
        let certificate = tls::peer_certificate(&connection).unwrap();
        Ok(Self {
            endpoint,
            fingerprint: Fingerprint::of_certificate(&certificate),
            connection,
        })
    }

    /// Closes the connection, and lets the server know.
    pub fn close(&self) {
        lightning_quic::close(&self.connection, 0u32.into(), b"");
    }

    /// Opens a stream, sends these bytes, ends the stream and waits for the first frame back.
    pub async fn exchange(&self, bytes: &[u8]) -> Answer {
        let (mut send, recv) = match self.connection.open_bi().await {
            Ok(stream) => stream,
            Err(error) => return Answer::Closed(error),
        };
        // A server that has seen enough stops the stream; its answer counts.
        if send.write_all(bytes).await.is_ok() {
            let _ = send.finish();
        }
        read_answer(recv).await
    }

    /// Sends a handshake and returns the answer.
    pub async fn send_handshake(&self, request: &HandshakeRequest) -> HandshakeResponse {
        let frame = message::encode_handshake_request(request).unwrap();
        match self.exchange(&frame.to_vec()).await {
            Answer::Frame(MessageType::HandshakeResponse, payload) => {
                message::decode_handshake_response(&payload).unwrap()
            }
            other => panic!("expected a handshake response, got {other:?}"),
        }
    }

    /// Returns a handshake that a server accepts.
    pub fn handshake(&self, key: &Keypair) -> HandshakeRequest {
        self.handshake_at(key, btlightning::util::unix_timestamp_secs())
    }

    /// Returns a handshake signed at `timestamp` (Unix seconds).
    pub fn handshake_at(&self, key: &Keypair, timestamp: u64) -> HandshakeRequest {
        signed_handshake(key, &key.hotkey(), timestamp, self.fingerprint)
    }

    /// Authenticates and returns the server's answer, which is an acceptance.
    pub async fn authenticate(&self, key: &Keypair) -> HandshakeResponse {
        let response = self.send_handshake(&self.handshake(key)).await;
        assert!(response.accepted, "the server refused: {response:?}");
        response
    }

    /// Sends a request and returns the answer.
    pub async fn request(&self, synapse_type: &str, data: &Payload) -> Response {
        let frame = message::encode_request(synapse_type, data, 0).unwrap();
        self.response(&frame.to_vec()).await
    }

    /// Sends these bytes and returns the answer, which is a [`Response`].
    pub async fn response(&self, bytes: &[u8]) -> Response {
        match self.exchange(bytes).await {
            Answer::Frame(MessageType::SynapseResponse, payload) => {
                Response::decode(payload).unwrap()
            }
            other => panic!("expected a response, got {other:?}"),
        }
    }
}

/// A server that answers what it is told to.
#[derive(Debug)]
pub struct RawServer {
    endpoint: Endpoint,
    fingerprint: Fingerprint,
}

/// A connection that a [`RawServer`] accepted.
#[derive(Debug, Clone)]
pub struct RawPeer {
    /// The connection.
    pub connection: Connection,
    /// The certificate that the client saw.
    pub fingerprint: Fingerprint,
}

impl RawServer {
    /// Listens on a free port, speaking these protocols.
    pub fn bind(alpn: &[&[u8]]) -> Self {
        let identity = tls::SelfSigned::generate("localhost").unwrap();
        let transport = TransportSettings::default().build().unwrap();
        let config = tls::server_config(&identity, alpn, transport).unwrap();
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self {
            endpoint: new_endpoint(addr, &EndpointSettings::default(), Some(config)).unwrap(),
            fingerprint: Fingerprint::of_certificate(identity.certificate_der()),
        }
    }

    /// Returns where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.endpoint.local_addr().unwrap()
    }

    /// Accepts a connection.
    pub async fn accept(&self) -> RawPeer {
        self.accept_any().await.unwrap()
    }

    /// Accepts a connection that may fail before it is made.
    pub async fn accept_any(&self) -> Result<RawPeer, ConnectionError> {
        Ok(RawPeer {
            connection: self.endpoint.accept().await.unwrap().await?,
            fingerprint: self.fingerprint,
        })
    }
}

impl RawPeer {
    /// Accepts a stream and reads its first frame.
    pub async fn next_frame(&self) -> (SendStream, RecvStream, MessageType, Bytes) {
        let (send, mut recv) = self.connection.accept_bi().await.unwrap();
        let (kind, payload) = read_frame(&mut recv).await.unwrap();
        (send, recv, kind, payload)
    }

    /// Reads a handshake and answers it with what `answer` makes of it.
    pub async fn handshake(&self, answer: impl AsyncFnOnce(HandshakeRequest) -> HandshakeResponse) {
        let (mut send, _recv, kind, payload) = self.next_frame().await;
        assert_eq!(kind, MessageType::HandshakeRequest);
        let response = answer(message::decode_handshake_request(&payload).unwrap()).await;
        let frame = message::encode_handshake_response(&response).unwrap();
        send.write_all(&frame.to_vec()).await.unwrap();
        send.finish().unwrap();
    }

    /// Accepts a handshake as the miner `key`.
    pub async fn authenticate(&self, key: &Keypair) {
        let fingerprint = self.fingerprint;
        self.handshake(async |request| acceptance_of(&request, key, fingerprint))
            .await;
    }
}

/// Returns the answer by which the miner `key` accepts `request`.
pub fn acceptance_of(
    request: &HandshakeRequest,
    key: &Keypair,
    fingerprint: Fingerprint,
) -> HandshakeResponse {
    let now = btlightning::util::unix_timestamp_secs();
    let text = acceptance_message(request, &key.hotkey(), now, fingerprint);
    let signature = key.sign(text.as_bytes());
    acceptance(&key.hotkey(), now, fingerprint, "conn_raw", &signature)
}

/// Returns a handshake of `key` under the address `hotkey`, correctly signed.
pub fn signed_handshake(
    key: &Keypair,
    hotkey: &str,
    timestamp: u64,
    fingerprint: Fingerprint,
) -> HandshakeRequest {
    let nonce = Nonce::from_bytes(rand::random());
    let text = request_message(hotkey, timestamp, &nonce.to_hex(), &fingerprint.to_base64());
    ClientHandshake::new(hotkey, timestamp, nonce, fingerprint).request(&key.sign(text.as_bytes()))
}

/// Returns a frame that declares `declared` bytes and holds `payload`, whatever its type.
pub fn frame(kind: u8, declared: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend(declared.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Returns a frame whose header tells the truth.
pub fn honest_frame(kind: MessageType, payload: &[u8]) -> Vec<u8> {
    frame(kind as u8, u32::try_from(payload.len()).unwrap(), payload)
}

/// Reads what a server answers on a stream.
pub async fn read_answer(mut recv: RecvStream) -> Answer {
    match read_frame(&mut recv).await {
        Ok((kind, payload)) => Answer::Frame(kind, payload),
        Err(ReadExactError::FinishedEarly(_)) => Answer::Ended,
        Err(ReadExactError::ReadError(quinn::ReadError::Reset(code))) => {
            Answer::Reset(code.into_inner())
        }
        Err(ReadExactError::ReadError(quinn::ReadError::ConnectionLost(error))) => {
            Answer::Closed(error)
        }
        Err(error) => panic!("cannot read the answer: {error}"),
    }
}

/// Reads a frame of any size.
pub async fn read_frame(recv: &mut RecvStream) -> Result<(MessageType, Bytes), ReadExactError> {
    let mut head = [0; HEADER_LEN];
    recv.read_exact(&mut head).await?;
    let header = FrameHeader::decode(head, u32::MAX as usize).unwrap();
    let mut payload = vec![0; header.len];
    recv.read_exact(&mut payload).await?;
    Ok((header.kind, payload.into()))
}

/// The phrase and code with which a peer closed a connection.
pub fn close_of(error: &ConnectionError) -> (String, u64) {
    match error {
        ConnectionError::ApplicationClosed(close) => (
            String::from_utf8_lossy(&close.reason).into_owned(),
            close.error_code.into_inner(),
        ),
        other => panic!("expected a close by the application, got {other:?}"),
    }
}
