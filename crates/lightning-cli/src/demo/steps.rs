//! The steps of the demo: each does something, checks it and says what happened.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use btlightning::{CallErrorKind, CallOptions, Distrust, LightningClient, Payload, Phase, Version};
use lightning_keys::Keypair;
use serde_json::json;

use super::{
    miner::{Amount, Caller, Nothing, Numbers, Total},
    stage::{self, Stage},
};
use crate::{json, output::in_words};

/// A validator connects, and both sides prove their hotkeys.
pub(super) async fn handshake(stage: &mut Stage, which: usize) -> Result<String> {
    let validator = &mut stage.validators[which];
    validator
        .initialize_connections(vec![stage.axon.clone()])
        .await?;
    let hotkeys = validator.authenticated_hotkeys().await;
    ensure!(
        hotkeys.contains(&stage.axon.hotkey),
        "the miner was not authenticated"
    );
    let stats = validator.stats();
    let connection = stats.connections.first().context("no connection")?;
    Ok(format!(
        "both hotkeys proven, protocol {}, round trip {}",
        match connection.version {
            Version::V0 => "btlightning",
            Version::V1 => "btlightning/1",
        },
        in_words(connection.rtt)
    ))
}

/// Every kind of value goes there and back.
pub(super) async fn echo(stage: &Stage) -> Result<String> {
    let data = json!({
        "text": "grüße", "number": -7, "large": u64::MAX, "half": 0.5, "yes": true, "nothing": null,
        "list": [1, [2, {"three": 3}]], "bytes": json::bytes(&[0, 159, 146, 150]),
    });
    let sent = json::to_payload(&data, "the request")?;
    let [validator, _] = &stage.validators;
    let reply = validator
        .call_payload(&stage.axon, "echo", &sent, options())
        .await?;
    ensure!(
        json::from_payload(&reply.data)? == data,
        "another answer came back: {:?}",
        reply.data
    );
    Ok(format!(
        "{} bytes of 8 kinds of values came back the same",
        sent.as_bytes().len()
    ))
}

/// Rust types on both sides, no dynamic values in between.
pub(super) async fn typed(stage: &Stage) -> Result<String> {
    let [_, validator] = &stage.validators;
    let numbers = (1..=1000).collect();
    let total: Total = validator
        .call(&stage.axon, "sum", &Numbers { numbers }, options())
        .await?;
    let expected = Total {
        total: 500_500,
        mean: 500.5,
    };
    ensure!(total == expected, "wrong answer: {total:?}");
    Ok(format!(
        "the sum of 1 to 1000 is {}, the mean {}",
        total.total, total.mean
    ))
}

/// The answer comes in chunks, all of them and in order.
pub(super) async fn server_stream(stage: &Stage) -> Result<String> {
    let [validator, _] = &stage.validators;
    let wanted = Amount {
        chunks: 1000,
        bytes: 8000,
    };
    let request = Payload::from_typed(&wanted)?;
    let mut stream = validator
        .open_stream(&stage.axon, "count", &request)
        .await?;
    let mut chunks: u64 = 0;
    while let Some(chunk) = stream.next_chunk().await? {
        ensure!(
            chunk == chunks.to_be_bytes(),
            "chunk {chunks} came out of order"
        );
        chunks += 1;
    }
    ensure!(
        chunks == wanted.chunks,
        "{chunks} of {} chunks came",
        wanted.chunks
    );
    Ok(format!("{chunks} chunks came in order"))
}

/// The request goes out in chunks; the miner counts them.
pub(super) async fn upload(stage: &Stage) -> Result<String> {
    let [_, validator] = &stage.validators;
    let nothing = Payload::empty();
    let mut call = validator
        .open_duplex(&stage.axon, "upload", &nothing, options())
        .await?;
    let chunk = vec![7; UPLOAD_CHUNK_BYTES];
    for _ in 0..UPLOAD_CHUNKS {
        call.send(chunk.clone()).await?;
    }
    let counted: Amount = call.reply().await?.data.deserialize()?;
    let sent = Amount {
        chunks: UPLOAD_CHUNKS,
        bytes: UPLOAD_CHUNKS * UPLOAD_CHUNK_BYTES as u64,
    };
    ensure!(counted == sent, "sent {sent:?}, the miner has {counted:?}");
    Ok(format!(
        "the miner counts {} chunks, {} MiB",
        counted.chunks,
        counted.bytes >> 20
    ))
}

/// Both validators ask who they are, at the same time.
pub(super) async fn whoami(stage: &Stage) -> Result<String> {
    let [first, second] = &stage.validators;
    let ask = async |validator: &LightningClient| -> Result<String> {
        let caller: Caller = validator
            .call(&stage.axon, "whoami", &Nothing {}, options())
            .await?;
        ensure!(
            caller.hotkey == validator.hotkey(),
            "the miner takes {} for {}",
            validator.hotkey(),
            caller.hotkey
        );
        Ok(short(&caller.hotkey))
    };
    let (first, second) = tokio::try_join!(ask(first), ask(second))?;
    Ok(format!("it tells {first} from {second}"))
}

