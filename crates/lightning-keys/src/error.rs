/// Why an address, a phrase or a secret was refused. No variant carries secret material.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The address has characters outside the base58 alphabet.
    #[error("address is not base58")]
    AddressNotBase58,
    /// The address does not hold a prefix, 32 bytes of key and 2 bytes of checksum.
    #[error("address does not hold a 32-byte public key")]
    AddressLength,
    /// The network prefix is reserved or not written in its shortest form.
    #[error("address has an invalid network prefix")]
    AddressPrefix,
    /// The checksum does not match: the address is mistyped or cut.
    #[error("address checksum does not match, check it for typing errors")]
    AddressChecksum,
    /// The phrase is not 12, 15, 18, 21 or 24 words of the English BIP-39 list.
    #[error("secret phrase is not 12, 15, 18, 21 or 24 words of the English BIP-39 list")]
    PhraseWords,
    /// The words are known but their checksum does not match.
    #[error("secret phrase checksum does not match, check the words and their order")]
    PhraseChecksum,
    /// The 64 bytes are not an expanded sr25519 secret key.
    #[error("private key is not a 64-byte sr25519 secret key")]
    ExpandedSecret,
    /// The operating system gave no random bytes.
    #[error("the operating system gave no random bytes")]
    Randomness,
}
