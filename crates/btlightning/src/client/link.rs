//! One authenticated connection to an address.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use btlightning_proto::{
    Payload, ProtoError, Version,
    close::{CloseReason, stream as code},
    frame::MessageType,
    handshake::{ClientHandshake, Fingerprint},
    lane,
    limits::MAX_HANDSHAKE_PAYLOAD,
    message::{self, EncodedFrame, Response},
    nonce::Nonce,
};
use lightning_quic::TaskGroup;
use quinn::{Connection, Endpoint, RecvStream};
use tokio::time::Instant;

use super::{CallOptions, lane::Lane};
use crate::{
    error::{CallError, CallErrorKind, Phase},
    io::{self, FrameReader, FrameWriter},
    signing::Signer,
    types::{PeerAddr, QuicAxonInfo},
    util::unix_timestamp_secs,
};

/// Who we are.
#[derive(Clone)]
pub(super) struct Identity {
    pub(super) hotkey: Arc<str>,
    pub(super) signer: Arc<dyn Signer>,
}

/// One connection and the miner hotkeys authenticated on it.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) addr: PeerAddr,
    pub(super) connection: Connection,
    group: TaskGroup,
    pub(super) version: Version,
    fingerprint: Fingerprint,
    authenticated: Mutex<HashSet<String>>,
    lane: ArcSwapOption<Lane>,
    /// Held while the lane is being opened, so that one is.
    opening_lane: tokio::sync::Mutex<()>,
    /// Held while a hotkey is being authenticated on demand.
    pub(super) joining: tokio::sync::Mutex<()>,
    /// Set when the connection has ended; read by every request.
    ended: Arc<AtomicBool>,
    /// Whether somebody is finding out if the peer is still there.
    suspected: AtomicBool,
}

/// What the caller makes of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wants {
    /// A map of dynamic values: a large binary value is received into memory of its own.
    Values,
    /// The payload as it came.
    Payload,
}

/// What became of a request that was answered.
#[derive(Debug)]
pub(super) struct Outcome {
    /// What the handler returned, or the server's word on what went wrong.
    pub(super) result: Result<Payload, String>,
    pub(super) latency: Duration,
}

/// A failure before it is known whose call it fails.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    pub(super) phase: Phase,
    pub(super) kind: CallErrorKind,
}

impl Failure {
    pub(super) fn new(phase: Phase, kind: CallErrorKind) -> Self {
        Self { phase, kind }
    }

    pub(super) fn of(self, axon: &QuicAxonInfo) -> CallError {
        CallError::new(self.phase, &axon.hotkey, &axon.addr_key(), self.kind)
    }
}

impl Link {
    /// Dials an address within `limit`.
    pub(super) async fn dial(
        endpoint: &Endpoint,
        axon: &QuicAxonInfo,
        limit: Duration,
    ) -> Result<Self, Failure> {
        let fail = |kind| Failure::new(Phase::Dial, kind);
        let addr = axon.addr_key();
        let target = addr
            .as_ref()
            .parse()
            .map_err(|_| fail(CallErrorKind::InvalidAddress(addr.to_string())))?;
        let name = axon.ip.trim_start_matches('[').trim_end_matches(']');
        let (connecting, group) = lightning_quic::connect(endpoint, target, name)
            .map_err(|e| fail(CallErrorKind::Dial(Arc::new(e))))?;
        let connection = tokio::time::timeout(limit, connecting)
            .await
            .map_err(|_| {
                fail(CallErrorKind::Timeout {
                    what: "connection",
                    after: limit,
                })
            })?
            .map_err(|e| fail(CallErrorKind::Lost(e)))?;
        let certificate = lightning_quic::tls::peer_certificate(&connection).ok_or_else(|| {
            fail(CallErrorKind::Unexpected(
                "the server showed no certificate".into(),
            ))
        })?;
        let alpn = lightning_quic::tls::negotiated_alpn(&connection);
        Ok(Self {
            addr,
            version: Version::from_alpn(alpn.as_deref()),
            fingerprint: Fingerprint::of_certificate(&certificate),
            authenticated: Mutex::default(),
            lane: ArcSwapOption::empty(),
            opening_lane: tokio::sync::Mutex::default(),
            joining: tokio::sync::Mutex::default(),
            ended: watch_end(&connection),
            suspected: AtomicBool::new(false),
            connection,
            group,
        })
    }

