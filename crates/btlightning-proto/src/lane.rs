//! Lanes: many small requests and answers on one long-lived stream.
//!
//! A lane is a bidirectional stream that the client opens on a connection of
//! [`Version::V1`](crate::Version::V1) on which a hotkey is authenticated. It begins with a
//! [`MessageType::LaneOpen`](crate::frame::MessageType::LaneOpen) frame without payload; from then
//! on each direction carries records:
//!
//! ```text
//! +----------------+--------+---------------------+
//! | length (varint)| kind u8| fields of the kind  |
//! +----------------+--------+---------------------+
//! ```
//!
//! Integers marked varint are those of [RFC 9000, section 16]. `length` counts the bytes behind it.
//!
//! | direction | kind | fields |
//! |---|---|---|
//! | client to server | 0x00 request | id varint, priority u8, timeout in ms varint (0: none), length of type varint, type, data |
//! | client to server | 0x01 cancel | id varint |
//! | server to client | 0x00 answer | id varint, data |
//! | server to client | 0x01 failure | id varint, text |
//! | server to client | 0x02 credit | requests varint |
//! | server to client | 0x03 go away | |
//!
//! The client picks ids and uses one again only after it was answered. Each request spends one
//! credit, and its answer, failure or large answer gives it back; the client begins with
//! [`INITIAL_CREDIT`], and credit records add to that. A cancelled request is answered too, so
//! that both sides agree on what is open. An answer larger than [`MAX_RECORD`] comes on a
//! unidirectional stream of its own: the id as a varint, then a
//! [`SynapseResponse`](crate::frame::MessageType::SynapseResponse) frame.
//!
//! [RFC 9000, section 16]: https://www.rfc-editor.org/rfc/rfc9000#section-16

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::{error::ProtoError, payload::Payload};

/// Longest record in bytes, its length field not counted: what is larger travels on a stream of
/// its own, where it cannot hold up others.
pub const MAX_RECORD: usize = 16 * 1024;

/// Requests a client may send on a lane before the server has said anything.
pub const INITIAL_CREDIT: u32 = 16;

/// Most bytes of a record's head and length field, the synapse type not counted.
pub const MAX_OVERHEAD: usize = 4 + 1 + 8 + 1 + 8 + 4;

/// What a client sends on a lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientRecord {
    /// A request for a handler.
    Request(LaneRequest),
    /// The caller gave up on the request with this id.
    Cancel {
        /// The request's id.
        id: u64,
    },
    /// A request that does not decode; the records behind it are not harmed.
    Invalid {
        /// The request's id.
        id: u64,
        /// What is wrong with it.
        error: ProtoError,
    },
}

/// A request on a lane: a view of the bytes it came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneRequest {
    /// Names the request among those that are open on the connection.
    pub id: u64,
    /// Higher goes first.
    pub priority: u8,
    /// How long the client will wait, in milliseconds; 0 for no limit.
    pub timeout_ms: u64,
    synapse_type: Bytes,
    /// What the request carries.
    pub data: Payload,
}

impl LaneRequest {
    /// Which handler the request is for.
    pub fn synapse_type(&self) -> &str {
        // Checked when it was decoded.
        std::str::from_utf8(&self.synapse_type).unwrap_or_default()
    }
}

/// What a server sends on a lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerRecord {
    /// What the handler returned.
    Answer {
        /// The request's id.
        id: u64,
        /// What the handler returned.
        data: Payload,
    },
    /// The server's word on what went wrong.
    Failure {
        /// The request's id.
        id: u64,
        /// The text.
        text: String,
    },
    /// The client may have this many more requests open.
    Credit {
        /// How many more.
        requests: u64,
    },
    /// The server is shutting down and begins no further request.
    GoAway,
    /// An answer that does not decode; the records behind it are not harmed.
    Invalid {
        /// The request's id.
        id: u64,
        /// What is wrong with it.
        error: ProtoError,
    },
}

/// Records on their way to being written, in one go.
///
/// Small ones are copied behind each other; the data of larger ones is taken along as it lies.
#[derive(Debug, Default)]
pub struct Batch {
    chunks: Vec<Bytes>,
    tail: BytesMut,
}

