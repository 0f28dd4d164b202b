use std::fmt;

use schnorrkel::{ExpansionMode, MiniSecretKey, SecretKey};
use zeroize::Zeroizing;

use crate::public_key::SIGNING_CONTEXT;
use crate::{KeyError, PublicKey, phrase};

/// An sr25519 key pair.
///
/// The secret is erased from memory when the pair is dropped, and `Debug` shows only the address.
#[derive(Clone)]
pub struct Keypair {
    inner: schnorrkel::Keypair,
    seed: Option<Zeroizing<[u8; 32]>>,
    phrase: Option<Zeroizing<String>>,
}

impl Keypair {
    /// Expands a 32-byte seed the way Substrate does (mini secret key, Ed25519 expansion).
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self::from_mini(mini_secret(seed))
    }

    /// Derives the pair that Substrate tools derive from an English BIP-39 phrase.
    ///
    /// Words are lower case and separated by white space. `password` is the optional part of
    /// the derivation, not the password of a wallet file; Bittensor tools use none.
    ///
    /// # Errors
    /// [`KeyError::PhraseWords`] or [`KeyError::PhraseChecksum`].
    pub fn from_phrase(phrase: &str, password: Option<&str>) -> Result<Self, KeyError> {
        let password = password.unwrap_or_default();
        let parsed = phrase::parse(phrase, password)?;
        let mut pair = Self::from_seed(&parsed.seed);
        // With a password the phrase alone stands for another key: keeping it would let a wallet
        // file be written that restores the wrong one.
        if password.is_empty() {
            pair.phrase = Some(parsed.phrase);
        }
        Ok(pair)
    }

    /// Takes an expanded secret: 32 bytes of scalar, then 32 bytes of nonce seed.
    ///
    /// This is `privateKey` in a wallet file. Neither seed nor phrase can be recovered from it.
    ///
    /// # Errors
    /// [`KeyError::ExpandedSecret`] when the scalar is not reduced.
    pub fn from_expanded_secret(secret: &[u8; 64]) -> Result<Self, KeyError> {
        let secret = SecretKey::from_bytes(secret).map_err(|_| KeyError::ExpandedSecret)?;
        Ok(Self {
            inner: secret.to_keypair(),
            seed: None,
            phrase: None,
        })
    }

    /// Makes a random pair.
    ///
    /// # Panics
    /// When the operating system gives no random bytes.
    pub fn generate() -> Self {
        Self::from_mini(MiniSecretKey::generate())
    }

    /// Returns the public half.
    pub fn public(&self) -> PublicKey {
        PublicKey::from_bytes(self.inner.public.to_bytes())
    }

    /// Returns the SS58 address of the public half.
    pub fn hotkey(&self) -> String {
        self.public().to_ss58()
    }

    /// Signs `message` in the context `substrate`.
    ///
    /// Two signatures over one message differ: fresh randomness guards the nonce.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.inner.sign_simple(SIGNING_CONTEXT, message).to_bytes()
    }

    /// Returns the 32-byte seed, unless the pair came from an expanded secret.
    pub fn seed(&self) -> Option<&Zeroizing<[u8; 32]>> {
        self.seed.as_ref()
    }

    /// Returns the phrase, when the pair came from one that needs no password.
    pub fn phrase(&self) -> Option<&Zeroizing<String>> {
        self.phrase.as_ref()
    }

    /// Returns the expanded secret that [`from_expanded_secret`](Self::from_expanded_secret) takes.
    pub fn expanded_secret(&self) -> Zeroizing<[u8; 64]> {
        Zeroizing::new(self.inner.secret.to_bytes())
    }

    fn from_mini(mini: MiniSecretKey) -> Self {
        Self {
            inner: mini.expand_to_keypair(ExpansionMode::Ed25519),
            seed: Some(Zeroizing::new(mini.to_bytes())),
            phrase: None,
        }
    }
}

impl fmt::Debug for Keypair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keypair")
            .field("public", &self.public())
            .finish_non_exhaustive()
    }
}

#[expect(clippy::expect_used, reason = "any 32 bytes are a mini secret key")]
fn mini_secret(seed: &[u8; 32]) -> MiniSecretKey {
    MiniSecretKey::from_bytes(seed).expect("the length is fixed by the type")
}

#[cfg(test)]
mod tests;
