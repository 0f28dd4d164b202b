use super::*;
use crate::KeyError;

const PHRASE: &str = "bottom drive obey lake curtain smoke basket hold race lonely fit walk";
const ADDRESS: &str = "5DfhGyQdFobKM8NsWvEeAKk5EQQgYe9AydgJ7rMB6E1EqRzV";
const SEED: &str = "fac7959dbfe72f052e5a0c3c8d6530f202b02fd8f9f5ca3580ec8deb7797479e";
const PRIVATE: &str = "05d65584630d16cd4af6d0bec10f34bb504a5dcb62dba2122d49f5a663763d0a\
                       fd190cce74df356432b410bd64682309d6dedb27c76845daf388557cbac3ca34";
const PUBLIC: &str = "46ebddef8cd9bb167dc30878d7113b7e168e6f0646beffd77d69d39bad76b47a";

fn parse_text(json: &str) -> Result<Keypair, WalletError> {
    parse(json.as_bytes(), Path::new("/w/hotkeys/h"))
}

#[test]
fn reads_every_shape_that_tools_write() {
    let full = format!(
        r#"{{"accountId":"0x{PUBLIC}","publicKey":"0x{PUBLIC}","privateKey":"0x{PRIVATE}",
            "secretPhrase":"{PHRASE}","secretSeed":"0x{SEED}","ss58Address":"{ADDRESS}"}}"#
    );
    let nulls = format!(
        r#"{{"accountId":null,"publicKey":null,"privateKey":null,"secretPhrase":null,
            "secretSeed":"{SEED}","ss58Address":null,"cryptoType":null}}"#
    );
    for (what, json) in [
        ("all fields", full.clone()),
        (
            "all fields and a type",
            full.replace("}", r#","cryptoType":1}"#),
        ),
        (
            "phrase and integer type",
            format!(r#"{{"secretPhrase":"{PHRASE}","cryptoType":1}}"#),
        ),
        (
            "type of another shape",
            format!(r#"{{"secretPhrase":"{PHRASE}","cryptoType":"1"}}"#),
        ),
        (
            "unknown field",
            format!(r#"{{"secretPhrase":"{PHRASE}","extra":[1,{{}}]}}"#),
        ),
        ("seed with 0x", format!(r#"{{"secretSeed":"0x{SEED}"}}"#)),
        ("seed without 0x, nulls", nulls),
        (
            "seed in capitals",
            format!(r#"{{"secretSeed":"0x{}"}}"#, SEED.to_uppercase()),
        ),
        (
            "empty phrase",
            format!(r#"{{"secretPhrase":"","secretSeed":"0x{SEED}"}}"#),
        ),
        (
            "private key with 0x",
            format!(r#"{{"privateKey":"0x{PRIVATE}"}}"#),
        ),
        (
            "private key without 0x",
            format!(r#"{{"privateKey":"{PRIVATE}"}}"#),
        ),
        (
            "white space",
            format!("\n {{ \"secretSeed\" : \"{SEED}\" }} \n"),
        ),
    ] {
        let pair = parse_text(&json).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(pair.hotkey(), ADDRESS, "{what}");
    }
}

#[test]
fn prefers_the_phrase_then_the_seed() {
    let other = "01".repeat(32);
    let json = format!(r#"{{"secretPhrase":"{PHRASE}","secretSeed":"{other}"}}"#);
    assert_eq!(parse_text(&json).unwrap().hotkey(), ADDRESS);
    let json = format!(r#"{{"secretSeed":"{SEED}","privateKey":"{other}{other}"}}"#);
    assert_eq!(parse_text(&json).unwrap().hotkey(), ADDRESS);
}

#[test]
fn checks_the_stated_address_by_key() {
    let with = |address: &str| {
        parse_text(&format!(
            r#"{{"secretSeed":"{SEED}","ss58Address":"{address}"}}"#
        ))
    };
    assert!(with(ADDRESS).is_ok());

    let other = Keypair::from_seed(&[1; 32]).public();
    match with(&other.to_ss58()) {
        Err(WalletError::AddressMismatch {
            stated, derived, ..
        }) => {
            assert_eq!(stated, other);
            assert_eq!(derived.to_ss58(), ADDRESS);
        }
        result => panic!("{result:?}"),
    }
    for (address, expected) in [
        ("", KeyError::AddressLength),
        (&ADDRESS[..47], KeyError::AddressLength),
    ] {
        let result = with(address);
        assert!(
            matches!(result, Err(WalletError::Key { source, .. }) if source == expected),
            "{result:?}",
        );
    }
}

#[test]
fn refuses_other_key_types() {
    for number in [0_u64, 2, 257] {
        let result = parse_text(&format!(
            r#"{{"secretSeed":"{SEED}","cryptoType":{number}}}"#
        ));
        match result {
            Err(WalletError::CryptoType { crypto_type, .. }) => assert_eq!(crypto_type, number),
            result => panic!("{result:?}"),
        }
    }
}

#[test]
fn refuses_a_file_without_a_secret() {
    for json in [
        "{}",
        &format!(r#"{{"ss58Address":"{ADDRESS}","publicKey":"0x{PUBLIC}"}}"#),
    ] {
        let result = parse_text(json);
        assert!(
            matches!(result, Err(WalletError::NoSecret { .. })),
            "{json}: {result:?}"
        );
    }
}

#[test]
fn refuses_damaged_files_without_quoting_them() {
    let marker = "5ec4e7";
    for json in [
        String::new(),
        marker.to_owned(),
        format!(r#"["{marker}"]"#),
        format!(r#"{{"secretSeed":"{marker}""#),
        format!(r#"{{"secretPhrase":"{marker}"}}"#),
        format!(r#"{{"secretPhrase":["{marker}"]}}"#),
        format!(r#"{{"secretSeed":"0x{marker}"}}"#),
        format!(r#"{{"secretSeed":"{marker}{}"}}"#, &SEED[..56]),
        format!(r#"{{"secretSeed":"{}zz"}}"#, &SEED[..62]),
        format!(r#"{{"secretSeed":"0x0x{SEED}"}}"#),
        format!(r#"{{"privateKey":"{marker}{}"}}"#, &PRIVATE[..120]),
        format!(r#"{{"privateKey":"{}"}}"#, "ff".repeat(64)),
    ] {
        let error = parse_text(&json).unwrap_err();
        assert!(
            matches!(
                error,
                WalletError::Malformed { .. } | WalletError::Key { .. }
            ),
            "{json}: {error:?}",
        );
        let said = format!("{error} {error:?}");
        assert!(!said.contains(marker), "{said}");
    }
}

#[test]
fn writes_what_is_known_and_reads_it_again() {
    let phrase = crate::generate_phrase(24).unwrap();
    let pairs = [
        (Keypair::from_phrase(&phrase, None).unwrap(), true, true),
        (
            Keypair::from_phrase(&phrase, Some("extra")).unwrap(),
            false,
            true,
        ),
        (Keypair::generate(), false, true),
        (
            Keypair::from_expanded_secret(&Keypair::generate().expanded_secret()).unwrap(),
            false,
            false,
        ),
    ];
    for (pair, has_phrase, has_seed) in pairs {
        let json = format(&pair);
        let value: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(value.get("secretPhrase").is_some(), has_phrase);
        assert_eq!(value.get("secretSeed").is_some(), has_seed);
        assert_eq!(value["ss58Address"], pair.hotkey());
        assert_eq!(value["cryptoType"], 1);
        let read = parse(&json, Path::new("")).unwrap();
        assert_eq!(read.public(), pair.public());
        assert_eq!(read.seed(), pair.seed());
        assert_eq!(read.phrase(), pair.phrase());
    }
}

#[test]
fn writes_the_fields_of_bittensor_tools() {
    let pair = Keypair::from_phrase(PHRASE, None).unwrap();
    let public = format!("0x{PUBLIC}");
    let mut expected = serde_json::json!({
        "accountId": public, "publicKey": public, "ss58Address": ADDRESS, "cryptoType": 1,
    });
    let written = |json: &[u8]| serde_json::from_slice::<serde_json::Value>(json).unwrap();
    assert_eq!(written(&format_public(&pair)), expected);

    expected["privateKey"] = format!("0x{PRIVATE}").into();
    expected["secretPhrase"] = PHRASE.into();
    expected["secretSeed"] = format!("0x{SEED}").into();
    assert_eq!(written(&format(&pair)), expected);
}
