//! The server's side of a handshake.
//!
//! Checks run from cheap to costly: the address's rate, the message's age and shapes, then, off
//! the async workers and no more at a time than there are cores, the signature.

use std::{sync::Arc, time::Duration};

use btlightning_proto::{
    handshake::{Fingerprint, Refusal, Unverified, acceptance, acceptance_message},
    message::{HandshakeRequest, HandshakeResponse, decode_handshake_request},
    rate::rate_key,
};
use quinn::VarInt;

use super::{
    session::{Caller, Session},
    shared::{Hooks, Shared},
};
use crate::util::{unix_timestamp_millis, unix_timestamp_secs};

/// Answers a handshake request, which `payload` holds.
pub(super) async fn answer(
    shared: &Arc<Shared>,
    session: &Arc<Session>,
    payload: &[u8],
) -> HandshakeResponse {
    let peer = session.remote_addr();
    let limit = Duration::from_secs(shared.config.handshake_timeout_secs);
    let mut verified = false;
    let outcome = tokio::time::timeout(limit, accept(shared, session, payload, &mut verified))
        .await
        .unwrap_or(Err(Refusal::TimedOut));
    match outcome {
        Ok(response) => response,
        Err(refusal) => {
            shared.counters.refuse_handshake(refusal);
            tracing::warn!(%peer, %refusal, "handshake refused");
            // Strangers do not learn whose server this is.
            let hotkey = if verified {
                shared.miner_hotkey.as_str()
            } else {
                ""
            };
            HandshakeResponse::rejected(hotkey, unix_timestamp_secs())
        }
    }
}

async fn accept(
    shared: &Arc<Shared>,
    session: &Arc<Session>,
    payload: &[u8],
    verified: &mut bool,
) -> Result<HandshakeResponse, Refusal> {
    let now = unix_timestamp_secs();
    if !shared
        .attempts()
        .allow(rate_key(session.remote_addr().ip()), now)
    {
        return Err(Refusal::RateLimited);
    }
    let request = decode_handshake_request(payload).map_err(|_| Refusal::Malformed)?;
    let fingerprint = shared.fingerprint().ok_or(Refusal::SignerFailed)?;
    let unverified = Unverified::check(
        &request,
        fingerprint,
        now,
        shared.config.max_signature_age_secs,
    )?;

    let permit = shared
        .verifiers
        .clone()
        .acquire_owned()
        .await
        .map_err(|_| Refusal::TimedOut)?;
    let (nonce, timestamp) = blocking(move || {
        let _permit = permit;
        unverified.verify()
    })
    .await??;
    shared.nonces().insert(nonce, timestamp)?;
    *verified = true;

    if shared.config.require_validator_permit
        && !shared.permits.load().contains(&request.validator_hotkey)
    {
        return Err(Refusal::NoPermit);
    }
    shared.has_room_for(&request.validator_hotkey)?;

    let connection_id: Arc<str> = format!(
        "conn_{}_{}",
        request.validator_hotkey,
        unix_timestamp_millis()
    )
    .into();
    let hooks = shared.hooks();
    let response = sign(
        &hooks,
        &request,
        &shared.miner_hotkey,
        fingerprint,
        &connection_id,
    )
    .await?;

    let caller = Caller::new(&request.validator_hotkey, connection_id);
    admit(shared, session, caller, hooks.transport.receive_window)?;
    if let Some(observer) = hooks.observer {
        let ip = session.remote_addr().ip();
        tokio::spawn(async move {
            observer
                .observe_successful_handshake(&request.validator_hotkey, ip)
                .await;
        });
    }
    Ok(response)
}

async fn sign(
    hooks: &Hooks,
    request: &HandshakeRequest,
    miner_hotkey: &str,
    fingerprint: Fingerprint,
    connection_id: &str,
) -> Result<HandshakeResponse, Refusal> {
    let Some(signer) = hooks.signer.clone() else {
        tracing::error!("no miner signer configured, refusing every handshake");
        return Err(Refusal::SignerFailed);
    };
    let now = unix_timestamp_secs();
    let message = acceptance_message(request, miner_hotkey, now, fingerprint);
    let signature = blocking(move || signer.sign(message.as_bytes()))
        .await?
        .map_err(|error| {
            tracing::error!(%error, "the miner's hotkey cannot sign");
            Refusal::SignerFailed
        })?;
    Ok(acceptance(
        miner_hotkey,
        now,
        fingerprint,
        connection_id,
        &signature,
    ))
}

/// Opens the connection up for requests of `caller`.
fn admit(
    shared: &Arc<Shared>,
    session: &Arc<Session>,
    caller: Arc<Caller>,
    receive_window: u32,
) -> Result<(), Refusal> {
    let previous = shared.register(caller.clone(), session)?;
    if let Some(previous) = previous {
        tracing::warn!(
            hotkey = %caller.hotkey,
            from = %previous.remote_addr(),
            to = %session.remote_addr(),
            "hotkey authenticated on another connection, which replaces the former"
        );
        previous.revoke(
            &caller.hotkey,
            btlightning_proto::close::CloseReason::Replaced,
        );
    }
    session
        .connection
        .set_max_concurrent_bi_streams(VarInt::from_u32(shared.config.max_concurrent_bidi_streams));
    session
        .connection
        .set_receive_window(VarInt::from_u32(receive_window));
    shared.counters.handshakes.add_one();
    tracing::info!(
        hotkey = %caller.hotkey,
        connection_id = %caller.connection_id,
        peer = %session.remote_addr(),
        "validator authenticated"
    );
    session.authenticate(caller);
    // The connection may have ended meanwhile, and its end have been tidied up already.
    if session.connection.close_reason().is_some() {
        shared.unregister(session);
    }
    Ok(())
}

/// Runs what may take its time off the async workers.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Refusal> {
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        tracing::error!(%error, "handshake work panicked");
        Refusal::SignerFailed
    })
}
