//! A hotkey that lies elsewhere: signing by a type of one's own, or by a callback.
//!
//! ```sh
//! cargo run -p btlightning --example custom_signer
//! ```

use std::sync::{Arc, mpsc};

use btlightning::{
    CallOptions, CallbackSigner, LightningClient, LightningError, LightningServer, QuicAxonInfo,
    Result, Signer, Sr25519Signer, typed_handler,
};

/// Stands in for a hardware module or a signing service: the key lives on its thread, and messages
/// and signatures go back and forth.
#[derive(Clone)]
struct Vault {
    requests: mpsc::Sender<(Vec<u8>, mpsc::Sender<Vec<u8>>)>,
}

impl Vault {
    /// Opens a vault and returns it with the address of the key inside.
    fn open(seed: [u8; 32]) -> (Self, String) {
        let key = Sr25519Signer::from_seed(seed);
        let hotkey = key.hotkey();
        let (requests, inbox) = mpsc::channel::<(Vec<u8>, mpsc::Sender<Vec<u8>>)>();
        std::thread::spawn(move || {
            for (message, reply) in inbox {
                // A vault that knows what it signs refuses everything but handshakes.
                if message.starts_with(b"handshake")
                    && let Ok(signature) = key.sign(&message)
                {
                    let _ = reply.send(signature);
                }
            }
        });
        (Self { requests }, hotkey)
    }
}

impl Signer for Vault {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>> {
        let gone = || LightningError::Signing("the vault does not answer".into());
        let (reply, signature) = mpsc::channel();
        self.requests
            .send((message.to_vec(), reply))
            .map_err(|_| gone())?;
        // Waiting is fine: signers are called on threads that may block.
        signature.recv().map_err(|_| gone())
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let (vault, hotkey) = Vault::open([1; 32]);
    let mut server = LightningServer::new(hotkey, "127.0.0.1".into(), 0)?;
    server.set_miner_signer(Box::new(vault));
    server
        .register_synapse_handler("double".into(), typed_handler(double))
        .await?;
    server.start().await?;
    let addr = server.local_addr()?;
    let axon = QuicAxonInfo::new(
        server.hotkey().into(),
        addr.ip().to_string(),
        addr.port(),
        4,
    );
    let server = Arc::new(server);
    tokio::spawn({
        let server = server.clone();
        async move { server.serve_forever().await }
    });

    // A closure will do as well. One signature a connection, none a request.
    let (vault, hotkey) = Vault::open([2; 32]);
    let mut client = LightningClient::new(hotkey);
    client.set_signer(Box::new(CallbackSigner::new(move |message| {
        vault.sign(message)
    })));
    client.initialize_connections(vec![axon.clone()]).await?;
    for n in 0..3 {
        let answer: Number = client
            .call(&axon, "double", &Number { n }, CallOptions::default())
            .await?;
        assert_eq!(answer.n, 2 * n);
    }
    println!("three answers with one signature");

    // A signer that refuses keeps the client out, and says why.
    let mut locked_out = LightningClient::new(Sr25519Signer::from_seed([3; 32]).hotkey());
    locked_out.set_signer(Box::new(CallbackSigner::new(|_| {
        Err(LightningError::Signing("the card is locked".into()))
    })));
    locked_out
        .initialize_connections(vec![axon.clone()])
        .await?;
    let answer = locked_out
        .call::<_, Number>(&axon, "double", &Number { n: 1 }, CallOptions::default())
        .await;
    let Err(error) = answer else {
        anyhow::bail!("served without a signature");
    };
    println!("{error}");
    assert!(error.to_string().contains("the card is locked"));
    assert!(error.is_retry_safe(), "the miner never saw a request");
    Ok(server.stop().await?)
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Number {
    n: u64,
}

fn double(Number { n }: Number) -> std::result::Result<Number, std::convert::Infallible> {
    Ok(Number { n: 2 * n })
}
