use super::*;
use crate::generate_phrase;

const PHRASE: &str = "bottom drive obey lake curtain smoke basket hold race lonely fit walk";
const PHRASE_ADDRESS: &str = "5DfhGyQdFobKM8NsWvEeAKk5EQQgYe9AydgJ7rMB6E1EqRzV";

fn unhex<const N: usize>(text: &str) -> [u8; N] {
    let mut bytes = [0; N];
    hex::decode_to_slice(text, &mut bytes).unwrap();
    bytes
}

#[test]
fn seeds_give_the_published_addresses() {
    for (byte, address) in [
        (1, "5CcyqxXnJucaCnQQvvUg5EPzj1uoNAxACZvzArHw5aVDvgNH"),
        (2, "5CfCr47V5Dte6bwxNBE8K9oNnQd9fiay6aDEEkgYtFv7w4Fq"),
    ] {
        let pair = Keypair::from_seed(&[byte; 32]);
        assert_eq!(pair.hotkey(), address);
        assert_eq!(pair.public().to_ss58(), address);
        assert_eq!(**pair.seed().unwrap(), [byte; 32]);
        assert!(pair.phrase().is_none());
    }
}

#[test]
fn phrase_gives_the_key_of_bittensor_tools() {
    let pair = Keypair::from_phrase(PHRASE, None).unwrap();
    assert_eq!(pair.hotkey(), PHRASE_ADDRESS);
    assert_eq!(
        **pair.seed().unwrap(),
        unhex("fac7959dbfe72f052e5a0c3c8d6530f202b02fd8f9f5ca3580ec8deb7797479e"),
    );
    assert_eq!(pair.phrase().unwrap().as_str(), PHRASE);
    let spaced = format!("  {}\n", PHRASE.replace(' ', " \t "));
    let pair = Keypair::from_phrase(&spaced, Some("")).unwrap();
    assert_eq!(pair.hotkey(), PHRASE_ADDRESS);
    assert_eq!(pair.phrase().unwrap().as_str(), PHRASE);
}

#[test]
fn phrase_password_changes_the_key_and_drops_the_phrase() {
    let pair = Keypair::from_phrase(PHRASE, Some("pässword")).unwrap();
    // As sp-core 34 derives it.
    assert_eq!(
        pair.hotkey(),
        "5HQ9EnZJ9HX2mBjMsid4N4hhAnKr7oo98JdN1e5RXTi9qpFP"
    );
    assert!(pair.phrase().is_none());
    assert!(pair.seed().is_some());
}

#[test]
fn phrases_of_every_length_give_substrate_seeds() {
    // From the vectors of substrate-bip39, all with the password `Substrate`.
    for (phrase, seed) in [
        (
            "legal winner thank year wave sausage worth useful legal winner thank yellow",
            "4313249608fe8ac10fd5886c92c4579007272cb77c21551ee5b8d60b78041685",
        ),
        (
            "letter advice cage absurd amount doctor acoustic avoid letter advice cage absurd \
             amount doctor acoustic avoid letter always",
            "9ddecf32ce6bee77f867f3c4bb842d1f0151826a145cb4489598fe71ac29e355",
        ),
        (
            "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon \
             abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon \
             abandon abandon abandon art",
            "44e9d125f037ac1d51f0a7d3649689d422c2af8b1ec8e00d71db4d7bf6d127e3",
        ),
    ] {
        let pair = Keypair::from_phrase(phrase, Some("Substrate")).unwrap();
        assert_eq!(**pair.seed().unwrap(), unhex(seed), "{phrase}");
    }
}

#[test]
fn refuses_what_is_no_phrase() {
    let (all_but_last, _) = PHRASE.rsplit_once(' ').unwrap();
    for (phrase, expected) in [
        (String::new(), KeyError::PhraseWords),
        ("bottom".to_owned(), KeyError::PhraseWords),
        (all_but_last.to_owned(), KeyError::PhraseWords),
        (format!("{PHRASE} {PHRASE} walk"), KeyError::PhraseWords),
        (PHRASE.replace("bottom", "botttom"), KeyError::PhraseWords),
        (PHRASE.to_uppercase(), KeyError::PhraseWords),
        (format!("{all_but_last} zoo"), KeyError::PhraseChecksum),
        (
            format!("drive bottom{}", &PHRASE[12..]),
            KeyError::PhraseChecksum,
        ),
    ] {
        let error = Keypair::from_phrase(&phrase, None).unwrap_err();
        assert_eq!(error, expected, "{phrase:?}");
    }
}

#[test]
fn generated_phrases_are_valid_and_differ() {
    for words in [12, 15, 18, 21, 24] {
        let phrase = generate_phrase(words).unwrap();
        assert_eq!(phrase.split(' ').count(), words);
        assert_ne!(phrase, generate_phrase(words).unwrap());
        let pair = Keypair::from_phrase(&phrase, None).unwrap();
        assert_eq!(pair.phrase(), Some(&phrase));
    }
    for words in [0, 3, 11, 13, 25, 27, usize::MAX] {
        assert_eq!(
            generate_phrase(words).unwrap_err(),
            KeyError::PhraseWords,
            "{words}"
        );
    }
}

#[test]
fn expanded_secret_restores_the_pair() {
    // As sp-core 34 expands a seed of 32 bytes 01.
    let secret = unhex(
        "0bdd6dbf4edf8925e8c128bc2ddd9ed555e36240ca30ca7633d80e18d177de0d\
         b17a2a2cf3d4a41a8e4e18cc45c8656d558eceddb0adb46bfa088a5f53bed252",
    );
    let pair = Keypair::from_expanded_secret(&secret).unwrap();
    assert_eq!(pair.public(), Keypair::from_seed(&[1; 32]).public());
    assert_eq!(*pair.expanded_secret(), secret);
    assert_eq!(*Keypair::from_seed(&[1; 32]).expanded_secret(), secret);
    assert!(pair.seed().is_none() && pair.phrase().is_none());
    assert!(pair.public().verify(b"m", &pair.sign(b"m")));

    let error = Keypair::from_expanded_secret(&[0xff; 64]).unwrap_err();
    assert_eq!(error, KeyError::ExpandedSecret);
}

#[test]
fn signatures_verify_for_this_key_and_message_only() {
    let pair = Keypair::generate();
    let other = Keypair::generate();
    assert_ne!(pair.public(), other.public());
    for message in [&b""[..], b"m", &[0xff; 10_000]] {
        let signature = pair.sign(message);
        assert!(pair.public().verify(message, &signature));
        assert!(!other.public().verify(message, &signature));
        assert!(!pair.public().verify(&[message, b"x"].concat(), &signature));
        assert_ne!(signature, pair.sign(message), "the nonce is random");
    }
}

#[test]
fn clone_signs_for_the_same_key() {
    let pair = Keypair::from_phrase(PHRASE, None).unwrap();
    let copy = pair.clone();
    drop(pair);
    assert_eq!(copy.hotkey(), PHRASE_ADDRESS);
    assert!(copy.public().verify(b"m", &copy.sign(b"m")));
}

#[test]
fn debug_shows_only_the_address() {
    let pair = Keypair::from_phrase(PHRASE, None).unwrap();
    assert_eq!(
        format!("{pair:?}"),
        format!("Keypair {{ public: PublicKey({PHRASE_ADDRESS}), .. }}"),
    );
}