/// A hotkey without a permit does not get past the handshake.
pub(super) async fn stranger(stage: &Stage) -> Result<String> {
    let stranger = stage::client(Keypair::generate()).await?;
    let refused = stranger
        .call_payload(&stage.axon, "echo", &Payload::empty(), options())
        .await;
    let Err(error) = refused else {
        bail!("a hotkey without a permit got an answer");
    };
    ensure!(
        error.phase() == Phase::Handshake,
        "refused in the wrong phase: {error}"
    );
    Ok(format!("without a permit: {}", error.kind()))
}

/// Whoever answers at the right address with another hotkey is not talked to.
pub(super) async fn false_miner(stage: &Stage) -> Result<String> {
    let visitor = stage::client(stage.visitor.clone()).await?;
    let mut expected = stage.axon.clone();
    expected.hotkey = Keypair::generate().hotkey();
    let refused = visitor
        .call_payload(&expected, "echo", &Payload::empty(), options())
        .await;
    let Err(error) = refused else {
        bail!("an answer of another miner was taken");
    };
    let distrusted = matches!(
        error.kind(),
        CallErrorKind::Distrust(Distrust::WrongHotkey { .. })
    );
    ensure!(
        error.phase() == Phase::Handshake && distrusted,
        "refused for another reason: {error}"
    );
    Ok(format!(
        "expected {}, the handshake shows {}",
        short(&expected.hotkey),
        short(&stage.axon.hotkey)
    ))
}

/// A stream that is dropped half read takes its handler with it.
pub(super) async fn cancel(stage: &Stage) -> Result<String> {
    let [validator, watcher] = &stage.validators;
    let mut stream = validator
        .open_stream(&stage.axon, "forever", &Payload::empty())
        .await?;
    let begun = stream.next_chunk().await?;
    ensure!(begun.is_some(), "the handler did not begin");
    drop(stream);
    let Nothing {} = watcher
        .call(&stage.axon, "was_given_up", &Nothing {}, options())
        .await
        .context("the handler went on")?;
    Ok("the stream was dropped half read, and so was the handler".into())
}

/// The miner dies without a word, and another process takes its place.
pub(super) async fn restart(stage: &mut Stage) -> Result<String> {
    let killed = stage.miner.id();
    stage.restart_miner().await?;
    Ok(format!(
        "process {killed} is dead, {} has its key and port",
        stage.miner.id()
    ))
}

/// Both validators notice and connect anew by themselves.
pub(super) async fn reconnect(stage: &Stage) -> Result<String> {
    let [first, second] = &stage.validators;
    let started = Instant::now();
    let (first, second) = tokio::try_join!(again(stage, first), again(stage, second))?;
    Ok(format!(
        "both have an answer after {}, {} requests were lost",
        in_words(started.elapsed()),
        first + second
    ))
}

/// The miner stops while a request runs: the request is served, then everybody is told.
pub(super) async fn shutdown(stage: &mut Stage) -> Result<String> {
    let [validator, _] = &stage.validators;
    let mut stream = validator
        .open_stream(&stage.axon, "work", &Payload::empty())
        .await?;
    ensure!(
        stream.next_chunk().await?.as_deref() == Some(b"begun"),
        "the handler did not begin"
    );
    stage.miner.ask_to_stop();
    let rest = stream
        .collect_all()
        .await
        .context("the request in progress")?;
    ensure!(rest == [b"done"], "the request was cut short");
    stage.miner.ended().await?;

    for validator in &stage.validators {
        let reason = close_reason(validator).await?;
        ensure!(
            reason.contains("server_shutdown"),
            "the connection ended otherwise: {reason}"
        );
    }
    Ok("the running request was served, both validators were told".into())
}

/// Asks until there is an answer; returns how many requests were lost.
///
/// Safe for an echo only: the lost ones may have been served.
async fn again(stage: &Stage, validator: &LightningClient) -> Result<u32> {
    let mut lost = 0;
    loop {
        let answer = validator
            .call_payload(&stage.axon, "echo", &Payload::empty(), options())
            .await;
        match answer {
            Ok(_) => return Ok(lost),
            Err(error) if lost == MAX_LOST => return Err(error.into()),
            Err(_) => lost += 1,
        }
    }
}

/// Waits for the end of a validator's connection and returns its reason.
async fn close_reason(validator: &LightningClient) -> Result<String> {
    loop {
        let stats = validator.stats();
        let connection = stats.connections.first().context("no connection")?;
        if let Some(reason) = &connection.closed {
            return Ok(reason.to_string());
        }
        // The last packet is on its way, and nothing can be awaited but the time.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn options() -> CallOptions {
    CallOptions::default().timeout(Duration::from_secs(5))
}

/// Returns what tells one hotkey of the demo from another.
fn short(hotkey: &str) -> String {
    format!("{}…", hotkey.get(..8).unwrap_or(hotkey))
}

const UPLOAD_CHUNKS: u64 = 256;

/// With the number of chunks: 4 MiB.
const UPLOAD_CHUNK_BYTES: usize = 16 * 1024;

/// One finds out that the connection is dead, the next one dials.
const MAX_LOST: u32 = 1;
