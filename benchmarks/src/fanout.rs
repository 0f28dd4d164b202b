//! Fan-out: one request to each of many miners at once, some of them dead, some slow.
//!
//! The miners are real servers in four processes. A dead one is a bound socket that nobody reads:
//! packets vanish in it, as they do at most dead addresses of a real subnet. A slow one sleeps
//! before it answers. Good miners are the rest; what is measured is the time until 50 %, 90 % and
//! all of them have answered.

use std::{
    collections::HashMap,
    net::UdpSocket,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rmpv::Value;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::{
    Plan,
    measure::{Outcome, median_of},
    process::ServerProcess,
    rivals::{
        DEFAULT_STREAMS, Handler, PAYLOAD_KEY, Rival, SLOW_TYPE, ServerInfo, ours, published,
    },
};

/// How one rival fared.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct FanoutRow {
    pub(crate) rival: Rival,
    pub(crate) miners: usize,
    pub(crate) dead: usize,
    pub(crate) slow: usize,
    /// With a new client: dials on demand.
    pub(crate) cold: Vec<Outcome<Milestones>>,
    /// The same client again: the good ones are connected, the dead ones have failed once.
    pub(crate) warm: Vec<Outcome<Milestones>>,
}

/// Times since the fan-out began, in milliseconds.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Milestones {
    /// Half of the good miners have answered.
    pub(crate) half_ms: f64,
    /// Nine in ten have.
    pub(crate) most_ms: f64,
    /// All have.
    pub(crate) all_ms: f64,
}

/// The median of a figure, when all were measured.
pub(crate) fn median(
    outcomes: &[Outcome<Milestones>],
    figure: fn(&Milestones) -> f64,
) -> Option<f64> {
    let measured: Vec<_> = outcomes.iter().filter_map(Outcome::measured).collect();
    if measured.len() < outcomes.len() {
        return None;
    }
    median_of(measured.into_iter().map(figure))
}

/// Measures ours and the published crate, each with servers of its own.
pub(crate) async fn run(plan: &Plan) -> Result<Vec<FanoutRow>> {
    let mut rows = Vec::new();
    for &rival in &plan.rivals {
        if !matches!(rival, Rival::OursQuery | Rival::Published) {
            continue;
        }
        plan.progress(format_args!("fan-out, {}", rival.name()));
        let mut row = FanoutRow {
            rival,
            miners: plan.miners,
            dead: plan.miners / 10,
            slow: plan.miners / 10,
            cold: Vec::new(),
            warm: Vec::new(),
        };
        match Miners::start(rival, &row).await {
            Ok(miners) => {
                for _ in 0..plan.rounds.min(5) {
                    let (cold, warm) = fan_out_twice(rival, &miners).await;
                    row.cold.push(Outcome::of(cold));
                    row.warm.push(Outcome::of(warm));
                }
            }
            Err(error) => row.cold.push(Outcome::of(Err(error))),
        }
        rows.push(row);
    }
    Ok(rows)
}

async fn fan_out_twice(rival: Rival, miners: &Miners) -> (Result<Milestones>, Result<Milestones>) {
    let client = match AnyClient::new(rival).await {
        Ok(client) => client,
        Err(error) => {
            let text = format!("{error:#}");
            return (Err(error), Err(anyhow::anyhow!(text)));
        }
    };
    let cold = fan_out(&client, miners).await;
    (cold, fan_out(&client, miners).await)
}

