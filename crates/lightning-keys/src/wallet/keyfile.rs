//! The JSON inside a hotkey file.

use std::path::Path;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::WalletError;
use crate::{Keypair, PublicKey};

/// Reads the JSON of a hotkey file and checks the secret against the stated address.
///
/// Like the Bittensor tools, prefers the phrase to the seed and the seed to the private key.
pub(super) fn parse(json: &[u8], path: &Path) -> Result<Keypair, WalletError> {
    let no_object = || malformed(path, "not a JSON object of keys");
    // The derived reader would take an array for the fields in order.
    if !json.trim_ascii_start().starts_with(b"{") {
        return Err(no_object());
    }
    // The parser's own message may quote a value, so it is not passed on.
    let stored: Stored = serde_json::from_slice(json).map_err(|_| no_object())?;
    if let Some(crypto_type) = stored
        .crypto_type
        .as_ref()
        .and_then(serde_json::Value::as_u64)
        && crypto_type != SR25519
    {
        return Err(WalletError::CryptoType {
            path: path.to_owned(),
            crypto_type,
        });
    }

    let key_error = |source| WalletError::Key {
        path: path.to_owned(),
        source,
    };
    let pair = if let Some(phrase) = present(&stored.secret_phrase) {
        Keypair::from_phrase(phrase, None).map_err(key_error)?
    } else if let Some(seed) = present(&stored.secret_seed) {
        from_hex(seed, path, "secretSeed is not 32 bytes of hex")?
    } else if let Some(key) = present(&stored.private_key) {
        from_hex(key, path, "privateKey is not 64 bytes of hex")?
    } else {
        return Err(WalletError::NoSecret {
            path: path.to_owned(),
        });
    };

    if let Some(address) = &stored.ss58_address {
        let stated = PublicKey::from_ss58(address).map_err(key_error)?;
        let derived = pair.public();
        if stated != derived {
            return Err(WalletError::AddressMismatch {
                path: path.to_owned(),
                stated,
                derived,
            });
        }
    }
    Ok(pair)
}

/// Writes the JSON of a hotkey file with every form of the secret that is known.
pub(super) fn format(pair: &Keypair) -> Zeroizing<Vec<u8>> {
    let hex = |bytes: &[u8]| Zeroizing::new(format!("0x{}", &*Zeroizing::new(hex::encode(bytes))));
    write(&Stored {
        private_key: Some(hex(&pair.expanded_secret()[..])),
        secret_phrase: pair.phrase().cloned(),
        secret_seed: pair.seed().map(|seed| hex(&seed[..])),
        ..public_part(pair)
    })
}

/// Writes the JSON of the file beside it, which holds only the public half.
pub(super) fn format_public(pair: &Keypair) -> Zeroizing<Vec<u8>> {
    write(&public_part(pair))
}

/// The fields, in the spelling of the Bittensor tools. Unknown ones are ignored.
#[derive(Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
struct Stored {
    #[serde(skip_serializing_if = "Option::is_none")]
    account_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    public_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    private_key: Option<Zeroizing<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret_phrase: Option<Zeroizing<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret_seed: Option<Zeroizing<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ss58_address: Option<String>,
    /// Absent in older files. Anything but a number is ignored, as the Bittensor tools do.
    #[serde(skip_serializing_if = "Option::is_none")]
    crypto_type: Option<serde_json::Value>,
}

fn public_part(pair: &Keypair) -> Stored {
    let public = format!("0x{}", hex::encode(pair.public().as_bytes()));
    Stored {
        account_id: Some(public.clone()),
        public_key: Some(public),
        ss58_address: Some(pair.hotkey()),
        crypto_type: Some(SR25519.into()),
        ..Stored::default()
    }
}

#[expect(
    clippy::expect_used,
    reason = "strings and a number always serialize into memory"
)]
fn write(stored: &Stored) -> Zeroizing<Vec<u8>> {
    // Reserved in full: a buffer that grows leaves copies of the secret in freed memory.
    let mut json = Zeroizing::new(Vec::with_capacity(MAX_JSON_LEN));
    serde_json::to_writer(&mut *json, stored).expect("no field can fail");
    debug_assert!(json.capacity() == MAX_JSON_LEN);
    json
}

/// Some tools write an absent secret as `null`, others as an empty string.
fn present(field: &Option<Zeroizing<String>>) -> Option<&str> {
    field
        .as_ref()
        .map(|text| text.as_str())
        .filter(|text| !text.is_empty())
}

/// Takes a seed or an expanded secret, told apart by length, with or without `0x`.
fn from_hex(text: &str, path: &Path, reason: &'static str) -> Result<Keypair, WalletError> {
    let text = text.strip_prefix("0x").unwrap_or(text);
    let mut bytes = Zeroizing::new([0; 64]);
    if text.len() == 128 && hex::decode_to_slice(text, &mut bytes[..]).is_ok() {
        return Keypair::from_expanded_secret(&bytes).map_err(|source| WalletError::Key {
            path: path.to_owned(),
            source,
        });
    }
    let mut seed = Zeroizing::new([0; 32]);
    hex::decode_to_slice(text, &mut seed[..]).map_err(|_| malformed(path, reason))?;
    Ok(Keypair::from_seed(&seed))
}

fn malformed(path: &Path, reason: &'static str) -> WalletError {
    WalletError::Malformed {
        path: path.to_owned(),
        reason,
    }
}

/// The number that Substrate gives sr25519 among its signature types.
const SR25519: u64 = 1;
/// The fixed fields take under 500 bytes, the longest phrase 216.
const MAX_JSON_LEN: usize = 1024;

#[cfg(test)]
mod tests;