impl Batch {
    /// Whether there are no records.
    pub fn is_empty(&self) -> bool {
        self.tail.is_empty() && self.chunks.is_empty()
    }

    /// Returns how many bytes the records take.
    pub fn len_bytes(&self) -> usize {
        self.chunks.iter().map(Bytes::len).sum::<usize>() + self.tail.len()
    }

    /// Moves the records to the end of `out`, to be written in order.
    pub fn take_into(&mut self, out: &mut Vec<Bytes>) {
        out.append(&mut self.chunks);
        if !self.tail.is_empty() {
            out.push(self.tail.split().freeze());
        }
    }

    fn put_body(&mut self, data: &Bytes) {
        if data.len() <= COPIED_BODY {
            self.tail.put_slice(data);
        } else {
            self.chunks.push(self.tail.split().freeze());
            self.chunks.push(data.clone());
        }
    }
}

/// Received bytes on their way to being records.
///
/// A record that lies within one chunk is a slice of it; one that is cut in two is joined.
#[derive(Debug, Default)]
pub struct RecordBuffer {
    /// The beginning of a record whose end has not come.
    partial: BytesMut,
    rest: Bytes,
}

impl RecordBuffer {
    /// Takes the next chunk. All records of the one before must have been taken.
    pub fn push(&mut self, chunk: Bytes) {
        self.partial
            .extend_from_slice(&std::mem::replace(&mut self.rest, chunk));
    }

    /// Takes the next record with [`take_client_record`] or [`take_server_record`]; `None` when
    /// another chunk is needed.
    ///
    /// # Errors
    ///
    /// Those of the function. There is no way to go on behind them.
    pub fn next<R>(
        &mut self,
        take: fn(&mut Bytes) -> Result<Option<R>, ProtoError>,
    ) -> Result<Option<R>, ProtoError> {
        if self.partial.is_empty() {
            return take(&mut self.rest);
        }
        loop {
            // Only what the record lacks is copied; its length takes at most eight bytes.
            let lacks = match peek_varint(&self.partial) {
                Some((len, _)) if len > MAX_RECORD as u64 => {
                    return Err(ProtoError::FrameTooLarge {
                        len,
                        max: MAX_RECORD as u64,
                    });
                }
                Some((len, head)) => (head + len as usize).saturating_sub(self.partial.len()),
                None => 1,
            };
            if lacks == 0 {
                return take(&mut std::mem::take(&mut self.partial).freeze());
            }
            if self.rest.is_empty() {
                return Ok(None);
            }
            let piece = self.rest.split_to(lacks.min(self.rest.len()));
            self.partial.extend_from_slice(&piece);
        }
    }
}

/// Appends a request record.
///
/// # Errors
///
/// [`ProtoError::FrameTooLarge`] when the record exceeds [`MAX_RECORD`]; `out` is unchanged then.
pub fn put_request(
    out: &mut Batch,
    id: u64,
    priority: u8,
    timeout_ms: u64,
    synapse_type: &str,
    data: &Payload,
) -> Result<(), ProtoError> {
    let data = data.as_bytes();
    let len = 1
        + varint_len(id)
        + 1
        + varint_len(timeout_ms)
        + varint_len(synapse_type.len() as u64)
        + synapse_type.len()
        + data.len();
    begin(out, len, CLIENT_REQUEST)?;
    put_varint(&mut out.tail, id);
    out.tail.put_u8(priority);
    put_varint(&mut out.tail, timeout_ms);
    put_varint(&mut out.tail, synapse_type.len() as u64);
    out.tail.put_slice(synapse_type.as_bytes());
    out.put_body(data);
    Ok(())
}

/// Whether a request fits a record, whatever its id and timeout.
pub fn fits_record(synapse_type: &str, data: &Payload) -> bool {
    MAX_OVERHEAD + synapse_type.len() + data.len_bytes() <= MAX_RECORD
}

/// Appends a cancel record.
pub fn put_cancel(out: &mut Batch, id: u64) {
    put_varint(&mut out.tail, 1 + varint_len(id) as u64);
    out.tail.put_u8(CLIENT_CANCEL);
    put_varint(&mut out.tail, id);
}

