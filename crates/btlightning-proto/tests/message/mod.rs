//! Every message as one type, so that a property is written once for all of them.

#![allow(dead_code, reason = "each test binary takes what it needs of this")]

use std::collections::HashMap;

use btlightning_proto::{
    Payload, ProtoError,
    frame::MessageType,
    message::{
        self, EncodedFrame, HandshakeRequest, HandshakeResponse, Request, Response, StreamEnd,
    },
};
use bytes::Bytes;
use proptest::{collection, option, prelude::*};
use rmpv::Value;

/// A message of any kind with all of its fields.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Message {
    HandshakeRequest(HandshakeRequest),
    HandshakeResponse(HandshakeResponse),
    Request {
        synapse_type: String,
        data: Payload,
        timestamp: u64,
    },
    Response(Response),
    Chunk(Bytes),
    End(StreamEnd),
    DuplexOpen {
        synapse_type: String,
        data: Payload,
        timestamp: u64,
        timeout_ms: Option<u64>,
    },
    LaneOpen,
}

impl Message {
    pub(crate) fn kind(&self) -> MessageType {
        match self {
            Self::HandshakeRequest(_) => MessageType::HandshakeRequest,
            Self::HandshakeResponse(_) => MessageType::HandshakeResponse,
            Self::Request { .. } => MessageType::SynapsePacket,
            Self::Response(_) => MessageType::SynapseResponse,
            Self::Chunk(_) => MessageType::StreamChunk,
            Self::End(_) => MessageType::StreamEnd,
            Self::DuplexOpen { .. } => MessageType::DuplexOpen,
            Self::LaneOpen => MessageType::LaneOpen,
        }
    }

    pub(crate) fn encode(&self) -> Result<EncodedFrame, ProtoError> {
        match self {
            Self::HandshakeRequest(m) => message::encode_handshake_request(m),
            Self::HandshakeResponse(m) => message::encode_handshake_response(m),
            Self::Request {
                synapse_type,
                data,
                timestamp,
            } => message::encode_request(synapse_type, data, *timestamp),
            Self::Response(m) => m.encode(),
            Self::Chunk(data) => message::encode_chunk(data),
            Self::End(m) => message::encode_stream_end(m),
            Self::DuplexOpen {
                synapse_type,
                data,
                timestamp,
                timeout_ms,
            } => message::encode_duplex_open(synapse_type, data, *timestamp, *timeout_ms),
            Self::LaneOpen => message::encode_lane_open(),
        }
    }

    pub(crate) fn decode(kind: MessageType, payload: Bytes) -> Result<Self, ProtoError> {
        Ok(match kind {
            MessageType::HandshakeRequest => {
                Self::HandshakeRequest(message::decode_handshake_request(&payload)?)
            }
            MessageType::HandshakeResponse => {
                Self::HandshakeResponse(message::decode_handshake_response(&payload)?)
            }
            MessageType::SynapsePacket => {
                let request = Request::decode(payload)?;
                // Only a duplex call carries its caller's patience.
                assert_eq!(request.timeout_ms(), None);
                Self::Request {
                    synapse_type: request.synapse_type().to_owned(),
                    data: request.data().clone(),
                    timestamp: request.timestamp(),
                }
            }
            MessageType::SynapseResponse => Self::Response(Response::decode(payload)?),
            MessageType::StreamChunk => Self::Chunk(message::decode_chunk(&payload)?),
            MessageType::StreamEnd => Self::End(message::decode_stream_end(&payload)?),
            MessageType::DuplexOpen => {
                let request = Request::decode_duplex(payload)?;
                Self::DuplexOpen {
                    synapse_type: request.synapse_type().to_owned(),
                    data: request.data().clone(),
                    timestamp: request.timestamp(),
                    timeout_ms: request.timeout_ms(),
                }
            }
            MessageType::LaneOpen => {
                message::decode_lane_open(&payload)?;
                Self::LaneOpen
            }
        })
    }

