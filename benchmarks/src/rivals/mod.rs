//! The rivals: each one an echo server and a client for it.
//!
//! One module per stack. All servers listen on loopback unless told otherwise, on a port that the
//! system picks, and answer a request with what it carried, by an async handler or by a sync one that may block.

pub(crate) mod ours;
pub(crate) mod published;
pub(crate) mod quinn_alone;
pub(crate) mod tonic;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::OnceLock,
};

use anyhow::{Context, Result};
use bytes::Bytes;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// Who answers, and through which of its interfaces it is asked.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Rival {
    /// Ours, through the interface it shares with the published crate (`query_axon`).
    OursQuery,
    /// Ours, through `call_payload`, which copies nothing.
    OursPayload,
    /// The crate `btlightning` 0.2.15 from the registry.
    Published,
    /// quinn with a stream per request and our transport settings: the limit of the published wire.
    QuinnAlone,
    /// gRPC over TLS on TCP.
    Tonic,
    /// Our client asks a published server.
    OursToPublished,
    /// A published client asks our server.
    PublishedToOurs,
}

impl Rival {
    /// All of them, in the order of the tables.
    pub(crate) const ALL: [Self; 7] = [
        Self::OursQuery,
        Self::OursPayload,
        Self::Published,
        Self::QuinnAlone,
        Self::Tonic,
        Self::OursToPublished,
        Self::PublishedToOurs,
    ];

    /// The name in tables and charts.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::OursQuery => "ours",
            Self::OursPayload => "ours, zero-copy",
            Self::Published => "published 0.2.15",
            Self::QuinnAlone => "quinn alone",
            Self::Tonic => "tonic (TLS)",
            Self::OursToPublished => "ours → published",
            Self::PublishedToOurs => "published → ours",
        }
    }

    /// The name on the command line and in JSON.
    pub(crate) fn id(self) -> String {
        self.to_possible_value()
            .map(|value| value.get_name().to_owned())
            .unwrap_or_default()
    }

    /// Whether client and server come from different packages.
    pub(crate) fn is_mixed(self) -> bool {
        matches!(self, Self::OursToPublished | Self::PublishedToOurs)
    }
}

/// How the server's handler runs.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Handler {
    /// On an async worker.
    Async,
    /// On a thread that may block.
    Sync,
}

impl Handler {
    /// The synapse type. As long as the one of the seed's wire table.
    pub(crate) fn synapse_type(self) -> &'static str {
        match self {
            Self::Async => "echo",
            Self::Sync => "sync",
        }
    }

    /// The name in tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Async => "async",
            Self::Sync => "sync",
        }
    }
}

/// What a client has to know of a server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ServerInfo {
    /// Where it listens.
    pub(crate) ip: IpAddr,
    /// And on which port.
    pub(crate) port: u16,
    /// Which miner it is; its hotkey follows from that.
    pub(crate) miner: u32,
    /// Its certificate in PEM, for clients that check it.
    pub(crate) certificate_pem: Option<String>,
}

impl ServerInfo {
    pub(crate) fn at(addr: SocketAddr, miner: u32) -> Self {
        Self {
            ip: addr.ip(),
            port: addr.port(),
            miner,
            certificate_pem: None,
        }
    }

    /// Its address.
    pub(crate) fn addr(&self) -> SocketAddr {
        SocketAddr::from((self.ip, self.port))
    }

    /// The same server behind a relay on `port` of the same address.
    pub(crate) fn through(&self, port: u16) -> Self {
        Self {
            port,
            ..self.clone()
        }
    }
}

/// Makes the servers of this process listen on an address other than loopback. Once, at the start.
pub(crate) fn listen_on(ip: IpAddr) -> Result<()> {
    HOST.set(ip).ok().context("there is an address already")
}

/// The address that servers of this process listen on.
fn host() -> IpAddr {
    HOST.get().copied().unwrap_or(Ipv4Addr::LOCALHOST.into())
}

static HOST: OnceLock<IpAddr> = OnceLock::new();

/// A running server; it serves until its runtime ends.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) info: ServerInfo,
    _keep: Keep,
}

/// What must live as long as a server does.
#[derive(Debug)]
#[expect(dead_code, reason = "held, never read")]
enum Keep {
    Quinn(quinn::Endpoint),
    Task(tokio::task::JoinHandle<()>),
}

impl Server {
    /// Starts the server that `rival` talks to, as the miner number `miner`. One client may have
    /// `max_streams` requests open.
    pub(crate) async fn start(rival: Rival, miner: u32, max_streams: u32) -> Result<Self> {
        let (info, keep) = match rival {
            Rival::OursQuery | Rival::OursPayload | Rival::PublishedToOurs => {
                let (info, task) = ours::serve(miner, max_streams).await?;
                (info, Keep::Task(task))
            }
            Rival::Published | Rival::OursToPublished => {
                let (info, task) = published::serve(miner, max_streams).await?;
                (info, Keep::Task(task))
            }
            Rival::QuinnAlone => {
                let endpoint = quinn_alone::serve(max_streams)?;
                (
                    ServerInfo::at(endpoint.local_addr()?, miner),
                    Keep::Quinn(endpoint),
                )
            }
            Rival::Tonic => {
                let (info, task) = tonic::serve(miner, max_streams).await?;
                (info, Keep::Task(task))
            }
        };
        Ok(Self { info, _keep: keep })
    }
}