/// Appends an answer record.
///
/// # Errors
///
/// [`ProtoError::FrameTooLarge`] when the record exceeds [`MAX_RECORD`]; `out` is unchanged then.
pub fn put_answer(out: &mut Batch, id: u64, data: &Payload) -> Result<(), ProtoError> {
    begin(out, 1 + varint_len(id) + data.len_bytes(), SERVER_ANSWER)?;
    put_varint(&mut out.tail, id);
    out.put_body(data.as_bytes());
    Ok(())
}

/// Appends a failure record. A text that is too long for one is cut at a character's end.
pub fn put_failure(out: &mut Batch, id: u64, text: &str) {
    let cut = (0..=text.len().min(MAX_FAILURE_TEXT))
        .rev()
        .find(|at| text.is_char_boundary(*at));
    let text = &text[..cut.unwrap_or(0)];
    put_varint(&mut out.tail, (1 + varint_len(id) + text.len()) as u64);
    out.tail.put_u8(SERVER_FAILURE);
    put_varint(&mut out.tail, id);
    out.tail.put_slice(text.as_bytes());
}

/// Appends a credit record.
pub fn put_credit(out: &mut Batch, requests: u64) {
    put_varint(&mut out.tail, 1 + varint_len(requests) as u64);
    out.tail.put_u8(SERVER_CREDIT);
    put_varint(&mut out.tail, requests);
}

/// Appends a go-away record.
pub fn put_go_away(out: &mut Batch) {
    out.tail.put_slice(&[1, SERVER_GO_AWAY]);
}

/// Encodes what goes before a large answer on its own stream.
pub fn large_answer_head(id: u64) -> Bytes {
    let mut out = BytesMut::with_capacity(8);
    put_varint(&mut out, id);
    out.freeze()
}

/// Splits the next client record off `buffered`; `None` when more bytes are needed.
///
/// # Errors
///
/// Anything else than a record of the protocol. There is no way to go on behind it.
pub fn take_client_record(buffered: &mut Bytes) -> Result<Option<ClientRecord>, ProtoError> {
    let Some(mut record) = take_record(buffered)? else {
        return Ok(None);
    };
    match take_u8(&mut record)? {
        CLIENT_REQUEST => {
            let id = take_varint(&mut record)?;
            Ok(Some(match take_request(id, record) {
                Ok(request) => ClientRecord::Request(request),
                Err(error) => ClientRecord::Invalid { id, error },
            }))
        }
        CLIENT_CANCEL => {
            let id = take_varint(&mut record)?;
            finish(&record)?;
            Ok(Some(ClientRecord::Cancel { id }))
        }
        other => Err(ProtoError::UnknownType(other)),
    }
}

/// Splits the next server record off `buffered`; `None` when more bytes are needed.
///
/// # Errors
///
/// Anything else than a record of the protocol. There is no way to go on behind it.
pub fn take_server_record(buffered: &mut Bytes) -> Result<Option<ServerRecord>, ProtoError> {
    let Some(mut record) = take_record(buffered)? else {
        return Ok(None);
    };
    match take_u8(&mut record)? {
        SERVER_ANSWER => {
            let id = take_varint(&mut record)?;
            Ok(Some(match Payload::from_bytes(record) {
                Ok(data) => ServerRecord::Answer { id, data },
                Err(error) => ServerRecord::Invalid { id, error },
            }))
        }
        SERVER_FAILURE => {
            let id = take_varint(&mut record)?;
            Ok(Some(match String::from_utf8(record.to_vec()) {
                Ok(text) => ServerRecord::Failure { id, text },
                Err(_) => {
                    let error = ProtoError::Field {
                        field: "text",
                        expected: "UTF-8",
                    };
                    ServerRecord::Invalid { id, error }
                }
            }))
        }
        SERVER_CREDIT => {
            let requests = take_varint(&mut record)?;
            finish(&record)?;
            Ok(Some(ServerRecord::Credit { requests }))
        }
        SERVER_GO_AWAY => {
            finish(&record)?;
            Ok(Some(ServerRecord::GoAway))
        }
        other => Err(ProtoError::UnknownType(other)),
    }
}

