//! The command `lightning`: keys, a miner, a validator, and a demo of both.
//!
//! - `demo`: a miner and two validators on this machine, and what they do with each other;
//! - `keygen`, `inspect`: hotkeys, printed or in wallet files;
//! - `serve`: a miner that echoes requests or answers them with commands;
//! - `query`: requests to one or many miners.
//!
//! Results go to stdout, for people or with `--json` for programs; everything else goes to stderr.
//! The exit code is 0 when everything worked, 1 when something that was tried failed, 2 when the
//! command could not begin (arguments, files, keys, addresses), and 130 when a query was
//! interrupted.

mod axon;
mod demo;
mod inspect;
mod json;
mod keygen;
mod keys;
mod output;
mod query;
mod serve;
mod signal;
mod transport;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{ArgAction, Parser, Subcommand};
use tracing_subscriber::EnvFilter;

/// QUIC RPC between Bittensor validators and miners, from the command line.
#[derive(Debug, Parser)]
#[command(name = "lightning", version, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Print JSON in place of text and tables
    #[arg(long, global = true, help_heading = GENERAL)]
    json: bool,
    /// Log more: -v info, -vv debug, -vvv trace; the variable RUST_LOG goes first
    #[arg(short, long, global = true, action = ArgAction::Count, help_heading = GENERAL)]
    verbose: u8,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a miner and two validators here and show what they do
    Demo,
    /// Make a hotkey, or restore one from its phrase or seed
    Keygen(keygen::KeygenArgs),
    /// Describe a hotkey file
    Inspect(inspect::InspectArgs),
    /// Be a miner: answer requests by echoing them or by running commands
    Serve(Box<serve::ServeArgs>),
    /// Be a validator: send a request to one or many miners
    Query(Box<query::QueryArgs>),
    /// The demo's miner, which the demo starts
    #[command(hide = true)]
    DemoMiner,
}

/// How a command ended that could begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// Everything worked.
    Done,
    /// Something that was tried failed, and the output says what.
    Failed,
    /// A signal ended the command before it was done.
    Interrupted,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    start_logging(&cli);
    match cli.run() {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Failed) => ExitCode::from(1),
        Ok(Outcome::Interrupted) => ExitCode::from(130),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

impl Cli {
    fn run(self) -> Result<Outcome> {
        match self.command {
            Command::Demo => demo::run(self.json),
            Command::Keygen(args) => keygen::run(&args, self.json),
            Command::Inspect(args) => inspect::run(&args, self.json),
            Command::Serve(args) => serve::run(&args, self.json),
            Command::Query(args) => query::run(&args, self.json),
            Command::DemoMiner => demo::run_miner(),
        }
    }
}

/// Logs to stderr. A miner's log is its only voice; elsewhere the output says what went wrong.
fn start_logging(cli: &Cli) {
    let level = match (cli.verbose, &cli.command) {
        (0, Command::Serve(_)) => "warn",
        (0, _) => "error",
        (1, _) => "info",
        (2, _) => "debug",
        (_, _) => "trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .init();
}

/// Makes the async runtime of the commands that have to do with the network.
fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Runtime::new().context("cannot start the async runtime")
}

const GENERAL: &str = "General";

const EXIT_CODES: &str = "\
Exit codes:
  0    everything worked
  1    something that was tried failed: a request, a step of the demo
  2    the command could not begin: arguments, files, keys, addresses
  130  a query was interrupted";
