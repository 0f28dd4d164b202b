//! The side-by-side benchmarks, built for speed and run.

use std::process::Command;

use anyhow::{Context, Result};
use clap::Args;

use crate::cargo::{build, cargo, root};
use crate::process::run;
use crate::py::interpreters;

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
    match wanted(&options.arguments) {
        Python::Left => {}
        Python::Wanted => {
            command.envs(interpreters()?);
        }
        // The others need no CPython, and the report says what is missing.
        Python::AmongOthers => match interpreters() {
            Ok(interpreters) => {
                command.envs(interpreters);
            }
            Err(error) => eprintln!("warning: Python cannot be measured: {error:#}"),
        },
    }
    run(command.current_dir(root()).args(&options.arguments))
}

/// Whether the Python packages are measured.
#[derive(Debug, PartialEq, Eq)]
enum Python {
    /// Named with `--only`.
    Wanted,
    /// Everything is measured.
    AmongOthers,
    Left,
}

/// What the benchmarks' own arguments say.
fn wanted(arguments: &[String]) -> Python {
    let asks = |name: &str| arguments.iter().any(|argument| argument == name);
    if asks("--help") || asks("-h") {
        return Python::Left;
    }
    let mut sections = Vec::new();
    let mut arguments = arguments.iter().map(String::as_str);
    while let Some(argument) = arguments.next() {
        let listed = match argument.strip_prefix("--only") {
            Some("") => arguments.next(),
            Some(rest) => rest.strip_prefix('='),
            None => None,
        };
        sections.extend(listed.unwrap_or_default().split(','));
    }
    sections.retain(|section| !section.is_empty());
    match sections.as_slice() {
        [] => Python::AmongOthers,
        named if named.contains(&"python") => Python::Wanted,
        _ => Python::Left,
    }
}

/// The benchmarks' workspace.
pub(crate) const MANIFEST: &str = "benchmarks/Cargo.toml";

const TARGET: &str = "target/bench";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn python_is_prepared_where_it_is_measured() {
        let of = |line: &str| {
            let arguments: Vec<String> = line.split(' ').map(String::from).collect();
            wanted(&arguments)
        };
        assert_eq!(of("--quick"), Python::AmongOthers);
        assert_eq!(of("--only rpc,setup --rounds 3"), Python::Left);
        assert_eq!(of("--only rpc,python"), Python::Wanted);
        assert_eq!(of("--only rpc --only=python"), Python::Wanted);
        assert_eq!(of("--only python --help"), Python::Left);
    }
}
