//! The SS58 text form of a public key: base58 of prefix, key and a truncated BLAKE2b checksum.
//!
//! Networks and their prefixes: <https://github.com/paritytech/ss58-registry>.

use blake2::{Blake2b512, Digest};

use crate::KeyError;

/// Writes `key` under the generic Substrate prefix 42, which Bittensor uses.
pub(crate) fn encode(key: &[u8; KEY_LEN]) -> String {
    let mut bytes = [0; 1 + KEY_LEN + CHECKSUM_LEN];
    bytes[0] = GENERIC_PREFIX;
    bytes[1..1 + KEY_LEN].copy_from_slice(key);
    let sum = checksum(&bytes[..1 + KEY_LEN]);
    bytes[1 + KEY_LEN..].copy_from_slice(&sum);
    bs58::encode(bytes).into_string()
}

/// Reads an address of any network and returns its key.
///
/// Substrate's own decoder takes the prefixes of a registry that grows; every prefix but the two
/// reserved ones is taken here, so that no registry has to be carried along. The prefix is not
/// part of the identity: callers compare keys, not text.
pub(crate) fn decode(address: &str) -> Result<[u8; KEY_LEN], KeyError> {
    // base58 takes quadratic time; an address arrives from a peer that is not yet authenticated.
    if address.len() > MAX_TEXT_LEN {
        return Err(KeyError::AddressLength);
    }
    let mut buffer = [0; MAX_TEXT_LEN];
    let len = bs58::decode(address)
        .onto(&mut buffer[..])
        .map_err(|_| KeyError::AddressNotBase58)?;
    let bytes = &buffer[..len];

    if !(1 + KEY_LEN + CHECKSUM_LEN..=2 + KEY_LEN + CHECKSUM_LEN).contains(&len) {
        return Err(KeyError::AddressLength);
    }

    let (prefix_len, prefix) = match bytes[0] {
        first @ 0..=63 => (1, u16::from(first)),
        // Two bytes 01aaaaaa bbcccccc hold the 14-bit prefix cccccc_aaaaaabb.
        first @ 64..=127 => {
            let low = (first << 2) | (bytes[1] >> 6);
            let high = bytes[1] & 0b0011_1111;
            (2, u16::from_le_bytes([low, high]))
        }
        _ => return Err(KeyError::AddressPrefix),
    };
    if len != prefix_len + KEY_LEN + CHECKSUM_LEN {
        return Err(KeyError::AddressLength);
    }
    // A prefix below 64 in two bytes would give one network's address a second spelling.
    if RESERVED_PREFIXES.contains(&prefix) || (prefix_len == 2 && prefix < 64) {
        return Err(KeyError::AddressPrefix);
    }

    let (body, sum) = bytes.split_at(prefix_len + KEY_LEN);
    if sum != checksum(body) {
        return Err(KeyError::AddressChecksum);
    }
    let mut key = [0; KEY_LEN];
    key.copy_from_slice(&body[prefix_len..]);
    Ok(key)
}

fn checksum(body: &[u8]) -> [u8; CHECKSUM_LEN] {
    let hash = Blake2b512::new()
        .chain_update(CHECKSUM_DOMAIN)
        .chain_update(body)
        .finalize();
    [hash[0], hash[1]]
}

const KEY_LEN: usize = 32;
const CHECKSUM_LEN: usize = 2;
const GENERIC_PREFIX: u8 = 42;
const RESERVED_PREFIXES: [u16; 2] = [46, 47];
const CHECKSUM_DOMAIN: &[u8] = b"SS58PRE";
/// 36 bytes are at most 50 base58 digits; base58 text is never shorter than its bytes.
const MAX_TEXT_LEN: usize = 64;