async fn fan_out(client: &AnyClient, miners: &Miners) -> Result<Milestones> {
    let started = Instant::now();
    let mut calls = JoinSet::new();
    for (kind, server) in &miners.all {
        let (kind, server, client) = (*kind, server.clone(), client.clone());
        calls.spawn(async move { (kind, client.ask(&server, kind).await) });
    }
    let good = miners.all.iter().filter(|(k, _)| *k == Kind::Good).count();
    let mut times_ms = Vec::new();
    while times_ms.len() < good {
        let (kind, result) = calls.join_next().await.context("answers are missing")??;
        if kind == Kind::Good {
            result.context("a good miner did not answer")?;
            times_ms.push(started.elapsed().as_secs_f64() * 1e3);
        }
    }
    // The slow and the dead are waited for, so that the next round finds quiet.
    calls.join_all().await;
    let at = |percent: usize| times_ms[(good * percent).div_ceil(100) - 1];
    Ok(Milestones {
        half_ms: at(50),
        most_ms: at(90),
        all_ms: at(100),
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Good,
    Slow,
    Dead,
}

/// The miners in the order in which they are asked: the kinds are mixed evenly.
#[derive(Debug)]
struct Miners {
    all: Vec<(Kind, ServerInfo)>,
    _processes: Vec<ServerProcess>,
    _black_holes: Vec<UdpSocket>,
}

impl Miners {
    async fn start(rival: Rival, row: &FanoutRow) -> Result<Self> {
        ensure!(row.miners >= 10, "a fan-out needs at least 10 miners");
        let each = u32::try_from(row.miners.div_ceil(PROCESSES as usize))?;
        let mut processes = Vec::new();
        for index in 0..PROCESSES {
            processes.push(ServerProcess::start(rival, index * each, each, DEFAULT_STREAMS).await?);
        }
        let mut black_holes = Vec::new();
        let mut all: Vec<(Kind, ServerInfo)> = processes
            .iter()
            .flat_map(|process| process.servers.iter().cloned())
            .take(row.miners)
            .map(|server| (Kind::Good, server))
            .collect();
        let spread = |nth: usize, of: usize| nth * row.miners / of;
        for nth in 0..row.dead {
            let black_hole = UdpSocket::bind("127.0.0.1:0")?;
            let (kind, server) = &mut all[spread(nth, row.dead)];
            *kind = Kind::Dead;
            server.port = black_hole.local_addr()?.port();
            black_holes.push(black_hole);
        }
        for nth in 0..row.slow {
            // Next to a dead one, which stand ten apart.
            all[spread(nth, row.slow) + 1].0 = Kind::Slow;
        }
        Ok(Self {
            all,
            _processes: processes,
            _black_holes: black_holes,
        })
    }
}

#[derive(Clone)]
enum AnyClient {
    Ours(std::sync::Arc<btlightning::LightningClient>),
    Published(std::sync::Arc<::published::LightningClient>),
}

impl AnyClient {
    async fn new(rival: Rival) -> Result<Self> {
        Ok(if rival == Rival::OursQuery {
            let mut client = ours::new_client(0);
            client.create_endpoint().await?;
            Self::Ours(client.into())
        } else {
            let mut client = published::new_client(0);
            client.create_endpoint().await?;
            Self::Published(client.into())
        })
    }

    async fn ask(&self, server: &ServerInfo, kind: Kind) -> Result<()> {
        let synapse_type = match kind {
            Kind::Slow => SLOW_TYPE,
            Kind::Good | Kind::Dead => Handler::Async.synapse_type(),
        };
        let data = HashMap::from([(PAYLOAD_KEY.to_owned(), Value::Binary(vec![0x42; 1024]))]);
        let success = match self {
            Self::Ours(client) => {
                let request = btlightning::QuicRequest::new(synapse_type.into(), data);
                client
                    .query_axon_with_timeout(ours::axon(server), request, ANSWER_LIMIT)
                    .await?
                    .success
            }
            Self::Published(client) => {
                let request = ::published::QuicRequest::new(synapse_type.into(), data);
                client
                    .query_axon_with_timeout(published::axon(server), request, ANSWER_LIMIT)
                    .await?
                    .success
            }
        };
        ensure!(success, "the handler failed");
        Ok(())
    }
}

const PROCESSES: u32 = 4;
const ANSWER_LIMIT: Duration = Duration::from_secs(12);
