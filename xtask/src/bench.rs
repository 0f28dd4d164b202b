//! The side-by-side benchmarks, built for speed and run.

use std::process::Command;

use anyhow::{Context, Result};
use clap::Args;

use crate::cargo::{build, cargo, root};
use crate::process::run;

/// Arguments of the benchmarks themselves.
#[derive(Debug, Default, Args)]
pub(crate) struct Options {
    /// Passed through: `--quick`, `--rounds N`, `--seconds S`, `--only SECTION`, `--rival NAME`, `--help`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Builds the benchmarks with a target folder of their own, and runs them.
///
/// They are a workspace apart, so that the rivals' dependencies stay out of the library's lock
/// file; a target folder of their own keeps a release build from waiting for other builds.
pub(crate) fn bench(options: &Options) -> Result<()> {
    let scope = ["build", "--release", "--locked", "--target-dir", TARGET];
    let executables = build(cargo(&scope).args(["--manifest-path", MANIFEST]))?;
    let program = executables
        .iter()
        .find(|made| made.kind == "bin")
        .context("cargo did not build the benchmarks")?;
    let mut command = Command::new(&program.path);
    run(command.current_dir(root()).args(&options.arguments))
}

/// The benchmarks' workspace.
pub(crate) const MANIFEST: &str = "benchmarks/Cargo.toml";

const TARGET: &str = "target/bench";
