//! Hotkey files of the Bittensor wallet folder.
//!
//! Bittensor tools keep a hotkey in `<path>/<wallet>/hotkeys/<hotkey>`, as JSON or as JSON
//! encrypted with a password. [`load_hotkey`] reads what they wrote, [`save_hotkey`] writes what
//! they read, [`inspect`] describes a file without its password. Nothing here ever prompts.
//!
//! ```
//! use lightning_keys::{Keypair, wallet};
//!
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path();
//! let hotkey = Keypair::generate();
//! let file = wallet::save_hotkey("default", path, "miner", &hotkey, None, false)?;
//! assert_eq!(wallet::inspect(&file)?.address, Some(hotkey.public()));
//!
//! let loaded = wallet::load_hotkey("default", path, "miner", None)?;
//! assert_eq!(loaded.public(), hotkey.public());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::Keypair;

mod encryption;
mod error;
mod info;
mod keyfile;
mod legacy;
mod location;
mod storage;

pub use encryption::Encryption;
pub use error::WalletError;
pub use info::{HotkeyFileInfo, HotkeyFileWarning, inspect};
pub use location::{DEFAULT_WALLET_PATH, WalletPath};

/// Loads the hotkey `hotkey_name` of the wallet `name` in the folder `path`.
///
/// The password of an encrypted file is `password` or else, as with Bittensor tools, the decoded
/// value of the environment variable [`WalletPath::password_variable`]. Opening such a file
/// takes a few seconds and 512 MiB of memory; the call blocks. Who else can read the file is
/// not checked here: see [`inspect`].
///
/// # Errors
/// [`WalletError::NotFound`], [`WalletError::PasswordRequired`], [`WalletError::Decrypt`] for a
/// wrong password, and the others for a file that is damaged, unreadable or not sr25519.
pub fn load_hotkey(
    name: &str,
    path: impl AsRef<Path>,
    hotkey_name: &str,
    password: Option<&str>,
) -> Result<Keypair, WalletError> {
    let location = WalletPath::new(name, path, hotkey_name)?;
    load(&location, password, |variable| std::env::var_os(variable))
}

/// Writes `hotkey` as the hotkey `hotkey_name` of the wallet `name` and returns the file's path.
///
/// With a password the file is encrypted (`$NACL`, a few seconds and 512 MiB of memory). The
/// file appears whole or not at all, readable by its owner only; missing folders are made the
/// same way. A symbolic link in its place is replaced, not followed. The public half goes into
/// `<hotkey_name>pub.txt` beside it, as Bittensor tools do.
///
/// # Errors
/// [`WalletError::Exists`] unless `overwrite` is set, [`WalletError::EmptyPassword`],
/// [`WalletError::Write`].
pub fn save_hotkey(
    name: &str,
    path: impl AsRef<Path>,
    hotkey_name: &str,
    hotkey: &Keypair,
    password: Option<&str>,
    overwrite: bool,
) -> Result<PathBuf, WalletError> {
    let location = WalletPath::new(name, path, hotkey_name)?;
    let file = location.file();
    // Saves the cost of encryption; the write itself is what decides.
    if !overwrite && file.symlink_metadata().is_ok() {
        return Err(WalletError::Exists {
            path: file.to_owned(),
        });
    }
    let json = keyfile::format(hotkey);
    match password {
        None => storage::write(file, &json, overwrite)?,
        Some("") => return Err(WalletError::EmptyPassword),
        Some(password) => storage::write(file, &encryption::encrypt(&json, password)?, overwrite)?,
    }
    // Replaced in any case: left over from another hotkey it would name the wrong address.
    storage::write(
        &location.public_file(),
        &keyfile::format_public(hotkey),
        true,
    )?;
    Ok(file.to_owned())
}

/// [`load_hotkey`] with the environment as an argument.
fn load(
    location: &WalletPath,
    password: Option<&str>,
    environment: impl FnOnce(&str) -> Option<OsString>,
) -> Result<Keypair, WalletError> {
    let path = location.file();
    let file = storage::read(path)?;
    let Some(encryption) = Encryption::detect(&file.bytes) else {
        return keyfile::parse(&file.bytes, path);
    };
    let password = match password {
        Some(password) => Zeroizing::new(password.to_owned()),
        None => {
            let variable = location.password_variable();
            match environment(&variable) {
                Some(value) => location.decode_password(value)?,
                None => {
                    let path = path.to_owned();
                    return Err(WalletError::PasswordRequired {
                        path,
                        encryption,
                        variable,
                    });
                }
            }
        }
    };
    keyfile::parse(&encryption.decrypt(&file.bytes, &password, path)?, path)
}

#[cfg(test)]
mod tests;
