//! The table of refusals. Both sides use real keys; time and nonces are arguments.

use lightning_keys::Keypair;

use super::*;
use crate::nonce::NonceWindow;

const NOW: u64 = 1_700_000_000;
const MAX_AGE: u64 = 300;

fn validator() -> Keypair {
    Keypair::from_seed(&[2; 32])
}

fn miner() -> Keypair {
    Keypair::from_seed(&[1; 32])
}

fn stranger() -> Keypair {
    Keypair::from_seed(&[3; 32])
}

fn certificate() -> Fingerprint {
    Fingerprint::of_certificate(b"the server's certificate")
}

fn other_certificate() -> Fingerprint {
    Fingerprint::of_certificate(b"the certificate of somebody in between")
}

fn nonce() -> Nonce {
    Nonce::from_bytes([0xab; 16])
}

/// A client with the validator's hotkey that began its handshake at `at`.
fn client_at(at: u64) -> ClientHandshake {
    ClientHandshake::new(validator().hotkey(), at, nonce(), certificate())
}

/// That client's request, signed by the validator.
fn request_at(at: u64) -> HandshakeRequest {
    let client = client_at(at);
    client.request(&validator().sign(client.message().as_bytes()))
}

/// All of the server's checks before its memory of nonces.
fn serve(
    request: &HandshakeRequest,
    fingerprint: Fingerprint,
    now: u64,
) -> Result<(Nonce, u64), Refusal> {
    Unverified::check(request, fingerprint, now, MAX_AGE)?.verify()
}

/// The answer of `key`, which calls itself `hotkey`, to `request`.
fn answer(
    key: &Keypair,
    hotkey: &str,
    request: &HandshakeRequest,
    fingerprint: Fingerprint,
) -> HandshakeResponse {
    let message = acceptance_message(request, hotkey, NOW, fingerprint);
    let signature = key.sign(message.as_bytes());
    acceptance(hotkey, NOW, fingerprint, "conn-1", &signature)
}

fn genuine_answer() -> HandshakeResponse {
    answer(&miner(), &miner().hotkey(), &request_at(NOW), certificate())
}

fn with_bit_flipped(signature: &str, bit: usize) -> String {
    let mut bytes = BASE64_STANDARD.decode(signature).unwrap();
    bytes[bit / 8] ^= 1 << (bit % 8);
    BASE64_STANDARD.encode(bytes)
}

#[test]
fn the_genuine_handshake_is_accepted_by_both() {
    let request = request_at(NOW);
    assert_eq!(serve(&request, certificate(), NOW), Ok((nonce(), NOW)));
    let response = genuine_answer();
    assert_eq!(client_at(NOW).check(&response, &miner().hotkey()), Ok(()));
}

mod server {
    use super::*;

    #[test]
    fn refuses_what_was_changed_after_signing() {
        type Change = fn(&mut HandshakeRequest);
        let table: [(&str, Change, Refusal); 7] = [
            (
                "a second later",
                |r| r.timestamp += 1,
                Refusal::InvalidSignature,
            ),
            (
                "a second earlier",
                |r| r.timestamp -= 1,
                Refusal::InvalidSignature,
            ),
            (
                "another nonce",
                |r| r.nonce = Nonce::from_bytes([0xac; 16]).to_hex(),
                Refusal::InvalidSignature,
            ),
            (
                "the same nonce spelled differently",
                |r| r.nonce.make_ascii_uppercase(),
                Refusal::InvalidSignature,
            ),
            (
                "another hotkey",
                |r| r.validator_hotkey = stranger().hotkey(),
                Refusal::InvalidSignature,
            ),
            (
                "no signature",
                |r| r.signature = BASE64_STANDARD.encode([0; 64]),
                Refusal::InvalidSignature,
            ),
            (
                "the signature of another key",
                |r| {
                    let message = client_at(NOW).message();
                    r.signature = BASE64_STANDARD.encode(stranger().sign(message.as_bytes()));
                },
                Refusal::InvalidSignature,
            ),
        ];
        for (name, change, refusal) in table {
            let mut request = request_at(NOW);
            change(&mut request);
            assert_eq!(serve(&request, certificate(), NOW), Err(refusal), "{name}");
        }
    }

