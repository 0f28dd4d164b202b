//! The traits a miner implements, and closures in their place.
//!
//! | trait | runs | knows its caller | values |
//! |---|---|---|---|
//! | [`SynapseHandler`] | on a thread that may block | in [`handle_request`](SynapseHandler::handle_request) | dynamic |
//! | [`AsyncSynapseHandler`] | on an async worker | no | dynamic |
//! | [`StreamingSynapseHandler`] | on an async worker | no | dynamic in, chunks out |
//! | [`RequestHandler`] | on an async worker | yes | [`Payload`] |
//! | [`StreamHandler`] | on an async worker | yes | [`Payload`] and chunks, both ways |
//!
//! What a handler returns as an error is logged here and never leaves the server.

use std::{collections::HashMap, fmt, future::Future, marker::PhantomData, sync::Arc};

use async_trait::async_trait;
use btlightning_proto::Payload;
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::mpsc;

use super::{
    context::RequestContext,
    stream::{ChunkSink, ChunkStream},
};
use crate::error::{LightningError, Result};

/// Answers requests and may block while it does.
pub trait SynapseHandler: Send + Sync {
    /// Answers a request.
    fn handle(
        &self,
        synapse_type: &str,
        data: HashMap<String, rmpv::Value>,
    ) -> Result<HashMap<String, rmpv::Value>>;

    /// Answers a request that is still encoded. Override it to spare the map of dynamic values.
    fn handle_payload(&self, synapse_type: &str, data: Payload) -> Result<Payload> {
        let data = data.into_values()?;
        Ok(Payload::from_values(self.handle(synapse_type, data)?)?)
    }

    /// Answers a request that is still encoded, and knows who asks.
    ///
    /// The server calls this one. Override it for a blocking handler that needs to know its
    /// caller, its deadline, or whether anybody still waits.
    fn handle_request(&self, context: &RequestContext, data: Payload) -> Result<Payload> {
        self.handle_payload(context.synapse_type(), data)
    }

    /// Whether the data of a request becomes a map of dynamic values.
    ///
    /// If so, a large binary value is received into the memory in which the handler gets it.
    /// Default: true. Override it along with [`handle_payload`](Self::handle_payload).
    fn takes_values(&self) -> bool {
        true
    }
}

/// Answers requests without blocking.
#[async_trait]
pub trait AsyncSynapseHandler: Send + Sync {
    /// Answers a request.
    ///
    /// # Cancel safety
    ///
    /// Dropped at its next `.await` when the caller gives up or the time for it is over.
    async fn handle(
        &self,
        synapse_type: &str,
        data: HashMap<String, rmpv::Value>,
    ) -> Result<HashMap<String, rmpv::Value>>;

    /// Answers a request that is still encoded.
    ///
    /// The server calls this one. Override it to spare the map of dynamic values.
    async fn handle_payload(&self, synapse_type: &str, data: Payload) -> Result<Payload> {
        let data = data.into_values()?;
        Ok(Payload::from_values(
            self.handle(synapse_type, data).await?,
        )?)
    }

    /// Whether the data of a request becomes a map of dynamic values.
    ///
    /// If so, a large binary value is received into the memory in which the handler gets it.
    /// Default: true. Override it along with [`handle_payload`](Self::handle_payload).
    fn takes_values(&self) -> bool {
        true
    }
}

/// Answers a request with a stream of chunks.
#[async_trait]
pub trait StreamingSynapseHandler: Send + Sync {
    /// Answers a request by sending chunks; returning ends the stream.
    ///
    /// # Cancel safety
    ///
    /// Dropped at its next `.await` when the caller gives up or the time for it is over.
    async fn handle(
        &self,
        synapse_type: &str,
        data: HashMap<String, rmpv::Value>,
        sender: mpsc::Sender<Vec<u8>>,
    ) -> Result<()>;
}

/// Answers requests and knows who asks.
#[async_trait]
pub trait RequestHandler: Send + Sync {
    /// Answers a request.
    ///
    /// # Cancel safety
    ///
    /// Dropped at its next `.await` when the caller gives up or the time for it is over; tasks it
    /// has spawned can watch [`RequestContext::cancelled`].
    async fn handle(&self, context: RequestContext, data: Payload) -> Result<Payload>;
}

/// Exchanges chunks with a caller it knows: server streaming, client streaming, or both.
#[async_trait]
pub trait StreamHandler: Send + Sync {
    /// Serves a call.
    ///
    /// `input` yields what the client sends after its request; it is empty for a call that was
    /// made as a server stream. What is returned goes to the client behind the last chunk, unless
    /// the call was made as a server stream, which has no place for it.
    ///
    /// # Cancel safety
    ///
    /// Dropped at its next `.await` when the caller gives up or the time for it is over.
    async fn handle(
        &self,
        context: RequestContext,
        data: Payload,
        input: ChunkStream,
        output: &mut ChunkSink,
    ) -> Result<Payload>;
}

