//! The mutual sr25519 handshake: who signs what, and what is refused.
//!
//! A TLS certificate made fresh by the server proves nothing about who the server is, so anybody
//! could stand between the two and show a certificate of their own. Therefore both signatures
//! cover the certificate's fingerprint as each side itself sees it: a relayed signature names
//! another certificate and is refused. The client's nonce and timestamp keep its own signature
//! from being used again; the server signs both hotkeys and the client's nonce, so an answer fits
//! one question only. The two messages begin differently, so neither can stand in for the other.

use base64::{Engine, prelude::BASE64_STANDARD};
use blake2::{Blake2b, Digest, digest::consts::U32};
use lightning_keys::PublicKey;

use crate::{
    limits::MAX_FUTURE_SKEW_SECS,
    message::{HandshakeRequest, HandshakeResponse},
    nonce::Nonce,
};

/// BLAKE2b-256 over the DER form of a TLS certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Hashes a certificate.
    pub fn of_certificate(der: &[u8]) -> Self {
        Self(Blake2b::<U32>::digest(der).into())
    }

    /// Returns the standard base64 form that is signed and sent.
    pub fn to_base64(self) -> String {
        BASE64_STANDARD.encode(self.0)
    }
}

/// Why a handshake was refused. The peer is told only that it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The message does not decode.
    #[error("malformed handshake")]
    Malformed,
    /// The signature is older than allowed.
    #[error("signed {age_secs} s ago, at most {max_secs} s are allowed: compare the clocks")]
    TooOld {
        /// Its age in seconds.
        age_secs: u64,
        /// The limit in seconds.
        max_secs: u64,
    },
    /// The signature claims to be made in the future.
    #[error(
        "signed {ahead_secs} s in the future, at most {MAX_FUTURE_SKEW_SECS} s are allowed: compare the clocks"
    )]
    FromFuture {
        /// How far ahead, in seconds.
        ahead_secs: u64,
    },
    /// The nonce is not 32 hex characters.
    #[error("nonce is not 32 hex characters")]
    NonceShape,
    /// The hotkey is not an SS58 address under prefix 42, the one Bittensor uses.
    #[error("hotkey is not a valid SS58 address of prefix 42")]
    InvalidHotkey,
    /// The signature is not base64 of 64 bytes, or does not verify.
    #[error("invalid signature")]
    InvalidSignature,
    /// The nonce has been used.
    #[error("nonce used before")]
    Replayed,
    /// The handshake is older than the server's memory of nonces reaches.
    #[error("signed before the oldest nonce remembered")]
    Forgotten,
    /// The hotkey holds no permit and permits are required.
    #[error("hotkey holds no validator permit")]
    NoPermit,
    /// Too many attempts from this address.
    #[error("too many handshakes from this address")]
    RateLimited,
    /// As many hotkeys as allowed are connected.
    #[error("as many hotkeys as allowed are connected")]
    TooManyConnections,
    /// The server could not sign its answer.
    #[error("the server could not sign its answer")]
    SignerFailed,
    /// The handshake took longer than allowed.
    #[error("the handshake took longer than allowed")]
    TimedOut,
}

/// A request that passed the cheap checks and waits for the costly one.
#[derive(Debug, Clone)]
pub struct Unverified {
    hotkey: PublicKey,
    signature: [u8; 64],
    message: String,
    nonce: Nonce,
    timestamp: u64,
}

impl Unverified {
    /// Checks what is cheap: age, shapes, encodings. `now` is in Unix seconds.
    pub fn check(
        request: &HandshakeRequest,
        fingerprint: Fingerprint,
        now: u64,
        max_age_secs: u64,
    ) -> Result<Self, Refusal> {
        if now > request.timestamp && now - request.timestamp >= max_age_secs {
            let age_secs = now - request.timestamp;
            return Err(Refusal::TooOld {
                age_secs,
                max_secs: max_age_secs,
            });
        }
        if request.timestamp > now.saturating_add(MAX_FUTURE_SKEW_SECS) {
            return Err(Refusal::FromFuture {
                ahead_secs: request.timestamp - now,
            });
        }
        let nonce = Nonce::from_hex(&request.nonce).ok_or(Refusal::NonceShape)?;
        let signature = decode_signature(&request.signature).ok_or(Refusal::InvalidSignature)?;
        let hotkey =
            PublicKey::from_ss58(&request.validator_hotkey).map_err(|_| Refusal::InvalidHotkey)?;
        // A key has another address for every network. Who compares addresses afterwards (permits,
        // limits, replacement) would take each of them for a validator of its own.
        if hotkey.to_ss58() != request.validator_hotkey {
            return Err(Refusal::InvalidHotkey);
        }
        let message = request_message(
            &request.validator_hotkey,
            request.timestamp,
            &request.nonce,
            &fingerprint.to_base64(),
        );
        Ok(Self {
            hotkey,
            signature,
            message,
            nonce,
            timestamp: request.timestamp,
        })
    }

    /// Verifies the signature (tens of microseconds of CPU) and returns what
    /// [`NonceWindow::insert`](crate::nonce::NonceWindow::insert) wants to know.
    pub fn verify(&self) -> Result<(Nonce, u64), Refusal> {
        if self.hotkey.verify(self.message.as_bytes(), &self.signature) {
            Ok((self.nonce, self.timestamp))
        } else {
            Err(Refusal::InvalidSignature)
        }
    }
}