    /// The fields by name and in order, as another implementation would hold them.
    pub(crate) fn fields(&self) -> Vec<(&'static str, Value)> {
        fn text(text: &Option<String>) -> Value {
            text.as_deref().map_or(Value::Nil, Value::from)
        }
        fn tree(data: &Payload) -> Value {
            rmpv::decode::read_value(&mut &data.as_bytes()[..]).unwrap()
        }
        match self.clone() {
            Self::HandshakeRequest(m) => vec![
                ("validator_hotkey", m.validator_hotkey.into()),
                ("timestamp", m.timestamp.into()),
                ("nonce", m.nonce.into()),
                ("signature", m.signature.into()),
            ],
            Self::HandshakeResponse(m) => vec![
                ("miner_hotkey", m.miner_hotkey.into()),
                ("timestamp", m.timestamp.into()),
                ("signature", m.signature.into()),
                ("accepted", m.accepted.into()),
                ("connection_id", m.connection_id.into()),
                ("cert_fingerprint", text(&m.cert_fingerprint)),
            ],
            Self::Request {
                synapse_type,
                data,
                timestamp,
            } => vec![
                ("synapse_type", synapse_type.into()),
                ("data", tree(&data)),
                ("timestamp", timestamp.into()),
            ],
            Self::Response(m) => vec![
                ("success", m.success.into()),
                ("data", tree(&m.data)),
                ("timestamp", m.timestamp.into()),
                ("error", text(&m.error)),
            ],
            Self::Chunk(data) => vec![("data", Value::Binary(data.to_vec()))],
            Self::End(m) => vec![("success", m.success.into()), ("error", text(&m.error))],
            Self::DuplexOpen {
                synapse_type,
                data,
                timestamp,
                timeout_ms,
            } => vec![
                ("synapse_type", synapse_type.into()),
                ("data", tree(&data)),
                ("timestamp", timestamp.into()),
                ("timeout_ms", timeout_ms.map_or(Value::Nil, Value::from)),
            ],
            // The only message without fields, so without a payload.
            Self::LaneOpen => Vec::new(),
        }
    }
}

/// Any message, small enough to be taken apart byte by byte.
pub(crate) fn any_message() -> impl Strategy<Value = Message> {
    let request = || (".{0,40}", payload(), any::<u64>());
    prop_oneof![
        (".{0,60}", any::<u64>(), ".{0,40}", ".{0,100}").prop_map(
            |(validator_hotkey, timestamp, nonce, signature)| {
                Message::HandshakeRequest(HandshakeRequest {
                    validator_hotkey,
                    timestamp,
                    nonce,
                    signature,
                })
            }
        ),
        (
            ".{0,60}",
            any::<u64>(),
            ".{0,100}",
            any::<bool>(),
            ".{0,40}",
            option::of(".{0,50}")
        )
            .prop_map(
                |(
                    miner_hotkey,
                    timestamp,
                    signature,
                    accepted,
                    connection_id,
                    cert_fingerprint,
                )| {
                    Message::HandshakeResponse(HandshakeResponse {
                        miner_hotkey,
                        timestamp,
                        signature,
                        accepted,
                        connection_id,
                        cert_fingerprint,
                    })
                }
            ),
        request().prop_map(|(synapse_type, data, timestamp)| Message::Request {
            synapse_type,
            data,
            timestamp
        }),
        (
            any::<bool>(),
            payload(),
            any::<u64>(),
            option::of(".{0,60}")
        )
            .prop_map(
                |(success, data, timestamp, error)| Message::Response(Response {
                    success,
                    data,
                    timestamp,
                    error
                })
            ),
        collection::vec(any::<u8>(), 0..300).prop_map(|data| Message::Chunk(data.into())),
        (any::<bool>(), option::of(".{0,300}"))
            .prop_map(|(success, error)| Message::End(StreamEnd { success, error })),
        (request(), option::of(any::<u64>())).prop_map(
            |((synapse_type, data, timestamp), timeout_ms)| Message::DuplexOpen {
                synapse_type,
                data,
                timestamp,
                timeout_ms
            }
        ),
    ]
}

fn payload() -> impl Strategy<Value = Payload> {
    collection::hash_map(".{0,12}", value(), 0..4)
        .prop_map(|map: HashMap<String, Value>| Payload::from_map(&map).unwrap())
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Nil),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f32>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,40}".prop_map(Value::from),
        collection::vec(any::<u8>(), 0..100).prop_map(Value::from),
        (any::<i8>(), collection::vec(any::<u8>(), 0..20))
            .prop_map(|(tag, data)| Value::Ext(tag, data)),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            collection::vec((inner.clone(), inner), 0..4).prop_map(Value::Map),
        ]
    })
}