/// Reads a varint at the front of `bytes` and returns it with its length; `None` when more bytes
/// are needed.
pub fn peek_varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let first = *bytes.first()?;
    let len = 1usize << (first >> 6);
    let rest = bytes.get(1..len)?;
    let value = rest
        .iter()
        .fold(u64::from(first & 0x3f), |n, b| n << 8 | u64::from(*b));
    Some((value, len))
}

/// Splits off a record without its length field.
fn take_record(buffered: &mut Bytes) -> Result<Option<Bytes>, ProtoError> {
    let Some((len, head)) = peek_varint(buffered) else {
        return Ok(None);
    };
    if len > MAX_RECORD as u64 {
        return Err(ProtoError::FrameTooLarge {
            len,
            max: MAX_RECORD as u64,
        });
    }
    let len = len as usize;
    if buffered.len() - head < len {
        return Ok(None);
    }
    buffered.advance(head);
    Ok(Some(buffered.split_to(len)))
}

/// Decodes a request behind its id.
fn take_request(id: u64, mut record: Bytes) -> Result<LaneRequest, ProtoError> {
    let priority = take_u8(&mut record)?;
    let timeout_ms = take_varint(&mut record)?;
    let len = take_varint(&mut record)?;
    if len > record.len() as u64 {
        return Err(cut_short(record.len() as u64, len));
    }
    let synapse_type = record.split_to(len as usize);
    if std::str::from_utf8(&synapse_type).is_err() {
        return Err(ProtoError::Field {
            field: "synapse_type",
            expected: "UTF-8",
        });
    }
    let data = Payload::from_bytes(record)?;
    Ok(LaneRequest {
        id,
        priority,
        timeout_ms,
        synapse_type,
        data,
    })
}

fn begin(out: &mut Batch, len: usize, kind: u8) -> Result<(), ProtoError> {
    if len > MAX_RECORD {
        return Err(ProtoError::FrameTooLarge {
            len: len as u64,
            max: MAX_RECORD as u64,
        });
    }
    put_varint(&mut out.tail, len as u64);
    out.tail.put_u8(kind);
    Ok(())
}

fn take_u8(record: &mut Bytes) -> Result<u8, ProtoError> {
    if record.is_empty() {
        return Err(cut_short(0, 1));
    }
    Ok(record.get_u8())
}

fn take_varint(record: &mut Bytes) -> Result<u64, ProtoError> {
    let (value, len) = peek_varint(record)
        .ok_or_else(|| cut_short(record.len() as u64, record.len() as u64 + 1))?;
    record.advance(len);
    Ok(value)
}

fn finish(record: &Bytes) -> Result<(), ProtoError> {
    if record.is_empty() {
        Ok(())
    } else {
        Err(ProtoError::TrailingBytes(record.len()))
    }
}

fn cut_short(have: u64, need: u64) -> ProtoError {
    ProtoError::Truncated {
        what: "lane record",
        have,
        need,
    }
}

fn varint_len(value: u64) -> usize {
    match value {
        0..=0x3f => 1,
        0x40..=0x3fff => 2,
        0x4000..=0x3fff_ffff => 4,
        _ => 8,
    }
}

/// Values beyond 62 bits are clamped: only a timeout of 146 million years can be one.
fn put_varint(out: &mut BytesMut, value: u64) {
    match varint_len(value) {
        1 => out.put_u8(value as u8),
        2 => out.put_u16(0x4000 | value as u16),
        4 => out.put_u32(0x8000_0000 | value as u32),
        _ => out.put_u64(0xc000_0000_0000_0000 | value.min((1 << 62) - 1)),
    }
}

/// Data up to this length is copied: cheaper than two more pieces in the stream's send queue.
const COPIED_BODY: usize = 2 * 1024;

const CLIENT_REQUEST: u8 = 0x00;
const CLIENT_CANCEL: u8 = 0x01;
const SERVER_ANSWER: u8 = 0x00;
const SERVER_FAILURE: u8 = 0x01;
const SERVER_CREDIT: u8 = 0x02;
const SERVER_GO_AWAY: u8 = 0x03;

/// Longest text of a failure in bytes.
const MAX_FAILURE_TEXT: usize = 1024;

#[cfg(test)]
mod tests;
