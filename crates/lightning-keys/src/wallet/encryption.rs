//! Password encryption of hotkey files.

use std::fmt;
use std::path::Path;

use argon2::{Algorithm, Argon2, Block, Params, Version};
use crypto_secretbox::aead::AeadInPlace;
use crypto_secretbox::{KeyInit, Nonce, Tag, XSalsa20Poly1305};
use zeroize::{Zeroize, Zeroizing};

use super::{WalletError, legacy};

/// How a hotkey file is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Encryption {
    /// `$NACL`: Argon2i and NaCl's secretbox. The current format, the only one written.
    Nacl,
    /// `$ANSIBLE_VAULT`: PBKDF2 and AES-256-CTR with HMAC-SHA-256. Read only.
    AnsibleVault,
    /// `gAAAAA`: PBKDF2 and a Fernet token. Read only; slow to open.
    Fernet,
}

impl Encryption {
    /// Recognises the format by the first bytes of the file.
    pub(super) fn detect(file: &[u8]) -> Option<Self> {
        [Self::Nacl, Self::AnsibleVault, Self::Fernet]
            .into_iter()
            .find(|format| file.starts_with(format.start()))
    }

    /// Decrypts a whole file.
    pub(super) fn decrypt(
        self,
        file: &[u8],
        password: &str,
        path: &Path,
    ) -> Result<Zeroizing<Vec<u8>>, WalletError> {
        let failed = |failure| match failure {
            Failure::Malformed(reason) => WalletError::Malformed {
                path: path.to_owned(),
                reason,
            },
            Failure::Password => WalletError::Decrypt {
                path: path.to_owned(),
            },
        };
        match self {
            Self::Nacl => {
                // Parsed first: a damaged file does not cost a key derivation.
                let sealed = Sealed::parse(file).map_err(failed)?;
                sealed.open(&argon2_key(password)?).map_err(failed)
            }
            Self::AnsibleVault => legacy::open_ansible_vault(file, password).map_err(failed),
            Self::Fernet => legacy::open_fernet(file, password).map_err(failed),
        }
    }

    const fn start(self) -> &'static [u8] {
        match self {
            Self::Nacl => NACL_START,
            Self::AnsibleVault => b"$ANSIBLE_VAULT",
            Self::Fernet => b"gAAAAA",
        }
    }
}

impl fmt::Display for Encryption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Nacl => "NaCl",
            Self::AnsibleVault => "Ansible Vault",
            Self::Fernet => "Fernet",
        })
    }
}

/// Why a format could not be opened.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The file does not follow its format.
    Malformed(&'static str),
    /// The authentication code does not match.
    Password,
}

/// Encrypts a file in the current format.
///
/// Takes 512 MiB of memory and a few seconds, as the format demands.
pub(super) fn encrypt(json: &[u8], password: &str) -> Result<Vec<u8>, WalletError> {
    let key = argon2_key(password)?;
    let mut nonce = Nonce::default();
    getrandom::fill(&mut nonce).map_err(|_| WalletError::Randomness)?;
    Ok(seal(json, &key, &nonce))
}

/// Layout: `$NACL`, 24 bytes of nonce, 16 bytes of Poly1305 tag, the encrypted JSON.
#[expect(clippy::expect_used, reason = "fails only for messages of 2^64 bytes")]
fn seal(json: &[u8], key: &Key, nonce: &Nonce) -> Vec<u8> {
    let mut file = Vec::with_capacity(NACL_OVERHEAD + json.len());
    file.extend_from_slice(NACL_START);
    file.extend_from_slice(nonce);
    file.extend_from_slice(&Tag::default());
    file.extend_from_slice(json);
    let (head, body) = file.split_at_mut(NACL_OVERHEAD);
    let tag = XSalsa20Poly1305::new(key.as_ref().into())
        .encrypt_in_place_detached(nonce, b"", body)
        .expect("the message is short");
    head[NACL_OVERHEAD - TAG_LEN..].copy_from_slice(&tag);
    file
}

/// What [`seal`] made, cut into its parts.
struct Sealed<'a> {
    nonce: &'a Nonce,
    tag: &'a Tag,
    body: &'a [u8],
}

impl<'a> Sealed<'a> {
    fn parse(file: &'a [u8]) -> Result<Self, Failure> {
        if file.len() < NACL_OVERHEAD {
            return Err(Failure::Malformed("cut short"));
        }
        let (nonce, rest) = file[NACL_START.len()..].split_at(NONCE_LEN);
        let (tag, body) = rest.split_at(TAG_LEN);
        Ok(Self {
            nonce: nonce.into(),
            tag: tag.into(),
            body,
        })
    }

    fn open(&self, key: &Key) -> Result<Zeroizing<Vec<u8>>, Failure> {
        let mut json = Zeroizing::new(self.body.to_vec());
        XSalsa20Poly1305::new(key.as_ref().into())
            .decrypt_in_place_detached(self.nonce, b"", &mut json, self.tag)
            .map_err(|_| Failure::Password)?;
        Ok(json)
    }
}

/// Argon2i 1.3 with libsodium's "sensitive" limits and the one salt of all Bittensor wallets.
fn argon2_key(password: &str) -> Result<Key, WalletError> {
    let memory = || WalletError::Memory {
        required_mib: ARGON2_MEMORY_MIB,
    };
    let params = Params::new(ARGON2_BLOCKS, ARGON2_PASSES, 1, None).map_err(|_| memory())?;

    // Reserved by hand: where memory is short this is an error, not an abort.
    let mut blocks: Vec<Block> = Vec::new();
    blocks
        .try_reserve_exact(params.block_count())
        .map_err(|_| memory())?;
    blocks.resize(params.block_count(), Block::new());

    let mut key = Zeroizing::new([0; 32]);
    let hashed = Argon2::new(Algorithm::Argon2i, Version::V0x13, params)
        .hash_password_into_with_memory(
            password.as_bytes(),
            ARGON2_SALT,
            &mut key[..],
            &mut blocks,
        );
    blocks.iter_mut().for_each(Zeroize::zeroize);
    // Lengths and parameters are constants within Argon2's bounds; only a password of 4 GiB
    // is refused.
    hashed.map_err(|_| memory())?;
    Ok(key)
}

type Key = Zeroizing<[u8; 32]>;

const NACL_START: &[u8] = b"$NACL";
const NONCE_LEN: usize = 24;
const TAG_LEN: usize = 16;
const NACL_OVERHEAD: usize = NACL_START.len() + NONCE_LEN + TAG_LEN;

const ARGON2_MEMORY_MIB: usize = 512;
const ARGON2_BLOCKS: u32 = 512 * 1024;
const ARGON2_PASSES: u32 = 8;
const ARGON2_SALT: &[u8; 16] = b"\x13q\x83\xdf\xf1Z\t\xbc\x9c\x90\xb5Q\x879\xe9\xb1";

#[cfg(test)]
mod tests;
