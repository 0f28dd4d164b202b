//! The messages: encoded straight into frames, decoded as views of the frame they came in.
//!
//! Structs travel as MessagePack arrays in field order; decoders also take maps keyed by field
//! name, in any order and with unknown fields ignored.

mod body;
mod encoded;

use bytes::{BufMut, Bytes};
use rmp::encode;
use serde::{Deserialize, Serialize};

pub use body::{FrameBody, Large, find_large};
pub use encoded::EncodedFrame;

use crate::{
    error::ProtoError,
    frame::MessageType,
    msgpack::{self, Scanner},
    payload::{self, Payload},
};

/// A request as received: a view of its frame.
#[derive(Debug, Clone)]
pub struct Request {
    synapse_type: Bytes,
    data: Payload,
    timestamp: u64,
    timeout_ms: Option<u64>,
}

impl Request {
    /// Decodes the payload of a [`MessageType::SynapsePacket`] frame.
    pub fn decode(payload: Bytes) -> Result<Self, ProtoError> {
        Self::decode_fields(payload, &PACKET_FIELDS)
    }

    /// Decodes the payload of a [`MessageType::SynapsePacket`] frame as it was received.
    pub fn decode_body(body: FrameBody) -> Result<Self, ProtoError> {
        body.decode(Self::decode, |request| &mut request.data)
    }

    /// Decodes the payload of a [`MessageType::DuplexOpen`] frame.
    pub fn decode_duplex(payload: Bytes) -> Result<Self, ProtoError> {
        Self::decode_fields(payload, &DUPLEX_FIELDS)
    }

    /// Which handler the request is for.
    pub fn synapse_type(&self) -> &str {
        // Checked when it was decoded.
        std::str::from_utf8(&self.synapse_type).unwrap_or_default()
    }

    /// What the request carries.
    pub fn data(&self) -> &Payload {
        &self.data
    }

    /// When the client says it sent the request, in Unix seconds.
    pub fn timestamp(&self) -> u64 {
        self.timestamp
    }

    /// How long the client will wait, in milliseconds, where it said so.
    pub fn timeout_ms(&self) -> Option<u64> {
        self.timeout_ms
    }

    /// Returns what the request carries, and drops the rest.
    pub fn into_data(self) -> Payload {
        self.data
    }

    fn decode_fields(frame: Bytes, names: &[&'static str]) -> Result<Self, ProtoError> {
        let mut synapse_type = None;
        let mut data = None;
        let mut timestamp = None;
        let mut timeout_ms = None;
        decode_struct(&frame, names, 0, |index, scanner| {
            match index {
                0 => {
                    let text = scanner
                        .str_bytes()?
                        .filter(|b| std::str::from_utf8(b).is_ok());
                    synapse_type = Some(frame.slice_ref(text.ok_or(ProtoError::Field {
                        field: "synapse_type",
                        expected: "a string",
                    })?));
                }
                1 => {
                    let start = scanner.pos();
                    payload::skip_data(scanner)?;
                    data = Some(Payload::from_checked(frame.slice(start..scanner.pos())));
                }
                2 => timestamp = Some(uint(scanner, "timestamp")?),
                _ => {
                    timeout_ms = if scanner.nil() {
                        None
                    } else {
                        Some(uint(scanner, "timeout_ms")?)
                    }
                }
            }
            Ok(())
        })?;
        Ok(Self {
            synapse_type: synapse_type.ok_or(ProtoError::MissingField("synapse_type"))?,
            data: data.ok_or(ProtoError::MissingField("data"))?,
            timestamp: timestamp.ok_or(ProtoError::MissingField("timestamp"))?,
            timeout_ms,
        })
    }
}

/// An answer: what the handler returned, or why there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// Whether the handler succeeded.
    pub success: bool,
    /// What the handler returned.
    pub data: Payload,
    /// When the server answered, in Unix seconds.
    pub timestamp: u64,
    /// The server's word on what went wrong.
    pub error: Option<String>,
}

impl Response {
    /// An answer that says only what went wrong.
    pub fn failure(error: impl Into<String>, timestamp: u64) -> Self {
        Self {
            success: false,
            data: Payload::empty(),
            timestamp,
            error: Some(error.into()),
        }
    }

    /// Returns what the handler returned, or the server's word on what went wrong.
    pub fn into_result(self) -> Result<Payload, String> {
        if self.success {
            return Ok(self.data);
        }
        Err(self.error.unwrap_or_else(|| "request failed".into()))
    }