/// Why a client does not trust the answer to its handshake.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Distrust {
    /// The miner refused.
    #[error("handshake rejected by miner")]
    Rejected,
    /// Another miner answered.
    #[error("miner hotkey mismatch: expected {expected}, got {actual}")]
    WrongHotkey {
        /// The hotkey asked for.
        expected: String,
        /// The hotkey that answered.
        actual: String,
    },
    /// The miner signed for another certificate: somebody stands in between.
    #[error("certificate fingerprint mismatch between TLS session and handshake response")]
    WrongFingerprint,
    /// The answer names no certificate.
    #[error("handshake response lacks the certificate fingerprint")]
    NoFingerprint,
    /// The signature is missing, malformed or does not verify.
    #[error("miner response signature verification failed")]
    InvalidSignature,
}

/// A client's side of one handshake.
#[derive(Debug, Clone)]
pub struct ClientHandshake {
    validator_hotkey: String,
    timestamp: u64,
    nonce: String,
    fingerprint: String,
}

impl ClientHandshake {
    /// Begins a handshake. `now` is in Unix seconds; `nonce` must be random; `fingerprint` is of
    /// the certificate that the server showed in TLS.
    pub fn new(
        validator_hotkey: impl Into<String>,
        now: u64,
        nonce: Nonce,
        fingerprint: Fingerprint,
    ) -> Self {
        Self {
            validator_hotkey: validator_hotkey.into(),
            timestamp: now,
            nonce: nonce.to_hex(),
            fingerprint: fingerprint.to_base64(),
        }
    }

    /// Returns what the validator's hotkey has to sign.
    pub fn message(&self) -> String {
        request_message(
            &self.validator_hotkey,
            self.timestamp,
            &self.nonce,
            &self.fingerprint,
        )
    }

    /// Returns the request with its signature (64 bytes) in place.
    pub fn request(&self, signature: &[u8]) -> HandshakeRequest {
        HandshakeRequest {
            validator_hotkey: self.validator_hotkey.clone(),
            timestamp: self.timestamp,
            nonce: self.nonce.clone(),
            signature: BASE64_STANDARD.encode(signature),
        }
    }

    /// Checks the answer, its signature last (tens of microseconds of CPU).
    pub fn check(
        &self,
        response: &HandshakeResponse,
        expected_hotkey: &str,
    ) -> Result<(), Distrust> {
        if !response.accepted {
            return Err(Distrust::Rejected);
        }
        if response.miner_hotkey != expected_hotkey {
            return Err(Distrust::WrongHotkey {
                expected: expected_hotkey.to_owned(),
                actual: response.miner_hotkey.clone(),
            });
        }
        match &response.cert_fingerprint {
            Some(fingerprint) if *fingerprint == self.fingerprint => {}
            Some(_) => return Err(Distrust::WrongFingerprint),
            None => return Err(Distrust::NoFingerprint),
        }
        let miner =
            PublicKey::from_ss58(&response.miner_hotkey).map_err(|_| Distrust::InvalidSignature)?;
        let signature = decode_signature(&response.signature).ok_or(Distrust::InvalidSignature)?;
        let message = response_message(
            &self.validator_hotkey,
            &response.miner_hotkey,
            response.timestamp,
            &self.nonce,
            &self.fingerprint,
        );
        if miner.verify(message.as_bytes(), &signature) {
            Ok(())
        } else {
            Err(Distrust::InvalidSignature)
        }
    }
}

/// Returns what a server has to sign to accept `request`. `now` is in Unix seconds.
pub fn acceptance_message(
    request: &HandshakeRequest,
    miner_hotkey: &str,
    now: u64,
    fingerprint: Fingerprint,
) -> String {
    response_message(
        &request.validator_hotkey,
        miner_hotkey,
        now,
        &request.nonce,
        &fingerprint.to_base64(),
    )
}

/// Returns the acceptance with its signature (64 bytes) in place.
pub fn acceptance(
    miner_hotkey: &str,
    now: u64,
    fingerprint: Fingerprint,
    connection_id: &str,
    signature: &[u8],
) -> HandshakeResponse {
    HandshakeResponse {
        miner_hotkey: miner_hotkey.to_owned(),
        timestamp: now,
        signature: BASE64_STANDARD.encode(signature),
        accepted: true,
        connection_id: connection_id.to_owned(),
        cert_fingerprint: Some(fingerprint.to_base64()),
    }
}

/// Returns the text that a validator signs.
///
/// No field can hold the separator: SS58 is base58, nonces are hex, fingerprints base64.
pub fn request_message(
    validator_hotkey: &str,
    timestamp: u64,
    nonce: &str,
    fingerprint_b64: &str,
) -> String {
    format!("{REQUEST_DOMAIN}:{validator_hotkey}:{timestamp}:{nonce}:{fingerprint_b64}")
}

/// Returns the text that a miner signs.
pub fn response_message(
    validator_hotkey: &str,
    miner_hotkey: &str,
    timestamp: u64,
    nonce: &str,
    fingerprint_b64: &str,
) -> String {
    format!(
        "{RESPONSE_DOMAIN}:{validator_hotkey}:{miner_hotkey}:{timestamp}:{nonce}:{fingerprint_b64}"
    )
}

fn decode_signature(text: &str) -> Option<[u8; 64]> {
    BASE64_STANDARD.decode(text).ok()?.try_into().ok()
}

const REQUEST_DOMAIN: &str = "handshake";
const RESPONSE_DOMAIN: &str = "handshake_response";

#[cfg(test)]
mod tests;
