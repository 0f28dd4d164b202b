//! The Rust samples of the package's documentation, as they are written there.
//!
//! Only keys and addresses are replaced, by ones that can be reached, and what the samples leave
//! open (`/* … */`) is filled in. The samples about the metagraph are not among them.

use std::{collections::BTreeMap, convert::Infallible};

use btlightning::typed_handler;
use lightning_tests::{CLIENT, Miner, hotkey, miner_with};

#[derive(serde::Deserialize)]
struct Prompt {
    prompt: String,
}

#[derive(serde::Serialize)]
struct Echo {
    answer: String,
}

/// Starts miners that answer `MyQuery`.
async fn start_miners() -> anyhow::Result<Vec<Miner>> {
    let mut miners = Vec::new();
    for n in 1..=3 {
        let server = miner_with([n; 32], 0, Default::default());
        let handler = typed_handler(move |Prompt { prompt }| {
            let answer = format!("{prompt} from {n}");
            Ok::<_, Infallible>(Echo { answer })
        });
        server
            .register_synapse_handler("MyQuery".into(), handler)
            .await?;
        miners.push(Miner::serve(server).await);
    }
    Ok(miners)
}

#[tokio::test]
async fn samples() -> anyhow::Result<()> {
    let servers = start_miners().await?;
    let (first, seed) = (servers[0].axon(), CLIENT);

    // "Without subtensor, pass miner addresses directly:"
    use btlightning::{LightningClient, QuicAxonInfo, Sr25519Signer};
    let mut client = LightningClient::new(hotkey(CLIENT));
    client.set_signer(Box::new(Sr25519Signer::from_seed(seed)));
    client
        .initialize_connections(vec![QuicAxonInfo::new(
            first.hotkey.clone(),
            "127.0.0.1".into(),
            first.port,
            4,
        )])
        .await?;

    // "Query a single miner by axon info and deserialize the response:"
    let axon_info = first;
    use btlightning::QuicRequest;
    use serde::{Deserialize, Serialize};

    #[derive(Serialize)]
    struct MyQuery {
        prompt: String,
    }

    #[derive(Deserialize)]
    struct MyResult {
        answer: String,
    }

    let request = QuicRequest::from_typed(
        "MyQuery",
        &MyQuery {
            prompt: "hello".into(),
        },
    )?;
    let response = client.query_axon(axon_info, request).await?.into_result()?;
    let result: MyResult = response.deserialize_data()?;
    assert_eq!(result.answer, "hello from 1");

    // "Fan out to every QUIC miner on the subnet concurrently:"
    let metagraph = Subnet(&servers);
    let mut answers = BTreeMap::new();
    use std::sync::Arc;
    use tokio::task::JoinSet;

    let client = Arc::new(client);
    let miners = metagraph.quic_miners();
    let mut tasks = JoinSet::new();
    for miner in miners {
        let req = QuicRequest::from_typed(
            "MyQuery",
            &MyQuery {
                prompt: "hello".into(),
            },
        )?;
        let client = Arc::clone(&client);
        tasks.spawn(async move { (miner.hotkey.clone(), client.query_axon(miner, req).await) });
    }
    while let Some(Ok((hotkey, result))) = tasks.join_next().await {
        match result {
            Ok(resp) => {
                answers.insert(hotkey, resp.deserialize_data::<MyResult>()?.answer);
            }
            Err(e) => {
                panic!("{hotkey}: {e}");
            }
        }
    }
    let expected = [1, 2, 3].map(|n| (hotkey([n; 32]), format!("hello from {n}")));
    assert_eq!(answers, BTreeMap::from(expected));
    Ok(())
}

/// Stands in for the metagraph.
struct Subnet<'a>(&'a [Miner]);

impl Subnet<'_> {
    fn quic_miners(&self) -> Vec<btlightning::QuicAxonInfo> {
        self.0.iter().map(Miner::axon).collect()
    }
}