    /// Authenticates a miner hotkey on this connection within `limit`.
    pub(super) async fn authenticate(
        &self,
        hotkey: &str,
        identity: &Identity,
        limit: Duration,
    ) -> Result<(), Failure> {
        let timeout = CallErrorKind::Timeout {
            what: "handshake",
            after: limit,
        };
        tokio::time::timeout(limit, self.handshake(hotkey, identity))
            .await
            .unwrap_or(Err(timeout))
            .map_err(|kind| Failure::new(Phase::Handshake, kind))?;
        self.lock().insert(hotkey.to_owned());
        tracing::info!(hotkey, addr = %self.addr, "miner authenticated");
        Ok(())
    }

    /// Whether this hotkey was authenticated on this connection.
    pub(super) fn is_authenticated(&self, hotkey: &str) -> bool {
        self.lock().contains(hotkey)
    }

    pub(super) fn is_alive(&self) -> bool {
        !self.ended.load(Ordering::Relaxed)
    }

    /// Takes the connection for ended, before its watcher has told.
    pub(super) fn note_end(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }

    pub(super) fn close(&self, reason: CloseReason) {
        self.note_end();
        let code = reason.code().into();
        lightning_quic::close(&self.connection, code, reason.as_str().as_bytes());
    }

    /// Sends a request and waits for its answer for at most `options.timeout`.
    ///
    /// Small requests share a lane where the peer has lanes; others get a stream of their own.
    pub(super) async fn exchange(
        self: &Arc<Self>,
        synapse_type: &str,
        data: &Payload,
        max_payload: usize,
        options: CallOptions,
        wants: Wants,
    ) -> Result<Outcome, Failure> {
        if !self.takes_to_lane(synapse_type, data) {
            let request = encode_request(synapse_type, data, max_payload)
                .map_err(|e| Failure::new(Phase::Send, CallErrorKind::Encode(e)))?;
            return self
                .exchange_alone(request, max_payload, options.timeout, wants)
                .await;
        }
        let result = self
            .exchange_on_lane(synapse_type, data, max_payload, options)
            .await;
        self.suspect_after(&result);
        result
    }

    /// Whether a request shares a lane with others.
    pub(super) fn takes_to_lane(&self, synapse_type: &str, data: &Payload) -> bool {
        self.version.has_lanes() && lane::fits_record(synapse_type, data)
    }

    /// Sends a request on a stream of its own and waits for its answer for at most `timeout`.
    pub(super) async fn exchange_alone(
        self: &Arc<Self>,
        request: EncodedFrame,
        max_payload: usize,
        timeout: Option<Duration>,
        wants: Wants,
    ) -> Result<Outcome, Failure> {
        let result = self
            .exchange_on_stream(request, max_payload, timeout, wants)
            .await;
        self.suspect_after(&result);
        result
    }

    fn suspect_after(self: &Arc<Self>, result: &Result<Outcome, Failure>) {
        if let Err(Failure {
            kind: CallErrorKind::Timeout { .. },
            ..
        }) = result
        {
            self.suspect();
        }
    }

    /// Finds out, after a request timed out, whether the peer is there at all.
    ///
    /// A peer that was restarted drops our packets, and QUIC alone notices only at the idle
    /// timeout. One that lives acknowledges what was sent, however slow its handler is; hearing
    /// nothing for several round trips means that it is gone, and the next request dials anew.
    /// Where nothing could be sent, as on a connection whose streams are all in use, silence means
    /// nothing.
    pub(super) fn suspect(self: &Arc<Self>) {
        if self.suspected.swap(true, Ordering::Relaxed) {
            return;
        }
        let link = self.clone();
        tokio::spawn(async move {
            let before = link.connection.stats();
            let patience = (link.connection.rtt() * 8).max(SIGN_OF_LIFE);
            let probe = async {
                // A stream that is reset at once: something the peer has to acknowledge.
                if let Ok((send, _)) = link.connection.open_bi().await {
                    drop(FrameWriter::new(send, code::CANCELLED));
                }
                std::future::pending::<()>().await;
            };
            let _ = tokio::time::timeout(patience / 2, probe).await;
            // What is sent later may not be acknowledged yet.
            let asked = link.connection.stats().udp_tx.datagrams != before.udp_tx.datagrams;
            tokio::time::sleep(patience / 2).await;
            let heard = link.connection.stats().udp_rx.datagrams != before.udp_rx.datagrams;
            if asked && !heard && link.is_alive() {
                tracing::warn!(addr = %link.addr, "no sign of life from the peer, closing the connection");
                link.close(CloseReason::Done);
            }
            link.suspected.store(false, Ordering::Relaxed);
        });
    }

