//! BIP-39 phrases, turned into seeds the way Substrate does it.

use bip39::{Error as Bip39Error, Language, Mnemonic};
use sha2::Sha512;
use zeroize::Zeroizing;

use crate::KeyError;

/// Makes a random English BIP-39 phrase of 12, 15, 18, 21 or 24 words.
///
/// [`Keypair::from_phrase`](crate::Keypair::from_phrase) turns it into a key.
///
/// # Errors
/// [`KeyError::PhraseWords`] for another number of words, [`KeyError::Randomness`] when the
/// operating system gives no random bytes.
pub fn generate_phrase(words: usize) -> Result<Zeroizing<String>, KeyError> {
    if !matches!(words, 12 | 15 | 18 | 21 | 24) {
        return Err(KeyError::PhraseWords);
    }
    let mut entropy = Zeroizing::new([0; MAX_ENTROPY_LEN]);
    let entropy = &mut entropy[..words / 3 * 4];
    getrandom::fill(entropy).map_err(|_| KeyError::Randomness)?;
    let mnemonic =
        Mnemonic::from_entropy_in(Language::English, entropy).map_err(|_| KeyError::PhraseWords)?;
    Ok(joined(&mnemonic))
}

/// A phrase that passed its checksum, and the seed it stands for.
pub(crate) struct Parsed {
    /// The words in lower case, one space apart.
    pub(crate) phrase: Zeroizing<String>,
    /// The mini secret key.
    pub(crate) seed: Zeroizing<[u8; 32]>,
}

/// Derives the seed of `phrase`.
///
/// Substrate stretches the *entropy* behind the words, where BIP-39 stretches the words
/// themselves, so the seed differs from that of a Bitcoin wallet with the same phrase.
pub(crate) fn parse(phrase: &str, password: &str) -> Result<Parsed, KeyError> {
    let mnemonic =
        Mnemonic::parse_in_normalized(Language::English, phrase).map_err(|error| match error {
            Bip39Error::InvalidChecksum => KeyError::PhraseChecksum,
            _ => KeyError::PhraseWords,
        })?;
    let (entropy, len) = mnemonic.to_entropy_array();
    let entropy = Zeroizing::new(entropy);

    let mut salt = Zeroizing::new(Vec::with_capacity(SALT_START.len() + password.len()));
    salt.extend_from_slice(SALT_START);
    salt.extend_from_slice(password.as_bytes());

    // PBKDF2 with HMAC-SHA-512 fills blocks of 64 bytes, so the first 32 bytes of a longer
    // output are the whole of this one.
    let mut seed = Zeroizing::new([0; 32]);
    pbkdf2::pbkdf2_hmac::<Sha512>(&entropy[..len], &salt, ROUNDS, &mut seed[..]);
    Ok(Parsed {
        phrase: joined(&mnemonic),
        seed,
    })
}

fn joined(mnemonic: &Mnemonic) -> Zeroizing<String> {
    // Reserved in full: a string that grows leaves copies of the words behind in freed memory.
    let mut text = Zeroizing::new(String::with_capacity(MAX_WORDS * (MAX_WORD_LEN + 1)));
    for word in mnemonic.words() {
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(word);
    }
    text
}

const ROUNDS: u32 = 2048;
const SALT_START: &[u8] = b"mnemonic";
const MAX_ENTROPY_LEN: usize = 32;
const MAX_WORDS: usize = 24;
const MAX_WORD_LEN: usize = 8;
