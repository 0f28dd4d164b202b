//! An SS58 address: every text is read without a panic and has one spelling, and every key comes
//! back from the address that an encoder of our own makes for any network.

#![no_main]

use blake2::{Blake2b512, Digest};
use libfuzzer_sys::fuzz_target;
use lightning_keys::PublicKey;

/// The network prefix of Bittensor, which ours writes.
const BITTENSOR: u16 = 42;
const RESERVED: [u16; 2] = [46, 47];

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(key) = PublicKey::from_ss58(text)
    {
        assert_canonical(&key);
        let bytes = bs58::decode(text).into_vec().expect("an address is base58");
        assert_eq!(bs58::encode(bytes).into_string(), text, "a second spelling");
    }

    if let Some((prefix, key)) = data.split_first_chunk::<2>()
        && let Some(key) = key.first_chunk::<32>()
    {
        let prefix = u16::from_be_bytes(*prefix) & 0x3fff;
        let key = PublicKey::from_bytes(*key);
        assert_canonical(&key);
        let address = encode(prefix, &key);
        assert_eq!(address == key.to_ss58(), prefix == BITTENSOR);
        let read = PublicKey::from_ss58(&address);
        assert_eq!(read.ok(), (!RESERVED.contains(&prefix)).then_some(key));

        // One character less or more never names the same key. It may name another one: the
        // checksum has 16 bits, and a fuzzer gets there.
        assert!(PublicKey::from_ss58(&address[1..]) != Ok(key));
        assert!(PublicKey::from_ss58(&format!("{address}1")) != Ok(key));
        assert!(PublicKey::from_ss58(&format!("1{address}")) != Ok(key));
        assert!(PublicKey::from_ss58(&format!(" {address}")).is_err());
    }
});

/// The address that ours writes is the one for Bittensor, and is read as the same key.
fn assert_canonical(key: &PublicKey) {
    let address = key.to_ss58();
    assert!(address.len() == 48 && address.starts_with('5'), "{address}");
    assert_eq!(address, encode(BITTENSOR, key));
    assert_eq!(PublicKey::from_ss58(&address).as_ref(), Ok(key));
}

fn encode(prefix: u16, key: &PublicKey) -> String {
    let [high, low] = prefix.to_be_bytes();
    let mut bytes = match prefix {
        0..64 => vec![low],
        _ => vec![0x40 | low >> 2, low << 6 | high],
    };
    bytes.extend(key.as_bytes());
    let mut hash = Blake2b512::new();
    hash.update(b"SS58PRE");
    hash.update(&bytes);
    bytes.extend(&hash.finalize()[..2]);
    bs58::encode(bytes).into_string()
}
