//! Why a connection or a stream was ended: application error codes and reasons.

/// A reason for closing a connection, sent in CONNECTION_CLOSE ([RFC 9000, section 19.19]).
///
/// The reasons that published peers know travel with code 0, as those peers send them; the others
/// have a code of their own.
///
/// [RFC 9000, section 19.19]: https://www.rfc-editor.org/rfc/rfc9000#section-19.19
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CloseReason {
    /// The same hotkey authenticated on another connection.
    Replaced,
    /// The other side ended the connection first.
    Done,
    /// The client shut down.
    ClientShutdown,
    /// The miner's last hotkey at this address left the registry.
    MinerDeregistered,
    /// The miner's last hotkey at this address moved elsewhere.
    MinerAddrChanged,
    /// No hotkey at this address could be authenticated.
    NoAuthenticatedHotkeys,
    /// The server shut down; requests it had not answered were not completed.
    ServerShutdown,
    /// The connection was idle for longer than its owner allows.
    Cleanup,
    /// No handshake succeeded within the time for it.
    HandshakeTimeout,
    /// The peer broke the rules of the protocol before it authenticated.
    ProtocolViolation,
}

impl CloseReason {
    /// Every reason.
    pub const ALL: [Self; 10] = [
        Self::Replaced,
        Self::Done,
        Self::ClientShutdown,
        Self::MinerDeregistered,
        Self::MinerAddrChanged,
        Self::NoAuthenticatedHotkeys,
        Self::ServerShutdown,
        Self::Cleanup,
        Self::HandshakeTimeout,
        Self::ProtocolViolation,
    ];

    /// Returns the application error code.
    pub fn code(self) -> u32 {
        match self {
            Self::HandshakeTimeout => 0x10,
            Self::ProtocolViolation => 0x11,
            _ => 0,
        }
    }

    /// Returns the reason phrase.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Replaced => "replaced",
            Self::Done => "done",
            Self::ClientShutdown => "client_shutdown",
            Self::MinerDeregistered => "miner_deregistered",
            Self::MinerAddrChanged => "miner_addr_changed",
            Self::NoAuthenticatedHotkeys => "no_authenticated_hotkeys",
            Self::ServerShutdown => "server_shutdown",
            Self::Cleanup => "cleanup",
            Self::HandshakeTimeout => "handshake_timeout",
            Self::ProtocolViolation => "protocol_violation",
        }
    }

    /// Returns the reason that a received phrase stands for, if it is one of ours.
    pub fn from_phrase(phrase: &[u8]) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|r| r.as_str().as_bytes() == phrase)
    }
}

/// Error codes on single streams (RESET_STREAM, STOP_SENDING).
pub mod stream {
    /// The request or the wait for its answer was dropped by its caller.
    pub const CANCELLED: u32 = 0;
    /// The frame was larger than the receiver allows, or not a frame that may come here.
    pub const REFUSED: u32 = 1;
    /// No frame came in the time for it.
    pub const TIMED_OUT: u32 = 2;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phrases_round_trip() {
        for reason in CloseReason::ALL {
            assert_eq!(
                CloseReason::from_phrase(reason.as_str().as_bytes()),
                Some(reason)
            );
        }
        assert_eq!(CloseReason::from_phrase(b"something else"), None);
    }

    #[test]
    fn reasons_known_to_published_peers_keep_code_zero() {
        assert_eq!(CloseReason::Replaced.code(), 0);
        assert_eq!(CloseReason::ServerShutdown.code(), 0);
        assert_ne!(CloseReason::HandshakeTimeout.code(), 0);
    }
}
