use std::fmt;
use std::path::Path;

use super::{Encryption, WalletError, keyfile, storage};
use crate::PublicKey;

/// What can be told about a hotkey file without its password.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct HotkeyFileInfo {
    /// The address of the secret, unless the file is encrypted.
    pub address: Option<PublicKey>,
    /// How the file is encrypted; `None` for a plain one.
    pub encryption: Option<Encryption>,
    /// The nine permission bits, where the platform has them.
    pub mode: Option<u32>,
    /// What the owner should look after.
    pub warnings: Vec<HotkeyFileWarning>,
}

/// Something about a hotkey file that puts its secret at risk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HotkeyFileWarning {
    /// Other users can read the plain secret.
    Readable {
        /// The permission bits.
        mode: u32,
    },
    /// Other users can replace the key.
    Writable {
        /// The permission bits.
        mode: u32,
    },
    /// The file uses an encryption that Bittensor tools no longer write.
    LegacyEncryption(Encryption),
}

impl fmt::Display for HotkeyFileWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Readable { mode } => write!(
                f,
                "the secret is not encrypted and other users can read it (mode {mode:04o}), \
                 use chmod 600"
            ),
            Self::Writable { mode } => {
                write!(
                    f,
                    "other users can replace the key (mode {mode:04o}), use chmod 600"
                )
            }
            Self::LegacyEncryption(encryption) => {
                write!(
                    f,
                    "the encryption ({encryption}) is outdated, save the hotkey again"
                )
            }
        }
    }
}

/// Describes the hotkey file at `path` without decrypting it.
///
/// A plain file is checked as [`load_hotkey`](super::load_hotkey) does.
///
/// # Errors
/// [`WalletError::NotFound`], [`WalletError::Read`] and, for a plain file, whatever keeps it
/// from being loaded.
pub fn inspect(path: impl AsRef<Path>) -> Result<HotkeyFileInfo, WalletError> {
    let path = path.as_ref();
    let file = storage::read(path)?;
    let encryption = Encryption::detect(&file.bytes);
    let address = match encryption {
        Some(_) => None,
        None => Some(keyfile::parse(&file.bytes, path)?.public()),
    };
    let warnings = warnings(encryption, file.mode);
    Ok(HotkeyFileInfo {
        address,
        encryption,
        mode: file.mode,
        warnings,
    })
}

fn warnings(encryption: Option<Encryption>, mode: Option<u32>) -> Vec<HotkeyFileWarning> {
    let mut warnings = Vec::new();
    if let Some(mode) = mode {
        if encryption.is_none() && mode & READ_BY_OTHERS != 0 {
            warnings.push(HotkeyFileWarning::Readable { mode });
        }
        if mode & WRITE_BY_OTHERS != 0 {
            warnings.push(HotkeyFileWarning::Writable { mode });
        }
    }
    match encryption {
        Some(encryption @ (Encryption::AnsibleVault | Encryption::Fernet)) => {
            warnings.push(HotkeyFileWarning::LegacyEncryption(encryption));
        }
        Some(Encryption::Nacl) | None => {}
    }
    warnings
}

const READ_BY_OTHERS: u32 = 0o044;
const WRITE_BY_OTHERS: u32 = 0o022;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warns_by_mode_and_encryption() {
        use Encryption::{AnsibleVault, Fernet, Nacl};
        let readable = |mode| HotkeyFileWarning::Readable { mode };
        let writable = |mode| HotkeyFileWarning::Writable { mode };
        let legacy = HotkeyFileWarning::LegacyEncryption;
        for (encryption, mode, expected) in [
            (None, None, vec![]),
            (None, Some(0o600), vec![]),
            (None, Some(0o400), vec![]),
            (None, Some(0o644), vec![readable(0o644)]),
            (None, Some(0o640), vec![readable(0o640)]),
            (None, Some(0o604), vec![readable(0o604)]),
            (None, Some(0o620), vec![writable(0o620)]),
            (None, Some(0o666), vec![readable(0o666), writable(0o666)]),
            (Some(Nacl), Some(0o644), vec![]),
            (Some(Nacl), Some(0o622), vec![writable(0o622)]),
            (Some(AnsibleVault), Some(0o600), vec![legacy(AnsibleVault)]),
            (Some(Fernet), None, vec![legacy(Fernet)]),
        ] {
            assert_eq!(
                warnings(encryption, mode),
                expected,
                "{encryption:?} {mode:?}"
            );
        }
    }

    #[test]
    fn says_the_mode_in_octal() {
        let text = HotkeyFileWarning::Readable { mode: 0o644 }.to_string();
        assert!(text.contains("0644"), "{text}");
    }
}
