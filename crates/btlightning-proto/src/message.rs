//! The messages: encoded straight into frames, decoded as views of the frame they came in.
//!
//! Structs travel as MessagePack arrays in field order; decoders also take maps keyed by field
//! name, in any order and with unknown fields ignored.

use bytes::{BufMut, Bytes, BytesMut};
use rmp::encode;
use serde::{Deserialize, Serialize};

use crate::{
    error::ProtoError,
    frame::{FrameHeader, HEADER_LEN, MessageType},
    msgpack::{self, Scanner},
    payload::{self, MIN_APART, Payload, Split},
};

/// A whole frame, ready to be written, in up to three pieces so that a large body is not copied.
#[derive(Debug, Clone)]
pub struct EncodedFrame {
    chunks: [Bytes; 3],
}

impl EncodedFrame {
    /// Returns the pieces in order; some may be empty.
    pub fn into_chunks(self) -> [Bytes; 3] {
        self.chunks
    }

    /// Returns the frame, unless its payload is longer than `max_payload` bytes.
    pub fn within(self, max_payload: usize) -> Result<Self, ProtoError> {
        let len = self.len() - HEADER_LEN;
        if len > max_payload {
            return Err(ProtoError::FrameTooLarge {
                len: len as u64,
                max: max_payload as u64,
            });
        }
        Ok(self)
    }

    /// Returns the length of the frame in bytes, header included.
    pub fn len(&self) -> usize {
        self.chunks.iter().map(Bytes::len).sum()
    }

    /// Whether there are no bytes at all, which no frame is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies the frame into one piece.
    pub fn to_vec(&self) -> Vec<u8> {
        self.chunks.concat()
    }

    /// Builds a frame from the pieces of a body and what stands before and behind them.
    fn around(
        kind: MessageType,
        before: &[u8],
        [first, large, last]: [&Bytes; 3],
        after: &[u8],
    ) -> Result<Self, ProtoError> {
        let head = HEADER_LEN + before.len() + first.len();
        let tail = last.len() + after.len();
        let len = head - HEADER_LEN + large.len() + tail;
        let header = FrameHeader { kind, len }.encode()?;
        let inline = large.len() <= INLINE_BODY;
        let mut bytes = BytesMut::with_capacity(if inline {
            HEADER_LEN + len
        } else {
            head + tail
        });
        bytes.put_slice(&header);
        bytes.put_slice(before);
        bytes.put_slice(first);
        if inline {
            bytes.put_slice(large);
        }
        let head = if inline {
            Bytes::new()
        } else {
            bytes.split().freeze()
        };
        bytes.put_slice(last);
        bytes.put_slice(after);
        let large = if inline { Bytes::new() } else { large.clone() };
        Ok(Self {
            chunks: [head, large, bytes.freeze()],
        })
    }

    /// Builds a frame whose payload is these bytes.
    fn of(kind: MessageType, payload: &[u8]) -> Result<Self, ProtoError> {
        let none = &Bytes::new();
        Self::around(kind, payload, [none, none, none], &[])
    }
}

/// A frame's payload as it was received.
#[derive(Debug, Clone)]
pub enum FrameBody {
    /// In one piece.
    Whole(Bytes),
    /// With the content of a large binary value apart from the rest; see [`find_large`].
    Apart {
        /// Everything before the content, the value's head included.
        before: Bytes,
        /// Where the value's head begins in `before`.
        value_start: usize,
        /// The content.
        content: Bytes,
        /// Everything behind it.
        after: Bytes,
    },
}

impl FrameBody {
    /// Returns the payload in one piece, copying what was apart.
    pub fn into_whole(self) -> Bytes {
        match self {
            Self::Whole(bytes) => bytes,
            Self::Apart {
                before,
                content,
                after,
                ..
            } => [before, content, after].concat().into(),
        }
    }

    /// Decodes with `decode`, which finds an empty value in the place of one that is apart, and
    /// puts the large value into the data.
    fn decode<T>(
        self,
        decode: impl FnOnce(Bytes) -> Result<T, ProtoError>,
        data: impl FnOnce(&mut T) -> &mut Payload,
    ) -> Result<T, ProtoError> {
        let (before, value_start, content, after) = match self {
            Self::Whole(bytes) => return decode(bytes),
            Self::Apart {
                before,
                value_start,
                content,
                after,
            } => (before, value_start, content, after),
        };
        let mut skeleton = Vec::with_capacity(value_start + EMPTY_BIN.len() + after.len());
        skeleton.extend_from_slice(&before[..value_start]);
        skeleton.extend_from_slice(&EMPTY_BIN);
        skeleton.extend_from_slice(&after);
        let skeleton = Bytes::from(skeleton);
        let mut message = decode(skeleton.clone())?;
        let data = data(&mut message);
        let start = data.as_bytes().as_ptr() as usize - skeleton.as_ptr() as usize;
        let behind = start + data.as_bytes().len() - value_start - EMPTY_BIN.len();
        *data = Payload::from_split(Split::new(
            before.slice(start..),
            content,
            after.slice(..behind),
        ));
        Ok(message)
    }
}

/// A large binary value that is an entry of a message's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Large<'a> {
    /// The type, if the message is a request.
    pub synapse_type: Option<&'a str>,
    /// Where the value's head begins in the payload.
    pub value_start: usize,
    /// Where its content begins.
    pub content_start: usize,
    /// Length of its content in bytes.
    pub content_len: usize,
}

/// Finds the first large binary value of a request or an answer, by the beginning of its payload.
///
/// A receiver that will make it a `Vec` can then read its content into one. `None` where there is
/// none, or too little has come to tell.
pub fn find_large(kind: MessageType, beginning: &[u8]) -> Option<Large<'_>> {
    let mut scanner = Scanner::new(beginning);
    let mut synapse_type = None;
    match kind {
        MessageType::SynapsePacket if scanner.array().ok()? == Some(3) => {
            synapse_type = Some(std::str::from_utf8(scanner.str_bytes().ok()??).ok()?);
        }
        MessageType::SynapseResponse if scanner.array().ok()? == Some(4) => {
            scanner.bool()?;
        }
        _ => return None,
    }
    for _ in 0..scanner.map().ok()?? {
        scanner.str_bytes().ok()??;
        let value_start = scanner.pos();
        if let Some(content_len) = scanner
            .clone()
            .bin_len()
            .ok()?
            .filter(|len| *len >= MIN_APART)
        {
            scanner.bin_len().ok()?;
            let content_start = scanner.pos();
            return Some(Large {
                synapse_type,
                value_start,
                content_start,
                content_len,
            });
        }
        scanner.skip().ok()?;
    }
    None
}

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

/// Bodies up to this length are copied into one piece with their header: cheaper than three
/// entries in the stream's send queue.
const INLINE_BODY: usize = 4 * 1024;

/// A binary value without content.
const EMPTY_BIN: [u8; 2] = [0xc4, 0];

const PACKET_FIELDS: [&str; 3] = ["synapse_type", "data", "timestamp"];
const DUPLEX_FIELDS: [&str; 4] = ["synapse_type", "data", "timestamp", "timeout_ms"];
const RESPONSE_FIELDS: [&str; 4] = ["success", "data", "timestamp", "error"];
