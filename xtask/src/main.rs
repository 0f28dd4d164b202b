//! The recipes that people and CI share: `cargo xtask <recipe>`.
//!
//! A recipe needs nothing but cargo and a C++ compiler, and those that test the
//! Python package a CPython. What it needs beyond that, it installs into `target`.

mod bench;
mod cargo;
mod deny;
mod fuzz;
mod process;
mod py;
mod report;
mod rig;
mod suite;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::report::Report;

/// The recipes of this repository.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    recipe: Recipe,
}

#[derive(Debug, Subcommand)]
enum Recipe {
    /// Formatting and clippy, warnings denied.
    Check,
    /// Everything CI runs: check, tests, examples, demo, docs, py, fuzz-smoke.
    Test,
    /// Builds the Python package, installs it into a fresh environment, checks and tests it.
    Py(py::Options),
    /// Runs each fuzz target for a while, on the stable toolchain.
    FuzzSmoke(fuzz::Options),
    /// Runs the side-by-side benchmarks: ours, the published crate, and others, in turn.
    #[command(disable_help_flag = true)]
    Bench(bench::Options),
    /// What needs root or a long time: paths of real network namespaces.
    #[command(subcommand)]
    Rig(rig::Rig),
    /// Builds the documentation, warnings denied.
    Docs {
        /// Opens the result in a browser.
        #[arg(long)]
        open: bool,
    },
    /// Checks licences, sources and bans of every dependency with cargo-deny.
    Deny {
        /// Checks the advisory database too, which is fetched over the network.
        #[arg(long)]
        advisories: bool,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse().recipe) {
        Ok(()) => ExitCode::SUCCESS,
        // Not returned from `main`, which would add a backtrace where those are switched on.
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(recipe: Recipe) -> Result<()> {
    match recipe {
        Recipe::Check => Report::collect(suite::check),
        Recipe::Test => Report::collect(suite::test),
        Recipe::Py(options) => Report::collect(|report| py::py(report, &options)),
        Recipe::FuzzSmoke(options) => fuzz::smoke(&options),
        Recipe::Bench(options) => bench::bench(&options),
        Recipe::Rig(rig) => rig::run(rig),
        Recipe::Docs { open } => suite::docs(open),
        Recipe::Deny { advisories } => deny::check(advisories),
    }
}