    #[test]
    fn refuses_a_signature_with_any_bit_flipped() {
        let request = request_at(NOW);
        for bit in 0..512 {
            let mut flipped = request.clone();
            flipped.signature = with_bit_flipped(&request.signature, bit);
            assert_eq!(
                serve(&flipped, certificate(), NOW),
                Err(Refusal::InvalidSignature),
                "bit {bit}"
            );
        }
    }

    #[test]
    fn refuses_a_signature_for_another_certificate() {
        assert_eq!(
            serve(&request_at(NOW), other_certificate(), NOW),
            Err(Refusal::InvalidSignature)
        );
    }

    #[test]
    fn bounds_the_age_on_both_sides() {
        let too_old = |age_secs| {
            Err(Refusal::TooOld {
                age_secs,
                max_secs: MAX_AGE,
            })
        };
        let from_future = |ahead_secs| Err(Refusal::FromFuture { ahead_secs });
        let table = [
            (NOW, NOW, Ok(())),
            (NOW - 299, NOW, Ok(())),
            (NOW - 300, NOW, too_old(300)),
            (NOW - 301, NOW, too_old(301)),
            (NOW + 60, NOW, Ok(())),
            (NOW + 61, NOW, from_future(61)),
            (0, 299, Ok(())),
            (0, 300, too_old(300)),
            (0, u64::MAX, too_old(u64::MAX)),
            (u64::MAX, 0, from_future(u64::MAX)),
            (u64::MAX, NOW, from_future(u64::MAX - NOW)),
            (u64::MAX, u64::MAX, Ok(())),
            (u64::MAX, u64::MAX - 60, Ok(())),
            (u64::MAX, u64::MAX - 61, from_future(61)),
            (u64::MAX - 300, u64::MAX, too_old(300)),
        ];
        for (signed_at, now, expected) in table {
            let expected = expected.map(|()| (nonce(), signed_at));
            assert_eq!(
                serve(&request_at(signed_at), certificate(), now),
                expected,
                "signed at {signed_at}, served at {now}"
            );
        }
    }

    #[test]
    fn an_age_limit_of_any_size_is_honoured() {
        let check = |signed_at, now, max_age| {
            Unverified::check(&request_at(signed_at), certificate(), now, max_age).map(drop)
        };
        assert_eq!(check(NOW, NOW, 0), Ok(()));
        assert_eq!(
            check(NOW - 1, NOW, 0),
            Err(Refusal::TooOld {
                age_secs: 1,
                max_secs: 0
            })
        );
        assert_eq!(check(1, u64::MAX, u64::MAX), Ok(()));
        assert_eq!(
            check(0, u64::MAX, u64::MAX),
            Err(Refusal::TooOld {
                age_secs: u64::MAX,
                max_secs: u64::MAX
            })
        );
    }

    #[test]
    fn refuses_nonces_that_are_not_128_bits_of_hex() {
        let shapes = [
            String::new(),
            "a".repeat(31),
            "a".repeat(33),
            "a".repeat(64),
            format!("g{}", "a".repeat(31)),
            format!("+{}", "a".repeat(31)),
            format!("0x{}", "a".repeat(30)),
            format!(" {}", "a".repeat(31)),
            format!("{}\n", "a".repeat(31)),
            format!("{}:", "a".repeat(31)),
            // 32 bytes, 31 characters; 32 characters, 64 bytes.
            format!("é{}", "a".repeat(30)),
            "é".repeat(32),
        ];
        for shape in shapes {
            let mut request = request_at(NOW);
            request.nonce = shape.clone();
            // The server signs nothing whose parts could be read in two ways, so a valid signature
            // over the odd nonce must not help.
            let message = request_message(
                &request.validator_hotkey,
                NOW,
                &shape,
                &certificate().to_base64(),
            );
            request.signature = BASE64_STANDARD.encode(validator().sign(message.as_bytes()));
            assert_eq!(
                serve(&request, certificate(), NOW),
                Err(Refusal::NonceShape),
                "{shape:?}"
            );
        }
    }

