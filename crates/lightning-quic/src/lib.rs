//! quinn endpoints tuned for many small requests and few large ones.
//!
//! What this crate adds to quinn: sockets with large buffers (asked for, and reported when
//! refused), path MTU discovery beyond Ethernet's 1500 bytes, dual-stack client sockets, and TLS
//! without a public-key infrastructure, for protocols that authenticate their peers themselves.
//!
//! - [`Endpoint building`](endpoint): [`bind`], [`new_endpoint`], [`new_filtered_endpoint`];
//! - [`close()`]: ends a connection so that the peer learns of it, whatever is in flight;
//! - [`TaskGroup`]: one tokio task for all that a connection does;
//! - [`TransportSettings`]: windows, packet size, timeouts, each default with its reason;
//! - [`TransportOptions`]: those of them that an application may choose;
//! - [`InOrder`]: reads large streams however many gaps they have;
//! - [`tls`]: self-signed certificates, configurations that accept any certificate or one pinned.
//!
//! ```no_run
//! use lightning_quic::{EndpointSettings, TransportSettings, new_endpoint, tls};
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let transport = TransportSettings::default();
//! let identity = tls::SelfSigned::generate("localhost")?;
//! let server = new_endpoint(
//!     "127.0.0.1:0".parse()?,
//!     &EndpointSettings::default(),
//!     Some(tls::server_config(&identity, &[b"demo"], transport.build()?)?),
//! )?;
//! let mut client = new_endpoint("[::]:0".parse()?, &EndpointSettings::default(), None)?;
//! client.set_default_client_config(tls::any_certificate(&[b"demo"], transport.build()?)?);
//! let connection = client.connect(server.local_addr()?, "localhost")?.await?;
//! assert_eq!(tls::peer_certificate(&connection).as_deref(), Some(identity.certificate_der()));
//! # Ok(()) }
//! ```

pub mod close;
pub mod congestion;
pub mod endpoint;
pub mod error;
pub mod filter;
pub mod group;
pub mod options;
pub mod reassembly;
mod runtime;
mod socket;
pub mod tls;
pub mod transport;

pub use close::close;
pub use congestion::Congestion;
pub use endpoint::{EndpointSettings, bind, new_endpoint, new_filtered_endpoint};
pub use error::QuicError;
pub use filter::SourceFilter;
pub use group::{TaskGroup, accept, connect};
pub use options::TransportOptions;
pub use reassembly::{InOrder, Reassembly, StreamReadError};
pub use transport::TransportSettings;
