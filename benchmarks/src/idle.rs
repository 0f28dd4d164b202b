//! A server with many idle authenticated connections: memory for each.

use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Child,
    time::timeout,
};

use crate::{
    Plan,
    measure::Outcome,
    process::{self, ServerProcess},
    rivals::{Client, DEFAULT_STREAMS, Handler, Payload, Rival, ServerInfo},
};

/// How one rival fared.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct IdleRow {
    pub(crate) rival: Rival,
    pub(crate) connections: usize,
    pub(crate) outcome: Outcome<IdleMemory>,
}

/// The server process's memory.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct IdleMemory {
    /// After one connection, so that what is made once does not count.
    pub(crate) before_bytes: u64,
    /// With all connections, each of which has had one answer.
    pub(crate) after_bytes: u64,
    /// The difference for one connection.
    pub(crate) per_connection_bytes: f64,
}

/// Measures all rivals but the mixed ones.
pub(crate) async fn run(plan: &Plan) -> Result<Vec<IdleRow>> {
    let mut rows = Vec::new();
    for &rival in &plan.rivals {
        // The zero-copy interface has the same connections.
        if rival.is_mixed() || rival == Rival::OursPayload {
            continue;
        }
        plan.progress(format_args!(
            "{} idle connections, {}",
            plan.idle_connections,
            rival.name()
        ));
        rows.push(IdleRow {
            rival,
            connections: plan.idle_connections,
            outcome: Outcome::of(run_rival(rival, plan.idle_connections).await),
        });
    }
    Ok(rows)
}

async fn run_rival(rival: Rival, connections: usize) -> Result<IdleMemory> {
    let server = ServerProcess::start(rival, 0, 1, DEFAULT_STREAMS).await?;
    let pid = server.pid()?;
    let info = server.servers.first().context("no server")?;
    let _first = connect_in_child(rival, info, 0, 1).await?;
    let (before_bytes, _) = process::memory(pid)?;

    // In several processes: each client has a socket and buffers of its own.
    let each = connections.div_ceil(CLIENT_PROCESSES);
    let mut children = Vec::new();
    let mut made = 0;
    while made < connections {
        let count = each.min(connections - made);
        children.push(connect_in_child(rival, info, 1 + made, count).await?);
        made += count;
    }
    let (after_bytes, _) = process::memory(pid)?;
    Ok(IdleMemory {
        before_bytes,
        after_bytes,
        per_connection_bytes: (after_bytes as f64 - before_bytes as f64) / connections as f64,
    })
}

/// Starts a child with `count` clients and waits until all are connected. Dropping it ends it.
async fn connect_in_child(
    rival: Rival,
    server: &ServerInfo,
    first: usize,
    count: usize,
) -> Result<Child> {
    let mut child = process::command(&[
        "idle-clients",
        "--rival",
        &rival.id(),
        "--server",
        &serde_json::to_string(server)?,
        "--first",
        &first.to_string(),
        "--count",
        &count.to_string(),
    ])?
    .stdin(std::process::Stdio::piped())
    .spawn()?;
    let stdout = child.stdout.take().context("the child has no output")?;
    timeout(CONNECT_LIMIT, BufReader::new(stdout).lines().next_line())
        .await
        .context("the clients did not connect in time")??
        .context("the clients could not connect")?;
    Ok(child)
}

/// What the child does: connects, asks once, and stays until its input is closed.
pub(crate) async fn clients(
    rival: Rival,
    server: &ServerInfo,
    first: u32,
    count: u32,
) -> Result<()> {
    let payload = Payload::new(256)?;
    let mut clients = Vec::new();
    for index in first..first + count {
        let client = Client::connect(rival, server, index).await?;
        client.echo(Handler::Async, &payload).await?;
        clients.push(client);
    }
    process::print_result(&clients.len())?;
    process::wait_for_end().await
}

const CLIENT_PROCESSES: usize = 4;
const CONNECT_LIMIT: Duration = Duration::from_secs(120);