    #[test]
    fn refuses_signatures_that_are_not_base64_of_64_bytes() {
        let genuine = request_at(NOW).signature;
        let bytes = BASE64_STANDARD.decode(&genuine).unwrap();
        let shapes = [
            String::new(),
            "not base64!".into(),
            genuine.trim_end_matches('=').into(),
            format!("{genuine}="),
            format!("{genuine}\n"),
            format!(" {genuine}"),
            hex::encode(&bytes),
            BASE64_STANDARD.encode(&bytes[..63]),
            BASE64_STANDARD.encode([bytes.as_slice(), &[0]].concat()),
        ];
        for shape in shapes {
            let mut request = request_at(NOW);
            request.signature = shape.clone();
            assert_eq!(
                serve(&request, certificate(), NOW),
                Err(Refusal::InvalidSignature),
                "{shape:?}"
            );
        }
    }

    #[test]
    fn refuses_hotkeys_that_are_not_addresses() {
        let genuine = validator().hotkey();
        let shapes = [
            String::new(),
            "not_valid_ss58".into(),
            genuine[1..].into(),
            format!("{genuine}1"),
            format!("{genuine}:1"),
            // The last characters are the checksum.
            format!("{}r", &genuine[..genuine.len() - 1]),
            "5".repeat(4000),
        ];
        for shape in shapes {
            let mut request = request_at(NOW);
            request.validator_hotkey = shape.clone();
            assert_eq!(
                serve(&request, certificate(), NOW),
                Err(Refusal::InvalidHotkey),
                "{shape:?}"
            );
        }
    }

    /// One key has an address per network. Permits, connection limits and the replacement of an
    /// older connection go by the text, so a second spelling would be a second validator.
    #[test]
    fn refuses_other_spellings_of_a_hotkey() {
        let seed = "e5be9a5092b81bca64be81d212e7f2f9eba183bb7a90954f7b76361f6edb5c0a";
        let alice = Keypair::from_seed(&hex::decode(seed).unwrap().try_into().unwrap());
        let spellings = [
            (
                "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY",
                Ok((nonce(), NOW)),
            ),
            (
                "15oF4uVJwmo4TdGW7VfQxNLavjCXviqxT9S1MgbjMNHr6Sp5",
                Err(Refusal::InvalidHotkey),
            ),
            (
                "HNZata7iMYWmk5RvZRTiAsSDhV8366zq2YGb3tLH5Upf74F",
                Err(Refusal::InvalidHotkey),
            ),
        ];
        for (spelling, expected) in spellings {
            assert_eq!(PublicKey::from_ss58(spelling).unwrap(), alice.public());
            let client = ClientHandshake::new(spelling, NOW, nonce(), certificate());
            let request = client.request(&alice.sign(client.message().as_bytes()));
            assert_eq!(serve(&request, certificate(), NOW), expected, "{spelling}");
        }
    }

    #[test]
    fn refuses_a_verified_handshake_the_second_time() {
        let mut window = NonceWindow::new(10);
        let mut accept = |request| {
            let (nonce, timestamp) = serve(request, certificate(), NOW)?;
            window.insert(nonce, timestamp)
        };
        let request = request_at(NOW);
        assert_eq!(accept(&request), Ok(()));
        assert_eq!(accept(&request), Err(Refusal::Replayed));
        // A fresh signature under the same nonce is no way around it.
        assert_eq!(accept(&request_at(NOW + 1)), Err(Refusal::Replayed));
    }