    /// Decodes the payload of a [`MessageType::SynapseResponse`] frame.
    pub fn decode(frame: Bytes) -> Result<Self, ProtoError> {
        let (mut success, mut data, mut timestamp, mut error) = (None, None, None, None);
        decode_struct(&frame, &RESPONSE_FIELDS, 0, |index, scanner| {
            match index {
                0 => success = Some(boolean(scanner, "success")?),
                1 => {
                    let start = scanner.pos();
                    payload::skip_data(scanner)?;
                    data = Some(Payload::from_checked(frame.slice(start..scanner.pos())));
                }
                2 => timestamp = Some(uint(scanner, "timestamp")?),
                _ => error = text_or_nil(scanner, "error")?,
            }
            Ok(())
        })?;
        Ok(Self {
            success: success.ok_or(ProtoError::MissingField("success"))?,
            data: data.ok_or(ProtoError::MissingField("data"))?,
            timestamp: timestamp.ok_or(ProtoError::MissingField("timestamp"))?,
            error,
        })
    }

    /// Decodes the payload of a [`MessageType::SynapseResponse`] frame as it was received.
    pub fn decode_body(body: FrameBody) -> Result<Self, ProtoError> {
        body.decode(Self::decode, |response| &mut response.data)
    }

    /// Encodes the answer as a [`MessageType::SynapseResponse`] frame.
    pub fn encode(&self) -> Result<EncodedFrame, ProtoError> {
        let mut after = Vec::with_capacity(16);
        put_uint(&mut after, self.timestamp);
        put_text_or_nil(&mut after, self.error.as_deref())?;
        let before = [0x94, if self.success { 0xc3 } else { 0xc2 }];
        EncodedFrame::around(
            MessageType::SynapseResponse,
            &before,
            self.data.pieces(),
            &after,
        )
    }
}

/// Validator to miner: proves the validator's hotkey on this connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandshakeRequest {
    /// SS58 address of the validator's hotkey.
    pub validator_hotkey: String,
    /// When it was signed, in Unix seconds.
    pub timestamp: u64,
    /// 128 random bits in 32 hex characters.
    pub nonce: String,
    /// Base64 of the 64-byte sr25519 signature over
    /// [`request_message`](crate::handshake::request_message).
    pub signature: String,
}

/// Miner to validator: proves the miner's hotkey, or refuses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandshakeResponse {
    /// SS58 address of the miner's hotkey; empty when refused before a signature was checked.
    pub miner_hotkey: String,
    /// When it was signed, in Unix seconds.
    pub timestamp: u64,
    /// Base64 of the signature over
    /// [`response_message`](crate::handshake::response_message); empty when refused.
    pub signature: String,
    /// Whether the validator may send requests on this connection now.
    pub accepted: bool,
    /// Names the authenticated connection in logs on both sides.
    pub connection_id: String,
    /// Base64 of the BLAKE2b-256 of the server's certificate; `None` when refused.
    #[serde(default)]
    pub cert_fingerprint: Option<String>,
}

impl HandshakeResponse {
    /// A refusal. `miner_hotkey` stays empty until the request's signature was checked.
    pub fn rejected(miner_hotkey: impl Into<String>, timestamp: u64) -> Self {
        Self {
            miner_hotkey: miner_hotkey.into(),
            timestamp,
            signature: String::new(),
            accepted: false,
            connection_id: String::new(),
            cert_fingerprint: None,
        }
    }
}

/// The end of a stream of chunks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamEnd {
    /// Whether the stream is whole.
    pub success: bool,
    /// Why it is not.
    pub error: Option<String>,
}

impl StreamEnd {
    /// The end of a whole stream.
    pub fn ok() -> Self {
        Self {
            success: true,
            error: None,
        }
    }

    /// The end of a stream that broke off.
    pub fn failure(error: impl Into<String>) -> Self {
        Self {
            success: false,
            error: Some(error.into()),
        }
    }
}

/// Encodes a request for the handler `synapse_type` as a [`MessageType::SynapsePacket`] frame.
pub fn encode_request(
    synapse_type: &str,
    data: &Payload,
    timestamp: u64,
) -> Result<EncodedFrame, ProtoError> {
    let (before, after) = around_data(0x93, synapse_type, timestamp)?;
    EncodedFrame::around(MessageType::SynapsePacket, &before, data.pieces(), &after)
}

