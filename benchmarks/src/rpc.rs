//! Throughput and latency, rivals in turn.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use tokio::process::Command;

use crate::{
    Plan,
    measure::{self, Load, Outcome, Sample},
    process::{self, ServerProcess},
    rivals::{Client, Handler, MAX_STREAMS, Payload, Rival, Server, ServerInfo},
    veth::VethPair,
};

/// Where client and server run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Topology {
    /// In one process and one runtime.
    OneProcess,
    /// In a process each.
    TwoProcesses,
    /// In a process each, with a link between them that carries no packets over 1500 bytes.
    NarrowPath,
    /// In one process, on a loopback interface that carries no packets over 1500 bytes.
    NarrowLoopback,
}

impl Topology {
    /// The title of its tables.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::OneProcess => "client and server in one process",
            Self::TwoProcesses => "client and server in two processes",
            Self::NarrowPath => "two processes, a veth pair that carries 1500 bytes",
            Self::NarrowLoopback => "one process, a loopback interface that carries 1500 bytes",
        }
    }
}

/// One kind of load in one topology.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cell {
    pub(crate) topology: Topology,
    pub(crate) handler: Handler,
    pub(crate) in_flight: usize,
    pub(crate) payload_bytes: usize,
}

/// What one rival did with one load.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Row {
    #[serde(flatten)]
    pub(crate) cell: Cell,
    pub(crate) rival: Rival,
    /// The rounds in turn.
    pub(crate) rounds: Vec<Outcome<Sample>>,
    /// Medians over the rounds, when all were measured.
    pub(crate) median: Option<Sample>,
    /// Largest packet of the path when the rounds were over, where the stack tells.
    pub(crate) mtu: Option<u16>,
}

/// Measures all loads of a topology.
pub(crate) async fn run(plan: &Plan, topology: Topology) -> Result<Vec<Row>> {
    run_in(plan, topology, None).await
}

async fn run_in(
    plan: &Plan,
    topology: Topology,
    server_namespace: Option<String>,
) -> Result<Vec<Row>> {
    let mut contenders: Vec<Contender> = plan
        .rivals
        .iter()
        .filter(|rival| match topology {
            Topology::OneProcess => true,
            Topology::TwoProcesses => !rival.is_mixed(),
            Topology::NarrowPath | Topology::NarrowLoopback => matches!(
                rival,
                Rival::OursQuery | Rival::Published | Rival::QuinnAlone | Rival::Tonic
            ),
        })
        .map(|rival| Contender::new(*rival, topology, server_namespace.clone()))
        .collect();
    let mut rows = Vec::new();
    for cell in cells(plan, topology) {
        plan.progress(format_args!(
            "{}: {} B, {} in flight, {}",
            topology.title(),
            cell.payload_bytes,
            cell.in_flight,
            cell.handler.name()
        ));
        rows.extend(run_cell(plan, cell, &mut contenders).await?);
    }
    for contender in contenders {
        contender.end().await;
    }
    Ok(rows)
}

fn cells(plan: &Plan, topology: Topology) -> Vec<Cell> {
    let mut cells = Vec::new();
    for handler in [Handler::Async, Handler::Sync] {
        for &in_flight in &plan.in_flight {
            for &payload_bytes in &plan.payloads {
                let wanted = match topology {
                    Topology::OneProcess => true,
                    Topology::TwoProcesses => handler == Handler::Async,
                    Topology::NarrowPath | Topology::NarrowLoopback => {
                        handler == Handler::Async && in_flight == 32 && payload_bytes >= 100 * 1024
                    }
                };
                if wanted {
                    cells.push(Cell {
                        topology,
                        handler,
                        in_flight,
                        payload_bytes,
                    });
                }
            }
        }
    }
    cells
}

async fn run_cell(plan: &Plan, cell: Cell, contenders: &mut [Contender]) -> Result<Vec<Row>> {
    let load = Load {
        handler: cell.handler,
        in_flight: cell.in_flight,
        payload: Payload::new(cell.payload_bytes)?,
    };
    let mut rounds = vec![Vec::new(); contenders.len()];
    for round in 0..plan.rounds {
        for turn in 0..contenders.len() {
            // Whoever goes first in one round goes last in the next: heat and neighbours drift.
            let index = if round % 2 == 0 {
                turn
            } else {
                contenders.len() - 1 - turn
            };
            let contender = &mut contenders[index];
            if round == 0 {
                // Congestion window and packet size grow, pages and code become warm.
                let gentle = Load {
                    in_flight: load.in_flight.min(32),
                    ..load.clone()
                };
                // An error shows in the round that follows.
                let _ = contender.sample(&gentle, plan.duration / 4).await;
            }
            let result = contender.sample(&load, plan.duration).await;
            rounds[index].push(Outcome::of(result));
        }
    }
    let rows = contenders.iter().zip(rounds).map(|(contender, rounds)| {
        let measured: Vec<Sample> = rounds
            .iter()
            .filter_map(|r| r.measured().copied())
            .collect();
        Row {
            cell,
            rival: contender.rival,
            median: (measured.len() == rounds.len())
                .then(|| measure::median(&measured))
                .flatten(),
            rounds,
            mtu: contender.client.as_ref().and_then(|client| client.mtu()),
        }
    });
    Ok(rows.collect())
}

