use std::collections::HashSet;

use base64::Engine;
use blake2::{Blake2b512, Digest};
use proptest::prelude::*;

use super::*;

const ALICE: &str = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY";
const ALICE_KEY: &str = "d43593c715fdd31c61141abd04a99fd6822c8558854ccde39a5684e7a56da27d";
const MINER: &str = "5CcyqxXnJucaCnQQvvUg5EPzj1uoNAxACZvzArHw5aVDvgNH";
const VALIDATOR: &str = "5CfCr47V5Dte6bwxNBE8K9oNnQd9fiay6aDEEkgYtFv7w4Fq";

/// Messages and signatures made with the published btlightning 0.2.15.
const PUBLISHED: [(&str, &str, &str); 2] = [
    (
        VALIDATOR,
        "handshake:5CfCr47V5Dte6bwxNBE8K9oNnQd9fiay6aDEEkgYtFv7w4Fq:1700000000:\
         000102030405060708090a0b0c0d0e0f:uUk+L0nGSZdCQ1R18MTb5ShIRfEEiWkhmXtrts1ftjg=",
        "SIEAU8+eIvbQ1dzHzBCwDzv3VdaGhwbpAp+rX7R+QkOZBNC+WImKEaAojhLxSsXcR7F9vVZxUx4Ul2vhAeYhjA==",
    ),
    (
        MINER,
        "handshake_response:5CfCr47V5Dte6bwxNBE8K9oNnQd9fiay6aDEEkgYtFv7w4Fq:\
         5CcyqxXnJucaCnQQvvUg5EPzj1uoNAxACZvzArHw5aVDvgNH:1700000001:\
         000102030405060708090a0b0c0d0e0f:uUk+L0nGSZdCQ1R18MTb5ShIRfEEiWkhmXtrts1ftjg=",
        "XM8jXSp6JuWxYJ+flrm+68kRjiFwunG8SbOr7qNCuhrxhhpPcrIgPUVAr0UUHwjbieItqPs14dF+xBci/5WhgA==",
    ),
];

fn alice() -> PublicKey {
    let mut bytes = [0; 32];
    hex::decode_to_slice(ALICE_KEY, &mut bytes).unwrap();
    PublicKey::from_bytes(bytes)
}

fn signature(base64: &str) -> [u8; 64] {
    base64::engine::general_purpose::STANDARD
        .decode(base64)
        .unwrap()
        .try_into()
        .unwrap()
}

/// Base58 of `body` with a correct checksum.
fn checked(body: &[u8]) -> String {
    let hash = Blake2b512::new()
        .chain_update(b"SS58PRE")
        .chain_update(body)
        .finalize();
    bs58::encode([body, &hash[..2]].concat()).into_string()
}

#[test]
fn address_of_known_key() {
    assert_eq!(alice().to_ss58(), ALICE);
    assert_eq!(ALICE.parse(), Ok(alice()));
    assert_eq!(alice().to_string(), ALICE);
    assert_eq!(format!("{:?}", alice()), format!("PublicKey({ALICE})"));
    assert_eq!(format!("{:>50}", alice()), format!("  {ALICE}"));
}

#[test]
fn addresses_of_other_networks_name_the_same_key() {
    // Prefixes 0, 2, 63, 252, 255 and 13116, as sp-core 34 writes them.
    for address in [
        "15oF4uVJwmo4TdGW7VfQxNLavjCXviqxT9S1MgbjMNHr6Sp5",
        "HNZata7iMYWmk5RvZRTiAsSDhV8366zq2YGb3tLH5Upf74F",
        "7NPoMQbiA6trJKkjB35uk96MeJD4PGWkLQLH7k7hXEkZpiba",
        "xw8P6urbSAronL3zZFB7dg8p7LLSgKCUFDUgjohnf1iP434ic",
        "yGHXkYLYqxijLKKfd9Q2CB9shRVu8rPNBS53wvwGTutYg4zTg",
        "bt7zDqc4kAcKZ6kWup5yyuvRAbeYPhXGxwXY4CguG476A9MCE",
    ] {
        assert_eq!(PublicKey::from_ss58(address), Ok(alice()), "{address}");
    }
}

#[test]
fn every_changed_character_is_refused() {
    let alphabet = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
    for (position, original) in ALICE.char_indices() {
        for other in alphabet.chars().filter(|other| *other != original) {
            let mut address = ALICE.to_owned();
            address.replace_range(position..=position, other.encode_utf8(&mut [0; 4]));
            assert!(PublicKey::from_ss58(&address).is_err(), "{address}");
        }
    }
}