    /// A key that is a miner here and a validator there must not lend one role's signature to the
    /// other.
    #[test]
    fn refuses_an_answer_in_place_of_a_request() {
        let response = answer(
            &validator(),
            &validator().hotkey(),
            &request_at(NOW),
            certificate(),
        );
        let mut request = request_at(NOW);
        request.signature = response.signature;
        assert_eq!(
            serve(&request, certificate(), NOW),
            Err(Refusal::InvalidSignature)
        );
    }
}

mod client {
    use super::*;

    fn check(response: &HandshakeResponse) -> Result<(), Distrust> {
        client_at(NOW).check(response, &miner().hotkey())
    }

    #[test]
    fn distrusts_what_was_changed_after_signing() {
        type Change = fn(&mut HandshakeResponse);
        let wrong_hotkey = Distrust::WrongHotkey {
            expected: miner().hotkey(),
            actual: stranger().hotkey(),
        };
        let unnamed = Distrust::WrongHotkey {
            expected: miner().hotkey(),
            actual: String::new(),
        };
        let table: [(&str, Change, Distrust); 10] = [
            ("rejected", |r| r.accepted = false, Distrust::Rejected),
            (
                "another hotkey",
                |r| r.miner_hotkey = stranger().hotkey(),
                wrong_hotkey,
            ),
            ("no hotkey", |r| r.miner_hotkey.clear(), unnamed),
            (
                "another fingerprint",
                |r| r.cert_fingerprint = Some(other_certificate().to_base64()),
                Distrust::WrongFingerprint,
            ),
            (
                "an empty fingerprint",
                |r| r.cert_fingerprint = Some(String::new()),
                Distrust::WrongFingerprint,
            ),
            (
                "no fingerprint",
                |r| r.cert_fingerprint = None,
                Distrust::NoFingerprint,
            ),
            (
                "another time",
                |r| r.timestamp += 1,
                Distrust::InvalidSignature,
            ),
            (
                "no signature",
                |r| r.signature.clear(),
                Distrust::InvalidSignature,
            ),
            (
                "a signature of 63 bytes",
                |r| r.signature = BASE64_STANDARD.encode([1; 63]),
                Distrust::InvalidSignature,
            ),
            (
                "a signature that is not base64",
                |r| r.signature.insert(0, '!'),
                Distrust::InvalidSignature,
            ),
        ];
        for (name, change, distrust) in table {
            let mut response = genuine_answer();
            change(&mut response);
            assert_eq!(check(&response), Err(distrust), "{name}");
        }
    }

    #[test]
    fn distrusts_a_signature_with_any_bit_flipped() {
        let response = genuine_answer();
        for bit in 0..512 {
            let mut flipped = response.clone();
            flipped.signature = with_bit_flipped(&response.signature, bit);
            assert_eq!(
                check(&flipped),
                Err(Distrust::InvalidSignature),
                "bit {bit}"
            );
        }
    }

    #[test]
    fn distrusts_another_key_under_the_expected_name() {
        let response = answer(
            &stranger(),
            &miner().hotkey(),
            &request_at(NOW),
            certificate(),
        );
        assert_eq!(check(&response), Err(Distrust::InvalidSignature));
    }

    #[test]
    fn distrusts_a_name_that_is_no_address() {
        let response = answer(&miner(), "miner", &request_at(NOW), certificate());
        assert_eq!(
            client_at(NOW).check(&response, "miner"),
            Err(Distrust::InvalidSignature)
        );
    }

    /// Without the validator's hotkey in it, an answer to one validator could be shown to another
    /// that chose the same nonce (unknown key share).
    #[test]
    fn distrusts_an_answer_to_another_validator() {
        let other = ClientHandshake::new(stranger().hotkey(), NOW, nonce(), certificate());
        let request = other.request(&stranger().sign(other.message().as_bytes()));
        let response = answer(&miner(), &miner().hotkey(), &request, certificate());
        assert_eq!(other.check(&response, &miner().hotkey()), Ok(()));
        assert_eq!(check(&response), Err(Distrust::InvalidSignature));
    }

