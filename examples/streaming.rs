//! A miner that answers word by word, and a validator that stops listening when it has heard
//! enough.
//!
//! ```sh
//! cargo run -p btlightning --example streaming
//! ```

use std::{collections::HashMap, sync::Arc};

use async_trait::async_trait;
use btlightning::{
    LightningClient, LightningError, LightningServer, QuicAxonInfo, QuicRequest, Result,
    Sr25519Signer, StreamingSynapseHandler,
};
use rmpv::Value;
use tokio::sync::mpsc;

/// Repeats a text, one word a chunk, as often as asked.
struct Words {
    /// Told when a request is over, however it ended.
    over: mpsc::UnboundedSender<()>,
}

#[async_trait]
impl StreamingSynapseHandler for Words {
    async fn handle(
        &self,
        _synapse_type: &str,
        data: HashMap<String, Value>,
        sender: mpsc::Sender<Vec<u8>>,
    ) -> Result<()> {
        // When the validator gives up, this future is dropped at its next `.await`: whatever must
        // happen then belongs into a `Drop`.
        let _over = TellWhenDropped(self.over.clone());
        let text = data.get("text").and_then(Value::as_str);
        // The text of an error stays in the miner's log; the validator hears only that it failed.
        let text = text.ok_or_else(|| LightningError::handler("the request has no text"))?;
        let times = data.get("times").and_then(Value::as_u64).unwrap_or(1);
        for _ in 0..times {
            for word in text.split_whitespace() {
                // Waits while the validator is slow to read.
                let sent = sender.send(word.as_bytes().to_vec()).await;
                sent.map_err(LightningError::handler)?;
            }
        }
        Ok(())
    }
}

struct TellWhenDropped(mpsc::UnboundedSender<()>);

impl Drop for TellWhenDropped {
    fn drop(&mut self) {
        // Fails only when nobody listens any more.
        let _ = self.0.send(());
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let (over, mut requests_over) = mpsc::unbounded_channel();
    let miner = Sr25519Signer::from_seed([1; 32]);
    let mut server = LightningServer::new(miner.hotkey(), "127.0.0.1".into(), 0)?;
    server.set_miner_signer(Box::new(miner));
    server
        .register_streaming_handler("words".into(), Arc::new(Words { over }))
        .await?;
    server.start().await?;
    let (hotkey, addr) = (server.hotkey().to_owned(), server.local_addr()?);
    let axon = QuicAxonInfo::new(hotkey, addr.ip().to_string(), addr.port(), 4);
    tokio::spawn(async move { server.serve_forever().await });

    let validator = Sr25519Signer::from_seed([2; 32]);
    let mut client = LightningClient::new(validator.hotkey());
    client.set_signer(Box::new(validator));
    client.initialize_connections(vec![axon.clone()]).await?;

    // To the end: `None` says that the miner has sent everything.
    let mut words = Vec::new();
    let mut answer = client.query_axon_stream(axon.clone(), repeat(1)).await?;
    while let Some(chunk) = answer.next_chunk().await? {
        words.push(String::from_utf8(chunk)?);
    }
    println!("heard {words:?}");
    assert_eq!(words, ["the", "quick", "brown", "fox"]);
    requests_over.recv().await;

    // Not to the end: dropping the answer stops the miner's handler, which would go on for hours.
    let mut answer = client
        .query_axon_stream(axon.clone(), repeat(u64::MAX))
        .await?;
    let first = answer.next_chunk().await?;
    assert_eq!(first.as_deref(), Some(&b"the"[..]));
    drop(answer);
    requests_over.recv().await;
    println!("the miner has stopped");

    // A failure reaches the validator behind the chunks that were sent before it.
    let empty = QuicRequest::new("words".into(), HashMap::new());
    let mut answer = client.query_axon_stream(axon, empty).await?;
    match answer.collect_all().await {
        Err(LightningError::Stream(text)) => assert_eq!(text, "stream processing failed"),
        other => anyhow::bail!("expected a failure, got {other:?}"),
    }
    Ok(())
}

fn repeat(times: u64) -> QuicRequest {
    let text = Value::from("the quick brown fox");
    let data = HashMap::from([("text".into(), text), ("times".into(), times.into())]);
    QuicRequest::new("words".into(), data)
}