/// Encodes a request that chunks follow, as a [`MessageType::DuplexOpen`] frame.
pub fn encode_duplex_open(
    synapse_type: &str,
    data: &Payload,
    timestamp: u64,
    timeout_ms: Option<u64>,
) -> Result<EncodedFrame, ProtoError> {
    let (before, mut after) = around_data(0x94, synapse_type, timestamp)?;
    match timeout_ms {
        Some(ms) => put_uint(&mut after, ms),
        None => after.put_u8(0xc0),
    }
    EncodedFrame::around(MessageType::DuplexOpen, &before, data.pieces(), &after)
}

/// Encodes a piece of a stream as a [`MessageType::StreamChunk`] frame.
pub fn encode_chunk(data: &Bytes) -> Result<EncodedFrame, ProtoError> {
    let len = u32::try_from(data.len()).map_err(|_| ProtoError::FrameTooLarge {
        len: data.len() as u64,
        max: u32::MAX.into(),
    })?;
    let mut before = vec![0x91];
    encode::write_bin_len(&mut before, len).map_err(|e| ProtoError::Serialize(e.to_string()))?;
    let none = &Bytes::new();
    EncodedFrame::around(MessageType::StreamChunk, &before, [none, data, none], &[])
}

/// Decodes the payload of a [`MessageType::StreamChunk`] frame; the result is a slice of it.
pub fn decode_chunk(frame: &Bytes) -> Result<Bytes, ProtoError> {
    let mut data = None;
    decode_struct(frame, &["data"], 0, |_, scanner| {
        let content = scanner.bin()?.ok_or(ProtoError::Field {
            field: "data",
            expected: "binary data",
        })?;
        data = Some(frame.slice_ref(content));
        Ok(())
    })?;
    data.ok_or(ProtoError::MissingField("data"))
}

/// Encodes the end of a stream as a [`MessageType::StreamEnd`] frame.
pub fn encode_stream_end(end: &StreamEnd) -> Result<EncodedFrame, ProtoError> {
    let mut body = vec![0x92, if end.success { 0xc3 } else { 0xc2 }];
    put_text_or_nil(&mut body, end.error.as_deref())?;
    EncodedFrame::of(MessageType::StreamEnd, &body)
}

/// Decodes the payload of a [`MessageType::StreamEnd`] frame.
pub fn decode_stream_end(frame: &[u8]) -> Result<StreamEnd, ProtoError> {
    let (mut success, mut error) = (None, None);
    decode_struct(frame, &["success", "error"], 0, |index, scanner| {
        match index {
            0 => success = Some(boolean(scanner, "success")?),
            _ => error = text_or_nil(scanner, "error")?,
        }
        Ok(())
    })?;
    Ok(StreamEnd {
        success: success.ok_or(ProtoError::MissingField("success"))?,
        error,
    })
}

/// Encodes a [`MessageType::LaneOpen`] frame.
pub fn encode_lane_open() -> Result<EncodedFrame, ProtoError> {
    EncodedFrame::of(MessageType::LaneOpen, &[])
}

/// Checks the payload of a [`MessageType::LaneOpen`] frame, which is empty.
pub fn decode_lane_open(frame: &[u8]) -> Result<(), ProtoError> {
    if frame.is_empty() {
        Ok(())
    } else {
        Err(ProtoError::TrailingBytes(frame.len()))
    }
}

/// Encodes a [`MessageType::HandshakeRequest`] frame.
pub fn encode_handshake_request(message: &HandshakeRequest) -> Result<EncodedFrame, ProtoError> {
    encode_small(MessageType::HandshakeRequest, message)
}

/// Decodes the payload of a [`MessageType::HandshakeRequest`] frame.
pub fn decode_handshake_request(frame: &[u8]) -> Result<HandshakeRequest, ProtoError> {
    decode_small(frame)
}

/// Encodes a [`MessageType::HandshakeResponse`] frame.
pub fn encode_handshake_response(message: &HandshakeResponse) -> Result<EncodedFrame, ProtoError> {
    encode_small(MessageType::HandshakeResponse, message)
}

/// Decodes the payload of a [`MessageType::HandshakeResponse`] frame.
pub fn decode_handshake_response(frame: &[u8]) -> Result<HandshakeResponse, ProtoError> {
    decode_small(frame)
}

