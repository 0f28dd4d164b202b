//! A handler that knows who asks, until when, and whether anybody still waits.
//!
//! ```sh
//! cargo run -p btlightning --example caller_aware
//! ```

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use btlightning::{
    CallOptions, LightningClient, LightningServer, QuicAxonInfo, RequestContext, Sr25519Signer,
    typed_request_handler,
};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

#[derive(Serialize, Deserialize)]
struct Job {
    steps: u32,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Receipt {
    caller: String,
    jobs_so_far: u32,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let miner = Sr25519Signer::from_seed([1; 32]);
    let mut server = LightningServer::new(miner.hotkey(), "127.0.0.1".into(), 0)?;
    server.set_miner_signer(Box::new(miner));

    // The hotkey in the context was proven in the handshake, and on this very connection: it can
    // be billed, limited, trusted.
    let jobs: Arc<Mutex<HashMap<String, u32>>> = Arc::default();
    let count = typed_request_handler(move |context: RequestContext, job: Job| {
        let jobs = jobs.clone();
        async move {
            let (who, left) = (context.hotkey(), context.time_left());
            println!("{who} wants {} steps within {left:?}", job.steps);
            let mut jobs = jobs.lock().unwrap_or_else(PoisonError::into_inner);
            let jobs_so_far = jobs.entry(context.hotkey().to_owned()).or_default();
            *jobs_so_far += 1;
            let caller = context.hotkey().to_owned();
            match *jobs_so_far {
                jobs_so_far @ 0..=2 => Ok(Receipt {
                    caller,
                    jobs_so_far,
                }),
                _ => Err(format!("{caller} has used up its quota")),
            }
        }
    });
    server.register_handler("count", count);

    // When the caller gives up, the handler's future is dropped by itself. Work that it handed to
    // a task of its own learns of it through the context.
    let (tell, mut events) = mpsc::unbounded_channel();
    let grind = typed_request_handler(move |context: RequestContext, job: Job| {
        let tell = tell.clone();
        tokio::spawn(async move {
            let _ = tell.send("begun");
            tokio::select! {
                () = days_of_work(job.steps) => {}
                () = context.cancelled() => {
                    let _ = tell.send("given up");
                }
            }
        })
    });
    server.register_handler("grind", grind);

    server.start().await?;
    let (hotkey, addr) = (server.hotkey().to_owned(), server.local_addr()?);
    let axon = QuicAxonInfo::new(hotkey, addr.ip().to_string(), addr.port(), 4);
    tokio::spawn(async move { server.serve_forever().await });

    let first = connect([2; 32], &axon).await?;
    let second = connect([3; 32], &axon).await?;
    let (job, options) = (Job { steps: 7 }, CallOptions::default());
    for jobs_so_far in [1, 2] {
        for client in [&first, &second] {
            let receipt: Receipt = client.call(&axon, "count", &job, options).await?;
            assert_eq!(receipt.caller, client.hotkey());
            assert_eq!(receipt.jobs_so_far, jobs_so_far);
        }
    }
    let third = first.call::<_, Receipt>(&axon, "count", &job, options);
    assert!(third.await.is_err(), "over the quota");

    // Dropping a call takes it back, and so does a timeout.
    tokio::select! {
        answer = first.call::<_, ()>(&axon, "grind", &job, options) => {
            anyhow::bail!("a week's work was done: {answer:?}");
        }
        event = events.recv() => assert_eq!(event, Some("begun")),
    }
    assert_eq!(events.recv().await, Some("given up"));
    println!("nobody works for somebody who has left");
    Ok(())
}

async fn days_of_work(steps: u32) {
    tokio::time::sleep(Duration::from_secs(86_400) * steps).await;
}

async fn connect(seed: [u8; 32], axon: &QuicAxonInfo) -> btlightning::Result<LightningClient> {
    let signer = Sr25519Signer::from_seed(seed);
    let mut client = LightningClient::new(signer.hotkey());
    client.set_signer(Box::new(signer));
    client.initialize_connections(vec![axon.clone()]).await?;
    Ok(client)
}
