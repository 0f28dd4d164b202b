use super::*;

// The cost of the real key derivation is paid in `tests/wallet.rs`; here the key is given.
const KEY: [u8; 32] = [7; 32];

fn sealed(json: &[u8]) -> Vec<u8> {
    seal(json, &Zeroizing::new(KEY), &[9; NONCE_LEN].into())
}

fn open(file: &[u8], key: [u8; 32]) -> Result<Vec<u8>, Failure> {
    Sealed::parse(file)?
        .open(&Zeroizing::new(key))
        .map(|json| json.to_vec())
}

#[test]
fn layout_is_marker_nonce_tag_text() {
    let file = sealed(b"{}");
    assert_eq!(file.len(), 5 + 24 + 16 + 2);
    assert_eq!(file[..5], *b"$NACL");
    assert_eq!(file[5..29], [9; 24]);
    assert_eq!(open(&file, KEY).unwrap(), b"{}");
    assert_eq!(open(&sealed(b""), KEY).unwrap(), b"");
}

#[test]
fn every_cut_and_every_changed_byte_is_refused() {
    let file = sealed(b"{\"secretSeed\":\"00\"}");
    for len in 0..file.len() {
        let expected = if len < NACL_OVERHEAD {
            Failure::Malformed("cut short")
        } else {
            Failure::Password
        };
        assert_eq!(open(&file[..len], KEY), Err(expected), "{len} bytes");
    }
    for position in NACL_START.len()..file.len() {
        let mut changed = file.clone();
        changed[position] ^= 1;
        assert_eq!(
            open(&changed, KEY),
            Err(Failure::Password),
            "byte {position}"
        );
    }
    assert_eq!(open(&file, [8; 32]), Err(Failure::Password));
}

#[test]
fn formats_are_told_by_their_first_bytes() {
    for (file, expected) in [
        (&b"$NACL"[..], Some(Encryption::Nacl)),
        (b"$NACLx", Some(Encryption::Nacl)),
        (b"$NAC", None),
        (
            b"$ANSIBLE_VAULT;1.1;AES256\n",
            Some(Encryption::AnsibleVault),
        ),
        (b"gAAAAABl", Some(Encryption::Fernet)),
        (b"{\"secretSeed\":\"gAAAAA\"}", None),
        (b"", None),
    ] {
        assert_eq!(Encryption::detect(file), expected, "{file:?}");
    }
}
