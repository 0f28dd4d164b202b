//! What can go wrong: [`LightningError`] for code written for the published package,
//! [`CallError`] for code that wants to know what failed and what to do about it.

use std::{fmt, sync::Arc, time::Duration};

use btlightning_proto::{ProtoError, handshake::Distrust};

use crate::types::PeerAddr;

/// Errors of Lightning operations, by subject, with a text for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LightningError {
    /// A connection could not be made or was lost.
    #[error("connection error: {0}")]
    Connection(String),
    /// Validator and miner could not authenticate each other.
    #[error("handshake error: {0}")]
    Handshake(String),
    /// The hotkey could not sign.
    #[error("signing error: {0}")]
    Signing(String),
    /// A value could not be turned into MessagePack or back.
    #[error("serialization error: {0}")]
    Serialization(String),
    /// A message could not be sent or received.
    #[error("transport error: {0}")]
    Transport(String),
    /// A handler failed.
    #[error("handler error: {0}")]
    Handler(String),
    /// A setting is invalid; the text names it.
    #[error("config error: {0}")]
    Config(String),
    /// A stream of chunks broke off.
    #[error("stream error: {0}")]
    Stream(String),
}

/// The result of a Lightning operation.
pub type Result<T> = std::result::Result<T, LightningError>;

impl LightningError {
    /// Makes a [`LightningError::Handler`] of anything that can be shown.
    pub fn handler(e: impl fmt::Display) -> Self {
        Self::Handler(e.to_string())
    }
}

impl From<ProtoError> for LightningError {
    fn from(error: ProtoError) -> Self {
        let text = error.to_string();
        match error {
            ProtoError::UnknownType(_)
            | ProtoError::FrameTooLarge { .. }
            | ProtoError::Truncated { .. } => Self::Transport(text),
            _ => Self::Serialization(text),
        }
    }
}

impl From<CallError> for LightningError {
    fn from(error: CallError) -> Self {
        let text = error.kind.to_string();
        match &error.kind {
            CallErrorKind::Config(_) => Self::Config(text),
            CallErrorKind::Signing(_) => Self::Signing(text),
            CallErrorKind::Encode(_) | CallErrorKind::Decode(_) => Self::Serialization(text),
            CallErrorKind::Remote(message) => Self::Handler(message.clone()),
            CallErrorKind::StreamBroken(_) | CallErrorKind::StreamRefused(_) => Self::Stream(text),
            _ => match error.phase {
                Phase::Dial => Self::Connection(text),
                Phase::Handshake => Self::Handshake(text),
                Phase::Send | Phase::Wait => Self::Transport(text),
            },
        }
    }
}

/// The part of a call that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Before there was a connection.
    Dial,
    /// While the two sides authenticated each other.
    Handshake,
    /// Before the request was sent whole: the handler has not run.
    Send,
    /// After the request was sent: the handler may have run.
    Wait,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dial => "dial",
            Self::Handshake => "handshake",
            Self::Send => "send",
            Self::Wait => "wait",
        })
    }
}

/// Why a call failed: in which phase, with which peer, and whether it may be made again.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{phase} failed for {hotkey} at {addr}: {kind}")]
pub struct CallError {
    phase: Phase,
    hotkey: Box<str>,
    addr: Box<str>,
    #[source]
    kind: CallErrorKind,
}

impl CallError {
    pub(crate) fn new(phase: Phase, hotkey: &str, addr: &PeerAddr, kind: CallErrorKind) -> Self {
        Self {
            phase,
            hotkey: hotkey.into(),
            addr: addr.as_ref().into(),
            kind,
        }
    }

    /// Returns the part of the call that failed.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Returns the hotkey that was called.
    pub fn hotkey(&self) -> &str {
        &self.hotkey
    }

    /// Returns the address that was called, as `ip:port`.
    pub fn addr(&self) -> &str {
        &self.addr
    }

    /// Returns what went wrong.
    pub fn kind(&self) -> &CallErrorKind {
        &self.kind
    }

    /// Whether the handler has certainly not run, so that the same request cannot be executed
    /// twice by sending it again.
    pub fn is_retry_safe(&self) -> bool {
        match &self.kind {
            CallErrorKind::Remote(message) | CallErrorKind::StreamRefused(message) => {
                not_executed(message)
            }
            _ => self.phase != Phase::Wait,
        }
    }

    /// Whether the time for a phase ran out.
    pub fn is_timeout(&self) -> bool {
        matches!(self.kind, CallErrorKind::Timeout { .. })
    }
}

