use std::fmt;
use std::str::FromStr;

use crate::{KeyError, ss58};

/// An sr25519 public key: the identity of a validator, a miner or a node.
///
/// Any 32 bytes can be held; bytes that are no point of the curve verify nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// Wraps the 32 bytes of a public key.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Returns the 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Reads an SS58 address.
    ///
    /// Every network prefix is accepted except the reserved 46 and 47, so one key has several
    /// addresses: compare keys, or [`to_ss58`](Self::to_ss58) of both, never the text received.
    ///
    /// # Errors
    /// One of the `Address…` variants of [`KeyError`].
    pub fn from_ss58(address: &str) -> Result<Self, KeyError> {
        ss58::decode(address).map(Self)
    }

    /// Writes the SS58 address under prefix 42, the one Bittensor uses.
    pub fn to_ss58(&self) -> String {
        ss58::encode(&self.0)
    }

    /// Tells whether `signature` over `message` was made by this key in the context `substrate`.
    ///
    /// Pure: needs no randomness, so it gives the same answer everywhere.
    pub fn verify(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        let Ok(key) = schnorrkel::PublicKey::from_bytes(&self.0) else {
            return false;
        };
        let Ok(signature) = schnorrkel::Signature::from_bytes(signature) else {
            return false;
        };
        key.verify_simple(SIGNING_CONTEXT, message, &signature)
            .is_ok()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.to_ss58())
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(address: &str) -> Result<Self, KeyError> {
        Self::from_ss58(address)
    }
}

/// The schnorrkel context of every Substrate signature.
pub(crate) const SIGNING_CONTEXT: &[u8] = b"substrate";

#[cfg(test)]
mod tests;
