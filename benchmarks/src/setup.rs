//! Connection setup: making a client and its socket, and from the dial to the first answer.

use std::time::Instant;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::{
    Plan,
    measure::{Outcome, median_of},
    rivals::{Client, DEFAULT_STREAMS, Handler, Payload, Rival, Server},
};

/// How long one rival takes to get the first answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SetupRow {
    pub(crate) rival: Rival,
    /// The medians of each round.
    pub(crate) rounds: Vec<Outcome<Times>>,
    /// The medians of those, when all were measured.
    pub(crate) median: Option<Times>,
}

/// Times in milliseconds.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Times {
    /// Making the client and its socket.
    pub(crate) client_ms: f64,
    /// Dial, handshakes, and the first answer.
    pub(crate) connection_ms: f64,
}

/// Measures all rivals in turn.
pub(crate) async fn run(plan: &Plan) -> Result<Vec<SetupRow>> {
    let payload = Payload::new(256)?;
    let mut servers = Vec::new();
    for &rival in &plan.rivals {
        servers.push((rival, Server::start(rival, 0, DEFAULT_STREAMS).await));
    }
    let mut rounds = vec![Vec::new(); servers.len()];
    for round in 0..plan.rounds {
        plan.progress(format_args!("connection setup, round {}", round + 1));
        for turn in 0..servers.len() {
            let index = if round % 2 == 0 {
                turn
            } else {
                servers.len() - 1 - turn
            };
            let (rival, server) = &servers[index];
            let result = match server {
                Ok(server) => round_of(*rival, server, &payload, plan.connections).await,
                Err(error) => Err(anyhow::anyhow!("cannot start the server: {error:#}")),
            };
            rounds[index].push(Outcome::of(result));
        }
    }
    let rows = servers.iter().zip(rounds).map(|((rival, _), rounds)| {
        let measured: Vec<Times> = rounds
            .iter()
            .filter_map(|r| r.measured().copied())
            .collect();
        SetupRow {
            rival: *rival,
            median: (measured.len() == rounds.len())
                .then(|| median(&measured))
                .flatten(),
            rounds,
        }
    });
    Ok(rows.collect())
}

async fn round_of(
    rival: Rival,
    server: &Server,
    payload: &Payload,
    connections: usize,
) -> Result<Times> {
    let mut times = Vec::new();
    for _ in 0..connections {
        let started = Instant::now();
        let client = Client::undialled(rival, &server.info, 0).await?;
        let made = started.elapsed();
        client.echo(Handler::Async, payload).await?;
        let answered = started.elapsed();
        client.close().await;
        times.push(Times {
            client_ms: made.as_secs_f64() * 1e3,
            connection_ms: (answered - made).as_secs_f64() * 1e3,
        });
    }
    median(&times).context("no connection was made")
}

fn median(times: &[Times]) -> Option<Times> {
    Some(Times {
        client_ms: median_of(times.iter().map(|time| time.client_ms))?,
        connection_ms: median_of(times.iter().map(|time| time.connection_ms))?,
    })
}