/// A connected client.
///
/// An enum and not a trait object: the call in the middle of the measurement costs the same for
/// all.
#[derive(Debug)]
pub(crate) enum Client {
    Ours(ours::Client),
    Published(published::Client),
    Quinn(quinn_alone::Client),
    Tonic(tonic::Client),
}

impl Client {
    /// Makes the client number `index` of `rival` and connects it. Clients of different numbers
    /// have different hotkeys.
    pub(crate) async fn connect(rival: Rival, server: &ServerInfo, index: u32) -> Result<Self> {
        let client = match rival {
            Rival::OursQuery | Rival::OursToPublished => {
                Self::Ours(ours::Client::connect(server, index, false).await?)
            }
            Rival::OursPayload => Self::Ours(ours::Client::connect(server, index, true).await?),
            Rival::Published | Rival::PublishedToOurs => {
                Self::Published(published::Client::connect(server, index).await?)
            }
            Rival::QuinnAlone => Self::Quinn(quinn_alone::Client::connect(server).await?),
            Rival::Tonic => Self::Tonic(tonic::Client::connect(server).await?),
        };
        Ok(client)
    }

    /// Makes a client with its socket that dials when it is first asked.
    pub(crate) async fn undialled(rival: Rival, server: &ServerInfo, index: u32) -> Result<Self> {
        Ok(match rival {
            Rival::OursQuery | Rival::OursToPublished => {
                Self::Ours(ours::Client::undialled(server, index, false).await?)
            }
            Rival::OursPayload => Self::Ours(ours::Client::undialled(server, index, true).await?),
            Rival::Published | Rival::PublishedToOurs => {
                Self::Published(published::Client::undialled(server, index).await?)
            }
            Rival::QuinnAlone => Self::Quinn(quinn_alone::Client::undialled(server)?),
            Rival::Tonic => Self::Tonic(tonic::Client::undialled(server)?),
        })
    }

    /// Sends `payload` and checks that as many bytes come back.
    pub(crate) async fn echo(&self, handler: Handler, payload: &Payload) -> Result<()> {
        let answered = match self {
            Self::Ours(client) => client.echo(handler, payload).await?,
            Self::Published(client) => client.echo(handler, payload).await?,
            Self::Quinn(client) => client.echo(handler, payload).await?,
            Self::Tonic(client) => client.echo(handler, payload).await?,
        };
        let sent = payload.raw.len();
        anyhow::ensure!(
            answered == sent,
            "sent {sent} bytes, got {answered} bytes back"
        );
        Ok(())
    }

    /// Largest packet the path is known to carry, where the stack tells.
    pub(crate) fn mtu(&self) -> Option<u16> {
        match self {
            Self::Ours(client) => client.mtu(),
            Self::Quinn(client) => client.mtu(),
            Self::Published(_) | Self::Tonic(_) => None,
        }
    }

    /// Ends the connection.
    pub(crate) async fn close(self) {
        match self {
            Self::Ours(client) => client.close().await,
            Self::Published(client) => client.close().await,
            Self::Quinn(client) => client.close().await,
            Self::Tonic(_) => {}
        }
    }
}

/// A payload in the forms that the interfaces take.
#[derive(Debug, Clone)]
pub(crate) struct Payload {
    /// As it is.
    pub(crate) raw: Bytes,
    /// As the only entry of an encoded map.
    pub(crate) encoded: btlightning::Payload,
}

impl Payload {
    /// Makes a payload of `len` bytes.
    pub(crate) fn new(len: usize) -> Result<Self> {
        let raw = vec![0x42; len];
        let map = std::collections::HashMap::from([(
            PAYLOAD_KEY.to_owned(),
            rmpv::Value::Binary(raw.clone()),
        )]);
        Ok(Self {
            raw: raw.into(),
            encoded: btlightning::Payload::from_map(&map).context("cannot encode the payload")?,
        })
    }
}

/// The synapse type of an async handler that sleeps for [`SLOWNESS`] before it echoes; only ours
/// and the published crate's servers have it.
pub(crate) const SLOW_TYPE: &str = "slow";

/// What a slow handler takes.
pub(crate) const SLOWNESS: std::time::Duration = std::time::Duration::from_secs(2);

/// The entry that carries the payload. As long as the one of the seed's wire table.
pub(crate) const PAYLOAD_KEY: &str = "payload";

/// Streams a server lets one client have open where throughput is measured: as many as requests
/// are in flight at most, so that no rival queues where another does not.
pub(crate) const MAX_STREAMS: u32 = 256;

/// The same where memory is measured: the default of ours and of the published crate. QUIC
/// connections hold an entry for each stream that the peer may open.
pub(crate) const DEFAULT_STREAMS: u32 = 128;
