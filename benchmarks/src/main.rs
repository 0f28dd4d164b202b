//! Side-by-side benchmarks: ours, the published crate, and what one might take instead.
//!
//! Rivals run in turn, round by round within one run, so that what disturbs one disturbs all;
//! medians over the rounds are compared. `docs/benchmarks.md` says how to run it and what the
//! figures mean.
//!
//! - [`rivals`]: servers and clients; [`measure`]: one measurement; [`rpc`]: throughput and
//!   latency; [`setup`], [`wire`], [`point`], [`fanout`], [`idle`], [`python`]: the other sections;
//! - [`report`], [`failures`], [`plots`], [`chart`], [`targets`], [`machine`]: what is made of the figures;
//! - [`process`]: this program starts itself again where a process of its own is needed; [`veth`]:
//!   and a path of its own.

mod chart;
mod failures;
mod fanout;
mod idle;
mod machine;
mod measure;
mod plots;
mod point;
mod process;
mod python;
mod report;
mod rivals;
mod rpc;
mod setup;
mod targets;
mod veth;
mod wire;

use std::{fmt, fs, net::IpAddr, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context, Result, ensure};
use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::Serialize;

use crate::{
    point::Point,
    rivals::{Rival, ServerInfo},
    rpc::Topology,
};

/// Measures rivals side by side.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench", args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(Debug, Args)]
struct Options {
    /// A short run that shows that everything works; its figures mean little.
    #[arg(long)]
    quick: bool,
    /// Rounds of each measurement [default: 5; quick: 1].
    #[arg(long)]
    rounds: Option<usize>,
    /// Seconds of one measurement [default: 0.5; quick: 0.02].
    #[arg(long)]
    seconds: Option<f64>,
    /// Measures only these sections.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Section>,
    /// Measures only these rivals; ratios need `published`.
    #[arg(long, value_delimiter = ',')]
    rival: Vec<Rival>,
    /// Where the JSON file and the charts go.
    #[arg(long, default_value = "target/bench-results")]
    out: PathBuf,
}

/// What this program does when it starts itself.
#[derive(Debug, Subcommand)]
enum Part {
    #[command(hide = true)]
    Serve {
        #[arg(long)]
        rival: Rival,
        #[arg(long)]
        first_miner: u32,
        #[arg(long)]
        count: u32,
        #[arg(long)]
        max_streams: u32,
        #[arg(long)]
        host: Option<IpAddr>,
    },
    #[command(hide = true)]
    IdleClients {
        #[arg(long)]
        rival: Rival,
        #[arg(long)]
        server: String,
        #[arg(long)]
        first: u32,
        #[arg(long)]
        count: u32,
    },
    #[command(hide = true)]
    Point {
        #[arg(long)]
        rival: Rival,
        #[arg(long)]
        connections: usize,
        #[arg(long)]
        in_flight: usize,
        #[arg(long)]
        payload_bytes: usize,
        #[arg(long)]
        seconds: f64,
    },
    #[command(hide = true)]
    Narrow {
        #[arg(long)]
        server_namespace: Option<String>,
        #[arg(long, value_delimiter = ',')]
        rivals: Vec<Rival>,
        #[arg(long)]
        rounds: usize,
        #[arg(long)]
        seconds: f64,
    },
}

/// A group of measurements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Section {
    /// Throughput, latency and processor time in one process.
    Rpc,
    /// The same with client and server in a process each.
    TwoProcesses,
    /// Large payloads where packets are at most 1500 bytes.
    Narrow,
    /// From nothing to the first answer.
    Setup,
    /// Bytes on the wire.
    Wire,
    /// Peak memory with 32 requests of 1 MiB in flight.
    Memory,
    /// One request to each of many miners.
    Fanout,
    /// Memory of idle connections.
    Idle,
    /// How throughput and memory grow.
    Growth,
    /// Throughput and latency of the Python packages.
    Python,
}

/// How to measure.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    quick: bool,
    rounds: usize,
    duration: Duration,
    rivals: Vec<Rival>,
    payloads: Vec<usize>,
    in_flight: Vec<usize>,
    /// Connections made in one round of the setup section.
    connections: usize,
    /// Miners of the fan-out.
    miners: usize,
    idle_connections: usize,
}

impl Plan {
    fn new(quick: bool, rounds: usize, seconds: f64, mut rivals: Vec<Rival>) -> Result<Self> {
        ensure!(rounds > 0, "there must be at least one round");
        let duration = Duration::try_from_secs_f64(seconds).context("--seconds is out of range")?;
        rivals.sort_unstable();
        rivals.dedup();
        if rivals.is_empty() {
            rivals = Rival::ALL.to_vec();
        }
        Ok(Self {
            quick,
            rounds,
            duration,
            rivals,
            payloads: if quick {
                vec![1024, 100 * 1024]
            } else {
                targets::PAYLOADS.to_vec()
            },
            in_flight: if quick { vec![1, 32] } else { vec![1, 32, 256] },
            connections: if quick { 3 } else { 20 },
            miners: if quick { 32 } else { 256 },
            idle_connections: if quick { 40 } else { 1000 },
        })
    }