/// Makes a [`SynapseHandler`] of a closure over typed values, which are decoded from and encoded
/// to the bytes on the wire.
pub fn typed_handler<Req, Resp, E, F>(f: F) -> Arc<dyn SynapseHandler>
where
    Req: DeserializeOwned + Send + 'static,
    Resp: Serialize + Send + 'static,
    E: fmt::Display + 'static,
    F: Fn(Req) -> std::result::Result<Resp, E> + Send + Sync + 'static,
{
    Arc::new(Typed {
        f,
        signature: PhantomData::<fn(Req) -> (Resp, E)>,
    })
}

/// Makes an [`AsyncSynapseHandler`] of an async closure over typed values, which are decoded from
/// and encoded to the bytes on the wire.
pub fn typed_async_handler<Req, Resp, E, F, Fut>(f: F) -> Arc<dyn AsyncSynapseHandler>
where
    Req: DeserializeOwned + Send + 'static,
    Resp: Serialize + Send + 'static,
    E: fmt::Display + 'static,
    F: Fn(Req) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = std::result::Result<Resp, E>> + Send + 'static,
{
    Arc::new(Typed {
        f,
        signature: PhantomData::<fn(Req) -> (Resp, E, Fut)>,
    })
}

/// Makes a [`RequestHandler`] of an async closure that takes its caller's context and a typed
/// value.
pub fn typed_request_handler<Req, Resp, E, F, Fut>(f: F) -> Arc<dyn RequestHandler>
where
    Req: DeserializeOwned + Send + 'static,
    Resp: Serialize + Send + 'static,
    E: fmt::Display + 'static,
    F: Fn(RequestContext, Req) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = std::result::Result<Resp, E>> + Send + 'static,
{
    Arc::new(Typed {
        f,
        signature: PhantomData::<fn(RequestContext, Req) -> (Resp, E, Fut)>,
    })
}

/// A closure over typed values; the marker tells its forms apart.
struct Typed<F, Signature> {
    f: F,
    signature: PhantomData<Signature>,
}

impl<F, Req, Resp, E> SynapseHandler for Typed<F, fn(Req) -> (Resp, E)>
where
    Req: DeserializeOwned + Send + 'static,
    Resp: Serialize + Send + 'static,
    E: fmt::Display + 'static,
    F: Fn(Req) -> std::result::Result<Resp, E> + Send + Sync + 'static,
{
    fn handle(
        &self,
        synapse_type: &str,
        data: HashMap<String, rmpv::Value>,
    ) -> Result<HashMap<String, rmpv::Value>> {
        Ok(self
            .handle_payload(synapse_type, Payload::from_map(&data)?)?
            .to_map()?)
    }

    fn handle_payload(&self, _synapse_type: &str, data: Payload) -> Result<Payload> {
        encode((self.f)(data.deserialize()?))
    }

    fn takes_values(&self) -> bool {
        false
    }
}

#[async_trait]
impl<F, Req, Resp, E, Fut> AsyncSynapseHandler for Typed<F, fn(Req) -> (Resp, E, Fut)>
where
    Req: DeserializeOwned + Send + 'static,
    Resp: Serialize + Send + 'static,
    E: fmt::Display + 'static,
    F: Fn(Req) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = std::result::Result<Resp, E>> + Send + 'static,
{
    async fn handle(
        &self,
        synapse_type: &str,
        data: HashMap<String, rmpv::Value>,
    ) -> Result<HashMap<String, rmpv::Value>> {
        let data = Payload::from_map(&data)?;
        Ok(self.handle_payload(synapse_type, data).await?.to_map()?)
    }

    async fn handle_payload(&self, _synapse_type: &str, data: Payload) -> Result<Payload> {
        let answer = (self.f)(data.deserialize()?);
        encode(answer.await)
    }

    fn takes_values(&self) -> bool {
        false
    }
}

#[async_trait]
impl<F, Req, Resp, E, Fut> RequestHandler for Typed<F, fn(RequestContext, Req) -> (Resp, E, Fut)>
where
    Req: DeserializeOwned + Send + 'static,
    Resp: Serialize + Send + 'static,
    E: fmt::Display + 'static,
    F: Fn(RequestContext, Req) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = std::result::Result<Resp, E>> + Send + 'static,
{
    async fn handle(&self, context: RequestContext, data: Payload) -> Result<Payload> {
        let answer = (self.f)(context, data.deserialize()?);
        encode(answer.await)
    }
}

fn encode<T: Serialize, E: fmt::Display>(answer: std::result::Result<T, E>) -> Result<Payload> {
    Ok(Payload::from_typed(
        &answer.map_err(LightningError::handler)?,
    )?)
}
