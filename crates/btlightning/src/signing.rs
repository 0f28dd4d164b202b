//! How a hotkey signs.

use std::fmt;

use lightning_keys::Keypair;

use crate::error::{LightningError, Result};

/// Signs handshakes with a hotkey.
///
/// Called on a thread that may block, never on an async worker.
pub trait Signer: Send + Sync {
    /// Returns the 64-byte sr25519 signature over `message` (signing context `substrate`).
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>>;
}

/// A [`Signer`] whose key lies in memory.
pub struct Sr25519Signer {
    pair: Keypair,
}

impl Sr25519Signer {
    /// Derives the key pair from a 32-byte seed, as Substrate does.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self {
            pair: Keypair::from_seed(&seed),
        }
    }

    /// Wraps a key pair.
    pub fn from_keypair(pair: Keypair) -> Self {
        Self { pair }
    }

    /// Returns the SS58 address of the key.
    pub fn hotkey(&self) -> String {
        self.pair.hotkey()
    }
}

impl Signer for Sr25519Signer {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>> {
        Ok(self.pair.sign(message).to_vec())
    }
}

impl fmt::Debug for Sr25519Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sr25519Signer")
            .field("hotkey", &self.hotkey())
            .finish_non_exhaustive()
    }
}

/// A [`Signer`] that asks a closure: a hardware module, another process, Python.
pub struct CallbackSigner<F: Fn(&[u8]) -> Result<Vec<u8>> + Send + Sync> {
    callback: F,
}

impl<F: Fn(&[u8]) -> Result<Vec<u8>> + Send + Sync> CallbackSigner<F> {
    /// Wraps a closure from message to signature.
    pub fn new(callback: F) -> Self {
        Self { callback }
    }
}

impl<F: Fn(&[u8]) -> Result<Vec<u8>> + Send + Sync> Signer for CallbackSigner<F> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>> {
        (self.callback)(message).map_err(|e| match e {
            LightningError::Signing(text) => LightningError::Signing(text),
            other => LightningError::Signing(other.to_string()),
        })
    }
}

impl<F: Fn(&[u8]) -> Result<Vec<u8>> + Send + Sync> fmt::Debug for CallbackSigner<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallbackSigner").finish_non_exhaustive()
    }
}

/// A [`Signer`] with a hotkey of the Bittensor wallet folder.
#[cfg(feature = "btwallet")]
#[derive(Debug)]
pub struct BtWalletSigner {
    signer: Sr25519Signer,
}

#[cfg(feature = "btwallet")]
impl BtWalletSigner {
    /// Loads the hotkey file `{path}/{name}/hotkeys/{hotkey_name}`; `~` stands for the home folder.
    ///
    /// An encrypted file is opened with the password in the environment variable that the Bittensor
    /// tools use for it; opening takes seconds and blocks.
    ///
    /// # Errors
    ///
    /// [`LightningError::Config`] says what is wrong with the file, or which variable is missing.
    pub fn from_wallet(name: &str, path: &str, hotkey_name: &str) -> Result<Self> {
        Self::load(name, path, hotkey_name, None)
    }

    /// Loads an encrypted hotkey file with this password.
    ///
    /// # Errors
    ///
    /// As [`from_wallet`](Self::from_wallet).
    pub fn from_encrypted_wallet(
        name: &str,
        path: &str,
        hotkey_name: &str,
        password: &str,
    ) -> Result<Self> {
        Self::load(name, path, hotkey_name, Some(password))
    }

    /// Returns the SS58 address of the hotkey.
    pub fn hotkey(&self) -> String {
        self.signer.hotkey()
    }

    fn load(name: &str, path: &str, hotkey_name: &str, password: Option<&str>) -> Result<Self> {
        let pair = lightning_keys::wallet::load_hotkey(name, path, hotkey_name, password)
            .map_err(|e| LightningError::Config(format!("cannot load hotkey from wallet: {e}")))?;
        Ok(Self {
            signer: Sr25519Signer::from_keypair(pair),
        })
    }
}

#[cfg(feature = "btwallet")]
impl Signer for BtWalletSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>> {
        self.signer.sign(message)
    }
}
