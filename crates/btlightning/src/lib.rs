//! QUIC RPC between Bittensor validators and miners.
//!
//! A validator ([`LightningClient`]) keeps one QUIC connection to each miner
//! ([`LightningServer`]). Both prove their sr25519 hotkeys once per connection; after that a
//! request is one message on a stream, and so is its answer. Requests ("synapses") carry
//! MessagePack maps: dynamic values, or any type that serde knows.
//!
//! - [`LightningClient`]: [`query_axon`](LightningClient::query_axon) and its relatives take and
//!   give dynamic values; [`call`](LightningClient::call) takes and gives typed ones, and its
//!   errors say which phase failed and whether a retry is safe;
//!   [`query_many`](LightningClient::query_many) asks many miners at a time.
//! - [`LightningServer`]: handlers of four kinds, see [`server`].
//! - [`Payload`]: the map as bytes, for whoever counts copies.
//!
//! ```
//! use btlightning::{
//!     CallOptions, LightningClient, LightningServer, QuicAxonInfo, RequestContext,
//!     Sr25519Signer, typed_request_handler,
//! };
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize)]
//! struct Greeting { text: String }
//!
//! # async fn run() -> btlightning::Result<()> {
//! // The miner: a handler that knows its caller.
//! let miner = Sr25519Signer::from_seed([1; 32]);
//! let mut server = LightningServer::new(miner.hotkey(), "127.0.0.1".into(), 0)?;
//! server.set_miner_signer(Box::new(miner));
//! server.register_handler("greet", typed_request_handler(
//!     |ctx: RequestContext, request: Greeting| async move {
//!         btlightning::Result::Ok(Greeting { text: format!("{} to you, {}", request.text, ctx.hotkey()) })
//!     },
//! ));
//! server.start().await?;
//! let addr = server.local_addr()?;
//! let axon = QuicAxonInfo::new(server.hotkey().into(), addr.ip().to_string(), addr.port(), 4);
//! let server = std::sync::Arc::new(server);
//! tokio::spawn({ let server = server.clone(); async move { server.serve_forever().await } });
//!
//! // The validator.
//! let validator = Sr25519Signer::from_seed([2; 32]);
//! let hotkey = validator.hotkey();
//! let mut client = LightningClient::new(hotkey.clone());
//! client.set_signer(Box::new(validator));
//! client.initialize_connections(vec![axon.clone()]).await?;
//! let answer: Greeting = client
//!     .call(&axon, "greet", &Greeting { text: "Hello".into() }, CallOptions::default())
//!     .await?;
//! assert_eq!(answer.text, format!("Hello to you, {hotkey}"));
//! server.stop().await
//! # }
//! # tokio::runtime::Runtime::new().unwrap().block_on(run()).unwrap();
//! ```
//!
//! # Features
//!
//! - `btwallet`: hotkey files of the Bittensor wallet folder (`BtWalletSigner`).

pub mod client;
pub mod error;
mod io;
pub mod server;
mod setters;
pub mod signing;
pub mod types;
pub mod util;

pub use btlightning_proto::{Payload, Version, close::CloseReason, handshake::Distrust};
pub use client::{
    CallOptions, ClientStats, DEFAULT_FAN_OUT, DuplexCall, DuplexReceiver, DuplexSender,
    LightningClient, LightningClientConfig, LightningClientConfigBuilder, Many, ManyAnswer,
    ManyOptions, Reply, StreamingResponse,
};
pub use error::{CallError, CallErrorKind, LightningError, Phase, Result};
pub use lightning_quic::{Congestion, TransportOptions};
pub use server::{
    AsyncSynapseHandler, ChunkSink, ChunkStream, HandshakeObserver, LightningServer,
    LightningServerConfig, LightningServerConfigBuilder, RequestContext, RequestHandler,
    ServerStats, SourceAddressResolver, SourceAllowlist, StreamHandler, StreamingSynapseHandler,
    SynapseHandler, ValidatorPermitResolver, typed_async_handler, typed_handler,
    typed_request_handler,
};
#[cfg(feature = "btwallet")]
pub use signing::BtWalletSigner;
pub use signing::{CallbackSigner, Signer, Sr25519Signer};
pub use types::{
    DEFAULT_MAX_FRAME_PAYLOAD, HandshakeRequest, HandshakeResponse, MessageType, PeerAddr,
    QuicAxonInfo, QuicRequest, QuicResponse, SynapsePacket, SynapseResponse, parse_frame_header,
};

/// Compiles and runs the examples of the README.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