#[test]
fn refuses_what_is_no_address() {
    let key = alice();
    let with_prefix = |prefix: &[u8]| checked(&[prefix, key.as_bytes()].concat());
    let last_changed = format!("{}Z", &ALICE[..ALICE.len() - 1]);
    for (address, expected) in [
        (last_changed, KeyError::AddressChecksum),
        (String::new(), KeyError::AddressLength),
        ("5".to_owned(), KeyError::AddressLength),
        ("1".to_owned(), KeyError::AddressLength),
        (ALICE[..ALICE.len() - 1].to_owned(), KeyError::AddressLength),
        (format!("{ALICE}5"), KeyError::AddressLength),
        (ALICE.repeat(1000), KeyError::AddressLength),
        (format!(" {ALICE}"), KeyError::AddressNotBase58),
        (format!("{ALICE}\n"), KeyError::AddressNotBase58),
        (ALICE.replace('5', "0"), KeyError::AddressNotBase58),
        ("not_valid_ss58".to_owned(), KeyError::AddressNotBase58),
        (format!("0x{ALICE_KEY}"), KeyError::AddressLength),
        ("wallet-ä".to_owned(), KeyError::AddressNotBase58),
        // A key one byte short or long under a correct checksum.
        (
            checked(&[&[42], &key.as_bytes()[1..]].concat()),
            KeyError::AddressLength,
        ),
        (
            checked(&[&[42, 0], &key.as_bytes()[..]].concat()),
            KeyError::AddressLength,
        ),
        // Reserved prefixes, prefix bytes without meaning, prefix 42 in two bytes.
        (with_prefix(&[46]), KeyError::AddressPrefix),
        (with_prefix(&[47]), KeyError::AddressPrefix),
        (with_prefix(&[128]), KeyError::AddressPrefix),
        (with_prefix(&[255]), KeyError::AddressPrefix),
        (with_prefix(&[0x4a, 0x80]), KeyError::AddressPrefix),
    ] {
        assert_eq!(PublicKey::from_ss58(&address), Err(expected), "{address}");
    }
    assert_eq!(PublicKey::from_ss58(&with_prefix(&[42])), Ok(key));
}

#[test]
fn published_signatures_verify() {
    for (address, message, base64) in PUBLISHED {
        let key: PublicKey = address.parse().unwrap();
        assert!(
            key.verify(message.as_bytes(), &signature(base64)),
            "{message}"
        );
    }
}

#[test]
fn altered_signatures_do_not_verify() {
    let (address, message, base64) = PUBLISHED[0];
    let key: PublicKey = address.parse().unwrap();
    let good = signature(base64);
    for bit in 0..512 {
        let mut altered = good;
        altered[bit / 8] ^= 1 << (bit % 8);
        assert!(!key.verify(message.as_bytes(), &altered), "bit {bit}");
    }
    assert!(!key.verify(&message.as_bytes()[1..], &good));
    assert!(!key.verify(b"", &good));
    assert!(
        !MINER
            .parse::<PublicKey>()
            .unwrap()
            .verify(message.as_bytes(), &good)
    );
    assert!(!key.verify(message.as_bytes(), &[0; 64]));
}

#[test]
fn bytes_that_are_no_point_verify_nothing() {
    let (_, message, base64) = PUBLISHED[0];
    let key = PublicKey::from_bytes([0xff; 32]);
    assert!(!key.verify(message.as_bytes(), &signature(base64)));
    assert_eq!(key.to_ss58().parse(), Ok(key));
}

#[test]
fn works_as_a_key_of_a_set() {
    let set = HashSet::from([alice(), ALICE.parse().unwrap(), MINER.parse().unwrap()]);
    assert_eq!(set.len(), 2);
}

proptest! {
    #[test]
    fn any_key_survives_its_address(bytes: [u8; 32]) {
        let key = PublicKey::from_bytes(bytes);
        let address = key.to_ss58();
        prop_assert_eq!(address.len(), 48);
        prop_assert!(address.starts_with('5'));
        prop_assert_eq!(address.parse(), Ok(key));
    }

    #[test]
    fn what_is_accepted_is_canonical_in_its_network(text in "[1-9A-HJ-NP-Za-km-z]{0,66}|.{0,80}") {
        if let Ok(key) = PublicKey::from_ss58(&text) {
            prop_assert_eq!(key.to_ss58().parse(), Ok(key));
            prop_assert!((46..=50).contains(&text.len()));
        }
    }
}
