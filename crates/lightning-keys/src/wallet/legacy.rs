//! The two encryptions that older Bittensor tools used, read only.

use aes::cipher::{BlockDecryptMut, KeyIvInit, StreamCipher};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::encryption::Failure;

/// Opens an Ansible Vault of version 1.1 or 1.2.
///
/// A header line, then hex of three lines: salt, HMAC-SHA-256 and AES-256-CTR text, in hex again.
pub(super) fn open_ansible_vault(file: &[u8], password: &str) -> Opened {
    let parts = AnsibleParts::parse(file).ok_or(Failure::Malformed("damaged Ansible Vault"))?;

    let mut keys = Zeroizing::new([0; 80]);
    pbkdf2::pbkdf2_hmac::<Sha256>(
        password.as_bytes(),
        &parts.salt,
        ANSIBLE_ROUNDS,
        &mut keys[..],
    );
    let (cipher_key, rest) = keys.split_at(32);
    let (mac_key, counter) = rest.split_at(32);
    verify(mac_key, &[&parts.ciphertext], &parts.mac)?;

    let mut text = Zeroizing::new(parts.ciphertext);
    ctr::Ctr128BE::<aes::Aes256>::new(cipher_key.into(), counter.into()).apply_keystream(&mut text);
    remove_padding(text)
}

/// Opens a Fernet token: version, time, initialisation vector, AES-128-CBC text, HMAC-SHA-256.
///
/// The key takes ten million rounds of PBKDF2: seconds in an optimised build.
pub(super) fn open_fernet(file: &[u8], password: &str) -> Opened {
    let mut token = URL_SAFE
        .decode(file.trim_ascii())
        .ok()
        .filter(|token| token.len() >= FERNET_HEAD + AES_BLOCK + MAC_LEN)
        .filter(|token| (token.len() - FERNET_HEAD - MAC_LEN).is_multiple_of(AES_BLOCK))
        .filter(|token| token[0] == FERNET_VERSION)
        .ok_or(Failure::Malformed("damaged Fernet token"))?;

    let mut keys = Zeroizing::new([0; 32]);
    pbkdf2::pbkdf2_hmac::<Sha256>(
        password.as_bytes(),
        FERNET_SALT,
        FERNET_ROUNDS,
        &mut keys[..],
    );
    let (mac_key, cipher_key) = keys.split_at(16);
    let mac = token.split_off(token.len() - MAC_LEN);
    verify(mac_key, &[&token], &mac)?;

    let mut text = Zeroizing::new(token.split_off(FERNET_HEAD));
    let mut cipher = cbc::Decryptor::<aes::Aes128>::new(
        cipher_key.into(),
        token[FERNET_HEAD - AES_BLOCK..].into(),
    );
    for block in text.chunks_exact_mut(AES_BLOCK) {
        cipher.decrypt_block_mut(block.into());
    }
    remove_padding(text)
}

type Opened = Result<Zeroizing<Vec<u8>>, Failure>;

struct AnsibleParts {
    salt: Vec<u8>,
    mac: Vec<u8>,
    ciphertext: Vec<u8>,
}

impl AnsibleParts {
    fn parse(file: &[u8]) -> Option<Self> {
        let mut lines = std::str::from_utf8(file).ok()?.lines();
        let mut header = lines.next()?.trim_end().split(';').skip(1);
        // Version 1.2 differs only in a label at the end of the header.
        if !matches!(
            (header.next(), header.next()),
            (Some("1.1" | "1.2"), Some("AES256"))
        ) {
            return None;
        }
        let body: String = lines.map(str::trim).collect();
        let body = hex::decode(body).ok()?;
        let mut parts = body
            .split(|byte| *byte == b'\n')
            .map(|part| hex::decode(part).ok());
        let (salt, mac, ciphertext) = (parts.next()??, parts.next()??, parts.next()??);
        Some(Self {
            salt,
            mac,
            ciphertext,
        })
    }
}

/// Checks the authentication code in constant time, before anything is decrypted.
fn verify(key: &[u8], parts: &[&[u8]], expected: &[u8]) -> Result<(), Failure> {
    let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(key).map_err(|_| Failure::Password)?;
    parts.iter().for_each(|part| mac.update(part));
    mac.verify_slice(expected).map_err(|_| Failure::Password)
}

/// Removes PKCS #7 padding; the text is authenticated, so how it fails tells an attacker nothing.
fn remove_padding(mut text: Zeroizing<Vec<u8>>) -> Opened {
    let len = text.last().map_or(0, |last| usize::from(*last));
    let start = text
        .len()
        .checked_sub(len)
        .filter(|_| (1..=AES_BLOCK).contains(&len));
    match start {
        Some(start) if text[start..].iter().all(|byte| usize::from(*byte) == len) => {
            text.truncate(start);
            Ok(text)
        }
        _ => Err(Failure::Malformed("damaged padding")),
    }
}

const AES_BLOCK: usize = 16;
const MAC_LEN: usize = 32;
const ANSIBLE_ROUNDS: u32 = 10_000;
const FERNET_VERSION: u8 = 0x80;
/// Version, 8 bytes of time, initialisation vector.
const FERNET_HEAD: usize = 1 + 8 + AES_BLOCK;
const FERNET_ROUNDS: u32 = 10_000_000;
const FERNET_SALT: &[u8] = b"Iguesscyborgslikemyselfhaveatendencytobeparanoidaboutourorigins";