    #[test]
    fn distrusts_an_answer_to_another_nonce() {
        let nonce = Nonce::from_bytes([0xcd; 16]);
        let other = ClientHandshake::new(validator().hotkey(), NOW, nonce, certificate());
        let request = other.request(&validator().sign(other.message().as_bytes()));
        let response = answer(&miner(), &miner().hotkey(), &request, certificate());
        assert_eq!(other.check(&response, &miner().hotkey()), Ok(()));
        assert_eq!(check(&response), Err(Distrust::InvalidSignature));
    }

    /// A client that looks for its own hotkey must not take its own signature, sent back, for the
    /// other side's.
    #[test]
    fn distrusts_its_own_signature_sent_back() {
        let request = request_at(NOW);
        let mut response = answer(&validator(), &validator().hotkey(), &request, certificate());
        let own = validator().hotkey();
        assert_eq!(client_at(NOW).check(&response, &own), Ok(()));
        response.signature = request.signature;
        assert_eq!(
            client_at(NOW).check(&response, &own),
            Err(Distrust::InvalidSignature)
        );
    }

    /// The nonce binds the answer, so its clock may be anything.
    #[test]
    fn takes_an_answer_from_any_clock() {
        for at in [0, u64::MAX] {
            let request = request_at(NOW);
            let hotkey = miner().hotkey();
            let message = acceptance_message(&request, &hotkey, at, certificate());
            let signature = miner().sign(message.as_bytes());
            let response = acceptance(&hotkey, at, certificate(), "", &signature);
            assert_eq!(check(&response), Ok(()), "at {at}");
        }
    }
}

/// Somebody between the two shows the client a certificate of their own and speaks to the server
/// as a client.
mod relay {
    use super::*;

    /// What the client sends when it sees the certificate of the one in between.
    fn deceived() -> (ClientHandshake, HandshakeRequest) {
        let client = ClientHandshake::new(validator().hotkey(), NOW, nonce(), other_certificate());
        let request = client.request(&validator().sign(client.message().as_bytes()));
        (client, request)
    }

    #[test]
    fn of_the_request_is_refused_by_the_server() {
        let (_, request) = deceived();
        assert_eq!(
            serve(&request, other_certificate(), NOW),
            Ok((nonce(), NOW))
        );
        assert_eq!(
            serve(&request, certificate(), NOW),
            Err(Refusal::InvalidSignature)
        );
    }

    #[test]
    fn of_the_answer_is_refused_by_the_client() {
        let (client, request) = deceived();
        // The server would not answer this request; suppose it did.
        let mut response = answer(&miner(), &miner().hotkey(), &request, certificate());
        assert_eq!(
            client.check(&response, &miner().hotkey()),
            Err(Distrust::WrongFingerprint)
        );
        response.cert_fingerprint = Some(other_certificate().to_base64());
        assert_eq!(
            client.check(&response, &miner().hotkey()),
            Err(Distrust::InvalidSignature)
        );
    }

    #[test]
    fn of_an_answer_to_the_one_in_between_is_refused_by_the_client() {
        let (client, _) = deceived();
        let own = ClientHandshake::new(stranger().hotkey(), NOW, nonce(), certificate());
        let request = own.request(&stranger().sign(own.message().as_bytes()));
        assert_eq!(serve(&request, certificate(), NOW), Ok((nonce(), NOW)));
        let mut response = answer(&miner(), &miner().hotkey(), &request, certificate());
        assert_eq!(
            client.check(&response, &miner().hotkey()),
            Err(Distrust::WrongFingerprint)
        );
        response.cert_fingerprint = Some(other_certificate().to_base64());
        assert_eq!(
            client.check(&response, &miner().hotkey()),
            Err(Distrust::InvalidSignature)
        );
    }
}
