//! bittensor and this package, in an environment of their own.

use std::path::Path;

use anyhow::Result;

use super::environment::{Environment, Packages, Stamp, Tools, listed};
use crate::process::run;

/// Makes the environment where there is none, and installs the wheel into it.
///
/// Not the one of the other tests, which is made anew each time: bittensor brings fifty packages.
pub(super) fn prepare(folder: &Path, tools: &Tools, wheel: &Path) -> Result<Environment> {
    let packages = folder.join("bittensor-packages");
    let with = &tools.environment;
    let packages = Packages::fetch(packages, REQUIREMENTS, with, &tools.interpreter)?;
    let environment = Environment::at(folder.join("bittensor-venv"));
    let listed = listed(REQUIREMENTS)?;
    let stamp = Stamp::new(environment.folder(), &tools.interpreter, &listed);
    if !stamp.is_there() {
        environment.make(&tools.interpreter)?;
        run(&mut packages.install_all(&environment))?;
        stamp.leave()?;
    }
    let mut install = packages.install(&environment);
    run(install.args(["--force-reinstall", "--no-deps"]).arg(wheel))?;
    Ok(environment)
}

const REQUIREMENTS: &str = "crates/btlightning-py/tests/requirements-bittensor.txt";