/// What went wrong in a call.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum CallErrorKind {
    /// The client is not set up for it.
    #[error("{0}")]
    Config(String),
    /// The endpoint was not created: call `create_endpoint` or `initialize_connections` first.
    #[error("QUIC endpoint not initialized")]
    NotInitialized,
    /// As many addresses as allowed are connected.
    #[error("connection limit ({0}) reached")]
    ConnectionLimit(usize),
    /// The address is not an IP address and port.
    #[error("invalid address: {0}")]
    InvalidAddress(String),
    /// The last attempts failed and the next one is not due.
    #[error("reconnection in backoff, next retry in {retry_in:?}")]
    Backoff {
        /// When the next attempt is due.
        retry_in: Duration,
    },
    /// All attempts failed; a registry update allows new ones.
    #[error("reconnection attempts exhausted ({attempts}), awaiting registry refresh")]
    Exhausted {
        /// How many there were.
        attempts: u32,
    },
    /// The connection is live, but this hotkey was not authenticated on it.
    #[error("no authenticated route to this hotkey at this address")]
    NotAuthenticated,
    /// The hotkey could not sign.
    #[error("{0}")]
    Signing(String),
    /// The miner's answer to the handshake cannot be trusted, or it refused.
    #[error(transparent)]
    Distrust(Distrust),
    /// The time for this phase ran out.
    #[error("{what} timed out after {after:?}")]
    Timeout {
        /// What took too long.
        what: &'static str,
        /// The time it had.
        after: Duration,
    },
    /// QUIC could not dial.
    #[error("cannot dial: {0}")]
    Dial(#[source] Arc<quinn::ConnectError>),
    /// The QUIC connection was refused or lost.
    #[error("connection lost: {0}")]
    Lost(#[source] quinn::ConnectionError),
    /// The peer reset the stream with this code.
    #[error("stream reset by the peer (code {0})")]
    Reset(u64),
    /// The value cannot be sent.
    #[error("cannot encode the request: {0}")]
    Encode(#[source] ProtoError),
    /// What came back is not a message of the protocol, or does not fit the type asked for.
    #[error("cannot decode the answer: {0}")]
    Decode(#[source] ProtoError),
    /// The peer ended the stream within a message.
    #[error("stream closed after {have} of {need} bytes")]
    CutShort {
        /// Bytes that came.
        have: usize,
        /// Bytes the message has.
        need: usize,
    },
    /// Another message came than the one that may come here.
    #[error("{0}")]
    Unexpected(String),
    /// The peer's protocol lacks what was asked for.
    #[error(
        "the peer speaks only the protocol `btlightning`, which has no streams from the client"
    )]
    Unsupported,
    /// The miner answered that it failed; this is its text.
    #[error("the miner answered: {0}")]
    Remote(String),
    /// The miner broke off a stream of chunks; this is its text.
    #[error("{0}")]
    StreamBroken(String),
    /// The miner answered in place of a stream; this is its text.
    #[error("the server answered in place of a stream: {0}")]
    StreamRefused(String),
}

/// Answers that a server gives in place of running the handler.
fn not_executed(message: &str) -> bool {
    use crate::server::answer;
    [
        answer::AUTHENTICATION_FAILED,
        answer::INVALID_REQUEST,
        answer::UNRECOGNIZED_TYPE,
        answer::SHUTTING_DOWN,
    ]
    .contains(&message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_begin_as_in_the_published_package() {
        for (error, text) in [
            (
                LightningError::Connection("x".into()),
                "connection error: x",
            ),
            (LightningError::Handshake("x".into()), "handshake error: x"),
            (LightningError::Signing("x".into()), "signing error: x"),
            (
                LightningError::Serialization("x".into()),
                "serialization error: x",
            ),
            (LightningError::Transport("x".into()), "transport error: x"),
            (LightningError::handler("x"), "handler error: x"),
            (LightningError::Config("x".into()), "config error: x"),
            (LightningError::Stream("x".into()), "stream error: x"),
        ] {
            assert_eq!(error.to_string(), text);
        }
    }

    #[test]
    fn a_retry_is_safe_until_the_request_was_sent() {
        let addr = PeerAddr::new("192.0.2.1", 1);
        let lost = || CallErrorKind::Lost(quinn::ConnectionError::TimedOut);
        for phase in [Phase::Dial, Phase::Handshake, Phase::Send] {
            assert!(
                CallError::new(phase, "hk", &addr, lost()).is_retry_safe(),
                "{phase}"
            );
        }
        assert!(!CallError::new(Phase::Wait, "hk", &addr, lost()).is_retry_safe());
        let remote = |text: &str| {
            CallError::new(Phase::Wait, "hk", &addr, CallErrorKind::Remote(text.into()))
        };
        assert!(remote("server shutting down").is_retry_safe());
        assert!(!remote("request processing failed").is_retry_safe());
        assert!(!remote("handler timed out").is_retry_safe());
    }

    #[test]
    fn the_text_names_phase_and_peer() {
        let error = CallError::new(
            Phase::Wait,
            "5Abc",
            &PeerAddr::new("2001:db8::1", 9),
            CallErrorKind::Timeout {
                what: "query",
                after: Duration::from_secs(2),
            },
        );
        assert_eq!(
            error.to_string(),
            "wait failed for 5Abc at [2001:db8::1]:9: query timed out after 2s"
        );
        assert!(error.is_timeout());
    }
}