    /// Says what is being measured.
    fn progress(&self, what: fmt::Arguments<'_>) {
        eprintln!("measuring: {what}");
    }
}

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Results {
    machine: machine::Machine,
    rounds: usize,
    seconds: f64,
    rpc: Vec<rpc::Row>,
    two_processes: Vec<rpc::Row>,
    narrow: Vec<rpc::Row>,
    setup: Vec<setup::SetupRow>,
    wire: Vec<wire::WireRow>,
    memory: Vec<point::PointRow>,
    fanout: Vec<fanout::FanoutRow>,
    idle: Vec<idle::IdleRow>,
    growth: Vec<point::Series>,
    python: Vec<python::PythonRow>,
    targets: Vec<targets::Target>,
    /// Sections that could not be measured at all, and why.
    sections_failed: Vec<(String, String)>,
}

impl Results {
    fn empty(rounds: usize, seconds: f64) -> Self {
        Self {
            machine: machine::Machine::look(),
            rounds,
            seconds,
            rpc: Vec::new(),
            two_processes: Vec::new(),
            narrow: Vec::new(),
            setup: Vec::new(),
            wire: Vec::new(),
            memory: Vec::new(),
            fanout: Vec::new(),
            idle: Vec::new(),
            growth: Vec::new(),
            python: Vec::new(),
            targets: Vec::new(),
            sections_failed: Vec::new(),
        }
    }

    /// Keeps a section's result, or notes why there is none.
    fn keep<T: Default>(&mut self, section: &str, result: Result<T>) -> T {
        result.unwrap_or_else(|error| {
            self.sections_failed
                .push((section.into(), format!("{error:#}")));
            T::default()
        })
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.part {
        Some(part) => run_part(part).await,
        None => run(cli.options).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: Options) -> Result<()> {
    let quick = options.quick;
    let rounds = options.rounds.unwrap_or(if quick { 1 } else { 5 });
    let seconds = options.seconds.unwrap_or(if quick { 0.02 } else { 0.5 });
    let plan = Plan::new(quick, rounds, seconds, options.rival)?;
    let wanted = |section: Section| options.only.is_empty() || options.only.contains(&section);
    let mut results = Results::empty(rounds, seconds);
    if wanted(Section::Rpc) {
        results.rpc = results.keep("rpc", rpc::run(&plan, Topology::OneProcess).await);
    }
    if wanted(Section::TwoProcesses) {
        let found = rpc::run(&plan, Topology::TwoProcesses).await;
        results.two_processes = results.keep("two-processes", found);
    }
    if wanted(Section::Narrow) {
        results.narrow = results.keep("narrow", rpc::run_narrow(&plan).await);
    }
    if wanted(Section::Setup) {
        results.setup = results.keep("setup", setup::run(&plan).await);
    }
    if wanted(Section::Wire) {
        results.wire = results.keep("wire", wire::run(&plan).await);
    }
    if wanted(Section::Memory) {
        results.memory = results.keep("memory", point::run_memory(&plan).await);
    }
    if wanted(Section::Fanout) {
        results.fanout = results.keep("fanout", fanout::run(&plan).await);
    }
    if wanted(Section::Idle) {
        results.idle = results.keep("idle", idle::run(&plan).await);
    }
    if wanted(Section::Growth) {
        results.growth = results.keep("growth", point::run_growth(&plan).await);
    }
    if wanted(Section::Python) {
        results.python = python::run(&plan).await;
        results
            .sections_failed
            .extend(python::failures(&results.python));
    }
    results.targets = targets::check(&results);

    let tables = report::markdown(&results);
    println!("{tables}");
    let out = &options.out;
    fs::create_dir_all(out).with_context(|| format!("cannot create {}", out.display()))?;
    let json = serde_json::to_string_pretty(&results)?;
    let mut files = plots::all(&results);
    files.push(("results.json".into(), json));
    files.push(("results.md".into(), tables));
    for (name, content) in files {
        let path = out.join(name);
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
        eprintln!("wrote {}", path.display());
    }
    Ok(())
}

async fn run_part(part: Part) -> Result<()> {
    match part {
        Part::Serve {
            rival,
            first_miner,
            count,
            max_streams,
            host,
        } => {
            if let Some(host) = host {
                rivals::listen_on(host)?;
            }
            process::serve(rival, first_miner, count, max_streams).await
        }
        Part::IdleClients {
            rival,
            server,
            first,
            count,
        } => {
            let server: ServerInfo = serde_json::from_str(&server)?;
            idle::clients(rival, &server, first, count).await
        }
        Part::Point {
            rival,
            connections,
            in_flight,
            payload_bytes,
            seconds,
        } => {
            let point = Point {
                connections,
                in_flight,
                payload_bytes,
            };
            let duration = Duration::try_from_secs_f64(seconds)?;
            process::print_result(&point::run_here(rival, point, duration).await?)
        }
        Part::Narrow {
            server_namespace,
            rivals,
            rounds,
            seconds,
        } => {
            let plan = Plan::new(false, rounds, seconds, rivals)?;
            process::print_result(&rpc::run_narrow_here(&plan, server_namespace).await?)
        }
    }
}
