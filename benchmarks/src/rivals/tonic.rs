//! gRPC with tonic over TLS 1.3 on TCP: what one would take instead.
//!
//! Set up as its users are told to for throughput: `TCP_NODELAY`, and HTTP/2 windows as large as
//! those of the QUIC rivals. Messages are the plain bytes, by a codec of our own, which favours
//! tonic a little: nothing is encoded.

use std::{
    convert::Infallible,
    future::{Future, Ready, ready},
    pin::Pin,
    task::{Context as TaskContext, Poll},
};

use anyhow::{Context, Result};
use bytes::{Buf, BufMut, Bytes};
use http::uri::PathAndQuery;
use tokio::task::JoinHandle;
use tonic::{
    Request, Response, Status,
    body::Body,
    client::Grpc as ClientGrpc,
    codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    server::{Grpc as ServerGrpc, NamedService, UnaryService},
    transport::{
        Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Server, ServerTlsConfig,
        server::TcpIncoming,
    },
};
use tower_service::Service;

use super::{Handler, Payload, ServerInfo, host};

/// Starts a server and the task that serves.
pub(crate) async fn serve(miner: u32, max_streams: u32) -> Result<(ServerInfo, JoinHandle<()>)> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let certificate_pem = made.cert.pem();
    let identity = Identity::from_pem(&certificate_pem, made.signing_key.serialize_pem());
    let incoming = TcpIncoming::bind((host(), 0).into())?.with_nodelay(Some(true));
    let info = ServerInfo {
        certificate_pem: Some(certificate_pem),
        ..ServerInfo::at(incoming.local_addr()?, miner)
    };
    let server = Server::builder()
        .tls_config(ServerTlsConfig::new().identity(identity))?
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(max_streams);
    let task = tokio::spawn(async move {
        if let Err(error) = server.serve_with_incoming(Echo, incoming).await {
            eprintln!("the tonic server ended: {error}");
        }
    });
    Ok((info, task))
}

/// A client with one connection.
#[derive(Debug)]
pub(crate) struct Client {
    channel: Channel,
}

impl Client {
    /// Connects and checks the server's certificate.
    pub(crate) async fn connect(server: &ServerInfo) -> Result<Self> {
        let channel = endpoint(server)?.connect().await?;
        Ok(Self { channel })
    }

    /// Makes a client that connects when it is first asked.
    pub(crate) fn undialled(server: &ServerInfo) -> Result<Self> {
        let channel = endpoint(server)?.connect_lazy();
        Ok(Self { channel })
    }

    /// Sends a payload and returns the length of what came back.
    pub(crate) async fn echo(&self, handler: Handler, payload: &Payload) -> Result<usize> {
        let mut grpc = ClientGrpc::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE);
        grpc.ready().await?;
        let path = match handler {
            Handler::Async => PathAndQuery::from_static("/bench.Echo/Async"),
            Handler::Sync => PathAndQuery::from_static("/bench.Echo/Sync"),
        };
        let request = Request::new(payload.raw.clone());
        let response = grpc.unary(request, path, BytesCodec).await?;
        Ok(response.into_inner().len())
    }
}

fn endpoint(server: &ServerInfo) -> Result<Endpoint> {
    let pem = server
        .certificate_pem
        .as_ref()
        .context("tonic needs the server's certificate")?;
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(pem))
        .domain_name("localhost");
    let endpoint = Endpoint::from_shared(format!("https://{}", server.addr()))?
        .tls_config(tls)?
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW);
    Ok(endpoint)
}

/// The service, as generated code would have it.
#[derive(Debug, Clone)]
struct Echo;

impl NamedService for Echo {
    const NAME: &'static str = "bench.Echo";
}

impl Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Boxed<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            let mut grpc = ServerGrpc::new(BytesCodec).max_decoding_message_size(MAX_MESSAGE);
            Ok(match request.uri().path() {
                "/bench.Echo/Async" => grpc.unary(AsyncEcho, request).await,
                "/bench.Echo/Sync" => grpc.unary(SyncEcho, request).await,
                other => Status::unimplemented(format!("no method {other}")).into_http(),
            })
        })
    }
}

struct AsyncEcho;

impl UnaryService<Bytes> for AsyncEcho {
    type Response = Bytes;
    type Future = Ready<Result<Response<Bytes>, Status>>;

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        ready(Ok(Response::new(request.into_inner())))
    }
}

struct SyncEcho;

impl UnaryService<Bytes> for SyncEcho {
    type Response = Bytes;
    type Future = Boxed<Result<Response<Bytes>, Status>>;

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        Box::pin(async move {
            tokio::task::spawn_blocking(move || Response::new(request.into_inner()))
                .await
                .map_err(|error| Status::internal(error.to_string()))
        })
    }
}

/// Messages are bytes.
#[derive(Debug, Clone, Copy)]
struct BytesCodec;

impl Codec for BytesCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for BytesCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buf: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buf.reserve(item.len());
        buf.put(item);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::default()
    }
}

impl Decoder for BytesCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buf.copy_to_bytes(buf.remaining())))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::default()
    }
}

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// As large as the windows of our QUIC settings.
const STREAM_WINDOW: u32 = 8 * 1024 * 1024;
const CONNECTION_WINDOW: u32 = 32 * 1024 * 1024;
const MAX_MESSAGE: usize = 64 * 1024 * 1024;
