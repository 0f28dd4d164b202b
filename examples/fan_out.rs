//! One request to a whole subnet in one call: answers as they come, until there are enough.
//!
//! ```sh
//! cargo run -p btlightning --example fan_out
//! ```

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use btlightning::{
    LightningClient, LightningServer, ManyOptions, Payload, QuicAxonInfo, Sr25519Signer,
    typed_async_handler,
};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Guess {
    of: u64,
}

#[derive(Serialize, Deserialize)]
struct Estimate {
    value: u64,
}

/// What is wrong with a miner.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Quirk {
    Nothing,
    /// Forgets every first request it gets, and answers every second one.
    Forgetful,
    /// Never answers.
    Stuck,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut servers = Vec::new();
    let mut miners = Vec::new();
    // One that is registered and not there comes first, and holds up nobody.
    let nobody = std::net::UdpSocket::bind("127.0.0.1:0")?;
    let hotkey = Sr25519Signer::from_seed([99; 32]).hotkey();
    let port = nobody.local_addr()?.port();
    miners.push(QuicAxonInfo::new(hotkey, "127.0.0.1".into(), port, 4));
    let quirks = [
        Quirk::Stuck,
        Quirk::Forgetful,
        Quirk::Nothing,
        Quirk::Nothing,
    ];
    for (offset, quirk) in (0..).zip(quirks) {
        let (server, axon) = start_miner(offset, quirk).await?;
        servers.push(server);
        miners.push(axon);
    }

    let validator = Sr25519Signer::from_seed([200; 32]);
    let mut client = LightningClient::new(validator.hotkey());
    client.set_signer(Box::new(validator));
    // Miners are dialled on demand, so there is nothing more to prepare.
    client.create_endpoint().await?;

    // Encoded once, for all of them.
    let request = Payload::from_typed(&Guess { of: 1000 })?;

    // As soon as two have answered, the others are cancelled.
    let options = ManyOptions::default().wanted(2);
    let mut answers = client.query_many(miners.clone(), "guess", &request, options);
    let mut quick = Vec::new();
    while let Some(answer) = answers.next().await {
        let estimate: Estimate = answer.result?.data.deserialize()?;
        println!("miner {} estimates {}", answer.index, estimate.value);
        quick.push(estimate.value);
    }
    quick.sort_unstable();
    assert_eq!(quick, [1002, 1003]);

    // This time all that can be had within three seconds; whoever says nothing for half a second is
    // asked a second time.
    let options = ManyOptions::default()
        .deadline(Duration::from_secs(3))
        .hedge_after(Duration::from_millis(500));
    let answers = client.query_many(miners, "guess", &request, options);
    let mut estimates = Vec::new();
    let mut failures = Vec::new();
    // In the order of the miners.
    for answer in answers.collect().await {
        match answer.result {
            Ok(reply) => estimates.push(reply.data.deserialize::<Estimate>()?.value),
            Err(error) => {
                println!("miner {}: {error}", answer.index);
                failures.push(error.phase().to_string());
            }
        }
    }
    println!("estimates: {estimates:?}");
    assert_eq!(estimates, [1001, 1002, 1003]);
    // One could not be dialled, and one was asked and said nothing.
    assert_eq!(failures, ["dial", "wait"]);

    client.close_all_connections().await?;
    Ok(())
}

/// Starts a miner whose estimates are too high by `offset`.
async fn start_miner(
    offset: u64,
    quirk: Quirk,
) -> anyhow::Result<(Arc<LightningServer>, QuicAxonInfo)> {
    let signer = Sr25519Signer::from_seed([offset as u8 + 1; 32]);
    let mut server = LightningServer::new(signer.hotkey(), "127.0.0.1".into(), 0)?;
    server.set_miner_signer(Box::new(signer));
    let asked = Arc::new(AtomicU32::new(0));
    let handler = typed_async_handler(move |guess: Guess| {
        let before = asked.fetch_add(1, Ordering::Relaxed);
        async move {
            if quirk == Quirk::Stuck || (quirk == Quirk::Forgetful && before.is_multiple_of(2)) {
                std::future::pending::<()>().await;
            }
            let value = guess.of + offset;
            Ok::<_, std::convert::Infallible>(Estimate { value })
        }
    });
    server
        .register_async_synapse_handler("guess".into(), handler)
        .await?;
    server.start().await?;
    let (hotkey, addr) = (server.hotkey().to_owned(), server.local_addr()?);
    let axon = QuicAxonInfo::new(hotkey, addr.ip().to_string(), addr.port(), 4);
    let server = Arc::new(server);
    let serving = server.clone();
    tokio::spawn(async move { serving.serve_forever().await });
    Ok((server, axon))
}
