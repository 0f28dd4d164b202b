//! Messages and addresses as existing code knows them, with dynamic values.

mod message_type;

use std::{collections::HashMap, fmt};

use btlightning_proto::{Payload, frame};
pub use btlightning_proto::{
    limits::DEFAULT_MAX_FRAME_PAYLOAD,
    message::{HandshakeRequest, HandshakeResponse, StreamEnd},
};
pub use message_type::MessageType;
use quinn::{RecvStream, SendStream};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    error::{LightningError, Result},
    io::{self, FrameReader},
};

/// Where a miner listens and who it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct QuicAxonInfo {
    /// SS58 address of the miner's hotkey.
    pub hotkey: String,
    /// IPv4 or IPv6 address.
    pub ip: String,
    /// UDP port.
    pub port: u16,
    /// Protocol number published on the chain; 4 is QUIC.
    pub protocol: u8,
}

impl QuicAxonInfo {
    /// Describes the miner `hotkey` at `ip` and `port`.
    pub fn new(hotkey: String, ip: String, port: u16, protocol: u8) -> Self {
        Self {
            hotkey,
            ip,
            port,
            protocol,
        }
    }

    /// Returns the address under which connections are kept.
    pub fn addr_key(&self) -> PeerAddr {
        PeerAddr::new(&self.ip, self.port)
    }
}

/// An address and port as text, `ip:port` or `[ip]:port`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PeerAddr(String);

impl PeerAddr {
    /// Joins an address and a port.
    pub fn new(ip: &str, port: u16) -> Self {
        if ip.contains(':') && !ip.starts_with('[') {
            Self(format!("[{ip}]:{port}"))
        } else {
            Self(format!("{ip}:{port}"))
        }
    }
}

impl fmt::Display for PeerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for PeerAddr {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// A request with dynamic values.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QuicRequest {
    /// Which handler it is for.
    pub synapse_type: String,
    /// What it carries.
    pub data: HashMap<String, rmpv::Value>,
}

impl QuicRequest {
    /// Makes a request for the handler `synapse_type`.
    pub fn new(synapse_type: String, data: HashMap<String, rmpv::Value>) -> Self {
        Self { synapse_type, data }
    }

    /// Makes a request from a struct or a map.
    ///
    /// [`LightningClient::call`](crate::LightningClient::call) sends typed values without the map
    /// of dynamic values in between.
    pub fn from_typed<T: Serialize>(synapse_type: impl Into<String>, data: &T) -> Result<Self> {
        Ok(Self {
            synapse_type: synapse_type.into(),
            data: Payload::from_typed(data)?.to_map()?,
        })
    }
}

/// An answer with dynamic values.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QuicResponse {
    /// Whether the handler succeeded.
    pub success: bool,
    /// What the handler returned.
    pub data: HashMap<String, rmpv::Value>,
    /// Time from opening the stream to the answer, in milliseconds.
    pub latency_ms: f64,
    /// The server's word on what went wrong.
    #[serde(default)]
    pub error: Option<String>,
}

impl QuicResponse {
    /// Turns an answer without success into [`LightningError::Handler`].
    pub fn into_result(self) -> Result<Self> {
        if self.success {
            return Ok(self);
        }
        Err(LightningError::Handler(
            self.error.unwrap_or_else(|| "request failed".into()),
        ))
    }

    /// Deserializes what the handler returned.
    pub fn deserialize_data<T: DeserializeOwned>(&self) -> Result<T> {
        Ok(Payload::from_map(&self.data)?.deserialize()?)
    }
}

/// A request as it travels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SynapsePacket {
    /// Which handler it is for.
    pub synapse_type: String,
    /// What it carries.
    pub data: HashMap<String, rmpv::Value>,
    /// When it was sent, in Unix seconds.
    pub timestamp: u64,
}

/// An answer as it travels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SynapseResponse {
    /// Whether the handler succeeded.
    pub success: bool,
    /// What the handler returned.
    pub data: HashMap<String, rmpv::Value>,
    /// When it was sent, in Unix seconds.
    pub timestamp: u64,
    /// The server's word on what went wrong.
    pub error: Option<String>,
}

/// A piece of a stream as it travels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamChunk {
    /// The bytes.
    #[serde(with = "serde_bytes")]
    pub data: Vec<u8>,
}

/// Splits a frame into its type and payload.
///
/// # Errors
///
/// [`LightningError::Transport`] for a frame that is cut short, of an unknown type, or with a
/// payload over `max_payload` bytes.
pub fn parse_frame_header(data: &[u8], max_payload: usize) -> Result<(MessageType, &[u8])> {
    let (kind, payload) = frame::parse(data, max_payload)?;
    Ok((kind.try_into()?, payload))
}

/// Reads one frame with a payload of at most `max_payload` bytes.
///
/// Memory is taken as data arrives. What the stream holds behind the frame may be lost.
///
/// # Cancel safety
///
/// Not cancel safe: bytes already read are lost.
pub async fn read_frame(
    recv: &mut RecvStream,
    max_payload: usize,
) -> Result<(MessageType, Vec<u8>)> {
    let (kind, payload) = FrameReader::new(recv).expect_frame(max_payload).await?;
    Ok((kind.try_into()?, payload.into()))
}

/// Writes one frame.
///
/// # Cancel safety
///
/// Not cancel safe: a part of the frame may have been written.
pub async fn write_frame(
    send: &mut SendStream,
    msg_type: MessageType,
    payload: &[u8],
) -> Result<()> {
    let header = frame::FrameHeader {
        kind: msg_type.into(),
        len: payload.len(),
    }
    .encode()?;
    io::write_all(send, &header).await?;
    io::write_all(send, payload).await
}

/// Writes one frame and ends the stream.
///
/// # Cancel safety
///
/// Not cancel safe: a part of the frame may have been written.
pub async fn write_frame_and_finish(
    send: &mut SendStream,
    msg_type: MessageType,
    payload: &[u8],
) -> Result<()> {
    write_frame(send, msg_type, payload).await?;
    send.finish()
        .map_err(|e| LightningError::Transport(format!("cannot finish the stream: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_both_families() {
        assert_eq!(PeerAddr::new("192.0.2.1", 80).as_ref(), "192.0.2.1:80");
        assert_eq!(
            PeerAddr::new("2001:db8::1", 80).to_string(),
            "[2001:db8::1]:80"
        );
        assert_eq!(
            PeerAddr::new("[2001:db8::1]", 80).to_string(),
            "[2001:db8::1]:80"
        );
    }

    #[test]
    fn frames_cut_short_are_transport_errors() {
        let error = parse_frame_header(&[3, 0, 0, 0, 9, 1], 100).unwrap_err();
        assert!(matches!(error, LightningError::Transport(_)), "{error}");
    }
}