    async fn exchange_on_lane(
        &self,
        synapse_type: &str,
        data: &Payload,
        max_payload: usize,
        options: CallOptions,
    ) -> Result<Outcome, Failure> {
        let lane = self
            .lane(max_payload)
            .await
            .map_err(|kind| Failure::new(Phase::Send, kind))?;
        lane.exchange(synapse_type, data, options.priority, options.timeout)
            .await
    }

    async fn exchange_on_stream(
        &self,
        request: EncodedFrame,
        max_payload: usize,
        timeout: Option<Duration>,
        wants: Wants,
    ) -> Result<Outcome, Failure> {
        let started = Instant::now();
        let (mut send, mut reader) = self.open(request).await?;
        send.finish();
        let read = reader.expect_body(max_payload, |_| wants == Wants::Values);
        let (kind, payload) = within(timeout, "query", read)
            .await?
            .map_err(|e| Failure::new(Phase::Wait, e.into()))?;
        let latency = started.elapsed();
        match kind {
            MessageType::SynapseResponse => {
                let response = Response::decode_body(payload)
                    .map_err(|e| Failure::new(Phase::Wait, CallErrorKind::Decode(e)))?;
                Ok(Outcome {
                    result: response.into_result(),
                    latency,
                })
            }
            MessageType::StreamChunk | MessageType::StreamEnd => Err(streaming_only()),
            other => Err(unexpected(&format!("unexpected response type: {other:?}"))),
        }
    }

    /// Returns the connection's lane, opening it for the first small request.
    async fn lane(&self, max_payload: usize) -> Result<Arc<Lane>, CallErrorKind> {
        if let Some(lane) = &*self.lane.load() {
            return Ok(lane.clone());
        }
        let _opening = self.opening_lane.lock().await;
        if let Some(lane) = &*self.lane.load() {
            return Ok(lane.clone());
        }
        let lane = Lane::open(&self.connection, &self.group, max_payload).await?;
        self.lane.store(Some(lane.clone()));
        Ok(lane)
    }

    /// Opens a stream and sends the first frame on it.
    pub(super) async fn open(
        &self,
        request: EncodedFrame,
    ) -> Result<(FrameWriter, FrameReader<RecvStream>), Failure> {
        let fail = |kind| Failure::new(Phase::Send, kind);
        let len = request.len();
        let budget = send_budget(len);
        let send = async {
            let (send, recv) = self
                .connection
                .open_bi()
                .await
                .map_err(|e| fail(CallErrorKind::Lost(e)))?;
            let mut send = FrameWriter::new(send, code::CANCELLED);
            match send.write(request).await {
                Ok(()) => {}
                // The server said no before it read all: its answer says why.
                Err(quinn::WriteError::Stopped(_)) => {}
                Err(error) => return Err(fail(io::write_error(error))),
            }
            Ok((send, FrameReader::new(recv)))
        };
        tokio::time::timeout(budget, send)
            .await
            .unwrap_or_else(|_| {
                Err(fail(CallErrorKind::Timeout {
                    what: "request transfer",
                    after: budget,
                }))
            })
    }

