//! What a call needs of its client, cheap to clone: some calls outlive the borrow of the client.

use std::sync::Arc;

use btlightning_proto::{Payload, Version, message::EncodedFrame};
use quinn::{Endpoint, RecvStream};

use super::{
    CallOptions,
    core::{Core, Dialer},
    link::{Failure, Identity, Link, Outcome, Wants},
};
use crate::{
    error::{CallError, CallErrorKind, LightningError, Phase},
    io::{FrameReader, FrameWriter},
    signing::Signer,
    types::QuicAxonInfo,
};

/// A client's identity, socket and connections.
#[derive(Clone)]
pub(super) struct Caller {
    pub(super) wallet_hotkey: Arc<str>,
    pub(super) signer: Option<Arc<dyn Signer>>,
    pub(super) endpoint: Option<Endpoint>,
    pub(super) core: Arc<Core>,
}

impl Caller {
    /// Sends a request and waits for its answer, connecting where there is no connection.
    pub(super) async fn exchange(
        &self,
        axon: &QuicAxonInfo,
        synapse_type: &str,
        data: &Payload,
        options: CallOptions,
        wants: Wants,
    ) -> Result<Outcome, CallError> {
        let max_payload = self.core.config.max_frame_payload_bytes;
        let link = self.link_for(axon).await?;
        match link
            .exchange(synapse_type, data, max_payload, options, wants)
            .await
        {
            Ok(outcome) => Ok(outcome),
            Err(failure) => {
                let link = self.link_after(axon, &link, failure).await?;
                let again = link
                    .exchange(synapse_type, data, max_payload, options, wants)
                    .await;
                again.map_err(|f| f.of(axon))
            }
        }
    }

    /// Opens a stream to a miner whose protocol passes `check`, and sends the first frame on it.
    pub(super) async fn open(
        &self,
        axon: &QuicAxonInfo,
        frame: EncodedFrame,
        check: impl Fn(Version) -> Result<(), CallErrorKind>,
    ) -> Result<(FrameWriter, FrameReader<RecvStream>), CallError> {
        let check = |link: &Link| {
            check(link.version).map_err(|kind| Failure::new(Phase::Send, kind).of(axon))
        };
        let link = self.link_for(axon).await?;
        check(&link)?;
        match link.open(frame.clone()).await {
            Ok(stream) => Ok(stream),
            Err(failure) => {
                let link = self.link_after(axon, &link, failure).await?;
                check(&link)?;
                link.open(frame).await.map_err(|f| f.of(axon))
            }
        }
    }

    /// Returns a connection on which this miner is authenticated, dialling if there is none.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a dial goes on for others.
    pub(super) async fn link_for(&self, axon: &QuicAxonInfo) -> Result<Arc<Link>, CallError> {
        if let Some(link) = self.core.live_link(axon) {
            return Ok(link);
        }
        let failed = |kind| Failure::new(Phase::Dial, kind).of(axon);
        if self.endpoint.is_none() {
            return Err(failed(CallErrorKind::NotInitialized));
        }
        let dialer = self.dialer().map_err(|e| match e {
            LightningError::Signing(text) => failed(CallErrorKind::Signing(text)),
            other => failed(CallErrorKind::Config(other.to_string())),
        })?;
        dialer.link_for(axon).await.map_err(|f| f.of(axon))
    }

    pub(super) fn dialer(&self) -> Result<Dialer, LightningError> {
        let endpoint = self
            .endpoint
            .clone()
            .ok_or_else(|| LightningError::Connection(CallErrorKind::NotInitialized.to_string()))?;
        let signer = self
            .signer
            .clone()
            .ok_or_else(|| LightningError::Signing("No signer configured".into()))?;
        let identity = Identity {
            hotkey: self.wallet_hotkey.clone(),
            signer,
        };
        Ok(Dialer {
            core: self.core.clone(),
            endpoint,
            identity,
        })
    }

    /// Returns another connection to a miner when this one turned out to be lost before the request
    /// was sent, and the failure otherwise.
    async fn link_after(
        &self,
        axon: &QuicAxonInfo,
        link: &Link,
        failure: Failure,
    ) -> Result<Arc<Link>, CallError> {
        if !lost_unsent(&failure) {
            return Err(failure.of(axon));
        }
        link.note_end();
        self.link_for(axon).await
    }
}

/// Whether the connection was lost before the request was sent, so that another one may carry it.
pub(super) fn lost_unsent(failure: &Failure) -> bool {
    failure.phase == Phase::Send && matches!(failure.kind, CallErrorKind::Lost(_))
}