/// A rival with its server and client, started when first needed and anew after a failure.
#[derive(Debug)]
struct Contender {
    rival: Rival,
    topology: Topology,
    server_namespace: Option<String>,
    here: Option<Server>,
    elsewhere: Option<ServerProcess>,
    client: Option<Arc<Client>>,
}

impl Contender {
    fn new(rival: Rival, topology: Topology, server_namespace: Option<String>) -> Self {
        Self {
            rival,
            topology,
            server_namespace,
            here: None,
            elsewhere: None,
            client: None,
        }
    }

    async fn sample(&mut self, load: &Load, duration: Duration) -> Result<Sample> {
        let server = self.server().await.context("cannot start the server")?;
        let client = match &self.client {
            Some(client) => client.clone(),
            None => {
                let made = Arc::new(Client::connect(self.rival, &server, 0).await?);
                self.client.insert(made).clone()
            }
        };
        let mut pids = vec![std::process::id()];
        if let Some(process) = &self.elsewhere {
            pids.push(process.pid()?);
        }
        let result = measure::sample(&[client], load, duration, &pids).await;
        if result.is_err() {
            self.client = None;
        }
        result
    }

    async fn server(&mut self) -> Result<ServerInfo> {
        if let Some(server) = &self.here {
            return Ok(server.info.clone());
        }
        if let Some(process) = &self.elsewhere {
            return Ok(process.servers[0].clone());
        }
        if matches!(self.topology, Topology::TwoProcesses | Topology::NarrowPath) {
            let namespace = self.server_namespace.as_deref();
            let process = ServerProcess::start_in(namespace, self.rival, 0, 1, MAX_STREAMS).await?;
            let info = process.servers.first().context("no server")?.clone();
            self.elsewhere = Some(process);
            Ok(info)
        } else {
            let server = Server::start(self.rival, 0, MAX_STREAMS).await?;
            Ok(self.here.insert(server).info.clone())
        }
    }

    async fn end(self) {
        if let Some(client) = self.client.and_then(Arc::into_inner) {
            client.close().await;
        }
    }
}

/// Measures a path of 1500 bytes: a veth pair between two namespaces for root, and otherwise a
/// namespace whose loopback interface carries no more. Needs `ip`, and for the latter `unshare` and
/// the right to make a user namespace.
pub(crate) async fn run_narrow(plan: &Plan) -> Result<Vec<Row>> {
    match VethPair::new() {
        Ok(pair) => {
            let arguments = ["narrow", "--server-namespace", &pair.server];
            let command = process::command_in(&pair.client, &arguments)?;
            measure_narrow(plan, command, Topology::NarrowPath).await
        }
        Err(error) => {
            plan.progress(format_args!("no veth pair, loopback instead: {error:#}"));
            let program = std::env::current_exe()?;
            let mut command = Command::new("unshare");
            command
                .args(["--map-root-user", "--net", "sh", "-c"])
                .arg("ip link set lo mtu 1500 up && exec \"$@\"")
                .args(["sh".as_ref(), program.as_os_str(), "narrow".as_ref()])
                .kill_on_drop(true);
            measure_narrow(plan, command, Topology::NarrowLoopback).await
        }
    }
}

/// What the child that these start does.
pub(crate) async fn run_narrow_here(
    plan: &Plan,
    server_namespace: Option<String>,
) -> Result<Vec<Row>> {
    let topology = match server_namespace {
        Some(_) => Topology::NarrowPath,
        None => Topology::NarrowLoopback,
    };
    run_in(plan, topology, server_namespace).await
}

async fn measure_narrow(plan: &Plan, mut command: Command, topology: Topology) -> Result<Vec<Row>> {
    let rivals: Vec<String> = plan.rivals.iter().map(|rival| rival.id()).collect();
    command
        .args(["--rivals", &rivals.join(",")])
        .args(["--rounds", &plan.rounds.to_string()])
        .args(["--seconds", &plan.duration.as_secs_f64().to_string()]);
    plan.progress(format_args!("{}", topology.title()));
    process::read_result(command, NARROW_LIMIT)
        .await
        .context("cannot measure in network namespaces")
}

const NARROW_LIMIT: Duration = Duration::from_secs(900);
