//! One validator asks many miners at a time, and copes with those that are slow or dead.
//!
//! ```sh
//! cargo run -p btlightning --example concurrent_queries
//! ```

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use btlightning::{
    LightningClient, LightningServer, QuicAxonInfo, QuicRequest, Sr25519Signer, typed_async_handler,
};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

#[derive(Serialize, Deserialize)]
struct Guess {
    of: u64,
}

#[derive(Serialize, Deserialize)]
struct Estimate {
    value: u64,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // Seven miners that answer, one that never does, and one that is registered and not there.
    let mut servers = Vec::new();
    for offset in 0..8 {
        servers.push(start_miner(offset).await?);
    }
    let mut miners: Vec<QuicAxonInfo> = servers.iter().map(|(_, axon)| axon.clone()).collect();
    let nobody = std::net::UdpSocket::bind("127.0.0.1:0")?;
    let hotkey = Sr25519Signer::from_seed([99; 32]).hotkey();
    let port = nobody.local_addr()?.port();
    miners.push(QuicAxonInfo::new(hotkey, "127.0.0.1".into(), port, 4));

    let validator = Sr25519Signer::from_seed([200; 32]);
    let config = btlightning::LightningClientConfig::builder()
        .connect_timeout(Duration::from_secs(2))
        .build()?;
    let mut client = LightningClient::with_config(validator.hotkey(), config)?;
    client.set_signer(Box::new(validator));
    // All addresses are dialled at a time. A miner that cannot be reached is logged, not an error:
    // a subnet always has some.
    client.initialize_connections(miners.clone()).await?;
    println!(
        "{} of {} miners authenticated",
        client.stats().active_miners,
        miners.len()
    );
    assert_eq!(client.stats().active_miners, 8);

    // One task a miner. The client is shared; no query waits for another.
    let client = Arc::new(client);
    let mut tasks = JoinSet::new();
    for miner in miners {
        let request = QuicRequest::from_typed("guess", &Guess { of: 1000 })?;
        let client = Arc::clone(&client);
        tasks.spawn(async move {
            let hotkey = miner.hotkey.clone();
            let limit = Duration::from_secs(2);
            (
                hotkey,
                client.query_axon_with_timeout(miner, request, limit).await,
            )
        });
    }

    let mut estimates = BTreeMap::new();
    let mut failures = Vec::new();
    while let Some(finished) = tasks.join_next().await {
        let (hotkey, result) = finished?;
        match result.and_then(|response| response.into_result()?.deserialize_data::<Estimate>()) {
            Ok(estimate) => {
                estimates.insert(hotkey, estimate.value);
            }
            Err(error) => {
                println!("{hotkey}: {error}");
                failures.push(error.to_string());
            }
        }
    }
    println!("estimates: {:?}", estimates.values());
    let mut values: Vec<u64> = estimates.into_values().collect();
    values.sort_unstable();
    assert_eq!(values, [1000, 1001, 1002, 1003, 1004, 1005, 1006]);
    assert_eq!(failures.len(), 2);
    assert!(failures.contains(&"transport error: query timed out".into()));

    client.close_all_connections().await?;
    Ok(())
}

/// Starts a miner whose estimates are too high by `offset`; number 7 never answers.
async fn start_miner(offset: u64) -> anyhow::Result<(Arc<LightningServer>, QuicAxonInfo)> {
    let signer = Sr25519Signer::from_seed([offset as u8 + 1; 32]);
    let mut server = LightningServer::new(signer.hotkey(), "127.0.0.1".into(), 0)?;
    server.set_miner_signer(Box::new(signer));
    let handler = typed_async_handler(move |guess: Guess| async move {
        if offset == 7 {
            std::future::pending::<()>().await;
        }
        let value = guess.of + offset;
        Ok::<_, std::convert::Infallible>(Estimate { value })
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