    async fn handshake(&self, hotkey: &str, identity: &Identity) -> Result<(), CallErrorKind> {
        let nonce = Nonce::from_bytes(rand::random());
        let handshake = ClientHandshake::new(
            &*identity.hotkey,
            unix_timestamp_secs(),
            nonce,
            self.fingerprint,
        );
        let text = handshake.message();
        let signer = identity.signer.clone();
        let signature = tokio::task::spawn_blocking(move || signer.sign(text.as_bytes()))
            .await
            .map_err(|e| CallErrorKind::Signing(format!("the signer panicked: {e}")))?
            .map_err(|e| match e {
                crate::LightningError::Signing(text) => CallErrorKind::Signing(text),
                other => CallErrorKind::Signing(other.to_string()),
            })?;
        let frame = message::encode_handshake_request(&handshake.request(&signature))
            .map_err(CallErrorKind::Encode)?;

        let (send, recv) = self
            .connection
            .open_bi()
            .await
            .map_err(CallErrorKind::Lost)?;
        let mut send = FrameWriter::new(send, code::CANCELLED);
        send.write(frame).await.map_err(io::write_error)?;
        send.finish();
        let (kind, payload) = FrameReader::new(recv)
            .expect_frame(MAX_HANDSHAKE_PAYLOAD)
            .await?;
        if kind != MessageType::HandshakeResponse {
            return Err(CallErrorKind::Unexpected(format!(
                "expected HandshakeResponse, got {kind:?}"
            )));
        }
        let response =
            message::decode_handshake_response(&payload).map_err(CallErrorKind::Decode)?;
        let expected = hotkey.to_owned();
        // A signature check takes tens of microseconds; a fan-out has hundreds of them.
        tokio::task::spawn_blocking(move || handshake.check(&response, &expected))
            .await
            .map_err(|e| CallErrorKind::Unexpected(e.to_string()))?
            .map_err(CallErrorKind::Distrust)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.authenticated
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Encodes a request, refusing one that is larger than a frame may be.
pub(super) fn encode_request(
    synapse_type: &str,
    data: &Payload,
    max_payload: usize,
) -> Result<EncodedFrame, ProtoError> {
    let frame = message::encode_request(synapse_type, data, unix_timestamp_secs())?;
    frame.within(max_payload)
}

/// Waits for an answer for at most `limit`.
pub(super) async fn within<F: Future>(
    limit: Option<Duration>,
    what: &'static str,
    answer: F,
) -> Result<F::Output, Failure> {
    match limit {
        None => Ok(answer.await),
        Some(limit) => tokio::time::timeout(limit, answer)
            .await
            .map_err(|_| Failure::new(Phase::Wait, CallErrorKind::Timeout { what, after: limit })),
    }
}

pub(super) fn streaming_only() -> Failure {
    unexpected(
        "received StreamChunk on non-streaming query; use query_axon_stream for streaming synapses",
    )
}

pub(super) fn unexpected(text: &str) -> Failure {
    Failure::new(Phase::Wait, CallErrorKind::Unexpected(text.to_owned()))
}

/// Returns a flag that is set when the connection ends.
fn watch_end(connection: &Connection) -> Arc<AtomicBool> {
    let ended = Arc::new(AtomicBool::new(false));
    let flag = ended.clone();
    let connection = connection.clone();
    tokio::spawn(async move {
        let reason = connection.closed().await;
        flag.store(true, Ordering::Relaxed);
        tracing::debug!(peer = %connection.remote_address(), %reason, "connection ended");
    });
    ended
}

/// Returns the time a request of `len` bytes may take to be sent.
///
/// It grows with the size, so that a slow link never truncates a large request because of a
/// timeout that was meant for the answer.
fn send_budget(len: usize) -> Duration {
    let transfer = Duration::from_secs((len as u64).div_ceil(SEND_BYTES_PER_SEC));
    (SEND_FLOOR + transfer).min(SEND_CEILING)
}

/// Silence after which a peer that owes an acknowledgement is taken for gone: forty times the
/// longest delay of an acknowledgement, half of it for those that are asked for last.
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);

/// For opening the stream and a round trip or two.
const SEND_FLOOR: Duration = Duration::from_secs(5);
/// The slowest link worth waiting for: 1 MiB/s.
const SEND_BYTES_PER_SEC: u64 = 1024 * 1024;
/// A peer that reads more slowly than it must cannot hold a caller for longer.
const SEND_CEILING: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_send_budget_grows_with_the_size_to_a_ceiling() {
        assert_eq!(send_budget(0), Duration::from_secs(5));
        assert_eq!(send_budget(1), Duration::from_secs(6));
        assert_eq!(send_budget(8 * 1024 * 1024), Duration::from_secs(13));
        assert_eq!(send_budget(usize::MAX), Duration::from_secs(60));
    }
}
