//! Who may connect: hooks that the application supplies.

use std::{collections::HashSet, net::IpAddr};

use async_trait::async_trait;

use crate::error::Result;

/// Names the validator hotkeys that may connect.
///
/// Asked when the server begins to serve and every
/// [`validator_permit_refresh_secs`](super::LightningServerConfig::validator_permit_refresh_secs),
/// on a thread that may block. When it fails, the last set stays in force.
pub trait ValidatorPermitResolver: Send + Sync {
    /// Returns the whole set of SS58 addresses.
    fn resolve_permitted_validators(&self) -> Result<HashSet<String>>;
}

/// From where packets are answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceAllowlist {
    /// From anywhere, until the next refresh.
    Bypass,
    /// From these addresses only; others get no packet back at all. Empty: from nowhere.
    Enforce(HashSet<IpAddr>),
}

/// Names the addresses from which packets are answered.
///
/// Asked when the server begins to serve and every
/// [`source_allowlist_refresh_secs`](super::LightningServerConfig::source_allowlist_refresh_secs),
/// on a thread that may block. When it fails, the last answer stays in force.
pub trait SourceAddressResolver: Send + Sync {
    /// Returns the whole policy.
    fn resolve_allowed_sources(&self) -> Result<SourceAllowlist>;
}

/// Is told of every handshake that succeeded.
#[async_trait]
pub trait HandshakeObserver: Send + Sync {
    /// Takes note of a hotkey and the address it came from. Runs on a task of its own.
    async fn observe_successful_handshake(&self, validator_hotkey: &str, source_ip: IpAddr);
}
