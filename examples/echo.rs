//! A miner that returns what it gets, and a validator that asks it.
//!
//! ```sh
//! cargo run -p btlightning --example echo
//! ```

use std::{collections::HashMap, sync::Arc};

use btlightning::{
    LightningClient, LightningServer, QuicAxonInfo, QuicRequest, Result, Sr25519Signer,
    SynapseHandler,
};
use rmpv::Value;

/// A handler over dynamic values. It runs on a thread of its own and may block.
struct Echo;

impl SynapseHandler for Echo {
    fn handle(
        &self,
        synapse_type: &str,
        data: HashMap<String, Value>,
    ) -> Result<HashMap<String, Value>> {
        println!("miner: got {} values of type {synapse_type}", data.len());
        Ok(data)
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // The miner: a hotkey, an address (port 0 takes a free one), handlers by synapse type.
    let miner = Sr25519Signer::from_seed([1; 32]);
    let mut server = LightningServer::new(miner.hotkey(), "127.0.0.1".into(), 0)?;
    server.set_miner_signer(Box::new(miner));
    server
        .register_synapse_handler("echo".into(), Arc::new(Echo))
        .await?;
    server.start().await?;

    // What the chain tells validators about a miner. 4 is the protocol number of QUIC.
    let addr = server.local_addr()?;
    let axon = QuicAxonInfo::new(
        server.hotkey().into(),
        addr.ip().to_string(),
        addr.port(),
        4,
    );

    let server = Arc::new(server);
    let serving = tokio::spawn({
        let server = server.clone();
        async move { server.serve_forever().await }
    });

    // The validator: a hotkey of its own, and the miners it wants to talk to. Both sides prove
    // their hotkeys once; the connection is kept.
    let validator = Sr25519Signer::from_seed([2; 32]);
    let mut client = LightningClient::new(validator.hotkey());
    client.set_signer(Box::new(validator));
    client.initialize_connections(vec![axon.clone()]).await?;
    assert!(client.authenticated_hotkeys().await.contains(&axon.hotkey));

    let data = HashMap::from([
        ("text".to_owned(), Value::from("hello")),
        ("bytes".to_owned(), Value::Binary(vec![0; 1024])),
        ("numbers".to_owned(), Value::Array(vec![1.into(), 2.into()])),
    ]);
    let request = QuicRequest::new("echo".into(), data.clone());
    let response = client.query_axon(axon.clone(), request).await?;
    println!("validator: answered in {:.3} ms", response.latency_ms);
    // A miner that refuses or fails answers too; `into_result` turns that into an error.
    let response = response.into_result()?;
    assert_eq!(response.data, data);

    let unknown = QuicRequest::new("unknown".into(), HashMap::new());
    let response = client.query_axon(axon, unknown).await?;
    assert!(!response.success);
    assert_eq!(response.error.as_deref(), Some("unrecognized synapse type"));

    // Each side tells the other that it goes.
    client.close_all_connections().await?;
    server.stop().await?;
    Ok(serving.await??)
}
