//! Streams from the validator: an upload with one answer, and a conversation.
//!
//! Against a peer of the published package, such calls fail with `CallErrorKind::Unsupported`.
//!
//! ```sh
//! cargo run -p btlightning --example duplex
//! ```

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use btlightning::{
    CallOptions, ChunkSink, ChunkStream, LightningClient, LightningServer, Payload, QuicAxonInfo,
    RequestContext, Result, Sr25519Signer, StreamHandler,
};

/// Takes chunks and answers, when all have come, how much that was.
struct Measure;

#[async_trait]
impl StreamHandler for Measure {
    async fn handle(
        &self,
        _context: RequestContext,
        _data: Payload,
        mut input: ChunkStream,
        _output: &mut ChunkSink,
    ) -> Result<Payload> {
        let (mut chunks, mut bytes) = (0, 0);
        // Not reading holds the validator back: nothing piles up here.
        while let Some(chunk) = input.next_chunk().await? {
            chunks += 1;
            bytes += chunk.len();
        }
        let total = BTreeMap::from([("chunks", chunks), ("bytes", bytes)]);
        Ok(Payload::from_typed(&total)?)
    }
}

/// Answers each chunk at once, in capitals.
struct Shout;

#[async_trait]
impl StreamHandler for Shout {
    async fn handle(
        &self,
        _context: RequestContext,
        _data: Payload,
        mut input: ChunkStream,
        output: &mut ChunkSink,
    ) -> Result<Payload> {
        while let Some(chunk) = input.next_chunk().await? {
            output.send(chunk.to_ascii_uppercase()).await?;
        }
        Ok(Payload::empty())
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let miner = Sr25519Signer::from_seed([1; 32]);
    let mut server = LightningServer::new(miner.hotkey(), "127.0.0.1".into(), 0)?;
    server.set_miner_signer(Box::new(miner));
    server.register_stream_handler("measure", Arc::new(Measure));
    server.register_stream_handler("shout", Arc::new(Shout));
    server.start().await?;
    let (hotkey, addr) = (server.hotkey().to_owned(), server.local_addr()?);
    let axon = QuicAxonInfo::new(hotkey, addr.ip().to_string(), addr.port(), 4);
    tokio::spawn(async move { server.serve_forever().await });

    let validator = Sr25519Signer::from_seed([2; 32]);
    let mut client = LightningClient::new(validator.hotkey());
    client.set_signer(Box::new(validator));
    client.initialize_connections(vec![axon.clone()]).await?;

    // Client streaming: many chunks up, one reply down. A payload could go ahead of the chunks.
    let (nothing, options) = (Payload::empty(), CallOptions::default());
    let mut call = client
        .open_duplex(&axon, "measure", &nothing, options)
        .await?;
    for _ in 0..20 {
        call.send(vec![7; 100_000]).await?;
    }
    let reply = call.reply().await?;
    let total: BTreeMap<String, usize> = reply.data.deserialize()?;
    println!("validator: uploaded {total:?} in {:?}", reply.latency);
    assert_eq!((total["chunks"], total["bytes"]), (20, 2_000_000));

    // Both ways, one after the other: a conversation.
    let mut call = client
        .open_duplex(&axon, "shout", &nothing, options)
        .await?;
    for word in ["hello", "there"] {
        call.send(word).await?;
        let answer = call.next_chunk().await?;
        assert_eq!(answer.as_deref(), Some(word.to_uppercase().as_bytes()));
    }
    call.reply().await?;

    // Both ways at a time: one task sends, another reads.
    let call = client
        .open_duplex(&axon, "shout", &nothing, options)
        .await?;
    let (mut sender, mut receiver) = call.split();
    let sending = tokio::spawn(async move {
        for n in 0..1000 {
            sender.send(format!("line {n}")).await?;
        }
        sender.finish().await
    });
    let mut lines = 0;
    while let Some(chunk) = receiver.next_chunk().await? {
        assert_eq!(chunk, format!("LINE {lines}"));
        lines += 1;
    }
    sending.await??;
    assert_eq!(lines, 1000);
    Ok(())
}
