//! Clients and servers of both packages behind one interface, so that one test serves every
//! pairing of them.
//!
#![allow(
    async_fn_in_trait,
    reason = "tests await these in place; nobody needs them to be `Send`"
)]

use std::{
    collections::{HashMap, HashSet},
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use btlightning::{QuicAxonInfo, QuicResponse};
use rmpv::Value;
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::mpsc;

mod packages;

pub use packages::{old, ours};

use crate::{MINER, until};

/// What requests and answers carry.
pub type Map = HashMap<String, Value>;

/// What a handler returns; the text of an error must not leave the server.
pub type Outcome<T> = Result<T, &'static str>;

/// The hotkeys that hold a permit; a test changes it while the server looks.
pub type Permits = Arc<Mutex<HashSet<String>>>;

/// A failure as the caller sees it: its text, which begins with its kind.
pub type Failure = String;

/// How a server differs from one with default settings.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Seed of the miner's key. Default: [`MINER`].
    pub seed: [u8; 32],
    /// Port of 127.0.0.1. Default: a free one.
    pub port: u16,
    /// Seconds a handler may take. Default: 30.
    pub handler_timeout_secs: u64,
    /// Requires permits, and looks for them every second. Default: no permits required.
    pub permits: Option<Permits>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            seed: MINER,
            port: 0,
            handler_timeout_secs: 30,
            permits: None,
        }
    }
}

/// A validator of one of the packages.
pub trait Client: Sized {
    /// A stream of chunks from a server.
    type Chunks: Chunks;

    /// Connects to these miners as [`CLIENT`](crate::CLIENT). Pauses between attempts to reconnect are short.
    async fn connect(miners: Vec<QuicAxonInfo>) -> Self;

    /// Sends a request and waits for its answer.
    async fn query(
        &self,
        to: &QuicAxonInfo,
        kind: &str,
        data: Map,
    ) -> Result<QuicResponse, Failure>;

    /// Like `query`, for at most this long.
    async fn query_for(
        &self,
        to: &QuicAxonInfo,
        kind: &str,
        data: Map,
        timeout: Duration,
    ) -> Result<QuicResponse, Failure>;

    /// Sends a typed request and decodes the answer, whose success is expected.
    async fn query_typed<Req: Serialize, Resp: DeserializeOwned>(
        &self,
        to: &QuicAxonInfo,
        kind: &str,
        request: &Req,
    ) -> Result<Resp, Failure>;

    /// Sends a request whose answer comes in chunks.
    async fn stream(
        &self,
        to: &QuicAxonInfo,
        kind: &str,
        data: Map,
    ) -> Result<Self::Chunks, Failure>;

    /// Reconciles the registry with these miners.
    async fn update_registry(&self, miners: Vec<QuicAxonInfo>);

    /// Returns the hotkeys that are authenticated.
    async fn hotkeys(&self) -> HashSet<String>;

    /// Returns the statistics, as text.
    async fn stats(&self) -> HashMap<String, String>;

    /// Closes all connections.
    async fn close(&self);

    /// Waits until the connection to `to` was closed by the other side, and returns what the
    /// statistics say of it.
    async fn wait_closed(&self, to: &QuicAxonInfo) -> String {
        let key = format!("connection_{}", to.addr_key());
        let mut state = String::new();
        until("the client sees its connection closed", async || {
            state = self.stats().await.remove(&key).unwrap_or_default();
            state.starts_with("closed")
        })
        .await;
        state
    }
}

/// The chunks of one stream.
pub trait Chunks {
    /// Returns the next chunk.
    async fn next(&mut self) -> Result<Option<Vec<u8>>, Failure>;

    /// Returns all chunks that are left.
    async fn all(&mut self) -> Result<Vec<Vec<u8>>, Failure>;
}

/// A miner of one of the packages, on loopback, being served.
pub trait Server: Sized {
    /// Starts a server and serves it.
    async fn start(settings: Settings) -> Self;

    /// Returns where it listens and who it is.
    fn axon(&self) -> QuicAxonInfo;

    /// Serves a type with a blocking handler.
    async fn blocking(&self, kind: &str, f: impl Fn(Map) -> Outcome<Map> + Send + Sync + 'static);

    /// Serves a type with an async handler.
    async fn asynchronous(&self, kind: &str, f: impl Fn(Map) -> Later<Map> + Send + Sync + 'static);

    /// Serves a type with a handler that answers in chunks.
    async fn streaming(
        &self,
        kind: &str,
        f: impl Fn(Map, mpsc::Sender<Vec<u8>>) -> Later<()> + Send + Sync + 'static,
    );

    /// Serves a type with a blocking handler of typed values.
    async fn typed<Req, Resp>(&self, kind: &str, f: fn(Req) -> Outcome<Resp>)
    where
        Req: DeserializeOwned + Send + 'static,
        Resp: Serialize + Send + 'static;

    /// Serves a type with an async handler of typed values.
    async fn typed_async<Req, Resp>(&self, kind: &str, f: fn(Req) -> Later<Resp>)
    where
        Req: DeserializeOwned + Send + 'static,
        Resp: Serialize + Send + 'static;

    /// Returns the statistics, as text.
    async fn stats(&self) -> HashMap<String, String>;

    /// Returns how many hotkeys it believes to hold a permit.
    async fn permitted(&self) -> usize;

    /// Closes connections that have been idle for longer than this.
    async fn cleanup(&self, idle_secs: u64);

    /// Stops it and waits until nothing serves any more.
    async fn stop(self);
}

/// An async handler's result to be.
pub type Later<T> = Pin<Box<dyn Future<Output = Outcome<T>> + Send>>;