fn encode_small<T: Serialize>(kind: MessageType, message: &T) -> Result<EncodedFrame, ProtoError> {
    let body = rmp_serde::to_vec(message).map_err(|e| ProtoError::Serialize(e.to_string()))?;
    EncodedFrame::of(kind, &body)
}

fn decode_small<'de, T: Deserialize<'de>>(frame: &'de [u8]) -> Result<T, ProtoError> {
    let summary = msgpack::validate(frame)?;
    if summary.len != frame.len() {
        return Err(ProtoError::TrailingBytes(frame.len() - summary.len));
    }
    rmp_serde::from_slice(frame).map_err(|e| ProtoError::Deserialize(e.to_string()))
}

/// What stands before the data map and behind it.
fn around_data(
    array: u8,
    synapse_type: &str,
    timestamp: u64,
) -> Result<(Vec<u8>, Vec<u8>), ProtoError> {
    let mut before = Vec::with_capacity(synapse_type.len() + 6);
    before.push(array);
    encode::write_str(&mut before, synapse_type)
        .map_err(|e| ProtoError::Serialize(e.to_string()))?;
    let mut after = Vec::with_capacity(9);
    put_uint(&mut after, timestamp);
    Ok((before, after))
}

/// Walks the fields of a struct that is an array in order or a map by name.
///
/// The last `optional` fields may be missing from an array.
fn decode_struct(
    frame: &[u8],
    names: &[&'static str],
    optional: usize,
    mut field: impl FnMut(usize, &mut Scanner<'_>) -> Result<(), ProtoError>,
) -> Result<(), ProtoError> {
    let mut scanner = Scanner::new(frame);
    if let Some(len) = scanner.array()? {
        if len > names.len() || len + optional < names.len() {
            return Err(ProtoError::Field {
                field: "message",
                expected: "another number of fields",
            });
        }
        for index in 0..len {
            field(index, &mut scanner)?;
        }
    } else if let Some(len) = scanner.map()? {
        let mut seen = 0u32;
        for _ in 0..len {
            let key = scanner.str_bytes()?.ok_or(ProtoError::Field {
                field: "message",
                expected: "string keys",
            })?;
            match names.iter().position(|name| name.as_bytes() == key) {
                Some(index) if seen & 1 << index != 0 => {
                    return Err(ProtoError::Field {
                        field: names[index],
                        expected: "one entry",
                    });
                }
                Some(index) => {
                    seen |= 1 << index;
                    field(index, &mut scanner)?;
                }
                None => scanner.skip()?,
            }
        }
    } else {
        return Err(ProtoError::Field {
            field: "message",
            expected: "an array or a map",
        });
    }
    scanner.finish()
}

fn uint(scanner: &mut Scanner<'_>, field: &'static str) -> Result<u64, ProtoError> {
    scanner.uint()?.ok_or(ProtoError::Field {
        field,
        expected: "an unsigned integer",
    })
}

fn boolean(scanner: &mut Scanner<'_>, field: &'static str) -> Result<bool, ProtoError> {
    scanner.bool().ok_or(ProtoError::Field {
        field,
        expected: "a boolean",
    })
}

fn text_or_nil(
    scanner: &mut Scanner<'_>,
    field: &'static str,
) -> Result<Option<String>, ProtoError> {
    if scanner.nil() {
        return Ok(None);
    }
    let wrong = ProtoError::Field {
        field,
        expected: "a string or nil",
    };
    let Some(bytes) = scanner.str_bytes()? else {
        return Err(wrong);
    };
    String::from_utf8(bytes.to_vec())
        .map(Some)
        .map_err(|_| wrong)
}

fn put_uint(out: &mut Vec<u8>, value: u64) {
    // Writing to a vector cannot fail.
    let _ = encode::write_uint(out, value);
}

fn put_text_or_nil(out: &mut Vec<u8>, text: Option<&str>) -> Result<(), ProtoError> {
    match text {
        Some(text) => {
            encode::write_str(out, text).map_err(|e| ProtoError::Serialize(e.to_string()))
        }
        None => {
            out.put_u8(0xc0);
            Ok(())
        }
    }
}

const PACKET_FIELDS: [&str; 3] = ["synapse_type", "data", "timestamp"];
const DUPLEX_FIELDS: [&str; 4] = ["synapse_type", "data", "timestamp", "timeout_ms"];
const RESPONSE_FIELDS: [&str; 4] = ["success", "data", "timestamp", "error"];
