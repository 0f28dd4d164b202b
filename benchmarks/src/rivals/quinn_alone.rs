//! quinn with a stream per request and nothing on top: the limit of the published wire.
//!
//! Endpoints and transport settings are those of our crates (`lightning_quic`), so that what
//! remains between this and ours is what our layers cost or save. A request is one byte for the
//! handler, then the payload; there is no encoding and no authentication.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use bytes::Bytes;
use lightning_quic::{EndpointSettings, TransportSettings, new_endpoint, tls};
use quinn::{Connection, Endpoint, RecvStream, SendStream};
use tokio::sync::OnceCell;

use super::{Handler, Payload, ServerInfo, host};

/// Starts a server; it serves until the endpoint is closed.
pub(crate) fn serve(max_streams: u32) -> Result<Endpoint> {
    let mut transport = TransportSettings::default();
    transport.max_bidi_streams = max_streams;
    let identity = tls::SelfSigned::generate("localhost")?;
    let config = tls::server_config(&identity, &[ALPN], transport.build()?)?;
    let endpoint = new_endpoint(
        (host(), 0).into(),
        &EndpointSettings::default(),
        Some(config),
    )?;
    let accepting = endpoint.clone();
    tokio::spawn(async move {
        while let Some(incoming) = accepting.accept().await {
            tokio::spawn(async move {
                // A client that fails to connect reports it itself.
                if let Ok(connection) = incoming.await {
                    serve_connection(connection).await;
                }
            });
        }
    });
    Ok(endpoint)
}

async fn serve_connection(connection: Connection) {
    // Ends with the connection.
    while let Ok((send, recv)) = connection.accept_bi().await {
        tokio::spawn(async move {
            if let Err(error) = answer(send, recv).await {
                eprintln!("quinn alone, server: {error:#}");
            }
        });
    }
}

async fn answer(mut send: SendStream, mut recv: RecvStream) -> Result<()> {
    let request = Bytes::from(recv.read_to_end(MAX_MESSAGE).await?);
    let answer = if request.first() == Some(&SYNC) {
        tokio::task::spawn_blocking(move || request).await?
    } else {
        request
    };
    send.write_chunk(answer).await?;
    send.finish()?;
    Ok(())
}

/// A client with one connection.
#[derive(Debug)]
pub(crate) struct Client {
    endpoint: Endpoint,
    server: SocketAddr,
    connection: OnceCell<Connection>,
}

impl Client {
    /// Makes an endpoint; any certificate will do, as for ours, but nothing is signed on top of it.
    pub(crate) fn undialled(server: &ServerInfo) -> Result<Self> {
        let transport = TransportSettings::default().build()?;
        let mut endpoint = new_endpoint("[::]:0".parse()?, &EndpointSettings::default(), None)?;
        endpoint.set_default_client_config(tls::any_certificate(&[ALPN], transport)?);
        Ok(Self {
            endpoint,
            server: server.addr(),
            connection: OnceCell::new(),
        })
    }

    /// Connects.
    pub(crate) async fn connect(server: &ServerInfo) -> Result<Self> {
        let client = Self::undialled(server)?;
        client.connection().await?;
        Ok(client)
    }

    /// Sends a payload and returns the length of what came back.
    pub(crate) async fn echo(&self, handler: Handler, payload: &Payload) -> Result<usize> {
        let (mut send, mut recv) = self.connection().await?.open_bi().await?;
        let kind = match handler {
            Handler::Async => Bytes::from_static(&[ASYNC]),
            Handler::Sync => Bytes::from_static(&[SYNC]),
        };
        send.write_all_chunks(&mut [kind, payload.raw.clone()])
            .await?;
        send.finish()?;
        let answer = recv.read_to_end(MAX_MESSAGE).await?;
        answer.len().checked_sub(1).context("the answer is empty")
    }

    pub(crate) fn mtu(&self) -> Option<u16> {
        Some(self.connection.get()?.stats().path.current_mtu)
    }

    pub(crate) async fn close(self) {
        self.endpoint.close(0u32.into(), b"");
        self.endpoint.wait_idle().await;
    }

    async fn connection(&self) -> Result<&Connection> {
        let dial = async { anyhow::Ok(self.endpoint.connect(self.server, "localhost")?.await?) };
        self.connection.get_or_try_init(|| dial).await
    }
}

const ALPN: &[u8] = b"echo";
const ASYNC: u8 = 0;
const SYNC: u8 = 1;
const MAX_MESSAGE: usize = 64 * 1024 * 1024;
