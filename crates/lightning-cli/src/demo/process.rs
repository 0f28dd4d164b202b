//! The miner's process, as the demo sees it.

use std::{net::SocketAddr, process::Stdio, time::Duration};

use anyhow::{Context, Result, ensure};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, Command},
};

use super::miner::{Ready, Role};

/// A running miner. Dropping it kills it; it ends by itself when the demo does.
#[derive(Debug)]
pub(super) struct MinerProcess {
    child: Child,
    /// `None` once the miner was told to stop.
    stdin: Option<ChildStdin>,
    /// Where it listens.
    pub(super) addr: SocketAddr,
}

impl MinerProcess {
    /// Starts this program in its other role and waits until it listens.
    pub(super) async fn start(role: &Role) -> Result<Self> {
        let program = std::env::current_exe().context("cannot find this program")?;
        let mut child = Command::new(program)
            .arg("demo-miner")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start a process")?;
        let mut stdin = child.stdin.take().context("the miner has no stdin")?;
        let stdout = child.stdout.take().context("the miner has no stdout")?;
        let mut line = serde_json::to_vec(role)?;
        line.push(b'\n');
        stdin.write_all(&line).await?;
        let mut answer = String::new();
        let mut stdout = BufReader::new(stdout);
        tokio::time::timeout(START_LIMIT, stdout.read_line(&mut answer))
            .await
            .context("the miner does not listen")?
            .context("cannot read from the miner")?;
        ensure!(!answer.is_empty(), "the miner ended at once");
        let ready: Ready = serde_json::from_str(&answer).context("what the miner said")?;
        Ok(Self {
            child,
            stdin: Some(stdin),
            addr: ready.listening,
        })
    }

    /// Returns the process id.
    pub(super) fn id(&self) -> u32 {
        self.child.id().unwrap_or_default()
    }

    /// Kills the miner without a warning, as a crash would.
    pub(super) async fn kill(&mut self) -> Result<()> {
        self.child.kill().await.context("cannot kill the miner")
    }

    /// Tells the miner to stop; [`ended`](Self::ended) waits for it.
    pub(super) fn ask_to_stop(&mut self) {
        self.stdin = None;
    }

    /// Waits for the end of a miner that ends by itself.
    pub(super) async fn ended(&mut self) -> Result<()> {
        let status = self
            .child
            .wait()
            .await
            .context("cannot wait for the miner")?;
        ensure!(status.success(), "the miner ended with {status}");
        Ok(())
    }
}

/// Far beyond what a start takes on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(10);
