//! The implementation for both packages, written once and compiled against either.
//!
//! That is a test too: what existing code uses is there, under the same names and with the same
//! types.

macro_rules! peers {
    ($(#[$doc:meta])* $name:ident, $package:ident) => {
        $(#[$doc])*
        pub mod $name {
            use std::{
                collections::{HashMap, HashSet},
                net::SocketAddr,
                sync::Arc,
                time::Duration,
            };

            use async_trait::async_trait;
            use btlightning::{QuicAxonInfo, QuicResponse};
            use serde::{Serialize, de::DeserializeOwned};
            use tokio::{sync::mpsc, task::JoinHandle};
            use ::$package::{self as package, LightningError};

            use crate::{
                CLIENT, axon,
                peer::{self, Failure, Later, Map, Outcome, Permits, Settings},
                until, within,
            };

            /// A client of this package.
            #[allow(missing_debug_implementations, reason = "the published client has none")]
            pub struct Client(pub package::LightningClient);

            /// A stream at a client of this package.
            #[allow(missing_debug_implementations, reason = "the published stream has none")]
            pub struct Chunks(package::StreamingResponse);

            /// A server of this package.
            #[allow(missing_debug_implementations, reason = "the published server has none")]
            pub struct Server {
                /// The server itself.
                pub server: Arc<package::LightningServer>,
                addr: SocketAddr,
                hotkey: String,
                serving: JoinHandle<package::Result<()>>,
            }

            impl peer::Client for Client {
                type Chunks = Chunks;

                async fn connect(miners: Vec<QuicAxonInfo>) -> Self {
                    let config = package::LightningClientConfig::builder()
                        .reconnect_initial_backoff(Duration::from_millis(1))
                        .reconnect_max_backoff(Duration::from_millis(1))
                        .build()
                        .unwrap();
                    let hotkey = crate::hotkey(CLIENT);
                    let mut client = package::LightningClient::with_config(hotkey, config).unwrap();
                    client.set_signer(Box::new(package::Sr25519Signer::from_seed(CLIENT)));
                    let miners = miners.iter().map(of_package).collect();
                    within(client.initialize_connections(miners)).await.unwrap();
                    Self(client)
                }

                async fn query(
                    &self,
                    to: &QuicAxonInfo,
                    kind: &str,
                    data: Map,
                ) -> Result<QuicResponse, Failure> {
                    let request = package::QuicRequest::new(kind.into(), data);
                    ours(within(self.0.query_axon(of_package(to), request)).await)
                }

                async fn query_for(
                    &self,
                    to: &QuicAxonInfo,
                    kind: &str,
                    data: Map,
                    timeout: Duration,
                ) -> Result<QuicResponse, Failure> {
                    let request = package::QuicRequest::new(kind.into(), data);
                    let to = of_package(to);
                    ours(within(self.0.query_axon_with_timeout(to, request, timeout)).await)
                }

                async fn query_typed<Req: Serialize, Resp: DeserializeOwned>(
                    &self,
                    to: &QuicAxonInfo,
                    kind: &str,
                    request: &Req,
                ) -> Result<Resp, Failure> {
                    let request = package::QuicRequest::from_typed(kind, request).unwrap();
                    within(self.0.query_axon(of_package(to), request))
                        .await
                        .and_then(package::QuicResponse::into_result)
                        .and_then(|response| response.deserialize_data())
                        .map_err(text)
                }

                async fn stream(
                    &self,
                    to: &QuicAxonInfo,
                    kind: &str,
                    data: Map,
                ) -> Result<Chunks, Failure> {
                    let request = package::QuicRequest::new(kind.into(), data);
                    let stream = within(self.0.query_axon_stream(of_package(to), request)).await;
                    stream.map(Chunks).map_err(text)
                }

                async fn update_registry(&self, miners: Vec<QuicAxonInfo>) {
                    let miners = miners.iter().map(of_package).collect();
                    within(self.0.update_miner_registry(miners)).await.unwrap();
                }

                async fn hotkeys(&self) -> HashSet<String> {
                    self.0.authenticated_hotkeys().await
                }

                async fn stats(&self) -> HashMap<String, String> {
                    self.0.get_connection_stats().await.unwrap()
                }

                async fn close(&self) {
                    within(self.0.close_all_connections()).await.unwrap();
                }
            }

            impl peer::Chunks for Chunks {
                async fn next(&mut self) -> Result<Option<Vec<u8>>, Failure> {
                    within(self.0.next_chunk()).await.map_err(text)
                }

                async fn all(&mut self) -> Result<Vec<Vec<u8>>, Failure> {
                    within(self.0.collect_all()).await.map_err(text)
                }
            }

            impl peer::Server for Server {
                async fn start(settings: Settings) -> Self {
                    let hotkey = crate::hotkey(settings.seed);
                    let mut server = None;
                    until("the port is free", async || {
                        let mut candidate = prepare(&hotkey, &settings);
                        let started = candidate.start().await.is_ok();
                        server = started.then_some(candidate);
                        started
                    })
                    .await;
                    let server = Arc::new(server.unwrap());
                    let serving = tokio::spawn({
                        let server = server.clone();
                        async move { server.serve_forever().await }
                    });
                    let addr = server.local_addr().unwrap();
                    Self { server, addr, hotkey, serving }
                }

                fn axon(&self) -> QuicAxonInfo {
                    axon(&self.hotkey, self.addr)
                }

                async fn blocking(
                    &self,
                    kind: &str,
                    f: impl Fn(Map) -> Outcome<Map> + Send + Sync + 'static,
                ) {
                    let handler = Arc::new(Blocking(f));
                    let registered = self.server.register_synapse_handler(kind.into(), handler);
                    registered.await.unwrap();
                }

                async fn asynchronous(
                    &self,
                    kind: &str,
                    f: impl Fn(Map) -> Later<Map> + Send + Sync + 'static,
                ) {
                    let handler = Arc::new(Asynchronous(f));
                    let server = &self.server;
                    let registered = server.register_async_synapse_handler(kind.into(), handler);
                    registered.await.unwrap();
                }

                async fn streaming(
                    &self,
                    kind: &str,
                    f: impl Fn(Map, mpsc::Sender<Vec<u8>>) -> Later<()> + Send + Sync + 'static,
                ) {
                    let handler = Arc::new(Streaming(f));
                    let registered = self.server.register_streaming_handler(kind.into(), handler);
                    registered.await.unwrap();
                }

                async fn typed<Req, Resp>(&self, kind: &str, f: fn(Req) -> Outcome<Resp>)
                where
                    Req: DeserializeOwned + Send + 'static,
                    Resp: Serialize + Send + 'static,
                {
                    let handler = package::typed_handler(f);
                    let registered = self.server.register_synapse_handler(kind.into(), handler);
                    registered.await.unwrap();
                }

                async fn typed_async<Req, Resp>(&self, kind: &str, f: fn(Req) -> Later<Resp>)
                where
                    Req: DeserializeOwned + Send + 'static,
                    Resp: Serialize + Send + 'static,
                {
                    let handler = package::typed_async_handler(f);
                    let server = &self.server;
                    let registered = server.register_async_synapse_handler(kind.into(), handler);
                    registered.await.unwrap();
                }

                async fn stats(&self) -> HashMap<String, String> {
                    self.server.get_connection_stats().await.unwrap()
                }

                async fn permitted(&self) -> usize {
                    self.server.get_permitted_validator_count().await
                }

                async fn cleanup(&self, idle_secs: u64) {
                    let cleaned = self.server.cleanup_stale_connections(idle_secs);
                    cleaned.await.unwrap();
                }

                async fn stop(self) {
                    within(self.server.stop()).await.unwrap();
                    within(self.serving).await.unwrap().unwrap();
                }
            }

            fn prepare(hotkey: &str, settings: &Settings) -> package::LightningServer {
                let mut config = package::LightningServerConfig::builder()
                    .handler_timeout_secs(settings.handler_timeout_secs);
                if settings.permits.is_some() {
                    config = config.require_validator_permit(true).validator_permit_refresh_secs(1);
                }
                let mut server = package::LightningServer::with_config(
                    hotkey.into(),
                    "127.0.0.1".into(),
                    settings.port,
                    config.build().unwrap(),
                )
                .unwrap();
                server.set_miner_keypair(settings.seed);
                if let Some(permits) = settings.permits.clone() {
                    server.set_validator_permit_resolver(Box::new(Resolver(permits)));
                }
                server
            }

            struct Resolver(Permits);

            impl package::ValidatorPermitResolver for Resolver {
                fn resolve_permitted_validators(&self) -> package::Result<HashSet<String>> {
                    Ok(self.0.lock().unwrap().clone())
                }
            }

            struct Blocking<F>(F);

            impl<F> package::SynapseHandler for Blocking<F>
            where
                F: Fn(Map) -> Outcome<Map> + Send + Sync,
            {
                fn handle(&self, _synapse_type: &str, data: Map) -> package::Result<Map> {
                    (self.0)(data).map_err(LightningError::handler)
                }
            }

            struct Asynchronous<F>(F);

            #[async_trait]
            impl<F> package::AsyncSynapseHandler for Asynchronous<F>
            where
                F: Fn(Map) -> Later<Map> + Send + Sync,
            {
                async fn handle(&self, _synapse_type: &str, data: Map) -> package::Result<Map> {
                    (self.0)(data).await.map_err(LightningError::handler)
                }
            }

            struct Streaming<F>(F);

            #[async_trait]
            impl<F> package::StreamingSynapseHandler for Streaming<F>
            where
                F: Fn(Map, mpsc::Sender<Vec<u8>>) -> Later<()> + Send + Sync,
            {
                async fn handle(
                    &self,
                    _synapse_type: &str,
                    data: Map,
                    sender: mpsc::Sender<Vec<u8>>,
                ) -> package::Result<()> {
                    (self.0)(data, sender).await.map_err(LightningError::handler)
                }
            }

            fn of_package(axon: &QuicAxonInfo) -> package::QuicAxonInfo {
                let (hotkey, ip) = (axon.hotkey.clone(), axon.ip.clone());
                package::QuicAxonInfo::new(hotkey, ip, axon.port, axon.protocol)
            }

            fn ours(
                response: package::Result<package::QuicResponse>,
            ) -> Result<QuicResponse, Failure> {
                let response = response.map_err(text)?;
                Ok(QuicResponse {
                    success: response.success,
                    data: response.data,
                    latency_ms: response.latency_ms,
                    error: response.error,
                })
            }

            fn text(error: LightningError) -> Failure {
                error.to_string()
            }
        }
    };
}

peers!(
    /// The package of this repository.
    ours, btlightning
);
peers!(
    /// The published package.
    old, published
);
