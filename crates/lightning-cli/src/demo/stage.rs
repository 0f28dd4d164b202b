//! Who takes part: a miner, two validators, and a visitor.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use btlightning::{LightningClient, LightningClientConfig, QuicAxonInfo, Sr25519Signer};
use lightning_keys::Keypair;

use super::{miner::Role, process::MinerProcess};

/// Everybody who takes part, with keys made for this one show.
pub(super) struct Stage {
    pub(super) miner: MinerProcess,
    /// The miner as validators know it.
    pub(super) axon: QuicAxonInfo,
    pub(super) validators: [LightningClient; 2],
    /// A third key that holds a permit.
    pub(super) visitor: Keypair,
    role: Role,
}

impl Stage {
    /// Makes the keys, starts the miner and binds the validators' sockets.
    pub(super) async fn set() -> Result<Self> {
        let miner_key = Keypair::generate();
        let seed = miner_key.seed().context("a new key has a seed")?;
        let (first, second) = (Keypair::generate(), Keypair::generate());
        let visitor = Keypair::generate();
        let permits = [&first, &second, &visitor];
        let mut role = Role {
            seed: hex::encode(&seed[..]),
            port: 0,
            permits: permits.into_iter().map(Keypair::hotkey).collect(),
        };
        let miner = MinerProcess::start(&role).await?;
        role.port = miner.addr.port();
        let ip = miner.addr.ip().to_string();
        Ok(Self {
            axon: QuicAxonInfo::new(miner_key.hotkey(), ip, role.port, 4),
            miner,
            validators: [client(first).await?, client(second).await?],
            visitor,
            role,
        })
    }

    /// Says where the miner is.
    pub(super) fn introduction(&self) -> String {
        format!("process {} listens on {}", self.miner.id(), self.miner.addr)
    }

    /// Kills the miner and starts it again with the same key on the same port.
    pub(super) async fn restart_miner(&mut self) -> Result<()> {
        self.miner.kill().await?;
        self.miner = MinerProcess::start(&self.role).await?;
        ensure!(
            self.miner.addr.port() == self.axon.port,
            "the miner took another port"
        );
        Ok(())
    }
}

/// Makes a validator that is not connected yet.
pub(super) async fn client(pair: Keypair) -> Result<LightningClient> {
    // Much shorter than the defaults: a killed process says no goodbye, and nobody wants to watch
    // for 150 s how the others wait for it.
    let config = LightningClientConfig::builder()
        .idle_timeout(Duration::from_secs(2))
        .keep_alive_interval(Duration::from_millis(500))
        .connect_timeout(Duration::from_secs(5))
        .reconnect_initial_backoff(Duration::from_millis(100))
        .build()?;
    let mut client = LightningClient::with_config(pair.hotkey(), config)?;
    client.set_signer(Box::new(Sr25519Signer::from_keypair(pair)));
    client.create_endpoint().await?;
    Ok(client)
}
