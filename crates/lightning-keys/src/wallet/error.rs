use std::io;
use std::path::PathBuf;

use super::Encryption;
use crate::{KeyError, PublicKey};

/// Why a hotkey file could not be read or written. No variant carries secret material.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WalletError {
    /// The wallet path starts with `~` and the home folder is unknown.
    #[error("wallet path starts with ~ but the home folder is unknown, give an absolute path")]
    NoHome,
    /// A wallet or hotkey name that is empty or would leave its folder.
    #[error("{what} name {name:?} is not the name of a single file")]
    Name {
        /// `wallet` or `hotkey`.
        what: &'static str,
        /// The name as given.
        name: String,
    },
    /// There is no such hotkey.
    #[error("no hotkey file at {path}, check the wallet path, wallet name and hotkey name")]
    NotFound {
        /// Where the file was expected.
        path: PathBuf,
    },
    /// There is a hotkey already, and it was not to be overwritten.
    #[error("a hotkey file exists at {path}, allow overwriting to replace it")]
    Exists {
        /// The file in the way.
        path: PathBuf,
    },
    /// The file or its folder cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The file or its folder cannot be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The file is encrypted and no password was given.
    #[error(
        "{path} is encrypted ({encryption}), give its password as an argument \
         or, encoded as Bittensor tools do, in the environment variable {variable}"
    )]
    PasswordRequired {
        /// The encrypted file.
        path: PathBuf,
        /// How it is encrypted.
        encryption: Encryption,
        /// The environment variable that may hold the password.
        variable: String,
    },
    /// The environment variable does not hold a password in the encoding of Bittensor tools.
    #[error(
        "environment variable {variable} does not hold an encoded password, \
         let a Bittensor tool set it or give the password as an argument"
    )]
    PasswordVariable {
        /// The variable.
        variable: String,
    },
    /// A new file was to be encrypted with an empty password.
    #[error("password is empty, give one or write the hotkey unencrypted")]
    EmptyPassword,
    /// Decryption failed; the formats cannot tell a wrong password from a damaged file.
    #[error("cannot decrypt {path}: the password is wrong or the file is damaged")]
    Decrypt {
        /// The encrypted file.
        path: PathBuf,
    },
    /// The key of an encrypted file needs more memory than there is.
    #[error("not enough memory for the password hash, {required_mib} MiB are needed")]
    Memory {
        /// What the hash needs.
        required_mib: usize,
    },
    /// The file is not what its format says.
    #[error("{path} is not a hotkey file: {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The file holds only the public half.
    #[error("{path} holds no secret phrase, seed or private key")]
    NoSecret {
        /// The file.
        path: PathBuf,
    },
    /// The key is not an sr25519 key.
    #[error("{path} holds a key of type {crypto_type}, only sr25519 (type 1) can be used")]
    CryptoType {
        /// The file.
        path: PathBuf,
        /// The number in the file; 0 is ed25519.
        crypto_type: u64,
    },
    /// The secret or the address in the file was refused.
    #[error("{path}: {source}")]
    Key {
        /// The file.
        path: PathBuf,
        /// Why.
        source: KeyError,
    },
    /// The secret belongs to another address than the file states.
    #[error("{path} states the address {stated} but its secret belongs to {derived}")]
    AddressMismatch {
        /// The file.
        path: PathBuf,
        /// The address in the file.
        stated: PublicKey,
        /// The address of the secret.
        derived: PublicKey,
    },
    /// The operating system gave no random bytes.
    #[error("the operating system gave no random bytes")]
    Randomness,
}
