//! What the benchmarks call: the optimised packages, each in an environment of its own.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::environment::{Environment, Packages, Stamp, Tools, listed};
use super::interpreter::{Build, Interpreter};
use super::published::Purpose;
use super::{bittensor, published, wheel};
use crate::cargo::root;
use crate::process::run;

/// Builds and installs what is missing.
///
/// Returns the interpreters, each with the variable by which the benchmarks know it.
pub(crate) fn interpreters() -> Result<Vec<(&'static str, PathBuf)>> {
    let build = Build::Stable;
    let folder = root().join("target/py").join(build.folder());
    let interpreter = Interpreter::find(build)?;
    println!("{interpreter}");
    let tools = Tools::prepare(&folder, interpreter)?;
    let made = wheel(&tools, &folder.join("bench-wheels"), "release", build)?;
    let ours = Environment::at(folder.join("bench-venv"));
    ours.make(&tools.interpreter)?;
    run(tools.packages.install(&ours).arg(&made))?;
    let others = [
        (
            "LIGHTNING_BENCH_PYTHON_PUBLISHED",
            published::prepare(&folder, &tools, Purpose::Benchmarks)?,
        ),
        (
            "LIGHTNING_BENCH_PYTHON_BITTENSOR",
            bittensor::prepare(&folder, &tools, &made)?,
        ),
        ("LIGHTNING_BENCH_PYTHON_HTTP", http(&folder, &tools)?),
    ];
    let all = [("LIGHTNING_BENCH_PYTHON_OURS", ours)]
        .into_iter()
        .chain(others);
    Ok(all
        .map(|(variable, environment)| (variable, environment.program("python")))
        .collect())
}

/// An environment for signed HTTP, made where there is none.
fn http(folder: &Path, tools: &Tools) -> Result<Environment> {
    let packages = folder.join("http-packages");
    let with = &tools.environment;
    let packages = Packages::fetch(packages, HTTP, with, &tools.interpreter)?;
    let environment = Environment::at(folder.join("http-venv"));
    let stamp = Stamp::new(environment.folder(), &tools.interpreter, &listed(HTTP)?);
    if !stamp.is_there() {
        environment.make(&tools.interpreter)?;
        run(&mut packages.install_all(&environment))?;
        stamp.leave()?;
    }
    Ok(environment)
}

const HTTP: &str = "benchmarks/python/requirements-http.txt";
