//! Fan-out: one request to each of many miners at once, some of them dead, some slow.
//!
//! The miners are real servers in four processes. A dead one is a bound socket that nobody reads:
//! packets vanish in it, as they do at most dead addresses of a real subnet. A slow one sleeps
//! before it answers. Good miners are the rest; what is measured is the time until 50 %, 90 % and
//! all of them have answered.

use std::{
    collections::HashMap,
    net::UdpSocket,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use btlightning::{ManyOptions, Payload};
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
    let cold = client.fan_out(miners).await;
    (cold, client.fan_out(miners).await)
}

/// The times at which good miners answered.
struct Stopwatch {
    started: Instant,
    good: usize,
    times_ms: Vec<f64>,
}

impl Stopwatch {
    fn start(miners: &Miners) -> Self {
        Self {
            started: Instant::now(),
            good: miners.all.iter().filter(|(k, _)| *k == Kind::Good).count(),
            times_ms: Vec::new(),
        }
    }

    /// Whether all good ones have answered.
    fn is_done(&self) -> bool {
        self.times_ms.len() == self.good
    }

    fn lap(&mut self) {
        self.times_ms
            .push(self.started.elapsed().as_secs_f64() * 1e3);
    }

    fn milestones(&self) -> Milestones {
        let at = |percent: usize| self.times_ms[(self.good * percent).div_ceil(100) - 1];
        Milestones {
            half_ms: at(50),
            most_ms: at(90),
            all_ms: at(100),
        }
    }
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

enum AnyClient {
    Ours(btlightning::LightningClient),
    Published(Arc<::published::LightningClient>),
}

impl AnyClient {
    async fn new(rival: Rival) -> Result<Self> {
        Ok(if rival == Rival::OursQuery {
            let mut client = ours::new_client(0);
            client.create_endpoint().await?;
            Self::Ours(client)
        } else {
            let mut client = published::new_client(0);
            client.create_endpoint().await?;
            Self::Published(client.into())
        })
    }

    async fn fan_out(&self, miners: &Miners) -> Result<Milestones> {
        match self {
            Self::Ours(client) => fan_out_ours(client, miners).await,
            Self::Published(client) => fan_out_published(client, miners).await,
        }
    }
}

/// One call for all miners of a type of request.
async fn fan_out_ours(
    client: &btlightning::LightningClient,
    miners: &Miners,
) -> Result<Milestones> {
    let mut stopwatch = Stopwatch::start(miners);
    let data = Payload::from_map(&data())?;
    let options = ManyOptions::default()
        .concurrency(miners.all.len())
        .timeout(ANSWER_LIMIT);
    let ask = |slow: bool| {
        let asked: Vec<_> = miners
            .all
            .iter()
            .filter(|(kind, _)| (*kind == Kind::Slow) == slow)
            .collect();
        let axons = asked.iter().map(|(_, server)| ours::axon(server)).collect();
        let many = client.query_many(axons, synapse_type(slow), &data, options);
        (asked, many)
    };
    let (asked, mut answers) = ask(false);
    let (_, slow) = ask(true);
    while !stopwatch.is_done() {
        let answer = answers.next().await.context("answers are missing")?;
        if asked[answer.index].0 == Kind::Good {
            answer.result.context("a good miner did not answer")?;
            stopwatch.lap();
        }
    }
    // The slow and the dead are waited for, so that the next round finds quiet.
    tokio::join!(answers.collect(), slow.collect());
    Ok(stopwatch.milestones())
}

/// A task for each miner, which is what the published crate leaves to its user.
async fn fan_out_published(
    client: &Arc<::published::LightningClient>,
    miners: &Miners,
) -> Result<Milestones> {
    let mut stopwatch = Stopwatch::start(miners);
    let mut calls = JoinSet::new();
    for (kind, server) in &miners.all {
        let (kind, server, client) = (*kind, server.clone(), client.clone());
        calls.spawn(async move {
            let synapse_type = synapse_type(kind == Kind::Slow).to_owned();
            let request = ::published::QuicRequest::new(synapse_type, data());
            let axon = published::axon(&server);
            let answer = client
                .query_axon_with_timeout(axon, request, ANSWER_LIMIT)
                .await;
            (kind, answer)
        });
    }
    while !stopwatch.is_done() {
        let (kind, answer) = calls.join_next().await.context("answers are missing")??;
        if kind == Kind::Good {
            let answer = answer.context("a good miner did not answer")?;
            ensure!(answer.success, "the handler failed");
            stopwatch.lap();
        }
    }
    calls.join_all().await;
    Ok(stopwatch.milestones())
}

fn synapse_type(slow: bool) -> &'static str {
    if slow {
        SLOW_TYPE
    } else {
        Handler::Async.synapse_type()
    }
}

fn data() -> HashMap<String, Value> {
    HashMap::from([(PAYLOAD_KEY.to_owned(), Value::Binary(vec![0x42; 1024]))])
}

const PROCESSES: u32 = 4;
const ANSWER_LIMIT: Duration = Duration::from_secs(12);
